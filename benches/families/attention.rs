//! Attention at the shapes of MiniLM (12 heads of 32) and BERT base (12 heads of 64), Q, K and V being column ranges
//! of one projection.

use crate::common::{devices, normals};
use criterion::{Criterion, Throughput};
use nearkin::Offsets;
use nearkin::ops::attention::{Attention, Heads, attention};

pub fn run(c: &mut Criterion) {
    for device in devices() {
        let mut group = c.benchmark_group(format!("attention/{}", device.kind()));
        group.sample_size(20);
        for (sequences, len, heads, dim) in [(16, 128, 12, 32), (4, 512, 12, 64)] {
            let (rows, width) = (sequences * len, 3 * heads * dim);
            let qkv = normals(&device, &[rows, width], 1);
            let offsets = Offsets::from_lengths(&device, &vec![len; sequences]).unwrap();
            let part = |i: usize| Heads { tensor: &qkv, start: i * heads * dim };
            let how = Attention::new(heads, dim);
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
