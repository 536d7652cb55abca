//! GPU kernels for similarity: transformer encoders that turn texts into vectors, and exact search over them.
//!
//! The kernels are written by hand, in PTX for NVIDIA's GPUs and in WGSL for every GPU that wgpu reaches, beside a CPU
//! backend of every operation.
//! There is no CUDA toolkit, no libtorch, no C compiler and no build script.
//!
//! ```
//! use nearkin::ops::topk::Metric;
//! use nearkin::search::FlatIndex;
//! use nearkin::{DType, Device};
//!
//! let device = Device::best(); // the first hardware GPU, else the CPU
//! let mut index = FlatIndex::new(&device, DType::F32, 2)?;
//! index.add(&["north", "east"], &[0.0, 1.0, 1.0, 0.0])?;
//! let found = index.search(&[0.6, 0.8], 1, Metric::Cosine, None)?;
//! assert_eq!(&*found[0][0].id, "north");
//! # Ok::<(), nearkin::Error>(())
//! ```
//!
//! # Layers
//!
//! | module | what it is |
//! |---|---|
//! | [`search`] | indexes that own vectors on a device and answer queries; [`metrics`] measures them |
//! | [`rank`] | methods of retrieval on top of operations: bank normalisation, composed queries, fusion, reranking |
//! | [`models`] | Hugging Face, sentence-transformers and OpenCLIP folders, run as text, image, dual and cross-encoders |
//! | `images` | image files to normalised pixels and patches, by a model's folder (feature `images`) |
//! | [`ops`] | the operations: gemm, attention, norm, embed, pool, topk, maxsim, hamming, residual, kmeans |
//! | [`files`] | how inputs are read and outputs are written |
//! | [`Tensor`], [`Offsets`] | a shape, a dtype and memory on one device; bounds of ragged sequences |
//! | [`Device`] | the CPU or a GPU, your own CUDA context and stream or wgpu device included |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `cuda` | yes | NVIDIA GPUs through the driver alone; needs no toolkit to build or run |
//! | `cuda-12` | yes | the version of the bindings to the driver; drop it where another crate chooses one |
//! | `wgpu` | yes | GPUs through Vulkan, Metal and DX12 |
//! | `images` | yes | JPEG, PNG and WebP to what image encoders take |
//! | `cli` | yes | the `nearkin` program; libraries turn it off |
//!
//! # Promises
//!
//! - A result has the same bits whatever batch it rides in, on one device.
//! - Top-k is exact: score descending, ties to the lower index, NaN never enters, any k.
//! - Sequences are ragged, never padded; no score matrix exists in attention or search.
//! - A device asked for by name is that device or an error; every error is an [`Error`] that says what would be right.
//! - Operations only enqueue on a GPU; [`Tensor::to_vec`] waits, [`Tensor::to_vec_async`] does not block.
#![deny(missing_docs)]

mod budget;
pub mod device;
mod dtype;
mod error;
pub mod files;
mod header;
pub mod images;
pub mod metrics;
pub mod models;
pub mod ops;
pub mod rank;
pub mod search;
#[doc(hidden)] // for the crate's own tests
pub mod template;
mod tensor;

pub use device::{Device, DeviceInfo, DeviceOptions, MatmulPrecision, Transfers};
pub use dtype::{DType, Element, Float};
pub use error::{Error, Result, shown};
pub use half::{bf16, f16};
pub use tensor::{Offsets, Tensor};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
