//! The regularised pseudo-inverse of the anchor block, and the choice of its regularisation.

use std::cmp::Ordering;

use faer::{Mat, MatRef};

use super::anchors::sample;
use super::matrix::ScoreMatrix;
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::ops::linear::{Svd, product, svd};
use crate::{Error, Result};

/// What keeps the pseudo-inverse from amplifying noise: small singular values of the anchor block are of no use where
/// the block is square or the scores are of low rank, and their inverses are large.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Regularisation {
    /// The Tikhonov weight whose predictions of held-out anchor queries have the least squared error on each one's 64
    /// best items: each query, of up to 256, is left out once.
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
    /// The weights that were tried, each with the root of its mean squared error on held-out queries; empty for an
    /// explicit regularisation.
    pub tried: Vec<(f64, f64)>,
}

/// Tikhonov weights to choose from: quarter decades from 1e-6 to 10.
fn weights() -> impl Iterator<Item = f64> {
    (0..=28).map(|i| 10f64.powf(f64::from(i) / 4.0 - 6.0))
}

/// Anchor queries, and the best items of each, that the choice is judged by, at most.
const JUDGED: (usize, usize) = (256, 64);
/// Items whose scores a thread looks at in one go.
const RUN: usize = 4096;

/// The scores that the choice is judged by: those of some queries' best items other than anchors. What is to be found is
/// among the best; judged by all items, the weights come out too large (Cranfield, MaxSim, 100 anchor items: recall@10
/// at 100 retrieved 0.90, by the best 0.91).
pub(super) fn judged(
    threads: &Threads,
    scores: &ScoreMatrix,
    anchors: &[usize],
) -> Vec<(usize, Vec<usize>)> {
    let queries = sample(scores.queries(), JUDGED.0, 0);
    let starts: Vec<usize> = (0..scores.items()).step_by(RUN).collect();
    // Item by item, as the scores lie in memory.
    let runs = threads.map(queries.len() * scores.items(), starts.into_par_iter(), |start| {
        let mut best: Vec<Best> = queries.iter().map(|_| Best::default()).collect();
        for item in start..scores.items().min(start + RUN) {
            if anchors.binary_search(&item).is_ok() {
                continue;
            }
            let scores = scores.item(item);
            for (best, &q) in best.iter_mut().zip(&queries) {
                best.add(scores[q], item);
            }
        }
        best
    });
    let mut all: Vec<Best> = queries.iter().map(|_| Best::default()).collect();
    for run in runs {
        for (all, best) in all.iter_mut().zip(run) {
            best.found.into_iter().for_each(|(score, item)| all.add(score, item));
        }
    }
    queries.into_iter().zip(all.into_iter().map(Best::items)).collect()
}

/// The best items of a query so far, up to twice as many as are asked for.
#[derive(Default)]
struct Best {
    found: Vec<(f32, usize)>,
    /// What is below this is not among the best.
    floor: Option<f32>,
}

impl Best {
    /// Of equal scores the lower item is better.
    fn order(a: &(f32, usize), b: &(f32, usize)) -> Ordering {
        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
    }

    fn add(&mut self, score: f32, item: usize) {
        if self.floor.is_some_and(|floor| score < floor) {
            return;
        }
        self.found.push((score, item));
        if self.found.len() == 2 * JUDGED.1 {
            self.found.select_nth_unstable_by(JUDGED.1 - 1, Best::order);
            self.found.truncate(JUDGED.1);
            self.floor = self.found.last().map(|found| found.0);
        }
    }

    /// The best first.
    fn items(mut self) -> Vec<usize> {
        self.found.sort_unstable_by(Best::order);
        self.found.truncate(JUDGED.1);
        self.found.into_iter().map(|(_, item)| item).collect()
    }
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
        let Svd { u, s: values, v } = svd(block).ok_or_else(|| {
            let got = format!("{queries} x {anchors} scores whose SVD does not");
            Error::argument("anchor block", "scores whose SVD converges", got)
        })?;
        // The input is f32, so its zeros come out as its rounding: f64's epsilon would take that for signal.
        let floor = values
            .first()
            .map_or(0.0, |s| s * queries.max(anchors) as f64 * f64::from(f32::EPSILON));
        let right = v.subcols(0, values.len()).to_owned();
        Ok(Block { left: u, values, right, floor })
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
    pub(super) fn inverted(&self, threads: &Threads, regularisation: Regularisation) -> Vec<f64> {
        let n = self.values.len();
        let scaled = Mat::from_fn(self.right.nrows(), n, |i, j| {
            self.right[(i, j)] * self.inverse(self.values[j], regularisation)
        });
        let u = product(threads, scaled.as_ref(), self.left.subcols(0, n).transpose());
        (0..u.nrows()).flat_map(|i| (0..u.ncols()).map(move |j| (i, j))).map(|at| u[at]).collect()
    }

