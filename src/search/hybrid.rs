//! Dense and sparse vectors of the same documents, searched together.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::flat::FlatIndex;
use super::fused::fuse;
use super::ids::Hit;
use super::sparse::{self, SparseIndex};
use super::store::{self, File};
use crate::device::Device;
use crate::ops::sparse::{self as postings, Csr, Impact, SparseVectors};
use crate::ops::storage::Storage;
use crate::ops::topk::{Filter, Hits, Metric, Rows, Search, topk};
use crate::rank::descending;
use crate::rank::fuse::Fusion;
use crate::{Error, Result, Tensor};

const OP: &str = "HybridIndex";
/// Rows of each side that are looked at first, and how many times as many next.
const DEPTH: usize = 128;
const DEEPER: usize = 4;

/// Documents with a dense and a sparse vector each.
///
/// [`search`](Self::search) ranks all documents by `dense weight · dense score + sparse weight · sparse score`, exactly: it looks at the
/// best of both sides, scores each of these documents on the side that did not find it, and goes deeper while a document that
/// neither side has shown could still be among the best (Fagin, Lotem, Naor, PODS 2001).
/// [`search_fused`](Self::search_fused) fuses the two sides' rankings to some depth by any [`Fusion`].
///
/// ```
/// use nearkin::ops::sparse::{Csr, Impact};
/// use nearkin::ops::topk::{Metric, Storage};
/// use nearkin::search::HybridIndex;
/// use nearkin::Device;
///
/// let mut index = HybridIndex::new(&Device::cpu(), Storage::F32, 2, 100, Impact::F32)?;
/// let words = Csr { offsets: &[0, 1, 2], terms: &[7, 8], weights: &[1.0, 1.0] };
/// index.add(&["a", "b"], &[1.0, 0.0, 0.6, 0.8], words)?;
/// let query = Csr { offsets: &[0, 1], terms: &[8], weights: &[1.0] };
/// let found = index.search(&[1.0, 0.0], query, 1, Metric::Cosine, [0.5, 0.5], None)?;
/// assert_eq!((&*found[0][0].id, found[0][0].score), ("b", 0.8));
/// # Ok::<(), nearkin::Error>(())
/// ```
#[derive(Clone)]
pub struct HybridIndex {
    dense: FlatIndex,
    sparse: SparseIndex,
}

/// A document that one side or both have found.
struct Seen {
    id: Arc<str>,
    /// Its row on the dense side.
    row: u32,
    scores: [Option<f32>; 2],
}

impl HybridIndex {
    /// An empty index of `dim`-dimensional vectors and of sparse vectors with terms below `terms`.
    ///
    /// # Errors
    /// As [`FlatIndex::with_storage`] and [`SparseIndex::new`].
    pub fn new(
        device: &Device,
        storage: Storage,
        dim: usize,
        terms: usize,
        impact: Impact,
    ) -> Result<HybridIndex> {
        let dense = FlatIndex::with_storage(device, storage, dim)?;
        Ok(HybridIndex { dense, sparse: SparseIndex::new(device, terms, impact)? })
    }

    /// Adds documents: vectors \[ids.len(), dim\] and as many sparse ones.
    ///
    /// # Errors
    /// As [`FlatIndex::add`] and [`SparseIndex::add`]. Nothing is added then.
    pub fn add<S: AsRef<str>>(
        &mut self,
        ids: &[S],
        vectors: &[f32],
        sparse: Csr<'_>,
    ) -> Result<()> {
        let grown = self.sparse.grown(ids, sparse)?;
        let fresh = self.sparse.ids.check(ids)?;
        self.dense.add(ids, vectors)?;
        self.sparse.corpus = grown;
        self.sparse.ids.append(fresh);
        Ok(())
    }

    /// Removes documents by id and gives how many there were; unknown ids are passed over.
    ///
    /// # Errors
    /// As [`FlatIndex::remove`]; the ids are removed all the same.
    pub fn remove<S: AsRef<str>>(&mut self, ids: &[S]) -> Result<usize> {
        let removed = self.dense.remove(ids);
        self.sparse.remove(ids)?;
        removed
    }

