//! The total order of hits, and keeping the first k of it.

use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::ops::length::scaled;

/// A hit as one number: greater is better. The score's bits are mapped so that they compare as unsigned integers;
/// below them is the complement of the row, so that of equal scores the lower row is greater.
pub(crate) type Entry = u64;

/// The order-preserving image of a score: 0 for NaN, which never enters, and at least 1 otherwise. -0 is 0.
#[inline(always)]
pub(crate) fn key(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 }
}

/// The score of a key other than 0.
#[inline(always)]
pub(crate) fn score(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}

#[inline(always)]
pub(crate) fn entry(key: u32, row: u32) -> Entry {
    (key as u64) << 32 | !row as u64
}

/// Keeps the `k` greatest entries of a stream: a buffer of about twice as many, halved by selection when full.
/// Each halving raises the threshold below which entries need not be offered.
#[derive(Clone)]
pub(crate) struct Selector {
    k: usize,
    entries: Vec<Entry>,
    threshold: Entry,
}

/// Room beyond `k`, so that small k do not select all the time.
const ROOM: usize = 64;

impl Selector {
    pub(crate) fn new(k: usize) -> Selector {
        Selector { k, entries: Vec::new(), threshold: 0 }
    }

    /// Bytes a selector may hold.
    pub(crate) const fn bytes(k: usize) -> usize {
        (k + if k > ROOM { k } else { ROOM }) * size_of::<Entry>()
    }

    /// An entry must be greater than this to matter; 0 as long as any may enter.
    #[inline(always)]
    pub(crate) fn threshold(&self) -> Entry {
        self.threshold
    }

    /// Takes an entry whose key is not 0.
    #[inline(always)]
    pub(crate) fn push(&mut self, entry: Entry) {
        if entry > self.threshold {
            self.entries.push(entry);
            if self.entries.len() >= self.k + self.k.max(ROOM) {
                self.halve();
            }
        }
    }

    #[cold]
    fn halve(&mut self) {
        if self.entries.len() > self.k {
            let (_, kth, _) = self.entries.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.threshold = *kth;
            self.entries.truncate(self.k);
        }
    }

    pub(crate) fn merge(&mut self, other: &Selector) {
        for &entry in &other.entries {
            self.push(entry);
        }
    }

    /// The k greatest entries in descending order.
    pub(crate) fn finish(mut self) -> Vec<Entry> {
        self.halve();
        self.entries.sort_unstable_by(|a, b| b.cmp(a));
        self.entries
    }
}

/// Each selector's [`finish`](Selector::finish).
pub(crate) fn finish(threads: &Threads, selectors: Vec<Selector>) -> Vec<Vec<Entry>> {
    let cost = selectors.iter().map(|s| 20 * s.entries.len()).sum();
    threads.map(cost, selectors.into_par_iter(), Selector::finish)
}

/// What a search found: for each query the rows and their scores, best first. A query may have fewer than k.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    bounds: Vec<usize>,
    ids: Vec<u64>,
    scores: Vec<f32>,
}

impl Hits {
    /// No hits for each of `queries` queries.
    pub(crate) fn none(queries: usize) -> Hits {
        Hits { bounds: vec![0; queries + 1], ids: Vec::new(), scores: Vec::new() }
    }

    /// No queries yet.
    pub(crate) fn new() -> Hits {
        Hits::none(0)
    }

    /// Adds a query's entries, in order.
    pub(crate) fn push(&mut self, entries: &[Entry]) {
        for e in entries {
            self.ids.push(!(*e as u32) as u64);
            self.scores.push(score((e >> 32) as u32));
        }
        self.bounds.push(self.ids.len());
    }

    /// Adds a query's rows and scores, in order.
    pub(crate) fn push_scored(&mut self, rows: &[u64], scores: &[f32]) {
        self.ids.extend_from_slice(rows);
        self.scores.extend_from_slice(scores);
        self.bounds.push(self.ids.len());
    }

    /// Multiplies each query's scores by 2 to the power of its exponent; nothing where there are no exponents.
    pub(crate) fn scale(&mut self, exponents: &[i32]) {
        for (q, &exponent) in exponents.iter().enumerate().filter(|(_, e)| **e != 0) {
            let scores = &mut self.scores[self.bounds[q]..self.bounds[q + 1]];
            scores.iter_mut().for_each(|s| *s = scaled(*s, exponent));
        }
    }

    /// The number of queries.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Whether there were no queries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows found for query `query` and their scores; nothing for a query that was not asked.
    pub fn get(&self, query: usize) -> (&[u64], &[f32]) {
        match self.bounds.get(query..query.saturating_add(2)) {
            Some(&[start, end]) => (&self.ids[start..end], &self.scores[start..end]),
            _ => (&[], &[]),
        }
    }

    /// Rows and scores of each query in turn.
    pub fn iter(&self) -> impl Iterator<Item = (&[u64], &[f32])> {
        (0..self.len()).map(|q| self.get(q))
    }
}

#[cfg(test)]
mod tests {
    use super::{Selector, entry, key, score};

    #[test]
    fn keys_order_as_scores_do() {
        let scores = [f32::NEG_INFINITY, -1e30, -1.0, -1e-45, 0.0, 1e-45, 1.0, f32::INFINITY];
        for pair in scores.windows(2) {
            assert!(key(pair[0]) < key(pair[1]), "{pair:?}");
        }
        for s in scores {
            assert_eq!(score(key(s)), s);
            assert!(key(s) > 0);
        }
        assert_eq!(key(-0.0), key(0.0));
        assert_eq!(key(f32::NAN), 0);
        assert_eq!(key(-f32::NAN), 0);
    }

    #[test]
    fn a_selector_keeps_the_best_and_of_equals_the_first() {
        for k in [1, 2, 63, 64, 65, 500, 3000] {
            let mut all: Vec<_> = (0..2000u32)
                .map(|i| entry(key((i.wrapping_mul(2_654_435_761) >> 25) as f32), i))
                .collect();
            let mut selector = Selector::new(k);
            all.iter().for_each(|&e| selector.push(e));
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.truncate(k);
            assert_eq!(selector.finish(), all, "k = {k}");
        }
    }
}
