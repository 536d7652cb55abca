//! Exact top-k similarity search: scores fused with selection, so that no matrix of all scores ever exists.
//!
//! Counted on CUDA, as `tests/cost` asserts (memory, of one pass over the corpus): one query, 20 000 x 128 in f32, k 10:
//! 10,330,752 bytes, 1.001; one query, 40 000 x 384 in bf16, k 100: 31,009,536 bytes, 1.004; 32 queries, 10 000 x 128 in f32,
//! k 10: 5,342,912 bytes, 1.035; 40 queries, 10 000 x 384 in bf16, k 10: 7,988,320 bytes, 1.035, and 3,108,020 warp
//! instructions on tensor cores, where the same in f16 takes 15,757,573 of fused multiply-adds. With every other tile
//! excluded, half as much. Scores are formed without bank conflicts.
//!
//! # Any length
//! Every search of vectors, here and in [`hamming`](super::hamming) and [`maxsim`](super::maxsim), keeps one rule on every
//! device, whatever the storage. Vectors are finite f32 numbers of any magnitude, subnormal numbers included.
//! - A cosine is that of the directions, however short or long the vectors are; only a vector of zeros has none, and
//!   scores 0. So does fused cosine in [`Tokens::normalized`](super::maxsim::Tokens::normalized).
//! - A dot product has the same error relative to |q| |x| as one of vectors of length 1: no partial sum overflows. A result
//!   beyond the range of f32 is infinite, with its sign; one below 2^-126 may be 0. The same holds for the sums of
//!   [`Queries::Floats`](super::hamming::Queries::Floats), which rank as they would without a bound.
//! - A squared distance is summed in f32 from differences in f32: -∞ if it is beyond the range, and 0 instead of a value below
//!   2^-126 where a device has no subnormal numbers. It is never NaN.
//! - Infinite scores rank as numbers do, equal ones by ascending row number. A vector with an infinity has no cosine, and its
//!   other scores are infinite or NaN. A NaN is never found.
//!
//! Vectors whose largest magnitude is within 2^-30 and 2^31 are compared as they are. Others are scaled by a power of two on
//! the host. A chunk of a [`Corpus`] with such a row keeps a second copy of its rows, scaled, and 4 bytes a row.

mod bitmap;
mod corpus;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod scores;
pub(crate) mod select;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

pub use bitmap::Bitmap;
pub use corpus::Corpus;
pub use select::Hits;
pub(crate) use select::{Selector, entry, key};

use rayon::prelude::*;

use self::corpus::Chunk;
use super::{check_device, check_float, length, matrix};
use crate::device::Backend;
use crate::{DType, Error, Result, Tensor};

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
    /// It is summed from the differences rather than expanded to `|q|^2 - 2 q · x + |x|^2`: the expansion cancels
    /// far from the origin, and no margin of candidates to score again would make its order certain. The price
    /// is one subtraction a term, which a search bound by memory does not feel. Equal vectors score exactly 0, vectors whose
    /// squared distance is beyond the range of f32 -∞.
    L2,
}

/// Rows that may not be found. Set bits are excluded.
#[derive(Clone, Copy, Debug)]
pub enum Exclude<'a> {
    /// All rows take part.
    None,
    /// The same rows are excluded for all queries.
    Shared(&'a Bitmap),
    /// One bitmap for each query.
    PerQuery(&'a [Bitmap]),
}

impl Exclude<'_> {
    /// Whether row `row` is excluded for query `query`.
    pub(crate) fn contains(&self, query: usize, row: usize) -> bool {
        match self {
            Exclude::None => false,
            Exclude::Shared(map) => map.contains(row),
            Exclude::PerQuery(maps) => maps[query].contains(row),
        }
    }

    /// Checks that there is a bitmap for each query and in each a bit for each row.
    pub(crate) fn check(&self, queries: usize, rows: usize) -> Result<()> {
        let maps = match *self {
            Exclude::None => &[],
            Exclude::Shared(map) => std::slice::from_ref(map),
            Exclude::PerQuery(maps) if maps.len() != queries => {
                let got = maps.len().to_string();
                return Err(Error::argument("exclude", format!("{queries} bitmaps"), got));
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

    /// Whether the `rows` are excluded for all of the `queries`.
    pub(crate) fn covers(
        &self,
        queries: std::ops::Range<usize>,
        rows: std::ops::Range<usize>,
    ) -> bool {
        match self {
            Exclude::None => false,
            Exclude::Shared(map) => map.covers(rows),
            Exclude::PerQuery(maps) => maps[queries].iter().all(|m| m.covers(rows.clone())),
        }
    }
}

/// What to search for.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The score.
    pub metric: Metric,
    /// How many rows to find for each query; more than there are gives all.
    pub k: usize,
    /// Added to the score of each corpus row: \[N\].
    pub bias: Option<&'a [f32]>,
    /// Rows to leave out.
    pub exclude: Exclude<'a>,
}

impl<'a> Search<'a> {
    /// A search without bias or exclusions.
    pub fn new(metric: Metric, k: usize) -> Search<'a> {
        Search { metric, k, bias: None, exclude: Exclude::None }
    }
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    /// The queries \[Q, D\] on the host; for dot products and cosines divided by their powers of two.
    queries: &'a [f32],
    /// What sums with each query are multiplied by: its inverse length for cosines, else its power of two. NaN for a query
    /// with a NaN.
    scale: &'a [f32],
    /// What the queries are stored as.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    dtype: DType,
    count: usize,
    corpus: &'a Corpus,
    search: &'a Search<'a>,
    /// What kernels form: dot products with a power of two other than 1 are cosines to them, of other scales.
    form: Metric,
    /// `min(k, N)`.
    k: usize,
}

impl Args<'_> {
    fn query(&self, q: usize) -> &[f32] {
        &self.queries[q * self.corpus.dim()..][..self.corpus.dim()]
    }
}

