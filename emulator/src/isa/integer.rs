//! Integer arithmetic: `add`, `sub`, `mul`, `mad`, `sad`, `div`, `rem`, `abs`, `neg`, `min`, `max`, carries, `mul24`,
//! `dp4a` and `dp2a`; two of 16 bits a register for `add`, `min` and `max`.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Lanes, Predicate, Slot, Word};
use crate::syntax::Result;
use crate::syntax::ast::Instruction;
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] = &[
    "add", "sub", "mul", "mad", "sad", "div", "rem", "abs", "neg", "min", "max", "addc", "subc",
    "madc", "mul24", "mad24", "dp4a", "dp2a",
];

/// The part of a product that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Low,
    High,
    /// All of it, in a register twice as wide.
    Wide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    Abs,
    Neg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    /// `add.sat.s32` and `sub.sat.s32`.
    AddSaturating,
    SubSaturating,
    MulLow,
    MulHigh,
    Div,
    Rem,
    Min,
    Max,
    /// Negative results are 0.
    MinRelu,
    MaxRelu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ternary {
    MadLow,
    MadHigh,
    /// `mad.hi.sat.s32`.
    MadHighSaturating,
    /// `c + |a - b|`.
    Sad,
}

/// Which 24-bit product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mul24 {
    Low,
    High,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Unary {
        f: Unary,
        ty: Ty,
        d: Slot,
        a: Slot,
    },
    Binary {
        f: Binary,
        ty: Ty,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    /// Two 16-bit values a register.
    Packed {
        f: Binary,
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Ternary {
        f: Ternary,
        ty: Ty,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// A product of full width, plus `c` of full width. `ty` is the type of the factors.
    Wide {
        ty: Ty,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Option<Slot>,
    },
    /// `a + b + carry` or `a - b - borrow`; a carry that is not read is absent.
    Carry {
        subtract: bool,
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        read: Option<Predicate>,
        write: Option<Predicate>,
    },
    /// A part of a 32- or 64-bit product plus `c` plus carry.
    MadCarry {
        ty: Ty,
        high: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        read: Option<Predicate>,
        write: Option<Predicate>,
    },
    Mul24 {
        part: Mul24,
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Option<Slot>,
        saturate: bool,
    },
    /// Four products of bytes, or two of a half and a byte, added to `c`.
    Dot {
        halves: bool,
        high: bool,
        signed: (bool, bool),
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
}

const ALL: &[Ty] = &[Ty::U16, Ty::U32, Ty::U64, Ty::S16, Ty::S32, Ty::S64];
const SIGNED: &[Ty] = &[Ty::S16, Ty::S32, Ty::S64];
/// `ALL`, and two values a register.
const OR_PACKED: &[Ty] =
    &[Ty::U16, Ty::U32, Ty::U64, Ty::S16, Ty::S32, Ty::S64, Ty::U16x2, Ty::S16x2];

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let operands = &instruction.operands[..];
    match instruction.opcode.as_str() {
        "add" | "sub" => {
            let subtract = instruction.opcode == "sub";
            if modifiers.take("cc") {
                return carry(instruction, scope, &mut modifiers, false, true);
            }
            let saturate = modifiers.take("sat");
            let ty = modifiers.require_type(match (subtract, saturate) {
                (_, true) => &[Ty::S32],
                (true, false) => ALL,
                (false, false) => OR_PACKED,
            })?;
            modifiers.end()?;
            let f = match (subtract, saturate) {
                (false, false) => Binary::Add,
                (true, false) => Binary::Sub,
                (false, true) => Binary::AddSaturating,
                (true, true) => Binary::SubSaturating,
            };
            binary(instruction, scope, f, ty)
        }
        "addc" | "subc" => {
            let write = modifiers.take("cc");
            carry(instruction, scope, &mut modifiers, true, write)
        }
        "mul" => {
            let part = modifiers.require(PARTS)?;
            let ty = product_type(&mut modifiers, part)?;
            modifiers.end()?;
            match part {
                Part::Low => binary(instruction, scope, Binary::MulLow, ty),
                Part::High => binary(instruction, scope, Binary::MulHigh, ty),
                Part::Wide => wide(instruction, scope, ty),
            }
        }
        "mad" => {
            let part = modifiers.require(PARTS)?;
            if modifiers.take("cc") {
                return mad_carry(instruction, scope, &mut modifiers, part, (false, true));
            }
            let saturate = part == Part::High && modifiers.take("sat");
            let ty = match saturate {
                true => modifiers.require_type(&[Ty::S32])?,
                false => product_type(&mut modifiers, part)?,
            };
            modifiers.end()?;
            match part {
                Part::Low => ternary(instruction, scope, Ternary::MadLow, ty),
                Part::High if saturate => {
                    ternary(instruction, scope, Ternary::MadHighSaturating, ty)
                }
                Part::High => ternary(instruction, scope, Ternary::MadHigh, ty),
                Part::Wide => wide(instruction, scope, ty),
            }
        }
        "madc" => {
            let part = modifiers.require(PARTS)?;
            let write = modifiers.take("cc");
            mad_carry(instruction, scope, &mut modifiers, part, (true, write))
        }
        "sad" => {
            let ty = modifiers.require_type(ALL)?;
            modifiers.end()?;
            ternary(instruction, scope, Ternary::Sad, ty)
        }
        "abs" | "neg" => {
            let ty = modifiers.require_type(SIGNED)?;
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let f = if instruction.opcode == "abs" { Unary::Abs } else { Unary::Neg };
            let (d, a) = (scope.destination(&operands[0], ty)?, scope.source(&operands[1], ty)?);
            Ok(Op::Unary { f, ty, d, a })
        }
        "mul24" | "mad24" => {
            let part = modifiers.require(&[("lo", Mul24::Low), ("hi", Mul24::High)])?;
            let is_mad = instruction.opcode == "mad24";
            let saturate = is_mad && part == Mul24::High && modifiers.take("sat");
            let types: &[Ty] = if saturate { &[Ty::S32] } else { &[Ty::U32, Ty::S32] };
            let ty = modifiers.require_type(types)?;
            modifiers.end()?;
            let count = if is_mad { 4 } else { 3 };
            scope.expect_operands(count..=count)?;
            let d = scope.destination(&operands[0], ty)?;
            let (a, b) = (scope.source(&operands[1], ty)?, scope.source(&operands[2], ty)?);
            let c = operands.get(3).map(|c| scope.source(c, ty)).transpose()?;
            Ok(Op::Mul24 { part, signed: ty == Ty::S32, d, a, b, c, saturate })
        }
        "dp4a" | "dp2a" => dot(instruction, scope, &mut modifiers),
        opcode @ ("min" | "max") => {
            let relu = modifiers.take("relu");
            let f = match (opcode, relu) {
                ("min", false) => Binary::Min,
                ("min", true) => Binary::MinRelu,
                (_, false) => Binary::Max,
                (_, true) => Binary::MaxRelu,
            };
            if relu {
                scope.needs_target(90)?;
            }
            let ty =
                modifiers.require_type(if relu { &[Ty::S16x2, Ty::S32] } else { OR_PACKED })?;
            modifiers.end()?;
            binary(instruction, scope, f, ty)
        }
        opcode => {
            let ty = modifiers.require_type(ALL)?;
            modifiers.end()?;
            let f = if opcode == "div" { Binary::Div } else { Binary::Rem };
            binary(instruction, scope, f, ty)
        }
    }
}

const PARTS: &[(&str, Part)] = &[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)];

/// The type of a product's factors.
fn product_type(modifiers: &mut Modifiers, part: Part) -> Result<Ty> {
    match part {
        Part::Wide => modifiers.require_type(&[Ty::U16, Ty::U32, Ty::S16, Ty::S32]),
        _ => modifiers.require_type(ALL),
    }
}

fn binary(instruction: &Instruction, scope: &mut Scope, f: Binary, ty: Ty) -> Result<Op> {
    scope.expect_operands(3..=3)?;
    let [d, a, b] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b) = (scope.source(a, ty)?, scope.source(b, ty)?);
    let d = scope.destination(d, ty)?;
    if matches!(ty, Ty::U16x2 | Ty::S16x2) {
        scope.needs_target(90)?;
        return Ok(Op::Packed { f, signed: ty.is_signed(), d, a, b });
    }
    Ok(Op::Binary { f, ty, d, a, b })
}

