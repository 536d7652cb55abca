//! CLIP (Radford et al., arXiv:2103.00020) and Chinese CLIP (Yang et al., arXiv:2211.01335), whose texts a BERT reads.
//! transformers: `CLIPModel`, `ChineseCLIPModel`.

use serde_json::{Map, Value};

use super::family::{End, Family, Names};
use crate::models::catalog::Architecture;
use crate::models::config::{Parts, config, layers, read};
use crate::models::layers::Shape;
use crate::models::text::{self, BERT};
use crate::models::vision;

config! {
    /// transformers: `CLIPTextConfig`.
    CLIPTextConfig {
        vocab_size: usize = 49408,
        hidden_size: usize = 512,
        intermediate_size: usize = 2048,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 8,
        max_position_embeddings: usize = 77,
        hidden_act: String = "quick_gelu".into(),
        layer_norm_eps: f64 = 1e-5,
    }
}

config! {
    /// transformers: `CLIPConfig`.
    CLIPConfig {
        projection_dim: usize = 512,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[Architecture::new("clip", "CLIP", "DualEncoder", "CLIPModel")];

pub(super) const FAMILY: Family = Family {
    text: ("clip_text_model", &TEXT),
    image: ("clip_vision_model", &vision::CLIP),
    names: Names {
        text: Some("text_projection"),
        image: Some("visual_projection"),
        own_image: true,
        transposed: false,
        bias: false,
        scale: Some("logit_scale"),
    },
    end: End::Named,
    filled: false,
    sigmoid: false,
    dim: |json, _| Ok(read::<CLIPConfig>(json)?.projection_dim),
};

pub(super) const CHINESE_ARCHITECTURES: &[Architecture] =
    &[Architecture::new("chinese_clip", "Chinese CLIP", "DualEncoder", "ChineseCLIPModel")];

pub(super) const CHINESE: Family = Family {
    text: ("chinese_clip_text_model", &CHINESE_TEXT),
    image: ("chinese_clip_vision_model", &vision::CLIP),
    end: End::First,
    ..FAMILY
};

/// CLIP's text encoder: causal, with learned positions and the norms before.
pub(super) const TEXT: text::family::Family = text::family::Family {
    read: parts,
    layout: text::family::Layout {
        prefix: "text_model.",
        words: "embeddings.token_embedding.weight",
        positions: Some("embeddings.position_embedding.weight"),
        types: None,
        norm: None,
        names: vision::CLIP_NAMES,
        last_norm: Some("final_layer_norm"),
        ..BERT.layout
    },
    classifier: None,
    vocabulary: None,
    types: false,
};

const CHINESE_TEXT: text::family::Family = text::family::Family {
    layout: text::family::Layout { prefix: "text_model.", ..BERT.layout },
    classifier: None,
    vocabulary: None,
    ..BERT
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: CLIPTextConfig = read(json)?;
    let shape = Shape { pre: true, causal: true, ..layers!(c)? };
    Ok(Parts::new(shape, c.vocab_size, c.max_position_embeddings))
}
