/// What kind of attention; `bias` is \[heads, 2 r - 1\].
pub struct How<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub scale: f64,
    pub causal: bool,
    pub window: Option<usize>,
    pub bias: Option<&'a [f64]>,
}

/// Attention of sequences given by the bounds of their query and key rows; `q` is rows of `heads * dim`, `k` and `v` of
/// `kv_heads * dim`.
pub fn attention(
    [q, k, v]: [&[f64]; 3],
    [q_bounds, kv_bounds]: [&[u32]; 2],
    how: &How,
) -> Vec<f64> {
    let &How { heads, kv_heads, dim, scale, causal, window, bias } = how;
    let (width, group) = (heads * dim, heads / kv_heads);
    let mut out = vec![0.0; q_bounds[q_bounds.len() - 1] as usize * width];
    for (qs, ks) in q_bounds.windows(2).zip(kv_bounds.windows(2)) {
        let (queries, keys) = ((qs[1] - qs[0]) as i64, (ks[1] - ks[0]) as i64);
        for (h, i) in (0..heads).flat_map(|h| (0..queries).map(move |i| (h, i))) {
            let at = (qs[0] as usize + i as usize) * width + h * dim;
            let row = |j: i64| ((ks[0] as usize + j as usize) * kv_heads + h / group) * dim;
            let ahead = |j: i64| j - (i + keys - queries);
            let seen: Vec<i64> = (0..keys)
                .filter(|&j| !causal || ahead(j) <= 0)
                .filter(|&j| window.is_none_or(|w| ahead(j).unsigned_abs() <= w as u64))
                .collect();
            let scores: Vec<f64> = seen
                .iter()
                .map(|&j| {
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
                let sum: f64 = seen.iter().zip(&weights).map(|(&j, w)| w * v[row(j) + d]).sum();
                out[at + d] = sum / total;
            }
        }
    }
    out
}
