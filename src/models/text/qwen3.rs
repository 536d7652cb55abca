//! Qwen3 as an embedder (Zhang et al., arXiv:2506.05176): a causal decoder whose last token stands for the text. Norms before
//! (RMS), normalised and rotated queries and keys, fewer heads of keys and values than of queries, SwiGLU.
//! transformers: `Qwen3Model`.

use serde_json::{Map, Value};

use super::family::{Classifier, Family, Layout, Take, unnumbered};
use crate::models::catalog::{Architecture, TEXT};
use crate::models::config::{Parts, config, only, range, read, rope_theta};
use crate::models::layers::{Biases, LayerAttention, Names, NormKind, Shape};

config! {
    /// transformers: `Qwen3Config`.
    Qwen3Config {
        vocab_size: usize = 151936,
        hidden_size: usize = 4096,
        intermediate_size: usize = 22016,
        num_hidden_layers: usize = 32,
        num_attention_heads: usize = 32,
        num_key_value_heads: Option<usize> = Some(32),
        head_dim: usize = 128,
        hidden_act: String = "silu".into(),
        max_position_embeddings: usize = 32768,
        rms_norm_eps: f64 = 1e-6,
        rope_parameters: Option<Value> = None,
        rope_scaling: Option<Value> = None,
        rope_theta: Option<f64> = None,
        attention_bias: bool = false,
        use_sliding_window: bool = false,
        layer_types: Option<Vec<String>> = None,
        pad_token_id: Option<u32> = None,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "qwen3",
    "Qwen3-Embedding",
    TEXT,
    "Qwen3Model, Qwen3ForSequenceClassification",
)];

pub(super) const FAMILY: Family = Family {
    read: parts,
    layout: Layout {
        names: Names { qk_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]), ..LAYOUT.names },
        ..LAYOUT
    },
    classifier: Some(CLASSIFIER),
    vocabulary: None,
    types: false,
};

/// The names that decoders since LLaMA have.
pub(super) const LAYOUT: Layout = Layout {
    prefix: "model.",
    words: "embed_tokens.weight",
    positions: None,
    types: None,
    norm: None,
    names: Names {
        layers: "layers",
        qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        output: "self_attn.o_proj",
        norms: ["input_layernorm", "post_attention_layernorm"],
        up: &["mlp.gate_proj", "mlp.up_proj"],
        down: "mlp.down_proj",
        qk_norms: None,
        scales: None,
        first_is_bare: false,
        cross: None,
    },
    last_norm: Some("norm"),
    number: unnumbered,
};

pub(super) const CLASSIFIER: Classifier =
    Classifier { take: Take::Last, dense: None, norm: None, out: "score", out_bias: false };

/// The layers that decoders since LLaMA have: RMSNorm before, a gate, each token seeing those before it, no biases.
pub(super) fn decoder(shape: Shape) -> Shape {
    Shape {
        gated: true,
        norm: NormKind::Rms,
        pre: true,
        causal: true,
        biases: Biases { qkv: false, output: false, ffn: false },
        ..shape
    }
}

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: Qwen3Config = read(json)?;
    only("use_sliding_window", &c.use_sliding_window, &[false])?;
    for kind in c.layer_types.iter().flatten() {
        only("layer_types", &kind.as_str(), &["full_attention"])?;
    }
    let theta =
        rope_theta(c.rope_parameters.as_ref(), c.rope_scaling.as_ref(), c.rope_theta, 10_000.0)?;
    let layers = range("num_hidden_layers", c.num_hidden_layers, 1, 1 << 10)?;
    let shape = Shape {
        hidden: c.hidden_size,
        kv_heads: c.num_key_value_heads.unwrap_or(c.num_attention_heads),
        biases: Biases { qkv: c.attention_bias, output: c.attention_bias, ffn: false },
        per_layer: vec![LayerAttention { window: None, theta: Some(theta) }; layers],
        positions: c.max_position_embeddings,
        ..decoder(Shape::bert(
            // Heads need not divide the hidden size here.
            c.num_attention_heads.saturating_mul(c.head_dim),
            layers,
            c.num_attention_heads,
            c.intermediate_size,
            &c.hidden_act,
            c.rms_norm_eps,
        )?)
    };
    let parts = Parts::new(shape, c.vocab_size, c.max_position_embeddings);
    Ok(Parts { pad: c.pad_token_id, ..parts })
}
