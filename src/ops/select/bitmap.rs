//! One bit for each row of a corpus.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use super::kept::Kept;
use crate::{Error, Result};

/// One bit for each row of a corpus, on the host. [`Rows`](super::Rows) says what set bits mean in a search.
///
/// What a GPU reads of the bits is kept with them from the first search on that has them as the filter of all its queries, until they
/// change: a filter that is used again costs no copy. A clone has the bits alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u32>,
    len: usize,
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    kept: Kept,
}

impl Bitmap {
    /// A bitmap of `len` clear bits.
    pub fn new(len: usize) -> Bitmap {
        Bitmap::of(vec![0; len.div_ceil(32)], len)
    }

    /// A bitmap whose bit `i` is set where `f(i)`.
    pub fn from_fn(len: usize, mut f: impl FnMut(usize) -> bool) -> Bitmap {
        let word = |w: usize| {
            (w * 32..len.min(w * 32 + 32)).fold(0, |bits, i| bits | (f(i) as u32) << (i % 32))
        };
        Bitmap::of((0..len.div_ceil(32)).map(word).collect(), len)
    }

    fn of(words: Vec<u32>, len: usize) -> Bitmap {
        Bitmap {
            words,
            len,
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            kept: Kept::default(),
        }
    }

    /// What devices keep of the bits.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    fn change(&mut self) {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        self.kept.forget();
    }

    /// Appends `count` clear bits.
    pub fn extend(&mut self, count: usize) {
        self.change();
        self.len += count;
        self.words.resize(self.len.div_ceil(32), 0);
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
        self.change();
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

    /// Bits `start..start + 32`, the first in the lowest place; those beyond the end are clear.
    pub(crate) fn word(&self, start: usize) -> u32 {
        let (at, shift) = (start / 32, start % 32);
        let get = |w: usize| self.words.get(w).copied().unwrap_or(0);
        let both = get(at) as u64 | (get(at + 1) as u64) << 32;
        (both >> shift) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Bitmap;

    #[test]
    fn words_at_any_offset() {
        let set = |i: usize| i.is_multiple_of(3) || (40..110).contains(&i);
        let map = Bitmap::from_fn(131, set);
        for start in 0..140 {
            for bit in 0..32 {
                let want = start + bit < 131 && set(start + bit);
                assert_eq!(map.word(start) >> bit & 1 == 1, want, "{start} {bit}");
            }
        }
        assert_eq!(map.count(), (0..131).filter(|&i| set(i)).count());
        assert!(!map.contains(131) && Bitmap::new(3).set(3, true).is_err());
    }
}
