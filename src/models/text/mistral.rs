//! Mistral as an embedder (Wang et al., arXiv:2401.00368: E5-Mistral; SFR-Embedding): a causal decoder (Jiang et al.,
//! arXiv:2310.06825) whose last token stands for the text. transformers: `MistralModel`.

use serde_json::{Map, Value};

use super::family::Family;
use super::qwen3;
use crate::models::catalog::{Architecture, TEXT};
use crate::models::config::{Parts, config, range, read, rope_theta};
use crate::models::layers::{LayerAttention, Shape};

config! {
    /// transformers: `MistralConfig`.
    MistralConfig {
        vocab_size: usize = 32000,
        hidden_size: usize = 4096,
        intermediate_size: usize = 14336,
        num_hidden_layers: usize = 32,
        num_attention_heads: usize = 32,
        num_key_value_heads: Option<usize> = Some(8),
        head_dim: Option<usize> = None,
        hidden_act: String = "silu".into(),
        max_position_embeddings: usize = 131072,
        rms_norm_eps: f64 = 1e-6,
        rope_parameters: Option<Value> = None,
        rope_scaling: Option<Value> = None,
        rope_theta: Option<f64> = None,
        sliding_window: Option<usize> = None,
        pad_token_id: Option<u32> = None,
    }
}

/// The window where the key is absent, not null.
const WINDOW: usize = 4096;

pub(super) const ARCHITECTURES: &[Architecture] =
    &[Architecture::new("mistral", "E5-Mistral, SFR-Embedding", TEXT, "MistralModel")];

pub(super) const FAMILY: Family = Family {
    read: parts,
    layout: qwen3::LAYOUT,
    classifier: Some(qwen3::CLASSIFIER),
    vocabulary: None,
    types: false,
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: MistralConfig = read(json)?;
    let theta =
        rope_theta(c.rope_parameters.as_ref(), c.rope_scaling.as_ref(), c.rope_theta, 10_000.0)?;
    let window = match json.contains_key("sliding_window") {
        true => c.sliding_window,
        false => Some(WINDOW),
    };
    // The token itself is one of those in the window.
    let window = window.map(|w| range("sliding_window", w, 1, 1 << 24)).transpose()?.map(|w| w - 1);
    let layers = range("num_hidden_layers", c.num_hidden_layers, 1, 1 << 10)?;
    let heads = range("num_attention_heads", c.num_attention_heads, 1, 1 << 12)?;
    let dim = c.head_dim.unwrap_or(c.hidden_size / heads);
    let shape = Shape {
        hidden: c.hidden_size,
        kv_heads: c.num_key_value_heads.unwrap_or(heads),
        per_layer: vec![LayerAttention { window, theta: Some(theta) }; layers],
        positions: c.max_position_embeddings,
        ..qwen3::decoder(Shape::bert(
            // Heads need not divide the hidden size here.
            heads.saturating_mul(dim),
            layers,
            heads,
            c.intermediate_size,
            &c.hidden_act,
            c.rms_norm_eps,
        )?)
    };
    let parts = Parts::new(shape, c.vocab_size, c.max_position_embeddings);
    Ok(Parts { pad: c.pad_token_id, ..parts })
}
