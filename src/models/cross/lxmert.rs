//! LXMERT (Tan, Bansal, arXiv:1908.07490): an encoder of words, one of regions, and layers in which each attends to the other.
//! transformers: `LxmertModel`.

use std::path::Path;

use serde_json::{Map, Value};

use super::regions::Regions;
use crate::models::catalog::Architecture;
use crate::models::config::{Parts, TextConfig, config, range, read};
use crate::models::layers::{
    Context, Cross, CrossNames, Linear, Loader, Names, Norm, NormKind, Pass, Shape, Stack,
};
use crate::models::text::family::{Family, Layout};
use crate::models::text::{BERT, Encoder};
use crate::ops::embed::sum;
use crate::ops::gemm::Activation;
use crate::ops::pool::{Pooling, pool};
use crate::{Device, Error, Offsets, Result, Tensor};

/// `model_type` of its `config.json`.
pub(crate) const NAME: &str = "lxmert";

pub(crate) const ARCHITECTURE: Architecture = Architecture::new(
    NAME,
    "LXMERT",
    "RegionCrossEncoder",
    "LxmertForPreTraining, LxmertForQuestionAnswering",
);

/// The epsilon of all its norms, which no configuration states.
pub(super) const EPS: f32 = 1e-12;

config! {
    /// transformers: `LxmertConfig`. What it says of tasks and losses is for training.
    LxmertConfig {
        vocab_size: usize = 30522,
        hidden_size: usize = 768,
        num_attention_heads: usize = 12,
        num_qa_labels: usize = 9500,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        type_vocab_size: usize = 2,
        l_layers: usize = 9,
        x_layers: usize = 5,
        r_layers: usize = 5,
        visual_feat_dim: usize = 2048,
        visual_pos_dim: usize = 4,
    }
}

/// A checked configuration.
pub(crate) struct Config {
    /// The encoder of words.
    pub(super) text: TextConfig,
    /// Layers of regions alone.
    relations: usize,
    /// Layers of both.
    crossings: usize,
    /// Numbers of a region's features and of its box.
    pub(super) features: usize,
    pub(super) boxes: usize,
    /// Classes of the answer head.
    pub(super) answers: usize,
}

impl Config {
    /// # Errors
    /// [`Error::Config`] if a key has the wrong type, a size is out of range, or the activation is unknown.
    pub(crate) fn parse(json: &Map<String, Value>, file: &Path) -> Result<Config> {
        let text = TextConfig::of(json, NAME, &TEXT, file)?;
        let checked = || {
            let c: LxmertConfig = read(json)?;
            Ok(Config {
                text,
                relations: range("r_layers", c.r_layers, 1, 1 << 10)?,
                crossings: range("x_layers", c.x_layers, 1, 1 << 10)?,
                features: range("visual_feat_dim", c.visual_feat_dim, 1, 1 << 16)?,
                boxes: range("visual_pos_dim", c.visual_pos_dim, 1, 1 << 16)?,
                answers: range("num_qa_labels", c.num_qa_labels, 1, 1 << 20)?,
            })
        };
        checked().map_err(|problem: String| Error::Config { file: file.into(), problem })
    }

    /// Names of the answers: the configuration's, if it has one for each.
    pub(super) fn answers(&self) -> Vec<String> {
        match &self.text.labels {
            names if names.len() == self.answers => names.clone(),
            _ => (0..self.answers).map(|i| format!("LABEL_{i}")).collect(),
        }
    }
}

/// The encoder of words is a BERT.
const TEXT: Family = Family {
    read: words,
    layout: Layout { prefix: "lxmert.", ..BERT.layout },
    classifier: None,
    vocabulary: None,
    types: true,
};

/// Layers of regions alone.
const RELATIONS: Names = Names { layers: "encoder.r_layers", ..BERT.layout.names };

/// Where the layers of both are.
const CROSSINGS: &str = "encoder.x_layers";

/// What of them is for words.
const WORDS: Names = Names {
    layers: CROSSINGS,
    qkv: &["lang_self_att.self.query", "lang_self_att.self.key", "lang_self_att.self.value"],
    output: "lang_self_att.output.dense",
    norms: ["lang_self_att.output.LayerNorm", "lang_output.LayerNorm"],
    up: &["lang_inter.dense"],
    down: "lang_output.dense",
    ..BERT.layout.names
};

/// What of them is for regions.
const REGIONS: Names = Names {
    layers: CROSSINGS,
    qkv: &["visn_self_att.self.query", "visn_self_att.self.key", "visn_self_att.self.value"],
    output: "visn_self_att.output.dense",
    norms: ["visn_self_att.output.LayerNorm", "visn_output.LayerNorm"],
    up: &["visn_inter.dense"],
    down: "visn_output.dense",
    ..BERT.layout.names
};

/// Attention to the other side, the same for both.
const ATTENTION: CrossNames = CrossNames {
    qkv: ["visual_attention.att.query", "visual_attention.att.key", "visual_attention.att.value"],
    output: "visual_attention.output.dense",
    norm: "visual_attention.output.LayerNorm",
};

