//! Sparse encoders: texts to weights of the vocabulary's words (SPLADE: Formal et al., arXiv:2107.05720, arXiv:2109.10086).

use std::path::Path;

use super::config::TextConfig;
use super::layers::{Linear, Loader, Norm, NormKind};
use super::modules::{Reading, splade};
use super::pipeline::{Batch, Pipeline, Sink};
use super::prompts::{self, Prompts};
use super::text::{Encoder, Hidden};
use super::tokenizer::{Encoded, Tokenizer};
use super::weights::Weights;
use super::{EmbedOptions, check_dtype};
use crate::ops::gemm::Activation;
use crate::ops::pool::{Pooling, pool};
use crate::ops::sparse::Csr;
use crate::{DType, Device, Error, Result, Tensor};

/// Tokens of a batch at most: each has a score for every word.
const TOKENS: usize = 512;

/// An encoder whose vectors have a column for each word of its vocabulary, most of them 0: the largest score of the word over
/// the text's tokens, `log(1 + max(0, score))`.
pub struct SparseEncoder {
    encoder: Encoder,
    tokenizer: Tokenizer,
    prompts: Prompts,
    dense: Linear,
    activation: Activation,
    norm: Norm,
    words: Linear,
}

/// The words of each text that have a weight, in the caller's order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SparseEmbeddings {
    /// \[texts + 1\]: text `i` owns the entries `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<i64>,
    /// \[entries\]: ids of words, ascending within a text.
    pub ids: Vec<u32>,
    /// \[entries\]: their weights, above 0.
    pub weights: Vec<f32>,
    /// Words of the vocabulary.
    pub dim: usize,
}

impl SparseEmbeddings {
    /// The vectors as operations take them.
    pub fn csr(&self) -> Csr<'_> {
        Csr { offsets: &self.offsets, terms: &self.ids, weights: &self.weights }
    }
}

/// The words of each text and their weights.
struct Found(Vec<Vec<(u32, f32)>>);

impl Sink<1> for Found {
    fn expect(&mut self, texts: &[Encoded]) {
        self.0.resize(self.0.len() + texts.len(), Vec::new());
    }

    fn put(&mut self, batch: &Batch, [scores]: [Vec<f32>; 1]) {
        let words = scores.len() / batch.texts.len();
        for (scores, &text) in scores.chunks(words).zip(&batch.texts) {
            let some = scores.iter().enumerate().filter(|(_, score)| **score > 0.0);
            self.0[text] = some.map(|(id, score)| (id as u32, score.ln_1p())).collect();
        }
    }
}

impl SparseEncoder {
    /// Loads a folder with a masked-language model, or a sentence-transformers one with the modules MLMTransformer and
    /// SpladePooling. Matrices and embedding tables are kept as `dtype`.
    ///
    /// # Errors
    /// [`Error::Config`] for what is unknown (a pooling other than the maximum, another activation, a family without such a
    /// head); as [`TextEncoder::load`](super::TextEncoder::load).
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<SparseEncoder> {
        check_dtype(dtype)?;
        let prompts = Prompts::open(folder, &[prompts::SPARSE, prompts::SENTENCE])?;
        let folder = &splade(folder)?;
        let config = TextConfig::open(folder)?;
        let Some(names) = config.family.vocabulary else {
            let problem = format!("no head over the vocabulary is known for {}", config.name);
            return Err(Error::Config { file: config.file, problem });
        };
        let tokenizer =
            Tokenizer::open(folder, &config, &Reading::open(folder)?, device.threads())?;
        let weights = Weights::open(folder)?;
        let loader = Loader::new(&weights, &config, device, dtype)?;
        let shape = &config.parts.shape;
        let (hidden, vocab, root) = (shape.hidden, config.parts.vocab, &loader.root);
        let bias = format!("{root}{}", names.bias);
        // Checkpoints leave out the matrix where it is the table of word embeddings.
        let own = format!("{root}{}", names.words);
        let words = match weights.has(&own) {
            true => own,
            false => format!("{}{}", loader.prefix, config.layout().words),
        };
        let norm = format!("{root}{}", names.norm);
        Ok(SparseEncoder {
            dense: loader.linear(&format!("{root}{}", names.dense), hidden, hidden, true)?,
            activation: names.activation.unwrap_or(shape.activation),
            norm: loader.norm(&norm, NormKind::Layer, hidden, shape.eps)?,
            words: Linear::new(
                &weights.tensor(device, dtype, &words, &[vocab, hidden])?,
                Some(weights.tensor(device, DType::F32, &bias, &[vocab])?),
            )?,
            encoder: Encoder::load(config.up_to(tokenizer.limit()), &loader)?,
            tokenizer,
            prompts,
        })
    }

    /// Words of the vocabulary.
    pub fn dim(&self) -> usize {
        self.words.weight.shape()[0]
    }

    /// The folder's prompts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Tokens, special ones included, at which a text is cut.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.limit()
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.encoder.device
    }

    /// The weights of each text's words. At most 512 tokens are scored at a time, `4 V` bytes each for a vocabulary of V, unless a
    /// text is longer or [`batch_tokens`](EmbedOptions::batch_tokens) says otherwise.
    ///
    /// # Errors
    /// As [`TextEncoder::embed`](super::TextEncoder::embed).
    pub fn encode<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<SparseEmbeddings> {
        let prompt = self.prompts.text(options.prompt)?;
        let budget = if options.batch_tokens == 0 { TOKENS } else { options.batch_tokens };
        let mut found = Found(Vec::with_capacity(texts.len()));
        Pipeline { budget, ..Pipeline::new(&self.encoder, options) }.run(
            &self.tokenizer.about(texts.iter().map(|text| prompt.len() + text.as_ref().len())),
            |some| self.tokenizer.texts(prompt, &texts[some]),
            |hidden| Ok([self.scores(hidden)?]),
            &mut found,
        )?;
        let (ids, weights) = found.0.iter().flatten().copied().unzip();
        let mut offsets = vec![0];
        for text in &found.0 {
            offsets.push(offsets[offsets.len() - 1] + text.len() as i64);
        }
        Ok(SparseEmbeddings { offsets, ids, weights, dim: self.dim() })
    }

    /// The largest score of each word over a sequence's tokens: \[sequences, V\].
    fn scores(&self, hidden: &Hidden) -> Result<Tensor> {
        let x = self.dense.apply(&hidden.states, self.activation, None)?;
        let x = self.norm.apply(&x)?;
        let scores = self.words.apply(&x, Activation::None, None)?;
        pool(&scores, &hidden.offsets, Pooling::Max, None)
    }
}

impl std::fmt::Debug for SparseEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.encoder.config;
        f.debug_struct("SparseEncoder")
            .field("folder", &config.file.parent())
            .field("architecture", &config.name)
            .field("dim", &self.dim())
            .field("device", &self.encoder.device)
            .finish()
    }
}
