//! Gated linear units through `kernels/glu.ptx`: a warp a row's tile of columns.

use std::sync::Arc;

use super::Args;
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::gemm::cuda::number;
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

/// Columns of a tile.
const TILE: usize = 128;

kernel! {
    pub(crate) FAMILY = "kernels/glu.ptx";

    spec GluSpec {
        /// Whether rows divide into fours, so that four columns are read and written together.
        vector: bool,
    }

    params GluParams { rows: u32, width: u32, tiles: u32, activation: u32 }
}

pub(super) fn glu(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    let &Args { x, activation, rows, width } = args;
    let y = Tensor::cuda_uninit(x.device(), DType::F32, &[rows, width])?;
    if y.is_empty() {
        return Ok(y);
    }
    let tiles = width.div_ceil(TILE);
    // Rounded up to whole blocks of four warps.
    let warps = (rows * tiles).next_multiple_of(4);
    if u32::try_from(warps).is_err() {
        return Err(Error::Unsupported {
            what: format!("glu of {rows} rows of {width}"),
            device: gpu.name().into(),
        });
    }
    let spec = GluSpec { vector: width.is_multiple_of(4) };
    let kernel = gpu.kernel(spec)?;
    let params = GluParams {
        rows: rows as u32,
        width: width as u32,
        tiles: tiles as u32,
        activation: number(activation),
    };
    gpu.launch(&kernel, &[x, &y].map(|t| Binding::from(t.cuda())), &params, [warps / 4, 1, 1])?;
    Ok(y)
}
