//! Codes through `kernels/hamming.ptx` and `kernels/hamming_encode.ptx`. As in top-k, splits of the corpus keep sorted lists,
//! which `kernels/topk_merge.ptx` merges; for large k the host selects from slabs of keys.

use std::ops::Range;
use std::sync::Arc;

use super::corpus::Chunk;
use super::{Args, Hasher, Host};
use crate::device::cuda::{Binding, CudaDevice};
use crate::device::threads::items::*;
use crate::ops::topk::cuda::{MergeParams, entries, merge};
use crate::ops::topk::select::{Entry, Selector, entry, finish};
use crate::ops::topk::{Bitmap, Exclude, Hits};
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Result, Tensor};

/// The largest k whose lists the kernels keep.
const FUSED_K: usize = 256;
/// Up to here a query's list is small enough that a block takes many queries.
const SMALL_K: usize = 64;
/// Rows of a tile.
const TILE: usize = 64;
/// How much less the lists should weigh than the rows.
const LIST_SHARE: usize = 64;
/// Bytes of the lists, of a slab of keys, and of the host's candidates for large k.
const LISTS: usize = 64 << 20;
const SLAB: usize = 32 << 20;
const CANDIDATES: usize = 64 << 20;

/// How scores are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Path {
    Popc,
    Mma,
    Floats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct HammingSpec {
    path: Path,
    /// Whether codes divide into 16 bytes.
    vector: bool,
    /// Queries of a block.
    qt: u32,
    /// Entries of a list.
    cap: u32,
    /// Whether keys are stored instead of lists.
    keys: bool,
}

impl Spec for HammingSpec {
    const FAMILY: &'static str = "hamming";
}

params! {
    struct HammingParams {
        words: u32, rows: u32, base: u32, queries: u32, qtiles: u32,
        start: u32, tiles: u32, per_split: u32, k: u32, resume: u32,
        excludes: u32, mask_stride: u32, skip_stride: u32, span: u32,
    }
}

pub(crate) const FAMILY: Family = Family {
    name: HammingSpec::FAMILY,
    spec_keys: || keys(HammingSpec { path: Path::Mma, vector: true, qt: 4, cap: 128, keys: false }),
    params: HammingParams::MEMBERS,
    params_size: size_of::<HammingParams>(),
};

