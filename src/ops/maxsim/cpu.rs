//! Late interaction on the CPU: tiles of a document's tokens against panels of query tokens.
//!
//! A panel is up to two vectors of query tokens, transposed, so that vector lanes are query tokens and a document's element
//! is broadcast: a product is one chain of fused multiply-adds over the dimensions, and the maximum over document tokens
//! stays in a register of its own, lane by lane, until the document ends. Panels start with a query, tiles with a
//! document, so that no result depends on its company.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Args, Best, Computed, Pairs, Storage, Want};
use crate::device::cache::fetch;
use crate::device::threads::items::*;
use crate::ops::math::{PIECE, exp, fitting, vectorize};
use crate::{Result, Tensor};

/// Document tokens whose products are formed together: as many accumulators as AVX-512 and NEON have registers for.
const BLOCK: usize = 12;
/// Bytes of a tile of a document as f32, which is decoded once for all queries and then compared piece by piece.
const TILE: usize = 256 << 10;

pub(super) fn maxsim(args: &Args<'_>) -> Result<Computed> {
    let queries = Queries::new(args);
    let scorer = || Scorer::new(args, &queries);
    let device = args.documents.device();
    let (threads, cost) = (device.threads(), cost(args));
    let tensor = |values: Vec<f32>| Tensor::from_slice(device, &args.shape, &values).map(Some);
    if let (Pairs::Lists(lists), Want::Align) = (&args.pairs, args.want) {
        let pairs: Vec<(usize, u32)> = pairs(lists).collect();
        let found: Vec<(Vec<f32>, Vec<u32>)> =
            threads.map_init(cost, pairs.par_iter(), scorer, |scorer, &(q, document)| {
                scorer.align(q, document as usize)
            });
        let places: Vec<u32> = found.iter().flat_map(|f| &f.1).copied().collect();
        return Ok(Computed {
            rows: tensor(found.into_iter().flat_map(|f| f.0).collect())?,
            places: Some(Tensor::from_slice(device, &args.shape, &places)?),
            columns: None,
        });
    }
    let scores: Vec<[f32; 2]> = match &args.pairs {
        Pairs::Lists(lists) => {
            let pairs: Vec<(usize, u32)> = pairs(lists).collect();
            let mut scores = vec![[0.0; 2]; pairs.len()];
            let each = scores.par_iter_mut().zip(pairs);
            threads.for_each_init(cost, each, scorer, |scorer, (score, (q, d))| {
                scorer.compare(d as usize, q..q + 1, |_, s| *score = s);
            });
            scores
        }
        Pairs::All(range) => all(args, scorer, |i| range.start + i),
        Pairs::Shared(list) => all(args, scorer, |i| list[i] as usize),
    };
    let side = |side: usize| tensor(scores.iter().map(|s| s[side]).collect());
    Ok(Computed {
        rows: if args.want.rows() { side(0)? } else { None },
        columns: if args.want.columns() { side(1)? } else { None },
        places: None,
    })
}

/// About how many nanoseconds one thread takes: 16 multiply-adds each, of the mean lengths of queries and documents.
fn cost(args: &Args<'_>) -> usize {
    let pairs: usize = match &args.pairs {
        Pairs::Lists(lists) => lists.iter().map(Vec::len).sum(),
        _ => args.shape.iter().product(),
    };
    let mean = |tokens: &super::Tokens| tokens.total().div_ceil(tokens.len().max(1)).max(1);
    pairs * mean(args.queries) * mean(args.documents) * args.documents.dim() / 16
}

fn pairs(lists: &[Vec<u32>]) -> impl Iterator<Item = (usize, u32)> {
    lists.iter().enumerate().flat_map(|(q, list)| list.iter().map(move |d| (q, *d)))
}

/// The scores [Q, n] of all queries with documents `number(0..n)`.
fn all<'a>(
    args: &Args<'_>,
    scorer: impl Fn() -> Scorer<'a> + Send + Sync,
    number: impl Fn(usize) -> usize + Send + Sync,
) -> Vec<[f32; 2]> {
    let (width, count) = (args.shape[0], args.shape[1]);
    if width * count == 0 {
        return Vec::new();
    }
    // A document meets all queries while it is in the cache; queries are rows of the result.
    let mut found = vec![[0.0; 2]; count * width];
    let (threads, cost) = (args.documents.device().threads(), cost(args));
    let each = found.par_chunks_mut(width).enumerate();
    threads.for_each_init(cost, each, scorer, |scorer, (i, scores)| {
        scorer.compare(number(i), 0..width, |q, s| scores[q] = s);
    });
    if width == 1 {
        return found;
    }
    let mut scores = vec![[0.0; 2]; count * width];
    let rows = scores.par_chunks_mut(count).enumerate();
    threads.for_each(2 * found.len(), rows, |(q, row)| {
        row.iter_mut().zip(found[q..].iter().step_by(width)).for_each(|(to, from)| *to = *from);
    });
    scores
}