/// The `k` best rows of `corpus` \[N, D\] for each of the `queries` \[Q, D\] (f32, f16 or bf16, on the corpus's
/// device), exactly: score descending, equal scores (0 and -0 are equal) by ascending row number.
///
/// A score is an f32 whatever the storage, and has the same bits whatever other queries are asked and however the
/// corpus is chunked. A score that is NaN never enters, so a query with a NaN finds nothing; infinite scores are
/// ordinary. A query finds fewer than `k` rows only where fewer remain.
///
/// On CUDA, dot products and cosines of dimensions that 8 divides are formed by tensor cores where that rounds nothing (a
/// bf16 corpus, whose queries enter as three bf16 that sum to them; f16 queries and corpus) or as little as
/// [`MatmulPrecision`](crate::MatmulPrecision) allows; all else is f32 by fused multiply-adds. A product that is infinite
/// counts as in f32 either way.
///
/// The call waits for the device, because it returns host data. Beyond queries and hits its workspace is
/// - on the CPU, for each thread: `8 Q (k + max(k, 64))` bytes of candidates, at most 32 MiB, and a tile of the corpus
///   as f32 (256 KiB);
/// - on wgpu, up to `k = 256`: `16 k + 4` bytes for each query and split of the corpus (at most 1024 splits in all), at
///   most 64 MiB, of which half is read back and merged; above, a slab of scores of at most 32 MiB, read back and
///   selected from on the host, with `16 k` bytes of candidates a query there, at most 64 MiB;
/// - on CUDA, up to `k = 256`: `8 k` bytes for each query and split of the corpus, at most 64 MiB, merged there; above, a
///   slab of keys of at most 32 MiB, read back and selected from on the host, with candidates as on wgpu;
/// - on wgpu, of what the search asks for, one chunk's part: 4 bytes a row of bias, 1 bit a row and bitmap.
///
/// Where that does not hold all queries, they are searched in groups, each reading the corpus again; one query at
/// least is searched whatever k is.
///
/// # Errors
/// [`Error::Argument`] if `k` is 0 or the bias or a bitmap has not one entry a row; [`Error::Shape`] if the queries
/// are not \[Q, D\] floats on the corpus's device; [`Error::OutOfMemory`] if the workspace does not fit.
pub fn topk(queries: &Tensor, corpus: &Corpus, search: &Search<'_>) -> Result<Hits> {
    let (count, dim) = matrix("topk", "queries", queries)?;
    check_float("topk", "queries", queries)?;
    if dim != corpus.dim() {
        let expected = format!("queries of dimension {}", corpus.dim());
        return Err(Error::shape("topk", expected, format!("{dim}")));
    }
    check_device("topk", "queries", corpus.device(), queries.device())?;
    if search.k == 0 {
        return Err(Error::argument("k", "at least 1", "0"));
    }
    let rows = corpus.len();
    if let Some(bias) = search.bias
        && bias.len() != rows
    {
        return Err(Error::argument("bias", format!("{rows} values"), bias.len().to_string()));
    }
    search.exclude.check(count, rows)?;
    if count == 0 || rows == 0 {
        return Ok(Hits::none(count));
    }
    let mut host = queries.to_f32_vec()?;
    let (scale, form) = prepare(&mut host, corpus, search.metric);
    let args = Args {
        queries: &host,
        scale: &scale,
        dtype: queries.dtype(),
        count,
        corpus,
        search,
        form,
        k: search.k.min(rows),
    };
    match corpus.device().backend() {
        Backend::Cpu(_) => cpu::topk(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::topk(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::topk(gpu, &args),
    }
}

/// Divides queries by their powers of two, and gives their scales and what kernels form: see [`Args`].
fn prepare(queries: &mut [f32], corpus: &Corpus, metric: Metric) -> (Vec<f32>, Metric) {
    let plain = if corpus.dtype() == DType::F16 { length::PLAIN_F16 } else { length::PLAIN };
    let scale = |query: &mut [f32]| match metric {
        Metric::Cosine => {
            length::reduce(query, &plain);
            length::inverse_length(query)
        }
        _ if query.iter().any(|v| v.is_nan()) => f32::NAN,
        Metric::Dot => length::scaled(1.0, length::reduce(query, &plain)),
        Metric::L2 => 1.0,
    };
    let scale: Vec<f32> = queries.par_chunks_mut(corpus.dim()).map(scale).collect();
    let scales = scale.iter().any(|&s| s != 1.0 && !s.is_nan());
    let form = match metric {
        Metric::Dot if scales || corpus.parts().iter().any(Chunk::is_scaled) => Metric::Cosine,
        other => other,
    };
    (scale, form)
}
