//! Blocks that run together on one host thread: a cluster, most often of one block. They reach each other by messages, which
//! are delivered when a block has had its turn.

use std::sync::Arc;

use super::block::{Block, Context};
use super::launch::{Balance, Launch};
use super::warp::{Fault, Outcome};
use crate::counts::Counts;
use crate::memory::{Global, Knowledge, Landing, lanes};
use crate::report::{Check, Report};

/// How often waits for mbarriers may end without success, while nothing else happens, before that is a deadlock.
const PATIENCE: u32 = 256;

/// A block's place in its cluster, and its side of the cluster's barrier.
pub(super) struct Gathering {
    pub rank: u32,
    /// Blocks of the cluster.
    pub size: u32,
    /// The threads of each warp that have arrived, and the turn of the barrier that each arrived for.
    arrived: Vec<u32>,
    turns: Vec<[u32; 32]>,
    /// Turns of the barrier that are over.
    turn: u32,
    /// What those know who arrived, and what is known by who waited.
    telling: Knowledge,
    pub told: Knowledge,
}

impl Gathering {
    pub fn new(dims: [u32; 3], warps: usize) -> Gathering {
        Gathering {
            rank: 0,
            size: dims.iter().product(),
            arrived: vec![0; warps],
            turns: vec![[0; 32]; warps],
            turn: 0,
            telling: Knowledge::default(),
            told: Knowledge::default(),
        }
    }

    pub fn reset(&mut self, blocks: usize, rank: usize) {
        self.rank = rank as u32;
        self.arrived.fill(0);
        self.turns.fill([0; 32]);
        self.turn = 0;
        self.telling = Knowledge::of(blocks);
        self.told = Knowledge::of(blocks);
    }

    /// Threads arrive; what is wrong with that.
    pub fn arrive(&mut self, warp: u32, mask: u32, told: Option<&Knowledge>) -> Result<(), String> {
        let warp = warp as usize;
        let again = self.arrived[warp] & mask;
        if again != 0 {
            return Err(format!(
                "threads {again:#010x} of the warp arrive at the barrier of the cluster again, and have not waited for it"
            ));
        }
        self.arrived[warp] |= mask;
        for lane in lanes(mask) {
            self.turns[warp][lane] = self.turn + 1;
        }
        if let Some(told) = told {
            self.telling.join(told);
        }
        Ok(())
    }

    /// Whether the barrier has opened for threads that arrived; an error if one has not.
    pub fn is_open(&self, warp: u32, mask: u32) -> Result<bool, u32> {
        let turns = &self.turns[warp as usize];
        match lanes(mask).find(|&lane| turns[lane] == 0) {
            Some(lane) => Err(1 << lane),
            None => Ok(lanes(mask).all(|lane| turns[lane] <= self.turn)),
        }
    }
}

/// What one block of a cluster sends to another.
pub(super) struct Message {
    pub to: u32,
    pub what: Sent,
    /// What the sender knows.
    pub known: Arc<Knowledge>,
    /// Who sends it, for reports.
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
}

pub(super) enum Sent {
    Arrival { barrier: u64, count: u32, bytes: Option<u32>, releases: bool, drops: bool },
    Bytes { start: u64, bytes: Arc<Vec<u8>>, span: u64, barrier: u64 },
}

impl Context<'_> {
    /// Takes in what a block of the cluster sent, which may be this one.
    pub fn receive(&mut self, message: &Message, from: usize) -> Outcome<()> {
        let fault = |check, what: String| Fault::new(check, 1 << message.lane, message.pc, what);
        let broken = |mut violation: crate::memory::Violation| {
            violation.lane = message.lane;
            Fault::memory(message.pc, violation)
        };
        let (shared, known) = (&mut self.shared, &*message.known);
        let barrier = match message.what {
            Sent::Arrival { barrier, .. } | Sent::Bytes { barrier, .. } => barrier,
        };
        shared.check_mbarrier(barrier, known).map_err(broken)?;
        let done = match message.what {
            Sent::Arrival { barrier, count, bytes, releases, drops } => {
                let told = releases.then_some(known);
                shared.mbarriers.arrive(barrier, count, bytes, told, drops).map(drop)
            }
            Sent::Bytes { start, ref bytes, span, barrier } => {
                let by = (from, message.warp, message.lane);
                let landing = Landing { start, bytes, span, barrier, by };
                self.counts.async_copy_bytes += bytes.len() as u64;
                shared.land(&landing, known, &self.clocks).map_err(broken)?
            }
        };
        done.map_err(|what| fault(Check::Barrier, what))
    }
}

/// See the module.
pub(super) struct Cluster<'a> {
    blocks: Vec<Block<'a>>,
    /// Linear indices of the blocks in the grid.
    indices: Vec<u32>,
    /// Instructions that its warps issued, until someone takes note.
    pub issued: u64,
    /// How often waits ended since anything else happened, and what had happened by then.
    expired: u32,
    changes: u64,
}

