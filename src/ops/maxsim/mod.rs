//! Late interaction: the similarity of two items by their tokens, where each token of one finds its best in the other.
//!
//! With `s_ij = (q_i · d_j) a_i b_j`, where `a` and `b` are the tokens' scales (1; an int8 token's scale; an inverse length
//! where [`Tokens::normalized`] asked for the cosine):
//! - ColBERT (Khattab, Zaharia, arXiv:2004.12832): `Σ_i max_j s_ij`;
//! - FILIP (Yao et al., arXiv:2111.07783): `1/n Σ_i max_j s_ij`, and the same from the documents' tokens,
//!   `1/m Σ_j max_i s_ij`;
//! - CiCo (Cheng et al., arXiv:2303.12793): as FILIP, with `Σ_j s_ij softmax_j(s_ij / τ)` for the maximum.
//!
//! Sums and means are over tokens that no mask leaves out. A NaN never wins, and of equals the first is the place. A token
//! whose best is -∞ found nothing: the other item is empty, masked as a whole, or gives only NaN and -∞. An item with such a
//! token scores -∞; an item without tokens that count scores 0. Scales are not negative, so that a token's own comes last.
//! Cosines are right however short or long the tokens are ([any length](super::topk#any-length)); other products are formed
//! from the vectors as they are, so that beyond the range of f32 they are infinite or NaN.
//!
//! | | CPU | wgpu | CUDA |
//! |---|---|---|---|
//! | f32 | f32 fma | f32 fma | f32 fma, whatever the precision asked for |
//! | f16, bf16 | f32 fma | f32 fma | tensor cores, summed in f32 |
//! | int8 | exact: AVX-512 VNNI, or 16-bit products of AVX2; else in f32 | exact, in f32 | tensor cores, exact |
//! | binary | exact: xor and counts of bits | exact, in f32 | tensor cores (xor, popc), exact |
//! | a task | a document, or a pair | a query by documents | two queries of up to 32 tokens, or one, by documents |
//!
//! Documents may be compressed by a residual codec ([`Tokens::compressed`]): of 1, 2 or 4 bits a dimension, for queries of f32,
//! f16 or bf16. Then `s_ij = (q_i · r(v_j)) a_i / max(|v_j|, 1e-12)` with `v = centroid + weight`, rounded by r as the queries
//! are stored: the codec's unit vector, which is never in memory. The CPU decodes a piece of a document once for all queries,
//! into its cache; on GPUs the kernel that loads a tile adds weights to centroids, and the tile's sums of squares become its
//! tokens' scales.
//!
//! All forms run on all devices: every query by every document ([`scores`], [`both`]), lists ([`rerank`], [`align`]), whole corpora
//! ([`search`]). One launch reads each document token from memory once, however many queries there are; those after the first
//! read it from a cache. Products of tokens never leave the registers, the caches or the shared memory of the task. On wgpu,
//! where there are subgroups of at least four, four threads search a row of a tile and bests are added by subgroups: maxima
//! and places are the same bits without, the order of additions depends on the adapter's subgroup size alone.
//!
//! Counted on CUDA, as `tests/cost` asserts (memory, of reading documents once and writing the scores; no bank conflicts, no
//! local memory):
//!
//! | queries by documents | bytes | of the least |
//! |---|---:|---:|
//! | 32 tokens by 6705 of 128 in f32 | 3,454,688 | 1.001 |
//! | 32 tokens by 6705 of 128 in f16 | 1,730,016 | 1.003 |
//! | 4 of 32 tokens by 7680 of 128 in bf16 | 2,006,848 | 1.004 |
//! | 32 tokens by 6705 of 128 in int8 | 894,528 | 1.005 |
//! | 2 of 32 tokens by 7680 of 512 bits | 499,744 | 1.007 |
//! | 32 tokens in f16 by 6705 of 128 in 2 bits and 64 centroids | 287,744 | 1.018 |
//! | 4 of 32 tokens in f16 by 6705 of 128 in 4 bits and 64 centroids | 533,056 | 1.019 |
//!
//! 32 tokens by 6705 take 390,560 warp instructions in f16, and 631,340 where documents are behind a codec of 2 bits; in f32 they
//! take 3,126,040 and 3,341,300. Both sides
//! in one pass take 1.47 times the instructions of one side (50 tokens by 20 documents of 150, bf16).
//! Behind its scores a [`search`] takes (memory, of reading them once and writing what is found; no local memory, no bank
//! conflicts but where lists are sorted) 18,432 bytes, 1.019, for 4500 documents and k 10; 40,736 bytes, 1.084, for 3 queries,
//! 3001 documents and k 65.
//!
//! Workspace beside vectors and results:
//! - CPU: the queries, as they are multiplied; for each thread 32 KiB of a document where it is multiplied as it is not
//!   stored, or 256 KiB where several queries are searched for the document's tokens, and where not only maxima by the
//!   query's tokens are asked for, the products of 32 KiB of a document; 8 bytes a pair.
//! - all: none for compressed documents' vectors; where they are masked, on wgpu 4 bytes a token beside the mask.
//! - wgpu: 12 bytes for each query token, up to the next 32, and unit of work (at most 1024 beside those of long lists), and
//!   tables of 16 bytes a document or pair and 8 a query token; each at most 16 MiB, or one binding. Scores of a call are one
//!   binding; one item must fit a binding, and so must a codec's centroids. Mesa's software driver ends loops after 65,535 rounds, so that there a pair of
//!   thousands of tokens by thousands of 1024 dimensions is cut short.
//! - CUDA: 48 bytes a block and 8 a query token; 1,536 bytes for each block and 64 tokens of the longest query, if it has more
//!   than 64, at most 64 MiB.
//!
//! Measured on two cores of an AMD EPYC (AVX2), dimension 128, median, beside maxsim-cpu 0.1.0 and PyTorch 2.15.0 (einsum,
//! amax, sum) in the same run; maxsim-cpu gives other scores for 128 query tokens and more:
//!
//! | f32 | time | maxsim-cpu | torch |
//! |---|---:|---:|---:|
//! | 32 tokens by 1000 documents of 300 | 32.5 ms | 56.3 ms | 90.5 ms |
//! | 32 tokens by 5000 of 128 | 70.8 ms | 126 ms | 203 ms |
//! | 8 of 32 tokens by 1000 of 300 | 196 ms | 452 ms | 738 ms |
//! | 1024 tokens by 50 of 1024 | 124 ms | | 308 ms |
//!
//! Search in 1000 documents of 128 tokens behind a codec of 4 bits, all of them scored: 28.2 ms for one query, 128 ms for
//! eight; fast-plaid 1.7 takes 387 ms and 3.32 s with its defaults, which score a part of them, and 841 ms and 7.01 s for all.
//!
//! On an NVIDIA H100, the dimension 128, by CUDA events, beside a Triton kernel of the same sum of maxima and PyTorch 2.11:
//!
//! | | time | Triton | torch |
//! |---|---:|---:|---:|
//! | f16, 32 tokens by 100 000 documents of 128 | 1.25 ms | 1.05 ms | 2.69 ms |
//! | the same, 8 queries | 4.75 ms | 8.21 ms | 13.7 ms |
//! | bf16, 1024 tokens by 1000 of 1024 | 1.31 ms | 1.35 ms | 1.88 ms |
//! | f16, 32 tokens by 1000 of 300 | 53 µs | 35 µs | 79 µs |
//! | 32 tokens by 100 000 of 128 behind a codec of 2 bits | 2.66 ms | | 276 ms |
//!
//! On two cores of an Intel Xeon (AVX-512 with VNNI and VPOPCNTDQ), where maxsim-cpu takes 38.1 ms for f32 and PyTorch 33.6 ms
//! (`benches/results/intel-xeon-processor/2026-11-30-maxsim.md`):
//!
//! | 32 tokens by 1000 of 300, stored as | f32 | f16 | bf16 | int8 | binary | 2 bits behind a codec | f32, both sides |
//! |---|---:|---:|---:|---:|---:|---:|---:|
//! | time | 13.0 ms | 13.8 ms | 13.5 ms | 4.23 ms | 1.49 ms | 33.2 ms | 17.1 ms |
//!
//! Limits: the dimension is a multiple of 8 (binary: 32) up to 1024; both sides are stored alike ([`Tokens::to_storage`]
//! converts), or documents are compressed; fewer than 2^32 scores a call. A tile never spans two documents, so that documents
//! of a few tokens leave most of a tile of 64 (CPU: 12, or 6 with AVX2) unused.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod tokens;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

