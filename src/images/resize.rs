//! Resizing with antialiasing, as torchvision and Pillow do it.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use super::Image;

/// How the pixels of a resized image are made of the original's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Resample(FilterType);

/// Filters by the number that Pillow gives them. Its nearest (0) and box (4) choose otherwise between pixels that are
/// equally far, and no encoder asks for them.
const FILTERS: [(u64, &str, FilterType); 4] = [
    (1, "lanczos", FilterType::Lanczos3),
    (2, "bilinear", FilterType::Bilinear),
    (3, "bicubic", FilterType::CatmullRom),
    (5, "hamming", FilterType::Hamming),
];

impl Resample {
    pub(super) const BILINEAR: Resample = Resample(FilterType::Bilinear);
    pub(super) const BICUBIC: Resample = Resample(FilterType::CatmullRom);

    /// By Pillow's number.
    pub(super) fn new(number: u64) -> Option<Resample> {
        let found = FILTERS.iter().find(|(known, ..)| *known == number);
        found.map(|(.., filter)| Resample(*filter))
    }

    pub(super) fn known() -> String {
        let names: Vec<String> =
            FILTERS.iter().map(|(number, name, _)| format!("{number} ({name})")).collect();
        names.join(", ")
    }
}

/// `image` as `[height, width, 3]`, first across, then down. The order matters where the first pass is clipped to 0..=255: it is
/// that of torchvision and of Pillow up to 12; Pillow 13 takes the other for some tall images (its pull request 9549).
/// A pass has weights of 16 bits, as torchvision's: the result has the same bits. Pillow's weights have 22; on noise without any
/// grey it differs by two levels at some pixels, else by one at most.
///
/// # Errors
/// What is wrong if the image between the passes or the result has no pixel, or more than `max_pixels`.
pub(super) fn resize(
    image: &Image,
    (height, width): (usize, usize),
    resample: Resample,
    max_pixels: usize,
) -> Result<Vec<u8>, String> {
    let pixels = |height: usize| height.saturating_mul(width);
    let (least, most) = (pixels(height), pixels(height).max(pixels(image.height())));
    if least == 0 || most > max_pixels {
        return Err(format!(
            "cannot be resized from {} x {} to {width} x {height} pixels: that takes {most}, expected 1 to {max_pixels}",
            image.width(),
            image.height(),
        ));
    }
    let across =
        pass(image.rgb(), (image.width(), image.height()), (width, image.height()), resample)?;
    pass(&across, (width, image.height()), (width, height), resample)
}

/// One pass; sizes are (width, height), of which one is the same. The type of a pixel is said here: `Resizer::resize`,
/// which looks for it, would have the loops of all thirteen types compiled into this crate.
fn pass(
    rgb: &[u8],
    from: (usize, usize),
    to: (usize, usize),
    Resample(filter): Resample,
) -> Result<Vec<u8>, String> {
    let side = |n: usize| u32::try_from(n).map_err(|e| e.to_string());
    let source = TypedImageRef::<U8x3>::from_buffer(side(from.0)?, side(from.1)?, rgb);
    let source = source.map_err(|e| e.to_string())?;
    let mut resized = vec![0; to.0 * to.1 * 3];
    let target = TypedImage::<U8x3>::from_buffer(side(to.0)?, side(to.1)?, &mut resized);
    let mut target = target.map_err(|e| e.to_string())?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    Resizer::new().resize_typed(&source, &mut target, &options).map_err(|e| e.to_string())?;
    Ok(resized)
}
