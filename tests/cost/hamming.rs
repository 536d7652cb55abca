use nearkin::DType;
use nearkin::ops::hamming::{BinaryCorpus, Hasher, Queries, encode, topk};
use nearkin::ops::select::{Bitmap, Filter, Rows, Search};
use nearkin::{Device, Tensor};

use crate::common::{Rng, normals};
use crate::pinned::pinned;
use crate::processes::alone;
use crate::{cold_bytes, emulated, launches};

fn random(device: &Device, rows: usize, words: usize, seed: u64) -> Tensor {
    let mut rng = Rng(seed);
    let codes: Vec<u32> = (0..rows * words).map(|_| rng.next() as u32).collect();
    Tensor::from_slice(device, &[rows, words], &codes).unwrap()
}

/// A search, and the tile of queries that it should take.
struct Case {
    queries: usize,
    rows: usize,
    bits: usize,
    k: usize,
    tile: usize,
}

#[test]
fn a_search_streams_the_codes_once_and_writes_no_distances() {
    let Some((emulator, device)) = emulated() else { return };
    let case = |queries, rows, bits, k, tile| Case { queries, rows, bits, k, tile };
    let cases = [
        case(1, 40_000, 1024, 10, 1),
        case(3, 30_000, 160, 100, 4),
        case(4, 60_000, 256, 10, 4),
        case(32, 60_000, 1024, 10, 32),
        case(20, 30_000, 512, 100, 16),
    ];
    for Case { queries, rows, bits, k, tile } in cases {
        let words = bits / 32;
        let corpus = BinaryCorpus::from_tensor(&random(&device, rows, words, 1)).unwrap();
        let asked = random(&device, queries, words, 2);
        let what = format!("{queries} queries, {rows} x {bits} bits, k {k}");
        let half = Bitmap::from_fn(rows, |row| row / 64 % 2 == 1);
        let half = Filter::Shared(Rows::Exclude(&half));
        for (filter, share) in [(Filter::All, 1), (half, 2)] {
            let search = Search { filter, ..Search::new(k) };
            let all = launches(&emulator, || {
                topk(Queries::Codes(&asked), &corpus, &search).unwrap();
            });
            let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
            let scan = if queries <= 4 { "hamming_few" } else { "hamming" };
            assert_eq!(names, [scan, "select_merge"], "{what}");
            let (scan, merge) = (&all[0].counts, &all[1].counts);
            let floor = (rows * words * 4 / share) as u64;
            // The queries' own bytes come on top; the lists, which are written, are counted below.
            let cold = 32 * scan.global.cold_read_sectors;
            println!(
                "{what}, 1/{share} of it: {cold} bytes read from memory ({:.3} of the floor), {} blocks, {} warp \
                 instructions and {} to merge",
                cold as f64 / floor as f64,
                scan.blocks,
                scan.warp_instructions,
                merge.warp_instructions
            );
            assert!(cold <= floor + floor / 10, "{what}: {cold} bytes read, floor {floor}");
            pinned(
                &format!("hamming, {what}, 1/{share} of it"),
                &[
                    ("bytes read from memory", cold),
                    ("warp instructions", scan.warp_instructions),
                    ("warp instructions to merge", merge.warp_instructions),
                ],
            );
            let splits = scan.blocks as usize / queries.div_ceil(tile);
            let written = 32 * (scan.global.stores.sectors + merge.global.stores.sectors);
            let lists = (queries * (splits + 1) * (8 * k + 32)) as u64;
            assert!(written <= lists, "{what}: {written} bytes written, lists have {lists}");
            assert_eq!(scan.local_bytes + merge.local_bytes, 0, "{what}: local memory");
        }
    }
}

/// Many queries on Hopper: one product of and, and nothing more on tensor cores.
#[test]
fn codes_on_hopper_cost_one_product() {
    let name = "hamming::codes_on_hopper_cost_one_product";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some((emulator, device)) = emulated() else { return };
        let (queries, rows, words) = (16, 60_000, 32);
        let corpus = BinaryCorpus::from_tensor(&random(&device, rows, words, 1)).unwrap();
        let asked = random(&device, queries, words, 2);
        let all = launches(&emulator, || {
            topk(Queries::Codes(&asked), &corpus, &Search::new(10)).unwrap();
        });
        let counts = &all[0].counts;
        // Queries are padded to a tile's.
        let products = rows.next_multiple_of(64) * 2 * queries * 32 * words;
        assert_eq!(counts.tensor_multiply_adds, products as u64);
        let cold = 32 * counts.global.cold_read_sectors;
        pinned(
            &format!("hamming, Hopper: {queries} queries, {rows} x {} bits, k 10", 32 * words),
            &[("bytes read from memory", cold), ("warp instructions", counts.warp_instructions)],
        );
    });
}

