//! Exact late-interaction search over all documents.

mod file;
mod part;

use std::sync::Arc;

use part::{Layout, Part};

use super::finite;
use super::ids::{self, Hit, Ids};
use crate::ops::length::normalize;
use crate::ops::maxsim::{self, MaxSim, Storage, Tokens};
use crate::ops::residual::{Codec, Training};
use crate::ops::select::{Search, key};
use crate::{DType, Device, Error, Result, Tensor};

/// Queries that go to the device together.
const QUERIES: usize = 1024;
/// Vectors a centroid that a codec is learnt from, evenly spaced, as in faiss.
const PER_CENTROID: usize = 256;

/// Documents by their tokens' vectors, with ids, on one device, compared with queries by [`maxsim`](crate::ops::maxsim) and
/// searched exhaustively and exactly.
///
/// Vectors are divided by their lengths when they are added or asked for, so that products are cosines; what is kept is
/// rounded to the storage, or compressed by a [`Codec`]. Results are ordered by score, equal scores by the order in which
/// the documents were added. A document without tokens is never found by ColBERT's score.
///
/// # Memory
/// On the device T tokens of D dimensions in N documents take `T b + 4 (N + parts)` bytes, where a vector's b is `4 D` in f32,
/// `2 D` in f16 and bf16, `D + 4` in int8, `D / 8` in binary and `4 + 4 ceil(D bits / 32)` behind a codec, whose centroids
/// take `4 C (D + 1)` once. Parts have 32 MiB of vectors, as f32 behind a codec, or one document. A search adds the workspace
/// of [`maxsim::search`]: compressed vectors are decoded where they are compared, none is written.
#[derive(Clone)]
pub struct TokenIndex {
    layout: Layout,
    how: MaxSim,
    parts: Vec<Part>,
    ids: Ids,
}

impl TokenIndex {
    /// An empty index of `dim`-dimensional token vectors; ColBERT's score.
    ///
    /// # Errors
    /// [`Error::Argument`] if `dim` is not a multiple of 8 up to 1024, of 32 for binary.
    pub fn new(device: &Device, storage: Storage, dim: usize) -> Result<TokenIndex> {
        let step = if storage == Storage::Binary { 32 } else { 8 };
        if dim == 0 || !dim.is_multiple_of(step) || dim > 1024 {
            let expected = format!("a multiple of {step} up to 1024");
            return Err(Error::argument("dim", expected, dim.to_string()));
        }
        Ok(TokenIndex::empty(Layout { device: device.clone(), dim, storage, codec: None }))
    }

    /// An empty index whose vectors are compressed, on the codec's device; ColBERT's score, in f32.
    pub fn with_codec(codec: Codec) -> TokenIndex {
        let (device, dim) = (codec.device().clone(), codec.dim());
        TokenIndex::empty(Layout { device, dim, storage: Storage::F32, codec: Some(codec) })
    }

    fn empty(layout: Layout) -> TokenIndex {
        TokenIndex { layout, how: MaxSim::colbert(), parts: Vec::new(), ids: Ids::new() }
    }

    /// Chooses how queries and documents are compared from now on. It is not saved.
    pub fn set_maxsim(&mut self, how: MaxSim) {
        self.how = how;
    }

    /// Adds documents: `values` are the vectors of all tokens, one after the other, \[T, dim\], and document `i` has those
    /// from `offsets[i]` to `offsets[i + 1]`, as [`TokenVectors`](crate::models::TokenVectors) has them.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is there already or occurs twice, offsets do not ascend from 0 or a value is not finite;
    /// [`Error::Shape`] if the lengths do not fit or there would be 2^32 documents; [`Error::OutOfMemory`]. Nothing is added
    /// then.
    pub fn add<S: AsRef<str>>(&mut self, ids: &[S], values: &[f32], offsets: &[i64]) -> Result<()> {
        let lengths = self.lengths(values.len(), offsets)?;
        if lengths.len() != ids.len() {
            let got = lengths.len().to_string();
            return Err(Error::shape(ADD, format!("{} documents, one an id", ids.len()), got));
        }
        let fresh = self.ids.check(ids)?;
        // Rounded to how they are kept are vectors of length 1, which any type can hold.
        let place = places(&lengths, &fresh);
        let threads = self.device().threads();
        finite::check(threads, "values", values, self.dim(), DType::F32, place)?;
        let mut values = values.to_vec();
        normalize(threads, &mut values, self.dim());
        let raw = self.layout.encode(&values, &lengths)?;
        self.append(raw, fresh)
    }

