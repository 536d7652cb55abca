//! `tokenizer.json` through the `tokenizers` crate, cut at the length the model's folder asks for.
//!
//! The crate tokenizes a text as a whole, with some 215 bytes of memory for each byte. Long texts are therefore cut before where that
//! gives the same tokens ([`cut`]), and refused above a bound where it does not ([`bounds`]). Tokens are cut here and not by the
//! crate, which keeps what it cuts off, and of a pair every combination of it.

mod bounds;
mod cut;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::{
    Encoding, NormalizedString, Normalizer, PostProcessor, TruncationDirection, TruncationParams,
    TruncationStrategy, truncate_encodings,
};

use self::bounds::{Bounds, Outline};
use self::cut::Cuts;
use super::config::TextConfig;
use super::modules::Reading;
use crate::budget::Budget;
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::{Error, Result, files};

/// Bytes of text that all threads tokenize at the same time, besides those of short texts.
static TEXTS: Budget = Budget::new(2 << 20);
/// Bytes of a text that counts as short.
const SHORT: usize = 16 << 10;
/// Bytes of a text that are tried first, for each token that is kept; most tokens have three to five.
const BYTES_A_TOKEN: usize = 8;
/// Bytes of a token, about.
const BYTES: usize = 4;
/// About how many nanoseconds a byte of text takes.
const NANOSECONDS: usize = 200;
/// Special tokens around a text or pair at most.
const MOST_SPECIAL: usize = 1024;

/// A tokenizer that gives what the model it was loaded with can read.
#[derive(Clone)]
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    limit: usize,
    direction: TruncationDirection,
    lower_case: bool,
    vocab: usize,
    /// Bytes of a text that may be tokenized at once, and how a longer one may be cut.
    most: usize,
    cuts: Option<Cuts>,
    /// Rows of the token-type table, or 0 where the model is not given types.
    types: usize,
    threads: Threads,
}

/// Parses `tokenizer.json`. A file that was cut off, or that asks for too much, is found before the crate sees it.
fn parse(text: &[u8]) -> Result<(tokenizers::Tokenizer, Bounds), String> {
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
    let outline: Outline = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let bounds = outline.check()?;
    let tokenizer: tokenizers::Tokenizer = guarded(|| text.parse())?;
    bounds::check_model(tokenizer.get_model())?;
    Ok((tokenizer, bounds))
}

/// A text as the normalizers make it.
fn normalize(tokenizer: &tokenizers::Tokenizer, text: &str) -> Option<String> {
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        guarded(|| normalizer.normalize(&mut text)).ok()?;
    }
    Some(text.get().to_string())
}

