//! The CPU device: pooled, aligned host memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use memmap2::MmapMut;

use crate::{Element, Error, Result};

/// 16 bytes, the most that an allocator aligns by itself. Where more is asked for, memory of zeros is not fresh pages of the
/// system but written, all of it by the thread that asks.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(16))]
struct Word([u8; 16]);

/// Buffers start on a cache line, so that every slice is aligned for any vector width.
const LINE: usize = 64;
/// Words before the line that a buffer starts on, at most.
const SKIPPED: usize = LINE / size_of::<Word>() - 1;

/// Buffers of at least this many bytes are mappings of their own, for which Linux is asked for huge pages: a pass over many small
/// ones spends up to a fifth of its time on their addresses, more under a hypervisor.
const MAPPED_FROM: usize = 4 << 20;

/// Buffers of at least this many bytes return to the pool: below it the allocator is as quick.
const POOLED_FROM: usize = 64 << 10;
/// The pool never keeps more than this.
const POOL_LIMIT: usize = 1 << 30;

#[derive(Debug)]
pub(crate) struct CpuDevice {
    pool: Arc<Mutex<Pool>>,
    limit: Option<u64>,
}

#[derive(Default)]
struct Pool {
    /// By their sizes.
    free: HashMap<usize, Vec<Memory>>,
    free_bytes: usize,
    used_bytes: u64,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("free_bytes", &self.free_bytes)
            .field("used_bytes", &self.used_bytes)
            .finish()
    }
}

impl CpuDevice {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        CpuDevice { pool: Arc::default(), limit }
    }

    /// A buffer of `bytes` bytes whose contents are arbitrary, but initialised.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<CpuBuffer> {
        let mut lines = bytes.div_ceil(LINE);
        if bytes >= POOLED_FROM {
            // One size class per eighth of a power of two, so that shapes that differ a little share buffers.
            let step = lines.next_power_of_two() / 16;
            lines = lines.next_multiple_of(step.max(1));
        }
        let size = lines * LINE;
        let mut pool = self.pool.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(limit) = self.limit
            && pool.used_bytes + size as u64 > limit
        {
            return Err(Error::OutOfMemory {
                device: "cpu".into(),
                requested: bytes as u64,
                free: Some(limit.saturating_sub(pool.used_bytes)),
            });
        }
        let memory = if let Some(memory) = pool.free.get_mut(&size).and_then(Vec::pop) {
            pool.free_bytes -= size;
            memory
        } else {
            Memory::new(size).ok_or_else(|| Error::OutOfMemory {
                device: "cpu".into(),
                requested: bytes as u64,
                free: None,
            })?
        };
        pool.used_bytes += size as u64;
        Ok(CpuBuffer { memory, size, bytes, pool: self.pool.clone() })
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.pool.lock().unwrap_or_else(|e| e.into_inner()).used_bytes
    }

    pub(crate) fn trim(&self) {
        let mut pool = self.pool.lock().unwrap_or_else(|e| e.into_inner());
        pool.free.clear();
        pool.free_bytes = 0;
    }
}

/// Memory that was zeros when it was new, so that fresh pages come from the system untouched: the lock is not held while they are
/// written, and an operation's threads write them first.
enum Memory {
    /// With the word that the first line starts with.
    Words(Vec<Word>, usize),
    Mapped(MmapMut),
}

impl Memory {
    /// At least `size` bytes.
    fn new(size: usize) -> Option<Memory> {
        if cfg!(unix) && size >= MAPPED_FROM {
            let mapped = MmapMut::map_anon(size).ok()?;
            // Where there are no huge pages to be had, there are small ones.
            #[cfg(target_os = "linux")]
            let _ = mapped.advise(memmap2::Advice::HugePage);
            return Some(Memory::Mapped(mapped));
        }
        let words = size / size_of::<Word>() + SKIPPED;
        let words = bytemuck::allocation::try_zeroed_vec::<Word>(words).ok()?;
        let start = words.as_ptr().align_offset(LINE).min(SKIPPED);
        Some(Memory::Words(words, start))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Words(words, start) => bytemuck::cast_slice(&words[*start..]),
            Memory::Mapped(mapped) => mapped,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Words(words, start) => bytemuck::cast_slice_mut(&mut words[*start..]),
            Memory::Mapped(mapped) => mapped,
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Words(Vec::new(), 0)
    }
}

/// Host memory that returns to its device's pool when dropped.
pub(crate) struct CpuBuffer {
    memory: Memory,
    /// Bytes that were allocated, and bytes that were asked for.
    size: usize,
    bytes: usize,
    pool: Arc<Mutex<Pool>>,
}

impl CpuBuffer {
    pub(crate) fn as_slice<T: Element>(&self) -> &[T] {
        &bytemuck::cast_slice(self.memory.bytes())[..self.bytes / size_of::<T>()]
    }

    pub(crate) fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(self.memory.bytes_mut())[..self.bytes / size_of::<T>()]
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[..self.bytes]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[..self.bytes]
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut pool = self.pool.lock().unwrap_or_else(|e| e.into_inner());
        pool.used_bytes -= self.size as u64;
        if self.bytes >= POOLED_FROM && pool.free_bytes + self.size <= POOL_LIMIT {
            pool.free_bytes += self.size;
            pool.free.entry(self.size).or_default().push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_cache_line_and_come_back() {
        let cpu = CpuDevice::new(None);
        for bytes in [0, 1, 64, 65, POOLED_FROM - 1, POOLED_FROM, 1_000_003, MAPPED_FROM, 9_000_001]
        {
            for _ in 0..3 {
                let mut buffer = cpu.alloc(bytes).unwrap();
                assert_eq!(buffer.bytes().as_ptr().addr() % LINE, 0, "{bytes}");
                assert_eq!((buffer.bytes().len(), buffer.bytes_mut().len()), (bytes, bytes));
                assert!(cpu.used_bytes() >= bytes as u64);
            }
            assert_eq!(cpu.used_bytes(), 0, "{bytes}");
        }
        let kept = cpu.alloc(1_000_003).unwrap();
        let at = kept.bytes().as_ptr();
        drop(kept);
        assert_eq!(cpu.alloc(1_000_000).unwrap().bytes().as_ptr(), at, "not of the pool");
    }
}
