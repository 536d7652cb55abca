//! A ring of two stages: a warp fetches tiles of A and B, a warpgroup multiplies them, over several tiles of the result.

use super::*;

/// Bytes of a stage of A and of B: 64 rows of 64 elements.
const TILE: u32 = 8192;
/// Where the stages begin: A and B of each, one behind the other. The mbarriers are before them: full, full, empty, empty.
const STAGES: u32 = 1024;
pub const SHARED: u32 = STAGES + 4 * TILE;

/// What a kernel for a block, or for a cluster of two that shares B, has of its own.
pub struct Parts {
    pub directives: &'static str,
    /// Arrivals of each empty barrier.
    pub readers: u32,
    /// The barrier of all at the start and at the end.
    pub meet: &'static str,
    /// The first tile of A in `%r10`, how far the next is in `%r11`.
    pub first: &'static str,
    pub fetch_b: &'static str,
    /// One thread of the readers gives back a stage, whose barrier is `%r22`.
    pub give_back: &'static str,
}

pub const ALONE: Parts = Parts {
    directives: ".reqntid 160",
    readers: 1,
    meet: "bar.sync 0;",
    first: "mov.u32 %r10, 0; mov.u32 %r11, 1;",
    fetch_b: "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%r24], [%d1, {%r25, 0}], [%r21], %d9;",
    give_back: "@%p3 mbarrier.arrive.release.cta.shared::cta.b64 _, [%r22];",
};

/// C = A times B transposed: A of `tiles` times 64 rows, B of 64, and `steps` times 64 columns.
pub fn ring(parts: &Parts) -> String {
    let Parts { directives, readers, meet, first, fetch_b, give_back } = parts;
    let accumulators: Vec<String> = (0..32).map(|i| format!("%f{i}")).collect();
    let accumulators = accumulators.join(", ");
    let mut multiply = String::new();
    for step in 0..4 {
        let adds = if step == 0 { "%p4" } else { "1" };
        multiply += &format!(
            "    add.u64 %d12, %d10, {}; add.u64 %d13, %d11, {};
    wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{accumulators}}}, %d12, %d13, {adds}, 1, 1, 0, 0;
",
            2 * step,
            2 * step
        );
    }
    let stores: String = (0..32)
        .map(|i| {
            let (row, column) = (i / 2 % 2 * 8, i / 4 * 8 + i % 2);
            format!("    st.global.f32 [%d5+{}], %f{i};\n", row * 256 + column * 4)
        })
        .collect();
    let stage = format!(
        "and.b32 %r20, %r12, 1; shr.u32 %r13, %r12, 1; and.b32 %r13, %r13, 1;
    shl.b32 %r14, %r20, 3; add.u32 %r21, %r0, %r14; add.u32 %r22, %r21, 16;
    mad.lo.u32 %r23, %r20, {}, {STAGES}; add.u32 %r23, %r23, %r0; add.u32 %r24, %r23, {TILE};",
        2 * TILE
    );
    let body = format!(
        "
    mov.u32 %r0, pool;
    mov.b64 %d0, map_a; cvta.param.u64 %d0, %d0; mov.b64 %d1, map_b; cvta.param.u64 %d1, %d1;
    ld.param.u32 %r1, [tiles]; ld.param.u32 %r2, [steps]; ld.param.u64 %d2, [c];
    createpolicy.fractional.L2::evict_last.b64 %d9, 1.0;
    setp.ne.u32 %p0, %t, 0;
    @%p0 bra READY;
    mbarrier.init.shared::cta.b64 [%r0], 1;
    mbarrier.init.shared::cta.b64 [%r0+8], 1;
    mbarrier.init.shared::cta.b64 [%r0+16], {readers};
    mbarrier.init.shared::cta.b64 [%r0+24], {readers};
    fence.mbarrier_init.release.cluster;
READY:
    {meet}
    {first}
    mov.u32 %r12, 0;
    setp.eq.u32 %p1, %warp, 4;
    @%p1 bra PRODUCER;

    setmaxnreg.inc.sync.aligned.u32 232;
    setp.eq.u32 %p3, %t, 0;
TILE:
    setp.ge.u32 %p2, %r10, %r1;
    @%p2 bra END;
    mov.u32 %r15, 0;
STEP:
    {stage}
{}
    setp.ne.u32 %p4, %r15, 0;
    cvt.u64.u32 %d10, %r23; shr.u64 %d10, %d10, 4; or.b64 %d10, %d10, 0x4000004000010000;
    cvt.u64.u32 %d11, %r24; shr.u64 %d11, %d11, 4; or.b64 %d11, %d11, 0x4000004000010000;
    wgmma.fence.sync.aligned;
{multiply}
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    {give_back}
    add.u32 %r12, %r12, 1; add.u32 %r15, %r15, 1; setp.lt.u32 %p5, %r15, %r2;
    @%p5 bra STEP;
    // Row 16 warp + lane / 4, column 2 (lane % 4) of the tile.
    shl.b32 %r16, %r10, 6; shl.b32 %r17, %warp, 4; add.u32 %r16, %r16, %r17; shr.u32 %r17, %lane, 2;
    add.u32 %r16, %r16, %r17; and.b32 %r17, %lane, 3; shl.b32 %r16, %r16, 8; shl.b32 %r17, %r17, 3;
    add.u32 %r16, %r16, %r17; cvt.u64.u32 %d5, %r16; add.u64 %d5, %d5, %d2;
{stores}
    add.u32 %r10, %r10, %r11;
    bra TILE;

PRODUCER:
    elect.sync _|%p6, -1;
    @!%p6 bra END;
FETCH:
    setp.ge.u32 %p2, %r10, %r1;
    @%p2 bra END;
    mov.u32 %r15, 0; shl.b32 %r26, %r10, 6;
NEXT:
    {stage}
    xor.b32 %r13, %r13, 1;
{}
    mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%r21], {};
    shl.b32 %r25, %r15, 6;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r23], [%d0, {{%r25, %r26}}], [%r21];
    {fetch_b}
    add.u32 %r12, %r12, 1; add.u32 %r15, %r15, 1; setp.lt.u32 %p5, %r15, %r2;
    @%p5 bra NEXT;
    add.u32 %r10, %r10, %r11;
    bra FETCH;
