//! Damaged, malicious and merely unsuitable model folders: a typed error that says what and where, never a panic.

mod common;

use std::path::Path;

use common::{Rng, golden, golden_copy};
use nearkin::models::{CrossEncoder, TextEncoder, check_config, check_weights};
use nearkin::{DType, Device, Error};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of a golden folder that a test may spoil.
struct Folder(TempDir);

impl Folder {
    fn of(name: &str) -> Folder {
        Folder(golden_copy(name))
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.0.path().join(file)).unwrap();
    }

    /// Changes a JSON file.
    fn edit(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(self.0.path().join(file)).unwrap();
        let mut value = serde_json::from_str(&text).unwrap();
        edit(&mut value);
        self.write(file, value.to_string());
    }

    /// Changes the header and the data of `model.safetensors`.
    fn edit_weights(&self, edit: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let bytes = std::fs::read(self.0.path().join("model.safetensors")).unwrap();
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
        let mut data = bytes[8 + n..].to_vec();
        edit(&mut header, &mut data);
        self.write("model.safetensors", file_of(&header.to_string(), &data));
    }

    fn load(&self) -> Result<TextEncoder, Error> {
        TextEncoder::load(self.0.path(), &Device::cpu(), DType::F32)
    }

    /// The error of loading, which must name all of `parts`.
    #[track_caller]
    fn fails(&self, parts: &[&str]) -> Error {
        says(self.load().map(|_| ()), parts)
    }
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, Error>, parts: &[&str]) -> Error {
    let error = result.expect_err("it should have been refused");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    error
}

fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

#[test]
fn a_golden_file_is_read() {
    let bytes = std::fs::read(golden("bert").join("model.safetensors")).unwrap();
    assert!(check_weights(&bytes).unwrap() > 40_000);
}

