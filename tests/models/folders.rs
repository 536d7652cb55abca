//! What a folder is, wherever its transformer is in it.

use std::path::Path;

use crate::common::{assert_bits, golden_copy, weights};
use nearkin::models::{CrossEncoder, EmbedOptions, Kind, SparseEncoder, TextEncoder, TokenEncoder};
use nearkin::{DType, Device, Error};
use serde_json::{Value, json};

const TEXTS: [&str; 3] = ["a wing stalls", "", "Grüße aus Köln"];

/// Moves the transformer's files of a folder into one below it, `modules.json` and the folders it names stay.
fn move_transformer(folder: &Path, to: &str, modules: &[(&str, &str)]) {
    let below = folder.join(to);
    std::fs::create_dir_all(&below).unwrap();
    let stays = ["modules.json", "config_sentence_transformers.json"];
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && !stays.contains(&name.as_str()) {
            std::fs::rename(entry.path(), below.join(name)).unwrap();
        }
    }
    let listed: Vec<Value> = modules
        .iter()
        .enumerate()
        .map(|(i, (class, path))| {
            let path = if *path == "{}" { to } else { path };
            json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{class}") })
        })
        .collect();
    std::fs::write(folder.join("modules.json"), Value::from(listed).to_string()).unwrap();
}

const PLACES: [&str; 3] = ["0_Transformer", "sub/dir", "./0_BERT"];
/// What stood beside `modules.json` over the years: nothing, a version alone.
const TOP: [Option<&str>; 3] = [None, Some("{\"__version__\": \"0.2.0\"}"), Some("{}")];

#[test]
fn old_layouts_of_sentence_transformers_are_text_encoders() {
    let cpu = Device::cpu();
    let plain = golden_copy("bert");
    let encoder = TextEncoder::load(plain.path(), &cpu, DType::F32).unwrap();
    let want = encoder.embed(&TEXTS).unwrap();
    let tokens = TokenEncoder::load(plain.path(), &cpu, DType::F32).unwrap();
    let want_tokens = tokens.encode_documents_with(&TEXTS, &EmbedOptions::default()).unwrap();
    assert_eq!(Kind::of(plain.path()).unwrap(), Kind::Text);
    let modules = std::fs::read_to_string(plain.path().join("modules.json")).unwrap();
    let modules: Vec<Value> = serde_json::from_str(&modules).unwrap();
    let rest: Vec<(String, String)> = modules[1..]
        .iter()
        .map(|m| {
            let class = m["type"].as_str().unwrap().rsplit('.').next().unwrap().to_string();
            (class, m["path"].as_str().unwrap().to_string())
        })
        .collect();
    let mut modules = vec![("Transformer", "{}")];
    modules.extend(rest.iter().map(|(class, path)| (class.as_str(), path.as_str())));
    for place in PLACES {
        for top in TOP {
            let folder = golden_copy("bert");
            move_transformer(folder.path(), place, &modules);
            if let Some(top) = top {
                std::fs::write(folder.path().join("config.json"), top).unwrap();
            }
            assert_eq!(Kind::of(folder.path()).unwrap(), Kind::Text, "{place} {top:?}");
            let encoder = TextEncoder::load(folder.path(), &cpu, DType::F32).unwrap();
            let what = format!("{place} {top:?}");
            assert_bits(&what, &encoder.embed(&TEXTS).unwrap(), &want);
            assert!(!TokenEncoder::is_made_for(folder.path()).unwrap());
            let tokens = TokenEncoder::load(folder.path(), &cpu, DType::F32).unwrap();
            let got = tokens.encode_documents_with(&TEXTS, &EmbedOptions::default()).unwrap();
            assert_bits(&what, &got.values, &want_tokens.values);
        }
    }
}

#[test]
fn other_encoders_are_found_below_their_folder_too() {
    let cpu = Device::cpu();
    let pairs = [("a wing", "heat"), ("jet", "a boundary layer")];
    let plain = golden_copy("bert-cross");
    let want = CrossEncoder::load(plain.path(), &cpu, DType::F32).unwrap().score(&pairs).unwrap();
    let splade = weights::folder("bert-splade");
    let sparse = SparseEncoder::load(splade.path(), &cpu, DType::F32).unwrap();
    let want_sparse = sparse.encode(&TEXTS, &EmbedOptions::default()).unwrap();
    let late = golden_copy("colbert-pylate");
    let tokens = TokenEncoder::load(late.path(), &cpu, DType::F32).unwrap();
    let want_late = tokens.encode_queries_with(&TEXTS, &EmbedOptions::default()).unwrap();
    for place in PLACES {
        let folder = golden_copy("bert-cross");
        move_transformer(folder.path(), place, &[("Transformer", "{}")]);
        let model = CrossEncoder::load(folder.path(), &cpu, DType::F32).unwrap();
        assert_bits(place, &model.score(&pairs).unwrap(), &want);

        let folder = weights::folder("bert-splade");
        let modules = [("MLMTransformer", "{}"), ("SpladePooling", "1_SpladePooling")];
        move_transformer(folder.path(), place, &modules);
        assert_eq!(Kind::of(folder.path()).unwrap(), Kind::Text);
        let model = SparseEncoder::load(folder.path(), &cpu, DType::F32).unwrap();
        let got = model.encode(&TEXTS, &EmbedOptions::default()).unwrap();
        assert!(format!("{got:?}") == format!("{want_sparse:?}"), "{place}");

        let folder = golden_copy("colbert-pylate");
        let modules = [("Transformer", "{}"), ("Dense", "1_Dense"), ("Dense", "2_Dense")];
        move_transformer(folder.path(), place, &modules);
        assert_eq!(Kind::of(folder.path()).unwrap(), Kind::Tokens);
        let model = TokenEncoder::load(folder.path(), &cpu, DType::F32).unwrap();
        let got = model.encode_queries_with(&TEXTS, &EmbedOptions::default()).unwrap();
        assert_bits(place, &got.values, &want_late.values);
    }
}

#[test]
fn a_transformer_outside_its_folder_is_refused() {
    for place in ["../x", "/etc", "a/../../x"] {
        let folder = golden_copy("bert");
        let listed = json!([{ "idx": 0, "name": "0", "path": place, "type": "x.Transformer" }]);
        std::fs::write(folder.path().join("modules.json"), listed.to_string()).unwrap();
        for error in [
            Kind::of(folder.path()).map(|_| ()),
            CrossEncoder::load(folder.path(), &Device::cpu(), DType::F32).map(|_| ()),
        ] {
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{error}");
            assert!(error.to_string().contains("leaves the folder"), "{error}");
        }
    }
}
