use nearkin::ops::maxsim::{
    Best, MaxSim, Reduction, Side, Storage, Tokens, align, both, rerank, scores, search,
};
use nearkin::ops::residual::{Codec, Codes};
use nearkin::ops::select::{Bitmap, Filter, Rows, Search};
use nearkin::{DType, Device, Error, Offsets, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, device, devices, main_devices};
use crate::oracle::{maxsim as oracle, residual};

const STORAGES: [Storage; 5] =
    [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8, Storage::Binary];

/// Token vectors on the host: as stored, their scales, which count, and the items' lengths.
#[derive(Clone)]
struct Set {
    storage: Storage,
    dim: usize,
    lengths: Vec<usize>,
    vectors: Vec<f64>,
    scale: Vec<f64>,
    keep: Vec<bool>,
    normalized: bool,
    masked: bool,
    coded: Option<Coded>,
}

/// What compressed vectors are made of.
#[derive(Clone)]
struct Coded {
    centroids: Vec<f32>,
    weights: Vec<f32>,
    /// Each token's centroid and residual.
    numbers: Vec<u32>,
    words: Vec<u32>,
}

impl Coded {
    fn on(&self, dim: usize, device: &Device) -> (Codec, Codes) {
        let shape = [self.centroids.len() / dim, dim];
        let centroids = Tensor::from_slice(device, &shape, &self.centroids).unwrap();
        let cutoffs: Vec<f32> = (1..self.weights.len()).map(|i| i as f32).collect();
        let codec = Codec::new(&centroids, &cutoffs, &self.weights).unwrap();
        let codes = codec.codes(&self.numbers, &self.words).unwrap();
        (codec, codes)
    }
}

impl Set {
    fn new(storage: Storage, dim: usize, lengths: &[usize], rng: &mut Rng) -> Set {
        let total: usize = lengths.iter().sum();
        let mut value = || match storage {
            Storage::Binary => (rng.below(2) * 2) as f32 - 1.0,
            Storage::Int8 => rng.below(256) as f32 - 128.0,
            _ => rng.normal(),
        };
        let values: Vec<f32> = (0..total * dim).map(|_| value()).collect();
        let mut set = Set::of(storage, dim, lengths, &values);
        if storage == Storage::Int8 {
            set.scale = (0..total).map(|_| (rng.unit() * 0.02) as f64).collect();
        }
        set
    }

    fn of(storage: Storage, dim: usize, lengths: &[usize], values: &[f32]) -> Set {
        let total = lengths.iter().sum();
        let round = |v: &f32| match storage {
            Storage::F16 => half::f16::from_f32(*v).to_f64(),
            Storage::BF16 => half::bf16::from_f32(*v).to_f64(),
            _ => *v as f64,
        };
        Set {
            storage,
            dim,
            lengths: lengths.to_vec(),
            vectors: values.iter().map(round).collect(),
            scale: vec![1.0; total],
            keep: vec![true; total],
            normalized: false,
            masked: false,
            coded: None,
        }
    }

    /// Documents of `clusters` centroids and `bits` a dimension, for queries of a storage. The first centroid and the first
    /// weight are 0, and so are some of the vectors.
    fn compressed(
        storage: Storage,
        bits: usize,
        dim: usize,
        lengths: &[usize],
        rng: &mut Rng,
    ) -> Set {
        let (total, clusters): (usize, usize) = (lengths.iter().sum(), 1 + rng.below(20));
        let mut coded = Coded {
            centroids: rng.normals(clusters * dim),
            weights: rng.normals(1 << bits).iter().map(|w| w * 0.5).collect(),
            numbers: Vec::new(),
            words: Vec::new(),
        };
        coded.centroids[..dim].fill(0.0);
        coded.weights[0] = 0.0;
        let (mut values, mut scale) = (Vec::new(), Vec::new());
        for _ in 0..total {
            let is_zero = rng.unit() < 0.05;
            let number = if is_zero { 0 } else { rng.below(clusters) };
            let bucket = |rng: &mut Rng| if is_zero { 0 } else { rng.below(1 << bits) };
            let buckets: Vec<usize> = (0..dim).map(|_| bucket(rng)).collect();
            let mut bytes = residual::pack(&buckets, bits);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            coded.numbers.push(number as u32);
            coded.words.extend(bytemuck::pod_collect_to_vec::<u8, u32>(&bytes));
            let centroid = &coded.centroids[number * dim..][..dim];
            let v = centroid.iter().zip(&buckets).map(|(c, &b)| c + coded.weights[b]);
            let v: Vec<f32> = v.collect();
            let length = v.iter().map(|&v| (v as f64).powi(2)).sum::<f64>().sqrt();
            scale.push(1.0 / length.max(1e-12));
            values.extend(v);
        }
        let set = Set::of(storage, dim, lengths, &values);
        Set { scale, coded: Some(coded), ..set }
    }

    fn normalized(mut self) -> Set {
        let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        self.scale =
            self.vectors.chunks(self.dim).map(|v| (1.0 / length(v)) as f32 as f64).collect();
        self.scale.iter_mut().filter(|s| s.is_infinite()).for_each(|s| *s = 0.0);
        self.normalized = true;
        self
    }

    fn masked(mut self, keep: impl FnMut(usize) -> bool) -> Set {
        self.keep = (0..self.keep.len()).map(keep).collect();
        self.masked = true;
        self
    }

