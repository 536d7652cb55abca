//! The encoder that all text models share: embeddings, then layers.

use crate::models::adapters::Adapters;
use crate::models::batch::{chunks, pack};
use crate::models::config::TextConfig;
use crate::models::inspect::{Inspect, Inspection};
use crate::models::layers::{Context, Loader, Norm, Pass, Seen, Stack};
use crate::models::tokenizer::Encoded;
use crate::models::weights::Weights;
use crate::ops::embed::{
    EmbedNorm, Lookup, MISSING, embed, embed_rows, row_numbers, scatter_rows, select_rows, sum,
};
use crate::ops::replay::{self, Batch, Replays};
use crate::{DType, Device, Error, Offsets, Result, Tensor};

use super::family::Layout;

impl<'a> Loader<'a> {
    /// Finds where in the checkpoint the encoder is.
    pub(crate) fn new(
        weights: &'a Weights,
        config: &TextConfig,
        device: &'a Device,
        dtype: DType,
    ) -> Result<Loader<'a>> {
        let layout = config.layout();
        let prefix = weights.prefix(layout.words)?;
        let root = prefix.strip_suffix(layout.prefix).unwrap_or(&prefix).to_string();
        Ok(Loader { weights, device, dtype, prefix, root })
    }
}

/// The norm of the embeddings' sum. The kernel that adds them up wants a bias, be it zeros.
pub(crate) struct InputNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl InputNorm {
    pub(crate) fn of(norm: Norm, device: &Device) -> Result<InputNorm> {
        let bias = match norm.bias {
            Some(bias) => bias,
            None => Tensor::zeros(device, DType::F32, norm.weight.shape())?,
        };
        Ok(InputNorm { weight: norm.weight, bias, eps: norm.eps })
    }

    pub(crate) fn args(&self) -> EmbedNorm<'_> {
        EmbedNorm { weight: &self.weight, bias: &self.bias, eps: self.eps }
    }
}

/// An encoder on a device.
pub(crate) struct Encoder {
    pub(crate) config: TextConfig,
    pub(crate) device: Device,
    layout: &'static Layout,
    words: Tensor,
    positions: Option<Tensor>,
    types: Option<Tensor>,
    norm: Option<InputNorm>,
    stack: Stack,
    last_norm: Option<Norm>,
    replays: Replays,
}

/// The last hidden states of a batch.
pub(crate) struct Hidden {
    /// \[T, H\].
    pub(crate) states: Tensor,
    pub(crate) offsets: Offsets,
    /// The token of each row.
    pub(crate) ids: Vec<u32>,
    /// Which of the sequences given are in the batch, in its order.
    pub(crate) members: Vec<usize>,
}

/// What a batch's embeddings are looked up by.
struct Input {
    ids: Vec<u32>,
    types: Vec<u32>,
    positions: Vec<u32>,
    lengths: Vec<usize>,
    /// The word embeddings, where some are given, and the numbers of all its rows.
    softened: Option<Tensor>,
    all: Vec<u32>,
    language: usize,
}

impl Encoder {
    pub(crate) fn load(config: TextConfig, loader: &Loader<'_>) -> Result<Encoder> {
        let (layout, parts) = (config.layout(), &config.parts);
        let shape = &parts.shape;
        let hidden = shape.hidden;
        let table = |name: Option<&str>, rows| {
            name.map(|name| loader.table(name, rows, hidden)).transpose()
        };
        let norm = |name: Option<&str>| {
            let full = name.map(|name| format!("{}{name}", loader.prefix));
            full.map(|name| loader.norm(&name, shape.norm, hidden, shape.eps)).transpose()
        };
        let mut stack = Stack::load(loader, shape.clone(), &layout.names)?;
        stack.bias = parts.bias.as_ref().map(|load| load(loader)).transpose()?;
        if let Some(languages) = &parts.languages {
            let of = |i: usize| {
                let at = format!("{}{}.{i}.output", loader.prefix, layout.names.layers);
                Adapters::load(loader, &at, languages, hidden, shape.eps)
            };
            stack.adapt((0..shape.layers).map(of).collect::<Result<_>>()?);
        }
        let device = loader.device;
        Ok(Encoder {
            words: loader.table(layout.words, parts.vocab, hidden)?,
            positions: table(layout.positions, parts.positions)?,
            types: table(layout.types, parts.types)?,
            norm: norm(layout.norm)?.map(|norm| InputNorm::of(norm, device)).transpose()?,
            last_norm: norm(layout.last_norm)?,
            stack,
            layout,
            replays: Replays::default(),
            device: device.clone(),
            config,
        })
    }

