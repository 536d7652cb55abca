//! hamming.ptx: distances of bits, by population count and on tensor cores.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Dim, Gpu, Shape};
use ptx_emulator::isa::Class;

use super::{bits, global, random_u32};

fn run(gpu: &Gpu, kernel: &str, grid: [u32; 2], words: usize) -> (Counts, Vec<u32>) {
    let (queries, bases) = match kernel {
        "hamming_popc" => (grid[1] as usize, 128 * grid[0] as usize),
        _ => (16 * grid[1] as usize, 32 * grid[0] as usize),
    };
    let module = gpu.load(include_str!("../kernels/hamming.ptx")).unwrap();
    let (q, b) = (random_u32(24, queries * words), random_u32(25, bases * words));
    let out = gpu.allocate(4 * (queries * bases) as u64).unwrap();
    let args = [
        Arg::U64(gpu.upload(&q).unwrap()),
        Arg::U64(gpu.upload(&b).unwrap()),
        Arg::U64(out),
        Arg::U32(bases as u32),
        Arg::U32(words as u32),
    ];
    let grid = Dim([grid[0], grid[1], 1]);
    let shape = Shape { grid, block: 128.into(), shared: 0, cooperative: false };
    let counts = gpu.launch_shaped(&module, kernel, &shape, &args).unwrap();
    let out = gpu.download::<u32>(out, queries * bases).unwrap();
    for (query, out) in q.chunks(words).zip(out.chunks(bases)) {
        for (base, &out) in b.chunks(words).zip(out) {
            let differ = query.iter().zip(base).map(|(q, b)| (q ^ b).count_ones());
            assert_eq!(out, differ.sum::<u32>());
        }
    }
    (counts, out)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (mut counts, out) = run(gpu, "hamming_popc", [2, 3], 16);
    let (more, same) = run(gpu, "hamming_mma", [3, 2], 24);
    counts += &more;
    (counts, bits(&[out, same].concat()))
}

#[test]
fn by_population_count() {
    let words = 24;
    let (counts, _) = run(&Gpu::new(80), "hamming_popc", [2, 5], words);
    let (warps, steps) = (4 * 10, words as u64 / 4);
    assert_eq!(
        global(&counts),
        [(2 * warps * steps, 33 * warps * steps), (warps, 4 * warps), (0, 0)]
    );
    // Four exclusive ors and population counts a step.
    assert_eq!(counts.classes[Class::Logic].warps, 8 * warps * steps);
}

#[test]
fn on_tensor_cores() {
    let words = 32;
    let (counts, _) = run(&Gpu::new(80), "hamming_mma", [2, 3], words);
    let (warps, steps) = (4 * 6, words as u64 / 8);
    assert_eq!(counts.classes[Class::Tensor].warps, warps * steps);
    assert_eq!(counts.tensor_multiply_adds, warps * steps * 16 * 8 * 256);
    // As many bits as there are in all pairs.
    assert_eq!(counts.tensor_multiply_adds, (16 * 3) * (32 * 2) * 32 * words as u64);
    assert_eq!(
        global(&counts),
        [(6 * warps * steps, 48 * warps * steps), (2 * warps, 16 * warps), (0, 0)]
    );
}
