//! Late interaction on the CPU: tiles of a document's tokens against panels of query tokens.
//!
//! A panel is up to two vectors of query tokens, transposed, so that vector lanes are query tokens and a document's word is
//! broadcast: a product is one chain over the words, and the maximum over document tokens stays in a register of its own,
//! lane by lane, until the document ends. Panels start with a query, tiles with a document, so that no result depends on
//! its company. Floats are multiplied as f32, bytes and bits as they are where the CPU has instructions for them
//! ([`products::Kind`]).

mod products;
mod units;

use std::ops::Range;

use self::products::{Into, Kind, Panel, Products};
use super::{Args, Best, Computed, Pairs, Side, Storage, Tokens, Want};
use crate::device::cache::fetch;
use crate::device::threads::items::*;
use crate::ops::math::{PIECE, exp, fitting, vectorize};
use crate::{Result, Tensor};

/// Document tokens whose products are formed together: as many accumulators as AVX-512 and NEON have registers for.
const BLOCK: usize = 12;
/// Bytes of a tile of a document, which is compared piece by piece. Where it is decoded for one comparison only, a tile is
/// a piece.
const TILE: usize = 256 << 10;

pub(super) fn maxsim(args: &Args<'_>) -> Result<Computed> {
    let queries = Queries::new(args, Kind::of(args.queries.storage()));
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

/// About how many nanoseconds one thread takes: 16 words each, of the mean lengths of queries and documents, and for a
/// product as many as four more.
fn cost(args: &Args<'_>) -> usize {
    let pairs: usize = match &args.pairs {
        Pairs::Lists(lists) => lists.iter().map(Vec::len).sum(),
        _ => args.shape.iter().product(),
    };
    let mean = |tokens: &Tokens| tokens.total().div_ceil(tokens.len().max(1)).max(1);
    let words = Kind::of(args.queries.storage()).words(args.documents.dim());
    pairs * mean(args.queries) * mean(args.documents) * (words + 4) / 16
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

/// All queries' panels.
struct Queries {
    kind: Kind,
    panels: Vec<Panel>,
    /// Each query's.
    ranges: Vec<Range<usize>>,
    lanes: usize,
}

impl Queries {
    fn new(args: &Args<'_>, kind: Kind) -> Queries {
        let (lanes, tokens) = (kind.lanes(), args.queries);
        let mut queries = Queries { kind, panels: Vec::new(), ranges: Vec::new(), lanes: 0 };
        for q in 0..tokens.len() {
            let start = queries.panels.len();
            let mut rest = tokens.offsets().range(q);
            while !rest.is_empty() {
                let width = if rest.len() <= lanes { lanes } else { 2 * lanes };
                let here = rest.start..rest.end.min(rest.start + width);
                rest.start = here.end;
                let (padding, lane) = (args.how.padding(), queries.lanes);
                queries.panels.push(Panel::new(kind, tokens, here, padding, width, lane));
                queries.lanes += width;
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
    /// The words of a tile, and its document and first token.
    rows: Vec<u32>,
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
            self.search(document, group.clone(), together < queries.len());
            for q in group {
                put(q, [self.row_score(q), self.column_score(document)]);
            }
        }
    }

    /// The maxima of query `q`'s tokens in a document, and their places.
    fn align(&mut self, q: usize, document: usize) -> (Vec<f32>, Vec<u32>) {
        self.search(document, q..q + 1, false);
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

    /// Runs the searches of the tokens of a document and of some queries in each other; `again` where more queries follow.
    fn search(&mut self, document: usize, queries: Range<usize>, again: bool) {
        let tokens = self.args.documents;
        let range = tokens.offsets().range(document);
        self.lanes.reset(self.queries.lanes);
        self.columns.reset(if self.args.want.columns() { range.len() } else { 0 });
        let ranges = &self.queries.ranges[queries];
        let panels = ranges.first().map_or(0, |r| r.start)..ranges.last().map_or(0, |r| r.end);
        let stored = self.queries.kind.stored(tokens, 0..0).is_some();
        let bytes = if stored || again { TILE } else { PIECE };
        let step = fitting(bytes, self.queries.kind.words(tokens.dim()), BLOCK);
        for start in range.clone().step_by(step) {
            let tile = start..(start + step).min(range.end);
            self.tile(document, tile, start - range.start, panels.clone());
        }
    }

    /// Compares the tokens of a tile, which starts at place `first` of its document, with panels.
    fn tile(&mut self, document: usize, tile: Range<usize>, first: usize, panels: Range<usize>) {
        let (args, tokens, dim) = (self.args, self.args.documents, self.args.documents.dim());
        let (kind, padding) = (self.queries.kind, args.how.padding());
        let words = kind.words(dim);
        let mut buffer = std::mem::take(&mut self.rows);
        let rows = kind.stored(tokens, tile.clone()).unwrap_or_else(|| {
            if self.held != Some((document, tile.start)) {
                buffer.resize(tile.len() * words, 0);
                let rounded = args.queries.storage().dtype();
                kind.lay(tokens, tile.clone(), Side::Documents, rounded, &mut buffer);
                self.held = Some((document, tile.start));
            }
            &buffer[..tile.len() * words]
        });
        let maxima = args.how.best == Best::Max && args.want == Want::Queries;
        // If all documents are compared, the next document follows this one in memory.
        let in_order = matches!(args.pairs, Pairs::All(_));
        let end = if in_order { tokens.total() } else { tokens.offsets().range(document).end };
        let step = fitting(PIECE, words, BLOCK);
        for (i, rows) in rows.chunks(step * words).enumerate() {
            if !in_order && first + i == 0 {
                fetch(rows);
            }
            let count = rows.len() / words;
            let start = tile.start + i * step;
            let scale = tokens.inners(start..start + count, padding);
            // With the first panel memory is asked for the piece that follows.
            let follow = [start + count, start + 2 * count].map(|at| at.min(end));
            let mut next: &[u8] = match tokens.codec() {
                None => tokens.stored(follow[0]..follow[1]),
                Some(_) => &[],
            };
            for panel in &self.queries.panels[panels.clone()] {
                let next = std::mem::take(&mut next);
                if maxima {
                    let largest = &mut self.lanes.largest[panel.lane..panel.lane + panel.width];
                    let into = Into::Maxima { largest, scale };
                    kind.run(Products { panel, rows, dim, words, next, into });
                    continue;
                }
                self.products.resize(count * panel.width, 0.0);
                let into = Into::All(&mut self.products);
                kind.run(Products { panel, rows, dim, words, next, into });
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
