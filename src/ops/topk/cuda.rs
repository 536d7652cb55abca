//! Top-k's scans: `kernels/topk.ptx` and, where tensor cores keep the precision asked for, `kernels/topk_mma.ptx`.

use std::ops::Range;
use std::sync::Arc;

use super::corpus::Compared;
use super::hopper::{Sifted, Way};
use super::prepare::{kind, plain, prepare};
use super::rough::{self, Rounded};
use super::{Args, Metric, Storage};
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::precision::{Core, Product};
use crate::ops::rows::Reduced;
use crate::ops::rows::cuda::reduced;
use crate::ops::select::cuda::{self, Inputs, ScanParams};
use crate::ops::select::{Best, FUSED_K, sift};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

/// Up to here a query's list is small enough that a block takes many queries.
const SMALL_K: usize = 64;
/// The same on tensor cores, whose blocks take twice as many.
const SMALL_TENSOR_K: usize = 32;
/// And where a block may have this much shared memory.
const LARGE_TENSOR_K: usize = 100;
const LARGE_TENSOR_SHARED: u32 = 116_000;

/// The forms of vectors that are searched.
const STORED: [Storage; 4] = [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8];

/// Queries of a block, entries of a list and whether keys are stored, in every combination that is chosen.
const TILES: [(u32, u32, bool); 7] = [
    (1, 256, false),
    (1, 512, false),
    (4, 128, false),
    (32, 128, false),
    (4, 512, false),
    (16, 512, false),
    (32, 128, true),
];

kernel! {
    pub(crate) FAMILY = "kernels/topk.ptx";

    spec TopkSpec {
        t: Storage = STORED,
        /// Whether rows divide into 16 bytes.
        vector: bool,
        metric: Metric = [Metric::Dot, Metric::Cosine, Metric::L2],
        /// Queries of a block.
        qt: u32 = [1, 4, 16, 32],
        /// Entries of a list.
        cap: u32 = [128, 256, 512],
        /// Whether keys are stored instead of lists.
        keys: bool,
    }
    where TILES.contains(&(qt, cap, keys)) && (t != Storage::Int8 || metric == Metric::Cosine);

    params ScanParams;
}

/// The same on tensor cores: rows of a tile of queries, those that are queries, entries and keys.
const TENSOR_TILES: [(u32, u32, u32, bool); 6] = [
    (16, 16, 128, false),
    (16, 16, 256, false),
    (16, 8, 512, false),
    (64, 64, 64, false),
    (64, 64, 128, false),
    (64, 64, 64, true),
];

kernel! {
    pub(crate) TENSOR = "kernels/topk_mma.ptx";

    spec TensorSpec {
        t: Storage = STORED,
        core: Core = [Core::BF16, Core::F16, Core::Tf32, Core::Int8],
        /// Numbers that stand for one of a query.
        parts: u32 = [1, 3],
        metric: Metric = [Metric::Dot, Metric::Cosine],
        /// Rows of a block's tile of queries.
        bm: u32 = [16, 64],
        /// Those of them that are queries.
        qt: u32 = [8, 16, 64],
        /// Entries of a list.
        cap: u32 = [64, 128, 256, 512],
        /// Whether keys are stored instead of lists.
        keys: bool,
    }
    where is_formed(Product { core, parts }, t, metric)
        && TENSOR_TILES.contains(&(bm, qt, cap, keys));

    params ScanParams;
}

/// Whether tensor cores form scores so.
pub(super) fn is_formed(product: Product, t: Storage, metric: Metric) -> bool {
    match t.floats() {
        Some(t) => [DType::F32, t].iter().any(|&queries| product.exists(queries, t)),
        None => product == Product::INT8 && metric == Metric::Cosine,
    }
}

