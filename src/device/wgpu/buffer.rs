//! Pooled device memory, and ranges of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::WgpuDevice;
use crate::device::lock;
use crate::{Error, Result};

/// The pool never keeps more than this.
const POOL_LIMIT: u64 = 2 << 30;

/// A range of a buffer, bound to a kernel.
#[derive(Clone)]
pub(crate) struct Binding<'a> {
    pub(crate) buffer: &'a WgpuBuffer,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl<'a> From<&'a WgpuBuffer> for Binding<'a> {
    fn from(buffer: &'a WgpuBuffer) -> Self {
        Binding { buffer, offset: 0, bytes: buffer.bytes }
    }
}

#[derive(Default)]
pub(super) struct Pool {
    pub(super) state: Mutex<PoolState>,
}

#[derive(Default)]
pub(super) struct PoolState {
    pub(super) free: HashMap<u64, Vec<wgpu::Buffer>>,
    pub(super) free_bytes: u64,
    pub(super) used_bytes: u64,
}

/// Device memory that returns to its device's pool when dropped.
pub(crate) struct WgpuBuffer {
    buffer: Option<wgpu::Buffer>,
    /// Bytes in use, a multiple of four.
    bytes: u64,
    /// The size class, or 0 for a caller's buffer, which is never pooled.
    class: u64,
    pool: Arc<Pool>,
}

impl WgpuBuffer {
    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        self.buffer.as_ref().expect("a buffer is there until it is dropped")
    }

    /// Whether it is a caller's.
    pub(super) fn is_adopted(&self) -> bool {
        self.class == 0
    }
}

impl Drop for WgpuBuffer {
    fn drop(&mut self) {
        if self.is_adopted() {
            return;
        }
        let Some(buffer) = self.buffer.take() else { return };
        let mut pool = lock(&self.pool.state);
        pool.used_bytes -= self.class;
        if pool.free_bytes + self.class <= POOL_LIMIT {
            pool.free_bytes += self.class;
            pool.free.entry(self.class).or_default().push(buffer);
        }
    }
}

impl WgpuDevice {
    /// A buffer of `bytes` bytes (rounded up to four) with arbitrary contents.
    pub(crate) fn alloc(&self, bytes: u64) -> Result<WgpuBuffer> {
        let bytes = bytes.next_multiple_of(4).max(4);
        if bytes > self.facts.max_buffer {
            return Err(Error::OutOfMemory {
                device: format!("{} (one buffer)", self.info.name),
                requested: bytes,
                free: Some(self.facts.max_buffer),
            });
        }
        // One size class per eighth of a power of two; never beyond the largest buffer.
        let step = (bytes.next_power_of_two() / 16).max(256);
        let class = bytes.next_multiple_of(step).min(self.facts.max_buffer & !3);
        {
            let mut pool = lock(&self.pool.state);
            if let Some(limit) = self.limit
                && pool.used_bytes + class > limit
            {
                return Err(Error::OutOfMemory {
                    device: self.info.name.clone(),
                    requested: bytes,
                    free: Some(limit.saturating_sub(pool.used_bytes)),
                });
            }
            // Counted before it is there, so that two threads cannot exceed the limit together.
            pool.used_bytes += class;
            if let Some(buffer) = pool.free.get_mut(&class).and_then(Vec::pop) {
                pool.free_bytes -= class;
                return Ok(self.wrap(buffer, bytes, class));
            }
        }
        let buffer = self.create(class).or_else(|error| match error {
            Error::OutOfMemory { .. } => {
                // The driver has the pool's buffers back once the work that uses them is done.
                self.trim();
                self.wait()?;
                self.create(class)
            }
            other => Err(other),
        });
        match buffer {
            Ok(buffer) => Ok(self.wrap(buffer, bytes, class)),
            Err(error) => {
                lock(&self.pool.state).used_bytes -= class;
                Err(error)
            }
        }
    }

    fn create(&self, size: u64) -> Result<wgpu::Buffer> {
        self.checked(size, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("nearkin"),
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    fn wrap(&self, buffer: wgpu::Buffer, bytes: u64, class: u64) -> WgpuBuffer {
        WgpuBuffer { buffer: Some(buffer), bytes, class, pool: self.pool.clone() }
    }

    /// Wraps a caller's buffer of at least `bytes` bytes.
    pub(crate) fn adopt_buffer(&self, buffer: wgpu::Buffer, bytes: u64) -> WgpuBuffer {
        self.wrap(buffer, bytes.next_multiple_of(4), 0)
    }

    /// Splits `rows` rows into windows that one binding can hold and whose starts are aligned for every stored type,
    /// where a row has `row_bytes` bytes in the widest buffer bound by rows.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if not even the smallest aligned window fits.
    pub(crate) fn windows(
        &self,
        rows: usize,
        row_bytes: usize,
    ) -> Result<impl Iterator<Item = std::ops::Range<usize>> + use<>> {
        // A start at a multiple of this many rows is aligned even for 2-byte elements of an odd width.
        self.aligned_windows(rows, row_bytes, self.facts.offset_alignment as usize)
    }

    /// [`windows`](Self::windows) that start at multiples of `align` rows.
    pub(crate) fn aligned_windows(
        &self,
        rows: usize,
        row_bytes: usize,
        align: usize,
    ) -> Result<impl Iterator<Item = std::ops::Range<usize>> + use<>> {
        let fit = (self.facts.max_binding as usize) / row_bytes.max(1);
        let step = if rows <= fit { rows.max(1) } else { fit / align * align };
        if step == 0 {
            return Err(Error::Unsupported {
                what: format!(
                    "rows of {row_bytes} bytes: {align} of them exceed its binding limit of {} bytes",
                    self.facts.max_binding
                ),
                device: self.info.name.clone(),
            });
        }
        Ok((0..rows).step_by(step).map(move |start| start..(start + step).min(rows)))
    }

    /// The binding of a window of rows, from [`windows`](Self::windows), of a tensor with `width` elements a row.
    pub(crate) fn rows<'a>(
        &self,
        tensor: &'a crate::Tensor,
        rows: &std::ops::Range<usize>,
        width: usize,
    ) -> Binding<'a> {
        let row = (width * tensor.dtype().size()) as u64;
        Binding {
            buffer: tensor.wgpu(),
            offset: rows.start as u64 * row,
            bytes: (rows.len() as u64 * row).next_multiple_of(4),
        }
    }
}

impl crate::Tensor {
    /// The wgpu buffer that holds this tensor, if it is on wgpu. Call [`Device::flush`](crate::Device::flush) before using it on
    /// the queue: until then the work that fills it may only be recorded.
    ///
    /// # Safety
    /// The buffer may be bound for reading and copied from; nothing may write to it or map it. A clone of it, or work that uses
    /// it, must be gone from the queue's order before the last clone of the tensor is dropped: submit such work first. Kernels
    /// run without bounds checks and trust bounds and indices in tensors, and a dropped tensor's buffer becomes another's.
    ///
    /// ```compile_fail,E0133
    /// # fn buffer(tensor: &nearkin::Tensor) -> Option<&wgpu::Buffer> {
    /// tensor.as_wgpu_buffer()
    /// # }
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn as_wgpu_buffer(&self) -> Option<&wgpu::Buffer> {
        self.on_wgpu().map(WgpuBuffer::raw)
    }
}