    /// The `k` best documents for each query by the weighted sum of both scores, exactly. `queries` \[Q, dim\] and `sparse` are as
    /// many. Sums are formed in f32, `dense weight · dense score` being added to the rounded other product; equal ones are ordered as the documents were
    /// added. A side whose weight is 0 is not searched. A query that has a NaN on a side that is finds nothing.
    ///
    /// # Errors
    /// As [`FlatIndex::search`] and [`SparseIndex::search`]; [`Error::Argument`] if a weight is negative or not finite, or both are 0;
    /// [`Error::Shape`] if there are not as many queries on both sides.
    pub fn search(
        &self,
        queries: &[f32],
        sparse: Csr<'_>,
        k: usize,
        metric: Metric,
        weights: [f32; 2],
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights == [0.0; 2] {
            let expected = "finite weights from 0 on, one above 0";
            return Err(Error::argument("weights", expected, format!("{weights:?}")));
        }
        let count = self.check(queries, sparse)?;
        let scaled = |mut hits: Vec<Vec<Hit>>, weight: f32| {
            hits.iter_mut().flatten().for_each(|hit| hit.score *= weight);
            hits
        };
        if weights[1] == 0.0 {
            return Ok(scaled(self.dense.search(queries, k, metric, filter)?, weights[0]));
        }
        if weights[0] == 0.0 {
            return Ok(scaled(self.sparse.search(sparse, k, None, filter)?, weights[1]));
        }
        if k == 0 {
            return Err(Error::argument("k", "at least 1", "0"));
        }
        let sides = Sides { index: self, queries, sparse, metric, filter };
        let mut found = vec![Vec::new(); count];
        let mut open: Vec<usize> = (0..count).collect();
        let mut depth = k.saturating_mul(2).max(DEPTH);
        while !open.is_empty() {
            let best = sides.best(&open, depth)?;
            let seen = sides.completed(&open, &best)?;
            let mut deeper = Vec::new();
            for ((&query, seen), best) in open.iter().zip(seen).zip(&best) {
                let sum = |scores: [f32; 2]| weights[0].mul_add(scores[0], weights[1] * scores[1]);
                let mut all: Vec<(f32, u32, Arc<str>)> = Vec::with_capacity(seen.len());
                for Seen { id, row, scores } in seen {
                    // What has no score on one side, as it is NaN, has none.
                    if let [Some(dense), Some(sparse)] = scores {
                        all.push((sum([dense, sparse]), row, id));
                    }
                }
                all.retain(|(score, ..)| !score.is_nan());
                all.sort_by(|a, b| descending(a.0, b.0).then(a.1.cmp(&b.1)));
                // A document that no side has shown is no better than the last of each.
                let unseen = match best {
                    [dense, sparse] if dense.len() == depth && sparse.len() == depth => {
                        Some(sum([dense[depth - 1].score, sparse[depth - 1].score]))
                    }
                    // A side that has shown fewer has shown all.
                    _ => None,
                };
                let is_done =
                    unseen.is_none_or(|bound| all.get(k - 1).is_some_and(|kth| kth.0 > bound));
                if is_done {
                    all.truncate(k);
                    let hit = |(score, _, id)| Hit { id, score };
                    found[query] = all.into_iter().map(hit).collect();
                } else {
                    deeper.push(query);
                }
            }
            open = deeper;
            depth = depth.saturating_mul(DEEPER);
        }
        Ok(found)
    }

    /// The `k` best documents for each query by the fusion of both sides' rankings, dense first, each of its `depth` best. On the sparse side
    /// only documents that score above 0 are ranked.
    ///
    /// # Errors
    /// As [`FlatIndex::search`], [`SparseIndex::search`] and [`Fusion::fuse`]; [`Error::Shape`] if there are not as many queries on both
    /// sides.
    #[allow(clippy::too_many_arguments)]
    pub fn search_fused(
        &self,
        queries: &[f32],
        sparse: Csr<'_>,
        k: usize,
        metric: Metric,
        fusion: &Fusion,
        depth: usize,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        self.check(queries, sparse)?;
        let dense = self.dense.search(queries, depth, metric, filter)?;
        let sparse = self.sparse.search(sparse, depth, Some(f32::MIN_POSITIVE), filter)?;
        fuse(fusion, &[dense, sparse], k)
    }

    /// Checks that there are as many queries on both sides, and gives how many.
    fn check(&self, queries: &[f32], sparse: Csr<'_>) -> Result<usize> {
        let count = sparse.check(self.sparse.dim())?;
        if count.checked_mul(self.dense.dim()) != Some(queries.len()) {
            let expected = format!("{count} queries of dimension {}", self.dense.dim());
            return Err(Error::shape(OP, expected, format!("{} values", queries.len())));
        }
        Ok(count)
    }

    /// Writes the index to one file, which [`FlatIndex::load`] and [`SparseIndex::load`] read too. Removed documents are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; a file that was there stays whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let vectors = self.sparse.to_vectors()?;
        let (mut tensors, mut entries) = self.dense.tensors();
        let words = vectors.csr();
        tensors.extend(sparse::tensors(&words));
        entries.push(sparse::entry(path, self.sparse.dim(), self.sparse.impact())?);
        let ids: Vec<&str> = self.dense.ids().collect();
        store::write_with(path, tensors, &ids, &entries)
    }

    /// Reads an index that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// As [`FlatIndex::load`] and [`SparseIndex::load`].
    pub fn load(path: &Path, device: &Device) -> Result<HybridIndex> {
        let dense = FlatIndex::load(path, device)?;
        let file = File::open(path)?;
        let sparse = SparseIndex::read(&file, device)?;
        if dense.len() != sparse.len() {
            let problem = format!("{} vectors beside {} sparse ones", dense.len(), sparse.len());
            return Err(file.data_fault(problem));
        }
        Ok(HybridIndex { dense, sparse })
    }

    /// The dense side.
    pub fn dense(&self) -> &FlatIndex {
        &self.dense
    }

    /// The sparse side.
    pub fn sparse(&self) -> &SparseIndex {
        &self.sparse
    }

    /// The ids in the order in which their documents were added.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.dense.ids()
    }

    /// Whether a document of this id is there.
    pub fn contains(&self, id: &str) -> bool {
        self.dense.contains(id)
    }

    /// The number of documents.
    pub fn len(&self) -> usize {
        self.dense.len()
    }

    /// Whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.dense.is_empty()
    }

    /// Bytes that both sides hold on the device.
    pub fn memory_bytes(&self) -> usize {
        self.dense.memory_bytes() + self.sparse.memory_bytes()
    }
}

