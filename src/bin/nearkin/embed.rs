//! `nearkin embed`

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use nearkin::models::{EmbedOptions, TextEncoder, TokenEncoder};
use nearkin::search::store::{self, Vectors};
use nearkin::{Device, Error, Result};

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
    /// Also write the last hidden states before pooling: `tokens` [total, d] and `offsets` [n + 1]. Of a folder made for late
    /// interaction (PyLate, ColBERT) write its token vectors, and no embeddings.
    #[arg(long)]
    tokens: bool,
    /// What a folder made for late interaction takes the texts for.
    #[arg(long = "as", value_enum, default_value_t = As::Document, requires = "tokens")]
    form: As,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Clone, Copy, ValueEnum)]
enum As {
    Query,
    Document,
}

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    input::check_output(&options.output)?;
    let texts = input::texts(&options.input)?;
    let device = options.compute.device()?;
    let is_late = TokenEncoder::is_made_for(&options.model);
    match (is_late, options.tokens) {
        (Ok(true), true) => return run_late(options, &texts, &device, json),
        (Ok(true), false) => {
            return Err(Error::Argument {
                what: "--tokens",
                expected: "to be given, because the model is made for late interaction".into(),
                got: "nothing".into(),
            });
        }
        // What is wrong with the folder is said where it is loaded.
        (Ok(false) | Err(_), _) => {}
    }
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
    report(options, &device, shape, seconds, json)
}

/// Token vectors of a model for late interaction.
fn run_late(options: &Options, texts: &input::Texts, device: &Device, json: bool) -> Result<()> {
    let encoder = TokenEncoder::load(&options.model, device, options.compute.dtype.into())?;
    let bar = progress::bar("embedding", texts.texts.len());
    let started = Instant::now();
    let embed = EmbedOptions {
        batch_tokens: options.compute.batch_tokens(),
        progress: Some(&|done| bar.set_position(done as u64)),
    };
    let out = match options.form {
        As::Query => encoder.encode_queries_with(&texts.texts, &embed)?,
        As::Document => encoder.encode_documents_with(&texts.texts, &embed)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let tensors = vec![
        ("tokens", Vectors::f32(&[out.ids.len(), out.dim], &out.values)),
        ("offsets", Vectors::i64(&[out.offsets.len()], &out.offsets)),
    ];
    store::write(&options.output, tensors, &texts.ids)?;
    report(options, device, [texts.texts.len(), out.dim], seconds, json)
}

/// Says what was done: so many texts to so many dimensions.
fn report(
    options: &Options,
    device: &Device,
    [texts, dim]: [usize; 2],
    seconds: f64,
    json: bool,
) -> Result<()> {
    let rate = texts as f64 / seconds.max(1e-9);
    let summary = serde_json::json!({
        "texts": texts, "dim": dim, "seconds": seconds, "texts_per_s": rate,
        "device": device.name(), "output": options.output,
    });
    if json {
        return print_line(&summary.to_string());
    }
    eprintln!(
        "{texts} texts to {dim} dimensions in {seconds:.2} s ({rate:.0}/s) on {}",
        device.name()
    );
    Ok(())
}
