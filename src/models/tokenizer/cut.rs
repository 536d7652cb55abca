//! Where a long text may be cut before it is tokenized without changing its first tokens.
//!
//! A tokenizer takes added tokens out of a text, normalizes what is between them, splits that into pieces and turns each piece
//! into tokens by itself. The tokens before a place are therefore those of the text up to it if
//!
//! 1. no added token goes across the place,
//! 2. the normalized text up to it, followed by something, is the normalized text,
//! 3. a piece ends there.
//!
//! A place is before a single white space between two other characters. Only normalizers and pre-tokenizers are accepted for
//! which the first and last character decide what happens at such a place (1 and 3 by the rules below), and the normalizer is run
//! on the text around it (2): normal forms, letter case and the clusters of SentencePiece's rules do not reach across white space,
//! so that a window shows what the whole text would.

use serde_json::Value;

use super::bounds::{Bounds, CLIP, GPT, SPACES, is_class};

/// Bytes before a place, and after it, on which the normalizer is run.
const WINDOW: usize = 64;
/// Places that are looked at before a text counts as one that cannot be cut.
const TRIES: usize = 1000;

/// How pieces end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// Before and after any white space, which belongs to no piece.
    White,
    /// Before a single space that another character follows.
    Space,
}

/// The rules of a tokenizer by which a text may be cut.
#[derive(Clone, Debug)]
pub(super) struct Cuts {
    ends: Ends,
    /// Whether an added token has white space in it, and what is before that: such a token could go across a place.
    spaced: bool,
    joints: Vec<char>,
}

impl Cuts {
    /// The rules, if they allow it. `normalize` is the tokenizer's.
    pub(super) fn new(bounds: &Bounds, normalize: impl Fn(&str) -> Option<String>) -> Option<Cuts> {
        if !bounds.normalizers.iter().all(is_local) {
            return None;
        }
        let ends = ends(bounds.pre_tokenizers.first()?)?;
        let (mut spaced, mut joints) = (false, Vec::new());
        for token in &bounds.added {
            // An empty one would be found everywhere.
            let normal = normalize(token).filter(|text| !text.is_empty())?;
            for text in [token, &normal] {
                spaced |= text.contains(char::is_whitespace);
                let pairs = text.chars().zip(text.chars().skip(1));
                joints.extend(pairs.filter(|(_, b)| b.is_whitespace()).map(|(a, _)| a));
            }
        }
        joints.retain(|c| !c.is_whitespace());
        joints.sort_unstable();
        joints.dedup();
        Some(Cuts { ends, spaced, joints })
    }

    /// The first place in `from..to` at which `text` may be cut.
    pub(super) fn find(
        &self,
        text: &str,
        from: usize,
        to: usize,
        normalize: impl Fn(&str) -> Option<String>,
    ) -> Option<usize> {
        let from = (from.max(1)..=text.len()).find(|&i| text.is_char_boundary(i))?;
        let white = text[from..].char_indices().filter(|(_, c)| c.is_whitespace());
        let places = white.map(|(i, _)| from + i).take_while(|&i| i < to);
        places.take(TRIES).find(|&place| self.fits(text, place, &normalize))
    }

    fn fits(&self, text: &str, place: usize, normalize: impl Fn(&str) -> Option<String>) -> bool {
        let solid = |c: Option<char>| c.filter(|c| !c.is_whitespace() && !c.is_control());
        let last = solid(text[..place].chars().next_back());
        let next = solid(text[place..].chars().nth(1));
        let (Some(last), Some(_)) = (last, next) else { return false };
        if self.joints.binary_search(&last).is_ok() {
            return false;
        }
        let start = (place.saturating_sub(WINDOW)..place).find(|&i| text.is_char_boundary(i));
        let end = (place + WINDOW).min(text.len());
        let end = (place + 1..=end).rev().find(|&i| text.is_char_boundary(i));
        let (Some(start), Some(end)) = (start, end) else { return false };
        let normal = (normalize(&text[start..place]), normalize(&text[start..end]));
        let (Some(before), Some(whole)) = normal else { return false };
        let Some(after) = whole.strip_prefix(before.as_str()) else { return false };
        let Some(last) = before.chars().next_back() else { return false };
        if self.joints.binary_search(&last).is_ok() || self.spaced && last.is_whitespace() {
            return false;
        }
        let mut after = after.chars();
        let (first, second) = (after.next(), after.next());
        match self.ends {
            Ends::White => last.is_whitespace() || first.is_some_and(char::is_whitespace),
            Ends::Space => {
                solid(Some(last)).is_some() && first == Some(' ') && solid(second).is_some()
            }
        }
    }
}

/// Whether a normalizer does at a place what the characters around it say: it works on each character, on a cluster or a
/// sequence that ends before white space, or on a run of white space, which a place is the whole of.
fn is_local(step: &Value) -> bool {
    match step["type"].as_str().unwrap_or_default() {
        "BertNormalizer" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents"
        | "Nmt" | "Strip" | "Precompiled" | "Prepend" => true,
        "Replace" => {
            let content = step["content"].as_str().unwrap_or_default();
            match (step["pattern"]["String"].as_str(), step["pattern"]["Regex"].as_str()) {
                (_, Some(regex)) if is_class(regex) => true,
                (_, Some(regex)) => SPACES.contains(&regex) && [" ", "\u{2581}"].contains(&content),
                (Some(text), _) => [text, content]
                    .iter()
                    .all(|text| !text.is_empty() && !text.contains(char::is_whitespace)),
                _ => false,
            }
        }
        _ => false,
    }
}

/// How pieces end where this pre-tokenizer is the first; those after it split its pieces further, each by itself.
fn ends(step: &Value) -> Option<Ends> {
    let pattern = step["pattern"]["Regex"].as_str().unwrap_or_default();
    let how = (step["behavior"].as_str(), step["invert"].as_bool());
    match step["type"].as_str().unwrap_or_default() {
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" => Some(Ends::White),
        "Metaspace" if step["split"] == true => Some(Ends::Space),
        "ByteLevel" if step["use_regex"] == true => Some(Ends::Space),
        "Split" => match how {
            (Some("Removed"), Some(true)) if pattern == CLIP => Some(Ends::White),
            (Some("Removed"), Some(true)) | (Some("Isolated"), Some(false))
                if GPT.contains(&pattern) =>
            {
                Some(Ends::Space)
            }
            _ => None,
        },
        _ => None,
    }
}
