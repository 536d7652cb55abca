//! Loads, stores, asynchronous copies and the conversion of addresses.

use super::Class;
use super::modifiers::{Modifiers, refuse};
use super::scope::{Address, Scope};
use crate::lanes::{Predicate, Slot};
use crate::memory::Order;
use crate::syntax::Result;
use crate::syntax::ast::{self, Instruction, Operand};
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] =
    &["ld", "ldu", "st", "cp", "cvta", "isspacep", "prefetch", "prefetchu", "createpolicy"];

/// Where an access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Const,
    /// The kernel's parameters.
    Param,
}

/// A register that a load fills: what is loaded is extended to the register's width.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub slot: Slot,
    pub wide: bool,
}

/// Up to four elements of one type from or to consecutive addresses.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    pub space: Space,
    pub address: Address,
    pub order: Order,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Loads sign-extend into a wider register.
    pub signed: bool,
    pub count: u8,
    pub elements: [Target; 4],
}

/// `cp.async`: `bytes` to shared memory, of which `source` come from global memory and the rest are zero.
#[derive(Debug, Clone, Copy)]
pub struct CopyAsync {
    pub shared: Address,
    pub global: Address,
    pub bytes: u8,
    /// A 32-bit register with the number of source bytes.
    pub source_bytes: Option<Slot>,
    /// The copy writes zeros where this predicate holds.
    pub ignore: Option<super::scope::Place>,
    pub ignore_negated: bool,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Load(Access),
    Store(Access),
    CopyAsync(CopyAsync),
    CommitGroup,
    /// Waits until at most this many groups are pending.
    WaitGroup(u32),
    WaitAll,
    /// `cvta`: an address in a space to a generic one, or back.
    ToGeneric {
        d: Slot,
        a: Slot,
        wide: bool,
        space: Space,
    },
    FromGeneric {
        d: Slot,
        a: Slot,
        wide: bool,
        space: Space,
    },
    IsSpace {
        p: Predicate,
        a: Slot,
        space: Space,
    },
    /// A prefetch: a hint without effect here.
    Prefetch,
    /// `createpolicy`: an opaque value that accesses ignore.
    Policy {
        d: Slot,
    },
}

impl Op {
    pub fn class(&self) -> Class {
        match self {
            Op::Load(access) => match access.space {
                Space::Generic => Class::LoadGeneric,
                Space::Global => Class::LoadGlobal,
                Space::Shared => Class::LoadShared,
                Space::Local => Class::LoadLocal,
                Space::Const | Space::Param => Class::LoadConstant,
            },
            Op::Store(access) => match access.space {
                Space::Shared => Class::StoreShared,
                Space::Local => Class::StoreLocal,
                Space::Global => Class::StoreGlobal,
                _ => Class::StoreGeneric,
            },
            Op::CopyAsync(_) | Op::CommitGroup | Op::WaitGroup(_) | Op::WaitAll => Class::AsyncCopy,
            Op::ToGeneric { .. } | Op::FromGeneric { .. } | Op::Policy { .. } => Class::Move,
            Op::IsSpace { .. } => Class::Compare,
            Op::Prefetch => Class::LoadGlobal,
        }
    }
}

const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Const),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("param::func", Space::Param),
];

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    match instruction.opcode.as_str() {
        "ld" => load(instruction, scope),
        "ldu" => load_uniform(instruction, scope),
        "st" => store(instruction, scope),
        "cp" => copy(instruction, scope),
        "cvta" => convert_address(instruction, scope),
        "isspacep" => is_space(instruction, scope),
        "createpolicy" => create_policy(instruction, scope),
        _ => prefetch(instruction, scope),
    }
}

/// `.gpu` and its like: how far the order of an access reaches.
pub const SCOPES: &[(&str, ())] = &[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())];

/// Skips an L1 or L2 eviction priority, which changes nothing here.
fn skip_eviction(modifiers: &mut Modifiers) {
    modifiers.choose(&[
        ("L1::evict_normal", ()),
        ("L1::evict_unchanged", ()),
        ("L1::evict_first", ()),
        ("L1::evict_last", ()),
        ("L1::no_allocate", ()),
    ]);
    modifiers.choose(&[("L2::evict_normal", ()), ("L2::evict_first", ()), ("L2::evict_last", ())]);
}