#[test]
fn headers_that_lie_are_refused() {
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let good = entry("F32", "[2]", 0, 8);
    let headers = [
        ("no JSON", "{".to_string()),
        ("no object", "[]".into()),
        ("no entry", r#"{"a":1}"#.into()),
        ("no offsets", r#"{"a":{"dtype":"F32","shape":[2]}}"#.into()),
        ("not all bytes", format!(r#"{{"a":{}}}"#, entry("F32", "[1]", 0, 4))),
        ("beyond the file", format!(r#"{{"a":{}}}"#, entry("F32", "[4]", 0, 16))),
        ("far beyond the file", format!(r#"{{"a":{}}}"#, entry("F32", "[4]", 0, u64::MAX))),
        ("backwards", format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 8, 0))),
        ("shape against offsets", format!(r#"{{"a":{}}}"#, entry("F32", "[3]", 0, 8))),
        ("shape that overflows", {
            format!(r#"{{"a":{}}}"#, entry("F32", "[4294967296,4294967296,4]", 0, 8))
        }),
        ("negative shape", format!(r#"{{"a":{}}}"#, entry("F32", "[-2]", 0, 8))),
        ("unknown dtype", format!(r#"{{"a":{}}}"#, entry("F31", "[2]", 0, 8))),
        ("dtype that is no float", format!(r#"{{"a":{}}}"#, entry("I64", "[1]", 0, 8))),
        ("overlap", format!(r#"{{"a":{good},"b":{}}}"#, entry("F32", "[1]", 4, 8))),
        ("same bytes twice", format!(r#"{{"a":{good},"b":{good}}}"#)),
        ("a hole", format!(r#"{{"a":{}}}"#, entry("F32", "[1]", 4, 8))),
        ("one name twice", format!(r#"{{"a":{good},"a":{good}}}"#)),
    ];
    for (what, header) in headers {
        let error = check_weights(&file_of(&header, &[0; 8])).expect_err(what);
        assert!(matches!(error, Error::Weights { .. }), "{what}: {error}");
    }
    assert_eq!(check_weights(&file_of(&format!(r#"{{"a":{good}}}"#), &[0; 8])).unwrap(), 2);
}

#[test]
fn files_that_end_early_are_refused() {
    for bytes in [&b""[..], &[1, 2, 3], &[0; 8], &[0xff; 8], &[0xff; 100]] {
        says(check_weights(bytes), &["memory"]);
    }
    // A header said to be as long as the crate allows, and longer than the file.
    let mut bytes = 99_999_999u64.to_le_bytes().to_vec();
    bytes.extend_from_slice(b"{}");
    says(check_weights(&bytes), &["memory"]);

    let folder = Folder::of("bert");
    let bytes = std::fs::read(folder.0.path().join("model.safetensors")).unwrap();
    for keep in [0, 1, 7, 8, 9, 100, 3000, bytes.len() / 2, bytes.len() - 1] {
        folder.write("model.safetensors", &bytes[..keep]);
        folder.fails(&["model.safetensors"]);
    }
    folder.write("model.safetensors", [&bytes[..], b"more"].concat());
    folder.fails(&["model.safetensors"]);
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let key = "encoder.layer.1.attention.self.key.weight";
    let check = |edit: fn(&mut Value, &mut Vec<u8>), parts: &[&str]| {
        let folder = Folder::of("bert");
        folder.edit_weights(edit);
        let error = folder.fails(parts);
        assert!(matches!(error, Error::Weights { .. }), "{error}");
    };
    fn entry(header: &mut Value) -> &mut Value {
        &mut header["encoder.layer.1.attention.self.key.weight"]
    }
    fn start(header: &mut Value) -> usize {
        entry(header)["data_offsets"][0].as_u64().unwrap() as usize
    }
    check(|h, _| entry(h)["shape"] = json!([80, 20]), &[key, "[40, 40]", "[80, 20]"]);
    check(|h, _| entry(h)["shape"] = json!([1600]), &[key, "[40, 40]", "[1600]"]);
    check(|h, _| entry(h)["dtype"] = json!("I32"), &[key, "f32, f16 or bf16", "I32"]);
    check(
        |h, _| {
            let entry = entry(h).take();
            h["encoder.layer.1.attention.self.clef.weight"] = entry;
            h.as_object_mut().unwrap().remove("encoder.layer.1.attention.self.key.weight");
        },
        &["model.safetensors", key, "missing"],
    );
    check(
        |h, data| {
            let at = start(h) + 4 * 123;
            data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        &["model.safetensors", key, "element 123", "NaN"],
    );
    check(
        |h, data| {
            let at = start(h);
            data[at..at + 4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
        },
        &[key, "element 0", "-inf"],
    );
    check(|_, data| data.fill(0xff), &["NaN"]);
    check(
        |h, _| {
            let words = h["embeddings.word_embeddings.weight"].take();
            h["embeddings.token_embeddings.weight"] = words;
            h.as_object_mut().unwrap().remove("embeddings.word_embeddings.weight");
        },
        &["embeddings.word_embeddings.weight", "missing"],
    );
}

#[test]
fn a_weight_beyond_the_dtype_asked_for_is_refused() {
    let folder = Folder::of("bert");
    folder.edit_weights(|header, data| {
        let at = header["encoder.layer.0.output.dense.weight"]["data_offsets"][0].as_u64();
        let at = at.unwrap() as usize;
        data[at..at + 4].copy_from_slice(&1e6f32.to_le_bytes());
    });
    folder.load().unwrap();
    let error = TextEncoder::load(folder.0.path(), &Device::cpu(), DType::F16).map(|_| ());
    says(error, &["encoder.layer.0.output.dense.weight", "element 0", "beyond f16"]);
}

#[test]
fn two_encoders_in_one_file_are_not_guessed_between() {
    let folder = Folder::of("bert");
    folder.edit_weights(|header, data| {
        let size = data.len();
        data.extend_from_slice(&[0; 4]);
        header["passage.embeddings.word_embeddings.weight"] =
            json!({"dtype": "F32", "shape": [1, 1], "data_offsets": [size, size + 4]});
    });
    folder.fails(&["more than once", "passage."]);
}

#[test]
fn missing_files_are_named() {
    for (file, parts) in [
        ("config.json", &["config.json"][..]),
        ("tokenizer.json", &["tokenizer.json", "is missing"]),
        ("model.safetensors", &["model.safetensors", "is missing"]),
        ("1_Pooling/config.json", &["1_Pooling", "is missing"]),
    ] {
        let folder = Folder::of("bert");
        folder.remove(file);
        folder.fails(parts);
    }
    let folder = Folder::of("bert");
    folder.remove("model.safetensors");
    folder.write("pytorch_model.bin", "PK");
    folder.fails(&["pytorch_model.bin", "safetensors"]);
    says(
        TextEncoder::load(Path::new("no/such/folder"), &Device::cpu(), DType::F32).map(|_| ()),
        &["no/such/folder"],
    );
}

#[test]
fn shards_stay_in_their_folder() {
    let index = "model.safetensors.index.json";
    for name in ["../outside.safetensors", "/etc/hostname", "a/b", "a\\b", "..", ".", "", "c:x"] {
        let folder = Folder::of("bert-sharded");
        folder.edit(index, |v| v["weight_map"]["embeddings.LayerNorm.bias"] = json!(name));
        folder.fails(&[index, "embeddings.LayerNorm.bias", "plain name"]);
    }
    let folder = Folder::of("bert-sharded");
    folder.edit(index, |v| {
        v["weight_map"]["embeddings.LayerNorm.bias"] = json!("model-00001-of-00003.safetensors");
    });
    folder.fails(&[index, "embeddings.LayerNorm.bias", "does not have it"]);
    let folder = Folder::of("bert-sharded");
    folder.remove("model-00002-of-00003.safetensors");
    folder.fails(&["model-00002-of-00003.safetensors"]);
    let folder = Folder::of("bert-sharded");
    folder.write(index, r#"{"weight_map":{"a":"b","a":"c"}}"#);
    folder.fails(&[index, "'a' comes twice"]);
    for text in ["", "{}", "[]", r#"{"weight_map":3}"#, r#"{"weight_map":{"a":[]}}"#] {
        folder.write(index, text);
        folder.fails(&[index]);
    }
}

#[test]
fn configurations_that_are_unknown_are_refused_with_what_is_known() {
    let refused = |json: Value, parts: &[&str]| {
        let error = says(check_config(&json.to_string()), parts);
        assert!(matches!(error, Error::Config { .. }), "{error}");
    };
    let known = ["bert", "camembert", "distilbert", "mpnet", "roberta", "xlm-roberta"];
    refused(json!({"model_type": "gpt2"}), &[&["gpt2"][..], &known].concat());
    refused(json!({"model_type": 7}), &["model_type", "7"]);
    refused(json!({}), &[&["model_type"][..], &known].concat());
    let activations = ["'mish'", "gelu_new", "quick_gelu", "relu", "silu", "tanh"];
    refused(json!({"model_type": "bert", "hidden_act": "mish"}), &activations);
    refused(json!({"model_type": "distilbert", "activation": "mish"}), &activations);
    refused(
        json!({"model_type": "bert", "position_embedding_type": "relative_key"}),
        &["relative_key", "absolute"],
    );
    refused(json!({"model_type": "roberta", "is_decoder": true}), &["is_decoder"]);
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(770)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!(-12)),
        ("hidden_size", json!("768")),
        ("hidden_size", json!(12.5)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(1)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1_000_000)),
        ("intermediate_size", json!(0)),
        ("max_position_embeddings", json!(0)),
        ("type_vocab_size", json!(0)),
        ("vocab_size", json!(0)),
        ("layer_norm_eps", json!(-1.0)),
        ("layer_norm_eps", json!(2)),
        ("num_labels", json!(0)),
        ("id2label", json!({"5": "a"})),
        ("id2label", json!({"x": "a"})),
        ("id2label", json!({"0": "a", "00": "b"})),
    ] {
        refused(json!({"model_type": "bert", key: value}), &[]);
    }
    let mpnet = |key: &str, value: u64| json!({"model_type": "mpnet", key: value});
    refused(mpnet("relative_attention_num_buckets", 3), &["relative_attention_num_buckets"]);
    refused(mpnet("max_position_embeddings", 2), &["max_position_embeddings"]);
    refused(json!({"model_type": "roberta", "pad_token_id": 511}), &["max_position_embeddings"]);
    for text in ["", "{", "[]", "null", "\u{0}"] {
        says(check_config(text), &["config.json"]);
    }
    for name in known {
        check_config(&json!({"model_type": name}).to_string()).unwrap();
    }
}

#[test]
fn modules_that_are_unknown_are_refused_with_what_is_known() {
    let module = |class: &str, path: &str| {
        json!({"idx": 0, "name": "0", "path": path,
               "type": format!("sentence_transformers.models.{class}")})
    };
    let (transformer, pooling) = (module("Transformer", ""), module("Pooling", "1_Pooling"));
    let check = |modules: Value, parts: &[&str]| {
        let folder = Folder::of("bert");
        folder.write("modules.json", modules.to_string());
        let error = folder.fails(&[&["modules.json"], parts].concat());
        assert!(matches!(error, Error::Config { .. }), "{error}");
    };
    let dense = module("Dense", "2_Dense");
    check(json!([transformer, dense, pooling]), &["Dense", "out of order", "TokenEncoder"]);
    check(json!([transformer, module("CNN", "1_CNN")]), &["CNN", "Dense, LayerNorm and Normalize"]);
    check(json!([pooling, transformer]), &["Pooling", "out of order"]);
    check(json!([transformer, pooling, pooling]), &["out of order"]);
    check(json!([transformer]), &["names no Pooling"]);
    check(json!([]), &["names no Transformer"]);
    check(json!({}), &[]);
    for path in ["../elsewhere", "/etc", "a/../../b"] {
        check(json!([module("Transformer", path), pooling]), &["leaves the folder"]);
    }

    let pooled = |config: Value, parts: &[&str]| {
        let folder = Folder::of("bert");
        folder.write("1_Pooling/config.json", config.to_string());
        folder.fails(&[&["1_Pooling"], parts].concat());
    };
    pooled(json!({"pooling_mode": "weightedmean"}), &["weightedmean", "cls, max, mean"]);
    pooled(json!({"pooling_mode": ["cls", "mean"]}), &["cls, mean", "expected one"]);
    pooled(json!({"pooling_mode_cls_token": true}), &["cls, mean", "expected one"]);
    pooled(json!({"pooling_mode_mean_tokens": false}), &["0 ways"]);
    pooled(json!({"pooling_mode": 3}), &["pooling_mode"]);
    pooled(json!({"word_embedding_dimension": 41}), &["41", "40"]);
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let folder = Folder::of("bert");
    folder.edit("tokenizer.json", |v| v["model"]["vocab"]["zebra"] = json!(4000));
    let model = folder.load().unwrap();
    assert!(model.embed(&["a dog"]).is_ok());
    let error = says(model.embed(&["a dog", "a zebra"]), &["tokenizer.json", "4000", "400"]);
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");

    for limit in [0, 1, 3] {
        let folder = Folder::of("bert");
        folder.edit("sentence_bert_config.json", |v| v["max_seq_length"] = json!(limit));
        folder.fails(&["tokenizer.json", "special tokens"]);
    }
    // Beyond the model's positions the limit is the positions; 1e30 is no limit.
    let folder = Folder::of("roberta");
    folder.edit("sentence_bert_config.json", |v| v["max_seq_length"] = json!(9000));
    assert_eq!(folder.load().unwrap().max_tokens(), 32);
    folder.edit("sentence_bert_config.json", |v| v["max_seq_length"] = Value::Null);
    folder.edit("tokenizer_config.json", |v| v["model_max_length"] = json!(1e30));
    assert_eq!(folder.load().unwrap().max_tokens(), 32);

    for text in ["", "{}", "[]", r#"{"model":{}}"#] {
        let folder = Folder::of("bert");
        folder.write("tokenizer.json", text);
        folder.fails(&["tokenizer.json"]);
    }
}

#[test]
fn lower_case_is_done_before_the_tokenizer_where_asked() {
    // This tokenizer keeps the case.
    let folder = Folder::of("distilbert");
    let cased = folder.load().unwrap();
    let text = "Привет МИР Straße ΚΑΛΗΜΕΡΑΣ";
    let lower = cased.token_ids(&[text.to_lowercase()]).unwrap();
    assert_ne!(cased.token_ids(&[text]).unwrap(), lower);
    folder.edit("sentence_bert_config.json", |v| v["do_lower_case"] = json!(true));
    assert_eq!(folder.load().unwrap().token_ids(&[text]).unwrap(), lower);
}

#[test]
fn a_text_is_cut_on_the_side_that_is_asked_for() {
    let folder = Folder::of("distilbert");
    let text = "the fox and the dog and the river and the city and the weather and the evening";
    let cut = |folder: &Folder| folder.load().unwrap().token_ids(&[text]).unwrap().remove(0);
    let right = cut(&folder);
    folder.edit("tokenizer_config.json", |v| v["truncation_side"] = json!("left"));
    let left = cut(&folder);
    folder.edit("sentence_bert_config.json", |v| v["max_seq_length"] = json!(40));
    let whole = cut(&folder);
    let n = whole.len();
    assert!(n > 20 && n < 40, "{n}");
    let (first, last) = (whole[0], whole[n - 1]);
    assert_eq!(right, [&whole[..19], &[last]].concat());
    assert_eq!(left, [&[first], &whole[n - 19..]].concat());
}

#[test]
fn a_dtype_that_is_no_float_is_refused() {
    for dtype in [DType::U32, DType::I64] {
        let error = TextEncoder::load(&golden("bert"), &Device::cpu(), dtype).map(|_| ());
        says(error, &[dtype.name(), "f32, f16 or bf16"]);
        let error = CrossEncoder::load(&golden("bert-cross"), &Device::cpu(), dtype).map(|_| ());
        says(error, &[dtype.name()]);
    }
}

#[test]
fn a_cross_encoder_is_no_text_encoder_unless_its_modules_say_so() {
    let folder = Folder::of("bert-cross");
    let error = folder.fails(&["config.json", "BertForSequenceClassification", "cross-encoder"]);
    assert!(matches!(error, Error::Config { .. }), "{error}");
    for file in ["modules.json", "1_Pooling/config.json"] {
        let path = folder.0.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(golden("bert").join(file), path).unwrap();
    }
    folder.edit("1_Pooling/config.json", |v| *v = json!({"pooling_mode": "mean"}));
    assert_eq!(folder.load().unwrap().dim(), 36);
}

#[test]
fn a_cross_encoder_needs_its_head() {
    let load = |folder: &Path| CrossEncoder::load(folder, &Device::cpu(), DType::F32).map(|_| ());
    says(load(&golden("bert")), &["model.safetensors", "classifier.weight", "no sequence-class"]);
    says(load(&golden("mpnet")), &["classifier.out_proj.weight", "no sequence-class"]);
    let folder = Folder::of("bert-cross");
    folder.edit("config.json", |v| v["id2label"] = json!({"0": "no", "1": "yes"}));
    says(load(folder.0.path()), &["classifier.weight", "[2, 36]", "[1, 36]"]);
}

/// Cuts, flips and overwrites bytes, most often in the first part of the file, where its structure is.
fn mutate(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let front = bytes.len().min(if rng.below(3) == 0 { bytes.len() } else { 4096 });
    for _ in 0..=rng.below(4) {
        let at = rng.below(front);
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => bytes[at] = b"0123456789[]{}\",:-"[rng.below(18)],
            3 => bytes.truncate(at.max(1)),
            4 => _ = bytes.remove(at),
            _ => bytes.insert(at, rng.next() as u8),
        }
        if bytes.len() <= front {
            break;
        }
    }
    bytes
}

#[test]
fn mutated_weights_never_panic() {
    let bytes = std::fs::read(golden("bert").join("model.safetensors")).unwrap();
    let mut rng = Rng(1);
    let mut refused = 0;
    for _ in 0..800 {
        refused += check_weights(&mutate(&bytes, &mut rng)).is_err() as usize;
    }
    assert!(refused > 400, "only {refused} of 800 were refused");

    let folder = Folder::of("bert");
    for _ in 0..60 {
        folder.write("model.safetensors", mutate(&bytes, &mut rng));
        _ = folder.load();
    }
}

#[test]
fn mutated_configurations_never_panic() {
    let mut rng = Rng(2);
    let first = ["bert", "roberta", "distilbert", "mpnet", "bert-cross"].map(golden);
    let later = std::fs::read_dir(golden("encoders")).unwrap().map(|entry| entry.unwrap().path());
    for folder in first.into_iter().chain(later) {
        let file = ["config.json", "open_clip_config.json"].map(|name| folder.join(name));
        let bytes = file.iter().find_map(|file| std::fs::read(file).ok()).unwrap();
        check_config(&String::from_utf8_lossy(&bytes)).unwrap();
        for _ in 0..300 {
            _ = check_config(&String::from_utf8_lossy(&mutate(&bytes, &mut rng)));
        }
    }
    let folder = Folder::of("bert-sharded");
    for file in [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    ] {
        let bytes = std::fs::read(golden("bert-sharded").join(file)).unwrap();
        for _ in 0..40 {
            folder.write(file, mutate(&bytes, &mut rng));
            if let Ok(model) = folder.load() {
                _ = model.embed(&["the lazy dog"]);
            }
        }
        folder.write(file, bytes);
    }
}

#[test]
fn mutated_tokenizers_never_panic() {
    let mut rng = Rng(3);
    for name in ["bert", "roberta", "xlm-roberta", "mpnet"] {
        let folder = Folder::of(name);
        let bytes = std::fs::read(golden(name).join("tokenizer.json")).unwrap();
        for _ in 0..100 {
            folder.write("tokenizer.json", mutate(&bytes, &mut rng));
            if let Ok(model) = folder.load() {
                _ = model.embed(&["the lazy dog", "", "Привет 🚀 <pad>"]);
            }
        }
    }
}

/// A clone without Git LFS has short texts in place of the large files.
#[test]
fn git_lfs_pointers_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
                   size 12345\n";
    let files = ["model.safetensors", "tokenizer.json", "config.json", "modules.json"];
    for file in files {
        let folder = Folder::of("bert");
        folder.write(file, pointer);
        folder.fails(&[file, "Git LFS pointer", "git lfs pull"]);
    }
    let folder = Folder::of("bert-sharded");
    for file in ["model.safetensors.index.json", "model-00001-of-00003.safetensors"] {
        let folder = Folder::of("bert-sharded");
        assert!(folder.0.path().join(file).exists(), "{file}");
        folder.write(file, pointer);
        folder.fails(&[file, "Git LFS pointer"]);
    }
    folder.write("index.safetensors", pointer);
    let index = folder.0.path().join("index.safetensors");
    says(
        nearkin::search::FlatIndex::load(&index, &Device::cpu()),
        &["index.safetensors", "git lfs pull"],
    );
    #[cfg(feature = "images")]
    says(nearkin::images::Image::open(&index), &["index.safetensors", "git lfs pull"]);
}

/// Weights in f64 are those in f32, rounded once; a float of 8 bits is nothing without its scales.
#[test]
fn weights_in_f64_are_rounded_and_others_are_named() {
    let texts = ["a wing stalls", "heat"];
    let plain = Folder::of("bert");
    let want = plain.load().unwrap().embed(&texts).unwrap();
    let folder = Folder::of("bert");
    let widen = |to: &'static str| {
        move |header: &mut Value, data: &mut Vec<u8>| {
            let mut out: Vec<u8> = Vec::new();
            let mut names: Vec<(u64, String)> = header
                .as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| *name != "__metadata__")
                .map(|(name, info)| (info["data_offsets"][0].as_u64().unwrap(), name.clone()))
                .collect();
            names.sort();
            for (_, name) in names {
                let info = &mut header[&name];
                let offset = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
                let bytes = &data[offset(0)..offset(1)];
                let start = out.len();
                if info["dtype"] == "F32" {
                    info["dtype"] = to.into();
                    for value in bytes.chunks(4) {
                        let value = f32::from_le_bytes(value.try_into().unwrap());
                        match to {
                            // Less than half of the last bit of an f32: rounding takes it away again.
                            "F64" => out.extend((f64::from(value) * (1.0 + 1e-9)).to_le_bytes()),
                            _ => out.push(value as u8),
                        }
                    }
                } else {
                    out.extend_from_slice(bytes);
                }
                info["data_offsets"] = json!([start, out.len()]);
            }
            *data = out;
        }
    };
    folder.edit_weights(widen("F64"));
    assert!(folder.load().unwrap().embed(&texts).unwrap() == want);
    for dtype in [DType::F16, DType::BF16] {
        let load = |f: &Folder| TextEncoder::load(f.0.path(), &Device::cpu(), dtype).unwrap();
        assert!(load(&folder).embed(&texts).unwrap() == load(&plain).embed(&texts).unwrap());
    }
    for dtype in ["F8_E4M3", "F8_E5M2"] {
        let folder = Folder::of("bert");
        folder.edit_weights(widen(dtype));
        folder.fails(&[dtype, "8-bit floats", "scales", "f32, f16 or bf16"]);
    }
    for dtype in ["I8", "U8"] {
        let folder = Folder::of("bert");
        folder.edit_weights(widen(dtype));
        folder.fails(&[dtype, "f32, f16 or bf16"]);
    }
    // A value beyond f32 is no finite number there.
    let folder = Folder::of("bert");
    folder.edit_weights(widen("F64"));
    folder.edit_weights(|_, data| data[..8].copy_from_slice(&1e300f64.to_le_bytes()));
    folder.fails(&["not a finite number"]);
}
