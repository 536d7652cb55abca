//! Heads of image encoders: what makes one vector of an image.

use super::config::VisionConfig;
use super::family::{HeadNames, Parts};
use super::tower::States;
use crate::models::layers::{Linear, Loader, Norm, NormKind, Shape};
use crate::ops::attention::{Attention, Heads, attention};
use crate::ops::embed::gather_rows;
use crate::ops::gemm::Activation;
use crate::{Offsets, Result, Tensor};

/// A head with its weights.
pub(super) enum Head {
    /// The first token.
    First,
    /// An activated linear map of the first token.
    Pooler(Linear, Activation),
    /// Attention of a learned query to all tokens.
    Attention(Box<AttentionHead>),
}

impl Head {
    pub(super) fn load(config: &VisionConfig, loader: &Loader<'_>) -> Result<Head> {
        let (layout, parts) = (config.layout(), &config.parts);
        let full = |name: &str| format!("{}{name}", loader.prefix);
        let attention = |head: Result<AttentionHead>| Ok(Head::Attention(head?.into()));
        match layout.head {
            _ if parts.headless => Ok(Head::First),
            HeadNames::Pooler(name) if loader.weights.has(&full(&format!("{name}.weight"))) => {
                let dense = loader.linear(&full(name), parts.pooled, parts.shape.hidden, true)?;
                Ok(Head::Pooler(dense, parts.pooler))
            }
            HeadNames::First | HeadNames::Pooler(_) => Ok(Head::First),
            HeadNames::Attention(name) => {
                attention(AttentionHead::load(loader, &full(name), &parts.shape))
            }
            HeadNames::Queries(name) => {
                let last = full(layout.last_norm);
                attention(AttentionHead::queries(loader, &full(name), &last, parts))
            }
        }
    }

    /// Columns of a vector, where they are not those of a hidden state.
    pub(super) fn width(&self) -> Option<usize> {
        match self {
            Head::First => None,
            Head::Pooler(dense, _) => Some(dense.weight.shape()[0]),
            Head::Attention(head) => Some(head.output.weight.shape()[0]),
        }
    }

    /// Whether a vector is made of one token.
    pub(super) fn takes_a_token(&self) -> bool {
        !matches!(self, Head::Attention(_))
    }

    /// The vectors of images, by all their tokens or by the `first` of each, normed: \[images, width\].
    pub(super) fn apply(
        &self,
        of: &States,
        first: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            Head::First => first(),
            Head::Pooler(dense, activation) => dense.apply(&first()?, *activation, None),
            Head::Attention(head) => head.apply(of),
        }
    }
}

/// One learned query that attends to all tokens, and what comes behind.
pub(super) struct AttentionHead {
    /// The query after its projection: \[1, W\].
    probe: Tensor,
    /// The norm of the tokens, where the head has its own.
    before: Option<Norm>,
    /// Key and value one below the other.
    kv: Linear,
    output: Linear,
    norm: Norm,
    /// The feed-forward net behind the norm, beside a residual; else the norm is the last.
    ffn: Option<(Linear, Activation, Linear)>,
    heads: usize,
}

impl AttentionHead {
    /// transformers: `SiglipMultiheadAttentionPoolingHead`.
    fn load(loader: &Loader<'_>, at: &str, shape: &Shape) -> Result<AttentionHead> {
        let (hidden, weights) = (shape.hidden, loader.weights);
        let attention = format!("{at}.attention");
        // torch's MultiheadAttention keeps the three projections in one.
        let matrix =
            weights.floats(&format!("{attention}.in_proj_weight"), &[3 * hidden, hidden])?;
        let (q, kv) = matrix.split_at(hidden * hidden);
        let probe = weights.floats(&format!("{at}.probe"), &[1, 1, hidden])?;
        let probe = Tensor::from_slice(loader.device, &[1, hidden], &probe)?;
        let up = loader.linear(&format!("{at}.mlp.fc1"), shape.inner, hidden, true)?;
        let down = loader.linear(&format!("{at}.mlp.fc2"), hidden, shape.inner, true)?;
        let (probe, kv, output) = multihead(loader, &attention, &probe, (q, kv))?;
        Ok(AttentionHead {
            probe,
            before: None,
            kv,
            output,
            norm: loader.norm(&format!("{at}.layernorm"), NormKind::Layer, hidden, shape.eps)?,
            ffn: Some((up, shape.activation, down)),
            heads: shape.heads,
        })
    }

