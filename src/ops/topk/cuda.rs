//! Through `kernels/topk.ptx`.

use std::sync::Arc;

use super::Args;
use crate::device::cuda::CudaDevice;
use crate::{Error, Result};

pub(super) fn topk(gpu: &Arc<CudaDevice>, _args: &Args<'_>) -> Result<super::Hits> {
    Err(Error::Unsupported { what: "topk".into(), device: gpu.name().into() })
}
