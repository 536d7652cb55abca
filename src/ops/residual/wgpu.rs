//! Decoding through `shaders/residual.wgsl`: a workgroup a vector.

use std::sync::Arc;

use super::{Args, EPS};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::ops::embed::select_rows;
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Error, Result, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct ResidualSpec {
    bits: u32,
    /// Whether rows are picked by their numbers.
    pick: bool,
    subgroups: bool,
}

impl Spec for ResidualSpec {
    const FAMILY: &'static str = "residual";
}

params! {
    struct ResidualParams { rows: u32, width: u32, words: u32, eps: f32 }
}

pub(crate) const FAMILY: Family = Family {
    name: ResidualSpec::FAMILY,
    spec_keys: || keys(ResidualSpec { bits: 2, pick: false, subgroups: false }),
    params: ResidualParams::MEMBERS,
    params_size: size_of::<ResidualParams>(),
};

pub(super) fn decode(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let &Args { codec, codes, picked, rows, width, words } = args;
    if codec.centroids.bytes() as u64 > gpu.facts.max_binding {
        let (bytes, limit) = (codec.centroids.bytes(), gpu.facts.max_binding);
        return Err(Error::Unsupported {
            what: format!("{bytes} bytes of centroids, beyond its binding limit of {limit} bytes"),
            device: codes.device().name(),
        });
    }
    if let Some(picked) = picked
        && codes.residuals.bytes().max(codes.centroids.bytes()) as u64 > gpu.facts.max_binding
    {
        // Picked rows can be anywhere, so the codes are bound whole.
        let all = decode(gpu, &Args { picked: None, rows: codes.len(), ..*args })?;
        return select_rows(&all, &picked.to_vec::<u32>()?);
    }
    let y = Tensor::wgpu_uninit(codes.device(), DType::F32, &[rows, width])?;
    let subgroups = gpu.facts.subgroups.is_some();
    let kernel =
        gpu.kernel(ResidualSpec { bits: codec.bits(), pick: picked.is_some(), subgroups })?;
    for window in gpu.windows(rows, width * size_of::<f32>())? {
        let mut bindings: Vec<Binding<'_>> =
            vec![codec.centroids.wgpu().into(), codec.table.wgpu().into()];
        match picked {
            Some(picked) => bindings.extend([
                codes.centroids.wgpu().into(),
                codes.residuals.wgpu().into(),
                gpu.rows(picked, &window, 1),
            ]),
            None => bindings.extend([
                gpu.rows(&codes.centroids, &window, 1),
                gpu.rows(&codes.residuals, &window, words),
            ]),
        }
        bindings.push(gpu.rows(&y, &window, width));
        let (rows, width, words) = (window.len() as u32, width as u32, words as u32);
        let params = ResidualParams { rows, width, words, eps: EPS };
        gpu.launch(&kernel, &bindings, &params, spread(window.len()))?;
    }
    Ok(y)
}
