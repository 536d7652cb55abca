//! What a stack of layers computes.

use crate::ops::attention::Attention;
use crate::ops::gemm::Activation;

/// Which norm a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    Layer,
    LayerWithoutBias,
    Rms,
}

/// Which linear maps of a layer have a bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Biases {
    pub(crate) qkv: bool,
    pub(crate) output: bool,
    pub(crate) ffn: bool,
}

/// What the queries of a layer see, and how they know where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LayerAttention {
    /// How far away a key may be.
    pub(crate) window: Option<usize>,
    /// The base of rotary positions.
    pub(crate) theta: Option<f64>,
}

/// What a stack of layers computes, whatever its weights.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Heads of keys and values: fewer than `heads` where groups of query heads share one.
    pub(crate) kv_heads: usize,
    /// Columns of a head.
    pub(crate) dim: usize,
    /// Columns between the two maps of the feed-forward net.
    pub(crate) inner: usize,
    pub(crate) activation: Activation,
    /// Whether the activation gates a second map.
    pub(crate) gated: bool,
    pub(crate) norm: NormKind,
    pub(crate) eps: f32,
    /// Whether norms stand before the halves of a layer.
    pub(crate) pre: bool,
    pub(crate) causal: bool,
    pub(crate) biases: Biases,
    /// One a layer, or none where every layer sees everything and has no rotary positions.
    pub(crate) per_layer: Vec<LayerAttention>,
    /// Rotary positions that there are; the longest sequence.
    pub(crate) positions: usize,
    /// Columns of the other encoder's states, where layers attend to such.
    pub(crate) context: usize,
}

impl Shape {
    pub(super) fn layer_attention(&self, layer: usize) -> LayerAttention {
        self.per_layer.get(layer).copied().unwrap_or_default()
    }

    /// The part of attention that all layers have.
    pub(super) fn attention(&self) -> Attention<'static> {
        Attention {
            kv_heads: self.kv_heads,
            causal: self.causal,
            ..Attention::new(self.heads, self.dim)
        }
    }
}
