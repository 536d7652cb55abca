//! Transformer layers as all encoders share them: attention and a feed-forward net, each beside a residual.
//!
//! Vaswani et al., arXiv:1706.03762. With the norms behind the halves, as Devlin et al., arXiv:1810.04805, have them:
//! `y = norm(x + attention(x))`, `z = norm(y + ffn(y))`; with the norms before, as Xiong et al., arXiv:2002.04745:
//! `y = x + attention(norm x)`, `z = y + ffn(norm y)`. Activations are f32; matrices are stored as the caller chose.

use super::adapters::Adapters;
use super::weights::Weights;
use crate::ops::attention::{Attention, Heads, attention, attention_of_halves, mean_weights};
use crate::ops::embed::gather_rows;
use crate::ops::gemm::{Activation, Epilogue, Packed, gemm_to};
use crate::ops::glu::glu;
use crate::ops::norm::{self, layer_norm, rms_norm};
use crate::ops::rope::{QkNorm, Rotary, rope};
use crate::{DType, Device, Error, Offsets, Result, Tensor};

/// Vectors are divided by at least this where they are brought to length 1, as torch's `normalize` does.
pub(crate) const NORM_EPS: f32 = 1e-12;

/// Which norm a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    Layer,
    LayerWithoutBias,
    Rms,
}

/// Which linear maps of a layer have a bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Biases {
    pub(crate) qkv: bool,
    pub(crate) output: bool,
    pub(crate) ffn: bool,
}

/// What the queries of a layer see, and how they know where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sight {
    /// How far away a key may be.
    pub(crate) window: Option<usize>,
    /// The base of rotary positions.
    pub(crate) theta: Option<f64>,
}

/// What a stack of layers computes, whatever its weights.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Heads of keys and values: fewer than `heads` where groups of query heads share one.
    pub(crate) kv_heads: usize,
    /// Columns of a head.
    pub(crate) dim: usize,
    /// Columns between the two maps of the feed-forward net.
    pub(crate) inner: usize,
    pub(crate) activation: Activation,
    /// Whether the activation gates a second map.
    pub(crate) gated: bool,
    pub(crate) norm: NormKind,
    pub(crate) eps: f32,
    /// Whether norms stand before the halves of a layer.
    pub(crate) pre: bool,
    pub(crate) causal: bool,
    pub(crate) biases: Biases,
    /// Whether each head's query and key are normalised (RMS) before they are rotated.
    pub(crate) qk_norm: bool,
    /// One a layer, or none where every layer sees everything and has no rotary positions.
    pub(crate) sights: Vec<Sight>,
    /// Rotary positions that there are; the longest sequence.
    pub(crate) positions: usize,
    /// Columns of the other encoder's states, where layers attend to such.
    pub(crate) context: usize,
}

impl Shape {
    fn sight(&self, layer: usize) -> Sight {
        self.sights.get(layer).copied().unwrap_or_default()
    }

    /// The part of attention that all layers have.
    fn attention(&self) -> Attention<'static> {
        Attention {
            kv_heads: self.kv_heads,
            causal: self.causal,
            ..Attention::new(self.heads, self.dim)
        }
    }
}

/// What a family calls the tensors of a layer. Names that end in `_` are followed by `weight` and `bias` at once, others by
/// a dot before.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    /// Where the layers are, each behind its number.
    pub(crate) layers: &'static str,
    /// Query, key and value; one name where they are stored as one.
    pub(crate) qkv: &'static [&'static str],
    pub(crate) output: &'static str,
    /// The norms of attention and of the feed-forward net.
    pub(crate) norms: [&'static str; 2],
    /// The first map; with a gate, the map that is activated and then the other, or one name where they are stored as one.
    pub(crate) up: &'static [&'static str],
    pub(crate) down: &'static str,
    /// LayerScale (Touvron et al., arXiv:2103.17239) of both halves.
    pub(crate) scales: Option<[&'static str; 2]>,
    /// Whether the first layer has no norm before its attention.
    pub(crate) first_is_bare: bool,
    /// Attention to what another encoder gave, where layers have it.
    pub(crate) cross: Option<CrossNames>,
}

