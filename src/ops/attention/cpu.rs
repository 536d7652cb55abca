//! Attention on the CPU: a task takes a block of a sequence's queries through all heads and tiles of keys.
//!
//! Queries lie in the lanes of vectors, in panels of two vectors. Scores Sᵀ = K Qᵀ and results Oᵀ = Vᵀ Pᵀ are then
//! the same product of broadcast scalars (rows of K or V as they are) with a panel, and the softmax over keys runs
//! along rows, without any reduction across lanes. Only Q and the result are transposed, once a head.
//!
//! Tiles of keys start at multiples of [`KEYS`] within their sequence and products add up key by key, so that a
//! query's bits depend on neither the block it is in, nor the batch, nor the number of threads.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::panel::{Panel, ROWS, Tile};
use super::{Args, Part, seen};
use crate::device::cache::Lines;
use crate::device::threads::items::*;
use crate::{Result, Tensor};

/// Keys of a tile.
const KEYS: usize = 64;
/// Queries of a block at most: what the copies of K and V tiles are shared by.
const QUERIES: usize = 256;
/// Queries of a block at least, a multiple of any panel's width.
const MIN_QUERIES: usize = 32;
/// Columns copied at a time; most dimensions are a multiple.
const COPY: usize = 32;

/// A block of queries of a sequence, from row `first` within it, and their rows of the result.
struct Task<'a> {
    sequence: usize,
    first: usize,
    out: &'a mut [f32],
}

pub(crate) fn attention(args: &Args<'_>) -> Result<Tensor> {
    let width = args.how.heads * args.how.dim;
    let shape = [args.q_offsets.total(), width];
    let (device, threads) = (args.q.tensor.device(), args.q.tensor.device().threads());
    let sequences = 0..args.q_offsets.len();
    let pairs = |s| args.q_offsets.range(s).len() * args.kv_offsets.range(s).len();
    let cost = sequences.map(pairs).sum::<usize>() * width / 8;
    let attend = |out: &mut [f32]| {
        // Blocks are smaller where there would be too few for the threads.
        let mut block = QUERIES;
        while block > MIN_QUERIES && shape[0] / block < 4 * threads.count() {
            block /= 2;
        }
        let mut rest = out;
        let mut tasks = Vec::new();
        for sequence in 0..args.q_offsets.len() {
            let len = args.q_offsets.range(sequence).len();
            for first in (0..len).step_by(block) {
                let out;
                (out, rest) = rest.split_at_mut(block.min(len - first) * width);
                tasks.push(Task { sequence, first, out });
            }
        }
        threads.for_each_init(
            cost,
            tasks.into_par_iter(),
            || Scratch::new(args, block),
            |scratch, task| pulp::Arch::new().dispatch(Run { args, task, scratch }),
        );
    };
    Tensor::cpu_with(device, &shape, |out: &mut [f32]| threads.run(cost, || attend(out)))
}

/// What a task needs besides its inputs; reused by the tasks of a thread.
struct Scratch {
    /// Qᵀ by panels, times the scale.
    q: Lines,
    /// Oᵀ by panels.
    o: Lines,
    /// The largest score and the sum of weights so far, by panels.
    top: Lines,
    sum: Lines,
    /// A tile of keys and one of values.
    k: Lines,
    v: Lines,
    /// Sᵀ of one panel and one tile, then Pᵀ.
    s: Lines,
    /// The bias of one panel and one tile by i - j.
    bias: Lines,
    /// For each query of a panel the middle of the tile's keys that it sees, and how far they reach from there.
    middle: Lines,
    reach: Lines,
}

impl Scratch {
    fn new(args: &Args<'_>, block: usize) -> Scratch {
        let dim = args.how.dim.next_multiple_of(ROWS);
        Scratch {
            q: Lines::new(block * dim),
            o: Lines::new(block * dim),
            top: Lines::new(block),
            sum: Lines::new(block),
            k: Lines::new(KEYS * dim),
            v: Lines::new(KEYS * dim),
            s: Lines::new(KEYS * MIN_QUERIES),
            bias: Lines::new(KEYS + MIN_QUERIES),
            middle: Lines::new(MIN_QUERIES),
            reach: Lines::new(MIN_QUERIES),
        }
    }
}

