//! Late interaction through `kernels/maxsim.ptx`: a block a query, or two short ones, and a range of their documents.

use std::sync::Arc;

use super::{Args, Best, Computed, Pairs, Reduction, Storage, Want};
use crate::device::cuda::{Binding, CudaDevice};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

/// Rows of query tokens that a block takes at a time, and of a query that shares them with another.
const ROWS: usize = 64;
const HALF: usize = 32;
/// Blocks to aim for on each multiprocessor.
const BLOCKS: usize = 8;
/// Bytes of a token of which 64 stay in shared memory.
const RESIDENT: usize = 512;
/// Bytes of the state of rows of long queries.
const STATE: usize = 64 << 20;
/// Where there is no second query.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Rows,
    Both,
    Align,
}

kernel! {
    pub(crate) FAMILY = "kernels/maxsim.ptx";

    spec MaxsimSpec {
        t: Storage = [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8, Storage::Binary],
        mode: Mode = [Mode::Rows, Mode::Both, Mode::Align],
        soft: bool,
        /// Bytes that are copied together: 16 where rows divide into them.
        copy: u32 = [4, 16],
        /// Whether the queries' rows stay in shared memory.
        resident: bool,
        /// Bits a dimension of compressed documents, or 0.
        codes: u32 = [0, 1, 2, 4],
    }
    where (!soft || mode != Mode::Align)
        && match t {
            Storage::Int8 | Storage::Binary => codes == 0,
            _ => copy == 16,
        };

    params MaxsimParams {
        dim: u32, row_bytes: u32, has_list: u32, scaled: u32, weighted: u32, most_passes: u32, mean: u32, inverse: f32,
    }
}

pub(super) fn maxsim(gpu: &Arc<CudaDevice>, args: &Args<'_>) -> Result<Computed> {
    let device = args.documents.device();
    let rows = Tensor::cuda_uninit(device, DType::F32, &args.shape)?;
    let more = match args.want {
        Want::Queries => None,
        Want::Align => Some(Tensor::cuda_uninit(device, DType::U32, &args.shape)?),
        _ => Some(Tensor::cuda_uninit(device, DType::F32, &args.shape)?),
    };
    if !rows.is_empty() {
        launch(gpu, args, &rows, more.as_ref())?;
    }
    Ok(match args.want {
        Want::Queries => Computed { rows: Some(rows), ..Default::default() },
        Want::Documents => Computed { columns: more, ..Default::default() },
        Want::Both => Computed { rows: Some(rows), columns: more, places: None },
        Want::Align => Computed { rows: Some(rows), places: more, columns: None },
    })
}

fn launch(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    found: &Tensor,
    more: Option<&Tensor>,
) -> Result<()> {
    let (queries, documents) = (args.queries, args.documents);
    let padding = args.how.padding();
    let device = documents.device();
    let mode = match args.want {
        Want::Queries => Mode::Rows,
        Want::Align => Mode::Align,
        Want::Documents | Want::Both => Mode::Both,
    };
    let row_bytes = queries.storage().width(queries.dim()) * queries.storage().dtype().size();
    let spec = MaxsimSpec {
        t: queries.storage(),
        mode,
        soft: args.how.best != Best::Max,
        copy: if row_bytes.is_multiple_of(16) { 16 } else { 4 },
        resident: row_bytes <= RESIDENT && queries.offsets().max_len() <= ROWS,
        codes: documents.codec().map_or(0, |(codec, _)| codec.bits()),
    };
    let kernel = gpu.kernel(spec)?;
    let (list, units) = units(gpu, args, mode);
    let upload = |data: &[u32]| Tensor::from_slice(device, &[data.len()], data);
    let rows: Vec<u32> = (0..queries.total())
        .flat_map(|t| [queries.inner(t, padding).to_bits(), queries.counts(t) as u32])
        .collect();
    let rows = upload(&rows)?;
    let list = list.map(|list| upload(&list)).transpose()?;
    let scale = documents.inner_on_device(padding);
    let weight = documents.weights_on_device().filter(|_| mode == Mode::Both);
    let most_passes = queries.offsets().max_len().div_ceil(ROWS).max(1);
    let state_bytes = if most_passes > 1 { most_passes * 128 * 12 } else { 0 };
    let step = STATE.checked_div(state_bytes).unwrap_or(units.len()).max(1);
    let params = MaxsimParams {
        dim: queries.dim() as u32,
        row_bytes: row_bytes as u32,
        has_list: list.is_some() as u32,
        scaled: scale.is_some() as u32,
        weighted: weight.is_some() as u32,
        most_passes: most_passes as u32,
        mean: (args.how.reduction == Reduction::Mean) as u32,
        inverse: match args.how.best {
            Best::Soft { temperature, .. } => std::f32::consts::LOG2_E / temperature,
            Best::Max => 1.0,
        },
    };
    for units in units.chunks(step) {
        let state = gpu.alloc((units.len() * state_bytes).max(4) as u64)?;
        let count = units.len();
        let units = upload(units.as_flattened())?;
        // What is absent is not read, but something must be bound.
        let mut bindings: Vec<Binding<'_>> = vec![
            queries.vectors().cuda().into(),
            documents.vectors().cuda().into(),
            documents.offsets().tensor().cuda().into(),
            list.as_ref().unwrap_or(&units).cuda().into(),
            units.cuda().into(),
            rows.cuda().into(),
            scale.unwrap_or(&units).cuda().into(),
            weight.unwrap_or(&units).cuda().into(),
            (&state).into(),
            found.cuda().into(),
            more.unwrap_or(found).cuda().into(),
        ];
        if let Some((codec, codes)) = documents.codec() {
            let tensors = [codec.centroids(), codes.centroids(), &codec.table];
            bindings.extend(tensors.map(|t| Binding::from(t.cuda())));
        }
        gpu.launch(&kernel, &bindings, &params, [count, 1, 1])?;
    }
    Ok(())
}

