//! What a `tokenizer.json` may make of a text, bounded before the tokenizers crate builds anything of it.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::guarded;

/// Bytes of a text that are tokenized at once, at most: they take up to about 250 bytes of memory each.
const MOST_TEXT: usize = 1 << 20;
/// Bytes that normalizers may make of one text.
const MOST_NORMALIZED: usize = 8 << 20;
/// Bytes of a text where the file has a regular expression that is not [`KNOWN`]: its time may grow with the square.
const MOST_MATCHED: usize = 32 << 10;
/// Bytes that normalizers may make of one byte; SentencePiece's own rules reach 33.
const MOST_GROWTH: f64 = 256.0;
/// Tokens beside the vocabulary. Large models have a few thousand.
const MOST_ADDED: usize = 1 << 16;
/// Normalizers or pre-tokenizers in a row.
const MOST_STEPS: usize = 64;
/// Letters of a word that WordPiece takes apart, in time that grows with the cube; models have 100.
const MOST_LETTERS: usize = 256;
/// Bytes of an unknown token, a prefix or a suffix: they are copied for each token.
const MOST_AFFIX: usize = 256;

/// CLIP's pattern; what it matches has no white space in it.
pub(super) const CLIP: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// The patterns of GPT-2, GPT-4 (and Llama 3), and Qwen 2: what they match has a space at its beginning, if any, unless it is
/// white space throughout.
pub(super) const GPT: [&str; 3] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
/// Patterns that gather white space.
pub(super) const SPACES: [&str; 2] = [r"\s+", " {2,}"];

/// Whether a pattern is one class of characters, `[…]`, and so matches one character at a time; SigLIP leaves out punctuation by
/// one.
pub(super) fn is_class(pattern: &str) -> bool {
    let Some(inner) = pattern.strip_prefix('[').and_then(|p| p.strip_suffix(']')) else {
        return false;
    };
    let mut escaped = false;
    for c in inner.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' | ']' => return false,
            _ => {}
        }
    }
    !escaped && !inner.is_empty()
}

