//! Counted memory traffic.

use serde::{Deserialize, Serialize};

use super::banks::Wavefronts;

/// Accesses of one kind to global memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Instructions of a warp.
    pub requests: u64,
    /// Distinct sectors of 32 bytes, summed over requests: a coalesced request of 128 bytes has 4.
    pub sectors: u64,
    /// Bytes that the threads asked for.
    pub bytes: u64,
}

/// Global memory traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalCounts {
    pub loads: Traffic,
    pub stores: Traffic,
    pub atomics: Traffic,
    /// Sectors that the launch read at least once: what comes from memory when the L2 cache is cold and large.
    pub cold_read_sectors: u64,
    /// Sectors that the launch stored to or updated at least once.
    pub cold_written_sectors: u64,
    /// Bytes that were loaded at least once.
    pub unique_read_bytes: u64,
    /// Bytes that were stored to or updated at least once.
    pub unique_written_bytes: u64,
}

/// Accesses of one kind to shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banked {
    /// Instructions of a warp.
    pub requests: u64,
    /// Passes over the banks.
    pub wavefronts: u64,
    /// Passes that as many words would take without a conflict.
    pub ideal: u64,
}

impl Banked {
    pub(super) fn add(&mut self, passes: Wavefronts) {
        self.requests += 1;
        self.wavefronts += u64::from(passes.taken);
        self.ideal += u64::from(passes.ideal);
    }

    /// Passes lost to bank conflicts.
    pub fn conflicts(&self) -> u64 {
        self.wavefronts - self.ideal
    }
}

/// Shared memory traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedCounts {
    pub loads: Banked,
    pub stores: Banked,
    pub atomics: Banked,
    /// What `cp.async` writes.
    pub copies: Banked,
}

impl SharedCounts {
    /// Passes lost to bank conflicts, by every kind of access.
    pub fn conflicts(&self) -> u64 {
        [self.loads, self.stores, self.atomics, self.copies].iter().map(Banked::conflicts).sum()
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.bytes += other.bytes;
    }
}

impl std::ops::AddAssign for GlobalCounts {
    fn add_assign(&mut self, other: GlobalCounts) {
        self.loads += other.loads;
        self.stores += other.stores;
        self.atomics += other.atomics;
        self.cold_read_sectors += other.cold_read_sectors;
        self.cold_written_sectors += other.cold_written_sectors;
        self.unique_read_bytes += other.unique_read_bytes;
        self.unique_written_bytes += other.unique_written_bytes;
    }
}

impl std::ops::AddAssign for Banked {
    fn add_assign(&mut self, other: Banked) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.ideal += other.ideal;
    }
}

impl std::ops::AddAssign for SharedCounts {
    fn add_assign(&mut self, other: SharedCounts) {
        self.loads += other.loads;
        self.stores += other.stores;
        self.atomics += other.atomics;
        self.copies += other.copies;
    }
}
