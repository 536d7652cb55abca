//! Finished chunks of the offline step, kept in a folder.

use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::search::store::{self, Stored, Vectors};
use crate::{Error, Result, shown};

/// The folder of one job. A chunk is a file `scores-<first item>-<end>.safetensors`: its `embeddings` are the scores
/// \[items, queries\] f32, its ids `<job>/<item>`, where the job is a hash of its name and its anchor queries.
pub(super) struct Checkpoints {
    folder: PathBuf,
    job: String,
    queries: usize,
}

impl Checkpoints {
    /// The folder, made where it is missing.
    pub(super) fn open(folder: &Path, job: &str, queries: &[usize]) -> Result<Checkpoints> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let mut hash = Xxh3::new();
        for &q in queries {
            hash.update(&(q as u64).to_le_bytes());
        }
        hash.update(job.as_bytes());
        let job = format!("{:016x}", hash.digest());
        Ok(Checkpoints { folder: folder.into(), job, queries: queries.len() })
    }

    fn path(&self, items: &Range<usize>) -> PathBuf {
        self.folder.join(format!("scores-{:010}-{:010}.safetensors", items.start, items.end))
    }

    pub(super) fn write(&self, items: Range<usize>, scores: &[f32]) -> Result<()> {
        let ids: Vec<String> = items.clone().map(|i| format!("{}/{i}", self.job)).collect();
        let vectors = Vectors::f32(&[items.len(), self.queries], scores);
        store::write(&self.path(&items), vec![("embeddings", vectors)], &ids)
    }

    /// Puts the scores of `items` that are in the folder into `scores` \[items, queries\] and gives the others.
    pub(super) fn load(
        &self,
        items: Range<usize>,
        scores: &mut [f32],
    ) -> Result<Vec<Range<usize>>> {
        let mut found = vec![false; items.len()];
        let entries = std::fs::read_dir(&self.folder).map_err(|e| Error::io(&self.folder, e))?;
        for entry in entries {
            let path = entry.map_err(|e| Error::io(&self.folder, e))?.path();
            let Some(range) = range_of(&path) else { continue };
            let wanted = range.start.max(items.start)..range.end.min(items.end);
            if wanted.is_empty() {
                continue;
            }
            let Some(stored) = self.read(&path, &range)? else { continue };
            let values = stored.to_f32_vec(wanted.start - range.start..wanted.end - range.start)?;
            if values.iter().any(|v| !v.is_finite()) {
                tracing::warn!(
                    "{}: a score is not finite; computing it again",
                    shown(path.display())
                );
                continue;
            }
            let at = wanted.start - items.start;
            scores[at * self.queries..][..values.len()].copy_from_slice(&values);
            found[at..at + wanted.len()].fill(true);
        }
        let mut missing: Vec<Range<usize>> = Vec::new();
        for (item, _) in items.zip(found).filter(|(_, found)| !found) {
            match missing.last_mut() {
                Some(last) if last.end == item => last.end += 1,
                _ => missing.push(item..item + 1),
            }
        }
        Ok(missing)
    }

    /// A chunk of this job; none where it is damaged.
    fn read(&self, path: &Path, items: &Range<usize>) -> Result<Option<Stored>> {
        let damaged = |problem: &dyn std::fmt::Display| {
            tracing::warn!("{}: {problem}; computing its scores again", shown(path.display()));
        };
        let stored = match Stored::open(path) {
            Ok(stored) => stored,
            Err(e @ Error::Io { .. }) if std::fs::metadata(path).map_or(true, |m| m.len() > 0) => {
                return Err(e);
            }
            Err(e) => {
                damaged(&e);
                return Ok(None);
            }
        };
        let job = stored.ids().first().and_then(|id| id.split_once('/')).map(|(job, _)| job);
        if let Some(job) = job.filter(|&job| job != self.job) {
            let problem = format!(
                "holds scores of another job ({job}, this one is {}): give each scorer, set of anchor queries and \
                 corpus a folder of its own",
                self.job
            );
            return Err(Error::Data { file: path.into(), line: None, problem });
        }
        let ids = items.clone().map(|i| format!("{}/{i}", self.job));
        if !stored.ids().iter().cloned().eq(ids) || stored.dim() != self.queries {
            damaged(&"does not hold what its name says");
            return Ok(None);
        }
        Ok(Some(stored))
    }
}

/// The items that a chunk's name stands for.
fn range_of(path: &Path) -> Option<Range<usize>> {
    let name = path.file_name()?.to_str()?;
    let (start, end) =
        name.strip_prefix("scores-")?.strip_suffix(".safetensors")?.split_once('-')?;
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start < end).then_some(start..end)
}
