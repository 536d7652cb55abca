//! Selection on CUDA. Scans keep sorted lists, which `kernels/select_merge.ptx` merges, or store keys, of which
//! `kernels/select_filter.ptx` keeps candidates that `kernels/select_sort.ptx` sorts.

use std::sync::Arc;

use super::candidates::{Candidates, From, Kernels, Source};
use super::plan::{self, Room, SLAB, Span, Step, Wanted};
use super::{Best, Filter, FoundTensors, masks};
use crate::device::Device;
use crate::device::cuda::{Binding, CudaDevice, GRID_YZ};
use crate::template::{kernel, params};
use crate::{DType, Result, Tensor};

/// How much less the lists should weigh than the rows.
const LIST_SHARE: usize = 64;
/// Bytes of the lists.
const LISTS: usize = 64 << 20;
/// Entries that a block of `kernels/select_sort.ptx` sorts in shared memory, and its threads.
const LOCAL: usize = 4096;
const SORT_THREADS: usize = 512;
/// Threads of the blocks of the other kernels.
const FILTER_THREADS: usize = 256;
const CUT_THREADS: usize = 128;

params! {
    /// What every scan is told.
    struct ScanParams {
        width: u32, rows: u32, base: u32, queries: u32, qtiles: u32,
        start: u32, tiles: u32, per_split: u32, k: u32, resume: u32, floor: u32,
        has_bias: u32, excludes: u32, mask_stride: u32, skip_stride: u32, span: u32, bounded: u32,
    }
}

/// A chunk's inputs that change from search to search.
pub(crate) struct Inputs<'a> {
    pub(crate) bias: Option<Binding<'a>>,
    /// For each tile of queries and each of rows whether nothing may be found there, and the bitmaps' words.
    pub(crate) exclude: Option<[Tensor; 2]>,
    /// For each query a key that must be exceeded too, \[Q\].
    pub(crate) bounds: Option<Binding<'a>>,
}

impl Inputs<'_> {
    /// What says which tiles are skipped, and the bitmaps. What is absent is not read, but something must be bound.
    pub(crate) fn excluded<'b>(&'b self, absent: Binding<'b>) -> [Binding<'b>; 2] {
        match &self.exclude {
            Some([skips, masks]) => [skips.cuda().into(), masks.cuda().into()],
            None => [absent; 2],
        }
    }
}

/// Kernels that score the rows of a corpus for some queries, and keep lists or store keys.
pub(crate) trait Scan {
    /// Rows of a tile.
    fn rows(&self) -> usize;

    /// Queries of a block.
    fn queries(&self) -> usize;

    /// Whether keys are stored instead of lists.
    fn stores_keys(&self) -> bool;

    /// Whether all blocks should run at once, two on each multiprocessor.
    fn runs_at_once(&self) -> bool;

    /// Enqueues the scan of a chunk's tiles in `blocks` blocks. `params` lacks the width.
    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        results: [Binding<'_>; 2],
        params: ScanParams,
        blocks: usize,
    ) -> Result<()>;
}

/// How many queries are searched together by scans of `block` queries.
pub(crate) fn group(k: usize, stores_keys: bool, block: usize) -> usize {
    match stores_keys {
        // Lists of several splits should fit for all queries of a pass.
        false => (LISTS / (8 * k) / 8).clamp(1, GRID_YZ),
        true => plan::group(k, usize::MAX).min(2 * block),
    }
}

/// Enqueues the search of a corpus that consists of `spans`.
pub(crate) fn best(
    gpu: &Arc<CudaDevice>,
    device: &Device,
    wanted: &Wanted<'_>,
    spans: &[Span],
    scan: &impl Scan,
) -> Result<Best> {
    let pass = Pass { gpu, device, wanted, spans, scan };
    if scan.stores_keys() { pass.sorted() } else { pass.lists() }
}

/// Counts the rows of each query that exceed the floor. `scan` stores keys. Waits for the device.
pub(crate) fn count(
    gpu: &Arc<CudaDevice>,
    device: &Device,
    wanted: &Wanted<'_>,
    spans: &[Span],
    scan: &impl Scan,
) -> Result<Vec<u32>> {
    let pass = Pass { gpu, device, wanted, spans, scan };
    let mut counting = Candidates::counting(gpu.clone(), device, wanted.queries, wanted.floor)?;
    let most = (SLAB / size_of::<u32>() / wanted.queries).max(scan.rows());
    pass.slabs(&mut counting, |_, _| most)?;
    counting.counts()
}

