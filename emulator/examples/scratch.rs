use ptx_emulator::gpu::*;
use std::time::Instant;
fn main() {
    let mut gpu = Gpu::new(80);
    gpu.options.threads = std::env::args().nth(1).map_or(1, |s| s.parse().unwrap());
    let body = "add.u32 %r2,%r2,%r1; xor.b32 %r3,%r3,%r2; mad.lo.u32 %r2,%r2,%r1,%r3; shl.b32 %r4,%r2,3; and.b32 %r3,%r3,%r4;".repeat(8);
    let text = format!(".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out) {{
        .reg .pred %p<8>; .reg .b32 %r<16>; .reg .b64 %rd<8>;
        ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x; mov.u32 %r2, 1; mov.u32 %r3, 5; mov.u32 %r5, 0;
        L: {body} add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 200; @%p1 bra L;
        mov.u32 %r6, %ctaid.x; mov.u32 %r7, %ntid.x; mad.lo.u32 %r6, %r6, %r7, %r1;
        mad.wide.u32 %rd1, %r6, 4, %rd1;
        st.global.u32 [%rd1], %r3; ret; }}
    .visible .entry copy(.param .u64 out, .param .u64 from) {{
        .reg .pred %p<8>; .reg .b32 %r<16>; .reg .b64 %rd<8>;
        ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [from];
        mov.u32 %r1, %tid.x; mov.u32 %r6, %ctaid.x; mov.u32 %r7, %ntid.x; mad.lo.u32 %r6, %r6, %r7, %r1;
        mad.wide.u32 %rd1, %r6, 4, %rd1; mad.wide.u32 %rd2, %r6, 4, %rd2;
        ld.global.u32 %r3, [%rd2]; st.global.u32 [%rd1], %r3; ret; }}
    .visible .entry sh(.param .u64 out) {{
        .reg .pred %p<8>; .reg .b32 %r<16>; .reg .b64 %rd<8>; .shared .align 16 .b8 s[4096];
        mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.u32 %r2, %r2, %r3; mov.u32 %r5, 0;
        st.shared.u32 [%r2], %r1;
        L: ld.shared.u32 %r4, [%r2]; st.shared.u32 [%r2], %r4; add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 200; @%p1 bra L;
        ret; }}");
    let m = gpu.load(&text).unwrap();
    let n = 256 * 256;
    let out = gpu.upload(&vec![0u32; n]).unwrap();
    let from = gpu.upload(&vec![7u32; n]).unwrap();
    for _ in 0..3 {
        let t = Instant::now();
        let c = gpu.launch(&m, "k", 256, 256, &[Arg::U64(out)]).unwrap();
        let s = t.elapsed().as_secs_f64();
        println!(
            "alu {} thread-instr {:.3}s {:.0} M/s",
            c.thread_instructions,
            s,
            c.thread_instructions as f64 / s / 1e6
        );
        let t = Instant::now();
        let c = gpu.launch(&m, "copy", 256, 256, &[Arg::U64(out), Arg::U64(from)]).unwrap();
        let s = t.elapsed().as_secs_f64();
        println!(
            "copy {:.1} ns per warp load+store, {:.0} M/s",
            s * 1e9 / (n as f64 / 32.0),
            c.thread_instructions as f64 / s / 1e6
        );
        let t = Instant::now();
        let c = gpu.launch(&m, "sh", 256, 256, &[Arg::U64(out)]).unwrap();
        let s = t.elapsed().as_secs_f64();
        println!(
            "shared {:.1} ns per warp access, {:.0} M/s",
            s * 1e9 / (c.shared.loads.requests + c.shared.stores.requests) as f64,
            c.thread_instructions as f64 / s / 1e6
        );
    }
}