fn ternary(instruction: &Instruction, scope: &mut Scope, f: Ternary, ty: Ty) -> Result<Op> {
    scope.expect_operands(4..=4)?;
    let [d, a, b, c] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b, c) = (scope.source(a, ty)?, scope.source(b, ty)?, scope.source(c, ty)?);
    Ok(Op::Ternary { f, ty, d: scope.destination(d, ty)?, a, b, c })
}

fn wide(instruction: &Instruction, scope: &mut Scope, ty: Ty) -> Result<Op> {
    let count = if instruction.opcode == "mad" { 4 } else { 3 };
    scope.expect_operands(count..=count)?;
    let operands = &instruction.operands[..];
    let double = match ty {
        Ty::U16 => Ty::U32,
        Ty::S16 => Ty::S32,
        Ty::U32 => Ty::U64,
        _ => Ty::S64,
    };
    let (a, b) = (scope.source(&operands[1], ty)?, scope.source(&operands[2], ty)?);
    let c = operands.get(3).map(|c| scope.source(c, double)).transpose()?;
    Ok(Op::Wide { ty, d: scope.destination(&operands[0], double)?, a, b, c })
}

fn carry(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
    read: bool,
    write: bool,
) -> Result<Op> {
    let ty = modifiers.require_type(&[Ty::U32, Ty::S32, Ty::U64, Ty::S64])?;
    modifiers.end()?;
    scope.expect_operands(3..=3)?;
    let [d, a, b] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b) = (scope.source(a, ty)?, scope.source(b, ty)?);
    Ok(Op::Carry {
        subtract: instruction.opcode.starts_with("sub"),
        wide: ty.bits() == 64,
        d: scope.destination(d, ty)?,
        a,
        b,
        read: read.then(|| scope.carry()),
        write: write.then(|| scope.carry()),
    })
}

