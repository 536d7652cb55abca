//! Matrix products on the CPU: a register-tiled kernel over panels of A and B packed for it.
//!
//! Each element is one chain of multiply-adds over k, in order, whatever tile it falls in, so a row's bits depend
//! on nothing but the row and B. faer's product is not that: it takes a matrix-vector path for one row, another kernel
//! for small products, and cuts k by its own rules.
//!
//! A part of a panel of B stays in the innermost cache while the tiles of a task's rows go over it, and those rows of A in
//! the second; meanwhile memory is asked for the next part. A chain that goes on in the next part starts from the sums that
//! the last one left. What is [`Packed`](super::Packed) is read as it lies; f16 and bf16 of it are widened as they are met.

use std::ops::Range;

use faer::MatMut;
use pulp::{Arch, Simd, WithSimd};

use super::{Activation, Args, pack};
use crate::device::cache::{LINE, prefetch};
use crate::device::cpu::{CpuBuffer, CpuDevice};
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::dtype::with_float;
use crate::ops::math::{exp, gelu, sigmoid, tanh, widen};
use crate::{DType, Float, Result, Tensor};

/// Rows that a task takes together at most, so that a panel of B comes from outer caches once for all of them.
const ROWS: usize = 192;
/// Steps over k at a time: as many as keep a panel's part within this many floats.
const PART: usize = 6 << 10;
/// Steps over k between checks of bounds.
const STEPS: usize = 4;
/// Packed floats of B held at a time, unless one panel needs more: the workspace is `4 min(N K, max(BLOCK, 48 K))`
/// bytes, rounded up to whole panels, where B is not packed f32, and `4 ROWS K` for each thread.
const BLOCK: usize = 2 << 20;

/// What a tile of the product measures on this CPU.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    /// Columns: those of a panel.
    width: usize,
}

impl Shape {
    /// 8 rows of 3 vectors take 24 of 32 registers for sums, 6 rows of 2 take 12 of 16: one more, and the compiler keeps
    /// a sum in memory, which halves the rate.
    #[inline(always)]
    pub(super) fn of<S: Simd>() -> Shape {
        if S::REGISTER_COUNT >= 32 {
            Shape { rows: 8, width: 3 * S::F32_LANES }
        } else {
            Shape { rows: 6, width: 2 * S::F32_LANES }
        }
    }

    /// Rows of the next tile, of so many that are left. The last two tiles share theirs: one of few rows has too few sums
    /// to keep the multipliers busy.
    #[inline(always)]
    pub(super) fn next(self, left: usize) -> usize {
        if left >= 2 * self.rows || left == self.rows {
            self.rows
        } else if left > self.rows {
            left.div_ceil(2)
        } else {
            left
        }
    }

    /// Steps over k between which sums wait in Y.
    #[inline(always)]
    pub(super) fn depth(self) -> usize {
        PART / self.width
    }
}

/// The shape on this CPU.
struct This;

impl WithSimd for This {
    type Output = Shape;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Shape {
        Shape::of::<S>()
    }
}

pub(super) fn gemm(cpu: &CpuDevice, args: &Args<'_>) -> Result<Tensor> {
    with_float!(args.a.dtype(), A => with_float!(args.b.dtype(), B => typed::<A, B>(cpu, args)))
}

/// The panels of `b` one after the other, \[panels, K, width\] in its dtype, with zeros where there is no column.
pub(super) fn pack(b: &Tensor, [n, k]: [usize; 2]) -> Result<Tensor> {
    with_float!(b.dtype(), B => {
        let arch = Arch::new();
        let width = arch.dispatch(This).width;
        let values = b.cpu::<B>();
        let shape = [n.div_ceil(width), k, width];
        Tensor::cpu_with(b.device(), &shape, |to: &mut [B]| {
            let panels = to.par_chunks_mut((k * width).max(1)).enumerate();
            let space = || vec![0.0; k * width];
            b.device().threads().for_each_init(values.len(), panels, space, |panel, (i, to)| {
                let rows = &values[i * width * k..n.min((i + 1) * width) * k];
                pack_panel(rows, k, width, panel);
                to.iter_mut().zip(&*panel).for_each(|(to, x)| *to = B::from_f32(*x));
            });
        })
    })
}

