//! ViLT (Kim et al., arXiv:2102.03334): the embedded tokens of a text and the embedded patches of an image as one sequence,
//! in front of one transformer. transformers: `ViltModel`.

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

use crate::images::Interpolation;
use crate::models::catalog::Architecture;
use crate::models::config::{self, TextConfig, config, layers, only, range, read};
use crate::models::layers::{Biases, Linear, Loader, Norm, NormKind, Pass, Shape, Stack};
use crate::models::text::{self, BERT, Hidden};
use crate::models::vision::config::VisionConfig;
use crate::models::vision::{VIT, family as image};
use crate::ops::embed::{Lookup, MISSING, embed, select_rows};
use crate::ops::gemm::Activation;
use crate::ops::pool::{Pooling, pool};
use crate::{DType, Error, Offsets, Result, Tensor};

pub(crate) const NAME: &str = "vilt";

pub(crate) const ARCHITECTURE: Architecture = Architecture::new(
    NAME,
    "ViLT",
    "ImageCrossEncoder",
    "ViltForImageAndTextRetrieval, ViltForQuestionAnswering",
);

config! {
    /// transformers: `ViltConfig`.
    ViltConfig {
        vocab_size: usize = 30522,
        type_vocab_size: usize = 2,
        modality_type_vocab_size: usize = 2,
        max_position_embeddings: usize = 40,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        layer_norm_eps: f64 = 1e-12,
        image_size: image::Size = image::Size::Square(384),
        patch_size: image::Size = image::Size::Square(32),
        num_channels: usize = 3,
        qkv_bias: bool = true,
        max_image_length: Option<i64> = Some(-1),
    }
}

/// The half that embeds texts; the layers are behind both.
const TEXT: text::family::Family = text::family::Family {
    read: |json| Ok(halves(json)?.0),
    layout: text::family::Layout {
        prefix: "vilt.",
        words: "embeddings.text_embeddings.word_embeddings.weight",
        positions: Some("embeddings.text_embeddings.position_embeddings.weight"),
        types: Some("embeddings.text_embeddings.token_type_embeddings.weight"),
        norm: Some("embeddings.text_embeddings.LayerNorm"),
        ..BERT.layout
    },
    classifier: None,
    vocabulary: None,
    types: true,
};

/// The half that embeds images.
const IMAGE: image::Family = image::Family {
    read: |json| Ok(halves(json)?.1),
    layout: image::Layout {
        prefix: "vilt.",
        norms_all: false,
        head: image::HeadNames::First,
        ..VIT.layout
    },
};

fn halves(json: &Map<String, Value>) -> Result<(config::Parts, image::Parts), String> {
    let c: ViltConfig = read(json)?;
    only("num_channels", &c.num_channels, &[3])?;
    // Else patches are drawn at random.
    only("max_image_length", &c.max_image_length, &[Some(-1), None])?;
    let shape = Shape {
        pre: true,
        biases: Biases { qkv: c.qkv_bias, output: true, ffn: true },
        ..layers!(c)?
    };
    let types = range("type_vocab_size", c.type_vocab_size, 1, 1 << 16)?;
    let text = config::Parts {
        types,
        ..config::Parts::new(shape.clone(), c.vocab_size, c.max_position_embeddings)
    };
    let image = image::Parts {
        interpolation: Interpolation::BilinearCorners,
        ..image::Parts::new(shape, &c.image_size, &c.patch_size)?
    };
    Ok((text, image))
}

/// What a configuration says of the layers.
pub(crate) struct Parts {
    shape: Shape,
    modalities: usize,
}

/// The halves' configurations, neither with layers, and that of the layers.
pub(crate) fn parse(
    json: &Map<String, Value>,
    file: &Path,
) -> Result<(TextConfig, VisionConfig, Parts)> {
    let bad = |problem: String| Error::Config { file: file.into(), problem };
    let mut text = TextConfig::of(json, NAME, &TEXT, file)?;
    let mut image = VisionConfig::of(json, NAME, &IMAGE, file)?;
    let shape = text.parts.shape.clone();
    (text.parts.shape.layers, image.parts.shape.layers) = (0, 0);
    let c: ViltConfig = read(json).map_err(bad)?;
    let modalities = range("modality_type_vocab_size", c.modality_type_vocab_size, 2, 1 << 16);
    Ok((text, image, Parts { shape, modalities: modalities.map_err(bad)? }))
}

/// The layers over both halves, and the vector that they make of a pair.
pub(super) struct Joint {
    /// What tells a text's tokens, row 0, from an image's, row 1.
    modalities: Tensor,
    stack: Stack,
    norm: Norm,
    pooler: Linear,
}

impl Joint {
    pub(super) fn load(loader: &Loader<'_>, parts: &Parts) -> Result<Joint> {
        let full = |name: &str| format!("{}{name}", loader.prefix);
        let shape = parts.shape.clone();
        let hidden = shape.hidden;
        Ok(Joint {
            modalities: loader.weights.tensor(
                loader.device,
                DType::F32,
                &full("embeddings.token_type_embeddings.weight"),
                &[parts.modalities, hidden],
            )?,
            norm: loader.norm(&full(VIT.layout.last_norm), NormKind::Layer, hidden, shape.eps)?,
            pooler: loader.linear(&full("pooler.dense"), hidden, hidden, true)?,
            stack: Stack::load(loader, shape, &VIT.layout.names)?,
        })
    }

    /// A vector for each pair, \[pairs, H\]: the tokens of a text, then the rows of `images` that `places` names for it.
    pub(super) fn pooled(
        &self,
        texts: &Hidden,
        images: &Tensor,
        places: &[Range<usize>],
    ) -> Result<Tensor> {
        let (mut words, mut patches, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(places.len());
        for (i, image) in places.iter().enumerate() {
            let text = texts.offsets.range(i);
            let start = words.len();
            let (behind, end) = (start + text.len(), start + text.len() + image.len());
            words.extend(text.map(|row| row as u32));
            words.resize(end, MISSING);
            patches.resize(behind, MISSING);
            patches.extend(image.clone().map(|row| row as u32));
            kinds.resize(behind, 0);
            kinds.resize(end, 1);
            lengths.push(end - start);
        }
        let all: Vec<u32> = (0..words.len() as u32).collect();
        let (words, patches) =
            (select_rows(&texts.states, &words)?, select_rows(images, &patches)?);
        let lookups = [(&words, &all), (&patches, &all), (&self.modalities, &kinds)];
        let x = embed(&lookups.map(|(table, rows)| Lookup { table, rows }), None)?;
        drop((words, patches));
        let offsets = Offsets::from_lengths(self.modalities.device(), &lengths)?;
        let states = self.stack.forward(x, Pass::new(&offsets))?;
        let first = pool(&states, &offsets, Pooling::Cls, None)?;
        self.pooler.apply(&self.norm.apply(&first)?, Activation::Tanh, None)
    }
}