    /// open_clip: `AttentionalPooler`, of which a vector needs the first query alone.
    fn queries(loader: &Loader<'_>, at: &str, last: &str, parts: &Parts) -> Result<AttentionHead> {
        let (hidden, width, eps) = (parts.shape.hidden, parts.pooled, parts.shape.eps);
        let (attention, weights) = (format!("{at}.attn"), loader.weights);
        let norm = |name: &str, width| loader.norm(name, NormKind::Layer, width, eps);
        let matrix = |name: &str, columns: usize| {
            weights.floats(&format!("{attention}.{name}_proj_weight"), &[width, columns])
        };
        // Stored as one where queries are as wide as tokens.
        let (q, kv) = if hidden == width {
            let mut q =
                weights.floats(&format!("{attention}.in_proj_weight"), &[3 * width, width])?;
            let kv = q.split_off(width * width);
            (q, kv)
        } else {
            (matrix("q", width)?, [matrix("k", hidden)?, matrix("v", hidden)?].concat())
        };
        let mut probe = weights.floats(&format!("{at}.query"), &[parts.queries, width])?;
        probe.truncate(width);
        let probe = Tensor::from_slice(loader.device, &[1, width], &probe)?;
        let probe = norm(&format!("{at}.ln_q"), width)?.apply(&probe)?;
        let (probe, kv, output) = multihead(loader, &attention, &probe, (&q, &kv))?;
        Ok(AttentionHead {
            probe,
            before: Some(norm(&format!("{at}.ln_k"), hidden)?),
            kv,
            output,
            norm: norm(last, width)?,
            ffn: None,
            heads: parts.query_heads,
        })
    }

    fn apply(&self, of: &States) -> Result<Tensor> {
        let (images, width) = (of.offsets.len(), self.probe.shape()[1]);
        let kv = match &self.before {
            Some(norm) => self.kv.apply(&norm.apply(&of.states)?, Activation::None, None)?,
            None => self.kv.apply(&of.states, Activation::None, None)?,
        };
        let queries = gather_rows(&self.probe, &vec![0; images])?;
        let one_each = Offsets::from_lengths(kv.device(), &vec![1; images])?;
        let how = Attention::new(self.heads, width / self.heads);
        let at = |tensor, start| Heads { tensor, start };
        let (k, v) = (at(&kv, 0), at(&kv, width));
        let context = attention(at(&queries, 0), k, v, &one_each, &of.offsets, &how)?;
        let x = self.output.apply(&context, Activation::None, None)?;
        let normed = self.norm.apply(&x)?;
        match &self.ffn {
            Some((up, activation, down)) => {
                down.apply(&up.apply(&normed, *activation, None)?, Activation::None, Some(&x))
            }
            None => Ok(normed),
        }
    }
}

/// What a torch `MultiheadAttention` makes of a query \[1, W\], its map of keys and values, one below the other, and its map
/// of results; by its name, the matrix of queries, and that of keys and values.
fn multihead(
    loader: &Loader<'_>,
    at: &str,
    query: &Tensor,
    (q, kv): (&[f32], &[f32]),
) -> Result<(Tensor, Linear, Linear)> {
    let (width, device) = (query.shape()[1], loader.device);
    let bias = loader.weights.floats(&format!("{at}.in_proj_bias"), &[3 * width])?;
    let linear = |values: &[f32], bias: &[f32]| -> Result<Linear> {
        let shape = [bias.len(), values.len() / bias.len()];
        let weight = Tensor::from_f32(device, loader.dtype, &shape, values)?;
        Linear::new(&weight, Some(Tensor::from_slice(device, &[bias.len()], bias)?))
    };
    let query = linear(q, &bias[..width])?.apply(query, Activation::None, None)?;
    let output = loader.linear(&format!("{at}.out_proj"), width, width, true)?;
    Ok((query, linear(kv, &bias[width..])?, output))
}
