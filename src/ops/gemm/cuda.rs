//! Matrix products through `kernels/gemm.ptx`: on tensor cores where that keeps the operands' bits or the device was
//! opened to trade them, with fused multiply-adds otherwise.

use std::sync::Arc;

use super::hopper::Way;
use super::split;
use super::{Activation, Args};
use crate::device::CudaFacts;
use crate::device::cuda::{CudaDevice, GRID_YZ};
use crate::ops::precision::{Core, Product};
use crate::template::{Spec, kernel};
use crate::{DType, Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/gemm.ptx";

    spec GemmSpec {
        core: Core = [Core::Fma, Core::BF16, Core::F16, Core::Tf32],
        a: DType = DType::FLOATS,
        b: DType = DType::FLOATS,
        out: DType = [DType::F32, DType::BF16],
        /// Numbers that stand for one of `a`.
        parts: u32 = [1, 3],
        /// Whether f32 is cut to tf32 by tensor cores, as it is by Hopper's own kernels, not rounded.
        cut: bool,
        /// Whether rows start at multiples of what one load takes.
        wide: bool,
        bm: u32 = [16, 64, 128],
        bn: u32 = [32, 64, 128],
        tm: u32 = [2, 4, 8, 16, 32, 64],
        tn: u32 = [4, 8, 16, 32, 64],
        stages: u32 = [stages(core, a == b, bm)],
    }
    where (core == Core::Fma && parts == 1 || wide && Product { core, parts }.exists(a, b))
        && (!cut || core == Core::Tf32)
        && tiles(Product { core, parts }).contains(&[bm, bn, tm, tn])
        && has_out(Product { core, parts }, b, out);

    params GemmParams {
        m: u32, n: u32, k: u32, scale: f32, activation: u32, has_bias: u32, has_residual: u32, repeat: u32,
    }
}

/// Outputs of a block, and of a thread or warp: `[bm, bn, tm, tn]`. From the largest on, which reuse most.
type Tile = [u32; 4];
const FMA_TILES: [Tile; 3] = [[128, 128, 8, 8], [64, 64, 4, 4], [16, 64, 2, 4]];
const MMA_TILES: [Tile; 3] = [[128, 128, 64, 64], [64, 64, 32, 32], [16, 32, 16, 16]];
/// Where a warp of 64 x 64 would not leave the registers for the operands' parts.
const PARTS_TILES: [Tile; 3] = [[128, 128, 64, 32], [64, 64, 32, 32], [16, 32, 16, 16]];

fn tiles(product: Product) -> [Tile; 3] {
    match product.core {
        Core::Fma => FMA_TILES,
        Core::Tf32 => PARTS_TILES,
        _ if product.parts > 1 => PARTS_TILES,
        _ => MMA_TILES,
    }
}

/// How a product is formed.
fn choose(gpu: &CudaDevice, args: &Args<'_>) -> Product {
    let [a, b] = [args.a, args.b].map(Tensor::dtype);
    // What was split when it was packed was f32.
    let b = if split::is_split(args) { DType::F32 } else { b };
    if Product::choose(gpu.precision, a, b) == Product::THREE {
        return Product::THREE;
    }
    // Copies of 16 bytes need rows that are multiples of it.
    match [a, b].iter().all(|t| (args.k * t.size()).is_multiple_of(16)) {
        true => Product::choose(gpu.precision, a, b),
        false => Product::FMA,
    }
}

/// Whether the kernel of a product with a `b` writes such results; each writes f32.
fn has_out(product: Product, b: DType, out: DType) -> bool {
    let bf16 = Product { core: Core::BF16, parts: 1 };
    out == DType::F32 || [b, out] == [DType::BF16; 2] && product == bf16
}

/// Whether the product's kernel writes `args.out`.
pub(super) fn writes(gpu: &CudaDevice, args: &Args<'_>) -> bool {
    has_out(choose(gpu, args), args.b.dtype(), args.out)
}

