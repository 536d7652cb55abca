//! Binary codes: vectors hashed to bits, and exact search over the bits.
//!
//! # Formula
//! A code has `B` bits, a multiple of 32, in `B / 32` words: bit `i` is bit `i % 32`, counted from the lowest, of word `i / 32`.
//! - [`encode`]: bit `i = [p_i · x > t_i]` for a projection `p` \[B, D\] and thresholds `t` \[B\]; without a projection `x_i > t_i`.
//!   0 against a threshold of 0 gives 0, and so does NaN. A [`Hasher`] has the numbers: signs about a mean, random hyperplanes
//!   (Charikar, STOC 2002), ITQ (Gong and Lazebnik, CVPR 2011), or the caller's own, as RREH's hash functions are.
//! - [`topk`] with [`Queries::Codes`]: the score is `-popcount(q ^ x)`, the negated Hamming distance.
//! - [`topk`] with [`Queries::Floats`] or [`Queries::Int8`]: the score is `sum_i q_i s_i`, `s_i` 1 where bit `i` of the row is
//!   set, else -1. Queries may be of [any length](super::topk#any-length).
//! - [`radius`]: every row within a Hamming distance.
//!
//! # Devices
//! | | CPU | wgpu | CUDA |
//! |---|---|---|---|
//! | `encode` | 32 bits of two rows in registers, vectorised | a thread 8 rows of a bit, packed by atomics in workgroup memory | a lane 16 rows of a bit, packed by `vote.ballot` |
//! | codes, up to 4 queries | rows 32 side by side, bits counted by AVX-512's VPOPCNTDQ (one query: along the rows as they lie), AVX2's byte shuffle or vectorised popcounts | `countOneBits` | `popc`, as rows come from memory |
//! | codes, more | the same | the same, 32 queries a tile | `mma.sync` m16n8k256 b1, `xor.popc`; on Hopper, which lacks it, `and.popc`, from 17 queries on of `wgmma` |
//! | floats, int8 | signs flipped, rows 32 side by side | `fma` with ±1 | `fma` with ±1 |
//!
//! Nowhere is there a float matrix \[N, B\] or a matrix of distances. Scores of codes and of int8 queries are integers, exact
//! in f32 (`B <= 2^17`), and the same on every device; those of floats are one chain of additions in the order of the bits.
//!
//! # Memory
//! A corpus holds `N B / 8` bytes on its device. A search adds what [`select`] says, for queries other than codes these as
//! f32, `4 B + 4` bytes each, and on the CPU 32 rows for each thread.
//!
//! # Counted
//! On CUDA, as `tests/cost` asserts (read from memory, of the codes' bytes): 1 query, 40 000 codes
//! of 1024 bits 5,120,128 bytes, 1.000; 4 queries, 60 000 of 256 bits 1.000; 32 queries, 60 000 of
//! 1024 bits 1.001; k 100, 20 queries 1.001; on Hopper 100 queries, 50 000 of 1024 bits, 6,810,144 bytes, 1.064. Hashing 2000 vectors of 384 to 128 bits 3,301,120
//! bytes, 1.000. No distances are written; distances are formed without bank conflicts.
//!
//! # Measured
//! On two cores of an Intel Xeon (AVX-512 with VPOPCNTDQ), 1 000 000 random codes, median, beside faiss-cpu 1.15.1's
//! `IndexBinaryFlat` in the same run (`benches/results/intel-xeon-processor/2026-11-30-hamming.md`):
//!
//! | bits | queries | k | time | faiss |
//! |---:|---:|---:|---:|---:|
//! | 1024 | 1 | 10 | 5.23 ms | 21.1 ms |
//! | 1024 | 16 | 10 | 20.8 ms | 94.2 ms |
//! | 1024 | 16 | 100 | 18.8 ms | 91.2 ms |
//! | 1024 | 256 | 10 | 168 ms | 1.42 s |
//! | 256 | 16 | 10 | 5.19 ms | 16.9 ms |
//! | 256 | 256 | 100 | 54.6 ms | 256 ms |
//!
//! On an NVIDIA H100, by CUDA events, beside PyTorch 2.11's product of f16 signs and `topk`: 1 000 000 codes of 1024 bits, k 10: one query
//! 148 µs (853 µs), 256 1.57 ms (2.85 ms), 4096 14.0 ms (43.7 ms); 256 bits, 1024 queries, k 100: 9.19 ms (8.48 ms). That was with
//! `xor.popc`, a subroutine there.
//!
//! Float queries on the same Xeon, 4 by 100 000 codes of 1024 bits: 13.6 ms. Hashing 10 000 vectors of 384 dimensions to 384
//! bits: 56.6 ms.
//!
//! # Limits
//! Rows of a corpus are fewer than 2^32 - 1; on wgpu a code must fit a binding.

