//! DistilBERT (Sanh et al., arXiv:1910.01108): BERT without token types. transformers: `DistilBertModel`.

use serde_json::{Map, Value};

use super::bert;
use super::family::{Classifier, Family, Layout, Take, Vocabulary};
use crate::models::catalog::{Architecture, TEXT_WITH_WORDS};
use crate::models::config::{ClassifierParts, Parts, config, read};
use crate::models::layers::{Names, Shape};
use crate::ops::gemm::Activation;

config! {
    /// transformers: `DistilBertConfig`. The epsilon of its layer norms is a constant there.
    DistilBertConfig {
        vocab_size: usize = 30522,
        dim: usize = 768,
        n_layers: usize = 6,
        n_heads: usize = 12,
        hidden_dim: usize = 3072,
        activation: String = "gelu".into(),
        max_position_embeddings: usize = 512,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "distilbert",
    "DistilBERT, SPLADE",
    TEXT_WITH_WORDS,
    "DistilBertModel, DistilBertForSequenceClassification, DistilBertForMaskedLM",
)];

pub(super) const FAMILY: Family = Family {
    read: parts,
    layout: Layout {
        prefix: "distilbert.",
        types: None,
        names: Names {
            layers: "transformer.layer",
            qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            output: "attention.out_lin",
            norms: ["sa_layer_norm", "output_layer_norm"],
            up: &["ffn.lin1"],
            down: "ffn.lin2",
            ..bert::LAYOUT.names
        },
        ..bert::LAYOUT
    },
    classifier: Some(Classifier {
        take: Take::First,
        dense: Some(("pre_classifier", false)),
        norm: None,
        out: "classifier",
        out_bias: true,
    }),
    vocabulary: Some(Vocabulary {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        words: "vocab_projector.weight",
        bias: "vocab_projector.bias",
        activation: None,
    }),
    types: false,
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: DistilBertConfig = read(json)?;
    let shape = Shape::bert(c.dim, c.n_layers, c.n_heads, c.hidden_dim, &c.activation, 1e-12)?;
    let classifier = ClassifierParts { mean: false, bias: true, activation: Activation::Relu };
    Ok(Parts { classifier, ..Parts::new(shape, c.vocab_size, c.max_position_embeddings) })
}
