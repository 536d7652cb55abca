//! Cross-encoders over images: whether a text fits an image, read together.

use std::ops::Range;
use std::path::Path;

use super::vilt::{self, Joint};
use super::{check_pairs, distinct};
use crate::images::Pixels;
use crate::models::config::{TextConfig, model_type, read_config};
use crate::models::dual::blip;
use crate::models::layers::{Context, Linear, Loader, Norm, NormKind};
use crate::models::modules::Reading;
use crate::models::text::Encoder;
use crate::models::tokenizer::{Encoded, Tokenizer};
use crate::models::vision::config::VisionConfig;
use crate::models::vision::{self, Tower};
use crate::models::weights::Weights;
use crate::models::{EmbedOptions, check_dtype};
use crate::ops::embed::{gather_rows, scatter_rows, sum};
use crate::ops::gemm::Activation;
use crate::ops::math::LANES;
use crate::ops::pool::{Pooling, pool};
use crate::{DType, Device, Error, Offsets, Result, Tensor};

/// The logits of BLIP's head.
const BLIP_LABELS: [&str; 2] = ["no match", "match"];
/// The logit of ViLT's retrieval head.
const VILT_LABELS: [&str; 1] = ["match"];
/// Every architecture that is known.
pub(crate) const NAMES: [&str; 2] = ["blip", vilt::NAME];

/// A cross-encoder of texts and images. BLIP's image-text matching head (Li et al., arXiv:2201.12086): a text's tokens attend to
/// the image's in every layer; two logits, that they do not match and that they do. ViLT (Kim et al., arXiv:2102.03334): one
/// transformer reads both; one logit of a match (retrieval), or one for each answer to the text, a question.
pub struct ImageCrossEncoder {
    text: Encoder,
    tokenizer: Tokenizer,
    image: Tower,
    meeting: Meeting,
    head: Head,
    labels: Vec<String>,
}

/// How a text and an image meet.
enum Meeting {
    /// The text's layers attend to the image's states.
    Context,
    Joint(Box<Joint>),
}

/// `out x`, or `out gelu(norm(inner x))`.
struct Head {
    inner: Option<(Linear, Norm)>,
    out: Linear,
}

impl Head {
    /// One map, by its name beside the encoder.
    fn linear(loader: &Loader<'_>, name: &str, text: &TextConfig, labels: usize) -> Result<Head> {
        let name = format!("{}{name}", loader.root);
        let out = loader.linear(&name, labels, text.parts.shape.hidden, true)?;
        Ok(Head { inner: None, out })
    }

    /// ViLT's for questions, whose norm has torch's own epsilon.
    fn answers(loader: &Loader<'_>, text: &TextConfig) -> Result<Head> {
        let full = |part: usize| format!("{}classifier.{part}", loader.root);
        let hidden = text.parts.shape.hidden;
        let inner = loader.linear(&full(0), 2 * hidden, hidden, true)?;
        let norm = loader.norm(&full(1), NormKind::Layer, 2 * hidden, 1e-5)?;
        let out = loader.linear(&full(3), text.labels.len(), 2 * hidden, true)?;
        Ok(Head { inner: Some((inner, norm)), out })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let Some((inner, norm)) = &self.inner else {
            return self.out.apply(x, Activation::None, None);
        };
        let x = norm.apply(&inner.apply(x, Activation::None, None)?)?;
        // A row for each pair: too few for a kernel of their own.
        let mut values = x.to_vec::<f32>()?;
        Activation::Gelu.apply(LANES, &mut values);
        let x = Tensor::from_slice(x.device(), x.shape(), &values)?;
        self.out.apply(&x, Activation::None, None)
    }
}

/// What is known of images before the texts, encoded once for all that they are scored with.
pub struct EncodedImages {
    states: Tensor,
    /// The rows of each image.
    rows: Vec<Range<usize>>,
}

