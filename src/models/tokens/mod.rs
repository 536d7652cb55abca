//! Token encoders for late interaction: texts to a vector for each token (Khattab, Zaharia, arXiv:2004.12832).

mod head;
mod settings;

use std::ops::Range;
use std::path::Path;

use head::Head;
use settings::{ARTIFACT, Fill, Form, Settings};

use super::config::TextConfig;
use super::layers::Loader;
use super::modules::{Modules, Reading, TokenModules, transformer};
use super::pipeline::{Batch, Pipeline, Sink};
use super::prompts::{self, Prompt, Prompts};
use super::text::{Encoder, Hidden, language};
use super::tokenizer::{Encoded, Tokenizer};
use super::weights::Weights;
use super::{EmbedOptions, check_dtype};
use crate::{DType, Device, Error, Result};

/// A transformer whose tokens are compared one by one: hidden states, projected where the folder has a projection, each of
/// length 1 unless the folder's modules lack a normalisation.
///
/// Four kinds of folders are read:
/// - Those of the class `MultiVectorEncoder` of sentence-transformers 6: `modules.json` with a Transformer, Dense, Normalize and
///   a MultiVectorMask. `sentence_bert_config.json` says how long texts are (`query_length`, `document_length`) and how queries
///   are filled up (`query_expansion`), the mask which tokens' vectors are left out (`skiplist_words`, `skiplist_tasks`,
///   `keep_only_token_ids`). The marker is the prompt named `query` or `document`.
/// - PyLate's: `modules.json` with a Transformer and Dense modules; `config_sentence_transformers.json` says which marker
///   tokens queries and documents get (`query_prefix`, `document_prefix`), how long they are (`query_length`,
///   `document_length`), whether queries are filled up with mask tokens (`do_query_expansion`), whether the text sees those
///   (`attend_to_expansion_tokens`) and which words' vectors documents leave out (`skiplist_words`).
/// - ColBERT's: `linear.weight` beside the encoder's tensors, the same settings in `artifact.metadata`.
/// - Any folder of a [`TextEncoder`](super::TextEncoder): all tokens of a text, its special ones included; queries and documents
///   are the same.
///
/// A query of all but the last is `[CLS] marker prompt text [SEP] [MASK] …` with as many masks as it takes to reach its length,
/// and each of them has a vector. Masks that are not seen look at the text, but neither the text nor masks look at them. A
/// document is `[CLS] marker prompt text [SEP]`.
pub struct TokenEncoder {
    encoder: Encoder,
    head: Head,
    queries: Reader,
    documents: Reader,
    prompts: Prompts,
    /// Which of the languages texts are in, where the model has a net for each.
    language: usize,
}

/// A tokenizer with the form its texts take.
struct Reader {
    tokenizer: Tokenizer,
    form: Form,
}

/// Token vectors of texts, in the caller's order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenVectors {
    /// \[total, dim\]: vectors, text after text; of length 1 unless the folder's modules lack a normalisation.
    pub values: Vec<f32>,
    /// \[texts + 1\]: text `i` owns the vectors `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<i64>,
    /// \[total\]: the token that each vector is of.
    pub ids: Vec<u32>,
    /// Width of a vector.
    pub dim: usize,
}

impl TokenVectors {
    pub(crate) fn new(dim: usize) -> TokenVectors {
        TokenVectors { values: Vec::new(), offsets: vec![0], ids: Vec::new(), dim }
    }

    /// Makes room for the texts that come next, whose tokens have a vector where they are kept.
    fn expect_kept(&mut self, texts: &[Encoded], keeps: impl Fn(u32) -> bool) {
        for text in texts {
            self.ids.extend(text.ids.iter().filter(|id| keeps(**id)));
            self.offsets.push(self.ids.len() as i64);
        }
        self.values.resize(self.ids.len() * self.dim, 0.0);
    }

    /// Takes the vectors of a batch's tokens, but for those that are not kept.
    fn put_kept(&mut self, batch: &Batch, vectors: &[f32], keeps: impl Fn(u32) -> bool) {
        let dim = self.dim;
        for (text, rows) in batch.parts() {
            let kept = rows.filter(|&row| keeps(batch.ids[row]));
            let places = self.values[self.offsets[text] as usize * dim..].chunks_mut(dim);
            kept.zip(places).for_each(|(row, place)| {
                place.copy_from_slice(&vectors[row * dim..][..dim]);
            });
        }
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vectors of text `i`: \[tokens, dim\].
    pub fn get(&self, i: usize) -> &[f32] {
        &self.values[self.offsets[i] as usize * self.dim..self.offsets[i + 1] as usize * self.dim]
    }
}

impl Sink<1> for TokenVectors {
    fn expect(&mut self, texts: &[Encoded]) {
        self.expect_kept(texts, |_| true);
    }

