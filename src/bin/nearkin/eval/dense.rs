//! Exact search over the texts' embeddings.

use std::collections::HashMap;
use std::time::Instant;

use clap::ValueEnum;
use nearkin::metrics::hubs;
use nearkin::models::{EmbedOptions, TextEncoder};
use nearkin::ops::topk::{Corpus, Metric, Storage};
use nearkin::rank::bank::{Bank, Dynamic, Norm};
use nearkin::search::{FlatIndex, Hit};
use nearkin::{DType, Device, Result, Tensor};
use serde_json::{Map, json};

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
    Ok(search(options, collection, device)?.0)
}

/// The ranking, and the hits that it is of.
pub(super) fn search(
    options: &Options,
    collection: &Collection,
    device: &Device,
) -> Result<(Ranked, Vec<Vec<Hit>>)> {
    let embedded = embed(options, collection, device)?;
    let started = Instant::now();
    let storage: Storage = options.storage.into();
    let mut index = FlatIndex::with_storage(device, storage, embedded.dim)?;
    index.add(&collection.corpus.ids, &embedded.documents)?;
    let bank = match options.normalize {
        None => None,
        Some(norm) => Some(index.bank(&embedded.queries, |corpus, bank| norm.make(corpus, bank))?),
    };
    device.synchronize()?;
    let indexing = embedded.documents_s + started.elapsed().as_secs_f64();
    let started = Instant::now();
    let k = options.depth(collection);
    let plain = || index.search(&embedded.queries, k, Metric::Cosine, None);
    let found = match &bank {
        None => plain()?,
        Some(bank) => index.search_normalized(&embedded.queries, k, bank, None)?,
    };
    let searching = embedded.queries_s + started.elapsed().as_secs_f64();
    let mut more = Map::new();
    let skew = hubness(collection, &found)?;
    more.insert("hubness".into(), json!(skew));
    let mut method = format!(
        "exact cosine top-{} over {storage} embeddings of {} dimensions, weights in {}",
        options.k,
        embedded.dim,
        DType::from(options.compute.dtype)
    );
    if let Some(norm) = options.normalize {
        more.insert("hubness before".into(), json!(hubness(collection, &plain()?)?));
        method += &format!(", normalised by a bank of all queries ({})", norm.name());
    }
    let ranked = Ranked {
        queries: (0..found.len()).collect(),
        documents: ids(&found),
        indexing,
        searching,
        method,
        memory: index.memory_bytes(),
        more,
    };
    Ok((ranked, found))
}

/// The skewness of how often each document is among the first ten.
fn hubness(collection: &Collection, found: &[Vec<Hit>]) -> Result<f64> {
    let rows: HashMap<&str, u64> =
        collection.corpus.ids.iter().map(String::as_str).zip(0..).collect();
    let row = |hit: &Hit| rows.get(&*hit.id).copied();
    let first: Vec<Vec<u64>> =
        found.iter().map(|hits| hits.iter().take(10).filter_map(row).collect()).collect();
    let counts = hubs::occurrences(first.iter().map(Vec::as_slice), collection.corpus.ids.len())?;
    Ok(hubs::skewness(&counts))
}

/// A bank normalisation, with the settings of its paper.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Normalize {
    /// Inverted softmax, beta 20.
    Is,
    /// The same for queries whose best document is activated (QB-Norm).
    Dis,
    /// Cross-domain similarity local scaling, k 10.
    Csls,
    /// Nearest-neighbour normalisation, k 10, alpha 0.75.
    Nnn,
}

impl Normalize {
    fn make(self, corpus: &Corpus, bank: &Tensor) -> Result<Bank> {
        let (metric, inverted) = (Metric::Cosine, Norm::Inverted { beta: 20.0 });
        match self {
            Normalize::Is => Bank::new(corpus, metric, inverted, bank),
            Normalize::Dis => {
                Bank::dynamic(corpus, metric, inverted, bank, None, Dynamic::default())
            }
            Normalize::Csls => Bank::new(corpus, metric, Norm::Csls { k: 10 }, bank),
            Normalize::Nnn => Bank::new(corpus, metric, Norm::Nnn { k: 10, alpha: 0.75 }, bank),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Normalize::Is => "inverted softmax",
            Normalize::Dis => "dynamic inverted softmax",
            Normalize::Csls => "CSLS",
            Normalize::Nnn => "NNN",
        }
    }
}

/// The ids of what was found for each query.
pub(super) fn ids(found: &[Vec<Hit>]) -> Vec<Vec<String>> {
    found.iter().map(|hits| hits.iter().map(|h| h.id.to_string()).collect()).collect()
}