/// Skips the rest of the hints; whether a cache policy operand follows.
fn skip_hints(modifiers: &mut Modifiers) -> bool {
    let policy = modifiers.take("L2::cache_hint");
    modifiers.choose(&[("L2::64B", ()), ("L2::128B", ()), ("L2::256B", ())]);
    policy
}

/// The last operand of a `.L2::cache_hint` access.
fn check_policy(policy: bool, operand: Option<&Operand>, scope: &mut Scope) -> Result<()> {
    match (policy, operand) {
        (true, Some(operand)) => scope.source(operand, Ty::B64).map(|_| ()),
        (true, None) => {
            Err(scope.refuse(".L2::cache_hint needs a cache policy as the last operand"))
        }
        (false, Some(_)) => Err(scope.refuse("a cache policy needs the modifier .L2::cache_hint")),
        (false, None) => Ok(()),
    }
}

const LOADABLE: &[Ty] = &[
    Ty::B8,
    Ty::B16,
    Ty::B32,
    Ty::B64,
    Ty::U8,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S8,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F32,
    Ty::F64,
];

/// `.v2` or `.v4`, then the type: at most 16 bytes in all.
fn vector_type(modifiers: &mut Modifiers, instruction: &Instruction) -> Result<(u8, Ty)> {
    let count = modifiers.choose(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let ty = modifiers.require_type(LOADABLE)?;
    modifiers.end()?;
    if u32::from(count) * ty.bytes() > 16 {
        return Err(refuse(instruction, format!(".v{count}{ty} is wider than 16 bytes")));
    }
    Ok((count, ty))
}

fn order(modifiers: &mut Modifiers, release: bool) -> Result<Option<Order>> {
    if modifiers.take("weak") {
        return Ok(Some(Order::Weak));
    }
    if modifiers.take("volatile") {
        return Ok(Some(Order::Relaxed));
    }
    let strong = if release { ("release", Order::Release) } else { ("acquire", Order::Acquire) };
    let Some(order) = modifiers.choose(&[("relaxed", Order::Relaxed), strong]) else {
        return Ok(None);
    };
    modifiers.require(SCOPES)?;
    Ok(Some(order))
}

/// The space that modifier and symbol agree on: an inlined call's `.param` is local memory.
fn agree(space: Space, address: &Address, scope: &Scope) -> Result<Space> {
    use ast::Space as Of;
    let Some(symbol) = address.space else {
        return Ok(space);
    };
    match (space, symbol) {
        (Space::Param, Of::Local) => Ok(Space::Local),
        (Space::Param, Of::Param)
        | (Space::Local, Of::Local)
        | (Space::Shared, Of::Shared)
        | (Space::Const, Of::Const)
        | (Space::Global | Space::Generic, Of::Global) => Ok(space),
        _ => {
            Err(scope
                .refuse(format!("the symbol is in {symbol:?} memory, the access in {space:?}")))
        }
    }
}

fn load(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let order = order(&mut modifiers, false)?;
    let space = modifiers.choose(SPACES).unwrap_or(Space::Generic);
    if order.is_none_or(|order| order == Order::Weak) {
        modifiers.choose(&[("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ())]);
        if modifiers.take("nc") && space != Space::Global {
            return Err(scope.refuse(".nc needs .global"));
        }
    }
    skip_eviction(&mut modifiers);
    let policy = skip_hints(&mut modifiers);
    let (count, ty) = vector_type(&mut modifiers, instruction)?;
    scope.expect_operands(2..=3)?;
    check_policy(policy, instruction.operands.get(2), scope)?;
    let order = order.unwrap_or(Order::Weak);
    access(instruction, scope, space, order, (count, ty), false).map(Op::Load)
}

fn load_uniform(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.expect("global")?;
    let (count, ty) = vector_type(&mut modifiers, instruction)?;
    scope.expect_operands(2..=2)?;
    access(instruction, scope, Space::Global, Order::Weak, (count, ty), false).map(Op::Load)
}

fn store(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let order = order(&mut modifiers, true)?;
    let space = modifiers.choose(SPACES).unwrap_or(Space::Generic);
    if order.is_none_or(|order| order == Order::Weak) {
        modifiers.choose(&[("wb", ()), ("cg", ()), ("cs", ()), ("wt", ())]);
    }
    skip_eviction(&mut modifiers);
    let policy = modifiers.take("L2::cache_hint");
    let (count, ty) = vector_type(&mut modifiers, instruction)?;
    scope.expect_operands(2..=3)?;
    check_policy(policy, instruction.operands.get(2), scope)?;
    let order = order.unwrap_or(Order::Weak);
    let access = access(instruction, scope, space, order, (count, ty), true)?;
    match access.space {
        Space::Const => Err(scope.refuse("constant memory cannot be stored to")),
        Space::Param => Err(scope.refuse("a kernel's parameters cannot be stored to")),
        _ => Ok(Op::Store(access)),
    }
}

fn access(
    instruction: &Instruction,
    scope: &mut Scope,
    space: Space,
    order: Order,
    (count, ty): (u8, Ty),
    is_store: bool,
) -> Result<Access> {
    let (register, address) = match is_store {
        false => (&instruction.operands[0], &instruction.operands[1]),
        true => (&instruction.operands[1], &instruction.operands[0]),
    };
    let address = scope.address(address)?;
    let space = agree(space, &address, scope)?;
    let registers = Scope::elements(register);
    let is_vector = matches!(register, Operand::Vector(_));
    if registers.len() != usize::from(count) || is_vector != (count > 1) {
        return Err(
            scope.refuse(format!("{count} elements expected, the operand has {}", registers.len()))
        );
    }
    let mut elements = [Target { slot: Slot(0), wide: false }; 4];
    for (element, register) in elements.iter_mut().zip(registers) {
        let (slot, declared) = match (is_store, register) {
            (true, _) => scope.wide_source(register, ty)?,
            (false, Operand::Sink) => (scope.scratch(ty.bits() > 32), ty),
            (false, _) => scope.wide_destination(register, ty)?,
        };
        *element = Target { slot, wide: declared.bits() > 32 };
    }
    let (bytes, signed) = (ty.bytes() as u8, ty.is_signed());
    Ok(Access { space, address, order, bytes, signed, count, elements })
}

fn copy(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    if modifiers.peek() != Some("async") {
        return Err(refuse(instruction, "instruction cp without .async is not implemented"));
    }
    modifiers.expect("async")?;
    let operands = &instruction.operands[..];
    if modifiers.take("commit_group") {
        modifiers.end()?;
        scope.expect_operands(0..=0)?;
        return Ok(Op::CommitGroup);
    }
    if modifiers.take("wait_all") {
        modifiers.end()?;
        scope.expect_operands(0..=0)?;
        return Ok(Op::WaitAll);
    }
    if modifiers.take("wait_group") {
        modifiers.end()?;
        scope.expect_operands(1..=1)?;
        return match operands[0] {
            Operand::Int(count @ 0..=0xFFFF_FFFF) => Ok(Op::WaitGroup(count as u32)),
            _ => Err(scope.refuse("the number of pending groups is not a constant")),
        };
    }
    let only_16 = modifiers.require(&[("ca", false), ("cg", true)])?;
    modifiers.require(&[("shared", ()), ("shared::cta", ())])?;
    modifiers.expect("global")?;
    let policy = skip_hints(&mut modifiers);
    modifiers.end()?;
    scope.expect_operands(3..=5)?;
    let shared = scope.address(&operands[0])?;
    agree(Space::Shared, &shared, scope)?;
    let global = scope.address(&operands[1])?;
    agree(Space::Global, &global, scope)?;
    let bytes = match operands[2] {
        Operand::Int(16) => 16,
        Operand::Int(bytes @ (4 | 8)) if !only_16 => bytes as u8,
        _ if only_16 => return Err(scope.refuse("cp.async.cg copies 16 bytes")),
        _ => return Err(scope.refuse("cp.async.ca copies 4, 8 or 16 bytes")),
    };
    let mut rest = &operands[3..];
    if policy {
        let Some((last, before)) = rest.split_last() else {
            return Err(scope.refuse(".L2::cache_hint needs a cache policy as the last operand"));
        };
        check_policy(true, Some(last), scope)?;
        rest = before;
    }
    let mut op = CopyAsync {
        shared,
        global,
        bytes,
        source_bytes: None,
        ignore: None,
        ignore_negated: false,
    };
    match rest {
        [] => {}
        [operand] if is_predicate(operand, scope) => {
            let condition = scope.condition(operand)?;
            op.ignore = Some(super::scope::Place::Predicate(condition.predicate));
            op.ignore_negated = condition.negated;
        }
        [size] => {
            if let Operand::Int(size) = size
                && !(0..=i128::from(bytes)).contains(size)
            {
                return Err(scope.refuse(format!("{size} source bytes of a copy of {bytes}")));
            }
            op.source_bytes = Some(scope.source(size, Ty::U32)?);
        }
        _ => return Err(scope.refuse("too many operands")),
    }
    Ok(Op::CopyAsync(op))
}

fn is_predicate(operand: &Operand, scope: &Scope) -> bool {
    match operand {
        Operand::Not(_) => true,
        Operand::Reg(id) => scope.frame.function.registers[id.0 as usize].ty == Ty::Pred,
        _ => false,
    }
}

fn convert_address(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let from_generic = modifiers.take("to");
    let space = modifiers.require(SPACES)?;
    let ty = modifiers.require_type(&[Ty::U32, Ty::U64])?;
    modifiers.end()?;
    if ty == Ty::U32 {
        return Err(scope.refuse("cvta.u32 is for 32-bit addresses, .address_size is 64"));
    }
    scope.expect_operands(2..=2)?;
    let [d, a] = &instruction.operands[..] else { unreachable!("counted above") };
    let (d, a) = (scope.destination(d, ty)?, scope.source(a, ty)?);
    Ok(match from_generic {
        true => Op::FromGeneric { d, a, wide: true, space },
        false => Op::ToGeneric { d, a, wide: true, space },
    })
}

fn is_space(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let space = modifiers.require(SPACES)?;
    modifiers.end()?;
    scope.expect_operands(2..=2)?;
    let [p, a] = &instruction.operands[..] else { unreachable!("counted above") };
    Ok(Op::IsSpace { p: scope.predicate(p)?, a: scope.source(a, Ty::U64)?, space })
}

fn create_policy(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.expect("fractional")?;
    modifiers.require(&[
        ("L2::evict_last", ()),
        ("L2::evict_normal", ()),
        ("L2::evict_first", ()),
        ("L2::evict_unchanged", ()),
    ])?;
    modifiers.choose(&[("L2::evict_first", ()), ("L2::evict_unchanged", ())]);
    modifiers.expect("b64")?;
    modifiers.end()?;
    scope.expect_operands(1..=2)?;
    if let Some(fraction) = instruction.operands.get(1) {
        scope.source(fraction, Ty::F32)?;
    }
    Ok(Op::Policy { d: scope.destination(&instruction.operands[0], Ty::B64)? })
}

fn prefetch(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    if instruction.modifiers.iter().any(|name| name == "tensormap") {
        modifiers.choose(&[("param", ()), ("param::entry", ()), ("const", ())]);
        modifiers.expect("tensormap")?;
        modifiers.end()?;
        scope.needs_target(90)?;
        scope.expect_operands(1..=1)?;
        super::bulk::check_map(scope, &instruction.operands[0])?;
        return Ok(Op::Prefetch);
    }
    if instruction.opcode == "prefetchu" {
        modifiers.expect("L1")?;
    } else {
        modifiers.choose(&[("global", ()), ("local", ())]);
        modifiers.require(&[
            ("L1", ()),
            ("L2", ()),
            ("L2::evict_last", ()),
            ("L2::evict_normal", ()),
        ])?;
    }
    modifiers.end()?;
    scope.expect_operands(1..=1)?;
    scope.address(&instruction.operands[0])?;
    Ok(Op::Prefetch)
}