impl<'a> Cluster<'a> {
    /// The memory of a cluster, to be started as often as needed.
    pub fn new(launch: &'a Launch<'a>, global: impl Fn() -> Global) -> Cluster<'a> {
        let size = launch.cluster.iter().product::<u32>();
        let blocks = (0..size).map(|_| Block::new(launch, global())).collect();
        Cluster { blocks, indices: Vec::new(), issued: 0, expired: 0, changes: 0 }
    }

    /// What its blocks counted since the last time.
    pub fn take_counts(&mut self) -> Counts {
        let mut all = Counts::default();
        for block in &mut self.blocks {
            all += &block.take_counts();
        }
        all
    }

    /// Adds how often its blocks issued each instruction.
    pub fn add_executions(&mut self, all: &mut Vec<u64>) {
        for block in &mut self.blocks {
            let executions = &mut block.cx.executions;
            all.resize(all.len().max(executions.len()), 0);
            for (sum, times) in all.iter_mut().zip(executions) {
                *sum += std::mem::take(times);
            }
        }
    }

    /// How its blocks' instructions lay on warps since the last time.
    pub fn take_balance(&mut self) -> Balance {
        let mut all = Balance::default();
        for block in &mut self.blocks {
            all += std::mem::take(&mut block.balance);
        }
        all
    }

    /// Puts every block at its first instruction.
    pub fn start(&mut self, index: u32) {
        let launch = self.blocks[0].cx.launch;
        let ([gx, gy, _], [cx, cy, cz]) = (launch.grid, launch.cluster);
        let (wide, high) = (gx / cx, gy / cy);
        let [x, y, z] = [index % wide * cx, index / wide % high * cy, index / wide / high * cz];
        let rank = |rank: u32| [x + rank % cx, y + rank / cx % cy, z + rank / cx / cy];
        let linear = |[x, y, z]: [u32; 3]| x + gx * (y + gy * z);
        self.indices.clear();
        self.indices.extend((0..cx * cy * cz).map(|n| linear(rank(n))));
        for (rank, block) in self.blocks.iter_mut().enumerate() {
            block.start(&self.indices, rank);
        }
        self.expired = 0;
    }

    /// Executes until all blocks end or about `share` instructions were issued; whether they ended.
    pub fn run(&mut self, share: u64) -> Result<bool, Box<Report>> {
        let end = self.issued + share;
        loop {
            let (mut progress, mut is_running) = (false, false);
            for rank in 0..self.blocks.len() {
                if !self.blocks[rank].is_running() {
                    continue;
                }
                is_running = true;
                let (happened, issued) = self.blocks[rank].turn()?;
                self.issued += issued;
                progress |= happened;
                progress |= self.deliver(rank)?;
            }
            if !is_running {
                return Ok(true);
            }
            progress |= self.gather();
            if !progress && self.blocks.iter().any(Block::is_running) && !self.expire() {
                return Err(self.deadlock());
            }
            if self.issued >= end {
                return Ok(!self.blocks.iter().any(Block::is_running));
            }
        }
    }

    /// Hands over what a block sent; whether there was something.
    fn deliver(&mut self, from: usize) -> Result<bool, Box<Report>> {
        if self.blocks[from].cx.outbox.is_empty() {
            return Ok(false);
        }
        for message in std::mem::take(&mut self.blocks[from].cx.outbox) {
            let to = &mut self.blocks[message.to as usize];
            let done = match to.is_running() {
                true => to.cx.receive(&message, from),
                false => {
                    let what = format!(
                        "the block of rank {} has ended, and its shared memory with it",
                        message.to
                    );
                    Err(Fault::new(Check::OutOfBounds, 1 << message.lane, message.pc, what))
                }
            };
            done.map_err(|fault| self.blocks[from].report(message.warp as usize, &fault))?;
        }
        Ok(true)
    }

    /// Opens the cluster's barrier if every thread that is left has arrived; whether it did.
    fn gather(&mut self) -> bool {
        let arrived = |block: &Block| block.cx.gathering.arrived.iter().any(|&mask| mask != 0);
        if !self.blocks.iter().any(arrived) {
            return false;
        }
        let lacks = |block: &Block| {
            let mut warps = block.warps.iter().zip(&block.cx.gathering.arrived);
            warps.any(|(warp, arrived)| warp.live & !arrived != 0)
        };
        if self.blocks.iter().any(lacks) {
            return false;
        }
        let mut told = Knowledge::of(self.blocks.len());
        for block in &self.blocks {
            told.join(&block.cx.gathering.telling);
        }
        for block in &mut self.blocks {
            let gathering = &mut block.cx.gathering;
            gathering.turn += 1;
            gathering.arrived.fill(0);
            gathering.told.join(&told);
            block.cx.turns += 1;
        }
        true
    }

    /// Nothing can go on but by waits that end without success. False if there is none, or if that led to nothing.
    fn expire(&mut self) -> bool {
        let changes = |block: &Block| block.cx.shared.mbarriers.changes + block.cx.turns;
        let changes = self.blocks.iter().map(changes).sum();
        if self.changes != changes {
            (self.changes, self.expired) = (changes, 0);
        }
        self.expired += 1;
        self.expired <= PATIENCE
            && self.blocks.iter_mut().map(Block::expire).filter(|&any| any).count() > 0
    }

    /// Threads wait, and nobody is left to end the wait.
    fn deadlock(&self) -> Box<Report> {
        let first = self.blocks.iter().position(Block::is_running).unwrap_or(0);
        let others = self.blocks.iter().enumerate().filter(|&(rank, _)| rank != first);
        let others = others.map(|(rank, block)| match block.is_running() {
            false => format!("; the block of rank {rank} has ended"),
            true => format!("; rank {rank}: {}", block.whereabouts().join("; ")),
        });
        self.blocks[first].deadlock(&others.collect::<String>())
    }

    pub fn out_of_budget(&self) -> Box<Report> {
        let running = self.blocks.iter().find(|block| block.is_running());
        running.unwrap_or(&self.blocks[0]).out_of_budget()
    }
}
