//! What a search found: on the device, and on the host.

use super::Best;
use super::order::{Entry, score};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::DType;
use crate::device::Device;
use crate::ops::length::scaled;
use crate::{Result, Tensor};

/// What a search found: for each query the rows and their scores, best first. A query may have fewer than k. All queries share one
/// allocation of rows and one of scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    bounds: Vec<usize>,
    ids: Vec<u64>,
    scores: Vec<f32>,
}

impl Hits {
    /// No hits for each of `queries` queries.
    pub(crate) fn none(queries: usize) -> Hits {
        Hits { bounds: vec![0; queries + 1], ids: Vec::new(), scores: Vec::new() }
    }

    /// No queries yet.
    pub(crate) fn new() -> Hits {
        Hits::none(0)
    }

    /// Adds a query's entries, in order.
    pub(crate) fn push(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for e in entries {
            self.ids.push(!(e as u32) as u64);
            self.scores.push(score((e >> 32) as u32));
        }
        self.bounds.push(self.ids.len());
    }

    /// Adds the hits of a query of other hits.
    pub(crate) fn push_from(&mut self, other: &Hits, query: usize) {
        let (ids, scores) = other.get(query);
        self.ids.extend_from_slice(ids);
        self.scores.extend_from_slice(scores);
        self.bounds.push(self.ids.len());
    }

    /// Adds the hits of other queries.
    pub(crate) fn extend(&mut self, other: &Hits) {
        (0..other.len()).for_each(|q| self.push_from(other, q));
    }

    /// Multiplies each query's scores by 2 to the power of its exponent.
    pub(crate) fn scale(&mut self, exponents: &[i32]) {
        for (q, &exponent) in exponents.iter().enumerate().filter(|(_, e)| **e != 0) {
            let scores = &mut self.scores[self.bounds[q]..self.bounds[q + 1]];
            scores.iter_mut().for_each(|s| *s = scaled(*s, exponent));
        }
    }

    /// The number of queries.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Whether there were no queries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows found for query `query` and their scores; nothing for a query that was not asked.
    pub fn get(&self, query: usize) -> (&[u64], &[f32]) {
        match self.bounds.get(query..query.saturating_add(2)) {
            Some(&[start, end]) => (&self.ids[start..end], &self.scores[start..end]),
            _ => (&[], &[]),
        }
    }

    /// Rows and scores of each query in turn.
    pub fn iter(&self) -> impl Iterator<Item = (&[u64], &[f32])> {
        (0..self.len()).map(|q| self.get(q))
    }
}

/// The result of a search that was enqueued: it stays on the device until it is asked for.
///
/// Nothing waits for the device but [`to_hits`](Found::to_hits). On the device it takes `8 k` bytes a query.
#[derive(Clone, Debug)]
pub struct Found {
    device: Device,
    /// Groups of queries, in order.
    groups: Vec<Best>,
    queries: usize,
    k: usize,
}

/// What a search found, as tensors on its device. Entries of a query beyond its count are row `u32::MAX` with the score -∞.
#[derive(Clone, Debug)]
pub struct FoundTensors {
    /// Row numbers, best first: \[Q, k\] u32.
    pub rows: Tensor,
    /// Their scores: \[Q, k\] f32.
    pub scores: Tensor,
    /// How many rows each query found: \[Q\] u32.
    pub counts: Tensor,
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl FoundTensors {
    /// No entries: there are no queries, or k is 0.
    pub(super) fn none(device: &Device, [queries, k]: [usize; 2]) -> Result<FoundTensors> {
        Ok(FoundTensors {
            rows: Tensor::zeros(device, DType::U32, &[queries, k])?,
            scores: Tensor::zeros(device, DType::F32, &[queries, k])?,
            counts: Tensor::zeros(device, DType::U32, &[queries])?,
        })
    }
}

impl Found {
    pub(crate) fn new(device: &Device, groups: Vec<Best>, queries: usize, k: usize) -> Found {
        Found { device: device.clone(), groups, queries, k }
    }

    /// The number of queries.
    pub fn len(&self) -> usize {
        self.queries
    }

    /// Whether there were no queries.
    pub fn is_empty(&self) -> bool {
        self.queries == 0
    }

    /// The most rows that a query may have found: the k asked for, or the number of rows where that is less.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Copies the hits to the host, waiting for the device. The copy is `8 k` bytes a query, in one transfer for each group of
    /// queries that was searched together.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn to_hits(&self) -> Result<Hits> {
        if self.k == 0 {
            return Ok(Hits::none(self.queries));
        }
        let mut hits = Hits::new();
        for group in &self.groups {
            match group {
                Best::Host(found) => found.iter().for_each(|q| hits.push(q.iter().copied())),
                Best::Device(entries) => {
                    entries.with_elements(|words| push(&mut hits, words, self.k))?;
                }
            }
        }
        Ok(hits)
    }

    /// As [`to_hits`](Self::to_hits), without blocking a thread. The copy starts with the call.
    pub fn to_hits_async(&self) -> impl Future<Output = Result<Hits>> + Send + use<> {
        let (queries, k) = (self.queries, self.k);
        let reads: Vec<_> = self.groups.iter().map(Best::read).collect();
        async move {
            if k == 0 {
                return Ok(Hits::none(queries));
            }
            let mut hits = Hits::new();
            for read in reads {
                match read {
                    Read::Done(found) => found.into_iter().for_each(|q| hits.push(q)),
                    Read::Started(words) => push(&mut hits, &words.await?, k),
                }
            }
            Ok(hits)
        }
    }

    /// The result as tensors on the search's device. Only enqueues.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn to_tensors(&self) -> Result<FoundTensors> {
        super::tensors(&self.device, &self.groups, [self.queries, self.k])
    }
}

/// A group's entries on their way to the host.
enum Read<F> {
    Done(Vec<Vec<Entry>>),
    Started(F),
}

impl Best {
    /// Starts the copy to the host.
    fn read(&self) -> Read<impl Future<Output = Result<Vec<u32>>> + Send + use<>> {
        match self {
            Best::Host(found) => Read::Done(found.clone()),
            Best::Device(entries) => Read::Started(entries.to_vec_async::<u32>()),
        }
    }
}

/// Adds the queries whose entries \[Q, k\] `words` holds, an entry as two words, the row's complement first; zeros end a query's.
fn push(hits: &mut Hits, words: &[u32], k: usize) {
    for query in words.chunks_exact(2 * k) {
        let entries = query.chunks_exact(2).map(|w| (w[1] as Entry) << 32 | w[0] as Entry);
        hits.push(entries.take_while(|&e| e > 0));
    }
}
