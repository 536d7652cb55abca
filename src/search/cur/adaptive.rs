//! ADACUR and AXN: anchors of each query's own, chosen in rounds.

use std::collections::HashMap;
use std::ops::Range;

use faer::Mat;

use super::anchors::sample;
use super::budget::Budgeted;
use super::fit::{Block, judged};
use super::found::{BATCH, Found, best, check_search, score_lists, zip};
use super::matrix::ScoreMatrix;
use super::residual::{self, Affine, Cheap};
use super::ridge::Ridge;
use super::scorer::CrossScorer;
use crate::device::threads::items::*;
use crate::ops::embed::gather_rows;
use crate::ops::topk::{Bitmap, Corpus, Filter, Metric, Rows, Search, topk};
use crate::{DType, Device, Error, Result, Tensor};

/// Where a query's first items come from.
#[derive(Clone, Copy, Debug)]
pub enum First<'a> {
    /// Uniformly chosen, other ones for each query.
    Uniform {
        /// Of the choice.
        seed: u64,
    },
    /// A list of items for each query, best first, as a dual encoder finds them; as many as the first round has room for
    /// are scored.
    Given(&'a [Vec<usize>]),
}

/// What is asked of an [`AdaptiveIndex`].
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveSearch<'a> {
    /// Items to find for each query; more than were scored gives all that were.
    pub k: usize,
    /// Scorer calls for each query.
    pub budget: usize,
    /// Rounds that share the budget equally.
    pub rounds: usize,
    /// Calls kept from the rounds for a last re-ranking: the split budget. 0 spends all on rounds.
    pub rerank: usize,
    /// The first round.
    pub first: First<'a>,
    /// The queries' embeddings \[queries, dim\]: for AXN, and for ADACUR with a cheap score.
    pub embeddings: Option<&'a [f32]>,
}

/// Calibration by uniformly chosen items: how many of them.
const CALIBRATED: usize = 100;
/// The least ridge, relative to the mean squared length of the features: what f64 can factor.
const LEAST: f64 = 1e-12;
/// Bytes of features that the queries of a group hold on the host.
const GROUP_BYTES: usize = 256 << 20;

/// The cheap score of ADACUR.
#[derive(Clone, Debug)]
struct Line {
    affine: Affine,
    /// \[anchor queries, dim\].
    queries: Vec<f32>,
}

/// Features of items, to which the exact scores of each query's own items are fitted in rounds; see the
/// [module](super).
///
/// Memory on the device is `items · (width · element size + 4)` bytes; the width is the number of anchor queries, the
/// dimension of embeddings, or both together where ADACUR has a cheap score. A search holds at most 256 MiB of features
/// on the host.
#[derive(Clone)]
pub struct AdaptiveIndex {
    /// The embeddings, if any, and then the features, unless they are the embeddings.
    rows: Corpus,
    /// Where the features are in a row.
    features: Range<usize>,
    /// The dimension of the embeddings; 0 without.
    dim: usize,
    line: Option<Line>,
    ridge: f64,
}

