//! Lookups on the CPU: tokens in parallel, each row summed and normalised while it is in cache.

use crate::device::threads::items::*;

use super::{Args, MISSING};
use crate::dtype::with_float;
use crate::ops::math::vectorize;
use crate::ops::norm::{Kind, cpu::row as normalize};
use crate::{Float, Result, Tensor};

/// Rows a task takes.
const ROWS: usize = 16;

pub(crate) fn embed(args: &Args<'_>) -> Result<Tensor> {
    let width = args.width;
    let norm = args.norm.map(|n| (n.weight.cpu::<f32>(), n.bias.cpu::<f32>(), n.eps));
    let (device, rows, stride) = (args.rows.device(), args.rows.cpu::<u32>(), args.tables.len());
    Tensor::cpu_with(device, &[args.tokens, width], |y: &mut [f32]| {
        if width == 0 {
            return;
        }
        let cost = y.len() * stride;
        let tasks = y.par_chunks_mut(ROWS * width).enumerate();
        device.threads().for_each(cost, tasks, |(task, y)| {
            vectorize(
                #[inline(always)]
                || {
                    for (i, table) in args.tables.iter().enumerate() {
                        let rows = rows[task * ROWS * stride + i..].iter().step_by(stride);
                        with_float!(table.dtype(), T => {
                            let table = table.cpu::<T>();
                            if i == 0 { put(table, rows, width, y) } else { add(table, rows, width, y) }
                        });
                    }
                    if let Some((weight, bias, eps)) = norm {
                        for y in y.chunks_exact_mut(width) {
                            normalize(Kind::Layer, eps, Some(weight), Some(bias), y);
                        }
                    }
                },
            );
        });
    })
}

#[inline(always)]
fn put<'a, T: Float>(
    table: &[T],
    rows: impl Iterator<Item = &'a u32>,
    width: usize,
    y: &mut [f32],
) {
    for (y, &row) in y.chunks_exact_mut(width).zip(rows) {
        if row == MISSING {
            y.fill(0.0);
            continue;
        }
        for (y, x) in y.iter_mut().zip(&table[row as usize * width..][..width]) {
            *y = x.to_f32();
        }
    }
}

#[inline(always)]
fn add<'a, T: Float>(
    table: &[T],
    rows: impl Iterator<Item = &'a u32>,
    width: usize,
    y: &mut [f32],
) {
    for (y, &row) in y.chunks_exact_mut(width).zip(rows) {
        for (y, x) in y.iter_mut().zip(&table[row as usize * width..][..width]) {
            *y += x.to_f32();
        }
    }
}
