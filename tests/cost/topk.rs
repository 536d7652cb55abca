use nearkin::ops::topk::{Bitmap, Corpus, Filter, Metric, Rows, Search, Storage, topk};
use nearkin::{DType, Device, DeviceOptions, MatmulPrecision, Tensor};

use crate::common::{Rng, normals};
use crate::pinned::pinned;
use crate::processes::alone;
use crate::{cold_bytes, emulated, launches};

/// A search, and what it should take.
struct Case {
    precision: MatmulPrecision,
    storage: Storage,
    /// Queries, rows, dimensions.
    shape: [usize; 3],
    k: usize,
    /// Queries of a block, and with padding.
    tile: [usize; 2],
    /// Multiply-adds of matrix units for each of the scores.
    tensor: u64,
}

#[test]
fn a_search_streams_the_corpus_once_and_writes_no_scores() {
    let Some((emulator, _)) = emulated() else { return };
    use MatmulPrecision::{Highest, Medium, Tf32};
    use Storage::{BF16, F16, F32, Int8};
    let case = |precision, storage, shape, k, tile, tensor| Case {
        precision,
        storage,
        shape,
        k,
        tile,
        tensor,
    };
    let cases = [
        case(Highest, F32, [1, 20_000, 128], 10, [1, 1], 0),
        case(Highest, F32, [1, 30_000, 100], 100, [1, 1], 0),
        case(Highest, F32, [3, 20_000, 128], 10, [4, 4], 0),
        case(Highest, F16, [3, 20_000, 128], 10, [4, 4], 0),
        case(Highest, F32, [32, 10_000, 128], 10, [32, 32], 0),
        case(Highest, F16, [40, 10_000, 384], 10, [32, 32], 0),
        case(Highest, BF16, [1, 40_000, 384], 100, [16, 16], 3),
        case(Highest, BF16, [40, 10_000, 384], 10, [64, 64], 3),
        case(Medium, BF16, [3, 20_000, 128], 200, [8, 16], 1),
        case(Medium, F16, [66, 10_000, 256], 4, [64, 64], 1),
        case(Tf32, F32, [40, 5_000, 128], 4, [64, 64], 1),
        case(Tf32, F32, [2, 10_000, 128], 10, [16, 16], 1),
        case(Medium, F32, [40, 5_000, 128], 4, [64, 64], 1),
        case(Medium, F32, [2, 10_000, 128], 10, [16, 16], 1),
        case(Highest, Int8, [1, 40_000, 384], 10, [16, 16], 1),
        case(Highest, Int8, [40, 20_000, 384], 10, [64, 64], 1),
        // 33 words do not divide into 16 bytes.
        case(Highest, Int8, [3, 20_000, 132], 10, [4, 4], 0),
    ];
    for Case { precision, storage, shape: [queries, rows, dim], k, tile, tensor } in cases {
        let options = DeviceOptions { matmul_precision: precision, ..Default::default() };
        let device = Device::cuda_with(0, options).unwrap();
        let mut rng = Rng(9);
        let (x, _) = normals(&device, DType::F32, &[rows, dim], &mut rng);
        let (q, _) = normals(&device, DType::F32, &[queries, dim], &mut rng);
        let corpus = Corpus::from_tensor(&x).unwrap().to_storage(storage).unwrap();
        let what = format!("{precision:?}: {queries} queries, {rows} x {dim} {storage}, k {k}");
        let (kernel, height) = match tensor {
            0 => ("topk", if queries == 1 { 128 } else { 64 }),
            _ => ("topk_mma", 128),
        };
        let query_tiles = queries.div_ceil(tile[0]);
        let half = Bitmap::from_fn(rows, |row| row / height % 2 == 1);
        let half = Filter::Shared(Rows::Exclude(&half));
        for (filter, share) in [(Filter::All, 1), (half, 2)] {
            let search = Search { filter, ..Search::new(k) };
            let all = launches(&emulator, || {
                topk(&q, &corpus, Metric::Cosine, &search).unwrap();
            });
            let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
            // Bytes are made, then measured.
            let made = if storage == Int8 { &["rows_int8"][..] } else { &[] };
            let want = [made, &["rows_measure", kernel, "select_merge"]].concat();
            assert_eq!(names, want, "{what}");
            let [prepare, scan, merge] = [0, 1, 2].map(|i| &all[made.len() + i].counts);
            // Queries are read, and written as f32 and as what tensor cores take, three bf16 at most.
            let prepared = queries * (dim * (4 + 4 + 6) + 4);
            assert!(cold_bytes(prepare) <= (prepared + 32 * 3) as u64, "{what}: prepared");
            assert_eq!(prepare.shared.conflicts() + prepare.local_bytes, 0, "{what}: prepared");
            // Rows and their lengths; half of the tiles are never loaded.
            let row = storage.width(dim) * storage.dtype().size();
            let floor = (rows * (row + 4) / share) as u64;
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
            pinned(
                &format!("topk, {what}, 1/{share} of it"),
                &[
                    ("bytes from memory", cold),
                    ("warp instructions", scan.warp_instructions),
                    ("warp instructions to merge", merge.warp_instructions),
                ],
            );
            let splits = scan.blocks as usize / query_tiles;
            let written = 32 * (scan.global.stores.sectors + merge.global.stores.sectors);
            let lists = (queries * (splits + 1) * (8 * k + 32)) as u64;
            assert!(written <= lists, "{what}: {written} bytes written, lists have {lists}");
            assert_eq!(scan.local_bytes + merge.local_bytes, 0, "{what}: local memory");
            // Every tile of rows that is not excluded meets every tile of queries once.
            let row_tiles = rows.div_ceil(height).div_ceil(share);
            let padded = (query_tiles * tile[1] * row_tiles * height * dim) as u64;
            assert_eq!(scan.tensor_multiply_adds, tensor * padded, "{what}: matrix units");
        }
        // Where nothing enters a list, only scores are formed: without conflicts.
        let nan = Tensor::from_slice(&device, &[256, dim], &vec![f32::NAN; 256 * dim]).unwrap();
        let corpus = Corpus::from_tensor(&nan).unwrap().to_storage(storage).unwrap();
        let all = launches(&emulator, || {
            topk(&q, &corpus, Metric::Cosine, &Search::new(k)).unwrap();
        });
        let scan = all.iter().find(|l| l.kernel == kernel).unwrap();
        assert_eq!(scan.counts.shared.conflicts(), 0, "{what}: bank conflicts");
    }
}

