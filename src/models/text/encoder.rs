//! The encoder that all text models share: embeddings, then post-norm layers of attention and a feed-forward net.
//!
//! Vaswani et al., arXiv:1706.03762, as Devlin et al., arXiv:1810.04805, arranged it:
//! `y = norm(x + attention(x))`, `x' = norm(y + down(f(up(y))))`. Activations are f32; matrices and tables are stored
//! as the caller chose.

#[cfg(feature = "cuda")]
use crate::device::Backend;
use crate::models::batch::pack;
use crate::models::config::{Architecture, Config};
use crate::models::tokenizer::Encoded;
use crate::models::weights::Weights;
use crate::ops::attention::{Attention, Heads, attention};
use crate::ops::embed::{EmbedNorm, Lookup, embed, gather_rows};
#[cfg(feature = "cuda")]
use crate::ops::embed::{checked_numbers, cuda::embed_rows};
use crate::ops::gemm::{Activation, Epilogue, gemm};
use crate::ops::norm::layer_norm;
use crate::{DType, Device, Error, Offsets, Result, Tensor};

#[cfg(feature = "cuda")]
use super::graphs::{Batch, Graphs};
use super::{bert, distilbert, mpnet, roberta};

pub(super) const WORDS: &str = "embeddings.word_embeddings";

/// Where a family keeps its tensors, and how it numbers positions.
pub(super) struct Layout {
    /// What its own checkpoints of larger models put before the encoder's names.
    pub(super) prefix: &'static str,
    /// Where the layers are, each behind its number.
    pub(super) layers: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) output: &'static str,
    pub(super) output_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) down_norm: &'static str,
    /// Whether token types are embedded.
    pub(super) types: bool,
    /// Appends the row of the position table of each token of one sequence.
    pub(super) positions: fn(&Config, &[u32], &mut Vec<u32>),
}

fn layout(architecture: Architecture) -> &'static Layout {
    match architecture {
        Architecture::Bert => &bert::LAYOUT,
        Architecture::Roberta => &roberta::LAYOUT,
        Architecture::DistilBert => &distilbert::LAYOUT,
        Architecture::Mpnet => &mpnet::LAYOUT,
    }
}

/// What a checkpoint is read with.
pub(crate) struct Loader<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) device: &'a Device,
    /// The dtype of matrices and tables.
    pub(crate) dtype: DType,
    /// What stands before the names of the encoder's tensors.
    pub(crate) prefix: String,
    /// What stands before the names of what is built on the encoder.
    pub(crate) root: String,
}

impl<'a> Loader<'a> {
    /// Finds where in the checkpoint the encoder is.
    pub(crate) fn new(
        weights: &'a Weights,
        config: &Config,
        device: &'a Device,
        dtype: DType,
    ) -> Result<Loader<'a>> {
        let prefix = weights.prefix(&format!("{WORDS}.weight"))?;
        let own = layout(config.architecture).prefix;
        let root = prefix.strip_suffix(own).unwrap_or(&prefix).to_string();
        Ok(Loader { weights, device, dtype, prefix, root })
    }

    fn table(&self, name: &str, rows: usize, width: usize) -> Result<Tensor> {
        let name = format!("{}{name}.weight", self.prefix);
        self.weights.tensor(self.device, self.dtype, &name, &[rows, width])
    }

    /// A linear map `[out, in]` with its bias, given by its full name.
    pub(crate) fn linear(&self, name: &str, rows: usize, columns: usize) -> Result<Linear> {
        self.linears(&[name.to_string()], rows, columns)
    }

    /// Linear maps of one input, fused into one.
    fn linears(&self, names: &[String], rows: usize, columns: usize) -> Result<Linear> {
        let named = |part: &str| -> Vec<String> {
            names.iter().map(|name| format!("{name}.{part}")).collect()
        };
        let (device, weights) = (self.device, self.weights);
        Ok(Linear {
            weight: weights.stacked(device, self.dtype, &named("weight"), &[rows, columns])?,
            bias: weights.stacked(device, DType::F32, &named("bias"), &[rows])?,
        })
    }

    fn norm(&self, name: &str, config: &Config) -> Result<Norm> {
        let name = format!("{}{name}", self.prefix);
        // The oldest checkpoints have the names TensorFlow gave.
        let old = self.weights.has(&format!("{name}.gamma"));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let vector = |part| {
            let name = format!("{name}.{part}");
            self.weights.tensor(self.device, DType::F32, &name, &[config.hidden])
        };
        Ok(Norm { weight: vector(weight)?, bias: vector(bias)?, eps: config.eps })
    }
}

