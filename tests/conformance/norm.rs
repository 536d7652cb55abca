use nearkin::ops::norm::{l2_normalize, layer_norm, rms_norm};
use nearkin::{DType, Error, Tensor};
use proptest::prelude::*;

use crate::common::{
    FLOATS, Rng, assert_bits, assert_close, devices, main_devices, normals, tensor,
};
use crate::oracle::norm as oracle;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        rows in 0usize..70,
        width in prop_oneof![1usize..70, Just(384), Just(513), Just(768), Just(2057)],
        dtype in 0usize..3,
        with_bias: bool,
        with_residual: bool,
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let (x, xs) = normals(device, FLOATS[dtype], &[rows, width], &mut rng);
            let (r, rs) = normals(device, FLOATS[dtype], &[rows, width], &mut rng);
            let (w, ws) = normals(device, DType::F32, &[width], &mut rng);
            let (b, bs) = normals(device, DType::F32, &[width], &mut rng);
            let sum: Vec<f64> = if with_residual { xs.iter().zip(&rs).map(|(x, r)| x + r).collect() } else { xs.clone() };
            let (residual, bias) = (with_residual.then_some(&r), with_bias.then_some(&b));
            // The scale of a row is off by a few ulp of its sums; a single column normalises to 0 or ±1 exactly.
            let tolerance = |i: usize| 2e-6 * (1.0 + 4.0 * (ws[i % width].abs() + bs[i % width].abs()));

            let got = layer_norm(&x, residual, &w, bias, 1e-5).unwrap().to_vec::<f32>().unwrap();
            let want = oracle::layer(&sum, width, &ws, with_bias.then_some(&bs[..]), 1e-5);
            // With few columns the centred values may nearly vanish, and eps amplifies their rounding.
            let amplify = if width < 8 { 400.0 } else { 4.0 };
            assert_close(&format!("layer_norm on {name}"), &got, &want, |i| amplify * tolerance(i));

            let got = rms_norm(&x, residual, &w, 1e-6).unwrap().to_vec::<f32>().unwrap();
            assert_close(&format!("rms_norm on {name}"), &got, &oracle::rms(&sum, width, &ws, 1e-6), |i| 4.0 * tolerance(i));

            let got = l2_normalize(&x, 1e-12).unwrap().to_vec::<f32>().unwrap();
            assert_close(&format!("l2_normalize on {name}"), &got, &oracle::l2(&xs, width, 1e-12), |_| 1e-6);
        }
    }
}

#[test]
fn zeros_stay_zeros_and_a_nan_stays_in_its_row() {
    for (name, device) in devices() {
        let x = [0.0, 0.0, 0.0, f32::NAN, 1.0, 2.0, 3.0, 4.0, 0.0];
        let (x, _) = tensor(device, DType::F32, &[3, 3], &x);
        let y = l2_normalize(&x, 1e-12).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(&y[..3], &[0.0; 3], "{name}");
        assert!(y[3..6].iter().all(|v| v.is_nan()), "{name}");
        assert_close(name, &y[6..], &[0.6, 0.8, 0.0], |_| 1e-6);
    }
}

#[test]
fn a_large_mean_does_not_cancel() {
    for (name, device) in devices() {
        let mut rng = Rng(7);
        let data: Vec<f32> = rng.normals(384).iter().map(|v| v + 1000.0).collect();
        let (x, xs) = tensor(device, DType::F32, &[1, 384], &data);
        let (w, ws) = tensor(device, DType::F32, &[384], &[1.0; 384]);
        let got = layer_norm(&x, None, &w, None, 1e-5).unwrap().to_vec::<f32>().unwrap();
        assert_close(name, &got, &oracle::layer(&xs, 384, &ws, None, 1e-5), |_| 2e-4);
    }
}

#[test]
fn a_row_gives_the_same_bits_in_any_batch() {
    for (name, device) in devices() {
        let data = Rng(3).normals(300 * 77);
        let whole = l2_normalize(&tensor(device, DType::F32, &[300, 77], &data).0, 1e-12).unwrap();
        let whole = whole.to_vec::<f32>().unwrap();
        for row in [0, 1, 17, 299] {
            let (one, _) = tensor(device, DType::F32, &[1, 77], &data[row * 77..][..77]);
            let one = l2_normalize(&one, 1e-12).unwrap().to_vec::<f32>().unwrap();
            assert_bits(&format!("{name} row {row}"), &one, &whole[row * 77..][..77]);
        }
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (_, device) in main_devices() {
        let x = Tensor::zeros(device, DType::F32, &[2, 3]).unwrap();
        let w = Tensor::zeros(device, DType::F32, &[4]).unwrap();
        let ids = Tensor::zeros(device, DType::U32, &[2, 3]).unwrap();
        assert!(matches!(layer_norm(&x, None, &w, None, 1e-5), Err(Error::Shape { .. })));
        assert!(matches!(l2_normalize(&ids, 1e-5), Err(Error::Shape { .. })));
        assert!(matches!(l2_normalize(&x, f32::NAN), Err(Error::Argument { .. })));
        assert!(matches!(l2_normalize(&w, 1e-5), Err(Error::Shape { .. })));
    }
}