/// A text with a prompt before it.
fn after<'t>(prompt: &str, text: &'t str) -> Cow<'t, str> {
    match prompt {
        "" => text.into(),
        prompt => format!("{prompt}{text}").into(),
    }
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
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the file is missing, malformed or beyond what [`bounds`] allows, or leaves no room for a text.
    pub(crate) fn open(
        folder: &Path,
        config: &TextConfig,
        reading: &Reading,
        threads: &Threads,
    ) -> Result<Tokenizer> {
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
        let (mut inner, bounds) = parse(&text).map_err(bad)?;
        let limit = reading.limit.unwrap_or(usize::MAX).min(config.parts.max_tokens());
        // The crate subtracts the special tokens from the limit without looking.
        let special = inner.get_post_processor().map_or(0, |p| p.added_tokens(true));
        if limit <= special {
            return Err(bad(format!(
                "expected room for more than the {special} special tokens of a pair, got a limit of \
                 {limit} tokens"
            )));
        }
        if special > MOST_SPECIAL {
            return Err(bad(format!(
                "puts {special} special tokens around a pair, expected at most {MOST_SPECIAL}"
            )));
        }
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        let types = if config.family.types { config.parts.types } else { 0 };
        let vocab = config.parts.vocab;
        let (most, lower_case) = (bounds.most, reading.lower_case);
        // What is cut off on the left is found only when all of a text is tokenized.
        let cuts = match reading.cut_left {
            true => None,
            false => Cuts::new(&bounds, |text| normalize(&inner, text)),
        };
        let direction = match reading.cut_left {
            true => TruncationDirection::Left,
            false => TruncationDirection::Right,
        };
        let threads = threads.clone();
        Ok(Tokenizer {
            inner,
            file,
            limit,
            direction,
            lower_case,
            vocab,
            most,
            cuts,
            types,
            threads,
        })
    }

    /// The same tokenizer with another limit, which is at most this one's.
    pub(crate) fn with_limit(&self, limit: usize) -> Result<Tokenizer> {
        let mut other = self.clone();
        other.limit = limit.min(self.limit);
        let special = self.special(false);
        if other.limit <= special {
            return Err(self.bad(format!(
                "expected room for more than the {special} special tokens of a text, got a limit of {} tokens",
                other.limit
            )));
        }
        Ok(other)
    }

    /// The id of a token, if the vocabulary has it and the model knows it.
    pub(crate) fn token(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token).filter(|id| (*id as usize) < self.vocab)
    }

    /// The id of the first token that a text becomes, without special tokens.
    pub(crate) fn first(&self, text: &str) -> Result<Option<u32>> {
        self.check_length(text)?;
        let encoding = guarded(|| self.inner.encode_fast(text, false));
        Ok(encoding.map_err(|problem| self.bad(problem))?.get_ids().first().copied())
    }

    /// Tokens of the longest sequence this gives.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// About how many tokens texts or pairs of so many bytes become.
    pub(crate) fn about(&self, bytes: impl Iterator<Item = usize>) -> Vec<usize> {
        bytes.map(|bytes| (bytes / BYTES + 2).min(self.limit)).collect()
    }

    /// Tokenizes texts in parallel, each with `prompt` before it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long and cannot be cut, or gives a token that the model does not have.
    pub(crate) fn texts<S: AsRef<str> + Sync>(
        &self,
        prompt: &str,
        texts: &[S],
    ) -> Result<Vec<Encoded>> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let cost = texts.iter().map(|text| NANOSECONDS * (prompt.len() + text.len())).sum();
        let one = |text: &&str| self.one(&after(prompt, text));
        self.threads.map(cost, texts.par_iter(), one).into_iter().collect()
    }

    /// Tokenizes pairs in parallel, each with `prompt` before its first text.
    ///
    /// # Errors
    /// As [`texts`](Self::texts).
    pub(crate) fn pairs<S: AsRef<str> + Sync>(
        &self,
        prompt: &str,
        pairs: &[(S, S)],
    ) -> Result<Vec<Encoded>> {
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(a, b)| (a.as_ref(), b.as_ref())).collect();
        let length = |(a, b): &(&str, &str)| prompt.len() + a.len() + b.len();
        let cost = pairs.iter().map(|pair| NANOSECONDS * length(pair)).sum();
        let one = |(a, b): &(&str, &str)| self.pair(&after(prompt, a), b);
        self.threads.map(cost, pairs.par_iter(), one).into_iter().collect()
    }

    fn bad(&self, problem: String) -> Error {
        Error::Tokenizer { file: self.file.clone(), problem }
    }

    /// How many tokens at the beginning of a text are its prompt's, in the way of sentence-transformers: as many as the prompt
    /// alone has, its special tokens included, but for one at its end.
    pub(crate) fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let ids = self.one(prompt)?.ids;
        let special = |id| self.inner.get_added_tokens_decoder().get(id).is_some_and(|t| t.special);
        Ok(ids.len() - usize::from(ids.last().is_some_and(special)))
    }

    fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.lower_case { text.to_lowercase().into() } else { text.into() }
    }

    /// Special tokens around a text or a pair.
    fn special(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |p| p.added_tokens(pair))
    }

    fn check_length(&self, text: &str) -> Result<()> {
        match text.len() <= self.most {
            true => Ok(()),
            false => Err(self.bad(format!(
                "is given a text of {} bytes that cannot be cut before it is tokenized; expected at most {} bytes, or, where \
                 words end at white space and a text loses its end, single spaces between words",
                text.len(),
                self.most
            ))),
        }
    }

    fn one(&self, text: &str) -> Result<Encoded> {
        let room = self.limit.saturating_sub(self.special(false));
        self.finish(self.beginning(text, room)?.0, None)
    }

    /// How many tokens are kept of each text of a pair depends on how many there are of both. Where one is cut before, it has at
    /// least as many as there is room for. That is as good as the number itself, but where both have as many and an odd number is
    /// shared out: the longer one keeps one more.
    fn pair(&self, a: &str, b: &str) -> Result<Encoded> {
        let room = self.limit.saturating_sub(self.special(true));
        let (mut first, first_cut) = self.beginning(a, room)?;
        let (mut second, second_cut) = self.beginning(b, room)?;
        let longer_is_known = match (first_cut, second_cut) {
            (false, false) => true,
            (true, false) => first.len() > second.len(),
            (false, true) => second.len() > first.len(),
            (true, true) => false,
        };
        let both_full = first.len().min(second.len()) >= room;
        if both_full && !longer_is_known && !room.is_multiple_of(2) {
            (first, second) = (self.all(a)?, self.all(b)?);
        }
        self.finish(first, Some(second))
    }

    /// The tokens of a text, without special ones, or of so much of it that there are at least `room`; and whether it was cut.
    ///
    /// Tokens of a beginning that ends at one of the [`Cuts`] are the first tokens of the text.
    fn beginning(&self, text: &str, room: usize) -> Result<(Encoding, bool)> {
        if let Some(cuts) = &self.cuts {
            // A beginning may have its end in the last quarter of what may be tokenized.
            let last = self.most / 4 * 3;
            let mut size = room.saturating_mul(BYTES_A_TOKEN).clamp(SHORT / 4, last);
            while text.len() > self.most.min(2 * size) {
                let normal = |text: &str| normalize(&self.inner, &self.text(text));
                let Some(place) = cuts.find(text, size, self.most, normal) else { break };
                let encoding = self.all(&text[..place])?;
                if encoding.len() >= room {
                    return Ok((encoding, true));
                }
                if size == last {
                    break;
                }
                size = size.saturating_mul(4).min(last);
            }
        }
        Ok((self.all(text)?, false))
    }

    /// All tokens of a text, without special ones.
    fn all(&self, text: &str) -> Result<Encoding> {
        self.check_length(text)?;
        let _part = (text.len() > SHORT).then(|| TEXTS.take(text.len()));
        guarded(|| self.inner.encode_fast(self.text(text), false)).map_err(|e| self.bad(e))
    }

    /// Cuts the tokens of a text or pair at the limit and puts the special ones around.
    fn finish(&self, first: Encoding, second: Option<Encoding>) -> Result<Encoded> {
        let cut = TruncationParams {
            max_length: self.limit.saturating_sub(self.special(second.is_some())),
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: self.direction,
        };
        let encoding = guarded(|| {
            let (mut first, mut second) = truncate_encodings(first, second, &cut)?;
            first.take_overflowing();
            second.iter_mut().for_each(|second| drop(second.take_overflowing()));
            self.inner.post_process(first, second, true)
        });
        let encoding = encoding.map_err(|e| self.bad(e))?;
        let ids = encoding.get_ids().to_vec();
        if ids.is_empty() {
            let problem = "gives no token, not even a special one, for an empty text";
            return Err(self.bad(problem.into()));
        }
        if ids.len() > self.limit {
            let (got, limit) = (ids.len(), self.limit);
            return Err(self.bad(format!("gives {got} tokens where it was told to give {limit}")));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab) {
            let vocab = self.vocab;
            return Err(self.bad(format!("gives the token {id}; the model knows {vocab}")));
        }
        let types = if self.types > 0 { encoding.get_type_ids().to_vec() } else { Vec::new() };
        if let Some(t) = types.iter().find(|t| **t as usize >= self.types) {
            let types = self.types;
            return Err(self.bad(format!("gives the token type {t}; the model knows {types}")));
        }
        Ok(Encoded::new(ids, types))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
    }

    /// SplitMix64.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
            ((z ^ (z >> 31)) % n as u64) as usize
        }

        fn one<T: Copy>(&mut self, of: &[T]) -> T {
            of[self.below(of.len())]
        }
    }

    const WORDS: [&str; 44] = [
        "the",
        "fox",
        "River",
        "it's",
        "we'LL",
        "don't",
        "1234567",
        "3.14",
        "a",
        "I",
        "naïve",
        "Straße",
        "ΣΑΣ",
        "ΟΔΟΣ",
        "Привет",
        "мир,",
        "日本語",
        "漢",
        "「字」",
        "한국어",
        "สวัสดี",
        "हिन्दी",
        "مرحبا",
        "\u{600}\u{661}",
        "\u{d4e}ക",
        "e\u{301}\u{323}",
        "\u{301}",
        "ﬁﷺ",
        "¨",
        "\u{1f1e9}\u{1f1ea}",
        "👩\u{200d}👩\u{200d}👧",
        "``x''",
        "--",
        "…",
        "[MASK]",
        "<mask>",
        "</s>",
        "[Q]",
        "one|two",
        "x\u{200b}y",
        "\u{feff}",
        "\u{0}",
        "co-op",
        "antidisestablishmentarianism",
    ];
    const GAPS: [&str; 14] = [
        " ", " ", " ", " ", " ", "  ", "   ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "\u{85}",
        "",
    ];

    fn draw(rng: &mut Rng, words: usize) -> String {
        (0..words).map(|_| [rng.one(&WORDS), rng.one(&GAPS)].concat()).collect()
    }

    /// None where the crate panics, as it does on some texts with combining marks.
    fn ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Option<Vec<u32>> {
        Some(guarded(|| tokenizer.encode_fast(text, false)).ok()?.get_ids().to_vec())
    }

    /// Golden tokenizers, and changes of two that put together other normalizers and pre-tokenizers.
    fn kinds() -> Vec<(String, Value)> {
        let read = |name: &str| -> Value {
            let text = std::fs::read(golden(name).join("tokenizer.json")).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let mut kinds: Vec<(String, Value)> = [
            "bert",
            "distilbert",
            "colbert-pylate",
            "mpnet",
            "roberta",
            "xlm-roberta",
            "xlm-roberta-cross",
        ]
        .map(|name| (name.to_string(), read(name)))
        .into();
        let split = |pattern: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": regex, "trim_offsets": true, "use_regex": regex});
        let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "pretokenizers": steps});
        let normal = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let space = replace(json!({"Regex": bounds::SPACES[0]}), " ");
        let nfc = json!({"type": "NFC"});
        let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
        let changed = [
            (
                "roberta",
                "Qwen 2",
                nfc.clone(),
                sequence(vec![split(bounds::GPT[2], "Isolated", false), bytes(false)]),
            ),
            (
                "roberta",
                "Llama 3",
                Value::Null,
                sequence(vec![split(bounds::GPT[1], "Isolated", false), bytes(false)]),
            ),
            (
                "roberta",
                "GPT-4",
                Value::Null,
                sequence(vec![split(bounds::GPT[1], "Removed", true), bytes(false)]),
            ),
            ("roberta", "GPT-2", Value::Null, bytes(true)),
            (
                "roberta",
                "CLIP",
                normal(vec![nfc, space.clone(), json!({"type": "Lowercase"})]),
                sequence(vec![split(bounds::CLIP, "Removed", true), bytes(false)]),
            ),
            (
                "xlm-roberta",
                "ALBERT",
                normal(vec![
                    replace(json!({"String": "``"}), "\""),
                    replace(json!({"String": "''"}), "\""),
                    json!({"type": "NFKD"}),
                    json!({"type": "StripAccents"}),
                    json!({"type": "Lowercase"}),
                    space.clone(),
                    strip.clone(),
                ]),
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}),
            ),
            (
                "xlm-roberta",
                "SigLIP",
                normal(vec![
                    json!({"type": "Lowercase"}),
                    replace(json!({"Regex": r#"[!"\#'\(\),\-\.:;=\?@\[\\\]_`\|\~]"#}), ""),
                    space.clone(),
                    strip.clone(),
                ]),
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
            ),
            (
                "xlm-roberta",
                "words",
                json!({"type": "NFKC"}),
                sequence(vec![
                    json!({"type": "Whitespace"}),
                    json!({"type": "Digits", "individual_digits": true}),
                ]),
            ),
        ];
        for (base, name, normalizer, pre_tokenizer) in changed {
            let mut json = read(base);
            json["normalizer"] = normalizer;
            json["pre_tokenizer"] = pre_tokenizer;
            let token = |content: &str, strip: bool, single: bool, normalized: bool| {
                json!({"id": 9990, "content": content, "single_word": single, "lstrip": strip,
                       "rstrip": strip, "normalized": normalized, "special": false})
            };
            let added = json["added_tokens"].as_array_mut().unwrap();
            added.push(token("one|two", false, true, true));
            added.push(token("the fox", true, false, false));
            if base == "roberta" {
                added.push(token("  ", false, false, true));
            }
            kinds.push((name.into(), json));
        }
        kinds
    }

    /// The property that cutting rests on: what is before a place gives the first tokens of the text.
    #[test]
    fn tokens_before_a_place_are_the_first_tokens_of_the_text() {
        let mut rng = Rng(17);
        for (name, json) in kinds() {
            let (mut tokenizer, bounds) = parse(json.to_string().as_bytes()).unwrap();
            tokenizer.with_padding(None).with_truncation(None).unwrap();
            let normal = |text: &str| normalize(&tokenizer, text);
            let cuts = Cuts::new(&bounds, normal).unwrap_or_else(|| panic!("{name}"));
            let (mut places, mut texts) = (0, 0);
            for _ in 0..60 {
                let text = draw(&mut rng, 30);
                let Some(whole) = ids(&tokenizer, &text) else { continue };
                let mut from = 1;
                while let Some(place) = cuts.find(&text, from, text.len(), normal) {
                    let first = ids(&tokenizer, &text[..place]).unwrap();
                    assert_eq!(first, whole[..first.len()], "{name}: {:?}", &text[..place]);
                    (places, from) = (places + 1, place + 1);
                }
                texts += (from > 1) as usize;
            }
            assert!(places > 150 && texts > 40, "{name}: {places} places in {texts} texts");
        }
    }

    #[test]
    fn a_beginning_of_a_long_line_is_tokenized_by_every_kind_of_rules() {
        let part = "The fox,  it's 3.14 Привет 日本語 … naïve ";
        let (line, some) = (part.repeat((20 << 20) / part.len()), part.repeat(200));
        let (folder, room) = (tempfile::tempdir().unwrap(), 300);
        let mut config = TextConfig::open(&golden("bert")).unwrap();
        config.parts.positions = room;
        for (name, json) in kinds() {
            std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
            let tokenizer =
                Tokenizer::open(folder.path(), &config, &Reading::default(), Threads::shared())
                    .unwrap();
            let (first, cut) = tokenizer.beginning(&line, room).unwrap();
            assert!(cut && (room..some.len()).contains(&first.len()), "{name}: {}", first.len());
            let all = tokenizer.all(&some).unwrap();
            assert_eq!(first.get_ids(), &all.get_ids()[..first.len()], "{name}");
        }
    }

    #[test]
    fn rules_that_reach_further_allow_no_cut() {
        let none = |base: &str, edit: &dyn Fn(&mut Value)| {
            let text = std::fs::read(golden(base).join("tokenizer.json")).unwrap();
            let mut json: Value = serde_json::from_slice(&text).unwrap();
            edit(&mut json);
            let (tokenizer, bounds) = parse(json.to_string().as_bytes()).unwrap();
            assert!(Cuts::new(&bounds, |text| normalize(&tokenizer, text)).is_none(), "{json}");
        };
        none("roberta", &|v| v["pre_tokenizer"] = Value::Null);
        none("roberta", &|v| v["pre_tokenizer"]["use_regex"] = json!(false));
        none("xlm-roberta-cross", &|v| v["pre_tokenizer"]["split"] = json!(false));
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        for step in [
            replace(json!({"String": "e"}), " "),
            replace(json!({"String": "e"}), ""),
            replace(json!({"String": "e f"}), "x"),
            replace(json!({"Regex": "e.*f"}), "x"),
            replace(json!({"Regex": "[e]f|[g]"}), "x"),
            replace(json!({"Regex": bounds::SPACES[0]}), ""),
            json!({"type": "ByteLevel"}),
        ] {
            none("bert", &|v| v["normalizer"] = step.clone());
        }
        let split = json!({"type": "Split", "pattern": {"Regex": "(?=[a-z])"}, "behavior": "Isolated", "invert": false});
        none("bert", &|v| v["pre_tokenizer"] = split.clone());
    }

    fn open(name: &str, limit: usize, lower_case: bool) -> (Tokenizer, tokenizers::Tokenizer) {
        let mut config = TextConfig::open(&golden(name)).unwrap();
        config.parts.positions = limit + config.parts.skipped;
        let reading = Reading { limit: Some(limit), lower_case, ..Reading::default() };
        let tokenizer =
            Tokenizer::open(&golden(name), &config, &reading, Threads::shared()).unwrap();
        let mut whole = tokenizer.inner.clone();
        let cut = TruncationParams {
            max_length: limit,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        whole.with_truncation(Some(cut)).unwrap();
        (tokenizer, whole)
    }

    #[test]
    fn long_texts_and_pairs_give_the_tokens_that_they_give_uncut() {
        let mut rng = Rng(18);
        for (name, lower_case) in [
            ("bert", false),
            ("distilbert", true),
            ("roberta", false),
            ("xlm-roberta", false),
            ("mpnet", true),
        ] {
            let mut cut = 0;
            for limit in [700, 701, 3001] {
                let (tokenizer, whole) = open(name, limit, lower_case);
                for words in [1500, 2500] {
                    let text = draw(&mut rng, words);
                    let expected = whole.encode_fast(&*tokenizer.text(&text), true).unwrap();
                    let got = tokenizer.one(&text).unwrap();
                    assert_eq!(got.ids, expected.get_ids(), "{name} {limit}");
                    cut += tokenizer.beginning(&text, limit).unwrap().1 as usize;
                    for words in [3, 1700] {
                        let other = draw(&mut rng, words);
                        for (a, b) in [(&text, &other), (&other, &text)] {
                            let input = (&*tokenizer.text(a), &*tokenizer.text(b));
                            let expected = whole.encode_fast(input, true).unwrap();
                            let got = tokenizer.pair(a, b).unwrap();
                            assert_eq!(got.ids, expected.get_ids(), "{name} {limit} {words}");
                        }
                    }
                }
            }
            assert!(cut > 2, "{name}: {cut} texts were cut");
        }
    }
}
