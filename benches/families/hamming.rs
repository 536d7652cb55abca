//! Hamming top-k and encoding at the sizes that `benches/peers` gives other libraries: random codes, normal vectors.

use std::hint::black_box;

use crate::common::{devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::Tensor;
use nearkin::ops::hamming::{BinaryCorpus, Hasher, Queries, encode, topk};
use nearkin::ops::select::Search;

const SIZES: [(usize, usize, usize, usize); 6] = [
    (1_000_000, 1024, 16, 10),
    (1_000_000, 1024, 256, 10),
    (1_000_000, 1024, 16, 100),
    (1_000_000, 1024, 1, 10),
    (1_000_000, 256, 16, 10),
    (1_000_000, 256, 256, 100),
];

/// Random words (SplitMix64).
fn words(n: usize, seed: u64) -> Vec<u32> {
    let word = |i: usize| {
        let mut z = (i as u64 ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    };
    (0..n).map(word).collect()
}

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("hamming/{}", device.kind()));
        group.sample_size(10);
        for (n, bits, q, k) in SIZES {
            let w = bits / 32;
            let codes = Tensor::from_slice(&device, &[n, w], &words(n * w, 1)).unwrap();
            let corpus = BinaryCorpus::from_tensor(&codes).unwrap();
            let queries = Tensor::from_slice(&device, &[q, w], &words(q * w, 2)).unwrap();
            group.throughput(Throughput::Elements((n * q) as u64));
            group.bench_function(format!("n{n}_b{bits}_q{q}_k{k}"), |b| {
                b.iter(|| {
                    topk(Queries::Codes(&queries), &corpus, &Search::new(black_box(k))).unwrap()
                })
            });
        }
        let (n, bits, q, k) = (100_000, 1024, 4, 10);
        let codes = Tensor::from_slice(&device, &[n, 32], &words(n * 32, 1)).unwrap();
        let corpus = BinaryCorpus::from_tensor(&codes).unwrap();
        let queries = normals(&device, &[q, bits], 2);
        group.throughput(Throughput::Elements((n * q) as u64));
        group.bench_function(format!("floats_n{n}_b{bits}_q{q}_k{k}"), |b| {
            b.iter(|| topk(Queries::Floats(&queries), &corpus, &Search::new(black_box(k))).unwrap())
        });
        let (n, d, bits) = (10_000, 384, 384);
        let x = normals(&device, &[n, d], 3);
        let hasher = Hasher::random(&device, &vec![0.0; d], bits, 1).unwrap();
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(format!("encode_n{n}_d{d}_b{bits}"), |b| {
            b.iter(|| encode(black_box(&x), &hasher).unwrap().to_vec::<u32>().unwrap())
        });
        group.finish();
    }
}
