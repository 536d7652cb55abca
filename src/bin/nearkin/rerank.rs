//! `nearkin rerank`

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use nearkin::models::{CrossEncoder, EmbedOptions, ImageCrossEncoder, Kind, Prompt};
use nearkin::{Error, Result};

use crate::images::{self, Bad, at_a_time};
use crate::prompts::chosen;
use crate::{Compute, input, print_line, progress};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A folder with a cross-encoder: a sequence-classification model, or one of texts and images (BLIP, ViLT).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// .jsonl with `text` and `text_pair`; with `text` and `image`, the path of a file, where the model reads images. - is
    /// standard input.
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// What is put before each `text`, of models of texts: the model's prompt of this name if it has one, else this text. Without
    /// it the model's default prompt is, if it has one.
    #[arg(long, value_name = "NAME|TEXT")]
    prompt: Option<String>,
    #[command(flatten)]
    reading: images::Reading,
    #[command(flatten)]
    compute: Compute,
}

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    match Kind::of(&options.model)? {
        Kind::ImageCross | Kind::Dual => with_images(options, json),
        Kind::Regions => Err(Error::Argument {
            what: "--model",
            expected: "a cross-encoder of texts, or of texts and images".into(),
            got: format!("{}, which reads regions of images", options.model.display()),
        }),
        _ => of_texts(options),
    }
}

/// A text and what stands under `key` in each line of the file.
fn pairs(options: &Options, key: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    input::objects(&options.pairs, |number, object| {
        let get = |key| input::string(&options.pairs, number, object, key).map(str::to_string);
        pairs.push((get("text")?, get(key)?));
        Ok(())
    })?;
    Ok(pairs)
}

fn of_texts(options: &Options) -> Result<()> {
    let pairs = pairs(options, "text_pair")?;
    let device = options.compute.device()?;
    let model = CrossEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let bar = progress::bar("scoring", pairs.len());
    let logits = model.score_with(
        &pairs,
        &EmbedOptions {
            batch_tokens: options.compute.batch_tokens(),
            progress: Some(&|done| bar.set_position(done as u64)),
            prompt: chosen(options.prompt.as_deref(), Prompt::Default, model.prompts()),
        },
    )?;
    bar.finish_and_clear();
    let labels = model.labels().len();
    logits.chunks(labels.max(1)).try_for_each(|logits| print(Some(logits), labels))
}

fn with_images(options: &Options, json: bool) -> Result<()> {
    if let Some(prompt) = &options.prompt {
        return Err(Error::Argument {
            what: "--prompt",
            expected: "a cross-encoder of texts".into(),
            got: format!("'{prompt}' and a model that reads images"),
        });
    }
    let pairs = pairs(options, "image")?;
    let files: BTreeSet<&Path> = pairs.iter().map(|(_, file)| Path::new(file)).collect();
    options.reading.check(&Vec::from_iter(files))?;
    let device = options.compute.device()?;
    let model = ImageCrossEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let preprocessor = options.reading.limits.preprocessor(&options.model)?;
    let bar = progress::bar("scoring", pairs.len());
    let labels = model.labels().len();
    let (mut bad, mut lines) = (Bad::default(), Vec::with_capacity(pairs.len()));
    for pairs in pairs.chunks(at_a_time(&preprocessor)) {
        let (mut files, mut numbers) = (Vec::new(), HashMap::new());
        for (_, file) in pairs {
            numbers.entry(file).or_insert_with(|| {
                files.push(Path::new(file));
                files.len() - 1
            });
        }
        let read = options.reading.pixels(&preprocessor, &files, &mut bad)?;
        // The place of each file among those that could be read.
        let mut good = 0;
        let places: Vec<Option<usize>> = read
            .iter()
            .map(|pixels| {
                good += usize::from(pixels.is_some());
                pixels.as_ref().map(|_| good - 1)
            })
            .collect();
        let pixels: Vec<_> = read.into_iter().flatten().collect();
        let numbered: Vec<(usize, usize)> = pairs
            .iter()
            .enumerate()
            .filter_map(|(i, (_, file))| Some((i, places[numbers[file]]?)))
            .collect();
        let texts: Vec<&str> = pairs.iter().map(|(text, _)| text.as_str()).collect();
        let logits = match numbered.is_empty() {
            true => Vec::new(),
            false => model.score(&texts, &model.encode(&pixels)?, &numbered)?,
        };
        let mut logits = logits.chunks(labels.max(1));
        lines.extend(pairs.iter().map(|(_, file)| {
            places[numbers[file]].and_then(|_| logits.next()).map(<[f32]>::to_vec)
        }));
        bar.inc(pairs.len() as u64);
    }
    bar.finish_and_clear();
    lines.iter().try_for_each(|logits| print(logits.as_deref(), labels))?;
    bad.print(json)
}

/// The line of a pair: null where its image was skipped.
fn print(logits: Option<&[f32]>, labels: usize) -> Result<()> {
    // A reranker has one label; of a classifier all are printed.
    let line = match (labels, logits) {
        (1, logits) => serde_json::json!({ "score": logits.map(|l| l[0]) }),
        (_, scores) => serde_json::json!({ "scores": scores }),
    };
    print_line(&line.to_string())
}
