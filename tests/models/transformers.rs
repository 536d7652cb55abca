//! Models against what transformers and sentence-transformers compute: `tests/goldens`, made by `generate.py`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::common::{assert_bits, devices, exhaustive, golden, main_devices, root};
use nearkin::models::{CrossEncoder, EmbedOptions, TextEncoder};
use nearkin::ops::topk::Metric;
use nearkin::search::FlatIndex;
use nearkin::{DType, Device, DeviceOptions, Error, MatmulPrecision};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

const TEXT_FOLDERS: [&str; 10] = [
    "bert",
    "bert-sharded",
    "bert-f16",
    "bert-prefix",
    "bert-st6",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-bf16",
    "distilbert",
    "mpnet",
];
const CROSS_FOLDERS: [&str; 2] = ["bert-cross", "xlm-roberta-cross"];

/// Absolute, on values of the order of 1.
const TOLERANCE: f32 = 1e-4;

/// A golden's inputs and what the reference computed.
struct Golden {
    folder: PathBuf,
    info: Value,
    bytes: Vec<u8>,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let folder = golden(name);
        Golden::of(&folder, &folder.join("golden"))
    }

    fn of(folder: &Path, stem: &Path) -> Golden {
        let info = std::fs::read_to_string(stem.with_extension("json")).unwrap();
        let bytes = std::fs::read(stem.with_extension("safetensors")).unwrap();
        Golden { folder: folder.into(), info: serde_json::from_str(&info).unwrap(), bytes }
    }

    fn texts(&self) -> Vec<String> {
        serde_json::from_value(self.info["texts"].clone()).unwrap()
    }

    fn pairs(&self) -> Vec<(String, String)> {
        serde_json::from_value(self.info["pairs"].clone()).unwrap()
    }

    fn max_length(&self) -> usize {
        self.info["max_length"].as_u64().unwrap() as usize
    }

    fn data(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).unwrap().data().to_vec()
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.data(name))
    }

    fn i64s(&self, name: &str) -> Vec<i64> {
        bytemuck::pod_collect_to_vec(&self.data(name))
    }

    fn ids(&self) -> Vec<u32> {
        self.i64s("ids").into_iter().map(|id| id as u32).collect()
    }
}

#[track_caller]
fn assert_near(what: &str, got: &[f32], want: &[f32]) {
    assert_within(TOLERANCE, what, got, want);
}

#[track_caller]
pub(crate) fn assert_within(tolerance: f32, what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let (at, error) = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((0, 0.0));
    assert!(error <= tolerance, "{what}: element {at} is {}, expected {}", got[at], want[at]);
    println!("{what}: at most {error:.1e} off");
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&x, &y)| x as f64 * y as f64).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Hidden states, embeddings and ids of a folder on a device in f32.
fn check_text(golden: &Golden, name: &str, device: &Device) {
    let model = TextEncoder::load(&golden.folder, device, DType::F32).unwrap();
    assert_eq!(model.max_tokens(), golden.max_length(), "{name}");
    assert_eq!(model.dim() as u64, golden.info["dimension"].as_u64().unwrap(), "{name}");
    let got = model.embed_tokens(&golden.texts(), &EmbedOptions::default()).unwrap();
    assert_eq!(got.ids, golden.ids(), "{name}: ids");
    assert_eq!(got.offsets, golden.i64s("offsets"), "{name}: offsets");
    assert_near(&format!("{name}: hidden states"), &got.tokens, &golden.f32s("hidden"));
    assert_near(&format!("{name}: embeddings"), &got.embeddings, &golden.f32s("embeddings"));
    let embedded = model.embed(&golden.texts()).unwrap();
    assert_bits(&format!("{name}: embed"), &embedded, &got.embeddings);
}

#[test]
fn text_encoders_match_transformers() {
    for folder in TEXT_FOLDERS {
        let golden = Golden::open(folder);
        for (device, d) in main_devices() {
            check_text(&golden, &format!("{folder} on {device}"), d);
        }
    }
}

#[test]
fn devices_with_fewer_features_match_transformers() {
    let golden = Golden::open("mpnet");
    for (device, d) in &devices()[main_devices().len()..] {
        check_text(&golden, &format!("mpnet on {device}"), d);
    }
}

