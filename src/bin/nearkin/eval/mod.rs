//! `nearkin eval`: one file a method, the same figures for all.

mod binary;
mod bm25;
mod cur;
mod curves;
mod dense;
mod maxsim;
mod sparse;

use std::collections::HashMap;
use std::path::PathBuf;

use clap::ValueEnum;
use nearkin::models::{Prompt, Prompts};
use nearkin::{Device, Result, metrics};
use serde_json::{Map, Value, json};

use crate::beir::{self, Collection};
use crate::hash::Hashing;
use crate::prompts::chosen;
use crate::{Compute, Form, check_k, print_line};

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
    /// How documents are found.
    #[arg(long, value_enum, default_value_t = Method::Dense)]
    method: Method,
    /// maxsim: how token vectors are stored.
    #[arg(long, value_enum, default_value_t = maxsim::Tokens::F32)]
    tokens: maxsim::Tokens,
    /// dense: how embeddings are kept.
    #[arg(long, value_enum, default_value_t = Form::F32)]
    storage: Form,
    /// dense: take off each document's score what a bank of all queries scores with it.
    #[arg(long, value_enum)]
    normalize: Option<dense::Normalize>,
    /// sparse, hybrid: a folder with a masked-language model (SPLADE). Without it documents and queries have BM25's weights of words, in place of a
    /// sparse encoder's.
    #[arg(long, value_name = "DIR")]
    sparse_model: Option<PathBuf>,
    /// hybrid, fused: how two rankings become one.
    #[arg(long, value_enum, default_value_t = sparse::Fused::Rrf)]
    fusion: sparse::Fused,
    /// hybrid, fused: the weights of both rankings.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    weights: Vec<f32>,
    #[command(flatten)]
    hashing: Hashing,
    /// binary: how many times -k candidates the codes give, where vectors are kept.
    #[arg(long, value_name = "N", default_value_t = 4)]
    oversample: usize,
    /// binary: score codes by the query itself, not by its code.
    #[arg(long)]
    asymmetric: bool,
    /// What is put before each query: the prompt of --model of this name if it has one, else this text. Without it that is the
    /// prompt named query.
    #[arg(long, value_name = "NAME|TEXT")]
    query_prompt: Option<String>,
    /// What is put before each document, likewise; without it the prompt named document.
    #[arg(long, value_name = "NAME|TEXT")]
    document_prompt: Option<String>,
    /// Of everything that is drawn at random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    cur: cur::Cur,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    /// Exact cosine top-k over the texts' embeddings.
    Dense,
    /// Exact MaxSim over the vectors of all tokens.
    Maxsim,
    /// Exact top-k over sparse vectors.
    Sparse,
    /// Dense embeddings and sparse vectors.
    Hybrid,
    /// Dense embeddings and MaxSim.
    Fused,
    /// Top-k over binary codes of the embeddings, and exact scores of the best of them.
    Binary,
    /// An expensive scorer, asked for few documents of each query; recall of all such methods against its calls.
    Cur,
}

/// What a method found, and what it took.
struct Ranked {
    /// The queries that were asked, numbers of the collection's.
    queries: Vec<usize>,
    /// The ids of the documents found for each of them, the best first.
    documents: Vec<Vec<String>>,
    /// Seconds of encoding and indexing all documents.
    indexing: f64,
    /// Seconds of encoding the queries and searching.
    searching: f64,
    /// The method in words.
    method: String,
    /// Bytes that the index holds on the device.
    memory: usize,
    /// Figures that only this method has.
    more: Map<String, Value>,
}

