//! topk.ptx: votes and shuffles that depend on the data.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu};
use ptx_emulator::isa::Class;

use super::{global, random, random_f32, shared};

/// Scores and indices of the k greatest of each row of n.
fn run(gpu: &Gpu, scores: &[f32], n: usize, k: usize) -> (Counts, Vec<f32>, Vec<u32>) {
    let module = gpu.load(include_str!("../kernels/topk.ptx")).unwrap();
    let rows = scores.len() / n;
    let from = gpu.upload(scores).unwrap();
    let [out_scores, out_indices] = [0; 2].map(|_| gpu.allocate(4 * (rows * k) as u64).unwrap());
    let [from, scores_arg, indices_arg] = [from, out_scores, out_indices].map(Arg::U64);
    let args = [from, scores_arg, indices_arg, Arg::U32(n as u32), Arg::U32(k as u32)];
    let counts = gpu.launch(&module, "topk", rows as u32, 128, &args).unwrap();
    let best = gpu.download::<f32>(out_scores, rows * k).unwrap();
    let indices = gpu.download::<u32>(out_indices, rows * k).unwrap();
    for (row, (best, indices)) in scores.chunks(n).zip(best.chunks(k).zip(indices.chunks(k))) {
        let mut order: Vec<usize> = (0..n).collect();
        // The sort is stable: the lower index stays first.
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        for (rank, &index) in order.iter().take(k).enumerate() {
            assert_eq!(indices[rank], index as u32);
            assert_eq!(best[rank].to_bits(), row[index].to_bits());
        }
        assert!(indices[n.min(k)..].iter().all(|&index| index == u32::MAX));
    }
    (counts, best, indices)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (counts, best, indices) = run(gpu, &random_f32(21, 7 * 300), 300, 10);
    let bits = best.iter().map(|score| score.to_bits()).chain(indices);
    (counts, bits.flat_map(u32::to_le_bytes).collect())
}

#[test]
fn drawn_scores() {
    for (n, k) in [(1, 1), (5, 5), (3, 8), (40, 32), (129, 7), (500, 32)] {
        run(&Gpu::new(80), &random_f32(n as u64, 3 * n), n, k);
    }
}

/// Few values, many times: indices decide. Among them zeros of both signs and infinities.
#[test]
fn equal_scores() {
    let values = [-1.5, -0.0, 0.0, 2.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
    let mut next = random(22);
    let scores: Vec<f32> = (0..4 * 200).map(|_| values[(next() % 7) as usize]).collect();
    run(&Gpu::new(80), &scores, 200, 32);
    run(&Gpu::new(80), &[1.0; 300], 300, 20);
}

/// A row in falling order: each warp inserts k once, and nothing else.
#[test]
fn falling_scores() {
    let (rows, n, k) = (3, 512, 9);
    let scores: Vec<f32> = (0..rows * n).map(|i| -((i % n) as f32)).collect();
    let (counts, ..) = run(&Gpu::new(80), &scores, n as usize, k as usize);
    let (rows, pieces, k) = (rows as u64, 16, k as u64);
    let sectors_out: u64 =
        (0..rows).map(|row| (4 * k * (row + 1)).div_ceil(32) - 4 * k * row / 32).sum();
    let expected = [(rows * pieces, rows * pieces * 4), (2 * rows, 2 * sectors_out), (0, 0)];
    assert_eq!(global(&counts), expected);
    assert_eq!(shared(&counts), [(3 * rows, 6 * rows), (3 * rows, 6 * rows), (0, 0)]);
    assert_eq!(counts.classes[Class::Warp].warps, rows * (3 * (pieces + 3) + 4 * 8 * k));
    assert_eq!(counts.barrier_arrivals, 4 * rows);
    // Warp 0 splits where only the first k lanes write.
    assert_eq!(counts.divergent_branches, rows);
}
