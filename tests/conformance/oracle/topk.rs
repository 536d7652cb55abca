/// How a row is scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    Dot,
    Cosine,
    L2,
}

/// The score of one query and one row, and the sum of the magnitudes added up for it: what its rounding scales with.
pub fn score(metric: Metric, q: &[f64], x: &[f64]) -> (f64, f64) {
    let terms = || q.iter().zip(x);
    match metric {
        Metric::Dot => {
            (terms().map(|(a, b)| a * b).sum(), terms().map(|(a, b)| (a * b).abs()).sum())
        }
        Metric::Cosine => {
            let length = |v: &[f64]| v.iter().map(|a| a * a).sum::<f64>().sqrt();
            let both = length(q) * length(x);
            let dot: f64 = terms().map(|(a, b)| a * b).sum();
            (if both == 0.0 { 0.0 } else { dot / both }, 1.0)
        }
        Metric::L2 => {
            let sum: f64 = terms().map(|(a, b)| (a - b) * (a - b)).sum();
            (-sum, sum)
        }
    }
}

/// All rows of one query that may be found, best first: (row, score, magnitude).
pub fn rank(
    metric: Metric,
    q: &[f64],
    corpus: &[f64],
    bias: Option<&[f32]>,
    excluded: impl Fn(usize) -> bool,
) -> Vec<(u64, f64, f64)> {
    let mut all: Vec<_> = corpus
        .chunks(q.len())
        .enumerate()
        .filter(|(i, _)| !excluded(*i))
        .map(|(i, x)| {
            let (s, magnitude) = score(metric, q, x);
            let bias = bias.map_or(0.0, |b| b[i] as f64);
            (i as u64, s + bias, magnitude + bias.abs())
        })
        .filter(|(_, s, _)| !s.is_nan())
        .collect();
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    all
}

/// A vector as int8 keeps it: its bytes and their scale. Nothing that is not finite has either.
pub fn int8(x: &[f64]) -> Option<(Vec<i8>, f32)> {
    let largest = x.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    if !x.iter().all(|v| v.is_finite()) {
        return None;
    }
    // `round` takes halves away from zero.
    let byte = |v: &f64| if largest > 0.0 { (127.0 * v / largest).round() as i8 } else { 0 };
    Some((x.iter().map(byte).collect(), (largest / 127.0) as f32))
}

/// Vectors of `dim` values as int8 stands for them; NaN for what it does not keep.
pub fn through_int8(xs: &[f64], dim: usize) -> Vec<f64> {
    let through = |x: &[f64]| match int8(x) {
        Some((bytes, scale)) => bytes.iter().map(|&b| b as f64 * scale as f64).collect(),
        None => vec![f64::NAN; dim],
    };
    xs.chunks(dim).flat_map(through).collect()
}
