use nearkin::ops::topk::{Bitmap, Corpus, Exclude, Metric, Search, topk};
use nearkin::{DType, Tensor};

use crate::common::{Rng, normals};
use crate::{cold_bytes, emulated, launches};

/// A search, and the tile of queries that it should take.
struct Case {
    dtype: DType,
    queries: usize,
    rows: usize,
    dim: usize,
    k: usize,
    tile: usize,
}

#[test]
fn a_search_streams_the_corpus_once_and_writes_no_scores() {
    let Some((emulator, device)) = emulated() else { return };
    let case = |dtype, queries, rows, dim, k, tile| Case { dtype, queries, rows, dim, k, tile };
    let cases = [
        case(DType::F32, 1, 20_000, 128, 10, 4),
        case(DType::F16, 3, 20_000, 128, 10, 4),
        case(DType::BF16, 1, 40_000, 384, 100, 4),
        case(DType::F32, 32, 10_000, 128, 10, 32),
        case(DType::F16, 40, 10_000, 384, 10, 32),
    ];
    for Case { dtype, queries, rows, dim, k, tile } in cases {
        let mut rng = Rng(9);
        let (x, _) = normals(&device, dtype, &[rows, dim], &mut rng);
        let (q, _) = normals(&device, DType::F32, &[queries, dim], &mut rng);
        let corpus = Corpus::from_tensor(&x).unwrap();
        let what = format!("{queries} queries, {rows} x {dim} {dtype}, k {k}");
        let half = Bitmap::from_fn(rows, |row| row / 64 % 2 == 1);
        for (exclude, share) in [(Exclude::None, 1), (Exclude::Shared(&half), 2)] {
            let search = Search { exclude, ..Search::new(Metric::Cosine, k) };
            let all = launches(&emulator, || {
                topk(&q, &corpus, &search).unwrap();
            });
            let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
            assert_eq!(names, ["topk", "topk_merge"], "{what}");
            let (scan, merge) = (&all[0].counts, &all[1].counts);
            // Rows and their lengths; half of the tiles are never loaded.
            let floor = (rows * (dim * dtype.size() + 4) / share) as u64;
            let cold = cold_bytes(scan) + cold_bytes(merge);
            println!(
                "{what}, 1/{share} of it: {cold} bytes from memory ({:.3} of the floor), {} blocks, {} warp \
                 instructions and {} to merge",
                cold as f64 / floor as f64,
                scan.blocks,
                scan.warp_instructions,
                merge.warp_instructions
            );
            assert!(cold <= floor + floor / 10, "{what}: {cold} bytes from memory, floor {floor}");
            let splits = scan.blocks as usize / queries.div_ceil(tile);
            let written = 32 * (scan.global.stores.sectors + merge.global.stores.sectors);
            let lists = (queries * (splits + 1) * (8 * k + 32)) as u64;
            assert!(written <= lists, "{what}: {written} bytes written, lists have {lists}");
            assert_eq!(scan.local_bytes + merge.local_bytes, 0, "{what}: local memory");
        }
        // Where nothing enters a list, only scores are formed: without conflicts.
        let nan =
            Tensor::from_f32(&device, dtype, &[256, dim], &vec![f32::NAN; 256 * dim]).unwrap();
        let corpus = Corpus::from_tensor(&nan).unwrap();
        let all = launches(&emulator, || {
            topk(&q, &corpus, &Search::new(Metric::Cosine, k)).unwrap();
        });
        assert_eq!(all[0].counts.shared.conflicts(), 0, "{what}: bank conflicts");
    }
}
