//! Reranking: what is done with the candidates that a search found.
//!
//! Ids are whatever the caller has: row numbers, texts. Candidates keep their order where scores are equal. A scorer is any function
//! of candidates; one of the [`cur`](crate::search::cur) module's, such as a cross-encoder, is asked like this:
//!
//! ```
//! use nearkin::rank::rerank::up_to_k;
//! use nearkin::search::cur::{CrossScorer, MatrixScorer};
//!
//! // One query's scores with four items, of which a search found three.
//! let scorer = MatrixScorer::new(1, 4, &[0.9, 0.2, 0.4, 0.7])?;
//! let found = [1usize, 3, 2];
//! let kept = up_to_k(&found, 2, 0.3, |items| {
//!     scorer.score(&items.iter().map(|&item| (0, item)).collect::<Vec<_>>())
//! })?;
//! assert_eq!(kept, [(3, 0.7), (2, 0.4)]);
//! # Ok::<(), nearkin::Error>(())
//! ```

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

use super::descending;
use crate::ops::norm::l2_normalize;
use crate::ops::pool::{Pooling, pool};
use crate::ops::topk::{Metric, as_dots};
use crate::{Error, Offsets, Result, Tensor};

/// A scorer's scores of candidates, after a check.
fn scored<I>(candidates: &[I], score: impl FnOnce(&[I]) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let scores = score(candidates)?;
    if scores.len() != candidates.len() {
        let expected = format!("a score for each of {} candidates", candidates.len());
        return Err(Error::shape("reranking", expected, scores.len().to_string()));
    }
    match scores.iter().position(|score| score.is_nan()) {
        None => Ok(scores),
        Some(at) => {
            let got = format!("NaN for candidate {at}");
            Err(Error::argument("score", "a number", got))
        }
    }
}

/// The candidates that score at least `least`, best first, at most `k`: none to `k` of them (the adaptive context of Mortaheb et al.,
/// arXiv:2501.04695).
///
/// # Errors
/// [`Error::Argument`] if `k` is 0, `least` or a score is NaN; [`Error::Shape`] if there is not one score a candidate; what `score` gives.
pub fn up_to_k<I: Clone>(
    candidates: &[I],
    k: usize,
    least: f32,
    score: impl FnOnce(&[I]) -> Result<Vec<f32>>,
) -> Result<Vec<(I, f32)>> {
    if k == 0 {
        return Err(Error::argument("k", "at least 1", "0"));
    }
    if least.is_nan() {
        return Err(Error::argument("least", "a number", "NaN"));
    }
    let scores = scored(candidates, score)?;
    let mut kept: Vec<(I, f32)> =
        candidates.iter().cloned().zip(scores).filter(|(_, score)| *score >= least).collect();
    kept.sort_by(|a, b| descending(a.1, b.1));
    kept.truncate(k);
    Ok(kept)
}

/// The best entry of each group, best first, at most `k` groups: the best passage of each document, the surrogate of each group of
/// proposals (VLANet: Ma et al., arXiv:2008.10238). Entries may come in any order; of equal scores the first counts. NaN never is.
///
/// ```
/// use nearkin::rank::rerank::best_of_groups;
///
/// // Passages 0, 1, 2 are of document 7, passage 3 of document 8.
/// let passages = [(1u64, 0.9f32), (3, 0.8), (0, 0.7), (2, 0.9)];
/// let best = best_of_groups(&passages, 10, |passage| if *passage < 3 { 7 } else { 8 })?;
/// assert_eq!(best, [(7, 1, 0.9), (8, 3, 0.8)]);
/// # Ok::<(), nearkin::Error>(())
/// ```
///
/// # Errors
/// [`Error::Argument`] if `k` is 0.
pub fn best_of_groups<I: Clone, G: Clone + Eq + Hash>(
    entries: &[(I, f32)],
    k: usize,
    group: impl Fn(&I) -> G,
) -> Result<Vec<(G, I, f32)>> {
    if k == 0 {
        return Err(Error::argument("k", "at least 1", "0"));
    }
    let mut places: HashMap<G, usize> = HashMap::new();
    // Groups in the order of their first entry.
    let mut best: Vec<(G, I, f32)> = Vec::new();
    for (entry, score) in entries.iter().filter(|(_, score)| !score.is_nan()) {
        let own = group(entry);
        match places.get(&own) {
            None => {
                places.insert(own.clone(), best.len());
                best.push((own, entry.clone(), *score));
            }
            Some(&place) if *score > best[place].2 => {
                best[place] = (own, entry.clone(), *score);
            }
            Some(_) => {}
        }
    }
    best.sort_by(|a, b| descending(a.2, b.2));
    best.truncate(k);
    Ok(best)
}

/// Vectors of documents \[N, D\] f32: of each the mean direction of its sections' vectors \[S, D\], of which `documents` has the bounds
/// (IDentIfy: Lee et al., arXiv:2410.02729). A document without sections is a vector of zeros.
///
/// # Errors
/// [`Error::Shape`] if the sections are no matrix of floats, or as many as the documents have, on their device.
pub fn document_vectors(sections: &Tensor, documents: &Offsets) -> Result<Tensor> {
    crate::ops::check_float("document_vectors", "sections", sections)?;
    crate::ops::matrix("document_vectors", "sections", sections)?;
    l2_normalize(&pool(&as_dots(Metric::Cosine, sections)?, documents, Pooling::Mean, None)?, 1e-12)
}

/// A document that was found by its best section.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passage {
    /// The document's row.
    pub document: usize,
    /// The section's row, of all sections.
    pub section: usize,
    /// The section's score.
    pub score: f32,
}

