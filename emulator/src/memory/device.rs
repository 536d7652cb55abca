//! A device's memory: allocations at addresses of their own, and what the host does with them.

use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bits::Bits;
use super::raw::Bytes;
use super::{Violation, ViolationKind};

/// Where device memory begins: far from every address of the host.
pub const BASE: u64 = 0x0a00_0000_0000;
/// No two allocations are closer than this, so that a step over the end of one does not reach another.
const GAP: u64 = 4096;
/// Freed ranges that are remembered.
const GRAVES: usize = 4096;

/// What an allocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Device,
    /// Also the host's, at the same address.
    Managed,
    /// Host memory that the device reaches, at the same address.
    Pinned,
    /// A module's `.const` variable: kernels cannot write it.
    Constant,
    /// A module's `.global` variable.
    Module,
}

/// An allocation, as the host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationInfo {
    pub address: u64,
    pub size: u64,
    pub kind: Kind,
    /// Allocations are numbered from 1.
    pub serial: u64,
}

/// Bytes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    pub used: u64,
}

/// Why an allocation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    #[error("{requested} bytes requested, {free} are free")]
    OutOfMemory { requested: u64, free: u64 },
    #[error("an allocation of 0 bytes")]
    Empty,
}

/// Why a range could not be freed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FreeError {
    #[error("{address:#x} was never allocated")]
    NotAllocated { address: u64 },
    #[error("{address:#x} is inside the allocation at {base:#x}")]
    Interior { address: u64, base: u64 },
    #[error("{address:#x} was freed before")]
    AlreadyFreed { address: u64 },
}

/// A live allocation.
#[derive(Debug)]
pub struct Allocation {
    pub info: AllocationInfo,
    pub(super) bytes: Bytes,
    /// Bytes that were written.
    pub(super) written: Bits,
    /// Race tags of the last launch that needed them, and log2 of the bytes they stand for.
    pub(super) shadow: Mutex<Option<(u32, Arc<Bytes>)>>,
}

/// A freed range.
#[derive(Debug, Clone)]
pub(super) struct Grave {
    pub address: u64,
    pub size: u64,
}

#[derive(Debug)]
struct State {
    live: BTreeMap<u64, Arc<Allocation>>,
    graves: VecDeque<Grave>,
    next: u64,
    used: u64,
    serial: u64,
    launches: u64,
}

/// The memory of one device.
#[derive(Debug)]
pub struct Memory {
    total: u64,
    state: Mutex<State>,
}

/// What a launch sees: the allocations at its start.
#[derive(Debug)]
pub struct View {
    /// By address.
    pub(super) allocations: Vec<Arc<Allocation>>,
    pub(super) graves: Vec<Grave>,
    /// A number that no recent launch has.
    pub(super) launch: u64,
}

impl Memory {
    /// Memory of `total` bytes; what is not used takes no room.
    pub fn new(total: u64) -> Memory {
        Memory::at(BASE, total)
    }

