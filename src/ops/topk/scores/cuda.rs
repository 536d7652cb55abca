//! Selection through `kernels/topk_scores.ptx`: splits of a slab keep sorted lists, `kernels/topk_merge.ptx` merges them into
//! those of the slabs before.

use std::sync::Arc;

use super::LISTS;
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::ops::topk::cuda::{MergeParams, entries, merge};
use crate::ops::topk::select::Entry;
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Result, Tensor};

/// Up to here a list needs half the room.
const SMALL_K: usize = 64;
/// Warps to aim for on each multiprocessor.
const WARPS: usize = 16;
/// Scores of a split for each entry of its list, so that the lists weigh little beside the scores, and at least.
const PER_ENTRY: usize = 64;
const LEAST: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct ScoresSpec {
    /// Entries of a list.
    cap: u32,
}

impl Spec for ScoresSpec {
    const FAMILY: &'static str = "topk_scores";
}

params! {
    struct ScoresParams {
        width: u32, queries: u32, base: u32, k: u32, per_split: u32, resume: u32, excludes: u32, words: u32,
    }
}

pub(crate) const FAMILY: Family = Family {
    name: ScoresSpec::FAMILY,
    spec_keys: || keys(ScoresSpec { cap: 256 }),
    params: ScoresParams::MEMBERS,
    params_size: size_of::<ScoresParams>(),
};

/// Each query's best so far, \[Q, k\] entries on the device.
pub(super) struct Lists {
    gpu: Arc<CudaDevice>,
    best: Tensor,
    queries: usize,
    k: usize,
    resume: bool,
}

impl Lists {
    pub(super) fn new(
        gpu: &Arc<CudaDevice>,
        device: &Device,
        queries: usize,
        k: usize,
    ) -> Result<Lists> {
        // An entry is two words, the document's complement first.
        let best = Tensor::cuda_uninit(device, DType::U32, &[queries, 2 * k])?;
        Ok(Lists { gpu: gpu.clone(), best, queries, k, resume: false })
    }

    /// Enqueues the selection from scores \[Q, n\] of documents from `base` on.
    pub(super) fn take(
        &mut self,
        scores: &Tensor,
        base: usize,
        masks: Option<Tensor>,
    ) -> Result<()> {
        let (queries, k, device) = (self.queries, self.k, scores.device());
        let width = scores.len() / queries;
        let warps = WARPS * self.gpu.facts.multiprocessors as usize;
        let splits = (warps / queries)
            .min(width / (PER_ENTRY * k).max(LEAST))
            .min(LISTS / (8 * k * queries))
            .max(1);
        // In groups of 16 bytes, those of a warp together; a row may begin within one.
        let per_split = (width + 3).div_ceil(4).div_ceil(splits).next_multiple_of(32);
        let splits = (width + 3).div_ceil(4).div_ceil(per_split);
        let found = Tensor::cuda_uninit(device, DType::U32, &[splits, queries, 2 * k])?;
        let words = masks.as_ref().map_or(0, |m| m.shape()[1]);
        let params = ScoresParams {
            width: width as u32,
            queries: queries as u32,
            base: base as u32,
            k: k as u32,
            per_split: per_split as u32,
            resume: self.resume as u32,
            excludes: masks.is_some() as u32,
            words: words as u32,
        };
        let spec = ScoresSpec { cap: if k <= SMALL_K { 256 } else { 512 } };
        let kernel = self.gpu.kernel(spec, (ScoresParams::MEMBERS, size_of::<ScoresParams>()))?;
        let bindings = [
            scores.cuda().into(),
            // What is absent is not read, but something must be bound.
            masks.as_ref().unwrap_or(scores).cuda().into(),
            self.best.cuda().into(),
            found.cuda().into(),
        ];
        self.gpu.launch(&kernel, &bindings, &params, [splits * queries, 1, 1])?;
        let params = MergeParams { queries: queries as u32, splits: splits as u32, k: k as u32 };
        merge(&self.gpu, &found, &self.best, self.resume, params)?;
        self.resume = true;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<Vec<Entry>>> {
        if !self.resume {
            return Ok(vec![Vec::new(); self.queries]);
        }
        entries(&self.best, self.k)
    }
}
