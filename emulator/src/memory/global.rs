//! Global memory as a launch's kernels see it: checks, races and counts.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::bits::Bits;
use super::clock::Clocks;
use super::device::{Allocation, Kind, View, outside};
use super::flags::Flags;
use super::raw::Bytes;
use super::{Checks, Data, GlobalCounts, Order, Request, Violation, ViolationKind, Who};
use crate::isa::warp::FenceScope;

/// Launch numbers in race tags run from 1 to one less than this.
pub(super) const LAUNCHES: u64 = 1 << 13;

/// What the host threads of a launch share.
#[derive(Debug)]
pub struct Tracking {
    view: Arc<View>,
    parts: Vec<Part>,
    granule: u32,
    checks: Checks,
    /// Blocks run at once, and never wait for each other.
    concurrent: bool,
    flags: Mutex<Flags>,
}

/// What a launch knows of an allocation.
#[derive(Debug, Default)]
struct Part {
    /// Bytes that were read, and written.
    read: OnceLock<Option<Bits>>,
    stored: OnceLock<Option<Bits>>,
    shadow: OnceLock<Option<Arc<Bytes>>>,
}

/// One host thread's way to global memory.
#[derive(Debug)]
pub struct Global {
    tracking: Arc<Tracking>,
    /// The allocation of the last access.
    last: usize,
    block: u32,
    counts: GlobalCounts,
}

/// Who touched a granule last: launch, block, thread, the warp's clock, and whether the access was strong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    const CLOCK: u64 = (1 << 13) - 1;
    const BLOCK: u64 = (1 << 24) - 1;

    fn new(launch: u64, block: u32, thread: u32, clock: u32, strong: bool) -> Tag {
        let clock = u64::from(clock).min(Tag::CLOCK);
        let block = u64::from(block) & Tag::BLOCK;
        Tag(launch << 47 | block << 23 | u64::from(thread) << 13 | clock | u64::from(strong) << 60)
    }

    fn launch(self) -> u64 {
        self.0 >> 47 & (LAUNCHES - 1)
    }

    fn block(self) -> u32 {
        (self.0 >> 23 & Tag::BLOCK) as u32
    }

    fn thread(self) -> u32 {
        (self.0 >> 13 & 1023) as u32
    }

    fn clock(self) -> u32 {
        (self.0 & Tag::CLOCK) as u32
    }

    fn is_strong(self) -> bool {
        self.0 >> 60 & 1 == 1
    }

    /// Several threads read; of them the last is named.
    fn of_several(self) -> bool {
        self.0 >> 61 & 1 == 1
    }

    fn and_others(self, earlier: Tag) -> Tag {
        let strong = self.0 & earlier.0 & 1 << 60;
        Tag(self.0 & !(1 << 60) | strong | 1 << 61)
    }
}

impl Tracking {
    /// For a launch of `blocks` blocks whose narrowest store has `1 << granule_log2` bytes.
    pub fn new(
        view: Arc<View>,
        granule_log2: u32,
        checks: Checks,
        blocks: u64,
        concurrent: bool,
    ) -> Tracking {
        let parts = view.allocations.iter().map(|_| Part::default()).collect();
        // A single block can only race with itself, which the tags tell apart as well.
        let flags = Mutex::new(Flags::new(blocks > 1));
        Tracking { view, parts, granule: granule_log2, checks, concurrent, flags }
    }

    fn flags(&self) -> MutexGuard<'_, Flags> {
        self.flags.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn shadow(&self, index: usize) -> Option<&Bytes> {
        let shadow = self.parts[index].shadow.get_or_init(|| {
            let allocation = &self.view.allocations[index];
            let mut kept = allocation.shadow.lock().unwrap_or_else(|poison| poison.into_inner());
            if let Some((granule, bytes)) = &*kept
                && *granule == self.granule
            {
                return Some(bytes.clone());
            }
            // Two words a granule: the last write and the last read.
            let granules = (allocation.info.size as usize >> self.granule) + 1;
            let bytes = Arc::new(Bytes::zeroed(granules.checked_mul(16)?)?);
            *kept = Some((self.granule, bytes.clone()));
            Some(bytes)
        });
        shadow.as_deref()
    }
}

