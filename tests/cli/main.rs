//! The program as a user runs it: outputs, exit codes, one clear line for bad input, nothing half-written.
#![cfg(feature = "cli")]

#[path = "../common/mod.rs"]
mod common;

mod evaluation;
mod inputs;
mod outputs;
mod pictures;
mod prompts;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn golden(name: &str) -> String {
    common::golden(name).to_str().unwrap().to_string()
}

fn nearkin(args: &[&str]) -> Output {
    Command::new(common::program()).args(args).output().unwrap()
}

#[track_caller]
fn succeed(args: &[&str]) -> String {
    let out = nearkin(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {stderr}");
    String::from_utf8(out.stdout).unwrap()
}

/// Exit code 2, nothing on stdout, and one line on stderr that contains each of `says`.
#[track_caller]
fn refuse(args: &[&str], says: &[&str]) {
    let out = nearkin(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(out.stdout.is_empty(), "{args:?}");
    for say in says {
        assert!(stderr.contains(say), "{args:?}: '{say}' is not in: {stderr}");
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_string()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        if let Some(parent) = Path::new(&path).parent() {
            std::fs::create_dir_all(parent).unwrap();
        }
        std::fs::write(&path, text).unwrap();
        path
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut all: Vec<_> =
            std::fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }
}

fn numbers(file: &safetensors::SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), safetensors::Dtype::F32);
    let data = view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), data)
}

#[test]
fn devices_lists_the_cpu_and_one_choice() {
    let text = succeed(&["devices"]);
    assert!(text.starts_with("cpu "), "{text}");
    assert_eq!(text.matches("<- auto").count(), 1, "{text}");
    let json: Value = serde_json::from_str(&succeed(&["devices", "--json"])).unwrap();
    let devices = json["devices"].as_array().unwrap();
    assert_eq!(devices[0]["id"], "cpu");
    assert!(devices.iter().any(|d| d["id"] == json["best"] && d["best"] == true));
}

#[test]
fn embed_then_search_finds_each_text_itself() {
    let folder = Folder::new();
    let lines =
        ["the wing stalls", "Grüße aus Köln", "", "heat transfer in a boundary layer", "42"];
    let txt = folder.write("a.txt", lines.join("\n"));
    let out = folder.path("a.safetensors");
    let model = golden("bert");
    let json = succeed(&[
        "embed", "--model", &model, "--input", &txt, "--output", &out, "--device", "cpu",
        "--tokens", "--json",
    ]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["texts"].as_u64(), json["dim"].as_u64()), (Some(5), Some(40)));

    let bytes = std::fs::read(&out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (shape, embeddings) = numbers(&file, "embeddings");
    assert_eq!(shape, [5, 40]);
    let (shape, tokens) = numbers(&file, "tokens");
    let offsets = file.tensor("offsets").unwrap();
    assert_eq!((offsets.dtype(), offsets.shape()), (safetensors::Dtype::I64, &[6][..]));
    let offsets: Vec<i64> =
        offsets.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!((offsets[0], offsets[5] as usize), (0, shape[0]));
    assert_eq!(offsets[3] - offsets[2], 2, "an empty text has its two special tokens");
    // This model means over tokens and normalises, so the embedding follows from the tokens.
    for i in 0..5 {
        let rows = offsets[i] as usize..offsets[i + 1] as usize;
        let mut mean = vec![0f64; 40];
        for row in rows {
            for (m, t) in mean.iter_mut().zip(&tokens[row * 40..]) {
                *m += *t as f64;
            }
        }
        let length = mean.iter().map(|m| m * m).sum::<f64>().sqrt();
        for (m, e) in mean.iter().zip(&embeddings[i * 40..]) {
            assert!((m / length - *e as f64).abs() < 1e-5);
        }
    }
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let ids: Vec<String> =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["ids"]).unwrap();
    assert_eq!(ids, ["0", "1", "2", "3", "4"]);

    for metric in ["cosine", "dot", "l2"] {
        let found = succeed(&[
            "search",
            "--index",
            &out,
            "--queries",
            &out,
            "-k",
            "3",
            "--metric",
            metric,
            "--device",
            "cpu",
        ]);
        assert_eq!(found.lines().count(), 5);
        for (i, line) in found.lines().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["query"], i.to_string());
            assert_eq!(line["ids"][0], i.to_string(), "{metric}");
            let scores: Vec<f64> =
                line["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
            assert_eq!(scores.len(), 3);
            assert!(scores.windows(2).all(|w| w[0] >= w[1]));
            assert!((scores[0] - if metric == "l2" { 0.0 } else { 1.0 }).abs() < 1e-5, "{metric}");
        }
    }
    let all =
        succeed(&["search", "--index", &out, "--queries", &out, "-k", "99", "--device", "cpu"]);
    let line: Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    assert_eq!(line["ids"].as_array().unwrap().len(), 5);
    assert_eq!(folder.files().len(), 2, "no temporary file is left: {:?}", folder.files());
}

