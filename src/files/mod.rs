//! Files: every input of the library is read here, and every output is written here.
//!
//! - [`read`] takes regular files up to a size; [`Reader`] reads ranges of one. Pipes, devices and folders are refused
//!   before they are opened, so that none blocks or fills the memory.
//! - [`Replacement`] writes a file that appears whole or not at all.
//! - [`check_output`] refuses an output that is one of the inputs.
//! - [`walk`] visits the files below a folder, each real folder once.

mod identity;
mod lfs;
mod read;
mod replace;
mod walk;

pub use identity::check_output;
pub(crate) use lfs::check as check_pointer;
pub(crate) use read::{CONFIG, TOKENIZER, open, read_json, read_text};
#[cfg(feature = "images")]
pub(crate) use read::{IMAGE, read_head};
pub use read::{Reader, read};
pub use replace::Replacement;
pub use walk::{Hidden, walk};
