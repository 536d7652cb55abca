//! ViT-B/32, CLIP's image half with random weights, at the sizes of `benches/peers/vision.py`: pixels in, vectors out.

use std::path::Path;

mod common;

use common::{Rng, devices};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearkin::DType;
use nearkin::images::Pixels;
use nearkin::models::{EmbedOptions, ImageEncoder};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const HIDDEN: usize = 768;
const INNER: usize = 3072;
const LAYERS: usize = 12;
const PATCH: usize = 32;
const SIDE: usize = 224;

/// A folder as transformers writes it.
fn folder(to: &Path) {
    let config = serde_json::json!({
        "model_type": "clip_vision_model", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 12, "image_size": SIDE, "patch_size": PATCH,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    });
    std::fs::write(to.join("config.json"), config.to_string()).expect("the folder is writable");
    let positions = (SIDE / PATCH) * (SIDE / PATCH) + 1;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.class_embedding".into(), vec![HIDDEN]),
        ("embeddings.patch_embedding.weight".into(), vec![HIDDEN, 3, PATCH, PATCH]),
        ("embeddings.position_embedding.weight".into(), vec![positions, HIDDEN]),
    ];
    let mut pair = |name: String, shape: &[usize]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), shape[..1].to_vec()));
    };
    pair("pre_layrnorm".into(), &[HIDDEN]);
    pair("post_layernorm".into(), &[HIDDEN]);
    for layer in 0..LAYERS {
        let at = |name: &str| format!("encoder.layers.{layer}.{name}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            pair(at(&format!("self_attn.{name}")), &[HIDDEN, HIDDEN]);
        }
        pair(at("layer_norm1"), &[HIDDEN]);
        pair(at("layer_norm2"), &[HIDDEN]);
        pair(at("mlp.fc1"), &[INNER, HIDDEN]);
        pair(at("mlp.fc2"), &[HIDDEN, INNER]);
    }
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape))| {
            let count = shape.iter().product();
            let values: Vec<f32> =
                Rng(seed as u64 + 1).normals(count).iter().map(|v| 0.02 * v).collect();
            (format!("vision_model.{name}"), shape, bytemuck::cast_slice(&values).to_vec())
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("shapes are right"))
    });
    let file = to.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).expect("the folder is writable");
}

fn vision(criterion: &mut Criterion) {
    let model = tempfile::tempdir().expect("there is room for a model");
    folder(model.path());
    for device in devices() {
        let encoder = ImageEncoder::load(model.path(), &device, DType::F32).expect("it loads");
        let mut group = criterion.benchmark_group(format!("vision/{}", device.kind()));
        group.sample_size(10);
        for n in [1, 8, 32] {
            let each = 3 * SIDE * SIDE;
            let values = Rng(99).normals(n * each);
            let images: Vec<Pixels> = values
                .chunks(each)
                .map(|v| Pixels { values: v.to_vec(), height: SIDE, width: SIDE })
                .collect();
            group.throughput(Throughput::Elements(n as u64));
            group.bench_function(format!("vit_b32_n{n}"), |b| {
                b.iter(|| encoder.embed(&images, &EmbedOptions::default()).expect("images embed"))
            });
        }
        group.finish();
    }
}

criterion_group!(benches, vision);
criterion_main!(benches);
