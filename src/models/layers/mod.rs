//! Transformer layers as all encoders share them: attention and a feed-forward net, each beside a residual.
//!
//! Vaswani et al., arXiv:1706.03762. With the norms behind the halves, as Devlin et al., arXiv:1810.04805, have them:
//! `y = norm(x + attention(x))`, `z = norm(y + ffn(y))`; with the norms before, as Xiong et al., arXiv:2002.04745:
//! `y = x + attention(norm x)`, `z = y + ffn(norm y)`. Activations are f32; matrices are stored as the caller chose.

mod cross;
mod load;
mod maps;
mod rotation;
mod shape;
mod stack;

pub(crate) use cross::{Context, Cross};
pub(crate) use load::{CrossNames, Loader, Names};
pub(crate) use maps::{Linear, NORM_EPS, Norm};
pub(crate) use shape::{Biases, LayerAttention, NormKind, Shape};
pub(crate) use stack::{Pass, Seen, Stack};
