//! Cross-encoders: a score for a pair that the encoder read together, of texts or of a text and an image.

mod images;
pub(crate) mod lxmert;
mod regions;
pub(super) mod vilt;

use std::ops::Range;
use std::path::Path;

pub(super) use images::NAMES as IMAGE_NAMES;
pub use images::{EncodedImages, ImageCrossEncoder};
pub use regions::{PairStates, RegionCrossEncoder, RegionHead, Regions};

use super::config::{Parts, TextConfig};
use super::layers::{Linear, Loader, Norm};
use super::modules::{Reading, transformer};
use super::pipeline::Pipeline;
use super::prompts::{self, Prompts};
use super::text::family::Take;
use super::text::{Encoder, Hidden, language};
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use super::{EmbedOptions, Embeddings, check_dtype};
use crate::ops::gemm::Activation;
use crate::ops::pool::{Pooling, pool};
use crate::{DType, Device, Error, Result, Tensor};

/// An encoder with a sequence-classification head.
pub struct CrossEncoder {
    encoder: Encoder,
    tokenizer: Tokenizer,
    prompts: Prompts,
    head: Head,
    /// Which of the languages texts are in, where the model has a net for each.
    language: usize,
}

/// `logits = out norm(f(dense x))` of one vector of a sequence; a family may lack the norm or the inner map.
struct Head {
    take: Take,
    mean: bool,
    /// The token that is not read where the last one is.
    pad: Option<u32>,
    dense: Option<(Linear, Activation)>,
    norm: Option<Norm>,
    out: Linear,
}

impl Head {
    fn load(config: &TextConfig, loader: &Loader<'_>) -> Result<Head> {
        let (prefix, root) = (&loader.prefix, &loader.root);
        let Some(names) = config.family.classifier else {
            let problem = format!("no cross-encoder is known for {}", config.name);
            return Err(Error::Config { file: config.file.clone(), problem });
        };
        let Parts { shape, classifier, pad, .. } = &config.parts;
        let (hidden, out) = (shape.hidden, format!("{root}{}", names.out));
        if !loader.weights.has(&format!("{out}.weight")) {
            let problem = "is missing: this checkpoint has no sequence-classification head and cannot score pairs; \
                           expected a cross-encoder";
            return Err(Error::Weights {
                file: loader.weights.source().into(),
                tensor: format!("{out}.weight"),
                problem: problem.into(),
            });
        }
        let dense = names.dense.map(|(name, of_encoder)| {
            let name = format!("{}{name}", if of_encoder { prefix } else { root });
            let dense = loader.linear(&name, hidden, hidden, classifier.bias)?;
            Ok((dense, classifier.activation))
        });
        let norm = names
            .norm
            .map(|name| loader.norm(&format!("{root}{name}"), shape.norm, hidden, shape.eps));
        Ok(Head {
            take: names.take,
            mean: classifier.mean,
            pad: *pad,
            dense: dense.transpose()?,
            norm: norm.transpose()?,
            out: loader.linear(&out, config.labels.len(), hidden, names.out_bias)?,
        })
    }

    fn logits(&self, hidden: &Hidden) -> Result<Tensor> {
        let positions;
        let how = match self.take {
            Take::First if self.mean => Pooling::Mean,
            Take::First => Pooling::Cls,
            Take::Last => {
                positions = self.last(hidden);
                Pooling::At(&positions)
            }
        };
        let mut x = pool(&hidden.states, &hidden.offsets, how, None)?;
        if let Some((dense, activation)) = &self.dense {
            x = dense.apply(&x, *activation, None)?;
        }
        if let Some(norm) = &self.norm {
            x = norm.apply(&x)?;
        }
        self.out.apply(&x, Activation::None, None)
    }

    /// The position of each sequence's last token that is no padding token; transformers takes the first where all are.
    fn last(&self, hidden: &Hidden) -> Vec<u32> {
        let of = |i: usize| {
            let ids = &hidden.ids[hidden.offsets.range(i)];
            ids.iter().rposition(|&id| Some(id) != self.pad).unwrap_or(0) as u32
        };
        (0..hidden.offsets.len()).map(of).collect()
    }
}

