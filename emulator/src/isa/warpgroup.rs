//! Instructions of a warpgroup, four warps side by side: `wgmma.mma_async`, and the fence, groups and waits around it.

use super::Class;
use super::modifiers::{Modifiers, refuse};
use super::scope::Scope;
use crate::lanes::{Condition, Slot};
use crate::matrix::{Element, Shape, Sums};
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand};
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] = &["wgmma"];

/// Where A comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Shared memory, by a descriptor.
    Descriptor(Slot),
    /// Each warp's own 16 rows, as `mma.sync` takes them.
    Registers([Slot; 4]),
}

/// `wgmma.mma_async`: D = A B + D, 64 rows of it.
#[derive(Debug, Clone)]
pub struct Multiply {
    /// M is 64.
    pub shape: Shape,
    pub product: Product,
    /// Four registers for every eight columns.
    pub d: Vec<Slot>,
    pub a: Source,
    /// A descriptor.
    pub b: Slot,
    /// Whether D is added; otherwise it is only written.
    pub adds: Condition,
    pub negates_a: bool,
    pub negates_b: bool,
}

/// The types, and what is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Sums in f32.
    Floats { element: Element, sums: Sums },
    /// Bytes of A and of B; sums are s32, clamped where they would wrap if `saturates`.
    Integers { a: Element, b: Element, saturates: bool },
    /// The number of bits that both have, in s32.
    Bits,
}

/// A decoded instruction.
#[derive(Debug, Clone)]
pub enum Op {
    Multiply(Box<Multiply>),
    Fence,
    CommitGroup,
    /// Waits until at most this many groups are pending.
    WaitGroup(u32),
}

impl Op {
    pub fn class(&self) -> Class {
        match self {
            Op::Multiply(_) => Class::Tensor,
            Op::Fence | Op::CommitGroup | Op::WaitGroup(_) => Class::Fence,
        }
    }
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    scope.needs_specific_target(90)?;
    let mut modifiers = Modifiers::new(instruction);
    let name = modifiers.require(&[
        ("mma_async", 'm'),
        ("fence", 'f'),
        ("commit_group", 'c'),
        ("wait_group", 'w'),
    ])?;
    if name == 'm' && modifiers.peek() == Some("sp") {
        return Err(refuse(instruction, "sparse matrices are not implemented"));
    }
    modifiers.expect("sync")?;
    modifiers.expect("aligned")?;
    if name == 'm' {
        return multiply(instruction, scope, &mut modifiers).map(|op| Op::Multiply(Box::new(op)));
    }
    modifiers.end()?;
    let count = usize::from(name == 'w');
    scope.expect_operands(count..=count)?;
    Ok(match (name, instruction.operands.first()) {
        ('f', _) => Op::Fence,
        ('c', _) => Op::CommitGroup,
        (_, Some(Operand::Int(pending @ 0..=0x7FFF_FFFF))) => Op::WaitGroup(*pending as u32),
        _ => return Err(scope.refuse("the number of pending groups is not a constant")),
    })
}

/// `m64n128k16`.
fn shape(modifiers: &mut Modifiers, instruction: &Instruction) -> Result<Shape> {
    let name = modifiers.peek().unwrap_or_default();
    let numbers = name.strip_prefix("m64n").and_then(|rest| rest.split_once('k'));
    let shape =
        numbers.and_then(|(n, k)| Some(Shape { m: 64, n: n.parse().ok()?, k: k.parse().ok()? }));
    let known = shape.filter(|shape| (8..=256).contains(&shape.n) && shape.n.is_multiple_of(8));
    let Some(shape) = known.filter(|shape| name == format!("m64n{}k{}", shape.n, shape.k)) else {
        let what = "expected a shape as the next modifier: .m64nNkK, N a multiple of 8 up to 256";
        return Err(refuse(instruction, what));
    };
    modifiers.take(name);
    Ok(shape)
}

