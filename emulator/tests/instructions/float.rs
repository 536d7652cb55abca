//! f32 and f64 against `rustc_apfloat`, whose arithmetic is a port of LLVM's.

use proptest::prelude::*;
use rustc_apfloat::ieee::{Double, Quad, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

use crate::harness::{check, check_on, run};
use crate::values::{self, Format, rows};

const MODES: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

const NAN32: u64 = 0x7FFF_FFFF;

fn single(bits: u64) -> Single {
    Single::from_bits(bits.into())
}

fn flushed<F: Float>(x: F) -> F {
    if x.is_denormal() { F::ZERO.copy_sign(x) } else { x }
}

fn saturated<F: Float>(x: F) -> F {
    let one = F::from_u128(1).value;
    if x.is_nan() || x < F::ZERO || x.is_zero() {
        F::ZERO
    } else if x > one {
        one
    } else {
        x
    }
}

/// An operation of the reference, and how many sources it has.
struct Reference {
    name: &'static str,
    sources: usize,
    f32: fn(&[Single], Round) -> Single,
    f64: fn(&[Double], Round) -> Double,
}

macro_rules! reference {
    ($name:literal, $sources:literal, |$x:ident, $mode:ident| $result:expr) => {
        Reference {
            name: $name,
            sources: $sources,
            f32: |$x, $mode| $result,
            f64: |$x, $mode| $result,
        }
    };
}

fn references() -> Vec<Reference> {
    vec![
        reference!("add", 2, |x, mode| x[0].add_r(x[1], mode).value),
        reference!("sub", 2, |x, mode| x[0].sub_r(x[1], mode).value),
        reference!("mul", 2, |x, mode| x[0].mul_r(x[1], mode).value),
        reference!("div", 2, |x, mode| x[0].div_r(x[1], mode).value),
        reference!("fma", 3, |x, mode| x[0].mul_add_r(x[1], x[2], mode).value),
        reference!("mad", 3, |x, mode| x[0].mul_add_r(x[1], x[2], mode).value),
        reference!("rcp", 1, |x, mode| one(x[0]).div_r(x[0], mode).value),
    ]
}

fn one<F: Float>(_like: F) -> F {
    F::from_u128(1).value
}

fn operands(count: usize) -> &'static str {
    ["%d, %a", "%d, %a, %b", "%d, %a, %b, %c"][count - 1]
}

