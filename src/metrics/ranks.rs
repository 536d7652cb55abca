//! The ranks of targets, and what is measured of them.

use std::ops::Range;

use crate::{Error, Result};

/// The rank of a target that ties with other rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Before all of them: 1 + how many are greater (Ramshetty et al., arXiv:2306.11065).
    Best,
    /// After all of them.
    Worst,
    /// In their middle; it may be a half.
    Mean,
    /// By the lower row number, as searches rank.
    ByIndex,
}

/// Which middle of an even number of ranks is their median. Releases differ: torch's `median` is the lower one, NumPy's the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Median {
    /// The mean of both (X-Pool).
    Middle,
    /// That mean, rounded down (SGRAF).
    Floor,
    /// The lower one (MeVTR).
    Lower,
    /// The upper one.
    Upper,
}

/// What a query with several targets has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One of them: 1 or 0 a query.
    Any,
    /// All of them: 1 or 0 a query.
    All,
    /// The share of them that is found.
    Share,
}

/// Which rank stands for a query with several targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The best.
    Best,
    /// Their mean.
    Mean,
    /// The worst.
    Worst,
}

/// For each query the ranks of its targets, from 1; infinite for one that is not ranked at all. Queries without a target are left
/// out of every mean, and a mean of no query is 0.
///
/// ```
/// use nearkin::metrics::{Median, Of, Ranks, Wanted};
///
/// // The first query has two targets; one of them was found.
/// let found = [&[4u64, 0, 9][..], &[7, 2]];
/// let ranks = Ranks::from_rankings(&found, &[&[0, 5][..], &[2]])?;
/// assert_eq!(ranks.recall_at(2, Wanted::Any), 1.0);
/// assert_eq!(ranks.recall_at(2, Wanted::Share), 0.75);
/// assert_eq!(ranks.median_rank(Of::Best, Median::Middle), 2.0);
/// # Ok::<(), nearkin::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Ranks {
    /// \[queries + 1\]
    bounds: Vec<usize>,
    /// Ascending within a query.
    ranks: Vec<f64>,
}

impl Ranks {
    /// Ranks that are known: for each query those of its targets, in any order.
    ///
    /// # Errors
    /// [`Error::Argument`] if one is below 1 or NaN.
    pub fn new<Q: AsRef<[f64]>>(queries: &[Q]) -> Result<Ranks> {
        let mut all = Ranks { bounds: vec![0], ranks: Vec::new() };
        for ranks in queries {
            let ranks = ranks.as_ref();
            if let Some(wrong) = ranks.iter().find(|rank| rank.is_nan() || **rank < 1.0) {
                return Err(Error::argument("ranks", "ranks from 1 on", wrong.to_string()));
            }
            all.push(ranks.iter().copied());
        }
        Ok(all)
    }

    /// The ranks of targets in what was found for each query, best first: those that were not found have no rank. It measures what
    /// a search for k rows shows; [`count`](Ranks::count) has the ranks among all rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many sets of targets as rankings.
    pub fn from_rankings<T: PartialEq, R: AsRef<[T]>, S: AsRef<[T]>>(
        found: &[R],
        targets: &[S],
    ) -> Result<Ranks> {
        if found.len() != targets.len() {
            let expected = format!("targets of {} queries", found.len());
            return Err(Error::shape("Ranks::from_rankings", expected, targets.len().to_string()));
        }
        let mut all = Ranks { bounds: vec![0], ranks: Vec::new() };
        for (found, targets) in found.iter().zip(targets) {
            let rank = |target: &T| match found.as_ref().iter().position(|row| row == target) {
                Some(place) => place as f64 + 1.0,
                None => f64::INFINITY,
            };
            all.push(targets.as_ref().iter().map(rank));
        }
        Ok(all)
    }

    pub(super) fn push(&mut self, ranks: impl Iterator<Item = f64>) {
        let start = self.ranks.len();
        self.ranks.extend(ranks);
        self.ranks[start..].sort_by(f64::total_cmp);
        self.bounds.push(self.ranks.len());
    }

    pub(super) fn none() -> Ranks {
        Ranks { bounds: vec![0], ranks: Vec::new() }
    }

