//! The ids of an index's rows, those that were removed, and the hits that name them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::ops::select::{self, Bitmap, Hits, Rows};
use crate::{Error, Result};

/// A vector that was found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// The vector's id.
    pub id: Arc<str>,
    /// Its score under the metric asked for; larger is better.
    pub score: f32,
}

/// What a search leaves out: `filter` keeps the ids for which it holds.
pub(crate) type Filter<'a> = Option<&'a dyn Fn(&str) -> bool>;

/// What [`Ids::excluded`] leaves.
pub(super) fn open<'a>(excluded: &'a Option<Cow<'_, Bitmap>>) -> select::Filter<'a> {
    match excluded {
        None => select::Filter::All,
        Some(excluded) => select::Filter::Shared(Rows::Exclude(excluded)),
    }
}

/// Checks that ids differ. Every file that is written and every index goes through this, so that one that was written can be
/// read.
///
/// # Errors
/// [`Error::Argument`] with the first id that occurs twice, and where.
pub fn check_ids<S: AsRef<str>>(ids: &[S]) -> Result<()> {
    let mut seen = HashMap::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        if let Some(first) = seen.insert(id.as_ref(), row) {
            let got = format!("'{}' in the rows {first} and {row}", id.as_ref());
            return Err(Error::argument("ids", "ids that differ", got));
        }
    }
    Ok(())
}

/// The ids of an index's rows, in the order of the rows.
#[derive(Clone)]
pub(super) struct Ids {
    /// The id of each row; removed rows keep theirs until they are compacted away.
    all: Vec<Arc<str>>,
    rows: HashMap<Arc<str>, u32>,
    removed: Bitmap,
}

impl Ids {
    pub(super) fn new() -> Ids {
        Ids { all: Vec::new(), rows: HashMap::new(), removed: Bitmap::new(0) }
    }

    /// Ids that may be appended: none is there, none comes twice.
    pub(super) fn check<S: AsRef<str>>(&self, ids: &[S]) -> Result<Vec<Arc<str>>> {
        check_ids(ids)?;
        let fresh = |id: &S| match self.rows.contains_key(id.as_ref()) {
            true => {
                let got = format!("'{}', which the index has already", id.as_ref());
                Err(Error::argument("ids", "ids that are new", got))
            }
            false => Ok(Arc::from(id.as_ref())),
        };
        ids.iter().map(fresh).collect()
    }

    /// Appends what [`check`](Self::check) gave, once the rows are there.
    pub(super) fn append(&mut self, fresh: Vec<Arc<str>>) {
        self.removed.extend(fresh.len());
        for id in fresh {
            self.rows.insert(id.clone(), self.all.len() as u32);
            self.all.push(id);
        }
    }

    /// Marks rows as removed and gives how many there were; unknown ids are passed over.
    pub(super) fn remove<S: AsRef<str>>(&mut self, ids: &[S]) -> Result<usize> {
        let mut count = 0;
        for id in ids {
            if let Some(row) = self.rows.remove(id.as_ref()) {
                self.removed.set(row as usize, true)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Whether more than a third of the rows are gone, so that the others should be moved together.
    pub(super) fn sparse(&self) -> bool {
        (self.all.len() - self.rows.len()) * 3 > self.all.len()
    }

    /// Forgets the removed rows, once the others have moved together.
    pub(super) fn compact(&mut self) {
        let all = std::mem::take(&mut self.all).into_iter().enumerate();
        self.all = all.filter(|(row, _)| !self.removed.contains(*row)).map(|(_, id)| id).collect();
        for (row, id) in self.all.iter().enumerate() {
            self.rows.insert(id.clone(), row as u32);
        }
        self.removed = Bitmap::new(self.all.len());
    }

    /// Whether a row is still there.
    pub(super) fn keeps(&self, row: usize) -> bool {
        !self.removed.contains(row)
    }

    /// The rows that may not be found, if there are any.
    pub(super) fn excluded(&self, filter: Filter<'_>) -> Option<Cow<'_, Bitmap>> {
        match filter {
            Some(keep) => Some(Cow::Owned(Bitmap::from_fn(self.all.len(), |row| {
                self.removed.contains(row) || !keep(&self.all[row])
            }))),
            None if self.rows.len() < self.all.len() => Some(Cow::Borrowed(&self.removed)),
            None => None,
        }
    }

    /// The row of an id that is there.
    pub(super) fn row(&self, id: &str) -> Option<u32> {
        self.rows.get(id).copied()
    }

    /// The id of a row.
    pub(super) fn get(&self, row: usize) -> &Arc<str> {
        &self.all[row]
    }

    /// A row that was found.
    pub(super) fn hit(&self, row: u64, score: f32) -> Hit {
        Hit { id: self.all[row as usize].clone(), score }
    }

    /// The hits of each query, with their ids.
    pub(super) fn hits(&self, hits: &Hits) -> impl Iterator<Item = Vec<Hit>> {
        (0..hits.len()).map(|q| {
            let (rows, scores) = hits.get(q);
            rows.iter().zip(scores).map(|(&row, &score)| self.hit(row, score)).collect()
        })
    }

    /// The ids that are there, in the order of their rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let all = self.all.iter().enumerate();
        all.filter(|(row, _)| self.keeps(*row)).map(|(_, id)| &**id)
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.rows.contains_key(id)
    }

    /// The number of ids that are there.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The number of rows, removed ones included.
    pub(super) fn rows(&self) -> usize {
        self.all.len()
    }
}
