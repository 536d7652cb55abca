//! The ranks of targets by counting what is above them: nothing is sorted, and no matrix of scores is kept.

use super::ranks::{Ranks, Ties};
use crate::ops::rows::{self, Reducer, Reduction};
use crate::ops::topk::{Metric, as_dots};
use crate::ops::{check_devices, check_float, matrix};
use crate::{Error, Offsets, Result, Tensor};

const OP: &str = "Ranks::count";

/// What was counted for a target.
struct Counted {
    query: usize,
    target: u32,
    score: f32,
    greater: u32,
    equal: u32,
}

impl Ranks {
    /// The rank of each query's targets, row numbers of `corpus`, among all its rows: `queries` \[Q, D\] and `corpus` \[N, D\], f32, f16
    /// or bf16 on one device, compared by dot products or cosines. A target whose score is NaN has no rank. A target that is given
    /// twice counts twice.
    ///
    /// Scores are formed in slabs of at most 32 MiB, once; the workspace is that, for cosines a unit copy of both matrices, and 8
    /// bytes for each target. With [`Ties::ByIndex`] the scores of queries with ties are formed once more.
    ///
    /// ```
    /// use nearkin::metrics::{Ranks, Ties};
    /// use nearkin::ops::topk::Metric;
    /// use nearkin::{Device, Tensor};
    ///
    /// let device = Device::cpu();
    /// let corpus = Tensor::from_slice(&device, &[3, 2], &[1.0f32, 0.0, 0.0, 1.0, 0.6, 0.8])?;
    /// let queries = Tensor::from_slice(&device, &[2, 2], &[0.9f32, 0.1, 0.1, 0.9])?;
    /// let ranks = Ranks::count(&queries, &corpus, &[&[0], &[0, 2]], Metric::Cosine, Ties::Best)?;
    /// assert!(ranks.iter().eq([&[1.0][..], &[2.0, 3.0]]));
    /// # Ok::<(), nearkin::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the matrices do not fit or there are not as many sets of targets as queries; [`Error::Argument`] if a
    /// target is not a row, or `metric` is [`Metric::L2`]; [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn count<T: AsRef<[u32]>>(
        queries: &Tensor,
        corpus: &Tensor,
        targets: &[T],
        metric: Metric,
        ties: Ties,
    ) -> Result<Ranks> {
        let (count, dim) = matrix(OP, "queries", queries)?;
        let (rows, of_corpus) = matrix(OP, "corpus", corpus)?;
        check_float(OP, "queries", queries)?;
        check_float(OP, "corpus", corpus)?;
        check_devices(OP, &[queries, corpus])?;
        if of_corpus != dim || targets.len() != count {
            let expected = format!("a corpus [N, {dim}] and targets of {count} queries");
            let got = format!("[{rows}, {of_corpus}] and targets of {}", targets.len());
            return Err(Error::shape(OP, expected, got));
        }
        let mut all = Vec::new();
        for (query, targets) in targets.iter().enumerate() {
            for &target in targets.as_ref() {
                if target as usize >= rows {
                    let expected = format!("rows below {rows}");
                    return Err(Error::argument("targets", expected, target.to_string()));
                }
                all.push(Counted { query, target, score: 0.0, greater: 0, equal: 0 });
            }
        }
        let (queries, corpus) = (as_dots(metric, queries)?, as_dots(metric, corpus)?);
        if !all.is_empty() {
            score(&queries, &corpus, &mut all)?;
            count_all(&queries, &corpus, &mut all)?;
        }
        let mut before = vec![0; all.len()];
        if ties == Ties::ByIndex {
            before_by_index(&queries, &corpus, &all, &mut before)?;
        }
        let rank = |(counted, before): (&Counted, &u32)| {
            if counted.score.is_nan() {
                return f64::INFINITY;
            }
            // The target is one of those that are equal.
            let others = f64::from(counted.equal.saturating_sub(1));
            1.0 + f64::from(counted.greater)
                + match ties {
                    Ties::Best => 0.0,
                    Ties::Worst => others,
                    Ties::Mean => others / 2.0,
                    Ties::ByIndex => f64::from(*before),
                }
        };
        let mut ranks = Ranks::none();
        let mut each = all.iter().zip(&before).peekable();
        for query in 0..count {
            let own = std::iter::from_fn(|| each.next_if(|(c, _)| c.query == query));
            ranks.push(own.map(rank));
        }
        Ok(ranks)
    }
}

