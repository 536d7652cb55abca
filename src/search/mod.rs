//! Indexes that own vectors on a device and answer queries.

mod flat;
mod ids;
pub mod store;

pub use flat::FlatIndex;
pub use ids::Hit;
