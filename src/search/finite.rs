//! The one rule for values that are not finite: indexes refuse them, when vectors are added and when a file is loaded.

use half::{bf16, f16};

use super::store::File;
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::ops::math::vectorize;
use crate::{DType, Error, Result};

/// Values that are looked at together.
const BLOCK: usize = 1024;
/// Values that a task looks at.
const TASK: usize = 64 << 10;

/// The place of the first of `values` whose magnitude is not below `bound`.
fn first<T: Copy>(values: &[T], bound: u32, magnitude: impl Fn(T) -> u32) -> Option<usize> {
    let block = vectorize(
        #[inline(always)]
        || {
            values.chunks(BLOCK).position(|block| {
                block.iter().fold(false, |beyond, &v| beyond | (magnitude(v) >= bound))
            })
        },
    )?;
    let rest = values[block * BLOCK..].iter().position(|&v| magnitude(v) >= bound)?;
    Some(block * BLOCK + rest)
}

/// Names a row by its number and its id.
pub(super) fn rows<S: AsRef<str>>(ids: &[S]) -> impl Fn(usize) -> String {
    move |row| format!("row {row}, '{}'", ids[row].as_ref())
}

/// Checks vectors \[n, dim\] that are to be kept as `dtype`. `place` names a vector by its number.
///
/// # Errors
/// [`Error::Argument`] if a value is NaN or infinite, or becomes infinite when it is rounded to `dtype`.
pub(super) fn check(
    threads: &Threads,
    what: &'static str,
    values: &[f32],
    dim: usize,
    dtype: DType,
    place: impl Fn(usize) -> String,
) -> Result<()> {
    // From half a step beyond the largest number on, what is rounded is infinite.
    let (largest, beyond) = match dtype {
        DType::F16 => (f16::MAX.to_f32(), 65520f32.to_bits()),
        DType::BF16 => (bf16::MAX.to_f32(), 0x7f7f_8000),
        _ => (f32::MAX, f32::INFINITY.to_bits()),
    };
    let parts = values.par_chunks(TASK);
    let firsts = threads.map(values.len() / 4, parts.enumerate(), |(i, part)| {
        Some(i * TASK + first(part, beyond, |v| v.to_bits() & 0x7fff_ffff)?)
    });
    match firsts.into_iter().flatten().next() {
        None => Ok(()),
        Some(at) => {
            let expected = format!("finite numbers, which in {dtype} go up to {largest:e}");
            Err(Error::argument(what, expected, format!("{} in {}", values[at], place(at / dim))))
        }
    }
}

/// Checks the bytes of vectors \[n, dim\] as they are stored in a tensor of a file.
///
/// # Errors
/// [`Error::Weights`] if a value is NaN or infinite.
pub(super) fn check_stored(
    file: &File,
    tensor: &str,
    bytes: &[u8],
    (dtype, dim): (DType, usize),
    place: impl Fn(usize) -> String,
) -> Result<()> {
    fn words<const N: usize>(bytes: &[u8]) -> &[[u8; N]] {
        bytes.as_chunks().0
    }
    let half = |bits: u32| first(words(bytes), bits, |b| u16::from_le_bytes(b) as u32 & 0x7fff);
    let found = match dtype {
        DType::F16 => half(0x7c00),
        DType::BF16 => half(0x7f80),
        _ => first(words(bytes), f32::INFINITY.to_bits(), |b| u32::from_le_bytes(b) & 0x7fff_ffff),
    };
    match found {
        None => Ok(()),
        Some(at) => {
            let value = match dtype {
                DType::F16 => f16::from_le_bytes(words(bytes)[at]).to_f32(),
                DType::BF16 => bf16::from_le_bytes(words(bytes)[at]).to_f32(),
                _ => f32::from_le_bytes(words(bytes)[at]),
            };
            let problem = format!("{value} in {}, expected finite numbers", place(at / dim));
            Err(file.fault(tensor, problem))
        }
    }
}

/// Checks the scales of int8 vectors in a file.
///
/// # Errors
/// [`Error::Weights`] if one is NaN, infinite or negative.
pub(super) fn check_scales(
    file: &File,
    scales: impl IntoIterator<Item = f32>,
    place: impl Fn(usize) -> String,
) -> Result<()> {
    let bad = |scale: &f32| !(0.0..f32::INFINITY).contains(scale);
    match scales.into_iter().enumerate().find(|(_, scale)| bad(scale)) {
        None => Ok(()),
        Some((row, scale)) => {
            let place = place(row);
            let problem = format!("{scale} in {place}, expected finite numbers of at least 0");
            Err(file.fault("scales", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: f32, dtype: DType) -> bool {
        // Beyond the first block, and not the first of its row.
        let mut values = vec![1.0f32; 4000];
        values[3001] = value;
        match check(Threads::shared(), "vectors", &values, 4, dtype, |row| format!("row {row}")) {
            Ok(()) => false,
            Err(e) => {
                assert!(e.to_string().contains(" in row 750"), "{e}");
                true
            }
        }
    }

    /// Exactly what rounds to something that is not finite is refused.
    #[test]
    fn the_bounds_are_those_of_rounding() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let rounded = |v: f32| match dtype {
                DType::F16 => f16::from_f32(v).to_f32(),
                DType::BF16 => bf16::from_f32(v).to_f32(),
                _ => v,
            };
            let edges = [65504.0, 65520.0, 3.3895314e38, 3.396e38, f32::MAX, f32::INFINITY, 0.0];
            for edge in edges.map(f32::to_bits) {
                for bits in edge.saturating_sub(3)..=edge + 3 {
                    for sign in [0, 1 << 31] {
                        let value = f32::from_bits(bits | sign);
                        let want = !rounded(value).is_finite();
                        assert_eq!(refused(value, dtype), want, "{value:e} {dtype}");
                    }
                }
            }
            for nan in [0x7fc0_0000, 0xffff_ffff, 0x7f80_0001] {
                assert!(refused(f32::from_bits(nan), dtype));
            }
        }
        assert!(
            check(Threads::shared(), "vectors", &[], 4, DType::F16, |_| unreachable!()).is_ok()
        );
    }
}
