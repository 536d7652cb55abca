//! Sparse search on the CPU: a worker adds the runs of a query's terms to a tile's sums, then offers what exceeds its limit.

use std::ops::Range;

use half::f16;

use super::corpus::{CPU_TILE, Chunk};
use super::{Args, Impact};
use crate::Tensor;
use crate::ops::math::{LANES, vectorize};
use crate::ops::select::cpu::{self, Worker};
use crate::ops::select::order::score;
use crate::ops::select::{Best, Selector, entry, key};

/// Sums that are compared with a limit together.
const BLOCK: usize = 4 * LANES;

pub(super) fn best(args: &Args<'_>, queries: Range<usize>, k: usize) -> Best {
    let chunks = args.corpus.chunks().iter();
    let tiles: Vec<(&Chunk, usize)> = chunks
        .flat_map(|chunk| (0..chunk.len.div_ceil(CPU_TILE)).map(move |tile| (chunk, tile)))
        .collect();
    // Sums are set to 0 and looked at, some 16 a nanosecond.
    let cost = queries.len() * (args.corpus.len() / 8 + 20 * k);
    let threads = args.corpus.device().threads();
    let scorer = || Scorer {
        args,
        queries: &queries,
        bias: args.search.bias.map(Tensor::cpu::<f32>),
        sums: vec![0.0; CPU_TILE],
        found: vec![Selector::new(k, args.floor); queries.len()],
    };
    cpu::best(threads, cost, &tiles, queries.len(), scorer)
}

/// What a worker keeps between tiles.
struct Scorer<'a> {
    args: &'a Args<'a>,
    queries: &'a Range<usize>,
    bias: Option<&'a [f32]>,
    sums: Vec<f32>,
    found: Vec<Selector>,
}

/// The runs of a query's terms: where they begin and end, and the query's weight.
type Runs<'a> = &'a [(Range<usize>, f32)];

impl Worker<(&Chunk, usize)> for Scorer<'_> {
    fn found(self) -> Vec<Selector> {
        self.found
    }

    fn tile(&mut self, &(chunk, tile): &(&Chunk, usize)) {
        let (args, columns) = (self.args, self.args.corpus.dim() + 1);
        let first = chunk.start + tile * CPU_TILE;
        let count = CPU_TILE.min(chunk.len - tile * CPU_TILE);
        if args.search.filter.covers(self.queries.clone(), first..first + count) {
            return;
        }
        let bounds = &chunk.bounds.cpu::<u32>()[tile * columns..][..columns];
        let places: &[u16] = bytemuck::cast_slice(chunk.places.cpu::<u32>());
        let impacts = chunk.impacts.cpu::<u32>();
        let mut runs = Vec::new();
        for (i, q) in self.queries.clone().enumerate() {
            let entries = args.queries.range(q);
            let weights = &args.queries.weights[entries.clone()];
            if weights.iter().any(|weight| weight.is_nan()) {
                continue;
            }
            runs.clear();
            for (&term, &weight) in args.queries.terms[entries].iter().zip(weights) {
                let run = bounds[term as usize] as usize..bounds[term as usize + 1] as usize;
                if !run.is_empty() {
                    runs.push((run, weight));
                }
            }
            let sums = &mut self.sums[..count.next_multiple_of(BLOCK)];
            let scale = args.corpus.impact().scale();
            vectorize(
                #[inline(always)]
                || {
                    sums.fill(0.0);
                    match args.corpus.impact() {
                        Impact::F32 => {
                            add(sums, &runs, places, bytemuck::cast_slice(impacts), |w: f32| w)
                        }
                        Impact::F16 => {
                            let impacts: &[f16] = bytemuck::cast_slice(impacts);
                            add(sums, &runs, places, impacts, |w: f16| w.to_f32());
                        }
                        Impact::U8 { .. } => {
                            let impacts: &[u8] = bytemuck::cast_slice(impacts);
                            add(sums, &runs, places, impacts, |w: u8| f32::from(w));
                            sums.iter_mut().for_each(|sum| *sum *= scale);
                        }
                    }
                },
            );
            self.offer(i, q, first, count);
        }
    }
}

/// Adds the runs, one after the other, to a tile's sums.
#[inline(always)]
fn add<T: Copy>(
    sums: &mut [f32],
    runs: Runs<'_>,
    places: &[u16],
    impacts: &[T],
    wide: impl Fn(T) -> f32,
) {
    for (run, weight) in runs {
        for (&place, &impact) in places[run.clone()].iter().zip(&impacts[run.clone()]) {
            let sum = &mut sums[place as usize];
            *sum = weight.mul_add(wide(impact), *sum);
        }
    }
}

impl Scorer<'_> {
    /// Offers a tile's sums to a query.
    fn offer(&mut self, i: usize, q: usize, first: usize, count: usize) {
        let (selector, filter) = (&mut self.found[i], &self.args.search.filter);
        // NaN while any may enter, as a bias may make up for any sum.
        let limit = |selector: &Selector| match self.bias {
            Some(_) => f32::NAN,
            None => score((selector.threshold() >> 32) as u32),
        };
        let mut least = limit(selector);
        for (block, sums) in self.sums[..count.next_multiple_of(BLOCK)].chunks(BLOCK).enumerate() {
            let mut below = true;
            vectorize(
                #[inline(always)]
                // Rows come in ascending order, so one that scores the same is not better.
                || below = sums.iter().fold(true, |below, &sum| below & (sum <= least)),
            );
            if below {
                continue;
            }
            for (at, &sum) in sums.iter().enumerate().take(count - block * BLOCK) {
                let row = first + block * BLOCK + at;
                let sum = self.bias.map_or(sum, |bias| sum + bias[row]);
                let entry = entry(key(sum), row as u32);
                if entry > selector.threshold() && !filter.excludes(q, row) {
                    selector.push(entry);
                }
            }
            least = limit(selector);
        }
    }
}
