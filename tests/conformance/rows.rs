use nearkin::ops::rows::{Reducer, Reduction, Reductions, reduce, reduce_products, softmax};
use nearkin::{DType, Device, Error, Offsets, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, assert_bits, assert_close, devices, main_devices, normals, tensor};
use crate::oracle::rows as oracle;

const NONE: u32 = u32::MAX;

/// Segments of `columns` columns, some of them empty.
fn segments(rng: &mut Rng, columns: usize, count: usize) -> Vec<u32> {
    let mut bounds: Vec<u32> = (1..count).map(|_| rng.below(columns + 1) as u32).collect();
    bounds.extend([0, columns as u32]);
    bounds.sort_unstable();
    bounds
}

fn values(reductions: &Reductions) -> Vec<f32> {
    reductions.values.as_ref().unwrap().to_vec().unwrap()
}

fn numbers(tensor: &Option<Tensor>) -> Vec<u32> {
    tensor.as_ref().unwrap().to_vec().unwrap()
}

/// The columns `from .. to` of a matrix.
fn cut(data: &[f32], columns: usize, [from, to]: [usize; 2]) -> Vec<f32> {
    data.chunks(columns).flat_map(|row| row[from..to].to_vec()).collect()
}

/// A matrix of which columns come slab by slab, and what its rows are reduced to.
struct Case {
    rows: usize,
    columns: usize,
    bounds: Vec<u32>,
    cuts: Vec<usize>,
    scale: f32,
    data: Vec<f32>,
}

impl Case {
    fn reduce(&self, device: &Device, reduction: Reduction<'_>) -> Reductions {
        let segments = Offsets::new(device, &self.bounds).unwrap();
        let mut reducer =
            Reducer::new(device, self.rows, &segments, self.scale, reduction).unwrap();
        for at in self.cuts.windows(2) {
            let slab = cut(&self.data, self.columns.max(1), [at[0], at[1]]);
            let shape = [self.rows, at[1] - at[0]];
            reducer.take(&tensor(device, DType::F32, &shape, &slab).0).unwrap();
        }
        reducer.finish().unwrap()
    }

    /// The scaled values of each row and segment.
    fn parts(&self) -> impl Iterator<Item = (usize, usize, Vec<f64>)> {
        let each = (0..self.rows).flat_map(|row| self.bounds.windows(2).map(move |at| (row, at)));
        each.map(|(row, at)| {
            let row_of = &self.data[row * self.columns..][..self.columns];
            let part = &row_of[at[0] as usize..at[1] as usize];
            (row, at[0] as usize, part.iter().map(|v| f64::from(v * self.scale)).collect())
        })
    }