impl AdaptiveIndex {
    /// ADACUR (arXiv:2305.02996): an item's features are its exact scores by the anchor queries, its column of R. With a
    /// `cheap` score D they are what R differs from `alpha D + beta`, and each query's scores are fitted by a slope on its
    /// D, an intercept and these.
    ///
    /// `weight` times the largest singular value of the features of 100 uniformly chosen items, squared, is the ridge;
    /// where there is none it is chosen as [`Regularisation::CrossValidated`](super::Regularisation) says, with these
    /// items.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no items or the weight is not within 0 to 1e6; [`Error::Shape`] if embeddings do
    /// not fit; [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn adacur(
        device: &Device,
        scores: &ScoreMatrix,
        weight: Option<f64>,
        cheap: Option<Cheap<'_>>,
    ) -> Result<AdaptiveIndex> {
        let (queries, items) = (scores.queries(), scores.items());
        if items == 0 {
            return Err(Error::argument("items", "at least 1", "0"));
        }
        check_weight(weight.unwrap_or(0.0))?;
        let (line, left) = match cheap {
            None => (None, None),
            Some(cheap) => {
                cheap.check(device.threads(), queries, items)?;
                let d = residual::cheap_scores(device, cheap.queries, cheap.items, cheap.dim)?;
                let affine = Affine::fit(&d, scores.as_slice());
                let line = Line { affine, queries: cheap.queries.to_vec() };
                (Some(line), Some(residual::residuals(affine, scores, d)))
            }
        };
        let left = left.as_deref().unwrap_or(scores.as_slice());
        let mut chosen = sample(items, CALIBRATED, 0);
        chosen.sort_unstable();
        let cell = |q: usize, i: usize| f64::from(left[i * queries + q]);
        let block =
            Block::new(Mat::from_fn(queries, chosen.len(), |q, a| cell(q, chosen[a])).as_ref())?;
        let threads = device.threads();
        let judged = || judged(threads, scores, &chosen);
        let weight = weight.unwrap_or_else(|| block.choose(threads, &judged(), cell).0);
        let dim = cheap.map_or(0, |c| c.dim);
        let mut index = AdaptiveIndex {
            rows: Corpus::new(device, DType::F32, dim + queries)?,
            features: dim..dim + queries,
            dim,
            line,
            ridge: ridge((weight * block.largest()).powi(2), left, queries),
        };
        index.fill(left, cheap.map(|c| c.items))?;
        Ok(index)
    }

    /// AXN (arXiv:2405.03651) over the embeddings of a dual encoder, `items` \[items, dim\]: no item needs an exact score
    /// in advance. Each query's scores are fitted by a slope on its dot products, an intercept and a correction of its
    /// embedding.
    ///
    /// `weight` times the mean squared length of the embeddings is the ridge, which holds the correction small. On
    /// Cranfield with MaxSim as the exact score 0.3 to 1 did best.
    ///
    /// # Errors
    /// As [`adacur`](Self::adacur); [`Error::Shape`] if the embeddings are not of `dim` dimensions.
    pub fn axn(device: &Device, items: &[f32], dim: usize, weight: f64) -> Result<AdaptiveIndex> {
        if dim == 0 || items.is_empty() {
            let got = format!("{} values in {dim} dimensions", items.len());
            return Err(Error::argument("embeddings", "at least one in one dimension", got));
        }
        check_weight(weight)?;
        residual::check(device.threads(), "items", items, items.len() / dim, dim)?;
        let mut rows = Corpus::new(device, DType::F32, dim)?;
        rows.append(items)?;
        let ridge = ridge(weight * mean_square(items, dim), items, dim);
        Ok(AdaptiveIndex { rows, features: 0..dim, dim, line: None, ridge })
    }

    /// Appends rows of features \[n, features\], after their embeddings \[n, dim\] where ADACUR has them.
    fn fill(&mut self, features: &[f32], embeddings: Option<&[f32]>) -> Result<()> {
        let Some(embeddings) = embeddings else { return self.rows.append(features) };
        let width = self.features.len();
        let step = (residual::WINDOW / 4 / self.rows.dim()).max(1);
        for (own, features) in embeddings.chunks(step * self.dim).zip(features.chunks(step * width))
        {
            let pairs = own.chunks_exact(self.dim).zip(features.chunks_exact(width));
            let rows: Vec<f32> = pairs.flat_map(|(e, f)| e.iter().chain(f)).copied().collect();
            self.rows.append(&rows)?;
        }
        Ok(())
    }

    /// Appends items to ADACUR: their scores by the same anchor queries, with a cheap score also their `embeddings`
    /// \[items, dim\].
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths do not fit, [`Error::Argument`] if embeddings are missing, superfluous or not finite
    /// or the index is AXN's, [`Error::OutOfMemory`].
    pub fn append(&mut self, scores: &ScoreMatrix, embeddings: Option<&[f32]>) -> Result<()> {
        if self.is_axn() {
            return Err(Error::argument("scores", "none for AXN: append_embeddings", "scores"));
        }
        if scores.queries() != self.features.len() {
            let expected = format!("scores by {} anchor queries", self.features.len());
            return Err(Error::shape("append", expected, format!("by {}", scores.queries())));
        }
        self.check_embeddings("items", embeddings, scores.items())?;
        match (&self.line, embeddings) {
            (Some(line), Some(items)) => {
                let d = residual::cheap_scores(self.device(), &line.queries, items, self.dim)?;
                let left = residual::residuals(line.affine, scores, d);
                self.fill(&left, embeddings)
            }
            _ => self.fill(scores.as_slice(), None),
        }
    }

    /// Appends items to AXN: their embeddings \[items, dim\].
    ///
    /// # Errors
    /// [`Error::Shape`] if the length does not fit, [`Error::Argument`] if a number is not finite or the index is
    /// ADACUR's, [`Error::OutOfMemory`].
    pub fn append_embeddings(&mut self, items: &[f32]) -> Result<()> {
        if !self.is_axn() {
            return Err(Error::argument(
                "embeddings",
                "scores too for ADACUR: append",
                "embeddings",
            ));
        }
        residual::check(self.device().threads(), "items", items, items.len() / self.dim, self.dim)?;
        self.rows.append(items)
    }

    fn is_axn(&self) -> bool {
        self.dim > 0 && self.features.start == 0
    }

    fn check_embeddings(&self, whose: &str, given: Option<&[f32]>, n: usize) -> Result<()> {
        match given {
            Some(given) if self.dim > 0 => {
                residual::check(self.device().threads(), whose, given, n, self.dim)
            }
            None if self.dim == 0 => Ok(()),
            Some(_) => {
                let expected = "none, as the index has no cheap score";
                Err(Error::argument("embeddings", expected, "embeddings"))
            }
            None => {
                let expected = format!("embeddings of the {whose} in {} dimensions", self.dim);
                Err(Error::argument("embeddings", expected, "none"))
            }
        }
    }

    /// The `k` best of `budget` items that are scored exactly, for each of the `queries`, numbers of the scorer.
    ///
    /// Each round scores the best items by the last fit that have no score yet, and fits again: for AXN and ADACUR alike
    /// the ridge regression of the exact scores on the features, for each query, on the host; the best items are found
    /// by [`topk`] on the device, for all queries at once. The last of the calls go to `rerank` items at once.
    ///
    /// Each query costs at most `min(budget, items)` calls, and exactly so many unless a given first list repeats.
    ///
    /// # Errors
    /// [`Error::Argument`] if `k`, `rounds` or the budget left to the rounds is 0, an item or a query is out of range or
    /// a score is not finite; [`Error::Shape`] if scorer, first lists or embeddings do not fit; the scorer's.
    pub fn search(
        &self,
        scorer: &dyn CrossScorer,
        queries: &[usize],
        search: &AdaptiveSearch<'_>,
    ) -> Result<Found> {
        check_search(scorer, self.len(), queries, search.k)?;
        self.check(queries.len(), search)?;
        let budget = search.budget.min(self.len());
        let budgeted = Budgeted::new(scorer, budget.saturating_mul(queries.len()));
        let held = budget.saturating_mul(self.features.len()).saturating_mul(8);
        let group = (BATCH / budget).min(GROUP_BYTES / held.max(1)).max(1);
        let mut found = Found::none();
        for (g, part) in queries.chunks(group).enumerate() {
            let numbers = g * group..g * group + part.len();
            found.items.extend(self.rounds(&budgeted, part, numbers, budget, search)?);
        }
        found.calls = budgeted.used();
        Ok(found)
    }

    fn check(&self, queries: usize, search: &AdaptiveSearch<'_>) -> Result<()> {
        if search.rounds == 0 {
            return Err(Error::argument("rounds", "at least 1", "0"));
        }
        if search.budget <= search.rerank {
            let expected = format!("more than the {} calls kept for re-ranking", search.rerank);
            return Err(Error::argument("budget", expected, search.budget.to_string()));
        }
        self.check_embeddings("queries", search.embeddings, queries)?;
        let First::Given(lists) = search.first else { return Ok(()) };
        if lists.len() != queries {
            let expected = format!("a first list for each of {queries} queries");
            return Err(Error::shape("search", expected, lists.len().to_string()));
        }
        match lists.iter().flatten().find(|&&i| i >= self.len()) {
            None => Ok(()),
            Some(i) => {
                let expected = format!("items below {}", self.len());
                Err(Error::argument("first", expected, i.to_string()))
            }
        }
    }

    /// All rounds of some queries; `numbers` are their places among all.
    fn rounds(
        &self,
        scorer: &dyn CrossScorer,
        queries: &[usize],
        numbers: Range<usize>,
        budget: usize,
        search: &AdaptiveSearch<'_>,
    ) -> Result<Vec<Vec<super::Scored>>> {
        let (n, features) = (self.len(), self.features.len());
        let (threads, cost) = (self.device().threads(), queries.len() * features * features);
        let mut solvers: Vec<Ridge> =
            queries.iter().map(|_| Ridge::new(features, self.ridge)).collect();
        let own = |j: usize| -> &[f32] {
            let q = numbers.start + j;
            search.embeddings.map_or(&[], |all| &all[q * self.dim..][..self.dim])
        };
        let mut seen = vec![Bitmap::new(n); queries.len()];
        let mut scored = vec![Vec::new(); queries.len()];
        // Where the items are fewer than the budget, the rounds come first.
        let rerank = search.rerank.min(budget - 1);
        let mut round = 0;
        loop {
            let last = round == search.rounds;
            let room = |scored: &Vec<super::Scored>| match last {
                true => budget - scored.len(),
                false => (budget - rerank - scored.len()).div_ceil(search.rounds - round),
            };
            let mut lists: Vec<Vec<usize>> = if round == 0 {
                numbers.clone().map(|q| first(search.first, q, n, room(&Vec::new()))).collect()
            } else {
                let most = scored.iter().map(&room).max().unwrap_or(0);
                if most == 0 {
                    // Nothing is left to the rounds, however many there are.
                    if last {
                        break;
                    }
                    round = search.rounds;
                    continue;
                }
                let each = solvers.par_iter().enumerate();
                let latent = threads
                    .map(cost, each, |(j, solver)| self.query(solver.solve(), own(j)))
                    .concat();
                let shape = [queries.len(), self.rows.dim()];
                let latent = Tensor::from_f32(self.device(), DType::F32, &shape, &latent)?;
                let sets: Vec<Rows<'_>> = seen.iter().map(Rows::Exclude).collect();
                let wanted = Search { filter: Filter::PerQuery(&sets), ..Search::new(most) };
                let hits = topk(&latent, &self.rows, Metric::Dot, &wanted)?;
                hits.iter()
                    .map(|(rows, _)| rows.iter().map(|&row| row as usize).collect())
                    .collect()
            };
            for ((list, seen), scored) in lists.iter_mut().zip(&mut seen).zip(&scored) {
                list.truncate(room(scored));
                let mut fresh = Vec::with_capacity(list.len());
                for &item in list.iter() {
                    if !seen.contains(item) {
                        seen.set(item, true)?;
                        fresh.push(item);
                    }
                }
                *list = fresh;
            }
            // A round that finds nothing teaches nothing: the ones after it would find the same.
            let found_none = round > 0 && lists.iter().all(Vec::is_empty);
            let exact = score_lists(scorer, queries, &lists)?;
            if !last {
                let rows = self.gather(&lists)?;
                let fresh = lists.par_iter().zip(&exact).enumerate();
                let each = solvers.par_iter_mut().zip(fresh);
                threads.for_each(cost, each, |(solver, (j, (list, exact)))| {
                    let own = own(j);
                    for (item, &score) in list.iter().zip(exact) {
                        let row = &rows[item];
                        let dot = || {
                            own.iter().zip(row).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
                        };
                        let cheap = (!own.is_empty()).then(dot);
                        solver.push(&row[self.features.clone()], cheap, score);
                    }
                });
            }
            for ((scored, list), exact) in scored.iter_mut().zip(&lists).zip(&exact) {
                scored.extend(zip(list, exact));
            }
            if last {
                break;
            }
            round = if found_none { search.rounds } else { round + 1 };
        }
        Ok(scored.into_iter().map(|scored| best(scored, search.k)).collect())
    }

    /// The vector whose dot product with an item's row is the fit, less its intercept.
    fn query(&self, (slope, z): (f64, Vec<f64>), own: &[f32]) -> Vec<f32> {
        let mut row: Vec<f64> = own.iter().map(|&x| slope * f64::from(x)).collect();
        row.resize(self.rows.dim(), 0.0);
        for (x, z) in row[self.features.clone()].iter_mut().zip(&z) {
            *x += z;
        }
        row.iter().map(|&x| x as f32).collect()
    }

    /// The rows, as stored, of all items that are listed.
    fn gather(&self, lists: &[Vec<usize>]) -> Result<HashMap<usize, Vec<f32>>> {
        let mut items: Vec<usize> = lists.iter().flatten().copied().collect();
        items.sort_unstable();
        items.dedup();
        let mut rows = HashMap::with_capacity(items.len());
        let (mut start, mut rest) = (0, &items[..]);
        for chunk in self.rows.chunks() {
            let end = start + chunk.shape()[0];
            let (own, others) = rest.split_at(rest.partition_point(|&i| i < end));
            rest = others;
            if !own.is_empty() {
                let numbers: Vec<u32> = own.iter().map(|&i| (i - start) as u32).collect();
                let values = gather_rows(chunk, &numbers)?.to_f32_vec()?;
                let values = values.chunks_exact(self.rows.dim()).map(<[f32]>::to_vec);
                rows.extend(own.iter().copied().zip(values));
            }
            start = end;
        }
        Ok(rows)
    }

    /// The ridge in use, absolute.
    pub fn ridge(&self) -> f64 {
        self.ridge
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no items; never, as there are some from the start.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.rows.device()
    }

    /// Bytes that the items hold on the device.
    pub fn memory_bytes(&self) -> usize {
        self.rows.bytes()
    }
}

