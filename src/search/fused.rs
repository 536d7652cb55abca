//! Fusion of what indexes found.

use std::sync::Arc;

use super::ids::Hit;
use crate::rank::fuse::Fusion;
use crate::{Error, Result};

/// The `k` best ids for each query by the fusion of several searches' hits: `runs` has for each search its queries' hits, in the same order of
/// queries. Equal scores are ordered by id.
///
/// ```
/// use nearkin::ops::topk::Metric;
/// use nearkin::rank::fuse::{Fusion, Score};
/// use nearkin::search::{FlatIndex, fuse};
/// use nearkin::{DType, Device};
///
/// let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 2)?;
/// index.add(&["a", "b"], &[1.0, 0.0, 0.0, 3.0])?;
/// let by = |metric| index.search(&[1.0, 0.9], 2, metric, None);
/// let runs = [by(Metric::Cosine)?, by(Metric::Dot)?];
/// let fused = fuse(&Fusion::new(Score::MinMax), &runs, 1)?;
/// assert_eq!(fused[0].len(), 1);
/// # Ok::<(), nearkin::Error>(())
/// ```
///
/// # Errors
/// As [`Fusion::fuse`]; [`Error::Shape`] if the searches were of different numbers of queries.
pub fn fuse(fusion: &Fusion, runs: &[Vec<Vec<Hit>>], k: usize) -> Result<Vec<Vec<Hit>>> {
    let queries = runs.first().map_or(0, Vec::len);
    if let Some(other) = runs.iter().find(|run| run.len() != queries) {
        let expected = format!("hits of {queries} queries in each run");
        return Err(Error::shape("fuse", expected, other.len().to_string()));
    }
    let pairs = |hits: &[Hit]| hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
    (0..queries)
        .map(|q| {
            let lists: Vec<Vec<(Arc<str>, f32)>> = runs.iter().map(|run| pairs(&run[q])).collect();
            let lists: Vec<&[(Arc<str>, f32)]> = lists.iter().map(Vec::as_slice).collect();
            let fused = fusion.fuse(&lists, k)?;
            Ok(fused.into_iter().map(|(id, score)| Hit { id, score }).collect())
        })
        .collect()
}
