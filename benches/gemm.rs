//! Matrix products at a small and a large encoder's shapes. `NEARKIN_BENCH_WGPU` adds the first wgpu adapter.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Rng, normals};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nearkin::ops::gemm::{Activation, Epilogue, gemm};
use nearkin::{DType, Device};

fn products(c: &mut Criterion) {
    let mut devices = vec![Device::cpu()];
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        devices.push(Device::wgpu(0).expect("NEARKIN_BENCH_WGPU asks for a wgpu adapter"));
    }
    for device in devices {
        let mut group = c.benchmark_group(format!("gemm/{}", device.kind()));
        for (m, k, n) in [(512, 384, 1536), (2048, 768, 3072)] {
            let mut rng = Rng(1);
            let (a, _) = normals(&device, DType::F32, &[m, k], &mut rng);
            let (b, _) = normals(&device, DType::F32, &[n, k], &mut rng);
            let (bias, _) = normals(&device, DType::F32, &[n], &mut rng);
            let epilogue =
                Epilogue { bias: Some(&bias), activation: Activation::Gelu, ..Default::default() };
            group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
            group.bench_function(
                BenchmarkId::from_parameter(format!("m{m}_k{k}_n{n}_gelu")),
                |bench| {
                    bench.iter(|| {
                        let y = gemm(&a, &b, &epilogue).unwrap();
                        device.synchronize().unwrap();
                        y
                    });
                },
            );
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
