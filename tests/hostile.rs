//! Damaged, malicious and merely unsuitable model folders: a typed error that says what and where, never a panic.

mod common;

use std::path::Path;

use common::{Rng, golden, golden_copy};
use nearkin::images::Pixels;
use nearkin::models::{
    CrossEncoder, EmbedOptions, ImageEncoder, TextEncoder, TextInput, check_config, check_weights,
};
use nearkin::ops::hamming::Hasher;
use nearkin::ops::maxsim::Storage;
use nearkin::search::{BinaryIndex, FlatIndex, Keep, TokenIndex, check_index};
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
fn headers_with_too_many_tensors_are_refused() {
    let header = |count: usize| {
        let entry = |i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
        file_of(&format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(",")), &[])
    };
    assert_eq!(check_weights(&header(1 << 16)).unwrap(), 0);
    let more = header((1 << 16) + 1);
    for result in [check_weights(&more), check_index(&more)] {
        let error = says(result, &["more than 65536 tensors"]);
        assert!(matches!(error, Error::Weights { .. }), "{error}");
    }

    let folder = Folder::of("bert-sharded");
    let names: Vec<String> = (0..(1 << 18) + 1).map(|i| format!("\"{i}\":\"a\"")).collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, names.join(","));
    folder.write("model.safetensors.index.json", index);
    folder.fails(&["model.safetensors.index.json", "more than 262144 tensors"]);
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

/// The same BERT whose `tokenizer.json` is changed.
fn with_tokenizer(name: &str, edit: impl FnOnce(&mut Value)) -> Folder {
    let folder = Folder::of(name);
    folder.edit("tokenizer.json", edit);
    folder
}

