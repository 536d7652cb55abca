//! Indexes that own vectors on a device and answer queries.

mod flat;
pub mod store;
mod tokens;

pub use flat::{FlatIndex, Hit};
pub use tokens::TokenIndex;
