//! RoBERTa (Liu et al., arXiv:1907.11692), XLM-RoBERTa (Conneau et al., arXiv:1911.02116) and CamemBERT (Martin et
//! al., arXiv:1911.03894): BERT's layers with other positions. transformers: `RobertaModel`, `XLMRobertaModel`,
//! `CamembertModel`.

use super::bert;
use super::encoder::Layout;
use crate::models::config::Config;

pub(super) const LAYOUT: Layout = Layout { prefix: "roberta.", positions, ..bert::LAYOUT };

/// Positions count from the one after the padding token's id. Padding tokens, which a text may spell out, all take the
/// padding token's own position and are not counted.
pub(super) fn positions(config: &Config, ids: &[u32], rows: &mut Vec<u32>) {
    let mut position = config.pad;
    rows.extend(ids.iter().map(|&id| {
        if id == config.pad {
            config.pad
        } else {
            position += 1;
            position
        }
    }));
}
