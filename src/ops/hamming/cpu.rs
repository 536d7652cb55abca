//! Codes on the CPU: packed from products in registers; 32 rows at a time against each query.

use std::ops::Range;

use super::corpus::Chunk;
use super::distances::{BLOCK, Way};
use super::{Args, Hasher};
use crate::device::threads::items::*;
use crate::dtype::with_float;
use crate::ops::math::vectorize;
use crate::ops::select::cpu::{self, Worker};
use crate::ops::select::order::score;
use crate::ops::select::{Best, Selector, entry, key};
use crate::{Float, Result, Tensor};

/// Bytes of codes that a worker draws at a time.
const TILE: usize = 128 << 10;
/// Rows that an encoding task takes, and rows whose products are in registers together.
const ROWS: usize = 64;
const STRIP: usize = 2;

pub(crate) fn encode(x: &Tensor, hasher: &Hasher) -> Result<Tensor> {
    let (dim, words) = (hasher.dim(), hasher.bits() / 32);
    let thresholds = hasher.thresholds().cpu::<f32>();
    let packed = hasher.packed().map(Tensor::cpu::<f32>);
    let (threads, products) = (x.device().threads(), packed.map_or(0, |p| p.len() / 16));
    let cost = x.len() + x.shape()[0] * products;
    Tensor::cpu_with(x.device(), &[x.shape()[0], words], |codes: &mut [u32]| {
        with_float!(x.dtype(), T => {
            let x = x.cpu::<T>().par_chunks(ROWS * dim);
            let tasks = codes.par_chunks_mut(ROWS * words).zip(x);
            threads.for_each_init(cost, tasks, Vec::new, |rows, (codes, x)| {
                rows.clear();
                rows.extend(x.iter().map(|&v| v.to_f32()));
                match packed {
                    None => signs(rows, thresholds, codes),
                    Some(packed) => project(rows, dim, packed, thresholds, codes),
                }
            });
        });
    })
}

/// A word of bits, from 32 values and their thresholds. What is NaN is not above.
#[inline(always)]
fn pack(values: &[f32; 32], thresholds: &[f32]) -> u32 {
    let bits = values.iter().zip(thresholds).enumerate();
    bits.fold(0, |word, (i, (v, t))| word | ((v > t) as u32) << i)
}

fn signs(rows: &[f32], thresholds: &[f32], codes: &mut [u32]) {
    let thresholds = thresholds.as_chunks::<32>().0;
    let groups = rows.as_chunks::<32>().0.chunks_exact(thresholds.len());
    vectorize(
        #[inline(always)]
        || {
            for (codes, values) in codes.chunks_exact_mut(thresholds.len()).zip(groups) {
                for ((code, values), t) in codes.iter_mut().zip(values).zip(thresholds) {
                    *code = pack(values, t);
                }
            }
        },
    );
}

fn project(rows: &[f32], dim: usize, packed: &[f32], thresholds: &[f32], codes: &mut [u32]) {
    let words = thresholds.len() / 32;
    vectorize(
        #[inline(always)]
        || {
            // A panel of 32 bits meets all rows while it is in the cache.
            for w in 0..words {
                let panel = &packed.as_chunks::<32>().0[w * dim..][..dim];
                let t = &thresholds[w * 32..][..32];
                for (strip, x) in rows.chunks(STRIP * dim).enumerate() {
                    let first = &x[..dim];
                    // Without a second row the first is taken twice.
                    let last = &x[x.len() - dim..];
                    let mut sums = [[0.0f32; 32]; STRIP];
                    for ((p, &a), &b) in panel.iter().zip(first).zip(last) {
                        for i in 0..32 {
                            sums[0][i] = p[i].mul_add(a, sums[0][i]);
                            sums[1][i] = p[i].mul_add(b, sums[1][i]);
                        }
                    }
                    for (r, sums) in sums.iter().enumerate().take(x.len() / dim) {
                        codes[(strip * STRIP + r) * words + w] = pack(sums, t);
                    }
                }
            }
        },
    );
}

pub(super) fn best(args: &Args<'_>, queries: Range<usize>, k: usize) -> Result<Best> {
    let step = BLOCK * (TILE / (BLOCK * args.corpus.words() * size_of::<u32>())).max(1);
    let tiles: Vec<Tile<'_>> = args
        .corpus
        .parts()
        .iter()
        .flat_map(|chunk| {
            let n = chunk.len();
            (0..n).step_by(step).map(move |s| (chunk, s..(s + step).min(n)))
        })
        .collect();
    let panel = Panel::new(args, &queries)?;
    // 4 words or 16 products a nanosecond; candidates are merged and sorted.
    let row = match panel {
        Panel::Codes(_) => args.corpus.words().div_ceil(4),
        Panel::Floats(..) => args.corpus.bits() / 16,
    };
    let cost = queries.len() * (args.corpus.len() * row + 20 * k);
    let threads = args.corpus.device().threads();
    let scorer = || Scorer {
        args,
        queries: &queries,
        panel: &panel,
        way: Way::best(),
        bias: args.search.bias.map(Tensor::cpu::<f32>),
        found: vec![Selector::new(k, args.floor); queries.len()],
    };
    Ok(cpu::best(threads, cost, &tiles, queries.len(), scorer))
}

