//! Rounding of exact results to a floating-point format.

/// A rounding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the nearest, ties to even: `.rn`.
    Nearest,
    /// Towards zero: `.rz`.
    Zero,
    /// Towards negative infinity: `.rm`.
    Down,
    /// Towards positive infinity: `.rp`.
    Up,
    /// To the nearest, ties away from zero: `.rna`.
    NearestAway,
}

/// The modes of arithmetic, by their modifiers.
pub const ROUNDINGS: &[(&str, Rounding)] = &[
    ("rn", Rounding::Nearest),
    ("rz", Rounding::Zero),
    ("rm", Rounding::Down),
    ("rp", Rounding::Up),
];

/// A binary floating-point format with subnormals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bits of a significand, the hidden one included.
    pub precision: u32,
    /// Exponent of the least normal number.
    pub least: i32,
    /// Bits of the largest finite number.
    pub largest: u64,
    /// Bits of a value.
    pub bits: u32,
}

impl Format {
    pub const F64: Format =
        Format { precision: 53, least: -1022, largest: 0x7FEF_FFFF_FFFF_FFFF, bits: 64 };
    pub const F32: Format = Format { precision: 24, least: -126, largest: 0x7F7F_FFFF, bits: 32 };
    pub const F16: Format = Format { precision: 11, least: -14, largest: 0x7BFF, bits: 16 };
    pub const BF16: Format = Format { precision: 8, least: -126, largest: 0x7F7F, bits: 16 };
    /// The upper 19 bits of an f32.
    pub const TF32: Format = Format { precision: 11, least: -126, largest: 0x3_FBFF, bits: 19 };
    /// No infinities, and one NaN a sign: the bits above `largest`.
    pub const E4M3: Format = Format { precision: 4, least: -6, largest: 0x7E, bits: 8 };
    pub const E5M2: Format = Format { precision: 3, least: -14, largest: 0x7B, bits: 8 };
}

/// A finite number: `significand * 2^exponent`, with its sign.
///
/// The lowest bit may stand for anything nonzero below it; operations leave it so far below the precision of every
/// format that rounding comes out as for the exact value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u128,
}

/// `value >> shift`, with the lowest bit set if any bit was lost.
fn shift_sticky(value: u128, shift: u32) -> u128 {
    match shift {
        0 => value,
        1..128 => value >> shift | u128::from(value << (128 - shift) != 0),
        _ => u128::from(value != 0),
    }
}

impl Exact {
    /// A finite f64, its significand with 53 bits unless it is zero.
    pub fn new(value: f64) -> Exact {
        let bits = value.to_bits();
        let (field, fraction) = ((bits >> 52 & 0x7FF) as i32, bits & ((1 << 52) - 1));
        let significand = if field == 0 { fraction } else { fraction | 1 << 52 };
        let exponent = field.max(1) - 1075;
        let up = if significand == 0 { 0 } else { significand.leading_zeros() - 11 };
        Exact {
            negative: bits >> 63 == 1,
            exponent: exponent - up as i32,
            significand: u128::from(significand << up),
        }
    }

    pub fn integer(value: i128) -> Exact {
        Exact { negative: value < 0, exponent: 0, significand: value.unsigned_abs() }
    }

