//! `config.json`: what transformers wrote, with its defaults, checked and brought into one form.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ops::gemm::Activation;
use crate::{Error, Result};

/// The families of encoders that differ in names, positions or attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Bert,
    /// Also XLM-RoBERTa and CamemBERT, which differ only in their tokenizers and vocabularies.
    Roberta,
    DistilBert,
    Mpnet,
}

/// `model_type` and what reads it.
const KNOWN: [(&str, Architecture); 6] = [
    ("bert", Architecture::Bert),
    ("camembert", Architecture::Roberta),
    ("distilbert", Architecture::DistilBert),
    ("mpnet", Architecture::Mpnet),
    ("roberta", Architecture::Roberta),
    ("xlm-roberta", Architecture::Roberta),
];

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

/// The shape of an encoder, whatever its family.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) file: PathBuf,
    pub(crate) architecture: Architecture,
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    /// Rows of the position table.
    pub(crate) positions: usize,
    /// Rows of the token-type table; 0 where the family has none.
    pub(crate) types: usize,
    pub(crate) eps: f32,
    pub(crate) activation: Activation,
    /// The padding token, from which RoBERTa and MPNet count positions.
    pub(crate) pad: u32,
    /// Buckets of MPNet's relative positions; 0 elsewhere.
    pub(crate) buckets: usize,
    /// Names of the classes of a sequence-classification head.
    pub(crate) labels: Vec<String>,
    /// The transformers class that wrote the checkpoint, where the file says.
    pub(crate) class: Option<String>,
}

/// A struct whose missing keys take the value that the transformers class of the same name gives them.
macro_rules! config {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $t:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Deserialize)]
        #[serde(default)]
        struct $name { $($key: $t,)* }
        impl Default for $name {
            fn default() -> Self {
                $name { $($key: $default,)* }
            }
        }
    };
}

config! {
    /// transformers: `BertConfig`.
    BertConfig {
        vocab_size: usize = 30522,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        type_vocab_size: usize = 2,
        layer_norm_eps: f64 = 1e-12,
        position_embedding_type: Option<String> = None,
        is_decoder: bool = false,
    }
}

config! {
    /// transformers: `RobertaConfig`, `XLMRobertaConfig` and `CamembertConfig`, whose vocabularies differ; the size
    /// stands in every file.
    RobertaConfig {
        vocab_size: usize = 50265,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        type_vocab_size: usize = 2,
        layer_norm_eps: f64 = 1e-12,
        pad_token_id: u32 = 1,
        position_embedding_type: Option<String> = None,
        is_decoder: bool = false,
    }
}

config! {
    /// transformers: `DistilBertConfig`. The epsilon of its layer norms is a constant there.
    DistilBertConfig {
        vocab_size: usize = 30522,
        dim: usize = 768,
        n_layers: usize = 6,
        n_heads: usize = 12,
        hidden_dim: usize = 3072,
        activation: String = "gelu".into(),
        max_position_embeddings: usize = 512,
    }
}

config! {
    /// transformers: `MPNetConfig`. Its embeddings count positions from a padding index of 1 whatever the
    /// configuration says.
    MPNetConfig {
        vocab_size: usize = 30527,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        layer_norm_eps: f64 = 1e-12,
        relative_attention_num_buckets: usize = 32,
    }
}

config! {
    /// transformers: `PretrainedConfig`, the part that names the classes of a head.
    Labels {
        num_labels: Option<usize> = None,
        id2label: Option<Map<String, Value>> = None,
    }
}

impl Config {
    /// Reads `config.json` of a folder.
    pub(crate) fn open(folder: &Path) -> Result<Config> {
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        Config::parse(&text, &file)
    }

