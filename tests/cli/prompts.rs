//! Prompts from the shell: the default, by name, as a text, for queries and for documents.

use super::*;

const SETTINGS: &str = "config_sentence_transformers.json";

/// A copy of a golden folder with these prompts.
fn prompted(name: &str, settings: Value) -> tempfile::TempDir {
    let folder = common::golden_copy(name);
    std::fs::write(folder.path().join(SETTINGS), settings.to_string()).unwrap();
    folder
}

fn prompts() -> Value {
    json!({
        "prompts": { "query": "The query: ", "document": "A document: ", "other": "Other, " },
        "default_prompt_name": "other",
    })
}

/// The tensor that `embed` writes of these texts, with these options.
fn embed(folder: &Folder, model: &str, tensor: &str, text: &str, more: &[&str]) -> Vec<f32> {
    let input = folder.write("in.txt", text);
    let output = folder.path("out.safetensors");
    let args =
        ["embed", "--device", "cpu", "--model", model, "--input", &input, "--output", &output];
    succeed(&[&args[..], more].concat());
    let bytes = std::fs::read(&output).unwrap();
    numbers(&safetensors::SafeTensors::deserialize(&bytes).unwrap(), tensor).1
}

#[test]
fn embed_puts_a_prompt_before_each_text() {
    let folder = Folder::new();
    let (with, plain) = (prompted("bert", prompts()), golden("bert"));
    let model = with.path().to_str().unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&[], "Other, fox"),
        (&["--as", "query"], "The query: fox"),
        (&["--as", "document"], "A document: fox"),
        (&["--prompt", "query"], "The query: fox"),
        (&["--prompt", "query: "], "query: fox"),
        (&["--as", "query", "--prompt", "other"], "Other, fox"),
        (&["--prompt", ""], "fox"),
    ];
    for (more, text) in cases {
        let want = embed(&folder, &plain, "embeddings", text, &[]);
        assert_eq!(embed(&folder, model, "embeddings", "fox", more), want, "{more:?}");
    }
    // Without prompts of their own queries and documents are texts like others.
    let want = embed(&folder, &plain, "embeddings", "fox", &[]);
    assert_eq!(embed(&folder, &plain, "embeddings", "fox", &["--as", "query"]), want);
    let want = embed(&folder, &plain, "tokens", "The query: fox", &["--tokens"]);
    assert_eq!(embed(&folder, model, "tokens", "fox", &["--tokens", "--as", "query"]), want);

    // Token encoders have those of their forms.
    let late = golden("colbert-st6");
    let query = embed(&folder, &late, "tokens", "fox", &["--tokens", "--as", "query"]);
    let named = ["--tokens", "--as", "query", "--prompt", "query"];
    assert_eq!(embed(&folder, &late, "tokens", "fox", &named), query);
    let own = ["--tokens", "--as", "query", "--prompt", ""];
    assert_eq!(embed(&folder, &late, "tokens", "[Q] fox", &own), query);
    let document = ["--tokens", "--as", "query", "--prompt", "document"];
    assert_ne!(embed(&folder, &late, "tokens", "fox", &document), query);

    let (input, output) = (folder.path("in.txt"), folder.path("no.safetensors"));
    let args = ["embed", "--device", "cpu", "--output", &output];
    refuse(
        &[&args[..], &["--model", model, "--images", &input, "--prompt", "a"]].concat(),
        &["--prompt"],
    );
    let damaged = prompted("bert", json!({ "default_prompt_name": "gone" }));
    let damaged = damaged.path().to_str().unwrap();
    refuse(&[&args[..], &["--model", damaged, "--input", &input]].concat(), &["'gone'", SETTINGS]);
    assert!(!Path::new(&output).exists());
}

#[test]
fn rerank_puts_a_prompt_before_the_first_text() {
    let folder = Folder::new();
    let mut settings = prompts();
    settings["model_type"] = json!("CrossEncoder");
    let with = prompted("bert-cross", settings);
    let transformer = "sentence_transformers.base.modules.transformer.Transformer";
    let modules = json!([{ "path": "", "type": transformer }]);
    std::fs::write(with.path().join("modules.json"), modules.to_string()).unwrap();
    let model = with.path().to_str().unwrap();
    let score = |model: &str, text: &str, more: &[&str]| {
        let pair = json!({ "text": text, "text_pair": "the lazy dog" }).to_string();
        let pairs = folder.write("pairs.jsonl", pair);
        let args = ["rerank", "--device", "cpu", "--model", model, "--pairs", &pairs];
        succeed(&[&args[..], more].concat())
    };
    let cases: [(&[&str], &str); 4] = [
        (&[], "Other, fox"),
        (&["--prompt", "query"], "The query: fox"),
        (&["--prompt", "So: "], "So: fox"),
        (&["--prompt", ""], "fox"),
    ];
    for (more, text) in cases {
        let want = score(&golden("bert-cross"), text, &[]);
        assert_eq!(score(model, "fox", more), want, "{more:?}");
    }
}

#[test]
fn eval_has_a_prompt_for_queries_and_one_for_documents() {
    let folder = Folder::new();
    let data = |query: &str, document: &str| {
        let line = |id: String, before: &str, text: &str| {
            format!("{}\n", json!({ "_id": id, "text": format!("{before}{text}") }))
        };
        let texts = ["a wing stalls", "heat", "boundary layer", "jet engine", "42 shells", "fox"];
        let numbered = || texts.iter().enumerate();
        let corpus: String = numbered().map(|(i, t)| line(format!("d{i}"), document, t)).collect();
        let queries: String = numbered().map(|(i, t)| line(format!("q{i}"), query, t)).collect();
        // Judged by another order, so that the figures depend on the vectors.
        let qrels = (0..6).map(|i| format!("q{i}\td{}\t1\n", (i + 2) % 6));
        folder.write("data/corpus.jsonl", corpus);
        folder.write("data/queries.jsonl", queries);
        folder.write("data/qrels/test.tsv", qrels.collect::<String>());
        folder.path("data")
    };
    let figures = |model: &str, data: &str, more: &[&str]| -> Vec<Value> {
        let args = ["eval", "--device", "cpu", "--json", "--model", model, "--data", data];
        let json: Value = serde_json::from_str(&succeed(&[&args[..], more].concat())).unwrap();
        ["ndcg@10", "mrr@10"].iter().map(|key| json[*key].clone()).collect()
    };
    let with = prompted("bert", prompts());
    let model = with.path().to_str().unwrap();
    let named = ["--query-prompt", "other", "--document-prompt", "Text: "];
    for method in ["dense", "maxsim"] {
        let method = ["--method", method];
        let want = figures(&golden("bert"), &data("The query: ", "A document: "), &method);
        let other = figures(&golden("bert"), &data("Other, ", "Text: "), &method);
        let plain = figures(&golden("bert"), &data("", ""), &method);
        assert!(want != other && want != plain, "the prompts matter: {want:?} {other:?} {plain:?}");
        let data = data("", "");
        assert_eq!(figures(model, &data, &method), want);
        assert_eq!(figures(model, &data, &[&method[..], &named].concat()), other);
    }
    // A prompt for passages is not taken for documents, as sentence-transformers has it; the user is told.
    let with = prompted("bert", json!({ "prompts": { "passage": "A passage: " } }));
    let data = data("", "");
    let model = with.path().to_str().unwrap();
    let out = nearkin(&["eval", "--device", "cpu", "--json", "--model", model, "--data", &data]);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && stderr.contains("passage"), "{stderr}");
}
