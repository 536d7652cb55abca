//! Ragged scaled-dot-product attention.
//!
//! Counted on CUDA, as `tests/cost` asserts, for three sequences, 12 heads of 64 (memory, of the least possible; asked of the
//! caches): 77 keys 2,838,560 bytes, 1.000, 8,548,224; 128 keys 4,718,624 bytes, 1.000, 21,285,504; 197 keys 7,262,240
//! bytes, 1.000, 29,129,472. No scores are written and no bank conflicts.
//!
//! On tensor cores K and V of a sequence are read once for up to 512 queries and stay in shared memory where they fit. Counted
//! for 12 heads of 64: 18 sequences of 77 17,031,264 bytes, 1.000, 17,332,224; 6 of 257 18,948,128 bytes, 1.000.
//!
//! A window of 64 in a sequence of 8192, two heads of 32: 8,388,640 bytes, 1.000, 16,876,800 asked of the caches, in
//! 10,457,280 warp instructions by multiply-adds and 2,464,232 on tensor cores; without a window, sequences of 192 with as many
//! rows take 9,170,056 and 2,082,968.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod panel;
mod weights;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::ops::Range;

pub(crate) use weights::mean_weights;

use super::rows::converted;
use super::{check_devices, check_float, check_out, matrix};
use crate::device::Backend;
use crate::{DType, Error, Offsets, Result, Tensor};

const OP: &str = "attention";
/// The largest head dimension.
const MAX_DIM: usize = 128;

/// `heads * dim` adjacent columns of a row-major \[T, W\] matrix of f32, f16 or bf16: head `h` is columns
/// `start + h * dim .. start + (h + 1) * dim`. Queries, keys and values can so be three column ranges of one
/// fused projection.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The matrix.
    pub tensor: &'a Tensor,
    /// The first column.
    pub start: usize,
}

/// What kind of attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The number of query heads, at least 1.
    pub heads: usize,
    /// The number of key and value heads, a divisor of `heads`: query head `h` meets head `h / (heads / kv_heads)`
    /// (grouped-query attention, Ainslie et al., arXiv:2305.13245).
    pub kv_heads: usize,
    /// The dimension of a head, 1 to 128.
    pub dim: usize,
    /// The factor of the dot products, mostly `1 / sqrt(dim)`.
    pub scale: f32,
    /// Whether query `i` of `Lq` sees key `j` of `Lk` only where `j <= i + Lk - Lq`, so that the last query sees
    /// every key.
    pub causal: bool,
    /// How far queries see: query `i` sees key `j` only where `|i + Lk - Lq - j|` is at most this, to either side or,
    /// with the causal mask, back. Keys that no query of a block sees are not read.
    pub window: Option<usize>,
    /// An additive bias by relative position, \[heads, 2 r - 1\] f32: query `i` and key `j`, counted within their
    /// sequence, get `bias[h, clamp(j - i, -(r - 1), r - 1) + r - 1]`. An entry of -∞ masks.
    pub bias: Option<&'a Tensor>,
    /// The result's dtype, f32, f16 or bf16: what is f32 until then is rounded to it, to nearest even.
    pub out: DType,
}

impl Attention<'_> {
    /// Attention of so many heads to as many, scaled by `1 / sqrt(dim)`, without masks and bias, to f32.
    pub fn new(heads: usize, dim: usize) -> Self {
        let scale = 1.0 / (dim as f32).sqrt();
        Attention {
            heads,
            kv_heads: heads,
            dim,
            scale,
            causal: false,
            window: None,
            bias: None,
            out: DType::F32,
        }
    }

    /// How many query heads share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    q: Part<'a>,
    k: Part<'a>,
    v: Part<'a>,
    q_offsets: &'a Offsets,
    kv_offsets: &'a Offsets,
    how: &'a Attention<'a>,
    mask: Option<Mask>,
    /// `r` of the bias, or 0 without one.
    reach: usize,
    /// Of Q, K, V and what is written.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    dtype: DType,
}