    fn start(&self, item: usize) -> usize {
        self.lengths[..item].iter().sum()
    }

    fn item(&self, item: usize) -> oracle::Item<'_> {
        let tokens = self.start(item)..self.start(item + 1);
        oracle::Item {
            vectors: &self.vectors[tokens.start * self.dim..tokens.end * self.dim],
            scale: &self.scale[tokens.clone()],
            keep: &self.keep[tokens],
            dim: self.dim,
        }
    }

    /// Some of the items as a set of their own.
    fn select(&self, items: &[usize]) -> Set {
        let mut set = Set { lengths: Vec::new(), ..self.clone() };
        (set.vectors, set.scale, set.keep) = Default::default();
        if let Some(coded) = &mut set.coded {
            (coded.numbers, coded.words) = Default::default();
        }
        for &i in items {
            let item = self.item(i);
            set.lengths.push(self.lengths[i]);
            set.vectors.extend(item.vectors);
            set.scale.extend(item.scale);
            set.keep.extend(item.keep);
            if let (Some(to), Some(from)) = (&mut set.coded, &self.coded) {
                let words = from.words.len() / from.numbers.len().max(1);
                let tokens = self.start(i)..self.start(i + 1);
                to.words.extend(&from.words[tokens.start * words..tokens.end * words]);
                to.numbers.extend(&from.numbers[tokens]);
            }
        }
        set
    }

    fn on(&self, device: &Device) -> Tokens {
        let offsets = Offsets::from_lengths(device, &self.lengths).unwrap();
        let total = self.keep.len();
        let words = |per: usize, bits: fn(&[f64]) -> u32| {
            let words: Vec<u32> = self.vectors.chunks(per).map(bits).collect();
            Tensor::from_slice(device, &[total, self.dim / per], &words).unwrap()
        };
        let tokens = match self.storage {
            _ if self.coded.is_some() => {
                let (codec, codes) = self.coded.as_ref().unwrap().on(self.dim, device);
                Tokens::compressed(&codec, &codes, &offsets)
            }
            Storage::Int8 => {
                let vectors =
                    words(4, |v| u32::from_le_bytes(std::array::from_fn(|i| v[i] as i8 as u8)));
                let scale: Vec<f32> = self.scale.iter().map(|s| *s as f32).collect();
                let scale = Tensor::from_slice(device, &[total], &scale).unwrap();
                Tokens::int8(&vectors, &scale, &offsets)
            }
            Storage::Binary => {
                let vectors =
                    words(32, |v| (0..32).fold(0, |word, i| word | ((v[i] > 0.0) as u32) << i));
                Tokens::binary(&vectors, &offsets)
            }
            float => {
                let values: Vec<f32> = self.vectors.iter().map(|v| *v as f32).collect();
                let shape = [total, self.dim];
                let vectors = Tensor::from_f32(device, float.dtype(), &shape, &values).unwrap();
                Tokens::new(&vectors, &offsets)
            }
        };
        let mut tokens = tokens.unwrap();
        if self.normalized {
            tokens = tokens.normalized().unwrap();
        }
        if self.masked {
            tokens = tokens.masked(&self.keep).unwrap();
        }
        tokens
    }
}

fn temperature(how: &MaxSim) -> (Option<f64>, bool) {
    match how.best {
        Best::Max => (None, false),
        Best::Soft { temperature, padding } => (Some(temperature as f64), padding),
    }
}

/// The score of a query and a document, and the magnitude that bounds its rounding.
fn want(
    query: oracle::Item<'_>,
    document: oracle::Item<'_>,
    how: &MaxSim,
    side: Side,
) -> (f64, f64) {
    let (temperature, padding) = temperature(how);
    let (from, to) = match side {
        Side::Queries => (query, document),
        Side::Documents => (document, query),
    };
    let found = oracle::bests(from, to, temperature, padding);
    oracle::reduce(&found, from.keep, how.reduction == Reduction::Mean)
}

fn tolerance(dim: usize, magnitude: f64) -> f64 {
    (4.0 + (dim as f64).sqrt()) * 4.0 * f32::EPSILON as f64 * magnitude + 1e-30
}

#[track_caller]
fn check(what: &str, got: f32, want: (f64, f64), dim: usize) {
    let close = (got as f64 - want.0).abs() <= tolerance(dim, want.1) || got as f64 == want.0;
    assert!(close, "{what}: {got}, expected {} by {:e}", want.0, tolerance(dim, want.1));
}

fn methods() -> impl Strategy<Value = MaxSim> {
    let side = prop_oneof![Just(Side::Queries), Just(Side::Documents)];
    let reduction = prop_oneof![Just(Reduction::Sum), Just(Reduction::Mean)];
    let soft = (prop_oneof![Just(0.07f32), Just(1.0), Just(30.0)], any::<bool>())
        .prop_map(|(temperature, padding)| Best::Soft { temperature, padding });
    let best = prop_oneof![2 => Just(Best::Max), 1 => soft];
    (best, reduction, side).prop_map(|(best, reduction, side)| MaxSim { best, reduction, side })
}

