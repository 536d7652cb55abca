//! Rows of matrices on their device: reduced by segments of columns ([`reduce_products`], [`Reducer`], [`softmax`]), and, for the
//! crate's own use, moved and measured, which corpora and queries of searches are made of.
//!
//! # Reductions
//! What needs all scores of queries by rows takes them this way: [`reduce_products`] forms a slab, reduces it, and puts the next in
//! its place, so that no matrix of all scores exists.
//!
//! Each value is scaled first. Then, for each row and each segment:
//!
//! | reduction | result | of an empty segment |
//! |---|---|---|
//! | [`Max`](Reduction::Max) | the greatest value and the lowest column that has it; NaN never wins | -∞, `u32::MAX` |
//! | [`Mean`](Reduction::Mean) | the mean | 0 |
//! | [`LogSumExp`](Reduction::LogSumExp) | `ln Σ exp(x)`, with the maximum taken out | -∞ |
//! | [`Above`](Reduction::Above) | how many values are greater than the row's target, and how many equal it | 0, 0 |
//!
//! A NaN among its values makes a mean or a log-sum-exp NaN. For `Above` NaN is equal to itself and less than every number, so that the
//! counts are those of a ranking in which NaN comes last.
//!
//! A row's bits depend on the bounds of the slabs and of the segments, never on the other rows. [`reduce_products`] cuts slabs of 2^15
//! columns whatever the number of rows.
//!
//! Counted on CUDA, as `tests/cost` asserts: the maxima of 300 x 5000 read and write 6,002,464 bytes of memory, their log-sum-exps as many,
//! the softmax of 50 segments 12,060,224: 1.00 of the least possible.
//!
//! # Moves and measures
//! Moves keep every element or round it once, to nearest even, subnormal numbers included. What is measured is what
//! `ops::length` says, bit for bit: on CUDA in f64 and in the host's order, on wgpu by integers, whose sum is exact where
//! f64 rounds, so that there one inverse length in some ten million may differ in its last bit.

mod chunked;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod flag;
mod reduce;
#[cfg(all(test, any(feature = "cuda", feature = "wgpu")))]
mod tests;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::ops::{Range, RangeInclusive};

#[cfg(feature = "cuda")]
pub(crate) use reduce::cuda::FAMILY as CUDA_REDUCE;
#[cfg(feature = "wgpu")]
pub(crate) use reduce::wgpu::FAMILY as REDUCE;
pub use reduce::{Reducer, Reduction, Reductions, reduce, reduce_products, softmax};
pub(crate) use reduce::{groups, paired, products};

pub(crate) use chunked::{Beside, Chunk, Rows};
pub(crate) use flag::Flag;

use crate::device::Backend;
#[cfg(feature = "cuda")]
use crate::ops::precision::Product;
use crate::{DType, Result, Tensor};

/// Some rows of a tensor.
pub(crate) type Part<'a> = (&'a Tensor, Range<usize>);

/// A new matrix \[n, `width`\] of the rows of some tensors on one device, one after the other, as `dtype`. Floats may become
/// other floats; other types stay what they are.
pub(crate) fn joined(dtype: DType, width: usize, parts: &[Part<'_>]) -> Result<Tensor> {
    match parts[0].0.device().backend() {
        Backend::Cpu(_) => cpu::joined(dtype, width, parts),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::joined(gpu, dtype, width, parts),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::joined(gpu, dtype, width, parts),
    }
}

/// A tensor of floats as `dtype`, rounded to nearest even: itself where it is that already.
pub(crate) fn converted(tensor: Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor);
    }
    if tensor.is_empty() {
        return Tensor::zeros(tensor.device(), dtype, tensor.shape());
    }
    // A tensor without dimensions is one number.
    let width = tensor.shape().last().copied().unwrap_or(1);
    let rows = tensor.len() / width;
    let matrix = tensor.reshape(&[rows, width])?;
    joined(dtype, width, &[(&matrix, 0..rows)])?.reshape(tensor.shape())
}

/// The rows `rows` of a matrix: itself where they are all.
pub(crate) fn part(tensor: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    match rows == (0..tensor.shape()[0]) {
        true => Ok(tensor.clone()),
        false => joined(tensor.dtype(), tensor.shape()[1], &[(tensor, rows)]),
    }
}

