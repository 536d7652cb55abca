//! What makes token vectors of hidden states: projections and a normalisation.

use crate::models::config::TextConfig;
use crate::models::dense::{Dense, MAX_WIDTH};
use crate::models::layers::{Loader, NORM_EPS};
use crate::models::modules::{TokenModules, TokenStep};
use crate::ops::norm::l2_normalize;
use crate::{DType, Device, Result, Tensor};

/// Steps one after the other.
pub(super) struct Head {
    steps: Vec<Step>,
    /// Width of a token's vector.
    pub(super) dim: usize,
}

enum Step {
    Dense(Box<Dense>),
    /// Vectors of length 1.
    Normalize,
}

impl Head {
    /// Hidden states of `dim` columns, each of length 1.
    pub(super) fn plain(dim: usize) -> Head {
        Head { steps: vec![Step::Normalize], dim }
    }

    /// The modules of a folder after an encoder with hidden states of `hidden` columns.
    pub(super) fn modules(
        modules: &TokenModules,
        hidden: usize,
        device: &Device,
        dtype: DType,
    ) -> Result<Head> {
        let mut head = Head { steps: Vec::new(), dim: hidden };
        for step in &modules.steps {
            head.steps.push(match step {
                TokenStep::Normalize => Step::Normalize,
                TokenStep::Dense(folder) => {
                    let layer = Dense::open(folder, head.dim, device, dtype)?;
                    head.dim = layer.dim();
                    Step::Dense(Box::new(layer))
                }
            });
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
        Ok(Head { steps: vec![Step::Dense(Box::new(Dense::bare(&weight)?)), Step::Normalize], dim })
    }

    /// Token vectors \[T, dim\] of hidden states \[T, H\].
    pub(super) fn apply(&self, states: &Tensor) -> Result<Tensor> {
        self.steps.iter().try_fold(states.clone(), |x, step| match step {
            Step::Dense(layer) => layer.apply(&x),
            Step::Normalize => l2_normalize(&x, NORM_EPS),
        })
    }
}
