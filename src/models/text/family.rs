//! Families of text encoders: which configurations they read, where they keep their tensors, how they number positions.
//!
//! A new family is one file and one line here.

use serde_json::{Map, Value};

use super::{bert, distilbert, mistral, modernbert, mpnet, nomic_bert, qwen3, roberta, xmod};
use crate::models::catalog::Architecture;
use crate::models::config::Parts;
use crate::models::layers::{Biases, Names, NormKind, Shape};
use crate::ops::gemm::Activation;

/// Every family: the architectures that folders can name, and what it is.
const FAMILIES: &[(&[Architecture], &Family)] = &[
    (bert::ARCHITECTURES, &bert::FAMILY),
    (roberta::ARCHITECTURES, &roberta::FAMILY),
    (distilbert::ARCHITECTURES, &distilbert::FAMILY),
    (mistral::ARCHITECTURES, &mistral::FAMILY),
    (modernbert::ARCHITECTURES, &modernbert::FAMILY),
    (mpnet::ARCHITECTURES, &mpnet::FAMILY),
    (nomic_bert::ARCHITECTURES, &nomic_bert::FAMILY),
    (qwen3::ARCHITECTURES, &qwen3::FAMILY),
    (xmod::ARCHITECTURES, &xmod::FAMILY),
];

/// What sets a family apart.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    /// Reads and checks the keys of its configuration.
    pub(crate) read: fn(&Map<String, Value>) -> Result<Parts, String>,
    pub(crate) layout: Layout,
    /// The sequence-classification head.
    pub(crate) classifier: Option<Classifier>,
    /// The head that scores every word of the vocabulary.
    pub(crate) vocabulary: Option<Vocabulary>,
    /// Whether its tokenizers tell token types.
    pub(crate) types: bool,
}

/// Where a family keeps its tensors, and how it numbers positions.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// What its own checkpoints of larger models put before the encoder's names.
    pub(crate) prefix: &'static str,
    /// The table of word embeddings.
    pub(crate) words: &'static str,
    /// The table of positions, where there is one.
    pub(crate) positions: Option<&'static str>,
    /// The table of token types, where there is one.
    pub(crate) types: Option<&'static str>,
    /// The norm of the embeddings' sum, where there is one.
    pub(crate) norm: Option<&'static str>,
    pub(crate) names: Names,
    /// The norm behind the last layer, where there is one.
    pub(crate) last_norm: Option<&'static str>,
    /// Appends the row of the position table of each token of one sequence.
    pub(crate) number: fn(&Parts, &[u32], &mut Vec<u32>),
}

/// Where a family keeps the head that scores a pair: `out norm(f(dense x))` of one vector x.
#[derive(Clone, Copy)]
pub(crate) struct Classifier {
    pub(crate) take: Take,
    /// The inner map, and whether its name is the encoder's (else it is the root's).
    pub(crate) dense: Option<(&'static str, bool)>,
    pub(crate) norm: Option<&'static str>,
    pub(crate) out: &'static str,
    pub(crate) out_bias: bool,
}

/// Where a family keeps the head of its masked-language model: `words norm(f(dense x)) + bias`.
#[derive(Clone, Copy)]
pub(crate) struct Vocabulary {
    pub(crate) dense: &'static str,
    pub(crate) norm: &'static str,
    /// The matrix, where it is not the table of word embeddings.
    pub(crate) words: &'static str,
    pub(crate) bias: &'static str,
    /// The activation, where it is not the layers'.
    pub(crate) activation: Option<Activation>,
}

/// Which vector of a sequence a head reads.
#[derive(Clone, Copy)]
pub(crate) enum Take {
    /// The first token's, or where the configuration says so, the mean.
    First,
    /// That of the last token that is no padding token.
    Last,
}

/// The family of a `model_type`, with its name.
pub(crate) fn find(model_type: &str) -> Option<(&'static str, &'static Family)> {
    FAMILIES.iter().find_map(|(architectures, family)| {
        let known = architectures.iter().find(|known| known.model_type == model_type)?;
        Some((known.model_type, *family))
    })
}

/// Every architecture that is known.
pub(crate) fn architectures() -> impl Iterator<Item = Architecture> {
    FAMILIES.iter().flat_map(|(architectures, _)| architectures.iter().copied())
}

/// Every `model_type` that is known.
pub(crate) fn names() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|(known, _)| known.iter().map(|a| a.model_type)).collect()
}

impl Shape {
    /// The layers of a BERT: norms behind, biases everywhere, heads that divide the hidden size.
    pub(crate) fn bert(
        hidden: usize,
        layers: usize,
        heads: usize,
        inner: usize,
        activation: &str,
        eps: f64,
    ) -> Result<Shape, String> {
        use crate::models::config;
        Ok(Shape {
            hidden,
            layers,
            heads,
            kv_heads: heads,
            dim: config::head(hidden, heads)?,
            inner,
            activation: config::activation(activation)?,
            gated: false,
            norm: NormKind::Layer,
            eps: config::epsilon(eps)?,
            pre: false,
            causal: false,
            biases: Biases { qkv: true, output: true, ffn: true },
            per_layer: Vec::new(),
            positions: 0,
            context: 0,
        })
    }
}

/// No position table.
pub(crate) fn unnumbered(_: &Parts, _: &[u32], _: &mut Vec<u32>) {}