impl CrossEncoder {
    /// Loads a folder with a sequence-classification checkpoint. Matrices and embedding tables are kept as `dtype`.
    ///
    /// A pair is cut at the `model_max_length` of `tokenizer_config.json`, at the model's last position in any case: token
    /// by token from the longer text, as transformers' `longest_first` does.
    ///
    /// # Errors
    /// As [`TextEncoder::load`](super::TextEncoder::load); also [`Error::Config`] if the architecture is known but its
    /// classification head is not, and [`Error::Weights`] if the head is missing or has not one row a label.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<CrossEncoder> {
        check_dtype(dtype)?;
        let transformer = transformer(folder)?;
        let config = TextConfig::open(&transformer)?;
        let tokenizer = Tokenizer::open(
            &transformer,
            &config,
            &Reading::open(&transformer)?,
            device.threads(),
        )?;
        let weights = Weights::open(&transformer)?;
        let loader = Loader::new(&weights, &config, device, dtype)?;
        let head = Head::load(&config, &loader)?;
        let language = language(&config, None)?;
        let prompts = Prompts::open(folder, &[prompts::CROSS])?;
        let encoder = Encoder::load(config.up_to(tokenizer.limit()), &loader)?;
        Ok(CrossEncoder { encoder, tokenizer, prompts, head, language })
    }

    /// Names of the classes; one for a model that gives a single score.
    pub fn labels(&self) -> &[String] {
        &self.encoder.config.labels
    }

    /// Tokens, special ones included, at which a pair is cut.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.limit()
    }

    /// The folder's prompts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// The languages that the model has a net for (X-MOD), in the checkpoint's order; empty for other models.
    pub fn languages(&self) -> &[String] {
        self.encoder.config.languages()
    }

    /// The same encoder for pairs in another of its [`languages`](Self::languages).
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no such language, with those it has.
    pub fn with_language(mut self, name: &str) -> Result<CrossEncoder> {
        self.language = language(&self.encoder.config, Some(name))?;
        Ok(self)
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.encoder.device
    }

    /// The token ids that each pair becomes, special ones included and without a prompt.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long (see [memory](crate::models#memory)) or gives a token that the model does not have.
    pub fn token_ids<S: AsRef<str> + Sync>(&self, pairs: &[(S, S)]) -> Result<Vec<Vec<u32>>> {
        Ok(self.tokenizer.pairs("", pairs)?.into_iter().map(|e| e.ids).collect())
    }

    /// Makes a first batch of pairs of these lengths (in tokens, special ones included) as fast as a later one:
    /// compiles the kernels and, on CUDA, records the forward pass. A batch of other lengths may still compile other
    /// tiles; so may texts of more than a quarter of a batch's tokens, whose [chunks](crate::models#time) are chosen
    /// before they are tokenized.
    ///
    /// # Errors
    /// [`Error::Argument`] if a length is 0 or above [`max_tokens`](Self::max_tokens); as [`score`](Self::score).
    pub fn warm_up(&self, lengths: &[usize]) -> Result<()> {
        let budget = EmbedOptions::default().budget(self.device());
        self.encoder.warm_up(lengths, self.max_tokens(), budget, |hidden| self.head.logits(hidden))
    }

    /// The raw logits of each pair, its first text after the folder's default prompt if it has one: \[pairs, labels\] in the
    /// caller's order.
    ///
    /// # Errors
    /// As [`TextEncoder::embed`](super::TextEncoder::embed).
    pub fn score<S: AsRef<str> + Sync>(&self, pairs: &[(S, S)]) -> Result<Vec<f32>> {
        self.score_with(pairs, &EmbedOptions::default())
    }

    /// [`score`](Self::score) with a budget, a prompt and a report of progress.
    ///
    /// # Errors
    /// [`Error::Argument`] if the folder has no prompt of the name; as [`score`](Self::score).
    pub fn score_with<S: AsRef<str> + Sync>(
        &self,
        pairs: &[(S, S)],
        options: &EmbedOptions<'_>,
    ) -> Result<Vec<f32>> {
        let prompt = self.prompts.text(options.prompt)?;
        let bytes = |(a, b): &(S, S)| prompt.len() + a.as_ref().len() + b.as_ref().len();
        let mut logits = Embeddings::of(pairs.len(), self.labels().len());
        let tokenize = |some: Range<usize>| {
            let mut encoded = self.tokenizer.pairs(prompt, &pairs[some])?;
            encoded.iter_mut().for_each(|pair| pair.language = self.language);
            Ok(encoded)
        };
        Pipeline::new(&self.encoder, options).run(
            &self.tokenizer.about(pairs.iter().map(bytes)),
            tokenize,
            |hidden| Ok([self.head.logits(hidden)?]),
            &mut logits,
        )?;
        Ok(logits.values)
    }
}

impl std::fmt::Debug for CrossEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.encoder.config;
        f.debug_struct("CrossEncoder")
            .field("folder", &config.file.parent())
            .field("architecture", &config.name)
            .field("labels", &config.labels)
            .field("device", &self.encoder.device)
            .finish()
    }
}

/// Checks the numbers of texts and images.
fn check_pairs(pairs: &[(usize, usize)], texts: usize, images: usize) -> Result<()> {
    match pairs.iter().find(|(text, image)| *text >= texts || *image >= images) {
        None => Ok(()),
        Some((text, image)) => {
            let expected = format!("numbers of {texts} texts and {images} images");
            Err(Error::argument("pairs", expected, format!("({text}, {image})")))
        }
    }
}

/// Each number once, in ascending order.
fn distinct(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