    fn append(&mut self, raw: part::Raw, fresh: Vec<Arc<str>>) -> Result<()> {
        let total = self.ids.rows() + fresh.len();
        if u32::try_from(total).is_err() {
            return Err(Error::shape(ADD, "fewer than 4294967296 documents", total.to_string()));
        }
        let mut parts = self.parts.clone();
        for part in self.layout.parts(&raw)? {
            self.layout.put(&mut parts, part)?;
        }
        self.parts = parts;
        self.ids.append(fresh);
        Ok(())
    }

    /// Tokens of each item that `offsets` bound in so many values.
    fn lengths(&self, values: usize, offsets: &[i64]) -> Result<Vec<usize>> {
        let dim = self.dim();
        if !values.is_multiple_of(dim) {
            return Err(Error::shape(
                ADD,
                format!("vectors of dimension {dim}"),
                format!("{values} values"),
            ));
        }
        check_offsets(offsets, values / dim)
            .map_err(|got| Error::argument("offsets", "bounds that ascend from 0", got))
    }

    /// Removes documents by id and gives how many there were; unknown ids are passed over. When more than a third of the
    /// documents are gone, the others are moved together on the device and the memory is given back.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`] while moving; the ids are removed all the same.
    pub fn remove<S: AsRef<str>>(&mut self, ids: &[S]) -> Result<usize> {
        let count = self.ids.remove(ids)?;
        if self.ids.sparse() {
            self.compact()?;
        }
        Ok(count)
    }

    fn compact(&mut self) -> Result<()> {
        let mut parts: Vec<Part> = Vec::new();
        for (start, part) in self.starts() {
            if let Some(kept) = self.layout.retained(part, |i| self.ids.keeps(start + i))? {
                self.layout.put(&mut parts, kept)?;
            }
        }
        self.parts = parts;
        self.ids.compact();
        Ok(())
    }

    /// Each part with the number of its first document.
    fn starts(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().scan(0, |next, part| {
            let start = *next;
            *next += part.len();
            Some((start, part))
        })
    }

    /// The `k` best documents for each query, given as [`add`](Self::add) is given documents.
    ///
    /// `filter` keeps the ids for which it holds; it is asked once for each document, not once for each query. A query with
    /// a value that is not finite finds nothing; to a query without tokens all documents are alike.
    ///
    /// # Errors
    /// [`Error::Argument`] if `k` is 0 or offsets do not ascend from 0, [`Error::Shape`] if the lengths do not fit,
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn search(
        &self,
        queries: &[f32],
        offsets: &[i64],
        k: usize,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        if k == 0 {
            return Err(Error::argument("k", "at least 1", "0"));
        }
        let excluded = self.ids.excluded(filter);
        let search = Search { filter: ids::open(&excluded), ..Search::new(k) };
        let parts: Vec<Tokens> = self.parts.iter().map(|p| p.tokens.clone()).collect();
        let mut found = Vec::new();
        for group in self.groups(queries, offsets)? {
            let hits = maxsim::search(&group.tokens, &parts, &self.how, &search)?;
            found.extend(
                self.ids
                    .hits(&hits)
                    .zip(group.is_finite)
                    .map(|(hits, is_finite)| if is_finite { hits } else { Vec::new() }),
            );
        }
        Ok(found)
    }

