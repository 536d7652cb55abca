//! What a warp knows beyond the clocks of its own block: those of the other blocks of its cluster, which phases of mbarriers
//! are over, and whose `wgmma` have ended.

use super::clock::{Vector, join};

/// By rank in the cluster. The own block's entry of `blocks` is filled only where it is handed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Clocks of the warps.
    pub blocks: Vec<Vector>,
    /// Phases of each mbarrier that are over.
    pub phases: Vec<Vec<u32>>,
    /// Groups of `wgmma` of each warp that have ended.
    pub groups: Vec<Vector>,
}

impl Knowledge {
    /// Nothing, of a cluster of so many blocks.
    pub fn of(blocks: usize) -> Knowledge {
        Knowledge {
            blocks: vec![Vector::default(); blocks],
            phases: vec![Vec::new(); blocks],
            groups: vec![Vector::default(); blocks],
        }
    }

    pub fn join(&mut self, other: &Knowledge) {
        for (clocks, more) in self.blocks.iter_mut().zip(&other.blocks) {
            join(clocks, more);
        }
        for (groups, more) in self.groups.iter_mut().zip(&other.groups) {
            join(groups, more);
        }
        for (phases, more) in self.phases.iter_mut().zip(&other.phases) {
            if phases.len() < more.len() {
                phases.resize(more.len(), 0);
            }
            for (phase, &more) in phases.iter_mut().zip(more) {
                *phase = (*phase).max(more);
            }
        }
    }

    /// Phases of a block's mbarrier that are known to be over.
    pub fn phase(&self, rank: usize, barrier: usize) -> u32 {
        self.phases[rank].get(barrier).copied().unwrap_or(0)
    }

    pub fn learn_phase(&mut self, rank: usize, barrier: usize, phase: u32) {
        let phases = &mut self.phases[rank];
        if phases.len() <= barrier {
            phases.resize(barrier + 1, 0);
        }
        phases[barrier] = phases[barrier].max(phase);
    }
}
