//! Through `kernels/gemm.ptx`.

use std::sync::Arc;

use super::Args;
use crate::device::cuda::CudaDevice;
use crate::{Error, Result, Tensor};

pub(super) fn gemm(gpu: &Arc<CudaDevice>, _args: &Args<'_>) -> Result<Tensor> {
    Err(Error::Unsupported { what: "gemm".into(), device: gpu.name().into() })
}
