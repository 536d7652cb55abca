//! Gated linear units on the CPU: rows in parallel.

use crate::device::threads::items::*;

use super::Args;
use crate::ops::math::{LANES, vectorize};
use crate::{Result, Tensor};

/// Rows a task takes.
const ROWS: usize = 16;

pub(super) fn glu(args: &Args<'_>) -> Result<Tensor> {
    let &Args { activation, rows, width, .. } = args;
    let x = args.x.cpu::<f32>();
    Tensor::cpu_with(args.x.device(), &[rows, width], |y: &mut [f32]| {
        if y.is_empty() {
            return;
        }
        let cost = 2 * y.len();
        let tasks = y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * 2 * width));
        args.x.device().threads().for_each(cost, tasks, |(y, x)| {
            vectorize(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
                        let (gate, value) = x.split_at(width);
                        y.copy_from_slice(gate);
                        activation.apply(LANES, y);
                        for (y, v) in y.iter_mut().zip(value) {
                            *y *= v;
                        }
                    }
                },
            );
        });
    })
}