/// Many queries on Hopper: each score is formed once behind a sample, rows are read once, and few survive.
#[test]
fn a_search_on_hopper_forms_each_score_once() {
    let name = "topk::a_search_on_hopper_forms_each_score_once";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some((emulator, device)) = emulated() else { return };
        let (queries, rows, dim, k) = (100, 50_000, 64, 10);
        let mut rng = Rng(9);
        let (x, _) = normals(&device, DType::BF16, &[rows, dim], &mut rng);
        let (q, _) = normals(&device, DType::BF16, &[queries, dim], &mut rng);
        let corpus = Corpus::from_tensor(&x).unwrap();
        let all = launches(&emulator, || {
            topk(&q, &corpus, Metric::Cosine, &Search::new(k)).unwrap();
        });
        let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
        let [sample, bound, scan, pick, lists, merge] = [1, 2, 3, 4, 5, 6].map(|i| &all[i].counts);
        let want = [
            "rows_measure",
            "topk_wgmma",
            "select_bound",
            "topk_wgmma",
            "select_pick",
            "topk_mma",
            "select_merge",
        ];
        assert_eq!(names, want);
        let tile = 128 * 128 * dim;
        assert_eq!(scan.tensor_multiply_adds, (rows.div_ceil(128) * tile) as u64);
        assert!(4 * sample.tensor_multiply_adds <= scan.tensor_multiply_adds);
        // No query is searched again.
        assert_eq!(lists.tensor_multiply_adds, 0);
        for counts in [sample, bound, scan, lists] {
            assert_eq!(counts.shared.conflicts() + counts.local_bytes, 0);
        }
        // Eight scores and their place for each survivor, which are a few times k.
        let written = 32 * scan.global.stores.sectors;
        assert!(written <= (100 * k * queries * 36) as u64, "{written} bytes written");
        pinned(
            &format!("topk, Hopper: {queries} queries, {rows} x {dim} bf16, k {k}"),
            &[
                ("bytes from memory", cold_bytes(scan)),
                ("bytes written", written),
                ("warp instructions of the sample", sample.warp_instructions),
                ("warp instructions of the bound", bound.warp_instructions),
                ("warp instructions", scan.warp_instructions),
                ("warp instructions to pick", pick.warp_instructions),
                (
                    "warp instructions without lists",
                    lists.warp_instructions + merge.warp_instructions,
                ),
            ],
        );
    });
}

/// Many queries of f32 on Hopper: tensor cores meet each pair once behind a sample, and few scores are formed by multiply-adds.
#[test]
fn a_search_by_bounds_on_hopper_forms_few_scores() {
    let name = "topk::a_search_by_bounds_on_hopper_forms_few_scores";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some((emulator, device)) = emulated() else { return };
        let (queries, rows, dim, k) = (100, 50_000, 64, 10);
        let mut rng = Rng(9);
        let (x, _) = normals(&device, DType::F32, &[rows, dim], &mut rng);
        let (q, _) = normals(&device, DType::F32, &[queries, dim], &mut rng);
        let corpus = Corpus::from_tensor(&x).unwrap();
        for metric in [Metric::Cosine, Metric::L2] {
            let all = launches(&emulator, || {
                topk(&q, &corpus, metric, &Search::new(k)).unwrap();
            });
            let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
            let want = [
                "rows_measure",
                "topk_round",
                "topk_rough",
                "select_bound",
                "topk_rough",
                "topk_exact",
                "select_pick",
                "topk",
                "select_merge",
            ];
            assert_eq!(names, want);
            let [sample, scan, exact, lists] = [2, 4, 5, 7].map(|i| &all[i].counts);
            let tile = 128 * 128 * dim;
            assert_eq!(scan.tensor_multiply_adds, (rows.div_ceil(128) * tile) as u64);
            assert!(4 * sample.tensor_multiply_adds <= scan.tensor_multiply_adds);
            for counts in [sample, scan, lists] {
                assert_eq!(counts.shared.conflicts() + counts.local_bytes, 0);
            }
            // Lists read no rows, which are 12.8 MB.
            assert!(cold_bytes(lists) < 1_000_000, "{metric:?}: {} bytes", cold_bytes(lists));
            pinned(
                &format!(
                    "topk, Hopper by bounds: {queries} queries, {rows} x {dim} f32, {metric:?}, k {k}"
                ),
                &[
                    ("bytes from memory", cold_bytes(scan)),
                    ("bytes written", 32 * scan.global.stores.sectors),
                    ("warp instructions of the sample", sample.warp_instructions),
                    ("warp instructions", scan.warp_instructions),
                    ("warp instructions to form scores", exact.warp_instructions),
                    ("warp instructions without lists", lists.warp_instructions),
                ],
            );
        }
    });
}