pub use self::tokens::Tokens;
pub use super::storage::Storage;

use std::ops::Range;

use super::check_device;
use super::select::scores::{LOWEST, Selection, Wanted};
use super::select::{FUSED_K, Found, Hits, Search};
use crate::device::Backend;
use crate::{Error, Result, Tensor};

/// How the bests of an item's tokens become its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Their sum (ColBERT).
    Sum,
    /// Their mean (FILIP).
    Mean,
}

/// What a token's best is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Best {
    /// The largest similarity.
    Max,
    /// The mean of the similarities weighted by their softmax (CiCo).
    Soft {
        /// What similarities are divided by in the softmax, τ: towards 0 this becomes the maximum.
        temperature: f32,
        /// Whether masked tokens take part in the softmax, as in CiCo's code, whose mask only leaves out their own bests.
        padding: bool,
    },
}

/// Whose tokens look for their best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The query's tokens, among the document's.
    Queries,
    /// The document's tokens, among the query's.
    Documents,
}

/// How two items are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxSim {
    /// What a token's best is.
    pub best: Best,
    /// How bests become a score.
    pub reduction: Reduction,
    /// Whose tokens look for their best. [`both`] gives both, whatever is said here.
    pub side: Side,
}

impl MaxSim {
    /// ColBERT's: the sum over the query's tokens of the maximum.
    pub const fn colbert() -> MaxSim {
        MaxSim { best: Best::Max, reduction: Reduction::Sum, side: Side::Queries }
    }

