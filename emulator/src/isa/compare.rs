//! Comparisons and selections: `setp`, `set`, `selp`, `slct`.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Condition, Lanes, Predicate, Slot};
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand};
use crate::syntax::ty::{Kind, Ty};

pub const OPCODES: &[&str] = &["setp", "set", "selp", "slct"];

/// A comparison as the set of outcomes for which it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    less: bool,
    equal: bool,
    greater: bool,
    /// One of the two is NaN.
    unordered: bool,
}

const fn test(less: bool, equal: bool, greater: bool, unordered: bool) -> Test {
    Test { less, equal, greater, unordered }
}

const ORDERED: &[(&str, Test)] = &[
    ("eq", test(false, true, false, false)),
    // Unordered values are not equal, and yet `ne` is false for them.
    ("ne", test(true, false, true, false)),
    ("lt", test(true, false, false, false)),
    ("le", test(true, true, false, false)),
    ("gt", test(false, false, true, false)),
    ("ge", test(false, true, true, false)),
];

const UNSIGNED: &[(&str, Test)] = &[
    ("lo", test(true, false, false, false)),
    ("ls", test(true, true, false, false)),
    ("hi", test(false, false, true, false)),
    ("hs", test(false, true, true, false)),
];

const FLOAT: &[(&str, Test)] = &[
    ("equ", test(false, true, false, true)),
    ("neu", test(true, false, true, true)),
    ("ltu", test(true, false, false, true)),
    ("leu", test(true, true, false, true)),
    ("gtu", test(false, false, true, true)),
    ("geu", test(false, true, true, true)),
    ("num", test(true, true, true, false)),
    ("nan", test(false, false, false, true)),
];

/// How a comparison is combined with another predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    And,
    Or,
    Xor,
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    pub test: Test,
    pub ty: Ty,
    /// f32 subnormals are zero.
    pub ftz: bool,
    pub a: Slot,
    pub b: Slot,
    pub combine: Option<(Combine, Condition)>,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Set {
        p: Option<Predicate>,
        q: Option<Predicate>,
        comparison: Comparison,
    },
    /// Two halves a register: `p` is of the low ones, `q` of the high ones.
    SetPair {
        p: Option<Predicate>,
        q: Option<Predicate>,
        comparison: Comparison,
    },
    /// `yes` where the comparison holds, else 0.
    SetValue {
        d: Slot,
        yes: u32,
        comparison: Comparison,
    },
    /// As `SetValue`, with 16 bits for each of two halves.
    SetValuePair {
        d: Slot,
        yes: u32,
        comparison: Comparison,
    },
    Select {
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        p: Condition,
    },
    /// `c >= 0 ? a : b`; for a float `c`, NaN chooses `b`.
    SelectSign {
        wide: bool,
        float: bool,
        ftz: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    match instruction.opcode.as_str() {
        "setp" => set_predicate(instruction, scope),
        "set" => set_value(instruction, scope),
        "selp" => select(instruction, scope),
        _ => select_sign(instruction, scope),
    }
}

const COMPARABLE: &[Ty] = &[
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
    Ty::F16,
    Ty::Bf16,
    Ty::F16x2,
    Ty::Bf16x2,
];

const COMBINE: &[(&str, Combine)] =
    &[("and", Combine::And), ("or", Combine::Or), ("xor", Combine::Xor)];

/// The test, the combination, `.ftz`, and for `set` the type of the result.
struct Head {
    name: String,
    test: Test,
    combine: Option<Combine>,
    ftz: bool,
}

fn head(modifiers: &mut Modifiers) -> Result<Head> {
    let name = modifiers.peek().unwrap_or_default().to_owned();
    let tables = [ORDERED, UNSIGNED, FLOAT].concat();
    let test = modifiers.require(&tables)?;
    let combine = modifiers.choose(COMBINE);
    let ftz = modifiers.take("ftz");
    Ok(Head { name, test, combine, ftz })
}

