//! Many codes on Hopper's tensor cores: `kernels/hamming_wgmma.ptx`, whose survivors [`sift`] selects from.

use super::{Args, Asked};
use crate::device::cuda::{Binding, CudaDevice, tiled};
use crate::ops::select::cuda::Inputs;
use crate::ops::select::sift::{self, Out, Plan, QUERIES, ROWS, Sift, SiftParams};
use crate::template::kernel;
use crate::{Result, Tensor};

/// Words of a tile's row, and of a product.
const DEPTH: usize = 32;
const CHUNK: usize = 8;
/// Bits that tensor cores count in the time of a multiply-add of halves, at least.
const RATE: usize = 8;
/// From this number of bits on few rows tie with the k-th best, compared with those that are nearer.
const FEW_TIES: usize = 256;

kernel! {
    pub(crate) FAMILY = "kernels/hamming_wgmma.ptx";

    spec SiftSpec {
        /// Products of a step, 256 bits each.
        chunks: u32 = [1, 2, 4],
        /// Whether the queries stay in shared memory.
        resident: bool,
        /// Blocks that share the rows.
        cluster: u32 = [1, 2],
        /// Whether there is no bias.
        plain: bool,
        /// Whether it writes maxima of a sample, and of how many groups of a tile.
        sample: bool,
        groups: u32 = [1, 4],
    }
    where (resident || chunks == 4) && (sample || groups == 1);

    params SiftParams;
}

/// The policy: how much is sampled, where a search is one for this kernel.
pub(super) fn plan(gpu: &CudaDevice, args: &Args<'_>, queries: usize, k: usize) -> Option<Plan> {
    let rows: Vec<usize> = args.corpus.parts().iter().map(|chunk| chunk.len()).collect();
    let (bits, extents) = (args.corpus.bits(), rows.iter().copied().chain([args.count]));
    let takes = matches!(args.queries, Asked::Codes(_))
        && sift::takes(gpu, &args.search.filter, extents, bits / 8);
    let ties = if bits >= FEW_TIES { 2 } else { 4 };
    takes.then(|| Plan::new(queries, k, bits / RATE, &rows, ties)).flatten()
}

/// Codes on the device.
pub(super) struct Sifted<'a> {
    pub(super) gpu: &'a CudaDevice,
    pub(super) args: &'a Args<'a>,
    /// \[Q, W\].
    pub(super) queries: &'a Tensor,
}

impl Sift for Sifted<'_> {
    fn query_scale(&self) -> Option<Binding<'_>> {
        None
    }

    fn scan(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        out: Out<'_>,
        params: SiftParams,
        blocks: usize,
    ) -> Result<()> {
        let Sifted { gpu, args, queries } = self;
        let cluster = Plan::cluster(params.queries as usize);
        let words = args.corpus.words();
        let params = SiftParams { width: words as u32, ..params };
        let chunk = &args.corpus.parts()[chunk];
        let (sample, groups) = out.sample();
        let spec = SiftSpec {
            chunks: if words > DEPTH {
                4
            } else {
                words.div_ceil(CHUNK).next_power_of_two() as u32
            },
            resident: sift::is_resident(4 * words, 1),
            cluster: cluster as u32,
            plain: inputs.bias.is_none(),
            sample,
            groups,
        };
        let codes = Binding::from(queries.cuda());
        let [skips, masks] = inputs.excluded(codes);
        let mut bindings = vec![
            tiled(queries, params.queries as usize, words, QUERIES),
            tiled(&chunk.rows, chunk.len(), words, ROWS / cluster),
            codes,
            inputs.bias.unwrap_or(codes),
            masks,
        ];
        bindings.extend(out.bindings(skips, &[]));
        let kernel = gpu.kernel(spec)?;
        gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
    }
}