/// Query tokens side by side: `data[d * width + lane]`.
struct Panel {
    /// The tokens, numbered among all queries'.
    tokens: Range<usize>,
    width: usize,
    data: Vec<f32>,
    /// Scales; NaN in lanes without a token, which are then no document token's best.
    scale: Vec<f32>,
    /// The first of its lanes among all panels'.
    lane: usize,
}

/// All queries' panels.
struct Queries {
    panels: Vec<Panel>,
    /// Each query's.
    ranges: Vec<Range<usize>>,
    lanes: usize,
}

impl Queries {
    fn new(args: &Args<'_>) -> Queries {
        let lanes = pulp::Arch::new().dispatch(Lanes);
        let (tokens, dim) = (args.queries, args.queries.dim());
        let mut queries = Queries { panels: Vec::new(), ranges: Vec::new(), lanes: 0 };
        for q in 0..tokens.len() {
            let start = queries.panels.len();
            let mut rest = tokens.offsets().range(q);
            while !rest.is_empty() {
                let width = if rest.len() <= lanes { lanes } else { 2 * lanes };
                let here = rest.start..rest.end.min(rest.start + width);
                rest.start = here.end;
                let mut rows = vec![0.0; here.len() * dim];
                tokens.decode(here.clone(), tokens.storage().dtype(), &mut rows);
                let mut data = vec![0.0; dim * width];
                for (lane, row) in rows.chunks_exact(dim).enumerate() {
                    row.iter().enumerate().for_each(|(d, v)| data[d * width + lane] = *v);
                }
                let mut scale = vec![f32::NAN; width];
                for (scale, token) in scale.iter_mut().zip(here.clone()) {
                    *scale = tokens.inner(token, args.how.padding());
                }
                let lane = queries.lanes;
                queries.lanes += width;
                queries.panels.push(Panel { tokens: here, width, data, scale, lane });
            }
            queries.ranges.push(start..queries.panels.len());
        }
        queries
    }
}

/// The searches for their best of many tokens: the largest similarity so far and where it is; for the soft best the sums of
/// the weights, relative to the largest, and of the similarities they weigh.
#[derive(Default)]
struct Search {
    largest: Vec<f32>,
    place: Vec<u32>,
    weights: Vec<f32>,
    weighted: Vec<f32>,
}

impl Search {
    fn reset(&mut self, count: usize) {
        let fill = |values: &mut Vec<f32>, value| {
            values.clear();
            values.resize(count, value);
        };
        fill(&mut self.largest, f32::NEG_INFINITY);
        fill(&mut self.weights, 0.0);
        fill(&mut self.weighted, 0.0);
        self.place.clear();
        self.place.resize(count, u32::MAX);
    }

    /// The best of token `i`, whose own scale is `scale`; a soft one is scaled already.
    fn best(&self, i: usize, best: Best, scale: f32) -> f32 {
        match best {
            _ if self.largest[i] == f32::NEG_INFINITY => f32::NEG_INFINITY,
            Best::Max => self.largest[i] * scale,
            Best::Soft { .. } => self.weighted[i] / self.weights[i],
        }
    }
}

/// A thread's work: documents, one after the other, against queries.
struct Scorer<'a> {
    args: &'a Args<'a>,
    queries: &'a Queries,
    /// A tile as f32: of which document, from which token on.
    rows: Vec<f32>,
    held: Option<(usize, usize)>,
    /// Products of a tile and a panel, where more is wanted than plain maxima, which never leave the registers.
    products: Vec<f32>,
    /// The searches of the query tokens, lane by lane, and of the document's tokens.
    lanes: Search,
    columns: Search,
}

impl<'a> Scorer<'a> {
    fn new(args: &'a Args<'a>, queries: &'a Queries) -> Self {
        Scorer {
            args,
            queries,
            rows: Vec::new(),
            held: None,
            products: Vec::new(),
            lanes: Search::default(),
            columns: Search::default(),
        }
    }

