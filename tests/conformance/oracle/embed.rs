/// The sum of one row of each table for each token.
pub fn sum(lookups: &[(&[f64], &[u32])], width: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for t in 0..lookups[0].1.len() {
        for c in 0..width {
            y.push(lookups.iter().map(|(table, rows)| table[rows[t] as usize * width + c]).sum());
        }
    }
    y
}

/// Rows of `x` at `rows` of a matrix of zeros with `into` rows.
pub fn scatter(x: &[f64], rows: &[u32], width: usize, into: usize) -> Vec<f64> {
    let mut y = vec![0.0; into * width];
    for (i, &row) in rows.iter().enumerate() {
        for c in 0..width {
            y[row as usize * width + c] = x[i * width + c];
        }
    }
    y
}
