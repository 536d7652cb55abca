//! ViT-B/32, CLIP's image half with random weights, at the sizes of `benches/peers/vision.py`: pixels in, vectors out.

use crate::common::devices;
use crate::common::vit::Vit;
use criterion::{Criterion, Throughput};
use nearkin::DType;
use nearkin::models::{EmbedOptions, ImageEncoder};

/// ViT-B/32.
const SHAPE: Vit = Vit { hidden: 768, inner: 3072, layers: 12, heads: 12, patch: 32, side: 224 };

pub fn run(criterion: &mut Criterion) {
    let model = tempfile::tempdir().expect("there is room for a model");
    SHAPE.write(model.path()).expect("the folder is writable");
    for device in devices() {
        let encoder = ImageEncoder::load(model.path(), &device, DType::F32).expect("it loads");
        let mut group = criterion.benchmark_group(format!("vision/{}", device.kind()));
        group.sample_size(10);
        for n in [1, 8, 32] {
            let images = SHAPE.images(n);
            group.throughput(Throughput::Elements(n as u64));
            group.bench_function(format!("vit_b32_n{n}"), |b| {
                b.iter(|| encoder.embed(&images, &EmbedOptions::default()).expect("images embed"))
            });
        }
        group.finish();
    }
}
