//! OpenCLIP's own folders (Cherti et al., arXiv:2212.07143): `open_clip_config.json` and the names of CLIP's first code.

use std::path::Path;

use serde_json::{Map, Value};

use super::family::{End, Family, Names, Parts};
use crate::images::Interpolation;
use crate::models::catalog::Architecture;
use crate::models::config::{self, TextConfig, config, only, parse_object, read};
use crate::models::layers::{Names as LayerNames, Shape};
use crate::models::text;
use crate::models::vision::config::VisionConfig;
use crate::models::vision::{self, family as image};
use crate::{Error, Result, files};

pub(super) const CONFIG: &str = "open_clip_config.json";
/// What the weights are called, besides `model.safetensors`.
pub(super) const FILES: &[&str] =
    &["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"];

config! {
    /// `model_cfg`.
    ModelConfig {
        embed_dim: usize = 0,
        vision_cfg: Map<String, Value> = Map::new(),
        text_cfg: Map<String, Value> = Map::new(),
        quick_gelu: bool = false,
        custom_text: bool = false,
        multimodal_cfg: Option<Map<String, Value>> = None,
        init_logit_bias: Option<f64> = None,
    }
}

config! {
    /// open_clip: `CLIPVisionCfg`.
    CLIPVisionCfg {
        layers: usize = 12,
        width: usize = 768,
        head_width: usize = 64,
        mlp_ratio: f64 = 4.0,
        patch_size: image::Size = image::Size::Square(16),
        image_size: image::Size = image::Size::Square(224),
        ls_init_value: Option<f64> = None,
        attentional_pool: Value = Value::Bool(false),
        attn_pooler_queries: usize = 256,
        attn_pooler_heads: usize = 8,
        no_ln_pre: bool = false,
        pos_embed_type: String = "learnable".into(),
        final_ln_after_pool: bool = false,
        pool_type: String = "tok".into(),
        timm_model_name: Option<String> = None,
    }
}

config! {
    /// open_clip: `CLIPTextCfg`.
    CLIPTextCfg {
        context_length: usize = 77,
        vocab_size: usize = 49408,
        width: usize = 512,
        heads: usize = 8,
        layers: usize = 12,
        mlp_ratio: f64 = 4.0,
        ls_init_value: Option<f64> = None,
        embed_cls: bool = false,
        correct_cls_mask: bool = false,
        pad_id: u32 = 0,
        no_causal_mask: bool = false,
        pool_type: String = "argmax".into(),
        proj_type: String = "linear".into(),
        proj_bias: bool = false,
        hf_model_name: Option<String> = None,
    }
}

const NAMES: LayerNames = LayerNames {
    layers: "transformer.resblocks",
    qkv: &["attn.in_proj_"],
    output: "attn.out_proj",
    norms: ["ln_1", "ln_2"],
    up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    qk_norms: None,
    scales: None,
    first_is_bare: false,
    cross: None,
};

pub(super) const ARCHITECTURE: Architecture = Architecture::new(
    "open_clip_config.json",
    "OpenCLIP, CoCa",
    "DualEncoder",
    "CLIPModel under OpenCLIP's names, open_clip's CoCa",
);

const FAMILY: Family = Family {
    text: ("open_clip", &TEXT),
    image: ("open_clip", &IMAGE),
    names: Names {
        text: Some("text_projection"),
        image: Some("proj"),
        own_image: false,
        transposed: true,
        bias: false,
        scale: Some("logit_scale"),
    },
    end: End::Highest,
    filled: false,
    sigmoid: false,
    dim: |_, _| Err("stands in model_cfg".into()),
};

const TEXT: text::family::Family = text::family::Family {
    read: |_| Err("stands in model_cfg".into()),
    layout: text::family::Layout {
        prefix: "",
        words: "token_embedding.weight",
        positions: Some("positional_embedding"),
        names: NAMES,
        last_norm: Some("ln_final"),
        ..super::clip::TEXT.layout
    },
    classifier: None,
    vocabulary: None,
    types: false,
};

const IMAGE: image::Family = image::Family {
    read: |_| Err("stands in model_cfg".into()),
    layout: image::Layout {
        prefix: "visual.",
        patch: "conv1",
        tokens: &["class_embedding"],
        positions: "positional_embedding",
        norm: Some("ln_pre"),
        names: NAMES,
        last_norm: "ln_post",
        ..vision::CLIP.layout
    },
};

/// CoCa (Yu et al., arXiv:2205.01917), of which vectors need the contrastive side alone.
const COCA: Family = Family {
    text: ("open_clip", &COCA_TEXT),
    image: ("open_clip", &COCA_IMAGE),
    names: Names { text: Some("text.text_projection"), ..FAMILY.names },
    end: End::Added("cls_emb"),
    ..FAMILY
};

const COCA_TEXT: text::family::Family = text::family::Family {
    layout: text::family::Layout { prefix: "text.", number: last_apart, ..TEXT.layout },
    ..TEXT
};

const COCA_IMAGE: image::Family = image::Family {
    layout: image::Layout { head: image::HeadNames::Queries("attn_pool"), ..IMAGE.layout },
    ..IMAGE
};