/// One search of a corpus.
pub(super) struct Pass<'a, S> {
    pub(super) gpu: &'a Arc<CudaDevice>,
    pub(super) device: &'a Device,
    pub(super) wanted: &'a Wanted<'a>,
    pub(super) spans: &'a [Span],
    pub(super) scan: &'a S,
}

impl<'a, S: Scan> Pass<'a, S> {
    /// The inputs of scans on tiles of `height` rows.
    pub(super) fn inputs(&self, span: &Span, height: usize) -> Result<Inputs<'a>> {
        let exclude = self.wanted.filter.on(self.device, &span.rows, height, |sets| {
            let words = height / 32 * span.rows.len().div_ceil(height);
            let skips = masks::skips(sets, self.scan.queries(), &span.rows, height);
            [skips, masks::words(sets, &span.rows, words)]
                .iter()
                .map(|data| Tensor::from_slice(self.device, &[data.len()], data))
                .collect()
        })?;
        let first = (span.rows.start * size_of::<f32>()) as u64;
        let bias = self.wanted.bias.map(|bias| bias.cuda().at_byte(first));
        Ok(Inputs { bias, exclude: exclude.try_into().ok(), bounds: None })
    }

    /// Enqueues the scan of a chunk's tiles; `params` says which, by how many splits.
    fn launch(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        results: [Binding<'_>; 2],
        params: ScanParams,
    ) -> Result<()> {
        let (span, queries) = (&self.spans[chunk], self.wanted.queries);
        let qtiles = queries.div_ceil(self.scan.queries());
        let tiles = span.rows.len().div_ceil(self.scan.rows());
        let each = matches!(self.wanted.filter, Filter::PerQuery(_));
        let params = ScanParams {
            rows: span.rows.len() as u32,
            base: span.rows.start as u32,
            queries: queries as u32,
            qtiles: qtiles as u32,
            k: self.wanted.k as u32,
            floor: self.wanted.floor,
            has_bias: inputs.bias.is_some() as u32,
            excludes: inputs.exclude.is_some() as u32,
            bounded: inputs.bounds.is_some() as u32,
            mask_stride: if each { (self.scan.rows() / 32 * tiles) as u32 } else { 0 },
            skip_stride: if each { tiles as u32 } else { 0 },
            ..params
        };
        let splits = params.tiles.div_ceil(params.per_split) as usize;
        self.scan.launch(chunk, inputs, results, params, qtiles * splits)
    }

    /// Lists of each split, merged chunk by chunk.
    fn lists(&self) -> Result<Best> {
        let Wanted { queries, k, .. } = *self.wanted;
        self.fill(Lists::new(self.gpu, self.device, queries, k)?, None)
    }

    /// The same for the queries whose bound a score can exceed; of the others `lists` has the best.
    pub(super) fn again(&self, lists: Lists, bounds: &Tensor) -> Result<Best> {
        self.fill(lists, Some(bounds))
    }

    /// Fills lists chunk by chunk; with bounds only those of queries whose bound a score can exceed.
    fn fill(&self, mut lists: Lists, bounds: Option<&Tensor>) -> Result<Best> {
        let Wanted { queries, k, .. } = *self.wanted;
        let height = self.scan.rows();
        let qtiles = queries.div_ceil(self.scan.queries());
        // Several blocks for each multiprocessor, one at least; but lists that weigh little beside the rows, and splits of
        // several times k rows, or their lists would never prune. Where all run at once, few begin with an empty list.
        let processors = self.gpu.facts.multiprocessors as usize;
        let least = processors.div_ceil(qtiles);
        let [least, most] = match self.scan.runs_at_once() {
            true => {
                let most = (2 * processors / qtiles).max(1);
                [least.min(most), most]
            }
            false => [least, 8 * least],
        };
        let splits = |span: &Span| {
            (span.bytes / (LIST_SHARE * 8 * k * queries))
                .clamp(least, most)
                .min(span.rows.len() / (4 * k).max(256))
                .min(LISTS / (8 * k * queries))
                .max(1)
        };
        let most = self.wanted.open(self.spans).map(|(_, span)| splits(span)).max().unwrap_or(0);
        if most == 0 {
            return lists.finish();
        }
        let found = lists.room(most)?;
        for (chunk, span) in self.wanted.open(self.spans) {
            let tiles = span.rows.len().div_ceil(height);
            let per_split = tiles.div_ceil(splits(span));
            let params = ScanParams {
                tiles: tiles as u32,
                per_split: per_split as u32,
                resume: lists.resume as u32,
                ..Default::default()
            };
            let bound = bounds.map(|bounds| Binding::from(bounds.cuda()));
            let inputs = Inputs { bounds: bound, ..self.inputs(span, height)? };
            let results = [lists.best.cuda().into(), found.cuda().into()];
            self.launch(chunk, &inputs, results, params)?;
            lists.merge(&found, tiles.div_ceil(per_split), bounds)?;
        }
        lists.finish()
    }

    /// Keys, slab by slab, of which candidates are kept.
    fn sorted(&self) -> Result<Best> {
        let Wanted { queries, k, floor, .. } = *self.wanted;
        let height = self.scan.rows();
        let rows = self.spans.last().map_or(0, |span| span.rows.end);
        let mut candidates =
            Candidates::new(self.gpu.clone(), self.device, [queries, k], [height, rows], floor)?;
        let most = (SLAB / size_of::<u32>() / queries).max(height);
        self.slabs(&mut candidates, |room, seen| room.width(seen).min(most))?;
        candidates.finish()
    }

    /// Has candidates taken from slab after slab, of as many rows as `width` says, given how many there were.
    fn slabs(
        &self,
        candidates: &mut Candidates<Arc<CudaDevice>>,
        width: impl Fn(&Room, usize) -> usize,
    ) -> Result<()> {
        let height = self.scan.rows();
        let mut seen = 0;
        for (chunk, span) in self.wanted.open(self.spans) {
            let inputs = self.inputs(span, height)?;
            let mut start = 0;
            while let Some(slab) =
                plan::slab(span.rows.len(), height, start, width(&candidates.room, seen))
            {
                // Tiles that are skipped stay 0, which never enters.
                let shape = [self.wanted.queries, slab.rows.len()];
                let keys = Tensor::zeros(self.device, DType::U32, &shape)?;
                let splits = slab.tiles.min(8 * self.gpu.facts.multiprocessors as usize);
                let params = ScanParams {
                    start: slab.start as u32,
                    tiles: slab.tiles as u32,
                    per_split: slab.tiles.div_ceil(splits) as u32,
                    span: slab.rows.len() as u32,
                    ..Default::default()
                };
                let results = [keys.cuda().into(), keys.cuda().into()];
                self.launch(chunk, &inputs, results, params)?;
                candidates.take(&Source::keys(&keys, span.rows.start + slab.rows.start))?;
                seen += slab.rows.len();
                start += slab.tiles;
            }
        }
        Ok(())
    }
}

