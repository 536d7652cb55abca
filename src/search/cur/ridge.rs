//! Least squares for one query on a set of items that grows.

/// Finds z and a trend such that `a · d_i + b + z · v_i ≈ s_i` for the items seen, of features v, cheap scores d and exact
/// ones s: `z = Vᵀ K⁻¹ (s - a d - b)` with `K = V Vᵀ + ridge`, a and b by generalised least squares, so that z explains
/// what the trend does not and not the reverse. Without a trend, `z = Vᵀ K⁻¹ s`, the ridge regression.
///
/// The Cholesky factor of K grows by the rows of the new items, so a round costs `O(n² · new)`, not `O(n³)`.
pub(super) struct Ridge {
    dim: usize,
    ridge: f64,
    /// \[n, dim\].
    features: Vec<f64>,
    /// Of each item, where there is a trend.
    cheap: Vec<f64>,
    scores: Vec<f64>,
    /// The Cholesky factor L, row after row: row i has i + 1 numbers.
    factor: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Eight sums, so that it vectorises.
    let mut sums = [0f64; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    rest + sums.iter().sum::<f64>()
}

/// Row i of a packed triangle.
fn row(factor: &[f64], i: usize) -> &[f64] {
    &factor[i * (i + 1) / 2..][..i + 1]
}

impl Ridge {
    /// No items yet; `ridge` is greater than 0.
    pub(super) fn new(dim: usize, ridge: f64) -> Ridge {
        Ridge {
            dim,
            ridge,
            features: Vec::new(),
            cheap: Vec::new(),
            scores: Vec::new(),
            factor: Vec::new(),
        }
    }

    /// Adds an item; with a cheap score, or all without.
    pub(super) fn push(&mut self, feature: &[f32], cheap: Option<f64>, score: f32) {
        self.cheap.extend(cheap);
        let n = self.scores.len();
        self.features.extend(feature.iter().map(|&x| f64::from(x)));
        self.scores.push(f64::from(score));
        let (before, own) = self.features.split_at(n * self.dim);
        let start = self.factor.len();
        for (i, other) in before.chunks_exact(self.dim).enumerate() {
            let l = row(&self.factor, i);
            let below = dot(&l[..i], &self.factor[start..]);
            let entry = (dot(own, other) - below) / l[i];
            self.factor.push(entry);
        }
        let left = dot(own, own) + self.ridge - {
            let l = &self.factor[start..];
            dot(l, l)
        };
        // Exactly it is at least the ridge.
        self.factor.push(left.max(self.ridge).sqrt());
    }

    /// `L⁻¹ x`.
    fn forward(&self, mut x: Vec<f64>) -> Vec<f64> {
        for i in 0..x.len() {
            let l = row(&self.factor, i);
            x[i] = (x[i] - dot(&l[..i], &x[..i])) / l[i];
        }
        x
    }

    /// `L⁻ᵀ x`.
    fn backward(&self, mut x: Vec<f64>) -> Vec<f64> {
        for i in (0..x.len()).rev() {
            let l = row(&self.factor, i);
            x[i] /= l[i];
            let (before, own) = x.split_at_mut(i);
            for (x, l) in before.iter_mut().zip(l) {
                *x -= own[0] * l;
            }
        }
        x
    }

    /// a and z \[dim\]; b is left out, as it is the same for all items. Without a trend, or items, a is 1.
    pub(super) fn solve(&self) -> (f64, Vec<f64>) {
        let mut z = vec![0f64; self.dim];
        let (mut slope, mut left) = (1.0, self.scores.clone());
        if !self.cheap.is_empty() {
            let (a, b) = self.trend();
            for (left, d) in left.iter_mut().zip(&self.cheap) {
                *left -= a * d + b;
            }
            slope = a;
        }
        let weights = self.backward(self.forward(left));
        for (w, v) in weights.iter().zip(self.features.chunks_exact(self.dim)) {
            for (z, x) in z.iter_mut().zip(v) {
                *z += w * x;
            }
        }
        (slope, z)
    }

