//! RoBERTa (Liu et al., arXiv:1907.11692), XLM-RoBERTa (Conneau et al., arXiv:1911.02116) and CamemBERT (Martin et
//! al., arXiv:1911.03894): BERT's layers with other positions. transformers: `RobertaModel`, `XLMRobertaModel`,
//! `CamembertModel`.

use serde_json::{Map, Value};

use super::bert;
use super::family::{Classifier, Family, Layout, Take, Vocabulary};
use crate::models::catalog::{Architecture, TEXT_WITH_WORDS};
use crate::models::config::{Parts, absolute, config, encoder, layers, range, read};
use crate::ops::gemm::Activation;

config! {
    /// transformers: `RobertaConfig`, `XLMRobertaConfig` and `CamembertConfig`, whose vocabularies differ; the size
    /// stands in every file.
    RobertaConfig {
        vocab_size: usize = 50265,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        type_vocab_size: usize = 2,
        layer_norm_eps: f64 = 1e-12,
        pad_token_id: u32 = 1,
        position_embedding_type: Option<String> = None,
        is_decoder: bool = false,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::new(
        "camembert",
        "CamemBERT",
        TEXT_WITH_WORDS,
        "RobertaModel, CamembertForSequenceClassification",
    ),
    Architecture::new(
        "roberta",
        "RoBERTa",
        TEXT_WITH_WORDS,
        "RobertaModel, RobertaForSequenceClassification",
    ),
    Architecture::new(
        "xlm-roberta",
        "XLM-RoBERTa, BGE-M3, multilingual E5",
        TEXT_WITH_WORDS,
        "XLMRobertaModel, XLMRobertaForSequenceClassification",
    ),
];

pub(super) const FAMILY: Family = Family {
    read: parts,
    layout: Layout { prefix: "roberta.", number: behind_padding, ..bert::LAYOUT },
    classifier: Some(CLASSIFIER),
    // transformers' RoBERTa tokenizers do not give types; its models then use type 0.
    vocabulary: Some(VOCABULARY),
    types: false,
};

/// transformers: `RobertaClassificationHead`.
pub(super) const CLASSIFIER: Classifier = Classifier {
    take: Take::First,
    dense: Some(("classifier.dense", false)),
    norm: None,
    out: "classifier.out_proj",
    out_bias: true,
};

/// transformers: `RobertaLMHead`.
pub(super) const VOCABULARY: Vocabulary = Vocabulary {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    words: "lm_head.decoder.weight",
    bias: "lm_head.bias",
    activation: Some(Activation::Gelu),
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: RobertaConfig = read(json)?;
    absolute(&c.position_embedding_type)?;
    encoder(c.is_decoder)?;
    let shape = layers!(c)?;
    let types = range("type_vocab_size", c.type_vocab_size, 1, 1 << 16)?;
    counted(
        Parts { types, ..Parts::new(shape, c.vocab_size, c.max_position_embeddings) },
        c.pad_token_id,
    )
}

/// Positions that count from behind a padding token.
pub(super) fn counted(parts: Parts, pad: u32) -> Result<Parts, String> {
    Ok(Parts { pad: Some(pad), skipped: pad as usize + 1, ..parts })
}

/// Positions count from the one after the padding token's id. Padding tokens, which a text may spell out, all take the
/// padding token's own position and are not counted.
pub(super) fn behind_padding(parts: &Parts, ids: &[u32], rows: &mut Vec<u32>) {
    let pad = parts.pad.unwrap_or(0);
    let mut position = pad;
    rows.extend(ids.iter().map(|&id| {
        if id == pad {
            pad
        } else {
            position += 1;
            position
        }
    }));
}
