//! Device memory, shared memory, and what is known of every byte in them.
//!
//! The interpreter works a warp at a time: a [`Request`] is one memory instruction of one warp. Every access is checked
//! here (bounds, lifetime, alignment, initialisation, races, copies in flight) and counted here (sectors, wavefronts).

mod banks;
mod bits;
mod clock;
mod copies;
mod counts;
mod device;
mod flags;
mod global;
mod knowledge;
mod local;
mod mbarrier;
mod raw;
mod shared;

pub use banks::{Wavefronts, wavefronts};
pub use clock::Clocks;
pub use counts::{Banked, GlobalCounts, SharedCounts, Traffic};
pub use device::{AllocError, AllocationInfo, BASE, FreeError, Kind, Memory, Usage, View};
pub use global::{Global, Tracking};
pub use knowledge::Knowledge;
pub use local::Local;
pub use mbarrier::Mbarriers;
pub use shared::{Landing, Shared};

/// Which checks are made. Bounds, lifetime and alignment are always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Races in shared and global memory.
    pub races: bool,
    /// Reads of registers and memory that were never written.
    pub uninitialized: bool,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks { races: true, uninitialized: true }
    }
}

/// One memory instruction of one warp.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Lanes that take part.
    pub mask: u32,
    /// A byte address for each lane of `mask`.
    pub addresses: &'a [u64; 32],
    /// Bytes a lane: 1, 2, 4, 8 or 16.
    pub bytes: u32,
    pub who: Who,
    pub order: Order,
}

/// The memory order of an access. Two accesses that are not [`Order::Weak`] never race with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A plain load or store.
    Weak,
    /// `.relaxed`, `.volatile`, and `atom` and `red` without a qualifier.
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

/// The warp that asks.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    /// Linear index of the block in the grid.
    pub block: u32,
    /// Index of the warp in its block.
    pub warp: u32,
}

/// What each lane loads or stores: up to 16 bytes, little-endian, the rest zero.
pub type Data = [u128; 32];

/// A rule that an access broke.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    pub kind: ViolationKind,
    /// The lane that broke it first.
    pub lane: u32,
    pub address: u64,
    pub bytes: u32,
    /// What was expected, and what is there instead: "16 bytes past the end of an allocation of 1024 bytes at 0x…".
    pub what: String,
}

/// Which rule. The order is that of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ViolationKind {
    OutOfBounds,
    UseAfterFree,
    Misaligned,
    ReadOnly,
    Uninitialized,
    Race,
    /// The bytes of an asynchronous copy were touched before its wait.
    UnwaitedCopy,
}

/// The lanes of a mask.
#[inline]
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(mask), |&left| Some(left & left.wrapping_sub(1)))
        .take_while(|&left| left != 0)
        .map(|left| left.trailing_zeros() as usize)
}
