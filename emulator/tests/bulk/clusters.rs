//! Clusters of blocks.

use super::rings::{Parts, Product, SHARED, ring};
use super::*;

/// Two blocks: each has tiles of A of its own, fetches half of B, and gives it to both.
const PAIR: Parts = Parts {
    directives: ".reqntid 160 .reqnctapercluster 2, 1, 1",
    readers: 2,
    meet: "barrier.cluster.arrive.release.aligned;\n    barrier.cluster.wait.acquire.aligned;",
    first: "mov.u32 %r10, %ctaid.x; mov.u32 %r11, 2; mov.u32 %r30, %cluster_ctarank; shl.b32 %r31, %r30, 5; shl.b32 %r32, %r30, 12; mov.b16 %h0, 3;",
    fetch_b: "add.u32 %r24, %r24, %r32;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r24], [%d1, {%r25, %r31}], [%r21], %h0;",
    give_back: "mapa.shared::cluster.u32 %r33, %r22, 0; mapa.shared::cluster.u32 %r34, %r22, 1;
    @%p3 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r33];
    @%p3 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r34];",
};

/// The producer's threads meet again at the end, in one warp.
fn pair() -> String {
    ring(&PAIR)
}

#[test]
fn multicast() {
    let product = Product::new(4, 5, 32);
    let counts = pass(&product.gpu, &pair(), (2, 160, SHARED), &product.args());
    product.is_right();
    // A once for each tile, B once for both blocks.
    assert_eq!(counts.global.loads.bytes, 8192 * (4 * 5 + 2 * 5));
    assert_eq!(counts.async_copy_bytes, 8192 * (4 * 5 + 4 * 5));
    assert_eq!(counts.blocks, 2);
}

#[test]
fn faults() {
    let product = Product::new(4, 5, 32);
    let text = pair();
    let check = |from: &str, to: &str, expected: (Check, &str, &[&str])| {
        assert!(text.contains(from), "{from}");
        fail(&product.gpu, &text.replace(from, to), (2, 160, SHARED), &product.args(), expected);
    };
    // Only the own block's readers are waited for.
    let own = text.replace("[%r0+16], 2;", "[%r0+16], 1;").replace("[%r0+24], 2;", "[%r0+24], 1;");
    let own = own.replace(
        "@%p3 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r33];\n    @%p3 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r34];",
        "@%p3 mbarrier.arrive.release.cta.shared::cta.b64 _, [%r22];",
    );
    let expected = (Check::Race, "multicast", &["bulk copy of thread 0 of warp 4"][..]);
    fail(&product.gpu, &own, (2, 160, SHARED), &product.args(), expected);
    // A block that does not give back what the other waits for.
    check(
        "@%p3 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r34];",
        "",
        (Check::Deadlock, "", &["lacks 2 of 2 arrivals", "rank 1: warp"]),
    );
    // One block ends while the other still sends to it.
    let end = "END:\n    barrier.cluster.arrive.release.aligned;\n    barrier.cluster.wait.acquire.aligned;";
    assert!(text.contains(end));
    // A target beyond the cluster.
    check(
        "mov.b16 %h0, 3;",
        "mov.b16 %h0, 7;",
        (Check::OutOfBounds, "multicast", &["0b111", "2 blocks"]),
    );
    check("%r22, 1;", "%r22, 2;", (Check::OutOfBounds, "mapa", &["rank 2"]));
}

/// What each block knows of its place.
#[test]
fn places() {
    let text = module(
        ".param .u64 out",
        ".reqnctapercluster 2, 2, 1",
        "
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ctaid.y; mov.u32 %r2, %nctaid.x; mad.lo.u32 %r3, %r1, %r2, %r0;
    ld.param.u64 %d0, [out]; mad.wide.u32 %d0, %r3, 48, %d0;
    mov.u32 %r4, %cluster_ctarank; st.global.u32 [%d0], %r4;
    mov.u32 %r4, %cluster_nctarank; st.global.u32 [%d0+4], %r4;
    mov.u32 %r4, %cluster_ctaid.x; st.global.u32 [%d0+8], %r4;
    mov.u32 %r4, %cluster_ctaid.y; st.global.u32 [%d0+12], %r4;
    mov.u32 %r4, %cluster_nctaid.x; st.global.u32 [%d0+16], %r4;
    mov.u32 %r4, %cluster_nctaid.z; st.global.u32 [%d0+20], %r4;
    mov.u32 %r4, %clusterid.x; st.global.u32 [%d0+24], %r4;
    mov.u32 %r4, %clusterid.y; st.global.u32 [%d0+28], %r4;
    mov.u32 %r4, %nclusterid.x; st.global.u32 [%d0+32], %r4;
    mov.u32 %r4, %nclusterid.y; st.global.u32 [%d0+36], %r4;
    mov.u32 %r4, %clusterid.z; st.global.u32 [%d0+40], %r4;
    mov.pred %p0, %is_explicit_cluster; selp.u32 %r4, 1, 0, %p0; st.global.u32 [%d0+44], %r4;
",
    );
    assemble(&text);
    for threads in [1, 4] {
        let mut gpu = Gpu::new(90);
        gpu.options.threads = threads;
        let module = gpu.load(&text).unwrap();
        let out = gpu.allocate(24 * 48).unwrap();
        gpu.launch(&module, "k", [6, 4], 1, &[Arg::U64(out)]).unwrap();
        let got: Vec<u32> = gpu.download(out, 24 * 12).unwrap();
        for (block, got) in got.chunks(12).enumerate() {
            let (x, y) = (block as u32 % 6, block as u32 / 6);
            let right = [x % 2 + 2 * (y % 2), 4, x % 2, y % 2, 2, 1, x / 2, y / 2, 3, 2, 0, 1];
            assert_eq!(got, right, "block {x}, {y}");
        }
    }
}

