//! MiniLM end to end: tokenizer, encoder, pooling, read-back; and the tokenizer alone, on one thread and on all.
//!
//! The corpus is `NEARKIN_CORPUS` (.jsonl with `text` and perhaps `title`), else the demo's passages; the model is
//! `NEARKIN_MINILM`, else where `cargo xtask model` puts it.

use std::path::PathBuf;

use crate::common::{devices, minilm, root};
use criterion::{Criterion, Throughput};
use nearkin::models::TextEncoder;
use nearkin::{DType, Device, DeviceOptions};

/// Texts of a sentence each.
const SENTENCES: usize = 512;

pub fn run(criterion: &mut Criterion) {
    let model = minilm();
    if !model.exists() {
        eprintln!("skipped: {} is not there; `cargo xtask model` fetches it", model.display());
        return;
    }
    let corpus = std::env::var_os("NEARKIN_CORPUS")
        .map_or_else(|| root().join("examples/data/passages.jsonl"), PathBuf::from);
    let texts: Vec<String> = std::fs::read_to_string(&corpus)
        .expect("the corpus is readable")
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("the corpus is .jsonl");
            let part = |key: &str| line[key].as_str().unwrap_or_default().to_string();
            format!("{} {}", part("title"), part("text")).trim().to_string()
        })
        .collect();
    let sentences: Vec<&str> = texts.iter().flat_map(|text| text.split(". ")).collect();
    let sentences: Vec<&str> = sentences.into_iter().cycle().take(SENTENCES).collect();
    let case =
        format!("minilm_{}", corpus.file_stem().and_then(|s| s.to_str()).unwrap_or("corpus"));
    for device in devices() {
        let encoder = TextEncoder::load(&model, &device, DType::F32).expect("the model loads");
        let mut group = criterion.benchmark_group(format!("encode/{}", device.kind()));
        group.sample_size(10);
        group.throughput(Throughput::Elements(texts.len() as u64));
        group.bench_function(&case, |b| b.iter(|| encoder.embed(&texts).expect("texts embed")));
        group.throughput(Throughput::Elements(SENTENCES as u64));
        group.bench_function(format!("minilm_sentences{SENTENCES}"), |b| {
            b.iter(|| encoder.embed(&sentences).expect("texts embed"))
        });
        group.finish();
    }
    let mut group = criterion.benchmark_group("tokenize/cpu");
    group.throughput(Throughput::Elements(SENTENCES as u64));
    for (name, threads) in [("one_thread", Some(1)), ("all_threads", None)] {
        let device = Device::cpu_with(DeviceOptions { threads, ..Default::default() });
        let encoder = TextEncoder::load(&model, &device, DType::F32).expect("the model loads");
        group.bench_function(format!("minilm_sentences{SENTENCES}_{name}"), |b| {
            b.iter(|| encoder.token_ids(&sentences).expect("texts are tokenized"))
        });
    }
    group.finish();
}
