//! Row norms at a small encoder's shape. `NEARKIN_BENCH_WGPU` adds the first wgpu adapter.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Rng, normals};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearkin::ops::norm::{l2_normalize, layer_norm, rms_norm};
use nearkin::{DType, Device};

fn norms(c: &mut Criterion) {
    let mut devices = vec![Device::cpu()];
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        devices.push(Device::wgpu(0).expect("NEARKIN_BENCH_WGPU asks for a wgpu adapter"));
    }
    let (tokens, hidden) = (2048, 384);
    for device in devices {
        let mut rng = Rng(1);
        let mut random = |shape: &[usize]| normals(&device, DType::F32, shape, &mut rng).0;
        let (x, residual) = (random(&[tokens, hidden]), random(&[tokens, hidden]));
        let (weight, bias) = (random(&[hidden]), random(&[hidden]));
        let mut group = c.benchmark_group(format!("norm/{}", device.kind()));
        group.throughput(Throughput::Bytes((2 * 4 * tokens * hidden) as u64));
        let case = format!("t{tokens}_h{hidden}");
        group.bench_function(&case, |b| {
            b.iter(|| {
                layer_norm(&x, None, &weight, Some(&bias), 1e-12).unwrap();
                device.synchronize().unwrap();
            })
        });
        group.bench_function(format!("{case}_residual"), |b| {
            b.iter(|| {
                layer_norm(&x, Some(&residual), &weight, Some(&bias), 1e-12).unwrap();
                device.synchronize().unwrap();
            })
        });
        group.bench_function(format!("rms_{case}"), |b| {
            b.iter(|| {
                rms_norm(&x, None, &weight, 1e-6).unwrap();
                device.synchronize().unwrap();
            })
        });
        group.bench_function(format!("l2_{case}"), |b| {
            b.iter(|| {
                l2_normalize(&x, 1e-12).unwrap();
                device.synchronize().unwrap();
            })
        });
        group.finish();
    }
}

criterion_group!(benches, norms);
criterion_main!(benches);
