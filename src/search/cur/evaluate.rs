//! Recall of the exact best against scorer calls, for all methods on the same scores.

use std::collections::BTreeSet;

use super::adaptive::{AdaptiveIndex, AdaptiveSearch, First};
use super::anchors::{Anchors, sample};
use super::found::{BATCH, Found, Scored, best, zip};
use super::index::{CurIndex, CurOptions, CurSearch};
use super::matrix::{Offline, ScoreMatrix};
use super::residual::Cheap;
use super::scorer::{CrossScorer, MatrixScorer, Pair, score};
use crate::device::threads::items::*;
use crate::ops::topk::{Bitmap, Corpus, Filter, Metric, Rows, Search, topk};
use crate::{DType, Device, Error, Result, Tensor};

/// What is compared.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// Queries that CUR and ADACUR are fitted to, numbers of the scorer.
    pub anchor_queries: &'a [usize],
    /// Queries that are asked.
    pub test_queries: &'a [usize],
    /// For each test query the item that is the query itself, which takes no rank: neither among the exact best nor among
    /// those found. Empty if no query is an item.
    pub own_items: &'a [Option<usize>],
    /// Embeddings of all queries and items of the scorer, for the methods with a cheap score; they are left out without.
    pub cheap: Option<Cheap<'a>>,
    /// Scores items by items, as queries, for the fixed-item baseline; it is left out without.
    pub item_scorer: Option<&'a dyn CrossScorer>,
    /// Numbers of anchor items, k_i. Those beyond the items are passed over.
    pub anchor_items: &'a [usize],
    /// Numbers of retrieved items, k_r.
    pub retrieved: &'a [usize],
    /// Rounds of ADACUR and AXN.
    pub rounds: usize,
    /// AXN's ridge, as [`AdaptiveIndex::axn`] takes it.
    pub axn_weight: f64,
    /// Of everything that is chosen at random.
    pub seed: u64,
}

impl std::fmt::Debug for Evaluation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluation")
            .field("anchor_queries", &self.anchor_queries.len())
            .field("test_queries", &self.test_queries.len())
            .field("own_items", &self.own_items.len())
            .field("cheap", &self.cheap.is_some())
            .field("item_scorer", &self.item_scorer.is_some())
            .field("anchor_items", &self.anchor_items)
            .field("retrieved", &self.retrieved)
            .field("rounds", &self.rounds)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// One point of the curves. Recall@k is the share of the exact best k that are among the best k of those scored, averaged
/// over the test queries.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Row {
    /// `cur`, `cur-residual`, `adacur`, `adacur-split`, `adacur-residual`, `axn`, `dual-encoder`, `fixed-item` or `random`.
    pub method: &'static str,
    /// Items scored before the last retrieval: anchors, or those of the rounds.
    pub k_i: usize,
    /// Items retrieved last and re-ranked.
    pub k_r: usize,
    /// Calls a query: k_i + k_r, unless there are fewer items.
    pub calls: usize,
    /// Recall@1.
    #[serde(rename = "recall@1")]
    pub recall_1: f64,
    /// Recall@10.
    #[serde(rename = "recall@10")]
    pub recall_10: f64,
    /// Recall@100.
    #[serde(rename = "recall@100")]
    pub recall_100: f64,
}

