//! Matrix instructions: `mma.sync`, `ldmatrix`, `stmatrix`, `movmatrix`.

use super::Class;
use super::modifiers::{Modifiers, refuse};
use super::scope::{Address, Scope};
use crate::lanes::Slot;
use crate::matrix::{BitOp, Element, Shape, Sums, fragment_registers};
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand};
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] = &["mma", "ldmatrix", "stmatrix", "movmatrix"];

/// What D and C hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulator {
    F16,
    F32,
    F64,
    S32,
}

/// `mma.sync`.
#[derive(Debug, Clone)]
pub struct Multiply {
    pub shape: Shape,
    pub a_element: Element,
    pub b_element: Element,
    pub c_type: Accumulator,
    pub d_type: Accumulator,
    pub bit_op: BitOp,
    pub saturate: bool,
    pub sums: Sums,
    pub d: Vec<Slot>,
    pub a: Vec<Slot>,
    pub b: Vec<Slot>,
    pub c: Vec<Slot>,
}

/// `ldmatrix` and `stmatrix`.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    pub address: Address,
    /// The address is generic rather than in shared memory.
    pub is_generic: bool,
    pub transpose: bool,
    /// Matrices: 1, 2 or 4.
    pub count: u8,
    pub registers: [Slot; 4],
}

/// A decoded instruction.
#[derive(Debug, Clone)]
pub enum Op {
    Multiply(Box<Multiply>),
    Load(Transfer),
    Store(Transfer),
    /// `movmatrix`: the transpose of a matrix in registers.
    Transpose {
        d: Slot,
        a: Slot,
    },
}

impl Op {
    pub fn class(&self) -> Class {
        match self {
            Op::Multiply(_) => Class::Tensor,
            _ => Class::MatrixMove,
        }
    }
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    if instruction.opcode == "mma" && modifiers.peek() != Some("sync") {
        return Err(refuse(instruction, "of mma, only mma.sync is implemented"));
    }
    modifiers.expect("sync")?;
    modifiers.expect("aligned")?;
    match instruction.opcode.as_str() {
        "mma" => multiply(instruction, scope, &mut modifiers).map(|op| Op::Multiply(Box::new(op))),
        "movmatrix" => {
            modifiers.expect("m8n8")?;
            modifiers.expect("trans")?;
            modifiers.expect("b16")?;
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let a = scope.source(&instruction.operands[1], Ty::B32)?;
            Ok(Op::Transpose { d: scope.destination(&instruction.operands[0], Ty::B32)?, a })
        }
        _ => transfer(instruction, scope, &mut modifiers),
    }
}

fn transfer(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    let is_load = instruction.opcode == "ldmatrix";
    if !is_load {
        scope.needs_target(90)?;
    }
    modifiers.expect("m8n8")?;
    let count = modifiers.require(&[("x1", 1u8), ("x2", 2), ("x4", 4)])?;
    let transpose = modifiers.take("trans");
    let is_generic = modifiers.choose(&[("shared", ()), ("shared::cta", ())]).is_none();
    modifiers.expect("b16")?;
    modifiers.end()?;
    scope.expect_operands(2..=2)?;
    let (address, registers) = match is_load {
        true => (&instruction.operands[1], &instruction.operands[0]),
        false => (&instruction.operands[0], &instruction.operands[1]),
    };
    let address = scope.address(address)?;
    let elements = Scope::elements(registers);
    if elements.len() != usize::from(count) {
        return Err(scope.refuse(format!("{count} registers expected, got {}", elements.len())));
    }
    let mut registers = [Slot(0); 4];
    for (slot, element) in registers.iter_mut().zip(elements) {
        *slot = match is_load {
            true => scope.destination(element, Ty::B32)?,
            false => scope.source(element, Ty::B32)?,
        };
    }
    let transfer = Transfer { address, is_generic, transpose, count, registers };
    Ok(if is_load { Op::Load(transfer) } else { Op::Store(transfer) })
}

const SHAPES: &[(&str, (usize, usize, usize))] = &[
    ("m8n8k4", (8, 8, 4)),
    ("m16n8k4", (16, 8, 4)),
    ("m16n8k8", (16, 8, 8)),
    ("m16n8k16", (16, 8, 16)),
    ("m8n8k16", (8, 8, 16)),
    ("m16n8k32", (16, 8, 32)),
    ("m8n8k32", (8, 8, 32)),
    ("m16n8k64", (16, 8, 64)),
    ("m8n8k128", (8, 8, 128)),
    ("m16n8k128", (16, 8, 128)),
    ("m16n8k256", (16, 8, 256)),
];

const ELEMENTS: &[(&str, Element)] = &[
    ("f16", Element::F16),
    ("bf16", Element::Bf16),
    ("tf32", Element::Tf32),
    ("f64", Element::F64),
    ("s8", Element::S8),
    ("u8", Element::U8),
    ("s4", Element::S4),
    ("u4", Element::U4),
    ("b1", Element::B1),
];

