//! Indexes that own vectors on a device and answer queries.

pub mod cur;
mod flat;
pub mod store;
mod tokens;

pub use cur::CurIndex;
pub use flat::{FlatIndex, Hit};
pub use tokens::TokenIndex;