/// Where a layer keeps its attention to another encoder's states.
#[derive(Clone, Copy)]
pub(crate) struct CrossNames {
    pub(crate) qkv: [&'static str; 3],
    pub(crate) output: &'static str,
    pub(crate) norm: &'static str,
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

/// The full name of a part of what `name` stands for.
fn part(name: &str, part: &str) -> String {
    let dot = if name.ends_with('_') { "" } else { "." };
    format!("{name}{dot}{part}")
}

impl Loader<'_> {
    /// A table \[rows, width\] by its name behind the prefix.
    pub(crate) fn table(&self, name: &str, rows: usize, width: usize) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        self.weights.tensor(self.device, self.dtype, &name, &[rows, width])
    }

    /// A linear map `[rows, columns]`, given by its full name.
    pub(crate) fn linear(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        bias: bool,
    ) -> Result<Linear> {
        self.linears(&[(name.to_string(), rows)], columns, bias)
    }

    /// Linear maps of one input, fused into one: full names and rows.
    fn linears(&self, names: &[(String, usize)], columns: usize, bias: bool) -> Result<Linear> {
        let parts = |of: &str| -> Vec<(String, usize)> {
            names.iter().map(|(name, rows)| (part(name, of), *rows)).collect()
        };
        let (device, weights) = (self.device, self.weights);
        let weight = weights.stacked(device, self.dtype, &parts("weight"), &[columns])?;
        let bias = match bias {
            true => Some(weights.stacked(device, DType::F32, &parts("bias"), &[])?),
            false => None,
        };
        Linear::new(&weight, bias)
    }

    /// A linear map whose result is multiplied by a number for each column: they go into the map.
    fn scaled(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        bias: bool,
        scale: &str,
    ) -> Result<Linear> {
        let weights = self.weights;
        let scale = weights.floats(scale, &[rows])?;
        let mut matrix = weights.floats(&part(name, "weight"), &[rows, columns])?;
        for (row, scale) in matrix.chunks_exact_mut(columns).zip(&scale) {
            row.iter_mut().for_each(|w| *w *= scale);
        }
        let bias = match bias {
            true => {
                let mut values = weights.floats(&part(name, "bias"), &[rows])?;
                values.iter_mut().zip(&scale).for_each(|(b, scale)| *b *= scale);
                Some(Tensor::from_slice(self.device, &[rows], &values)?)
            }
            false => None,
        };
        let weight = Tensor::from_f32(self.device, self.dtype, &[rows, columns], &matrix)?;
        Linear::new(&weight, bias)
    }

    /// A norm of `width` columns, given by its full name.
    pub(crate) fn norm(&self, name: &str, kind: NormKind, width: usize, eps: f32) -> Result<Norm> {
        // The oldest checkpoints have the names TensorFlow gave.
        let old = self.weights.has(&format!("{name}.gamma"));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let vector = |part| {
            let name = format!("{name}.{part}");
            self.weights.tensor(self.device, DType::F32, &name, &[width])
        };
        let bias = match kind {
            NormKind::Layer => Some(vector(bias)?),
            NormKind::LayerWithoutBias | NormKind::Rms => None,
        };
        Ok(Norm { rms: kind == NormKind::Rms, weight: vector(weight)?, bias, eps })
    }
}

/// `x Wᵀ + b`.
pub(crate) struct Linear {
    pub(crate) weight: Packed,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Linear> {
        Ok(Linear { weight: Packed::new(weight)?, bias })
    }

    pub(crate) fn apply(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.apply_to(x, activation, residual, DType::F32)
    }

    /// The result rounded to `out`.
    fn apply_to(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
        out: DType,
    ) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        let epilogue = Epilogue { bias, activation, residual, ..Epilogue::default() };
        gemm_to(x, (&self.weight).into(), &epilogue, out)
    }
}

/// Hidden states, \[T, H\] f32, and where the device's products round what they take, the same as they take it.
struct Hidden {
    full: Tensor,
    half: Option<Tensor>,
}

impl Hidden {
    /// What products take.
    fn operand(&self) -> &Tensor {
        self.half.as_ref().unwrap_or(&self.full)
    }
}

impl From<Tensor> for Hidden {
    fn from(full: Tensor) -> Self {
        Hidden { full, half: None }
    }
}

/// A norm of rows.
pub(crate) struct Norm {
    rms: bool,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) eps: f32,
}

