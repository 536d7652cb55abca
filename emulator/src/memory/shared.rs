//! A block's shared memory: its bytes, and of each granule who wrote and who read it last.
//!
//! A granule is as wide as the kernel's narrowest shared store, so that it is always written as a whole and what is known
//! of it is exact. Races are found with vector clocks: an access is ordered behind an earlier one when its warp knows of it.

use super::banks::wavefronts;
use super::clock::{Clocks, Vector};
use super::copies::Copies;
use super::knowledge::Knowledge;
use super::mbarrier::Mbarriers;
use super::{Checks, Data, Order, Request, SharedCounts, Violation, ViolationKind, Who, lanes};

/// What is known of a granule.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// The block that this is about; an older one means that nothing is known.
    generation: u32,
    write: Stamp,
    /// The last read, and the warps that read in `phase`.
    read: Stamp,
    readers: u32,
    phase: u32,
    /// An asynchronous copy into it is in flight.
    pending: bool,
}

/// Who, and when by the warp's own clock. A clock of 0 is nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    clock: u32,
    warp: u8,
    lane: u8,
    strong: bool,
}

/// Several lanes of a warp.
const SEVERAL: u8 = 32;
/// In the place of a warp: a bulk copy, by its number from 1.
const BULK: u8 = 255;
/// Added to a warp: its `wgmma`, by the number of their group from 1.
const GROUPS: u8 = 32;

/// A bulk copy into this block's shared memory.
#[derive(Debug, Clone, Copy)]
struct Bulk {
    /// The mbarrier that it completes, and in which phase.
    barrier: u32,
    phase: u32,
    /// Who issued it.
    rank: u8,
    warp: u8,
    lane: u8,
}

/// Bytes that a bulk copy brings.
#[derive(Debug, Clone, Copy)]
pub struct Landing<'a> {
    /// Where they go, before the swizzle.
    pub start: u64,
    pub bytes: &'a [u8],
    /// Bytes of a row of the swizzle; 16 without one.
    pub span: u64,
    /// The address of the mbarrier that they complete.
    pub barrier: u64,
    /// Who issued it: rank in the cluster, warp and lane.
    pub by: (usize, u32, u32),
}

/// Where the swizzle of a row's length puts an address: the bits that count chunks of 16 bytes within a row are XORed with
/// those that count lines of 128 bytes.
pub fn swizzled(address: u64, span: u64) -> u64 {
    address ^ (address >> 3 & (span - 1) & !15)
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    size: usize,
    granule: u32,
    generation: u32,
    copies: Copies,
    checks: Checks,
    counts: SharedCounts,
    bulk: Vec<Bulk>,
    pub mbarriers: Mbarriers,
}

impl Shared {
    pub fn new(checks: Checks) -> Shared {
        Shared {
            bytes: Vec::new(),
            cells: Vec::new(),
            size: 0,
            granule: 2,
            generation: 0,
            copies: Copies::default(),
            checks,
            counts: SharedCounts::default(),
            bulk: Vec::new(),
            mbarriers: Mbarriers::default(),
        }
    }