#[test]
fn tokenizers_that_make_much_of_a_text_are_refused() {
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let refused = |edit: &dyn Fn(&mut Value), parts: &[&str]| {
        let error = with_tokenizer("bert", edit).fails(&[&["tokenizer.json"], parts].concat());
        assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    };
    let normalizer = |step: Value, parts: &[&str]| {
        refused(&|v| v["normalizer"] = step.clone(), &[&["expected at most 256"], parts].concat());
    };
    let long = "x".repeat(10 << 20);
    normalizer(json!({"type": "Prepend", "prepend": long}), &["Prepend"]);
    normalizer(json!({"prepend": long}), &["Prepend"]);
    normalizer(replace(json!({"String": "a"}), &"b".repeat(300)), &["Replace"]);
    normalizer(replace(json!({"String": ""}), &"b".repeat(300)), &["Replace"]);
    normalizer(replace(json!({"Regex": "."}), &"b".repeat(300)), &["Replace"]);
    let doubled = || replace(json!({"String": "a"}), "aa");
    normalizer(sequence((0..9).map(|_| doubled()).collect()), &["512 bytes"]);
    let nested = sequence(vec![sequence((0..5).map(|_| doubled()).collect()); 2]);
    normalizer(nested, &["512 bytes"]);

    let nfc = || json!({"type": "NFC"});
    let many = sequence((0..65).map(|_| nfc()).collect());
    refused(&|v| v["normalizer"] = many.clone(), &["more than 64 normalizers"]);
    let whitespace = || json!({"type": "Whitespace"});
    let many: Vec<Value> = (0..65).map(|_| whitespace()).collect();
    let many = json!({"type": "Sequence", "pretokenizers": many});
    refused(&|v| v["pre_tokenizer"] = many.clone(), &["more than 64"]);

    let added = |content: &str| {
        json!({"id": 1000, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": true, "special": false})
    };
    let count = |n: usize| (0..n).map(|i| added(&format!("<{i}>"))).collect::<Value>();
    let many = count((1 << 16) + 1);
    refused(&|v| v["added_tokens"] = many.clone(), &["65537 added tokens", "65536"]);
    let large = added(&"x".repeat(2 << 20));
    refused(&|v| v["added_tokens"] = json!([large]), &["2097152 bytes of added tokens"]);

    let model = |key: &str, value: Value, parts: &[&str]| {
        refused(&|v| v["model"][key] = value.clone(), parts);
    };
    model("max_input_chars_per_word", json!(10_000), &["10000 letters", "256"]);
    let long = json!("#".repeat(1000));
    model("continuing_subword_prefix", long.clone(), &["continuing_subword_prefix", "1000", "256"]);
    model("unk_token", long, &["unknown token", "1000", "256"]);

    // A trie of four GB in eight bytes, and one rule that writes a thousand.
    let rules = |text: &str| json!({"type": "Precompiled", "precompiled_charsmap": text});
    let step = rules("/////wAAAAA=");
    refused(&|v| v["normalizer"] = step.clone(), &["precompiled_charsmap", "ends early"]);
    let step = rules(&format!("AAAAAAAA{}", "YWFh".repeat(350)));
    normalizer(step, &["Precompiled"]);

    // Templates that repeat.
    let piece = |kind: &str, id: &str| json!({kind: {"id": id, "type_id": 0}});
    let tokens: Vec<Value> = (0..2000).map(|_| piece("SpecialToken", "[SEP]")).collect();
    refused(&|v| v["post_processor"]["pair"] = json!(tokens), &["special tokens"]);
    let twice = with_tokenizer("bert", |v| {
        v["post_processor"]["single"] = json!([piece("Sequence", "A"), piece("Sequence", "A")])
    });
    let text = "the fox and the dog ".repeat(20);
    says(twice.load().unwrap().embed(&[text]), &["tokenizer.json", "told to give"]);

    // What real tokenizers have is taken.
    let four_thousand = count(4000);
    let taken: [&dyn Fn(&mut Value); 5] = [
        &|v| {
            v["normalizer"] = sequence(vec![
                json!({"type": "Prepend", "prepend": "▁"}),
                replace(json!({"String": " "}), "▁"),
            ])
        },
        &|v| {
            v["added_tokens"]
                .as_array_mut()
                .unwrap()
                .extend(four_thousand.as_array().unwrap().clone())
        },
        &|v| v["model"]["max_input_chars_per_word"] = json!(200),
        &|v| {
            v["normalizer"] = sequence(vec![
                nfc(),
                replace(json!({"Regex": "\\s+"}), " "),
                json!({"type": "Lowercase"}),
            ])
        },
        &|v| v["normalizer"] = Value::Null,
    ];
    for edit in taken {
        with_tokenizer("bert", edit).load().unwrap();
    }
}

/// As the tokenizers crate reads a text, without cutting it before.
fn uncut(folder: &Folder, limit: usize, text: &str) -> Vec<u32> {
    let file = folder.0.path().join("tokenizer.json");
    let mut tokenizer = tokenizers::Tokenizer::from_file(file).unwrap();
    let cut = tokenizers::TruncationParams { max_length: limit, ..Default::default() };
    tokenizer.with_padding(None).with_truncation(Some(cut)).unwrap();
    tokenizer.encode_fast(text, true).unwrap().get_ids().to_vec()
}

#[test]
fn a_long_text_gives_the_tokens_of_its_beginning() {
    for name in ["bert", "distilbert", "roberta", "xlm-roberta", "mpnet"] {
        let folder = Folder::of(name);
        let model = folder.load().unwrap();
        let part = "The fox,  it's 3.14 Привет\n日本語 … naïve <mask> ";
        let text = part.repeat((30 << 20) / part.len());
        let expected = uncut(&folder, model.max_tokens(), &part.repeat(100));
        assert_eq!(model.token_ids(&[&text]).unwrap(), [expected], "{name}");
    }
}

#[test]
fn a_text_that_cannot_be_cut_is_refused_above_a_bound() {
    let refused = |folder: &Folder, text: &str, parts: &[&str]| {
        let error =
            says(folder.load().unwrap().embed(&[text]), &[&["tokenizer.json"], parts].concat());
        assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    };
    // The normalizer may make 7.5 bytes of one.
    let folder = Folder::of("bert");
    let word = "x".repeat(1 << 20);
    assert!(folder.load().unwrap().embed(&[&word[..1 << 19]]).is_ok());
    refused(&folder, &(word.clone() + "x"), &["1048577 bytes", "at most 1048576 bytes"]);

    // One whose end is kept.
    folder.edit("tokenizer_config.json", |v| v["truncation_side"] = json!("left"));
    refused(&folder, &"the fox ".repeat(140_000), &["1120000 bytes"]);

    // A pattern whose time grows with the square.
    let folder = with_tokenizer("bert", |v| {
        v["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "[a-z]*[0-9]|[a-z]"},
                                    "behavior": "Isolated", "invert": false});
    });
    refused(&folder, &word[..80_000], &["80000 bytes", "at most 32768 bytes"]);
    assert!(folder.load().unwrap().embed(&["a short text"]).is_ok());

    // Of a pair, either text.
    let pair = Folder::of("bert-cross");
    let model = CrossEncoder::load(pair.0.path(), &Device::cpu(), DType::F32).unwrap();
    let long = "the fox ".repeat(1 << 18);
    assert!(model.score(&[("a dog", &long), (&long, "a dog")]).is_ok());
    says(model.score(&[("a dog", &*word.repeat(2))]), &["tokenizer.json", "2097152 bytes"]);
}

#[test]
fn rotary_tables_are_as_long_as_a_text() {
    let folder = common::weights::folder("modernbert");
    let load = |config: &Value| {
        let mut json: Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap())
                .unwrap();
        json["max_position_embeddings"] = json!(1 << 24);
        std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        TextEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap()
    };
    assert_eq!(load(&json!({})).max_tokens(), 1 << 17);
    let model = load(&json!({"model_max_length": 20}));
    assert_eq!(model.max_tokens(), 20);
    let input = |n: usize| TextInput { ids: vec![5; n], given: Vec::new() };
    let options = EmbedOptions::default();
    assert!(model.embed_inputs(&[input(20)], &options).is_ok());
    says(model.embed_inputs(&[input(21)], &options), &["1 to 20 ids", "21"]);
}