/// The first items of query number `q`.
fn first(first: First<'_>, q: usize, items: usize, room: usize) -> Vec<usize> {
    match first {
        First::Given(lists) => lists[q].clone(),
        // No multiple of the step of SplitMix64, so that no query has the shifted numbers of another.
        First::Uniform { seed } => {
            sample(items, room, seed ^ (q as u64 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03))
        }
    }
}

fn mean_square(rows: &[f32], dim: usize) -> f64 {
    let squares: f64 = rows.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    squares / (rows.len() / dim) as f64
}

/// A ridge that is large enough for the factor of features \[n, dim\] to exist.
fn ridge(wanted: f64, features: &[f32], dim: usize) -> f64 {
    wanted.max(LEAST * mean_square(features, dim)).max(f64::MIN_POSITIVE)
}

fn check_weight(weight: f64) -> Result<()> {
    match (0.0..=1e6).contains(&weight) {
        true => Ok(()),
        false => Err(Error::argument("weight", "0 to 1e6", weight.to_string())),
    }
}

impl std::fmt::Debug for AdaptiveIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdaptiveIndex")
            .field("items", &self.len())
            .field("features", &self.features.len())
            .field("embeddings", &self.dim)
            .field("ridge", &self.ridge)
            .field("device", self.device())
            .finish()
    }
}
