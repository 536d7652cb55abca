//! Conversions between the types of PTX: `cvt`.

use super::float::{NAN32, flush, saturate};
use super::half::{self, Bf16, F16, Half};
use super::rounding::{Exact, Format, Rounding, odd32};
use crate::syntax::ty::Ty;

/// How a value is rounded on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// The conversion is exact, or drops the upper bits of an integer.
    Exact,
    /// To the destination's format: `.rn`, `.rz`, `.rm`, `.rp`, `.rna`.
    Format(Rounding),
    /// To an integer: `.rni`, `.rzi`, `.rmi`, `.rpi`.
    Integer(Rounding),
}

/// A conversion of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    pub to: Ty,
    pub from: Ty,
    pub round: Round,
    /// f32 subnormals are zero, on the way in and out.
    pub ftz: bool,
    /// Clamped to the destination's integers, or to [0, 1]; NaN is +0.
    pub sat: bool,
    /// Negative values are zero.
    pub relu: bool,
    /// Values too large become the largest finite one.
    pub satfinite: bool,
}

/// A value of any type. f64 holds every other floating-point type.
#[derive(Debug, Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

fn is_float(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64 | Ty::Tf32 | Ty::E4m3 | Ty::E5m2)
}

/// An 8-bit float, exactly.
fn widen_eight(bits: u64, format: Format) -> f64 {
    let sign = if bits & 0x80 != 0 { -1.0 } else { 1.0 };
    let magnitude = bits & 0x7F;
    if magnitude > format.largest {
        // Just above the largest number is infinity, if the format has one.
        let is_infinite = format == Format::E5M2 && magnitude == format.largest + 1;
        return if is_infinite { sign * f64::INFINITY } else { f64::NAN };
    }
    let fraction = format.precision - 1;
    let (field, low) = ((magnitude >> fraction) as i32, magnitude & ((1 << fraction) - 1));
    let significand = if field == 0 { low } else { low | 1 << fraction };
    sign * significand as f64 * 2f64.powi(field.max(1) - 1 + format.least - fraction as i32)
}

/// Reads a value; bits above those of the type are ignored.
fn read(ty: Ty, bits: u64) -> Number {
    let unused = 64 - ty.bits();
    match ty {
        Ty::F16 => Number::Float(F16::widen(bits as u32).into()),
        Ty::Bf16 => Number::Float(Bf16::widen(bits as u32).into()),
        Ty::F32 => Number::Float(f32::from_bits(bits as u32).into()),
        Ty::F64 => Number::Float(f64::from_bits(bits)),
        Ty::E4m3 => Number::Float(widen_eight(bits, Format::E4M3)),
        Ty::E5m2 => Number::Float(widen_eight(bits, Format::E5M2)),
        ty if ty.is_signed() => Number::Integer(((bits << unused) as i64 >> unused).into()),
        _ => Number::Integer((bits << unused >> unused).into()),
    }
}

/// A float rounded to an integer, as a float; zeros keep their sign.
fn integral(x: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::NearestAway => x.round(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

impl Conversion {
    /// The result's bits, those of narrow integers extended to 64 bits by their sign.
    pub fn apply(&self, bits: u64) -> u64 {
        let flush32 = |x: f64, ty| match ty == Ty::F32 && self.ftz {
            true => f64::from(flush(x as f32)),
            false => x,
        };
        match (read(self.from, bits), is_float(self.to)) {
            (Number::Integer(value), false) => self.put_integer(value),
            (Number::Integer(value), true) => {
                let mode = self.mode();
                if self.sat {
                    return self.put(if value > 0 { 1.0 } else { 0.0 });
                }
                let exact = Exact::integer(value);
                match format(self.to) {
                    Format::F64 if mode == Rounding::Nearest => (value as f64).to_bits(),
                    format => exact.round(format, mode),
                }
            }
            (Number::Float(x), false) => {
                let x = flush32(x, self.from);
                let (low, high) = range(self.to);
                if x.is_nan() {
                    // The ISA's rule: zero, but only the top bit where a type of 64 bits is involved.
                    let wide = self.from == Ty::F64 || self.to.bits() == 64;
                    let top = if self.to.is_signed() { low } else { (high + 1) / 2 };
                    return self.put_integer(if wide { top } else { 0 });
                }
                self.put_integer((integral(x, self.mode()) as i128).clamp(low, high))
            }
            (Number::Float(x), true) => {
                let x = flush32(x, self.from);
                let x = match self.round {
                    Round::Integer(mode) => integral(x, mode),
                    _ => x,
                };
                let x = if self.sat { saturate(x) } else { x };
                let x = if self.relu && x <= 0.0 { 0.0 } else { x };
                match self.to {
                    Ty::F32 if self.ftz => {
                        let bits = self.put(x) as u32;
                        flush(f32::from_bits(bits)).to_bits().into()
                    }
                    _ => self.put(x),
                }
            }
        }
    }

    fn mode(&self) -> Rounding {
        match self.round {
            Round::Exact => Rounding::Nearest,
            Round::Format(mode) | Round::Integer(mode) => mode,
        }
    }

    /// The low bits of an integer, clamped first when that is asked for.
    fn put_integer(&self, value: i128) -> u64 {
        let (low, high) = range(self.to);
        let value = if self.sat { value.clamp(low, high) } else { value };
        let unused = 64 - self.to.bits();
        match self.to.is_signed() {
            true => (((value as u64) << unused) as i64 >> unused) as u64,
            false => (value as u64) << unused >> unused,
        }
    }

    /// A float in the destination's format.
    fn put(&self, x: f64) -> u64 {
        let mode = match self.round {
            Round::Format(mode) => mode,
            _ => Rounding::Nearest,
        };
        match (self.to, mode) {
            (Ty::F64, _) => return x.to_bits(),
            (Ty::F32, _) if x.is_nan() => return NAN32.to_bits().into(),
            (Ty::F32, Rounding::Nearest) => return (x as f32).to_bits().into(),
            (Ty::Tf32, _) if x.is_nan() => return 0x7FFF_FFFF,
            (Ty::E4m3 | Ty::E5m2, _) if x.is_nan() => return 0x7F,
            _ if x.is_nan() => return half::NAN.into(),
            (Ty::F16, Rounding::Nearest) if !self.satfinite => {
                return F16::narrow(odd32(x)).into();
            }
            (Ty::Bf16, Rounding::Nearest) if !self.satfinite => {
                return Bf16::narrow(odd32(x)).into();
            }
            _ => {}
        }
        let format = format(self.to);
        let sign = u64::from(x.is_sign_negative()) << (format.bits - 1);
        let bits = match x.is_infinite() {
            true if self.satfinite => sign | format.largest,
            true => sign | (format.largest + 1),
            false if self.satfinite => Exact::new(x).round_finite(format, mode),
            false => Exact::new(x).round(format, mode),
        };
        // The lower 13 bits of a tf32 are zero.
        if self.to == Ty::Tf32 { bits << 13 } else { bits }
    }
}

fn format(ty: Ty) -> Format {
    match ty {
        Ty::F16 => Format::F16,
        Ty::Bf16 => Format::BF16,
        Ty::F32 => Format::F32,
        Ty::Tf32 => Format::TF32,
        Ty::E4m3 => Format::E4M3,
        Ty::E5m2 => Format::E5M2,
        _ => Format::F64,
    }
}

/// The least and the largest value of an integer type.
pub fn range(ty: Ty) -> (i128, i128) {
    match ty.is_signed() {
        true => (-(1 << (ty.bits() - 1)), (1 << (ty.bits() - 1)) - 1),
        false => (0, (1 << ty.bits()) - 1),
    }
}
