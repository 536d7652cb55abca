//! Codes through `shaders/hamming.wgsl` and `shaders/hamming_encode.wgsl`.

use std::ops::Range;
use std::sync::Arc;

use super::corpus::Chunk;
use super::{Args, Hasher};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::ops::Stored;
use crate::ops::select::Best;
use crate::ops::select::wgpu::{self, Excluded, Inputs, ScanParams, Shape};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Codes,
    Floats,
}

kernel! {
    pub(crate) FAMILY = "shaders/hamming.wgsl";

    spec HammingSpec {
        kind: Kind = [Kind::Codes, Kind::Floats],
        vec: bool,
        bias: bool,
        exclude: Excluded = [Excluded::None, Excluded::Shared, Excluded::Each],
        qt: u32 = [4, 32],
        /// Whether keys are stored instead of lists.
        keys: bool,
    }
    where (qt == 32 || exclude != Excluded::Each && !keys) && (kind == Kind::Codes || !vec);

    params ScanParams;
}

/// How many queries are searched together.
pub(super) fn group(gpu: &WgpuDevice, args: &Args<'_>, k: usize) -> usize {
    let rows = args.corpus.parts().iter().map(Chunk::len).max().unwrap_or(0);
    wgpu::group(gpu, k, [args.width(), rows])
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
    data: Tensor,
    /// What the sums of float queries are multiplied by.
    scale: Option<Tensor>,
    shape: Shape,
}

impl<'a> Prepared<'a> {
    fn new(
        gpu: &'a Arc<WgpuDevice>,
        args: &'a Args<'a>,
        queries: Range<usize>,
        shape: Shape,
    ) -> Result<Self> {
        let (data, scale) = args.asked(queries)?;
        Ok(Prepared { gpu, args, data, scale, shape })
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
        let (args, words) = (self.args, self.args.corpus.words());
        let codes = &args.corpus.parts()[chunk].rows;
        let kernel = self.gpu.kernel(HammingSpec {
            kind: if self.scale.is_some() { Kind::Floats } else { Kind::Codes },
            vec: self.scale.is_none() && words.is_multiple_of(4),
            bias: args.search.bias.is_some(),
            exclude: self.shape.exclude,
            qt: self.shape.qt,
            keys: self.shape.keys,
        })?;
        let mut bindings: Vec<Binding<'_>> = vec![self.data.wgpu().into()];
        // A caller's buffer may be longer than the rows.
        bindings.push(Binding { buffer: codes.wgpu(), offset: 0, bytes: codes.bytes() as u64 });
        bindings.extend(self.scale.as_ref().map(|t| Binding::from(t.wgpu())));
        bindings.extend(inputs.bindings());
        bindings.push(found.wgpu().into());
        let params = ScanParams { width: words as u32, ..params };
        self.gpu.launch(&kernel, &bindings, &params, grid)
    }
}

kernel! {
    pub(crate) ENCODE = "shaders/hamming_encode.wgsl";

    spec EncodeSpec {
        t: Stored = Stored::ALL,
        project: bool,
    }

    params EncodeParams { rows: u32, dim: u32, words: u32, first: u32, count: u32 }
}

/// Rows of a workgroup that encodes.
const ENCODED: usize = 16;

pub(crate) fn encode(gpu: &Arc<WgpuDevice>, x: &Tensor, hasher: &Hasher) -> Result<Tensor> {
    let (rows, dim, words) = (x.shape()[0], hasher.dim(), hasher.bits() / 32);
    let codes = Tensor::wgpu_uninit(x.device(), DType::U32, &[rows, words])?;
    let spec = EncodeSpec { t: Stored::of(x, &gpu.facts), project: hasher.packed().is_some() };
    let kernel = gpu.kernel(spec)?;
    let widest = (dim * x.dtype().size()).max(words * size_of::<u32>());
    // Without a projection all words go together.
    let panel = if spec.project { 32 * dim * size_of::<f32>() } else { 1 };
    // A word's planes are a multiple of 128 bytes.
    let align = (gpu.facts.offset_alignment as usize / 128).max(1);
    for window in gpu.windows(rows, widest)? {
        for some in gpu.aligned_windows(words, panel, align)? {
            let mut bindings: Vec<Binding<'_>> = vec![gpu.rows(x, &window, dim)];
            if let Some(packed) = hasher.packed() {
                bindings.push(gpu.rows(packed, &some, 32 * dim));
            }
            bindings.push(hasher.thresholds().wgpu().into());
            bindings.push(gpu.rows(&codes, &window, words));
            let params = EncodeParams {
                rows: window.len() as u32,
                dim: dim as u32,
                words: words as u32,
                first: some.start as u32,
                count: some.len() as u32,
            };
            let groups = window.len().div_ceil(ENCODED) * some.len();
            gpu.launch(&kernel, &bindings, &params, spread(groups))?;
        }
    }
    Ok(codes)
}