    /// Uninitialised memory for a block, in granules of `1 << granule_log2` bytes.
    pub fn reset(&mut self, bytes: usize, granule_log2: u32) {
        self.size = bytes;
        self.granule = granule_log2;
        let room = bytes.next_multiple_of(16);
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
        let cells = room >> granule_log2;
        if self.cells.len() < cells {
            self.cells.resize(cells, Cell::default());
        }
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.cells.fill(Cell::default());
            self.generation = 1;
        }
        if !self.checks.uninitialized {
            self.bytes.fill(0);
        }
        self.copies.reset();
        self.bulk.clear();
    }

    pub fn take_counts(&mut self) -> SharedCounts {
        std::mem::take(&mut self.counts)
    }

    /// Every lane's range is inside and aligned.
    fn check_range(&self, r: &Request) -> Result<(), Violation> {
        let bytes = u64::from(r.bytes);
        let mut addresses = r.mask;
        while addresses != 0 {
            let lane = addresses.trailing_zeros();
            addresses &= addresses - 1;
            let address = r.addresses[lane as usize];
            let violation = |kind, what| Violation { kind, lane, address, bytes: r.bytes, what };
            if address.checked_add(bytes).is_none_or(|end| end > self.size as u64) {
                let what = format!(
                    "{bytes} bytes at {address:#x} of {} bytes of shared memory",
                    self.size
                );
                return Err(violation(ViolationKind::OutOfBounds, what));
            }
            if address & (bytes - 1) != 0 {
                let what = format!(
                    "{bytes} bytes at shared address {address:#x}, which is no multiple of {bytes}"
                );
                return Err(violation(ViolationKind::Misaligned, what));
            }
        }
        Ok(())
    }

    fn bits(&self, address: u64, bytes: u32) -> u128 {
        let at = address as usize;
        let field = &self.bytes[at..at + bytes as usize];
        match bytes {
            4 => u128::from(u32::from_le_bytes(field.try_into().expect("4 bytes"))),
            16 => u128::from_le_bytes(field.try_into().expect("16 bytes")),
            _ => field.iter().rev().fold(0, |bits, &byte| bits << 8 | u128::from(byte)),
        }
    }

    fn put(&mut self, address: u64, bytes: u32, value: u128) {
        let at = address as usize;
        self.bytes[at..at + bytes as usize].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
    }

    /// Loads each lane's bytes into `out`.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn load(
        &mut self,
        r: &Request,
        clocks: &mut Clocks,
        out: &mut Data,
    ) -> Result<(), Violation> {
        self.check_range(r)?;
        let passes = wavefronts(r.mask, r.addresses, r.bytes);
        self.counts.loads.add(passes);
        if r.order != Order::Weak {
            for lane in lanes(r.mask) {
                clocks.observe(r.who.warp, r.addresses[lane], r.order != Order::Relaxed);
            }
        }
        let me = Me::of(r, clocks);
        let mut places = Places::default();
        for lane in lanes(r.mask) {
            let address = r.addresses[lane];
            let place = places.at(address, r.bytes);
            match place {
                Place::Read(by) if *by == address => {
                    self.cells_of(r, lane).for_each(|index| self.cells[index].read.lane = SEVERAL);
                    *place = Place::ReadBySeveral(address);
                }
                Place::ReadBySeveral(by) if *by == address => {}
                _ => {
                    let read = self.reads(r, lane, &me, true);
                    let is_free = read.map_err(|problem| self.report(r, lane, &problem))?;
                    *place = if is_free { Place::Read(address) } else { Place::Unknown };
                }
            }
            out[lane] = self.bits(address, r.bytes);
        }
        Ok(())
    }

    /// Stores each lane's bytes of `data`.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn store(
        &mut self,
        r: &Request,
        clocks: &mut Clocks,
        data: &Data,
    ) -> Result<(), Violation> {
        self.check_range(r)?;
        let passes = wavefronts(r.mask, r.addresses, r.bytes);
        self.counts.stores.add(passes);
        if r.order != Order::Weak {
            for lane in lanes(r.mask) {
                clocks.publish_from(r.who.warp, r.addresses[lane], r.order == Order::Release);
            }
        }
        let me = Me::of(r, clocks);
        for lane in lanes(r.mask) {
            self.writes(r, lane, &me, Some(data))
                .map_err(|problem| self.report(r, lane, &problem))?;
            self.put(r.addresses[lane], r.bytes, data[lane]);
        }
        Ok(())
    }

    /// Replaces each lane's value by `f(lane, value)`, lane after lane; `old` is what was there.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn atomic(
        &mut self,
        r: &Request,
        clocks: &mut Clocks,
        old: &mut Data,
        f: &mut dyn FnMut(usize, u128) -> u128,
    ) -> Result<(), Violation> {
        self.check_range(r)?;
        let passes = wavefronts(r.mask, r.addresses, r.bytes);
        self.counts.atomics.add(passes);
        for lane in lanes(r.mask) {
            let (warp, address) = (r.who.warp, r.addresses[lane]);
            clocks.observe(
                warp,
                address,
                matches!(r.order, Order::Acquire | Order::AcquireRelease),
            );
            self.reads(r, lane, &Me::of(r, clocks), false)
                .map_err(|problem| self.report(r, lane, &problem))?;
            let value = self.bits(address, r.bytes);
            old[lane] = value;
            self.writes(r, lane, &Me::of(r, clocks), None)
                .map_err(|problem| self.report(r, lane, &problem))?;
            let new = f(lane, value);
            self.put(address, r.bytes, new);
            // What changes nothing, such as a failed compare-and-swap, tells nobody anything.
            if new != value {
                let is_release = matches!(r.order, Order::Release | Order::AcquireRelease);
                clocks.publish_from(warp, address, is_release);
            }
        }
        Ok(())
    }

    /// `cp.async`: the bytes are there at once, and may not be touched until the copying thread has waited.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn copy_async(
        &mut self,
        r: &Request,
        clocks: &mut Clocks,
        data: &Data,
    ) -> Result<(), Violation> {
        self.check_range(r)?;
        let passes = wavefronts(r.mask, r.addresses, r.bytes);
        self.counts.copies.add(passes);
        for lane in lanes(r.mask) {
            self.writes(r, lane, &Me::of(r, clocks), None)
                .map_err(|problem| self.report(r, lane, &problem))?;
            self.put(r.addresses[lane], r.bytes, data[lane]);
            for cell in self.cells_of(r, lane) {
                self.cells[cell].pending = true;
            }
            self.copies.push(r.who.warp, lane as u32, r.addresses[lane] as u32, r.bytes);
        }
        Ok(())
    }

    /// `wgmma`: chunks of a matrix into `out`, read until its group has ended, which is given from 1. They come through another proxy, by other ways than the banks count.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn read_matrix(
        &mut self,
        r: &Request,
        group: u32,
        clocks: &mut Clocks,
        out: &mut Data,
    ) -> Result<(), Violation> {
        self.check_range(r)?;
        let me = Me::of(r, clocks);
        for lane in lanes(r.mask) {
            self.reads(r, lane, &me, true)
                .and_then(|_| self.fenced(r, lane, &me))
                .map_err(|problem| self.report(r, lane, &problem))?;
            out[lane] = self.bits(r.addresses[lane], r.bytes);
            let warp = GROUPS + r.who.warp as u8;
            for index in self.cells_of(r, lane) {
                self.cells[index].read = Stamp { clock: group, warp, lane: SEVERAL, strong: false };
            }
        }
        Ok(())
    }

    /// `mbarrier.init`, or any other instruction on an mbarrier: its bytes are written, or only looked at.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn touch_mbarrier(
        &mut self,
        r: &Request,
        clocks: &Clocks,
        is_init: bool,
    ) -> Result<(), Violation> {
        self.check_range(r)?;
        let me = Me::of(r, clocks);
        for lane in lanes(r.mask) {
            match is_init {
                true => self.writes(r, lane, &me, None),
                false => self.reads(r, lane, &me, false).map(drop),
            }
            .map_err(|problem| self.report(r, lane, &problem))?;
            if is_init {
                self.put(r.addresses[lane], r.bytes, 0);
            }
        }
        Ok(())
    }

    /// A thread of another block of the cluster uses an mbarrier: what is wrong with that.
    pub fn check_mbarrier(&mut self, address: u64, known: &Knowledge) -> Result<(), Violation> {
        let addresses = &[address; 32];
        let who = Who { block: 0, warp: 0 };
        self.check_range(&Request { mask: 1, addresses, bytes: 8, who, order: Order::Weak })?;
        let rank = self.mbarriers.rank();
        let index = address as usize >> self.granule;
        let cell = self.cells[index];
        let is_known = cell.generation == self.generation && self.knows(known, rank, &cell.write);
        match is_known || !self.checks.races {
            true => Ok(()),
            false => {
                let what = format!(
                    "the mbarrier at shared address {address:#x} of the block of rank {rank} is used, and no barrier of the cluster lies between that and its mbarrier.init"
                );
                Err(Violation { kind: ViolationKind::Race, lane: 0, address, bytes: 8, what })
            }
        }
    }

    /// Whether an access is ordered before what someone does who knows this.
    fn knows(&self, known: &Knowledge, rank: usize, stamp: &Stamp) -> bool {
        if stamp.clock == 0 {
            return true;
        }
        match stamp.warp < GROUPS {
            true => known.blocks[rank][usize::from(stamp.warp)] >= stamp.clock,
            false => has_ended(known, rank, stamp, &self.bulk),
        }
    }

    /// A bulk copy brings bytes, in chunks of 16, and completes them at its mbarrier. They may be read by who has waited for
    /// the mbarrier's phase. `known` is what its thread knew.
    ///
    /// # Errors
    /// A rule that it breaks, and of `Ok(Err)` what is wrong with its mbarrier.
    pub fn land(
        &mut self,
        landing: &Landing,
        known: &Knowledge,
        clocks: &Clocks,
    ) -> Result<Result<(), String>, Violation> {
        let &Landing { start, bytes, span, barrier, by: (by_rank, warp, lane) } = landing;
        let violation = |kind, what| {
            let bytes = bytes.len() as u32;
            Violation { kind, lane, address: start, bytes, what }
        };
        let end = start.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size as u64) {
            let what = format!(
                "{} bytes at {start:#x} of {} bytes of shared memory",
                bytes.len(),
                self.size
            );
            return Err(violation(ViolationKind::OutOfBounds, what));
        }
        let (index, phase) = match self.mbarriers.current(barrier) {
            Ok(found) => found,
            Err(what) => return Ok(Err(what)),
        };
        let rank = self.mbarriers.rank();
        self.bulk.push(Bulk {
            barrier: index,
            phase,
            rank: by_rank as u8,
            warp: warp as u8,
            lane: lane as u8,
        });
        let stamp =
            Stamp { clock: self.bulk.len() as u32, warp: BULK, lane: SEVERAL, strong: false };
        let generation = self.generation;
        for (chunk, values) in bytes.chunks(16).enumerate() {
            let at = swizzled(start + 16 * chunk as u64, span) as usize;
            if at + values.len() > self.size {
                let what = format!("byte {at:#x} of {} bytes of shared memory", self.size);
                return Err(violation(ViolationKind::OutOfBounds, what));
            }
            for index in at >> self.granule..((at + values.len() - 1) >> self.granule) + 1 {
                let cell = self.cells[index];
                if cell.generation == generation
                    && let Some((earlier, then)) = self.overtakes(&cell, known, rank, clocks)
                {
                    let place = index << self.granule;
                    let who = match earlier.warp < GROUPS {
                        true => format!(
                            "{}, and no mbarrier that both use, nor any other barrier, lies between",
                            thread(&earlier)
                        ),
                        false => self.asynchronous(&earlier),
                    };
                    let what = format!(
                        "{} bytes at shared address {start:#x}, byte {place:#x}: written by a bulk copy of thread {lane} of warp {warp}, {then} by {who}",
                        bytes.len()
                    );
                    return Err(violation(ViolationKind::Race, what));
                }
                self.cells[index] = Cell { generation, write: stamp, ..Cell::default() };
            }
            self.bytes[at..at + values.len()].copy_from_slice(values);
        }
        Ok(self.mbarriers.complete_bytes(barrier, bytes.len() as u32))
    }

    /// An earlier access that a bulk copy is not ordered behind, and what it did.
    fn overtakes(
        &self,
        cell: &Cell,
        known: &Knowledge,
        rank: usize,
        clocks: &Clocks,
    ) -> Option<(Stamp, &'static str)> {
        if !self.checks.races {
            return None;
        }
        if !self.knows(known, rank, &cell.write) {
            return Some((cell.write, "written"));
        }
        if !self.knows(known, rank, &cell.read) {
            return Some((cell.read, "read"));
        }
        // Other warps that read since the last barrier of the whole block: something of each is known.
        let others = cell.readers & !(1 << (cell.read.warp & 31));
        if others == 0 || cell.phase != clocks.phase() {
            return None;
        }
        let start = clocks.phase_start();
        let unknown = lanes(others).find(|&other| known.blocks[rank][other] < start[other].max(1));
        unknown.map(|other| {
            (Stamp { clock: 1, warp: other as u8, lane: SEVERAL, strong: false }, "read")
        })
    }

    /// A bulk copy out of shared memory reads bytes.
    ///
    /// # Errors
    /// A rule that it breaks.
    pub fn read_bulk(
        &mut self,
        (who, lane): (Who, u32),
        (start, span): (u64, u64),
        clocks: &Clocks,
        out: &mut [u8],
    ) -> Result<(), Violation> {
        for (chunk, values) in out.chunks_mut(16).enumerate() {
            let at = swizzled(start + 16 * chunk as u64, span);
            let addresses = &[at; 32];
            let order = Order::Weak;
            let r = Request { mask: 1 << lane, addresses, bytes: 16, who, order };
            self.check_range(&r)?;
            let me = Me::of(&r, clocks);
            self.reads(&r, lane as usize, &me, true)
                .and_then(|_| self.fenced(&r, lane as usize, &me))
                .map_err(|problem| self.report(&r, lane as usize, &problem))?;
            let at = at as usize;
            values.copy_from_slice(&self.bytes[at..at + values.len()]);
        }
        Ok(())
    }

    /// The copies of these threads since the last commit become a group.
    pub fn commit_group(&mut self, warp: u32, mask: u32) {
        self.copies.commit(warp, mask);
    }

    /// These threads wait until at most `pending` of their groups are in flight.
    pub fn wait_group(&mut self, warp: u32, mask: u32, pending: u32, clocks: &Clocks) {
        let (cells, granule, clock) = (&mut self.cells, self.granule, clocks.now(warp));
        self.copies.wait(warp, mask, Some(pending), |lane, start, bytes| {
            landed(cells, granule, (warp, lane, clock), start, bytes);
        });
    }

    /// These threads wait for all their copies.
    pub fn wait_all(&mut self, warp: u32, mask: u32, clocks: &Clocks) {
        let (cells, granule, clock) = (&mut self.cells, self.granule, clocks.now(warp));
        self.copies.wait(warp, mask, None, |lane, start, bytes| {
            landed(cells, granule, (warp, lane, clock), start, bytes);
        });
    }

    fn cells_of(&self, r: &Request, lane: usize) -> std::ops::Range<usize> {
        let start = r.addresses[lane] as usize;
        start >> self.granule..((start + r.bytes as usize - 1) >> self.granule) + 1
    }

    /// Checks and notes a read. An atomic's read is noted with its write. Gives whether every other lane of the warp may read
    /// the same.
    #[inline]
    fn reads(&mut self, r: &Request, lane: usize, me: &Me, note: bool) -> Result<bool, Problem> {
        let (generation, checks) = (self.generation, self.checks);
        let mut is_free = true;
        for index in self.cells_of(r, lane) {
            let cell = &mut self.cells[index];
            if cell.generation != generation {
                *cell = Cell { generation, ..Cell::default() };
            }
            if cell.pending {
                return Err(Problem::InFlight { index, by: cell.write });
            }
            if cell.write.clock == 0 {
                if checks.uninitialized {
                    return Err(Problem::Uninitialized { index });
                }
            } else if checks.races {
                is_free &= me.all_know(&cell.write);
                if me.conflicts(&cell.write, lane, &self.bulk) {
                    return Err(Problem::Race {
                        index,
                        earlier: cell.write,
                        ways: ["read", "written"],
                    });
                }
            }
            if note {
                if cell.phase != me.phase {
                    (cell.phase, cell.readers) = (me.phase, 0);
                }
                cell.readers |= 1 << me.warp;
                let same = cell.read.clock == me.now && u32::from(cell.read.warp) == me.warp;
                let lane =
                    if same && usize::from(cell.read.lane) != lane { SEVERAL } else { lane as u8 };
                cell.read = Stamp { clock: me.now, warp: me.warp as u8, lane, strong: me.strong };
            }
        }
        Ok(is_free)
    }

    /// Who wrote what `wgmma` reads has fenced between proxies since, and the reader was told.
    fn fenced(&self, r: &Request, lane: usize, me: &Me) -> Result<(), Problem> {
        if !self.checks.races {
            return Ok(());
        }
        let missing = self.cells_of(r, lane).find(|&index| {
            let Stamp { clock, warp, lane, .. } = self.cells[index].write;
            clock != 0
                && warp < GROUPS
                && !me.clocks.knows_fenced(me.warp, (warp.into(), lane.into()), clock)
        });
        missing
            .map_or(Ok(()), |index| Err(Problem::Unfenced { index, by: self.cells[index].write }))
    }

    /// Checks and notes a write. `data` tells whether lanes of one store write the same value.
    #[inline]
    fn writes(
        &mut self,
        r: &Request,
        lane: usize,
        me: &Me,
        data: Option<&Data>,
    ) -> Result<(), Problem> {
        let (generation, checks) = (self.generation, self.checks);
        for index in self.cells_of(r, lane) {
            let cell = &mut self.cells[index];
            if cell.generation != generation {
                *cell = Cell { generation, ..Cell::default() };
            }
            if cell.pending {
                return Err(Problem::InFlight { index, by: cell.write });
            }
            if checks.races {
                if me.conflicts(&cell.write, lane, &self.bulk)
                    && !agrees(r, lane, &cell.write, data)
                {
                    return Err(Problem::Race {
                        index,
                        earlier: cell.write,
                        ways: ["written", "written"],
                    });
                }
                if me.conflicts(&cell.read, lane, &self.bulk) {
                    return Err(Problem::Race {
                        index,
                        earlier: cell.read,
                        ways: ["written", "read"],
                    });
                }
                // Other warps that read in this phase: known to this one at least as of its start.
                let others = cell.readers & !(1 << me.warp) & !(1 << (cell.read.warp & 31));
                if others != 0 && cell.phase == me.phase && !(me.strong && cell.read.strong) {
                    let unknown =
                        lanes(others).find(|&other| !me.clocks.knows_since(me.warp, other as u32));
                    if let Some(other) = unknown {
                        let earlier =
                            Stamp { clock: 1, warp: other as u8, lane: SEVERAL, strong: false };
                        return Err(Problem::Race { index, earlier, ways: ["written", "read"] });
                    }
                }
            }
            cell.write =
                Stamp { clock: me.now, warp: me.warp as u8, lane: lane as u8, strong: me.strong };
            // Reads that this write is ordered behind need not be remembered.
            (cell.read, cell.readers) = (Stamp::default(), 0);
        }
        Ok(())
    }

    /// A bulk copy or a `wgmma`, and what of it is lacking.
    fn asynchronous(&self, stamp: &Stamp) -> String {
        if stamp.warp != BULK {
            let warp = stamp.warp - GROUPS;
            return format!("a wgmma of warp {warp}, and no wait for its group lies between");
        }
        let Bulk { barrier, phase, rank, warp, lane } = self.bulk[stamp.clock as usize - 1];
        let block = match self.mbarriers.blocks() {
            1 => String::new(),
            _ => format!(" of the block of rank {rank}"),
        };
        format!(
            "a bulk copy of thread {lane} of warp {warp}{block}, and no wait for phase {phase} of the mbarrier at {:#x} lies between",
            self.mbarriers.address(barrier)
        )
    }

    /// A problem in words.
    #[cold]
    fn report(&self, r: &Request, lane: usize, problem: &Problem) -> Violation {
        let (kind, index, what) = match problem {
            Problem::Uninitialized { index } => {
                let what = "nothing was written there so far: a write is missing, or a barrier";
                (ViolationKind::Uninitialized, index, what.to_owned())
            }
            Problem::InFlight { index, by } => {
                let by = thread(by);
                let what = format!(
                    "a cp.async of {by} writes there, and that thread has not waited for it"
                );
                (ViolationKind::UnwaitedCopy, index, what)
            }
            Problem::Unfenced { index, by } => {
                let by = thread(by);
                let what = format!(
                    "written by {by}, which executed no fence.proxy.async before a barrier: wgmma may not see it"
                );
                (ViolationKind::Race, index, what)
            }
            Problem::Race { index, earlier, ways: [now, then] } if earlier.warp >= GROUPS => {
                let what = format!(
                    "{now} by thread {lane} of warp {}, {then} by {}",
                    r.who.warp,
                    self.asynchronous(earlier)
                );
                (ViolationKind::Race, index, what)
            }
            Problem::Race { index, earlier, ways: [now, then] } => {
                let warp = r.who.warp;
                let missing = match u32::from(earlier.warp) == warp {
                    true => "bar.warp.sync or barrier",
                    false => "barrier",
                };
                let what = format!(
                    "{now} by thread {lane} of warp {warp}, {then} by {}, and no {missing} lies between",
                    thread(earlier)
                );
                (ViolationKind::Race, index, what)
            }
        };
        let (at, address) = (index << self.granule, r.addresses[lane]);
        let what =
            format!("{} bytes at shared address {address:#x}, byte {at:#x}: {what}", r.bytes);
        Violation { kind, lane: lane as u32, address, bytes: r.bytes, what }
    }
}

