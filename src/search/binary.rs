//! Search over binary codes, with exact re-scoring of the best.

use std::borrow::Cow;
use std::path::Path;

use half::{bf16, f16};

use super::finite;
use super::ids::{self, Filter, Hit, Ids};
use super::store::{self, File, Vectors};
use crate::device::Device;
use crate::device::threads::items::*;
use crate::ops::hamming::{BinaryCorpus, Hasher, Queries, encode, radius, topk};
use crate::ops::int8;
use crate::ops::select::{Hits, Search, entry, key};
use crate::ops::topk::Metric;
use crate::{DType, Error, Float, Result, Tensor};

/// Bytes of vectors on the device at a time, to be encoded.
const ENCODED: usize = 32 << 20;

/// What is kept beside the codes, in host memory, to score the best again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: scores are those of the codes.
    Codes,
    /// The vectors as f32, f16 or bf16.
    Floats(DType),
    /// The vectors as signed bytes, each with the scale that takes its greatest magnitude to 127. A vector whose scale is below
    /// the range of f32, which is one whose greatest magnitude is below 8.9e-44, counts as zeros.
    Int8,
}

/// What to search for.
#[derive(Clone, Copy)]
pub struct BinarySearch<'a> {
    /// How many vectors to find for each query.
    pub k: usize,
    /// How many times `k` candidates the codes give, to be scored again where vectors are kept; at least 1.
    pub oversample: usize,
    /// Whether the codes are scored against the projected query instead of its code.
    pub asymmetric: bool,
    /// The score of kept vectors.
    pub metric: Metric,
    /// Keeps the ids for which it holds; it is asked once for each vector.
    pub filter: Option<&'a dyn Fn(&str) -> bool>,
}

impl BinarySearch<'_> {
    /// Codes against codes, four times `k` candidates, without a filter.
    pub fn new(metric: Metric, k: usize) -> Self {
        BinarySearch { k, oversample: 4, asymmetric: false, metric, filter: None }
    }
}

/// Vectors with ids, found by their binary codes on one device and, if vectors are kept, scored again exactly.
///
/// Results are ordered by score, equal scores by the order in which the vectors were added. Without kept vectors a score is the
/// negated Hamming distance, or `sum_i q_i s_i` of an asymmetric search ([`crate::ops::hamming`]). A query with a NaN finds
/// nothing.
#[derive(Clone)]
pub struct BinaryIndex {
    hasher: Hasher,
    codes: BinaryCorpus,
    kept: Kept,
    ids: Ids,
}

impl BinaryIndex {
    /// An empty index on the hasher's device.
    ///
    /// # Errors
    /// [`Error::Argument`] if vectors are to be kept in a dtype that is not a float, [`Error::Unsupported`] if one code does not
    /// fit the device's bindings.
    pub fn new(hasher: Hasher, keep: Keep) -> Result<BinaryIndex> {
        let kept = Kept::new(keep)?;
        let codes = BinaryCorpus::new(hasher.thresholds().device(), hasher.bits())?;
        Ok(BinaryIndex { hasher, codes, kept, ids: Ids::new() })
    }

    /// Adds vectors \[ids.len(), dim\], one after the other: their codes, and they themselves if they are kept.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is there already or occurs twice, or a value is not finite, or beyond what the dtype of kept
    /// vectors can hold; [`Error::Shape`] if the lengths do not fit, [`Error::OutOfMemory`]. Nothing is added then.
    pub fn add<S: AsRef<str>>(&mut self, ids: &[S], vectors: &[f32]) -> Result<()> {
        if ids.len().checked_mul(self.dim()) != Some(vectors.len()) {
            return Err(Error::shape(
                "BinaryIndex::add",
                format!("{} ids of {} dimensions", ids.len(), self.dim()),
                format!("{} values", vectors.len()),
            ));
        }
        let fresh = self.ids.check(ids)?;
        let dtype = match self.kept.keep() {
            Keep::Floats(dtype) => dtype,
            Keep::Codes | Keep::Int8 => DType::F32,
        };
        let (threads, place) = (self.device().threads(), finite::rows(&fresh));
        finite::check(threads, "vectors", vectors, self.dim(), dtype, place)?;
        let mut codes = self.codes.clone();
        for part in vectors.chunks(self.group()) {
            codes.append_tensor(&self.encode(part)?)?;
        }
        self.codes = codes;
        self.kept.append(vectors, self.dim());
        self.ids.append(fresh);
        Ok(())
    }

