//! One bit for each row of a corpus.

use std::ops::Range;

use crate::{Error, Result};

/// One bit for each row of a corpus, on the host. In a search, set bits are excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u32>,
    len: usize,
}

impl Bitmap {
    /// A bitmap of `len` clear bits.
    pub fn new(len: usize) -> Bitmap {
        Bitmap { words: vec![0; len.div_ceil(32)], len }
    }

    /// A bitmap whose bit `i` is set where `f(i)`.
    pub fn from_fn(len: usize, mut f: impl FnMut(usize) -> bool) -> Bitmap {
        let word = |w: usize| {
            (w * 32..len.min(w * 32 + 32)).fold(0, |bits, i| bits | (f(i) as u32) << (i % 32))
        };
        Bitmap { words: (0..len.div_ceil(32)).map(word).collect(), len }
    }

    /// Sets or clears bit `row`.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such row.
    pub fn set(&mut self, row: usize, value: bool) -> Result<()> {
        if row >= self.len {
            let expected = format!("a row below {}", self.len);
            return Err(Error::argument("row", expected, row.to_string()));
        }
        let bit = 1 << (row % 32);
        if value {
            self.words[row / 32] |= bit;
        } else {
            self.words[row / 32] &= !bit;
        }
        Ok(())
    }

    /// Whether bit `row` is set; false beyond the end.
    pub fn contains(&self, row: usize) -> bool {
        row < self.len && self.words[row / 32] >> (row % 32) & 1 == 1
    }

    /// Appends clear bits up to `len`.
    pub(crate) fn grow(&mut self, len: usize) {
        self.words.resize(len.div_ceil(32), 0);
        self.len = len;
    }

    /// The number of bits.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of set bits.
    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Bits `start..start + 32`, the first in the lowest place; those beyond the end are set, so that they exclude.
    pub(crate) fn word(&self, start: usize) -> u32 {
        let (at, shift) = (start / 32, start % 32);
        let get = |w: usize| {
            let tail = (self.len.saturating_sub(w * 32)).min(32);
            let beyond = if tail == 32 { 0 } else { u32::MAX << tail };
            self.words.get(w).copied().unwrap_or(0) | beyond
        };
        let both = get(at) as u64 | (get(at + 1) as u64) << 32;
        (both >> shift) as u32
    }

    /// Whether all bits of a range within the bitmap are set.
    pub(crate) fn covers(&self, rows: Range<usize>) -> bool {
        rows.clone().step_by(32).all(|start| {
            let n = rows.end - start;
            let beyond = if n >= 32 { 0 } else { u32::MAX << n };
            self.word(start) | beyond == u32::MAX
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Bitmap;

    #[test]
    fn words_and_ranges_at_any_offset() {
        let set = |i: usize| i.is_multiple_of(3) || (40..110).contains(&i);
        let map = Bitmap::from_fn(131, set);
        for start in 0..140 {
            for bit in 0..32 {
                let want = start + bit >= 131 || set(start + bit);
                assert_eq!(map.word(start) >> bit & 1 == 1, want, "{start} {bit}");
            }
            for end in start..=131 {
                assert_eq!(map.covers(start..end), (start..end).all(set), "{start}..{end}");
            }
        }
        assert_eq!(map.count(), (0..131).filter(|&i| set(i)).count());
        assert!(!map.contains(131) && Bitmap::new(3).set(3, true).is_err());
    }
}