#[test]
fn embed_writes_what_late_interaction_compares() {
    let folder = Folder::new();
    let input = folder.write("in.txt", "hello, world!\nthe lazy dog\n");
    let model = golden("colbert-pylate");
    for form in ["query", "document"] {
        let out = folder.path(form);
        succeed(&[
            "embed", "--model", &model, "--input", &input, "--output", &out, "--device", "cpu",
            "--tokens", "--as", form, "--json",
        ]);
        let bytes = std::fs::read(&out).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (shape, vectors) = numbers(&file, "tokens");
        assert_eq!(shape[1], 24);
        assert_eq!(shape[0] == 32, form == "query", "{shape:?}");
        for vector in vectors.chunks(24) {
            assert!((vector.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        let index =
            nearkin::search::TokenIndex::load(Path::new(&out), &nearkin::Device::cpu()).unwrap();
        assert_eq!((index.len(), index.dim()), (2, 24));
    }
    let out = folder.path("none");
    refuse(
        &["embed", "--model", &model, "--input", &input, "--output", &out],
        &["--tokens", "late interaction"],
    );
}

#[test]
fn jsonl_keeps_ids_and_joins_titles() {
    let folder = Folder::new();
    let jsonl = folder.write(
        "c.jsonl",
        "{\"_id\":\"d1\",\"title\":\"Wings\",\"text\":\"and lift\"}\r\n\n{\"_id\":7,\"text\":\"Wings and lift\"}\n{\"text\":\"x\"}",
    );
    let out = folder.path("c.safetensors");
    succeed(&[
        "embed",
        "--model",
        &golden("mpnet"),
        "--input",
        &jsonl,
        "--output",
        &out,
        "--device",
        "cpu",
    ]);
    let found =
        succeed(&["search", "--index", &out, "--queries", &out, "-k", "2", "--device", "cpu"]);
    let lines: Vec<Value> = found.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["query"], "d1");
    // Title and text joined are the same text as the second, so both score 1 and the tie goes to the first.
    assert_eq!(lines[1]["ids"], serde_json::json!(["d1", "7"]));
    assert_eq!(lines[2]["query"], "2");
}

#[test]
fn rerank_gives_the_golden_logits() {
    let folder = Folder::new();
    for name in ["bert-cross", "xlm-roberta-cross"] {
        let json: Value =
            serde_json::from_str(&std::fs::read_to_string(golden(name) + "/golden.json").unwrap())
                .unwrap();
        let mut text = String::new();
        for pair in json["pairs"].as_array().unwrap() {
            let line = serde_json::json!({ "text": pair[0], "text_pair": pair[1] });
            text += &format!("{line}\n");
        }
        let pairs = folder.write("pairs.jsonl", text);
        let out =
            succeed(&["rerank", "--model", &golden(name), "--pairs", &pairs, "--device", "cpu"]);
        let bytes = std::fs::read(golden(name) + "/golden.safetensors").unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (_, logits) = numbers(&file, "logits");
        assert_eq!(out.lines().count(), logits.len());
        for (line, want) in out.lines().zip(logits) {
            let got = serde_json::from_str::<Value>(line).unwrap()["score"].as_f64().unwrap();
            assert!((got - want as f64).abs() < 1e-4, "{name}: {got} {want}");
        }
    }
}

#[test]
fn eval_reports_every_figure() {
    let folder = Folder::new();
    folder.write(
        "data/corpus.jsonl",
        "{\"_id\":\"a\",\"title\":\"\",\"text\":\"wing lift\"}\n{\"_id\":\"b\",\"text\":\"heat\"}\n{\"_id\":\"c\",\"text\":\"\"}\n",
    );
    folder.write(
        "data/queries.jsonl",
        "{\"_id\":\"1\",\"text\":\"wing lift\"}\n{\"_id\":\"2\",\"text\":\"heat\"}\n{\"_id\":\"3\",\"text\":\"unjudged\"}\n",
    );
    folder.write(
        "data/qrels/test.tsv",
        "query-id\tcorpus-id\tscore\n1\ta\t4\n1\tb\t0\n2\tb\t1\n3\tb\t0\n",
    );
    let data = folder.path("data");
    let args = ["eval", "--model", &golden("bert"), "--data", &data, "--device", "cpu", "--json"];
    let json: Value = serde_json::from_str(&succeed(&args)).unwrap();
    for key in ["ndcg@10", "recall@10", "recall@100", "mrr@10"] {
        assert_eq!(json[key], 1.0, "{key}: the query is the document");
    }
    assert_eq!(json["queries"], 2, "a query without a relevant document does not count");
    assert!(json["documents_per_s"].as_f64().unwrap() > 0.0);
    assert!(json["queries_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(json["device"], "cpu");
    assert!(json["method"].is_string());
    let text = succeed(&args[..args.len() - 1]);
    assert!(text.contains("nDCG@10     1.0000"), "{text}");
    // Every other device ranks as the CPU does.
    for device in ["cuda", "wgpu"] {
        if common::required(device, nearkin::Device::by_name(device)).is_none() {
            continue;
        }
        let other = args.map(|arg| if arg == "cpu" { device } else { arg });
        let other: Value = serde_json::from_str(&succeed(&other)).unwrap();
        for key in ["ndcg@10", "recall@10", "recall@100", "mrr@10", "queries", "documents"] {
            assert_eq!(other[key], json[key], "{key} on {device}");
        }
    }
}

/// Six documents, each the only relevant one of a query with its text.
fn collection(folder: &Folder) -> String {
    let texts =
        ["wing lift", "heat", "a boundary layer", "shock waves", "drag", "flow past a cone"];
    let (mut corpus, mut queries, mut judged) = (String::new(), String::new(), String::new());
    for (i, text) in texts.iter().enumerate() {
        corpus += &format!("{{\"_id\":\"d{i}\",\"text\":\"{text}\"}}\n");
        queries += &format!("{{\"_id\":\"q{i}\",\"text\":\"{text}\"}}\n");
        judged += &format!("q{i}\td{i}\t1\n");
    }
    folder.write("data/corpus.jsonl", &corpus);
    folder.write("data/queries.jsonl", &queries);
    folder.write("data/qrels/test.tsv", &judged);
    folder.path("data")
}

#[test]
fn eval_of_late_interaction_and_cur_finds_what_the_queries_are() {
    let folder = Folder::new();
    let data = collection(&folder);
    let model = golden("bert");
    for device in ["cpu", "cuda", "wgpu"] {
        if common::required(device, nearkin::Device::by_name(device)).is_none() {
            continue;
        }
        let eval = |more: &[&str]| -> Value {
            let args = ["eval", "--model", &model, "--data", &data, "--device", device, "--json"];
            serde_json::from_str(&succeed(&[&args[..], more].concat())).unwrap()
        };
        for storage in ["bf16", "int8"] {
            let json = eval(&["--storage", storage]);
            assert_eq!(json["ndcg@10"], 1.0, "{storage} on {device}");
            assert!(json["method"].as_str().unwrap().contains(storage), "{json}");
        }
        for tokens in ["f32", "f16", "int8", "residual4"] {
            let json = eval(&["--method", "maxsim", "--tokens", tokens]);
            assert_eq!(json["ndcg@10"], 1.0, "{tokens} on {device}");
            assert!(json["memory_bytes"].as_f64().unwrap() > 0.0);
        }
        for hash in [&["--hash", "lsh", "--bits", "1024"][..], &["--hash", "itq", "--bits", "32"]] {
            let binary = [&["--method", "binary", "--keep", "codes"], hash].concat();
            assert_eq!(eval(&binary)["mrr@10"], 1.0, "{hash:?} on {device}");
            let kept = [&["--method", "binary", "--keep", "int8"], hash].concat();
            let json = eval(&kept);
            assert_eq!(json["ndcg@10"], 1.0, "{hash:?} on {device}");
            assert!(json["host_bytes"].as_f64().unwrap() > 0.0);
        }
        let all = ["--method", "cur", "--anchor-queries", "3", "--anchor-items", "2,3"];
        let plot = folder.path("curves.svg");
        let more = ["--retrieved", "3,9", "--fixed-item", "--plot", &plot];
        let json = eval(&[&all[..], &more].concat());
        let svg = std::fs::read_to_string(&plot).unwrap();
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 3 * 9, "a line a method and recall");
        assert_eq!(json["queries"], 3, "the first three were fitted to");
        assert_eq!(json["calls"], 3 * 5);
        let rows = json["recall"].as_array().unwrap();
        let methods =
            ["cur", "cur-residual", "adacur", "axn", "dual-encoder", "fixed-item", "random"];
        for method in methods {
            let whole = rows.iter().find(|r| r["method"] == method && r["calls"] == 6);
            assert_eq!(whole.unwrap()["recall@1"], 1.0, "{method} on {device}: all were scored");
        }
        let most = usize::MAX.to_string();
        let endless = ["--retrieved", &most, "--rounds", &most];
        let json = eval(&[&all[..], &endless].concat());
        assert_eq!(json["calls"], 3 * 6, "{device}: as many as there are documents");
        let json = eval(&[&all[..], &["--retrieved", "9", "--residual"]].concat());
        assert_eq!(json["ndcg@10"], 1.0, "{device}: all documents were scored");
    }
    let eval = ["eval", "--model", &model, "--data", &data, "--device", "cpu", "--method", "cur"];
    refuse(&[&eval[..], &["--anchor-queries", "6"]].concat(), &["--anchor-queries", "1 to 5"]);
    refuse(&[&eval[..], &["--anchor-queries", "2", "--anchor-items", "0"]].concat(), &["anchor"]);
    let nowhere = folder.path("none/curves.svg");
    refuse(&[&eval[..], &["--anchor-queries", "2", "--plot", &nowhere]].concat(), &["curves.svg"]);
}

#[test]
fn eval_of_sparse_hybrid_and_fused_searches_finds_what_the_queries_are() {
    let folder = Folder::new();
    let data = collection(&folder);
    let model = golden("bert");
    for device in ["cpu", "cuda", "wgpu"] {
        if common::required(device, nearkin::Device::by_name(device)).is_none() {
            continue;
        }
        let eval = |more: &[&str]| -> Value {
            let args = ["eval", "--model", &model, "--data", &data, "--device", device, "--json"];
            serde_json::from_str(&succeed(&[&args[..], more].concat())).unwrap()
        };
        let json = eval(&["--method", "sparse"]);
        assert_eq!(json["ndcg@10"], 1.0, "BM25 on {device}");
        assert!(
            json["method"].as_str().unwrap().contains("in place of a sparse encoder"),
            "{json}"
        );
        assert_eq!(json["terms"], 12);
        for fusion in ["rrf", "minmax", "zscore", "sum"] {
            for method in ["hybrid", "fused"] {
                let json = eval(&["--method", method, "--fusion", fusion, "--weights", "1,0.5"]);
                assert_eq!(json["ndcg@10"], 1.0, "{method} by {fusion} on {device}");
            }
        }
        for norm in ["is", "dis", "csls", "nnn"] {
            let json = eval(&["--normalize", norm]);
            assert_eq!(json["ndcg@10"], 1.0, "{norm} on {device}");
            assert!(json["hubness"].is_number() && json["hubness before"].is_number(), "{json}");
        }
    }
    let eval =
        ["eval", "--model", &model, "--data", &data, "--device", "cpu", "--method", "hybrid"];
    refuse(&[&eval[..], &["--weights", "1"]].concat(), &["--weights", "two numbers"]);
    refuse(&[&eval[..], &["--fusion", "sum", "--weights", "0,0"]].concat(), &["weights"]);
    let splade = common::weights::folder("bert-splade");
    let splade = splade.path().to_str().unwrap();
    // Its weights are drawn, so that words mean nothing; without a weight they change nothing.
    for (weights, least) in [("1,0", 1.0), ("1,0.1", 0.3)] {
        let more = ["--json", "--sparse-model", splade, "--fusion", "sum", "--weights", weights];
        let json: Value = serde_json::from_str(&succeed(&[&eval[..], &more].concat())).unwrap();
        assert!(json["ndcg@10"].as_f64().unwrap() >= least, "{json}");
        assert!(json["method"].as_str().unwrap().contains(splade), "{json}");
    }
}

#[test]
fn sparse_vectors_are_embedded_and_found() {
    let folder = Folder::new();
    let model = common::weights::folder("bert-splade");
    let model = model.path().to_str().unwrap();
    let texts = folder.write("texts.txt", "wing lift\nheat\na boundary layer\nshock waves\n");
    let out = folder.path("words.safetensors");
    succeed(&[
        "embed", "--model", model, "--input", &texts, "--output", &out, "--sparse", "--device",
        "cpu",
    ]);
    let index =
        nearkin::search::SparseIndex::load(Path::new(&out), &nearkin::Device::cpu()).unwrap();
    assert!(index.len() == 4 && index.dim() > 100, "{index:?}");
    let vectors = index.to_vectors().unwrap();
    for device in ["cpu", "cuda", "wgpu"] {
        if common::required(device, nearkin::Device::by_name(device)).is_none() {
            continue;
        }
        let args = ["search", "--index", &out, "--queries", &out, "--metric", "sparse", "-k", "4"];
        let found = succeed(&[&args[..], &["--device", device]].concat());
        let lines: Vec<Value> = found.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 4, "{device}");
        for (row, line) in lines.iter().enumerate() {
            assert_eq!(line["query"], row.to_string(), "{device}");
            let own = vectors.offsets[row] as usize..vectors.offsets[row + 1] as usize;
            let square: f32 = vectors.weights[own].iter().map(|w| w * w).sum();
            let ids = line["ids"].as_array().unwrap();
            let id = row.to_string();
            let place = ids.iter().position(|found| *found == id.as_str()).unwrap();
            let score = line["scores"][place].as_f64().unwrap() as f32;
            assert!((score - square).abs() < 1e-3 * square, "{device}: {score}, {square}");
        }
    }
    let refused =
        ["search", "--index", &out, "--queries", &out, "--metric", "sparse", "--storage", "f16"];
    refuse(&refused, &["--storage", "sparse"]);
    let dense = folder.path("dense.safetensors");
    succeed(&[
        "embed",
        "--model",
        &golden("bert"),
        "--input",
        &texts,
        "--output",
        &dense,
        "--device",
        "cpu",
    ]);
    refuse(
        &["search", "--index", &dense, "--queries", &out, "--metric", "sparse"],
        &["dense.safetensors", "sparse"],
    );
    let bad = folder.path("bad.safetensors");
    refuse(
        &[
            "embed",
            "--model",
            &golden("bert"),
            "--input",
            &texts,
            "--output",
            &bad,
            "--sparse",
            "--device",
            "cpu",
        ],
        &["bert"],
    );
}

#[test]
fn hashed_vectors_are_found_by_their_codes() {
    let folder = Folder::new();
    let texts = folder.write("texts.txt", "the cat sat\na dog ran away\nlift and drag\n");
    let (vectors, codes) = (folder.path("vectors.safetensors"), folder.path("codes.safetensors"));
    let model = golden("bert");
    succeed(&[
        "embed", "--model", &model, "--input", &texts, "--output", &vectors, "--device", "cpu",
    ]);
    for device in ["cpu", "cuda", "wgpu"] {
        if common::required(device, nearkin::Device::by_name(device)).is_none() {
            continue;
        }
        for keep in ["codes", "f16"] {
            let hash = ["hash", "--input", &vectors, "--output", &codes, "--hash", "lsh", "--json"];
            let more = ["--bits", "256", "--keep", keep, "--device", device];
            let json: Value = serde_json::from_str(&succeed(&[&hash[..], &more].concat())).unwrap();
            assert_eq!((&json["vectors"], &json["bits"]), (&json!(3), &json!(256)));
            for asymmetric in [&[][..], &["--asymmetric"]] {
                let search = ["search", "--index", &codes, "--queries", &vectors, "-k", "2"];
                let more = ["--metric", "hamming", "--device", device];
                let found = succeed(&[&search[..], &more, asymmetric].concat());
                for (i, line) in found.lines().enumerate() {
                    let line: Value = serde_json::from_str(line).unwrap();
                    assert_eq!(line["ids"][0], i.to_string(), "{keep} on {device}");
                }
                assert_eq!(found.lines().count(), 3, "{device}");
            }
        }
    }
    let hash = ["hash", "--input", &vectors, "--output", &codes, "--device", "cpu"];
    refuse(&[&hash[..], &["--bits", "64"]].concat(), &["--bits", "40"]);
    refuse(&[&hash[..], &["--hash", "lsh", "--bits", "33"]].concat(), &["32"]);
    let search = ["search", "--index", &vectors, "--queries", &vectors, "--metric", "hamming"];
    refuse(&[&search[..], &["--device", "cpu"]].concat(), &["thresholds"]);
}

#[test]
fn search_by_maxsim_finds_each_text_itself() {
    let folder = Folder::new();
    let texts = folder.write("texts.txt", "the cat sat\na dog ran away\nlift and drag\n");
    let (out, model) = (folder.path("out.safetensors"), golden("bert"));
    let embed = ["embed", "--model", &model, "--input", &texts, "--output", &out];
    succeed(&[&embed[..], &["--device", "cpu", "--tokens"]].concat());
    for device in ["cpu", "cuda", "wgpu"] {
        if common::required(device, nearkin::Device::by_name(device)).is_none() {
            continue;
        }
        let search = ["search", "--index", &out, "--queries", &out, "--metric", "maxsim"];
        let found = succeed(&[&search[..], &["-k", "2", "--device", device]].concat());
        for (i, line) in found.lines().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["query"], &line["ids"][0]),
                (&json!(i.to_string()), &json!(i.to_string()))
            );
            assert_eq!(line["ids"].as_array().unwrap().len(), 2);
        }
        assert_eq!(found.lines().count(), 3, "{device}");
    }
    succeed(&[&embed[..], &["--device", "cpu"]].concat());
    let search = ["search", "--index", &out, "--queries", &out, "--metric", "maxsim"];
    refuse(&[&search[..], &["--device", "cpu"]].concat(), &["tokens"]);
}

