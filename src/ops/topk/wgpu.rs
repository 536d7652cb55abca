//! Top-k's scan through `shaders/topk.wgsl`.

use std::ops::Range;
use std::sync::Arc;

use super::corpus::{Chunk, Compared};
use super::prepare::prepare;
use super::{Args, Metric, Storage};
use crate::device::wgpu::{Binding, WgpuDevice};
use crate::ops::Stored;
use crate::ops::rows::Reduced;
use crate::ops::select::Best;
use crate::ops::select::wgpu::{self, Excluded, Inputs, ScanParams, Shape};
use crate::template::kernel;
use crate::{Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/topk.wgsl";

    spec TopkSpec {
        t: Stored = [Stored::F32, Stored::F16, Stored::F16P, Stored::BF16, Stored::Int8],
        vec: bool,
        metric: Metric = [Metric::Dot, Metric::Cosine, Metric::L2],
        bias: bool,
        exclude: Excluded = [Excluded::None, Excluded::Shared, Excluded::Each],
        qt: u32 = [4, 32],
        /// Whether keys are stored instead of lists.
        keys: bool,
    }
    where (qt == 32 || exclude != Excluded::Each && !keys)
        && (t != Stored::Int8 || metric == Metric::Cosine);

    params ScanParams;
}

/// How many queries are searched together.
pub(super) fn group(gpu: &WgpuDevice, args: &Args<'_>, k: usize) -> usize {
    let rows = args.corpus.parts().iter().map(Chunk::len).max().unwrap_or(0);
    wgpu::group(gpu, k, [args.corpus.width(), rows])
}

pub(super) fn best(
    gpu: &Arc<WgpuDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
    k: usize,
) -> Result<Best> {
    let (wanted, spans) = (args.wanted(&queries, k), args.spans());
    let prepared = Prepared::new(gpu, args, queries, Shape::of(&wanted))?;
    wgpu::best(gpu, args.corpus.device(), &wanted, &spans, &prepared)
}

pub(super) fn count(
    gpu: &Arc<WgpuDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
) -> Result<Vec<u32>> {
    let (wanted, spans) = (args.wanted(&queries, 0), args.spans());
    let prepared = Prepared::new(gpu, args, queries, Shape::with(&wanted, true))?;
    wgpu::count(gpu, args.corpus.device(), &wanted, &spans, &prepared)
}

/// Some of the queries on the device, to be searched for together.
struct Prepared<'a> {
    gpu: &'a Arc<WgpuDevice>,
    args: &'a Args<'a>,
    reduced: Reduced,
    shape: Shape,
}

impl<'a> Prepared<'a> {
    fn new(
        gpu: &'a Arc<WgpuDevice>,
        args: &'a Args<'a>,
        queries: Range<usize>,
        shape: Shape,
    ) -> Result<Self> {
        Ok(Prepared { gpu, args, reduced: prepare(args, queries)?, shape })
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
        let (args, width) = (self.args, self.args.corpus.width());
        let chunk = &args.corpus.parts()[chunk];
        let Compared { form, rows, scale } = chunk.compared(args.metric)?;
        let kernel = self.gpu.kernel(TopkSpec {
            t: match args.corpus.storage() {
                Storage::Int8 => Stored::Int8,
                _ => Stored::of(rows, &self.gpu.facts),
            },
            vec: width.is_multiple_of(4),
            metric: form,
            bias: args.search.bias.is_some(),
            exclude: self.shape.exclude,
            qt: self.shape.qt,
            keys: self.shape.keys,
        })?;
        let mut bindings: Vec<Binding<'_>> = vec![self.reduced.data.wgpu().into()];
        // A caller's buffer may be longer than the rows.
        let bytes = (rows.bytes() as u64).next_multiple_of(4);
        bindings.push(Binding { buffer: rows.wgpu(), offset: 0, bytes });
        if form != Metric::L2 {
            bindings.push(self.reduced.scale.wgpu().into());
        }
        if form == Metric::Cosine {
            bindings.push(scale.wgpu().into());
        }
        bindings.extend(inputs.bindings());
        bindings.push(found.wgpu().into());
        let params = ScanParams { width: width as u32, ..params };
        self.gpu.launch(&kernel, &bindings, &params, grid)
    }
}
