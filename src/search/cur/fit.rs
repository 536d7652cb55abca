//! The regularised pseudo-inverse of the anchor block, and the choice of its regularisation.

use faer::{Mat, MatRef};

use crate::{Error, Result};

/// What keeps the pseudo-inverse from amplifying noise: small singular values of the anchor block are of no use where
/// the block is square or the scores are of low rank, and their inverses are large.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Regularisation {
    /// The Tikhonov weight whose predictions of held-out anchor queries have the least squared error: each query is
    /// left out once.
    #[default]
    CrossValidated,
    /// `s / (s² + (w s_max)²)` in place of `1 / s`, with this weight `w`.
    Tikhonov(f64),
    /// `1 / s` for singular values above this share of the largest, 0 for others.
    Rcond(f64),
}

impl Regularisation {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Regularisation::Tikhonov(x) | Regularisation::Rcond(x) if !(0.0..=1e6).contains(&x) => {
                Err(Error::argument("regularisation", "a weight from 0 to 1e6", x.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// What a fit did, for the record.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The regularisation in use; where it was asked to be chosen, the choice.
    pub regularisation: Regularisation,
    /// The largest singular value of the anchor block.
    pub largest: f64,
    /// Singular values above what rounding the scores to f32 leaves of zeros.
    pub rank: usize,
    /// The weights that were tried, each with the root of its mean squared error over held-out queries; empty for an
    /// explicit regularisation.
    pub tried: Vec<(f64, f64)>,
}

/// Tikhonov weights to choose from: half decades from 1e-6 to 10.
fn weights() -> impl Iterator<Item = f64> {
    (0..=14).map(|i| 10f64.powf(f64::from(i) / 2.0 - 6.0))
}

/// The anchor block A \[queries, anchors\], decomposed in f64: A = P diag(s) Qᵀ.
pub(super) struct Block {
    /// \[queries, queries\].
    left: Mat<f64>,
    /// min(queries, anchors) values, descending.
    values: Vec<f64>,
    /// \[anchors, min(queries, anchors)\].
    right: Mat<f64>,
    /// Below this a singular value is the rounding of the scores.
    floor: f64,
}

impl Block {
    pub(super) fn new(block: MatRef<'_, f64>) -> Result<Block> {
        let (queries, anchors) = (block.nrows(), block.ncols());
        let svd = block.svd().map_err(|e| {
            let got = format!("{queries} x {anchors} scores, of which the SVD says {e:?}");
            Error::argument("anchor block", "scores whose SVD converges", got)
        })?;
        let n = queries.min(anchors);
        let values: Vec<f64> = (0..n).map(|i| svd.S()[i]).collect();
        // The input is f32, so its zeros come out as its rounding: f64's epsilon would take that for signal.
        let floor = values
            .first()
            .map_or(0.0, |s| s * queries.max(anchors) as f64 * f64::from(f32::EPSILON));
        let right = svd.V().subcols(0, n).to_owned();
        Ok(Block { left: svd.U().to_owned(), values, right, floor })
    }

    pub(super) fn rank(&self) -> usize {
        self.values.iter().filter(|&&s| s > self.floor).count()
    }

    pub(super) fn largest(&self) -> f64 {
        self.values.first().copied().unwrap_or(0.0)
    }

    /// What a singular value is multiplied by in place of its inverse.
    fn inverse(&self, s: f64, regularisation: Regularisation) -> f64 {
        if s <= self.floor {
            return 0.0;
        }
        match regularisation {
            Regularisation::Rcond(rcond) if s <= rcond * self.largest() => 0.0,
            Regularisation::Tikhonov(w) => s / (s * s + (w * self.largest()).powi(2)),
            _ => 1.0 / s,
        }
    }

    /// U = Q diag(inverse(s)) Pᵀ, row-major \[anchors, queries\].
    pub(super) fn inverted(&self, regularisation: Regularisation) -> Vec<f64> {
        let n = self.values.len();
        let scaled = Mat::from_fn(self.right.nrows(), n, |i, j| {
            self.right[(i, j)] * self.inverse(self.values[j], regularisation)
        });
        let u = scaled * self.left.subcols(0, n).transpose();
        (0..u.nrows()).flat_map(|i| (0..u.ncols()).map(move |j| (i, j))).map(|at| u[at]).collect()
    }

    /// Chooses the weight. `scores` are those that are predicted, \[queries, any items\].
    ///
    /// Regressing all scores on those of the anchors, W = U R, with query q left out misses the scores of q by
    /// `(R - H R)_q / (1 - H_qq)`, where H = A U = P diag(s²/(s² + λ)) Pᵀ: the identity for ridge regression (Allen 1974).
    /// So one decomposition serves all queries and weights, and the block that is judged has one query less than the one
    /// in use, not a fifth, which would judge another shape than the one that is square.
    pub(super) fn choose(&self, scores: MatRef<'_, f64>) -> (f64, Vec<(f64, f64)>) {
        let queries = self.left.nrows();
        let rotated = self.left.transpose() * scores;
        let gram = &rotated * rotated.transpose();
        let cells = (queries * scores.ncols()).max(1) as f64;
        let tried: Vec<(f64, f64)> = weights()
            .map(|w| {
                let kept = |j: usize| {
                    let s = self.values.get(j).copied().unwrap_or(0.0);
                    s * self.inverse(s, Regularisation::Tikhonov(w))
                };
                // P diag(1 - kept): the rows of I - H, in the basis of P.
                let missed =
                    Mat::from_fn(queries, queries, |q, j| self.left[(q, j)] * (1.0 - kept(j)));
                let squares = &missed * &gram;
                let error: f64 = (0..queries)
                    .map(|q| {
                        let own =
                            (0..queries).map(|j| missed[(q, j)] * self.left[(q, j)]).sum::<f64>();
                        let all =
                            (0..queries).map(|j| missed[(q, j)] * squares[(q, j)]).sum::<f64>();
                        // A query that its own scores determine alone is not predicted by others at all.
                        if own <= 1e-12 { f64::INFINITY } else { all.max(0.0) / (own * own) }
                    })
                    .sum();
                (w, (error / cells).sqrt())
            })
            .collect();
        let best = tried.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(1e-2, |t| t.0);
        (best, tried)
    }
}
