//! Instructions that reach across a warp or a block: shuffles, votes, barriers and fences.

use super::Class;
use super::modifiers::{Modifiers, refuse};
use super::scope::Scope;
use crate::lanes::{Condition, Predicate, Slot};
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand};
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] =
    &["shfl", "vote", "match", "redux", "elect", "activemask", "bar", "barrier", "membar", "fence"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    And,
    Or,
    Xor,
    Add,
    Min,
    Max,
}

/// How far a fence reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceScope {
    Block,
    Device,
    System,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Shuffle {
        mode: Shuffle,
        d: Slot,
        p: Option<Predicate>,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    Vote {
        mode: Vote,
        d: Option<Slot>,
        p: Option<Predicate>,
        a: Condition,
        members: Slot,
    },
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        p: Option<Predicate>,
        a: Slot,
        members: Slot,
    },
    Redux {
        mode: Reduce,
        signed: bool,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    Elect {
        d: Option<Slot>,
        p: Predicate,
        members: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    WarpBarrier {
        members: Slot,
    },
    /// `bar.sync` and `barrier.sync`.
    Barrier {
        index: Slot,
        threads: Option<Slot>,
        aligned: bool,
    },
    BarrierArrive {
        index: Slot,
        threads: Slot,
        aligned: bool,
    },
    /// `bar.red`: `.popc` into `d`, `.and` and `.or` into `p`.
    BarrierReduce {
        index: Slot,
        threads: Option<Slot>,
        aligned: bool,
        mode: BarrierReduction,
        a: Condition,
    },
    Fence {
        scope: FenceScope,
    },
    /// `fence.proxy.async`: what was written to shared memory before can be read by `wgmma` after.
    ProxyFence,
}

/// What threads that name each other do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    Shuffle(Shuffle),
    Vote(Vote),
    Match { all: bool, wide: bool },
    Redux { mode: Reduce, signed: bool },
    Elect,
    Barrier,
}

/// What a `bar.red` counts and where its result goes.
#[derive(Debug, Clone, Copy)]
pub enum BarrierReduction {
    Popc(Slot),
    And(Predicate),
    Or(Predicate),
}

impl Op {
    /// What the threads of a member mask do; `None` for an instruction without one.
    pub fn collective(&self) -> Option<Collective> {
        Some(match *self {
            Op::Shuffle { mode, .. } => Collective::Shuffle(mode),
            Op::Vote { mode, .. } => Collective::Vote(mode),
            Op::Match { all, wide, .. } => Collective::Match { all, wide },
            Op::Redux { mode, signed, .. } => Collective::Redux { mode, signed },
            Op::Elect { .. } => Collective::Elect,
            Op::WarpBarrier { .. } => Collective::Barrier,
            Op::ActiveMask { .. }
            | Op::Barrier { .. }
            | Op::BarrierArrive { .. }
            | Op::BarrierReduce { .. }
            | Op::Fence { .. }
            | Op::ProxyFence => return None,
        })
    }

    pub fn class(&self) -> Class {
        match self {
            Op::Barrier { .. }
            | Op::BarrierArrive { .. }
            | Op::BarrierReduce { .. }
            | Op::WarpBarrier { .. } => Class::Barrier,
            Op::Fence { .. } | Op::ProxyFence => Class::Fence,
            _ => Class::Warp,
        }
    }
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    match instruction.opcode.as_str() {
        "shfl" => shuffle(instruction, scope),
        "vote" => vote(instruction, scope),
        "match" => matching(instruction, scope),
        "redux" => redux(instruction, scope),
        "elect" => elect(instruction, scope),
        "activemask" => {
            let mut modifiers = Modifiers::new(instruction);
            modifiers.expect("b32")?;
            modifiers.end()?;
            scope.expect_operands(1..=1)?;
            Ok(Op::ActiveMask { d: scope.destination(&instruction.operands[0], Ty::B32)? })
        }
        "membar" | "fence" => fence(instruction, scope),
        _ => barrier(instruction, scope),
    }
}

/// `.sync`, which every architecture since sm_70 demands.
fn synchronous(modifiers: &mut Modifiers, instruction: &Instruction) -> Result<()> {
    if modifiers.take("sync") {
        return Ok(());
    }
    let opcode = &instruction.opcode;
    Err(refuse(instruction, format!("{opcode} without .sync does not exist since sm_70")))
}

