//! How a folder for late interaction has its texts read: marker tokens, lengths, filling of queries, tokens that are left out.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::files::read_json;
use crate::models::modules::TokenModules;
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
    /// What the text is filled up with.
    pub(super) fill: Option<Fill>,
    /// Tokens whose vectors are left out, in ascending order.
    pub(super) skip: Vec<u32>,
    /// The only tokens whose vectors are kept, in ascending order; all where there is no list.
    pub(super) only: Option<Vec<u32>>,
}

/// What short texts are filled up with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) token: u32,
    /// Whether the text sees it.
    pub(super) seen: bool,
    /// Tokens that a text has after it, at least.
    pub(super) length: usize,
}

impl Form {
    /// All tokens of a text, up to a limit.
    fn new(limit: usize) -> Form {
        Form { marker: None, limit, fill: None, skip: Vec::new(), only: None }
    }

    /// Whether the vectors of a token are kept.
    pub(super) fn keeps(&self, id: u32) -> bool {
        self.skip.binary_search(&id).is_err()
            && self.only.as_ref().is_none_or(|only| only.binary_search(&id).is_ok())
    }
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) queries: Form,
    pub(super) documents: Form,
    /// What the marker tokens of the prompts of these names are written as.
    pub(super) markers: Vec<(&'static str, String)>,
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
const READING: &str = "sentence_bert_config.json";

impl Settings {
    /// All tokens of a text as they are.
    pub(super) fn plain(tokenizer: &Tokenizer) -> Settings {
        let form = || Form::new(tokenizer.limit());
        Settings { queries: form(), documents: form(), markers: Vec::new() }
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
        let queries = limit(given.limits[0])?;
        Ok(Settings {
            queries: Form {
                marker: marker(given.markers[0])?,
                fill: given.fill.map(|(token, seen)| Fill { token, seen, length: queries }),
                ..Form::new(queries)
            },
            documents: Form {
                marker: marker(given.markers[1])?,
                skip,
                ..Form::new(limit(given.limits[1])?)
            },
            markers: ["query", "document"]
                .into_iter()
                .zip(given.markers.map(|(_, token)| token.to_string()))
                .collect(),
        })
    }

    /// The settings of sentence-transformers' own class: lengths and filling in the transformer's `sentence_bert_config.json`,
    /// the tokens that count in the mask's `config.json`. `limit` is the tokenizer's, for texts without a length of their own.
    ///
    /// A word to skip that is not in the vocabulary is passed over, as the class does.
    pub(super) fn multi_vector(
        modules: &TokenModules,
        tokenizer: &Tokenizer,
        limit: Option<usize>,
    ) -> Result<Settings> {
        let file = modules.transformer.join(READING);
        let bad = |problem: String| Error::Config { file: file.clone(), problem };
        let c: Lengths = read_json(&file)?.unwrap_or_default();
        let most = tokenizer.limit();
        let limit = limit.unwrap_or(most).min(most);
        let length = |key: &str, length: Option<usize>| match length {
            None => Ok(limit),
            Some(length @ 1..=1_000_000) => Ok(length.min(most)),
            Some(length) => Err(bad(format!("{key} is {length}, expected 1 to 1000000"))),
        };
        let mut queries = Form::new(length("query_length", c.query_length)?);
        let mut documents = Form::new(length("document_length", c.document_length)?);
        if let Some(expansion) = &c.query_expansion {
            let full = length("the length of query_expansion", Some(expansion.length))?;
            if c.query_length.is_some_and(|length| length < expansion.length) {
                let problem = format!(
                    "query_length is {}, expected at least the {} that query_expansion fills up to",
                    c.query_length.unwrap_or_default(),
                    expansion.length
                );
                return Err(bad(problem));
            }
            match expansion.strategy.as_str() {
                "fixed" => queries.limit = full,
                "min" => {}
                other => {
                    let problem = format!(
                        "the strategy of query_expansion is '{other}', expected fixed or min"
                    );
                    return Err(bad(problem));
                }
            }
            let seen = expansion.attend.unwrap_or(false);
            // Without a mask what the text does not see is not scored, and so is nothing.
            if modules.mask.is_some() || seen {
                let token = expansion.token(&modules.transformer, tokenizer)?;
                queries.fill = Some(Fill { token, seen, length: full });
            }
        }
        if let Some(folder) = &modules.mask {
            let mask: Mask = read_json(&folder.join("config.json"))?.unwrap_or_default();
            let words = mask.skiplist_words.iter().flatten();
            let mut skip: Vec<u32> = words.filter_map(|word| tokenizer.token(word)).collect();
            skip.sort_unstable();
            let tasks = match &mask.skiplist_tasks {
                None => &["document".to_string()][..],
                Some(Tasks::One(task)) => std::slice::from_ref(task),
                Some(Tasks::Some(tasks)) => tasks,
            };
            let applies = |task: &str| tasks.iter().any(|known| known == task);
            if applies("query") {
                queries.skip.clone_from(&skip);
            }
            if applies("document") {
                documents.skip = skip;
            }
            documents.only = mask.keep_only_token_ids.filter(|only| !only.is_empty());
            documents.only.iter_mut().for_each(|only| only.sort_unstable());
        }
        Ok(Settings { queries, documents, markers: Vec::new() })
    }
}

/// What `sentence_bert_config.json` says of the lengths of a MultiVectorEncoder's texts.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Lengths {
    query_length: Option<usize>,
    document_length: Option<usize>,
    query_expansion: Option<Expansion>,
}

/// How queries are filled up: to exactly a length (`fixed`), or to at least that (`min`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expansion {
    strategy: String,
    attend: Option<bool>,
    token: Option<String>,
    length: usize,
}

impl Expansion {
    /// The token named, else the mask token, else the end token.
    fn token(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<u32> {
        let bad = |problem| Error::Config { file: folder.join(READING), problem };
        match &self.token {
            Some(token) => tokenizer.token(token).ok_or_else(|| {
                bad(format!(
                    "query_expansion fills with '{token}', which is no token of tokenizer.json and the model"
                ))
            }),
            None => {
                let mask = special(folder, tokenizer, "mask_token", &["[MASK]", "<mask>"])?;
                let end = || special(folder, tokenizer, "eos_token", &[]);
                mask.map_or_else(end, |mask| Ok(Some(mask)))?.ok_or_else(|| {
                    let problem = "query_expansion names no token, and the tokenizer has neither mask_token nor eos_token";
                    bad(problem.into())
                })
            }
        }
    }
}

/// `config.json` of a MultiVectorMask module.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Mask {
    skiplist_words: Option<Vec<String>>,
    skiplist_tasks: Option<Tasks>,
    keep_only_token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Tasks {
    One(String),
    Some(Vec<String>),
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