fn typed<A: Float, B: Float>(cpu: &CpuDevice, args: &Args<'_>) -> Result<Tensor> {
    let &Args { m, n, k, packed, .. } = args;
    let (a, b) = (args.a.cpu::<A>(), args.b.cpu::<B>());
    let residual = args.epilogue.residual.map(|r| r.cpu::<f32>());
    let threads = args.a.device().threads();
    let matrices = args.shape.iter().product::<usize>() / (m * n).max(1);
    // 16 multiply-adds a nanosecond.
    let cost = matrices * m * n * k / 16;
    let mut done = Ok(());
    let y = Tensor::cpu_with(args.a.device(), args.shape, |y: &mut [f32]| {
        if y.is_empty() {
            return;
        }
        let product = |(i, y): (usize, &mut [f32])| {
            let product = Product {
                a: &a[i * m * k..][..m * k],
                b: if packed { b } else { &b[i * n * k..][..n * k] },
                packed,
                k,
                threads,
                cost,
                finish: Finish {
                    n,
                    scale: args.epilogue.scale,
                    bias: args.epilogue.bias.map(|b| b.cpu::<f32>()),
                    activation: args.epilogue.activation,
                    residual,
                    first: i * m,
                    repeat: args.repeat,
                },
            };
            product.run(cpu, y)
        };
        let each = || threads.map(cost, y.par_chunks_mut(m * n).enumerate(), product);
        done = threads.run(cost, each).into_iter().collect();
    })?;
    done.map(|()| y)
}

/// `rows bᵀ` for rows \[M, K\] that no tensor holds and `b` \[N, K\] f32.
pub(super) fn of_rows(cpu: &CpuDevice, rows: &[f32], b: &Tensor) -> Result<Tensor> {
    let (n, k) = (b.shape()[0], b.shape()[1]);
    let m = rows.len() / k;
    let (threads, cost) = (b.device().threads(), m * n * k / 16);
    let finish = Finish {
        n,
        scale: 1.0,
        bias: None,
        activation: Activation::None,
        residual: None,
        first: 0,
        repeat: m,
    };
    let product = Product { a: rows, b: b.cpu::<f32>(), packed: false, k, threads, cost, finish };
    let mut done = Ok(());
    let y = Tensor::cpu_with(b.device(), &[m, n], |y: &mut [f32]| {
        done = threads.run(cost, || product.run(cpu, y));
    })?;
    done.map(|()| y)
}

/// One product of matrices.
struct Product<'a, A, B> {
    a: &'a [A],
    /// Rows, or what [`pack`] made of them.
    b: &'a [B],
    packed: bool,
    k: usize,
    threads: &'a Threads,
    /// Of all products.
    cost: usize,
    finish: Finish<'a>,
}

