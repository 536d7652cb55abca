//! What all families' searches share: filters in every form, the lowest score, bias, any k, results on the device.

use std::collections::BTreeMap;

use nearkin::ops::hamming::{self, BinaryCorpus, Queries};
use nearkin::ops::maxsim::{self, MaxSim, Tokens};
use nearkin::ops::select::{Bitmap, Filter, Found, Hits, Rows, Search};
use nearkin::ops::topk::{self, Corpus, Metric};
use nearkin::{DType, Device, Offsets, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, devices, exhaustive, main_devices};

/// A search of every family over the same number of rows, with scores of which many are equal.
struct Families {
    device: Device,
    rows: usize,
    vectors: (Tensor, Corpus),
    codes: (Tensor, BinaryCorpus),
    floats: Tensor,
    tokens: (Tokens, Vec<Tokens>),
}

const KINDS: [&str; 5] = ["dot", "l2", "codes", "floats", "maxsim"];

impl Families {
    fn new(device: &Device, queries: usize, rows: usize, seed: u64) -> Families {
        let mut rng = Rng(seed);
        let mut small =
            |n: usize| -> Vec<f32> { (0..n).map(|_| rng.below(3) as f32 - 1.0).collect() };
        let tensor = |shape: [usize; 2], v: &[f32]| Tensor::from_slice(device, &shape, v).unwrap();
        let dim = 8;
        // Two chunks, the second of which starts anywhere.
        let mut corpus = Corpus::new(device, DType::F32, dim).unwrap();
        let values = small(rows * dim);
        let cut = (rows * 2).div_ceil(3) * dim;
        corpus.append(&values[..cut]).unwrap();
        corpus.append(&values[cut..]).unwrap();
        let asked = tensor([queries, dim], &small(queries * dim));
        let mut bits = |n: usize| -> Vec<u32> {
            small(n).iter().map(|v| if *v > 0.0 { 0xff0f_1234 } else { 7 }).collect()
        };
        let words: Vec<u32> = bits(rows * 2);
        let mut binary = BinaryCorpus::new(device, 64).unwrap();
        binary.append(&words[..cut / dim * 2]).unwrap();
        binary.append(&words[cut / dim * 2..]).unwrap();
        let codes = Tensor::from_slice(device, &[queries, 2], &bits(queries * 2)).unwrap();
        let floats = tensor([queries, 64], &small(queries * 64));
        let mut tokens = |n: usize| {
            let offsets = Offsets::from_lengths(device, &vec![1; n]).unwrap();
            Tokens::new(&tensor([n, dim], &small(n * dim)), &offsets).unwrap()
        };
        let parts = vec![tokens(cut / dim), tokens(rows - cut / dim)];
        Families {
            device: device.clone(),
            rows,
            vectors: (asked, corpus),
            codes: (codes, binary),
            floats,
            tokens: (tokens(queries), parts),
        }
    }

    fn search(&self, kind: usize, search: &Search<'_>) -> Hits {
        let ((asked, corpus), (codes, binary)) = (&self.vectors, &self.codes);
        match kind {
            0 => topk::topk(asked, corpus, Metric::Dot, search),
            1 => topk::topk(asked, corpus, Metric::L2, search),
            2 => hamming::topk(Queries::Codes(codes), binary, search),
            3 => hamming::topk(Queries::Floats(&self.floats), binary, search),
            _ => maxsim::search(&self.tokens.0, &self.tokens.1, &MaxSim::colbert(), search),
        }
        .unwrap()
    }

    fn on_device(&self, kind: usize, search: &Search<'_>) -> Found {
        let ((asked, corpus), (codes, binary)) = (&self.vectors, &self.codes);
        match kind {
            0 => topk::topk_on_device(asked, corpus, Metric::Dot, search),
            1 => topk::topk_on_device(asked, corpus, Metric::L2, search),
            2 => hamming::topk_on_device(Queries::Codes(codes), binary, search),
            3 => hamming::topk_on_device(Queries::Floats(&self.floats), binary, search),
            _ => {
                maxsim::search_on_device(&self.tokens.0, &self.tokens.1, &MaxSim::colbert(), search)
            }
        }
        .unwrap()
    }

    /// Every row's score for each query, from a search without conditions.
    fn scores(&self, kind: usize) -> Vec<BTreeMap<u64, f32>> {
        let all = self.search(kind, &Search::new(usize::MAX));
        let map = |(ids, scores): (&[u64], &[f32])| {
            assert_eq!(ids.len(), self.rows);
            ids.iter().copied().zip(scores.iter().copied()).collect()
        };
        all.iter().map(map).collect()
    }
}

