//! Memory of the caller's.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, sys};

use super::buffer::Source;
use super::{CudaBuffer, CudaDevice};
use crate::{Error, Result};

impl CudaDevice {
    /// Wraps memory that `keep` owns.
    pub(crate) fn adopt_slice<T: Send + Sync + 'static>(
        &self,
        slice: Arc<CudaSlice<T>>,
    ) -> Result<CudaBuffer> {
        use cudarc::driver::DevicePtr;
        if slice.context() != &self.core.context {
            return Err(self.core.refused("a slice of another context was given".into()));
        }
        let bytes = slice.num_bytes() as u64;
        let pointer = slice.device_ptr(&self.core.stream).0;
        let source = Source::Caller(Some(Box::new(slice)));
        Ok(CudaBuffer { pointer, bytes, core: self.core.clone(), source })
    }

    /// Wraps `bytes` bytes at an address, after asking the driver whether they are memory of this context.
    ///
    /// # Safety
    /// The memory must live as long as the buffer, and what is written to it elsewhere must be ordered with the stream.
    pub(crate) unsafe fn adopt_pointer(&self, pointer: u64, bytes: u64) -> Result<CudaBuffer> {
        self.core.bind()?;
        let (mut base, mut size) = (0, 0);
        // SAFETY: the driver writes both or fails for an address that is not its memory.
        let known = unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut size, pointer) }.result();
        self.core.check(&format!("looking up the address {pointer:#x}"), known)?;
        let end = base + size as u64;
        if pointer.checked_add(bytes).is_none_or(|e| e > end) {
            let there = end - pointer;
            return Err(self.core.refused(format!(
                "{bytes} bytes at {pointer:#x}, of which {there} are allocated"
            )));
        }
        Ok(CudaBuffer { pointer, bytes, core: self.core.clone(), source: Source::Caller(None) })
    }
}

impl crate::Tensor {
    /// Wraps device memory at `pointer`, such as another engine's tensor, without copying. It is only read by
    /// operations, on the device's stream.
    ///
    /// # Safety
    /// The memory must live as long as the tensor and every clone of it, hold values of `dtype`, and what is written to
    /// it on other streams must be ordered with the device's.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if `device` is not CUDA; [`Error::Driver`] if the driver does not know the address, or less
    /// memory than the shape needs is allocated there; [`Error::Shape`] if the address is not a multiple of 16.
    pub unsafe fn from_cuda_pointer(
        device: &crate::Device,
        dtype: crate::DType,
        shape: &[usize],
        pointer: u64,
    ) -> Result<crate::Tensor> {
        if !pointer.is_multiple_of(16) {
            let got = format!("{pointer:#x}");
            return Err(Error::shape("tensor", "an address that is a multiple of 16", got));
        }
        crate::Tensor::from_cuda_with(device, dtype, shape, |gpu, bytes| {
            // SAFETY: the caller promises it.
            unsafe { gpu.adopt_pointer(pointer, bytes) }
        })
    }
}
