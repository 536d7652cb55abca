//! `cvt`: between integers and floats of every width, one value or two.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Lanes, Slot};
use crate::num::convert::{Conversion, Round, range};
use crate::num::float::NAN32;
use crate::num::half::{Bf16, F16, Half};
use crate::num::rounding::{ROUNDINGS, Rounding};
use crate::syntax::Result;
use crate::syntax::ast::Instruction;
use crate::syntax::ty::{Kind, Ty};

pub const OPCODES: &[&str] = &["cvt"];

/// A decoded instruction. `wide` slots have 64 bits.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    One {
        f: Conversion,
        /// Bits of the destination register.
        bits: u8,
        d: Slot,
        a: Slot,
        wide: bool,
    },
    /// `a` to the upper half of the destination, `b` to the lower.
    Two { f: Conversion, d: Slot, a: Slot, b: Slot },
    /// Each half of `a` to a half of `d`.
    Pair { f: Conversion, d: Slot, a: Slot },
}

const INTEGER_ROUNDINGS: &[(&str, Rounding)] = &[
    ("rni", Rounding::Nearest),
    ("rzi", Rounding::Zero),
    ("rmi", Rounding::Down),
    ("rpi", Rounding::Up),
];

const ONE: &[Ty] = &[
    Ty::U8,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S8,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F16,
    Ty::Bf16,
    Ty::F32,
    Ty::F64,
];

const TWO: &[Ty] = &[Ty::F16x2, Ty::Bf16x2, Ty::E4m3x2, Ty::E5m2x2];

/// The modifiers before the types, as they were written.
#[derive(Debug, Clone, Copy)]
struct Head {
    round: Round,
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: bool,
}

fn head(modifiers: &mut Modifiers) -> Head {
    let round = match modifiers.choose(INTEGER_ROUNDINGS) {
        Some(mode) => Round::Integer(mode),
        None if modifiers.take("rna") => Round::Format(Rounding::NearestAway),
        None => modifiers.choose(ROUNDINGS).map_or(Round::Exact, Round::Format),
    };
    let (ftz, sat) = (modifiers.take("ftz"), modifiers.take("sat"));
    // The ISA has them in this order for 16-bit results, and in the other for 8-bit ones.
    let first = modifiers.take("relu");
    let satfinite = modifiers.take("satfinite");
    let relu = first || modifiers.take("relu");
    Head { round, ftz, sat, relu, satfinite }
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    if modifiers.peek() == Some("pack") {
        return Err(scope.refuse("cvt.pack is not implemented"));
    }
    let head = head(&mut modifiers);
    if let Some(to) = modifiers.choose_type(TWO) {
        return two(instruction, scope, &mut modifiers, head, to);
    }
    if modifiers.take("tf32") {
        modifiers.expect("f32")?;
        modifiers.end()?;
        return tf32(instruction, scope, head);
    }
    let to = modifiers.require_type(ONE)?;
    let from = modifiers.require_type(ONE)?;
    modifiers.end()?;
    check(scope, head, to, from)?;
    scope.expect_operands(2..=2)?;
    let f = conversion(head, to, from);
    let (a, read) = scope.wide_source(&instruction.operands[1], from)?;
    let (d, written) = scope.wide_destination(&instruction.operands[0], to)?;
    Ok(Op::One { f, bits: written.bits() as u8, d, a, wide: read.bits() == 64 })
}

fn conversion(head: Head, to: Ty, from: Ty) -> Conversion {
    let Head { round, ftz, sat, relu, satfinite } = head;
    Conversion { to, from, round, ftz, sat, relu, satfinite }
}

fn is_float(ty: Ty) -> bool {
    ty.kind() == Kind::Float || ty == Ty::Bf16
}

/// The modifiers exist for the pair of types.
fn check(scope: &Scope, head: Head, to: Ty, from: Ty) -> Result<()> {
    let refuse = |what: &str| Err(scope.refuse(format!("cvt{to}{from}: {what}")));
    let has = |ty| to == ty || from == ty;
    let order = |ty| match ty {
        Ty::F16 | Ty::Bf16 => 16,
        ty => ty.bits(),
    };
    if has(Ty::Bf16) {
        let since_80 = to == Ty::F32 && !head.ftz || from == Ty::F32 && is_float(to);
        if to.bits() == 8 || from.bits() == 8 {
            return refuse("there is no such conversion");
        }
        scope.needs_target(if since_80 { 80 } else { 90 })?;
    }
    let rounds = match (is_float(to), is_float(from)) {
        (false, false) => head.round == Round::Exact,
        (false, true) => matches!(head.round, Round::Integer(_)),
        (true, false) => matches!(head.round, Round::Format(_)),
        (true, true) if to == from => matches!(head.round, Round::Exact | Round::Integer(_)),
        (true, true) if order(to) < order(from) => matches!(head.round, Round::Format(_)),
        (true, true) if has(Ty::Bf16) => !matches!(head.round, Round::Integer(_)),
        (true, true) => head.round == Round::Exact,
    };
    if !rounds || head.round == Round::Format(Rounding::NearestAway) {
        return refuse("a rounding modifier is missing, or not legal");
    }
    if head.ftz && !has(Ty::F32) {
        return refuse(".ftz is for .f32");
    }
    if head.sat {
        let contains =
            |outer: (i128, i128), inner: (i128, i128)| outer.0 <= inner.0 && inner.1 <= outer.1;
        if has(Ty::Bf16) || !is_float(to) && !is_float(from) && contains(range(to), range(from)) {
            return refuse(".sat has no meaning");
        }
    }
    if head.relu || head.satfinite {
        let is_half = matches!(to, Ty::F16 | Ty::Bf16) && from == Ty::F32;
        let is_mode = matches!(head.round, Round::Format(Rounding::Nearest | Rounding::Zero));
        if !is_half || !is_mode || head.sat || head.ftz {
            return refuse(".relu and .satfinite are for .rn and .rz from .f32 to a half");
        }
        scope.needs_target(80)?;
    }
    Ok(())
}

