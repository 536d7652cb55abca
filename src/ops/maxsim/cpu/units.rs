//! The instructions that multiply words of query tokens, side by side, with a word of a document token.

use pulp::Simd;

/// Instructions for words of a kind.
pub(super) trait Unit: Copy {
    /// The set they are from, for what is done with the sums.
    type Simd: Simd;
    /// A word of as many query tokens as there are lanes, or their sums.
    type Vector: Copy;

    /// Vectors of sums that leave registers for all else.
    const SUMS: usize;

    fn simd(self) -> Self::Simd;

    fn vectors(words: &[u32]) -> &[Self::Vector];

    /// A document token's word in all lanes.
    fn splat(self, word: u32) -> Self::Vector;

    /// The sums with the products of the words.
    fn add(self, sums: Self::Vector, queries: Self::Vector, token: Self::Vector) -> Self::Vector;

    /// The products of tokens of `dim` dimensions, of complete sums.
    fn floats(self, sums: Self::Vector, dim: usize) -> <Self::Simd as Simd>::f32s;
}

/// Products of f32.
#[derive(Clone, Copy)]
pub(super) struct Floats<S>(pub(super) S);

impl<S: Simd> Unit for Floats<S> {
    type Simd = S;
    type Vector = S::f32s;

    // AVX2 has half the registers of the others.
    const SUMS: usize = if S::F32_LANES == 8 { 12 } else { 24 };

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    fn vectors(words: &[u32]) -> &[S::f32s] {
        S::as_simd_f32s(bytemuck::cast_slice(words)).0
    }

    #[inline(always)]
    fn splat(self, word: u32) -> S::f32s {
        self.0.splat_f32s(f32::from_bits(word))
    }

    #[inline(always)]
    fn add(self, sums: S::f32s, queries: S::f32s, token: S::f32s) -> S::f32s {
        self.0.mul_add_f32s(queries, token, sums)
    }

    #[inline(always)]
    fn floats(self, sums: S::f32s, _: usize) -> S::f32s {
        sums
    }
}

/// Products of bits: sums are what differs, negative.
#[derive(Clone, Copy)]
pub(super) struct Bits<S>(pub(super) S);

impl<S: Simd> Unit for Bits<S> {
    type Simd = S;
    type Vector = S::u32s;

    const SUMS: usize = 12;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    fn vectors(words: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(words).0
    }

    #[inline(always)]
    fn splat(self, word: u32) -> S::u32s {
        self.0.splat_u32s(word)
    }

