//! Text encoders: texts to vectors.

mod bert;
mod distilbert;
mod encoder;
#[cfg(feature = "cuda")]
mod graphs;
mod mpnet;
mod roberta;

use std::path::Path;

pub(crate) use encoder::{Encoder, Hidden, Linear, Loader};

use super::batch::Rows;
use super::config::Config;
use super::modules::{Modules, Reading};
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use super::{EmbedOptions, WINDOW, check_dtype};
use crate::ops::norm::l2_normalize;
use crate::ops::pool::{Pooling, pool};
use crate::{DType, Device, Error, Result, Tensor};

/// torch's `normalize` divides by at least this.
const NORM_EPS: f32 = 1e-12;

/// A sentence encoder: a transformer, a pooling, and perhaps a normalisation.
pub struct TextEncoder {
    encoder: Encoder,
    tokenizer: Tokenizer,
    pooling: Pooling<'static>,
    normalize: bool,
}

/// A vector for each text, in the caller's order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Embeddings {
    /// \[texts, dim\].
    pub values: Vec<f32>,
    /// Width of a vector.
    pub dim: usize,
    /// Tokens that were encoded, special ones included.
    pub tokens: usize,
}

/// The last hidden state of each token, and a vector for each text, in the caller's order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenEmbeddings {
    /// \[total, dim\]: the hidden states before pooling, special tokens included, text after text.
    pub tokens: Vec<f32>,
    /// \[texts + 1\]: text `i` owns the tokens `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<i64>,
    /// \[total\]: the token ids.
    pub ids: Vec<u32>,
    /// \[texts, dim\]: what [`TextEncoder::embed`] gives.
    pub embeddings: Vec<f32>,
    /// Width of a vector.
    pub dim: usize,
}

