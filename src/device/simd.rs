//! Instruction sets of CPUs beyond those that `pulp` names, and their instructions.

#[cfg(target_arch = "x86_64")]
pub(crate) use popcnt::Popcnt;
#[cfg(target_arch = "x86_64")]
pub(crate) use vnni::Vnni;

#[cfg(target_arch = "x86_64")]
mod popcnt {
    use std::arch::x86_64::_mm512_popcnt_epi32;

    use pulp::u32x16;

    pulp::simd_type! {
        /// AVX-512 with the counts of set bits.
        pub(crate) struct Popcnt {
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
            vpopcntdq: "avx512vpopcntdq",
        }
    }

    impl Popcnt {
        /// How many bits are set in each lane.
        #[inline(always)]
        pub(crate) fn count_ones(self, x: u32x16) -> u32x16 {
            #[allow(unsafe_code)]
            // SAFETY: there is a `Popcnt` only where the CPU has the instruction.
            let counts = unsafe { _mm512_popcnt_epi32(pulp::cast(x)) };
            pulp::cast(counts)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::_mm512_dpbusd_epi32;

    use pulp::{cast, u32x16};

    pulp::simd_type! {
        /// AVX-512 with dot products of bytes.
        pub(crate) struct Vnni {
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
            vnni: "avx512vnni",
        }
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
}
