//! One warp: its registers, its program counters, and the loop that executes it.
//!
//! Threads that are at different instructions form splits, each a program counter and a mask. The split that is furthest
//! behind runs, until it meets another: then they are one again. A split that spins is interrupted now and then, so that
//! the one it waits for can go on.

use super::block::Context;
use super::program::Inst;
use super::trace::{Step, Written};
use crate::isa::Op;
use crate::isa::control;
use crate::lanes::{Condition, Lanes, Predicate, Registers, Slot};
use crate::memory::Violation;
use crate::report::Check;
use crate::syntax::ty::Ty;

/// Instructions that a split may execute while others of its warp wait.
const PATIENCE: u64 = 1 << 14;

/// Threads of a warp at one instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Ready,
    /// At a warp-wide instruction, for the other threads that it names.
    Warp,
    /// At a block barrier, arrived.
    Barrier(u8),
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
}

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
    /// Not executed: other threads have to arrive first.
    Await,
    /// At a barrier of the block.
    Barrier(u8),
}

impl Warp {
    pub fn new(index: u32, rows: u32, predicates: u32) -> Warp {
        Warp {
            index,
            registers: Registers::new(rows, predicates),
            splits: Vec::with_capacity(32),
            live: 0,
            issued: 0,
        }
    }

    /// Starts over with these threads at the kernel's first instruction.
    pub fn start(&mut self, mask: u32) {
        self.registers.reset();
        self.splits.clear();
        self.splits.push(Split { pc: 0, mask, wait: Wait::Ready });
        self.live = mask;
        self.issued = 0;
    }

    /// Executes until it ends, all of it is at a barrier, or about `share` instructions were issued.
    pub fn run(&mut self, cx: &mut Context, share: u64) -> Outcome<Status> {
        let end = self.issued + share;
        // Which split runs next out of turn, after another was interrupted.
        let mut turn = None;
        loop {
            self.merge();
            let Some(chosen) = self.choose(turn.take()) else {
                if self.splits.is_empty() {
                    return Ok(Status::Done);
                }
                match self.resolve(cx)? {
                    true => continue,
                    false => return Ok(Status::AtBarrier),
                }
            };
            if self.issued >= end {
                return Ok(Status::Interrupted);
            }
            let alone = self.splits.len() == 1;
            let patience = if alone { end } else { end.min(self.issued + PATIENCE) };
            let pc = self.splits[chosen].pc;
            if !self.run_split(cx, chosen, patience)? && !alone && self.issued >= patience {
                // Out of patience: the next ready split gets a turn, wherever it is.
                turn = Some(pc);
            }
        }
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
                self.splits.swap_remove(other);
            }
        }
    }

    /// The ready split that is furthest behind, or after an interruption, the next one behind `after` in the text.
    fn choose(&self, after: Option<u32>) -> Option<usize> {
        let ready = || {
            let all = self.splits.iter().enumerate();
            all.filter(|(_, split)| split.wait == Wait::Ready)
                .map(|(index, split)| (split.pc, index))
        };
        if let Some(pc) = after
            && let Some((_, index)) = ready().filter(|&(other, _)| other > pc).min()
        {
            return Some(index);
        }
        ready().min().map(|(_, index)| index)
    }

    /// No thread can run: tries every waiting instruction once more, as threads may have exited. False if all that is left
    /// to do is to wait for a barrier.
    fn resolve(&mut self, cx: &mut Context) -> Outcome<bool> {
        for index in 0..self.splits.len() {
            if self.splits[index].wait == Wait::Warp {
                self.splits[index].wait = Wait::Ready;
                let before = self.issued;
                let pc = self.splits[index].pc;
                self.run_split(cx, index, before + 1)?;
                let is_waiting = |split: &Split| split.pc == pc && split.wait == Wait::Warp;
                if !self.splits.iter().any(is_waiting) {
                    return Ok(true);
                }
            }
        }
        if self.splits.iter().any(|split| matches!(split.wait, Wait::Barrier(_))) {
            return Ok(false);
        }
        let split = self.splits.iter().find(|split| split.wait == Wait::Warp);
        let split = *split.expect("called with a waiting split");
        let mut what = format!(
            "threads {:#010x} of the warp wait for the other threads that the instruction names; ",
            split.mask
        );
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

    /// Executes one split until it meets another, waits, ends, or `end` instructions were issued by the warp; whether it
    /// stopped for another reason than the last.
    fn run_split(&mut self, cx: &mut Context, chosen: usize, end: u64) -> Outcome<bool> {
        let Split { mut pc, mask, .. } = self.splits[chosen];
        let kernel = cx.kernel;
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
                cx.count(inst.class, 0);
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
                if matches!(next, Next::Await) {
                    self.splits[chosen] = Split { pc, mask: active, wait: Wait::Warp };
                    if active != mask {
                        let rest = mask & !active;
                        self.splits.push(Split { pc: pc + 1, mask: rest, wait: Wait::Ready });
                    }
                    return Ok(true);
                }
                cx.count(inst.class, active);
                self.issued += 1;
                if let Some(trace) = &cx.options.trace {
                    trace.step(&self.step(cx, inst, active));
                }
                match next {
                    Next::Step => {
                        let written = self.registers.written_mut();
                        for &place in inst.writes.of(&kernel.places) {
                            written[place as usize] |= active;
                        }
                        pc += 1;
                    }
                    Next::Jump(target) if active == mask => pc = target,
                    Next::Jump(target) => {
                        cx.counts.divergent_branches += 1;
                        self.splits[chosen] =
                            Split { pc: pc + 1, mask: mask & !active, wait: Wait::Ready };
                        self.splits.push(Split { pc: target, mask: active, wait: Wait::Ready });
                        return Ok(true);
                    }
                    Next::Scatter(targets) => {
                        cx.counts.divergent_branches += 1;
                        self.splits.swap_remove(chosen);
                        for &(pc, mask) in &targets {
                            self.splits.push(Split { pc, mask, wait: Wait::Ready });
                        }
                        if mask != active {
                            let rest = mask & !active;
                            self.splits.push(Split { pc: pc + 1, mask: rest, wait: Wait::Ready });
                        }
                        return Ok(true);
                    }
                    Next::Exit => {
                        self.live &= !active;
                        cx.threads_ended(active);
                        if active == mask {
                            self.splits.swap_remove(chosen);
                        } else {
                            let rest = mask & !active;
                            self.splits[chosen] =
                                Split { pc: pc + 1, mask: rest, wait: Wait::Ready };
                        }
                        return Ok(true);
                    }
                    Next::Barrier(index) => {
                        let written = self.registers.written_mut();
                        for &place in inst.writes.of(&kernel.places) {
                            written[place as usize] |= active;
                        }
                        // The threads go on behind the barrier when it opens.
                        self.splits[chosen] =
                            Split { pc: pc + 1, mask: active, wait: Wait::Barrier(index) };
                        if active != mask {
                            let rest = mask & !active;
                            self.splits.push(Split { pc: pc + 1, mask: rest, wait: Wait::Ready });
                        }
                        return Ok(true);
                    }
                    Next::Await => unreachable!("returned above"),
                }
            }
            if pc >= meet {
                self.splits[chosen].pc = pc;
                return Ok(true);
            }
        }
        self.splits[chosen].pc = pc;
        Ok(false)
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
            Op::Warp(op) => self.warp_wide(cx, op, active, pc),
            Op::Matrix(op) => self.matrix(cx, op, active, pc),
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
                _ => format!("threads {:#010x} at line {line}", split.mask),
            }
        };
        self.splits.iter().map(at).collect::<Vec<_>>().join(", ")
    }
}