/// Measures all methods on `device`: CUR and residual CUR at every pair of k_i and k_r, ADACUR with the budget split in
/// the same way, and ADACUR, AXN and the baselines at every total of calls that this makes.
///
/// The exact scores of all test queries are computed once: `test queries · items` calls, and `anchor queries · items` for
/// the fits; no method sees more of them than its calls.
///
/// # Errors
/// [`Error::Argument`] if there are no test queries, no anchor queries, no k_i within the items or no k_r, and as the
/// methods.
pub fn evaluate(
    device: &Device,
    scorer: &dyn CrossScorer,
    evaluation: &Evaluation<'_>,
) -> Result<Vec<Row>> {
    let items = scorer.items();
    let mut k_is: Vec<usize> = evaluation.anchor_items.to_vec();
    k_is.retain(|k| (1..=items).contains(k));
    for (what, n, expected) in [
        ("test queries", evaluation.test_queries.len(), "at least 1".to_string()),
        ("anchor items", k_is.len(), format!("some number from 1 to {items}")),
        ("retrieved items", evaluation.retrieved.len(), "some number".to_string()),
    ] {
        if n == 0 {
            return Err(Error::argument(what, expected, "none"));
        }
    }
    let (own_items, tests) = (evaluation.own_items, evaluation.test_queries.len());
    if !own_items.is_empty() && own_items.len() != tests {
        let got = format!("{} entries", own_items.len());
        return Err(Error::argument("own_items", format!("one for each of {tests} queries"), got));
    }
    if let Some(cheap) = &evaluation.cheap {
        cheap.check(device.threads(), scorer.queries(), items)?;
    }
    let offline = Offline::default();
    let anchors = ScoreMatrix::compute(scorer, evaluation.anchor_queries, 0..items, &offline)?;
    let exact = rows(scorer, evaluation.test_queries)?;
    let scorer = MatrixScorer::new(evaluation.test_queries.len(), items, &exact)?;
    let queries: Vec<usize> = (0..evaluation.test_queries.len()).collect();
    let (cost, each) = (10 * exact.len(), exact.par_chunks(items).enumerate());
    let truth: Vec<Vec<usize>> = device.threads().map(cost, each, |(q, row)| {
        let all = row.iter().enumerate().map(|(item, &score)| Scored { item, score });
        let others = all.filter(|s| Some(s.item) != own_item(own_items, q));
        best(others.collect(), DEPTH).iter().map(|s| s.item).collect()
    });
    let own = |numbers: &[usize], all: &[f32], dim: usize| -> Vec<f32> {
        numbers.iter().flat_map(|&q| all[q * dim..][..dim].iter().copied()).collect()
    };
    let dense = evaluation.cheap.map(|cheap| {
        let of_anchors = own(evaluation.anchor_queries, cheap.queries, cheap.dim);
        (cheap, of_anchors, own(evaluation.test_queries, cheap.queries, cheap.dim))
    });
    let mut bench =
        Bench { own_items, scorer: &scorer, queries: &queries, truth: &truth, rows: Vec::new() };
    let totals: BTreeSet<usize> = k_is
        .iter()
        .flat_map(|&k_i| {
            evaluation.retrieved.iter().map(move |&k_r| k_i.saturating_add(k_r).min(items))
        })
        .collect();
    let seed = evaluation.seed;

    for &k_i in &k_is {
        let options = CurOptions::new(Anchors::Uniform { count: k_i, seed });
        let plain = CurIndex::fit(device, &anchors, &options)?;
        bench.cur("cur", &plain, evaluation.retrieved, None)?;
        if let Some((cheap, of_anchors, own)) = &dense {
            let cheap = Cheap { queries: of_anchors, ..*cheap };
            let options = CurOptions { cheap: Some(cheap), ..options };
            let index = CurIndex::fit(device, &anchors, &options)?;
            bench.cur("cur-residual", &index, evaluation.retrieved, Some(own))?;
        }
        if let Some(by_items) = evaluation.item_scorer {
            let lists = fixed_item(device, by_items, &scorer, plain.anchors())?;
            bench.prefixes("fixed-item", k_i, evaluation.retrieved, &lists)?;
        }
    }

    let search = AdaptiveSearch {
        k: DEPTH + 1,
        budget: 0,
        rounds: evaluation.rounds,
        rerank: 0,
        first: First::Uniform { seed },
        embeddings: None,
    };
    let adacur = AdaptiveIndex::adacur(device, &anchors, None, None)?;
    for &k_i in &k_is {
        for &k_r in evaluation.retrieved.iter().filter(|&&k_r| k_r > 0) {
            // No more than there are, so that a sum that saturates leaves calls to the rounds.
            let rerank = k_r.min(items);
            let split = AdaptiveSearch { budget: k_i.saturating_add(rerank), rerank, ..search };
            bench.add("adacur-split", k_i, k_r, &adacur.search(&scorer, &queries, &split)?);
        }
    }
    for &budget in &totals {
        let search = AdaptiveSearch { budget, ..search };
        bench.add("adacur", budget, 0, &adacur.search(&scorer, &queries, &search)?);
    }
    if let Some((cheap, of_anchors, own)) = &dense {
        let most = totals.last().copied().unwrap_or(1);
        let nearest = nearest(device, cheap.items, own, cheap.dim, most)?;
        let of_fit = Cheap { queries: of_anchors, ..*cheap };
        let residual = AdaptiveIndex::adacur(device, &anchors, None, Some(of_fit))?;
        let axn = AdaptiveIndex::axn(device, cheap.items, cheap.dim, evaluation.axn_weight)?;
        let first = First::Given(&nearest);
        for &budget in &totals {
            let search = AdaptiveSearch { budget, first, embeddings: Some(own), ..search };
            bench.add("adacur-residual", budget, 0, &residual.search(&scorer, &queries, &search)?);
            bench.add("axn", budget, 0, &axn.search(&scorer, &queries, &search)?);
        }
        let totals: Vec<usize> = totals.iter().copied().collect();
        bench.prefixes("dual-encoder", 0, &totals, &nearest)?;
    }
    let random: Vec<Vec<usize>> =
        queries.iter().map(|&q| sample(items, items, seed ^ (q as u64 + 1) << 20)).collect();
    let totals: Vec<usize> = totals.into_iter().collect();
    bench.prefixes("random", 0, &totals, &random)?;
    Ok(bench.rows)
}

/// The deepest rank that is measured. Methods return one item more, which may be the query itself.
const DEPTH: usize = 100;

fn own_item(own_items: &[Option<usize>], query: usize) -> Option<usize> {
    own_items.get(query).copied().flatten()
}

/// Exact scores of all items: \[queries, items\].
fn rows(scorer: &dyn CrossScorer, queries: &[usize]) -> Result<Vec<f32>> {
    let items = scorer.items();
    let mut all = Vec::with_capacity(queries.len() * items);
    for &q in queries {
        for start in (0..items).step_by(BATCH) {
            let pairs: Vec<Pair> = (start..items.min(start + BATCH)).map(|i| (q, i)).collect();
            all.extend(score(scorer, &pairs)?);
        }
    }
    Ok(all)
}