    fn put(&mut self, batch: &Batch, [vectors]: [Vec<f32>; 1]) {
        self.put_kept(batch, &vectors, |_| true);
    }
}

/// The vectors of the tokens that a form keeps.
struct Kept<'a> {
    vectors: TokenVectors,
    form: &'a Form,
}

impl Sink<1> for Kept<'_> {
    fn expect(&mut self, texts: &[Encoded]) {
        self.vectors.expect_kept(texts, |id| self.form.keeps(id));
    }

    fn put(&mut self, batch: &Batch, [vectors]: [Vec<f32>; 1]) {
        self.vectors.put_kept(batch, &vectors, |id| self.form.keeps(id));
    }
}

impl Reader {
    fn new(tokenizer: &Tokenizer, form: Form) -> Result<Reader> {
        let room = form.limit - form.marker.is_some() as usize;
        Ok(Reader { tokenizer: tokenizer.with_limit(room)?, form })
    }

    /// About how many tokens texts become.
    fn about<S: AsRef<str>>(&self, prompt: &str, texts: &[S]) -> Vec<usize> {
        let bytes = texts.iter().map(|text| prompt.len() + text.as_ref().len());
        let least = self.form.fill.map_or(0, |fill| fill.length);
        self.tokenizer.about(bytes).into_iter().map(|tokens| tokens.max(least)).collect()
    }

    /// The tokens of texts with marker, prompt and filling.
    fn texts<S: AsRef<str> + Sync>(&self, prompt: &str, texts: &[S]) -> Result<Vec<Encoded>> {
        let mut encoded = self.tokenizer.texts(prompt, texts)?;
        for text in &mut encoded {
            if let Some(marker) = self.form.marker {
                text.ids.insert(1, marker);
                if !text.types.is_empty() {
                    text.types.insert(1, 0);
                }
            }
            text.seen = text.ids.len();
            if let Some(Fill { token, seen, length }) = self.form.fill {
                let length = length.max(text.ids.len());
                text.ids.resize(length, token);
                if !text.types.is_empty() {
                    text.types.resize(length, 0);
                }
                if seen {
                    text.seen = length;
                }
            }
        }
        Ok(encoded)
    }
}

impl TokenEncoder {
    /// Whether a folder was made for late interaction: by sentence-transformers, PyLate or ColBERT.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Io`] if its files can not be read.
    pub fn is_made_for(folder: &Path) -> Result<bool> {
        Ok(TokenModules::open(folder)?.is_some()
            || is_colbert(folder, &TextConfig::open(&transformer(folder)?)?))
    }

