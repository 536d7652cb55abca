//! Bitwise logic, shifts, bit fields and permutations.

use super::Class;
use super::modifiers::Modifiers;
use super::scope::Scope;
use crate::lanes::{Condition, Lanes, Predicate, Slot};
use crate::syntax::Result;
use crate::syntax::ast::{Instruction, Operand};
use crate::syntax::ty::Ty;

pub const OPCODES: &[&str] = &[
    "and", "or", "xor", "not", "cnot", "lop3", "shl", "shr", "shf", "bfe", "bfi", "bfind", "fns",
    "bmsk", "szext", "brev", "popc", "clz", "prmt",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bitwise {
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    Not,
    /// 1 where the value is 0, else 0.
    LogicalNot,
    Reverse,
}

/// Counts of bits: the result has 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Ones,
    LeadingZeros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    Left,
    /// `shr.u` and `shr.b`.
    RightLogical,
    RightArithmetic,
}

/// `prmt`'s modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permute {
    Index,
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

/// A decoded instruction. `bits` is the width of the operation: 16, 32 or 64.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Bitwise {
        f: Bitwise,
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Predicates {
        f: Bitwise,
        d: Predicate,
        a: Condition,
        b: Condition,
    },
    NotPredicate {
        d: Predicate,
        a: Condition,
    },
    Unary {
        f: Unary,
        bits: u8,
        d: Slot,
        a: Slot,
    },
    Count {
        f: Count,
        wide: bool,
        d: Slot,
        a: Slot,
    },
    Shift {
        f: Shift,
        bits: u8,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    /// `b:a` shifted; the high word of a left shift, the low word of a right one.
    Funnel {
        left: bool,
        clamp: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// With a predicate: `p = (d != 0) or q`, or `and`.
    Lop3 {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        lut: u8,
        then: Option<(Bitwise, Predicate, Condition)>,
    },
    Extract {
        signed: bool,
        wide: bool,
        d: Slot,
        a: Slot,
        position: Slot,
        length: Slot,
    },
    Insert {
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        position: Slot,
        length: Slot,
    },
    Find {
        signed: bool,
        wide: bool,
        shift_amount: bool,
        d: Slot,
        a: Slot,
    },
    FindNth {
        d: Slot,
        a: Slot,
        base: Slot,
        offset: Slot,
    },
    Mask {
        clamp: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Extend {
        clamp: bool,
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Permute {
        mode: Permute,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
}

pub fn decode(instruction: &Instruction, scope: &mut Scope) -> Result<Op> {
    let mut modifiers = Modifiers::new(instruction);
    let operands = &instruction.operands[..];
    let bits = &[Ty::B16, Ty::B32, Ty::B64][..];
    match instruction.opcode.as_str() {
        "and" | "or" | "xor" => {
            let f = match instruction.opcode.as_str() {
                "and" => Bitwise::And,
                "or" => Bitwise::Or,
                _ => Bitwise::Xor,
            };
            let ty = modifiers.require_type(&[Ty::Pred, Ty::B16, Ty::B32, Ty::B64])?;
            modifiers.end()?;
            scope.expect_operands(3..=3)?;
            if ty == Ty::Pred {
                let (a, b) = (scope.condition(&operands[1])?, scope.condition(&operands[2])?);
                return Ok(Op::Predicates { f, d: scope.predicate(&operands[0])?, a, b });
            }
            let (a, b) = (scope.source(&operands[1], ty)?, scope.source(&operands[2], ty)?);
            Ok(Op::Bitwise {
                f,
                wide: ty == Ty::B64,
                d: scope.destination(&operands[0], ty)?,
                a,
                b,
            })
        }
        "not" if modifiers.take("pred") => {
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let a = scope.condition(&operands[1])?;
            Ok(Op::NotPredicate { d: scope.predicate(&operands[0])?, a })
        }
        "not" | "cnot" | "brev" => {
            let (f, types) = match instruction.opcode.as_str() {
                "not" => (Unary::Not, bits),
                "cnot" => (Unary::LogicalNot, bits),
                _ => (Unary::Reverse, &bits[1..]),
            };
            let ty = modifiers.require_type(types)?;
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let a = scope.source(&operands[1], ty)?;
            Ok(Op::Unary { f, bits: ty.bits() as u8, d: scope.destination(&operands[0], ty)?, a })
        }
        "popc" | "clz" => {
            let f = if instruction.opcode == "popc" { Count::Ones } else { Count::LeadingZeros };
            let ty = modifiers.require_type(&bits[1..])?;
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let a = scope.source(&operands[1], ty)?;
            let d = scope.destination(&operands[0], Ty::U32)?;
            Ok(Op::Count { f, wide: ty == Ty::B64, d, a })
        }
        "shl" | "shr" => shift(instruction, scope, &mut modifiers),
        "shf" => {
            let left = modifiers.require(&[("l", true), ("r", false)])?;
            let clamp = modifiers.require(&[("clamp", true), ("wrap", false)])?;
            let (d, [a, b, c]) = funnel(instruction, scope, &mut modifiers)?;
            Ok(Op::Funnel { left, clamp, d, a, b, c })
        }
        "lop3" => lop3(instruction, scope, &mut modifiers),
        "bfe" | "bfi" => field(instruction, scope, &mut modifiers),
        "bfind" => {
            let shift_amount = modifiers.take("shiftamt");
            let ty = modifiers.require_type(&[Ty::U32, Ty::U64, Ty::S32, Ty::S64])?;
            modifiers.end()?;
            scope.expect_operands(2..=2)?;
            let a = scope.source(&operands[1], ty)?;
            let d = scope.destination(&operands[0], Ty::U32)?;
            Ok(Op::Find { signed: ty.is_signed(), wide: ty.bits() == 64, shift_amount, d, a })
        }
        "fns" => {
            modifiers.expect("b32")?;
            modifiers.end()?;
            scope.expect_operands(4..=4)?;
            let a = scope.source(&operands[1], Ty::B32)?;
            let base = scope.source(&operands[2], Ty::B32)?;
            let offset = scope.source(&operands[3], Ty::S32)?;
            Ok(Op::FindNth { d: scope.destination(&operands[0], Ty::B32)?, a, base, offset })
        }
        "bmsk" => {
            let clamp = modifiers.require(&[("clamp", true), ("wrap", false)])?;
            modifiers.expect("b32")?;
            modifiers.end()?;
            scope.expect_operands(3..=3)?;
            let (a, b) =
                (scope.source(&operands[1], Ty::U32)?, scope.source(&operands[2], Ty::U32)?);
            Ok(Op::Mask { clamp, d: scope.destination(&operands[0], Ty::U32)?, a, b })
        }
        "szext" => {
            let clamp = modifiers.require(&[("clamp", true), ("wrap", false)])?;
            let ty = modifiers.require_type(&[Ty::U32, Ty::S32])?;
            modifiers.end()?;
            scope.expect_operands(3..=3)?;
            let (a, b) = (scope.source(&operands[1], ty)?, scope.source(&operands[2], Ty::U32)?);
            let d = scope.destination(&operands[0], ty)?;
            Ok(Op::Extend { clamp, signed: ty == Ty::S32, d, a, b })
        }
        _ => {
            // The mode comes after the type here.
            modifiers.expect("b32")?;
            let mode = modifiers.choose(&[
                ("f4e", Permute::Forward4),
                ("b4e", Permute::Backward4),
                ("rc8", Permute::Replicate8),
                ("ecl", Permute::EdgeLeft),
                ("ecr", Permute::EdgeRight),
                ("rc16", Permute::Replicate16),
            ]);
            modifiers.end()?;
            scope.expect_operands(4..=4)?;
            let [d, a, b, c] = operands else { unreachable!("counted above") };
            let (a, b) = (scope.source(a, Ty::B32)?, scope.source(b, Ty::B32)?);
            let c = scope.source(c, Ty::B32)?;
            let mode = mode.unwrap_or(Permute::Index);
            Ok(Op::Permute { mode, d: scope.destination(d, Ty::B32)?, a, b, c })
        }
    }
}

/// The rest of `shf`. The words may be floats, the amount may not.
fn funnel(
    instruction: &Instruction,
    scope: &mut Scope,
    modifiers: &mut Modifiers,
) -> Result<(Slot, [Slot; 3])> {
    modifiers.expect("b32")?;
    modifiers.end()?;
    scope.expect_operands(4..=4)?;
    let [d, a, b, c] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b) = (scope.source(a, Ty::B32)?, scope.source(b, Ty::B32)?);
    let c = scope.source(c, Ty::U32)?;
    Ok((scope.destination(d, Ty::B32)?, [a, b, c]))
}

fn shift(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    let all =
        &[Ty::B16, Ty::B32, Ty::B64, Ty::U16, Ty::U32, Ty::U64, Ty::S16, Ty::S32, Ty::S64][..];
    let left = instruction.opcode == "shl";
    let ty = modifiers.require_type(if left { &all[..3] } else { all })?;
    modifiers.end()?;
    scope.expect_operands(3..=3)?;
    let [d, a, b] = &instruction.operands[..] else { unreachable!("counted above") };
    let (a, b) = (scope.source(a, ty)?, scope.source(b, Ty::U32)?);
    let f = match (left, ty.is_signed()) {
        (true, _) => Shift::Left,
        (false, false) => Shift::RightLogical,
        (false, true) => Shift::RightArithmetic,
    };
    Ok(Op::Shift { f, bits: ty.bits() as u8, d: scope.destination(d, ty)?, a, b })
}

fn lop3(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    let combine = modifiers.choose(&[("or", Bitwise::Or), ("and", Bitwise::And)]);
    modifiers.expect("b32")?;
    modifiers.end()?;
    let count = if combine.is_some() { 6 } else { 5 };
    scope.expect_operands(count..=count)?;
    let operands = &instruction.operands[..];
    let (a, b) = (scope.source(&operands[1], Ty::B32)?, scope.source(&operands[2], Ty::B32)?);
    let c = scope.source(&operands[3], Ty::B32)?;
    let Operand::Int(lut @ 0..=255) = operands[4] else {
        return Err(scope.refuse("the truth table is a constant from 0 to 255"));
    };
    let (d, then) = match (combine, &operands[0]) {
        (None, d) => (scope.destination(d, Ty::B32)?, None),
        (Some(f), Operand::Pair(d, p)) => {
            if **p == Operand::Sink {
                return Err(scope.refuse("a predicate is expected behind '|'"));
            }
            let q = scope.condition(&operands[5])?;
            (scope.destination_or_sink(d, Ty::B32)?, Some((f, scope.predicate(p)?, q)))
        }
        (Some(_), _) => return Err(scope.refuse("the destination is a pair: d|p")),
    };
    Ok(Op::Lop3 { d, a, b, c, lut: lut as u8, then })
}

fn field(instruction: &Instruction, scope: &mut Scope, modifiers: &mut Modifiers) -> Result<Op> {
    let operands = &instruction.operands[..];
    if instruction.opcode == "bfe" {
        let ty = modifiers.require_type(&[Ty::U32, Ty::U64, Ty::S32, Ty::S64])?;
        modifiers.end()?;
        scope.expect_operands(4..=4)?;
        let a = scope.source(&operands[1], ty)?;
        let position = place(scope, &operands[2])?;
        let length = place(scope, &operands[3])?;
        let d = scope.destination(&operands[0], ty)?;
        let wide = ty.bits() == 64;
        return Ok(Op::Extract { signed: ty.is_signed(), wide, d, a, position, length });
    }
    let ty = modifiers.require_type(&[Ty::B32, Ty::B64])?;
    modifiers.end()?;
    scope.expect_operands(5..=5)?;
    let (a, b) = (scope.source(&operands[1], ty)?, scope.source(&operands[2], ty)?);
    let position = place(scope, &operands[3])?;
    let length = place(scope, &operands[4])?;
    let d = scope.destination(&operands[0], ty)?;
    Ok(Op::Insert { wide: ty == Ty::B64, d, a, b, position, length })
}

/// A position or a length in bits: a constant has 8 bits.
fn place(scope: &mut Scope, operand: &Operand) -> Result<Slot> {
    match operand {
        Operand::Int(value) if !(0..=255).contains(value) => {
            Err(scope.refuse(format!("{value} is not a place from 0 to 255")))
        }
        operand => scope.source(operand, Ty::U32),
    }
}

impl Op {
    #[inline]
    pub fn execute(&self, lanes: &mut Lanes) {
        match *self {
            Op::Bitwise { f, wide: false, d, a, b } => match f {
                Bitwise::And => lanes.map2(d, a, b, |a: u32, b: u32| a & b),
                Bitwise::Or => lanes.map2(d, a, b, |a: u32, b: u32| a | b),
                Bitwise::Xor => lanes.map2(d, a, b, |a: u32, b: u32| a ^ b),
            },
            Op::Bitwise { f, wide: true, d, a, b } => match f {
                Bitwise::And => lanes.map2(d, a, b, |a: u64, b: u64| a & b),
                Bitwise::Or => lanes.map2(d, a, b, |a: u64, b: u64| a | b),
                Bitwise::Xor => lanes.map2(d, a, b, |a: u64, b: u64| a ^ b),
            },
            Op::Predicates { f, d, a, b } => {
                let value = combine(f, lanes.condition(a), lanes.condition(b));
                lanes.put_predicate(d, value);
            }
            Op::NotPredicate { d, a } => {
                let value = !lanes.condition(a);
                lanes.put_predicate(d, value);
            }
            Op::Unary { f, bits, d, a } => unary(lanes, f, bits, d, a),
            Op::Count { f, wide, d, a } => match (f, wide) {
                (Count::Ones, false) => lanes.map1(d, a, |a: u32| a.count_ones()),
                (Count::Ones, true) => lanes.map1(d, a, |a: u64| a.count_ones()),
                (Count::LeadingZeros, false) => lanes.map1(d, a, |a: u32| a.leading_zeros()),
                (Count::LeadingZeros, true) => lanes.map1(d, a, |a: u64| a.leading_zeros()),
            },
            Op::Shift { f, bits, d, a, b } => shifted(lanes, f, bits, d, a, b),
            Op::Funnel { left, clamp, d, a, b, c } => {
                lanes.map3(d, (a, b, c), |a: u32, b: u32, c: u32| {
                    let n = if clamp { c.min(32) } else { c & 31 };
                    let both = u64::from(b) << 32 | u64::from(a);
                    if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
                })
            }
            Op::Lop3 { d, a, b, c, lut, then } => {
                lanes.map3(d, (a, b, c), |a: u32, b: u32, c: u32| lop3_of(lut, a, b, c));
                if let Some((f, p, q)) = then {
                    let results = lanes.get::<u32>(d);
                    let ones =
                        (0..32).fold(0, |mask, lane| mask | u32::from(results[lane] != 0) << lane);
                    let value = combine(f, ones, lanes.condition(q));
                    lanes.put_predicate(p, value);
                }
            }
            Op::Extract { signed, wide: false, d, a, position, length } => {
                lanes.map3(d, (a, position, length), |a: u32, position: u32, length: u32| {
                    extract(signed, 32, u64::from(a), position, length) as u32
                });
            }
            Op::Extract { signed, wide: true, d, a, position, length } => {
                lanes.map3(d, (a, position, length), |a: u64, position: u32, length: u32| {
                    extract(signed, 64, a, position, length)
                });
            }
            Op::Insert { wide, d, a, b, position, length } => {
                let (position, length) = (*lanes.get::<u32>(position), *lanes.get::<u32>(length));
                if wide {
                    let (a, b) = (*lanes.get::<u64>(a), *lanes.get::<u64>(b));
                    let value = |lane| insert(64, a[lane], b[lane], position[lane], length[lane]);
                    lanes.put::<u64>(d, &std::array::from_fn(value));
                } else {
                    let (a, b) = (*lanes.get::<u32>(a), *lanes.get::<u32>(b));
                    let value = |lane: usize| {
                        let (a, b) = (u64::from(a[lane]), u64::from(b[lane]));
                        insert(32, a, b, position[lane], length[lane]) as u32
                    };
                    lanes.put::<u32>(d, &std::array::from_fn(value));
                }
            }
            Op::Find { signed, wide, shift_amount, d, a } => {
                let find = |a: u64, bits: u32| {
                    let top = if wide { a as i64 } else { i64::from(a as u32 as i32) };
                    let a = if signed && top < 0 { !a } else { a };
                    let a = if wide { a } else { a & 0xFFFF_FFFF };
                    match a.checked_ilog2() {
                        None => u32::MAX,
                        Some(at) if shift_amount => bits - 1 - at,
                        Some(at) => at,
                    }
                };
                match wide {
                    true => lanes.map1(d, a, |a: u64| find(a, 64)),
                    false => lanes.map1(d, a, |a: u32| find(u64::from(a), 32)),
                }
            }
            Op::FindNth { d, a, base, offset } => lanes.map3(d, (a, base, offset), find_nth),
            Op::Mask { clamp, d, a, b } => lanes.map2(d, a, b, |a: u32, b: u32| {
                let is_over = clamp && (a >= 32 || b >= 32);
                let (start, width) = (a & 31, b & 31);
                let from = if clamp && a >= 32 { 0 } else { u32::MAX << start };
                let above =
                    if is_over || start + width >= 32 { 0 } else { u32::MAX << (start + width) };
                from & !above
            }),
            Op::Extend { clamp, signed, d, a, b } => lanes.map2(d, a, b, |a: u32, b: u32| {
                let width = b & 31;
                let above = if clamp && b >= 32 { 0 } else { u32::MAX << width };
                let is_negative = signed && above != 0 && width != 0 && a >> (width - 1) & 1 == 1;
                if is_negative { a | above } else { a & !above }
            }),
            Op::Permute { mode, d, a, b, c } => {
                lanes.map3(d, (a, b, c), |a: u32, b: u32, c: u32| permute(mode, a, b, c));
            }
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Op::Predicates { .. } | Op::NotPredicate { .. } => Class::Compare,
            _ => Class::Logic,
        }
    }
}

fn combine(f: Bitwise, a: u32, b: u32) -> u32 {
    match f {
        Bitwise::And => a & b,
        Bitwise::Or => a | b,
        Bitwise::Xor => a ^ b,
    }
}

fn unary(lanes: &mut Lanes, f: Unary, bits: u8, d: Slot, a: Slot) {
    match (f, bits) {
        (Unary::Not, 16) => lanes.map1(d, a, |a: u32| !a & 0xFFFF),
        (Unary::Not, 32) => lanes.map1(d, a, |a: u32| !a),
        (Unary::Not, _) => lanes.map1(d, a, |a: u64| !a),
        (Unary::LogicalNot, 64) => lanes.map1(d, a, |a: u64| u64::from(a == 0)),
        (Unary::LogicalNot, _) => lanes.map1(d, a, |a: u32| u32::from(a == 0)),
        (Unary::Reverse, 64) => lanes.map1(d, a, |a: u64| a.reverse_bits()),
        (Unary::Reverse, _) => lanes.map1(d, a, |a: u32| a.reverse_bits()),
    }
}

/// Shifts by the width or more leave zeros, or sign bits.
fn shifted(lanes: &mut Lanes, f: Shift, bits: u8, d: Slot, a: Slot, b: Slot) {
    match (f, bits) {
        (Shift::Left, 64) => lanes.map2(d, a, b, |a: u64, b: u32| a.checked_shl(b).unwrap_or(0)),
        (Shift::Left, 32) => lanes.map2(d, a, b, |a: u32, b: u32| a.checked_shl(b).unwrap_or(0)),
        (Shift::Left, _) => {
            lanes.map2(d, a, b, |a: u32, b: u32| a.checked_shl(b).unwrap_or(0) & 0xFFFF)
        }
        (Shift::RightLogical, 64) => {
            lanes.map2(d, a, b, |a: u64, b: u32| a.checked_shr(b).unwrap_or(0))
        }
        (Shift::RightLogical, _) => {
            lanes.map2(d, a, b, |a: u32, b: u32| a.checked_shr(b).unwrap_or(0))
        }
        (Shift::RightArithmetic, 64) => lanes.map2(d, a, b, |a: i64, b: u32| a >> b.min(63)),
        (Shift::RightArithmetic, 32) => lanes.map2(d, a, b, |a: i32, b: u32| a >> b.min(31)),
        (Shift::RightArithmetic, _) => {
            lanes.map2(d, a, b, |a: u32, b: u32| u32::from((a as i16 >> b.min(15)) as u16));
        }
    }
}

/// Each bit is the entry of the table that the bits of `a`, `b` and `c` choose.
fn lop3_of(lut: u8, a: u32, b: u32, c: u32) -> u32 {
    (0..8).filter(|entry| lut >> entry & 1 == 1).fold(0, |bits, entry| {
        let pick = |value: u32, bit: u32| if entry & bit != 0 { value } else { !value };
        bits | pick(a, 4) & pick(b, 2) & pick(c, 1)
    })
}

/// `bfe`: only the low 8 bits of position and length count.
fn extract(signed: bool, bits: u32, a: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xFF, length & 0xFF);
    if length == 0 {
        return 0;
    }
    let sign = signed && a >> (position + length - 1).min(bits - 1) & 1 == 1;
    let value = a.checked_shr(position).unwrap_or(0);
    let kept = length.min(bits.saturating_sub(position));
    let mask = u64::MAX.checked_shr(64 - kept).unwrap_or(0);
    if sign { value & mask | !mask } else { value & mask }
}

/// `bfi`: the low `length` bits of `a` into `b` at `position`.
fn insert(bits: u32, a: u64, b: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xFF, length & 0xFF);
    let kept = length.min(bits.saturating_sub(position));
    if kept == 0 {
        return b;
    }
    let mask = (u64::MAX >> (64 - kept)) << position;
    b & !mask | (a << position) & mask
}

/// `fns`: the n-th set bit from `base`, upwards or downwards.
fn find_nth(mask: u32, base: u32, offset: i32) -> u32 {
    let is_set = |at: i64| mask >> at & 1 == 1;
    let base = i64::from(base);
    if offset == 0 {
        return if base < 32 && is_set(base) { base as u32 } else { u32::MAX };
    }
    let step = i64::from(offset.signum());
    let mut left = i64::from(offset).abs() - 1;
    let mut at = base;
    while (0..32).contains(&at) {
        if is_set(at) {
            if left == 0 {
                return at as u32;
            }
            left -= 1;
        }
        at += step;
    }
    u32::MAX
}

/// `prmt`: four bytes chosen from the eight of `b:a`.
fn permute(mode: Permute, a: u32, b: u32, c: u32) -> u32 {
    let source = u64::from(b) << 32 | u64::from(a);
    let byte = |index: u32| (source >> (8 * (index & 7))) as u8;
    let low = c & 3;
    let pick = |at: u32| match mode {
        Permute::Index => {
            let selector = c >> (4 * at);
            let value = byte(selector);
            // The top bit of a selector asks for the sign of the byte.
            if selector & 8 != 0 { (value as i8 >> 7) as u8 } else { value }
        }
        Permute::Forward4 => byte(low + at),
        Permute::Backward4 => byte((low + 8 - at) & 7),
        Permute::Replicate8 => byte(low),
        Permute::EdgeLeft => byte(at.max(low)),
        Permute::EdgeRight => byte(at.min(low)),
        Permute::Replicate16 => byte((low & 1) * 2 + (at & 1)),
    };
    (0..4).fold(0, |bits, at| bits | u32::from(pick(at)) << (8 * at))
}