    /// The number of queries.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Whether there are no queries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ranks of a query's targets, ascending; none for a query that is not there.
    pub fn get(&self, query: usize) -> &[f64] {
        match self.bounds.get(query..query.saturating_add(2)) {
            Some(&[start, end]) => &self.ranks[start..end],
            _ => &[],
        }
    }

    /// The ranks of each query's targets in turn, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.len()).map(|q| self.get(q))
    }

    /// A measure of each query that has a target.
    fn each(&self, measure: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        self.iter().filter(|ranks| !ranks.is_empty()).map(measure).collect()
    }

    /// Recall@k of each query that has a target.
    pub fn recalls_at(&self, k: usize, wanted: Wanted) -> Vec<f64> {
        self.each(|ranks| {
            let found = ranks.partition_point(|&rank| rank <= k as f64);
            match wanted {
                Wanted::Any => f64::from(found > 0),
                Wanted::All => f64::from(found == ranks.len()),
                Wanted::Share => found as f64 / ranks.len() as f64,
            }
        })
    }

    /// The mean of [`recalls_at`](Self::recalls_at).
    pub fn recall_at(&self, k: usize, wanted: Wanted) -> f64 {
        mean(&self.recalls_at(k, wanted))
    }

    /// The cumulative matching characteristic: for each k from 1 to `most` the share of queries with a target among the first k.
    pub fn cmc(&self, most: usize) -> Vec<f64> {
        (1..=most).map(|k| self.recall_at(k, Wanted::Any)).collect()
    }

    /// The rank that stands for each query with a target.
    pub fn of(&self, of: Of) -> Vec<f64> {
        self.each(|ranks| match of {
            Of::Best => ranks[0],
            Of::Mean => mean(ranks),
            Of::Worst => ranks[ranks.len() - 1],
        })
    }

    /// The mean rank (MnR).
    pub fn mean_rank(&self, of: Of) -> f64 {
        mean(&self.of(of))
    }

    /// The median rank (MedR).
    pub fn median_rank(&self, of: Of, median: Median) -> f64 {
        let mut ranks = self.of(of);
        ranks.sort_by(f64::total_cmp);
        let n = ranks.len();
        if n == 0 {
            return 0.0;
        }
        let (lower, upper) = (ranks[(n - 1) / 2], ranks[n / 2]);
        // Of two infinite ranks the mean is.
        let middle = if lower == upper { lower } else { (lower + upper) / 2.0 };
        match median {
            Median::Middle => middle,
            Median::Floor => middle.floor(),
            Median::Lower => lower,
            Median::Upper => upper,
        }
    }

    /// The mean reciprocal rank of the best target.
    pub fn mrr(&self) -> f64 {
        mean(&self.each(|ranks| 1.0 / ranks[0]))
    }

    /// The mean of average precisions, over all targets. Targets of one query must not share a rank: with [`Ties::ByIndex`] they do not.
    pub fn mean_average_precision(&self) -> f64 {
        self.mean_average_precision_at(usize::MAX)
    }

    /// The mean of average precisions of the first `k`, over `min(targets, k)` (CIRCO's mAP@k). 0 if `k` is 0.
    pub fn mean_average_precision_at(&self, k: usize) -> f64 {
        mean(&self.each(|ranks| {
            let found = ranks.iter().take_while(|&&rank| rank <= k as f64);
            let sum: f64 = found.zip(1u32..).map(|(rank, i)| f64::from(i) / rank).sum();
            sum / ranks.len().min(k).max(1) as f64
        }))
    }

    /// The mean inverse negative penalty: the number of targets over the rank of the last one (Ye et al., arXiv:2001.04193).
    pub fn minp(&self) -> f64 {
        mean(&self.each(|ranks| ranks.len() as f64 / ranks[ranks.len() - 1]))
    }

    /// The mean share of targets among the first R, R being how many there are.
    pub fn r_precision(&self) -> f64 {
        let found = |ranks: &[f64]| ranks.partition_point(|&rank| rank <= ranks.len() as f64);
        mean(&self.each(|ranks| found(ranks) as f64 / ranks.len() as f64))
    }
}

