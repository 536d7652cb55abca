//! Files to upright 8-bit RGB.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::jpeg;
use crate::{Error, Result, files};

/// Pixels of an image at most where no other limit is given: half a GiB as RGB, and what Pillow refuses to exceed.
pub const MAX_PIXELS: usize = 2 * ((1 << 30) / 4 / 3);

/// An upright image in RGB, 8 bits a channel, rows from the top.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("width", &self.width).field("height", &self.height).finish()
    }
}

impl Image {
    /// Decodes a JPEG, PNG or WebP file, whatever its name ends with; of an animation, the first picture.
    ///
    /// As `PIL.ImageOps.exif_transpose` and the `convert_to_rgb` of transformers 5 do: the EXIF orientation is applied;
    /// palettes are looked up, grey is repeated, CMYK becomes RGB; what is transparent is laid on white. Of 16 bits the upper
    /// 8 are kept, but 16-bit grey saturates at 255. Colour profiles are not looked at.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Image`] if it has another format, is damaged, ends early, or has
    /// more than [`MAX_PIXELS`] pixels.
    pub fn open(file: impl AsRef<Path>) -> Result<Image> {
        Image::open_within(file, MAX_PIXELS)
    }

    /// [`open`](Image::open) with another limit to the number of pixels. Decoding takes up to 16 bytes a pixel.
    pub fn open_within(file: impl AsRef<Path>, max_pixels: usize) -> Result<Image> {
        Image::open_with_room(file.as_ref(), max_pixels, |_, _| ()).map(|(image, ())| image)
    }

    /// [`open_within`](Image::open_within); once the header is read, `room` is called with the height and width that it states,
    /// and may wait until there is memory for them. Its result is returned with the image.
    pub(super) fn open_with_room<T>(
        file: &Path,
        max_pixels: usize,
        room: impl FnOnce(usize, usize) -> T,
    ) -> Result<(Image, T)> {
        let bytes = files::read(file, files::IMAGE)?;
        decode(&bytes, max_pixels, room)
            .map_err(|problem| Error::Image { file: file.into(), problem })
    }

    /// Looks at a file without decoding its pixels: whether it is a JPEG, PNG or WebP with a sound header and 1 to
    /// [`MAX_PIXELS`] pixels. Reads 64 KiB, and more only if the header does not end there.
    ///
    /// # Errors
    /// As [`open`](Image::open), for what the header shows.
    pub fn check(file: impl AsRef<Path>) -> Result<()> {
        Image::check_within(file, MAX_PIXELS)
    }

    /// [`check`](Image::check) with another limit to the number of pixels.
    pub fn check_within(file: impl AsRef<Path>, max_pixels: usize) -> Result<()> {
        let file = file.as_ref();
        let bad = |problem| Error::Image { file: file.into(), problem };
        let (head, is_whole) = files::read_head(file, HEAD)?;
        match header(&head, max_pixels, is_whole) {
            Err(_) if !is_whole => {
                header(&files::read(file, files::IMAGE)?, max_pixels, true).map(drop).map_err(bad)
            }
            looked => looked.map(drop).map_err(bad),
        }
    }

    /// [`open`](Image::open) for a file in memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Image> {
        Image::from_bytes_within(bytes, MAX_PIXELS)
    }

    /// [`from_bytes`](Image::from_bytes) with another limit to the number of pixels.
    pub fn from_bytes_within(bytes: &[u8], max_pixels: usize) -> Result<Image> {
        let image = decode(bytes, max_pixels, |_, _| ());
        image
            .map(|(image, ())| image)
            .map_err(|problem| Error::Image { file: "memory".into(), problem })
    }

    /// An image from `rgb` `[height, width, 3]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0 or `rgb` has another length.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Image> {
        let side = 1..=u32::MAX as usize;
        if !side.contains(&width) || !side.contains(&height) {
            let got = format!("{width} x {height}");
            return Err(Error::argument("width and height of an image", "1 to 2^32 - 1", got));
        }
        if width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(rgb.len()) {
            let expected = format!("3 bytes a pixel of {width} x {height}");
            return Err(Error::argument("rgb of an image", expected, rgb.len().to_string()));
        }
        Ok(Image { width, height, rgb })
    }

    /// Pixels of a row; at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows; at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

