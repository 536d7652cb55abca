//! MaxSim over token vectors as a scorer.

use super::scorer::{CrossScorer, Pair};
use crate::ops::maxsim::{MaxSim, Tokens, rerank};
use crate::{Error, Result};

/// Late interaction as a scorer: the queries' and the items' token vectors, on one device.
#[derive(Debug)]
pub struct MaxSimScorer<'a> {
    queries: &'a Tokens,
    items: &'a Tokens,
    how: MaxSim,
}

impl<'a> MaxSimScorer<'a> {
    /// Scores pairs of these by `how`, on their device.
    ///
    /// # Errors
    /// [`Error::Argument`] if an item has no tokens: its score would be minus infinity.
    pub fn new(queries: &'a Tokens, items: &'a Tokens, how: MaxSim) -> Result<MaxSimScorer<'a>> {
        if let Some(empty) = (0..items.len()).find(|&i| items.offsets().range(i).is_empty()) {
            let got = format!("none in item {empty}");
            return Err(Error::argument("items", "at least one token in each", got));
        }
        Ok(MaxSimScorer { queries, items, how })
    }
}

impl CrossScorer for MaxSimScorer<'_> {
    fn queries(&self) -> usize {
        self.queries.len()
    }

    fn items(&self) -> usize {
        self.items.len()
    }

    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>> {
        // The operation takes a list of items for each query, and gives list after list.
        let mut lists = vec![Vec::new(); self.queries.len()];
        for &(q, i) in pairs {
            lists[q].push(i as u32);
        }
        let found = rerank(self.queries, self.items, &lists, &self.how)?.to_f32_vec()?;
        let mut next = Vec::with_capacity(lists.len());
        let mut start = 0;
        for list in &lists {
            next.push(start);
            start += list.len();
        }
        let take = |&(q, _): &Pair| {
            next[q] += 1;
            found[next[q] - 1]
        };
        Ok(pairs.iter().map(take).collect())
    }
}
