//! Cross-encoders over regions: a text and the objects that a detector found in an image, read together.

use std::path::Path;

use super::lxmert::{Config, EPS, Lxmert, NAME, Side};
use super::{check_pairs, distinct};
use crate::models::config::{model_type, read_config};
use crate::models::layers::{Linear, Loader, Norm, NormKind};
use crate::models::modules::Reading;
use crate::models::tokenizer::{Encoded, Tokenizer};
use crate::models::waiting::Rows;
use crate::models::weights::Weights;
use crate::models::{EmbedOptions, Embeddings, Prompts, check_dtype};
use crate::ops::embed::gather_rows;
use crate::ops::gemm::Activation;
use crate::{DType, Device, Error, Offsets, Result, Tensor};

/// The classes of the matching head.
const MATCHING: [&str; 2] = ["mismatched", "matched"];

/// The regions of an image, as a detector gives them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Regions {
    /// \[n, [`feature_dim`](RegionCrossEncoder::feature_dim)\]: what the detector sees in each region; n is at least 1.
    pub features: Vec<f32>,
    /// \[n, [`box_dim`](RegionCrossEncoder::box_dim)\]: where each region is; for LXMERT left, top, right and bottom as parts
    /// of the image's width and height.
    pub boxes: Vec<f32>,
}

/// What the logits of a pair are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionHead {
    /// Whether the text fits the image: two classes, that it does not and that it does.
    Matching,
    /// The answer to the question that the text is.
    Answers,
}

/// A cross-encoder of a text with regions of an image: LXMERT (Tan, Bansal, arXiv:1908.07490). Words and regions pass through
/// layers of their own, and then through layers in which each attends to the other.
pub struct RegionCrossEncoder {
    model: Lxmert,
    tokenizer: Tokenizer,
    features: usize,
    boxes: usize,
    heads: Vec<Head>,
    /// Which of the heads; none where the checkpoint has none.
    chosen: Option<usize>,
}

/// `logits = out norm(gelu(dense pooled))`, or of the pooled vector alone.
struct Head {
    kind: RegionHead,
    inner: Option<(Linear, Norm)>,
    out: Linear,
    labels: Vec<String>,
}

impl Head {
    /// The heads that a checkpoint has.
    fn load(config: &Config, loader: &Loader<'_>) -> Result<Vec<Head>> {
        let (hidden, mut heads) = (config.text.parts.shape.hidden, Vec::new());
        let has = |name: &str| loader.weights.has(&format!("{name}.weight"));
        let matching = format!("{}cls.seq_relationship", loader.root);
        if has(&matching) {
            heads.push(Head {
                kind: RegionHead::Matching,
                inner: None,
                out: loader.linear(&matching, MATCHING.len(), hidden, true)?,
                labels: MATCHING.map(Into::into).into(),
            });
        }
        let part = |i: usize| format!("{}answer_head.logit_fc.{i}", loader.root);
        if [0, 2, 3].iter().any(|&i| has(&part(i))) {
            let inner = 2 * hidden;
            let dense = loader.linear(&part(0), inner, hidden, true)?;
            let norm = loader.norm(&part(2), NormKind::Layer, inner, EPS)?;
            heads.push(Head {
                kind: RegionHead::Answers,
                inner: Some((dense, norm)),
                out: loader.linear(&part(3), config.answers, inner, true)?,
                labels: config.answers(),
            });
        }
        Ok(heads)
    }

    fn logits(&self, pooled: Tensor) -> Result<Tensor> {
        let x = match &self.inner {
            Some((dense, norm)) => norm.apply(&dense.apply(&pooled, Activation::Gelu, None)?)?,
            None => pooled,
        };
        self.out.apply(&x, Activation::None, None)
    }
}

