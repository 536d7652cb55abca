//! Rotary position embedding of ModernBERT base's projection (12 heads of 64).

use crate::common::{devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::Offsets;
use nearkin::ops::rope::{QkNorm, Rotary, rope};

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("rope/{}", device.kind()));
        let (sequences, len, heads, dim) = (16, 128, 12, 64);
        let (rows, width) = (sequences * len, 3 * heads * dim);
        let x = normals(&device, &[rows, width], 1);
        let (cos, sin) =
            (normals(&device, &[len, dim / 2], 2), normals(&device, &[len, dim / 2], 3));
        let (query, key) = (normals(&device, &[dim], 4), normals(&device, &[dim], 5));
        let norm = QkNorm { query: &query, key: &key, eps: 1e-6 };
        let offsets = Offsets::from_lengths(&device, &vec![len; sequences]).unwrap();
        group.throughput(Throughput::Bytes((8 * rows * width) as u64));
        for (suffix, norm) in [("", None), ("_norm", Some(norm))] {
            let how = Rotary { heads, kv_heads: heads, dim, cos: &cos, sin: &sin, norm };
            group.bench_function(format!("s{sequences}_l{len}_h{heads}_d{dim}{suffix}"), |b| {
                b.iter(|| {
                    let y = rope(&x, &offsets, &how).unwrap();
                    device.synchronize().unwrap();
                    y
                })
            });
        }
        group.finish();
    }
}