/// Rows of a chunk.
type Tile<'a> = (&'a Chunk, Range<usize>);

/// The queries of a pass as the loops read them.
enum Panel {
    Codes(Tensor),
    /// Values, and what each query's sums are multiplied by.
    Floats(Tensor, Tensor),
}

impl Panel {
    fn new(args: &Args<'_>, queries: &Range<usize>) -> Result<Panel> {
        let (data, scale) = args.asked(queries.clone())?;
        Ok(match scale {
            None => Panel::Codes(data),
            Some(scale) => Panel::Floats(data, scale),
        })
    }
}

/// What a worker keeps between tiles.
struct Scorer<'a> {
    args: &'a Args<'a>,
    queries: &'a Range<usize>,
    panel: &'a Panel,
    way: Way,
    bias: Option<&'a [f32]>,
    found: Vec<Selector>,
}

impl Worker<Tile<'_>> for Scorer<'_> {
    fn found(self) -> Vec<Selector> {
        self.found
    }

    fn tile(&mut self, (chunk, rows): &Tile<'_>) {
        let words = self.args.corpus.words();
        let codes = chunk.rows.cpu::<u32>();
        let mut side_by_side = vec![[0; BLOCK]; words];
        let mut limits: Vec<f32> = (0..self.found.len()).map(|q| self.limit(q)).collect();
        let mut distances: Vec<u32> = limits.iter().map(|&limit| distance(limit)).collect();
        for start in rows.clone().step_by(BLOCK) {
            let count = BLOCK.min(rows.end - start);
            let row = chunk.start + start;
            if self.args.search.filter.covers(self.queries.clone(), row..row + count) {
                continue;
            }
            let block = &codes[start * words..][..count * words];
            match self.panel {
                Panel::Codes(queries) => self.way.below(
                    block,
                    &mut side_by_side,
                    queries.cpu::<u32>(),
                    &mut distances,
                    #[inline(always)]
                    |q, below, found| {
                        distance(self.offer(q, row, below, |lane| -(found[lane] as f32)))
                    },
                ),
                Panel::Floats(queries, scale) => {
                    self.way.lay(block, &mut side_by_side);
                    let queries = queries.cpu::<f32>().chunks_exact(self.args.corpus.bits());
                    let scale = scale.cpu::<f32>();
                    vectorize(
                        #[inline(always)]
                        || {
                            for (q, (query, scale)) in queries.zip(scale).enumerate() {
                                let sums = sums(&side_by_side, query).map(|sum| sum * scale);
                                // A NaN limit lets everything pass; a NaN score is turned away below.
                                let beaten = sums.iter().map(|&s| (limits[q] >= s) as u32);
                                if beaten.sum::<u32>() < BLOCK as u32 {
                                    let all = u32::MAX >> (BLOCK - count);
                                    limits[q] = self.offer(q, row, all, |lane| sums[lane]);
                                }
                            }
                        },
                    );
                }
            }
        }
    }
}

impl Scorer<'_> {
    /// What a query's scores must exceed: NaN while any may enter, as a bias may make up for any score.
    fn limit(&self, q: usize) -> f32 {
        match self.bias {
            Some(_) => f32::NAN,
            None => score((self.found[q].threshold() >> 32) as u32),
        }
    }

    /// Offers the scores of some of the rows from `row` on to a query, a bit for each. Gives the query's next limit.
    #[inline(never)]
    fn offer(
        &mut self,
        q: usize,
        row: usize,
        mut lanes: u32,
        scores: impl Fn(usize) -> f32,
    ) -> f32 {
        let selector = &mut self.found[q];
        while lanes != 0 {
            let lane = lanes.trailing_zeros() as usize;
            lanes &= lanes - 1;
            let (row, score) = (row + lane, scores(lane));
            let score = self.bias.map_or(score, |bias| score + bias[row]);
            let entry = entry(key(score), row as u32);
            if entry > selector.threshold()
                && !self.args.search.filter.excludes(self.queries.start + q, row)
            {
                selector.push(entry);
            }
        }
        self.limit(q)
    }
}

/// What a distance must be below for its negative to exceed a limit.
fn distance(limit: f32) -> u32 {
    if limit.is_nan() { u32::MAX } else { -limit as u32 }
}

/// `sum_i q_i s_i` of 32 codes, side by side, in the order of the bits.
#[inline(always)]
fn sums(codes: &[[u32; BLOCK]], query: &[f32]) -> [f32; BLOCK] {
    let mut sums = [0.0f32; BLOCK];
    for (codes, query) in codes.iter().zip(query.as_chunks::<32>().0) {
        for (bit, q) in query.iter().enumerate() {
            for lane in 0..BLOCK {
                // A clear bit turns the sign.
                let turned = !(codes[lane] << (31 - bit)) & 0x8000_0000;
                sums[lane] += f32::from_bits(q.to_bits() ^ turned);
            }
        }
    }
    sums
}
