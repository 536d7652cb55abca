//! Postings through `kernels/sparse.ptx`: a block a query and split.

use std::ops::Range;
use std::sync::Arc;

use super::corpus::CUDA_TILE;
use super::{Args, asked};
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::select::cuda::{self, Inputs, ScanParams};
use crate::ops::select::{Best, FUSED_K};
use crate::template::kernel;
use crate::{Result, Tensor};

/// Up to here a list has little room.
const SMALL_K: usize = 64;

kernel! {
    pub(crate) FAMILY = "kernels/sparse.ptx";

    spec SparseSpec {
        /// Bytes of an impact: f32, f16 or u8.
        size: u32 = [4, 2, 1],
        /// Documents of a tile.
        tile: u32 = [CUDA_TILE as u32],
        /// Entries of a list.
        cap: u32 = [128, 512],
        /// Whether keys are stored instead of lists.
        keys: bool,
    }
    where !keys || cap == 128;

    params ScanParams;
}

/// How many queries are searched together.
pub(super) fn group(k: usize) -> usize {
    cuda::group(k, k > FUSED_K, 1)
}

pub(super) fn best(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
    k: usize,
) -> Result<Best> {
    let (wanted, spans) = (args.wanted(&queries, k), args.spans());
    cuda::best(gpu, args.corpus.device(), &wanted, &spans, &Prepared::new(gpu, args, &queries, k)?)
}

pub(super) fn count(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
) -> Result<Vec<u32>> {
    let (wanted, spans) = (args.wanted(&queries, 0), args.spans());
    let prepared = Prepared::new(gpu, args, &queries, FUSED_K + 1)?;
    cuda::count(gpu, args.corpus.device(), &wanted, &spans, &prepared)
}

/// Some of the queries on the device, to be searched for together.
struct Prepared<'a> {
    gpu: &'a Arc<CudaDevice>,
    args: &'a Args<'a>,
    queries: Tensor,
    spec: SparseSpec,
}

impl<'a> Prepared<'a> {
    fn new(
        gpu: &'a Arc<CudaDevice>,
        args: &'a Args<'a>,
        queries: &Range<usize>,
        k: usize,
    ) -> Result<Self> {
        let keys = k > FUSED_K;
        let cap = if k <= SMALL_K || keys { 128 } else { 512 };
        let size = args.corpus.impact().size() as u32;
        let spec = SparseSpec { size, tile: CUDA_TILE as u32, cap, keys };
        Ok(Prepared { gpu, args, queries: asked(args, queries)?, spec })
    }
}

impl cuda::Scan for Prepared<'_> {
    fn rows(&self) -> usize {
        CUDA_TILE
    }

    fn queries(&self) -> usize {
        1
    }

    fn stores_keys(&self) -> bool {
        self.spec.keys
    }

    fn runs_at_once(&self) -> bool {
        false
    }

    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        [best, found]: [Binding<'_>; 2],
        params: ScanParams,
        blocks: usize,
    ) -> Result<()> {
        let params = ScanParams { width: self.args.corpus.dim() as u32, ..params };
        let chunk = &self.args.corpus.chunks()[chunk];
        // What is absent is not read, but something must be bound.
        let absent = Binding::from(self.queries.cuda());
        let [skips, masks] = inputs.excluded(absent);
        let tensors = [&self.queries, &chunk.bounds, &chunk.places, &chunk.impacts];
        let mut bindings: Vec<Binding<'_>> = tensors.map(|t| t.cuda().into()).into();
        bindings.extend([inputs.bias.unwrap_or(absent), skips, masks, best, found]);
        let kernel = self.gpu.kernel(self.spec)?;
        self.gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
    }
}
