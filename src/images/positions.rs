//! A table of positions for another grid of patches.

use crate::{Error, Result};

/// Ways of interpolation of `torch.nn.functional.interpolate`. ViT, DeiT, CLIP, SigLIP, BLIP and DINOv2 take `Bicubic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interpolation {
    /// `mode="bicubic"`: cubic convolution with a = -0.75 over four rows, the border repeated.
    Bicubic,
    /// `mode="bicubic", antialias=True`: a = -0.5, wider where the grid shrinks, as DINOv2 with registers and OpenCLIP.
    BicubicAntialias,
    /// `mode="bilinear", antialias=True`: a triangle, wider where the grid shrinks, as SigLIP 2 with any resolution.
    BilinearAntialias,
    /// `mode="bilinear", align_corners=True`: the corners stay where they are, as ViLT.
    BilinearCorners,
}

/// The longest side of a grid: patches of one pixel of an image that is large for any encoder.
const MAX_SIDE: usize = 4096;

/// Resizes `table` `[from.0 * from.1, d]` to `[to.0 * to.1, d]`, grids given as (height, width); d is what the length leaves.
///
/// # Errors
/// [`Error::Argument`] if a side of a grid is not of 1 to 4096, or the table is no multiple of `from`.
pub fn interpolate_positions(
    table: &[f32],
    from: (usize, usize),
    to: (usize, usize),
    interpolation: Interpolation,
) -> Result<Vec<f32>> {
    for grid in [from, to] {
        let side = 1..=MAX_SIDE;
        if !side.contains(&grid.0) || !side.contains(&grid.1) {
            let got = format!("{} x {}", grid.0, grid.1);
            return Err(Error::argument("grid of positions", "sides of 1 to 4096", got));
        }
    }
    let dim = from.0.checked_mul(from.1).filter(|n| table.len().is_multiple_of(*n));
    let Some(dim) = dim.map(|n| table.len() / n) else {
        let expected = format!("a multiple of {} x {} values", from.0, from.1);
        return Err(Error::argument("table of positions", expected, table.len().to_string()));
    };
    // First down, where a row is a whole line of the grid, then across.
    let line = from.1 * dim;
    let tall = mix(table, line, &axis(from.0, to.0, interpolation));
    let across = axis(from.1, to.1, interpolation);
    if line == 0 {
        return Ok(Vec::new());
    }
    Ok(tall.chunks_exact(line).flat_map(|line| mix(line, dim, &across)).collect())
}

/// What a row of the result takes of rows of the source.
type Weights = Vec<(usize, f32)>;

fn mix(rows: &[f32], width: usize, weights: &[Weights]) -> Vec<f32> {
    let mut out = vec![0.0; weights.len() * width];
    if width > 0 {
        for (out, weights) in out.chunks_exact_mut(width).zip(weights) {
            for &(row, weight) in weights {
                for (out, x) in out.iter_mut().zip(&rows[row * width..]) {
                    *out += weight * x;
                }
            }
        }
    }
    out
}

/// PyTorch, `aten/src/ATen/native/UpSample.h` and `cpu/UpSampleKernel.cpp`, in f32 as there.
fn axis(from: usize, to: usize, interpolation: Interpolation) -> Vec<Weights> {
    let scale = from as f32 / to as f32;
    let last = from - 1;
    (0..to)
        .map(|i| match interpolation {
            Interpolation::Bicubic => {
                let at = scale * (i as f32 + 0.5) - 0.5;
                let (first, t) = (at.floor(), at - at.floor());
                let row = |k: isize| (first as isize + k).clamp(0, last as isize) as usize;
                (-1..=2).map(|k| (row(k), cubic(t - k as f32, -0.75))).collect()
            }
            Interpolation::BicubicAntialias => wide(scale, i, from, 2.0, |x| cubic(x, -0.5)),
            Interpolation::BilinearAntialias => {
                wide(scale, i, from, 1.0, |x| (1.0 - x.abs()).max(0.0))
            }
            Interpolation::BilinearCorners => {
                let scale = if to > 1 { last as f32 / (to - 1) as f32 } else { 0.0 };
                let at = scale * i as f32;
                let first = (at as usize).min(last);
                let t = at - first as f32;
                vec![(first, 1.0 - t), ((first + 1).min(last), t)]
            }
        })
        .collect()
}

/// A kernel that is stretched where the grid shrinks, and sums to 1 within it.
fn wide(scale: f32, i: usize, from: usize, radius: f32, kernel: impl Fn(f32) -> f32) -> Weights {
    let stretch = scale.max(1.0);
    let support = radius * stretch;
    let center = scale * (i as f32 + 0.5);
    let first = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(from);
    let weight = |row: usize| kernel((row as f32 - center + 0.5) / stretch);
    let sum: f32 = (first..end).map(weight).sum();
    (first..end).map(|row| (row, weight(row) / sum)).collect()
}

/// Keys' cubic convolution kernel.
fn cubic(x: f32, a: f32) -> f32 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}