/// Recall at 1, 5 and 10 in both directions, as image-text retrieval reports it: shares, of one target where there are several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recalls {
    /// From the first modality to the second, such as from images to texts.
    pub forward: [f64; 3],
    /// And back.
    pub backward: [f64; 3],
}

impl Recalls {
    /// Of the ranks in both directions.
    pub fn of(forward: &Ranks, backward: &Ranks) -> Recalls {
        let at = |ranks: &Ranks| [1, 5, 10].map(|k| ranks.recall_at(k, Wanted::Any));
        Recalls { forward: at(forward), backward: at(backward) }
    }

    /// The sum of all six, in percent (rsum).
    pub fn sum(&self) -> f64 {
        self.forward.iter().chain(&self.backward).sum::<f64>() * 100.0
    }

    /// The mean of each of several, such as COCO's five [`folds`]; None of none.
    pub fn mean(all: &[Recalls]) -> Option<Recalls> {
        let of = |get: fn(&Recalls) -> [f64; 3]| {
            [0, 1, 2].map(|i| mean(&all.iter().map(|r| get(r)[i]).collect::<Vec<f64>>()))
        };
        (!all.is_empty())
            .then(|| Recalls { forward: of(|r| r.forward), backward: of(|r| r.backward) })
    }
}

/// `items` items in `count` folds of consecutive ones, as even as they can be: COCO-1K is the mean over five folds of 1000 images and
/// their captions, each ranked within its own fold.
///
/// # Errors
/// [`Error::Argument`] if `count` is 0 or exceeds `items`.
pub fn folds(items: usize, count: usize) -> Result<Vec<Range<usize>>> {
    if count == 0 || count > items {
        let expected = format!("1 to {items} folds");
        return Err(Error::argument("count", expected, count.to_string()));
    }
    Ok((0..count).map(|i| items * i / count..items * (i + 1) / count).collect())
}

/// The mean over items of the variance of an item's ranks in several rankings, such as those of its captions in several languages
/// (mean rank variance: Nie et al., arXiv:2406.18254): `rankings` \[K\] of ranks \[M\]. 0 without rankings or items; NaN if a rank is
/// infinite.
///
/// # Errors
/// [`Error::Shape`] if the rankings are of different lengths.
pub fn rank_variance<R: AsRef<[f64]>>(rankings: &[R]) -> Result<f64> {
    Ok(mean(&variances(rankings)?))
}

/// As [`rank_variance`], of the standard deviations, which is what the paper's code reports.
///
/// # Errors
/// As [`rank_variance`].
pub fn rank_deviation<R: AsRef<[f64]>>(rankings: &[R]) -> Result<f64> {
    Ok(mean(&variances(rankings)?.iter().map(|v| v.sqrt()).collect::<Vec<f64>>()))
}

/// The population variance of each item's ranks.
fn variances<R: AsRef<[f64]>>(rankings: &[R]) -> Result<Vec<f64>> {
    let Some(first) = rankings.first() else { return Ok(Vec::new()) };
    let items = first.as_ref().len();
    if let Some(other) = rankings.iter().find(|r| r.as_ref().len() != items) {
        let expected = format!("rankings of {items} items");
        return Err(Error::shape("rank_variance", expected, other.as_ref().len().to_string()));
    }
    let variance = |item: usize| {
        let ranks: Vec<f64> = rankings.iter().map(|r| r.as_ref()[item]).collect();
        let centre = mean(&ranks);
        mean(&ranks.iter().map(|rank| (rank - centre).powi(2)).collect::<Vec<f64>>())
    };
    Ok((0..items).map(variance).collect())
}

