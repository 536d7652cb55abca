//! Selection on the CPU: workers draw tiles of the corpus in order, and each keeps the best of what it saw.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Best, Selector};
use crate::device::threads::Threads;
use crate::device::threads::items::*;

/// Bytes of candidates a worker may hold; queries beyond them wait for another pass over the corpus.
const CANDIDATES: usize = 32 << 20;

/// Scores tiles, and keeps the best of each query.
pub(crate) trait Worker<T>: Send {
    /// Takes the next tile.
    fn tile(&mut self, tile: &T);

    /// What was kept of each query.
    fn found(self) -> Vec<Selector>;
}

/// How many queries are searched together.
pub(crate) fn group(k: usize) -> usize {
    (CANDIDATES / Selector::bytes(k)).max(1)
}

/// The best of each of `queries` queries among the tiles, which takes one thread about `cost` nanoseconds.
pub(crate) fn best<T: Sync, W: Worker<T>>(
    threads: &Threads,
    cost: usize,
    tiles: &[T],
    queries: usize,
    worker: impl Fn() -> W + Sync,
) -> Best {
    // Each worker sees rows in ascending order; the merge is under a total order, so it does not matter who drew which.
    let next = AtomicUsize::new(0);
    let work = |_| {
        let mut worker = worker();
        while let Some(tile) = tiles.get(next.fetch_add(1, Ordering::Relaxed)) {
            worker.tile(tile);
        }
        worker.found()
    };
    threads.run(cost, || {
        let workers = threads.count().min(tiles.len());
        let found = threads.map(cost, (0..workers).into_par_iter(), work);
        let [first, others @ ..] = &found[..] else {
            return Best::Host(vec![Vec::new(); queries]);
        };
        Best::Host(threads.map(cost, (0..queries).into_par_iter(), |q| {
            let mut all = first[q].clone();
            others.iter().for_each(|found| all.merge(&found[q]));
            all.finish()
        }))
    })
}