    /// Columns of a hidden state.
    pub(crate) fn hidden(&self) -> usize {
        self.stack.shape.hidden
    }

    /// Runs sequences of these lengths through the model and `finish` as often as it takes until nothing is compiled or
    /// recorded any more, and waits.
    pub(crate) fn warm_up(
        &self,
        lengths: &[usize],
        limit: usize,
        budget: usize,
        finish: impl Fn(&Hidden) -> Result<Tensor>,
    ) -> Result<()> {
        if let Some(length) = lengths.iter().find(|&&n| n == 0 || n > limit) {
            let expected = format!("1 to {limit} tokens a text");
            return Err(Error::argument("lengths", expected, length.to_string()));
        }
        let sequence = |&n: &usize| Encoded::new(vec![0; n], vec![0; n]);
        let sequences: Vec<Encoded> = lengths.iter().map(sequence).collect();
        // The first pass compiles the kernels, the second is recorded where the device has graphs.
        for _ in 0..2 {
            for chunk in chunks(lengths, &self.device, budget) {
                for members in pack(&sequences[chunk.clone()], budget) {
                    finish(&self.forward(&sequences[chunk.clone()], members, None)?)?;
                }
            }
        }
        self.device.synchronize()
    }

    /// The last hidden states of some of the sequences, which may attend to another encoder's.
    pub(crate) fn forward(
        &self,
        sequences: &[Encoded],
        members: Vec<usize>,
        context: Option<Context<'_>>,
    ) -> Result<Hidden> {
        let input = self.input(sequences, &members)?;
        let lookups = self.lookups(&input);
        let seen = self.seen(sequences, &members)?;
        let norm = self.norm.as_ref().map(InputNorm::args);
        let tables: Vec<&Tensor> = lookups.iter().map(|l| l.table).collect();
        let numbers = row_numbers(&lookups, norm)?;
        let batch = Batch {
            device: &self.device,
            lengths: &input.lengths,
            input: replay::Input::Numbers { values: &numbers, columns: tables.len() },
            width: self.hidden(),
        };
        let language = input.language;
        let work = |rows: Tensor, offsets: &Offsets| {
            let pass = Pass { offsets, seen: seen.as_ref(), language, context };
            let embedded = embed_rows(&tables, &rows, norm)?;
            drop(rows);
            self.layers(embedded, pass)
        };
        let depends_on_more =
            seen.is_some() || language > 0 || context.is_some() || input.softened.is_some();
        let (states, offsets) = match depends_on_more {
            true => batch.run(work)?,
            false => self.replays.run(batch, work)?,
        };
        Ok(Hidden { states, offsets, ids: input.ids, members })
    }

    /// What is asked for of the forward pass of sequences all of whose tokens are seen.
    pub(crate) fn inspect(
        &self,
        sequences: &[Encoded],
        budget: usize,
        what: Inspect<'_>,
    ) -> Result<Inspection> {
        let lengths = sequences.iter().map(|s| s.ids.len());
        let mut found = Inspection::new(&self.stack, what, lengths)?;
        for members in pack(sequences, budget) {
            let input = self.input(sequences, &members)?;
            let x = embed(&self.lookups(&input), self.norm.as_ref().map(InputNorm::args))?;
            let offsets = Offsets::from_lengths(&self.device, &input.lengths)?;
            let pass = Pass { language: input.language, ..Pass::new(&offsets) };
            found.fill(&self.stack, what, x, pass, &members, |x| self.normed(x.clone()))?;
        }
        Ok(found)
    }