impl EncodedImages {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The states of the images that some pairs have, each image once, and the rows of each pair's.
    fn of(&self, pairs: &[(usize, usize)]) -> Result<(Tensor, Vec<Range<usize>>)> {
        let used = distinct(pairs.iter().map(|&(_, image)| image));
        let rows = used.iter().flat_map(|&i| self.rows[i].clone()).map(|row| row as u32);
        let states = gather_rows(&self.states, &rows.collect::<Vec<_>>())?;
        let mut start = 0;
        let mut places = Vec::with_capacity(used.len());
        for &i in &used {
            places.push(start..start + self.rows[i].len());
            start += self.rows[i].len();
        }
        let place =
            |&(_, image): &(usize, usize)| places[used.partition_point(|u| *u < image)].clone();
        Ok((states, pairs.iter().map(place).collect()))
    }
}

impl ImageCrossEncoder {
    /// Loads a folder with a `BlipForImageTextRetrieval`, `ViltForImageAndTextRetrieval` or `ViltForQuestionAnswering`. Matrices
    /// and embedding tables are kept as `dtype`.
    ///
    /// # Errors
    /// As [`DualEncoder::load`](crate::models::DualEncoder::load); [`Error::Weights`] if there is no head.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<ImageCrossEncoder> {
        check_dtype(dtype)?;
        let (json, file) = read_config(folder)?;
        let bad = |problem: String| Error::Config { file: file.clone(), problem };
        let from = Source { folder, weights: &Weights::open(folder)?, device, dtype };
        match model_type(&json).map_err(bad)? {
            "blip" => {
                let parts = blip::FAMILY.read(&json, &file)?;
                from.load(parts.text, parts.image, |text, loader| {
                    let head = Head::linear(loader, "itm_head", text, BLIP_LABELS.len())?;
                    Ok((Meeting::Context, head, BLIP_LABELS.map(Into::into).to_vec()))
                })
            }
            vilt::NAME => {
                let (text, image, joint) = vilt::parse(&json, &file)?;
                from.load(text, image, |text, loader| {
                    let meeting = Meeting::Joint(Joint::load(loader, &joint)?.into());
                    let answers = format!("{}classifier.3.weight", loader.root);
                    if loader.weights.has(&answers) {
                        return Ok((meeting, Head::answers(loader, text)?, text.labels.clone()));
                    }
                    let head = Head::linear(loader, "rank_output", text, VILT_LABELS.len())?;
                    Ok((meeting, head, VILT_LABELS.map(Into::into).to_vec()))
                })
            }
            other => {
                let known = NAMES.join(", ");
                Err(bad(format!(
                    "no cross-encoder of texts and images is known for '{other}' (model_type); known are {known}"
                )))
            }
        }
    }

    /// What the logits of a pair stand for.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.image.device
    }

    /// Height and width of the images that the model was trained on.
    pub fn image_size(&self) -> [usize; 2] {
        self.image.config.parts.image
    }

    /// Encodes images, which may differ in size; what comes of them stays on the device, `4 H` bytes a token.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are none or one is smaller than a patch; [`Error::OutOfMemory`].
    pub fn encode(&self, images: &[Pixels]) -> Result<EncodedImages> {
        if images.is_empty() {
            return Err(Error::argument("images", "at least one", "none"));
        }
        let size = |image: &Pixels| (image.height, image.width);
        let mut sizes: Vec<(usize, usize)> = images.iter().map(size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let (mut parts, mut rows, mut total) = (Vec::new(), vec![0..0; images.len()], 0);
        for of in sizes {
            let members = || images.iter().enumerate().filter(|(_, image)| size(image) == of);
            let images: Vec<&Pixels> = members().map(|(_, image)| image).collect();
            let states = self.image.forward(&images)?;
            let tokens = states.offsets.max_len();
            for (i, _) in members() {
                rows[i] = total..total + tokens;
                total += tokens;
            }
            parts.push(states.states);
        }
        Ok(EncodedImages { states: stack(parts, total)?, rows })
    }

    /// The logits of each pair of a text and an image, given by their numbers: \[pairs, labels\] in the caller's order.
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
        let encoded = self.tokenizer.texts("", texts)?;
        let text = encoded.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let image = images.rows.iter().map(Range::len).max().unwrap_or(0);
        let longest = match &self.meeting {
            Meeting::Context => text.max(image),
            Meeting::Joint(_) => text + image,
        };
        let batch = (EmbedOptions::default().budget(self.device()) / longest.max(1)).max(1);
        let mut logits = Vec::with_capacity(pairs.len() * self.labels.len());
        for pairs in pairs.chunks(batch) {
            let vectors = self.vectors(&encoded, images, pairs)?;
            logits.extend(self.head.apply(&vectors)?.to_vec::<f32>()?);
        }
        Ok(logits)
    }

    /// What the head reads of each pair: \[pairs, H\].
    fn vectors(
        &self,
        texts: &[Encoded],
        images: &EncodedImages,
        pairs: &[(usize, usize)],
    ) -> Result<Tensor> {
        let members = pairs.iter().map(|&(text, _)| text).collect();
        if let Meeting::Joint(joint) = &self.meeting {
            let places: Vec<_> = pairs.iter().map(|&(_, i)| images.rows[i].clone()).collect();
            return joint.pooled(
                &self.text.forward(texts, members, None)?,
                &images.states,
                &places,
            );
        }
        let (states, places) = images.of(pairs)?;
        let lengths: Vec<usize> = places.iter().map(Range::len).collect();
        let offsets = &Offsets::from_lengths(self.device(), &lengths)?;
        let rows: Vec<u32> = places.into_iter().flatten().map(|row| row as u32).collect();
        let context = Context { states: &states, rows: Some(&rows), offsets };
        let hidden = self.text.forward(texts, members, Some(context))?;
        pool(&hidden.states, &hidden.offsets, Pooling::Cls, None)
    }
}