    /// [`add`](Self::add) of vectors \[ids.len(), dim\] of any float dtype on the index's device. They are read only where they
    /// are kept.
    ///
    /// # Errors
    /// As [`add`](Self::add); [`Error::Shape`] if the vectors are on another device.
    pub fn add_tensor<S: AsRef<str>>(&mut self, ids: &[S], vectors: &Tensor) -> Result<()> {
        if vectors.shape() != [ids.len(), self.dim()] {
            return Err(Error::shape(
                "BinaryIndex::add_tensor",
                format!("{} ids of {} dimensions", ids.len(), self.dim()),
                format!("vectors {:?}", vectors.shape()),
            ));
        }
        let fresh = self.ids.check(ids)?;
        let codes = encode(vectors, &self.hasher)?;
        let kept = match self.kept.keep() {
            Keep::Codes => Vec::new(),
            _ => vectors.to_f32_vec()?,
        };
        self.codes.append_tensor(&codes)?;
        self.kept.append(&kept, self.dim());
        self.ids.append(fresh);
        Ok(())
    }

    /// Values of whole vectors that are on the device together.
    fn group(&self) -> usize {
        (ENCODED / 4 / self.dim()).max(1) * self.dim()
    }

    fn encode(&self, vectors: &[f32]) -> Result<Tensor> {
        let shape = [vectors.len() / self.dim(), self.dim()];
        encode(&Tensor::from_slice(self.device(), &shape, vectors)?, &self.hasher)
    }

    /// Removes vectors by id and gives how many there were; unknown ids are passed over. When more than a third of the
    /// rows are gone, the others are moved together and the memory is given back.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`] while moving; the ids are removed all the same.
    pub fn remove<S: AsRef<str>>(&mut self, ids: &[S]) -> Result<usize> {
        let count = self.ids.remove(ids)?;
        if self.ids.sparse() {
            let dim = self.dim();
            self.codes.retain(|row| self.ids.keeps(row))?;
            self.kept.retain(dim, |row| self.ids.keeps(row));
            self.ids.compact();
        }
        Ok(count)
    }

    /// The best vectors for each of the queries, given one after the other: \[queries, dim\]. Any number of queries works: they
    /// go to the device in groups.
    ///
    /// # Errors
    /// [`Error::Argument`] if `k` or `oversample` is 0, [`Error::Shape`] if the length is not a multiple of the dimension,
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn search(&self, queries: &[f32], search: &BinarySearch<'_>) -> Result<Vec<Vec<Hit>>> {
        self.check_queries("BinaryIndex::search", queries)?;
        for (name, value) in [("k", search.k), ("oversample", search.oversample)] {
            if value == 0 {
                return Err(Error::argument(name, "at least 1", "0"));
            }
        }
        let rescore = self.kept.keep() != Keep::Codes;
        let k = if rescore { search.k.saturating_mul(search.oversample) } else { search.k };
        let mut found = Vec::with_capacity(queries.len() / self.dim());
        let excluded = self.ids.excluded(search.filter);
        let wanted = Search { filter: ids::open(&excluded), ..Search::new(k) };
        for part in queries.chunks(self.group()) {
            let mut hits = if search.asymmetric {
                let shape = [part.len() / self.dim(), self.hasher.bits()];
                let (values, exponents) = self.hasher.project_scaled(part)?;
                let values = Tensor::from_slice(self.device(), &shape, &values)?;
                let mut hits = topk(Queries::Floats(&values), &self.codes, &wanted)?;
                hits.scale(&exponents);
                hits
            } else {
                topk(Queries::Codes(&self.encode(part)?), &self.codes, &wanted)?
            };
            if rescore {
                hits = self.rescore(part, &hits, search.metric, search.k);
            }
            found.extend(self.named(part, &hits));
        }
        Ok(found)
    }

