//! The weights of attention themselves, on the host: to be looked at, which no kernel needs.

use crate::device::threads::items::*;

use super::{Attention, Heads, Mask, seen};
use crate::{Offsets, Result};

/// For each sequence the softmax weights of [`attention`](super::attention) of its queries on its keys, averaged over heads,
/// in f32: \[n, n\] row-major for a sequence of n tokens, one sequence after the other. Queries and keys are checked as there
/// by whoever computes with them; a query that sees nothing has zeros.
pub(crate) fn mean_weights(
    q: Heads<'_>,
    k: Heads<'_>,
    offsets: &Offsets,
    how: &Attention<'_>,
) -> Result<Vec<f32>> {
    let (width, dim) = (q.tensor.shape()[1], how.dim);
    let values = q.tensor.to_vec::<f32>()?;
    let bias = how.bias.map(|bias| bias.to_vec::<f32>()).transpose()?;
    let mask = Mask::new(how);
    let row = |of: Heads<'_>, row: usize, head: usize| {
        &values[row * width + of.start + head * dim..][..dim]
    };
    let query = |range: std::ops::Range<usize>, i: usize| {
        let keys = range.len();
        let sees = seen(mask, i, keys, keys);
        let mut mean = vec![0.0f32; keys];
        for head in 0..how.heads {
            let kv_head = head / how.group();
            let score = |j: usize| {
                let (q, k) = (row(q, range.start + i, head), row(k, range.start + j, kv_head));
                let dot: f32 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                let bias = bias.as_ref().map_or(0.0, |bias| {
                    let entries = bias.len() / how.heads;
                    let last = entries as isize / 2;
                    let at = (j as isize - i as isize).clamp(-last, last) + last;
                    bias[head * entries + at as usize]
                });
                dot * how.scale + bias
            };
            let scores: Vec<f32> = sees.clone().map(score).collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if top == f32::NEG_INFINITY {
                continue;
            }
            let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
            let share = 1.0 / (weights.iter().sum::<f32>() * how.heads as f32);
            mean[sees.clone()].iter_mut().zip(&weights).for_each(|(m, w)| *m += w * share);
        }
        mean
    };
    let queries: Vec<_> = (0..offsets.len())
        .flat_map(|s| {
            let range = offsets.range(s);
            (0..range.len()).map(move |i| (range.clone(), i))
        })
        .collect();
    let cost = queries.iter().map(|(range, _)| range.len()).sum::<usize>() * how.heads * dim;
    let queries = queries.into_par_iter();
    let rows = q.tensor.device().threads().map(cost, queries, |(range, i)| query(range, i));
    Ok(rows.concat())
}
