//! `cvt` against `rustc_apfloat` and integers: every value of 16-bit types, drawn ones of wider types.

use proptest::prelude::*;
use rustc_apfloat::ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

use crate::harness::{check, check_on};
use crate::values::{self, rows};

const MODES: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

const INTEGERS: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];
const FLOATS: [&str; 4] = ["f16", "bf16", "f32", "f64"];

fn bits(ty: &str) -> u32 {
    ty.trim_start_matches(|c: char| c.is_alphabetic()).parse().unwrap()
}

/// The register that holds a type: `cvt` takes 8-bit values from 16-bit registers.
fn register(ty: &str) -> &'static str {
    match bits(ty) {
        8 | 16 => "b16",
        32 => "b32",
        _ => "b64",
    }
}

fn range(ty: &str) -> (i128, i128) {
    let bits = bits(ty);
    if ty.starts_with('s') {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// The value of an integer's bits.
fn value(ty: &str, word: u64) -> i128 {
    let modulus = 1i128 << bits(ty);
    let low = i128::from(word).rem_euclid(modulus);
    if ty.starts_with('s') && low >= modulus / 2 { low - modulus } else { low }
}

/// An integer in a register: an 8-bit one is extended to 16 by its sign.
fn word(ty: &str, value: i128) -> u64 {
    let register = bits(register(ty));
    (self::value(ty, value as u64) as u128 & (u128::MAX >> (128 - register))) as u64
}

/// A float of any type, exactly.
fn double(ty: &str, word: u64) -> Double {
    let mut lost = false;
    match ty {
        "f16" => Half::from_bits((word & 0xFFFF).into()).convert(&mut lost).value,
        "bf16" => BFloat::from_bits((word & 0xFFFF).into()).convert(&mut lost).value,
        "f32" => Single::from_bits((word & 0xFFFF_FFFF).into()).convert(&mut lost).value,
        _ => Double::from_bits(word.into()),
    }
}

/// A float rounded to a type, with the NaN that conversions give. `None` is a NaN of f64, of any bits.
fn rounded<F>(ty: &str, x: F, round: Round) -> Option<u64>
where
    F: Float
        + FloatConvert<Half>
        + FloatConvert<BFloat>
        + FloatConvert<Single>
        + FloatConvert<Double>,
{
    let lost = &mut false;
    if x.is_nan() {
        return match ty {
            "f16" | "bf16" => Some(0x7FFF),
            "f32" => Some(0x7FFF_FFFF),
            _ => None,
        };
    }
    Some(match ty {
        "f16" => FloatConvert::<Half>::convert_r(x, round, lost).value.to_bits() as u64,
        "bf16" => FloatConvert::<BFloat>::convert_r(x, round, lost).value.to_bits() as u64,
        "f32" => FloatConvert::<Single>::convert_r(x, round, lost).value.to_bits() as u64,
        _ => FloatConvert::<Double>::convert_r(x, round, lost).value.to_bits() as u64,
    })
}

/// An integer rounded to a float type.
fn from_integer(ty: &str, value: i128, round: Round) -> u64 {
    match ty {
        "f16" => Half::from_i128_r(value, round).value.to_bits() as u64,
        "bf16" => BFloat::from_i128_r(value, round).value.to_bits() as u64,
        "f32" => Single::from_i128_r(value, round).value.to_bits() as u64,
        _ => Double::from_i128_r(value, round).value.to_bits() as u64,
    }
}

/// A float rounded to an integer and clamped; NaN as the ISA's table has it.
fn to_integer(from: &str, to: &str, x: Double, round: Round) -> i128 {
    let (low, high) = range(to);
    if x.is_nan() {
        let wide = from == "f64" || bits(to) == 64;
        return if wide { 1 << (bits(to) - 1) } else { 0 };
    }
    if x.is_infinite() {
        return if x.is_negative() { low } else { high };
    }
    let exact = &mut false;
    x.to_i128_r(100, round, exact).value.clamp(low, high)
}

/// Conversions from a 16-bit or wider float to every integer type.
fn check_to_integers(from: &str, rows: &[Vec<u64>]) {
    for to in INTEGERS {
        if from == "bf16" && bits(to) == 8 {
            continue;
        }
        for (mode, round) in MODES {
            let body = format!("cvt.{mode}i.{to}.{from} %d, %a;");
            check(&[register(from)], register(to), &body, rows, |row| {
                word(to, to_integer(from, to, double(from, row[0]), round))
            });
        }
    }
}

fn check_to_floats(from: &str, rows: &[Vec<u64>]) {
    for to in FLOATS {
        let order = |ty| if ty == "bf16" { 16 } else { bits(ty) };
        let narrows = order(to) < order(from);
        for (mode, round) in MODES {
            let modifier = if narrows { format!(".{mode}") } else { String::new() };
            let body = format!("cvt{modifier}.{to}.{from} %d, %a;");
            if to == from || from == "bf16" && to == "f16" || from == "f16" && to == "bf16" {
                continue;
            }
            let nans = rows.iter().filter(|row| rounded(to, double(from, row[0]), round).is_none());
            let nans: Vec<u64> = nans.map(|row| row[0]).collect();
            let known: Vec<Vec<u64>> =
                rows.iter().filter(|row| !nans.contains(&row[0])).cloned().collect();
            check(&[register(from)], register(to), &body, &known, |row| {
                rounded(to, double(from, row[0]), round).expect("NaN is filtered above")
            });
        }
    }
}

/// Every value of 16 bits.
fn all() -> Vec<Vec<u64>> {
    (0..=0xFFFF).map(|bits| vec![bits]).collect()
}

#[test]
fn halves_to_everything() {
    for from in ["f16", "bf16"] {
        check_to_integers(from, &all());
        check_to_floats(from, &all());
    }
    for (mode, round) in MODES {
        check(&["b16"], "b16", &format!("cvt.{mode}.bf16.f16 %d, %a;"), &all(), |row| {
            rounded("bf16", double("f16", row[0]), round).unwrap()
        });
        check(&["b16"], "b16", &format!("cvt.{mode}.f16.bf16 %d, %a;"), &all(), |row| {
            rounded("f16", double("bf16", row[0]), round).unwrap()
        });
    }
}

#[test]
fn narrow_integers_to_everything() {
    for from in ["u8", "s8", "u16", "s16"] {
        let rows = all();
        for to in FLOATS {
            if to == "bf16" && bits(from) == 8 {
                continue;
            }
            for (mode, round) in MODES {
                let body = format!("cvt.{mode}.{to}.{from} %d, %a;");
                check(&["b16"], register(to), &body, &rows, |row| {
                    from_integer(to, value(from, row[0]), round)
                });
            }
        }
        check_integers(from, &rows);
    }
}

/// Conversions to every integer type, by truncation and by clamping.
fn check_integers(from: &str, rows: &[Vec<u64>]) {
    for to in INTEGERS {
        let body = format!("cvt.{to}.{from} %d, %a;");
        check(&[register(from)], register(to), &body, rows, |row| word(to, value(from, row[0])));
        let ((low, high), (least, most)) = (range(to), range(from));
        if low <= least && most <= high {
            continue;
        }
        let body = format!("cvt.sat.{to}.{from} %d, %a;");
        check(&[register(from)], register(to), &body, rows, |row| {
            word(to, value(from, row[0]).clamp(low, high))
        });
    }
}

/// Values on, beside and half way between those of a 16-bit format, as f32.
fn around(ty: &str) -> Vec<Vec<u64>> {
    let exact = (0..=0xFFFFu64).filter_map(|bits| {
        let mut lost = false;
        let x: Single = double(ty, bits).convert(&mut lost).value;
        (!x.is_nan()).then(|| x.to_bits() as u64)
    });
    let half = if ty == "f16" { 1u64 << 12 } else { 1 << 15 };
    exact
        .flat_map(|bits| {
            [0, 1, half - 1, half, half + 1].map(|add| vec![(bits + add) & 0xFFFF_FFFF])
        })
        .collect()
}

#[test]
fn f32_around_every_half() {
    for to in ["f16", "bf16"] {
        let rows = around(to);
        for (mode, round) in MODES {
            let single = |row: &[u64]| rounded(to, double("f32", row[0]), round).unwrap();
            let body = |modifier| format!("cvt.{mode}{modifier}.{to}.f32 %d, %a;");
            check(&["f32"], "b16", &body(""), &rows, single);
            if matches!(mode, "rn" | "rz") {
                check(&["f32"], "b16", &body(".relu"), &rows, |row| relu(single(row)));
                check(&["f32"], "b16", &body(".satfinite"), &rows, |row| finite(to, single(row)));
                check(&["f32"], "b16", &body(".relu.satfinite"), &rows, |row| {
                    relu(finite(to, single(row)))
                });
            }
        }
    }
}

fn relu(bits: u64) -> u64 {
    if bits & 0x8000 != 0 { 0 } else { bits }
}

fn finite(ty: &str, bits: u64) -> u64 {
    let infinity = if ty == "f16" { 0x7C00 } else { 0x7F80 };
    if bits & 0x7FFF == infinity { bits - 1 } else { bits }
}

/// An f32 rounded to 10 bits of fraction; the bits below are zero.
fn tf32(bits: u64, round: Round) -> u64 {
    let x = f32::from_bits(bits as u32);
    if x.is_nan() {
        return 0x7FFF_FFFF;
    }
    let (kept, rest) = (bits >> 13, bits & 0x1FFF);
    let up = match round {
        Round::NearestTiesToAway => rest >= 0x1000,
        Round::NearestTiesToEven => rest > 0x1000 || rest == 0x1000 && kept & 1 == 1,
        _ => false,
    };
    (kept + u64::from(up && x.is_finite())) << 13
}

proptest! {
    #![proptest_config(values::cases(48))]

    #[test]
    fn wide_floats(
        singles in rows(values::float(values::F32), 1),
        doubles in rows(values::float(values::F64), 1),
    ) {
        check_to_integers("f32", &singles);
        check_to_integers("f64", &doubles);
        check_to_floats("f32", &singles);
        check_to_floats("f64", &doubles);
    }

    #[test]
    fn wide_integers(words in rows(values::word(64), 1)) {
        for from in ["u32", "s32", "u64", "s64"] {
            check_integers(from, &words);
            for to in FLOATS {
                for (mode, round) in MODES {
                    let body = format!("cvt.{mode}.{to}.{from} %d, %a;");
                    // With bf16 the source's register is not wider than the source.
                    let source = if to == "bf16" { register(from) } else { "b64" };
                    check(&[source], register(to), &body, &words, |row| {
                        from_integer(to, value(from, row[0]), round)
                    });
                }
            }
        }
    }

    #[test]
    fn flushing_and_saturation(
        singles in rows(values::float(values::F32), 1),
        doubles in rows(values::float(values::F64), 1),
    ) {
        let flushed = |bits: u64| {
            if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits }
        };
        let saturated = |bits: u64| match f32::from_bits(bits as u32) {
            x if x >= 1.0 => u64::from(1f32.to_bits()),
            x if x > 0.0 => bits,
            _ => 0,
        };
        let nearest = Round::NearestTiesToEven;
        check(&["f32"], "f32", "cvt.ftz.f32.f32 %d, %a;", &singles, |row| {
            rounded("f32", double("f32", flushed(row[0])), nearest).unwrap()
        });
        check(&["f32"], "f32", "cvt.sat.f32.f32 %d, %a;", &singles, |row| saturated(row[0]));
        check(&["f64"], "f32", "cvt.rn.ftz.f32.f64 %d, %a;", &doubles, |row| {
            flushed(rounded("f32", double("f64", row[0]), nearest).unwrap())
        });
        check(&["f64"], "f32", "cvt.rn.sat.f32.f64 %d, %a;", &doubles, |row| {
            saturated(rounded("f32", double("f64", row[0]), nearest).unwrap())
        });
        check(&["f32"], "b16", "cvt.rn.ftz.f16.f32 %d, %a;", &singles, |row| {
            rounded("f16", double("f32", flushed(row[0])), nearest).unwrap()
        });
        check(&["f32"], "s32", "cvt.rpi.ftz.s32.f32 %d, %a;", &singles, |row| {
            let x = double("f32", flushed(row[0]));
            word("s32", to_integer("f32", "s32", x, Round::TowardPositive))
        });
    }

    #[test]
    fn to_integral_floats(
        singles in rows(values::float(values::F32), 1),
        doubles in rows(values::float(values::F64), 1),
    ) {
        for (mode, round) in MODES {
            check(&["f32"], "f32", &format!("cvt.{mode}i.f32.f32 %d, %a;"), &singles, |row| {
                let x = Single::from_bits(row[0].into());
                let result = x.round_to_integral(round).value;
                if x.is_nan() { 0x7FFF_FFFF } else { result.to_bits() as u64 }
            });
            let numbers: Vec<Vec<u64>> =
                doubles.iter().filter(|row| !f64::from_bits(row[0]).is_nan()).cloned().collect();
            check(&["f64"], "f64", &format!("cvt.{mode}i.f64.f64 %d, %a;"), &numbers, |row| {
                Double::from_bits(row[0].into()).round_to_integral(round).value.to_bits() as u64
            });
        }
    }

    #[test]
    fn two_at_once(rows in rows(values::float(values::F32), 2)) {
        for (to, pair) in [("f16", "f16x2"), ("bf16", "bf16x2")] {
            for (mode, round) in &MODES[..2] {
                let body = format!("cvt.{mode}.{pair}.f32 %d, %a, %b;");
                let one = |bits| rounded(to, double("f32", bits), *round).unwrap();
                check(&["f32"; 2], "b32", &body, &rows, |row| one(row[0]) << 16 | one(row[1]));
                let body = format!("cvt.{mode}.relu.{pair}.f32 %d, %a, %b;");
                check(&["f32"; 2], "b32", &body, &rows, |row| {
                    relu(one(row[0])) << 16 | relu(one(row[1]))
                });
            }
        }
    }

    #[test]
    fn tf32_rounding(rows in rows(values::float(values::F32), 1)) {
        for (body, round) in [
            ("cvt.rna.tf32.f32 %d, %a;", Round::NearestTiesToAway),
            ("cvt.rn.tf32.f32 %d, %a;", Round::NearestTiesToEven),
            ("cvt.rz.tf32.f32 %d, %a;", Round::TowardZero),
        ] {
            check(&["f32"], "b32", body, &rows, |row| tf32(row[0], round));
        }
        check(&["f32"], "b32", "cvt.rn.relu.tf32.f32 %d, %a;", &rows, |row| {
            let result = tf32(row[0], Round::NearestTiesToEven);
            if result & 0x8000_0000 != 0 { 0 } else { result }
        });
    }

    #[test]
    fn eight_bits(rows in rows(values::float(values::F32), 2)) {
        let lost = &mut false;
        let round = Round::NearestTiesToEven;
        // Too large values become the largest, infinity among them; both formats have 0x7F as their NaN.
        let clamp = |x: Single, largest: f32, bits: &mut dyn FnMut(Single) -> u64| {
            let limit = Single::from_bits(largest.to_bits().into());
            match x {
                _ if x.is_nan() => 0x7F,
                _ if x > limit => bits(limit),
                _ if x < -limit => bits(-limit),
                _ => bits(x),
            }
        };
        let mut e4m3 = |x: Single| {
            FloatConvert::<Float8E4M3FN>::convert_r(x, round, lost).value.to_bits() as u64
        };
        let four = std::cell::RefCell::new(|bits: u64| {
            clamp(Single::from_bits(bits.into()), 448.0, &mut e4m3)
        });
        let body = "cvt.rn.satfinite.e4m3x2.f32 %d, %a, %b;";
        check(&["f32"; 2], "b16", body, &rows, |row| {
            let mut one = four.borrow_mut();
            one(row[0]) << 8 | one(row[1])
        });
        let lost = &mut false;
        let mut e5m2 = |x: Single| {
            FloatConvert::<Float8E5M2>::convert_r(x, round, lost).value.to_bits() as u64
        };
        let five = std::cell::RefCell::new(|bits: u64| {
            clamp(Single::from_bits(bits.into()), 57344.0, &mut e5m2)
        });
        let body = "cvt.rn.satfinite.e5m2x2.f32 %d, %a, %b;";
        check(&["f32"; 2], "b16", body, &rows, |row| {
            let mut one = five.borrow_mut();
            one(row[0]) << 8 | one(row[1])
        });
        let body = "cvt.rn.satfinite.relu.e5m2x2.f32 %d, %a, %b;";
        check(&["f32"; 2], "b16", body, &rows, |row| {
            let one = |bits| match five.borrow_mut()(bits) {
                0x80.. => 0,
                bits => bits,
            };
            one(row[0]) << 8 | one(row[1])
        });
    }
}

#[test]
fn pairs_of_eight_bits_to_halves() {
    let convert = |x: Single| {
        let lost = &mut false;
        rounded("f16", FloatConvert::<Double>::convert(x, lost).value, Round::TowardZero).unwrap()
    };
    let four = |bits: u64| convert(Float8E4M3FN::from_bits(bits.into()).convert(&mut false).value);
    let five = |bits: u64| convert(Float8E5M2::from_bits(bits.into()).convert(&mut false).value);
    let rows = all();
    check(&["b16"], "b32", "cvt.rn.f16x2.e4m3x2 %d, %a;", &rows, |row| {
        four(row[0] >> 8) << 16 | four(row[0] & 0xFF)
    });
    check(&["b16"], "b32", "cvt.rn.f16x2.e5m2x2 %d, %a;", &rows, |row| {
        five(row[0] >> 8) << 16 | five(row[0] & 0xFF)
    });
}

/// Sources wider than their type are cut, results are extended to their register.
#[test]
fn wider_registers() {
    let rows: Vec<Vec<u64>> =
        [0x80u64, 0x7F, 0xFF80, 0xFFFF_FF7F, 0x1234_5678_9ABC_DEF0].map(|word| vec![word]).into();
    let sign = |x: u64, bits: u32| ((x << (64 - bits)) as i64 >> (64 - bits)) as u64;
    check(&["b64"], "b64", "cvt.s64.s8 %d, %a;", &rows, |row| sign(row[0], 8));
    check(&["b64"], "b64", "cvt.s8.s64 %d, %a;", &rows, |row| sign(row[0], 8));
    check(&["b64"], "b64", "cvt.u8.s64 %d, %a;", &rows, |row| row[0] & 0xFF);
    check(&["b64"], "b32", "cvt.s16.s64 %d, %a;", &rows, |row| sign(row[0], 16) & 0xFFFF_FFFF);
    check(&["b64"], "b64", "cvt.sat.s8.u32 %d, %a;", &rows, |row| (row[0] & 0xFFFF_FFFF).min(127));
    check(&["b64"], "b64", "cvt.rn.f32.s32 %d, %a;", &rows, |row| {
        u64::from((row[0] as i32 as f32).to_bits())
    });
    check(&["b32"], "b32", "cvt.rn.f16.s8 %d, %a;", &[vec![0xFFFF_FFFF]], |_| 0xBC00);
    check_on(80, &["b32"], "f32", "cvt.f32.f16 %d, %a;", &[vec![0xDEAD_3C00]], |_| 0x3F80_0000);
}
