//! DistilBERT (Sanh et al., arXiv:1910.01108): BERT without token types. transformers: `DistilBertModel`.

use super::bert;
use super::encoder::Layout;

pub(super) const LAYOUT: Layout = Layout {
    prefix: "distilbert.",
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    output: "attention.out_lin",
    output_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    down_norm: "output_layer_norm",
    types: false,
    positions: bert::positions,
};
