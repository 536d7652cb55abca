//! Matrix products at a small and a large encoder's shapes.

use crate::common::{devices, normals};
use criterion::{BenchmarkId, Criterion, Throughput};
use nearkin::ops::gemm::{Activation, Epilogue, gemm};

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("gemm/{}", device.kind()));
        for (m, k, n) in [(512, 384, 1536), (2048, 768, 3072)] {
            let a = normals(&device, &[m, k], 1);
            let b = normals(&device, &[n, k], 2);
            let bias = normals(&device, &[n], 3);
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