    /// All vectors whose codes are within a Hamming distance of `distance` from each query's, nearest first: \[queries, dim\].
    /// Scores are negated distances.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_radius(
        &self,
        queries: &[f32],
        distance: u32,
        filter: Filter<'_>,
    ) -> Result<Vec<Vec<Hit>>> {
        self.check_queries("BinaryIndex::search_radius", queries)?;
        let mut found = Vec::with_capacity(queries.len() / self.dim());
        let excluded = self.ids.excluded(filter);
        for part in queries.chunks(self.group()) {
            let hits = radius(&self.encode(part)?, &self.codes, distance, ids::open(&excluded))?;
            found.extend(self.named(part, &hits));
        }
        Ok(found)
    }

    fn check_queries(&self, op: &'static str, queries: &[f32]) -> Result<()> {
        if queries.len().is_multiple_of(self.dim()) {
            return Ok(());
        }
        let expected = format!("queries of dimension {}", self.dim());
        Err(Error::shape(op, expected, format!("{} values", queries.len())))
    }

    /// Hits with their ids; none for a query with a NaN, whose code means nothing.
    fn named(&self, queries: &[f32], hits: &Hits) -> Vec<Vec<Hit>> {
        let mut named: Vec<_> = self.ids.hits(hits).collect();
        for (query, hits) in queries.chunks(self.dim()).zip(&mut named) {
            if query.iter().any(|v| v.is_nan()) {
                hits.clear();
            }
        }
        named
    }

    /// The candidates ordered by their vectors' scores, the first `k` of them.
    fn rescore(&self, queries: &[f32], hits: &Hits, metric: Metric, k: usize) -> Hits {
        let dim = self.dim();
        let candidates: usize = hits.iter().map(|(rows, _)| rows.len()).sum();
        let (cost, each) = (candidates * dim, queries.par_chunks(dim).enumerate());
        let found = self.device().threads().map(cost, each, |(q, query)| {
            let mut row = vec![0.0f32; dim];
            let rows = hits.get(q).0.iter();
            let mut entries: Vec<_> = rows
                .map(|&at| {
                    self.kept.read(at as usize, &mut row);
                    entry(key(exact(metric, query, &row)), at as u32)
                })
                .filter(|entry| entry >> 32 > 0)
                .collect();
            entries.sort_unstable_by(|a, b| b.cmp(a));
            entries.truncate(k);
            entries
        });
        let mut best = Hits::new();
        found.into_iter().for_each(|entries| best.push(entries));
        best
    }

    /// Writes the index to one file: see [`store`]. Removed vectors are left out.
    ///
    /// Its tensors are `codes` (u32 \[N, bits / 32\]), `thresholds` (f32 \[bits\]), `projection` (f32 \[bits, dim\], unless there
    /// is none), and of kept vectors `embeddings`, as [`FlatIndex`](super::FlatIndex) has them, or `int8` (u32 \[N, dim / 4,
    /// rounded up\], four bytes a word) with `scales` (f32 \[N\]).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; a file that was there stays whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (n, dim, words) = (self.len(), self.dim(), self.codes.words());
        let mut row = 0;
        let codes = self.codes.chunks().map(|chunk| {
            let all = chunk.to_bytes()?;
            let rows = all.chunks_exact(4 * words).zip(row..);
            let kept = rows.filter(|(_, row)| self.ids.keeps(*row)).flat_map(|(code, _)| code);
            row += chunk.shape()[0];
            Ok(Cow::Owned(kept.copied().collect()))
        });
        let rows = || (0..self.ids.rows()).filter(|&row| self.ids.keeps(row));
        let scales: Vec<f32> = match &self.kept {
            Kept::Int8 { scales, .. } => rows().map(|row| scales[row]).collect(),
            _ => Vec::new(),
        };
        let bits = self.hasher.bits();
        let mut tensors = vec![
            ("codes", Vectors::parts(DType::U32, &[n, words], codes)),
            ("thresholds", Vectors::f32(&[bits], self.hasher.host_thresholds())),
        ];
        if let Some(projection) = self.hasher.projection() {
            tensors.push(("projection", Vectors::f32(&[bits, dim], projection)));
        }
        if self.kept.keep() == Keep::Int8 {
            tensors.push(("scales", Vectors::f32(&[n], &scales)));
        }
        let (name, dtype, width) = match self.kept.keep() {
            Keep::Codes => ("", DType::U32, 0),
            Keep::Floats(dtype) => ("embeddings", dtype, dim),
            Keep::Int8 => ("int8", DType::U32, dim.div_ceil(4)),
        };
        if width > 0 {
            let parts = rows().map(|row| Ok(self.kept.bytes(row, dim)));
            tensors.push((name, Vectors::parts(dtype, &[n, width], parts)));
        }
        let ids: Vec<&str> = self.ids.iter().collect();
        store::write(path, tensors, &ids)
    }

    /// Reads an index that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Weights`] if the file is truncated or damaged, its tensors do not fit each other or a value is not
    /// finite, [`Error::Data`] if its ids do not fit, [`Error::OutOfMemory`].
    pub fn load(path: &Path, device: &Device) -> Result<BinaryIndex> {
        let file = File::open(path)?;
        let (shape, thresholds) = file.need("thresholds", DType::F32, &[None])?;
        let bits = shape[0];
        let hasher = {
            let projection = match file.has("projection") {
                true => Some(file.need("projection", DType::F32, &[Some(bits), None])?),
                false => None,
            };
            let dim = projection.as_ref().map_or(bits, |p| p.0[1]);
            let rows = projection.map(|p| bytemuck::pod_collect_to_vec::<u8, f32>(&p.1));
            let host: Vec<f32> = bytemuck::pod_collect_to_vec(&thresholds);
            match Hasher::new(device, dim, rows.as_deref(), &host) {
                Err(e @ (Error::Argument { .. } | Error::Shape { .. })) => {
                    return Err(file.fault("thresholds", e.to_string()));
                }
                other => other?,
            }
        };
        let dim = hasher.dim();
        let n = file.shape("codes", DType::U32, &[None, Some(bits / 32)])?[0];
        let keep = match (file.has("embeddings"), file.has("int8")) {
            (true, _) => Keep::Floats(file.float("embeddings")?),
            (false, true) => Keep::Int8,
            (false, false) => Keep::Codes,
        };
        let names = file.ids(n)?;
        let kept = match keep {
            Keep::Codes => Kept::Codes,
            Keep::Floats(dtype) => {
                let bytes = file.need("embeddings", dtype, &[Some(n), Some(dim)])?.1;
                let place = finite::rows(&names);
                finite::check_stored(&file, "embeddings", &bytes, (dtype, dim), place)?;
                match dtype {
                    DType::F16 => Kept::F16(bytemuck::pod_collect_to_vec(&bytes)),
                    DType::BF16 => Kept::BF16(bytemuck::pod_collect_to_vec(&bytes)),
                    _ => Kept::F32(bytemuck::pod_collect_to_vec(&bytes)),
                }
            }
            Keep::Int8 => {
                let width = dim.div_ceil(4);
                let bytes = file.need("int8", DType::U32, &[Some(n), Some(width)])?.1;
                let rows = bytes.chunks_exact(4 * width).flat_map(|row| &row[..dim]);
                let scales: Vec<f32> =
                    bytemuck::pod_collect_to_vec(&file.need("scales", DType::F32, &[Some(n)])?.1);
                finite::check_scales(&file, scales.iter().copied(), finite::rows(&names))?;
                Kept::Int8 { values: rows.map(|&b| b as i8).collect(), scales }
            }
        };
        let mut index = BinaryIndex::new(hasher, keep)?;
        let fresh = index.ids.check(&names).map_err(|e| Error::Data {
            file: path.into(),
            line: None,
            problem: e.to_string(),
        })?;
        let (words, part) = (index.codes.words(), index.codes.chunk_rows());
        for start in (0..n).step_by(part) {
            let end = n.min(start + part);
            let bytes = file.bytes("codes", start * words * 4..end * words * 4)?;
            let codes = Tensor::from_bytes(device, DType::U32, &[end - start, words], &bytes)?;
            index.codes.append_tensor(&codes)?;
        }
        index.kept = kept;
        index.ids.append(fresh);
        Ok(index)
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
        self.hasher.dim()
    }

    /// What turns vectors into codes.
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// What is kept beside the codes.
    pub fn keep(&self) -> Keep {
        self.kept.keep()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.codes.device()
    }

    /// Bytes on the device: rows, removed ones not yet compacted included, times `bits / 8`, and the hasher's `4 bits`, and
    /// `4 bits dim` for a projection.
    pub fn memory_bytes(&self) -> usize {
        self.codes.bytes() + self.hasher.bytes()
    }

    /// Bytes in host memory: the hasher's as on the device, and of kept vectors, for each row, `dim` times the element's size, or
    /// `dim + 4` for int8.
    pub fn host_bytes(&self) -> usize {
        let row = match self.kept.keep() {
            Keep::Codes => 0,
            Keep::Floats(dtype) => self.dim() * dtype.size(),
            Keep::Int8 => self.dim() + 4,
        };
        self.ids.rows() * row + self.hasher.bytes()
    }
}

