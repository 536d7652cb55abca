//! Exact top-k over sparse vectors by postings: the inner product of a query's and a document's weights of terms.
//!
//! # Formula
//! The score of document d is `Σ_t q_t w_td` over the terms of the query, ascending: one chain of fused multiply-adds in f32, so its bits
//! depend neither on other queries nor on how documents are stored together, and are the same on the CPU and on CUDA. Where a
//! document has no term of the query the score is 0, as that of the dense vectors is, and it may be found: a lowest score
//! ([`Search::least`]) above 0 leaves it out. Ties go to the lower row.
//!
//! # Storage
//! Documents lie in tiles, and a tile has its postings term by term, ascending: of each the document's place in the tile, 2 bytes, and the
//! weight (its *impact*), 4, 2 or 1 bytes ([`Impact`]). Each tile has a table of where a term's run begins, 4 bytes a term. One block of
//! threads owns a tile's sums, in fast memory, and adds the runs of the query's terms to them; within a run every document is
//! another, so that there are no atomics. The sums never leave the block: its list takes the best, as that of every family does
//! ([`select`]).
//!
//! # Devices
//! | | tile | sums |
//! |---|---|---|
//! | CPU | 16384 documents | of a worker, in the second-level cache |
//! | CUDA | 4096 | of a block, in shared memory; the next run's first postings are loaded before the last one's are added |
//! | wgpu | 2048 | of a workgroup |
//!
//! Counted on CUDA, as `tests/cost` asserts: a query of 20 terms in 20 000 documents of up to 40 terms of 500 reads 280,768 bytes of memory in
//! f16, within a tenth of the sectors in which its runs lie; scores are not written.
//!
//! ```
//! use nearkin::ops::sparse::{Csr, Impact, SparseCorpus, topk};
//! use nearkin::ops::topk::Search;
//! use nearkin::Device;
//!
//! let mut corpus = SparseCorpus::new(&Device::cpu(), 1000, Impact::F32)?;
//! // Two documents: terms 3 and 7, and term 7.
//! corpus.append(Csr { offsets: &[0, 2, 3], terms: &[3, 7, 7], weights: &[0.5, 1.0, 2.0] })?;
//! let query = Csr { offsets: &[0, 2], terms: &[3, 7], weights: &[1.0, 0.1] };
//! assert_eq!(topk(query, &corpus, &Search::new(1))?.get(0), (&[0][..], &[0.6][..]));
//! # Ok::<(), nearkin::Error>(())
//! ```

mod corpus;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod keep;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::ops::Range;

pub use self::corpus::{Impact, SparseCorpus};
pub use self::keep::{Keep, sparsify, whole};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use super::select::plan::{Span, Wanted};
use super::select::{self, Best, Found, Hits, Scored, Search};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::Tensor;
use crate::device::{Backend, Device};
use crate::{Error, Result};

const OP: &str = "sparse";

/// Sparse vectors, row by row: row `i` has the entries `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Copy, Debug)]
pub struct Csr<'a> {
    /// \[rows + 1\], the first 0, none less than the one before.
    pub offsets: &'a [i64],
    /// \[entries\], ascending within a row.
    pub terms: &'a [u32],
    /// \[entries\].
    pub weights: &'a [f32],
}

/// [`Csr`] vectors that are owned.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseVectors {
    /// \[rows + 1\].
    pub offsets: Vec<i64>,
    /// \[entries\], ascending within a row.
    pub terms: Vec<u32>,
    /// \[entries\].
    pub weights: Vec<f32>,
}

impl Default for SparseVectors {
    fn default() -> Self {
        SparseVectors { offsets: vec![0], terms: Vec::new(), weights: Vec::new() }
    }
}

impl SparseVectors {
    /// No rows.
    pub fn new() -> SparseVectors {
        SparseVectors::default()
    }

    /// Adds a row of terms, which ascend, and as many weights.
    pub fn push(&mut self, terms: &[u32], weights: impl IntoIterator<Item = f32>) {
        self.terms.extend_from_slice(terms);
        self.weights.extend(weights);
        self.offsets.push(self.terms.len() as i64);
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As operations take them.
    pub fn csr(&self) -> Csr<'_> {
        Csr { offsets: &self.offsets, terms: &self.terms, weights: &self.weights }
    }
}

impl Csr<'_> {
    /// Checks the form, and that terms are below `dim`. Gives the number of rows.
    pub(crate) fn check(&self, dim: usize) -> Result<usize> {
        let (n, got) = (self.terms.len(), self.offsets.last().copied());
        let shape = |expected: String, got: String| Err(Error::shape(OP, expected, got));
        if self.weights.len() != n {
            return shape(
                format!("a weight for each of {n} terms"),
                self.weights.len().to_string(),
            );
        }
        if self.offsets.first() != Some(&0) || got != i64::try_from(n).ok() {
            let ends = format!("{:?} to {got:?}", self.offsets.first());
            return shape(format!("offsets from 0 to {n}"), ends);
        }
        if let Some(i) = self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            let pair = format!("{} after {}", self.offsets[i + 1], self.offsets[i]);
            return shape("offsets that do not decrease".into(), pair);
        }
        for row in 0..self.offsets.len() - 1 {
            let terms = &self.terms[self.range(row)];
            if let Some(pair) = terms.windows(2).find(|pair| pair[0] >= pair[1]) {
                let got = format!("{} after {} in row {row}", pair[1], pair[0]);
                return Err(Error::argument("terms", "ascending terms, each once", got));
            }
            if let Some(&term) = terms.last().filter(|term| **term as usize >= dim) {
                let got = format!("{term} in row {row}");
                return Err(Error::argument("terms", format!("terms below {dim}"), got));
            }
        }
        Ok(self.offsets.len() - 1)
    }

    /// The entries of a row, after [`check`](Self::check).
    pub(crate) fn range(&self, row: usize) -> Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    queries: Csr<'a>,
    count: usize,
    corpus: &'a SparseCorpus,
    search: &'a Search<'a>,
    /// The key that must be exceeded.
    floor: u32,
}

