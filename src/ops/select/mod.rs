//! Selection: the best rows of a corpus for each query, whatever forms the scores.
//!
//! [`topk`](super::topk), [`hamming`](super::hamming) and [`maxsim`](super::maxsim) share this engine. A family gives it a *scan*: a
//! kernel that scores the rows of a chunk and either keeps the best of each split in sorted lists or stores ordered keys. The
//! engine owns the order, the filters, the lists, their merging and the results.
//!
//! # Order
//! Score descending, then row ascending. It is total, so that neither splits, chunks, threads nor the order of atomic operations
//! change a result. 0 and -0 are equal. A score that is NaN is never found.
//!
//! # Any k
//! Up to k = 256 a block keeps its lists in fast memory, and a merge joins them. Beyond, scans store keys slab by slab; what exceeds
//! the k-th so far is appended to candidates on the device, which are sorted there. No key visits the host. Each slab is four times as
//! long as all before, as far as memory allows, so that few rows of a slab exceed the k-th.
//!
//! On Hopper, up to k = 256, [`topk`](super::topk) of more than 16 queries keeps no lists: a sample of the rows bounds each query's k-th score from below, the
//! scan stores what exceeds the bound, and the best of that are picked.
//!
//! # Workspace
//! For each search, beyond queries and hits:
//! - CPU: `8 (k + max(k, 64))` bytes of candidates for each thread and query, at most 32 MiB a thread;
//! - CUDA, up to k = 256: `8 k` bytes for each query and split of the corpus, at most 64 MiB; where a sample bounds scores, also 36 bytes
//!   for each eight scores that may be stored and 4 a maximum, at most 256 MiB each;
//! - wgpu, up to k = 256: `16 k + 4` bytes for each query and split, at most 64 MiB or one binding;
//! - both beyond: at most 64 MiB of candidates (8 bytes each) and 32 MiB of keys, or twice `8 k` bytes for one query where that is
//!   more;
//! - filters: 1 bit a row and set, of one chunk at a time; of a [`Bitmap`] for all queries of all chunks, kept on the device while the
//!   bitmap is not changed.
//!
//! Queries that do not fit go in groups, each of which reads the corpus again.

mod bitmap;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) mod candidates;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod filter;
mod hits;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod kept;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) mod masks;
pub(crate) mod order;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) mod plan;
pub(crate) mod scores;
#[cfg(feature = "cuda")]
pub(crate) mod sift;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::ops::Range;

pub use bitmap::Bitmap;
pub use filter::{Filter, Rows};
pub use hits::{Found, FoundTensors, Hits};
pub(crate) use order::{Entry, Selector, entry, key};

use super::{check, check_device};
use crate::device::{Backend, Device};
use crate::{DType, Error, Result, Tensor};

/// The largest k whose lists kernels keep: merging costs k for each query.
pub(crate) const FUSED_K: usize = 256;
/// Bytes of entries that a blocking search reads back at a time.
const RESULTS: usize = 64 << 20;

/// The best entries of some queries.
#[derive(Clone, Debug)]
pub(crate) enum Best {
    /// For each query its entries, in order.
    Host(Vec<Vec<Entry>>),
    /// \[Q, 2 k\] u32: an entry is two words, the row's complement first; zeros follow a query's last.
    #[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
    Device(Tensor),
}

/// What to find for each query.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// How many rows at most; `usize::MAX` for all.
    pub k: usize,
    /// The lowest score that is found. With `k: usize::MAX` the search is one of a radius: a GPU then counts such rows before
    /// it selects them.
    pub least: Option<f32>,
    /// Added to the score of each row: \[N\] f32 on the corpus's device.
    pub bias: Option<&'a Tensor>,
    /// The rows that take part.
    pub filter: Filter<'a>,
}

impl<'a> Search<'a> {
    /// The `k` best of all rows.
    pub fn new(k: usize) -> Search<'a> {
        Search { k, least: None, bias: None, filter: Filter::All }
    }

    /// All rows that score at least `least`.
    pub fn within(least: f32) -> Search<'a> {
        Search { least: Some(least), ..Search::new(usize::MAX) }
    }

    /// Checks it against the numbers of queries and rows, and gives the key that must be exceeded.
    pub(crate) fn check(
        &self,
        op: &'static str,
        device: &Device,
        [queries, rows]: [usize; 2],
    ) -> Result<u32> {
        if self.k == 0 {
            return Err(Error::argument("k", "at least 1", "0"));
        }
        if let Some(bias) = self.bias {
            check(op, "bias", bias, DType::F32, &[rows])?;
            check_device(op, "bias", device, bias.device())?;
        }
        self.filter.check(queries, rows)?;
        match self.least {
            None => Ok(0),
            Some(least) if least.is_nan() => {
                Err(Error::argument("least", "a number", least.to_string()))
            }
            // No score has the key before that of 0, which stands for -0: kernels compare scores too, and 0 does not exceed it.
            Some(0.0) => Ok(key(0.0) - 2),
            Some(least) => Ok(key(least) - 1),
        }
    }
}

