//! How many passes a shared-memory access takes: 32 banks, 4 bytes wide.

use super::lanes;

/// The passes of one access, and the fewest that so many distinct words could take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wavefronts {
    pub taken: u32,
    pub ideal: u32,
}

/// Counts the passes of a warp's access of `bytes` a lane, at addresses that are multiples of `bytes`.
///
/// Lanes with 8 bytes are served in halves of the warp, lanes with 16 bytes in quarters. Within a pass, a bank delivers
/// one word, to as many lanes as want it.
pub fn wavefronts(mask: u32, addresses: &[u64; 32], bytes: u32) -> Wavefronts {
    match bytes {
        16 => of_words::<4>(mask, addresses),
        8 => of_words::<2>(mask, addresses),
        _ => of_words::<1>(mask, addresses),
    }
}

/// Of `N` words a lane. As addresses are aligned, two lanes share all of their banks or none: the words of a lane count as
/// one that is `N` times as wide.
fn of_words<const N: usize>(mask: u32, addresses: &[u64; 32]) -> Wavefronts {
    let mut all = Wavefronts::default();
    for first in (0..32).step_by(32 / N) {
        let phase = mask & (u32::MAX >> (32 - 32 / N)) << first;
        if phase != 0 {
            let (taken, distinct) = one_phase::<N>(phase, addresses);
            all.taken += taken;
            all.ideal += (distinct * N as u32).div_ceil(32);
        }
    }
    all
}

/// Passes, and distinct words.
#[inline]
fn one_phase<const N: usize>(mask: u32, addresses: &[u64; 32]) -> (u32, u32) {
    // Most often no bank is asked for two words.
    let (mut held, mut used) = ([0u64; 32], 0u32);
    for lane in lanes(mask) {
        let (word, bank) = place::<N>(addresses[lane]);
        if used >> bank & 1 == 1 && held[bank] != word {
            return with_conflicts::<N>(mask, addresses);
        }
        held[bank] = word;
        used |= 1 << bank;
    }
    (1, used.count_ones())
}

fn with_conflicts<const N: usize>(mask: u32, addresses: &[u64; 32]) -> (u32, u32) {
    // The words of each bank, one lane at most for each.
    let (mut words, mut depth) = ([[0u64; 32]; 32], [0usize; 32]);
    for lane in lanes(mask) {
        let (word, bank) = place::<N>(addresses[lane]);
        let (words, depth) = (&mut words[bank], &mut depth[bank]);
        if !words[..*depth].contains(&word) {
            words[*depth] = word;
            *depth += 1;
        }
    }
    let (most, distinct) = (depth.iter().max(), depth.iter().sum::<usize>());
    (most.map_or(0, |&most| most as u32), distinct as u32)
}

/// The word of `N` times 4 bytes at an address, and its bank.
#[inline]
fn place<const N: usize>(address: u64) -> (u64, usize) {
    let word = address / (4 * N as u64);
    (word, word as usize % (32 / N))
}
