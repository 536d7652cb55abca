use nearkin::ops::pool::{Pooling, pool};
use nearkin::{DType, Device, Error, Offsets, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, assert_bits, assert_close, devices, main_devices, normals, tensor};
use crate::oracle::pool as oracle;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        lengths in prop::collection::vec(prop_oneof![3 => 1usize..40, 1 => Just(0), 1 => 200usize..300], 0..9),
        width in prop_oneof![1usize..70, Just(384), Just(1025)],
        kept in prop::option::of(0usize..10),
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let offsets = Offsets::from_lengths(device, &lengths).unwrap();
            let bounds = offsets.bounds();
            let (x, xs) = normals(device, DType::F32, &[offsets.total(), width], &mut rng);
            let mask: Option<Vec<bool>> =
                kept.map(|kept| (0..offsets.total()).map(|_| rng.below(10) < kept).collect());
            let take = |row: usize| mask.as_ref().is_none_or(|m| m[row]);
            let run = |how| pool(&x, &offsets, how, mask.as_deref()).unwrap().to_vec::<f32>().unwrap();

            let want = oracle::mean(&xs, width, bounds, take);
            assert_close(&format!("mean on {name}"), &run(Pooling::Mean), &want, |_| 2e-5);
            let want = oracle::max(&xs, width, bounds, take);
            assert_close(&format!("max on {name}"), &run(Pooling::Max), &want, |_| 0.0);

            let positions: Vec<u32> = lengths.iter().map(|&n| rng.below(n) as u32).collect();
            let single = |at: &dyn Fn(usize) -> usize| -> Vec<f64> {
                (0..lengths.len())
                    .flat_map(|i| match offsets.range(i) {
                        range if range.is_empty() => vec![0.0; width],
                        range => xs[(range.start + at(i)) * width..][..width].to_vec(),
                    })
                    .collect()
            };
            assert_close(&format!("cls on {name}"), &run(Pooling::Cls), &single(&|_| 0), |_| 0.0);
            assert_close(&format!("last on {name}"), &run(Pooling::Last), &single(&|i| lengths[i] - 1), |_| 0.0);
            let want = single(&|i| positions[i] as usize);
            assert_close(&format!("at on {name}"), &run(Pooling::At(&positions)), &want, |_| 0.0);
        }
    }
}

/// Sequences of these lengths of one endless text, so that the first rows are the same whatever follows.
fn batch(device: &Device, lengths: &[usize], width: usize, how: Pooling<'_>) -> Vec<f32> {
    let offsets = Offsets::from_lengths(device, lengths).unwrap();
    let (x, _) = normals(device, DType::F32, &[offsets.total(), width], &mut Rng(9));
    pool(&x, &offsets, how, None).unwrap().to_vec().unwrap()
}

#[test]
fn sequences_that_span_windows_give_the_same_bits() {
    // 3300 rows of 1228 bytes are four of the small bindings; sequences end before, at and after their borders.
    let lengths = [700, 0, 154, 0, 0, 1700, 1, 745, 0];
    for how in [Pooling::Mean, Pooling::Max] {
        let all: Vec<Vec<f32>> =
            devices().iter().map(|(_, d)| batch(d, &lengths, 307, how)).collect();
        for (got, (name, _)) in all.iter().zip(devices()).skip(2) {
            assert_bits(&format!("{how:?} on {name}"), got, &all[1]);
        }
        let (x, xs) = normals(&Device::cpu(), DType::F32, &[3300, 307], &mut Rng(9));
        let bounds = Offsets::from_lengths(x.device(), &lengths).unwrap();
        let want = match how {
            Pooling::Max => oracle::max(&xs, 307, bounds.bounds(), |_| true),
            _ => oracle::mean(&xs, 307, bounds.bounds(), |_| true),
        };
        for (got, (name, _)) in all.iter().zip(devices()) {
            assert_close(&format!("{how:?} on {name}"), got, &want, |_| 2e-5);
        }
    }
}

