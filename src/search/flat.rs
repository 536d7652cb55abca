//! Exact search over all vectors.

use std::borrow::Cow;
use std::path::Path;

use super::finite;
use super::ids::{self, Hit, Ids};
use super::store::{self, Stored, Vectors};
use crate::device::Device;
use crate::ops::int8;
use crate::ops::topk::{Corpus, Filter, Hits, Metric, Rows, Search, Storage, topk};
use crate::rank::bank::Bank;
use crate::{DType, Error, Result, Tensor};

/// The tensors of a file, and its further entries of metadata, by name.
pub(super) type Contents<'a> = (Vec<(&'static str, Vectors<'a>)>, Vec<(&'static str, String)>);

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
    pub(super) corpus: Corpus,
    pub(super) ids: Ids,
}

impl FlatIndex {
    /// An empty index of `dim`-dimensional vectors, stored as `dtype` (f32, f16 or bf16).
    ///
    /// # Errors
    /// [`Error::Argument`] if `dim` is 0 or beyond 2^28, or `dtype` is not a float; [`Error::Unsupported`] if one vector does
    /// not fit the device's bindings.
    pub fn new(device: &Device, dtype: DType, dim: usize) -> Result<FlatIndex> {
        FlatIndex::of(dim, || Corpus::new(device, dtype, dim))
    }

