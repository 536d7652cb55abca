//! Approximated scores at the size that `benches/peers/cur.py` gives NumPy and PyTorch: what a query costs besides the
//! scorer's calls.

use std::hint::black_box;

use crate::common::{Rng, devices};
use criterion::{Criterion, Throughput};
use nearkin::search::cur::{
    AdaptiveIndex, AdaptiveSearch, Anchors, CurIndex, CurOptions, First, FnScorer, Pair,
    Regularisation, ScoreMatrix,
};

const ITEMS: usize = 100_000;
const QUERIES: usize = 100;
const ANCHORS: usize = 100;
const K: usize = 100;

pub fn run(c: &mut Criterion) {
    let scores = ScoreMatrix::new(QUERIES, Rng(1).normals(QUERIES * ITEMS)).unwrap();
    let options = CurOptions {
        regularisation: Regularisation::Tikhonov(1e-2),
        ..CurOptions::new(Anchors::Uniform { count: ANCHORS, seed: 1 })
    };
    let devices = devices();
    for device in &devices {
        let mut group = c.benchmark_group(format!("cur/{}", device.kind()));
        group.sample_size(20);
        let index = CurIndex::fit(device, &scores, &options).unwrap();
        for q in [1, 64] {
            let anchor_scores = Rng(2).normals(q * ANCHORS);
            group.throughput(Throughput::Elements(q as u64));
            group.bench_function(format!("retrieve_m{ITEMS}_ki{ANCHORS}_q{q}_k{K}"), |b| {
                b.iter(|| index.retrieve(black_box(&anchor_scores), None, K).unwrap())
            });
        }
        // All of ADACUR but the calls: five rounds, four fits and searches.
        let index = AdaptiveIndex::adacur(device, &scores, Some(1e-2), None).unwrap();
        let free = FnScorer::new(64, ITEMS, |pairs: &[Pair]| {
            Ok(pairs.iter().map(|&(q, i)| (q * 31 + i * 17) as f32 % 7.0).collect())
        });
        for q in [1, 64] {
            let queries: Vec<usize> = (0..q).collect();
            let search = AdaptiveSearch {
                k: K,
                budget: 100,
                rounds: 5,
                rerank: 0,
                first: First::Uniform { seed: 1 },
                embeddings: None,
            };
            group.throughput(Throughput::Elements(q as u64));
            group.bench_function(format!("adacur_m{ITEMS}_b100_t5_q{q}"), |b| {
                b.iter(|| index.search(&free, black_box(&queries), &search).unwrap())
            });
        }
        group.finish();
    }
    let mut group = c.benchmark_group("cur/cpu");
    group.sample_size(10);
    // As the peer fits, with a weight that is given, and with one that is chosen.
    let chosen = CurOptions { regularisation: Regularisation::CrossValidated, ..options };
    for (name, options) in [("fit", options), ("fit_chosen", chosen)] {
        group.bench_function(format!("{name}_m{ITEMS}_ki{ANCHORS}_kq{QUERIES}"), |b| {
            b.iter(|| CurIndex::fit(&devices[0], &scores, black_box(&options)).unwrap())
        });
    }
    group.finish();
}
