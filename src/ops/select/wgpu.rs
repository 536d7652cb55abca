//! Selection on wgpu. Scans keep sorted lists (`shaders/include/lists.wgsl`), which `shaders/select_merge.wgsl` merges, or store
//! keys, of which `shaders/select_filter.wgsl` keeps candidates that `shaders/select_sort.wgsl` sorts.

use std::sync::Arc;

use super::candidates::{Candidates, From, Kernels, Source};
use super::plan::{self, Room, SLAB, Span, Step, Wanted};
use super::{Best, FUSED_K, Filter, FoundTensors, masks};
use crate::device::Device;
use crate::device::wgpu::{Binding, GROUPS, WgpuDevice, spread};
use crate::template::{kernel, params};
use crate::{DType, Result, Tensor};

/// Rows of a tile of a scan.
pub(crate) const TILE: usize = 64;
/// Queries of a scan's tile when there are many, and when there are few.
const WIDE: usize = 32;
const NARROW: usize = 4;
/// Workgroups to aim for: enough for the largest GPUs, few enough that the lists stay small.
pub(crate) const WORKGROUPS: usize = 1024;
/// Bytes of the lists.
const LISTS: usize = 64 << 20;
/// Entries that a workgroup of `shaders/select_sort.wgsl` sorts in its memory.
const LOCAL: usize = 1024;
/// Threads of the workgroups of the other kernels.
const THREADS: usize = 256;
const CUT_THREADS: usize = 128;

params! {
    /// What every scan is told.
    struct ScanParams {
        // Dimensions of a vector, or words of a code.
        width: u32,
        // Rows of the chunk, and the number of its first in the corpus.
        rows: u32,
        base: u32,
        queries: u32,
        // Tiles of 64 rows: the first of this launch, how many, and how many a split takes.
        start: u32,
        tiles: u32,
        per_split: u32,
        splits: u32,
        k: u32,
        // Whether the lists hold what earlier launches found, and the key that must be exceeded.
        resume: u32,
        floor: u32,
        // Words of a bitmap, and from one group of queries to the next in `skips`.
        mask_stride: u32,
        skip_stride: u32,
        // KEYS: rows of `found`.
        span: u32,
        // The place of the chunk's first row in `bias`.
        bias_first: u32,
    }
}

/// How a scan leaves rows out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Excluded {
    None,
    Shared,
    Each,
}

/// What a scan's specialisation depends on beside the family.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) exclude: Excluded,
    /// Queries of a workgroup's tile.
    pub(crate) qt: u32,
    /// Whether keys are stored instead of lists.
    pub(crate) keys: bool,
}

impl Shape {
    /// For a search by scans that keep lists up to [`FUSED_K`].
    pub(crate) fn of(wanted: &Wanted<'_>) -> Shape {
        Shape::with(wanted, wanted.k > FUSED_K)
    }

    /// For a search or, with `keys`, a count.
    pub(crate) fn with(wanted: &Wanted<'_>, keys: bool) -> Shape {
        let exclude = match wanted.filter {
            Filter::All => Excluded::None,
            Filter::PerQuery(_) if wanted.queries > 1 => Excluded::Each,
            _ => Excluded::Shared,
        };
        let narrow = wanted.queries <= NARROW && !keys && exclude != Excluded::Each;
        Shape { exclude, qt: if narrow { NARROW } else { WIDE } as u32, keys }
    }
}

/// A chunk's inputs that change from search to search.
pub(crate) struct Inputs<'a> {
    /// The bias from some row before the chunk's first on.
    bias: Option<Binding<'a>>,
    bias_first: usize,
    /// Which rows no query may find, and where queries differ those of each, or nothing.
    excluded: Vec<Tensor>,
}

impl<'a> Inputs<'a> {
    /// The bindings between a scan's operands and its results.
    pub(crate) fn bindings(&'a self) -> impl Iterator<Item = Binding<'a>> {
        let more = self.excluded.iter().map(|t| Binding::from(t.wgpu()));
        self.bias.clone().into_iter().chain(more)
    }
}

/// Kernels that score the rows of a corpus for some queries, and keep lists or store keys.
pub(crate) trait Scan {
    /// What the kernel was specialised for.
    fn shape(&self) -> Shape;

