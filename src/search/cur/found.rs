//! What the searches give: exact scores, in order, and what they cost.

use super::scorer::{CrossScorer, Pair, score};
use crate::{Error, Result};

/// An item and a score of it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Scored {
    /// The item's number.
    pub item: usize,
    /// Its score; larger is better.
    pub score: f32,
}

/// The items found, with exact scores: score descending, equal scores by ascending item.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Found {
    /// For each query the best items of those that were scored.
    pub items: Vec<Vec<Scored>>,
    /// Calls of the scorer, of all queries together.
    pub calls: usize,
}

impl Found {
    pub(super) fn none() -> Found {
        Found { items: Vec::new(), calls: 0 }
    }
}

/// Orders items as [`Found`] does and keeps the best `k`.
pub(super) fn best(mut items: Vec<Scored>, k: usize) -> Vec<Scored> {
    items.sort_unstable_by(|a, b| {
        let order = b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal);
        order.then(a.item.cmp(&b.item))
    });
    items.truncate(k);
    items
}

/// Pairs handed to the scorer at a time, at least one query's.
pub(super) const BATCH: usize = 64 << 10;

/// Exact scores of some items for each query: `items[j]` for `queries[j]`, in order.
pub(super) fn score_lists(
    scorer: &dyn CrossScorer,
    queries: &[usize],
    items: &[Vec<usize>],
) -> Result<Vec<Vec<f32>>> {
    let pairs: Vec<Pair> = queries
        .iter()
        .zip(items)
        .flat_map(|(&q, list)| list.iter().map(move |&i| (q, i)))
        .collect();
    let scores = score(scorer, &pairs)?;
    let mut rest = &scores[..];
    Ok(items
        .iter()
        .map(|list| {
            let (own, others) = rest.split_at(list.len());
            rest = others;
            own.to_vec()
        })
        .collect())
}

/// Items with their scores.
pub(super) fn zip<'a>(items: &'a [usize], scores: &'a [f32]) -> impl Iterator<Item = Scored> + 'a {
    items.iter().zip(scores).map(|(&item, &score)| Scored { item, score })
}

/// Checks what every search is asked.
pub(super) fn check_search(
    scorer: &dyn CrossScorer,
    items: usize,
    queries: &[usize],
    k: usize,
) -> Result<()> {
    if k == 0 {
        return Err(Error::argument("k", "at least 1", "0"));
    }
    if scorer.items() != items {
        let expected = format!("a scorer of {items} items");
        return Err(Error::shape("search", expected, scorer.items().to_string()));
    }
    match queries.iter().find(|&&q| q >= scorer.queries()) {
        None => Ok(()),
        Some(q) => {
            let expected = format!("queries below {}", scorer.queries());
            Err(Error::argument("queries", expected, q.to_string()))
        }
    }
}
