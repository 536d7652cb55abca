//! Integer arithmetic against 128-bit integers.

use proptest::prelude::*;

use crate::harness::{check, run};
use crate::values::{self, rows};

const TYPES: [&str; 6] = ["u16", "s16", "u32", "s32", "u64", "s64"];

fn bits(ty: &str) -> u32 {
    ty[1..].parse().unwrap()
}

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// The integer that a type's bits stand for.
fn value(ty: &str, word: u64) -> i128 {
    let low = i128::from(word & mask(bits(ty)));
    let is_negative = ty.starts_with('s') && low >> (bits(ty) - 1) == 1;
    if is_negative { low - (1 << bits(ty)) } else { low }
}

/// The low bits of an integer.
fn word(ty: &str, value: i128) -> u64 {
    value as u64 & mask(bits(ty))
}

fn limits(ty: &str) -> (i128, i128) {
    let bits = bits(ty);
    if ty.starts_with('s') {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

fn twice(ty: &str) -> String {
    format!("{}{}", &ty[..1], 2 * bits(ty))
}

/// The upper half of a product.
fn high(ty: &str, a: i128, b: i128) -> i128 {
    // A product of two u64 needs the sign bit.
    let product = a.wrapping_mul(b) as u128 >> bits(ty);
    value(ty, product as u64)
}

/// Checks `name.ty` for drawn rows of three values.
fn each(
    ty: &str,
    rows: &[Vec<u64>],
    name: &str,
    sources: usize,
    f: impl Fn(i128, i128, i128) -> i128,
) {
    let operands = ["%d, %a", "%d, %a, %b", "%d, %a, %b, %c"][sources - 1];
    check(&[ty; 3], ty, &format!("{name}.{ty} {operands};"), rows, |x| {
        word(ty, f(value(ty, x[0]), value(ty, x[1]), value(ty, x[2])))
    });
}

fn arithmetic(ty: &str, rows: &[Vec<u64>]) {
    each(ty, rows, "add", 2, |a, b, _| a + b);
    each(ty, rows, "sub", 2, |a, b, _| a - b);
    each(ty, rows, "mul.lo", 2, |a, b, _| a.wrapping_mul(b));
    each(ty, rows, "mul.hi", 2, |a, b, _| high(ty, a, b));
    each(ty, rows, "mad.lo", 3, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    each(ty, rows, "mad.hi", 3, |a, b, c| high(ty, a, b) + c);
    each(ty, rows, "sad", 3, |a, b, c| c + (a - b).abs());
    each(ty, rows, "min", 2, |a, b, _| a.min(b));
    each(ty, rows, "max", 2, |a, b, _| a.max(b));
    let divisible: Vec<Vec<u64>> =
        rows.iter().filter(|row| row[1] & mask(bits(ty)) != 0).cloned().collect();
    each(ty, &divisible, "div", 2, |a, b, _| a / b);
    each(ty, &divisible, "rem", 2, |a, b, _| a % b);
    if ty.starts_with('s') {
        each(ty, rows, "abs", 1, |a, _, _| a.abs());
        each(ty, rows, "neg", 1, |a, _, _| -a);
    }
    if bits(ty) < 64 {
        let double = twice(ty);
        let product = |x: &[u64]| value(ty, x[0]) * value(ty, x[1]);
        check(&[ty; 3], &double, &format!("mul.wide.{ty} %d, %a, %b;"), rows, |x| {
            word(&double, product(x))
        });
        let inputs = [ty, ty, &double];
        check(&inputs, &double, &format!("mad.wide.{ty} %d, %a, %b, %c;"), rows, |x| {
            word(&double, product(x) + value(&double, x[2]))
        });
    }
}

proptest! {
    #![proptest_config(values::cases(32))]

    #[test]
    fn of_16_bits(rows in rows(values::word(16), 3)) {
        arithmetic("u16", &rows);
        arithmetic("s16", &rows);
    }

    #[test]
    fn of_32_bits(rows in rows(values::word(32), 3)) {
        arithmetic("u32", &rows);
        arithmetic("s32", &rows);
        let (low, most) = limits("s32");
        each("s32", &rows, "add.sat", 2, |a, b, _| (a + b).clamp(low, most));
        each("s32", &rows, "sub.sat", 2, |a, b, _| (a - b).clamp(low, most));
        each("s32", &rows, "mad.hi.sat", 3, |a, b, c| (high("s32", a, b) + c).clamp(low, most));
    }

    #[test]
    fn of_64_bits(rows in rows(values::word(64), 3)) {
        arithmetic("u64", &rows);
        arithmetic("s64", &rows);
    }

    /// The lower 24 bits of each factor; the low or the high 32 of the product's 48.
    #[test]
    fn of_24_bits(rows in rows(values::word(32), 3)) {
        for ty in ["u32", "s32"] {
            let cut = |x: i128| {
                let low = x & 0xFF_FFFF;
                if ty == "s32" && low >= 1 << 23 { low - (1 << 24) } else { low }
            };
            let (least, most) = limits(ty);
            each(ty, &rows, "mul24.lo", 2, |a, b, _| cut(a) * cut(b));
            each(ty, &rows, "mul24.hi", 2, |a, b, _| (cut(a) * cut(b)) >> 16);
            each(ty, &rows, "mad24.lo", 3, |a, b, c| cut(a) * cut(b) + c);
            each(ty, &rows, "mad24.hi", 3, |a, b, c| ((cut(a) * cut(b)) >> 16) + c);
            if ty == "s32" {
                each(ty, &rows, "mad24.hi.sat", 3, |a, b, c| {
                    let high = (cut(a) * cut(b)) >> 16;
                    (value(ty, word(ty, high)) + c).clamp(least, most)
                });
            }
        }
    }

    #[test]
    fn dot_products(rows in rows(values::word(32), 3)) {
        let byte = |x: u64, at: u32, signed: bool| {
            let byte = (x >> (8 * at)) as u8;
            if signed { i128::from(byte as i8) } else { i128::from(byte) }
        };
        for (first, a_signed) in [("u32", false), ("s32", true)] {
            for (second, b_signed) in [("u32", false), ("s32", true)] {
                let ty = if a_signed || b_signed { "s32" } else { "u32" };
                let inputs = ["b32", "b32", ty];
                let body = format!("dp4a.{first}.{second} %d, %a, %b, %c;");
                check(&inputs, ty, &body, &rows, |x| {
                    let products = (0..4).map(|at| byte(x[0], at, a_signed) * byte(x[1], at, b_signed));
                    word(ty, value(ty, x[2]) + products.sum::<i128>())
                });
                for (half, start) in [("lo", 0), ("hi", 2)] {
                    let body = format!("dp2a.{half}.{first}.{second} %d, %a, %b, %c;");
                    check(&inputs, ty, &body, &rows, |x| {
                        let wide = if a_signed { "s16" } else { "u16" };
                        let products = (0..2).map(|at| {
                            value(wide, x[0] >> (16 * at)) * byte(x[1], start + at, b_signed)
                        });
                        word(ty, value(ty, x[2]) + products.sum::<i128>())
                    });
                }
            }
        }
    }

    /// Numbers of two words: the carry goes from the lower word to the upper.
    #[test]
    fn carries(rows in rows(values::word(64), 4)) {
        for ty in ["u32", "s32", "u64", "s64"] {
            let bits = bits(ty);
            let unsigned = |word: u64| u128::from(word & mask(bits));
            let join = |low: u64, high: u64| unsigned(low) | unsigned(high) << bits;
            for (name, is_sub) in [("add", false), ("sub", true)] {
                let body = format!("{name}.cc.{ty} %d, %a, %c; {name}c.{ty} %f, %b, %e;");
                for (x, result) in rows.iter().zip(run(&[ty; 4], &[ty; 2], &body, &rows)) {
                    let (a, b) = (join(x[0], x[1]), join(x[2], x[3]));
                    let expected = if is_sub { a.wrapping_sub(b) } else { a.wrapping_add(b) };
                    let words = [expected as u64 & mask(bits), (expected >> bits) as u64 & mask(bits)];
                    prop_assert_eq!(&result[..], &words, "{} of {:x?}", body, x);
                }
            }
            // The carry out of the upper word, as a number.
            let body = format!("add.cc.{ty} %d, %a, %c; addc.cc.{ty} %d, %b, %e; addc.{ty} %f, 0, 0;");
            for (x, result) in rows.iter().zip(run(&[ty; 4], &[ty; 2], &body, &rows)) {
                let low = (unsigned(x[0]) + unsigned(x[2])) >> bits;
                let carry = (unsigned(x[1]) + unsigned(x[3]) + low) >> bits;
                prop_assert_eq!(u128::from(result[1]), carry, "{} of {:x?}", body, x);
            }
            // And the borrow, which a subtraction takes off the next word.
            let body = format!("sub.cc.{ty} %d, %a, %c; subc.cc.{ty} %d, %b, %e; subc.{ty} %f, 0, 0;");
            for (x, result) in rows.iter().zip(run(&[ty; 4], &[ty; 2], &body, &rows)) {
                let low = i128::from(unsigned(x[0]) < unsigned(x[2]));
                let upper = unsigned(x[1]) as i128 - unsigned(x[3]) as i128 - low;
                let expected = if upper < 0 { mask(bits) } else { 0 };
                prop_assert_eq!(result[1], expected, "{} of {:x?}", body, x);
            }
        }
    }

    /// `a * b + (e : c)`, a number of two words.
    #[test]
    fn products_with_carries(rows in rows(values::word(64), 4)) {
        for ty in ["u32", "u64"] {
            let bits = bits(ty);
            let body = format!("mad.lo.cc.{ty} %d, %a, %b, %c; madc.hi.{ty} %f, %a, %b, %e;");
            for (x, result) in rows.iter().zip(run(&[ty; 4], &[ty; 2], &body, &rows)) {
                let x: Vec<u128> = x.iter().map(|&x| u128::from(x & mask(bits))).collect();
                let sum = (x[0] * x[1]).wrapping_add(x[2] | x[3] << bits);
                let words = [sum as u64 & mask(bits), (sum >> bits) as u64 & mask(bits)];
                prop_assert_eq!(&result[..], &words, "{} of {:x?}", body, x);
            }
            let body = format!("mad.hi.cc.{ty} %d, %a, %b, %c; madc.lo.cc.{ty} %f, %a, %b, %e; addc.{ty} %d, 0, 0;");
            for (x, result) in rows.iter().zip(run(&[ty; 4], &[ty; 2], &body, &rows)) {
                let x: Vec<u128> = x.iter().map(|&x| u128::from(x & mask(bits))).collect();
                let product = x[0] * x[1];
                let first = ((product >> bits) + x[2]) >> bits;
                let second = (product & u128::from(mask(bits))) + x[3] + first;
                let expected = [(second >> bits) as u64, second as u64 & mask(bits)];
                prop_assert_eq!(&result[..], &expected, "{} of {:x?}", body, x);
            }
        }
    }
}

/// Every pair of the values at the ends of each type.
#[test]
fn ends() {
    for ty in TYPES {
        let (low, high) = limits(ty);
        let words: Vec<u64> =
            [low, low + 1, -1, 0, 1, 2, high - 1, high].map(|value| word(ty, value)).into();
        let mut rows = Vec::new();
        for &a in &words {
            for &b in &words {
                rows.extend(words.iter().map(|&c| vec![a, b, c]));
            }
        }
        arithmetic(ty, &rows);
    }
}