/// The quality of one query's ranking against its judgements.
type Measure<'a> = &'a dyn Fn(&[&str], &HashMap<String, i32>) -> f64;

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    check_k(options.k)?;
    options.cur.check_plot(&[&options.model, &options.data])?;
    let collection = beir::load(&options.data, &options.split, options.limit)?;
    let device = options.compute.device()?;
    let mut ranked = match options.method {
        Method::Dense => dense::rank(options, &collection, &device)?,
        Method::Maxsim => maxsim::rank(options, &collection, &device)?,
        Method::Sparse => sparse::rank(options, &collection, &device)?,
        Method::Hybrid => sparse::hybrid(options, &collection, &device)?,
        Method::Fused => sparse::fused(options, &collection, &device)?,
        Method::Binary => binary::rank(options, &collection, &device)?,
        Method::Cur => cur::rank(options, &collection, &device)?,
    };
    ranked.leave_out_own(options.k, &collection);
    report(&collection, &device, &ranked, json)
}

impl Options {
    /// What is put before each query and each document.
    fn prompts<'a>(&'a self, prompts: &Prompts) -> [Prompt<'a>; 2] {
        [
            chosen(self.query_prompt.as_deref(), Prompt::Query, prompts),
            chosen(self.document_prompt.as_deref(), Prompt::Document, prompts),
        ]
    }

    /// Documents to retrieve per query: one more than asked for where a query may find itself.
    fn depth(&self, collection: &Collection) -> usize {
        let finds_itself = collection.own.iter().any(Option::is_some);
        self.k.saturating_add(usize::from(finds_itself))
    }
}

impl Ranked {
    /// Drops from each query's ranking the document whose id is the query's own, as BEIR's evaluator does, and what is
    /// ranked after `k`.
    fn leave_out_own(&mut self, k: usize, collection: &Collection) {
        for (&query, found) in self.queries.iter().zip(&mut self.documents) {
            found.retain(|id| *id != collection.queries.ids[query]);
            found.truncate(k);
        }
    }
}

fn report(collection: &Collection, device: &Device, ranked: &Ranked, json: bool) -> Result<()> {
    let mean = |measure: Measure<'_>| {
        let each = ranked.queries.iter().zip(&ranked.documents).map(|(&query, found)| {
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            measure(&found, &collection.judgements[query])
        });
        each.sum::<f64>() / ranked.queries.len().max(1) as f64
    };
    let figures = [
        ("nDCG@10", "ndcg@10", mean(&|r, j| metrics::ndcg_at(10, r, j))),
        ("Recall@10", "recall@10", mean(&|r, j| metrics::recall_at(10, r, j))),
        ("Recall@100", "recall@100", mean(&|r, j| metrics::recall_at(100, r, j))),
        ("MRR@10", "mrr@10", mean(&|r, j| metrics::mrr_at(10, r, j))),
    ];
    let documents_per_s = collection.corpus.ids.len() as f64 / ranked.indexing.max(1e-9);
    let queries_per_s = ranked.queries.len() as f64 / ranked.searching.max(1e-9);
    if json {
        let mut line: Map<String, Value> =
            figures.iter().map(|(_, key, value)| (key.to_string(), json!(value))).collect();
        let rest = json!({
            "documents_per_s": documents_per_s, "queries_per_s": queries_per_s,
            "device": device.name(), "method": ranked.method, "memory_bytes": ranked.memory,
            "documents": collection.corpus.ids.len(), "queries": ranked.queries.len(),
        });
        line.extend(rest.as_object().cloned().unwrap_or_default());
        line.extend(ranked.more.clone());
        return print_line(&Value::Object(line).to_string());
    }
    print_line(&format!("{} on {}", ranked.method, device.name()))?;
    for (name, _, value) in figures {
        print_line(&format!("  {name:<11} {value:.4}"))?;
    }
    for (key, value) in &ranked.more {
        match value {
            Value::Array(rows) => {
                print_line(&format!("  {key}"))?;
                rows.iter().try_for_each(|row| print_line(&format!("    {row}")))?;
            }
            value => print_line(&format!("  {key:<11} {value}"))?,
        }
    }
    print_line(&format!("  {:<11} {:.1} MB", "index", ranked.memory as f64 * 1e-6))?;
    print_line(&format!("  {:<11} {documents_per_s:.1}/s", "documents"))?;
    print_line(&format!("  {:<11} {queries_per_s:.1}/s", "queries"))
}
