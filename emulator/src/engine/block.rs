//! One block: its warps, its barriers and its shared memory, executed on one host thread.

use super::cluster::{Gathering, Message};
use super::launch::{Balance, Launch, Options};
use super::program::Kernel;
use super::warp::{Fault, Status, Wait, Warp};
use crate::counts::Counts;
use crate::isa::Class;
use crate::isa::scope::{Preset, is_dynamic};
use crate::isa::warp::BarrierReduction;
use crate::memory::{Clocks, Data, Global, Local, Shared};
use crate::report::{Check, Report};
use crate::syntax::ast::Special;

/// Instructions that a warp issues before the next one has its turn.
const SHARE: u64 = 1 << 12;

/// What the warps of a block share, and what they are told of the launch.
pub(super) struct Context<'a> {
    pub kernel: &'a Kernel,
    pub options: &'a Options,
    pub launch: &'a Launch<'a>,
    /// Linear index in the grid.
    pub block: u32,
    pub block_at: [u32; 3],
    pub shared: Shared,
    pub global: Global,
    pub local: Local,
    pub clocks: Clocks,
    pub barriers: [Barrier; 16],
    /// Reductions to deliver when their barrier opens.
    reductions: Vec<Reduction>,
    pub live_threads: u32,
    pub threads: u32,
    pub counts: Counts,
    /// How often each instruction was issued, where that is asked for.
    pub executions: Vec<u64>,
    /// The block's place in its cluster, and the barrier of the cluster.
    pub gathering: Gathering,
    /// For other blocks of the cluster.
    pub outbox: Vec<Message>,
    /// Of each warp, its clock when it committed each group of `wgmma`.
    pub committed: Vec<Vec<u32>>,
    /// How often something happened that parked threads may wait for, phases of mbarriers aside.
    pub turns: u64,
    /// What an access loads or stores: kept here so that it is not cleared for each.
    pub data: Box<Data>,
}

/// A named barrier.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Barrier {
    /// Threads that arrived.
    threads: u32,
    /// The same where whole warps arrived, 32 for each; and of other warps the threads that have come so far.
    whole: u32,
    parts: [u32; 32],
    /// The thread count that the first to arrive gave, or all threads; and whether any gave one.
    expected: u32,
    is_counted: bool,
    /// Warps with waiting threads.
    waiting: u32,
    is_used: bool,
    /// Predicates counted for `bar.red`, which does not mix with the other forms.
    is_reduction: bool,
    holds: u32,
    counted: u32,
}

struct Reduction {
    barrier: u8,
    warp: u32,
    mask: u32,
    into: BarrierReduction,
}

/// Threads that arrive at a barrier.
pub(super) struct Arrival {
    pub barrier: u8,
    pub warp: u32,
    pub mask: u32,
    /// All threads of the warp that are left.
    pub is_whole_warp: bool,
    pub expected: Option<u32>,
    pub waits: bool,
    pub is_reduction: bool,
}

