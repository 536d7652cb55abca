//! Read-only file mappings.

use std::fs::File;
use std::path::Path;

use crate::{Error, Result};

/// A whole file, mapped read-only.
pub(crate) struct Mapping(memmap2::Mmap);

impl Mapping {
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Err(Error::io(path, std::io::Error::other("not a regular file")));
        }
        if meta.len() == 0 {
            return Err(Error::io(path, std::io::Error::other("the file is empty")));
        }
        // SAFETY: the mapping is read-only and private to this process. As with every user of mmap, a file that
        // another process truncates while it is mapped raises SIGBUS; model files are not edited in place.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Mapping(map))
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