fn mad_carry(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
    part: Part,
    (read, write): (bool, bool),
) -> Result<Op> {
    if part == Part::Wide {
        return Err(scope.refuse("a carry needs .lo or .hi"));
    }
    let ty = modifiers.require_type(&[Ty::U32, Ty::S32, Ty::U64, Ty::S64])?;
    modifiers.end()?;
    scope.expect_operands(4..=4)?;
    let [d, a, b, c] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b, c) = (scope.source(a, ty)?, scope.source(b, ty)?, scope.source(c, ty)?);
    Ok(Op::MadCarry {
        ty,
        high: part == Part::High,
        d: scope.destination(d, ty)?,
        a,
        b,
        c,
        read: read.then(|| scope.carry()),
        write: write.then(|| scope.carry()),
    })
}

fn dot(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    let halves = instruction.opcode == "dp2a";
    let high = halves && modifiers.require(&[("lo", false), ("hi", true)])?;
    let a_type = modifiers.require_type(&[Ty::U32, Ty::S32])?;
    let b_type = modifiers.require_type(&[Ty::U32, Ty::S32])?;
    modifiers.end()?;
    scope.expect_operands(4..=4)?;
    let [d, a, b, c] = &instruction.operands[..] else { unreachable!("counted above") };
    // The accumulator is unsigned when both factors are.
    let signed = (a_type == Ty::S32, b_type == Ty::S32);
    let ty = if signed.0 || signed.1 { Ty::S32 } else { Ty::U32 };
    let (a, b, c) = (scope.source(a, a_type)?, scope.source(b, b_type)?, scope.source(c, ty)?);
    Ok(Op::Dot { halves, high, signed, d: scope.destination(d, ty)?, a, b, c })
}

/// An integer type and the row it lives in.
trait Int: Copy + Ord {
    type Row: Word;
    fn of(row: Self::Row) -> Self;
    fn row(self) -> Self::Row;
    fn binary(f: Binary, a: Self, b: Self) -> Self;
    fn ternary(f: Ternary, a: Self, b: Self, c: Self) -> Self;
    fn unary(f: Unary, a: Self) -> Self;
}

