//! `nearkin classify`

use std::path::PathBuf;

use clap::ValueEnum;
use nearkin::models::{DualEncoder, EmbedOptions};
use nearkin::{Error, Result};

use crate::images::{self, Images};
use crate::{Compute, check_k, input, print_line};

/// Where a label goes in a template.
const PLACE: &str = "{}";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A folder of a dual encoder (CLIP, SigLIP, OpenCLIP).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The labels: .txt, one per line, or .jsonl (`text`); blank ones are passed over. - is standard input.
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// The format of --labels, where its name does not end in .txt or .jsonl.
    #[arg(long, value_enum)]
    format: Option<input::Format>,
    /// A text with {} in the place of the label; given several times, labels are ensembles of prompts.
    #[arg(long = "template", value_name = "TEXT", default_value = "a photo of a {}.")]
    templates: Vec<String>,
    /// What the prompts of a label are averaged by.
    #[arg(long, value_enum, default_value_t = Ensemble::Vectors)]
    ensemble: Ensemble,
    /// Labels given for each image, the best first.
    #[arg(short, value_name = "K", default_value_t = 5)]
    k: usize,
    /// Image files, or folders of them.
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    reading: images::Reading,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ensemble {
    /// Their vectors of length 1, as CLIP (Radford et al., arXiv:2103.00020).
    Vectors,
    /// Their vectors as the model gives them.
    Raw,
    /// Their cosines with the image, as FILIP (Yao et al., arXiv:2111.07783).
    Similarities,
}

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    check_k(options.k)?;
    for template in &options.templates {
        if !template.contains(PLACE) {
            return Err(Error::Argument {
                what: "--template",
                expected: format!("a text with {PLACE} in it"),
                got: template.clone(),
            });
        }
    }
    let labels = input::labels(&options.labels, options.format)?;
    let files = images::files(&options.images)?;
    options.reading.check(&files)?;
    let device = options.compute.device()?;
    let preprocessor = options.reading.limits.preprocessor(&options.model)?;
    let model = DualEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let batch_tokens = options.compute.batch_tokens();
    let prompts = Prompts::new(options, &labels, &model, batch_tokens)?;
    let pictures =
        Images::Dual(&model).embed(&preprocessor, &options.reading, files, batch_tokens)?;
    let vectors = pictures.vectors.values.chunks(model.dim());
    for (image, vector) in images::ids(&pictures.files).iter().zip(vectors) {
        let cosines = prompts.cosines(vector, labels.len());
        let probabilities = model.scoring().probabilities(&cosines);
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]).then(a.cmp(&b)));
        order.truncate(options.k);
        let line = serde_json::json!({
            "image": image,
            "labels": order.iter().map(|&i| &labels[i]).collect::<Vec<_>>(),
            "probabilities": order.iter().map(|&i| probabilities[i]).collect::<Vec<_>>(),
            "cosines": order.iter().map(|&i| cosines[i]).collect::<Vec<_>>(),
        });
        print_line(&line.to_string())?;
    }
    pictures.bad.print(json)
}

/// Vectors of length 1 that images are compared with: `each` of them a label.
struct Prompts {
    vectors: Vec<f32>,
    each: usize,
    dim: usize,
}

impl Prompts {
    fn new(
        options: &Options,
        labels: &[String],
        model: &DualEncoder,
        batch_tokens: usize,
    ) -> Result<Prompts> {
        let texts: Vec<String> = labels
            .iter()
            .flat_map(|label| options.templates.iter().map(move |t| t.replace(PLACE, label)))
            .collect();
        let embed = EmbedOptions { batch_tokens, ..EmbedOptions::default() };
        let vectors = match options.ensemble {
            Ensemble::Raw => model.embed_texts_raw(&texts, &embed)?.values,
            Ensemble::Vectors | Ensemble::Similarities => model.embed_texts(&texts, &embed)?.values,
        };
        let (templates, dim) = (options.templates.len(), model.dim());
        if let Ensemble::Similarities = options.ensemble {
            return Ok(Prompts { vectors, each: templates, dim });
        }
        let vectors = vectors.chunks(templates * dim).flat_map(|label| mean(label, dim));
        Ok(Prompts { vectors: vectors.collect(), each: 1, dim })
    }

    /// The cosine of an image with each label.
    fn cosines(&self, image: &[f32], labels: usize) -> Vec<f32> {
        let dot = |v: &[f32]| v.iter().zip(image).map(|(a, b)| a * b).sum::<f32>();
        let of = |label: &[f32]| label.chunks(self.dim).map(dot).sum::<f32>() / self.each as f32;
        let cosines: Vec<f32> = self.vectors.chunks(self.each * self.dim).map(of).collect();
        debug_assert_eq!(cosines.len(), labels);
        cosines
    }
}

/// The direction of the mean of vectors, of length 1.
fn mean(vectors: &[f32], dim: usize) -> Vec<f32> {
    let mut sum = vec![0.0f32; dim];
    for vector in vectors.chunks(dim) {
        sum.iter_mut().zip(vector).for_each(|(s, v)| *s += v);
    }
    let length = sum.iter().map(|s| s * s).sum::<f32>().sqrt().max(1e-12);
    sum.iter_mut().for_each(|s| *s /= length);
    sum
}
