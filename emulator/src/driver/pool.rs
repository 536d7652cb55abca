//! Memory pools of stream-ordered allocation.
//!
//! Memory goes back to the device when it is freed. What a pool would hold back is only counted: `reserved` falls to the
//! release threshold when the pool's device is waited for.

use super::abi::Handle;
use super::error::{Error, Result};
use super::state::{Driver, State};

/// A pool.
#[derive(Debug)]
pub struct Pool {
    pub device: usize,
    pub is_default: bool,
    /// Bytes; 0 is without limit.
    pub max_size: u64,
    used: Level,
    reserved: Level,
    threshold: u64,
    /// `REUSE_FOLLOW_EVENT_DEPENDENCIES`, `_ALLOW_OPPORTUNISTIC`, `_ALLOW_INTERNAL_DEPENDENCIES`.
    reuse: [u32; 3],
}

/// Bytes now, and the most there were.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    current: u64,
    high: u64,
}

impl Level {
    fn set(&mut self, bytes: u64) {
        self.current = bytes;
        self.high = self.high.max(bytes);
    }
}

/// A pool attribute is 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Word(u32),
    Long(u64),
}

/// Physical memory is taken in pieces of this size.
const GRANULE: u64 = 2 << 20;

impl Pool {
    pub fn new(device: usize, is_default: bool, max_size: u64) -> Pool {
        let (used, reserved) = (Level::default(), Level::default());
        Pool { device, is_default, max_size, used, reserved, threshold: 0, reuse: [1; 3] }
    }

    /// Counts an allocation.
    ///
    /// # Errors
    /// The pool has no room for it.
    pub fn take(&mut self, bytes: u64) -> Result {
        let used = self.used.current.saturating_add(bytes);
        if self.max_size > 0 && used > self.max_size {
            return Err(Error::OUT_OF_MEMORY);
        }
        self.used.set(used);
        self.reserved.set(self.reserved.current.max(used.next_multiple_of(GRANULE)));
        Ok(())
    }

    pub fn give(&mut self, bytes: u64) {
        self.used.current = self.used.current.saturating_sub(bytes);
    }

    /// Releases what is not used down to `keep` bytes.
    pub fn trim(&mut self, keep: u64) {
        let least = self.used.current.next_multiple_of(GRANULE).max(keep);
        self.reserved.current = self.reserved.current.min(least);
    }

    /// `CUmemPool_attribute`.
    pub fn attribute(&self, attribute: u32) -> Result<Value> {
        Ok(match attribute {
            1..=3 => Value::Word(self.reuse[attribute as usize - 1]),
            4 => Value::Long(self.threshold),
            5 => Value::Long(self.reserved.current),
            6 => Value::Long(self.reserved.high),
            7 => Value::Long(self.used.current),
            8 => Value::Long(self.used.high),
            // ALLOCATION_TYPE is pinned; EXPORT_HANDLE_TYPES none; LOCATION_ID and, on a device, LOCATION_TYPE.
            9 => Value::Word(1),
            10 => Value::Word(0),
            11 => Value::Word(self.device as u32),
            12 => Value::Word(1),
            13 => Value::Long(self.max_size),
            14 => Value::Word(0),
            _ => return Err(Error::INVALID_VALUE),
        })
    }

    /// Whether an attribute is set by 64 bits, as of those that can be set.
    pub fn is_long(attribute: u32) -> bool {
        matches!(attribute, 4 | 6 | 8)
    }

    pub fn set_attribute(&mut self, attribute: u32, value: u64) -> Result {
        match attribute {
            1..=3 => self.reuse[attribute as usize - 1] = u32::from(value != 0),
            4 => self.threshold = value,
            // The highest levels can only be reset.
            6 if value == 0 => self.reserved.high = self.reserved.current,
            8 if value == 0 => self.used.high = self.used.current,
            _ => return Err(Error::INVALID_VALUE),
        }
        Ok(())
    }
}

impl State {
    pub fn pool(&mut self, pool: Handle) -> Result<&mut Pool> {
        self.pools.get_mut(&pool).ok_or(Error::INVALID_VALUE)
    }

    /// Pools release what is above their threshold.
    pub fn trim_pools(&mut self, device: usize) {
        for pool in self.pools.values_mut().filter(|pool| pool.device == device) {
            pool.trim(pool.threshold);
        }
    }
}

impl Driver {
    pub fn destroy_pool(&self, pool: Handle) -> Result {
        let mut state = self.state();
        if state.pool(pool)?.is_default {
            return Err(Error::INVALID_VALUE);
        }
        state.pools.remove(&pool);
        // A device whose pool it was falls back to its default.
        for primary in &mut state.primaries {
            if primary.pool == pool {
                primary.pool = primary.default_pool;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let mut pool = Pool::new(0, false, 8 << 20);
        pool.take(3 << 20).unwrap();
        pool.take(1 << 20).unwrap();
        pool.give(3 << 20);
        assert_eq!(pool.attribute(7), Ok(Value::Long(1 << 20)));
        assert_eq!(pool.attribute(8), Ok(Value::Long(4 << 20)));
        assert_eq!(pool.attribute(5), Ok(Value::Long(4 << 20)));
        pool.trim(0);
        assert_eq!(pool.attribute(5), Ok(Value::Long(2 << 20)));
        assert_eq!(pool.attribute(6), Ok(Value::Long(4 << 20)));
        pool.set_attribute(6, 0).unwrap();
        assert_eq!(pool.attribute(6), Ok(Value::Long(2 << 20)));
        assert_eq!(pool.take(8 << 20), Err(Error::OUT_OF_MEMORY));
        assert_eq!(pool.set_attribute(7, 0), Err(Error::INVALID_VALUE));
    }
}