/// Every form of comparison on every device against the oracle.
fn agrees(q: &Set, d: &Set, lists: &[Vec<u32>], how: &MaxSim) {
    let dim = q.dim;
    let kind = match &d.coded {
        None => q.storage.to_string(),
        Some(coded) => format!("{} codes of {} weights", q.storage, coded.weights.len()),
    };
    for (name, device) in devices() {
        let (on_q, on_d) = (q.on(device), d.on(device));
        let all = scores(&on_q, &on_d, how).unwrap();
        assert_eq!(all.shape(), &[q.lengths.len(), d.lengths.len()]);
        let all = all.to_vec::<f32>().unwrap();
        let sides = both(&on_q, &on_d, how).unwrap().map(|t| t.to_vec::<f32>().unwrap());
        for i in 0..q.lengths.len() {
            for j in 0..d.lengths.len() {
                let at = i * d.lengths.len() + j;
                let what = format!("{name}, {kind} {dim}, {how:?}, query {i} document {j}");
                for (side, got) in [Side::Queries, Side::Documents].into_iter().zip(&sides) {
                    check(
                        &format!("{what} by {side:?}"),
                        got[at],
                        want(q.item(i), d.item(j), how, side),
                        dim,
                    );
                    if side == how.side {
                        assert_eq!(
                            got[at].to_bits(),
                            all[at].to_bits(),
                            "{}: one side and both",
                            what
                        );
                    }
                }
            }
        }
        let again = rerank(&on_q, &on_d, lists, how).unwrap().to_vec::<f32>().unwrap();
        let pairs = lists
            .iter()
            .enumerate()
            .flat_map(|(i, list)| list.iter().map(move |j| (i, *j as usize)));
        let pairs: Vec<(usize, usize)> = pairs.collect();
        assert_eq!(again.len(), pairs.len());
        for (got, (i, j)) in again.iter().zip(&pairs) {
            let whole = all[i * d.lengths.len() + j];
            assert_eq!(got.to_bits(), whole.to_bits(), "{}: {} {} again", name, i, j);
        }
        let found = align(&on_q, &on_d, lists).unwrap();
        let (places, maxima) =
            (found.places.to_vec::<u32>().unwrap(), found.maxima.to_vec::<f32>().unwrap());
        let mut at = 0;
        for (i, j) in pairs {
            let wants = oracle::bests(q.item(i), d.item(j), None, false);
            for (t, found) in wants.iter().enumerate() {
                let what = format!("{name}, {kind} {dim}: token {t} of {i} in {j}");
                if !q.item(i).keep[t] || found.place.is_none() {
                    assert_eq!((places[at], maxima[at]), (u32::MAX, f32::NEG_INFINITY), "{}", what);
                } else {
                    check(&what, maxima[at], (found.best, found.magnitude), dim);
                    // The place has a similarity that is the maximum's within rounding.
                    let one = d.item(j);
                    let place = places[at] as usize;
                    let one = oracle::Item {
                        vectors: &one.vectors[place * dim..][..dim],
                        scale: &one.scale[place..][..1],
                        keep: &one.keep[place..][..1],
                        dim,
                    };
                    let there = oracle::bests(q.item(i), one, None, false)[t].best;
                    check(&what, maxima[at], (there, found.magnitude), dim);
                }
                at += 1;
            }
        }
        assert_eq!(at, places.len());
    }
}

