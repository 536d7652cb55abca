//! What blocks have told each other through atomics and fences.
//!
//! A strong store publishes what its block had done by its last fence; a strong load, with a fence behind it, makes that
//! known to its block. So "write, fence, count up; the last block to count, fence, read" is without a race, and without
//! one of the fences it has one.

use std::collections::HashMap;

use super::clock::Vector;

/// See the module.
#[derive(Debug, Default)]
pub struct Flags {
    is_needed: bool,
    flags: HashMap<u64, Flag>,
    blocks: HashMap<u32, Block>,
}

#[derive(Debug, Default)]
struct Flag {
    /// Publications, in order: the block, and for each of its warps the clock up to which its work is published.
    publications: Vec<(u32, Vector)>,
    /// For each block, its last publication here.
    last: HashMap<u32, usize>,
    /// What the publishing blocks knew.
    known: HashMap<u64, usize>,
}

/// For each flag, how many of its publications a block knows.
#[derive(Debug, Default)]
struct Block {
    known: HashMap<u64, usize>,
    /// Seen, but no fence came yet.
    seen: HashMap<u64, usize>,
}

impl Flags {
    /// A launch of one block needs no flags.
    pub fn new(is_needed: bool) -> Flags {
        Flags { is_needed, ..Flags::default() }
    }

    pub fn fence(&mut self, block: u32) {
        if let Some(Block { known, seen }) = self.blocks.get_mut(&block) {
            for (flag, count) in seen.drain() {
                raise(known, flag, count);
            }
        }
    }

    pub fn publish(&mut self, block: u32, flag: u64, vector: Vector) {
        if !self.is_needed {
            return;
        }
        let entry = self.flags.entry(flag).or_default();
        if let Some(own) = self.blocks.get(&block) {
            for (&other, &count) in &own.known {
                raise(&mut entry.known, other, count);
            }
        }
        // The same again adds nothing: who sees it has seen the first.
        if entry.last.get(&block).is_some_and(|&last| entry.publications[last].1 == vector) {
            return;
        }
        entry.last.insert(block, entry.publications.len());
        entry.publications.push((block, vector));
    }

    pub fn observe(&mut self, block: u32, flag: u64, is_acquire: bool) {
        let Some(entry) = self.flags.get(&flag) else { return };
        let own = self.blocks.entry(block).or_default();
        let into = if is_acquire { &mut own.known } else { &mut own.seen };
        raise(into, flag, entry.publications.len());
        for (&other, &count) in &entry.known {
            raise(into, other, count);
        }
    }

    /// Whether `block` knows of the work that a warp of `other` stamped.
    pub fn knows(&self, block: u32, other: u32, warp: u32, stamp: u32) -> bool {
        let Some(own) = self.blocks.get(&block) else { return false };
        own.known.iter().any(|(flag, &count)| {
            let Some(entry) = self.flags.get(flag) else { return false };
            // The last publication is the furthest; if it came too late to be known, an earlier one may do.
            let covers = |index: usize| {
                let (from, vector) = &entry.publications[index];
                *from == other && index < count && vector[warp as usize] >= stamp
            };
            match entry.last.get(&other) {
                None => false,
                Some(&last) if last < count => covers(last),
                Some(_) => (0..count).rev().any(covers),
            }
        })
    }
}

fn raise(counts: &mut HashMap<u64, usize>, flag: u64, count: usize) {
    let known = counts.entry(flag).or_insert(0);
    *known = (*known).max(count);
}
