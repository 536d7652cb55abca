//! Prompts, and token encoders of sentence-transformers, against what its classes compute for golden folders with other settings:
//! `tests/goldens/variants.json`, made by `variants.py`.

use std::path::Path;

use crate::common::{assert_bits, golden, golden_copy, main_devices};
use crate::transformers::assert_within;
use nearkin::models::{
    CrossEncoder, EmbedOptions, Kind, Prompt, TextEncoder, TokenEncoder, TokenVectors,
};
use nearkin::{DType, Device, Error, Result};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const TOLERANCE: f32 = 1e-4;
const SETTINGS: &str = "config_sentence_transformers.json";

/// What `variants.py` wrote.
struct Variants {
    info: Value,
    bytes: Vec<u8>,
}

impl Variants {
    fn open() -> Variants {
        let info = std::fs::read_to_string(golden("variants.json")).unwrap();
        let bytes = std::fs::read(golden("variants.safetensors")).unwrap();
        Variants { info: serde_json::from_str(&info).unwrap(), bytes }
    }

    fn list<T: serde::de::DeserializeOwned>(&self, key: &str) -> Vec<T> {
        serde_json::from_value(self.info[key].clone()).unwrap()
    }

    fn data<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
    }

    /// Calls `check` with the name, folder and calls of each variant of these golden folders.
    fn each(&self, folders: &[&str], mut check: impl FnMut(&str, &Path, &[Value])) {
        let mut found = 0;
        for (name, variant) in self.info["variants"].as_object().unwrap() {
            if folders.contains(&variant["folder"].as_str().unwrap()) {
                check(name, edited(variant).path(), variant["calls"].as_array().unwrap());
                found += 1;
            }
        }
        assert!(found > 1, "{folders:?} have variants");
    }
}

/// A copy of the variant's folder with its edits.
fn edited(variant: &Value) -> tempfile::TempDir {
    let folder = golden_copy(variant["folder"].as_str().unwrap());
    for (file, keys) in variant["edits"].as_object().unwrap() {
        let file = folder.path().join(file);
        match keys {
            Value::Object(keys) => edit(&file, |old| old.extend(keys.clone())),
            whole => std::fs::write(&file, whole.to_string()).unwrap(),
        }
    }
    if let Some(names) = variant["modules"].as_array() {
        let file = folder.path().join("modules.json");
        let mut modules: Vec<Value> =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let kept = |module: &Value| {
            let class = module["type"].as_str().unwrap();
            names.iter().any(|name| class.ends_with(&format!(".{}", name.as_str().unwrap())))
        };
        modules.retain(kept);
        std::fs::write(&file, json!(modules).to_string()).unwrap();
    }
    folder
}

fn edit(file: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|_| "{}".into());
    let mut keys = serde_json::from_str(&text).unwrap();
    edit(&mut keys);
    std::fs::write(file, json!(keys).to_string()).unwrap();
}

/// The prompt of a call of `encode`, `encode_query`, `encode_document` or `predict`.
fn prompt(call: &Value) -> Prompt<'_> {
    match (call["prompt"].as_str(), call["prompt_name"].as_str(), call["method"].as_str()) {
        (Some(text), ..) => Prompt::Text(text),
        (_, Some(name), _) => Prompt::Named(name),
        (.., Some("encode_query")) => Prompt::Query,
        (.., Some("encode_document")) => Prompt::Document,
        _ => Prompt::Default,
    }
}