/// Tiles of operands in flight.
fn stages(core: Core, same: bool, bm: u32) -> u32 {
    match (core, bm) {
        (Core::Fma, _) => 1,
        (_, 128) if core == Core::Tf32 || same => 3,
        (_, 16) => 6,
        _ => 4,
    }
}

/// The tile policy: the largest tile of which there are enough to fill the device. A row's bits are the same with every
/// tile.
fn tile(facts: &CudaFacts, args: &Args<'_>, tiles: [Tile; 3]) -> Tile {
    let blocks = |[bm, bn, ..]: Tile| {
        args.batch * args.m.div_ceil(bm as usize) * args.n.div_ceil(bn as usize)
    };
    let [large, medium, small] = tiles;
    let enough = facts.multiprocessors as usize;
    match () {
        _ if args.m > 64 && blocks(large) >= enough => large,
        _ if args.m > 16 && blocks(medium) >= enough => medium,
        _ if args.m <= 16 || blocks(medium) < enough / 2 => small,
        _ => medium,
    }
}

pub(super) fn gemm(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    let by = |args: &Args<'_>, product: Product| match Way::choose(&gpu.facts, args, product) {
        Some(way) => way.run(gpu, args, product.core),
        None => run(gpu, args, product, tile(&gpu.facts, args, tiles(product))),
    };
    match choose(gpu, args) {
        Product::THREE => {
            split::gemm(gpu, args, |args| by(args, Product { parts: 1, ..Product::THREE }))
        }
        product => by(args, product),
    }
}

/// `b` as products take it where many share it.
pub(super) fn pack(gpu: &Arc<CudaDevice>, b: &Tensor) -> Result<Tensor> {
    let product = Product::choose(gpu.precision, b.dtype(), b.dtype());
    if product == Product::THREE { split::split(gpu, b, true) } else { Ok(b.clone()) }
}

fn run(gpu: &Arc<CudaDevice>, args: &Args<'_>, product: Product, tile: Tile) -> Result<Tensor> {
    let [a, b] = [args.a, args.b].map(Tensor::dtype);
    let ([bm, bn, tm, tn], Product { core, parts }) = (tile, product);
    let spec = GemmSpec {
        core,
        a,
        b,
        out: args.out,
        parts,
        cut: core == Core::Tf32 && gpu.facts.capability == (9, 0),
        // Loads of four numbers; K = 0 has none.
        wide: args.k.is_multiple_of(4),
        bm,
        bn,
        tm,
        tn,
        stages: stages(core, a == b, bm),
    };
    launch(gpu, args, spec, [bm, bn])
}

/// Whether the residual is one matrix for all of a batch.
fn begins_anew(args: &Args<'_>) -> bool {
    args.repeat < args.batch * args.m
}

/// A number of rows or columns, or of threads that share them.
pub(super) fn extent(gpu: &CudaDevice, x: usize) -> Result<u32> {
    u32::try_from(x).map_err(|_| Error::Unsupported {
        what: format!("gemm with an extent of {x}; it takes up to {}", u32::MAX),
        device: gpu.name().into(),
    })
}

/// What every kernel of products is told.
pub(super) fn params(gpu: &CudaDevice, args: &Args<'_>) -> Result<GemmParams> {
    let extent = |x| extent(gpu, x);
    let epilogue = args.epilogue;
    Ok(GemmParams {
        m: extent(args.m)?,
        n: extent(args.n)?,
        k: extent(args.k)?,
        scale: epilogue.scale,
        activation: number(epilogue.activation),
        has_bias: epilogue.bias.is_some() as u32,
        has_residual: epilogue.residual.is_some() as u32,
        repeat: if begins_anew(args) { extent(args.repeat)? } else { u32::MAX },
    })
}

