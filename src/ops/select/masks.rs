//! Filters as kernels read them: words of bits for each tile of a chunk, set where a row may not be found.

use std::ops::Range;

use super::Rows;

/// Word `w` of a chunk's bitmap. Bits beyond the chunk are set, so that a last, partial tile can be skipped too.
pub(crate) fn word(set: &Rows<'_>, chunk: &Range<usize>, w: usize) -> u32 {
    match chunk.len().checked_sub(32 * w) {
        None | Some(0) => u32::MAX,
        Some(left) => {
            let beyond = if left < 32 { u32::MAX << left } else { 0 };
            set.word(chunk.start + 32 * w) | beyond
        }
    }
}

/// The words of each set, `words` for each.
pub(crate) fn words(sets: &[Rows<'_>], chunk: &Range<usize>, words: usize) -> Vec<u32> {
    sets.iter().flat_map(|set| (0..words).map(move |w| word(set, chunk, w))).collect()
}

/// For each `group` of sets and each word the rows that may not be found for any of them.
#[cfg(feature = "wgpu")]
pub(crate) fn joint(
    sets: &[Rows<'_>],
    group: usize,
    chunk: &Range<usize>,
    words: usize,
) -> Vec<u32> {
    let all = |sets: &[Rows<'_>], w| sets.iter().fold(u32::MAX, |a, set| a & word(set, chunk, w));
    sets.chunks(group.max(1)).flat_map(|sets| (0..words).map(move |w| all(sets, w))).collect()
}

/// For each `group` of sets and each tile of `height` rows whether nothing may be found there.
#[cfg(feature = "cuda")]
pub(crate) fn skips(
    sets: &[Rows<'_>],
    group: usize,
    chunk: &Range<usize>,
    height: usize,
) -> Vec<u32> {
    let tiles = chunk.len().div_ceil(height);
    let rows = |tile: usize| {
        let start = chunk.start + tile * height;
        start..(start + height).min(chunk.end)
    };
    sets.chunks(group.max(1))
        .flat_map(|sets| (0..tiles).map(move |t| sets.iter().all(|s| s.covers(rows(t))) as u32))
        .collect()
}