#[test]
fn many_sequences_are_split_too() {
    // Results, bounds and rows all exceed a small binding; every third sequence is empty.
    let lengths: Vec<usize> = (0..3000).map(|i| (i % 3) * (i % 2)).collect();
    for (name, device) in devices() {
        let got = batch(device, &lengths, 131, Pooling::Mean);
        let offsets = Offsets::from_lengths(device, &lengths).unwrap();
        let (_, xs) = normals(device, DType::F32, &[offsets.total(), 131], &mut Rng(9));
        let want = oracle::mean(&xs, 131, offsets.bounds(), |_| true);
        assert_close(name, &got, &want, |_| 2e-6);
    }
}

#[test]
fn a_sequence_gives_the_same_bits_in_any_batch() {
    for (name, device) in devices() {
        for how in [Pooling::Mean, Pooling::Max, Pooling::Cls, Pooling::Last] {
            let alone = batch(device, &[900], 307, how);
            let packed = batch(device, &[900, 3, 0, 1500, 17], 307, how);
            assert_bits(&format!("{name} {how:?}"), &alone, &packed[..307]);
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_own_result_only() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    // Two columns; sequences of 3, 2, 2 and 1 rows.
    #[rustfmt::skip]
    let data = [
        1.0, nan,  nan, 2.0,  5.0, 3.0,
        -inf, 1.0,  -inf, -2.0,
        nan, 1.0,  -nan, inf,
        -3.0, -0.5,
    ];
    for (name, device) in devices() {
        let (x, xs) = tensor(device, DType::F32, &[8, 2], &data);
        let offsets = Offsets::from_lengths(device, &[3, 2, 2, 1]).unwrap();
        for mask in [None, Some([true, false, true, true, true, false, false, true])] {
            let take = |r: usize| mask.is_none_or(|m| m[r]);
            let mask = mask.as_ref().map(|m| &m[..]);
            let got = pool(&x, &offsets, Pooling::Max, mask).unwrap().to_vec().unwrap();
            assert_close(name, &got, &oracle::max(&xs, 2, offsets.bounds(), take), |_| 0.0);
            let got = pool(&x, &offsets, Pooling::Mean, mask).unwrap().to_vec().unwrap();
            assert_close(name, &got, &oracle::mean(&xs, 2, offsets.bounds(), take), |_| 1e-6);
        }
    }
}

#[test]
fn empty_sequences_give_zeros() {
    for (name, device) in devices() {
        let x = Tensor::zeros(device, DType::F32, &[0, 3]).unwrap();
        let offsets = Offsets::from_lengths(device, &[0, 0]).unwrap();
        let none = Offsets::from_lengths(device, &[]).unwrap();
        for how in [Pooling::Cls, Pooling::Last, Pooling::At(&[0, 5]), Pooling::Mean, Pooling::Max]
        {
            let y = pool(&x, &offsets, how, Some(&[])).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(y, [0.0; 6], "{how:?} on {name}");
            let how = if let Pooling::At(_) = how { Pooling::At(&[]) } else { how };
            assert_eq!(pool(&x, &none, how, None).unwrap().shape(), &[0, 3]);
        }
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (_, device) in main_devices() {
        let x = Tensor::zeros(device, DType::F32, &[5, 3]).unwrap();
        let half = Tensor::zeros(device, DType::F16, &[5, 3]).unwrap();
        let offsets = Offsets::from_lengths(device, &[2, 0, 3]).unwrap();
        let short = Offsets::from_lengths(device, &[2, 2]).unwrap();
        let elsewhere = Offsets::from_lengths(&Device::cpu(), &[2, 0, 3]).unwrap();
        let at = |positions| pool(&x, &offsets, Pooling::At(positions), None);
        assert!(at(&[1, 0, 2]).is_ok());
        let error = at(&[1, 0, 3]).unwrap_err();
        assert!(matches!(error, Error::Argument { what: "positions", .. }));
        assert!(error.to_string().contains("3 for sequence 2"), "{error}");
        assert!(matches!(at(&[1, 0]), Err(Error::Argument { .. })));
        let mean = |x, offsets, mask| pool(x, offsets, Pooling::Mean, mask);
        assert!(matches!(mean(&x, &short, None), Err(Error::Shape { .. })));
        assert!(matches!(mean(&half, &offsets, None), Err(Error::Shape { .. })));
        assert!(matches!(mean(&x, &offsets, Some(&[true; 4])), Err(Error::Shape { .. })));
        // Tensors of any two CPU devices meet.
        assert_eq!(mean(&x, &elsewhere, None).is_ok(), device.is_cpu());
    }
}
