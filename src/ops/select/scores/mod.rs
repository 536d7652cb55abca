//! Top-k over slabs of scores that are on a device already.
//!
//! On a GPU a slab's selection is enqueued after the kernel that computes it, and continues from the slabs before. On the CPU slabs
//! are selected from as they come.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use std::ops::Range;

use super::{Best, Filter, Selector, entry, key};
use crate::device::threads::items::*;
use crate::device::{Backend, Device};
use crate::{Result, Tensor};

/// Queries that are counted for together.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
const COUNTED: usize = 1024;
/// The key of -∞, which is not found.
pub(crate) const LOWEST: u32 = 0x007f_ffff;

/// What is selected: the `k` best documents of `total`, whose scores come in slabs of at most `widest`.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) device: &'a Device,
    pub(crate) k: usize,
    /// The key that must be exceeded, at least [`LOWEST`].
    pub(crate) floor: u32,
    #[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
    pub(crate) widest: usize,
    pub(crate) total: usize,
    pub(crate) filter: Filter<'a>,
    /// Added to scores other than -∞: \[total\] f32.
    pub(crate) bias: Option<&'a Tensor>,
}

/// Each query's best scores so far. NaN and -∞ are not found.
pub(crate) struct Selection<'a> {
    wanted: Wanted<'a>,
    queries: usize,
    place: Place,
}

enum Place {
    Host(Vec<Selector>),
    /// Groups of queries.
    #[cfg(feature = "cuda")]
    Cuda(Vec<(Range<usize>, cuda::Selected)>),
    #[cfg(feature = "wgpu")]
    Wgpu(Vec<(Range<usize>, wgpu::Selected)>),
}

/// Scores \[Q, n\] f32 of documents, and what is needed to select from them on a GPU.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[derive(Clone, Copy)]
pub(crate) struct Slab<'a> {
    pub(crate) scores: &'a Tensor,
    /// The number of the first document, where they are consecutive.
    pub(crate) base: usize,
    /// Bits of the documents that are excluded for some queries and not for all: \[Q, words\] u32.
    pub(crate) masks: Option<&'a Tensor>,
    /// The documents' numbers \[n\] u32, where they are not consecutive.
    pub(crate) numbers: Option<&'a Tensor>,
    /// What is added to the scores, by the documents' numbers.
    pub(crate) bias: Option<&'a Tensor>,
}

/// Groups of at most `most` queries, and what `select` makes for each number of queries.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn groups<T>(
    queries: usize,
    most: usize,
    select: impl Fn(usize) -> Result<T>,
) -> Result<Vec<(Range<usize>, T)>> {
    let starts = (0..queries).step_by(most);
    let ranges = starts.map(|start| start..queries.min(start + most));
    ranges.map(|range| Ok((range.clone(), select(range.len())?))).collect()
}