/// Enqueues a kernel whose blocks compute `rows` x `columns` outputs each.
pub(super) fn launch<S: Spec>(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    spec: S,
    [rows, columns]: [u32; 2],
) -> Result<Tensor> {
    let y = Tensor::cuda_uninit(args.a.device(), args.out, args.shape)?;
    if y.is_empty() {
        return Ok(y);
    }
    let &Args { a, b, epilogue, batch, m, n, k, .. } = args;
    let kernel = gpu.kernel(spec)?;
    let params = params(gpu, args)?;
    let shared = begins_anew(args);
    let blocks = m.div_ceil(rows as usize) * n.div_ceil(columns as usize);
    for first in (0..batch).step_by(GRID_YZ) {
        let at = |t: &Tensor, rows: usize, width: usize| {
            (first * rows) as u64 * (width * t.dtype().size()) as u64
        };
        // What is absent is not read, but something must be bound.
        let bindings = [
            a.cuda().at_byte(at(a, m, k)),
            b.cuda().at_byte(at(b, n, k)),
            epilogue.bias.unwrap_or(b).cuda().into(),
            match epilogue.residual {
                Some(residual) if shared => residual.cuda().into(),
                Some(residual) => residual.cuda().at_byte(at(residual, m, n)),
                None => b.cuda().into(),
            },
            y.cuda().at_byte(at(&y, m, n)),
        ];
        gpu.launch(&kernel, &bindings, &params, [blocks, 1, (batch - first).min(GRID_YZ)])?;
    }
    Ok(y)
}

