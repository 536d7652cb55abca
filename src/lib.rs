//! GPU kernels for similarity.
#![deny(missing_docs)]

pub mod device;
mod dtype;
mod error;
pub mod metrics;
pub mod ops;
pub mod search;
pub mod template;
mod tensor;

pub use device::{Device, DeviceInfo, DeviceOptions};
pub use dtype::{DType, Element, Float};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use tensor::{Offsets, Tensor};
