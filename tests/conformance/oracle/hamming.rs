//! Binary codes, one bit at a time.

/// The bits of a vector, and how close to its threshold each value is: `p_i · x - t_i` with the sum of magnitudes.
pub fn encode(x: &[f64], projection: Option<&[f32]>, thresholds: &[f32]) -> Vec<(f64, f64)> {
    let value = |i: usize| match projection {
        None => (x[i], 0.0),
        Some(p) => {
            let terms = || p[i * x.len()..][..x.len()].iter().zip(x).map(|(&p, x)| p as f64 * x);
            (terms().sum(), terms().map(f64::abs).sum())
        }
    };
    let all = thresholds.iter().enumerate();
    all.map(|(i, &t)| (value(i).0 - t as f64, value(i).1)).collect()
}

fn bit(code: &[u32], i: usize) -> bool {
    code[i / 32] >> (i % 32) & 1 == 1
}

/// The number of bits that differ.
pub fn distance(a: &[u32], b: &[u32]) -> usize {
    (0..a.len() * 32).filter(|&i| bit(a, i) != bit(b, i)).count()
}

/// `sum_i q_i s_i`, and the sum of magnitudes.
pub fn asymmetric(query: &[f64], code: &[u32]) -> (f64, f64) {
    let terms = query.iter().enumerate().map(|(i, &q)| if bit(code, i) { q } else { -q });
    (terms.clone().sum(), terms.map(f64::abs).sum())
}

/// Rows that may be found, by ascending distance, then row.
pub fn rank(query: &[u32], codes: &[u32], excluded: impl Fn(usize) -> bool) -> Vec<(usize, u64)> {
    let rows = codes.chunks(query.len()).enumerate().filter(|(i, _)| !excluded(*i));
    let mut all: Vec<_> = rows.map(|(i, code)| (distance(query, code), i as u64)).collect();
    all.sort();
    all
}
