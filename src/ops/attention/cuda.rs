//! Attention through `kernels/attention.ptx`: a block for some queries of a sequence and head.

use std::f32::consts::LOG2_E;
use std::sync::Arc;

use super::Args;
use crate::device::cuda::{Binding, CudaDevice, CudaFacts};
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Error, Result, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct AttentionSpec {
    /// Fours of columns of a head, rounded up.
    d4: u32,
    /// Whether every head of every row starts at a multiple of four elements, so that they are copied in fours.
    vector: bool,
    causal: bool,
    bias: bool,
    /// Queries of a block.
    bq: u32,
    /// Keys of a tile; depends on the dimension alone, because bits depend on it.
    bk: u32,
}

impl Spec for AttentionSpec {
    const FAMILY: &'static str = "attention";
}

params! {
    struct AttentionParams {
        sequences: u32, heads: u32, dim: u32,
        q_width: u32, k_width: u32, v_width: u32,
        q_start: u32, k_start: u32, v_start: u32,
        scale: f32, reach: u32,
    }
}

pub(crate) const FAMILY: Family = Family {
    name: AttentionSpec::FAMILY,
    spec_keys: || {
        keys(AttentionSpec { d4: 8, vector: true, causal: false, bias: false, bq: 64, bk: 64 })
    },
    params: AttentionParams::MEMBERS,
    params_size: size_of::<AttentionParams>(),
};

/// The tile policy: the most queries a block for which there are enough blocks to fill the device.
fn queries(facts: &CudaFacts, args: &Args<'_>) -> usize {
    let blocks = |bq: usize| -> usize {
        let tiles = |s| args.q_offsets.range(s).len().div_ceil(bq);
        args.how.heads * (0..args.q_offsets.len()).map(tiles).sum::<usize>()
    };
    let enough = 2 * facts.multiprocessors as usize;
    [64, 32].into_iter().find(|&bq| blocks(bq) >= enough).unwrap_or(16)
}

pub(super) fn attention(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    run(gpu, args, queries(&gpu.facts, args))
}

fn run(gpu: &Arc<CudaDevice>, args: &Args<'_>, bq: usize) -> Result<Tensor> {
    let (heads, dim) = (args.how.heads, args.how.dim);
    let shape = [args.q_offsets.total(), heads * dim];
    let out = Tensor::cuda_uninit(args.q.tensor.device(), DType::F32, &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let parts = [args.q, args.k, args.v];
    let extent = |x: usize| match u32::try_from(x) {
        // Byte strides are 32-bit numbers too.
        Ok(x) if x <= u32::MAX / 4 => Ok(x),
        _ => Err(Error::Unsupported {
            what: format!("attention with an extent of {x}; it takes up to {}", u32::MAX / 4),
            device: gpu.name().into(),
        }),
    };
    let spec = AttentionSpec {
        d4: dim.div_ceil(4) as u32,
        vector: dim % 4 == 0 && parts.iter().all(|p| p.start % 4 == 0 && p.width % 4 == 0),
        causal: args.how.causal,
        bias: args.how.bias.is_some(),
        bq: bq as u32,
        bk: if dim <= 64 { 64 } else { 32 },
    };
    let kernel = gpu.kernel(spec, (AttentionParams::MEMBERS, size_of::<AttentionParams>()))?;
    let params = AttentionParams {
        sequences: extent(args.q_offsets.len())?,
        heads: extent(heads)?,
        dim: dim as u32,
        q_width: extent(args.q.width)?,
        k_width: extent(args.k.width)?,
        v_width: extent(args.v.width)?,
        q_start: extent(args.q.start)?,
        k_start: extent(args.k.start)?,
        v_start: extent(args.v.start)?,
        scale: args.how.scale * LOG2_E,
        reach: extent(args.reach)?,
    };
    let offsets = [args.q_offsets, args.kv_offsets].map(|o| Binding::from(o.tensor().cuda()));
    let mut bindings: Vec<Binding<'_>> = parts.iter().map(|p| p.tensor.cuda().into()).collect();
    bindings.extend(offsets);
    bindings.extend(args.how.bias.map(|b| Binding::from(b.cuda())));
    bindings.push(out.cuda().into());
    // Every sequence has a slot for each whole tile of rows before its end, and one more.
    let slots = args.q_offsets.total() / bq + args.q_offsets.len();
    gpu.launch(&kernel, &bindings, &params, [heads * slots, 1, 1])?;
    Ok(out)
}
