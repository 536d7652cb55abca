//! Codes through `kernels/hamming.ptx`, `kernels/hamming_few.ptx` and `kernels/hamming_encode.ptx`.

use std::ops::Range;
use std::sync::Arc;

use super::hopper::{self, Sifted};
use super::{Args, Asked, Hasher};
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::select::cuda::{self, Inputs, ScanParams};
use crate::ops::select::{Best, FUSED_K, sift};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

/// Up to here a query's list is small enough that a block takes many queries.
const SMALL_K: usize = 64;
/// The most queries whose distances threads count; of more, tensor cores do.
const FEW: usize = 4;
/// Rows of a tile of many queries; of few queries, rows of a tile times lanes of a row.
const TILE: usize = 64;
const LANE_ROWS: usize = 2048;
/// The most lanes that take a row.
const LANES: usize = 8;

/// How scores are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Path {
    Mma,
    /// On Hopper, whose tensor cores have no xor of bits.
    Ands,
    Floats,
}

kernel! {
    pub(crate) FAMILY = "kernels/hamming.ptx";

    spec HammingSpec {
        path: Path = [Path::Mma, Path::Ands, Path::Floats],
        /// Whether codes divide into 16 bytes.
        vector: bool,
        /// Queries of a block.
        qt: u32 = [4, 16, 32],
        /// Entries of a list.
        cap: u32 = [128, 512],
        /// Whether keys are stored instead of lists.
        keys: bool,
    }
    where TILES.contains(&(qt, cap, keys))
        && (path == Path::Floats || qt > 4)
        && (path != Path::Floats || !vector);

    params ScanParams;
}

/// Queries of a block, entries of a list and whether keys are stored, in every combination that is chosen.
const TILES: [(u32, u32, bool); 5] =
    [(4, 128, false), (32, 128, false), (4, 512, false), (16, 512, false), (32, 128, true)];

kernel! {
    pub(crate) FEW_CODES = "kernels/hamming_few.ptx";

    spec FewSpec {
        /// Whether codes divide into 16 bytes.
        vector: bool,
        /// Lanes that take a row.
        lanes: u32 = [1, 2, 4, 8],
        /// Queries of a block.
        qt: u32 = [1, 2, 4],
        /// Entries of a list.
        cap: u32 = [128, 512],
    }

    params ScanParams;
}

/// A kernel that scores and selects.
#[derive(Clone, Copy)]
enum Scan {
    Few(FewSpec),
    Tiles(HammingSpec),
}

impl Scan {
    fn choose(gpu: &CudaDevice, args: &Args<'_>, k: usize) -> Scan {
        let (count, words) = (args.count, args.corpus.words());
        let vector = words.is_multiple_of(4);
        let (keys, is_small) = (k > FUSED_K, k <= SMALL_K);
        let cap = if is_small || keys { 128 } else { 512 };
        let floats = matches!(args.queries, Asked::Floats(_));
        if count <= FEW && !keys && !floats {
            let loads = if vector { words / 4 } else { words };
            let lanes = loads.next_power_of_two().min(LANES) as u32;
            return Scan::Few(FewSpec { vector, lanes, qt: count.next_power_of_two() as u32, cap });
        }
        let qt = match count {
            0..=4 if !keys => 4,
            _ if is_small || keys => 32,
            _ => 16,
        };
        let path = match gpu.facts.capability {
            _ if floats => Path::Floats,
            (9, 0) => Path::Ands,
            _ => Path::Mma,
        };
        Scan::Tiles(HammingSpec { path, vector: vector && !floats, qt, cap, keys })
    }

    fn queries(self) -> usize {
        match self {
            Scan::Few(FewSpec { qt, .. }) | Scan::Tiles(HammingSpec { qt, .. }) => qt as usize,
        }
    }
}

/// How many queries are searched together.
pub(super) fn group(gpu: &CudaDevice, args: &Args<'_>, k: usize) -> usize {
    if let Some(plan) = hopper::plan(gpu, args, args.count, k) {
        return plan.group(args.count, gpu.facts.multiprocessors as usize);
    }
    cuda::group(k, k > FUSED_K, Scan::choose(gpu, args, k).queries())
}