struct Run<'r, 'a> {
    args: &'r Args<'a>,
    task: Task<'r>,
    scratch: &'r mut Scratch,
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many rows of accumulators as the registers hold beside their operands.
        if S::REGISTER_COUNT >= 32 {
            block::<S, 8>(simd, self);
        } else {
            block::<S, 4>(simd, self);
        }
    }
}

#[inline(always)]
fn block<S: Simd, const R: usize>(simd: S, run: Run<'_, '_>) {
    let Run { args, task: Task { sequence, first, out }, scratch } = run;
    let (heads, dim) = (args.how.heads, args.how.dim);
    let padded = dim.next_multiple_of(ROWS);
    let lanes = 2 * S::F32_LANES;
    let queries = out.len() / (heads * dim);
    let (q_rows, kv_rows) = (args.q_offsets.range(sequence), args.kv_offsets.range(sequence));
    let seen = |i: usize| seen(args.mask, i, q_rows.len(), kv_rows.len());
    let Scratch { q, o, top, sum, k, v, s, bias, middle, reach } = scratch;
    for head in 0..heads {
        for (p, q) in q.as_mut_slice::<Panel<S>>().chunks_exact_mut(padded).enumerate() {
            let rows = queries.saturating_sub(p * lanes).min(lanes);
            if rows == 0 {
                break;
            }
            let start = q_rows.start + first + p * lanes;
            let q: &mut [f32] = bytemuck::cast_slice_mut(&mut q[..dim]);
            if lanes >= 4 {
                pack_queries::<4>(args, head, start..start + rows, q, lanes);
            } else {
                pack_queries::<2>(args, head, start..start + rows, q, lanes);
            }
        }
        let panels = queries.div_ceil(lanes);
        o.as_mut_slice::<f32>()[..panels * lanes * padded].fill(0.0);
        top.as_mut_slice::<f32>()[..panels * lanes].fill(f32::NEG_INFINITY);
        sum.as_mut_slice::<f32>()[..panels * lanes].fill(0.0);
        let (earliest, kv_head) = (seen(first).start, head / args.how.group());
        for tile in (earliest / KEYS * KEYS..seen(first + queries - 1).end).step_by(KEYS) {
            let start = kv_rows.start + tile;
            let rows = start..kv_rows.end.min(start + KEYS);
            copy_rows(args.k, kv_head * dim, dim, rows.clone(), k.as_mut_slice::<f32>(), dim);
            copy_rows(args.v, kv_head * dim, dim, rows.clone(), v.as_mut_slice::<f32>(), padded);
            let (q, o) = (q.as_mut_slice::<Panel<S>>(), o.as_mut_slice::<Panel<S>>());
            for (p, (q, o)) in q.chunks_exact(padded).zip(o.chunks_exact_mut(padded)).enumerate() {
                let i = p * lanes;
                if i >= queries {
                    break;
                }
                let rest = (queries - i).min(lanes);
                // A panel's first query sees from the earliest key on, its last up to the latest.
                let (start, end) = (seen(first + i), seen(first + i + rest - 1));
                let keys = end.end.saturating_sub(tile).min(rows.len());
                if keys == 0 || start.start >= tile + keys {
                    continue;
                }
                let masked = start.end < tile + keys || end.start > tile;
                if masked {
                    let lanes = middle.as_mut_slice::<f32>()[..lanes]
                        .iter_mut()
                        .zip(reach.as_mut_slice::<f32>());
                    for (lane, (middle, reach)) in lanes.enumerate() {
                        let seen = seen(first + i + lane);
                        let within = |j: usize| j.saturating_sub(tile).min(keys) as f32;
                        let (start, last) = (within(seen.start), within(seen.end) - 1.0);
                        (*middle, *reach) = (0.5 * (start + last), 0.5 * (last - start));
                    }
                }
                let first_query = (first + i) as isize - tile as isize;
                let bias = args.how.bias.map(|table| {
                    let bias = &mut bias.as_mut_slice::<f32>()[..keys + lanes - 1];
                    expand_bias(args, table, head, first_query, keys, bias);
                    &*bias
                });
                let sees = masked.then_some([
                    middle.as_mut_slice::<Panel<S>>()[0],
                    reach.as_mut_slice::<Panel<S>>()[0],
                ]);
                let s = s.as_mut_slice::<Panel<S>>();
                let top = &mut top.as_mut_slice::<Panel<S>>()[p];
                let sum = &mut sum.as_mut_slice::<Panel<S>>()[p];
                let one = rest <= S::F32_LANES;
                let tile = Tile {
                    k: k.as_mut_slice::<f32>(),
                    v: v.as_mut_slice::<f32>(),
                    keys,
                    dim,
                    bias,
                    sees,
                };
                if one {
                    tile.apply::<S, R, 1>(simd, q, o, top, sum, s);
                } else {
                    tile.apply::<S, R, 2>(simd, q, o, top, sum, s);
                }
            }
        }
        for (p, o) in o.as_mut_slice::<Panel<S>>().chunks_exact(padded).take(panels).enumerate() {
            let rows = (queries - p * lanes).min(lanes);
            let out = &mut out[p * lanes * heads * dim..][..rows * heads * dim];
            let columns =
                out.chunks_exact_mut(heads * dim).map(|row| &mut row[head * dim..][..dim]);
            let sums = bytemuck::cast_slice(&sum.as_mut_slice::<Panel<S>>()[p..=p]);
            write(columns, bytemuck::cast_slice(o), sums, lanes);
        }
    }
}

