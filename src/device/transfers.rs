//! Counts of the copies between host and device.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies between host and device so far. Parameters of launches are not among them, nor copies within the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Copies to the device.
    pub uploads: u64,
    /// Their bytes.
    pub upload_bytes: u64,
    /// Copies to the host.
    pub downloads: u64,
    /// Their bytes.
    pub download_bytes: u64,
}

impl std::ops::Sub for Transfers {
    type Output = Transfers;

    /// What came after `before`.
    fn sub(self, before: Transfers) -> Transfers {
        Transfers {
            uploads: self.uploads - before.uploads,
            upload_bytes: self.upload_bytes - before.upload_bytes,
            downloads: self.downloads - before.downloads,
            download_bytes: self.download_bytes - before.download_bytes,
        }
    }
}

/// What a GPU counts.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[derive(Debug, Default)]
pub(crate) struct Counter {
    uploads: AtomicU64,
    upload_bytes: AtomicU64,
    downloads: AtomicU64,
    download_bytes: AtomicU64,
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Counter {
    /// Counts a copy to the device.
    pub(crate) fn up(&self, bytes: usize) {
        self.uploads.fetch_add(1, Ordering::Relaxed);
        self.upload_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a copy to the host.
    pub(crate) fn down(&self, bytes: u64) {
        self.downloads.fetch_add(1, Ordering::Relaxed);
        self.download_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Transfers {
        Transfers {
            uploads: self.uploads.load(Ordering::Relaxed),
            upload_bytes: self.upload_bytes.load(Ordering::Relaxed),
            downloads: self.downloads.load(Ordering::Relaxed),
            download_bytes: self.download_bytes.load(Ordering::Relaxed),
        }
    }
}
