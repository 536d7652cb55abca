//! What is refused: instructions when a module is loaded, and tensor maps when they are made.

use ptx_emulator::tensor_map::Refusal;

use super::*;

#[test]
fn instructions() {
    let rows = [
        ("mbarrier.init.shared::cta.b32 [%r0], 1;", "expected .b64"),
        ("mbarrier.init.shared::cluster.b64 [%r0], 1;", "own block"),
        ("mbarrier.arrive.shared::cluster.b64 %d0, [%r0];", "no state"),
        ("mbarrier.arrive.noComplete.shared::cta.b64 %d0, [%r0], 1;", "noComplete"),
        ("mbarrier.arrive.acquire.cta.shared::cta.b64 _, [%r0];", "expected .b64"),
        ("mbarrier.pending_count.b64 %r0, %d0;", "expected .init"),
        ("mbarrier.try_wait.parity.shared::cta.b64 %p0, [%r0], %d0;", "%d0"),
        ("mbarrier.try_wait.shared::cta.b64 %p0, [%r0], %r1;", "%r1"),
        ("mbarrier.test_wait.parity.shared::cta.b64 %p0, [%r0], 0, 5;", "3 operands"),
        ("mbarrier.expect_tx.shared::cta.b64 [%r0], 5;", "expected .relaxed"),
        ("mapa.u64 %d0, %d1, 1;", "not implemented"),
        ("setmaxnreg.inc.sync.aligned.u32 20;", "multiple of 8"),
        ("setmaxnreg.inc.sync.aligned.u32 %r0;", "multiple of 8"),
        ("barrier.cluster.wait.release;", "release"),
        ("barrier.cluster.sync;", "expected .arrive"),
        ("fence.mbarrier_init.release.gpu;", "expected .cluster"),
        ("griddepcontrol.stop;", "expected .launch_dependents"),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r0], [%d0, {%r1}], [%r2];",
            "2 numbers",
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r0], [%d0, {%r1, %r2}], [%r2];",
            "im2col",
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%d0], [%r2];",
            "a tensor map and a place",
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r0], [%d0, {%r1, %r2}], [%r2];",
            "4 operands",
        ),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%d0], 24, [%r2];",
            "multiple of 16",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d0], [%r0], 16;",
            "cp without .async",
        ),
        ("cp.async.bulk.wait_group %r0;", "not a constant"),
        ("mov.u32 %r0, %is_explicit_cluster;", "predicate"),
    ];
    for (instruction, expected) in rows {
        let text = module("", "", instruction);
        let said = match Gpu::new(90).load(&text) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted: {instruction}"),
        };
        assert!(said.contains(expected), "{instruction}\n{said}");
    }
}

/// They exist since sm_90, or on sm_90a alone.
#[test]
fn targets() {
    let text = |target: &str, instruction: &str| {
        format!(
            ".version 8.3\n.target {target}\n.address_size 64\n.entry k() {{ .reg .b32 %r<4>; .reg .b64 %d<4>; {instruction} ret; }}"
        )
    };
    let rows = [
        "mbarrier.init.shared::cta.b64 [%r0], 1;",
        "mapa.shared::cluster.u32 %r0, %r1, 1;",
        "barrier.cluster.arrive;",
        "cp.async.bulk.commit_group;",
        "fence.mbarrier_init.release.cluster;",
        "griddepcontrol.wait;",
        "prefetch.tensormap [%d0];",
    ];
    for instruction in rows {
        let Err(error) = Gpu::new(90).load(&text("sm_80", instruction)) else {
            panic!("accepted: {instruction}")
        };
        assert!(error.to_string().contains("needs .target sm_90"), "{error}");
        Gpu::new(90).load(&text("sm_90", instruction)).unwrap();
        assemble(&text("sm_90a", instruction));
    }
    let registers = "setmaxnreg.dec.sync.aligned.u32 24;";
    let Err(error) = Gpu::new(90).load(&text("sm_90", registers)) else { panic!("accepted") };
    assert!(error.to_string().contains("needs .target sm_90a"), "{error}");
}

type Change = fn(&mut Tiled);

/// The rules of the driver's manual.
#[test]
fn maps() {
    let right = Tiled {
        element: 9,
        rank: 2,
        address: 0x1000,
        dims: vec![100, 7],
        strides: vec![208],
        sizes: vec![64, 4],
        steps: vec![1, 1],
        interleave: 0,
        swizzle: 3,
        promotion: 3,
        fill: 0,
    };
    right.map().unwrap();
    let change = |change: Change| {
        let mut tiled = right.clone();
        change(&mut tiled);
        tiled.map().unwrap_err()
    };
    let invalid: [(Change, &str); 14] = [
        (|t| t.element = 16, "data type"),
        (|t| t.rank = 0, "rank"),
        (|t| t.address += 8, "multiple of 16"),
        (|t| t.dims[1] = 0, "dimension"),
        (|t| t.dims[0] = (1 << 32) + 1, "dimension"),
        (|t| t.strides[0] = 200, "stride"),
        (|t| t.strides[0] = 1 << 40, "stride"),
        (|t| t.sizes[1] = 257, "box"),
        (|t| t.sizes[1] = 0, "box"),
        (|t| t.sizes[0] = 63, "multiple of 16"),
        (|t| t.sizes[0] = 128, "longer"),
        (|t| t.steps[1] = 9, "element stride"),
        (|t| t.swizzle = 7, "swizzle"),
        (|t| t.promotion = 4, "unknown"),
    ];
    for (make, word) in invalid {
        match change(make) {
            Refusal::Invalid(what) => assert!(what.contains(word), "{what}"),
            other => panic!("{word}: {other}"),
        }
    }
    let missing: [Change; 4] =
        [|t| t.interleave = 1, |t| t.fill = 1, |t| t.steps[0] = 2, |t| t.sizes[0] = 32];
    for make in missing {
        assert!(matches!(change(make), Refusal::NotImplemented(_)));
    }
}
