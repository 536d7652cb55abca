//! Rotary position embedding through `shaders/rope.wgsl`: a workgroup a row, eight threads a head.

use std::sync::Arc;

use super::Args;
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/rope.wgsl";

    spec RopeSpec {
        norm: bool,
        /// Whether columns are read and written in fours.
        vector: bool,
    }

    params RopeParams {
        // Rows of this launch, and the first of them.
        rows: u32, first: u32, sequences: u32,
        // Columns, in fours if VECTOR: of a row, of a head, of half of what is turned.
        width: u32, heads: u32, turned: u32, dim: u32, half: u32, eps: f32,
    }
}

pub(super) fn rope(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let &Args { x, offsets, how, width, half } = args;
    let y = Tensor::wgpu_uninit(x.device(), DType::F32, x.shape())?;
    if y.is_empty() {
        return Ok(y);
    }
    // Of the tables, the positions that there are.
    let positions = 0..offsets.max_len();
    if (positions.end * half * size_of::<f32>()) as u64 > gpu.facts.max_binding {
        return Err(Error::Unsupported {
            what: format!(
                "rope of {} positions, beyond its bindings of {} bytes",
                positions.end, gpu.facts.max_binding
            ),
            device: gpu.info.name.clone(),
        });
    }
    let (norm, vector) = (how.norm, args.vector());
    let kernel = gpu.kernel(RopeSpec { norm: norm.is_some(), vector })?;
    let unit = if vector { 4 } else { 1 };
    for rows in gpu.windows(offsets.total(), width * size_of::<f32>())? {
        let mut bindings: Vec<Binding<'_>> =
            vec![gpu.rows(x, &rows, width), offsets.tensor().wgpu().into()];
        bindings.extend([how.cos, how.sin].map(|table| gpu.rows(table, &positions, half)));
        let weights = norm.iter().flat_map(|norm| [norm.query, norm.key]);
        bindings.extend(weights.map(|w| Binding::from(w.wgpu())));
        bindings.push(gpu.rows(&y, &rows, width));
        let params = RopeParams {
            rows: rows.len() as u32,
            first: rows.start as u32,
            sequences: offsets.len() as u32,
            width: (width / unit) as u32,
            heads: how.heads as u32,
            turned: args.turned() as u32,
            dim: (how.dim / unit) as u32,
            half: (half / unit) as u32,
            eps: norm.map_or(0.0, |norm| norm.eps),
        };
        gpu.launch(&kernel, &bindings, &params, spread(rows.len()))?;
    }
    Ok(y)
}