/// Many codes on Hopper: each distance is formed once behind a sample, rows are read once, and few survive.
#[test]
fn many_codes_on_hopper_form_each_distance_once() {
    let name = "hamming::many_codes_on_hopper_form_each_distance_once";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some((emulator, device)) = emulated() else { return };
        let (queries, rows, words, k) = (100, 50_000, 32, 10);
        let corpus = BinaryCorpus::from_tensor(&random(&device, rows, words, 1)).unwrap();
        let asked = random(&device, queries, words, 2);
        let all = launches(&emulator, || {
            topk(Queries::Codes(&asked), &corpus, &Search::new(k)).unwrap();
        });
        let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
        let want = [
            "hamming_wgmma",
            "select_bound",
            "hamming_wgmma",
            "select_pick",
            "hamming",
            "select_merge",
        ];
        assert_eq!(names, want);
        let [sample, bound, scan, pick, lists, merge] = [0, 1, 2, 3, 4, 5].map(|i| &all[i].counts);
        // Distances, and eight products that count the bits of the rows, and for both groups of a block of the queries.
        let bits = 32 * words * 128;
        let products = (128 + 8) * rows.div_ceil(128) + 2 * 8 * scan.blocks as usize;
        assert_eq!(scan.tensor_multiply_adds, (products * bits) as u64);
        assert!(4 * sample.tensor_multiply_adds <= scan.tensor_multiply_adds);
        // No query is searched again.
        assert_eq!(lists.tensor_multiply_adds, 0);
        for counts in [sample, bound, scan, lists] {
            assert_eq!(counts.shared.conflicts() + counts.local_bytes, 0);
        }
        let share = cold_bytes(scan) as f64 / (4 * rows * words) as f64;
        assert!((1.0..1.1).contains(&share), "read {share} times");
        // Eight scores and their place for each survivor, which are a few times k.
        let written = 32 * scan.global.stores.sectors;
        assert!(written <= (100 * k * queries * 36) as u64, "{written} bytes written");
        pinned(
            &format!("hamming, Hopper: {queries} queries, {rows} x {} bits, k {k}", 32 * words),
            &[
                ("bytes from memory", cold_bytes(scan)),
                ("bytes written", written),
                ("warp instructions of the sample", sample.warp_instructions),
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

/// Tiles in which nothing beats a k-th only form distances: they add no bank conflicts.
#[test]
fn distances_are_formed_without_conflicts() {
    let Some((emulator, device)) = emulated() else { return };
    // Rows that fill the lists, so that they are cut, as they are at distance 0: nothing enters after them. Two numbers of rows of one split.
    let many = (10, 128, [192, 448]);
    let few = (256, 1024, [1024, 2047]);
    for (queries, bits, (k, fill, rows)) in [
        (1, 1024, few),
        (2, 160, few),
        (4, 256, few),
        (32, 1024, many),
        (32, 96, many),
        (32, 256, many),
    ] {
        let words = bits / 32;
        let conflicts = |rows: usize| {
            let codes: Vec<u32> =
                (0..rows * words).map(|i| if i / words < fill { 7 } else { 1 }).collect();
            let rows = Tensor::from_slice(&device, &[rows, words], &codes).unwrap();
            let corpus = BinaryCorpus::from_tensor(&rows).unwrap();
            let asked =
                Tensor::from_slice(&device, &[queries, words], &vec![7u32; queries * words])
                    .unwrap();
            let all = launches(&emulator, || {
                topk(Queries::Codes(&asked), &corpus, &Search::new(k)).unwrap();
            });
            assert_eq!(all[0].counts.blocks, 1);
            all[0].counts.shared.conflicts()
        };
        let [few, many] = rows.map(conflicts);
        assert_eq!(few, many, "{queries} queries of {bits} bits: bank conflicts of more tiles");
    }
}

#[test]
fn encoding_reads_vectors_once_and_writes_bits() {
    let Some((emulator, device)) = emulated() else { return };
    for (rows, dim, bits, dtype) in [(2000, 384, 128, DType::F32), (3000, 256, 256, DType::BF16)] {
        let (x, _) = normals(&device, dtype, &[rows, dim], &mut Rng(4));
        for project in [true, false] {
            let hasher = match project {
                true => Hasher::random(&device, &vec![0.0; dim], bits, 1).unwrap(),
                false => Hasher::sign(&device, &vec![0.0; dim]).unwrap(),
            };
            let all = launches(&emulator, || {
                encode(&x, &hasher).unwrap();
            });
            assert_eq!(all.len(), 1);
            let counts = &all[0].counts;
            let codes = rows * hasher.bits() / 8;
            let floor = (rows * dim * dtype.size() + codes + hasher.bytes()) as u64;
            let cold = cold_bytes(counts);
            println!(
                "{rows} x {dim} {dtype} to {} bits: {cold} bytes from memory ({:.3} of the floor), {} warp instructions",
                hasher.bits(),
                cold as f64 / floor as f64,
                counts.warp_instructions
            );
            assert!(cold <= floor + floor / 10, "{cold} bytes from memory, floor {floor}");
            let how = if project { "random" } else { "sign" };
            pinned(
                &format!("hamming, {rows} x {dim} {dtype} to {} bits, {how}", hasher.bits()),
                &[("bytes from memory", cold), ("warp instructions", counts.warp_instructions)],
            );
            // Every lane's word lies in another row.
            let written = 32 * counts.global.stores.sectors;
            assert!(
                written <= 8 * codes.next_multiple_of(32) as u64,
                "{written} bytes for {codes} of codes"
            );
            assert_eq!((counts.shared.conflicts(), counts.local_bytes), (0, 0));
        }
    }
}
