//! ColBERTv2's codec as its paper and NumPy would say it: bits lowest first into bytes filled from the highest bit.

/// The bytes of one vector's buckets.
pub fn pack(buckets: &[usize], bits: usize) -> Vec<u8> {
    let stream: Vec<u8> =
        buckets.iter().flat_map(|b| (0..bits).map(move |i| (b >> i & 1) as u8)).collect();
    stream
        .chunks(8)
        .map(|byte| byte.iter().enumerate().fold(0, |v, (i, b)| v | b << (7 - i)))
        .collect()
}

/// `(centroid + weight) / length` of one vector.
pub fn decode(centroid: &[f64], buckets: &[usize], weights: &[f64]) -> Vec<f64> {
    let v: Vec<f64> = centroid.iter().zip(buckets).map(|(c, &b)| c + weights[b]).collect();
    let length = v.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    v.iter().map(|v| v / length).collect()
}
