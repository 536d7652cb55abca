//! BLIP for retrieval (Li et al., arXiv:2201.12086): a BERT whose layers can attend to an image. transformers:
//! `BlipForImageTextRetrieval`.

use serde_json::{Map, Value};

use super::clip;
use super::family::{End, Family, Names};
use crate::models::catalog::Architecture;
use crate::models::config::{Parts, config, layers, read};
use crate::models::layers::{CrossNames, Names as LayerNames, Shape};
use crate::models::text::{self, BERT};
use crate::models::vision;

config! {
    /// transformers: `BlipTextConfig`.
    BlipTextConfig {
        vocab_size: usize = 30524,
        hidden_size: usize = 768,
        encoder_hidden_size: usize = 768,
        intermediate_size: usize = 3072,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 8,
        max_position_embeddings: usize = 512,
        hidden_act: String = "gelu".into(),
        layer_norm_eps: f64 = 1e-12,
    }
}

config! {
    /// transformers: `BlipConfig`.
    BlipConfig {
        image_text_hidden_size: usize = 256,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "blip",
    "BLIP for retrieval",
    "DualEncoder, ImageCrossEncoder",
    "BlipForImageTextRetrieval",
)];

pub(crate) const FAMILY: Family = Family {
    text: ("blip_text_model", &TEXT),
    image: ("blip_vision_model", &vision::BLIP),
    names: Names {
        text: Some("text_proj"),
        image: Some("vision_proj"),
        bias: true,
        scale: None,
        ..clip::FAMILY.names
    },
    end: End::First,
    dim: |json, _| Ok(read::<BlipConfig>(json)?.image_text_hidden_size),
    ..clip::FAMILY
};

const TEXT: text::family::Family = text::family::Family {
    read: parts,
    layout: text::family::Layout {
        prefix: "text_encoder.",
        types: None,
        names: LayerNames {
            cross: Some(CrossNames {
                qkv: [
                    "crossattention.self.query",
                    "crossattention.self.key",
                    "crossattention.self.value",
                ],
                output: "crossattention.output.dense",
                norm: "crossattention.output.LayerNorm",
            }),
            ..BERT.layout.names
        },
        ..BERT.layout
    },
    classifier: None,
    vocabulary: None,
    types: false,
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: BlipTextConfig = read(json)?;
    let shape = layers!(c)?;
    let shape = Shape { context: c.encoder_hidden_size, ..shape };
    Ok(Parts::new(shape, c.vocab_size, c.max_position_embeddings))
}
