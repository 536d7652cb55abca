//! matmul_bf16.ptx: tensor cores, fed by asynchronous copies through swizzled shared memory.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Dim, Gpu, Shape};
use ptx_emulator::isa::Class;

use super::{bits, copies, global, random, shared};

/// What lies behind a row's end; whoever reads it, shows it.
const NAN: u16 = 0x7FC0;

/// Integers in -8 .. 8, whose products and sums are exact in f32.
fn matrix(seed: u64, rows: usize, columns: usize) -> Vec<f32> {
    let mut next = random(seed);
    (0..rows * columns).map(|_| (next() % 17) as f32 - 8.0).collect()
}

/// Rows of bf16, each begun at a multiple of 8 elements.
fn pitched(values: &[f32], columns: usize) -> Vec<u16> {
    let pitch = columns.next_multiple_of(8);
    let mut rows = Vec::new();
    for row in values.chunks(columns) {
        // Small integers have no more bits than bf16.
        rows.extend(row.iter().map(|value| (value.to_bits() >> 16) as u16));
        rows.resize(rows.len().next_multiple_of(pitch), NAN);
    }
    rows
}

const KERNEL: &str = include_str!("../kernels/matmul_bf16.ptx");

fn run(gpu: &Gpu, m: usize, n: usize, k: usize) -> (Counts, Vec<f32>) {
    run_text(gpu, KERNEL, m, n, k)
}

fn run_text(gpu: &Gpu, text: &str, m: usize, n: usize, k: usize) -> (Counts, Vec<f32>) {
    let module = gpu.load(text).unwrap();
    let (a, b) = (matrix(14, m, k), matrix(15, k, n));
    let c_at = gpu.allocate(4 * (m * n) as u64).unwrap();
    let args = [
        Arg::U64(gpu.upload(&pitched(&a, k)).unwrap()),
        Arg::U64(gpu.upload(&pitched(&b, n)).unwrap()),
        Arg::U64(c_at),
        Arg::U32(m as u32),
        Arg::U32(n as u32),
        Arg::U32(k as u32),
        Arg::U32(k.next_multiple_of(8) as u32),
        Arg::U32(n.next_multiple_of(8) as u32),
    ];
    let grid = Dim([n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1]);
    let shape = Shape { grid, block: 128.into(), shared: 0, cooperative: false };
    let counts = gpu.launch_shaped(&module, "matmul", &shape, &args).unwrap();
    let c = gpu.download::<f32>(c_at, m * n).unwrap();
    for row in 0..m {
        for column in 0..n {
            let sum: f32 = (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
            assert_eq!(c[row * n + column], sum, "{row}, {column} of {m} x {n} x {k}");
        }
    }
    (counts, c)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (counts, c) = run(gpu, 77, 90, 75);
    (counts, bits(&c))
}

/// 2 x 3 blocks with 4 pieces each.
#[test]
fn whole_tiles() {
    let (counts, _) = run(&Gpu::new(80), 128, 192, 128);
    let (blocks, pieces) = (6, 24);
    assert_eq!(counts.classes[Class::Tensor].warps, 64 * pieces);
    assert_eq!(counts.tensor_multiply_adds, 64 * pieces * 16 * 8 * 16);
    assert_eq!(counts.multiply_adds(), 128 * 192 * 128);
    assert_eq!(counts.classes[Class::MatrixMove].warps, 32 * pieces);
    // A commit before each of the 4 pieces and 2 more, and 4 waits, by 4 warps.
    assert_eq!(counts.classes[Class::AsyncCopy].warps, 16 * pieces + 4 * (6 + 4) * blocks);
    assert_eq!(counts.async_copy_bytes, 8192 * pieces);
    let expected = [(16 * pieces, 256 * pieces), (128 * blocks, 1024 * blocks), (0, 0)];
    assert_eq!(global(&counts), expected);
    // No bank conflicts: 128 bytes a wavefront.
    assert_eq!(shared(&counts), [(32 * pieces, 128 * pieces), (0, 0), (0, 0)]);
    assert_eq!(copies(&counts), (16 * pieces, 64 * pieces));
    assert_eq!(counts.shared.conflicts(), 0);
    assert_eq!(counts.barrier_arrivals, 4 * pieces);
    assert_eq!(counts.divergent_branches, 0);
}

#[test]
fn ragged_edges() {
    for (m, n, k) in [(1, 1, 1), (15, 9, 33), (65, 63, 40), (77, 131, 101)] {
        let (counts, _) = run(&Gpu::new(80), m, n, k);
        let tiles = (m.div_ceil(64) * n.div_ceil(64) * k.div_ceil(32)) as u64;
        assert_eq!(counts.tensor_multiply_adds, tiles * 64 * 16 * 8 * 16, "{m} x {n} x {k}");
        // Of every row only what is there is read: by each block beside or below, and once by the launch.
        let (across, down) = (n.div_ceil(64), m.div_ceil(64));
        let loads = counts.global.loads;
        let requests = m.div_ceil(8) * k.div_ceil(32) * across + k.div_ceil(4) * across * down;
        assert_eq!(loads.requests, requests as u64);
        assert_eq!(loads.bytes, 2 * (m * k * across + k * n * down) as u64);
        assert_eq!(counts.global.unique_read_bytes, 2 * (m * k + k * n) as u64);
        assert_eq!(counts.global.stores.bytes, 4 * (m * n) as u64);
        assert_eq!(counts.global.unique_written_bytes, 4 * (m * n) as u64);
        // Swizzles are as good at the edges.
        let copied = (m.div_ceil(64) * n.div_ceil(64) * k.div_ceil(32).max(2)) as u64;
        assert_eq!(shared(&counts)[0], (32 * tiles, 128 * tiles));
        assert_eq!(copies(&counts), (16 * copied, 64 * copied));
        assert_eq!(counts.shared.conflicts(), 0);
    }
}

/// With every chunk at its own place, the 8 rows of a matrix of A share 2 places of 16 bytes, 4 to each, and those of B one.
#[test]
fn without_swizzle() {
    let mut text = KERNEL.to_owned();
    for swizzled in [
        "xor.b32 %place, %place, %chunk;",
        "xor.b32 %place, %chunk, %swizzle_a;",
        "xor.b32 %place, %chunk, %swizzle_b;",
    ] {
        assert!(text.contains(swizzled));
        text = text.replace(swizzled, "mov.b32 %place, %chunk;");
    }
    let (counts, _) = run_text(&Gpu::new(80), &text, 64, 64, 64);
    let pieces = 2;
    // 4 passes for each matrix of A, 8 for each of B; 16 ldmatrix.x4 of each a piece.
    assert_eq!(shared(&counts)[0], (32 * pieces, 16 * 4 * (4 + 8) * pieces));
    // 8 lanes of a copy still write 128 bytes in one line.
    assert_eq!(copies(&counts), (16 * pieces, 64 * pieces));
    assert_eq!(counts.shared.conflicts(), 16 * 4 * (3 + 7) * pieces);
}