#[test]
fn text_encoders_in_half_precision_keep_the_direction() {
    for folder in TEXT_FOLDERS {
        let golden = Golden::open(folder);
        let want = golden.f32s("embeddings");
        for (device, d) in main_devices() {
            for dtype in [DType::F16, DType::BF16] {
                let model = TextEncoder::load(&golden.folder, d, dtype).unwrap();
                let got = model.embed(&golden.texts()).unwrap();
                let least = got
                    .chunks(model.dim())
                    .zip(want.chunks(model.dim()))
                    .map(|(g, w)| cosine(g, w))
                    .fold(1.0, f64::min);
                assert!(least > 0.999, "{folder} as {dtype} on {device}: cosine {least}");
                println!("{folder} as {dtype} on {device}: cosine at least {least:.6}");
            }
        }
    }
}

#[test]
fn text_encoders_on_tensor_cores_keep_the_direction() {
    let Some(_) = crate::common::device("cuda") else { return };
    for precision in [MatmulPrecision::High, MatmulPrecision::Tf32, MatmulPrecision::Medium] {
        let options = DeviceOptions { matmul_precision: precision, ..Default::default() };
        let device = Device::by_name_with("cuda", options).unwrap();
        for folder in ["bert", "mpnet"] {
            let golden = Golden::open(folder);
            let want = golden.f32s("embeddings");
            for dtype in [DType::F32, DType::BF16] {
                let model = TextEncoder::load(&golden.folder, &device, dtype).unwrap();
                let got = model.embed(&golden.texts()).unwrap();
                let pairs = got.chunks(model.dim()).zip(want.chunks(model.dim()));
                let least = pairs.map(|(g, w)| cosine(g, w)).fold(1.0, f64::min);
                let is_near = match (precision, dtype) {
                    (MatmulPrecision::High, DType::F32) => least > 1.0 - 1e-8,
                    _ => least > 0.999,
                };
                assert!(is_near, "{folder} as {dtype}, {precision:?}: cosine {least}");
            }
        }
    }
}

#[test]
fn cross_encoders_match_transformers() {
    for folder in CROSS_FOLDERS {
        let golden = Golden::open(folder);
        let want = golden.f32s("logits");
        for (device, d) in main_devices() {
            let name = format!("{folder} on {device}");
            let model = CrossEncoder::load(&golden.folder, d, DType::F32).unwrap();
            assert_eq!(model.labels(), ["LABEL_0"], "{name}");
            assert_eq!(model.max_tokens(), golden.max_length(), "{name}");
            let ids = model.token_ids(&golden.pairs()).unwrap();
            assert_eq!(ids.concat(), golden.ids(), "{name}: ids");
            assert_near(&name, &model.score(&golden.pairs()).unwrap(), &want);
            for dtype in [DType::F16, DType::BF16] {
                let model = CrossEncoder::load(&golden.folder, d, dtype).unwrap();
                let least = cosine(&model.score(&golden.pairs()).unwrap(), &want);
                assert!(least > 0.999, "{name} as {dtype}: cosine {least}");
            }
        }
    }
}

#[test]
fn a_cross_encoder_gives_a_logit_for_each_label() {
    let golden = Golden::open("bert-cross");
    let folder = bare_copy(&golden);
    let config = std::fs::read_to_string(golden.folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["id2label"] = json!({"2": "minus", "0": "once", "1": "twice"});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(golden.folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let rows = |name: &str| -> Vec<u8> {
        let row: Vec<f32> = bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data());
        let scaled = [1.0, 2.0, -1.0].iter().flat_map(|s| row.iter().map(move |v| s * v));
        bytemuck::pod_collect_to_vec(&scaled.collect::<Vec<f32>>())
    };
    let (weight, bias) = (rows("classifier.weight"), rows("classifier.bias"));
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let view = match name.as_str() {
            "classifier.weight" => TensorView::new(Dtype::F32, vec![3, 36], &weight).unwrap(),
            "classifier.bias" => TensorView::new(Dtype::F32, vec![3], &bias).unwrap(),
            _ => view,
        };
        (name, view)
    });
    let path = folder.path().join("model.safetensors");
    std::fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let want: Vec<f32> = golden.f32s("logits").iter().flat_map(|l| [*l, 2.0 * l, -l]).collect();
    for (device, d) in main_devices() {
        let model = CrossEncoder::load(folder.path(), d, DType::F32).unwrap();
        assert_eq!(model.labels(), ["once", "twice", "minus"]);
        assert_near(device, &model.score(&golden.pairs()).unwrap(), &want);
    }
}