/// How scores are formed. It depends on nothing that differs between the queries of a batch.
fn product(gpu: &CudaDevice, args: &Args<'_>) -> Product {
    let (t, metric, width) = (args.corpus.storage(), args.metric, args.corpus.width());
    let queries = args.queries.dtype();
    let Some(floats) = t.floats() else {
        // Bytes, in words: their sums are exact on tensor cores as elsewhere.
        return if width.is_multiple_of(4) { Product::INT8 } else { Product::FMA };
    };
    // Hopper's tensor cores bound the scores of many queries, which is faster than to round f32 rows for each.
    if gpu.facts.capability == (9, 0) && floats == DType::F32 {
        return Product::FMA;
    }
    // The matrix form of a distance cancels; copies of 16 bytes need rows that are multiples of it, in both types.
    if metric == Metric::L2 || !width.is_multiple_of(8) {
        return Product::FMA;
    }
    // Queries of another type than the corpus's are made f32. Those of its type are not rounded; in bf16 the bits are those of three
    // parts, of which two are 0.
    let queries = if queries == floats { floats } else { DType::F32 };
    match Product::choose(gpu.precision, queries, floats) {
        // Few scores are worth three products; as they are, they are exact.
        Product::THREE => Product::FMA,
        product => product,
    }
}

/// A kernel that scores and selects.
#[derive(Clone, Copy, Debug)]
enum Scan {
    Fma(TopkSpec),
    Tensor(TensorSpec),
}

impl Scan {
    fn choose(gpu: &CudaDevice, args: &Args<'_>, count: usize, k: usize) -> Scan {
        let (t, metric, width) = (args.corpus.storage(), args.metric, args.corpus.width());
        let keys = k > FUSED_K;
        let has_room = gpu.facts.shared_per_block >= LARGE_TENSOR_SHARED;
        let product = product(gpu, args);
        if product.is_tensor() {
            let tile = match k {
                _ if keys => [64, 64, 64],
                0..=SMALL_TENSOR_K if count > 16 => [64, 64, 64],
                0..=LARGE_TENSOR_K if count > 16 && has_room => [64, 64, 128],
                0..=64 => [16, 16, 128],
                65..=128 => [16, 16, 256],
                _ => [16, 8, 512],
            };
            return Scan::tensor(product, t, metric, tile, keys);
        }
        let (qt, cap) = match count {
            _ if keys => (32, 128),
            1 if k <= SMALL_K => (1, 256),
            1 => (1, 512),
            0..=4 if k <= SMALL_K => (4, 128),
            _ if k <= SMALL_K => (32, 128),
            0..=4 => (4, 512),
            _ => (16, 512),
        };
        let vector = (width * t.dtype().size()).is_multiple_of(16);
        Scan::Fma(TopkSpec { t, vector, metric, qt, cap, keys })
    }

    fn tensor(
        Product { core, parts }: Product,
        t: Storage,
        metric: Metric,
        [bm, qt, cap]: [u32; 3],
        keys: bool,
    ) -> Scan {
        Scan::Tensor(TensorSpec { t, core, parts, metric, bm, qt, cap, keys })
    }
}

/// How many queries are searched together.
pub(super) fn group(gpu: &CudaDevice, args: &Args<'_>, k: usize) -> usize {
    let processors = gpu.facts.multiprocessors as usize;
    let product = product(gpu, args);
    if let Some((_, plan)) = Way::choose(gpu, args, product, args.count, k) {
        return plan.group(args.count, processors);
    }
    // What fails here fails again in the search, which tells.
    if let Ok(Some(plan)) = rough::plan(gpu, args, product, args.count, k) {
        return plan.group(args.count, processors);
    }
    let block = Prepared::queries_of(Scan::choose(gpu, args, args.count, k));
    cuda::group(k, k > FUSED_K, block)
}

pub(super) fn best(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
    k: usize,
) -> Result<Best> {
    // By all queries, so that a group's bits are those of the others.
    let scan = Scan::choose(gpu, args, args.count, k);
    let (wanted, spans) = (args.wanted(&queries, k), args.spans());
    let device = args.corpus.device();
    let (product, count) = (product(gpu, args), queries.len());
    let way = Way::choose(gpu, args, product, count, k);
    let rough = rough::plan(gpu, args, product, count, k)?;
    let prepared = Prepared::new(gpu, args, queries, scan)?;
    if let Some(plan) = rough {
        let rounded = Rounded::new(&prepared)?;
        return sift::best(gpu, device, &wanted, &spans, &prepared, &rounded, plan);
    }
    match (way, &prepared.parts) {
        (Some((way, plan)), Some(parts)) => {
            let sifted = Sifted { prepared: &prepared, parts, way };
            sift::best(gpu, device, &wanted, &spans, &prepared, &sifted, plan)
        }
        _ => cuda::best(gpu, device, &wanted, &spans, &prepared),
    }
}

