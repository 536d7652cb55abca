//! Matrix products on the CPU: a register-tiled kernel over panels of B packed for it.
//!
//! Each element is one chain of multiply-adds over k, in order, whatever tile it falls in, so a row's bits depend
//! on nothing but the row and B. faer's product is not that: it takes a matrix-vector path for one row, another kernel
//! for small products, and cuts k by its own rules. From 1024 rows on this one does 0.93 to 1.07 times faer's rate over
//! MiniLM's shapes (257 to 314 GFLOP/s on two AVX-512 cores); for few rows packing B dominates: about 0.7 at 64 rows, 0.5
//! at 8, 0.3 to 0.45 at one.

use faer::MatMut;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Activation, Args};
use crate::device::cpu::CpuDevice;
use crate::dtype::with_float;
use crate::ops::math::{erf, sigmoid, tanh};
use crate::{DType, Float, Result, Tensor};

/// Vectors of columns in a tile; with 8 rows, 24 of AVX-512's 32 registers hold sums.
const VECTORS: usize = 3;
/// Rows that a task takes together, so that a panel of B comes from outer caches once for all of them.
const ROWS: usize = 64;
/// Steps over k between checks of bounds.
const STEPS: usize = 16;
/// Packed floats of B held at a time, unless one panel needs more: the workspace is
/// `4 min(N K, max(BLOCK, 48 K))` bytes, rounded up to whole panels.
const BLOCK: usize = 2 << 20;

pub(super) fn gemm(cpu: &CpuDevice, args: &Args<'_>) -> Result<Tensor> {
    with_float!(args.a.dtype(), A => with_float!(args.b.dtype(), B => typed::<A, B>(cpu, args)))
}

fn typed<A: Float, B: Float>(cpu: &CpuDevice, args: &Args<'_>) -> Result<Tensor> {
    let &Args { m, n, k, .. } = args;
    let (a, b) = (args.a.cpu::<A>(), args.b.cpu::<B>());
    let residual = args.epilogue.residual.map(|r| r.cpu::<f32>());
    let mut done = Ok(());
    let y = Tensor::cpu_with(args.a.device(), args.shape, |y: &mut [f32]| {
        if y.is_empty() {
            return;
        }
        done = y.par_chunks_mut(m * n).enumerate().try_for_each(|(i, y)| {
            let product = Product {
                a: &a[i * m * k..][..m * k],
                b: &b[i * n * k..][..n * k],
                n,
                k,
                scale: args.epilogue.scale,
                bias: args.epilogue.bias.map(|b| b.cpu::<f32>()),
                activation: args.epilogue.activation,
                residual: residual.map(|r| &r[i * m * n..][..m * n]),
            };
            product.run(cpu, y)
        });
    })?;
    done.map(|()| y)
}

/// One product of matrices.
#[derive(Clone, Copy)]
struct Product<'a, A, B> {
    a: &'a [A],
    b: &'a [B],
    n: usize,
    k: usize,
    scale: f32,
    bias: Option<&'a [f32]>,
    activation: Activation,
    residual: Option<&'a [f32]>,
}

