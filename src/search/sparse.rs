//! Exact search over sparse vectors.
//!
//! A file holds `offsets` \[N + 1\] i64, `terms` \[E\] u32 and `weights` \[E\] f32, as [`Csr`] has them; the metadata's `sparse` says
//! `{"dim": 30522, "impact": "f16"}`, with `"scale"` where weights are whole numbers of it.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ids::{self, Hit, Ids};
use super::store::{self, File, Vectors};
use crate::device::Device;
use crate::ops::sparse::{Csr, Impact, SparseCorpus, SparseVectors, topk};
use crate::ops::topk::Search;
use crate::{DType, Error, Result};

const ENTRY: &str = "sparse";
/// Documents that are read and added at a time.
const PART: usize = 64 << 10;

/// Sparse vectors with ids on one device, searched exactly: SPLADE's weights, VDR's, PromptReps' whole numbers.
///
/// Results are ordered by score, equal scores by the order in which documents were added. A document without a term of the query
/// scores 0 and may be found; [`search`](Self::search) with a `least` above 0 leaves it out. See [`sparse`](crate::ops::sparse).
///
/// ```
/// use nearkin::ops::sparse::{Csr, Impact};
/// use nearkin::search::SparseIndex;
/// use nearkin::Device;
///
/// let mut index = SparseIndex::new(&Device::cpu(), 30_000, Impact::F16)?;
/// let documents = Csr { offsets: &[0, 2, 3], terms: &[12, 900, 900], weights: &[1.5, 0.5, 2.0] };
/// index.add(&["wings", "lift"], documents)?;
/// let query = Csr { offsets: &[0, 1], terms: &[900], weights: &[1.0] };
/// let found = index.search(query, 10, Some(0.1), None)?;
/// assert_eq!(&*found[0][0].id, "lift");
/// # Ok::<(), nearkin::Error>(())
/// ```
#[derive(Clone)]
pub struct SparseIndex {
    pub(super) corpus: SparseCorpus,
    pub(super) ids: Ids,
}

/// What a file says of its sparse vectors.
#[derive(Serialize, Deserialize)]
struct Kept {
    dim: usize,
    impact: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scale: Option<f32>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    F32,
    F16,
    U8,
}

/// The tensors of sparse vectors.
pub(super) fn tensors<'a>(vectors: &Csr<'a>) -> Vec<(&'static str, Vectors<'a>)> {
    let terms = std::iter::once(Ok(Cow::Borrowed(bytemuck::cast_slice(vectors.terms))));
    vec![
        ("offsets", Vectors::i64(&[vectors.offsets.len()], vectors.offsets)),
        ("terms", Vectors::parts(DType::U32, &[vectors.terms.len()], terms)),
        ("weights", Vectors::f32(&[vectors.weights.len()], vectors.weights)),
    ]
}

/// Writes sparse vectors with terms below `dim`, one for each of the ids, as [`SparseIndex::load`] reads them.
///
/// # Errors
/// As [`store::write`]; [`Error::Shape`] or [`Error::Argument`] if the vectors are not as [`Csr`] says, or not one for each id.
pub fn write_sparse<S: AsRef<str>>(
    path: &Path,
    vectors: Csr<'_>,
    dim: usize,
    impact: Impact,
    ids: &[S],
) -> Result<()> {
    let count = vectors.check(dim)?;
    if count != ids.len() {
        let expected = format!("{} vectors, one an id", ids.len());
        return Err(Error::shape("write_sparse", expected, count.to_string()));
    }
    store::write_with(path, tensors(&vectors), ids, &[entry(path, dim, impact)?])
}

/// The metadata's entry.
pub(super) fn entry(path: &Path, dim: usize, impact: Impact) -> Result<(&'static str, String)> {
    let (impact, scale) = match impact {
        Impact::F32 => (Kind::F32, None),
        Impact::F16 => (Kind::F16, None),
        Impact::U8 { scale } => (Kind::U8, Some(scale)),
    };
    let kept = serde_json::to_string(&Kept { dim, impact, scale });
    Ok((ENTRY, kept.map_err(|e| Error::io(path, e.into()))?))
}

impl SparseIndex {
    /// An empty index of vectors with terms below `dim`, whose weights are stored as `impact` says.
    ///
    /// # Errors
    /// As [`SparseCorpus::new`].
    pub fn new(device: &Device, dim: usize, impact: Impact) -> Result<SparseIndex> {
        Ok(SparseIndex { corpus: SparseCorpus::new(device, dim, impact)?, ids: Ids::new() })
    }

    /// Adds documents, one for each id.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is there already or occurs twice, terms do not ascend or are not below the dimension, or a weight is not
    /// finite or beyond what is stored; [`Error::Shape`] if the lengths do not fit; [`Error::OutOfMemory`]. Nothing is added then.
    pub fn add<S: AsRef<str>>(&mut self, ids: &[S], documents: Csr<'_>) -> Result<()> {
        let grown = self.grown(ids, documents)?;
        let fresh = self.ids.check(ids)?;
        self.corpus = grown;
        self.ids.append(fresh);
        Ok(())
    }

