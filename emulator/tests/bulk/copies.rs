//! Bulk copies: what they bring, where, and what they count.

use super::*;

/// One thread copies a box; all copy shared memory, as it is, to `out`.
fn text(rank: u32, place: &str, bytes: u32) -> String {
    let words = bytes / 4;
    module(
        ".param .align 64 .b8 map[128], .param .u64 out",
        "",
        &format!(
            "
    mov.u32 %r0, pool; add.u32 %r1, %r0, 65536;
    mov.b64 %d0, map; cvta.param.u64 %d0, %d0;
    setp.ne.u32 %p0, %t, 0;
    @%p0 bra READY;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    prefetch.tensormap [%d0];
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], {bytes};
    cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r0], [%d0, {{{place}}}], [%r1];
READY:
    bar.sync 0;
{}
    ld.param.u64 %d1, [out]; mov.u32 %r2, %t;
NEXT:
    setp.ge.u32 %p1, %r2, {words};
    @%p1 bra END;
    shl.b32 %r3, %r2, 2; add.u32 %r4, %r0, %r3; ld.shared.b32 %r5, [%r4];
    mad.wide.u32 %d2, %r2, 4, %d1; st.global.b32 [%d2], %r5;
    add.u32 %r2, %r2, 64; bra NEXT;
END:
",
            wait("WAIT", "%r1", "0")
        ),
    )
}

fn copied(gpu: &Gpu, map: &[u8; 128], rank: u32, place: &str, bytes: u32) -> (Vec<u16>, Counts) {
    let out = gpu.allocate(u64::from(bytes)).unwrap();
    let args = [Arg::Bytes(map), Arg::U64(out)];
    let counts = pass(gpu, &text(rank, place, bytes), (1, 64, 65536 + 64), &args);
    (gpu.download(out, bytes as usize / 2).unwrap(), counts)
}

#[test]
fn swizzles() {
    let gpu = Gpu::new(90);
    let matrix: Vec<u16> = (0..128 * 128).map(|i| i as u16).collect();
    let from = gpu.upload(&matrix).unwrap();
    for (mode, span) in [(0, 16), (1, 32), (2, 64), (3, 128)] {
        let width = if mode == 0 { 64 } else { span / 2 };
        let map = map(from, [128, 128], 256, [width as u32, 32], mode);
        let bytes = width * 2 * 32;
        let (out, counts) = copied(&gpu, &map, 2, "8, 3", bytes as u32);
        for row in 0..32 {
            for column in 0..width {
                let at = row * width * 2 + column * 2;
                // Chunks of 16 bytes, by the line of 128 bytes that they are in.
                let at = at ^ (at / 128 % 8 % (span / 16) * 16);
                let right = matrix[(row + 3) * 128 + column + 8];
                assert_eq!(out[at / 2], right, "swizzle {mode}, row {row}, column {column}");
            }
        }
        assert_eq!(counts.global.loads.bytes, bytes as u64);
        assert_eq!(counts.global.unique_read_bytes, bytes as u64);
        assert_eq!(counts.async_copy_bytes, bytes as u64);
        assert_eq!(counts.global.loads.requests, 1);
    }
}

/// What is outside is zero, and counts for the mbarrier all the same.
#[test]
fn edges() {
    let gpu = Gpu::new(90);
    // Rows of 100 elements, the last 4 of 104 not part of it, and 20 rows: nothing lies behind them.
    let matrix: Vec<u16> = (0..20 * 104).map(|i| i as u16 + 1).collect();
    let from = gpu.upload(&matrix[..20 * 104 - 4]).unwrap();
    let map = map(from, [100, 20], 208, [64, 8], 0);
    for (x, y) in [(64i64, 16i64), (-32, -5), (1, 1), (100, 0), (99, 19), (-63, -7), (0, 20)] {
        let (out, counts) = copied(&gpu, &map, 2, &format!("{x}, {y}"), 1024);
        let mut inside = 0;
        for (at, &got) in out.iter().enumerate() {
            let (column, row) = (x + at as i64 % 64, y + at as i64 / 64);
            let is_inside = (0..100).contains(&column) && (0..20).contains(&row);
            inside += u64::from(is_inside);
            let right = if is_inside { matrix[(row * 104 + column) as usize] } else { 0 };
            assert_eq!(got, right, "({x}, {y}): {column}, {row}");
        }
        assert_eq!(counts.global.loads.bytes, 2 * inside, "({x}, {y})");
    }
}