    /// [`Memory::new`] with the address of its first allocation, so that those of several devices differ.
    pub fn at(base: u64, total: u64) -> Memory {
        let state = State {
            live: BTreeMap::new(),
            graves: VecDeque::new(),
            next: base,
            used: 0,
            serial: 0,
            launches: 0,
        };
        Memory { total, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Uninitialised memory, at a multiple of 256. Addresses are not used again.
    ///
    /// # Errors
    /// Nothing is asked for, or more than is free.
    pub fn alloc(&self, bytes: u64, kind: Kind) -> Result<u64, AllocError> {
        if bytes == 0 {
            return Err(AllocError::Empty);
        }
        let mut state = self.lock();
        let is_host = kind == Kind::Pinned;
        let free = self.total - state.used;
        let out = AllocError::OutOfMemory { requested: bytes, free };
        if bytes > free && !is_host {
            return Err(out);
        }
        let size = usize::try_from(bytes).map_err(|_| out.clone())?;
        let (Some(memory), Some(written)) = (Bytes::zeroed(size), Bits::new(size)) else {
            return Err(out);
        };
        let address = match kind {
            Kind::Pinned | Kind::Managed => memory.address(),
            _ => {
                let address = state.next;
                state.next = (address + bytes + GAP).next_multiple_of(GAP);
                address
            }
        };
        if !is_host {
            state.used += bytes;
        }
        state.insert(address, memory, written, kind);
        Ok(address)
    }

    /// Makes host memory reachable by kernels, at its own address, until [`Memory::unregister_host`].
    ///
    /// # Safety
    /// The range is valid for reads and writes until then.
    ///
    /// # Errors
    /// It is empty, or overlaps a registered range.
    #[allow(unsafe_code)]
    pub unsafe fn register_host(&self, start: NonNull<u8>, bytes: usize) -> Result<(), AllocError> {
        let written = Bits::new(bytes).filter(|_| bytes > 0).ok_or(AllocError::Empty)?;
        written.fill(0..bytes, true);
        let address = start.as_ptr() as u64;
        let mut state = self.lock();
        let before = state.live.range(..address + bytes as u64).next_back();
        if before.is_some_and(|(&base, other)| base + other.info.size > address) {
            return Err(AllocError::Empty);
        }
        // SAFETY: the caller's promise.
        let memory = unsafe { Bytes::foreign(start, bytes) };
        state.insert(address, memory, written, Kind::Pinned);
        Ok(())
    }

    /// Ends what [`Memory::register_host`] began.
    ///
    /// # Errors
    /// The address is not that of a registered range.
    pub fn unregister_host(&self, address: u64) -> Result<(), FreeError> {
        self.free(address)
    }

    /// Frees an allocation by its first address.
    ///
    /// # Errors
    /// It is no allocation's first address, or was freed before.
    pub fn free(&self, address: u64) -> Result<(), FreeError> {
        let mut state = self.lock();
        let Some(allocation) = state.live.remove(&address) else {
            if let Some(base) = state.containing(address).map(|allocation| allocation.info.address)
            {
                return Err(FreeError::Interior { address, base });
            }
            let is_grave = state.graves.iter().any(|grave| grave.address == address);
            return Err(match is_grave {
                true => FreeError::AlreadyFreed { address },
                false => FreeError::NotAllocated { address },
            });
        };
        let AllocationInfo { size, kind, .. } = allocation.info;
        if kind != Kind::Pinned {
            state.used -= size;
        }
        if state.graves.len() == GRAVES {
            state.graves.pop_front();
        }
        state.graves.push_back(Grave { address, size });
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        Usage { total: self.total, used: self.lock().used }
    }

    /// Every allocation, by address.
    pub fn live(&self) -> Vec<AllocationInfo> {
        self.lock().live.values().map(|allocation| allocation.info).collect()
    }

    /// The allocation that an address is in.
    pub fn lookup(&self, address: u64) -> Option<AllocationInfo> {
        self.lock().containing(address).map(|allocation| allocation.info)
    }

    /// The allocation that holds a whole range, and the offset in it.
    fn range(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, usize), Violation> {
        let state = self.lock();
        let found = state.containing(address).filter(|allocation| {
            address
                .checked_add(bytes)
                .is_some_and(|end| end <= allocation.info.address + allocation.info.size)
        });
        match found {
            Some(allocation) => {
                Ok((allocation.clone(), (address - allocation.info.address) as usize))
            }
            None => {
                let live: Vec<Arc<Allocation>> = state.live.values().cloned().collect();
                let graves: Vec<Grave> = state.graves.iter().cloned().collect();
                Err(outside(&live, &graves, 0, address, bytes))
            }
        }
    }

    /// Copies from the device.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Violation> {
        if to.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, to.len() as u64)?;
        allocation.bytes.copy_out(offset, to);
        Ok(())
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Violation> {
        if from.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, from.len() as u64)?;
        allocation.bytes.copy_in(offset, from);
        allocation.written.fill(offset..offset + from.len(), true);
        Ok(())
    }

