//! Warpgroup instructions against plain products and against `mma.sync`, with the layouts of the PTX ISA written down.
//!
//! Where the environment variable `PTXAS` names NVIDIA's assembler, it takes every kernel.

mod products;
mod refusals;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu, Shape};
use ptx_emulator::report::Report;

/// Registers of every kernel: `%f` accumulates, `%r` holds A, `%d0` and `%d1` are free for descriptors.
const HEAD: &str = ".version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 tile[];
.visible .entry k(.param .u64 image, .param .u64 a, .param .u64 c, .param .u64 out, .param .u32 words) {
    .reg .pred %p<4>; .reg .b32 %t, %i, %n, %x, %s; .reg .b64 %at, %g, %d0, %d1;
    .reg .f32 %f<128>; .reg .b32 %r<128>;
    mov.u32 %t, %tid.x;
";

/// Fills the shared memory with the image, as it is.
const COPY: &str = "
    ld.param.u64 %g, [image]; ld.param.u32 %n, [words]; mov.u32 %i, %t; mov.u32 %s, tile;
COPY:
    setp.ge.u32 %p0, %i, %n;
    @%p0 bra COPIED;
    mad.wide.u32 %at, %i, 4, %g; ld.global.b32 %x, [%at];
    shl.b32 %i, %i, 2; add.u32 %s, %s, %i; st.shared.b32 [%s], %x; sub.u32 %s, %s, %i; shr.u32 %i, %i, 2;
    add.u32 %i, %i, 128;
    bra COPY;
COPIED:
";

/// What makes the image readable.
const PUBLISH: &str = "    fence.proxy.async;\n    bar.sync 0;\n    wgmma.fence.sync.aligned;\n";

const FINISH: &str = "    wgmma.commit_group.sync.aligned;\n    wgmma.wait_group.sync.aligned 0;\n";

/// Loads a thread's accumulators from `c`.
fn load(count: usize) -> String {
    let start = format!("ld.param.u64 %g, [c]; mad.wide.u32 %g, %t, {}, %g;\n", 4 * count);
    let loads = (0..count).map(|i| format!("ld.global.f32 %f{i}, [%g+{}];\n", 4 * i));
    start + &loads.collect::<String>()
}

/// Stores a thread's accumulators in `out`.
fn store(count: usize) -> String {
    let start = format!("ld.param.u64 %g, [out]; mad.wide.u32 %g, %t, {}, %g;\n", 4 * count);
    let stores = (0..count).map(|i| format!("st.global.f32 [%g+{}], %f{i};\n", 4 * i));
    start + &stores.collect::<String>()
}

fn list(name: &str, range: std::ops::Range<usize>) -> String {
    let names: Vec<String> = range.map(|i| format!("%{name}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

fn module(body: &str) -> String {
    format!("{HEAD}{body}    ret;\n}}\n")
}

/// ptxas takes a kernel, if there is one.
fn assemble(text: &str) {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let Some(ptxas) = std::env::var_os("PTXAS") else { return };
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = format!("ptx-warpgroup-{}-{number}.ptx", std::process::id());
    let file = std::env::temp_dir().join(file);
    std::fs::write(&file, text).unwrap();
    let null = if cfg!(windows) { "NUL" } else { "/dev/null" };
    let output = Command::new(ptxas).args(["-arch=sm_90a", "-o", null]).arg(&file).output();
    let output = output.unwrap();
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
}

/// What a kernel's launch with 128 threads finds in memory.
#[derive(Default)]
struct Inputs {
    /// Words of shared memory.
    image: Vec<u32>,
    /// Words of A, as many a thread as the kernel takes.
    a: Vec<u32>,
    /// Accumulators of each thread.
    c: Vec<f32>,
}

/// Runs a kernel; `count` accumulators a thread, its counts and what it broke.
fn try_run(text: &str, inputs: &Inputs, count: usize) -> (Vec<f32>, Counts, Option<Report>) {
    assemble(text);
    let gpu = Gpu::new(90);
    let module = gpu.load(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let pointers = [&inputs.image, &inputs.a].map(|words| gpu.upload(words).unwrap());
    let c = gpu.upload(&inputs.c).unwrap();
    let out = gpu.upload(&vec![0f32; 128 * count]).unwrap();
    let words = inputs.image.len() as u32;
    let args = [pointers[0], pointers[1], c, out].map(Arg::U64);
    let args = [&args[..], &[Arg::U32(words)]].concat();
    let shape =
        Shape { grid: 1.into(), block: 128.into(), shared: 4 * words.max(4), cooperative: false };
    let outcome = gpu.try_launch(&module, "k", &shape, &args).unwrap();
    (gpu.download(out, 128 * count).unwrap(), outcome.counts, outcome.report)
}

fn run(text: &str, inputs: &Inputs, count: usize) -> (Vec<f32>, Counts) {
    let (out, counts, report) = try_run(text, inputs, count);
    if let Some(report) = report {
        panic!("{report}\n{text}");
    }
    (out, counts)
}
