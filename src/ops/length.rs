//! Vectors of any length: what keeps squares and products inside the range of f32. [`topk`](super::topk#any-length) states
//! the rule that callers see; this implements it on the host, and `rows_measure` does the same on GPUs
//! ([`rows`](super::rows)).
//!
//! A vector is *plain* if the exponent of its largest magnitude is within a range in which no sum of products overflows and
//! what underflows does not count. Plain vectors are used as they are. Any other finite vector is multiplied by the power of two
//! that takes its largest magnitude to the nearer end of the range. Subnormal numbers are read by their value, also on a device
//! that flushes them to zero. The multiplication is exact but for elements that are
//! more than 2^96 times smaller than the largest. Cosines do not depend on the power; for dot products the power is one of
//! the two factors of the sum, in place of the inverse length.

use std::ops::RangeInclusive;

use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::ops::math::{LANES, folded};

/// The exponents of plain vectors: products of two are within 2^-60 and 2^62, sums of 2^32 of them below 2^94, and both
/// powers are normal numbers.
pub(crate) const PLAIN: RangeInclusive<i32> = -30..=30;

/// The exponents of plain queries that a kernel may round to f16: the largest magnitude keeps all its bits there. Rows in
/// f16 are always [`PLAIN`].
pub(crate) const PLAIN_F16: RangeInclusive<i32> = -10..=15;

/// The exponent of the power of two that a vector is divided by; 0 for a plain one, for zero and for one that is not finite.
#[inline(always)]
pub(crate) fn exponent(x: &[f32], plain: &RangeInclusive<i32>) -> i32 {
    // Magnitudes compare as integers do.
    let largest = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
    let exponent = match largest {
        0 | 0x7f80_0000.. => return 0,
        1..=0x007f_ffff => 31 - largest.leading_zeros() as i32 - 149,
        _ => (largest >> 23) as i32 - 127,
    };
    exponent - exponent.clamp(*plain.start(), *plain.end())
}

/// Divides a vector by its power of two and gives the exponent.
#[inline(always)]
pub(crate) fn reduce(x: &mut [f32], plain: &RangeInclusive<i32>) -> i32 {
    let exponent = exponent(x, plain);
    if exponent != 0 {
        x.iter_mut().for_each(|v| *v = scaled(*v, -exponent));
    }
    exponent
}

/// `x` 2^`exponent`, rounded once.
pub(crate) fn scaled(x: f32, exponent: i32) -> f32 {
    (x as f64 * 2f64.powi(exponent)) as f32
}

/// `1 / |x|` of a plain vector, or 0 where that is not a number an f32 holds; NaN if an element is. Summed in f64.
#[inline(always)]
pub(crate) fn inverse_length(x: &[f32]) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    last.iter_mut().zip(rest).for_each(|(to, &v)| *to = v);
    let mut sums = [0f64; LANES];
    for values in whole.iter().chain([&last]) {
        for (sum, &v) in sums.iter_mut().zip(values) {
            *sum += f64::from(v) * f64::from(v);
        }
    }
    let inverse = (1.0 / folded(sums).sqrt()) as f32;
    if inverse.is_infinite() { 0.0 } else { inverse }
}

/// Divides rows by their lengths, however short or long; those without length stay zero.
pub(crate) fn normalize(threads: &Threads, rows: &mut [f32], dim: usize) {
    threads.for_each(2 * rows.len(), rows.par_chunks_mut(dim.max(1)), |row| {
        reduce(row, &PLAIN);
        let inverse = inverse_length(row);
        row.iter_mut().for_each(|v| *v *= inverse);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_vectors_and_those_without_a_direction_stay_as_they_are() {
        let plain = [2f32.powi(-30), 1.0, 3.7e4, 2f32.powi(31) - 128.0, 0.0, -0.0];
        for x in plain.into_iter().chain([f32::INFINITY, f32::NAN]) {
            assert_eq!(exponent(&[0.0, -x], &PLAIN), 0, "{x}");
        }
        assert_eq!(exponent(&[1e-38, f32::NEG_INFINITY], &PLAIN), 0);
        assert_eq!(exponent(&[1e-38, f32::NAN], &PLAIN), 0);
    }

    #[test]
    fn others_come_to_the_nearer_end_and_keep_their_bits() {
        for e in -149..128 {
            let x = [2f64.powi(e) as f32, -0.75 * 2f64.powi(e) as f32];
            let mut reduced = x;
            let by = reduce(&mut reduced, &PLAIN);
            let target = e.clamp(-30, 30);
            assert_eq!((by, reduced[0]), (e - target, 2f32.powi(target)), "{e}");
            assert_eq!(reduced.map(|v| scaled(v, by).to_bits()), x.map(f32::to_bits), "{e}");
        }
    }

    #[test]
    fn an_inverse_length_is_finite_or_of_a_nan() {
        assert_eq!(inverse_length(&[3.0, -4.0]), 0.2);
        assert_eq!(inverse_length(&[0.0, -0.0]), 0.0);
        assert_eq!(inverse_length(&[f32::INFINITY, 0.0]), 0.0);
        assert!(inverse_length(&[f32::NAN, 0.0]).is_nan());
    }

    #[test]
    fn rows_of_any_length_become_unit_vectors() {
        for x in [f32::from_bits(1), 1e-42, 1e-38, 1e-20, 1.0, 1e20, 2e38] {
            let mut row = [x, 0.0, -x, x];
            normalize(Threads::shared(), &mut row, 4);
            let length = row.iter().map(|&v| (v as f64).powi(2)).sum::<f64>().sqrt();
            assert!((length - 1.0).abs() < 2e-7, "{x}: {row:?}");
            assert_eq!([row[1], -row[2]], [0.0, row[0]]);
        }
        let mut zero = [0.0, -0.0];
        normalize(Threads::shared(), &mut zero, 2);
        assert_eq!(zero, [0.0; 2]);
    }
}
