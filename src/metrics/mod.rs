//! Retrieval quality, as BEIR and trec_eval measure it.
//!
//! Judgements map a document's id to its grade; a grade of 0 or less, like no judgement, means not relevant. Ranked
//! ids are best first; each function gives the value for one query, to be averaged over queries.

use std::collections::HashMap;

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
    fn nothing_relevant_and_nothing_found_are_zero() {
        let none: HashMap<String, i32> = [("a".to_string(), 0), ("b".to_string(), -1)].into();
        let empty: [&str; 0] = [];
        for f in [ndcg_at::<&str>, recall_at::<&str>, mrr_at::<&str>] {
            assert_eq!(f(10, &["a", "b"], &none), 0.0);
            assert_eq!(f(10, &empty, &judged()), 0.0);
            assert_eq!(f(0, &["a"], &judged()), 0.0);
        }
    }
}
