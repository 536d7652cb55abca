//! Reductions of rows through `shaders/rows_reduce.wgsl`: a workgroup a row's segment.

use std::sync::Arc;

use super::{Kind, Slab};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::template::kernel;
use crate::{Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/rows_reduce.wgsl";

    spec ReduceSpec {
        kind: Kind = Kind::ALL,
        subgroups: bool,
        wg: u32 = [32, 256],
    }
    where !subgroups || kind != Kind::Above && kind != Kind::Softmax;

    params ReduceParams { rows: u32, width: u32, base: u32, first: u32, count: u32, segments: u32, scale: f32, lowest: f32 }
}

/// Reduces a slab: `first` and `second` are the state, or log-sum-exps and the result of [`Kind::Softmax`].
pub(super) fn launch(
    gpu: &Arc<WgpuDevice>,
    slab: &Slab<'_>,
    first: &Tensor,
    second: &Tensor,
) -> Result<()> {
    let (width, count, segments) = (slab.columns.len(), slab.segments.len(), slab.offsets.len());
    let adds_floats = !matches!(slab.kind, Kind::Above | Kind::Softmax);
    let spec = ReduceSpec {
        kind: slab.kind,
        subgroups: adds_floats && gpu.facts.subgroups.is_some(),
        wg: if slab.is_wide() { 256 } else { 32 },
    };
    let kernel = gpu.kernel(spec)?;
    let of_second = if slab.kind == Kind::Softmax { width } else { segments };
    for rows in gpu.windows(slab.x.shape()[0], width.max(segments) * size_of::<f32>())? {
        let mut bindings: Vec<Binding<'_>> = vec![gpu.rows(slab.x, &rows, width)];
        bindings.extend(slab.targets.map(|targets| gpu.rows(targets, &rows, 1)));
        bindings.extend([slab.offsets.tensor().wgpu().into(), gpu.rows(first, &rows, segments)]);
        if slab.kind != Kind::Mean {
            bindings.push(gpu.rows(second, &rows, of_second));
        }
        let params = ReduceParams {
            rows: rows.len() as u32,
            width: width as u32,
            base: slab.columns.start as u32,
            first: slab.segments.start as u32,
            count: count as u32,
            segments: segments as u32,
            scale: slab.scale,
            lowest: f32::NEG_INFINITY,
        };
        gpu.launch(&kernel, &bindings, &params, spread(rows.len() * count))?;
    }
    Ok(())
}
