//! `nearkin align`

use std::path::PathBuf;

use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use nearkin::files::{Replacement, check_output};
use nearkin::images::Image;
use nearkin::models::{DualEncoder, EmbedOptions};
use nearkin::ops::maxsim::{Tokens, align};
use nearkin::{Error, Offsets, Result, Tensor};

use crate::images::Limits;
use crate::{Compute, print_line};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A folder of a dual encoder whose vectors are projections of tokens (CLIP, Chinese CLIP, OpenCLIP).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The image.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The text.
    #[arg(long, value_name = "TEXT")]
    text: String,
    /// Draw the tokens of this part of the text alone.
    #[arg(long, value_name = "TEXT")]
    word: Option<String>,
    /// Where the image goes, warm where the text is seen (.png).
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    compute: Compute,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    check_output(&options.output, &[&options.model, &options.image])?;
    let device = options.compute.device()?;
    let preprocessor = options.limits.preprocessor(&options.model)?;
    let image = Image::open_within(&options.image, options.limits.max_pixels())?;
    let pixels = preprocessor.pixels(&image)?;
    let model = DualEncoder::load(&options.model, &device, options.compute.dtype.into())?;
    let texts = std::slice::from_ref(&options.text);
    let words = model.embed_text_tokens(texts, &EmbedOptions::default())?;
    let patches = model.embed_image_patches(std::slice::from_ref(&pixels))?;
    let drawn = match &options.word {
        Some(word) => part(&words.ids, &model.token_ids(&[word])?[0], word)?,
        // The first and last token are no words.
        None if words.ids.len() > 2 => 1..words.ids.len() - 1,
        None => 0..words.ids.len(),
    };
    let [down, across] = patches.grid;
    // MaxSim takes a multiple of eight columns; zeros change no cosine.
    let width = words.dim.next_multiple_of(8);
    let tokens = |values: &[f32], count: usize| {
        let zeros = std::iter::repeat_n(0.0, width - words.dim);
        let wide = values.chunks(words.dim).flat_map(|v| v.iter().copied().chain(zeros.clone()));
        let wide: Vec<f32> = wide.collect();
        let tensor = Tensor::from_slice(&device, &[count, width], &wide)?;
        Tokens::new(&tensor, &Offsets::from_lengths(&device, &[count])?)
    };
    let (text, grid) =
        (tokens(&words.values, words.ids.len())?, tokens(&patches.tokens, down * across)?);
    let nearest = align(&text, &grid, &[vec![0]])?;
    let (places, maxima) = (nearest.places.to_vec::<u32>()?, nearest.maxima.to_vec::<f32>()?);
    for (i, ((id, patch), cosine)) in words.ids.iter().zip(&places).zip(&maxima).enumerate() {
        let (row, column) = (*patch as usize / across, *patch as usize % across);
        let line = serde_json::json!({
            "token": i, "id": id, "row": row, "column": column, "cosine": cosine,
        });
        print_line(&line.to_string())?;
    }
    let warmth: Vec<f32> = patches
        .tokens
        .chunks(words.dim)
        .map(|patch| {
            let of = |i: usize| dot(&words.values[i * words.dim..][..words.dim], patch);
            drawn.clone().map(of).fold(f32::NEG_INFINITY, f32::max)
        })
        .collect();
    let picture = preprocessor.restore(&pixels)?;
    let (height, width) = (picture.height(), picture.width());
    let rgb = overlay(picture.rgb(), [height, width], &warmth, patches.grid);
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8)
        .map_err(|e| Error::Image { file: options.output.clone(), problem: e.to_string() })?;
    Replacement::write(&options.output, &png)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Where the tokens of a word, without the special ones around it, are among those of the text.
fn part(text: &[u32], word: &[u32], name: &str) -> Result<std::ops::Range<usize>> {
    let inner = word.get(1..word.len().saturating_sub(1)).unwrap_or_default();
    let at = match inner.is_empty() {
        true => None,
        false => text.windows(inner.len()).position(|window| window == inner),
    };
    at.map(|at| at..at + inner.len()).ok_or_else(|| Error::Argument {
        what: "--word",
        expected: "a part of the text".into(),
        got: name.into(),
    })
}

/// The picture half grey, half red where it is warm, from the coldest to the warmest patch.
fn overlay(rgb: &[u8], [height, width]: [usize; 2], warmth: &[f32], grid: [usize; 2]) -> Vec<u8> {
    let low = warmth.iter().copied().fold(f32::INFINITY, f32::min);
    let high = warmth.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let span = (high - low).max(1e-12);
    let [down, across] = grid;
    let (tall, wide) = (height as f32 / down as f32, width as f32 / across as f32);
    // Between the middles of patches, so that no edges are seen that the image does not have.
    let at = |y: usize, x: usize| {
        let place = |i: usize, size: f32, count: usize| {
            let p = ((i as f32 + 0.5) / size - 0.5).clamp(0.0, (count - 1) as f32);
            let first = p as usize;
            (first, (first + 1).min(count - 1), p - first as f32)
        };
        let ((y0, y1, v), (x0, x1, u)) = (place(y, tall, down), place(x, wide, across));
        let value = |y: usize, x: usize| (warmth[y * across + x] - low) / span;
        let above = value(y0, x0) * (1.0 - u) + value(y0, x1) * u;
        let below = value(y1, x0) * (1.0 - u) + value(y1, x1) * u;
        above * (1.0 - v) + below * v
    };
    rgb.chunks_exact(3)
        .enumerate()
        .flat_map(|(i, pixel)| {
            let heat = at(i / width, i % width);
            let grey = pixel.iter().map(|&c| c as f32).sum::<f32>() / 3.0;
            let shade = |color: f32| (0.5 * grey + 0.5 * color) as u8;
            [shade(255.0 * heat), shade(64.0 * heat), shade(255.0 * (1.0 - heat) * 0.5)]
        })
        .collect()
}