END:
    {}
",
        wait("FULL", "%r21", "%r13"),
        wait("EMPTY", "%r22", "%r13"),
        2 * TILE,
        if *readers > 1 { meet } else { "" }
    );
    let params = ".param .align 64 .b8 map_a[128], .param .align 64 .b8 map_b[128], .param .u64 c, .param .u32 tiles, .param .u32 steps";
    module(params, directives, &body)
}

/// Matrices on a device, and what is right.
pub struct Product {
    pub gpu: Gpu,
    maps: [[u8; 128]; 2],
    pub c: u64,
    right: Vec<f32>,
    tiles: u32,
    steps: u32,
}

impl Product {
    /// With boxes of B of so many rows.
    pub fn new(tiles: u32, steps: u32, rows_b: u32) -> Product {
        let k = 64 * steps as usize;
        let small = |i: usize| ((i * 2_654_435_761) >> 7) as u32 % 9;
        // Small integers as bf16: their products are exact.
        let matrix = |rows: usize, seed: usize| -> Vec<f32> {
            (0..rows * k).map(|i| small(i + seed) as f32 - 4.0).collect()
        };
        let (a, b) = (matrix(64 * tiles as usize, 1), matrix(64, 77_777));
        let bits = |m: &[f32]| m.iter().map(|x| (x.to_bits() >> 16) as u16).collect::<Vec<_>>();
        let gpu = Gpu::new(90);
        let [pa, pb] = [&a, &b].map(|m| gpu.upload(&bits(m)).unwrap());
        let rows = [64 * u64::from(tiles), 64];
        let maps = [
            map(pa, [k as u64, rows[0]], 2 * k as u64, [64, 64], 3),
            map(pb, [k as u64, rows[1]], 2 * k as u64, [64, rows_b], 3),
        ];
        let mut right = Vec::new();
        for row in a.chunks(k) {
            right.extend(
                b.chunks(k).map(|other| row.iter().zip(other).map(|(x, y)| x * y).sum::<f32>()),
            );
        }
        let c = gpu.allocate(4 * right.len() as u64).unwrap();
        Product { gpu, maps, c, right, tiles, steps }
    }

