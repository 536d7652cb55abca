//! Decoding on the CPU: vectors in parallel, a table of a byte's fields.

use std::ops::Range;

use crate::device::threads::items::*;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Args, Codec, Codes, EPS};
use crate::ops::math::vectorize;
use crate::ops::norm::cpu::unit_scale;
use crate::{DType, Result, Tensor};

/// Vectors a task takes.
const ROWS: usize = 64;

pub(super) fn decode(args: &Args<'_>) -> Result<Tensor> {
    let &Args { codec, codes, rows, width } = args;
    Tensor::cpu_with(codes.device(), &[rows, width], |y: &mut [f32]| {
        let (cost, tasks) = (y.len(), y.par_chunks_mut(ROWS * width).enumerate());
        codes.device().threads().for_each(cost, tasks, |(task, y)| {
            let first = task * ROWS;
            decode_rows(codec, codes, first..first + y.len() / width, DType::F32, y);
        });
    })
}

/// Vectors `rows` of a CPU's codes, rounded to `dtype` and then divided by the length they had before: \[rows.len(), D\].
pub(crate) fn decode_rows(
    codec: &Codec,
    codes: &Codes,
    rows: Range<usize>,
    dtype: DType,
    y: &mut [f32],
) {
    let (width, words) = (codec.dim(), codec.words());
    let per_byte = (8 / codec.bits()) as usize;
    let (numbers, residuals) = (codes.centroids.cpu::<u32>(), codes.residuals.cpu::<u32>());
    let mut halves = vec![f16::ZERO; if dtype == DType::F16 { width } else { 0 }];
    vectorize(
        #[inline(always)]
        || {
            for (y, at) in y.chunks_exact_mut(width).zip(rows) {
                let centroid = codec.centroid(numbers[at]);
                let packed: &[u8] = bytemuck::cast_slice(&residuals[at * words..][..words]);
                let fields = y.chunks_exact_mut(per_byte).zip(centroid.chunks_exact(per_byte));
                for ((y, centroid), &byte) in fields.zip(packed) {
                    let weights = &codec.bytes[byte as usize * per_byte..][..per_byte];
                    for ((y, c), w) in y.iter_mut().zip(centroid).zip(weights) {
                        *y = c + w;
                    }
                }
                let scale = unit_scale(y, EPS);
                match dtype {
                    DType::F16 => {
                        halves.convert_from_f32_slice(y);
                        halves.convert_to_f32_slice(y);
                    }
                    DType::BF16 => y.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
                    _ => {}
                }
                y.iter_mut().for_each(|v| *v *= scale);
            }
        },
    );
}
