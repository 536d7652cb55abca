//! Linear maps and norms with their weights.

use crate::ops::gemm::{Activation, Epilogue, Packed, gemm};
use crate::ops::norm::{self, normed};
use crate::{DType, Result, Tensor};

/// Vectors are divided by at least this where they are brought to length 1, as torch's `normalize` does.
pub(crate) const NORM_EPS: f32 = 1e-12;

/// `x Wᵀ + b`.
pub(crate) struct Linear {
    pub(crate) weight: Packed,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Linear> {
        Ok(Linear { weight: Packed::new(weight)?, bias })
    }

    pub(crate) fn apply(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.apply_to(x, activation, residual, DType::F32)
    }

    /// The result rounded to `out`.
    pub(super) fn apply_to(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
        out: DType,
    ) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        gemm(x, &self.weight, &Epilogue { bias, activation, residual, out, ..Default::default() })
    }
}

/// A norm of rows.
pub(crate) struct Norm {
    pub(super) rms: bool,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) eps: f32,
}

impl Norm {
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let [y] = self.apply_to(x, [DType::F32])?;
        Ok(y)
    }

    /// The result in each of some dtypes.
    pub(super) fn apply_to<const N: usize>(
        &self,
        x: &Tensor,
        outs: [DType; N],
    ) -> Result<[Tensor; N]> {
        let kind = if self.rms { norm::Kind::Rms } else { norm::Kind::Layer };
        let (weight, bias) = (Some(&self.weight), self.bias.as_ref());
        normed(x, None, &norm::Norm { kind, weight, bias, eps: self.eps }, outs)
    }

    /// The norm whose result is multiplied by a number.
    pub(crate) fn times(self, factor: f32) -> Result<Norm> {
        let scaled = |vector: &Tensor| {
            let values: Vec<f32> = vector.to_vec::<f32>()?.iter().map(|v| v * factor).collect();
            Tensor::from_slice(vector.device(), vector.shape(), &values)
        };
        let bias = self.bias.as_ref().map(scaled).transpose()?;
        Ok(Norm { weight: scaled(&self.weight)?, bias, ..self })
    }
}
