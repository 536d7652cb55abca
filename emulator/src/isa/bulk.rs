//! What came with sm_90's asynchronous units: mbarriers, bulk copies by tensor maps or addresses, and clusters of blocks.

use super::Class;
use super::modifiers::{Modifiers, refuse};
use super::scope::{Address, Scope};
use crate::lanes::{Predicate, Slot};
use crate::syntax::Result;
use crate::syntax::ast::{self, Base, Instruction, Operand};
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] = &["mbarrier", "mapa", "setmaxnreg"];

/// How an address in shared memory is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Of the own block.
    Block,
    /// Of a block of the cluster, as `mapa` gives it; of the own one too.
    Cluster,
    /// A generic address of the own block.
    Generic,
}

/// `mbarrier.arrive`, with or without bytes that are announced.
#[derive(Debug, Clone, Copy)]
pub struct Arrive {
    pub address: Address,
    pub reach: Reach,
    pub count: Option<Slot>,
    pub bytes: Option<Slot>,
    pub state: Option<Slot>,
    pub releases: bool,
    /// `arrive_drop`: later phases expect it no more.
    pub drops: bool,
}

/// `mbarrier.try_wait` and `mbarrier.test_wait`.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub p: Predicate,
    pub address: Address,
    pub reach: Reach,
    /// A parity, or with `is_state` what an arrival gave.
    pub phase: Slot,
    pub is_state: bool,
    pub acquires: bool,
}

/// A bulk copy into shared memory.
#[derive(Debug, Clone)]
pub struct Load {
    pub to: Address,
    pub from: Source,
    pub barrier: Address,
    /// A mask of ranks, 16 bits.
    pub multicast: Option<Slot>,
}

/// A bulk copy out of shared memory.
#[derive(Debug, Clone)]
pub struct Store {
    pub to: Source,
    pub from: Address,
}

/// The side of a bulk copy in global memory.
#[derive(Debug, Clone)]
pub enum Source {
    /// A map at a generic address, and the place of the box.
    Tensor { map: Slot, at: Vec<Slot> },
    /// An address, and how many bytes.
    Bytes { address: Address, bytes: Slot },
}

/// A decoded instruction.
#[derive(Debug, Clone)]
pub enum Op {
    Init {
        address: Address,
        reach: Reach,
        count: Slot,
    },
    Invalidate {
        address: Address,
        reach: Reach,
    },
    Arrive(Box<Arrive>),
    ExpectBytes {
        address: Address,
        reach: Reach,
        bytes: Slot,
    },
    Wait(Box<Wait>),
    Load(Box<Load>),
    Store(Box<Store>),
    /// Stores become a group.
    CommitGroup,
    /// Waits until at most so many groups of stores are pending, or, with `is_read`, have not read shared memory.
    WaitGroup {
        pending: u32,
        is_read: bool,
    },
    /// `mapa`: the address in the window of the cluster.
    Map {
        d: Slot,
        a: Slot,
        rank: Slot,
    },
    ClusterArrive {
        releases: bool,
        aligned: bool,
    },
    ClusterWait {
        acquires: bool,
        aligned: bool,
    },
    /// `setmaxnreg`: the emulator has as many registers as the text declares.
    MaxRegisters,
}

impl Op {
    pub fn class(&self) -> Class {
        match self {
            Op::Load(_) | Op::Store(_) | Op::CommitGroup | Op::WaitGroup { .. } => Class::AsyncCopy,
            Op::Map { .. } => Class::Move,
            Op::MaxRegisters => Class::Control,
            _ => Class::Barrier,
        }
    }
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    match instruction.opcode.as_str() {
        "mbarrier" => mbarrier(instruction, scope),
        "mapa" => mapa(instruction, scope),
        _ => max_registers(instruction, scope),
    }
}

/// The space behind an mbarrier's modifiers; nothing is a generic address.
fn reach(modifiers: &mut Modifiers) -> Reach {
    let spaces = [
        ("shared", Reach::Block),
        ("shared::cta", Reach::Block),
        ("shared::cluster", Reach::Cluster),
    ];
    modifiers.choose(&spaces).unwrap_or(Reach::Generic)
}

