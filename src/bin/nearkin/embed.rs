//! `nearkin embed`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use nearkin::files::check_output;
use nearkin::models::{
    DualEncoder, EmbedOptions, ImageEncoder, Kind, Prompt, Prompts, SparseEncoder, TextEncoder,
    TokenEncoder,
};
use nearkin::ops::sparse::Impact;
use nearkin::search::store::{self, Vectors};
use nearkin::search::write_sparse;
use nearkin::{Device, Error, Result};

use crate::images::{self, Bad, Images};
use crate::prompts::chosen;
use crate::{Compute, input, print_line, progress};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A Hugging Face, sentence-transformers or OpenCLIP folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// .txt (a text per line) or .jsonl (`text`, optionally `_id` and `title`), plain or in gzip or zstd; - is standard input.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "images",
        conflicts_with = "images"
    )]
    input: Option<PathBuf>,
    /// The format of --input, where its name does not end in .txt or .jsonl.
    #[arg(long, value_enum, requires = "input")]
    format: Option<input::Format>,
    /// Image files, or folders of them (JPEG, PNG, WebP); the names of the files are the ids. In folders names that begin with a
    /// dot are passed over.
    #[arg(long, value_name = "PATHS", num_args = 1.., conflicts_with = "tokens")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    reading: images::Reading,
    /// Where `embeddings` [n, d] go, as safetensors with the ids in the metadata.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Also write the last hidden states before pooling: `tokens` [total, d] and `offsets` [n + 1]. Of a folder made for late
    /// interaction (PyLate, ColBERT) write its token vectors, and no embeddings.
    #[arg(long)]
    tokens: bool,
    /// Write sparse vectors instead, of a folder with a masked-language model (SPLADE): `offsets` [n + 1], `terms` and `weights`.
    #[arg(long, conflicts_with_all = ["tokens", "images"])]
    sparse: bool,
    /// What the texts are: queries and documents have prompts of their own where the model does, and in late interaction forms.
    /// Without it texts have the model's default prompt, and those of late interaction are documents.
    #[arg(long = "as", value_enum, conflicts_with = "images")]
    form: Option<As>,
    /// What is put before each text: the model's prompt of this name if it has one, else this text. Empty is nothing.
    #[arg(long, value_name = "NAME|TEXT", conflicts_with = "images")]
    prompt: Option<String>,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Clone, Copy, ValueEnum)]
enum As {
    Query,
    Document,
}

impl Options {
    /// What is put before each text.
    fn prompt<'a>(&'a self, prompts: &Prompts) -> Prompt<'a> {
        let otherwise = match self.form {
            Some(As::Query) => Prompt::Query,
            Some(As::Document) => Prompt::Document,
            None => Prompt::Default,
        };
        chosen(self.prompt.as_deref(), otherwise, prompts)
    }
}

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let inputs = [&options.model].into_iter().chain(&options.input).chain(&options.images);
    let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
    check_output(&options.output, &inputs)?;
    let Some(input) = &options.input else { return run_images(options, json) };
    let texts = input::texts(input, options.format)?;
    let device = options.compute.device()?;
    if options.sparse {
        return run_sparse(options, &texts, &device, json);
    }
    match (Kind::of(&options.model)?, options.tokens) {
        (Kind::Dual, _) => return run_dual(options, &texts, &device, json),
        (Kind::Tokens, true) => return run_late(options, &texts, &device, json),
        (Kind::Tokens, false) => {
            return Err(Error::Argument {
                what: "--tokens",
                expected: "to be given, because the model is made for late interaction".into(),
                got: "nothing".into(),
            });
        }
        (Kind::Image, _) => {
            return Err(Error::Argument {
                what: "--input",
                expected: "--images, because the model reads images alone".into(),
                got: input.display().to_string(),
            });
        }
        (Kind::Regions | Kind::ImageCross, _) => {
            return Err(Error::Argument {
                what: "--model",
                expected: "a model that gives vectors of texts".into(),
                got: format!("{}, which reads them with an image", options.model.display()),
            });
        }
        _ => {}
    }
    let encoder = TextEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let bar = progress::bar("embedding", texts.texts.len());
    let started = Instant::now();
    let embed = EmbedOptions {
        batch_tokens: options.compute.batch_tokens(),
        progress: Some(&|done| bar.set_position(done as u64)),
        prompt: options.prompt(encoder.prompts()),
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
    report(options, &device, "texts", shape, seconds, &Bad::default(), json)
}

