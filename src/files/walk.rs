//! The files below folders.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::identity::identity;
use crate::{Error, Result};

/// What becomes of entries whose names begin with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// They are passed over, unless they are named.
    Skipped,
    /// They are visited.
    Visited,
}

/// Calls `visit` with each path that is no folder, and for each folder with every entry below it that is no folder, in the
/// order of the names. Links to folders are followed; each real folder is visited once, at the first path that leads to it.
///
/// # Errors
/// [`Error::Io`] if a path does not exist or a folder cannot be read; those of `visit`.
pub fn walk<P: AsRef<Path>>(
    paths: &[P],
    hidden: Hidden,
    visit: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<()> {
    let mut seen = HashSet::new();
    let is_folder = |path: &Path| std::fs::metadata(path).map(|m| m.is_dir());
    // Paths yet to be visited, the next one last: no recursion, so no depth is too great.
    let mut open: Vec<(PathBuf, bool)> = Vec::new();
    for path in paths.iter().rev() {
        let path = path.as_ref();
        open.push((path.into(), is_folder(path).map_err(|e| Error::io(path, e))?));
    }
    while let Some((path, is_folder_itself)) = open.pop() {
        if !is_folder_itself {
            visit(&path)?;
            continue;
        }
        let io = |e| Error::io(&path, e);
        let metadata = std::fs::metadata(&path).map_err(io)?;
        if !seen.insert(identity(&path, &metadata).map_err(io)?) {
            continue;
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(io)? {
            let entry = entry.map_err(io)?;
            if hidden == Hidden::Skipped && entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let below = entry.path();
            // A link that leads nowhere is an entry like any file.
            let below_is_folder = is_folder(&below).unwrap_or(false);
            entries.push((below, below_is_folder));
        }
        entries.sort_unstable_by(|a, b| b.cmp(a));
        open.append(&mut entries);
    }
    Ok(())
}
