//! Exact top-k at the sizes that `benches/peers` gives other libraries. wgpu only where NEARKIN_BENCH_WGPU is set:
//! on a software adapter it would say nothing about a GPU.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearkin::ops::topk::{Corpus, Metric, Search, topk};
use nearkin::{DType, Device, Tensor};

/// Uniform values in -1..1 from a fixed seed.
fn values(n: usize, mut state: u64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn bench(c: &mut Criterion) {
    #[allow(unused_mut)]
    let mut devices = vec![("cpu", Device::cpu())];
    #[cfg(feature = "wgpu")]
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        match Device::wgpu(0) {
            Ok(device) => devices.push(("wgpu", device)),
            Err(e) => eprintln!("skipped on wgpu: {e}"),
        }
    }
    let sizes = [
        (100_000, 384, 64, 10),
        (100_000, 384, 1, 10),
        (100_000, 384, 64, 100),
        (100_000, 768, 64, 10),
    ];
    for (name, device) in &devices {
        let mut group = c.benchmark_group(format!("topk/{name}"));
        group.sample_size(20);
        for (n, d, q, k) in sizes {
            let rows = Tensor::from_slice(device, &[n, d], &values(n * d, 1)).expect("the corpus");
            let corpus = Corpus::from_tensor(&rows).expect("the corpus");
            let queries =
                Tensor::from_slice(device, &[q, d], &values(q * d, 2)).expect("the queries");
            group.throughput(Throughput::Elements((n * q) as u64));
            group.bench_function(format!("n{n}_d{d}_q{q}_k{k}"), |b| {
                let search = Search::new(Metric::Dot, k);
                b.iter(|| topk(&queries, &corpus, black_box(&search)).expect("the search"))
            });
        }
        group.finish();
    }
    // Half the bytes a row, and the metric with one more operation a term.
    let device = Device::cpu();
    let mut group = c.benchmark_group("topk/cpu");
    group.sample_size(20);
    let data = values(100_000 * 384, 1);
    let queries =
        Tensor::from_slice(&device, &[64, 384], &values(64 * 384, 2)).expect("the queries");
    let one = Tensor::from_slice(&device, &[1, 384], &values(384, 2)).expect("the query");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut corpus = Corpus::new(&device, dtype, 384).expect("the corpus");
        corpus.append(&data).expect("the corpus");
        for (queries, q) in [(&queries, 64), (&one, 1)] {
            group.bench_function(format!("l2_{dtype}_n100000_d384_q{q}_k10"), |b| {
                let search = Search::new(Metric::L2, 10);
                b.iter(|| topk(queries, &corpus, black_box(&search)).expect("the search"))
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