#[test]
fn images_of_too_many_patches_are_refused() {
    let folder = common::weights::folder("vit");
    let model = ImageEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap();
    let (height, width) = (6 * 257, 8 * 256);
    let pixels = Pixels { values: vec![0.0; 3 * height * width], height, width };
    let error = says(
        model.embed(&[pixels], &EmbedOptions::default()).map(|_| ()),
        &["65536 patches", "65792 patches", "1542 x 2048"],
    );
    assert!(matches!(error, Error::Argument { .. }), "{error}");
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

/// The file of an index, and the same without its checksum, which would hide all other faults.
fn unchecked(save: impl FnOnce(&Path) -> Result<(), Error>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    save(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(check_index(&bytes).unwrap() > 0);
    let at = bytes.windows(6).position(|w| w == b"\"xxh3\"").unwrap();
    bytes[at + 4] = b'0';
    assert!(check_index(&bytes).unwrap() > 0);
    bytes
}

#[test]
fn mutated_indexes_never_panic() {
    let (cpu, mut rng) = (Device::cpu(), Rng(4));
    let ids: Vec<String> = (0..20).map(|i| format!("id {i}")).collect();
    let offsets: Vec<i64> = (0..=20).map(|i| i * (i + 1) / 2).collect();
    let (vectors, tokens) = (rng.normals(20 * 32), rng.normals(210 * 32));
    let mut files = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut index = FlatIndex::new(&cpu, dtype, 32).unwrap();
        index.add(&ids, &vectors).unwrap();
        files.push(unchecked(|path| index.save(path)));
    }
    let mut int8 = FlatIndex::with_storage(&cpu, Storage::Int8, 32).unwrap();
    int8.add(&ids, &vectors).unwrap();
    files.push(unchecked(|path| int8.save(path)));
    for storage in [Storage::F32, Storage::BF16, Storage::Int8, Storage::Binary] {
        let mut index = TokenIndex::new(&cpu, storage, 32).unwrap();
        index.add(&ids, &tokens, &offsets).unwrap();
        files.push(unchecked(|path| index.save(path)));
    }
    for keep in [Keep::Codes, Keep::Int8, Keep::Floats(DType::F16)] {
        let hasher = Hasher::random(&cpu, &[0.0; 32], 64, 5).unwrap();
        let mut index = BinaryIndex::new(hasher, keep).unwrap();
        index.add(&ids, &vectors).unwrap();
        files.push(unchecked(|path| index.save(path)));
    }
    let golden = std::fs::read(golden("residual.safetensors")).unwrap();
    files.push(golden);

    let (mut refused, mut taken) = (0, 0);
    for (i, file) in files.iter().enumerate() {
        for _ in 0..220 {
            let bytes = match rng.below(4) {
                // The front of one and the end of another.
                0 => {
                    let other = &files[rng.below(files.len())];
                    let (head, tail) = (rng.below(file.len()), rng.below(other.len()));
                    [&file[..head], &other[tail..]].concat()
                }
                // The header of one before the data of another.
                1 => {
                    let other = &files[(i + 1 + rng.below(files.len() - 1)) % files.len()];
                    let data =
                        |f: &[u8]| 8 + u64::from_le_bytes(f[..8].try_into().unwrap()) as usize;
                    [&file[..data(file)], &other[data(other)..]].concat()
                }
                _ => mutate(file, &mut rng),
            };
            match check_index(&bytes) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
        // Changed values alone, of a number or an id.
        for _ in 0..60 {
            let mut bytes = file.clone();
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            for _ in 0..=rng.below(8) {
                let at = header + rng.below(bytes.len() - header);
                bytes[at] = [0, 0xff, 0x7f, 0x80, rng.next() as u8][rng.below(5)];
            }
            match check_index(&bytes) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000 && taken > 300, "{refused} refused, {taken} taken");
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