/// 0 of nothing.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks() -> Ranks {
        Ranks::new(&[&[3.0, 1.0][..], &[6.0], &[], &[2.0, 4.0, 5.0]]).unwrap()
    }

    #[test]
    fn hand_computed_values() {
        let ranks = ranks();
        assert_eq!((ranks.len(), ranks.get(0), ranks.get(9)), (4, &[1.0, 3.0][..], &[][..]));
        assert_eq!(ranks.recalls_at(4, Wanted::Any), [1.0, 0.0, 1.0]);
        assert_eq!(ranks.recalls_at(4, Wanted::All), [1.0, 0.0, 0.0]);
        assert_eq!(ranks.recalls_at(4, Wanted::Share), [1.0, 0.0, 2.0 / 3.0]);
        assert_eq!(ranks.recall_at(0, Wanted::Any), 0.0);
        assert_eq!(ranks.cmc(2), [1.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(ranks.of(Of::Mean), [2.0, 6.0, 11.0 / 3.0]);
        assert_eq!(ranks.mean_rank(Of::Worst), 14.0 / 3.0);
        assert!((ranks.mrr() - (1.0 + 1.0 / 6.0 + 0.5) / 3.0).abs() < 1e-12);
        let map = (1.0 + 2.0 / 3.0) / 2.0 + 1.0 / 6.0 + (0.5 + 0.5 + 0.6) / 3.0;
        assert!((ranks.mean_average_precision() - map / 3.0).abs() < 1e-12);
        let at_2 = (0.5 + 0.0 + 0.25) / 3.0;
        assert!((ranks.mean_average_precision_at(2) - at_2).abs() < 1e-12);
        assert_eq!(ranks.mean_average_precision_at(0), 0.0);
        assert!((ranks.minp() - (2.0 / 3.0 + 1.0 / 6.0 + 3.0 / 5.0) / 3.0).abs() < 1e-12);
        assert!((ranks.r_precision() - (0.5 + 0.0 + 1.0 / 3.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn medians_differ_where_ranks_are_even() {
        let ranks = Ranks::new(&[[1.0], [4.0], [9.0], [2.0]]).unwrap();
        let of = |median| ranks.median_rank(Of::Best, median);
        let all = [Median::Middle, Median::Floor, Median::Lower, Median::Upper].map(of);
        assert_eq!(all, [3.0, 3.0, 2.0, 4.0]);
        let lost = Ranks::new(&[[f64::INFINITY], [f64::INFINITY]]).unwrap();
        assert_eq!(lost.median_rank(Of::Best, Median::Middle), f64::INFINITY);
        assert_eq!(lost.mrr(), 0.0);
        assert_eq!(Ranks::none().median_rank(Of::Best, Median::Lower), 0.0);
        assert_eq!(Ranks::none().mean_average_precision(), 0.0);
    }

    #[test]
    fn recalls_are_summed_and_averaged() {
        let (one, far) = (Ranks::new(&[[1.0]]).unwrap(), Ranks::new(&[[7.0]]).unwrap());
        let both = Recalls::of(&one, &far);
        assert_eq!(both.sum(), 400.0);
        let mean = Recalls::mean(&[both, Recalls::of(&far, &far)]).unwrap();
        assert_eq!(mean, Recalls { forward: [0.5, 0.5, 1.0], backward: [0.0, 0.0, 1.0] });
        assert_eq!(Recalls::mean(&[]), None);
        assert_eq!(folds(7, 3).unwrap(), [0..2, 2..4, 4..7]);
        assert!(folds(2, 3).is_err() && folds(2, 0).is_err());
    }

    #[test]
    fn rank_variance_is_of_the_population() {
        let rankings = [[1.0, 4.0], [3.0, 4.0]];
        assert_eq!(rank_variance(&rankings).unwrap(), 0.5);
        assert_eq!(rank_deviation(&rankings).unwrap(), 0.5);
        assert_eq!(rank_deviation(&[[1.0, 4.0], [5.0, 4.0]]).unwrap(), 1.0);
        assert!(rank_variance(&[vec![1.0], vec![]]).is_err());
        assert_eq!(rank_variance::<Vec<f64>>(&[]).unwrap(), 0.0);
    }

    #[test]
    fn wrong_ranks_are_typed_errors() {
        assert!(matches!(Ranks::new(&[[0.5]]), Err(Error::Argument { .. })));
        assert!(matches!(Ranks::new(&[[f64::NAN]]), Err(Error::Argument { .. })));
        let unequal = Ranks::from_rankings(&[&[1u32][..]], &[&[][..], &[]]);
        assert!(matches!(unequal, Err(Error::Shape { .. })));
    }
}
