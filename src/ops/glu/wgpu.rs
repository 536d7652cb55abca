//! Gated linear units through `shaders/glu.wgsl`: a workgroup a row's tile of columns.

use std::sync::Arc;

use super::Args;
use crate::device::wgpu::{WgpuDevice, spread};
use crate::ops::gemm::Activation;
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Result, Tensor};

/// Columns of a tile, or fours of them.
const TILE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct GluSpec {
    activation: Activation,
    /// Whether rows divide into fours, so that four columns are read and written together.
    vector: bool,
}

impl Spec for GluSpec {
    const FAMILY: &'static str = "glu";
}

params! {
    struct GluParams { rows: u32, width: u32, tiles: u32 }
}

pub(crate) const FAMILY: Family = Family {
    name: GluSpec::FAMILY,
    spec_keys: || keys(GluSpec { activation: Activation::Gelu, vector: true }),
    params: GluParams::MEMBERS,
    params_size: size_of::<GluParams>(),
};

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