impl<A: Float, B: Float> Product<'_, A, B> {
    fn run(&self, cpu: &CpuDevice, y: &mut [f32]) -> Result<()> {
        let (n, k, m) = (self.n, self.k, y.len() / self.n);
        let arch = pulp::Arch::new();
        let width = arch.dispatch(Width);
        let panels = n.div_ceil(width);
        let panel = width * k;
        let block = (BLOCK / panel.max(1)).clamp(1, panels);
        let mut packed = cpu.alloc(block * panel * size_of::<f32>())?;
        let mut y = MatMut::from_row_major_slice_mut(y, m, n);
        for first in (0..panels).step_by(block) {
            let columns = first * width..((first + block) * width).min(n);
            let count = columns.len().div_ceil(width);
            let packed = &mut packed.as_mut_slice::<f32>()[..count * panel];
            let y = y.as_mut().subcols_mut(columns.start, columns.len());
            // A few tasks for each thread: first all rows of a chunk, then fewer columns.
            let tasks = 4 * rayon::current_num_threads();
            let group = count.div_ceil(tasks.div_ceil(m.div_ceil(ROWS)).min(count));
            if m <= ROWS && k > 0 {
                // Each panel is used once, at once, while it is in cache. Without a k there are no panels to go by.
                packed
                    .par_chunks_mut(group * panel)
                    .zip(y.par_col_chunks_mut(group * width))
                    .enumerate()
                    .for_each(|(i, (packed, y))| {
                        let column = columns.start + i * group * width;
                        arch.dispatch(Pack { product: self, column, packed: &mut *packed });
                        arch.dispatch(Tiles { product: self, row: 0, column, packed, y });
                    });
                continue;
            }
            packed.par_chunks_mut(panel.max(1)).enumerate().for_each(|(i, packed)| {
                arch.dispatch(Pack { product: self, column: columns.start + i * width, packed });
            });
            let packed = &*packed;
            y.par_row_chunks_mut(ROWS).enumerate().for_each(|(i, y)| {
                y.par_col_chunks_mut(group * width).enumerate().for_each(|(j, y)| {
                    let packed = &packed[j * group * panel..];
                    let column = columns.start + j * group * width;
                    arch.dispatch(Tiles { product: self, row: i * ROWS, column, packed, y });
                });
            });
        }
        Ok(())
    }
}

/// The columns of a panel on this CPU.
struct Width;

impl WithSimd for Width {
    type Output = usize;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        VECTORS * S::F32_LANES
    }
}

/// Packs rows of B from `column` on into whole panels: element k of the panel's row j at `k · width + j`, zeros
/// where B has no more rows.
struct Pack<'a, A, B> {
    product: &'a Product<'a, A, B>,
    column: usize,
    packed: &'a mut [f32],
}

impl<A: Float, B: Float> WithSimd for Pack<'_, A, B> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Product { b, n, k, .. } = *self.product;
        let width = VECTORS * S::F32_LANES;
        if k == 0 {
            return;
        }
        for (p, panel) in self.packed.chunks_exact_mut(width * k).enumerate() {
            let from = self.column + p * width;
            let rows = width.min(n - from);
            if rows < width {
                panel.fill(0.0);
            }
            let b = &b[from * k..][..rows * k];
            let row = turn::<B, 8>(b, k, panel, width, 0);
            let row = turn::<B, 4>(b, k, panel, width, row);
            turn::<B, 1>(b, k, panel, width, row);
        }
    }
}

/// Copies rows of `b` from `row` on to their columns of a panel, `R` at a time while there are as many, and gives the
/// first row left. `R` x 8 elements are turned at a time, in loops of fixed length: those vectorise, where storing a row's
/// elements one by one does not (2 to 3 times as fast, measured at 8 x 8).
#[inline(always)]
fn turn<B: Float, const R: usize>(
    b: &[B],
    k: usize,
    panel: &mut [f32],
    width: usize,
    mut row: usize,
) -> usize {
    const DEPTH: usize = 8;
    while (row + R) * k <= b.len() {
        let rows: [&[B]; R] = std::array::from_fn(|i| &b[(row + i) * k..][..k]);
        let mut turned = [[0.0f32; R]; DEPTH];
        for (block, panel) in panel.chunks_mut(DEPTH * width).enumerate() {
            let rows: [&[B]; R] = std::array::from_fn(|i| &rows[i][block * DEPTH..]);
            if rows[0].len() >= DEPTH {
                let rows: [&[B; DEPTH]; R] = std::array::from_fn(|i| {
                    rows[i].first_chunk().unwrap_or_else(|| unreachable!())
                });
                for (c, turned) in turned.iter_mut().enumerate() {
                    for (out, row) in turned.iter_mut().zip(rows) {
                        *out = row[c].to_f32();
                    }
                }
            } else {
                for (c, turned) in turned[..rows[0].len()].iter_mut().enumerate() {
                    for (out, row) in turned.iter_mut().zip(rows) {
                        *out = row[c].to_f32();
                    }
                }
            }
            for (out, turned) in panel.chunks_exact_mut(width).zip(&turned) {
                out[row..row + R].copy_from_slice(turned);
            }
        }
        row += R;
    }
    row
}

