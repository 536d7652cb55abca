//! The best of scores that another kernel left on a device: slabs of them, each selected from where it lies.
//!
//! On a GPU a slab's selection is enqueued behind what computes it, and goes on with the lists of the slabs before; what
//! comes back, once, is those lists. On the CPU, for a k beyond the kernels' lists, and where the lists of all queries would be
//! too large, slabs are read and selected from on the host, each while the next is computed.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::select::{self, Entry};
use super::{Exclude, Selector, entry, key};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::device::Backend;
use crate::device::Device;
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::{Result, Tensor};

/// The largest k whose lists the kernels keep.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
const MOST: usize = 256;
/// Bytes of the lists.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
const LISTS: usize = 64 << 20;
/// The image of -inf, which is not found.
const LOWEST: u32 = 0x007f_ffff;

/// The `k` best of each query's scores so far: score descending, equal scores by ascending document. NaN and -∞ are not
/// found.
pub(crate) struct Selection<'a> {
    queries: usize,
    exclude: Exclude<'a>,
    /// The documents' numbers, ascending. Entries are their places here, whose order is the same.
    numbers: Vec<u32>,
    place: Place,
    threads: Threads,
}

enum Place {
    Host {
        selectors: Vec<Selector>,
        /// Scores that are being computed, and the place of the first.
        waiting: Option<(Tensor, usize)>,
    },
    #[cfg(feature = "cuda")]
    Cuda(cuda::Lists),
    #[cfg(feature = "wgpu")]
    Wgpu(wgpu::Lists),
}

impl Place {
    fn host(queries: usize, k: usize) -> Place {
        Place::Host { selectors: vec![Selector::new(k); queries], waiting: None }
    }
}

impl<'a> Selection<'a> {
    /// Nothing yet, for scores \[Q, n\] on `device`, n at most `widest`. A document that `exclude` leaves out for all queries
    /// need not have a score.
    pub(crate) fn new(
        device: &Device,
        [queries, widest]: [usize; 2],
        k: usize,
        exclude: Exclude<'a>,
    ) -> Result<Selection<'a>> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        let place = match device.backend() {
            _ if queries == 0 || k == 0 => Place::host(queries, k),
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) if k <= MOST && 8 * k * queries <= LISTS => {
                Place::Cuda(cuda::Lists::new(gpu, device, queries, k)?)
            }
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) if k <= MOST && wgpu::most_lists(gpu, k) >= queries => {
                Place::Wgpu(wgpu::Lists::new(gpu, [queries, widest], k)?)
            }
            _ => Place::host(queries, k),
        };
        #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
        let place = Place::host(queries, k);
        let (threads, _) = (device.threads().clone(), widest);
        Ok(Selection { queries, exclude, numbers: Vec::new(), place, threads })
    }

    /// Takes the scores \[Q, n\] f32 of the documents `numbers`, which are greater than all before.
    pub(crate) fn take(&mut self, scores: Tensor, numbers: &[u32]) -> Result<()> {
        let base = self.numbers.len();
        self.numbers.extend_from_slice(numbers);
        if scores.is_empty() {
            return Ok(());
        }
        match &mut self.place {
            Place::Host { waiting, .. } => {
                let before = waiting.replace((scores, base));
                self.select(before)
            }
            #[cfg(feature = "cuda")]
            Place::Cuda(lists) => lists.take(&scores, base, masks(&scores, self.exclude, numbers)?),
            #[cfg(feature = "wgpu")]
            Place::Wgpu(lists) => lists.take(&scores, base, masks(&scores, self.exclude, numbers)?),
        }
    }

    /// Selects from scores on the host.
    fn select(&mut self, scores: Option<(Tensor, usize)>) -> Result<()> {
        let (Place::Host { selectors, .. }, Some((scores, base))) = (&mut self.place, scores)
        else {
            return Ok(());
        };
        let scores = scores.to_vec::<f32>()?;
        let width = scores.len() / self.queries;
        let numbers = &self.numbers[base..];
        let (queries, exclude) = (selectors.par_iter_mut().enumerate(), self.exclude);
        let each = queries.zip(scores.par_chunks(width));
        self.threads.for_each(scores.len(), each, |((q, selector), scores)| {
            for (at, (&score, &number)) in (base..).zip(scores.iter().zip(numbers)) {
                let (key, entry) = (key(score), entry(key(score), at as u32));
                if key > LOWEST
                    && entry > selector.threshold()
                    && !exclude.contains(q, number as usize)
                {
                    selector.push(entry);
                }
            }
        });
        Ok(())
    }

    /// Each query's entries in order, by the documents' numbers.
    pub(crate) fn finish(mut self) -> Result<Vec<Vec<Entry>>> {
        let last = match &mut self.place {
            Place::Host { waiting, .. } => waiting.take(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => None,
        };
        self.select(last)?;
        let mut found: Vec<Vec<Entry>> = match self.place {
            Place::Host { selectors, .. } => select::finish(&self.threads, selectors),
            #[cfg(feature = "cuda")]
            Place::Cuda(lists) => lists.finish()?,
            #[cfg(feature = "wgpu")]
            Place::Wgpu(lists) => lists.finish(&self.threads)?,
        };
        let number = |e: Entry| entry((e >> 32) as u32, self.numbers[!(e as u32) as usize]);
        found.iter_mut().flatten().for_each(|e| *e = number(*e));
        Ok(found)
    }
}

