//! Hamming distances of 32 codes, side by side, from queries, in the [`Way`] that suits the machine.
//!
//! AVX-512 with VPOPCNTDQ counts the bits of 16 codes' words in one instruction; four queries share what is loaded. AVX2
//! counts the bits of bytes by looking up their halves in a shuffle, and adds bytes across a word once at the end: compilers
//! add across after every word, which takes three times as long.

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

#[cfg(target_arch = "x86_64")]
use crate::device::simd::Popcnt;
use crate::ops::math::vectorize;

/// Codes side by side.
pub(super) const BLOCK: usize = 32;

/// How bits are counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    #[cfg(target_arch = "x86_64")]
    Avx512(Popcnt, V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    Portable,
}

impl Way {
    /// The fastest of this machine.
    pub(super) fn best() -> Way {
        Way::all().next().unwrap_or(Way::Portable)
    }

    /// Those of this machine, the fastest first.
    pub(super) fn all() -> impl Iterator<Item = Way> {
        #[cfg(target_arch = "x86_64")]
        let written = {
            let avx512 = Popcnt::try_new().zip(V4::try_new());
            [avx512.map(|(set, simd)| Way::Avx512(set, simd)), V3::try_new().map(Way::Avx2)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let written = [None; 0];
        written.into_iter().flatten().chain([Way::Portable])
    }

    /// Lays up to 32 rows of words side by side: word `w` of row `i` at `to[w][i]`. Lanes without a row hold anything.
    pub(super) fn lay(self, rows: &[u32], to: &mut [[u32; BLOCK]]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512(_, simd) => simd.vectorize(x86::Lay { simd: *simd, rows, to }),
            #[cfg(target_arch = "x86_64")]
            Way::Avx2(simd) => simd.vectorize(x86::Lay { simd, rows, to }),
            Way::Portable => lay(rows, 0, 0, to),
        }
    }

    /// Calls `put` with each query that a code is nearer to than its limit, in order: with the query's number, a bit for each
    /// such code, and the distances of all. It gives the query's next limit. `rows` are up to 32 codes, `room` is for
    /// them side by side, as long as a code; `queries` has a code for each limit.
    #[inline(always)]
    pub(super) fn below(
        self,
        rows: &[u32],
        room: &mut [[u32; BLOCK]],
        queries: &[u32],
        limits: &mut [u32],
        mut put: impl FnMut(usize, u32, &[u32; BLOCK]) -> u32,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let (Way::Avx512(set, simd), [limit]) = (self, &mut *limits) {
            let put = |below, counts: &_| put(0, below, counts);
            return set.vectorize(x86::One { set, simd, rows, query: queries, limit, put });
        }
        self.lay(rows, room);
        let lanes = u32::MAX >> (BLOCK - rows.len() / room.len());
        let block = Block { lanes, codes: room, queries, limits };
        match self {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512(set, simd) => set.vectorize(x86::Avx512 { set, simd, block, put }),
            #[cfg(target_arch = "x86_64")]
            Way::Avx2(simd) => simd.vectorize(x86::Avx2 { simd, block, put }),
            Way::Portable => vectorize(
                #[inline(always)]
                || {
                    let queries = block.queries.chunks_exact(block.codes.len());
                    for (q, (query, limit)) in queries.zip(block.limits).enumerate() {
                        let counts = counted(block.codes, query);
                        let bits = counts.iter().enumerate();
                        let below = bits.fold(0, |all, (i, d)| all | ((d < limit) as u32) << i);
                        if below & block.lanes != 0 {
                            *limit = put(q, below & block.lanes, &counts);
                        }
                    }
                },
            ),
        }
    }
}

/// Codes side by side, with those whose distances are wanted.
struct Block<'a> {
    /// A bit for each lane that has a code.
    lanes: u32,
    codes: &'a [[u32; BLOCK]],
    queries: &'a [u32],
    limits: &'a mut [u32],
}

