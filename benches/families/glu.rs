//! The gates of ModernBERT base (GEGLU) and nomic-bert (SwiGLU).

use crate::common::{devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::ops::gemm::Activation;
use nearkin::ops::glu::glu;

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("glu/{}", device.kind()));
        let t = 2048;
        for (width, activation, name) in
            [(1152, Activation::Gelu, "geglu"), (3072, Activation::Silu, "swiglu")]
        {
            let x = normals(&device, &[t, 2 * width], 1);
            group.throughput(Throughput::Bytes((12 * t * width) as u64));
            group.bench_function(format!("t{t}_i{width}_{name}"), |b| {
                b.iter(|| {
                    let y = glu(&x, activation).unwrap();
                    device.synchronize().unwrap();
                    y
                })
            });
        }
        group.finish();
    }
}