impl TextEncoder {
    /// Loads a folder. Matrices and embedding tables are kept as `dtype` (f32, f16 or bf16), biases and norms as f32;
    /// activations are f32.
    ///
    /// Without `modules.json` texts are mean-pooled and not normalised. A text is cut at the `max_seq_length` of
    /// `sentence_bert_config.json`, else the `model_max_length` of `tokenizer_config.json`, and at the model's last
    /// position in any case. White space around a text is the tokenizer's business, as since version 6 of
    /// sentence-transformers; prompts are the caller's.
    ///
    /// # Errors
    /// [`Error::Config`] for what is unknown (architecture, activation, module, pooling) or out of range, and for a
    /// sequence-classification checkpoint without `modules.json`, which is for [`CrossEncoder`](super::CrossEncoder);
    /// [`Error::Weights`] if a tensor is missing, damaged, of another shape or not finite, [`Error::Tokenizer`],
    /// [`Error::Io`] with the file, [`Error::OutOfMemory`] if the device is full.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<TextEncoder> {
        check_dtype(dtype)?;
        let modules = Modules::open(folder)?;
        let folder = &modules.transformer;
        let config = Config::open(folder)?;
        if let Some(class) = &config.class
            && class.ends_with("ForSequenceClassification")
            && !modules.stated
        {
            let problem = format!(
                "{class} gives scores (a cross-encoder), and no modules.json says how to make vectors of it; expected \
                 a text encoder"
            );
            return Err(Error::Config { file: config.file, problem });
        }
        if let Some((width, file)) = modules.width
            && width != config.hidden
        {
            let problem = format!("pools vectors of {width}, the model's have {}", config.hidden);
            return Err(Error::Config { file, problem });
        }
        let tokenizer = Tokenizer::open(folder, &config, &Reading::open(folder)?)?;
        let weights = Weights::open(folder)?;
        let loader = Loader::new(&weights, &config, device, dtype)?;
        let encoder = Encoder::load(config, &loader)?;
        Ok(TextEncoder {
            encoder,
            tokenizer,
            pooling: modules.pooling,
            normalize: modules.normalize,
        })
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.encoder.config.hidden
    }

    /// Tokens, special ones included, at which a text is cut.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.limit()
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.encoder.device
    }

    /// The token ids that each text becomes, special ones included.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text gives a token that the model does not have.
    pub fn token_ids<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        Ok(self.tokenizer.texts(texts)?.into_iter().map(|e| e.ids).collect())
    }

    /// Makes a first batch of texts of these lengths (in tokens, special ones included) as fast as a later one: compiles
    /// the kernels and, on CUDA, records the forward pass. A batch of other lengths may still compile other tiles.
    ///
    /// # Errors
    /// [`Error::Argument`] if a length is 0 or above [`max_tokens`](Self::max_tokens); as [`embed`](Self::embed).
    pub fn warm_up(&self, lengths: &[usize]) -> Result<()> {
        let budget = EmbedOptions::default().budget(self.device());
        self.encoder.warm_up(lengths, self.max_tokens(), budget, |hidden| self.pool(hidden))
    }

    /// A vector for each text: \[texts, [`dim`](Self::dim)\] in the caller's order.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text gives a token that the model does not have, [`Error::OutOfMemory`] if the device is
    /// full, [`Error::DeviceLost`] if it is gone.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<f32>> {
        Ok(self.embed_with(texts, &EmbedOptions::default())?.values)
    }

    /// [`embed`](Self::embed) with a budget and a report of progress.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_with<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        let dim = self.dim();
        let mut values = vec![0.0; texts.len() * dim];
        let mut tokens = 0;
        for (i, (texts, out)) in
            texts.chunks(WINDOW).zip(values.chunks_mut(WINDOW * dim)).enumerate()
        {
            let encoded = self.tokenizer.texts(texts)?;
            tokens += encoded.iter().map(|e| e.ids.len()).sum::<usize>();
            let report = |done| options.report(i * WINDOW + done);
            let mut rows = Rows::new(out, dim, &report);
            self.encoder.run(&encoded, options.budget(self.device()), |hidden| {
                rows.put(self.pool(&hidden)?, hidden.members)
            })?;
            rows.finish()?;
        }
        Ok(Embeddings { values, dim, tokens })
    }

    /// The last hidden state of every token besides the vector of every text.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<TokenEmbeddings> {
        let dim = self.dim();
        let encoded = self.tokenizer.texts(texts)?;
        let mut offsets = vec![0];
        let mut ids = Vec::new();
        for text in &encoded {
            ids.extend_from_slice(&text.ids);
            offsets.push(ids.len() as i64);
        }
        let mut tokens = vec![0.0; ids.len() * dim];
        let mut embeddings = vec![0.0; texts.len() * dim];
        let report = |done| options.report(done);
        let mut rows = Rows::new(&mut embeddings, dim, &report);
        self.encoder.run(&encoded, options.budget(self.device()), |hidden| {
            let pooled = self.pool(&hidden)?;
            let states = hidden.states.to_vec::<f32>()?;
            for (&i, w) in hidden.members.iter().zip(hidden.offsets.bounds().windows(2)) {
                let to = offsets[i] as usize * dim..offsets[i + 1] as usize * dim;
                tokens[to].copy_from_slice(&states[w[0] as usize * dim..w[1] as usize * dim]);
            }
            rows.put(pooled, hidden.members)
        })?;
        rows.finish()?;
        Ok(TokenEmbeddings { tokens, offsets, ids, embeddings, dim })
    }

    fn pool(&self, hidden: &Hidden) -> Result<Tensor> {
        let pooled = pool(&hidden.states, &hidden.offsets, self.pooling, None)?;
        if self.normalize { l2_normalize(&pooled, NORM_EPS) } else { Ok(pooled) }
    }
}

impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.encoder.config;
        f.debug_struct("TextEncoder")
            .field("folder", &config.file.parent())
            .field("architecture", &config.architecture)
            .field("dim", &config.hidden)
            .field("layers", &config.layers)
            .field("pooling", &self.pooling)
            .field("normalize", &self.normalize)
            .field("device", &self.encoder.device)
            .finish()
    }
}