    /// Checks the text of the configuration `file`.
    ///
    /// # Errors
    /// [`Error::Config`] if a key has the wrong type, a size is out of range, or the architecture, activation or
    /// kind of position is unknown, with what is known.
    pub(crate) fn parse(text: &str, file: &Path) -> Result<Config> {
        let bad = |problem: String| Error::Config { file: file.into(), problem };
        let json: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let model_type = match json.get("model_type") {
            Some(Value::String(name)) => name.as_str(),
            Some(other) => return Err(bad(format!("model_type is {other}, not a name"))),
            None => return Err(bad(format!("has no model_type; {}", known(&KNOWN)))),
        };
        let architecture = find(&KNOWN, model_type).ok_or_else(|| {
            bad(format!("unknown architecture '{model_type}' (model_type); {}", known(&KNOWN)))
        })?;
        let labels = labels(read(&json).map_err(bad)?).map_err(bad)?;

        let class = json.get("architectures").and_then(|names| names.get(0));
        let mut config = Config {
            file: file.into(),
            class: class.and_then(Value::as_str).map(Into::into),
            architecture,
            vocab: 0,
            hidden: 0,
            layers: 0,
            heads: 0,
            intermediate: 0,
            positions: 0,
            types: 0,
            eps: 0.0,
            activation: Activation::None,
            pad: 0,
            buckets: 0,
            labels,
        };
        let (activation, eps);
        match architecture {
            Architecture::Bert => {
                let c: BertConfig = read(&json).map_err(bad)?;
                absolute(&c.position_embedding_type).map_err(bad)?;
                encoder(c.is_decoder).map_err(bad)?;
                (config.vocab, config.types) = (c.vocab_size, c.type_vocab_size);
                (config.hidden, config.intermediate) = (c.hidden_size, c.intermediate_size);
                (config.layers, config.heads) = (c.num_hidden_layers, c.num_attention_heads);
                config.positions = c.max_position_embeddings;
                (activation, eps) = (c.hidden_act, c.layer_norm_eps);
            }
            Architecture::Roberta => {
                let c: RobertaConfig = read(&json).map_err(bad)?;
                absolute(&c.position_embedding_type).map_err(bad)?;
                encoder(c.is_decoder).map_err(bad)?;
                (config.vocab, config.types) = (c.vocab_size, c.type_vocab_size);
                (config.hidden, config.intermediate) = (c.hidden_size, c.intermediate_size);
                (config.layers, config.heads) = (c.num_hidden_layers, c.num_attention_heads);
                (config.positions, config.pad) = (c.max_position_embeddings, c.pad_token_id);
                (activation, eps) = (c.hidden_act, c.layer_norm_eps);
            }
            Architecture::DistilBert => {
                let c: DistilBertConfig = read(&json).map_err(bad)?;
                config.vocab = c.vocab_size;
                (config.hidden, config.intermediate) = (c.dim, c.hidden_dim);
                (config.layers, config.heads) = (c.n_layers, c.n_heads);
                config.positions = c.max_position_embeddings;
                (activation, eps) = (c.activation, 1e-12);
            }
            Architecture::Mpnet => {
                let c: MPNetConfig = read(&json).map_err(bad)?;
                config.vocab = c.vocab_size;
                (config.hidden, config.intermediate) = (c.hidden_size, c.intermediate_size);
                (config.layers, config.heads) = (c.num_hidden_layers, c.num_attention_heads);
                (config.positions, config.pad) = (c.max_position_embeddings, 1);
                (activation, eps) = (c.hidden_act, c.layer_norm_eps);
                // An even split into before and after, each half exact and half logarithmic.
                config.buckets = range(
                    "relative_attention_num_buckets",
                    c.relative_attention_num_buckets,
                    4,
                    256,
                )
                .map_err(bad)?;
            }
        }
        config.activation = find(&ACTIVATIONS, &activation).ok_or_else(|| {
            bad(format!("unknown activation '{activation}'; {}", known(&ACTIVATIONS)))
        })?;
        if !(0.0..1.0).contains(&eps) {
            return Err(bad(format!("layer_norm_eps is {eps}, expected at least 0 and below 1")));
        }
        config.eps = eps as f32;
        config.check_sizes().map_err(bad)?;
        Ok(config)
    }

    /// The longest sequence that has a position for each of its tokens.
    pub(crate) fn max_tokens(&self) -> usize {
        match self.architecture {
            Architecture::Bert | Architecture::DistilBert => self.positions,
            Architecture::Roberta | Architecture::Mpnet => self.positions - self.pad as usize - 1,
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
        range("the vocabulary size", self.vocab, 1, 1 << 28)?;
        range("the hidden size", self.hidden, 1, 1 << 16)?;
        range("the number of layers", self.layers, 1, 1 << 10)?;
        range("the number of heads", self.heads, 1, 1 << 12)?;
        range("the intermediate size", self.intermediate, 1, 1 << 20)?;
        range("max_position_embeddings", self.positions, 1, 1 << 24)?;
        if matches!(self.architecture, Architecture::Bert | Architecture::Roberta) {
            range("type_vocab_size", self.types, 1, 1 << 16)?;
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(format!(
                "the hidden size {} is not a multiple of the {} heads",
                self.hidden, self.heads
            ));
        }
        range("the size of a head", self.hidden / self.heads, 1, MAX_HEAD)?;
        if matches!(self.architecture, Architecture::Roberta | Architecture::Mpnet) {
            range("max_position_embeddings", self.positions, self.pad as usize + 2, 1 << 24)?;
        }
        Ok(())
    }
}

fn read<T: for<'de> Deserialize<'de>>(json: &Map<String, Value>) -> Result<T, String> {
    T::deserialize(json).map_err(|e| e.to_string())
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn known<T>(table: &[(&str, T)]) -> String {
    let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    format!("known are {}", names.join(", "))
}

fn range(what: &str, value: usize, least: usize, most: usize) -> Result<usize, String> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(format!("{what} is {value}, expected {least} to {most}")),
    }
}

fn absolute(kind: &Option<String>) -> Result<(), String> {
    match kind.as_deref() {
        None | Some("absolute") => Ok(()),
        Some(other) => Err(format!("unknown position_embedding_type '{other}'; known is absolute")),
    }
}

fn encoder(is_decoder: bool) -> Result<(), String> {
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