    /// Writes a pattern of 1, 2 or 4 bytes `count` times.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), Violation> {
        let bytes = count.saturating_mul(pattern.len() as u64);
        if bytes == 0 {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, bytes)?;
        let block = pattern.repeat((bytes as usize).min(1 << 16) / pattern.len());
        let mut at = 0;
        while at < bytes as usize {
            let part = block.len().min(bytes as usize - at);
            allocation.bytes.copy_in(offset + at, &block[..part]);
            at += part;
        }
        allocation.written.fill(offset..offset + bytes as usize, true);
        Ok(())
    }

    /// Copies within the device. What was not initialised stays so in the copy.
    ///
    /// # Errors
    /// A range is not inside one allocation.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Violation> {
        if bytes == 0 {
            return Ok(());
        }
        let (target, to) = self.range(to, bytes)?;
        let (source, from) = self.range(from, bytes)?;
        let bytes = bytes as usize;
        target.bytes.copy_from(to, &source.bytes, from, bytes);
        // The common case is one run of written bytes; else byte by byte.
        if source.written.first_unset(from..from + bytes).is_none() {
            target.written.fill(to..to + bytes, true);
        } else {
            let state: Vec<bool> = (from..from + bytes).map(|at| source.written.get(at)).collect();
            for (at, written) in state.into_iter().enumerate() {
                target.written.fill(to + at..to + at + 1, written);
            }
        }
        Ok(())
    }

    /// Fills the bytes that were never written in the allocation that begins at `address`, as if the blocks of a launch that were
    /// not executed had written what the others did. It repeats the written units of 16 bytes in their order, or of 4 bytes if
    /// no whole 16 were written. A unit of which a part was written stays as it is.
    pub fn spread(&self, address: u64) {
        let Some(allocation) = self.lock().live.get(&address).cloned() else { return };
        let (bytes, written) = (&allocation.bytes, &allocation.written);
        if written.first_unset(0..bytes.len()).is_none() {
            return;
        }
        for unit in [16, 4] {
            let whole = |at: &usize| written.first_unset(*at..*at + unit).is_none();
            let untouched = |at: &usize| (*at..*at + unit).all(|at| !written.get(at));
            let starts = || (0..bytes.len() / unit).map(|n| n * unit);
            let values: Vec<u128> = starts()
                .filter(whole)
                .take(1 << 16)
                .map(|at| bytes.load(at, unit as u32))
                .collect();
            if !values.is_empty() {
                let missing = starts().filter(untouched);
                for (at, value) in missing.zip(values.iter().cycle()) {
                    bytes.store(at, unit as u32, *value);
                }
                return;
            }
        }
    }

    /// Whether nothing was ever written to the allocation that begins at `address`.
    pub fn is_untouched(&self, address: u64) -> bool {
        let allocation = self.lock().live.get(&address).cloned();
        allocation.is_some_and(|allocation| {
            let written = &allocation.written;
            !(0..allocation.bytes.len()).step_by(4).any(|at| written.get(at))
        })
    }

    /// What a launch that begins now sees.
    pub fn view(&self) -> Arc<View> {
        let mut state = self.lock();
        state.launches += 1;
        if state.launches.is_multiple_of(super::global::LAUNCHES) {
            // Launch numbers begin again: no old tag may be mistaken for a new one.
            state.launches += 1;
            for allocation in state.live.values() {
                *allocation.shadow.lock().unwrap_or_else(|poison| poison.into_inner()) = None;
            }
        }
        Arc::new(View {
            allocations: state.live.values().cloned().collect(),
            graves: state.graves.iter().cloned().collect(),
            launch: state.launches % super::global::LAUNCHES,
        })
    }
}

impl State {
    fn insert(&mut self, address: u64, bytes: Bytes, written: Bits, kind: Kind) {
        self.serial += 1;
        let info = AllocationInfo { address, size: bytes.len() as u64, kind, serial: self.serial };
        let allocation = Allocation { info, bytes, written, shadow: Mutex::new(None) };
        self.live.insert(address, Arc::new(allocation));
    }

    fn containing(&self, address: u64) -> Option<&Arc<Allocation>> {
        let (base, allocation) = self.live.range(..=address).next_back()?;
        (address - base < allocation.info.size).then_some(allocation)
    }
}

/// The violation of an access outside every allocation: what is nearest.
pub(super) fn outside(
    live: &[Arc<Allocation>],
    graves: &[Grave],
    lane: u32,
    address: u64,
    bytes: u64,
) -> Violation {
    let violation = |kind, what| Violation { kind, lane, address, bytes: bytes as u32, what };
    let grave = graves.iter().rev().find(|grave| address.wrapping_sub(grave.address) < grave.size);
    if let Some(grave) = grave {
        let what = format!(
            "{bytes} bytes at {address:#x}, {} bytes into an allocation of {} bytes at {:#x} that was freed",
            address - grave.address,
            grave.size,
            grave.address
        );
        return violation(ViolationKind::UseAfterFree, what);
    }
    let before = live.iter().rev().find(|other| other.info.address <= address);
    let after = live.iter().find(|other| other.info.address > address);
    let past = before.map(|other| (address - other.info.address).saturating_sub(other.info.size));
    let ahead = after.map(|other| other.info.address - address);
    let what = match (before, after, past, ahead) {
        (_, _, None, None) => "there is no allocation".to_owned(),
        (Some(other), _, Some(past), ahead) if ahead.is_none_or(|ahead| past <= ahead) => {
            let AllocationInfo { address: base, size, serial, .. } = other.info;
            let inside = address - base < size;
            let place = match inside {
                true => format!("only {} of them are inside", base + size - address),
                false => format!("{past} bytes past the end of"),
            };
            let join = if inside { " the" } else { "" };
            format!(
                "{bytes} bytes at {address:#x}, {place}{join} allocation {serial} of {size} bytes at {base:#x}"
            )
        }
        (_, Some(other), _, Some(ahead)) => {
            let AllocationInfo { address: base, size, serial, .. } = other.info;
            format!(
                "{bytes} bytes at {address:#x}, {ahead} bytes before allocation {serial} of {size} bytes at {base:#x}"
            )
        }
        _ => format!("{bytes} bytes at {address:#x}, in no allocation"),
    };
    violation(ViolationKind::OutOfBounds, what)
}
