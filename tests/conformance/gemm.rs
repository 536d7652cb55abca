use std::sync::OnceLock;

use nearkin::ops::gemm::{Activation, Epilogue, Packed, gemm};
use nearkin::{DType, Device, Error, Tensor};
use proptest::prelude::*;

use crate::common::{
    FLOATS, Rng, assert_bits, assert_close, device, devices, main_devices, normals, tensor,
};
use crate::oracle::gemm as oracle;

const ACTIVATIONS: [Activation; 7] = [
    Activation::None,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
];

/// The devices, CUDA also at [`MatmulPrecision::High`], and how far operands may be rounded there.
fn precise() -> &'static [(String, Device, f64)] {
    static ALL: OnceLock<Vec<(String, Device, f64)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let plain = devices().iter().map(|(name, device)| (name.to_string(), device.clone(), 0.0));
        plain.chain(high()).collect()
    })
}

#[cfg(feature = "cuda")]
fn high() -> Option<(String, Device, f64)> {
    device("cuda")?;
    let matmul_precision = nearkin::MatmulPrecision::High;
    let options = nearkin::DeviceOptions { matmul_precision, ..Default::default() };
    // Each operand to 2^-17, and what is small in both, at most 2^-8 of each, is left out.
    Some(("cuda, High".into(), Device::cuda_with(0, options).unwrap(), 2f64.powi(-15)))
}

#[cfg(not(feature = "cuda"))]
fn high() -> Option<(String, Device, f64)> {
    None
}

