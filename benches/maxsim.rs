//! Late interaction at the sizes that `benches/peers/maxsim.py` gives other libraries: unit vectors, ColBERT's sum of maxima.

mod common;

use std::hint::black_box;

use common::{devices, normals};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearkin::ops::maxsim::{MaxSim, Side, Storage, Tokens, both, scores, search};
use nearkin::ops::norm::l2_normalize;
use nearkin::ops::topk::Exclude;
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
                b.iter(|| search(&queries, corpus, black_box(&how), 10, Exclude::None).unwrap())
            });
            if q > 1 || n < 1000 {
                continue;
            }
            group.bench_function(format!("both_{case}"), |b| {
                let how = MaxSim::filip(Side::Queries);
                b.iter(|| both(&queries, &documents, black_box(&how)).unwrap()[1].to_vec::<f32>())
            });
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

criterion_group!(benches, interactions);
criterion_main!(benches);
