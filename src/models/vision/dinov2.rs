//! DINOv2 (Oquab et al., arXiv:2304.07193) and its form with registers (Darcet et al., arXiv:2309.16588): ViT with LayerScale
//! and, in the largest, SwiGLU. transformers: `Dinov2Model`, `Dinov2WithRegistersModel`.

use serde_json::{Map, Value};

use super::family::{Family, HeadNames, Layout, Parts, Size};
use super::vit;
use crate::images::Interpolation;
use crate::models::catalog::Architecture;
use crate::models::config::{config, only, range, read};
use crate::models::layers::{Biases, Names, Shape};
use crate::ops::gemm::Activation;

config! {
    /// transformers: `Dinov2Config` and `Dinov2WithRegistersConfig`.
    Dinov2Config {
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        mlp_ratio: f64 = 4.0,
        hidden_act: String = "gelu".into(),
        layer_norm_eps: f64 = 1e-6,
        image_size: Size = Size::Square(224),
        patch_size: Option<Size> = None,
        num_channels: usize = 3,
        qkv_bias: bool = true,
        use_swiglu_ffn: bool = false,
        num_register_tokens: usize = 4,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture::new("dinov2", "DINOv2", "ImageEncoder", "Dinov2Model"),
    Architecture::new(
        "dinov2_with_registers",
        "DINOv2 with registers",
        "ImageEncoder",
        "Dinov2WithRegistersModel",
    ),
];

pub(crate) const FAMILY: Family = Family { read: parts, layout: LAYOUT };

const LAYOUT: Layout = Layout {
    prefix: "dinov2.",
    names: Names {
        norms: ["norm1", "norm2"],
        up: &["mlp.fc1"],
        down: "mlp.fc2",
        scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
        ..vit::LAYOUT.names
    },
    head: HeadNames::First,
    ..vit::LAYOUT
};

/// The net of the largest: both maps are stored as one, the activated one first.
const GATED: Names = Names { up: &["mlp.weights_in"], down: "mlp.weights_out", ..LAYOUT.names };

static SWIGLU: Layout = Layout { names: GATED, ..LAYOUT };
const REGISTERED: Layout = Layout {
    prefix: "dinov2_with_registers.",
    registers: Some("embeddings.register_tokens"),
    ..LAYOUT
};
static REGISTERS: Layout = REGISTERED;
static REGISTERS_SWIGLU: Layout = Layout { names: GATED, ..REGISTERED };

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: Dinov2Config = read(json)?;
    let with_registers = json.get("model_type").and_then(Value::as_str) != Some("dinov2");
    only("num_channels", &c.num_channels, &[3])?;
    let hidden = range("hidden_size", c.hidden_size, 1, 1 << 16)?;
    if !(c.mlp_ratio > 0.0 && c.mlp_ratio <= 64.0) {
        return Err(format!("mlp_ratio is {}, expected a number above 0, at most 64", c.mlp_ratio));
    }
    let wide = (hidden as f64 * c.mlp_ratio) as usize;
    // SwiGLU keeps two thirds, rounded up to a multiple of 8.
    let (inner, activation) = match c.use_swiglu_ffn {
        true => ((wide * 2 / 3).next_multiple_of(8), "silu"),
        false => (wide, c.hidden_act.as_str()),
    };
    let shape = Shape {
        pre: true,
        gated: c.use_swiglu_ffn,
        biases: Biases { qkv: c.qkv_bias, output: true, ffn: true },
        ..Shape::bert(
            hidden,
            c.num_hidden_layers,
            c.num_attention_heads,
            inner,
            activation,
            c.layer_norm_eps,
        )?
    };
    // The two classes have different defaults.
    let patch = c.patch_size.unwrap_or(Size::Square(if with_registers { 16 } else { 14 }));
    let layout = match (with_registers, c.use_swiglu_ffn) {
        (false, false) => None,
        (false, true) => Some(&SWIGLU),
        (true, false) => Some(&REGISTERS),
        (true, true) => Some(&REGISTERS_SWIGLU),
    };
    Ok(Parts {
        registers: if with_registers { c.num_register_tokens } else { 0 },
        interpolation: match with_registers {
            true => Interpolation::BicubicAntialias,
            false => Interpolation::Bicubic,
        },
        pooler: Activation::None,
        layout,
        ..Parts::new(shape, &c.image_size, &patch)?
    })
}