fn multiply(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
) -> Result<Multiply> {
    let shape = shape(modifiers, instruction)?;
    let product = product(instruction, scope, modifiers)?;
    modifiers.end()?;
    let (bits, is_integer) = match product {
        Product::Floats { element, .. } => (element.bits(), false),
        Product::Integers { .. } => (8, true),
        Product::Bits => (1, true),
    };
    if shape.k * bits != 256 || is_integer && shape.n > 32 && !shape.n.is_multiple_of(16) {
        return Err(scope.refuse("this shape does not exist for these types"));
    }
    let in_registers = matches!(instruction.operands.get(1), Some(Operand::Vector(_)));
    let (signs, transposes) = match (bits, in_registers) {
        (1 | 8, _) => (0, 0),
        (32, _) => (2, 0),
        (_, true) => (2, 1),
        (_, false) => (2, 2),
    };
    let count = 4 + signs + transposes;
    scope.expect_operands(count..=count)?;
    let [d, a, b, adds, rest @ ..] = &instruction.operands[..] else {
        unreachable!("counted above")
    };
    let (scales, transposed) = rest.split_at(signs);
    let a = match in_registers {
        false => Source::Descriptor(scope.source(a, Ty::B64)?),
        true => {
            let fragment = registers(scope, a, 4)?;
            let mut slots = [Slot(0); 4];
            for (slot, element) in slots.iter_mut().zip(fragment) {
                *slot = scope.source(element, Ty::B32)?;
            }
            Source::Registers(slots)
        }
    };
    let b = scope.source(b, Ty::B64)?;
    let adds = scope.condition(adds)?;
    let negates = |index| scales.get(index).map_or(Ok(false), |scale| sign(scope, scale));
    let (negates_a, negates_b) = (negates(0)?, negates(1)?);
    for operand in transposed {
        match operand {
            Operand::Int(0) => {}
            Operand::Int(1) => {
                return Err(scope.refuse("matrices that are not K-major are not implemented"));
            }
            _ => return Err(scope.refuse("whether a matrix is transposed is 0 or 1")),
        }
    }
    let ty = if is_integer { Ty::S32 } else { Ty::F32 };
    let d = registers(scope, d, shape.n / 2)?
        .iter()
        .map(|element| scope.destination(element, ty))
        .collect::<Result<Vec<Slot>>>()?;
    Ok(Multiply { shape, product, d, a, b, adds, negates_a, negates_b })
}

fn product(instruction: &Instruction, scope: &Scope, modifiers: &mut Modifiers) -> Result<Product> {
    let saturates = modifiers.take("satfinite");
    if modifiers.require(&[("f32", 'f'), ("s32", 's')])? == 'f' {
        if saturates {
            return Err(refuse(instruction, ".satfinite is of sums in s32"));
        }
        let types = [("f16", Element::F16), ("bf16", Element::Bf16), ("tf32", Element::Tf32)];
        let element = modifiers.require(&types)?;
        if modifiers.require(&types)? != element {
            return Err(scope.refuse("A and B have the same type"));
        }
        return Ok(Product::Floats { element, sums: scope.sums });
    }
    let types = [("s8", Element::S8), ("u8", Element::U8), ("b1", Element::B1)];
    let (a, b) = (modifiers.require(&types)?, modifiers.require(&types)?);
    match [a, b].map(|element| element == Element::B1) {
        [false, false] => Ok(Product::Integers { a, b, saturates }),
        [true, true] if !saturates => {
            modifiers.expect("and")?;
            modifiers.expect("popc")?;
            Ok(Product::Bits)
        }
        _ => Err(scope.refuse("this shape does not exist for these types")),
    }
}

/// Whether a matrix is negated.
fn sign(scope: &Scope, operand: &Operand) -> Result<bool> {
    match operand {
        Operand::Int(1) => Ok(false),
        Operand::Int(-1) => Ok(true),
        _ => Err(scope.refuse("the scale of a matrix is 1 or -1")),
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
