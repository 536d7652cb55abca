//! Cross-encoders over images: whether a text fits an image, read together.

use std::path::Path;

use super::{check_pairs, distinct};
use crate::images::Pixels;
use crate::models::config::{model_type, read_config};
use crate::models::dual::blip;
use crate::models::layers::{Context, Linear, Loader};
use crate::models::modules::Reading;
use crate::models::text::Encoder;
use crate::models::tokenizer::Tokenizer;
use crate::models::vision::{self, Tower};
use crate::models::weights::Weights;
use crate::models::{EmbedOptions, check_dtype};
use crate::ops::embed::gather_rows;
use crate::ops::gemm::Activation;
use crate::ops::pool::{Pooling, pool};
use crate::{DType, Device, Error, Offsets, Result, Tensor};

/// Logits of a pair: it does not fit, it does.
const CLASSES: usize = 2;

/// A cross-encoder that scores a text with an image: BLIP's image-text matching head (Li et al., arXiv:2201.12086). The text's
/// tokens attend to the image's in every layer.
pub struct ImageCrossEncoder {
    text: Encoder,
    tokenizer: Tokenizer,
    image: Tower,
    head: Linear,
}

/// The hidden states of images, encoded once for all texts they are scored with.
pub struct EncodedImages {
    states: Tensor,
    tokens: usize,
    count: usize,
}

impl EncodedImages {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The rows of the states of some images, one image after the other.
    fn rows(&self, images: impl Iterator<Item = usize>) -> Vec<u32> {
        images.flat_map(|i| i * self.tokens..(i + 1) * self.tokens).map(|row| row as u32).collect()
    }
}

impl ImageCrossEncoder {
    /// Loads a folder with a `BlipForImageTextRetrieval`. Matrices and embedding tables are kept as `dtype`.
    ///
    /// # Errors
    /// As [`DualEncoder::load`](crate::models::DualEncoder::load).
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<ImageCrossEncoder> {
        check_dtype(dtype)?;
        let (json, file) = read_config(folder)?;
        let bad = |problem: String| Error::Config { file: file.clone(), problem };
        let name = model_type(&json).map_err(bad)?;
        if name != "blip" {
            return Err(bad(format!(
                "no cross-encoder of texts and images is known for '{name}' (model_type); known is blip"
            )));
        }
        let parts = blip::FAMILY.read(&json, &file)?;
        let weights = Weights::open(folder)?;
        let text = Loader::new(&weights, &parts.text, device, dtype)?;
        let hidden = parts.text.parts.shape.hidden;
        let head = text.linear(&format!("{}itm_head", text.root), CLASSES, hidden, true)?;
        let tokenizer = Tokenizer::open(folder, &parts.text, &Reading::open(folder)?)?;
        let image = vision::loader(&weights, &parts.image, device, dtype)?;
        Ok(ImageCrossEncoder {
            text: Encoder::load(parts.text, &text)?,
            tokenizer,
            image: Tower::load(parts.image, &image)?,
            head,
        })
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.image.device
    }

    /// Height and width of the images that the model was trained on.
    pub fn image_size(&self) -> [usize; 2] {
        self.image.config.parts.image
    }

    /// Encodes images of one size; their states stay on the device, `4 H` bytes a token.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are none, sizes differ or one is smaller than a patch; [`Error::OutOfMemory`].
    pub fn encode(&self, images: &[Pixels]) -> Result<EncodedImages> {
        let Some(first) = images.first() else {
            return Err(Error::argument("images", "at least one", "none"));
        };
        let size = (first.height, first.width);
        if let Some(other) = images.iter().find(|i| (i.height, i.width) != size) {
            let got = format!("{:?}", (other.height, other.width));
            return Err(Error::argument("size of an image", format!("{size:?}"), got));
        }
        let states = self.image.forward(&images.iter().collect::<Vec<_>>())?;
        let (tokens, count) = (states.offsets.max_len(), images.len());
        Ok(EncodedImages { states: states.states, tokens, count })
    }

    /// The logits of each pair of a text and an image, given by their numbers: \[pairs, 2\], that it does not fit and that it
    /// does, in the caller's order.
    ///
    /// # Errors
    /// [`Error::Argument`] if a number names no text or image; as [`TextEncoder::embed`](crate::models::TextEncoder::embed).
    pub fn score<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        images: &EncodedImages,
        pairs: &[(usize, usize)],
    ) -> Result<Vec<f32>> {
        check_pairs(pairs, texts.len(), images.len())?;
        let encoded = self.tokenizer.texts(texts)?;
        let longest = encoded.iter().map(|text| text.ids.len()).max().unwrap_or(1);
        let budget = EmbedOptions::default().budget(self.device());
        // Images have more tokens than texts, so that they decide how many pairs there is room for.
        let batch = (budget / longest.max(images.tokens)).max(1);
        let mut logits = Vec::with_capacity(pairs.len() * CLASSES);
        for pairs in pairs.chunks(batch) {
            // Keys and values are made of the images that these pairs have, each once.
            let used = distinct(pairs.iter().map(|&(_, image)| image));
            let states = gather_rows(&images.states, &images.rows(used.iter().copied()))?;
            let places = pairs.iter().map(|(_, image)| used.partition_point(|u| u < image));
            let rows = images.rows(places);
            let offsets = Offsets::from_lengths(self.device(), &vec![images.tokens; pairs.len()])?;
            let context = Context { states: &states, rows: Some(&rows), offsets: &offsets };
            let members = pairs.iter().map(|&(text, _)| text).collect();
            let hidden = self.text.forward(&encoded, members, Some(context))?;
            let first = pool(&hidden.states, &hidden.offsets, Pooling::Cls, None)?;
            logits.extend(self.head.apply(&first, Activation::None, None)?.to_vec::<f32>()?);
        }
        Ok(logits)
    }
}

impl std::fmt::Debug for ImageCrossEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageCrossEncoder")
            .field("folder", &self.image.config.file.parent())
            .field("device", &self.image.device)
            .finish()
    }
}