    fn check(&self, what: &str, device: &Device) {
        let max = self.reduce(device, Reduction::Max);
        let want: Vec<_> = self.parts().map(|(_, first, x)| (oracle::max(&x), first)).collect();
        let greatest: Vec<f32> = want.iter().map(|w| w.0.0 as f32).collect();
        assert_bits(&format!("{what}: maxima"), &values(&max), &greatest);
        let columns: Vec<u32> =
            want.iter().map(|w| w.0.1.map_or(NONE, |c| (w.1 + c) as u32)).collect();
        assert_eq!(numbers(&max.numbers), columns, "{what}: columns");

        let mean = self.reduce(device, Reduction::Mean);
        let want: Vec<f64> = self.parts().map(|(_, _, x)| oracle::mean(&x)).collect();
        assert_close(&format!("{what}: means"), &values(&mean), &want, |_| 3e-5);

        let lse = self.reduce(device, Reduction::LogSumExp);
        let want: Vec<f64> = self.parts().map(|(_, _, x)| oracle::log_sum_exp(&x)).collect();
        let close = |i: usize| 2e-6 * (1.0 + want[i].abs());
        assert_close(&format!("{what}: log-sum-exps"), &values(&lse), &want, close);

        // Targets that occur in their rows.
        let at = |row: usize| self.data[row * self.columns + row % self.columns] * self.scale;
        let targets: Vec<f32> = match self.columns {
            0 => vec![0.0; self.rows],
            _ => (0..self.rows).map(at).collect(),
        };
        let on_device = tensor(device, DType::F32, &[self.rows], &targets).0;
        let above = self.reduce(device, Reduction::Above(&on_device));
        let each = self.parts().map(|(row, _, x)| oracle::above(&x, f64::from(targets[row])));
        let (greater, equal): (Vec<usize>, Vec<usize>) = each.unzip();
        let narrow = |n: Vec<usize>| n.into_iter().map(|n| n as u32).collect::<Vec<u32>>();
        assert_eq!(numbers(&above.numbers), narrow(greater), "{what}: greater");
        assert_eq!(numbers(&above.equal), narrow(equal), "{what}: equal");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        rows in 0usize..20,
        columns in prop_oneof![0usize..70, Just(128), Just(513), Just(2057), Just(5000)],
        count in prop_oneof![Just(1usize), 1usize..40],
        slabs in 1usize..5,
        scale in prop_oneof![Just(1.0f32), Just(-0.5), Just(20.0)],
        seed: u64,
    ) {
        let mut rng = Rng(seed);
        let bounds = segments(&mut rng, columns, count);
        let mut cuts: Vec<usize> = (1..slabs).map(|_| rng.below(columns + 1)).collect();
        cuts.extend([0, columns]);
        cuts.sort_unstable();
        // Halves, so that there are ties.
        let data = rng.normals(rows * columns).iter().map(|x| (x * 8.0).round() / 4.0).collect();
        let case = Case { rows, columns, bounds, cuts, scale, data };
        for (name, device) in devices() {
            case.check(&format!("{rows} x {columns} on {name}"), device);
        }
    }
}

#[test]
fn softmax_matches_the_oracle() {
    for (name, device) in devices() {
        for (rows, columns, count) in
            [(3, 5, 2), (70, 40, 7), (2, 2057, 1), (5, 4100, 3), (1, 1, 1)]
        {
            let mut rng = Rng(columns as u64);
            let bounds = segments(&mut rng, columns, count);
            let (x, xs) = normals(device, DType::F32, &[rows, columns], &mut rng);
            let segments = Offsets::new(device, &bounds).unwrap();
            let y = softmax(&x, 3.0, Some(&segments)).unwrap();
            assert_eq!(y.shape(), [rows, columns]);
            let scaled: Vec<f64> = xs.iter().map(|x| 3.0 * x).collect();
            let parts = scaled.chunks(columns).flat_map(|row| {
                bounds.windows(2).map(|at| oracle::softmax(&row[at[0] as usize..at[1] as usize]))
            });
            let want: Vec<f64> = parts.flatten().collect();
            assert_close(name, &y.to_vec::<f32>().unwrap(), &want, |_| 2e-6);
        }
        let empty = Tensor::zeros(device, DType::F32, &[0, 4]).unwrap();
        assert_eq!(softmax(&empty, 1.0, None).unwrap().shape(), [0, 4], "{name}");
    }
}

