//! matmul_f32.ptx: products in shared memory, in a fixed order.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Dim, Gpu, Shape};
use ptx_emulator::isa::Class;

use super::{bits, global, random_f32, shared};

fn run(gpu: &Gpu, m: usize, n: usize, k: usize) -> (Counts, Vec<f32>) {
    let module = gpu.load(include_str!("../kernels/matmul_f32.ptx")).unwrap();
    let (a, b) = (random_f32(12, m * k), random_f32(13, k * n));
    let c_at = gpu.allocate(4 * (m * n) as u64).unwrap();
    let args = [
        Arg::U64(gpu.upload(&a).unwrap()),
        Arg::U64(gpu.upload(&b).unwrap()),
        Arg::U64(c_at),
        Arg::U32(m as u32),
        Arg::U32(n as u32),
        Arg::U32(k as u32),
    ];
    let grid = Dim([n.div_ceil(32) as u32, m.div_ceil(32) as u32, 1]);
    let shape = Shape { grid, block: [32, 8].into(), shared: 0, cooperative: false };
    let counts = gpu.launch_shaped(&module, "matmul", &shape, &args).unwrap();
    let c = gpu.download::<f32>(c_at, m * n).unwrap();
    for row in 0..m {
        for column in 0..n {
            let product = |sum: f32, i: usize| a[row * k + i].mul_add(b[i * n + column], sum);
            assert_eq!(c[row * n + column], (0..k).fold(0.0, product), "{row}, {column}");
        }
    }
    (counts, c)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (counts, c) = run(gpu, 40, 50, 37);
    (counts, bits(&c))
}

/// 2 x 3 blocks with 4 pieces each.
#[test]
fn whole_tiles() {
    let (counts, _) = run(&Gpu::new(80), 64, 96, 128);
    let (blocks, pieces) = (6, 24);
    assert_eq!(counts.classes[Class::Fma32].threads, 64 * 96 * 128);
    assert_eq!(counts.multiply_adds(), 64 * 96 * 128);
    let expected = [(64 * pieces, 256 * pieces), (32 * blocks, 128 * blocks), (0, 0)];
    assert_eq!(global(&counts), expected);
    assert_eq!(
        shared(&counts),
        [(1280 * pieces, 1280 * pieces), (64 * pieces, 64 * pieces), (0, 0)]
    );
    assert_eq!(counts.barrier_arrivals, 16 * pieces);
    assert_eq!(counts.divergent_branches, 0);
}

/// The tiles are padded with zeros: the work is that of whole tiles.
#[test]
fn ragged_edges() {
    for (m, n, k) in [(1, 1, 1), (33, 31, 5), (7, 40, 65)] {
        let (counts, _) = run(&Gpu::new(80), m, n, k);
        let tiles = m.div_ceil(32) * n.div_ceil(32) * k.div_ceil(32);
        assert_eq!(counts.classes[Class::Fma32].threads, (tiles * 32 * 32 * 32) as u64);
    }
}