impl<'a> Selection<'a> {
    /// Nothing yet. A document that the filter leaves out for all queries need not have a score.
    pub(crate) fn new(queries: usize, wanted: Wanted<'a>) -> Result<Selection<'a>> {
        let place = match wanted.device.backend() {
            Backend::Cpu(_) => Place::Host(vec![Selector::new(wanted.k, wanted.floor); queries]),
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => Place::Cuda(groups(queries, cuda::group(wanted.k), |n| {
                cuda::Selected::new(gpu, n, &wanted)
            })?),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => Place::Wgpu(groups(queries, wgpu::group(gpu, wanted.k), |n| {
                wgpu::Selected::new(gpu, n, &wanted)
            })?),
        };
        Ok(Selection { wanted, queries, place })
    }

    /// Only counts what exceeds the floor. For GPUs.
    pub(crate) fn counting(queries: usize, wanted: Wanted<'a>) -> Result<Selection<'a>> {
        let place = match wanted.device.backend() {
            Backend::Cpu(_) => Place::Host(Vec::new()),
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => {
                let group = |n| cuda::Selected::counting(gpu, n, &wanted);
                Place::Cuda(groups(queries, COUNTED, group)?)
            }
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => {
                let group = |n| wgpu::Selected::counting(gpu, n, &wanted);
                Place::Wgpu(groups(queries, COUNTED, group)?)
            }
        };
        Ok(Selection { wanted, queries, place })
    }

    /// Takes the scores \[Q, n\] f32 of the documents `numbers`, which are greater than all before.
    pub(crate) fn take(&mut self, scores: &Tensor, numbers: &[u32]) -> Result<()> {
        if scores.is_empty() {
            return Ok(());
        }
        match &mut self.place {
            Place::Host(selectors) => {
                let Wanted { device, filter, bias, .. } = self.wanted;
                let (cost, width) = (scores.len(), scores.len() / self.queries);
                let scores = scores.cpu::<f32>().par_chunks(width);
                let bias = bias.map(Tensor::cpu::<f32>);
                let each = selectors.par_iter_mut().enumerate().zip(scores);
                device.threads().for_each(cost, each, |((q, best), scores)| {
                    for (&score, &number) in scores.iter().zip(numbers) {
                        let score = match bias {
                            Some(bias) if score != f32::NEG_INFINITY => {
                                score + bias[number as usize]
                            }
                            _ => score,
                        };
                        let entry = entry(key(score), number);
                        if entry > best.threshold() && !filter.excludes(q, number as usize) {
                            best.push(entry);
                        }
                    }
                });
                Ok(())
            }
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => self.take_on_gpu(scores, numbers),
        }
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn take_on_gpu(&mut self, scores: &Tensor, numbers: &[u32]) -> Result<()> {
        let Wanted { device, filter, bias, .. } = self.wanted;
        let (masks, named) = (masks(scores, filter, numbers)?, named(device, numbers)?);
        let slab = Slab {
            scores,
            base: numbers[0] as usize,
            masks: masks.as_ref(),
            numbers: named.as_ref(),
            bias,
        };
        match (&mut self.place, device.backend()) {
            #[cfg(feature = "cuda")]
            (Place::Cuda(groups), Backend::Cuda(gpu)) => groups
                .iter_mut()
                .try_for_each(|(queries, g)| g.take(gpu, queries.clone(), &self.wanted, &slab)),
            #[cfg(feature = "wgpu")]
            (Place::Wgpu(groups), Backend::Wgpu(gpu)) => groups
                .iter_mut()
                .try_for_each(|(queries, g)| g.take(gpu, queries.clone(), &self.wanted, &slab)),
            _ => unreachable!("the place is the device's"),
        }
    }

    /// What [`counting`](Self::counting) counted for each query. Waits for the device.
    pub(crate) fn counts(&self) -> Result<Vec<u32>> {
        let counts: Vec<Vec<u32>> = match &self.place {
            Place::Host(_) => Vec::new(),
            #[cfg(feature = "cuda")]
            Place::Cuda(groups) => groups.iter().map(|(_, g)| g.counts()).collect::<Result<_>>()?,
            #[cfg(feature = "wgpu")]
            Place::Wgpu(groups) => groups.iter().map(|(_, g)| g.counts()).collect::<Result<_>>()?,
        };
        Ok(counts.concat())
    }

    /// Each query's entries, by the documents' numbers, in groups of queries.
    pub(crate) fn finish(self) -> Result<Vec<Best>> {
        match self.place {
            Place::Host(all) => {
                // Candidates are sorted.
                let cost = 20 * self.queries * self.wanted.k.min(self.wanted.total);
                let threads = self.wanted.device.threads();
                Ok(vec![Best::Host(threads.map(cost, all.into_par_iter(), Selector::finish))])
            }
            #[cfg(feature = "cuda")]
            Place::Cuda(groups) => groups.into_iter().map(|(_, group)| group.finish()).collect(),
            #[cfg(feature = "wgpu")]
            Place::Wgpu(groups) => groups.into_iter().map(|(_, group)| group.finish()).collect(),
        }
    }
}

/// The numbers on the device, where they are not consecutive.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn named(device: &Device, numbers: &[u32]) -> Result<Option<Tensor>> {
    match numbers {
        [first, .., last] if (last - first) as usize == numbers.len() - 1 => Ok(None),
        [_] => Ok(None),
        _ => Tensor::from_slice(device, &[numbers.len()], numbers).map(Some),
    }
}

/// Bits of the documents of scores \[Q, n\] that are excluded for some queries and not for all: \[Q, words\] u32 beside the
/// scores, the first document in the lowest place.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn masks(scores: &Tensor, filter: Filter<'_>, numbers: &[u32]) -> Result<Option<Tensor>> {
    // Those of a set for all, and for a single query, have no scores.
    let Filter::PerQuery(sets @ [_, _, ..]) = filter else { return Ok(None) };
    let word = |(set, numbers): (&super::Rows<'_>, &[u32])| match numbers {
        [first, .., last] if (last - first) as usize == numbers.len() - 1 => {
            set.word(*first as usize)
        }
        _ => {
            let bit = |(i, n): (usize, &u32)| (set.excludes(*n as usize) as u32) << i;
            numbers.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit)
        }
    };
    let shape = [sets.len(), numbers.len().div_ceil(32)];
    let mut words = vec![0u32; shape[0] * shape[1]];
    let (cost, rows) = (sets.len() * numbers.len(), words.par_chunks_mut(shape[1].max(1)));
    scores.device().threads().for_each(cost, rows.zip(sets), |(words, set)| {
        let each = words.iter_mut().zip(numbers.chunks(32));
        each.for_each(|(to, numbers)| *to = word((set, numbers)));
    });
    Tensor::from_slice(scores.device(), &shape, &words).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DeviceOptions;
    use crate::device::required::required;
    use crate::ops::select::{Bitmap, Entry, Found, Rows};