impl Norm {
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match self.rms {
            true => rms_norm(x, None, &self.weight, self.eps),
            false => layer_norm(x, None, &self.weight, self.bias.as_ref(), self.eps),
        }
    }

    /// The result as bf16, and before it as f32 where `full`.
    fn halved(&self, x: &Tensor, full: bool) -> Result<(Option<Tensor>, Tensor)> {
        norm::halved(x, (self.rms, &self.weight, self.bias.as_ref(), self.eps), full)
    }

    /// The norm whose result is multiplied by a number.
    pub(crate) fn times(self, factor: f32) -> Result<Norm> {
        let scaled = |vector: &Tensor| {
            let values: Vec<f32> = vector.to_vec::<f32>()?.iter().map(|v| v * factor).collect();
            Tensor::from_slice(vector.device(), vector.shape(), &values)
        };
        let bias = self.bias.as_ref().map(scaled).transpose()?;
        Ok(Norm { weight: scaled(&self.weight)?, bias, ..self })
    }
}

/// The weights of one layer.
struct Layer {
    norms: [Option<Norm>; 2],
    /// Query, key and value one below the other.
    qkv: Linear,
    /// Weights of the norms of queries and keys.
    qk_norm: Option<[Tensor; 2]>,
    output: Linear,
    cross: Option<Cross>,
    up: Linear,
    down: Linear,
    adapters: Option<Adapters>,
    window: Option<usize>,
    /// Which of the stack's rotations.
    rotation: Option<usize>,
}

impl Layer {
    /// About how many nanoseconds a token takes: 16 multiply-adds each.
    fn cost(&self) -> usize {
        let linear = [&self.qkv, &self.output, &self.up, &self.down];
        let size = |linear: &&Linear| linear.weight.shape().iter().product::<usize>();
        linear.iter().map(size).sum::<usize>() / 16
    }
}

/// Attention to another encoder's states, with its norm behind.
pub(crate) struct Cross {
    query: Linear,
    /// Key and value one below the other.
    kv: Linear,
    output: Linear,
    norm: Norm,
}

impl Cross {
    /// Reads what `names` names in the layer whose full name is `layer`.
    pub(crate) fn load(
        loader: &Loader<'_>,
        shape: &Shape,
        names: &CrossNames,
        layer: &str,
    ) -> Result<Cross> {
        let full = |name: &str| format!("{layer}.{name}");
        let (hidden, [q, k, v]) = (shape.hidden, names.qkv.map(full));
        Ok(Cross {
            query: loader.linear(&q, hidden, hidden, true)?,
            kv: loader.linears(&[(k, hidden), (v, hidden)], shape.context, true)?,
            output: loader.linear(&full(names.output), hidden, hidden, true)?,
            norm: loader.norm(&full(names.norm), shape.norm, hidden, shape.eps)?,
        })
    }

    /// `norm(x + attention(x, states))`.
    pub(crate) fn apply(
        &self,
        shape: &Shape,
        x: &Tensor,
        offsets: &Offsets,
        context: Context<'_>,
    ) -> Result<Tensor> {
        let q = self.query.apply(x, Activation::None, None)?;
        let kv = self.kv.apply(context.states, Activation::None, None)?;
        let kv = context.rows.map_or(Ok(kv.clone()), |rows| gather_rows(&kv, rows))?;
        let at = |tensor, start| Heads { tensor, start };
        let (k, v) = (at(&kv, 0), at(&kv, shape.heads * shape.dim));
        let how = Attention::new(shape.heads, shape.dim);
        let gathered = attention(at(&q, 0), k, v, offsets, context.offsets, &how)?;
        let y = self.output.apply(&gathered, Activation::None, Some(x))?;
        self.norm.apply(&y)
    }
}

/// The states of another encoder that the sequences of a batch attend to.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// \[S, C\].
    pub(crate) states: &'a Tensor,
    /// The rows of the states that each sequence sees, one sequence after the other, where they do not lie so already.
    pub(crate) rows: Option<&'a [u32]>,
    /// What of the rows belongs to each sequence.
    pub(crate) offsets: &'a Offsets,
}

