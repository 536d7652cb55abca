//! Staging: pinned host memory from which inputs go up while the device works on what came before, and through which results come
//! down. A copy from any other memory waits for the device first, and the driver makes one more of it.

use cudarc::driver::sys;

use super::pinned::Pinned;
use super::{CudaBuffer, CudaDevice, HOST_COPY, graph};
use crate::device::{host, lock};
use crate::{Element, Result};

/// Pinned bytes that a device keeps for its next inputs and results.
const KEPT: usize = 256 << 20;

impl CudaDevice {
    /// Has `fill` write the first `count` elements of a buffer, on the host; they go up in the stream's order, for which nobody waits.
    /// What `fill` is given is arbitrary.
    pub(crate) fn upload_with<T: Element>(
        &self,
        buffer: &CudaBuffer,
        count: usize,
        fill: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<()> {
        let bytes = count * size_of::<T>();
        self.fits(buffer, 0, bytes as u64)?;
        if bytes == 0 {
            return fill(&mut []);
        }
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        let Ok(mut staging) = self.staged(bytes) else {
            // Where no memory can be pinned any other will do.
            let mut data = host::filled(count, T::zeroed())?;
            fill(&mut data)?;
            return self.upload(buffer, bytemuck::cast_slice(&data));
        };
        fill(bytemuck::cast_slice_mut(&mut staging.as_mut_slice()[..bytes]))?;
        self.core.bind()?;
        // SAFETY: both ranges are as long; the pinned memory stays until the event behind the copy has happened.
        unsafe {
            let stream = self.core.stream();
            let copied = sys::cuMemcpyHtoDAsync_v2(buffer.pointer, staging.host(), bytes, stream);
            self.core.check("copying to the device", copied.result())?;
        }
        staging.record()?;
        self.transfers.up(bytes);
        self.keep(staging);
        Ok(())
    }

    /// What `f` makes of the first `bytes` bytes of a buffer, after everything enqueued before this call. Waits.
    pub(crate) fn download_with<R>(
        &self,
        buffer: &CudaBuffer,
        bytes: u64,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<R> {
        if bytes == 0 {
            return Ok(f(&[]));
        }
        self.fits(buffer, 0, bytes)?;
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        let count = bytes as usize;
        let Ok(mut staging) = self.staged(count) else {
            return Ok(f(&self.read_now(buffer, bytes)?));
        };
        self.copy_down(buffer, count, &mut staging)?;
        // Who waits for the event sleeps, and wakes later.
        self.wait()?;
        let result = f(&staging.as_slice()[..count]);
        self.keep(staging);
        Ok(result)
    }

    /// Pinned memory of at least `bytes` bytes that is not in use.
    fn staged(&self, bytes: usize) -> Result<Pinned> {
        let mut kept = lock(&self.staging);
        let free = kept.iter().position(|s| s.bytes() >= bytes && s.is_done().unwrap_or(false));
        let found = free.map(|at| kept.remove(at));
        drop(kept);
        found.map_or_else(|| Pinned::zeroed(&self.core, bytes), Ok)
    }

    fn keep(&self, staging: Pinned) {
        let mut kept = lock(&self.staging);
        kept.push(staging);
        while kept.len() > 1 && kept.iter().map(Pinned::bytes).sum::<usize>() > KEPT {
            kept.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::device;
    use super::*;
    use crate::Error;

    #[test]
    fn what_is_filled_arrives_also_through_memory_that_was_used_before() {
        let Some(gpu) = device() else { return };
        let buffers: Vec<CudaBuffer> = (0..5).map(|_| gpu.alloc(1 << 20).unwrap()).collect();
        for (i, buffer) in buffers.iter().enumerate() {
            let count = (1 << 18) - 250 * i;
            let fill = |to: &mut [u32]| {
                assert_eq!(to.len(), count);
                to.fill(i as u32 + 1);
                Ok(())
            };
            gpu.upload_with(buffer, count, fill).unwrap();
        }
        for (i, buffer) in buffers.iter().enumerate() {
            let bytes = gpu.read_now(buffer, (1 << 20) - 1000 * i as u64).unwrap();
            let words = bytes.as_chunks::<4>().0;
            assert!(words.iter().all(|&w| u32::from_le_bytes(w) == i as u32 + 1), "buffer {i}");
        }
        // Empty slices of any type are aligned.
        gpu.upload_with(&buffers[0], 0, |to: &mut [f32]| {
            assert!(to.is_empty());
            Ok(())
        })
        .unwrap();
        // A host that fails leaves the device as it was.
        let error =
            gpu.upload_with(&buffers[0], 2, |_: &mut [u32]| Err(Error::argument("x", "a", "b")));
        assert!(matches!(error, Err(Error::Argument { .. })));
        assert_eq!(gpu.read_now(&buffers[0], 8).unwrap(), [1, 0, 0, 0, 1, 0, 0, 0]);
        assert!(gpu.upload_with(&buffers[0], 1 << 19, |_: &mut [u32]| unreachable!()).is_err());
        gpu.trim();
        assert!(lock(&gpu.staging).is_empty());
    }
}