    /// FILIP's: the mean over one side's tokens of the maximum.
    pub const fn filip(side: Side) -> MaxSim {
        MaxSim { best: Best::Max, reduction: Reduction::Mean, side }
    }

    /// CiCo's: the mean over one side's tokens of the softmax-weighted mean. CiCo's temperature is 0.07.
    pub const fn cico(side: Side, temperature: f32, padding: bool) -> MaxSim {
        MaxSim { best: Best::Soft { temperature, padding }, reduction: Reduction::Mean, side }
    }

    /// Whether masked tokens take part in the search for a best.
    fn padding(&self) -> bool {
        matches!(self.best, Best::Soft { padding: true, .. })
    }

    /// The score of bests in the order of their tokens, those that count.
    fn reduce(&self, bests: impl Iterator<Item = f32>) -> f32 {
        let (mut sum, mut count) = (0f64, 0u32);
        for best in bests {
            if best == f32::NEG_INFINITY {
                return best;
            }
            sum += best as f64;
            count += 1;
        }
        match self.reduction {
            Reduction::Mean if count > 0 => (sum / count as f64) as f32,
            _ => sum as f32,
        }
    }
}

/// Which documents each query is compared with.
#[derive(Clone)]
pub(crate) enum Pairs<'a> {
    /// All in a range: \[Q, n\].
    All(Range<usize>),
    /// The same list for all queries: \[Q, n\].
    Shared(&'a [u32]),
    /// A list for each query, one after the other.
    Lists(&'a [Vec<u32>]),
}

/// What is to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Scores by the query's tokens.
    Queries,
    /// Scores by the document's tokens.
    Documents,
    /// Both.
    Both,
    /// Each query token's maximum and where it is.
    Align,
}

impl Want {
    fn rows(self) -> bool {
        self != Want::Documents
    }

    fn columns(self) -> bool {
        matches!(self, Want::Documents | Want::Both)
    }
}

/// The inputs after the checks: there are queries and pairs.
pub(crate) struct Args<'a> {
    queries: &'a Tokens,
    documents: &'a Tokens,
    how: &'a MaxSim,
    pairs: Pairs<'a>,
    want: Want,
    /// The shape of the result.
    shape: Vec<usize>,
}

/// What [`Args`] asked for: by the query's tokens (or the bests, to align), by the document's tokens, places.
#[derive(Default)]
pub(crate) struct Computed {
    rows: Option<Tensor>,
    columns: Option<Tensor>,
    places: Option<Tensor>,
}

/// The score of every query with every document: \[Q, N\] f32. For a large N, of which only the best are wanted, use
/// [`search`]. Only enqueues on GPUs.
///
/// A pair's score has the same bits whatever other queries and documents are there. Products and maxima are f32; for int8 and
/// binary tokens products are exact.
///
/// # Errors
/// [`Error::Shape`] if storage, dimension or device of the two sides differ or there are 2^32 scores or more;
/// [`Error::Argument`] if a temperature is not positive and finite or queries are compressed; [`Error::Unsupported`] if a GPU's
/// binding does not hold one item or the centroids; [`Error::OutOfMemory`].
pub fn scores(queries: &Tokens, documents: &Tokens, how: &MaxSim) -> Result<Tensor> {
    let found = run(queries, documents, how, Pairs::All(0..documents.len()), how.side.into())?;
    Ok(found.one())
}

