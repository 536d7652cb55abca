//! Measures of a ranking against judgements, as in pytrec_eval and BEIR.
//!
//! A ranking is the ids found for a query, best first; an id that comes again counts at its first place only.
//! Judgements map ids to grades: a grade of at least 1 is relevant, 0 and below are not, and neither is what was not
//! judged. A query without relevant documents measures 0. Only the first `k` of a ranking count.

use std::collections::{HashMap, HashSet};

/// The grades of the first `k` of a ranking, 0 where not relevant.
fn gains<S: AsRef<str>>(k: usize, ranked: &[S], judged: &HashMap<String, i32>) -> Vec<i32> {
    let mut seen = HashSet::new();
    let grade = |id: &S| match seen.insert(id.as_ref().to_owned()) {
        true => judged.get(id.as_ref()).copied().unwrap_or(0).max(0),
        false => 0,
    };
    ranked.iter().take(k).map(grade).collect()
}

fn discounted(gains: &[i32]) -> f64 {
    gains.iter().enumerate().map(|(i, &g)| g as f64 / (i as f64 + 2.0).log2()).sum()
}

/// Normalised discounted cumulative gain with linear gains: `DCG / IDCG`, where `DCG` is the sum over ranks `i = 1..=k`
/// of `grade_i / log2(i + 1)`, and `IDCG` that of the best possible ranking of all judged documents.
pub fn ndcg_at<S: AsRef<str>>(k: usize, ranked: &[S], judged: &HashMap<String, i32>) -> f64 {
    let mut ideal: Vec<i32> = judged.values().copied().filter(|&g| g > 0).collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    ideal.truncate(k);
    match discounted(&ideal) {
        0.0 => 0.0,
        ideal => discounted(&gains(k, ranked, judged)) / ideal,
    }
}

/// The share of the relevant documents that is among the first `k`.
pub fn recall_at<S: AsRef<str>>(k: usize, ranked: &[S], judged: &HashMap<String, i32>) -> f64 {
    let relevant = judged.values().filter(|&&g| g > 0).count();
    let found = gains(k, ranked, judged).iter().filter(|&&g| g > 0).count();
    if relevant == 0 { 0.0 } else { found as f64 / relevant as f64 }
}

/// The reciprocal rank, `1 / i`, of the first relevant document, if it is among the first `k`; else 0. Its mean over
/// queries is the MRR.
pub fn mrr_at<S: AsRef<str>>(k: usize, ranked: &[S], judged: &HashMap<String, i32>) -> f64 {
    let first = gains(k, ranked, judged).iter().position(|&g| g > 0);
    first.map_or(0.0, |i| 1.0 / (i as f64 + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(of: &[(&str, i32)]) -> HashMap<String, i32> {
        of.iter().map(|(id, g)| (id.to_string(), *g)).collect()
    }

    #[track_caller]
    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-9, "{got}, expected {want}");
    }

    #[test]
    fn by_hand() {
        let judged = judged(&[("a", 3), ("b", 2), ("c", 1), ("d", 0), ("e", -1)]);
        let ranked = ["x", "b", "e", "a", "d", "c"];
        // DCG@5 = 2 / log2 3 + 3 / log2 5; IDCG = 3 + 2 / log2 3 + 1 / 2.
        close(ndcg_at(5, &ranked, &judged), 2.553_889_181_363_094 / 4.761_859_507_142_915);
        // With rank 6: + 1 / log2 7.
        close(ndcg_at(10, &ranked, &judged), 2.910_096_368_471_117 / 4.761_859_507_142_915);
        // The ideal is cut as well: IDCG@2 = 3 + 2 / log2 3.
        close(ndcg_at(2, &ranked, &judged), 1.261_859_507_142_915 / 4.261_859_507_142_915);
        close(recall_at(4, &ranked, &judged), 2.0 / 3.0);
        close(recall_at(100, &ranked, &judged), 1.0);
        close(recall_at(1, &ranked, &judged), 0.0);
        close(mrr_at(10, &ranked, &judged), 0.5);
        close(mrr_at(1, &ranked, &judged), 0.0);
    }

    #[test]
    fn edges() {
        let some = judged(&[("a", 1), ("b", 1)]);
        let none = judged(&[("a", 0), ("b", -2)]);
        for measure in [ndcg_at::<&str>, recall_at::<&str>, mrr_at::<&str>] {
            close(measure(10, &["a", "b"], &none), 0.0);
            close(measure(10, &[], &some), 0.0);
            close(measure(0, &["a", "b"], &some), 0.0);
            close(measure(10, &["b", "a"], &some), 1.0);
        }
        // An id found twice does not count twice.
        close(recall_at(10, &["a", "a"], &some), 0.5);
        close(ndcg_at(10, &["a", "a"], &some), 1.0 / 1.630_929_753_571_457_4);
    }
}
