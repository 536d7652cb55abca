//! `config.json`: what transformers wrote, with its defaults, checked and brought into one form.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::adapters::Languages;
use super::layers::{Loader, Shape};
use super::text::family::{self, Family, Layout};
use crate::ops::gemm::Activation;
use crate::{Error, Result, Tensor, files};

/// Names as in transformers' table of activations.
const ACTIVATIONS: [(&str, Activation); 10] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

/// The widest head that [`attention`](crate::ops::attention) takes.
const MAX_HEAD: usize = 128;
/// Tokens of a sequence at most, however many positions a configuration states: attention compares each with all.
const LONGEST: usize = 1 << 17;

/// What a text encoder's `config.json` says, whatever its family.
#[derive(Clone)]
pub(crate) struct TextConfig {
    pub(crate) file: PathBuf,
    pub(crate) family: &'static Family,
    /// The `model_type` it was found by.
    pub(crate) name: &'static str,
    /// The transformers class that wrote the checkpoint, where the file says.
    pub(crate) class: Option<String>,
    /// Names of the classes of a sequence-classification head.
    pub(crate) labels: Vec<String>,
    pub(crate) parts: Parts,
}

/// What a family makes of its checkpoint beyond what layers have in common.
pub(crate) type LoadTensor = Arc<dyn Fn(&Loader<'_>) -> Result<Tensor> + Send + Sync>;

/// What a family reads from its configuration.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) shape: Shape,
    pub(crate) vocab: usize,
    /// Rows of the position table, or positions that rotations have.
    pub(crate) positions: usize,
    /// Rows of the token-type table; 0 where the family has none.
    pub(crate) types: usize,
    /// The padding token, from which RoBERTa and MPNet count positions.
    pub(crate) pad: Option<u32>,
    /// Positions that no token takes because counting starts behind the padding token's.
    pub(crate) skipped: usize,
    /// Makes the bias of attention by relative position that all layers share, where there is one.
    pub(crate) bias: Option<LoadTensor>,
    /// Adapters for languages, where there are such.
    pub(crate) languages: Option<Languages>,
    /// How a sequence-classification head differs between checkpoints of one family.
    pub(crate) classifier: ClassifierParts,
    /// Where it is not the family's own: names of older or other code.
    pub(crate) layout: Option<&'static Layout>,
}

/// ModernBERT's choices for its classification head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClassifierParts {
    pub(crate) mean: bool,
    pub(crate) bias: bool,
    pub(crate) activation: Activation,
}

impl Parts {
    /// BERT's choices; a family says where it differs.
    pub(crate) fn new(shape: Shape, vocab: usize, positions: usize) -> Parts {
        Parts {
            shape,
            vocab,
            positions,
            types: 0,
            pad: None,
            skipped: 0,
            bias: None,
            languages: None,
            classifier: ClassifierParts { mean: false, bias: true, activation: Activation::Tanh },
            layout: None,
        }
    }

    /// The longest sequence that has a position for each of its tokens.
    pub(crate) fn max_tokens(&self) -> usize {
        (self.positions - self.skipped).min(LONGEST)
    }

    fn check(&self) -> Result<(), String> {
        check_shape(&self.shape)?;
        range("the vocabulary size", self.vocab, 1, 1 << 28)?;
        range("max_position_embeddings", self.positions, self.skipped + 1, 1 << 24)?;
        range("type_vocab_size", self.types, 0, 1 << 16)?;
        Ok(())
    }
}

/// Checks the sizes of layers.
pub(crate) fn check_shape(shape: &Shape) -> Result<(), String> {
    range("the hidden size", shape.hidden, 1, 1 << 16)?;
    range("the number of layers", shape.layers, 1, 1 << 10)?;
    range("the number of heads", shape.heads, 1, 1 << 12)?;
    range("the number of key-value heads", shape.kv_heads, 1, shape.heads)?;
    if !shape.heads.is_multiple_of(shape.kv_heads) {
        let (heads, kv_heads) = (shape.heads, shape.kv_heads);
        return Err(format!("{heads} heads are not a multiple of the {kv_heads} key-value heads"));
    }
    range("the intermediate size", shape.inner, 1, 1 << 20)?;
    range("the size of a head", shape.dim, 1, MAX_HEAD)?;
    if shape.per_layer.iter().any(|s| s.theta.is_some()) && !shape.dim.is_multiple_of(2) {
        return Err(format!("the size of a head is {}, expected an even one to rotate", shape.dim));
    }
    Ok(())
}