/// One random product, compared with the oracle on one device.
#[allow(clippy::too_many_arguments)]
fn compare(
    (name, device, rounding): &(String, Device, f64),
    batch: Option<usize>,
    shared: bool,
    [m, n, k]: [usize; 3],
    dtypes: [DType; 2],
    activation: Activation,
    [with_bias, with_residual, one_for_all]: [bool; 3],
    scale: f32,
    seed: u64,
) {
    let mut rng = Rng(seed);
    let with = |shape: [usize; 2], batched: bool| match batch {
        Some(b) if batched => vec![b, shape[0], shape[1]],
        _ => shape.to_vec(),
    };
    let shape = with([m, n], true);
    let (a, av) = normals(device, dtypes[0], &with([m, k], true), &mut rng);
    let (b, bv) = normals(device, dtypes[1], &with([n, k], !shared), &mut rng);
    let (bias, biases) = normals(device, DType::F32, &[n], &mut rng);
    let added = with([m, n], !one_for_all);
    let (residual, residuals) = normals(device, DType::F32, &added, &mut rng);
    let epilogue = Epilogue {
        scale,
        bias: with_bias.then_some(&bias),
        activation,
        residual: with_residual.then_some(&residual),
        ..Default::default()
    };
    let got = gemm(&a, &b, &epilogue).unwrap();
    assert_eq!(got.shape(), shape);
    let (sums, sizes) = oracle::products(&av, &bv, batch.unwrap_or(1), [m, n, k]);
    let linear: Vec<f64> = (0..sums.len())
        .map(|i| scale as f64 * sums[i] + if with_bias { biases[i % n] } else { 0.0 })
        .collect();
    let want: Vec<f64> = (0..sums.len())
        .map(|i| {
            oracle::activation(activation, linear[i])
                + if with_residual { residuals[i % residuals.len()] } else { 0.0 }
        })
        .collect();
    let what = format!(
        "{activation:?} of {:?} {} by {:?} {} on {name}",
        a.shape(),
        a.dtype(),
        b.shape(),
        b.dtype()
    );
    const EPS: f64 = f32::EPSILON as f64;
    // No activation but exp is steeper than 1.13; each is off by a few ulp of its argument.
    assert_close(&what, &got.to_vec::<f32>().unwrap(), &want, |i| {
        let steep = if activation == Activation::Exp { 1.2 * linear[i].exp() } else { 1.2 };
        (steep * EPS + rounding) * scale.abs() as f64 * sizes[i]
            + 6.0 * EPS * (1.0 + linear[i].abs() + want[i].abs() + steep)
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        m in prop_oneof![0usize..20, Just(31), Just(33), Just(63), Just(64), Just(65), Just(129)],
        n in prop_oneof![0usize..70, Just(95), Just(96), Just(127), Just(129), Just(384)],
        k in prop_oneof![0usize..40, Just(63), Just(64), Just(66), Just(384), Just(1001)],
        batch in prop_oneof![Just(None), (0usize..4).prop_map(Some)],
        shared: bool,
        a in 0usize..3,
        b in 0usize..3,
        activation in 0usize..7,
        options: [bool; 3],
        scale in prop_oneof![Just(1.0f32), -2.0f32..2.0],
        seed: u64,
    ) {
        for device in precise() {
            compare(
                device, batch, shared || batch.is_none(), [m, n, k], [FLOATS[a], FLOATS[b]],
                ACTIVATIONS[activation], options, scale, seed,
            );
        }
    }
}

/// Activations that no encoder's layer has: on Hopper's kernels they are not.
#[test]
fn rare_activations_match_the_oracle() {
    for device in precise() {
        for (i, activation) in [
            Activation::Sigmoid,
            Activation::Exp,
            Activation::LeakyRelu,
            Activation::Elu1p,
            Activation::Log1pRelu,
        ]
        .into_iter()
        .enumerate()
        {
            // Small products, whose exponentials are.
            let scale = 0.05;
            let compare = |batch, sizes: [usize; 3], dtypes| {
                let options = [true, i % 2 == 0, false];
                compare(device, batch, false, sizes, dtypes, activation, options, scale, i as u64);
            };
            compare(None, [33, 70, 24], [DType::F32; 2]);
            compare(Some(2), [5, 9, 7], [DType::F32, DType::F16]);
            compare(None, [65, 129, 64], [DType::BF16; 2]);
        }
    }
}

/// What is written as f16 or bf16 is the f32 result rounded once, whether a kernel does it or a step after it.
#[test]
fn results_are_rounded_to_the_dtype_that_is_asked_for() {
    let mut rng = Rng(77);
    for (name, device) in devices() {
        for (shape, [m, n, k]) in
            [(&[][..], [5, 7, 9]), (&[], [70, 40, 64]), (&[3], [17, 33, 24]), (&[], [0, 4, 8])]
        {
            let with = |rows, columns| [shape, &[rows, columns]].concat();
            for [da, db] in
                [[DType::BF16; 2], [DType::F32; 2], [DType::F32, DType::BF16], [DType::F16; 2]]
            {
                let (a, _) = normals(device, da, &with(m, k), &mut rng);
                let (b, _) = normals(device, db, &with(n, k), &mut rng);
                let (residual, _) = normals(device, DType::F32, &with(m, n), &mut rng);
                let activation = Activation::Gelu;
                let to = |out| {
                    let residual = Some(&residual);
                    let epilogue = Epilogue { activation, residual, out, ..Default::default() };
                    gemm(&a, &b, &epilogue).unwrap()
                };
                let full = to(DType::F32);
                for out in FLOATS {
                    let got = to(out);
                    assert_eq!((got.dtype(), got.shape()), (out, full.shape()));
                    let what = format!("{da} by {db} to {out} {m} x {k} by {n} on {name}");
                    let want = full.to_dtype(out).unwrap().to_f32_vec().unwrap();
                    assert_bits(&what, &got.to_f32_vec().unwrap(), &want);
                }
            }
        }
        let x = Tensor::zeros(device, DType::F32, &[2, 2]).unwrap();
        let ids = Epilogue { out: DType::U32, ..Default::default() };
        assert!(matches!(gemm(&x, &x, &ids), Err(Error::Argument { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// Also more rows than a task takes, and more steps over k than a part has.
    #[test]
    fn a_packed_matrix_gives_the_bits_of_a_plain_one(
        m in prop_oneof![0usize..30, Just(50), Just(193), Just(400)],
        n in prop_oneof![0usize..70, Just(95), Just(97), Just(385)],
        k in prop_oneof![0usize..40, Just(383), Just(385), Just(1001)],
        batch in prop_oneof![Just(None), (1usize..4).prop_map(Some)],
        a in 0usize..3,
        b in 0usize..3,
        seed: u64,
    ) {
        let main = main_devices().iter().map(|(name, device)| (*name, device));
        let high = precise().iter().filter(|(_, _, rounding)| *rounding > 0.0);
        for (name, device) in main.chain(high.map(|(name, device, _)| (name.as_str(), device))) {
            // Elsewhere a packed matrix is the plain one, or split in the same way.
            if !device.is_cpu() && m * n * k > 1 << 16 {
                continue;
            }
            let mut rng = Rng(seed);
            let rows: Vec<usize> = batch.into_iter().chain([m]).collect();
            let (a, _) = normals(device, FLOATS[a], &[&rows[..], &[k]].concat(), &mut rng);
            let (b, _) = normals(device, FLOATS[b], &[n, k], &mut rng);
            let (bias, _) = normals(device, DType::F32, &[n], &mut rng);
            let (residual, _) = normals(device, DType::F32, &[m, n], &mut rng);
            let epilogue = Epilogue {
                bias: Some(&bias),
                residual: Some(&residual),
                activation: Activation::Gelu,
                ..Default::default()
            };
            let packed = Packed::new(&b).unwrap();
            prop_assert_eq!((packed.shape(), packed.dtype()), (b.shape(), b.dtype()));
            let bits = |y: nearkin::Result<Tensor>| -> Vec<u32> {
                y.unwrap().to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
            };
            let (got, want) = (gemm(&a, &packed, &epilogue), gemm(&a, &b, &epilogue));
            prop_assert!(bits(got) == bits(want), "on {}", name);
        }
    }
}

#[test]
fn what_is_no_matrix_of_floats_is_not_packed() {
    let device = Device::cpu();
    let cube = Tensor::zeros(&device, DType::F32, &[2, 3, 4]).unwrap();
    let ids = Tensor::zeros(&device, DType::U32, &[3, 4]).unwrap();
    for b in [&cube, &ids] {
        assert!(matches!(Packed::new(b), Err(Error::Shape { .. })));
    }
    let packed = Packed::new(&Tensor::zeros(&device, DType::F32, &[3, 4]).unwrap()).unwrap();
    let a = Tensor::zeros(&device, DType::F32, &[2, 5]).unwrap();
    let error = gemm(&a, &packed, &Epilogue::default()).unwrap_err().to_string();
    assert!(error.contains("b [3, 4]"), "{error}");
}

/// Rows of a residual for all of a batch: fewer than a pass of threads stores, more than a tile, and where parts are bound.
#[test]
fn a_residual_for_all_of_a_batch_begins_anew() {
    for device in precise() {
        for (batch, m, n) in [(70, 1, 5), (50, 3, 64), (9, 29, 100), (3, 130, 36), (3, 500, 700)] {
            for shared in [true, false] {
                let dtypes = [DType::F32; 2];
                let options = [false, true, true];
                let k = if n == 700 { 2 } else { 8 };
                let activation = Activation::None;
                compare(
                    device,
                    Some(batch),
                    shared,
                    [m, n, k],
                    dtypes,
                    activation,
                    options,
                    1.0,
                    5,
                );
            }
        }
    }
}

/// Without a single step over k there is still the epilogue.
#[test]
fn a_product_over_nothing_is_the_epilogue_of_zero() {
    for device in precise() {
        for (m, n) in [(1, 1), (5, 70), (64, 33), (65, 100), (200, 3)] {
            for batch in [None, Some(2)] {
                let dtypes = [DType::F32, DType::F16];
                compare(
                    device,
                    batch,
                    false,
                    [m, n, 0],
                    dtypes,
                    Activation::Gelu,
                    [true, true, m == 5],
                    1.0,
                    7,
                );
            }
        }
    }
}

#[test]
fn every_activation_over_a_grid() {
    let grid: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.005).collect();
    let more =
        [0.0, -0.0, 1e-30, -1e-30, 1e-42, 100.0, -100.0, 1e4, -1e4, 1e30, f32::INFINITY, f32::NAN];
    let data: Vec<f32> = grid.into_iter().chain(more).collect();
    for (name, device) in devices() {
        let (a, exact) = tensor(device, DType::F32, &[data.len(), 1], &data);
        let (one, _) = tensor(device, DType::F32, &[1, 1], &[1.0]);
        for activation in ACTIVATIONS {
            let epilogue = Epilogue { activation, ..Default::default() };
            let got = gemm(&a, &one, &epilogue).unwrap().to_vec::<f32>().unwrap();
            let want: Vec<f64> = exact.iter().map(|&x| oracle::activation(activation, x)).collect();
            // Denormals may be flushed.
            let tolerance = |i: usize| 4e-7 * (1.0 + want[i].abs()).max(0.5 * exact[i].abs());
            assert_close(&format!("{activation:?} on {name}"), &got, &want, tolerance);
        }
    }
}

#[test]
fn matrices_larger_than_a_binding() {
    let (Some(whole), Some(small)) = (device("wgpu"), device("wgpu with small bindings")) else {
        return;
    };
    // Each in turn exceeds a mebibyte: everything, b, a row of y, a batch whose matrices fit, y of a batch.
    for (batch, m, n, k) in [
        (1, 600, 700, 520),
        (1, 3, 5000, 66),
        (1, 3, 300_001, 2),
        (5, 30, 1001, 65),
        (2, 700, 501, 3),
    ] {
        for (a, b) in [(DType::F32, DType::BF16), (DType::F16, DType::F16)] {
            let run = |device: &Device| {
                let mut rng = Rng(13);
                let (a, _) = normals(device, a, &[batch, m, k], &mut rng);
                let (b, _) = normals(device, b, &[batch, n, k], &mut rng);
                let (bias, _) = normals(device, DType::F32, &[n], &mut rng);
                let (residual, _) = normals(device, DType::F32, &[batch, m, n], &mut rng);
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    residual: Some(&residual),
                    activation: Activation::Relu,
                    ..Default::default()
                };
                gemm(&a, &b, &epilogue).unwrap().to_vec::<f32>().unwrap()
            };
            let (cpu, whole, small) = (run(&Device::cpu()), run(whole), run(small));
            assert_eq!(small, whole, "{batch} x {m} x {n} x {k}");
            let cpu: Vec<f64> = cpu.into_iter().map(f64::from).collect();
            assert_close("wgpu and cpu", &small, &cpu, |_| 1e-4);
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows() {
    for (name, device, _) in precise() {
        let mut rng = Rng(5);
        let (m, n, k) = (70, 67, 66);
        let mut data = rng.normals(m * k);
        data[3 * k + 7] = f32::NAN;
        data[64 * k] = f32::INFINITY;
        let (a, _) = tensor(device, DType::F32, &[m, k], &data);
        let (b, _) = normals(device, DType::F32, &[n, k], &mut rng);
        let epilogue = Epilogue { activation: Activation::Relu, ..Default::default() };
        let y = gemm(&a, &b, &epilogue).unwrap().to_vec::<f32>().unwrap();
        for (row, y) in y.chunks(n).enumerate() {
            match row {
                3 => assert!(y.iter().all(|v| v.is_nan()), "{name}: relu must keep NaN"),
                64 => assert!(y.iter().all(|&v| v == 0.0 || v == f32::INFINITY), "{name}"),
                _ => assert!(y.iter().all(|v| v.is_finite()), "{name} row {row}"),
            }
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_in_any_batch() {
    for (name, device, _) in precise() {
        for (k, n, dtype) in [
            (1, 5, DType::F32),
            (77, 131, DType::F16),
            (384, 200, DType::F32),
            (1001, 64, DType::BF16),
        ] {
            let mut rng = Rng(11);
            let data = rng.normals(200 * k);
            let (b, _) = normals(device, DType::F32, &[n, k], &mut rng);
            let (bias, _) = normals(device, DType::F32, &[n], &mut rng);
            let run = |rows: std::ops::Range<usize>| {
                let slice = &data[rows.start * k..rows.end * k];
                let (a, _) = tensor(device, dtype, &[rows.len(), k], slice);
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    activation: Activation::Gelu,
                    ..Default::default()
                };
                gemm(&a, &b, &epilogue).unwrap().to_vec::<f32>().unwrap()
            };
            let whole = run(0..200);
            for rows in [
                0..1,
                7..8,
                199..200,
                3..5,
                1..5,
                2..10,
                5..22,
                0..31,
                1..34,
                9..73,
                7..136,
                1..200,
            ] {
                let part = run(rows.clone());
                let what = format!("{name} k {k} rows {rows:?}");
                assert_bits(&what, &part, &whole[rows.start * n..rows.end * n]);
            }
            // As matrices of a batch.
            let (a, _) = tensor(device, dtype, &[8, 25, k], &data);
            let epilogue =
                Epilogue { bias: Some(&bias), activation: Activation::Gelu, ..Default::default() };
            let batched = gemm(&a, &b, &epilogue).unwrap().to_vec::<f32>().unwrap();
            assert_bits(&format!("{name} k {k} batched"), &batched, &whole);
            let copies: Vec<f32> = b.to_vec::<f32>().unwrap().repeat(8);
            let (copies, _) = tensor(device, DType::F32, &[8, n, k], &copies);
            let batched = gemm(&a, &copies, &epilogue).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(batched, whole, "{name} k {k} batched copies");
        }
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (_, device) in main_devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let plain = Epilogue::default();
        let bad: [(&[usize], &[usize]); 6] = [
            (&[2, 3], &[4, 5]),
            (&[2], &[4, 2]),
            (&[2, 3], &[2, 4, 3]),
            (&[2, 5, 3], &[3, 4, 3]),
            (&[1, 2, 5, 3], &[4, 3]),
            (&[2, 5, 3], &[3]),
        ];
        for (a, b) in bad {
            assert!(
                matches!(gemm(&zeros(a), &zeros(b), &plain), Err(Error::Shape { .. })),
                "{a:?} {b:?}"
            );
        }
        let (a, b) = (zeros(&[2, 3]), zeros(&[4, 3]));
        let ids = Tensor::zeros(device, DType::U32, &[4, 3]).unwrap();
        assert!(matches!(gemm(&a, &ids, &plain), Err(Error::Shape { .. })));
        let wrong = zeros(&[3]);
        let epilogue = Epilogue { bias: Some(&wrong), ..Default::default() };
        assert!(matches!(gemm(&a, &b, &epilogue), Err(Error::Shape { .. })));
        let wrong = zeros(&[4, 2]);
        let epilogue = Epilogue { residual: Some(&wrong), ..Default::default() };
        assert!(matches!(gemm(&a, &b, &epilogue), Err(Error::Shape { .. })));
        let half = Tensor::zeros(device, DType::F16, &[2, 4]).unwrap();
        let epilogue = Epilogue { residual: Some(&half), ..Default::default() };
        assert!(matches!(gemm(&a, &b, &epilogue), Err(Error::Shape { .. })));
        let other = Tensor::zeros(&Device::cpu(), DType::F32, &[4, 3]).unwrap();
        // Tensors of any two CPU devices meet.
        assert_eq!(gemm(&a, &other, &plain).is_ok(), device.is_cpu());
    }
}
