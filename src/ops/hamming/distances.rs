//! Hamming distances of 32 codes, side by side, from queries: AVX2 written out where there is AVX2, else popcounts.
//!
//! AVX2 counts the bits of bytes by looking up their halves in a shuffle, and adds bytes across a code once at the end;
//! compilers add across after every word, which takes three times as long.

use crate::ops::math::vectorize;

/// Codes side by side.
pub(super) const BLOCK: usize = 32;

/// Gives `put` the distances of the codes from each query, in order. `codes` are 64-bit words of the 32 codes side by side,
/// and `queries` as many words each, one after the other.
#[inline(always)]
pub(super) fn distances(
    codes: &[[u64; BLOCK]],
    queries: &[u64],
    mut put: impl FnMut(usize, &[u64; BLOCK]),
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(x86::Distances { simd, codes, queries, put });
    }
    vectorize(
        #[inline(always)]
        || {
            for (q, query) in queries.chunks_exact(codes.len()).enumerate() {
                put(q, &counted(codes, query));
            }
        },
    );
}

#[inline(always)]
fn counted(codes: &[[u64; BLOCK]], query: &[u64]) -> [u64; BLOCK] {
    let mut counts = [0u64; BLOCK];
    for (codes, &q) in codes.iter().zip(query) {
        for (count, code) in counts.iter_mut().zip(codes) {
            *count += u64::from((code ^ q).count_ones());
        }
    }
    counts
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::__m256i;

    use pulp::NullaryFnOnce;
    use pulp::x86::V3;

    use super::BLOCK;

    /// Codes in a register, and registers whose counts are kept at a time.
    const LANES: usize = 4;
    const REGISTERS: usize = 4;
    /// Words whose bits a byte can count.
    const WORDS: usize = u8::MAX as usize / 8;

    pub(super) struct Distances<'a, F> {
        pub(super) simd: V3,
        pub(super) codes: &'a [[u64; BLOCK]],
        pub(super) queries: &'a [u64],
        pub(super) put: F,
    }

    impl<F: FnMut(usize, &[u64; BLOCK])> NullaryFnOnce for Distances<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call(mut self) {
            for (q, query) in self.queries.chunks_exact(self.codes.len()).enumerate() {
                (self.put)(q, &counted(self.simd, self.codes, query));
            }
        }
    }

    /// Bits that are set in a half of a byte, for both halves of a register.
    const SET: [u8; 32] = {
        let mut set = [0; 32];
        let mut i = 0;
        while i < 32 {
            set[i] = (i as u8 % 16).count_ones() as u8;
            i += 1;
        }
        set
    };

    #[inline(always)]
    pub(super) fn counted(simd: V3, codes: &[[u64; BLOCK]], query: &[u64]) -> [u64; BLOCK] {
        let (avx, avx2) = (simd.avx, simd.avx2);
        let set: __m256i = bytemuck::cast(SET);
        let (low, zero) = (avx._mm256_set1_epi8(15), avx._mm256_setzero_si256());
        let mut sums = [zero; BLOCK / LANES];
        for (codes, query) in codes.chunks(WORDS).zip(query.chunks(WORDS)) {
            for (part, sums) in sums.as_chunks_mut::<REGISTERS>().0.iter_mut().enumerate() {
                let mut counts = [zero; REGISTERS];
                for (codes, &q) in codes.iter().zip(query) {
                    let codes: &[[u64; LANES]; BLOCK / LANES] = bytemuck::cast_ref(codes);
                    let q = avx._mm256_set1_epi64x(q as i64);
                    for (i, count) in counts.iter_mut().enumerate() {
                        let code = bytemuck::cast(codes[REGISTERS * part + i]);
                        let bits = avx2._mm256_xor_si256(code, q);
                        let first = avx2._mm256_and_si256(bits, low);
                        let second = avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(bits), low);
                        let both = avx2._mm256_add_epi8(
                            avx2._mm256_shuffle_epi8(set, first),
                            avx2._mm256_shuffle_epi8(set, second),
                        );
                        *count = avx2._mm256_add_epi8(*count, both);
                    }
                }
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum = avx2._mm256_add_epi64(*sum, avx2._mm256_sad_epu8(count, zero));
                }
            }
        }
        bytemuck::cast(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_counting_gives_the_same() {
        let mut random = crate::ops::random::SplitMix64(7);
        for words in [1, 2, 3, 16, 31, 32, 70] {
            // Few and many bits differ: the longest codes do not fit a byte's count.
            let mut word = |i: usize| if i.is_multiple_of(3) { u64::MAX } else { random.next() };
            let codes: Vec<[u64; BLOCK]> =
                (0..words).map(|_| std::array::from_fn(&mut word)).collect();
            let queries: Vec<u64> = (0..3 * words).map(word).chain(vec![0; words]).collect();
            let mut seen = 0;
            distances(&codes, &queries, |q, found| {
                let query = &queries[q * words..][..words];
                assert_eq!(*found, counted(&codes, query), "{words} words");
                let naive = |lane: usize| -> u32 {
                    codes.iter().zip(query).map(|(c, q)| (c[lane] ^ q).count_ones()).sum()
                };
                assert!((0..BLOCK).all(|lane| found[lane] == u64::from(naive(lane))));
                seen += 1;
            });
            assert_eq!(seen, 4);
        }
    }
}