/// `x Wᵀ + b`.
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(crate) fn apply(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let bias = Some(&self.bias);
        gemm(x, &self.weight, &Epilogue { bias, activation, residual, ..Epilogue::default() })
    }
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    fn apply(&self, x: Tensor) -> Result<Tensor> {
        layer_norm(&x, None, &self.weight, Some(&self.bias), self.eps)
    }
}

struct Layer {
    /// Query, key and value one below the other.
    qkv: Linear,
    output: Linear,
    output_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

/// An encoder on a device.
pub(crate) struct Encoder {
    pub(crate) config: Config,
    pub(crate) device: Device,
    words: Tensor,
    positions: Tensor,
    types: Option<Tensor>,
    norm: Norm,
    layers: Vec<Layer>,
    /// MPNet's bias by head and distance.
    bias: Option<Tensor>,
    #[cfg(feature = "cuda")]
    graphs: Graphs,
}

/// The tokens of a batch that are seen, where not all are.
struct Seen {
    /// Their rows.
    rows: Vec<u32>,
    offsets: Offsets,
}

/// The last hidden states of a batch.
pub(crate) struct Hidden {
    /// \[T, H\].
    pub(crate) states: Tensor,
    pub(crate) offsets: Offsets,
    /// Which of the sequences given are in the batch, in its order.
    pub(crate) members: Vec<usize>,
}

impl Encoder {
    pub(crate) fn load(config: Config, loader: &Loader) -> Result<Encoder> {
        let names = layout(config.architecture);
        let (hidden, inner) = (config.hidden, config.intermediate);
        let layer = |i: usize| {
            let at = |name: &str| format!("{}.{i}.{name}", names.layers);
            let full = |name: &str| format!("{}{}", loader.prefix, at(name));
            let qkv = [names.query, names.key, names.value].map(full);
            Ok(Layer {
                qkv: loader.linears(&qkv, hidden, hidden)?,
                output: loader.linear(&full(names.output), hidden, hidden)?,
                output_norm: loader.norm(&at(names.output_norm), &config)?,
                up: loader.linear(&full(names.up), inner, hidden)?,
                down: loader.linear(&full(names.down), hidden, inner)?,
                down_norm: loader.norm(&at(names.down_norm), &config)?,
            })
        };
        let types = match names.types {
            true => Some(loader.table("embeddings.token_type_embeddings", config.types, hidden)?),
            false => None,
        };
        let bias = match config.architecture {
            Architecture::Mpnet => Some(mpnet::bias(loader, &config)?),
            _ => None,
        };
        Ok(Encoder {
            words: loader.table(WORDS, config.vocab, hidden)?,
            positions: loader.table("embeddings.position_embeddings", config.positions, hidden)?,
            types,
            norm: loader.norm("embeddings.LayerNorm", &config)?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            bias,
            #[cfg(feature = "cuda")]
            graphs: Graphs::default(),
            device: loader.device.clone(),
            config,
        })
    }

