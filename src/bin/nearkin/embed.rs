//! `nearkin embed`

use std::path::PathBuf;
use std::time::Instant;

use nearkin::Result;
use nearkin::models::{EmbedOptions, TextEncoder};
use nearkin::search::store::{self, Vectors};

use crate::{Compute, input, print_line, progress};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A Hugging Face or sentence-transformers folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// .txt (a text per line) or .jsonl (`text`, optionally `_id` and `title`).
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where `embeddings` [n, d] go, as safetensors with the ids in the metadata.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Also write the last hidden states before pooling: `tokens` [total, d] and `offsets` [n + 1].
    #[arg(long)]
    tokens: bool,
    #[command(flatten)]
    compute: Compute,
}

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    input::check_output(&options.output)?;
    let texts = input::texts(&options.input)?;
    let device = options.compute.device()?;
    let encoder = TextEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let bar = progress::bar("embedding", texts.texts.len());
    let started = Instant::now();
    let embed = EmbedOptions {
        batch_tokens: options.compute.batch_tokens(),
        progress: Some(&|done| bar.set_position(done as u64)),
    };
    let shape = [texts.texts.len(), encoder.dim()];
    let (embeddings, tokens) = if options.tokens {
        let out = encoder.embed_tokens(&texts.texts, &embed)?;
        (out.embeddings, Some((out.tokens, out.offsets)))
    } else {
        (encoder.embed_with(&texts.texts, &embed)?.values, None)
    };
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let mut tensors = vec![("embeddings", Vectors::f32(&shape, &embeddings))];
    if let Some((tokens, offsets)) = &tokens {
        tensors.push(("tokens", Vectors::f32(&[tokens.len() / shape[1].max(1), shape[1]], tokens)));
        tensors.push(("offsets", Vectors::i64(&[offsets.len()], offsets)));
    }
    store::write(&options.output, tensors, &texts.ids)?;
    let rate = shape[0] as f64 / seconds.max(1e-9);
    let summary = serde_json::json!({
        "texts": shape[0], "dim": shape[1], "seconds": seconds, "texts_per_s": rate,
        "device": device.name(), "output": options.output,
    });
    if json {
        return print_line(&summary.to_string());
    }
    eprintln!(
        "{} texts to {} dimensions in {seconds:.2} s ({rate:.0}/s) on {}",
        shape[0],
        shape[1],
        device.name()
    );
    Ok(())
}
