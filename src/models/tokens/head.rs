//! The projection of hidden states to token vectors.

use crate::models::config::TextConfig;
use crate::models::dense::{Dense, MAX_WIDTH};
use crate::models::layers::Loader;
use crate::models::modules::Projections;
use crate::{DType, Device, Result, Tensor};

/// Projections one after the other; none leaves hidden states as they are.
pub(super) struct Head {
    layers: Vec<Dense>,
    /// Width of a token's vector.
    pub(super) dim: usize,
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
            head.dim = layer.dim();
            head.layers.push(layer);
        }
        Ok(head)
    }

    /// `linear.weight` beside the encoder, as ColBERT's own code stores it; the tensor says how many rows it has.
    pub(super) fn linear(config: &TextConfig, loader: &Loader<'_>) -> Result<Head> {
        let name = format!("{}linear.weight", loader.root);
        let rows = loader.weights.shapes().find(|(n, _)| *n == name).map(|(_, shape)| shape[0]);
        // Without a tensor of that name the reading below says so.
        let dim = rows.unwrap_or(1).clamp(1, MAX_WIDTH);
        let shape = [dim, config.parts.shape.hidden];
        let weight = loader.weights.tensor(loader.device, loader.dtype, &name, &shape)?;
        Ok(Head { layers: vec![Dense::bare(&weight)?], dim })
    }

    /// Token vectors \[T, dim\] of hidden states \[T, H\].
    pub(super) fn apply(&self, states: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(states.clone(), |x, layer| layer.apply(&x))
    }
}
