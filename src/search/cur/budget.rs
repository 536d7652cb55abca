//! A scorer that counts its calls and refuses to exceed a number of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::scorer::{CrossScorer, Pair};
use crate::{Error, Result};

/// A scorer with a budget. A call is one pair; a batch that would exceed the budget is refused as a whole.
///
/// Calls count when they are handed to the scorer, also where it then fails.
pub struct Budgeted<'a> {
    scorer: &'a dyn CrossScorer,
    limit: usize,
    used: AtomicUsize,
}

impl<'a> Budgeted<'a> {
    /// `scorer` for at most `limit` calls.
    pub fn new(scorer: &'a dyn CrossScorer, limit: usize) -> Budgeted<'a> {
        Budgeted { scorer, limit, used: AtomicUsize::new(0) }
    }

    /// Calls made so far.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Calls that are left.
    pub fn remaining(&self) -> usize {
        self.limit - self.used()
    }
}

impl CrossScorer for Budgeted<'_> {
    fn queries(&self) -> usize {
        self.scorer.queries()
    }

    fn items(&self) -> usize {
        self.scorer.items()
    }

    /// # Errors
    /// [`Error::Budget`] if fewer calls are left than there are pairs; as the scorer.
    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>> {
        let asked = pairs.len();
        let take = |used: usize| used.checked_add(asked).filter(|&n| n <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map_err(|used| Error::Budget { limit: self.limit, used, asked })?;
        self.scorer.score(pairs)
    }
}

impl std::fmt::Debug for Budgeted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Budgeted: {} of {} calls used", self.used(), self.limit)
    }
}