    /// Loads a folder. Matrices and embedding tables are kept as `dtype` (f32, f16 or bf16), biases and norms as f32;
    /// activations are f32.
    ///
    /// # Errors
    /// As [`TextEncoder::load`](super::TextEncoder::load); also [`Error::Config`] for a marker that is no token of the model, a
    /// length out of range, a projection that does not fit or an unknown activation, and [`Error::Weights`] for a projection
    /// that is missing.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<TokenEncoder> {
        check_dtype(dtype)?;
        let listed = TokenModules::open(folder)?;
        let transformer = match &listed {
            Some(modules) => modules.transformer.clone(),
            None => Modules::open(folder)?.transformer,
        };
        let config = TextConfig::open(&transformer)?;
        let class = config.class.as_deref().unwrap_or_default();
        if class.ends_with("ForSequenceClassification") {
            let problem = format!("{class} gives scores (a cross-encoder); expected an encoder");
            return Err(Error::Config { file: config.file, problem });
        }
        let own = is_colbert(folder, &config);
        let mut reading = Reading::open(&transformer)?;
        let mut limit = None;
        if listed.is_some() || own {
            // The settings' lengths hold instead, up to the model's last position.
            limit = reading.limit.take();
        }
        let tokenizer = Tokenizer::open(&transformer, &config, &reading, device.threads())?;
        let settings = match &listed {
            Some(modules) if modules.own => Settings::multi_vector(modules, &tokenizer, limit)?,
            Some(_) => Settings::pylate(folder, &transformer, &tokenizer)?,
            None if own => Settings::colbert(folder, &tokenizer)?,
            None => Settings::plain(&tokenizer),
        };
        let weights = Weights::open(&transformer)?;
        let loader = Loader::new(&weights, &config, device, dtype)?;
        let head = match &listed {
            Some(modules) => Head::modules(modules, config.parts.shape.hidden, device, dtype)?,
            None if own => Head::linear(&config, &loader)?,
            None => Head::plain(config.parts.shape.hidden),
        };
        let classes = [prompts::TOKENS, prompts::PYLATE, prompts::SENTENCE];
        let mut prompts = Prompts::open(folder, &classes)?;
        for (name, marker) in &settings.markers {
            prompts.strip(name, marker);
        }
        Ok(TokenEncoder {
            language: language(&config, None)?,
            prompts,
            encoder: Encoder::load(config.up_to(tokenizer.limit()), &loader)?,
            head,
            queries: Reader::new(&tokenizer, settings.queries)?,
            documents: Reader::new(&tokenizer, settings.documents)?,
        })
    }

    /// Width of a token's vector.
    pub fn dim(&self) -> usize {
        self.head.dim
    }

    /// The folder's prompts, without the markers that PyLate writes into them too.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Tokens at which a query is cut, marker and special ones included; as many as each has where queries are filled up to
    /// their limit.
    pub fn query_tokens(&self) -> usize {
        self.queries.form.limit
    }

    /// Tokens at which a document is cut, marker and special ones included.
    pub fn document_tokens(&self) -> usize {
        self.documents.form.limit
    }

    /// Whether the folder tells queries from documents, by a marker, a prompt, a length or a filling.
    pub fn has_forms(&self) -> bool {
        let (q, d) = (&self.queries.form, &self.documents.form);
        q.marker != d.marker
            || q.limit != d.limit
            || q.fill.is_some()
            || q.skip != d.skip
            || d.only.is_some()
            || self.prompts.text(Prompt::Query).ok() != self.prompts.text(Prompt::Document).ok()
    }

    /// The languages that the model has a net for (X-MOD, on which ColBERT-XM is built), in the checkpoint's order; empty for
    /// other models.
    pub fn languages(&self) -> &[String] {
        self.encoder.config.languages()
    }

    /// The same encoder for texts in another of its [`languages`](Self::languages).
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no such language, with those it has.
    pub fn with_language(mut self, name: &str) -> Result<TokenEncoder> {
        self.language = language(&self.encoder.config, Some(name))?;
        Ok(self)
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.encoder.device
    }

    /// The vectors of queries, each after the folder's prompt for queries if it has one.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long (see [memory](crate::models#memory)) or gives a token that the model does not have, [`Error::OutOfMemory`] if the device is
    /// full, [`Error::DeviceLost`] if it is gone.
    pub fn encode_queries<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<TokenVectors> {
        self.encode_queries_with(texts, &EmbedOptions::default())
    }

    /// [`encode_queries`](Self::encode_queries) with a budget, a prompt and a report of progress.
    ///
    /// # Errors
    /// [`Error::Argument`] if the folder has no prompt of the name; as [`encode_queries`](Self::encode_queries).
    pub fn encode_queries_with<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<TokenVectors> {
        self.encode(&self.queries, Prompt::Query, texts, options)
    }

    /// The vectors of documents, each after the folder's prompt for documents if it has one; those of words that the folder skips
    /// are left out.
    ///
    /// # Errors
    /// As [`encode_queries`](Self::encode_queries).
    pub fn encode_documents<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<TokenVectors> {
        self.encode_documents_with(texts, &EmbedOptions::default())
    }

    /// [`encode_documents`](Self::encode_documents) with a budget, a prompt and a report of progress.
    ///
    /// # Errors
    /// As [`encode_queries_with`](Self::encode_queries_with).
    pub fn encode_documents_with<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<TokenVectors> {
        self.encode(&self.documents, Prompt::Document, texts, options)
    }

    fn encode<S: AsRef<str> + Sync>(
        &self,
        reader: &Reader,
        default: Prompt<'_>,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<TokenVectors> {
        let prompt = match options.prompt {
            Prompt::Default => self.prompts.text(default)?,
            prompt => self.prompts.text(prompt)?,
        };
        let mut out = Kept { vectors: TokenVectors::new(self.dim()), form: &reader.form };
        let tokenize = |some: Range<usize>| {
            let mut encoded = reader.texts(prompt, &texts[some])?;
            encoded.iter_mut().for_each(|text| text.language = self.language);
            Ok(encoded)
        };
        let finish = |hidden: &Hidden| Ok([self.head.apply(&hidden.states)?]);
        let tokens = reader.about(prompt, texts);
        Pipeline::new(&self.encoder, options).run(&tokens, tokenize, finish, &mut out)?;
        Ok(out.vectors)
    }
}

/// Whether ColBERT's own code wrote a folder.
fn is_colbert(folder: &Path, config: &TextConfig) -> bool {
    config.class.as_deref() == Some("HF_ColBERT") || folder.join(ARTIFACT).is_file()
}

impl std::fmt::Debug for TokenEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.encoder.config;
        f.debug_struct("TokenEncoder")
            .field("folder", &config.file.parent())
            .field("architecture", &config.name)
            .field("dim", &self.head.dim)
            .field("layers", &config.parts.shape.layers)
            .field("queries", &self.queries.form)
            .field("documents", &self.documents.form)
            .field("device", &self.encoder.device)
            .finish()
    }
}
