//! Git LFS pointers: the short text that a clone without LFS has in place of a large file.

use std::path::Path;

use crate::{Error, Result};

/// The first line of a pointer.
const FIRST: &[u8] = b"version https://git-lfs.github.com/spec/";
/// A pointer is shorter than this, by its specification.
pub(super) const LONGEST: u64 = 1024;

/// Refuses a pointer.
///
/// # Errors
/// [`Error::Io`] that says how to get the file.
pub(crate) fn check(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 > LONGEST || !bytes.starts_with(FIRST) {
        return Ok(());
    }
    let problem = "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder";
    Err(Error::io(path, std::io::Error::other(problem)))
}