/// As [`scores`], from both sides at once: by the query's tokens and by the document's, each \[Q, N\]. Products are formed
/// once.
pub fn both(queries: &Tokens, documents: &Tokens, how: &MaxSim) -> Result<[Tensor; 2]> {
    let pairs = Pairs::All(0..documents.len());
    match run(queries, documents, how, pairs, Want::Both)? {
        Computed { rows: Some(rows), columns: Some(columns), .. } => Ok([rows, columns]),
        _ => unreachable!("both were asked for"),
    }
}

/// The score of each query with the documents in its list of `candidates`, one after the other: \[C\] f32 for C candidates
/// in all. Only enqueues on GPUs.
///
/// # Errors
/// As [`scores`]; [`Error::Argument`] if there is not one list a query or a document does not exist.
pub fn rerank(
    queries: &Tokens,
    documents: &Tokens,
    candidates: &[Vec<u32>],
    how: &MaxSim,
) -> Result<Tensor> {
    let found = run(queries, documents, how, Pairs::Lists(candidates), how.side.into())?;
    Ok(found.one())
}

/// Which document token each query token found, for maps of words and patches.
#[derive(Clone, Debug)]
pub struct Alignment {
    /// For each pair, in the order of the candidates, the place within the document of each query token's best, the lowest
    /// of equals; `u32::MAX` where it found nothing. u32.
    pub places: Tensor,
    /// The similarities there; -∞ where nothing was found. f32, of the same shape.
    pub maxima: Tensor,
}

/// For each query and each document of its list, where the query's tokens find their maximum. Query masks play no part.
///
/// # Errors
/// As [`rerank`].
pub fn align(queries: &Tokens, documents: &Tokens, candidates: &[Vec<u32>]) -> Result<Alignment> {
    let pairs = Pairs::Lists(candidates);
    match run(queries, documents, &MaxSim::colbert(), pairs, Want::Align)? {
        Computed { rows: Some(maxima), places: Some(places), .. } => {
            Ok(Alignment { places, maxima })
        }
        _ => unreachable!("both were asked for"),
    }
}

/// Bytes of a slab of scores in a search.
const SLAB: usize = 32 << 20;

/// The best documents for each query: score descending, equal scores by ascending number. Numbers continue from one part of
/// `corpus` to the next. Documents that score -∞ or NaN are not found: those without tokens, and all for a query with a NaN. A bias is
/// by the documents' numbers, \[N\].
///
/// Scores are formed in slabs of as many documents as 32 MiB hold for all queries; what is excluded for all queries is not
/// computed. On GPUs the best are selected from each slab on the device, after the kernel that computes it, and only they are read
/// back, once. The workspace is two slabs, and where queries have filters of their own a bit a score; 4 bytes a document on the host;
/// and what [`select`](super::select) says.
///
/// # Errors
/// As [`scores`], also where parts of the corpus differ; [`Error::Argument`] if `k` is 0, a filter does not fit the corpus or `least` is
/// NaN; [`Error::Shape`] if the bias does not fit.
pub fn search(
    queries: &Tokens,
    corpus: &[Tokens],
    how: &MaxSim,
    search: &Search<'_>,
) -> Result<Hits> {
    Slabs::new(queries, corpus, how, search, SLAB / size_of::<f32>())?.hits()
}

/// As [`search`](fn@search), but only enqueues: the result stays on the device, as \[Q, min(k, N)\] entries.
///
/// # Errors
/// As [`search`](fn@search).
pub fn search_on_device(
    queries: &Tokens,
    corpus: &[Tokens],
    how: &MaxSim,
    search: &Search<'_>,
) -> Result<Found> {
    Slabs::new(queries, corpus, how, search, SLAB / size_of::<f32>())?.enqueue(search.k)
}

/// A checked search, slab by slab.
struct Slabs<'a> {
    queries: &'a Tokens,
    corpus: &'a [Tokens],
    how: &'a MaxSim,
    search: &'a Search<'a>,
    /// The key that must be exceeded.
    floor: u32,
    /// Documents of a slab.
    fit: usize,
    total: usize,
}

