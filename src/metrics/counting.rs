//! The ranks of targets by counting what is above them: nothing is sorted, and no matrix of scores is kept.

use std::cmp::Reverse;

use super::ranks::{Ranks, Ties};
use crate::ops::rows::{self, Reducer, Reduction};
use crate::ops::topk::{Metric, as_dots};
use crate::ops::{check_devices, check_float, matrix};
use crate::{Error, Offsets, Result, Tensor};

const OP: &str = "Ranks::count";
/// Targets whose rows are copied at a time.
const PICKED: usize = 4096;

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
    /// Scores are formed in slabs of at most 32 MiB, once, and each target is counted in its own query's. The workspace is a slab and at
    /// most a copy of it, for cosines a unit copy of both matrices, a copy of the queries where numbers of targets differ, the rows of
    /// 4096 targets, and 12 bytes for each target. With [`Ties::ByIndex`] the scores of queries with ties are formed once more.
    ///
    /// ```
    /// use nearkin::metrics::{Ranks, Ties};
    /// use nearkin::ops::topk::Metric;
    /// use nearkin::{Device, Tensor};
    ///
    /// let device = Device::cpu();
    /// let corpus = Tensor::from_slice(&device, &[3, 2], &[1.0f32, 0.0, 0.0, 1.0, 0.6, 0.8])?;
    /// let queries = Tensor::from_slice(&device, &[2, 2], &[0.9f32, 0.1, 0.1, 0.9])?;
    /// let ranks = Ranks::count(&queries, &corpus, &[&[0][..], &[0, 2]], Metric::Cosine, Ties::Best)?;
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
    for some in all.chunks_mut(PICKED) {
        let of_queries = picked(queries, some.iter().map(|c| c.query as u32))?;
        let of_targets = picked(corpus, some.iter().map(|c| c.target))?;
        for (counted, score) in some.iter_mut().zip(rows::paired(&of_queries, &of_targets)?) {
            counted.score = score;
        }
    }
    Ok(())
}

/// Counts for the first targets of all queries, for the second ones, and so on, in each slab. Queries with most targets are first, so
/// that those with a second target, a third and so on are the first rows of their group.
fn count_all(queries: &Tensor, corpus: &Tensor, all: &mut [Counted]) -> Result<()> {
    let (device, m, n) = (queries.device(), queries.shape()[0], corpus.shape()[0]);
    // The numbers, in `all`, of a query's targets.
    let mut of_query: Vec<Vec<usize>> = vec![Vec::new(); m];
    for (i, counted) in all.iter().enumerate() {
        of_query[counted.query].push(i);
    }
    let mut order: Vec<usize> = (0..m).filter(|&q| !of_query[q].is_empty()).collect();
    order.sort_by_key(|&q| Reverse(of_query[q].len()));
    let queries = match order.iter().copied().eq(0..m) {
        true => queries.clone(),
        false => picked(queries, order.iter().map(|&q| q as u32))?,
    };
    let segments = Offsets::from_lengths(device, &[n])?;
    // For each group and place: the targets of the queries with that many targets, and their scores on the device.
    let mut places: Vec<Vec<(Vec<usize>, Tensor)>> = Vec::new();
    for rows in rows::groups(order.len(), n) {
        let own: Vec<&[usize]> = order[rows].iter().map(|&q| of_query[q].as_slice()).collect();
        let most = own.first().map_or(0, |own| own.len());
        let place = |place: usize| {
            let targets: Vec<usize> = own.iter().map_while(|own| own.get(place).copied()).collect();
            let scores: Vec<f32> = targets.iter().map(|&i| all[i].score).collect();
            Ok((targets, Tensor::from_slice(device, &[scores.len()], &scores)?))
        };
        places.push((0..most).map(place).collect::<Result<_>>()?);
    }
    let mut reducers = Vec::new();
    for places in &places {
        let new = places.iter().map(|(targets, scores)| {
            Reducer::new(device, targets.len(), &segments, 1.0, Reduction::Above(scores))
        });
        reducers.push(new.collect::<Result<Vec<_>>>()?);
    }
    rows::products(&queries, corpus, |group, _, slab| {
        let mut slab = slab.clone();
        for (reducer, (targets, _)) in reducers[group].iter_mut().zip(&places[group]) {
            slab = rows::part(&slab, 0..targets.len())?;
            reducer.take(&slab)?;
        }
        Ok(())
    })?;
    for (reducer, (targets, _)) in reducers.into_iter().flatten().zip(places.iter().flatten()) {
        let counts = reducer.finish()?;
        let words = |t: Option<Tensor>| t.map_or(Ok(Vec::new()), |t| t.to_vec::<u32>());
        let (greater, equal) = (words(counts.numbers)?, words(counts.equal)?);
        for (&i, (greater, equal)) in targets.iter().zip(greater.into_iter().zip(equal)) {
            (all[i].greater, all[i].equal) = (greater, equal);
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
    for tied in tied.chunks(PICKED) {
        let some = picked(queries, tied.iter().map(|&i| all[i].query as u32))?;
        let groups = rows::groups(tied.len(), corpus.shape()[0]);
        rows::products(&some, corpus, |group, columns, slab| {
            let (tied, scores) = (&tied[groups[group].clone()], slab.to_vec::<f32>()?);
            for (&i, scores) in tied.iter().zip(scores.chunks(columns.len())) {
                let earlier = (all[i].target as usize).saturating_sub(columns.start);
                let earlier = &scores[..earlier.min(scores.len())];
                before[i] += earlier.iter().filter(|&&s| s == all[i].score).count() as u32;
            }
            Ok(())
        })?;
    }
    Ok(())
}
