//! Text encoders: texts to vectors.

mod bert;
mod distilbert;
mod encoder;
pub(crate) mod family;
mod input;
mod mistral;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod qwen3;
mod roberta;
mod xmod;

use std::ops::Range;
use std::path::Path;

pub(crate) use bert::FAMILY as BERT;
pub(crate) use encoder::{Encoder, Hidden};
pub use input::TextInput;
pub(crate) use input::encode;

use super::config::TextConfig;
use super::dense::Dense;
use super::inspect::{Inspect, Inspection};
use super::layers::{Loader, NORM_EPS, Norm, NormKind};
use super::modules::{After, Modules, Reading};
use super::pipeline::{Batch, Pipeline, Sink};
use super::prompts::{self, Prompt, Prompts};
use super::tokenizer::{Encoded, Tokenizer};
use super::weights::Weights;
use super::{EmbedOptions, TokenVectors, check_dtype};
use crate::ops::norm::l2_normalize;
use crate::ops::pool::{Pooling, pool};
use crate::{DType, Device, Error, Result, Tensor};

/// A sentence encoder: a transformer, a pooling, and perhaps projections, a norm, a normalisation.
pub struct TextEncoder {
    encoder: Encoder,
    tokenizer: Tokenizer,
    prompts: Prompts,
    pooling: Pooling<'static>,
    /// Whether the tokens of prompts are pooled.
    include_prompt: bool,
    /// What is done to pooled vectors.
    finish: Vec<Finish>,
    /// Width of a vector.
    dim: usize,
    /// Which of the languages texts are in, where the model has a net for each.
    language: usize,
}

/// A step behind the pooling.
enum Finish {
    Normalize,
    Dense(Dense),
    LayerNorm(Norm),
}

impl Finish {
    /// Reads the module behind vectors of `dim` columns.
    fn open(after: &After, dim: usize, device: &Device, dtype: DType) -> Result<Finish> {
        match after {
            After::Normalize => Ok(Finish::Normalize),
            After::Dense(folder) => Dense::open(folder, dim, device, dtype).map(Finish::Dense),
            After::LayerNorm(folder) => {
                let weights = Weights::open(folder)?;
                let (prefix, root) = (String::new(), String::new());
                let loader = Loader { weights: &weights, device, dtype, prefix, root };
                // torch's default; the module has no other.
                loader.norm("norm", NormKind::Layer, dim, 1e-5).map(Finish::LayerNorm)
            }
        }
    }

    fn apply(&self, x: Tensor) -> Result<Tensor> {
        match self {
            Finish::Normalize => l2_normalize(&x, NORM_EPS),
            Finish::Dense(dense) => dense.apply(&x),
            Finish::LayerNorm(norm) => norm.apply(&x),
        }
    }
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

impl Embeddings {
    /// Room for the vectors of texts.
    pub(crate) fn of(texts: usize, dim: usize) -> Embeddings {
        Embeddings { values: Vec::with_capacity(texts * dim), dim, tokens: 0 }
    }
}

impl Sink<1> for Embeddings {
    fn expect(&mut self, texts: &[Encoded]) {
        self.tokens += texts.iter().map(|text| text.ids.len()).sum::<usize>();
        self.values.resize(self.values.len() + texts.len() * self.dim, 0.0);
    }

    fn put(&mut self, batch: &Batch, [rows]: [Vec<f32>; 1]) {
        for (row, &text) in rows.chunks_exact(self.dim).zip(&batch.texts) {
            self.values[text * self.dim..][..self.dim].copy_from_slice(row);
        }
    }
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
    /// \[texts, [`TextEncoder::dim`]\]: what [`TextEncoder::embed`] gives.
    pub embeddings: Vec<f32>,
    /// Width of a hidden state.
    pub dim: usize,
}

/// The states of texts' tokens and the vectors of the texts.
struct States {
    states: TokenVectors,
    vectors: Embeddings,
}

impl Sink<2> for States {
    fn expect(&mut self, texts: &[Encoded]) {
        self.states.expect(texts);
        self.vectors.expect(texts);
    }

