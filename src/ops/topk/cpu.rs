//! Top-k on the CPU: workers draw tiles of the corpus, form the scores of a few rows with a few queries at a time, and keep
//! what beats each query's current k-th score.
//!
//! A score's bits are those of [`dots`]: they depend neither on the batch nor on chunks and threads. With up to four queries
//! a pass over the corpus runs at the speed of memory; with more, rows are asked for while those before them are scored.

use std::ops::Range;

use bytemuck::NoUninit;
use half::{bf16, f16};

use super::corpus::{Chunk, Compared};
use super::prepare::prepare;
use super::{Args, Metric, Storage};
use crate::device::cache::{Lines, prefetch_after};
use crate::dtype::with_float;
use crate::ops::dots::{self, QUERIES, ROWS, Sums, bytes};
use crate::ops::math::{fitting, widen};
use crate::ops::rows::Reduced;
use crate::ops::select::cpu::{self, Worker};
use crate::ops::select::order::score;
use crate::ops::select::{Best, Selector, entry, key};
use crate::{DType, Float, Result, Tensor};

/// Bytes of a tile of the corpus as f32, which a worker draws at a time.
const TILE: usize = 512 << 10;
/// Bytes of rows as f32 that all queries meet while they are in the first-level cache.
const PIECE: usize = 24 << 10;
/// How many bytes ahead one group of queries asks memory for rows, as measured.
const AHEAD: usize = 32 << 10;

pub(super) fn best(args: &Args<'_>, queries: Range<usize>, k: usize) -> Result<Best> {
    let chunks = args.corpus.parts().iter();
    let compared = chunks.map(|c| c.compared(args.metric)).collect::<Result<Vec<_>>>()?;
    let reduced = prepare(args, queries.clone())?;
    let panels = panels(&reduced, &queries);
    let step = fitting(TILE, args.corpus.width(), ROWS);
    let tiles: Vec<Tile<'_>> = args
        .corpus
        .parts()
        .iter()
        .zip(&compared)
        .flat_map(|(chunk, compared)| {
            let n = chunk.len();
            (0..n).step_by(step).map(move |s| Tile { chunk, compared, rows: s..(s + step).min(n) })
        })
        .collect();
    // 4 values a nanosecond come from memory, 64 meet a query; candidates are merged and sorted.
    let values = args.corpus.len() * args.corpus.width();
    let cost = values / 4 + values / 64 * queries.len() + 20 * queries.len() * k;
    let threads = args.corpus.device().threads();
    let scorer = || Scorer::new(args, &queries, &panels, k);
    Ok(cpu::best(threads, cost, &tiles, queries.len(), scorer))
}

/// Consecutive rows of a chunk.
struct Tile<'a> {
    chunk: &'a Chunk,
    compared: &'a Compared<'a>,
    rows: Range<usize>,
}

/// Queries as their sums with rows are formed, which are words: f32 or four bytes.
enum Group {
    Floats(dots::Group),
    Bytes(bytes::Group),
}

/// Rows as they are scored.
#[derive(Clone, Copy)]
enum Rows<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    Int8(&'a [u32]),
}

impl<'a> Rows<'a> {
    fn of<T: Float>(values: &'a [T]) -> Rows<'a> {
        match T::DTYPE {
            DType::F16 => Rows::F16(bytemuck::cast_slice(values)),
            DType::BF16 => Rows::Bf16(bytemuck::cast_slice(values)),
            _ => Rows::F32(bytemuck::cast_slice(values)),
        }
    }

    /// How many values they are, or words of four.
    fn values(self) -> usize {
        match self {
            Rows::F32(rows) => rows.len(),
            Rows::F16(rows) => rows.len(),
            Rows::Bf16(rows) => rows.len(),
            Rows::Int8(rows) => rows.len(),
        }
    }
}

impl Group {
    /// Gives `put` the sums of each of `rows` with each query.
    #[inline(always)]
    fn each(
        &self,
        rows: Rows<'_>,
        width: usize,
        squares: bool,
        ahead: usize,
        put: impl FnMut(usize, Sums),
    ) {
        match (self, rows) {
            (Group::Floats(group), Rows::F32(rows)) => {
                dots::each(group, rows, width, squares, ahead, put)
            }
            (Group::Floats(group), Rows::F16(rows)) => {
                dots::each(group, rows, width, squares, ahead, put)
            }
            (Group::Floats(group), Rows::Bf16(rows)) => {
                dots::each(group, rows, width, squares, ahead, put)
            }
            (Group::Bytes(group), Rows::Int8(rows)) => bytes::each(group, rows, width, ahead, put),
            _ => unreachable!("queries are prepared for the corpus"),
        }
    }
}

/// Queries that are compared together.
struct Panel {
    queries: Range<usize>,
    group: Group,
    /// The query's scale for each sum of a tile.
    scale: Sums,
}

/// The panels of `queries`, which are prepared.
fn panels(reduced: &Reduced, queries: &Range<usize>) -> Vec<Panel> {
    let (data, width) = (&reduced.data, reduced.data.shape()[1]);
    let groups: Vec<Group> = match data.dtype() {
        DType::U32 => {
            let groups = data.cpu::<u32>().chunks(QUERIES * width);
            groups.map(|words| Group::Bytes(bytes::Group::new(words, width))).collect()
        }
        _ => {
            let groups = data.cpu::<f32>().chunks(QUERIES * width);
            groups.map(|values| Group::Floats(dots::Group::new(values, width))).collect()
        }
    };
    let firsts = queries.clone().step_by(QUERIES);
    let panel = |((first, group), scales): ((usize, Group), &[f32])| Panel {
        queries: first..first + scales.len(),
        group,
        scale: of_each(scales, 0.0),
    };
    firsts.zip(groups).zip(reduced.scale.cpu::<f32>().chunks(QUERIES)).map(panel).collect()
}

/// For each sum of a tile the number of its query, `rest` where there is none.
fn of_each(numbers: &[f32], rest: f32) -> Sums {
    std::array::from_fn(|i| numbers.get(i % QUERIES).copied().unwrap_or(rest))
}

/// What a worker keeps between tiles.
struct Scorer<'a> {
    args: &'a Args<'a>,
    panels: &'a [Panel],
    /// The first query of this pass.
    first: usize,
    found: Vec<Selector>,
    /// For each panel and sum the score to exceed: NaN while any score may enter, infinity where there is no query.
    thresholds: Vec<Sums>,
    /// Rows as f32.
    widened: Lines,
}

