//! Top-k on the CPU: workers draw tiles of the corpus, score them against panels of queries with a register-tiled
//! kernel, and keep what beats each query's current k-th score.
//!
//! A panel is a group of queries, transposed, so that vector lanes are queries and a corpus element is broadcast: a
//! score is one chain of fused multiply-adds over the dimensions, whichever lane, block or tile it is computed in.
//! That makes results independent of batch, chunks and threads, and no sum across lanes is needed.

use std::ops::Range;

use half::{bf16, f16};
use pulp::{Simd, WithSimd};

use super::corpus::{Chunk, Compared};
use super::prepare::prepare;
use super::{Args, Metric};
use crate::device::cache::fetch;
use crate::ops::math::{PIECE, fitting, vectorize, widen};
use crate::ops::rows::Reduced;
use crate::ops::select::cpu::{self, Worker};
use crate::ops::select::order::score;
use crate::ops::select::{Best, Selector, entry, key};
use crate::{DType, Result, Tensor};

/// Rows scored together: as many accumulators as AVX-512 and NEON have registers for, with two vectors a panel.
const BLOCK: usize = 12;
/// Bytes of a tile of the corpus as f32, which a worker draws and decodes at a time and then scores piece by piece.
const TILE: usize = 256 << 10;

pub(super) fn best(args: &Args<'_>, queries: Range<usize>, k: usize) -> Result<Best> {
    let chunks = args.corpus.parts().iter();
    let compared = chunks.map(|c| c.compared(args.metric)).collect::<Result<Vec<_>>>()?;
    let reduced = prepare(args, queries.clone())?;
    let panels = panels(&reduced, &queries);
    let step = fitting(TILE, args.corpus.dim(), BLOCK);
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
    // The corpus as f32 passes once for 16 queries, 8 values a nanosecond; candidates are merged and sorted.
    let values = args.corpus.len() * args.corpus.dim();
    let cost = values / 8 * queries.len().div_ceil(16) + 20 * queries.len() * k;
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

/// Queries side by side: `data[d * width + lane]`, lanes beyond the queries are zero.
struct Panel {
    queries: Range<usize>,
    width: usize,
    data: Vec<f32>,
    /// The queries' scales.
    scale: Vec<f32>,
}

/// The panels of `queries`, which are prepared.
fn panels(reduced: &Reduced, queries: &Range<usize>) -> Vec<Panel> {
    let lanes = pulp::Arch::new().dispatch(Lanes);
    let dim = reduced.data.shape()[1];
    let (values, scales) = (reduced.data.cpu::<f32>(), reduced.scale.cpu::<f32>());
    let mut panels = Vec::new();
    let from = queries.start;
    let mut first = from;
    while first < queries.end {
        let left = queries.end - first;
        let width = if left <= lanes { lanes } else { 2 * lanes };
        let queries = first..first + left.min(width);
        let mut data = vec![0.0; dim * width];
        let mut scale = vec![0.0; width];
        for (lane, q) in queries.clone().enumerate() {
            let q = q - from;
            for (d, &v) in values[q * dim..][..dim].iter().enumerate() {
                data[d * width + lane] = v;
            }
            scale[lane] = scales[q];
        }
        first = queries.end;
        panels.push(Panel { queries, width, data, scale });
    }
    panels
}

/// What a worker keeps between tiles.
struct Scorer<'a> {
    args: &'a Args<'a>,
    panels: &'a [Panel],
    /// The first query of this pass.
    first: usize,
    found: Vec<Selector>,
    /// For each panel and lane the score to exceed: NaN while any score may enter, infinity in lanes without a query.
    thresholds: Vec<Vec<f32>>,
    rows: Vec<f32>,
    scores: Vec<f32>,
}

