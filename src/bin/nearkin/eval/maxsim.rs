//! Late interaction: MaxSim over the vectors of all tokens.

use std::time::Instant;

use clap::ValueEnum;
use nearkin::models::{EmbedOptions, TokenEncoder, TokenVectors};
use nearkin::ops::maxsim::Storage;
use nearkin::ops::residual::{Codec, Training};
use nearkin::search::{Hit, TokenIndex};
use nearkin::{DType, Device, Result};
use serde_json::json;

use super::dense::ids;
use super::{Options, Ranked};
use crate::beir::Collection;
use crate::progress;

/// How token vectors are stored.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Tokens {
    F32,
    F16,
    Bf16,
    Int8,
    Binary,
    /// ColBERTv2's codec: the nearest centroid, and 1 bit a dimension of what is left.
    Residual1,
    Residual2,
    Residual4,
}

impl Tokens {
    fn bits(self) -> Option<u32> {
        match self {
            Tokens::Residual1 => Some(1),
            Tokens::Residual2 => Some(2),
            Tokens::Residual4 => Some(4),
            _ => None,
        }
    }

    fn storage(self) -> Storage {
        match self {
            Tokens::F16 => Storage::F16,
            Tokens::Bf16 => Storage::BF16,
            Tokens::Int8 => Storage::Int8,
            Tokens::Binary => Storage::Binary,
            _ => Storage::F32,
        }
    }
}

/// Token vectors of a collection's documents and queries, and the seconds that each took.
pub(super) struct Encoded {
    pub(super) documents: TokenVectors,
    pub(super) queries: TokenVectors,
    pub(super) documents_s: f64,
    pub(super) queries_s: f64,
}

pub(super) fn encode(
    options: &Options,
    collection: &Collection,
    device: &Device,
) -> Result<Encoded> {
    let encoder = TokenEncoder::load(&options.model, device, options.compute.dtype.into())?;
    let batch_tokens = options.compute.batch_tokens();
    let [query, document] = options.prompts(encoder.prompts());
    let bar = progress::bar("documents", collection.corpus.texts.len());
    let started = Instant::now();
    let progress = |done| bar.set_position(done as u64);
    let embed = EmbedOptions { batch_tokens, progress: Some(&progress), prompt: document };
    let documents = encoder.encode_documents_with(&collection.corpus.texts, &embed)?;
    let documents_s = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let started = Instant::now();
    let embed = EmbedOptions { batch_tokens, progress: None, prompt: query };
    let queries = encoder.encode_queries_with(&collection.queries.texts, &embed)?;
    Ok(Encoded { documents, queries, documents_s, queries_s: started.elapsed().as_secs_f64() })
}

pub(super) fn rank(options: &Options, collection: &Collection, device: &Device) -> Result<Ranked> {
    Ok(search(options, collection, device)?.0)
}

/// The ranking, and the hits that it is of.
pub(super) fn search(
    options: &Options,
    collection: &Collection,
    device: &Device,
) -> Result<(Ranked, Vec<Vec<Hit>>)> {
    let Encoded { documents, queries, documents_s, queries_s } =
        encode(options, collection, device)?;
    let started = Instant::now();
    let mut index = TokenIndex::new(device, options.tokens.storage(), documents.dim)?;
    index.add(&collection.corpus.ids, &documents.values, &documents.offsets)?;
    if let Some(bits) = options.tokens.bits() {
        let clusters = Codec::clusters(index.tokens());
        index = index.compress(&Training { bits, clusters, rounds: 4, seed: options.seed })?;
    }
    device.synchronize()?;
    let indexing = documents_s + started.elapsed().as_secs_f64();
    let started = Instant::now();
    let k = options.depth(collection);
    let found = index.search(&queries.values, &queries.offsets, k, None)?;
    let stored = match options.tokens.bits() {
        Some(bits) => format!("centroids and residuals of {bits} bits"),
        None => options.tokens.storage().name().to_string(),
    };
    let ranked = Ranked {
        queries: (0..found.len()).collect(),
        documents: ids(&found),
        indexing,
        searching: queries_s + started.elapsed().as_secs_f64(),
        method: format!(
            "exact MaxSim top-{} over token vectors of {} dimensions stored as {stored}, weights in {}",
            options.k,
            documents.dim,
            DType::from(options.compute.dtype)
        ),
        memory: index.memory_bytes(),
        more: [("tokens".to_string(), json!(index.tokens()))].into_iter().collect(),
    };
    Ok((ranked, found))
}