/// Computes a part of the result, of at most [`ROWS`] rows, from packed panels.
struct Tiles<'a, 'y, A, B> {
    product: &'a Product<'a, A, B>,
    row: usize,
    column: usize,
    packed: &'a [f32],
    y: MatMut<'y, f32>,
}

impl<A: Float, B: Float> WithSimd for Tiles<'_, '_, A, B> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { a, k, .. } = *self.product;
        let rows = self.y.nrows();
        let a = &a[self.row * k..][..rows * k];
        if A::DTYPE == DType::F32 {
            self.panels(simd, bytemuck::cast_slice(a));
        } else {
            let a: Vec<f32> = a.iter().map(|x| x.to_f32()).collect();
            self.panels(simd, &a);
        }
    }
}

impl<A: Float, B: Float> Tiles<'_, '_, A, B> {
    #[inline(always)]
    fn panels<S: Simd>(mut self, simd: S, a: &[f32]) {
        let width = VECTORS * S::F32_LANES;
        for column in (0..self.y.ncols()).step_by(width) {
            let panel = &self.packed[column * self.product.k..][..width * self.product.k];
            let (panel, _) = S::as_simd_f32s(panel);
            let mut row = 0;
            if S::REGISTER_COUNT >= 32 {
                row = self.tiles::<S, 8>(simd, a, panel, row, column);
            }
            row = self.tiles::<S, 4>(simd, a, panel, row, column);
            self.tiles::<S, 1>(simd, a, panel, row, column);
        }
    }

    /// Computes tiles of `R` rows from `row` on while there are as many, and gives the first row left.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        a: &[f32],
        panel: &[S::f32s],
        mut row: usize,
        column: usize,
    ) -> usize {
        let k = self.product.k;
        let columns = (self.y.ncols() - column).min(VECTORS * S::F32_LANES);
        while row + R <= self.y.nrows() {
            let a: [&[f32]; R] = std::array::from_fn(|i| &a[(row + i) * k..][..k]);
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; R];
            tile(simd, a, panel, &mut sums);
            for (i, sums) in sums.iter().enumerate() {
                let sums = &bytemuck::cast_slice::<_, f32>(sums)[..columns];
                let at = (self.row + row + i, self.column + column);
                let y = self.y.as_mut().row_mut(row + i).subcols_mut(column, columns);
                if let Some(y) = y.try_as_row_major_mut() {
                    self.product.finish(S::F32_LANES, at, sums, y.as_slice_mut());
                }
            }
            row += R;
        }
        row
    }
}

/// The products of `R` rows with a panel.
#[inline(always)]
fn tile<S: Simd, const R: usize>(
    simd: S,
    a: [&[f32]; R],
    panel: &[S::f32s],
    out: &mut [[S::f32s; VECTORS]; R],
) {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; R];
    let (blocks, rest) = panel.as_chunks::<VECTORS>().0.as_chunks::<STEPS>();
    for (at, b) in blocks.iter().enumerate() {
        let a: [&[f32; STEPS]; R] = std::array::from_fn(|i| &a[i].as_chunks::<STEPS>().0[at]);
        for step in 0..STEPS {
            sums = fused(simd, sums, a.map(|a| a[step]), b[step]);
        }
    }
    for (b, step) in rest.iter().zip(blocks.len() * STEPS..) {
        sums = fused(simd, sums, a.map(|a| a[step]), *b);
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = sums;
    }
}

/// One step over k.
#[inline(always)]
fn fused<S: Simd, const R: usize>(
    simd: S,
    mut sums: [[S::f32s; VECTORS]; R],
    a: [f32; R],
    b: [S::f32s; VECTORS],
) -> [[S::f32s; VECTORS]; R] {
    for i in 0..R {
        let x = simd.splat_f32s(a[i]);
        for v in 0..VECTORS {
            sums[i][v] = simd.mul_add_e_f32s(x, b[v], sums[i][v]);
        }
    }
    sums
}

impl<A, B> Product<'_, A, B> {
    /// The epilogue of part of a row, which starts at (row, column).
    #[inline(always)]
    fn finish(&self, lanes: usize, (row, column): (usize, usize), sums: &[f32], y: &mut [f32]) {
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
            Activation::Gelu => map(lanes, y, |x| {
                let half = 0.5 * x;
                half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
            }),
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
