//! Decoding on the CPU: vectors in parallel, a table of a byte's fields.

use rayon::prelude::*;

use super::{Args, EPS};
use crate::ops::math::vectorize;
use crate::ops::norm::{Kind, cpu::row};
use crate::{Result, Tensor};

/// Vectors a task takes.
const ROWS: usize = 64;

pub(super) fn decode(args: &Args<'_>) -> Result<Tensor> {
    let &Args { codec, codes, picked, rows, width, words } = args;
    let picked = picked.map(|p| p.cpu::<u32>());
    let (centroids, table) = (codec.centroids.cpu::<f32>(), codec.table.cpu::<f32>());
    let (numbers, residuals) = (codes.centroids.cpu::<u32>(), codes.residuals.cpu::<u32>());
    let per_byte = (8 / codec.bits()) as usize;
    // The weights of the fields of every byte, in the order of their dimensions.
    let field =
        |byte: usize, i: usize| byte >> (8 - codec.bits() as usize * (i + 1)) & (table.len() - 1);
    let bytes: Vec<f32> =
        (0..256).flat_map(|byte| (0..per_byte).map(move |i| table[field(byte, i)])).collect();
    Tensor::cpu_with(codes.device(), &[rows, width], |y: &mut [f32]| {
        y.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, y)| {
            vectorize(
                #[inline(always)]
                || {
                    for (i, y) in y.chunks_exact_mut(width).enumerate() {
                        let at = task * ROWS + i;
                        let at = picked.map_or(at, |p| p[at] as usize);
                        let centroid = &centroids[numbers[at] as usize * width..][..width];
                        let packed: &[u8] = bytemuck::cast_slice(&residuals[at * words..][..words]);
                        let fields =
                            y.chunks_exact_mut(per_byte).zip(centroid.chunks_exact(per_byte));
                        for ((y, centroid), &byte) in fields.zip(packed) {
                            let weights = &bytes[byte as usize * per_byte..][..per_byte];
                            for ((y, c), w) in y.iter_mut().zip(centroid).zip(weights) {
                                *y = c + w;
                            }
                        }
                        row(Kind::L2, EPS, None, None, y);
                    }
                },
            );
        });
    })
}