/// With both sequences aligned at their ends, a query sees the keys from `behind` before its own to `ahead` after it.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    behind: usize,
    ahead: usize,
}

impl Mask {
    /// The mask that causality and the window make together. It does not depend on the lengths: bits would on the batch.
    fn new(how: &Attention<'_>) -> Option<Mask> {
        if !how.causal && how.window.is_none() {
            return None;
        }
        // GPUs add these to rows in 32 bits.
        const FAR: usize = 1 << 29;
        let behind = how.window.map_or(FAR, |window| window.min(FAR));
        Some(Mask { behind, ahead: if how.causal { 0 } else { behind } })
    }

    /// The number of keys that a query sees far from the ends.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn span(&self) -> usize {
        self.behind + 1 + self.ahead
    }
}

/// The keys of `keys` that query `i` of `queries` sees.
fn seen(mask: Option<Mask>, i: usize, queries: usize, keys: usize) -> Range<usize> {
    let Some(Mask { behind, ahead }) = mask else { return 0..keys };
    let own = i as isize + keys as isize - queries as isize;
    let within = |j: isize| j.clamp(0, keys as isize) as usize;
    let start = within(own - behind as isize);
    start..within(own + ahead as isize + 1).max(start)
}

/// [`Heads`] with its matrix's width.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    tensor: &'a Tensor,
    start: usize,
    width: usize,
}

/// Softmax attention of each sequence's queries to its keys, for ragged sequences (Vaswani et al.,
/// arXiv:1706.03762): with query rows `q_offsets.range(s)` and key and value rows `kv_offsets.range(s)`, for each
/// head, `softmax(scale * Q Kᵀ + bias) V`. Self-attention passes the same offsets twice. `q` has `heads` heads, `k` and
/// `v` have `kv_heads`; all are of one dtype.
///
/// The softmax streams over tiles of keys (Milakov, Gimelshein, arXiv:1805.02867), so that no score matrix exists;
/// arithmetic is in f32, but on a CUDA device that was opened with
/// [`MatmulPrecision::Medium`](crate::MatmulPrecision::Medium): there Q, K, V and the weights are rounded to bf16. The
/// causal mask and the window are aligned at the end of both sequences, as FlashAttention's since 2.1. A query that sees
/// no key (an empty key sequence, all keys masked) gives zeros. A NaN in a query, or in a key or value that it sees,
/// gives NaN; a key that the causal mask or the window hides has no influence whatever it holds.
///
/// Gives \[`q_offsets.total()`, `heads * dim`\] of the dtype [`Attention::out`]; rows of the inputs beyond the offsets' totals are not read.
///
/// # Errors
/// [`Error::Shape`] if shapes, dtypes or devices do not fit, [`Error::Argument`] if `heads` is 0, `kv_heads` is no divisor
/// of it, `dim` is not within 1 to 128, `scale` is not finite or `out` is no float, [`Error::Unsupported`] if one sequence exceeds what a GPU
/// can bind.
pub fn attention(
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    q_offsets: &Offsets,
    kv_offsets: &Offsets,
    how: &Attention<'_>,
) -> Result<Tensor> {
    if how.heads == 0 {
        return Err(Error::argument("heads", "at least 1", "0"));
    }
    if how.kv_heads == 0 || !how.heads.is_multiple_of(how.kv_heads) {
        let expected = format!("a divisor of {} heads", how.heads);
        return Err(Error::argument("kv_heads", expected, how.kv_heads.to_string()));
    }
    if !(1..=MAX_DIM).contains(&how.dim) {
        return Err(Error::argument("dim", format!("1 to {MAX_DIM}"), how.dim.to_string()));
    }
    if !how.scale.is_finite() {
        return Err(Error::argument("scale", "a finite number", how.scale.to_string()));
    }
    if q_offsets.len() != kv_offsets.len() {
        return Err(Error::shape(
            OP,
            format!("kv_offsets of {} sequences", q_offsets.len()),
            format!("{}", kv_offsets.len()),
        ));
    }
    let reach = match how.bias.map(|b| (b.dtype(), b.shape())) {
        None => 0,
        Some((DType::F32, &[heads, entries])) if heads == how.heads && entries % 2 == 1 => {
            entries.div_ceil(2)
        }
        Some((dtype, shape)) => {
            let expected = format!("bias [{}, 2 r - 1] of f32", how.heads);
            return Err(Error::shape(OP, expected, format!("{shape:?} of {dtype}")));
        }
    };
    check_float(OP, "q", q.tensor)?;
    check_out(how.out)?;
    let dtype = q.tensor.dtype();
    let args = Args {
        q: part("q", q, dtype, how.heads, how.dim, q_offsets)?,
        k: part("k", k, dtype, how.kv_heads, how.dim, kv_offsets)?,
        v: part("v", v, dtype, how.kv_heads, how.dim, kv_offsets)?,
        q_offsets,
        kv_offsets,
        how,
        mask: Mask::new(how),
        reach,
        dtype,
    };
    let mut all = vec![q.tensor, k.tensor, v.tensor, q_offsets.tensor(), kv_offsets.tensor()];
    all.extend(how.bias);
    check_devices(OP, &all)?;
    if is_native(&args) {
        return converted(run(&args)?, how.out);
    }
    let full = [q, k, v].map(|heads| heads.tensor.clone());
    let [q, k, v] = match std::ptr::eq(q.tensor, k.tensor) && std::ptr::eq(q.tensor, v.tensor) {
        true => {
            let [one, ..] = full;
            let one = converted(one, DType::F32)?;
            [one.clone(), one.clone(), one]
        }
        false => {
            let [q, k, v] = full.map(|tensor| converted(tensor, DType::F32));
            [q?, k?, v?]
        }
    };
    let args = Args {
        q: Part { tensor: &q, ..args.q },
        k: Part { tensor: &k, ..args.k },
        v: Part { tensor: &v, ..args.v },
        dtype: DType::F32,
        ..args
    };
    converted(run(&args)?, how.out)
}