/// Lists of documents for queries of these lengths, in any order and several times.
fn lists(queries: &[usize], documents: &[usize], rng: &mut Rng) -> Vec<Vec<u32>> {
    let list = |rng: &mut Rng| {
        let count = rng.below(2 * documents.len() + 1);
        (0..count).map(|_| rng.below(documents.len()) as u32).collect()
    };
    queries.iter().map(|_| list(rng)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        storage in 0usize..5,
        dim in prop_oneof![Just(8usize), Just(24), Just(32), Just(40), Just(64), Just(72), Just(128), Just(136)],
        queries in prop::collection::vec(prop_oneof![0usize..6, Just(32), 30usize..80], 0..4),
        documents in prop::collection::vec(prop_oneof![0usize..6, 60usize..140], 0..6),
        how in methods(),
        normalized: bool,
        masks in 0usize..4,
        seed: u64,
    ) {
        let storage = STORAGES[storage];
        let dim = if storage == Storage::Binary { dim.next_multiple_of(32) } else { dim };
        let mut rng = Rng(seed);
        let mut set = |lengths: &[usize], masked: bool| {
            let set = Set::new(storage, dim, lengths, &mut rng);
            let set = if normalized { set.normalized() } else { set };
            if masked { set.masked(|_| rng.unit() < 0.7) } else { set }
        };
        let (q, d) = (set(&queries, masks & 1 == 1), set(&documents, masks & 2 == 2));
        let lists = lists(&queries, &documents, &mut rng);
        agrees(&q, &d, &lists, &how);
    }

    #[test]
    fn compressed_documents_match_the_oracle(
        storage in 0usize..3,
        bits in prop_oneof![Just(1usize), Just(2), Just(4)],
        dim in prop_oneof![Just(8usize), Just(24), Just(40), Just(64), Just(72), Just(128), Just(136), Just(264)],
        queries in prop::collection::vec(prop_oneof![0usize..6, Just(32), 30usize..80], 0..4),
        documents in prop::collection::vec(prop_oneof![0usize..6, 60usize..140], 0..6),
        how in methods(),
        normalized: bool,
        masks in 0usize..4,
        seed: u64,
    ) {
        let storage = STORAGES[storage];
        let mut rng = Rng(seed);
        let q = Set::new(storage, dim, &queries, &mut rng);
        let mut q = if normalized { q.normalized() } else { q };
        let mut d = Set::compressed(storage, bits, dim, &documents, &mut rng);
        for (set, bit) in [(&mut q, 1), (&mut d, 2)] {
            if masks & bit == bit {
                *set = set.clone().masked(|_| rng.unit() < 0.7);
            }
        }
        let lists = lists(&queries, &documents, &mut rng);
        agrees(&q, &d, &lists, &how);
    }

    /// Small integers, whose products are exact: of equals the first token is the place.
    #[test]
    fn places_are_the_lowest_of_equals(
        storage in 0usize..4,
        queries in prop::collection::vec(0usize..40, 1..3),
        documents in prop::collection::vec(0usize..200, 1..4),
        seed: u64,
    ) {
        let storage = STORAGES[storage];
        let mut rng = Rng(seed);
        let mut set = |lengths: &[usize]| {
            let total: usize = lengths.iter().sum();
            let values: Vec<f32> = (0..total * 8).map(|_| rng.below(3) as f32 - 1.0).collect();
            Set::of(storage, 8, lengths, &values)
        };
        let (q, d) = (set(&queries), set(&documents));
        let lists = vec![(0..documents.len() as u32).rev().collect::<Vec<u32>>(); queries.len()];
        for (name, device) in devices() {
            let found = align(&q.on(device), &d.on(device), &lists).unwrap();
            let places = found.places.to_vec::<u32>().unwrap();
            let mut want = Vec::new();
            for (i, list) in lists.iter().enumerate() {
                for &j in list {
                    let found = oracle::bests(q.item(i), d.item(j as usize), None, false);
                    want.extend(found.iter().map(|f| f.place.map_or(u32::MAX, |p| p as u32)));
                }
            }
            prop_assert_eq!(places, want, "{}", name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..Default::default() })]

    /// What is found are the best of the scores, bit for bit, equal ones in the order of their numbers.
    #[test]
    fn a_search_finds_the_best_scores(
        queries in prop::collection::vec(0usize..4, 1..5),
        documents in prop_oneof![1usize..20, 300usize..520],
        cut in 0.0..1.0f64,
        k in prop_oneof![1usize..12, Just(65), Just(255), Just(256), Just(257), Just(600)],
        kind in 0usize..3,
        side: bool,
        seed: u64,
    ) {
        let mut rng = Rng(seed);
        // Small integers, so that many scores are equal.
        let mut set = |lengths: &[usize]| {
            let total: usize = lengths.iter().sum();
            let values: Vec<f32> = (0..total * 8).map(|_| rng.below(3) as f32 - 1.0).collect();
            Set::of(Storage::F32, 8, lengths, &values)
        };
        let lengths: Vec<usize> = (0..documents).map(|d| d * 7 % 4).collect();
        let (q, d) = (set(&queries), set(&lengths));
        let maps: Vec<Bitmap> =
            queries.iter().map(|_| Bitmap::from_fn(documents, |_| rng.below(3) == 0)).collect();
        let sets: Vec<Rows<'_>> = maps.iter().map(Rows::Exclude).collect();
        let filter = [Filter::All, Filter::Shared(sets[0]), Filter::PerQuery(&sets)][kind];
        let out = |q: usize, d: usize| [false, maps[0].contains(d), maps[q].contains(d)][kind];
        let how = if side { MaxSim::colbert() } else { MaxSim::filip(Side::Documents) };
        let cut = (cut * documents as f64) as usize;
        let all: Vec<usize> = (0..documents).collect();
        let parts = [d.select(&all[..cut]), d.select(&all[cut..])];
        for (name, device) in devices() {
            let on_q = q.on(device);
            let scores = scores(&on_q, &d.on(device), &how).unwrap().to_vec::<f32>().unwrap();
            let parts: Vec<Tokens> = parts.iter().map(|p| p.on(device)).collect();
            let hits = search(&on_q, &parts, &how, &Search { filter, ..Search::new(k) }).unwrap();
            for query in 0..queries.len() {
                let scores = &scores[query * documents..][..documents];
                let found = |d: &usize| !out(query, *d) && scores[*d] > f32::NEG_INFINITY;
                let mut rank: Vec<usize> = (0..documents).filter(found).collect();
                rank.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).unwrap().then(a.cmp(b)));
                rank.truncate(k);
                let ids: Vec<u64> = rank.iter().map(|d| *d as u64).collect();
                let best: Vec<f32> = rank.iter().map(|d| scores[*d]).collect();
                prop_assert_eq!(hits.get(query), (&ids[..], &best[..]), "{} query {}", name, query);
            }
        }
    }
}

/// Who searches a row, one thread or four, changes no maximum and no place.
#[test]
fn subgroups_change_no_maximum() {
    let [Some(with), Some(without)] = [device("wgpu"), device("wgpu without subgroups and f16")]
    else {
        return;
    };
    let mut rng = Rng(31);
    let q = Set::new(Storage::F32, 40, &[33, 1, 70], &mut rng);
    let d = Set::new(Storage::F32, 40, &[1, 63, 64, 65, 130, 2], &mut rng);
    let lists = vec![(0..6).collect::<Vec<u32>>(); 3];
    let [one, other] = [with, without].map(|device| {
        let found = align(&q.on(device), &d.on(device), &lists).unwrap();
        let maxima = found.maxima.to_vec::<f32>().unwrap();
        let bits: Vec<u32> = maxima.iter().map(|m| m.to_bits()).collect();
        (found.places.to_vec::<u32>().unwrap(), bits)
    });
    assert_eq!(one, other);
}

