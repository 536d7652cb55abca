//! Sums over the dimension of rows with a few queries, in one order for any number of either.
//!
//! Vector lanes are dimensions. Element `d` enters partial sum `d % 16` by a fused multiply-add, in ascending order; then
//! partial sums `i` and `i + 8` are added, `i` and `i + 4`, and so on. So the bits of a sum depend neither on its company nor
//! on the instruction set: with shorter vectors the partial sums are formed in several passes. A register tile is four rows
//! by up to four queries, so that each value that is loaded is used several times.

pub(crate) mod bytes;

use pulp::{Simd, WithSimd};

use super::math::{LANES, folded, unroll, widen};
use crate::device::cache::{Line, prefetch_after};
use crate::{DType, Float};

/// Rows and queries of a tile.
pub(crate) const ROWS: usize = 4;
pub(crate) const QUERIES: usize = 4;
const PAIRS: usize = ROWS * QUERIES;

/// The sums of a tile: row `r` with query `q` at `QUERIES * r + q`.
pub(crate) type Sums = [f32; PAIRS];

/// Up to [`QUERIES`] queries, padded with zeros to whole lines.
pub(crate) struct Group {
    /// The first line of each query, then the second of each, and so on.
    lines: Vec<Line>,
    /// The number of queries: 1, 2 or 4. Three are padded with zeros.
    count: usize,
}

impl Group {
    /// Of queries of `dim` values, one after the other.
    pub(crate) fn new(queries: &[f32], dim: usize) -> Group {
        let count = queries.len() / dim;
        debug_assert!((1..=QUERIES).contains(&count));
        let count = count.next_power_of_two();
        let mut lines = vec![Line([0.0; LANES]); dim.div_ceil(LANES) * count];
        for (q, query) in queries.chunks_exact(dim).enumerate() {
            let to = lines.iter_mut().skip(q).step_by(count);
            to.zip(query.chunks(LANES))
                .for_each(|(to, part)| to.0[..part.len()].copy_from_slice(part));
        }
        Group { lines, count }
    }
}

/// Whether [`each`] is quick with rows of this type; others had better be widened before.
pub(crate) fn takes<T: Float>() -> bool {
    #[cfg(target_arch = "x86_64")]
    if pulp::x86::V4::try_new().is_some() {
        return true;
    }
    T::DTYPE == DType::F32
}

/// Gives `put` the sums of the products of each of `rows`, `dim` values each, with each query of a group, or of the squares of
/// their differences, [`ROWS`] rows at a time with the number of the first. The last tile takes the last row several
/// times. Values are widened to f32, exactly. If `ahead` is not 0, the loop prefetches the memory `ahead` bytes after each value it
/// reads. `put` is compiled for the widest vectors if it is `#[inline(always)]`.
pub(crate) fn each<T: Float>(
    group: &Group,
    rows: &[T],
    dim: usize,
    squares: bool,
    ahead: usize,
    put: impl FnMut(usize, Sums),
) {
    if T::DTYPE == DType::F32 {
        let rows: &[f32] = bytemuck::cast_slice(rows);
        return pulp::Arch::new().dispatch(Scan { group, rows, dim, squares, ahead, put });
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V4::try_new() {
        return Simd::vectorize(simd, Scan { group, rows, dim, squares, ahead, put });
    }
    let mut wide = vec![0.0; rows.len()];
    widen(rows, &mut wide);
    pulp::Arch::new().dispatch(Scan { group, rows: &wide, dim, squares, ahead, put });
}

/// What [`each`] does.
struct Scan<'a, T, F> {
    group: &'a Group,
    rows: &'a [T],
    dim: usize,
    squares: bool,
    ahead: usize,
    put: F,
}

impl<T: Float, F: FnMut(usize, Sums)> WithSimd for Scan<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.group.count, self.squares) {
            (1, false) => self.tiles::<S, 1, 1, false>(simd),
            (2, false) => self.tiles::<S, 2, 2, false>(simd),
            (1, true) => self.tiles::<S, 1, 1, true>(simd),
            (2, true) => self.tiles::<S, 2, 2, true>(simd),
            // AVX2 has registers for half the accumulators.
            (_, false) if S::F32_LANES == 8 => self.tiles::<S, 4, 2, false>(simd),
            (_, true) if S::F32_LANES == 8 => self.tiles::<S, 4, 2, true>(simd),
            (_, false) => self.tiles::<S, 4, 4, false>(simd),
            (_, true) => self.tiles::<S, 4, 4, true>(simd),
        }
    }
}