fn equal(what: &str, hits: &Hits, want: &[Vec<(u64, f32)>]) {
    assert_eq!(hits.len(), want.len(), "{what}");
    for (q, want) in want.iter().enumerate() {
        let (ids, scores) = hits.get(q);
        let bits = |s: f32| (s + 0.0).to_bits();
        let got: Vec<(u64, u32)> =
            ids.iter().copied().zip(scores.iter().map(|s| bits(*s))).collect();
        let want: Vec<(u64, u32)> = want.iter().map(|(id, s)| (*id, bits(*s))).collect();
        assert_eq!(got, want, "{what}, query {q}");
    }
}

/// A search under conditions.
#[derive(Clone, Copy, Debug)]
struct Conditions {
    kind: usize,
    queries: usize,
    rows: usize,
    k: usize,
    form: usize,
    least: Option<f32>,
    biased: bool,
    seed: u64,
}

const FORMS: usize = 6;
const LEAST: [Option<f32>; 5] = [None, Some(0.0), Some(-3.0), Some(1.0), Some(f32::NEG_INFINITY)];

impl Conditions {
    /// Conditions leave the scores of the rows that meet them as they are, and the order; the two forms of a search and
    /// of a result agree.
    fn select_among_all(self) {
        let Conditions { kind, queries, rows, k, form, least, biased, seed } = self;
        for (name, device) in devices() {
            let families = Families::new(device, queries, rows, seed);
            let mut rng = Rng(seed ^ 5);
            let what = format!("{} on {name}: {self:?}", KINDS[kind]);
            let maps: Vec<Bitmap> = (0..queries)
                .map(|q| Bitmap::from_fn(rows, |i| (i / 70 + q) % 3 == 0 || rng.below(3) == 0))
                .collect();
            let lists: Vec<Vec<u32>> = maps
                .iter()
                .map(|m| (0..rows as u32).filter(|i| m.contains(*i as usize)).collect())
                .collect();
            let sets: Vec<Rows<'_>> = (0..queries)
                .map(|q| match q % 4 {
                    0 => Rows::Exclude(&maps[q]),
                    1 => Rows::AllowIds(&lists[q]),
                    2 => Rows::Allow(&maps[q]),
                    _ => Rows::ExcludeIds(&lists[q]),
                })
                .collect();
            let filter = match form {
                0 => Filter::All,
                1 => Filter::PerQuery(&sets),
                2 => Filter::Shared(Rows::Allow(&maps[0])),
                3 => Filter::Shared(Rows::Exclude(&maps[0])),
                4 => Filter::Shared(Rows::AllowIds(&lists[0])),
                _ => Filter::Shared(Rows::ExcludeIds(&lists[0])),
            };
            let open = |q: usize, i: usize| match form {
                0 => true,
                1 => maps[q].contains(i) == matches!(q % 4, 1 | 2),
                2 | 4 => maps[0].contains(i),
                _ => !maps[0].contains(i),
            };
            let bias: Vec<f32> = (0..rows).map(|_| rng.below(4) as f32 * 0.5).collect();
            let bias_on = Tensor::from_slice(device, &[rows], &bias).unwrap();
            let search = Search { k, least, filter, bias: biased.then_some(&bias_on) };
            let want: Vec<Vec<(u64, f32)>> = families
                .scores(kind)
                .iter()
                .enumerate()
                .map(|(q, scores)| {
                    let mut all: Vec<(u64, f32)> = scores
                        .iter()
                        .filter(|(i, _)| open(q, **i as usize))
                        .map(|(&i, &s)| (i, if biased { s + bias[i as usize] } else { s }))
                        .filter(|(_, s)| least.is_none_or(|least| *s >= least))
                        .collect();
                    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                    all.truncate(k);
                    all
                })
                .collect();
            equal(&what, &families.search(kind, &search), &want);
            let found = families.on_device(kind, &search);
            equal(&what, &found.to_hits().unwrap(), &want);
            let later = pollster::block_on(found.to_hits_async()).unwrap();
            equal(&what, &later, &want);
            // As tensors.
            let k = k.min(rows);
            assert_eq!((found.len(), found.k()), (queries, k));
            let tensors = found.to_tensors().unwrap();
            assert_eq!(tensors.rows.shape(), [queries, k]);
            assert_eq!(tensors.rows.device(), &families.device);
            let ids = tensors.rows.to_vec::<u32>().unwrap();
            let scores = tensors.scores.to_vec::<f32>().unwrap();
            let counts = tensors.counts.to_vec::<u32>().unwrap();
            for (q, want) in want.iter().enumerate() {
                assert_eq!(counts[q] as usize, want.len(), "{}", &what);
                for i in 0..k {
                    let (id, score) = want
                        .get(i)
                        .map_or((u32::MAX, f32::NEG_INFINITY), |(id, s)| (*id as u32, *s));
                    assert_eq!(ids[q * k + i], id, "{}", &what);
                    assert_eq!(scores[q * k + i], score, "{}", &what);
                }
            }
        }
    }
}

