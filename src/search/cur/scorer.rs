//! Expensive scores of pairs, and where they come from.

use crate::models::{CrossEncoder, EncodedImages, ImageCrossEncoder};
use crate::{Error, Result};

/// A query and an item, by their numbers in a [`CrossScorer`].
pub type Pair = (usize, usize);

/// Anything that scores pairs of a query and an item, larger being better: a cross-encoder, MaxSim, a closure.
///
/// A score must be finite and depend on its pair alone. The searches of [`cur`](super) ask for each pair at most once.
pub trait CrossScorer {
    /// The number of queries.
    fn queries(&self) -> usize;

    /// The number of items.
    fn items(&self) -> usize;

    /// The score of each pair, in order.
    ///
    /// # Errors
    /// Whatever the scorer cannot do; callers pass it on.
    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>>;
}

/// The scores of pairs, after the checks that every search makes of a scorer it does not know.
///
/// # Errors
/// [`Error::Argument`] if a number is out of range or a score is not finite, [`Error::Shape`] if there is not one score a
/// pair.
pub(super) fn score(scorer: &dyn CrossScorer, pairs: &[Pair]) -> Result<Vec<f32>> {
    let (queries, items) = (scorer.queries(), scorer.items());
    if let Some(&(q, i)) = pairs.iter().find(|&&(q, i)| q >= queries || i >= items) {
        let expected = format!("a query below {queries} and an item below {items}");
        return Err(Error::argument("pairs", expected, format!("query {q}, item {i}")));
    }
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let scores = scorer.score(pairs)?;
    if scores.len() != pairs.len() {
        let expected = format!("a score for each of {} pairs", pairs.len());
        return Err(Error::shape("CrossScorer::score", expected, scores.len().to_string()));
    }
    match scores.iter().position(|s| !s.is_finite()) {
        None => Ok(scores),
        Some(at) => {
            let (q, i) = pairs[at];
            let got = format!("{} for query {q}, item {i}", scores[at]);
            Err(Error::argument("score", "a finite number", got))
        }
    }
}

/// A caller's function as a scorer.
pub struct FnScorer<F> {
    queries: usize,
    items: usize,
    score: F,
}

impl<F: Fn(&[Pair]) -> Result<Vec<f32>>> FnScorer<F> {
    /// A function of pairs of `queries` queries and `items` items; it gives the score of each pair, in order.
    pub fn new(queries: usize, items: usize, score: F) -> FnScorer<F> {
        FnScorer { queries, items, score }
    }
}

impl<F: Fn(&[Pair]) -> Result<Vec<f32>>> CrossScorer for FnScorer<F> {
    fn queries(&self) -> usize {
        self.queries
    }

    fn items(&self) -> usize {
        self.items
    }

    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>> {
        (self.score)(pairs)
    }
}

impl<F> std::fmt::Debug for FnScorer<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FnScorer of {} queries x {} items", self.queries, self.items)
    }
}

/// Scores that are known already: \[queries, items\].
#[derive(Clone, Copy, Debug)]
pub struct MatrixScorer<'a> {
    items: usize,
    queries: usize,
    scores: &'a [f32],
}

impl<'a> MatrixScorer<'a> {
    /// A scorer that looks up `scores`, one query after the other.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are not queries times items.
    pub fn new(queries: usize, items: usize, scores: &'a [f32]) -> Result<MatrixScorer<'a>> {
        if queries.checked_mul(items) != Some(scores.len()) {
            let expected = format!("{queries} x {items} scores");
            return Err(Error::shape("MatrixScorer", expected, scores.len().to_string()));
        }
        Ok(MatrixScorer { items, queries, scores })
    }
}

impl CrossScorer for MatrixScorer<'_> {
    fn queries(&self) -> usize {
        self.queries
    }

    fn items(&self) -> usize {
        self.items
    }

    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>> {
        Ok(pairs.iter().map(|&(q, i)| self.scores[q * self.items + i]).collect())
    }
}

/// A cross-encoder over texts.
#[derive(Debug)]
pub struct TextScorer<'a, S> {
    model: &'a CrossEncoder,
    queries: &'a [S],
    items: &'a [S],
    label: usize,
}

impl<'a, S: AsRef<str> + Sync> TextScorer<'a, S> {
    /// Scores pairs of these texts by the model's logit for class `label`; 0 where there is but one.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no such class.
    pub fn new(
        model: &'a CrossEncoder,
        queries: &'a [S],
        items: &'a [S],
        label: usize,
    ) -> Result<TextScorer<'a, S>> {
        check_label(label, model.labels().len())?;
        Ok(TextScorer { model, queries, items, label })
    }
}

impl<S: AsRef<str> + Sync> CrossScorer for TextScorer<'_, S> {
    fn queries(&self) -> usize {
        self.queries.len()
    }

    fn items(&self) -> usize {
        self.items.len()
    }

    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>> {
        let texts: Vec<(&str, &str)> = pairs
            .iter()
            .map(|&(q, i)| (self.queries[q].as_ref(), self.items[i].as_ref()))
            .collect();
        let logits = self.model.score(&texts)?;
        Ok(logits.chunks_exact(self.model.labels().len()).map(|row| row[self.label]).collect())
    }
}

/// A cross-encoder over texts and images, which were encoded once: texts find images, or images texts.
#[derive(Clone, Copy)]
pub struct ImageScorer<'a, S> {
    model: &'a ImageCrossEncoder,
    texts: &'a [S],
    images: &'a EncodedImages,
    label: usize,
    find_texts: bool,
}

impl<'a, S: AsRef<str> + Sync> ImageScorer<'a, S> {
    /// Scores pairs of a text, the query, and an image by the model's logit for class `label`; that of BLIP's match is 1, ViLT has but 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no such class.
    pub fn new(
        model: &'a ImageCrossEncoder,
        texts: &'a [S],
        images: &'a EncodedImages,
        label: usize,
    ) -> Result<ImageScorer<'a, S>> {
        check_label(label, model.labels().len())?;
        Ok(ImageScorer { model, texts, images, label, find_texts: false })
    }

    /// The same with the images as queries and the texts as items.
    pub fn turned(self) -> ImageScorer<'a, S> {
        ImageScorer { find_texts: !self.find_texts, ..self }
    }
}

impl<S: AsRef<str> + Sync> CrossScorer for ImageScorer<'_, S> {
    fn queries(&self) -> usize {
        if self.find_texts { self.images.len() } else { self.texts.len() }
    }

    fn items(&self) -> usize {
        if self.find_texts { self.texts.len() } else { self.images.len() }
    }

    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>> {
        let turned = |&(q, i): &Pair| if self.find_texts { (i, q) } else { (q, i) };
        let pairs: Vec<Pair> = pairs.iter().map(turned).collect();
        let logits = self.model.score(self.texts, self.images, &pairs)?;
        Ok(logits.chunks_exact(self.model.labels().len()).map(|row| row[self.label]).collect())
    }
}

impl<S> std::fmt::Debug for ImageScorer<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageScorer of {} texts and {} images", self.texts.len(), self.images.len())
    }
}

fn check_label(label: usize, labels: usize) -> Result<()> {
    match label < labels {
        true => Ok(()),
        false => {
            Err(Error::argument("label", format!("a class below {labels}"), label.to_string()))
        }
    }
}