    /// Gives `put` the scores of a document with each of the queries, from both sides.
    fn compare(
        &mut self,
        document: usize,
        queries: Range<usize>,
        mut put: impl FnMut(usize, [f32; 2]),
    ) {
        // The document's tokens search one query at a time.
        let together = if self.args.want.columns() { 1 } else { queries.len().max(1) };
        for first in queries.clone().step_by(together) {
            let group = first..(first + together).min(queries.end);
            self.search(document, group.clone());
            for q in group {
                put(q, [self.row_score(q), self.column_score(document)]);
            }
        }
    }

    /// The maxima of query `q`'s tokens in a document, and their places.
    fn align(&mut self, q: usize, document: usize) -> (Vec<f32>, Vec<u32>) {
        self.search(document, q..q + 1);
        let tokens = self.args.queries;
        let lane = |token: usize, lane: usize| match tokens.counts(token) {
            true => (
                self.lanes.best(lane, Best::Max, tokens.inner(token, false)),
                self.lanes.place[lane],
            ),
            false => (f32::NEG_INFINITY, u32::MAX),
        };
        self.lanes_of(q).map(|(token, at)| lane(token, at)).unzip()
    }

    /// The tokens of query `q` and their lanes.
    fn lanes_of(&self, q: usize) -> impl Iterator<Item = (usize, usize)> {
        let panels = &self.queries.panels[self.queries.ranges[q].clone()];
        panels.iter().flat_map(|p| p.tokens.clone().zip(p.lane..))
    }

    fn row_score(&self, q: usize) -> f32 {
        let (tokens, how) = (self.args.queries, self.args.how);
        if !self.args.want.rows() {
            return 0.0;
        }
        how.reduce(self.lanes_of(q).filter(|(token, _)| tokens.counts(*token)).map(
            |(token, lane)| self.lanes.best(lane, how.best, tokens.inner(token, how.padding())),
        ))
    }

    fn column_score(&self, document: usize) -> f32 {
        let (tokens, how) = (self.args.documents, self.args.how);
        if !self.args.want.columns() {
            return 0.0;
        }
        let range = tokens.offsets().range(document).enumerate();
        how.reduce(
            range.filter(|(_, token)| tokens.counts(*token)).map(|(i, token)| {
                self.columns.best(i, how.best, tokens.inner(token, how.padding()))
            }),
        )
    }

    /// Runs the searches of the tokens of a document and of some queries in each other.
    fn search(&mut self, document: usize, queries: Range<usize>) {
        let tokens = self.args.documents;
        let range = tokens.offsets().range(document);
        self.lanes.reset(self.queries.lanes);
        self.columns.reset(if self.args.want.columns() { range.len() } else { 0 });
        let ranges = &self.queries.ranges[queries];
        let panels = ranges.first().map_or(0, |r| r.start)..ranges.last().map_or(0, |r| r.end);
        let step = fitting(TILE, tokens.dim(), BLOCK);
        for start in range.clone().step_by(step) {
            let tile = start..(start + step).min(range.end);
            self.tile(document, tile, start - range.start, panels.clone());
        }
    }

    /// Compares the tokens of a tile, which starts at place `first` of its document, with panels.
    fn tile(&mut self, document: usize, tile: Range<usize>, first: usize, panels: Range<usize>) {
        let (args, tokens, dim) = (self.args, self.args.documents, self.args.documents.dim());
        let mut buffer = std::mem::take(&mut self.rows);
        let rows = match (tokens.storage(), tokens.codec()) {
            (Storage::F32, None) => {
                &tokens.vectors().cpu::<f32>()[tile.start * dim..tile.end * dim]
            }
            _ => {
                if self.held != Some((document, tile.start)) {
                    buffer.resize(tile.len() * dim, 0.0);
                    let rounded = args.queries.storage().dtype();
                    tokens.decode(tile.clone(), rounded, &mut buffer);
                    self.held = Some((document, tile.start));
                }
                &buffer[..tile.len() * dim]
            }
        };
        let padding = args.how.padding();
        let arch = pulp::Arch::new();
        let plain =
            args.how.best == Best::Max && args.want == Want::Queries && !tokens.scaled(padding);
        let step = fitting(PIECE, dim, BLOCK);
        for (i, rows) in rows.chunks(step * dim).enumerate() {
            fetch(rows);
            for panel in &self.queries.panels[panels.clone()] {
                let lanes = panel.lane..panel.lane + panel.width;
                if plain {
                    let largest = &mut self.lanes.largest[lanes];
                    arch.dispatch(Products { panel, rows, dim, into: Into::Maxima(largest) });
                    continue;
                }
                let count = rows.len() / dim;
                self.products.resize(count * panel.width, 0.0);
                let into = Into::All(&mut self.products);
                arch.dispatch(Products { panel, rows, dim, into });
                let start = tile.start + i * step;
                self.update(panel, start..start + count, first + i * step);
            }
        }
        self.rows = buffer;
    }

