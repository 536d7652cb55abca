//! Measures on every device against naive sums in f64.

use nearkin::metrics::geometry::{self, Relative};
use nearkin::metrics::{Ranks, Ties};
use nearkin::ops::topk::Metric;
use nearkin::{DType, DeviceOptions, Error, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, devices, main_devices, normals, open_wgpu, required, tensor};

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn units(x: &[f64], dim: usize) -> Vec<Vec<f64>> {
    let unit = |x: &[f64]| x.iter().map(|v| v / dot(x, x).sqrt()).collect();
    x.chunks(dim).map(unit).collect()
}

/// Small whole numbers, so that scores are exact and often equal.
fn whole(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.below(5) as f32 - 2.0).collect()
}

/// A target's rank by sorting all rows.
fn sorted(scores: &[f64], target: usize, ties: Ties) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let place = |wanted: &dyn Fn(usize) -> bool| order.iter().position(|&row| wanted(row)).unwrap();
    let equal = |row: usize| scores[row] == scores[target];
    let first = place(&equal) as f64;
    let last = (order.len() - 1 - order.iter().rev().position(|&row| equal(row)).unwrap()) as f64;
    1.0 + match ties {
        Ties::Best => first,
        Ties::Worst => last,
        Ties::Mean => (first + last) / 2.0,
        Ties::ByIndex => place(&|row| row == target) as f64,
    }
}

const TIES: [Ties; 4] = [Ties::Best, Ties::Worst, Ties::Mean, Ties::ByIndex];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn counted_ranks_are_those_of_a_sort(
        queries in 0usize..12,
        rows in prop_oneof![1usize..40, Just(257), Just(1030)],
        dim in prop_oneof![1usize..12, Just(64)],
        dtype in prop::sample::select(vec![DType::F32, DType::BF16]),
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let (q, of_q) = tensor(device, dtype, &[queries, dim], &whole(&mut rng, queries * dim));
            let (x, of_x) = tensor(device, dtype, &[rows, dim], &whole(&mut rng, rows * dim));
            let targets: Vec<Vec<u32>> = (0..queries)
                .map(|q| (0..q % 4).map(|_| rng.below(rows) as u32).collect())
                .collect();
            for ties in TIES {
                let got = Ranks::count(&q, &x, &targets, Metric::Dot, ties).unwrap();
                for (q, targets) in targets.iter().enumerate() {
                    let query = &of_q[q * dim..][..dim];
                    let scores: Vec<f64> = of_x.chunks(dim).map(|x| dot(query, x)).collect();
                    let mut want: Vec<f64> =
                        targets.iter().map(|&t| sorted(&scores, t as usize, ties)).collect();
                    want.sort_by(f64::total_cmp);
                    assert_eq!(got.get(q), want, "{ties:?}, query {q} on {name}");
                }
            }
        }
    }
}

#[test]
fn cosine_ranks_do_not_depend_on_lengths_or_on_other_rows() {
    for (name, device) in devices() {
        let mut rng = Rng(4);
        let (rows, dim) = (500, 24);
        let x = rng.normals(rows * dim);
        let targets: Vec<[u32; 1]> = (0..7).map(|i| [i * 70]).collect();
        // Each query is near its target, however long both are.
        let q: Vec<f32> = targets
            .iter()
            .flat_map(|t| x[t[0] as usize * dim..][..dim].to_vec())
            .map(|v| (v + rng.normal()) * 1e-30)
            .collect();
        let long: Vec<f32> =
            x.iter().enumerate().map(|(i, v)| v * [1e-20, 1.0, 1e18][i / dim % 3]).collect();
        let count = |x: &[f32], q: &[f32], targets: &[[u32; 1]]| {
            let (x, _) = tensor(device, DType::F32, &[x.len() / dim, dim], x);
            let (q, _) = tensor(device, DType::F32, &[q.len() / dim, dim], q);
            Ranks::count(&q, &x, targets, Metric::Cosine, Ties::ByIndex).unwrap()
        };
        let all = count(&long, &q, &targets);
        let wide = |x: &[f32], by: f64| x.iter().map(|&v| f64::from(v) * by).collect::<Vec<f64>>();
        let (of_x, of_q) = (units(&wide(&x, 1.0), dim), units(&wide(&q, 1e30), dim));
        for i in 0..7 {
            let scores: Vec<f64> = of_x.iter().map(|x| dot(x, &of_q[i])).collect();
            let want = sorted(&scores, i * 70, Ties::ByIndex);
            assert!((all.get(i)[0] - want).abs() <= 1.0, "{name}: {:?}, {want}", all.get(i));
            // Alone a query has the same rank.
            let one = count(&long, &q[i * dim..][..dim], &targets[i..=i]);
            assert_eq!(one.get(0), all.get(i), "{name}");
        }
    }
}