/// The same pair in different company, bit for bit.
#[test]
fn company_does_not_change_a_bit() {
    let plain = STORAGES.map(|storage| (storage, 0));
    let compressed = [(Storage::F32, 2), (Storage::F16, 4), (Storage::BF16, 1)];
    for (storage, bits) in plain.into_iter().chain(compressed) {
        let mut rng = Rng(3);
        let dim = 96;
        let lengths: Vec<usize> = (0..9).map(|i| [32, 7, 33, 1, 64, 70][i % 6]).collect();
        let q = Set::new(storage, dim, &lengths, &mut rng).normalized();
        let lengths: Vec<usize> = (0..17).map(|i| [60, 1, 64, 129, 3][i % 5]).collect();
        let d = match bits {
            0 => Set::new(storage, dim, &lengths, &mut rng),
            bits => Set::compressed(storage, bits, dim, &lengths, &mut rng),
        };
        let soft = MaxSim::cico(Side::Queries, 0.07, false);
        for (name, device) in main_devices() {
            let (on_q, on_d) = (q.on(device), d.on(device));
            for how in [MaxSim::colbert(), soft] {
                let all = both(&on_q, &on_d, &how).unwrap().map(|t| t.to_vec::<f32>().unwrap());
                for (i, j) in [(0, 0), (2, 8), (5, 14)] {
                    let (one, other) = (q.select(&[i]).on(device), d.select(&[j]).on(device));
                    let alone = both(&one, &other, &how).unwrap();
                    for (alone, all) in alone.iter().zip(&all) {
                        let alone = alone.to_vec::<f32>().unwrap()[0];
                        let there = all[i * d.lengths.len() + j];
                        assert_eq!(
                            alone.to_bits(),
                            there.to_bits(),
                            "{name} {storage} {bits} {i} {j}"
                        );
                    }
                    let few = [d.select(&[2, j, 1]).on(device), q.select(&[i, 4]).on(device)];
                    let few = scores(&few[1], &few[0], &how).unwrap().to_vec::<f32>().unwrap();
                    assert_eq!(
                        few[1].to_bits(),
                        all[0][i * d.lengths.len() + j].to_bits(),
                        "{name}"
                    );
                }
            }
        }
    }
}

#[test]
fn thousands_of_tokens() {
    let mut rng = Rng(6);
    let q = Set::new(Storage::F32, 8, &[1500, 3], &mut rng);
    let d = Set::new(Storage::F32, 8, &[2, 2500], &mut rng);
    for (name, device) in main_devices() {
        for how in [MaxSim::filip(Side::Queries), MaxSim::cico(Side::Queries, 1.0, true)] {
            let found = both(&q.on(device), &d.on(device), &how).unwrap();
            for (side, found) in [Side::Queries, Side::Documents].into_iter().zip(found) {
                let found = found.to_vec::<f32>().unwrap();
                for (at, got) in found.iter().enumerate() {
                    let want = want(q.item(at / 2), d.item(at % 2), &how, side);
                    check(&format!("{name} {side:?} {at}"), *got, want, 8);
                }
            }
        }
    }
}

#[test]
fn the_largest_dimension() {
    for storage in STORAGES {
        let mut rng = Rng(12);
        let q = Set::new(storage, 1024, &[33, 2], &mut rng);
        let d = Set::new(storage, 1024, &[70, 0, 5], &mut rng);
        for (name, device) in main_devices() {
            let found = scores(&q.on(device), &d.on(device), &MaxSim::colbert()).unwrap();
            for (at, got) in found.to_vec::<f32>().unwrap().iter().enumerate() {
                let want = want(q.item(at / 3), d.item(at % 3), &MaxSim::colbert(), Side::Queries);
                check(&format!("{name} {storage} {at}"), *got, want, 1024);
            }
        }
    }
}

#[test]
fn nan_never_wins_and_nothing_is_minus_infinity() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let vector = |v: f32| [v, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
    let set = |items: &[&[f32]]| {
        let lengths: Vec<usize> = items.iter().map(|i| i.len()).collect();
        let values: Vec<f32> = items.concat().iter().flat_map(|v| vector(*v)).collect();
        Set::of(Storage::F32, 8, &lengths, &values)
    };
    let q = set(&[&[1.0, 2.0], &[], &[nan, 1.0], &[1.0]]);
    let d = set(&[&[3.0, nan, 4.0], &[], &[nan, nan], &[-inf, 1.0], &[inf], &[-inf]]);
    for (name, device) in devices() {
        let (on_q, on_d) = (q.on(device), d.on(device));
        let found = scores(&on_q, &on_d, &MaxSim::colbert()).unwrap().to_vec::<f32>().unwrap();
        let low = -inf;
        let want =
            [[14.0, low, low, 5.0, inf, low], [0.0; 6], [low; 6], [5.0, low, low, 2.0, inf, low]];
        assert_eq!(found, want.concat(), "{name}");
        // From the documents' side their NaN tokens find nothing, and queries without tokens nobody.
        let how = MaxSim::filip(Side::Documents);
        let found = scores(&on_q, &on_d, &how).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(found[..2], [low, 0.0], "{name}");
        assert_eq!(found[6..12], [low, 0.0, low, low, low, low], "{name}");
        assert_eq!(found[18..], [low, 0.0, low, low, inf, low], "{name}");
        let found = align(&on_q, &on_d, &[vec![0, 1, 3], vec![0], vec![0], vec![5]]).unwrap();
        let places = found.places.to_vec::<u32>().unwrap();
        let none = u32::MAX;
        assert_eq!(places, [2, 2, none, none, 1, 1, none, 2, none], "{name}");
        // Neither a query with a NaN nor a document without tokens or with infinite distance is found.
        let hits = search(&on_q, &[on_d], &MaxSim::colbert(), &Search::new(10)).unwrap();
        assert_eq!(hits.get(0).0, [4, 0, 3], "{name}");
        assert_eq!(hits.get(1).0, [0, 1, 2, 3, 4, 5], "{name}");
        assert!(hits.get(2).0.is_empty(), "{name}");
        // With a mask the NaN is as if it were not there.
        let masked = q.clone().masked(|i| i != 2).on(device);
        let found = scores(&masked, &d.on(device), &MaxSim::colbert()).unwrap();
        assert_eq!(found.to_vec::<f32>().unwrap()[12..18], want[3], "{name}");
        let soft = MaxSim::cico(Side::Queries, 0.5, false);
        let soft = scores(&masked, &d.on(device), &soft).unwrap().to_vec::<f32>().unwrap();
        assert!(
            (soft[0] - 6.95).abs() < 0.2 && soft[1] == low && soft[2] == low,
            "{name} {soft:?}"
        );
    }
}

