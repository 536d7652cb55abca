//! One bit for each byte of an allocation.

use std::sync::atomic::Ordering::Relaxed;

use super::raw::Bytes;

/// A bitmap that several host threads may set bits of. Untouched parts take no room.
#[derive(Debug)]
pub struct Bits(Bytes);

impl Bits {
    /// All zero; `None` without memory.
    pub fn new(bits: usize) -> Option<Bits> {
        Bytes::zeroed(bits.div_ceil(64) * 8).map(Bits)
    }

    /// 64 bits at once.
    #[inline]
    pub fn word(&self, index: usize) -> u64 {
        self.0.words()[index].load(Relaxed)
    }

    /// Sets bits of a word; gives the word as it was.
    #[inline]
    pub fn set_word(&self, index: usize, mask: u64) -> u64 {
        let word = &self.0.words()[index];
        let old = word.load(Relaxed);
        if old & mask == mask { old } else { word.fetch_or(mask, Relaxed) }
    }

    /// Calls `f` with each word that a range touches and the range's bits in it.
    pub fn words(range: std::ops::Range<usize>, mut f: impl FnMut(usize, u64)) {
        let mut at = range.start;
        while at < range.end {
            let index = at / 64;
            let last = range.end.min((index + 1) * 64);
            let mask = (u64::MAX >> (64 - (last - at))) << (at % 64);
            f(index, mask);
            at = last;
        }
    }

    /// Sets or clears a range.
    pub fn fill(&self, range: std::ops::Range<usize>, value: bool) {
        Bits::words(range, |index, mask| {
            let word = &self.0.words()[index];
            match value {
                true => word.fetch_or(mask, Relaxed),
                false => word.fetch_and(!mask, Relaxed),
            };
        });
    }

    /// The first bit of a range that is not set.
    pub fn first_unset(&self, range: std::ops::Range<usize>) -> Option<usize> {
        let mut found = None;
        Bits::words(range, |index, mask| {
            let missing = mask & !self.word(index);
            if missing != 0 && found.is_none() {
                found = Some(index * 64 + missing.trailing_zeros() as usize);
            }
        });
        found
    }

    /// Whether a bit is set.
    pub fn get(&self, bit: usize) -> bool {
        self.word(bit / 64) >> (bit % 64) & 1 == 1
    }
}