impl<'a> Scorer<'a> {
    fn new(args: &'a Args<'a>, queries: &Range<usize>, panels: &'a [Panel], k: usize) -> Self {
        let floor = [score(args.floor); QUERIES];
        let threshold = |p: &Panel| of_each(&floor[..p.queries.len()], f32::INFINITY);
        Scorer {
            args,
            panels,
            first: queries.start,
            found: vec![Selector::new(k, args.floor); queries.len()],
            thresholds: panels.iter().map(threshold).collect(),
            widened: Lines::default(),
        }
    }
}

impl Worker<Tile<'_>> for Scorer<'_> {
    fn found(self) -> Vec<Selector> {
        self.found
    }

    fn tile(&mut self, tile: &Tile<'_>) {
        let args = self.args;
        let queries = self.first..self.first + self.found.len();
        let start = tile.chunk.start + tile.rows.start;
        if args.search.filter.covers(queries, start..start + tile.rows.len()) {
            return;
        }
        let width = args.corpus.width();
        let values = tile.rows.start * width..tile.rows.end * width;
        let rows = tile.compared.rows;
        let alone = self.panels.len() == 1;
        match args.corpus.storage() {
            Storage::Int8 => {
                let pass = Pass { widen: |rows, _| Rows::Int8(rows), streamed: alone };
                self.pieces(tile, &rows.cpu::<u32>()[values], pass);
            }
            _ => with_float!(args.corpus.dtype(), T => {
                self.pieces(tile, &rows.cpu::<T>()[values], Pass::floats(alone));
            }),
        }
    }
}

/// How panels meet rows.
struct Pass<T> {
    /// Gives rows as they are scored, maybe in a buffer.
    widen: for<'a> fn(&'a [T], &'a mut Lines) -> Rows<'a>,
    /// One panel meets rows as they come from memory, which it asks on the way; several ask for a piece ahead.
    streamed: bool,
}

impl<T: Float> Pass<T> {
    /// Rows that several panels meet are widened once.
    fn floats(alone: bool) -> Pass<T> {
        let streamed = alone && dots::takes::<T>();
        let as_they_are = streamed || T::DTYPE == DType::F32;
        Pass { widen: if as_they_are { |rows, _| Rows::of(rows) } else { widened }, streamed }
    }
}

