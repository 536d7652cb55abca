//! Late interaction, naively.

/// The tokens of one item: vectors \[n, dim\], what products with each are multiplied by, whether each counts.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    pub vectors: &'a [f64],
    pub scale: &'a [f64],
    pub keep: &'a [bool],
    pub dim: usize,
}

/// What one token found: its best, where its maximum is, and the largest sum of magnitudes behind a similarity.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub best: f64,
    pub place: Option<usize>,
    pub magnitude: f64,
}

/// What each token of `from` finds in `to`: its maximum, or with a temperature the softmax-weighted mean.
pub fn bests(from: Item<'_>, to: Item<'_>, temperature: Option<f64>, padding: bool) -> Vec<Found> {
    let tokens = from.vectors.chunks(from.dim).zip(from.scale);
    let find = |(q, a): (&[f64], &f64)| {
        let (mut all, mut magnitude) = (Vec::new(), 0f64);
        for (j, d) in to.vectors.chunks(to.dim).enumerate() {
            let s: f64 = q.iter().zip(d).map(|(x, y)| x * y).sum::<f64>() * a * to.scale[j];
            if (to.keep[j] || padding) && !s.is_nan() {
                let size: f64 = q.iter().zip(d).map(|(x, y)| (x * y).abs()).sum();
                magnitude = magnitude.max(size * a * to.scale[j]);
                all.push((j, s));
            }
        }
        let most = all.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.1));
        let place = all.iter().find(|s| s.1 == most).map(|s| s.0);
        let best = match temperature {
            Some(t) if !all.is_empty() => {
                let weight = |s: f64| ((s - most) / t).exp();
                let weighted: f64 = all.iter().map(|s| weight(s.1) * s.1).sum();
                weighted / all.iter().map(|s| weight(s.1)).sum::<f64>()
            }
            _ => most,
        };
        Found { best, place, magnitude }
    };
    tokens.map(find).collect()
}

/// The sum or mean of the bests of tokens that count, and of their magnitudes.
pub fn reduce(found: &[Found], keep: &[bool], mean: bool) -> (f64, f64) {
    let counted: Vec<&Found> = found.iter().zip(keep).filter(|f| *f.1).map(|f| f.0).collect();
    let n = if mean { counted.len().max(1) as f64 } else { 1.0 };
    let sum = |f: fn(&Found) -> f64| counted.iter().map(|c| f(c)).sum::<f64>() / n;
    (sum(|f| f.best), sum(|f| f.magnitude))
}
