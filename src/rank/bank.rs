//! Bank normalisation: scores corrected for rows that are near to every query.
//!
//! In high dimensions some rows of a gallery, its hubs, are among the best of far too many queries (Radovanović et al., JMLR 2010). A
//! *bank* of vectors that stand for queries to come tells which: each row's scores with the bank say how much of a query's score is the
//! row's own. All methods here take a number off each row's score, so they run as the [bias](crate::ops::topk::Search::bias) of an
//! ordinary search: nothing is added to its cost but the addition.
//!
//! | [`Norm`] | formula, of score s and the bank's scores P with the row | source |
//! |---|---|---|
//! | [`Inverted`](Norm::Inverted) | exp(β s) / Σ exp(β P) | IS: Smith et al., arXiv:1702.03859 |
//! | [`DualInverted`](Norm::DualInverted) | that of queries times that of a bank of the gallery's kind | DualIS: Wang et al., arXiv:2310.11612 |
//! | [`Csls`](Norm::Csls) | 2 s - mean of the query's k best - mean of the k best P | Conneau et al., arXiv:1710.04087 |
//! | [`Nnn`](Norm::Nnn) | s - α · mean of the k best P | NNN: Chowdhury et al., EMNLP 2024 |
//!
//! The scores that a search gives are in the units of s. With `L = ln Σ exp(β P)`, inverted softmax is `exp(β (s - L / β))`, so its
//! order is that of `s - L / β`, which is given; the dual form is `exp((β_q + β_g) (s - (L_q + L_g) / (β_q + β_g)))`. CSLS is twice what
//! is given, less a number of the query's own.
//!
//! The dynamic forms (DIS of QB-Norm: Bogolin et al., arXiv:2112.12777; DualDIS) normalise only queries whose best row without
//! normalisation is *activated*: is among the k best of a bank's vectors at least `min_count` times. See [`Dynamic`].
//!
//! A bank without vectors changes nothing.
//!
//! ```
//! use nearkin::ops::topk::{Corpus, Metric, Search};
//! use nearkin::rank::bank::{Bank, Norm};
//! use nearkin::{Device, Tensor};
//!
//! let device = Device::cpu();
//! // The last row is near to everything.
//! let rows = [1.0f32, 0.0, 0.0, 1.0, 0.8, 0.8];
//! let corpus = Corpus::from_tensor(&Tensor::from_slice(&device, &[3, 2], &rows)?)?;
//! let earlier = Tensor::from_slice(&device, &[2, 2], &[0.9f32, 0.5, 0.5, 0.9])?;
//! let query = Tensor::from_slice(&device, &[1, 2], &[0.9f32, 0.4])?;
//!
//! let plain = Bank::none(&corpus, Metric::Cosine)?;
//! assert_eq!(plain.search(&query, &corpus, &Search::new(1))?.get(0).0, [2]);
//! let bank = Bank::new(&corpus, Metric::Cosine, Norm::Inverted { beta: 20.0 }, &earlier)?;
//! assert_eq!(bank.search(&query, &corpus, &Search::new(1))?.get(0).0, [0]);
//! # Ok::<(), nearkin::Error>(())
//! ```

use crate::ops::rows::{self, Reduction, reduce, reduce_products};
use crate::ops::select::Bitmap;
use crate::ops::topk::{Corpus, Filter, Hits, Metric, Search, as_dots, topk, topk_on_device};
use crate::ops::{check_device, check_float, matrix};
use crate::{DType, Error, Result, Tensor};

const OP: &str = "bank";
/// Bytes of a gallery's rows, as f32, that meet a bank at a time.
const PART: usize = 32 << 20;

/// What is taken off each row's score.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Norm {
    /// Inverted softmax: `ln Σ exp(β P) / β`. QB-Norm takes β = 20 for cosines.
    Inverted {
        /// The inverse temperature, above 0.
        beta: f32,
    },
    /// Dual inverted softmax: `(ln Σ exp(β_q P) + ln Σ exp(β_g G)) / (β_q + β_g)`, G being the scores with the bank of the gallery's kind.
    DualInverted {
        /// The inverse temperature of the bank of queries, above 0.
        queries: f32,
        /// That of the bank of the gallery's kind.
        gallery: f32,
    },
    /// Cross-domain similarity local scaling: half the mean of the `k` best P.
    Csls {
        /// How many of the bank's vectors, 10 in the paper.
        k: usize,
    },
    /// Nearest-neighbour normalisation: `alpha` times the mean of the `k` best P.
    Nnn {
        /// How many of the bank's vectors.
        k: usize,
        /// The share that is taken off, 0.25 to 1.5 in the paper.
        alpha: f32,
    },
}