    #[inline(always)]
    fn add(self, sums: S::u32s, queries: S::u32s, token: S::u32s) -> S::u32s {
        let mut differ = self.0.xor_u32s(queries, token);
        let lanes: &mut [u32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut differ));
        lanes.iter_mut().for_each(|lane| *lane = lane.count_ones());
        self.0.sub_u32s(sums, differ)
    }

    #[inline(always)]
    fn floats(self, sums: S::u32s, dim: usize) -> S::f32s {
        let mut products = self.0.splat_f32s(0.0);
        let to: &mut [f32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut products));
        let from: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&sums));
        let product = |sum: u32| (dim as i32 + 2 * sum as i32) as f32;
        to.iter_mut().zip(from).for_each(|(to, from)| *to = product(*from));
        products
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use pulp::x86::{V3, V4};
    use pulp::{NullaryFnOnce, Simd, cast, f32x8, f32x16, u32x8, u32x16};

    use super::Unit;
    use crate::device::simd::{Popcnt, Vnni, count_bytes};

    /// What is the same of all units of a vector type.
    macro_rules! shared {
        ($simd:ident, $vector:ty, $sums:literal) => {
            type Simd = $simd;
            type Vector = $vector;

            const SUMS: usize = $sums;

            #[inline(always)]
            fn simd(self) -> $simd {
                self.simd
            }

            #[inline(always)]
            fn vectors(words: &[u32]) -> &[$vector] {
                $simd::as_simd_u32s(words).0
            }

            #[inline(always)]
            fn splat(self, word: u32) -> $vector {
                self.simd.splat_u32s(word)
            }
        };
    }

    /// Integers as floats.
    #[inline(always)]
    fn floats16(simd: V4, sums: u32x16) -> f32x16 {
        cast(simd.avx512f._mm512_cvtepi32_ps(cast(sums)))
    }

    #[inline(always)]
    fn floats8(simd: V3, sums: u32x8) -> f32x8 {
        cast(simd.avx._mm256_cvtepi32_ps(cast(sums)))
    }

    /// `dim + 2 sums`.
    #[inline(always)]
    fn agreement<S: Simd>(simd: S, sums: S::f32s, dim: usize) -> S::f32s {
        simd.mul_add_f32s(sums, simd.splat_f32s(2.0), simd.splat_f32s(dim as f32))
    }

    /// Bytes by AVX-512 with VNNI. Sums start with what the 128 added to each of a document's bytes adds.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Fours {
        simd: V4,
        vnni: Vnni,
    }

    impl Fours {
        pub(in super::super) fn try_new() -> Option<Fours> {
            Some(Fours { simd: V4::try_new()?, vnni: Vnni::try_new()? })
        }

        #[inline(always)]
        pub(in super::super) fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output {
            self.vnni.vectorize(f)
        }
    }

    impl Unit for Fours {
        shared!(V4, u32x16, 24);

        #[inline(always)]
        fn add(self, sums: u32x16, queries: u32x16, token: u32x16) -> u32x16 {
            self.vnni.dot(sums, token, queries)
        }

        #[inline(always)]
        fn floats(self, sums: u32x16, _: usize) -> f32x16 {
            floats16(self.simd, sums)
        }
    }

    /// Pairs of 16 bits by AVX2.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Twos {
        simd: V3,
    }

    impl Twos {
        pub(in super::super) fn try_new() -> Option<Twos> {
            Some(Twos { simd: V3::try_new()? })
        }

        #[inline(always)]
        pub(in super::super) fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output {
            self.simd.vectorize(f)
        }
    }

    impl Unit for Twos {
        shared!(V3, u32x8, 12);

        #[inline(always)]
        fn add(self, sums: u32x8, queries: u32x8, token: u32x8) -> u32x8 {
            let products = self.simd.avx2._mm256_madd_epi16(cast(queries), cast(token));
            self.simd.add_u32s(sums, cast(products))
        }

        #[inline(always)]
        fn floats(self, sums: u32x8, _: usize) -> f32x8 {
            floats8(self.simd, sums)
        }
    }

    /// Bits by AVX-512 with counts of bits.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Counts {
        simd: V4,
        popcnt: Popcnt,
    }

    impl Counts {
        pub(in super::super) fn try_new() -> Option<Counts> {
            Some(Counts { simd: V4::try_new()?, popcnt: Popcnt::try_new()? })
        }

        #[inline(always)]
        pub(in super::super) fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output {
            self.popcnt.vectorize(f)
        }
    }

    impl Unit for Counts {
        shared!(V4, u32x16, 24);

        #[inline(always)]
        fn add(self, sums: u32x16, queries: u32x16, token: u32x16) -> u32x16 {
            let differ = self.simd.xor_u32s(queries, token);
            self.simd.sub_u32s(sums, self.popcnt.count_ones(differ))
        }

        #[inline(always)]
        fn floats(self, sums: u32x16, dim: usize) -> f32x16 {
            agreement(self.simd, floats16(self.simd, sums), dim)
        }
    }

    /// Bits by AVX2, which looks up the counts of half bytes in a shuffle.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Lookups {
        simd: V3,
    }

    impl Lookups {
        pub(in super::super) fn try_new() -> Option<Lookups> {
            Some(Lookups { simd: V3::try_new()? })
        }

        #[inline(always)]
        pub(in super::super) fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output {
            self.simd.vectorize(f)
        }
    }

    impl Unit for Lookups {
        shared!(V3, u32x8, 8);

        #[inline(always)]
        fn add(self, sums: u32x8, queries: u32x8, token: u32x8) -> u32x8 {
            let (avx, avx2) = (self.simd.avx, self.simd.avx2);
            let bytes = count_bytes(self.simd, cast(self.simd.xor_u32s(queries, token)));
            // The four bytes of a lane, added.
            let pairs = avx2._mm256_maddubs_epi16(bytes, avx._mm256_set1_epi8(1));
            let less = avx2._mm256_madd_epi16(pairs, avx._mm256_set1_epi16(-1));
            self.simd.add_u32s(sums, cast(less))
        }

        #[inline(always)]
        fn floats(self, sums: u32x8, dim: usize) -> f32x8 {
            agreement(self.simd, floats8(self.simd, sums), dim)
        }
    }
}
