//! Packing of matrices' rows, so that a step over k of a tile reads what lies together.

use half::f16;
use half::slice::HalfFloatSliceExt;
use pulp::{Simd, WithSimd};

use super::cpu::Shape;
use crate::{DType, Float};

/// Packs rows of `k` elements into one panel: element d of row j at `d · width + j`, zeros where there is no row.
pub(super) struct Panel<'a, T> {
    pub(super) rows: &'a [T],
    pub(super) k: usize,
    pub(super) width: usize,
    pub(super) to: &'a mut [f32],
}

impl<T: Float> WithSimd for Panel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Panel { rows, k, width, to } = self;
        if rows.len() < width * k {
            to.fill(0.0);
        }
        let square = Square::new();
        let mut column = turns::<T, 8>(square, rows, k, to, width, 0);
        column = turns::<T, 4>(square, rows, k, to, width, column);
        turns::<T, 1>(square, rows, k, to, width, column);
    }
}

/// Turns rows from `row` on, `R` at a time while there are as many, and gives the first row left.
#[inline(always)]
fn turns<T: Float, const R: usize>(
    square: Square,
    rows: &[T],
    k: usize,
    to: &mut [f32],
    width: usize,
    mut row: usize,
) -> usize {
    while k > 0 && (row + R) * k <= rows.len() {
        let part = std::array::from_fn::<_, R, _>(|i| &rows[(row + i) * k..][..k]);
        turn(square, part, to, width, row);
        row += R;
    }
    row
}

/// Packs a part of rows of `k` elements for tiles, from column `start` on and as many as `to` has space for: the tiles of
/// [`Shape::next`] rows one after the other, element d of a tile's row j at `d · rows + j`.
pub(super) struct Tiles<'a, T> {
    pub(super) rows: &'a [T],
    pub(super) k: usize,
    pub(super) start: usize,
    pub(super) to: &'a mut [f32],
}

impl<T: Float> WithSimd for Tiles<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let (shape, square) = (Shape::of::<S>(), Square::new());
        let (mut row, rows) = (0, self.rows.len() / self.k);
        while row < rows {
            let next = shape.next(rows - row);
            match next {
                1 => self.tile::<1>(square, row, rows),
                2 => self.tile::<2>(square, row, rows),
                3 => self.tile::<3>(square, row, rows),
                4 => self.tile::<4>(square, row, rows),
                5 => self.tile::<5>(square, row, rows),
                7 if shape.rows > 6 => self.tile::<7>(square, row, rows),
                8 if shape.rows > 6 => self.tile::<8>(square, row, rows),
                _ => self.tile::<6>(square, row, rows),
            }
            row += next;
        }
    }
}

impl<T: Float> Tiles<'_, T> {
    /// Packs the tile of `R` rows from `row` on.
    #[inline(always)]
    fn tile<const R: usize>(&mut self, square: Square, row: usize, rows: usize) {
        let (from, k, start) = (self.rows, self.k, self.start);
        let depth = self.to.len() / rows;
        let tile = &mut self.to[row * depth..][..R * depth];
        let rows = std::array::from_fn(|i| &from[(row + i) * k + start..][..depth]);
        turn::<T, R>(square, rows, tile, R, 0);
    }
}

/// Writes element d of row i to `d · width + column + i`, in squares of 8 x 8.
#[inline(always)]
fn turn<T: Float, const R: usize>(
    square: Square,
    rows: [&[T]; R],
    to: &mut [f32],
    width: usize,
    column: usize,
) {
    let blocks = rows[0].len() / SIDE;
    let (to, to_rest) = to.split_at_mut(blocks * SIDE * width);
    let whole = rows.map(|row| &row.as_chunks::<SIDE>().0[..blocks]);
    for (block, to) in to.chunks_exact_mut(SIDE * width).enumerate() {
        let mut part = [[0.0; SIDE]; SIDE];
        for i in 0..R {
            part[i] = eight(&whole[i][block]);
        }
        square.put::<R>(part, to, width, column);
    }
    let mut part = [[0.0; SIDE]; SIDE];
    for (part, row) in part.iter_mut().zip(rows) {
        part.iter_mut().zip(&row[blocks * SIDE..]).for_each(|(part, x)| *part = x.to_f32());
    }
    square.put::<R>(part, to_rest, width, column);
}

/// Values as f32. Of f16, one after the other would be a call each.
#[inline(always)]
fn eight<T: Float>(from: &[T; SIDE]) -> [f32; SIDE] {
    if T::DTYPE != DType::F16 {
        return from.map(T::to_f32);
    }
    let mut to = [0.0; SIDE];
    bytemuck::cast_slice::<T, f16>(from).convert_to_f32_slice(&mut to);
    to
}

/// Rows and columns of what is turned at a time.
const SIDE: usize = 8;

/// How a square is turned on this CPU: with AVX's shuffles where there are such. Compilers make moves of single elements of
/// it, which take three times as long.
#[derive(Clone, Copy)]
struct Square {
    #[cfg(target_arch = "x86_64")]
    simd: Option<pulp::x86::V3>,
}

impl Square {
    #[inline(always)]
    fn new() -> Square {
        Square {
            #[cfg(target_arch = "x86_64")]
            simd: pulp::x86::V3::try_new(),
        }
    }

    /// Writes the first `R` of the square's rows as columns from `column` on.
    #[inline(always)]
    fn put<const R: usize>(
        self,
        rows: [[f32; SIDE]; SIDE],
        to: &mut [f32],
        width: usize,
        column: usize,
    ) {
        for (out, turned) in to.chunks_exact_mut(width).zip(&self.turn(rows)) {
            out[column..column + R].copy_from_slice(&turned[..R]);
        }
    }

    #[inline(always)]
    fn turn(self, rows: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.simd {
            return x86::turn(simd, rows);
        }
        std::array::from_fn(|d| rows.map(|row| row[d]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::__m256;

    use super::SIDE;

    /// Pairs, then fours, then halves change places.
    #[inline(always)]
    pub(super) fn turn(simd: pulp::x86::V3, rows: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        let avx = simd.avx;
        let rows: [__m256; SIDE] = bytemuck::cast(rows);
        let pairs: [__m256; SIDE] = std::array::from_fn(|i| match i % 2 {
            0 => avx._mm256_unpacklo_ps(rows[i], rows[i + 1]),
            _ => avx._mm256_unpackhi_ps(rows[i - 1], rows[i]),
        });
        let fours: [__m256; SIDE] = std::array::from_fn(|i| {
            let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
            match i % 2 {
                0 => avx._mm256_shuffle_ps::<0b01_00_01_00>(a, b),
                _ => avx._mm256_shuffle_ps::<0b11_10_11_10>(a, b),
            }
        });
        let halves: [__m256; SIDE] = std::array::from_fn(|i| {
            let (a, b) = (fours[i % 4], fours[i % 4 + 4]);
            match i / 4 {
                0 => avx._mm256_permute2f128_ps::<0x20>(a, b),
                _ => avx._mm256_permute2f128_ps::<0x31>(a, b),
            }
        });
        bytemuck::cast(halves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_turned() {
        let rows = std::array::from_fn(|i| std::array::from_fn(|j| (SIDE * i + j) as f32));
        let turned: [[f32; SIDE]; SIDE] =
            std::array::from_fn(|i| std::array::from_fn(|j| (SIDE * j + i) as f32));
        assert_eq!(Square::new().turn(rows), turned);
    }
}