/// Vectors of images.
fn run_images(options: &Options, json: bool) -> Result<()> {
    let files = images::files(&options.images)?;
    options.reading.check(&files)?;
    let device = options.compute.device()?;
    let dtype = options.compute.dtype.into();
    let (single, dual);
    let model = match Kind::of(&options.model)? {
        Kind::Image => {
            single = ImageEncoder::load(&options.model, &device, dtype)?;
            Images::Single(&single)
        }
        Kind::Dual => {
            dual = DualEncoder::load(&options.model, &device, dtype)?;
            Images::Dual(&dual)
        }
        _ => {
            return Err(Error::Argument {
                what: "--images",
                expected: "a model that reads images".into(),
                got: options.model.display().to_string(),
            });
        }
    };
    let preprocessor = options.reading.limits.preprocessor(&options.model)?;
    let started = Instant::now();
    let batch_tokens = options.compute.batch_tokens();
    let out = model.embed(&preprocessor, &options.reading, files, batch_tokens)?;
    let seconds = started.elapsed().as_secs_f64();
    let shape = [out.files.len(), out.vectors.dim];
    let tensors = vec![("embeddings", Vectors::f32(&shape, &out.vectors.values))];
    store::write(&options.output, tensors, &images::ids(&out.files))?;
    report(options, &device, "images", shape, seconds, &out.bad, json)
}

/// Vectors of the text half of a dual encoder.
fn run_dual(options: &Options, texts: &input::Texts, device: &Device, json: bool) -> Result<()> {
    if options.tokens {
        return Err(Error::Argument {
            what: "--tokens",
            expected: "a text encoder".into(),
            got: "a dual encoder".into(),
        });
    }
    if options.form.is_some() {
        return Err(Error::Argument {
            what: "--as",
            expected: "a text encoder, which may tell queries from documents".into(),
            got: "a dual encoder".into(),
        });
    }
    let model = DualEncoder::load(&options.model, device, options.compute.dtype.into())?;
    let bar = progress::bar("embedding", texts.texts.len());
    let started = Instant::now();
    let embed = EmbedOptions {
        batch_tokens: options.compute.batch_tokens(),
        progress: Some(&|done| bar.set_position(done as u64)),
        prompt: options.prompt.as_deref().map_or(Prompt::None, Prompt::Text),
    };
    let out = model.embed_texts(&texts.texts, &embed)?;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let shape = [texts.texts.len(), out.dim];
    store::write(
        &options.output,
        vec![("embeddings", Vectors::f32(&shape, &out.values))],
        &texts.ids,
    )?;
    report(options, device, "texts", shape, seconds, &Bad::default(), json)
}

/// Token vectors of a model for late interaction.
fn run_late(options: &Options, texts: &input::Texts, device: &Device, json: bool) -> Result<()> {
    let encoder = TokenEncoder::load(&options.model, device, options.compute.dtype.into())?;
    let bar = progress::bar("embedding", texts.texts.len());
    let started = Instant::now();
    let embed = EmbedOptions {
        batch_tokens: options.compute.batch_tokens(),
        progress: Some(&|done| bar.set_position(done as u64)),
        prompt: options.prompt(encoder.prompts()),
    };
    let out = match options.form {
        Some(As::Query) => encoder.encode_queries_with(&texts.texts, &embed)?,
        _ => encoder.encode_documents_with(&texts.texts, &embed)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let tensors = vec![
        ("tokens", Vectors::f32(&[out.ids.len(), out.dim], &out.values)),
        ("offsets", Vectors::i64(&[out.offsets.len()], &out.offsets)),
    ];
    store::write(&options.output, tensors, &texts.ids)?;
    report(options, device, "texts", [texts.texts.len(), out.dim], seconds, &Bad::default(), json)
}

/// Sparse vectors over the vocabulary.
fn run_sparse(options: &Options, texts: &input::Texts, device: &Device, json: bool) -> Result<()> {
    let encoder = SparseEncoder::load(&options.model, device, options.compute.dtype.into())?;
    let bar = progress::bar("embedding", texts.texts.len());
    let started = Instant::now();
    let embed = EmbedOptions {
        batch_tokens: options.compute.batch_tokens(),
        progress: Some(&|done| bar.set_position(done as u64)),
        prompt: options.prompt(encoder.prompts()),
    };
    let out = encoder.encode(&texts.texts, &embed)?;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    write_sparse(&options.output, out.csr(), out.dim, Impact::F16, &texts.ids)?;
    report(options, device, "texts", [texts.texts.len(), out.dim], seconds, &Bad::default(), json)
}

/// Prints what was done: the number of texts or images, their dimensions, the images that were skipped.
fn report(
    options: &Options,
    device: &Device,
    what: &str,
    [count, dim]: [usize; 2],
    seconds: f64,
    bad: &Bad,
    json: bool,
) -> Result<()> {
    let rate = count as f64 / seconds.max(1e-9);
    let summary = serde_json::json!({
        what: count, "dim": dim, "seconds": seconds, format!("{what}_per_s"): rate,
        "device": device.name(), "output": options.output.to_string_lossy(), "skipped": bad.len(), "bad": bad.json(),
    });
    if json {
        return print_line(&summary.to_string());
    }
    eprintln!(
        "{count} {what} to {dim} dimensions in {seconds:.2} s ({rate:.0}/s) on {}",
        device.name()
    );
    bad.print(false)
}
