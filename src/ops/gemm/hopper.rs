//! Products of f16, bf16 or tf32 on Hopper's tensor cores: of many rows through `kernels/gemm_tma.ptx`, else, but for tf32, through
//! `kernels/gemm_wgmma.ptx`.

use std::sync::Arc;

use super::cuda::{GemmParams, launch, params};
use super::{Activation, Args};
use crate::device::CudaFacts;
use crate::device::cuda::{CudaDevice, tiled};
use crate::ops::precision::{Core, Product};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/gemm_wgmma.ptx";

    spec WgmmaSpec {
        core: Core = [Core::BF16, Core::F16],
        out: DType = [DType::F32, DType::BF16],
        activation: Activation = Activation::COMMON,
    }
    where out == DType::F32 || core == Core::BF16;

    params GemmParams;
}

kernel! {
    pub(crate) TMA = "kernels/gemm_tma.ptx";

    spec TmaSpec {
        core: Core = [Core::BF16, Core::F16, Core::Tf32],
        out: DType = [DType::F32, DType::BF16],
        activation: Activation = Activation::COMMON,
        /// Blocks that share the rows of b.
        cluster: u32 = [1, 2],
    }
    where out == DType::F32 || core == Core::BF16;

    params GemmParams;
}

/// Rows and columns of a tile of both kernels.
const TILE: usize = 128;
/// Up to here tiles of fewer rows waste less.
const FEW_ROWS: usize = 64;

/// Which kernel computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A block a tile.
    Tiles,
    /// So many blocks, at most one a multiprocessor, in clusters of so many.
    Persistent { blocks: usize, cluster: u32 },
}

impl Way {
    /// Whether the kernel takes these operands at all.
    pub(super) fn takes(self, facts: &CudaFacts, args: &Args<'_>, product: Product) -> bool {
        let dtype = match product.core {
            Core::BF16 => DType::BF16,
            Core::F16 => DType::F16,
            Core::Tf32 => DType::F32,
            Core::Fma | Core::Int8 => return false,
        };
        // Instructions of this architecture alone.
        let both = facts.capability == (9, 0)
            && [args.a.dtype(), args.b.dtype()] == [dtype; 2]
            && (args.out == DType::F32 || dtype == DType::BF16)
            && Activation::COMMON.contains(&args.epilogue.activation)
            && args.k > 0
            && args.k.is_multiple_of(8)
            && args.n.is_multiple_of(8);
        match self {
            Way::Tiles => both && product.core != Core::Tf32,
            // Its residual comes in the outputs' tiles, and as f32 too.
            Way::Persistent { .. } => {
                let of_its_own = args.epilogue.residual.is_none()
                    || args.out == DType::F32 && args.repeat >= args.m;
                // Places in a tensor map are signed.
                let most = i32::MAX as usize - 2 * TILE;
                let extents = [args.m, args.n, args.k];
                both && args.batch == 1 && of_its_own && extents.iter().all(|n| *n <= most)
            }
        }
    }

    /// The policy: the way of a product where it is one for these kernels. A row's bits are the same in every way, and in
    /// `kernels/gemm.ptx`.
    pub(super) fn choose(facts: &CudaFacts, args: &Args<'_>, product: Product) -> Option<Way> {
        let blocks = facts.multiprocessors as usize;
        let tiles = args.batch * args.m.div_ceil(TILE) * args.n.div_ceil(TILE);
        let ways = match () {
            _ if args.m <= FEW_ROWS || tiles < blocks / 2 => return None,
            // A cluster reads less, but its blocks wait for each other.
            _ if tiles >= 32 * blocks => [Way::Persistent { blocks, cluster: 2 }, Way::Tiles],
            _ => [Way::Persistent { blocks, cluster: 1 }, Way::Tiles],
        };
        ways.into_iter().find(|way| way.takes(facts, args, product))
    }

    pub(super) fn run(self, gpu: &Arc<CudaDevice>, args: &Args<'_>, core: Core) -> Result<Tensor> {
        let (out, activation) = (args.out, args.epilogue.activation);
        match self {
            Way::Tiles => {
                let spec = WgmmaSpec { core, out, activation };
                launch(gpu, args, spec, [TILE as u32; 2])
            }
            Way::Persistent { blocks, cluster } => {
                persistent(gpu, args, TmaSpec { core, out, activation, cluster }, blocks)
            }
        }
    }
}

fn persistent(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    spec: TmaSpec,
    blocks: usize,
) -> Result<Tensor> {
    let y = Tensor::cuda_uninit(args.a.device(), args.out, args.shape)?;
    if y.is_empty() {
        return Ok(y);
    }
    let &Args { a, b, epilogue, m, n, k, .. } = args;
    let cluster = spec.cluster as usize;
    let kernel = gpu.kernel(spec)?;
    let bindings = [
        tiled(a, m, k, TILE),
        tiled(b, n, k, TILE / cluster),
        // What is absent is not read, but something must be bound.
        tiled(epilogue.residual.unwrap_or(&y), m, n, TILE),
        tiled(&y, m, n, TILE),
        epilogue.bias.unwrap_or(b).cuda().into(),
    ];
    let units = m.div_ceil(cluster * TILE) * n.div_ceil(TILE);
    let clusters = (blocks / cluster).clamp(1, units);
    gpu.launch(&kernel, &bindings, &params(gpu, args)?, [clusters * cluster, 1, 1])?;
    Ok(y)
}
