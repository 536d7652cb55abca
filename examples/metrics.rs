//! Evaluates a run against judgements, both in TREC's files, as trec_eval does:
//!
//! ```text
//! cargo run --example metrics -- judgements.qrels found.run
//! ```
//!
//! Without files it makes a small collection, ranks it on the CPU, writes both files and evaluates them.

use std::path::{Path, PathBuf};

use nearkin::metrics::trec::{Measure, Qrels, Run, evaluate};
use nearkin::metrics::{Median, Of, Ranks, Ties, Wanted};
use nearkin::ops::topk::{Corpus, Metric, Search, topk};
use nearkin::{Device, Tensor};

const MEASURES: [Measure; 8] = [
    Measure::Ndcg(10),
    Measure::Recall(100),
    Measure::Precision(10),
    Measure::Hit(10),
    Measure::AveragePrecisionCut(10),
    Measure::AveragePrecision,
    Measure::Reciprocal,
    Measure::RPrecision,
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    match (args.next(), args.next(), args.next()) {
        (Some(judged), Some(found), None) => report(&judged, &found)?,
        (None, ..) => {
            let folder = tempfile::tempdir()?;
            let (judged, found) = (folder.path().join("qrels"), folder.path().join("run"));
            made(&judged, &found)?;
            report(&judged, &found)?;
        }
        _ => return Err("expected a file of judgements and a run, or nothing".into()),
    }
    Ok(())
}

/// Prints the means of all measures over the queries that were asked.
fn report(judged: &Path, found: &Path) -> nearkin::Result<()> {
    let evaluation = evaluate(&Qrels::read(judged)?, &Run::read(found)?, &MEASURES);
    println!("{} of {} judged queries were asked", evaluation.queries.len(), evaluation.judged);
    for (measure, mean) in evaluation.measures.iter().zip(evaluation.means()) {
        println!("{measure}\t{mean:.4}");
    }
    Ok(())
}

/// Two topics, each with two relevant documents, as points of the plane: prints what is measured of the ranks of the relevant ones,
/// then writes the judgements and what a search for three documents found.
fn made(judged: &Path, found: &Path) -> nearkin::Result<()> {
    let device = Device::cpu();
    let documents = [1.0f32, 0.0, 0.9, 0.4, 0.7, 0.7, 0.3, 0.9, 0.0, 1.0];
    let documents = Tensor::from_slice(&device, &[5, 2], &documents)?;
    let queries = Tensor::from_slice(&device, &[2, 2], &[1.0f32, 0.1, 0.5, 0.8])?;
    let relevant = [[0u32, 2], [3, 4]];

    // Ranks among all documents, by counting: nothing is sorted.
    let ranks = Ranks::count(&queries, &documents, &relevant, Metric::Cosine, Ties::ByIndex)?;
    println!("recall@1 of one relevant document\t{}", ranks.recall_at(1, Wanted::Any));
    println!("median of the worst ranks\t{}", ranks.median_rank(Of::Worst, Median::Middle));
    println!("mINP\t{:.4}", ranks.minp());

    let (mut qrels, mut run) = (Qrels::new(), Run::new());
    let hits = topk(&queries, &Corpus::from_tensor(&documents)?, Metric::Cosine, &Search::new(3))?;
    for (q, relevant) in relevant.iter().enumerate() {
        let query = format!("q{q}");
        for document in relevant {
            qrels.insert(&query, &format!("d{document}"), 1)?;
        }
        let (rows, scores) = hits.get(q);
        for (row, &score) in rows.iter().zip(scores) {
            run.insert(&query, &format!("d{row}"), score)?;
        }
    }
    qrels.write(judged)?;
    run.write(found, "nearkin")
}
