//! Exact top-k at the sizes that `benches/peers` gives other libraries: unit vectors, inner product.

use std::hint::black_box;

use crate::common::{devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::ops::norm::l2_normalize;
use nearkin::ops::topk::{Corpus, Metric, Search, Storage, topk};

const SIZES: [(usize, usize, usize, usize); 5] = [
    (100_000, 384, 64, 10),
    (100_000, 384, 4, 10),
    (100_000, 384, 1, 10),
    (100_000, 384, 64, 100),
    (100_000, 768, 64, 10),
];

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("topk/{}", device.kind()));
        group.sample_size(20);
        let unit = |n, d, seed| l2_normalize(&normals(&device, &[n, d], seed), 1e-12).unwrap();
        for (n, d, q, k) in SIZES {
            let corpus = Corpus::from_tensor(&unit(n, d, 1)).unwrap();
            let queries = unit(q, d, 2);
            group.throughput(Throughput::Elements((n * q) as u64));
            group.bench_function(format!("n{n}_d{d}_q{q}_k{k}"), |b| {
                let search = Search::new(k);
                b.iter(|| topk(&queries, &corpus, Metric::Dot, black_box(&search)).unwrap())
            });
        }
        // Half the bytes a row and a quarter, and the metric with one more operation a term.
        let (n, d, k) = (100_000, 384, 10);
        let rows = unit(n, d, 1);
        for (metric, name) in [(Metric::Dot, "dot"), (Metric::L2, "l2")] {
            for storage in [Storage::F16, Storage::BF16, Storage::Int8] {
                // Distances are not formed of bytes.
                if (metric, storage) == (Metric::L2, Storage::Int8) {
                    continue;
                }
                let corpus = Corpus::from_tensor(&rows).unwrap().to_storage(storage).unwrap();
                for q in [64, 4, 1] {
                    let queries = unit(q, d, 2);
                    group.throughput(Throughput::Elements((n * q) as u64));
                    group.bench_function(format!("{name}_{storage}_n{n}_d{d}_q{q}_k{k}"), |b| {
                        let search = Search::new(k);
                        b.iter(|| topk(&queries, &corpus, metric, black_box(&search)).unwrap())
                    });
                }
            }
        }
        group.finish();
    }
}
