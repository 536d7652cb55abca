//! Methods of retrieval that are compositions of operations: what several papers ask for, by one name each.
//!
//! Each is on the device where the vectors are, and stores no matrix of scores of queries by rows. Indexes are in
//! [`search`](crate::search), measures in [`metrics`](crate::metrics).

pub mod bank;
pub mod compose;
pub mod fuse;
pub mod matching;
pub mod rerank;

use std::cmp::Ordering;

/// The order of scores, the greatest first, in which 0 and -0 are equal. There is no NaN among them.
pub(crate) fn descending<T: PartialOrd>(a: T, b: T) -> Ordering {
    b.partial_cmp(&a).unwrap_or(Ordering::Equal)
}