#[test]
fn bad_input_is_one_line_exit_code_2_and_no_output() {
    let folder = Folder::new();
    let good = folder.write("good.txt", "a\nb\n");
    let out = folder.path("out.safetensors");
    let model = golden("bert");
    let embed = |model: &str, input: &str, output: &str, says: &[&str]| {
        refuse(
            &["embed", "--model", model, "--input", input, "--output", output, "--device", "cpu"],
            says,
        );
        assert!(!Path::new(&out).exists(), "nothing half-written");
    };
    embed("/nowhere", &good, &out, &["/nowhere"]);
    embed(&model, "/nowhere.txt", &out, &["/nowhere.txt"]);
    embed(&model, &folder.write("a.csv", "x"), &out, &[".csv", ".txt", ".jsonl"]);
    embed(
        &model,
        &folder.write("a.jsonl", "{\"text\":\"x\"}\n{\"txt\":\"y\"}\n"),
        &out,
        &["a.jsonl:2", "'text'", "txt"],
    );
    embed(&model, &folder.write("b.jsonl", "{\"text\":\"x\"\n"), &out, &["b.jsonl:1", "not JSON"]);
    embed(
        &model,
        &folder.write("c.jsonl", "[1]\n"),
        &out,
        &["c.jsonl:1", "expected a JSON object"],
    );
    embed(
        &model,
        &folder.write("d.jsonl", "{\"text\":3}\n"),
        &out,
        &["d.jsonl:1", "expected a string"],
    );
    let twice = "{\"_id\":\"x\",\"text\":\"a\"}\n{\"_id\":\"x\",\"text\":\"b\"}\n";
    embed(&model, &folder.write("e.jsonl", twice), &out, &["'x'", "differ"]);
    let twice = "{\"_id\":\"x\\ny\",\"text\":\"a\"}\n{\"_id\":\"x\\ny\",\"text\":\"b\"}\n";
    embed(&model, &folder.write("e2.jsonl", twice), &out, &["x\\ny", "differ"]);
    embed(&model, &folder.write("f.txt", b"fine\n\xff\xfe\n"), &out, &["f.txt:2", "UTF-8"]);
    embed(&model, &good, &folder.path("no/such/out.safetensors"), &["folder does not exist"]);
    embed(&model, &good, folder.0.path().to_str().unwrap(), &["is a folder"]);
    embed(&golden("bert-cross").replace("bert-cross", "nothing"), &good, &out, &["nothing"]);

    let queries = folder.path("q.safetensors");
    succeed(&[
        "embed", "--model", &model, "--input", &good, "--output", &queries, "--device", "cpu",
    ]);
    let other = folder.path("o.safetensors");
    let mpnet = golden("mpnet");
    succeed(&["embed", "--model", &mpnet, "--input", &good, "--output", &other, "--device", "cpu"]);
    let search = |index: &str, queries: &str, extra: &[&str], says: &[&str]| {
        let mut args = vec!["search", "--index", index, "--queries", queries, "--device", "cpu"];
        args.extend(extra);
        refuse(&args, says);
    };
    search(&queries, &queries, &["-k", "0"], &["at least 1", "0"]);
    search(&queries, &other, &[], &["40", "36"]);
    search("/nowhere", &queries, &[], &["/nowhere"]);
    search(&good, &queries, &[], &["good.txt"]);
    let mut cut = std::fs::read(&queries).unwrap();
    cut.truncate(cut.len() - 7);
    search(&folder.write("cut.safetensors", cut), &queries, &[], &["cut.safetensors"]);
    search(&queries, &queries, &["--metric", "manhattan"], &["manhattan"]);
    search(&queries, &queries, &["-k", "-3"], &["-3"]);

    refuse(&["embed", "--model", &model], &["--input", "--output"]);
    refuse(&["devices", "--what"], &["--what"]);
    refuse(
        &["embed", "--model", &model, "--input", &good, "--output", &out, "--device", "gpu"],
        &["gpu", "auto"],
    );
    refuse(
        &["embed", "--model", &model, "--input", &good, "--output", &out, "--batch-tokens", "0"],
        &["0"],
    );
    let pairs = folder.write("p.jsonl", "{\"text\":\"a\"}\n");
    refuse(
        &["rerank", "--model", &golden("bert-cross"), "--pairs", &pairs, "--device", "cpu"],
        &["text_pair", "p.jsonl:1"],
    );
    let pairs = folder.write("p2.jsonl", "{\"text\":\"a\",\"text_pair\":\"b\"}\n");
    refuse(
        &["rerank", "--model", &model, "--pairs", &pairs, "--device", "cpu"],
        &["bert", "no sequence-classification head", "expected a cross-encoder"],
    );
    embed(&golden("bert-cross"), &good, &out, &["bert-cross", "expected a text encoder"]);
    refuse(&["eval", "--model", &model, "--data", "/nowhere", "--device", "cpu"], &["/nowhere"]);
    folder.write("data/corpus.jsonl", "{\"_id\":\"a\",\"text\":\"x\"}\n");
    folder.write("data/queries.jsonl", "{\"_id\":\"1\",\"text\":\"x\"}\n");
    let data = folder.path("data");
    refuse(&["eval", "--model", &model, "--data", &data, "--device", "cpu"], &["test.tsv"]);
    folder.write("data/qrels/test.tsv", "1\ta\tmuch\n1\ta\tmuch\n");
    refuse(
        &["eval", "--model", &model, "--data", &data, "--device", "cpu"],
        &["test.tsv:2", "much"],
    );
    folder.write("data/qrels/test.tsv", "query-id\tcorpus-id\tscore\n9\ta\t1\n");
    refuse(&["eval", "--model", &model, "--data", &data, "--device", "cpu"], &["relevant"]);
}