/// The test exists for the type.
fn check(head: &Head, ty: Ty, scope: &Scope) -> Result<()> {
    let in_table = |table: &[(&str, Test)]| table.iter().any(|(name, _)| *name == head.name);
    let is_bf16 = matches!(ty, Ty::Bf16 | Ty::Bf16x2);
    let is_float = ty.kind() == Kind::Float || is_bf16;
    let is_equality = matches!(head.name.as_str(), "eq" | "ne");
    let fits = match ty {
        _ if is_float => in_table(ORDERED) || in_table(FLOAT),
        Ty::B16 | Ty::B32 | Ty::B64 => is_equality,
        Ty::U16 | Ty::U32 | Ty::U64 => in_table(ORDERED) || in_table(UNSIGNED),
        _ => in_table(ORDERED),
    };
    if !fits {
        return Err(scope.refuse(format!("comparison .{} does not exist for {ty}", head.name)));
    }
    if head.ftz && !matches!(ty, Ty::F32 | Ty::F16 | Ty::F16x2) {
        return Err(scope.refuse(format!(".ftz does not exist for {ty}")));
    }
    if is_bf16 { scope.needs_target(90) } else { Ok(()) }
}

/// `a, b` and, with a combination, `c` behind the destination.
fn comparison(
    instruction: &Instruction,
    scope: &mut Scope,
    head: &Head,
    ty: Ty,
) -> Result<Comparison> {
    check(head, ty, scope)?;
    let count = if head.combine.is_some() { 4 } else { 3 };
    scope.expect_operands(count..=count)?;
    let operands = &instruction.operands[..];
    let (a, b) = (scope.source(&operands[1], ty)?, scope.source(&operands[2], ty)?);
    let combine = match head.combine {
        Some(combine) => Some((combine, scope.condition(&operands[3])?)),
        None => None,
    };
    Ok(Comparison { test: head.test, ty, ftz: head.ftz, a, b, combine })
}

fn set_predicate(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let head = head(&mut modifiers)?;
    let ty = modifiers.require_type(COMPARABLE)?;
    modifiers.end()?;
    let comparison = comparison(instruction, scope, &head, ty)?;
    let mut target = |operand: &Operand| match operand {
        Operand::Sink => Ok(None),
        operand => scope.predicate(operand).map(Some),
    };
    let (p, q) = match &instruction.operands[0] {
        Operand::Pair(p, q) => (target(p)?, Some(target(q)?)),
        p => (target(p)?, None),
    };
    match (ty, q) {
        (Ty::F16x2 | Ty::Bf16x2, Some(q)) => Ok(Op::SetPair { p, q, comparison }),
        (Ty::F16x2 | Ty::Bf16x2, None) => Err(scope.refuse("the destination is a pair: p|q")),
        (Ty::F16 | Ty::Bf16, Some(_)) => Err(scope.refuse(format!("{ty} has one destination"))),
        (_, q) => Ok(Op::Set { p, q: q.flatten(), comparison }),
    }
}

fn set_value(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let head = head(&mut modifiers)?;
    let result = modifiers.require_type(RESULTS)?;
    let ty = modifiers.require_type(COMPARABLE)?;
    modifiers.end()?;
    if !gives(result, ty) {
        return Err(scope.refuse(format!("set{result} of {ty} does not exist")));
    }
    if result == Ty::Bf16 {
        scope.needs_target(90)?;
        if head.ftz {
            return Err(scope.refuse(".ftz does not exist for .bf16"));
        }
    }
    let comparison = comparison(instruction, scope, &head, ty)?;
    let d = scope.destination(&instruction.operands[0], result)?;
    // A pair's results have 16 bits each, whatever the type of the destination.
    let pair = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    let yes = match result {
        Ty::F32 => 1f32.to_bits(),
        Ty::F16 | Ty::F16x2 => 0x3C00,
        Ty::Bf16 | Ty::Bf16x2 => 0x3F80,
        Ty::U16 | Ty::S16 => 0xFFFF,
        _ if pair => 0xFFFF,
        _ => u32::MAX,
    };
    Ok(match pair {
        true => Op::SetValuePair { d, yes, comparison },
        false => Op::SetValue { d, yes, comparison },
    })
}