impl Context<'_> {
    #[inline]
    pub fn count(&mut self, class: Class, pc: u32, active: u32) {
        let issued = &mut self.counts.classes[class];
        issued.warps += 1;
        issued.threads += u64::from(active.count_ones());
        if let Some(times) = self.executions.get_mut(pc as usize) {
            *times += 1;
        }
    }

    /// Changes whenever parked threads may go on.
    #[inline]
    fn wakes(&self) -> u64 {
        self.turns + self.shared.mbarriers.ended
    }

    pub fn threads_ended(&mut self, mask: u32) {
        self.live_threads -= mask.count_ones();
    }

    /// Registers an arrival; what is wrong with it, if something is.
    pub fn arrive(&mut self, arrival: &Arrival) -> std::result::Result<(), String> {
        self.counts.barrier_arrivals += 1;
        let all = self.threads.next_multiple_of(32);
        let expected = arrival.expected.unwrap_or(all);
        if expected == 0 || !expected.is_multiple_of(32) || expected > all {
            return Err(format!(
                "a barrier of {expected} threads: a multiple of 32 up to the block's {all} is needed"
            ));
        }
        let barrier = &mut self.barriers[usize::from(arrival.barrier)];
        if barrier.is_used && barrier.expected != expected {
            return Err(format!(
                "barrier {} is awaited by {expected} threads here and by {} elsewhere",
                arrival.barrier, barrier.expected
            ));
        }
        if barrier.is_used && barrier.is_reduction != arrival.is_reduction {
            return Err(format!(
                "barrier {} is used with .red and without it at the same time",
                arrival.barrier
            ));
        }
        barrier.is_used = true;
        barrier.is_reduction = arrival.is_reduction;
        barrier.expected = expected;
        barrier.is_counted |= arrival.expected.is_some();
        barrier.threads += arrival.mask.count_ones();
        match arrival.is_whole_warp {
            true => barrier.whole += 32,
            false => barrier.parts[arrival.warp as usize] |= arrival.mask,
        }
        if arrival.waits {
            barrier.waiting |= 1 << arrival.warp;
        }
        self.clocks.arrive(arrival.warp, usize::from(arrival.barrier));
        Ok(())
    }

    /// Adds predicates to a barrier's reduction; the result comes when it opens.
    pub fn reduce(&mut self, arrival: &Arrival, holds: u32, into: BarrierReduction) {
        let barrier = &mut self.barriers[usize::from(arrival.barrier)];
        barrier.holds += (holds & arrival.mask).count_ones();
        barrier.counted += arrival.mask.count_ones();
        let (barrier, warp, mask) = (arrival.barrier, arrival.warp, arrival.mask);
        self.reductions.push(Reduction { barrier, warp, mask, into });
    }
}

/// See the module.
pub(super) struct Block<'a> {
    pub cx: Context<'a>,
    pub(super) warps: Vec<Warp>,
    /// Warps that have not ended.
    running: u32,
    /// Of the blocks that ended.
    pub balance: Balance,
}