#[test]
fn a_search_ranks_the_scores() {
    let plain = STORAGES.map(|storage| (storage, 0));
    for (storage, bits) in plain.into_iter().chain([(Storage::F32, 2), (Storage::F16, 4)]) {
        let mut rng = Rng(21);
        let lengths: Vec<usize> = (0..60).map(|i| (i * 7) % 20).collect();
        let d = match bits {
            0 => Set::new(storage, 32, &lengths, &mut rng).normalized(),
            bits => Set::compressed(storage, bits, 32, &lengths, &mut rng),
        };
        let q = Set::new(storage, 32, &[5, 32, 0, 40], &mut rng).normalized();
        for (name, device) in main_devices() {
            let (on_q, on_d) = (q.on(device), d.on(device));
            let how = MaxSim::colbert();
            let all = scores(&on_q, &on_d, &how).unwrap().to_vec::<f32>().unwrap();
            let cut: Vec<usize> = (0..60).collect();
            let parts = [d.select(&cut[..17]), d.select(&[]), d.select(&cut[17..])];
            let parts: Vec<Tokens> = parts.iter().map(|p| p.on(device)).collect();
            let maps: Vec<Bitmap> =
                (0..4).map(|q| Bitmap::from_fn(60, |i| i % (q + 2) == 0)).collect();
            let sets: Vec<Rows<'_>> = maps.iter().map(Rows::Exclude).collect();
            let filters = [Filter::All, Filter::Shared(sets[1]), Filter::PerQuery(&sets)];
            for (kind, (filter, k)) in filters.into_iter().zip([5, 60, 7]).enumerate() {
                let out =
                    |q: usize, d: usize| [false, maps[1].contains(d), maps[q].contains(d)][kind];
                let wanted = Search { filter, ..Search::new(k) };
                let hits = search(&on_q, &parts, &how, &wanted).unwrap();
                assert_eq!(hits.len(), 4);
                for query in 0..4 {
                    let scores = &all[query * 60..][..60];
                    let mut rank: Vec<usize> = (0..60)
                        .filter(|d| !out(query, *d) && scores[*d] > f32::NEG_INFINITY)
                        .collect();
                    rank.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
                    rank.truncate(k);
                    let ids: Vec<u64> = rank.iter().map(|d| *d as u64).collect();
                    let best: Vec<f32> = rank.iter().map(|d| scores[*d]).collect();
                    assert_eq!(hits.get(query), (&ids[..], &best[..]), "{name} {storage} {query}");
                }
            }
        }
    }
}

/// Rounded before they are divided by their lengths rather than behind, the vectors are those that the codec gives.
#[test]
fn compressed_documents_score_as_decoded_ones() {
    let mut rng = Rng(31);
    for (storage, bits, tolerance) in
        [(Storage::F32, 1, 1e-6), (Storage::F16, 2, 1e-3), (Storage::BF16, 4, 8e-3)]
    {
        let q = Set::new(storage, 128, &[32, 5, 90], &mut rng).normalized();
        let d = Set::compressed(storage, bits, 128, &[70, 0, 3, 64, 129], &mut rng);
        for (name, device) in devices() {
            let (on_q, on_d) = (q.on(device), d.on(device).masked(&d.keep).unwrap());
            let (codec, codes) = on_d.codec().unwrap();
            assert_eq!(on_d.vectors().shape(), codes.residuals().shape());
            assert_eq!((on_d.storage(), on_d.total()), (Storage::F32, codes.len()));
            let decoded = codec.decode(codes).unwrap().to_f32_vec().unwrap();
            let copy = on_d.to_storage(Storage::F32).unwrap();
            assert!(copy.codec().is_none());
            assert_eq!(copy.vectors().to_f32_vec().unwrap(), decoded, "{name}");
            let [here, there] = [on_d.clone(), on_d.to_storage(storage).unwrap()]
                .map(|d| scores(&on_q, &d, &MaxSim::filip(Side::Queries)).unwrap())
                .map(|found| found.to_vec::<f32>().unwrap());
            for (a, b) in here.iter().zip(&there) {
                assert!(a == b || (a - b).abs() < tolerance, "{name} {storage}: {a}, {b}");
            }
            // They have length 1 without being asked.
            let again = on_d.normalized().unwrap();
            let again = scores(&on_q, &again, &MaxSim::filip(Side::Queries)).unwrap();
            assert_eq!(again.to_vec::<f32>().unwrap(), here, "{name}");
        }
    }
}