/// The number of an activation, as kernels/include/activation.ptx has it.
pub(crate) fn number(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::QuickGelu => 3,
        Activation::Relu => 4,
        Activation::Silu => 5,
        Activation::Tanh => 6,
        Activation::Sigmoid => 7,
        Activation::Exp => 8,
        Activation::LeakyRelu => 9,
        Activation::Elu1p => 10,
        Activation::Log1pRelu => 11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Backend;
    use crate::device::required::required;
    use crate::ops::gemm::Epilogue;
    use crate::{Device, DeviceOptions};

    fn data(n: usize, step: u32) -> Vec<f32> {
        let unit = |i: u32| (i.wrapping_mul(step) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        (0..n as u32).map(unit).collect()
    }

    /// The tests of the operation see the tiles that the policy takes; here every tile of every core is compared with a
    /// product in f64 of the operands as they enter, and with the others bit for bit.
    #[test]
    fn every_tile_gives_the_same_bits() {
        let opened = Device::cuda_with(0, DeviceOptions::default());
        let Some(device) = required("cuda", opened) else { return };
        let Backend::Cuda(gpu) = device.backend() else { unreachable!() };
        use DType::{BF16, F16, F32};
        let on = |core, parts| Product { core, parts };
        let persistent = |blocks, cluster| Way::Persistent { blocks, cluster };
        // Blocks with several tiles of their own, and with none.
        let ways = [Way::Tiles, persistent(1, 1), persistent(16, 1), persistent(4, 2)];
        // The last number: the rounding of one operand as it enters.
        let products = [
            (Product::FMA, F32, F32, 0.0),
            (Product::FMA, F16, F32, 0.0),
            (Product::FMA, BF16, F16, 0.0),
            (on(Core::BF16, 1), BF16, BF16, 0.0),
            (on(Core::F16, 1), F16, F16, 0.0),
            (on(Core::BF16, 3), F32, BF16, 0.0),
            (on(Core::BF16, 1), F32, BF16, 2f64.powi(-9)),
            (on(Core::F16, 1), F32, F16, 2f64.powi(-11)),
            (on(Core::BF16, 1), F32, F32, 2f64.powi(-8)),
            // Rounded or, on Hopper, cut.
            (on(Core::Tf32, 1), F32, F32, 2f64.powi(-10)),
        ];
        for (product, da, db, rounding) in products {
            let shapes = match product.core {
                Core::Fma => vec![(1, 1, 1, 1), (2, 65, 63, 5), (1, 129, 130, 67), (1, 17, 33, 64)],
                _ => vec![
                    (1, 1, 1, 8),
                    (2, 65, 63, 40),
                    (1, 129, 130, 200),
                    (3, 17, 36, 264),
                    (2, 200, 264, 328),
                    (1, 500, 264, 456),
                ],
            };
            for (batch, m, n, k) in shapes {
                let (a, b) = (data(batch * m * k, 2654435761), data(batch * n * k, 2246822519));
                let (bias, residual) = (data(n, 3266489917), data(batch * m * n, 668265263));
                let a = Tensor::from_f32(&device, da, &[batch, m, k], &a).unwrap();
                let b = Tensor::from_f32(&device, db, &[batch, n, k], &b).unwrap();
                let bias_on = Tensor::from_slice(&device, &[n], &bias).unwrap();
                let residual_on = Tensor::from_slice(&device, &[batch, m, n], &residual).unwrap();
                let epilogue = Epilogue {
                    scale: 0.5,
                    bias: Some(&bias_on),
                    activation: Activation::Relu,
                    residual: Some(&residual_on),
                    ..Epilogue::default()
                };
                let shape = [batch, m, n];
                let (out, repeat, epilogue) = (F32, batch * m, &epilogue);
                let args = Args {
                    a: &a,
                    b: &b,
                    packed: false,
                    epilogue,
                    batch,
                    m,
                    n,
                    k,
                    repeat,
                    shape: &shape,
                    out,
                };
                let results: Vec<Vec<f32>> = tiles(product)
                    .iter()
                    .map(|tile| run(gpu, &args, product, *tile).unwrap().to_vec().unwrap())
                    .collect();
                let what = format!("{:?} of {da} {m} x {k} by {db} {n}", product.core);
                // The same bits on Hopper's tensor cores, and the same rounded; its own kernel takes no residual then.
                for way in ways.into_iter().filter(|way| way.takes(&gpu.facts, &args, product)) {
                    let result = way.run(gpu, &args, product.core).unwrap();
                    let result = result.to_vec::<f32>().unwrap();
                    assert!(results[0] == result, "{what}: {way:?} differs");
                }
                if product.core == Core::BF16 && product.parts == 1 && db == BF16 {
                    let tiles = tiles(product);
                    for residual in [epilogue.residual, None] {
                        let epilogue = &Epilogue { residual, ..*epilogue };
                        let full = run(gpu, &Args { epilogue, ..args }, product, tiles[0]);
                        let full = full.unwrap().to_vec::<f32>().unwrap();
                        let rounded = Tensor::from_f32(&Device::cpu(), BF16, &shape, &full);
                        let want = rounded.unwrap().to_f32_vec().unwrap();
                        let args = Args { out: BF16, epilogue, ..args };
                        let on_tiles = tiles.iter().map(|tile| run(gpu, &args, product, *tile));
                        let on_hopper =
                            ways.iter().filter(|way| way.takes(&gpu.facts, &args, product));
                        let on_hopper = on_hopper.map(|way| way.run(gpu, &args, product.core));
                        for half in on_tiles.chain(on_hopper) {
                            let half = half.unwrap().to_f32_vec().unwrap();
                            assert!(half == want, "{what}: to bf16");
                        }
                    }
                }
                assert!(results[0] == results[1], "{what}: large and medium tiles differ");
                assert!(results[0] == results[2], "{what}: large and small tiles differ");
                let (a, b) = (a.to_f32_vec().unwrap(), b.to_f32_vec().unwrap());
                for (at, &got) in results[0].iter().enumerate() {
                    let (matrix, row, column) = (at / (m * n), at / n % m, at % n);
                    let a = &a[(matrix * m + row) * k..][..k];
                    let b = &b[(matrix * n + column) * k..][..k];
                    let (mut sum, mut size) = (0f64, 0f64);
                    for (&a, &b) in a.iter().zip(b) {
                        sum += a as f64 * b as f64;
                        size += (a as f64 * b as f64).abs();
                    }
                    let want = (0.5 * sum + bias[column] as f64).max(0.0) + residual[at] as f64;
                    // Two operands are rounded, or one; sums are f32.
                    let tolerance = size * (rounding + 1.2e-7 * (k as f64).sqrt()) + 4e-7;
                    let off = (got as f64 - want).abs();
                    assert!(off <= tolerance, "{what}: {got} for {want}, off by {off:e}");
                }
            }
        }
    }
}
