//! Rotary position embedding through `kernels/rope.ptx`: a block a row, some lanes a head.

use std::sync::Arc;

use super::Args;
use crate::device::cuda::{Binding, CudaDevice};
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/rope.ptx";

    spec RopeSpec {
        norm: bool,
        /// Whether columns are read and written in fours.
        vector: bool,
        /// Lanes that share a head.
        lanes: u32 = [8, 16, 32],
    }
    where vector || lanes == 32;

    params RopeParams { sequences: u32, width: u32, heads: u32, turned: u32, dim: u32, half: u32, eps: f32 }
}

pub(super) fn rope(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    let y = Tensor::cuda_uninit(args.x.device(), DType::F32, args.x.shape())?;
    if y.is_empty() {
        return Ok(y);
    }
    let vector = args.vector();
    let lanes = match args.how.dim {
        _ if !vector => 32,
        // A lane holds eight columns.
        dim => (dim.div_ceil(8) as u32).next_power_of_two().max(8),
    };
    let norm = args.how.norm;
    let spec = RopeSpec { norm: norm.is_some(), vector, lanes };
    let kernel = gpu.kernel(spec)?;
    let width = u32::try_from(args.width).map_err(|_| Error::Unsupported {
        what: format!("rope of {} columns", args.width),
        device: gpu.name().into(),
    })?;
    let params = RopeParams {
        sequences: args.offsets.len() as u32,
        width,
        heads: args.how.heads as u32,
        turned: args.turned() as u32,
        dim: args.how.dim as u32,
        half: args.half as u32,
        eps: norm.map_or(0.0, |norm| norm.eps),
    };
    let mut inputs = vec![args.x, args.offsets.tensor(), args.how.cos, args.how.sin];
    inputs.extend(norm.iter().flat_map(|norm| [norm.query, norm.key]));
    inputs.push(&y);
    let bindings: Vec<Binding<'_>> = inputs.into_iter().map(|t| t.cuda().into()).collect();
    gpu.launch(&kernel, &bindings, &params, [args.offsets.total(), 1, 1])?;
    Ok(y)
}
