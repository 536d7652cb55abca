//! Mean and maximum through `shaders/pool.wgsl`: a workgroup a sequence and tile of columns.
//!
//! Where `x` exceeds one binding, launches follow its windows of rows; a sequence that spans several carries its
//! partial result in y, which keeps the order of its rows and so the bits.

use std::sync::Arc;

use super::{Args, Kind};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

/// Columns of a tile, and threads of a workgroup.
const TILE: u32 = 64;

kernel! {
    pub(crate) FAMILY = "shaders/pool.wgsl";

    spec PoolSpec {
        kind: Kind = [Kind::Mean, Kind::Max],
        mask: bool,
        wg: u32 = [64],
    }

    params PoolParams { sequences: u32, width: u32, tiles: u32, first: u32, end: u32, initial: f32 }
}

pub(crate) fn pool(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let (device, width, offsets) = (args.x.device(), args.width, args.offsets);
    let y = Tensor::wgpu_uninit(device, DType::F32, &[offsets.len(), width])?;
    if y.is_empty() {
        return Ok(y);
    }
    let kernel = gpu.kernel(PoolSpec { kind: args.kind, mask: args.mask.is_some(), wg: TILE })?;
    // What a mask keeps: a number for each row, and how many that makes in each sequence.
    let mask = match args.mask {
        None => None,
        Some(mask) => {
            let keep: Vec<u32> = mask.iter().map(|&keep| keep as u32).collect();
            let counts: Vec<u32> = (0..offsets.len()).map(|i| args.count(i) as u32).collect();
            let keep = Tensor::from_slice(device, &[keep.len()], &keep)?;
            Some((keep, Tensor::from_slice(device, &[counts.len()], &counts)?))
        }
    };
    let rows = args.x.shape()[0];
    let tiles = width.div_ceil(TILE as usize);
    // A window of n sequences binds n rows of y and n + 1 bounds.
    let row_bytes = width * size_of::<f32>();
    for sequences in gpu.windows(offsets.len(), row_bytes.max(2 * size_of::<u32>()))? {
        // Their rows; at least one, so that sequences that are all empty get their zeros from some launch.
        let from = (offsets.bounds()[sequences.start] as usize).min(rows - 1);
        let to = (offsets.bounds()[sequences.end] as usize).max(from + 1);
        for window in gpu.windows(rows, row_bytes)? {
            if window.end <= from || window.start >= to {
                continue;
            }
            let mut bounds = gpu.rows(offsets.tensor(), &sequences, 1);
            bounds.bytes += size_of::<u32>() as u64;
            let mut bindings: Vec<Binding<'_>> = vec![gpu.rows(args.x, &window, width), bounds];
            if let Some((keep, counts)) = &mask {
                bindings.extend([gpu.rows(keep, &window, 1), gpu.rows(counts, &sequences, 1)]);
            }
            bindings.push(gpu.rows(&y, &sequences, width));
            let params = PoolParams {
                sequences: sequences.len() as u32,
                width: width as u32,
                tiles: tiles as u32,
                first: window.start as u32,
                end: window.end as u32,
                initial: if args.kind == Kind::Max { f32::NEG_INFINITY } else { 0.0 },
            };
            gpu.launch(&kernel, &bindings, &params, spread(sequences.len() * tiles))?;
        }
    }
    Ok(y)
}