    /// Enqueues the scan of a chunk's tiles by a grid of workgroups. `params` lacks the width.
    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        found: &Tensor,
        params: ScanParams,
        grid: [u32; 3],
    ) -> Result<()>;
}

/// Lists of k entries that there is room for.
pub(crate) fn most_lists(gpu: &WgpuDevice, k: usize) -> usize {
    (gpu.facts.max_binding as usize).min(LISTS) / size_of::<u32>() / (4 * k + 1)
}

fn splits(gpu: &WgpuDevice, queries: usize, k: usize, tiles: usize) -> usize {
    // A split should see several times k rows, or its list would never prune.
    (WORKGROUPS / queries.div_ceil(WIDE))
        .min(tiles / (k / 16).max(1))
        .min(most_lists(gpu, k))
        .max(1)
}

/// How many queries of `width` values are searched together for `k` rows of a corpus whose chunks have at most `rows` rows.
pub(crate) fn group(gpu: &WgpuDevice, k: usize, [width, rows]: [usize; 2]) -> usize {
    // Whatever is bound by queries must fit a binding: the queries, their bitmaps, their lists, their results.
    let binding = gpu.facts.max_binding as usize;
    let tiles = rows.div_ceil(TILE);
    let words = width.max(2 * tiles).max(2 * k).max(1);
    let group = (binding / size_of::<u32>() / words).min(match k <= FUSED_K {
        true => most_lists(gpu, k).min(GROUPS),
        false => plan::group(k, binding).min(2 * WIDE),
    });
    group.max(1)
}

/// Enqueues the search of a corpus that consists of `spans`.
pub(crate) fn best(
    gpu: &Arc<WgpuDevice>,
    device: &Device,
    wanted: &Wanted<'_>,
    spans: &[Span],
    scan: &impl Scan,
) -> Result<Best> {
    let pass = Pass { gpu, device, wanted, spans, scan };
    if scan.shape().keys { pass.sorted() } else { pass.lists() }
}

/// Counts the rows of each query that exceed the floor. `scan` stores keys. Waits for the device.
pub(crate) fn count(
    gpu: &Arc<WgpuDevice>,
    device: &Device,
    wanted: &Wanted<'_>,
    spans: &[Span],
    scan: &impl Scan,
) -> Result<Vec<u32>> {
    let pass = Pass { gpu, device, wanted, spans, scan };
    let mut counting = Candidates::counting(gpu.clone(), device, wanted.queries, wanted.floor)?;
    pass.slabs(&mut counting, |_, _| usize::MAX)?;
    counting.counts()
}

struct Pass<'a, S> {
    gpu: &'a Arc<WgpuDevice>,
    device: &'a Device,
    wanted: &'a Wanted<'a>,
    spans: &'a [Span],
    scan: &'a S,
}

