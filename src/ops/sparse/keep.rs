//! Dense vectors over a vocabulary made sparse, and weights made whole numbers.

use super::{Csr, OP, SparseVectors};
use crate::{Error, Result};

/// Which terms of a vector over the vocabulary are kept. Zeros never are.
#[derive(Clone, Copy, Debug)]
pub enum Keep<'a> {
    /// Those above a number: 0 for SPLADE's weights, `1 / √V` for LexVLA's unit vectors (arXiv:2407.17827).
    Above(f32),
    /// The `k` greatest, equal ones by the lower term.
    Top(usize),
    /// The `k` greatest, and the terms of the text itself, which are given for each vector in any order: VDR's mask of the best 768 and
    /// the bag of words (Zhou et al., arXiv:2212.07699).
    TopOr(usize, &'a [Vec<u32>]),
}

/// Sparse vectors of `rows` \[n, dim\]: the terms that are kept, with their values.
///
/// # Errors
/// [`Error::Shape`] if the length is not a multiple of `dim`, or there are not terms for each vector; [`Error::Argument`] if a value is NaN,
/// a number of terms is 0, a term is not below `dim`, or the number is NaN.
pub fn sparsify(rows: &[f32], dim: usize, keep: Keep<'_>) -> Result<SparseVectors> {
    if dim == 0 || !rows.len().is_multiple_of(dim) {
        let expected = format!("vectors of dimension {dim}, at least 1");
        return Err(Error::shape(OP, expected, format!("{} values", rows.len())));
    }
    match keep {
        Keep::Above(least) if least.is_nan() => {
            return Err(Error::argument("keep", "a number", "NaN"));
        }
        Keep::Top(0) | Keep::TopOr(0, _) => {
            return Err(Error::argument("keep", "at least 1 term", "0"));
        }
        Keep::TopOr(_, words) if words.len() != rows.len() / dim => {
            let expected = format!("terms of {} vectors", rows.len() / dim);
            return Err(Error::shape(OP, expected, words.len().to_string()));
        }
        _ => {}
    }
    let mut all = SparseVectors::new();
    for (number, row) in rows.chunks(dim).enumerate() {
        if row.iter().any(|v| v.is_nan()) {
            return Err(Error::argument("rows", "numbers", format!("NaN in row {number}")));
        }
        let mut terms: Vec<u32> = match keep {
            Keep::Above(least) => (0..dim as u32).filter(|&t| row[t as usize] > least).collect(),
            Keep::Top(k) => top(row, k),
            Keep::TopOr(k, words) => {
                let words = &words[number];
                if let Some(term) = words.iter().find(|term| **term as usize >= dim) {
                    let got = format!("{term} in row {number}");
                    return Err(Error::argument("keep", format!("terms below {dim}"), got));
                }
                [&top(row, k)[..], words].concat()
            }
        };
        terms.sort_unstable();
        terms.dedup();
        terms.retain(|&term| row[term as usize] != 0.0);
        all.push(&terms, terms.iter().map(|&term| row[term as usize]).collect::<Vec<f32>>());
    }
    Ok(all)
}

/// The `k` greatest terms of a row, in any order.
fn top(row: &[f32], k: usize) -> Vec<u32> {
    let mut terms: Vec<u32> = (0..row.len() as u32).collect();
    if k < terms.len() {
        // 0 and -0 are equal.
        terms.select_nth_unstable_by(k, |&a, &b| {
            (row[b as usize] + 0.0).total_cmp(&(row[a as usize] + 0.0)).then(a.cmp(&b))
        });
        terms.truncate(k);
    }
    terms
}

