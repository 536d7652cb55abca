//! Image files, named one by one or by their folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use nearkin::files::{Hidden, walk};
use nearkin::images::{Image, MAX_PIXELS, Pixels, Preprocessor};
use nearkin::models::{DualEncoder, EmbedOptions, Embeddings, ImageEncoder};
use nearkin::search::check_ids;
use nearkin::{Error, Result};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::{print_line, progress};

/// Files decoded, preprocessed and embedded at a time, at most.
const FILES: usize = 256;
/// Files at a time where they come out in different sizes.
const UNEQUAL_FILES: usize = 16;
/// Bytes of pixels at a time where all files come out in one size.
const PIXEL_BYTES: usize = 1 << 30;
/// What is taken from a folder.
const ENDINGS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// What an image may take.
#[derive(clap::Args)]
pub(crate) struct Limits {
    /// Pixels that an image file may have; decoding takes up to 16 bytes a pixel. The default is Pillow's limit.
    #[arg(long, value_name = "N", default_value_t = MAX_PIXELS as u64,
        value_parser = clap::value_parser!(u64).range(1..))]
    max_pixels: u64,
}

impl Limits {
    /// Pixels that a file may have.
    pub(crate) fn max_pixels(&self) -> usize {
        usize::try_from(self.max_pixels).unwrap_or(usize::MAX)
    }

    /// What the folder of a model does to images, within the limit.
    pub(crate) fn preprocessor(&self, model: &Path) -> Result<Preprocessor> {
        Ok(Preprocessor::open(model)?.with_max_pixels(self.max_pixels()))
    }
}

/// How many image files are read.
#[derive(clap::Args)]
pub(crate) struct Reading {
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Leave out images that cannot be read, and list them at the end. Without it they are listed before any work.
    #[arg(long)]
    skip_bad: bool,
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

/// The files that are named, and of folders all images in them and below, in the order of their names. Each real folder
/// counts once; below a folder names that begin with a dot are passed over.
///
/// # Errors
/// [`Error::Io`] if a path is not there or cannot be read, [`Error::Data`] if there is no image among them, or the ids of
/// two are the same.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let named: HashSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let mut found = Vec::new();
    walk(paths, Hidden::Skipped, &mut |path| {
        if named.contains(path) || is_image(path) {
            found.push(path.to_path_buf());
        }
        Ok(())
    })?;
    let fault = |problem| Error::Data {
        file: paths.first().cloned().unwrap_or_default(),
        line: None,
        problem,
    };
    if found.is_empty() {
        let endings = ENDINGS.join(", ");
        return Err(fault(format!("has no image; expected files that end in {endings}")));
    }
    check_ids(&ids(&found)).map_err(|e| fault(format!("{e}; name each image once")))?;
    Ok(found)
}

/// The names of files as ids. Bytes of a name that are not UTF-8 become `\xNN`.
pub(crate) fn ids(files: &[PathBuf]) -> Vec<String> {
    let id = |file: &PathBuf| {
        let mut id = String::new();
        for chunk in file.as_os_str().as_encoded_bytes().utf8_chunks() {
            id += chunk.valid();
            chunk.invalid().iter().for_each(|byte| id += &format!("\\x{byte:02X}"));
        }
        id
    };
    files.iter().map(id).collect()
}

/// Images that could not be read, with the reasons.
#[derive(Default)]
pub(crate) struct Bad(Vec<(PathBuf, Error)>);

/// What is wrong with a file, without its name.
fn problem(error: &Error) -> String {
    match error {
        Error::Image { problem, .. } => problem.clone(),
        Error::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

impl Bad {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The files and what is wrong with each.
    pub(crate) fn json(&self) -> Value {
        let line = |(file, error): &(PathBuf, Error)| json!({ "image": file.to_string_lossy(), "problem": problem(error) });
        self.0.iter().map(line).collect()
    }

    /// Lists them, if there are any: on stdout as an object with their count for machines, else on stderr.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        if json {
            let line = json!({ "skipped": self.len(), "bad": self.json() });
            return print_line(&line.to_string());
        }
        eprintln!("{} images were skipped:", self.len());
        self.0.iter().for_each(|(_, error)| eprintln!("  {error}"));
        Ok(())
    }

    /// All of them as one error.
    fn into_error(self) -> Option<Error> {
        let mut all: Vec<Error> = self.0.into_iter().map(|(_, error)| error).collect();
        match all.len() {
            0 | 1 => all.pop(),
            _ => Some(Error::Several { all }),
        }
    }
}

