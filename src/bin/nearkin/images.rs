//! Image files, named one by one or by their folder.

use std::path::{Path, PathBuf};

use nearkin::images::{MAX_PIXELS, Preprocessor};
use nearkin::models::{DualEncoder, EmbedOptions, Embeddings, ImageEncoder};
use nearkin::{Error, Result};

use crate::progress;

/// Files decoded, preprocessed and embedded at a time, at most.
const FILES: usize = 256;
/// Files at a time where they come out in different sizes.
const UNEQUAL_FILES: usize = 16;
/// Bytes of pixels at a time where all files come out in one size.
const PIXEL_BYTES: usize = 1 << 30;
/// What is taken from a folder.
const ENDINGS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// How image files are read.
#[derive(clap::Args)]
pub(crate) struct Reading {
    /// Pixels that an image file may have; decoding takes up to 16 bytes a pixel. The default is Pillow's limit.
    #[arg(long, value_name = "N", default_value_t = MAX_PIXELS as u64,
        value_parser = clap::value_parser!(u64).range(1..))]
    max_pixels: u64,
}

impl Reading {
    /// Pixels that a file may have.
    pub(crate) fn max_pixels(&self) -> usize {
        usize::try_from(self.max_pixels).unwrap_or(usize::MAX)
    }

    /// What the folder of a model does to images, within the limit.
    pub(crate) fn preprocessor(&self, model: &Path) -> Result<Preprocessor> {
        Ok(Preprocessor::open(model)?.with_max_pixels(self.max_pixels()))
    }
}

/// How many files may be preprocessed at a time, so that their pixels need not be in memory at once.
pub(crate) fn at_a_time(preprocessor: &Preprocessor) -> usize {
    match preprocessor.size() {
        Some((height, width)) => (PIXEL_BYTES / (12 * height * width).max(1)).clamp(1, FILES),
        None => UNEQUAL_FILES,
    }
}

/// Whether a name is one of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending))
}

/// The files that are named, and of folders all images in them and below, in the order of their names.
///
/// # Errors
/// [`Error::Io`] if a path is not there or cannot be read, [`Error::Data`] if there is no image among them.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let kind =
            std::fs::metadata(path).map_err(|source| Error::Io { path: path.clone(), source })?;
        match kind.is_dir() {
            true => walk(path, &mut found)?,
            false => found.push(path.clone()),
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(Error::Data {
            file: paths.first().cloned().unwrap_or_default(),
            line: None,
            problem: format!("has no image; expected files that end in {}", ENDINGS.join(", ")),
        }),
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let io = |source| Error::Io { path: folder.into(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?.collect::<Result<Vec<_>, _>>();
    let mut entries: Vec<PathBuf> = entries.map_err(io)?.into_iter().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, found)?;
        } else if is_image(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// What embeds images.
pub(crate) enum Images<'a> {
    Single(&'a ImageEncoder),
    Dual(&'a DualEncoder),
}

impl Images<'_> {
    fn dim(&self) -> usize {
        match self {
            Images::Single(model) => model.dim(),
            Images::Dual(model) => model.dim(),
        }
    }

    /// Vectors of files, so many at a time that neither files nor pixels need be in memory at once.
    pub(crate) fn embed(
        &self,
        preprocessor: &Preprocessor,
        files: &[PathBuf],
        batch_tokens: usize,
    ) -> Result<Embeddings> {
        let bar = progress::bar("embedding", files.len());
        let mut all: Option<Embeddings> = None;
        let each = at_a_time(preprocessor);
        for (i, files) in files.chunks(each).enumerate() {
            let pixels = preprocessor.files(files)?;
            let report = |done: usize| bar.set_position((i * each + done) as u64);
            let options = EmbedOptions { batch_tokens, progress: Some(&report) };
            let part = match self {
                Images::Single(model) => model.embed(&pixels, &options)?,
                Images::Dual(model) => model.embed_images(&pixels, &options)?,
            };
            match &mut all {
                Some(all) => {
                    all.values.extend_from_slice(&part.values);
                    all.tokens += part.tokens;
                }
                None => all = Some(part),
            }
        }
        bar.finish_and_clear();
        debug_assert!(all.as_ref().is_none_or(|all| all.dim == self.dim()));
        all.ok_or_else(|| Error::Argument {
            what: "images",
            expected: "at least one".into(),
            got: "none".into(),
        })
    }
}

/// The names of files as ids; one that is not UTF-8 has a replacement character.
pub(crate) fn ids(files: &[PathBuf]) -> Vec<String> {
    files.iter().map(|file| file.to_string_lossy().into_owned()).collect()
}