mod corpus;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod distances;
mod hasher;
#[cfg(feature = "cuda")]
pub(crate) mod hopper;
mod itq;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

pub use corpus::BinaryCorpus;
pub use hasher::Hasher;
pub use itq::Itq;

use std::ops::Range;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use self::corpus::Chunk;
use super::rows::{self, Kind, Reduced};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use super::select::plan::{Span, Wanted};
use super::select::{self, Best, Filter, Found, Hits, Scored, Search};
use super::{check_device, check_float, length, matrix};
use crate::device::{Backend, Device};
use crate::{DType, Error, Result, Tensor};

/// The most bits of a code: so many that sums of int8 are exact in f32.
pub const MAX_BITS: usize = 1 << 17;

/// Checks a number of bits.
pub(crate) fn check_bits(bits: usize) -> Result<()> {
    if bits == 0 || !bits.is_multiple_of(32) || bits > MAX_BITS {
        let expected = format!("a multiple of 32 from 32 to {MAX_BITS}");
        return Err(Error::argument("bits", expected, bits.to_string()));
    }
    Ok(())
}

/// The codes of `x` \[N, D\] (f32, f16 or bf16, on the hasher's device): \[N, B / 32\] u32. Products are f32, one chain of
/// multiply-adds over the dimensions.
///
/// # Errors
/// [`Error::Shape`] if `x` is not a matrix of floats of the hasher's dimension on its device; [`Error::Unsupported`] if a row
/// of `x` or 32 rows of the projection exceed the device's bindings; [`Error::OutOfMemory`].
pub fn encode(x: &Tensor, hasher: &Hasher) -> Result<Tensor> {
    let (rows, dim) = matrix("encode", "x", x)?;
    check_float("encode", "x", x)?;
    if dim != hasher.dim() {
        let expected = format!("x of dimension {}", hasher.dim());
        return Err(Error::shape("encode", expected, dim.to_string()));
    }
    super::check_devices("encode", &[x, hasher.thresholds()])?;
    if rows == 0 {
        return Tensor::zeros(x.device(), DType::U32, &[0, hasher.bits() / 32]);
    }
    match x.device().backend() {
        Backend::Cpu(_) => cpu::encode(x, hasher),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::encode(gpu, x, hasher),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::encode(gpu, x, hasher),
    }
}

