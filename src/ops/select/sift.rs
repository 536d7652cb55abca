//! Selection on CUDA for many queries: a sample of the rows bounds each query's k-th best score from below, a scan of all rows
//! appends what exceeds the bound, and the best of these survivors are picked.
//!
//! No list is kept while rows are scored, so a scan on fast tensor cores is as fast as its products. About `k N / sample` rows
//! of a query survive, whatever the order of the rows: splits take tiles in turns, and the sample is spread over the corpus. Where a
//! query has more survivors than there is room for, as when most rows score the same, the bound is raised by those that were
//! kept, and that query is searched with lists. All of this is enqueued; the host waits for nothing.

use std::sync::Arc;

use super::cuda::{Inputs, Lists, Pass, Scan};
use super::plan::{Span, Wanted};
use super::{Best, FUSED_K, Filter};
use crate::device::Device;
use crate::device::cuda::{Binding, CudaDevice};
use crate::template::{kernel, params};
use crate::{DType, Result, Tensor};

/// Queries of a block, and rows of a tile.
pub(crate) const QUERIES: usize = 128;
pub(crate) const ROWS: usize = 128;
/// Bytes of a row of a tile, and tiles of queries that stay in shared memory.
const STEP: usize = 128;
const SLOTS: usize = 8;
/// The most groups of a sample, as `kernels/select_bound.ptx` has room for, and the most of a tile.
const MOST_GROUPS: usize = 2048;
const GROUPS: usize = 4;
/// So many times k groups, or the best rows would often share one.
const SPREAD: usize = 8;
/// The most splits that `kernels/select_pick.ptx` takes with one warp a query, and with eight.
const SPLITS: [usize; 2] = [64, 256];
/// Up to here a list of one warp holds k.
const WARP_K: usize = 64;
/// How many survivors a warp should pick from.
const WARP_SURVIVORS: usize = 256;
/// Bytes of survivors, and of maxima; and of one survivor, eight scores and their place.
const SURVIVORS: usize = 256 << 20;
const SURVIVOR: usize = 36;
/// The sample is no more of the corpus than this part, and no fewer tiles.
const SHARE: usize = 4;
const LEAST_TILES: usize = 32;
/// Tiles of a chunk, on average, that are worth its five launches.
const CHUNK_TILES: usize = 64;
/// Up to 16 queries a scan that keeps lists forms no more products, and needs no sample.
const LEAST_QUERIES: usize = 17;

params! {
    /// What a scan is told.
    struct SiftParams {
        width: u32, rows: u32, queries: u32, tiles: u32, stride: u32, splits: u32, room: u32,
        first_group: u32, groups: u32, has_bias: u32, excludes: u32,
    }
}

kernel! {
    pub(crate) BOUND = "kernels/select_bound.ptx";

    spec BoundSpec {}

    params BoundParams { queries: u32, groups: u32, k: u32, floor: u32, scaled: u32 }
}

kernel! {
    pub(crate) PICK = "kernels/select_pick.ptx";

    spec PickSpec {
        /// Warps that pick a query's best.
        warps: u32 = [1, 8],
        /// Whether they go on with the best of earlier chunks.
        resume: bool,
    }

    params PickParams { queries: u32, splits: u32, room: u32, k: u32, base: u32 }
}

/// What a scan writes.
pub(crate) enum Out<'a> {
    /// The maxima of a sample's groups of rows, \[Q, groups\] f32, and how many groups a tile has.
    Maxima(Binding<'a>, usize),
    /// What exceeds a query's bound.
    Survivors(&'a Survivors),
}

impl<'a> Out<'a> {
    /// Whether it is of a sample, and how many groups a tile has.
    pub(crate) fn sample(&self) -> (bool, u32) {
        match self {
            Out::Maxima(_, groups) => (true, *groups as u32),
            Out::Survivors(_) => (false, 1),
        }
    }

    /// What kernels take behind what both kinds of scans read: the maxima, or what says which tiles are skipped, what a scan of
    /// all rows reads besides, and the survivors.
    pub(crate) fn bindings(&self, skips: Binding<'a>, besides: &[Binding<'a>]) -> Vec<Binding<'a>> {
        match self {
            Out::Maxima(maxima, _) => vec![*maxima],
            Out::Survivors(Survivors { bounds, scores, places, counts }) => {
                let survivors = [bounds, scores, places, counts].map(|t| Binding::from(t.cuda()));
                [&[skips], besides, &survivors].concat()
            }
        }
    }
}

