//! CLIP's image encoder (Radford et al., arXiv:2103.00020): ViT with a norm of its embeddings, whose last norm is for the pooled
//! token alone. transformers: `CLIPVisionModel`.

use serde_json::{Map, Value};

use super::family::{Family, HeadNames, Layout, Parts, Size};
use crate::models::catalog::Architecture;
use crate::models::config::{config, layers, only, read};
use crate::models::layers::{Names, Shape};

config! {
    /// transformers: `CLIPVisionConfig`, `ChineseCLIPVisionConfig`.
    CLIPVisionConfig {
        hidden_size: usize = 768,
        intermediate_size: usize = 3072,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        num_channels: usize = 3,
        image_size: Size = Size::Square(224),
        patch_size: Size = Size::Square(32),
        hidden_act: String = "quick_gelu".into(),
        layer_norm_eps: f64 = 1e-5,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "clip_vision_model",
    "CLIP's image half",
    "ImageEncoder",
    "CLIPVisionModel",
)];

pub(crate) const FAMILY: Family = Family { read: parts, layout: LAYOUT };

pub(crate) const LAYOUT: Layout = Layout {
    prefix: "vision_model.",
    patch: "embeddings.patch_embedding",
    patch_bias: false,
    tokens: &["embeddings.class_embedding"],
    registers: None,
    positions: "embeddings.position_embedding.weight",
    // The name is misspelt in every checkpoint.
    norm: Some("pre_layrnorm"),
    names: NAMES,
    last_norm: "post_layernorm",
    norms_all: false,
    head: HeadNames::First,
};

/// The names of the layers of both of CLIP's encoders, and of SigLIP's.
pub(crate) const NAMES: Names = Names {
    layers: "encoder.layers",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    output: "self_attn.out_proj",
    norms: ["layer_norm1", "layer_norm2"],
    up: &["mlp.fc1"],
    down: "mlp.fc2",
    qk_norms: None,
    scales: None,
    first_is_bare: false,
    cross: None,
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: CLIPVisionConfig = read(json)?;
    only("num_channels", &c.num_channels, &[3])?;
    let shape = Shape { pre: true, ..layers!(c)? };
    Parts::new(shape, &c.image_size, &c.patch_size)
}
