//! Copies and memsets: up to three dimensions, between the host and any devices.

use super::abi::{Handle, Host, Memcpy2D, Memcpy3D, Raw};
use super::error::{Error, Result};
use super::lock;
use super::state::{Call, Device};
use super::work::Work;
use crate::memory::Violation;
use crate::report::Report;

/// One end of a copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Side {
    pub place: Place,
    /// Bytes from one row to the next, and from one layer to the next.
    pub pitch: u64,
    pub layer: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    Host(Host),
    Device { device: usize, address: u64 },
}

impl Place {
    fn plus(self, offset: u64) -> Place {
        match self {
            Place::Host(host) => {
                Place::Host(Host::new(Raw::at(host.address().wrapping_add(offset))))
            }
            Place::Device { device, address } => {
                Place::Device { device, address: address.wrapping_add(offset) }
            }
        }
    }
}

/// `width` bytes by `height` rows by `depth` layers.
#[derive(Debug, Clone, Copy)]
pub struct Copy {
    pub to: Side,
    pub from: Side,
    pub width: u64,
    pub height: u64,
    pub depth: u64,
}

impl Copy {
    /// One row.
    pub fn linear(to: Place, from: Place, bytes: u64) -> Copy {
        let side = |place| Side { place, pitch: bytes, layer: bytes };
        Copy { to: side(to), from: side(from), width: bytes, height: 1, depth: 1 }
    }

    pub fn bytes(&self) -> u64 {
        self.width.saturating_mul(self.height).saturating_mul(self.depth)
    }

    /// Rows lie behind each other without gaps at both ends.
    fn is_dense(&self) -> bool {
        let dense = |side: &Side| {
            (self.height == 1 || side.pitch == self.width)
                && (self.depth == 1 || side.layer == self.width * self.height)
        };
        dense(&self.to) && dense(&self.from)
    }
}

/// `width` elements of `size` bytes by `height` rows.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    pub device: usize,
    pub address: u64,
    pub pitch: u64,
    pub value: u32,
    /// 1, 2 or 4.
    pub size: u32,
    pub width: u64,
    pub height: u64,
}

impl Fill {
    pub fn bytes(&self) -> u64 {
        self.width.saturating_mul(self.height).saturating_mul(u64::from(self.size))
    }
}

/// `CUmemorytype`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

impl Call {
    /// A device address: of the device whose allocation it is in, else of this one.
    pub fn device_place(&self, address: u64) -> Place {
        let state = self.state();
        let device = state.allocation(address).filter(|found| !found.is_host());
        Place::Device { device: device.map_or(self.device, |found| found.device), address }
    }

    /// An address that may be the host's.
    pub fn any_place(&self, address: u64) -> Place {
        let is_ours = self.state().allocation(address).is_some()
            || self.driver.devices.iter().any(|device| device.memory.lookup(address).is_some());
        match is_ours || is_device_range(address) {
            true => self.device_place(address),
            false => Place::Host(Host::new(Raw::at(address))),
        }
    }

    /// Copies, and waits for it.
    pub fn copy_now(&self, copy: Copy) -> Result {
        self.refuse_unsafe()?;
        self.enqueue(0, Work::Copy(copy))
    }

    pub fn copy_2d(&self, copy: &Memcpy2D) -> Result<Copy> {
        self.copy_3d(&Memcpy3D {
            src_x: copy.src_x,
            src_y: copy.src_y,
            src_z: 0,
            src_lod: 0,
            src_type: copy.src_type,
            src_host: copy.src_host,
            src_device: copy.src_device,
            src_array: copy.src_array,
            src_context: 0,
            src_pitch: copy.src_pitch,
            src_height: copy.height,
            dst_x: copy.dst_x,
            dst_y: copy.dst_y,
            dst_z: 0,
            dst_lod: 0,
            dst_type: copy.dst_type,
            dst_host: copy.dst_host,
            dst_device: copy.dst_device,
            dst_array: copy.dst_array,
            dst_context: 0,
            dst_pitch: copy.dst_pitch,
            dst_height: copy.height,
            width: copy.width,
            height: copy.height,
            depth: 1,
        })
    }

    /// # Errors
    /// A pitch is too small. Arrays are not supported.
    pub fn copy_3d(&self, copy: &Memcpy3D) -> Result<Copy> {
        let c = copy;
        let is_deep = c.depth > 1;
        let side = |kind, host, device, pitch: usize, rows: usize, at: [usize; 3]| {
            let place = match kind {
                HOST => Place::Host(Host::new(host)),
                DEVICE => self.device_place(device),
                UNIFIED => self.any_place(device),
                _ => return Err(Error::NOT_SUPPORTED),
            };
            let (pitch, rows) =
                (if pitch == 0 { c.width } else { pitch }, if rows == 0 { c.height } else { rows });
            let is_short = pitch < at[0].saturating_add(c.width) && (c.height > 1 || is_deep);
            if is_short || (is_deep && rows < c.height) {
                return Err(Error::INVALID_VALUE);
            }
            let layer = pitch.checked_mul(rows).ok_or(Error::INVALID_VALUE)?;
            let [x, y, z] = at;
            let offset = y
                .checked_mul(pitch)
                .and_then(|rows| z.checked_mul(layer)?.checked_add(rows)?.checked_add(x))
                .ok_or(Error::INVALID_VALUE)?;
            Ok(Side { place: place.plus(offset as u64), pitch: pitch as u64, layer: layer as u64 })
        };
        let from = side(
            c.src_type,
            c.src_host,
            c.src_device,
            c.src_pitch,
            c.src_height,
            [c.src_x, c.src_y, c.src_z],
        )?;
        let to = side(
            c.dst_type,
            c.dst_host,
            c.dst_device,
            c.dst_pitch,
            c.dst_height,
            [c.dst_x, c.dst_y, c.dst_z],
        )?;
        let (width, height, depth) = (c.width as u64, c.height as u64, c.depth as u64);
        Ok(Copy { to, from, width, height, depth })
    }

