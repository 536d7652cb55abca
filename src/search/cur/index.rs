//! ANNCUR: one set of anchor items for all queries, fitted once. With a cheap score, residual CUR.

use std::borrow::Cow;

use faer::Mat;

use super::anchors::{Anchors, sample};
use super::budget::Budgeted;
use super::fit::{Block, Regularisation, Report, judged};
use super::found::{BATCH, Found, Scored, best, check_search, score_lists, zip};
use super::matrix::ScoreMatrix;
use super::residual::{self, Affine, Cheap};
use super::scorer::CrossScorer;
use crate::ops::topk::{Bitmap, Corpus, Filter, Metric, Rows, Search, topk};
use crate::search::finite;
use crate::{DType, Device, Error, Result, Tensor};

/// What is kept of each item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Its column of U R, one number an anchor item; a query is its scores of the anchor items.
    #[default]
    Rows,
    /// Its column of R, one number an anchor query; a query is its scores of the anchor items, times U. The smaller form
    /// where there are more anchor items than anchor queries.
    Cols,
}

/// How an index is fitted.
#[derive(Clone, Copy, Debug)]
pub struct CurOptions<'a> {
    /// The anchor items; [`Anchors::KMeans`] clusters the items' scores.
    pub anchors: Anchors<'a>,
    /// Of the pseudo-inverse.
    pub regularisation: Regularisation,
    /// What is kept of each item.
    pub form: Form,
    /// How it is stored: f32, f16 or bf16.
    pub dtype: DType,
    /// The least share of the 100 items that f32 finds for an anchor query which f16 or bf16 must find too.
    pub min_recall: f64,
    /// A cheap score, to fit the residual of it.
    pub cheap: Option<Cheap<'a>>,
}

impl<'a> CurOptions<'a> {
    /// Uniformly chosen anchors, cross-validated, in f32, without a cheap score.
    pub fn new(anchors: Anchors<'a>) -> CurOptions<'a> {
        CurOptions {
            anchors,
            regularisation: Regularisation::CrossValidated,
            form: Form::Rows,
            dtype: DType::F32,
            min_recall: 0.95,
            cheap: None,
        }
    }
}

/// What is asked of an index.
#[derive(Clone, Copy, Debug)]
pub struct CurSearch<'a> {
    /// Items to find for each query; more than were scored gives all that were.
    pub k: usize,
    /// Scorer calls for each query, B = k_i + k_r: the anchors first, then the best by approximation.
    pub budget: usize,
    /// The queries' embeddings \[queries, dim\], where the index has a cheap score.
    pub embeddings: Option<&'a [f32]>,
}

/// Anchor queries and items that a rounded index is compared with f32 by, at most.
const COMPARED: (usize, usize) = (64, 100);

/// The cheap score of an index.
#[derive(Clone, Debug)]
struct Line {
    affine: Affine,
    dim: usize,
    /// \[anchor queries, dim\].
    queries: Vec<f32>,
    /// \[anchors, dim\].
    anchors: Vec<f32>,
}

/// Approximate expensive scores of all items, from exact ones of a few; see the [module](super).
///
/// Memory on the device is `items · (width · element size + 4)` bytes; the width is that of the [`Form`], plus the
/// dimension of a cheap score's embeddings. Fitting holds R on the host once more where there is a cheap score.
#[derive(Clone)]
pub struct CurIndex {
    corpus: Corpus,
    anchors: Vec<usize>,
    excluded: Bitmap,
    /// Anchor queries.
    queries: usize,
    /// \[anchors, queries\].
    inverse: Vec<f64>,
    form: Form,
    line: Option<Line>,
    report: Report,
    recall: Option<f64>,
}