/// Cosines and sines by position, \[positions, dim / 2\] each.
struct Rotation {
    theta: f64,
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// Su et al., arXiv:2104.09864, in the f32 arithmetic of transformers.
    fn new(device: &Device, theta: f64, dim: usize, positions: usize) -> Result<Rotation> {
        let half = dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / (theta as f32).powf(2.0 * i as f32 / dim as f32)).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = (0..positions)
                .flat_map(|p| frequencies.iter().map(move |w| f(p as f32 * w)))
                .collect();
            Tensor::from_slice(device, &[positions, half], &values)
        };
        Ok(Rotation { theta, cos: table(f32::cos)?, sin: table(f32::sin)? })
    }
}

/// The tokens of a batch that are seen by others, where not all are.
pub(crate) struct Seen {
    /// Their rows.
    pub(crate) rows: Vec<u32>,
    pub(crate) offsets: Offsets,
    /// What of the batch sees each part of the rows, where it is not one sequence each.
    pub(crate) by: Option<Offsets>,
}

/// How a batch runs through a stack.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) offsets: &'a Offsets,
    pub(crate) seen: Option<&'a Seen>,
    /// Which of the languages, where there are adapters.
    pub(crate) language: usize,
    /// The other encoder's states, for layers that can attend to such; without it they do not.
    pub(crate) context: Option<Context<'a>>,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(offsets: &'a Offsets) -> Pass<'a> {
        Pass { offsets, seen: None, language: 0, context: None }
    }
}

/// Layers on a device.
pub(crate) struct Stack {
    pub(crate) shape: Shape,
    layers: Vec<Layer>,
    rotations: Vec<Rotation>,
    /// An additive bias of attention by relative position, shared by all layers.
    pub(crate) bias: Option<Tensor>,
}

impl Stack {
    /// Reads the layers that `names` names behind the loader's prefix.
    ///
    /// # Errors
    /// [`Error::Weights`] if a tensor is missing, damaged or of another shape, [`Error::OutOfMemory`].
    pub(crate) fn load(loader: &Loader<'_>, shape: Shape, names: &Names) -> Result<Stack> {
        let mut rotations: Vec<Rotation> = Vec::new();
        for theta in shape.sights.iter().filter_map(|s| s.theta) {
            if rotations.iter().all(|r| r.theta != theta) {
                rotations.push(Rotation::new(loader.device, theta, shape.dim, shape.positions)?);
            }
        }
        let layers = (0..shape.layers).map(|i| Layer::load(loader, &shape, names, i, &rotations));
        let layers = layers.collect::<Result<_>>()?;
        Ok(Stack { layers, rotations, shape, bias: None })
    }

    /// Adapters by layer.
    pub(crate) fn adapt(&mut self, adapters: Vec<Adapters>) {
        for (layer, adapters) in self.layers.iter_mut().zip(adapters) {
            layer.adapters = Some(adapters);
        }
    }

    /// Hidden states \[T, H\] after the last layer.
    pub(crate) fn forward(&self, x: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let layer = |x: Hidden, layer| self.layer(layer, x, pass);
        Ok(self.layers.iter().try_fold(x.into(), layer)?.full)
    }

    /// The same, giving `see` the input of each layer on the way, and what comes of the last.
    pub(crate) fn walk(
        &self,
        x: Tensor,
        pass: Pass<'_>,
        mut see: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let step = |x: Hidden, (i, layer): (usize, &Layer)| {
            see(i, &x.full)?;
            self.layer(layer, x, pass)
        };
        let last = self.layers.iter().enumerate().try_fold(x.into(), step)?;
        see(self.layers.len(), &last.full)
    }

    /// The weights with which tokens attend to each other in a layer, by its input: [`mean_weights`].
    pub(crate) fn weights(&self, layer: usize, x: &Tensor, pass: Pass<'_>) -> Result<Vec<f32>> {
        let layer = &self.layers[layer];
        let x = match &layer.norms[0] {
            Some(norm) if self.shape.pre => norm.apply(x)?,
            _ => x.clone(),
        };
        let qkv = self.project(layer, x, pass)?;
        let keys = Heads { tensor: &qkv, start: self.shape.heads * self.shape.dim };
        let how = self.how(layer.window);
        mean_weights(Heads { tensor: &qkv, start: 0 }, keys, pass.offsets, &how)
    }

