//! Arithmetic as the ISA defines it, value by value: rounding modes, flushed subnormals, saturation and NaN.

pub mod approx;
pub mod convert;
pub mod float;
pub mod half;
pub mod rounding;
