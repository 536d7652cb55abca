//! Sparse top-k at the sizes that `benches/peers` gives other libraries: documents of 120 drawn terms, the low ones frequent.

use std::hint::black_box;

use crate::common::devices;
use criterion::{Criterion, Throughput};
use nearkin::ops::sparse::{Impact, SparseCorpus, SparseVectors, topk};
use nearkin::ops::topk::Search;

const TERMS: usize = 30_000;
const ROWS: usize = 1_000_000;
const CASES: [(usize, usize); 4] = [(1, 10), (1, 100), (64, 10), (64, 100)];

/// Rows of at most `entries` terms: term t is drawn with a chance that falls as t^(-3/4) (SplitMix64).
fn vectors(rows: usize, entries: usize, seed: u64) -> SparseVectors {
    let mut state = seed << 40;
    let mut unit = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    let mut all = SparseVectors::new();
    for _ in 0..rows {
        let mut terms: Vec<u32> =
            (0..entries).map(|_| (unit().powi(4) * TERMS as f32) as u32).collect();
        terms.sort_unstable();
        terms.dedup();
        let weights: Vec<f32> = terms.iter().map(|_| 0.1 + 3.0 * unit()).collect();
        all.push(&terms, weights);
    }
    all
}

pub fn run(c: &mut Criterion) {
    let documents = vectors(ROWS, 120, 1);
    for device in devices() {
        let mut group = c.benchmark_group(format!("sparse/{}", device.kind()));
        group.sample_size(10);
        for (name, impact) in [("f32", Impact::F32), ("f16", Impact::F16)] {
            let mut corpus = SparseCorpus::new(&device, TERMS, impact).unwrap();
            corpus.append(documents.csr()).unwrap();
            for (q, k) in CASES {
                let queries = vectors(q, 40, 2);
                group.throughput(Throughput::Elements(q as u64));
                group.bench_function(format!("{name}_n{ROWS}_q{q}_k{k}"), |b| {
                    b.iter(|| topk(queries.csr(), &corpus, &Search::new(black_box(k))).unwrap())
                });
            }
        }
        group.finish();
    }
}
