//! Decoding through `kernels/residual.ptx`: a warp a vector, the vector in registers.

use std::sync::Arc;

use super::{Args, EPS};
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::norm::cuda::shape;
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Result, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct ResidualSpec {
    bits: u32,
    /// Fours of dimensions that a thread holds.
    quads: u32,
    /// As `include/row.ptx` asks; dimensions divide into fours, and a warp holds 1024 of them.
    vector: bool,
    warps: u32,
}

impl Spec for ResidualSpec {
    const FAMILY: &'static str = "residual";
}

params! {
    struct ResidualParams { rows: u32, width: u32, words: u32, eps: f32 }
}

pub(crate) const FAMILY: Family = Family {
    name: ResidualSpec::FAMILY,
    spec_keys: || keys(ResidualSpec { bits: 2, quads: 1, vector: true, warps: 1 }),
    params: ResidualParams::MEMBERS,
    params_size: size_of::<ResidualParams>(),
};

pub(super) fn decode(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    let &Args { codec, codes, rows, width } = args;
    let y = Tensor::cuda_uninit(codes.device(), DType::F32, &[rows, width])?;
    let (quads, _) = shape(width);
    let (bits, quads) = (codec.bits(), quads as u32);
    let spec = ResidualSpec { bits, quads, vector: true, warps: 1 };
    let kernel = gpu.kernel(spec, (ResidualParams::MEMBERS, size_of::<ResidualParams>()))?;
    let all = [&codec.centroids, &codec.table, &codes.centroids, &codes.residuals, &y];
    let bindings = all.map(|t| Binding::from(t.cuda()));
    let (count, width, words) = (rows as u32, width as u32, codec.words() as u32);
    let params = ResidualParams { rows: count, width, words, eps: EPS };
    gpu.launch(&kernel, &bindings, &params, [rows.div_ceil(4), 1, 1])?;
    Ok(y)
}
