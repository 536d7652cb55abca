//! Operations: public functions on tensors, one folder a family.
//!
//! In each folder `mod.rs` is the contract (formula, shapes, checks, dispatch), `cpu.rs` the CPU backend,
//! `wgpu.rs` the choice of specialisation and launch shape for the shader of the same stem. Operations only
//! enqueue on GPUs; waiting is in [`Tensor::to_vec`](crate::Tensor::to_vec). Inputs live on one device.

pub mod attention;
pub mod embed;
pub mod gemm;
pub mod glu;
pub mod hamming;
pub mod kmeans;
pub mod maxsim;
pub mod norm;
pub mod pool;
pub mod residual;
pub mod rope;
pub mod rows;
pub mod select;
pub mod sparse;
pub mod topk;

pub(crate) mod dots;
pub(crate) mod int8;
pub(crate) mod length;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod precision;
pub(crate) mod random;
pub(crate) mod replay;
pub(crate) mod storage;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::template::Family;
use crate::{Device, Error, Result, Tensor};

/// Every shader, for the contract test; see `template::Family`.
#[cfg(feature = "wgpu")]
#[doc(hidden)]
pub const FAMILIES: &[Family] = &[
    attention::wgpu::FAMILY,
    embed::wgpu::FAMILY,
    gemm::wgpu::FAMILY,
    glu::wgpu::FAMILY,
    maxsim::wgpu::FAMILY,
    hamming::wgpu::FAMILY,
    hamming::wgpu::ENCODE,
    norm::wgpu::FAMILY,
    pool::wgpu::FAMILY,
    residual::wgpu::FAMILY,
    rope::wgpu::FAMILY,
    rows::wgpu::FAMILY,
    rows::wgpu::MEASURE,
    rows::wgpu::INT8,
    rows::REDUCE,
    sparse::wgpu::FAMILY,
    topk::wgpu::FAMILY,
    select::wgpu::MERGE,
    select::wgpu::FILTER,
    select::wgpu::SORT,
    select::wgpu::CUT,
    select::wgpu::SPLIT,
    select::scores::wgpu::FAMILY,
];

/// Every PTX kernel, for the contract test.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub const CUDA_FAMILIES: &[Family] = &[
    attention::cuda::FAMILY,
    attention::cuda::MMA,
    embed::cuda::FAMILY,
    gemm::cuda::FAMILY,
    gemm::hopper::FAMILY,
    gemm::hopper::TMA,
    gemm::split::FAMILY,
    glu::cuda::FAMILY,
    maxsim::cuda::FAMILY,
    hamming::cuda::FAMILY,
    hamming::cuda::FEW_CODES,
    hamming::cuda::ENCODE,
    hamming::hopper::FAMILY,
    norm::cuda::FAMILY,
    pool::cuda::FAMILY,
    residual::cuda::FAMILY,
    rope::cuda::FAMILY,
    rows::cuda::FAMILY,
    rows::cuda::MEASURE,
    rows::cuda::INT8,
    rows::CUDA_REDUCE,
    sparse::cuda::FAMILY,
    topk::cuda::FAMILY,
    topk::cuda::TENSOR,
    topk::hopper::FAMILY,
    topk::rough::FAMILY,
    topk::rough::ROUND,
    topk::rough::EXACT,
    select::cuda::MERGE,
    select::cuda::FILTER,
    select::cuda::SORT,
    select::cuda::CUT,
    select::cuda::SPLIT,
    select::sift::BOUND,
    select::sift::PICK,
    select::scores::cuda::FAMILY,
];

/// The stored type of a tensor as kernels name it: `f16p` is f16 on an adapter that lacks `SHADER_F16`, `int8` four bytes in a
/// u32.
#[cfg(feature = "wgpu")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stored {
    F32,
    F16,
    F16P,
    BF16,
    Int8,
}

#[cfg(feature = "wgpu")]
impl Stored {
    pub(crate) const ALL: [Stored; 4] = [Stored::F32, Stored::F16, Stored::F16P, Stored::BF16];

    pub(crate) fn of(tensor: &Tensor, facts: &crate::device::WgpuFacts) -> Stored {
        match tensor.dtype() {
            crate::DType::F16 if facts.f16 => Stored::F16,
            crate::DType::F16 => Stored::F16P,
            crate::DType::BF16 => Stored::BF16,
            _ => Stored::F32,
        }
    }
}

/// Checks that a tensor is a float.
pub(crate) fn check_float(op: &'static str, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype().is_float() {
        Ok(())
    } else {
        Err(Error::shape(op, format!("{name} of f32, f16 or bf16"), tensor.dtype().name()))
    }
}

/// Checks that a result can be of a dtype.
pub(crate) fn check_out(out: crate::DType) -> Result<()> {
    match out.is_float() {
        true => Ok(()),
        false => Err(Error::argument("out", "f32, f16 or bf16", out.name())),
    }
}

/// Checks a tensor's dtype and shape.
pub(crate) fn check(
    op: &'static str,
    name: &str,
    tensor: &Tensor,
    dtype: crate::DType,
    shape: &[usize],
) -> Result<()> {
    if tensor.dtype() == dtype && tensor.shape() == shape {
        Ok(())
    } else {
        Err(Error::shape(
            op,
            format!("{name} {shape:?} of {dtype}"),
            format!("{:?} of {}", tensor.shape(), tensor.dtype()),
        ))
    }
}

/// Checks that all tensors are on the first one's device, or all on the CPU.
pub(crate) fn check_devices(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    for tensor in &tensors[1..] {
        check_device(op, "all tensors", tensors[0].device(), tensor.device())?;
    }
    Ok(())
}

/// Checks that tensors of `got` may meet those of `device`.
pub(crate) fn check_device(
    op: &'static str,
    what: &str,
    device: &Device,
    got: &Device,
) -> Result<()> {
    if got.meets(device) {
        return Ok(());
    }
    let (expected, got) = device.told_apart(got);
    Err(Error::shape(op, format!("{what} on {expected}"), format!("one on {got}")))
}

/// Checks that a tensor has two dimensions and gives them.
pub(crate) fn matrix(op: &'static str, name: &str, tensor: &Tensor) -> Result<(usize, usize)> {
    match tensor.shape() {
        &[rows, columns] => Ok((rows, columns)),
        other => Err(Error::shape(op, format!("{name} with 2 dimensions"), format!("{other:?}"))),
    }
}