impl Scorer<'_> {
    /// Scores the rows of a tile against all panels, a piece after the other.
    fn pieces<T: NoUninit>(&mut self, tile: &Tile<'_>, stored: &[T], pass: Pass<T>) {
        let Pass { widen, streamed } = pass;
        let mut buffer = std::mem::take(&mut self.widened);
        let (width, panels) = (self.args.corpus.width(), self.panels.len());
        let step = width * fitting(PIECE, width, ROWS);
        let bytes = step * size_of::<T>();
        for at in (0..stored.len()).step_by(step) {
            let piece = &stored[at..][..step.min(stored.len() - at)];
            // Of the next piece, a part with each tile of each panel.
            let tiles = (piece.len() / width).div_ceil(ROWS) * panels;
            let asked: &[u8] = if streamed { &[] } else { bytemuck::cast_slice(piece) };
            let mut parts = asked.chunks(bytes.div_ceil(tiles));
            let mut ask = || parts.next().into_iter().for_each(|p| prefetch_after(p, bytes));
            let ahead = if streamed { AHEAD } else { 0 };
            let rows = widen(piece, &mut buffer);
            for p in 0..panels {
                self.panel(p, tile, tile.rows.start + at / width, rows, ahead, &mut ask);
            }
        }
        self.widened = buffer;
    }

    /// Scores rows of a tile, from row `first` of its chunk on, against a panel and offers what beats the thresholds. `ask` is
    /// called a few rows apart; `ahead` is as [`dots::each`] takes it.
    fn panel(
        &mut self,
        p: usize,
        tile: &Tile<'_>,
        first: usize,
        rows: Rows<'_>,
        ahead: usize,
        ask: &mut impl FnMut(),
    ) {
        let (args, panels) = (self.args, self.panels);
        let (panel, width) = (&panels[p], args.corpus.width());
        let (count, row) = (rows.values() / width, tile.chunk.start + first);
        if args.search.filter.covers(panel.queries.clone(), row..row + count) {
            return;
        }
        let Compared { form, scale, .. } = *tile.compared;
        let scale = &scale.cpu::<f32>()[first..first + count];
        let bias = args.search.bias.map(|bias: &Tensor| &bias.cpu::<f32>()[row..row + count]);
        let is_int8 = matches!(panel.group, Group::Bytes(_));
        let squares = form == Metric::L2;
        panel.group.each(
            rows,
            width,
            squares,
            ahead,
            #[inline(always)]
            |at: usize, mut sums: Sums| {
                ask();
                match form {
                    Metric::Dot => sums.iter_mut().zip(&panel.scale).for_each(|(s, own)| *s *= own),
                    // Of scales far apart the smaller one comes first, or the product might overflow on the way.
                    Metric::Cosine if is_int8 => {
                        let scale = of_rows(scale, at);
                        for ((s, &own), scale) in sums.iter_mut().zip(&panel.scale).zip(scale) {
                            let [a, b] = if scale < own { [scale, own] } else { [own, scale] };
                            *s = *s * a * b;
                        }
                    }
                    Metric::Cosine => {
                        let scale = of_rows(scale, at);
                        for ((s, own), scale) in sums.iter_mut().zip(&panel.scale).zip(scale) {
                            *s = *s * own * scale;
                        }
                    }
                    Metric::L2 => sums.iter_mut().for_each(|s| *s = -*s),
                }
                if let Some(bias) = bias {
                    sums.iter_mut().zip(of_rows(bias, at)).for_each(|(s, bias)| *s += bias);
                }
                // A NaN threshold lets everything pass; a NaN score passes here and is turned away below.
                let beaten = sums.iter().zip(&self.thresholds[p]);
                if !beaten.fold(true, |all, (s, t)| all & (*t >= *s)) {
                    self.offer(p, row + at, ROWS.min(count - at), sums);
                }
            },
        );
    }

    /// Offers the scores of `count` rows, from `row` on, to the queries of a panel.
    #[inline(never)]
    fn offer(&mut self, p: usize, row: usize, count: usize, scores: Sums) {
        // Few are beaten, and which is not to be guessed: a bit for each.
        let each = scores.iter().zip(&self.thresholds[p]).enumerate();
        let kept = each.fold(0u32, |all, (i, (s, t))| all | u32::from(t >= s) << i);
        let mut beaten = !kept & ((1 << (count * QUERIES)) - 1);
        while beaten != 0 {
            let i = beaten.trailing_zeros() as usize;
            beaten &= beaten - 1;
            let (row, lane) = (row + i / QUERIES, i % QUERIES);
            let (q, key) = (self.panels[p].queries.start + lane, key(scores[i]));
            if key == 0 || self.args.search.filter.excludes(q, row) {
                continue;
            }
            let selector = &mut self.found[q - self.first];
            if selector.push(entry(key, row as u32)) {
                let threshold = score((selector.threshold() >> 32) as u32);
                let lanes = self.thresholds[p].iter_mut().skip(lane).step_by(QUERIES);
                lanes.for_each(|t| *t = threshold);
            }
        }
    }
}

/// The numbers of the rows of a tile, from row `at` on, for each of its sums.
#[inline(always)]
fn of_rows(numbers: &[f32], at: usize) -> Sums {
    let rows: [f32; ROWS] = std::array::from_fn(|r| numbers[(at + r).min(numbers.len() - 1)]);
    std::array::from_fn(|i| rows[i / QUERIES])
}

fn widened<'a, T: Float>(rows: &[T], buffer: &'a mut Lines) -> Rows<'a> {
    buffer.resize(rows.len());
    let to = &mut buffer.as_mut_slice()[..rows.len()];
    widen(rows, to);
    Rows::F32(to)
}
