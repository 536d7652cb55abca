/// The mean of each column over the rows of each sequence that `take` lets through, or zeros.
pub fn mean(x: &[f64], width: usize, bounds: &[u32], take: impl Fn(usize) -> bool) -> Vec<f64> {
    reduce(x, width, bounds, take, |column| {
        let n = column.len();
        column.into_iter().sum::<f64>() / n as f64
    })
}

/// The maximum of each column, or zeros; NaN if one is NaN.
pub fn max(x: &[f64], width: usize, bounds: &[u32], take: impl Fn(usize) -> bool) -> Vec<f64> {
    reduce(x, width, bounds, take, |column| match column.iter().any(|v| v.is_nan()) {
        true => f64::NAN,
        false => column.into_iter().fold(f64::NEG_INFINITY, f64::max),
    })
}

fn reduce(
    x: &[f64],
    width: usize,
    bounds: &[u32],
    take: impl Fn(usize) -> bool,
    f: impl Fn(Vec<f64>) -> f64,
) -> Vec<f64> {
    let mut y = Vec::new();
    for w in bounds.windows(2) {
        for c in 0..width {
            let rows = (w[0] as usize..w[1] as usize).filter(|&r| take(r));
            let column: Vec<f64> = rows.map(|r| x[r * width + c]).collect();
            y.push(if column.is_empty() { 0.0 } else { f(column) });
        }
    }
    y
}
