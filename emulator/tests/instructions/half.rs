//! f16 and bf16 against `rustc_apfloat`.

use proptest::prelude::*;
use rustc_apfloat::ieee::{BFloat, Half};
use rustc_apfloat::{Float, Round};

use crate::harness::check;
use crate::values::{self, rows};

const NAN: u64 = 0x7FFF;

/// What surrounds an operation.
#[derive(Clone, Copy, Default)]
struct Style {
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Style {
    fn modifiers(self) -> String {
        let all = [(self.ftz, ".ftz"), (self.sat, ".sat"), (self.relu, ".relu")];
        all.iter().filter(|modifier| modifier.0).map(|modifier| modifier.1).collect()
    }
}

/// The bits of an operation's result on values of a format.
fn apply<F: Float>(style: Style, bits: &[u64], f: impl Fn(&[F]) -> F) -> u64 {
    let flush = |x: F| if style.ftz && x.is_denormal() { F::ZERO.copy_sign(x) } else { x };
    let x: Vec<F> = bits.iter().map(|&bits| flush(F::from_bits((bits & 0xFFFF).into()))).collect();
    let result = flush(f(&x));
    let one = F::from_u128(1).value;
    let negative = result.is_zero() || result < F::ZERO;
    match result {
        _ if style.sat && (result.is_nan() || negative) => 0,
        _ if style.sat && result > one => one.to_bits() as u64,
        _ if style.relu && negative => 0,
        _ if result.is_nan() => NAN,
        _ => result.to_bits() as u64,
    }
}

/// Checks an operation on single values, and on pairs where the other half has the sources of the next row.
fn check_both(
    name: &str,
    types: (&str, &str),
    sources: usize,
    rows: &[Vec<u64>],
    expected: impl Fn(&[u64]) -> u64,
) {
    let operands = ["%d, %a", "%d, %a, %b", "%d, %a, %b, %c"][sources - 1];
    let body = format!("{name}.{} {operands};", types.0);
    check(&["b16"; 3], "b16", &body, rows, |row| expected(&row[..sources]));
    let pairs: Vec<Vec<u64>> = rows
        .windows(2)
        .map(|two| two[0].iter().zip(&two[1]).map(|(low, high)| high << 16 | low).collect())
        .collect();
    let body = format!("{name}.{} {operands};", types.1);
    check(&["b32"; 3], "b32", &body, &pairs, |row| {
        let low: Vec<u64> = row.iter().map(|pair| pair & 0xFFFF).collect();
        let high: Vec<u64> = row.iter().map(|pair| pair >> 16).collect();
        expected(&high[..sources]) << 16 | expected(&low[..sources])
    });
}

const F16: (&str, &str) = ("f16", "f16x2");
const BF16: (&str, &str) = ("bf16", "bf16x2");
const NEAREST: Round = Round::NearestTiesToEven;

fn arithmetic<F: Float>(types: (&str, &str), styles: &[Style], rows: &[Vec<u64>]) {
    for &style in styles {
        let modifiers = style.modifiers();
        for rounding in ["", ".rn"] {
            let name = |operation| format!("{operation}{rounding}{modifiers}");
            check_both(&name("add"), types, 2, rows, |x| {
                apply::<F>(style, x, |x| x[0].add_r(x[1], NEAREST).value)
            });
            check_both(&name("sub"), types, 2, rows, |x| {
                apply::<F>(style, x, |x| x[0].sub_r(x[1], NEAREST).value)
            });
            check_both(&name("mul"), types, 2, rows, |x| {
                apply::<F>(style, x, |x| x[0].mul_r(x[1], NEAREST).value)
            });
        }
    }
}

fn fma<F: Float>(types: (&str, &str), styles: &[Style], rows: &[Vec<u64>]) {
    for &style in styles {
        check_both(&format!("fma.rn{}", style.modifiers()), types, 3, rows, |x| {
            apply::<F>(style, x, |x| x[0].mul_add_r(x[1], x[2], NEAREST).value)
        });
    }
}

const PLAIN: Style = Style { ftz: false, sat: false, relu: false };
const STYLES: [Style; 4] = [
    PLAIN,
    Style { ftz: true, ..PLAIN },
    Style { sat: true, ..PLAIN },
    Style { ftz: true, sat: true, ..PLAIN },
];
const RELU: [Style; 2] = [Style { relu: true, ..PLAIN }, Style { relu: true, ftz: true, ..PLAIN }];

proptest! {
    #![proptest_config(values::cases(64))]

    #[test]
    fn f16_arithmetic(rows in rows(values::float(values::F16), 3)) {
        arithmetic::<Half>(F16, &STYLES, &rows);
        fma::<Half>(F16, &STYLES, &rows);
        fma::<Half>(F16, &RELU, &rows);
    }

    #[test]
    fn bf16_arithmetic(rows in rows(values::float(values::BF16), 3)) {
        arithmetic::<BFloat>(BF16, &[PLAIN], &rows);
        fma::<BFloat>(BF16, &[PLAIN, RELU[0]], &rows);
    }

    /// A tiny addend decides the direction of a tie of the product, however far below it is.
    #[test]
    fn bf16_ties(fraction in 0x80u64..0x100, exponent in 90u64..160, tiny in 0u64..0x400, sign in 0u64..4) {
        let a = exponent << 7 | fraction & 0x7F | (sign & 1) << 15;
        // 1.5 * 2^0 has ties for odd fractions; so have its neighbours.
        let rows: Vec<Vec<u64>> = (0x3F80..0x3FA0)
            .flat_map(|b| [0u64, 0x8000].map(|negative| vec![a, b, tiny ^ negative]))
            .collect();
        fma::<BFloat>(BF16, &[PLAIN], &rows);
    }

    #[test]
    fn minimum_and_maximum(
        halves in rows(values::float(values::F16), 3),
        brains in rows(values::float(values::BF16), 3),
    ) {
        for (types, infinity, rows) in [(F16, 0x7C00, halves), (BF16, 0x7F80, brains)] {
            for bits in 0..8 {
                let (ftz, nan, xorsign) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                if ftz && infinity == 0x7F80 {
                    continue;
                }
                let modifiers = [(ftz, ".ftz"), (nan, ".NaN"), (xorsign, ".xorsign.abs")];
                let modifiers: String = modifiers.iter().filter(|m| m.0).map(|m| m.1).collect();
                for (name, is_max) in [("min", false), ("max", true)] {
                    check_both(&format!("{name}{modifiers}"), types, 2, &rows, |x| {
                        let flush = |x: u64| if ftz && x & 0x7C00 == 0 { x & 0x8000 } else { x };
                        extreme(infinity, is_max, nan, xorsign, flush(x[0]), flush(x[1]))
                    });
                }
            }
        }
    }
}

fn extreme(infinity: u64, is_max: bool, nan: bool, xorsign: bool, a: u64, b: u64) -> u64 {
    let sign = (a ^ b) & 0x8000;
    let (a, b) = if xorsign { (a & 0x7FFF, b & 0x7FFF) } else { (a, b) };
    let is_nan = |x: u64| x & 0x7FFF > infinity;
    // Negative values in the order of their magnitudes, turned round, below the positive ones.
    let key = |x: u64| if x & 0x8000 != 0 { -1 - (x & 0x7FFF) as i64 } else { x as i64 };
    let chosen = match (is_nan(a), is_nan(b)) {
        (true, true) => return NAN,
        (true, false) | (false, true) if nan => return NAN,
        (true, false) => b,
        (false, true) => a,
        _ if (key(a) < key(b)) != is_max => a,
        _ => b,
    };
    if xorsign { chosen & 0x7FFF | sign } else { chosen }
}

/// Every value of 16 bits.
fn all() -> Vec<Vec<u64>> {
    (0..=0xFFFF).map(|bits| vec![bits, 0, 0]).collect()
}

#[test]
fn signs() {
    for types in [F16, BF16] {
        check_both("abs", types, 1, &all(), |x| x[0] & 0x7FFF);
        check_both("neg", types, 1, &all(), |x| x[0] ^ 0x8000);
    }
    let flush = |x: u64| if x & 0x7C00 == 0 { x & 0x8000 } else { x };
    check_both("abs.ftz", F16, 1, &all(), |x| flush(x[0]) & 0x7FFF);
    check_both("neg.ftz", F16, 1, &all(), |x| flush(x[0]) ^ 0x8000);
}

/// The documented errors: 2^-9.9 relative for f16's ex2, 2^-10.987 absolute for its tanh, 2^-7 and 2^-8 for bf16.
#[test]
fn approximations() {
    let f16 = |bits: u64| {
        let (field, low) = ((bits >> 10 & 31) as i32, (bits & 0x3FF) as f64);
        let magnitude = match field {
            31 if low == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            0 => low * 2f64.powi(-24),
            _ => (1024.0 + low) * 2f64.powi(field - 25),
        };
        if bits & 0x8000 != 0 { -magnitude } else { magnitude }
    };
    let bf16 = |bits: u64| f64::from(f32::from_bits((bits as u32) << 16));
    let tanh = |x: f64| 1.0 - 2.0 / ((2.0 * x).exp() + 1.0);
    let ex2 = |x: f64| (x * 2f64.ln()).exp();
    let run = |name, ty| {
        let rows = all();
        let body = format!("{name}.{ty} %d, %a;");
        let results = crate::harness::run(&["b16"; 3], &["b16"], &body, &rows);
        results.into_iter().map(|result| result[0]).enumerate()
    };
    for (bits, result) in run("tanh.approx", "f16") {
        let (x, y) = (f16(bits as u64), f16(result));
        assert!(
            x.is_nan() && result == NAN || (y - tanh(x)).abs() < 2f64.powf(-10.987),
            "{x}: {y}"
        );
    }
    for (bits, result) in run("tanh.approx", "bf16") {
        let (x, y) = (bf16(bits as u64), bf16(result));
        assert!(x.is_nan() && result == NAN || (y - tanh(x)).abs() < 2f64.powi(-8), "{x}: {y}");
    }
    for (bits, result) in run("ex2.approx", "f16") {
        let (x, y) = (f16(bits as u64), f16(result));
        let exact = ex2(x);
        // Half of the least subnormal is the error of small results.
        let error = exact * 2f64.powf(-9.9) + 2f64.powi(-25);
        let holds = match exact {
            _ if x.is_nan() => result == NAN,
            _ if exact >= 65520.0 => y == f64::INFINITY,
            _ => (y - exact).abs() <= error,
        };
        assert!(holds, "{x}: {y}");
    }
    for (bits, result) in run("ex2.approx.ftz", "bf16") {
        let (x, y) = (bf16(bits as u64), bf16(result));
        let exact = ex2(x);
        let holds = match exact {
            _ if x.is_nan() => result == NAN,
            _ if exact < f64::from(f32::MIN_POSITIVE) * 0.99 => y == 0.0,
            _ if exact > 3.396e38 => y == f64::INFINITY,
            _ => (y - exact).abs() <= exact * 2f64.powi(-7),
        };
        assert!(holds, "{x}: {y}");
    }
}
