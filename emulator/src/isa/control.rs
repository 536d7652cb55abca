//! Branches, calls and exits. Calls are inlined when the program is built.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::{Place, Scope};
use crate::lanes::Slot;
use crate::syntax::Result;
use crate::syntax::ast::Instruction;
use crate::syntax::ty::Ty;

/// What [`decode`] decodes; `bra`, `brx`, `call` and `ret` are the program's.
pub const OPCODES: &[&str] = &["exit", "trap", "brkpt", "nanosleep", "pmevent", "griddepcontrol"];

/// A decoded instruction.
#[derive(Debug, Clone)]
pub enum Op {
    /// To the instruction with this index.
    Branch(u32),
    /// To the target that the index selects.
    BranchTable {
        index: Slot,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    /// The registers of a function that is entered: what they held before is undefined.
    Enter(Box<[Place]>),
    /// An argument or result of a call, from register to register.
    Copy {
        d: Slot,
        a: Slot,
        wide: bool,
    },
    /// A hint or a profiling event: nothing to do.
    Nothing,
}

impl Op {
    pub fn class(&self) -> Class {
        match self {
            Op::Copy { .. } => Class::Move,
            _ => Class::Control,
        }
    }
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    match instruction.opcode.as_str() {
        "nanosleep" => {
            modifiers.expect("u32")?;
            modifiers.end()?;
            scope.expect_operands(1..=1)?;
            scope.source(&instruction.operands[0], Ty::U32)?;
            Ok(Op::Nothing)
        }
        // Launches end before the next begins.
        "griddepcontrol" => {
            modifiers.require(&[("launch_dependents", ()), ("wait", ())])?;
            modifiers.end()?;
            scope.needs_target(90)?;
            scope.expect_operands(0..=0)?;
            Ok(Op::Nothing)
        }
        "pmevent" => {
            modifiers.take("mask");
            modifiers.end()?;
            scope.expect_operands(1..=1)?;
            Ok(Op::Nothing)
        }
        opcode => {
            modifiers.end()?;
            scope.expect_operands(0..=0)?;
            Ok(if opcode == "exit" { Op::Exit } else { Op::Trap })
        }
    }
}