macro_rules! int {
    ($($int:ty, $row:ty, $unsigned:ty, $double:ty;)*) => {$(
        impl Int for $int {
            type Row = $row;

            #[inline]
            fn of(row: $row) -> $int {
                row as $int
            }

            #[inline]
            fn row(self) -> $row {
                self as $unsigned as $row
            }

            #[inline]
            fn binary(f: Binary, a: $int, b: $int) -> $int {
                match f {
                    Binary::Add => a.wrapping_add(b),
                    Binary::Sub => a.wrapping_sub(b),
                    Binary::AddSaturating => a.saturating_add(b),
                    Binary::SubSaturating => a.saturating_sub(b),
                    Binary::MulLow => a.wrapping_mul(b),
                    Binary::MulHigh => ((a as $double * b as $double) >> <$int>::BITS) as $int,
                    // The ISA leaves division by zero open: all bits set, and the dividend as the rest.
                    Binary::Div => if b == 0 { !0 } else { a.wrapping_div(b) },
                    Binary::Rem => if b == 0 { a } else { a.wrapping_rem(b) },
                    Binary::Min => a.min(b),
                    Binary::Max => a.max(b),
                    Binary::MinRelu => a.min(b).max(0),
                    Binary::MaxRelu => a.max(b).max(0),
                }
            }

            #[inline]
            fn ternary(f: Ternary, a: $int, b: $int, c: $int) -> $int {
                match f {
                    Ternary::MadLow => a.wrapping_mul(b).wrapping_add(c),
                    Ternary::MadHigh => <$int>::binary(Binary::MulHigh, a, b).wrapping_add(c),
                    Ternary::MadHighSaturating => <$int>::binary(Binary::MulHigh, a, b).saturating_add(c),
                    Ternary::Sad => c.wrapping_add(a.abs_diff(b) as $int),
                }
            }

            #[inline]
            fn unary(f: Unary, a: $int) -> $int {
                match f {
                    // Neither has a positive counterpart of the most negative value.
                    Unary::Abs => if a > 0 { a } else { (0 as $int).wrapping_sub(a) },
                    Unary::Neg => (0 as $int).wrapping_sub(a),
                }
            }
        }
    )*};
}

int! {
    u16, u32, u16, u32;
    i16, u32, u16, i32;
    u32, u32, u32, u64;
    i32, u32, u32, i64;
    u64, u64, u64, u128;
    i64, u64, u64, i128;
}

/// Calls a generic function for the integer type that `$ty` names.
macro_rules! with_type {
    ($ty:expr, $function:ident ( $($argument:expr),* )) => {
        match $ty {
            Ty::U16 => $function::<u16>($($argument),*),
            Ty::S16 => $function::<i16>($($argument),*),
            Ty::U32 => $function::<u32>($($argument),*),
            Ty::S32 => $function::<i32>($($argument),*),
            Ty::U64 => $function::<u64>($($argument),*),
            _ => $function::<i64>($($argument),*),
        }
    };
}

fn run_unary<T: Int>(lanes: &mut Lanes, f: Unary, d: Slot, a: Slot) {
    lanes.map1(d, a, |a: T::Row| T::unary(f, T::of(a)).row());
}

/// One loop over the lanes for each operation, so that each vectorises.
#[inline(never)]
fn run_binary<T: Int>(lanes: &mut Lanes, f: Binary, d: Slot, a: Slot, b: Slot) {
    macro_rules! one {
        ($($variant:ident)*) => {
            match f {
                $(Binary::$variant => {
                    lanes.map2(d, a, b, |a: T::Row, b: T::Row| T::binary(Binary::$variant, T::of(a), T::of(b)).row());
                })*
            }
        };
    }
    one!(Add Sub AddSaturating SubSaturating MulLow MulHigh Div Rem Min Max MinRelu MaxRelu);
}

/// An operation on the low halves of two words, and on the high ones.
fn run_packed<T: Int<Row = u32>>(lanes: &mut Lanes, f: Binary, d: Slot, a: Slot, b: Slot) {
    lanes.map2(d, a, b, |a: u32, b: u32| {
        let one = |a, b| T::binary(f, T::of(a), T::of(b)).row();
        one(a, b) | one(a >> 16, b >> 16) << 16
    });
}