/// Documents, then sections: all sections of the documents found are scored, and each document keeps its best one; documents are
/// ordered by it, those of equal scores as they were found. At most `k` are given, of scores of at least `least`. `bounds` \[N + 1\] says which
/// sections a document has, `bounds[i]..bounds[i + 1]`; `score` is asked once, for rows of sections.
///
/// # Errors
/// As [`up_to_k`]; [`Error::Argument`] if a document is not there or was found twice.
pub fn sections(
    found: &[usize],
    bounds: &[u32],
    k: usize,
    least: f32,
    score: impl FnOnce(&[usize]) -> Result<Vec<f32>>,
) -> Result<Vec<Passage>> {
    let mut rows: Vec<usize> = Vec::new();
    let mut owners = HashMap::new();
    for &document in found {
        let own = document.checked_add(2).and_then(|end| bounds.get(document..end));
        let Some(&[start, end]) = own else {
            let expected = format!("documents below {}", bounds.len().saturating_sub(1));
            return Err(Error::argument("found", expected, document.to_string()));
        };
        let own: Range<usize> = start as usize..end as usize;
        for row in own {
            if owners.insert(row, document).is_some() {
                let got = format!("section {row} again, of document {document}");
                return Err(Error::argument("found", "each document once", got));
            }
            rows.push(row);
        }
    }
    let kept = up_to_k(&rows, usize::MAX, least, score)?;
    let best = best_of_groups(&kept, k, |row| owners[row])?;
    let passage = |(document, section, score)| Passage { document, section, score };
    Ok(best.into_iter().map(passage).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device};

    #[test]
    fn few_candidates_may_be_left() {
        let score = |items: &[u32]| Ok(items.iter().map(|&i| i as f32 / 10.0).collect());
        assert_eq!(up_to_k(&[3, 9, 5], 2, 0.5, score).unwrap(), [(9, 0.9), (5, 0.5)]);
        assert!(up_to_k(&[3, 9, 5], 2, 1.0, score).unwrap().is_empty());
        assert!(up_to_k(&[], 2, 0.0, |_: &[u32]| panic!("asked for nothing")).unwrap().is_empty());
        // Equal scores stay in their order.
        let equal = up_to_k(&[7, 3, 5], 2, 0.0, |items| Ok(vec![1.0; items.len()])).unwrap();
        assert_eq!(equal, [(7, 1.0), (3, 1.0)]);
        let is_argument = |got: Result<Vec<(u32, f32)>>| matches!(got, Err(Error::Argument { .. }));
        assert!(is_argument(up_to_k(&[1], 0, 0.0, score)));
        assert!(is_argument(up_to_k(&[1], 1, f32::NAN, score)));
        assert!(is_argument(up_to_k(&[1], 1, 0.0, |_| Ok(vec![f32::NAN]))));
        let short = up_to_k(&[1, 2], 1, 0.0, |_| Ok(vec![1.0]));
        assert!(matches!(short, Err(Error::Shape { .. })));
    }

    #[test]
    fn groups_keep_their_best_entry() {
        let entries = [(0u32, 1.0f32), (1, f32::NAN), (2, 3.0), (3, 3.0), (4, -1.0), (5, 3.0)];
        let best = best_of_groups(&entries, 9, |i| i % 3).unwrap();
        // Groups 2 and 0 tie; group 0 came first.
        assert_eq!(best, [(0, 3, 3.0), (2, 2, 3.0), (1, 4, -1.0)]);
        assert_eq!(best_of_groups(&entries, 1, |i| i % 3).unwrap().len(), 1);
        assert!(best_of_groups(&entries, 0, |i| i % 3).is_err());
    }

    #[test]
    fn documents_are_ordered_by_their_best_sections() {
        let bounds = [0, 2, 2, 5, 6];
        let score = |rows: &[usize]| {
            assert_eq!(rows, [2, 3, 4, 0, 1]);
            Ok(rows.iter().map(|&row| [0.3, 0.8, 0.1, 0.4, 0.8, 1.0][row]).collect())
        };
        let found = sections(&[2, 1, 0], &bounds, 2, 0.2, score).unwrap();
        let passage = |document, section| Passage { document, section, score: 0.8 };
        assert_eq!(found, [passage(2, 4), passage(0, 1)]);
        let any = |rows: &[usize]| Ok(vec![0.0; rows.len()]);
        assert!(matches!(sections(&[4], &bounds, 1, 0.0, any), Err(Error::Argument { .. })));
        assert!(matches!(sections(&[0, 0], &bounds, 1, 0.0, any), Err(Error::Argument { .. })));
        assert!(sections(&[usize::MAX], &bounds, 1, 0.0, any).is_err());
    }

    #[test]
    fn a_document_is_the_mean_of_its_sections() {
        let device = Device::cpu();
        let sections = [3.0f32, 0.0, 0.0, 0.5, 1.0, 1.0];
        let sections = Tensor::from_slice(&device, &[3, 2], &sections).unwrap();
        let documents = Offsets::from_lengths(&device, &[2, 0, 1]).unwrap();
        let vectors = document_vectors(&sections, &documents).unwrap().to_vec::<f32>().unwrap();
        let half = 0.5f32.sqrt();
        for (got, want) in vectors.iter().zip([half, half, 0.0, 0.0, half, half]) {
            assert!((got - want).abs() < 1e-6, "{vectors:?}");
        }
        let words = Tensor::zeros(&device, DType::U32, &[3, 2]).unwrap();
        assert!(document_vectors(&words, &documents).is_err());
    }
}
