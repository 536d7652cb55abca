//! Measures of one query's ranking against graded judgements.

use std::collections::{HashMap, HashSet};

/// Normalised discounted cumulative gain of the first `k` (Järvelin, Kekäläinen 2002), with linear gains:
/// `DCG = Σ grade_r / log2(r + 1)` over ranks r from 1, divided by the DCG of the best possible ranking. 0 if nothing is
/// relevant.
pub fn ndcg_at<S: AsRef<str>>(k: usize, ranked: &[S], judgements: &HashMap<String, i32>) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.take(k).enumerate().map(|(i, gain)| gain / (i as f64 + 2.0).log2()).sum()
    };
    let mut grades: Vec<f64> = judgements.values().map(|&g| gain(g)).filter(|&g| g > 0.0).collect();
    grades.sort_by(|a, b| b.total_cmp(a));
    let ideal = discounted(&mut grades.into_iter());
    if ideal == 0.0 {
        return 0.0;
    }
    let found = ranked.iter().map(|id| judgements.get(id.as_ref()).map_or(0.0, |&g| gain(g)));
    discounted(&mut { found }) / ideal
}

/// The share of the relevant documents that are among the first `k`. 0 if nothing is relevant.
pub fn recall_at<S: AsRef<str>>(k: usize, ranked: &[S], judgements: &HashMap<String, i32>) -> f64 {
    let relevant = judgements.values().filter(|&&g| g > 0).count();
    if relevant == 0 {
        return 0.0;
    }
    let found = ranked.iter().take(k).filter(|id| is_relevant(id.as_ref(), judgements)).count();
    found as f64 / relevant as f64
}

/// The reciprocal rank of the first relevant document among the first `k`; 0 if there is none.
pub fn mrr_at<S: AsRef<str>>(k: usize, ranked: &[S], judgements: &HashMap<String, i32>) -> f64 {
    let first = ranked.iter().take(k).position(|id| is_relevant(id.as_ref(), judgements));
    first.map_or(0.0, |i| 1.0 / (i as f64 + 1.0))
}

/// The precision of the first `k`: how many of them are relevant, over `k`, as trec_eval's P. 0 if `k` is 0.
pub fn precision_at<S: AsRef<str>>(
    k: usize,
    ranked: &[S],
    judgements: &HashMap<String, i32>,
) -> f64 {
    let found = ranked.iter().take(k).filter(|id| is_relevant(id.as_ref(), judgements)).count();
    found as f64 / k.max(1) as f64
}

/// 1 if one of the first `k` is relevant, else 0: trec_eval's success.
pub fn hit_at<S: AsRef<str>>(k: usize, ranked: &[S], judgements: &HashMap<String, i32>) -> f64 {
    f64::from(ranked.iter().take(k).any(|id| is_relevant(id.as_ref(), judgements)))
}

/// Average precision of the first `k`: the precisions at the ranks of relevant documents, added, over `min(relevant, k)`, as CIRCO's
/// mAP@k (Baldrati et al., arXiv:2303.15247). 0 if nothing is relevant or `k` is 0.
pub fn average_precision_at<S: AsRef<str>>(
    k: usize,
    ranked: &[S],
    judgements: &HashMap<String, i32>,
) -> f64 {
    let relevant = judgements.values().filter(|&&g| g > 0).count();
    precisions(k, ranked, judgements) / relevant.min(k).max(1) as f64
}

/// Average precision of the whole ranking, over all that is relevant, as trec_eval's map. 0 if nothing is relevant.
pub fn average_precision<S: AsRef<str>>(ranked: &[S], judgements: &HashMap<String, i32>) -> f64 {
    average_precision_at(usize::MAX, ranked, judgements)
}

/// The precision of the first R, R being how many documents are relevant, as trec_eval's Rprec. 0 if none is.
pub fn r_precision<S: AsRef<str>>(ranked: &[S], judgements: &HashMap<String, i32>) -> f64 {
    precision_at(judgements.values().filter(|&&g| g > 0).count(), ranked, judgements)
}

