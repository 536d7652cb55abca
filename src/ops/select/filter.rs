//! Which rows a search may find: exclusions and allow lists, for all queries or for each.

use std::ops::Range;

use super::Bitmap;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use super::kept::Form;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::Tensor;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::device::Device;
use crate::{Error, Result};

/// A set of rows that may be found or not, as a bitmap of the corpus or as ascending row numbers.
///
/// Both forms give the same results. A bitmap costs `N / 8` bytes of host memory whatever it holds; a list costs 4 bytes for each of
/// its rows. Tiles of the corpus without a row that may be found are never read, so a short allow list is a fast search.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Only rows whose bit is set may be found.
    Allow(&'a Bitmap),
    /// Rows whose bit is set are not found.
    Exclude(&'a Bitmap),
    /// Only these rows may be found. Ascending, each once.
    AllowIds(&'a [u32]),
    /// These rows are not found. Ascending, each once.
    ExcludeIds(&'a [u32]),
}

/// The rows that take part in a search.
#[derive(Clone, Copy, Debug)]
pub enum Filter<'a> {
    /// All rows take part.
    All,
    /// The same rows take part for all queries.
    Shared(Rows<'a>),
    /// One set for each query.
    PerQuery(&'a [Rows<'a>]),
}

impl Rows<'_> {
    /// Whether row `row` may not be found.
    pub(crate) fn excludes(&self, row: usize) -> bool {
        match self {
            Rows::Allow(map) => !map.contains(row),
            Rows::Exclude(map) => map.contains(row),
            Rows::AllowIds(ids) => !holds(ids, row),
            Rows::ExcludeIds(ids) => holds(ids, row),
        }
    }

    /// Bits of the rows `start..start + 32`, the first in the lowest place, set where a row may not be found. Bits of rows beyond the
    /// corpus have no meaning.
    pub(crate) fn word(&self, start: usize) -> u32 {
        match self {
            Rows::Allow(map) => !map.word(start),
            Rows::Exclude(map) => map.word(start),
            Rows::AllowIds(ids) => !word_of(ids, start),
            Rows::ExcludeIds(ids) => word_of(ids, start),
        }
    }

    /// Whether none of the `rows` may be found.
    pub(crate) fn covers(&self, rows: Range<usize>) -> bool {
        match self {
            Rows::AllowIds(ids) => within(ids, rows).is_empty(),
            Rows::ExcludeIds(ids) => within(ids, rows.clone()).len() == rows.len(),
            _ => rows.clone().step_by(32).all(|start| {
                let beyond = match rows.end - start {
                    left @ 0..32 => u32::MAX << left,
                    _ => 0,
                };
                self.word(start) | beyond == u32::MAX
            }),
        }
    }

    /// Checks that the set is of a corpus of `rows` rows.
    fn check(&self, rows: usize) -> Result<()> {
        match self {
            Rows::Allow(map) | Rows::Exclude(map) if map.len() != rows => {
                let got = map.len().to_string();
                Err(Error::argument("filter", format!("bitmaps of {rows} rows"), got))
            }
            Rows::Allow(_) | Rows::Exclude(_) => Ok(()),
            Rows::AllowIds(ids) | Rows::ExcludeIds(ids) => {
                if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
                    let got = format!("{} after {}", pair[1], pair[0]);
                    return Err(Error::argument("filter", "row numbers that ascend", got));
                }
                match ids.last() {
                    Some(&last) if last as usize >= rows => {
                        let expected = format!("row numbers below {rows}");
                        Err(Error::argument("filter", expected, last.to_string()))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// The part of ascending row numbers that is within a range.
fn within(ids: &[u32], rows: Range<usize>) -> &[u32] {
    let from = ids.partition_point(|&id| (id as usize) < rows.start);
    let rest = &ids[from..];
    &rest[..rest.partition_point(|&id| (id as usize) < rows.end)]
}

fn holds(ids: &[u32], row: usize) -> bool {
    u32::try_from(row).is_ok_and(|row| ids.binary_search(&row).is_ok())
}

fn word_of(ids: &[u32], start: usize) -> u32 {
    within(ids, start..start + 32).iter().fold(0, |bits, &id| bits | 1 << (id as usize - start))
}

impl<'a> Filter<'a> {
    /// Whether row `row` may not be found for query `query`.
    pub(crate) fn excludes(&self, query: usize, row: usize) -> bool {
        match self {
            Filter::All => false,
            Filter::Shared(rows) => rows.excludes(row),
            Filter::PerQuery(sets) => sets[query].excludes(row),
        }
    }

    /// Whether none of the `rows` may be found for any of the `queries`.
    pub(crate) fn covers(&self, queries: Range<usize>, rows: Range<usize>) -> bool {
        match self {
            Filter::All => false,
            Filter::Shared(set) => set.covers(rows),
            Filter::PerQuery(sets) => sets[queries].iter().all(|set| set.covers(rows.clone())),
        }
    }

    /// The filter of some of the queries.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn of(&self, queries: Range<usize>) -> Filter<'a> {
        match *self {
            Filter::PerQuery(sets) => Filter::PerQuery(&sets[queries]),
            other => other,
        }
    }

    /// The sets that differ between queries, or the one for all.
    pub(crate) fn sets(&self) -> &[Rows<'a>] {
        match self {
            Filter::All => &[],
            Filter::Shared(set) => std::slice::from_ref(set),
            Filter::PerQuery(sets) => sets,
        }
    }

    /// What a device reads of the sets for `rows` in tiles of `height`, none where all rows take part. What was made of a
    /// bitmap for all queries is kept with it.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn on(
        &self,
        device: &Device,
        rows: &Range<usize>,
        height: usize,
        make: impl FnOnce(&[Rows<'a>]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let form = |allows| Form { device: device.clone(), allows, rows: rows.clone(), height };
        match self {
            Filter::All => Ok(Vec::new()),
            Filter::Shared(Rows::Allow(map)) => map.kept().get(form(true), || make(self.sets())),
            Filter::Shared(Rows::Exclude(map)) => map.kept().get(form(false), || make(self.sets())),
            _ => make(self.sets()),
        }
    }

    /// Checks that there is a set for each query where they differ, each of a corpus of `rows` rows.
    pub(crate) fn check(&self, queries: usize, rows: usize) -> Result<()> {
        if let Filter::PerQuery(sets) = self
            && sets.len() != queries
        {
            let got = sets.len().to_string();
            return Err(Error::argument("filter", format!("{queries} sets of rows"), got));
        }
        self.sets().iter().try_for_each(|set| set.check(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_set_says_the_same() {
        let keep = |i: usize| i.is_multiple_of(7) || (40..75).contains(&i);
        let rows = 131;
        let (allowed, excluded) =
            (Bitmap::from_fn(rows, keep), Bitmap::from_fn(rows, |i| !keep(i)));
        let ids = |f: &dyn Fn(usize) -> bool| -> Vec<u32> {
            (0..rows).filter(|&i| f(i)).map(|i| i as u32).collect()
        };
        let (allow, exclude) = (ids(&keep), ids(&|i| !keep(i)));
        let forms = [
            Rows::Allow(&allowed),
            Rows::Exclude(&excluded),
            Rows::AllowIds(&allow),
            Rows::ExcludeIds(&exclude),
        ];
        for form in forms {
            form.check(rows).unwrap();
            for start in 0..rows {
                assert_eq!(form.excludes(start), !keep(start), "{start}");
                for bit in (0..32).take_while(|bit| start + bit < rows) {
                    assert_eq!(form.word(start) >> bit & 1 == 1, !keep(start + bit), "{start}");
                }
                for end in start..=rows {
                    let none = !(start..end).any(keep);
                    assert_eq!(form.covers(start..end), none, "{form:?} {start}..{end}");
                }
            }
        }
    }

    #[test]
    fn a_set_of_another_corpus_is_refused() {
        let map = Bitmap::new(4);
        assert!(Rows::Allow(&map).check(5).is_err());
        assert!(Rows::AllowIds(&[0, 4]).check(4).is_err());
        assert!(Rows::ExcludeIds(&[2, 2]).check(4).is_err());
        assert!(Rows::ExcludeIds(&[3, 1]).check(4).is_err());
        assert!(Rows::AllowIds(&[]).check(0).is_ok());
        assert!(Filter::PerQuery(&[Rows::Allow(&map)]).check(2, 4).is_err());
    }
}