/// `d|p` or `d`.
fn pair(operand: &Operand) -> (&Operand, Option<&Operand>) {
    match operand {
        Operand::Pair(d, p) => (d, Some(p)),
        d => (d, None),
    }
}

fn shuffle(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    synchronous(&mut modifiers, instruction)?;
    let mode = modifiers.require(&[
        ("up", Shuffle::Up),
        ("down", Shuffle::Down),
        ("bfly", Shuffle::Butterfly),
        ("idx", Shuffle::Index),
    ])?;
    modifiers.expect("b32")?;
    modifiers.end()?;
    scope.expect_operands(5..=5)?;
    let [dp, a, b, c, members] = &instruction.operands[..] else { unreachable!("counted above") };
    let (d, p) = pair(dp);
    let a = scope.source(a, Ty::B32)?;
    let (b, c) = (scope.source(b, Ty::B32)?, scope.source(c, Ty::B32)?);
    let members = scope.source(members, Ty::B32)?;
    let d = scope.destination_or_sink(d, Ty::B32)?;
    let p = p.map(|p| scope.predicate(p)).transpose()?;
    Ok(Op::Shuffle { mode, d, p, a, b, c, members })
}

fn vote(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    synchronous(&mut modifiers, instruction)?;
    let mode = modifiers.require(&[
        ("all", Vote::All),
        ("any", Vote::Any),
        ("uni", Vote::Uniform),
        ("ballot", Vote::Ballot),
    ])?;
    modifiers.expect(if mode == Vote::Ballot { "b32" } else { "pred" })?;
    modifiers.end()?;
    scope.expect_operands(3..=3)?;
    let [d, a, members] = &instruction.operands[..] else { unreachable!("counted above") };
    let a = scope.condition(a)?;
    let members = scope.source(members, Ty::B32)?;
    let (d, p) = match mode {
        Vote::Ballot => (Some(scope.destination_or_sink(d, Ty::B32)?), None),
        _ => (None, Some(scope.predicate(d)?)),
    };
    Ok(Op::Vote { mode, d, p, a, members })
}

fn matching(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let all = modifiers.require(&[("any", false), ("all", true)])?;
    synchronous(&mut modifiers, instruction)?;
    let ty = modifiers.require_type(&[Ty::B32, Ty::B64])?;
    modifiers.end()?;
    scope.expect_operands(3..=3)?;
    let [dp, a, members] = &instruction.operands[..] else { unreachable!("counted above") };
    let (d, p) = pair(dp);
    if p.is_some() && !all {
        return Err(scope.refuse("only match.all gives a predicate"));
    }
    let a = scope.source(a, ty)?;
    let members = scope.source(members, Ty::B32)?;
    let d = scope.destination_or_sink(d, Ty::B32)?;
    let p = p.map(|p| scope.predicate(p)).transpose()?;
    Ok(Op::Match { all, wide: ty == Ty::B64, d, p, a, members })
}

fn redux(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    scope.needs_target(80)?;
    let mut modifiers = Modifiers::new(instruction);
    synchronous(&mut modifiers, instruction)?;
    let mode = modifiers.require(&[
        ("and", Reduce::And),
        ("or", Reduce::Or),
        ("xor", Reduce::Xor),
        ("add", Reduce::Add),
        ("min", Reduce::Min),
        ("max", Reduce::Max),
    ])?;
    let ty = match mode {
        Reduce::And | Reduce::Or | Reduce::Xor => modifiers.require_type(&[Ty::B32])?,
        _ => modifiers.require_type(&[Ty::U32, Ty::S32])?,
    };
    modifiers.end()?;
    scope.expect_operands(3..=3)?;
    let [d, a, members] = &instruction.operands[..] else { unreachable!("counted above") };
    let a = scope.source(a, ty)?;
    let members = scope.source(members, Ty::B32)?;
    let d = scope.destination(d, ty)?;
    Ok(Op::Redux { mode, signed: ty == Ty::S32, d, a, members })
}

fn elect(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    scope.needs_target(90)?;
    let mut modifiers = Modifiers::new(instruction);
    synchronous(&mut modifiers, instruction)?;
    modifiers.end()?;
    scope.expect_operands(2..=2)?;
    let [dp, members] = &instruction.operands[..] else { unreachable!("counted above") };
    let (d, Some(p)) = pair(dp) else {
        return Err(scope.refuse("the destination is a pair: d|p or _|p"));
    };
    let members = scope.source(members, Ty::B32)?;
    let d = match d {
        Operand::Sink => None,
        d => Some(scope.destination(d, Ty::B32)?),
    };
    Ok(Op::Elect { d, p: scope.predicate(p)?, members })
}

