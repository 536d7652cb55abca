use nearkin::ops::gemm::Activation;

use super::gemm::activation;

/// Rows of twice `width`, the gate before the values.
pub fn glu(x: &[f64], width: usize, kind: Activation) -> Vec<f64> {
    let rows = x.chunks(2 * width.max(1));
    rows.flat_map(|row| (0..width).map(move |c| activation(kind, row[c]) * row[width + c]))
        .collect()
}