/// The last hidden states of both sides of pairs, and a vector for each, in the caller's order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PairStates {
    /// \[tokens, dim\]: the states of the texts' tokens, special ones included, pair after pair.
    pub words: Vec<f32>,
    /// \[pairs + 1\]: pair `i` owns the tokens `word_offsets[i]..word_offsets[i + 1]`.
    pub word_offsets: Vec<i64>,
    /// \[tokens\]: the token ids.
    pub ids: Vec<u32>,
    /// \[regions, dim\]: the states of the images' regions, pair after pair.
    pub regions: Vec<f32>,
    /// \[pairs + 1\]: pair `i` owns the regions `region_offsets[i]..region_offsets[i + 1]`.
    pub region_offsets: Vec<i64>,
    /// \[pairs, dim\]: what [`RegionCrossEncoder::embed`] gives.
    pub pooled: Vec<f32>,
    /// Width of a state and of a vector.
    pub dim: usize,
}

/// What the model made of some pairs.
struct Batch {
    words: Side,
    regions: Side,
    /// \[pairs, H\].
    pooled: Tensor,
    /// The numbers of the pairs.
    places: std::ops::Range<usize>,
}

impl RegionCrossEncoder {
    /// Loads a folder with an `LxmertModel`, `LxmertForPreTraining` or `LxmertForQuestionAnswering`. Matrices and embedding
    /// tables are kept as `dtype` (f32, f16 or bf16), biases and norms as f32; activations are f32.
    ///
    /// Logits are those of the matching head where there is one, else of the answer head; see [`with_head`](Self::with_head).
    /// A text is cut as by [`TextEncoder::load`](crate::models::TextEncoder::load).
    ///
    /// # Errors
    /// [`Error::Config`] for another architecture, an unknown activation or a size out of range; [`Error::Weights`] if a tensor
    /// is missing, damaged, of another shape or not finite; [`Error::Tokenizer`], [`Error::Io`] with the file,
    /// [`Error::OutOfMemory`] if the device is full, [`Error::Argument`] if `dtype` is no float.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<RegionCrossEncoder> {
        check_dtype(dtype)?;
        let (json, file) = read_config(folder)?;
        let bad = |problem: String| Error::Config { file: file.clone(), problem };
        let name = model_type(&json).map_err(bad)?;
        if name != NAME {
            return Err(bad(format!(
                "no cross-encoder of texts and regions is known for '{name}' (model_type); known is {NAME}"
            )));
        }
        let config = Config::parse(&json, &file)?;
        let tokenizer =
            Tokenizer::open(folder, &config.text, &Reading::open(folder)?, device.threads())?;
        let weights = Weights::open(folder)?;
        let loader = Loader::new(&weights, &config.text, device, dtype)?;
        let heads = Head::load(&config, &loader)?;
        Ok(RegionCrossEncoder {
            tokenizer,
            features: config.features,
            boxes: config.boxes,
            chosen: (!heads.is_empty()).then_some(0),
            heads,
            model: Lxmert::load(config, &loader)?,
        })
    }

    /// The same model with the logits of another of its heads.
    ///
    /// # Errors
    /// [`Error::Argument`] if the checkpoint does not have this head, with those it has.
    pub fn with_head(mut self, head: RegionHead) -> Result<RegionCrossEncoder> {
        self.chosen = self.heads.iter().position(|h| h.kind == head);
        match self.chosen {
            Some(_) => Ok(self),
            None => {
                let known: Vec<RegionHead> = self.heads.iter().map(|h| h.kind).collect();
                let expected = format!("one of the checkpoint's heads, {known:?}");
                Err(Error::argument("head", expected, format!("{head:?}")))
            }
        }
    }

    /// What the logits are about; nothing where the checkpoint has no head.
    pub fn head(&self) -> Option<RegionHead> {
        self.chosen().map(|head| head.kind)
    }

    /// Names of the classes that logits are for: `mismatched` and `matched`, or the answers, which the configuration's `id2label`
    /// names where it has one for each; empty where the checkpoint has no head.
    pub fn labels(&self) -> &[String] {
        self.chosen().map_or(&[], |head| &head.labels)
    }

    fn chosen(&self) -> Option<&Head> {
        self.chosen.and_then(|i| self.heads.get(i))
    }

    /// Width of a vector and of a hidden state.
    pub fn dim(&self) -> usize {
        self.model.hidden()
    }

    /// Numbers that describe what is in a region.
    pub fn feature_dim(&self) -> usize {
        self.features
    }

    /// Numbers that describe where a region is.
    pub fn box_dim(&self) -> usize {
        self.boxes
    }

    /// Tokens, special ones included, at which a text is cut.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.limit()
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        self.model.device()
    }

    /// The token ids that each text becomes, special ones included.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a text is too long (see [memory](crate::models#memory)) or gives a token that the model does not have.
    pub fn token_ids<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        Ok(self.tokenizer.texts("", texts)?.into_iter().map(|e| e.ids).collect())
    }

    /// The raw logits of each pair of a text and an image, given by their numbers: \[pairs, labels\] f32 in the caller's order.
    /// Images may have different numbers of regions.
    ///
    /// # Errors
    /// [`Error::Argument`] if the checkpoint has no head, a number names no text or image, or an image has no region, features
    /// or boxes of another width than the model's, or not as many of one as of the other; [`Error::Tokenizer`] if a text gives a
    /// token that the model does not have, [`Error::OutOfMemory`] if the device is full, [`Error::DeviceLost`] if it is gone.
    pub fn score<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        images: &[Regions],
        pairs: &[(usize, usize)],
    ) -> Result<Vec<f32>> {
        self.score_with(texts, images, pairs, &EmbedOptions::default())
    }

    /// [`score`](Self::score) with a budget, in which a region counts as a token, and a report of progress.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn score_with<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        images: &[Regions],
        pairs: &[(usize, usize)],
        options: &EmbedOptions<'_>,
    ) -> Result<Vec<f32>> {
        let Some(head) = self.chosen() else {
            let expected = "a checkpoint with a matching or an answer head";
            return Err(Error::argument("model", expected, "one without"));
        };
        let width = head.labels.len();
        let mut logits = vec![0.0; pairs.len() * width];
        let report = |done| options.report(done);
        let mut rows = Rows::new(&mut logits, width, &report);
        self.run(&self.texts(texts, options)?, images, pairs, options, |batch| {
            rows.put(head.logits(batch.pooled)?, batch.places.collect())
        })?;
        rows.finish()?;
        Ok(logits)
    }

    /// A vector for each pair, LXMERT's pooled output: \[pairs, [`dim`](Self::dim)\] f32 in the caller's order. Its tokens are those
    /// of all pairs' texts.
    ///
    /// # Errors
    /// As [`score`](Self::score), but that no head is needed.
    pub fn embed<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        images: &[Regions],
        pairs: &[(usize, usize)],
        options: &EmbedOptions<'_>,
    ) -> Result<Embeddings> {
        let (dim, mut tokens) = (self.dim(), 0);
        let mut values = vec![0.0; pairs.len() * dim];
        let report = |done| options.report(done);
        let mut rows = Rows::new(&mut values, dim, &report);
        self.run(&self.texts(texts, options)?, images, pairs, options, |batch| {
            tokens += batch.words.offsets.total();
            rows.put(batch.pooled, batch.places.collect())
        })?;
        rows.finish()?;
        Ok(Embeddings { values, dim, tokens })
    }

    /// The last hidden states of each pair's tokens and regions besides its vector.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        images: &[Regions],
        pairs: &[(usize, usize)],
        options: &EmbedOptions<'_>,
    ) -> Result<PairStates> {
        let mut out = PairStates {
            words: Vec::new(),
            word_offsets: vec![0],
            ids: Vec::new(),
            regions: Vec::new(),
            region_offsets: vec![0],
            pooled: Vec::new(),
            dim: self.dim(),
        };
        let encoded = self.texts(texts, options)?;
        self.run(&encoded, images, pairs, options, |batch| {
            out.words.extend(batch.words.states.to_vec::<f32>()?);
            out.regions.extend(batch.regions.states.to_vec::<f32>()?);
            out.pooled.extend(batch.pooled.to_vec::<f32>()?);
            extend(&mut out.word_offsets, &batch.words.offsets);
            extend(&mut out.region_offsets, &batch.regions.offsets);
            options.report(batch.places.end);
            Ok(())
        })?;
        out.ids = pairs.iter().flat_map(|&(text, _)| &encoded[text].ids).copied().collect();
        Ok(out)
    }

    fn texts<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
    ) -> Result<Vec<Encoded>> {
        self.tokenizer.texts(Prompts::none().text(options.prompt)?, texts)
    }

    /// Runs pairs in batches, in order, and gives each batch to `each`.
    fn run(
        &self,
        texts: &[Encoded],
        images: &[Regions],
        pairs: &[(usize, usize)],
        options: &EmbedOptions<'_>,
        mut each: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        check_pairs(pairs, texts.len(), images.len())?;
        let counts = images.iter().enumerate().map(|(i, image)| self.count(i, image));
        let counts = counts.collect::<Result<Vec<usize>>>()?;
        let budget = options.budget(self.device());
        let mut start = 0;
        while start < pairs.len() {
            let mut room = budget;
            let fits = |&&(text, image): &&(usize, usize)| {
                let left = room.checked_sub(texts[text].ids.len() + counts[image]);
                room = left.unwrap_or(0);
                left.is_some()
            };
            let places = start..start + pairs[start..].iter().take_while(fits).count().max(1);
            start = places.end;
            each(self.batch(texts, images, &pairs[places.clone()], places)?)?;
        }
        Ok(())
    }

    /// One batch. Texts and images that several of its pairs have pass once through the layers of their own.
    fn batch(
        &self,
        texts: &[Encoded],
        images: &[Regions],
        pairs: &[(usize, usize)],
        places: std::ops::Range<usize>,
    ) -> Result<Batch> {
        let used = distinct(pairs.iter().map(|&(text, _)| text));
        let hidden = self.model.words.forward(texts, used.clone(), None)?;
        let words = Side { states: hidden.states, offsets: hidden.offsets };
        let words = each_pair(&words, &used, pairs.iter().map(|&(text, _)| text))?;
        let used = distinct(pairs.iter().map(|&(_, image)| image));
        let regions = self.model.regions(&used.iter().map(|&i| &images[i]).collect::<Vec<_>>())?;
        let regions = each_pair(&regions, &used, pairs.iter().map(|&(_, image)| image))?;
        let (words, regions) = self.model.meet(words, regions)?;
        Ok(Batch { pooled: self.model.pool(&words)?, words, regions, places })
    }

    /// How many regions an image has, checked.
    fn count(&self, i: usize, image: &Regions) -> Result<usize> {
        let count = image.features.len() / self.features;
        if count == 0 || !image.features.len().is_multiple_of(self.features) {
            let expected = format!("at least one region of {} numbers", self.features);
            let got = format!("{} numbers in image {i}", image.features.len());
            return Err(Error::argument("features", expected, got));
        }
        if count.checked_mul(self.boxes) != Some(image.boxes.len()) {
            let expected = format!("{count} boxes of {} numbers", self.boxes);
            let got = format!("{} numbers in image {i}", image.boxes.len());
            return Err(Error::argument("boxes", expected, got));
        }
        Ok(count)
    }
}

/// The states of the sequences that `members` names, out of those of the numbers `used`, which are in order.
fn each_pair(of: &Side, used: &[usize], members: impl Iterator<Item = usize>) -> Result<Side> {
    let (mut rows, mut lengths) = (Vec::new(), Vec::new());
    for member in members {
        let range = of.offsets.range(used.partition_point(|&u| u < member));
        lengths.push(range.len());
        rows.extend(range.map(|row| row as u32));
    }
    let offsets = Offsets::from_lengths(of.states.device(), &lengths)?;
    Ok(Side { states: gather_rows(&of.states, &rows)?, offsets })
}

/// Appends the bounds of another batch.
fn extend(bounds: &mut Vec<i64>, offsets: &Offsets) {
    let start = bounds.last().copied().unwrap_or(0);
    bounds.extend(offsets.bounds().iter().skip(1).map(|&bound| start + i64::from(bound)));
}

impl std::fmt::Debug for RegionCrossEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegionCrossEncoder")
            .field("folder", &self.model.words.config.file.parent())
            .field("head", &self.head())
            .field("labels", &self.labels().len())
            .field("device", self.device())
            .finish()
    }
}
