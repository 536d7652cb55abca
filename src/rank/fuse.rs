//! Fusion: several rankings of one query to one.
//!
//! A run is what one method found for a query: ids and scores, in any order. Ids are whatever has an order (row numbers, texts);
//! equal fused scores are ordered by them, the lesser first. A run without entries takes no part, so a query that one method
//! answers not at all keeps the other's ranking.
//!
//! | [`Score`] | what an entry of a run counts |
//! |---|---|
//! | [`Reciprocal`](Score::Reciprocal) | `1 / (k + rank)`, ranks from 1 (Cormack, Clarke, Büttcher, SIGIR 2009, with k = 60) |
//! | [`MinMax`](Score::MinMax) | `(s - min) / max(max - min, 1e-9)` over the run (PromptReps: Zhuang et al., arXiv:2404.18424) |
//! | [`ZScore`](Score::ZScore) | `(s - mean) / deviation` over the run, the population's; 0 if all are equal |
//! | [`Raw`](Score::Raw) | `s` |
//!
//! Each is multiplied by its run's weight and added in f64, in an order that does not depend on that of the runs, and rounded to f32.
//!
//! ```
//! use nearkin::rank::fuse::{Fusion, Score};
//!
//! let dense = [("a", 0.9), ("b", 0.8), ("c", 0.1)];
//! let sparse = [("c", 12.0), ("b", 9.0)];
//! let fused = Fusion::new(Score::Reciprocal { k: 60.0 }).fuse(&[&dense, &sparse], 2)?;
//! assert_eq!(fused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["c", "b"]);
//! # Ok::<(), nearkin::Error>(())
//! ```

use std::collections::BTreeMap;

use super::descending;
use crate::{Error, Result};

/// What an entry of a run counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// The reciprocal of its rank, moved by `k`. Entries of equal scores are ranked by their ids.
    Reciprocal {
        /// How little ranks differ; 0 or more, usually 60.
        k: f32,
    },
    /// Its place between the run's lowest and highest score.
    MinMax,
    /// Its distance from the run's mean, in deviations.
    ZScore,
    /// Its score.
    Raw,
}

/// What an id counts in a run that lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing. The default of reciprocal ranks and min-max scores.
    Zero,
    /// What the run's lowest entry counts. The default of z-scores and raw scores, of which 0 may be a good one.
    Lowest,
    /// An id that a run lacks is left out altogether.
    Excluded,
}

/// How runs are fused.
#[derive(Clone, Debug)]
pub struct Fusion {
    score: Score,
    missing: Missing,
    weights: Option<Vec<f32>>,
}

impl Fusion {
    /// With equal weights, and what is missing by the default of `score`.
    pub fn new(score: Score) -> Fusion {
        let missing = match score {
            Score::Reciprocal { .. } | Score::MinMax => Missing::Zero,
            Score::ZScore | Score::Raw => Missing::Lowest,
        };
        Fusion { score, missing, weights: None }
    }

    /// With a weight for each run; equal ones are 1.
    pub fn weights(self, weights: &[f32]) -> Fusion {
        Fusion { weights: Some(weights.to_vec()), ..self }
    }

    /// With another count of what is missing.
    pub fn missing(self, missing: Missing) -> Fusion {
        Fusion { missing, ..self }
    }