/// Bytes in which most headers end.
const HEAD: u64 = 64 << 10;

/// What a file's header says, with what decodes the rest. `is_whole` if the bytes are all of the file.
fn header(
    bytes: &[u8],
    max_pixels: usize,
    is_whole: bool,
) -> Result<(impl ImageDecoder, [u32; 2]), String> {
    let known = "known are JPEG, PNG and WebP";
    let format = image::guess_format(bytes).map_err(|_| match bytes.is_empty() {
        true => "is empty".to_string(),
        false => format!("is no image; {known}"),
    })?;
    if !matches!(format, ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP) {
        return Err(format!("has the format {format:?}; {known}"));
    }
    let mut limits = Limits::no_limits();
    // The widest pixel has 8 bytes; the rest is for what a decoder needs besides.
    limits.max_alloc = Some((max_pixels as u64).saturating_mul(8).saturating_add(64 << 20));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;

    let (width, height) = decoder.dimensions();
    let pixels = width as u64 * height as u64;
    if pixels > max_pixels as u64 {
        return Err(format!("has {width} x {height} pixels, at most {max_pixels} are allowed"));
    }
    if pixels == 0 {
        return Err(format!("has {width} x {height} pixels, expected at least 1 x 1"));
    }
    // The decoder fills up what is missing with grey.
    if format == ImageFormat::Jpeg && is_whole && !jpeg::is_whole(bytes) {
        return Err("ends before its end-of-image marker".into());
    }
    Ok((decoder, [width, height]))
}

fn decode<T>(
    bytes: &[u8],
    max_pixels: usize,
    room: impl FnOnce(usize, usize) -> T,
) -> Result<(Image, T), String> {
    let (mut decoder, [width, height]) = header(bytes, max_pixels, true)?;
    let room = room(height as usize, width as usize);
    // Where the orientation is damaged, the picture need not be.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let size = usize::try_from(decoder.total_bytes()).map_err(|e| e.to_string())?;
    let mut samples = vec![0; size];
    decoder.read_image(&mut samples).map_err(|e| e.to_string())?;

    let rgb = to_rgb(color, samples).ok_or_else(|| format!("has pixels of the type {color:?}"))?;
    let rgb = RgbImage::from_raw(width, height, rgb).ok_or("has too few samples")?;
    let mut upright = DynamicImage::ImageRgb8(rgb);
    upright.apply_orientation(orientation);
    let (width, height) = (upright.width() as usize, upright.height() as usize);
    Ok((Image { width, height, rgb: upright.into_rgb8().into_raw() }, room))
}

/// Samples as the decoder gives them, 16 bits in the machine's order, to RGB.
fn to_rgb(color: ColorType, samples: Vec<u8>) -> Option<Vec<u8>> {
    let upper = |samples: &[u8]| -> Vec<u8> { words(samples).map(|v| (v >> 8) as u8).collect() };
    Some(match color {
        ColorType::L8 => samples.iter().flat_map(|&v| [v; 3]).collect(),
        ColorType::La8 => samples.chunks_exact(2).flat_map(|p| [on_white(p[0], p[1]); 3]).collect(),
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => {
            samples.chunks_exact(4).flat_map(|p| [0, 1, 2].map(|c| on_white(p[c], p[3]))).collect()
        }
        // Pillow clips this mode, I;16.
        ColorType::L16 => words(&samples).flat_map(|v| [v.min(255) as u8; 3]).collect(),
        ColorType::La16 => return to_rgb(ColorType::La8, upper(&samples)),
        ColorType::Rgb16 => upper(&samples),
        ColorType::Rgba16 => return to_rgb(ColorType::Rgba8, upper(&samples)),
        _ => return None,
    })
}

fn words(samples: &[u8]) -> impl Iterator<Item = u16> {
    samples.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]))
}

/// `(v alpha + 255 (255 - alpha)) / 255` to the nearest, with the rounding of Pillow's `alpha_composite`.
fn on_white(v: u8, alpha: u8) -> u8 {
    let alpha = alpha as u32;
    let sum = v as u32 * alpha + 255 * (255 - alpha) + 128;
    (((sum >> 8) + sum) >> 8) as u8
}
