//! Exact top-k similarity search: scores fused with selection, so that no matrix of all scores ever exists.
//!
//! Counted on CUDA, as `tests/cost` asserts (memory, of one pass over the corpus): one query, 20 000 x 128 in f32, k 10:
//! 10,329,152 bytes, 1.001; one query, 40 000 x 384 in bf16, k 100: 30,953,920 bytes, 1.002; 32 queries, 10 000 x 128 in f32,
//! k 10: 5,342,912 bytes, 1.035; 40 queries, 10 000 x 384 in bf16, k 10: 7,988,320 bytes, 1.035, and 3,153,637 warp
//! instructions on tensor cores, where the same in f16 takes 15,740,653 of fused multiply-adds; one query, 40 000 x 384 in
//! int8, k 10: 15,535,424 bytes, 1.001; 40 queries, 20 000 x 384 in int8, k 10: 8,117,920 bytes, 1.046; on Hopper 100 queries, 50 000 x 64
//! in f32, k 10, distances: 13,410,048 bytes, 1.048, and 214,608 warp instructions to form what may be found. With every other tile
//! excluded, half as much. Scores are formed without bank conflicts.
//!
//! On two cores of an Intel Xeon (AVX-512 with VNNI), 100 000 x 384 unit vectors, k 10, median, beside the fastest of torch 2.15,
//! NumKong 7.8, usearch 2.26 and faiss 1.15 in the same run (`benches/results/intel-xeon-processor/2026-11-30-topk.md`):
//!
//! | queries | f32 | f16 | bf16 | int8 |
//! |---:|---:|---:|---:|---:|
//! | 1 | 3.63 ms (6.33 ms) | 1.73 ms (5.86 ms) | 1.74 ms (3.73 ms) | 879 µs (1.95 ms) |
//! | 4 | 4.20 ms (14.7 ms) | 2.31 ms (9.88 ms) | 2.20 ms (9.34 ms) | 981 µs (3.23 ms) |
//! | 64 | 22.8 ms (31.8 ms) | 23.2 ms (33.9 ms) | 22.4 ms (50.1 ms) | 12.0 ms (42.0 ms) |
//!
//! # int8
//! A corpus of [`Storage::Int8`] keeps a row as signed bytes and one f32 scale: the largest magnitude over 127, each byte the
//! nearest to `127 x / largest`, halves away from zero. Queries become bytes the same way, on their device, and a score is
//! `(sum of products of bytes) s_q s_x`, a cosine that of the bytes. Sums are exact integers, by VNNI, dp4a, tensor cores or
//! `dot4I8Packed`, so hits have the same bits on every device where a sum is below 2^24 (all are up to 1040 dimensions), except
//! that a device may contract the addition of a bias. D is at most 2^17. Distances are not formed: their expansion cancels, and
//! differences have no common scale. A vector with a value that is not finite is not found.
//!
//! # Any length
//! Every search of vectors, here and in [`hamming`](super::hamming) and [`maxsim`](super::maxsim), keeps one rule on every
//! device, whatever the storage. Vectors are finite f32 numbers of any magnitude, subnormal numbers included.
//! - A cosine is that of the directions, however short or long the vectors are; only a vector of zeros has none, and
//!   scores 0. So does fused cosine in [`Tokens::normalized`](super::maxsim::Tokens::normalized).
//! - A dot product has the same error relative to |q| |x| as one of vectors of length 1: no partial sum overflows. A result
//!   beyond the range of f32 is infinite, with its sign; one below 2^-126 may be 0. The same holds for the sums of
//!   [`Queries::Floats`](super::hamming::Queries::Floats).
//! - A squared distance is summed in f32 from differences in f32: -∞ if it is beyond the range, and 0 instead of a value below
//!   2^-126 where a device has no subnormal numbers. It is never NaN.
//! - Infinite scores rank as numbers do, equal ones by ascending row number. A vector with an infinity has no cosine, and its
//!   other scores are infinite or NaN. A NaN is never found.
//! - In int8 the largest magnitude over 127 is an f32: that of a vector below 2^-119 has fewer bits, and dot products with it are 0
//!   where a device has no subnormal numbers. Cosines do not depend on it.
//!
//! Vectors whose largest magnitude is within 2^-30 and 2^31 are compared as they are. Others are scaled by a power of two, on
//! their device. A chunk of a [`Corpus`] with such a row keeps a second copy of its rows, scaled, and 4 bytes a row.

mod corpus;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "cuda")]
pub(crate) mod hopper;
mod prepare;
#[cfg(feature = "cuda")]
pub(crate) mod rough;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::ops::Range;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use self::corpus::Chunk;
pub use self::corpus::Corpus;
use super::length::PLAIN;
use super::norm::l2_normalize;
use super::rows;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use super::select::plan::{Span, Wanted};
use super::select::{self, Best, Scored};
pub use super::select::{Bitmap, Filter, Found, FoundTensors, Hits, Rows, Search};
pub use super::storage::Storage;
use super::{check_device, check_float, matrix};
use crate::device::{Backend, Device};
use crate::{Error, Result, Tensor};