proptest! {
    #![proptest_config(values::cases(48))]

    #[test]
    fn f32_in_every_mode(rows in rows(values::float(values::F32), 3)) {
        for Reference { name, sources, f32, .. } in references() {
            for (mode, round) in MODES {
                for (ftz, sat) in [(false, false), (true, false), (false, true), (true, true)] {
                    if sat && matches!(name, "div" | "rcp") {
                        continue;
                    }
                    let modifiers = [(ftz, ".ftz"), (sat, ".sat")];
                    let modifiers: String = modifiers.iter().filter(|m| m.0).map(|m| m.1).collect();
                    let body = format!("{name}.{mode}{modifiers}.f32 {};", operands(sources));
                    check(&["f32"; 3], "f32", &body, &rows, |row| {
                        let flush = |x: Single| if ftz { flushed(x) } else { x };
                        let x: Vec<Single> = row.iter().map(|&bits| flush(single(bits))).collect();
                        let result = flush(f32(&x, round));
                        let result = if sat { saturated(result) } else { result };
                        if result.is_nan() { NAN32 } else { result.to_bits() as u64 }
                    });
                }
            }
        }
    }

    #[test]
    fn f64_in_every_mode(rows in rows(values::float(values::F64), 3)) {
        for Reference { name, sources, f64, .. } in references() {
            for (mode, round) in MODES {
                let body = format!("{name}.{mode}.f64 {};", operands(sources));
                let results = run(&["f64"; 3], &["f64"], &body, &rows);
                for (row, result) in rows.iter().zip(results) {
                    let x: Vec<Double> =
                        row.iter().map(|&bits| Double::from_bits(bits.into())).collect();
                    let expected = f64(&x, round);
                    let result = Double::from_bits(result[0].into());
                    prop_assert!(
                        result.bitwise_eq(expected) || result.is_nan() && expected.is_nan(),
                        "{body} of {row:x?} gave {result:?}, expected {expected:?}"
                    );
                }
            }
        }
    }

    /// A root is right if the square of it, or of what is half a place beside it, is on the right side.
    #[test]
    fn roots_in_every_mode(
        singles in rows(values::float(values::F32), 1),
        doubles in rows(values::float(values::F64), 1),
    ) {
        for (ty, format, rows) in [("f32", values::F32, singles), ("f64", values::F64, doubles)] {
            for (mode, round) in MODES {
                let body = format!("sqrt.{mode}.{ty} %d, %a;");
                for (row, result) in rows.iter().zip(run(&[ty], &[ty], &body, &rows)) {
                    prop_assert!(
                        is_root(format, row[0], result[0], round),
                        "{body} of {:#x} gave {:#x}", row[0], result[0]
                    );
                }
            }
        }
    }

    #[test]
    fn minimum_and_maximum(rows in rows(values::float(values::F32), 3)) {
        for (name, is_max) in [("min", false), ("max", true)] {
            for (ftz, nan, xorsign) in bools() {
                let modifiers = [(ftz, ".ftz"), (nan, ".NaN"), (xorsign, ".xorsign.abs")];
                let modifiers: String = modifiers.iter().filter(|m| m.0).map(|m| m.1).collect();
                let body = format!("{name}{modifiers}.f32 %d, %a, %b;");
                check(&["f32"; 3], "f32", &body, &rows, |row| {
                    extreme(is_max, ftz, nan, xorsign, row[0], row[1])
                });
            }
            for nan in [false, true] {
                let modifier = if nan { ".NaN" } else { "" };
                let body = format!("{name}{modifier}.f32 %d, %a, %b, %c;");
                check_on(100, &["f32"; 3], "f32", &body, &rows, |row| {
                    let first = extreme(is_max, false, nan, false, row[0], row[1]);
                    extreme(is_max, false, nan, false, first, row[2])
                });
            }
        }
    }

    #[test]
    fn signs_and_properties(
        singles in rows(values::float(values::F32), 2),
        doubles in rows(values::float(values::F64), 2),
    ) {
        for (ty, Format(fraction, exponent), rows) in
            [("f32", values::F32, singles), ("f64", values::F64, doubles)]
        {
            let sign = 1u64 << (fraction + exponent);
            let sources = [ty, ty];
            check(&sources, ty, &format!("abs.{ty} %d, %a;"), &rows, |x| x[0] & !sign);
            check(&sources, ty, &format!("neg.{ty} %d, %a;"), &rows, |x| x[0] ^ sign);
            check(&sources, ty, &format!("copysign.{ty} %d, %a, %b;"), &rows, |x| {
                x[1] & !sign | x[0] & sign
            });
            let (all, low) = ((1u64 << exponent) - 1, (1u64 << fraction) - 1);
            type Holds = fn(field: u64, all: u64, fraction: u64) -> bool;
            let properties: [(&str, Holds); 6] = [
                ("finite", |field, all, _| field != all),
                ("infinite", |field, all, fraction| field == all && fraction == 0),
                ("number", |field, all, fraction| field != all || fraction == 0),
                ("notanumber", |field, all, fraction| field == all && fraction != 0),
                ("normal", |field, all, _| field != 0 && field != all),
                ("subnormal", |field, _, fraction| field == 0 && fraction != 0),
            ];
            for (name, holds) in properties {
                check(&sources, "pred", &format!("testp.{name}.{ty} %d, %a;"), &rows, |x| {
                    holds(x[0] >> fraction & all, all, x[0] & low).into()
                });
            }
        }
    }

    /// The errors that the ISA documents, on ranges where they are one number.
    #[test]
    fn approximations(rows in rows(values::float(values::F32), 2)) {
        let ulp = |x: f64| f64::from(f32::EPSILON) * x.abs().max(f64::from(f32::MIN_POSITIVE));
        type Function = fn(f64, f64) -> f64;
        type Bound = fn(f64, f64) -> f64;
        let table: [(&str, Function, Bound); 9] = [
            ("rcp.approx.f32 %d, %a;", |x, _| 1.0 / x, |_, ulp| ulp),
            ("sqrt.approx.f32 %d, %a;", |x, _| x.sqrt(), |_, ulp| 3.0 * ulp),
            ("rsqrt.approx.f32 %d, %a;", |x, _| inverse_root(x), |_, ulp| 2.0 * ulp),
            ("ex2.approx.f32 %d, %a;", |x, _| (x * 2f64.ln()).exp(), |_, ulp| 2.0 * ulp),
            ("lg2.approx.f32 %d, %a;", |x, _| x.ln() / 2f64.ln(), |y, ulp| ulp + y.abs() * 1e-7 + 1e-7),
            ("tanh.approx.f32 %d, %a;", |x, _| 1.0 - 2.0 / ((2.0 * x).exp() + 1.0), |y, ulp| {
                ulp + y.abs() * 2f64.powi(-11) + 1e-15
            }),
            ("sin.approx.f32 %d, %a;", |x, _| x.sin(), |_, ulp| 2f64.powi(-20) + ulp),
            ("cos.approx.f32 %d, %a;", |x, _| x.cos(), |_, ulp| 2f64.powi(-20) + ulp),
            ("div.full.f32 %d, %a, %b;", |a, b| a / b, |_, ulp| 2.0 * ulp),
        ];
        for (body, f, bound) in table {
            for (row, result) in rows.iter().zip(run(&["f32"; 2], &["f32"], body, &rows)) {
                let [a, b] = [0, 1].map(|at| f64::from(f32::from_bits(row[at] as u32)));
                let exact = f(a, b);
                let result = f64::from(f32::from_bits(result[0] as u32));
                // Beyond the largest f32 the result is infinite.
                let exact = if exact.abs() > 3.4028235677973366e38 { exact * f64::INFINITY } else { exact };
                let close = match exact.is_finite() {
                    true => (result - exact).abs() <= bound(exact, ulp(exact)),
                    false => result == exact || result.is_nan() && exact.is_nan(),
                };
                prop_assert!(close, "{body} of {a:e}, {b:e} gave {result:e}, expected {exact:e}");
            }
        }
    }
}

