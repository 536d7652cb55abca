//! How many passes a shared-memory access takes: 32 banks, 4 bytes wide.

/// The passes of one access, and the fewest that so many distinct words could take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wavefronts {
    pub taken: u32,
    pub ideal: u32,
}

/// Counts the passes of a warp's access of `bytes` a lane.
///
/// Lanes with 8 bytes are served in halves of the warp, lanes with 16 bytes in quarters. Within a pass, a bank delivers
/// one word, to as many lanes as want it.
pub fn wavefronts(mask: u32, addresses: &[u64; 32], bytes: u32) -> Wavefronts {
    let words = u64::from(bytes.div_ceil(4));
    let lanes = 32 / words as usize;
    let mut all = Wavefronts::default();
    for first in (0..32).step_by(lanes) {
        let phase = mask & (u32::MAX >> (32 - lanes)) << first;
        if phase != 0 {
            let (taken, distinct) = one_phase(phase, addresses, words);
            all.taken += taken;
            all.ideal += distinct.div_ceil(32);
        }
    }
    all
}

/// Passes, and distinct words.
fn one_phase(mask: u32, addresses: &[u64; 32], words: u64) -> (u32, u32) {
    // Most often no bank is asked for two words.
    let (mut held, mut used) = ([0u64; 32], 0u32);
    let mut left = mask;
    while left != 0 {
        let start = addresses[left.trailing_zeros() as usize] / 4;
        left &= left - 1;
        for word in start..start + words {
            let bank = (word % 32) as usize;
            if used >> bank & 1 == 1 && held[bank] != word {
                return with_conflicts(mask, addresses, words);
            }
            held[bank] = word;
            used |= 1 << bank;
        }
    }
    (1, used.count_ones())
}

fn with_conflicts(mask: u32, addresses: &[u64; 32], words: u64) -> (u32, u32) {
    // A phase has at most 32 words.
    let mut seen = [0u64; 32];
    let (mut count, mut depth) = (0, [0u32; 32]);
    for (_, address) in addresses.iter().enumerate().filter(|(lane, _)| mask >> lane & 1 == 1) {
        for word in address / 4..address / 4 + words {
            if !seen[..count].contains(&word) {
                seen[count] = word;
                count += 1;
                depth[(word % 32) as usize] += 1;
            }
        }
    }
    (depth.into_iter().max().unwrap_or(0), count as u32)
}
