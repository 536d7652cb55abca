//! f16 and bf16 arithmetic, one value or two a register: `add`, `sub`, `mul`, `fma`, `min`, `max`, `abs`, `neg`, and the
//! approximate `ex2` and `tanh`.

use super::Class;
use super::float::Extreme;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Lanes, Slot};
use crate::num::approx;
use crate::num::float;
use crate::num::half::{self, Bf16, F16, Half, Style};
use crate::syntax::Result;
use crate::syntax::ast::Instruction;
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] =
    &["add", "sub", "mul", "fma", "min", "max", "abs", "neg", "ex2", "tanh"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    Abs,
    Neg,
    Ex2,
    Tanh,
}

/// What is in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub bf16: bool,
    /// Two values.
    pub pair: bool,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Binary { f: Binary, style: Style, shape: Shape, d: Slot, a: Slot, b: Slot },
    Fma { style: Style, shape: Shape, d: Slot, a: Slot, b: Slot, c: Slot },
    Unary { f: Unary, ftz: bool, shape: Shape, d: Slot, a: Slot },
    Extreme { f: Extreme, shape: Shape, d: Slot, a: Slot, b: Slot },
}

const ALL: &[Ty] = &[Ty::F16, Ty::F16x2, Ty::Bf16, Ty::Bf16x2];
const F16S: &[Ty] = &[Ty::F16, Ty::F16x2];

/// The type behind all other modifiers.
fn last_type(modifiers: &mut Modifiers, allowed: &[Ty]) -> Result<(Ty, Shape)> {
    let ty = modifiers.require_type(allowed)?;
    modifiers.end()?;
    let bf16 = matches!(ty, Ty::Bf16 | Ty::Bf16x2);
    Ok((ty, Shape { bf16, pair: ty.bits() == 32 }))
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    match instruction.opcode.as_str() {
        opcode @ ("add" | "sub" | "mul") => {
            modifiers.take("rn");
            let (ftz, sat) = (modifiers.take("ftz"), modifiers.take("sat"));
            let (ty, shape) = last_type(&mut modifiers, if ftz || sat { F16S } else { ALL })?;
            if shape.bf16 {
                scope.needs_target(90)?;
            }
            let f = match opcode {
                "add" => Binary::Add,
                "sub" => Binary::Sub,
                _ => Binary::Mul,
            };
            let (d, [a, b]) = scope.uniform(ty)?;
            Ok(Op::Binary { f, style: Style { ftz, sat, relu: false }, shape, d, a, b })
        }
        "fma" => {
            modifiers.expect("rn")?;
            let ftz = modifiers.take("ftz");
            let sat = modifiers.take("sat");
            let relu = !sat && modifiers.take("relu");
            let (ty, shape) = last_type(&mut modifiers, if ftz || sat { F16S } else { ALL })?;
            if shape.bf16 || relu {
                scope.needs_target(80)?;
            }
            let (d, [a, b, c]) = scope.uniform(ty)?;
            Ok(Op::Fma { style: Style { ftz, sat, relu }, shape, d, a, b, c })
        }
        "min" | "max" => {
            let f = Extreme::decode(instruction, &mut modifiers)?;
            let (ty, shape) = last_type(&mut modifiers, if f.ftz { F16S } else { ALL })?;
            if f.abs && !f.xorsign {
                return Err(scope.refuse(".abs needs .xorsign before it"));
            }
            scope.needs_target(if f.xorsign { 86 } else { 80 })?;
            let (d, [a, b]) = scope.uniform(ty)?;
            Ok(Op::Extreme { f, shape, d, a, b })
        }
        opcode @ ("abs" | "neg") => {
            let ftz = modifiers.take("ftz");
            let (ty, shape) = last_type(&mut modifiers, if ftz { F16S } else { ALL })?;
            if shape.bf16 {
                scope.needs_target(80)?;
            }
            let f = if opcode == "abs" { Unary::Abs } else { Unary::Neg };
            let (d, [a]) = scope.uniform(ty)?;
            Ok(Op::Unary { f, ftz, shape, d, a })
        }
        opcode => {
            modifiers.expect("approx")?;
            let f = if opcode == "ex2" { Unary::Ex2 } else { Unary::Tanh };
            // Only `ex2` of bf16 flushes, and it has to say so.
            let ftz = f == Unary::Ex2 && modifiers.take("ftz");
            let types = match (f, ftz) {
                (Unary::Tanh, _) => ALL,
                (_, true) => &ALL[2..],
                (_, false) => F16S,
            };
            let (ty, shape) = last_type(&mut modifiers, types)?;
            scope.needs_target(if shape.bf16 { 90 } else { 75 })?;
            let (d, [a]) = scope.uniform(ty)?;
            Ok(Op::Unary { f, ftz, shape, d, a })
        }
    }
}