impl Reading {
    /// Pixels of files, none for those that are bad, which are added to `bad`.
    ///
    /// # Errors
    /// The first file's that is bad, where such files are not skipped.
    pub(crate) fn pixels<P: AsRef<Path> + Sync>(
        &self,
        preprocessor: &Preprocessor,
        files: &[P],
        bad: &mut Bad,
    ) -> Result<Vec<Option<Pixels>>> {
        let mut all = Vec::with_capacity(files.len());
        for (file, pixels) in files.iter().zip(preprocessor.each_file(files)) {
            match pixels {
                Ok(pixels) => all.push(Some(pixels)),
                Err(error) if self.skip_bad && is_bad(&error) => {
                    bad.0.push((file.as_ref().into(), error));
                    all.push(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Looks at the headers of files, before any work.
    ///
    /// # Errors
    /// One that names all files whose headers are bad, where such files are not skipped.
    pub(crate) fn check<P: AsRef<Path> + Sync>(&self, files: &[P]) -> Result<()> {
        if self.skip_bad {
            return Ok(());
        }
        let look = |file: &P| {
            Image::check_within(file, self.limits.max_pixels())
                .err()
                .map(|e| (file.as_ref().to_path_buf(), e))
        };
        Bad(files.par_iter().filter_map(look).collect()).into_error().map_or(Ok(()), Err)
    }
}

/// Whether a file is at fault, not the machine.
fn is_bad(error: &Error) -> bool {
    matches!(error, Error::Image { .. } | Error::Io { .. })
}

/// What embeds images.
pub(crate) enum Images<'a> {
    Single(&'a ImageEncoder),
    Dual(&'a DualEncoder),
}

/// Vectors of the images that could be read.
pub(crate) struct Embedded {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) vectors: Embeddings,
    pub(crate) bad: Bad,
}

impl Images<'_> {
    /// Vectors of files, so many at a time that neither files nor pixels need be in memory at once.
    pub(crate) fn embed(
        &self,
        preprocessor: &Preprocessor,
        reading: &Reading,
        files: Vec<PathBuf>,
        batch_tokens: usize,
    ) -> Result<Embedded> {
        let bar = progress::bar("embedding", files.len());
        let mut all: Option<Embeddings> = None;
        let (mut kept, mut bad) = (Vec::with_capacity(files.len()), Bad::default());
        let each = at_a_time(preprocessor);
        for (i, files) in files.chunks(each).enumerate() {
            let read = reading.pixels(preprocessor, files, &mut bad)?;
            let good =
                files.iter().zip(read).filter_map(|(file, read)| Some((file.clone(), read?)));
            let (names, pixels): (Vec<PathBuf>, Vec<Pixels>) = good.unzip();
            if pixels.is_empty() {
                continue;
            }
            let report = |done: usize| bar.set_position((i * each + done) as u64);
            let options =
                EmbedOptions { batch_tokens, progress: Some(&report), ..EmbedOptions::default() };
            let part = match self {
                Images::Single(model) => model.embed(&pixels, &options)?,
                Images::Dual(model) => model.embed_images(&pixels, &options)?,
            };
            kept.extend(names);
            match &mut all {
                Some(all) => {
                    all.values.extend_from_slice(&part.values);
                    all.tokens += part.tokens;
                }
                None => all = Some(part),
            }
        }
        bar.finish_and_clear();
        match (all, bad) {
            (Some(vectors), bad) => Ok(Embedded { files: kept, vectors, bad }),
            (None, bad) => Err(bad.into_error().unwrap_or_else(|| Error::Argument {
                what: "images",
                expected: "at least one".into(),
                got: "none".into(),
            })),
        }
    }
}
