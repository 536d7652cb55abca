//! Lookups through `kernels/embed.ptx`: a warp or a block a token.
//!
//! Tables of one type are looked up, added and normalised in one launch. Of several types, each is added to the result by
//! a launch of its own, and the norm follows.

use std::sync::Arc;

use super::Args;
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::norm;
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/embed.ptx";

    spec EmbedSpec {
        t: DType = DType::FLOATS,
        tables: u32 = [1, 2, 3],
        /// Whether the result holds the sum of earlier tables.
        add: bool,
        norm: bool,
        /// Whether rows divide into fours, so that four columns are read and written together.
        vector: bool,
        /// As for norm; 0 without one.
        quads: u32 = [0, 1, 2, 3, 4, 6, 8],
        warps: u32 = [1, 8],
    }
    where (!norm || !vector || quads > 0)
        && match norm {
            true => (warps == 8 || quads > 0) && !add,
            false => warps == 1 && quads == 0 && (tables == 1 || !add),
        };

    params EmbedParams { rows: u32, width: u32, stride: u32, lookup: u32, eps: f32 }
}

pub(super) fn embed(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    let y = Tensor::cuda_uninit(args.rows.device(), DType::F32, &[args.tokens, args.width])?;
    if y.is_empty() {
        return Ok(y);
    }
    let (count, t) = (args.tables.len(), args.tables[0].dtype());
    if args.tables.iter().all(|table| table.dtype() == t) {
        add(gpu, args, 0..count, &y)?;
        return Ok(y);
    }
    for i in 0..count {
        add(gpu, &Args { norm: None, ..*args }, i..i + 1, &y)?;
    }
    match &args.norm {
        Some(n) => norm::layer_norm(&y, None, n.weight, Some(n.bias), n.eps),
        None => Ok(y),
    }
}

/// Enqueues the sum of the lookups in `which`, added to `y` unless they are the first, and the norm if there is one.
fn add(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    which: std::ops::Range<usize>,
    y: &Tensor,
) -> Result<()> {
    let tables = &args.tables[which.clone()];
    let (quads, warps) = match args.norm {
        Some(_) => norm::cuda::shape(args.width),
        None => (0, 1),
    };
    let spec = EmbedSpec {
        t: tables[0].dtype(),
        tables: tables.len() as u32,
        add: which.start > 0,
        norm: args.norm.is_some(),
        vector: args.width.is_multiple_of(4) && (quads > 0 || args.norm.is_none()),
        quads: quads as u32,
        warps: warps as u32,
    };
    let kernel = gpu.kernel(spec)?;
    let mut bindings: Vec<Binding<'_>> = tables.iter().map(|t| t.cuda().into()).collect();
    bindings.push(args.rows.cuda().into());
    if let Some(norm) = &args.norm {
        bindings.extend([Binding::from(norm.weight.cuda()), norm.bias.cuda().into()]);
    }
    bindings.push(y.cuda().into());
    let params = EmbedParams {
        rows: args.tokens as u32,
        width: args.width as u32,
        stride: args.tables.len() as u32,
        lookup: which.start as u32,
        eps: args.norm.map_or(0.0, |n| n.eps),
    };
    let blocks = if warps == 1 { args.tokens.div_ceil(4) } else { args.tokens };
    gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
}