impl CurIndex {
    /// Fits an index on `device` to the exact scores of the anchor queries.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no items, an anchor or an option is out of range, a number is not finite or beyond what
    /// the dtype can hold, or a rounded index finds less than [`CurOptions::min_recall`]; [`Error::Shape`] if embeddings do not fit; [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`].
    pub fn fit(
        device: &Device,
        scores: &ScoreMatrix,
        options: &CurOptions<'_>,
    ) -> Result<CurIndex> {
        let (queries, items) = (scores.queries(), scores.items());
        options.regularisation.check()?;
        if let Some(cheap) = &options.cheap {
            cheap.check(device.threads(), queries, items)?;
        }
        let anchors = options.anchors.choose(items, scores.as_slice(), device)?;
        let (line, left) = match &options.cheap {
            None => (None, None),
            Some(cheap) => {
                let d = residual::cheap_scores(device, cheap.queries, cheap.items, cheap.dim)?;
                let affine = Affine::fit(&d, scores.as_slice());
                let own = |&a: &usize| cheap.items[a * cheap.dim..][..cheap.dim].iter().copied();
                let line = Line {
                    affine,
                    dim: cheap.dim,
                    queries: cheap.queries.to_vec(),
                    anchors: anchors.iter().flat_map(own).collect(),
                };
                (Some(line), Some(residual::residuals(affine, scores, d)))
            }
        };
        let left = left.as_deref().unwrap_or(scores.as_slice());
        let cell = |q: usize, i: usize| f64::from(left[i * queries + q]);
        let block =
            Block::new(Mat::from_fn(queries, anchors.len(), |q, a| cell(q, anchors[a])).as_ref())?;
        let mut report = Report {
            regularisation: options.regularisation,
            largest: block.largest(),
            rank: block.rank(),
            tried: Vec::new(),
        };
        if options.regularisation == Regularisation::CrossValidated {
            let judged = judged(device.threads(), scores, &anchors);
            let (weight, tried) = block.choose(device.threads(), &judged, cell);
            report.regularisation = Regularisation::Tikhonov(weight);
            report.tried = tried;
        }
        let inverse = block.inverted(device.threads(), report.regularisation);
        let latent = match options.form {
            Form::Rows => anchors.len(),
            Form::Cols => queries,
        };
        let width = latent + options.cheap.map_or(0, |c| c.dim);
        let mut index = CurIndex {
            corpus: Corpus::new(device, options.dtype, width)?,
            excluded: Bitmap::new(0),
            anchors: Vec::new(),
            queries,
            inverse,
            form: options.form,
            line,
            report,
            recall: None,
        };
        let embeddings = options.cheap.map(|c| c.items);
        index.fill(left, embeddings)?;
        index.anchors = anchors;
        for &anchor in &index.anchors {
            index.excluded.set(anchor, true)?;
        }
        if options.dtype != DType::F32 {
            index.compare(scores, left, options)?;
        }
        Ok(index)
    }