pub(super) fn topk(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Hits> {
    let fused = args.k <= FUSED_K;
    let (qt, cap) = match args.count {
        _ if !fused => (32, 128),
        0..=4 if args.k <= SMALL_K => (4, 128),
        _ if args.k <= SMALL_K => (32, 128),
        0..=4 => (4, 512),
        _ => (16, 512),
    };
    // Lists of several splits should fit for all queries of a pass.
    let group = match fused {
        true => LISTS / (8 * args.k) / 8,
        false => (CANDIDATES / Selector::bytes(args.k)).min(2 * qt),
    };
    let group = group.clamp(1, args.count);
    let mut hits = Hits::new();
    for first in (0..args.count).step_by(group) {
        let queries = first..(first + group).min(args.count);
        let pass = Pass::new(gpu, args, queries, qt, cap, fused)?;
        let found = if fused { pass.lists()? } else { pass.slabs()? };
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
    spec: HammingSpec,
}

/// A chunk's inputs that change from search to search.
struct Inputs {
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
        qt: usize,
        cap: usize,
        fused: bool,
    ) -> Result<Self> {
        let (device, width, n) = (args.corpus.device(), args.width(), queries.len());
        let range = queries.start * width..queries.end * width;
        let (path, data) = match &args.queries {
            Host::Codes(q) => {
                let path = if qt == 4 { Path::Popc } else { Path::Mma };
                (path, Tensor::from_slice(device, &[n, width], &q[range])?)
            }
            Host::Floats(q) => (Path::Floats, Tensor::from_slice(device, &[n, width], &q[range])?),
        };
        Ok(Pass {
            gpu,
            args,
            data,
            queries,
            spec: HammingSpec {
                path,
                vector: path != Path::Floats && width.is_multiple_of(4),
                qt: qt as u32,
                cap: cap as u32,
                keys: !fused,
            },
        })
    }

    /// The chunks of which something may be found.
    fn chunks(&self) -> impl Iterator<Item = &'a Chunk> {
        let (exclude, queries) = (self.args.exclude, self.queries.clone());
        let parts = self.args.corpus.parts().iter();
        parts.filter(move |c| !exclude.covers(queries.clone(), c.start..c.start + c.len()))
    }

    fn inputs(&self, chunk: &Chunk) -> Result<Inputs> {
        let device = self.args.corpus.device();
        let (n, tiles) = (chunk.len(), chunk.len().div_ceil(TILE));
        let (maps, each): (&[Bitmap], bool) = match self.args.exclude {
            Exclude::None => return Ok(Inputs { exclude: None, tiles, each: false }),
            Exclude::Shared(map) => (std::slice::from_ref(map), false),
            Exclude::PerQuery(maps) => (&maps[self.queries.clone()], true),
        };
        let rows = |tile: usize| {
            let start = chunk.start + tile * TILE;
            start..(start + TILE).min(chunk.start + n)
        };
        let skips: Vec<u32> = maps
            .chunks(self.spec.qt as usize)
            .flat_map(|maps| (0..tiles).map(move |t| maps.iter().all(|m| m.covers(rows(t))) as u32))
            .collect();
        let words: Vec<u32> = maps
            .iter()
            .flat_map(|map| (0..2 * tiles).map(move |w| map.word(chunk.start + 32 * w)))
            .collect();
        let exclude = Some([
            Tensor::from_slice(device, &[skips.len()], &skips)?,
            Tensor::from_slice(device, &[words.len()], &words)?,
        ]);
        Ok(Inputs { exclude, tiles, each })
    }

    /// Enqueues the search of a chunk's tiles; `params` says which, by how many splits.
    fn launch(
        &self,
        chunk: &Chunk,
        inputs: &Inputs,
        best: Binding<'_>,
        found: Binding<'_>,
        params: HammingParams,
    ) -> Result<()> {
        let qtiles = self.queries.len().div_ceil(self.spec.qt as usize);
        let params = HammingParams {
            words: self.args.corpus.words() as u32,
            rows: chunk.len() as u32,
            base: chunk.start as u32,
            queries: self.queries.len() as u32,
            qtiles: qtiles as u32,
            k: self.args.k as u32,
            excludes: inputs.exclude.is_some() as u32,
            mask_stride: if inputs.each { 2 * inputs.tiles as u32 } else { 0 },
            skip_stride: if inputs.each { inputs.tiles as u32 } else { 0 },
            ..params
        };
        let kernel =
            self.gpu.kernel(self.spec, (HammingParams::MEMBERS, size_of::<HammingParams>()))?;
        // What is absent is not read, but something must be bound.
        let [skips, masks] = match &inputs.exclude {
            Some([skips, masks]) => [Some(skips), Some(masks)],
            None => [None, None],
        };
        let bindings = [
            self.data.cuda().into(),
            chunk.codes.cuda().into(),
            skips.unwrap_or(&self.data).cuda().into(),
            masks.unwrap_or(&self.data).cuda().into(),
            best,
            found,
        ];
        let splits = params.tiles.div_ceil(params.per_split) as usize;
        self.gpu.launch(&kernel, &bindings, &params, [qtiles * splits, 1, 1])
    }

    /// Lists of each split, merged chunk by chunk.
    fn lists(&self) -> Result<Vec<Vec<Entry>>> {
        let (n, k) = (self.queries.len(), self.args.k);
        let device = self.args.corpus.device();
        let qtiles = n.div_ceil(self.spec.qt as usize);
        // Several blocks for each multiprocessor, one at least; but lists that weigh little beside the rows, and splits of
        // several times k rows, or their lists would never prune.
        let splits = |chunk: &Chunk| {
            let tiles = chunk.len().div_ceil(TILE);
            let fill = (self.gpu.facts.multiprocessors as usize).div_ceil(qtiles);
            (chunk.codes.bytes() / (LIST_SHARE * 8 * k * n))
                .clamp(fill, 8 * fill)
                .min(tiles / (k / 16).max(4))
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
            let tiles = chunk.len().div_ceil(TILE);
            let per_split = tiles.div_ceil(splits(chunk));
            let params = HammingParams {
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
        let fit = (SLAB / size_of::<u32>() / n / TILE).max(1);
        let mut selectors = vec![Selector::new(self.args.k); n];
        for chunk in self.chunks() {
            let inputs = self.inputs(chunk)?;
            for start in (0..inputs.tiles).step_by(fit) {
                let tiles = fit.min(inputs.tiles - start);
                let first = start * TILE;
                let span = (tiles * TILE).min(chunk.len() - first);
                // Tiles that are skipped stay 0, which never enters.
                let found = Tensor::zeros(device, DType::U32, &[n, span])?;
                let splits = tiles.min(8 * self.gpu.facts.multiprocessors as usize);
                let params = HammingParams {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct EncodeSpec {
    t: DType,
    project: bool,
}

impl Spec for EncodeSpec {
    const FAMILY: &'static str = "hamming_encode";
}

params! {
    struct EncodeParams { rows: u32, dim: u32, words: u32 }
}

pub(crate) const ENCODE: Family = Family {
    name: EncodeSpec::FAMILY,
    spec_keys: || keys(EncodeSpec { t: DType::F32, project: true }),
    params: EncodeParams::MEMBERS,
    params_size: size_of::<EncodeParams>(),
};

/// Rows, and words, of a block that encodes.
const ENCODED: [usize; 2] = [16, 4];

pub(super) fn encode(gpu: &Arc<CudaDevice>, x: &Tensor, hasher: &Hasher) -> Result<Tensor> {
    let (rows, dim, words) = (x.shape()[0], hasher.dim(), hasher.bits() / 32);
    let codes = Tensor::cuda_uninit(x.device(), DType::U32, &[rows, words])?;
    let spec = EncodeSpec { t: x.dtype(), project: hasher.packed().is_some() };
    let kernel = gpu.kernel(spec, (EncodeParams::MEMBERS, size_of::<EncodeParams>()))?;
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
