//! Normalisation through `kernels/norm.ptx`: a warp or a block a row, the row in registers.

use std::sync::Arc;

use super::{Args, Kind};
use crate::device::cuda::{Binding, CudaDevice};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/norm.ptx";

    spec NormSpec {
        t: DType = DType::FLOATS,
        kind: Kind = [Kind::Layer, Kind::Rms, Kind::L2],
        bias: bool,
        residual: bool,
        /// Whether the result is written as f32.
        full: bool,
        /// Whether it is written as bf16.
        half: bool,
        /// Whether rows divide into fours, so that four columns are read and written together.
        vector: bool,
        /// Fours of columns that a thread holds; 0 where the row does not fit the registers.
        quads: u32 = [0, 1, 2, 3, 4, 6, 8],
        /// Warps that share a row.
        warps: u32 = [1, 8],
    }
    where (if half { t == DType::F32 && !residual && kind != Kind::L2 } else { full })
        && (!bias || kind == Kind::Layer)
        && (warps == 8 || quads > 0)
        && (!vector || quads > 0);

    params NormParams { rows: u32, width: u32, eps: f32 }
}

/// The fours of columns that a thread may hold.
const QUADS: [usize; 6] = [1, 2, 3, 4, 6, 8];

/// Quads of a thread and warps of a row: a warp where that is enough, else a block.
pub(crate) fn shape(width: usize) -> (usize, usize) {
    for warps in [1, 8] {
        if let Some(quads) = QUADS.into_iter().find(|quads| 128 * warps * quads >= width) {
            return (quads, warps);
        }
    }
    (0, 8)
}

/// The result as f32 or bf16 or both in one launch, where the kernel can and `outs` have them; else as f32.
pub(super) fn norm(gpu: &Arc<CudaDevice>, args: &Args<'_>, outs: &[DType]) -> Result<Vec<Tensor>> {
    let rounds = args.x.dtype() == DType::F32 && args.residual.is_none() && args.kind != Kind::L2;
    let half = rounds && outs.contains(&DType::BF16);
    let full = !half || outs.iter().any(|&out| out != DType::BF16);
    let made = |wanted: bool, dtype| {
        wanted.then(|| Tensor::cuda_uninit(args.x.device(), dtype, args.x.shape())).transpose()
    };
    let (full, half) = (made(full, DType::F32)?, made(half, DType::BF16)?);
    launch(gpu, args, full.as_ref(), half.as_ref())?;
    Ok([full, half].into_iter().flatten().collect())
}

fn launch(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    full: Option<&Tensor>,
    half: Option<&Tensor>,
) -> Result<()> {
    if args.x.is_empty() {
        return Ok(());
    }
    let (rows, (quads, warps)) = (args.x.shape()[0], shape(args.width));
    let spec = NormSpec {
        t: args.x.dtype(),
        kind: args.kind,
        bias: args.bias.is_some(),
        residual: args.residual.is_some(),
        full: full.is_some(),
        half: half.is_some(),
        vector: args.width.is_multiple_of(4) && quads > 0,
        quads: quads as u32,
        warps: warps as u32,
    };
    let kernel = gpu.kernel(spec)?;
    let tensors = [Some(args.x), args.residual, args.weight, args.bias, full, half];
    let bindings: Vec<Binding<'_>> =
        tensors.into_iter().flatten().map(|t| t.cuda().into()).collect();
    let params = NormParams { rows: rows as u32, width: args.width as u32, eps: args.eps };
    let blocks = if warps == 1 { rows.div_ceil(4) } else { rows };
    gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
}
