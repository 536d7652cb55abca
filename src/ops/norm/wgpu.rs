//! Normalisation through `shaders/norm.wgsl`: a workgroup a row.

use std::sync::Arc;

use super::{Args, Kind};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::ops::Stored;
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/norm.wgsl";

    spec NormSpec {
        t: Stored = Stored::ALL,
        kind: Kind = [Kind::Layer, Kind::Rms, Kind::L2],
        bias: bool,
        residual: bool,
        subgroups: bool,
        wg: u32 = [64, 256],
    }
    where !bias || kind == Kind::Layer;

    params NormParams { rows: u32, width: u32, eps: f32 }
}

pub(crate) fn norm(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let y = Tensor::wgpu_uninit(args.x.device(), DType::F32, args.x.shape())?;
    if y.is_empty() {
        return Ok(y);
    }
    let kernel = gpu.kernel(NormSpec {
        t: Stored::of(args.x, &gpu.facts),
        kind: args.kind,
        bias: args.bias.is_some(),
        residual: args.residual.is_some(),
        subgroups: gpu.facts.subgroups.is_some(),
        wg: if args.width <= 512 { 64 } else { 256 },
    })?;
    // Rows are split so that no binding exceeds the device's limit.
    for rows in gpu.windows(args.x.shape()[0], args.width * size_of::<f32>())? {
        let mut bindings: Vec<Binding<'_>> = vec![gpu.rows(args.x, &rows, args.width)];
        bindings.extend(args.residual.map(|r| gpu.rows(r, &rows, args.width)));
        bindings.extend([args.weight, args.bias].into_iter().flatten().map(|t| t.wgpu().into()));
        bindings.push(gpu.rows(&y, &rows, args.width));
        let params =
            NormParams { rows: rows.len() as u32, width: args.width as u32, eps: args.eps };
        gpu.launch(&kernel, &bindings, &params, spread(rows.len()))?;
    }
    Ok(y)
}