#[test]
fn what_has_no_score_has_no_rank() {
    for (name, device) in main_devices() {
        let nan = f32::NAN;
        let (x, _) = tensor(device, DType::F32, &[3, 2], &[1.0, 0.0, nan, 0.0, 0.5, 0.5]);
        let (q, _) = tensor(device, DType::F32, &[2, 2], &[1.0, 1.0, nan, 1.0]);
        let targets = [vec![0, 1, 2], vec![0]];
        for ties in TIES {
            let got = Ranks::count(&q, &x, &targets, Metric::Dot, ties).unwrap();
            assert_eq!(got.get(0)[2], f64::INFINITY, "{name}");
            assert_eq!(got.get(1), [f64::INFINITY], "{name}");
            // Rows 0 and 2 tie; the row with a NaN is after both.
            let want = match ties {
                Ties::Best => [1.0, 1.0],
                Ties::Worst => [2.0, 2.0],
                Ties::Mean => [1.5, 1.5],
                Ties::ByIndex => [1.0, 2.0],
            };
            assert_eq!(got.get(0)[..2], want, "{name}: {ties:?}");
        }
    }
}

/// The scores would take 160 MB.
#[test]
fn ranks_are_counted_without_a_matrix_of_scores() {
    let options = DeviceOptions { memory_limit: Some(90 << 20), ..Default::default() };
    let mut all = vec![("cpu", nearkin::Device::cpu_with(options.clone()))];
    all.extend(required("wgpu", open_wgpu(options)).map(|device| ("wgpu", device)));
    for (name, device) in &all {
        let (n, m, dim) = (40_000, 1000, 8);
        let mut rng = Rng(9);
        let x = rng.normals(n * dim);
        let (rows, _) = tensor(device, DType::F32, &[n, dim], &x);
        let (queries, _) = tensor(device, DType::F32, &[m, dim], &x[..m * dim]);
        assert!(Tensor::zeros(device, DType::F32, &[m, n]).is_err(), "{name}");
        let targets: Vec<[u32; 1]> = (0..m as u32).map(|i| [i]).collect();
        let ranks = Ranks::count(&queries, &rows, &targets, Metric::Cosine, Ties::Worst).unwrap();
        assert!(ranks.iter().all(|ranks| ranks == [1.0]), "{name}");
    }
}

/// One query has all rows as its targets. As many places for every other query would take 8 MB for scores, beside the slab's 8 MB.
#[test]
fn a_target_is_counted_in_its_own_query_alone() {
    let options = DeviceOptions { memory_limit: Some(14 << 20), ..Default::default() };
    let mut all = vec![("cpu", nearkin::Device::cpu_with(options.clone()))];
    all.extend(required("wgpu", open_wgpu(options)).map(|device| ("wgpu", device)));
    for (name, device) in &all {
        let (n, m, dim) = (1000, 2000, 8);
        let mut rng = Rng(2);
        let (rows, of_rows) = tensor(device, DType::F32, &[n, dim], &whole(&mut rng, n * dim));
        let (queries, of_q) = tensor(device, DType::F32, &[m, dim], &whole(&mut rng, m * dim));
        let mut targets: Vec<Vec<u32>> = (0..m).map(|i| vec![(i % n) as u32]).collect();
        targets[7] = (0..n as u32).collect();
        targets[8].clear();
        let ranks = Ranks::count(&queries, &rows, &targets, Metric::Dot, Ties::Best).unwrap();
        for q in [0, 7, 8, 9, m - 1] {
            let query = &of_q[q * dim..][..dim];
            let scores: Vec<f64> = of_rows.chunks(dim).map(|x| dot(query, x)).collect();
            let mut order = scores.clone();
            order.sort_by(|a, b| b.total_cmp(a));
            let rank = |&t: &u32| 1.0 + order.partition_point(|&s| s > scores[t as usize]) as f64;
            let mut want: Vec<f64> = targets[q].iter().map(rank).collect();
            want.sort_by(f64::total_cmp);
            assert_eq!(ranks.get(q), want, "query {q} on {name}");
        }
    }
}