#[test]
fn ranks_and_types() {
    let gpu = Gpu::new(90);
    let bytes: Vec<u8> = (0..6 * 5 * 64u32).map(|i| (i * 7) as u8).collect();
    let from = gpu.upload(&bytes).unwrap();
    let tiled = |element: u32, dims: &[u64], strides: &[u64], sizes: &[u32]| {
        Tiled {
            element,
            rank: dims.len() as u32,
            address: from,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            sizes: sizes.to_vec(),
            steps: vec![1; dims.len()],
            interleave: 0,
            swizzle: 0,
            promotion: 0,
            fill: 0,
        }
        .map()
        .unwrap()
        .encode()
    };
    let words = |bytes: &[u8]| -> Vec<u16> {
        bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    };
    // u8 in one dimension.
    let map = tiled(0, &[1900], &[], &[128]);
    assert_eq!(copied(&gpu, &map, 1, "17", 128).0, words(&bytes[17..17 + 128]));
    // f32 in three: 16 by 5 by 6.
    let map = tiled(7, &[16, 5, 6], &[64, 320], &[8, 2, 3]);
    let (out, _) = copied(&gpu, &map, 3, "4, 1, 2", 192);
    let mut right = Vec::new();
    for (z, y) in [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2)] {
        let start = z * 320 + y * 64 + 16;
        right.extend_from_slice(&bytes[start..start + 32]);
    }
    assert_eq!(out, words(&right));
    // tf32 in two.
    let map = tiled(11, &[16, 30], &[64], &[16, 4]);
    assert_eq!(copied(&gpu, &map, 2, "0, 3", 256).0, words(&bytes[192..448]));
}

/// Copies without a map, in and out of shared memory.
#[test]
fn plain() {
    let text = module(
        ".param .u64 from, .param .u64 to, .param .u32 bytes",
        "",
        "
    mov.u32 %r0, pool; add.u32 %r1, %r0, 8192;
    ld.param.u64 %d0, [from]; ld.param.u64 %d1, [to]; ld.param.u32 %r2, [bytes];
    setp.ne.u32 %p0, %t, 0;
    @%p0 bra END;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    fence.proxy.async.shared::cta;
    mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %d2, [%r1], %r2;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%d0], %r2, [%r1];
WAIT:
    mbarrier.test_wait.shared::cta.b64 %p1, [%r1], %d2;
    @!%p1 bra WAIT;
    ld.shared.b32 %r3, [%r0]; add.u32 %r3, %r3, 1; st.shared.b32 [%r0], %r3;
    fence.proxy.async.shared::cta;
    cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r0], %r2;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
    cp.async.bulk.wait_group 0;
    mbarrier.inval.shared::cta.b64 [%r1];
END:
",
    );
    let gpu = Gpu::new(90);
    let mut words: Vec<u32> = (0..1024).collect();
    let from = gpu.upload(&words).unwrap();
    let to = gpu.allocate(4096).unwrap();
    let args = [Arg::U64(from), Arg::U64(to), Arg::U32(4096)];
    let counts = pass(&gpu, &text, (1, 32, 8192 + 64), &args);
    words[0] += 1;
    assert_eq!(gpu.download::<u32>(to, 1024).unwrap(), words);
    assert_eq!(counts.global.loads.bytes, 4096);
    assert_eq!(counts.global.stores.bytes, 4096);
    assert_eq!(counts.global.stores.sectors, 128);

    let unfenced = text.replace(
        "st.shared.b32 [%r0], %r3;\n    fence.proxy.async.shared::cta;",
        "st.shared.b32 [%r0], %r3;",
    );
    let words = ["written by thread 0 of warp 0", "fence.proxy.async"];
    let expected = (Check::Race, "bulk_group [%d1]", &words[..]);
    fail(&gpu, &unfenced, (1, 32, 8192 + 64), &args, expected);

    let args = [Arg::U64(from), Arg::U64(to), Arg::U32(4104)];
    fail(&gpu, &text, (1, 32, 8192 + 64), &args, (Check::Misaligned, "[%r0], [%d0]", &["4104"]));
    let args = [Arg::U64(from + 64), Arg::U64(to), Arg::U32(4096)];
    fail(&gpu, &text, (1, 32, 8192 + 64), &args, (Check::OutOfBounds, "[%r0], [%d0]", &["past"]));
}