#[test]
fn compressed_documents_of_the_largest_dimension_and_thousands_of_tokens() {
    let mut rng = Rng(32);
    for (storage, bits, dim, lengths) in [
        (Storage::F32, 2, 1024, [70, 5]),
        (Storage::BF16, 4, 1024, [65, 1]),
        (Storage::F16, 1, 8, [1500, 3]),
    ] {
        let q = Set::new(storage, dim, &[lengths[0] / 2, 130], &mut rng);
        let d = Set::compressed(storage, bits, dim, &lengths, &mut rng);
        for (name, device) in main_devices() {
            let found = both(&q.on(device), &d.on(device), &MaxSim::colbert()).unwrap();
            for (side, found) in [Side::Queries, Side::Documents].into_iter().zip(found) {
                for (at, got) in found.to_vec::<f32>().unwrap().iter().enumerate() {
                    let want = want(q.item(at / 2), d.item(at % 2), &MaxSim::colbert(), side);
                    check(&format!("{name} {storage} {side:?} {at}"), *got, want, dim);
                }
            }
        }
    }
}

/// What is beyond f16's range is infinite, what is small rounds to even as everywhere.
#[test]
fn decoded_values_are_rounded_as_the_queries() {
    let lengths = [6];
    let values = [70000.0, -65519.0, 2049.0, 3.1e-6, 5.9604645e-8 * 2.5, 0.0];
    for storage in [Storage::F16, Storage::BF16] {
        let mut centroids = vec![0f32; 8 * 6];
        for (i, v) in values.iter().enumerate() {
            centroids[8 * i] = *v;
        }
        let coded = Coded {
            centroids: centroids.clone(),
            weights: vec![0.0; 2],
            numbers: (0..6).collect(),
            words: vec![0; 6],
        };
        let mut one = vec![0f32; 8];
        one[0] = 1.0;
        let q = Set::of(storage, 8, &[1], &one);
        for (name, device) in devices() {
            let (codec, codes) = coded.on(8, device);
            let offsets = Offsets::from_lengths(device, &[1; 6]).unwrap();
            let d = Tokens::compressed(&codec, &codes, &offsets).unwrap();
            let found = scores(&q.on(device), &d, &MaxSim::colbert()).unwrap();
            let found = found.to_vec::<f32>().unwrap();
            let rounded = Set::of(storage, 8, &lengths, &centroids).vectors;
            for (i, got) in found.iter().enumerate() {
                let want = rounded[8 * i] / (values[i].abs() as f64).max(1e-12);
                let close = (*got as f64 - want).abs() <= 1e-6 * want.abs() || *got as f64 == want;
                assert!(close, "{name} {storage}: {} gives {got}, expected {want}", values[i]);
            }
        }
    }
}

#[test]
fn documents_larger_than_a_binding() {
    let mut rng = Rng(2);
    // 1.8 MiB.
    let d = Set::new(Storage::F32, 128, &[900, 1, 700, 0, 1300, 650], &mut rng);
    let q = Set::new(Storage::F32, 128, &[9, 1], &mut rng);
    // 1.3 MiB of residuals.
    let coded = Set::compressed(Storage::F32, 4, 128, &[5000, 1, 9000, 0, 7000, 350], &mut rng);
    for (d, variants) in [(d, ""), (coded, "wgpu with small bindings")] {
        for (name, device) in devices().iter().filter(|(name, _)| name.contains(variants)) {
            let found = both(&q.on(device), &d.on(device), &MaxSim::colbert()).unwrap();
            for (side, found) in [Side::Queries, Side::Documents].into_iter().zip(found) {
                for (at, got) in found.to_vec::<f32>().unwrap().iter().enumerate() {
                    let want = want(q.item(at / 6), d.item(at % 6), &MaxSim::colbert(), side);
                    check(&format!("{name} {side:?} {at}"), *got, want, 128);
                }
            }
        }
    }
}