/// Room for what exceeds bounds.
pub(crate) struct Survivors {
    /// \[Q\] keys that must be exceeded.
    pub(crate) bounds: Tensor,
    /// Eight scores each, in no order: \[splits, Q, room, 8\] f32.
    pub(crate) scores: Tensor,
    /// The first of their rows, \[splits, Q, room\].
    pub(crate) places: Tensor,
    /// How many there are, or would be: \[splits, Q\].
    pub(crate) counts: Tensor,
}

/// Scans on tiles of [`QUERIES`] x [`ROWS`].
pub(crate) trait Sift {
    /// \[Q\] f32, NaN for a query that finds nothing; none where there is no such query.
    fn query_scale(&self) -> Option<Binding<'_>>;

    /// Enqueues the scan of a chunk. `params` lacks the width.
    fn scan(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        out: Out<'_>,
        params: SiftParams,
        blocks: usize,
    ) -> Result<()>;

    /// Enqueues what forms the scores of a chunk's survivors, if the scan only bounds them.
    fn form(
        &self,
        _chunk: usize,
        _inputs: &Inputs<'_>,
        _survivors: &Survivors,
        _params: SiftParams,
    ) -> Result<()> {
        Ok(())
    }
}

/// How much of a corpus is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    k: usize,
    /// One of so many tiles is in the sample.
    stride: usize,
    /// Groups of a tile, and of all.
    each: usize,
    groups: usize,
    /// Tiles of the largest chunk.
    tiles: usize,
    /// So many times more rows may reach a score than exceed it.
    ties: usize,
}

impl Plan {
    /// For the `k` best rows of chunks of so many rows; none where such a search does not pay. A score takes as long as `dim` multiply-adds of
    /// halves.
    pub(crate) fn new(
        queries: usize,
        k: usize,
        dim: usize,
        chunks: &[usize],
        ties: usize,
    ) -> Option<Plan> {
        if queries < LEAST_QUERIES || k > FUSED_K {
            return None;
        }
        let tiles = || chunks.iter().map(|rows| rows.div_ceil(ROWS));
        let all: usize = tiles().sum();
        if all < CHUNK_TILES * chunks.len() {
            return None;
        }
        // The time of a sampled tile against that of the survivors it saves, which wait for shared memory and are sorted.
        let wanted = (400 * k * all / dim.max(1)).isqrt();
        // A tile's maximum, or four where there would be too few. Each chunk has one tile of the sample at least.
        let many = wanted >= SPREAD * k || wanted > MOST_GROUPS / GROUPS;
        let choices = if many { [1, GROUPS] } else { [GROUPS, 1] };
        let (each, least, most) = choices
            .map(|each| {
                let least = (SPREAD * k / each).max(LEAST_TILES);
                (each, least, (MOST_GROUPS / each).min(all / SHARE))
            })
            .into_iter()
            .find(|&(_, least, most)| least <= most && chunks.len() <= most)?;
        let sampled = |stride| tiles().map(|n| n.div_ceil(stride)).sum::<usize>();
        let stride = (all / wanted.clamp(least, most)..all).find(|&n| sampled(n) <= most)?;
        let (groups, tiles) = (each * sampled(stride), tiles().max().unwrap_or(0));
        let plan = Plan { k, stride, each, groups, tiles, ties };
        // Of a corpus that is large for its sample too many rows would survive; several splits have twice the room at most.
        (2 * SURVIVOR * plan.room(1) * 2 * QUERIES <= SURVIVORS).then_some(plan)
    }

    /// How many of so many queries are searched together, on so many multiprocessors.
    pub(crate) fn group(&self, queries: usize, processors: usize) -> usize {
        let fits = |n: &usize| {
            let splits = self.splits(*n, self.tiles, processors);
            n * (SURVIVOR * splits * self.room(splits)).max(4 * self.groups) <= SURVIVORS
        };
        if fits(&queries) {
            return queries;
        }
        // Whole tiles, by twos; several splits have no less room than one.
        let step = 2 * QUERIES;
        let most = SURVIVORS / (SURVIVOR * self.room(1)) + 1;
        (step..queries.min(most)).step_by(step).rev().find(fits).unwrap_or(step)
    }

    /// Blocks that take the same rows.
    pub(crate) fn cluster(queries: usize) -> usize {
        if queries > QUERIES { 2 } else { 1 }
    }

    /// Into how many splits `tiles` tiles are divided: the number with the shortest rounds.
    fn splits(&self, queries: usize, tiles: usize, processors: usize) -> usize {
        // A block begins and ends in about the time of so many tiles.
        const OWN: usize = 3;
        let cluster = Plan::cluster(queries);
        let (units, at_once) = (queries.div_ceil(QUERIES * cluster), processors / cluster);
        let time = |n: &usize| (units * n).div_ceil(at_once) * (tiles.div_ceil(*n) + OWN);
        (1..=tiles.min(SPLITS[1])).min_by_key(time).unwrap_or(1)
    }

