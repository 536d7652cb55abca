//! softmax.ptx: one pass for maximum and sum.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu};
use ptx_emulator::isa::Class;

use super::{bits, global, random_f32, shared};

/// The softmax of rows, checked to a few units in the last place of f32, as far as ex2.approx goes.
fn run(gpu: &Gpu, values: &[f32], n: usize) -> (Counts, Vec<f32>) {
    let module = gpu.load(include_str!("../kernels/softmax.ptx")).unwrap();
    let rows = values.len() / n;
    let (from, out) = (gpu.upload(values).unwrap(), gpu.allocate(4 * values.len() as u64).unwrap());
    let args = [Arg::U64(from), Arg::U64(out), Arg::U32(rows as u32), Arg::U32(n as u32)];
    let counts = gpu.launch(&module, "softmax", rows.div_ceil(4) as u32, 128, &args).unwrap();
    let out = gpu.download::<f32>(out, values.len()).unwrap();
    for (row, result) in values.chunks(n).zip(out.chunks(n)) {
        let max = row.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
        let exps: Vec<f64> = row.iter().map(|&x| (f64::from(x) - max).exp()).collect();
        let sum: f64 = exps.iter().sum();
        for ((&x, exp), &result) in row.iter().zip(&exps).zip(result) {
            let expected = exp / sum;
            // The product with log2 e is rounded: the error grows with the distance from the maximum.
            let distance = (max - f64::from(x)).min(100.0);
            let tolerance = expected * (4e-6 + 2e-7 * distance) + f64::from(f32::MIN_POSITIVE);
            let error = (f64::from(result) - expected).abs();
            assert!(error <= tolerance, "{x}: {result} instead of {expected}");
        }
    }
    (counts, out)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let values: Vec<f32> = random_f32(18, 9 * 100).iter().map(|x| 10.0 * x).collect();
    let (counts, out) = run(gpu, &values, 100);
    (counts, bits(&out))
}

#[test]
fn whole_rows() {
    let values: Vec<f32> = random_f32(19, 6 * 256).iter().map(|x| 20.0 * x).collect();
    let (counts, _) = run(&Gpu::new(80), &values, 256);
    // 6 rows of 8 pieces; two warps have no row.
    assert_eq!(global(&counts), [(6 * 16, 6 * 64), (6 * 8, 6 * 32), (0, 0)]);
    assert_eq!(shared(&counts), [(0, 0); 3]);
    assert_eq!(counts.classes[Class::Special].threads, 6 * (3 * 256 + 32 * 11));
    assert_eq!(counts.classes[Class::Warp].warps, 6 * 10);
    assert_eq!(counts.barrier_arrivals, 0);
    assert_eq!(counts.divergent_branches, 0);
}

#[test]
fn ragged_rows() {
    for n in [1, 5, 33, 97] {
        let (counts, _) = run(&Gpu::new(80), &random_f32(n as u64, 3 * n), n);
        assert_eq!(counts.classes[Class::Special].threads, 3 * (3 * n as u64 + 32 * 11));
    }
}

/// Rising rows change the maximum at every step; masked elements are exactly 0.
#[test]
fn extremes() {
    let rising: Vec<f32> = (0..160).map(|i| i as f32 * 3.0 - 200.0).collect();
    run(&Gpu::new(80), &rising, 160);
    let mut masked = random_f32(20, 64);
    masked.iter_mut().step_by(2).for_each(|x| *x = f32::NEG_INFINITY);
    let (_, out) = run(&Gpu::new(80), &masked, 64);
    assert!(out.iter().step_by(2).all(|&x| x == 0.0));
}
