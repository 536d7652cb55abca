//! The Dense modules of sentence-transformers and PyLate: a linear map, an activation, perhaps a residual.

use std::path::Path;

use serde::Deserialize;

use crate::files::read_json;
use crate::models::weights::Weights;
use crate::ops::gemm::{Activation, Epilogue, Packed, gemm};
use crate::{DType, Device, Error, Result, Tensor};

/// The widest a projection may be.
pub(crate) const MAX_WIDTH: usize = 1 << 16;

/// Activations by the last part of torch's names.
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("Identity", Activation::None),
    ("GELU", Activation::Gelu),
    ("ReLU", Activation::Relu),
    ("SiLU", Activation::Silu),
    ("Tanh", Activation::Tanh),
];

/// `y = activation(W x + b)`, and `+ x` or `+ R x` where the layer has a residual.
pub(crate) struct Dense {
    weight: Packed,
    bias: Option<Tensor>,
    activation: Activation,
    residual: Residual,
}

enum Residual {
    None,
    Input,
    Linear(Packed),
}

/// `config.json` of a Dense module, as sentence-transformers and PyLate write it.
#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: String,
    #[serde(default)]
    use_residual: bool,
}

fn yes() -> bool {
    true
}

impl Dense {
    /// A bare matrix.
    pub(crate) fn bare(weight: &Tensor) -> Result<Dense> {
        let (bias, activation, residual) = (None, Activation::None, Residual::None);
        Ok(Dense { weight: Packed::new(weight)?, bias, activation, residual })
    }

    /// Columns of what it gives.
    pub(crate) fn dim(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Reads `config.json` and the weights of a module whose input has so many columns.
    ///
    /// # Errors
    /// [`Error::Config`] if widths do not fit or the activation is unknown; as [`Weights::tensor`].
    pub(crate) fn open(
        folder: &Path,
        input: usize,
        device: &Device,
        dtype: DType,
    ) -> Result<Dense> {
        let file = folder.join("config.json");
        let bad = |problem: String| Error::Config { file: file.clone(), problem };
        let c: DenseConfig = read_json(&file)?.ok_or_else(|| bad("is missing".into()))?;
        if c.in_features != input {
            return Err(bad(format!("in_features is {}, expected {input}", c.in_features)));
        }
        let dim = c.out_features;
        if !(1..=MAX_WIDTH).contains(&dim) {
            return Err(bad(format!("out_features is {dim}, expected 1 to {MAX_WIDTH}")));
        }
        let name = c.activation_function.rsplit('.').next().unwrap_or_default();
        let activation = ACTIVATIONS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = ACTIVATIONS.iter().map(|(known, _)| *known).collect();
            let given = &c.activation_function;
            bad(format!("unknown activation_function '{given}'; known are {}", known.join(", ")))
        })?;
        let weights = Weights::open(folder)?;
        let matrix = |name| Packed::new(&weights.tensor(device, dtype, name, &[dim, input])?);
        let bias = match c.bias {
            true => Some(weights.tensor(device, DType::F32, "linear.bias", &[dim])?),
            false => None,
        };
        let residual = match c.use_residual {
            false => Residual::None,
            true if dim == input => Residual::Input,
            true => Residual::Linear(matrix("residual.weight")?),
        };
        Ok(Dense { weight: matrix("linear.weight")?, bias, activation: activation.1, residual })
    }

    /// \[T, dim\] of \[T, input\].
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let projected = match &self.residual {
            Residual::Linear(matrix) => Some(gemm(x, matrix, &Epilogue::default())?),
            _ => None,
        };
        let residual = match self.residual {
            Residual::Input => Some(x),
            _ => projected.as_ref(),
        };
        let (bias, activation) = (self.bias.as_ref(), self.activation);
        gemm(x, &self.weight, &Epilogue { bias, activation, residual, ..Epilogue::default() })
    }
}
