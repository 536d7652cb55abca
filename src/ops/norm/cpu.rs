//! Normalisation on the CPU: rows in parallel, each in two passes over a row that stays in cache.

use crate::device::threads::items::*;

use super::{Args, Kind};
use crate::dtype::with_float;
use crate::ops::math::{sum_by, vectorize};
use crate::{Float, Result, Tensor};

/// Rows a task takes; fixed, so that results do not depend on the number of threads.
const ROWS: usize = 16;

pub(crate) fn norm(args: &Args<'_>) -> Result<Tensor> {
    with_float!(args.x.dtype(), T => typed::<T>(args))
}

fn typed<T: Float>(args: &Args<'_>) -> Result<Tensor> {
    let width = args.width;
    let x = args.x.cpu::<T>();
    let residual = args.residual.map(|r| r.cpu::<T>());
    let weight = args.weight.map(|w| w.cpu::<f32>());
    let bias = args.bias.map(|b| b.cpu::<f32>());
    Tensor::cpu_with(args.x.device(), args.x.shape(), |y: &mut [f32]| {
        if width == 0 {
            return;
        }
        let (cost, tasks) = (y.len(), y.par_chunks_mut(ROWS * width).enumerate());
        args.x.device().threads().for_each(cost, tasks, |(task, y)| {
            vectorize(
                #[inline(always)]
                || {
                    for (i, y) in y.chunks_exact_mut(width).enumerate() {
                        let at = (task * ROWS + i) * width;
                        match residual {
                            Some(r) => {
                                for ((y, x), r) in
                                    y.iter_mut().zip(&x[at..at + width]).zip(&r[at..at + width])
                                {
                                    *y = x.to_f32() + r.to_f32();
                                }
                            }
                            None => {
                                for (y, x) in y.iter_mut().zip(&x[at..at + width]) {
                                    *y = x.to_f32();
                                }
                            }
                        }
                        row(args.kind, args.eps, weight, bias, y);
                    }
                },
            );
        });
    })
}

/// Normalises one row in place.
#[inline(always)]
pub(crate) fn row(
    kind: Kind,
    eps: f32,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let n = y.len() as f32;
    let mean = if kind == Kind::Layer { sum_by(y, |v| v) / n } else { 0.0 };
    let squares = sum_by(y, |v| (v - mean) * (v - mean));
    let scale = match kind {
        Kind::L2 => unit(squares, eps),
        _ => 1.0 / (squares / n + eps).sqrt(),
    };
    match (weight, bias) {
        (Some(w), Some(b)) => {
            for ((y, w), b) in y.iter_mut().zip(w).zip(b) {
                *y = ((*y - mean) * scale).mul_add(*w, *b);
            }
        }
        (Some(w), None) => {
            for (y, w) in y.iter_mut().zip(w) {
                *y = (*y - mean) * scale * w;
            }
        }
        _ => {
            for y in y {
                *y = (*y - mean) * scale;
            }
        }
    }
}

/// What a row is multiplied by to have length 1.
#[inline(always)]
pub(crate) fn unit_scale(y: &[f32], eps: f32) -> f32 {
    unit(sum_by(y, |v| v * v), eps)
}

#[inline(always)]
fn unit(squares: f32, eps: f32) -> f32 {
    let length = squares.sqrt();
    // Not `max`, which would turn a NaN into eps.
    1.0 / if length < eps { eps } else { length }
}