/// The tokenizers crate panics on a template that names a special token it does not define; the user sees one line.
#[test]
fn a_tokenizer_that_contradicts_itself_is_one_line() {
    let folder = Folder::new();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("bert") + "/" + name, folder.path(name)).unwrap();
    }
    let text = std::fs::read_to_string(golden("bert") + "/tokenizer.json").unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing", "special_tokens": {},
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    });
    folder.write("tokenizer.json", json.to_string());
    let input = folder.write("a.txt", "a dog\n");
    let (model, out) = (folder.path(""), folder.path("out.safetensors"));
    refuse(
        &["embed", "--model", &model, "--input", &input, "--output", &out, "--device", "cpu"],
        &["tokenizer.json"],
    );
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_judged_document_that_the_corpus_lacks_counts_as_not_found() {
    let folder = Folder::new();
    folder.write(
        "corpus.jsonl",
        "{\"_id\":\"a\",\"text\":\"wing\"}\n{\"_id\":\"b\",\"text\":\"heat\"}\n",
    );
    folder.write("queries.jsonl", "{\"_id\":\"1\",\"text\":\"wing\"}\n");
    folder.write("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\ta\t1\n1\tgone\t1\n");
    let data = folder.path("");
    let model = golden("bert");
    let args = ["eval", "--model", &model, "--data", &data, "--device", "cpu", "--json"];
    let json: Value = serde_json::from_str(&succeed(&args)).unwrap();
    assert_eq!(json["recall@10"], 0.5);
    // A cut collection is judged by what is left of it.
    let json: Value =
        serde_json::from_str(&succeed(&[&args[..], &["--limit", "1"]].concat())).unwrap();
    assert_eq!((&json["recall@10"], &json["documents"]), (&1.0.into(), &1.into()));
}

