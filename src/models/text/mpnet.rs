//! MPNet (Song et al., arXiv:2004.09297): RoBERTa's positions, no token types, and a bias on attention by relative
//! position that all layers share. transformers: `MPNetModel`.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::family::{Family, Layout};
use super::{bert, roberta};
use crate::models::catalog::{Architecture, TEXT_WITH_WORDS};
use crate::models::config::{LoadTensor, Parts, config, layers, range, read};
use crate::models::layers::{Loader, Names};
use crate::{Result, Tensor};

config! {
    /// transformers: `MPNetConfig`. Its embeddings count positions from a padding index of 1 whatever the
    /// configuration says.
    MPNetConfig {
        vocab_size: usize = 30527,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        intermediate_size: usize = 3072,
        hidden_act: String = "gelu".into(),
        max_position_embeddings: usize = 512,
        layer_norm_eps: f64 = 1e-12,
        relative_attention_num_buckets: usize = 32,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture::new(
    "mpnet",
    "MPNet",
    TEXT_WITH_WORDS,
    "MPNetModel, MPNetForSequenceClassification, MPNetForMaskedLM",
)];

pub(super) const FAMILY: Family = Family {
    read: parts,
    layout: Layout {
        prefix: "mpnet.",
        types: None,
        names: Names {
            qkv: &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
            output: "attention.attn.o",
            norms: ["attention.LayerNorm", "output.LayerNorm"],
            ..bert::LAYOUT.names
        },
        number: roberta::behind_padding,
        ..bert::LAYOUT
    },
    classifier: Some(roberta::CLASSIFIER),
    vocabulary: Some(roberta::VOCABULARY),
    types: false,
};

fn parts(json: &Map<String, Value>) -> Result<Parts, String> {
    let c: MPNetConfig = read(json)?;
    let shape = layers!(c)?;
    // An even split into before and after, each half exact and half logarithmic.
    let buckets =
        range("relative_attention_num_buckets", c.relative_attention_num_buckets, 4, 256)?;
    let parts = Parts::new(shape, c.vocab_size, c.max_position_embeddings);
    let heads = parts.shape.heads;
    let bias: LoadTensor = Arc::new(move |loader| bias(loader, heads, buckets));
    roberta::counted(Parts { bias: Some(bias), ..parts }, 1)
}

/// From this distance on every key is in the last bucket of its side.
const MAX_DISTANCE: usize = 128;

/// The bias of a key at each distance -128 to 128 from its query, \[heads, 257\]; farther keys take the outermost.
fn bias(loader: &Loader<'_>, heads: usize, buckets: usize) -> Result<Tensor> {
    let name = format!("{}encoder.relative_attention_bias.weight", loader.prefix);
    let table = loader.weights.floats(&name, &[buckets, heads])?;
    let distances = -(MAX_DISTANCE as isize)..=MAX_DISTANCE as isize;
    let width = 2 * MAX_DISTANCE + 1;
    let mut bias = vec![0.0; heads * width];
    for (column, distance) in distances.enumerate() {
        let row = &table[bucket(distance, buckets) * heads..][..heads];
        for (head, &value) in row.iter().enumerate() {
            bias[head * width + column] = value;
        }
    }
    Tensor::from_slice(loader.device, &[heads, width], &bias)
}

/// The bucket of a key `distance` tokens after its query (Raffel et al., arXiv:1910.10683): half of the buckets are for
/// keys after it; of each half the first half are single distances, the others grow with the logarithm.
fn bucket(distance: isize, buckets: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let n = distance.unsigned_abs();
    let within = if n < exact {
        n
    } else {
        // In f32, so that distances on a boundary fall as they do in transformers.
        let ratio = (n as f32 / exact as f32).ln() / (MAX_DISTANCE as f32 / exact as f32).ln();
        (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
    };
    if distance > 0 { half + within } else { within }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_grow_with_the_logarithm() {
        // Single distances below 8, then a bucket for each factor of the square root of 2.
        let keys_before =
            [0, 1, 7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 45, 46, 63, 64, 90, 91, 128, 900];
        let want = [0, 1, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 15];
        for (n, want) in keys_before.into_iter().zip(want) {
            assert_eq!(bucket(-n, 32), want, "{n} before");
            assert_eq!(bucket(n, 32), if n == 0 { 0 } else { want + 16 }, "{n} after");
        }
    }
}
