//! Pinned host memory, which the device copies from and to while the host goes on.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;

use super::Core;
use crate::Result;

/// Pinned memory, and the event behind the last copy from it or to it.
pub(super) struct Pinned {
    core: Arc<Core>,
    host: *mut c_void,
    event: sys::CUevent,
    bytes: usize,
}

// SAFETY: pinned memory and events may be used from any thread, and only the owner of this uses them.
unsafe impl Send for Pinned {}
// SAFETY: through a shared reference the driver is only asked whether the event has happened, and memory only read that is
// written no more.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` bytes with arbitrary contents, for the device to write.
    pub(super) fn new(core: &Arc<Core>, bytes: usize) -> Result<Pinned> {
        core.bind()?;
        let (host, event) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut pinned = Pinned { core: core.clone(), host, event, bytes };
        // SAFETY: the driver writes both handles, of which `pinned` owns what was made.
        unsafe {
            let made = sys::cuMemHostAlloc(&mut pinned.host, bytes, 0).result();
            core.check("allocating pinned memory", made)?;
            let timing = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            let made = sys::cuEventCreate(&mut pinned.event, timing).result();
            core.check("making an event", made)?;
        }
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
        // SAFETY: the event and the stream live.
        let recorded = unsafe { sys::cuEventRecord(self.event, self.core.stream()) }.result();
        if recorded.is_err() {
            // SAFETY: the stream lives.
            let waited = unsafe { sys::cuStreamSynchronize(self.core.stream()) };
            if waited.result().is_err() {
                self.host = std::ptr::null_mut();
                self.bytes = 0;
            }
        }
        self.core.check("recording an event", recorded)
    }

    /// Whether what was marked is done; true where nothing was.
    pub(super) fn is_done(&self) -> Result<bool> {
        self.core.bind()?;
        // SAFETY: the event lives.
        match unsafe { sys::cuEventQuery(self.event) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => self.core.check("waiting for a copy", code.result()).map(|()| true),
        }
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
        if self.core.context.bind_to_thread().is_err() {
            return;
        }
        // SAFETY: a copy that is still under way is waited for before its memory goes.
        unsafe {
            if !self.event.is_null() {
                let _ = sys::cuEventSynchronize(self.event);
                let _ = sys::cuEventDestroy_v2(self.event);
            }
            if !self.host.is_null() {
                let _ = sys::cuMemFreeHost(self.host);
            }
        }
    }
}