pub(super) fn best(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
    k: usize,
) -> Result<Best> {
    let (wanted, spans) = (args.wanted(&queries, k), args.spans());
    let (plan, device) = (hopper::plan(gpu, args, queries.len(), k), args.corpus.device());
    let prepared = Prepared::new(gpu, args, queries, k)?;
    match plan {
        Some(plan) => {
            let sifted = Sifted { gpu, args, queries: &prepared.data };
            sift::best(gpu, device, &wanted, &spans, &prepared, &sifted, plan)
        }
        None => cuda::best(gpu, device, &wanted, &spans, &prepared),
    }
}

pub(super) fn count(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
) -> Result<Vec<u32>> {
    let (wanted, spans) = (args.wanted(&queries, 0), args.spans());
    let prepared = Prepared::new(gpu, args, queries, FUSED_K + 1)?;
    cuda::count(gpu, args.corpus.device(), &wanted, &spans, &prepared)
}

/// Some of the queries on the device, to be searched for together.
struct Prepared<'a> {
    gpu: &'a Arc<CudaDevice>,
    args: &'a Args<'a>,
    data: Tensor,
    /// What the sums of float queries are multiplied by.
    scale: Option<Tensor>,
    scan: Scan,
}

impl<'a> Prepared<'a> {
    fn new(
        gpu: &'a Arc<CudaDevice>,
        args: &'a Args<'a>,
        queries: Range<usize>,
        k: usize,
    ) -> Result<Self> {
        let (data, scale) = args.asked(queries)?;
        Ok(Prepared { gpu, args, data, scale, scan: Scan::choose(gpu, args, k) })
    }
}

impl cuda::Scan for Prepared<'_> {
    fn rows(&self) -> usize {
        match self.scan {
            Scan::Few(spec) => LANE_ROWS / spec.lanes as usize,
            Scan::Tiles(_) => TILE,
        }
    }

    fn queries(&self) -> usize {
        self.scan.queries()
    }

    fn stores_keys(&self) -> bool {
        matches!(self.scan, Scan::Tiles(HammingSpec { keys: true, .. }))
    }

    fn runs_at_once(&self) -> bool {
        matches!(self.scan, Scan::Few(_))
    }

    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        [best, found]: [Binding<'_>; 2],
        params: ScanParams,
        blocks: usize,
    ) -> Result<()> {
        let params = ScanParams { width: self.args.corpus.words() as u32, ..params };
        // What is absent is not read, but something must be bound.
        let absent = Binding::from(self.data.cuda());
        let [skips, masks] = inputs.excluded(absent);
        let codes = self.args.corpus.parts()[chunk].rows.cuda().into();
        let bias = inputs.bias.unwrap_or(absent);
        let scale = self.scale.as_ref().map_or(absent, |t| t.cuda().into());
        let bounds = inputs.bounds.unwrap_or(absent);
        let (kernel, bindings) = match self.scan {
            Scan::Few(spec) => {
                (self.gpu.kernel(spec)?, vec![absent, codes, bias, skips, masks, best, found])
            }
            Scan::Tiles(spec) => {
                let all = vec![absent, codes, scale, bias, skips, masks, bounds, best, found];
                (self.gpu.kernel(spec)?, all)
            }
        };
        self.gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
    }
}

kernel! {
    pub(crate) ENCODE = "kernels/hamming_encode.ptx";

    spec EncodeSpec {
        t: DType = DType::FLOATS,
        project: bool,
    }

    params EncodeParams { rows: u32, dim: u32, words: u32 }
}

/// Rows, and words, of a block that encodes.
const ENCODED: [usize; 2] = [16, 4];

pub(super) fn encode(gpu: &Arc<CudaDevice>, x: &Tensor, hasher: &Hasher) -> Result<Tensor> {
    let (rows, dim, words) = (x.shape()[0], hasher.dim(), hasher.bits() / 32);
    let codes = Tensor::cuda_uninit(x.device(), DType::U32, &[rows, words])?;
    let spec = EncodeSpec { t: x.dtype(), project: hasher.packed().is_some() };
    let kernel = gpu.kernel(spec)?;
    let thresholds = hasher.thresholds();
    let bindings = [
        x.cuda().into(),
        hasher.packed().unwrap_or(thresholds).cuda().into(),
        thresholds.cuda().into(),
        codes.cuda().into(),
    ];
    let params = EncodeParams { rows: rows as u32, dim: dim as u32, words: words as u32 };
    let blocks = rows.div_ceil(ENCODED[0]) * words.div_ceil(ENCODED[1]);
    gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])?;
    Ok(codes)
}