impl<'a> Scorer<'a> {
    fn new(args: &'a Args<'a>, queries: &Range<usize>, panels: &'a [Panel], k: usize) -> Self {
        let floor = score(args.floor);
        let lane = |p: &Panel, i| if i < p.queries.len() { floor } else { f32::INFINITY };
        Scorer {
            args,
            panels,
            first: queries.start,
            found: vec![Selector::new(k, args.floor); queries.len()],
            thresholds: panels.iter().map(|p| (0..p.width).map(|i| lane(p, i)).collect()).collect(),
            rows: Vec::new(),
            scores: Vec::new(),
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
        let dim = args.corpus.dim();
        let values = tile.rows.start * dim..tile.rows.end * dim;
        let padded = tile.rows.len().next_multiple_of(BLOCK) * dim;
        let mut buffer = std::mem::take(&mut self.rows);
        buffer.resize(padded, 0.0);
        let (stored, rest) = buffer.split_at_mut(values.len());
        let all = tile.compared.rows;
        let rows: &[f32] = match args.corpus.dtype() {
            DType::F16 => {
                widen(&all.cpu::<f16>()[values], stored);
                rest.fill(0.0);
                &buffer
            }
            DType::BF16 => {
                widen(&all.cpu::<bf16>()[values], stored);
                rest.fill(0.0);
                &buffer
            }
            // Whole blocks are read where they lie; only the last tile of a chunk is padded.
            _ if padded == values.len() => &all.cpu::<f32>()[values],
            _ => {
                stored.copy_from_slice(&all.cpu::<f32>()[values]);
                rest.fill(0.0);
                &buffer
            }
        };
        let step = fitting(PIECE, dim, BLOCK);
        for (i, rows) in rows.chunks(step * dim).enumerate() {
            fetch(rows);
            for p in 0..self.panels.len() {
                self.panel(p, tile, tile.rows.start + i * step, rows);
            }
        }
        self.rows = buffer;
    }
}

impl Scorer<'_> {
    /// Scores rows of a tile, from row `first` of its chunk on, against a panel, block by block, and offers what beats the
    /// thresholds.
    fn panel(&mut self, p: usize, tile: &Tile<'_>, first: usize, rows: &[f32]) {
        let args = self.args;
        let panel = &self.panels[p];
        let dim = args.corpus.dim();
        let Compared { form, scale, .. } = *tile.compared;
        let scale = scale.cpu::<f32>();
        let bias = args.search.bias.map(Tensor::cpu::<f32>);
        for (b, block) in rows.chunks_exact(BLOCK * dim).enumerate() {
            let at = first + b * BLOCK;
            let count = BLOCK.min(tile.rows.end - at);
            let row = tile.chunk.start + at;
            if args.search.filter.covers(panel.queries.clone(), row..row + count) {
                continue;
            }
            self.scores.resize(BLOCK * panel.width, 0.0);
            let arch = pulp::Arch::new();
            arch.dispatch(Block {
                panel,
                rows: block,
                dim,
                squares: form == Metric::L2,
                scores: &mut self.scores,
            });
            let thresholds = &self.thresholds[p];
            let mut hot = [false; BLOCK];
            let scores = &mut self.scores;
            vectorize(
                #[inline(always)]
                || {
                    for (r, scores) in scores.chunks_exact_mut(panel.width).enumerate().take(count)
                    {
                        match form {
                            Metric::Dot => {
                                for (s, own) in scores.iter_mut().zip(&panel.scale) {
                                    *s *= own;
                                }
                            }
                            Metric::Cosine => {
                                for (s, own) in scores.iter_mut().zip(&panel.scale) {
                                    *s = *s * own * scale[at + r];
                                }
                            }
                            Metric::L2 => scores.iter_mut().for_each(|s| *s = -*s),
                        }
                        if let Some(bias) = bias {
                            scores.iter_mut().for_each(|s| *s += bias[row + r]);
                        }
                        // A NaN threshold lets everything pass; a NaN score passes here and is turned away below.
                        let beaten = scores.iter().zip(thresholds).map(|(s, t)| (*t >= *s) as u32);
                        hot[r] = beaten.sum::<u32>() < panel.width as u32;
                    }
                },
            );
            for (r, _) in hot.iter().enumerate().filter(|(_, hot)| **hot) {
                self.offer(p, row + r, r);
            }
        }
    }

    /// Offers row `row`, whose scores are row `r` of the block's, to the queries of a panel.
    #[inline(never)]
    fn offer(&mut self, p: usize, row: usize, r: usize) {
        let panel = &self.panels[p];
        let scores = &self.scores[r * panel.width..][..panel.queries.len()];
        for (lane, (q, &s)) in panel.queries.clone().zip(scores).enumerate() {
            let threshold = &mut self.thresholds[p][lane];
            let key = key(s);
            if *threshold >= s || key == 0 || self.args.search.filter.excludes(q, row) {
                continue;
            }
            let selector = &mut self.found[q - self.first];
            selector.push(entry(key, row as u32));
            *threshold = score((selector.threshold() >> 32) as u32);
        }
    }
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

/// `scores[r, lane]`: the dot products, or the sums of squared differences, of a block of rows and a panel.
struct Block<'a> {
    panel: &'a Panel,
    rows: &'a [f32],
    dim: usize,
    squares: bool,
    scores: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // AVX2 has half the registers of the others.
        match (self.panel.width / S::F32_LANES, S::F32_LANES == 8) {
            (1, _) => self.tiles::<S, 1, BLOCK>(simd),
            (_, false) => self.tiles::<S, 2, BLOCK>(simd),
            (_, true) => self.tiles::<S, 2, { BLOCK / 2 }>(simd),
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const V: usize, const R: usize>(self, simd: S) {
        let scores = self.scores.chunks_exact_mut(R * V * S::F32_LANES);
        for (rows, scores) in self.rows.chunks_exact(R * self.dim).zip(scores) {
            if self.squares {
                micro::<S, V, R, true>(simd, &self.panel.data, rows, self.dim, scores);
            } else {
                micro::<S, V, R, false>(simd, &self.panel.data, rows, self.dim, scores);
            }
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

/// `V` vectors of queries against `R` rows, accumulated in registers over all dimensions.
#[inline(always)]
fn micro<S: Simd, const V: usize, const R: usize, const SQUARES: bool>(
    simd: S,
    panel: &[f32],
    rows: &[f32],
    dim: usize,
    scores: &mut [f32],
) {
    let panel = &S::as_simd_f32s(panel).0.as_chunks::<V>().0[..dim];
    let rows: [&[f32]; R] = std::array::from_fn(|r| &rows[r * dim..][..dim]);
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for d in 0..dim {
        // Unrolled in the source: only accumulators with constant indices are sure to live in registers.
        unroll!(r in 0 1 2 3 4 5 6 7 8 9 10 11 => {
            if r < R {
                let x = simd.splat_f32s(rows[r][d]);
                unroll!(v in 0 1 => {
                    if v < V {
                        sums[r][v] = if SQUARES {
                            let difference = simd.sub_f32s(panel[d][v], x);
                            simd.mul_add_f32s(difference, difference, sums[r][v])
                        } else {
                            simd.mul_add_f32s(panel[d][v], x, sums[r][v])
                        };
                    }
                });
            }
        });
    }
    let scores = S::as_mut_simd_f32s(scores).0.as_chunks_mut::<V>().0;
    for (to, from) in scores.iter_mut().zip(sums) {
        *to = from;
    }
}
