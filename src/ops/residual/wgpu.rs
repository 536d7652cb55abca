//! Decoding through `shaders/residual.wgsl`: a workgroup a vector.

use std::sync::Arc;

use super::{Args, Codec, EPS};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/residual.wgsl";

    spec ResidualSpec {
        bits: u32 = [1, 2, 4],
        subgroups: bool,
    }

    params ResidualParams { rows: u32, width: u32, words: u32, eps: f32 }
}

pub(super) fn decode(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let &Args { codec, codes, rows, width } = args;
    let words = codec.words();
    check_centroids(gpu, codec)?;
    let y = Tensor::wgpu_uninit(codes.device(), DType::F32, &[rows, width])?;
    let subgroups = gpu.facts.subgroups.is_some();
    let kernel = gpu.kernel(ResidualSpec { bits: codec.bits(), subgroups })?;
    for window in gpu.windows(rows, width * size_of::<f32>())? {
        let bindings: [Binding<'_>; 5] = [
            codec.centroids.wgpu().into(),
            codec.table.wgpu().into(),
            gpu.rows(&codes.centroids, &window, 1),
            gpu.rows(&codes.residuals, &window, words),
            gpu.rows(&y, &window, width),
        ];
        let (rows, width, words) = (window.len() as u32, width as u32, words as u32);
        let params = ResidualParams { rows, width, words, eps: EPS };
        gpu.launch(&kernel, &bindings, &params, spread(window.len()))?;
    }
    Ok(y)
}

/// Whether one binding holds all centroids.
pub(crate) fn check_centroids(gpu: &WgpuDevice, codec: &Codec) -> Result<()> {
    let (bytes, limit) = (codec.centroids.bytes(), gpu.facts.max_binding);
    if bytes as u64 <= limit {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("{bytes} bytes of centroids, beyond its binding limit of {limit} bytes"),
        device: codec.device().name(),
    })
}