const RESULTS: &[Ty] =
    &[Ty::U32, Ty::S32, Ty::F32, Ty::U16, Ty::S16, Ty::F16, Ty::Bf16, Ty::F16x2, Ty::Bf16x2];

/// `set` gives this type of result for this type of source.
fn gives(result: Ty, source: Ty) -> bool {
    let half = matches!(source, Ty::F16 | Ty::Bf16);
    let pair = matches!(source, Ty::F16x2 | Ty::Bf16x2);
    match result {
        Ty::U32 | Ty::S32 => true,
        Ty::F32 => !half && !pair,
        Ty::U16 | Ty::S16 => half,
        Ty::F16 => !pair && source != Ty::Bf16,
        Ty::Bf16 => !pair,
        pair => source == pair,
    }
}

fn select(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    // Half-precision values are selected as .b16.
    let ty = modifiers.require_type(&COMPARABLE[..11])?;
    modifiers.end()?;
    scope.expect_operands(4..=4)?;
    let [d, a, b, p] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b) = (scope.source(a, ty)?, scope.source(b, ty)?);
    let p = scope.condition(p)?;
    Ok(Op::Select { wide: ty.bits() == 64, d: scope.destination(d, ty)?, a, b, p })
}

fn select_sign(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let ftz = modifiers.take("ftz");
    let ty = modifiers.require_type(&COMPARABLE[..11])?;
    let by = modifiers.require_type(if ftz { &[Ty::F32] } else { &[Ty::S32, Ty::F32] })?;
    modifiers.end()?;
    scope.expect_operands(4..=4)?;
    let [d, a, b, c] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b, c) = (scope.source(a, ty)?, scope.source(b, ty)?, scope.source(c, by)?);
    let (wide, float) = (ty.bits() == 64, by.kind() == Kind::Float);
    Ok(Op::SelectSign { wide, float, ftz, d: scope.destination(d, ty)?, a, b, c })
}

impl Test {
    #[inline]
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        (a < b) & self.less
            | (a == b) & self.equal
            | (a > b) & self.greater
            | a.partial_cmp(&b).is_none() & self.unordered
    }
}

impl Comparison {
    /// The lanes where the comparison holds, before it is combined.
    fn holds(&self, lanes: &Lanes) -> u32 {
        self.holds_above(0, lanes)
    }

    /// [`Comparison::holds`]; halves are the 16 bits from `shift` up.
    fn holds_above(&self, shift: u32, lanes: &Lanes) -> u32 {
        let &Comparison { test, a, b, ftz, .. } = self;
        match self.ty {
            Ty::B16 | Ty::U16 | Ty::B32 | Ty::U32 => {
                lanes.test2(a, b, |a: u32, b: u32| test.holds(a, b))
            }
            Ty::S16 => lanes.test2(a, b, |a: u32, b: u32| test.holds(a as i16, b as i16)),
            Ty::S32 => lanes.test2(a, b, |a: i32, b: i32| test.holds(a, b)),
            Ty::B64 | Ty::U64 => lanes.test2(a, b, |a: u64, b: u64| test.holds(a, b)),
            Ty::S64 => lanes.test2(a, b, |a: i64, b: i64| test.holds(a, b)),
            Ty::F32 if ftz => {
                let flush = |x: f32| if x.is_subnormal() { 0.0 } else { x };
                lanes.test2(a, b, |a: f32, b: f32| test.holds(flush(a), flush(b)))
            }
            Ty::F32 => lanes.test2(a, b, |a: f32, b: f32| test.holds(a, b)),
            Ty::F64 => lanes.test2(a, b, |a: f64, b: f64| test.holds(a, b)),
            Ty::Bf16 | Ty::Bf16x2 => lanes.test2(a, b, |a: u32, b: u32| {
                let widen = |bits: u32| f32::from_bits(bits >> shift << 16);
                test.holds(widen(a), widen(b))
            }),
            _ => lanes.test2(a, b, |a: u32, b: u32| {
                test.holds(half_order(a >> shift, ftz), half_order(b >> shift, ftz))
            }),
        }
    }