/// The parts of a file that bound the work on a text.
#[derive(Deserialize)]
pub(super) struct Outline {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

/// What was found within the bounds.
pub(super) struct Bounds {
    /// Bytes of a text that may be tokenized at once.
    pub(super) most: usize,
    /// The normalizers and pre-tokenizers in their order, each as an object with its `type`.
    pub(super) normalizers: Vec<Value>,
    pub(super) pre_tokenizers: Vec<Value>,
    /// The added tokens.
    pub(super) added: Vec<String>,
}

impl Outline {
    /// # Errors
    /// Which bound the file exceeds.
    pub(super) fn check(self) -> Result<Bounds, String> {
        let count = self.added_tokens.len();
        if count > MOST_ADDED {
            return Err(format!("has {count} added tokens, expected at most {MOST_ADDED}"));
        }
        // As the crate reads them, so that forms without a `type` have it too.
        let normalizers = match self.normalizer {
            None => Vec::new(),
            Some(json) => {
                charsmaps(&json)?;
                steps(guarded(|| {
                    let read: NormalizerWrapper = serde_json::from_value(json)?;
                    Ok(serde_json::to_value(read)?)
                })?)?
            }
        };
        let pre_tokenizers = match self.pre_tokenizer {
            None => Vec::new(),
            Some(json) => steps(guarded(|| {
                let read: PreTokenizerWrapper = serde_json::from_value(json)?;
                Ok(serde_json::to_value(read)?)
            })?)?,
        };
        let growth = growth(&normalizers)?;
        let matched = normalizers.iter().chain(&pre_tokenizers).any(|step| {
            let pattern = step["pattern"]["Regex"].as_str();
            pattern.is_some_and(|p| {
                p != CLIP && !GPT.contains(&p) && !SPACES.contains(&p) && !is_class(p)
            })
        });
        let most = MOST_TEXT.min((MOST_NORMALIZED as f64 / growth) as usize);
        let added: Vec<String> = self.added_tokens.into_iter().map(|a| a.content).collect();
        let bytes: usize = added.iter().map(String::len).sum();
        if bytes > most {
            return Err(format!("has {bytes} bytes of added tokens, expected at most {most}"));
        }
        let most = if matched { most.min(MOST_MATCHED) } else { most };
        Ok(Bounds { most, normalizers, pre_tokenizers, added })
    }
}

/// Checks what a model repeats for each word or token.
///
/// # Errors
/// Which bound it exceeds.
pub(super) fn check_model(model: &ModelWrapper) -> Result<(), String> {
    let affix = |what: &str, text: &str| match text.len() {
        0..=MOST_AFFIX => Ok(()),
        n => Err(format!("has {what} of {n} bytes, expected at most {MOST_AFFIX}")),
    };
    match model {
        ModelWrapper::WordPiece(model) => {
            let letters = model.max_input_chars_per_word;
            if letters > MOST_LETTERS {
                return Err(format!(
                    "takes words of up to {letters} letters apart (max_input_chars_per_word), expected at most {MOST_LETTERS}"
                ));
            }
            affix("an unknown token", &model.unk_token)?;
            affix("a continuing_subword_prefix", &model.continuing_subword_prefix)
        }
        ModelWrapper::BPE(model) => {
            affix("an unknown token", model.unk_token.as_deref().unwrap_or_default())?;
            let prefix = model.continuing_subword_prefix.as_deref();
            affix("a continuing_subword_prefix", prefix.unwrap_or_default())?;
            let suffix = model.end_of_word_suffix.as_deref();
            affix("an end_of_word_suffix", suffix.unwrap_or_default())
        }
        ModelWrapper::WordLevel(model) => affix("an unknown token", &model.unk_token),
        ModelWrapper::Unigram(_) => Ok(()),
    }
}

/// The steps of a sequence, or of sequences of sequences.
fn steps(json: Value) -> Result<Vec<Value>, String> {
    let (mut out, mut todo) = (Vec::new(), vec![json]);
    while let Some(mut step) = todo.pop() {
        let inner = ["normalizers", "pretokenizers"]
            .into_iter()
            .find_map(|key| step.get_mut(key).map(Value::take));
        match inner {
            Some(Value::Array(inner)) => todo.extend(inner.into_iter().rev()),
            _ => out.push(step),
        }
        if out.len() + todo.len() > MOST_STEPS {
            return Err(format!("has more than {MOST_STEPS} normalizers or pre-tokenizers"));
        }
    }
    Ok(out)
}

/// Bytes that normalizers make of one byte at most.
///
/// # Errors
/// If they are too many, with which step makes them so.
fn growth(normalizers: &[Value]) -> Result<f64, String> {
    // n bytes become at most `times * n + plus`.
    let (mut times, mut plus) = (1.0, 0.0);
    for step in normalizers {
        let bytes = |key: &str| step[key].as_str().map_or(0, str::len) as f64;
        let kind = step["type"].as_str().unwrap_or_default();
        let (by, more) = match kind {
            // The factors of UTF-8 (Unicode Standard Annex 15, "Normalization and stability").
            "NFC" | "NFD" => (3.0, 0.0),
            "NFKC" | "NFKD" => (11.0, 0.0),
            "Lowercase" => (1.5, 0.0),
            // A space on both sides of an ideograph, canonical decomposition, lower case.
            "BertNormalizer" => (5.0 / 3.0 * 3.0 * 1.5, 0.0),
            "ByteLevel" => (2.0, 0.0),
            "Prepend" => (1.0, bytes("prepend")),
            "Precompiled" => (longest(step)?.max(1) as f64, 0.0),
            "Replace" => {
                let content = bytes("content");
                match (step["pattern"]["String"].as_str(), step["pattern"]["Regex"].as_str()) {
                    (Some(pattern), _) if !pattern.is_empty() => {
                        ((content / pattern.len() as f64).max(1.0), 0.0)
                    }
                    (_, Some(r"\s+")) => (content.max(1.0), 0.0),
                    (_, Some(" {2,}")) => ((content / 2.0).max(1.0), 0.0),
                    (_, Some(pattern)) if is_class(pattern) => (content.max(1.0), 0.0),
                    // It may match between any two bytes.
                    _ => (1.0 + content, content),
                }
            }
            _ => (1.0, 0.0),
        };
        (times, plus) = (times * by, plus * by + more);
        // Every second byte may begin a part of the text between added tokens, which is normalized by itself.
        let growth = times + plus / 2.0;
        if growth > MOST_GROWTH {
            return Err(format!(
                "makes {growth:.0} bytes of one at its normalizer {kind}, expected at most {MOST_GROWTH}"
            ));
        }
    }
    Ok(times + plus / 2.0)
}

/// Checks the precompiled rules of SentencePiece, whose length the crate takes on trust, wherever they are.
fn charsmaps(json: &Value) -> Result<(), String> {
    if let Value::Object(object) = json {
        if object.contains_key(CHARSMAP) {
            longest(json)?;
        }
        object.values().try_for_each(charsmaps)?;
    }
    match json {
        Value::Array(array) => array.iter().try_for_each(charsmaps),
        _ => Ok(()),
    }
}

const CHARSMAP: &str = "precompiled_charsmap";

/// The longest text that precompiled rules put in the place of another: the length of a trie in bytes, the trie, texts that end
/// with a 0.
fn longest(step: &Value) -> Result<usize, String> {
    let bad = |problem: &str| format!("its {CHARSMAP} {problem}");
    let text = step[CHARSMAP].as_str().ok_or_else(|| bad("is no string"))?;
    let bytes = base64::decode(text).map_err(|_| bad("is not in base64"))?;
    let (trie, rest) = bytes.split_first_chunk().ok_or_else(|| bad("ends early"))?;
    let texts = rest.get(u32::from_le_bytes(*trie) as usize..).ok_or_else(|| bad("ends early"))?;
    Ok(texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0))
}
