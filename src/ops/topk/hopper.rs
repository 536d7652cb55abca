//! Many queries on Hopper's tensor cores: `kernels/topk_wgmma.ptx`, whose survivors [`sift`] selects from.

use super::corpus::Compared;
use super::cuda::{Prepared, is_formed};
use super::{Args, Metric, Storage};
use crate::device::cuda::{Binding, CudaDevice, tiled};
use crate::ops::precision::{Core, Product};
use crate::ops::select::cuda::Inputs;
use crate::ops::select::sift::{self, Out, Plan, QUERIES, ROWS, Sift, SiftParams};
use crate::template::kernel;
use crate::{Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/topk_wgmma.ptx";

    spec SiftSpec {
        core: Core = [Core::BF16, Core::F16],
        /// Numbers that stand for one of a query.
        parts: u32 = [1, 3],
        metric: Metric = [Metric::Dot, Metric::Cosine],
        /// Whether the queries stay in shared memory.
        resident: bool,
        /// Blocks that share the rows.
        cluster: u32 = [1, 2],
        /// Whether there is neither bias nor filter, nor rows that were divided.
        plain: bool,
        /// Whether it writes maxima of a sample, and of how many groups of a tile.
        sample: bool,
        groups: u32 = [1, 4],
    }
    where is_formed(Product { core, parts }, storage(core), metric) && (sample || groups == 1);

    params SiftParams;
}

/// The type of the rows.
fn storage(core: Core) -> Storage {
    if core == Core::BF16 { Storage::BF16 } else { Storage::F16 }
}

/// The scan of a search, but for the metric, which may differ by chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Way {
    pub(super) product: Product,
    pub(super) resident: bool,
}

impl Way {
    /// Whether the kernel takes these operands at all.
    pub(super) fn takes(gpu: &CudaDevice, args: &Args<'_>, product: Product) -> bool {
        let rows = args.corpus.parts().iter().map(|chunk| chunk.len());
        let extents = rows.chain([3 * args.count, args.corpus.width()]);
        matches!(product.core, Core::BF16 | Core::F16)
            && args.corpus.storage() == storage(product.core)
            && sift::takes(gpu, &args.search.filter, extents, 2 * args.corpus.width())
    }

    pub(super) fn new(product: Product, width: usize) -> Way {
        let resident = sift::is_resident(2 * width, product.parts as usize);
        Way { product, resident }
    }

    /// The policy: how a search is done, where it is one for this kernel.
    pub(super) fn choose(
        gpu: &CudaDevice,
        args: &Args<'_>,
        product: Product,
        queries: usize,
        k: usize,
    ) -> Option<(Way, Plan)> {
        if !Way::takes(gpu, args, product) {
            return None;
        }
        let (width, chunks) = (args.corpus.width(), args.corpus.parts());
        let rows: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
        let plan = Plan::new(queries, k, width, &rows, 1)?;
        Some((Way::new(product, width), plan))
    }
}

/// Queries on the device, also as tensor cores take them, and how they are scored.
pub(super) struct Sifted<'a> {
    pub(super) prepared: &'a Prepared<'a>,
    /// \[parts, Q, D\].
    pub(super) parts: &'a Tensor,
    pub(super) way: Way,
}

impl Sift for Sifted<'_> {
    fn query_scale(&self) -> Option<Binding<'_>> {
        Some(self.prepared.reduced.scale.cuda().into())
    }

    fn scan(
        &self,
        chunk: usize,
        inputs: &Inputs<'_>,
        out: Out<'_>,
        params: SiftParams,
        blocks: usize,
    ) -> Result<()> {
        let Prepared { gpu, args, reduced, .. } = self.prepared;
        let Way { product: Product { core, parts }, resident } = self.way;
        let cluster = Plan::cluster(params.queries as usize);
        let width = args.corpus.width();
        let params = SiftParams { width: width as u32, ..params };
        let chunk = &args.corpus.parts()[chunk];
        let Compared { form, rows, scale } = chunk.compared(args.metric)?;
        let (sample, groups) = out.sample();
        let spec = SiftSpec {
            core,
            parts,
            metric: form,
            resident,
            cluster: cluster as u32,
            // Powers of two, by which rows were divided, may overflow without the query's.
            plain: inputs.bias.is_none() && inputs.exclude.is_none() && form == args.metric,
            sample,
            groups,
        };
        let queries = Binding::from(reduced.data.cuda());
        let [skips, masks] = inputs.excluded(queries);
        let mut bindings = vec![
            tiled(self.parts, params.queries as usize * parts as usize, width, QUERIES),
            tiled(rows, chunk.len(), width, ROWS / cluster),
            reduced.scale.cuda().into(),
            scale.cuda().into(),
            inputs.bias.unwrap_or(queries),
            masks,
        ];
        bindings.extend(out.bindings(skips, &[rows.cuda().into(), queries]));
        let kernel = gpu.kernel(spec)?;
        gpu.launch(&kernel, &bindings, &params, [blocks, 1, 1])
    }
}
