//! Exact search over the texts' embeddings.

use std::time::Instant;

use nearkin::models::{EmbedOptions, TextEncoder};
use nearkin::ops::topk::{Metric, Storage};
use nearkin::search::{FlatIndex, Hit};
use nearkin::{DType, Device, Result};

use super::{Options, Ranked};
use crate::beir::Collection;
use crate::progress;

/// Embeddings of a collection's documents and queries, and the seconds that each took.
pub(super) struct Embedded {
    pub(super) dim: usize,
    pub(super) documents: Vec<f32>,
    pub(super) queries: Vec<f32>,
    pub(super) documents_s: f64,
    pub(super) queries_s: f64,
}

pub(super) fn embed(
    options: &Options,
    collection: &Collection,
    device: &Device,
) -> Result<Embedded> {
    let encoder = TextEncoder::load(&options.model, device, options.compute.dtype.into())?;
    let batch_tokens = options.compute.batch_tokens();
    let [query, document] = options.prompts(encoder.prompts());
    let bar = progress::bar("documents", collection.corpus.texts.len());
    let started = Instant::now();
    let progress = |done| bar.set_position(done as u64);
    let embed = EmbedOptions { batch_tokens, progress: Some(&progress), prompt: document };
    let documents = encoder.embed_with(&collection.corpus.texts, &embed)?.values;
    let documents_s = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let started = Instant::now();
    let embed = EmbedOptions { batch_tokens, progress: None, prompt: query };
    let queries = encoder.embed_with(&collection.queries.texts, &embed)?.values;
    let queries_s = started.elapsed().as_secs_f64();
    Ok(Embedded { dim: encoder.dim(), documents, queries, documents_s, queries_s })
}

pub(super) fn rank(options: &Options, collection: &Collection, device: &Device) -> Result<Ranked> {
    let embedded = embed(options, collection, device)?;
    let started = Instant::now();
    let storage: Storage = options.storage.into();
    let mut index = FlatIndex::with_storage(device, storage, embedded.dim)?;
    index.add(&collection.corpus.ids, &embedded.documents)?;
    device.synchronize()?;
    let indexing = embedded.documents_s + started.elapsed().as_secs_f64();
    let started = Instant::now();
    let k = options.depth(collection);
    let found = index.search(&embedded.queries, k, Metric::Cosine, None)?;
    Ok(Ranked {
        queries: (0..found.len()).collect(),
        documents: ids(&found),
        indexing,
        searching: embedded.queries_s + started.elapsed().as_secs_f64(),
        method: format!(
            "exact cosine top-{} over {storage} embeddings of {} dimensions, weights in {}",
            options.k,
            embedded.dim,
            DType::from(options.compute.dtype)
        ),
        memory: index.memory_bytes(),
        more: Default::default(),
    })
}

/// The ids of what was found for each query.
pub(super) fn ids(found: &[Vec<Hit>]) -> Vec<Vec<String>> {
    found.iter().map(|hits| hits.iter().map(|h| h.id.to_string()).collect()).collect()
}
