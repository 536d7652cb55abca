//! Reductions of rows through `kernels/rows_reduce.ptx`: a warp, or a block, a row's segment.

use std::sync::Arc;

use super::{Kind, Slab};
use crate::device::cuda::{Binding, CudaDevice};
use crate::template::kernel;
use crate::{Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/rows_reduce.ptx";

    spec ReduceSpec {
        kind: Kind = Kind::ALL,
        /// Whether a block takes a segment of a row, not a warp.
        wide: bool,
    }

    params ReduceParams { rows: u32, width: u32, base: u32, first: u32, count: u32, segments: u32, scale: f32 }
}

/// Warps of a block.
const WARPS: usize = 4;

/// Reduces a slab: `first` and `second` are the state, or log-sum-exps and the result of [`Kind::Softmax`].
pub(super) fn launch(
    gpu: &Arc<CudaDevice>,
    slab: &Slab<'_>,
    first: &Tensor,
    second: &Tensor,
) -> Result<()> {
    let (width, count) = (slab.columns.len(), slab.segments.len());
    let rows = slab.x.shape()[0];
    let wide = slab.is_wide();
    let pairs = rows.saturating_mul(count);
    let blocks = if wide { pairs } else { pairs.div_ceil(WARPS) };
    if i32::try_from(blocks).is_err() {
        return Err(Error::Unsupported {
            what: format!("reductions of {rows} rows by {count} segments at a time"),
            device: gpu.name().into(),
        });
    }
    let mut bindings = vec![Binding::from(slab.x.cuda())];
    bindings.extend(slab.targets.map(|targets| Binding::from(targets.cuda())));
    bindings.extend([slab.offsets.tensor(), first].map(|t| Binding::from(t.cuda())));
    if slab.kind != Kind::Mean {
        bindings.push(second.cuda().into());
    }
    let params = ReduceParams {
        rows: rows as u32,
        width: width as u32,
        base: slab.columns.start as u32,
        first: slab.segments.start as u32,
        count: count as u32,
        segments: slab.offsets.len() as u32,
        scale: slab.scale,
    };
    let kernel = gpu.kernel(ReduceSpec { kind: slab.kind, wide })?;
    gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
}
