//! Mean and maximum through `kernels/pool.ptx`: a warp a sequence and tile of columns.

use std::sync::Arc;

use super::{Args, Kind};
use crate::device::cuda::{Binding, CudaDevice};
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/pool.ptx";

    spec PoolSpec {
        kind: Kind = [Kind::Mean, Kind::Max],
        mask: bool,
        /// Whether rows divide into fours, so that four columns are read and written together.
        vector: bool,
        /// Rows that are loaded before the first of them is used.
        deep: u32 = [8],
    }

    params PoolParams { sequences: u32, width: u32, tiles: u32 }
}

pub(super) fn pool(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    let (device, width, offsets) = (args.x.device(), args.width, args.offsets);
    let y = Tensor::cuda_uninit(device, DType::F32, &[offsets.len(), width])?;
    if y.is_empty() {
        return Ok(y);
    }
    let vector = width.is_multiple_of(4);
    let tiles = width.div_ceil(if vector { 128 } else { 32 });
    // Rounded up to whole blocks of four warps.
    let warps = (offsets.len() * tiles).next_multiple_of(4);
    if u32::try_from(warps).is_err() {
        return Err(Error::Unsupported {
            what: format!("pool with {} sequences of width {width}", offsets.len()),
            device: gpu.name().into(),
        });
    }
    let spec = PoolSpec { kind: args.kind, mask: args.mask.is_some(), vector, deep: 8 };
    let kernel = gpu.kernel(spec)?;
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
    let mut bindings: Vec<Binding<'_>> = vec![args.x.cuda().into(), offsets.tensor().cuda().into()];
    if let Some((keep, counts)) = &mask {
        bindings.extend([Binding::from(keep.cuda()), counts.cuda().into()]);
    }
    bindings.push(y.cuda().into());
    let params =
        PoolParams { sequences: offsets.len() as u32, width: width as u32, tiles: tiles as u32 };
    gpu.launch(&kernel, &bindings, &params, [warps / 4, 1, 1])?;
    Ok(y)
}
