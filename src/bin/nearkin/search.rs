//! `nearkin search`

use std::path::PathBuf;

use clap::ValueEnum;
use nearkin::ops::topk::Metric;
use nearkin::search::store::Stored;
use nearkin::search::{FlatIndex, Hit, TokenIndex};
use nearkin::{Device, Error, Result};

use crate::{check_k, print_line};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The vectors to search: a file of `nearkin embed` or of `FlatIndex::save`; for maxsim one of `nearkin embed --tokens` or
    /// of `TokenIndex::save`.
    #[arg(long, value_name = "FILE")]
    index: PathBuf,
    /// The query vectors, in the same format.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Results per query; more than there are vectors gives all.
    #[arg(short, value_name = "K", default_value_t = 10)]
    k: usize,
    /// The score; larger is nearer (l2 is the negated squared distance). One beyond f32 is null. maxsim compares the vectors
    /// of all tokens.
    #[arg(long, value_enum, default_value_t = By::Cosine)]
    metric: By,
    /// auto, cpu, cuda, wgpu, cuda:<index> or wgpu:<index>.
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Cosine,
    Dot,
    L2,
    Maxsim,
}

/// Queries read, searched and printed at a time.
const QUERIES: usize = 4096;

pub(crate) fn run(options: &Options) -> Result<()> {
    check_k(options.k)?;
    let device = Device::by_name(&options.device)?;
    let metric = match options.metric {
        By::Cosine => Metric::Cosine,
        By::Dot => Metric::Dot,
        By::L2 => Metric::L2,
        By::Maxsim => return interactions(options, &device),
    };
    let index = FlatIndex::load(&options.index, &device)?;
    let queries = Stored::open(&options.queries)?;
    check_dim(options, queries.dim(), index.dim())?;
    // Group by group, so that neither queries nor results need be in memory at once.
    for start in (0..queries.len()).step_by(QUERIES) {
        let rows = start..queries.len().min(start + QUERIES);
        let found = index.search(&queries.to_f32_vec(rows.clone())?, options.k, metric, None)?;
        print(queries.ids()[rows].iter().map(String::as_str), &found)?;
    }
    Ok(())
}

/// Token vectors of both sides.
fn interactions(options: &Options, device: &Device) -> Result<()> {
    let index = TokenIndex::load(&options.index, device)?;
    let queries = TokenIndex::load(&options.queries, &Device::cpu())?;
    check_dim(options, queries.dim(), index.dim())?;
    let found = index.search(&queries.to_f32_vec()?, &queries.offsets(), options.k, None)?;
    print(queries.ids(), &found)
}

fn check_dim(options: &Options, queries: usize, index: usize) -> Result<()> {
    if queries == index {
        return Ok(());
    }
    Err(Error::Data {
        file: options.queries.clone(),
        line: None,
        problem: format!(
            "its vectors have {queries} dimensions, those of {} have {index}",
            options.index.display()
        ),
    })
}

/// A line for each query.
fn print<'a>(queries: impl Iterator<Item = &'a str>, found: &[Vec<Hit>]) -> Result<()> {
    for (query, hits) in queries.zip(found) {
        let line = serde_json::json!({
            "query": query,
            "ids": hits.iter().map(|h| &*h.id).collect::<Vec<_>>(),
            "scores": hits.iter().map(|h| h.score).collect::<Vec<_>>(),
        });
        print_line(&line.to_string())?;
    }
    Ok(())
}