#[test]
fn what_is_not_finite_has_a_defined_result() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows = [
        [nan, 1.0, nan, 1.0],
        [nan, nan, nan, nan],
        [-inf, nan, -inf, -inf],
        [-inf, -inf, -inf, -inf],
        [inf, 1.0, inf, -inf],
        [0.0, -0.0, 0.0, -0.0],
    ];
    for (name, device) in devices() {
        let (x, _) = tensor(device, DType::F32, &[6, 4], rows.as_flattened());
        let max = reduce(&x, 1.0, None, Reduction::Max).unwrap();
        let greatest = values(&max);
        assert_eq!(greatest, [1.0, -inf, -inf, -inf, inf, 0.0], "{name}");
        assert_eq!(numbers(&max.numbers), [1, NONE, 0, 0, 0, 0], "{name}");
        let mean = values(&reduce(&x, 1.0, None, Reduction::Mean).unwrap());
        assert!(mean[0].is_nan() && mean[1].is_nan() && mean[2].is_nan(), "{name}: {mean:?}");
        assert!(mean[3] == -inf && mean[4].is_nan() && mean[5] == 0.0, "{name}: {mean:?}");
        let lse = values(&reduce(&x, 1.0, None, Reduction::LogSumExp).unwrap());
        assert!(lse[0].is_nan() && lse[1].is_nan() && lse[2].is_nan(), "{name}: {lse:?}");
        assert_eq!(lse[3..5], [-inf, inf], "{name}");
        assert!((lse[5] - 4f32.ln()).abs() < 1e-6, "{name}: {lse:?}");
        for (target, greater, equal) in [
            (1.0, [0, 0, 0, 0, 2, 0], [2, 0, 0, 0, 1, 0]),
            (nan, [2, 0, 3, 4, 4, 4], [2, 4, 1, 0, 0, 0]),
            (-inf, [2, 0, 0, 0, 3, 4], [0, 0, 3, 4, 1, 0]),
            (0.0, [2, 0, 0, 0, 3, 0], [0, 0, 0, 0, 0, 4]),
        ] {
            let (targets, _) = tensor(device, DType::F32, &[6], &[target; 6]);
            let above = reduce(&x, 1.0, None, Reduction::Above(&targets)).unwrap();
            assert_eq!(numbers(&above.numbers), greater, "{name}: greater than {target}");
            assert_eq!(numbers(&above.equal), equal, "{name}: equal to {target}");
        }
        let y = softmax(&x, 1.0, None).unwrap().to_vec::<f32>().unwrap();
        assert!(y[..12].iter().all(|v| v.is_nan()), "{name}: {y:?}");
        assert_eq!(y[12..16], [0.0; 4], "{name}");
        assert!(y[16].is_nan() && y[18].is_nan(), "{name}: {y:?}");
        assert_eq!([y[17], y[19]], [0.0; 2], "{name}");
        assert!(y[20..].iter().all(|v| (v - 0.25).abs() < 1e-6), "{name}: {y:?}");
    }
}

#[test]
fn infinities_of_one_slab_do_not_disturb_the_next() {
    let inf = f32::INFINITY;
    for (name, device) in devices() {
        for (slabs, want) in [
            ([[-inf, -inf], [-500.0, -500.0]], -500.0 + 2f64.ln()),
            ([[-500.0, -500.0], [-inf, -inf]], -500.0 + 2f64.ln()),
            ([[inf, 0.0], [3.0, 4.0]], f64::INFINITY),
            ([[3.0, 4.0], [inf, 0.0]], f64::INFINITY),
            ([[-200.0, -inf], [200.0, 1.0]], 200.0),
            ([[200.0, 1.0], [-200.0, -inf]], 200.0),
        ] {
            let segments = Offsets::from_lengths(device, &[4]).unwrap();
            let mut reducer =
                Reducer::new(device, 1, &segments, 1.0, Reduction::LogSumExp).unwrap();
            for slab in slabs {
                reducer.take(&tensor(device, DType::F32, &[1, 2], &slab).0).unwrap();
            }
            let got = values(&reducer.finish().unwrap())[0];
            let is_close = f64::from(got) == want || (f64::from(got) - want).abs() < 1e-3;
            assert!(is_close, "{name}: {got} instead of {want} of {slabs:?}");
        }
    }
}

