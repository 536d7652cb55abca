//! Images: files to what an encoder's first layer takes.
//!
//! [`Image`] decodes JPEG, PNG and WebP to upright 8-bit RGB; [`Preprocessor`] resizes, crops and normalises as the folder of
//! a model says, to [`Pixels`]; [`patches`](fn@patches) unrolls these for a patch embedding that is a matrix product, and
//! [`interpolate_positions`] fits the table of positions to another grid. All of it runs on the CPU; many files are decoded
//! at once.
//!
//! Files and their preprocessing need the feature `images`; without it pixels come from the caller.
//!
//! # Sources
//! What is matched, within one level of 255, is transformers 5 with torchvision, for OpenCLIP's recipes open_clip 3; they
//! resize as Pillow does, with its convolution in fixed point (Pillow `src/libImaging/Resample.c`).
//!
//! # Example
//! ```no_run
//! use nearkin::images::{Preprocessor, patches};
//!
//! # fn main() -> nearkin::Result<()> {
//! let preprocessor = Preprocessor::open("clip-vit-base-patch32".as_ref())?;
//! for pixels in preprocessor.files(&["cat.jpg", "dog.png"])? {
//!     let patches = patches(&pixels, (32, 32), (32, 32))?;
//!     assert_eq!(patches.rows.len(), 49 * 3 * 32 * 32);
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "images")]
mod decode;
#[cfg(feature = "images")]
mod geometry;
#[cfg(feature = "images")]
mod jpeg;
mod patches;
mod pixels;
mod positions;
#[cfg(feature = "images")]
mod preprocess;
#[cfg(feature = "images")]
mod recipe;
#[cfg(feature = "images")]
mod resize;

#[cfg(feature = "images")]
pub use decode::{Image, MAX_PIXELS};
pub(crate) use patches::each_patch;
pub use patches::{Patches, patches};
pub use pixels::{Padded, Pixels, pad};
pub use positions::{Interpolation, interpolate_positions};
#[cfg(feature = "images")]
pub use preprocess::Preprocessor;
