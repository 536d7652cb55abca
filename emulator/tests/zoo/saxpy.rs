//! saxpy.ptx: what alignment and strides cost.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu};
use ptx_emulator::isa::Class;

use super::{assert_issued, bits, global, random_f32};

const A: f32 = 1.7;

/// y of n elements, `stride` apart, where x and y begin `skip` elements into an allocation.
fn run(gpu: &Gpu, n: usize, stride: usize, skip: usize) -> (Counts, Vec<f32>) {
    let module = gpu.load(include_str!("../kernels/saxpy.ptx")).unwrap();
    let length = skip + n * stride;
    let (x, y) = (random_f32(1, length), random_f32(2, length));
    let (x_at, y_at) = (gpu.upload(&x).unwrap(), gpu.upload(&y).unwrap());
    let start = 4 * skip as u64;
    let args = [
        Arg::U64(x_at + start),
        Arg::U64(y_at + start),
        Arg::F32(A),
        Arg::U32(n as u32),
        Arg::U32(stride as u32),
    ];
    let counts = gpu.launch(&module, "saxpy", n.div_ceil(256) as u32, 256, &args).unwrap();
    let out = gpu.download::<f32>(y_at, length).unwrap();
    let mut expected = y;
    for i in (skip..length).step_by(stride) {
        expected[i] = A.mul_add(x[i], expected[i]);
    }
    assert_eq!(out, expected);
    (counts, out)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (mut counts, out) = run(gpu, 1000, 1, 0);
    counts += &run(gpu, 3000, 3, 1).0;
    (counts, bits(&out))
}

/// 4 blocks of 8 warps, each whole. No thread executes the branch, whose guard does not hold.
#[test]
fn aligned() {
    let (counts, _) = run(&Gpu::new(80), 1024, 1, 0);
    assert_eq!(global(&counts), [(64, 256), (32, 128), (0, 0)]);
    assert_issued(
        &counts,
        &[
            (Class::LoadConstant, 5 * 32),
            (Class::Move, 5 * 32),
            (Class::Integer, 4 * 32),
            (Class::Compare, 32),
            (Class::Control, 2 * 32),
            (Class::LoadGlobal, 2 * 32),
            (Class::Fma32, 32),
            (Class::StoreGlobal, 32),
        ],
    );
    assert_eq!(counts.warp_instructions, 21 * 32);
    assert_eq!(counts.thread_instructions, 20 * 1024);
    assert_eq!(counts.multiply_adds(), 1024);
    assert_eq!(counts.divergent_branches, 0);
    // Four parameters of 28 bytes and n, by every thread.
    assert_eq!(counts.constant_bytes, 1024 * (8 + 8 + 4 + 4 + 4));
    // x and y are read, y is written; the first touch of each sector is the only one.
    assert_eq!(counts.global.unique_read_bytes, 2 * 4096);
    assert_eq!(counts.global.unique_written_bytes, 4096);
    assert_eq!(counts.global.cold_read_sectors, 256);
    assert_eq!(counts.global.cold_written_sectors, 128);
    assert_eq!((counts.blocks, counts.warps, counts.threads), (4, 32, 1024));
}

/// 1000 is 31 warps and 8 threads more: the last warp splits, and its 8 threads touch a sector.
#[test]
fn tail() {
    let (counts, _) = run(&Gpu::new(80), 1000, 1, 0);
    assert_eq!(global(&counts), [(64, 2 * (31 * 4 + 1)), (32, 31 * 4 + 1), (0, 0)]);
    assert_eq!(counts.divergent_branches, 1);
    assert_eq!(counts.warp_instructions, 21 * 32);
    assert_eq!(counts.thread_instructions, 20 * 1000 + 8 * 24);
}

/// A whole warp without an element leaves at the branch.
#[test]
fn idle_warps() {
    let (counts, _) = run(&Gpu::new(80), 32 * 5, 1, 0);
    assert_eq!(global(&counts), [(10, 40), (5, 20), (0, 0)]);
    assert_eq!(counts.warp_instructions, 21 * 5 + 8 * 3);
    assert_eq!(counts.divergent_branches, 0);
}

/// Four bytes behind a sector's start, every request reaches into a fifth sector; the last 8 threads into a second.
#[test]
fn misaligned() {
    let (counts, _) = run(&Gpu::new(80), 1024, 1, 1);
    assert_eq!(global(&counts), [(64, 64 * 5), (32, 32 * 5), (0, 0)]);
    let (counts, _) = run(&Gpu::new(80), 1000, 1, 1);
    assert_eq!(global(&counts), [(64, 2 * (31 * 5 + 2)), (32, 31 * 5 + 2), (0, 0)]);
}

#[test]
fn strided() {
    for stride in 1..=12 {
        let (counts, _) = run(&Gpu::new(80), 512, stride, 0);
        let sectors = 4 * stride.min(8) as u64;
        assert_eq!(global(&counts), [(32, 32 * sectors), (16, 16 * sectors), (0, 0)], "{stride}");
    }
}

/// Four elements a thread: a quarter of the requests, the same sectors.
#[test]
fn vectors() {
    let gpu = Gpu::new(80);
    let module = gpu.load(include_str!("../kernels/saxpy.ptx")).unwrap();
    let (x, y) = (random_f32(3, 2048), random_f32(4, 2048));
    let (x_at, y_at) = (gpu.upload(&x).unwrap(), gpu.upload(&y).unwrap());
    let args = [Arg::U64(x_at), Arg::U64(y_at), Arg::F32(A), Arg::U32(2048)];
    let counts = gpu.launch(&module, "saxpy_vector", 2, 256, &args).unwrap();
    let expected: Vec<f32> = x.iter().zip(&y).map(|(&x, &y)| A.mul_add(x, y)).collect();
    assert_eq!(gpu.download::<f32>(y_at, 2048).unwrap(), expected);
    assert_eq!(global(&counts), [(32, 32 * 16), (16, 16 * 16), (0, 0)]);
    assert_eq!(counts.classes[Class::Fma32].threads, 2048);
}