/// One loop for single values, and one for pairs.
#[inline(always)]
fn run2(
    lanes: &mut Lanes,
    pair: bool,
    (d, a, b): (Slot, Slot, Slot),
    f: impl Fn(u32, u32) -> u32 + Copy,
) {
    match pair {
        false => lanes.map2(d, a, b, |a: u32, b: u32| f(a, b)),
        true => lanes.map2(d, a, b, |a: u32, b: u32| half::each2(a, b, f)),
    }
}

fn binary<H: Half>(
    lanes: &mut Lanes,
    f: Binary,
    style: Style,
    pair: bool,
    slots: (Slot, Slot, Slot),
) {
    // Without modifiers the style is a constant, and the loop vectorises.
    macro_rules! run {
        ($f:ident) => {
            match style {
                PLAIN => run2(lanes, pair, slots, |a, b| half::$f::<H>(PLAIN, a, b)),
                _ => run2(lanes, pair, slots, |a, b| half::$f::<H>(style, a, b)),
            }
        };
    }
    match f {
        Binary::Add => run!(add),
        Binary::Sub => run!(sub),
        Binary::Mul => run!(mul),
    }
}

const PLAIN: Style = Style { ftz: false, sat: false, relu: false };

#[inline(always)]
fn run3(
    lanes: &mut Lanes,
    pair: bool,
    (d, abc): (Slot, (Slot, Slot, Slot)),
    f: impl Fn(u32, u32, u32) -> u32 + Copy,
) {
    match pair {
        false => lanes.map3(d, abc, f),
        true => lanes.map3(d, abc, |a: u32, b: u32, c: u32| half::each3(a, b, c, f)),
    }
}

fn fma<H: Half>(lanes: &mut Lanes, style: Style, pair: bool, d: Slot, abc: (Slot, Slot, Slot)) {
    match style {
        PLAIN => run3(lanes, pair, (d, abc), |a, b, c| half::fma::<H>(PLAIN, a, b, c)),
        _ => run3(lanes, pair, (d, abc), |a, b, c| half::fma::<H>(style, a, b, c)),
    }
}

fn unary<H: Half>(lanes: &mut Lanes, f: Unary, ftz: bool, pair: bool, d: Slot, a: Slot) {
    let one = |a: u32| {
        let flushed = if ftz { H::flush(a) } else { a };
        match f {
            Unary::Abs => flushed & 0x7FFF,
            Unary::Neg => flushed ^ 0x8000,
            Unary::Ex2 => half::through_f32::<H>(ftz, a, approx::ex2),
            Unary::Tanh => half::through_f32::<H>(ftz, a, approx::tanh),
        }
    };
    match pair {
        false => lanes.map1(d, a, one),
        true => lanes.map1(d, a, |a: u32| half::each(a, one)),
    }
}

fn extreme<H: Half>(lanes: &mut Lanes, f: Extreme, pair: bool, slots: (Slot, Slot, Slot)) {
    let widen = |bits| H::widen(if f.ftz { H::flush(bits) } else { bits });
    // A half's subnormals are no subnormals of f32, or not all of them: they are flushed above.
    let f = Extreme { ftz: false, ..f };
    let [plain_min, plain_max] = [false, true].map(|max| Extreme { max, ..Extreme::PLAIN });
    if f == plain_min {
        run2(lanes, pair, slots, |a, b| H::narrow(float::min(widen(a), widen(b))))
    } else if f == plain_max {
        run2(lanes, pair, slots, |a, b| H::narrow(float::max(widen(a), widen(b))))
    } else {
        run2(lanes, pair, slots, |a, b| H::narrow(f.apply(widen(a), widen(b))))
    }
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::Binary { f, style, shape: Shape { bf16: false, pair }, d, a, b } => {
                binary::<F16>(lanes, f, style, pair, (d, a, b))
            }
            Op::Binary { f, style, shape: Shape { bf16: true, pair }, d, a, b } => {
                binary::<Bf16>(lanes, f, style, pair, (d, a, b))
            }
            Op::Fma { style, shape: Shape { bf16: false, pair }, d, a, b, c } => {
                fma::<F16>(lanes, style, pair, d, (a, b, c))
            }
            Op::Fma { style, shape: Shape { bf16: true, pair }, d, a, b, c } => {
                fma::<Bf16>(lanes, style, pair, d, (a, b, c))
            }
            Op::Unary { f, ftz, shape: Shape { bf16: false, pair }, d, a } => {
                unary::<F16>(lanes, f, ftz, pair, d, a)
            }
            Op::Unary { f, ftz, shape: Shape { bf16: true, pair }, d, a } => {
                unary::<Bf16>(lanes, f, ftz, pair, d, a)
            }
            Op::Extreme { f, shape: Shape { bf16: false, pair }, d, a, b } => {
                extreme::<F16>(lanes, f, pair, (d, a, b))
            }
            Op::Extreme { f, shape: Shape { bf16: true, pair }, d, a, b } => {
                extreme::<Bf16>(lanes, f, pair, (d, a, b))
            }
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Op::Fma { .. } => Class::FmaHalf,
            Op::Unary { f: Unary::Ex2 | Unary::Tanh, .. } => Class::Special,
            _ => Class::Half,
        }
    }
}
