//! The engine itself: divergence, calls, barriers, scheduling.

use ptx_emulator::gpu::{Arg, Error, Gpu};
use ptx_emulator::report::Check;

const HEAD: &str = ".version 7.0\n.target sm_80\n.address_size 64\n";

fn run(body: &str, block: u32, out: usize) -> Result<Vec<u32>, Error> {
    let gpu = Gpu::new(80);
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 out) {{
            .reg .pred %p<8>; .reg .b32 %r<16>; .reg .b64 %rd<8>;
            ld.param.u64 %rd1, [out];
            cvta.to.global.u64 %rd1, %rd1;
            {body}
        }}"
    );
    let module = gpu.load(&text)?;
    let address = gpu.upload(&vec![0u32; out])?;
    gpu.launch(&module, "k", 1, block, &[Arg::U64(address)])?;
    gpu.download(address, out)
}

#[test]
fn adds() {
    let out = run("mov.u32 %r1, 3; add.u32 %r2, %r1, 4; st.global.u32 [%rd1], %r2; ret;", 1, 1);
    assert_eq!(out.unwrap(), [7]);
}

#[test]
fn uninitialized_register() {
    match run("add.u32 %r2, %r1, 4; st.global.u32 [%rd1], %r2; ret;", 1, 1) {
        Err(Error::Report(report)) => assert_eq!(report.check, Check::Uninitialized),
        other => panic!("{other:?}"),
    }
}