fn bits(cell: &OnceLock<Option<Bits>>, allocation: &Allocation) -> Option<usize> {
    let size = allocation.info.size as usize;
    cell.get_or_init(|| Bits::new(size)).as_ref().map(|_| size)
}

/// What an access does, for messages and rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
    /// Reads and writes.
    Atomic,
}

impl Global {
    pub fn new(tracking: Arc<Tracking>) -> Global {
        Global { tracking, last: 0, block: 0, counts: GlobalCounts::default() }
    }

    pub fn begin_block(&mut self, block: u32) {
        self.block = block;
    }

    pub fn take_counts(&mut self) -> GlobalCounts {
        std::mem::take(&mut self.counts)
    }

    /// The index of the allocation that holds a lane's range, and the offset in it.
    #[inline]
    fn find(&mut self, r: &Request, lane: usize) -> Result<(usize, usize), Violation> {
        self.find_part(r, lane, r.bytes)
    }

    /// The same where only the first bytes of a lane's range are touched.
    #[inline]
    fn find_part(
        &mut self,
        r: &Request,
        lane: usize,
        bytes: u32,
    ) -> Result<(usize, usize), Violation> {
        let address = r.addresses[lane];
        let bytes = u64::from(bytes);
        let inside = |info: &super::AllocationInfo| {
            address.wrapping_sub(info.address) < info.size
                && info.size - (address - info.address) >= bytes
        };
        let all = &self.tracking.view.allocations;
        if !all.get(self.last).is_some_and(|allocation| inside(&allocation.info)) {
            let after = all.partition_point(|allocation| allocation.info.address <= address);
            match after.checked_sub(1).filter(|&index| inside(&all[index].info)) {
                Some(index) => self.last = index,
                None => {
                    return Err(outside(
                        all,
                        &self.tracking.view.graves,
                        lane as u32,
                        address,
                        bytes,
                    ));
                }
            }
        }
        if !address.is_multiple_of(u64::from(r.bytes)) {
            let what =
                format!("{bytes} bytes at {address:#x}, which is no multiple of {}", r.bytes);
            return Err(violation(r, lane, ViolationKind::Misaligned, what));
        }
        Ok((self.last, (address - all[self.last].info.address) as usize))
    }

    /// Checks the ranges of a request and counts it.
    fn admit(&mut self, r: &Request, way: Way) -> Result<(), Violation> {
        self.admit_parts(r, way, |_| r.bytes)
    }

