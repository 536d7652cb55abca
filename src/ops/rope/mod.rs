//! Rotary position embedding of the query and key heads of a fused projection, with their normalisation.
//!
//! Counted on CUDA, as `tests/cost` asserts: 225 rows of five sequences, 12 and 12 heads of 64 among 2304 columns, read and
//! write 4,180,000 bytes of memory, 1.000 of the least possible, in 163,350 warp instructions; 16 and 8 heads of 128 with
//! norms among 4096 columns 7,439,392 bytes, 1.000. No bank conflicts.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::{check, check_devices, matrix};
use crate::device::Backend;
use crate::{DType, Error, Offsets, Result, Tensor};

const OP: &str = "rope";
/// The largest head dimension.
const MAX_DIM: usize = 256;

/// Which columns are turned, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// The number of query heads, at least 1.
    pub heads: usize,
    /// The number of key heads, at least 1.
    pub kv_heads: usize,
    /// The dimension of a head, 2 to 256.
    pub dim: usize,
    /// The cosines of every position's angles, \[P, R / 2\] f32. The first R columns of a head are turned, the others stay.
    pub cos: &'a Tensor,
    /// The sines, as `cos`.
    pub sin: &'a Tensor,
    /// The normalisation of each head before it is turned.
    pub norm: Option<QkNorm<'a>>,
}

/// Root-mean-square normalisation of query and key heads (Henry et al., arXiv:2010.04245, with the root mean square of
/// Qwen3, arXiv:2505.09388): `v / sqrt(mean v^2 + eps) * weight` over the columns of a head.
#[derive(Clone, Copy, Debug)]
pub struct QkNorm<'a> {
    /// The weight of query heads, \[dim\] f32.
    pub query: &'a Tensor,
    /// The weight of key heads, \[dim\] f32.
    pub key: &'a Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    x: &'a Tensor,
    offsets: &'a Offsets,
    how: &'a Rotary<'a>,
    width: usize,
    /// Half of the columns of a head that are turned.
    half: usize,
}

/// Rotary position embedding (Su et al., arXiv:2104.09864) of a fused projection.
///
/// `x` \[T, W\] f32 with the T rows that `offsets` divide into sequences. Columns `0..(heads + kv_heads) * dim` are query
/// heads, then key heads; the others, the values, are copied. In each head the row at position `p` of its sequence is
/// normalised if [`norm`](Rotary::norm) says so, and then column `i < R / 2` is turned with column `i + R / 2` (the form
/// of GPT-NeoX):
///
/// `y[i] = x[i] cos[p][i] - x[i + R / 2] sin[p][i]`, `y[i + R / 2] = x[i + R / 2] cos[p][i] + x[i] sin[p][i]`.
///
/// Columns from R on stay what they are after the normalisation. Gives \[T, W\] f32.
///
/// # Errors
/// [`Error::Shape`] if shapes, dtypes or devices do not fit, [`Error::Argument`] if `heads` or `kv_heads` is 0, `dim` is
/// not within 2 to 256, a sequence is longer than P, or `eps` is negative or NaN.
pub fn rope(x: &Tensor, offsets: &Offsets, how: &Rotary<'_>) -> Result<Tensor> {
    for (name, heads) in [("heads", how.heads), ("kv_heads", how.kv_heads)] {
        if heads == 0 {
            return Err(Error::argument(name, "at least 1", "0"));
        }
    }
    if !(2..=MAX_DIM).contains(&how.dim) {
        return Err(Error::argument("dim", format!("2 to {MAX_DIM}"), how.dim.to_string()));
    }
    let (_, width) = matrix(OP, "x", x)?;
    check(OP, "x", x, DType::F32, &[offsets.total(), width])?;
    let turned = how.heads.checked_add(how.kv_heads).and_then(|n| n.checked_mul(how.dim));
    if turned.is_none_or(|turned| turned > width) {
        let expected = format!("x with {} + {} heads of {}", how.heads, how.kv_heads, how.dim);
        return Err(Error::shape(OP, expected, format!("{width} columns")));
    }
    let (positions, half) = matrix(OP, "cos", how.cos)?;
    if !(1..=how.dim / 2).contains(&half) {
        let expected = format!("cos of 1 to {} columns", how.dim / 2);
        return Err(Error::shape(OP, expected, half.to_string()));
    }
    check(OP, "cos", how.cos, DType::F32, &[positions, half])?;
    check(OP, "sin", how.sin, DType::F32, &[positions, half])?;
    let longest = offsets.max_len();
    if longest > positions {
        let expected = format!("sequences of at most {positions} rows, the positions of cos");
        return Err(Error::argument("offsets", expected, format!("one of {longest}")));
    }
    let mut all = vec![x, offsets.tensor(), how.cos, how.sin];
    if let Some(QkNorm { query, key, eps }) = how.norm {
        check(OP, "norm.query", query, DType::F32, &[how.dim])?;
        check(OP, "norm.key", key, DType::F32, &[how.dim])?;
        if eps.is_nan() || eps < 0.0 {
            return Err(Error::argument("eps", "a number of at least 0", eps.to_string()));
        }
        all.extend([query, key]);
    }
    check_devices(OP, &all)?;
    let args = Args { x, offsets, how, width, half };
    match x.device().backend() {
        Backend::Cpu(_) => cpu::rope(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::rope(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::rope(gpu, &args),
    }
}

impl Args<'_> {
    /// The query and key heads together.
    fn turned(&self) -> usize {
        self.how.heads + self.how.kv_heads
    }

    /// Whether what is turned together, heads and rows all start at multiples of four columns.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn vector(&self) -> bool {
        [self.width, self.how.dim, self.half].iter().all(|n| n.is_multiple_of(4))
    }
}