fn inverse_root(x: f64) -> f64 {
    match x {
        _ if x == 0.0 => 1.0 / x,
        _ if x < 0.0 => f64::NAN,
        _ => x.powf(-0.5),
    }
}

fn bools() -> impl Iterator<Item = (bool, bool, bool)> {
    (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0))
}

/// The ISA's rule, on bits: order by the value that a sign and a magnitude stand for.
fn extreme(is_max: bool, ftz: bool, nan: bool, xorsign: bool, a: u64, b: u64) -> u64 {
    let flush = |x: u64| if ftz && x & 0x7F80_0000 == 0 { x & 0x8000_0000 } else { x };
    let (a, b) = (flush(a), flush(b));
    let sign = (a ^ b) & 0x8000_0000;
    let (a, b) = if xorsign { (a & NAN32, b & NAN32) } else { (a, b) };
    let is_nan = |x: u64| x & NAN32 > 0x7F80_0000;
    let key =
        |x: u64| if x & 0x8000_0000 != 0 { !(x as u32) as i32 as i64 | -1 << 32 } else { x as i64 };
    let chosen = match (is_nan(a), is_nan(b)) {
        (true, true) => return NAN32,
        (true, false) | (false, true) if nan => return NAN32,
        (true, false) => b,
        (false, true) => a,
        _ if (key(a) < key(b)) != is_max => a,
        _ => b,
    };
    if xorsign { chosen & NAN32 | sign } else { chosen }
}

fn quad(format: Format, bits: u64) -> Quad {
    let mut lost = false;
    match format.0 {
        23 => single(bits).convert(&mut lost).value,
        _ => {
            let value: Quad = Double::from_bits(bits.into()).convert(&mut lost).value;
            value
        }
    }
}

