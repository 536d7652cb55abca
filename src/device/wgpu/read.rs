//! Copies to the host, and waiting.

use std::future::Future;
use std::sync::Arc;

use super::queue::BufferCopy;
use super::{WgpuBuffer, WgpuDevice};
use crate::device::waits::{Promised, promise};
use crate::device::{host, lock};
use crate::{Error, Result};

/// A read-back under way.
struct Read {
    staging: wgpu::Buffer,
    copied: wgpu::SubmissionIndex,
    mapped: Promised<Result<(), wgpu::BufferAsyncError>>,
    bytes: u64,
}

impl WgpuDevice {
    /// Copies the first `bytes` bytes of a buffer to the host, after everything recorded before this call. The copy starts with
    /// the call.
    pub(crate) fn read(
        self: &Arc<Self>,
        buffer: &WgpuBuffer,
        bytes: u64,
    ) -> impl Future<Output = Result<Vec<u8>>> + Send + use<> {
        let started = self.start_read(buffer, bytes);
        let started = started.map(|read| read.map(|r| (self.after(r.copied.clone()), r)));
        let this = self.clone();
        async move {
            let Some((copied, read)) = started? else { return Ok(Vec::new()) };
            copied.await?;
            this.finish_read(read).await
        }
    }

    /// As [`read`](Self::read), but waits in the driver on the calling thread.
    pub(crate) fn read_now(&self, buffer: &WgpuBuffer, bytes: u64) -> Result<Vec<u8>> {
        let Some(read) = self.start_read(buffer, bytes)? else { return Ok(Vec::new()) };
        self.wait_for(&read.copied)?;
        pollster::block_on(self.finish_read(read))
    }

    fn start_read(&self, buffer: &WgpuBuffer, bytes: u64) -> Result<Option<Read>> {
        if bytes == 0 {
            return Ok(None);
        }
        let size = bytes.next_multiple_of(4);
        let staging = self.checked(size, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("nearkin read-back"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let copy = BufferCopy {
            from: buffer.raw().clone(),
            from_at: 0,
            to: staging.clone(),
            to_at: 0,
            bytes: size,
        };
        let copied = self.submit_with(&mut lock(&self.recorded), Some(copy))?;
        self.transfers.down(bytes);
        let (promise, mapped) = promise();
        self.checked(0, || {
            staging.map_async(wgpu::MapMode::Read, .., move |result| promise.keep(result));
        })?;
        Ok(Some(Read { staging, copied, mapped, bytes }))
    }

    /// What was read, once the device has done it: until the thread that noticed has called back.
    async fn finish_read(&self, read: Read) -> Result<Vec<u8>> {
        let driver = |problem: String| Error::Driver { device: self.info.name.clone(), problem };
        let Some(mapped) = read.mapped.await else {
            self.alive()?;
            return Err(driver("a read-back was given up".into()));
        };
        mapped.map_err(|e| driver(e.to_string()))?;
        self.alive()?;
        let range = read.staging.get_mapped_range(..).map_err(|e| driver(e.to_string()))?;
        host::copied(&range[..read.bytes as usize])
    }

    /// Submits what has been recorded; ready when the device has done everything submitted before this call.
    pub(crate) fn done(self: &Arc<Self>) -> impl Future<Output = Result<()>> + Send + use<> {
        let all = self.submit_with(&mut lock(&self.recorded), None);
        let done = all.map(|all| self.after(all));
        async move { done?.await }
    }

    /// Ready when the device has done a submission and all before it.
    fn after(
        self: &Arc<Self>,
        submission: wgpu::SubmissionIndex,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let this = self.clone();
        let added = self.waits.add(&self.info.name, move || this.wait_for(&submission));
        async move { added?.await? }
    }

    /// Waits for everything submitted.
    pub(crate) fn wait(&self) -> Result<()> {
        let all = self.submit_with(&mut lock(&self.recorded), None)?;
        self.wait_for(&all)
    }

    /// Waits for a submission. Meanwhile wgpu holds a lock that presenting a frame needs. A wait with a time limit would let it go
    /// now and then, but wgpu panics where such a wait ends while other threads submit and poll.
    fn wait_for(&self, submission: &wgpu::SubmissionIndex) -> Result<()> {
        let submission_index = Some(submission.clone());
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None });
        self.alive()?;
        let driver = |e: wgpu::PollError| Error::Driver {
            device: self.info.name.clone(),
            problem: e.to_string(),
        };
        waited.map(drop).map_err(driver)
    }
}
