//! Indexes that own vectors on a device and answer queries.
//!
//! Every index refuses vectors with a NaN or an infinity, and those that would have one once they are rounded to how they are
//! stored (f16 ends at 65504): adding is an error that names the value and its row, and adds nothing; a file with such a value is
//! damaged. A query with a NaN finds nothing.

mod binary;
pub mod cur;
mod finite;
mod flat;
mod fused;
mod hybrid;
mod ids;
mod multi;
mod sparse;
pub mod store;
mod tokens;

use std::io::Write;

use crate::ops::sparse::Csr;
use crate::ops::topk::Metric;
use crate::{Device, Error, Result};

pub use binary::{BinaryIndex, BinarySearch, Keep};
pub use cur::CurIndex;
pub use flat::FlatIndex;
pub use fused::fuse;
pub use hybrid::HybridIndex;
pub use ids::{Hit, check_ids};
pub use multi::{Asked, Field, MultiIndex};
pub use sparse::{SparseIndex, write_sparse};
pub use tokens::TokenIndex;

/// Reads the bytes of a file as every kind of index, and searches where that works, for tests with hostile bytes. Gives how many
/// kinds it is.
#[doc(hidden)]
pub fn check_index(bytes: &[u8]) -> Result<usize> {
    let io = |e| Error::io("memory", e);
    let mut file = tempfile::NamedTempFile::new().map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    let (path, device) = (file.path(), Device::cpu());
    // Searches of large vectors take time and check nothing more.
    let is_small = |dim: usize| dim <= 1 << 12;
    let query = |dim: usize| (0..dim).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<f32>>();
    let mut kinds = 0;
    // Chunks of CUR's scores are such files too.
    let stored = store::Stored::open(path);
    if let Ok(stored) = &stored {
        stored.to_f32_vec(0..stored.len().min(3))?;
    }
    if let Ok(index) = FlatIndex::load(path, &device) {
        kinds += 1;
        if is_small(index.dim()) {
            index.search(&query(index.dim()), 3, Metric::Cosine, None)?;
        }
    }
    if let Ok(index) = TokenIndex::load(path, &device) {
        kinds += 1;
        if is_small(index.dim()) {
            index.search(&query(2 * index.dim()), &[0, 2], 3, None)?;
        }
    }
    if let Ok(index) = BinaryIndex::load(path, &device) {
        kinds += 1;
        if is_small(index.dim()) {
            index.search(&query(index.dim()), &BinarySearch::new(Metric::Cosine, 3))?;
        }
    }
    if let Ok(index) = SparseIndex::load(path, &device) {
        kinds += 1;
        let query = Csr { offsets: &[0, 1], terms: &[0], weights: &[1.0] };
        index.search(query, 3, None, None)?;
    }
    match kinds {
        0 => stored.and(Ok(0)),
        n => Ok(n),
    }
}
