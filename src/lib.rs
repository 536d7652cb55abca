//! Fast similarity: transformer encoders that turn texts into vectors, and exact search over them, on GPUs through WGSL
//! and on the CPU. No CUDA toolkit, no libtorch, no C compiler.
//!
//! - [`models`]: text encoders and cross-encoders from Hugging Face and sentence-transformers folders.
//! - [`search`]: indexes that own vectors with ids; [`metrics`] measures rankings.
//! - [`ops`]: what these are made of, as functions on [`Tensor`]s: top-k, matrix products, attention, norms, lookups,
//!   pooling.
//! - [`Device`]: the CPU, a GPU, or an engine's own wgpu device. A device asked for by name is that device or an error.
//!
//! Bad input is a typed [`Error`] that says what was wrong, with which value, and what would be right. A result has the same
//! bits whatever batch it rides in, on one device.
//!
//! Features: `wgpu` (default) adds GPUs through Vulkan, Metal and DX12; `cli` (default) builds the program `nearkin` and is
//! nothing to a library.
//!
//! ```
//! use nearkin::ops::topk::Metric;
//! use nearkin::search::FlatIndex;
//! use nearkin::{DType, Device};
//!
//! # fn main() -> nearkin::Result<()> {
//! let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 2)?;
//! index.add(&["north", "east"], &[0.0, 1.0, /**/ 1.0, 0.0])?;
//! let found = index.search(&[0.2, 0.9], 1, Metric::Cosine, None)?;
//! assert_eq!(&*found[0][0].id, "north");
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

pub mod device;
mod dtype;
mod error;
pub mod metrics;
pub mod models;
pub mod ops;
pub mod search;
pub mod template;
mod tensor;

pub use device::{Device, DeviceInfo, DeviceOptions};
pub use dtype::{DType, Element, Float};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use tensor::{Offsets, Tensor};

/// The examples of the README compile and run with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