    /// Chooses the weight by predicting some scores of each query without it: `judged` has queries, each with items and
    /// its scores of them; `column` gives an item's scores of all queries.
    ///
    /// Regressing all scores on those of the anchors, W = U R, with query q left out misses the scores of q by
    /// `(R - H R)_q / (1 - H_qq)`, where H = A U = P diag(s²/(s² + λ)) Pᵀ: the identity for ridge regression (Allen 1974).
    /// So one decomposition serves all queries and weights, and the block that is judged has one query less than the one
    /// in use, not a fifth, which would judge another shape than the one that is square.
    pub(super) fn choose(
        &self,
        threads: &Threads,
        judged: &[(usize, Vec<usize>)],
        cell: impl Fn(usize, usize) -> f64,
    ) -> (f64, Vec<(f64, f64)>) {
        let queries = self.left.nrows();
        let mut items: Vec<usize> = judged.iter().flat_map(|(_, items)| items).copied().collect();
        items.sort_unstable();
        items.dedup();
        // An item's scores in the basis P, one after the other: column by column of a matrix that is stored so.
        let scores = Mat::from_fn(queries, items.len(), |q, j| cell(q, items[j]));
        let rotated = product(threads, self.left.transpose(), scores.as_ref());
        let places: Vec<Vec<usize>> = judged
            .iter()
            .map(|(_, own)| own.iter().map(|i| items.partition_point(|x| x < i)).collect())
            .collect();
        let cells = judged.iter().map(|(_, items)| items.len()).sum::<usize>().max(1) as f64;
        let tried: Vec<(f64, f64)> = weights()
            .map(|w| {
                let missed: Vec<f64> = (0..queries)
                    .map(|j| {
                        let s = self.values.get(j).copied().unwrap_or(0.0);
                        1.0 - s * self.inverse(s, Regularisation::Tikhonov(w))
                    })
                    .collect();
                let each = judged.par_iter().zip(&places);
                let errors = threads.map(cells as usize * queries, each, |((q, _), places)| {
                    let own: Vec<f64> =
                        (0..queries).map(|j| self.left[(*q, j)] * missed[j]).collect();
                    let share: f64 = (0..queries).map(|j| own[j] * self.left[(*q, j)]).sum();
                    // A query that its own scores determine alone is not predicted by others at all.
                    if share <= 1e-12 {
                        return f64::INFINITY;
                    }
                    let error = |&at: &usize| {
                        let column = rotated.col(at);
                        (0..queries).map(|j| own[j] * column[j]).sum::<f64>() / share
                    };
                    places.iter().map(|at| error(at).powi(2)).sum::<f64>()
                });
                // In order, so that the sum does not depend on who did which.
                let error: f64 = errors.iter().sum();
                (w, (error / cells).sqrt())
            })
            .collect();
        let best = tried.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(1e-2, |t| t.0);
        (best, tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With scores that many items share, in more runs than one.
    #[test]
    fn the_best_items_other_than_anchors_are_judged() {
        let (queries, items) = (3, 2 * RUN + 17);
        let score = |i: usize| ((i * 7919 + i / queries) % 501) as f32 - 250.0;
        for items in [5, items] {
            let scores = ScoreMatrix::new(queries, (0..queries * items).map(score).collect());
            let scores = scores.unwrap();
            let anchors = [0, 3, RUN, 2 * RUN + 16];
            let judged = judged(Threads::shared(), &scores, &anchors);
            assert_eq!(judged.len(), queries);
            for (q, got) in judged {
                let mut want: Vec<usize> = (0..items).filter(|i| !anchors.contains(i)).collect();
                want.sort_by(|&a, &b| scores.item(b)[q].total_cmp(&scores.item(a)[q]));
                want.truncate(JUDGED.1);
                assert_eq!(got, want, "query {q} of {items} items");
            }
        }
    }
}