    /// Runs sequences in batches of at most `budget` tokens and gives each batch to `each`.
    pub(crate) fn run(
        &self,
        sequences: &[Encoded],
        budget: usize,
        mut each: impl FnMut(Hidden) -> Result<()>,
    ) -> Result<()> {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.ids.len()).collect();
        for members in pack(&lengths, budget) {
            each(self.forward(sequences, members)?)?;
        }
        Ok(())
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
            self.run(&sequences, budget, |hidden| finish(&hidden).map(drop))?;
        }
        self.device.synchronize()
    }

    fn forward(&self, sequences: &[Encoded], members: Vec<usize>) -> Result<Hidden> {
        let names = layout(self.config.architecture);
        let (mut ids, mut types, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(members.len());
        for &i in &members {
            let sequence = &sequences[i];
            (names.positions)(&self.config, &sequence.ids, &mut positions);
            ids.extend_from_slice(&sequence.ids);
            types.extend_from_slice(&sequence.types);
            lengths.push(sequence.ids.len());
        }
        types.resize(ids.len(), 0);
        let mut lookups = vec![
            Lookup { table: &self.words, rows: &ids },
            Lookup { table: &self.positions, rows: &positions },
        ];
        if let Some(table) = &self.types {
            lookups.push(Lookup { table, rows: &types });
        }
        let seen = self.seen(sequences, &members)?;
        let Norm { weight, bias, eps } = &self.norm;
        let norm = EmbedNorm { weight, bias, eps: *eps };
        #[cfg(feature = "cuda")]
        if let Backend::Cuda(gpu) = self.device.backend()
            && gpu.graphs
            && seen.is_none()
            && !ids.is_empty()
        {
            let numbers = &checked_numbers(&lookups, norm)?;
            let tables: Vec<&Tensor> = lookups.iter().map(|l| l.table).collect();
            let width = self.config.hidden;
            let batch = Batch { device: &self.device, lengths: &lengths, numbers, width };
            let work = |rows: &Tensor, offsets: &Offsets| {
                self.layers(embed_rows(gpu, &tables, rows, norm)?, offsets, None)
            };
            if let Some((states, offsets)) = self.graphs.run(gpu, &batch, work)? {
                return Ok(Hidden { states, offsets, members });
            }
        }
        let offsets = Offsets::from_lengths(&self.device, &lengths)?;
        let states = self.layers(embed(&lookups, Some(norm))?, &offsets, seen.as_ref())?;
        Ok(Hidden { states, offsets, members })
    }

    /// The seen tokens of a batch, or nothing where all are seen.
    fn seen(&self, sequences: &[Encoded], members: &[usize]) -> Result<Option<Seen>> {
        let batch = || members.iter().map(|&i| &sequences[i]);
        if batch().all(|s| s.seen == s.ids.len()) {
            return Ok(None);
        }
        let lengths: Vec<usize> = batch().map(|s| s.seen).collect();
        let (mut rows, mut start) = (Vec::with_capacity(lengths.iter().sum()), 0);
        for sequence in batch() {
            rows.extend(start..start + sequence.seen as u32);
            start += sequence.ids.len() as u32;
        }
        Ok(Some(Seen { rows, offsets: Offsets::from_lengths(&self.device, &lengths)? }))
    }

    fn layers(&self, embedded: Tensor, offsets: &Offsets, seen: Option<&Seen>) -> Result<Tensor> {
        self.layers.iter().try_fold(embedded, |x, layer| self.layer(layer, x, offsets, seen))
    }

    /// One layer. Each activation is given back as soon as it has been read, as the documented workspace says.
    fn layer(
        &self,
        layer: &Layer,
        x: Tensor,
        offsets: &Offsets,
        seen: Option<&Seen>,
    ) -> Result<Tensor> {
        let Config { hidden, heads, activation, .. } = self.config;
        let dim = hidden / heads;
        let how = Attention { bias: self.bias.as_ref(), ..Attention::new(heads, dim) };
        let qkv = layer.qkv.apply(&x, Activation::None, None)?;
        let gathered = seen.map(|s| gather_rows(&qkv, &s.rows)).transpose()?;
        let keys = gathered.as_ref().unwrap_or(&qkv);
        let part = |tensor, i| Heads { tensor, start: i * hidden };
        let among = seen.map_or(offsets, |s| &s.offsets);
        let context = attention(part(&qkv, 0), part(keys, 1), part(keys, 2), offsets, among, &how)?;
        drop((qkv, gathered));
        let y = layer.output.apply(&context, Activation::None, Some(&x))?;
        drop((context, x));
        let y = layer.output_norm.apply(y)?;
        let inner = layer.up.apply(&y, activation, None)?;
        let z = layer.down.apply(&inner, Activation::None, Some(&y))?;
        drop((inner, y));
        layer.down_norm.apply(z)
    }
}
