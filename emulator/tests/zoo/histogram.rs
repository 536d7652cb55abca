//! histogram.ptx: atomics in shared memory, then in global memory.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu};

use super::{bits, global, random_u32, shared};

/// The histogram of the words' bytes, added to what two launches before left.
fn run(gpu: &Gpu, words: &[u32], blocks: u32) -> (Counts, Vec<u32>) {
    let module = gpu.load(include_str!("../kernels/histogram.ptx")).unwrap();
    let (from, bins) = (gpu.upload(words).unwrap(), gpu.upload(&[0u32; 256]).unwrap());
    let args = [Arg::U64(from), Arg::U64(bins), Arg::U32(words.len() as u32)];
    let counts = gpu.launch(&module, "histogram", blocks, 256, &args).unwrap();
    gpu.launch(&module, "histogram", blocks, 256, &args).unwrap();
    let mut expected = vec![0; 256];
    for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
        expected[usize::from(byte)] += 2;
    }
    let bins = gpu.download::<u32>(bins, 256).unwrap();
    assert_eq!(bins, expected);
    (counts, bins)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (counts, bins) = run(gpu, &random_u32(16, 4001), 5);
    (counts, bits(&bins))
}

/// Every byte differs among the lanes, in banks of their own, and every bin is filled.
#[test]
fn distinct_banks() {
    // Thread t of a block: 4 bytes t, in a block of 256.
    let words: Vec<u32> = (0..256 * 6).map(|i| (i & 0xFF) * 0x0101_0101).collect();
    let (counts, _) = run(&Gpu::new(80), &words, 3);
    assert_eq!(global(&counts), [(3 * 16, 3 * 64), (0, 0), (3 * 8, 3 * 32)]);
    let [loads, stores, atomics] = shared(&counts);
    assert_eq!((loads, stores), ((24, 24), (24, 24)));
    assert_eq!(atomics, (3 * 64, 3 * 64));
    assert_eq!(counts.barrier_arrivals, 3 * 16);
}

/// Bins that are multiples of 32 share a bank: 8 of them, each wanted by 4 lanes, take 8 passes.
#[test]
fn one_bank() {
    let words: Vec<u32> = (0..256).map(|i| (i & 7) * 0x2020_2020).collect();
    let (counts, _) = run(&Gpu::new(80), &words, 1);
    assert_eq!(shared(&counts)[2], (32, 8 * 32));
    // One filled bin in each warp's 32.
    assert_eq!(global(&counts)[2], (8, 8));
}

#[test]
fn ragged_lengths() {
    for n in [0, 1, 255, 1000] {
        run(&Gpu::new(80), &random_u32(17, n), 2);
    }
}
