//! ViT (Dosovitskiy et al., arXiv:2010.11929). transformers: `ViTModel`.

use serde_json::{Map, Value};

use super::family::{Family, HeadNames, Layout, Parts, Size};
use crate::models::catalog::Architecture;
use crate::models::config::{activation, config, layers, only, read};
use crate::models::layers::{Biases, Names, Shape};

config! {
    /// transformers: `ViTConfig` and `DeiTConfig`.
    ViTConfig {
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        layer_norm_eps: f64 = 1e-12,
        image_size: Size = Size::Square(224),
        patch_size: Size = Size::Square(16),
        num_channels: usize = 3,
        qkv_bias: bool = true,
        pooler_output_size: Option<usize> = None,
        pooler_act: String = "tanh".into(),
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[Architecture::new("vit", "ViT", "ImageEncoder", "ViTModel")];

pub(crate) const FAMILY: Family = Family { read: parts, layout: LAYOUT };

pub(crate) const LAYOUT: Layout = Layout {
    prefix: "vit.",
    patch: "embeddings.patch_embeddings.projection",
    patch_bias: true,
    tokens: &["embeddings.cls_token"],
    registers: None,
    positions: "embeddings.position_embeddings",
    norm: None,
    names: Names {
        layers: "encoder.layer",
        qkv: &["attention.attention.query", "attention.attention.key", "attention.attention.value"],
        output: "attention.output.dense",
        norms: ["layernorm_before", "layernorm_after"],
        up: &["intermediate.dense"],
        down: "output.dense",
        qk_norms: None,
        scales: None,
        first_is_bare: false,
        cross: None,
    },
    last_norm: "layernorm",
    norms_all: true,
    head: HeadNames::Pooler("pooler.dense"),
};

pub(super) fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: ViTConfig = read(json)?;
    only("num_channels", &c.num_channels, &[3])?;
    let shape = Shape {
        pre: true,
        biases: Biases { qkv: c.qkv_bias, output: true, ffn: true },
        ..layers!(c)?
    };
    let parts = Parts::new(shape, &c.image_size, &c.patch_size)?;
    let pooled = c.pooler_output_size.unwrap_or(parts.pooled);
    Ok(Parts { pooler: activation(&c.pooler_act)?, pooled, ..parts })
}
