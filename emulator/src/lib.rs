//! Runs, checks and counts PTX kernels on the CPU.
//!
//! The crate is two things. As a shared library it has the symbols of the CUDA driver API: a program that opens `libcuda` at
//! run time can open it instead ([`driver`]), and a test in that program's process reads counts and reports and makes calls
//! fail ([`client`]). As a Rust library it runs kernels directly ([`gpu`]):
//!
//! ```
//! use ptx_emulator::gpu::{Arg, Gpu};
//!
//! let gpu = Gpu::new(80);
//! let module = gpu.load(
//!     ".version 7.0
//!      .target sm_80
//!      .address_size 64
//!      .entry double(.param .u64 values) {
//!          .reg .b32 %i, %x;
//!          .reg .b64 %p;
//!          ld.param.u64 %p, [values];
//!          mov.u32 %i, %tid.x;
//!          mad.wide.u32 %p, %i, 4, %p;
//!          ld.global.u32 %x, [%p];
//!          add.u32 %x, %x, %x;
//!          st.global.u32 [%p], %x;
//!          ret;
//!      }",
//! )?;
//! let values = gpu.upload(&[1u32, 2, 3, 4])?;
//! let counts = gpu.launch(&module, "double", 1, 4, &[Arg::U64(values)])?;
//! assert_eq!(gpu.download::<u32>(values, 4)?, [2, 4, 6, 8]);
//! assert_eq!(counts.global.loads.sectors, 1);
//!
//! // A fifth thread reads past the end: the launch ends there, and the report says where.
//! let error = gpu.launch(&module, "double", 1, 5, &[Arg::U64(values)]).unwrap_err();
//! assert!(error.to_string().contains("0 bytes past the end of allocation 1 of 16 bytes"));
//! # Ok::<(), ptx_emulator::gpu::Error>(())
//! ```
//!
//! What is supported, what the checks mean and how counts are to be read is in the README.

pub mod client;
pub mod counts;
mod descriptor;
pub mod driver;
pub mod engine;
pub mod gpu;
pub mod isa;
pub mod lanes;
pub mod matrix;
pub mod memory;
pub mod num;
pub mod report;
pub mod syntax;
pub mod tensor_map;

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
