//! One warp: its registers, its program counters, and the loop that executes it.
//!
//! Threads that are at different instructions form splits, each a program counter and a mask. The split that is furthest
//! behind runs, until it meets another: then they are one again. A split that polls memory is interrupted now and then, so
//! that the one it waits for can go on.

use super::block::Context;
use super::program::Inst;
use super::trace::{Step, Written};
use super::warp_ops::Part;
use crate::isa::Op;
use crate::isa::control;
use crate::lanes::{Condition, Lanes, Predicate, Registers, Slot};
use crate::memory::Violation;
use crate::report::Check;
use crate::syntax::ty::Ty;

/// How often splits of a warp may poll memory before the one that has waited longest has a turn.
const PATIENCE: u32 = 32;

/// Threads of a warp at one instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
    /// The warp's clock when it last had a turn.
    pub since: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Ready,
    /// At a warp-wide instruction, for the other threads that it names.
    Warp,
    /// At a block barrier, arrived.
    Barrier(u8),
    /// At an instruction that is tried again when something has happened.
    Parked(Awaited),
}

/// What parked threads wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// A phase of the mbarrier at an address.
    Mbarrier(u32),
    /// The barrier of the cluster.
    Cluster,
    /// Other warps' parts of `wgmma`.
    Groups,
}

/// Why a warp stopped executing for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Done,
    /// Every thread is at a barrier.
    AtBarrier,
    /// It used up its share.
    Interrupted,
}

/// A rule broken by a warp.
#[derive(Debug)]
pub(super) struct Fault {
    pub check: Check,
    pub lane: u32,
    pub pc: u32,
    pub address: Option<u64>,
    pub what: String,
}

impl Fault {
    pub fn new(check: Check, lanes: u32, pc: u32, what: impl Into<String>) -> Box<Fault> {
        let lane = lanes.trailing_zeros().min(31);
        Box::new(Fault { check, lane, pc, address: None, what: what.into() })
    }

    pub fn memory(pc: u32, violation: Violation) -> Box<Fault> {
        Box::new(Fault {
            check: violation.kind.into(),
            lane: violation.lane,
            pc,
            address: Some(violation.address),
            what: violation.what,
        })
    }
}

pub(super) type Outcome<T> = Result<T, Box<Fault>>;

/// See the module.
pub(super) struct Warp {
    pub index: u32,
    pub registers: Registers,
    pub splits: Vec<Split>,
    /// Threads that have not exited.
    pub live: u32,
    /// Instructions issued so far: the clock.
    pub issued: u64,
    /// See [`PATIENCE`].
    patience: u32,
    /// What had happened when parked threads were last woken.
    seen: u64,
    /// Threads whose next wait for an mbarrier may end without success.
    pub expired: u32,
    /// Each thread's last wait for an mbarrier that ended without success: instruction, address and phase.
    pub failed: [(u32, u64, u32); 32],
}

/// No wait for an mbarrier.
pub(super) const NO_WAIT: (u32, u64, u32) = (u32::MAX, 0, 0);

/// What an instruction did to the split that executed it.
pub(super) enum Next {
    /// On to the following instruction.
    Step,
    /// The active threads jump.
    Jump(u32),
    /// The active threads go to differing places.
    Scatter(Box<[(u32, u32)]>),
    /// The active threads end.
    Exit,
    /// Not executed by these threads: others have to arrive first.
    Await(u32),
    /// At a barrier of the block.
    Barrier(u8),
    /// Not executed: to be tried again when something has happened.
    Park(Awaited),
}

impl Warp {
    pub fn new(index: u32, rows: u32, predicates: u32) -> Warp {
        Warp {
            index,
            registers: Registers::new(rows, predicates),
            splits: Vec::with_capacity(32),
            live: 0,
            issued: 0,
            patience: PATIENCE,
            seen: u64::MAX,
            expired: 0,
            failed: [NO_WAIT; 32],
        }
    }

    /// Starts over with these threads at the kernel's first instruction.
    pub fn start(&mut self, mask: u32) {
        self.registers.reset();
        self.splits.clear();
        self.splits.push(Split { pc: 0, mask, wait: Wait::Ready, since: 0 });
        self.live = mask;
        self.issued = 0;
        self.patience = PATIENCE;
        self.seen = u64::MAX;
        self.expired = 0;
        self.failed = [NO_WAIT; 32];
    }

