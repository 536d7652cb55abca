//! Ragged scaled-dot-product attention.
//!
//! Counted on CUDA, as `tests/cost` asserts, for three sequences, 12 heads of 64 (memory, of the least possible; asked of the
//! caches): 77 keys 2,838,560 bytes, 1.000, 8,548,224; 128 keys 4,718,624 bytes, 1.000, 21,285,504; 197 keys 7,262,240
//! bytes, 1.000, 29,129,472. No scores are written and no bank conflicts.
//!
//! On tensor cores K and V of a sequence are read once for up to 512 queries and stay in shared memory where they fit. Counted
//! for 12 heads of 64: 18 sequences of 77 17,031,168 bytes, 1.000, 17,031,168; 6 of 257 18,948,096 bytes, 1.000.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod panel;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::{check_devices, matrix};
use crate::device::Backend;
use crate::{DType, Error, Offsets, Result, Tensor};

const OP: &str = "attention";
/// The largest head dimension.
const MAX_DIM: usize = 128;

/// `heads * dim` adjacent columns of a row-major \[T, W\] f32 matrix: head `h` is columns
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
    /// The number of heads, at least 1.
    pub heads: usize,
    /// The dimension of a head, 1 to 128.
    pub dim: usize,
    /// The factor of the dot products, mostly `1 / sqrt(dim)`.
    pub scale: f32,
    /// Whether query `i` of `Lq` sees key `j` of `Lk` only where `j <= i + Lk - Lq`, so that the last query sees
    /// every key.
    pub causal: bool,
    /// An additive bias by relative position, \[heads, 2 r - 1\] f32: query `i` and key `j`, counted within their
    /// sequence, get `bias[h, clamp(j - i, -(r - 1), r - 1) + r - 1]`. An entry of -∞ masks.
    pub bias: Option<&'a Tensor>,
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    q: Part<'a>,
    k: Part<'a>,
    v: Part<'a>,
    q_offsets: &'a Offsets,
    kv_offsets: &'a Offsets,
    how: &'a Attention<'a>,
    /// `r` of the bias, or 0 without one.
    reach: usize,
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
/// head, `softmax(scale * Q Kᵀ + bias) V`. Self-attention passes the same offsets twice.
///
/// The softmax streams over tiles of keys (Milakov, Gimelshein, arXiv:1805.02867), so that no score matrix exists;
/// arithmetic is in f32, but on a CUDA device that was opened with
/// [`MatmulPrecision::Medium`](crate::MatmulPrecision::Medium): there Q, K, V and the weights are rounded to bf16. The causal mask is aligned at the end of both sequences, as FlashAttention's since 2.1.
/// A query that sees no key (an empty key sequence, all keys masked) gives zeros. A NaN in a query, or in a key or
/// value that it sees, gives NaN; a causally hidden key has no influence whatever it holds.
///
/// Gives \[`q_offsets.total()`, `heads * dim`\] f32; rows of the inputs beyond the offsets' totals are not read.
///
/// # Errors
/// [`Error::Shape`] if shapes, dtypes or devices do not fit, [`Error::Argument`] if `heads` is 0, `dim` is not
/// within 1 to 128 or `scale` is not finite, [`Error::Unsupported`] if one sequence exceeds what a GPU can bind.
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
    let args = Args {
        q: part("q", q, how, q_offsets)?,
        k: part("k", k, how, kv_offsets)?,
        v: part("v", v, how, kv_offsets)?,
        q_offsets,
        kv_offsets,
        how,
        reach,
    };
    let mut all = vec![q.tensor, k.tensor, v.tensor, q_offsets.tensor(), kv_offsets.tensor()];
    all.extend(how.bias);
    check_devices(OP, &all)?;
    match q.tensor.device().backend() {
        Backend::Cpu(_) => cpu::attention(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::attention(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::attention(gpu, &args),
    }
}

/// Checks that a matrix has the heads' columns and the offsets' rows.
fn part<'a>(
    name: &str,
    heads: Heads<'a>,
    how: &Attention<'_>,
    offsets: &Offsets,
) -> Result<Part<'a>> {
    let (rows, width) = matrix(OP, name, heads.tensor)?;
    if heads.tensor.dtype() != DType::F32 {
        return Err(Error::shape(OP, format!("{name} of f32"), heads.tensor.dtype().name()));
    }
    let end = how.heads.checked_mul(how.dim).and_then(|n| n.checked_add(heads.start));
    if end.is_none_or(|end| end > width) {
        let expected =
            format!("{name} with {} heads of {} from column {}", how.heads, how.dim, heads.start);
        return Err(Error::shape(OP, expected, format!("{width} columns")));
    }
    if rows < offsets.total() {
        let expected = format!("{name} with the {} rows of its offsets", offsets.total());
        return Err(Error::shape(OP, expected, format!("{rows}")));
    }
    Ok(Part { tensor: heads.tensor, start: heads.start, width })
}