impl<T: Float, F: FnMut(usize, Sums)> Scan<'_, T, F> {
    /// With `Q` queries, `V` at a time.
    #[inline(always)]
    fn tiles<S: Simd, const Q: usize, const V: usize, const SQUARES: bool>(mut self, simd: S) {
        let dim = self.dim;
        let count = self.rows.len() / dim;
        let mut partial = [Line([0.0; LANES]); PAIRS];
        for first in (0..count).step_by(ROWS) {
            let rows = Rows {
                all: self.rows,
                dim,
                ahead: self.ahead,
                starts: [0, 1, 2, 3].map(|r| (first + r).min(count - 1) * dim),
            };
            for q in (0..Q).step_by(V) {
                let (queries, _) = self.group.lines.as_chunks::<Q>();
                for part in 0..LANES / S::F32_LANES {
                    partial_sums::<S, T, Q, V, SQUARES>(
                        simd,
                        &rows,
                        queries,
                        q,
                        part,
                        &mut partial,
                    );
                }
            }
            (self.put)(first, fold(simd, &partial));
        }
    }
}

/// The rows of a tile.
struct Rows<'a, T> {
    all: &'a [T],
    dim: usize,
    ahead: usize,
    starts: [usize; ROWS],
}

impl<'a, T> Rows<'a, T> {
    #[inline(always)]
    fn row(&self, r: usize) -> (&'a [[T; LANES]], &'a [T]) {
        self.all[self.starts[r]..][..self.dim].as_chunks::<LANES>()
    }
}

