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
//! | codes, up to 4 queries | rows 32 side by side, bits counted by AVX2's byte shuffle or vectorised popcounts | `countOneBits` | `popc` |
//! | codes, more | the same | the same, 32 queries a tile | `mma.sync` m16n8k256 b1, `xor.popc` |
//! | floats, int8 | signs flipped, rows 32 side by side | `fma` with ±1 | `fma` with ±1 |
//!
//! Nowhere is there a float matrix \[N, B\] or a matrix of distances. Scores of codes and of int8 queries are integers, exact
//! in f32 (`B <= 2^17`), and the same on every device; those of floats are one chain of additions in the order of the bits.
//!
//! # Memory
//! A corpus holds `N B / 8` bytes on its device. A search adds, beyond queries and hits,
//! - on the CPU, for each thread, `8 (k + max(k, 64))` bytes a query, at most 32 MiB, and 32 rows;
//! - on wgpu, up to `k = 256`, `16 k + 4` bytes a query and split of the corpus, at most 64 MiB; above, a slab of keys of at
//!   most 32 MiB, read back and selected from on the host, with `16 k` bytes a query there, at most 64 MiB;
//! - on CUDA, up to `k = 256`, `8 k` bytes a query and split, at most 64 MiB; above, as on wgpu.
//!
//! Where that does not hold all queries, they go in groups, each reading the corpus again.
//!
//! # Counted
//! On CUDA, as `tests/cost` asserts (read from memory, of the codes' bytes): 1 query, 40 000 codes of 1024 bits 5,120,128 bytes,
//! 1.000; 4 queries, 60 000 of 256 bits 1.000; 32 queries, 60 000 of 1024 bits 1.001; k 100, 20 queries 1.001. Hashing 2000 vectors of 384 to 128 bits 3,301,120 bytes, 1.000. No distances are written; distances are formed
//! without bank conflicts.
//!
//! # Measured
//! On two cores of an AMD EPYC (AVX2), 1 000 000 random codes, median, beside faiss-cpu 1.15.1's `IndexBinaryFlat` in the same run:
//!
//! | bits | queries | k | time | faiss |
//! |---:|---:|---:|---:|---:|
//! | 1024 | 1 | 10 | 12.5 ms | 15.0 ms |
//! | 1024 | 16 | 10 | 45.4 ms | 158 ms |
//! | 1024 | 16 | 100 | 51.5 ms | 121 ms |
//! | 1024 | 256 | 10 | 487 ms | 1.97 s |
//! | 256 | 16 | 10 | 13.5 ms | 22.7 ms |
//! | 256 | 256 | 100 | 177 ms | 376 ms |
//!
//! On an NVIDIA H100, by CUDA events, beside PyTorch 2.11's product of f16 signs and `topk`: 1 000 000 codes of 1024 bits, k 10: one query
//! 148 µs (853 µs), 256 1.57 ms (2.85 ms), 4096 14.0 ms (43.7 ms); 256 bits, 1024 queries, k 100: 9.19 ms (8.48 ms).
//!
//! Float queries, 4 by 100 000 codes of 1024 bits: 12.6 ms. Hashing 10 000 vectors of 384 dimensions to 384 bits: 62.5 ms.
//!
//! # Limits
//! `radius` on a GPU searches for the 256 nearest first; a query that has more within the radius takes slabs of keys through
//! the host. Rows of a corpus are fewer than 2^32 - 1; on wgpu a code must fit a binding.

mod corpus;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod distances;
mod hasher;
mod itq;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

pub use corpus::BinaryCorpus;
pub use hasher::Hasher;
pub use itq::Itq;

use std::borrow::Cow;

use rayon::prelude::*;

use super::topk::{Bitmap, Exclude, Hits};
use super::{check_device, check_float, length, matrix};
use crate::device::Backend;
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

/// Queries after the checks: words or f32 on the host, row after row.
enum Host {
    Codes(Vec<u32>),
    Floats(Vec<f32>),
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    queries: Host,
    count: usize,
    corpus: &'a BinaryCorpus,
    exclude: Exclude<'a>,
    /// `min(k, N)`.
    k: usize,
}

impl Args<'_> {
    /// Values of a query: words, or floats.
    fn width(&self) -> usize {
        match self.queries {
            Host::Codes(_) => self.corpus.words(),
            Host::Floats(_) => self.corpus.bits(),
        }
    }
}