/// Lays the words from `word` on of the rows side by side, the first row at `lane`.
fn lay(rows: &[u32], lane: usize, word: usize, to: &mut [[u32; BLOCK]]) {
    for (lane, row) in (lane..).zip(rows.chunks_exact(to.len())) {
        to.iter_mut().zip(row).skip(word).for_each(|(to, &w)| to[lane] = w);
    }
}

#[inline(always)]
fn counted(codes: &[[u32; BLOCK]], query: &[u32]) -> [u32; BLOCK] {
    let mut counts = [0; BLOCK];
    for (codes, &q) in codes.iter().zip(query) {
        for (count, code) in counts.iter_mut().zip(codes) {
            *count += (code ^ q).count_ones();
        }
    }
    counts
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::x86::{V3, V4};
    use pulp::{NullaryFnOnce, Simd, u32x16};

    use super::{BLOCK, Block};
    use crate::device::cache::prefetch_after;
    use crate::device::simd::{Popcnt, count_bytes};

    /// Codes in a register of AVX2, and registers that 32 codes take.
    const LANES: usize = 8;
    const REGISTERS: usize = BLOCK / LANES;
    /// How many bytes ahead memory is asked for codes, as measured.
    const AHEAD: usize = 8 << 10;

    /// Lays eight rows and four words at a time: rows `i` and `i + 4` share a register, and words are exchanged within halves.
    pub(super) struct Lay<'a> {
        pub(super) simd: V3,
        pub(super) rows: &'a [u32],
        pub(super) to: &'a mut [[u32; BLOCK]],
    }

    impl NullaryFnOnce for Lay<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Lay { simd, rows, to } = self;
            let (words, avx, avx2) = (to.len(), simd.avx, simd.avx2);
            let eights = rows.chunks_exact(8 * words);
            super::lay(eights.remainder(), rows.len() / words / 8 * 8, 0, to);
            for (part, rows) in eights.enumerate() {
                prefetch_after(rows, AHEAD);
                let fours: [&[[u32; 4]]; 8] =
                    std::array::from_fn(|i| rows[i * words..][..words].as_chunks().0);
                for (w, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let half = |i: usize| -> __m128i { bytemuck::cast(fours[i][w]) };
                    let both = |i: usize| avx._mm256_set_m128i(half(i + 4), half(i));
                    let low = |a, b| avx2._mm256_unpacklo_epi32(a, b);
                    let high = |a, b| avx2._mm256_unpackhi_epi32(a, b);
                    let (a, b, c, d) = (both(0), both(1), both(2), both(3));
                    let twos = [(low(a, b), low(c, d)), (high(a, b), high(c, d))];
                    for (to, (ab, cd)) in to.as_chunks_mut::<2>().0.iter_mut().zip(twos) {
                        let first = avx2._mm256_unpacklo_epi64(ab, cd);
                        let second = avx2._mm256_unpackhi_epi64(ab, cd);
                        to[0].as_chunks_mut::<LANES>().0[part] = bytemuck::cast(first);
                        to[1].as_chunks_mut::<LANES>().0[part] = bytemuck::cast(second);
                    }
                }
                super::lay(rows, LANES * part, words / 4 * 4, to);
            }
        }
    }

    /// One query: the bits are counted row by row. To lay rows side by side takes longer than to read them.
    pub(super) struct One<'a, F> {
        pub(super) set: Popcnt,
        pub(super) simd: V4,
        pub(super) rows: &'a [u32],
        pub(super) query: &'a [u32],
        pub(super) limit: &'a mut u32,
        pub(super) put: F,
    }

    impl<F: FnMut(u32, &[u32; BLOCK]) -> u32> NullaryFnOnce for One<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call(mut self) {
            let (set, simd) = (self.set, self.simd);
            let (query, tail) = self.query.as_chunks::<16>();
            let tail = simd.partial_load_u32s(tail);
            // No distance is as great, nor below any limit.
            let mut counts = [u32::MAX; BLOCK];
            for (count, row) in counts.iter_mut().zip(self.rows.chunks_exact(self.query.len())) {
                prefetch_after(row, AHEAD);
                let (row, rest) = row.as_chunks::<16>();
                let mut sum = simd.splat_u32s(0);
                if !rest.is_empty() {
                    let rest = simd.partial_load_u32s(rest);
                    sum = set.count_ones(simd.xor_u32s(rest, tail));
                }
                for (row, query) in row.iter().zip(query) {
                    let bits = simd.xor_u32s(bytemuck::cast(*row), bytemuck::cast(*query));
                    sum = simd.add_u32s(sum, set.count_ones(bits));
                }
                *count = bytemuck::cast::<_, [u32; 16]>(sum).iter().sum();
            }
            let below = below(simd, bytemuck::cast(counts), *self.limit);
            if below != 0 {
                *self.limit = (self.put)(below, &counts);
            }
        }
    }

    /// A bit for each count below a limit.
    #[inline(always)]
    fn below(simd: V4, counts: [u32x16; 2], limit: u32) -> u32 {
        let limit = simd.splat_u32s(limit);
        let [low, high] = counts.map(|c| u32::from(simd.less_than_u32s(c, limit).0));
        low | high << 16
    }

    /// Any queries: four of them share what is loaded of the codes.
    pub(super) struct Avx512<'a, F> {
        pub(super) set: Popcnt,
        pub(super) simd: V4,
        pub(super) block: Block<'a>,
        pub(super) put: F,
    }

    impl<F: FnMut(usize, u32, &[u32; BLOCK]) -> u32> NullaryFnOnce for Avx512<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call(mut self) {
            let count = self.block.limits.len();
            let fours = count / 4 * 4;
            (0..fours).step_by(4).for_each(|q| self.count::<4>(q));
            (fours..count).for_each(|q| self.count::<1>(q));
        }
    }

    impl<F: FnMut(usize, u32, &[u32; BLOCK]) -> u32> Avx512<'_, F> {
        #[inline(always)]
        fn count<const QUERIES: usize>(&mut self, first: usize) {
            let (set, simd, block) = (self.set, self.simd, &mut self.block);
            let words = block.codes.len();
            let queries: [&[u32]; QUERIES] =
                std::array::from_fn(|i| &block.queries[(first + i) * words..][..words]);
            let mut counts = [[simd.splat_u32s(0); 2]; QUERIES];
            for (w, codes) in block.codes.iter().enumerate() {
                let codes: [u32x16; 2] = bytemuck::cast(*codes);
                for (counts, query) in counts.iter_mut().zip(queries) {
                    let query = simd.splat_u32s(query[w]);
                    for (count, code) in counts.iter_mut().zip(codes) {
                        let ones = set.count_ones(simd.xor_u32s(code, query));
                        *count = simd.add_u32s(*count, ones);
                    }
                }
            }
            for (q, counts) in (first..).zip(counts) {
                let below = below(simd, counts, block.limits[q]) & block.lanes;
                if below != 0 {
                    block.limits[q] = (self.put)(q, below, &bytemuck::cast(counts));
                }
            }
        }
    }

    /// Words whose bits a byte can count.
    const WORDS: usize = u8::MAX as usize / 8;

    pub(super) struct Avx2<'a, F> {
        pub(super) simd: V3,
        pub(super) block: Block<'a>,
        pub(super) put: F,
    }

    impl<F: FnMut(usize, u32, &[u32; BLOCK]) -> u32> NullaryFnOnce for Avx2<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call(mut self) {
            let (avx, avx2, block) = (self.simd.avx, self.simd.avx2, self.block);
            let queries = block.queries.chunks_exact(block.codes.len());
            for (q, (query, limit)) in queries.zip(block.limits).enumerate() {
                let counts = counted(self.simd, block.codes, query);
                // The greatest distance is far below either.
                let least = avx._mm256_set1_epi32((*limit).min(i32::MAX as u32) as i32);
                let below = counts.iter().enumerate().fold(0, |all, (i, &count)| {
                    let less = bytemuck::cast(avx2._mm256_cmpgt_epi32(least, count));
                    all | (avx._mm256_movemask_ps(less) as u32) << (LANES * i)
                });
                if below & block.lanes != 0 {
                    *limit = (self.put)(q, below & block.lanes, &bytemuck::cast(counts));
                }
            }
        }
    }

    #[inline(always)]
    fn counted(simd: V3, codes: &[[u32; BLOCK]], query: &[u32]) -> [__m256i; REGISTERS] {
        let (avx, avx2) = (simd.avx, simd.avx2);
        let zero = avx._mm256_setzero_si256();
        let (bytes, pairs) = (avx._mm256_set1_epi8(1), avx._mm256_set1_epi16(1));
        let mut sums = [zero; REGISTERS];
        for (codes, query) in codes.chunks(WORDS).zip(query.chunks(WORDS)) {
            let mut counts = [zero; REGISTERS];
            for (codes, &q) in codes.iter().zip(query) {
                let codes: [__m256i; REGISTERS] = bytemuck::cast(*codes);
                let q = avx._mm256_set1_epi32(q as i32);
                for (count, code) in counts.iter_mut().zip(codes) {
                    let bits = avx2._mm256_xor_si256(code, q);
                    *count = avx2._mm256_add_epi8(*count, count_bytes(simd, bits));
                }
            }
            for (sum, count) in sums.iter_mut().zip(counts) {
                let twos = avx2._mm256_maddubs_epi16(count, bytes);
                *sum = avx2._mm256_add_epi32(*sum, avx2._mm256_madd_epi16(twos, pairs));
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_counting_gives_the_same() {
        let mut random = crate::ops::random::SplitMix64(7);
        for words in [1, 2, 3, 4, 7, 16, 31, 32, 63, 140] {
            // Few and many bits differ: the longest codes do not fit a byte's count.
            let mut word =
                |i: usize| if i.is_multiple_of(3) { u32::MAX } else { random.next() as u32 };
            let queries: Vec<u32> = (0..6 * words).map(&mut word).chain(vec![0; words]).collect();
            for rows in [1, 7, 8, 27, BLOCK] {
                let codes: Vec<u32> = (0..rows * words).map(&mut word).collect();
                let naive = |q: usize, row: usize| -> u32 {
                    let code = &codes[row * words..][..words];
                    let query = &queries[q * words..][..words];
                    code.iter().zip(query).map(|(c, q)| (c ^ q).count_ones()).sum()
                };
                for way in Way::all() {
                    // One query takes a way of its own, four share a loop.
                    for count in [1, 3, 7] {
                        // No distance is below 0, and every one below the greatest limit.
                        let middle = naive(3, 0);
                        let all = [middle, 0, u32::MAX, middle, u32::MAX, middle, u32::MAX];
                        let before = &all[7 - count..];
                        let queries = &queries[(7 - count) * words..];
                        let (mut room, mut limits) = (vec![[0; BLOCK]; words], before.to_vec());
                        let mut seen = Vec::new();
                        way.below(&codes, &mut room, queries, &mut limits, |q, below, found| {
                            let want: Vec<u32> =
                                (0..rows).map(|row| naive(7 - count + q, row)).collect();
                            assert_eq!(found[..rows], want, "{way:?}");
                            seen.push((q, below));
                            q as u32
                        });
                        let bit = |q, row| ((naive(7 - count + q, row) < before[q]) as u32) << row;
                        let want = (0..count).map(|q| (q, (0..rows).map(|row| bit(q, row)).sum()));
                        let want: Vec<(usize, u32)> = want.filter(|w| w.1 != 0).collect();
                        assert_eq!(seen, want, "{way:?}: {words} words, {rows} rows");
                        for q in 0..count {
                            let put = seen.iter().any(|s| s.0 == q);
                            assert_eq!(limits[q], if put { q as u32 } else { before[q] });
                        }
                    }
                }
            }
        }
    }
}
