//! Top-k through `kernels/topk.ptx` and, where tensor cores keep the precision asked for, `kernels/topk_mma.ptx`:
//! splits of the corpus keep sorted lists, `kernels/topk_merge.ptx` merges them; for large k the host selects from slabs
//! of keys.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::corpus::Chunk;
use super::select::{Entry, Selector, entry, finish};
use super::{Args, Bitmap, Exclude, Hits, Metric};
use crate::device::MatmulPrecision;
use crate::device::cuda::{Binding, CudaDevice};
use crate::device::threads::items::*;
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Result, Tensor};

/// The largest k whose lists the kernels keep.
const FUSED_K: usize = 256;
/// Up to here a query's list is small enough that a block takes many queries.
const SMALL_K: usize = 64;
/// The same on tensor cores, whose blocks take twice as many.
const SMALL_TENSOR_K: usize = 32;
/// And where a block may have this much shared memory.
const LARGE_TENSOR_K: usize = 100;
const LARGE_TENSOR_SHARED: u32 = 116_000;
/// How much less the lists should weigh than the rows.
const LIST_SHARE: usize = 64;
/// Bytes of the lists, of a slab of keys, and of the host's candidates for large k.
const LISTS: usize = 64 << 20;
const SLAB: usize = 32 << 20;
const CANDIDATES: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct TopkSpec {
    t: DType,
    /// Whether rows divide into 16 bytes.
    vector: bool,
    metric: Metric,
    /// Queries of a block.
    qt: u32,
    /// Entries of a list.
    cap: u32,
    /// Whether keys are stored instead of lists.
    keys: bool,
}

impl Spec for TopkSpec {
    const FAMILY: &'static str = "topk";
}

params! {
    struct TopkParams {
        dim: u32, rows: u32, base: u32, queries: u32, qtiles: u32,
        start: u32, tiles: u32, per_split: u32, k: u32, resume: u32,
        has_bias: u32, excludes: u32, mask_stride: u32, skip_stride: u32, span: u32,
    }
}

pub(crate) const FAMILY: Family = Family {
    name: TopkSpec::FAMILY,
    spec_keys: || {
        keys(TopkSpec {
            t: DType::F32,
            vector: true,
            metric: Metric::Dot,
            qt: 4,
            cap: 128,
            keys: false,
        })
    },
    params: TopkParams::MEMBERS,
    params_size: size_of::<TopkParams>(),
};

/// The type of the matrix units' operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Core {
    BF16,
    F16,
    Tf32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct TensorSpec {
    t: DType,
    core: Core,
    /// Numbers that stand for one of a query.
    parts: u32,
    metric: Metric,
    /// Rows of a block's tile of queries.
    bm: u32,
    /// Those of them that are queries.
    qt: u32,
    /// Entries of a list.
    cap: u32,
    /// Whether keys are stored instead of lists.
    keys: bool,
}

impl Spec for TensorSpec {
    const FAMILY: &'static str = "topk_mma";
}