    /// The `k` best of all ids in the runs, with their fused scores, best first.
    ///
    /// # Errors
    /// [`Error::Argument`] if a score is NaN or infinite, an id is twice in a run, `k` is 0, a weight is not finite, or the `k` of
    /// [`Score::Reciprocal`] is negative or not finite, or a sum is beyond f32; [`Error::Shape`] if there is not one weight a run.
    pub fn fuse<I: Clone + Ord>(&self, runs: &[&[(I, f32)]], k: usize) -> Result<Vec<(I, f32)>> {
        if k == 0 {
            return Err(Error::argument("k", "at least 1", "0"));
        }
        if let Score::Reciprocal { k } = self.score
            && !(k.is_finite() && k >= 0.0)
        {
            return Err(Error::argument("score", "a finite k from 0 on", k.to_string()));
        }
        let weights = match &self.weights {
            None => vec![1.0; runs.len()],
            Some(weights) => weights.clone(),
        };
        if weights.len() != runs.len() {
            let expected = format!("a weight for each of {} runs", runs.len());
            return Err(Error::shape("Fusion::fuse", expected, weights.len().to_string()));
        }
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::argument("weights", "finite numbers", weight.to_string()));
        }
        // What each id counts in the runs that take part, and what one counts that a run lacks.
        let mut all: BTreeMap<&I, Vec<Option<f64>>> = BTreeMap::new();
        let mut lacking = Vec::new();
        let taking_part = runs.iter().zip(&weights).filter(|(run, _)| !run.is_empty());
        for (number, (run, weight)) in taking_part.enumerate() {
            let counted = self.counted(run)?;
            lacking.push(match self.missing {
                Missing::Lowest => {
                    let least = counted.iter().map(|(_, s)| *s).fold(f64::INFINITY, f64::min);
                    Some(f64::from(*weight) * least)
                }
                Missing::Zero => Some(0.0),
                Missing::Excluded => None,
            });
            for (id, score) in counted {
                let own = all.entry(id).or_default();
                own.resize(number, None);
                own.push(Some(f64::from(*weight) * score));
            }
        }
        let mut fused: Vec<(&I, f32)> = Vec::with_capacity(all.len());
        for (id, mut own) in all {
            own.resize(lacking.len(), None);
            let each = own.iter().zip(&lacking).map(|(own, lacking)| own.or(*lacking));
            let Some(mut each) = each.collect::<Option<Vec<f64>>>() else { continue };
            // In an order of their own, so that that of the runs does not matter.
            each.sort_by(f64::total_cmp);
            let score = each.iter().sum::<f64>() as f32;
            if !score.is_finite() {
                let expected = "weights and scores whose sum is an f32";
                return Err(Error::argument("weights", expected, score.to_string()));
            }
            fused.push((id, score));
        }
        // Stable: equal scores stay in the order of their ids.
        fused.sort_by(|a, b| descending(a.1, b.1));
        fused.truncate(k);
        Ok(fused.into_iter().map(|(id, score)| (id.clone(), score)).collect())
    }

    /// What each entry of a run counts.
    fn counted<'a, I: Ord>(&self, run: &'a [(I, f32)]) -> Result<Vec<(&'a I, f64)>> {
        let mut ranked: Vec<(&I, f64)> = Vec::with_capacity(run.len());
        for (place, (id, score)) in run.iter().enumerate() {
            if !score.is_finite() {
                let got = format!("{score} at place {place}");
                return Err(Error::argument("a run", "finite scores", got));
            }
            ranked.push((id, f64::from(*score)));
        }
        ranked.sort_by(|a, b| a.0.cmp(b.0));
        if let Some(at) = ranked.windows(2).position(|pair| pair[0].0 == pair[1].0) {
            let twice = run.iter().rposition(|(id, _)| id == ranked[at].0).unwrap_or(0);
            return Err(Error::argument(
                "a run",
                "each id once",
                format!("one twice, at place {twice}"),
            ));
        }
        ranked.sort_by(|a, b| descending(a.1, b.1));
        let n = ranked.len() as f64;
        let count: Box<dyn Fn(usize, f64) -> f64> = match self.score {
            Score::Reciprocal { k } => {
                Box::new(move |place, _| 1.0 / (f64::from(k) + place as f64 + 1.0))
            }
            Score::MinMax => {
                let (most, least) = (ranked[0].1, ranked[ranked.len() - 1].1);
                Box::new(move |_, score| (score - least) / (most - least).max(1e-9))
            }
            Score::ZScore => {
                let mean = ranked.iter().map(|(_, s)| s).sum::<f64>() / n;
                let squares: f64 = ranked.iter().map(|(_, s)| (s - mean) * (s - mean)).sum();
                let deviation = (squares / n).sqrt();
                Box::new(
                    move |_, score| {
                        if deviation == 0.0 { 0.0 } else { (score - mean) / deviation }
                    },
                )
            }
            Score::Raw => Box::new(|_, score| score),
        };
        Ok(ranked.iter().enumerate().map(|(place, &(id, s))| (id, count(place, s))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: [(u32, f32); 3] = [(4, 0.5), (1, 2.5), (7, 1.0)];
    const SPARSE: [(u32, f32); 2] = [(7, 30.0), (9, 10.0)];

    fn assert_fused(fusion: &Fusion, want: &[(u32, f64)]) {
        let got = fusion.fuse(&[&DENSE, &SPARSE], 10).unwrap();
        assert_eq!(got.len(), want.len(), "{fusion:?}: {got:?}");
        for ((id, score), (want_id, want)) in got.iter().zip(want) {
            let is_close = (f64::from(*score) - want).abs() < 1e-6;
            assert!(id == want_id && is_close, "{fusion:?}: {got:?}");
        }
    }

    #[test]
    fn hand_computed_values() {
        let (second, first) = (1.0 / 62.0, 1.0 / 61.0);
        let of = |score| Fusion::new(score);
        let rrf = of(Score::Reciprocal { k: 60.0 });
        // 1 and 9 do not tie: 9 is second of its run.
        assert_fused(&rrf, &[(7, second + first), (1, first), (9, second), (4, 1.0 / 63.0)]);
        assert_fused(
            &rrf.clone().weights(&[1.0, 0.0]),
            &[(1, first), (7, second), (4, 1.0 / 63.0), (9, 0.0)],
        );
        assert_fused(&of(Score::MinMax), &[(7, 1.25), (1, 1.0), (4, 0.0), (9, 0.0)]);
        let excluded = of(Score::MinMax).missing(Missing::Excluded);
        assert_fused(&excluded, &[(7, 1.25)]);
        // Lacking in the first counts 0.5 there, in the second 10.
        assert_fused(&of(Score::Raw), &[(7, 31.0), (1, 12.5), (4, 10.5), (9, 10.5)]);
        let zero = of(Score::Raw).missing(Missing::Zero).weights(&[2.0, 0.125]);
        assert_fused(&zero, &[(7, 5.75), (1, 5.0), (9, 1.25), (4, 1.0)]);
        // Mean 4/3, deviation sqrt(13 / 18); the second run's entries are 1 and -1.
        let z = |s: f64| (s - 4.0 / 3.0) / (13.0f64 / 18.0).sqrt();
        let want = [(7, z(1.0) + 1.0), (1, z(2.5) - 1.0), (4, z(0.5) - 1.0), (9, z(0.5) - 1.0)];
        assert_fused(&of(Score::ZScore), &want);
        let constant: [(u32, f32); 2] = [(3, 5.0), (2, 5.0)];
        for score in [Score::ZScore, Score::MinMax] {
            let got = of(score).fuse(&[&constant], 10).unwrap();
            assert_eq!(got, [(2, 0.0), (3, 0.0)]);
        }
    }

    #[test]
    fn a_run_without_entries_takes_no_part() {
        for missing in [Missing::Zero, Missing::Lowest, Missing::Excluded] {
            let fusion = Fusion::new(Score::MinMax).missing(missing);
            let got = fusion.fuse(&[&DENSE, &[]], 2).unwrap();
            assert_eq!(got, [(1, 1.0), (7, 0.25)]);
        }
        assert!(Fusion::new(Score::Raw).fuse::<u32>(&[], 3).unwrap().is_empty());
    }

    #[test]
    fn neither_the_order_of_runs_nor_of_entries_matters() {
        let mut turned = DENSE;
        turned.reverse();
        for score in [Score::Reciprocal { k: 1.0 }, Score::MinMax, Score::ZScore, Score::Raw] {
            let fusion = Fusion::new(score);
            let one = fusion.fuse(&[&DENSE, &SPARSE], 4).unwrap();
            assert_eq!(one, fusion.fuse(&[&SPARSE, &turned], 4).unwrap(), "{score:?}");
        }
    }

    /// Sums of three depend on their order: 1/61 + 1/67 + 1/73 is not what the turned sum is.
    #[test]
    fn ids_with_the_same_ranks_in_other_runs_tie() {
        let run = |first: u32, seventh: u32, thirteenth: u32| -> Vec<(u32, f32)> {
            let id = |rank: u32| match rank {
                1 => first,
                7 => seventh,
                13 => thirteenth,
                rank => 100 + rank,
            };
            (1..=13).map(|rank| (id(rank), -(rank as f32))).collect()
        };
        let runs = [run(5, 3, 4), run(3, 4, 5), run(4, 5, 3)];
        let fusion = Fusion::new(Score::Reciprocal { k: 60.0 });
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let runs = order.map(|i| &runs[i][..]);
            let got = fusion.fuse(&runs, 3).unwrap();
            // 102 to 106 rank 2 to 6 in all runs.
            assert_eq!(got.iter().map(|e| e.0).collect::<Vec<_>>(), [102, 103, 104]);
            let all = fusion.fuse(&runs, 100).unwrap();
            let three: Vec<_> = all.iter().filter(|e| e.0 < 10).collect();
            assert_eq!(three.iter().map(|e| e.0).collect::<Vec<_>>(), [3, 4, 5]);
            assert!(three.iter().all(|e| e.1.to_bits() == three[0].1.to_bits()));
        }
    }

    #[test]
    fn wrong_runs_are_typed_errors() {
        let fusion = Fusion::new(Score::MinMax);
        let is_argument = |got: Result<Vec<(u32, f32)>>| matches!(got, Err(Error::Argument { .. }));
        assert!(is_argument(fusion.fuse(&[&DENSE], 0)));
        for wrong in [f32::NAN, f32::INFINITY] {
            assert!(is_argument(fusion.fuse(&[&[(1, wrong)]], 1)));
            assert!(is_argument(fusion.clone().weights(&[wrong]).fuse(&[&DENSE], 1)));
            assert!(is_argument(Fusion::new(Score::Reciprocal { k: wrong }).fuse(&[&DENSE], 1)));
        }
        assert!(is_argument(fusion.fuse(&[&[(1, 0.5), (2, 0.1), (1, 0.2)]], 1)));
        let heavy = Fusion::new(Score::Raw).weights(&[f32::MAX]);
        assert!(is_argument(heavy.fuse(&[&DENSE], 1)));
        let few = fusion.weights(&[1.0]).fuse(&[&DENSE, &SPARSE], 1);
        assert!(matches!(few, Err(Error::Shape { .. })));
    }
}
