//! R: the exact scores of all items by the anchor queries, the expensive part that is computed once.

use std::ops::Range;
use std::path::Path;

use super::checkpoint::Checkpoints;
use super::scorer::{CrossScorer, Pair, score};
use crate::device::host;
use crate::{Error, Result};

/// Pairs of a chunk where the caller does not say.
const CHUNK: usize = 16 << 10;

/// How the scores are computed.
#[derive(Clone, Copy, Default)]
pub struct Offline<'a> {
    /// Pairs handed to the scorer at a time, at least one item's; 0 is 16,384. An interruption loses one such chunk at most.
    pub chunk: usize,
    /// Where finished chunks are kept, and looked for; none are without a folder.
    pub checkpoints: Option<&'a Path>,
    /// Says which job the chunks are of: the scorer, the queries and the items, whatever changes the scores. Chunks of
    /// another job are an error.
    pub job: &'a str,
    /// Called with the pairs done so far, those of earlier runs included, and the pairs in all.
    pub progress: Option<&'a dyn Fn(usize, usize)>,
}

impl std::fmt::Debug for Offline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offline")
            .field("chunk", &self.chunk)
            .field("checkpoints", &self.checkpoints)
            .field("job", &self.job)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

/// The exact scores of items by anchor queries, on the host: `4 · queries · items` bytes.
#[derive(Clone, PartialEq)]
pub struct ScoreMatrix {
    queries: usize,
    /// \[items, queries\].
    scores: Vec<f32>,
}

impl ScoreMatrix {
    /// Scores that are known already, item after item: \[items, queries\].
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no queries or a score is not finite, [`Error::Shape`] if the length is not a
    /// multiple of `queries`.
    pub fn new(queries: usize, scores: Vec<f32>) -> Result<ScoreMatrix> {
        if queries == 0 {
            return Err(Error::argument("anchor queries", "at least 1", "0"));
        }
        if !scores.len().is_multiple_of(queries) {
            let expected = format!("a multiple of {queries} scores");
            return Err(Error::shape("ScoreMatrix", expected, scores.len().to_string()));
        }
        if let Some(at) = scores.iter().position(|s| !s.is_finite()) {
            let (item, query) = (at / queries, at % queries);
            let got = format!("{} for anchor query {query}, item {item}", scores[at]);
            return Err(Error::argument("score", "a finite number", got));
        }
        Ok(ScoreMatrix { queries, scores })
    }

    /// Scores the `items` by the anchor queries `queries`, both numbers of the scorer, chunk by chunk: `queries.len() ·
    /// items.len()` calls, less those whose chunks lie in [`Offline::checkpoints`].
    ///
    /// A chunk is the scores of consecutive items. It is one file, written as [`store`](crate::search::store) writes:
    /// whole, synced and with a checksum. A damaged one is passed over with a warning and computed again. Folders may
    /// grow: a run over more items takes what is there.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no queries, a number is not the scorer's or a score is not finite;
    /// [`Error::Data`] if a checkpoint is of another job or other queries; [`Error::Io`] if one cannot be read or
    /// written; the scorer's. Chunks that were finished stay in the folder.
    pub fn compute(
        scorer: &dyn CrossScorer,
        queries: &[usize],
        items: Range<usize>,
        options: &Offline<'_>,
    ) -> Result<ScoreMatrix> {
        let n = queries.len();
        if n == 0 {
            return Err(Error::argument("anchor queries", "at least 1", "0"));
        }
        if items.start > items.end || items.end > scorer.items() {
            let expected = format!("a range within {} items", scorer.items());
            return Err(Error::argument("items", expected, format!("{items:?}")));
        }
        if let Some(q) = queries.iter().find(|&&q| q >= scorer.queries()) {
            let expected = format!("queries below {}", scorer.queries());
            return Err(Error::argument("anchor queries", expected, q.to_string()));
        }
        let size = n.checked_mul(items.len()).filter(|&s| s <= isize::MAX as usize / 4);
        let size = size.ok_or_else(|| Error::OutOfMemory {
            device: "the host".into(),
            requested: (n as u64).saturating_mul(items.len() as u64).saturating_mul(4),
            free: None,
        })?;
        let mut scores = host::filled(size, 0.0f32)?;
        let checkpoints = options
            .checkpoints
            .map(|at| Checkpoints::open(at, options.job, queries))
            .transpose()?;
        let mut missing = vec![items.clone()];
        if let Some(checkpoints) = &checkpoints {
            missing = checkpoints.load(items.clone(), &mut scores)?;
        }
        let mut done = size - missing.iter().map(|r| r.len() * n).sum::<usize>();
        let report = |done| {
            if let Some(progress) = options.progress {
                progress(done, size);
            }
        };
        report(done);
        let chunk = if options.chunk == 0 { CHUNK } else { options.chunk };
        let step = (chunk / n).max(1);
        for range in missing {
            for start in range.clone().step_by(step) {
                let part = start..range.end.min(start + step);
                let pairs: Vec<Pair> =
                    part.clone().flat_map(|i| queries.iter().map(move |&q| (q, i))).collect();
                let fresh = score(scorer, &pairs)?;
                if let Some(checkpoints) = &checkpoints {
                    checkpoints.write(part.clone(), &fresh)?;
                }
                scores[(part.start - items.start) * n..][..fresh.len()].copy_from_slice(&fresh);
                done += fresh.len();
                report(done);
            }
        }
        Ok(ScoreMatrix { queries: n, scores })
    }

    /// The number of anchor queries.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// The number of items.
    pub fn items(&self) -> usize {
        self.scores.len() / self.queries
    }

    /// An item's scores, one an anchor query.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn item(&self, item: usize) -> &[f32] {
        &self.scores[item * self.queries..][..self.queries]
    }

    /// All scores, item after item: \[items, queries\].
    pub fn as_slice(&self) -> &[f32] {
        &self.scores
    }

    /// Appends the scores of more items by the same anchor queries.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of anchor queries differ.
    pub fn append(&mut self, more: &ScoreMatrix) -> Result<()> {
        self.check_queries(more)?;
        self.scores.extend_from_slice(&more.scores);
        Ok(())
    }

    pub(super) fn check_queries(&self, more: &ScoreMatrix) -> Result<()> {
        if more.queries == self.queries {
            return Ok(());
        }
        let expected = format!("scores by {} anchor queries", self.queries);
        Err(Error::shape("append", expected, format!("by {}", more.queries)))
    }
}

impl std::fmt::Debug for ScoreMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScoreMatrix of {} anchor queries x {} items", self.queries, self.items())
    }
}
