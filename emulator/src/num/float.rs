//! f32 and f64: arithmetic in every rounding mode, flushing, saturation, minimum and maximum.

use super::rounding::{Exact, Format, Rounding, odd_sum};

/// f32 or f64.
pub trait Float: Copy + PartialOrd {
    const FORMAT: Format;
    const ZERO: Self;
    const ONE: Self;
    fn double(self) -> f64;
    fn from_rounded(bits: u64) -> Self;
    fn sign(self) -> bool;
    fn magnitude(self) -> Self;
    fn with_sign(self, negative: bool) -> Self;
    fn nan(self) -> bool;
    fn subnormal(self) -> bool;
    /// A NaN as arithmetic gives it: one bit pattern for f32; f64 keeps what the operation gave.
    fn canonical(self) -> Self;
    fn plus(self, b: Self) -> Self;
    fn minus(self, b: Self) -> Self;
    fn times(self, b: Self) -> Self;
    fn times_plus(self, b: Self, c: Self) -> Self;
    fn over(self, b: Self) -> Self;
    fn root(self) -> Self;
}

/// The NaN that f32 arithmetic gives.
pub const NAN32: f32 = f32::from_bits(0x7FFF_FFFF);

macro_rules! float {
    ($float:ty, $bits:ty, $format:expr, |$x:ident| $canonical:expr, |$a:ident, $b:ident, $c:ident| $fma:expr) => {
        impl Float for $float {
            const FORMAT: Format = $format;
            const ZERO: $float = 0.0;
            const ONE: $float = 1.0;

            fn double(self) -> f64 {
                self.into()
            }

            fn from_rounded(bits: u64) -> $float {
                <$float>::from_bits(bits as $bits)
            }

            #[inline]
            fn sign(self) -> bool {
                self.is_sign_negative()
            }

            #[inline]
            fn magnitude(self) -> $float {
                self.abs()
            }

            #[inline]
            fn with_sign(self, negative: bool) -> $float {
                self.copysign(if negative { -1.0 } else { 1.0 })
            }

            #[inline]
            fn nan(self) -> bool {
                self.is_nan()
            }

            #[inline]
            fn subnormal(self) -> bool {
                self.abs() < <$float>::MIN_POSITIVE
            }

            #[inline]
            fn canonical(self) -> $float {
                let $x = self;
                $canonical
            }

            #[inline]
            fn plus(self, b: $float) -> $float {
                self + b
            }

            #[inline]
            fn minus(self, b: $float) -> $float {
                self - b
            }

            #[inline]
            fn times(self, b: $float) -> $float {
                self * b
            }

            #[inline]
            fn times_plus(self, b: $float, c: $float) -> $float {
                let ($a, $b, $c) = (self, b, c);
                $fma
            }

            #[inline]
            fn over(self, b: $float) -> $float {
                self / b
            }

            #[inline]
            fn root(self) -> $float {
                self.sqrt()
            }
        }
    };
}

float!(f32, u32, Format::F32, |x| if x.is_nan() { NAN32 } else { x }, |a, b, c| fma32(a, b, c));
float!(f64, u64, Format::F64, |x| x, |a, b, c| a.mul_add(b, c));

/// `a * b + c` with one rounding.
#[inline]
fn fma32(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        return a.mul_add(b, c);
    }
    // Without the instruction `mul_add` is a call, and a loop over it does not vectorise. In f64 the product is exact,
    // and a sum rounded to odd has bits enough for the last rounding to come out as for the exact sum.
    odd_sum(f64::from(a) * f64::from(b), f64::from(c)) as f32
}

/// Subnormals as zero of their sign: `.ftz`.
#[inline]
pub fn flush<T: Float>(x: T) -> T {
    if x.subnormal() { T::ZERO.with_sign(x.sign()) } else { x }
}

/// Clamped to [0, 1]; NaN is +0: `.sat`.
#[inline]
pub fn saturate<T: Float>(x: T) -> T {
    if x > T::ZERO { if x > T::ONE { T::ONE } else { x } } else { T::ZERO }
}

fn is_finite<T: Float>(x: T) -> bool {
    x.double().is_finite()
}

/// `a + b` in any mode.
#[inline]
pub fn add<T: Float>(mode: Rounding, a: T, b: T) -> T {
    if mode == Rounding::Nearest || !is_finite(a) || !is_finite(b) {
        return a.plus(b);
    }
    let sum = Exact::new(a.double()).plus(Exact::new(b.double()), mode);
    T::from_rounded(sum.round(T::FORMAT, mode))
}

/// `a - b` in any mode.
#[inline]
pub fn sub<T: Float>(mode: Rounding, a: T, b: T) -> T {
    if mode == Rounding::Nearest || !is_finite(a) || !is_finite(b) {
        return a.minus(b);
    }
    add(mode, a, b.with_sign(!b.sign()))
}

/// `a * b` in any mode.
#[inline]
pub fn mul<T: Float>(mode: Rounding, a: T, b: T) -> T {
    if mode == Rounding::Nearest || !is_finite(a) || !is_finite(b) {
        return a.times(b);
    }
    let product = Exact::new(a.double()).times(Exact::new(b.double()));
    T::from_rounded(product.round(T::FORMAT, mode))
}

/// `a * b + c` with one rounding, in any mode.
#[inline]
pub fn fma<T: Float>(mode: Rounding, a: T, b: T, c: T) -> T {
    if mode == Rounding::Nearest || !is_finite(a) || !is_finite(b) || !is_finite(c) {
        return a.times_plus(b, c);
    }
    let product = Exact::new(a.double()).times(Exact::new(b.double()));
    T::from_rounded(product.plus(Exact::new(c.double()), mode).round(T::FORMAT, mode))
}

/// `a / b` in any mode.
#[inline]
pub fn div<T: Float>(mode: Rounding, a: T, b: T) -> T {
    if mode == Rounding::Nearest || !is_finite(a) || !is_finite(b) || b == T::ZERO {
        return a.over(b);
    }
    let quotient = Exact::new(a.double()).over(Exact::new(b.double()));
    T::from_rounded(quotient.round(T::FORMAT, mode))
}

/// The square root in any mode.
#[inline]
pub fn sqrt<T: Float>(mode: Rounding, a: T) -> T {
    let is_positive = a > T::ZERO && is_finite(a);
    if mode == Rounding::Nearest || !is_positive {
        return a.root();
    }
    T::from_rounded(Exact::new(a.double()).sqrt().round(T::FORMAT, mode))
}

/// The smaller of two: a NaN gives way to a number, and -0 is less than +0.
#[inline]
pub fn min<T: Float>(a: T, b: T) -> T {
    let first = a < b || (a == b && a.sign()) || b.nan();
    if first { a } else { b }
}

/// The larger of two: a NaN gives way to a number, and +0 is more than -0.
#[inline]
pub fn max<T: Float>(a: T, b: T) -> T {
    let first = a > b || (a == b && !a.sign()) || b.nan();
    if first { a } else { b }
}
