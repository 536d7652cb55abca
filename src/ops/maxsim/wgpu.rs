//! Late interaction through `shaders/maxsim.wgsl`: a workgroup a query and a range of its documents.
//!
//! What is compared is laid out on the host: units of work, the query tokens' scales, and for each document where its tokens
//! are and where its score goes. Where vectors exceed one binding, launches follow windows of whole items.

use std::ops::Range;
use std::sync::Arc;

use super::{Args, Best, Computed, Pairs, Reduction, Storage, Tokens, Want};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::ops::residual::Codec;
use crate::ops::residual::wgpu::check_centroids;
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

/// Workgroups to aim for: enough for the largest GPUs.
const UNITS: usize = 1024;
/// Query tokens that a workgroup takes at a time.
const ROWS: usize = 32;
/// Rounds of loops that a workgroup with several documents should not exceed.
const ROUNDS: usize = 32_768;
/// Bytes of the rows' state, and of the tables.
const SCRATCH: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Stored {
    F32,
    F16,
    F16P,
    BF16,
    Int8,
    Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Rows,
    Both,
    Align,
}

kernel! {
    pub(crate) FAMILY = "shaders/maxsim.wgsl";

    spec MaxsimSpec {
        t: Stored = [Stored::F32, Stored::F16, Stored::F16P, Stored::BF16, Stored::Int8, Stored::Binary],
        mode: Mode = [Mode::Rows, Mode::Both, Mode::Align],
        soft: bool,
        scaled: bool,
        weighted: bool,
        /// Bits a dimension of compressed documents, or 0.
        codes: u32 = [0, 1, 2, 4],
        /// Whether subgroups search rows and add: those of at least four threads, who share a row.
        subgroups: bool,
    }
    where (!soft || mode != Mode::Align)
        && (!weighted || mode == Mode::Both && scaled)
        && (codes == 0 || !scaled && ![Stored::Int8, Stored::Binary].contains(&t));

    params MaxsimParams {
        dim: u32,
        units: u32,
        // Where rows and entries start in `tables`.
        rows_at: u32,
        entries_at: u32,
        // Rows of a unit's state.
        state_rows: u32,
        // From one query to the next in `found`.
        stride: u32,
        mean: u32,
        // 1 / t.
        inverse: f32,
        // Whether masked tokens take part in the search for a best, with CODES.
        padding: u32,
    }
}

/// Consecutive items whose vectors one binding holds, and the token at which it starts.
struct Window {
    items: Range<usize>,
    base: usize,
}

/// The most scores that one call can give: they are one binding.
pub(super) fn most_scores(gpu: &WgpuDevice) -> usize {
    gpu.facts.max_binding as usize / size_of::<f32>()
}

pub(super) fn maxsim(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Computed> {
    let device = args.documents.device();
    let size: usize = args.shape.iter().product();
    if size > most_scores(gpu) {
        return Err(Error::Unsupported {
            what: format!("{size} scores in one binding of {} bytes", gpu.facts.max_binding),
            device: device.name(),
        });
    }
    let output = || Tensor::wgpu_uninit(device, DType::F32, &args.shape);
    let rows = output()?;
    let more = match args.want {
        Want::Queries => None,
        Want::Align => Some(Tensor::wgpu_uninit(device, DType::U32, &args.shape)?),
        _ => Some(output()?),
    };
    if let Some((codec, _)) = args.documents.codec() {
        check_centroids(gpu, codec)?;
    }
    if size > 0 {
        let documents = windows(gpu, args.documents)?;
        for queries in windows(gpu, args.queries)? {
            for documents in &documents {
                Pass::new(gpu, args, &queries, documents)?.run(&rows, more.as_ref())?;
            }
        }
    }
    Ok(match args.want {
        Want::Queries => Computed { rows: Some(rows), ..Default::default() },
        Want::Documents => Computed { columns: more, ..Default::default() },
        Want::Both => Computed { rows: Some(rows), columns: more, places: None },
        Want::Align => Computed { rows: Some(rows), places: more, columns: None },
    })
}

/// Windows of whole items. A window's first token is one at which vectors and scales are aligned.
fn windows(gpu: &WgpuDevice, tokens: &Tokens) -> Result<Vec<Window>> {
    let row = tokens.vectors().bytes() / tokens.total().max(1);
    let row = row.max(size_of::<f32>());
    // A power of two tokens; twice that many are aligned whatever the width.
    let align = gpu.facts.offset_alignment as usize;
    let fit = gpu.facts.max_binding as usize / row;
    if tokens.total() <= fit {
        return Ok(vec![Window { items: 0..tokens.len(), base: 0 }]);
    }
    let mut windows: Vec<Window> = Vec::new();
    for item in 0..tokens.len() {
        let range = tokens.offsets().range(item);
        if let Some(last) = windows.last_mut()
            && range.end <= last.base + fit
        {
            last.items.end = item + 1;
            continue;
        }
        let base = range.start / align * align;
        if range.end > base + fit {
            let what = format!("an item of {} tokens of {row} bytes in one binding", range.len());
            return Err(Error::Unsupported { what, device: tokens.device().name() });
        }
        windows.push(Window { items: item..item + 1, base });
    }
    Ok(windows)
}

/// Some queries and some documents.
struct Pass<'a> {
    gpu: &'a Arc<WgpuDevice>,
    args: &'a Args<'a>,
    queries: &'a Window,
    documents: &'a Window,
    spec: MaxsimSpec,
    scale: Option<Tensor>,
    weight: Option<Tensor>,
}

