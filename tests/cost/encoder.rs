//! Forward passes of encoders with the shapes of known models and random weights.

use std::path::Path;

use nearkin::images::Pixels;
use nearkin::models::{EmbedOptions, ImageEncoder, TextEncoder, TextInput};
use nearkin::{DType, Device, DeviceOptions, MatmulPrecision, bf16};
use ptx_emulator::client::LaunchRecord;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::common::{Rng, weights};
use crate::pinned::pinned;
use crate::{cold_bytes, emulated, launches};

/// Sizes of a model.
struct Shape {
    name: &'static str,
    hidden: usize,
    inner: usize,
    heads: usize,
    layers: usize,
}

/// A folder like that of the golden BERT, which has 40 hidden and 72 intermediate columns and 2 layers, of another shape.
fn folder(shape: &Shape) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    let files =
        ["modules.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"];
    for file in files.into_iter().chain(["special_tokens_map.json", "1_Pooling/config.json"]) {
        std::fs::copy(golden.join(file), folder.path().join(file)).unwrap();
    }
    let pooling = folder.path().join("1_Pooling/config.json");
    let text = std::fs::read_to_string(&pooling).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["word_embedding_dimension"] = shape.hidden.into();
    std::fs::write(&pooling, json.to_string()).unwrap();
    let text = std::fs::read_to_string(golden.join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["hidden_size"] = shape.hidden.into();
    json["intermediate_size"] = shape.inner.into();
    json["num_attention_heads"] = shape.heads.into();
    json["num_hidden_layers"] = shape.layers.into();
    std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();

    let bytes = std::fs::read(golden.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut rng = Rng(4);
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let sizes: Vec<usize> = view
            .shape()
            .iter()
            .map(|&n| match n {
                40 => shape.hidden,
                72 => shape.inner,
                n => n,
            })
            .collect();
        let layers = match name.contains(".layer.") {
            false => vec![name],
            true if name.contains(".layer.0.") => (0..shape.layers)
                .map(|i| name.replace(".layer.0.", &format!(".layer.{i}.")))
                .collect(),
            true => continue,
        };
        for name in layers {
            let values = rng.normals(sizes.iter().product());
            let data: Vec<u8> =
                values.iter().flat_map(|v| bf16::from_f32(0.05 * v).to_le_bytes()).collect();
            tensors.push((name, sizes.clone(), data));
        }
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        (name, TensorView::new(safetensors::Dtype::BF16, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn forward_passes_cost_what_their_operations_must() {
    let Some((emulator, device)) = emulated() else { return };
    let shapes = [
        Shape { name: "MiniLM-L6", hidden: 384, inner: 1536, heads: 12, layers: 6 },
        Shape { name: "one layer of BERT-base", hidden: 768, inner: 3072, heads: 12, layers: 1 },
    ];
    for shape in shapes {
        let Shape { name, hidden, inner, layers, .. } = shape;
        let folder = folder(&shape);
        let model = TextEncoder::load(folder.path(), &device, DType::BF16).unwrap();
        let texts = ["the cat sat on the mat and the dog ran far away from here"; 3];
        let mut tokens = 0;
        let all = launches(&emulator, || {
            tokens = model.embed_with(&texts, &EmbedOptions::default()).unwrap().tokens;
        });
        // The embedding; a layer's four products, attention and two norms; the pooling and the vectors' norm.
        assert_eq!(all.len(), 1 + 7 * layers + 2, "{name}: launches");
        // Matrices of bf16, activations of f32: what each operation reads and writes once.
        let states = 4 * tokens * hidden;
        let weights = 2 * (4 * hidden * hidden + 2 * hidden * inner);
        let vectors = 4 * (4 * hidden + inner + hidden + 4 * hidden);
        let products = (states + 3 * states)
            + 3 * states
            + (states + 4 * tokens * inner)
            + (4 * tokens * inner + 2 * states);
        let layer = weights + vectors + products + 4 * states + 2 * 2 * states;
        let embedding = 3 * 2 * tokens * hidden + 12 * tokens + 8 * hidden + states;
        let pooling = states + 3 * 4 * texts.len() * hidden;
        let floor = (embedding + layers * layer + pooling) as u64;
        // If everything were one kernel: weights and tokens in, vectors out.
        let fused =
            (layers * (weights + vectors) + embedding - states + 4 * texts.len() * hidden) as u64;
        let cold: u64 = all.iter().map(|l| cold_bytes(&l.counts)).sum();
        println!(
            "{name}, {tokens} tokens: {} launches, {cold} bytes from memory: {:.3} of the operations' floors, \
             {:.3} of one fused kernel's",
            all.len(),
            cold as f64 / floor as f64,
            cold as f64 / fused as f64
        );
        assert!(cold <= floor + floor / 10, "{name}: {cold} bytes from memory, floor {floor}");
        let work = all.iter().map(|l| l.counts.warp_instructions).sum();
        pinned(
            &format!("encoder, {name}, {tokens} tokens"),
            &[("bytes from memory", cold), ("warp instructions", work)],
        );
        assert!(all.iter().all(|l| l.counts.local_bytes == 0), "{name}: local memory");
    }
}

/// Columns of a hidden state, of a head, and between the maps of a feed-forward net.
const HIDDEN: usize = 128;
const HEAD: usize = 64;
const INNER: usize = 512;

/// What a layer must read and write, each operation for itself, and the multiply-adds of its products.
struct Floor {
    bytes: usize,
    multiply_adds: usize,
}

/// A layer's own cost: that of a model with it, less that of one without.
fn costs_what_it_must(name: &str, floor: &Floor, without: &[LaunchRecord], with: &[LaunchRecord]) {
    let bytes = |all: &[LaunchRecord]| all.iter().map(|l| cold_bytes(&l.counts)).sum::<u64>();
    let work =
        |all: &[LaunchRecord]| all.iter().map(|l| l.counts.tensor_multiply_adds).sum::<u64>();
    let (bytes, work) = (bytes(with) - bytes(without), work(with) - work(without));
    let (of_bytes, of_work) =
        (bytes as f64 / floor.bytes as f64, work as f64 / floor.multiply_adds as f64);
    println!(
        "{name}: {} launches, {bytes} bytes from memory: {of_bytes:.3} of the operations' floors; {work} multiply-adds: \
         {of_work:.3}",
        with.len() - without.len()
    );
    assert!(of_bytes <= 1.1, "{name}: {bytes} bytes, floor {}", floor.bytes);
    pinned(&format!("encoder, {name}"), &[("bytes from memory", bytes), ("multiply-adds", work)]);
    assert!((1.0..=1.05).contains(&of_work), "{name}: {work}, floor {}", floor.multiply_adds);
    assert!(with.iter().all(|l| l.counts.local_bytes == 0), "{name}: local memory");
}

/// A device on whose matrix units a product runs once, so that its multiply-adds can be counted.
fn medium() -> Device {
    let options = DeviceOptions { matmul_precision: MatmulPrecision::Medium, ..Default::default() };
    Device::cuda_with(0, options).unwrap()
}

#[test]
fn a_layer_of_an_image_encoder_costs_what_its_operations_must() {
    let Some((emulator, _)) = emulated() else { return };
    let device = medium();
    // 21 tokens an image, 1344 in all.
    const IMAGES: usize = 64;
    const LENGTH: usize = 21;
    let pixel = Pixels { values: vec![0.5; 3 * 24 * 40], height: 24, width: 40 };
    let run = |layers: usize| {
        let keys = [
            ("hidden_size", json!(HIDDEN)),
            ("pooler_output_size", json!(HIDDEN)),
            ("num_attention_heads", json!(HIDDEN / HEAD)),
            ("intermediate_size", json!(INNER)),
            ("num_hidden_layers", json!(layers)),
        ];
        let folder = weights::grown("vit", &keys, &[(36, HIDDEN), (52, INNER)]);
        let model = ImageEncoder::load(folder.path(), &device, DType::BF16).unwrap();
        let images = vec![pixel.clone(); IMAGES];
        crate::launches(&emulator, || {
            model.embed(&images, &EmbedOptions::default()).unwrap();
        })
    };
    let tokens = IMAGES * LENGTH;
    let states = 4 * tokens * HIDDEN;
    let matrices = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER;
    let vectors = 4 * (9 * HIDDEN + INNER);
    // Norms 2 x 2 states; the projection 4; attention 4; its output 3; the net 1 and 2, and twice what is between.
    let floor = Floor {
        bytes: 2 * matrices + vectors + 18 * states + 2 * 4 * tokens * INNER,
        // Attention in tiles of 16 by 16.
        multiply_adds: tokens * matrices + IMAGES * 2 * 32 * 32 * HIDDEN,
    };
    costs_what_it_must("a layer of a ViT", &floor, &run(1), &run(2));
}

#[test]
fn a_gated_layer_with_rotary_positions_costs_what_its_operations_must() {
    let Some((emulator, _)) = emulated() else { return };
    let device = medium();
    const TEXTS: usize = 32;
    const LENGTH: usize = 48;
    let run = |layers: usize| {
        let kinds = ["full_attention", "sliding_attention"];
        let keys = [
            ("hidden_size", json!(HIDDEN)),
            ("num_attention_heads", json!(HIDDEN / HEAD)),
            ("intermediate_size", json!(INNER)),
            ("num_hidden_layers", json!(layers)),
            ("layer_types", json!(kinds[..layers])),
            ("local_attention", json!(128)),
        ];
        let sizes = [(36, HIDDEN), (108, 3 * HIDDEN), (40, INNER), (80, 2 * INNER)];
        let folder = weights::grown("modernbert", &keys, &sizes);
        let model = TextEncoder::load(folder.path(), &device, DType::BF16).unwrap();
        let text = TextInput { ids: (5..5 + LENGTH as u32).collect(), given: vec![] };
        let texts = vec![text; TEXTS];
        crate::launches(&emulator, || {
            model.embed_inputs(&texts, &EmbedOptions::default()).unwrap();
        })
    };
    let tokens = TEXTS * LENGTH;
    let states = 4 * tokens * HIDDEN;
    let matrices = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER;
    // As above, and rotations 6 states; between the maps both halves are written and read, and the gated once each. The layer has
    // no biases, and tables of cosines and sines.
    let between = 4 * tokens * INNER;
    let floor = Floor {
        bytes: 2 * matrices + 4 * 2 * HIDDEN + 4 * LENGTH * HEAD + 24 * states + 6 * between,
        multiply_adds: tokens * matrices + TEXTS * 2 * LENGTH * LENGTH * HIDDEN,
    };
    costs_what_it_must("a layer of a ModernBERT", &floor, &run(1), &run(2));
}
