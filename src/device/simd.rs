//! Instructions of CPUs that `pulp` has no safe form of, and the sets that they are of.

#[cfg(target_arch = "x86_64")]
pub(crate) use popcnt::Popcnt;

/// Asks for what lies `ahead` bytes after each line of `data`, to be brought into the second-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch<T>(data: &[T], ahead: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in (0..size_of_val(data)).step_by(64) {
        let address = data.as_ptr().cast::<i8>().wrapping_add(ahead + line);
        #[allow(unsafe_code)]
        // SAFETY: every x86-64 has the instruction, and it reads nothing: it takes any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(address);
        }
    }
}

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
