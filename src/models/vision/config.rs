//! `config.json` of an image encoder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::family::{self, Family, Layout, Parts};
use crate::models::config::model_type;
use crate::{Error, Result};

/// What an image encoder's configuration says, whatever its family.
#[derive(Clone)]
pub(crate) struct VisionConfig {
    pub(crate) file: PathBuf,
    /// The `model_type` it was found by.
    pub(crate) name: &'static str,
    pub(crate) family: &'static Family,
    pub(crate) parts: Parts,
}

impl VisionConfig {
    /// Checks the configuration of an image encoder that stands for itself.
    ///
    /// # Errors
    /// [`Error::Config`] if a key has the wrong type, a size is out of range, or the architecture or an activation is
    /// unknown, with what is known.
    pub(crate) fn parse(json: &Map<String, Value>, file: &Path) -> Result<VisionConfig> {
        let bad = |problem: String| Error::Config { file: file.into(), problem };
        let model_type = model_type(json).map_err(bad)?;
        let (name, family) = family::find(model_type).ok_or_else(|| {
            let known = family::names().join(", ");
            bad(format!(
                "unknown architecture '{model_type}' (model_type); known image encoders are {known}"
            ))
        })?;
        VisionConfig::of(json, name, family, file)
    }

    /// Checks a configuration of a known family, which may be a part of the file.
    pub(crate) fn of(
        json: &Map<String, Value>,
        name: &'static str,
        family: &'static Family,
        file: &Path,
    ) -> Result<VisionConfig> {
        let bad = |problem: String| Error::Config { file: file.into(), problem };
        let parts = (family.read)(json).map_err(bad)?;
        parts.check().map_err(bad)?;
        Ok(VisionConfig { file: file.into(), name, family, parts })
    }

    /// The names of this checkpoint's tensors.
    pub(crate) fn layout(&self) -> &'static Layout {
        self.parts.layout.unwrap_or(&self.family.layout)
    }
}
