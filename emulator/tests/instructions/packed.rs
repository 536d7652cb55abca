//! Two values a register: 16-bit integers, comparisons of halves, and `cvt.pack`. And `set` of halves, one a register.

use std::cmp::Ordering;

use proptest::prelude::*;
use rustc_apfloat::Float;
use rustc_apfloat::ieee::{BFloat, Half};

use crate::harness::{check, run};
use crate::values::{self, rows};

/// The low and the high half.
fn halves(word: u64) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

fn joined(low: u16, high: u16) -> u64 {
    u64::from(low) | u64::from(high) << 16
}

/// Both halves of two words, each by itself.
fn each(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
    joined(f(a0, b0), f(a1, b1))
}

/// The comparisons of floats, with what they say of less, equal, greater and unordered.
const TESTS: [(&str, [bool; 4]); 14] = [
    ("eq", [false, true, false, false]),
    ("ne", [true, false, true, false]),
    ("lt", [true, false, false, false]),
    ("le", [true, true, false, false]),
    ("gt", [false, false, true, false]),
    ("ge", [false, true, true, false]),
    ("equ", [false, true, false, true]),
    ("neu", [true, false, true, true]),
    ("ltu", [true, false, false, true]),
    ("leu", [true, true, false, true]),
    ("gtu", [false, false, true, true]),
    ("geu", [false, true, true, true]),
    ("num", [true, true, true, false]),
    ("nan", [false, false, false, true]),
];

fn order(bf16: bool, ftz: bool, a: u16, b: u16) -> Option<Ordering> {
    fn compare<F: Float>(ftz: bool, a: F, b: F) -> Option<Ordering> {
        let flushed = |x: F| if ftz && x.is_denormal() { F::ZERO } else { x };
        flushed(a).partial_cmp(&flushed(b))
    }
    match bf16 {
        true => compare(ftz, BFloat::from_bits(a.into()), BFloat::from_bits(b.into())),
        false => compare(ftz, Half::from_bits(a.into()), Half::from_bits(b.into())),
    }
}

fn holds([less, equal, greater, unordered]: [bool; 4], order: Option<Ordering>) -> bool {
    match order {
        Some(Ordering::Less) => less,
        Some(Ordering::Equal) => equal,
        Some(Ordering::Greater) => greater,
        None => unordered,
    }
}

