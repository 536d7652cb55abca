//! How layers are read from a checkpoint: what families call their tensors.

use super::maps::{Linear, Norm};
use super::shape::NormKind;
use crate::models::weights::Weights;
use crate::{DType, Device, Result, Tensor};

/// What a family calls the tensors of a layer. Names that end in `_` are followed by `weight` and `bias` at once, others by
/// a dot before.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    /// Where the layers are, each behind its number.
    pub(crate) layers: &'static str,
    /// Query, key and value; one name where they are stored as one.
    pub(crate) qkv: &'static [&'static str],
    /// The norms (RMS) of each head's query and key before they are rotated, where there are such.
    pub(crate) qk_norms: Option<[&'static str; 2]>,
    pub(crate) output: &'static str,
    /// The norms of attention and of the feed-forward net.
    pub(crate) norms: [&'static str; 2],
    /// The first map; with a gate, the map that is activated and then the other, or one name where they are stored as one.
    pub(crate) up: &'static [&'static str],
    pub(crate) down: &'static str,
    /// LayerScale (Touvron et al., arXiv:2103.17239) of both halves.
    pub(crate) scales: Option<[&'static str; 2]>,
    /// Whether the first layer has no norm before its attention.
    pub(crate) first_is_bare: bool,
    /// Attention to what another encoder gave, where layers have it.
    pub(crate) cross: Option<CrossNames>,
}

/// Where a layer keeps its attention to another encoder's states.
#[derive(Clone, Copy)]
pub(crate) struct CrossNames {
    pub(crate) qkv: [&'static str; 3],
    pub(crate) output: &'static str,
    pub(crate) norm: &'static str,
}

/// What a checkpoint is read with.
pub(crate) struct Loader<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) device: &'a Device,
    /// The dtype of matrices and tables.
    pub(crate) dtype: DType,
    /// What stands before the names of the encoder's tensors.
    pub(crate) prefix: String,
    /// What stands before the names of what is built on the encoder.
    pub(crate) root: String,
}

/// The full name of a part of what `name` stands for.
fn part(name: &str, part: &str) -> String {
    let dot = if name.ends_with('_') { "" } else { "." };
    format!("{name}{dot}{part}")
}

impl Loader<'_> {
    /// A table \[rows, width\] by its name behind the prefix.
    pub(crate) fn table(&self, name: &str, rows: usize, width: usize) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        self.weights.tensor(self.device, self.dtype, &name, &[rows, width])
    }

    /// A linear map `[rows, columns]`, given by its full name.
    pub(crate) fn linear(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        bias: bool,
    ) -> Result<Linear> {
        self.linears(&[(name.to_string(), rows)], columns, bias)
    }

    /// Linear maps of one input, fused into one: full names and rows.
    pub(super) fn linears(
        &self,
        names: &[(String, usize)],
        columns: usize,
        bias: bool,
    ) -> Result<Linear> {
        let parts = |of: &str| -> Vec<(String, usize)> {
            names.iter().map(|(name, rows)| (part(name, of), *rows)).collect()
        };
        let (device, weights) = (self.device, self.weights);
        let weight = weights.stacked(device, self.dtype, &parts("weight"), &[columns])?;
        let bias = match bias {
            true => Some(weights.stacked(device, DType::F32, &parts("bias"), &[])?),
            false => None,
        };
        Linear::new(&weight, bias)
    }

    /// A linear map whose result is multiplied by a number for each column: they go into the map.
    pub(super) fn scaled(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        bias: bool,
        scale: &str,
    ) -> Result<Linear> {
        let weights = self.weights;
        let scale = weights.floats(scale, &[rows])?;
        let mut matrix = weights.floats(&part(name, "weight"), &[rows, columns])?;
        for (row, scale) in matrix.chunks_exact_mut(columns).zip(&scale) {
            row.iter_mut().for_each(|w| *w *= scale);
        }
        let bias = match bias {
            true => {
                let mut values = weights.floats(&part(name, "bias"), &[rows])?;
                values.iter_mut().zip(&scale).for_each(|(b, scale)| *b *= scale);
                Some(Tensor::from_slice(self.device, &[rows], &values)?)
            }
            false => None,
        };
        let weight = Tensor::from_f32(self.device, self.dtype, &[rows, columns], &matrix)?;
        Linear::new(&weight, bias)
    }

    /// A norm of `width` columns, given by its full name.
    pub(crate) fn norm(&self, name: &str, kind: NormKind, width: usize, eps: f32) -> Result<Norm> {
        // The oldest checkpoints have the names TensorFlow gave.
        let old = self.weights.has(&format!("{name}.gamma"));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let vector = |part| {
            let name = format!("{name}.{part}");
            self.weights.tensor(self.device, DType::F32, &name, &[width])
        };
        let bias = match kind {
            NormKind::Layer => Some(vector(bias)?),
            NormKind::LayerWithoutBias | NormKind::Rms => None,
        };
        Ok(Norm { rms: kind == NormKind::Rms, weight: vector(weight)?, bias, eps })
    }
}