impl<'a, S: Scan> Pass<'a, S> {
    fn inputs(&self, span: &Span) -> Result<Inputs<'a>> {
        let shape = self.scan.shape();
        let words = 2 * span.rows.len().div_ceil(TILE);
        let excluded = self.wanted.filter.on(self.device, &span.rows, TILE, |sets| {
            let each = shape.exclude == Excluded::Each;
            let together = if each { shape.qt as usize } else { sets.len() };
            let mut all = vec![masks::joint(sets, together, &span.rows, words)];
            all.extend(each.then(|| masks::words(sets, &span.rows, words)));
            all.iter().map(|data| Tensor::from_slice(self.device, &[data.len()], data)).collect()
        })?;
        let bias = self.wanted.bias.map(|bias| {
            // Bindings start at multiples of so many values.
            let align = (self.gpu.facts.offset_alignment as usize / size_of::<f32>()).max(1);
            let from = span.rows.start / align * align;
            let bytes = (span.rows.end - from) * size_of::<f32>();
            let offset = (from * size_of::<f32>()) as u64;
            (Binding { buffer: bias.wgpu(), offset, bytes: bytes as u64 }, span.rows.start - from)
        });
        Ok(Inputs {
            bias_first: bias.as_ref().map_or(0, |(_, first)| *first),
            bias: bias.map(|(binding, _)| binding),
            excluded,
        })
    }

    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        found: &Tensor,
        params: ScanParams,
    ) -> Result<()> {
        let (span, Wanted { queries, k, floor, .. }) = (&self.spans[chunk], *self.wanted);
        let words = 2 * span.rows.len().div_ceil(TILE) as u32;
        let shape = self.scan.shape();
        let params = ScanParams {
            rows: span.rows.len() as u32,
            base: span.rows.start as u32,
            queries: queries as u32,
            k: k as u32,
            floor,
            mask_stride: words,
            skip_stride: if shape.exclude == Excluded::Each { words } else { 0 },
            bias_first: inputs.bias_first as u32,
            ..params
        };
        let groups = queries.div_ceil(shape.qt as usize) as u32;
        self.scan.launch(chunk, inputs, found, params, [params.splits, groups, 1])
    }

    /// Each split's sorted list of each query, merged. All chunks continue the same lists.
    fn lists(&self) -> Result<Best> {
        let Wanted { queries, k, .. } = *self.wanted;
        let tiles = |span: &Span| span.rows.len().div_ceil(TILE);
        let most = self.spans.iter().map(tiles).max().unwrap_or(0);
        let splits = splits(self.gpu, queries, k, most).min(most_lists(self.gpu, k) / queries);
        let mut lists = Lists::new(self.gpu, self.device, [queries, k], splits.max(1))?;
        for (chunk, span) in self.wanted.open(self.spans) {
            let tiles = tiles(span);
            let params = ScanParams {
                tiles: tiles as u32,
                per_split: tiles.div_ceil(lists.splits) as u32,
                splits: lists.splits as u32,
                resume: lists.resume as u32,
                ..Default::default()
            };
            self.launch(chunk, &self.inputs(span)?, &lists.found, params)?;
            lists.resume = true;
        }
        lists.finish()
    }

    /// Keys, slab by slab, of which candidates are kept.
    fn sorted(&self) -> Result<Best> {
        let Wanted { queries, k, floor, .. } = *self.wanted;
        let rows = self.spans.last().map_or(0, |span| span.rows.end);
        let mut candidates =
            Candidates::new(self.gpu.clone(), self.device, [queries, k], [TILE, rows], floor)?;
        self.slabs(&mut candidates, Room::width)?;
        candidates.finish()
    }

    /// Has candidates taken from slab after slab, of as many rows as `width` says, given how many there were.
    fn slabs(
        &self,
        candidates: &mut Candidates<Arc<WgpuDevice>>,
        width: impl Fn(&Room, usize) -> usize,
    ) -> Result<()> {
        let binding = (self.gpu.facts.max_binding as usize).min(SLAB);
        let most = (binding / size_of::<u32>() / self.wanted.queries).max(TILE);
        let mut seen = 0;
        for (chunk, span) in self.wanted.open(self.spans) {
            let inputs = self.inputs(span)?;
            let mut start = 0;
            while let Some(slab) =
                plan::slab(span.rows.len(), TILE, start, width(&candidates.room, seen).min(most))
            {
                let shape = [self.wanted.queries, slab.rows.len()];
                let keys = Tensor::wgpu_uninit(self.device, DType::U32, &shape)?;
                let splits = slab.tiles.min(WORKGROUPS);
                let params = ScanParams {
                    start: slab.start as u32,
                    tiles: slab.tiles as u32,
                    per_split: slab.tiles.div_ceil(splits) as u32,
                    splits: splits as u32,
                    span: slab.rows.len() as u32,
                    ..Default::default()
                };
                self.launch(chunk, &inputs, &keys, params)?;
                candidates.take(&Source::keys(&keys, span.rows.start + slab.rows.start))?;
                seen += slab.rows.len();
                start += slab.tiles;
            }
        }
        Ok(())
    }
}