/// Pairs of words whose halves are floats; some halves are equal, some differ in nothing but the sign.
fn pairs_of(format: values::Format) -> impl Strategy<Value = Vec<Vec<u64>>> {
    rows(values::float(format), 4).prop_map(|rows| {
        let pair = |(at, x): (usize, Vec<u64>)| {
            let b0 = if at % 3 == 0 { x[0] } else { x[2] };
            let b1 = if at % 5 == 0 { x[1] ^ 0x8000 } else { x[3] };
            let word = |low: u64, high: u64| joined(low as u16, high as u16);
            vec![word(x[0], x[1]), word(b0, b1), at as u64 & 1]
        };
        rows.into_iter().enumerate().map(pair).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn integers(rows in rows(values::word(32), 2)) {
        let signed = |f: fn(i16, i16) -> i16| move |a: u16, b: u16| f(a as i16, b as i16) as u16;
        // A sum without a carry from the low half into the high one.
        let add = |a: u16, b: u16| (u32::from(a) + u32::from(b)) as u16;
        let check_pair = |name: &str, f: &dyn Fn(u16, u16) -> u16| {
            check(&["b32"; 2], "b32", &format!("{name} %d, %a, %b;"), &rows, |x| each(x[0], x[1], f));
        };
        check_pair("add.u16x2", &add);
        check_pair("add.s16x2", &add);
        check_pair("min.u16x2", &|a, b| if a < b { a } else { b });
        check_pair("max.u16x2", &|a, b| if a < b { b } else { a });
        check_pair("min.s16x2", &signed(|a, b| if a < b { a } else { b }));
        check_pair("max.s16x2", &signed(|a, b| if a < b { b } else { a }));
        check_pair("min.relu.s16x2", &signed(|a, b| if a < 0 || b < 0 { 0 } else { a.min(b) }));
        check_pair("max.relu.s16x2", &signed(|a, b| if a < 0 && b < 0 { 0 } else { a.max(b) }));
        let words = |x: &[u64]| (i64::from(x[0] as i32), i64::from(x[1] as i32));
        check(&["s32"; 2], "s32", "min.relu.s32 %d, %a, %b;", &rows, |x| {
            let (a, b) = words(x);
            if a < 0 || b < 0 { 0 } else { a.min(b) as u64 }
        });
        check(&["s32"; 2], "s32", "max.relu.s32 %d, %a, %b;", &rows, |x| {
            let (a, b) = words(x);
            if a < 0 && b < 0 { 0 } else { a.max(b) as u64 }
        });
    }

    #[test]
    fn comparisons(f16s in pairs_of(values::F16), bf16s in pairs_of(values::BF16)) {
        for (bf16, rows) in [(false, f16s), (true, bf16s)] {
            let (one, two, true_bits) = match bf16 {
                true => ("bf16", "bf16x2", 0x3F80),
                false => ("f16", "f16x2", 0x3C00),
            };
            for ((name, outcomes), ftz) in TESTS.into_iter().flat_map(|t| [(t, false), (t, true)]) {
                if bf16 && ftz {
                    continue;
                }
                let ftz_name = if ftz { ".ftz" } else { "" };
                let of = |a: u16, b: u16| holds(outcomes, order(bf16, ftz, a, b));
                let low = |x: &[u64]| of(x[0] as u16, x[1] as u16);

                // Predicates: the low halves to the first, the high ones to the second.
                let body = format!("setp.{name}{ftz_name}.{two} %d|%f, %a, %b;");
                for (x, result) in rows.iter().zip(run(&["b32", "b32", "pred"], &["pred"; 2], &body, &rows)) {
                    let ([a0, a1], [b0, b1]) = (halves(x[0]), halves(x[1]));
                    prop_assert_eq!(result, [of(a0, b0), of(a1, b1)].map(u64::from), "{} {:x?}", body, x);
                }
                let body = format!("setp.{name}.xor{ftz_name}.{two} %d|%f, %a, %b, !%c;");
                for (x, result) in rows.iter().zip(run(&["b32", "b32", "pred"], &["pred"; 2], &body, &rows)) {
                    let ([a0, a1], [b0, b1]) = (halves(x[0]), halves(x[1]));
                    let expected = [of(a0, b0), of(a1, b1)].map(|t| u64::from(t != (x[2] == 0)));
                    prop_assert_eq!(result, expected, "{} {:x?}", body, x);
                }

                // Words: each half by itself.
                let inputs = ["b32", "b32", "pred"];
                for (to, yes) in [("u32", 0xFFFF), ("s32", 0xFFFF), (two, true_bits)] {
                    let body = format!("set.{name}.and{ftz_name}.{to}.{two} %d, %a, %b, %c;");
                    check(&inputs, "b32", &body, &rows, |x| {
                        each(x[0], x[1], |a, b| if of(a, b) && x[2] == 1 { yes } else { 0 })
                    });
                }

                // One half a register: 32 bits of ones for 32-bit integers.
                let inputs = ["b16", "b16", "pred"];
                for (to, register, yes) in [
                    ("u32", "b32", 0xFFFF_FFFF),
                    ("s32", "b32", 0xFFFF_FFFF),
                    ("u16", "b16", 0xFFFF),
                    ("s16", "b16", 0xFFFF),
                    (one, "b16", true_bits.into()),
                ] {
                    let body = format!("set.{name}.or{ftz_name}.{to}.{one} %d, %a, %b, %c;");
                    check(&inputs, register, &body, &rows, |x| {
                        if low(x) || x[2] == 1 { yes } else { 0 }
                    });
                }
            }
        }
    }

    /// A predicate may be combined with what it held before.
    #[test]
    fn combined_with_its_own_destination(rows in pairs_of(values::F16)) {
        for (name, outcomes) in TESTS {
            let body = format!(
                "mov.pred %p1, %c; setp.{name}.xor.f16x2 %p1|%f, %a, %b, %p1; mov.pred %d, %p1;"
            );
            let results = run(&["b32", "b32", "pred"], &["pred"; 2], &body, &rows);
            for (x, result) in rows.iter().zip(results) {
                let ([a0, a1], [b0, b1]) = (halves(x[0]), halves(x[1]));
                let of = |a, b| holds(outcomes, order(false, false, a, b));
                let expected = [of(a0, b0), of(a1, b1)].map(|t| u64::from(t != (x[2] == 1)));
                prop_assert_eq!(result, expected, "{} {:x?}", body, x);
            }
        }
    }

    /// To halves from other types.
    #[test]
    fn set_halves(singles in rows(values::float(values::F32), 2), words in rows(values::word(64), 2)) {
        for (to, yes) in [("f16", 0x3C00), ("bf16", 0x3F80)] {
            check(&["f32"; 2], "b16", &format!("set.ltu.{to}.f32 %d, %a, %b;"), &singles, |x| {
                let [a, b] = [x[0], x[1]].map(|x| f32::from_bits(x as u32));
                if a < b || a.is_nan() || b.is_nan() { yes } else { 0 }
            });
            check(&["u64"; 2], "b16", &format!("set.hi.{to}.u64 %d, %a, %b;"), &words, |x| {
                if x[0] > x[1] { yes } else { 0 }
            });
            check(&["s16"; 2], "b16", &format!("set.ge.{to}.s16 %d, %a, %b;"), &words, |x| {
                if x[0] as i16 >= x[1] as i16 { yes } else { 0 }
            });
        }
    }

    /// The n lowest bits are of the second source, the next n of the first, the rest of the third.
    #[test]
    fn pack(rows in rows(values::word(32), 3)) {
        for bits in [2, 4, 8, 16u32] {
            for signed in [false, true] {
                let sign = if signed { "s" } else { "u" };
                let (low, high) = match signed {
                    true => (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1),
                    false => (0, (1i64 << bits) - 1),
                };
                let part = |x: u64| {
                    let x = i64::from(x as i32);
                    let x = if x < low { low } else if x > high { high } else { x };
                    x.rem_euclid(1 << bits) as u64
                };
                let (suffix, c) = if bits == 16 { ("", "") } else { (".b32", ", %c") };
                let body = format!("cvt.pack.sat.{sign}{bits}.s32{suffix} %d, %a, %b{c};");
                check(&["s32", "s32", "b32"], "b32", &body, &rows, |x| {
                    let pair = part(x[1]) + (part(x[0]) << bits);
                    // Bit by bit: what is left of the third source comes in from its lowest bit on.
                    (2 * bits..32).fold(pair, |word, at| word | (x[2] >> (at - 2 * bits) & 1) << at)
                });
            }
        }
    }
}
