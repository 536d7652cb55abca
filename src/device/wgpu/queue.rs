//! What is recorded, and how it reaches the queue: in the order of the calls, many steps a submission.

use std::sync::Arc;

use super::kernel::Kernel;
use super::{WgpuBuffer, WgpuDevice};
use crate::device::lock;
use crate::{Error, Result};

/// Launches recorded before they are submitted on their own.
pub(super) const SUBMIT_AFTER: usize = 64;
/// Bytes of the ring that holds the params of recorded launches.
pub(super) const RING_BYTES: u64 = 64 << 10;

/// What is recorded, in order.
pub(super) enum Step {
    Launch { kernel: Arc<Kernel>, group: wgpu::BindGroup, workgroups: [u32; 3] },
    Copy(BufferCopy),
}

/// A copy between buffers; places and bytes are multiples of four.
pub(super) struct BufferCopy {
    pub(super) from: wgpu::Buffer,
    pub(super) from_at: u64,
    pub(super) to: wgpu::Buffer,
    pub(super) to_at: u64,
    pub(super) bytes: u64,
}

pub(super) struct Recorded {
    pub(super) steps: Vec<Step>,
    pub(super) params: Vec<u8>,
    pub(super) ring: wgpu::Buffer,
}

impl WgpuDevice {
    /// Copies host bytes to the start of a buffer.
    pub(crate) fn upload(&self, buffer: &WgpuBuffer, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        // `write_buffer` happens before anything not submitted yet, and the buffer may come from the pool.
        let mut recorded = lock(&self.recorded);
        self.submit(&mut recorded)?;
        self.checked(data.len() as u64, || {
            let whole = data.len() & !3;
            self.queue.write_buffer(buffer.raw(), 0, &data[..whole]);
            if whole < data.len() {
                let mut last = [0u8; 4];
                last[..data.len() - whole].copy_from_slice(&data[whole..]);
                self.queue.write_buffer(buffer.raw(), whole as u64, &last);
            }
        })?;
        self.transfers.up(data.len());
        Ok(())
    }

    /// Fills a buffer with zeros.
    pub(crate) fn clear(&self, buffer: &WgpuBuffer) -> Result<()> {
        // The buffer may come from the pool, and recorded launches may still use it.
        let mut recorded = lock(&self.recorded);
        self.submit(&mut recorded)?;
        self.checked(0, || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.clear_buffer(buffer.raw(), 0, None);
            self.queue.submit([encoder.finish()]);
        })
    }

    /// Records a copy of `bytes` bytes of a buffer from byte `from_at` on to another's from `to_at` on. Places and bytes are
    /// multiples of four.
    pub(crate) fn copy(
        &self,
        (from, from_at): (&WgpuBuffer, u64),
        (to, to_at): (&WgpuBuffer, u64),
        bytes: u64,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let fits = |buffer: &WgpuBuffer, at: u64| {
            at.is_multiple_of(4)
                && at.checked_add(bytes).is_some_and(|end| end <= buffer.raw().size())
        };
        if !bytes.is_multiple_of(4) || !fits(from, from_at) || !fits(to, to_at) {
            let what = format!("a copy of {bytes} bytes from byte {from_at} to byte {to_at}");
            return Err(Error::Unsupported { what, device: self.info.name.clone() });
        }
        let mut recorded = lock(&self.recorded);
        if recorded.steps.len() >= SUBMIT_AFTER {
            self.submit(&mut recorded)?;
        }
        let is_adopted = from.is_adopted();
        let (from, to) = (from.raw().clone(), to.raw().clone());
        recorded.steps.push(Step::Copy(BufferCopy { from, from_at, to, to_at, bytes }));
        // As of a launch.
        if is_adopted { self.submit(&mut recorded) } else { Ok(()) }
    }

    /// Submits what has been recorded.
    pub(crate) fn flush(&self) -> Result<()> {
        self.submit(&mut lock(&self.recorded))
    }

    pub(super) fn submit(&self, recorded: &mut Recorded) -> Result<()> {
        match recorded.steps.is_empty() {
            true => Ok(()),
            false => self.submit_with(recorded, None).map(drop),
        }
    }

    /// Submits what has been recorded, which may be nothing, then the copy, if any.
    pub(super) fn submit_with(
        &self,
        recorded: &mut Recorded,
        copy: Option<BufferCopy>,
    ) -> Result<wgpu::SubmissionIndex> {
        let mut steps = std::mem::take(&mut recorded.steps);
        let params = std::mem::take(&mut recorded.params);
        let has_work = !steps.is_empty();
        steps.extend(copy.map(Step::Copy));
        let result = self.enqueue(&recorded.ring, &steps, &params);
        if let Err(e) = &result
            && has_work
        {
            // Tensors of any operation and thread now lack what these steps would have written.
            lock(&self.failed).get_or_insert(e.to_string());
        }
        result
    }

    fn enqueue(
        &self,
        ring: &wgpu::Buffer,
        steps: &[Step],
        params: &[u8],
    ) -> Result<wgpu::SubmissionIndex> {
        if !params.is_empty() {
            // On its own: kernels trust their params, so without these none may run.
            self.checked(params.len() as u64, || {
                self.queue.write_buffer(ring, 0, params);
            })?;
        }
        self.checked(0, || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            // Launches in a row share a pass.
            let mut pass = None;
            for step in steps {
                match step {
                    Step::Launch { kernel, group, workgroups: [x, y, z] } => {
                        let pass = pass.get_or_insert_with(|| {
                            encoder.begin_compute_pass(&Default::default()).forget_lifetime()
                        });
                        pass.set_pipeline(&kernel.pipeline);
                        pass.set_bind_group(0, group, &[]);
                        pass.dispatch_workgroups(*x, *y, *z);
                    }
                    Step::Copy(copy) => {
                        pass = None;
                        let BufferCopy { from, from_at, to, to_at, bytes } = copy;
                        encoder.copy_buffer_to_buffer(from, *from_at, to, *to_at, *bytes);
                    }
                }
            }
            drop(pass);
            self.queue.submit([encoder.finish()])
        })
    }
}