    /// What the embeddings of some of the sequences are looked up by.
    fn input(&self, sequences: &[Encoded], members: &[usize]) -> Result<Input> {
        let (mut ids, mut types, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(members.len());
        for &i in members {
            let sequence = &sequences[i];
            (self.layout.number)(&self.config.parts, &sequence.ids, &mut positions);
            ids.extend_from_slice(&sequence.ids);
            types.extend_from_slice(&sequence.types);
            lengths.push(sequence.ids.len());
        }
        types.resize(ids.len(), 0);
        let softened = self.soften(sequences, members, &ids)?;
        let language = members.first().map_or(0, |&i| sequences[i].language);
        let all = (0..softened.as_ref().map_or(0, |_| ids.len() as u32)).collect();
        Ok(Input { ids, types, positions, lengths, softened, all, language })
    }

    fn lookups<'a>(&'a self, input: &'a Input) -> Vec<Lookup<'a>> {
        let words = match &input.softened {
            Some(words) => Lookup { table: words, rows: &input.all },
            None => Lookup { table: &self.words, rows: &input.ids },
        };
        let positions = self.positions.iter().map(|table| Lookup { table, rows: &input.positions });
        let types = self.types.iter().map(|table| Lookup { table, rows: &input.types });
        std::iter::once(words).chain(positions).chain(types).collect()
    }

    fn layers(&self, embedded: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.normed(self.stack.forward(embedded, pass)?)
    }

    fn normed(&self, states: Tensor) -> Result<Tensor> {
        match &self.last_norm {
            Some(norm) => norm.apply(&states),
            None => Ok(states),
        }
    }

    /// The word embeddings of a batch where some are given instead of looked up: \[T, H\]; nothing where none is.
    fn soften(
        &self,
        sequences: &[Encoded],
        members: &[usize],
        ids: &[u32],
    ) -> Result<Option<Tensor>> {
        let (mut rows, mut values, mut start) = (Vec::new(), Vec::new(), 0);
        for &i in members {
            let (places, vectors) = &sequences[i].soft;
            rows.extend(places.iter().map(|place| start + place));
            values.extend_from_slice(vectors);
            start += sequences[i].ids.len() as u32;
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let mut kept = ids.to_vec();
        rows.iter().for_each(|&row| kept[row as usize] = MISSING);
        let words = select_rows(&self.words, &kept)?;
        let given = Tensor::from_slice(&self.device, &[rows.len(), self.hidden()], &values)?;
        let given = scatter_rows(&given, &rows, ids.len())?;
        sum(&words, &given).map(Some)
    }

    /// The seen tokens of a batch, or nothing where all are seen.
    fn seen(&self, sequences: &[Encoded], members: &[usize]) -> Result<Option<Seen>> {
        let batch = || members.iter().map(|&i| &sequences[i]);
        if batch().all(|s| s.seen == s.ids.len() && s.hidden.is_empty()) {
            return Ok(None);
        }
        let causal = self.stack.shape.causal;
        let (mut rows, mut lengths, mut by, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for sequence in batch() {
            let (length, seen) = (sequence.ids.len(), sequence.seen);
            // A causal mask lets a token see what is before it; what it does not fit is a query by itself.
            let behind = match sequence.hidden.is_empty() {
                true if causal => length - seen,
                true => 0,
                false => length,
            };
            let first = if causal { length - behind } else { seen };
            if behind < length {
                rows.extend(start..start + first as u32);
                lengths.push(first);
                by.push(length - behind);
            }
            for i in length - behind..length {
                let some = (0..seen.min(i + 1) as u32).filter(|row| !sequence.hidden.contains(row));
                let from = rows.len();
                rows.extend(some.map(|row| start + row));
                lengths.push(rows.len() - from);
                by.push(1);
            }
            start += length as u32;
        }
        let by = causal.then(|| Offsets::from_lengths(&self.device, &by)).transpose()?;
        Ok(Some(Seen { rows, offsets: Offsets::from_lengths(&self.device, &lengths)?, by }))
    }
}