/// Bits of the documents of scores \[Q, n\] that are excluded for some queries and not for all: \[Q, words\] u32 beside the
/// scores, the first document in the lowest place.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn masks(scores: &Tensor, exclude: Exclude<'_>, numbers: &[u32]) -> Result<Option<Tensor>> {
    // Those of a bitmap for all, and for a single query, have no scores.
    let Exclude::PerQuery(maps @ [_, _, ..]) = exclude else { return Ok(None) };
    let word = |(map, numbers): (&super::Bitmap, &[u32])| match numbers {
        [first, .., last] if (last - first) as usize == numbers.len() - 1 => {
            map.word(*first as usize)
        }
        _ => numbers
            .iter()
            .enumerate()
            .fold(0, |bits, (i, n)| bits | (map.contains(*n as usize) as u32) << i),
    };
    let shape = [maps.len(), numbers.len().div_ceil(32)];
    let mut words = vec![0u32; shape[0] * shape[1]];
    let (cost, rows) = (maps.len() * numbers.len(), words.par_chunks_mut(shape[1].max(1)));
    scores.device().threads().for_each(cost, rows.zip(maps), |(words, map)| {
        let each = words.iter_mut().zip(numbers.chunks(32));
        each.for_each(|(to, numbers)| *to = word((map, numbers)));
    });
    Tensor::from_slice(scores.device(), &shape, &words).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DeviceOptions;
    use crate::ops::topk::Bitmap;

    fn devices() -> Vec<(&'static str, Device)> {
        let mut all = vec![("cpu", Device::cpu())];
        let mut open = |name, device: Result<Device>| match device {
            Ok(device) => all.push((name, device)),
            Err(e) => eprintln!("skipped on {name}: {e}"),
        };
        open("cuda", Device::by_name("cuda"));
        #[cfg(feature = "wgpu")]
        for (name, max_binding) in [("wgpu", None), ("wgpu with small bindings", Some(1 << 20))] {
            let options = DeviceOptions { max_binding, ..Default::default() };
            open(name, Device::wgpu_with(0, options));
        }
        let _ = DeviceOptions::default();
        all
    }

    /// Each query's documents and keys, from slabs of the scores \[Q, N\] of the documents that are not excluded for all.
    fn found(
        device: &Device,
        scores: &[Vec<f32>],
        widths: &[usize],
        k: usize,
        exclude: Exclude<'_>,
    ) -> Vec<Vec<Entry>> {
        let queries = scores.len();
        let open = (0..scores[0].len()).filter(|&d| !exclude.covers(0..queries, d..d + 1));
        let open: Vec<u32> = open.map(|d| d as u32).collect();
        let widest = *widths.iter().max().unwrap();
        let mut selection = Selection::new(device, [queries, widest], k, exclude).unwrap();
        let (mut rest, mut widths) = (&open[..], widths.iter().cycle());
        while !rest.is_empty() {
            let (numbers, more) = rest.split_at(rest.len().min(*widths.next().unwrap()));
            let slab = scores.iter().flat_map(|row| numbers.iter().map(|&d| row[d as usize]));
            let slab: Vec<f32> = slab.collect();
            let slab = Tensor::from_slice(device, &[queries, numbers.len()], &slab).unwrap();
            selection.take(slab, numbers).unwrap();
            rest = more;
        }
        selection.finish().unwrap()
    }

    /// The same by sorting.
    fn wanted(scores: &[Vec<f32>], k: usize, exclude: Exclude<'_>) -> Vec<Vec<Entry>> {
        let best = |(q, scores): (usize, &Vec<f32>)| {
            let all = (0..scores.len()).filter(|&d| !exclude.contains(q, d));
            let all = all.filter(|&d| scores[d] > f32::NEG_INFINITY);
            let mut all: Vec<Entry> = all.map(|d| entry(key(scores[d]), d as u32)).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.truncate(k);
            all
        };
        scores.iter().enumerate().map(best).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_best_of_slabs_are_the_best_of_all(
            queries in 1usize..6,
            count in prop_oneof![1usize..9, 100usize..1500],
            widths in prop::collection::vec(prop_oneof![1usize..5, 60usize..700], 1..4),
            k in prop_oneof![1usize..12, Just(64), Just(65), Just(255), Just(256), Just(257), Just(700)],
            levels in prop_oneof![Just(3u32), Just(60), Just(1 << 20)],
            kind in 0usize..3,
            seed: u32,
        ) {
            // Slabs of a document or few are tried with few.
            let count = if widths.iter().all(|w| *w < 5) { count.min(40) } else { count };
            let mut state = seed | 1;
            let mut below = |n: u32| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state % n
            };
            let mut score = || match below(40) {
                0 => f32::NAN,
                1 => f32::NEG_INFINITY,
                2 => f32::INFINITY,
                3 => -0.0,
                _ => below(levels) as f32 - (levels / 2) as f32,
            };
            let scores: Vec<Vec<f32>> =
                (0..queries).map(|_| (0..count).map(|_| score()).collect()).collect();
            let maps: Vec<Bitmap> =
                (0..queries).map(|_| Bitmap::from_fn(count, |_| below(3) == 0)).collect();
            let exclude =
                [Exclude::None, Exclude::Shared(&maps[0]), Exclude::PerQuery(&maps)][kind];
            let want = wanted(&scores, k, exclude);
            for (name, device) in devices() {
                prop_assert_eq!(&found(&device, &scores, &widths, k, exclude), &want, "{}", name);
            }
        }
    }

    /// Rows long enough for several splits, as bad as can be: everything enters.
    #[test]
    fn ascending_scores_enter_one_and_all() {
        for (queries, count, k) in [(1, 70_001, 256), (3, 21_003, 10)] {
            let row = |q: usize| (0..count).map(|d| (d / (q + 1)) as f32).collect();
            let scores: Vec<Vec<f32>> = (0..queries).map(row).collect();
            let want = wanted(&scores, k, Exclude::None);
            for (name, device) in devices() {
                let got = found(&device, &scores, &[50_000], k, Exclude::None);
                assert_eq!(got, want, "{name}");
            }
        }
    }

    #[test]
    fn of_nothing_nothing_is_found() {
        for (name, device) in devices() {
            let none = Selection::new(&device, [2, 5], 3, Exclude::None).unwrap();
            assert_eq!(none.finish().unwrap(), [[], []] as [[Entry; 0]; 2], "{name}");
            let mut none = Selection::new(&device, [0, 5], 3, Exclude::None).unwrap();
            let scores = Tensor::from_slice::<f32>(&device, &[0, 5], &[]).unwrap();
            none.take(scores, &[0, 1, 2, 3, 4]).unwrap();
            assert!(none.finish().unwrap().is_empty(), "{name}");
        }
    }
}
