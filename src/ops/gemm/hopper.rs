//! Products of f16 or bf16 on Hopper's tensor cores, through `kernels/gemm_wgmma.ptx`.

use std::sync::Arc;

use super::cuda::{Core, GemmParams, launch};
use super::{Activation, Args};
use crate::device::CudaFacts;
use crate::device::cuda::CudaDevice;
use crate::template::{Family, Spec, keys};
use crate::{DType, Result, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct WgmmaSpec {
    core: Core,
    out: DType,
    activation: Activation,
    /// Columns of a block.
    bn: u32,
}

impl Spec for WgmmaSpec {
    const FAMILY: &'static str = "gemm_wgmma";
}

pub(crate) const FAMILY: Family = Family {
    name: WgmmaSpec::FAMILY,
    spec_keys: || {
        let activation = Activation::None;
        keys(WgmmaSpec { core: Core::BF16, out: DType::F32, activation, bn: 128 })
    },
    params: GemmParams::MEMBERS,
    params_size: size_of::<GemmParams>(),
};

/// Rows of a block.
const ROWS: usize = 128;
/// Columns of a block, from the most on.
pub(super) const COLUMNS: [usize; 2] = [256, 128];
/// Up to here tiles of fewer rows waste less.
const FEW_ROWS: usize = 64;

/// Whether the kernel takes these operands at all.
pub(super) fn takes(facts: &CudaFacts, args: &Args<'_>) -> bool {
    let dtype = args.a.dtype();
    // Instructions of this architecture alone.
    facts.capability == (9, 0)
        && dtype == args.b.dtype()
        && dtype != DType::F32
        && (args.out == DType::F32 || dtype == DType::BF16)
        && args.k > 0
        && args.k.is_multiple_of(8)
        && args.n.is_multiple_of(8)
}

/// The tile policy: columns of a block where these are products for the kernel. A row's bits are the same with every tile, here
/// and in `kernels/gemm.ptx`.
pub(super) fn columns(facts: &CudaFacts, args: &Args<'_>) -> Option<usize> {
    if !takes(facts, args) || args.m <= FEW_ROWS {
        return None;
    }
    let blocks = |columns| args.batch * args.m.div_ceil(ROWS) * args.n.div_ceil(columns);
    let multiprocessors = facts.multiprocessors as usize;
    let [wide, narrow] = COLUMNS;
    match () {
        // A block of 256 columns has a multiprocessor for itself: nothing hides how it begins and ends.
        _ if args.k >= 2048 && blocks(wide) >= 2 * multiprocessors => Some(wide),
        _ if blocks(narrow) >= multiprocessors / 2 => Some(narrow),
        _ => None,
    }
}

pub(super) fn run(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    core: Core,
    columns: usize,
) -> Result<Tensor> {
    let activation = args.epilogue.activation;
    let spec = WgmmaSpec { core, out: args.out, activation, bn: columns as u32 };
    launch(gpu, args, spec, [ROWS as u32, columns as u32])
}