/// Which queries are normalised: those whose best row is activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// A vector of a bank activates its `k` best rows; 1 in QB-Norm.
    pub k: usize,
    /// A row is activated by at least so many of a bank's vectors; 1 in QB-Norm.
    pub min_count: usize,
}

impl Default for Dynamic {
    fn default() -> Self {
        Dynamic { k: 1, min_count: 1 }
    }
}

/// What a bank takes off the scores of a corpus's rows, on the corpus's device.
///
/// It is made for the rows that the corpus has: after a change of the corpus it must be made again.
#[derive(Clone, Debug)]
pub struct Bank {
    metric: Metric,
    rows: usize,
    /// What is added to scores, by the banks whose activation set has the query's best row: none, queries', gallery's, both's.
    biases: [Option<Tensor>; 4],
    /// The activation sets of both banks; without them all queries are normalised.
    activated: Option<[Bitmap; 2]>,
}

impl Bank {
    /// No bank: scores stay as they are.
    ///
    /// # Errors
    /// [`Error::Argument`] if `metric` is [`Metric::L2`].
    pub fn none(corpus: &Corpus, metric: Metric) -> Result<Bank> {
        check_metric(metric)?;
        Ok(Bank { metric, rows: corpus.len(), biases: [const { None }; 4], activated: None })
    }

    /// Of vectors \[B, D\] that stand for queries, f32, f16 or bf16 on the corpus's device; scores are dot products or cosines.
    ///
    /// It takes B × N scores, formed in slabs, and the workspace of [`reduce_products`] or of a search. The bias takes 4 bytes a row.
    ///
    /// # Errors
    /// [`Error::Argument`] if `metric` is [`Metric::L2`], a temperature, `k` or `alpha` is out of range, a value of the bank is not
    /// finite, or `norm` needs a bank of the gallery's kind; [`Error::Shape`] if the bank does not fit; [`Error::OutOfMemory`].
    pub fn new(corpus: &Corpus, metric: Metric, norm: Norm, queries: &Tensor) -> Result<Bank> {
        Bank::make(corpus, metric, norm, [Some(queries), None], None)
    }