    /// Parked threads try again if something has happened since.
    pub fn wake(&mut self, happened: u64) {
        if self.seen == happened {
            return;
        }
        self.seen = happened;
        for split in &mut self.splits {
            if matches!(split.wait, Wait::Parked(_)) {
                split.wait = Wait::Ready;
            }
        }
    }

    /// Threads that wait for mbarriers go on without success; whether there are any.
    pub fn expire(&mut self) -> bool {
        let mut any = false;
        for split in &mut self.splits {
            if matches!(split.wait, Wait::Parked(Awaited::Mbarrier(_))) {
                split.wait = Wait::Ready;
                self.expired |= split.mask;
                any = true;
            }
        }
        any
    }

    /// Executes until it ends, all of it is at a barrier, or about `share` instructions were issued.
    pub fn run(&mut self, cx: &mut Context, share: u64) -> Outcome<Status> {
        let end = self.issued + share;
        loop {
            self.merge();
            if self.splits.is_empty() {
                return Ok(Status::Done);
            }
            if self.splits.iter().all(|split| split.wait != Wait::Ready) {
                match self.resolve(cx)? {
                    true => continue,
                    false => return Ok(Status::AtBarrier),
                }
            }
            if self.issued >= end {
                return Ok(Status::Interrupted);
            }
            let chosen = self.choose();
            self.run_split(cx, chosen, end)?;
        }
    }

    /// An access found in memory what was there before: the threads may be waiting for it to change.
    pub fn polled(&mut self) {
        self.patience = self.patience.saturating_sub(1);
    }

    /// Joins splits that are at the same instruction.
    fn merge(&mut self) {
        let is_barrier = |wait| matches!(wait, Wait::Barrier(_));
        for index in 0..self.splits.len() {
            let mut other = index + 1;
            while other < self.splits.len() {
                let (one, two) = (self.splits[index], self.splits[other]);
                if one.pc != two.pc || is_barrier(one.wait) || is_barrier(two.wait) {
                    other += 1;
                    continue;
                }
                // A waiting instruction is tried again with the threads that came.
                self.splits[index].mask |= two.mask;
                self.splits[index].wait = Wait::Ready;
                self.splits[index].since = one.since.min(two.since);
                self.splits.swap_remove(other);
            }
        }
    }

    /// The ready split that is furthest behind; when patience has run out, the one that has waited longest. There is one.
    fn choose(&mut self) -> usize {
        if self.splits.len() == 1 {
            self.patience = PATIENCE;
        }
        let fairly = self.patience == 0;
        if fairly {
            self.patience = PATIENCE;
        }
        let ready = self.splits.iter().enumerate().filter(|(_, split)| split.wait == Wait::Ready);
        let turn = |split: &Split| if fairly { split.since } else { u64::from(split.pc) };
        let chosen = ready.min_by_key(|&(_, split)| (turn(split), split.pc));
        let (chosen, _) = chosen.expect("a split is ready");
        self.splits[chosen].since = self.issued;
        chosen
    }

    /// No thread can run: tries every waiting instruction once more, as threads may have exited, and then the same
    /// instruction at several places. False if all that is left to do is to wait for a barrier.
    fn resolve(&mut self, cx: &mut Context) -> Outcome<bool> {
        for index in 0..self.splits.len() {
            if self.splits[index].wait == Wait::Warp {
                let before = (self.issued, self.live);
                self.splits[index].wait = Wait::Ready;
                self.run_split(cx, index, self.issued + 1)?;
                if before != (self.issued, self.live) {
                    return Ok(true);
                }
            }
        }
        if self.meet_elsewhere(cx)? {
            return Ok(true);
        }
        let is_elsewhere = |wait| matches!(wait, Wait::Barrier(_) | Wait::Parked(_));
        if self.splits.iter().any(|split| is_elsewhere(split.wait)) {
            return Ok(false);
        }
        let waiting = self.splits.iter().filter(|split| split.wait == Wait::Warp);
        let first = waiting.min_by_key(|split| split.pc);
        let split = *first.expect("called with a waiting split");
        let needed = match &cx.kernel.instructions[split.pc as usize].op {
            Op::Warp(op) if op.collective().is_some() => "the other threads that it names",
            _ => "the rest of the warp",
        };
        let mut what = format!("threads {:#010x} of the warp wait for {needed}; ", split.mask);
        let elsewhere: Vec<String> = self
            .splits
            .iter()
            .filter(|other| other.pc != split.pc)
            .map(|other| {
                let line = cx.kernel.instructions[other.pc as usize].pos.line;
                format!("threads {:#010x} are at line {line}", other.mask)
            })
            .collect();
        match elsewhere.is_empty() {
            true => what += &format!("the others have exited (live threads: {:#010x})", self.live),
            false => what += &elsewhere.join(", "),
        }
        Err(Fault::new(Check::Divergence, split.mask, split.pc, what))
    }