#[test]
fn a_result_does_not_depend_on_its_batch() {
    let bits = |v: Vec<f32>| -> Vec<u32> { v.into_iter().map(f32::to_bits).collect() };
    for (device, d) in main_devices() {
        for folder in ["bert", "mpnet"] {
            let golden = Golden::open(folder);
            let texts = golden.texts();
            let model = TextEncoder::load(&golden.folder, d, DType::F32).unwrap();
            let alone: Vec<f32> =
                texts.iter().flat_map(|text| model.embed(&[text]).unwrap()).collect();
            let alone = bits(alone);
            for batch_tokens in [1, 30, 77, 100_000] {
                let options = EmbedOptions { batch_tokens, ..Default::default() };
                let together = model.embed_with(&texts, &options).unwrap();
                assert_eq!(together.tokens, golden.ids().len());
                let what = format!("{folder} on {device} in batches of {batch_tokens}");
                assert!(bits(together.values) == alone, "{what}");
            }
            let mut turned: Vec<&String> = texts.iter().collect();
            turned.rotate_left(5);
            let mut back = model.embed(&turned).unwrap();
            back.rotate_right(5 * model.dim());
            assert!(bits(back) == alone, "{folder} on {device} in another order");
        }
        let golden = Golden::open("bert-cross");
        let pairs = golden.pairs();
        let model = CrossEncoder::load(&golden.folder, d, DType::F32).unwrap();
        let alone: Vec<f32> = pairs
            .iter()
            .flat_map(|pair| model.score(std::slice::from_ref(pair)).unwrap())
            .collect();
        assert!(bits(model.score(&pairs).unwrap()) == bits(alone), "bert-cross on {device}");
    }
}

#[test]
fn no_texts_give_no_vectors() {
    let none: [&str; 0] = [];
    for (_, d) in main_devices() {
        let model = TextEncoder::load(&golden("bert"), d, DType::F32).unwrap();
        assert!(model.embed(&none).unwrap().is_empty());
        let tokens = model.embed_tokens(&none, &EmbedOptions::default()).unwrap();
        assert_eq!((tokens.tokens.len(), tokens.offsets), (0, vec![0]));
        let model = CrossEncoder::load(&golden("bert-cross"), d, DType::F32).unwrap();
        assert!(model.score::<&str>(&[]).unwrap().is_empty());
    }
}

#[test]
fn progress_counts_every_text_once() {
    let golden = Golden::open("bert");
    for (_, d) in main_devices() {
        let model = TextEncoder::load(&golden.folder, d, DType::F32).unwrap();
        let seen = Mutex::new(Vec::new());
        let progress = |done| seen.lock().unwrap().push(done);
        let options =
            EmbedOptions { batch_tokens: 40, progress: Some(&progress), ..Default::default() };
        model.embed_with(&golden.texts(), &options).unwrap();
        let seen = seen.into_inner().unwrap();
        assert!(seen.windows(2).all(|w| w[0] < w[1]), "{seen:?}");
        assert_eq!(seen.last(), Some(&golden.texts().len()));
    }
}

#[test]
fn the_workspace_is_what_the_documentation_says() {
    // Texts so many that activations outweigh everything else.
    let folder = golden("bert");
    let texts = vec![LONG; 400];
    let (hidden, inner) = (40, 72);
    let load = |limit: Option<u64>| {
        let own = crate::common::own_options();
        let device =
            Device::cpu_with(DeviceOptions { memory_limit: limit.or(own.memory_limit), ..own });
        (TextEncoder::load(&folder, &device, DType::F32).unwrap(), device)
    };
    let weights = load(None).1.memory_in_use() as usize;
    for batch_tokens in [24, 1200, 9600] {
        let activations = 4 * batch_tokens * (5 * hidden).max(2 * hidden + inner);
        let rows = 12 * batch_tokens;
        let packed = 2 * 4 * hidden * 3 * hidden;
        let options = EmbedOptions { batch_tokens, ..Default::default() };

        let enough = weights + (activations + rows) * 9 / 8 + packed;
        let (model, _) = load(Some(enough as u64));
        model.embed_with(&texts, &options).unwrap();

        let (model, device) = load(Some((weights + activations / 2) as u64));
        let error = model.embed_with(&texts, &options).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert_eq!(device.memory_in_use() as usize, weights, "after the error");
    }
}

/// More tokens than any golden model reads.
const LONG: &str =
    "boundary layer flow over a wing in a propeller slipstream was measured at high speed";