fn tf32(instruction: &Instruction, scope: &mut Scope, head: Head) -> Result<Op> {
    match head.round {
        Round::Format(Rounding::NearestAway) if !head.relu => scope.needs_target(80)?,
        Round::Format(Rounding::Nearest | Rounding::Zero) => {
            scope.needs_target(if head.satfinite { 100 } else { 90 })?
        }
        _ => return Err(scope.refuse("tf32 needs .rna, or .rn or .rz, and .relu only with those")),
    }
    if head.ftz || head.sat {
        return Err(scope.refuse("tf32 has no .ftz and no .sat"));
    }
    scope.expect_operands(2..=2)?;
    let f = conversion(head, Ty::Tf32, Ty::F32);
    let a = scope.source(&instruction.operands[1], Ty::F32)?;
    let d = scope.destination(&instruction.operands[0], Ty::Tf32)?;
    Ok(Op::One { f, bits: 32, d, a, wide: false })
}

fn two(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
    head: Head,
    to: Ty,
) -> Result<Op> {
    let from = modifiers.require_type(&[Ty::F32, Ty::F16x2, Ty::E4m3x2, Ty::E5m2x2])?;
    modifiers.end()?;
    let eight = matches!(to, Ty::E4m3x2 | Ty::E5m2x2);
    let nearest = head.round == Round::Format(Rounding::Nearest);
    let legal = match (to, from) {
        (Ty::F16x2 | Ty::Bf16x2, Ty::F32) => nearest || head.round == Round::Format(Rounding::Zero),
        (_, Ty::F32 | Ty::F16x2) if eight => nearest && head.satfinite,
        (Ty::F16x2, Ty::E4m3x2 | Ty::E5m2x2) => nearest && !head.satfinite,
        _ => false,
    };
    if !legal || head.ftz || head.sat {
        return Err(scope.refuse("these modifiers and types do not go together"));
    }
    scope.needs_target(if eight || from.bits() == 16 { 89 } else { 80 })?;
    let half = |ty| match ty {
        Ty::F16x2 => Ty::F16,
        Ty::Bf16x2 => Ty::Bf16,
        Ty::E4m3x2 => Ty::E4m3,
        Ty::E5m2x2 => Ty::E5m2,
        ty => ty,
    };
    let f = conversion(head, half(to), half(from));
    let operands = &instruction.operands[..];
    if from == Ty::F32 {
        scope.expect_operands(3..=3)?;
        let (a, b) = (scope.source(&operands[1], from)?, scope.source(&operands[2], from)?);
        return Ok(Op::Two { f, d: scope.destination(&operands[0], to)?, a, b });
    }
    scope.expect_operands(2..=2)?;
    let a = scope.source(&operands[1], from)?;
    Ok(Op::Pair { f, d: scope.destination(&operands[0], to)?, a })
}

/// A conversion without modifiers but its rounding, which then may have a loop of its own.
const fn plain(to: Ty, from: Ty, round: Round) -> Conversion {
    Conversion { to, from, round, ftz: false, sat: false, relu: false, satfinite: false }
}

const NEAREST: Round = Round::Format(Rounding::Nearest);
const F16_F32: Conversion = plain(Ty::F16, Ty::F32, NEAREST);
const BF16_F32: Conversion = plain(Ty::Bf16, Ty::F32, NEAREST);
const F32_F16: Conversion = plain(Ty::F32, Ty::F16, Round::Exact);
const F32_BF16: Conversion = plain(Ty::F32, Ty::Bf16, Round::Exact);
const F32_S32: Conversion = plain(Ty::F32, Ty::S32, NEAREST);
const F32_U32: Conversion = plain(Ty::F32, Ty::U32, NEAREST);
const S32_F32: Conversion = plain(Ty::S32, Ty::F32, Round::Integer(Rounding::Zero));
const S32_F32_NEAREST: Conversion = plain(Ty::S32, Ty::F32, Round::Integer(Rounding::Nearest));
const U32_F32: Conversion = plain(Ty::U32, Ty::F32, Round::Integer(Rounding::Zero));
const F32_F64: Conversion = plain(Ty::F32, Ty::F64, NEAREST);
const F64_F32: Conversion = plain(Ty::F64, Ty::F32, Round::Exact);
const U64_U32: Conversion = plain(Ty::U64, Ty::U32, Round::Exact);
const S64_S32: Conversion = plain(Ty::S64, Ty::S32, Round::Exact);
const U32_U64: Conversion = plain(Ty::U32, Ty::U64, Round::Exact);