    /// Executes a copy; its nanoseconds.
    pub fn copy(&self, copy: &Copy) -> Result<u64> {
        let bytes = copy.bytes();
        if bytes == 0 {
            return Ok(0);
        }
        let null = |side: &Side| match side.place {
            Place::Host(host) => host.address() == 0,
            Place::Device { address, .. } => address == 0,
        };
        if null(&copy.to) || null(&copy.from) || bytes > isize::MAX as u64 {
            return Err(Error::INVALID_VALUE);
        }
        let _busy = lock(&self.device().busy);
        if copy.is_dense() {
            self.row(copy.to.place, copy.from.place, bytes)?;
        } else {
            for layer in 0..copy.depth {
                for row in 0..copy.height {
                    let at = |side: &Side| side.place.plus(layer * side.layer + row * side.pitch);
                    self.row(at(&copy.to), at(&copy.from), copy.width)?;
                }
            }
        }
        Ok(match (copy.to.place, copy.from.place) {
            (Place::Device { .. }, Place::Device { .. }) => self.dram(2 * bytes),
            // 25 GB/s, a PCIe 4 link of 16 lanes.
            _ => bytes / 25,
        })
    }

    fn row(&self, to: Place, from: Place, bytes: u64) -> Result {
        let memory = |device: usize| &self.driver.devices[device].memory;
        let count = bytes as usize;
        let done = match (to, from) {
            (Place::Host(to), Place::Host(from)) => {
                from.copy_to(to, count);
                Ok(())
            }
            (Place::Device { device, address }, Place::Host(from)) => {
                from.with_bytes(count, |bytes| memory(device).write(address, bytes))
            }
            (Place::Host(to), Place::Device { device, address }) => {
                to.with_bytes_mut(count, |bytes| memory(device).read(address, bytes))
            }
            (
                Place::Device { device, address },
                Place::Device { device: source, address: start },
            ) => {
                if device == source {
                    memory(device).copy(address, start, bytes)
                } else if bytes > memory(source).usage().total {
                    return Err(Error::INVALID_VALUE);
                } else {
                    let mut buffer = vec![0; count];
                    let read = memory(source).read(start, &mut buffer);
                    read.and_then(|()| memory(device).write(address, &buffer))
                }
            }
        };
        done.map_err(|violation| self.refuse("a copy", violation))
    }

    /// A memset of this device, or of the one whose memory it is.
    pub fn fill_of(
        &self,
        address: u64,
        pitch: u64,
        value: u32,
        size: u32,
        width: u64,
        height: u64,
    ) -> Result<Fill> {
        let row = width.checked_mul(u64::from(size)).ok_or(Error::INVALID_VALUE)?;
        let is_aligned = address.is_multiple_of(u64::from(size))
            && (height <= 1 || pitch.is_multiple_of(u64::from(size)));
        if !matches!(size, 1 | 2 | 4) || !is_aligned || (height > 1 && pitch < row) {
            return Err(Error::INVALID_VALUE);
        }
        let device = match self.device_place(address) {
            Place::Device { device, .. } => device,
            Place::Host(_) => self.device,
        };
        Ok(Fill { device, address, pitch, value, size, width, height })
    }

    /// Executes a memset; its nanoseconds.
    pub fn fill(&self, fill: &Fill) -> Result<u64> {
        let pattern = &fill.value.to_le_bytes()[..fill.size as usize];
        let device: &Device = &self.driver.devices[fill.device];
        let _busy = lock(&self.device().busy);
        for row in 0..fill.height {
            let address = fill.address.wrapping_add(row * fill.pitch);
            let filled = device.memory.fill(address, pattern, fill.width);
            filled.map_err(|violation| self.refuse("a memset", violation))?;
        }
        Ok(self.dram(fill.width * u64::from(fill.size) * fill.height))
    }

    /// Nanoseconds of DRAM traffic.
    pub fn dram(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(1000) / self.device().arch.bandwidth()
    }

    /// Reports what is wrong with a copy. The driver checks the ranges of copies when they are enqueued.
    fn refuse(&self, what: &str, violation: Violation) -> Error {
        self.driver.record.report(&Report {
            check: violation.kind.into(),
            kernel: what.to_owned(),
            block: [0; 3],
            thread: [0; 3],
            line: 0,
            instruction: String::new(),
            address: Some(violation.address),
            what: violation.what,
        });
        Error::INVALID_VALUE
    }

    /// `cuMemcpy*Peer`: a device address of a context.
    pub fn peer_place(&self, context: Handle, address: u64) -> Result<Place> {
        let device = self.state().context(context)?.device;
        Ok(Place::Device { device, address })
    }
}

/// Where devices have their memory, used or not.
fn is_device_range(address: u64) -> bool {
    (0x0200_0000_0000..0x0b00_0000_0000).contains(&address)
}
