//! `nearkin search`

use std::path::PathBuf;

use clap::ValueEnum;
use nearkin::ops::topk::Metric;
use nearkin::search::FlatIndex;
use nearkin::search::store::Stored;
use nearkin::{Error, Result};

use crate::{check_k, print_line};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The vectors to search: a file of `nearkin embed` or of `FlatIndex::save`.
    #[arg(long, value_name = "FILE")]
    index: PathBuf,
    /// The query vectors, in the same format.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Results per query; more than there are vectors gives all.
    #[arg(short, value_name = "K", default_value_t = 10)]
    k: usize,
    /// The score; larger is nearer (l2 is the negated squared distance). One beyond f32 is null.
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
}

/// Queries read, searched and printed at a time.
const QUERIES: usize = 4096;

pub(crate) fn run(options: &Options) -> Result<()> {
    check_k(options.k)?;
    let device = nearkin::Device::by_name(&options.device)?;
    let index = FlatIndex::load(&options.index, &device)?;
    let queries = Stored::open(&options.queries)?;
    if queries.dim() != index.dim() {
        return Err(Error::Data {
            file: options.queries.clone(),
            line: None,
            problem: format!(
                "its vectors have {} dimensions, those of {} have {}",
                queries.dim(),
                options.index.display(),
                index.dim()
            ),
        });
    }
    let metric = match options.metric {
        By::Cosine => Metric::Cosine,
        By::Dot => Metric::Dot,
        By::L2 => Metric::L2,
    };
    // Group by group, so that neither queries nor results need be in memory at once.
    for start in (0..queries.len()).step_by(QUERIES) {
        let rows = start..queries.len().min(start + QUERIES);
        let found = index.search(&queries.to_f32_vec(rows.clone())?, options.k, metric, None)?;
        for (query, hits) in queries.ids()[rows].iter().zip(found) {
            let line = serde_json::json!({
                "query": query,
                "ids": hits.iter().map(|h| &*h.id).collect::<Vec<_>>(),
                "scores": hits.iter().map(|h| h.score).collect::<Vec<_>>(),
            });
            print_line(&line.to_string())?;
        }
    }
    Ok(())
}
