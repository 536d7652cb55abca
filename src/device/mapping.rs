//! Read-only file mappings.

use std::path::Path;

use crate::{Error, Result, files};

/// A whole regular file, mapped read-only.
pub(crate) struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Maps a file that is not empty.
    ///
    /// # Errors
    /// [`Error::Io`] if it does not exist, cannot be opened, is empty, is a folder, pipe, socket or device, or is a Git
    /// LFS pointer.
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, metadata) = files::open(path)?;
        if metadata.len() == 0 {
            return Err(Error::io(path, std::io::Error::other("the file is empty")));
        }
        // SAFETY: the mapping is read-only and private to this process. A file that another process truncates while it is
        // mapped raises SIGBUS, as for every user of mmap: the documentation of `models`, the only user, says so.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        files::check_pointer(path, &map)?;
        Ok(Mapping(map))
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
