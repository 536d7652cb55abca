//! Rotary position embedding on the CPU: rows in parallel, head by head.

use crate::device::threads::items::*;

use super::Args;
use crate::ops::math::vectorize;
use crate::ops::norm::Kind;
use crate::ops::norm::cpu::row as normalize;
use crate::{Result, Tensor};

/// Rows a task takes.
const ROWS: usize = 16;

pub(super) fn rope(args: &Args<'_>) -> Result<Tensor> {
    let &Args { width, half, how, .. } = args;
    let (x, cos, sin) = (args.x.cpu::<f32>(), how.cos.cpu::<f32>(), how.sin.cpu::<f32>());
    let norm = how.norm.map(|n| (n.query.cpu::<f32>(), n.key.cpu::<f32>(), n.eps));
    let bounds = args.offsets.bounds();
    Tensor::cpu_with(args.x.device(), args.x.shape(), |y: &mut [f32]| {
        let (cost, tasks) = (y.len(), y.par_chunks_mut(ROWS * width).enumerate());
        args.x.device().threads().for_each(cost, tasks, |(task, y)| {
            let first = task * ROWS;
            // The sequence of the task's first row; its other rows are in this one or later ones.
            let mut sequence = bounds.partition_point(|&start| start as usize <= first) - 1;
            let rows = y.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width));
            vectorize(
                #[inline(always)]
                || {
                    for (row, (y, x)) in (first..).zip(rows) {
                        while bounds[sequence + 1] as usize <= row {
                            sequence += 1;
                        }
                        let at = (row - bounds[sequence] as usize) * half;
                        let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
                        y.copy_from_slice(x);
                        let heads = y.chunks_exact_mut(how.dim).take(args.turned());
                        for (i, head) in heads.enumerate() {
                            if let Some((query, key, eps)) = norm {
                                let weight = if i < how.heads { query } else { key };
                                normalize(Kind::Rms, eps, Some(weight), None, head);
                            }
                            turn(head, cos, sin);
                        }
                    }
                },
            );
        });
    })
}

/// Turns the first columns of a head in place.
#[inline(always)]
fn turn(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (low, high) = head[..2 * half].split_at_mut(half);
    for ((a, b), (c, s)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
        (*a, *b) = (a.mul_add(*c, -(*b * s)), b.mul_add(*c, *a * s));
    }
}
