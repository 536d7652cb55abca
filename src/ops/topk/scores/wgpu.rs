//! Selection through `shaders/topk_scores.wgsl`: splits keep sorted lists from slab to slab, the host merges them in the end.

use std::sync::Arc;

use super::LISTS;
use crate::device::wgpu::{Binding, WgpuBuffer, WgpuDevice, spread};
use crate::ops::topk::select::{Entry, Selector};
use crate::ops::topk::wgpu::merge;
use crate::template::{Family, Spec, keys, params};
use crate::{Result, Tensor};

/// Threads of a workgroup.
const WG: u32 = 64;
/// Workgroups to aim for: enough for the largest GPUs, few enough that the lists stay small.
const WORKGROUPS: usize = 1024;
/// Scores of a split for each entry of its list, and at least.
const PER_ENTRY: usize = 16;
const LEAST: usize = 4096;
/// Groups of four scores that a workgroup takes in a launch: were all to enter, that is 21,000 rounds of loops for k = 256,
/// and Mesa's software driver ends them after 65,535.
const GROUPS: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct ScoresSpec {
    excludes: bool,
    wg: u32,
}

impl Spec for ScoresSpec {
    const FAMILY: &'static str = "topk_scores";
}

params! {
    struct ScoresParams {
        width: u32,
        queries: u32,
        base: u32,
        start: u32,
        per_split: u32,
        splits: u32,
        k: u32,
        resume: u32,
        words: u32,
    }
}

pub(crate) const FAMILY: Family = Family {
    name: ScoresSpec::FAMILY,
    spec_keys: || keys(ScoresSpec { excludes: false, wg: WG }),
    params: ScoresParams::MEMBERS,
    params_size: size_of::<ScoresParams>(),
};

/// Each split's and query's best so far, as `shaders/include/lists.wgsl` has them.
pub(super) struct Lists {
    gpu: Arc<WgpuDevice>,
    found: WgpuBuffer,
    queries: usize,
    splits: usize,
    k: usize,
    resume: bool,
}

/// Lists of k entries that there is room for.
pub(super) fn most_lists(gpu: &WgpuDevice, k: usize) -> usize {
    gpu.facts.max_binding.min(LISTS as u64) as usize / size_of::<u32>() / (4 * k + 1)
}

impl Lists {
    pub(super) fn new(
        gpu: &Arc<WgpuDevice>,
        [queries, widest]: [usize; 2],
        k: usize,
    ) -> Result<Lists> {
        let splits = (WORKGROUPS / queries)
            .min(widest / (PER_ENTRY * k).max(LEAST))
            .min(most_lists(gpu, k) / queries)
            .max(1);
        let found = gpu.alloc((splits * queries * (4 * k + 1) * size_of::<u32>()) as u64)?;
        Ok(Lists { gpu: gpu.clone(), found, queries, splits, k, resume: false })
    }

    /// Enqueues the selection from scores \[Q, n\] of documents from `base` on.
    pub(super) fn take(
        &mut self,
        scores: &Tensor,
        base: usize,
        masks: Option<Tensor>,
    ) -> Result<()> {
        let (queries, splits) = (self.queries, self.splits);
        let width = scores.len() / queries;
        let words = masks.as_ref().map_or(0, |m| m.shape()[1]);
        let kernel = self.gpu.kernel(ScoresSpec { excludes: masks.is_some(), wg: WG })?;
        // A row may begin within a group.
        let groups = (width + 3).div_ceil(4);
        let per_split = groups.div_ceil(splits).min(GROUPS);
        for start in (0..groups).step_by(splits * per_split) {
            let params = ScoresParams {
                width: width as u32,
                queries: queries as u32,
                base: base as u32,
                start: start as u32,
                per_split: per_split as u32,
                splits: splits as u32,
                k: self.k as u32,
                resume: self.resume as u32,
                words: words as u32,
            };
            // Whole groups: memory comes in multiples of them.
            let bytes = (scores.bytes() as u64).next_multiple_of(16);
            let mut bindings = vec![Binding { buffer: scores.wgpu(), offset: 0, bytes }];
            bindings.extend(masks.as_ref().map(|m| Binding::from(m.wgpu())));
            bindings.push((&self.found).into());
            self.gpu.launch(&kernel, &bindings, &params, spread(splits * queries))?;
            self.resume = true;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<Vec<Entry>>> {
        let Lists { gpu, found, queries, splits, k, resume } = self;
        if !resume {
            return Ok(vec![Vec::new(); queries]);
        }
        let words = splits * queries * (2 * k + 1);
        let read = gpu.read_now(&found, (words * size_of::<u32>()) as u64)?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&read);
        Ok(merge(&words, splits, queries, k).into_iter().map(Selector::finish).collect())
    }
}
