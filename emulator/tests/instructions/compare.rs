//! `setp`, `set`, `selp` and `slct` against the order of the values themselves.

use std::cmp::Ordering;

use proptest::prelude::*;

use crate::harness::{check, run};
use crate::values::{self, rows};

/// How two words compare as values of a type; `None` if one is NaN.
fn order(ty: &str, a: u64, b: u64) -> Option<Ordering> {
    let half = |x: u64| {
        let (exponent, fraction) = (x >> 10 & 31, (x & 0x3FF) as f64);
        let magnitude = match exponent {
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            0 => fraction,
            _ => (1024.0 + fraction) * 2f64.powi(exponent as i32 - 1),
        };
        if x >> 15 & 1 == 1 { -magnitude } else { magnitude }
    };
    match ty {
        "b16" | "u16" => Some((a as u16).cmp(&(b as u16))),
        "s16" => Some((a as i16).cmp(&(b as i16))),
        "b32" | "u32" => Some((a as u32).cmp(&(b as u32))),
        "s32" => Some((a as i32).cmp(&(b as i32))),
        "b64" | "u64" => Some(a.cmp(&b)),
        "s64" => Some((a as i64).cmp(&(b as i64))),
        "f32" => f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32)),
        "f64" => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        "f16" => half(a).partial_cmp(&half(b)),
        _ => f32::from_bits((a as u32) << 16).partial_cmp(&f32::from_bits((b as u32) << 16)),
    }
}

/// Whether a comparison holds, by its name.
fn holds(test: &str, order: Option<Ordering>) -> bool {
    use Ordering::{Equal, Greater, Less};
    match test {
        "eq" => order == Some(Equal),
        "ne" => matches!(order, Some(Less | Greater)),
        "lt" | "lo" => order == Some(Less),
        "le" | "ls" => matches!(order, Some(Less | Equal)),
        "gt" | "hi" => order == Some(Greater),
        "ge" | "hs" => matches!(order, Some(Greater | Equal)),
        "num" => order.is_some(),
        "nan" => order.is_none(),
        unordered => order.is_none() || holds(&unordered[..2], order),
    }
}

const EQUALITY: &[&str] = &["eq", "ne"];
const SIGNED: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge"];
const UNSIGNED: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
const FLOAT: &[&str] =
    &["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

fn tests(ty: &str) -> &'static [&'static str] {
    match &ty[..1] {
        "b" if ty != "bf16" => EQUALITY,
        "u" => UNSIGNED,
        "s" => SIGNED,
        _ => FLOAT,
    }
}

fn register(ty: &str) -> &str {
    match ty {
        "bf16" | "f16" => "b16",
        ty => ty,
    }
}

/// Every test of a type, alone and combined with a third input.
fn compare(ty: &str, rows: &[Vec<u64>]) {
    let register = register(ty);
    let rows: Vec<Vec<u64>> =
        rows.iter().enumerate().map(|(at, row)| vec![row[0], row[1], at as u64 & 1]).collect();
    let inputs = [register, register, "pred"];
    for test in tests(ty) {
        let of = |x: &[u64]| holds(test, order(ty, x[0], x[1]));
        check(&inputs, "pred", &format!("setp.{test}.{ty} %d, %a, %b;"), &rows, |x| of(x).into());
        for (name, combine) in [
            ("and", (|a, b| a && b) as fn(bool, bool) -> bool),
            ("or", |a, b| a || b),
            ("xor", |a, b| a != b),
        ] {
            for (negate, c) in [("", 1), ("!", 0)] {
                // A half's comparison has one destination.
                let both = !matches!(ty, "f16" | "bf16");
                let (d, count) = if both { ("%d|%f", 2) } else { ("%d", 1) };
                let body = format!("setp.{test}.{name}.{ty} {d}, %a, %b, {negate}%c;");
                let outputs = &["pred"; 2][..count];
                for (x, result) in rows.iter().zip(run(&inputs, outputs, &body, &rows)) {
                    let (first, third) = (of(x), x[2] == c);
                    let expected = [combine(first, third), combine(!first, third)].map(u64::from);
                    assert_eq!(&result[..], &expected[..count], "{body} of {x:x?}");
                }
            }
            if matches!(ty, "f16" | "bf16") {
                continue;
            }
            let body = format!("set.{test}.{name}.u32.{ty} %d, %a, %b, %c;");
            check(&inputs, "u32", &body, &rows, |x| {
                if combine(of(x), x[2] == 1) { 0xFFFF_FFFF } else { 0 }
            });
        }
        if !matches!(ty, "f16" | "bf16") {
            let body = format!("set.{test}.f32.{ty} %d, %a, %b;");
            check(&inputs, "f32", &body, &rows, |x| if of(x) { 0x3F80_0000 } else { 0 });
        }
    }
}