kernel! {
    pub(crate) MERGE = "shaders/select_merge.wgsl";

    spec MergeSpec {
        wg: u32 = [256],
    }

    params MergeParams { queries: u32, splits: u32, k: u32 }
}

/// Each split's and query's sorted list, as `shaders/include/lists.wgsl` has them.
pub(crate) struct Lists {
    gpu: Arc<WgpuDevice>,
    device: Device,
    pub(crate) found: Tensor,
    queries: usize,
    k: usize,
    pub(crate) splits: usize,
    /// Whether something is in them.
    pub(crate) resume: bool,
}

impl Lists {
    pub(crate) fn new(
        gpu: &Arc<WgpuDevice>,
        device: &Device,
        [queries, k]: [usize; 2],
        splits: usize,
    ) -> Result<Lists> {
        let found = Tensor::wgpu_uninit(device, DType::U32, &[splits * queries * (4 * k + 1)])?;
        let (gpu, device) = (gpu.clone(), device.clone());
        Ok(Lists { gpu, device, found, queries, k, splits, resume: false })
    }

    /// Enqueues the merge.
    pub(crate) fn finish(self) -> Result<Best> {
        let shape = [self.queries, 2 * self.k];
        if !self.resume {
            return Tensor::zeros(&self.device, DType::U32, &shape).map(Best::Device);
        }
        let best = Tensor::wgpu_uninit(&self.device, DType::U32, &shape)?;
        let kernel = self.gpu.kernel(MergeSpec { wg: 256 })?;
        let params = MergeParams {
            queries: self.queries as u32,
            splits: self.splits as u32,
            k: self.k as u32,
        };
        let bindings = [&self.found, &best].map(|t| Binding::from(t.wgpu()));
        self.gpu.launch(&kernel, &bindings, &params, spread(self.queries))?;
        Ok(Best::Device(best))
    }
}

