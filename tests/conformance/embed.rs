use nearkin::ops::embed::{EmbedNorm, Lookup, embed, gather_rows, scatter_rows};
use nearkin::{DType, Device, Error, Tensor};
use proptest::prelude::*;

use crate::common::{
    FLOATS, Rng, assert_bits, assert_close, devices, main_devices, normals, tensor,
};
use crate::oracle::{embed as oracle, norm};

fn rows_below(size: usize, n: usize, rng: &mut Rng) -> Vec<u32> {
    (0..n).map(|_| rng.below(size) as u32).collect()
}

fn shuffled(n: usize, rng: &mut Rng) -> Vec<u32> {
    let mut all: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        all.swap(i, rng.below(i + 1));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        tokens in 0usize..70,
        sizes in prop::collection::vec(1usize..90, 1..=3),
        width in prop_oneof![1usize..70, Just(384), Just(513), Just(2057)],
        // Usually one type for all tables, as a checkpoint has; sometimes mixed.
        dtypes in prop_oneof![3 => (0usize..3).prop_map(|d| [d; 3]), 1 => prop::array::uniform3(0usize..3)],
        with_norm: bool,
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let tables: Vec<(Tensor, Vec<f64>)> = sizes
                .iter()
                .zip(dtypes)
                .map(|(&size, d)| normals(device, FLOATS[d], &[size, width], &mut rng))
                .collect();
            let rows: Vec<Vec<u32>> = sizes.iter().map(|&s| rows_below(s, tokens, &mut rng)).collect();
            let (w, ws) = normals(device, DType::F32, &[width], &mut rng);
            let (b, bs) = normals(device, DType::F32, &[width], &mut rng);
            let lookups: Vec<Lookup<'_>> =
                tables.iter().zip(&rows).map(|((table, _), rows)| Lookup { table, rows }).collect();
            let exact: Vec<(&[f64], &[u32])> =
                tables.iter().zip(&rows).map(|((_, table), rows)| (&table[..], &rows[..])).collect();
            let want = oracle::sum(&exact, width);

            let fused = with_norm.then_some(EmbedNorm { weight: &w, bias: &b, eps: 1e-5 });
            let y = embed(&lookups, fused).unwrap();
            prop_assert_eq!(y.shape(), &[tokens, width]);
            let got = y.to_vec::<f32>().unwrap();
            if with_norm {
                let want = norm::layer(&want, width, &ws, Some(&bs), 1e-5);
                // As for layer_norm: with few columns, eps amplifies the rounding of nearly equal values.
                let amplify = if width < 8 { 400.0 } else { 4.0 };
                let tolerance = |i: usize| amplify * 2e-6 * (1.0 + 4.0 * (ws[i % width].abs() + bs[i % width].abs()));
                assert_close(&format!("embed with norm on {name}"), &got, &want, tolerance);
            } else {
                assert_close(&format!("embed on {name}"), &got, &want, |i| 3e-7 * (3.0 + want[i].abs()));
            }
        }
    }

    #[test]
    fn gather_and_scatter_move_rows_exactly(
        n in 1usize..90,
        taken in 0usize..70,
        more in 0usize..40,
        width in prop_oneof![1usize..70, Just(384), Just(1537)],
        dtype in 0usize..3,
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let (x, xs) = normals(device, FLOATS[dtype], &[n, width], &mut rng);
            let rows = rows_below(n, taken, &mut rng);
            let got = gather_rows(&x, &rows).unwrap();
            prop_assert_eq!(got.shape(), &[taken, width]);
            assert_close(&format!("gather on {name}"), &got.to_vec().unwrap(), &oracle::sum(&[(&xs, &rows)], width), |_| 0.0);

            let places = &shuffled(n + more, &mut rng)[..n];
            let got = scatter_rows(&x, places, n + more).unwrap();
            prop_assert_eq!(got.shape(), &[n + more, width]);
            let want = oracle::scatter(&xs, places, width, n + more);
            assert_close(&format!("scatter on {name}"), &got.to_vec().unwrap(), &want, |_| 0.0);
            assert_close(&format!("back on {name}"), &gather_rows(&got, places).unwrap().to_vec().unwrap(), &xs, |_| 0.0);
        }
    }
}

/// Lookups whose tables and result exceed the small bindings, with every path an adapter may take.
fn large(device: &Device, dtype: DType, mixed: bool, tokens: &[usize]) -> Vec<f32> {
    let width = 307;
    let sizes = [3001, 1203, 2];
    let mut rng = Rng(11);
    let tables: Vec<Tensor> = sizes
        .iter()
        .enumerate()
        .map(|(i, &size)| {
            let dtype = if mixed { FLOATS[i] } else { dtype };
            normals(device, dtype, &[size, width], &mut rng).0
        })
        .collect();
    let (w, _) = normals(device, DType::F32, &[width], &mut rng);
    let (b, _) = normals(device, DType::F32, &[width], &mut rng);
    let rows: Vec<Vec<u32>> = sizes
        .iter()
        .map(|&s| tokens.iter().map(|&t| ((t * 2_654_435_761) % s) as u32).collect())
        .collect();
    let lookups: Vec<Lookup<'_>> =
        tables.iter().zip(&rows).map(|(table, rows)| Lookup { table, rows }).collect();
    let norm = EmbedNorm { weight: &w, bias: &b, eps: 1e-12 };
    embed(&lookups, Some(norm)).unwrap().to_vec().unwrap()
}