#[test]
fn geometry_is_that_of_all_pairs() {
    for (name, device) in devices() {
        for (n, dim, dtype) in [(2, 3, DType::F32), (67, 16, DType::F32), (130, 8, DType::F16)] {
            let mut rng = Rng(n as u64);
            let (x, of_x) = normals(device, dtype, &[n, dim], &mut rng);
            let near: Vec<f32> = of_x.iter().map(|&v| v as f32 + 0.3 * rng.normal()).collect();
            let (y, of_y) = tensor(device, dtype, &[n, dim], &near);
            let (xs, ys) = (units(&of_x, dim), units(&of_y, dim));
            let far = |a: &[f64], b: &[f64]| -> f64 {
                a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
            };
            let others =
                || (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| i != j);
            let kernel = |a: &[Vec<f64>], b: &[Vec<f64>]| {
                let sum: f64 = others().map(|(i, j)| (-2.0 * far(&a[i], &b[j])).exp()).sum();
                (sum / (n * (n - 1)) as f64).ln()
            };
            let check = |what: &str, got: f64, want: f64| {
                assert!(
                    (got - want).abs() < 2e-3 * want.abs().max(0.05),
                    "{what} of {n} on {name}: {got}, {want}"
                );
            };
            check("uniformity", geometry::uniformity(&x).unwrap(), kernel(&xs, &xs));
            check(
                "cross uniformity",
                geometry::cross_uniformity(&x, &y).unwrap(),
                kernel(&xs, &ys),
            );
            let own: Vec<f64> = (0..n).map(|i| far(&xs[i], &ys[i])).collect();
            let mean = |values: Vec<f64>| values.iter().sum::<f64>() / n as f64;
            check("alignment", geometry::alignment(&x, &y).unwrap(), mean(own.clone()));
            let nearest = |i: usize| {
                (0..n)
                    .filter(|&j| j != i)
                    .map(|j| far(&xs[i], &ys[j]))
                    .fold(f64::INFINITY, f64::min)
            };
            let difference = mean((0..n).map(|i| own[i] - nearest(i)).collect());
            let got = geometry::relative_alignment(&x, &y, Relative::Difference).unwrap();
            check("relative alignment", got, difference);
            let ratio = mean((0..n).map(|i| own[i] / nearest(i)).collect());
            let got = geometry::relative_alignment(&x, &y, Relative::Ratio).unwrap();
            check("ratio", got, ratio);
            let centre = |x: &[Vec<f64>]| -> Vec<f64> {
                (0..dim).map(|d| mean(x.iter().map(|x| x[d]).collect())).collect()
            };
            let gap = far(&centre(&xs), &centre(&ys)).sqrt();
            check("modality gap", geometry::modality_gap(&x, &y).unwrap(), gap);
            let angles = geometry::drift(&x, &y).unwrap();
            for i in 0..n {
                check("angle", angles[i], dot(&xs[i], &ys[i]).clamp(-1.0, 1.0).acos());
            }
            assert_eq!(geometry::angle_histogram(&angles, 4).unwrap().iter().sum::<usize>(), n);
        }
    }
}

#[test]
fn cka_is_that_of_the_similarity_matrices() {
    for (name, device) in main_devices() {
        let (n, dim, other) = (50, 9, 6);
        let mut rng = Rng(3);
        let moved: Vec<f32> = rng.normals(n * dim).iter().map(|v| v + 4.0).collect();
        let (x, of_x) = tensor(device, DType::F32, &[n, dim], &moved);
        let mixed: Vec<f32> =
            (0..n * other).map(|i| moved[i / other * dim + i % other] + rng.normal()).collect();
        let (y, of_y) = tensor(device, DType::F32, &[n, other], &mixed);
        let gram = |x: &[f64], dim: usize| -> Vec<Vec<f64>> {
            let mean: Vec<f64> =
                (0..dim).map(|d| x.iter().skip(d).step_by(dim).sum::<f64>() / n as f64).collect();
            let rows: Vec<Vec<f64>> = x
                .chunks(dim)
                .map(|row| row.iter().zip(&mean).map(|(v, m)| v - m).collect())
                .collect();
            rows.iter().map(|a| rows.iter().map(|b| dot(a, b)).collect()).collect()
        };
        let inner =
            |a: &[Vec<f64>], b: &[Vec<f64>]| a.iter().zip(b).map(|(a, b)| dot(a, b)).sum::<f64>();
        let (a, b) = (gram(&of_x, dim), gram(&of_y, other));
        let want = inner(&a, &b) / (inner(&a, &a) * inner(&b, &b)).sqrt();
        let got = geometry::cka(&x, &y).unwrap();
        assert!((got - want).abs() < 1e-4, "{name}: {got}, {want}");
        assert!((geometry::cka(&x, &x).unwrap() - 1.0).abs() < 1e-6, "{name}");
        let got = geometry::cka(&x, &Tensor::zeros(device, DType::F32, &[n, 2]).unwrap());
        assert!(got.unwrap().is_nan(), "{name}");
    }
}

