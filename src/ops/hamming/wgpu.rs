//! Codes through `shaders/hamming.wgsl` and `shaders/hamming_encode.wgsl`. As in top-k, splits of the corpus keep sorted lists,
//! which the host merges; for large k the host selects from slabs of scores.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::corpus::Chunk;
use super::{Args, Hasher, Host};
use crate::device::wgpu::{Binding, GROUPS, WgpuBuffer, WgpuDevice, spread};
use crate::ops::Stored;
use crate::ops::topk::select::{Selector, entry};
use crate::ops::topk::wgpu::merge;
use crate::ops::topk::{Bitmap, Exclude, Hits};
use crate::template::{Family, Spec, keys, params};
use crate::{DType, Result, Tensor};

/// The largest k whose lists the kernel keeps: merging costs k for each query.
const FUSED_K: usize = 256;
/// Rows of the corpus a workgroup takes at a time.
const TILE: usize = 64;
/// Queries of a workgroup's tile when there are many, and when there are few.
const WIDE: usize = 32;
const NARROW: usize = 4;
/// Workgroups to aim for: enough for the largest GPUs, few enough that the lists stay small.
const WORKGROUPS: usize = 1024;
/// Bytes of the lists, of a slab of scores, and of the host's candidates for large k.
const LISTS: u64 = 64 << 20;
const SLAB: u64 = 32 << 20;
const CANDIDATES: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Excluded {
    None,
    Shared,
    Each,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Codes,
    Floats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct HammingSpec {
    kind: Kind,
    vec: bool,
    exclude: Excluded,
    qt: u32,
    scores: bool,
}

impl Spec for HammingSpec {
    const FAMILY: &'static str = "hamming";
}

params! {
    struct HammingParams {
        words: u32,
        rows: u32,
        base: u32,
        queries: u32,
        start: u32,
        tiles: u32,
        per_split: u32,
        splits: u32,
        k: u32,
        resume: u32,
        mask_stride: u32,
        skip_stride: u32,
        span: u32,
    }
}

pub(crate) const FAMILY: Family = Family {
    name: HammingSpec::FAMILY,
    spec_keys: || {
        keys(HammingSpec {
            kind: Kind::Codes,
            vec: true,
            exclude: Excluded::None,
            qt: 32,
            scores: false,
        })
    },
    params: HammingParams::MEMBERS,
    params_size: size_of::<HammingParams>(),
};

pub(crate) fn topk(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Hits> {
    let fused = args.k <= FUSED_K;
    let chunks = args.corpus.parts();
    let rows = chunks.iter().map(Chunk::len).max().unwrap_or(0);
    let tiles = rows.div_ceil(TILE);
    let lists = gpu.facts.max_binding.min(LISTS) as usize / size_of::<u32>() / (4 * args.k + 1);
    // A split should see several times k rows, or its list would never prune.
    let splits = (WORKGROUPS / args.count.div_ceil(WIDE))
        .min(tiles / (args.k / 16).max(1))
        .min(lists)
        .max(1);
    // Whatever is bound by queries must fit a binding: the queries, their bitmaps, their lists.
    let binding = gpu.facts.max_binding as usize / size_of::<u32>();
    let words = tiles * TILE / 32;
    let mut group = args.count.min(binding / args.width()).min(binding / words.max(1));
    group = group.min(if fused { lists / splits } else { CANDIDATES / Selector::bytes(args.k) });
    group = group.min(if fused { GROUPS * WIDE } else { 2 * WIDE });
    let group = group.max(1);
    let mut hits = Hits::new();
    for first in (0..args.count).step_by(group) {
        let pass = Pass::new(gpu, args, first..(first + group).min(args.count), fused)?;
        let found = if fused { pass.lists(splits)? } else { pass.slabs()? };
        let found: Vec<_> = found.into_par_iter().map(Selector::finish).collect();
        found.iter().for_each(|entries| hits.push(entries));
    }
    Ok(hits)
}

/// Some of the queries on the device, to be searched for together.
struct Pass<'a> {
    gpu: &'a Arc<WgpuDevice>,
    args: &'a Args<'a>,
    queries: Range<usize>,
    data: Tensor,
    spec: HammingSpec,
}

/// A chunk's inputs that change from search to search.
struct Inputs {
    skips: Option<Tensor>,
    masks: Option<Tensor>,
}

impl<'a> Pass<'a> {
    fn new(
        gpu: &'a Arc<WgpuDevice>,
        args: &'a Args<'a>,
        queries: Range<usize>,
        fused: bool,
    ) -> Result<Self> {
        let device = args.corpus.device();
        let (n, width) = (queries.len(), args.width());
        let range = queries.start * width..queries.end * width;
        let (kind, data) = match &args.queries {
            Host::Codes(q) => (Kind::Codes, Tensor::from_slice(device, &[n, width], &q[range])?),
            Host::Floats(q) => (Kind::Floats, Tensor::from_slice(device, &[n, width], &q[range])?),
        };
        let exclude = match args.exclude {
            Exclude::None => Excluded::None,
            Exclude::PerQuery(_) if n > 1 && fused => Excluded::Each,
            _ => Excluded::Shared,
        };
        let narrow = n <= NARROW && fused && exclude != Excluded::Each;
        let spec = HammingSpec {
            kind,
            vec: kind == Kind::Codes && width.is_multiple_of(4),
            exclude,
            qt: if narrow { NARROW } else { WIDE } as u32,
            scores: !fused,
        };
        Ok(Pass { gpu, args, data, queries, spec })
    }

    /// The chunks of which something may be found.
    fn chunks(&self) -> impl Iterator<Item = &'a Chunk> {
        let (exclude, queries) = (self.args.exclude, self.queries.clone());
        self.args
            .corpus
            .parts()
            .iter()
            .filter(move |c| !exclude.covers(queries.clone(), c.start..c.start + c.len()))
    }

    fn inputs(&self, chunk: &Chunk) -> Result<Inputs> {
        let device = self.args.corpus.device();
        let n = chunk.len();
        let words = Self::words(chunk);
        let upload = |data: Vec<u32>| Tensor::from_slice(device, &[data.len()], &data).map(Some);
        // Bits beyond the chunk exclude, so that a last, partial tile can be skipped too.
        let word = |map: &Bitmap, w: usize| match n.checked_sub(w * 32) {
            None | Some(0) => u32::MAX,
            Some(left) => {
                map.word(chunk.start + w * 32) | if left < 32 { u32::MAX << left } else { 0 }
            }
        };
        let all = |maps: &[Bitmap], w| maps.iter().fold(u32::MAX, |a, m| a & word(m, w));
        let maps = match self.args.exclude {
            Exclude::None => &[],
            Exclude::Shared(map) => std::slice::from_ref(map),
            Exclude::PerQuery(maps) => &maps[self.queries.clone()],
        };
        let tile = match self.spec.exclude {
            Excluded::Each => self.spec.qt as usize,
            _ => maps.len().max(1),
        };
        let skips = maps.chunks(tile).flat_map(|maps| (0..words).map(move |w| all(maps, w)));
        let masks = maps.iter().flat_map(|map| (0..words).map(move |w| word(map, w)));
        Ok(Inputs {
            skips: if maps.is_empty() { None } else { upload(skips.collect())? },
            masks: match self.spec.exclude {
                Excluded::Each => upload(masks.collect())?,
                _ => None,
            },
        })
    }

    /// Words of a chunk's bitmap: two a tile.
    fn words(chunk: &Chunk) -> usize {
        chunk.len().div_ceil(TILE) * 2
    }

    fn launch(
        &self,
        chunk: &Chunk,
        inputs: &Inputs,
        found: &WgpuBuffer,
        params: HammingParams,
    ) -> Result<()> {
        let kernel = self.gpu.kernel(self.spec)?;
        let mut bindings: Vec<Binding<'_>> = vec![self.data.wgpu().into()];
        let codes = chunk.codes.wgpu();
        // A caller's buffer may be longer than the rows.
        bindings.push(Binding { buffer: codes, offset: 0, bytes: chunk.codes.bytes() as u64 });
        let more = [&inputs.skips, &inputs.masks].into_iter().flatten();
        bindings.extend(more.map(|t| Binding::from(t.wgpu())));
        bindings.push(found.into());
        let words = Self::words(chunk) as u32;
        let params = HammingParams {
            words: self.args.corpus.words() as u32,
            rows: chunk.len() as u32,
            base: chunk.start as u32,
            queries: self.queries.len() as u32,
            k: self.args.k as u32,
            mask_stride: words,
            skip_stride: if self.spec.exclude == Excluded::Each { words } else { 0 },
            ..params
        };
        let groups = self.queries.len().div_ceil(self.spec.qt as usize) as u32;
        self.gpu.launch(&kernel, &bindings, &params, [params.splits, groups, 1])
    }

    fn read(&self, buffer: &WgpuBuffer, words: usize) -> Result<Vec<u32>> {
        let read = self.gpu.read_now(buffer, (words * size_of::<u32>()) as u64)?;
        Ok(bytemuck::pod_collect_to_vec(&read))
    }

    /// Small k: each split's sorted list of each query, merged. All chunks continue the same lists.
    fn lists(&self, splits: usize) -> Result<Vec<Selector>> {
        let (n, k) = (self.queries.len(), self.args.k);
        let found = self.gpu.alloc((splits * n * (4 * k + 1) * size_of::<u32>()) as u64)?;
        let mut resume = 0;
        for chunk in self.chunks() {
            let tiles = chunk.len().div_ceil(TILE);
            let params = HammingParams {
                tiles: tiles as u32,
                per_split: tiles.div_ceil(splits) as u32,
                splits: splits as u32,
                resume,
                ..Default::default()
            };
            self.launch(chunk, &self.inputs(chunk)?, &found, params)?;
            resume = 1;
        }
        if resume == 0 {
            return Ok(vec![Selector::new(k); n]);
        }
        let words = self.read(&found, splits * n * (2 * k + 1))?;
        Ok(merge(&words, splits, n, k))
    }

    /// Large k: scores of all queries of the pass and as many rows as a slab holds, selected from on the host.
    fn slabs(&self) -> Result<Vec<Selector>> {
        let n = self.queries.len();
        let fit = self.gpu.facts.max_binding.min(SLAB) as usize / size_of::<u32>() / n / TILE;
        let fit = fit.max(1);
        let most = self.chunks().map(|c| c.len().div_ceil(TILE)).max().unwrap_or(0).min(fit);
        let found = self.gpu.alloc((n * most * TILE * size_of::<u32>()) as u64)?;
        let mut selectors = vec![Selector::new(self.args.k); n];
        for chunk in self.chunks() {
            let inputs = self.inputs(chunk)?;
            let tiles = chunk.len().div_ceil(TILE);
            for start in (0..tiles).step_by(fit) {
                let tiles = fit.min(tiles - start);
                let first = start * TILE;
                let span = (tiles * TILE).min(chunk.len() - first);
                let splits = tiles.min(WORKGROUPS);
                let params = HammingParams {
                    start: start as u32,
                    tiles: tiles as u32,
                    per_split: tiles.div_ceil(splits) as u32,
                    splits: splits as u32,
                    span: span as u32,
                    ..Default::default()
                };
                self.launch(chunk, &inputs, &found, params)?;
                let keys = self.read(&found, n * span)?;
                let exclude = match self.args.exclude {
                    Exclude::PerQuery(maps) => Some(&maps[self.queries.clone()]),
                    _ => None,
                };
                selectors.par_iter_mut().zip(keys.par_chunks(span)).enumerate().for_each(
                    |(q, (selector, keys))| {
                        for (row, &key) in (chunk.start + first..).zip(keys) {
                            let entry = entry(key, row as u32);
                            if key > 0
                                && entry > selector.threshold()
                                && !exclude.is_some_and(|maps| maps[q].contains(row))
                            {
                                selector.push(entry);
                            }
                        }
                    },
                );
            }
        }
        Ok(selectors)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct EncodeSpec {
    t: Stored,
    project: bool,
}

impl Spec for EncodeSpec {
    const FAMILY: &'static str = "hamming_encode";
}

params! {
    struct EncodeParams { rows: u32, dim: u32, words: u32, first: u32, count: u32 }
}

pub(crate) const ENCODE: Family = Family {
    name: EncodeSpec::FAMILY,
    spec_keys: || keys(EncodeSpec { t: Stored::F32, project: true }),
    params: EncodeParams::MEMBERS,
    params_size: size_of::<EncodeParams>(),
};

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
