//! CUR: an expensive scorer asked for few documents of each query, and the recall of all methods against its calls.

use std::path::{Path, PathBuf};
use std::time::Instant;

use nearkin::files::{Replacement, check_output};
use nearkin::models::CrossEncoder;
use nearkin::ops::maxsim::{MaxSim, Tokens};
use nearkin::search::cur::{
    Anchors, Cheap, CrossScorer, CurIndex, CurOptions, CurSearch, Evaluation, MaxSimScorer,
    Offline, ScoreMatrix, TextScorer, evaluate,
};
use nearkin::{Device, Error, Offsets, Result, Tensor};
use serde_json::json;

use super::{Options, Ranked, curves, dense, maxsim};
use crate::beir::Collection;
use crate::progress;

#[derive(clap::Args)]
pub(crate) struct Cur {
    /// cur: a cross-encoder's folder, the expensive scorer. Without it that is MaxSim over the tokens of --model.
    #[arg(long, value_name = "DIR")]
    scorer: Option<PathBuf>,
    /// cur: so many queries, the first, are fitted to; the others are asked.
    #[arg(long, value_name = "N", default_value_t = 100)]
    anchor_queries: usize,
    /// cur: documents scored for each query before it is searched for; the first number ranks, all are compared.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "50,100,200")]
    anchor_items: Vec<usize>,
    /// cur: documents scored after that.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "100,200,500")]
    retrieved: Vec<usize>,
    /// cur: fit what the embeddings of --model leave of the scores, not the scores themselves.
    #[arg(long)]
    residual: bool,
    /// cur: rounds of the adaptive methods.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// cur: where the scores of the anchor queries are kept while they are computed, and found after an interruption.
    #[arg(long, value_name = "DIR")]
    checkpoints: Option<PathBuf>,
    /// cur: compare with the fixed-item baseline too, for which each anchor document is scored with all documents.
    #[arg(long)]
    fixed_item: bool,
    /// cur: draw the recall of all methods against their calls, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// The ridge of AXN, which was the best on Cranfield.
const AXN_WEIGHT: f64 = 0.3;

pub(super) fn rank(options: &Options, collection: &Collection, device: &Device) -> Result<Ranked> {
    let started = Instant::now();
    let texts = (&collection.queries.texts, &collection.corpus.texts);
    match &options.cur.scorer {
        Some(folder) => {
            let model = CrossEncoder::load(folder, device, options.compute.dtype.into())?;
            let scorer = TextScorer::new(&model, texts.0, texts.1, 0)?;
            let by_items = TextScorer::new(&model, texts.1, texts.1, 0)?;
            let scorers = Scorers { name: "a cross-encoder", scorer: &scorer, by_items: &by_items };
            with(options, collection, device, &scorers, started)
        }
        None => {
            let encoded = maxsim::encode(options, collection, device)?;
            let tokens = |vectors: &nearkin::models::TokenVectors| {
                let lengths: Vec<usize> =
                    vectors.offsets.windows(2).map(|w| (w[1] - w[0]) as usize).collect();
                let shape = [vectors.values.len() / vectors.dim.max(1), vectors.dim];
                let values = Tensor::from_slice(device, &shape, &vectors.values)?;
                Tokens::new(&values, &Offsets::from_lengths(device, &lengths)?)
            };
            let (queries, documents) = (tokens(&encoded.queries)?, tokens(&encoded.documents)?);
            let scorer = MaxSimScorer::new(&queries, &documents, MaxSim::colbert())?;
            let by_items = MaxSimScorer::new(&documents, &documents, MaxSim::colbert())?;
            let scorers = Scorers { name: "MaxSim", scorer: &scorer, by_items: &by_items };
            with(options, collection, device, &scorers, started)
        }
    }
}

/// The expensive scorer of queries by documents, and of documents by documents.
struct Scorers<'a> {
    name: &'static str,
    scorer: &'a dyn CrossScorer,
    by_items: &'a dyn CrossScorer,
}

impl Cur {
    /// Checks the file of the plot before hours are spent on what it shows.
    pub(super) fn check_plot(&self, inputs: &[&Path]) -> Result<()> {
        let Some(plot) = &self.plot else { return Ok(()) };
        let folders = [&self.scorer, &self.checkpoints].into_iter().flatten();
        let inputs: Vec<&Path> =
            inputs.iter().copied().chain(folders.map(PathBuf::as_path)).collect();
        check_output(plot, &inputs)
    }
}