/// A ranking without what is not in `group`, in its order: subset recall is [`recall_at`] of it, as CIRR measures among six images
/// (Liu et al., arXiv:2108.04024).
pub fn within<'a, S: AsRef<str>>(ranked: &'a [S], group: &[S]) -> Vec<&'a str> {
    let group: HashSet<&str> = group.iter().map(AsRef::as_ref).collect();
    ranked.iter().map(AsRef::as_ref).filter(|id| group.contains(id)).collect()
}

/// The precisions at the ranks of relevant documents among the first `k`, added.
fn precisions<S: AsRef<str>>(k: usize, ranked: &[S], judgements: &HashMap<String, i32>) -> f64 {
    let ranks = ranked.iter().take(k).zip(1u32..);
    let relevant = ranks.filter(|(id, _)| is_relevant(id.as_ref(), judgements));
    relevant.zip(1u32..).map(|((_, rank), found)| f64::from(found) / f64::from(rank)).sum()
}

fn gain(grade: i32) -> f64 {
    f64::from(grade.max(0))
}

fn is_relevant(id: &str, judgements: &HashMap<String, i32>) -> bool {
    judgements.get(id).is_some_and(|&g| g > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged() -> HashMap<String, i32> {
        [("a", 3), ("b", 2), ("c", 1), ("d", 0), ("e", -1)].map(|(id, g)| (id.into(), g)).into()
    }

    #[test]
    fn hand_computed_values() {
        // DCG 2/log2(2) + 0 + 3/log2(4) = 3.5; ideal 3 + 2/log2(3) + 1/2 = 4.761859…
        let ranked = ["b", "x", "a", "e"];
        let ideal = 3.0 + 2.0 / 3f64.log2() + 0.5;
        assert!((ndcg_at(10, &ranked, &judged()) - 3.5 / ideal).abs() < 1e-12);
        // Cut at 2: DCG 2; ideal 3 + 2/log2(3).
        assert!((ndcg_at(2, &ranked, &judged()) - 2.0 / (3.0 + 2.0 / 3f64.log2())).abs() < 1e-12);
        assert_eq!(ndcg_at(10, &["a", "b", "c"], &judged()), 1.0);
        assert!((recall_at(10, &ranked, &judged()) - 2.0 / 3.0).abs() < 1e-12);
        assert!((recall_at(1, &ranked, &judged()) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(mrr_at(10, &ranked, &judged()), 1.0);
        assert_eq!(mrr_at(10, &["d", "e", "c"], &judged()), 1.0 / 3.0);
        assert_eq!(mrr_at(2, &["d", "e", "c"], &judged()), 0.0);
    }

    #[test]
    fn hand_computed_precisions() {
        // Relevant are a, b, c; found at ranks 1 and 3.
        let ranked = ["b", "x", "a", "e"];
        let (judged, third) = (judged(), 1.0 / 3.0);
        assert_eq!(precision_at(2, &ranked, &judged), 0.5);
        assert_eq!(precision_at(10, &ranked, &judged), 0.2);
        assert!((r_precision(&ranked, &judged) - 2.0 * third).abs() < 1e-12);
        assert!((average_precision(&ranked, &judged) - (1.0 + 2.0 * third) * third).abs() < 1e-12);
        assert_eq!(average_precision_at(2, &ranked, &judged), 0.5);
        assert_eq!(average_precision_at(1, &ranked, &judged), 1.0);
        assert_eq!([1, 2].map(|k| hit_at(k, &ranked[1..], &judged)), [0.0, 1.0]);
        assert_eq!(within(&ranked, &["a", "e", "y"]), ["a", "e"]);
    }

    #[test]
    fn nothing_relevant_and_nothing_found_are_zero() {
        let none: HashMap<String, i32> = [("a".to_string(), 0), ("b".to_string(), -1)].into();
        let empty: [&str; 0] = [];
        for f in [
            ndcg_at::<&str>,
            recall_at::<&str>,
            mrr_at::<&str>,
            precision_at::<&str>,
            average_precision_at::<&str>,
            hit_at::<&str>,
        ] {
            assert_eq!(f(10, &["a", "b"], &none), 0.0);
            assert_eq!(f(10, &empty, &judged()), 0.0);
            assert_eq!(f(0, &["a"], &judged()), 0.0);
        }
    }
}