    /// Places of a query in a split: of 10^8 queries one has more survivors, if rows are in no order. How many exceed the k-th of a sample is
    /// `stride` times a number that varies as a sum of k exponential ones does; splits share them by chance.
    fn room(&self, splits: usize) -> usize {
        let all = self.ties * self.stride * (self.k + 5 * self.k.isqrt() + 15);
        let each = all.div_ceil(splits);
        if splits == 1 { all } else { each + 6 * each.isqrt() + 16 }
    }

    /// The warps that pick a query's best of survivors in so many splits.
    fn warps(&self, splits: usize) -> usize {
        let survivors = self.k * self.stride;
        let few = self.k <= WARP_K && splits <= SPLITS[0] && survivors <= WARP_SURVIVORS;
        if few { 1 } else { 8 }
    }
}

/// Enqueues the search by `sift`, and by `lists` where that has no room.
pub(crate) fn best(
    gpu: &Arc<CudaDevice>,
    device: &Device,
    wanted: &Wanted<'_>,
    spans: &[Span],
    lists: &impl Scan,
    sift: &impl Sift,
    plan: Plan,
) -> Result<Best> {
    let Wanted { queries, k, floor, .. } = *wanted;
    let pass = Pass { gpu, device, wanted, spans, scan: lists };
    let processors = gpu.facts.multiprocessors as usize;
    let cluster = Plan::cluster(queries);
    let units = cluster * queries.div_ceil(QUERIES * cluster);
    let open: Vec<(usize, &Span)> = wanted.open(spans).collect();
    if open.is_empty() {
        return Lists::new(gpu, device, queries, k)?.finish();
    }
    let inputs =
        open.iter().map(|(_, span)| pass.inputs(span, ROWS)).collect::<Result<Vec<_>>>()?;
    let tiles = |span: &Span| span.rows.len().div_ceil(ROWS);
    let params = |span: &Span, inputs: &Inputs<'_>| SiftParams {
        rows: span.rows.len() as u32,
        queries: queries as u32,
        has_bias: inputs.bias.is_some() as u32,
        excludes: inputs.exclude.is_some() as u32,
        ..Default::default()
    };
    let uninit = |dtype, shape: &[usize]| Tensor::cuda_uninit(device, dtype, shape);

    let sampled = |span: &Span| tiles(span).div_ceil(plan.stride);
    let groups = plan.each * open.iter().map(|(_, span)| sampled(span)).sum::<usize>();
    let maxima = uninit(DType::F32, &[queries, groups])?;
    let mut first_group = 0;
    for ((chunk, span), inputs) in open.iter().zip(&inputs) {
        let splits = plan.splits(queries, sampled(span), processors);
        let params = SiftParams {
            tiles: sampled(span) as u32,
            stride: plan.stride as u32,
            splits: splits as u32,
            groups: groups as u32,
            first_group: first_group as u32,
            ..params(span, inputs)
        };
        let out = Out::Maxima(maxima.cuda().into(), plan.each);
        sift.scan(*chunk, inputs, out, params, units * splits)?;
        first_group += plan.each * sampled(span);
    }
    let bounds = uninit(DType::U32, &[queries])?;
    let [of_queries, of_groups, of_k] = [queries, groups, k].map(|n| n as u32);
    let scale = sift.query_scale();
    let scaled = scale.is_some() as u32;
    let bound = BoundParams { queries: of_queries, groups: of_groups, k: of_k, floor, scaled };
    // What is absent is not read, but something must be bound.
    let maxima = Binding::from(maxima.cuda());
    let bindings = [maxima, scale.unwrap_or(maxima), bounds.cuda().into()];
    let kernel = gpu.kernel(BoundSpec {})?;
    gpu.launch(&kernel, &bindings, &bound, [queries.div_ceil(4), 1, 1])?;

    let splits = plan.splits(queries, plan.tiles, processors);
    let (room, warps) = (plan.room(splits), plan.warps(splits));
    let survivors = Survivors {
        bounds,
        scores: uninit(DType::F32, &[splits, queries, 8 * room])?,
        places: uninit(DType::U32, &[splits, queries, room])?,
        counts: uninit(DType::U32, &[splits, queries])?,
    };
    let mut best = Lists::new(gpu, device, queries, k)?;
    let again = uninit(DType::U32, &[queries])?;
    for ((chunk, span), inputs) in open.iter().zip(&inputs) {
        let params = SiftParams {
            tiles: tiles(span) as u32,
            stride: 1,
            splits: splits as u32,
            room: room as u32,
            ..params(span, inputs)
        };
        let out = Out::Survivors(&survivors);
        sift.scan(*chunk, inputs, out, params, units * splits)?;
        sift.form(*chunk, inputs, &survivors, params)?;
        let kernel = gpu.kernel(PickSpec { warps: warps as u32, resume: best.picked })?;
        let params = PickParams {
            queries: of_queries,
            splits: splits as u32,
            room: room as u32,
            k: of_k,
            base: span.rows.start as u32,
        };
        let Survivors { bounds, scores, places, counts } = &survivors;
        let bindings = [scores, places, counts, bounds, &best.best, &again];
        let bindings = bindings.map(|t| Binding::from(t.cuda()));
        let blocks = if warps == 1 { queries.div_ceil(4) } else { queries };
        gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])?;
        best.picked = true;
    }
    pass.again(best, &again)
}

