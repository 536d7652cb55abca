//! Attention to what another encoder gave.

use super::load::{CrossNames, Loader};
use super::maps::{Linear, Norm};
use super::shape::Shape;
use crate::ops::attention::{Attention, Heads, attention};
use crate::ops::embed::gather_rows;
use crate::ops::gemm::Activation;
use crate::{Offsets, Result, Tensor};

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
