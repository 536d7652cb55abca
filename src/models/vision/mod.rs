//! Image encoders: pixels to vectors.

mod blip;
mod clip;
pub(crate) mod config;
mod deit;
mod dinov2;
pub(crate) mod family;
mod heads;
mod siglip;
mod tower;
mod vit;

use std::path::Path;

pub(crate) use tower::{States, Tower};

/// What dual encoders are made of.
pub(crate) use blip::FAMILY as BLIP;
pub(crate) use clip::{FAMILY as CLIP, NAMES as CLIP_NAMES};
pub(crate) use siglip::FAMILY as SIGLIP;
pub(crate) use vit::FAMILY as VIT;

use super::config::read_config;
use super::layers::Loader;
use super::waiting::Rows;
use super::weights::Weights;
use super::{EmbedOptions, Embeddings, Inspect, Inspection, check_dtype};
use crate::images::Pixels;
use crate::ops::embed::{scatter_rows, sum};
use crate::{DType, Device, Error, Result, Tensor};
use config::VisionConfig;

/// Which vector stands for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImagePooling {
    /// What the model itself gives: its pooler's (ViT, DeiT, where the checkpoint has one), its attention head's (SigLIP), else
    /// the class token's; `pooler_output` in transformers.
    #[default]
    Own,
    /// The last hidden state of the class token.
    Cls,
    /// The mean of the last hidden states of all patches.
    Mean,
    /// Class token and mean one behind the other, 2 H columns, as DINOv2's linear classifiers read them.
    ClsAndMean,
}

/// An image encoder: ViT, DeiT, DINOv2, and the image halves of CLIP and SigLIP.
pub struct ImageEncoder {
    tower: Tower,
    pooling: ImagePooling,
}

/// The last hidden state of every token of an image.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImageTokens {
    /// \[images, tokens, H\]: class and other leading tokens, then the patches row by row.
    pub tokens: Vec<f32>,
    /// Tokens of an image.
    pub length: usize,
    /// Tokens before the patches.
    pub leading: usize,
    /// Patches down and across.
    pub grid: [usize; 2],
    /// Columns of a state.
    pub dim: usize,
}

impl ImageEncoder {
    /// Loads a folder. Matrices are kept as `dtype` (f32, f16 or bf16), biases, norms and positions as f32; activations are f32.
    ///
    /// # Errors
    /// [`Error::Config`] for what is unknown or out of range; [`Error::Weights`] if a tensor is missing, damaged, of another
    /// shape or not finite, [`Error::Io`] with the file, [`Error::OutOfMemory`] if the device is full.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<ImageEncoder> {
        check_dtype(dtype)?;
        let (json, file) = read_config(folder)?;
        let config = VisionConfig::parse(&json, &file)?;
        let weights = Weights::open(folder)?;
        let loader = loader(&weights, &config, device, dtype)?;
        let tower = Tower::load(config, &loader)?;
        Ok(ImageEncoder { tower, pooling: ImagePooling::Own })
    }

    /// The same encoder with another vector for an image.
    ///
    /// # Errors
    /// [`Error::Argument`] for the class token of a model that has none (SigLIP).
    pub fn with_pooling(mut self, pooling: ImagePooling) -> Result<ImageEncoder> {
        let classless = self.tower.config.layout().tokens.is_empty();
        if classless && matches!(pooling, ImagePooling::Cls | ImagePooling::ClsAndMean) {
            let expected = format!("Own or Mean for {}", self.tower.config.name);
            return Err(Error::argument("pooling", expected, format!("{pooling:?}")));
        }
        self.pooling = pooling;
        Ok(self)
    }

    /// Width of an image's vector.
    pub fn dim(&self) -> usize {
        match self.pooling {
            ImagePooling::Own => self.tower.width(),
            ImagePooling::Cls | ImagePooling::Mean => self.tower.hidden(),
            ImagePooling::ClsAndMean => 2 * self.tower.hidden(),
        }
    }

    /// How many layers the model has.
    pub fn layers(&self) -> usize {
        self.tower.config.parts.shape.layers
    }

    /// Height and width of the images that the model was trained on. Others are read with interpolated positions.
    pub fn image_size(&self) -> [usize; 2] {
        self.tower.config.parts.image
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.tower.device
    }

    /// A vector for each image: \[images, [`dim`](Self::dim)\] in the caller's order. Images may differ in size; where one is not
    /// of [`image_size`](Self::image_size), positions are interpolated as transformers' `interpolate_pos_encoding` does.
    ///
    /// # Errors
    /// [`Error::Argument`] if an image is smaller than a patch or its values are not those of its size,
    /// [`Error::OutOfMemory`] if the device is full, [`Error::DeviceLost`] if it is gone.
    pub fn embed(&self, images: &[Pixels], options: &EmbedOptions<'_>) -> Result<Embeddings> {
        let pooled = |states: &States| self.pool(states);
        embed_images(&self.tower, images, options, self.dim(), pooled)
    }

    /// The last hidden states of all tokens of images of one size.
    ///
    /// # Errors
    /// As [`embed`](Self::embed); [`Error::Argument`] if sizes differ.
    pub fn embed_tokens(&self, images: &[Pixels]) -> Result<ImageTokens> {
        let dim = self.tower.hidden();
        embed_tokens(&self.tower, images, dim, |states| Ok(states.states.clone()))
    }

    /// Hidden states of layers, and how tokens attend to each other, in images of one size. The row of the class token in the last
    /// layer's attention shows what an image's vector is made of (Caron et al., arXiv:2104.14294).
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no such layer; as [`embed_tokens`](Self::embed_tokens).
    pub fn inspect(&self, images: &[Pixels], what: Inspect<'_>) -> Result<Inspection> {
        self.tower.inspect(images, what)
    }

    fn pool(&self, states: &States) -> Result<Tensor> {
        match self.pooling {
            ImagePooling::Own => self.tower.vector(states),
            ImagePooling::Cls => self.tower.first(states),
            ImagePooling::Mean => self.tower.patch_mean(states),
            ImagePooling::ClsAndMean => {
                side_by_side(&self.tower.first(states)?, &self.tower.patch_mean(states)?)
            }
        }
    }
}