    fn put(&mut self, batch: &Batch, [states, vectors]: [Vec<f32>; 2]) {
        self.states.put(batch, [states]);
        self.vectors.put(batch, [vectors]);
    }
}

impl TextEncoder {
    /// Loads a folder. Matrices and embedding tables are kept as `dtype` (f32, f16 or bf16), biases and norms as f32;
    /// activations are f32.
    ///
    /// Without `modules.json` texts are mean-pooled and not normalised. A text is cut at the `max_seq_length` of
    /// `sentence_bert_config.json`, else the `model_max_length` of `tokenizer_config.json`, and at the model's last
    /// position in any case. White space around a text is the tokenizer's business, as since version 6 of
    /// sentence-transformers. Prompts are those of `config_sentence_transformers.json`; where the pooling says
    /// `include_prompt: false`, their tokens are read but not pooled.
    ///
    /// # Errors
    /// [`Error::Config`] for what is unknown (architecture, activation, module, pooling) or out of range, and for a
    /// sequence-classification checkpoint without `modules.json`, which is for [`CrossEncoder`](super::CrossEncoder);
    /// [`Error::Weights`] if a tensor is missing, damaged, of another shape or not finite, [`Error::Tokenizer`],
    /// [`Error::Io`] with the file, [`Error::OutOfMemory`] if the device is full.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<TextEncoder> {
        check_dtype(dtype)?;
        let modules = Modules::open(folder)?;
        let prompts = Prompts::open(folder, &[prompts::SENTENCE])?;
        let folder = &modules.transformer;
        let config = TextConfig::open(folder)?;
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
            && width != config.parts.shape.hidden
        {
            let problem =
                format!("pools vectors of {width}, the model's have {}", config.parts.shape.hidden);
            return Err(Error::Config { file, problem });
        }
        let tokenizer =
            Tokenizer::open(folder, &config, &Reading::open(folder)?, device.threads())?;
        let weights = Weights::open(folder)?;
        let loader = Loader::new(&weights, &config, device, dtype)?;
        let encoder = Encoder::load(config.up_to(tokenizer.limit()), &loader)?;
        let language = language(&encoder.config, None)?;
        let (mut finish, mut dim) = (Vec::new(), encoder.hidden());
        for after in &modules.after {
            let step = Finish::open(after, dim, device, dtype)?;
            if let Finish::Dense(dense) = &step {
                dim = dense.dim();
            }
            finish.push(step);
        }
        let (pooling, include_prompt) = (modules.pooling, modules.include_prompt);
        Ok(TextEncoder {
            encoder,
            language,
            tokenizer,
            prompts,
            pooling,
            include_prompt,
            finish,
            dim,
        })
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many layers the model has.
    pub fn layers(&self) -> usize {
        self.encoder.config.parts.shape.layers
    }

    /// The languages that the model has a net for (X-MOD), in the checkpoint's order; empty for other models.
    pub fn languages(&self) -> &[String] {
        self.encoder.config.languages()
    }

    /// The same encoder for texts in another of its [`languages`](Self::languages); the checkpoint's `default_language` holds
    /// until then, else its first.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no such language, with those it has.
    pub fn with_language(mut self, name: &str) -> Result<TextEncoder> {
        self.language = language(&self.encoder.config, Some(name))?;
        Ok(self)
    }

    /// The folder's prompts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// The text of a prompt, and how many tokens it leaves out of the pooling.
    fn prompt<'a>(&'a self, prompt: Prompt<'a>) -> Result<(&'a str, usize)> {
        let text = self.prompts.text(prompt)?;
        match self.include_prompt {
            true => Ok((text, 0)),
            false => Ok((text, self.tokenizer.prompt_tokens(text)?)),
        }
    }

    /// About how many tokens texts become with a prompt before each.
    fn about<S: AsRef<str>>(&self, prompt: &str, texts: &[S]) -> Vec<usize> {
        self.tokenizer.about(texts.iter().map(|text| prompt.len() + text.as_ref().len()))
    }