fn shared_address(scope: &mut Scope, operand: &Operand) -> Result<Address> {
    let address = scope.address(operand)?;
    match address.space {
        None | Some(ast::Space::Shared) => Ok(address),
        Some(_) => Err(scope.refuse("the address is not in shared memory")),
    }
}

fn mbarrier(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    scope.needs_target(90)?;
    let mut modifiers = Modifiers::new(instruction);
    let operands = &instruction.operands[..];
    let name = modifiers.require(&[
        ("init", 'i'),
        ("inval", 'v'),
        ("arrive", 'a'),
        ("arrive_drop", 'd'),
        ("expect_tx", 'e'),
        ("try_wait", 't'),
        ("test_wait", 't'),
    ])?;
    match name {
        'i' | 'v' => {
            let reach = reach(&mut modifiers);
            modifiers.expect("b64")?;
            modifiers.end()?;
            let count = 1 + usize::from(name == 'i');
            scope.expect_operands(count..=count)?;
            if reach == Reach::Cluster {
                return Err(scope.refuse("an mbarrier of the own block is expected"));
            }
            let address = shared_address(scope, &operands[0])?;
            Ok(match operands.get(1) {
                None => Op::Invalidate { address, reach },
                Some(count) => Op::Init { address, reach, count: scope.source(count, Ty::U32)? },
            })
        }
        't' => wait(instruction, scope, &mut modifiers),
        'e' => {
            modifiers.expect("relaxed")?;
            modifiers.require(&[("cta", ()), ("cluster", ())])?;
            let reach = reach(&mut modifiers);
            modifiers.expect("b64")?;
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let address = shared_address(scope, &operands[0])?;
            Ok(Op::ExpectBytes { address, reach, bytes: scope.source(&operands[1], Ty::U32)? })
        }
        _ => {
            let expects = modifiers.take("expect_tx");
            if modifiers.peek() == Some("noComplete") {
                return Err(refuse(instruction, "noComplete is not implemented"));
            }
            let releases = order(&mut modifiers, "release")?;
            let reach = reach(&mut modifiers);
            modifiers.expect("b64")?;
            modifiers.end()?;
            let most = 3;
            scope.expect_operands(2 + usize::from(expects)..=most)?;
            let address = shared_address(scope, &operands[1])?;
            let extra = operands.get(2).map(|n| scope.source(n, Ty::U32)).transpose()?;
            let (count, bytes) = if expects { (None, extra) } else { (extra, None) };
            let state = match &operands[0] {
                Operand::Sink => None,
                _ if reach == Reach::Cluster => {
                    return Err(scope.refuse("an arrival in .shared::cluster gives no state: '_'"));
                }
                state => Some(scope.destination(state, Ty::B64)?),
            };
            let drops = name == 'd';
            Ok(Op::Arrive(Box::new(Arrive {
                address,
                reach,
                count,
                bytes,
                state,
                releases,
                drops,
            })))
        }
    }
}

/// `.release.cta`, `.acquire.cluster` or `.relaxed.cta`; whether it is not relaxed, as without any.
fn order(modifiers: &mut Modifiers, strong: &str) -> Result<bool> {
    let scopes = [("cta", ()), ("cluster", ())];
    match modifiers.choose(&[(strong, true), ("relaxed", false)]) {
        None => {
            modifiers.choose(&scopes);
            Ok(true)
        }
        Some(is_strong) => {
            match is_strong {
                true => _ = modifiers.choose(&scopes),
                false => modifiers.require(&scopes)?,
            }
            Ok(is_strong)
        }
    }
}