/// Tiles stored through a map, cut at its edges.
#[test]
fn stores() {
    let text = module(
        ".param .align 64 .b8 map[128]",
        "",
        "
    mov.u32 %r0, pool;
    mov.b64 %d0, map; cvta.param.u64 %d0, %d0;
    shl.b32 %r1, %t, 4; add.u32 %r2, %r0, %r1;
    mov.u32 %r3, 0x10001; mul.lo.u32 %r3, %r3, %t;
    st.shared.v4.b32 [%r2], {%r3, %r3, %r3, %r3};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.u32 %p0, %t, 0;
    @%p0 bra END;
    cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d0, {8, 2}], [%r0];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
END:
",
    );
    let gpu = Gpu::new(90);
    let to = gpu.upload(&vec![999u16; 4 * 32]).unwrap();
    // 4 rows of 30 elements; a box of 32 by 4, swizzled in rows of 64 bytes.
    let map = map(to, [30, 4], 64, [32, 4], 2);
    let counts = pass(&gpu, &text, (1, 16, 2048), &[Arg::Bytes(&map)]);
    let out: Vec<u16> = gpu.download(to, 4 * 32).unwrap();
    for (at, &got) in out.iter().enumerate() {
        let (row, column) = (at / 32, at % 32);
        let right = if row < 2 || !(8..30).contains(&column) {
            999
        } else {
            let at = (row - 2) * 64 + (column - 8) * 2;
            ((at ^ (at / 128 % 4 * 16)) / 16) as u16
        };
        assert_eq!(got, right, "row {row}, column {column}");
    }
    assert_eq!(counts.global.stores.bytes, 2 * 2 * 22);
}

#[test]
fn faults() {
    let gpu = Gpu::new(90);
    let from = gpu.upload(&vec![1u16; 64 * 64]).unwrap();
    let out = gpu.allocate(8192).unwrap();
    let right = map(from, [64, 64], 128, [64, 64], 3);
    let good = text(2, "0, 0", 8192);
    let size = (1, 64, 65536 + 64);
    let args = |map: &'static [u8; 128]| [Arg::Bytes(map), Arg::U64(out)];
    let right: &'static [u8; 128] = Box::leak(Box::new(right));
    pass(&gpu, &good, size, &args(right));
    let cases: [(&str, &str, Check, &str, &[&str]); 6] = [
        ("[%r0], [%d0", "[%r0+64], [%d0", Check::Misaligned, "tensor", &["0x40", "128"]),
        (
            "[%r0], [%d0",
            "[%r0+61440], [%d0",
            Check::OutOfBounds,
            "tensor",
            &["65600 bytes of shared"],
        ),
        ("}], [%r1]", "}], [%r1+8]", Check::Race, "tensor", &["mbarrier.init"]),
        (
            "    bar.sync 0;\nWAIT",
            "WAIT",
            Check::Race,
            "try_wait",
            &["read by thread 1 of warp 0, written by thread 0"],
        ),
        (
            ", 1;\n    fence",
            ", 2;\n    fence",
            Check::Deadlock,
            "try_wait",
            &["lacks 1 of 2 arrivals and 0 bytes"],
        ),
        (
            "[%r1], 8192",
            "[%r1], 8208",
            Check::Deadlock,
            "try_wait",
            &["0 of 1 arrivals and 16 bytes"],
        ),
    ];
    for (from, to, check, instruction, words) in cases {
        assert!(good.contains(from), "{from}");
        fail(&gpu, &good.replace(from, to), size, &args(right), (check, instruction, words));
    }
    // Nobody waits.
    let early = good.replace(&wait("WAIT", "%r1", "0"), "");
    let words =
        ["bulk copy of thread 0 of warp 0", "no wait for phase 0 of the mbarrier at 0x10000"];
    fail(&gpu, &early, size, &args(right), (Check::Race, "ld.shared", &words));
    // No map, or one of another rank.
    let nothing: &'static [u8; 128] = &[7; 128];
    fail(&gpu, &good, size, &args(nothing), (Check::OutOfBounds, "tensor", &["no tensor map"]));
    let other = text(1, "0", 8192);
    fail(
        &gpu,
        &other,
        size,
        &args(right),
        (Check::OutOfBounds, "tensor", &["2 dimensions, the copy 1"]),
    );
    // What nobody wrote.
    let empty = gpu.allocate(8192).unwrap();
    let map: &'static [u8; 128] = Box::leak(Box::new(map(empty, [64, 64], 128, [64, 64], 3)));
    fail(&gpu, &good, size, &args(map), (Check::Uninitialized, "tensor", &["never written"]));
}