    pub fn times(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            exponent: self.exponent + other.exponent,
            significand: self.significand * other.significand,
        }
    }

    /// The highest bit at place 125, so that a sum does not overflow. Factors of 53 bits leave 20 bits free below, which
    /// is where sticky bits go: by then at most one leading bit cancels.
    fn normalized(self) -> Exact {
        let up = self.significand.leading_zeros().saturating_sub(2);
        Exact { exponent: self.exponent - up as i32, significand: self.significand << up, ..self }
    }

    /// The sum; the mode decides the sign of an exact zero.
    pub fn plus(self, other: Exact, mode: Rounding) -> Exact {
        if self.significand == 0 && other.significand == 0 {
            let negative = match self.negative == other.negative {
                true => self.negative,
                false => mode == Rounding::Down,
            };
            return Exact { negative, ..self };
        }
        if self.significand == 0 {
            return other;
        }
        if other.significand == 0 {
            return self;
        }
        let (a, b) = (self.normalized(), other.normalized());
        let (a, b) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
        let small = shift_sticky(b.significand, a.exponent.abs_diff(b.exponent));
        let (exponent, big) = (a.exponent, a.significand);
        if a.negative == b.negative {
            return Exact { negative: a.negative, exponent, significand: big + small };
        }
        match big.cmp(&small) {
            std::cmp::Ordering::Equal => {
                Exact { negative: mode == Rounding::Down, exponent: 0, significand: 0 }
            }
            std::cmp::Ordering::Greater => {
                Exact { negative: a.negative, exponent, significand: big - small }
            }
            std::cmp::Ordering::Less => {
                Exact { negative: b.negative, exponent, significand: small - big }
            }
        }
    }

    /// The quotient of numbers made by [`Exact::new`]; the divisor is not zero.
    pub fn over(self, other: Exact) -> Exact {
        let dividend = self.significand << 74;
        let quotient = dividend / other.significand;
        let sticky = u128::from(quotient * other.significand != dividend);
        Exact {
            negative: self.negative != other.negative,
            exponent: self.exponent - 74 - other.exponent,
            significand: quotient | sticky,
        }
    }

    /// The square root of a positive number made by [`Exact::new`].
    pub fn sqrt(self) -> Exact {
        // The exponent has to be even.
        let up = if self.exponent % 2 == 0 { 74 } else { 73 };
        let square = self.significand << up;
        let root = square.isqrt();
        let sticky = u128::from(root * root != square);
        // Places below the root's last bit, for the sticky one.
        Exact {
            negative: false,
            exponent: (self.exponent - up) / 2 - 1,
            significand: root << 1 | sticky,
        }
    }

    /// The nearest number of a format in the mode's direction, as bits. Too large a number becomes infinite, or the
    /// largest finite one, as the mode asks.
    pub fn round(self, format: Format, mode: Rounding) -> u64 {
        let magnitude = self.magnitude(format, mode);
        let sign = u64::from(self.negative) << (format.bits - 1);
        if magnitude <= format.largest {
            return sign | magnitude;
        }
        let outwards = match mode {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => self.negative,
            Rounding::Up => !self.negative,
        };
        sign | if outwards { format.largest + 1 } else { format.largest }
    }

    /// As [`Exact::round`], but too large a number becomes the largest finite one: `.satfinite`.
    pub fn round_finite(self, format: Format, mode: Rounding) -> u64 {
        let sign = u64::from(self.negative) << (format.bits - 1);
        sign | self.magnitude(format, mode).min(format.largest)
    }

    /// Bits without a sign, as if exponents had no end.
    fn magnitude(self, format: Format, mode: Rounding) -> u64 {
        if self.significand == 0 {
            return 0;
        }
        let top = 127 - self.significand.leading_zeros() as i32;
        let exponent = (self.exponent + top).max(format.least);
        let drop = exponent - (format.precision as i32 - 1) - self.exponent;
        let kept = match drop {
            ..=0 => self.significand << -drop,
            _ => round_off(self.significand, drop as u32, self.negative, mode),
        };
        // The hidden bit counts up the exponent field by one, and so does a carry.
        let field = (exponent - format.least) as u64;
        (field << (format.precision - 1)) + kept as u64
    }
}

/// `value / 2^drop` as an integer; at least one bit is dropped.
fn round_off(value: u128, drop: u32, negative: bool, mode: Rounding) -> u128 {
    // Far below one half, one bit says as much as all.
    let (value, drop) =
        if drop > 120 { (shift_sticky(value, drop - 120), 120) } else { (value, drop) };
    let (kept, rest, half) = (value >> drop, value & ((1 << drop) - 1), 1 << (drop - 1));
    let up = match mode {
        Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    kept + u128::from(up)
}

/// An f64 as the f32 towards zero, with the last bit set if it is not exact.
#[inline(always)]
pub fn odd32(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let beyond = back.abs() > x.abs();
    let inexact = back.abs() < x.abs() || beyond;
    let bits = near.to_bits().wrapping_sub(u32::from(beyond)) | u32::from(inexact);
    f32::from_bits(bits)
}

/// `a + b` towards zero, with the last bit set if it is not exact, however small the rest.
#[inline(always)]
pub fn odd_sum(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // What the addition lost (Knuth's TwoSum); NaN when the sum is not finite.
    let part = sum - a;
    let rest = (a - (sum - part)) + (b - part);
    let inexact = u64::from(rest.abs() > 0.0);
    let beyond = inexact & (rest.to_bits() ^ sum.to_bits()) >> 63;
    // Wrapping, here and above, spares a loop over the lanes the test for overflow.
    f64::from_bits(sum.to_bits().wrapping_sub(beyond) | inexact)
}
