//! Methods of retrieval that are compositions of operations: what several papers ask for, by one name each.
//!
//! Each is on the device where the vectors are, and stores no matrix of scores of queries by rows. Indexes are in
//! [`search`](crate::search), measures in [`metrics`](crate::metrics).

pub mod bank;
pub mod compose;
pub mod fuse;
pub mod rerank;
