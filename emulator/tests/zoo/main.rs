//! Real kernels: results against plain Rust, counts against the numbers that the kernels' texts derive.

mod control;
mod grid_barrier;
mod hamming;
mod histogram;
mod matmul_bf16;
mod matmul_f32;
mod reduce;
mod saxpy;
mod scan;
mod softmax;
mod topk;
mod transpose;

use bytemuck::Pod;
use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::Gpu;
use ptx_emulator::isa::Class;

/// Requests and sectors of a launch: loads, stores, atomics.
fn global(counts: &Counts) -> [(u64, u64); 3] {
    let global = &counts.global;
    [global.loads, global.stores, global.atomics].map(|access| (access.requests, access.sectors))
}

/// Requests and wavefronts of a launch: loads, stores, atomics.
fn shared(counts: &Counts) -> [(u64, u64); 3] {
    let shared = &counts.shared;
    [shared.loads, shared.stores, shared.atomics].map(|access| (access.requests, access.wavefronts))
}

/// The same of what `cp.async` writes.
fn copies(counts: &Counts) -> (u64, u64) {
    (counts.shared.copies.requests, counts.shared.copies.wavefronts)
}

/// Instructions issued of some classes; every class that is not named has none.
fn assert_issued(counts: &Counts, expected: &[(Class, u64)]) {
    for class in Class::ALL {
        let named = expected.iter().find(|(name, _)| *name == class);
        let expected = named.map_or(0, |&(_, count)| count);
        assert_eq!(counts.classes[class].warps, expected, "{}", class.name());
    }
}

/// Numbers drawn from a seed (SplitMix64).
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }
}

/// `count` numbers in -1 .. 1.
fn random_f32(seed: u64, count: usize) -> Vec<f32> {
    let mut next = random(seed);
    (0..count).map(|_| (next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn random_u32(seed: u64, count: usize) -> Vec<u32> {
    let mut next = random(seed);
    (0..count).map(|_| next() as u32).collect()
}

fn bits<T: Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// What a kernel leaves after a launch on inputs of some size: the sum of its counts, and its output.
type Sample = fn(&Gpu) -> (Counts, Vec<u8>);

const SAMPLES: &[(&str, Sample)] = &[
    ("control", control::sample),
    ("grid_barrier", grid_barrier::sample),
    ("hamming", hamming::sample),
    ("histogram", histogram::sample),
    ("matmul_bf16", matmul_bf16::sample),
    ("matmul_f32", matmul_f32::sample),
    ("reduce", reduce::sample),
    ("saxpy", saxpy::sample),
    ("scan", scan::sample),
    ("softmax", softmax::sample),
    ("topk", topk::sample),
    ("transpose", transpose::sample),
];

/// Every run, with any number of host threads, leaves the same bits and the same counts.
#[test]
fn deterministic() {
    for (name, sample) in SAMPLES {
        let run = |threads| {
            let mut gpu = Gpu::new(80);
            gpu.options.threads = threads;
            sample(&gpu)
        };
        let first = run(1);
        assert!(first.0.thread_instructions > 0, "{name}");
        for threads in [1, 2, 3, 3] {
            let again = run(threads);
            assert!(first.1 == again.1, "{name}: other output with {threads} threads");
            assert_eq!(first.0, again.0, "{name}: other counts with {threads} threads");
        }
    }
}