proptest! {
    #![proptest_config(values::cases(12))]

    #[test]
    fn integers(
        halves in rows(values::word(16), 2),
        words in rows(values::word(32), 2),
        doubles in rows(values::word(64), 2),
    ) {
        for (bits, mut rows) in [(16, halves), (32, words), (64, doubles)] {
            // Equal values are rare otherwise.
            rows.iter_mut().step_by(4).for_each(|row| row[1] = row[0]);
            for kind in ["b", "u", "s"] {
                compare(&format!("{kind}{bits}"), &rows);
            }
        }
    }

    #[test]
    fn floats(
        halves in rows(values::float(values::F16), 2),
        brains in rows(values::float(values::BF16), 2),
        singles in rows(values::float(values::F32), 2),
        doubles in rows(values::float(values::F64), 2),
    ) {
        let types = [("f16", halves), ("bf16", brains), ("f32", singles), ("f64", doubles)];
        for (ty, mut rows) in types {
            rows.iter_mut().step_by(4).for_each(|row| row[1] = row[0]);
            compare(ty, &rows);
        }
    }

    /// With `.ftz` subnormals are equal to zero.
    #[test]
    fn flushed(
        singles in rows(values::float(values::F32), 2),
        halves in rows(values::float(values::F16), 2),
    ) {
        for (ty, exponent, rows) in [("f32", 0x7F80_0000u64, singles), ("f16", 0x7C00, halves)] {
            let flush = |x: u64| if x & exponent == 0 { 0 } else { x };
            for test in FLOAT {
                let body = format!("setp.{test}.ftz.{ty} %d, %a, %b;");
                check(&[register(ty); 2], "pred", &body, &rows, |x| {
                    holds(test, order(ty, flush(x[0]), flush(x[1]))).into()
                });
            }
        }
    }

    #[test]
    fn selections(rows in rows(values::word(64), 3)) {
        for ty in ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"] {
            let bits: u32 = ty[1..].parse().unwrap();
            let mask = u64::MAX >> (64 - bits);
            let body = format!("setp.lt.s32 %p1, %c, 0; selp.{ty} %d, %a, %b, %p1;");
            check(&[ty, ty, "s32"], ty, &body, &rows, |x| {
                mask & if (x[2] as i32) < 0 { x[0] } else { x[1] }
            });
            let body = format!("slct.{ty}.s32 %d, %a, %b, %c;");
            check(&[ty, ty, "s32"], ty, &body, &rows, |x| {
                mask & if x[2] as i32 >= 0 { x[0] } else { x[1] }
            });
            for (ftz, flushes) in [("", false), (".ftz", true)] {
                let body = format!("slct{ftz}.{ty}.f32 %d, %a, %b, %c;");
                check(&[ty, ty, "f32"], ty, &body, &rows, |x| {
                    let c = f32::from_bits(x[2] as u32);
                    let c = if flushes && c.is_subnormal() { 0.0 } else { c };
                    mask & if c >= 0.0 { x[0] } else { x[1] }
                });
            }
        }
    }
}
