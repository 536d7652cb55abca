//! Many queries on Hopper where scores are chains of fused multiply-adds or sums of bytes: tensor cores bound the scores
//! (`kernels/topk_rough.ptx`), and those of the few rows that may be found are formed as elsewhere (`kernels/topk_exact.ptx`). Hits and
//! bits are those of `kernels/topk.ptx`.

use super::corpus::Compared;
use super::cuda::Prepared;
use super::{Args, Metric, Storage};
use crate::device::cuda::{Binding, CudaDevice, tiled};
use crate::ops::precision::Product;
use crate::ops::select::cuda::Inputs;
use crate::ops::select::sift::{self, Out, Plan, QUERIES, ROWS, Sift, SiftParams, Survivors};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

/// So many times more rows may be found by bounds of scores than by scores.
const SLACK: usize = 2;
/// Queries of a block that rounds them.
const ROUNDED: usize = 4;

kernel! {
    pub(crate) FAMILY = "kernels/topk_rough.ptx";

    spec RoughSpec {
        /// The type of the rows.
        t: Storage = [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8],
        metric: Metric = [Metric::Dot, Metric::Cosine, Metric::L2],
        /// Whether the queries stay in shared memory.
        resident: bool,
        /// Blocks that share the rows.
        cluster: u32 = [1, 2],
        /// Whether rows have numbers that are added to their scores: a bias, or for distances their squares.
        biased: bool,
        /// Whether it writes maxima of a sample, and of how many groups of a tile.
        sample: bool,
        groups: u32 = [1, 4],
    }
    where is_rough(t, metric) && (biased || metric != Metric::L2) && (sample || groups == 1);

    params SiftParams;
}

kernel! {
    pub(crate) ROUND = "kernels/topk_round.ptx";

    spec RoundSpec {
        t: Storage = [Storage::F32, Storage::F16, Storage::BF16],
    }

    params RoundParams { queries: u32, dim: u32 }
}

kernel! {
    pub(crate) EXACT = "kernels/topk_exact.ptx";

    spec ExactSpec {
        t: Storage = [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8],
        metric: Metric = [Metric::Dot, Metric::Cosine, Metric::L2],
    }
    where is_rough(t, metric);

    params ExactParams {
        width: u32, rows: u32, queries: u32, splits: u32, room: u32, has_bias: u32, excludes: u32,
    }
}

/// Whether scores of rows in a type, in a form, are chains of fused multiply-adds at some precision, or sums of bytes.
fn is_rough(t: Storage, form: Metric) -> bool {
    match t {
        Storage::BF16 => form == Metric::L2,
        Storage::Int8 => form == Metric::Cosine,
        _ => true,
    }
}

/// The policy: how much is sampled, where a search is one for these kernels.
pub(super) fn plan(
    gpu: &CudaDevice,
    args: &Args<'_>,
    product: Product,
    queries: usize,
    k: usize,
) -> Result<Option<Plan>> {
    let (corpus, width) = (args.corpus, args.corpus.width());
    let rows: Vec<usize> = corpus.parts().iter().map(|chunk| chunk.len()).collect();
    let row = width * corpus.dtype().size();
    let extents = rows.iter().copied().chain([args.count, width]);
    let takes = match corpus.storage() {
        Storage::Int8 => product == Product::INT8,
        t => product == Product::FMA && is_rough(t, args.metric),
    };
    let takes = takes && sift::takes(gpu, &args.search.filter, extents, row);
    if !takes {
        return Ok(None);
    }
    // A multiply-add of tf32 takes as long as two of halves.
    let Some(plan) = Plan::new(queries, k, row / 2, &rows, SLACK) else { return Ok(None) };
    for chunk in corpus.parts() {
        if !chunk.has_lengths()? {
            return Ok(None);
        }
    }
    Ok(Some(plan))
}

/// Queries on the device, also as tensor cores take them, and how far these are off.
pub(super) struct Rounded<'a> {
    prepared: &'a Prepared<'a>,
    /// \[Q, D\] in the type of the rows.
    parts: Tensor,
    /// \[Q, 2\]; bytes have none.
    margins: Option<Tensor>,
}

