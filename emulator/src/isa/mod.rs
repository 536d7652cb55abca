//! The instruction set: one file a family, each with a strict decoder and the execution over a warp's lanes.
//!
//! A family that only touches registers has `decode(&Instruction, &mut Scope) -> Result<Op>` and `Op::execute(&self, &mut
//! Lanes)`. Families that need memory, other warps or the program counter decode here too; the engine executes them.
//! What a decoder does not know it refuses by name.

pub mod atomic;
pub mod bulk;
pub mod compare;
pub mod control;
pub mod convert;
pub mod float;
pub mod half;
pub mod integer;
pub mod logic;
pub mod matrix;
pub mod memory;
pub mod modifiers;
pub mod movement;
pub mod operands;
pub mod scope;
pub mod warp;
pub mod warpgroup;

use crate::lanes::Lanes;
use crate::syntax::Result;
use crate::syntax::ast::Instruction;
use crate::syntax::ty::Ty;
use modifiers::refuse;
use scope::Scope;

/// A decoded instruction.
#[derive(Debug, Clone)]
pub enum Op {
    Integer(integer::Op),
    Float(float::Op),
    Half(half::Op),
    Convert(convert::Op),
    Logic(logic::Op),
    Compare(compare::Op),
    Move(movement::Op),
    Control(control::Op),
    Memory(memory::Op),
    Atomic(atomic::Op),
    Warp(warp::Op),
    Matrix(matrix::Op),
    Warpgroup(warpgroup::Op),
    Bulk(bulk::Op),
}

/// What an instruction is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Integer arithmetic.
    Integer,
    /// Bitwise logic, shifts, bit fields, permutations.
    Logic,
    /// f32 other than fused multiply-add and approximations.
    Float32,
    /// f32 fused multiply-add.
    Fma32,
    /// f64 other than fused multiply-add.
    Float64,
    Fma64,
    /// f16 and bf16, one or two a register, other than fused multiply-add.
    Half,
    /// f16 and bf16 fused multiply-add.
    FmaHalf,
    /// Special-function unit: ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh, approximate division.
    Special,
    Convert,
    /// Comparisons, selections and predicate logic.
    Compare,
    Move,
    /// Branches, calls, exits.
    Control,
    LoadGlobal,
    StoreGlobal,
    LoadShared,
    StoreShared,
    LoadLocal,
    StoreLocal,
    /// Parameters and constants.
    LoadConstant,
    /// Generic addresses: counted by instruction here, and by the space they reach in the memory counters.
    LoadGeneric,
    StoreGeneric,
    Atomic,
    /// Asynchronous copies, their groups and waits.
    AsyncCopy,
    /// Block and warp barriers.
    Barrier,
    Fence,
    /// Shuffles, votes, matches, reductions within a warp.
    Warp,
    /// Matrix multiply-accumulate.
    Tensor,
    /// ldmatrix, stmatrix, movmatrix.
    MatrixMove,
}

impl Class {
    pub const COUNT: usize = 29;

    pub const ALL: [Class; Class::COUNT] = [
        Class::Integer,
        Class::Logic,
        Class::Float32,
        Class::Fma32,
        Class::Float64,
        Class::Fma64,
        Class::Half,
        Class::FmaHalf,
        Class::Special,
        Class::Convert,
        Class::Compare,
        Class::Move,
        Class::Control,
        Class::LoadGlobal,
        Class::StoreGlobal,
        Class::LoadShared,
        Class::StoreShared,
        Class::LoadLocal,
        Class::StoreLocal,
        Class::LoadConstant,
        Class::LoadGeneric,
        Class::StoreGeneric,
        Class::Atomic,
        Class::AsyncCopy,
        Class::Barrier,
        Class::Fence,
        Class::Warp,
        Class::Tensor,
        Class::MatrixMove,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Integer => "integer",
            Class::Logic => "logic",
            Class::Float32 => "float32",
            Class::Fma32 => "fma32",
            Class::Float64 => "float64",
            Class::Fma64 => "fma64",
            Class::Half => "half",
            Class::FmaHalf => "fma_half",
            Class::Special => "special",
            Class::Convert => "convert",
            Class::Compare => "compare",
            Class::Move => "move",
            Class::Control => "control",
            Class::LoadGlobal => "load_global",
            Class::StoreGlobal => "store_global",
            Class::LoadShared => "load_shared",
            Class::StoreShared => "store_shared",
            Class::LoadLocal => "load_local",
            Class::StoreLocal => "store_local",
            Class::LoadConstant => "load_constant",
            Class::LoadGeneric => "load_generic",
            Class::StoreGeneric => "store_generic",
            Class::Atomic => "atomic",
            Class::AsyncCopy => "async_copy",
            Class::Barrier => "barrier",
            Class::Fence => "fence",
            Class::Warp => "warp",
            Class::Tensor => "tensor",
            Class::MatrixMove => "matrix_move",
        }
    }
}