    /// The scores of each query with the documents of its list of `candidates`, best first, equal ones in the order in which
    /// they were added. A candidate without tokens has the score -∞, and so has every candidate of a query with a value that
    /// is not finite.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Argument`] if there is not one list a query or an id is not there.
    pub fn rerank<S: AsRef<str>>(
        &self,
        queries: &[f32],
        offsets: &[i64],
        candidates: &[Vec<S>],
    ) -> Result<Vec<Vec<Hit>>> {
        let groups = self.groups(queries, offsets)?;
        let count: usize = groups.iter().map(|g| g.tokens.len()).sum();
        if candidates.len() != count {
            let expected = format!("{count} lists, one a query");
            return Err(Error::argument("candidates", expected, candidates.len().to_string()));
        }
        let row = |id: &S| {
            let id = id.as_ref();
            self.ids.row(id).ok_or_else(|| {
                Error::argument(
                    "candidates",
                    "ids of the index",
                    format!("'{}'", id.escape_debug()),
                )
            })
        };
        let lists: Vec<Vec<u32>> = candidates
            .iter()
            .map(|list| list.iter().map(row).collect::<Result<_>>())
            .collect::<Result<_>>()?;
        let mut found = Vec::with_capacity(count);
        for group in &groups {
            let lists = &lists[found.len()..][..group.tokens.len()];
            let mut scores: Vec<Vec<f32>> = lists.iter().map(|l| vec![f32::NAN; l.len()]).collect();
            for (start, part) in self.starts() {
                let inside =
                    |row: u32| (row as usize).checked_sub(start).filter(|&i| i < part.len());
                let local: Vec<Vec<u32>> = lists
                    .iter()
                    .map(|list| list.iter().filter_map(|&r| inside(r).map(|i| i as u32)).collect())
                    .collect();
                if local.iter().all(Vec::is_empty) {
                    continue;
                }
                let got = maxsim::rerank(&group.tokens, &part.tokens, &local, &self.how)?;
                let got = got.to_vec::<f32>()?;
                let places = lists.iter().zip(&mut scores).flat_map(|(list, scores)| {
                    let both = list.iter().zip(scores);
                    both.filter(|(row, _)| inside(**row).is_some()).map(|(_, score)| score)
                });
                places.zip(&got).for_each(|(place, &score)| *place = score);
            }
            for ((list, scores), &is_finite) in lists.iter().zip(scores).zip(&group.is_finite) {
                let score = |s: f32| if is_finite { s } else { f32::NEG_INFINITY };
                let mut rows: Vec<(u32, f32)> =
                    list.iter().copied().zip(scores.into_iter().map(score)).collect();
                rows.sort_by(|a, b| key(b.1).cmp(&key(a.1)).then(a.0.cmp(&b.0)));
                found.push(rows.into_iter().map(|(row, s)| self.ids.hit(row as u64, s)).collect());
            }
        }
        Ok(found)
    }

    /// Queries on the device, some at a time.
    fn groups(&self, values: &[f32], offsets: &[i64]) -> Result<Vec<Group>> {
        let dim = self.dim();
        let lengths = self.lengths(values.len(), offsets)?;
        let mut start = 0;
        let group = |lengths: &[usize]| {
            let end = start + lengths.iter().sum::<usize>() * dim;
            let mut values = values[start..end].to_vec();
            start = end;
            let (mut is_finite, mut at) = (Vec::with_capacity(lengths.len()), 0);
            for length in lengths {
                let query = &mut values[at..at + length * dim];
                is_finite.push(query.iter().all(|v| v.is_finite()));
                if !is_finite[is_finite.len() - 1] {
                    query.fill(0.0);
                }
                at += length * dim;
            }
            normalize(self.device().threads(), &mut values, dim);
            Ok(Group { tokens: self.layout.queries(&values, lengths)?, is_finite })
        };
        lengths.chunks(QUERIES).map(group).collect()
    }

    /// A copy in another storage.
    ///
    /// # Errors
    /// [`Error::Argument`] if the dimension is not a multiple of 32 for binary; [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`].
    pub fn to_storage(&self, storage: Storage) -> Result<TokenIndex> {
        self.copied(TokenIndex::new(self.device(), storage, self.dim())?)
    }

    /// A copy that is compressed by a codec learnt from its vectors, of which at most 256 a centroid are read.
    ///
    /// # Errors
    /// As [`Codec::train`].
    pub fn compress(&self, how: &Training) -> Result<TokenIndex> {
        let most = how.clusters.saturating_mul(PER_CENTROID).max(1);
        let (step, dim) = (self.tokens().div_ceil(most).max(1), self.dim());
        let mut sample = Vec::new();
        let mut next = 0;
        for (start, part) in self.starts() {
            let floats = part.floats()?;
            for i in (0..part.len()).filter(|i| self.ids.keeps(start + i)) {
                for token in part.offsets().range(i) {
                    if next % step == 0 {
                        sample.extend_from_slice(&floats[token * dim..][..dim]);
                    }
                    next += 1;
                }
            }
        }
        let sample = Tensor::from_slice(self.device(), &[sample.len() / dim, dim], &sample)?;
        let codec = Codec::train(&sample, how)?;
        self.copied(TokenIndex::with_codec(codec))
    }