impl<A: Float, B: Float> Product<'_, A, B> {
    /// All panels, where products can read them as they are.
    fn panels(&self) -> Option<&[f32]> {
        (self.packed && B::DTYPE == DType::F32).then(|| bytemuck::cast_slice(self.b))
    }

    /// Writes the panel of the columns from `column` on.
    fn panel(&self, column: usize, width: usize, to: &mut [f32]) {
        let (n, k) = (self.finish.n, self.k);
        if self.packed {
            return widen(&self.b[column * k..][..to.len()], to);
        }
        pack_panel(&self.b[column * k..(column + width).min(n) * k], k, width, to);
    }

    /// Packs rows of A, parts of k side by side where `parallel`.
    fn rows(&self, cpu: &CpuDevice, rows: Range<usize>, parallel: bool) -> Result<CpuBuffer> {
        let k = self.k;
        let (count, depth) = (rows.len(), Arch::new().dispatch(This).depth());
        let rows = &self.a[rows.start * k..rows.end * k];
        let mut packed = cpu.alloc(rows.len() * size_of::<f32>())?;
        let part = |(i, to): (usize, &mut [f32])| pack_tiles(rows, k, i * depth, to);
        let to = packed.as_mut_slice::<f32>();
        match parallel {
            true => {
                let parts = to.par_chunks_mut(count * depth).enumerate();
                self.threads.for_each(self.cost, parts, part);
            }
            false => to.chunks_mut(count * depth).enumerate().for_each(part),
        }
        Ok(packed)
    }

    fn run(&self, cpu: &CpuDevice, y: &mut [f32]) -> Result<()> {
        let (n, k, finish) = (self.finish.n, self.k, &self.finish);
        let m = y.len() / n;
        let arch = Arch::new();
        let shape = arch.dispatch(This);
        let width = shape.width;
        let (panels, panel) = (n.div_ceil(width), width * k);
        // A few tasks for each thread: first chunks of rows, all of a size, then fewer columns.
        let threads = self.threads.count();
        let mut chunks = m.div_ceil(ROWS);
        if chunks > 1 {
            chunks = chunks.next_multiple_of(threads);
        }
        let parts = (4 * threads).div_ceil(chunks);
        let mut y = MatMut::from_row_major_slice_mut(y, m, n);
        let ready = self.panels();
        if chunks == 1 && ready.is_none() {
            // Each panel is packed, used for all rows, and forgotten.
            let a = self.rows(cpu, 0..m, true)?;
            let group = panels.div_ceil(parts) * width;
            let groups = y.par_col_chunks_mut(group).enumerate();
            let done = self.threads.map(self.cost, groups, |(i, mut y)| {
                let mut packed = cpu.alloc(panel * size_of::<f32>())?;
                for start in (0..y.ncols()).step_by(width) {
                    let column = i * group + start;
                    self.panel(column, width, packed.as_mut_slice());
                    let columns = width.min(y.ncols() - start);
                    let y = y.as_mut().subcols_mut(start, columns);
                    let (a, b) = (a.as_slice(), packed.as_slice());
                    arch.dispatch(Tiles { a, b, k, row: 0, column, y, finish });
                }
                Ok(())
            });
            return done.into_iter().collect();
        }
        let rows = m.div_ceil(chunks).next_multiple_of(shape.rows);
        let block = match ready {
            Some(_) => panels,
            None => (BLOCK / panel.max(1)).clamp(1, panels),
        };
        let mut space = match ready {
            Some(_) => None,
            None => Some(cpu.alloc(block * panel * size_of::<f32>())?),
        };
        for start in (0..n).step_by(block * width) {
            let columns = (block * width).min(n - start);
            let count = columns.div_ceil(width);
            let packed = match (ready, &mut space) {
                (None, Some(space)) => {
                    let packed = &mut space.as_mut_slice::<f32>()[..count * panel];
                    let each = packed.par_chunks_mut(panel.max(1)).enumerate();
                    self.threads.for_each(self.cost, each, |(i, packed)| {
                        self.panel(start + i * width, width, packed);
                    });
                    &*packed
                }
                (ready, _) => ready.unwrap_or_default(),
            };
            let group = count.div_ceil(parts);
            let y = y.as_mut().subcols_mut(start, columns);
            let done =
                self.threads.map(self.cost, y.par_row_chunks_mut(rows).enumerate(), |(i, y)| {
                    let a = self.rows(cpu, i * rows..i * rows + y.nrows(), chunks == 1)?;
                    let groups = y.par_col_chunks_mut(group * width).enumerate();
                    self.threads.for_each(self.cost, groups, |(j, y)| {
                        let (a, b) = (a.as_slice(), &packed[j * group * panel..]);
                        let (row, column) = (i * rows, start + j * group * width);
                        arch.dispatch(Tiles { a, b, k, row, column, y, finish });
                    });
                    Ok(())
                });
            done.into_iter().collect::<Result<()>>()?;
        }
        Ok(())
    }
}

/// Packs rows of B. A function of its own, so that it is compiled once for each type.
#[inline(never)]
fn pack_panel<T: Float>(rows: &[T], k: usize, width: usize, to: &mut [f32]) {
    Arch::new().dispatch(pack::Panel { rows, k, width, to });
}

/// Packs rows of A; compiled once for each type too.
#[inline(never)]
fn pack_tiles<T: Float>(rows: &[T], k: usize, start: usize, to: &mut [f32]) {
    Arch::new().dispatch(pack::Tiles { rows, k, start, to });
}

/// Computes a part of the result, of at most [`ROWS`] rows, from what is packed of its rows and columns.
struct Tiles<'a, 'y> {
    a: &'a [f32],
    b: &'a [f32],
    k: usize,
    /// Where `y` starts in the result.
    row: usize,
    column: usize,
    y: MatMut<'y, f32>,
    finish: &'a Finish<'a>,
}

impl WithSimd for Tiles<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match Shape::of::<S>().width / S::F32_LANES {
            3 => self.parts::<S, 3>(simd),
            _ => self.parts::<S, 2>(simd),
        }
    }
}

