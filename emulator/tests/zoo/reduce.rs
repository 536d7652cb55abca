//! reduce.ptx: sums in shuffles, in shared memory, and across blocks.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu};
use ptx_emulator::isa::Class;

use super::{bits, global, random_f32, shared};

/// The sum of a butterfly over a power of two of values, the farthest first.
fn butterfly(values: &[f32]) -> f32 {
    let mut values = values.to_vec();
    let mut distance = values.len() / 2;
    while distance > 0 {
        values = (0..values.len()).map(|lane| values[lane] + values[lane ^ distance]).collect();
        distance /= 2;
    }
    values[0]
}

/// The sum over a block, from each thread's own.
fn block_sum(mine: &[f32]) -> f32 {
    let warps: Vec<f32> = mine.chunks(32).map(butterfly).collect();
    butterfly(&warps)
}

/// Each block's sum, in the order of the kernel.
fn block_sums(values: &[f32], blocks: usize) -> Vec<f32> {
    let thread = |index: usize| {
        values.iter().skip(index).step_by(256 * blocks).fold(0f32, |sum, &value| sum + value)
    };
    (0..blocks)
        .map(|block| {
            block_sum(&(0..256).map(|index| thread(256 * block + index)).collect::<Vec<_>>())
        })
        .collect()
}

fn run_sums(gpu: &Gpu, values: &[f32], blocks: u32) -> (Counts, Vec<f32>) {
    let module = gpu.load(include_str!("../kernels/reduce.ptx")).unwrap();
    let (from, out) = (gpu.upload(values).unwrap(), gpu.allocate(4 * u64::from(blocks)).unwrap());
    let args = [Arg::U64(from), Arg::U64(out), Arg::U32(values.len() as u32)];
    let counts = gpu.launch(&module, "block_sums", blocks, 256, &args).unwrap();
    (counts, gpu.download(out, blocks as usize).unwrap())
}

/// Two launches with one ticket counter, which has to be 0 again for the second.
fn run_last(gpu: &Gpu, values: &[f32], blocks: u32) -> (Counts, Vec<f32>) {
    let module = gpu.load(include_str!("../kernels/reduce.ptx")).unwrap();
    let from = gpu.upload(values).unwrap();
    let partial = gpu.allocate(4 * u64::from(blocks)).unwrap();
    let ticket = gpu.upload(&[0u32]).unwrap();
    let out = gpu.allocate(4).unwrap();
    let [from, partial, ticket_arg, out_arg] = [from, partial, ticket, out].map(Arg::U64);
    let args = [from, partial, ticket_arg, out_arg, Arg::U32(values.len() as u32)];
    let first = gpu.launch(&module, "last_block_sum", blocks, 256, &args).unwrap();
    assert_eq!(gpu.download::<u32>(ticket, 1).unwrap(), [0]);
    let counts = gpu.launch(&module, "last_block_sum", blocks, 256, &args).unwrap();
    assert_eq!(first, counts);
    (counts, gpu.download(out, 1).unwrap())
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let values = random_f32(5, 5000);
    let (mut counts, mut out) = run_sums(gpu, &values, 6);
    let (more, sum) = run_last(gpu, &values, 6);
    counts += &more;
    out.extend(sum);
    (counts, bits(&out))
}

#[test]
fn sums_of_blocks() {
    let (blocks, each) = (3, 5);
    let values = random_f32(6, 256 * blocks * each);
    let (counts, out) = run_sums(&Gpu::new(80), &values, blocks as u32);
    assert_eq!(out, block_sums(&values, blocks));
    let (b, e) = (blocks as u64, each as u64);
    assert_eq!(global(&counts), [(8 * e * b, 32 * e * b), (b, b), (0, 0)]);
    assert_eq!(shared(&counts), [(b, b), (8 * b, 8 * b), (0, 0)]);
    assert_eq!(counts.classes[Class::Warp].warps, 43 * b);
    assert_eq!(counts.classes[Class::Float32].warps, (8 * e + 43) * b);
    assert_eq!(counts.barrier_arrivals, 8 * b);
    assert_eq!(counts.divergent_branches, 0);
}

#[test]
fn sums_of_ragged_lengths() {
    for n in [1, 31, 33, 256, 700, 1537] {
        let values = random_f32(n as u64, n);
        let (_, out) = run_sums(&Gpu::new(80), &values, 2);
        assert_eq!(out, block_sums(&values, 2), "{n}");
    }
}

#[test]
fn sum_by_the_last_block() {
    for (blocks, each) in [(1, 1), (5, 2), (64, 1), (256, 1)] {
        let values = random_f32(blocks as u64, 256 * blocks * each);
        let (counts, out) = run_last(&Gpu::new(80), &values, blocks as u32);
        let mut partial = block_sums(&values, blocks);
        partial.resize(256, 0.0);
        assert_eq!(out, [block_sum(&partial)], "{blocks}");

        let (b, e) = (blocks as u64, each as u64);
        let [loads, stores, atomics] = global(&counts);
        // The sums of blocks are 8 to a sector.
        assert_eq!(loads, (8 * e * b + b.div_ceil(32), 32 * e * b + b.div_ceil(8)));
        assert_eq!((stores, atomics), ((b + 1, b + 1), (b, b)));
        assert_eq!(shared(&counts), [(9 * b + 1, 9 * b + 1), (9 * b + 8, 9 * b + 8), (0, 0)]);
        assert_eq!(counts.classes[Class::Fence].warps, b + 8);
        assert_eq!(counts.classes[Class::Warp].warps, 43 * (b + 1));
        assert_eq!(counts.barrier_arrivals, 16 * b + 8);
    }
}