    /// The same where each lane touches only the first bytes of its range.
    #[inline]
    fn admit_parts(
        &mut self,
        r: &Request,
        way: Way,
        size: impl Fn(usize) -> u32,
    ) -> Result<(), Violation> {
        let tracking = self.tracking.clone();
        let (mut unique, mut cold, mut asked) = (0u64, 0u64, 0u64);
        // Bits of consecutive lanes in one word are set together.
        let mut run: Option<(usize, usize, u64)> = None;
        let mut flush = |(index, word, mask): (usize, usize, u64)| {
            let part = &tracking.parts[index];
            let cell = if way == Way::Read { &part.read } else { &part.stored };
            if let Some(Some(seen)) = cell.get() {
                let old = seen.set_word(word, mask);
                unique += u64::from((mask & !old).count_ones());
                for sector in [0xFFFF_FFFFu64, 0xFFFF_FFFF << 32] {
                    cold += u64::from(mask & sector != 0 && old & sector == 0);
                }
            }
        };
        let mut sectors = Sectors::default();
        for lane in lanes(r.mask) {
            let bytes = size(lane);
            let (index, offset) = self.find_part(r, lane, bytes)?;
            asked += u64::from(bytes);
            let allocation = &tracking.view.allocations[index];
            if way != Way::Read && allocation.info.kind == Kind::Constant {
                let what =
                    format!("{} bytes at {:#x}, in constant memory", r.bytes, r.addresses[lane]);
                return Err(violation(r, lane, ViolationKind::ReadOnly, what));
            }
            let part = &tracking.parts[index];
            bits(if way == Way::Read { &part.read } else { &part.stored }, allocation);
            sectors.add(r.addresses[lane] / 32);
            let (word, mask) = (offset / 64, (u64::MAX >> (64 - bytes)) << (offset % 64));
            run = match run {
                Some((i, w, m)) if (i, w) == (index, word) => Some((i, w, m | mask)),
                previous => {
                    if let Some(previous) = previous {
                        flush(previous);
                    }
                    Some((index, word, mask))
                }
            };
        }
        if let Some(last) = run {
            flush(last);
        }
        let traffic = match way {
            Way::Read => &mut self.counts.loads,
            Way::Write => &mut self.counts.stores,
            Way::Atomic => &mut self.counts.atomics,
        };
        traffic.requests += 1;
        traffic.sectors += sectors.count();
        traffic.bytes += asked;
        match way {
            Way::Read => {
                self.counts.unique_read_bytes += unique;
                self.counts.cold_read_sectors += cold;
            }
            _ => {
                self.counts.unique_written_bytes += unique;
                self.counts.cold_written_sectors += cold;
            }
        }
        Ok(())
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
        self.admit(r, Way::Read)?;
        for lane in lanes(r.mask) {
            let (index, offset) = self.find(r, lane)?;
            if r.order != Order::Weak {
                self.observe(r, lane, clocks, r.order != Order::Relaxed);
            }
            self.check_written(r, lane, index, offset)?;
            self.check_race(r, lane, (index, offset), clocks, Way::Read, None)?;
            out[lane] = self.tracking.view.allocations[index].bytes.load(offset, r.bytes);
        }
        Ok(())
    }