pub(crate) const TENSOR: Family = Family {
    name: TensorSpec::FAMILY,
    spec_keys: || {
        keys(TensorSpec {
            t: DType::BF16,
            core: Core::BF16,
            parts: 3,
            metric: Metric::Dot,
            bm: 16,
            qt: 16,
            cap: 128,
            keys: false,
        })
    },
    params: TopkParams::MEMBERS,
    params_size: size_of::<TopkParams>(),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct MergeSpec {
    /// Whether earlier chunks' result is merged in.
    resume: bool,
}

impl Spec for MergeSpec {
    const FAMILY: &'static str = "topk_merge";
}

params! {
    struct MergeParams { queries: u32, splits: u32, k: u32 }
}

pub(crate) const MERGE: Family = Family {
    name: MergeSpec::FAMILY,
    spec_keys: || keys(MergeSpec { resume: false }),
    params: MergeParams::MEMBERS,
    params_size: size_of::<MergeParams>(),
};

/// Enqueues the merge of the splits' lists `found` into each query's `best` \[Q, 2 k\] u32, with `resume` into what is there.
pub(crate) fn merge(
    gpu: &Arc<CudaDevice>,
    found: &Tensor,
    best: &Tensor,
    resume: bool,
    params: MergeParams,
) -> Result<()> {
    let kernel =
        gpu.kernel(MergeSpec { resume }, (MergeParams::MEMBERS, size_of::<MergeParams>()))?;
    let bindings = [found.cuda().into(), best.cuda().into()];
    gpu.launch(&kernel, &bindings, &params, [params.queries as usize, 1, 1])
}

/// Each query's entries of what [`merge`] left. An entry is two words, the row's complement first.
pub(crate) fn entries(best: &Tensor, k: usize) -> Result<Vec<Vec<Entry>>> {
    let words = best.to_vec::<u32>()?;
    let list = |words: &[u32]| {
        let entries = words.chunks_exact(2).map(|w| (w[1] as Entry) << 32 | w[0] as Entry);
        entries.take_while(|&e| e > 0).collect()
    };
    Ok(words.chunks_exact(2 * k).map(list).collect())
}

/// How products are formed on tensor cores.
#[derive(Clone, Copy, Debug)]
struct Product {
    core: Core,
    parts: u32,
}

impl Product {
    /// The fastest way that is as precise as asked for; none where fused multiply-adds are. It depends on nothing that
    /// differs between the queries of a batch.
    fn choose(
        precision: MatmulPrecision,
        queries: DType,
        t: DType,
        metric: Metric,
        dim: usize,
    ) -> Option<Product> {
        // The matrix form of a distance cancels; copies of 16 bytes need rows that are multiples of it, in both types.
        if metric == Metric::L2 || !dim.is_multiple_of(8) {
            return None;
        }
        let (core, parts) = match (queries, t, precision) {
            // Nothing is rounded; the bits are those of three parts, of which two are 0.
            (DType::BF16, DType::BF16, _) => (Core::BF16, 1),
            (DType::F16, DType::F16, _) => (Core::F16, 1),
            (_, DType::BF16, MatmulPrecision::Medium) => (Core::BF16, 1),
            // Three bf16 are an f32.
            (_, DType::BF16, _) => (Core::BF16, 3),
            (_, DType::F16, MatmulPrecision::Medium) => (Core::F16, 1),
            (_, DType::F32, MatmulPrecision::High) => (Core::Tf32, 1),
            (_, DType::F32, MatmulPrecision::Medium) => (Core::BF16, 1),
            _ => return None,
        };
        Some(Product { core, parts })
    }

    /// The queries as they enter: a matrix for each part, \[parts, Q, D\]. Those whose `scale` is NaN find nothing and
    /// enter as zeros.
    fn enter(self, args: &Args<'_>, data: &[f32], scale: &[f32]) -> Result<Tensor> {
        let (device, dim) = (args.corpus.device(), args.corpus.dim());
        let shape = [self.parts as usize, scale.len(), dim];
        let found = |i: usize| if scale[i / dim].is_nan() { 0.0 } else { data[i] };
        let (threads, all) = (device.threads(), (0..data.len()).into_par_iter());
        match self.core {
            Core::BF16 if self.parts > 1 => {
                let parts = (0..self.parts).flat_map(|part| {
                    threads.map(data.len(), all.clone(), |i| part_of(found(i), part))
                });
                Tensor::from_slice(device, &shape, &parts.collect::<Vec<bf16>>())
            }
            Core::BF16 => {
                let round = |i| bf16::from_f32(within(found(i), bf16::MAX.to_f32()));
                Tensor::from_slice(device, &shape, &threads.map(data.len(), all, round))
            }
            Core::F16 => {
                let round = |i| f16::from_f32(within(found(i), f16::MAX.to_f32()));
                Tensor::from_slice(device, &shape, &threads.map(data.len(), all, round))
            }
            Core::Tf32 => {
                let data = threads.map(data.len(), all, |i| tf32(found(i)));
                Tensor::from_slice(device, &shape, &data)
            }
        }
    }
}

/// `x`, or the nearest within `most` of 0 if it is finite, so that rounding does not make it infinite.
fn within(x: f32, most: f32) -> f32 {
    if x.is_finite() { x.clamp(-most, most) } else { x }
}

/// Part `part` of three bf16 that sum to `x`, the greatest first. They are cut, not rounded, so that an f32 near the
/// largest stays finite; behind an infinity come zeros.
fn part_of(x: f32, part: u32) -> bf16 {
    let mut rest = x;
    for _ in 0..part {
        rest -= f32::from_bits(rest.to_bits() & 0xffff_0000);
    }
    let rest = if part > 0 && x.is_infinite() { 0.0 } else { rest };
    bf16::from_bits((rest.to_bits() >> 16) as u16)
}

/// Rounded to 11 significant bits, ties away from zero as `cvt.rna` does; what is finite stays so.
fn tf32(x: f32) -> f32 {
    let cut = |x: u32| f32::from_bits(x & 0xffff_e000);
    let rounded = cut(x.to_bits().wrapping_add(0x1000));
    if x.is_finite() && rounded.is_finite() { rounded } else { cut(x.to_bits()) }
}

/// A kernel that scores and selects.
#[derive(Clone, Copy, Debug)]
enum Scan {
    Fma(TopkSpec),
    Tensor(TensorSpec),
}

impl Scan {
    fn choose(gpu: &CudaDevice, args: &Args<'_>) -> Scan {
        let (t, metric, dim) = (args.corpus.dtype(), args.form, args.corpus.dim());
        let keys = args.k > FUSED_K;
        let has_room = gpu.facts.shared_per_block >= LARGE_TENSOR_SHARED;
        if let Some(product) = Product::choose(gpu.precision, args.dtype, t, metric, dim) {
            let tile = match args.k {
                _ if keys => [64, 64, 64],
                0..=SMALL_TENSOR_K if args.count > 16 => [64, 64, 64],
                0..=LARGE_TENSOR_K if args.count > 16 && has_room => [64, 64, 128],
                0..=64 => [16, 16, 128],
                65..=128 => [16, 16, 256],
                _ => [16, 8, 512],
            };
            return Scan::tensor(product, t, metric, tile, keys);
        }
        let (qt, cap) = match args.count {
            _ if keys => (32, 128),
            0..=4 if args.k <= SMALL_K => (4, 128),
            _ if args.k <= SMALL_K => (32, 128),
            0..=4 => (4, 512),
            _ => (16, 512),
        };
        let vector = (dim * t.size()).is_multiple_of(16);
        Scan::Fma(TopkSpec { t, vector, metric, qt, cap, keys })
    }

    fn tensor(
        Product { core, parts }: Product,
        t: DType,
        metric: Metric,
        [bm, qt, cap]: [u32; 3],
        keys: bool,
    ) -> Scan {
        Scan::Tensor(TensorSpec { t, core, parts, metric, bm, qt, cap, keys })
    }

    /// Rows of a tile.
    fn rows(self) -> usize {
        match self {
            Scan::Fma(_) => 64,
            Scan::Tensor(_) => 128,
        }
    }

    /// Queries of a block.
    fn queries(self) -> usize {
        match self {
            Scan::Fma(spec) => spec.qt as usize,
            Scan::Tensor(spec) => spec.qt as usize,
        }
    }

    fn stores_keys(self) -> bool {
        match self {
            Scan::Fma(spec) => spec.keys,
            Scan::Tensor(spec) => spec.keys,
        }
    }
}

pub(super) fn topk(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Hits> {
    search(gpu, args, Scan::choose(gpu, args))
}

fn search(gpu: &Arc<CudaDevice>, args: &Args<'_>, scan: Scan) -> Result<Hits> {
    // Lists of several splits should fit for all queries of a pass.
    let group = match scan.stores_keys() {
        false => LISTS / (8 * args.k) / 8,
        true => (CANDIDATES / Selector::bytes(args.k)).min(2 * scan.queries()),
    };
    let group = group.clamp(1, args.count);
    let mut hits = Hits::new();
    for first in (0..args.count).step_by(group) {
        let queries = first..(first + group).min(args.count);
        let pass = Pass::new(gpu, args, queries, scan)?;
        let found = if scan.stores_keys() { pass.slabs()? } else { pass.lists()? };
        found.iter().for_each(|entries| hits.push(entries));
    }
    Ok(hits)
}

/// Some of the queries on the device, to be searched for together.
struct Pass<'a> {
    gpu: &'a Arc<CudaDevice>,
    args: &'a Args<'a>,
    queries: Range<usize>,
    data: Tensor,
    /// The queries as they enter tensor cores.
    parts: Option<Tensor>,
    scale: Tensor,
    scan: Scan,
}

/// A chunk's inputs that change from search to search.
struct Inputs {
    bias: Option<Tensor>,
    /// For each tile of queries and each of rows whether nothing may be found there, and the bitmaps' words.
    exclude: Option<[Tensor; 2]>,
    tiles: usize,
    /// Whether each query has a bitmap of its own.
    each: bool,
}

impl<'a> Pass<'a> {
    fn new(
        gpu: &'a Arc<CudaDevice>,
        args: &'a Args<'a>,
        queries: Range<usize>,
        scan: Scan,
    ) -> Result<Self> {
        let (device, dim, n) = (args.corpus.device(), args.corpus.dim(), queries.len());
        let data = &args.queries[queries.start * dim..queries.end * dim];
        let scale = &args.scale[queries.clone()];
        let parts = match scan {
            Scan::Fma(_) => None,
            Scan::Tensor(TensorSpec { core, parts, .. }) => {
                Some(Product { core, parts }.enter(args, data, scale)?)
            }
        };
        Ok(Pass {
            gpu,
            args,
            data: Tensor::from_slice(device, &[n, dim], data)?,
            parts,
            scale: Tensor::from_slice(device, &[n], scale)?,
            queries,
            scan,
        })
    }

    /// The chunks of which something may be found.
    fn chunks(&self) -> impl Iterator<Item = &'a Chunk> {
        let (exclude, queries) = (self.args.search.exclude, self.queries.clone());
        let parts = self.args.corpus.parts().iter();
        parts.filter(move |c| !exclude.covers(queries.clone(), c.start..c.start + c.len()))
    }

    fn inputs(&self, chunk: &Chunk) -> Result<Inputs> {
        let device = self.args.corpus.device();
        let height = self.scan.rows();
        let (n, tiles) = (chunk.len(), chunk.len().div_ceil(height));
        let bias = match self.args.search.bias {
            Some(b) => Some(Tensor::from_slice(device, &[n], &b[chunk.start..][..n])?),
            None => None,
        };
        let (maps, each): (&[Bitmap], bool) = match self.args.search.exclude {
            Exclude::None => return Ok(Inputs { bias, exclude: None, tiles, each: false }),
            Exclude::Shared(map) => (std::slice::from_ref(map), false),
            Exclude::PerQuery(maps) => (&maps[self.queries.clone()], true),
        };
        let rows = |tile: usize| {
            let start = chunk.start + tile * height;
            start..(start + height).min(chunk.start + n)
        };
        let skips: Vec<u32> = maps
            .chunks(self.scan.queries())
            .flat_map(|maps| (0..tiles).map(move |t| maps.iter().all(|m| m.covers(rows(t))) as u32))
            .collect();
        let words: Vec<u32> = maps
            .iter()
            .flat_map(|map| (0..height / 32 * tiles).map(|w| map.word(chunk.start + 32 * w)))
            .collect();
        let exclude = Some([
            Tensor::from_slice(device, &[skips.len()], &skips)?,
            Tensor::from_slice(device, &[words.len()], &words)?,
        ]);
        Ok(Inputs { bias, exclude, tiles, each })
    }

    /// Enqueues the search of a chunk's tiles; `params` says which, by how many splits.
    fn launch(
        &self,
        chunk: &Chunk,
        inputs: &Inputs,
        best: Binding<'_>,
        found: Binding<'_>,
        params: TopkParams,
    ) -> Result<()> {
        let qtiles = self.queries.len().div_ceil(self.scan.queries());
        let words = self.scan.rows() / 32 * inputs.tiles;
        let params = TopkParams {
            dim: self.args.corpus.dim() as u32,
            rows: chunk.len() as u32,
            base: chunk.start as u32,
            queries: self.queries.len() as u32,
            qtiles: qtiles as u32,
            k: self.args.k as u32,
            has_bias: inputs.bias.is_some() as u32,
            excludes: inputs.exclude.is_some() as u32,
            mask_stride: if inputs.each { words as u32 } else { 0 },
            skip_stride: if inputs.each { inputs.tiles as u32 } else { 0 },
            ..params
        };
        let layout = (TopkParams::MEMBERS, size_of::<TopkParams>());
        let kernel = match self.scan {
            Scan::Fma(spec) => self.gpu.kernel(spec, layout)?,
            Scan::Tensor(spec) => self.gpu.kernel(spec, layout)?,
        };
        // What is absent is not read, but something must be bound.
        let [skips, masks] = match &inputs.exclude {
            Some([skips, masks]) => [Some(skips), Some(masks)],
            None => [None, None],
        };
        let metric = self.args.search.metric;
        let row_scale = chunk.scale(metric, self.args.form)?;
        let mut bindings = vec![
            self.parts.as_ref().unwrap_or(&self.data).cuda().into(),
            chunk.compared(metric).cuda().into(),
            self.scale.cuda().into(),
            row_scale.cuda().into(),
            inputs.bias.as_ref().unwrap_or(&self.data).cuda().into(),
            skips.unwrap_or(&self.data).cuda().into(),
            masks.unwrap_or(&self.data).cuda().into(),
        ];
        bindings.extend(self.parts.is_some().then(|| Binding::from(self.data.cuda())));
        bindings.extend([best, found]);
        let splits = params.tiles.div_ceil(params.per_split) as usize;
        self.gpu.launch(&kernel, &bindings, &params, [qtiles * splits, 1, 1])
    }

    /// Lists of each split, merged chunk by chunk.
    fn lists(&self) -> Result<Vec<Vec<Entry>>> {
        let (n, k) = (self.queries.len(), self.args.k);
        let device = self.args.corpus.device();
        let height = self.scan.rows();
        let qtiles = n.div_ceil(self.scan.queries());
        // Several blocks for each multiprocessor, one at least; but lists that weigh little beside the rows, and splits of
        // several times k rows, or their lists would never prune. On tensor cores all run at once, two on each, so that few
        // begin with an empty list.
        let processors = self.gpu.facts.multiprocessors as usize;
        let least = processors.div_ceil(qtiles);
        let [least, most] = match self.scan {
            Scan::Tensor(_) => {
                let most = (2 * processors / qtiles).max(1);
                [least.min(most), most]
            }
            Scan::Fma(_) => [least, 8 * least],
        };
        let splits = |chunk: &Chunk| {
            (chunk.rows.bytes() / (LIST_SHARE * 8 * k * n))
                .clamp(least, most)
                .min(chunk.len() / (4 * k).max(256))
                .min(LISTS / (8 * k * n))
                .max(1)
        };
        let most = self.chunks().map(splits).max().unwrap_or(0);
        if most == 0 {
            return Ok(vec![Vec::new(); n]);
        }
        // An entry is two words, the row's complement first.
        let found = Tensor::cuda_uninit(device, DType::U32, &[most, n, 2 * k])?;
        let best = Tensor::cuda_uninit(device, DType::U32, &[n, 2 * k])?;
        for (i, chunk) in self.chunks().enumerate() {
            let tiles = chunk.len().div_ceil(height);
            let per_split = tiles.div_ceil(splits(chunk));
            let params = TopkParams {
                tiles: tiles as u32,
                per_split: per_split as u32,
                resume: (i > 0) as u32,
                ..Default::default()
            };
            let inputs = self.inputs(chunk)?;
            self.launch(chunk, &inputs, best.cuda().into(), found.cuda().into(), params)?;
            let params = MergeParams {
                queries: n as u32,
                splits: tiles.div_ceil(per_split) as u32,
                k: k as u32,
            };
            merge(self.gpu, &found, &best, i > 0, params)?;
        }
        entries(&best, k)
    }

    /// Large k: keys of all queries of the pass and as many rows as a slab holds, selected from on the host.
    fn slabs(&self) -> Result<Vec<Vec<Entry>>> {
        let n = self.queries.len();
        let device = self.args.corpus.device();
        let height = self.scan.rows();
        let fit = (SLAB / size_of::<u32>() / n / height).max(1);
        let mut selectors = vec![Selector::new(self.args.k); n];
        for chunk in self.chunks() {
            let inputs = self.inputs(chunk)?;
            for start in (0..inputs.tiles).step_by(fit) {
                let tiles = fit.min(inputs.tiles - start);
                let first = start * height;
                let span = (tiles * height).min(chunk.len() - first);
                // Tiles that are skipped stay 0, which never enters.
                let found = Tensor::zeros(device, DType::U32, &[n, span])?;
                let splits = tiles.min(8 * self.gpu.facts.multiprocessors as usize);
                let params = TopkParams {
                    start: start as u32,
                    tiles: tiles as u32,
                    per_split: tiles.div_ceil(splits) as u32,
                    span: span as u32,
                    ..Default::default()
                };
                let unused = self.data.cuda().into();
                self.launch(chunk, &inputs, unused, found.cuda().into(), params)?;
                let keys = found.to_vec::<u32>()?;
                let each = selectors.par_iter_mut().zip(keys.par_chunks(span));
                device.threads().for_each(keys.len(), each, |(selector, keys)| {
                    for (row, &key) in (chunk.start + first..).zip(keys) {
                        let entry = entry(key, row as u32);
                        if key > 0 && entry > selector.threshold() {
                            selector.push(entry);
                        }
                    }
                });
            }
        }
        Ok(finish(device.threads(), selectors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Backend;
    use crate::ops::length::inverse_length;
    use crate::ops::topk::{Corpus, Search, prepare};
    use crate::{Device, DeviceOptions};

    fn data(n: usize, step: u32) -> Vec<f32> {
        let unit = |i: u32| (i.wrapping_mul(step) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        (0..n as u32).map(unit).collect()
    }

    #[test]
    fn three_parts_are_the_number() {
        let sums = [1.0, -std::f32::consts::PI, f32::MAX, 1e-20, -0.0, f32::MIN_POSITIVE];
        for x in sums {
            let parts = [0, 1, 2].map(|part| part_of(x, part).to_f32());
            assert_eq!(parts[2] + parts[1] + parts[0], x, "{parts:?}");
        }
        let parts = [0, 1, 2].map(|part| part_of(f32::NEG_INFINITY, part).to_f32());
        assert_eq!(parts, [f32::NEG_INFINITY, 0.0, 0.0]);
    }

    #[test]
    fn rounding_keeps_the_finite_finite() {
        assert_eq!(tf32(1.0 + 2f32.powi(-11)), 1.0 + 2f32.powi(-10));
        assert_eq!(tf32(-1.0 - 2f32.powi(-12)), -1.0);
        assert!(tf32(f32::MAX).is_finite());
        assert_eq!(tf32(f32::INFINITY), f32::INFINITY);
        assert_eq!(within(-1e9, f16::MAX.to_f32()), -65504.0);
        assert_eq!(within(f32::INFINITY, 1.0), f32::INFINITY);
    }

    /// The tests of the operation see the tiles that the policy takes; here every tile of every core finds the same hits,
    /// bit for bit, and what a product in f64 of the operands as they enter says.
    #[test]
    fn every_tile_finds_the_same_hits() {
        let Ok(device) = Device::cuda_with(0, DeviceOptions::default()) else {
            eprintln!("skipped: no CUDA device");
            return;
        };
        let Backend::Cuda(gpu) = device.backend() else { unreachable!() };
        let on = |core, parts| Product { core, parts };
        // The last number: the rounding of operands as they enter.
        let products = [
            (on(Core::BF16, 3), DType::BF16, 0.0),
            (on(Core::BF16, 1), DType::BF16, 2f64.powi(-9)),
            (on(Core::F16, 1), DType::F16, 2f64.powi(-11)),
            (on(Core::BF16, 1), DType::F32, 2f64.powi(-8)),
            (on(Core::Tf32, 1), DType::F32, 2f64.powi(-11)),
        ];
        let tiles = [[64, 64, 64], [64, 64, 128], [16, 16, 128], [16, 16, 256], [16, 8, 512]];
        for (product, t, rounding) in products {
            for (metric, count, n, dim) in
                [(Metric::Dot, 67, 387, 40), (Metric::Cosine, 9, 129, 136)]
            {
                let what = format!("{product:?} of {t}, {metric:?} of {count} with {n} x {dim}");
                let rows = data(n * dim, 2246822519);
                let rows = Tensor::from_f32(&device, t, &[n, dim], &rows).unwrap();
                let corpus = Corpus::from_tensor(&rows).unwrap();
                let (queries, bias) = (data(count * dim, 2654435761), data(n, 3266489917));
                let found = |k: usize, tile, keys| {
                    let search = Search { bias: Some(&bias), ..Search::new(metric, k) };
                    let mut plain = queries.clone();
                    let (scale, form) = prepare(&mut plain, &corpus, metric);
                    let args = Args {
                        queries: &plain,
                        scale: &scale,
                        dtype: DType::F32,
                        count,
                        corpus: &corpus,
                        search: &search,
                        form,
                        k,
                    };
                    let scan = Scan::tensor(product, t, metric, tile, keys);
                    super::search(gpu, &args, scan).unwrap()
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
                let rows = rows.to_f32_vec().unwrap();
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
