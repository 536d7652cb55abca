//! Allocations of device, managed and host memory, and what is known of a pointer.

use std::ptr::NonNull;

use super::abi::Handle;
use super::arch::PITCH;
use super::error::{Error, Result};
use super::faults::Operation;
use super::ffi;
use super::state::{Call, Driver, State};
use super::work::Work;
use crate::memory::{AllocError, Kind};

/// An allocation as the API knows it.
#[derive(Debug, Clone, Copy)]
pub struct Allocation {
    pub context: Handle,
    pub device: usize,
    pub size: u64,
    pub kind: Kind,
    /// Flags of host memory.
    pub flags: u32,
    pub pool: Option<Handle>,
    /// The program's own memory, registered.
    pub is_registered: bool,
    /// Made by a graph: it stays until the graph is gone; `true` once it was freed.
    pub graph: Option<bool>,
}

impl Allocation {
    /// Its address is the host's.
    pub fn is_host(&self) -> bool {
        matches!(self.kind, Kind::Pinned | Kind::Managed)
    }
}

impl State {
    /// The allocation that an address is in.
    pub fn allocation(&self, address: u64) -> Option<&Allocation> {
        self.containing(address).map(|(_, allocation)| allocation)
    }

    /// With its first address.
    pub fn containing(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (&base, allocation) = self.allocations.range(..=address).next_back()?;
        (address - base < allocation.size).then_some((base, allocation))
    }
}

impl Call {
    /// # Errors
    /// The size is 0, or there is no room.
    pub fn allocate(&self, bytes: u64, kind: Kind, flags: u32) -> Result<u64> {
        self.refuse_unsafe()?;
        self.allocate_from(bytes, kind, flags, None)
    }

    fn allocate_from(
        &self,
        bytes: u64,
        kind: Kind,
        flags: u32,
        pool: Option<Handle>,
    ) -> Result<u64> {
        if bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        self.driver.faults.count(Operation::Alloc)?;
        let memory = &self.device().memory;
        let limit = self.driver.faults.memory_limit();
        if kind != Kind::Pinned && memory.usage().used.saturating_add(bytes) > limit {
            return Err(Error::OUT_OF_MEMORY);
        }
        let address = memory.alloc(bytes, kind).map_err(|error| match error {
            AllocError::OutOfMemory { .. } => Error::OUT_OF_MEMORY,
            AllocError::Empty => Error::INVALID_VALUE,
        })?;
        let allocation = Allocation {
            context: self.context,
            device: self.device,
            size: bytes,
            kind,
            flags,
            pool,
            is_registered: false,
            graph: None,
        };
        if allocation.is_host() {
            self.share(address, bytes)?;
        }
        let mut state = self.state();
        if let Some(pool) = pool
            && let Err(error) = state.pool(pool).and_then(|pool| pool.take(bytes))
        {
            drop(state);
            memory.free(address).map_err(|_| Error::UNKNOWN)?;
            return Err(error);
        }
        state.allocations.insert(address, allocation);
        Ok(address)
    }

    /// The other devices reach host memory, too.
    fn share(&self, address: u64, bytes: u64) -> Result {
        let start = NonNull::new(address as *mut u8).ok_or(Error::INVALID_VALUE)?;
        for device in self.driver.devices.iter().filter(|device| device.ordinal != self.device) {
            ffi::register(device, start, bytes as usize)?;
        }
        Ok(())
    }

