use nearkin::ops::gemm::Activation;
use nearkin::ops::glu::glu;
use nearkin::{DType, Error, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, assert_bits, assert_close, devices, main_devices, normals, tensor};
use crate::oracle::glu as oracle;

const ACTIVATIONS: [Activation; 12] = [
    Activation::None,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Exp,
    Activation::LeakyRelu,
    Activation::Elu1p,
    Activation::Log1pRelu,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        rows in 0usize..70,
        width in prop_oneof![0usize..70, Just(128), Just(384), Just(513), Just(1152), Just(2057)],
        activation in prop::sample::select(ACTIVATIONS.to_vec()),
        seed: u64,
    ) {
        for (name, device) in devices() {
            let data: Vec<f32> = Rng(seed).normals(rows * 2 * width).iter().map(|x| 3.0 * x).collect();
            let (x, xs) = tensor(device, DType::F32, &[rows, 2 * width], &data);
            let y = glu(&x, activation).unwrap();
            assert_eq!(y.shape(), [rows, width]);
            let got = y.to_vec::<f32>().unwrap();
            let want = oracle::glu(&xs, width, activation);
            // An activation is off by some 1e-7 of the larger of its argument and 1, and GPUs' functions by a few times that.
            let (row, column) = (|i: usize| i / width, |i: usize| i % width);
            let tolerance = |i: usize| {
                let at = 2 * row(i) * width + column(i);
                let result = if activation == Activation::Exp { xs[at].exp() } else { 0.0 };
                2e-6 * (1.0 + xs[at].abs()) * (1.0 + xs[at + width].abs()) * (1.0 + result)
            };
            assert_close(&format!("{activation:?} on {name}"), &got, &want, tolerance);
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_column() {
    for (name, device) in devices() {
        for activation in ACTIVATIONS {
            let (nan, inf) = (f32::NAN, f32::INFINITY);
            let x = [nan, 1.0, inf, 1.0, 1.0, 2.0, nan, 2.0, inf, 2.0];
            let (x, _) = tensor(device, DType::F32, &[1, 10], &x);
            let y = glu(&x, activation).unwrap().to_vec::<f32>().unwrap();
            let what = format!("{activation:?} on {name}: {y:?}");
            assert!(y[0].is_nan() && y[1].is_nan(), "{what}");
            let is_bounded = [Activation::Tanh, Activation::Sigmoid].contains(&activation);
            let large = if is_bounded { 2.0 } else { inf };
            assert_eq!([y[2], y[3]], [large, inf], "{what}");
            assert!(y[4].is_finite(), "{what}");
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_in_any_batch() {
    for (name, device) in devices() {
        for width in [40, 77] {
            let data = Rng(3).normals(300 * 2 * width);
            let run = |data: &[f32]| {
                let rows = data.len() / (2 * width);
                let (x, _) = tensor(device, DType::F32, &[rows, 2 * width], data);
                glu(&x, Activation::Gelu).unwrap().to_vec::<f32>().unwrap()
            };
            let whole = run(&data);
            for row in [0, 1, 17, 299] {
                let one = run(&data[row * 2 * width..][..2 * width]);
                assert_bits(&format!("{name} row {row}"), &one, &whole[row * width..][..width]);
            }
        }
    }
}

#[test]
fn more_rows_than_a_binding_holds() {
    for (name, device) in devices() {
        // 2 * 96 columns of f32: a MiB holds 1365 rows.
        let (x, xs) = normals(device, DType::F32, &[3001, 192], &mut Rng(4));
        let got = glu(&x, Activation::Silu).unwrap().to_vec::<f32>().unwrap();
        let want = oracle::glu(&xs, 96, Activation::Silu);
        assert_close(name, &got, &want, |_| 2e-5);
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (name, device) in main_devices() {
        for (dtype, shape) in [
            (DType::F32, &[2, 3][..]),
            (DType::F32, &[4]),
            (DType::F16, &[2, 4]),
            (DType::U32, &[2, 4]),
        ] {
            let x = Tensor::zeros(device, dtype, shape).unwrap();
            let got = glu(&x, Activation::Silu);
            assert!(matches!(got, Err(Error::Shape { .. })), "{name}: {shape:?} of {dtype}");
        }
    }
}