/// How alike a query `q` and a corpus row `x` are; larger is always better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// `q · x`; infinite if it is beyond the range of f32.
    Dot,
    /// `q · x / (|q| |x|)`, however short or long they are; 0 where either is zero.
    Cosine,
    /// The negated squared Euclidean distance, `-|q - x|^2`, so that the nearest row has the largest score.
    ///
    /// It is summed from the differences rather than expanded to `|q|^2 - 2 q · x + |x|^2`, which cancels far from the origin. The
    /// price is one subtraction a term, which a search bound by memory does not feel. Equal vectors score exactly 0, vectors whose
    /// squared distance is beyond the range of f32 -∞.
    L2,
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    /// \[count, D\] on the corpus's device.
    queries: &'a Tensor,
    count: usize,
    corpus: &'a Corpus,
    metric: Metric,
    search: &'a Search<'a>,
    /// The key that must be exceeded.
    floor: u32,
}

/// The best rows of `corpus` \[N, D\] for each of the `queries` \[Q, D\] (f32, f16 or bf16, on the corpus's device; a corpus in
/// [int8](self#int8) has them made bytes), exactly: score
/// descending, equal scores (0 and -0 are equal) by ascending row number.
///
/// A score is an f32 whatever the storage. Its bits depend neither on the other queries nor on how the corpus is chunked. A score
/// that is NaN never enters, so a query with a NaN finds nothing; infinite scores are ordinary. A query finds fewer than `k` rows only
/// where fewer remain.
///
/// On CUDA, dot products and cosines of dimensions that 8 divides are formed by tensor cores where that rounds nothing (a
/// bf16 corpus, whose queries enter as three bf16 that sum to them; f16 queries and corpus; int8 of dimensions that four words
/// hold) or as little as
/// [`MatmulPrecision`](crate::MatmulPrecision) allows; all else is f32 by fused multiply-adds. A product that is infinite
/// counts as in f32 either way. On Hopper, of 17 queries and more in a corpus of 8192 rows and more, tensor cores form a bound of
/// every score, distances too, and only scores of rows that may be found are formed by multiply-adds: the hits and their bits are
/// the same.
///
/// The call waits for the device, because it returns host data: see [`topk_on_device`]. Queries stay on theirs. Beyond queries and
/// hits the workspace is
/// - the queries as f32, divided by their powers of two, `4 D + 4` bytes each; on CUDA also as tensor cores take them, up to `6 D`,
///   and on Hopper up to 256 MiB of survivors;
/// - what [`select`] says;
/// - on the CPU, for each thread, 24 KiB of a corpus in f16 or bf16 as f32, or four rows if that is more.
///
/// # Errors
/// [`Error::Argument`] if `k` is 0, a filter does not fit the corpus or `least` is NaN; [`Error::Shape`] if the queries
/// are not \[Q, D\] floats, or the bias not \[N\] f32, on the corpus's device; [`Error::Argument`] for distances in int8;
/// [`Error::OutOfMemory`] if the workspace does not fit.
pub fn topk(
    queries: &Tensor,
    corpus: &Corpus,
    metric: Metric,
    search: &Search<'_>,
) -> Result<Hits> {
    with(queries, corpus, metric, search, |args| select::hits(&args))
}

/// As [`topk`], but only enqueues: the result stays on the device, as \[Q, min(k, N)\] entries.
///
/// # Errors
/// As [`topk`].
pub fn topk_on_device(
    queries: &Tensor,
    corpus: &Corpus,
    metric: Metric,
    search: &Search<'_>,
) -> Result<Found> {
    with(queries, corpus, metric, search, |args| select::enqueue(&args))
}

/// Vectors \[n, D\] whose dot products are a metric's scores: themselves, or for cosines their directions, however long they are.
///
/// # Errors
/// [`Error::Argument`] for distances.
pub(crate) fn as_dots(metric: Metric, vectors: &Tensor) -> Result<Tensor> {
    match metric {
        Metric::Dot => Ok(vectors.clone()),
        Metric::Cosine => {
            let rows = 0..vectors.shape()[0];
            l2_normalize(&rows::reduced(vectors, rows, rows::Kind::Power, &PLAIN)?.data, 1e-12)
        }
        Metric::L2 => Err(Error::argument("metric", "dot or cosine", "l2")),
    }
}

/// Checks the inputs and prepares the queries.
fn with<R>(
    queries: &Tensor,
    corpus: &Corpus,
    metric: Metric,
    search: &Search<'_>,
    run: impl FnOnce(Args<'_>) -> Result<R>,
) -> Result<R> {
    let (count, dim) = matrix("topk", "queries", queries)?;
    check_float("topk", "queries", queries)?;
    if dim != corpus.dim() {
        let expected = format!("queries of dimension {}", corpus.dim());
        return Err(Error::shape("topk", expected, format!("{dim}")));
    }
    check_device("topk", "queries", corpus.device(), queries.device())?;
    if corpus.storage() == Storage::Int8 && metric == Metric::L2 {
        return Err(Error::argument("metric", "dot or cosine in int8", "l2"));
    }
    let floor = search.check("topk", corpus.device(), [count, corpus.len()])?;
    run(Args { queries, count, corpus, metric, search, floor })
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
        let span = |c: &Chunk| Span { rows: c.start..c.start + c.len(), bytes: c.rows.bytes() };
        self.corpus.parts().iter().map(span).collect()
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
            Backend::Cuda(gpu) => cuda::group(gpu, self, k),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => wgpu::group(gpu, self, k),
        }
    }

    fn best(&self, queries: Range<usize>, k: usize) -> Result<Best> {
        match self.device().backend() {
            Backend::Cpu(_) => cpu::best(self, queries, k),
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