/// The result's rows from a panel of Oᵀ and its sums of weights.
#[inline(always)]
fn write<'a>(rows: impl Iterator<Item = &'a mut [f32]>, o: &[f32], sums: &[f32], lanes: usize) {
    for (lane, (row, &sum)) in rows.zip(sums).enumerate() {
        if sum == 0.0 {
            // A query that sees nothing has no weights.
            row.fill(0.0);
            continue;
        }
        let scale = 1.0 / sum;
        for (y, o) in row.iter_mut().zip(o.chunks_exact(lanes)) {
            *y = o[lane] * scale;
        }
    }
}

/// The bias of a panel and a tile by i - j, from the panel's first query and the tile's last key; query and keys
/// count from the tile's first key.
#[inline(always)]
fn expand_bias(
    args: &Args<'_>,
    table: &Tensor,
    head: usize,
    first_query: isize,
    keys: usize,
    bias: &mut [f32],
) {
    let last = args.reach as isize - 1;
    let row = &table.cpu::<f32>()[head * (2 * args.reach - 1)..][..2 * args.reach - 1];
    let start = keys as isize - 1 - first_query;
    for (x, bias) in bias.iter_mut().enumerate() {
        let j_minus_i = (start - x as isize).clamp(-last, last);
        *bias = row[(j_minus_i + last) as usize] * LOG2_E;
    }
}

/// Qᵀ of a panel of `lanes` queries, `G` rows at a time; lanes without a row get some row or stay as they are.
/// log2(e) is in the scale because the weights are powers of two.
#[inline(always)]
fn pack_queries<const G: usize>(
    args: &Args<'_>,
    head: usize,
    rows: Range<usize>,
    panel: &mut [f32],
    lanes: usize,
) {
    let scale = args.how.scale * LOG2_E;
    let dim = args.how.dim;
    let q = args.q.tensor.cpu::<f32>();
    for lane in (0..rows.len()).step_by(G) {
        let group: [&[f32]; G] = std::array::from_fn(|g| {
            let row = (rows.start + lane + g).min(rows.end - 1);
            &q[row * args.q.width + args.q.start + head * dim..][..dim]
        });
        for (d, panel) in panel.chunks_exact_mut(lanes).take(dim).enumerate() {
            let to = &mut panel[lane..lane + G];
            for g in 0..G {
                to[g] = group[g][d] * scale;
            }
        }
    }
}

/// Copies `dim` columns of some rows to rows of `width`: what is read over and over should share cache lines and
/// pages.
#[inline(always)]
fn copy_rows(
    part: Part<'_>,
    column: usize,
    dim: usize,
    rows: Range<usize>,
    to: &mut [f32],
    width: usize,
) {
    let from = &part.tensor.cpu::<f32>()[rows.start * part.width..rows.end * part.width];
    let from = from.chunks_exact(part.width).map(|row| &row[part.start + column..][..dim]);
    // In blocks of a fixed size, because calls of memcpy for so few bytes cost more than the copies.
    let whole = dim / COPY * COPY;
    for at in (0..whole).step_by(COPY) {
        for (to, from) in to.chunks_exact_mut(width).zip(from.clone()) {
            to[at..at + COPY].copy_from_slice(&from[at..at + COPY]);
        }
    }
    if whole < dim {
        for (to, from) in to.chunks_exact_mut(width).zip(from) {
            to[whole..dim].copy_from_slice(&from[whole..]);
        }
    }
}