fn words(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: LxmertConfig = read(json)?;
    let shape = Shape::bert(
        c.hidden_size,
        c.l_layers,
        c.num_attention_heads,
        c.intermediate_size,
        &c.hidden_act,
        EPS.into(),
    )?;
    let types = range("type_vocab_size", c.type_vocab_size, 1, 1 << 16)?;
    Ok(Parts { types, ..Parts::new(shape, c.vocab_size, c.max_position_embeddings) })
}

/// A side of pairs: one sequence a pair.
pub(super) struct Side {
    /// \[T, H\].
    pub(super) states: Tensor,
    pub(super) offsets: Offsets,
}

impl Side {
    fn context(&self) -> Context<'_> {
        Context { states: &self.states, rows: None, offsets: &self.offsets }
    }
}

/// The model on a device.
pub(super) struct Lxmert {
    pub(super) words: Encoder,
    features: (Linear, Norm),
    boxes: (Linear, Norm),
    relations: Stack,
    /// What each side attends to the other with, a layer each, and what it does then.
    attention: Vec<Cross>,
    crossing_words: Stack,
    crossing_regions: Stack,
    pooler: Linear,
}

impl Lxmert {
    pub(super) fn load(config: Config, loader: &Loader<'_>) -> Result<Lxmert> {
        let hidden = config.text.parts.shape.hidden;
        let shape = Shape { context: hidden, ..config.text.parts.shape.clone() };
        let full = |name: &str| format!("{}{name}", loader.prefix);
        // The embedding is the mean of both, so that each norm gives its half.
        let input = |name: &str, columns: usize| {
            let at = full(&format!("encoder.visn_fc.{name}"));
            let norm = loader.norm(&format!("{at}_layer_norm"), NormKind::Layer, hidden, EPS)?;
            let fc = loader.linear(&format!("{at}_fc"), hidden, columns, true)?;
            Ok::<_, Error>((fc, norm.times(0.5)?))
        };
        let stack = |layers: usize, names: &Names| {
            Stack::load(loader, Shape { layers, ..shape.clone() }, names)
        };
        let attention = |i: usize| {
            let layer = full(&format!("{CROSSINGS}.{i}"));
            Cross::load(loader, &shape, &ATTENTION, &layer)
        };
        Ok(Lxmert {
            features: input("visn", config.features)?,
            boxes: input("box", config.boxes)?,
            relations: stack(config.relations, &RELATIONS)?,
            attention: (0..config.crossings).map(attention).collect::<Result<_>>()?,
            crossing_words: stack(config.crossings, &WORDS)?,
            crossing_regions: stack(config.crossings, &REGIONS)?,
            pooler: loader.linear(&full("pooler.dense"), hidden, hidden, true)?,
            words: Encoder::load(config.text, loader)?,
        })
    }

    pub(super) fn device(&self) -> &Device {
        &self.words.device
    }

    /// Columns of a hidden state.
    pub(super) fn hidden(&self) -> usize {
        self.words.hidden()
    }

    /// The states of the regions of images, checked ones, with none of the words seen yet.
    pub(super) fn regions(&self, images: &[&Regions]) -> Result<Side> {
        let of = |(fc, norm): &(Linear, Norm), numbers: fn(&Regions) -> &[f32]| {
            let columns = fc.weight.shape()[1];
            let all: Vec<f32> = images.iter().flat_map(|image| numbers(image)).copied().collect();
            let x = Tensor::from_slice(self.device(), &[all.len() / columns, columns], &all)?;
            norm.apply(&fc.apply(&x, Activation::None, None)?)
        };
        let columns = self.features.0.weight.shape()[1];
        let lengths: Vec<usize> = images.iter().map(|i| i.features.len() / columns).collect();
        let offsets = Offsets::from_lengths(self.device(), &lengths)?;
        let embedded = sum(&of(&self.features, |i| &i.features)?, &of(&self.boxes, |i| &i.boxes)?)?;
        Ok(Side { states: self.relations.forward(embedded, Pass::new(&offsets))?, offsets })
    }

    /// Both sides after the layers in which each attends to the other.
    pub(super) fn meet(&self, words: Side, regions: Side) -> Result<(Side, Side)> {
        let (mut words, mut regions) = (words, regions);
        let shape = &self.crossing_words.shape;
        for (i, attention) in self.attention.iter().enumerate() {
            // Both look before either changes.
            let x = attention.apply(shape, &words.states, &words.offsets, regions.context())?;
            let y = attention.apply(shape, &regions.states, &regions.offsets, words.context())?;
            words.states = self.crossing_words.step(i, x, Pass::new(&words.offsets))?;
            regions.states = self.crossing_regions.step(i, y, Pass::new(&regions.offsets))?;
        }
        Ok((words, regions))
    }

    /// A vector of each pair, made of its first token: \[pairs, H\].
    pub(super) fn pool(&self, words: &Side) -> Result<Tensor> {
        let first = pool(&words.states, &words.offsets, Pooling::Cls, None)?;
        self.pooler.apply(&first, Activation::Tanh, None)
    }
}