/// The `k` items of the largest dot products for each query, `queries` \[n, dim\] and `items` \[m, dim\].
fn nearest(
    device: &Device,
    items: &[f32],
    queries: &[f32],
    dim: usize,
    k: usize,
) -> Result<Vec<Vec<usize>>> {
    let mut corpus = Corpus::new(device, DType::F32, dim)?;
    corpus.append(items)?;
    let queries = Tensor::from_f32(device, DType::F32, &[queries.len() / dim, dim], queries)?;
    let hits = topk(&queries, &corpus, Metric::Dot, &Search::new(k))?;
    Ok(hits.iter().map(|(rows, _)| rows.iter().map(|&row| row as usize).collect()).collect())
}

/// Fixed-item CUR without U (arXiv:2210.12579, section 3): an item is its scores by the anchor items, asked as queries; a
/// query is its scores of them. The anchors come first, then all others in order.
fn fixed_item(
    device: &Device,
    by_items: &dyn CrossScorer,
    scorer: &MatrixScorer<'_>,
    anchors: &[usize],
) -> Result<Vec<Vec<usize>>> {
    let (queries, items) = (scorer.queries(), scorer.items());
    if (by_items.queries(), by_items.items()) != (items, items) {
        let expected = format!("an item scorer of {items} x {items}");
        let got = format!("{} x {}", by_items.queries(), by_items.items());
        return Err(Error::shape("evaluate", expected, got));
    }
    let features = ScoreMatrix::compute(by_items, anchors, 0..items, &Offline::default())?;
    let mut corpus = Corpus::new(device, DType::F32, anchors.len())?;
    corpus.append(features.as_slice())?;
    let pairs: Vec<Pair> =
        (0..queries).flat_map(|q| anchors.iter().map(move |&a| (q, a))).collect();
    let c =
        Tensor::from_f32(device, DType::F32, &[queries, anchors.len()], &scorer.score(&pairs)?)?;
    let mut excluded = Bitmap::new(items);
    for &a in anchors {
        excluded.set(a, true)?;
    }
    let filter = Filter::Shared(Rows::Exclude(&excluded));
    let hits = topk(&c, &corpus, Metric::Dot, &Search { filter, ..Search::new(items) })?;
    let of =
        |rows: &[u64]| anchors.iter().copied().chain(rows.iter().map(|&r| r as usize)).collect();
    Ok(hits.iter().map(|(rows, _)| of(rows)).collect())
}

/// The queries and what was measured on them.
struct Bench<'a> {
    own_items: &'a [Option<usize>],
    scorer: &'a MatrixScorer<'a>,
    queries: &'a [usize],
    /// For each query its exact best 100.
    truth: &'a [Vec<usize>],
    rows: Vec<Row>,
}

impl Bench<'_> {
    fn add(&mut self, method: &'static str, k_i: usize, k_r: usize, found: &Found) {
        let recall = |k: usize| {
            let each = found.items.iter().zip(self.truth).enumerate().map(|(q, (found, truth))| {
                let k = k.min(truth.len());
                let own = own_item(self.own_items, q);
                let others = found.iter().filter(|s| Some(s.item) != own);
                let found = others.take(k).filter(|s| truth[..k].contains(&s.item));
                found.count() as f64 / k.max(1) as f64
            });
            each.sum::<f64>() / self.queries.len() as f64
        };
        let calls = found.calls / self.queries.len();
        let (recall_1, recall_10, recall_100) = (recall(1), recall(10), recall(100));
        self.rows.push(Row { method, k_i, k_r, calls, recall_1, recall_10, recall_100 });
    }

    fn cur(
        &mut self,
        method: &'static str,
        index: &CurIndex,
        retrieved: &[usize],
        embeddings: Option<&[f32]>,
    ) -> Result<()> {
        let k_i = index.anchors().len();
        for &k_r in retrieved {
            let search = CurSearch { k: DEPTH + 1, budget: k_i.saturating_add(k_r), embeddings };
            let found = index.search(self.scorer, self.queries, &search)?;
            self.add(method, k_i, k_r, &found);
        }
        Ok(())
    }

    /// A method that scores the first `k_i + k_r` of each query's list, for each k_r.
    fn prefixes(
        &mut self,
        method: &'static str,
        k_i: usize,
        retrieved: &[usize],
        lists: &[Vec<usize>],
    ) -> Result<()> {
        for &k_r in retrieved {
            let mut found = Found::none();
            for (&q, list) in self.queries.iter().zip(lists) {
                let list = &list[..list.len().min(k_i.saturating_add(k_r))];
                let pairs: Vec<Pair> = list.iter().map(|&i| (q, i)).collect();
                let scores = score(self.scorer, &pairs)?;
                found.calls += pairs.len();
                found.items.push(best(zip(list, &scores).collect(), DEPTH + 1));
            }
            self.add(method, k_i, k_r, &found);
        }
        Ok(())
    }
}