/// The vectors with weights `round(scale · w)`, halves to even, without those that become 0: PromptReps' whole numbers, of scale 100 (Zhuang
/// et al., arXiv:2404.18424), for documents and queries; [`Impact::U8`](super::Impact::U8) stores those of documents up to 255.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Argument`] if the vectors are not as [`Csr`] says for `dim` terms, or `scale` is not finite and above 0, or a
/// result is not finite.
pub fn whole(vectors: Csr<'_>, dim: usize, scale: f32) -> Result<SparseVectors> {
    let count = vectors.check(dim)?;
    if !(scale.is_finite() && scale > 0.0) {
        let got = scale.to_string();
        return Err(Error::argument("scale", "a finite number above 0", got));
    }
    let mut all = SparseVectors::new();
    for row in 0..count {
        let range = vectors.range(row);
        let (mut terms, mut weights) = (Vec::new(), Vec::new());
        for (&term, &weight) in vectors.terms[range.clone()].iter().zip(&vectors.weights[range]) {
            let rounded = (scale * weight).round_ties_even();
            if !rounded.is_finite() {
                let got = format!("{weight} in row {row}");
                return Err(Error::argument("weights", "finite weights", got));
            }
            if rounded != 0.0 {
                terms.push(term);
                weights.push(rounded);
            }
        }
        all.push(&terms, weights);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f32; 10] = [0.5, 0.0, 2.0, 0.5, -1.0, 0.1, 0.1, 0.0, 0.3, 0.1];

    fn kept(keep: Keep<'_>) -> Vec<Vec<u32>> {
        let all = sparsify(&ROWS, 5, keep).unwrap();
        assert!(all.csr().check(5).unwrap() == 2);
        let rows = (0..2).map(|row| all.csr().range(row));
        rows.map(|range| {
            let terms = all.terms[range.clone()].to_vec();
            let row = range.start > 0 || all.offsets[1] == 0;
            let base = if row { 5 } else { 0 };
            for (term, weight) in terms.iter().zip(&all.weights[range]) {
                assert_eq!(ROWS[base + *term as usize], *weight);
            }
            terms
        })
        .collect()
    }

    #[test]
    fn terms_are_kept_by_value_by_rank_and_by_the_text() {
        assert_eq!(kept(Keep::Above(0.0)), [vec![0, 2, 3], vec![0, 1, 3, 4]]);
        assert_eq!(kept(Keep::Above(0.2)), [vec![0, 2, 3], vec![3]]);
        // Equal values by the lower term.
        assert_eq!(kept(Keep::Top(2)), [vec![0, 2], vec![0, 3]]);
        assert_eq!(kept(Keep::Top(9)), [vec![0, 2, 3, 4], vec![0, 1, 3, 4]]);
        // A word without a value is none.
        let words = [vec![4, 1, 2], vec![4]];
        assert_eq!(kept(Keep::TopOr(1, &words)), [vec![2, 4], vec![3, 4]]);
    }

    #[test]
    fn whole_numbers_are_rounded_half_to_even() {
        let (terms, weights) = ([0, 1, 2, 4], [0.005, 0.015, 0.0049, -0.025]);
        let vectors = Csr { offsets: &[0, 4], terms: &terms, weights: &weights };
        let all = whole(vectors, 5, 100.0).unwrap();
        // 0.5 to 0, 1.5 to 2, 0.49 to 0, -2.5 to -2: what is nearest in f32.
        let want: Vec<(u32, f32)> = terms
            .iter()
            .zip(weights)
            .map(|(&t, w): (&u32, f32)| (t, (100.0 * w).round_ties_even()))
            .filter(|(_, w)| *w != 0.0)
            .collect();
        let got: Vec<(u32, f32)> = all.terms.iter().copied().zip(all.weights.clone()).collect();
        assert_eq!(got, want);
        let half = Csr { offsets: &[0, 3], terms: &[0, 1, 2], weights: &[0.5, 1.5, 2.5] };
        assert_eq!(whole(half, 5, 1.0).unwrap().weights, [2.0, 2.0]);
        assert!(whole(half, 5, 0.0).is_err() && whole(half, 2, 1.0).is_err());
        let far = Csr { offsets: &[0, 1], terms: &[0], weights: &[f32::MAX] };
        assert!(matches!(whole(far, 5, 100.0), Err(Error::Argument { .. })));
    }

    #[test]
    fn wrong_vectors_are_typed_errors() {
        let is_shape = |got: Result<SparseVectors>| matches!(got, Err(Error::Shape { .. }));
        let is_argument = |got: Result<SparseVectors>| matches!(got, Err(Error::Argument { .. }));
        assert!(
            is_shape(sparsify(&ROWS, 3, Keep::Top(1)))
                && is_shape(sparsify(&ROWS, 0, Keep::Top(1)))
        );
        assert!(is_argument(sparsify(&ROWS, 5, Keep::Top(0))));
        assert!(is_argument(sparsify(&ROWS, 5, Keep::Above(f32::NAN))));
        assert!(is_argument(sparsify(&[f32::NAN, 1.0], 2, Keep::Top(1))));
        assert!(is_shape(sparsify(&ROWS, 5, Keep::TopOr(1, &[vec![]]))));
        assert!(is_argument(sparsify(&ROWS, 5, Keep::TopOr(1, &[vec![], vec![5]]))));
    }
}