    /// Hidden states after layer `i`, which there is, given those before it.
    pub(crate) fn step(&self, i: usize, x: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        Ok(self.layer(&self.layers[i], x.into(), pass)?.full)
    }

    /// Whether what one product hands to the next is stored as bf16, where the device rounds it to that anyway: half of what
    /// layers read and write, and the same bits.
    fn halves(&self, layer: &Layer) -> bool {
        let Shape { hidden, heads, kv_heads, dim, inner, .. } = self.shape;
        let whole = [hidden, heads * dim, kv_heads * dim, dim, inner].iter().all(|n| n % 8 == 0);
        let weight = &layer.qkv.weight;
        whole && weight.dtype() == DType::BF16 && weight.device().rounds_operands()
    }

    /// One layer.
    fn layer(&self, layer: &Layer, x: Hidden, pass: Pass<'_>) -> Result<Hidden> {
        // On a GPU operations are enqueued, which no other thread would do sooner.
        let device = layer.qkv.weight.device();
        let cost = if device.is_cpu() { x.full.shape()[0] * layer.cost() } else { 0 };
        device.threads().run(cost, || self.compute(layer, x, pass))
    }

    /// Attention and the feed-forward net. Each activation is given back as soon as it has been read, as the documented
    /// workspace says.
    fn compute(&self, layer: &Layer, x: Hidden, pass: Pass<'_>) -> Result<Hidden> {
        let Shape { pre, gated, activation, .. } = self.shape;
        let halves = self.halves(layer);
        let [first, second] = layer.norms.each_ref().map(Option::as_ref);
        let before = |norm: Option<&Norm>, x: &Hidden| match norm {
            Some(norm) if pre && halves => Ok(norm.halved(&x.full, false)?.1),
            Some(norm) if pre => norm.apply(&x.full),
            _ => Ok(x.operand().clone()),
        };
        let after = |norm: Option<&Norm>, x: Tensor| match norm {
            Some(norm) if !pre && halves => {
                let (full, half) = norm.halved(&x, true)?;
                Ok(Hidden { full: full.unwrap_or(x), half: Some(half) })
            }
            Some(norm) if !pre => Ok(norm.apply(&x)?.into()),
            _ => Ok(x.into()),
        };
        let context = self.attend(layer, before(first, &x)?, pass, halves)?;
        let y = layer.output.apply(&context, Activation::None, Some(&x.full))?;
        drop((context, x));
        let mut y = after(first, y)?;
        if let (Some(cross), Some(context)) = (&layer.cross, pass.context) {
            y = cross.apply(&self.shape, &y.full, pass.offsets, context)?.into();
        }
        let h = before(second, &y)?;
        let inner = match gated {
            true => glu(&layer.up.apply(&h, Activation::None, None)?, activation)?,
            false if halves => layer.up.apply_to(&h, activation, None, DType::BF16)?,
            false => layer.up.apply(&h, activation, None)?,
        };
        drop(h);
        let z = layer.down.apply(&inner, Activation::None, Some(&y.full))?;
        drop((inner, y));
        let z = match &layer.adapters {
            Some(adapters) => adapters.apply(z, pass.language, second, activation)?,
            None => z,
        };
        after(second, z)
    }

    /// What each token gathers from those it sees: \[T, heads * dim\], of bf16 with `halves` where that can be.
    fn attend(&self, layer: &Layer, x: Tensor, pass: Pass<'_>, halves: bool) -> Result<Tensor> {
        let Shape { heads, kv_heads, dim, .. } = self.shape;
        let at = |tensor, head| Heads { tensor, start: head * dim };
        if halves && layer.rotation.is_none() && pass.seen.is_none() {
            let qkv = layer.qkv.apply_to(&x, Activation::None, None, DType::BF16)?;
            drop(x);
            let parts = [at(&qkv, 0), at(&qkv, heads), at(&qkv, heads + kv_heads)];
            let how = self.how(self.window(layer, pass)?);
            return attention_of_halves(parts, pass.offsets, &how);
        }
        let qkv = self.project(layer, x, pass)?;
        let gathered = pass.seen.map(|s| gather_rows(&qkv, &s.rows)).transpose()?;
        let keys = gathered.as_ref().unwrap_or(&qkv);
        let among = pass.seen.map_or(pass.offsets, |s| &s.offsets);
        let how = self.how(self.window(layer, pass)?);
        let (k, v) = (at(keys, heads), at(keys, heads + kv_heads));
        let by = pass.seen.and_then(|s| s.by.as_ref()).unwrap_or(pass.offsets);
        attention(at(&qkv, 0), k, v, by, among, &how)
    }