/// What is wrong with an access to a granule.
enum Problem {
    Uninitialized {
        index: usize,
    },
    InFlight {
        index: usize,
        by: Stamp,
    },
    /// Written by a thread that has not fenced between proxies.
    Unfenced {
        index: usize,
        by: Stamp,
    },
    /// How it is accessed now, and was before.
    Race {
        index: usize,
        earlier: Stamp,
        ways: [&'static str; 2],
    },
}

/// The warp that asks, and what it knows.
struct Me<'a> {
    warp: u32,
    now: u32,
    phase: u32,
    strong: bool,
    /// Clocks of warps up to which all of its threads know what happened.
    known: Vector,
    clocks: &'a Clocks,
}

impl Me<'_> {
    #[inline]
    fn of<'a>(r: &Request, clocks: &'a Clocks) -> Me<'a> {
        let warp = r.who.warp;
        Me {
            warp,
            now: clocks.now(warp),
            phase: clocks.phase(),
            strong: r.order != Order::Weak,
            known: clocks.known_to_all(warp),
            clocks,
        }
    }

    /// Whether every thread of the warp knows of an earlier access. It most often is so.
    #[inline]
    fn all_know(&self, earlier: &Stamp) -> bool {
        let warp = usize::from(earlier.warp);
        self.known.get(warp).is_some_and(|&clock| earlier.clock <= clock)
    }

    /// Whether an earlier access is neither this thread's nor ordered before it.
    #[inline]
    fn conflicts(&self, earlier: &Stamp, lane: usize, bulk: &[Bulk]) -> bool {
        !self.all_know(earlier) && self.conflicts_with_thread(earlier, lane, bulk)
    }

    /// The same where not every thread of the warp knows of it.
    fn conflicts_with_thread(&self, earlier: &Stamp, lane: usize, bulk: &[Bulk]) -> bool {
        let same_thread = u32::from(earlier.warp) == self.warp && usize::from(earlier.lane) == lane;
        if same_thread || self.strong && earlier.strong {
            return false;
        }
        if earlier.warp >= GROUPS {
            let known = self.clocks.beyond(self.warp);
            return known.is_none_or(|known| !has_ended(known, self.clocks.rank(), earlier, bulk));
        }
        let other = (u32::from(earlier.warp), usize::from(earlier.lane));
        !self.clocks.knows((self.warp, lane), other, earlier.clock)
    }
}

