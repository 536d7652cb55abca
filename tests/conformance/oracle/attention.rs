/// Attention of sequences given by the bounds of their query and key rows; `q`, `k`, `v` are rows of `heads * dim`.
/// `bias` is \[heads, 2 r - 1\].
#[allow(clippy::too_many_arguments)]
pub fn attention(
    [q, k, v]: [&[f64]; 3],
    [q_bounds, kv_bounds]: [&[u32]; 2],
    heads: usize,
    dim: usize,
    scale: f64,
    causal: bool,
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let width = heads * dim;
    let mut out = vec![0.0; q_bounds[q_bounds.len() - 1] as usize * width];
    for (qs, ks) in q_bounds.windows(2).zip(kv_bounds.windows(2)) {
        let (queries, keys) = ((qs[1] - qs[0]) as i64, (ks[1] - ks[0]) as i64);
        for (h, i) in (0..heads).flat_map(|h| (0..queries).map(move |i| (h, i))) {
            let at = (qs[0] as usize + i as usize) * width + h * dim;
            let row = |j: i64| (ks[0] as usize + j as usize) * width + h * dim;
            let seen = if causal { (i + keys - queries + 1).max(0) } else { keys };
            let scores: Vec<f64> = (0..seen)
                .map(|j| {
                    let dot: f64 = (0..dim).map(|d| q[at + d] * k[row(j) + d]).sum();
                    let relative = bias.map_or(0.0, |b| {
                        let entries = (b.len() / heads) as i64;
                        let r = (entries + 1) / 2;
                        b[(h as i64 * entries + (j - i).clamp(1 - r, r - 1) + r - 1) as usize]
                    });
                    scale * dot + relative
                })
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if scores.iter().all(|&s| s == f64::NEG_INFINITY) {
                continue;
            }
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let sum: f64 =
                    weights.iter().enumerate().map(|(j, w)| w * v[row(j as i64) + d]).sum();
                out[at + d] = sum / total;
            }
        }
    }
    out
}