    /// As [`new`](Self::new), in any storage but `Binary`; `Int8` takes `dim + 8` bytes a vector, `dim` rounded up to a multiple of
    /// 4 ([int8](crate::ops::topk#int8)).
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] if `storage` is `Binary`, or `dim` is beyond 2^17 in `Int8`.
    pub fn with_storage(device: &Device, storage: Storage, dim: usize) -> Result<FlatIndex> {
        FlatIndex::of(dim, || Corpus::with_storage(device, storage, dim))
    }

    fn of(dim: usize, corpus: impl FnOnce() -> Result<Corpus>) -> Result<FlatIndex> {
        if dim > MAX_DIM {
            return Err(Error::argument("dim", format!("at most {MAX_DIM}"), dim.to_string()));
        }
        Ok(FlatIndex { corpus: corpus()?, ids: Ids::new() })
    }

    /// A copy in another storage, made on the device: see [`Corpus::to_storage`].
    ///
    /// # Errors
    /// As [`with_storage`](Self::with_storage), [`Error::OutOfMemory`].
    pub fn to_storage(&self, storage: Storage) -> Result<FlatIndex> {
        Ok(FlatIndex { corpus: self.corpus.to_storage(storage)?, ids: self.ids.clone() })
    }

    /// Adds vectors \[ids.len(), dim\], one after the other, rounded to the storage.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is there already or occurs twice, or a value is not finite, or beyond what the storage can hold;
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
        let (threads, place) = (self.device().threads(), finite::rows(&fresh));
        finite::check(threads, "vectors", vectors, self.dim(), self.dtype(), place)?;
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
        self.each_group(queries, k, filter, |part, search| topk(part, &self.corpus, metric, search))
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
        let excluded = self.ids.excluded(filter);
        let what = Search { filter: ids::open(&excluded), ..Search::new(k) };
        Ok(self.ids.hits(&topk(queries, &self.corpus, metric, &what)?).collect())
    }

    /// [`search`](Self::search) by scores that a bank normalises, which [`bank`](Self::bank) made since the index last changed.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Shape`] if the bank is of another number of rows.
    pub fn search_normalized(
        &self,
        queries: &[f32],
        k: usize,
        bank: &Bank,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        self.each_group(queries, k, filter, |part, search| bank.search(part, &self.corpus, search))
    }

    /// [`search`](Self::search) of which each query leaves out some ids, such as the reference of a composed query: `references` has them for each query.
    /// As many more are searched for, and those that are found are dropped. Ids that are not there are passed over.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Shape`] if there are not references for each query.
    pub fn search_without<S: AsRef<str>>(
        &self,
        queries: &[f32],
        k: usize,
        metric: Metric,
        references: &[Vec<S>],
    ) -> Result<Vec<Vec<Hit>>> {
        self.check_sets("FlatIndex::search_without", queries, references.len())?;
        let most = references.iter().map(Vec::len).max().unwrap_or(0);
        let deeper = if k == 0 { 0 } else { k.saturating_add(most) };
        let mut found = self.search(queries, deeper, metric, None)?;
        for (found, references) in found.iter_mut().zip(references) {
            found.retain(|hit| !references.iter().any(|id| *id.as_ref() == *hit.id));
            found.truncate(k);
        }
        Ok(found)
    }

    /// [`search`](Self::search) of which each query finds some ids alone: `groups` has them for each query, as CIRR has six images for
    /// each (Liu et al., arXiv:2108.04024). Ids that are not there are passed over.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Shape`] if there is not a group for each query.
    pub fn search_within<S: AsRef<str>>(
        &self,
        queries: &[f32],
        k: usize,
        metric: Metric,
        groups: &[Vec<S>],
    ) -> Result<Vec<Vec<Hit>>> {
        self.check_sets("FlatIndex::search_within", queries, groups.len())?;
        let rows = |group: &Vec<S>| {
            let mut rows: Vec<u32> =
                group.iter().filter_map(|id| self.ids.row(id.as_ref())).collect();
            rows.sort_unstable();
            rows.dedup();
            rows
        };
        let rows: Vec<Vec<u32>> = groups.iter().map(rows).collect();
        let sets: Vec<Rows<'_>> = rows.iter().map(|rows| Rows::AllowIds(rows)).collect();
        let mut first = 0;
        self.each_group(queries, k, None, |part, search| {
            let own = first..first + part.shape()[0];
            first = own.end;
            let filter = Filter::PerQuery(&sets[own]);
            topk(part, &self.corpus, metric, &Search { filter, ..*search })
        })
    }

    /// Checks that there are as many sets of ids as queries.
    fn check_sets(&self, op: &'static str, queries: &[f32], sets: usize) -> Result<()> {
        self.check_queries(op, queries)?;
        let count = queries.len() / self.dim();
        match sets == count {
            true => Ok(()),
            false => {
                Err(Error::shape(op, format!("ids for each of {count} queries"), sets.to_string()))
            }
        }
    }

    /// A [`Bank`] for this index, made by one of its constructors from the corpus and the bank's vectors \[B, dim\]. Vectors that were
    /// removed may be in the corpus until their memory is given back.
    ///
    /// ```
    /// use nearkin::ops::topk::Metric;
    /// use nearkin::rank::bank::{Bank, Norm};
    /// use nearkin::search::FlatIndex;
    /// use nearkin::{DType, Device};
    ///
    /// let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 2)?;
    /// index.add(&["a", "b", "hub"], &[1.0, 0.0, 0.0, 1.0, 0.8, 0.8])?;
    /// let earlier = [0.9, 0.5, 0.5, 0.9];
    /// let bank = index.bank(&earlier, |corpus, queries| {
    ///     Bank::new(corpus, Metric::Cosine, Norm::Inverted { beta: 20.0 }, queries)
    /// })?;
    /// assert_eq!(&*index.search(&[0.9, 0.4], 1, Metric::Cosine, None)?[0][0].id, "hub");
    /// assert_eq!(&*index.search_normalized(&[0.9, 0.4], 1, &bank, None)?[0][0].id, "a");
    /// # Ok::<(), nearkin::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Bank::new`]; [`Error::Shape`] if the length is not a multiple of the dimension.
    pub fn bank(
        &self,
        vectors: &[f32],
        make: impl FnOnce(&Corpus, &Tensor) -> Result<Bank>,
    ) -> Result<Bank> {
        self.check_queries("FlatIndex::bank", vectors)?;
        let shape = [vectors.len() / self.dim(), self.dim()];
        make(&self.corpus, &Tensor::from_slice(self.device(), &shape, vectors)?)
    }

    fn check_queries(&self, op: &'static str, vectors: &[f32]) -> Result<()> {
        match vectors.len().is_multiple_of(self.dim()) {
            true => Ok(()),
            false => {
                let expected = format!("queries of dimension {}", self.dim());
                Err(Error::shape(op, expected, format!("{} values", vectors.len())))
            }
        }
    }

    /// Searches for groups of queries in turn.
    fn each_group(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&dyn Fn(&str) -> bool>,
        mut search: impl FnMut(&Tensor, &Search<'_>) -> Result<Hits>,
    ) -> Result<Vec<Vec<Hit>>> {
        self.check_queries("FlatIndex::search", queries)?;
        if k == 0 {
            return Err(Error::argument("k", "at least 1", "0"));
        }
        let excluded = self.ids.excluded(filter);
        let what = Search { filter: ids::open(&excluded), ..Search::new(k) };
        let dim = self.dim();
        let group = (QUERY_BYTES / 4 / dim).max(1) * dim;
        let mut found = Vec::with_capacity(queries.len() / dim);
        for part in queries.chunks(group) {
            let part = Tensor::from_slice(self.device(), &[part.len() / dim, dim], part)?;
            found.extend(self.ids.hits(&search(&part, &what)?));
        }
        Ok(found)
    }

    /// Writes the index to one file: see [`store`]. Removed vectors are left out.
    ///
    /// Its tensor is `embeddings` \[N, dim\]; in int8 there are `int8` (u32 \[N, dim / 4, rounded up\], four bytes a word) and
    /// `scales` (f32 \[N\]) instead, with the metadata's `dim`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; a file that was there stays whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let ids: Vec<&str> = self.ids.iter().collect();
        let (tensors, entries) = self.tensors();
        store::write_with(path, tensors, &ids, &entries)
    }

    /// The tensors of a file, and its further entries of metadata.
    pub(super) fn tensors(&self) -> Contents<'_> {
        let (n, dim, storage) = (self.len(), self.dim(), self.storage());
        let rows = self.kept(self.corpus.chunks());
        let rows = Vectors::parts(storage.dtype(), &[n, storage.width(dim)], rows);
        if storage != Storage::Int8 {
            return (vec![("embeddings", rows)], Vec::new());
        }
        let scales = Vectors::parts(DType::F32, &[n], self.kept(self.corpus.scales()));
        let tensors = vec![(store::INT8, rows), (store::SCALES, scales)];
        (tensors, vec![(store::DIM, dim.to_string())])
    }

    /// The bytes of the rows that are left of tensors that hold all.
    fn kept<'a>(
        &'a self,
        chunks: impl Iterator<Item = &'a Tensor> + 'a,
    ) -> impl Iterator<Item = Result<Cow<'a, [u8]>>> + 'a {
        let mut start = 0;
        chunks.map(move |chunk| {
            let rows = start..start + chunk.shape()[0];
            start = rows.end;
            let bytes = chunk.to_bytes()?;
            if rows.clone().all(|row| self.ids.keeps(row)) {
                return Ok(Cow::Owned(bytes));
            }
            let each = bytes.chunks_exact(bytes.len() / rows.len()).zip(rows);
            let kept = each.filter(|(_, row)| self.ids.keeps(*row)).flat_map(|(bytes, _)| bytes);
            Ok(Cow::Owned(kept.copied().collect()))
        })
    }

    /// Reads an index that [`save`](Self::save) or `nearkin embed` wrote, or any safetensors file with a matrix
    /// `embeddings` of f32, f16 or bf16. The storage is kept.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Weights`] if the file is truncated, damaged or lacks the matrix or a value is not finite,
    /// [`Error::Data`] if its ids do not fit, [`Error::OutOfMemory`].
    pub fn load(path: &Path, device: &Device) -> Result<FlatIndex> {
        let stored = Stored::open(path)?;
        let mut index = FlatIndex::with_storage(device, stored.storage(), stored.dim())?;
        let fresh = index.ids.check(stored.ids()).map_err(|e| Error::Data {
            file: path.into(),
            line: None,
            problem: e.to_string(),
        })?;
        let part = index.corpus.chunk_rows();
        for start in (0..stored.len()).step_by(part) {
            let rows = start..stored.len().min(start + part);
            let shape = [rows.len(), stored.storage().width(stored.dim())];
            if stored.storage() == Storage::Int8 {
                let (words, scales) = stored.int8(rows)?;
                let words = Tensor::from_bytes(device, DType::U32, &shape, &words)?;
                let scales = Tensor::from_slice(device, &shape[..1], &scales)?;
                index.corpus.append_checked(&words, &scales)?;
                continue;
            }
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
        let mut scales = self.corpus.scales();
        for chunk in self.corpus.chunks() {
            let values = match scales.next() {
                None => chunk.to_f32_vec()?,
                Some(scales) => {
                    int8::decoded(&chunk.to_bytes()?, &scales.to_vec::<f32>()?, self.dim())
                }
            };
            for values in values.chunks_exact(self.dim()) {
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
    pub fn storage(&self) -> Storage {
        self.corpus.storage()
    }

    /// The type of the tensors that hold the vectors: u32 in int8.
    pub fn dtype(&self) -> DType {
        self.corpus.dtype()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.corpus.device()
    }

    /// Bytes that the vectors hold on the device: rows, removed ones not yet compacted included, times
    /// (dim · element size + 4), in int8 (dim + 8), dim rounded up to a multiple of 4.
    pub fn memory_bytes(&self) -> usize {
        self.corpus.bytes()
    }
}

impl std::fmt::Debug for FlatIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, dim, storage) = (self.len(), self.dim(), self.storage());
        write!(f, "FlatIndex of {len} x {dim} {storage} on {:?}", self.device())
    }
}
