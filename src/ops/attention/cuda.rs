//! Attention on CUDA: `kernels/attention_mma.ptx` on tensor cores where the device was opened to trade precision for
//! speed, `kernels/attention.ptx` with fused multiply-adds otherwise.

use std::f32::consts::LOG2_E;
use std::sync::Arc;

use super::Args;
use crate::device::cuda::{Binding, CudaDevice, CudaFacts};
use crate::ops::precision::rounds_f32;
use crate::template::{Spec, kernel};
use crate::{DType, Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/attention.ptx";

    spec AttentionSpec {
        /// Fours of columns of a head, rounded up.
        d4: u32 = [1, 8, 16, 20, 32],
        /// Whether every head of every row starts at a multiple of four elements, so that they are copied in fours.
        vector: bool,
        /// Whether queries see some keys only, by causality or in a window.
        mask: bool,
        bias: bool,
        /// Queries of a block.
        bq: u32 = [16, 32, 64],
        /// Keys of a tile; depends on the dimension alone, because bits depend on it.
        bk: u32 = [keys_of_tile(d4)],
    }
    where vector || [1, 20].contains(&d4);

    params AttentionParams {
        sequences: u32, heads: u32, dim: u32,
        q_width: u32, k_width: u32, v_width: u32,
        q_start: u32, k_start: u32, v_start: u32,
        scale: f32, reach: u32,
        group: u32, ahead: u32, span: u32,
    }
}

kernel! {
    pub(crate) MMA = "kernels/attention_mma.ptx";

    spec MmaSpec {
        /// Of Q, K, V and the result.
        t: DType = [DType::F32, DType::BF16],
        /// Sixteens of columns of a head, rounded up.
        d16: u32 = [2, 4, 5, 8],
        vector: bool,
        /// Whether queries see some keys only, by causality or in a window.
        mask: bool,
        bias: bool,
        /// Queries of a block, which share K and V.
        slot: u32 = [16, 32, 64, 128, 512],
        warps: u32 = [1, 2, 4, 8],
        /// Sixteens of queries of a warp.
        mt: u32 = [1, 2],
        /// 64s of keys in shared memory at a time.
        tiles: u32 = [1, 2, 4, 5, 8],
    }
    where (vector || t == DType::F32 && [2, 5].contains(&d16) && slot <= 64 && !bias)
        && SAMPLES[usize::from(d16 > 4)].contains(&[slot, warps, mt, tiles]);

    params AttentionParams;
}

/// Queries of a block on tensor cores, from the most on.
const SLOTS: [usize; 6] = [512, 256, 128, 64, 32, 16];
/// Keys of a step, and of a tile of K and V in shared memory.
const KEYS: usize = 64;

/// The first of `sizes`, from the largest on, for which there are blocks enough to fill the device, else the last.
fn queries(facts: &CudaFacts, args: &Args<'_>, sizes: &[usize]) -> usize {
    let blocks = |size: usize| -> usize {
        let tiles = |s| args.q_offsets.range(s).len().div_ceil(size);
        args.how.heads * (0..args.q_offsets.len()).map(tiles).sum::<usize>()
    };
    let enough = 2 * facts.multiprocessors as usize;
    let fits = |&&size: &&usize| blocks(size) >= enough;
    *sizes.iter().find(fits).or(sizes.last()).expect("there are sizes")
}

