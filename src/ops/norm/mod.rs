//! Row normalisation: LayerNorm, RMSNorm, L2.
//!
//! Counted on CUDA, as `tests/cost` asserts: LayerNorm with a residual of 512 x 768 in f32 reads and writes 4,724,736 bytes
//! of memory, 1.000 of the least possible, in 206,336 warp instructions without bank conflicts; L2 3,145,728 bytes, 1.000.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::rows::converted;
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
    run(x, residual, Norm { kind: Kind::Layer, weight: Some(weight), bias, eps })
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
    run(x, residual, Norm { kind: Kind::Rms, weight: Some(weight), bias: None, eps })
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
    run(x, None, Norm { kind: Kind::L2, weight: None, bias: None, eps })
}

/// A norm and its weights, \[H\] f32.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) kind: Kind,
    pub(crate) weight: Option<&'a Tensor>,
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) eps: f32,
}

/// The norm of each row of `x + residual`, in each of the dtypes `outs`: what is f32 until then is rounded to f16 or bf16, to
/// nearest even.
///
/// # Errors
/// As [`layer_norm`].
pub(crate) fn normed<const N: usize>(
    x: &Tensor,
    residual: Option<&Tensor>,
    norm: &Norm<'_>,
    outs: [DType; N],
) -> Result<[Tensor; N]> {
    let args = checked(x, residual, norm)?;
    let written = match x.device().backend() {
        Backend::Cpu(_) => vec![cpu::norm(&args)?],
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::norm(gpu, &args, &outs)?,
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => vec![wgpu::norm(gpu, &args)?],
    };
    let as_written = |out: DType| written.iter().find(|y| y.dtype() == out);
    let result = |out| converted(as_written(out).unwrap_or(&written[0]).clone(), out);
    let results = outs.into_iter().map(result).collect::<Result<Vec<Tensor>>>()?;
    Ok(results.try_into().unwrap_or_else(|_| unreachable!("there is a result for each dtype")))
}

fn run(x: &Tensor, residual: Option<&Tensor>, norm: Norm<'_>) -> Result<Tensor> {
    let [y] = normed(x, residual, &norm, [DType::F32])?;
    Ok(y)
}

fn checked<'a>(x: &'a Tensor, residual: Option<&'a Tensor>, norm: &Norm<'a>) -> Result<Args<'a>> {
    let Norm { kind, weight, bias, eps } = *norm;
    let op = match kind {
        Kind::Layer => "layer_norm",
        Kind::Rms => "rms_norm",
        Kind::L2 => "l2_normalize",
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::device::required::required;

    /// Any dtypes at once, written by one launch or rounded after it, are the f32 result rounded once.
    #[test]
    fn results_are_rounded_to_each_dtype_that_is_asked_for() {
        let named = ["cpu", "cuda", "wgpu"];
        for device in named.into_iter().filter_map(|n| required(n, Device::by_name(n))) {
            for (rows, width) in [(3, 20), (5, 7), (0, 4), (2, 2049)] {
                let values: Vec<f32> = (0..rows * width).map(|i| (i * i % 37) as f32).collect();
                let x = Tensor::from_slice(&device, &[rows, width], &values).unwrap();
                let ones = Tensor::from_slice(&device, &[width], &vec![1.5f32; width]).unwrap();
                for kind in [Kind::Layer, Kind::Rms, Kind::L2] {
                    let weight = (kind != Kind::L2).then_some(&ones);
                    let bias = (kind == Kind::Layer).then_some(&ones);
                    let norm = Norm { kind, weight, bias, eps: 1e-5 };
                    for residual in [None, Some(&x)] {
                        let [full] = normed(&x, residual, &norm, [DType::F32]).unwrap();
                        let check = |got: &[Tensor], outs: &[DType]| {
                            for (got, &out) in got.iter().zip(outs) {
                                let want = full.to_dtype(out).unwrap();
                                assert_eq!((got.dtype(), got.shape()), (out, want.shape()));
                                let bytes = [got, &want].map(|t| t.to_bytes().unwrap());
                                assert_eq!(bytes[0], bytes[1], "{kind:?} to {outs:?}");
                            }
                        };
                        let both = [DType::F32, DType::BF16];
                        check(&normed(&x, residual, &norm, both).unwrap(), &both);
                        let half = [DType::BF16];
                        check(&normed(&x, residual, &norm, half).unwrap(), &half);
                        let two = [DType::F16, DType::BF16];
                        check(&normed(&x, residual, &norm, two).unwrap(), &two);
                    }
                }
            }
        }
    }
}
