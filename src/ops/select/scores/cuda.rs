//! Selection through `kernels/select_scores.ptx`: splits of a slab keep sorted lists, which are merged into those of the slabs
//! before. For large k candidates are sorted.

use std::ops::Range;
use std::sync::Arc;

use super::{Slab, Wanted};
use crate::device::cuda::CudaDevice;
use crate::ops::select::candidates::{Candidates, Source};
use crate::ops::select::cuda::Lists;
use crate::ops::select::{self, Best, FUSED_K};
use crate::template::kernel;
use crate::{Result, Tensor};

/// Up to here a list needs half the room.
const SMALL_K: usize = 64;
/// Warps to aim for on each multiprocessor.
const WARPS: usize = 16;
/// Scores of a split for each entry of its list, so that the lists weigh little beside the scores, and at least.
const PER_ENTRY: usize = 64;
const LEAST: usize = 2048;

kernel! {
    pub(crate) FAMILY = "kernels/select_scores.ptx";

    spec ScoresSpec {
        /// Entries of a list.
        cap: u32 = [256, 512],
    }

    params ScoresParams {
        width: u32, queries: u32, first: u32, base: u32, k: u32, per_split: u32, resume: u32, floor: u32,
        excludes: u32, words: u32, has_numbers: u32, has_bias: u32,
    }
}

/// What was selected so far, of some queries.
pub(super) enum Selected {
    Lists(Lists),
    Candidates(Candidates<Arc<CudaDevice>>),
}

/// How many queries are selected for together.
pub(super) fn group(k: usize) -> usize {
    select::cuda::group(k, k > FUSED_K, usize::MAX / 2)
}

impl Selected {
    /// Nothing.
    pub(super) fn new(
        gpu: &Arc<CudaDevice>,
        queries: usize,
        wanted: &Wanted<'_>,
    ) -> Result<Selected> {
        let Wanted { device, k, floor, widest, total, .. } = *wanted;
        match k <= FUSED_K {
            true => Lists::new(gpu, device, queries, k).map(Selected::Lists),
            false => Candidates::new(gpu.clone(), device, [queries, k], [widest, total], floor)
                .map(Selected::Candidates),
        }
    }

    /// What only counts.
    pub(super) fn counting(
        gpu: &Arc<CudaDevice>,
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
        gpu: &Arc<CudaDevice>,
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
        let (first, queries, k) = (queries.start, queries.len(), wanted.k);
        let Slab { scores, base, masks, numbers, bias } = *slab;
        let width = scores.shape()[1];
        let warps = WARPS * gpu.facts.multiprocessors as usize;
        let splits = (warps / queries)
            .min(width / (PER_ENTRY * k).max(LEAST))
            .min(Lists::most_splits(queries, k))
            .max(1);
        // In groups of 16 bytes, those of a warp together; a row may begin within one.
        let per_split = (width + 3).div_ceil(4).div_ceil(splits).next_multiple_of(32);
        let splits = (width + 3).div_ceil(4).div_ceil(per_split);
        let found = lists.room(splits)?;
        let params = ScoresParams {
            width: width as u32,
            queries: queries as u32,
            first: first as u32,
            base: base as u32,
            k: k as u32,
            per_split: per_split as u32,
            resume: lists.resume as u32,
            floor: wanted.floor,
            excludes: masks.is_some() as u32,
            words: masks.map_or(0, |m| m.shape()[1] as u32),
            has_numbers: numbers.is_some() as u32,
            has_bias: bias.is_some() as u32,
        };
        let spec = ScoresSpec { cap: if k <= SMALL_K { 256 } else { 512 } };
        let kernel = gpu.kernel(spec)?;
        // What is absent is not read, but something must be bound.
        let [masks, numbers, bias] = [masks, numbers, bias].map(|t| t.unwrap_or(scores));
        let bindings =
            [scores, masks, numbers, bias, &lists.best, &found].map(|t: &Tensor| t.cuda().into());
        gpu.launch(&kernel, &bindings, &params, [splits * queries, 1, 1])?;
        lists.merge(&found, splits, None)
    }

    pub(super) fn finish(self) -> Result<Best> {
        match self {
            Selected::Lists(lists) => lists.finish(),
            Selected::Candidates(candidates) => candidates.finish(),
        }
    }
}
