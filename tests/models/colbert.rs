//! `TokenEncoder` against what transformers computes for folders as PyLate and ColBERT write them, and sentence-transformers for
//! its own; folders that are damaged.

use std::path::Path;

use crate::common::{assert_bits, golden, golden_copy, main_devices};
use nearkin::models::{EmbedOptions, TextEncoder, TokenEncoder, TokenVectors};
use nearkin::{DType, Device, Error};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const FOLDERS: [&str; 3] = ["colbert-pylate", "colbert-stanford", "colbert-st6"];

/// A golden's texts and what the reference computed.
struct Golden {
    texts: Vec<String>,
    lengths: Vec<usize>,
    bytes: Vec<u8>,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let folder = golden(name);
        let info = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let info: Value = serde_json::from_str(&info).unwrap();
        let field = |key: &str| info[key].clone();
        Golden {
            texts: serde_json::from_value(field("texts")).unwrap(),
            lengths: serde_json::from_value(field("lengths")).unwrap(),
            bytes: std::fs::read(folder.join("golden.safetensors")).unwrap(),
        }
    }

    fn data<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
    }

    fn ids(&self, side: char) -> Vec<u32> {
        self.data::<i64>(&format!("{side}_ids")).into_iter().map(|id| id as u32).collect()
    }
}

fn largest_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
}

#[test]
fn token_vectors_match_transformers() {
    for folder in FOLDERS {
        let want = Golden::open(folder);
        for (device, d) in main_devices() {
            let model = TokenEncoder::load(&golden(folder), d, DType::F32).unwrap();
            assert!(model.has_forms());
            assert_eq!([model.query_tokens(), model.document_tokens()], want.lengths[..]);
            let queries = model.encode_queries(&want.texts).unwrap();
            let documents = model.encode_documents(&want.texts).unwrap();
            for (side, got) in [('q', &queries), ('d', &documents)] {
                assert_eq!(got.dim, model.dim());
                assert_eq!(got.ids, want.ids(side), "{folder} on {device}: ids {side}");
                assert_eq!(got.offsets, want.data::<i64>(&format!("{side}_offsets")));
                let vectors: Vec<f32> = want.data(&format!("{side}_vectors"));
                let error = largest_error(&got.values, &vectors);
                assert!(error < 1e-4, "{folder} on {device}: {side} is {error} off");
            }
            let scores: Vec<f32> =
                (0..want.texts.len()).flat_map(|q| maxsims(&queries, q, &documents)).collect();
            assert!(largest_error(&scores, &want.data::<f32>("scores")) < 1e-3, "{device}");
        }
    }
}

/// ColBERT's score of one query with each document.
fn maxsims(queries: &TokenVectors, q: usize, documents: &TokenVectors) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let dim = queries.dim;
    let score = |d: usize| {
        let best = |q: &[f32]| {
            documents.get(d).chunks(dim).map(|d| dot(q, d)).fold(f32::NEG_INFINITY, f32::max)
        };
        queries.get(q).chunks(dim).map(best).sum()
    };
    (0..documents.len()).map(score).collect()
}

#[test]
fn a_text_gives_the_same_bits_in_every_batch_and_half_weights_keep_the_direction() {
    for (device, d) in main_devices() {
        let want = Golden::open("colbert-pylate");
        let model = TokenEncoder::load(&golden("colbert-pylate"), d, DType::F32).unwrap();
        let all = model.encode_queries(&want.texts).unwrap();
        for batch_tokens in [1, 70] {
            let options = EmbedOptions { batch_tokens, ..Default::default() };
            let some = model.encode_queries_with(&want.texts, &options).unwrap();
            assert!(some == all, "{device}");
            assert_bits(device, &some.values, &all.values);
        }
        let half = TokenEncoder::load(&golden("colbert-pylate"), d, DType::BF16).unwrap();
        let half = half.encode_documents(&want.texts).unwrap();
        let full: Vec<f32> = want.data("d_vectors");
        let dim = half.dim;
        for (a, b) in half.values.chunks(dim).zip(full.chunks(dim)) {
            let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.99, "{device}: {cosine}");
        }
        let none: [&str; 0] = [];
        assert!(model.encode_documents(&none).unwrap().is_empty());
    }
}

#[test]
fn progress_counts_every_text_once() {
    let texts = Golden::open("colbert-pylate").texts;
    let model = TokenEncoder::load(&golden("colbert-pylate"), &Device::cpu(), DType::F32).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |done| seen.lock().unwrap().push(done);
    let options =
        EmbedOptions { batch_tokens: 40, progress: Some(&progress), ..Default::default() };
    model.encode_documents_with(&texts, &options).unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.windows(2).all(|w| w[0] < w[1]) && seen.last() == Some(&texts.len()), "{seen:?}");
}

#[test]
fn a_plain_folder_gives_its_hidden_states_with_length_one() {
    for folder in ["bert", "mpnet", "distilbert"] {
        let texts = &Golden::texts_of(folder)[..6];
        let device = Device::cpu();
        let model = TokenEncoder::load(&golden(folder), &device, DType::F32).unwrap();
        assert!(!model.has_forms());
        let got = model.encode_queries(texts).unwrap();
        let documents = model.encode_documents(texts).unwrap();
        assert_eq!(got, documents);
        assert_bits(folder, &got.values, &documents.values);
        let plain = TextEncoder::load(&golden(folder), &device, DType::F32).unwrap();
        let states = plain.embed_tokens(texts, &EmbedOptions::default()).unwrap();
        assert_eq!((&got.ids, &got.offsets), (&states.ids, &states.offsets));
        for (got, state) in got.values.chunks(got.dim).zip(states.tokens.chunks(got.dim)) {
            let length = state.iter().map(|v| v * v).sum::<f32>().sqrt();
            let want: Vec<f32> = state.iter().map(|v| v / length).collect();
            assert!(largest_error(got, &want) < 1e-6);
        }
    }
}

