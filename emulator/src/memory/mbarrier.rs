//! Mbarriers: objects in shared memory that count arrivals and bytes, phase after phase.

use super::knowledge::Knowledge;

/// The most arrivals of a phase, and the most bytes that may be pending.
pub const MOST: u32 = (1 << 20) - 1;

/// One mbarrier.
#[derive(Debug, Clone)]
struct Mbarrier {
    address: u64,
    is_alive: bool,
    /// Arrivals of each phase, and those that the current one lacks.
    expected: u32,
    pending: u32,
    /// Bytes that are announced and not yet there; below zero while more came than was announced.
    bytes: i64,
    /// Phases that are over.
    phase: u32,
    /// What those knew who arrived in the current phase, and in those that are over.
    arriving: Knowledge,
    over: Knowledge,
}

/// The mbarriers of a block.
#[derive(Debug, Default)]
pub struct Mbarriers {
    list: Vec<Mbarrier>,
    /// Where the last one asked for is.
    last: usize,
    /// Blocks of the cluster, and the rank of this one.
    blocks: usize,
    rank: usize,
    /// How often a phase ended.
    pub ended: u64,
    /// How often anything changed.
    pub changes: u64,
}

type Result<T> = std::result::Result<T, String>;

impl Mbarriers {
    pub fn reset(&mut self, blocks: usize, rank: usize) {
        self.list.clear();
        (self.blocks, self.rank) = (blocks, rank);
    }

    fn position(&mut self, address: u64) -> Option<usize> {
        if self.list.get(self.last).is_none_or(|found| found.address != address) {
            self.last = self.list.iter().position(|found| found.address == address)?;
        }
        Some(self.last)
    }

    fn at(&mut self, address: u64) -> Result<usize> {
        let found = self.position(address).filter(|&index| self.list[index].is_alive);
        found.ok_or_else(|| format!("there is no mbarrier at shared address {address:#x}"))
    }

    pub fn init(&mut self, address: u64, count: u32) -> Result<()> {
        if !(1..=MOST).contains(&count) {
            return Err(format!("an mbarrier of {count} arrivals: 1 to {MOST} are possible"));
        }
        self.changes += 1;
        let none = Knowledge::of(self.blocks);
        let mut made = Mbarrier {
            address,
            is_alive: true,
            expected: count,
            pending: count,
            bytes: 0,
            phase: 0,
            arriving: none.clone(),
            over: none,
        };
        match self.position(address) {
            None => self.list.push(made),
            Some(index) => {
                // The first phase of the new one has the parity 0, and none of the old one's comes again.
                made.phase = (self.list[index].phase + 1).next_multiple_of(2);
                self.list[index] = made;
            }
        }
        Ok(())
    }

    pub fn invalidate(&mut self, address: u64) -> Result<()> {
        let index = self.at(address)?;
        self.list[index].is_alive = false;
        Ok(())
    }

    /// Arrivals, with bytes announced before them; the phase that they are of.
    pub fn arrive(
        &mut self,
        address: u64,
        count: u32,
        bytes: Option<u32>,
        told: Option<&Knowledge>,
        drops: bool,
    ) -> Result<u32> {
        let index = self.at(address)?;
        if let Some(bytes) = bytes {
            self.expect(index, bytes)?;
        }
        let barrier = &mut self.list[index];
        let phase = barrier.phase;
        if count == 0 || count > barrier.pending {
            return Err(format!(
                "{count} arrivals at the mbarrier at shared address {address:#x}, whose phase lacks {} of {}",
                barrier.pending, barrier.expected
            ));
        }
        barrier.pending -= count;
        if drops {
            barrier.expected -= count;
        }
        if let Some(told) = told {
            barrier.arriving.join(told);
        }
        self.changes += 1;
        self.settle(index);
        Ok(phase)
    }

    /// Announces bytes.
    pub fn expect_bytes(&mut self, address: u64, bytes: u32) -> Result<()> {
        let index = self.at(address)?;
        self.changes += 1;
        self.expect(index, bytes)
    }

    fn expect(&mut self, index: usize, bytes: u32) -> Result<()> {
        let barrier = &mut self.list[index];
        barrier.bytes += i64::from(bytes);
        if bytes > MOST || barrier.bytes > i64::from(MOST) {
            return Err(format!(
                "{} bytes are announced at the mbarrier at shared address {:#x}: {MOST} are possible",
                barrier.bytes, barrier.address
            ));
        }
        Ok(())
    }

    /// The mbarrier at an address, and its current phase.
    pub fn current(&mut self, address: u64) -> Result<(u32, u32)> {
        let index = self.at(address)?;
        Ok((index as u32, self.list[index].phase))
    }

    /// Bytes have come.
    pub fn complete_bytes(&mut self, address: u64, bytes: u32) -> Result<()> {
        let index = self.at(address)?;
        let barrier = &mut self.list[index];
        barrier.bytes -= i64::from(bytes);
        if barrier.bytes < -i64::from(MOST) {
            return Err(format!(
                "{} bytes more than announced came to the mbarrier at shared address {address:#x}",
                -barrier.bytes
            ));
        }
        self.changes += 1;
        self.settle(index);
        Ok(())
    }

    /// Ends the phase if nothing is lacking.
    fn settle(&mut self, index: usize) {
        let (blocks, rank) = (self.blocks, self.rank);
        let barrier = &mut self.list[index];
        if barrier.pending > 0 || barrier.bytes != 0 {
            return;
        }
        barrier.phase += 1;
        barrier.pending = barrier.expected;
        let told = std::mem::replace(&mut barrier.arriving, Knowledge::of(blocks));
        barrier.over.join(&told);
        barrier.over.learn_phase(rank, index, barrier.phase);
        self.ended += 1;
    }

    /// Whether the phase of a parity is over, the one before the current one counting; then what is known by that.
    pub fn is_over(&mut self, address: u64, parity: u32) -> Result<Option<&Knowledge>> {
        let index = self.at(address)?;
        let barrier = &self.list[index];
        Ok((barrier.phase & 1 != parity & 1).then_some(&barrier.over))
    }

    /// The same of a phase by the number that an arrival gave.
    pub fn is_past(&mut self, address: u64, phase: u32) -> Result<Option<&Knowledge>> {
        let index = self.at(address)?;
        let barrier = &self.list[index];
        Ok((barrier.phase != phase).then_some(&barrier.over))
    }

    /// What an mbarrier's phase lacks, for reports.
    pub fn lacks(&self, address: u64) -> String {
        match self.list.iter().find(|found| found.address == address && found.is_alive) {
            None => "which was invalidated".to_owned(),
            Some(Mbarrier { pending, expected, bytes, phase, .. }) => {
                format!(
                    "whose phase {phase} lacks {pending} of {expected} arrivals and {bytes} bytes"
                )
            }
        }
    }

    /// Blocks of the cluster.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The rank of this block.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The address of an mbarrier by its index.
    pub fn address(&self, index: u32) -> u64 {
        self.list.get(index as usize).map_or(0, |found| found.address)
    }
}