fn is_root(format: Format, x: u64, root: u64, round: Round) -> bool {
    let (value, answer) = (quad(format, x), quad(format, root));
    if value.is_nan() || value.is_zero() || value.is_negative() || value.is_infinite() {
        return match value.is_negative() && !value.is_zero() || value.is_nan() {
            true => answer.is_nan(),
            false => x == root,
        };
    }
    // Squares of 54 bits are exact in a quad.
    let square = |x: Quad| (x * x).value;
    let half_way = |other: u64| {
        let sum: Quad = (answer + quad(format, other)).value;
        square(sum.scalbn(-1))
    };
    match round {
        Round::TowardZero | Round::TowardNegative => {
            square(answer) <= value && value < square(quad(format, root + 1))
        }
        Round::TowardPositive => square(answer) >= value && value > square(quad(format, root - 1)),
        _ => half_way(root - 1) <= value && value <= half_way(root + 1),
    }
}

#[test]
fn special_cases_of_approximations() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let table: [(&str, &[(f32, f32)]); 7] = [
        (
            "rcp.approx.ftz.f32",
            &[(0.0, inf), (-0.0, -inf), (1e-40, inf), (inf, 0.0), (-inf, -0.0), (3e38, 0.0)],
        ),
        (
            "sqrt.approx.ftz.f32",
            &[(0.0, 0.0), (-0.0, -0.0), (-1.0, nan), (inf, inf), (1e-40, 0.0), (4.0, 2.0)],
        ),
        ("rsqrt.approx.f32", &[(0.0, inf), (-0.0, -inf), (inf, 0.0), (-1.0, nan), (0.25, 2.0)]),
        (
            "ex2.approx.ftz.f32",
            &[(-inf, 0.0), (inf, inf), (0.0, 1.0), (-1e-40, 1.0), (-130.0, 0.0), (5.0, 32.0)],
        ),
        (
            "lg2.approx.ftz.f32",
            &[(0.0, -inf), (-1e-40, -inf), (-1.0, nan), (inf, inf), (8.0, 3.0), (1.0, 0.0)],
        ),
        ("sin.approx.ftz.f32", &[(0.0, 0.0), (-0.0, -0.0), (inf, nan), (-1e-40, -0.0)]),
        ("tanh.approx.f32", &[(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (nan, nan)]),
    ];
    for (name, cases) in table {
        for &(x, expected) in cases {
            let rows = [vec![u64::from(x.to_bits())]];
            let bits = if expected.is_nan() { NAN32 } else { expected.to_bits().into() };
            check(&["f32"], "f32", &format!("{name} %d, %a;"), &rows, |_| bits);
        }
    }
    // Divisors beyond 2^126 count as infinite, and an infinite dividend over one gives NaN.
    let large = u64::from(2f32.powi(127).to_bits());
    let [ten, infinity] = [10f32, f32::INFINITY].map(|x| u64::from(x.to_bits()));
    let divide = "div.approx.f32 %d, %a, %b;";
    check(&["f32"; 2], "f32", divide, &[vec![ten, large]], |_| 0);
    check(&["f32"; 2], "f32", divide, &[vec![infinity, large]], |_| NAN32);
}

#[test]
fn approximations_of_f64() {
    let values = [1.0, 3.0, -7.5, 1e300, 1e-300, 123.456, f64::INFINITY, 0.0, -0.0, 5e-324];
    let rows: Vec<Vec<u64>> = values.iter().map(|x: &f64| vec![x.to_bits()]).collect();
    let f64s = |body| {
        let results = run(&["f64"], &["f64"], body, &rows);
        results.into_iter().map(|result| f64::from_bits(result[0])).collect::<Vec<_>>()
    };
    let close = |x: f64, y: f64, error: f64| x == y || (x - y).abs() <= y.abs() * error;
    for (&x, y) in values.iter().zip(f64s("rcp.approx.ftz.f64 %d, %a;")) {
        let exact = if x.abs() < f64::MIN_POSITIVE { f64::INFINITY.copysign(x) } else { 1.0 / x };
        assert_eq!(y.to_bits() as u32, 0, "the lower half is zero");
        assert!(close(y, exact, 2f64.powi(-18)), "1 / {x} gave {y}");
    }
    for (&x, y) in values.iter().zip(f64s("rsqrt.approx.f64 %d, %a;")) {
        let holds = match x {
            x if x < 0.0 => y.is_nan(),
            x if x == 0.0 => y == f64::INFINITY.copysign(x),
            x if x.is_infinite() => y == 0.0,
            x => close(y * (y * x), 1.0, 1e-9),
        };
        assert!(holds, "1 / sqrt({x}) gave {y}");
    }
}
