//! DeiT (Touvron et al., arXiv:2012.12877): ViT with a second token, the distillation token. transformers: `DeiTModel`.

use super::family::{Family, Layout};
use super::vit;
use crate::models::catalog::Architecture;

pub(super) const ARCHITECTURES: &[Architecture] =
    &[Architecture::new("deit", "DeiT", "ImageEncoder", "DeiTModel")];

pub(crate) const FAMILY: Family = Family {
    read: vit::parts,
    layout: Layout {
        prefix: "deit.",
        tokens: &["embeddings.cls_token", "embeddings.distillation_token"],
        ..vit::LAYOUT
    },
};
