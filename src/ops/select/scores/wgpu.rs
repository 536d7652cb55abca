//! Selection through `shaders/select_scores.wgsl`: splits keep sorted lists from slab to slab, which are merged in the end. For large k
//! candidates are sorted.

use std::ops::Range;
use std::sync::Arc;

use super::{Slab, Wanted};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::ops::select::candidates::{Candidates, Source};
use crate::ops::select::wgpu::{Lists, WORKGROUPS, most_lists};
use crate::ops::select::{self, Best, FUSED_K};
use crate::template::kernel;
use crate::{Result, Tensor};

/// Threads of a workgroup.
const WG: u32 = 64;
/// Scores of a split for each entry of its list, and at least.
const PER_ENTRY: usize = 16;
const LEAST: usize = 4096;
/// Groups of four scores that a workgroup takes in a launch: were all to enter, that is 21,000 rounds of loops for k = 256,
/// and Mesa's software driver ends them after 65,535.
const GROUPS: usize = 1024;

kernel! {
    pub(crate) FAMILY = "shaders/select_scores.wgsl";

    spec ScoresSpec {
        excludes: bool,
        numbers: bool,
        bias: bool,
        wg: u32 = [64],
    }

    params ScoresParams {
        // Scores of a query, n, and the number of the first one's document.
        width: u32,
        queries: u32,
        first: u32,
        base: u32,
        // Groups of four: the first of this launch in each row, and how many a split takes.
        start: u32,
        per_split: u32,
        splits: u32,
        k: u32,
        // Whether the lists hold what earlier launches found, and the key that must be exceeded.
        resume: u32,
        floor: u32,
        // Words of a query's mask.
        words: u32,
    }
}

/// What was selected so far, of some queries.
pub(super) enum Selected {
    Lists(Lists),
    Candidates(Candidates<Arc<WgpuDevice>>),
}

/// How many queries are selected for together.
pub(super) fn group(gpu: &WgpuDevice, k: usize) -> usize {
    select::wgpu::group(gpu, k, [1, 1])
}

impl Selected {
    /// Nothing.
    pub(super) fn new(
        gpu: &Arc<WgpuDevice>,
        queries: usize,
        wanted: &Wanted<'_>,
    ) -> Result<Selected> {
        let Wanted { device, k, floor, widest, total, .. } = *wanted;
        if k > FUSED_K {
            return Candidates::new(gpu.clone(), device, [queries, k], [widest, total], floor)
                .map(Selected::Candidates);
        }
        let splits = (WORKGROUPS / queries)
            .min(widest / (PER_ENTRY * k).max(LEAST))
            .min(most_lists(gpu, k) / queries)
            .max(1);
        Lists::new(gpu, device, [queries, k], splits).map(Selected::Lists)
    }

    /// What only counts.
    pub(super) fn counting(
        gpu: &Arc<WgpuDevice>,
        queries: usize,
        wanted: &Wanted<'_>,
    ) -> Result<Selected> {
        Candidates::counting(gpu.clone(), wanted.device, queries, wanted.floor)
            .map(Selected::Candidates)
    }

    pub(super) fn counts(&self) -> Result<Vec<u32>> {
        match self {
            Selected::Lists(_) => Ok(Vec::new()),
            Selected::Candidates(candidates) => candidates.counts(),
        }
    }

    /// Enqueues the selection from a slab for `queries`.
    pub(super) fn take(
        &mut self,
        gpu: &Arc<WgpuDevice>,
        queries: Range<usize>,
        wanted: &Wanted<'_>,
        slab: &Slab<'_>,
    ) -> Result<()> {
        let lists = match self {
            Selected::Lists(lists) => lists,
            Selected::Candidates(candidates) => {
                return candidates.take(&Source::scores(slab, queries.start));
            }
        };
        let (first, queries, splits) = (queries.start, queries.len(), lists.splits);
        let Slab { scores, base, masks, numbers, bias } = *slab;
        let width = scores.shape()[1];
        let kernel = gpu.kernel(ScoresSpec {
            excludes: masks.is_some(),
            numbers: numbers.is_some(),
            bias: bias.is_some(),
            wg: WG,
        })?;
        // A row may begin within a group.
        let groups = (width + 3).div_ceil(4);
        let per_split = groups.div_ceil(splits).min(GROUPS);
        for start in (0..groups).step_by(splits * per_split) {
            let params = ScoresParams {
                width: width as u32,
                queries: queries as u32,
                first: first as u32,
                base: base as u32,
                start: start as u32,
                per_split: per_split as u32,
                splits: splits as u32,
                k: wanted.k as u32,
                resume: lists.resume as u32,
                floor: wanted.floor,
                words: masks.map_or(0, |m| m.shape()[1] as u32),
            };
            // Whole groups: memory comes in multiples of them.
            let bytes = (scores.bytes() as u64).next_multiple_of(16);
            let mut bindings = vec![Binding { buffer: scores.wgpu(), offset: 0, bytes }];
            let more = [masks, numbers, bias].into_iter().flatten();
            bindings.extend(more.chain([&lists.found]).map(|t: &Tensor| Binding::from(t.wgpu())));
            gpu.launch(&kernel, &bindings, &params, spread(splits * queries))?;
            lists.resume = true;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Best> {
        match self {
            Selected::Lists(lists) => lists.finish(),
            Selected::Candidates(candidates) => candidates.finish(),
        }
    }
}
