//! Gated linear units.
//!
//! Counted on CUDA, as `tests/cost` asserts: 200 x 1152 take 2,764,800 bytes of memory, 1.000 of the least possible, in 185,400
//! warp instructions for GEGLU and 127,800 for SwiGLU.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::gemm::Activation;
use super::matrix;
use crate::device::Backend;
use crate::{DType, Error, Result, Tensor};

const OP: &str = "glu";

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    x: &'a Tensor,
    activation: Activation,
    rows: usize,
    /// The result's columns.
    width: usize,
}

/// The gate of a gated linear unit (Shazeer, arXiv:2002.05202): `activation(x[:, ..I]) * x[:, I..]`. With
/// [`Silu`](Activation::Silu) that is SwiGLU, with [`Gelu`](Activation::Gelu) GEGLU, with [`Relu`](Activation::Relu)
/// ReGLU, with [`None`](Activation::None) the bilinear layer.
///
/// `x` \[T, 2 I\] f32, the projection whose first half is the gate; gives \[T, I\] f32.
///
/// # Errors
/// [`Error::Shape`] if `x` is not a matrix of f32 with an even number of columns.
pub fn glu(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let (rows, columns) = matrix(OP, "x", x)?;
    if x.dtype() != DType::F32 {
        return Err(Error::shape(OP, "x of f32", x.dtype().name()));
    }
    if !columns.is_multiple_of(2) {
        return Err(Error::shape(OP, "x with an even number of columns", columns.to_string()));
    }
    let args = Args { x, activation, rows, width: columns / 2 };
    match x.device().backend() {
        Backend::Cpu(_) => cpu::glu(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::glu(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::glu(gpu, &args),
    }
}
