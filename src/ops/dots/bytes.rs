//! Sums of products of signed bytes, four to a word, of rows with a few queries: integers, and exact.
//!
//! Vector lanes are dimensions, as for [floats](super). VNNI multiplies unsigned bytes by signed ones: 128 is added to each of a
//! row's bytes, and 128 times the sum of a query's is taken off its sums.

use super::{QUERIES, ROWS, Sums};
use crate::device::cache::prefetch_after;
#[cfg(target_arch = "x86_64")]
use crate::ops::math::unroll;
use crate::ops::math::vectorize;

/// Up to [`QUERIES`] queries, as the instructions there are take them.
pub(crate) struct Group {
    queries: Queries,
    /// The number of queries: 1, 2 or 4. Three are padded with zeros.
    count: usize,
}

enum Queries {
    /// Padded with zeros to whole registers.
    #[cfg(target_arch = "x86_64")]
    Fours(x86::Fours),
    /// 16 bits each, padded to whole words of bytes.
    Twos(Vec<i16>),
}

impl Group {
    /// Of queries of `width` words, one after the other, of bytes from -127 to 127.
    pub(crate) fn new(queries: &[u32], width: usize) -> Group {
        #[cfg(target_arch = "x86_64")]
        if let Some(vnni) = crate::device::simd::Vnni::try_new() {
            let queries_of = x86::Fours::new(vnni, queries, width);
            return Group::of(Queries::Fours(queries_of), queries.len() / width);
        }
        Group::twos(queries, width)
    }

    fn twos(queries: &[u32], width: usize) -> Group {
        let bytes: &[i8] = bytemuck::cast_slice(queries);
        let mut twos: Vec<i16> = bytes.iter().map(|&b| b.into()).collect();
        let count = queries.len() / width;
        twos.resize(4 * width * count.next_power_of_two(), 0);
        Group::of(Queries::Twos(twos), count)
    }

    fn of(queries: Queries, count: usize) -> Group {
        debug_assert!((1..=QUERIES).contains(&count));
        Group { queries, count: count.next_power_of_two() }
    }
}

/// Gives `put` the sums of each of `rows`, `width` words each, with each query of a group, [`ROWS`] rows at a time with the
/// number of the first, as [`super::each`] does: as floats, rounded once.
pub(crate) fn each(
    group: &Group,
    rows: &[u32],
    width: usize,
    ahead: usize,
    mut put: impl FnMut(usize, Sums),
) {
    match (&group.queries, group.count) {
        #[cfg(target_arch = "x86_64")]
        (Queries::Fours(fours), 1) => fours.each::<1>(rows, ahead, put),
        #[cfg(target_arch = "x86_64")]
        (Queries::Fours(fours), 2) => fours.each::<2>(rows, ahead, put),
        #[cfg(target_arch = "x86_64")]
        (Queries::Fours(fours), _) => fours.each::<QUERIES>(rows, ahead, put),
        (Queries::Twos(queries), count) => vectorize(
            #[inline(always)]
            || {
                let bytes: &[i8] = bytemuck::cast_slice(rows);
                let rows = bytes.chunks(4 * width * ROWS).enumerate();
                for (tile, rows) in rows {
                    let mut sums = [0.0; ROWS * QUERIES];
                    for (r, row) in rows.chunks_exact(4 * width).enumerate() {
                        if ahead > 0 {
                            prefetch_after(row, ahead);
                        }
                        let all = queries.chunks_exact(4 * width).take(count);
                        for (sum, query) in sums[QUERIES * r..].iter_mut().zip(all) {
                            *sum = dot(row, query) as f32;
                        }
                    }
                    put(ROWS * tile, sums);
                }
            },
        ),
    }
}