#[test]
fn an_existing_output_survives_a_failed_run() {
    let folder = Folder::new();
    let good = folder.write("good.txt", "a\n");
    let out = folder.path("out.safetensors");
    succeed(&[
        "embed",
        "--model",
        &golden("bert"),
        "--input",
        &good,
        "--output",
        &out,
        "--device",
        "cpu",
    ]);
    let before = std::fs::read(&out).unwrap();
    let bad = folder.write("bad.txt", b"\xff\n");
    refuse(
        &[
            "embed",
            "--model",
            &golden("bert"),
            "--input",
            &bad,
            "--output",
            &out,
            "--device",
            "cpu",
        ],
        &["bad.txt:1"],
    );
    assert_eq!(std::fs::read(&out).unwrap(), before);
}

/// A collection of some size, where the user has it: `NEARKIN_CRANFIELD` names a folder in BEIR layout. The reference is
/// what sentence-transformers gave (`tests/goldens/cranfield_reference.py`).
#[test]
fn minilm_on_cranfield_is_as_good_as_in_sentence_transformers() {
    let model = common::minilm().to_str().unwrap().to_string();
    let Ok(data) = std::env::var("NEARKIN_CRANFIELD") else {
        println!("skipped: NEARKIN_CRANFIELD names no folder");
        return;
    };
    if !Path::new(&model).join("model.safetensors").is_file() {
        println!("skipped: no model in {model}; `cargo xtask model` fetches it");
        return;
    }
    let want = std::fs::read_to_string(golden("cranfield_minilm.json")).unwrap();
    let want: Value = serde_json::from_str(&want).unwrap();
    let args = ["eval", "--model", &model, "--data", &data, "--device", "cpu", "--json"];
    let got: Value = serde_json::from_str(&succeed(&args)).unwrap();
    assert_eq!(got["documents"], want["documents"]);
    assert_eq!(got["queries"], want["queries_counted"]);
    for key in ["ndcg@10", "recall@10", "recall@100", "mrr@10"] {
        let (got, want) = (&got[key], &want["quality"][key]);
        println!("{key}: {got}, in sentence-transformers {want}");
        assert!((got.as_f64().unwrap() - want.as_f64().unwrap()).abs() < 0.002, "{key}");
    }
}