const ACCUMULATORS: &[(&str, Accumulator)] = &[
    ("f16", Accumulator::F16),
    ("f32", Accumulator::F32),
    ("f64", Accumulator::F64),
    ("s32", Accumulator::S32),
];

/// Whether the ISA has a product of these types in this shape.
fn exists(shape: Shape, types: (Element, Element), c: Accumulator, d: Accumulator) -> bool {
    use Element::{B1, Bf16, F16, F64, S4, S8, Tf32, U4, U8};
    let Shape { m, k, .. } = shape;
    match types {
        (F16, F16) => {
            let half = |t| matches!(t, Accumulator::F16 | Accumulator::F32);
            matches!((m, k), (16, 8 | 16)) && half(c) && half(d)
        }
        (Bf16, Bf16) => {
            matches!((m, k), (16, 8 | 16)) && (c, d) == (Accumulator::F32, Accumulator::F32)
        }
        (Tf32, Tf32) => {
            matches!((m, k), (16, 4 | 8)) && (c, d) == (Accumulator::F32, Accumulator::F32)
        }
        (F64, F64) => (m, k) == (8, 4) && (c, d) == (Accumulator::F64, Accumulator::F64),
        (S8 | U8, S8 | U8) => {
            matches!((m, k), (8, 16) | (16, 16 | 32))
                && (c, d) == (Accumulator::S32, Accumulator::S32)
        }
        (S4 | U4, S4 | U4) => {
            matches!((m, k), (8, 32) | (16, 32 | 64))
                && (c, d) == (Accumulator::S32, Accumulator::S32)
        }
        (B1, B1) => {
            matches!((m, k), (8, 128) | (16, 128 | 256))
                && (c, d) == (Accumulator::S32, Accumulator::S32)
        }
        _ => false,
    }
}

fn multiply(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
) -> Result<Multiply> {
    let (m, n, k) = modifiers.require(SHAPES)?;
    let shape = Shape { m, n, k };
    modifiers.expect("row")?;
    modifiers.expect("col")?;
    let saturate = modifiers.take("satfinite");
    let d_type = modifiers.require(ACCUMULATORS)?;
    let a_element = modifiers.require(ELEMENTS)?;
    let b_element = modifiers.require(ELEMENTS)?;
    let c_type = modifiers.require(ACCUMULATORS)?;
    let is_bits = a_element == Element::B1;
    let bit_op = match is_bits {
        true => modifiers.require(&[("xor", BitOp::Xor), ("and", BitOp::And)])?,
        false => BitOp::Xor,
    };
    if is_bits {
        modifiers.expect("popc")?;
    }
    modifiers.end()?;
    if !exists(shape, (a_element, b_element), c_type, d_type) {
        return Err(
            scope.refuse("this shape does not exist for these types, or is not implemented")
        );
    }
    let is_integer = matches!(a_element, Element::S8 | Element::U8 | Element::S4 | Element::U4);
    if saturate && !is_integer {
        return Err(scope.refuse(".satfinite is for 8- and 4-bit integers"));
    }
    scope.expect_operands(4..=4)?;
    let [d, a, b, c] = &instruction.operands[..] else { unreachable!("counted above") };
    let factor = match a_element {
        Element::F64 => Ty::F64,
        _ => Ty::B32,
    };
    let a_count = fragment_registers(shape, a_element, true);
    let b_count = fragment_registers(shape, b_element, false);
    let a = sources(scope, a, a_count, factor)?;
    let b = sources(scope, b, b_count, factor)?;
    let c = sources(scope, c, accumulators(shape, c_type), register(c_type))?;
    let d = registers(scope, d, accumulators(shape, d_type))?
        .iter()
        .map(|element| scope.destination(element, register(d_type)))
        .collect::<Result<Vec<Slot>>>()?;
    let sums = scope.sums;
    Ok(Multiply { shape, a_element, b_element, c_type, d_type, bit_op, saturate, sums, d, a, b, c })
}

/// Registers of C or D: two f16 share one.
fn accumulators(shape: Shape, ty: Accumulator) -> usize {
    let elements = shape.m / 4;
    if ty == Accumulator::F16 { elements / 2 } else { elements }
}

fn register(ty: Accumulator) -> Ty {
    match ty {
        Accumulator::F16 => Ty::B32,
        Accumulator::F32 => Ty::F32,
        Accumulator::F64 => Ty::F64,
        Accumulator::S32 => Ty::S32,
    }
}

fn registers<'a>(scope: &Scope, operand: &'a Operand, count: usize) -> Result<&'a [Operand]> {
    let elements = Scope::elements(operand);
    match elements.len() == count {
        true => Ok(elements),
        false => Err(scope
            .refuse(format!("a fragment of {count} registers expected, got {}", elements.len()))),
    }
}

fn sources(scope: &mut Scope, operand: &Operand, count: usize, ty: Ty) -> Result<Vec<Slot>> {
    registers(scope, operand, count)?.iter().map(|element| scope.source(element, ty)).collect()
}