#[test]
fn tables_and_batches_that_are_split_give_the_same_bits() {
    let all: Vec<usize> = (0..1900).collect();
    for (dtype, mixed) in [(DType::F32, false), (DType::F16, false), (DType::BF16, true)] {
        let find = |wanted: &str| devices().iter().find(|(name, _)| *name == wanted);
        let (Some((_, whole)), Some((_, split))) = (find("wgpu"), find("wgpu with small bindings"))
        else {
            continue;
        };
        let before = split.launches();
        let got = large(split, dtype, mixed, &all);
        assert!(split.launches() - before > 4, "the small bindings split nothing");
        let want = large(whole, dtype, mixed, &all);
        assert_bits(&format!("{dtype}, mixed: {mixed}"), &got, &want);
    }
}

#[test]
fn scatter_fills_all_windows() {
    let (n, width, into) = (900, 401, 2500);
    for (name, device) in devices() {
        let (x, xs) = normals(device, DType::F32, &[n, width], &mut Rng(5));
        let places: Vec<u32> = (0..n as u32).map(|i| (i * 7919 + 13) % into as u32).collect();
        let got = scatter_rows(&x, &places, into).unwrap().to_vec::<f32>().unwrap();
        assert_close(name, &got, &oracle::scatter(&xs, &places, width, into), |_| 0.0);
    }
}

#[test]
fn a_token_gives_the_same_bits_in_any_batch() {
    let all: Vec<usize> = (0..1500).collect();
    for (name, device) in devices() {
        let whole = large(device, DType::F32, false, &all);
        for t in [0, 1, 17, 853, 1499] {
            let one = large(device, DType::F32, false, &[t]);
            assert_bits(&format!("{name} token {t}"), &one, &whole[t * 307..][..307]);
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows() {
    for (name, device) in devices() {
        let data = [1.0, f32::NAN, -2.0, f32::INFINITY, -0.0, 3.0];
        for dtype in FLOATS {
            let (x, _) = tensor(device, dtype, &[3, 2], &data);
            let y = gather_rows(&x, &[2, 0, 1]).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(y[0].to_bits(), (-0.0f32).to_bits(), "{name} {dtype}");
            assert!(y[3].is_nan() && y[5] == f32::INFINITY, "{name} {dtype}");
            assert_eq!([y[1], y[2], y[4]], [3.0, 1.0, -2.0], "{name} {dtype}");
        }
    }
}

#[test]
fn nothing_in_gives_nothing_out() {
    for (_, device) in devices() {
        let none = Tensor::zeros(device, DType::F16, &[0, 5]).unwrap();
        assert_eq!(gather_rows(&none, &[]).unwrap().shape(), &[0, 5]);
        let zeros = scatter_rows(&none, &[], 3).unwrap();
        assert_eq!((zeros.shape(), zeros.dtype()), (&[3usize, 5][..], DType::F32));
        assert_eq!(zeros.to_vec::<f32>().unwrap(), [0.0; 15]);
        let thin = Tensor::zeros(device, DType::F32, &[4, 0]).unwrap();
        assert_eq!(gather_rows(&thin, &[3, 3]).unwrap().shape(), &[2, 0]);
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (_, device) in main_devices() {
        let table = Tensor::zeros(device, DType::F32, &[5, 3]).unwrap();
        let other = Tensor::zeros(device, DType::F32, &[5, 4]).unwrap();
        let ids = Tensor::zeros(device, DType::U32, &[5, 3]).unwrap();
        let lookup = |table, rows| Lookup { table, rows };

        let error = gather_rows(&table, &[0, 4, 9]).unwrap_err();
        assert!(matches!(error, Error::Argument { what: "rows", .. }));
        let text = error.to_string();
        assert!(text.contains('9') && text.contains("position 2") && text.contains('5'), "{text}");
        let error = scatter_rows(&table, &[0, 1, 2, 7, 1], 8).unwrap_err();
        assert!(error.to_string().contains("1 at positions 1 and 4"), "{error}");
        let rows = [0, 1, 2, 3, 8];
        assert!(matches!(scatter_rows(&table, &rows, 8), Err(Error::Argument { .. })));
        assert!(matches!(scatter_rows(&table, &rows[..4], 9), Err(Error::Shape { .. })));
        assert!(scatter_rows(&table, &rows, usize::MAX).is_err());

        assert!(matches!(embed(&[], None), Err(Error::Argument { .. })));
        let four = [lookup(&table, &[0]); 4];
        assert!(matches!(embed(&four, None), Err(Error::Argument { .. })));
        let reserved = [lookup(&table, &[u32::MAX])];
        assert!(matches!(embed(&reserved, None), Err(Error::Argument { .. })));
        for wrong in [lookup(&other, &[0]), lookup(&table, &[0, 1]), lookup(&ids, &[0])] {
            let lookups = [lookup(&table, &[0]), wrong];
            assert!(matches!(embed(&lookups, None), Err(Error::Shape { .. })));
        }
        let weight = Tensor::zeros(device, DType::F32, &[3]).unwrap();
        let wide = Tensor::zeros(device, DType::F32, &[4]).unwrap();
        let norm = EmbedNorm { weight: &weight, bias: &weight, eps: 1e-5 };
        let good = [lookup(&table, &[0])];
        let with = |norm| embed(&good, Some(norm));
        assert!(with(norm).is_ok());
        assert!(matches!(with(EmbedNorm { bias: &wide, ..norm }), Err(Error::Shape { .. })));
        assert!(matches!(with(EmbedNorm { eps: -1.0, ..norm }), Err(Error::Argument { .. })));
        let elsewhere = Tensor::zeros(&Device::cpu(), DType::F32, &[3]).unwrap();
        // Tensors of any two CPU devices meet.
        let got = with(EmbedNorm { weight: &elsewhere, ..norm });
        assert_eq!(got.is_ok(), device.is_cpu());
    }
}
