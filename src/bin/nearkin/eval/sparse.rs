//! Sparse vectors, alone or beside dense ones.

use std::time::Instant;

use clap::ValueEnum;
use nearkin::models::{EmbedOptions, SparseEncoder};
use nearkin::ops::sparse::{Impact, SparseVectors};
use nearkin::ops::topk::Metric;
use nearkin::rank::fuse::{Fusion, Score};
use nearkin::search::{HybridIndex, SparseIndex, fuse};
use nearkin::{DType, Device, Error, Result};
use serde_json::json;

use super::bm25::Bm25;
use super::dense::ids;
use super::{Options, Ranked, dense, maxsim};
use crate::beir::Collection;
use crate::progress;

/// How rankings are fused.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fused {
    /// Reciprocal ranks, moved by 60.
    Rrf,
    /// Scores between the lowest and the highest of a ranking.
    Minmax,
    /// Scores in deviations from a ranking's mean.
    Zscore,
    /// The scores themselves, weighted; dense with sparse exactly, over all documents.
    Sum,
}

impl Fused {
    fn score(self) -> Score {
        match self {
            Fused::Rrf => Score::Reciprocal { k: 60.0 },
            Fused::Minmax => Score::MinMax,
            Fused::Zscore => Score::ZScore,
            Fused::Sum => Score::Raw,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Fused::Rrf => "reciprocal ranks",
            Fused::Minmax => "min-max scores",
            Fused::Zscore => "z-scores",
            Fused::Sum => "weighted sums of scores",
        }
    }
}

/// Sparse vectors of documents and queries.
struct Encoded {
    documents: SparseVectors,
    queries: SparseVectors,
    dim: usize,
    /// What made them.
    by: String,
    documents_s: f64,
    queries_s: f64,
}

/// The weights of --sparse-model, or BM25's.
fn encode(options: &Options, collection: &Collection, device: &Device) -> Result<Encoded> {
    let (documents, queries) = (&collection.corpus.texts, &collection.queries.texts);
    let Some(folder) = &options.sparse_model else {
        let started = Instant::now();
        let Bm25 { documents, queries, dim } = Bm25::new(documents, queries);
        let documents_s = started.elapsed().as_secs_f64();
        let by = "BM25, in place of a sparse encoder".into();
        return Ok(Encoded { documents, queries, dim, by, documents_s, queries_s: 0.0 });
    };
    let encoder = SparseEncoder::load(folder, device, options.compute.dtype.into())?;
    let [query, document] = options.prompts(encoder.prompts());
    let batch_tokens = options.compute.batch_tokens();
    let bar = progress::bar("documents", documents.len());
    let progress = |done| bar.set_position(done as u64);
    let started = Instant::now();
    let embed = EmbedOptions { batch_tokens, progress: Some(&progress), prompt: document };
    let documents = encoder.encode(documents, &embed)?;
    let documents_s = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let started = Instant::now();
    let embed = EmbedOptions { batch_tokens, progress: None, prompt: query };
    let queries = encoder.encode(queries, &embed)?;
    let queries_s = started.elapsed().as_secs_f64();
    let vectors = |e: nearkin::models::SparseEmbeddings| SparseVectors {
        offsets: e.offsets,
        terms: e.ids,
        weights: e.weights,
    };
    let by = format!("{}, weights in {}", folder.display(), DType::from(options.compute.dtype));
    let (documents, queries) = (vectors(documents), vectors(queries));
    Ok(Encoded { documents, queries, dim: encoder.dim(), by, documents_s, queries_s })
}

pub(super) fn rank(options: &Options, collection: &Collection, device: &Device) -> Result<Ranked> {
    let encoded = encode(options, collection, device)?;
    let started = Instant::now();
    let mut index = SparseIndex::new(device, encoded.dim, Impact::F16)?;
    index.add(&collection.corpus.ids, encoded.documents.csr())?;
    device.synchronize()?;
    let indexing = encoded.documents_s + started.elapsed().as_secs_f64();
    let started = Instant::now();
    let least = Some(f32::MIN_POSITIVE);
    let found = index.search(encoded.queries.csr(), options.depth(collection), least, None)?;
    Ok(Ranked {
        queries: (0..found.len()).collect(),
        documents: ids(&found),
        indexing,
        searching: encoded.queries_s + started.elapsed().as_secs_f64(),
        method: format!("exact sparse top-{} over f16 weights of {}", options.k, encoded.by),
        memory: index.memory_bytes(),
        more: [("terms".to_string(), json!(encoded.dim))].into_iter().collect(),
    })
}

/// What --weights says, one for each of two rankings.
fn weights(options: &Options) -> Result<[f32; 2]> {
    match options.weights[..] {
        [] => Ok([1.0, 1.0]),
        [a, b] => Ok([a, b]),
        _ => Err(Error::Argument {
            what: "--weights",
            expected: "two numbers, such as 0.7,0.3".into(),
            got: format!("{} of them", options.weights.len()),
        }),
    }
}

/// Dense and sparse vectors.
pub(super) fn hybrid(
    options: &Options,
    collection: &Collection,
    device: &Device,
) -> Result<Ranked> {
    let weights = weights(options)?;
    let dense = dense::embed(options, collection, device)?;
    let sparse = encode(options, collection, device)?;
    let started = Instant::now();
    let storage = options.storage.into();
    let mut index = HybridIndex::new(device, storage, dense.dim, sparse.dim, Impact::F16)?;
    index.add(&collection.corpus.ids, &dense.documents, sparse.documents.csr())?;
    device.synchronize()?;
    let indexing = dense.documents_s + sparse.documents_s + started.elapsed().as_secs_f64();
    let started = Instant::now();
    let (k, metric) = (options.depth(collection), Metric::Cosine);
    let queries = sparse.queries.csr();
    let found = match options.fusion {
        Fused::Sum => index.search(&dense.queries, queries, k, metric, weights, None)?,
        fused => {
            let fusion = Fusion::new(fused.score()).weights(&weights);
            index.search_fused(&dense.queries, queries, k, metric, &fusion, k, None)?
        }
    };
    Ok(Ranked {
        queries: (0..found.len()).collect(),
        documents: ids(&found),
        indexing,
        searching: dense.queries_s + sparse.queries_s + started.elapsed().as_secs_f64(),
        method: format!(
            "{} of cosines and sparse scores, weights {} and {}; sparse vectors of {}",
            options.fusion.name(),
            weights[0],
            weights[1],
            sparse.by
        ),
        memory: index.memory_bytes(),
        more: Default::default(),
    })
}

/// Embeddings and late interaction of one model.
pub(super) fn fused(options: &Options, collection: &Collection, device: &Device) -> Result<Ranked> {
    let weights = weights(options)?;
    let (dense, dense_hits) = dense::search(options, collection, device)?;
    let (late, late_hits) = maxsim::search(options, collection, device)?;
    let started = Instant::now();
    let fusion = Fusion::new(options.fusion.score()).weights(&weights);
    let found = fuse(&fusion, &[dense_hits, late_hits], options.depth(collection))?;
    Ok(Ranked {
        documents: ids(&found),
        indexing: dense.indexing + late.indexing,
        searching: dense.searching + late.searching + started.elapsed().as_secs_f64(),
        method: format!(
            "{} of two rankings, weights {} and {}: {}; {}",
            options.fusion.name(),
            weights[0],
            weights[1],
            dense.method,
            late.method
        ),
        memory: dense.memory + late.memory,
        ..dense
    })
}
