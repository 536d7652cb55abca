//! Least squares for one query on a set of items that grows.

/// Finds z such that `z · v_i ≈ s_i` for the items seen, `z = t + Vᵀ (V Vᵀ + ridge)⁻¹ (s - V t - b)`: the ridge solution
/// that stays close to a trend, `t = a · direction` with an intercept b, whose factors `a` and `b` are fitted with it by
/// generalised least squares.
///
/// The factor of `V Vᵀ + ridge` grows by the rows of the new items, so a round costs `O(n² · new)`, not `O(n³)`.
pub(super) struct Ridge {
    dim: usize,
    ridge: f64,
    /// \[n, dim\].
    features: Vec<f64>,
    scores: Vec<f64>,
    /// The Cholesky factor L, row after row: row i has i + 1 numbers.
    factor: Vec<f64>,
}

/// What z is drawn towards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trend<'a> {
    /// \[dim\], of any length.
    pub(super) direction: &'a [f32],
    /// Whether all scores may also be off by the same number.
    pub(super) intercept: bool,
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
        Ridge { dim, ridge, features: Vec::new(), scores: Vec::new(), factor: Vec::new() }
    }

    /// Adds an item.
    pub(super) fn push(&mut self, feature: &[f32], score: f32) {
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

    /// z \[dim\]; b is left out, as it is the same for all items.
    pub(super) fn solve(&self, trend: Option<Trend<'_>>) -> Vec<f32> {
        let mut z = vec![0f64; self.dim];
        let mut left = self.scores.clone();
        if let Some(trend) = trend {
            let direction: Vec<f64> = trend.direction.iter().map(|&x| f64::from(x)).collect();
            let along: Vec<f64> =
                self.features.chunks_exact(self.dim).map(|v| dot(v, &direction)).collect();
            let (a, b) = self.factors(&along, trend.intercept);
            for (left, along) in left.iter_mut().zip(&along) {
                *left -= a * along + b;
            }
            for (z, d) in z.iter_mut().zip(&direction) {
                *z = a * d;
            }
        }
        let weights = self.backward(self.forward(left));
        for (w, v) in weights.iter().zip(self.features.chunks_exact(self.dim)) {
            for (z, x) in z.iter_mut().zip(v) {
                *z += w * x;
            }
        }
        z.iter().map(|&x| x as f32).collect()
    }

    /// The factors of the trend, by generalised least squares. The slope is 1, as far as it is not determined, and never
    /// negative: a cheap score that seems to mislead is passed over.
    fn factors(&self, along: &[f64], intercept: bool) -> (f64, f64) {
        let n = self.scores.len();
        let x = self.forward(along.to_vec());
        let y = self.forward(self.scores.clone());
        let ones = self.forward(vec![1.0; n]);
        let (xx, xy) = (dot(&x, &x), dot(&x, &y));
        let (oo, ox, oy) = (dot(&ones, &ones), dot(&ones, &x), dot(&ones, &y));
        if !intercept || n == 0 {
            let a = if xx > 0.0 { (xy / xx).max(0.0) } else { 1.0 };
            return (a, 0.0);
        }
        // Without the mean; what rounding leaves of it determines nothing.
        let (sxx, sxy) = (xx - ox * ox / oo, xy - ox * oy / oo);
        let a = if sxx > 1e-9 * xx { (sxy / sxx).max(0.0) } else { 1.0 };
        (a, (oy - a * ox) / oo)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ridge, Trend};
    use faer::Mat;
    use faer::prelude::Solve;

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
                solver.push(feature, score);
                let n = i + 1;
                let v = Mat::from_fn(n, dim, |i, j| f64::from(features[i * dim + j]));
                let s = Mat::from_fn(n, 1, |i, _| f64::from(scores[i]));
                let normal = v.transpose() * &v
                    + Mat::from_fn(dim, dim, |i, j| if i == j { ridge } else { 0.0 });
                let want = normal.partial_piv_lu().solve(v.transpose() * s);
                for (j, got) in solver.solve(None).iter().enumerate() {
                    let tolerance = 1e-5 * (1.0 + want[(j, 0)].abs());
                    assert!((f64::from(*got) - want[(j, 0)]).abs() < tolerance, "{n} x {dim}: {j}");
                }
            }
        }
    }

    /// Scores that are a line over the trend leave nothing to the ridge.
    #[test]
    fn a_trend_is_found() {
        let (n, dim) = (9, 4);
        let (features, direction) = (numbers(n * dim, 3), numbers(dim, 4));
        let mut solver = Ridge::new(dim, 0.01);
        for v in features.chunks(dim) {
            let along: f32 = v.iter().zip(&direction).map(|(x, y)| x * y).sum();
            solver.push(v, 2.5 * along + 7.0);
        }
        let z = solver.solve(Some(Trend { direction: &direction, intercept: true }));
        for (z, d) in z.iter().zip(&direction) {
            assert!((z - 2.5 * d).abs() < 1e-4, "{z} for {d}");
        }
    }

    /// Nothing seen, or nothing that tells: the trend itself.
    #[test]
    fn without_evidence_the_trend_stays() {
        let direction = [1.0, -2.0];
        let trend = Some(Trend { direction: &direction, intercept: true });
        let mut solver = Ridge::new(2, 0.1);
        assert_eq!(solver.solve(trend), direction);
        assert_eq!(solver.solve(None), [0.0, 0.0]);
        solver.push(&[1.0, 1.0], 5.0);
        assert_eq!(solver.solve(trend), direction);
        solver.push(&[0.0, 0.0], 0.0);
        assert!(solver.solve(trend).iter().all(|z| z.is_finite()));
    }
}
