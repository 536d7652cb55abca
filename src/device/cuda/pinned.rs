//! Pinned host memory, which the device copies from and to while the host goes on.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;

use super::Core;
use super::event::Event;
use crate::{Error, Result};

/// Pinned memory, and the event behind the last copy from it or to it.
pub(super) struct Pinned {
    core: Arc<Core>,
    host: *mut c_void,
    event: Event,
    bytes: usize,
}

// SAFETY: pinned memory may be used from any thread, and only the owner of this uses it.
unsafe impl Send for Pinned {}
// SAFETY: through a shared reference the driver is only asked whether the event has happened, and memory only read that is
// written no more.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` bytes with arbitrary contents, for the device to write.
    pub(super) fn new(core: &Arc<Core>, bytes: usize) -> Result<Pinned> {
        let (core, event) = (core.clone(), Event::new(core)?);
        let mut pinned = Pinned { core, host: std::ptr::null_mut(), event, bytes };
        // SAFETY: the driver writes the address, which `pinned` owns.
        let made = unsafe { sys::cuMemHostAlloc(&mut pinned.host, bytes, 0) };
        pinned.core.check("allocating pinned memory", made.result())?;
        Ok(pinned)
    }

    /// The same with zeros, for the host to write.
    pub(super) fn zeroed(core: &Arc<Core>, bytes: usize) -> Result<Pinned> {
        let pinned = Pinned::new(core, bytes)?;
        // SAFETY: the memory is as long, and nothing else knows of it.
        unsafe { pinned.host.cast::<u8>().write_bytes(0, bytes) };
        Ok(pinned)
    }

    pub(super) fn host(&self) -> *mut c_void {
        self.host
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Marks the end of the copy that was just enqueued. Where that fails, the copy is waited for; where that fails too, it may
    /// still be under way, and the memory is never given back.
    pub(super) fn record(&mut self) -> Result<()> {
        let recorded = self.event.record();
        if recorded.is_err() {
            // SAFETY: the stream lives.
            let waited = unsafe { sys::cuStreamSynchronize(self.core.stream()) };
            if waited.result().is_err() {
                self.host = std::ptr::null_mut();
                self.bytes = 0;
            }
        }
        recorded
    }

    /// Whether what was marked is done; true where nothing was.
    pub(super) fn is_done(&self) -> Result<bool> {
        self.event.is_done()
    }

    /// Waits for what was marked.
    pub(super) fn wait(&self) -> Result<()> {
        self.event.wait()
    }

    /// What a copy that is done, or the host, wrote: all of it. Not for memory whose copy failed.
    pub(super) fn as_slice(&self) -> &[u8] {
        debug_assert!(!self.host.is_null());
        // SAFETY: the memory is as long and was written.
        unsafe { std::slice::from_raw_parts(self.host.cast(), self.bytes) }
    }

    /// Of memory that was [`zeroed`](Self::zeroed) and that nothing copies from any more.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory is as long and was written when it was made.
        unsafe { std::slice::from_raw_parts_mut(self.host.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.host.is_null() {
            return;
        }
        match self.wait() {
            // A lost device copies no more.
            Ok(()) | Err(Error::DeviceLost { .. }) => {
                // SAFETY: the memory is ours, and no copy from it or to it is under way.
                let _ = unsafe { sys::cuMemFreeHost(self.host) };
            }
            Err(e) => {
                tracing::warn!("{} pinned bytes are not given back: {e}", self.bytes);
            }
        }
    }
}
