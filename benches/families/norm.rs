//! LayerNorm, with the residual that an encoder adds, and L2 normalisation.

use crate::common::{devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::ops::norm::{l2_normalize, layer_norm};

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("norm/{}", device.kind()));
        let (t, h) = (2048, 384);
        let x = normals(&device, &[t, h], 1);
        let residual = normals(&device, &[t, h], 2);
        let (weight, bias) = (normals(&device, &[h], 3), normals(&device, &[h], 4));
        for (case, residual) in
            [(format!("t{t}_h{h}"), None), (format!("t{t}_h{h}_residual"), Some(&residual))]
        {
            let streams = 2 + residual.is_some() as u64;
            group.throughput(Throughput::Bytes(streams * (t * h * 4) as u64));
            group.bench_function(case, |b| {
                b.iter(|| {
                    let y = layer_norm(&x, residual, &weight, Some(&bias), 1e-12).unwrap();
                    device.synchronize().unwrap();
                    y
                })
            });
        }
        group.throughput(Throughput::Bytes(2 * (t * h * 4) as u64));
        group.bench_function(format!("l2_t{t}_h{h}"), |b| {
            b.iter(|| {
                let y = l2_normalize(&x, 1e-12).unwrap();
                device.synchronize().unwrap();
                y
            })
        });
        group.finish();
    }
}
