/// LayerNorm of rows of `width`.
pub fn layer(x: &[f64], width: usize, weight: &[f64], bias: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(width) {
        let mean = row.iter().sum::<f64>() / width as f64;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        for (c, v) in row.iter().enumerate() {
            y.push((v - mean) / (var + eps).sqrt() * weight[c] + bias.map_or(0.0, |b| b[c]));
        }
    }
    y
}

/// RMSNorm of rows of `width`.
pub fn rms(x: &[f64], width: usize, weight: &[f64], eps: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(width) {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
        y.extend(row.iter().zip(weight).map(|(v, w)| v / (mean + eps).sqrt() * w));
    }
    y
}

/// Rows of `width` divided by their length.
pub fn l2(x: &[f64], width: usize, eps: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(width) {
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(eps);
        y.extend(row.iter().map(|v| v / length));
    }
    y
}
