//! Mutual nearest neighbours against the matrix of all scores.

use nearkin::ops::topk::Metric;
use nearkin::rank::matching::{dual_softmax, mutual};
use nearkin::{DType, Error, Tensor};

use crate::common::{Rng, devices, tensor};

#[test]
fn pairs_are_those_of_the_matrix() {
    for (name, device) in devices() {
        for (m, n, dim) in [(1, 1, 3), (40, 33, 8), (7, 300, 5)] {
            let mut rng = Rng((m * n) as u64);
            let (b, of_b) = tensor(device, DType::F32, &[n, dim], &rng.normals(n * dim));
            // Near some of the others.
            let near: Vec<f32> = (0..m * dim)
                .map(|i| of_b[i / dim * 3 % n * dim + i % dim] as f32 + 0.3 * rng.normal())
                .collect();
            let (a, of_a) = tensor(device, DType::F32, &[m, dim], &near);
            let score = |i: usize, j: usize| {
                let (x, y) = (&of_a[i * dim..][..dim], &of_b[j * dim..][..dim]);
                let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
            };
            let all: Vec<Vec<f64>> =
                (0..m).map(|i| (0..n).map(|j| score(i, j)).collect()).collect();
            let pairs = |p: &dyn Fn(usize, usize) -> f64| -> Vec<(usize, usize, f64)> {
                let row = |i: usize| {
                    (0..n).max_by(|&x, &y| p(i, x).total_cmp(&p(i, y)).then(y.cmp(&x))).unwrap()
                };
                let column = |j: usize| {
                    (0..m).max_by(|&x, &y| p(x, j).total_cmp(&p(y, j)).then(y.cmp(&x))).unwrap()
                };
                (0..m).filter(|&i| column(row(i)) == i).map(|i| (i, row(i), p(i, row(i)))).collect()
            };
            let check = |what: &str,
                         got: Vec<nearkin::rank::matching::Match>,
                         want: Vec<(usize, usize, f64)>| {
                assert_eq!(got.len(), want.len(), "{what} of {m} x {n} on {name}");
                for (got, (a, b, score)) in got.iter().zip(want) {
                    assert_eq!((got.a, got.b), (a, b), "{what} on {name}");
                    assert!(
                        (f64::from(got.score) - score).abs() < 1e-4,
                        "{what} on {name}: {got:?}, {score}"
                    );
                }
            };
            check("mutual", mutual(&a, &b, Metric::Cosine).unwrap(), pairs(&|i, j| all[i][j]));
            let tau = 0.2;
            let share = |i: usize, j: usize| {
                let weight = |i: usize, j: usize| (all[i][j] / tau).exp();
                let row: f64 = (0..n).map(|j| weight(i, j)).sum();
                let column: f64 = (0..m).map(|i| weight(i, j)).sum();
                weight(i, j) * weight(i, j) / (row * column)
            };
            let got = dual_softmax(&a, &b, Metric::Cosine, tau as f32, 0.0).unwrap();
            check("dual softmax", got, pairs(&share));
            let some = dual_softmax(&a, &b, Metric::Cosine, tau as f32, 0.1).unwrap();
            let want = pairs(&share).into_iter().filter(|p| p.2 >= 0.1).collect();
            check("confident", some, want);
        }
        let (x, narrow) = (
            Tensor::zeros(device, DType::F32, &[2, 3]).unwrap(),
            Tensor::zeros(device, DType::F32, &[2, 2]).unwrap(),
        );
        assert!(matches!(mutual(&x, &narrow, Metric::Dot), Err(Error::Shape { .. })), "{name}");
        assert!(matches!(mutual(&x, &x, Metric::L2), Err(Error::Argument { .. })), "{name}");
        for temperature in [0.0, f32::NAN] {
            let got = dual_softmax(&x, &x, Metric::Dot, temperature, 0.0);
            assert!(matches!(got, Err(Error::Argument { .. })), "{name}");
        }
        let none = Tensor::zeros(device, DType::F32, &[0, 3]).unwrap();
        assert!(mutual(&x, &none, Metric::Dot).unwrap().is_empty(), "{name}");
    }
}
