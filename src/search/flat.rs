//! Exact search over all vectors.

use std::borrow::Cow;
use std::path::Path;

use super::finite;
use super::ids::{self, Hit, Ids};
use super::store::{self, Stored, Vectors};
use crate::device::Device;
use crate::ops::topk::{Corpus, Filter, Metric, Search, topk};
use crate::{DType, Error, Result, Tensor};

/// Bytes of queries on the device at a time.
const QUERY_BYTES: usize = 32 << 20;
/// Beyond any vector there is; within it no size of a row overflows.
pub(super) const MAX_DIM: usize = 1 << 28;

/// Vectors with ids on one device, searched exhaustively and exactly.
///
/// Results are ordered by score, equal scores by the order in which the vectors were added. Memory on the device is
/// [`memory_bytes`](Self::memory_bytes); a search adds the workspace of [`topk`] and at most 32 MiB of queries.
#[derive(Clone)]
pub struct FlatIndex {
    corpus: Corpus,
    ids: Ids,
}

impl FlatIndex {
    /// An empty index of `dim`-dimensional vectors, stored as `dtype` (f32, f16 or bf16).
    ///
    /// # Errors
    /// [`Error::Argument`] if `dim` is 0 or beyond 2^28, or `dtype` is not a float; [`Error::Unsupported`] if one vector does
    /// not fit the device's bindings.
    pub fn new(device: &Device, dtype: DType, dim: usize) -> Result<FlatIndex> {
        if dim > MAX_DIM {
            return Err(Error::argument("dim", format!("at most {MAX_DIM}"), dim.to_string()));
        }
        Ok(FlatIndex { corpus: Corpus::new(device, dtype, dim)?, ids: Ids::new() })
    }

    /// Adds vectors \[ids.len(), dim\], one after the other, rounded to the stored dtype.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is there already or occurs twice, or a value is not finite, or beyond what the dtype can hold;
    /// [`Error::Shape`] if the lengths do not fit, [`Error::OutOfMemory`]. Nothing is added then.
    pub fn add<S: AsRef<str>>(&mut self, ids: &[S], vectors: &[f32]) -> Result<()> {
        if ids.len().checked_mul(self.dim()) != Some(vectors.len()) {
            return Err(Error::shape(
                "FlatIndex::add",
                format!("{} ids of {} dimensions", ids.len(), self.dim()),
                format!("{} values", vectors.len()),
            ));
        }
        let fresh = self.ids.check(ids)?;
        finite::check("vectors", vectors, self.dim(), self.dtype(), finite::rows(&fresh))?;
        self.corpus.append(vectors)?;
        self.ids.append(fresh);
        Ok(())
    }

