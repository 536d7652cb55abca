//! The flat index: every vector is compared with every query, so results are exact.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::store::{self, Stored};
use crate::dtype::with_float;
use crate::ops::topk::{Bitmap, Corpus, Exclude, Metric, Search, topk};
use crate::ops::{check_float, matrix};
use crate::{DType, Device, Error, Float, Result, Tensor};

/// Queries that are on the device together.
const GROUP: usize = 1024;

/// Which ids may be found: those for which it holds.
pub type Filter<'a> = &'a dyn Fn(&str) -> bool;

/// A vector that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Its id.
    pub id: Arc<str>,
    /// Its score; larger is better for every metric.
    pub score: f32,
}

/// Queries \[Q, D\], from a tensor of any float dtype on any device, or from values one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Queries<'a> {
    /// A tensor.
    Tensor(&'a Tensor),
    /// Values on the host.
    Slice(&'a [f32]),
}

impl<'a> From<&'a Tensor> for Queries<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Queries::Tensor(tensor)
    }
}

impl<'a> From<&'a [f32]> for Queries<'a> {
    fn from(slice: &'a [f32]) -> Self {
        Queries::Slice(slice)
    }
}

impl<'a> From<&'a Vec<f32>> for Queries<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Queries::Slice(values)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Queries<'a> {
    fn from(values: &'a [f32; N]) -> Self {
        Queries::Slice(values)
    }
}

/// Vectors with ids on a device, searched exactly.
///
/// Vectors are kept in chunks, so an index may be larger than one buffer. Removed vectors are left out of searches at
/// once; their memory is reclaimed when they are more than a third of all. For a while that needs the memory of both.
#[derive(Debug)]
pub struct FlatIndex {
    corpus: Corpus,
    /// The id of each row of the corpus, the removed ones included.
    ids: Vec<Arc<str>>,
    /// The rows of the ids that are there.
    rows: HashMap<Arc<str>, u32>,
    removed: Bitmap,
}

impl FlatIndex {
    /// An empty index of `dim`-dimensional vectors, stored as `dtype`.
    ///
    /// # Errors
    /// As [`Corpus::new`].
    pub fn new(device: &Device, dtype: DType, dim: usize) -> Result<FlatIndex> {
        Ok(FlatIndex {
            corpus: Corpus::new(device, dtype, dim)?,
            ids: Vec::new(),
            rows: HashMap::new(),
            removed: Bitmap::new(0),
        })
    }

    /// Adds vectors, one after the other, under the given ids.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is there already or given twice; [`Error::Shape`] if there is not one vector an id;
    /// [`Error::OutOfMemory`]. Nothing is added then.
    pub fn add<S: AsRef<str>>(&mut self, ids: &[S], vectors: &[f32]) -> Result<()> {
        if ids.len().checked_mul(self.dim()) != Some(vectors.len()) {
            let expected = format!("{} vectors of {} values", ids.len(), self.dim());
            return Err(Error::shape("add", expected, format!("{} values", vectors.len())));
        }
        let mut fresh = HashSet::new();
        if let Some(id) = ids
            .iter()
            .map(AsRef::as_ref)
            .find(|&id| self.rows.contains_key(id) || !fresh.insert(id))
        {
            return Err(Error::argument("id", "ids that are not there yet", format!("'{id}'")));
        }
        self.corpus.append(vectors)?;
        for id in ids {
            let id: Arc<str> = id.as_ref().into();
            self.rows.insert(id.clone(), self.ids.len() as u32);
            self.ids.push(id);
        }
        self.removed.grow(self.ids.len());
        Ok(())
    }

    /// Removes the vectors of the given ids and says how many there were. Unknown ids are passed over.
    pub fn remove<S: AsRef<str>>(&mut self, ids: &[S]) -> usize {
        let mut count = 0;
        for id in ids {
            if let Some(row) = self.rows.remove(id.as_ref()) {
                count += self.removed.set(row as usize, true).is_ok() as usize;
            }
        }
        if self.ids.len() - self.len() > self.ids.len() / 3
            && let Err(e) = self.compact()
        {
            // The vectors are removed all the same; the next removal tries again.
            tracing::warn!("the memory of removed vectors could not be reclaimed: {e}");
        }
        count
    }

    /// Reclaims the memory of removed vectors now.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`]. The index is as before then.
    pub fn compact(&mut self) -> Result<()> {
        if self.len() == self.ids.len() {
            return Ok(());
        }
        let removed = &self.removed;
        self.corpus.retain(|row| !removed.contains(row))?;
        let mut row = 0;
        self.ids.retain(|_| {
            row += 1;
            !removed.contains(row - 1)
        });
        self.ids.shrink_to_fit();
        self.rows = self.ids.iter().cloned().zip(0..).collect();
        self.removed = Bitmap::new(self.ids.len());
        Ok(())
    }

