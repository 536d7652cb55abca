//! Attention on the CPU: a task takes a block of a sequence's queries through all heads and tiles of keys.
//!
//! Queries lie in the lanes of vectors, in panels of two vectors. Scores Sᵀ = K Qᵀ and results Oᵀ = Vᵀ Pᵀ are then
//! the same product of broadcast scalars (rows of K or V as they are) with a panel, and the softmax over keys runs
//! along rows, without any reduction across lanes. Only Q and the result are transposed, once a head.
//!
//! Tiles of keys start at multiples of [`KEYS`] within their sequence and products add up key by key, so that a
//! query's bits depend on neither the block it is in, nor the batch, nor the number of threads.

use std::f32::consts::LOG2_E;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Args, Part};
use crate::{Result, Tensor};

/// Keys of a tile.
const KEYS: usize = 64;
/// Queries of a block at most: what the copies of K and V tiles are shared by.
const QUERIES: usize = 128;
/// Queries of a block at least, a multiple of any panel's width.
const MIN_QUERIES: usize = 32;
/// Rows of a product are padded to a multiple of this; the padding is computed and never read.
const ROWS: usize = 8;

/// A block of queries of a sequence, from row `first` within it, and their rows of the result.
struct Task<'a> {
    sequence: usize,
    first: usize,
    out: &'a mut [f32],
}

