//! f32 and f64 arithmetic: `add`, `sub`, `mul`, `fma`, `mad`, `div`, `rcp`, `sqrt`, `min`, `max`, `abs`, `neg`,
//! `copysign`, `testp`, and the approximate `rsqrt`, `ex2`, `lg2`, `sin`, `cos` and `tanh`.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Lanes, Predicate, Slot, Word};
use crate::num::approx;
use crate::num::float::{self, Float, flush, saturate};
use crate::num::rounding::{ROUNDINGS, Rounding};
use crate::syntax::Result;
use crate::syntax::ast::Instruction;
use crate::syntax::ty::Ty;

/// `ex2` and `tanh` come here unless their type is a half; see [`super::decode`].
pub const OPCODES: &[&str] = &[
    "add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "rsqrt", "min", "max", "abs", "neg",
    "copysign", "testp", "ex2", "lg2", "sin", "cos", "tanh",
];

/// How an operation treats its inputs and its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub rounding: Rounding,
    /// Subnormal inputs and results are zero.
    pub ftz: bool,
    /// The result is clamped to [0, 1].
    pub sat: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    Reciprocal,
    Sqrt,
}

/// Approximate functions of one f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approx {
    Reciprocal,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

/// Approximate functions of one f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approx64 {
    /// Of the upper half: `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`.
    ReciprocalUpper,
    RsqrtUpper,
    Rsqrt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    Abs,
    Neg,
}

/// A minimum or maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extreme {
    pub max: bool,
    pub ftz: bool,
    /// One NaN makes the result NaN.
    pub nan: bool,
    /// Magnitudes are compared.
    pub abs: bool,
    /// The result's sign is the product of the signs.
    pub xorsign: bool,
}

