//! Indexes that own vectors on a device and answer queries.

mod binary;
pub mod cur;
mod flat;
mod ids;
pub mod store;
mod tokens;

pub use binary::{BinaryIndex, BinarySearch, Keep};
pub use cur::CurIndex;
pub use flat::FlatIndex;
pub use ids::{Hit, check_ids};
pub use tokens::TokenIndex;