impl Tiles<'_, '_> {
    #[inline(always)]
    fn parts<S: Simd, const V: usize>(mut self, simd: S) {
        let shape = Shape::of::<S>();
        let (width, depth) = (V * S::F32_LANES, shape.depth());
        let (rows, k) = (self.y.nrows(), self.k);
        let mut all = vec![[simd.splat_f32s(0.0); V]; rows];
        for column in (0..self.y.ncols()).step_by(width) {
            let columns = width.min(self.y.ncols() - column);
            // Without a k there is one part all the same, which has an epilogue.
            for start in (0..k.max(1)).step_by(depth) {
                let depth = depth.min(k - start);
                let part = &self.a[rows * start..][..rows * depth];
                let (panel, after) = self.b[column * k + start * width..].split_at(depth * width);
                let after = &after[..after.len().min(depth * width)];
                let panel = S::as_simd_f32s(panel).0.as_chunks::<V>().0;
                let mut row = 0;
                while row < rows {
                    let next = shape.next(rows - row);
                    let a = &part[row * depth..][..next * depth];
                    let sums = &mut all[row..row + next];
                    if start == 0 {
                        sums.fill([simd.splat_f32s(0.0); V]);
                    }
                    // A piece of what is read after this panel with each tile.
                    let ahead = row * after.len() / rows..(row + next) * after.len() / rows;
                    let (b, ahead) = (panel, &after[ahead]);
                    // The last panel may need fewer vectors.
                    match columns.div_ceil(S::F32_LANES) {
                        1 => tiles::<S, V, 1>(simd, next, a, b, ahead, sums),
                        2 if V > 2 => tiles::<S, V, 2>(simd, next, a, b, ahead, sums),
                        _ => tiles::<S, V, V>(simd, next, a, b, ahead, sums),
                    }
                    let last = start + depth == k;
                    for (i, sums) in sums.iter().enumerate().filter(|_| last) {
                        let sums = &bytemuck::cast_slice::<_, f32>(sums)[..columns];
                        let at = (self.row + row + i, self.column + column);
                        let y = self.y.as_mut().row_mut(row + i).subcols_mut(column, columns);
                        if let Some(y) = y.try_as_row_major_mut() {
                            self.finish.row(S::F32_LANES, at, sums, y.as_slice_mut());
                        }
                    }
                    row += next;
                }
            }
        }
    }
}

/// [`tile`] for a number of rows that is known at run time.
#[inline(always)]
fn tiles<S: Simd, const V: usize, const U: usize>(
    simd: S,
    rows: usize,
    a: &[f32],
    panel: &[[S::f32s; V]],
    ahead: &[f32],
    out: &mut [[S::f32s; V]],
) {
    let most = Shape::of::<S>().rows;
    match rows {
        1 => tile::<S, 1, V, U>(simd, a, panel, ahead, out),
        2 => tile::<S, 2, V, U>(simd, a, panel, ahead, out),
        3 => tile::<S, 3, V, U>(simd, a, panel, ahead, out),
        4 => tile::<S, 4, V, U>(simd, a, panel, ahead, out),
        5 => tile::<S, 5, V, U>(simd, a, panel, ahead, out),
        7 if most > 6 => tile::<S, 7, V, U>(simd, a, panel, ahead, out),
        8 if most > 6 => tile::<S, 8, V, U>(simd, a, panel, ahead, out),
        _ => tile::<S, 6, V, U>(simd, a, panel, ahead, out),
    }
}

/// Adds the products of `R` rows with the first `U` of a panel's `V` vectors, and has memory bring what is read `ahead`
/// meanwhile.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize, const U: usize>(
    simd: S,
    a: &[f32],
    panel: &[[S::f32s; V]],
    ahead: &[f32],
    out: &mut [[S::f32s; V]],
) {
    let mut sums = [[simd.splat_f32s(0.0); U]; R];
    for (sums, out) in sums.iter_mut().zip(&*out) {
        sums.copy_from_slice(&out[..U]);
    }
    let (a, a_rest) = a.as_chunks::<R>().0.as_chunks::<STEPS>();
    let (b, b_rest) = panel.as_chunks::<STEPS>();
    // A line or more, then as many steps as there are for it.
    let lines = ahead.len().div_ceil(LINE);
    let pieces = lines.clamp(1, a.len().max(1));
    let mut ahead = ahead.chunks(LINE * lines.div_ceil(pieces).max(1));
    let steps = (a.len() / pieces).max(1);
    for (a, b) in a.chunks(steps).zip(b.chunks(steps)) {
        ahead.next().into_iter().for_each(prefetch);
        for (a, b) in a.iter().zip(b) {
            for (a, b) in a.iter().zip(b) {
                sums = fused(simd, sums, a, b);
            }
        }
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        sums = fused(simd, sums, a, b);
    }
    for (sums, out) in sums.iter().zip(out) {
        out[..U].copy_from_slice(sums);
    }
}