/// Whether a kernel takes Q, K and V of this dtype; all take f32. One that takes another writes it too.
fn is_native(args: &Args<'_>) -> bool {
    match args.q.tensor.device().backend() {
        _ if args.dtype == DType::F32 => true,
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => args.how.out == args.dtype && cuda::takes(gpu, args),
        _ => false,
    }
}

fn run(args: &Args<'_>) -> Result<Tensor> {
    match args.q.tensor.device().backend() {
        Backend::Cpu(_) => cpu::attention(args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::attention(gpu, args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::attention(gpu, args),
    }
}

/// Checks that a matrix has the heads' columns and the offsets' rows.
fn part<'a>(
    name: &str,
    columns: Heads<'a>,
    dtype: DType,
    heads: usize,
    dim: usize,
    offsets: &Offsets,
) -> Result<Part<'a>> {
    let (rows, width) = matrix(OP, name, columns.tensor)?;
    if columns.tensor.dtype() != dtype {
        return Err(Error::shape(OP, format!("{name} of {dtype}"), columns.tensor.dtype().name()));
    }
    let end = heads.checked_mul(dim).and_then(|n| n.checked_add(columns.start));
    if end.is_none_or(|end| end > width) {
        let expected = format!("{name} with {heads} heads of {dim} from column {}", columns.start);
        return Err(Error::shape(OP, expected, format!("{width} columns")));
    }
    if rows < offsets.total() {
        let expected = format!("{name} with the {} rows of its offsets", offsets.total());
        return Err(Error::shape(OP, expected, format!("{rows}")));
    }
    Ok(Part { tensor: columns.tensor, start: columns.start, width })
}
