use nearkin::ops::maxsim::{MaxSim, Side, Storage, Tokens, align, both, scores, search};
use nearkin::ops::residual::Codec;
use nearkin::ops::select::Search;
use nearkin::{DType, Device, Offsets, Tensor};
use ptx_emulator::counts::Counts;

use crate::common::{Rng, normals};
use crate::pinned::pinned;
use crate::{cold_bytes, emulated, launches};

fn tokens(device: &Device, storage: Storage, lengths: &[usize], dim: usize, seed: u64) -> Tokens {
    let offsets = Offsets::from_lengths(device, lengths).unwrap();
    let (vectors, _) = normals(device, DType::F32, &[offsets.total(), dim], &mut Rng(seed));
    Tokens::new(&vectors, &offsets).unwrap().to_storage(storage).unwrap()
}

/// Every document token comes from memory once, whatever the number of queries; nothing but scores is written.
#[test]
fn documents_are_read_once_and_only_scores_are_written() {
    let Some((emulator, device)) = emulated() else { return };
    let ragged: Vec<usize> = (0..90).map(|i| 30 + i * 37 % 90).collect();
    let fixed = vec![128; 60];
    let cases: [(Storage, usize, &[usize], &[usize]); 6] = [
        (Storage::F32, 128, &[32], &ragged),
        (Storage::F16, 128, &[32], &ragged),
        (Storage::BF16, 128, &[32; 4], &fixed),
        (Storage::F16, 128, &[77, 20], &fixed),
        (Storage::Int8, 128, &[32], &ragged),
        (Storage::Binary, 512, &[32, 32], &fixed),
    ];
    for (storage, dim, queries, documents) in cases {
        let q = tokens(&device, storage, queries, dim, 1);
        let d = tokens(&device, storage, documents, dim, 2);
        let what = format!("{} queries, {} x {dim} {storage}", queries.len(), d.total());
        let all = launches(&emulator, || {
            scores(&q, &d, &MaxSim::colbert()).unwrap();
        });
        let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
        assert_eq!(names, ["maxsim"], "{what}");
        let counts = &all[0].counts;
        // Only a query of several passes keeps a state.
        let passes = queries.iter().map(|n| n.div_ceil(64)).max().unwrap();
        let state = if passes > 1 { counts.blocks as usize * passes * 128 * 12 } else { 0 };
        let floor = (q.bytes() + d.bytes() + 4 * queries.len() * documents.len() + state) as u64;
        // A score is a sector at most; a state is written once a document and once a tile.
        let tiles: usize = documents.iter().map(|n| n.div_ceil(64) + 1).sum();
        let state = if passes > 1 { queries.len() * passes * tiles * 128 * 12 } else { 0 };
        let most = 32 * queries.len() * documents.len() + state;
        holds(&what, counts, floor, most as u64);
    }
}

/// A launch reads little more than `floor` from memory and writes at most `most`, without conflicts and local memory.
fn holds(what: &str, counts: &Counts, floor: u64, most: u64) {
    let (cold, written) = (cold_bytes(counts), 32 * counts.global.stores.sectors);
    println!(
        "{what}: {cold} bytes from memory ({:.3} of the floor), {} blocks, {} warp instructions, {} conflicts",
        cold as f64 / floor as f64,
        counts.blocks,
        counts.warp_instructions,
        counts.shared.conflicts()
    );
    assert!(cold <= floor + floor / 10, "{what}: {cold} bytes from memory, floor {floor}");
    assert!(written <= most, "{what}: {written} bytes written, at most {most}");
    pinned(
        &format!("maxsim, {what}"),
        &[("bytes from memory", cold), ("warp instructions", counts.warp_instructions)],
    );
    assert_eq!(counts.local_bytes, 0, "{what}: local memory");
    assert_eq!(counts.shared.conflicts(), 0, "{what}: bank conflicts");
}

/// Both sides, and places, come from one pass over the documents.
#[test]
fn both_sides_are_one_pass() {
    let Some((emulator, device)) = emulated() else { return };
    let q = tokens(&device, Storage::BF16, &[50], 64, 1);
    let d = tokens(&device, Storage::BF16, &[150; 20], 64, 2);
    let one = launches(&emulator, || {
        scores(&q, &d, &MaxSim::colbert()).unwrap();
    });
    let two = launches(&emulator, || {
        both(&q, &d, &MaxSim::filip(Side::Queries)).unwrap();
    });
    let places = launches(&emulator, || {
        align(&q, &d, &[(0..20).collect()]).unwrap();
    });
    assert_eq!((one.len(), two.len(), places.len()), (1, 1, 1));
    let sectors = |l: &[ptx_emulator::client::LaunchRecord]| l[0].counts.global.loads.sectors;
    let most = sectors(&one) + sectors(&one) / 10;
    assert!(
        sectors(&two) <= most,
        "{} sectors loaded for both sides, at most {most}",
        sectors(&two)
    );
    let instructions = [&one, &two].map(|l| l[0].counts.warp_instructions);
    println!("one side {} warp instructions, both {}", instructions[0], instructions[1]);
    assert!(instructions[1] <= 2 * instructions[0], "{instructions:?} warp instructions");
    pinned(
        "maxsim, 50 tokens by 20 of 150 x 64 bf16",
        &[
            ("warp instructions", instructions[0]),
            ("warp instructions for both sides", instructions[1]),
        ],
    );
}

