//! Gated linear units through `shaders/glu.wgsl`: a workgroup a row's tile of columns.

use std::sync::Arc;

use super::Args;
use crate::device::wgpu::{WgpuDevice, spread};
use crate::ops::gemm::Activation;
use crate::template::kernel;
use crate::{DType, Result, Tensor};

/// Columns of a tile, or fours of them.
const TILE: usize = 256;

kernel! {
    pub(crate) FAMILY = "shaders/glu.wgsl";

    spec GluSpec {
        activation: Activation = Activation::ALL,
        /// Whether rows divide into fours, so that four columns are read and written together.
        vector: bool,
    }

    params GluParams { rows: u32, width: u32, tiles: u32 }
}

pub(super) fn glu(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let &Args { x, activation, rows, width } = args;
    let y = Tensor::wgpu_uninit(x.device(), DType::F32, &[rows, width])?;
    if y.is_empty() {
        return Ok(y);
    }
    let vector = width.is_multiple_of(4);
    let kernel = gpu.kernel(GluSpec { activation, vector })?;
    let units = if vector { width / 4 } else { width };
    let tiles = units.div_ceil(TILE);
    for rows in gpu.windows(rows, 2 * width * size_of::<f32>())? {
        let bindings = [gpu.rows(x, &rows, 2 * width), gpu.rows(&y, &rows, width)];
        let (count, width, tiles) = (rows.len() as u32, units as u32, tiles as u32);
        let params = GluParams { rows: count, width, tiles };
        gpu.launch(&kernel, &bindings, &params, spread(rows.len() * tiles as usize))?;
    }
    Ok(y)
}
