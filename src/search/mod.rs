//! Indexes that own vectors on a device and answer queries.

mod binary;
mod flat;
mod ids;
pub mod store;

pub use binary::{BinaryIndex, BinarySearch, Keep};
pub use flat::FlatIndex;
pub use ids::Hit;