/// Whether scans take a search: of corpora that consist of such chunks and numbers of queries, whose rows have so many bytes, by a filter that
/// is the same for all queries.
pub(crate) fn takes(
    gpu: &CudaDevice,
    filter: &Filter<'_>,
    extents: impl IntoIterator<Item = usize>,
    row: usize,
) -> bool {
    // Places in a tensor map are signed; copies are of multiples of 16 bytes.
    let most = i32::MAX as usize - 2 * ROWS;
    gpu.facts.capability == (9, 0)
        && !matches!(filter, Filter::PerQuery(_))
        && row > 0
        && row.is_multiple_of(16)
        && extents.into_iter().all(|n| n <= most)
}

/// Whether queries of `parts` rows of so many bytes stay in shared memory.
pub(crate) fn is_resident(row: usize, parts: usize) -> bool {
    row.div_ceil(STEP) * parts <= SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_fits_and_is_a_small_part() {
        for queries in [17, 1000, 20_000] {
            for k in [1, 10, 100, 256] {
                for dim in [8, 128, 1024] {
                    for chunks in [
                        vec![1],
                        vec![100_000],
                        vec![1_000_000, 77],
                        vec![50_000; 100],
                        vec![10_000_000],
                    ] {
                        let Some(plan) = Plan::new(queries, k, dim, &chunks, 1) else { continue };
                        let tiles: usize = chunks.iter().map(|n| n.div_ceil(ROWS)).sum();
                        let sampled = plan.groups / plan.each;
                        assert!(plan.groups <= MOST_GROUPS && sampled <= tiles / SHARE, "{plan:?}");
                        assert!(plan.groups >= SPREAD / 2 * k, "{plan:?}");
                        let group = plan.group(queries, 132);
                        let splits = plan.splits(group, plan.tiles, 132);
                        let room = plan.room(splits);
                        assert!(room * splits >= k * tiles / sampled, "{plan:?}");
                        assert!(SURVIVOR * group * splits * room <= SURVIVORS, "{plan:?}, {group}");
                        assert!(splits <= SPLITS[usize::from(plan.warps(splits) > 1)]);
                    }
                }
            }
        }
        assert!(Plan::new(16_384, 10, 128, &[100_000], 1).is_some());
        // Lists are better for few queries, a small corpus, or a large k.
        assert_eq!(Plan::new(16, 10, 128, &[100_000], 1), None);
        assert_eq!(Plan::new(1000, 10, 128, &[2_000], 1), None);
        assert_eq!(Plan::new(1000, 257, 128, &[1_000_000], 1), None);
        assert!(Plan::new(1000, 256, 128, &[10_000_000], 1).is_some());
        assert_eq!(Plan::new(1000, 256, 128, &[20_000_000], 1), None);
        assert_eq!(Plan::new(1000, 1, 128, &[2000; 1000], 1), None);
    }

    #[test]
    fn each_part_of_a_query_takes_whole_tiles() {
        assert!(is_resident(1024, 1) && !is_resident(1040, 1));
        assert!(is_resident(256, 3) && !is_resident(272, 3));
    }

    #[test]
    fn splits_keep_all_multiprocessors_busy() {
        let plan = Plan::new(1000, 10, 128, &[100_000], 1).unwrap();
        let splits = |queries, tiles| plan.splits(queries, tiles, 132);
        assert_eq!(splits(16_384, 782), 1);
        assert_eq!(splits(1024, 7813), 33);
        assert_eq!(splits(64, 7813), 131);
        assert_eq!([splits(64, 1), splits(64, 0)], [1, 1]);
    }
}
