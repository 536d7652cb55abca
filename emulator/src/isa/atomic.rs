//! `atom` and `red`.

use super::memory::{SCOPES, Space};
use super::modifiers::Modifiers;
use super::scope::{Address, Scope};
use crate::lanes::Slot;
use crate::memory::Order;
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand};
use crate::syntax::ty::Ty;

/// What happens to the value in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Add,
    /// `old >= b ? 0 : old + 1`.
    Increment,
    /// `old == 0 || old > b ? b : old - 1`.
    Decrement,
    Min,
    Max,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    pub action: Action,
    pub ty: Ty,
    pub space: Space,
    pub order: Order,
    pub address: Address,
    /// Where the old value goes; `None` for `red` and for `atom` into `_`.
    pub d: Option<Slot>,
    pub b: Slot,
    /// The new value of a compare-and-swap.
    pub c: Slot,
}

const ACTIONS: &[(&str, Action)] = &[
    ("and", Action::And),
    ("or", Action::Or),
    ("xor", Action::Xor),
    ("exch", Action::Exchange),
    ("cas", Action::CompareSwap),
    ("add", Action::Add),
    ("inc", Action::Increment),
    ("dec", Action::Decrement),
    ("min", Action::Min),
    ("max", Action::Max),
];

fn types(action: Action, noftz: bool) -> &'static [Ty] {
    match (action, noftz) {
        (Action::Add, true) => &[Ty::F16, Ty::F16x2, Ty::Bf16, Ty::Bf16x2],
        (Action::Min | Action::Max, true) => &[],
        (_, true) => &[],
        (Action::And | Action::Or | Action::Xor, _) => &[Ty::B32, Ty::B64],
        (Action::Exchange, _) => &[Ty::B32, Ty::B64],
        (Action::CompareSwap, _) => &[Ty::B16, Ty::B32, Ty::B64],
        (Action::Add, _) => &[Ty::U32, Ty::S32, Ty::U64, Ty::F32, Ty::F64],
        (Action::Increment | Action::Decrement, _) => &[Ty::U32],
        (Action::Min | Action::Max, _) => &[Ty::U32, Ty::S32, Ty::U64, Ty::S64],
    }
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let is_reduction = instruction.opcode == "red";
    let mut modifiers = Modifiers::new(instruction);
    let order = match is_reduction {
        true => modifiers.choose(&[("relaxed", Order::Relaxed), ("release", Order::Release)]),
        false => modifiers.choose(&[
            ("relaxed", Order::Relaxed),
            ("acquire", Order::Acquire),
            ("release", Order::Release),
            ("acq_rel", Order::AcquireRelease),
        ]),
    };
    modifiers.choose(SCOPES);
    let spaces =
        &[("global", Space::Global), ("shared", Space::Shared), ("shared::cta", Space::Shared)];
    let space = modifiers.choose(spaces).unwrap_or(Space::Generic);
    let action = modifiers.require(ACTIONS)?;
    if is_reduction && matches!(action, Action::Exchange | Action::CompareSwap) {
        return Err(scope.refuse("red has no .exch and no .cas"));
    }
    let noftz = modifiers.take("noftz");
    let policy = modifiers.take("L2::cache_hint");
    let ty = modifiers.require_type(types(action, noftz))?;
    modifiers.end()?;
    if matches!(ty, Ty::Bf16 | Ty::Bf16x2) {
        scope.needs_target(90)?;
    }

    let operands = &instruction.operands[..];
    let values = 1 + usize::from(action == Action::CompareSwap);
    let expected = usize::from(!is_reduction) + 1 + values + usize::from(policy);
    scope.expect_operands(expected..=expected)?;
    let (d, rest) = match is_reduction {
        true => (None, operands),
        false => (Some(&operands[0]), &operands[1..]),
    };
    let address = scope.address(&rest[0])?;
    let b = scope.source(&rest[1], ty)?;
    let c = if values == 2 { scope.source(&rest[2], ty)? } else { b };
    if policy {
        scope.source(&operands[expected - 1], Ty::B64)?;
    }
    let d = match d {
        None | Some(Operand::Sink) => None,
        Some(operand) => Some(scope.destination(operand, ty)?),
    };
    Ok(Op { action, ty, space, order: order.unwrap_or(Order::Relaxed), address, d, b, c })
}