fn with(
    options: &Options,
    collection: &Collection,
    device: &Device,
    &Scorers { name, scorer, by_items }: &Scorers<'_>,
    started: Instant,
) -> Result<Ranked> {
    let cur = &options.cur;
    let anchors = cur.anchor_queries;
    let count = collection.queries.ids.len();
    if anchors == 0 || anchors >= count {
        return Err(Error::Argument {
            what: "--anchor-queries",
            expected: format!(
                "1 to {}, so that some query is left to ask",
                count.saturating_sub(1)
            ),
            got: anchors.to_string(),
        });
    }
    let (&[k_i, ..], &[k_r, ..]) = (&cur.anchor_items[..], &cur.retrieved[..]) else {
        return Err(Error::Argument {
            what: "--anchor-items and --retrieved",
            expected: "a number each".into(),
            got: "none".into(),
        });
    };
    let embedded = dense::embed(options, collection, device)?;
    let dim = embedded.dim;
    let (fitted, asked): (Vec<usize>, Vec<usize>) = (0..count).partition(|&q| q < anchors);
    let items = scorer.items();

    let bar = progress::bar("anchor scores", anchors * items);
    let scores = ScoreMatrix::compute(
        scorer,
        &fitted,
        0..items,
        &Offline {
            checkpoints: cur.checkpoints.as_deref(),
            job: name,
            progress: Some(&|done, _| bar.set_position(done as u64)),
            ..Offline::default()
        },
    )?;
    bar.finish_and_clear();
    let cheap =
        Cheap { dim, queries: &embedded.queries[..anchors * dim], items: &embedded.documents };
    let k_i = k_i.min(items);
    let index = CurIndex::fit(
        device,
        &scores,
        &CurOptions {
            cheap: cur.residual.then_some(cheap),
            ..CurOptions::new(Anchors::Uniform { count: k_i, seed: options.seed })
        },
    )?;
    device.synchronize()?;
    let indexing = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let found = index.search(
        scorer,
        &asked,
        &CurSearch {
            k: options.depth(collection),
            budget: k_i.saturating_add(k_r),
            embeddings: cur.residual.then_some(&embedded.queries[anchors * dim..]),
        },
    )?;
    let searching = started.elapsed().as_secs_f64();
    let rows = evaluate(
        device,
        scorer,
        &Evaluation {
            anchor_queries: &fitted,
            test_queries: &asked,
            own_items: &asked.iter().map(|&q| collection.own[q]).collect::<Vec<_>>(),
            cheap: Some(Cheap { dim, queries: &embedded.queries, items: &embedded.documents }),
            item_scorer: cur.fixed_item.then_some(by_items),
            anchor_items: &cur.anchor_items,
            retrieved: &cur.retrieved,
            rounds: cur.rounds,
            axn_weight: AXN_WEIGHT,
            seed: options.seed,
        },
    )?;
    if let Some(plot) = &cur.plot {
        let (asked, fitted) = (asked.len(), fitted.len());
        let title = format!(
            "Best of {items} documents by {name} that are found: mean of {asked} queries, fitted to {fitted} others"
        );
        Replacement::write(plot, curves::svg(&title, &rows).as_bytes())?;
    }
    let rows: Vec<_> = rows.iter().map(|row| json!(row)).collect();
    let ids = |items: &Vec<nearkin::search::cur::Scored>| {
        items.iter().map(|s| collection.corpus.ids[s.item].clone()).collect()
    };
    Ok(Ranked {
        documents: found.items.iter().map(ids).collect(),
        indexing,
        searching,
        method: format!(
            "{}CUR of {name}, fitted to {anchors} queries, {k_i} anchors and {k_r} more scored a query",
            if cur.residual { "residual " } else { "" }
        ),
        memory: index.memory_bytes(),
        more: [
            ("calls".to_string(), json!(found.calls)),
            ("regularisation".to_string(), json!(format!("{:?}", index.report().regularisation))),
            ("recall".to_string(), json!(rows)),
        ]
        .into_iter()
        .collect(),
        queries: asked,
    })
}