pub(crate) fn attention(args: &Args<'_>) -> Result<Tensor> {
    let width = args.how.heads * args.how.dim;
    let shape = [args.q_offsets.total(), width];
    Tensor::cpu_with(args.q.tensor.device(), &shape, |out: &mut [f32]| {
        // Blocks are smaller where there would be too few for the threads.
        let mut block = QUERIES;
        while block > MIN_QUERIES && shape[0] / block < 4 * rayon::current_num_threads() {
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
        tasks.into_par_iter().for_each_init(
            || Scratch::new(args, block),
            |scratch, task| pulp::Arch::new().dispatch(Run { args, task, scratch }),
        );
    })
}

/// Memory that starts on a cache line, so that no vector straddles two.
struct Lines(Vec<Line>);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Lines {
    fn new(len: usize) -> Lines {
        Lines(vec![Line([0.0; 16]); len.div_ceil(16)])
    }

    /// The memory as panel rows.
    #[inline(always)]
    fn panels<S: Simd>(&mut self) -> &mut [Panel<S>] {
        bytemuck::cast_slice_mut(&mut self.0)
    }

    #[inline(always)]
    fn floats(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// One value for each query of a panel.
type Panel<S> = [<S as Simd>::f32s; 2];

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
    /// For each query of a panel the last key of the tile that it sees.
    last: Lines,
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
            last: Lines::new(MIN_QUERIES),
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
    // Query i sees keys below i + visible.
    let visible = match args.how.causal {
        true => kv_rows.len() as isize - q_rows.len() as isize + 1,
        false => kv_rows.len() as isize,
    };
    let seen = |i: usize| match args.how.causal {
        true => (i as isize + visible).max(0) as usize,
        false => kv_rows.len(),
    };
    let Scratch { q, o, top, sum, k, v, s, bias, last } = scratch;
    for head in 0..heads {
        for (p, q) in q.panels::<S>().chunks_exact_mut(padded).enumerate() {
            let rows = queries.saturating_sub(p * lanes).min(lanes);
            if rows > 0 {
                let start = q_rows.start + first + p * lanes;
                pack_queries::<S>(args, head, start..start + rows, &mut q[..dim]);
            }
        }
        o.floats().fill(0.0);
        top.floats().fill(f32::NEG_INFINITY);
        sum.floats().fill(0.0);
        for tile in (0..seen(first + queries - 1)).step_by(KEYS) {
            let start = kv_rows.start + tile;
            let rows = start..kv_rows.end.min(start + KEYS);
            copy_rows(args.k, head * dim, dim, rows.clone(), k.floats(), dim);
            copy_rows(args.v, head * dim, dim, rows.clone(), v.floats(), padded);
            let (q, o) = (q.panels::<S>(), o.panels::<S>());
            for (p, (q, o)) in q.chunks_exact(padded).zip(o.chunks_exact_mut(padded)).enumerate() {
                let i = p * lanes;
                if i >= queries {
                    break;
                }
                let rest = (queries - i).min(lanes);
                // A panel's last query sees the most.
                let keys = seen(first + i + rest - 1).saturating_sub(tile).min(rows.len());
                if keys == 0 {
                    continue;
                }
                let masked = args.how.causal && seen(first + i) < tile + keys;
                if masked {
                    for (lane, last) in last.floats()[..lanes].iter_mut().enumerate() {
                        *last = seen(first + i + lane).saturating_sub(tile).min(keys) as f32 - 1.0;
                    }
                }
                if let Some(b) = args.how.bias {
                    let reach = args.reach as isize;
                    let row = &b.cpu::<f32>()[head * (2 * args.reach - 1)..][..2 * args.reach - 1];
                    let from = (first + i) as isize - (tile + keys - 1) as isize;
                    for (x, b) in bias.floats()[..keys + lanes - 1].iter_mut().enumerate() {
                        let j_i = (-from - x as isize).clamp(1 - reach, reach - 1);
                        *b = row[(j_i + reach - 1) as usize] * LOG2_E;
                    }
                }
                let last = masked.then_some(last.panels::<S>()[0]);
                let bias = args.how.bias.is_some().then_some(&*bias.floats());
                let s = s.panels::<S>();
                let top = &mut top.panels::<S>()[p];
                let sum = &mut sum.panels::<S>()[p];
                let one = rest <= S::F32_LANES;
                let tile = Tile { k: k.floats(), v: v.floats(), keys, dim, bias, last };
                if one {
                    tile.apply::<S, R, 1>(simd, q, o, top, sum, s);
                } else {
                    tile.apply::<S, R, 2>(simd, q, o, top, sum, s);
                }
            }
        }
        for (p, o) in o.panels::<S>().chunks_exact(padded).enumerate() {
            let at = (p * lanes).min(queries);
            let out = &mut out[at * heads * dim..][..(queries - at).min(lanes) * heads * dim];
            let sum = &sum.panels::<S>()[p];
            let (o, sum) = (as_floats::<S>(o), as_floats::<S>(std::slice::from_ref(sum)));
            for ((lane, out), sum) in out.chunks_exact_mut(heads * dim).enumerate().zip(sum) {
                // A query that sees nothing has no weights.
                let scale = 1.0 / sum;
                let out = &mut out[head * dim..][..dim];
                for (out, o) in out.iter_mut().zip(o.chunks_exact(lanes)) {
                    *out = if *sum == 0.0 { 0.0 } else { o[lane] * scale };
                }
            }
        }
    }
}

#[inline(always)]
fn as_floats<S: Simd>(panels: &[Panel<S>]) -> &[f32] {
    bytemuck::cast_slice(panels)
}

/// Qᵀ of a panel; log2(e) is in the scale because the weights are powers of two.
#[inline(always)]
fn pack_queries<S: Simd>(
    args: &Args<'_>,
    head: usize,
    rows: std::ops::Range<usize>,
    panel: &mut [Panel<S>],
) {
    let scale = args.how.scale * LOG2_E;
    let lanes = 2 * S::F32_LANES;
    let dim = panel.len();
    let panel: &mut [f32] = bytemuck::cast_slice_mut(panel);
    if rows.len() < lanes {
        panel.fill(0.0);
    }
    let q = args.q.tensor.cpu::<f32>();
    for (lane, row) in rows.enumerate() {
        let q = &q[row * args.q.width + args.q.start + head * dim..][..dim];
        for (panel, q) in panel.chunks_exact_mut(lanes).zip(q) {
            panel[lane] = q * scale;
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
    rows: std::ops::Range<usize>,
    to: &mut [f32],
    width: usize,
) {
    let from = part.tensor.cpu::<f32>();
    for (row, to) in rows.zip(to.chunks_exact_mut(width)) {
        let from = &from[row * part.width + part.start + column..][..dim];
        to[..dim].copy_from_slice(from);
    }
}

/// A tile of keys and values as one panel of queries meets it.
struct Tile<'t, P> {
    k: &'t [f32],
    v: &'t [f32],
    keys: usize,
    dim: usize,
    bias: Option<&'t [f32]>,
    last: Option<P>,
}

impl<V: Copy> Tile<'_, [V; 2]> {
    /// One step of the streaming softmax for the first `N` vectors of a panel.
    #[inline(always)]
    fn apply<S: Simd<f32s = V>, const R: usize, const N: usize>(
        &self,
        simd: S,
        q: &[Panel<S>],
        o: &mut [Panel<S>],
        top: &mut Panel<S>,
        sum: &mut Panel<S>,
        s: &mut [Panel<S>],
    ) {
        let &Tile { keys, dim, .. } = self;
        let zero = [[simd.splat_f32s(0.0); N]; R];
        for (s, k) in s.chunks_exact_mut(R).zip(self.k.chunks_exact(R * dim)).take(keys.div_ceil(R))
        {
            let rows: [&[f32]; R] = std::array::from_fn(|r| &k[r * dim..][..dim]);
            let mut acc = zero;
            for (d, q) in q[..dim].iter().enumerate() {
                acc = accumulate(simd, acc, |r| rows[r][d], q);
            }
            for r in 0..R {
                for n in 0..N {
                    s[r][n] = acc[r][n];
                }
            }
        }

        let s = &mut s[..keys];
        let hidden = simd.splat_f32s(f32::NEG_INFINITY);
        if let Some(bias) = self.bias {
            for (j, s) in s.iter_mut().enumerate() {
                let (bias, _) = S::as_simd_f32s(&bias[keys - 1 - j..]);
                for n in 0..N {
                    s[n] = simd.add_f32s(s[n], bias[n]);
                }
            }
        }
        if let Some(last) = self.last {
            for (j, s) in s.iter_mut().enumerate() {
                let j = simd.splat_f32s(j as f32);
                for n in 0..N {
                    s[n] = select(simd, simd.less_than_or_equal_f32s(j, last[n]), s[n], hidden);
                }
            }
        }
        let mut shrink = [hidden; N];
        for n in 0..N {
            let mut new = top[n];
            for s in s.iter() {
                new = simd.max_f32s(new, s[n]);
            }
            // With all keys masked so far, -∞ minus -∞ would be NaN.
            let some = simd.greater_than_f32s(new, hidden);
            let base = select(simd, some, new, simd.splat_f32s(0.0));
            shrink[n] = exp2(simd, simd.sub_f32s(top[n], base));
            top[n] = new;
            let mut total = simd.mul_f32s(sum[n], shrink[n]);
            for s in s.iter_mut() {
                s[n] = exp2(simd, simd.sub_f32s(s[n], base));
                total = simd.add_f32s(total, s[n]);
            }
            sum[n] = total;
        }

        for (strip, o) in o.chunks_exact_mut(R).enumerate().take(dim.div_ceil(R)) {
            let mut acc = zero;
            for r in 0..R {
                for n in 0..N {
                    acc[r][n] = simd.mul_f32s(o[r][n], shrink[n]);
                }
            }
            let v = self.v.chunks_exact(dim.next_multiple_of(ROWS));
            match self.last {
                None => {
                    for (v, p) in v.zip(s.iter()) {
                        let v = &v[strip * R..][..R];
                        acc = accumulate(simd, acc, |r| v[r], p);
                    }
                }
                // A weight of 0 does not silence an infinite or NaN value.
                Some(last) => {
                    for (j, (v, p)) in v.zip(s.iter()).enumerate() {
                        let v = &v[strip * R..][..R];
                        let after = accumulate(simd, acc, |r| v[r], p);
                        let j = simd.splat_f32s(j as f32);
                        for n in 0..N {
                            let sees = simd.less_than_or_equal_f32s(j, last[n]);
                            for r in 0..R {
                                acc[r][n] = select(simd, sees, after[r][n], acc[r][n]);
                            }
                        }
                    }
                }
            }
            for r in 0..R {
                for n in 0..N {
                    o[r][n] = acc[r][n];
                }
            }
        }
    }
}

/// `acc[r] += a(r) * b` for the first `N` vectors of a panel row.
#[inline(always)]
fn accumulate<S: Simd, const R: usize, const N: usize>(
    simd: S,
    mut acc: [[S::f32s; N]; R],
    a: impl Fn(usize) -> f32,
    b: &Panel<S>,
) -> [[S::f32s; N]; R] {
    for r in 0..R {
        let a = simd.splat_f32s(a(r));
        for n in 0..N {
            acc[r][n] = simd.mul_add_e_f32s(a, b[n], acc[r][n]);
        }
    }
    acc
}

/// `yes` where the mask is set, else `no`; pulp's own is not always inlined, and a call here costs all the speed.
#[inline(always)]
fn select<S: Simd>(simd: S, mask: S::m32s, yes: S::f32s, no: S::f32s) -> S::f32s {
    let (yes, no) = (simd.transmute_u32s_f32s(yes), simd.transmute_u32s_f32s(no));
    simd.transmute_f32s_u32s(simd.select_u32s(mask, yes, no))
}

/// 2^x for x <= 0, within 2 ulp; 0 below -126.5; NaN stays NaN; 2^0 is exactly 1.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let least = simd.splat_f32s(-127.0);
    let x = select(simd, simd.less_than_f32s(x, least), least, x);
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits; 127 more make it an exponent.
    let round = simd.splat_f32s(12_583_039.0);
    let shifted = simd.add_f32s(x, round);
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, round));
    let c = |c: f32| simd.splat_f32s(c);
    let p = simd.mul_add_e_f32s(c(1.546_144_8e-4), f, c(1.339_086_7e-3));
    let p = simd.mul_add_e_f32s(p, f, c(9.618_057e-3));
    let p = simd.mul_add_e_f32s(p, f, c(5.550_357e-2));
    let p = simd.mul_add_e_f32s(p, f, c(2.402_265_1e-1));
    let p = simd.mul_add_e_f32s(p, f, c(6.931_472e-1));
    let p = simd.mul_add_e_f32s(p, f, c(1.0));
    let bits = simd.transmute_u32s_f32s(shifted);
    let scale = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(scale))
}