/// Finds the encoder in a checkpoint.
pub(crate) fn loader<'a>(
    weights: &'a Weights,
    config: &VisionConfig,
    device: &'a Device,
    dtype: DType,
) -> Result<Loader<'a>> {
    let layout = config.layout();
    let prefix = weights.prefix(&format!("{}.weight", layout.patch))?;
    let root = prefix.strip_suffix(layout.prefix).unwrap_or(&prefix).to_string();
    Ok(Loader { weights, device, dtype, prefix, root })
}

/// Runs images in batches of one size and puts what `pool` makes of each batch where the caller expects it.
pub(crate) fn embed_images(
    tower: &Tower,
    images: &[Pixels],
    options: &EmbedOptions<'_>,
    dim: usize,
    pool: impl Fn(&States) -> Result<Tensor>,
) -> Result<Embeddings> {
    let mut sizes: Vec<[usize; 2]> = Vec::with_capacity(images.len());
    for image in images {
        sizes.push(tower.grid(image.height, image.width)?);
    }
    let mut order: Vec<usize> = (0..images.len()).collect();
    // The largest first, so that a failure for want of memory comes at once.
    order.sort_by_key(|&i| std::cmp::Reverse((sizes[i], images[i].height, images[i].width)));
    let mut values = vec![0.0; images.len() * dim];
    let report = |done| options.report(done);
    let mut rows = Rows::new(&mut values, dim, &report);
    let mut tokens = 0;
    let same = |a: &usize, b: &usize| {
        (images[*a].height, images[*a].width) == (images[*b].height, images[*b].width)
    };
    for group in order.chunk_by(same) {
        let [down, across] = sizes[group[0]];
        let length = tower.before() + down * across;
        tokens += length * group.len();
        let most = (options.image_budget(&tower.device) / length).max(1);
        // Of one size, so that none is too small to fill a device.
        let batches = group.len().div_ceil(most);
        for members in group.chunks(group.len().div_ceil(batches)) {
            let batch: Vec<&Pixels> = members.iter().map(|&i| &images[i]).collect();
            rows.put(pool(&tower.forward(&batch)?)?, members.to_vec())?;
        }
    }
    rows.finish()?;
    Ok(Embeddings { values, dim, tokens })
}

/// What `finish` makes of the tokens of images of one size, `dim` columns each.
pub(crate) fn embed_tokens(
    tower: &Tower,
    images: &[Pixels],
    dim: usize,
    finish: impl Fn(&States) -> Result<Tensor>,
) -> Result<ImageTokens> {
    let leading = tower.before();
    if images.is_empty() {
        return Ok(ImageTokens { tokens: Vec::new(), length: leading, leading, grid: [0, 0], dim });
    }
    let grid = tower.shared_grid(images)?;
    let length = leading + grid[0] * grid[1];
    let mut tokens = Vec::with_capacity(images.len() * length * dim);
    for images in images.chunks(tower.batch(length)) {
        let states = tower.forward(&images.iter().collect::<Vec<_>>())?;
        tokens.extend(finish(&states)?.to_vec::<f32>()?);
    }
    Ok(ImageTokens { tokens, length, leading, grid, dim })
}

/// Two matrices \[N, H\] as one \[N, 2 H\].
fn side_by_side(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, width) = (a.shape()[0], a.shape()[1]);
    let every_other =
        |first: u32| -> Vec<u32> { (0..rows as u32).map(|i| 2 * i + first).collect() };
    let a = scatter_rows(a, &every_other(0), 2 * rows)?;
    let b = scatter_rows(b, &every_other(1), 2 * rows)?;
    sum(&a, &b)?.reshape(&[rows, 2 * width])
}

impl std::fmt::Debug for ImageEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.tower.config;
        f.debug_struct("ImageEncoder")
            .field("folder", &config.file.parent())
            .field("architecture", &config.name)
            .field("dim", &self.dim())
            .field("layers", &config.parts.shape.layers)
            .field("pooling", &self.pooling)
            .field("device", &self.tower.device)
            .finish()
    }
}