/// NaN as f32 arithmetic gives it.
fn canonical(x: f32) -> f32 {
    if x.is_nan() { NAN32 } else { x }
}

/// The common conversions between registers of their own size, each in a loop that vectorises.
#[inline]
fn run_common(lanes: &mut Lanes, f: Conversion, d: Slot, a: Slot) -> bool {
    match f {
        F16_F32 => lanes.map1(d, a, F16::narrow),
        BF16_F32 => lanes.map1(d, a, Bf16::narrow),
        F32_F16 => lanes.map1(d, a, |a: u32| canonical(F16::widen(a))),
        F32_BF16 => lanes.map1(d, a, |a: u32| canonical(Bf16::widen(a))),
        F32_S32 => lanes.map1(d, a, |a: i32| a as f32),
        F32_U32 => lanes.map1(d, a, |a: u32| a as f32),
        // Rust's casts clamp, and make NaN zero, as the ISA does.
        S32_F32 => lanes.map1(d, a, |a: f32| a as i32),
        S32_F32_NEAREST => lanes.map1(d, a, |a: f32| a.round_ties_even() as i32),
        U32_F32 => lanes.map1(d, a, |a: f32| a as u32),
        F32_F64 => lanes.map1(d, a, |a: f64| canonical(a as f32)),
        F64_F32 => lanes.map1(d, a, |a: f32| f64::from(a)),
        U64_U32 => lanes.map1(d, a, |a: u32| u64::from(a)),
        S64_S32 => lanes.map1(d, a, |a: i32| i64::from(a)),
        U32_U64 => lanes.map1(d, a, |a: u64| a as u32),
        _ => return false,
    }
    true
}

/// Integers to integers in registers of up to 32 bits, without clamping: shifts that cut and extend.
fn run_integers(lanes: &mut Lanes, f: Conversion, bits: u8, d: Slot, a: Slot) {
    let cut = |x: u32, ty: Ty, register: u32| {
        let unused = 32 - ty.bits().min(32);
        let extended = match ty.is_signed() {
            true => ((x << unused) as i32 >> unused) as u32,
            false => x << unused >> unused,
        };
        extended & (u32::MAX >> (32 - register))
    };
    lanes.map1(d, a, |a: u32| cut(cut(a, f.from, 32), f.to, bits.into()));
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::One { f, bits, d, a, wide } => {
                let own_size = u32::from(bits) == f.to.bits() && wide == (f.from.bits() == 64);
                if own_size && run_common(lanes, f, d, a) {
                    return;
                }
                let integers = f.round == Round::Exact && !is_float(f.to) && !f.sat;
                if integers && !wide && bits <= 32 {
                    return run_integers(lanes, f, bits, d, a);
                }
                match (wide, bits) {
                    (false, 64) => lanes.map1(d, a, |a: u32| f.apply(a.into())),
                    (true, 64) => lanes.map1(d, a, |a: u64| f.apply(a)),
                    (false, 32) => lanes.map1(d, a, |a: u32| f.apply(a.into()) as u32),
                    (true, 32) => lanes.map1(d, a, |a: u64| f.apply(a) as u32),
                    // A narrower register, its bits extended by zeros.
                    (false, _) => {
                        let mask = (1u32 << bits) - 1;
                        lanes.map1(d, a, |a: u32| f.apply(a.into()) as u32 & mask)
                    }
                    (true, _) => {
                        let mask = (1u32 << bits) - 1;
                        lanes.map1(d, a, |a: u64| f.apply(a) as u32 & mask)
                    }
                }
            }
            Op::Two { f: F16_F32, d, a, b } => {
                lanes.map2(d, a, b, |a, b| F16::narrow(a) << 16 | F16::narrow(b))
            }
            Op::Two { f: BF16_F32, d, a, b } => {
                lanes.map2(d, a, b, |a, b| Bf16::narrow(a) << 16 | Bf16::narrow(b))
            }
            Op::Two { f, d, a, b } => {
                let shift = f.to.bits();
                lanes.map2(d, a, b, |a: u32, b: u32| {
                    (f.apply(a.into()) << shift | f.apply(b.into())) as u32
                })
            }
            Op::Pair { f, d, a } => {
                let (from, to) = (f.from.bits(), f.to.bits());
                lanes.map1(d, a, |a: u32| {
                    (f.apply(u64::from(a >> from)) << to | f.apply(a.into())) as u32
                })
            }
        }
    }

    pub fn class(&self) -> Class {
        Class::Convert
    }
}