    /// Rows at multiples of the pitch: the address and the pitch.
    pub fn allocate_pitch(
        &self,
        width: usize,
        height: usize,
        element: u32,
    ) -> Result<(u64, usize)> {
        if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
            return Err(Error::INVALID_VALUE);
        }
        let pitch = width.checked_next_multiple_of(PITCH).ok_or(Error::INVALID_VALUE)?;
        let bytes = pitch.checked_mul(height).ok_or(Error::OUT_OF_MEMORY)?;
        Ok((self.allocate(bytes as u64, Kind::Device, 0)?, pitch))
    }

    /// `cuMemAllocAsync`: from a pool, in the order of a stream. Nothing is the null pointer.
    pub fn allocate_async(&self, bytes: u64, pool: Option<Handle>, stream: Handle) -> Result<u64> {
        if bytes == 0 {
            return Ok(0);
        }
        let stream = self.target(stream)?;
        let (pool, capture) = {
            let mut state = self.state();
            let pool = pool.unwrap_or(state.primaries[self.device].pool);
            if state.pool(pool)?.device != self.device {
                return Err(Error::INVALID_VALUE);
            }
            (pool, state.stream(stream)?.capture)
        };
        let address = self.allocate_from(bytes, Kind::Device, 0, Some(pool))?;
        if let Some(capture) = capture {
            let mut state = self.state();
            if let Some(allocation) = state.allocations.get_mut(&address) {
                allocation.graph = Some(false);
            }
            state.capture_work(capture, stream, Work::Allocate { address })?;
        }
        Ok(address)
    }

    /// `cuMemFree`: the null pointer is nothing.
    pub fn free(&self, address: u64) -> Result {
        if address == 0 {
            return Ok(());
        }
        self.refuse_unsafe()?;
        self.free_if(address, |allocation| allocation.kind != Kind::Pinned)
    }

    pub fn free_async(&self, address: u64, stream: Handle) -> Result {
        if address == 0 {
            return Ok(());
        }
        let stream = self.target(stream)?;
        {
            let mut state = self.state();
            if let Some(capture) = state.stream(stream)?.capture {
                let allocation = state.allocations.get_mut(&address).ok_or(Error::INVALID_VALUE)?;
                // A graph frees only what a graph allocated.
                *allocation.graph.as_mut().ok_or(Error::INVALID_VALUE)? = true;
                return state.capture_work(capture, stream, Work::Free { address }).map(drop);
            }
        }
        self.free_if(address, |allocation| allocation.kind == Kind::Device)
    }

    pub fn free_host(&self, address: u64) -> Result {
        if address == 0 {
            return Ok(());
        }
        self.free_if(address, |allocation| {
            allocation.kind == Kind::Pinned && !allocation.is_registered
        })
    }

    /// Frees an allocation by its first address if it is of the right kind; a wrong one is reported.
    fn free_if(&self, address: u64, is_right: impl FnOnce(&Allocation) -> bool) -> Result {
        let mut state = self.state();
        match state.allocations.get_mut(&address) {
            Some(allocation) if is_right(allocation) => {
                if let Some(is_freed) = &mut allocation.graph {
                    *is_freed = true;
                    drop(state);
                    return self.driver.sweep();
                }
                drop(state);
                release(self.driver, address)
            }
            _ => {
                drop(state);
                let memory = &self.device().memory;
                let why = match memory.lookup(address) {
                    Some(info) => format!(
                        "it is in an allocation of {} bytes at {:#x}, which is not this call's to free",
                        info.size, info.address
                    ),
                    // Nothing is there: the device's memory knows whether something was.
                    None => memory
                        .free(address)
                        .map_or_else(|error| error.to_string(), |()| String::new()),
                };
                self.driver.record.note(&format!("{address:#x} cannot be freed: {why}"));
                Err(Error::INVALID_VALUE)
            }
        }
    }

    pub fn register_host(&self, start: u64, bytes: usize, flags: u32) -> Result {
        let pointer = NonNull::new(start as *mut u8).ok_or(Error::INVALID_VALUE)?;
        if bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        let overlaps = {
            let state = self.state();
            let end = start.checked_add(bytes as u64).ok_or(Error::INVALID_VALUE)?;
            let before = state.allocations.range(..end).next_back();
            before.is_some_and(|(&base, allocation)| base + allocation.size > start)
        };
        if overlaps {
            return Err(Error::HOST_MEMORY_ALREADY_REGISTERED);
        }
        for device in &self.driver.devices {
            ffi::register(device, pointer, bytes)?;
        }
        let allocation = Allocation {
            context: self.context,
            device: self.device,
            size: bytes as u64,
            kind: Kind::Pinned,
            flags,
            pool: None,
            is_registered: true,
            graph: None,
        };
        self.state().allocations.insert(start, allocation);
        Ok(())
    }

    pub fn unregister_host(&self, start: u64) -> Result {
        match self.state().allocations.get(&start) {
            Some(allocation) if allocation.is_registered => {}
            _ => return Err(Error::HOST_MEMORY_NOT_REGISTERED),
        }
        release(self.driver, start)
    }

    /// The device address of host memory, which is the same, and its flags.
    pub fn host_pointer(&self, address: u64) -> Result<(u64, u32)> {
        let state = self.state();
        match state.allocation(address) {
            Some(allocation) if allocation.kind == Kind::Pinned => Ok((address, allocation.flags)),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    /// First address and size of the allocation that an address is in.
    pub fn range_of(&self, address: u64) -> Result<(u64, u64)> {
        let state = self.state();
        if let Some((base, allocation)) = state.containing(address) {
            return Ok((base, allocation.size));
        }
        // A variable of a module.
        let found = self.driver.devices.iter().find_map(|device| device.memory.lookup(address));
        found.map(|info| (info.address, info.size)).ok_or(Error::NOT_FOUND)
    }
}

/// Takes an allocation out of the state and out of every device.
pub fn release(driver: &Driver, address: u64) -> Result {
    let allocation = {
        let mut state = driver.state();
        let allocation = state.allocations.remove(&address).ok_or(Error::INVALID_VALUE)?;
        if let Some(pool) = allocation.pool
            && let Ok(pool) = state.pool(pool)
        {
            pool.give(allocation.size);
        }
        allocation
    };
    for device in &driver.devices {
        // Host memory is known to all devices, and is freed by its own last.
        if allocation.is_host() && device.ordinal != allocation.device {
            device.memory.unregister_host(address).map_err(|_| Error::UNKNOWN)?;
        }
    }
    driver.devices[allocation.device].memory.free(address).map_err(|_| Error::UNKNOWN)
}

/// What `cuPointerGetAttribute` gives.
#[derive(Debug, Clone, Copy)]
pub enum Attribute {
    Word(u32),
    Long(u64),
}

impl Call {
    /// A value of `CUpointer_attribute`.
    ///
    /// # Errors
    /// The pointer is not one of the driver's.
    pub fn pointer_attribute(&self, address: u64, attribute: u32) -> Result<Attribute> {
        use Attribute::{Long, Word};
        let state = self.state();
        let (base, found) = match state.containing(address) {
            Some((base, found)) => (base, *found),
            None => {
                let info = |device: &std::sync::Arc<super::state::Device>| {
                    device.memory.lookup(address).map(|info| (device.ordinal, info))
                };
                let (device, info) =
                    self.driver.devices.iter().find_map(info).ok_or(Error::INVALID_VALUE)?;
                let variable = Allocation {
                    context: self.context,
                    device,
                    size: info.size,
                    kind: info.kind,
                    flags: 0,
                    pool: None,
                    is_registered: false,
                    graph: None,
                };
                (info.address, variable)
            }
        };
        let is_managed = found.kind == Kind::Managed;
        Ok(match attribute {
            1 => Long(found.context),
            // Host is 1, device 2.
            2 => Word(if found.kind == Kind::Pinned { 1 } else { 2 }),
            3 => Long(address),
            4 if found.is_host() => Long(address),
            6 | 10 | 15 => Word(0),
            7 | 20 => Long(base),
            8 => Word(u32::from(is_managed)),
            9 => Word(found.device as u32),
            11 | 19 => Long(base),
            12 | 18 => Long(found.size),
            13 => Word(1),
            14 => Long(0),
            // Read and write.
            16 => Word(3),
            17 => Long(found.pool.unwrap_or(0)),
            _ => return Err(Error::INVALID_VALUE),
        })
    }
}
