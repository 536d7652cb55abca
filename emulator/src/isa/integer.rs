//! Integer arithmetic.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Lanes, Slot};
use crate::syntax::Result;
use crate::syntax::ast::Instruction;
use crate::syntax::ty::Ty;

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Add32 { d: Slot, a: Slot, b: Slot },
    Add64 { d: Slot, a: Slot, b: Slot },
    Sub32 { d: Slot, a: Slot, b: Slot },
    Sub64 { d: Slot, a: Slot, b: Slot },
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let ty = modifiers.require_type(&[Ty::U32, Ty::S32, Ty::U64, Ty::S64])?;
    modifiers.end()?;
    scope.expect_operands(3..=3)?;
    let [d, a, b] = &instruction.operands[..] else { unreachable!("counted above") };
    let d = scope.destination(d, ty)?;
    let (a, b) = (scope.source(a, ty)?, scope.source(b, ty)?);
    Ok(match (instruction.opcode.as_str(), ty.bits()) {
        ("add", 32) => Op::Add32 { d, a, b },
        ("add", _) => Op::Add64 { d, a, b },
        (_, 32) => Op::Sub32 { d, a, b },
        _ => Op::Sub64 { d, a, b },
    })
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::Add32 { d, a, b } => lanes.map2(d, a, b, u32::wrapping_add),
            Op::Add64 { d, a, b } => lanes.map2(d, a, b, u64::wrapping_add),
            Op::Sub32 { d, a, b } => lanes.map2(d, a, b, u32::wrapping_sub),
            Op::Sub64 { d, a, b } => lanes.map2(d, a, b, u64::wrapping_sub),
        }
    }

    pub fn class(&self) -> Class {
        Class::Integer
    }
}
