//! `tokenizer.json` through the `tokenizers` crate, cut at the length the model's folder asks for.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::IgnoredAny;
use tokenizers::{
    EncodeInput, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy,
};

use super::config::TextConfig;
use super::modules::Reading;
use crate::{Error, Result, files};

/// A tokenizer that gives what the model it was loaded with can read.
#[derive(Clone)]
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    limit: usize,
    lower_case: bool,
    vocab: usize,
    /// Rows of the token-type table, or 0 where the model is not given types.
    types: usize,
}

/// Parses `tokenizer.json`. A file that was cut off is found before the crate sees it.
fn parse(text: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|e| e.to_string())?;
    guarded(|| text.parse())
}

/// Runs the crate's code. It unwraps and indexes on the word of the file, so that a damaged one can make it panic (a
/// template that names a special token it does not define); here that is an error like any other.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("contradicts itself: the tokenizers crate panicked on it".into()),
    }
}

/// A tokenized text or pair, with its special tokens.
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    /// One token type an id; empty where the model is not given types.
    pub(crate) types: Vec<u32>,
    /// How many of the tokens, counted from the first, are seen by the others; those behind only look.
    pub(crate) seen: usize,
    /// Which of the seen tokens none sees after all, where the model is causal.
    pub(crate) hidden: Vec<u32>,
    /// Which of the model's languages it is in, where it has adapters for languages.
    pub(crate) language: usize,
    /// Places whose word embedding is replaced, in ascending order, and what by: \[places, H\].
    pub(crate) soft: (Vec<u32>, Vec<f32>),
}

impl Encoded {
    pub(crate) fn new(ids: Vec<u32>, types: Vec<u32>) -> Encoded {
        Encoded {
            seen: ids.len(),
            hidden: Vec::new(),
            ids,
            types,
            language: 0,
            soft: Default::default(),
        }
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that are baked into it are training settings and ignored: a text
    /// is cut where `reading` says, at most at the model's last position, and a pair by cutting its longer text first.
    pub(crate) fn open(folder: &Path, config: &TextConfig, reading: &Reading) -> Result<Tokenizer> {
        let file = folder.join("tokenizer.json");
        let bad = |problem: String| Error::Tokenizer { file: file.clone(), problem };
        if !file.is_file() {
            return Err(bad(
                "is missing; a tokenizer without it (vocab.txt, sentencepiece.bpe.model) has to be \
                 saved again by transformers' fast tokenizer"
                    .into(),
            ));
        }
        let text = files::read(&file, files::TOKENIZER)?;
        let mut inner = parse(&text).map_err(bad)?;
        let limit = reading.limit.unwrap_or(usize::MAX).min(config.parts.max_tokens());
        // The crate subtracts the special tokens from the limit without looking.
        let special = inner.get_post_processor().map_or(0, |p| p.added_tokens(true));
        if limit <= special {
            return Err(bad(format!(
                "expected room for more than the {special} special tokens of a pair, got a limit of \
                 {limit} tokens"
            )));
        }
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams {
                max_length: limit,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: match reading.cut_left {
                    true => TruncationDirection::Left,
                    false => TruncationDirection::Right,
                },
            }))
            .map_err(|e| bad(e.to_string()))?;
        let types = if config.family.types { config.parts.types } else { 0 };
        let vocab = config.parts.vocab;
        Ok(Tokenizer { inner, file, limit, lower_case: reading.lower_case, vocab, types })
    }

    /// The same tokenizer with another limit, which is at most this one's.
    pub(crate) fn with_limit(&self, limit: usize) -> Result<Tokenizer> {
        let mut other = self.clone();
        other.limit = limit.min(self.limit);
        let bad = |problem: String| Error::Tokenizer { file: self.file.clone(), problem };
        let special = other.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if other.limit <= special {
            return Err(bad(format!(
                "expected room for more than the {special} special tokens of a text, got a limit of {} tokens",
                other.limit
            )));
        }
        let truncation = other.inner.get_truncation().cloned().unwrap_or_default();
        other
            .inner
            .with_truncation(Some(TruncationParams { max_length: other.limit, ..truncation }))
            .map_err(|e| bad(e.to_string()))?;
        Ok(other)
    }

    /// The id of a token, if the vocabulary has it and the model knows it.
    pub(crate) fn token(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token).filter(|id| (*id as usize) < self.vocab)
    }

    /// The id of the first token that a text becomes, without special tokens.
    pub(crate) fn first(&self, text: &str) -> Result<Option<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, false));
        let bad = |problem: String| Error::Tokenizer { file: self.file.clone(), problem };
        Ok(encoding.map_err(bad)?.get_ids().first().copied())
    }

    /// Tokens of the longest sequence this gives.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Tokenizes texts in parallel, each with `prompt` before it.
    pub(crate) fn texts<S: AsRef<str> + Sync>(
        &self,
        prompt: &str,
        texts: &[S],
    ) -> Result<Vec<Encoded>> {
        texts.par_iter().map(|text| self.encode(self.text(prompt, text.as_ref()).into())).collect()
    }

    /// Tokenizes pairs in parallel, each with `prompt` before its first text.
    pub(crate) fn pairs<S: AsRef<str> + Sync>(
        &self,
        prompt: &str,
        pairs: &[(S, S)],
    ) -> Result<Vec<Encoded>> {
        pairs
            .par_iter()
            .map(|(a, b)| {
                self.encode((self.text(prompt, a.as_ref()), self.text("", b.as_ref())).into())
            })
            .collect()
    }

    /// How many tokens at the beginning of a text are its prompt's, in the way of sentence-transformers: as many as the prompt
    /// alone has, its special tokens included, but for one at its end.
    pub(crate) fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let ids = self.encode(self.text(prompt, "").into())?.ids;
        let special = |id| self.inner.get_added_tokens_decoder().get(id).is_some_and(|t| t.special);
        Ok(ids.len() - usize::from(ids.last().is_some_and(special)))
    }

    fn text<'t>(&self, prompt: &str, text: &'t str) -> Cow<'t, str> {
        let text = match prompt {
            "" => Cow::Borrowed(text),
            prompt => format!("{prompt}{text}").into(),
        };
        if self.lower_case { text.to_lowercase().into() } else { text }
    }

    fn encode(&self, input: EncodeInput) -> Result<Encoded> {
        let bad = |problem: String| Error::Tokenizer { file: self.file.clone(), problem };
        let encoding = guarded(|| self.inner.encode_fast(input, true)).map_err(bad)?;
        let ids = encoding.get_ids().to_vec();
        if ids.is_empty() {
            return Err(bad("gives no token, not even a special one, for an empty text".into()));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab) {
            return Err(bad(format!("gives the token {id}; the model knows {}", self.vocab)));
        }
        let types = if self.types > 0 { encoding.get_type_ids().to_vec() } else { Vec::new() };
        if let Some(t) = types.iter().find(|t| **t as usize >= self.types) {
            return Err(bad(format!("gives the token type {t}; the model knows {}", self.types)));
        }
        Ok(Encoded::new(ids, types))
    }
}
