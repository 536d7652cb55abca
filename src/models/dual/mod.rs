//! Dual encoders: texts and images to vectors of one space.

pub(crate) mod blip;
mod clip;
pub(crate) mod family;
pub(crate) mod open_clip;
mod siglip;
mod text;

use std::path::Path;

use family::Names;
use text::TextTower;

use super::config::read_config;
use super::layers::{Linear, Loader, NORM_EPS};
use super::vision::{self, ImageTokens, States, Tower, embed_images, embed_tokens};
use super::weights::Weights;
use super::{EmbedOptions, Embeddings, TextInput, TokenVectors, check_dtype};
use crate::images::Pixels;
use crate::ops::gemm::Activation;
use crate::ops::norm::l2_normalize;
use crate::{DType, Device, Error, Result, Tensor};

/// A text encoder and an image encoder whose vectors are compared by their cosine: CLIP, SigLIP and SigLIP 2 at a fixed
/// resolution, Chinese CLIP, and OpenCLIP's checkpoints.
pub struct DualEncoder {
    text: TextTower,
    image: Tower,
    projection: Option<Linear>,
    scoring: Scoring,
    dim: usize,
}

/// How the cosine of a text and an image becomes a logit, `scale * cosine + bias`, and the logits probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scoring {
    /// The factor of the cosine: the exponential of the checkpoint's `logit_scale`.
    pub scale: f32,
    /// Added to it; 0 but for SigLIP.
    pub bias: f32,
    /// Whether a logit stands for itself (sigmoid, SigLIP), or among those of all texts (softmax, CLIP).
    pub sigmoid: bool,
}

impl Scoring {
    /// The probability of each text for an image, of the cosines \[texts\] between them.
    pub fn probabilities(&self, cosines: &[f32]) -> Vec<f32> {
        let logits = cosines.iter().map(|c| self.scale * c + self.bias);
        if self.sigmoid {
            return logits.map(|x| 1.0 / (1.0 + (-x).exp())).collect();
        }
        let logits: Vec<f32> = logits.collect();
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = logits.iter().map(|x| (x - top).exp()).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter().map(|w| w / sum).collect()
    }
}

impl DualEncoder {
    /// Whether a folder has OpenCLIP's configuration.
    pub(crate) fn has_own_config(folder: &Path) -> bool {
        folder.join(open_clip::CONFIG).is_file()
    }

    /// Loads a folder: `config.json` of transformers, or `open_clip_config.json` of OpenCLIP. Matrices and embedding tables are
    /// kept as `dtype` (f32, f16 or bf16), biases, norms and image positions as f32; activations are f32.
    ///
    /// # Errors
    /// [`Error::Config`] for what is unknown (architecture, activation, a key's value) or out of range; [`Error::Weights`] if
    /// a tensor is missing, damaged, of another shape or not finite, [`Error::Tokenizer`], [`Error::Io`] with the file,
    /// [`Error::OutOfMemory`] if the device is full.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<DualEncoder> {
        check_dtype(dtype)?;
        let (family, parts) = match DualEncoder::has_own_config(folder) {
            true => open_clip::open(&folder.join(open_clip::CONFIG))?,
            false => {
                let (json, file) = read_config(folder)?;
                let family = family::find(&json, &file)?;
                (family, family.read(&json, &file)?)
            }
        };
        let weights = Weights::open_any(folder, open_clip::FILES)?;
        let image = vision::loader(&weights, &parts.image, device, dtype)?;
        let text = Loader::new(&weights, &parts.text, device, dtype)?;
        let (dim, names) = (parts.dim, &family.names);
        let projection = match names.image {
            Some(name) => {
                let columns = parts.image.parts.pooled;
                Some(projection(&image, name, names, dim, columns)?)
            }
            None => None,
        };
        let number = |name: &str| {
            let full = format!("{}{name}", text.root);
            // A scalar, or a vector of one.
            let shape: &[usize] = match weights.shapes().find(|(n, _)| *n == full) {
                Some((_, [])) => &[],
                _ => &[1],
            };
            Ok::<f32, Error>(weights.floats(&full, shape)?[0])
        };
        let scoring = Scoring {
            scale: names.scale.map_or(Ok(0.0), number)?.exp(),
            bias: match parts.bias {
                true => number("logit_bias")?,
                false => 0.0,
            },
            sigmoid: parts.bias,
        };
        let text = TextTower::load(folder, family, &parts, &text)?;
        let image = Tower::load(parts.image, &image)?;
        let width = projection.as_ref().map_or(image.width(), |p| p.weight.shape()[0]);
        if width != dim {
            let problem = format!("images have vectors of {width}, texts of {dim}");
            return Err(Error::Config { file: image.config.file, problem });
        }
        Ok(DualEncoder { text, image, projection, scoring, dim })
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tokens, special ones included, at which a text is cut.
    pub fn max_tokens(&self) -> usize {
        self.text.max_tokens()
    }

    /// Height and width of the images that the model was trained on. Others are read with interpolated positions.
    pub fn image_size(&self) -> [usize; 2] {
        self.image.config.parts.image
    }

    /// What makes probabilities of cosines.
    pub fn scoring(&self) -> Scoring {
        self.scoring
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.image.device
    }