    fn devices() -> Vec<(&'static str, Device)> {
        let mut all = vec![("cpu", Device::cpu())];
        let mut open = |name, opened| all.extend(required(name, opened).map(|d| (name, d)));
        open("cuda", Device::by_name("cuda"));
        #[cfg(feature = "wgpu")]
        for max_binding in [None, Some(1 << 20)] {
            let options = DeviceOptions { max_binding, ..Default::default() };
            open("wgpu", Device::wgpu_with(0, options));
        }
        let _ = DeviceOptions::default();
        all
    }

    /// What is asked for beside the scores: k, the lowest score, the filter, the bias.
    #[derive(Clone, Copy)]
    struct Asked<'a> {
        k: usize,
        least: Option<f32>,
        filter: Filter<'a>,
        bias: Option<&'a [f32]>,
    }

    /// Each query's documents and scores, from slabs of the scores \[Q, N\] of the documents that are not excluded for all.
    fn found(
        device: &Device,
        scores: &[Vec<f32>],
        widths: &[usize],
        asked: Asked<'_>,
    ) -> Vec<Vec<(u64, u32)>> {
        let (queries, total) = (scores.len(), scores[0].len());
        let open = (0..total).filter(|&d| !asked.filter.covers(0..queries, d..d + 1));
        let open: Vec<u32> = open.map(|d| d as u32).collect();
        let bias = asked.bias.map(|b| Tensor::from_slice(device, &[total], b).unwrap());
        let floor = asked.least.map_or(0, |least| key(least) - 1);
        let wanted = Wanted {
            device,
            k: asked.k,
            floor: floor.max(LOWEST),
            widest: *widths.iter().max().unwrap(),
            total,
            filter: asked.filter,
            bias: bias.as_ref(),
        };
        let mut selection = Selection::new(queries, wanted).unwrap();
        let (mut rest, mut widths) = (&open[..], widths.iter().cycle());
        while !rest.is_empty() {
            let (numbers, more) = rest.split_at(rest.len().min(*widths.next().unwrap()));
            let slab = scores.iter().flat_map(|row| numbers.iter().map(|&d| row[d as usize]));
            let slab: Vec<f32> = slab.collect();
            let slab = Tensor::from_slice(device, &[queries, numbers.len()], &slab).unwrap();
            selection.take(&slab, numbers).unwrap();
            rest = more;
        }
        let found = Found::new(device, selection.finish().unwrap(), queries, asked.k);
        let hits = found.to_hits().unwrap();
        let list = |(ids, scores): (&[u64], &[f32])| {
            ids.iter().zip(scores).map(|(id, s)| (*id, s.to_bits())).collect()
        };
        hits.iter().map(list).collect()
    }

    /// The same by sorting.
    fn wanted(scores: &[Vec<f32>], asked: Asked<'_>) -> Vec<Vec<(u64, u32)>> {
        let best = |(q, scores): (usize, &Vec<f32>)| {
            let all = (0..scores.len()).filter(|&d| !asked.filter.excludes(q, d));
            let all = all.filter(|&d| scores[d] > f32::NEG_INFINITY);
            let score = |d: usize| scores[d] + asked.bias.map_or(0.0, |bias| bias[d]) + 0.0;
            let all = all.filter(|&d| asked.least.is_none_or(|least| score(d) >= least));
            let mut all: Vec<Entry> = all.map(|d| entry(key(score(d)), d as u32)).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.truncate(asked.k);
            let pair = |e: &Entry| !(*e as u32) as usize;
            all.iter().map(pair).map(|d| (d as u64, score(d).to_bits())).collect()
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
            kind in 0usize..5,
            biased: bool,
            least in prop_oneof![Just(None), Just(Some(1.0f32)), Just(Some(-2.0))],
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
            let bias: Vec<f32> = (0..count).map(|_| below(5) as f32 - 2.0).collect();
            let ids: Vec<u32> = (0..count as u32).filter(|d| d % 5 != 1).collect();
            let sets: Vec<Rows<'_>> = maps
                .iter()
                .enumerate()
                .map(|(q, map)| match q % 3 {
                    0 => Rows::Exclude(map),
                    1 => Rows::Allow(map),
                    _ => Rows::ExcludeIds(&ids),
                })
                .collect();
            let filter = [
                Filter::All,
                Filter::Shared(sets[0]),
                Filter::Shared(Rows::AllowIds(&ids)),
                Filter::PerQuery(&sets),
                Filter::Shared(Rows::AllowIds(&[])),
            ][kind];
            let asked = Asked { k: k.min(count), least, filter, bias: biased.then_some(&bias) };
            let want = wanted(&scores, asked);
            for (name, device) in devices() {
                prop_assert_eq!(&found(&device, &scores, &widths, asked), &want, "{}", name);
            }
        }
    }

    /// Rows long enough for several splits, as bad as can be: everything enters.
    #[test]
    fn ascending_scores_enter_one_and_all() {
        for (queries, count, k) in [(1, 70_001, 256), (3, 21_003, 10), (2, 30_000, 5000)] {
            let row = |q: usize| (0..count).map(|d| (d / (q + 1)) as f32).collect();
            let scores: Vec<Vec<f32>> = (0..queries).map(row).collect();
            let asked = Asked { k, least: None, filter: Filter::All, bias: None };
            let want = wanted(&scores, asked);
            for (name, device) in devices() {
                let got = found(&device, &scores, &[50_000], asked);
                assert_eq!(got, want, "{name}");
            }
        }
    }

    #[test]
    fn of_nothing_nothing_is_found() {
        for (name, device) in devices() {
            for k in [3, 300] {
                let asked = Asked { k, least: None, filter: Filter::All, bias: None };
                let none =
                    found(&device, &[vec![f32::NAN; 400], vec![f32::NAN; 400]], &[400], asked);
                assert_eq!(none, [[], []] as [[(u64, u32); 0]; 2], "{name}");
                let filter = Filter::Shared(Rows::AllowIds(&[]));
                let none = found(&device, &[vec![1.0; 400]], &[400], Asked { filter, ..asked });
                assert_eq!(none, [[]] as [[(u64, u32); 0]; 1], "{name}");
            }
        }
    }
}