/// Rows of a matrix on its device.
fn picked(matrix: &Tensor, rows: impl Iterator<Item = u32>) -> Result<Tensor> {
    let rows: Vec<u32> = rows.collect();
    let numbers = Tensor::from_slice(matrix.device(), &[rows.len()], &rows)?;
    rows::gathered(&[matrix], matrix.shape()[1], &numbers)
}

/// The scores of the targets, with the bits that they have among all.
fn score(queries: &Tensor, corpus: &Tensor, all: &mut [Counted]) -> Result<()> {
    let of_queries = picked(queries, all.iter().map(|c| c.query as u32))?;
    let of_targets = picked(corpus, all.iter().map(|c| c.target))?;
    for (counted, score) in all.iter_mut().zip(rows::paired(&of_queries, &of_targets)?) {
        counted.score = score;
    }
    Ok(())
}

/// Counts for the first targets of all queries, for the second ones, and so on, in each slab.
fn count_all(queries: &Tensor, corpus: &Tensor, all: &mut [Counted]) -> Result<()> {
    let (device, m, n) = (queries.device(), queries.shape()[0], corpus.shape()[0]);
    let groups = rows::groups(m, n);
    let segments = Offsets::from_lengths(device, &[n])?;
    // The numbers, in `all`, of a query's targets.
    let mut of_query: Vec<Vec<usize>> = vec![Vec::new(); m];
    for (i, counted) in all.iter().enumerate() {
        of_query[counted.query].push(i);
    }
    let most = of_query.iter().map(Vec::len).max().unwrap_or(0);
    // NaN, before which everything is, stands for no target.
    let target = |rows: &std::ops::Range<usize>, place: usize| {
        let score = |q: usize| of_query[q].get(place).map_or(f32::NAN, |&i| all[i].score);
        Tensor::from_slice(device, &[rows.len()], &rows.clone().map(score).collect::<Vec<f32>>())
    };
    let mut targets = Vec::new();
    for rows in &groups {
        targets.push((0..most).map(|place| target(rows, place)).collect::<Result<Vec<Tensor>>>()?);
    }
    let mut reducers = Vec::new();
    for (rows, targets) in groups.iter().zip(&targets) {
        let new = |t| Reducer::new(device, rows.len(), &segments, 1.0, Reduction::Above(t));
        reducers.push(targets.iter().map(new).collect::<Result<Vec<_>>>()?);
    }
    rows::products(queries, corpus, |group, _, slab| {
        reducers[group].iter_mut().try_for_each(|reducer| reducer.take(slab))
    })?;
    for (rows, reducers) in groups.iter().zip(reducers) {
        for (place, reducer) in reducers.into_iter().enumerate() {
            let counts = reducer.finish()?;
            let words = |t: Option<Tensor>| t.map_or(Ok(Vec::new()), |t| t.to_vec::<u32>());
            let (greater, equal) = (words(counts.numbers)?, words(counts.equal)?);
            for (i, query) in rows.clone().enumerate() {
                if let Some(&at) = of_query[query].get(place) {
                    (all[at].greater, all[at].equal) = (greater[i], equal[i]);
                }
            }
        }
    }
    Ok(())
}

/// How many rows before each target score as it does.
fn before_by_index(
    queries: &Tensor,
    corpus: &Tensor,
    all: &[Counted],
    before: &mut [u32],
) -> Result<()> {
    let tied: Vec<usize> =
        (0..all.len()).filter(|&i| all[i].equal > 1 && !all[i].score.is_nan()).collect();
    if tied.is_empty() {
        return Ok(());
    }
    let some = picked(queries, tied.iter().map(|&i| all[i].query as u32))?;
    let groups = rows::groups(tied.len(), corpus.shape()[0]);
    rows::products(&some, corpus, |group, columns, slab| {
        let scores = slab.to_vec::<f32>()?;
        for (&i, scores) in tied[groups[group].clone()].iter().zip(scores.chunks(columns.len())) {
            let earlier = (all[i].target as usize).saturating_sub(columns.start);
            let earlier = &scores[..earlier.min(scores.len())];
            before[i] += earlier.iter().filter(|&&s| s == all[i].score).count() as u32;
        }
        Ok(())
    })
}
