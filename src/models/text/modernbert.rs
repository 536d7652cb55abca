//! ModernBERT (Warner et al., arXiv:2412.13663): norms before, rotary positions, GeGLU, and two layers of three that see
//! only what is near. transformers: `ModernBertModel`.

use serde_json::{Map, Value};

use super::family::{Classifier, Family, Layout, Take, unnumbered};
use crate::models::catalog::{Architecture, TEXT};
use crate::models::config::{
    ClassifierParts, Parts, activation, config, only, range, read, rope_theta,
};
use crate::models::layers::{Biases, LayerAttention, Names, NormKind, Shape};

config! {
    /// transformers: `ModernBertConfig`, and the keys it had before version 5.
    ModernBertConfig {
        vocab_size: usize = 50368,
        hidden_size: usize = 768,
        intermediate_size: usize = 1152,
        num_hidden_layers: usize = 22,
        num_attention_heads: usize = 12,
        hidden_activation: String = "gelu".into(),
        max_position_embeddings: usize = 8192,
        norm_eps: f64 = 1e-5,
        norm_bias: bool = false,
        attention_bias: bool = false,
        mlp_bias: bool = false,
        layer_types: Option<Vec<String>> = None,
        global_attn_every_n_layers: usize = 3,
        local_attention: usize = 128,
        rope_parameters: Option<Map<String, Value>> = None,
        rope_scaling: Option<Value> = None,
        global_rope_theta: Option<f64> = None,
        local_rope_theta: Option<f64> = None,
        classifier_pooling: String = "cls".into(),
        classifier_bias: bool = false,
        classifier_activation: String = "gelu".into(),
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "modernbert",
    "ModernBERT, GTE-ModernColBERT",
    TEXT,
    "ModernBertModel, ModernBertForSequenceClassification",
)];

pub(super) const FAMILY: Family = Family {
    read: parts,
    layout: Layout {
        prefix: "model.",
        words: "embeddings.tok_embeddings.weight",
        positions: None,
        types: None,
        norm: Some("embeddings.norm"),
        names: Names {
            layers: "layers",
            qkv: &["attn.Wqkv"],
            output: "attn.Wo",
            norms: ["attn_norm", "mlp_norm"],
            up: &["mlp.Wi"],
            down: "mlp.Wo",
            qk_norms: None,
            scales: None,
            first_is_bare: true,
            cross: None,
        },
        last_norm: Some("final_norm"),
        number: unnumbered,
    },
    classifier: Some(Classifier {
        take: Take::First,
        dense: Some(("head.dense", false)),
        norm: Some("head.norm"),
        out: "classifier",
        out_bias: true,
    }),
    vocabulary: None,
    types: false,
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: ModernBertConfig = read(json)?;
    let layers = range("num_hidden_layers", c.num_hidden_layers, 1, 1 << 10)?;
    let every = range("global_attn_every_n_layers", c.global_attn_every_n_layers, 1, 1 << 10)?;
    let part = |key: &str| c.rope_parameters.as_ref().and_then(|map| map.get(key));
    let theta =
        |key, theta, default| rope_theta(part(key), c.rope_scaling.as_ref(), theta, default);
    let full = LayerAttention {
        window: None,
        theta: Some(theta("full_attention", c.global_rope_theta, 160_000.0)?),
    };
    let near = LayerAttention {
        // The width of the window is that of both sides.
        window: Some(range("local_attention", c.local_attention, 2, 1 << 24)? / 2),
        theta: Some(theta("sliding_attention", c.local_rope_theta, 10_000.0)?),
    };
    let attention = |kind: &str| match kind {
        "full_attention" => Ok(full),
        "sliding_attention" => Ok(near),
        other => Err(format!(
            "unknown layer type '{other}'; known are full_attention and sliding_attention"
        )),
    };
    let per_layer: Vec<LayerAttention> = match &c.layer_types {
        Some(types) if types.len() == layers => {
            types.iter().map(|kind| attention(kind)).collect::<Result<_, _>>()?
        }
        Some(types) => {
            return Err(format!("layer_types has {} entries for {layers} layers", types.len()));
        }
        None => (0..layers).map(|i| if i % every == 0 { full } else { near }).collect(),
    };
    only("classifier_pooling", &c.classifier_pooling.as_str(), &["cls", "mean"])?;
    let shape = Shape {
        gated: true,
        norm: if c.norm_bias { NormKind::Layer } else { NormKind::LayerWithoutBias },
        pre: true,
        biases: Biases { qkv: c.attention_bias, output: c.attention_bias, ffn: c.mlp_bias },
        per_layer,
        positions: c.max_position_embeddings,
        ..Shape::bert(
            c.hidden_size,
            layers,
            c.num_attention_heads,
            c.intermediate_size,
            &c.hidden_activation,
            c.norm_eps,
        )?
    };
    let classifier = ClassifierParts {
        mean: c.classifier_pooling == "mean",
        bias: c.classifier_bias,
        activation: activation(&c.classifier_activation)?,
    };
    Ok(Parts { classifier, ..Parts::new(shape, c.vocab_size, c.max_position_embeddings) })
}
