//! Nomic BERT (Nussbaum et al., arXiv:2402.01613): BERT with rotary positions, SwiGLU and no biases in its matrices.
//! transformers: `NomicBertModel`; the configuration of the authors' own code as well.

use serde_json::{Map, Value};

use super::bert;
use super::family::{Family, Layout, unnumbered};
use crate::models::catalog::{Architecture, TEXT};
use crate::models::config::{Parts, config, layers, only, range, read, rope_theta};
use crate::models::layers::{Biases, LayerAttention, Names, Shape};

config! {
    /// transformers: `NomicBertConfig`.
    NomicBertConfig {
        vocab_size: usize = 30528,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "silu".into(),
        max_position_embeddings: usize = 2048,
        type_vocab_size: usize = 2,
        layer_norm_eps: f64 = 1e-12,
        rope_parameters: Option<Value> = None,
        rope_scaling: Option<Value> = None,
        rope_theta: Option<f64> = None,
        head_dim: Option<usize> = None,
    }
}

config! {
    /// The configuration of the authors' own code, which has GPT-2's keys.
    OwnConfig {
        vocab_size: usize = 30528,
        n_embd: usize = 768,
        n_layer: usize = 12,
        n_head: usize = 12,
        n_inner: Option<usize> = None,
        n_positions: usize = 2048,
        activation_function: String = "swiglu".into(),
        layer_norm_epsilon: f64 = 1e-12,
        type_vocab_size: usize = 2,
        rotary_emb_base: f64 = 10_000.0,
        rotary_emb_fraction: f64 = 1.0,
        rotary_emb_interleaved: bool = false,
        rotary_emb_scale_base: Option<f64> = None,
        rotary_scaling_factor: Option<f64> = None,
        prenorm: bool = false,
        use_rms_norm: bool = false,
        parallel_block: bool = false,
        causal: bool = false,
        qkv_proj_bias: bool = true,
        mlp_fc1_bias: bool = true,
        mlp_fc2_bias: bool = true,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[Architecture::new("nomic_bert", "nomic-embed-text", TEXT, "NomicBertModel")];

pub(super) const FAMILY: Family = Family {
    read: parts,
    // The names of the authors' own code, which transformers writes too.
    layout: Layout {
        positions: None,
        norm: Some("emb_ln"),
        names: Names {
            layers: "encoder.layers",
            qkv: &["attn.Wqkv"],
            output: "attn.out_proj",
            norms: ["norm1", "norm2"],
            up: &["mlp.fc12", "mlp.fc11"],
            down: "mlp.fc2",
            ..bert::LAYOUT.names
        },
        number: unnumbered,
        ..bert::LAYOUT
    },
    classifier: bert::FAMILY.classifier,
    vocabulary: None,
    types: true,
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    if json.contains_key("n_embd") {
        return own(json);
    }
    let c: NomicBertConfig = read(json)?;
    let theta =
        rope_theta(c.rope_parameters.as_ref(), c.rope_scaling.as_ref(), c.rope_theta, 1000.0)?;
    let shape = layers!(c)?;
    let dim = c.head_dim.unwrap_or(shape.dim);
    let types = range("type_vocab_size", c.type_vocab_size, 1, 1 << 16)?;
    let positions = c.max_position_embeddings;
    let shape = rotated(Shape { dim, ..shape }, theta, positions);
    Ok(Parts { types, ..Parts::new(shape, c.vocab_size, positions) })
}

/// Nomic's layers: rotated, gated, without biases.
fn rotated(shape: Shape, theta: f64, positions: usize) -> Shape {
    Shape {
        gated: true,
        biases: Biases { qkv: false, output: false, ffn: false },
        per_layer: vec![
            LayerAttention { window: None, theta: Some(theta) };
            shape.layers.min(1 << 10)
        ],
        positions,
        ..shape
    }
}

fn own(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: OwnConfig = read(json)?;
    only("activation_function", &c.activation_function.as_str(), &["swiglu", "geglu"])?;
    only("rotary_emb_fraction", &c.rotary_emb_fraction, &[1.0])?;
    only("rotary_emb_scale_base", &c.rotary_emb_scale_base, &[None])?;
    only("rotary_scaling_factor", &c.rotary_scaling_factor, &[None])?;
    for (key, value) in [
        ("rotary_emb_interleaved", c.rotary_emb_interleaved),
        ("prenorm", c.prenorm),
        ("use_rms_norm", c.use_rms_norm),
        ("parallel_block", c.parallel_block),
        ("causal", c.causal),
        ("qkv_proj_bias", c.qkv_proj_bias),
        ("mlp_fc1_bias", c.mlp_fc1_bias),
        ("mlp_fc2_bias", c.mlp_fc2_bias),
    ] {
        only(key, &value, &[false])?;
    }
    let activation = if c.activation_function == "geglu" { "gelu" } else { "silu" };
    let inner = c.n_inner.unwrap_or(4 * c.n_embd.min(1 << 16));
    let shape =
        Shape::bert(c.n_embd, c.n_layer, c.n_head, inner, activation, c.layer_norm_epsilon)?;
    let types = range("type_vocab_size", c.type_vocab_size, 1, 1 << 16)?;
    let shape = rotated(shape, c.rotary_emb_base, c.n_positions);
    let parts = Parts::new(shape, c.vocab_size, c.n_positions);
    Ok(Parts { types, ..parts })
}
