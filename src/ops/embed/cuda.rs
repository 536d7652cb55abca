//! Through `kernels/embed.ptx`.

use std::sync::Arc;

use super::Args;
use crate::device::cuda::CudaDevice;
use crate::{Error, Result, Tensor};

pub(super) fn embed(gpu: &Arc<CudaDevice>, _args: &Args<'_>) -> Result<Tensor> {
    Err(Error::Unsupported { what: "embed".into(), device: gpu.name().into() })
}