    /// Token ids of texts with a prompt before each, marked with their language.
    fn encode<S: AsRef<str> + Sync>(&self, prompt: &str, texts: &[S]) -> Result<Vec<Encoded>> {
        let mut encoded = self.tokenizer.texts(prompt, texts)?;
        encoded.iter_mut().for_each(|e| e.language = self.language);
        Ok(encoded)
    }

    /// Tokens, special ones included, at which a text is cut.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.limit()
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.encoder.device
    }

    /// The token ids that each text becomes, special ones included and without a prompt.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long (see [memory](crate::models#memory)) or gives a token that the model does not have.
    pub fn token_ids<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        Ok(self.tokenizer.texts("", texts)?.into_iter().map(|e| e.ids).collect())
    }

    /// Makes a first batch of texts of these lengths (in tokens, special ones included) as fast as a later one:
    /// compiles the kernels and, on CUDA, records the forward pass. A batch of other lengths may still compile other
    /// tiles; so may texts of more than a quarter of a batch's tokens, whose [chunks](crate::models#time) are chosen
    /// before they are tokenized.
    ///
    /// # Errors
    /// [`Error::Argument`] if a length is 0 or above [`max_tokens`](Self::max_tokens); as [`embed`](Self::embed).
    pub fn warm_up(&self, lengths: &[usize]) -> Result<()> {
        let budget = EmbedOptions::default().budget(self.device());
        self.encoder.warm_up(lengths, self.max_tokens(), budget, |hidden| self.pool(hidden, 0))
    }

    /// A vector for each text, after the folder's default prompt if it has one: \[texts, [`dim`](Self::dim)\] in the caller's
    /// order.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long (see [memory](crate::models#memory)) or gives a token that the model does not have, [`Error::OutOfMemory`] if the device is
    /// full, [`Error::DeviceLost`] if it is gone.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<f32>> {
        Ok(self.embed_with(texts, &EmbedOptions::default())?.values)
    }

    /// [`embed`](Self::embed) with a budget, a prompt and a report of progress.
    ///
    /// # Errors
    /// [`Error::Argument`] if the folder has no prompt of the name; as [`embed`](Self::embed).
    pub fn embed_with<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        let (prompt, left_out) = self.prompt(options.prompt)?;
        let mut out = Embeddings::of(texts.len(), self.dim());
        Pipeline::new(&self.encoder, options).run(
            &self.about(prompt, texts),
            |some| self.encode(prompt, &texts[some]),
            |hidden| Ok([self.pool(hidden, left_out)?]),
            &mut out,
        )?;
        Ok(out)
    }

    /// The last hidden state of every token, those of a prompt included, besides the vector of every text.
    ///
    /// # Errors
    /// As [`embed_with`](Self::embed_with).
    pub fn embed_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<TokenEmbeddings> {
        let (prompt, left_out) = self.prompt(options.prompt)?;
        let tokenize = |some| self.encode(prompt, &texts[some]);
        self.run_tokens(&self.about(prompt, texts), tokenize, left_out, options)
    }

    /// What [`embed_tokens`](Self::embed_tokens) gives for texts as ids, some of whose word embeddings are given. No prompt is
    /// put before them.
    ///
    /// # Errors
    /// [`Error::Argument`] for a text without ids or longer than the model has positions (rotations: than
    /// [`max_tokens`](Self::max_tokens)), an id, place or width that does not
    /// fit; as [`embed`](Self::embed).
    pub fn embed_inputs(
        &self,
        inputs: &[TextInput],
        options: &EmbedOptions<'_>,
    ) -> Result<TokenEmbeddings> {
        let limit = self.encoder.config.parts.max_tokens();
        let mut encoded = encode(&self.encoder, inputs, limit)?;
        encoded.iter_mut().for_each(|e| e.language = self.language);
        let lengths: Vec<usize> = encoded.iter().map(|text| text.ids.len()).collect();
        let mut all = encoded.into_iter();
        self.run_tokens(&lengths, |some| Ok(all.by_ref().take(some.len()).collect()), 0, options)
    }

    /// Hidden states of layers, and how tokens attend to each other, in texts as ids: those of [`token_ids`](Self::token_ids), or
    /// some whose word embeddings are given.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no such layer; as [`embed_inputs`](Self::embed_inputs).
    pub fn inspect(&self, inputs: &[TextInput], what: Inspect<'_>) -> Result<Inspection> {
        let mut encoded = encode(&self.encoder, inputs, self.encoder.config.parts.max_tokens())?;
        encoded.iter_mut().for_each(|e| e.language = self.language);
        let budget = EmbedOptions::default().budget(self.device());
        self.encoder.inspect(&encoded, budget, what)
    }

    fn run_tokens(
        &self,
        tokens: &[usize],
        tokenize: impl FnMut(Range<usize>) -> Result<Vec<Encoded>>,
        left_out: usize,
        options: &EmbedOptions<'_>,
    ) -> Result<TokenEmbeddings> {
        let (texts, dim) = (tokens.len(), self.encoder.hidden());
        let vectors = Embeddings::of(texts, self.dim);
        let mut out = States { states: TokenVectors::new(dim), vectors };
        let finish = |hidden: &Hidden| Ok([hidden.states.clone(), self.pool(hidden, left_out)?]);
        Pipeline::new(&self.encoder, options).run(tokens, tokenize, finish, &mut out)?;
        let TokenVectors { values, offsets, ids, .. } = out.states;
        Ok(TokenEmbeddings { tokens: values, offsets, ids, embeddings: out.vectors.values, dim })
    }

    /// The vectors of a batch, made without the first `left_out` tokens of each text.
    fn pool(&self, hidden: &Hidden, left_out: usize) -> Result<Tensor> {
        let pooled = match left_out {
            0 => pool(&hidden.states, &hidden.offsets, self.pooling, None)?,
            _ => pool_after(hidden, self.pooling, left_out)?,
        };
        self.finish.iter().try_fold(pooled, |x, step| step.apply(x))
    }
}