impl<'a> Block<'a> {
    /// The memory of a block, to be started as often as needed.
    pub fn new(launch: &'a Launch<'a>, global: Global) -> Block<'a> {
        let kernel = launch.kernel;
        let threads = launch.block.iter().product::<u32>();
        let warps: Vec<Warp> = (0..threads.div_ceil(32))
            .map(|index| Warp::new(index, kernel.rows, kernel.predicates))
            .collect();
        let checks = launch.options.checks;
        let mut block = Block {
            cx: Context {
                gathering: Gathering::new(launch.cluster, warps.len()),
                outbox: Vec::new(),
                committed: vec![Vec::new(); warps.len()],
                turns: 0,
                kernel,
                options: launch.options,
                launch,
                block: 0,
                block_at: [0; 3],
                shared: Shared::new(checks),
                global,
                local: Local::new(checks),
                clocks: Clocks::new(warps.len()),
                barriers: [Barrier::default(); 16],
                reductions: Vec::with_capacity(32),
                live_threads: 0,
                threads,
                counts: Counts::default(),
                executions: match launch.options.sample {
                    Some(_) => vec![0; kernel.instructions.len()],
                    None => Vec::new(),
                },
                data: Box::new([0; 32]),
            },
            warps,
            running: 0,
            balance: Balance::default(),
        };
        block.fill_presets(true);
        block
    }

    /// What its blocks counted since the last time.
    pub fn take_counts(&mut self) -> Counts {
        let mut counts = std::mem::take(&mut self.cx.counts);
        for class in Class::ALL {
            let issued = counts.classes[class];
            counts.warp_instructions += issued.warps;
            counts.thread_instructions += issued.threads;
        }
        counts.global = self.cx.global.take_counts();
        counts.shared = self.cx.shared.take_counts();
        counts
    }

    /// Puts the block at its first instruction; it has a rank in a cluster of blocks, given by their linear indices.
    pub fn start(&mut self, cluster: &[u32], rank: usize) {
        let cx = &mut self.cx;
        let index = cluster[rank];
        let [gx, gy, _] = cx.launch.grid;
        cx.block = index;
        cx.block_at = [index % gx, index / gx % gy, index / gx / gy];
        cx.shared.reset(cx.launch.shared_bytes() as usize, cx.kernel.shared_granule);
        cx.local.reset(cx.kernel.local_bytes, cx.threads);
        cx.global.begin_block(index);
        cx.clocks.reset();
        if cx.kernel.is_asynchronous {
            cx.clocks.join_cluster(cluster, rank);
            cx.shared.mbarriers.reset(cluster.len(), rank);
            cx.gathering.reset(cluster.len(), rank);
            cx.committed.iter_mut().for_each(Vec::clear);
        }
        cx.gathering.rank = rank as u32;
        cx.barriers = [Barrier::default(); 16];
        cx.reductions.clear();
        cx.live_threads = cx.threads;
        cx.counts.blocks += 1;
        cx.counts.warps += self.warps.len() as u64;
        cx.counts.threads += u64::from(cx.threads);
        self.running = self.warps.len() as u32;
        let threads = cx.threads;
        let clears = !cx.options.checks.uninitialized;
        for warp in &mut self.warps {
            let left = threads - warp.index * 32;
            warp.start(if left >= 32 { u32::MAX } else { (1 << left) - 1 });
            if clears {
                warp.registers.clear();
            }
        }
        self.fill_presets(clears);
    }

    /// Fills the rows of special registers, and with `all`, those that are the same for every block.
    fn fill_presets(&mut self, all: bool) {
        for row in &self.cx.kernel.presets {
            let value = match &row.preset {
                Preset::Special(special) if is_dynamic(*special) => continue,
                Preset::Special(
                    special @ (Special::Ctaid(_)
                    | Special::SmId
                    | Special::ClusterId(_)
                    | Special::ClusterCtaId(_)
                    | Special::ClusterCtaRank),
                ) => Some(*special),
                Preset::Special(special) if all => Some(*special),
                _ if !all => continue,
                _ => None,
            };
            for warp in &mut self.warps {
                let lane_value = |lane: u32| match (&row.preset, value) {
                    (_, Some(special)) => special_value(&self.cx, special, warp.index, lane),
                    (Preset::Value(value), _) => *value,
                    (Preset::Variable { name, offset }, _) => {
                        self.cx.launch.instance.address_of(name).wrapping_add(*offset as u64)
                    }
                    (Preset::DynamicShared { offset }, _) => {
                        u64::from(self.cx.kernel.dynamic_shared_start).wrapping_add(*offset as u64)
                    }
                    (Preset::Special(_), None) => 0,
                };
                let values: [u64; 32] = std::array::from_fn(|lane| lane_value(lane as u32));
                match row.wide {
                    true => *warp.registers.get_mut::<u64>(row.slot) = values,
                    false => {
                        *warp.registers.get_mut::<u32>(row.slot) = values.map(|value| value as u32)
                    }
                }
            }
        }
    }

    /// Whether warps are left.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.running > 0
    }

    /// Each warp has a turn; whether anything happened, and how many instructions were issued.
    pub fn turn(&mut self) -> std::result::Result<(bool, u64), Box<Report>> {
        let (mut progress, mut issued) = (false, 0);
        for index in 0..self.warps.len() {
            let warp = &mut self.warps[index];
            if warp.splits.is_empty() {
                continue;
            }
            if self.cx.kernel.is_asynchronous {
                warp.wake(self.cx.wakes());
            }
            let before = (warp.issued, warp.live);
            let status = warp.run(&mut self.cx, SHARE);
            let after = (warp.issued, warp.live);
            issued += after.0 - before.0;
            progress |= before != after;
            match status {
                Ok(Status::Done) => {
                    self.running -= 1;
                    progress = true;
                    if self.running == 0 {
                        self.balance.block(self.warps.iter().map(|warp| warp.issued));
                    }
                }
                Ok(Status::AtBarrier | Status::Interrupted) => {}
                Err(fault) => return Err(self.report(index, &fault)),
            }
            progress |= self.open_barriers();
        }
        Ok((progress, issued))
    }

    /// Lets waits for mbarriers end without success; whether there was one.
    pub fn expire(&mut self) -> bool {
        self.warps.iter_mut().map(Warp::expire).filter(|&any| any).count() > 0
    }

    /// Opens the barriers that all have reached; whether one opened.
    fn open_barriers(&mut self) -> bool {
        let mut opened = false;
        for index in 0..16 {
            let barrier = &self.cx.barriers[usize::from(index)];
            if !barrier.is_used {
                continue;
            }
            // A warp has arrived when all its threads that are left have. A count does not care who has ended.
            let parts = self.warps.iter().zip(&barrier.parts);
            let arrived = parts.filter(|(warp, part)| **part != 0 && warp.live & !**part == 0);
            let is_complete = match barrier.is_counted {
                true => barrier.whole + 32 * arrived.count() as u32 >= barrier.expected,
                false => barrier.threads >= self.cx.live_threads,
            };
            if !is_complete {
                continue;
            }
            let barrier = *barrier;
            opened = true;
            for reduction in self.cx.reductions.extract_if(.., |r| r.barrier == index) {
                let registers = &mut self.warps[reduction.warp as usize].registers;
                let mut lanes = crate::lanes::Lanes { registers, active: reduction.mask };
                let ones = |holds: bool| if holds { u32::MAX } else { 0 };
                match reduction.into {
                    BarrierReduction::Popc(d) => lanes.put(d, &[barrier.holds; 32]),
                    BarrierReduction::And(p) => {
                        lanes.put_predicate(p, ones(barrier.holds == barrier.counted));
                    }
                    BarrierReduction::Or(p) => lanes.put_predicate(p, ones(barrier.holds > 0)),
                }
            }
            self.cx.clocks.release(usize::from(index), barrier.waiting);
            self.cx.barriers[usize::from(index)] = Barrier::default();
            for warp in &mut self.warps {
                if barrier.waiting >> warp.index & 1 == 1 {
                    warp.open(index);
                }
            }
        }
        opened
    }

    /// Where its threads are, for a report on a deadlock.
    pub fn whereabouts(&self) -> Vec<String> {
        let stuck = |warp: &&Warp| !warp.splits.is_empty();
        self.warps
            .iter()
            .filter(stuck)
            .take(8)
            .map(|warp| format!("warp {}: {}", warp.index, warp.whereabouts(&self.cx)))
            .collect()
    }

    /// Threads wait, and nobody is left to end the wait; `elsewhere` is what the other blocks of the cluster do.
    pub fn deadlock(&self, elsewhere: &str) -> Box<Report> {
        let first = self.warps.iter().position(|warp| !warp.splits.is_empty()).unwrap_or(0);
        let split = self.warps[first].splits[0];
        let pc = split.pc - u32::from(matches!(split.wait, Wait::Barrier(_)));
        let what = format!(
            "{} of the block's {} threads are left and all wait; {}{elsewhere}",
            self.cx.live_threads,
            self.cx.threads,
            self.whereabouts().join("; ")
        );
        self.report(first, &Fault::new(Check::Deadlock, split.mask, pc, what))
    }

    /// More instructions were issued than the launch may: by threads that still run, as far as there are any.
    pub fn out_of_budget(&self) -> Box<Report> {
        let runs =
            |warp: &Warp| warp.splits.iter().find(|split| split.wait == Wait::Ready).copied();
        let all = || self.warps.iter().enumerate();
        let running = all().find_map(|(index, warp)| Some((index, runs(warp)?)));
        let any = || all().find_map(|(index, warp)| Some((index, *warp.splits.first()?)));
        let (warp, mask, pc) =
            running.or_else(any).map_or((0, 1, 0), |(warp, split)| (warp, split.mask, split.pc));
        let what = format!("the launch issued more than {} instructions", self.cx.options.budget);
        self.report(warp, &Fault::new(Check::Budget, mask, pc, what))
    }

    pub fn report(&self, warp: usize, fault: &Fault) -> Box<Report> {
        let cx = &self.cx;
        let inst = &cx.kernel.instructions[fault.pc as usize];
        let thread = warp as u32 * 32 + fault.lane;
        let [x, y, _] = cx.launch.block;
        Box::new(Report {
            check: fault.check,
            kernel: cx.kernel.name.clone(),
            block: cx.block_at,
            thread: [thread % x, thread / x % y, thread / x / y],
            line: inst.pos.line,
            instruction: cx.kernel.text_at(inst.pos),
            address: fault.address,
            what: fault.what.clone(),
        })
    }
}