kernel! {
    pub(crate) FILTER = "shaders/select_filter.wgsl";

    spec FilterSpec {
        source: From = [From::Keys, From::Scores],
        /// Whether candidates are stored, not only counted.
        store: bool,
        excludes: bool,
        numbers: bool,
        bias: bool,
    }
    where source == From::Scores || !excludes && !numbers && !bias;

    params FilterParams {
        width: u32,
        first: u32,
        base: u32,
        k: u32,
        room: u32,
        floor: u32,
        // Words of a query's mask.
        words: u32,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    First,
    Stride,
    Last,
}

kernel! {
    pub(crate) SORT = "shaders/select_sort.wgsl";

    spec SortSpec {
        step: Kind = [Kind::First, Kind::Stride, Kind::Last],
    }

    params SortParams { room: u32, size: u32, stride: u32 }
}

kernel! {
    pub(crate) CUT = "shaders/select_cut.wgsl";

    spec CutSpec {
        /// Whether the best are written out.
        out: bool,
    }

    params CutParams { queries: u32, k: u32, room: u32 }
}

impl Kernels for Arc<WgpuDevice> {
    const LOCAL: usize = LOCAL;

    fn binding(&self) -> usize {
        self.facts.max_binding as usize
    }

    fn uninit(&self, device: &Device, shape: &[usize]) -> Result<Tensor> {
        Tensor::wgpu_uninit(device, DType::U32, shape)
    }

    fn filter(&self, candidates: &Candidates<Self>, source: &Source<'_>) -> Result<()> {
        let Candidates { entries, counts, kept, queries, room, floor, stores, .. } = candidates;
        let Source { masks, numbers, bias, .. } = *source;
        let kernel = self.kernel(FilterSpec {
            source: source.from,
            store: *stores,
            excludes: masks.is_some(),
            numbers: numbers.is_some(),
            bias: bias.is_some(),
        })?;
        let params = FilterParams {
            width: source.width as u32,
            first: source.first as u32,
            base: source.base as u32,
            k: room.k as u32,
            room: room.entries as u32,
            floor: *floor,
            words: masks.map_or(0, |m| m.shape()[1] as u32),
        };
        let inputs = [Some(source.values), masks, numbers, bias].into_iter().flatten();
        let stored = stores.then_some([kept, entries]).into_iter().flatten();
        let all = inputs.chain(stored).chain([counts]);
        let bindings: Vec<_> = all.map(|t| Binding::from(t.wgpu())).collect();
        let blocks = source.width.div_ceil(4 * THREADS).min(WORKGROUPS.div_ceil(*queries));
        self.launch(&kernel, &bindings, &params, [blocks as u32, *queries as u32, 1])
    }

    fn step(&self, candidates: &Candidates<Self>, step: Step) -> Result<()> {
        let Candidates { entries, counts, queries, room, .. } = candidates;
        let blocks = room.blocks();
        let (step, size, stride, blocks) = match step {
            Step::First => (Kind::First, 0, 0, blocks),
            Step::Stride { size, stride } => {
                (Kind::Stride, size, stride, blocks * (LOCAL / 2 / THREADS))
            }
            Step::Last { size } => (Kind::Last, size, 0, blocks),
        };
        let kernel = self.kernel(SortSpec { step })?;
        let room = room.entries as u32;
        let params = SortParams { room, size: size as u32, stride: stride as u32 };
        let bindings = [counts, entries].map(|t| Binding::from(t.wgpu()));
        self.launch(&kernel, &bindings, &params, grid(blocks, *queries))
    }

    fn cut(&self, candidates: &Candidates<Self>, best: Option<&Tensor>) -> Result<()> {
        let Candidates { entries, counts, kept, queries, room, .. } = candidates;
        let kernel = self.kernel(CutSpec { out: best.is_some() })?;
        let params =
            CutParams { queries: *queries as u32, k: room.k as u32, room: room.entries as u32 };
        let (tensors, grid) = match best {
            None => (vec![counts, kept], spread(queries.div_ceil(CUT_THREADS))),
            Some(best) => {
                (vec![entries, counts, best], grid(room.k.div_ceil(CUT_THREADS), *queries))
            }
        };
        let bindings: Vec<_> = tensors.into_iter().map(|t| Binding::from(t.wgpu())).collect();
        self.launch(&kernel, &bindings, &params, grid)
    }
}

/// A grid of `n` workgroups (x, then z) for each query (y).
fn grid(n: usize, queries: usize) -> [u32; 3] {
    let [x, z, _] = spread(n);
    [x, queries as u32, z]
}

kernel! {
    pub(crate) SPLIT = "shaders/select_split.wgsl";

    spec SplitSpec {
        wg: u32 = [128],
    }

    params SplitParams { k: u32, first: u32 }
}

/// Enqueues the writing of the entries of groups of queries as rows, scores and counts.
pub(super) fn split(
    gpu: &Arc<WgpuDevice>,
    device: &Device,
    groups: &[Best],
    [queries, k]: [usize; 2],
) -> Result<FoundTensors> {
    if groups.is_empty() {
        return FoundTensors::none(device, [queries, k]);
    }
    let made = |dtype, shape: &[usize]| Tensor::wgpu_uninit(device, dtype, shape);
    let rows = made(DType::U32, &[queries, k])?;
    let scores = made(DType::F32, &[queries, k])?;
    let counts = made(DType::U32, &[queries])?;
    let kernel = gpu.kernel(SplitSpec { wg: CUT_THREADS as u32 })?;
    let mut first = 0;
    for group in groups {
        let Best::Device(best) = group else { unreachable!("a GPU's entries are on the device") };
        let queries = best.shape()[0];
        let params = SplitParams { k: k as u32, first: first as u32 };
        let bindings = [best, &rows, &scores, &counts].map(|t| Binding::from(t.wgpu()));
        gpu.launch(&kernel, &bindings, &params, grid(k.div_ceil(CUT_THREADS), queries))?;
        first += queries;
    }
    Ok(FoundTensors { rows, scores, counts })
}
