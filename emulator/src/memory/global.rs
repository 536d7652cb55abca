//! Global memory as a launch's kernels see it: checks, races and counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::bits::Bits;
use super::clock::Clocks;
use super::device::{Allocation, Kind, View, outside};
use super::flags::Flags;
use super::raw::Bytes;
use super::{Checks, Data, GlobalCounts, Order, Request, Violation, ViolationKind, Who, lanes};
use crate::isa::warp::FenceScope;
use crate::tensor_map::Row;

/// Launch numbers in race tags run from 1 to one less than this.
pub(super) const LAUNCHES: u64 = 1 << 13;

/// What the host threads of a launch share.
#[derive(Debug)]
pub struct Tracking {
    view: Arc<View>,
    /// What this launch did to each allocation.
    known: Vec<Known>,
    granule: u32,
    checks: Checks,
    /// Blocks run at once, and never wait for each other.
    concurrent: bool,
    flags: Mutex<Flags>,
}

/// What a launch knows of an allocation.
#[derive(Debug, Default)]
struct Known {
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
    /// The block has looked at flags of others.
    has_observed: bool,
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

    /// The tag of a warp's lane, from that of its first.
    fn of_lane(self, lane: usize) -> Tag {
        Tag(self.0 + ((lane as u64) << 13))
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

    fn is_of(self, other: Tag) -> bool {
        (self.block(), self.thread()) == (other.block(), other.thread())
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
        let known = view.allocations.iter().map(|_| Known::default()).collect();
        // A single block can only race with itself, which the tags tell apart as well.
        let flags = Mutex::new(Flags::new(blocks > 1));
        Tracking { view, known, granule: granule_log2, checks, concurrent, flags }
    }

    fn flags(&self) -> MutexGuard<'_, Flags> {
        self.flags.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The race tags of an allocation; none where they are not wanted, or there is no memory for them.
    fn shadow(&self, index: usize) -> Option<&[AtomicU64]> {
        if !self.checks.races {
            return None;
        }
        let shadow = self.known[index].shadow.get_or_init(|| {
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
        shadow.as_ref().map(|bytes| bytes.words())
    }
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
        Global { tracking, last: 0, block: 0, has_observed: false, counts: GlobalCounts::default() }
    }

    pub fn begin_block(&mut self, block: u32) {
        self.block = block;
        self.has_observed = false;
    }

    pub fn take_counts(&mut self) -> GlobalCounts {
        std::mem::take(&mut self.counts)
    }

    /// The allocation that holds the first bytes of a lane's range.
    fn find(&mut self, r: &Request, lane: usize, bytes: u64) -> Result<usize, Violation> {
        let address = r.addresses[lane];
        let all = &self.tracking.view.allocations;
        if !all.get(self.last).is_some_and(|allocation| holds(allocation, address, bytes)) {
            let after = all.partition_point(|allocation| allocation.info.address <= address);
            match after.checked_sub(1).filter(|&index| holds(&all[index], address, bytes)) {
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
        Ok(self.last)
    }

    /// Cuts a request by allocation, checks bounds and alignment, and calls `f` with each part. With `sizes`, each lane
    /// touches only that many first bytes of its range.
    fn parts(
        &mut self,
        r: &Request,
        sizes: Option<&[u32; 32]>,
        mut f: impl FnMut(&mut Global, &Tracking, &Part) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let tracking = self.tracking.clone();
        let bytes = u64::from(r.bytes);
        let mut left = r.mask;
        while left != 0 {
            let first = left.trailing_zeros() as usize;
            let size = |lane: usize| sizes.map_or(bytes, |sizes| u64::from(sizes[lane]));
            let index = self.find(r, first, size(first))?;
            let allocation = &*tracking.view.allocations[index];
            let (mut mask, mut low) = (0u32, 0u64);
            for (lane, &address) in r.addresses.iter().enumerate() {
                let inside = u32::from(holds(allocation, address, size(lane))) & left >> lane & 1;
                mask |= inside << lane;
                low |= address & 0u64.wrapping_sub(u64::from(inside));
            }
            if low & (bytes - 1) != 0 {
                let wrong = lanes(mask).find(|&lane| !r.addresses[lane].is_multiple_of(bytes));
                let lane = wrong.unwrap_or(0);
                let address = r.addresses[lane];
                let what =
                    format!("{bytes} bytes at {address:#x}, which is no multiple of {bytes}");
                return Err(violation(r, lane, ViolationKind::Misaligned, what));
            }
            left &= !mask;
            f(self, &tracking, &Part { r, sizes, mask, index, allocation, thread: None })?;
        }
        Ok(())
    }

    /// Counts a request's part.
    fn count(&mut self, tracking: &Tracking, part: &Part, runs: &Runs, way: Way) {
        let known = &tracking.known[part.index];
        let seen = if way == Way::Read { &known.read } else { &known.stored };
        let seen = seen.get_or_init(|| Bits::new(part.allocation.info.size as usize));
        let (mut unique, mut cold) = (0, 0);
        if let Some(seen) = seen {
            for &(word, mask) in runs.all() {
                let old = seen.set_word(word, mask);
                if old & mask == mask {
                    continue;
                }
                unique += u64::from((mask & !old).count_ones());
                for sector in [0xFFFF_FFFFu64, 0xFFFF_FFFF << 32] {
                    cold += u64::from(mask & sector != 0 && old & sector == 0);
                }
            }
        }
        let traffic = match way {
            Way::Read => &mut self.counts.loads,
            Way::Write => &mut self.counts.stores,
            Way::Atomic => &mut self.counts.atomics,
        };
        traffic.sectors += runs.sectors;
        traffic.bytes += lanes(part.mask).map(|lane| u64::from(part.bytes(lane))).sum::<u64>();
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
        self.counts.loads.requests += 1;
        self.parts(r, None, |global, tracking, part| {
            let runs = Runs::of(part);
            global.count(tracking, part, &runs, Way::Read);
            if r.order != Order::Weak {
                // Threads that look at one flag see the same.
                let mut last = None;
                for lane in lanes(part.mask) {
                    let flag = Some(r.addresses[lane]);
                    if flag != last {
                        global.observe(r, lane, clocks, r.order != Order::Relaxed);
                    }
                    last = flag;
                }
            }
            check_written(tracking, part, &runs)?;
            global.check_reads(tracking, part, clocks)?;
            for lane in lanes(part.mask) {
                out[lane] = part.allocation.bytes.load(part.offset(lane), r.bytes);
            }
            Ok(())
        })
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
        self.counts.loads.requests += 1;
        self.parts(r, Some(sizes), |global, tracking, part| {
            let runs = Runs::of(part);
            global.count(tracking, part, &runs, Way::Read);
            check_written(tracking, part, &runs)?;
            global.check_reads(tracking, part, clocks)?;
            for lane in lanes(part.mask) {
                let (bytes, offset) = (&part.allocation.bytes, part.offset(lane));
                out[lane] = (0..part.bytes(lane) as usize)
                    .fold(0, |all, byte| all | bytes.load(offset + byte, 1) << (8 * byte));
            }
            Ok(())
        })
    }

    /// A bulk copy: rows of global memory into `out`, asked for by one thread.
    ///
    /// # Errors
    /// The first piece that breaks a rule.
    pub fn load_bulk(
        &mut self,
        (who, lane): (Who, u32),
        rows: &[Row],
        clocks: &Clocks,
        out: &mut [u8],
    ) -> Result<(), Violation> {
        self.counts.loads.requests += 1;
        in_pieces((who, lane), rows, |r, places| {
            self.parts(r, None, |global, tracking, part| {
                let part = &Part { thread: Some(lane as usize), ..*part };
                let runs = Runs::of(part);
                global.count(tracking, part, &runs, Way::Read);
                check_written(tracking, part, &runs)?;
                global.check_reads(tracking, part, clocks)?;
                for lane in lanes(part.mask) {
                    let value = part.allocation.bytes.load(part.offset(lane), r.bytes);
                    out[places[lane]..][..r.bytes as usize]
                        .copy_from_slice(&value.to_le_bytes()[..r.bytes as usize]);
                }
                Ok(())
            })
        })
    }

    /// A bulk copy out of shared memory: rows of `from` into global memory.
    ///
    /// # Errors
    /// The first piece that breaks a rule.
    pub fn store_bulk(
        &mut self,
        (who, lane): (Who, u32),
        rows: &[Row],
        clocks: &Clocks,
        from: &[u8],
    ) -> Result<(), Violation> {
        self.counts.stores.requests += 1;
        in_pieces((who, lane), rows, |r, places| {
            self.parts(r, None, |global, tracking, part| {
                let part = &Part { thread: Some(lane as usize), ..*part };
                let runs = Runs::of(part);
                part.check_writable()?;
                global.count(tracking, part, &runs, Way::Write);
                // Pieces of less than a granule are not judged: what lies beside them may be another's.
                let is_whole = r.bytes >> tracking.granule > 0;
                for lane in lanes(part.mask) {
                    if is_whole {
                        global.check_write(tracking, part, lane, clocks, Way::Write, None)?;
                    }
                    let mut value = [0; 16];
                    let bytes = r.bytes as usize;
                    value[..bytes].copy_from_slice(&from[places[lane]..][..bytes]);
                    part.allocation.bytes.store(
                        part.offset(lane),
                        r.bytes,
                        u128::from_le_bytes(value),
                    );
                }
                for &(word, mask) in runs.all() {
                    part.allocation.written.set_word(word, mask);
                }
                Ok(())
            })
        })
    }

    /// Loads from `.const` memory, which is not global traffic.
    ///
    /// # Errors
    /// The first lane that breaks a rule.
    pub fn load_constant(&mut self, r: &Request, out: &mut Data) -> Result<(), Violation> {
        self.parts(r, None, |_, _, part| {
            if part.allocation.info.kind != Kind::Constant {
                let lane = part.mask.trailing_zeros() as usize;
                let address = r.addresses[lane];
                let what =
                    format!("{} bytes at {address:#x}, which is not constant memory", r.bytes);
                return Err(violation(r, lane, ViolationKind::OutOfBounds, what));
            }
            for lane in lanes(part.mask) {
                out[lane] = part.allocation.bytes.load(part.offset(lane), r.bytes);
            }
            Ok(())
        })
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
        self.counts.stores.requests += 1;
        self.parts(r, None, |global, tracking, part| {
            let runs = Runs::of(part);
            part.check_writable()?;
            global.count(tracking, part, &runs, Way::Write);
            for lane in lanes(part.mask) {
                if r.order != Order::Weak {
                    global.publish(r, lane, clocks, r.order == Order::Release);
                }
                global.check_write(tracking, part, lane, clocks, Way::Write, Some(data))?;
                part.allocation.bytes.store(part.offset(lane), r.bytes, data[lane]);
            }
            for &(word, mask) in runs.all() {
                part.allocation.written.set_word(word, mask);
            }
            Ok(())
        })
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
        self.counts.atomics.requests += 1;
        let (acquires, releases) = (
            matches!(r.order, Order::Acquire | Order::AcquireRelease),
            matches!(r.order, Order::Release | Order::AcquireRelease),
        );
        self.parts(r, None, |global, tracking, part| {
            let runs = Runs::of(part);
            part.check_writable()?;
            global.count(tracking, part, &runs, Way::Atomic);
            check_written(tracking, part, &runs)?;
            for lane in lanes(part.mask) {
                global.observe(r, lane, clocks, acquires);
                global.check_write(tracking, part, lane, clocks, Way::Atomic, None)?;
                let mut new = 0;
                let mut g = |value: u64| {
                    new = f(lane, u128::from(value)) as u64;
                    new
                };
                let bytes = &part.allocation.bytes;
                let before = bytes.update(part.offset(lane), r.bytes, &mut g);
                old[lane] = u128::from(before);
                // What changes nothing, such as a failed compare-and-swap, tells nobody anything.
                if new != before {
                    global.publish(r, lane, clocks, releases);
                }
            }
            Ok(())
        })
    }

    /// `fence` and `membar`.
    pub fn fence(&mut self, who: Who, scope: FenceScope) {
        if scope != FenceScope::Block && !self.tracking.concurrent {
            self.tracking.flags().fence(who.block);
        }
    }

    /// A strong store makes what was fenced known to who reads it.
    fn publish(&self, r: &Request, lane: usize, clocks: &mut Clocks, is_release: bool) {
        let (warp, flag) = (r.who.warp, r.addresses[lane]);
        clocks.publish_beyond(warp);
        let Some(vector) = clocks.publication(warp, is_release) else { return };
        clocks.publish(flag, &vector);
        if !self.tracking.concurrent {
            self.tracking.flags().publish(r.who.block, flag, vector);
        }
    }

    /// A strong load learns what was published there: at once, or at the next fence.
    fn observe(&mut self, r: &Request, lane: usize, clocks: &mut Clocks, is_acquire: bool) {
        clocks.observe(r.who.warp, r.addresses[lane], is_acquire);
        if !self.tracking.concurrent {
            self.has_observed = true;
            self.tracking.flags().observe(r.who.block, r.addresses[lane], is_acquire);
        }
    }

    /// The tag of a warp's first lane, now.
    fn tag(&self, r: &Request, clocks: &Clocks) -> Tag {
        let strong = r.order != Order::Weak;
        let launch = self.tracking.view.launch;
        Tag::new(launch, r.who.block, r.who.warp * 32, clocks.now(r.who.warp), strong)
    }

    /// Checks a part's reads against the last writes of its granules, and notes them.
    fn check_reads(
        &self,
        tracking: &Tracking,
        part: &Part,
        clocks: &Clocks,
    ) -> Result<(), Violation> {
        let Some(shadow) = tracking.shadow(part.index) else { return Ok(()) };
        let launch = tracking.view.launch;
        let first = self.tag(part.r, clocks);
        for lane in lanes(part.mask) {
            let now = first.of_lane(part.thread.unwrap_or(lane));
            for cell in part.granules(lane, tracking.granule, shadow) {
                let before = Tag(cell[0].load(Relaxed));
                if before.launch() == launch && self.conflicts(before, now, clocks) {
                    return Err(self.race(part.r, lane, before, Way::Read, "written"));
                }
                let earlier = Tag(cell[1].load(Relaxed));
                if earlier.launch() != launch {
                    cell[1].store(now.0, Relaxed);
                } else if earlier != now {
                    // What is ordered behind this read is ordered behind those before it too.
                    let replaces = earlier.is_of(now) || self.knows(earlier, now, clocks);
                    let next = if replaces { now } else { now.and_others(earlier) };
                    if next != earlier {
                        cell[1].store(next.0, Relaxed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks a lane's write against the last accesses of its granules, and notes it.
    fn check_write(
        &self,
        tracking: &Tracking,
        part: &Part,
        lane: usize,
        clocks: &Clocks,
        way: Way,
        data: Option<&Data>,
    ) -> Result<(), Violation> {
        let Some(shadow) = tracking.shadow(part.index) else { return Ok(()) };
        let now = self.tag(part.r, clocks).of_lane(part.thread.unwrap_or(lane));
        for cell in part.granules(lane, tracking.granule, shadow) {
            let before = Tag(cell[0].load(Relaxed));
            if self.conflicts(before, now, clocks) && !agrees(part.r, lane, before, data) {
                return Err(self.race(part.r, lane, before, way, "written"));
            }
            let earlier = Tag(cell[1].load(Relaxed));
            if self.conflicts(earlier, now, clocks) {
                return Err(self.race(part.r, lane, earlier, way, "read"));
            }
            cell[0].store(now.0, Relaxed);
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
        let same_thread = earlier.is_of(now) && !earlier.of_several();
        !same_thread && !self.knows(earlier, now, clocks)
    }

    /// Whether an earlier access of this launch is ordered before now by barriers, fences and flags.
    fn knows(&self, earlier: Tag, now: Tag, clocks: &Clocks) -> bool {
        let (warp, other) = (now.thread() / 32, earlier.thread() / 32);
        if earlier.block() == now.block() {
            let lane = |tag: Tag| (tag.thread() % 32) as usize;
            let of = if earlier.of_several() { 32 } else { lane(earlier) };
            return clocks.knows((warp, lane(now)), (other, of), earlier.clock());
        }
        if clocks.knows_in_cluster(warp, earlier.block(), other, earlier.clock()) {
            return true;
        }
        self.has_observed
            && self.tracking.flags().knows(self.block, earlier.block(), other, earlier.clock())
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

/// Cuts rows into pieces of up to 16 bytes and calls `f` with requests of up to 32 of them, and where in the box each is.
fn in_pieces(
    (who, lane): (Who, u32),
    rows: &[Row],
    mut f: impl FnMut(&Request, &[usize; 32]) -> Result<(), Violation>,
) -> Result<(), Violation> {
    let bits = rows.iter().fold(16, |bits, row| bits | row.address | row.bytes as u64);
    let bytes = 1u64 << bits.trailing_zeros();
    let (mut addresses, mut places, mut count) = ([0; 32], [0; 32], 0);
    let mut flush = |addresses: &[u64; 32], places: &[usize; 32], count: usize| {
        let mask = ((1u64 << count) - 1) as u32;
        let order = Order::Weak;
        let r = Request { mask, addresses, bytes: bytes as u32, who, order };
        f(&r, places).map_err(|violation| Violation { lane, ..violation })
    };
    for row in rows {
        for piece in (0..row.bytes).step_by(bytes as usize) {
            (addresses[count], places[count]) = (row.address + piece as u64, row.start + piece);
            count += 1;
            if count == 32 {
                flush(&addresses, &places, count)?;
                count = 0;
            }
        }
    }
    match count {
        0 => Ok(()),
        count => flush(&addresses, &places, count),
    }
}

/// The lanes of a request that reach one allocation.
struct Part<'a> {
    r: &'a Request<'a>,
    sizes: Option<&'a [u32; 32]>,
    mask: u32,
    index: usize,
    allocation: &'a Allocation,
    /// The lane that asks for all, where it is one.
    thread: Option<usize>,
}

impl Part<'_> {
    #[inline]
    fn offset(&self, lane: usize) -> usize {
        (self.r.addresses[lane] - self.allocation.info.address) as usize
    }

    /// Bytes that a lane touches.
    #[inline]
    fn bytes(&self, lane: usize) -> u32 {
        self.sizes.map_or(self.r.bytes, |sizes| sizes[lane])
    }

    fn check_writable(&self) -> Result<(), Violation> {
        if self.allocation.info.kind != Kind::Constant {
            return Ok(());
        }
        let lane = self.mask.trailing_zeros() as usize;
        let what =
            format!("{} bytes at {:#x}, in constant memory", self.r.bytes, self.r.addresses[lane]);
        Err(violation(self.r, lane, ViolationKind::ReadOnly, what))
    }

    /// The race tags of a lane's granules: of each the last write and the last read.
    #[inline]
    fn granules<'s>(
        &self,
        lane: usize,
        granule: u32,
        shadow: &'s [AtomicU64],
    ) -> impl Iterator<Item = &'s [AtomicU64]> + use<'s> {
        let offset = self.offset(lane);
        let (first, last) =
            (offset >> granule, (offset + self.bytes(lane) as usize - 1) >> granule);
        shadow[2 * first..2 * last + 2].chunks_exact(2)
    }
}

/// The bytes of a part as bits of 64-bit words, consecutive lanes joined; and its distinct sectors.
struct Runs {
    runs: [(usize, u64); 32],
    used: usize,
    sectors: u64,
}

impl Runs {
    fn of(part: &Part) -> Runs {
        let mut all = Runs { runs: [(0, 0); 32], used: 0, sectors: 0 };
        let mut sectors = [0u64; 32];
        let (mut count, mut highest) = (0, 0);
        for lane in lanes(part.mask) {
            let offset = part.offset(lane);
            let one = u64::MAX >> (64 - part.bytes(lane));
            let (word, mask) = (offset / 64, one << (offset % 64));
            match all.runs[..all.used].last_mut() {
                Some((last, bits)) if *last == word => *bits |= mask,
                _ => {
                    all.runs[all.used] = (word, mask);
                    all.used += 1;
                }
            }
            // Sectors usually come in order: one above all others is new.
            let sector = part.r.addresses[lane] / 32 + 1;
            if sector > highest || sector < highest && !sectors[..count].contains(&sector) {
                sectors[count] = sector;
                count += 1;
                highest = highest.max(sector);
            }
        }
        all.sectors = count as u64;
        all
    }

    fn all(&self) -> &[(usize, u64)] {
        &self.runs[..self.used]
    }
}

/// Every byte of a part was written before.
fn check_written(tracking: &Tracking, part: &Part, runs: &Runs) -> Result<(), Violation> {
    let written = &part.allocation.written;
    let is_missing = |&(word, mask): &(usize, u64)| mask & !written.word(word) != 0;
    if !tracking.checks.uninitialized || !runs.all().iter().any(is_missing) {
        return Ok(());
    }
    let bytes = |lane: usize| part.bytes(lane) as usize;
    let unset =
        |lane: usize| written.first_unset(part.offset(lane)..part.offset(lane) + bytes(lane));
    let first = lanes(part.mask).find_map(|lane| unset(lane).map(|at| (lane, at)));
    let (lane, at) = first.unwrap_or_default();
    let info = part.allocation.info;
    let what = format!(
        "{} bytes at {:#x}: byte {at} of allocation {} of {} bytes was never written",
        bytes(lane),
        part.r.addresses[lane],
        info.serial,
        info.size
    );
    Err(violation(part.r, lane, ViolationKind::Uninitialized, what))
}

#[inline]
fn holds(allocation: &Allocation, address: u64, bytes: u64) -> bool {
    let offset = address.wrapping_sub(allocation.info.address);
    (offset < allocation.info.size) & (allocation.info.size.wrapping_sub(offset) >= bytes)
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
