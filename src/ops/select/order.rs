//! The total order of hits, and keeping the first k of it on the host.

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

/// The score of a key. That of 0 is NaN, which no score exceeds and none is exceeded by.
#[inline(always)]
pub(crate) fn score(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}

#[inline(always)]
pub(crate) fn entry(key: u32, row: u32) -> Entry {
    (key as u64) << 32 | !row as u64
}

/// Keeps the `k` greatest entries of a stream: a buffer of about twice as many, halved by selection when full.
/// Each halving raises the threshold that entries must exceed.
#[derive(Clone)]
pub(crate) struct Selector {
    k: usize,
    entries: Vec<Entry>,
    threshold: Entry,
}

/// Room beyond `k`, so that small k do not select all the time.
const ROOM: usize = 64;

impl Selector {
    /// Keeps entries whose keys exceed `floor`.
    pub(crate) fn new(k: usize, floor: u32) -> Selector {
        Selector { k, entries: Vec::new(), threshold: entry(floor, 0) }
    }

    /// Bytes a selector may hold.
    pub(crate) const fn bytes(k: usize) -> usize {
        (k + if k > ROOM { k } else { ROOM }) * size_of::<Entry>()
    }

    /// An entry must be greater than this to matter.
    #[inline(always)]
    pub(crate) fn threshold(&self) -> Entry {
        self.threshold
    }

    /// Takes an entry, and says whether that raised the threshold. The key 0 never enters.
    #[inline(always)]
    pub(crate) fn push(&mut self, entry: Entry) -> bool {
        if entry <= self.threshold {
            return false;
        }
        self.entries.push(entry);
        let full = self.entries.len() >= self.k + self.k.max(ROOM);
        if full {
            self.halve();
        }
        full
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
            let mut selector = Selector::new(k, 0);
            all.iter().for_each(|&e| _ = selector.push(e));
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.truncate(k);
            assert_eq!(selector.finish(), all, "k = {k}");
            // Those that exceed a floor are among them.
            let floor = (all[all.len() / 2] >> 32) as u32;
            let mut selector = Selector::new(k, floor);
            all.iter().for_each(|&e| _ = selector.push(e));
            all.retain(|e| (e >> 32) as u32 > floor);
            assert_eq!(selector.finish(), all, "k = {k}");
        }
    }
}