/// What lanes of one load have read, by the last bits of the address. Later lanes that read the same need no check.
#[derive(Default)]
struct Places([Place; 32]);

#[derive(Default, Clone, Copy)]
enum Place {
    #[default]
    Unknown,
    /// One lane did, at this address, and every other may.
    Read(u64),
    ReadBySeveral(u64),
}

impl Places {
    fn at(&mut self, address: u64, bytes: u32) -> &mut Place {
        &mut self.0[(address >> bytes.trailing_zeros()) as usize % 32]
    }
}

/// Whether it is known that a bulk copy, or a group of `wgmma`, has ended.
#[cold]
fn has_ended(known: &Knowledge, rank: usize, stamp: &Stamp, bulk: &[Bulk]) -> bool {
    if stamp.warp != BULK {
        return known.groups[rank][usize::from(stamp.warp - GROUPS)] >= stamp.clock;
    }
    let Bulk { barrier, phase, .. } = bulk[stamp.clock as usize - 1];
    known.phase(rank, barrier as usize) > phase
}

/// Whether the earlier write is of another lane of the same store, with the same value.
fn agrees(r: &Request, lane: usize, earlier: &Stamp, data: Option<&Data>) -> bool {
    let other = usize::from(earlier.lane);
    let Some(data) = data else { return false };
    u32::from(earlier.warp) == r.who.warp
        && other < lane
        && r.mask >> other & 1 == 1
        && r.addresses[other] == r.addresses[lane]
        && data[other] == data[lane]
}

fn thread(stamp: &Stamp) -> String {
    match stamp.lane {
        SEVERAL => format!("several threads of warp {}", stamp.warp),
        lane => format!("thread {lane} of warp {}", stamp.warp),
    }
}

/// A copy is complete: it counts as written by its thread now.
fn landed(
    cells: &mut [Cell],
    granule: u32,
    (warp, lane, clock): (u32, u32, u32),
    start: u32,
    bytes: u32,
) {
    for cell in &mut cells[(start >> granule) as usize..=((start + bytes - 1) >> granule) as usize]
    {
        cell.pending = false;
        cell.write = Stamp { clock, warp: warp as u8, lane: lane as u8, strong: false };
    }
}
