//! `mov`: between registers, from addresses and special registers, and packing and unpacking of vectors.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Condition, Lanes, Predicate, Slot};
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand, Special};
use crate::syntax::ty::{Kind, Ty};

pub const OPCODES: &[&str] = &["mov"];

/// Parts of a wider register, the lowest first.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub count: u8,
    /// Bits of each: 8, 16 or 32.
    pub bits: u8,
    /// `_` is `None`.
    pub slots: [Option<Slot>; 4],
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Narrow {
        d: Slot,
        a: Slot,
    },
    Wide {
        d: Slot,
        a: Slot,
    },
    Predicate {
        d: Predicate,
        a: Condition,
    },
    /// Whether a register is not zero.
    IsSet {
        d: Predicate,
        a: Slot,
    },
    Pack {
        d: Slot,
        wide: bool,
        parts: Parts,
    },
    Unpack {
        a: Slot,
        wide: bool,
        parts: Parts,
    },
}

const TYPES: &[Ty] = &[
    Ty::Pred,
    Ty::B16,
    Ty::B32,
    Ty::B64,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F32,
    Ty::F64,
];

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let ty = modifiers.require_type(TYPES)?;
    modifiers.end()?;
    scope.expect_operands(2..=2)?;
    let [d, a] = &instruction.operands[..] else { unreachable!("counted above") };
    let wide = ty.bits() == 64;
    match (d, a) {
        (Operand::Vector(parts), a) => {
            let element = part_type(ty, parts.len(), scope)?;
            check_elements(parts, scope)?;
            let a = scope.source(a, ty)?;
            let parts = collect(parts, element, |part| match part {
                Operand::Sink => Ok(None),
                part => scope.destination(part, element).map(Some),
            })?;
            Ok(Op::Unpack { a, wide, parts })
        }
        (d, Operand::Vector(parts)) => {
            let element = part_type(ty, parts.len(), scope)?;
            check_elements(parts, scope)?;
            let parts = collect(parts, element, |part| scope.source(part, element).map(Some))?;
            Ok(Op::Pack { d: scope.destination(d, ty)?, wide, parts })
        }
        (d, a @ Operand::Special(Special::IsExplicitCluster)) if ty == Ty::Pred => {
            let a = scope.source(a, Ty::U32)?;
            Ok(Op::IsSet { d: scope.predicate(d)?, a })
        }
        (_, Operand::Special(Special::IsExplicitCluster)) => {
            Err(scope.refuse("%is_explicit_cluster is a predicate"))
        }
        (d, a) if ty == Ty::Pred => {
            let a = scope.condition(a)?;
            Ok(Op::Predicate { d: scope.predicate(d)?, a })
        }
        (d, a) => {
            let a = scope.source(a, ty)?;
            let d = scope.destination(d, ty)?;
            Ok(if wide { Op::Wide { d, a } } else { Op::Narrow { d, a } })
        }
    }
}

/// The type of each part when a register of `ty` is cut into `count`.
fn part_type(ty: Ty, count: usize, scope: &Scope) -> Result<Ty> {
    match (ty, count) {
        (Ty::B16, 2) | (Ty::B32, 4) => Ok(Ty::B8),
        (Ty::B32, 2) | (Ty::B64, 4) => Ok(Ty::B16),
        (Ty::B64, 2) => Ok(Ty::B32),
        _ => Err(scope.refuse(format!("{ty} cannot be cut into {count} parts"))),
    }
}

/// Neighbours in a vector agree: integers with integers, a float with its own type, untyped registers with all.
fn check_elements(parts: &[Operand], scope: &Scope) -> Result<()> {
    let types: Vec<Ty> = parts.iter().filter_map(|part| element_type(part, scope)).collect();
    let agree = |a: Ty, b: Ty| match (a.kind(), b.kind()) {
        (Kind::Bits, _) | (_, Kind::Bits) | (Kind::Int, Kind::Int) => true,
        _ => a == b,
    };
    match types.windows(2).all(|pair| agree(pair[0], pair[1])) {
        true => Ok(()),
        false => Err(scope.refuse("the elements of the vector are of different types")),
    }
}

/// What a register is declared as, or what a constant is; nothing for the rest.
fn element_type(part: &Operand, scope: &Scope) -> Option<Ty> {
    match part {
        Operand::Reg(id) => Some(scope.frame.function.registers[id.0 as usize].ty),
        Operand::Int(_) => Some(Ty::S64),
        Operand::F32(_) | Operand::F64(_) => Some(Ty::F32),
        _ => None,
    }
}

fn collect(
    operands: &[Operand],
    element: Ty,
    mut slot: impl FnMut(&Operand) -> Result<Option<Slot>>,
) -> Result<Parts> {
    let mut parts =
        Parts { count: operands.len() as u8, bits: element.bits() as u8, slots: [None; 4] };
    for (place, operand) in parts.slots.iter_mut().zip(operands) {
        *place = slot(operand)?;
    }
    Ok(parts)
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::Narrow { d, a } => lanes.map1(d, a, |a: u32| a),
            Op::Wide { d, a } => lanes.map1(d, a, |a: u64| a),
            Op::Predicate { d, a } => {
                let values = lanes.condition(a);
                lanes.put_predicate(d, values);
            }
            Op::IsSet { d, a } => {
                let values = lanes.test2(a, a, |a: u32, _: u32| a != 0);
                lanes.put_predicate(d, values);
            }
            Op::Pack { d, wide, parts } => {
                let mut values = [0u64; 32];
                for (index, slot) in parts.slots.iter().flatten().enumerate() {
                    let part = lanes.get::<u32>(*slot);
                    for (value, &part) in values.iter_mut().zip(part) {
                        *value |= u64::from(part) << (usize::from(parts.bits) * index);
                    }
                }
                match wide {
                    true => lanes.put(d, &values),
                    false => lanes.put(d, &values.map(|value| value as u32)),
                }
            }
            Op::Unpack { a, wide, parts } => {
                let values: [u64; 32] = match wide {
                    true => *lanes.get(a),
                    false => lanes.get::<u32>(a).map(u64::from),
                };
                let mask = (1u64 << parts.bits) - 1;
                for (index, slot) in parts.slots.iter().enumerate() {
                    let Some(slot) = *slot else { continue };
                    let shift = usize::from(parts.bits) * index;
                    lanes.put(slot, &values.map(|value| (value >> shift & mask) as u32));
                }
            }
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Op::Predicate { .. } | Op::IsSet { .. } => Class::Compare,
            _ => Class::Move,
        }
    }
}