/// The columns of a head where heads divide the hidden size.
pub(crate) fn head(hidden: usize, heads: usize) -> Result<usize, String> {
    range("the number of heads", heads, 1, 1 << 12)?;
    match hidden.is_multiple_of(heads) {
        true => Ok(hidden / heads),
        false => Err(format!("the hidden size {hidden} is not a multiple of the {heads} heads")),
    }
}

/// A struct whose missing keys take the value that the transformers class of the same name gives them.
macro_rules! config {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $t:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(serde::Deserialize)]
        #[serde(default)]
        struct $name { $($key: $t,)* }
        impl Default for $name {
            fn default() -> Self {
                $name { $($key: $default,)* }
            }
        }
    };
}

pub(crate) use config;

/// The layers of a configuration whose sizes have the usual names, as [`Shape::bert`] makes them.
macro_rules! layers {
    ($config:expr) => {
        $crate::models::layers::Shape::bert(
            $config.hidden_size,
            $config.num_hidden_layers,
            $config.num_attention_heads,
            $config.intermediate_size,
            &$config.hidden_act,
            $config.layer_norm_eps,
        )
    };
}

pub(crate) use layers;

config! {
    /// transformers: `PretrainedConfig`, the part that names the classes of a head.
    Labels {
        num_labels: Option<usize> = None,
        id2label: Option<Map<String, Value>> = None,
    }
}

impl TextConfig {
    /// Reads `config.json` of a folder.
    pub(crate) fn open(folder: &Path) -> Result<TextConfig> {
        let (json, file) = read_config(folder)?;
        TextConfig::parse(&json, &file)
    }

    /// Checks the configuration of a text encoder that stands for itself.
    ///
    /// # Errors
    /// [`Error::Config`] if a key has the wrong type, a size is out of range, or the architecture, activation or
    /// kind of position is unknown, with what is known.
    pub(crate) fn parse(json: &Map<String, Value>, file: &Path) -> Result<TextConfig> {
        let bad = |problem: String| Error::Config { file: file.into(), problem };
        let model_type = model_type(json).map_err(bad)?;
        let (name, family) = family::find(model_type).ok_or_else(|| {
            let known = family::names().join(", ");
            bad(format!("unknown architecture '{model_type}' (model_type); known are {known}"))
        })?;
        TextConfig::of(json, name, family, file)
    }

    /// Checks a configuration of a known family, which may be a part of the file.
    pub(crate) fn of(
        json: &Map<String, Value>,
        name: &'static str,
        family: &'static Family,
        file: &Path,
    ) -> Result<TextConfig> {
        let bad = |problem: String| Error::Config { file: file.into(), problem };
        let labels = labels(read(json).map_err(bad)?).map_err(bad)?;
        let class = json.get("architectures").and_then(|names| names.get(0));
        let class = class.and_then(Value::as_str).map(Into::into);
        let parts = (family.read)(json).map_err(bad)?;
        Ok(TextConfig { class, labels, ..TextConfig::checked(parts, name, family, file)? })
    }

    /// A configuration of what was read elsewhere.
    pub(crate) fn checked(
        parts: Parts,
        name: &'static str,
        family: &'static Family,
        file: &Path,
    ) -> Result<TextConfig> {
        parts.check().map_err(|problem| Error::Config { file: file.into(), problem })?;
        let (class, labels) = (None, Vec::new());
        Ok(TextConfig { file: file.into(), family, name, class, labels, parts })
    }

    /// The same for sequences of at most `limit` tokens: where positions are rotations, which are computed and not read, there are
    /// no more of them.
    pub(crate) fn up_to(mut self, limit: usize) -> TextConfig {
        if self.layout().positions.is_none() {
            self.parts.positions = self.parts.positions.min(limit);
            self.parts.shape.positions = self.parts.shape.positions.min(limit);
        }
        self
    }

    /// The languages that it has adapters for.
    pub(crate) fn languages(&self) -> &[String] {
        self.parts.languages.as_ref().map_or(&[], |languages| &languages.names)
    }

    /// The names of this checkpoint's tensors.
    pub(crate) fn layout(&self) -> &'static Layout {
        self.parts.layout.unwrap_or(&self.family.layout)
    }
}

/// The `config.json` of a folder, and its path.
pub(crate) fn read_config(folder: &Path) -> Result<(Map<String, Value>, PathBuf)> {
    let file = folder.join("config.json");
    let text = files::read_text(&file, files::CONFIG)?;
    Ok((parse_object(&text, &file)?, file))
}

/// The JSON object that a configuration is.
pub(crate) fn parse_object(text: &str, file: &Path) -> Result<Map<String, Value>> {
    serde_json::from_str(text)
        .map_err(|e| Error::Config { file: file.into(), problem: e.to_string() })
}

