//! Families of dual encoders: which halves they have, and how these meet.

use std::path::Path;

use serde_json::{Map, Value};

use super::{blip, clip, open_clip, siglip};
use crate::models::catalog::Architecture;
use crate::models::config::{TextConfig, model_type, range};
use crate::models::vision::config::VisionConfig;
use crate::models::{text, vision};
use crate::{Error, Result};

/// Every family: the architectures that folders can name, and what it is.
const FAMILIES: &[(&[Architecture], &Family)] = &[
    (blip::ARCHITECTURES, &blip::FAMILY),
    (clip::ARCHITECTURES, &clip::FAMILY),
    (clip::CHINESE_ARCHITECTURES, &clip::CHINESE),
    (siglip::ARCHITECTURES, &siglip::FAMILY),
];

/// A JSON object.
type Object = Map<String, Value>;

/// What sets a family apart.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    pub(crate) text: (&'static str, &'static text::family::Family),
    pub(crate) image: (&'static str, &'static vision::family::Family),
    pub(crate) names: Names,
    pub(crate) end: End,
    /// Whether texts are filled up with padding tokens that are seen like any other.
    pub(crate) filled: bool,
    /// Whether logits have a bias and stand for themselves.
    pub(crate) sigmoid: bool,
    /// Columns of the common space, of the whole configuration and that of the texts.
    pub(crate) dim: fn(&Object, &Object) -> Result<usize, String>,
}

/// Where what joins the halves is.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    pub(crate) text: Option<&'static str>,
    pub(crate) image: Option<&'static str>,
    /// Whether the image's projection stands beside the encoder, not inside.
    pub(crate) own_image: bool,
    /// Whether projections are bare matrices \[columns, dim\].
    pub(crate) transposed: bool,
    /// Whether projections have a bias.
    pub(crate) bias: bool,
    pub(crate) scale: Option<&'static str>,
}

/// The token whose state stands for a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    First,
    Last,
    /// The first end token: the first token of this id, or, for the id 2 of configurations from before transformers 4.31, the
    /// first of the highest id.
    Named,
    /// The first token of the highest id.
    Highest,
    /// A token of its own behind the text, which sees it and one padding token behind it, and at the last position; by the name
    /// of its embedding (OpenCLIP's CoCa, whose mask is one place off).
    Added(&'static str),
}

/// A checked configuration.
pub(crate) struct Parts {
    pub(crate) text: TextConfig,
    pub(crate) image: VisionConfig,
    pub(crate) dim: usize,
    /// The id that [`End::Named`] looks for.
    pub(crate) end: u32,
    /// The padding token where the tokenizer does not say.
    pub(crate) pad: u32,
    /// Whether logits have a bias.
    pub(crate) bias: bool,
}

/// The family of a configuration.
pub(crate) fn find(json: &Map<String, Value>, file: &Path) -> Result<&'static Family> {
    let bad = |problem: String| Error::Config { file: file.into(), problem };
    let name = model_type(json).map_err(bad)?;
    let is_named = |known: &[Architecture]| known.iter().any(|a| a.model_type == name);
    let found = FAMILIES.iter().find(|(known, _)| is_named(known));
    found.map(|(_, family)| *family).ok_or_else(|| {
        let known = names().join(", ");
        bad(format!(
            "unknown architecture '{name}' (model_type); known dual encoders are {known} and OpenCLIP's folders"
        ))
    })
}

/// Every architecture that is known.
pub(crate) fn architectures() -> impl Iterator<Item = Architecture> {
    let named = FAMILIES.iter().flat_map(|(architectures, _)| architectures.iter().copied());
    named.chain([open_clip::ARCHITECTURE])
}

/// Every `model_type` that is known.
pub(crate) fn names() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|(known, _)| known.iter().map(|a| a.model_type)).collect()
}

/// The configuration of one half. Old files have it twice; what `…_dict` says holds then, as in transformers.
fn half(json: &Map<String, Value>, key: &str) -> Result<Map<String, Value>, String> {
    for key in [format!("{key}_dict"), key.to_string()] {
        match json.get(&key) {
            Some(Value::Object(map)) => return Ok(map.clone()),
            None | Some(Value::Null) => {}
            Some(other) => return Err(format!("{key} is {other}, not an object")),
        }
    }
    // transformers takes the class's defaults.
    Ok(Map::new())
}

impl Family {
    pub(crate) fn read(&'static self, json: &Map<String, Value>, file: &Path) -> Result<Parts> {
        let bad = |problem: String| Error::Config { file: file.into(), problem };
        let text = half(json, "text_config").map_err(bad)?;
        let image = half(json, "vision_config").map_err(bad)?;
        let token = |key: &str, default: u32| match text.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| bad(format!("{key} is {value}, not the id of a token"))),
        };
        let dim = (self.dim)(json, &text).map_err(bad)?;
        range("the projections' size", dim, 1, 1 << 16).map_err(bad)?;
        Ok(Parts {
            end: token("eos_token_id", 49407)?,
            pad: token("pad_token_id", 1)?,
            text: TextConfig::of(&text, self.text.0, self.text.1, file)?,
            image: VisionConfig::of(&image, self.image.0, self.image.1, file)?,
            dim,
            bias: self.sigmoid,
        })
    }
}