#[test]
fn products_are_reduced_without_a_matrix_of_them() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::BF16] {
            let mut rng = Rng(6);
            // Three slabs of columns, the last of which is short.
            let (m, n, d) = (5, 70_001, 8);
            let (a, of_a) = normals(device, dtype, &[m, d], &mut rng);
            let (b, of_b) = normals(device, dtype, &[n, d], &mut rng);
            let bounds = [0, 10, 32_768, 40_000, 40_000, 70_001];
            let segments = Offsets::new(device, &bounds).unwrap();
            let dot = |q: usize, r: usize| -> f64 {
                (0..d).map(|i| of_a[q * d + i] * of_b[r * d + i]).sum()
            };
            let part = |i: usize| {
                let (q, s) = (i / 5, i % 5);
                (bounds[s] as usize..bounds[s + 1] as usize)
                    .map(|r| 2.0 * dot(q, r))
                    .collect::<Vec<f64>>()
            };
            let run = |reduction| reduce_products(&a, &b, 2.0, Some(&segments), reduction).unwrap();
            let what = format!("{dtype} on {name}");
            let lse = values(&run(Reduction::LogSumExp));
            let want: Vec<f64> = (0..5 * m).map(|i| oracle::log_sum_exp(&part(i))).collect();
            assert_close(&what, &lse, &want, |i| 1e-5 * (1.0 + want[i].abs()));
            let mean = values(&run(Reduction::Mean));
            let want: Vec<f64> = (0..5 * m).map(|i| oracle::mean(&part(i))).collect();
            assert_close(&what, &mean, &want, |_| 1e-4);
            let max = run(Reduction::Max);
            let columns = numbers(&max.numbers);
            for (i, &got) in values(&max).iter().enumerate() {
                let (want, column) = oracle::max(&part(i));
                let first = bounds[i % 5] as usize;
                assert_eq!(columns[i] == NONE, column.is_none(), "{what}: {i}");
                if columns[i] != NONE {
                    let at = 2.0 * dot(i / 5, columns[i] as usize);
                    assert!(
                        (at - want).abs() < 1e-4 && (at - f64::from(got)).abs() < 1e-4,
                        "{what}: {i}"
                    );
                    assert!(
                        (first..bounds[i % 5 + 1] as usize).contains(&(columns[i] as usize)),
                        "{what}"
                    );
                }
            }
            // Alone, a row has the same bits.
            for q in 0..m {
                let (one, _) = tensor(
                    device,
                    dtype,
                    &[1, d],
                    &of_a[q * d..][..d].iter().map(|&v| v as f32).collect::<Vec<_>>(),
                );
                let alone =
                    reduce_products(&one, &b, 2.0, Some(&segments), Reduction::LogSumExp).unwrap();
                assert_bits(&what, &values(&alone), &lse[5 * q..][..5]);
            }
        }
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (name, device) in main_devices() {
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape).unwrap();
        let x = zeros(DType::F32, &[2, 3]);
        let segments = |lengths: &[usize]| Offsets::from_lengths(device, lengths).unwrap();
        let is_shape = |got: Result<Reductions, Error>| matches!(got, Err(Error::Shape { .. }));
        for wrong in
            [zeros(DType::F16, &[2, 3]), zeros(DType::U32, &[2, 3]), zeros(DType::F32, &[6])]
        {
            assert!(is_shape(reduce(&wrong, 1.0, None, Reduction::Max)), "{name}");
            assert!(matches!(softmax(&wrong, 1.0, None), Err(Error::Shape { .. })), "{name}");
        }
        assert!(is_shape(reduce(&x, 1.0, Some(&segments(&[2, 2])), Reduction::Max)), "{name}");
        let targets = zeros(DType::F32, &[3]);
        assert!(is_shape(reduce(&x, 1.0, None, Reduction::Above(&targets))), "{name}");
        for scale in [f32::NAN, f32::INFINITY] {
            let got = reduce(&x, scale, None, Reduction::Mean);
            assert!(matches!(got, Err(Error::Argument { .. })), "{name}: {scale}");
        }
        let narrow = zeros(DType::F32, &[2, 2]);
        assert!(is_shape(reduce_products(&x, &narrow, 1.0, None, Reduction::Max)), "{name}");
        // Slabs that are too many, too few, or of other rows.
        let three = segments(&[3]);
        let new = || Reducer::new(device, 2, &three, 1.0, Reduction::Max).unwrap();
        let mut reducer = new();
        reducer.take(&x).unwrap();
        assert!(matches!(reducer.take(&x), Err(Error::Shape { .. })), "{name}");
        assert!(
            matches!(new().take(&zeros(DType::F32, &[1, 3])), Err(Error::Shape { .. })),
            "{name}"
        );
        let mut reducer = new();
        reducer.take(&narrow).unwrap();
        assert!(is_shape(reducer.finish()), "{name}");
    }
}
