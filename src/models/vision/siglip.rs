//! SigLIP's image encoder (Zhai et al., arXiv:2303.15343): ViT without a class token; a learned query gathers one vector from all
//! patches (Zhai et al., arXiv:2106.04560). transformers: `SiglipVisionModel`.

use serde_json::{Map, Value};

use super::clip;
use super::family::{Family, HeadNames, Layout, Parts, Size};
use crate::models::catalog::Architecture;
use crate::models::config::{config, layers, only, read};
use crate::models::layers::Shape;

config! {
    /// transformers: `SiglipVisionConfig`.
    SiglipVisionConfig {
        hidden_size: usize = 768,
        intermediate_size: usize = 3072,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        num_channels: usize = 3,
        image_size: Size = Size::Square(224),
        patch_size: Size = Size::Square(16),
        hidden_act: String = "gelu_pytorch_tanh".into(),
        layer_norm_eps: f64 = 1e-6,
        vision_use_head: bool = true,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "siglip_vision_model",
    "SigLIP's image half",
    "ImageEncoder",
    "SiglipVisionModel",
)];

pub(crate) const FAMILY: Family = Family {
    read: parts,
    layout: Layout {
        patch_bias: true,
        tokens: &[],
        norm: None,
        norms_all: true,
        head: HeadNames::Attention("head"),
        ..clip::LAYOUT
    },
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: SiglipVisionConfig = read(json)?;
    only("num_channels", &c.num_channels, &[3])?;
    let shape = Shape { pre: true, ..layers!(c)? };
    let parts = Parts::new(shape, &c.image_size, &c.patch_size)?;
    Ok(Parts { headless: !c.vision_use_head, ..parts })
}