/// The best documents of a corpus for each query, exactly: score descending, equal scores by ascending row number. A query with a
/// NaN finds nothing; infinite weights are ordinary. Any `k` works.
///
/// The call waits for the device, because it returns host data: see [`topk_on_device`]. Queries go to the device, 8 bytes an entry; the
/// workspace is what [`select`] says, and on the CPU a tile's sums for each thread.
///
/// # Errors
/// [`Error::Argument`] if `k` is 0, a filter does not fit the corpus, `least` is NaN, or a query's terms do not ascend or are not below
/// the corpus's dimension; [`Error::Shape`] if the queries' arrays do not fit each other; [`Error::OutOfMemory`].
pub fn topk(queries: Csr<'_>, corpus: &SparseCorpus, search: &Search<'_>) -> Result<Hits> {
    with(queries, corpus, search, |args| select::hits(&args))
}

/// As [`topk`], but only enqueues: the result stays on the device, as \[Q, min(k, N)\] entries.
///
/// # Errors
/// As [`topk`].
pub fn topk_on_device(
    queries: Csr<'_>,
    corpus: &SparseCorpus,
    search: &Search<'_>,
) -> Result<Found> {
    with(queries, corpus, search, |args| select::enqueue(&args))
}

fn with<R>(
    queries: Csr<'_>,
    corpus: &SparseCorpus,
    search: &Search<'_>,
    run: impl FnOnce(Args<'_>) -> Result<R>,
) -> Result<R> {
    let count = queries.check(corpus.dim())?;
    let floor = search.check(OP, corpus.device(), [count, corpus.len()])?;
    run(Args { queries, count, corpus, search, floor })
}

/// Some of the queries on a GPU, as words: for each where its entries begin and end, and what its sums are multiplied by, NaN for one
/// with a NaN; then, from an even word on, the entries, a term and a weight each, counted in pairs of words from the first.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn asked(args: &Args<'_>, queries: &Range<usize>) -> Result<Tensor> {
    let Csr { offsets, terms, weights } = args.queries;
    let entries = offsets[queries.start] as usize..offsets[queries.end] as usize;
    let head = (3 * queries.len()).next_multiple_of(2);
    let mut words = Vec::with_capacity(head + 2 * entries.len());
    for q in queries.clone() {
        let own = args.queries.range(q);
        let scale = match weights[own.clone()].iter().any(|weight| weight.is_nan()) {
            true => f32::NAN,
            false => args.corpus.impact().scale(),
        };
        let place = |at: usize| (head / 2 + at - entries.start) as u32;
        words.extend([place(own.start), place(own.end), scale.to_bits()]);
    }
    words.resize(head, 0);
    for (term, weight) in terms[entries.clone()].iter().zip(&weights[entries]) {
        words.extend([*term, weight.to_bits()]);
    }
    Tensor::from_slice(args.corpus.device(), &[words.len()], &words)
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl<'a> Args<'a> {
    fn wanted(&self, queries: &Range<usize>, k: usize) -> Wanted<'a> {
        Wanted {
            queries: queries.len(),
            k,
            floor: self.floor,
            filter: self.search.filter.of(queries.clone()),
            bias: self.search.bias,
        }
    }

    fn spans(&self) -> Vec<Span> {
        let chunks = self.corpus.chunks().iter();
        chunks.map(|c| Span { rows: c.start..c.start + c.len, bytes: c.bytes() }).collect()
    }
}

impl Scored for Args<'_> {
    fn device(&self) -> &Device {
        self.corpus.device()
    }

    fn queries(&self) -> usize {
        self.count
    }

    fn rows(&self) -> usize {
        self.corpus.len()
    }

    fn search(&self) -> &Search<'_> {
        self.search
    }

    fn group(&self, k: usize) -> usize {
        match self.device().backend() {
            Backend::Cpu(_) => select::cpu::group(k),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => cuda::group(k),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => wgpu::group(gpu, self, k),
        }
    }

    fn best(&self, queries: Range<usize>, k: usize) -> Result<Best> {
        match self.device().backend() {
            Backend::Cpu(_) => Ok(cpu::best(self, queries, k)),
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => cuda::best(gpu, self, queries, k),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => wgpu::best(gpu, self, queries, k),
        }
    }

    fn count(&self, queries: Range<usize>) -> Result<Vec<u32>> {
        match self.device().backend() {
            // Candidates grow as they are found.
            Backend::Cpu(_) => Ok(vec![self.corpus.len() as u32; queries.len()]),
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => cuda::count(gpu, self, queries),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => wgpu::count(gpu, self, queries),
        }
    }
}