pub(super) fn count(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    queries: Range<usize>,
) -> Result<Vec<u32>> {
    let scan = Scan::choose(gpu, args, args.count, FUSED_K + 1);
    let (wanted, spans) = (args.wanted(&queries, 0), args.spans());
    let prepared = Prepared::new(gpu, args, queries, scan)?;
    cuda::count(gpu, args.corpus.device(), &wanted, &spans, &prepared)
}

/// Some of the queries on the device, to be searched for together.
pub(super) struct Prepared<'a> {
    pub(super) gpu: &'a Arc<CudaDevice>,
    pub(super) args: &'a Args<'a>,
    pub(super) reduced: Reduced,
    /// The queries as they enter tensor cores.
    parts: Option<Tensor>,
    scan: Scan,
}

impl<'a> Prepared<'a> {
    fn new(
        gpu: &'a Arc<CudaDevice>,
        args: &'a Args<'a>,
        queries: Range<usize>,
        scan: Scan,
    ) -> Result<Self> {
        let product = match scan {
            Scan::Fma(_) => Product::FMA,
            Scan::Tensor(TensorSpec { core, parts, .. }) => Product { core, parts },
        };
        if args.corpus.storage() == Storage::Int8 {
            let reduced = prepare(args, queries)?;
            let parts = matches!(scan, Scan::Tensor(..)).then(|| reduced.data.clone());
            return Ok(Prepared { gpu, args, reduced, parts, scan });
        }
        let (kind, plain) = (kind(args.metric), plain(args.corpus.dtype()));
        let (reduced, parts) = reduced(gpu, args.queries, queries, kind, plain, product)?;
        Ok(Prepared { gpu, args, reduced, parts, scan })
    }

    fn queries_of(scan: Scan) -> usize {
        match scan {
            Scan::Fma(spec) => spec.qt as usize,
            Scan::Tensor(spec) => spec.qt as usize,
        }
    }
}

