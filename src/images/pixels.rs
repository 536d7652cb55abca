//! Images as encoders take them.

use crate::{Error, Result};

/// An image as an encoder takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// `[3, height, width]`, normalised; red, green, blue.
    pub values: Vec<f32>,
    /// Rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
}

/// Images of one size, and where they end.
#[derive(Clone, Debug, PartialEq)]
pub struct Padded {
    /// `[n, 3, height, width]`, 0 to the right of and below each image.
    pub values: Vec<f32>,
    /// `[n, height, width]`, true where the image is.
    pub mask: Vec<bool>,
    /// Rows of the tallest image.
    pub height: usize,
    /// Pixels of a row of the widest.
    pub width: usize,
}

/// Pads normalised images to the height of the tallest and the width of the widest, as ViLT's processor does a batch
/// (`pixel_values` and `pixel_mask`).
///
/// # Errors
/// [`Error::Argument`] if an image is not as long as its sides say.
pub fn pad(images: &[Pixels]) -> Result<Padded> {
    let height = images.iter().map(|p| p.height).max().unwrap_or(0);
    let width = images.iter().map(|p| p.width).max().unwrap_or(0);
    let (mut values, mut mask) = (Vec::new(), Vec::new());
    for image in images {
        image.check()?;
        let row = |y: usize, channel: usize| {
            let at = (channel * image.height + y) * image.width;
            image.values[at..at + image.width].iter().copied()
        };
        let zeros = |n: usize| std::iter::repeat_n(0.0, n);
        for channel in 0..3 {
            for y in 0..image.height {
                values.extend(row(y, channel).chain(zeros(width - image.width)));
            }
            values.extend(zeros((height - image.height) * width));
        }
        for y in 0..height {
            mask.extend((0..width).map(|x| y < image.height && x < image.width));
        }
    }
    Ok(Padded { values, mask, height, width })
}

impl Pixels {
    /// Whether the sides are those of the values.
    pub(super) fn check(&self) -> Result<()> {
        let (height, width) = (self.height, self.width);
        if height.checked_mul(width).and_then(|n| n.checked_mul(3)) == Some(self.values.len()) {
            return Ok(());
        }
        let expected = format!("3 values a pixel of {height} x {width}");
        Err(Error::argument("pixels", expected, self.values.len().to_string()))
    }
}