impl<'a> Pass<'a> {
    fn new(
        gpu: &'a Arc<WgpuDevice>,
        args: &'a Args<'a>,
        queries: &'a Window,
        documents: &'a Window,
    ) -> Result<Self> {
        let tokens = args.documents;
        let mode = match args.want {
            Want::Queries => Mode::Rows,
            Want::Align => Mode::Align,
            Want::Documents | Want::Both => Mode::Both,
        };
        // Compressed documents bring marks with their centroids' numbers.
        let codes = tokens.codec().map_or(0, |(codec, _)| codec.bits());
        let weight =
            tokens.weights_on_device().filter(|_| mode == Mode::Both && codes == 0).cloned();
        let scale = match tokens.inner_on_device(args.how.padding()) {
            // Weights come with scales.
            None if weight.is_some() => {
                let ones = vec![1f32; tokens.total()];
                Some(Tensor::from_slice(tokens.device(), &[ones.len()], &ones)?)
            }
            scale => scale.filter(|_| codes == 0).cloned(),
        };
        let spec = MaxsimSpec {
            t: match args.queries.storage() {
                Storage::F32 => Stored::F32,
                Storage::F16 if gpu.facts.f16 => Stored::F16,
                Storage::F16 => Stored::F16P,
                Storage::BF16 => Stored::BF16,
                Storage::Int8 => Stored::Int8,
                Storage::Binary => Stored::Binary,
            },
            mode,
            soft: args.how.best != Best::Max,
            scaled: scale.is_some(),
            weighted: weight.is_some(),
            codes,
            subgroups: gpu.facts.subgroups.is_some_and(|(least, _)| least >= 4),
        };
        Ok(Pass { gpu, args, queries, documents, spec, scale, weight })
    }

    /// For each query of the window its number and the documents of the window that it meets, with where their results go;
    /// queries with the same documents share them.
    fn meetings(&self) -> Vec<(Range<usize>, Vec<[u32; 4]>)> {
        let (args, here) = (self.args, &self.documents.items);
        let entry = |document: usize, at: usize| {
            let range = args.documents.offsets().range(document);
            [
                (range.start - self.documents.base.min(range.start)) as u32,
                range.len() as u32,
                at as u32,
                0,
            ]
        };
        match &args.pairs {
            Pairs::All(range) => {
                let both = range.start.max(here.start)..range.end.min(here.end);
                let entries = both.map(|d| entry(d, d - range.start)).collect();
                vec![(self.queries.items.clone(), entries)]
            }
            Pairs::Shared(list) => {
                let list = list.iter().enumerate().filter(|(_, d)| here.contains(&(**d as usize)));
                let entries = list.map(|(i, d)| entry(*d as usize, i)).collect();
                vec![(self.queries.items.clone(), entries)]
            }
            Pairs::Lists(lists) => {
                let each = |q: usize| match args.want {
                    Want::Align => args.queries.offsets().range(q).len(),
                    _ => 1,
                };
                let mut at = 0;
                let mut meetings = Vec::new();
                for (q, list) in lists.iter().enumerate() {
                    if self.queries.items.contains(&q) {
                        let list = list.iter().enumerate();
                        let list = list.filter(|(_, d)| here.contains(&(**d as usize)));
                        let entries = list.map(|(i, d)| entry(*d as usize, at + i * each(q)));
                        meetings.push((q..q + 1, entries.collect()));
                    }
                    at += list.len() * each(q);
                }
                meetings
            }
        }
    }