    /// [`add`](Self::add) of vectors \[ids.len(), dim\] that are on a device, in any float dtype: from the index's they do not pass
    /// through the host, and are shared where [`Corpus::append_tensor`] says so.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_tensor<S: AsRef<str>>(&mut self, ids: &[S], vectors: &Tensor) -> Result<()> {
        if vectors.shape() != [ids.len(), self.dim()] {
            return Err(Error::shape(
                "FlatIndex::add_tensor",
                format!("{} ids of {} dimensions", ids.len(), self.dim()),
                format!("vectors {:?}", vectors.shape()),
            ));
        }
        let fresh = self.ids.check(ids)?;
        self.corpus.append_tensor(vectors)?;
        self.ids.append(fresh);
        Ok(())
    }

    /// Removes vectors by id and gives how many there were; unknown ids are passed over. When more than a third of the
    /// rows are gone, the others are moved together on the device and the memory is given back.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`] while moving; the ids are removed all the same.
    pub fn remove<S: AsRef<str>>(&mut self, ids: &[S]) -> Result<usize> {
        let count = self.ids.remove(ids)?;
        if self.ids.sparse() {
            self.corpus.retain(|row| self.ids.keeps(row))?;
            self.ids.compact();
        }
        Ok(count)
    }

    /// The `k` best vectors for each of the queries, given one after the other: \[queries, dim\].
    ///
    /// `filter` keeps the ids for which it holds; it is asked once for each vector, not once for each query. A query with a
    /// NaN finds nothing. Any number of queries works: they go to the device in groups.
    ///
    /// # Errors
    /// [`Error::Argument`] if `k` is 0, [`Error::Shape`] if the length is not a multiple of the dimension,
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn search(
        &self,
        queries: &[f32],
        k: usize,
        metric: Metric,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        let dim = self.dim();
        if !queries.len().is_multiple_of(dim) {
            return Err(Error::shape(
                "FlatIndex::search",
                format!("queries of dimension {dim}"),
                format!("{} values", queries.len()),
            ));
        }
        if k == 0 {
            return Err(Error::argument("k", "at least 1", "0"));
        }
        let excluded = self.ids.excluded(filter);
        let group = (QUERY_BYTES / 4 / dim).max(1) * dim;
        let mut found = Vec::with_capacity(queries.len() / dim);
        for part in queries.chunks(group) {
            let part = Tensor::from_slice(self.device(), &[part.len() / dim, dim], part)?;
            self.collect(&part, k, metric, ids::open(&excluded), &mut found)?;
        }
        Ok(found)
    }

    /// [`search`](Self::search) with queries \[queries, dim\] that are on the index's device already.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Shape`] if the queries are on another device.
    pub fn search_tensor(
        &self,
        queries: &Tensor,
        k: usize,
        metric: Metric,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        let mut found = Vec::new();
        let excluded = self.ids.excluded(filter);
        self.collect(queries, k, metric, ids::open(&excluded), &mut found)?;
        Ok(found)
    }

    fn collect(
        &self,
        queries: &Tensor,
        k: usize,
        metric: Metric,
        filter: Filter<'_>,
        found: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        let hits = topk(queries, &self.corpus, metric, &Search { filter, ..Search::new(k) })?;
        found.extend(self.ids.hits(&hits));
        Ok(())
    }

    /// Writes the index to one file: see [`store`]. Removed vectors are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; a file that was there stays whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let row_bytes = self.dim() * self.dtype().size();
        let mut start = 0;
        let parts = self.corpus.chunks().map(move |chunk| {
            let rows = start..start + chunk.shape()[0];
            start = rows.end;
            let bytes = chunk.to_bytes()?;
            if rows.clone().all(|row| self.ids.keeps(row)) {
                return Ok(Cow::Owned(bytes));
            }
            let kept =
                bytes.chunks_exact(row_bytes).zip(rows).filter(|(_, row)| self.ids.keeps(*row));
            Ok(Cow::Owned(kept.flat_map(|(bytes, _)| bytes).copied().collect()))
        });
        let embeddings = Vectors::parts(self.dtype(), &[self.len(), self.dim()], parts);
        let ids: Vec<&str> = self.ids.iter().collect();
        store::write(path, vec![("embeddings", embeddings)], &ids)
    }

    /// Reads an index that [`save`](Self::save) or `nearkin embed` wrote, or any safetensors file with a matrix
    /// `embeddings` of f32, f16 or bf16. The stored dtype is kept.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Weights`] if the file is truncated, damaged or lacks the matrix or a value is not finite,
    /// [`Error::Data`] if its ids do not fit, [`Error::OutOfMemory`].
    pub fn load(path: &Path, device: &Device) -> Result<FlatIndex> {
        let stored = Stored::open(path)?;
        let (dtype, dim) = (stored.dtype(), stored.dim());
        let mut index = FlatIndex::new(device, dtype, dim)?;
        let fresh = index.ids.check(stored.ids()).map_err(|e| Error::Data {
            file: path.into(),
            line: None,
            problem: e.to_string(),
        })?;
        let part = index.corpus.chunk_rows();
        for start in (0..stored.len()).step_by(part) {
            let rows = start..stored.len().min(start + part);
            index.corpus.append_bytes(&stored.finite_bytes(rows)?)?;
        }
        index.ids.append(fresh);
        Ok(index)
    }

    /// The vectors in their order, as f32 on the host: \[len, dim\].
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(self.len() * self.dim());
        let mut row = 0;
        for chunk in self.corpus.chunks() {
            for values in chunk.to_f32_vec()?.chunks_exact(self.dim()) {
                if self.ids.keeps(row) {
                    out.extend_from_slice(values);
                }
                row += 1;
            }
        }
        Ok(out)
    }

    /// The ids in the order in which their vectors were added.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter()
    }

    /// Whether a vector of this id is there.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.ids.len() == 0
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.corpus.dim()
    }

    /// How vectors are stored.
    pub fn dtype(&self) -> DType {
        self.corpus.dtype()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.corpus.device()
    }

    /// Bytes that the vectors hold on the device: rows, removed ones not yet compacted included, times
    /// (dim · element size + 4).
    pub fn memory_bytes(&self) -> usize {
        self.corpus.bytes()
    }
}

impl std::fmt::Debug for FlatIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, dim, dtype) = (self.len(), self.dim(), self.dtype());
        write!(f, "FlatIndex of {len} x {dim} {dtype} on {:?}", self.device())
    }
}
