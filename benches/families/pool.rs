//! Pooling of 16 sequences of 128 tokens.

use crate::common::{devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::Offsets;
use nearkin::ops::pool::{Pooling, pool};

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("pool/{}", device.kind()));
        let (s, l, h) = (16, 128, 384);
        let x = normals(&device, &[s * l, h], 1);
        let offsets = Offsets::from_lengths(&device, &vec![l; s]).unwrap();
        group.throughput(Throughput::Bytes((s * l * h * 4) as u64));
        for (name, how) in [("mean", Pooling::Mean), ("max", Pooling::Max)] {
            group.bench_function(format!("s{s}_l{l}_h{h}_{name}"), |b| {
                b.iter(|| {
                    let y = pool(&x, &offsets, how, None).unwrap();
                    device.synchronize().unwrap();
                    y
                })
            });
        }
        group.finish();
    }
}