    fn run(&self, found: &Tensor, more: Option<&Tensor>) -> Result<()> {
        let (gpu, args, tokens) = (self.gpu, self.args, self.args.queries);
        let padding = args.how.padding();
        let longest =
            self.queries.items.clone().map(|q| tokens.offsets().range(q).len()).max().unwrap_or(0);
        let state_rows = longest.next_multiple_of(ROWS).max(ROWS);
        let scratch = gpu.facts.max_binding.min(SCRATCH) as usize;
        let most_units = (scratch / (3 * size_of::<u32>() * state_rows)).clamp(1, 64 * UNITS);
        let window = self.queries.base..tokens.offsets().bounds()[self.queries.items.end] as usize;
        let codec = args.documents.codec().map(|(codec, _)| codec);
        let weights = codec.map_or_else(Vec::new, Codec::fields);
        let rows =
            window.flat_map(|t| [tokens.inner(t, padding).to_bits(), tokens.counts(t) as u32]);
        let rows: Vec<u32> = weights.iter().map(|w| w.to_bits()).chain(rows).collect();
        let meetings = self.meetings();
        let pairs: usize = meetings.iter().map(|(queries, e)| queries.len() * e.len()).sum();
        // Mesa's software driver ends the loops of an invocation after 65,535 rounds, all together.
        let tokens_most = args.documents.offsets().max_len();
        let rounds = tokens_most.div_ceil(64) * longest.div_ceil(ROWS) * (tokens.dim() / 16 + 16);
        let per_unit = pairs.div_ceil(UNITS).min(ROUNDS / rounds.max(1)).max(1);
        let most_words = scratch / size_of::<u32>();
        let mut launch = Launch { units: Vec::new(), entries: Vec::new() };
        let flush = |launch: &mut Launch| -> Result<()> {
            let Launch { units, entries } = std::mem::take(launch);
            if units.is_empty() {
                return Ok(());
            }
            let (start, count) = (units.len() * 8, units.len());
            let params = MaxsimParams {
                dim: tokens.dim() as u32,
                units: count as u32,
                rows_at: (start + weights.len()) as u32,
                entries_at: (start + rows.len()) as u32,
                state_rows: state_rows as u32,
                stride: if args.shape.len() == 2 { args.shape[1] as u32 } else { 0 },
                mean: (args.how.reduction == Reduction::Mean) as u32,
                inverse: match args.how.best {
                    Best::Soft { temperature, .. } => 1.0 / temperature,
                    Best::Max => 1.0,
                },
                padding: padding as u32,
            };
            let tables = [units.as_flattened(), &rows, entries.as_flattened()].concat();
            let tables = Tensor::from_slice(tokens.device(), &[tables.len()], &tables)?;
            let state = gpu.alloc((count * state_rows * 3 * size_of::<u32>()) as u64)?;
            let mut bindings = vec![
                self.binding(tokens.vectors(), self.queries, tokens),
                self.binding(args.documents.vectors(), self.documents, args.documents),
                tables.wgpu().into(),
                (&state).into(),
                found.wgpu().into(),
            ];
            bindings.extend(more.map(|t| Binding::from(t.wgpu())));
            let columns = [&self.scale, &self.weight].into_iter().flatten();
            bindings.extend(columns.map(|t| self.binding(t, self.documents, args.documents)));
            if let (Some(codec), Some(marked)) = (codec, args.documents.marked_centroids()) {
                bindings.push(codec.centroids().wgpu().into());
                bindings.push(self.binding(marked, self.documents, args.documents));
            }
            gpu.launch(&gpu.kernel(self.spec)?, &bindings, &params, spread(count))
        };
        for (queries, entries) in meetings {
            // A table holds a share of the documents and as many units as there is room for.
            let share = (most_words.saturating_sub(rows.len()) / 8).max(1);
            for entries in entries.chunks(share) {
                let mut first = launch.entries.len();
                let words = rows.len() + 4 * (first + entries.len()) + 8 * launch.units.len();
                if words > most_words {
                    flush(&mut launch)?;
                    first = 0;
                }
                launch.entries.extend(entries);
                let end = launch.entries.len();
                for q in queries.clone() {
                    let range = tokens.offsets().range(q);
                    for start in (first..end).step_by(per_unit) {
                        if launch.units.len() >= most_units {
                            let kept = launch.entries.clone();
                            flush(&mut launch)?;
                            launch.entries = kept;
                        }
                        launch.units.push([
                            (range.start - self.queries.base) as u32,
                            range.len() as u32,
                            start as u32,
                            (start + per_unit).min(end) as u32,
                            if args.shape.len() == 2 { q as u32 } else { 0 },
                            0,
                            0,
                            0,
                        ]);
                    }
                }
            }
        }
        flush(&mut launch)
    }

    /// The binding of a window's part of a tensor with a row a token.
    fn binding<'t>(&self, tensor: &'t Tensor, window: &Window, tokens: &Tokens) -> Binding<'t> {
        let row = tensor.bytes() / tokens.total().max(1);
        let end = tokens.offsets().bounds()[window.items.end] as usize;
        Binding {
            buffer: tensor.wgpu(),
            offset: (window.base * row) as u64,
            // Something must be bound where there are no tokens.
            bytes: (((end - window.base) * row) as u64).max(16),
        }
    }
}

/// What one launch works through.
#[derive(Default)]
struct Launch {
    units: Vec<[u32; 8]>,
    entries: Vec<[u32; 4]>,
}
