//! Row normalisation: LayerNorm, RMSNorm, L2.
//!
//! Counted on CUDA, as `tests/cost` asserts: LayerNorm with a residual of 512 x 768 in f32 reads and writes 4,724,736 bytes
//! of memory, 1.000 of the least possible, in 206,336 warp instructions without bank conflicts; L2 3,145,728 bytes, 1.000.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::{check, check_devices, check_float, matrix};
use crate::device::Backend;
use crate::{DType, Error, Result, Tensor};

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Layer,
    Rms,
    L2,
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    kind: Kind,
    x: &'a Tensor,
    residual: Option<&'a Tensor>,
    weight: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    eps: f32,
    width: usize,
}

/// Layer normalisation of each row of `x + residual` (Ba, Kiros, Hinton, arXiv:1607.06450):
/// `(v - mean v) / sqrt(var v + eps) * weight + bias`, with the population variance.
///
/// `x` and `residual` \[T, H\] of one float dtype, `weight` and `bias` \[H\] f32. Gives \[T, H\] f32.
///
/// # Errors
/// [`Error::Shape`] if shapes, dtypes or devices do not fit, [`Error::Argument`] if `eps` is negative or NaN.
pub fn layer_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<Tensor> {
    run("layer_norm", Kind::Layer, x, residual, Some(weight), bias, eps)
}

/// Root-mean-square normalisation of each row of `x + residual` (Zhang, Sennrich, arXiv:1910.07467):
/// `v / sqrt(mean v^2 + eps) * weight`. Shapes as in [`layer_norm`].
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    eps: f32,
) -> Result<Tensor> {
    run("rms_norm", Kind::Rms, x, residual, Some(weight), None, eps)
}

/// Each row of `x` \[T, H\] divided by its Euclidean length, or by `eps` if that is larger, so that a row of zeros
/// stays zeros (torch's `normalize` with eps 1e-12). Gives \[T, H\] f32.
///
/// Squares are summed in f32, as in torch: a row longer than 1.8e19 becomes zeros. Searches take vectors of
/// [any length](super::topk#any-length).
///
/// # Errors
/// As [`layer_norm`].
pub fn l2_normalize(x: &Tensor, eps: f32) -> Result<Tensor> {
    run("l2_normalize", Kind::L2, x, None, None, None, eps)
}

/// Layer normalisation, or with `rms` that by the root mean square, of f32: as bf16, and before it as f32 where `full`. For CUDA,
/// whose products take bf16.
///
/// # Errors
/// As [`layer_norm`]; [`Error::Unsupported`] on other devices.
pub(crate) fn halved(
    x: &Tensor,
    (rms, weight, bias, eps): (bool, &Tensor, Option<&Tensor>, f32),
    full: bool,
) -> Result<(Option<Tensor>, Tensor)> {
    let kind = if rms { Kind::Rms } else { Kind::Layer };
    let args = checked("norm", kind, x, None, Some(weight), bias, eps)?;
    match x.device().backend() {
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::halved(gpu, &args, full),
        _ => {
            let _ = (args, full);
            let what = "norms to bf16".into();
            Err(Error::Unsupported { what, device: x.device().name() })
        }
    }
}

fn run(
    op: &'static str,
    kind: Kind,
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<Tensor> {
    let args = checked(op, kind, x, residual, weight, bias, eps)?;
    match x.device().backend() {
        Backend::Cpu(_) => cpu::norm(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::norm(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::norm(gpu, &args),
    }
}

fn checked<'a>(
    op: &'static str,
    kind: Kind,
    x: &'a Tensor,
    residual: Option<&'a Tensor>,
    weight: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    eps: f32,
) -> Result<Args<'a>> {
    let (_, width) = matrix(op, "x", x)?;
    check_float(op, "x", x)?;
    if let Some(r) = residual {
        check(op, "residual", r, x.dtype(), x.shape())?;
    }
    for (name, t) in [("weight", weight), ("bias", bias)] {
        if let Some(t) = t {
            check(op, name, t, DType::F32, &[width])?;
        }
    }
    let all: Vec<&Tensor> = [Some(x), residual, weight, bias].into_iter().flatten().collect();
    check_devices(op, &all)?;
    if eps.is_nan() || eps < 0.0 {
        return Err(Error::argument("eps", "a number of at least 0", eps.to_string()));
    }
    Ok(Args { kind, x, residual, weight, bias, eps, width })
}
