//! How fast kernels are executed, with every check on. The unit is a thread-instruction: an instruction of one thread.
//!
//! `cargo bench -p ptx-emulator`; one host thread, except where the name says otherwise.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emulator::engine::{Instance, Program};
use ptx_emulator::gpu::{Arg, Gpu, Shape};

const HEAD: &str = ".version 7.8\n.target sm_80\n.address_size 64\n";

fn gpu(threads: usize) -> Gpu {
    let mut gpu = Gpu::new(80);
    gpu.options.threads = threads;
    gpu
}

/// A kernel of 32 blocks of 8 warps that executes `body` 40 times in each of 100 rounds.
fn repeated(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k() {{
        .reg .pred %p<4>; .reg .b32 %r<8>, %h<4>; .reg .b64 %rd<4>; .reg .f32 %f<4>; .reg .f64 %d<4>;
        .shared .align 16 .b8 s[1024];
        mov.u32 %r1, %tid.x; add.u32 %r1, %r1, 1; mov.u32 %r2, 1; mov.u32 %r3, 5; mov.u32 %r4, 0;
        mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f3F7D70A4; mov.f32 %f3, 0f3F000000;
        mov.f64 %d1, 0d3FF0000000000000; mov.f64 %d2, 0d3FEFAE147AE147AE; mov.f64 %d3, 0d3FD0000000000000;
        mov.b32 %h1, 0x3C003C00; mov.b32 %h2, 0x3BF03BF0; mov.b32 %h3, 0x38003400;
        mov.u32 %r5, s; mov.u32 %r6, %tid.x; mad.lo.u32 %r5, %r6, 4, %r5; st.shared.u32 [%r5], %r1;
        again:
        {}
        add.u32 %r4, %r4, 1; setp.lt.u32 %p1, %r4, 100; @%p1 bra again;
        ret; }}",
        body.repeat(40)
    )
}

fn instructions(c: &mut Criterion) {
    let mut group = c.benchmark_group("instructions");
    let kinds = [
        ("add.u32", "add.u32 %r2, %r2, %r1;"),
        ("mad.lo.u32", "mad.lo.u32 %r2, %r2, %r1, %r3;"),
        ("lop3.b32", "lop3.b32 %r2, %r2, %r1, %r3, 0x96;"),
        ("setp.lt.u32", "setp.lt.u32 %p2, %r2, %r1;"),
        ("fma.rn.f32", "fma.rn.f32 %f1, %f1, %f2, %f3;"),
        ("ex2.approx.f32", "ex2.approx.f32 %f1, %f2;"),
        ("fma.rn.f64", "fma.rn.f64 %d1, %d1, %d2, %d3;"),
        ("fma.rn.f16x2", "fma.rn.f16x2 %h1, %h1, %h2, %h3;"),
        ("cvt.rn.bf16x2.f32", "cvt.rn.bf16x2.f32 %h1, %f1, %f2;"),
        ("shfl.sync.bfly", "shfl.sync.bfly.b32 %r2, %r2, 1, 31, -1;"),
        ("ld.shared, st.shared", "ld.shared.u32 %r2, [%r5]; st.shared.u32 [%r5], %r2;"),
    ];
    for (name, body) in kinds {
        let gpu = gpu(1);
        let module = gpu.load(&repeated(body)).unwrap();
        let run = || gpu.launch(&module, "k", 32, 256, &[]).unwrap();
        group.throughput(Throughput::Elements(run().thread_instructions));
        group.bench_function(name, |b| b.iter(run));
    }
    let gpu = gpu(0);
    let module = gpu
        .load(&repeated("mad.lo.u32 %r2, %r2, %r1, %r3; fma.rn.f32 %f1, %f1, %f2, %f3;"))
        .unwrap();
    let run = || gpu.launch(&module, "k", 32, 256, &[]).unwrap();
    group.throughput(Throughput::Elements(run().thread_instructions));
    group.bench_function("mad and fma, all host threads", |b| b.iter(run));
    group.finish();
}

/// Copies 1 MiB, one word a thread.
fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory");
    let text = format!(
        "{HEAD}.visible .entry copy(.param .u64 to, .param .u64 from) {{
        .reg .b32 %r<4>; .reg .b64 %to, %from;
        mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r1, %r2, 256, %r1;
        ld.param.u64 %to, [to]; ld.param.u64 %from, [from];
        mad.wide.u32 %to, %r1, 4, %to; mad.wide.u32 %from, %r1, 4, %from;
        ld.global.u32 %r3, [%from]; st.global.u32 [%to], %r3; ret; }}
        .visible .entry nothing() {{ ret; }}"
    );
    let gpu = gpu(1);
    let module = gpu.load(&text).unwrap();
    let words: Vec<u32> = (0..1 << 18).collect();
    let (from, to) = (gpu.upload(&words).unwrap(), gpu.upload(&words).unwrap());
    group.throughput(Throughput::Bytes(2 << 20));
    group.bench_function("copy of 1 MiB", |b| {
        b.iter(|| gpu.launch(&module, "copy", 1024, 256, &[Arg::U64(to), Arg::U64(from)]).unwrap());
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("launch of one empty block", |b| {
        b.iter(|| gpu.launch(&module, "nothing", 1, 32, &[]).unwrap());
    });
    group.finish();
}

/// 512 x 512 x 512 in bf16 on matrix instructions, with the zoo's kernel.
fn matrix(c: &mut Criterion) {
    let mut group = c.benchmark_group("matrix");
    group.sample_size(10);
    let text = include_str!("../tests/kernels/matmul_bf16.ptx");
    let n = 512usize;
    // Every value differs, so that nothing is multiplied by zero.
    let values: Vec<u16> = (0..n * n).map(|i| 0x3F80 + (i * 37 % 101) as u16).collect();
    for (name, threads) in [("bf16 512, one host thread", 1), ("bf16 512, all host threads", 0)] {
        let gpu = gpu(threads);
        let module: Instance = gpu.load(text).unwrap();
        let (a, b) = (gpu.upload(&values).unwrap(), gpu.upload(&values).unwrap());
        let product = gpu.upload(&vec![0f32; n * n]).unwrap();
        let size = Arg::U32(n as u32);
        let args = [Arg::U64(a), Arg::U64(b), Arg::U64(product), size, size, size, size, size];
        let tiles = (n / 64) as u32;
        let shape =
            Shape { grid: [tiles, tiles].into(), block: 128.into(), shared: 0, cooperative: false };
        let run = || gpu.launch_shaped(&module, "matmul", &shape, &args).unwrap();
        group.throughput(Throughput::Elements(run().tensor_multiply_adds));
        group.bench_function(name, |b| b.iter(run));
    }
    group.finish();
}

/// Parsing and decoding, in lines.
fn frontend(c: &mut Criterion) {
    let mut group = c.benchmark_group("frontend");
    let text = repeated(&"add.u32 %r2, %r2, %r1;\nfma.rn.f32 %f1, %f1, %f2, %f3;\n".repeat(250));
    group.throughput(Throughput::Elements(text.lines().count() as u64));
    group.bench_function("load of 20,000 lines", |b| {
        b.iter(|| Program::load(black_box(&text), 80).unwrap());
    });
    group.finish();
}

criterion_group!(benches, instructions, memory, matrix, frontend);
criterion_main!(benches);