    /// Of two banks: vectors that stand for queries, and vectors \[B', D\] of the gallery's kind, for [`Norm::DualInverted`].
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] if `norm` takes one bank alone.
    pub fn dual(
        corpus: &Corpus,
        metric: Metric,
        norm: Norm,
        queries: &Tensor,
        gallery: &Tensor,
    ) -> Result<Bank> {
        Bank::make(corpus, metric, norm, [Some(queries), Some(gallery)], None)
    }

    /// As [`new`](Self::new) or, with a second bank, [`dual`](Self::dual), for queries whose best row is activated: of two banks,
    /// each factor applies where its own bank activates the row.
    ///
    /// # Errors
    /// As those; [`Error::Argument`] if `k` or `min_count` is 0, or `norm` is no inverted softmax.
    pub fn dynamic(
        corpus: &Corpus,
        metric: Metric,
        norm: Norm,
        queries: &Tensor,
        gallery: Option<&Tensor>,
        dynamic: Dynamic,
    ) -> Result<Bank> {
        Bank::make(corpus, metric, norm, [Some(queries), gallery], Some(dynamic))
    }

    fn make(
        corpus: &Corpus,
        metric: Metric,
        norm: Norm,
        banks: [Option<&Tensor>; 2],
        dynamic: Option<Dynamic>,
    ) -> Result<Bank> {
        let mut made = Bank::none(corpus, metric)?;
        for (name, bank) in ["queries", "gallery"].into_iter().zip(banks) {
            bank.map_or(Ok(()), |bank| check_bank(corpus, name, bank))?;
        }
        norm.check(banks[1].is_some())?;
        if let Some(Dynamic { k, min_count }) = dynamic {
            if k == 0 || min_count == 0 {
                let got = format!("k {k}, min_count {min_count}");
                return Err(Error::argument("dynamic", "k and min_count of at least 1", got));
            }
            if !matches!(norm, Norm::Inverted { .. } | Norm::DualInverted { .. }) {
                let expected = "an inverted softmax for dynamic normalisation";
                return Err(Error::argument("norm", expected, format!("{norm:?}")));
            }
        }
        if corpus.is_empty() {
            return Ok(made);
        }
        let [queries, gallery] = banks.map(|bank| bank.filter(|bank| !bank.is_empty()));
        let sums = |bank: Option<&Tensor>, beta| {
            bank.map(|bank| sums(corpus, metric, bank, beta)).transpose()
        };
        let bias = |sums: &[&Option<Vec<f32>>], beta| {
            let sums: Option<Vec<&[f32]>> = sums.iter().map(|sums| sums.as_deref()).collect();
            sums.map(|sums| bias(corpus, &sums, beta)).transpose()
        };
        let nearest =
            |k, factor| queries.map(|bank| nearest(corpus, metric, bank, k, factor)).transpose();
        made.biases = match norm {
            Norm::Inverted { beta } => {
                let all = bias(&[&sums(queries, beta)?], beta)?;
                [None, all.clone(), None, all]
            }
            Norm::DualInverted { queries: of_queries, gallery: of_gallery } => {
                let (q, g) = (sums(queries, of_queries)?, sums(gallery, of_gallery)?);
                let (of_q, of_g) = (bias(&[&q], of_queries)?, bias(&[&g], of_gallery)?);
                let both = bias(&[&q, &g], of_queries + of_gallery)?;
                let both = both.or_else(|| of_q.clone()).or_else(|| of_g.clone());
                [None, of_q, of_g, both]
            }
            Norm::Csls { k } => [None, None, None, nearest(k, 0.5)?],
            Norm::Nnn { k, alpha } => [None, None, None, nearest(k, alpha)?],
        };
        if let Some(dynamic) = dynamic {
            let of = |bank| activated(corpus, metric, bank, dynamic);
            made.activated = Some([of(queries)?, of(gallery)?]);
        }
        Ok(made)
    }

    /// What is added to the score of each row: \[N\] f32 on the corpus's device, for [`Search::bias`]. None if nothing is, or if it
    /// depends on the query, as in the dynamic forms.
    pub fn bias(&self) -> Option<&Tensor> {
        match self.activated {
            None => self.biases[3].as_ref(),
            Some(_) => None,
        }
    }

    /// The `k` best rows of the corpus for each of the queries, as [`topk`] finds them, by normalised scores. A dynamic bank searches
    /// twice: first without normalisation, then, of the queries whose best row is activated, with it; the best row is that of all
    /// that the filter lets through.
    ///
    /// # Errors
    /// As [`topk`]; [`Error::Argument`] if the search has a bias of its own, [`Error::Shape`] if the corpus has another number of
    /// rows than the bank was made for.
    pub fn search(&self, queries: &Tensor, corpus: &Corpus, search: &Search<'_>) -> Result<Hits> {
        if corpus.len() != self.rows {
            let expected = format!("the {} rows that the bank was made for", self.rows);
            return Err(Error::shape(OP, expected, corpus.len().to_string()));
        }
        if search.bias.is_some() {
            return Err(Error::argument("bias", "none beside that of the bank", "a bias"));
        }
        let Some(activated) = &self.activated else {
            let bias = self.biases[3].as_ref();
            return topk(queries, corpus, self.metric, &Search { bias, ..*search });
        };
        // With a lowest score of normalised scores only the best row is wanted.
        let k = if search.least.is_some() { search.k.min(1) } else { search.k };
        let plain = Search { least: None, k, ..*search };
        let raw = topk(queries, corpus, self.metric, &plain)?;
        let groups: Vec<usize> = (0..raw.len())
            .map(|q| match raw.get(q).0.first() {
                None => 0,
                Some(&row) => {
                    let [a, b] = [0, 1].map(|i| activated[i].contains(row as usize));
                    usize::from(a) + 2 * usize::from(b)
                }
            })
            .collect();
        // Where a query's hits are, where they are not the raw ones.
        let mut normalised: Vec<Hits> = Vec::new();
        let mut place: Vec<Option<(usize, usize)>> = vec![None; raw.len()];
        for (group, bias) in self.biases.iter().enumerate() {
            let members: Vec<u32> =
                (0..groups.len()).filter(|&q| groups[q] == group).map(|q| q as u32).collect();
            if members.is_empty() || bias.is_none() && search.least.is_none() {
                continue;
            }
            let numbers = Tensor::from_slice(queries.device(), &[members.len()], &members)?;
            let some = rows::gathered(&[queries], queries.shape()[1], &numbers)?;
            let sets: Vec<_> = match search.filter {
                Filter::PerQuery(sets) => members.iter().map(|&q| sets[q as usize]).collect(),
                _ => Vec::new(),
            };
            let filter = match search.filter {
                Filter::PerQuery(_) => Filter::PerQuery(&sets),
                shared => shared,
            };
            for (i, &q) in members.iter().enumerate() {
                place[q as usize] = Some((normalised.len(), i));
            }
            let search = Search { bias: bias.as_ref(), filter, ..*search };
            normalised.push(topk(&some, corpus, self.metric, &search)?);
        }
        let mut hits = Hits::new();
        for (q, place) in place.iter().enumerate() {
            match *place {
                Some((group, i)) => hits.push_from(&normalised[group], i),
                None => hits.push_from(&raw, q),
            }
        }
        Ok(hits)
    }
}

