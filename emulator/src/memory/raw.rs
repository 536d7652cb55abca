//! Bytes that several host threads and the host program may touch at once: the one file that dereferences pointers.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A range of memory. Every access is a relaxed atomic, so that kernels with races stay defined in Rust.
#[derive(Debug)]
pub struct Bytes {
    start: NonNull<u8>,
    len: usize,
    /// Absent for memory that belongs to the host program.
    layout: Option<Layout>,
}

// SAFETY: all access goes through atomics, or through bulk copies that the CUDA rules order against kernels.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// Zeroed memory at a page boundary. Pages that are never touched take no room.
    pub fn zeroed(len: usize) -> Option<Bytes> {
        let layout =
            Layout::from_size_align(len.max(1).checked_next_multiple_of(64)?, 4096).ok()?;
        // SAFETY: the layout has a size above zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Bytes { start, len, layout: Some(layout) })
    }

    /// Memory of the host program.
    ///
    /// # Safety
    /// `start..start + len` is valid for reads and writes until this is dropped.
    pub unsafe fn foreign(start: NonNull<u8>, len: usize) -> Bytes {
        Bytes { start, len, layout: None }
    }

    /// The host's address of the first byte.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// A pointer to one of `widths` bytes at an aligned `offset`.
    fn aligned(&self, offset: usize, bytes: u32, widths: &[u32]) -> *mut u8 {
        assert!(widths.contains(&bytes), "{bytes} bytes at once, of {widths:?}");
        let at = self.at(offset, bytes as usize);
        // The widest are two halves.
        assert!((at as usize).is_multiple_of(bytes.min(8) as usize), "{bytes} bytes at {offset}");
        at
    }

    /// A pointer to `bytes` bytes at `offset`.
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.len);
        assert!(end.is_some(), "{bytes} bytes at {offset} of {}", self.len);
        // SAFETY: the range was just found to be inside.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// 1, 2, 4, 8 or 16 bytes at an aligned offset.
    pub fn load(&self, offset: usize, bytes: u32) -> u128 {
        let at = self.aligned(offset, bytes, &[1, 2, 4, 8, 16]);
        // SAFETY: the range was just found to be inside and aligned, and is as wide as what is taken from it.
        unsafe {
            match bytes {
                1 => u128::from(AtomicU8::from_ptr(at).load(Relaxed)),
                2 => u128::from(AtomicU16::from_ptr(at.cast()).load(Relaxed)),
                4 => u128::from(AtomicU32::from_ptr(at.cast()).load(Relaxed)),
                8 => u128::from(AtomicU64::from_ptr(at.cast()).load(Relaxed)),
                _ => {
                    let low = AtomicU64::from_ptr(at.cast()).load(Relaxed);
                    let high = AtomicU64::from_ptr(at.add(8).cast()).load(Relaxed);
                    u128::from(low) | u128::from(high) << 64
                }
            }
        }
    }

    /// Stores 1, 2, 4, 8 or 16 bytes at an aligned offset.
    pub fn store(&self, offset: usize, bytes: u32, value: u128) {
        let at = self.aligned(offset, bytes, &[1, 2, 4, 8, 16]);
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(at).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(at.cast()).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(at.cast()).store(value as u32, Relaxed),
                8 => AtomicU64::from_ptr(at.cast()).store(value as u64, Relaxed),
                _ => {
                    AtomicU64::from_ptr(at.cast()).store(value as u64, Relaxed);
                    AtomicU64::from_ptr(at.add(8).cast()).store((value >> 64) as u64, Relaxed);
                }
            }
        }
    }

    /// Replaces 2, 4 or 8 bytes by `f` of them, atomically; gives what was there.
    pub fn update(&self, offset: usize, bytes: u32, f: &mut dyn FnMut(u64) -> u64) -> u64 {
        let at = self.aligned(offset, bytes, &[2, 4, 8]);
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                2 => {
                    let mut g = |old| Some(f(u64::from(old)) as u16);
                    u64::from(
                        AtomicU16::from_ptr(at.cast())
                            .fetch_update(Relaxed, Relaxed, &mut g)
                            .unwrap_or(0),
                    )
                }
                4 => {
                    let mut g = |old| Some(f(u64::from(old)) as u32);
                    u64::from(
                        AtomicU32::from_ptr(at.cast())
                            .fetch_update(Relaxed, Relaxed, &mut g)
                            .unwrap_or(0),
                    )
                }
                _ => {
                    let mut g = |old| Some(f(old));
                    AtomicU64::from_ptr(at.cast())
                        .fetch_update(Relaxed, Relaxed, &mut g)
                        .unwrap_or(0)
                }
            }
        }
    }

    /// All whole 64-bit words as atomics, of memory that was allocated here.
    pub fn words(&self) -> &[AtomicU64] {
        assert!(self.layout.is_some(), "host memory may not be aligned");
        // SAFETY: inside; aligned because the memory begins at a page; lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len / 8) }
    }

    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        let at = self.at(offset, from.len());
        // SAFETY: inside; host copies are ordered against kernels by the driver; `copy` allows overlap.
        unsafe { std::ptr::copy(from.as_ptr(), at, from.len()) }
    }

    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let at = self.at(offset, to.len());
        // SAFETY: as in `copy_in`.
        unsafe { std::ptr::copy(at, to.as_mut_ptr(), to.len()) }
    }

    /// Copies from another range, or within this one.
    pub fn copy_from(&self, offset: usize, from: &Bytes, from_offset: usize, bytes: usize) {
        let (to, from) = (self.at(offset, bytes), from.at(from_offset, bytes));
        // SAFETY: both are inside; `copy` allows overlap.
        unsafe { std::ptr::copy(from, to, bytes) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: allocated with this layout, and freed once.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn refused<T>(f: impl FnOnce() -> T) -> bool {
        catch_unwind(AssertUnwindSafe(f)).is_err()
    }

    #[test]
    fn widths_and_places_are_checked() {
        let bytes = Bytes::zeroed(32).unwrap();
        for width in [1, 2, 4, 8, 16] {
            bytes.store(16, width, 7);
            assert_eq!(bytes.load(16, width), 7);
        }
        for width in [0, 3, 5, 12, 17, 32] {
            assert!(refused(|| bytes.load(16, width)), "{width}");
            assert!(refused(|| bytes.store(16, width, 0)), "{width}");
        }
        for width in [0, 1, 3, 16] {
            assert!(refused(|| bytes.update(16, width, &mut |v| v)), "{width}");
        }
        assert!(refused(|| bytes.load(2, 4)) && refused(|| bytes.store(4, 8, 0)));
        assert!(refused(|| bytes.update(1, 2, &mut |v| v)));
        assert!(refused(|| bytes.load(64, 1)));
    }
}