impl std::fmt::Debug for BinaryIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, dim, bits) = (self.len(), self.dim(), self.hasher.bits());
        let keep = self.keep();
        write!(f, "BinaryIndex of {len} x {dim} as {bits} bits, {keep:?}, on {:?}", self.device())
    }
}

/// A score of two vectors, summed in f64.
fn exact(metric: Metric, q: &[f32], x: &[f32]) -> f32 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        q.iter().zip(x).map(|(&a, &b)| f(a as f64, b as f64)).sum()
    };
    match metric {
        Metric::Dot => sum(&|a, b| a * b) as f32,
        Metric::L2 => -sum(&|a, b| (a - b) * (a - b)) as f32,
        Metric::Cosine => {
            let both = sum(&|a, _| a * a).sqrt() * sum(&|_, b| b * b).sqrt();
            if both == 0.0 { 0.0 } else { (sum(&|a, b| a * b) / both) as f32 }
        }
    }
}

/// The vectors that are kept, row after row.
#[derive(Clone)]
enum Kept {
    Codes,
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    Int8 { values: Vec<i8>, scales: Vec<f32> },
}

impl Kept {
    fn new(keep: Keep) -> Result<Kept> {
        Ok(match keep {
            Keep::Codes => Kept::Codes,
            Keep::Floats(DType::F32) => Kept::F32(Vec::new()),
            Keep::Floats(DType::F16) => Kept::F16(Vec::new()),
            Keep::Floats(DType::BF16) => Kept::BF16(Vec::new()),
            Keep::Floats(other) => {
                return Err(Error::argument("keep", "f32, f16 or bf16", other.name()));
            }
            Keep::Int8 => Kept::Int8 { values: Vec::new(), scales: Vec::new() },
        })
    }