impl Norm {
    fn check(self, dual: bool) -> Result<()> {
        let is_positive = |beta: f32| beta.is_finite() && beta > 0.0;
        let wrong = |expected: &str| Err(Error::argument("norm", expected, format!("{self:?}")));
        match self {
            Norm::Inverted { beta } if !is_positive(beta) => wrong("a finite beta above 0"),
            Norm::DualInverted { queries, gallery }
                if !is_positive(queries) || !is_positive(gallery) =>
            {
                wrong("finite temperatures above 0")
            }
            Norm::Csls { k: 0 } | Norm::Nnn { k: 0, .. } => wrong("a k of at least 1"),
            Norm::Nnn { alpha, .. } if !alpha.is_finite() => wrong("a finite alpha"),
            Norm::DualInverted { .. } if !dual => {
                wrong("a norm of one bank, or a second bank of the gallery's kind")
            }
            Norm::DualInverted { .. } => Ok(()),
            _ if dual => wrong("DualInverted for two banks"),
            _ => Ok(()),
        }
    }
}

fn check_metric(metric: Metric) -> Result<()> {
    match metric {
        Metric::L2 => Err(Error::argument("metric", "dot or cosine for a bank", "l2")),
        Metric::Dot | Metric::Cosine => Ok(()),
    }
}

fn check_bank(corpus: &Corpus, name: &'static str, bank: &Tensor) -> Result<()> {
    let (_, dim) = matrix(OP, name, bank)?;
    check_float(OP, name, bank)?;
    check_device(OP, name, corpus.device(), bank.device())?;
    if dim != corpus.dim() {
        let expected = format!("{name} of dimension {}", corpus.dim());
        return Err(Error::shape(OP, expected, dim.to_string()));
    }
    match bank.to_f32_vec()?.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let got = format!("a value in row {} that is not finite", at / dim);
            Err(Error::argument(name, "finite vectors", got))
        }
    }
}

/// The rows of a corpus as floats, some at a time.
fn parts(corpus: &Corpus) -> impl Iterator<Item = Result<Tensor>> {
    corpus.floats((PART / size_of::<f32>() / corpus.dim()).max(1))
}

/// For each row of the corpus, `ln Σ exp(β P)`.
fn sums(corpus: &Corpus, metric: Metric, bank: &Tensor, beta: f32) -> Result<Vec<f32>> {
    let bank = as_dots(metric, bank)?;
    let mut all = Vec::with_capacity(corpus.len());
    for part in parts(corpus) {
        let part = as_dots(metric, &part?)?;
        let sums = reduce_products(&part, &bank, beta, None, Reduction::LogSumExp)?;
        all.extend(sums.values.map_or(Ok(Vec::new()), |values| values.to_vec::<f32>())?);
    }
    Ok(all)
}

/// What log-sum-exps take off scores: their sum over `beta`.
fn bias(corpus: &Corpus, sums: &[&[f32]], beta: f32) -> Result<Tensor> {
    let of = |row: usize| sums.iter().map(|sums| f64::from(sums[row])).sum::<f64>();
    let off: Vec<f32> = (0..corpus.len()).map(|row| (-of(row) / f64::from(beta)) as f32).collect();
    Tensor::from_slice(corpus.device(), &[off.len()], &off)
}

/// For each row of the corpus, `factor` times the mean of its `k` best scores with the bank, to be taken off.
fn nearest(
    corpus: &Corpus,
    metric: Metric,
    bank: &Tensor,
    k: usize,
    factor: f32,
) -> Result<Tensor> {
    let bank = Corpus::from_tensor(bank)?;
    let mut all = Vec::new();
    for part in parts(corpus) {
        let best = topk_on_device(&part?, &bank, metric, &Search::new(k))?.to_tensors()?.scores;
        all.extend(reduce(&best, -factor, None, Reduction::Mean)?.values);
    }
    let all: Vec<_> = all.iter().map(|part| (part, 0..part.shape()[0])).collect();
    rows::joined(DType::F32, 1, &all)?.reshape(&[corpus.len()])
}

/// The rows that are among the `k` best of at least `min_count` vectors of a bank.
fn activated(
    corpus: &Corpus,
    metric: Metric,
    bank: Option<&Tensor>,
    Dynamic { k, min_count }: Dynamic,
) -> Result<Bitmap> {
    let mut counts = vec![0usize; corpus.len()];
    if let Some(bank) = bank {
        for (rows, _) in topk(bank, corpus, metric, &Search::new(k))?.iter() {
            rows.iter().for_each(|&row| counts[row as usize] += 1);
        }
    }
    Ok(Bitmap::from_fn(corpus.len(), |row| counts[row] >= min_count))
}
