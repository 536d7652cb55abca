//! BERT (Devlin et al., arXiv:1810.04805). transformers: `BertModel`.

use super::encoder::Layout;
use crate::models::config::Config;

pub(super) const LAYOUT: Layout = Layout {
    prefix: "bert.",
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    output: "attention.output.dense",
    output_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    down_norm: "output.LayerNorm",
    types: true,
    positions,
};

/// Positions count from 0.
pub(super) fn positions(_: &Config, ids: &[u32], rows: &mut Vec<u32>) {
    rows.extend(0..ids.len() as u32);
}