/// More queries than are read at a time.
#[test]
fn many_queries_are_answered_in_their_order() {
    use nearkin::{DType, Device, search::FlatIndex};
    let folder = Folder::new();
    let n = 9000;
    let ids: Vec<String> = (0..n).map(|i| format!("q{i}")).collect();
    let turns: Vec<f32> = (0..n).map(|i| i as f32 * std::f32::consts::TAU / n as f32).collect();
    let queries: Vec<f32> = turns.iter().flat_map(|t| [t.cos(), t.sin()]).collect();
    let path = folder.path("q.safetensors");
    let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 2).unwrap();
    index.add(&ids, &queries).unwrap();
    index.save(path.as_ref()).unwrap();
    let corners = folder.path("corners.safetensors");
    let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 2).unwrap();
    index.add(&["e", "n", "w", "s"], &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0]).unwrap();
    index.save(corners.as_ref()).unwrap();
    let out =
        succeed(&["search", "--index", &corners, "--queries", &path, "-k", "1", "--device", "cpu"]);
    assert_eq!(out.lines().count(), n);
    for (i, line) in out.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["query"], ids[i]);
        let eighth = i * 8 / n;
        // On a diagonal both neighbours are as near; rounding decides.
        if i % (n / 8) != 0 {
            assert_eq!(line["ids"][0], ["e", "n", "n", "w", "w", "s", "s", "e"][eighth]);
        }
    }
}

#[test]
fn an_empty_file_gives_an_empty_index() {
    let folder = Folder::new();
    let empty = folder.write("e.txt", "");
    let out = folder.path("e.safetensors");
    succeed(&[
        "embed",
        "--model",
        &golden("bert"),
        "--input",
        &empty,
        "--output",
        &out,
        "--device",
        "cpu",
        "--tokens",
    ]);
    let found = succeed(&["search", "--index", &out, "--queries", &out, "--device", "cpu"]);
    assert_eq!(found, "");
}

/// A CLIP with a processor, and a folder of three pictures and a text file.
struct Pictures {
    model: tempfile::TempDir,
    folder: Folder,
}