fn wait(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    let tries = instruction.modifiers.first().is_some_and(|name| name == "try_wait");
    let is_state = !modifiers.take("parity");
    let acquires = order(modifiers, "acquire")?;
    let reach = reach(modifiers);
    modifiers.expect("b64")?;
    modifiers.end()?;
    scope.expect_operands(3..=3 + usize::from(tries))?;
    if reach == Reach::Cluster {
        return Err(scope.refuse("an mbarrier of the own block is expected"));
    }
    let [p, address, phase, hint @ ..] = &instruction.operands[..] else {
        unreachable!("counted above")
    };
    let address = shared_address(scope, address)?;
    let phase = scope.source(phase, if is_state { Ty::B64 } else { Ty::U32 })?;
    if let [hint] = hint {
        scope.source(hint, Ty::U32)?;
    }
    let p = scope.predicate(p)?;
    Ok(Op::Wait(Box::new(Wait { p, address, reach, phase, is_state, acquires })))
}

fn mapa(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    scope.needs_target(90)?;
    let mut modifiers = Modifiers::new(instruction);
    if !modifiers.take("shared::cluster") {
        return Err(refuse(instruction, "mapa of generic addresses is not implemented"));
    }
    if modifiers.peek() == Some("u64") {
        return Err(refuse(instruction, "mapa with 64 bits is not implemented"));
    }
    modifiers.expect("u32")?;
    modifiers.end()?;
    scope.expect_operands(3..=3)?;
    let [d, a, rank] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, rank) = (scope.source(a, Ty::U32)?, scope.source(rank, Ty::U32)?);
    Ok(Op::Map { d: scope.destination(d, Ty::U32)?, a, rank })
}

fn max_registers(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    scope.needs_specific_target(90)?;
    let mut modifiers = Modifiers::new(instruction);
    modifiers.require(&[("inc", ()), ("dec", ())])?;
    for name in ["sync", "aligned", "u32"] {
        modifiers.expect(name)?;
    }
    modifiers.end()?;
    scope.expect_operands(1..=1)?;
    match instruction.operands[0] {
        Operand::Int(count) if (24..=256).contains(&count) && count % 8 == 0 => {
            Ok(Op::MaxRegisters)
        }
        _ => Err(scope.refuse("a constant multiple of 8 from 24 to 256 is expected")),
    }
}

/// `barrier.cluster`, with `cluster` already taken.
pub fn cluster_barrier(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
) -> Result<Op> {
    scope.needs_target(90)?;
    let arrives = modifiers.require(&[("arrive", true), ("wait", false)])?;
    let is_strong = match arrives {
        true => modifiers.choose(&[("release", true), ("relaxed", false)]),
        false => modifiers.choose(&[("acquire", true)]),
    }
    .unwrap_or(true);
    let aligned = modifiers.take("aligned");
    modifiers.end()?;
    scope.expect_operands(0..=0)?;
    debug_assert_eq!(instruction.opcode, "barrier");
    Ok(match arrives {
        true => Op::ClusterArrive { releases: is_strong, aligned },
        false => Op::ClusterWait { acquires: is_strong, aligned },
    })
}

