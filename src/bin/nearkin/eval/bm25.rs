//! BM25 as sparse vectors (Robertson, Zaragoza 2009): what stands in for a sparse encoder's weights where there is none.

use std::collections::HashMap;

use nearkin::ops::sparse::SparseVectors;

/// Lucene's defaults for passages, as Anserini sets them.
const K1: f32 = 0.9;
const B: f32 = 0.4;

fn vectors(rows: impl Iterator<Item = Vec<(u32, f32)>>) -> SparseVectors {
    let mut all = SparseVectors::new();
    for mut row in rows {
        row.sort_by_key(|(term, _)| *term);
        let terms: Vec<u32> = row.iter().map(|(term, _)| *term).collect();
        all.push(&terms, row.iter().map(|(_, weight)| *weight));
    }
    all
}

/// Documents and queries over the documents' words.
pub(super) struct Bm25 {
    pub(super) documents: SparseVectors,
    pub(super) queries: SparseVectors,
    pub(super) dim: usize,
}

/// Words in lower case: runs of letters and digits.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

impl Bm25 {
    /// A document's weight of a word is `idf tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))`, a query's how often it has it,
    /// so that their dot product is BM25. Words that no document has are left out.
    pub(super) fn new(documents: &[String], queries: &[String]) -> Bm25 {
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut found: Vec<u32> = Vec::new();
        let mut counts: Vec<HashMap<u32, u32>> = Vec::with_capacity(documents.len());
        for text in documents {
            let mut own = HashMap::new();
            for word in words(text) {
                let next = numbers.len() as u32;
                *own.entry(*numbers.entry(word).or_insert(next)).or_insert(0) += 1;
            }
            found.resize(numbers.len(), 0);
            own.keys().for_each(|&term| found[term as usize] += 1);
            counts.push(own);
        }
        let n = documents.len() as f32;
        let length = |own: &HashMap<u32, u32>| own.values().sum::<u32>() as f32;
        let mean = counts.iter().map(length).sum::<f32>() / n.max(1.0);
        let idf = |term: u32| {
            let with = found[term as usize] as f32;
            (1.0 + (n - with + 0.5) / (with + 0.5)).ln()
        };
        let documents = counts.iter().map(|own| {
            let norm = K1 * (1.0 - B + B * length(own) / mean.max(1.0));
            let weight = |(&term, &tf): (&u32, &u32)| {
                (term, idf(term) * tf as f32 * (K1 + 1.0) / (tf as f32 + norm))
            };
            own.iter().map(weight).collect()
        });
        let queries = queries.iter().map(|text| {
            let mut own: HashMap<u32, u32> = HashMap::new();
            for term in words(text).filter_map(|word| numbers.get(&word)) {
                *own.entry(*term).or_insert(0) += 1;
            }
            own.into_iter().map(|(term, count)| (term, count as f32)).collect()
        });
        let (documents, queries) = (vectors(documents), vectors(queries));
        Bm25 { documents, queries, dim: numbers.len().max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed_weights() {
        let texts = ["Wing wing lift".to_string(), "lift".to_string()];
        let made = Bm25::new(&texts, &["LIFT, lift drag".to_string()]);
        assert_eq!((made.dim, &made.documents.offsets[..]), (2, &[0, 2, 3][..]));
        // Of two documents one has "wing", twice, in three words of two on average.
        let idf = (1.0f32 + 1.5 / 1.5).ln();
        let want = idf * 2.0 * 1.9 / (2.0 + 0.9 * (0.6 + 0.4 * 1.5));
        assert_eq!(made.documents.terms, [0, 1, 1]);
        assert!((made.documents.weights[0] - want).abs() < 1e-6);
        assert_eq!((&made.queries.terms[..], &made.queries.weights[..]), (&[1][..], &[2.0][..]));
        assert!(Bm25::new(&[], &["x".to_string()]).queries.terms.is_empty());
    }
}