#[inline(never)]
fn run_ternary<T: Int>(lanes: &mut Lanes, f: Ternary, d: Slot, abc: (Slot, Slot, Slot)) {
    macro_rules! one {
        ($($variant:ident)*) => {
            match f {
                $(Ternary::$variant => {
                    lanes.map3(d, abc, |a: T::Row, b: T::Row, c: T::Row| {
                        T::ternary(Ternary::$variant, T::of(a), T::of(b), T::of(c)).row()
                    });
                })*
            }
        };
    }
    one!(MadLow MadHigh MadHighSaturating Sad);
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::Binary { f: Binary::Add, ty: Ty::U32 | Ty::S32, d, a, b } => {
                lanes.map2(d, a, b, u32::wrapping_add)
            }
            Op::Packed { f, signed: false, d, a, b } => run_packed::<u16>(lanes, f, d, a, b),
            Op::Packed { f, signed: true, d, a, b } => run_packed::<i16>(lanes, f, d, a, b),
            Op::Binary { f, ty, d, a, b } => with_type!(ty, run_binary(lanes, f, d, a, b)),
            Op::Ternary { f, ty, d, a, b, c } => {
                with_type!(ty, run_ternary(lanes, f, d, (a, b, c)))
            }
            Op::Unary { f, ty, d, a } => with_type!(ty, run_unary(lanes, f, d, a)),
            Op::Wide { ty, d, a, b, c } => run_wide(lanes, ty, d, (a, b, c)),
            Op::Carry { subtract, wide, d, a, b, read, write } => {
                let carry = Carry { subtract, read, write };
                match wide {
                    true => run_carry::<u64>(lanes, carry, d, a, b),
                    false => run_carry::<u32>(lanes, carry, d, a, b),
                }
            }
            Op::MadCarry { ty, high, d, a, b, c, read, write } => {
                let carry = Carry { subtract: false, read, write };
                let part = if high { Binary::MulHigh } else { Binary::MulLow };
                match ty {
                    Ty::U32 => run_mad_carry::<u32>(lanes, part, carry, d, (a, b, c)),
                    Ty::S32 => run_mad_carry::<i32>(lanes, part, carry, d, (a, b, c)),
                    Ty::U64 => run_mad_carry::<u64>(lanes, part, carry, d, (a, b, c)),
                    _ => run_mad_carry::<i64>(lanes, part, carry, d, (a, b, c)),
                }
            }
            Op::Mul24 { part, signed, d, a, b, c, saturate } => {
                let product = |a: u32, b: u32| mul24(part, signed, a, b);
                match c {
                    None => lanes.map2(d, a, b, product),
                    Some(c) if saturate => lanes.map3(d, (a, b, c), |a, b, c: u32| {
                        (product(a, b) as i32).saturating_add(c as i32) as u32
                    }),
                    Some(c) => {
                        lanes.map3(d, (a, b, c), |a, b, c: u32| product(a, b).wrapping_add(c))
                    }
                }
            }
            Op::Dot { halves, high, signed, d, a, b, c } => {
                lanes.map3(d, (a, b, c), |a: u32, b: u32, c: u32| match halves {
                    false => dp4a(signed, a, b, c),
                    true => dp2a(signed, high, a, b, c),
                })
            }
        }
    }

    pub fn class(&self) -> Class {
        Class::Integer
    }
}

fn run_wide(lanes: &mut Lanes, ty: Ty, d: Slot, (a, b, c): (Slot, Slot, Option<Slot>)) {
    match (ty, c) {
        (Ty::U16, None) => lanes.map2(d, a, b, |a: u32, b: u32| (a & 0xFFFF) * (b & 0xFFFF)),
        (Ty::S16, None) => {
            lanes.map2(d, a, b, |a: u32, b: u32| (a as i16 as i32 * b as i16 as i32) as u32)
        }
        (Ty::U32, None) => lanes.map2(d, a, b, |a: u32, b: u32| u64::from(a) * u64::from(b)),
        (_, None) => lanes.map2(d, a, b, |a: i32, b: i32| i64::from(a) * i64::from(b)),
        (Ty::U16, Some(c)) => lanes.map3(d, (a, b, c), |a: u32, b: u32, c: u32| {
            ((a & 0xFFFF) * (b & 0xFFFF)).wrapping_add(c)
        }),
        (Ty::S16, Some(c)) => lanes.map3(d, (a, b, c), |a: u32, b: u32, c: u32| {
            ((a as i16 as i32 * b as i16 as i32) as u32).wrapping_add(c)
        }),
        (Ty::U32, Some(c)) => lanes.map3(d, (a, b, c), |a: u32, b: u32, c: u64| {
            (u64::from(a) * u64::from(b)).wrapping_add(c)
        }),
        (_, Some(c)) => lanes.map3(d, (a, b, c), |a: i32, b: i32, c: i64| {
            (i64::from(a) * i64::from(b)).wrapping_add(c)
        }),
    }
}

#[derive(Clone, Copy)]
struct Carry {
    subtract: bool,
    read: Option<Predicate>,
    write: Option<Predicate>,
}

