//! A cheap score D at hand: what CUR then has to explain is what D does not.

use super::matrix::ScoreMatrix;
use crate::device::threads::Threads;
use crate::ops::gemm::of_rows;
use crate::search::finite;
use crate::{DType, Device, Error, Result, Tensor};

/// Embeddings of a dual encoder, or of anything whose dot products are a cheap score D of the same pairs.
#[derive(Clone, Copy, Debug)]
pub struct Cheap<'a> {
    /// The dimension of an embedding.
    pub dim: usize,
    /// Of the anchor queries: \[anchor queries, dim\].
    pub queries: &'a [f32],
    /// Of the items: \[items, dim\].
    pub items: &'a [f32],
}

impl Cheap<'_> {
    pub(super) fn check(&self, threads: &Threads, queries: usize, items: usize) -> Result<()> {
        if self.dim == 0 {
            return Err(Error::argument("dim of embeddings", "at least 1", "0"));
        }
        check(threads, "anchor queries", self.queries, queries, self.dim)?;
        check(threads, "items", self.items, items, self.dim)
    }
}

/// Checks embeddings \[n, dim\].
pub(super) fn check(
    threads: &Threads,
    whose: &str,
    values: &[f32],
    n: usize,
    dim: usize,
) -> Result<()> {
    if n.checked_mul(dim) != Some(values.len()) {
        let expected = format!("embeddings of {n} {whose} in {dim} dimensions");
        return Err(Error::shape("embeddings", expected, format!("{} values", values.len())));
    }
    let place = |i| format!("vector {i} of the {whose}");
    finite::check(threads, "embeddings", values, dim, DType::F32, place)
}

/// `CE ≈ alpha · D + beta`, the least-squares line over all pairs of an anchor query and an item.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Affine {
    /// The slope.
    pub alpha: f64,
    /// The intercept.
    pub beta: f64,
}

impl Affine {
    /// The line of exact scores over cheap ones; flat where the cheap ones are all equal.
    pub(super) fn fit(cheap: &[f32], exact: &[f32]) -> Affine {
        let n = cheap.len().max(1) as f64;
        let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let (x, y) = (mean(cheap), mean(exact));
        let (mut xx, mut xy) = (0.0, 0.0);
        for (&c, &e) in cheap.iter().zip(exact) {
            let dx = f64::from(c) - x;
            xx += dx * dx;
            xy += dx * (f64::from(e) - y);
        }
        let alpha = if xx > 0.0 { xy / xx } else { 0.0 };
        Affine { alpha, beta: y - alpha * x }
    }

    /// What the line leaves of an exact score.
    pub(super) fn residual(&self, exact: f64, cheap: f64) -> f64 {
        exact - (self.alpha * cheap + self.beta)
    }
}

/// Bytes of rows on the device at a time. What comes of half of them is a chunk of a corpus by itself.
pub(super) const WINDOW: usize = 128 << 20;

/// `x Bᵀ` for `x` \[n, k\] on the host, in windows, by [`of_rows`] on the device of `b` \[m, k\]: gives \[n, m\] to `take`,
/// window after window.
pub(super) fn product(
    x: &[f32],
    b: &Tensor,
    mut take: impl FnMut(Tensor) -> Result<()>,
) -> Result<()> {
    let (m, k) = (b.shape()[0], b.shape()[1]);
    let rows = (WINDOW / 4 / (m + k)).max(1);
    for part in x.chunks(rows * k) {
        take(of_rows(part, b)?)?;
    }
    Ok(())
}

/// D of all items by the anchor queries: \[items, queries\].
pub(super) fn cheap_scores(
    device: &Device,
    queries: &[f32],
    items: &[f32],
    dim: usize,
) -> Result<Vec<f32>> {
    let queries = Tensor::from_f32(device, DType::F32, &[queries.len() / dim, dim], queries)?;
    let mut all = Vec::with_capacity(items.len() / dim * queries.shape()[0]);
    product(items, &queries, |d| {
        all.extend(d.to_f32_vec()?);
        Ok(())
    })?;
    Ok(all)
}

/// R - (alpha D + beta), in the place of D: \[items, queries\].
pub(super) fn residuals(line: Affine, scores: &ScoreMatrix, cheap: Vec<f32>) -> Vec<f32> {
    let mut left = cheap;
    for (d, &e) in left.iter_mut().zip(scores.as_slice()) {
        *d = line.residual(f64::from(e), f64::from(*d)) as f32;
    }
    left
}