    /// Appends rows for items whose scores (less the line) are `left` \[n, queries\].
    fn fill(&mut self, left: &[f32], embeddings: Option<&[f32]>) -> Result<()> {
        let device = self.corpus.device().clone();
        let dim = self.line.as_ref().map_or(0, |l| l.dim);
        let mut embeddings = embeddings.unwrap_or(&[]);
        let corpus = &mut self.corpus;
        let check = |corpus: &Corpus, rows: &[f32]| {
            let place = |i: usize| format!("the vector of item {}", corpus.len() + i);
            let threads = corpus.device().threads();
            finite::check(threads, "scores", rows, corpus.dim(), corpus.dtype(), place)
        };
        // Latent vectors with the items' embeddings before each.
        let mut beside = |corpus: &mut Corpus, latent: &[f32], width: usize| -> Result<()> {
            let n = latent.len() / width;
            let (own, others) = embeddings.split_at(n * dim);
            embeddings = others;
            let beside = |i| own[i * dim..][..dim].iter().chain(&latent[i * width..][..width]);
            let rows: Cow<'_, [f32]> = match dim {
                0 => latent.into(),
                _ => (0..n).flat_map(beside).copied().collect(),
            };
            check(corpus, &rows)?;
            corpus.append(&rows)
        };
        match self.form {
            Form::Cols => {
                let rows = (residual::WINDOW / 4 / self.queries).max(1) * self.queries;
                for part in left.chunks(rows) {
                    beside(corpus, part, self.queries)?;
                }
            }
            Form::Rows => {
                let anchors = self.inverse.len() / self.queries;
                let u: Vec<f32> = self.inverse.iter().map(|&v| v as f32).collect();
                let u = Tensor::from_f32(&device, DType::F32, &[anchors, self.queries], &u)?;
                residual::product(left, &u, |e| {
                    if dim > 0 {
                        return beside(corpus, &e.to_f32_vec()?, anchors);
                    }
                    let before = corpus.clone();
                    corpus.push_tensor(e.clone())?;
                    match corpus.have_lengths(before.len())? {
                        true => Ok(()),
                        false => check(&before, &e.to_f32_vec()?),
                    }
                })?;
            }
        }
        self.excluded.extend(left.len() / self.queries);
        Ok(())
    }

    /// Measures what rounding loses, on anchor queries.
    fn compare(
        &mut self,
        scores: &ScoreMatrix,
        left: &[f32],
        options: &CurOptions<'_>,
    ) -> Result<()> {
        let mut exact = CurIndex {
            corpus: Corpus::new(self.device(), DType::F32, self.corpus.dim())?,
            excluded: Bitmap::new(0),
            ..self.clone()
        };
        exact.fill(left, options.cheap.map(|c| c.items))?;
        exact.excluded = self.excluded.clone();
        let asked = sample(self.queries, COMPARED.0, 0);
        let c: Vec<f32> = asked
            .iter()
            .flat_map(|&q| self.anchors.iter().map(move |&a| scores.item(a)[q]))
            .collect();
        let embeddings: Option<Vec<f32>> = self.line.as_ref().map(|line| {
            asked.iter().flat_map(|&q| line.queries[q * line.dim..][..line.dim].to_vec()).collect()
        });
        let mut found = [&*self, &exact]
            .into_iter()
            .map(|index| index.retrieve(&c, embeddings.as_deref(), COMPARED.1))
            .collect::<Result<Vec<_>>>()?;
        let (want, got) = (found.pop().unwrap_or_default(), found.pop().unwrap_or_default());
        let (mut all, mut both) = (0usize, 0usize);
        for (want, got) in want.iter().zip(&got) {
            all += want.len();
            both += want.iter().filter(|w| got.iter().any(|g| g.item == w.item)).count();
        }
        let recall = if all == 0 { 1.0 } else { both as f64 / all as f64 };
        if recall < options.min_recall {
            let expected = format!(
                "a type in which anchor queries find {} of what they find in f32",
                options.min_recall
            );
            let got = format!("{}, in which they find {recall:.3}", options.dtype);
            return Err(Error::argument("dtype", expected, got));
        }
        self.recall = Some(recall);
        Ok(())
    }

    /// Appends items without fitting again: `scores` are theirs by the same anchor queries, `embeddings` \[items, dim\]
    /// theirs where the index has a cheap score. They get the next numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] if the anchor queries or embeddings do not fit; [`Error::Argument`] if a number is not finite, or beyond
    /// what the index's dtype can hold; [`Error::OutOfMemory`]. Nothing is added then.
    pub fn append(&mut self, scores: &ScoreMatrix, embeddings: Option<&[f32]>) -> Result<()> {
        if scores.queries() != self.queries {
            let expected = format!("scores by {} anchor queries", self.queries);
            return Err(Error::shape("append", expected, format!("by {}", scores.queries())));
        }
        self.check_embeddings("items", embeddings, scores.items())?;
        let left = match (&self.line, embeddings) {
            (Some(line), Some(items)) => {
                let d = residual::cheap_scores(self.device(), &line.queries, items, line.dim)?;
                residual::residuals(line.affine, scores, d)
            }
            _ => scores.as_slice().to_vec(),
        };
        let before = self.corpus.clone();
        let filled = self.fill(&left, embeddings);
        if filled.is_err() {
            self.corpus = before;
        }
        filled
    }

    fn check_embeddings(&self, whose: &str, given: Option<&[f32]>, n: usize) -> Result<()> {
        match (&self.line, given) {
            (None, None) => Ok(()),
            (Some(line), Some(given)) => {
                residual::check(self.device().threads(), whose, given, n, line.dim)
            }
            (line, _) => {
                let expected = match line {
                    Some(line) => format!("embeddings of the {whose} in {} dimensions", line.dim),
                    None => "none, as the index has no cheap score".into(),
                };
                let got = if given.is_some() { "embeddings" } else { "none" };
                Err(Error::argument("embeddings", expected, got))
            }
        }
    }

    /// The `k` items other than anchors that are best by approximation, for queries whose exact scores of the anchors
    /// are `anchor_scores` \[queries, anchors\] in the order of [`anchors`](Self::anchors): `c E`, with a cheap score
    /// `alpha D + beta + (c - alpha D_anchors - beta) E`. No scorer is called.
    ///
    /// # Errors
    /// [`Error::Shape`] if lengths do not fit, [`Error::Argument`] if `k` is 0 or a score is not finite.
    pub fn retrieve(
        &self,
        anchor_scores: &[f32],
        embeddings: Option<&[f32]>,
        k: usize,
    ) -> Result<Vec<Vec<Scored>>> {
        let anchors = self.anchors.len();
        if !anchor_scores.len().is_multiple_of(anchors) {
            let expected = format!("a multiple of {anchors} anchor scores");
            return Err(Error::shape("retrieve", expected, anchor_scores.len().to_string()));
        }
        let n = anchor_scores.len() / anchors;
        self.check_embeddings("queries", embeddings, n)?;
        if let Some(at) = anchor_scores.iter().position(|s| !s.is_finite()) {
            let got = format!("{} for query {}", anchor_scores[at], at / anchors);
            return Err(Error::argument("anchor_scores", "finite numbers", got));
        }
        let mut rows = Vec::with_capacity(n * self.corpus.dim());
        for q in 0..n {
            let c = &anchor_scores[q * anchors..][..anchors];
            let own = match (&self.line, embeddings) {
                (Some(line), Some(all)) => Some((line, &all[q * line.dim..][..line.dim])),
                _ => None,
            };
            self.query(c, own, &mut rows);
        }
        let rows = Tensor::from_f32(self.device(), DType::F32, &[n, self.corpus.dim()], &rows)?;
        let filter = Filter::Shared(Rows::Exclude(&self.excluded));
        let search = Search { filter, ..Search::new(k) };
        let hits = topk(&rows, &self.corpus, Metric::Dot, &search)?;
        let beta = self.line.as_ref().map_or(0.0, |line| line.affine.beta as f32);
        Ok(hits
            .iter()
            .map(|(rows, scores)| {
                let scored = |(&row, &s)| Scored { item: row as usize, score: s + beta };
                rows.iter().zip(scores).map(scored).collect()
            })
            .collect())
    }

    /// Appends the vector whose dot product with an item's is the approximation, less beta.
    fn query(&self, c: &[f32], cheap: Option<(&Line, &[f32])>, out: &mut Vec<f32>) {
        let mut left: Vec<f64> = c.iter().map(|&c| f64::from(c)).collect();
        if let Some((line, own)) = cheap {
            for (left, anchor) in left.iter_mut().zip(line.anchors.chunks_exact(line.dim)) {
                let d: f64 =
                    own.iter().zip(anchor).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                *left = line.affine.residual(*left, d);
            }
            out.extend(own.iter().map(|&x| (line.affine.alpha * f64::from(x)) as f32));
        }
        match self.form {
            Form::Rows => out.extend(left.iter().map(|&x| x as f32)),
            Form::Cols => {
                let mut row = vec![0f64; self.queries];
                for (&x, u) in left.iter().zip(self.inverse.chunks_exact(self.queries)) {
                    for (sum, u) in row.iter_mut().zip(u) {
                        *sum += x * u;
                    }
                }
                out.extend(row.iter().map(|&x| x as f32));
            }
        }
    }

    /// The `k` best items for each of the `queries`, numbers of the scorer, with exact scores: those of the anchors, of
    /// the `budget - anchors` best by approximation, merged.
    ///
    /// Each query costs `min(budget, items)` calls, never more, in batches of about 65,536 pairs.
    ///
    /// # Errors
    /// [`Error::Budget`] if the budget does not cover the anchors; [`Error::Argument`] if `k` is 0, a query is not the
    /// scorer's or a score is not finite; [`Error::Shape`] if scorer or embeddings do not fit the index; the scorer's.
    pub fn search(
        &self,
        scorer: &dyn CrossScorer,
        queries: &[usize],
        search: &CurSearch<'_>,
    ) -> Result<Found> {
        check_search(scorer, self.len(), queries, search.k)?;
        self.check_embeddings("queries", search.embeddings, queries.len())?;
        let anchors = self.anchors.len();
        if search.budget < anchors {
            return Err(Error::Budget { limit: search.budget, used: 0, asked: anchors });
        }
        let budget = search.budget.min(self.len());
        let budgeted = Budgeted::new(scorer, budget.saturating_mul(queries.len()));
        let mut found = Found::none();
        let group = (BATCH / budget).max(1);
        for (g, queries) in queries.chunks(group).enumerate() {
            let lists = vec![self.anchors.clone(); queries.len()];
            let c = score_lists(&budgeted, queries, &lists)?;
            let mut nearest = vec![Vec::new(); queries.len()];
            if budget > anchors {
                let dim = self.line.as_ref().map_or(0, |line| line.dim);
                let own = |all: &'_ [f32]| all[g * group * dim..][..queries.len() * dim].to_vec();
                let embeddings = search.embeddings.map(own);
                nearest = self
                    .retrieve(&c.concat(), embeddings.as_deref(), budget - anchors)?
                    .iter()
                    .map(|list| list.iter().map(|s| s.item).collect())
                    .collect();
            }
            let exact = score_lists(&budgeted, queries, &nearest)?;
            for ((c, list), exact) in c.iter().zip(&nearest).zip(&exact) {
                let all = zip(&self.anchors, c).chain(zip(list, exact));
                found.items.push(best(all.collect(), search.k));
            }
        }
        found.calls = budgeted.used();
        Ok(found)
    }

    /// The anchor items, ascending.
    pub fn anchors(&self) -> &[usize] {
        &self.anchors
    }

    /// The regularisation in use and what it was chosen by.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The line through the cheap score, if there is one.
    pub fn affine(&self) -> Option<Affine> {
        self.line.as_ref().map(|line| line.affine)
    }

    /// The share of what f32 finds that the stored type finds, as measured when the index was fitted; none for f32.
    pub fn rounded_recall(&self) -> Option<f64> {
        self.recall
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.corpus.len()
    }

    /// Whether there are no items; never, as an index is fitted to some.
    pub fn is_empty(&self) -> bool {
        self.corpus.is_empty()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.corpus.device()
    }

    /// Bytes that the items hold on the device.
    pub fn memory_bytes(&self) -> usize {
        self.corpus.bytes()
    }
}

impl std::fmt::Debug for CurIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurIndex")
            .field("items", &self.len())
            .field("anchors", &self.anchors.len())
            .field("queries", &self.queries)
            .field("form", &self.form)
            .field("report", &self.report)
            .field("device", self.device())
            .finish()
    }
}