/// Unsigned words with carries.
trait Unsigned: Word {
    fn from_bit(bit: bool) -> Self;
    fn add_carry(self, b: Self, carry: bool) -> (Self, bool);
    fn sub_borrow(self, b: Self, borrow: bool) -> (Self, bool);
}

macro_rules! unsigned {
    ($($int:ty)*) => {$(
        impl Unsigned for $int {
            fn from_bit(bit: bool) -> $int {
                <$int>::from(bit)
            }

            fn add_carry(self, b: $int, carry: bool) -> ($int, bool) {
                let (sum, first) = self.overflowing_add(b);
                let (sum, second) = sum.overflowing_add(<$int>::from_bit(carry));
                (sum, first || second)
            }

            // The carry flag of a subtraction is the borrow.
            fn sub_borrow(self, b: $int, borrow: bool) -> ($int, bool) {
                let (difference, first) = self.overflowing_sub(b);
                let (difference, second) = difference.overflowing_sub(<$int>::from_bit(borrow));
                (difference, first || second)
            }
        }
    )*};
}

unsigned!(u32 u64);

fn run_carry<T: Unsigned>(lanes: &mut Lanes, carry: Carry, d: Slot, a: Slot, b: Slot) {
    let into = carry.read.map_or(0, |p| *lanes.registers.predicate_mut(p));
    let (a, b) = (*lanes.get::<T>(a), *lanes.get::<T>(b));
    let mut out = 0;
    let values: [T; 32] = std::array::from_fn(|lane| {
        let bit = into >> lane & 1 == 1;
        let (value, over) = match carry.subtract {
            false => a[lane].add_carry(b[lane], bit),
            true => a[lane].sub_borrow(b[lane], bit),
        };
        out |= u32::from(over) << lane;
        value
    });
    lanes.put(d, &values);
    if let Some(p) = carry.write {
        lanes.put_predicate(p, out);
    }
}

fn run_mad_carry<T: Int>(
    lanes: &mut Lanes,
    part: Binary,
    carry: Carry,
    d: Slot,
    (a, b, c): (Slot, Slot, Slot),
) where
    T::Row: Unsigned,
{
    let into = carry.read.map_or(0, |p| *lanes.registers.predicate_mut(p));
    let (a, b, c) = (*lanes.get::<T::Row>(a), *lanes.get::<T::Row>(b), *lanes.get::<T::Row>(c));
    let mut out = 0;
    let values: [T::Row; 32] = std::array::from_fn(|lane| {
        let product = T::binary(part, T::of(a[lane]), T::of(b[lane])).row();
        let (value, over) = product.add_carry(c[lane], into >> lane & 1 == 1);
        out |= u32::from(over) << lane;
        value
    });
    lanes.put(d, &values);
    if let Some(p) = carry.write {
        lanes.put_predicate(p, out);
    }
}

/// The low or high 32 bits of the 48-bit product of two 24-bit numbers.
fn mul24(part: Mul24, signed: bool, a: u32, b: u32) -> u32 {
    let cut = |x: u32| match signed {
        true => i64::from((x << 8) as i32 >> 8),
        false => i64::from(x & 0xFF_FFFF),
    };
    let product = cut(a) * cut(b);
    match part {
        Mul24::Low => product as u32,
        Mul24::High => (product >> 16) as u32,
    }
}

fn byte(x: u32, index: u32, signed: bool) -> i64 {
    let byte = (x >> (8 * index)) as u8;
    if signed { i64::from(byte as i8) } else { i64::from(byte) }
}

fn dp4a((a_signed, b_signed): (bool, bool), a: u32, b: u32, c: u32) -> u32 {
    let sum: i64 = (0..4).map(|index| byte(a, index, a_signed) * byte(b, index, b_signed)).sum();
    c.wrapping_add(sum as u32)
}

fn dp2a((a_signed, b_signed): (bool, bool), high: bool, a: u32, b: u32, c: u32) -> u32 {
    let half = |index: u32| {
        let half = (a >> (16 * index)) as u16;
        if a_signed { i64::from(half as i16) } else { i64::from(half) }
    };
    let first = if high { 2 } else { 0 };
    let sum: i64 = (0..2).map(|index| half(index) * byte(b, first + index, b_signed)).sum();
    c.wrapping_add(sum as u32)
}