    pub fn args(&self) -> Vec<Arg<'_>> {
        vec![
            Arg::Bytes(&self.maps[0]),
            Arg::Bytes(&self.maps[1]),
            Arg::U64(self.c),
            Arg::U32(self.tiles),
            Arg::U32(self.steps),
        ]
    }

    pub fn is_right(&self) {
        let got: Vec<f32> = self.gpu.download(self.c, self.right.len()).unwrap();
        let wrong = got.iter().zip(&self.right).position(|(got, right)| got != right);
        assert_eq!(wrong, None, "{} {}", got[wrong.unwrap_or(0)], self.right[wrong.unwrap_or(0)]);
    }
}

#[test]
fn products() {
    for (tiles, steps) in [(1, 1), (3, 5), (4, 2)] {
        let product = Product::new(tiles, steps, 64);
        let counts = pass(&product.gpu, &ring(&ALONE), (1, 160, SHARED), &product.args());
        product.is_right();
        let bytes = u64::from(2 * TILE * tiles * steps);
        assert_eq!(counts.global.loads.bytes, bytes);
        assert_eq!(counts.async_copy_bytes, bytes);
        assert_eq!(counts.tensor_multiply_adds, u64::from(64 * 64 * 64 * tiles * steps));
    }
}

/// A ring with something left out.
#[test]
fn faults() {
    let text = ring(&ALONE);
    let product = Product::new(2, 4, 64);
    let check = |from: &str, to: &str, expected: (Check, &str, &[&str])| {
        assert!(text.contains(from), "{from}");
        fail(&product.gpu, &text.replace(from, to), (1, 160, SHARED), &product.args(), expected);
    };
    // The stages are not waited for before they are filled again.
    check(
        "@!%p9 bra EMPTY;",
        "",
        (Check::Race, "[%r23], [%d0", &["bulk copy of thread 0 of warp 4"]),
    );
    // Nor before they are read.
    check("@!%p9 bra FULL;", "", (Check::Uninitialized, "wgmma", &[]));
    // They are given back before the products have ended.
    check(
        "    wgmma.wait_group.sync.aligned 0;\n    @%p3 mbarrier.arrive.release.cta.shared::cta.b64 _, [%r22];",
        "    @%p3 mbarrier.arrive.release.cta.shared::cta.b64 _, [%r22];\n    wgmma.wait_group.sync.aligned 0;",
        (Check::Race, "[%r23], [%d0", &["read by a wgmma of warp", "no wait for its group"]),
    );
    // They are never given back.
    check(
        "@%p3 mbarrier.arrive.release",
        "setp.ne.u32 %p7, %t, %t; @%p7 mbarrier.arrive.release",
        (Check::Deadlock, "try_wait", &["the mbarrier at 0x10", "lacks 1 of 1 arrivals"]),
    );
    // Fewer bytes come than are expected, and more.
    check(
        "b64 _, [%r21], 16384",
        "b64 _, [%r21], 16400",
        (Check::Deadlock, "try_wait", &["and 16 bytes"]),
    );
    // The barriers are used before all know of them.
    check(
        "READY:\n    bar.sync 0;",
        "READY:",
        (Check::Race, "try_wait", &["written by thread 0 of warp 0"]),
    );
}

#[test]
fn not_waited_in_a_later_round() {
    // The first round of each stage waits, later ones do not.
    let text = ring(&ALONE).replace(
        "FULL: mbarrier.try_wait",
        "setp.gt.u32 %p8, %r12, 1; @%p8 bra GONE;\nFULL: mbarrier.try_wait",
    );
    let text = text.replace("@!%p9 bra FULL;\n", "@!%p9 bra FULL;\nGONE:\n");
    let product = Product::new(1, 4, 64);
    let (_, report) = run(&product.gpu, &text, (1, 160, SHARED), &product.args());
    // It may read the last round's tile without a race; then the producer finds it still in use.
    let report = report.unwrap();
    assert_eq!(report.check, Check::Race, "{report}");
}