/// The vector of number `part` of a line's values: f32, or with AVX-512 half of that.
#[inline(always)]
fn vector<S: Simd, T: Float>(simd: S, line: &[T; LANES], part: usize) -> S::f32s {
    if T::DTYPE == DType::F32 {
        let line: &[[f32; LANES]] = bytemuck::cast_slice(std::slice::from_ref(line));
        return S::as_simd_f32s(&line[0]).0[part];
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = x86::of(simd) {
        return bytemuck::cast(x86::widened(simd, line));
    }
    unreachable!("{} is given to AVX-512 only, not to {simd:?}", T::DTYPE)
}

/// [`vector`] of fewer values than a line's, the rest 0.
#[inline(always)]
fn partial_vector<S: Simd, T: Float>(simd: S, rest: &[T], part: usize) -> S::f32s {
    if T::DTYPE == DType::F32 {
        let rest: &[f32] = bytemuck::cast_slice(rest);
        return simd.partial_load_f32s(&rest[(part * S::F32_LANES).min(rest.len())..]);
    }
    let mut line = [T::zeroed(); LANES];
    line.iter_mut().zip(rest).for_each(|(to, x)| *to = *x);
    vector(simd, &line, part)
}

/// As many partial sums as a vector has lanes, the vector of number `part`, of [`ROWS`] rows with `V` of `Q` queries, from
/// `first` on.
#[inline(always)]
fn partial_sums<S: Simd, T: Float, const Q: usize, const V: usize, const SQUARES: bool>(
    simd: S,
    rows: &Rows<'_, T>,
    queries: &[[Line; Q]],
    first: usize,
    part: usize,
    to: &mut [Line; PAIRS],
) {
    let (whole, ahead) = (rows.dim / LANES, rows.ahead);
    let (x0, x1, x2, x3) = (rows.row(0), rows.row(1), rows.row(2), rows.row(3));
    let x = [&x0.0[..whole], &x1.0[..whole], &x2.0[..whole], &x3.0[..whole]];
    let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
    // Unrolled in the source: only accumulators with constant indices are sure to live in registers.
    macro_rules! step {
        ($b:expr, $r:ident => $x:expr) => {
            unroll!($r in 0 1 2 3 => {
                let x = $x;
                unroll!(v in 0 1 2 3 => {
                    if v < V {
                        let q = S::as_simd_f32s(&queries[$b][first + v].0).0[part];
                        sums[$r][v] = if SQUARES {
                            let difference = simd.sub_f32s(q, x);
                            simd.mul_add_f32s(difference, difference, sums[$r][v])
                        } else {
                            simd.mul_add_f32s(q, x, sums[$r][v])
                        };
                    }
                });
            });
        };
    }
    for b in 0..whole {
        // Once for each line of memory.
        if ahead > 0 && first == 0 && part == 0 && b % (size_of::<f32>() / size_of::<T>()) == 0 {
            unroll!(r in 0 1 2 3 => { prefetch_after(&x[r][b], ahead) });
        }
        step!(b, r => vector(simd, &x[r][b], part));
    }
    if whole < queries.len() {
        let rest = [x0.1, x1.1, x2.1, x3.1];
        step!(whole, r => partial_vector(simd, rest[r], part));
    }
    unroll!(r in 0 1 2 3 => {
        unroll!(v in 0 1 2 3 => {
            if v < V {
                S::as_mut_simd_f32s(&mut to[QUERIES * r + first + v].0).0[part] = sums[r][v];
            }
        });
    });
}

/// The sums of the partial sums of each pair.
#[inline(always)]
fn fold<S: Simd>(simd: S, partial: &[Line; PAIRS]) -> Sums {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = x86::of(simd) {
        return bytemuck::cast(x86::fold(
            simd,
            #[inline(always)]
            |i| bytemuck::cast(partial[i]),
            #[inline(always)]
            |a, b| simd.avx512f._mm512_add_ps(a, b),
        ));
    }
    let _ = simd;
    let mut all = [0.0; PAIRS];
    for (sum, Line(partial)) in all.iter_mut().zip(partial) {
        *sum = folded(*partial);
    }
    all
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::any::Any;
    use std::arch::x86_64::__m512;

    use pulp::x86::V4;
    use pulp::{Simd, cast};

    use super::LANES;
    use crate::{DType, Float};

    /// The token of AVX-512 where `simd` is one.
    #[inline(always)]
    pub(super) fn of<S: Simd>(simd: S) -> Option<V4> {
        (&simd as &dyn Any).downcast_ref::<V4>().copied()
    }

    /// Sixteen values of half the bits.
    #[inline(always)]
    pub(super) fn widened<T: Float>(simd: V4, line: &[T; LANES]) -> __m512 {
        let avx = simd.avx512f;
        let bits: &[[u16; LANES]] = bytemuck::cast_slice(std::slice::from_ref(line));
        match T::DTYPE {
            DType::F16 => avx._mm512_cvtph_ps(cast(bits[0])),
            _ => cast(avx._mm512_slli_epi32::<16>(avx._mm512_cvtepu16_epi32(cast(bits[0])))),
        }
    }

    /// Adds the partial sums of all pairs at once, transposing them on the way. `partial` gives a pair's by its number, `add` adds
    /// them lane by lane, whatever the lanes are.
    #[inline(always)]
    pub(super) fn fold(
        simd: V4,
        partial: impl Fn(usize) -> __m512,
        add: impl Fn(__m512, __m512) -> __m512,
    ) -> __m512 {
        let avx = simd.avx512f;
        // Written out: what is passed to `map` would not be compiled for these instructions.
        let x = twos(simd, column(simd, &partial, 0, &add), column(simd, &partial, 1, &add), &add);
        let y = twos(simd, column(simd, &partial, 2, &add), column(simd, &partial, 3, &add), &add);
        let even = avx._mm512_shuffle_ps::<0b0100_0100>(x, y);
        add(even, avx._mm512_shuffle_ps::<0b1110_1110>(x, y))
    }

    /// Four sums, with query `q`, of each of the tile's rows.
    #[inline(always)]
    fn column(
        simd: V4,
        partial: &impl Fn(usize) -> __m512,
        q: usize,
        add: &impl Fn(__m512, __m512) -> __m512,
    ) -> __m512 {
        let avx = simd.avx512f;
        let x = eights(simd, partial(q), partial(4 + q), add);
        let y = eights(simd, partial(8 + q), partial(12 + q), add);
        let even = avx._mm512_shuffle_f32x4::<0b1000_1000>(x, y);
        add(even, avx._mm512_shuffle_f32x4::<0b1101_1101>(x, y))
    }

    /// Sums `i` and `i + 8` of two pairs.
    #[inline(always)]
    fn eights(simd: V4, x: __m512, y: __m512, add: &impl Fn(__m512, __m512) -> __m512) -> __m512 {
        let avx = simd.avx512f;
        let low = avx._mm512_shuffle_f32x4::<0b0100_0100>(x, y);
        add(low, avx._mm512_shuffle_f32x4::<0b1110_1110>(x, y))
    }

    /// Sums `i` and `i + 2` of eight pairs.
    #[inline(always)]
    fn twos(simd: V4, x: __m512, y: __m512, add: &impl Fn(__m512, __m512) -> __m512) -> __m512 {
        let avx = simd.avx512f;
        add(avx._mm512_unpacklo_ps(x, y), avx._mm512_unpackhi_ps(x, y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::random::SplitMix64;

    /// The sum in the order that the module states.
    fn stated(row: &[f32], query: &[f32], squares: bool) -> f32 {
        let mut sums = [0.0f32; LANES];
        for (d, (&x, &q)) in row.iter().zip(query).enumerate() {
            let (a, b) = if squares { (q - x, q - x) } else { (q, x) };
            sums[d % LANES] = a.mul_add(b, sums[d % LANES]);
        }
        folded(sums)
    }

    struct Case {
        rows: Vec<f32>,
        queries: Vec<f32>,
        dim: usize,
        squares: bool,
    }

    impl Case {
        /// The bits of all sums, row by row, as `run` forms them.
        fn bits(&self, run: impl FnOnce(&Group, &mut dyn FnMut(usize, Sums))) -> Vec<u32> {
            let group = Group::new(&self.queries, self.dim);
            let (rows, count) = (self.rows.len() / self.dim, self.queries.len() / self.dim);
            let mut found = Vec::new();
            run(&group, &mut |first, sums| {
                assert_eq!(first * count, found.len());
                let sums = sums.chunks_exact(QUERIES).take(rows - first);
                found.extend(sums.flat_map(|sums| sums[..count].iter().map(|s| s.to_bits())));
            });
            found
        }

        /// Rows of half the bits give what they give when they are widened before.
        fn check_halves<T: Float>(&self, name: &str) {
            let halves: Vec<T> = self.rows.iter().map(|&x| T::from_f32(x)).collect();
            let rows = halves.iter().map(|x| x.to_f32()).collect();
            let wide = Case { rows, queries: self.queries.clone(), ..*self };
            let want = wide.bits(|g, put| each(g, &wide.rows, self.dim, self.squares, 0, put));
            let got = self.bits(|g, put| each(g, &halves, self.dim, self.squares, 0, put));
            assert_eq!(got, want, "{name}, {}", T::DTYPE);
        }

        /// With the instructions of `simd`.
        fn with<S: Simd>(&self, simd: S) -> Vec<u32> {
            let Case { rows, dim, .. } = self;
            let dim = *dim;
            self.bits(|group, put| {
                simd.vectorize(Scan { group, rows, dim, squares: self.squares, ahead: 0, put })
            })
        }
    }

    #[test]
    fn every_instruction_set_adds_in_the_stated_order() {
        let mut random = SplitMix64(11);
        let mut value = || (random.next() >> 40) as f32 / 1e6 - 8.0;
        for dim in [1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 100, 384] {
            for (count, n) in [(1, 1), (1, 9), (2, 4), (3, 6), (4, 3), (4, 8)] {
                for squares in [false, true] {
                    let mut draw = |n: usize| (0..n * dim).map(|_| value()).collect::<Vec<_>>();
                    let case = Case { rows: draw(n), queries: draw(count), dim, squares };
                    let want: Vec<u32> = case
                        .rows
                        .chunks_exact(dim)
                        .flat_map(|row| {
                            let each = case.queries.chunks_exact(dim);
                            each.map(|query| stated(row, query, squares).to_bits())
                        })
                        .collect();
                    let name = format!("{n} rows of {dim}, {count} queries, squares {squares}");
                    let best = case.bits(|g, put| each(g, &case.rows, dim, squares, 0, put));
                    assert_eq!(best, want, "{name}");
                    assert_eq!(case.with(pulp::Scalar::new()), want, "{name}");
                    case.check_halves::<half::f16>(&name);
                    case.check_halves::<half::bf16>(&name);
                    #[cfg(target_arch = "x86_64")]
                    if let Some(simd) = pulp::x86::V3::try_new() {
                        assert_eq!(case.with(simd), want, "{name}");
                    }
                }
            }
        }
    }
}
