//! Reductions of a row by segments, in f64.

/// The greatest value and its lowest column; NaN is passed over.
pub fn max(x: &[f64]) -> (f64, Option<usize>) {
    let mut best = (f64::NEG_INFINITY, None);
    for (column, &v) in x.iter().enumerate() {
        if v > best.0 || v == best.0 && best.1.is_none() {
            best = (v, Some(column));
        }
    }
    best
}

/// The mean; 0 of nothing.
pub fn mean(x: &[f64]) -> f64 {
    if x.is_empty() { 0.0 } else { x.iter().sum::<f64>() / x.len() as f64 }
}

/// ln Σ e^x.
pub fn log_sum_exp(x: &[f64]) -> f64 {
    if x.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    let largest = max(x).0;
    if largest.is_infinite() {
        return largest;
    }
    largest + x.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
}

/// How many values are greater than a target and how many are equal to it; NaN is less than all else.
pub fn above(x: &[f64], target: f64) -> (usize, usize) {
    let key = |v: f64| if v.is_nan() { (0, 0.0) } else { (1, v) };
    let greater = x.iter().filter(|&&v| key(v) > key(target)).count();
    (greater, x.iter().filter(|&&v| key(v) == key(target)).count())
}

/// e^x / Σ e^x; -∞ gives 0.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let all = log_sum_exp(x);
    let weight =
        |&v: &f64| if v == f64::NEG_INFINITY && !all.is_nan() { 0.0 } else { (v - all).exp() };
    x.iter().map(weight).collect()
}
