//! X-MOD (Pfeiffer et al., arXiv:2205.06266), what ColBERT-XM (Louis et al., arXiv:2402.15059) is built on: RoBERTa with a small
//! net for each language behind every layer. transformers: `XmodModel`.

use serde_json::{Map, Value};

use super::family::{Family, Layout};
use super::{bert, roberta};
use crate::models::adapters::{AdapterShape, Languages};
use crate::models::catalog::{Architecture, TEXT_ONLY};
use crate::models::config::{Parts, absolute, config, encoder, layers, range, read};
use crate::models::layers::{Names, Shape};

config! {
    /// transformers: `XmodConfig`.
    XmodConfig {
        vocab_size: usize = 30522,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        type_vocab_size: usize = 2,
        layer_norm_eps: f64 = 1e-12,
        pad_token_id: u32 = 1,
        pre_norm: bool = false,
        adapter_reduction_factor: f64 = 2.0,
        adapter_layer_norm: bool = false,
        adapter_reuse_layer_norm: bool = true,
        ln_before_adapter: bool = true,
        languages: Vec<String> = vec!["en_XX".into()],
        default_language: Option<String> = None,
        position_embedding_type: Option<String> = None,
        is_decoder: bool = false,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[Architecture::new("xmod", "X-MOD, ColBERT-XM", TEXT_ONLY, "XmodModel")];

pub(super) const FAMILY: Family = Family {
    read: parts,
    layout: Layout {
        prefix: "roberta.",
        names: Names {
            norms: ["attention.output.LayerNorm", "output.LayerNorm"],
            ..bert::LAYOUT.names
        },
        number: roberta::behind_padding,
        ..bert::LAYOUT
    },
    classifier: Some(roberta::CLASSIFIER),
    vocabulary: None,
    types: false,
};

/// X-MOD's layers with the norms before end in one more.
static NORM_BEFORE: Layout = Layout { last_norm: Some("encoder.LayerNorm"), ..FAMILY.layout };

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: XmodConfig = read(json)?;
    absolute(&c.position_embedding_type)?;
    encoder(c.is_decoder)?;
    let shape = Shape { pre: c.pre_norm, ..layers!(c)? };
    let types = range("type_vocab_size", c.type_vocab_size, 1, 1 << 16)?;
    let factor = c.adapter_reduction_factor;
    if !(factor > 0.0 && factor <= c.hidden_size as f64) {
        let hidden = c.hidden_size;
        return Err(format!("adapter_reduction_factor is {factor}, expected 1 to {hidden}"));
    }
    let adapters = AdapterShape {
        inner: (c.hidden_size as f64 / factor) as usize,
        own_norm: c.adapter_layer_norm,
        reuse_norm: c.adapter_reuse_layer_norm,
        normed_residual: c.ln_before_adapter,
    };
    if let Some(language) = &c.default_language
        && !c.languages.contains(language)
    {
        let known = c.languages.join(", ");
        return Err(format!("default_language is {language}, which is none of {known}"));
    }
    let parts = Parts {
        types,
        languages: Some(Languages { adapters, names: c.languages, default: c.default_language }),
        layout: c.pre_norm.then_some(&NORM_BEFORE),
        ..Parts::new(shape, c.vocab_size, c.max_position_embeddings)
    };
    roberta::counted(parts, c.pad_token_id)
}
