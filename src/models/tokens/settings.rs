//! How a folder for late interaction has its texts read: marker tokens, lengths, filling of queries, words to skip.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::files::read_json;
use crate::models::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Python's `string.punctuation`, which documents lose unless a folder says otherwise.
const PUNCTUATION: &str = r##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"##;

/// What one kind of text becomes.
#[derive(Debug)]
pub(super) struct Form {
    /// Put behind the first token.
    pub(super) marker: Option<u32>,
    /// Tokens at most, the marker included.
    pub(super) limit: usize,
    /// What fills the text up to the limit, and whether the text sees it.
    pub(super) fill: Option<(u32, bool)>,
    /// Tokens whose vectors are left out, in ascending order.
    pub(super) skip: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) queries: Form,
    pub(super) documents: Form,
}

/// `config_sentence_transformers.json` as PyLate writes it, with its defaults.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PyLate {
    query_prefix: Option<String>,
    document_prefix: Option<String>,
    query_length: Option<usize>,
    document_length: Option<usize>,
    do_query_expansion: Option<bool>,
    attend_to_expansion_tokens: Option<bool>,
    skiplist_words: Option<Vec<String>>,
}

/// `artifact.metadata` of ColBERT's own code, with the defaults of its `ColBERTConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Artifact {
    query_token_id: String,
    doc_token_id: String,
    query_maxlen: usize,
    doc_maxlen: usize,
    attend_to_mask_tokens: bool,
    mask_punctuation: bool,
}

impl Default for Artifact {
    fn default() -> Artifact {
        Artifact {
            query_token_id: "[unused0]".into(),
            doc_token_id: "[unused1]".into(),
            query_maxlen: 32,
            doc_maxlen: 220,
            attend_to_mask_tokens: false,
            mask_punctuation: true,
        }
    }
}

/// The file that says that ColBERT's own code wrote a folder.
pub(super) const ARTIFACT: &str = "artifact.metadata";
const PYLATE: &str = "config_sentence_transformers.json";

impl Settings {
    /// All tokens of a text as they are.
    pub(super) fn plain(tokenizer: &Tokenizer) -> Settings {
        let form = || Form { marker: None, limit: tokenizer.limit(), fill: None, skip: Vec::new() };
        Settings { queries: form(), documents: form() }
    }

    /// The settings of a PyLate folder.
    ///
    /// A word to skip that is not in the vocabulary stands for the unknown token, as it does in PyLate.
    pub(super) fn pylate(
        folder: &Path,
        transformer: &Path,
        tokenizer: &Tokenizer,
    ) -> Result<Settings> {
        let file = folder.join(PYLATE);
        let c: PyLate = read_json(&file)?.unwrap_or_default();
        let expand = c.do_query_expansion.unwrap_or(true);
        let attend = c.attend_to_expansion_tokens.unwrap_or(false);
        let words =
            c.skiplist_words.unwrap_or_else(|| PUNCTUATION.chars().map(Into::into).collect());
        let unknown = special(transformer, tokenizer, "unk_token", &["[UNK]", "<unk>"])?;
        let skip = words.iter().filter_map(|word| tokenizer.token(word).or(unknown)).collect();
        Settings::new(
            tokenizer,
            &Given {
                file: &file,
                markers: [
                    ("query_prefix", c.query_prefix.as_deref().unwrap_or("[Q] ")),
                    ("document_prefix", c.document_prefix.as_deref().unwrap_or("[D] ")),
                ],
                limits: [
                    ("query_length", c.query_length.unwrap_or(32)),
                    ("document_length", c.document_length.unwrap_or(180)),
                ],
                fill: match expand {
                    true => Some((mask(transformer, tokenizer)?, attend)),
                    false => None,
                },
            },
            skip,
        )
    }

    /// The settings of a folder of ColBERT's own code. It skips the first token of each punctuation mark.
    pub(super) fn colbert(folder: &Path, tokenizer: &Tokenizer) -> Result<Settings> {
        let file = folder.join(ARTIFACT);
        let c: Artifact = read_json(&file)?.unwrap_or_default();
        let mut skip = Vec::new();
        if c.mask_punctuation {
            for symbol in PUNCTUATION.chars() {
                skip.extend(tokenizer.first(symbol.encode_utf8(&mut [0; 4]))?);
            }
        }
        Settings::new(
            tokenizer,
            &Given {
                file: &file,
                markers: [("query_token_id", &c.query_token_id), ("doc_token_id", &c.doc_token_id)],
                limits: [("query_maxlen", c.query_maxlen), ("doc_maxlen", c.doc_maxlen)],
                fill: Some((mask(folder, tokenizer)?, c.attend_to_mask_tokens)),
            },
            skip,
        )
    }

    fn new(tokenizer: &Tokenizer, given: &Given<'_>, mut skip: Vec<u32>) -> Result<Settings> {
        let bad = |problem: String| Error::Config { file: given.file.into(), problem };
        let marker = |(key, token): (&str, &str)| match token {
            "" => Ok(None),
            token => tokenizer.token(token).map(Some).ok_or_else(|| {
                bad(format!(
                    "{key} is '{token}', which is no token of tokenizer.json and the model"
                ))
            }),
        };
        let limit = |(key, length): (&str, usize)| match length {
            2..=1_000_000 => Ok(length.min(tokenizer.limit())),
            _ => Err(bad(format!("{key} is {length}, expected 2 to 1000000"))),
        };
        skip.sort_unstable();
        skip.dedup();
        Ok(Settings {
            queries: Form {
                marker: marker(given.markers[0])?,
                limit: limit(given.limits[0])?,
                fill: given.fill,
                skip: Vec::new(),
            },
            documents: Form {
                marker: marker(given.markers[1])?,
                limit: limit(given.limits[1])?,
                fill: None,
                skip,
            },
        })
    }
}

/// What a file says of queries and documents, each with its key in the file.
struct Given<'a> {
    file: &'a Path,
    markers: [(&'a str, &'a str); 2],
    limits: [(&'a str, usize); 2],
    fill: Option<(u32, bool)>,
}

/// The token that queries are filled with: the tokenizer's mask token.
fn mask(folder: &Path, tokenizer: &Tokenizer) -> Result<u32> {
    special(folder, tokenizer, "mask_token", &["[MASK]", "<mask>"])?.ok_or_else(|| Error::Config {
        file: folder.join("tokenizer_config.json"),
        problem: "names no mask_token, which queries are filled with, nor is it [MASK] or <mask>"
            .into(),
    })
}

/// A special token by its key in the tokenizer's files, or by a customary name.
fn special(
    folder: &Path,
    tokenizer: &Tokenizer,
    key: &str,
    customary: &[&str],
) -> Result<Option<u32>> {
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let json: Option<Map<String, Value>> = read_json(&folder.join(file))?;
        let token = match json.as_ref().and_then(|j| j.get(key)) {
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            token => token.and_then(Value::as_str),
        };
        if let Some(id) = token.and_then(|token| tokenizer.token(token)) {
            return Ok(Some(id));
        }
    }
    Ok(customary.iter().find_map(|token| tokenizer.token(token)))
}
