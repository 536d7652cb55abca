//! Whether two paths are one file.

use std::fs::Metadata;
use std::path::Path;

use super::walk::{Hidden, walk};
use crate::{Error, Result};

/// What tells a file from all others: on Unix device and number, so that hard and symbolic links are seen through;
/// elsewhere the path without links.
#[cfg(unix)]
pub(super) type Identity = (u64, u64);
#[cfg(not(unix))]
pub(super) type Identity = std::path::PathBuf;

#[cfg(unix)]
pub(super) fn identity(_: &Path, metadata: &Metadata) -> std::io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    Ok((metadata.dev(), metadata.ino()))
}
#[cfg(not(unix))]
pub(super) fn identity(path: &Path, _: &Metadata) -> std::io::Result<Identity> {
    path.canonicalize()
}

/// Checks, before any work, an output against the inputs: it can be written, and it is none of them. An input that is a
/// folder stands for all files below it; one that does not exist is passed over. The name `-` is standard input.
///
/// # Errors
/// Those of [`Replacement::check`](super::Replacement::check); [`Error::Io`] if the output is one of the inputs, by the same
/// path, a symbolic or a hard link.
pub fn check_output(output: &Path, inputs: &[&Path]) -> Result<()> {
    super::Replacement::check(output)?;
    let of = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((identity(path, &metadata).ok()?, metadata.is_dir()))
    };
    // A file that does not exist is no input.
    let Some((own, _)) = of(output) else { return Ok(()) };
    let refuse = |input: &Path| {
        let problem = format!(
            "is the input {} too, which it would replace; expected another output",
            input.display()
        );
        Err(Error::io(output, std::io::Error::other(problem)))
    };
    for &input in inputs {
        let path = if input == Path::new("-") { Path::new("/dev/stdin") } else { input };
        match of(path) {
            Some((other, false)) if other == own => return refuse(input),
            Some((_, true)) => {
                let mut found = None;
                walk(&[path], Hidden::Visited, &mut |file| {
                    if found.is_none() && of(file).is_some_and(|(other, _)| other == own) {
                        found = Some(file.to_path_buf());
                    }
                    Ok(())
                })?;
                if let Some(file) = found {
                    return refuse(&file);
                }
            }
            _ => {}
        }
    }
    Ok(())
}
