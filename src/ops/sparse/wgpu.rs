//! Postings through `shaders/sparse.wgsl`: a workgroup a query and split.

use std::ops::Range;
use std::sync::Arc;

use super::corpus::WGPU_TILE;
use super::{Args, Impact, asked};
use crate::device::wgpu::{Binding, WgpuDevice};
use crate::ops::select::Best;
use crate::ops::select::wgpu::{self, Excluded, Inputs, ScanParams, Shape};
use crate::template::kernel;
use crate::{Result, Tensor};

/// How impacts are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    F32,
    F16,
    U8,
}

kernel! {
    pub(crate) FAMILY = "shaders/sparse.wgsl";

    spec SparseSpec {
        kind: Kind = [Kind::F32, Kind::F16, Kind::U8],
        /// Documents of a tile.
        tile: u32 = [WGPU_TILE as u32],
        bias: bool,
        exclude: Excluded = [Excluded::None, Excluded::Shared, Excluded::Each],
        /// Whether keys are stored instead of lists.
        keys: bool,
    }

    params ScanParams;
}

/// How many queries are searched together.
pub(super) fn group(gpu: &WgpuDevice, args: &Args<'_>, k: usize) -> usize {
    let rows = args.corpus.chunks().iter().map(|chunk| chunk.len).max().unwrap_or(0);
    // Words of the longest query.
    let entries = (0..args.count).map(|q| args.queries.range(q).len()).max().unwrap_or(0);
    wgpu::group(gpu, k, [3 + 2 * entries, rows])
}

pub(super) fn best(
    gpu: &Arc<WgpuDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
    k: usize,
) -> Result<Best> {
    let (wanted, spans) = (args.wanted(&queries, k), args.spans());
    let prepared = Prepared::new(gpu, args, &queries, Shape::of(&wanted))?;
    wgpu::best(gpu, args.corpus.device(), &wanted, &spans, &prepared)
}

pub(super) fn count(
    gpu: &Arc<WgpuDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
) -> Result<Vec<u32>> {
    let (wanted, spans) = (args.wanted(&queries, 0), args.spans());
    let prepared = Prepared::new(gpu, args, &queries, Shape::with(&wanted, true))?;
    wgpu::count(gpu, args.corpus.device(), &wanted, &spans, &prepared)
}

/// Some of the queries on the device, to be searched for together.
struct Prepared<'a> {
    gpu: &'a Arc<WgpuDevice>,
    args: &'a Args<'a>,
    queries: Tensor,
    shape: Shape,
}

impl<'a> Prepared<'a> {
    fn new(
        gpu: &'a Arc<WgpuDevice>,
        args: &'a Args<'a>,
        queries: &Range<usize>,
        shape: Shape,
    ) -> Result<Self> {
        // A workgroup takes one query.
        Ok(Prepared { gpu, args, queries: asked(args, queries)?, shape: Shape { qt: 1, ..shape } })
    }
}

impl wgpu::Scan for Prepared<'_> {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        found: &Tensor,
        params: ScanParams,
        grid: [u32; 3],
    ) -> Result<()> {
        let chunk = &self.args.corpus.chunks()[chunk];
        let kernel = self.gpu.kernel(SparseSpec {
            kind: match self.args.corpus.impact() {
                Impact::F32 => Kind::F32,
                Impact::F16 => Kind::F16,
                Impact::U8 { .. } => Kind::U8,
            },
            tile: WGPU_TILE as u32,
            bias: self.args.search.bias.is_some(),
            exclude: self.shape.exclude,
            keys: self.shape.keys,
        })?;
        let tensors = [&self.queries, &chunk.bounds, &chunk.places, &chunk.impacts];
        let mut bindings: Vec<Binding<'_>> = tensors.map(|t| t.wgpu().into()).into();
        bindings.extend(inputs.bindings());
        bindings.push(found.wgpu().into());
        let params = ScanParams { width: self.args.corpus.dim() as u32, ..params };
        self.gpu.launch(&kernel, &bindings, &params, grid)
    }
}
