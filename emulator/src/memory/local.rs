//! Local memory: each thread's own.

use super::{Checks, Data, Request, Violation, ViolationKind};

/// The local memory of a block's threads.
#[derive(Debug)]
pub struct Local {
    bytes: Vec<u8>,
    written: Vec<bool>,
    each: usize,
    checks: Checks,
}

impl Local {
    pub fn new(checks: Checks) -> Local {
        Local { bytes: Vec::new(), written: Vec::new(), each: 0, checks }
    }

    /// Uninitialised memory for a block.
    pub fn reset(&mut self, bytes_each: u32, threads: u32) {
        self.each = bytes_each as usize;
        let all = self.each * threads.next_multiple_of(32) as usize;
        self.bytes.clear();
        self.bytes.resize(all, 0);
        self.written.clear();
        self.written.resize(all, false);
    }

    /// Where a lane's bytes are.
    fn range(&self, r: &Request, lane: usize) -> Result<std::ops::Range<usize>, Violation> {
        let (address, bytes) = (r.addresses[lane], u64::from(r.bytes));
        let violation =
            |kind, what| Violation { kind, lane: lane as u32, address, bytes: r.bytes, what };
        if address.checked_add(bytes).is_none_or(|end| end > self.each as u64) {
            let what =
                format!("{bytes} bytes at {address:#x} of {} bytes of local memory", self.each);
            return Err(violation(ViolationKind::OutOfBounds, what));
        }
        if address & (bytes - 1) != 0 {
            let what = format!(
                "{bytes} bytes at local address {address:#x}, which is no multiple of {bytes}"
            );
            return Err(violation(ViolationKind::Misaligned, what));
        }
        let start = (r.who.warp as usize * 32 + lane) * self.each + address as usize;
        Ok(start..start + r.bytes as usize)
    }

    /// Loads each lane's bytes into `out`.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn load(&self, r: &Request, out: &mut Data) -> Result<(), Violation> {
        for lane in (0..32).filter(|lane| r.mask >> lane & 1 == 1) {
            let range = self.range(r, lane)?;
            if self.checks.uninitialized && self.written[range.clone()].contains(&false) {
                let address = r.addresses[lane];
                let what = format!(
                    "{} bytes at local address {address:#x}: not all were written",
                    r.bytes
                );
                let kind = ViolationKind::Uninitialized;
                return Err(Violation { kind, lane: lane as u32, address, bytes: r.bytes, what });
            }
            out[lane] =
                self.bytes[range].iter().rev().fold(0, |bits, &byte| bits << 8 | u128::from(byte));
        }
        Ok(())
    }

    /// Stores each lane's bytes of `data`.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn store(&mut self, r: &Request, data: &Data) -> Result<(), Violation> {
        for lane in (0..32).filter(|lane| r.mask >> lane & 1 == 1) {
            let range = self.range(r, lane)?;
            self.bytes[range.clone()]
                .copy_from_slice(&data[lane].to_le_bytes()[..r.bytes as usize]);
            self.written[range].fill(true);
        }
        Ok(())
    }
}
