//! grid_barrier.ptx: blocks that wait for each other.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu, Shape};

use super::{bits, global, random_u32};

fn run(gpu: &Gpu, blocks: u32, threads: u32, rounds: u32) -> (Counts, Vec<u32>) {
    let module = gpu.load(include_str!("../kernels/grid_barrier.ptx")).unwrap();
    let n = (blocks * threads) as usize;
    let mut cells = random_u32(23, n);
    let even = gpu.upload(&cells).unwrap();
    let odd = gpu.allocate(4 * n as u64).unwrap();
    let counter = gpu.upload(&[0u32]).unwrap();
    let [even_arg, odd_arg, counter_arg] = [even, odd, counter].map(Arg::U64);
    let args = [even_arg, odd_arg, counter_arg, Arg::U32(n as u32), Arg::U32(rounds)];
    let shape = Shape { grid: blocks.into(), block: threads.into(), shared: 0, cooperative: true };
    let counts = gpu.launch_shaped(&module, "ring", &shape, &args).unwrap();
    for _ in 0..rounds {
        let next = |i: usize| cells[(i + n - 1) % n].wrapping_add(cells[(i + 1) % n]);
        cells = (0..n).map(next).collect();
    }
    let out = gpu.download(if rounds.is_multiple_of(2) { even } else { odd }, n).unwrap();
    assert_eq!(out, cells);
    assert_eq!(gpu.download::<u32>(counter, 1).unwrap(), [blocks * rounds]);
    (counts, out)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (counts, cells) = run(gpu, 5, 64, 4);
    (counts, bits(&cells))
}

#[test]
fn rounds() {
    for (blocks, threads, rounds) in [(1, 64, 3), (4, 96, 1), (6, 64, 5)] {
        let (counts, _) = run(&Gpu::new(80), blocks, threads, rounds);
        let (b, r) = (u64::from(blocks), u64::from(rounds));
        let warps = b * u64::from(threads / 32);
        let [loads, stores, atomics] = global(&counts);
        let cells = 2 * warps * r;
        // Each look at the counter is one request of one sector more.
        assert!(loads.0 >= cells + b * r);
        assert_eq!(loads.1, 5 * cells + (loads.0 - cells));
        assert_eq!(stores, (warps * r, 4 * warps * r));
        assert_eq!(atomics, (b * r, b * r));
        assert_eq!(counts.barrier_arrivals, 2 * warps * r);
    }
}
