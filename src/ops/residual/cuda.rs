//! Decoding through `kernels/residual.ptx`: a warp a vector, the vector in registers.

use std::sync::Arc;

use super::{Args, EPS};
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::norm::cuda::shape;
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/residual.ptx";

    spec ResidualSpec {
        bits: u32 = [1, 2, 4],
        /// Fours of dimensions that a thread holds.
        quads: u32 = [1, 2, 3, 4, 6, 8],
        /// As `include/row.ptx` asks; dimensions divide into fours, and a warp holds 1024 of them.
        vector: bool = [true],
        warps: u32 = [1],
    }

    params ResidualParams { rows: u32, width: u32, words: u32, eps: f32 }
}

pub(super) fn decode(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    let &Args { codec, codes, rows, width } = args;
    let y = Tensor::cuda_uninit(codes.device(), DType::F32, &[rows, width])?;
    let (quads, _) = shape(width);
    let (bits, quads) = (codec.bits(), quads as u32);
    let spec = ResidualSpec { bits, quads, vector: true, warps: 1 };
    let kernel = gpu.kernel(spec)?;
    let all = [&codec.centroids, &codec.table, &codes.centroids, &codes.residuals, &y];
    let bindings = all.map(|t| Binding::from(t.cuda()));
    let (count, width, words) = (rows as u32, width as u32, codec.words() as u32);
    let params = ResidualParams { rows: count, width, words, eps: EPS };
    gpu.launch(&kernel, &bindings, &params, [rows.div_ceil(4), 1, 1])?;
    Ok(y)
}