/// Signed bytes \[n, `width` / 4\] u32, four a word, the first lowest, as f32 \[n, `width`\]: times their rows' scales \[n\] f32,
/// if there are any.
pub(crate) fn unpacked(bytes: &Tensor, width: usize, scales: Option<&Tensor>) -> Result<Tensor> {
    match bytes.device().backend() {
        Backend::Cpu(_) => cpu::unpacked(bytes, width, scales),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::unpacked(gpu, bytes, width, scales),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::unpacked(gpu, bytes, width, scales),
    }
}

/// Rows as bytes and scales, by [`int8`](super::int8).
#[derive(Clone, Debug)]
pub(crate) struct Int8 {
    /// \[n, D / 4\] u32, rounded up.
    pub(crate) words: Tensor,
    /// \[n\] f32.
    pub(crate) scales: Tensor,
}

/// The rows `rows` of a matrix \[N, D\] of floats as bytes.
pub(crate) fn quantized(tensor: &Tensor, rows: Range<usize>) -> Result<Int8> {
    match tensor.device().backend() {
        Backend::Cpu(_) => cpu::quantized(tensor, rows),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::quantized(gpu, tensor, rows),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::quantized(gpu, tensor, rows),
    }
}

/// The inverse lengths \[n\] f32 of rows of bytes, without their scales: 0 for zeros, NaN where the scale is.
pub(crate) fn inverse_lengths(int8: &Int8) -> Result<Tensor> {
    match int8.words.device().backend() {
        Backend::Cpu(_) => cpu::inverse_lengths(int8),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::inverse_lengths(gpu, int8),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::inverse_lengths(gpu, int8),
    }
}

/// A new matrix of the rows with the `numbers` \[m\] u32 of the rows of some tensors, counted through them. The numbers are
/// on the device of the tensors, and there are as many rows.
pub(crate) fn gathered(sources: &[&Tensor], width: usize, numbers: &Tensor) -> Result<Tensor> {
    match numbers.device().backend() {
        Backend::Cpu(_) => cpu::gathered(sources, width, numbers),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::gathered(gpu, sources, width, numbers),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::gathered(gpu, sources, width, numbers),
    }
}

/// The number that a row is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// 1 / |x| of the row divided by its power of two; 0 where that is not a number.
    Length,
    /// The power.
    Power,
    /// 1; the row is not divided.
    One,
}

/// The numbers \[n\] f32 of rows \[n, D\] of floats, NaN for rows with a NaN, and whether some rows are not plain, which a GPU
/// is asked for unless it is given.
pub(crate) fn measured(rows: &Tensor, kind: Kind, unusual: Option<bool>) -> Result<(Tensor, Flag)> {
    match rows.device().backend() {
        Backend::Cpu(_) => cpu::measured(rows, kind, unusual),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::measured(gpu, rows, kind, unusual),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::measured(gpu, rows, kind, unusual),
    }
}

/// A copy of rows \[n, D\] divided by their `powers` \[n\] f32, of which one that is NaN stands for 1.
pub(crate) fn divided(rows: &Tensor, powers: &Tensor) -> Result<Tensor> {
    match rows.device().backend() {
        Backend::Cpu(_) => cpu::divided(rows, powers),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::divided(gpu, rows, powers),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::divided(gpu, rows, powers),
    }
}

/// Rows as a kernel compares them.
#[derive(Clone, Debug)]
pub(crate) struct Reduced {
    /// \[n, D\] f32, divided by their powers of two, or words of bytes.
    pub(crate) data: Tensor,
    /// Their numbers, \[n\] f32.
    pub(crate) scale: Tensor,
}

/// The rows `rows` of a matrix of floats, divided by the powers of two that take their exponents into `plain`, and their numbers.
pub(crate) fn reduced(
    tensor: &Tensor,
    rows: Range<usize>,
    kind: Kind,
    plain: &RangeInclusive<i32>,
) -> Result<Reduced> {
    match tensor.device().backend() {
        Backend::Cpu(_) => cpu::reduced(tensor, rows, kind, plain),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => Ok(cuda::reduced(gpu, tensor, rows, kind, plain, Product::FMA)?.0),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::reduced(gpu, tensor, rows, kind, plain),
    }
}

/// The ends of a range of exponents, plus 127, as kernels take them.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn ends(plain: &RangeInclusive<i32>) -> [u32; 2] {
    [plain.start(), plain.end()].map(|e| (e + 127) as u32)
}