#[test]
fn codes_that_do_not_fit_are_refused() {
    let mut rng = Rng(5);
    for (name, device) in devices() {
        let d = Set::compressed(Storage::F32, 2, 64, &[2, 1], &mut rng);
        let (codec, codes) = d.coded.as_ref().unwrap().on(64, device);
        let offsets = Offsets::from_lengths(device, &[2, 1]).unwrap();
        let other = Offsets::from_lengths(device, &[2, 2]).unwrap();
        let shape = |r: Result<Tokens, Error>| matches!(r, Err(Error::Shape { .. }));
        assert!(shape(Tokens::compressed(&codec, &codes, &other)), "{name}: too few codes");
        // As many words, but others.
        let twice = Set::compressed(Storage::F32, 4, 32, &[3], &mut rng).coded.unwrap();
        assert!(shape(Tokens::compressed(&twice.on(32, device).0, &codes, &offsets)), "{name}");
        // Of more centroids than the codec has.
        let fewer = Tensor::zeros(device, DType::F32, &[1, 64]).unwrap();
        let fewer = Codec::new(&fewer, codec.cutoffs(), codec.weights()).unwrap();
        let more = Tensor::zeros(device, DType::F32, &[2, 64]).unwrap();
        let more = Codec::new(&more, codec.cutoffs(), codec.weights()).unwrap();
        let beyond = more.codes(&[1, 0, 1], &vec![0; 3 * more.words()]).unwrap();
        assert!(shape(Tokens::compressed(&fewer, &beyond, &offsets)), "{name}");
        assert!(matches!(fewer.decode(&beyond), Err(Error::Shape { .. })), "{name}");
        let good = Tokens::compressed(&codec, &codes, &offsets).unwrap();
        assert!(shape(good.masked(&[true])), "{name}");
        assert!(matches!(good.to_storage(Storage::Int8).map(|t| t.storage()), Ok(Storage::Int8)));
        let how = MaxSim::colbert();
        let refused = scores(&good, &good, &how);
        assert!(matches!(refused, Err(Error::Argument { .. })), "{name}: compressed queries");
        for storage in [Storage::Int8, Storage::Binary] {
            let q = Set::new(storage, 64, &[3], &mut rng).on(device);
            let refused = scores(&q, &good, &how).err().unwrap().to_string();
            assert!(refused.contains("queries of f32, f16 or bf16"), "{name}: {refused}");
        }
        let q = Set::new(Storage::F32, 32, &[3], &mut rng).on(device);
        assert!(matches!(scores(&q, &good, &how), Err(Error::Shape { .. })), "{name}");
        if !device.is_cpu() {
            let there = Offsets::from_lengths(&Device::cpu(), &[2, 1]).unwrap();
            assert!(shape(Tokens::compressed(&codec, &codes, &there)), "{name}");
        }
    }
    let Some(device) = device("wgpu with small bindings") else { return };
    let centroids = Tensor::zeros(device, DType::F32, &[2100, 128]).unwrap();
    let codec = Codec::new(&centroids, &[0.0], &[-1.0, 1.0]).unwrap();
    let codes = codec.codes(&[0], &vec![0; codec.words()]).unwrap();
    let d = Tokens::compressed(&codec, &codes, &Offsets::from_lengths(device, &[1]).unwrap());
    let q = Set::new(Storage::F32, 128, &[3], &mut rng).on(device);
    let refused = scores(&q, &d.unwrap(), &MaxSim::colbert());
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
}

#[test]
fn what_does_not_fit_is_refused() {
    for (name, device) in devices() {
        let offsets = Offsets::from_lengths(device, &[2, 1]).unwrap();
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape).unwrap();
        let tokens = |dtype, dim| Tokens::new(&zeros(dtype, &[3, dim]), &offsets);
        for dim in [0, 4, 12, 1032] {
            assert!(matches!(tokens(DType::F32, dim), Err(Error::Argument { .. })), "{name} {dim}");
        }
        let shape = |r: Result<Tokens, Error>| matches!(r, Err(Error::Shape { .. }));
        assert!(shape(tokens(DType::U32, 8)), "{name}");
        assert!(shape(Tokens::new(&zeros(DType::F32, &[4, 8]), &offsets)), "{name}");
        assert!(shape(Tokens::binary(&zeros(DType::F32, &[3, 1]), &offsets)), "{name}");
        let negative = Tensor::from_slice(device, &[3], &[1.0f32, -1.0, 0.0]).unwrap();
        let int8 = Tokens::int8(&zeros(DType::U32, &[3, 2]), &negative, &offsets);
        assert!(matches!(int8, Err(Error::Argument { .. })), "{name}");
        let good = tokens(DType::F32, 8).unwrap();
        assert!(shape(good.masked(&[true])), "{name}");
        assert!(matches!(good.to_storage(Storage::Binary), Err(Error::Argument { .. })), "{name}");
        let how = MaxSim::colbert();
        for other in [tokens(DType::F32, 16).unwrap(), tokens(DType::F16, 8).unwrap()] {
            let refused = scores(&good, &other, &how).err().unwrap().to_string();
            assert!(refused.contains("queries stored as the documents"), "{name}: {refused}");
        }
        for lists in [vec![vec![0]], vec![vec![0], vec![2]]] {
            let refused = rerank(&good, &good, &lists, &how);
            assert!(matches!(refused, Err(Error::Argument { .. })), "{name}");
        }
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let refused = scores(&good, &good, &MaxSim::cico(Side::Queries, temperature, false));
            assert!(matches!(refused, Err(Error::Argument { .. })), "{name}");
        }
        let map = Bitmap::new(3);
        let parts = [good.clone()];
        let short = Filter::Shared(Rows::Exclude(&map));
        for (k, filter) in [(0, Filter::All), (1, short)] {
            let refused = search(&good, &parts, &how, &Search { filter, ..Search::new(k) });
            assert!(matches!(refused, Err(Error::Argument { .. })), "{name}");
        }
        if !device.is_cpu() {
            let cpu = Device::cpu();
            let there = Offsets::from_lengths(&cpu, &[3]).unwrap();
            let vectors = Tensor::zeros(&cpu, DType::F32, &[3, 8]).unwrap();
            let other = Tokens::new(&vectors, &there).unwrap();
            assert!(matches!(scores(&good, &other, &how), Err(Error::Shape { .. })), "{name}");
        }
    }
}
