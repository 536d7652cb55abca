//! Faults on demand: calls that fail because a test asked for it.
//!
//! `PTX_EMULATOR_FAULTS` is a list, separated by commas:
//!
//! | item | meaning |
//! | --- | --- |
//! | `alloc:3=2` | the third allocation fails with error 2 |
//! | `launch:1+=out-of-memory` | so does every launch from the first on |
//! | `lost@7` | from the seventh call on, the device is lost: every call fails with error 999 |
//! | `lost@7=46` | the same with another error |
//! | `memory-limit=64MiB` | allocations that would exceed the limit of a device fail with error 2 |
//!
//! What is counted is one of `alloc`, `copy` (memset included), `launch`, `sync`, `module` and `call` (every driver call).
//! Errors are numbers or names. An error that hardware finds while a kernel runs (700, 719 and their like) does not fail a
//! launch or a copy: it fails the next call that waits, and every call after it, as on hardware.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::config;
use super::error::{Error, Result};
use super::lock;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    Alloc,
    Copy,
    Launch,
    Sync,
    Module,
    Call,
}

const OPERATIONS: [(&str, Operation); 6] = [
    ("alloc", Operation::Alloc),
    ("copy", Operation::Copy),
    ("launch", Operation::Launch),
    ("sync", Operation::Sync),
    ("module", Operation::Module),
    ("call", Operation::Call),
];

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The `nth` operation from now (from 1) fails, and with `stays` all after it.
    Nth { operation: Operation, nth: u64, error: u32, stays: bool },
    /// From the `nth` call from now on, the device is lost.
    Lost { nth: u64, error: u32 },
    /// Bytes that can be allocated on a device.
    MemoryLimit { bytes: u64 },
}

impl Fault {
    /// The `nth` operation from now, counted from 1, fails with this `CUresult`.
    pub fn nth(operation: Operation, nth: u64, error: u32) -> Fault {
        Fault::Nth { operation, nth, error, stays: false }
    }

    /// Reads a list of faults.
    ///
    /// # Errors
    /// The first item that cannot be read.
    pub fn list(text: &str) -> std::result::Result<Vec<Fault>, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| Fault::item(item).ok_or_else(|| format!("{item}?"))).collect()
    }

    fn item(item: &str) -> Option<Fault> {
        if let Some(size) = item.strip_prefix("memory-limit=") {
            return Some(Fault::MemoryLimit { bytes: config::bytes(size)? });
        }
        if let Some(rest) = item.strip_prefix("lost@") {
            let (nth, error) = match rest.split_once('=') {
                Some((nth, error)) => (nth, Error::parse(error)?),
                None => (rest, Error::UNKNOWN),
            };
            let nth = nth.parse().ok().filter(|&nth| nth > 0)?;
            return Some(Fault::Lost { nth, error: error.0 });
        }
        let (what, error) = item.split_once('=')?;
        let (name, nth) = what.split_once(':')?;
        let (_, operation) = OPERATIONS.into_iter().find(|(known, _)| *known == name)?;
        let (nth, stays) = match nth.strip_suffix('+') {
            Some(nth) => (nth, true),
            None => (nth, false),
        };
        let nth = nth.parse().ok().filter(|&nth| nth > 0)?;
        Some(Fault::Nth { operation, nth, error: Error::parse(error)?.0, stays })
    }
}

/// The faults that are set.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub fn new(faults: Vec<Fault>) -> Faults {
        Faults(Mutex::new(faults))
    }

    pub fn set(&self, fault: Fault) {
        lock(&self.0).push(fault);
    }

    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Counts an operation; its error, if it is the one to fail.
    ///
    /// # Errors
    /// It is.
    pub fn count(&self, operation: Operation) -> Result {
        let mut faults = lock(&self.0);
        let mut result = Ok(());
        faults.retain_mut(|fault| {
            let (counts, nth, error, stays) = match fault {
                Fault::Nth { operation: counted, nth, error, stays } => {
                    (*counted == operation, nth, *error, *stays)
                }
                Fault::Lost { nth, error } => (operation == Operation::Call, nth, *error, true),
                Fault::MemoryLimit { .. } => return true,
            };
            if !counts {
                return true;
            }
            *nth = nth.saturating_sub(1);
            if *nth > 0 {
                return true;
            }
            if result.is_ok() {
                result = Err(Error(error));
            }
            stays
        });
        result
    }

    /// The least of the memory limits.
    pub fn memory_limit(&self) -> u64 {
        let limit = |fault: &Fault| match fault {
            Fault::MemoryLimit { bytes } => Some(*bytes),
            _ => None,
        };
        lock(&self.0).iter().filter_map(limit).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists() {
        let faults =
            Fault::list("alloc:3=2, launch:1+=illegal-address,lost@7,lost@9=46,memory-limit=1k");
        assert_eq!(
            faults.unwrap(),
            [
                Fault::nth(Operation::Alloc, 3, 2),
                Fault::Nth { operation: Operation::Launch, nth: 1, error: 700, stays: true },
                Fault::Lost { nth: 7, error: 999 },
                Fault::Lost { nth: 9, error: 46 },
                Fault::MemoryLimit { bytes: 1024 },
            ]
        );
        for bad in
            ["alloc", "alloc:0=2", "alloc:1=0", "alloc:1=nothing", "paint:1=2", "lost@", "lost@0"]
        {
            assert_eq!(Fault::list(bad), Err(format!("{bad}?")));
        }
    }

    #[test]
    fn the_nth_fails_once() {
        let faults = Faults::new(Fault::list("copy:2=1,copy:4+=3").unwrap());
        let codes: Vec<u32> =
            (0..6).map(|_| faults.count(Operation::Copy).map_or_else(|e| e.0, |()| 0)).collect();
        assert_eq!(codes, [0, 1, 0, 3, 3, 3]);
        assert_eq!(faults.count(Operation::Alloc), Ok(()));
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let faults = Faults::new(Fault::list("lost@2").unwrap());
        let codes: Vec<u32> =
            (0..4).map(|_| faults.count(Operation::Call).map_or_else(|e| e.0, |()| 0)).collect();
        assert_eq!(codes, [0, 999, 999, 999]);
        faults.clear();
        assert_eq!(faults.count(Operation::Call), Ok(()));
    }
}