kernel! {
    pub(crate) MERGE = "kernels/select_merge.ptx";

    spec MergeSpec {
        /// Whether earlier chunks' result is merged in.
        resume: bool,
        /// Whether only queries are merged whose bound a score can exceed.
        bounded: bool,
    }

    params MergeParams { queries: u32, splits: u32, k: u32 }
}

/// Each query's best so far, \[Q, 2 k\] u32, into which splits' lists are merged.
pub(crate) struct Lists {
    gpu: Arc<CudaDevice>,
    device: Device,
    pub(crate) best: Tensor,
    queries: usize,
    k: usize,
    /// Whether something was merged.
    pub(crate) resume: bool,
    /// Whether the best were picked from survivors before.
    pub(super) picked: bool,
}

impl Lists {
    /// Nothing yet.
    pub(crate) fn new(
        gpu: &Arc<CudaDevice>,
        device: &Device,
        queries: usize,
        k: usize,
    ) -> Result<Lists> {
        let best = Tensor::cuda_uninit(device, DType::U32, &[queries, 2 * k])?;
        Ok(Lists {
            gpu: gpu.clone(),
            device: device.clone(),
            best,
            queries,
            k,
            resume: false,
            picked: false,
        })
    }

    /// Room for the lists of so many splits.
    pub(crate) fn room(&self, splits: usize) -> Result<Tensor> {
        Tensor::cuda_uninit(&self.device, DType::U32, &[splits, self.queries, 2 * self.k])
    }

    /// The most splits whose lists fit beside the best.
    pub(crate) fn most_splits(queries: usize, k: usize) -> usize {
        LISTS / (8 * k * queries)
    }