impl<'a> Rounded<'a> {
    pub(super) fn new(prepared: &'a Prepared<'a>) -> Result<Self> {
        let Prepared { gpu, args, reduced, .. } = prepared;
        let (device, t) = (args.corpus.device(), args.corpus.storage());
        let shape = reduced.data.shape();
        if t == Storage::Int8 {
            return Ok(Rounded { prepared, parts: reduced.data.clone(), margins: None });
        }
        let margins = Tensor::cuda_uninit(device, DType::F32, &[shape[0], 2])?;
        let parts = match t {
            Storage::F32 => reduced.data.clone(),
            _ => Tensor::cuda_uninit(device, t.dtype(), shape)?,
        };
        let kernel = gpu.kernel(RoundSpec { t })?;
        let params = RoundParams { queries: shape[0] as u32, dim: shape[1] as u32 };
        let bindings = [&reduced.data, &parts, &margins].map(|t| Binding::from(t.cuda()));
        gpu.launch(&kernel, &bindings, &params, [shape[0].div_ceil(ROUNDED), 1, 1])?;
        Ok(Rounded { prepared, parts, margins: Some(margins) })
    }
}

impl Sift for Rounded<'_> {
    fn query_scale(&self) -> Option<Binding<'_>> {
        Some(self.prepared.reduced.scale.cuda().into())
    }

    fn scan(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        out: Out<'_>,
        params: SiftParams,
        blocks: usize,
    ) -> Result<()> {
        let Prepared { gpu, args, reduced, .. } = self.prepared;
        let (t, width) = (args.corpus.storage(), args.corpus.width());
        let cluster = Plan::cluster(params.queries as usize);
        let params = SiftParams { width: width as u32, ..params };
        let chunk = &args.corpus.parts()[chunk];
        let Compared { form, rows, scale } = chunk.compared_plain(args.metric);
        let (sample, groups) = out.sample();
        let spec = RoughSpec {
            t,
            metric: form,
            resident: sift::is_resident(width * rows.dtype().size(), 1),
            cluster: cluster as u32,
            biased: inputs.bias.is_some() || form == Metric::L2,
            sample,
            groups,
        };
        let absent = Binding::from(reduced.data.cuda());
        let [skips, masks] = inputs.excluded(absent);
        let mut bindings = vec![
            tiled(&self.parts, params.queries as usize, width, QUERIES),
            tiled(rows, chunk.len(), width, ROWS / cluster),
            reduced.scale.cuda().into(),
            scale.cuda().into(),
            inputs.bias.unwrap_or(absent),
            masks,
            self.margins.as_ref().map_or(absent, |t| t.cuda().into()),
        ];
        bindings.extend(out.bindings(skips, &[]));
        let kernel = gpu.kernel(spec)?;
        gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
    }

    fn form(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        survivors: &Survivors,
        params: SiftParams,
    ) -> Result<()> {
        let Prepared { gpu, args, reduced, .. } = self.prepared;
        let chunk = &args.corpus.parts()[chunk];
        let Compared { form, rows: of_chunk, scale } = chunk.compared_plain(args.metric);
        let SiftParams { rows, queries, splits, room, has_bias, excludes, .. } = params;
        let width = args.corpus.width() as u32;
        let params = ExactParams { width, rows, queries, splits, room, has_bias, excludes };
        let absent = Binding::from(reduced.data.cuda());
        let bindings = [
            of_chunk.cuda().into(),
            absent,
            reduced.scale.cuda().into(),
            scale.cuda().into(),
            inputs.bias.unwrap_or(absent),
            inputs.excluded(absent)[1],
            survivors.scores.cuda().into(),
            survivors.places.cuda().into(),
            survivors.counts.cuda().into(),
        ];
        let kernel = gpu.kernel(ExactSpec { t: args.corpus.storage(), metric: form })?;
        gpu.launch(&kernel, &bindings, &params, [queries as usize, 1, 1])
    }
}