    /// a and b. The slope is 1 as far as it is not determined, and never negative: a cheap score that seems to mislead
    /// is passed over.
    fn trend(&self) -> (f64, f64) {
        let x = self.forward(self.cheap.clone());
        let y = self.forward(self.scores.clone());
        let ones = self.forward(vec![1.0; self.scores.len()]);
        let (oo, ox, oy) = (dot(&ones, &ones), dot(&ones, &x), dot(&ones, &y));
        // Less the mean; what rounding leaves of equal cheap scores determines nothing.
        let (sxx, sxy) = (dot(&x, &x) - ox * ox / oo, dot(&x, &y) - ox * oy / oo);
        let a = if sxx > 1e-9 * dot(&x, &x) { (sxy / sxx).max(0.0) } else { 1.0 };
        (a, (oy - a * ox) / oo)
    }
}

#[cfg(test)]
mod tests {
    use super::Ridge;
    use faer::Mat;
    use faer::linalg::solvers::Solve;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64)
            .map(|i| {
                let x = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd1b5);
                ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / 8388608.0 - 1.0
            })
            .collect()
    }

    /// Items one by one give what the normal equations give for all at once, also where there are more items than
    /// dimensions or the features repeat.
    #[test]
    fn a_growing_set_has_the_solution_of_the_whole() {
        for (n, dim, ridge) in [(1, 3, 0.1), (7, 5, 1e-3), (12, 5, 1e-6), (40, 17, 0.5)] {
            let mut features = numbers(n * dim, 1);
            if n > 6 {
                features.copy_within(0..dim, 5 * dim);
            }
            let scores = numbers(n, 2);
            let mut solver = Ridge::new(dim, ridge);
            for (i, (feature, &score)) in features.chunks(dim).zip(&scores).enumerate() {
                solver.push(feature, None, score);
                let n = i + 1;
                let v = Mat::from_fn(n, dim, |i, j| f64::from(features[i * dim + j]));
                let s = Mat::from_fn(n, 1, |i, _| f64::from(scores[i]));
                let normal = v.transpose() * &v
                    + Mat::from_fn(dim, dim, |i, j| if i == j { ridge } else { 0.0 });
                let want = normal.partial_piv_lu().solve(v.transpose() * s);
                for (j, got) in solver.solve().1.iter().enumerate() {
                    let tolerance = 1e-5 * (1.0 + want[(j, 0)].abs());
                    assert!((got - want[(j, 0)]).abs() < tolerance, "{n} x {dim}: {j}");
                }
            }
        }
    }

    /// Scores that are a line over the cheap ones leave nothing to the ridge, and what else is in them is left to it.
    #[test]
    fn a_trend_is_found() {
        let (n, dim) = (9, 4);
        let (features, cheap) = (numbers(n * dim, 3), numbers(n, 4));
        for own in [0.0, 0.5] {
            let mut solver = Ridge::new(dim, 1e-9);
            for (v, &d) in features.chunks(dim).zip(&cheap) {
                solver.push(v, Some(f64::from(d)), 2.5 * d + 7.0 + own * v[1]);
            }
            let (a, z) = solver.solve();
            assert!((a - 2.5).abs() < 1e-4, "{a}");
            for (j, z) in z.iter().enumerate() {
                let want = if j == 1 { f64::from(own) } else { 0.0 };
                assert!((z - want).abs() < 1e-4, "{z} for {want}");
            }
        }
    }

    /// Nothing seen, or nothing that tells: the cheap score itself.
    #[test]
    fn without_evidence_the_cheap_score_stays() {
        let mut solver = Ridge::new(2, 0.1);
        assert_eq!(solver.solve(), (1.0, vec![0.0, 0.0]));
        for score in [5.0, 5.0] {
            solver.push(&[1.0, 1.0], Some(3.0), score);
            let (a, z) = solver.solve();
            assert!(a == 1.0 && z.iter().all(|z| z.abs() < 1e-9), "{a} {z:?}");
        }
        solver.push(&[0.0, 0.0], Some(4.0), -9.0);
        let (a, z) = solver.solve();
        assert!(a == 0.0 && z.iter().all(|z| z.is_finite()), "{a} {z:?}");
    }
}
