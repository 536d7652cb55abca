//! Vectors as signed bytes, [`Storage::Int8`](super::storage::Storage::Int8): element `i` stands for byte `i` times the vector's
//! scale.
//!
//! The scale is the largest magnitude over 127, rounded to f32; a byte is `127 x / largest`, rounded to the nearest integer and
//! halves away from zero. Both are functions of the exact values, so every device makes the same bits (`rows_int8`). A vector
//! with a value that is not finite is zeros with the scale NaN: nothing finds it.

use super::math::vectorize;
use crate::device::threads::Threads;
use crate::device::threads::items::*;

/// The largest dimension of vectors whose products are summed in 32 bits: 2^7 2^7 2^17 is 2^31, and queries have no -128.
pub(crate) const MAX_DIM: usize = 1 << 17;

/// Makes the bytes of a vector, zeros behind the last one, and gives the scale.
pub(crate) fn quantize(vector: &[f32], bytes: &mut [i8]) -> f32 {
    bytes.fill(0);
    // Magnitudes compare as integers do.
    let largest = vector.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
    match largest {
        0 => return 0.0,
        0x7f80_0000.. => return f32::NAN,
        _ => {}
    }
    let largest = f32::from_bits(largest);
    let whole = largest as f64;
    vectorize(
        #[inline(always)]
        || {
            // Exact, and if not so far from a half that f64 keeps the side: both are ratios of numbers of 24 bits.
            for (byte, &v) in bytes.iter_mut().zip(vector) {
                let ratio = 127.0 * v as f64 / whole;
                *byte = (ratio + 0.5f64.copysign(ratio)) as i32 as i8;
            }
        },
    );
    largest / 127.0
}

/// The bytes of vectors of `dim` values, each in whole words, and their scales.
pub(crate) fn quantized(threads: &Threads, values: &[f32], dim: usize) -> (Vec<u32>, Vec<f32>) {
    let (count, width) = (values.len() / dim, dim.div_ceil(4));
    let (mut words, mut scales) = (vec![0u32; count * width], vec![0.0; count]);
    let each = words.par_chunks_mut(width).zip(values.par_chunks(dim)).zip(&mut scales);
    threads.for_each(2 * values.len(), each, |((words, vector), scale)| {
        *scale = quantize(vector, bytemuck::cast_slice_mut(words));
    });
    (words, scales)
}

/// Vectors of `dim` values from their bytes and scales.
pub(crate) fn decoded(bytes: &[u8], scales: &[f32], dim: usize) -> Vec<f32> {
    let vectors = bytes.chunks_exact(dim.next_multiple_of(4)).zip(scales);
    let mut all = Vec::with_capacity(scales.len() * dim);
    for (vector, scale) in vectors {
        all.extend(vector[..dim].iter().map(|&byte| f32::from(byte as i8) * scale));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_nearest_and_the_largest_is_127() {
        let mut bytes = [9; 8];
        let scale = quantize(&[254.0, -1.0, 1.0, -254.0, 2.999, 3.0], &mut bytes);
        assert_eq!((scale, bytes), (2.0, [127, -1, 1, -127, 1, 2, 0, 0]));
        // Whatever the magnitude, down to the smallest.
        for e in -149..121 {
            let one = 2f64.powi(e) as f32;
            let vector = [-127.0, 1.0, -63.0].map(|v| v * one);
            let (scale, bytes) = (quantize(&vector, &mut bytes), &bytes[..3]);
            assert_eq!((scale, bytes), (one, &[-127, 1, -63][..]), "{e}");
        }
        assert_eq!((quantize(&[0.0, -0.0], &mut bytes), bytes), (0.0, [0; 8]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(quantize(&[1.0, bad], &mut bytes).is_nan());
            assert_eq!(bytes, [0; 8]);
        }
    }
}