fn with(prompt: Prompt<'_>) -> EmbedOptions<'_> {
    EmbedOptions { prompt, ..EmbedOptions::default() }
}

#[test]
fn prompts_of_texts_match_sentence_transformers() {
    let variants = Variants::open();
    let texts: Vec<String> = variants.list("texts");
    let folders = ["bert", "bert-st6", "roberta", "xlm-roberta", "mpnet"];
    variants.each(&folders, |name, folder, calls| {
        for (device, d) in main_devices() {
            let model = TextEncoder::load(folder, d, DType::F32).unwrap();
            for (i, call) in calls.iter().enumerate() {
                let what = format!("{name} on {device}, {call}");
                let options = with(prompt(call));
                let got = model.embed_with(&texts, &options).unwrap();
                let want: Vec<f32> = variants.data(&format!("{name}.{i}"));
                assert_within(TOLERANCE, &what, &got.values, &want);
                let both = model.embed_tokens(&texts, &options).unwrap();
                assert_bits(&format!("{what}: embed_tokens"), &both.embeddings, &got.values);
                assert_eq!(both.ids.len(), got.tokens, "{what}");
            }
        }
    });
}

#[test]
fn prompts_of_pairs_match_sentence_transformers() {
    let variants = Variants::open();
    let pairs: Vec<(String, String)> = variants.list("pairs");
    variants.each(&["bert-cross"], |name, folder, calls| {
        assert_eq!(Kind::of(folder).unwrap(), Kind::Text);
        for (device, d) in main_devices() {
            let model = CrossEncoder::load(folder, d, DType::F32).unwrap();
            for (i, call) in calls.iter().enumerate() {
                let got = model.score_with(&pairs, &with(prompt(call))).unwrap();
                let want: Vec<f32> = variants.data(&format!("{name}.{i}"));
                assert_within(TOLERANCE, &format!("{name} on {device}, {call}"), &got, &want);
            }
        }
    });
}

#[test]
fn token_encoders_match_sentence_transformers() {
    let variants = Variants::open();
    let texts: Vec<String> = variants.list("texts");
    variants.each(&["colbert-st6"], |name, folder, calls| {
        assert_eq!(Kind::of(folder).unwrap(), Kind::Tokens, "{name}");
        for (device, d) in main_devices() {
            let model = TokenEncoder::load(folder, d, DType::F32).unwrap();
            for (i, call) in calls.iter().enumerate() {
                let what = format!("{name} on {device}, {call}");
                let got = encode(&model, &texts, call, prompt(call)).unwrap();
                let data = |key: &str| variants.data::<i64>(&format!("{name}.{i}.{key}"));
                let ids: Vec<i64> = got.ids.iter().map(|&id| id.into()).collect();
                assert_eq!(ids, data("ids"), "{what}: ids");
                assert_eq!(got.offsets, data("offsets"), "{what}: offsets");
                let vectors: Vec<f32> = variants.data(&format!("{name}.{i}.vectors"));
                assert_within(TOLERANCE, &what, &got.values, &vectors);
                // The prompt for queries and for documents is the default.
                if prompt(call) == Prompt::Query || prompt(call) == Prompt::Document {
                    let default = encode(&model, &texts, call, Prompt::Default).unwrap();
                    assert_eq!(default, got);
                    assert_bits(&what, &default.values, &got.values);
                }
            }
        }
    });
}

fn encode(
    model: &TokenEncoder,
    texts: &[String],
    call: &Value,
    prompt: Prompt<'_>,
) -> Result<TokenVectors> {
    match call["method"].as_str() {
        Some("encode_query") => model.encode_queries_with(texts, &with(prompt)),
        _ => model.encode_documents_with(texts, &with(prompt)),
    }
}

#[test]
fn a_prompt_is_a_part_of_the_text() {
    let cpu = Device::cpu();
    let model = TextEncoder::load(&golden("bert"), &cpu, DType::F32).unwrap();
    let options = with(Prompt::Text("The quick "));
    let got = model.embed_with(&["brown fox"], &options).unwrap();
    let whole = model.embed(&["The quick brown fox"]).unwrap();
    assert_bits("a prompt before a text", &got.values, &whole);
    let error = model.embed_with(&["fox"], &with(Prompt::Named("query "))).unwrap_err();
    assert!(matches!(error, Error::Argument { what: "prompt", .. }), "{error}");
    let error = error.to_string();
    for part in ["'query '", "document, query", SETTINGS] {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
    // Every text of every window has it.
    let texts = vec!["brown fox"; 3];
    let many = model.embed_with(&texts, &options).unwrap();
    assert_bits("three texts", &many.values, &got.values.repeat(3));
    // PyLate puts its marker before the prompt, also where the file writes it into the prompt.
    let folder = golden_copy("colbert-pylate");
    edit(&folder.path().join(SETTINGS), |keys| {
        keys.insert("prompts".into(), json!({ "query": "[Q] The quick ", "document": "brown " }));
    });
    let prompted = TokenEncoder::load(folder.path(), &cpu, DType::F32).unwrap();
    let plain = TokenEncoder::load(&golden("colbert-pylate"), &cpu, DType::F32).unwrap();
    assert_eq!(
        prompted.encode_queries(&["brown fox"]).unwrap(),
        plain.encode_queries(&["The quick brown fox"]).unwrap()
    );
    assert_eq!(
        prompted.encode_documents(&["fox"]).unwrap(),
        plain.encode_documents(&["brown fox"]).unwrap()
    );
}

#[test]
fn folders_of_sentence_transformers_that_do_not_fit_are_refused() {
    let reading = "sentence_bert_config.json";
    let mask = "2_MultiVectorMask/config.json";
    let fill = |keys: Value| {
        let mut expansion = json!({ "strategy": "fixed", "length": 16 });
        expansion.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        expansion
    };
    let cases: [(&str, &str, Value, &[&str]); 17] = [
        (
            reading,
            "query_expansion",
            fill(json!({ "strategy": "max" })),
            &["'max'", "fixed or min"],
        ),
        (reading, "query_expansion", fill(json!({ "length": 0 })), &["query_expansion is 0"]),
        (reading, "query_expansion", fill(json!({ "length": 1_u64 << 40 })), &["1099511627776"]),
        (reading, "query_expansion", fill(json!({ "length": null })), &[reading]),
        (reading, "query_expansion", fill(json!({ "attend": "no" })), &[reading]),
        (reading, "query_expansion", fill(json!({ "token": "[NO]" })), &["'[NO]'", "no token"]),
        (reading, "query_expansion", fill(json!({ "tokens": "[Q]" })), &["tokens"]),
        (reading, "query_length", json!(15), &["query_length is 15", "16"]),
        (reading, "document_length", json!(0), &["document_length is 0"]),
        (reading, "document_length", json!(2), &["room"]),
        (reading, "document_length", json!(-3), &[reading]),
        (mask, "skiplist_words", json!([3]), &[mask]),
        (mask, "skiplist_tasks", json!(3), &[mask]),
        (mask, "keep_only_token_ids", json!([-1]), &[mask]),
        (
            "1_Dense/config.json",
            "module_input_name",
            json!("sentence_embedding"),
            &["module_input_name is 'sentence_embedding'", "token_embeddings"],
        ),
        ("3_Normalize/config.json", "module_output_name", json!("other"), &["'other'"]),
        (SETTINGS, "default_prompt_name", json!("none"), &["'none'", "document, query"]),
    ];
    for (file, key, value, parts) in cases {
        let folder = golden_copy("colbert-st6");
        edit(&folder.path().join(file), |keys| _ = keys.insert(key.into(), value.clone()));
        let error = TokenEncoder::load(folder.path(), &Device::cpu(), DType::F32)
            .map(drop)
            .expect_err(&format!("{key} = {value}"));
        for part in parts {
            assert!(error.to_string().contains(part), "'{part}' is not in: {error}");
        }
    }
    for class in ["TokenPooling", "MultiVectorMask", "Pooling"] {
        let folder = golden_copy("colbert-st6");
        let file = folder.path().join("modules.json");
        let mut modules: Vec<Value> =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        modules.push(json!({ "type": format!("a.b.{class}"), "path": "4" }));
        std::fs::write(&file, json!(modules).to_string()).unwrap();
        let error = TokenEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap_err();
        assert!(error.to_string().contains(&format!("a.b.{class}")), "{error}");
        assert!(matches!(error, Error::Config { .. }));
    }
    let error = TextEncoder::load(&golden("colbert-st6"), &Device::cpu(), DType::F32).unwrap_err();
    assert!(error.to_string().contains("TokenEncoder"), "{error}");
    for (key, value) in [("include_prompt", json!("no")), ("include_prompt", json!(0))] {
        let folder = golden_copy("bert");
        let file = folder.path().join("1_Pooling/config.json");
        edit(&file, |keys| _ = keys.insert(key.into(), value));
        let error = TextEncoder::load(folder.path(), &Device::cpu(), DType::F32).unwrap_err();
        assert!(error.to_string().contains("include_prompt"), "{error}");
    }
}
