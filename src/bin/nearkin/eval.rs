//! `nearkin eval`

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use nearkin::models::{EmbedOptions, TextEncoder};
use nearkin::ops::topk::Metric;
use nearkin::search::FlatIndex;
use nearkin::{DType, Result, metrics};

use crate::{Compute, beir, check_k, print_line, progress};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A Hugging Face or sentence-transformers folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Which judgements: qrels/<split>.tsv.
    #[arg(long, default_value = "test")]
    split: String,
    /// Documents retrieved per query; at least 100 for recall@100 to mean what it says.
    #[arg(short, value_name = "K", default_value_t = 100)]
    k: usize,
    /// Keep only the first N documents, and what is judged about them.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    compute: Compute,
}

/// The quality of one query's ranking against its judgements.
type Measure<'a> = &'a dyn Fn(&[&str], &HashMap<String, i32>) -> f64;

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    check_k(options.k)?;
    let collection = beir::load(&options.data, &options.split, options.limit)?;
    let device = options.compute.device()?;
    let encoder = TextEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let batch_tokens = options.compute.batch_tokens();

    let bar = progress::bar("documents", collection.corpus.texts.len());
    let started = Instant::now();
    let progress = |done| bar.set_position(done as u64);
    let embed = EmbedOptions { batch_tokens, progress: Some(&progress) };
    let documents = encoder.embed_with(&collection.corpus.texts, &embed)?.values;
    let mut index = FlatIndex::new(&device, DType::F32, encoder.dim())?;
    index.add(&collection.corpus.ids, &documents)?;
    device.synchronize()?;
    let documents_per_s = collection.corpus.ids.len() as f64 / started.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let started = Instant::now();
    let embed = EmbedOptions { batch_tokens, progress: None };
    let queries = encoder.embed_with(&collection.queries.texts, &embed)?.values;
    let found = index.search(&queries, options.k, Metric::Cosine, None)?;
    let queries_per_s = collection.queries.ids.len() as f64 / started.elapsed().as_secs_f64();

    let n = found.len() as f64;
    let mean = |measure: Measure<'_>| {
        let each = found.iter().zip(&collection.judgements).map(|(hits, judged)| {
            let ranked: Vec<&str> = hits.iter().map(|h| &*h.id).collect();
            measure(&ranked, judged)
        });
        each.sum::<f64>() / n
    };
    let ndcg = mean(&|r, j| metrics::ndcg_at(10, r, j));
    let recall_10 = mean(&|r, j| metrics::recall_at(10, r, j));
    let recall_100 = mean(&|r, j| metrics::recall_at(100, r, j));
    let mrr = mean(&|r, j| metrics::mrr_at(10, r, j));
    let method = format!(
        "exact cosine top-{} over f32 embeddings of {} dimensions, weights in {}",
        options.k,
        encoder.dim(),
        DType::from(options.compute.dtype)
    );
    if json {
        let line = serde_json::json!({
            "ndcg@10": ndcg, "recall@10": recall_10, "recall@100": recall_100, "mrr@10": mrr,
            "documents_per_s": documents_per_s, "queries_per_s": queries_per_s,
            "device": device.name(), "method": method,
            "documents": collection.corpus.ids.len(), "queries": collection.queries.ids.len(),
        });
        return print_line(&line.to_string());
    }
    print_line(&format!("{method} on {}", device.name()))?;
    for (name, value) in
        [("nDCG@10", ndcg), ("Recall@10", recall_10), ("Recall@100", recall_100), ("MRR@10", mrr)]
    {
        print_line(&format!("  {name:<11} {value:.4}"))?;
    }
    print_line(&format!("  {:<11} {documents_per_s:.1}/s", "documents"))?;
    print_line(&format!("  {:<11} {queries_per_s:.1}/s", "queries"))
}
