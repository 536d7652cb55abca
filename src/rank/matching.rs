//! Pairs of rows of two sets that choose each other: mutual nearest neighbours, plain or by dual softmax.
//!
//! ```
//! use nearkin::ops::topk::Metric;
//! use nearkin::rank::matching::mutual;
//! use nearkin::{Device, Tensor};
//!
//! let device = Device::cpu();
//! let a = Tensor::from_slice(&device, &[2, 2], &[1.0f32, 0.0, 0.9, 0.1])?;
//! let b = Tensor::from_slice(&device, &[2, 2], &[0.0f32, 1.0, 1.0, 0.0])?;
//! // Both rows of a are nearest to row 1 of b, which is nearest to row 0.
//! let pairs = mutual(&a, &b, Metric::Cosine)?;
//! assert_eq!((pairs.len(), pairs[0].a, pairs[0].b), (1, 0, 1));
//! # Ok::<(), nearkin::Error>(())
//! ```

use crate::ops::rows::{Reduction, reduce_products};
use crate::ops::topk::{Corpus, Hits, Metric, Search, as_dots, topk};
use crate::ops::{check_devices, check_float, matrix};
use crate::{Error, Result, Tensor};

const OP: &str = "matching";

/// Two rows that choose each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// The row of the first set.
    pub a: usize,
    /// The row of the second.
    pub b: usize,
    /// Their score under the metric, or the confidence of [`dual_softmax`].
    pub score: f32,
}

/// Vectors that are compared by dot products.
fn checked(a: &Tensor, b: &Tensor, metric: Metric) -> Result<[Tensor; 2]> {
    let ((_, dim), (_, other)) = (matrix(OP, "a", a)?, matrix(OP, "b", b)?);
    check_float(OP, "a", a)?;
    check_float(OP, "b", b)?;
    check_devices(OP, &[a, b])?;
    if dim != other {
        return Err(Error::shape(OP, format!("b of dimension {dim}"), other.to_string()));
    }
    Ok([as_dots(metric, a)?, as_dots(metric, b)?])
}

/// The best row of each query, and its score, with a bias.
fn best(queries: &Tensor, rows: &Tensor, bias: Option<&Tensor>) -> Result<Hits> {
    let corpus = Corpus::from_tensor(rows)?;
    topk(queries, &corpus, Metric::Dot, &Search { bias, ..Search::new(1) })
}

/// The pairs of rows of `a` \[M, D\] and `b` \[N, D\], f32, f16 or bf16 on one device, of which each is the other's best, in the order of `a`. Ties go
/// to the lower row. Rows with a NaN are in no pair.
///
/// # Errors
/// [`Error::Shape`] if the matrices do not fit; [`Error::Argument`] if `metric` is [`Metric::L2`]; [`Error::OutOfMemory`],
/// [`Error::DeviceLost`].
pub fn mutual(a: &Tensor, b: &Tensor, metric: Metric) -> Result<Vec<Match>> {
    let [a, b] = checked(a, b, metric)?;
    let (of_a, of_b) = (best(&a, &b, None)?, best(&b, &a, None)?);
    Ok(chosen(&of_a, &of_b, |_, _, score| score))
}

/// The pairs whose best are each other, and what they score.
fn chosen(of_a: &Hits, of_b: &Hits, score: impl Fn(usize, usize, f32) -> f32) -> Vec<Match> {
    let first = |hits: &Hits, row: usize| hits.get(row).0.first().map(|&row| row as usize);
    let pair = |a: usize| {
        let b = first(of_a, a)?;
        (first(of_b, b) == Some(a)).then(|| Match { a, b, score: score(a, b, of_a.get(a).1[0]) })
    };
    (0..of_a.len()).filter_map(pair).collect()
}

/// As [`mutual`], by the confidences `softmax over a · softmax over b` of scores over `temperature` (LoFTR: Sun et al., arXiv:2104.00680), of
/// those that are at least `least`. No matrix of confidences is made: as `ln P_ij = 2 s_ij / τ - L_i - L_j`, L being log-sum-exps of rows
/// and columns, the best of a row is that of `s_ij - τ L_j / 2`.
///
/// # Errors
/// As [`mutual`]; [`Error::Argument`] if the temperature is not finite and above 0, or `least` is NaN.
pub fn dual_softmax(
    a: &Tensor,
    b: &Tensor,
    metric: Metric,
    temperature: f32,
    least: f32,
) -> Result<Vec<Match>> {
    if !(temperature.is_finite() && temperature > 0.0) {
        let got = temperature.to_string();
        return Err(Error::argument("temperature", "a finite number above 0", got));
    }
    if least.is_nan() {
        return Err(Error::argument("least", "a number", "NaN"));
    }
    let [a, b] = checked(a, b, metric)?;
    let sums = |x: &Tensor, y: &Tensor| -> Result<Vec<f32>> {
        let sums = reduce_products(x, y, 1.0 / temperature, None, Reduction::LogSumExp)?;
        sums.values.map_or(Ok(Vec::new()), |values| values.to_vec())
    };
    let (of_a, of_b) = (sums(&a, &b)?, sums(&b, &a)?);
    let half = f64::from(temperature) / 2.0;
    let bias = |sums: &[f32]| {
        let off: Vec<f32> = sums.iter().map(|&s| (-half * f64::from(s)) as f32).collect();
        Tensor::from_slice(a.device(), &[off.len()], &off)
    };
    let (bias_a, bias_b) = (bias(&of_a)?, bias(&of_b)?);
    let (first, second) = (best(&a, &b, Some(&bias_b))?, best(&b, &a, Some(&bias_a))?);
    // A row's best score has half of its column's log-sum-exp off already.
    let confidence =
        |row: usize, _, score: f32| (f64::from(score) / half - f64::from(of_a[row])).exp() as f32;
    let mut pairs = chosen(&first, &second, confidence);
    pairs.retain(|pair| pair.score >= least);
    Ok(pairs)
}
