//! Pooling of sequences of different lengths, at MiniLM's width. `NEARKIN_BENCH_WGPU` adds the first wgpu adapter.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Rng, normals};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearkin::ops::pool::{Pooling, pool};
use nearkin::{DType, Device, Offsets};

fn poolings(c: &mut Criterion) {
    let mut devices = vec![Device::cpu()];
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        devices.push(Device::wgpu(0).expect("NEARKIN_BENCH_WGPU asks for a wgpu adapter"));
    }
    let hidden = 384;
    // 16 to 136 tokens a text, 2048 in all on average.
    let mut rng = Rng(1);
    let lengths: Vec<usize> = (0..27).map(|_| 16 + rng.below(121)).collect();
    let tokens: usize = lengths.iter().sum();
    for device in devices {
        let (x, _) = normals(&device, DType::F32, &[tokens, hidden], &mut rng);
        let offsets = Offsets::from_lengths(&device, &lengths).unwrap();
        let mut group = c.benchmark_group(format!("pool/{}", device.kind()));
        for (name, how, read) in [
            ("mean", Pooling::Mean, tokens),
            ("max", Pooling::Max, tokens),
            ("cls", Pooling::Cls, 27),
        ] {
            group.throughput(Throughput::Bytes((4 * (read + 27) * hidden) as u64));
            group.bench_function(format!("{name}_s27_h{hidden}"), |b| {
                b.iter(|| {
                    pool(&x, &offsets, how, None).unwrap();
                    device.synchronize().unwrap();
                })
            });
        }
        group.finish();
    }
}

criterion_group!(benches, poolings);
criterion_main!(benches);
