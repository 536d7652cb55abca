//! Adapters of X-MOD (Pfeiffer et al., arXiv:2205.06266): a small net for each language behind every layer.
//!
//! A batch has one language, so that its adapter is two ordinary matrix products over all tokens of the batch.

use super::layers::{Linear, Loader, Norm};
use crate::ops::gemm::Activation;
use crate::{Result, Tensor};

/// Where the norms of an adapter are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdapterShape {
    /// Columns between the two maps.
    pub(crate) inner: usize,
    /// A norm of its own before the adapters (`adapter_layer_norm`).
    pub(crate) own_norm: bool,
    /// The layer's second norm before the adapters, unless they have their own (`adapter_reuse_layer_norm`).
    pub(crate) reuse_norm: bool,
    /// Whether the residual is what the norm gives (`ln_before_adapter`), not what it is given.
    pub(crate) normed_residual: bool,
}

/// The languages of a model that has adapters.
#[derive(Clone, Debug)]
pub(crate) struct Languages {
    pub(crate) adapters: AdapterShape,
    /// In the checkpoint's order.
    pub(crate) names: Vec<String>,
    /// The one that is meant where none is named; else the first.
    pub(crate) default: Option<String>,
}

/// The adapters of one layer.
pub(crate) struct Adapters {
    shape: AdapterShape,
    norm: Option<Norm>,
    /// Down and up, a pair for each language.
    nets: Vec<[Linear; 2]>,
}

impl Adapters {
    /// Reads the adapters after `at`, the full name of a layer's output.
    pub(crate) fn load(
        loader: &Loader<'_>,
        at: &str,
        languages: &Languages,
        hidden: usize,
        eps: f32,
    ) -> Result<Adapters> {
        let shape = languages.adapters;
        let norm = match shape.own_norm {
            true => {
                let name = format!("{at}.adapter_layer_norm");
                Some(loader.norm(&name, super::layers::NormKind::Layer, hidden, eps)?)
            }
            false => None,
        };
        let net = |language: &String| {
            let name = |dense: &str| format!("{at}.adapter_modules.{language}.{dense}");
            Ok([
                loader.linear(&name("dense1"), shape.inner, hidden, true)?,
                loader.linear(&name("dense2"), hidden, shape.inner, true)?,
            ])
        };
        let nets = languages.names.iter().map(net).collect::<Result<_>>()?;
        Ok(Adapters { shape, norm, nets })
    }

    /// What the adapter of a language makes of hidden states; `second` is the layer's own norm.
    pub(crate) fn apply(
        &self,
        x: Tensor,
        language: usize,
        second: Option<&Norm>,
        activation: Activation,
    ) -> Result<Tensor> {
        let reused = second.filter(|_| self.shape.reuse_norm);
        let normed = match self.norm.as_ref().or(reused) {
            Some(norm) => norm.apply(&x)?,
            None => x.clone(),
        };
        let residual = if self.shape.normed_residual { &normed } else { &x };
        let [down, up] = &self.nets[language];
        let inner = down.apply(&normed, activation, None)?;
        up.apply(&inner, Activation::None, Some(residual))
    }
}