/// Every form of a filter with every kind of search, among rows of one word of a bitmap, of two, and of a word and a
/// bit.
#[test]
fn conditions_select_among_all() {
    for kind in 0..KINDS.len() {
        for form in 0..FORMS {
            Conditions {
                kind,
                queries: [1, 2, 5][(kind + form) % 3],
                rows: [1, 31, 32, 33, 71, 89, 64][(kind * FORMS + form) % 7],
                k: [19, 1, 64, usize::MAX, 256][(kind + 2 * form) % 5],
                form,
                least: LEAST[(2 * kind + form) % 5],
                biased: (kind + form) % 2 == 0,
                seed: (kind * FORMS + form) as u64,
            }
            .select_among_all();
        }
    }
}

/// More queries than a tile and more rows than a slab has, and k about the most that the device selects.
#[test]
fn conditions_select_among_many() {
    let conditions = |kind, queries, rows, k, form, biased| {
        let seed = rows as u64;
        Conditions { kind, queries, rows, k, form, least: LEAST[kind], biased, seed }
            .select_among_all();
    };
    conditions(0, 37, 257, 256, 1, true);
    conditions(1, 2, 1100, 257, 3, false);
    conditions(2, 37, 300, 64, 1, false);
    conditions(3, 2, 419, usize::MAX, 5, true);
    conditions(4, 2, 1100, 257, 2, true);
}

/// Rows and queries as they are drawn: few, or with [`exhaustive`] also many, which take software adapters minutes.
fn sizes() -> BoxedStrategy<(usize, usize)> {
    let many = (
        prop_oneof![1usize..6, Just(37usize)],
        prop_oneof![1usize..90, 250usize..420, Just(1100usize)],
    );
    if exhaustive() { many.boxed() } else { (1usize..6, 1usize..90).boxed() }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if exhaustive() { 24 } else { 6 }, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn drawn_conditions_select_among_all(
        (queries, rows) in sizes(),
        k in prop_oneof![1usize..20, Just(64), Just(256), Just(257), Just(usize::MAX)],
        kind in 0usize..5,
        form in 0usize..FORMS,
        least in prop::sample::select(&LEAST[..]),
        biased: bool,
        seed: u64,
    ) {
        Conditions { kind, queries, rows, k, form, least, biased, seed }.select_among_all();
    }
}

/// Candidates of several slabs, sorted with steps beyond the fast memory; scores rise, so that all of them enter.
#[test]
fn a_large_k_of_many_rows_is_sorted_on_the_device() {
    for (name, device) in main_devices() {
        let rows = 9_000;
        let values: Vec<f32> = (0..rows).map(|i| (i / 3) as f32).collect();
        let values: Vec<f32> = values.iter().flat_map(|v| [*v; 2]).collect();
        let mut corpus = Corpus::new(device, DType::F32, 2).unwrap();
        corpus.append(&values).unwrap();
        let queries = Tensor::from_slice(device, &[2, 2], &[0.5f32, 0.5, -0.5, -0.5]).unwrap();
        let ranked = |descending: bool| -> Vec<(u64, f32)> {
            let sign = if descending { 1.0 } else { -1.0 };
            let mut all: Vec<(u64, f32)> =
                (0..rows as u64).map(|i| (i, sign * (i / 3) as f32)).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all
        };
        for k in [700, 5_000, rows] {
            let hits = topk::topk(&queries, &corpus, Metric::Dot, &Search::new(k)).unwrap();
            let want: Vec<_> =
                [true, false].map(|d| ranked(d).into_iter().take(k).collect()).into();
            equal(name, &hits, &want);
        }
        // As many as are near enough, without a bound on their number.
        let search = Search::within(2_000.0);
        let hits = topk::topk(&queries, &corpus, Metric::Dot, &search).unwrap();
        let near: Vec<_> = ranked(true).into_iter().filter(|(_, s)| *s >= 2_000.0).collect();
        equal(name, &hits, &[near, Vec::new()]);
    }
}
