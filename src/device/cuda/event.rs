//! Events: whether what was enqueued is done.

use std::sync::Arc;

use cudarc::driver::sys;

use super::{Core, CudaDevice, graph};
use crate::Result;

/// An event of the device's stream.
pub(super) struct Event {
    core: Arc<Core>,
    event: sys::CUevent,
}

// SAFETY: an event's handle may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above; the driver synchronises.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(core: &Arc<Core>) -> Result<Event> {
        core.bind()?;
        let mut event = std::ptr::null_mut();
        // Who waits for it sleeps; without the flag the driver may spin.
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32
            | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        // SAFETY: the driver writes the handle.
        let made = unsafe { sys::cuEventCreate(&mut event, flags) };
        core.check("making an event", made.result())?;
        Ok(Event { core: core.clone(), event })
    }

    /// Puts it behind what this thread's stream holds now.
    pub(super) fn record(&self) -> Result<()> {
        // SAFETY: the event and the stream live.
        let recorded = unsafe { sys::cuEventRecord(self.event, self.core.stream()) };
        self.core.check("recording an event", recorded.result())
    }

    /// Whether what it is behind is done; true where it was never recorded.
    pub(super) fn is_done(&self) -> Result<bool> {
        self.core.bind()?;
        // SAFETY: the event lives.
        match unsafe { sys::cuEventQuery(self.event) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => self.core.check("asking whether a copy is done", code.result()).map(|()| true),
        }
    }

    /// Waits until what it is behind is done.
    pub(super) fn wait(&self) -> Result<()> {
        self.core.bind()?;
        // SAFETY: the event lives.
        let waited = unsafe { sys::cuEventSynchronize(self.event) };
        self.core.check("waiting for the device", waited.result())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.core.context.bind_to_thread().is_ok() {
            // SAFETY: the event is ours; the driver lets what is still enqueued happen.
            let _ = unsafe { sys::cuEventDestroy_v2(self.event) };
        }
    }
}

impl CudaDevice {
    /// Ready when everything enqueued before this call is done.
    pub(crate) fn done(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let started = graph::refuse(&self.core, "a wait").and_then(|()| {
            let event = Event::new(&self.core)?;
            event.record()?;
            self.after(event, Event::wait)
        });
        async move { started?.await.map(drop) }
    }

    /// Gives `held` back when `wait` for it, which blocks in the driver, is over; until then it is kept.
    pub(super) fn after<T: Send + 'static>(
        &self,
        held: T,
        wait: fn(&T) -> Result<()>,
    ) -> Result<impl Future<Output = Result<T>> + Send + use<T>> {
        let done = self.waits.add(&self.core.name, move || {
            let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            // An engine may capture a graph meanwhile, in the mode that refuses waits of every thread that is not relaxed and
            // spoils the capture.
            // SAFETY: the driver swaps the mode of this thread, which captures nothing.
            let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
            let waited = wait(&held);
            (held, waited)
        })?;
        Ok(async move {
            let (held, waited) = done.await?;
            waited.map(|()| held)
        })
    }
}
