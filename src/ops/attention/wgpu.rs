//! Attention through `shaders/attention.wgsl`: a workgroup for 32 queries of a sequence and head.

use std::f32::consts::LOG2_E;
use std::ops::Range;
use std::sync::Arc;

use super::Args;
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

/// Queries of a workgroup, as the shader has them.
const QUERIES: usize = 32;

kernel! {
    pub(crate) FAMILY = "shaders/attention.wgsl";

    spec AttentionSpec {
        /// Fours of columns of a head, rounded up.
        d4: u32 = [1, 2, 6, 8, 16, 20, 31, 32],
        /// Whether every head of every row starts at a multiple of four elements, so that they are loaded in fours.
        vector: bool,
        /// Whether queries see some keys only, by causality or in a window.
        mask: bool,
        bias: bool,
        /// Tiles in workgroup memory, or queries in threads without any.
        tiled: bool,
    }
    where tiled || d4 <= 8;

    params AttentionParams {
        groups: u32, heads: u32, dim: u32, first: u32, last: u32,
        // Elements (in fours if VECTOR) of a row, and where row 0 and column 0 of head 0 would be in the binding,
        // modulo 2^32.
        q_width: u32, k_width: u32, v_width: u32, out_width: u32,
        q_base: u32, k_base: u32, v_base: u32, out_base: u32,
        scale: f32, reach: i32,
        // Query heads of a key head; keys that a query sees after its own, and in all.
        group: u32, ahead: i32, span: i32,
    }
}

pub(crate) fn attention(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let (heads, dim) = (args.how.heads, args.how.dim);
    let out_width = heads * dim;
    let shape = [args.q_offsets.total(), out_width];
    let out = Tensor::wgpu_uninit(args.q.tensor.device(), DType::F32, &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let parts = [args.q, args.k, args.v];
    let vector = dim % 4 == 0 && parts.iter().all(|p| p.start % 4 == 0 && p.width % 4 == 0);
    let unit = if vector { 4 } else { 1 };
    let kernel = gpu.kernel(AttentionSpec {
        d4: dim.div_ceil(4) as u32,
        vector,
        mask: args.mask.is_some(),
        bias: args.how.bias.is_some(),
        tiled: tiled(gpu, dim),
    })?;
    for window in windows(gpu, args, out_width)? {
        let q_rows = rows(args.q_offsets.bounds(), &window);
        let kv_rows = rows(args.kv_offsets.bounds(), &window);
        if q_rows.is_empty() {
            continue;
        }
        // The binding of some rows from an aligned place at or below their first, and where in it row 0 would start.
        let bind = |tensor, rows: &Range<usize>, width: usize, start: usize| {
            let (offset, bytes) = span(gpu, rows, width);
            let base = (start as u64).wrapping_sub(offset / 4) as i64 / unit as i64;
            (Binding { buffer: Tensor::wgpu(tensor), offset, bytes }, base as u32)
        };
        let (q, q_base) = bind(args.q.tensor, &q_rows, args.q.width, args.q.start);
        // Without keys nothing of them is read, but something must be bound.
        let [(k, k_base), (v, v_base)] = [args.k, args.v].map(|part| match kv_rows.is_empty() {
            true => bind(args.q.tensor, &q_rows, args.q.width, 0),
            false => bind(part.tensor, &kv_rows, part.width, part.start),
        });
        let (y, out_base) = bind(&out, &q_rows, out_width, 0);
        let offsets = [args.q_offsets, args.kv_offsets].map(|o| o.tensor().wgpu().into());
        let mut bindings: Vec<Binding<'_>> = vec![q, k, v];
        bindings.extend(offsets);
        bindings.extend(args.how.bias.map(|b| Binding::from(b.wgpu())));
        bindings.push(y);
        let groups = heads * (slot(args, window.end) - slot(args, window.start));
        let params = AttentionParams {
            groups: u32::try_from(groups).map_err(|_| too_large(gpu, "2^32 tiles".into()))?,
            heads: heads as u32,
            dim: dim as u32,
            first: window.start as u32,
            last: window.end as u32,
            q_width: (args.q.width / unit) as u32,
            k_width: (args.k.width / unit) as u32,
            v_width: (args.v.width / unit) as u32,
            out_width: (out_width / unit) as u32,
            q_base,
            k_base,
            v_base,
            out_base,
            scale: args.how.scale * LOG2_E,
            reach: args.reach as i32,
            group: args.how.group() as u32,
            ahead: args.mask.map_or(0, |mask| mask.ahead as i32),
            span: args.mask.map_or(0, |mask| mask.span() as i32),
        };
        gpu.launch(&kernel, &bindings, &params, spread(groups))?;
    }
    Ok(out)
}

/// Whether to take the kernel for GPUs. The software adapters' is unrolled over the dimension, and for large ones
/// takes a compiler seconds. A software adapter opened without subgroups gets the GPUs' kernel, so that tests run it.
fn tiled(gpu: &WgpuDevice, dim: usize) -> bool {
    !gpu.facts.software || gpu.facts.subgroups.is_none() || dim > 32
}

/// The first of the slots for tiles that sequence `s` has, as in the shader.
fn slot(args: &Args<'_>, s: usize) -> usize {
    args.q_offsets.bounds()[s] as usize / QUERIES + s
}

/// The rows of consecutive sequences.
fn rows(bounds: &[u32], sequences: &Range<usize>) -> Range<usize> {
    bounds[sequences.start] as usize..bounds[sequences.end] as usize
}

/// Offset and length in bytes of a binding that holds some rows of a matrix.
fn span(gpu: &WgpuDevice, rows: &Range<usize>, width: usize) -> (u64, u64) {
    let row = 4 * width as u64;
    let start = rows.start as u64 * row / gpu.facts.offset_alignment * gpu.facts.offset_alignment;
    (start, rows.end as u64 * row - start)
}

/// Splits the sequences into runs whose rows can be bound.
fn windows(gpu: &WgpuDevice, args: &Args<'_>, out_width: usize) -> Result<Vec<Range<usize>>> {
    let fits = |window: Range<usize>| {
        let q_rows = rows(args.q_offsets.bounds(), &window);
        let kv_rows = rows(args.kv_offsets.bounds(), &window);
        let widest_q = args.q.width.max(out_width);
        let widest_kv = args.k.width.max(args.v.width);
        span(gpu, &q_rows, widest_q).1 <= gpu.facts.max_binding
            && span(gpu, &kv_rows, widest_kv).1 <= gpu.facts.max_binding
    };
    let count = args.q_offsets.len();
    let mut all = Vec::new();
    let mut start = 0;
    for s in 0..count {
        if !fits(s..s + 1) {
            let (q, kv) = (args.q_offsets.range(s).len(), args.kv_offsets.range(s).len());
            return Err(too_large(gpu, format!("a sequence of {q} queries and {kv} keys")));
        }
        if !fits(start..s + 1) {
            all.push(start..s);
            start = s;
        }
    }
    all.push(start..count);
    Ok(all)
}

fn too_large(gpu: &WgpuDevice, what: String) -> Error {
    Error::Unsupported {
        what: format!(
            "attention of {what}, beyond its bindings of {} bytes",
            gpu.facts.max_binding
        ),
        device: gpu.info.name.clone(),
    }
}