/// Pairs of 16 bits, which compilers know an instruction for.
#[inline(always)]
fn dot(row: &[i8], query: &[i16]) -> i32 {
    row.iter().zip(query).map(|(&x, &q)| i32::from(x) * i32::from(q)).sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use pulp::x86::V4;
    use pulp::{Simd, cast, f32x16, i32x16, u32x16};

    use super::super::x86::fold;
    use super::{QUERIES, ROWS, Sums, prefetch_after, unroll};
    use crate::device::simd::Vnni;

    /// Words of a register.
    const WORDS: usize = 16;

    /// Queries for VNNI.
    pub(super) struct Fours {
        vnni: Vnni,
        words: Vec<u32x16>,
        /// Words of a row, registers of a query.
        width: usize,
        registers: usize,
        /// What is too much in each sum of a tile.
        excess: i32x16,
    }

    impl Fours {
        pub(super) fn new(vnni: Vnni, queries: &[u32], width: usize) -> Fours {
            let registers = width.div_ceil(WORDS);
            let count = (queries.len() / width).next_power_of_two();
            let mut words = vec![cast::<_, u32x16>([0u32; WORDS]); registers * count];
            let mut excess = [0; ROWS * QUERIES];
            let each = words.chunks_exact_mut(registers).zip(queries.chunks_exact(width));
            for (q, (to, query)) in each.enumerate() {
                bytemuck::cast_slice_mut(to)[..width].copy_from_slice(query);
                let bytes: &[i8] = bytemuck::cast_slice(query);
                let sum = bytes.iter().map(|&b| i32::from(b)).sum::<i32>();
                excess.iter_mut().skip(q).step_by(QUERIES).for_each(|e| *e = 128 * sum);
            }
            Fours { vnni, words, width, registers, excess: cast(excess) }
        }

        pub(super) fn each<const Q: usize>(
            &self,
            rows: &[u32],
            ahead: usize,
            put: impl FnMut(usize, Sums),
        ) {
            // A processor with VNNI has the rest.
            let Some(simd) = V4::try_new() else { return };
            self.vnni.vectorize(
                #[inline(always)]
                || self.tiles::<Q>(simd, rows, ahead, put),
            );
        }

        #[inline(always)]
        fn tiles<const Q: usize>(
            &self,
            simd: V4,
            rows: &[u32],
            ahead: usize,
            mut put: impl FnMut(usize, Sums),
        ) {
            let count = rows.len() / self.width;
            let whole = self.width / WORDS;
            // Queries beyond Q are not read.
            let q = |v: usize| &self.words[v.min(Q - 1) * self.registers..][..self.registers];
            let q = [q(0), q(1), q(2), q(3)];
            let flip = simd.splat_u32s(0x8080_8080);
            for first in (0..count).step_by(ROWS) {
                let row = |r: usize| {
                    let at = (first + r).min(count - 1) * self.width;
                    rows[at..][..self.width].as_chunks::<WORDS>()
                };
                let all = [row(0), row(1), row(2), row(3)];
                let x = [0, 1, 2, 3].map(|r| &all[r].0[..whole]);
                let mut sums = [[simd.splat_u32s(0); QUERIES]; ROWS];
                macro_rules! step {
                    ($b:expr, $r:ident => $x:expr) => {
                        unroll!($r in 0 1 2 3 => {
                            let x = simd.xor_u32s($x, flip);
                            unroll!(v in 0 1 2 3 => {
                                if v < Q {
                                    sums[$r][v] = self.vnni.dot(sums[$r][v], x, q[v][$b]);
                                }
                            });
                        });
                    };
                }
                for b in 0..whole {
                    if ahead > 0 {
                        unroll!(r in 0 1 2 3 => { prefetch_after(&x[r][b], ahead) });
                    }
                    step!(b, r => cast(x[r][b]));
                }
                if whole < self.registers {
                    step!(whole, r => simd.partial_load_u32s(all[r].1));
                }
                let avx = simd.avx512f;
                let all = fold(
                    simd,
                    #[inline(always)]
                    |i| cast(sums[i / QUERIES][i % QUERIES]),
                    #[inline(always)]
                    |a, b| cast(avx._mm512_add_epi32(cast(a), cast(b))),
                );
                let exact = avx._mm512_sub_epi32(cast(all), cast(self.excess));
                let floats: f32x16 = cast(avx._mm512_cvtepi32_ps(exact));
                put(first, bytemuck::cast(floats));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::random::SplitMix64;

    #[test]
    fn every_instruction_set_forms_the_exact_sums() {
        let mut random = SplitMix64(7);
        for dim in [1usize, 4, 31, 64, 100, 128, 516, 4096] {
            for (rows, queries) in [(1, 1), (2, 2), (5, 3), (9, 4)] {
                let width = dim.div_ceil(4);
                let mut bytes = |count: usize, lowest: i8| -> Vec<u32> {
                    let mut all = vec![0u32; count * width];
                    for row in all.chunks_mut(width) {
                        let row: &mut [i8] = bytemuck::cast_slice_mut(row);
                        row[..dim].fill_with(|| match random.next() % 3 {
                            0 => lowest,
                            1 => 127,
                            _ => (random.next() as i8).max(lowest),
                        });
                    }
                    all
                };
                let (xs, qs) = (bytes(rows, -128), bytes(queries, -127));
                let mut groups = vec![Group::twos(&qs, width)];
                groups.push(Group::new(&qs, width));
                for group in groups {
                    let mut seen = 0;
                    each(&group, &xs, width, 0, |first, sums| {
                        assert_eq!(first, seen);
                        for (r, sums) in sums.chunks(QUERIES).take(rows - first).enumerate() {
                            let x: &[i8] =
                                bytemuck::cast_slice(&xs[(first + r) * width..][..width]);
                            for (q, &got) in sums.iter().take(queries).enumerate() {
                                let q: &[i8] = bytemuck::cast_slice(&qs[q * width..][..width]);
                                let want: i64 =
                                    x.iter().zip(q).map(|(&a, &b)| a as i64 * b as i64).sum();
                                assert_eq!(got, want as f32, "{dim} dimensions");
                            }
                            seen += 1;
                        }
                    });
                    assert_eq!(seen, rows);
                }
            }
        }
    }
}
