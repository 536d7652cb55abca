//! Device memory in the stream's order, and places in it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys;

use super::{Core, CudaDevice, Pool, Tiles, graph};
use crate::{Error, Result};

/// Device memory, given back to the pool in the stream's order when dropped.
pub(crate) struct CudaBuffer {
    pub(super) pointer: u64,
    pub(super) bytes: u64,
    pub(super) core: Arc<Core>,
    pub(super) source: Source,
}

pub(super) enum Source {
    /// Of our pool.
    Pool,
    /// Of a graph that is being recorded.
    Graph,
    /// The caller's; what is kept here is kept alive.
    Caller(#[allow(dead_code, reason = "held for its drop")] Option<Box<dyn Any + Send + Sync>>),
}

impl CudaBuffer {
    pub(crate) fn pointer(&self) -> u64 {
        self.pointer
    }

    /// The binding from byte `offset` on.
    pub(crate) fn at_byte(&self, offset: u64) -> Binding<'_> {
        Binding { buffer: self, offset, tiles: None }
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        let stream = match self.source {
            Source::Pool => self.core.stream.cu_stream(),
            Source::Graph => self.core.stream(),
            Source::Caller(_) => return,
        };
        self.core.used.fetch_sub(self.bytes, Ordering::Relaxed);
        // SAFETY: the memory came from `allocate`, and the stream finishes all earlier work before the memory is reused.
        let result = self.core.context.bind_to_thread().and_then(|()| unsafe {
            match self.core.pool {
                Some(_) => sys::cuMemFreeAsync(self.pointer, stream).result(),
                None => sys::cuMemFree_v2(self.pointer).result(),
            }
        });
        self.core.given_back(&format!("freeing {} bytes", self.bytes), result);
    }
}

/// A place in a buffer that a kernel is given as a pointer; what it may touch ends with the buffer.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub(super) buffer: &'a CudaBuffer,
    pub(super) offset: u64,
    pub(super) tiles: Option<Tiles>,
}

impl<'a> From<&'a CudaBuffer> for Binding<'a> {
    fn from(buffer: &'a CudaBuffer) -> Self {
        Binding { buffer, offset: 0, tiles: None }
    }
}

impl Binding<'_> {
    /// The same as a matrix, for a kernel that takes a tensor map.
    pub(crate) fn tiles(self, tiles: Tiles) -> Self {
        Binding { tiles: Some(tiles), ..self }
    }
}

impl CudaDevice {
    /// `bytes` bytes with arbitrary contents.
    pub(crate) fn alloc(&self, bytes: u64) -> Result<CudaBuffer> {
        // The driver has no empty allocations.
        let bytes = bytes.max(1);
        let before = self.core.used.fetch_add(bytes, Ordering::Relaxed);
        let back = |e| {
            self.core.used.fetch_sub(bytes, Ordering::Relaxed);
            e
        };
        if let Some(limit) = self.limit
            && before.saturating_add(bytes) > limit
        {
            return Err(back(Error::OutOfMemory {
                device: self.core.name.clone(),
                requested: bytes,
                free: Some(limit.saturating_sub(before)),
            }));
        }
        self.core.bind().map_err(back)?;
        let pointer = match self.allocate(bytes) {
            // What is on its way back to the pool may do, once the work before it is done.
            Err(Error::OutOfMemory { .. }) if graph::recording(&self.core).is_none() => {
                self.wait().map_err(back)?;
                self.trim();
                self.allocate(bytes)
            }
            other => other,
        };
        let source = match graph::recording(&self.core) {
            Some(_) => Source::Graph,
            None => Source::Pool,
        };
        Ok(CudaBuffer { pointer: pointer.map_err(back)?, bytes, core: self.core.clone(), source })
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        let mut pointer = 0;
        // SAFETY: the driver writes the address. What is made here is freed once, by `CudaBuffer`.
        let result = unsafe {
            match self.core.pool {
                Some(Pool(pool)) => sys::cuMemAllocFromPoolAsync(
                    &mut pointer,
                    bytes as usize,
                    pool,
                    self.core.stream(),
                ),
                None => sys::cuMemAlloc_v2(&mut pointer, bytes as usize),
            }
        };
        match self.core.check("allocating memory", result.result()) {
            Ok(()) => Ok(pointer),
            Err(Error::OutOfMemory { free, .. }) => {
                Err(Error::OutOfMemory { device: self.core.name.clone(), requested: bytes, free })
            }
            Err(other) => Err(other),
        }
    }
}