impl<'a> Slabs<'a> {
    /// With at most so many scores in a slab.
    fn new(
        queries: &'a Tokens,
        corpus: &'a [Tokens],
        how: &'a MaxSim,
        search: &'a Search<'a>,
        most: usize,
    ) -> Result<Slabs<'a>> {
        let count = queries.len();
        let total: usize = corpus.iter().map(Tokens::len).sum();
        if u32::try_from(total).is_err() {
            let got = total.to_string();
            return Err(Error::shape("maxsim", "fewer than 4294967296 documents", got));
        }
        let floor = search.check("maxsim", queries.device(), [count, total])?.max(LOWEST);
        let fit = (slab(queries).min(most) / count.max(1)).max(1);
        Ok(Slabs { queries, corpus, how, search, floor, fit, total })
    }

    fn wanted(&self, k: usize) -> Wanted<'_> {
        let widest = self.corpus.iter().map(Tokens::len).max().unwrap_or(0).min(self.fit);
        Wanted {
            device: self.queries.device(),
            k,
            floor: self.floor,
            widest,
            total: self.total,
            filter: self.search.filter,
            bias: self.search.bias,
        }
    }

    /// Selects from all slabs.
    fn pass<'b>(&self, mut best: Selection<'b>) -> Result<Selection<'b>> {
        let (count, filter) = (self.queries.len(), self.search.filter);
        let mut start = 0;
        for part in self.corpus {
            let open =
                (0..part.len()).filter(|d| !filter.covers(0..count, start + d..start + d + 1));
            let open: Vec<u32> = open.map(|d| d as u32).collect();
            for slab in open.chunks(self.fit) {
                let first = slab[0] as usize;
                let pairs = match slab.last().map_or(0, |l| *l as usize + 1) - first {
                    span if span == slab.len() => Pairs::All(first..first + span),
                    _ => Pairs::Shared(slab),
                };
                let want = self.how.side.into();
                let scores = run(self.queries, part, self.how, pairs, want)?.one();
                let numbers: Vec<u32> = slab.iter().map(|d| (start + *d as usize) as u32).collect();
                best.take(&scores, &numbers)?;
            }
            start += part.len();
        }
        Ok(best)
    }

    fn enqueue(&self, k: usize) -> Result<Found> {
        let (device, count, k) = (self.queries.device(), self.queries.len(), k.min(self.total));
        let groups = match k.min(count) {
            0 => Vec::new(),
            _ => self.pass(Selection::new(count, self.wanted(k))?)?.finish()?,
        };
        Ok(Found::new(device, groups, count, k))
    }

    fn hits(&self) -> Result<Hits> {
        let k = self.search.k.min(self.total);
        let device = self.queries.device();
        if self.search.least.is_none() || k <= FUSED_K || device.is_cpu() {
            return self.enqueue(k)?.to_hits();
        }
        // Most queries have few such documents.
        let few = self.enqueue(FUSED_K)?.to_hits()?;
        if few.iter().all(|(ids, _)| ids.len() < FUSED_K) {
            return Ok(few);
        }
        let counting = Selection::counting(self.queries.len(), self.wanted(0))?;
        let counts = self.pass(counting)?.counts()?;
        let most = counts.iter().fold(1, |most, &n| most.max(n as usize));
        self.enqueue(most.min(k))?.to_hits()
    }
}

/// The most scores of a slab on a device.
fn slab(queries: &Tokens) -> usize {
    match queries.device().backend() {
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::most_scores(gpu) & !3,
        _ => usize::MAX,
    }
}

impl From<Side> for Want {
    fn from(side: Side) -> Want {
        match side {
            Side::Queries => Want::Queries,
            Side::Documents => Want::Documents,
        }
    }
}

impl Computed {
    /// The scores of the one side that was asked for.
    fn one(self) -> Tensor {
        self.rows.or(self.columns).unwrap_or_else(|| unreachable!("one side was asked for"))
    }
}

