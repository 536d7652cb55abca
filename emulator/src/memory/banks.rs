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
    let words = bytes.div_ceil(4) as u64;
    let lanes = 32 / words.max(1) as usize;
    let mut all = Wavefronts::default();
    for first in (0..32).step_by(lanes) {
        let phase = (u32::MAX >> (32 - lanes)) << first;
        if mask & phase == 0 {
            continue;
        }
        // Distinct words, each bank's in its own list: at most 32 words a phase.
        let mut banks = [[0u64; 32]; 32];
        let mut depth = [0u8; 32];
        let mut distinct = 0;
        for (lane, address) in addresses.iter().enumerate().skip(first).take(lanes) {
            if mask >> lane & 1 == 0 {
                continue;
            }
            for word in 0..words {
                let word = address / 4 + word;
                let bank = (word % 32) as usize;
                let held = &mut banks[bank][..usize::from(depth[bank]) + 1];
                if !held[..usize::from(depth[bank])].contains(&word) {
                    held[usize::from(depth[bank])] = word;
                    depth[bank] += 1;
                    distinct += 1;
                }
            }
        }
        all.taken += u32::from(depth.into_iter().max().unwrap_or(0));
        all.ideal += u32::div_ceil(distinct, 32);
    }
    all
}