impl Pictures {
    fn new(model: &str) -> Pictures {
        let model = common::weights::folder(model);
        let processor = json!({
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
        });
        std::fs::write(model.path().join("preprocessor_config.json"), processor.to_string())
            .unwrap();
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path("pictures/deep")).unwrap();
        for (i, (name, width, height)) in
            [("a.png", 40u32, 33u32), ("b & c.jpg", 37, 61), ("deep/d.PNG", 32, 32)]
                .into_iter()
                .enumerate()
        {
            let pixel = |n: u32| ((n * (31 + 17 * i as u32)) % 251) as u8;
            let rgb: Vec<u8> = (0..3 * width * height).map(pixel).collect();
            let file = folder.path(&format!("pictures/{name}"));
            image::save_buffer(file, &rgb, width, height, image::ColorType::Rgb8).unwrap();
        }
        folder.write("pictures/notes.txt", "no picture");
        Pictures { model, folder }
    }

    fn model(&self) -> &str {
        self.model.path().to_str().unwrap()
    }
}

#[test]
fn rerank_scores_texts_with_images() {
    use nearkin::images::Preprocessor;
    use nearkin::models::ImageCrossEncoder;
    use nearkin::{DType, Device};
    for name in ["vilt", "vilt-answers", "blip"] {
        let at = Pictures::new(name);
        let files = ["a.png", "b & c.jpg"].map(|f| at.folder.path(&format!("pictures/{f}")));
        let (texts, numbers) = (["a wing", "hello"], [(0, 0), (1, 1), (0, 1)]);
        let line = |&(t, i): &(usize, usize)| {
            format!("{}\n", json!({ "text": texts[t], "image": files[i] }))
        };
        let pairs = at.folder.write("pairs.jsonl", numbers.iter().map(line).collect::<String>());
        let rerank = ["rerank", "--device", "cpu", "--model", at.model(), "--pairs"];
        let out = succeed(&[&rerank[..], &[&pairs]].concat());
        let got: Vec<f32> = out
            .lines()
            .flat_map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let scores = line.get("scores").and_then(Value::as_array).cloned();
                scores.unwrap_or_else(|| vec![line["score"].clone()])
            })
            .map(|score| score.as_f64().unwrap() as f32)
            .collect();
        let folder = at.model.path();
        let model = ImageCrossEncoder::load(folder, &Device::cpu(), DType::F32).unwrap();
        let pixels = Preprocessor::open(folder).unwrap().files(&files).unwrap();
        let want = model.score(&texts, &model.encode(&pixels).unwrap(), &numbers).unwrap();
        assert_eq!(got, want, "{name}");

        let bad = at.folder.write("p.jsonl", "{\"text\":\"a\",\"text_pair\":\"b\"}\n");
        refuse(&[&rerank[..], &[&bad]].concat(), &["image", "p.jsonl:1"]);
        if name == "vilt" {
            let (texts, to) = (at.folder.write("t.txt", "a\n"), at.folder.path("o.safetensors"));
            let embed = ["embed", "--device", "cpu", "--model", at.model(), "--input", &texts];
            refuse(&[&embed[..], &["--output", &to]].concat(), &["--model", "vectors of texts"]);
        }
    }
    let regions = common::weights::folder("lxmert");
    let folder = Folder::new();
    let pairs = folder.write("p.jsonl", "");
    let model = regions.path().to_str().unwrap();
    refuse(
        &["rerank", "--device", "cpu", "--model", model, "--pairs", &pairs],
        &["--model", "regions of images"],
    );
}

#[test]
fn images_are_embedded_and_found_by_texts() {
    let at = Pictures::new("clip");
    let (index, queries) = (at.folder.path("images.safetensors"), at.folder.path("q.safetensors"));
    let embed = ["--device", "cpu", "--model", at.model()];
    let pictures = at.folder.path("pictures");
    let summary = succeed(
        &[&["embed", "--json", "--images", &pictures, "--output", &index], &embed[..]].concat(),
    );
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["images"], &summary["dim"]), (&json!(3), &json!(20)), "{summary}");
    let texts = at.folder.write("texts.txt", "a wing\nhello\n");
    succeed(&[&["embed", "--input", &texts, "--output", &queries], &embed[..]].concat());
    let sheet = at.folder.path("sheet.html");
    let found = succeed(&[
        "search",
        "--device",
        "cpu",
        "--index",
        &index,
        "--queries",
        &queries,
        "--sheet",
        &sheet,
    ]);
    assert_eq!(found.lines().count(), 2);
    for line in found.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["ids"].as_array().unwrap().len(), 3, "{line}");
    }
    let html = std::fs::read_to_string(&sheet).unwrap();
    assert_eq!(html.matches("<img ").count(), 6, "{html}");
    assert!(html.contains("b%20%26%20c.jpg") && html.contains("b &amp; c.jpg"), "{html}");
    // Every picture is nearest to itself.
    let found = succeed(&["search", "--device", "cpu", "--index", &index, "--queries", &index]);
    for line in found.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["query"], line["ids"][0], "{line}");
        assert!((line["scores"][0].as_f64().unwrap() - 1.0).abs() < 1e-5, "{line}");
    }
}