#[test]
fn old_and_wrapped_names_of_tensors_are_understood() {
    let golden = Golden::open("bert");
    let bytes = std::fs::read(golden.folder.join("model.safetensors")).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    for prefix in ["model.", "0.auto_model.", "model.bert."] {
        let renamed: serde_json::Map<String, Value> = header
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, entry)| {
                let old = name
                    .replace("LayerNorm.weight", "LayerNorm.gamma")
                    .replace("LayerNorm.bias", "LayerNorm.beta");
                let prefix = if name == "__metadata__" { "" } else { prefix };
                (format!("{prefix}{old}"), entry.clone())
            })
            .collect();
        let renamed = Value::Object(renamed).to_string();
        let folder = bare_copy(&golden);
        let mut file = (renamed.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(renamed.as_bytes());
        file.extend_from_slice(&bytes[8 + n..]);
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        let model = TextEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap();
        let got = model.embed_tokens(&golden.texts(), &EmbedOptions::default()).unwrap();
        assert_near(prefix, &got.tokens, &golden.f32s("hidden"));
    }
}

/// The files of a folder that transformers itself writes.
fn bare_copy(golden: &Golden) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden.folder.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn a_folder_without_modules_is_mean_pooled() {
    let golden = Golden::open("bert-f16");
    let folder = bare_copy(&golden);
    let model = TextEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap();
    assert_near("bare folder", &model.embed(&golden.texts()).unwrap(), &golden.f32s("embeddings"));
}

#[test]
fn the_transformer_may_have_its_own_folder() {
    let golden = Golden::open("bert");
    let folder = tempfile::tempdir().unwrap();
    let transformer = folder.path().join("0_Transformer");
    std::fs::create_dir_all(&transformer).unwrap();
    std::fs::create_dir_all(folder.path().join("1_Pooling")).unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ] {
        std::fs::copy(golden.folder.join(name), transformer.join(name)).unwrap();
    }
    let pooling = "1_Pooling/config.json";
    std::fs::copy(golden.folder.join(pooling), folder.path().join(pooling)).unwrap();
    let modules = std::fs::read_to_string(golden.folder.join("modules.json")).unwrap();
    let modules = modules.replacen(r#""path": """#, r#""path": "0_Transformer""#, 1);
    std::fs::write(folder.path().join("modules.json"), modules).unwrap();
    let model = TextEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap();
    assert_eq!(model.max_tokens(), golden.max_length());
    assert_near("own folder", &model.embed(&golden.texts()).unwrap(), &golden.f32s("embeddings"));
}

