//! CUDA graphs: launches recorded once and enqueued again with one call.
//!
//! A graph is recorded on a stream of its own, so that other threads go on enqueuing on the device's. What is
//! allocated while recording belongs to the graph and is freed in it; results are copied out of it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys;

use super::{Core, CudaDevice};
use crate::{Error, Result};

thread_local! {
    /// The device this thread records a graph on, by its address, and the stream it records from.
    static RECORDING: Cell<Option<(*const Core, sys::CUstream)>> = const { Cell::new(None) };
    /// Launches recorded so far.
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
}

/// The stream this thread records from, if it records on this device.
pub(super) fn recording(core: &Core) -> Option<sys::CUstream> {
    RECORDING.get().filter(|(on, _)| std::ptr::eq(*on, core)).map(|(_, stream)| stream)
}

/// Refuses a copy between host and device, or a wait, while the stream, ours or the caller's, is being captured: the graph would
/// keep the address of host memory that is gone when it is launched, and nothing is done that could be waited for.
pub(super) fn refuse(core: &Core, what: &str) -> Result<()> {
    let none = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let mut status = none;
    // SAFETY: the stream lives; the driver writes the status.
    let asked = unsafe { sys::cuStreamIsCapturing(core.stream(), &mut status) };
    core.check("asking whether a graph is recorded", asked.result())?;
    match status == none {
        true => Ok(()),
        false => Err(Error::Unsupported {
            what: format!("{what} while a graph is recorded"),
            device: core.name.clone(),
        }),
    }
}

/// Counts a launch to the graph that is being recorded; false if none is.
pub(super) fn count(core: &Core) -> bool {
    let counts = recording(core).is_some();
    if counts {
        LAUNCHES.set(LAUNCHES.get() + 1);
    }
    counts
}

/// Recorded work.
pub(crate) struct Graph {
    executable: sys::CUgraphExec,
    launches: u64,
    core: Arc<Core>,
}

// SAFETY: the handle may be used from any thread; the driver orders launches of one graph.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the graph is ours; the driver keeps what is still under way.
        let result = self
            .core
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { sys::cuGraphExecDestroy(self.executable).result() });
        self.core.given_back("destroying a graph", result);
    }
}

/// Ends a recording whatever happens, and gives the graph, if there is one.
struct Session<'a> {
    core: &'a Core,
    stream: sys::CUstream,
    begun: bool,
}

impl Session<'_> {
    fn end(&mut self) -> Result<sys::CUgraph> {
        RECORDING.set(None);
        self.begun = false;
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is the one that recording began on; the driver writes the handle.
        let ended = unsafe { sys::cuStreamEndCapture(self.stream, &mut graph) };
        self.core.check("ending the recording of a graph", ended.result())?;
        Ok(graph)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.begun
            && let Ok(graph) = self.end()
        {
            // SAFETY: the graph is ours and nobody else has it.
            let _ = unsafe { sys::cuGraphDestroy(graph) };
        }
        // SAFETY: the stream is ours; nothing runs on it.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}

impl CudaDevice {
    /// Whether this thread records a graph on this device.
    pub(crate) fn is_recording(&self) -> bool {
        recording(&self.core).is_some()
    }

    /// Records what `work` enqueues from this thread, without executing it. `work` must not read back, and must
    /// drop what it allocated; its kernels should have been compiled before.
    pub(crate) fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let core = &self.core;
        if RECORDING.get().is_some() {
            return Err(core.refused("a graph is being recorded on this thread already".into()));
        }
        core.bind()?;
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the driver writes the handle, which the session destroys.
        let made = unsafe { sys::cuStreamCreate(&mut stream, flags) };
        core.check("making a stream", made.result())?;
        let mut session = Session { core, stream, begun: false };
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the session.
        let begun = unsafe { sys::cuStreamBeginCapture_v2(stream, mode) };
        core.check("recording a graph", begun.result())?;
        session.begun = true;
        RECORDING.set(Some((std::ptr::from_ref(&**core), stream)));
        LAUNCHES.set(0);
        work()?;
        let launches = LAUNCHES.get();
        let graph = session.end()?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph is ours; the executable one does not need it any more.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            made
        };
        core.check("instantiating a graph", made.result())?;
        Ok(Graph { executable, launches, core: core.clone() })
    }

    /// Enqueues a recorded graph.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        if !Arc::ptr_eq(&graph.core, &self.core) {
            let problem = "a graph of another device was given".into();
            return Err(Error::Driver { device: self.core.name.clone(), problem });
        }
        self.core.bind()?;
        // SAFETY: the graph lives, and with it what it touches, which its owner keeps.
        let result = unsafe { sys::cuGraphLaunch(graph.executable, self.core.stream.cu_stream()) };
        self.core.check("launching a graph", result.result())?;
        self.launches.fetch_add(graph.launches, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::device;
    use super::*;

    #[test]
    fn copies_between_host_and_device_are_not_recorded() {
        let Some(gpu) = device() else { return };
        let buffer = gpu.alloc(64).unwrap();
        gpu.upload(&buffer, &[7; 64]).unwrap();
        let refused = |copy: &dyn Fn() -> Result<()>| {
            let mut said = None;
            let graph = gpu.record(|| {
                said = Some(copy());
                gpu.clear(&buffer)
            });
            let said = said.unwrap().unwrap_err();
            assert!(
                matches!(&said, Error::Unsupported { what, .. } if what.contains("graph")),
                "{said}"
            );
            // The recording goes on, and was not executed.
            assert!(graph.is_ok(), "{:?}", graph.err());
            assert_eq!(gpu.read_now(&buffer, 64).unwrap(), [7; 64]);
        };
        refused(&|| gpu.upload(&buffer, &[1; 64]));
        refused(&|| gpu.upload_with(&buffer, 16, |_: &mut [u32]| Ok(())));
        refused(&|| gpu.read_now(&buffer, 64).map(drop));
        refused(&|| pollster::block_on(gpu.read(&buffer, 64)).map(drop));
        refused(&|| pollster::block_on(gpu.done()));
    }
}
