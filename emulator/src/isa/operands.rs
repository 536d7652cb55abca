//! Which operands an instruction takes: registers and constants, and only a few of them more.
//!
//! The types of registers are checked where an operand gets its slot, in [`super::scope`]; here is what depends on the
//! instruction alone.

use super::modifiers::refuse;
use super::{compare, convert, float, half, integer, logic, movement};
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand};
use crate::syntax::ty::{Kind, Ty};

/// The families that read and write registers alone.
const COMPUTING: &[&[&str]] = &[
    integer::OPCODES,
    float::OPCODES,
    half::OPCODES,
    convert::OPCODES,
    logic::OPCODES,
    compare::OPCODES,
];

/// Instructions beside `mov` that read the address of a variable without brackets.
const OF_ADDRESSES: &[&str] = &["cvta", "isspacep", "mapa"];

/// Refuses what only `mov` reads (addresses and special registers), doubles where 32 bits are expected, and of instructions
/// that compute, results that nobody keeps.
pub fn check(instruction: &Instruction) -> Result<()> {
    let opcode = instruction.opcode.as_str();
    let is_move = movement::OPCODES.contains(&opcode);
    let reads_addresses = is_move || OF_ADDRESSES.contains(&opcode);
    let fault = instruction.operands.iter().find_map(|operand| match operand {
        Operand::Symbol { .. } if !reads_addresses => Some("an address is read by mov alone"),
        Operand::Special(_) if !is_move && !converts_integers(instruction) => {
            Some("a special register is read by mov, or by cvt between integers")
        }
        Operand::F64(_) if takes_32_bits(instruction) => {
            Some("a number in double precision is no value of 32 bits; write 0f and its bits")
        }
        Operand::Pair(d, p) if **d == Operand::Sink && **p == Operand::Sink => {
            Some("'_' stands for one of the two results")
        }
        _ => None,
    });
    let computes = is_move || COMPUTING.iter().any(|family| family.contains(&opcode));
    let first = instruction.operands.first().filter(|_| computes);
    let fault = fault.or_else(|| match first {
        Some(Operand::Sink) if opcode != "setp" => Some("'_' cannot be the only result"),
        Some(Operand::Vector(parts)) if parts.iter().all(|part| *part == Operand::Sink) => {
            Some("'_' cannot be the only result")
        }
        _ => None,
    });
    fault.map_or(Ok(()), |what| Err(refuse(instruction, what)))
}

/// The types that the modifiers name, the last one first.
fn types(instruction: &Instruction) -> impl Iterator<Item = Ty> {
    instruction.modifiers.iter().rev().filter_map(|name| Ty::from_name(name))
}

fn converts_integers(instruction: &Instruction) -> bool {
    instruction.opcode == "cvt" && types(instruction).all(|ty| ty.kind() == Kind::Int)
}

/// The sources are untyped words.
fn takes_32_bits(instruction: &Instruction) -> bool {
    types(instruction).next() == Some(Ty::B32) || types(instruction).any(|ty| ty == Ty::Tf32)
}
