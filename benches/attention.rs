//! Attention at the shapes of MiniLM (12 heads of 32) and BERT base (12 heads of 64), Q, K and V being column ranges
//! of one projection.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearkin::ops::attention::{Attention, Heads, attention};
use nearkin::{DType, Device, Offsets, Tensor};

fn devices() -> Vec<(&'static str, Device)> {
    #[allow(unused_mut)]
    let mut all = vec![("cpu", Device::cpu())];
    #[cfg(feature = "wgpu")]
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        all.push(("wgpu", Device::wgpu(0).expect("NEARKIN_BENCH_WGPU asks for a wgpu adapter")));
    }
    all
}

fn benches(c: &mut Criterion) {
    for (name, device) in devices() {
        let mut group = c.benchmark_group(format!("attention/{name}"));
        for (sequences, len, heads, dim) in [(16, 128, 12, 32), (4, 512, 12, 64)] {
            let (rows, width) = (sequences * len, 3 * heads * dim);
            // Any values do, so long as no score is the same as the next.
            let data: Vec<f32> =
                (0..rows * width).map(|i| ((i * 37 % 1009) as f32).sin()).collect();
            let qkv = Tensor::from_f32(&device, DType::F32, &[rows, width], &data).unwrap();
            let offsets = Offsets::from_lengths(&device, &vec![len; sequences]).unwrap();
            let part = |i: usize| Heads { tensor: &qkv, start: i * heads * dim };
            let scale = 1.0 / (dim as f32).sqrt();
            let how = Attention { heads, dim, scale, causal: false, bias: None };
            group
                .throughput(Throughput::Elements((4 * sequences * heads * len * len * dim) as u64));
            group.bench_function(format!("s{sequences}_l{len}_h{heads}_d{dim}"), |b| {
                b.iter(|| {
                    let y = attention(part(0), part(1), part(2), &offsets, &offsets, &how).unwrap();
                    device.synchronize().unwrap();
                    y
                })
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = attention_benches;
    config = Criterion::default().sample_size(20);
    targets = benches
}
criterion_main!(attention_benches);
