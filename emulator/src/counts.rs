//! What a launch did, counted exactly: the same on every run and for any number of host threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::isa::Class;
use crate::memory::{GlobalCounts, SharedCounts};

/// Counted work: of one launch, or the sum of several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub launches: u64,
    pub blocks: u64,
    pub warps: u64,
    pub threads: u64,
    /// Instructions issued, one a warp.
    pub warp_instructions: u64,
    /// Instructions executed, one a thread whose guard held.
    pub thread_instructions: u64,
    /// The same by class.
    pub classes: ClassCounts,
    /// Multiply-adds of matrix instructions: m · n · k each.
    pub tensor_multiply_adds: u64,
    /// Branches that split a warp.
    pub divergent_branches: u64,
    /// Warps that arrived at block barriers.
    pub barrier_arrivals: u64,
    /// Bytes that `cp.async` wrote to shared memory.
    pub async_copy_bytes: u64,
    /// Bytes of parameters and constants loaded, and of local memory loaded and stored, by all threads.
    pub constant_bytes: u64,
    pub local_bytes: u64,
    pub global: GlobalCounts,
    pub shared: SharedCounts,
}

/// Instructions by [`Class`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    pub warps: u64,
    pub threads: u64,
}

/// [`Issued`] for every class; as JSON, those that are not zero by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "BTreeMap<String, Issued>", try_from = "BTreeMap<String, Issued>")]
pub struct ClassCounts([Issued; Class::COUNT]);

impl Default for ClassCounts {
    fn default() -> ClassCounts {
        ClassCounts([Issued::default(); Class::COUNT])
    }
}

impl std::ops::Index<Class> for ClassCounts {
    type Output = Issued;

    fn index(&self, class: Class) -> &Issued {
        &self.0[class as usize]
    }
}

impl std::ops::IndexMut<Class> for ClassCounts {
    #[inline]
    fn index_mut(&mut self, class: Class) -> &mut Issued {
        &mut self.0[class as usize]
    }
}

impl From<ClassCounts> for BTreeMap<String, Issued> {
    fn from(counts: ClassCounts) -> Self {
        let all = Class::ALL.into_iter().map(|class| (class.name().to_owned(), counts[class]));
        all.filter(|(_, issued)| *issued != Issued::default()).collect()
    }
}

impl TryFrom<BTreeMap<String, Issued>> for ClassCounts {
    type Error = String;

    fn try_from(map: BTreeMap<String, Issued>) -> Result<ClassCounts, String> {
        let mut counts = ClassCounts::default();
        for (name, issued) in map {
            let class = Class::ALL.into_iter().find(|class| class.name() == name);
            counts[class.ok_or_else(|| format!("unknown class {name}"))?] = issued;
        }
        Ok(counts)
    }
}

impl Counts {
    /// Multiply-adds of every precision, matrix instructions included: half of the FLOPs.
    pub fn multiply_adds(&self) -> u64 {
        let fused = [Class::Fma32, Class::Fma64, Class::FmaHalf];
        self.tensor_multiply_adds
            + fused.iter().map(|&class| self.classes[class].threads).sum::<u64>()
    }

    /// Threads that executed an issued instruction, on average, of 32.
    pub fn active_lanes(&self) -> f64 {
        self.thread_instructions as f64 / self.warp_instructions.max(1) as f64
    }
}

impl std::ops::AddAssign<&Counts> for Counts {
    fn add_assign(&mut self, other: &Counts) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.warps += other.warps;
        self.threads += other.threads;
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        for (issued, more) in self.classes.0.iter_mut().zip(&other.classes.0) {
            issued.warps += more.warps;
            issued.threads += more.threads;
        }
        self.tensor_multiply_adds += other.tensor_multiply_adds;
        self.divergent_branches += other.divergent_branches;
        self.barrier_arrivals += other.barrier_arrivals;
        self.async_copy_bytes += other.async_copy_bytes;
        self.constant_bytes += other.constant_bytes;
        self.local_bytes += other.local_bytes;
        self.global += other.global;
        self.shared += other.shared;
    }
}