impl Golden {
    fn texts_of(name: &str) -> Vec<String> {
        let info = std::fs::read_to_string(golden(name).join("golden.json")).unwrap();
        let info: Value = serde_json::from_str(&info).unwrap();
        serde_json::from_value(info["texts"].clone()).unwrap()
    }
}

/// A copy of a golden folder, changed by `edit`.
fn spoilt(name: &str, edit: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = golden_copy(name);
    edit(folder.path());
    folder
}

fn edit_json(file: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

#[track_caller]
fn refused(folder: &tempfile::TempDir, parts: &[&str]) {
    let error = TokenEncoder::load(folder.path(), &Device::cpu(), DType::F32)
        .expect_err("it should have been refused");
    assert!(!matches!(error, Error::Driver { .. }));
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn settings_change_what_is_encoded() {
    let settings = "config_sentence_transformers.json";
    let device = Device::cpu();
    let load = |edit: &dyn Fn(&mut Value)| {
        let folder = spoilt("colbert-pylate", |f| edit_json(&f.join(settings), edit));
        TokenEncoder::load(folder.path(), &device, DType::F32).unwrap()
    };
    let text = ["hello, world!"];
    let before = load(&|_| ()).encode_queries(&text).unwrap();

    let unfilled = load(&|v| v["do_query_expansion"] = json!(false)).encode_queries(&text).unwrap();
    assert!(unfilled.len() == 1 && unfilled.ids.len() < before.ids.len());
    // Masks that are not seen do not change the text's own vectors; seen ones do.
    let n = unfilled.values.len();
    assert!(largest_error(&unfilled.values, &before.values[..n]) < 1e-5);
    let seen = load(&|v| v["attend_to_expansion_tokens"] = json!(true));
    let seen = seen.encode_queries(&text).unwrap();
    assert_eq!(seen.ids, before.ids);
    assert!(largest_error(&seen.values, &before.values) > 1e-2);

    let bare = load(&|v| v["query_prefix"] = json!("")).encode_queries(&text).unwrap();
    assert_eq!(bare.ids.len(), before.ids.len());
    assert_eq!(bare.ids[1..4], before.ids[2..5]);

    // Without a list all punctuation is skipped; a word that is unknown stands for the unknown token.
    let all = load(&|v| _ = v.as_object_mut().unwrap().remove("skiplist_words"));
    let none = load(&|v| v["skiplist_words"] = json!([]));
    let (all, none) = (all.encode_documents(&text).unwrap(), none.encode_documents(&text).unwrap());
    assert_eq!(all.ids.len() + 2, none.ids.len());
    let long = load(&|v| v["document_length"] = json!(999_999));
    assert_eq!(long.document_tokens(), 40, "the model's last position");
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let settings = "config_sentence_transformers.json";
    for (key, value, parts) in [
        ("query_prefix", json!("[Query]"), &["query_prefix", "[Query]"][..]),
        ("document_length", json!(0), &["document_length", "0"]),
        ("document_length", json!(3), &["room"]),
        ("query_length", json!(-1), &[settings]),
        ("skiplist_words", json!([1]), &[settings]),
        ("attend_to_expansion_tokens", json!("no"), &[settings]),
    ] {
        let folder = spoilt("colbert-pylate", |f| edit_json(&f.join(settings), |v| v[key] = value));
        refused(&folder, parts);
    }
    let dense = "1_Dense/config.json";
    for (key, value, parts) in [
        ("in_features", json!(41), &["in_features", "41", "40"][..]),
        ("out_features", json!(0), &["out_features", "0"]),
        ("out_features", json!(31), &["linear", "[31"]),
        ("activation_function", json!("torch.Softmax"), &["torch.Softmax", "Identity"]),
        ("bias", json!(3), &[dense]),
    ] {
        let folder = spoilt("colbert-pylate", |f| edit_json(&f.join(dense), |v| v[key] = value));
        refused(&folder, parts);
    }
    for path in ["../1_Dense", "/etc"] {
        let folder = spoilt("colbert-pylate", |f| {
            edit_json(&f.join("modules.json"), |v| v[1]["path"] = json!(path));
        });
        refused(&folder, &["modules.json", path, "leaves the folder"]);
    }
    for file in ["1_Dense/config.json", "2_Dense/model.safetensors"] {
        let folder = spoilt("colbert-pylate", |f| std::fs::remove_file(f.join(file)).unwrap());
        refused(&folder, &[file, "is missing"]);
    }
    // Without its metadata the class still says that ColBERT's code wrote it; with neither it is a plain encoder.
    let folder = spoilt("colbert-stanford", |f| {
        std::fs::remove_file(f.join("artifact.metadata")).unwrap();
    });
    let model = TokenEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap();
    assert_eq!((model.dim(), model.query_tokens(), model.document_tokens()), (16, 32, 40));
    let markers = r#"{"query_token_id": "[CLS]", "doc_token_id": "[SEP]"}"#;
    let folder = spoilt("bert", |f| std::fs::write(f.join("artifact.metadata"), markers).unwrap());
    refused(&folder, &["linear.weight", "missing"]);
    let folder =
        spoilt("colbert-stanford", |f| std::fs::write(f.join("artifact.metadata"), "[").unwrap());
    refused(&folder, &["artifact.metadata"]);
    let folder = spoilt("bert-cross", |_| ());
    refused(&folder, &["cross-encoder"]);
    let error = TextEncoder::load(&golden("colbert-pylate"), &Device::cpu(), DType::F32);
    assert!(error.unwrap_err().to_string().contains("TokenEncoder"));
}
