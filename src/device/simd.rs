//! Instruction sets of CPUs beyond those that `pulp` names, and instructions that several operations share.

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Popcnt, Vnni, count_bytes};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256i, _mm512_dpbusd_epi32, _mm512_popcnt_epi32};

    use pulp::x86::V3;
    use pulp::{cast, u32x16};

    /// A set with all of pulp's `V4` and one more.
    macro_rules! avx512_with {
        ($(#[$doc:meta])* $name:ident, $field:ident: $feature:tt) => {
            pulp::simd_type! {
                $(#[$doc])*
                pub(crate) struct $name {
                    sse: "sse",
                    sse2: "sse2",
                    fxsr: "fxsr",
                    sse3: "sse3",
                    ssse3: "ssse3",
                    sse4_1: "sse4.1",
                    sse4_2: "sse4.2",
                    popcnt: "popcnt",
                    avx: "avx",
                    avx2: "avx2",
                    bmi1: "bmi1",
                    bmi2: "bmi2",
                    fma: "fma",
                    lzcnt: "lzcnt",
                    avx512f: "avx512f",
                    avx512bw: "avx512bw",
                    avx512cd: "avx512cd",
                    avx512dq: "avx512dq",
                    avx512vl: "avx512vl",
                    $field: $feature,
                }
            }
        };
    }

    avx512_with! {
        /// AVX-512 with the counts of set bits.
        Popcnt, vpopcntdq: "avx512vpopcntdq"
    }

    impl Popcnt {
        /// How many bits are set in each lane.
        #[inline(always)]
        #[allow(unsafe_code)]
        pub(crate) fn count_ones(self, x: u32x16) -> u32x16 {
            // SAFETY: a `Popcnt` is made only where the processor has the instruction.
            cast(unsafe { _mm512_popcnt_epi32(cast(x)) })
        }
    }

    avx512_with! {
        /// AVX-512 with dot products of bytes.
        Vnni, vnni: "avx512vnni"
    }

    impl Vnni {
        /// Adds to each lane the products of the four unsigned bytes of `a` with the four signed bytes of `b`.
        #[inline(always)]
        #[allow(unsafe_code)]
        pub(crate) fn dot(self, sums: u32x16, a: u32x16, b: u32x16) -> u32x16 {
            // SAFETY: a `Vnni` is made only where the processor has the instruction.
            cast(unsafe { _mm512_dpbusd_epi32(cast(sums), cast(a), cast(b)) })
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

    /// How many bits are set in each byte: AVX2 looks up the halves in a shuffle.
    #[inline(always)]
    pub(crate) fn count_bytes(simd: V3, bits: __m256i) -> __m256i {
        let (avx, avx2) = (simd.avx, simd.avx2);
        let (set, low) = (cast(SET), avx._mm256_set1_epi8(15));
        let first = avx2._mm256_and_si256(bits, low);
        let second = avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(bits), low);
        avx2._mm256_add_epi8(
            avx2._mm256_shuffle_epi8(set, first),
            avx2._mm256_shuffle_epi8(set, second),
        )
    }
}
