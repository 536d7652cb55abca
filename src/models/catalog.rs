//! What can be loaded: every architecture with what reads it and what it was tested against.

use std::path::Path;

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

const fn row(
    model_type: &'static str,
    models: &'static str,
    loads: &'static str,
    tested: &'static str,
) -> Architecture {
    Architecture { model_type, models, loads, tested }
}

const TEXT: &str = "TextEncoder, TokenEncoder, CrossEncoder";
const SPLADE: &str = "TextEncoder, TokenEncoder, CrossEncoder, SparseEncoder";
const TEXT_ONLY: &str = "TextEncoder, TokenEncoder";

/// Every architecture, by `model_type`.
pub const ARCHITECTURES: &[Architecture] = &[
    row(
        "bert",
        "BERT, MiniLM, BGE, E5, GTE, ColBERT, SPLADE",
        SPLADE,
        "BertModel, BertForSequenceClassification, BertForMaskedLM",
    ),
    row(
        "blip",
        "BLIP for retrieval",
        "DualEncoder, ImageCrossEncoder",
        "BlipForImageTextRetrieval",
    ),
    row("camembert", "CamemBERT", SPLADE, "RobertaModel, CamembertForSequenceClassification"),
    row("chinese_clip", "Chinese CLIP", "DualEncoder", "ChineseCLIPModel"),
    row("clip", "CLIP", "DualEncoder", "CLIPModel"),
    row("clip_vision_model", "CLIP's image half", "ImageEncoder", "CLIPVisionModel"),
    row("deit", "DeiT", "ImageEncoder", "DeiTModel"),
    row("dinov2", "DINOv2", "ImageEncoder", "Dinov2Model"),
    row(
        "dinov2_with_registers",
        "DINOv2 with registers",
        "ImageEncoder",
        "Dinov2WithRegistersModel",
    ),
    row(
        "distilbert",
        "DistilBERT, SPLADE",
        SPLADE,
        "DistilBertModel, DistilBertForSequenceClassification, DistilBertForMaskedLM",
    ),
    row(
        "lxmert",
        "LXMERT",
        "RegionCrossEncoder",
        "LxmertForPreTraining, LxmertForQuestionAnswering",
    ),
    row("mistral", "E5-Mistral, SFR-Embedding", TEXT, "MistralModel"),
    row(
        "modernbert",
        "ModernBERT, GTE-ModernColBERT",
        TEXT,
        "ModernBertModel, ModernBertForSequenceClassification",
    ),
    row("mpnet", "MPNet", SPLADE, "MPNetModel, MPNetForSequenceClassification, MPNetForMaskedLM"),
    row("nomic_bert", "nomic-embed-text", TEXT, "NomicBertModel"),
    row(
        "open_clip_config.json",
        "OpenCLIP, CoCa",
        "DualEncoder",
        "CLIPModel under OpenCLIP's names, open_clip's CoCa",
    ),
    row("qwen3", "Qwen3-Embedding", TEXT, "Qwen3Model, Qwen3ForSequenceClassification"),
    row("roberta", "RoBERTa", SPLADE, "RobertaModel, RobertaForSequenceClassification"),
    row("siglip", "SigLIP, SigLIP 2 at a fixed resolution", "DualEncoder", "SiglipModel"),
    row("siglip_vision_model", "SigLIP's image half", "ImageEncoder", "SiglipVisionModel"),
    row(
        "vilt",
        "ViLT",
        "ImageCrossEncoder",
        "ViltForImageAndTextRetrieval, ViltForQuestionAnswering",
    ),
    row("vit", "ViT", "ImageEncoder", "ViTModel"),
    row(
        "xlm-roberta",
        "XLM-RoBERTa, BGE-M3, multilingual E5",
        SPLADE,
        "XLMRobertaModel, XLMRobertaForSequenceClassification",
    ),
    row("xmod", "X-MOD, ColBERT-XM", TEXT_ONLY, "XmodModel"),
];

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
            let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.model_type).collect();
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
    fn every_family_is_listed() {
        let mut known: Vec<&str> = text::family::names();
        known.extend(vision::family::names());
        known.extend(dual::family::names());
        known.extend(cross::IMAGE_NAMES);
        known.extend([cross::lxmert::NAME, "open_clip_config.json"]);
        known.sort_unstable();
        known.dedup();
        let listed: Vec<&str> = ARCHITECTURES.iter().map(|a| a.model_type).collect();
        assert_eq!(listed, known);
    }
}