    /// The token ids that each text becomes, special ones and filling included.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long (see [memory](crate::models#memory)) or gives a token that the model does not have.
    pub fn token_ids<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        Ok(self.text.encode("", texts)?.into_iter().map(|e| e.ids).collect())
    }

    /// A vector of length 1 for each text: \[texts, [`dim`](Self::dim)\] in the caller's order.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long (see [memory](crate::models#memory)) or gives a token that the model does not have, [`Error::OutOfMemory`] if the device is
    /// full, [`Error::DeviceLost`] if it is gone.
    pub fn embed_texts<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        self.text.embed(texts, options, |x| l2_normalize(&x, NORM_EPS))
    }

    /// [`embed_texts`](Self::embed_texts) before vectors are brought to length 1.
    ///
    /// # Errors
    /// As [`embed_texts`](Self::embed_texts).
    pub fn embed_texts_raw<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        self.text.embed(texts, options, Ok)
    }

    /// [`embed_texts`](Self::embed_texts) of texts as ids, some of whose word embeddings are given: an image's pseudo-token within a
    /// text (Saito et al., arXiv:2302.03084).
    ///
    /// # Errors
    /// As [`TextEncoder::embed_inputs`](super::TextEncoder::embed_inputs).
    pub fn embed_inputs(
        &self,
        inputs: &[TextInput],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        self.text.embed_inputs(inputs, options, |x| l2_normalize(&x, NORM_EPS))
    }

    /// A vector of length 1 for each image: \[images, [`dim`](Self::dim)\] in the caller's order. Images may differ in size.
    ///
    /// # Errors
    /// As [`ImageEncoder::embed`](super::ImageEncoder::embed).
    pub fn embed_images(
        &self,
        images: &[Pixels],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        let pool = |states: &States| l2_normalize(&self.project(states)?, NORM_EPS);
        embed_images(&self.image, images, options, self.dim, pool)
    }

    /// [`embed_images`](Self::embed_images) before vectors are brought to length 1.
    ///
    /// # Errors
    /// As [`embed_images`](Self::embed_images).
    pub fn embed_images_raw(
        &self,
        images: &[Pixels],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        let pool = |states: &States| self.project(states);
        embed_images(&self.image, images, options, self.dim, pool)
    }

    /// A vector of length 1 for each token of each text, in the common space: what word-to-patch alignment compares
    /// (Yao et al., arXiv:2111.07783).
    ///
    /// # Errors
    /// As [`embed_texts`](Self::embed_texts); [`Error::Unsupported`] for a model whose text vector is no token's (CoCa).
    pub fn embed_text_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<TokenVectors> {
        if !self.text.takes_a_token() {
            return Err(self.unsupported("tokens"));
        }
        self.text.embed_tokens(texts, options, |x| l2_normalize(&x, NORM_EPS))
    }

    fn unsupported(&self, of: &str) -> Error {
        let what = format!("vectors of {of} of {}", self.image.config.name);
        Error::Unsupported { what, device: self.device().name() }
    }

    /// A vector of length 1 for each patch of each image, in the common space: \[images, grid, [`dim`](Self::dim)\] with the
    /// patches row by row. The images are of one size.
    ///
    /// # Errors
    /// As [`embed_images`](Self::embed_images); [`Error::Argument`] if sizes differ, [`Error::Unsupported`] for a model whose image
    /// vector is no projection of a token (SigLIP's and CoCa's attention heads).
    pub fn embed_image_patches(&self, images: &[Pixels]) -> Result<ImageTokens> {
        let takes = self.image.takes_a_token();
        let Some(projection) = self.projection.as_ref().filter(|_| takes) else {
            return Err(self.unsupported("patches"));
        };
        let mut out = embed_tokens(&self.image, images, self.dim, |states| {
            let normed = self.image.normed(states)?;
            l2_normalize(&projection.apply(&normed, Activation::None, None)?, NORM_EPS)
        })?;
        let (leading, length, dim) = (out.leading, out.length, out.dim);
        let patches = out.tokens.chunks(length * dim).flat_map(|image| &image[leading * dim..]);
        out.tokens = patches.copied().collect();
        (out.leading, out.length) = (0, length - leading);
        Ok(out)
    }

    fn project(&self, states: &States) -> Result<Tensor> {
        let vector = self.image.vector(states)?;
        match &self.projection {
            Some(projection) => projection.apply(&vector, Activation::None, None),
            None => Ok(vector),
        }
    }
}

/// A projection to the common space, \[dim, columns\], stored so or transposed.
fn projection(
    loader: &Loader<'_>,
    name: &str,
    names: &Names,
    dim: usize,
    columns: usize,
) -> Result<Linear> {
    let base = if names.own_image { &loader.root } else { &loader.prefix };
    projected(loader, &format!("{base}{name}"), names.transposed, names.bias, dim, columns)
}

/// A linear map by its full name; a transposed one is a bare matrix.
fn projected(
    loader: &Loader<'_>,
    name: &str,
    transposed: bool,
    bias: bool,
    dim: usize,
    columns: usize,
) -> Result<Linear> {
    if !transposed {
        return loader.linear(name, dim, columns, bias);
    }
    let values = loader.weights.floats(name, &[columns, dim])?;
    let turned: Vec<f32> =
        (0..dim).flat_map(|j| values.iter().skip(j).step_by(dim).copied()).collect();
    let weight = Tensor::from_f32(loader.device, loader.dtype, &[dim, columns], &turned)?;
    Linear::new(&weight, None)
}

impl std::fmt::Debug for DualEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.image.config;
        f.debug_struct("DualEncoder")
            .field("folder", &config.file.parent())
            .field("architecture", &config.name)
            .field("dim", &self.dim)
            .field("scoring", &self.scoring)
            .field("device", &self.image.device)
            .finish()
    }
}
