//! Indexes: vectors with ids on a device, answering queries.

mod flat;
pub mod store;

pub use flat::{Filter, FlatIndex, Hit, Queries};
