//! The projection of hidden states to token vectors.

use std::path::Path;

use serde::Deserialize;

use crate::models::config::Config;
use crate::models::modules::{Projections, read_json};
use crate::models::text::Loader;
use crate::models::weights::Weights;
use crate::ops::gemm::{Activation, Epilogue, gemm};
use crate::{DType, Device, Error, Result, Tensor};

/// The widest a projection may be.
const MAX_WIDTH: usize = 1 << 16;

/// Activations by the last part of torch's names.
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("Identity", Activation::None),
    ("GELU", Activation::Gelu),
    ("ReLU", Activation::Relu),
    ("SiLU", Activation::Silu),
    ("Tanh", Activation::Tanh),
];

/// `y = activation(W x + b)`, and `+ x` or `+ R x` where the layer has a residual.
struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
    residual: Residual,
}

enum Residual {
    None,
    Input,
    Linear(Tensor),
}

/// Projections one after the other; none leaves hidden states as they are.
pub(super) struct Head {
    layers: Vec<Dense>,
    /// Width of a token's vector.
    pub(super) dim: usize,
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

impl Head {
    /// No projection of `dim` columns.
    pub(super) fn none(dim: usize) -> Head {
        Head { layers: Vec::new(), dim }
    }

    /// The Dense modules of a PyLate folder behind an encoder with hidden states of `hidden`.
    pub(super) fn modules(
        modules: &Projections,
        hidden: usize,
        device: &Device,
        dtype: DType,
    ) -> Result<Head> {
        let mut head = Head::none(hidden);
        for folder in &modules.dense {
            let layer = Dense::open(folder, head.dim, device, dtype)?;
            head.dim = layer.weight.shape()[0];
            head.layers.push(layer);
        }
        Ok(head)
    }

    /// `linear.weight` beside the encoder, as ColBERT's own code stores it; the tensor says how many rows it has.
    pub(super) fn linear(config: &Config, loader: &Loader<'_>) -> Result<Head> {
        let name = format!("{}linear.weight", loader.root);
        let rows = loader.weights.shapes().find(|(n, _)| *n == name).map(|(_, shape)| shape[0]);
        // Without a tensor of that name the reading below says so.
        let dim = rows.unwrap_or(1).clamp(1, MAX_WIDTH);
        let shape = [dim, config.hidden];
        let weight = loader.weights.tensor(loader.device, loader.dtype, &name, &shape)?;
        let (bias, activation, residual) = (None, Activation::None, Residual::None);
        Ok(Head { layers: vec![Dense { weight, bias, activation, residual }], dim })
    }

    /// Token vectors \[T, dim\] of hidden states \[T, H\].
    pub(super) fn apply(&self, states: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(states.clone(), |x, layer| layer.apply(&x))
    }
}

impl Dense {
    fn open(folder: &Path, input: usize, device: &Device, dtype: DType) -> Result<Dense> {
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
        let matrix = |name| weights.tensor(device, dtype, name, &[dim, input]);
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

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
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