    /// Takes the products of a tile and a panel into the searches.
    fn update(&mut self, panel: &Panel, tile: Range<usize>, first: usize) {
        let (args, width) = (self.args, panel.width);
        let scale: Vec<f32> = tile.map(|t| args.documents.inner(t, args.how.padding())).collect();
        let lanes = &mut self.lanes;
        let at = panel.lane..panel.lane + width;
        let update = Update {
            products: &self.products[..scale.len() * width],
            own: &panel.scale,
            scale: &scale,
            first,
            largest: &mut lanes.largest[at.clone()],
            place: &mut lanes.place[at.clone()],
            weights: &mut lanes.weights[at.clone()],
            weighted: &mut lanes.weighted[at],
        };
        let columns = args.want.columns().then_some(&mut self.columns);
        match args.how.best {
            Best::Max => vectorize(
                #[inline(always)]
                || update.max(columns),
            ),
            Best::Soft { temperature, .. } => vectorize(
                #[inline(always)]
                || update.soft(1.0 / temperature, columns),
            ),
        }
    }
}

/// The products of a tile and a panel, and what takes part in the update of the searches.
struct Update<'a> {
    /// A row for each document token, a column for each lane.
    products: &'a [f32],
    /// The scales of lanes and of document tokens.
    own: &'a [f32],
    scale: &'a [f32],
    /// The tile's place in the document.
    first: usize,
    largest: &'a mut [f32],
    place: &'a mut [u32],
    weights: &'a mut [f32],
    weighted: &'a mut [f32],
}

impl Update<'_> {
    #[inline(always)]
    fn max(self, columns: Option<&mut Search>) {
        let width = self.own.len();
        for (i, (row, scale)) in self.products.chunks_exact(width).zip(self.scale).enumerate() {
            let at = (self.first + i) as u32;
            let lanes = row.iter().zip(self.largest.iter_mut()).zip(self.place.iter_mut());
            for ((p, largest), place) in lanes {
                let s = p * scale;
                // Not for a NaN, and of equals the first stays.
                let better = s > *largest;
                *largest = if better { s } else { *largest };
                *place = if better { at } else { *place };
            }
        }
        if let Some(columns) = columns {
            for (i, row) in self.products.chunks_exact(width).enumerate() {
                let most = most(row, |i, p| p * self.own[i]);
                let largest = &mut columns.largest[self.first + i];
                *largest = if most > *largest { most } else { *largest };
            }
        }
    }

    /// The softmax with the sums kept relative to the largest similarity so far (Milakov, Gimelshein, arXiv:1805.02867).
    #[inline(always)]
    fn soft(self, inverse: f32, columns: Option<&mut Search>) {
        let width = self.own.len();
        let rows = self.products.chunks_exact(BLOCK * width);
        let last = rows.remainder();
        let blocks = rows.chain((!last.is_empty()).then_some(last));
        for (block, scales) in blocks.zip(self.scale.chunks(BLOCK)) {
            for lane in 0..width {
                let own = self.own[lane];
                let s = |r: usize| block[r * width + lane] * scales[r] * own;
                let mut most = self.largest[lane];
                for r in 0..scales.len() {
                    most = if s(r) > most { s(r) } else { most };
                }
                let keep = decay(self.largest[lane], most, inverse);
                let mut weights = self.weights[lane] * keep;
                let mut weighted = self.weighted[lane] * keep;
                for r in 0..scales.len() {
                    let weight = decay(s(r), most, inverse);
                    weights += weight;
                    weighted += if weight > 0.0 { weight * s(r) } else { 0.0 };
                }
                self.largest[lane] = most;
                self.weights[lane] = weights;
                self.weighted[lane] = weighted;
            }
        }
        let Some(columns) = columns else { return };
        for (i, (row, scale)) in self.products.chunks_exact(width).zip(self.scale).enumerate() {
            let at = self.first + i;
            let s = |i: usize, p: f32| p * scale * self.own[i];
            let most = most(row, s);
            let most = if most > columns.largest[at] { most } else { columns.largest[at] };
            let keep = decay(columns.largest[at], most, inverse);
            let (mut weights, mut weighted) = (0.0, 0.0);
            for (lane, &p) in row.iter().enumerate() {
                let weight = decay(s(lane, p), most, inverse);
                weights += weight;
                weighted += if weight > 0.0 { weight * s(lane, p) } else { 0.0 };
            }
            columns.largest[at] = most;
            columns.weights[at] = columns.weights[at] * keep + weights;
            columns.weighted[at] = columns.weighted[at] * keep + weighted;
        }
    }
}