/// What a checkpoint is read from, and onto.
struct Source<'a> {
    folder: &'a Path,
    weights: &'a Weights,
    device: &'a Device,
    dtype: DType,
}

impl Source<'_> {
    /// Both halves, and what `rest` makes of the text's configuration and weights.
    fn load(
        &self,
        text: TextConfig,
        image: VisionConfig,
        rest: impl FnOnce(&TextConfig, &Loader<'_>) -> Result<(Meeting, Head, Vec<String>)>,
    ) -> Result<ImageCrossEncoder> {
        let &Source { folder, weights, device, dtype } = self;
        let loader = Loader::new(weights, &text, device, dtype)?;
        let (meeting, head, labels) = rest(&text, &loader)?;
        let tokenizer = Tokenizer::open(folder, &text, &Reading::open(folder)?, device.threads())?;
        let tower = vision::loader(weights, &image, device, dtype)?;
        Ok(ImageCrossEncoder {
            text: Encoder::load(text, &loader)?,
            image: Tower::load(image, &tower)?,
            tokenizer,
            meeting,
            head,
            labels,
        })
    }
}

/// Matrices of one width one below the other.
fn stack(parts: Vec<Tensor>, total: usize) -> Result<Tensor> {
    let mut start = 0;
    let mut placed = parts.into_iter().map(|part| {
        let rows: Vec<u32> = (start..start + part.shape()[0]).map(|row| row as u32).collect();
        start += rows.len();
        match rows.len() == total {
            true => Ok(part),
            false => scatter_rows(&part, &rows, total),
        }
    });
    let first = placed.next().unwrap_or_else(|| unreachable!("there is an image"))?;
    placed.try_fold(first, |all, part| sum(&all, &part?))
}

impl std::fmt::Debug for ImageCrossEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageCrossEncoder")
            .field("folder", &self.image.config.file.parent())
            .field("device", &self.image.device)
            .finish()
    }
}