    /// The `k` best vectors for each query, as [`topk`] orders them: equal scores in the order the vectors were added.
    ///
    /// # Errors
    /// As [`topk`]; [`Error::Shape`] if a slice's length is not a multiple of the dimension.
    pub fn search<'q>(
        &self,
        queries: impl Into<Queries<'q>>,
        k: usize,
        metric: Metric,
        filter: Option<Filter<'_>>,
    ) -> Result<Vec<Vec<Hit>>> {
        let mut all = Vec::new();
        self.search_each(queries, k, metric, filter, |_, hits| {
            all.push(hits);
            Ok(())
        })?;
        Ok(all)
    }

    /// [`search`](Self::search) that hands over the hits of one query after the other with the query's number, so that
    /// those of all need not be held. Queries go to the device 1024 at a time.
    ///
    /// # Errors
    /// As [`search`](Self::search), and the first of `each`, which ends the search.
    pub fn search_each<'q>(
        &self,
        queries: impl Into<Queries<'q>>,
        k: usize,
        metric: Metric,
        filter: Option<Filter<'_>>,
        mut each: impl FnMut(usize, Vec<Hit>) -> Result<()>,
    ) -> Result<()> {
        let dim = self.dim();
        let values: Cow<'_, [f32]> = match queries.into() {
            Queries::Slice(values) => values.into(),
            Queries::Tensor(tensor) => {
                let (_, width) = matrix("search", "queries", tensor)?;
                check_float("search", "queries", tensor)?;
                if width != dim {
                    let expected = format!("queries of dimension {dim}");
                    return Err(Error::shape("search", expected, width.to_string()));
                }
                match tensor.as_slice::<f32>() {
                    Some(values) => values.into(),
                    None => tensor.to_f32_vec()?.into(),
                }
            }
        };
        if !values.len().is_multiple_of(dim) {
            let expected = format!("queries of dimension {dim}");
            return Err(Error::shape("search", expected, format!("{} values", values.len())));
        }
        if k == 0 {
            return Err(Error::argument("k", "at least 1", "0"));
        }
        let filtered = filter.map(|keep| {
            Bitmap::from_fn(self.ids.len(), |i| self.removed.contains(i) || !keep(&self.ids[i]))
        });
        let exclude = match &filtered {
            Some(map) => Exclude::Shared(map),
            None if self.len() == self.ids.len() => Exclude::None,
            None => Exclude::Shared(&self.removed),
        };
        let search = Search { exclude, ..Search::new(metric, k) };
        for (g, group) in values.chunks(GROUP * dim).enumerate() {
            let queries = Tensor::from_slice(self.device(), &[group.len() / dim, dim], group)?;
            for (q, (rows, scores)) in topk(&queries, &self.corpus, &search)?.iter().enumerate() {
                let hit = |(&row, &score)| Hit { id: self.ids[row as usize].clone(), score };
                each(g * GROUP + q, rows.iter().zip(scores).map(hit).collect())?;
            }
        }
        Ok(())
    }

    /// Writes the index to one safetensors file (see [`store`]): the stored vectors as `embeddings` \[n, d\], without
    /// the removed ones. Memory: one chunk.
    ///
    /// # Errors
    /// As [`store::write`]; what the device says when it is read.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let shape = vec![self.len(), self.dim()];
        store::write_with(
            path.as_ref(),
            &[("embeddings", self.dtype(), shape)],
            self.ids(),
            |sink| {
                let mut row = 0;
                for chunk in self.corpus.chunks() {
                    with_float!(self.dtype(), T => {
                        let values = chunk.to_vec::<T>()?;
                        for vector in values.chunks_exact(self.dim()) {
                            if !self.removed.contains(row) {
                                sink(bytemuck::cast_slice(vector))?;
                            }
                            row += 1;
                        }
                    });
                }
                Ok(())
            },
        )
    }

    /// Reads an index from a file of [`save`](Self::save) or of `nearkin embed`, in the dtype it is stored in. A file
    /// without ids gets the row numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Weights`] if it is truncated, damaged or lacks `embeddings`
    /// \[n, d\] of f32, f16 or bf16; [`Error::Data`] if its ids or version are not right.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<FlatIndex> {
        let stored = Stored::open(path.as_ref())?;
        let mut index = FlatIndex::new(device, stored.dtype, stored.dim)?;
        // Whole chunks, which are not copied again.
        let step = index.corpus.chunk_rows();
        for start in (0..stored.rows).step_by(step) {
            let rows = start..(start + step).min(stored.rows);
            let values: Vec<f32> = with_float!(stored.dtype, T => stored
                .bytes(rows)
                .chunks_exact(size_of::<T>())
                .map(|b| bytemuck::pod_read_unaligned::<T>(b).to_f32())
                .collect());
            index.corpus.append(&values)?;
        }
        index.ids = stored.ids.into_iter().map(Into::into).collect();
        index.rows = index.ids.iter().cloned().zip(0..).collect();
        index.removed = Bitmap::new(index.ids.len());
        Ok(index)
    }

    /// The ids, in the order they were added.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let there = self.ids.iter().enumerate().filter(|(i, _)| !self.removed.contains(*i));
        there.map(|(_, id)| &**id)
    }

    /// The vectors as stored, in the order of [`ids`](Self::ids), one after the other.
    ///
    /// # Errors
    /// What the device says when it is read.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(self.len() * self.dim());
        let mut row = 0;
        for chunk in self.corpus.chunks() {
            for vector in chunk.to_f32_vec()?.chunks_exact(self.dim()) {
                if !self.removed.contains(row) {
                    all.extend_from_slice(vector);
                }
                row += 1;
            }
        }
        Ok(all)
    }

    /// Whether there is a vector of this id.
    pub fn contains(&self, id: &str) -> bool {
        self.rows.contains_key(id)
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.corpus.dim()
    }

    /// The type the vectors are stored in.
    pub fn dtype(&self) -> DType {
        self.corpus.dtype()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.corpus.device()
    }

    /// Bytes the index holds: vectors and their inverse lengths on the device, removed ones included until they are
    /// reclaimed; ids, their table and the bitmap on the host.
    pub fn memory_bytes(&self) -> usize {
        // A shared string has two counters before its text; a table has a byte of control a slot.
        let counters = 2 * size_of::<usize>();
        let texts: usize = self.ids.iter().map(|id| id.len() + counters).sum();
        let table = self.rows.capacity() * (size_of::<(Arc<str>, u32)>() + 1);
        let list = self.ids.capacity() * size_of::<Arc<str>>();
        self.corpus.bytes() + texts + table + list + self.removed.len().div_ceil(8)
    }
}
