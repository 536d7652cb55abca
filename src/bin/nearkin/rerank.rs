//! `nearkin rerank`

use std::path::PathBuf;

use nearkin::Result;
use nearkin::models::{CrossEncoder, EmbedOptions};

use crate::{Compute, input, print_line, progress};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A folder with a sequence-classification model (a cross-encoder).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// .jsonl with `text` and `text_pair`.
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    #[command(flatten)]
    compute: Compute,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut pairs = Vec::new();
    input::objects(&options.pairs, |number, object| {
        let get = |key| input::string(&options.pairs, number, object, key).map(str::to_string);
        pairs.push((get("text")?, get("text_pair")?));
        Ok(())
    })?;
    let device = options.compute.device()?;
    let model = CrossEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let bar = progress::bar("scoring", pairs.len());
    let logits = model.score_with(
        &pairs,
        &EmbedOptions {
            batch_tokens: options.compute.batch_tokens(),
            progress: Some(&|done| bar.set_position(done as u64)),
        },
    )?;
    bar.finish_and_clear();
    for logits in logits.chunks(model.labels().len().max(1)) {
        // A reranker has one label; a classifier's labels all go out.
        let line = match logits {
            [score] => serde_json::json!({ "score": score }),
            scores => serde_json::json!({ "scores": scores }),
        };
        print_line(&line.to_string())?;
    }
    Ok(())
}