/// Pools each sequence without its first `left_out` tokens. Where that leaves none, the first token's vector stands for the
/// sequence if the pooling is of the first, else zeros, as sentence-transformers has it (its maximum is of nothing, -inf).
fn pool_after(hidden: &Hidden, how: Pooling<'_>, left_out: usize) -> Result<Tensor> {
    let lengths = || (0..hidden.offsets.len()).map(|i| hidden.offsets.range(i).len());
    let masked = |counts: &dyn Fn(usize, usize) -> bool, how| {
        let mask: Vec<bool> = lengths().flat_map(|n| (0..n).map(move |i| counts(i, n))).collect();
        pool(&hidden.states, &hidden.offsets, how, Some(&mask))
    };
    match how {
        Pooling::Cls => {
            let first = lengths().map(|n| if left_out < n { left_out as u32 } else { 0 });
            pool(&hidden.states, &hidden.offsets, Pooling::At(&first.collect::<Vec<_>>()), None)
        }
        // The mean of one token.
        Pooling::Last => masked(&|i, n| i >= left_out && i + 1 == n, Pooling::Mean),
        how => masked(&|i, _| i >= left_out, how),
    }
}

/// The number of a language, or of the one that a checkpoint means where none is named.
pub(crate) fn language(config: &TextConfig, name: Option<&str>) -> Result<usize> {
    let default = config.parts.languages.as_ref().and_then(|l| l.default.as_deref());
    let Some(name) = name.or(default) else { return Ok(0) };
    let languages = config.languages();
    languages.iter().position(|known| known == name).ok_or_else(|| {
        let expected = match languages.is_empty() {
            true => format!("none, as {} has no languages", config.name),
            false => format!("one of {}", languages.join(", ")),
        };
        Error::argument("language", expected, name.to_string())
    })
}

impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.encoder.config;
        f.debug_struct("TextEncoder")
            .field("folder", &config.file.parent())
            .field("architecture", &config.name)
            .field("dim", &self.dim())
            .field("layers", &config.parts.shape.layers)
            .field("pooling", &self.pooling)
            .field("steps", &self.finish.len())
            .field("device", &self.encoder.device)
            .finish()
    }
}