fn fence(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let reach = match instruction.opcode.as_str() {
        "membar" => modifiers.require(&[
            ("cta", FenceScope::Block),
            ("gl", FenceScope::Device),
            ("sys", FenceScope::System),
        ])?,
        _ if modifiers.take("proxy") => return proxy_fence(scope, &mut modifiers),
        // What it orders, barriers order here too.
        _ if modifiers.take("mbarrier_init") => {
            modifiers.expect("release")?;
            modifiers.expect("cluster")?;
            scope.needs_target(90)?;
            FenceScope::Block
        }
        _ => {
            modifiers.choose(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
            modifiers.require(&[
                ("cta", FenceScope::Block),
                ("cluster", FenceScope::Device),
                ("gpu", FenceScope::Device),
                ("sys", FenceScope::System),
            ])?
        }
    };
    modifiers.end()?;
    scope.expect_operands(0..=0)?;
    Ok(Op::Fence { scope: reach })
}

fn proxy_fence(scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    modifiers.expect("async")?;
    modifiers.choose(&[("shared::cta", ()), ("shared::cluster", ()), ("global", ())]);
    modifiers.end()?;
    scope.needs_target(90)?;
    scope.expect_operands(0..=0)?;
    Ok(Op::ProxyFence)
}

fn barrier(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let is_bar = instruction.opcode == "bar";
    if is_bar && modifiers.take("warp") {
        modifiers.expect("sync")?;
        modifiers.end()?;
        scope.expect_operands(1..=1)?;
        return Ok(Op::WarpBarrier { members: scope.source(&instruction.operands[0], Ty::B32)? });
    }
    modifiers.take("cta");
    let operands = &instruction.operands[..];
    let form = modifiers.require(&[("sync", 's'), ("arrive", 'a'), ("red", 'r')])?;
    let reduction = match form {
        'r' => Some(modifiers.require(&[("popc", 'p'), ("and", 'a'), ("or", 'o')])?),
        _ => None,
    };
    // `bar` is the aligned form of `barrier`.
    let aligned = is_bar || modifiers.take("aligned");
    match reduction {
        Some('p') => modifiers.expect("u32")?,
        Some(_) => modifiers.expect("pred")?,
        None => {}
    }
    modifiers.end()?;
    if form == 's' {
        scope.expect_operands(1..=2)?;
        let index = barrier_index(&operands[0], scope)?;
        let threads = operands.get(1).map(|b| thread_count(b, scope)).transpose()?;
        return Ok(Op::Barrier { index, threads, aligned });
    }
    if form == 'a' {
        scope.expect_operands(2..=2)?;
        let index = barrier_index(&operands[0], scope)?;
        return Ok(Op::BarrierArrive {
            index,
            threads: thread_count(&operands[1], scope)?,
            aligned,
        });
    }
    scope.expect_operands(3..=4)?;
    let (d, index) = (&operands[0], barrier_index(&operands[1], scope)?);
    let threads = match operands.len() {
        4 => Some(thread_count(&operands[2], scope)?),
        _ => None,
    };
    let a = scope.condition(&operands[operands.len() - 1])?;
    let mode = match reduction {
        Some('p') => BarrierReduction::Popc(scope.destination(d, Ty::U32)?),
        Some('a') => BarrierReduction::And(scope.predicate(d)?),
        _ => BarrierReduction::Or(scope.predicate(d)?),
    };
    Ok(Op::BarrierReduce { index, threads, aligned, mode, a })
}

fn barrier_index(operand: &Operand, scope: &mut Scope) -> Result<Slot> {
    if let Operand::Int(index) = operand
        && !(0..16).contains(index)
    {
        return Err(scope.refuse(format!("barrier {index} does not exist: there are 0 to 15")));
    }
    scope.source(operand, Ty::U32)
}

fn thread_count(operand: &Operand, scope: &mut Scope) -> Result<Slot> {
    if let Operand::Int(threads) = operand
        && (*threads <= 0 || threads % 32 != 0)
    {
        return Err(scope.refuse(format!("{threads} threads: a positive multiple of 32 is needed")));
    }
    scope.source(operand, Ty::U32)
}