    /// Fills an empty index with the same documents.
    fn copied(&self, mut index: TokenIndex) -> Result<TokenIndex> {
        index.how = self.how;
        for (start, part) in self.starts() {
            let lengths: Vec<usize> =
                (0..part.len()).map(|i| part.offsets().range(i).len()).collect();
            let mut floats = part.floats()?;
            if matches!(self.storage(), Storage::Int8 | Storage::Binary) {
                normalize(self.device().threads(), &mut floats, self.dim());
            }
            let raw = index.layout.encode(&floats, &lengths)?;
            let keep = |i: usize| self.ids.keeps(start + i);
            let fresh: Vec<Arc<str>> = (0..part.len())
                .filter(|&i| keep(i))
                .map(|i| self.ids.get(start + i).clone())
                .collect();
            index.append(raw.retain(index.layout.row(), keep), fresh)?;
        }
        Ok(index)
    }

    /// The vectors of all tokens in their order, as f32 on the host, \[tokens, dim\]: rounded or decoded.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        let dim = self.dim();
        let mut out = Vec::with_capacity(self.tokens() * dim);
        for (start, part) in self.starts() {
            let floats = part.floats()?;
            for i in (0..part.len()).filter(|i| self.ids.keeps(start + i)) {
                let range = part.offsets().range(i);
                out.extend_from_slice(&floats[range.start * dim..range.end * dim]);
            }
        }
        Ok(out)
    }

    /// The documents' bounds in [`to_f32_vec`](Self::to_f32_vec), in tokens.
    pub fn offsets(&self) -> Vec<i64> {
        let mut bounds = vec![0];
        for (start, part) in self.starts() {
            for i in (0..part.len()).filter(|i| self.ids.keeps(start + i)) {
                bounds.push(bounds[bounds.len() - 1] + part.offsets().range(i).len() as i64);
            }
        }
        bounds
    }

    /// The ids in the order in which their documents were added.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter()
    }

    /// Whether a document of this id is there.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// The number of documents.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.ids.len() == 0
    }

    /// The tokens of all documents.
    pub fn tokens(&self) -> usize {
        let parts = self.starts();
        parts
            .flat_map(|(start, part)| {
                (0..part.len()).map(move |i| (start + i, part.offsets().range(i)))
            })
            .filter(|(i, _)| self.ids.keeps(*i))
            .map(|(_, range)| range.len())
            .sum()
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.layout.dim
    }

    /// What vectors are compared as: how they are stored, or f32 behind a codec.
    pub fn storage(&self) -> Storage {
        self.layout.storage
    }

    /// What vectors are compressed with.
    pub fn codec(&self) -> Option<&Codec> {
        self.layout.codec.as_ref()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.layout.device
    }

    /// Bytes that documents hold on the device, removed ones not yet compacted included, and the codec.
    pub fn memory_bytes(&self) -> usize {
        let codec = self.codec().map_or(0, Codec::bytes);
        codec + self.parts.iter().map(Part::bytes).sum::<usize>()
    }
}

const ADD: &str = "TokenIndex";

/// Names a token, counted through all documents, by its number and its document.
fn places<S: AsRef<str>>(lengths: &[usize], ids: &[S]) -> impl Fn(usize) -> String {
    move |token| {
        let mut end = 0;
        let document = lengths.iter().position(|length| {
            end += length;
            token < end
        });
        let id = document.map_or("", |document| ids[document].as_ref());
        format!("token {token}, of document '{id}'")
    }
}

/// Some queries on the device, and whether each has finite values only.
struct Group {
    tokens: Tokens,
    is_finite: Vec<bool>,
}

/// The lengths that offsets into `total` tokens bound, or what is wrong with them.
fn check_offsets(offsets: &[i64], total: usize) -> Result<Vec<usize>, String> {
    match (offsets.first(), offsets.last()) {
        (Some(0), Some(&last)) if usize::try_from(last).ok() == Some(total) => {}
        (Some(0), Some(last)) => return Err(format!("{last} as the last for {total} tokens")),
        (first, _) => return Err(format!("{first:?} as the first")),
    }
    if total > u32::MAX as usize {
        return Err(format!("{total} tokens, beyond 4294967295"));
    }
    let length = |(i, w): (usize, &[i64])| match w[1].checked_sub(w[0]) {
        Some(length @ 0..) => Ok(length as usize),
        _ => Err(format!("{} after {} at {}", w[1], w[0], i + 1)),
    };
    offsets.windows(2).enumerate().map(length).collect()
}

impl std::fmt::Debug for TokenIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, dim, device) = (self.len(), self.dim(), self.device());
        match self.codec() {
            Some(c) => write!(f, "TokenIndex of {len} x {dim} in {} bits on {device:?}", c.bits()),
            None => write!(f, "TokenIndex of {len} x {dim} {} on {device:?}", self.storage()),
        }
    }
}