    /// The corpus with documents added, for ids that are new.
    pub(super) fn grown<S: AsRef<str>>(
        &self,
        ids: &[S],
        documents: Csr<'_>,
    ) -> Result<SparseCorpus> {
        let count = documents.check(self.dim())?;
        if count != ids.len() {
            let expected = format!("{} documents, one an id", ids.len());
            return Err(Error::shape("SparseIndex::add", expected, count.to_string()));
        }
        let mut grown = self.corpus.clone();
        grown.append(documents)?;
        Ok(grown)
    }

    /// Removes documents by id and gives how many there were; unknown ids are passed over. When more than a third of the
    /// rows are gone, the others are moved together and the memory is given back.
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

    /// The `k` best documents for each of the queries that score at least `least`, or of all. `filter` keeps the ids for which it holds; it is asked once
    /// for each document. A query with a NaN finds nothing.
    ///
    /// # Errors
    /// As [`topk`].
    pub fn search(
        &self,
        queries: Csr<'_>,
        k: usize,
        least: Option<f32>,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        let excluded = self.ids.excluded(filter);
        let search = Search { least, filter: ids::open(&excluded), ..Search::new(k) };
        Ok(self.ids.hits(&topk(queries, &self.corpus, &search)?).collect())
    }

    /// The vectors in their order, on the host, as they are stored.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn to_vectors(&self) -> Result<SparseVectors> {
        let (mut all, mut row) = (SparseVectors::new(), 0);
        self.corpus.for_each(|terms, weights| {
            if self.ids.keeps(row) {
                all.push(terms, weights.iter().copied());
            }
            row += 1;
            Ok(())
        })?;
        Ok(all)
    }

    /// Writes the index to one file: see [`store`]. Removed documents are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; a file that was there stays whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let ids: Vec<&str> = self.ids.iter().collect();
        let entry = entry(path, self.dim(), self.impact())?;
        store::write_with(path, tensors(&self.to_vectors()?.csr()), &ids, &[entry])
    }

    /// Reads an index that [`save`](Self::save), [`write_sparse`] or `nearkin embed --sparse` wrote. How weights are stored is kept.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Weights`] if the file is truncated, damaged or lacks a tensor, [`Error::Data`] if ids, offsets, terms
    /// or weights do not fit, [`Error::OutOfMemory`].
    pub fn load(path: &Path, device: &Device) -> Result<SparseIndex> {
        SparseIndex::read(&File::open(path)?, device)
    }

    pub(super) fn read(file: &File, device: &Device) -> Result<SparseIndex> {
        let Some(text) = file.metadata.get(ENTRY) else {
            return Err(file.fault("terms", format!("the metadata says nothing of {ENTRY}")));
        };
        let kept: Kept = serde_json::from_str(text)
            .map_err(|e| file.data_fault(format!("the metadata's {ENTRY}: {e}")))?;
        let impact = match kept.impact {
            Kind::F32 => Impact::F32,
            Kind::F16 => Impact::F16,
            Kind::U8 => Impact::U8 { scale: kept.scale.unwrap_or(1.0) },
        };
        let unfit = |e: Error| match e {
            Error::Shape { .. } | Error::Argument { .. } => file.data_fault(e.to_string()),
            other => other,
        };
        let mut index = SparseIndex::new(device, kept.dim, impact).map_err(unfit)?;
        let (shape, offsets) = file.need("offsets", DType::I64, &[None])?;
        let rows = shape[0].saturating_sub(1);
        let (shape, terms) = file.need("terms", DType::U32, &[None])?;
        let entries = shape[0];
        let (_, weights) = file.need("weights", DType::F32, &[Some(entries)])?;
        let offsets: Vec<i64> = bytemuck::pod_collect_to_vec(&offsets);
        let terms: Vec<u32> = bytemuck::pod_collect_to_vec(&terms);
        let weights: Vec<f32> = bytemuck::pod_collect_to_vec(&weights);
        let all = Csr { offsets: &offsets, terms: &terms, weights: &weights };
        all.check(kept.dim).map_err(unfit)?;
        let fresh = index.ids.check(&file.ids(rows)?).map_err(unfit)?;
        for start in (0..rows).step_by(PART) {
            let end = rows.min(start + PART);
            let own = offsets[start] as usize..offsets[end] as usize;
            let offsets: Vec<i64> =
                offsets[start..=end].iter().map(|at| at - own.start as i64).collect();
            let (terms, weights) = (&terms[own.clone()], &weights[own]);
            index.corpus.append(Csr { offsets: &offsets, terms, weights }).map_err(unfit)?;
        }
        index.ids.append(fresh);
        Ok(index)
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

    /// Terms of the vocabulary.
    pub fn dim(&self) -> usize {
        self.corpus.dim()
    }

    /// How weights are stored.
    pub fn impact(&self) -> Impact {
        self.corpus.impact()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.corpus.device()
    }

    /// Bytes that the documents hold on the device, removed ones not yet compacted included: see [`SparseCorpus::bytes`].
    pub fn memory_bytes(&self) -> usize {
        self.corpus.bytes()
    }
}

impl std::fmt::Debug for SparseIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, dim, impact) = (self.len(), self.dim(), self.impact());
        write!(f, "SparseIndex of {len} x {dim} {impact:?} on {:?}", self.device())
    }
}