#[test]
fn divergence_is_that_of_the_softmax_of_rows() {
    for (name, device) in main_devices() {
        let (m, n) = (7, 40);
        let mut rng = Rng(11);
        let of = |dim: usize, rng: &mut Rng| {
            (
                normals(device, DType::F32, &[m, dim], rng),
                normals(device, DType::F32, &[n, dim], rng),
            )
        };
        let (((q, of_q), (x, of_x)), ((r, of_r), (y, of_y))) = (of(8, &mut rng), of(12, &mut rng));
        let shares = |q: &[f64], x: &[f64], dim: usize| -> Vec<Vec<f64>> {
            let (q, x) = (units(q, dim), units(x, dim));
            q.iter()
                .map(|q| {
                    let weights: Vec<f64> = x.iter().map(|x| (dot(q, x) / 0.1).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    weights.iter().map(|w| w / sum).collect()
                })
                .collect()
        };
        let (p, s) = (shares(&of_q, &of_x, 8), shares(&of_r, &of_y, 12));
        let got = geometry::row_divergence([&q, &x], [&r, &y], 0.1).unwrap();
        for i in 0..m {
            let want: f64 = p[i].iter().zip(&s[i]).map(|(p, q)| p * (p / q).ln()).sum();
            assert!(
                (got[i] - want).abs() < 1e-4 * want.max(1.0),
                "{name}: {} instead of {want}",
                got[i]
            );
        }
        let same = geometry::row_divergence([&q, &x], [&q, &x], 0.1).unwrap();
        assert!(same.iter().all(|kl| kl.abs() < 1e-6), "{name}: {same:?}");
        let wrong = geometry::row_divergence([&q, &x], [&r, &x], 0.1);
        assert!(matches!(wrong, Err(Error::Shape { .. })), "{name}");
        let wrong = geometry::row_divergence([&q, &x], [&q, &x], 0.0);
        assert!(matches!(wrong, Err(Error::Argument { .. })), "{name}");
    }
}

#[test]
fn simat_skips_its_own_image_where_it_is_first() {
    let found = [[3u64, 5], [5, 3], [3, 4]];
    let right = |_: usize, row: u64| row == 5;
    // The second query's own image is second, and stays.
    let score = geometry::simat_score(&found, &[3, 3, 4], &[1.0, 2.0, 1.0], right).unwrap();
    assert_eq!(score, 0.75);
    let moved = geometry::simat_query(&[2.0, 0.0], &[0.0, 3.0], &[0.5, 0.0], 2.0).unwrap();
    assert_eq!(moved, [3.0, -2.0]);
    assert!(geometry::simat_query(&[1.0], &[1.0, 2.0], &[1.0], 1.0).is_err());
    assert!(geometry::simat_score(&found, &[3, 3, 4], &[0.0; 3], right).is_err());
    assert!(geometry::simat_score(&found, &[3], &[1.0; 3], right).is_err());
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (name, device) in main_devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let (q, x) = (zeros(&[2, 3]), zeros(&[4, 3]));
        let count = |x: &Tensor, targets: &[[u32; 1]], metric| {
            Ranks::count(&q, x, targets, metric, Ties::Best)
        };
        let is_shape = |got: Result<Ranks, Error>| matches!(got, Err(Error::Shape { .. }));
        let is_argument = |got: Result<Ranks, Error>| matches!(got, Err(Error::Argument { .. }));
        assert!(is_shape(count(&zeros(&[4, 2]), &[[0], [0]], Metric::Dot)), "{name}");
        assert!(is_shape(count(&x, &[[0]], Metric::Dot)), "{name}");
        assert!(is_argument(count(&x, &[[0], [4]], Metric::Dot)), "{name}");
        assert!(is_argument(count(&x, &[[0], [1]], Metric::L2)), "{name}");
        let none =
            Ranks::count(&zeros(&[0, 3]), &x, &[] as &[[u32; 1]], Metric::Dot, Ties::ByIndex);
        assert!(none.unwrap().is_empty(), "{name}");
        let is_wrong = |got: Result<f64, Error>| matches!(got, Err(Error::Shape { .. }));
        assert!(is_wrong(geometry::uniformity(&zeros(&[1, 3]))), "{name}");
        assert!(is_wrong(geometry::alignment(&q, &x)), "{name}");
        assert!(is_wrong(geometry::cka(&q, &x)), "{name}");
        assert!(is_wrong(geometry::modality_gap(&q, &zeros(&[2, 2]))), "{name}");
        assert!(geometry::angle_histogram(&[0.0], 0).is_err());
        assert!(geometry::angle_histogram(&[4.0], 2).is_err());
    }
}
