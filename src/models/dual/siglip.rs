//! SigLIP (Zhai et al., arXiv:2303.15343) and SigLIP 2 (Tschannen et al., arXiv:2502.14786) at a fixed resolution: every pair of
//! text and image has a probability of its own. transformers: `SiglipModel`.

use serde_json::{Map, Value};

use super::family::{End, Family, Names};
use crate::models::catalog::Architecture;
use crate::models::config::{Parts, config, layers, read};
use crate::models::layers::Shape;
use crate::models::{text, vision};

config! {
    /// transformers: `SiglipTextConfig`.
    SiglipTextConfig {
        vocab_size: usize = 32000,
        hidden_size: usize = 768,
        intermediate_size: usize = 3072,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        max_position_embeddings: usize = 64,
        hidden_act: String = "gelu_pytorch_tanh".into(),
        layer_norm_eps: f64 = 1e-6,
        projection_size: Option<usize> = None,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "siglip",
    "SigLIP, SigLIP 2 at a fixed resolution",
    "DualEncoder",
    "SiglipModel",
)];

pub(super) const FAMILY: Family = Family {
    text: ("siglip_text_model", &TEXT),
    image: ("siglip_vision_model", &vision::SIGLIP),
    names: Names {
        text: Some("text_model.head"),
        image: None,
        own_image: false,
        transposed: false,
        bias: true,
        scale: Some("logit_scale"),
    },
    end: End::Last,
    // As it was trained: the last token is mostly padding.
    filled: true,
    sigmoid: true,
    dim: |_, text| {
        let c: SiglipTextConfig = read(text)?;
        Ok(c.projection_size.unwrap_or(c.hidden_size))
    },
};

/// CLIP's text encoder without the mask.
const TEXT: text::family::Family = text::family::Family { read: parts, ..super::clip::TEXT };

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: SiglipTextConfig = read(json)?;
    let shape = Shape { pre: true, ..layers!(c)? };
    Ok(Parts::new(shape, c.vocab_size, c.max_position_embeddings))
}