/// `exp((s - most) / τ)`, 0 for NaN and where nothing was found yet.
#[inline(always)]
fn decay(s: f32, most: f32, inverse: f32) -> f32 {
    if s > f32::NEG_INFINITY { exp((s - most) * inverse) } else { 0.0 }
}

/// The largest similarity `s(i, product i)` of a row, -∞ where all are NaN. In lanes of its own, so that it vectorises.
#[inline(always)]
fn most(row: &[f32], s: impl Fn(usize, f32) -> f32) -> f32 {
    const LANES: usize = 4;
    let mut most = [f32::NEG_INFINITY; LANES];
    for (c, chunk) in row.chunks_exact(LANES).enumerate() {
        for lane in 0..LANES {
            let s = s(LANES * c + lane, chunk[lane]);
            most[lane] = if s > most[lane] { s } else { most[lane] };
        }
    }
    most.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m })
}

/// The number of f32 lanes of this CPU's vectors.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Where products go.
enum Into<'a> {
    /// The largest of each lane's, beside what is there.
    Maxima(&'a mut [f32]),
    /// All, a row for each document token.
    All(&'a mut [f32]),
}

/// The products of the tokens of a tile \[n, dim\] with those of a panel.
struct Products<'a> {
    panel: &'a Panel,
    rows: &'a [f32],
    dim: usize,
    into: Into<'a>,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // AVX2 has half the registers of the others.
        match (self.panel.width / S::F32_LANES, S::F32_LANES == 8) {
            (1, _) => self.blocks::<S, 1, BLOCK>(simd),
            (_, false) => self.blocks::<S, 2, BLOCK>(simd),
            (_, true) => self.blocks::<S, 2, { BLOCK / 2 }>(simd),
        }
    }
}

/// A loop over literals, written out.
macro_rules! unroll {
    ($i:ident in $($n:literal)* => $body:block) => {
        $({
            #[allow(non_upper_case_globals)]
            const $i: usize = $n;
            $body
        })*
    };
}

impl Products<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const V: usize, const R: usize>(self, simd: S) {
        let Products { panel, rows, dim, into } = self;
        let data = &S::as_simd_f32s(&panel.data).0.as_chunks::<V>().0[..dim];
        let count = rows.len() / dim;
        // A last block takes its last row several times.
        let block = |first: usize| -> [&[f32]; R] {
            std::array::from_fn(|r| &rows[(first + r).min(count - 1) * dim..][..dim])
        };
        match into {
            Into::Maxima(largest) => {
                let largest = &mut S::as_mut_simd_f32s(largest).0.as_chunks_mut::<V>().0[0];
                let mut most = *largest;
                for first in (0..count).step_by(R) {
                    let sums = products::<S, V, R>(simd, data, block(first));
                    for row in sums {
                        for (most, s) in most.iter_mut().zip(row) {
                            *most = simd.select_f32s(simd.greater_than_f32s(s, *most), s, *most);
                        }
                    }
                }
                *largest = most;
            }
            Into::All(all) => {
                let all = S::as_mut_simd_f32s(all).0.as_chunks_mut::<V>().0;
                for first in (0..count).step_by(R) {
                    let sums = products::<S, V, R>(simd, data, block(first));
                    all[first..].iter_mut().zip(sums).for_each(|(to, from)| *to = from);
                }
            }
        }
    }
}

/// `V` vectors of query tokens by `R` document tokens, accumulated in registers over all dimensions.
#[inline(always)]
fn products<S: Simd, const V: usize, const R: usize>(
    simd: S,
    panel: &[[S::f32s; V]],
    rows: [&[f32]; R],
) -> [[S::f32s; V]; R] {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (d, queries) in panel.iter().enumerate() {
        // Unrolled in the source: only accumulators with constant indices are sure to live in registers.
        unroll!(r in 0 1 2 3 4 5 6 7 8 9 10 11 => {
            if r < R {
                let x = simd.splat_f32s(rows[r][d]);
                unroll!(v in 0 1 => {
                    if v < V {
                        sums[r][v] = simd.mul_add_f32s(queries[v], x, sums[r][v]);
                    }
                });
            }
        });
    }
    sums
}
