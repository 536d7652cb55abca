//! What is refused when a module is loaded.

use ptx_emulator::gpu::Gpu;

use super::*;

fn message(target: u32, text: &str) -> String {
    let Err(error) = Gpu::new(target).load(text).map(|_| ()) else { panic!("accepted: {text}") };
    error.to_string()
}

/// Instructions that ptxas refuses, and those that are not implemented.
#[test]
fn instructions() {
    const D: &str = "{%f0, %f1, %f2, %f3}";
    let mma =
        |types: &str, operands: &str| format!("wgmma.mma_async.sync.aligned.{types} {operands};");
    let bf16 = "m64n8k16.f32.bf16.bf16";
    let rows = [
        (mma(bf16, &format!("{D}, %d0, %d1, %p0, 1, 1, 1, 0")), "not K-major"),
        (mma(bf16, &format!("{D}, %d0, %d1, %p0, 1, 1, 0, 1")), "not K-major"),
        (mma(bf16, &format!("{D}, %d0, %d1, %p0, 1, 1, 0, 2")), "0 or 1"),
        (mma(bf16, &format!("{D}, %d0, %d1, %p0, 1, 0, 0, 0")), "1 or -1"),
        (mma(bf16, &format!("{D}, %d0, %d1, 2, 1, 1, 0, 0")), "not a predicate"),
        (mma(bf16, &format!("{D}, %d0, %d1, %p0, 1, 1")), "8 operands expected"),
        (mma(bf16, &format!("{D}, {{%r0, %r1, %r2, %r3}}, %d1, %p0, 1, 1, 0, 0")), "7 operands"),
        (
            mma(bf16, &format!("{D}, {{%r0, %r1}}, %d1, %p0, 1, 1, 0")),
            "4 registers expected, got 2",
        ),
        (mma(bf16, &format!("{D}, %r0, %d1, %p0, 1, 1, 0, 0")), "%r0"),
        (mma(bf16, "{%f0, %f1}, %d0, %d1, %p0, 1, 1, 0, 0"), "4 registers expected, got 2"),
        (mma(bf16, "{%f0, %f1, %f2, _}, %d0, %d1, %p0, 1, 1, 0, 0"), "destination"),
        (mma("m64n12k16.f32.bf16.bf16", &format!("{D}, %d0, %d1, 1, 1, 1, 0, 0")), ".m64nNkK"),
        (mma("m64n264k16.f32.bf16.bf16", &format!("{D}, %d0, %d1, 1, 1, 1, 0, 0")), ".m64nNkK"),
        (mma("m64n08k16.f32.bf16.bf16", &format!("{D}, %d0, %d1, 1, 1, 1, 0, 0")), ".m64nNkK"),
        (mma("m64n8k8.f32.bf16.bf16", &format!("{D}, %d0, %d1, 1, 1, 1, 0, 0")), "does not exist"),
        (mma("m64n8k16.f32.bf16.f16", &format!("{D}, %d0, %d1, 1, 1, 1, 0, 0")), "same type"),
        (mma("m64n8k16.f16.f16.f16", "{%r0, %r1}, %d0, %d1, 1, 1, 1, 0, 0"), "expected .f32, .s32"),
        (
            mma("m64n8k16.satfinite.f32.f16.f16", &format!("{D}, %d0, %d1, 1, 1, 1, 0, 0")),
            "sums in s32",
        ),
        (mma("m64n8k32.s32.s8.s8", &format!("{D}, %d0, %d1, 1, 1, 1")), "4 operands"),
        (mma("m64n40k32.s32.s8.s8", &format!("{D}, %d0, %d1, 1")), "does not exist"),
        (mma("m64n8k256.s32.b1.s8", &format!("{D}, %d0, %d1, 1")), "does not exist"),
        (
            mma("m64n8k256.satfinite.s32.b1.b1.and.popc", &format!("{D}, %d0, %d1, 1")),
            "does not exist",
        ),
        (mma("m64n8k256.s32.b1.b1.xor.popc", &format!("{D}, %d0, %d1, 1")), "expected .and"),
        (mma("m64n8k32.f32.e4m3.e4m3", &format!("{D}, %d0, %d1, 1, 1, 1")), "expected .f16"),
        (mma("m64n8k8.f32.tf32.tf32", &format!("{D}, %d0, %d1, 1, 1, 1, 0, 0")), "6 operands"),
        ("wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16;".into(), "sparse"),
        ("wgmma.fence.sync;".into(), "expected .aligned"),
        ("wgmma.wait_group.sync.aligned %r0;".into(), "not a constant"),
        ("wgmma.wait_group.sync.aligned -1;".into(), "not a constant"),
        ("wgmma.wait_group.sync.aligned;".into(), "1 operands expected"),
        ("fence.proxy.alias;".into(), "expected .async"),
        ("fence.proxy.async.shared;".into(), ".shared"),
    ];
    let line = HEAD.lines().count() + 1;
    for (instruction, expected) in rows {
        let said = message(90, &module(&format!("{instruction}\n")));
        let place = format!("line {line}, column 1:");
        assert!(said.starts_with(&place) && said.contains(expected), "{instruction}\n{said}");
    }
}

/// They exist on sm_90a alone.
#[test]
fn targets() {
    let text = |target: &str, instruction: &str| {
        format!(
            ".version 8.0\n.target {target}\n.address_size 64\n.entry k() {{ {instruction} ret; }}"
        )
    };
    let fence = "wgmma.fence.sync.aligned;";
    assert!(
        message(90, &text("sm_90", fence)).contains("needs .target sm_90a, the module's is sm_90")
    );
    assert!(
        message(80, &text("sm_90a", fence))
            .contains("the module is for sm_90, the device is sm_80")
    );
    assert!(message(100, &text("sm_90a", fence)).contains("sm_90a does not run on sm_100"));
    assert!(message(80, &text("sm_80", "fence.proxy.async;")).contains("sm_90"));
    Gpu::new(90).load(&text("sm_90a", fence)).unwrap();
    Gpu::new(90).load(&text("sm_90", "fence.proxy.async;")).unwrap();
    Gpu::new(90).load(&text("sm_80", "")).unwrap();
}
