//! Families of image encoders: which configurations they read and where they keep their tensors.

use serde_json::{Map, Value};

use super::{clip, deit, dinov2, siglip, vit};
use crate::images::Interpolation;
use crate::models::catalog::Architecture;
use crate::models::config::{check_shape, range};
use crate::models::layers::{Names, Shape};
use crate::ops::gemm::Activation;

/// Every family: the architectures that folders can name, and what it is.
const FAMILIES: &[(&[Architecture], &Family)] = &[
    (clip::ARCHITECTURES, &clip::FAMILY),
    (deit::ARCHITECTURES, &deit::FAMILY),
    (dinov2::ARCHITECTURES, &dinov2::FAMILY),
    (siglip::ARCHITECTURES, &siglip::FAMILY),
    (vit::ARCHITECTURES, &vit::FAMILY),
];

/// What sets a family apart.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    /// Reads and checks the keys of its configuration.
    pub(crate) read: fn(&Map<String, Value>) -> Result<Parts, String>,
    pub(crate) layout: Layout,
}

/// Where a family keeps its tensors.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// What its own checkpoints of larger models put before the encoder's names.
    pub(crate) prefix: &'static str,
    /// The convolution that embeds patches.
    pub(crate) patch: &'static str,
    pub(crate) patch_bias: bool,
    /// Tokens before the patches that have a position, each [H] in any number of dimensions.
    pub(crate) tokens: &'static [&'static str],
    /// Tokens between those and the patches that have none.
    pub(crate) registers: Option<&'static str>,
    pub(crate) positions: &'static str,
    /// The norm of the embeddings, where there is one.
    pub(crate) norm: Option<&'static str>,
    pub(crate) names: Names,
    /// The norm behind the last layer, and whether it is for all tokens or for the pooled one alone.
    pub(crate) last_norm: &'static str,
    pub(crate) norms_all: bool,
    pub(crate) head: HeadNames,
}

/// What makes one vector of an image.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum HeadNames {
    /// The first token.
    First,
    /// `tanh` of a linear map of the first token, where the checkpoint has it.
    Pooler(&'static str),
    /// Attention of one learned query to all tokens, and a feed-forward net (SigLIP).
    Attention(&'static str),
    /// Attention of the first of learned queries to all tokens, normed before, and the last norm behind it (OpenCLIP's CoCa).
    Queries(&'static str),
}

/// What a family reads from its configuration.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) shape: Shape,
    /// Height and width of the images it was trained on.
    pub(crate) image: [usize; 2],
    /// Height and width of a patch.
    pub(crate) patch: [usize; 2],
    pub(crate) registers: usize,
    /// How positions are fitted to images of another size.
    pub(crate) interpolation: Interpolation,
    /// Whether the head is left out (`vision_use_head` false).
    pub(crate) headless: bool,
    /// How the pooled vector is activated.
    pub(crate) pooler: Activation,
    /// Where it is not the family's own.
    pub(crate) layout: Option<&'static Layout>,
    /// Columns of the vector that the pooler gives.
    pub(crate) pooled: usize,
    /// Learned queries and heads of a head that has such.
    pub(crate) queries: usize,
    pub(crate) query_heads: usize,
}

impl Parts {
    pub(crate) fn new(shape: Shape, image: &Size, patch: &Size) -> Result<Parts, String> {
        let (image, patch) = (image.sides("image_size")?, patch.sides("patch_size")?);
        for (whole, part) in image.iter().zip(&patch) {
            range("image_size", *whole, *part, 1 << 14)?;
        }
        Ok(Parts {
            image,
            patch,
            registers: 0,
            interpolation: Interpolation::Bicubic,
            headless: false,
            pooler: Activation::Tanh,
            layout: None,
            pooled: shape.hidden,
            queries: 0,
            query_heads: 0,
            shape,
        })
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        check_shape(&self.shape)?;
        range("num_register_tokens", self.registers, 0, 1 << 12)?;
        range("pooler_output_size", self.pooled, 1, 1 << 16)?;
        Ok(())
    }

    /// Patches of a trained image down and across.
    pub(crate) fn grid(&self) -> [usize; 2] {
        [self.image[0] / self.patch[0], self.image[1] / self.patch[1]]
    }
}

/// One number for a square, or height and width.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum Size {
    Square(usize),
    Sides([usize; 2]),
}

impl Size {
    fn sides(&self, key: &str) -> Result<[usize; 2], String> {
        let sides = match *self {
            Size::Square(n) => [n, n],
            Size::Sides(sides) => sides,
        };
        sides.iter().try_for_each(|&n| range(key, n, 1, 1 << 14).map(drop))?;
        Ok(sides)
    }
}

/// The family of a `model_type`, with its name.
pub(crate) fn find(model_type: &str) -> Option<(&'static str, &'static Family)> {
    FAMILIES.iter().find_map(|(architectures, family)| {
        let known = architectures.iter().find(|known| known.model_type == model_type)?;
        Some((known.model_type, *family))
    })
}

/// Every architecture that is known.
pub(crate) fn architectures() -> impl Iterator<Item = Architecture> {
    FAMILIES.iter().flat_map(|(architectures, _)| architectures.iter().copied())
}

/// Every `model_type` that is known.
pub(crate) fn names() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|(known, _)| known.iter().map(|a| a.model_type)).collect()
}
