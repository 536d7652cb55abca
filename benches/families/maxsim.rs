//! Late interaction at the sizes that `benches/peers/maxsim.py` gives other libraries: unit vectors, ColBERT's sum of maxima.

use std::hint::black_box;

use crate::common::{Rng, devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::ops::maxsim::{MaxSim, Side, Storage, Tokens, both, scores, search};
use nearkin::ops::norm::l2_normalize;
use nearkin::ops::residual::{Codec, Training};
use nearkin::ops::select::Search;
use nearkin::search::TokenIndex;
use nearkin::{Device, Offsets};

/// Queries, tokens of each, documents, tokens of each, dimension.
const SIZES: [[usize; 5]; 4] = [
    [1, 32, 1000, 300, 128],
    [1, 32, 5000, 128, 128],
    [8, 32, 1000, 300, 128],
    [1, 1024, 50, 1024, 128],
];

fn tokens(device: &Device, items: usize, length: usize, dim: usize, seed: u64) -> Tokens {
    let vectors = normals(device, &[items * length, dim], seed);
    let offsets = Offsets::from_lengths(device, &vec![length; items]).unwrap();
    Tokens::new(&l2_normalize(&vectors, 1e-12).unwrap(), &offsets).unwrap()
}

/// Documents behind a codec of 4096 centroids: numbers and bits are random.
fn compressed(device: &Device, items: usize, length: usize, dim: usize, bits: u32) -> Tokens {
    const CLUSTERS: usize = 4096;
    let centroids = l2_normalize(&normals(device, &[CLUSTERS, dim], 3), 1e-12).unwrap();
    let weights: Vec<f32> = (0..1 << bits).map(|i| 0.02 * (i as f32 - 1.5)).collect();
    let codec = Codec::new(&centroids, &weights[1..], &weights).unwrap();
    let (mut rng, total) = (Rng(4), items * length);
    let numbers: Vec<u32> = (0..total).map(|_| rng.below(CLUSTERS) as u32).collect();
    let words: Vec<u32> = (0..total * codec.words()).map(|_| rng.next() as u32).collect();
    let offsets = Offsets::from_lengths(device, &vec![length; items]).unwrap();
    Tokens::compressed(&codec, &codec.codes(&numbers, &words).unwrap(), &offsets).unwrap()
}

pub fn run(criterion: &mut Criterion) {
    interactions(criterion);
    searches(criterion);
}

fn interactions(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("maxsim/{}", device.kind()));
        group.sample_size(20);
        for [q, lq, n, ld, d] in SIZES {
            let (queries, documents) = (tokens(&device, q, lq, d, 1), tokens(&device, n, ld, d, 2));
            group.throughput(Throughput::Elements((q * n) as u64));
            let case = format!("q{q}_lq{lq}_n{n}_ld{ld}_d{d}");
            group.bench_function(&case, |b| {
                let how = MaxSim::colbert();
                b.iter(|| scores(&queries, &documents, black_box(&how)).unwrap().to_vec::<f32>())
            });
            group.bench_function(format!("search_{case}"), |b| {
                let (corpus, how) = (std::slice::from_ref(&documents), MaxSim::colbert());
                b.iter(|| search(&queries, corpus, black_box(&how), &Search::new(10)).unwrap())
            });
            if q > 1 || n < 1000 {
                continue;
            }
            group.bench_function(format!("both_{case}"), |b| {
                let how = MaxSim::filip(Side::Queries);
                b.iter(|| both(&queries, &documents, black_box(&how)).unwrap()[1].to_vec::<f32>())
            });
            let coded = compressed(&device, n, ld, d, 2);
            for storage in [Storage::F32, Storage::F16] {
                let queries = queries.to_storage(storage).unwrap();
                group.bench_function(format!("{storage}_by_residual2_{case}"), |b| {
                    let how = MaxSim::colbert();
                    b.iter(|| scores(&queries, &coded, &how).unwrap().to_vec::<f32>())
                });
            }
            for storage in [Storage::F16, Storage::BF16, Storage::Int8, Storage::Binary] {
                let queries = queries.to_storage(storage).unwrap();
                let documents = documents.to_storage(storage).unwrap();
                group.bench_function(format!("{storage}_{case}"), |b| {
                    let how = MaxSim::colbert();
                    b.iter(|| scores(&queries, &documents, &how).unwrap().to_vec::<f32>())
                });
            }
        }
        group.finish();
    }
}

/// Search in documents that a codec compresses, at the size of `benches/peers/plaid.py`.
fn searches(c: &mut Criterion) {
    let (n, ld, lq, d, bits, k) = (1000, 128, 32, 128, 4, 10);
    let unit = |device: &Device, rows: usize, seed: u64| {
        let vectors = l2_normalize(&normals(device, &[rows, d], seed), 1e-12).unwrap();
        vectors.to_vec::<f32>().unwrap()
    };
    let bounds = |items: usize, length: usize| -> Vec<i64> {
        (0..=items).map(|i| (i * length) as i64).collect()
    };
    for device in devices() {
        let mut group = c.benchmark_group(format!("maxsim/{}", device.kind()));
        group.sample_size(10);
        let mut index = TokenIndex::new(&device, Storage::F16, d).unwrap();
        let ids: Vec<String> = (0..n).map(|i| i.to_string()).collect();
        index.add(&ids, &unit(&device, n * ld, 2), &bounds(n, ld)).unwrap();
        let clusters = Codec::clusters(n * ld);
        let index = index.compress(&Training { bits, clusters, rounds: 4, seed: 1 }).unwrap();
        for q in [1, 8] {
            let (queries, bounds) = (unit(&device, q * lq, 1), bounds(q, lq));
            group.throughput(Throughput::Elements((q * n) as u64));
            let case = format!("search_residual{bits}_q{q}_lq{lq}_n{n}_ld{ld}_d{d}_k{k}");
            group.bench_function(case, |b| {
                b.iter(|| index.search(&queries, &bounds, black_box(k), None).unwrap())
            });
        }
        group.finish();
    }
}
