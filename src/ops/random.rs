//! Reproducible random numbers: the same seed gives the same numbers on every machine.

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), from its state on.
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    /// 64 uniform bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1: uniform but for a share of 2^-64 n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}