    /// Loads the first bytes of each lane's range, at least one, and fills the rest with zeros: a copy at an edge.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn load_parts(
        &mut self,
        r: &Request,
        sizes: &[u32; 32],
        clocks: &Clocks,
        out: &mut Data,
    ) -> Result<(), Violation> {
        self.admit_parts(r, Way::Read, |lane| sizes[lane])?;
        for lane in lanes(r.mask) {
            let part = Request { bytes: sizes[lane], ..*r };
            let (index, offset) = self.find_part(r, lane, part.bytes)?;
            self.check_written(&part, lane, index, offset)?;
            self.check_race(&part, lane, (index, offset), clocks, Way::Read, None)?;
            let bytes = &self.tracking.view.allocations[index].bytes;
            out[lane] = (0..part.bytes as usize)
                .fold(0, |all, byte| all | bytes.load(offset + byte, 1) << (8 * byte));
        }
        Ok(())
    }

    /// Loads from `.const` memory, which is not global traffic.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn load_constant(&mut self, r: &Request, out: &mut Data) -> Result<(), Violation> {
        for lane in lanes(r.mask) {
            let (index, offset) = self.find(r, lane)?;
            let allocation = &self.tracking.view.allocations[index];
            if allocation.info.kind != Kind::Constant {
                let what = format!(
                    "{} bytes at {:#x}, which is not constant memory",
                    r.bytes, r.addresses[lane]
                );
                return Err(violation(r, lane, ViolationKind::OutOfBounds, what));
            }
            out[lane] = allocation.bytes.load(offset, r.bytes);
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
        self.admit(r, Way::Write)?;
        for lane in lanes(r.mask) {
            let (index, offset) = self.find(r, lane)?;
            if r.order != Order::Weak {
                self.publish(r, lane, clocks, r.order == Order::Release);
            }
            self.check_race(r, lane, (index, offset), clocks, Way::Write, Some(data))?;
            let allocation = &self.tracking.view.allocations[index];
            allocation.bytes.store(offset, r.bytes, data[lane]);
            mark_written(allocation, offset, r.bytes);
        }
        Ok(())
    }

    /// Replaces each lane's value by `f(lane, value)`, lane after lane, each at once; `old` is what was there.
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
        self.admit(r, Way::Atomic)?;
        for lane in lanes(r.mask) {
            let (index, offset) = self.find(r, lane)?;
            self.observe(
                r,
                lane,
                clocks,
                matches!(r.order, Order::Acquire | Order::AcquireRelease),
            );
            self.check_written(r, lane, index, offset)?;
            self.publish(
                r,
                lane,
                clocks,
                matches!(r.order, Order::Release | Order::AcquireRelease),
            );
            self.check_race(r, lane, (index, offset), clocks, Way::Atomic, None)?;
            let bytes = &self.tracking.view.allocations[index].bytes;
            let mut g = |value: u64| f(lane, u128::from(value)) as u64;
            old[lane] = u128::from(bytes.update(offset, r.bytes, &mut g));
        }
        Ok(())
    }

    /// `fence` and `membar`.
    pub fn fence(&mut self, who: Who, scope: FenceScope) {
        if scope != FenceScope::Block && !self.tracking.concurrent {
            self.tracking.flags().fence(who.block);
        }
    }

    /// A strong store makes what was fenced known to who reads it.
    fn publish(&mut self, r: &Request, lane: usize, clocks: &mut Clocks, is_release: bool) {
        let (warp, flag) = (r.who.warp, r.addresses[lane]);
        clocks.publish(warp, flag, is_release);
        if self.tracking.concurrent {
            return;
        }
        if let Some(vector) = clocks.publication(warp, is_release) {
            self.tracking.flags().publish(r.who.block, flag, vector);
        }
    }

    /// A strong load learns what was published there: at once, or at the next fence.
    fn observe(&mut self, r: &Request, lane: usize, clocks: &mut Clocks, is_acquire: bool) {
        clocks.observe(r.who.warp, r.addresses[lane], is_acquire);
        if !self.tracking.concurrent {
            self.tracking.flags().observe(r.who.block, r.addresses[lane], is_acquire);
        }
    }

    fn check_written(
        &self,
        r: &Request,
        lane: usize,
        index: usize,
        offset: usize,
    ) -> Result<(), Violation> {
        if !self.tracking.checks.uninitialized {
            return Ok(());
        }
        let allocation = &self.tracking.view.allocations[index];
        let mask = (u64::MAX >> (64 - r.bytes)) << (offset % 64);
        let missing = mask & !allocation.written.word(offset / 64);
        if missing == 0 {
            return Ok(());
        }
        let first = offset / 64 * 64 + missing.trailing_zeros() as usize;
        let what = format!(
            "{} bytes at {:#x}: byte {first} of allocation {} of {} bytes was never written",
            r.bytes, r.addresses[lane], allocation.info.serial, allocation.info.size
        );
        Err(violation(r, lane, ViolationKind::Uninitialized, what))
    }

    /// Checks an access against the last ones of its granules, and takes their place.
    fn check_race(
        &self,
        r: &Request,
        lane: usize,
        (index, offset): (usize, usize),
        clocks: &Clocks,
        way: Way,
        data: Option<&Data>,
    ) -> Result<(), Violation> {
        let tracking = &*self.tracking;
        if !tracking.checks.races {
            return Ok(());
        }
        let Some(shadow) = tracking.shadow(index) else {
            return Ok(());
        };
        let launch = tracking.view.launch;
        let strong = r.order != Order::Weak;
        let thread = r.who.warp * 32 + lane as u32;
        let now = Tag::new(launch, r.who.block, thread, clocks.now(r.who.warp), strong);
        let first = offset >> tracking.granule;
        let last = (offset + r.bytes as usize - 1) >> tracking.granule;
        for granule in first..=last {
            let written = shadow.word(2 * granule);
            let read = shadow.word(2 * granule + 1);
            let before = Tag(written.load(Relaxed));
            if self.conflicts(before, now, clocks) && !agrees(r, lane, before, data) {
                return Err(self.race(r, lane, before, way, "written"));
            }
            if way == Way::Read {
                let earlier = Tag(read.load(Relaxed));
                if earlier.launch() != launch || earlier.0 == now.0 {
                    read.store(now.0, Relaxed);
                } else {
                    let same_thread =
                        earlier.block() == now.block() && earlier.thread() == now.thread();
                    let next = if same_thread { now } else { now.and_others(earlier) };
                    if next != earlier {
                        read.store(next.0, Relaxed);
                    }
                }
                continue;
            }
            let earlier = Tag(read.load(Relaxed));
            if self.conflicts(earlier, now, clocks) {
                return Err(self.race(r, lane, earlier, way, "read"));
            }
            written.store(now.0, Relaxed);
        }
        Ok(())
    }

    /// Whether an earlier access of this launch is neither this thread's nor ordered before it.
    #[inline]
    fn conflicts(&self, earlier: Tag, now: Tag, clocks: &Clocks) -> bool {
        if earlier.launch() != now.launch() || earlier.is_strong() && now.is_strong() {
            return false;
        }
        // A clock that ran over its field orders nothing and accuses nobody.
        if u64::from(earlier.clock()) == Tag::CLOCK {
            return false;
        }
        let (warp, other) = (now.thread() / 32, earlier.thread() / 32);
        if earlier.block() == now.block() {
            let same_thread = earlier.thread() == now.thread() && !earlier.of_several();
            return !same_thread && !clocks.knows(warp, other, earlier.clock());
        }
        self.tracking.concurrent
            || !self.tracking.flags().knows(self.block, earlier.block(), other, earlier.clock())
    }

    fn race(&self, r: &Request, lane: usize, earlier: Tag, way: Way, then: &str) -> Violation {
        let now = match way {
            Way::Read => "read",
            Way::Write => "written",
            Way::Atomic => "updated",
        };
        let kind = if earlier.is_strong() { "atomically " } else { "" };
        let others = if earlier.of_several() { " and others" } else { "" };
        let missing = match earlier.block() == self.block {
            true => "no barrier lies between",
            false => "nothing orders the blocks (fence, atomic flag, fence)",
        };
        let what = format!(
            "{} bytes at {:#x}: {now} by thread {} of block {}, {kind}{then} by thread {}{others} of block {}, and {missing}",
            r.bytes,
            r.addresses[lane],
            r.who.warp * 32 + lane as u32,
            self.block,
            earlier.thread(),
            earlier.block()
        );
        violation(r, lane, ViolationKind::Race, what)
    }
}