/// Positions count from 0, but for the last token, which always has the last.
fn last_apart(parts: &config::Parts, ids: &[u32], rows: &mut Vec<u32>) {
    let last = parts.positions as u32 - 1;
    rows.extend((0..ids.len() as u32).map(|i| if i as usize + 1 == ids.len() { last } else { i }));
}

/// Reads and checks a folder's configuration.
pub(super) fn open(file: &Path) -> Result<(&'static Family, Parts)> {
    let text = files::read_text(file, files::CONFIG)?;
    parse(&parse_object(&text, file)?, file)
}

/// Checks what a folder's configuration says.
pub(crate) fn parse(json: &Map<String, Value>, file: &Path) -> Result<(&'static Family, Parts)> {
    let bad = |problem: String| Error::Config { file: file.into(), problem };
    let Some(Value::Object(model)) = json.get("model_cfg") else {
        return Err(bad("has no model_cfg".into()));
    };
    let (family, text, image, dim) = parts(model).map_err(bad)?;
    let (text_name, text_family) = family.text;
    let (image_name, image_family) = family.image;
    image.check().map_err(bad)?;
    let pad = text.pad.unwrap_or_default();
    Ok((
        family,
        Parts {
            text: TextConfig::checked(text, text_name, text_family, file)?,
            image: VisionConfig {
                file: file.into(),
                name: image_name,
                family: image_family,
                parts: image,
            },
            dim,
            end: 0,
            pad,
            bias: false,
        },
    ))
}

/// A family, what its halves read, and the columns of the common space.
type Read = (&'static Family, config::Parts, image::Parts, usize);

fn parts(model: &Map<String, Value>) -> Result<Read, String> {
    let c: ModelConfig = read(model)?;
    let coca = c.multimodal_cfg.is_some();
    only("custom_text", &c.custom_text, if coca { &[true, false] } else { &[false] })?;
    only("init_logit_bias", &c.init_logit_bias, &[None])?;
    let activation = if c.quick_gelu { "quick_gelu" } else { "gelu" };
    let v: CLIPVisionCfg = read(&c.vision_cfg)?;
    only("timm_model_name", &v.timm_model_name, &[None])?;
    only("vision_cfg.ls_init_value", &v.ls_init_value, &[None])?;
    only("attentional_pool", &v.attentional_pool, &[Value::Bool(coca)])?;
    for (key, value) in [("no_ln_pre", v.no_ln_pre), ("final_ln_after_pool", v.final_ln_after_pool)]
    {
        only(key, &value, &[false])?;
    }
    only("vision_cfg.pool_type", &v.pool_type.as_str(), &["tok"])?;
    only("pos_embed_type", &v.pos_embed_type.as_str(), &["learnable"])?;
    let t: CLIPTextCfg = read(&c.text_cfg)?;
    only("hf_model_name", &t.hf_model_name, &[None])?;
    only("text_cfg.ls_init_value", &t.ls_init_value, &[None])?;
    only("text_cfg.pool_type", &t.pool_type.as_str(), &["argmax"])?;
    only("proj_type", &t.proj_type.as_str(), &["linear"])?;
    only("embed_cls", &t.embed_cls, &[coca])?;
    for (key, value) in [
        ("correct_cls_mask", t.correct_cls_mask),
        ("no_causal_mask", t.no_causal_mask),
        ("proj_bias", t.proj_bias),
    ] {
        only(key, &value, &[false])?;
    }
    let inner = |width: usize, ratio: f64, key: &str| match ratio > 0.0 && ratio <= 64.0 {
        true => Ok((width as f64 * ratio) as usize),
        false => Err(format!("{key} is {ratio}, expected a number above 0, at most 64")),
    };
    let heads = config::range("head_width", v.head_width, 1, 1 << 16).map(|w| v.width / w)?;
    let image_inner = inner(v.width, v.mlp_ratio, "vision_cfg.mlp_ratio")?;
    let shape = Shape::bert(v.width, v.layers, heads, image_inner, activation, 1e-5)?;
    let mut image = image::Parts {
        interpolation: Interpolation::BicubicAntialias,
        ..image::Parts::new(Shape { pre: true, ..shape }, &v.image_size, &v.patch_size)?
    };
    let text_inner = inner(t.width, t.mlp_ratio, "text_cfg.mlp_ratio")?;
    let shape = Shape::bert(t.width, t.layers, t.heads, text_inner, activation, 1e-5)?;
    let shape = Shape { pre: true, causal: true, ..shape };
    let mut text = config::Parts::new(shape, t.vocab_size, t.context_length);
    let dim = config::range("embed_dim", c.embed_dim, 1, 1 << 16)?;
    if !coca {
        return Ok((&FAMILY, text, image, dim));
    }
    // The token that stands for a text has a position behind the text's.
    (text.positions, text.skipped, text.pad) = (t.context_length + 1, 1, Some(t.pad_id));
    config::range("pad_id", t.pad_id as usize, 0, t.vocab_size.saturating_sub(1))?;
    image.pooled = dim;
    image.queries = config::range("attn_pooler_queries", v.attn_pooler_queries, 1, 1 << 16)?;
    image.query_heads = v.attn_pooler_heads;
    config::range("the size of a pooler's head", config::head(dim, v.attn_pooler_heads)?, 1, 128)?;
    Ok((&COCA, text, image, dim))
}
