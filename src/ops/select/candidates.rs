//! Candidates of a large k on a GPU, whatever the API: what exceeds the k-th so far is appended, sorted and cut to k.

use super::Best;
use super::plan::{Room, Step};
use super::scores::Slab;
use crate::device::Device;
use crate::{DType, Result, Tensor};

/// The type of what candidates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    Keys,
    Scores,
}

/// Where candidates come from: keys or scores \[Q, n\] of the rows from `base` on, or of those that `numbers` names.
pub(crate) struct Source<'a> {
    pub(crate) from: From,
    pub(crate) values: &'a Tensor,
    pub(crate) width: usize,
    /// The first query that is selected for.
    pub(crate) first: usize,
    pub(crate) base: usize,
    pub(crate) masks: Option<&'a Tensor>,
    pub(crate) numbers: Option<&'a Tensor>,
    pub(crate) bias: Option<&'a Tensor>,
}

impl<'a> Source<'a> {
    /// A slab of keys.
    pub(crate) fn keys(values: &'a Tensor, base: usize) -> Source<'a> {
        let width = values.shape()[1];
        let [masks, numbers, bias] = [None; 3];
        Source { from: From::Keys, values, width, first: 0, base, masks, numbers, bias }
    }

    /// A slab of scores, for the queries from `first` on.
    pub(crate) fn scores(slab: &Slab<'a>, first: usize) -> Source<'a> {
        let Slab { scores: values, base, masks, numbers, bias } = *slab;
        let width = values.shape()[1];
        Source { from: From::Scores, values, width, first, base, masks, numbers, bias }
    }
}

/// A GPU's kernels for candidates. All only enqueue.
pub(crate) trait Kernels: Sized {
    /// Entries that are sorted in fast memory.
    const LOCAL: usize;

    /// Bytes that a binding may have.
    fn binding(&self) -> usize;

    /// Memory with arbitrary contents.
    fn uninit(&self, device: &Device, shape: &[usize]) -> Result<Tensor>;

    /// Appends what exceeds each query's k-th, or counts it.
    fn filter(&self, candidates: &Candidates<Self>, source: &Source<'_>) -> Result<()>;

    /// Does a step of a sort.
    fn step(&self, candidates: &Candidates<Self>, step: Step) -> Result<()>;

    /// Forgets sorted candidates beyond the k-th, or writes the others to `best`.
    fn cut(&self, candidates: &Candidates<Self>, best: Option<&Tensor>) -> Result<()>;
}

/// For each query what may be among its k best, of which the k best are kept whenever there could be no room.
pub(crate) struct Candidates<G> {
    gpu: G,
    device: Device,
    /// \[Q, 2 room\] u32.
    pub(crate) entries: Tensor,
    /// How many there are, and how many of them are sorted and at most k: \[Q\] u32.
    pub(crate) counts: Tensor,
    pub(crate) kept: Tensor,
    pub(crate) queries: usize,
    pub(crate) room: Room,
    /// The key that must be exceeded.
    pub(crate) floor: u32,
    /// Whether they are stored, not only counted.
    pub(crate) stores: bool,
}

impl<G: Kernels> Candidates<G> {
    /// For a corpus of `rows` rows, taken in slabs of at least `least` rows.
    pub(crate) fn new(
        gpu: G,
        device: &Device,
        [queries, k]: [usize; 2],
        [least, rows]: [usize; 2],
        floor: u32,
    ) -> Result<Candidates<G>> {
        let room = Room::new([queries, k], [least, rows], gpu.binding(), G::LOCAL);
        let entries = gpu.uninit(device, &[queries, 2 * room.entries])?;
        let zeros = || Tensor::zeros(device, DType::U32, &[queries]);
        let (counts, kept, device) = (zeros()?, zeros()?, device.clone());
        Ok(Candidates { gpu, device, entries, counts, kept, queries, room, floor, stores: true })
    }

    /// That are only counted.
    pub(crate) fn counting(
        gpu: G,
        device: &Device,
        queries: usize,
        floor: u32,
    ) -> Result<Candidates<G>> {
        let counts = Tensor::zeros(device, DType::U32, &[queries])?;
        let room = Room::new([queries, 1], [1, 1], usize::MAX, G::LOCAL);
        let ([entries, kept], device) = ([counts.clone(), counts.clone()], device.clone());
        Ok(Candidates { gpu, device, entries, counts, kept, queries, room, floor, stores: false })
    }

    /// How many there are of each query. Waits for the device.
    pub(crate) fn counts(&self) -> Result<Vec<u32>> {
        self.counts.to_vec()
    }

    /// Enqueues the selection from a slab.
    pub(crate) fn take(&mut self, source: &Source<'_>) -> Result<()> {
        if !self.stores {
            return self.gpu.filter(self, source);
        }
        if self.room.is_full(source.width) {
            self.cut()?;
        }
        self.gpu.filter(self, source)?;
        if self.room.took(source.width) { self.cut() } else { Ok(()) }
    }

    /// Sorts the candidates and forgets those beyond the k-th.
    fn cut(&mut self) -> Result<()> {
        self.sort()?;
        self.gpu.cut(self, None)?;
        self.room.cut();
        Ok(())
    }

    fn sort(&self) -> Result<()> {
        self.room.steps().into_iter().try_for_each(|step| self.gpu.step(self, step))
    }

    /// Each query's k best.
    pub(crate) fn finish(self) -> Result<Best> {
        self.sort()?;
        let best = self.gpu.uninit(&self.device, &[self.queries, 2 * self.room.k])?;
        self.gpu.cut(&self, Some(&best))?;
        Ok(Best::Device(best))
    }
}