fn mark_written(allocation: &Allocation, offset: usize, bytes: u32) {
    let mask = (u64::MAX >> (64 - bytes)) << (offset % 64);
    allocation.written.set_word(offset / 64, mask);
}

/// Whether the earlier write is of another lane of the same store, with the same value.
fn agrees(r: &Request, lane: usize, earlier: Tag, data: Option<&Data>) -> bool {
    let Some(data) = data else { return false };
    let other = (earlier.thread() % 32) as usize;
    earlier.block() == r.who.block
        && earlier.thread() / 32 == r.who.warp
        && other < lane
        && r.mask >> other & 1 == 1
        && r.addresses[other] == r.addresses[lane]
        && data[other] == data[lane]
}

fn violation(r: &Request, lane: usize, kind: ViolationKind, what: String) -> Violation {
    Violation { kind, lane: lane as u32, address: r.addresses[lane], bytes: r.bytes, what }
}

/// Distinct sectors of a request: usually they come in order.
#[derive(Default)]
struct Sectors {
    seen: [u64; 32],
    used: usize,
}

impl Sectors {
    fn add(&mut self, sector: u64) {
        let seen = &self.seen[..self.used];
        if seen.last() != Some(&sector) && !seen.contains(&sector) {
            self.seen[self.used] = sector;
            self.used += 1;
        }
    }

    fn count(&self) -> u64 {
        self.used as u64
    }
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(mask), |&left| Some(left & left.wrapping_sub(1)))
        .take_while(|&left| left != 0)
        .map(|left| left.trailing_zeros() as usize)
}