#[test]
fn labels_are_found_without_training() {
    let at = Pictures::new("clip");
    let labels = at.folder.write("labels.txt", "dog\nwing\nboundary layer\n");
    let pictures = at.folder.path("pictures");
    let classify = |more: &[&str]| -> Vec<Value> {
        let base = ["classify", "--device", "cpu", "--model", at.model(), "--labels", &labels];
        let out = succeed(&[&base[..], more, &[&pictures]].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let ensembles = ["vectors", "raw", "similarities"];
    let single: Vec<_> =
        ensembles.iter().map(|e| classify(&["--ensemble", e, "--template", "the {}"])).collect();
    assert_eq!(single[0].len(), 3);
    for lines in &single {
        for (line, first) in lines.iter().zip(&single[0]) {
            let sum: f64 =
                line["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-5, "{line}");
            // One prompt is its own mean, whatever is averaged.
            assert_eq!(line["labels"], first["labels"]);
            let cosine = |l: &Value| l["cosines"][0].as_f64().unwrap();
            assert!((cosine(line) - cosine(first)).abs() < 1e-5, "{line} {first}");
        }
    }
    let two = ["--template", "the {}", "--template", "a {} in a tunnel"];
    let many: Vec<_> =
        ensembles.iter().map(|e| classify(&[&["--ensemble", e][..], &two].concat())).collect();
    assert_ne!(many[0], many[2], "means of vectors and of cosines are not the same");
    assert_eq!(classify(&["-k", "1"])[0]["labels"].as_array().unwrap().len(), 1);
}

#[test]
fn a_text_is_drawn_where_it_is_seen() {
    let at = Pictures::new("clip");
    let (picture, out) = (at.folder.path("pictures/a.png"), at.folder.path("heat.png"));
    let base = [
        "align",
        "--device",
        "cpu",
        "--model",
        at.model(),
        "--image",
        &picture,
        "--output",
        &out,
        "--text",
        "the lazy dog runs",
    ];
    let lines = succeed(&base);
    assert!(lines.lines().count() > 4, "{lines}");
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["row"].as_u64().unwrap() < 4 && line["column"].as_u64().unwrap() < 4,
            "{line}"
        );
    }
    let whole = image::open(&out).unwrap().to_rgb8();
    assert_eq!(whole.dimensions(), (32, 32));
    succeed(&[&base[..], &["--word", "dog"]].concat());
    let word = image::open(&out).unwrap().to_rgb8();
    assert_ne!(whole, word);
    refuse(&[&base[..], &["--word", "cat"]].concat(), &["--word", "cat"]);
}

#[test]
fn every_command_that_reads_images_takes_a_limit_of_pixels() {
    let at = Pictures::new("clip");
    let (out, drawn) = (at.folder.path("o.safetensors"), at.folder.path("o.png"));
    let pictures = at.folder.path("pictures");
    let picture = std::fs::read_dir(&pictures).unwrap().map(|e| e.unwrap().path());
    let picture = picture.into_iter().find(|p| p.extension().is_some_and(|e| e == "jpg")).unwrap();
    let picture = picture.to_str().unwrap();
    let labels = at.folder.write("labels.txt", "dog\n");
    let blip = Pictures::new("blip");
    let pairs = json!({"text": "a dog", "image": picture}).to_string();
    let pairs = at.folder.write("pairs.jsonl", &pairs);
    let cpu = ["--device", "cpu", "--model"];
    let commands: [Vec<&str>; 4] = [
        [&["embed"], &cpu[..], &[at.model(), "--output", &out, "--images", picture]].concat(),
        [&["classify"], &cpu[..], &[at.model(), "--labels", &labels, picture]].concat(),
        [
            &["align"],
            &cpu[..],
            &[at.model(), "--image", picture, "--text", "a dog", "--output", &drawn],
        ]
        .concat(),
        [&["rerank"], &cpu[..], &[blip.model(), "--pairs", &pairs]].concat(),
    ];
    for command in commands {
        let with = |n: &'static str| [&command[..], &["--max-pixels", n]].concat();
        refuse(&with("7"), &[".jpg", "at most 7 are allowed"]);
        refuse(&with("0"), &["--max-pixels"]);
        succeed(&with("300000000"));
    }
}

#[test]
fn what_does_not_fit_a_model_is_one_line() {
    let at = Pictures::new("clip");
    let (out, pictures) = (at.folder.path("o.safetensors"), at.folder.path("pictures"));
    let texts = at.folder.write("t.txt", "a\n");
    let embed = ["embed", "--device", "cpu", "--output", &out];
    let with = |model: &str, more: &[&str]| -> Vec<String> {
        let all = [&embed[..], &["--model", model], more].concat();
        all.into_iter().map(String::from).collect()
    };
    let refuse_with = |model: &str, more: &[&str], says: &[&str]| {
        let args = with(model, more);
        refuse(&args.iter().map(String::as_str).collect::<Vec<_>>(), says);
    };
    let bert = golden("bert");
    refuse_with(&bert, &["--images", &pictures], &["--images", "bert"]);
    let vit = common::weights::folder("vit");
    refuse_with(vit.path().to_str().unwrap(), &["--input", &texts], &["--images"]);
    refuse_with(at.model(), &["--images", &at.folder.path("none.png")], &["none.png"]);
    let notes = at.folder.path("pictures/notes.txt");
    refuse_with(at.model(), &["--images", &notes], &["notes.txt"]);
    refuse_with(at.model(), &[], &["--input"]);
    std::fs::create_dir(at.folder.path("empty")).unwrap();
    refuse_with(at.model(), &["--images", &at.folder.path("empty")], &["has no image"]);
    let labels = at.folder.write("labels.txt", "dog\n");
    let classify = ["classify", "--device", "cpu", "--model", at.model(), "--labels", &labels];
    refuse(&[&classify[..], &["--template", "dog", &pictures]].concat(), &["--template", "{}"]);
    refuse(&[&classify[..], &["-k", "0", &pictures]].concat(), &["-k"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn models_are_listed_as_in_the_readme() {
    let json: Value = serde_json::from_str(&succeed(&["models", "--json"])).unwrap();
    let rows = json.as_array().unwrap();
    let text = succeed(&["models"]);
    assert_eq!(text.lines().count(), rows.len() + 1);
    // A bundle of tests for another machine has no README.
    let Ok(readme) = std::fs::read_to_string(common::root().join("README.md")) else { return };
    for row in rows {
        let cell = |key: &str| row[key].as_str().unwrap();
        let line = format!(
            "| `{}` | {} | {} | {} |",
            cell("model_type"),
            cell("models"),
            cell("loads"),
            cell("tested")
        );
        assert!(readme.contains(&line), "the README lacks the row\n{line}");
    }
}
