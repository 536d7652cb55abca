//! BLIP's image encoder (Li et al., arXiv:2201.12086): ViT under CLIP's names, query, key and value stored as one.
//! transformers: `BlipVisionModel`.

use serde_json::{Map, Value};

use super::clip;
use super::family::{Family, Layout, Parts, Size};
use crate::models::config::{config, layers, read};
use crate::models::layers::{Names, Shape};

config! {
    /// transformers: `BlipVisionConfig`.
    BlipVisionConfig {
        hidden_size: usize = 768,
        intermediate_size: usize = 3072,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        image_size: Size = Size::Square(384),
        patch_size: Size = Size::Square(16),
        hidden_act: String = "gelu".into(),
        layer_norm_eps: f64 = 1e-5,
    }
}

pub(crate) const FAMILY: Family = Family {
    read: parts,
    layout: Layout {
        patch_bias: true,
        positions: "embeddings.position_embedding",
        norm: None,
        names: Names { qkv: &["self_attn.qkv"], output: "self_attn.projection", ..clip::NAMES },
        norms_all: true,
        ..clip::LAYOUT
    },
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: BlipVisionConfig = read(json)?;
    let shape = Shape { pre: true, ..layers!(c)? };
    Parts::new(shape, &c.image_size, &c.patch_size)
}