/// The `model_type` of a configuration.
pub(crate) fn model_type(json: &Map<String, Value>) -> Result<&str, String> {
    match json.get("model_type") {
        Some(Value::String(name)) => Ok(name),
        Some(other) => Err(format!("model_type is {other}, not a name")),
        None => Err(format!("has no model_type; known are {}", family::names().join(", "))),
    }
}

/// An activation by the name that transformers gives it.
pub(crate) fn activation(name: &str) -> Result<Activation, String> {
    find(&ACTIVATIONS, name)
        .ok_or_else(|| format!("unknown activation '{name}'; {}", known(&ACTIVATIONS)))
}

/// The epsilon of a norm.
pub(crate) fn epsilon(eps: f64) -> Result<f32, String> {
    match (0.0..1.0).contains(&eps) {
        true => Ok(eps as f32),
        false => Err(format!("the epsilon of its norms is {eps}, expected at least 0 and below 1")),
    }
}

/// The base of rotary positions: `rope_theta`, and since transformers 5 `rope_parameters`.
///
/// # Errors
/// If rotations are scaled in any way (`rope_scaling`), or turn a part of a head.
pub(crate) fn rope_theta(
    parameters: Option<&Value>,
    scaling: Option<&Value>,
    theta: Option<f64>,
    default: f64,
) -> Result<f64, String> {
    let given = |value: Option<&Value>| value.filter(|v| !v.is_null()).cloned();
    let mut found = theta.unwrap_or(default);
    for value in [given(parameters), given(scaling)].into_iter().flatten() {
        let Value::Object(map) = &value else {
            return Err(format!("the parameters of rotary positions are {value}, not an object"));
        };
        for (key, value) in map {
            match (key.as_str(), value) {
                ("rope_theta", Value::Number(n)) => found = n.as_f64().unwrap_or(f64::NAN),
                ("rope_type" | "type", Value::String(kind)) if kind == "default" => {}
                ("partial_rotary_factor", Value::Number(n)) if n.as_f64() == Some(1.0) => {}
                (_, Value::Null) => {}
                _ => {
                    return Err(format!(
                        "unknown rotary positions, {key} {value}; known is rope_type default with a rope_theta"
                    ));
                }
            }
        }
    }
    match found.is_finite() && found > 0.0 {
        true => Ok(found),
        false => Err(format!("rope_theta is {found}, expected a number above 0")),
    }
}

/// Refuses a value of a key that changes the computation in a way that is not here.
pub(crate) fn only<T: PartialEq + std::fmt::Debug>(
    key: &str,
    value: &T,
    known: &[T],
) -> Result<(), String> {
    match known.contains(value) {
        true => Ok(()),
        false => {
            let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
            Err(format!("{key} is {value:?}; known is {}", known.join(" or ")))
        }
    }
}

pub(crate) fn read<T: for<'de> Deserialize<'de>>(json: &Map<String, Value>) -> Result<T, String> {
    T::deserialize(json).map_err(|e| e.to_string())
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn known<T>(table: &[(&str, T)]) -> String {
    let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    format!("known are {}", names.join(", "))
}

pub(crate) fn range(what: &str, value: usize, least: usize, most: usize) -> Result<usize, String> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(format!("{what} is {value}, expected {least} to {most}")),
    }
}

pub(crate) fn absolute(kind: &Option<String>) -> Result<(), String> {
    match kind.as_deref() {
        None | Some("absolute") => Ok(()),
        Some(other) => Err(format!("unknown position_embedding_type '{other}'; known is absolute")),
    }
}

pub(crate) fn encoder(is_decoder: bool) -> Result<(), String> {
    match is_decoder {
        true => Err("is_decoder is set; this is no encoder".into()),
        false => Ok(()),
    }
}

fn labels(c: Labels) -> Result<Vec<String>, String> {
    let Some(names) = c.id2label else {
        let n = range("num_labels", c.num_labels.unwrap_or(2), 1, 1 << 20)?;
        return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
    };
    let mut labels = vec![None; names.len()];
    for (id, name) in names {
        let slot = id.parse::<usize>().ok().and_then(|i| labels.get_mut(i));
        let slot = slot.ok_or_else(|| format!("id2label has no place for the id '{id}'"))?;
        *slot = Some(match name {
            Value::String(name) => name,
            other => other.to_string(),
        });
    }
    // "1" and "01" name one slot and leave another empty.
    labels.into_iter().collect::<Option<Vec<_>>>().ok_or("id2label names an id twice".into())
}
