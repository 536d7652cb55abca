//! Codes on the CPU: packed from products in registers; 32 rows side by side against each query.

use std::ops::Range;

use super::corpus::Chunk;
use super::distances::{BLOCK, distances};
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
    let scorer = || Scorer::new(args, &queries, &panel, k);
    Ok(cpu::best(threads, cost, &tiles, queries.len(), scorer))
}

/// Rows of a chunk.
type Tile<'a> = (&'a Chunk, Range<usize>);

/// The queries of a pass as the loops read them.
enum Panel {
    /// Words in twos, the last padded with zeros.
    Codes(Vec<u64>),
    /// Values, and what each query's sums are multiplied by.
    Floats(Tensor, Tensor),
}

impl Panel {
    fn new(args: &Args<'_>, queries: &Range<usize>) -> Result<Panel> {
        let (data, scale) = args.asked(queries.clone())?;
        Ok(match scale {
            None => {
                let words = data.cpu::<u32>().chunks_exact(args.corpus.words());
                Panel::Codes(words.flat_map(doubles).collect())
            }
            Some(scale) => Panel::Floats(data, scale),
        })
    }
}

fn doubles(words: &[u32]) -> impl Iterator<Item = u64> {
    words.chunks(2).map(|w| w[0] as u64 | (*w.get(1).unwrap_or(&0) as u64) << 32)
}

/// What a worker keeps between tiles.
struct Scorer<'a> {
    args: &'a Args<'a>,
    queries: &'a Range<usize>,
    panel: &'a Panel,
    bias: Option<&'a [f32]>,
    found: Vec<Selector>,
    /// What a score must exceed: NaN while any may enter.
    limits: Vec<f32>,
    /// What a distance must be below.
    counts: Vec<u64>,
}

impl<'a> Scorer<'a> {
    fn new(args: &'a Args<'a>, queries: &'a Range<usize>, panel: &'a Panel, k: usize) -> Self {
        let mut scorer = Scorer {
            args,
            queries,
            panel,
            bias: args.search.bias.map(Tensor::cpu::<f32>),
            found: vec![Selector::new(k, args.floor); queries.len()],
            limits: vec![f32::NAN; queries.len()],
            counts: vec![u64::MAX; queries.len()],
        };
        (0..queries.len()).for_each(|q| scorer.limit(q));
        scorer
    }

    /// Takes over what a query's selector demands.
    fn limit(&mut self, q: usize) {
        self.limits[q] = score((self.found[q].threshold() >> 32) as u32);
        // A bias may make up for any distance.
        if self.bias.is_none() && !self.limits[q].is_nan() {
            self.counts[q] = -self.limits[q] as u64;
        }
    }
}

impl Worker<Tile<'_>> for Scorer<'_> {
    fn found(self) -> Vec<Selector> {
        self.found
    }

    fn tile(&mut self, (chunk, rows): &Tile<'_>) {
        let words = self.args.corpus.words();
        let codes = chunk.rows.cpu::<u32>();
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        for start in rows.clone().step_by(BLOCK) {
            let count = BLOCK.min(rows.end - start);
            let row = chunk.start + start;
            if self.args.search.filter.covers(self.queries.clone(), row..row + count) {
                continue;
            }
            let block = &codes[start * words..][..count * words];
            match self.panel {
                Panel::Codes(queries) => {
                    let wides = words.div_ceil(2);
                    wide.resize(wides, [0u64; BLOCK]);
                    for (lane, code) in block.chunks_exact(words).enumerate() {
                        wide.iter_mut().zip(doubles(code)).for_each(|(to, w)| to[lane] = w);
                    }
                    distances(
                        &wide,
                        queries,
                        #[inline(always)]
                        |q, distances| {
                            if below(distances, self.counts[q]) {
                                self.offer(q, row, distances[..count].iter().map(|&d| -(d as f32)));
                            }
                        },
                    );
                }
                Panel::Floats(queries, scale) => {
                    narrow.resize(words, [0u32; BLOCK]);
                    for (lane, code) in block.chunks_exact(words).enumerate() {
                        narrow.iter_mut().zip(code).for_each(|(to, &w)| to[lane] = w);
                    }
                    let queries = queries.cpu::<f32>().chunks_exact(self.args.corpus.bits());
                    let scale = scale.cpu::<f32>();
                    vectorize(
                        #[inline(always)]
                        || {
                            for (q, (query, scale)) in queries.zip(scale).enumerate() {
                                let sums = sums(&narrow, query).map(|sum| sum * scale);
                                // A NaN limit lets everything pass; a NaN score is turned away below.
                                let limit =
                                    if self.bias.is_some() { f32::NAN } else { self.limits[q] };
                                let beaten = sums.iter().map(|&s| (limit >= s) as u32);
                                if beaten.sum::<u32>() < BLOCK as u32 {
                                    self.offer(q, row, sums[..count].iter().copied());
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
    /// Offers the scores of rows `row` and following to a query.
    #[inline(never)]
    fn offer(&mut self, q: usize, row: usize, scores: impl Iterator<Item = f32>) {
        let selector = &mut self.found[q];
        for (row, score) in (row..).zip(scores) {
            let score = self.bias.map_or(score, |bias| score + bias[row]);
            let entry = entry(key(score), row as u32);
            if entry > selector.threshold()
                && !self.args.search.filter.excludes(self.queries.start + q, row)
            {
                selector.push(entry);
            }
        }
        self.limit(q);
    }
}

/// Whether one of them is below a limit.
#[inline(always)]
fn below(distances: &[u64; BLOCK], limit: u64) -> bool {
    distances.iter().fold(0, |any, &d| any | (d < limit) as u64) != 0
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
