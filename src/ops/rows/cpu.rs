//! Rows on the CPU.

use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Flag, Int8, Kind, Part, Reduced};
use crate::device::threads::items::*;
use crate::dtype::with_float;
use crate::ops::int8;
use crate::ops::length::{self, PLAIN};
use crate::ops::math::{vectorize, widen};
use crate::{DType, Element, Float, Result, Tensor};
use half::{bf16, f16};

/// Values that a task moves at a time.
const TASK: usize = 64 << 10;

pub(super) fn joined(dtype: DType, width: usize, parts: &[Part<'_>]) -> Result<Tensor> {
    match dtype {
        DType::F32 => joined_as::<f32>(width, parts, floats),
        DType::F16 => joined_as::<f16>(width, parts, floats),
        DType::BF16 => joined_as::<bf16>(width, parts, floats),
        _ => joined_as::<u32>(width, parts, |from, at, to| {
            to.copy_from_slice(&from.cpu::<u32>()[at..at + to.len()]);
        }),
    }
}

fn joined_as<T: Element>(
    width: usize,
    parts: &[Part<'_>],
    put: impl Fn(&Tensor, usize, &mut [T]) + Sync,
) -> Result<Tensor> {
    let rows = parts.iter().map(|(_, range)| range.len()).sum();
    Tensor::cpu_with(parts[0].0.device(), &[rows, width], |mut to: &mut [T]| {
        for (from, range) in parts {
            let (part, rest) = to.split_at_mut(range.len() * width);
            let (cost, tasks) = (part.len() / 4, part.par_chunks_mut(TASK).enumerate());
            from.device().threads().for_each(cost, tasks, |(i, to)| {
                put(from, range.start * width + i * TASK, to);
            });
            to = rest;
        }
    })
}

/// Puts values of a float tensor, from number `at` on, where they are wanted.
fn floats<T: Float>(from: &Tensor, at: usize, to: &mut [T]) {
    with_float!(from.dtype(), F => {
        let from = &from.cpu::<F>()[at..at + to.len()];
        match F::DTYPE == T::DTYPE {
            true => to.copy_from_slice(bytemuck::cast_slice(from)),
            false => to.iter_mut().zip(from).for_each(|(to, v)| *to = T::from_f32(v.to_f32())),
        }
    });
}

pub(super) fn unpacked(bytes: &Tensor, width: usize, scales: Option<&Tensor>) -> Result<Tensor> {
    let stored: &[i8] = bytemuck::cast_slice(bytes.cpu::<u32>());
    Tensor::cpu_with(bytes.device(), &[bytes.shape()[0], width], |to: &mut [f32]| {
        let rows = to.chunks_mut(width).zip(stored.chunks(width.next_multiple_of(4)));
        for (i, (to, row)) in rows.enumerate() {
            let scale = scales.map_or(1.0, |s| s.cpu::<f32>()[i]);
            to.iter_mut().zip(row).for_each(|(to, &byte)| *to = f32::from(byte) * scale);
        }
    })
}

pub(super) fn quantized(tensor: &Tensor, rows: Range<usize>) -> Result<Int8> {
    let (device, dim) = (tensor.device(), tensor.shape()[1]);
    let (n, width) = (rows.len(), dim.div_ceil(4));
    let mut scales = vec![0.0; n];
    let words = Tensor::cpu_with(device, &[n, width], |words: &mut [u32]| {
        with_float!(tensor.dtype(), T => {
            let stored = &tensor.cpu::<T>()[rows.start * dim..rows.end * dim];
            let each = words.par_chunks_mut(width).zip(stored.par_chunks(dim)).zip(&mut scales);
            let init = || vec![0.0; dim];
            device.threads().for_each_init(2 * n * dim, each, init, |row, ((to, stored), scale)| {
                widen(stored, row);
                *scale = int8::quantize(row, bytemuck::cast_slice_mut(to));
            });
        });
    })?;
    Ok(Int8 { words, scales: Tensor::from_slice(device, &[n], &scales)? })
}

pub(super) fn inverse_lengths(int8: &Int8) -> Result<Tensor> {
    let (n, width) = (int8.words.shape()[0], int8.words.shape()[1]);
    Tensor::cpu_with(int8.words.device(), &[n], |to: &mut [f32]| {
        let rows = int8.words.cpu::<u32>().par_chunks(width).zip(int8.scales.cpu::<f32>());
        let threads = int8.words.device().threads();
        threads.for_each(n * width, rows.zip(to), |((words, scale), to)| {
            let bytes: &[i8] = bytemuck::cast_slice(words);
            let squares = bytes.iter().map(|&b| i32::from(b) * i32::from(b));
            let squares = squares.map(|s| s as u32).sum::<u32>();
            *to = match squares {
                _ if scale.is_nan() => f32::NAN,
                0 => 0.0,
                _ => (1.0 / f64::from(squares).sqrt()) as f32,
            };
        });
    })
}

pub(super) fn gathered(sources: &[&Tensor], width: usize, numbers: &Tensor) -> Result<Tensor> {
    match sources[0].dtype() {
        DType::F32 => gathered_as::<f32>(sources, width, numbers),
        DType::F16 => gathered_as::<f16>(sources, width, numbers),
        DType::BF16 => gathered_as::<bf16>(sources, width, numbers),
        _ => gathered_as::<u32>(sources, width, numbers),
    }
}

fn gathered_as<T: Element>(sources: &[&Tensor], width: usize, numbers: &Tensor) -> Result<Tensor> {
    let numbers = numbers.cpu::<u32>();
    let starts = sources.iter().scan(0, |start, source| {
        *start += source.len() / width;
        Some(*start - source.len() / width)
    });
    let starts: Vec<usize> = starts.collect();
    Tensor::cpu_with(sources[0].device(), &[numbers.len(), width], |to: &mut [T]| {
        let (cost, each) = (to.len() / 4, to.par_chunks_mut(width).zip(numbers));
        sources[0].device().threads().for_each(cost, each, |(to, &number)| {
            let source = starts.partition_point(|&start| start <= number as usize) - 1;
            let at = (number as usize - starts[source]) * width;
            to.copy_from_slice(&sources[source].cpu::<T>()[at..at + width]);
        });
    })
}

/// A row's number, and the exponent of its power of two, by which it is divided.
fn measure(row: &mut [f32], kind: Kind, plain: &RangeInclusive<i32>) -> (f32, i32) {
    match kind {
        Kind::Length => vectorize(
            #[inline(always)]
            || {
                let exponent = length::reduce(row, plain);
                (length::inverse_length(row), exponent)
            },
        ),
        _ if row.iter().any(|v| v.is_nan()) => (f32::NAN, 0),
        Kind::Power => {
            let exponent = length::reduce(row, plain);
            (length::scaled(1.0, exponent), exponent)
        }
        Kind::One => (1.0, 0),
    }
}

pub(super) fn measured(rows: &Tensor, kind: Kind, unusual: Option<bool>) -> Result<(Tensor, Flag)> {
    let (n, dim) = (rows.shape()[0], rows.shape()[1]);
    let found = AtomicBool::new(false);
    let numbers = Tensor::cpu_with(rows.device(), &[n], |numbers: &mut [f32]| {
        with_float!(rows.dtype(), T => {
            let each = rows.cpu::<T>().par_chunks(dim).zip(numbers);
            let init = || vec![0.0; dim];
            rows.device().threads().for_each_init(rows.len(), each, init, |row, (stored, to)| {
                widen(stored, row);
                let (number, exponent) = measure(row, kind, &PLAIN);
                *to = number;
                if exponent != 0 {
                    found.store(true, Ordering::Relaxed);
                }
            });
        });
    })?;
    Ok((numbers, Flag::known(unusual.unwrap_or(found.into_inner()))))
}

pub(super) fn divided(rows: &Tensor, powers: &Tensor) -> Result<Tensor> {
    let dim = rows.shape()[1];
    with_float!(rows.dtype(), T => {
        Tensor::cpu_with(rows.device(), rows.shape(), |to: &mut [T]| {
            let each = to.par_chunks_mut(dim).zip(rows.cpu::<T>().par_chunks(dim));
            let each = each.zip(powers.cpu::<f32>());
            rows.device().threads().for_each(2 * rows.len(), each, |((to, row), power)| {
                let exponent = match power.is_nan() {
                    true => 0,
                    false => (power.to_bits() >> 23) as i32 - 127,
                };
                let divided = |v: &T| T::from_f32(length::scaled(v.to_f32(), -exponent));
                to.iter_mut().zip(row).for_each(|(to, v)| *to = divided(v));
            });
        })
    })
}

pub(super) fn reduced(
    tensor: &Tensor,
    rows: Range<usize>,
    kind: Kind,
    plain: &RangeInclusive<i32>,
) -> Result<Reduced> {
    let (n, dim) = (rows.len(), tensor.shape()[1]);
    let mut numbers = vec![0.0; n];
    let data = Tensor::cpu_with(tensor.device(), &[n, dim], |data: &mut [f32]| {
        with_float!(tensor.dtype(), T => {
            let stored = &tensor.cpu::<T>()[rows.start * dim..rows.end * dim];
            let each = data.par_chunks_mut(dim).zip(stored.par_chunks(dim)).zip(&mut numbers);
            tensor.device().threads().for_each(2 * n * dim, each, |((row, stored), number)| {
                widen(stored, row);
                *number = measure(row, kind, plain).0;
            });
        });
    })?;
    Ok(Reduced { data, scale: Tensor::from_slice(tensor.device(), &[n], &numbers)? })
}