    /// Enqueues the merge of the splits' lists, with bounds of the queries that have one.
    pub(crate) fn merge(
        &mut self,
        found: &Tensor,
        splits: usize,
        bounds: Option<&Tensor>,
    ) -> Result<()> {
        let spec = MergeSpec { resume: self.resume, bounded: bounds.is_some() };
        let kernel = self.gpu.kernel(spec)?;
        let params =
            MergeParams { queries: self.queries as u32, splits: splits as u32, k: self.k as u32 };
        let mut bindings = vec![found.cuda().into(), self.best.cuda().into()];
        bindings.extend(bounds.map(|bounds| Binding::from(bounds.cuda())));
        self.gpu.launch(&kernel, &bindings, &params, [self.queries, 1, 1])?;
        self.resume = true;
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Best> {
        match self.resume || self.picked {
            true => Ok(Best::Device(self.best)),
            false => Tensor::zeros(&self.device, DType::U32, self.best.shape()).map(Best::Device),
        }
    }
}

kernel! {
    pub(crate) FILTER = "kernels/select_filter.ptx";

    spec FilterSpec {
        source: From = [From::Keys, From::Scores],
        /// Whether candidates are stored, not only counted.
        store: bool,
    }

    params FilterParams {
        width: u32, first: u32, base: u32, k: u32, room: u32, floor: u32,
        excludes: u32, words: u32, has_numbers: u32, has_bias: u32,
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
    pub(crate) SORT = "kernels/select_sort.ptx";

    spec SortSpec {
        step: Kind = [Kind::First, Kind::Stride, Kind::Last],
    }

    params SortParams { room: u32, size: u32, stride: u32 }
}

kernel! {
    pub(crate) CUT = "kernels/select_cut.ptx";

    spec CutSpec {
        /// Whether the best are written out.
        out: bool,
    }

    params CutParams { queries: u32, k: u32, room: u32 }
}

impl Kernels for Arc<CudaDevice> {
    const LOCAL: usize = LOCAL;

    fn binding(&self) -> usize {
        usize::MAX
    }

    fn uninit(&self, device: &Device, shape: &[usize]) -> Result<Tensor> {
        Tensor::cuda_uninit(device, DType::U32, shape)
    }

    fn filter(&self, candidates: &Candidates<Self>, source: &Source<'_>) -> Result<()> {
        let Candidates { entries, counts, kept, queries, room, floor, stores, .. } = candidates;
        let spec = FilterSpec { source: source.from, store: *stores };
        let kernel = self.kernel(spec)?;
        let params = FilterParams {
            width: source.width as u32,
            first: source.first as u32,
            base: source.base as u32,
            k: room.k as u32,
            room: room.entries as u32,
            floor: *floor,
            excludes: source.masks.is_some() as u32,
            words: source.masks.map_or(0, |m| m.shape()[1] as u32),
            has_numbers: source.numbers.is_some() as u32,
            has_bias: source.bias.is_some() as u32,
        };
        // What is absent is not read, but something must be bound.
        let [masks, numbers, bias] =
            [source.masks, source.numbers, source.bias].map(|t| t.unwrap_or(source.values));
        let bindings = [source.values, masks, numbers, bias, kept, entries, counts]
            .map(|t| Binding::from(t.cuda()));
        let blocks = source.width.div_ceil(FILTER_THREADS * 4);
        let most = (16 * self.facts.multiprocessors as usize).div_ceil(*queries);
        self.launch(&kernel, &bindings, &params, [blocks.min(most), *queries, 1])
    }

    fn step(&self, candidates: &Candidates<Self>, step: Step) -> Result<()> {
        let Candidates { entries, counts, queries, room, .. } = candidates;
        let blocks = room.blocks();
        let (step, size, stride, blocks) = match step {
            Step::First => (Kind::First, 0, 0, blocks),
            Step::Stride { size, stride } => {
                (Kind::Stride, size, stride, blocks * (LOCAL / 2 / SORT_THREADS))
            }
            Step::Last { size } => (Kind::Last, size, 0, blocks),
        };
        let kernel = self.kernel(SortSpec { step })?;
        let room = room.entries as u32;
        let params = SortParams { room, size: size as u32, stride: stride as u32 };
        let bindings = [counts.cuda().into(), entries.cuda().into()];
        self.launch(&kernel, &bindings, &params, [blocks, *queries, 1])
    }

    fn cut(&self, candidates: &Candidates<Self>, best: Option<&Tensor>) -> Result<()> {
        let Candidates { entries, counts, kept, queries, room, .. } = candidates;
        let spec = CutSpec { out: best.is_some() };
        let kernel = self.kernel(spec)?;
        let params =
            CutParams { queries: *queries as u32, k: room.k as u32, room: room.entries as u32 };
        let bindings = [entries, counts, best.unwrap_or(kept)].map(|t| Binding::from(t.cuda()));
        let grid = match best {
            None => [queries.div_ceil(CUT_THREADS), 1, 1],
            Some(_) => [room.k.div_ceil(CUT_THREADS), *queries, 1],
        };
        self.launch(&kernel, &bindings, &params, grid)
    }
}

kernel! {
    pub(crate) SPLIT = "kernels/select_split.ptx";

    spec SplitSpec {}

    params SplitParams { k: u32, first: u32 }
}

/// Enqueues the writing of the entries of groups of queries as rows, scores and counts.
pub(super) fn split(
    gpu: &Arc<CudaDevice>,
    device: &Device,
    groups: &[Best],
    [queries, k]: [usize; 2],
) -> Result<FoundTensors> {
    if groups.is_empty() {
        return FoundTensors::none(device, [queries, k]);
    }
    let made = |dtype, shape: &[usize]| Tensor::cuda_uninit(device, dtype, shape);
    let rows = made(DType::U32, &[queries, k])?;
    let scores = made(DType::F32, &[queries, k])?;
    let counts = made(DType::U32, &[queries])?;
    let kernel = gpu.kernel(SplitSpec {})?;
    let mut first = 0;
    for group in groups {
        let Best::Device(best) = group else { unreachable!("a GPU's entries are on the device") };
        let queries = best.shape()[0];
        let params = SplitParams { k: k as u32, first: first as u32 };
        let bindings = [best, &rows, &scores, &counts].map(|t| Binding::from(t.cuda()));
        gpu.launch(&kernel, &bindings, &params, [k.div_ceil(CUT_THREADS), queries, 1])?;
        first += queries;
    }
    Ok(FoundTensors { rows, scores, counts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceOptions;
    use crate::device::Backend;
    use crate::device::required::required;
    use crate::ops::select::Found;

    /// Few lists and many, short ones among them.
    #[test]
    fn the_best_of_many_lists_are_found() {
        let opened = Device::cuda_with(0, DeviceOptions::default());
        let Some(device) = required("cuda", opened) else { return };
        let Backend::Cuda(gpu) = device.backend() else { unreachable!() };
        for (queries, splits, k) in [
            (3, 5, 7),
            (2, 67, 100),
            (1, 131, 256),
            (5, 900, 10),
            (2, 300, 64),
            (1, 264, 65),
            (1, 1, 1),
        ] {
            let mut lists = Lists::new(gpu, &device, queries, k).unwrap();
            let mut all: Vec<Vec<u64>> = vec![Vec::new(); queries];
            // A second round of lists goes on with the first's.
            for round in 0..2u64 {
                let mut words = Vec::new();
                for split in 0..splits as u64 {
                    for (q, all) in all.iter_mut().enumerate() {
                        let entry = |i: u64| {
                            let row = (round * splits as u64 + split) * k as u64 + i;
                            let key = (row + 1).wrapping_mul(0x9e37_79b9 + q as u64) % 50_021 + 1;
                            // Some lists are shorter.
                            let is_there = i < k as u64 - split % 3;
                            if is_there { (key << 32) | u64::from(!(row as u32)) } else { 0 }
                        };
                        let mut list: Vec<u64> = (0..k as u64).map(entry).collect();
                        list.sort_unstable_by(|a, b| b.cmp(a));
                        all.extend(&list);
                        words.extend(list.iter().flat_map(|e| [*e as u32, (e >> 32) as u32]));
                    }
                }
                let found = Tensor::from_slice(&device, &[splits, queries, 2 * k], &words).unwrap();
                lists.merge(&found, splits, None).unwrap();
            }
            let best = lists.finish().unwrap();
            let hits = Found::new(&device, vec![best], queries, k).to_hits().unwrap();
            for (q, all) in all.iter_mut().enumerate() {
                all.sort_unstable_by(|a, b| b.cmp(a));
                let want: Vec<u64> = all[..k].iter().map(|e| u64::from(!(*e as u32))).collect();
                assert_eq!(hits.get(q).0, want, "query {q} of {queries}, {splits} lists of {k}");
            }
        }
    }
}
