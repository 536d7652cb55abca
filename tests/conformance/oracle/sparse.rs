//! Sparse vectors as dense ones.

/// The dot product of two sparse vectors.
pub fn dot(a: &[(u32, f64)], b: &[(u32, f64)]) -> f64 {
    let weight = |term: u32| b.iter().find(|(other, _)| *other == term).map_or(0.0, |(_, w)| *w);
    a.iter().map(|(term, w)| w * weight(*term)).sum()
}

/// Rows and scores by descending score, equal ones by row.
pub fn ranked(query: &[(u32, f64)], documents: &[Vec<(u32, f64)>]) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = documents.iter().map(|d| dot(query, d)).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}