/// `cp.async.bulk`, with `async` and `bulk` already taken.
pub fn copy(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    scope.needs_target(90)?;
    let operands = &instruction.operands[..];
    if modifiers.take("commit_group") {
        modifiers.end()?;
        scope.expect_operands(0..=0)?;
        return Ok(Op::CommitGroup);
    }
    if modifiers.take("wait_group") {
        let is_read = modifiers.take("read");
        modifiers.end()?;
        scope.expect_operands(1..=1)?;
        return match operands[0] {
            Operand::Int(pending @ 0..=0x7FFF_FFFF) => {
                Ok(Op::WaitGroup { pending: pending as u32, is_read })
            }
            _ => Err(scope.refuse("the number of pending groups is not a constant")),
        };
    }
    if let Some(name @ ("prefetch" | "reduce")) = modifiers.peek() {
        return Err(refuse(instruction, format!("bulk copies with .{name} are not implemented")));
    }
    let rank = match modifiers.take("tensor") {
        true => {
            Some(modifiers.require(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)])?)
        }
        false => None,
    };
    let loads = modifiers.require(&[
        ("shared::cluster", true),
        ("shared::cta", true),
        ("global", false),
    ])?;
    let to_block = instruction.modifiers.iter().any(|name| name == "shared::cta");
    match loads {
        true => modifiers.expect("global")?,
        false => modifiers.expect("shared::cta")?,
    }
    if let Some(name @ ("im2col" | "tile::gather4" | "im2col_no_offs")) = modifiers.peek() {
        return Err(refuse(instruction, format!("bulk copies of .{name} are not implemented")));
    }
    if rank.is_some() {
        modifiers.take("tile");
    }
    match loads {
        true => modifiers.expect("mbarrier::complete_tx::bytes")?,
        false => modifiers.expect("bulk_group")?,
    }
    let multicasts = loads && modifiers.take("multicast::cluster");
    let has_policy = modifiers.take("L2::cache_hint");
    modifiers.end()?;
    if multicasts && to_block {
        return Err(scope.refuse("a multicast goes to .shared::cluster"));
    }
    let plain = usize::from(rank.is_none());
    let count = 2 + plain + usize::from(loads) + usize::from(multicasts) + usize::from(has_policy);
    scope.expect_operands(count..=count)?;
    if has_policy {
        scope.source(&operands[count - 1], Ty::B64)?;
    }
    let (global, bytes) = match (loads, rank) {
        (true, _) => (&operands[1], operands.get(2)),
        (false, _) => (&operands[0], operands.get(2)),
    };
    let side = match rank {
        Some(rank) => tensor(scope, global, rank)?,
        None => {
            let address = scope.address(global)?;
            if !matches!(address.space, None | Some(ast::Space::Global)) {
                return Err(scope.refuse("the address is not in global memory"));
            }
            let bytes = bytes.ok_or_else(|| scope.refuse("the number of bytes is missing"))?;
            if let Operand::Int(bytes) = bytes
                && bytes % 16 != 0
            {
                return Err(scope.refuse("the number of bytes is no multiple of 16"));
            }
            Source::Bytes { address, bytes: scope.source(bytes, Ty::U32)? }
        }
    };
    if !loads {
        let from = shared_address(scope, &operands[1])?;
        return Ok(Op::Store(Box::new(Store { to: side, from })));
    }
    let to = shared_address(scope, &operands[0])?;
    let barrier = shared_address(scope, &operands[2 + plain])?;
    let multicast = match multicasts {
        true => Some(scope.source(&operands[3 + plain], Ty::U16)?),
        false => None,
    };
    Ok(Op::Load(Box::new(Load { to, from: side, barrier, multicast })))
}

/// `[map, {x, y}]`.
fn tensor(scope: &mut Scope, operand: &Operand, rank: usize) -> Result<Source> {
    let Operand::AddressList(parts) = operand else {
        return Err(scope.refuse("a tensor map and a place are expected: [map, {x, y}]"));
    };
    let [map, Operand::Vector(place)] = &parts[..] else {
        return Err(scope.refuse("a tensor map and a place are expected: [map, {x, y}]"));
    };
    if place.len() != rank {
        return Err(
            scope.refuse(format!("a place of {rank} numbers is expected, got {}", place.len()))
        );
    }
    let map = match map {
        Operand::Symbol { .. } => {
            return Err(scope.refuse("the generic address of a tensor map is in a register"));
        }
        map => scope.source(map, Ty::U64)?,
    };
    let at = place.iter().map(|at| scope.source(at, Ty::S32)).collect::<Result<Vec<Slot>>>()?;
    Ok(Source::Tensor { map, at })
}

/// Whether an operand is an address that a register holds, for `prefetch.tensormap`.
pub fn check_map(scope: &mut Scope, operand: &Operand) -> Result<()> {
    let address = scope.address(operand)?;
    let is_symbol = matches!(operand, Operand::Address { base: Some(Base::Symbol(_)), .. });
    match (is_symbol, address.space) {
        (false, _) | (true, Some(ast::Space::Param | ast::Space::Global | ast::Space::Const)) => {
            Ok(())
        }
        _ => Err(scope.refuse("a tensor map is in parameters, constants or global memory")),
    }
}