/// Residuals and numbers of centroids come from memory once, centroids too; what they decode to is not written.
#[test]
fn codes_are_read_once_and_vectors_are_not_written() {
    let Some((emulator, device)) = emulated() else { return };
    let ragged: Vec<usize> = (0..90).map(|i| 30 + i * 37 % 90).collect();
    let cases: [(Storage, u32, usize, &[usize]); 6] = [
        (Storage::F32, 2, 128, &[32]),
        (Storage::F32, 1, 96, &[32, 7]),
        (Storage::F16, 2, 128, &[32]),
        (Storage::F16, 4, 128, &[32; 4]),
        (Storage::BF16, 4, 96, &[32]),
        (Storage::BF16, 1, 128, &[77]),
    ];
    let total: usize = ragged.iter().sum();
    let (clusters, offsets) = (64, Offsets::from_lengths(&device, &ragged).unwrap());
    for (storage, bits, dim, queries) in cases {
        let mut rng = Rng(7);
        let (centroids, _) = normals(&device, DType::F32, &[clusters, dim], &mut rng);
        let cutoffs: Vec<f32> = (1..1 << bits).map(|i| i as f32).collect();
        let codec = Codec::new(&centroids, &cutoffs, &rng.normals(1 << bits)).unwrap();
        let numbers: Vec<u32> = (0..total).map(|_| rng.below(clusters) as u32).collect();
        let words: Vec<u32> = (0..total * codec.words()).map(|_| rng.next() as u32).collect();
        let codes = codec.codes(&numbers, &words).unwrap();
        let d = Tokens::compressed(&codec, &codes, &offsets).unwrap();
        let q = tokens(&device, storage, queries, dim, 1);
        let what =
            format!("{} queries in {storage}, {total} x {dim} of {bits} bits", queries.len());
        let all = launches(&emulator, || {
            scores(&q, &d, &MaxSim::colbert()).unwrap();
        });
        let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
        assert_eq!(names, ["maxsim"], "{what}");
        let counts = &all[0].counts;
        let passes = queries.iter().map(|n| n.div_ceil(64)).max().unwrap();
        // Written and read.
        let state = if passes > 1 { 2 * counts.blocks as usize * passes * 128 * 12 } else { 0 };
        let pairs = queries.len() * ragged.len();
        let floor = (q.bytes() + d.bytes() + 4 * clusters * dim + 4 * pairs + state) as u64;
        // Two stores of a state touch all its sectors.
        let tiles: usize = ragged.iter().map(|n| n.div_ceil(64) + 1).sum();
        let state = if passes > 1 { 2 * queries.len() * passes * tiles * 128 * 12 } else { 0 };
        holds(&what, counts, floor, (32 * pairs + state) as u64);
    }
}

/// Behind its scores a search reads them once, where they lie, and leaves what it finds.
#[test]
fn a_search_reads_its_scores_once() {
    let Some((emulator, device)) = emulated() else { return };
    for (queries, documents, k) in [(1, 4500, 10), (3, 3001, 65)] {
        let q = tokens(&device, Storage::BF16, &vec![1; queries], 8, 3);
        let ones = vec![1; documents];
        let d = tokens(&device, Storage::BF16, &ones, 8, 4);
        let what = format!("{queries} queries, {documents} documents, k {k}");
        let find = |d: &Tokens| {
            launches(&emulator, || {
                let d = std::slice::from_ref(d);
                search(&q, d, &MaxSim::colbert(), &Search::new(k)).unwrap();
            })
        };
        let all = find(&d);
        let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
        assert_eq!(names, ["maxsim", "select_scores", "select_merge"], "{what}");
        let (select, merge) = (&all[1].counts, &all[2].counts);
        let floor = (4 * queries * documents + 8 * k * queries) as u64;
        let cold = cold_bytes(select) + cold_bytes(merge);
        println!(
            "{what}: {cold} bytes behind the scores ({:.3} of the floor), {} blocks, {} warp instructions and {} to merge",
            cold as f64 / floor as f64,
            select.blocks,
            select.warp_instructions,
            merge.warp_instructions
        );
        assert!(cold <= floor + floor / 10, "{what}: {cold} bytes from memory, floor {floor}");
        pinned(
            &format!("maxsim, search, {what}"),
            &[
                ("bytes behind the scores", cold),
                ("warp instructions", select.warp_instructions),
                ("warp instructions to merge", merge.warp_instructions),
            ],
        );
        assert_eq!(select.local_bytes + merge.local_bytes, 0, "{what}: local memory");
        // Where nothing enters a list, scores are only read: a group of four at a time, those between two rows twice.
        let nan =
            Tensor::from_f32(&device, DType::BF16, &[documents, 8], &vec![f32::NAN; 8 * documents]);
        let offsets = Offsets::from_lengths(&device, &ones).unwrap();
        let all = find(&Tokens::new(&nan.unwrap(), &offsets).unwrap());
        let counts = &all[1].counts;
        let sectors = counts.global.loads.sectors;
        let most = (4 * queries * documents / 32 + 2 * counts.blocks as usize) as u64;
        assert!(sectors <= most, "{what}: {sectors} sectors loaded, at most {most}");
        assert_eq!(counts.shared.conflicts(), 0, "{what}: bank conflicts");
    }
}
