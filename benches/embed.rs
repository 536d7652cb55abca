//! The three lookups and the norm that a BERT begins with, at MiniLM's sizes. `NEARKIN_BENCH_WGPU` adds the first wgpu
//! adapter.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Rng, normals};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearkin::ops::embed::{EmbedNorm, Lookup, embed};
use nearkin::{DType, Device};

fn lookups(c: &mut Criterion) {
    let mut devices = vec![Device::cpu()];
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        devices.push(Device::wgpu(0).expect("NEARKIN_BENCH_WGPU asks for a wgpu adapter"));
    }
    let (tokens, hidden, vocab) = (2048, 384, 30522);
    for device in devices {
        let mut rng = Rng(1);
        let ids: Vec<u32> = (0..tokens).map(|_| rng.below(vocab) as u32).collect();
        let places: Vec<u32> = (0..tokens as u32).map(|i| i % 128).collect();
        let kinds = vec![0; tokens];
        let mut random = |shape: &[usize]| normals(&device, DType::F32, shape, &mut rng).0;
        let words = random(&[vocab, hidden]);
        let (positions, types) = (random(&[512, hidden]), random(&[2, hidden]));
        let (weight, bias) = (random(&[hidden]), random(&[hidden]));
        let lookups = [
            Lookup { table: &words, rows: &ids },
            Lookup { table: &positions, rows: &places },
            Lookup { table: &types, rows: &kinds },
        ];
        let mut group = c.benchmark_group(format!("embed/{}", device.kind()));
        group.throughput(Throughput::Bytes((4 * 4 * tokens * hidden) as u64));
        group.bench_function(format!("t{tokens}_h{hidden}_norm"), |b| {
            b.iter(|| {
                let norm = EmbedNorm { weight: &weight, bias: &bias, eps: 1e-12 };
                embed(&lookups, Some(norm)).unwrap();
                device.synchronize().unwrap();
            })
        });
        group.finish();
    }
}

criterion_group!(benches, lookups);
criterion_main!(benches);