impl Op {
    /// Executes an operation that only touches registers; `None` for one that the engine executes.
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) -> Option<()> {
        match self {
            Op::Integer(op) => op.execute(lanes),
            Op::Float(op) => op.execute(lanes),
            Op::Half(op) => op.execute(lanes),
            Op::Convert(op) => op.execute(lanes),
            Op::Logic(op) => op.execute(lanes),
            Op::Compare(op) => op.execute(lanes),
            Op::Move(op) => op.execute(lanes),
            Op::Control(_)
            | Op::Memory(_)
            | Op::Atomic(_)
            | Op::Warp(_)
            | Op::Matrix(_)
            | Op::Warpgroup(_)
            | Op::Bulk(_) => return None,
        }
        Some(())
    }

    pub fn class(&self) -> Class {
        match self {
            Op::Integer(op) => op.class(),
            Op::Float(op) => op.class(),
            Op::Half(op) => op.class(),
            Op::Convert(op) => op.class(),
            Op::Logic(op) => op.class(),
            Op::Compare(op) => op.class(),
            Op::Move(op) => op.class(),
            Op::Control(op) => op.class(),
            Op::Memory(op) => op.class(),
            Op::Atomic(_) => Class::Atomic,
            Op::Warp(op) => op.class(),
            Op::Matrix(op) => op.class(),
            Op::Warpgroup(op) => op.class(),
            Op::Bulk(op) => op.class(),
        }
    }
}

/// Decodes everything but calls, returns and branches, which need the program around them.
pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    operands::check(instruction)?;
    let numbers = numbers(instruction);
    let names = |first: &[&str]| {
        instruction.modifiers.len() >= first.len()
            && first.iter().zip(&instruction.modifiers).all(|(name, given)| name == given)
    };
    Ok(match instruction.opcode.as_str() {
        opcode if numbers == Numbers::Half && half::OPCODES.contains(&opcode) => {
            Op::Half(half::decode(instruction, scope)?)
        }
        opcode if numbers == Numbers::Integer && integer::OPCODES.contains(&opcode) => {
            Op::Integer(integer::decode(instruction, scope)?)
        }
        opcode if float::OPCODES.contains(&opcode) => Op::Float(float::decode(instruction, scope)?),
        opcode if integer::OPCODES.contains(&opcode) => {
            Op::Integer(integer::decode(instruction, scope)?)
        }
        opcode if convert::OPCODES.contains(&opcode) => {
            Op::Convert(convert::decode(instruction, scope)?)
        }
        opcode if logic::OPCODES.contains(&opcode) => Op::Logic(logic::decode(instruction, scope)?),
        opcode if compare::OPCODES.contains(&opcode) => {
            Op::Compare(compare::decode(instruction, scope)?)
        }
        opcode if movement::OPCODES.contains(&opcode) => {
            Op::Move(movement::decode(instruction, scope)?)
        }
        "cp" if names(&["async", "bulk"]) => {
            let mut modifiers = modifiers::Modifiers::new(instruction);
            modifiers.expect("async")?;
            modifiers.expect("bulk")?;
            Op::Bulk(bulk::copy(instruction, scope, &mut modifiers)?)
        }
        "barrier" if names(&["cluster"]) => {
            let mut modifiers = modifiers::Modifiers::new(instruction);
            modifiers.expect("cluster")?;
            Op::Bulk(bulk::cluster_barrier(instruction, scope, &mut modifiers)?)
        }
        opcode if bulk::OPCODES.contains(&opcode) => Op::Bulk(bulk::decode(instruction, scope)?),
        opcode if memory::OPCODES.contains(&opcode) => {
            Op::Memory(memory::decode(instruction, scope)?)
        }
        "atom" | "red" => Op::Atomic(atomic::decode(instruction, scope)?),
        opcode if matrix::OPCODES.contains(&opcode) => {
            Op::Matrix(matrix::decode(instruction, scope)?)
        }
        opcode if warpgroup::OPCODES.contains(&opcode) => {
            Op::Warpgroup(warpgroup::decode(instruction, scope)?)
        }
        opcode if warp::OPCODES.contains(&opcode) => Op::Warp(warp::decode(instruction, scope)?),
        opcode if control::OPCODES.contains(&opcode) => {
            Op::Control(control::decode(instruction, scope)?)
        }
        opcode => {
            return Err(refuse(instruction, format!("instruction {opcode} is not implemented")));
        }
    })
}

/// The numbers that an instruction computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Integer,
    Float,
    Half,
}

/// What the last modifier that names a type says; integers if none does.
fn numbers(instruction: &Instruction) -> Numbers {
    let ty = instruction.modifiers.iter().rev().find_map(|name| Ty::from_name(name));
    match ty {
        Some(Ty::F32 | Ty::F64) => Numbers::Float,
        Some(Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2) => Numbers::Half,
        _ => Numbers::Integer,
    }
}