impl cuda::Scan for Prepared<'_> {
    fn rows(&self) -> usize {
        match self.scan {
            Scan::Fma(spec) if spec.qt > 1 => 64,
            _ => 128,
        }
    }

    fn queries(&self) -> usize {
        Self::queries_of(self.scan)
    }

    fn stores_keys(&self) -> bool {
        match self.scan {
            Scan::Fma(spec) => spec.keys,
            Scan::Tensor(spec) => spec.keys,
        }
    }

    fn runs_at_once(&self) -> bool {
        matches!(self.scan, Scan::Tensor(..) | Scan::Fma(TopkSpec { qt: 1, .. }))
    }

    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        [best, found]: [Binding<'_>; 2],
        params: ScanParams,
        blocks: usize,
    ) -> Result<()> {
        // To tensor cores a word of four bytes is two dimensions of 16 bits.
        let width = match (self.scan, self.args.corpus.storage()) {
            (Scan::Tensor(_), Storage::Int8) => 2 * self.args.corpus.width(),
            _ => self.args.corpus.width(),
        };
        let params = ScanParams { width: width as u32, ..params };
        let chunk = &self.args.corpus.parts()[chunk];
        let Compared { form, rows, scale } = chunk.compared(self.args.metric)?;
        let kernel = match self.scan {
            Scan::Fma(spec) => self.gpu.kernel(TopkSpec { metric: form, ..spec })?,
            Scan::Tensor(spec) => self.gpu.kernel(TensorSpec { metric: form, ..spec })?,
        };
        // What is absent is not read, but something must be bound.
        let absent = Binding::from(self.reduced.data.cuda());
        let [skips, masks] = inputs.excluded(absent);
        let mut bindings = vec![
            self.parts.as_ref().map_or(absent, |t| t.cuda().into()),
            rows.cuda().into(),
            self.reduced.scale.cuda().into(),
            scale.cuda().into(),
            inputs.bias.unwrap_or(absent),
            skips,
            masks,
        ];
        bindings.extend(self.parts.is_some().then_some(absent));
        bindings.push(inputs.bounds.unwrap_or(absent));
        bindings.extend([best, found]);
        self.gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Backend;
    use crate::device::required::required;
    use crate::ops::length::inverse_length;
    use crate::ops::select::{Found, Scored, Search};
    use crate::ops::topk::Corpus;
    use crate::{Device, DeviceOptions};

    fn data(n: usize, step: u32) -> Vec<f32> {
        let unit = |i: u32| (i.wrapping_mul(step) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        (0..n as u32).map(unit).collect()
    }

    /// The tests of the operation see the tiles that the policy takes; here every tile of every core finds the same hits,
    /// bit for bit, and what a product in f64 of the operands as they enter says.
    #[test]
    fn every_tile_finds_the_same_hits() {
        let opened = Device::cuda_with(0, DeviceOptions::default());
        let Some(device) = required("cuda", opened) else { return };
        let Backend::Cuda(gpu) = device.backend() else { unreachable!() };
        let on = |core, parts| Product { core, parts };
        // The last number: the rounding of operands as they enter.
        let products = [
            (on(Core::BF16, 3), Storage::BF16, 0.0),
            (on(Core::BF16, 1), Storage::BF16, 2f64.powi(-9)),
            (on(Core::F16, 1), Storage::F16, 2f64.powi(-11)),
            (on(Core::BF16, 1), Storage::F32, 2f64.powi(-8)),
            (on(Core::Tf32, 1), Storage::F32, 2f64.powi(-11)),
            (Product::INT8, Storage::Int8, 2f64.powi(-6)),
        ];
        let tiles = [[64, 64, 64], [64, 64, 128], [16, 16, 128], [16, 16, 256], [16, 8, 512]];
        for (product, t, rounding) in products {
            for (metric, count, n, dim) in
                [(Metric::Dot, 67, 387, 48), (Metric::Cosine, 9, 129, 144)]
            {
                let what = format!("{product:?} of {t}, {metric:?} of {count} with {n} x {dim}");
                let rows = data(n * dim, 2246822519);
                let rows = Tensor::from_slice(&device, &[n, dim], &rows).unwrap();
                let corpus = Corpus::from_tensor(&rows).unwrap().to_storage(t).unwrap();
                let (queries, bias) = (data(count * dim, 2654435761), data(n, 3266489917));
                let asked = Tensor::from_slice(&device, &[count, dim], &queries).unwrap();
                let bias_on = Tensor::from_slice(&device, &[n], &bias).unwrap();
                let found = |k: usize, tile, keys| {
                    let search = Search { bias: Some(&bias_on), ..Search::new(k) };
                    let args = Args {
                        queries: &asked,
                        count,
                        corpus: &corpus,
                        metric,
                        search: &search,
                        floor: 0,
                    };
                    let scan = Scan::tensor(product, t, metric, tile, keys);
                    let prepared = Prepared::new(gpu, &args, 0..count, scan).unwrap();
                    let (wanted, spans) = (args.wanted(&(0..count), k), args.spans());
                    let best = cuda::best(gpu, &device, &wanted, &spans, &prepared).unwrap();
                    Found::new(args.device(), vec![best], count, k).to_hits().unwrap()
                };
                let all = found(n, tiles[0], true);
                for tile in tiles {
                    let some = found(20, tile, false);
                    for q in 0..count {
                        let (ids, scores) = all.get(q);
                        assert_eq!(
                            some.get(q),
                            (&ids[..20], &scores[..20]),
                            "{what}: {tile:?}, query {q}"
                        );
                    }
                }
                let numbers: Vec<u32> = (0..n as u32).collect();
                let rows = corpus.gather(&numbers).unwrap().to_f32_vec().unwrap();
                for q in 0..count {
                    let query = &queries[q * dim..][..dim];
                    let (ids, scores) = all.get(q);
                    assert_eq!(ids.len(), n, "{what}");
                    for (&id, &got) in ids.iter().zip(scores) {
                        let row = &rows[id as usize * dim..][..dim];
                        let (mut sum, mut size) = (0f64, 0f64);
                        for (&a, &b) in query.iter().zip(row) {
                            sum += a as f64 * b as f64;
                            size += (a as f64 * b as f64).abs();
                        }
                        let scale = match metric {
                            Metric::Cosine => {
                                inverse_length(query) as f64 * inverse_length(row) as f64
                            }
                            _ => 1.0,
                        };
                        let want = sum * scale + bias[id as usize] as f64;
                        let tolerance =
                            scale * size * (rounding + 1.2e-7 * (dim as f64).sqrt()) + 4e-7;
                        let off = (got as f64 - want).abs();
                        assert!(off <= tolerance, "{what}: {got} for {want}, off by {off:e}");
                    }
                }
            }
        }
    }
}