pub(super) fn attention(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Tensor> {
    match rounds_f32(gpu.precision) {
        true => on_tensor_cores(gpu, args, tile(&gpu.facts, args)),
        false => with_fma(gpu, args, queries(&gpu.facts, args, &[64, 32, 16])),
    }
}

/// Whether the kernel on tensor cores takes Q, K and V of bf16 as they are.
pub(super) fn takes(gpu: &CudaDevice, args: &Args<'_>) -> bool {
    args.dtype == DType::BF16 && rounds_f32(gpu.precision) && vector(args)
}

fn with_fma(gpu: &Arc<CudaDevice>, args: &Args<'_>, bq: usize) -> Result<Tensor> {
    let dim = args.how.dim;
    let spec = AttentionSpec {
        d4: dim.div_ceil(4) as u32,
        vector: vector(args),
        mask: args.mask.is_some(),
        bias: args.how.bias.is_some(),
        bq: bq as u32,
        bk: keys_of_tile(dim.div_ceil(4) as u32),
    };
    run(gpu, args, spec, bq)
}

fn keys_of_tile(d4: u32) -> u32 {
    if d4 <= 16 { 64 } else { 32 }
}

/// Some of what [`tile`] gives, for heads of up to 64 columns and of more: slot, warps, mt and tiles.
const SAMPLES: [&[[u32; 4]]; 2] = [
    &[[16, 1, 1, 1], [32, 2, 1, 4], [64, 4, 1, 5], [128, 4, 1, 2], [512, 4, 2, 8]],
    &[[16, 1, 1, 2], [64, 4, 1, 4], [128, 8, 1, 2]],
];

/// Queries of a block, warps, sixteens of queries of each and 64s of keys.
type MmaTile = [usize; 4];

fn on_tensor_cores(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    [slot, warps, mt, tiles]: MmaTile,
) -> Result<Tensor> {
    let spec = MmaSpec {
        t: args.dtype,
        d16: args.how.dim.div_ceil(16) as u32,
        vector: vector(args),
        mask: args.mask.is_some(),
        bias: args.how.bias.is_some(),
        slot: slot as u32,
        warps: warps as u32,
        mt: mt as u32,
        tiles: tiles as u32,
    };
    run(gpu, args, spec, slot)
}

/// The tile policy on tensor cores: K and V of the longest sequence, or what queries of a block see of it, are held whole
/// where shared memory allows, for as many queries as leave blocks enough to fill the device.
fn tile(facts: &CudaFacts, args: &Args<'_>) -> MmaTile {
    let longest = args.q_offsets.max_len();
    // A slot should not be twice as long as any sequence.
    let from = SLOTS.iter().position(|&slot| slot < 2 * longest).unwrap_or(SLOTS.len() - 1);
    let slot = queries(facts, args, &SLOTS[from..]);
    let wide = args.how.dim > 64;
    let [warps, mt] = match slot {
        16 | 32 | 64 => [slot / 16, 1],
        _ if wide => [8, 1],
        // More blocks at a time on a multiprocessor are worth more than fewer reads of K and V from shared memory …
        128 | 256 => [4, 1],
        // … until sequences are long.
        _ => [4, 2],
    };
    let row = 2 * args.how.dim.next_power_of_two().clamp(32, 128);
    // 8 bytes of flags and what the driver takes of each block.
    let room = facts.shared_per_block as usize - 2048 - 16 * mt * warps * row;
    // What a slot's queries see, from the start of a tile on.
    let seen = args.mask.map_or(usize::MAX, |mask| slot + mask.span() + KEYS);
    let tiles = args.kv_offsets.max_len().min(seen).div_ceil(KEYS).min(room / (2 * KEYS * row));
    [slot, warps, mt, tiles.clamp(1, 8)]
}

/// Whether every head of every row starts at a multiple of 16 bytes.
fn vector(args: &Args<'_>) -> bool {
    let parts = [args.q, args.k, args.v];
    let whole = |n: usize| (n * args.dtype.size()).is_multiple_of(16);
    whole(args.how.dim) && parts.iter().all(|p| whole(p.start) && whole(p.width))
}

/// Enqueues a kernel whose blocks take `slot` queries of a sequence each.
fn run<S: Spec>(gpu: &Arc<CudaDevice>, args: &Args<'_>, spec: S, slot: usize) -> Result<Tensor> {
    let (heads, dim) = (args.how.heads, args.how.dim);
    let shape = [args.q_offsets.total(), heads * dim];
    let out = Tensor::cuda_uninit(args.q.tensor.device(), args.dtype, &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let parts = [args.q, args.k, args.v];
    let extent = |x: usize| match u32::try_from(x) {
        // Byte strides are 32-bit numbers too.
        Ok(x) if x <= u32::MAX / 4 => Ok(x),
        _ => Err(Error::Unsupported {
            what: format!("attention with an extent of {x}; it takes up to {}", u32::MAX / 4),
            device: gpu.name().into(),
        }),
    };
    let kernel = gpu.kernel(spec)?;
    let params = AttentionParams {
        sequences: extent(args.q_offsets.len())?,
        heads: extent(heads)?,
        dim: dim as u32,
        q_width: extent(args.q.width)?,
        k_width: extent(args.k.width)?,
        v_width: extent(args.v.width)?,
        q_start: extent(args.q.start)?,
        k_start: extent(args.k.start)?,
        v_start: extent(args.v.start)?,
        scale: args.how.scale * LOG2_E,
        reach: extent(args.reach)?,
        group: extent(args.how.group())?,
        ahead: args.mask.map_or(0, |mask| mask.ahead as u32),
        span: args.mask.map_or(0, |mask| mask.span() as u32),
    };
    let offsets = [args.q_offsets, args.kv_offsets].map(|o| Binding::from(o.tensor().cuda()));
    let mut bindings: Vec<Binding<'_>> = parts.iter().map(|p| p.tensor.cuda().into()).collect();
    bindings.extend(offsets);
    bindings.extend(args.how.bias.map(|b| Binding::from(b.cuda())));
    bindings.push(out.cuda().into());
    // Every sequence has a slot for each whole tile of rows before its end, and one more.
    let slots = args.q_offsets.total() / slot + args.q_offsets.len();
    gpu.launch(&kernel, &bindings, &params, [heads * slots, 1, 1])?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Backend;
    use crate::device::required::required;
    use crate::ops::attention::{Attention, Heads, Mask, part};
    use crate::{Device, DeviceOptions, MatmulPrecision, Offsets};

    fn data(n: usize, step: u32) -> Vec<f32> {
        let unit = |i: u32| (i.wrapping_mul(step) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        (0..n as u32).map(unit).collect()
    }

    /// Every tile of both kernels gives a query the same bits, in any number of chunks of keys and of blocks; infinite
    /// values that some queries may not see included.
    #[test]
    fn every_tile_gives_the_same_bits() {
        let options =
            DeviceOptions { matmul_precision: MatmulPrecision::Medium, ..Default::default() };
        let Some(device) = required("cuda", Device::cuda_with(0, options)) else { return };
        let Backend::Cuda(gpu) = device.backend() else { unreachable!() };
        for (dim, causal, window, infinite) in [
            (24, false, None, false),
            (64, true, None, false),
            (64, true, None, true),
            (80, true, None, true),
            (64, false, Some(10), true),
            (24, true, Some(70), true),
        ] {
            let (heads, lengths) = (2, [150usize, 1, 0, 77]);
            let offsets = Offsets::from_lengths(&device, &lengths).unwrap();
            let width = 3 * heads * dim;
            let mut x = data(offsets.total() * width, 2654435761);
            if infinite {
                x[100 * width + 2 * heads * dim + 5] = f32::INFINITY;
                x[190 * width + 2 * heads * dim + dim] = f32::NAN;
            }
            let x = Tensor::from_slice(&device, &[offsets.total(), width], &x).unwrap();
            let how = Attention { causal, window, ..Attention::new(heads, dim) };
            let args = |x| {
                let part = |i: usize| {
                    let columns = Heads { tensor: x, start: i * heads * dim };
                    part("x", columns, x.dtype(), heads, dim, &offsets).unwrap()
                };
                Args {
                    q: part(0),
                    k: part(1),
                    v: part(2),
                    q_offsets: &offsets,
                    kv_offsets: &offsets,
                    how: &how,
                    mask: Mask::new(&how),
                    reach: 0,
                    dtype: x.dtype(),
                }
            };
            let values = x.to_vec::<f32>().unwrap();
            let halves = Tensor::from_f32(&device, DType::BF16, x.shape(), &values).unwrap();
            let of_halves = args(&halves);
            let args = args(&x);
            let bits = |y: Tensor| -> Vec<u32> {
                y.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
            };
            let fma: Vec<Vec<u32>> =
                [64, 32, 16].map(|bq| bits(with_fma(gpu, &args, bq).unwrap())).into();
            assert!(fma.iter().all(|bits| *bits == fma[0]), "dim {dim}: multiply-adds");
            let tiles = [
                [16, 1, 1, 1],
                [32, 2, 1, 2],
                [64, 4, 1, 3],
                [64, 4, 1, 1],
                [256, 8, 1, 1],
                [128, 4, 2, 2],
                [512, 4, 2, 1],
            ];
            let first = bits(on_tensor_cores(gpu, &args, tiles[0]).unwrap());
            for tile in &tiles[1..] {
                let got = bits(on_tensor_cores(gpu, &args, *tile).unwrap());
                assert!(
                    got == first,
                    "dim {dim}, causal {causal}, window {window:?}: {tile:?} differs"
                );
            }
            // Q, K and V that were rounded before: the same, rounded behind.
            let full: Vec<f32> = first.iter().map(|&bits| f32::from_bits(bits)).collect();
            for tile in &tiles {
                let got = on_tensor_cores(gpu, &of_halves, *tile).unwrap();
                let cpu = Device::cpu();
                let want = Tensor::from_f32(&cpu, DType::BF16, got.shape(), &full).unwrap();
                let (got, want) = (got.to_f32_vec().unwrap(), want.to_f32_vec().unwrap());
                let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
                assert!(got.iter().zip(&want).all(same), "dim {dim}, {causal}: {tile:?} of bf16");
            }
            for (i, (&fma, &mma)) in fma[0].iter().zip(&first).enumerate() {
                let (want, got) = (f32::from_bits(fma), f32::from_bits(mma));
                let same = (want.is_nan() && got.is_nan()) || want == got;
                assert!(same || (want - got).abs() < 0.02, "{dim}, element {i}: {got}, {want}");
            }
        }
    }
}
