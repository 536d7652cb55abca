//! Indexes that own vectors on a device and answer queries.

mod flat;
pub mod store;

pub use flat::{FlatIndex, Hit};