/// Projection, norm and normalisation behind the pooling, against the same by hand.
#[test]
fn modules_behind_the_pooling_are_run() {
    let golden = Golden::open("bert");
    let folder = crate::common::golden_copy("bert");
    let write = |name: &str, json: Value| {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, json.to_string()).unwrap();
    };
    let tensors = |name: &str, tensors: &[(&str, &[usize], &[f32])]| {
        let views = tensors.iter().map(|(name, shape, values)| {
            let bytes = bytemuck::cast_slice(values);
            (name.to_string(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join(name).join("model.safetensors"), bytes).unwrap();
    };
    let module = |class: &str, path: &str| json!({"idx": 0, "name": "0", "path": path, "type": format!("sentence_transformers.models.{class}")});
    let (wide, narrow) = (40, 12);
    let mut rng = crate::common::Rng(5);
    let (matrix, bias) = (rng.normals(narrow * wide), rng.normals(narrow));
    let (scale, shift) = (rng.normals(narrow), rng.normals(narrow));
    let dense = json!({"in_features": wide, "out_features": narrow, "bias": true,
                       "activation_function": "torch.nn.modules.activation.Tanh"});
    write("2_Dense/config.json", dense);
    tensors(
        "2_Dense",
        &[("linear.weight", &[narrow, wide], &matrix), ("linear.bias", &[narrow], &bias)],
    );
    write("3_LayerNorm/config.json", json!({"dimension": narrow}));
    tensors("3_LayerNorm", &[("norm.weight", &[narrow], &scale), ("norm.bias", &[narrow], &shift)]);
    let first = [module("Transformer", ""), module("Pooling", "1_Pooling")];
    write("modules.json", json!(first));
    let load = |d: &Device| TextEncoder::load(folder.path(), d, DType::F32).unwrap();
    let pooled = load(&Device::cpu()).embed(&golden.texts()).unwrap();
    let rest = [
        module("Dense", "2_Dense"),
        module("LayerNorm", "3_LayerNorm"),
        module("Normalize", "4_Normalize"),
    ];
    write("modules.json", json!([&first[..], &rest].concat()));
    let want: Vec<f32> = pooled
        .chunks(wide)
        .flat_map(|x| {
            let y: Vec<f64> = (0..narrow)
                .map(|j| {
                    let row = &matrix[j * wide..][..wide];
                    let dot: f64 = row.iter().zip(x).map(|(&w, &x)| w as f64 * x as f64).sum();
                    (dot + bias[j] as f64).tanh()
                })
                .collect();
            let mean = y.iter().sum::<f64>() / narrow as f64;
            let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / narrow as f64;
            let z: Vec<f64> = (0..narrow)
                .map(|j| {
                    (y[j] - mean) / (variance + 1e-5).sqrt() * scale[j] as f64 + shift[j] as f64
                })
                .collect();
            let length = z.iter().map(|v| v * v).sum::<f64>().sqrt();
            z.into_iter().map(move |v| (v / length) as f32)
        })
        .collect();
    for (device, d) in main_devices() {
        let model = load(d);
        assert_eq!(model.dim(), narrow);
        assert_near(device, &model.embed(&golden.texts()).unwrap(), &want);
        let both = model.embed_tokens(&golden.texts(), &EmbedOptions::default()).unwrap();
        assert_eq!((both.dim, both.embeddings.len()), (wide, want.len()));
    }
}

/// The folder of the real MiniLM, where it was fetched.
fn minilm() -> Option<PathBuf> {
    let folder = crate::common::minilm();
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    println!("skipped: no model in {}; `cargo xtask model` fetches it", folder.display());
    None
}

#[test]
fn all_minilm_l6_v2_matches_sentence_transformers() {
    let Some(folder) = minilm() else { return };
    let golden = Golden::of(&folder, &golden("minilm"));
    let texts = golden.texts();
    let want = golden.f32s("embeddings");
    // The bundle's copy of the model is rounded to f16, which moves the embeddings by 2e-4.
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&file).unwrap();
    let is_rounded = weights.iter().any(|(_, weight)| weight.dtype() == Dtype::F16);
    let tolerance = if is_rounded { 4.0 * TOLERANCE } else { TOLERANCE };
    for (device, d) in main_devices() {
        let name = format!("MiniLM on {device}");
        let model = TextEncoder::load(&folder, d, DType::F32).unwrap();
        assert_eq!(model.max_tokens(), golden.max_length());
        assert_eq!(model.token_ids(&texts).unwrap().concat(), golden.ids(), "{name}: ids");
        // All but the two long texts: those are most of the tokens, and an emulated GPU takes a minute for them.
        let count = if d.is_cpu() || exhaustive() { texts.len() } else { texts.len() - 2 };
        let want = &want[..count * model.dim()];
        assert_within(tolerance, &name, &model.embed(&texts[..count]).unwrap(), want);
    }
}

/// The `text` of each line of one of the demo's files.
fn demo_texts(file: &str) -> Vec<String> {
    let path = root().join("examples/data").join(file);
    let lines = std::fs::read_to_string(path).unwrap();
    let text =
        |line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_string();
    lines.lines().map(text).collect()
}

/// From text to ranking, every device alone: the same passages in the same order, wherever the CPU's scores tell them apart.
#[test]
fn every_device_ranks_real_passages_alike() {
    let Some(folder) = minilm() else { return };
    // Few, and of each how it begins: an emulated GPU takes seconds for each.
    let (words, count) = if exhaustive() { (usize::MAX, 5) } else { (20, 3) };
    let begins = |text: &String| text.split_inclusive(' ').take(words).collect::<String>();
    let passages: Vec<String> = demo_texts("passages.jsonl")[..count].iter().map(begins).collect();
    let ids: Vec<String> = (0..count).map(|i| i.to_string()).collect();
    let queries = &demo_texts("queries.jsonl")[..count - 1];
    let mut rankings = main_devices().iter().map(|(name, device)| {
        let model = TextEncoder::load(&folder, device, DType::F32).unwrap();
        let mut index = FlatIndex::new(device, DType::F32, model.dim()).unwrap();
        index.add(&ids, &model.embed(&passages).unwrap()).unwrap();
        let queries = model.embed(queries).unwrap();
        (name, index.search(&queries, passages.len(), Metric::Cosine, None).unwrap())
    });
    let (_, cpu) = rankings.next().unwrap();
    assert!(cpu.iter().all(|hits| hits.len() == passages.len()));
    for (name, other) in rankings {
        for (cpu, other) in cpu.iter().zip(&other) {
            for (rank, (c, o)) in cpu.iter().zip(other).enumerate() {
                assert!((c.score - o.score).abs() < 1e-5, "{name}: rank {rank}: {c:?} {o:?}");
                let apart = |i: usize| (cpu[i].score - cpu[i + 1].score).abs() > 1e-5;
                let alone =
                    (rank == 0 || apart(rank - 1)) && (rank + 1 == cpu.len() || apart(rank));
                assert!(c.id == o.id || !alone, "{name}: rank {rank}: {c:?} {o:?}");
            }
        }
    }
}
