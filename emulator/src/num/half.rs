//! f16 and bf16, as bits in a word: widening, and every operation with a single rounding.
//!
//! Operations go through f64, which holds products of two halves exactly, then through an f32 rounded to odd. Its 24 bits
//! are more than twice a half's, so that the last rounding comes out as for the exact result.

use super::float::{flush, saturate};
use super::rounding::{odd_sum, odd32};

/// f16 or bf16. The upper 16 bits of a word are ignored on the way in, and zero on the way out.
pub trait Half: Copy {
    /// The bits of +infinity.
    const INFINITY: u32;
    /// Bits of a significand, the hidden one left out.
    const FRACTION: u32;

    /// The value; exact.
    fn widen(bits: u32) -> f32;

    /// The nearest value, ties to even. NaN becomes [`NAN`].
    fn narrow(x: f32) -> u32;

    /// Subnormals as zero of their sign.
    #[inline(always)]
    fn flush(bits: u32) -> u32 {
        if bits & Self::INFINITY == 0 { bits & 0x8000 } else { bits }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct F16;

#[derive(Debug, Clone, Copy)]
pub struct Bf16;

/// The NaN that arithmetic gives, in both formats.
pub const NAN: u32 = 0x7FFF;

impl Half for F16 {
    const INFINITY: u32 = 0x7C00;
    const FRACTION: u32 = 10;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        let sign = (bits & 0x8000) << 16;
        let magnitude = bits & 0x7FFF;
        // The exponent's bias is 112 larger in an f32; that of infinity and NaN goes from all ones to all ones.
        let up = if magnitude >= 0x7C00 { 224 << 23 } else { 112 << 23 };
        let normal = (magnitude << 13).wrapping_add(up);
        // A subnormal counts steps of 2^-24.
        let subnormal = magnitude as i32 as f32 * f32::from_bits((127 - 24) << 23);
        let value = if magnitude < 0x0400 { subnormal.to_bits() } else { normal };
        f32::from_bits(value | sign)
    }

    #[inline(always)]
    fn narrow(x: f32) -> u32 {
        let sign = x.to_bits() >> 16 & 0x8000;
        let magnitude = x.to_bits() & 0x7FFF_FFFF;
        // Half of f16's last place, and an even last bit wins a tie.
        let odd = magnitude >> 13 & 1;
        let normal = magnitude.wrapping_add(0xFFF + odd).wrapping_sub(112 << 23) >> 13;
        // The last place of 0.5 is the least subnormal: the addition rounds to it.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
        let bits = if magnitude < 0x3880_0000 { subnormal } else { normal };
        let bits = if magnitude >= 0x477F_F000 { 0x7C00 } else { bits };
        if x.is_nan() { NAN } else { bits | sign }
    }
}

impl Half for Bf16 {
    const INFINITY: u32 = 0x7F80;
    const FRACTION: u32 = 7;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        f32::from_bits(bits << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> u32 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
        if x.is_nan() { NAN } else { rounded }
    }
}

/// What happens around an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Subnormal inputs and results are zero.
    pub ftz: bool,
    /// The result is clamped to [0, 1], and NaN is +0.
    pub sat: bool,
    /// A negative result is zero.
    pub relu: bool,
}

impl Style {
    #[inline(always)]
    fn input<H: Half>(self, bits: u32) -> f64 {
        f64::from(H::widen(if self.ftz { H::flush(bits) } else { bits }))
    }

    #[inline(always)]
    fn output<H: Half>(self, x: f64) -> u32 {
        let x = if self.sat { saturate(x) } else { x };
        let x = if self.relu && x <= 0.0 { 0.0 } else { x };
        let bits = H::narrow(odd32(x));
        if self.ftz { H::flush(bits) } else { bits }
    }
}

#[inline(always)]
pub fn add<H: Half>(style: Style, a: u32, b: u32) -> u32 {
    style.output::<H>(odd_sum(style.input::<H>(a), style.input::<H>(b)))
}

#[inline(always)]
pub fn sub<H: Half>(style: Style, a: u32, b: u32) -> u32 {
    style.output::<H>(odd_sum(style.input::<H>(a), -style.input::<H>(b)))
}

#[inline(always)]
pub fn mul<H: Half>(style: Style, a: u32, b: u32) -> u32 {
    style.output::<H>(style.input::<H>(a) * style.input::<H>(b))
}

/// `a * b + c` with one rounding.
#[inline(always)]
pub fn fma<H: Half>(style: Style, a: u32, b: u32, c: u32) -> u32 {
    let product = style.input::<H>(a) * style.input::<H>(b);
    style.output::<H>(odd_sum(product, style.input::<H>(c)))
}

/// A function of f32 on a half: for the approximate instructions.
#[inline]
pub fn through_f32<H: Half>(ftz: bool, a: u32, f: impl Fn(f32) -> f32) -> u32 {
    let flushed = |bits| if ftz { H::flush(bits) } else { bits };
    flushed(H::narrow(flush_if(ftz, f(H::widen(flushed(a))))))
}

fn flush_if(ftz: bool, x: f32) -> f32 {
    if ftz { flush(x) } else { x }
}

/// A function on each half of a word.
#[inline(always)]
pub fn each(a: u32, f: impl Fn(u32) -> u32) -> u32 {
    f(a & 0xFFFF) | f(a >> 16) << 16
}

/// A function on the low halves of two words, and on the high ones.
#[inline(always)]
pub fn each2(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    f(a & 0xFFFF, b & 0xFFFF) | f(a >> 16, b >> 16) << 16
}

/// A function on the low halves of three words, and on the high ones.
#[inline(always)]
pub fn each3(a: u32, b: u32, c: u32, f: impl Fn(u32, u32, u32) -> u32) -> u32 {
    f(a & 0xFFFF, b & 0xFFFF, c & 0xFFFF) | f(a >> 16, b >> 16, c >> 16) << 16
}