/// A family's search after the checks.
pub(crate) trait Scored {
    /// The device.
    fn device(&self) -> &Device;

    /// The number of queries.
    fn queries(&self) -> usize;

    /// The number of rows.
    fn rows(&self) -> usize;

    /// What was asked for.
    fn search(&self) -> &Search<'_>;

    /// How many queries are searched together for `k` rows each; at least 1.
    fn group(&self, k: usize) -> usize;

    /// The `k` best rows for some queries. Only enqueues on GPUs.
    fn best(&self, queries: Range<usize>, k: usize) -> Result<Best>;

    /// For some queries, how many rows score at least [`Search::least`], or more. Waits for the device.
    fn count(&self, queries: Range<usize>) -> Result<Vec<u32>>;
}

/// Enqueues a search.
pub(crate) fn enqueue(scored: &impl Scored) -> Result<Found> {
    groups(scored, 0..scored.queries(), scored.search().k)
}

fn groups(scored: &impl Scored, queries: Range<usize>, k: usize) -> Result<Found> {
    let k = k.min(scored.rows());
    let mut groups = Vec::new();
    if k > 0 && !queries.is_empty() {
        let step = scored.group(k);
        for start in queries.clone().step_by(step) {
            groups.push(scored.best(start..queries.end.min(start.saturating_add(step)), k)?);
        }
    }
    Ok(Found::new(scored.device(), groups, queries.len(), k))
}

/// Searches and waits for the hits.
pub(crate) fn hits(scored: &impl Scored) -> Result<Hits> {
    let Search { k, least, .. } = *scored.search();
    let (queries, k) = (scored.queries(), k.min(scored.rows()));
    if least.is_none() || k <= FUSED_K {
        return first(scored, 0..queries, k);
    }
    // Most queries have few such rows.
    let mut hits = Hits::new();
    let few = first(scored, 0..queries, FUSED_K)?;
    let is_full = |q: usize| few.get(q).0.len() == FUSED_K;
    let mut query = 0;
    while query < queries {
        if !is_full(query) {
            hits.push_from(&few, query);
            query += 1;
            continue;
        }
        let full =
            (query..queries).take_while(|&q| is_full(q)).take(scored.group(FUSED_K + 1)).count();
        let counts = scored.count(query..query + full)?;
        let most = |counts: &[u32]| counts.iter().fold(1, |k, &n| k.max(n as usize)).min(k);
        let mut rest = &counts[..];
        while !rest.is_empty() {
            // As many queries as fit together at the greatest count among them.
            let fits = |n: &usize| *n == 1 || *n <= scored.group(most(&rest[..*n]));
            let n = (1..=rest.len()).take_while(fits).count();
            let some = first(scored, query..query + n, most(&rest[..n]))?;
            hits.extend(&some);
            query += n;
            rest = &rest[n..];
        }
    }
    Ok(hits)
}

/// The `k` best of some queries, as many at a time as are read back together.
fn first(scored: &impl Scored, queries: Range<usize>, k: usize) -> Result<Hits> {
    let step = (RESULTS / size_of::<Entry>() / k.max(1)).max(1);
    let mut hits = Hits::new();
    for start in queries.clone().step_by(step) {
        hits.extend(&groups(scored, start..queries.end.min(start + step), k)?.to_hits()?);
    }
    Ok(hits)
}

/// The entries of groups of queries as rows, scores and counts.
fn tensors(device: &Device, groups: &[Best], [queries, k]: [usize; 2]) -> Result<FoundTensors> {
    match device.backend() {
        Backend::Cpu(_) => host_tensors(device, groups, [queries, k]),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::split(gpu, device, groups, [queries, k]),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::split(gpu, device, groups, [queries, k]),
    }
}

/// The entries of groups of queries on the CPU as rows, scores and counts.
fn host_tensors(
    device: &Device,
    groups: &[Best],
    [queries, k]: [usize; 2],
) -> Result<FoundTensors> {
    let (mut rows, mut scores) =
        (vec![u32::MAX; queries * k], vec![f32::NEG_INFINITY; queries * k]);
    let mut counts = vec![0u32; queries];
    let found = groups.iter().flat_map(|group| match group {
        Best::Host(found) => &found[..],
        Best::Device(_) => unreachable!("the CPU's entries are on the host"),
    });
    for (q, entries) in found.enumerate() {
        counts[q] = entries.len() as u32;
        for (i, &entry) in entries.iter().enumerate() {
            rows[q * k + i] = !(entry as u32);
            scores[q * k + i] = order::score((entry >> 32) as u32);
        }
    }
    Ok(FoundTensors {
        rows: Tensor::from_slice(device, &[queries, k], &rows)?,
        scores: Tensor::from_slice(device, &[queries, k], &scores)?,
        counts: Tensor::from_slice(device, &[queries], &counts)?,
    })
}