/// A grid that is no multiple of its clusters.
#[test]
fn grids() {
    let text = module("", ".reqnctapercluster 2, 1, 1", "");
    let gpu = Gpu::new(90);
    pass(&gpu, &text, (4, 32, 0), &[]);
    let (_, report) = run(&gpu, &text, (3, 32, 0), &[]);
    let report = report.unwrap();
    assert_eq!(report.check, Check::Parameters, "{report}");
    assert!(report.what.contains("[2, 1, 1]"), "{report}");
    let text = module("", ".reqnctapercluster 16, 1, 1", "");
    assert_eq!(run(&gpu, &text, (16, 32, 0), &[]).1.unwrap().check, Check::Parameters);
}

/// Blocks hand a value on in global memory, ordered by the cluster's barrier.
#[test]
fn barrier_orders_global_memory() {
    let text = module(
        ".param .u64 out",
        ".reqnctapercluster 4, 1, 1",
        "
    ld.param.u64 %d0, [out]; mov.u32 %r0, %cluster_ctarank; mov.u32 %r1, %ctaid.x;
    mad.wide.u32 %d1, %r1, 4, %d0; add.u32 %r2, %r1, 100;
    setp.ne.u32 %p0, %t, 0;
    @!%p0 st.global.u32 [%d1], %r2;
    barrier.cluster.arrive;
    barrier.cluster.wait;
    xor.b32 %r3, %r1, 1; mad.wide.u32 %d2, %r3, 4, %d0; ld.global.u32 %r4, [%d2];
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
    @!%p0 st.global.u32 [%d1], %r4;
",
    );
    let gpu = Gpu::new(90);
    let out = gpu.upload(&[0u32; 8]).unwrap();
    pass(&gpu, &text, (8, 64, 0), &[Arg::U64(out)]);
    assert_eq!(gpu.download::<u32>(out, 8).unwrap(), [101, 100, 103, 102, 105, 104, 107, 106]);
    let args = [Arg::U64(out)];
    let relaxed = text.replace("barrier.cluster.arrive;", "barrier.cluster.arrive.relaxed;");
    let mut gpu = gpu;
    gpu.options.threads = 1;
    fail(&gpu, &relaxed, (8, 64, 0), &args, (Check::Race, "ld.global", &["of block"]));
    let none = text.replace("barrier.cluster.arrive;\n    barrier.cluster.wait;", "");
    fail(&gpu, &none, (8, 64, 0), &args, (Check::Race, "", &["of block"]));
    let unpaired = text.replace("barrier.cluster.arrive;\n", "");
    fail(
        &gpu,
        &unpaired,
        (8, 64, 0),
        &args,
        (Check::Barrier, "cluster.wait", &["without an arrival"]),
    );
}

/// A block that has ended is not reached any more.
#[test]
fn ended_blocks() {
    let text = |end: &str| {
        module(
            "",
            ".reqnctapercluster 2, 1, 1",
            &format!(
                "
    mov.u32 %r0, pool; mov.u32 %r1, %cluster_ctarank;
    mbarrier.init.shared::cta.b64 [%r0], 1;
    fence.mbarrier_init.release.cluster;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    xor.b32 %r2, %r1, 1; mapa.shared::cluster.u32 %r3, %r0, %r2;
    setp.eq.u32 %p0, %r1, 0;
    @%p0 bra LAST;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];
    bra END;
LAST:
{}
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];
END:
    {end}
",
                wait("WAIT", "%r0", "0")
            ),
        )
    };
    let gpu = Gpu::new(90);
    let meet = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    pass(&gpu, &text(meet), (2, 1, 64), &[]);
    fail(&gpu, &text(""), (2, 1, 64), &[], (Check::OutOfBounds, "arrive", &["rank 1 has ended"]));
}