/// What `testp` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// A decoded instruction; `double` is f64.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Binary {
        f: Binary,
        style: Style,
        double: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Fma {
        style: Style,
        double: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Unary {
        f: Unary,
        style: Style,
        double: bool,
        d: Slot,
        a: Slot,
    },
    /// `div.approx`, and `div.full` over the whole range.
    DivApprox {
        full: bool,
        ftz: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Approx {
        f: Approx,
        ftz: bool,
        d: Slot,
        a: Slot,
    },
    Approx64 {
        f: Approx64,
        d: Slot,
        a: Slot,
    },
    Sign {
        f: Sign,
        ftz: bool,
        double: bool,
        d: Slot,
        a: Slot,
    },
    Extreme {
        f: Extreme,
        double: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Option<Slot>,
    },
    CopySign {
        double: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Test {
        f: Property,
        double: bool,
        p: Predicate,
        a: Slot,
    },
}

const BOTH: &[Ty] = &[Ty::F32, Ty::F64];

/// `{.ftz}{.sat}.f32` or `.f64`, behind the rounding mode.
fn styled(modifiers: &mut Modifiers, rounding: Rounding, saturates: bool) -> Result<(Style, Ty)> {
    let ftz = modifiers.take("ftz");
    let sat = saturates && modifiers.take("sat");
    let ty = modifiers.require_type(if ftz || sat { &BOTH[..1] } else { BOTH })?;
    modifiers.end()?;
    Ok((Style { rounding, ftz, sat }, ty))
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    match instruction.opcode.as_str() {
        opcode @ ("add" | "sub" | "mul") => {
            let rounding = modifiers.choose(ROUNDINGS).unwrap_or(Rounding::Nearest);
            let (style, ty) = styled(&mut modifiers, rounding, true)?;
            let (d, [a, b]) = scope.uniform(ty)?;
            let f = match opcode {
                "add" => Binary::Add,
                "sub" => Binary::Sub,
                _ => Binary::Mul,
            };
            Ok(Op::Binary { f, style, double: ty == Ty::F64, d, a, b })
        }
        "fma" | "mad" => {
            let rounding = modifiers.require(ROUNDINGS)?;
            let (style, ty) = styled(&mut modifiers, rounding, true)?;
            let (d, [a, b, c]) = scope.uniform(ty)?;
            Ok(Op::Fma { style, double: ty == Ty::F64, d, a, b, c })
        }
        "div" => {
            if let Some(full) = modifiers.choose(&[("approx", false), ("full", true)]) {
                let ftz = modifiers.take("ftz");
                let ty = modifiers.require_type(&BOTH[..1])?;
                modifiers.end()?;
                let (d, [a, b]) = scope.uniform(ty)?;
                return Ok(Op::DivApprox { full, ftz, d, a, b });
            }
            let rounding = modifiers.require(ROUNDINGS)?;
            let (style, ty) = styled(&mut modifiers, rounding, false)?;
            let (d, [a, b]) = scope.uniform(ty)?;
            Ok(Op::Binary { f: Binary::Div, style, double: ty == Ty::F64, d, a, b })
        }
        "rcp" | "sqrt" if modifiers.peek() != Some("approx") => {
            let rounding = modifiers.require(ROUNDINGS)?;
            let (style, ty) = styled(&mut modifiers, rounding, false)?;
            let (d, [a]) = scope.uniform(ty)?;
            let f = if instruction.opcode == "rcp" { Unary::Reciprocal } else { Unary::Sqrt };
            Ok(Op::Unary { f, style, double: ty == Ty::F64, d, a })
        }
        "abs" | "neg" => {
            let (style, ty) = styled(&mut modifiers, Rounding::Nearest, false)?;
            let (d, [a]) = scope.uniform(ty)?;
            let f = if instruction.opcode == "abs" { Sign::Abs } else { Sign::Neg };
            Ok(Op::Sign { f, ftz: style.ftz, double: ty == Ty::F64, d, a })
        }
        "min" | "max" => extreme(instruction, scope, &mut modifiers),
        "copysign" => {
            let ty = modifiers.require_type(BOTH)?;
            modifiers.end()?;
            let (d, [a, b]) = scope.uniform(ty)?;
            Ok(Op::CopySign { double: ty == Ty::F64, d, a, b })
        }
        "testp" => {
            let f = modifiers.require(&[
                ("finite", Property::Finite),
                ("infinite", Property::Infinite),
                ("number", Property::Number),
                ("notanumber", Property::NotANumber),
                ("normal", Property::Normal),
                ("subnormal", Property::Subnormal),
            ])?;
            let ty = modifiers.require_type(BOTH)?;
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let a = scope.source(&instruction.operands[1], ty)?;
            let p = scope.predicate(&instruction.operands[0])?;
            Ok(Op::Test { f, double: ty == Ty::F64, p, a })
        }
        _ => approximate(instruction, scope, &mut modifiers),
    }
}

fn extreme(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    let f = Extreme::decode(instruction, modifiers)?;
    let Extreme { ftz, nan, abs, xorsign, .. } = f;
    let is_plain = !(ftz || nan || abs);
    let ty = modifiers.require_type(if is_plain { BOTH } else { &BOTH[..1] })?;
    modifiers.end()?;
    let three = ty == Ty::F32 && !xorsign && instruction.operands.len() == 4;
    if nan {
        scope.needs_target(80)?;
    }
    if xorsign {
        scope.needs_target(86)?;
    }
    if three {
        scope.needs_target(100)?;
        let (d, [a, b, c]) = scope.uniform(ty)?;
        return Ok(Op::Extreme { f, double: false, d, a, b, c: Some(c) });
    }
    if abs && !xorsign {
        return Err(scope.refuse(".abs without .xorsign is for three sources"));
    }
    let (d, [a, b]) = scope.uniform(ty)?;
    Ok(Op::Extreme { f, double: ty == Ty::F64, d, a, b, c: None })
}

fn approximate(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
) -> Result<Op> {
    let f = match instruction.opcode.as_str() {
        "rcp" => Approx::Reciprocal,
        "sqrt" => Approx::Sqrt,
        "rsqrt" => Approx::Rsqrt,
        "ex2" => Approx::Ex2,
        "lg2" => Approx::Lg2,
        "sin" => Approx::Sin,
        "cos" => Approx::Cos,
        _ => Approx::Tanh,
    };
    modifiers.expect("approx")?;
    let ftz = f != Approx::Tanh && modifiers.take("ftz");
    let double = match (f, ftz) {
        (Approx::Reciprocal, true) => Some(Approx64::ReciprocalUpper),
        (Approx::Rsqrt, true) => Some(Approx64::RsqrtUpper),
        (Approx::Rsqrt, false) => Some(Approx64::Rsqrt),
        _ => None,
    };
    let ty = modifiers.require_type(if double.is_some() { BOTH } else { &BOTH[..1] })?;
    modifiers.end()?;
    let (d, [a]) = scope.uniform(ty)?;
    Ok(match double {
        Some(f) if ty == Ty::F64 => Op::Approx64 { f, d, a },
        _ => Op::Approx { f, ftz, d, a },
    })
}

const NEAREST: Style = Style { rounding: Rounding::Nearest, ftz: false, sat: false };
const FLUSHED: Style = Style { ftz: true, ..NEAREST };
const SATURATED: Style = Style { sat: true, ..NEAREST };
const FLUSHED_SATURATED: Style = Style { sat: true, ..FLUSHED };

/// Gives `$run` the style, as a constant where it rounds to the nearest: those loops vectorise.
macro_rules! with_style {
    ($style:expr, |$name:ident| $run:expr) => {
        match $style {
            NEAREST => {
                let $name = NEAREST;
                $run
            }
            FLUSHED => {
                let $name = FLUSHED;
                $run
            }
            SATURATED => {
                let $name = SATURATED;
                $run
            }
            FLUSHED_SATURATED => {
                let $name = FLUSHED_SATURATED;
                $run
            }
            $name => $run,
        }
    };
}

#[inline(always)]
fn run2<T: Float + Word>(
    lanes: &mut Lanes,
    style: Style,
    (d, a, b): (Slot, Slot, Slot),
    f: impl Fn(Rounding, T, T) -> T,
) {
    with_style!(style, |style| lanes
        .map2(d, a, b, |a, b| { style.output(f(style.rounding, style.input(a), style.input(b))) }));
}

impl Style {
    #[inline]
    fn input<T: Float>(self, x: T) -> T {
        if self.ftz { flush(x) } else { x }
    }

    #[inline]
    fn output<T: Float>(self, x: T) -> T {
        let x = self.input(x.canonical());
        if self.sat { saturate(x) } else { x }
    }
}

fn binary<T: Float + Word>(lanes: &mut Lanes, f: Binary, style: Style, slots: (Slot, Slot, Slot)) {
    match f {
        Binary::Add => run2::<T>(lanes, style, slots, float::add),
        Binary::Sub => run2::<T>(lanes, style, slots, float::sub),
        Binary::Mul => run2::<T>(lanes, style, slots, float::mul),
        Binary::Div => run2::<T>(lanes, style, slots, float::div),
    }
}

fn fma<T: Float + Word>(lanes: &mut Lanes, style: Style, d: Slot, abc: (Slot, Slot, Slot)) {
    with_style!(style, |style| lanes.map3(d, abc, |a: T, b: T, c: T| {
        let (a, b, c) = (style.input(a), style.input(b), style.input(c));
        style.output(float::fma(style.rounding, a, b, c))
    }));
}

fn unary<T: Float + Word>(lanes: &mut Lanes, f: Unary, style: Style, d: Slot, a: Slot) {
    with_style!(style, |style| match f {
        Unary::Reciprocal => lanes.map1(d, a, |a: T| {
            style.output(float::div(style.rounding, T::ONE, style.input(a)))
        }),
        Unary::Sqrt =>
            lanes.map1(d, a, |a: T| { style.output(float::sqrt(style.rounding, style.input(a))) }),
    });
}

impl Approx {
    fn apply(self, x: f32) -> f32 {
        match self {
            Approx::Reciprocal => 1.0 / x,
            Approx::Sqrt => x.sqrt(),
            Approx::Rsqrt => approx::rsqrt(x),
            Approx::Ex2 => approx::ex2(x),
            Approx::Lg2 => approx::lg2(x),
            Approx::Sin => approx::sin(x),
            Approx::Cos => approx::cos(x),
            Approx::Tanh => approx::tanh(x),
        }
    }
}

impl Approx64 {
    fn apply(self, x: f64) -> f64 {
        match self {
            Approx64::ReciprocalUpper => approx::reciprocal_upper(x),
            Approx64::RsqrtUpper => approx::rsqrt_upper(x),
            Approx64::Rsqrt => 1.0 / x.sqrt(),
        }
    }
}

impl Extreme {
    /// A minimum without modifiers.
    pub const PLAIN: Extreme =
        Extreme { max: false, ftz: false, nan: false, abs: false, xorsign: false };

    /// Everything before the type.
    pub fn decode(instruction: &Instruction, modifiers: &mut Modifiers) -> Result<Extreme> {
        let max = instruction.opcode == "max";
        let ftz = modifiers.take("ftz");
        let nan = modifiers.take("NaN");
        let xorsign = modifiers.take("xorsign");
        let abs = match xorsign {
            true => modifiers.expect("abs").map(|()| true)?,
            false => modifiers.take("abs"),
        };
        Ok(Extreme { max, ftz, nan, abs, xorsign })
    }

    #[inline]
    pub fn apply<T: Float>(self, a: T, b: T) -> T {
        let (a, b) = if self.ftz { (flush(a), flush(b)) } else { (a, b) };
        let sign = a.sign() != b.sign();
        let (a, b) = if self.abs { (a.magnitude(), b.magnitude()) } else { (a, b) };
        let chosen = if self.max { float::max(a, b) } else { float::min(a, b) };
        let chosen = match self.nan {
            true if a.nan() => a,
            true if b.nan() => b,
            _ => chosen,
        };
        if self.xorsign && !chosen.nan() { chosen.with_sign(sign) } else { chosen.canonical() }
    }

    fn run<T: Float + Word>(self, lanes: &mut Lanes, d: Slot, a: Slot, b: Slot) {
        match self {
            Extreme::PLAIN => lanes.map2(d, a, b, |a: T, b: T| float::min(a, b).canonical()),
            Extreme { max: true, .. } if (Extreme { max: false, ..self }) == Extreme::PLAIN => {
                lanes.map2(d, a, b, |a: T, b: T| float::max(a, b).canonical())
            }
            _ => lanes.map2(d, a, b, |a: T, b: T| self.apply(a, b)),
        }
    }
}

impl Property {
    fn holds<T: Float>(self, x: T) -> bool {
        let finite = x.double().is_finite();
        let nan = x.nan();
        match self {
            Property::Finite => finite,
            Property::Infinite => !finite && !nan,
            Property::Number => !nan,
            Property::NotANumber => nan,
            Property::Normal => finite && !x.subnormal(),
            Property::Subnormal => x.subnormal() && x != T::ZERO,
        }
    }
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::Binary { f, style, double: false, d, a, b } => {
                binary::<f32>(lanes, f, style, (d, a, b))
            }
            Op::Binary { f, style, double: true, d, a, b } => {
                binary::<f64>(lanes, f, style, (d, a, b))
            }
            Op::Fma { style, double: false, d, a, b, c } => fma::<f32>(lanes, style, d, (a, b, c)),
            Op::Fma { style, double: true, d, a, b, c } => fma::<f64>(lanes, style, d, (a, b, c)),
            Op::Unary { f, style, double: false, d, a } => unary::<f32>(lanes, f, style, d, a),
            Op::Unary { f, style, double: true, d, a } => unary::<f64>(lanes, f, style, d, a),
            Op::DivApprox { full, ftz, d, a, b } => {
                let style = Style { rounding: Rounding::Nearest, ftz, sat: false };
                match full {
                    true => run2::<f32>(lanes, style, (d, a, b), float::div),
                    false => run2::<f32>(lanes, style, (d, a, b), |_, a, b| approx::div(a, b)),
                }
            }
            Op::Approx { f, ftz, d, a } => {
                let style = Style { rounding: Rounding::Nearest, ftz, sat: false };
                lanes.map1(d, a, |a: f32| style.output(f.apply(style.input(a))))
            }
            Op::Approx64 { f, d, a } => lanes.map1(d, a, |a: f64| f.apply(a)),
            Op::Sign { f, ftz, double: false, d, a } => lanes.map1(d, a, |a: f32| {
                let a = if ftz { flush(a) } else { a };
                if f == Sign::Abs { a.abs() } else { -a }
            }),
            Op::Sign { f, double: true, d, a, .. } => {
                lanes.map1(d, a, |a: f64| if f == Sign::Abs { a.abs() } else { -a })
            }
            Op::Extreme { f, double: false, d, a, b, c: None } => f.run::<f32>(lanes, d, a, b),
            Op::Extreme { f, double: false, d, a, b, c: Some(c) } => {
                lanes.map3(d, (a, b, c), |a: f32, b: f32, c: f32| f.apply(f.apply(a, b), c))
            }
            Op::Extreme { f, double: true, d, a, b, .. } => f.run::<f64>(lanes, d, a, b),
            Op::CopySign { double: false, d, a, b } => {
                lanes.map2(d, a, b, |a: f32, b: f32| b.copysign(a))
            }
            Op::CopySign { double: true, d, a, b } => {
                lanes.map2(d, a, b, |a: f64, b: f64| b.copysign(a))
            }
            Op::Test { f, double, p, a } => {
                let holds = match double {
                    false => lanes.test2(a, a, |a: f32, _: f32| f.holds(a)),
                    true => lanes.test2(a, a, |a: f64, _: f64| f.holds(a)),
                };
                lanes.put_predicate(p, holds);
            }
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Op::Fma { double: true, .. } => Class::Fma64,
            Op::Fma { double: false, .. } => Class::Fma32,
            Op::Approx { .. } | Op::Approx64 { .. } | Op::DivApprox { .. } => Class::Special,
            Op::Unary { double: false, .. } | Op::Binary { f: Binary::Div, double: false, .. } => {
                Class::Special
            }
            Op::Binary { double: true, .. }
            | Op::Unary { double: true, .. }
            | Op::Sign { double: true, .. }
            | Op::Extreme { double: true, .. }
            | Op::CopySign { double: true, .. }
            | Op::Test { double: true, .. } => Class::Float64,
            _ => Class::Float32,
        }
    }
}
