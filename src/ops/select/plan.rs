//! What GPUs do for a large k, whatever the API: slabs of keys, room for candidates, the steps of a sort.

use std::ops::Range;

use super::Filter;
use crate::Tensor;

/// Bytes of a slab of keys, and of candidates.
pub(crate) const SLAB: usize = 32 << 20;
const CANDIDATES: usize = 64 << 20;
/// Rows of the first slab, at least.
const FIRST_SLAB: usize = 4096;

/// What a search asks of the selection, for some of its queries.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) queries: usize,
    pub(crate) k: usize,
    /// The key that must be exceeded.
    pub(crate) floor: u32,
    /// Of these queries.
    pub(crate) filter: Filter<'a>,
    pub(crate) bias: Option<&'a Tensor>,
}

/// Consecutive rows of a corpus in one buffer.
pub(crate) struct Span {
    pub(crate) rows: Range<usize>,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) bytes: usize,
}

impl Wanted<'_> {
    /// The chunks of which something may be found, with their numbers.
    pub(crate) fn open<'s>(&self, spans: &'s [Span]) -> impl Iterator<Item = (usize, &'s Span)> {
        let spans = spans.iter().enumerate();
        spans.filter(|(_, span)| !self.filter.covers(0..self.queries, span.rows.clone()))
    }
}

/// Some tiles of a chunk.
pub(crate) struct Slab {
    /// The first tile, and how many.
    pub(crate) start: usize,
    pub(crate) tiles: usize,
    /// The rows, by their numbers in the chunk.
    pub(crate) rows: Range<usize>,
}

/// The first slab of a chunk of `rows` rows from tile `start` on, of about `width` rows. A tile has `height` rows.
pub(crate) fn slab(rows: usize, height: usize, start: usize, width: usize) -> Option<Slab> {
    let total = rows.div_ceil(height);
    let left = total.checked_sub(start).filter(|left| *left > 0)?;
    let tiles = (width / height).clamp(1, left);
    let rows = start * height..((start + tiles) * height).min(rows);
    Some(Slab { start, tiles, rows })
}

/// How many queries have room for candidates of `k` rows each, in bindings of at most `binding` bytes; at least 1.
pub(crate) fn group(k: usize, binding: usize) -> usize {
    (CANDIDATES.min(binding) / (8 * (2 * k).next_power_of_two())).max(1)
}

/// Candidates of each query, and when they must be sorted and cut to k.
pub(crate) struct Room {
    pub(crate) k: usize,
    /// Entries of a query's room: a power of two, at least `local`.
    pub(crate) entries: usize,
    /// Entries that are sorted in fast memory: a power of two.
    local: usize,
    /// The most candidates a query can have, and whether all are sorted.
    most: usize,
    sorted: bool,
}

/// A launch of a bitonic sort.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// Sorts each `local` entries.
    First,
    /// Compares entries `stride` apart, for sequences of `size`.
    Stride { size: usize, stride: usize },
    /// Compares entries less than `local` apart, for sequences of `size`.
    Last { size: usize },
}

impl Room {
    /// For `queries` queries of a corpus of `rows` rows, in slabs of at least `least` rows and bindings of at most `binding` bytes.
    pub(crate) fn new(
        [queries, k]: [usize; 2],
        [least, rows]: [usize; 2],
        binding: usize,
        local: usize,
    ) -> Room {
        let fit = (CANDIDATES.min(binding) / 8 / queries).max(1);
        let fit = 1 << fit.ilog2();
        let least = least.min(rows).max(1);
        let needed = (k + least).next_power_of_two();
        let all = (k + rows.max(1)).next_power_of_two();
        let entries = fit.min(all).max(needed).max(local);
        Room { k, entries, local, most: 0, sorted: true }
    }

    /// The most rows of the next slab, after `seen` rows.
    pub(crate) fn width(&self, seen: usize) -> usize {
        (4 * seen).max(FIRST_SLAB).max(4 * self.k).min(self.entries - self.k)
    }

    /// Whether candidates must be cut before a slab of so many rows is taken.
    pub(crate) fn is_full(&self, rows: usize) -> bool {
        self.most + rows > self.entries
    }

