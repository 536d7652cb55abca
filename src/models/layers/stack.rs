//! Layers on a device, and how batches run through them.

use super::cross::{Context, Cross};
use super::load::{Loader, Names};
use super::maps::{Linear, Norm};
use super::rotation::Rotation;
use super::shape::Shape;
use crate::models::adapters::Adapters;
use crate::ops::attention::{Attention, Heads, attention, mean_weights};
use crate::ops::embed::gather_rows;
use crate::ops::gemm::Activation;
use crate::ops::glu::glu;
use crate::ops::precision;
use crate::ops::rope::{QkNorm, Rotary, rope};
use crate::{DType, Error, Offsets, Result, Tensor};

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
        for theta in shape.per_layer.iter().filter_map(|s| s.theta) {
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
        let qkv = self.project(layer, x, pass, DType::F32)?;
        let keys = Heads { tensor: &qkv, start: self.shape.heads * self.shape.dim };
        let how = self.how(layer.window);
        mean_weights(Heads { tensor: &qkv, start: 0 }, keys, pass.offsets, &how)
    }

    /// Hidden states after layer `i`, which there is, given those before it.
    pub(crate) fn step(&self, i: usize, x: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        Ok(self.layer(&self.layers[i], x.into(), pass)?.full)
    }

    /// The dtype in which a layer's products and attention are handed what they take: [`precision::handed_on`], where rows
    /// are whole vectors.
    fn handed_on(&self, layer: &Layer) -> DType {
        let Shape { hidden, heads, kv_heads, dim, inner, .. } = self.shape;
        let whole = [hidden, heads * dim, kv_heads * dim, dim, inner].iter().all(|n| n % 8 == 0);
        let weight = &layer.qkv.weight;
        match whole {
            true => precision::handed_on(weight.device(), weight.dtype()),
            false => DType::F32,
        }
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
        let handed_on = self.handed_on(layer);
        let [first, second] = layer.norms.each_ref().map(Option::as_ref);
        let before = |norm: Option<&Norm>, x: &Hidden| match norm {
            Some(norm) if pre => norm.apply_to(&x.full, [handed_on]).map(|[y]| y),
            _ => Ok(x.operand().clone()),
        };
        let after = |norm: Option<&Norm>, x: Tensor| match norm {
            Some(norm) if !pre && handed_on != DType::F32 => {
                let [full, operand] = norm.apply_to(&x, [DType::F32, handed_on])?;
                Ok(Hidden { full, operand: Some(operand) })
            }
            Some(norm) if !pre => Ok(norm.apply(&x)?.into()),
            _ => Ok(x.into()),
        };
        let context = self.attend(layer, before(first, &x)?, pass, handed_on)?;
        let y = layer.output.apply(&context, Activation::None, Some(&x.full))?;
        drop((context, x));
        let mut y = after(first, y)?;
        if let (Some(cross), Some(context)) = (&layer.cross, pass.context) {
            y = cross.apply(&self.shape, &y.full, pass.offsets, context)?.into();
        }
        let h = before(second, &y)?;
        let inner = match gated {
            true => glu(&layer.up.apply(&h, Activation::None, None)?, activation)?,
            false => layer.up.apply_to(&h, activation, None, handed_on)?,
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

    /// What each token gathers from those it sees: \[T, heads * dim\] of `out`, or of f32 where layers rotate or tokens are
    /// unseen, for which only f32 serves.
    fn attend(&self, layer: &Layer, x: Tensor, pass: Pass<'_>, out: DType) -> Result<Tensor> {
        let Shape { heads, kv_heads, dim, .. } = self.shape;
        let at = |tensor, head| Heads { tensor, start: head * dim };
        let plain = layer.rotation.is_none() && pass.seen.is_none();
        let out = if plain { out } else { DType::F32 };
        let qkv = self.project(layer, x, pass, out)?;
        let gathered = pass.seen.map(|s| gather_rows(&qkv, &s.rows)).transpose()?;
        let keys = gathered.as_ref().unwrap_or(&qkv);
        let among = pass.seen.map_or(pass.offsets, |s| &s.offsets);
        let how = Attention { out, ..self.how(self.window(layer, pass)?) };
        let (k, v) = (at(keys, heads), at(keys, heads + kv_heads));
        let by = pass.seen.and_then(|s| s.by.as_ref()).unwrap_or(pass.offsets);
        attention(at(&qkv, 0), k, v, by, among, &how)
    }

    /// Queries, keys and values of `out`, which is f32 where the layer rotates them: \[T, (heads + 2 kv_heads) * dim\].
    fn project(&self, layer: &Layer, x: Tensor, pass: Pass<'_>, out: DType) -> Result<Tensor> {
        let Shape { heads, kv_heads, dim, eps, .. } = self.shape;
        let qkv = layer.qkv.apply_to(&x, Activation::None, None, out)?;
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

/// Hidden states, \[T, H\] f32, and as products take them where that is another dtype.
struct Hidden {
    full: Tensor,
    operand: Option<Tensor>,
}

impl Hidden {
    /// What products take.
    fn operand(&self) -> &Tensor {
        self.operand.as_ref().unwrap_or(&self.full)
    }
}

impl From<Tensor> for Hidden {
    fn from(full: Tensor) -> Self {
        Hidden { full, operand: None }
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
        let attention = shape.layer_attention(i);
        let cross = names.cross.filter(|_| shape.context > 0);
        let cross = cross.map(|names| Cross::load(loader, shape, &names, &at));
        Ok(Layer {
            cross: cross.transpose()?,
            norms: [norm(0)?, norm(1)?],
            qkv: loader.linears(&qkv, hidden, biases.qkv)?,
            qk_norm: match names.qk_norms {
                Some([query, key]) => Some([head(query)?, head(key)?]),
                None => None,
            },
            output: scaled(0, names.output, heads * dim, biases.output)?,
            up: loader.linears(&up, hidden, biases.ffn)?,
            down: scaled(1, names.down, inner, biases.ffn)?,
            adapters: None,
            window: attention.window,
            rotation: attention.theta.and_then(|t| rotations.iter().position(|r| r.theta == t)),
        })
    }
}