/// Checks and dispatches.
fn run(
    queries: &Tokens,
    documents: &Tokens,
    how: &MaxSim,
    pairs: Pairs<'_>,
    want: Want,
) -> Result<Computed> {
    const OP: &str = "maxsim";
    let describe = |t: &Tokens| format!("{} of dimension {}", t.storage(), t.dim());
    if queries.codec().is_some() {
        let expected = "queries whose vectors are not compressed";
        return Err(Error::argument("queries", expected, describe(queries)));
    }
    let is_float = matches!(queries.storage(), Storage::F32 | Storage::F16 | Storage::BF16);
    if documents.codec().is_some() && !(is_float && queries.dim() == documents.dim()) {
        let expected = format!("queries of f32, f16 or bf16 of dimension {}", documents.dim());
        return Err(Error::shape(OP, expected, describe(queries)));
    }
    if documents.codec().is_none() && describe(queries) != describe(documents) {
        let expected = format!("queries stored as the documents, {}", describe(documents));
        return Err(Error::shape(OP, expected, describe(queries)));
    }
    check_device(OP, "queries", documents.device(), queries.device())?;
    if let Best::Soft { temperature, .. } = how.best
        && !(temperature > 0.0 && temperature.is_finite())
    {
        let expected = "positive and finite";
        return Err(Error::argument("temperature", expected, temperature.to_string()));
    }
    let shape = match pairs {
        Pairs::All(ref range) => vec![queries.len(), range.len()],
        Pairs::Shared(list) => vec![queries.len(), list.len()],
        Pairs::Lists(lists) => {
            if lists.len() != queries.len() {
                let expected = format!("{} lists, one a query", queries.len());
                return Err(Error::argument("candidates", expected, lists.len().to_string()));
            }
            if let Some(d) = lists.iter().flatten().find(|d| **d as usize >= documents.len()) {
                let expected = format!("documents below {}", documents.len());
                return Err(Error::argument("candidates", expected, d.to_string()));
            }
            let entries =
                |q: usize| if want == Want::Align { queries.offsets().range(q).len() } else { 1 };
            vec![lists.iter().enumerate().map(|(q, list)| list.len() * entries(q)).sum()]
        }
    };
    let size = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if size.is_none_or(|n| n > u32::MAX as usize) {
        return Err(Error::shape(OP, "fewer than 4294967296 scores", format!("{shape:?}")));
    }
    let args = Args { queries, documents, how, pairs, want, shape };
    match documents.device().backend() {
        Backend::Cpu(_) => cpu::maxsim(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::maxsim(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::maxsim(gpu, &args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::required::required;
    use crate::ops::select::{Bitmap, Filter, Rows};
    use crate::{DType, Device, Offsets};

    /// Slabs of any size, through the device's selection or the host's, give the same.
    #[test]
    fn slabs_do_not_change_a_search() {
        let gpus = ["cuda", "wgpu"].map(|name| (name, Device::by_name(name)));
        let gpus = gpus.into_iter().filter_map(|(name, opened)| required(name, opened));
        for device in [Device::cpu()].into_iter().chain(gpus) {
            let tokens = |lengths: &[usize], step: u32| {
                let offsets = Offsets::from_lengths(&device, lengths).unwrap();
                let shape = [offsets.total(), 8];
                // Few values, so that scores are equal now and then.
                let value = |i: u32| (i.wrapping_mul(step) >> 24) as f32 % 5.0 - 2.0;
                let values: Vec<f32> = (0..8 * offsets.total() as u32).map(value).collect();
                let vectors = Tensor::from_f32(&device, DType::F32, &shape, &values).unwrap();
                Tokens::new(&vectors, &offsets).unwrap()
            };
            let queries = tokens(&[2, 1, 3], 2654435761);
            let lengths: Vec<usize> = (0..40).map(|i| i % 3).collect();
            let parts = [tokens(&lengths, 2246822519), tokens(&lengths[..25], 3266489917)];
            let maps: Vec<Bitmap> =
                (1..4).map(|q| Bitmap::from_fn(65, |d| d % 5 == 0 || d % (q + 1) == 0)).collect();
            let sets: Vec<Rows<'_>> = maps.iter().map(Rows::Exclude).collect();
            let filters = [Filter::All, Filter::Shared(sets[2]), Filter::PerQuery(&sets)];
            for (filter, k) in filters.into_iter().flat_map(|f| [(f, 9), (f, 65)]) {
                let find = |most| {
                    let (how, search) = (MaxSim::colbert(), Search { filter, ..Search::new(k) });
                    Slabs::new(&queries, &parts, &how, &search, most).unwrap().hits().unwrap()
                };
                let whole = find(SLAB / size_of::<f32>());
                assert!(whole.iter().all(|(rows, _)| rows.len() >= 9), "{}", device.name());
                for most in [1, 3 * 7, 3 * 64] {
                    assert_eq!(find(most), whole, "{}: {most} scores", device.name());
                }
            }
        }
    }
}
