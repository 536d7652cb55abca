//! Copies between host and device and on the device, and waiting.

use cudarc::driver::sys;

use super::pinned::Pinned;
use super::{Binding, CudaBuffer, CudaDevice, graph};
use crate::Result;
use crate::device::host;

/// What [`graph::refuse`] refuses.
pub(super) const HOST_COPY: &str = "a copy between host and device";

impl CudaDevice {
    /// Copies host bytes to the start of a buffer, in the stream's order.
    pub(crate) fn upload(&self, buffer: &CudaBuffer, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.fits(buffer, 0, data.len() as u64)?;
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        // SAFETY: the range is inside the buffer. The driver has read pageable memory when it returns.
        let result = unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                buffer.pointer,
                data.as_ptr().cast(),
                data.len(),
                self.core.stream(),
            )
        };
        self.core.check("copying to the device", result.result())?;
        self.transfers.up(data.len());
        Ok(())
    }

    /// Fills a buffer with zeros.
    pub(crate) fn clear(&self, buffer: &CudaBuffer) -> Result<()> {
        self.core.bind()?;
        // SAFETY: the range is the buffer.
        let result = unsafe {
            sys::cuMemsetD8Async(buffer.pointer, 0, buffer.bytes as usize, self.core.stream())
        };
        self.core.check("filling memory", result.result())
    }

    /// Copies `bytes` bytes of one buffer to another, from the places of the bindings on.
    pub(crate) fn copy(&self, from: Binding<'_>, to: Binding<'_>, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.fits(from.buffer, from.offset, bytes)?;
        self.fits(to.buffer, to.offset, bytes)?;
        self.core.bind()?;
        let [from, to] = [from, to].map(|place| place.buffer.pointer + place.offset);
        // SAFETY: both ranges are inside their buffers, which differ.
        let result =
            unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes as usize, self.core.stream()) };
        self.core.check("copying on the device", result.result())
    }

    /// The first `bytes` bytes of a buffer, after everything enqueued before this call. Waits.
    pub(crate) fn read_now(&self, buffer: &CudaBuffer, bytes: u64) -> Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        self.fits(buffer, 0, bytes)?;
        let mut data = host::filled(bytes as usize, 0u8)?;
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        // SAFETY: the range is inside the buffer and the vector is as long; the stream is waited for before either goes.
        let result = unsafe {
            let stream = self.core.stream();
            let copied = sys::cuMemcpyDtoHAsync_v2(
                data.as_mut_ptr().cast(),
                buffer.pointer,
                data.len(),
                stream,
            );
            self.core.check("copying from the device", copied.result()).and_then(|()| {
                self.core.check("waiting for the device", sys::cuStreamSynchronize(stream).result())
            })
        };
        result?;
        self.transfers.down(bytes);
        Ok(data)
    }

    /// As [`read_now`](Self::read_now), without blocking a thread; the copy starts with the call.
    pub(crate) fn read(
        &self,
        buffer: &CudaBuffer,
        bytes: u64,
    ) -> impl Future<Output = Result<Vec<u8>>> + Send + use<> {
        let started = match self.start_read(buffer, bytes) {
            Ok(Some(read)) => self.after(read, Pinned::wait).map(Some),
            Ok(None) => Ok(None),
            Err(e) => Err(e),
        };
        async move {
            let Some(copied) = started? else { return Ok(Vec::new()) };
            host::copied(copied.await?.as_slice())
        }
    }

    fn start_read(&self, buffer: &CudaBuffer, bytes: u64) -> Result<Option<Pinned>> {
        if bytes == 0 {
            return Ok(None);
        }
        self.fits(buffer, 0, bytes)?;
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        let mut read = Pinned::new(&self.core, bytes as usize)?;
        self.copy_down(buffer, bytes as usize, &mut read)?;
        Ok(Some(read))
    }

    /// Enqueues the copy of the first `bytes` bytes of a buffer, which it has, to pinned memory, and marks its end.
    pub(super) fn copy_down(
        &self,
        buffer: &CudaBuffer,
        bytes: usize,
        to: &mut Pinned,
    ) -> Result<()> {
        debug_assert!(bytes <= to.bytes() && bytes as u64 <= buffer.bytes);
        // SAFETY: both ranges have room for the bytes. The pinned memory lives until the event that is recorded behind the copy.
        let copied = unsafe {
            let stream = self.core.stream();
            sys::cuMemcpyDtoHAsync_v2(to.host(), buffer.pointer, bytes, stream)
        };
        self.core.check("copying from the device", copied.result())?;
        to.record()?;
        self.transfers.down(bytes as u64);
        Ok(())
    }

    /// Waits for everything enqueued.
    pub(crate) fn wait(&self) -> Result<()> {
        self.core.bind()?;
        // SAFETY: the stream lives.
        let result = unsafe { sys::cuStreamSynchronize(self.core.stream()) };
        self.core.check("waiting for the device", result.result())
    }

    pub(super) fn fits(&self, buffer: &CudaBuffer, offset: u64, bytes: u64) -> Result<()> {
        match offset.checked_add(bytes).is_some_and(|end| end <= buffer.bytes) {
            true => Ok(()),
            false => Err(self.core.refused(format!(
                "bytes {offset}..{} of a buffer of {}",
                offset.saturating_add(bytes),
                buffer.bytes
            ))),
        }
    }
}
