//! Reductions of rows on the CPU: rows in parallel, a segment's columns in [`LANES`] interleaved partial results.

use super::{Kind, Slab};
use crate::device::threads::items::*;
use crate::ops::math::{LANES, exp, folded, sum_by, vectorize};
use crate::{DType, Device, Result, Tensor};

/// The state of a segment without columns: the two words that kernels keep.
pub(super) fn none(kind: Kind) -> [f32; 2] {
    match kind {
        Kind::Max => [f32::NEG_INFINITY, f32::from_bits(u32::MAX)],
        Kind::LogSumExp => [f32::NEG_INFINITY, 0.0],
        Kind::Mean | Kind::Above | Kind::Softmax => [0.0; 2],
    }
}

/// The part of a slab's row that a segment has: its place in the row, and whether the segment ends there.
fn span(slab: &Slab<'_>, segment: usize) -> (std::ops::Range<usize>, bool) {
    let (range, columns) = (slab.offsets.range(segment), &slab.columns);
    let (start, end) = (range.start.max(columns.start), range.end.min(columns.end));
    (start - columns.start..end.max(start) - columns.start, range.end <= columns.end)
}

pub(super) fn take(slab: &Slab<'_>, state: &mut [[f32; 2]]) {
    let (width, segments) = (slab.columns.len(), slab.offsets.len());
    let targets = slab.targets.map(Tensor::cpu::<f32>);
    let rows = slab.x.cpu::<f32>().par_chunks(width).zip(state.par_chunks_mut(segments));
    // An exponential is worth some ten comparisons.
    let cost = slab.x.len() / if slab.kind == Kind::LogSumExp { 1 } else { 8 };
    slab.x.device().threads().for_each(cost, rows.enumerate(), |(row, (x, state))| {
        let target = targets.map_or(0.0, |targets| targets[row]);
        for segment in slab.segments.clone() {
            let (here, ends) = span(slab, segment);
            let count = slab.offsets.range(segment).len();
            let (x, base) = (&x[here.clone()], slab.columns.start + here.start);
            vectorize(
                #[inline(always)]
                || reduce(slab, x, base, target, (ends, count), &mut state[segment]),
            );
        }
    });
}

/// Takes some columns, which begin with number `base`, into the state of their segment.
#[inline(always)]
fn reduce(
    slab: &Slab<'_>,
    x: &[f32],
    base: usize,
    target: f32,
    (ends, count): (bool, usize),
    state: &mut [f32; 2],
) {
    let scale = slab.scale;
    match slab.kind {
        Kind::Max => {
            let best = greatest(x, scale);
            let column = || x.iter().position(|&v| v * scale == best).unwrap_or(usize::MAX);
            let is_better = best > state[0] || best == state[0] && state[1].to_bits() == u32::MAX;
            if is_better && let column @ 0..usize::MAX = column() {
                // As it is there: 0 and -0 are equal.
                *state = [x[column] * scale, f32::from_bits((base + column) as u32)];
            }
        }
        Kind::Mean => {
            state[0] += sum_by(x, |v| v * scale);
            if ends && count > 0 {
                state[0] /= count as f32;
            }
        }
        Kind::LogSumExp => {
            let [before, sum] = *state;
            let largest = greatest(x, scale).max(before);
            let centre = if largest.is_infinite() { 0.0 } else { largest };
            let here = sum_by(x, |v| unclamped(v * scale - centre));
            let sum = if sum == 0.0 { here } else { sum * unclamped(before - centre) + here };
            *state = if ends { [centre + sum.ln(), 0.0] } else { [largest, sum] };
        }
        Kind::Above => {
            let (mut greater, mut equal) = ([0u32; LANES], [0u32; LANES]);
            for chunk in x.chunks(LANES) {
                for ((greater, equal), &v) in greater.iter_mut().zip(&mut equal).zip(chunk) {
                    let v = v * scale;
                    *greater += u32::from(v > target || target.is_nan() && !v.is_nan());
                    *equal += u32::from(v == target || target.is_nan() && v.is_nan());
                }
            }
            let add = |word: &mut f32, n: u32| *word = f32::from_bits(word.to_bits() + n);
            add(&mut state[0], folded(greater));
            add(&mut state[1], folded(equal));
        }
        Kind::Softmax => unreachable!("softmax keeps no state"),
    }
}

/// e^x also of infinity, for which [`exp`] is finite.
#[inline(always)]
fn unclamped(x: f32) -> f32 {
    if x == f32::INFINITY { x } else { exp(x) }
}

/// The greatest of scaled values; NaN is passed over.
#[inline(always)]
fn greatest(x: &[f32], scale: f32) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (best, &v) in best.iter_mut().zip(chunk) {
            let v = v * scale;
            *best = if v > *best { v } else { *best };
        }
    }
    for (best, &v) in best.iter_mut().zip(rest) {
        let v = v * scale;
        *best = if v > *best { v } else { *best };
    }
    best.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// The state after all slabs as tensors \[M, S\].
pub(super) fn finished(
    device: &Device,
    kind: Kind,
    shape: &[usize],
    state: &[[f32; 2]],
) -> Result<(Tensor, Tensor)> {
    let words = |i: usize| state.iter().map(|s| s[i].to_bits()).collect::<Vec<u32>>();
    let first = if kind == Kind::Above { DType::U32 } else { DType::F32 };
    Ok((
        Tensor::from_bytes(device, first, shape, bytemuck::cast_slice(&words(0)))?,
        Tensor::from_slice(device, shape, &words(1))?,
    ))
}

pub(super) fn softmax(slab: &Slab<'_>, first: &Tensor) -> Result<Tensor> {
    let (x, first, scale) = (slab.x.cpu::<f32>(), first.cpu::<f32>(), slab.scale);
    let (width, segments) = (slab.columns.len(), slab.offsets.len());
    Tensor::cpu_with(slab.x.device(), slab.x.shape(), |y: &mut [f32]| {
        let cost = y.len();
        let rows = y.par_chunks_mut(width).zip(x.par_chunks(width)).zip(first.par_chunks(segments));
        slab.x.device().threads().for_each(cost, rows, |((y, x), first)| {
            for (segment, &all) in first.iter().enumerate() {
                let here = slab.offsets.range(segment);
                let all = if all == f32::NEG_INFINITY { 0.0 } else { all };
                vectorize(
                    #[inline(always)]
                    || {
                        for (y, &v) in y[here.clone()].iter_mut().zip(&x[here]) {
                            // An infinity less itself is NaN, which stays.
                            *y = exp(v * scale - all);
                        }
                    },
                );
            }
        });
    })
}