    /// Notes that a slab of so many rows was taken, and gives whether a cut would raise what the next must exceed.
    pub(crate) fn took(&mut self, rows: usize) -> bool {
        self.most += rows;
        self.sorted = false;
        self.most > self.k
    }

    /// Notes that candidates were sorted and cut to k.
    pub(crate) fn cut(&mut self) {
        self.most = self.most.min(self.k);
        self.sorted = true;
    }

    /// The most blocks of `local` entries that a query has.
    pub(crate) fn blocks(&self) -> usize {
        self.most.next_power_of_two().max(self.local) / self.local
    }

    /// The launches that sort the candidates, if they are not sorted.
    pub(crate) fn steps(&self) -> Vec<Step> {
        if self.sorted {
            return Vec::new();
        }
        let mut steps = vec![Step::First];
        let mut size = 2 * self.local;
        while size <= self.blocks() * self.local {
            let strides = std::iter::successors(Some(size / 2), |stride| Some(stride / 2));
            let strides = strides.take_while(|&stride| stride >= self.local);
            steps.extend(strides.map(|stride| Step::Stride { size, stride }));
            steps.push(Step::Last { size });
            size *= 2;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A search that follows the plan never has more candidates than there is room for.
    #[test]
    fn slabs_fit_the_room_and_cover_all_rows() {
        for (queries, k, height, chunks, binding) in [
            (1, 257, 128, vec![1], usize::MAX),
            (64, 300, 64, vec![1000, 77, 5000], 1 << 20),
            (1, 100_000, 128, vec![70_000, 90_001], usize::MAX),
            (3, 1000, 64, vec![3_000_000], usize::MAX),
            (1, 3, 64, vec![10], 1 << 10),
        ] {
            let rows: usize = chunks.iter().sum();
            let k = k.min(rows);
            let mut room = Room::new([queries, k], [height, rows], binding, 1024);
            assert!(room.entries.is_power_of_two() && room.entries >= 1024);
            let mut seen = 0;
            for chunk in chunks {
                let mut start = 0;
                let mut next = 0;
                while let Some(slab) = slab(chunk, height, start, room.width(seen)) {
                    assert_eq!(slab.rows.start, next);
                    if room.is_full(slab.rows.len()) {
                        room.cut();
                    }
                    assert!(!room.is_full(slab.rows.len()), "{k} of {rows}");
                    if room.took(slab.rows.len()) {
                        room.cut();
                    }
                    (start, next) = (start + slab.tiles, slab.rows.end);
                    seen += slab.rows.len();
                }
                assert_eq!(next, chunk);
            }
            assert_eq!(seen, rows);
        }
    }

    /// The steps sort, done one by one.
    #[test]
    fn the_steps_of_a_sort_sort() {
        let local = 8;
        for n in [1, 8, 9, 64, 100] {
            let mut room = Room::new([1, 1], [1, 128], usize::MAX, local);
            room.took(n);
            let mut all: Vec<u32> = (0..n as u32).map(|i| i * 7919 % 103 + 1).collect();
            let mut want = all.clone();
            want.sort_unstable_by(|a, b| b.cmp(a));
            all.resize(room.blocks() * local, 0);
            let pass = |all: &mut [u32], size: usize, stride: usize| {
                for left in (0..all.len()).filter(|i| i & stride == 0) {
                    let right = left + stride;
                    if (all[left] < all[right]) == (left & size == 0) {
                        all.swap(left, right);
                    }
                }
            };
            for step in room.steps() {
                match step {
                    Step::First => all.chunks_mut(local).enumerate().for_each(|(b, chunk)| {
                        chunk.sort_unstable_by(|a, b| b.cmp(a));
                        if b % 2 == 1 {
                            chunk.reverse();
                        }
                    }),
                    Step::Stride { size, stride } => pass(&mut all, size, stride),
                    Step::Last { size } => {
                        [4, 2, 1].into_iter().for_each(|s| pass(&mut all, size, s));
                    }
                }
            }
            assert_eq!(all[..n], want, "{n}");
        }
    }
}
