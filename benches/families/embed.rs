//! The input of BERT: token, position and type rows, summed and normalised.

use crate::common::{Rng, devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::ops::embed::{EmbedNorm, Lookup, embed};

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("embed/{}", device.kind()));
        let (t, h, v) = (2048, 384, 30_522);
        let words = normals(&device, &[v, h], 1);
        let positions = normals(&device, &[512, h], 2);
        let types = normals(&device, &[2, h], 3);
        let (weight, bias) = (normals(&device, &[h], 4), normals(&device, &[h], 5));
        let mut rng = Rng(6);
        let ids: Vec<u32> = (0..t).map(|_| rng.below(v) as u32).collect();
        let at: Vec<u32> = (0..t as u32).map(|i| i % 512).collect();
        let zeros = vec![0; t];
        group.throughput(Throughput::Bytes((4 * t * h * 4) as u64));
        group.bench_function(format!("t{t}_h{h}_norm"), |b| {
            b.iter(|| {
                let lookups = [
                    Lookup { table: &words, rows: &ids },
                    Lookup { table: &positions, rows: &at },
                    Lookup { table: &types, rows: &zeros },
                ];
                let norm = EmbedNorm { weight: &weight, bias: &bias, eps: 1e-12 };
                let y = embed(&lookups, Some(norm)).unwrap();
                device.synchronize().unwrap();
                y
            })
        });
        group.finish();
    }
}