/// One step over k.
#[inline(always)]
fn fused<S: Simd, const R: usize, const V: usize, const U: usize>(
    simd: S,
    mut sums: [[S::f32s; U]; R],
    a: &[f32; R],
    b: &[S::f32s; V],
) -> [[S::f32s; U]; R] {
    for i in 0..R {
        let x = simd.splat_f32s(a[i]);
        for v in 0..U {
            sums[i][v] = simd.mul_add_e_f32s(x, b[v], sums[i][v]);
        }
    }
    sums
}

/// What becomes of the products' sums.
struct Finish<'a> {
    n: usize,
    scale: f32,
    bias: Option<&'a [f32]>,
    activation: Activation,
    residual: Option<&'a [f32]>,
    /// The first row among those of all products, and the rows after which the residual begins anew.
    first: usize,
    repeat: usize,
}

impl Finish<'_> {
    /// The epilogue of part of a row, which starts at (row, column).
    #[inline(always)]
    fn row(&self, lanes: usize, (row, column): (usize, usize), sums: &[f32], y: &mut [f32]) {
        match self.bias {
            Some(bias) => {
                for ((y, s), b) in y.iter_mut().zip(sums).zip(&bias[column..]) {
                    *y = s.mul_add(self.scale, *b);
                }
            }
            None => {
                for (y, s) in y.iter_mut().zip(sums) {
                    *y = s * self.scale;
                }
            }
        }
        self.activation.apply(lanes, y);
        if let Some(residual) = self.residual {
            let row = (self.first + row) % self.repeat;
            for (y, r) in y.iter_mut().zip(&residual[row * self.n + column..]) {
                *y += r;
            }
        }
    }
}

impl Activation {
    /// Applies it to each element, vectors of `lanes` at a time.
    #[inline(always)]
    pub(crate) fn apply(self, lanes: usize, y: &mut [f32]) {
        match self {
            Activation::None => {}
            Activation::Gelu => map(lanes, y, gelu),
            Activation::GeluTanh => map(lanes, y, |x| {
                let inner = 0.797_884_6 * (0.044_715 * x * x).mul_add(x, x);
                let half = 0.5 * x;
                half.mul_add(tanh(inner), half)
            }),
            Activation::QuickGelu => map(lanes, y, |x| x * sigmoid(1.702 * x)),
            // Not `max`, which would turn a NaN into 0.
            Activation::Relu => map(lanes, y, |x| if x < 0.0 { 0.0 } else { x }),
            Activation::Silu => map(lanes, y, |x| x * sigmoid(x)),
            Activation::Tanh => map(lanes, y, tanh),
            Activation::Sigmoid => map(lanes, y, sigmoid),
            Activation::Exp => {
                map(lanes, y, |x| if x > 88.722_83 { f32::INFINITY } else { exp(x) });
            }
            Activation::LeakyRelu => map(lanes, y, |x| if x < 0.0 { 0.1 * x } else { x }),
            Activation::Elu1p => map(lanes, y, |x| if x < 0.0 { exp(x) } else { x + 1.0 }),
            Activation::Log1pRelu => map(lanes, y, |x| if x < 0.0 { 0.0 } else { x.ln_1p() }),
        }
    }
}

/// Applies a function to vectors of `lanes` elements, a constant where this is inlined, then to the rest: a tile has
/// too few columns to leave to the compiler how many a loop takes at once.
#[inline(always)]
fn map(lanes: usize, y: &mut [f32], f: impl Fn(f32) -> f32) {
    let mut vectors = y.chunks_exact_mut(lanes);
    for vector in &mut vectors {
        for y in vector {
            *y = f(*y);
        }
    }
    for y in vectors.into_remainder() {
        *y = f(*y);
    }
}
