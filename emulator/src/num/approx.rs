//! The approximate instructions, computed in f64: well within the errors that the ISA documents.
//!
//! Zeros, infinities and NaN come out as the ISA's tables have them, because the f64 functions agree with those.

/// `2^x`.
pub fn ex2(x: f32) -> f32 {
    f64::from(x).exp2() as f32
}

/// The base-2 logarithm.
pub fn lg2(x: f32) -> f32 {
    f64::from(x).log2() as f32
}

pub fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

pub fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

pub fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

/// `1 / sqrt(x)`.
pub fn rsqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

/// `a / b` of `div.approx`: a divisor beyond 2^126 has a reciprocal that is flushed to zero.
pub fn div(a: f32, b: f32) -> f32 {
    let is_large = b.abs() > 2f32.powi(126) && b.is_finite();
    if is_large { a * 0f32.copysign(b) } else { a / b }
}

/// The upper half of an f64, subnormals flushed: what the `.approx.ftz.f64` instructions read and write.
fn upper(x: f64) -> f64 {
    if x.is_nan() {
        return f64::from_bits(0x7FFF_FFFF << 32);
    }
    let cut = f64::from_bits(x.to_bits() >> 32 << 32);
    super::float::flush(cut)
}

/// `rcp.approx.ftz.f64`.
pub fn reciprocal_upper(x: f64) -> f64 {
    upper(1.0 / upper(x))
}

/// `rsqrt.approx.ftz.f64`.
pub fn rsqrt_upper(x: f64) -> f64 {
    upper(1.0 / upper(x).sqrt())
}