impl Warp {
    /// Writes the special registers that change while a warp runs.
    pub fn refresh(&mut self, cx: &Context) {
        for row in &cx.kernel.presets {
            let Preset::Special(special) = row.preset else { continue };
            if !is_dynamic(special) {
                continue;
            }
            let now = self.issued;
            let value = match special {
                Special::ClockHi | Special::GlobalTimerHi => now >> 32,
                _ => now,
            };
            match row.wide {
                true => *self.registers.get_mut::<u64>(row.slot) = [value; 32],
                false => *self.registers.get_mut::<u32>(row.slot) = [value as u32; 32],
            }
        }
    }
}

/// The value of a special register that a block's threads keep.
fn special_value(cx: &Context, special: Special, warp: u32, lane: u32) -> u64 {
    let [x, y, _] = cx.launch.block;
    let thread = warp * 32 + lane;
    let at = [thread % x, thread / x % y, thread / x / y];
    let of = |dims: [u32; 3], axis: u8| dims.get(usize::from(axis)).copied().unwrap_or(0);
    let (grid, cluster) = (cx.launch.grid, cx.launch.cluster);
    let value = match special {
        Special::Tid(axis) => of(at, axis),
        Special::Ntid(axis) => of(cx.launch.block, axis),
        Special::Ctaid(axis) => of(cx.block_at, axis),
        Special::Nctaid(axis) => of(grid, axis),
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NWarpId => cx.threads.div_ceil(32),
        Special::SmId => cx.block % cx.options.sm_count.max(1),
        Special::NSmId => cx.options.sm_count,
        Special::GridId => return cx.launch.id,
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskLe => (1 << lane) | ((1 << lane) - 1),
        Special::LaneMaskGt => !((1 << lane) | ((1 << lane) - 1)),
        Special::LaneMaskGe => !((1 << lane) - 1),
        Special::DynamicSmemSize => cx.launch.dynamic_shared,
        Special::TotalSmemSize => cx.launch.shared_bytes(),
        // Without clusters, every block is one of its own.
        Special::ClusterId(axis @ 0..3) => of(cx.block_at, axis) / of(cluster, axis),
        Special::NClusterId(axis @ 0..3) => of(grid, axis) / of(cluster, axis),
        Special::ClusterCtaId(axis @ 0..3) => of(cx.block_at, axis) % of(cluster, axis),
        Special::ClusterNCtaId(axis) => of(cluster, axis),
        Special::ClusterId(_) | Special::NClusterId(_) | Special::ClusterCtaId(_) => 0,
        Special::ClusterCtaRank => cx.gathering.rank,
        Special::ClusterNCtaRank => cluster.iter().product(),
        Special::IsExplicitCluster => u32::from(cx.launch.is_explicit_cluster),
        Special::Clock
        | Special::ClockHi
        | Special::Clock64
        | Special::GlobalTimer
        | Special::GlobalTimerLo
        | Special::GlobalTimerHi => 0,
    };
    u64::from(value)
}
