//! BERT (Devlin et al., arXiv:1810.04805). transformers: `BertModel`.

use serde_json::{Map, Value};

use super::family::{Classifier, Family, Layout, Take, Vocabulary};
use crate::models::catalog::{Architecture, TEXT_WITH_WORDS};
use crate::models::config::{Parts, absolute, config, encoder, layers, range, read};
use crate::models::layers::Names;

config! {
    /// transformers: `BertConfig`.
    BertConfig {
        vocab_size: usize = 30522,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        type_vocab_size: usize = 2,
        layer_norm_eps: f64 = 1e-12,
        position_embedding_type: Option<String> = None,
        is_decoder: bool = false,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "bert",
    "BERT, MiniLM, BGE, E5, GTE, ColBERT, SPLADE",
    TEXT_WITH_WORDS,
    "BertModel, BertForSequenceClassification, BertForMaskedLM",
)];

pub(crate) const FAMILY: Family = Family {
    read: parts,
    layout: LAYOUT,
    classifier: Some(Classifier {
        take: Take::First,
        dense: Some(("pooler.dense", true)),
        norm: None,
        out: "classifier",
        out_bias: true,
    }),
    vocabulary: Some(Vocabulary {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        words: "cls.predictions.decoder.weight",
        bias: "cls.predictions.bias",
        activation: None,
    }),
    types: true,
};

pub(crate) const LAYOUT: Layout = Layout {
    prefix: "bert.",
    words: "embeddings.word_embeddings.weight",
    positions: Some("embeddings.position_embeddings.weight"),
    types: Some("embeddings.token_type_embeddings.weight"),
    norm: Some("embeddings.LayerNorm"),
    names: Names {
        layers: "encoder.layer",
        qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
        output: "attention.output.dense",
        norms: ["attention.output.LayerNorm", "output.LayerNorm"],
        up: &["intermediate.dense"],
        down: "output.dense",
        qk_norms: None,
        scales: None,
        first_is_bare: false,
        cross: None,
    },
    last_norm: None,
    number: from_zero,
};

pub(crate) fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: BertConfig = read(json)?;
    absolute(&c.position_embedding_type)?;
    encoder(c.is_decoder)?;
    let shape = layers!(c)?;
    let types = range("type_vocab_size", c.type_vocab_size, 1, 1 << 16)?;
    Ok(Parts { types, ..Parts::new(shape, c.vocab_size, c.max_position_embeddings) })
}

/// Positions count from 0.
pub(crate) fn from_zero(_: &Parts, ids: &[u32], rows: &mut Vec<u32>) {
    rows.extend(0..ids.len() as u32);
}
