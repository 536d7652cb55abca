use super::norm::rms;

/// What is turned, as the operation's arguments have it; `norm` is the weights of queries and of keys, and eps.
pub struct Rotary<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub cos: &'a [f64],
    pub sin: &'a [f64],
    pub half: usize,
    pub norm: Option<(&'a [f64], &'a [f64], f64)>,
}

/// Rows of `width`, of sequences of the given lengths.
pub fn rope(x: &[f64], width: usize, lengths: &[usize], how: &Rotary) -> Vec<f64> {
    let positions = lengths.iter().flat_map(|&n| 0..n);
    let mut y = x.to_vec();
    for (row, p) in y.chunks_mut(width.max(1)).zip(positions) {
        for h in 0..how.heads + how.kv_heads {
            let head = &mut row[h * how.dim..][..how.dim];
            if let Some((query, key, eps)) = how.norm {
                let weight = if h < how.heads { query } else { key };
                head.copy_from_slice(&rms(head, how.dim, weight, eps));
            }
            for i in 0..how.half {
                let (a, b) = (head[i], head[i + how.half]);
                let (c, s) = (how.cos[p * how.half + i], how.sin[p * how.half + i]);
                head[i] = a * c - b * s;
                head[i + how.half] = b * c + a * s;
            }
        }
    }
    y
}
