//! How many blocks of a kernel a multiprocessor holds.

use super::abi::{BlockToShared, Handle, shared_of};
use super::arch::{Arch, MAX_THREADS};
use super::error::{Error, Result};
use super::launch::Shape;
use super::module::registers;
use super::state::Call;

/// What of a kernel decides its occupancy.
#[derive(Debug, Clone, Copy)]
struct Needs {
    registers: u32,
    static_shared: u32,
    max_threads: u32,
    /// The largest block's shared memory that launches may ask for.
    max_dynamic: u32,
}

impl Needs {
    fn resident(&self, arch: &Arch, threads: u32, dynamic: usize) -> u32 {
        let shared = u64::from(self.static_shared).saturating_add(dynamic as u64);
        if threads > self.max_threads || shared > u64::from(arch.shared_block) {
            return 0;
        }
        arch.resident(threads, self.registers, shared)
    }
}

impl Call {
    fn needs(&self, function: Handle) -> Result<Needs> {
        self.with_function(function, |function, _| {
            Ok(Needs {
                registers: registers(&function.kernel),
                static_shared: function.kernel.static_shared,
                max_threads: function.kernel.max_threads,
                max_dynamic: function.max_dynamic,
            })
        })
    }

    /// Blocks of a multiprocessor.
    pub fn occupancy(&self, function: Handle, threads: i32, dynamic: usize) -> Result<u32> {
        let threads = u32::try_from(threads).ok().filter(|&n| n > 0).ok_or(Error::INVALID_VALUE)?;
        Ok(self.needs(function)?.resident(&self.device().arch, threads, dynamic))
    }

    /// Dynamic shared memory that each of `blocks` blocks on a multiprocessor can have.
    pub fn available_shared(&self, function: Handle, blocks: i32, threads: i32) -> Result<usize> {
        let needs = self.needs(function)?;
        let arch = self.device().arch;
        let positive =
            |n: i32| u32::try_from(n).ok().filter(|&n| n > 0).ok_or(Error::INVALID_VALUE);
        let (blocks, threads) = (positive(blocks)?, positive(threads)?);
        if needs.resident(&arch, threads, 0) < blocks {
            return Err(Error::INVALID_VALUE);
        }
        let each = (arch.shared / blocks) & !127;
        let room = each.saturating_sub(arch.reserved_shared() + needs.static_shared);
        let most = arch.shared_block.saturating_sub(needs.static_shared);
        Ok(room.min(most) as usize)
    }

    /// Blocks that fill the device, and the block size that keeps most threads resident; of equals, the largest.
    pub fn best_block(
        &self,
        function: Handle,
        dynamic_of: BlockToShared,
        dynamic: usize,
        limit: i32,
    ) -> Result<(i32, i32)> {
        let needs = self.needs(function)?;
        let arch = self.device().arch;
        let limit = match u32::try_from(limit).map_err(|_| Error::INVALID_VALUE)? {
            0 => MAX_THREADS,
            limit => limit,
        };
        let most = limit.min(needs.max_threads).min(MAX_THREADS);
        let sizes = (1..=most).rev().filter(|&size| size == most || size.is_multiple_of(32));
        let mut best = (0, 0, 0);
        for threads in sizes {
            let blocks = needs.resident(&arch, threads, shared_of(dynamic_of, dynamic, threads));
            if blocks * threads > best.0 {
                best = (blocks * threads, blocks, threads);
            }
        }
        let (_, blocks, threads) = best;
        Ok(((blocks * arch.multiprocessors) as i32, threads as i32))
    }

    /// Clusters that are resident on the device.
    pub fn clusters(&self, function: Handle, shape: &Shape) -> Result<u32> {
        let needs = self.needs(function)?;
        if shape.shared > needs.max_dynamic {
            return Err(Error::INVALID_VALUE);
        }
        let kernel = self.with_function(function, |function, _| Ok(function.kernel.clone()))?;
        let size = shape.cluster_of(&kernel).iter().copied().fold(1, u32::saturating_mul);
        let arch = &self.device().arch;
        let blocks = needs.resident(arch, shape.threads(), shape.shared as usize);
        Ok((blocks * arch.multiprocessors).checked_div(size).unwrap_or(0))
    }
}
