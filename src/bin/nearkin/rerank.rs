//! `nearkin rerank`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nearkin::models::{CrossEncoder, EmbedOptions, ImageCrossEncoder, Kind};
use nearkin::{Error, Result};

use crate::images::{Reading, at_a_time};
use crate::{Compute, input, print_line, progress};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A folder with a cross-encoder: a sequence-classification model, or one of texts and images (BLIP, ViLT).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// .jsonl with `text` and `text_pair`; with `text` and `image`, the path of a file, where the model reads images.
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match Kind::of(&options.model)? {
        Kind::ImageCross | Kind::Dual => with_images(options),
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
        },
    )?;
    bar.finish_and_clear();
    print(&logits, model.labels().len())
}

fn with_images(options: &Options) -> Result<()> {
    let pairs = pairs(options, "image")?;
    let device = options.compute.device()?;
    let model = ImageCrossEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let preprocessor = options.reading.preprocessor(&options.model)?;
    let bar = progress::bar("scoring", pairs.len());
    let mut logits = Vec::new();
    for pairs in pairs.chunks(at_a_time(&preprocessor)) {
        let (mut files, mut numbers) = (Vec::new(), HashMap::new());
        let mut numbered = Vec::with_capacity(pairs.len());
        for (i, (_, file)) in pairs.iter().enumerate() {
            let number = *numbers.entry(file).or_insert_with(|| {
                files.push(Path::new(file));
                files.len() - 1
            });
            numbered.push((i, number));
        }
        let images = model.encode(&preprocessor.files(&files)?)?;
        let texts: Vec<&str> = pairs.iter().map(|(text, _)| text.as_str()).collect();
        logits.extend(model.score(&texts, &images, &numbered)?);
        bar.inc(pairs.len() as u64);
    }
    bar.finish_and_clear();
    print(&logits, model.labels().len())
}

/// A line for each pair.
fn print(logits: &[f32], labels: usize) -> Result<()> {
    for logits in logits.chunks(labels.max(1)) {
        // A reranker has one label; a classifier's labels all go out.
        let line = match logits {
            [score] => serde_json::json!({ "score": score }),
            scores => serde_json::json!({ "scores": scores }),
        };
        print_line(&line.to_string())?;
    }
    Ok(())
}