impl std::fmt::Debug for HybridIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HybridIndex of {:?} and {:?}", self.dense, self.sparse)
    }
}

/// A search of both sides.
struct Sides<'a> {
    index: &'a HybridIndex,
    queries: &'a [f32],
    sparse: Csr<'a>,
    metric: Metric,
    filter: Option<&'a dyn Fn(&str) -> bool>,
}

impl Sides<'_> {
    fn dense_of(&self, open: &[usize]) -> Vec<f32> {
        let dim = self.index.dense.dim();
        open.iter().flat_map(|q| &self.queries[q * dim..][..dim]).copied().collect()
    }

    fn sparse_of(&self, open: &[usize]) -> SparseVectors {
        let mut some = SparseVectors::new();
        for &q in open {
            let own = self.sparse.range(q);
            some.push(&self.sparse.terms[own.clone()], self.sparse.weights[own].iter().copied());
        }
        some
    }

    /// The best of some queries on both sides.
    fn best(&self, open: &[usize], depth: usize) -> Result<Vec<[Vec<Hit>; 2]>> {
        let index = self.index;
        let dense = index.dense.search(&self.dense_of(open), depth, self.metric, self.filter)?;
        let sparse = index.sparse.search(self.sparse_of(open).csr(), depth, None, self.filter)?;
        Ok(dense.into_iter().zip(sparse).map(|(dense, sparse)| [dense, sparse]).collect())
    }

    /// What the sides have found, with the scores of each side where the other found it.
    fn completed(&self, open: &[usize], best: &[[Vec<Hit>; 2]]) -> Result<Vec<Vec<Seen>>> {
        let (dense, sparse) = (&self.index.dense, &self.index.sparse);
        let mut all: Vec<HashMap<Arc<str>, [Option<f32>; 2]>> = Vec::with_capacity(open.len());
        for sides in best {
            let mut seen: HashMap<Arc<str>, [Option<f32>; 2]> = HashMap::new();
            for (side, hits) in sides.iter().enumerate() {
                for hit in hits {
                    seen.entry(hit.id.clone()).or_default()[side] = Some(hit.score);
                }
            }
            all.push(seen);
        }
        // The rows whose score a side owes, ascending.
        let owed = |side: usize, row: &dyn Fn(&str) -> Option<u32>| -> Vec<Vec<u32>> {
            let of = |seen: &HashMap<Arc<str>, [Option<f32>; 2]>| {
                let without = seen.iter().filter(|(_, scores)| scores[side].is_none());
                let mut rows: Vec<u32> = without.filter_map(|(id, _)| row(id)).collect();
                rows.sort_unstable();
                rows
            };
            all.iter().map(of).collect()
        };
        let of_dense = owed(0, &|id| dense.ids.row(id));
        let of_sparse = owed(1, &|id| sparse.ids.row(id));
        let search = |owed: &[Vec<u32>], run: &dyn Fn(&Search<'_>) -> Result<Hits>| {
            let most = owed.iter().map(Vec::len).max().unwrap_or(0);
            if most == 0 {
                return Ok(None);
            }
            let sets: Vec<Rows<'_>> = owed.iter().map(|rows| Rows::AllowIds(rows)).collect();
            run(&Search { filter: Filter::PerQuery(&sets), ..Search::new(most) }).map(Some)
        };
        let dense_hits = search(&of_dense, &|search| {
            let queries = self.dense_of(open);
            let shape = [open.len(), dense.dim()];
            let queries = Tensor::from_slice(dense.device(), &shape, &queries)?;
            topk(&queries, &dense.corpus, self.metric, search)
        })?;
        let sparse_hits = search(&of_sparse, &|search| {
            postings::topk(self.sparse_of(open).csr(), &sparse.corpus, search)
        })?;
        for (side, hits) in [&dense_hits, &sparse_hits].into_iter().enumerate() {
            let ids = if side == 0 { &dense.ids } else { &sparse.ids };
            for (seen, (rows, scores)) in
                all.iter_mut().zip(hits.iter().flat_map(|hits| hits.iter()))
            {
                for (&row, &score) in rows.iter().zip(scores) {
                    seen.entry(ids.get(row as usize).clone()).or_default()[side] = Some(score);
                }
            }
        }
        let seen = |(id, scores): (Arc<str>, [Option<f32>; 2])| {
            Some(Seen { row: dense.ids.row(&id)?, id, scores })
        };
        Ok(all.into_iter().map(|all| all.into_iter().filter_map(seen).collect()).collect())
    }
}