/// What each block does, as the kernel's header says, and the list that documents are numbered by, if any.
fn units(gpu: &CudaDevice, args: &Args<'_>, mode: Mode) -> (Option<Vec<u32>>, Vec<[u32; 12]>) {
    let queries = args.queries;
    let blocks = BLOCKS * gpu.facts.multiprocessors as usize;
    let length = |q: usize| queries.offsets().range(q).len();
    let divisor = |q: usize| {
        let counted = || queries.offsets().range(q).filter(|t| queries.counts(*t)).count();
        let n = if args.how.reduction == Reduction::Mean { counted().max(1) } else { 1 };
        (n as f32).to_bits()
    };
    // Of one query, or two that fit one pass, documents first to end; results from `at` on, `width` apart.
    let unit =
        |q: usize, second: Option<usize>, first: usize, end: usize, at: usize, width: usize| {
            let start = |q: usize| queries.offsets().bounds()[q];
            let [start1, height1, at1, divisor1] = match second {
                Some(other) => {
                    let at = (at + (other - q) * args.shape[1]) as u32;
                    [start(other), length(other) as u32, at, divisor(other)]
                }
                None => [start(q) + HALF as u32, (length(q) as i32 - HALF as i32) as u32, NONE, 0],
            };
            let passes = length(q).max(second.map_or(0, length)).div_ceil(ROWS) as u32;
            [
                start(q),
                length(q) as u32,
                start1,
                height1,
                first as u32,
                end as u32,
                at as u32,
                at1,
                passes,
                width as u32,
                divisor(q),
                divisor1,
            ]
        };
    let mut units = Vec::new();
    let (list, first) = match &args.pairs {
        Pairs::All(range) => (None, range.start),
        Pairs::Shared(list) => (Some(list.to_vec()), 0),
        Pairs::Lists(lists) => {
            let per_unit = lists.iter().map(Vec::len).sum::<usize>().div_ceil(blocks).max(1);
            let (mut place, mut at) = (0, 0);
            for (q, list) in lists.iter().enumerate() {
                let width = if mode == Mode::Align { length(q) } else { 1 };
                for start in (0..list.len()).step_by(per_unit) {
                    let end = (start + per_unit).min(list.len());
                    units.push(unit(
                        q,
                        None,
                        place + start,
                        place + end,
                        at + start * width,
                        width,
                    ));
                }
                place += list.len();
                at += list.len() * width;
            }
            return (Some(lists.concat()), units);
        }
    };
    let (count, documents) = (args.shape[0], args.shape[1]);
    let mut groups = Vec::new();
    let mut q = 0;
    while q < count {
        let short = |q: usize| length(q) <= HALF;
        let two = mode == Mode::Rows && q + 1 < count && short(q) && short(q + 1);
        groups.push((q, two.then_some(q + 1)));
        q += 1 + two as usize;
    }
    let splits = blocks.div_ceil(groups.len()).min(documents).max(1);
    let per_unit = documents.div_ceil(splits);
    // Neighbours share documents.
    for start in (0..documents).step_by(per_unit) {
        let end = (start + per_unit).min(documents);
        for &(q, second) in &groups {
            let at = q * documents + start;
            units.push(unit(q, second, first + start, first + end, at, 1));
        }
    }
    (list, units)
}