/// What is searched for, on the corpus's device.
#[derive(Clone, Copy, Debug)]
pub enum Queries<'a> {
    /// Codes \[Q, B / 32\] u32: rows by ascending Hamming distance; scores are its negative.
    Codes(&'a Tensor),
    /// Vectors \[Q, B\] of f32, f16 or bf16: rows by `sum_i q_i s_i`.
    Floats(&'a Tensor),
    /// Signed bytes \[Q, B / 4\] u32, four a word, the first lowest: rows by `sum_i q_i s_i`.
    Int8(&'a Tensor),
}

/// Queries after the checks, as kernels take them, on the corpus's device.
enum Asked {
    /// Words \[Q, B / 32\] u32.
    Codes(Tensor),
    /// Values \[Q, B\] f32, and what each query's sums are multiplied by, NaN for a query with a NaN.
    Floats(Reduced),
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    queries: Asked,
    count: usize,
    corpus: &'a BinaryCorpus,
    search: &'a Search<'a>,
    /// The key that must be exceeded.
    floor: u32,
}

impl Args<'_> {
    /// The values of some queries, words or floats, and of floats what sums are multiplied by.
    fn asked(&self, queries: Range<usize>) -> Result<(Tensor, Option<Tensor>)> {
        match &self.queries {
            Asked::Codes(codes) => Ok((rows::part(codes, queries)?, None)),
            Asked::Floats(Reduced { data, scale }) => {
                let all = scale.reshape(&[scale.len(), 1])?;
                Ok((rows::part(data, queries.clone())?, Some(rows::part(&all, queries)?)))
            }
        }
    }

    /// Values of a query.
    #[cfg(feature = "wgpu")]
    fn width(&self) -> usize {
        match self.queries {
            Asked::Codes(_) => self.corpus.words(),
            Asked::Floats(_) => self.corpus.bits(),
        }
    }
}

/// The best rows of a corpus for each query, exactly: score descending, equal scores by ascending row number. A float query
/// with a NaN finds nothing. Any `k` works; a query finds fewer rows only where fewer remain.
///
/// The call waits for the device, because it returns host data: see [`topk_on_device`].
///
/// # Errors
/// [`Error::Argument`] if `k` is 0, a filter does not fit the corpus or `least` is NaN; [`Error::Shape`] if the queries or the bias
/// do not fit the corpus or are on another device; [`Error::OutOfMemory`].
pub fn topk(queries: Queries<'_>, corpus: &BinaryCorpus, search: &Search<'_>) -> Result<Hits> {
    with(queries, corpus, search, |args| select::hits(&args))
}

/// As [`topk`], but only enqueues: the result stays on the device, as \[Q, min(k, N)\] entries.
///
/// # Errors
/// As [`topk`].
pub fn topk_on_device(
    queries: Queries<'_>,
    corpus: &BinaryCorpus,
    search: &Search<'_>,
) -> Result<Found> {
    with(queries, corpus, search, |args| select::enqueue(&args))
}

/// Checks the inputs and prepares the queries.
fn with<R>(
    queries: Queries<'_>,
    corpus: &BinaryCorpus,
    search: &Search<'_>,
    run: impl FnOnce(Args<'_>) -> Result<R>,
) -> Result<R> {
    let (tensor, width) = match queries {
        Queries::Codes(t) => (t, corpus.words()),
        Queries::Floats(t) => (t, corpus.bits()),
        Queries::Int8(t) => (t, corpus.bits() / 4),
    };
    let (count, dim) = matrix("hamming", "queries", tensor)?;
    match queries {
        Queries::Floats(t) => check_float("hamming", "queries", t)?,
        _ => super::check("hamming", "queries", tensor, DType::U32, &[count, width])?,
    }
    if dim != width {
        let expected = format!("queries of {width} values for codes of {} bits", corpus.bits());
        return Err(Error::shape("hamming", expected, dim.to_string()));
    }
    check_device("hamming", "queries", corpus.device(), tensor.device())?;
    let mut floor = search.check("hamming", corpus.device(), [count, corpus.len()])?;
    if let (Queries::Codes(_), Some(least), None) = (queries, search.least, search.bias) {
        floor = floor_of(least);
    }
    let queries = match queries {
        Queries::Codes(t) => Asked::Codes(t.clone()),
        Queries::Floats(t) => {
            Asked::Floats(rows::reduced(t, 0..count, Kind::Power, &length::PLAIN)?)
        }
        Queries::Int8(t) => {
            let data = rows::unpacked(t, corpus.bits(), None)?;
            Asked::Floats(rows::reduced(&data, 0..count, Kind::One, &length::PLAIN)?)
        }
    };
    run(Args { queries, count, corpus, search, floor })
}

/// The key that exactly the negated distances of at least `least` exceed, as one of an integer: kernels compare distances too.
fn floor_of(least: f32) -> u32 {
    match -least {
        // No distance is below 0.
        radius if radius < 0.0 => select::key(f32::INFINITY),
        radius => select::key(-(radius.min(MAX_BITS as f32).floor() + 1.0)),
    }
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

/// All rows of a corpus within a Hamming distance of `radius` of each of the codes `queries` \[Q, B / 32\] u32: distance
/// ascending, equal ones by ascending row number. Scores are negated distances.
///
/// # Errors
/// As [`topk`].
pub fn radius(
    queries: &Tensor,
    corpus: &BinaryCorpus,
    radius: u32,
    filter: Filter<'_>,
) -> Result<Hits> {
    let least = -(radius.min(corpus.bits() as u32) as f32);
    topk(Queries::Codes(queries), corpus, &Search { filter, ..Search::within(least) })
}