    fn combine(&self, lanes: &Lanes, holds: u32) -> u32 {
        match self.combine {
            None => holds,
            Some((Combine::And, c)) => holds & lanes.condition(c),
            Some((Combine::Or, c)) => holds | lanes.condition(c),
            Some((Combine::Xor, c)) => holds ^ lanes.condition(c),
        }
    }
}

/// An f32 that compares as the f16 in the low 16 bits does.
fn half_order(bits: u32, ftz: bool) -> f32 {
    let magnitude = bits & 0x7FFF;
    let is_subnormal = magnitude < 0x0400;
    let value = match magnitude {
        0x7C01.. => f32::NAN,
        _ if is_subnormal && ftz => 0.0,
        // The order of magnitudes is that of their bits.
        _ => magnitude as f32,
    };
    if bits & 0x8000 != 0 { -value } else { value }
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::Set { p, q, comparison } => {
                let holds = comparison.holds(lanes);
                let (yes, no) =
                    (comparison.combine(lanes, holds), comparison.combine(lanes, !holds));
                if let Some(p) = p {
                    lanes.put_predicate(p, yes);
                }
                if let Some(q) = q {
                    lanes.put_predicate(q, no);
                }
            }
            Op::SetPair { p, q, comparison } => {
                // Both before either is written: one of them may be the predicate that is combined.
                let [low, high] = [0, 16]
                    .map(|shift| comparison.combine(lanes, comparison.holds_above(shift, lanes)));
                if let Some(p) = p {
                    lanes.put_predicate(p, low);
                }
                if let Some(q) = q {
                    lanes.put_predicate(q, high);
                }
            }
            Op::SetValue { d, yes, comparison } => {
                let holds = comparison.combine(lanes, comparison.holds(lanes));
                lanes.put::<u32>(d, &std::array::from_fn(|lane| yes * (holds >> lane & 1)));
            }
            Op::SetValuePair { d, yes, comparison } => {
                let [low, high] = [0, 16]
                    .map(|shift| comparison.combine(lanes, comparison.holds_above(shift, lanes)));
                let half = |holds: u32, lane: usize| yes * (holds >> lane & 1);
                let value = |lane| half(low, lane) | half(high, lane) << 16;
                lanes.put::<u32>(d, &std::array::from_fn(value));
            }
            Op::Select { wide: false, d, a, b, p } => select_lanes::<u32>(lanes, d, (a, b), p),
            Op::Select { wide: true, d, a, b, p } => select_lanes::<u64>(lanes, d, (a, b), p),
            Op::SelectSign { wide, float, ftz, d, a, b, c } => {
                let first = lanes.test2(c, c, |c: u32, _: u32| match float {
                    false => c as i32 >= 0,
                    true if ftz && f32::from_bits(c).is_subnormal() => true,
                    true => f32::from_bits(c) >= 0.0,
                });
                let pick = |lane: usize| first >> lane & 1 == 1;
                if wide {
                    let (a, b) = (*lanes.get::<u64>(a), *lanes.get::<u64>(b));
                    lanes.put::<u64>(
                        d,
                        &std::array::from_fn(|lane| if pick(lane) { a[lane] } else { b[lane] }),
                    );
                } else {
                    let (a, b) = (*lanes.get::<u32>(a), *lanes.get::<u32>(b));
                    lanes.put::<u32>(
                        d,
                        &std::array::from_fn(|lane| if pick(lane) { a[lane] } else { b[lane] }),
                    );
                }
            }
        }
    }

    pub fn class(&self) -> Class {
        Class::Compare
    }
}

fn select_lanes<T: crate::lanes::Word>(
    lanes: &mut Lanes,
    d: Slot,
    (a, b): (Slot, Slot),
    p: Condition,
) {
    let first = lanes.condition(p);
    let (a, b) = (lanes.get::<T>(a), lanes.get::<T>(b));
    let values = std::array::from_fn(|lane| if first >> lane & 1 == 1 { a[lane] } else { b[lane] });
    lanes.put(d, &values);
}