    /// Threads that wait at several instructions that do the same execute them together, as they may since sm_70; whether
    /// some could.
    fn meet_elsewhere(&mut self, cx: &mut Context) -> Outcome<bool> {
        let kernel = cx.kernel;
        let waiting = self.splits.iter().filter(|split| split.wait == Wait::Warp);
        let mut left: Vec<Part> = waiting
            .filter_map(|split| match kernel.instructions[split.pc as usize].op {
                Op::Warp(op) => Some(Part { op, mask: split.mask, pc: split.pc }),
                _ => None,
            })
            .collect();
        while let Some(first) = left.first() {
            let collective = first.op.collective();
            let (parts, others): (Vec<_>, Vec<_>) =
                left.iter().partition(|part| part.op.collective() == collective);
            left = others;
            if collective.is_none() || parts.len() == 1 {
                continue;
            }
            let executed = self.warp_wide(cx, &parts)?;
            if executed == 0 {
                continue;
            }
            for index in 0..self.splits.len() {
                let split = self.splits[index];
                let active = split.mask & executed;
                if split.wait != Wait::Warp || active == 0 {
                    continue;
                }
                let next = Split { pc: split.pc + 1, mask: active, wait: Wait::Ready, ..split };
                self.executed(cx, &kernel.instructions[split.pc as usize], split.pc, active);
                if active == split.mask {
                    self.splits[index] = next;
                } else {
                    self.splits[index].mask &= !active;
                    self.splits.push(next);
                }
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Counts an instruction that these threads executed.
    #[inline]
    fn executed(&mut self, cx: &mut Context, inst: &Inst, pc: u32, active: u32) {
        cx.count(inst.class, pc, active);
        self.issued += 1;
        let written = self.registers.written_mut();
        for &place in inst.writes.of(&cx.kernel.places) {
            written[place as usize] |= active;
        }
        if let Some(trace) = &cx.options.trace {
            trace.step(&self.step(cx, inst, active));
        }
    }

    /// Executes one split until it meets another, waits, ends, lets another have its turn, or `end` instructions were
    /// issued by the warp.
    fn run_split(&mut self, cx: &mut Context, chosen: usize, end: u64) -> Outcome<()> {
        let Split { mut pc, mask, since, .. } = self.splits[chosen];
        let kernel = cx.kernel;
        let is_alone = self.splits.len() == 1;
        let split = |pc: u32, mask: u32, wait: Wait| Split { pc, mask, wait, since };
        // Where the nearest split ahead is.
        let others = self.splits.iter().enumerate().filter(|&(index, _)| index != chosen);
        let meet = others
            .filter(|(_, split)| !matches!(split.wait, Wait::Barrier(_)) && split.pc > pc)
            .map(|(_, split)| split.pc)
            .min()
            .unwrap_or(u32::MAX);
        while self.issued < end {
            let inst = &kernel.instructions[pc as usize];
            let active = match inst.guard {
                None => mask,
                Some(guard) => mask & self.registers.condition(guard),
            };
            self.check_initialized(cx, inst, mask, active, pc)?;
            if active == 0 {
                cx.count(inst.class, pc, 0);
                self.issued += 1;
                pc += 1;
            } else {
                if inst.is_dynamic {
                    self.refresh(cx);
                }
                let mut lanes = Lanes { registers: &mut self.registers, active };
                let next = match inst.op.execute(&mut lanes) {
                    Some(()) => Next::Step,
                    None => self.special(cx, inst, active, pc)?,
                };
                if let Next::Await(waiting) = next {
                    if active != waiting {
                        self.executed(cx, inst, pc, active & !waiting);
                    }
                    self.splits[chosen] = split(pc, waiting, Wait::Warp);
                    if mask != waiting {
                        self.splits.push(split(pc + 1, mask & !waiting, Wait::Ready));
                    }
                    return Ok(());
                }
                if let Next::Park(awaited) = next {
                    self.splits[chosen] = split(pc, active, Wait::Parked(awaited));
                    if mask != active {
                        self.splits.push(split(pc + 1, mask & !active, Wait::Ready));
                    }
                    return Ok(());
                }
                self.executed(cx, inst, pc, active);
                let rest = mask & !active;
                match next {
                    Next::Step => pc += 1,
                    Next::Jump(target) if rest == 0 => pc = target,
                    Next::Jump(target) => {
                        cx.counts.divergent_branches += 1;
                        self.splits[chosen] = split(pc + 1, rest, Wait::Ready);
                        self.splits.push(split(target, active, Wait::Ready));
                        return Ok(());
                    }
                    Next::Scatter(targets) => {
                        cx.counts.divergent_branches += 1;
                        self.splits.swap_remove(chosen);
                        for &(pc, mask) in &targets {
                            self.splits.push(split(pc, mask, Wait::Ready));
                        }
                        if rest != 0 {
                            self.splits.push(split(pc + 1, rest, Wait::Ready));
                        }
                        return Ok(());
                    }
                    Next::Exit => {
                        self.live &= !active;
                        cx.threads_ended(active);
                        match rest {
                            0 => drop(self.splits.swap_remove(chosen)),
                            _ => self.splits[chosen] = split(pc + 1, rest, Wait::Ready),
                        }
                        return Ok(());
                    }
                    Next::Barrier(index) => {
                        // The threads go on behind the barrier when it opens.
                        self.splits[chosen] = split(pc + 1, active, Wait::Barrier(index));
                        if rest != 0 {
                            self.splits.push(split(pc + 1, rest, Wait::Ready));
                        }
                        return Ok(());
                    }
                    Next::Await(_) | Next::Park(_) => unreachable!("returned above"),
                }
            }
            if pc >= meet || self.patience == 0 && !is_alone {
                break;
            }
        }
        self.splits[chosen].pc = pc;
        Ok(())
    }

    /// An executed instruction, for a trace.
    fn step<'a>(&'a self, cx: &'a Context, inst: &Inst, active: u32) -> Step<'a> {
        let kernel = cx.kernel;
        let rows = self.registers.row_count();
        let writes = inst.writes.of(&kernel.places).iter().filter_map(|&place| {
            let (name, ty) = kernel.register(place)?;
            let values = match ty {
                Ty::Pred => {
                    let bits = self.registers.condition(Condition {
                        predicate: Predicate(place - rows),
                        negated: false,
                    });
                    std::array::from_fn(|lane| u64::from(bits >> lane & 1))
                }
                ty if ty.bits() > 32 => *self.registers.get(Slot(place)),
                _ => self.registers.get::<u32>(Slot(place)).map(u64::from),
            };
            Some(Written { register: name, ty, values })
        });
        Step {
            kernel: &kernel.name,
            block: cx.block_at,
            warp: self.index,
            line: inst.pos.line,
            instruction: kernel.text_at(inst.pos),
            active,
            writes: writes.collect(),
        }
    }

    /// No register is read that was never written.
    #[inline]
    fn check_initialized(
        &self,
        cx: &Context,
        inst: &Inst,
        mask: u32,
        active: u32,
        pc: u32,
    ) -> Outcome<()> {
        if !cx.options.checks.uninitialized {
            return Ok(());
        }
        let written = self.registers.written();
        let reads = inst.reads.of(&cx.kernel.places);
        let mut missing =
            reads.iter().fold(0, |missing, &place| missing | !written[place as usize]);
        missing &= active;
        if inst.guard.is_some() {
            // The guard itself is read by every thread of the split; it is the first of the reads.
            missing |= reads.first().map_or(0, |&place| !written[place as usize]) & mask;
        }
        if missing == 0 {
            return Ok(());
        }
        let lane = missing.trailing_zeros();
        let is_missing = |&&place: &&u32| written[place as usize] >> lane & 1 == 0;
        let name = reads.iter().find(is_missing).and_then(|&place| cx.kernel.register(place));
        let name = name.map_or("a register", |(name, _)| name);
        let others = match missing.count_ones() {
            1 => String::new(),
            count => format!(", nor by {} others", count - 1),
        };
        let what = format!("{name} was never written by thread {lane} of the warp{others}");
        Err(Fault::new(Check::Uninitialized, missing, pc, what))
    }

    /// Executes an instruction that reaches beyond the registers.
    fn special(&mut self, cx: &mut Context, inst: &Inst, active: u32, pc: u32) -> Outcome<Next> {
        match &inst.op {
            Op::Control(op) => self.control(op, active, pc),
            Op::Memory(op) => self.memory(cx, op, active, pc).map(|()| Next::Step),
            Op::Atomic(op) => self.atomic(cx, op, active, pc).map(|()| Next::Step),
            Op::Warp(op) => self.warp_op(cx, op, active, pc),
            Op::Matrix(op) => self.matrix(cx, op, active, pc),
            Op::Warpgroup(op) => self.warpgroup(cx, op, active, pc),
            Op::Bulk(op) => self.bulk(cx, op, active, pc),
            _ => unreachable!("executed on the registers alone"),
        }
    }

    fn control(&mut self, op: &control::Op, active: u32, pc: u32) -> Outcome<Next> {
        match op {
            control::Op::Branch(target) => Ok(Next::Jump(*target)),
            control::Op::BranchTable { index, targets } => {
                let indices = *self.registers.get::<u32>(*index);
                let mut groups: Vec<(u32, u32)> = Vec::new();
                for lane in (0..32).filter(|lane| active >> lane & 1 == 1) {
                    let Some(&target) = targets.get(indices[lane] as usize) else {
                        let what = format!("index {} of {} targets", indices[lane], targets.len());
                        return Err(Fault::new(Check::OutOfBounds, 1 << lane, pc, what));
                    };
                    match groups.iter_mut().find(|(other, _)| *other == target) {
                        Some((_, mask)) => *mask |= 1 << lane,
                        None => groups.push((target, 1 << lane)),
                    }
                }
                match groups[..] {
                    [(target, _)] => Ok(Next::Jump(target)),
                    _ => Ok(Next::Scatter(groups.into())),
                }
            }
            control::Op::Exit => Ok(Next::Exit),
            control::Op::Trap => {
                Err(Fault::new(Check::Trap, active, pc, "the kernel executed trap"))
            }
            control::Op::Enter(places) => {
                let rows = self.registers.row_count();
                let written = self.registers.written_mut();
                for place in places {
                    written[place.index(rows) as usize] &= !active;
                }
                Ok(Next::Step)
            }
            control::Op::Copy { d, a, wide } => {
                let mut lanes = Lanes { registers: &mut self.registers, active };
                match wide {
                    true => lanes.map1(*d, *a, |a: u64| a),
                    false => lanes.map1(*d, *a, |a: u32| a),
                }
                Ok(Next::Step)
            }
            control::Op::Nothing => Ok(Next::Step),
        }
    }

    /// Threads at a barrier that opened go on.
    pub fn open(&mut self, barrier: u8) {
        for split in &mut self.splits {
            if split.wait == Wait::Barrier(barrier) {
                split.wait = Wait::Ready;
            }
        }
    }

    /// Where its threads are, for a report on a deadlock: "threads 0x0000ffff at line 12".
    pub fn whereabouts(&self, cx: &Context) -> String {
        let at = |split: &Split| {
            let pc = split.pc - u32::from(matches!(split.wait, Wait::Barrier(_)));
            let line = cx.kernel.instructions[pc as usize].pos.line;
            match split.wait {
                Wait::Barrier(index) => {
                    format!("threads {:#010x} at barrier {index} (line {line})", split.mask)
                }
                Wait::Parked(Awaited::Mbarrier(address)) => format!(
                    "threads {:#010x} at the mbarrier at {address:#x} (line {line}), {}",
                    split.mask,
                    cx.shared.mbarriers.lacks(u64::from(address))
                ),
                Wait::Parked(Awaited::Cluster) => {
                    format!(
                        "threads {:#010x} at the barrier of the cluster (line {line})",
                        split.mask
                    )
                }
                Wait::Parked(Awaited::Groups) => format!(
                    "threads {:#010x} at line {line}, for wgmma that other warps of the group have not come to",
                    split.mask
                ),
                _ => format!("threads {:#010x} at line {line}", split.mask),
            }
        };
        self.splits.iter().map(at).collect::<Vec<_>>().join(", ")
    }
}