/// The `k` best rows of a corpus for each query, exactly: score descending, equal scores by ascending row number. A float query
/// with a NaN finds nothing. Any `k` works; a query finds fewer rows only where fewer remain.
///
/// The call waits for the device, because it returns host data.
///
/// # Errors
/// [`Error::Argument`] if `k` is 0 or a bitmap has not one bit a row, [`Error::Shape`] if the queries do not fit the corpus or
/// are on another device, [`Error::OutOfMemory`].
pub fn topk(
    queries: Queries<'_>,
    corpus: &BinaryCorpus,
    k: usize,
    exclude: Exclude<'_>,
) -> Result<Hits> {
    if k == 0 {
        return Err(Error::argument("k", "at least 1", "0"));
    }
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
    check_maps(exclude, count, corpus.len())?;
    if count == 0 || corpus.is_empty() {
        return Ok(Hits::none(count));
    }
    let mut exponents = Vec::new();
    let queries = match queries {
        Queries::Codes(t) => Host::Codes(t.to_vec()?),
        Queries::Floats(t) => {
            let mut values = t.to_f32_vec()?;
            let each = values.par_chunks_mut(width);
            exponents = each.map(|query| length::reduce(query, &length::PLAIN)).collect();
            Host::Floats(values)
        }
        Queries::Int8(t) => {
            let bytes = |w: u32| w.to_le_bytes().map(|b| f32::from(b as i8));
            Host::Floats(t.to_vec::<u32>()?.into_iter().flat_map(bytes).collect())
        }
    };
    let mut hits = search(&Args { queries, count, corpus, exclude, k: k.min(corpus.len()) })?;
    hits.scale(&exponents);
    Ok(hits)
}

fn search(args: &Args<'_>) -> Result<Hits> {
    match args.corpus.device().backend() {
        Backend::Cpu(_) => Ok(cpu::topk(args)),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::topk(gpu, args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::topk(gpu, args),
    }
}

/// Checks that there is a bitmap for each query where they differ, of one bit a row.
fn check_maps(exclude: Exclude<'_>, count: usize, rows: usize) -> Result<()> {
    let maps = match exclude {
        Exclude::None => &[],
        Exclude::Shared(map) => std::slice::from_ref(map),
        Exclude::PerQuery(maps) if maps.len() != count => {
            let got = maps.len().to_string();
            return Err(Error::argument("exclude", format!("{count} bitmaps"), got));
        }
        Exclude::PerQuery(maps) => maps,
    };
    match maps.iter().find(|m| m.len() != rows) {
        Some(map) => {
            let got = map.len().to_string();
            Err(Error::argument("exclude", format!("bitmaps of {rows} rows"), got))
        }
        None => Ok(()),
    }
}

/// Rows of a first, cheap search for a radius; more go another way.
const NEAREST: usize = 256;

/// All rows of a corpus within a Hamming distance of `radius` of each of the codes `queries` \[Q, B / 32\] u32: distance
/// ascending, equal ones by ascending row number. Scores are negated distances.
///
/// # Errors
/// As [`topk`].
pub fn radius(
    queries: &Tensor,
    corpus: &BinaryCorpus,
    radius: u32,
    exclude: Exclude<'_>,
) -> Result<Hits> {
    let lowest = -(radius.min(corpus.bits() as u32) as f32);
    let within = |scores: &[f32]| scores.partition_point(|&s| s >= lowest);
    let first = topk(Queries::Codes(queries), corpus, NEAREST, exclude)?;
    // Whose list is full and ends within the radius may have more.
    let more: Vec<usize> = (0..first.len())
        .filter(|&q| {
            let scores = first.get(q).1;
            scores.len() == NEAREST && within(scores) == NEAREST && corpus.len() > NEAREST
        })
        .collect();
    let mut all = Vec::new();
    if !more.is_empty() {
        let words = corpus.words();
        let host = queries.to_vec::<u32>()?;
        for &q in &more {
            let maps: Cow<'_, [Bitmap]> = match exclude {
                Exclude::PerQuery(maps) => Cow::Borrowed(&maps[q..=q]),
                _ => Cow::Borrowed(&[]),
            };
            let args = Args {
                queries: Host::Codes(host[q * words..][..words].to_vec()),
                count: 1,
                corpus,
                exclude: match exclude {
                    Exclude::PerQuery(_) => Exclude::PerQuery(&maps),
                    other => other,
                },
                k: corpus.len(),
            };
            all.push(search(&args)?);
        }
    }
    let mut hits = Hits::new();
    for q in 0..first.len() {
        let (rows, scores) = match more.binary_search(&q) {
            Ok(i) => all[i].get(0),
            Err(_) => first.get(q),
        };
        let n = within(scores);
        hits.push_scored(&rows[..n], &scores[..n]);
    }
    Ok(hits)
}
