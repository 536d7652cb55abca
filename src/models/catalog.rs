//! What can be loaded: every architecture with what reads it and what it was tested against.

use std::path::Path;
use std::sync::LazyLock;

use super::config::{model_type, read_config};
use super::dual::DualEncoder;
use super::modules::transformer;
use super::tokens::TokenEncoder;
use super::{cross, dual, text, vision};
use crate::{Error, Result};

/// An architecture that folders can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Architecture {
    /// `model_type` of its `config.json`, or the name of the file that stands for it.
    pub model_type: &'static str,
    /// The models it was released with.
    pub models: &'static str,
    /// What loads it, and which vectors or scores these give.
    pub loads: &'static str,
    /// The class of the Python library whose results are matched in the tests.
    pub tested: &'static str,
}

impl Architecture {
    pub(crate) const fn new(
        model_type: &'static str,
        models: &'static str,
        loads: &'static str,
        tested: &'static str,
    ) -> Architecture {
        Architecture { model_type, models, loads, tested }
    }
}

/// What loads text encoders, by the heads that are known for them.
pub(crate) const TEXT: &str = "TextEncoder, TokenEncoder, CrossEncoder";
pub(crate) const TEXT_WITH_WORDS: &str = "TextEncoder, TokenEncoder, CrossEncoder, SparseEncoder";
pub(crate) const TEXT_ONLY: &str = "TextEncoder, TokenEncoder";

/// Every architecture, by `model_type`.
pub fn architectures() -> &'static [Architecture] {
    static ALL: LazyLock<Vec<Architecture>> = LazyLock::new(|| {
        let mut all: Vec<Architecture> = text::family::architectures().collect();
        all.extend(vision::family::architectures());
        all.extend(dual::family::architectures());
        all.extend([cross::vilt::ARCHITECTURE, cross::lxmert::ARCHITECTURE]);
        all.sort_unstable_by_key(|a| a.model_type);
        all
    });
    &ALL
}

/// What a folder is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Texts to a vector each: [`TextEncoder`](super::TextEncoder), or [`CrossEncoder`](super::CrossEncoder) where it has such a head.
    Text,
    /// Texts to a vector for each token: [`TokenEncoder`].
    Tokens,
    /// Images: [`ImageEncoder`](super::ImageEncoder).
    Image,
    /// Texts and images: [`DualEncoder`], which may have a cross-encoder as well.
    Dual,
    /// Pairs of a text and an image: [`ImageCrossEncoder`](super::ImageCrossEncoder).
    ImageCross,
    /// Texts with regions of images: [`RegionCrossEncoder`](super::RegionCrossEncoder).
    Regions,
}

impl Kind {
    /// What a folder is made for, by the configuration of its transformer, which `modules.json` may place in a folder below.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Config`] if it has none, or one of an unknown architecture.
    pub fn of(folder: &Path) -> Result<Kind> {
        if DualEncoder::has_own_config(folder) {
            return Ok(Kind::Dual);
        }
        let (json, file) = read_config(&transformer(folder)?)?;
        let name =
            model_type(&json).map_err(|problem| Error::Config { file: file.clone(), problem })?;
        if dual::family::names().contains(&name) {
            Ok(Kind::Dual)
        } else if name == cross::lxmert::NAME {
            Ok(Kind::Regions)
        } else if vision::family::find(name).is_some() {
            Ok(Kind::Image)
        } else if cross::IMAGE_NAMES.contains(&name) {
            Ok(Kind::ImageCross)
        } else if text::family::find(name).is_some() {
            match TokenEncoder::is_made_for(folder)? {
                true => Ok(Kind::Tokens),
                false => Ok(Kind::Text),
            }
        } else {
            let known: Vec<&str> = architectures().iter().map(|a| a.model_type).collect();
            let known = known.join(", ");
            let problem = format!("unknown architecture '{name}' (model_type); known are {known}");
            Err(Error::Config { file, problem })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_architecture() {
        let names: Vec<&str> = architectures().iter().map(|a| a.model_type).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        for name in names {
            let is_dual = dual::family::names().contains(&name);
            let known = [
                is_dual,
                vision::family::find(name).is_some(),
                text::family::find(name).is_some(),
                !is_dual && cross::IMAGE_NAMES.contains(&name),
                [cross::lxmert::NAME, "open_clip_config.json"].contains(&name),
            ];
            assert_eq!(known.iter().filter(|known| **known).count(), 1, "{name}");
        }
    }
}