    /// Queries, keys and values, rotated where the layer rotates: \[T, (heads + 2 kv_heads) * dim\].
    fn project(&self, layer: &Layer, x: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let Shape { heads, kv_heads, dim, eps, .. } = self.shape;
        let qkv = layer.qkv.apply(&x, Activation::None, None)?;
        drop(x);
        let Some(i) = layer.rotation else { return Ok(qkv) };
        let Rotation { cos, sin, .. } = &self.rotations[i];
        let norm = layer.qk_norm.as_ref().map(|[query, key]| QkNorm { query, key, eps });
        rope(&qkv, pass.offsets, &Rotary { heads, kv_heads, dim, cos, sin, norm })
    }

    /// Attention as all layers have it, and how far one sees.
    fn how(&self, window: Option<usize>) -> Attention<'_> {
        Attention { window, bias: self.bias.as_ref(), ..self.shape.attention() }
    }

    /// How far the queries of a layer see. Where tokens are unseen, queries and keys are no longer numbered alike; then the
    /// window must be wider than any sequence.
    fn window(&self, layer: &Layer, pass: Pass<'_>) -> Result<Option<usize>> {
        match layer.window {
            Some(window) if pass.seen.is_some() => {
                let longest = pass.offsets.max_len();
                if longest <= window + 1 {
                    return Ok(None);
                }
                let expected = format!("at most {} tokens where some are not seen", window + 1);
                Err(Error::argument("tokens of a text", expected, longest.to_string()))
            }
            window => Ok(window),
        }
    }
}

impl Layer {
    fn load(
        loader: &Loader<'_>,
        shape: &Shape,
        names: &Names,
        i: usize,
        rotations: &[Rotation],
    ) -> Result<Layer> {
        let Shape { hidden, heads, kv_heads, dim, inner, biases, .. } = *shape;
        let at = format!("{}{}.{i}", loader.prefix, names.layers);
        let full = |name: &str| format!("{at}.{name}");
        let rows = [heads * dim, kv_heads * dim, kv_heads * dim];
        let qkv: Vec<(String, usize)> = match names.qkv {
            [one] => vec![(full(one), rows.iter().sum())],
            three => three.iter().zip(rows).map(|(name, rows)| (full(name), rows)).collect(),
        };
        let up: Vec<(String, usize)> = match names.up {
            [one] if shape.gated => vec![(full(one), 2 * inner)],
            names => names.iter().map(|name| (full(name), inner)).collect(),
        };
        let scaled = |half: usize, name: &str, columns: usize, bias: bool| match names.scales {
            Some(scales) => loader.scaled(&full(name), hidden, columns, bias, &full(scales[half])),
            None => loader.linear(&full(name), hidden, columns, bias),
        };
        let norm = |half: usize| match i == 0 && half == 0 && names.first_is_bare {
            true => Ok(None),
            false => loader.norm(&full(names.norms[half]), shape.norm, hidden, shape.eps).map(Some),
        };
        let head = |name: &str| {
            let name = full(&format!("{name}.weight"));
            loader.weights.tensor(loader.device, DType::F32, &name, &[dim])
        };
        let sight = shape.sight(i);
        let cross = names.cross.filter(|_| shape.context > 0);
        let cross = cross.map(|names| Cross::load(loader, shape, &names, &at));
        Ok(Layer {
            cross: cross.transpose()?,
            norms: [norm(0)?, norm(1)?],
            qkv: loader.linears(&qkv, hidden, biases.qkv)?,
            qk_norm: match shape.qk_norm {
                true => Some([head("self_attn.q_norm")?, head("self_attn.k_norm")?]),
                false => None,
            },
            output: scaled(0, names.output, heads * dim, biases.output)?,
            up: loader.linears(&up, hidden, biases.ffn)?,
            down: scaled(1, names.down, inner, biases.ffn)?,
            adapters: None,
            window: sight.window,
            rotation: sight.theta.and_then(|t| rotations.iter().position(|r| r.theta == t)),
        })
    }
}
