//! Patches of an image as the rows of a matrix.

use super::Pixels;
use crate::{Error, Result};

/// Patches, row by row of their grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// `[grid.0 * grid.1, 3 * height * width]` of a patch: channels first, then rows.
    pub rows: Vec<f32>,
    /// Patches down and across.
    pub grid: (usize, usize),
}

/// Cuts an image into patches of `patch` (height, width), `stride` (down, across) apart, so that the product of the rows with
/// the weight `[out, 3, height, width]` of a convolution, flattened, is that convolution without padding (im2col).
/// What remains at the right and at the bottom is dropped.
///
/// # Errors
/// [`Error::Argument`] if a side of a patch or a stride is 0, a patch is larger than the image, or `pixels` is not as long
/// as its sides say.
pub fn patches(pixels: &Pixels, patch: (usize, usize), stride: (usize, usize)) -> Result<Patches> {
    let grid = grid(pixels, patch, stride)?;
    let size = grid.0.saturating_mul(grid.1).saturating_mul(3 * patch.0 * patch.1);
    let mut rows = Vec::with_capacity(size);
    each_patch(pixels, patch, stride, |patch| rows.extend_from_slice(patch))?;
    Ok(Patches { rows, grid })
}

/// Patches down and across an image.
fn grid(pixels: &Pixels, patch: (usize, usize), stride: (usize, usize)) -> Result<(usize, usize)> {
    let (height, width) = (pixels.height, pixels.width);
    pixels.check()?;
    if !(1..=height).contains(&patch.0) || !(1..=width).contains(&patch.1) {
        let expected = format!("1 x 1 to {height} x {width}");
        return Err(Error::argument("patch", expected, format!("{} x {}", patch.0, patch.1)));
    }
    if stride.0 == 0 || stride.1 == 0 {
        let got = format!("{} x {}", stride.0, stride.1);
        return Err(Error::argument("stride of patches", "at least 1 x 1", got));
    }
    Ok(((height - patch.0) / stride.0 + 1, (width - patch.1) / stride.1 + 1))
}

/// Gives `take` the rows of [`patches`], one after the other.
pub(crate) fn each_patch(
    pixels: &Pixels,
    patch: (usize, usize),
    stride: (usize, usize),
    mut take: impl FnMut(&[f32]),
) -> Result<()> {
    let grid = grid(pixels, patch, stride)?;
    let (height, width) = (pixels.height, pixels.width);
    let mut row = vec![0.0; 3 * patch.0 * patch.1];
    for top in (0..grid.0).map(|y| y * stride.0) {
        for left in (0..grid.1).map(|x| x * stride.1) {
            let mut lines = row.chunks_exact_mut(patch.1);
            for channel in pixels.values.chunks_exact(height * width) {
                let from = channel.chunks_exact(width).skip(top).take(patch.0);
                for (line, to) in from.zip(&mut lines) {
                    to.copy_from_slice(&line[left..left + patch.1]);
                }
            }
            take(&row);
        }
    }
    Ok(())
}