    fn keep(&self) -> Keep {
        match self {
            Kept::Codes => Keep::Codes,
            Kept::F32(_) => Keep::Floats(DType::F32),
            Kept::F16(_) => Keep::Floats(DType::F16),
            Kept::BF16(_) => Keep::Floats(DType::BF16),
            Kept::Int8 { .. } => Keep::Int8,
        }
    }

    fn append(&mut self, vectors: &[f32], dim: usize) {
        match self {
            Kept::Codes => {}
            Kept::F32(all) => all.extend_from_slice(vectors),
            Kept::F16(all) => all.extend(vectors.iter().map(|&v| f16::from_f32(v))),
            Kept::BF16(all) => all.extend(vectors.iter().map(|&v| bf16::from_f32(v))),
            Kept::Int8 { values, scales } => {
                for vector in vectors.chunks_exact(dim) {
                    let at = values.len();
                    values.resize(at + dim, 0);
                    scales.push(int8::quantize(vector, &mut values[at..]));
                }
            }
        }
    }

    fn read(&self, row: usize, to: &mut [f32]) {
        let at = row * to.len()..(row + 1) * to.len();
        match self {
            Kept::Codes => {}
            Kept::F32(all) => to.copy_from_slice(&all[at]),
            Kept::F16(all) => {
                to.iter_mut().zip(&all[at]).for_each(|(to, v)| *to = Float::to_f32(*v))
            }
            Kept::BF16(all) => {
                to.iter_mut().zip(&all[at]).for_each(|(to, v)| *to = Float::to_f32(*v))
            }
            Kept::Int8 { values, scales } => {
                let scale = scales[row];
                to.iter_mut().zip(&values[at]).for_each(|(to, v)| *to = f32::from(*v) * scale);
            }
        }
    }

    /// A row as it is stored.
    fn bytes(&self, row: usize, dim: usize) -> Cow<'_, [u8]> {
        let at = row * dim..(row + 1) * dim;
        match self {
            Kept::Codes => Cow::Borrowed(&[]),
            Kept::F32(all) => Cow::Borrowed(bytemuck::cast_slice(&all[at])),
            Kept::F16(all) => Cow::Borrowed(bytemuck::cast_slice(&all[at])),
            Kept::BF16(all) => Cow::Borrowed(bytemuck::cast_slice(&all[at])),
            Kept::Int8 { values, .. } => {
                let mut bytes: Vec<u8> = values[at].iter().map(|&v| v as u8).collect();
                bytes.resize(dim.next_multiple_of(4), 0);
                Cow::Owned(bytes)
            }
        }
    }

    fn retain(&mut self, dim: usize, keep: impl Fn(usize) -> bool) {
        fn rows<T: Copy>(all: &mut Vec<T>, dim: usize, keep: &impl Fn(usize) -> bool) {
            let mut to = 0;
            for row in 0..all.len() / dim {
                if keep(row) {
                    all.copy_within(row * dim..(row + 1) * dim, to);
                    to += dim;
                }
            }
            all.truncate(to);
            all.shrink_to_fit();
        }
        match self {
            Kept::Codes => {}
            Kept::F32(all) => rows(all, dim, &keep),
            Kept::F16(all) => rows(all, dim, &keep),
            Kept::BF16(all) => rows(all, dim, &keep),
            Kept::Int8 { values, scales } => {
                rows(values, dim, &keep);
                rows(scales, 1, &keep);
            }
        }
    }
}
