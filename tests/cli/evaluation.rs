//! Collections in which queries are documents, and judgements in TREC's form.

use super::*;

/// Documents that are the queries, and one near each: ArguAna and Quora are like this.
fn collection(folder: &Folder, with_own: bool) -> String {
    let texts = ["a wing stalls", "heat transfer", "boundary layer", "jet engine", "42 shells"];
    let line = |id: String, text: &str| format!("{}\n", json!({ "_id": id, "text": text }));
    let mut corpus = String::new();
    for (i, text) in texts.iter().enumerate() {
        if with_own {
            corpus += &line(format!("q{i}"), text);
        }
        corpus += &line(format!("d{i}"), &format!("{text} again"));
    }
    folder.write("data/corpus.jsonl", corpus);
    let queries = texts.iter().enumerate().map(|(i, text)| line(format!("q{i}"), text));
    folder.write("data/queries.jsonl", queries.collect::<String>());
    let qrels = (0..texts.len()).map(|i| format!("q{i}\td{i}\t1\n"));
    folder.write("data/qrels/test.tsv", qrels.collect::<String>());
    folder.path("data")
}

const FIGURES: [&str; 4] = ["ndcg@10", "recall@10", "recall@100", "mrr@10"];

#[test]
fn a_query_takes_no_rank_in_its_own_results() {
    let folder = Folder::new();
    let model = golden("bert");
    let run = |data: &str, more: &[&str]| -> Value {
        let eval = ["eval", "--device", "cpu", "--json", "--model", &model, "--data", data];
        serde_json::from_str(&succeed(&[&eval[..], more].concat())).unwrap()
    };
    let cur = [
        "--method",
        "cur",
        "--anchor-queries",
        "2",
        "--anchor-items",
        "3",
        "--retrieved",
        "7",
        "--seed",
        "3",
    ];
    let methods: [&[&str]; 5] = [
        &["--method", "dense", "-k", "1"],
        &["--method", "dense"],
        &["--method", "maxsim"],
        &["--method", "binary", "--hash", "lsh", "--bits", "32"],
        &cur,
    ];
    let data = collection(&folder, true);
    let with_own: Vec<Value> = methods.iter().map(|more| run(&data, more)).collect();
    let data = collection(&folder, false);
    for (more, with_own) in methods.iter().zip(&with_own) {
        let without = run(&data, more);
        // The bits of codes depend on the mean of the documents, which the queries change; CUR's anchors are drawn.
        if more.contains(&"binary") || more.contains(&"cur") {
            continue;
        }
        for figure in FIGURES {
            assert_eq!(with_own[figure], without[figure], "{more:?} {figure}");
        }
    }
    // What every method finds: all scored, the judged document is the nearest but for the query itself.
    for (more, with_own) in methods.iter().zip(&with_own) {
        if more.contains(&"dense") || more.contains(&"maxsim") {
            assert_eq!(with_own["mrr@10"], 1.0, "{more:?}: {with_own}");
        }
        assert!(with_own["mrr@10"].as_f64().unwrap() > 0.2, "{more:?}: {with_own}");
    }
    // With all documents scored, every method's recall of the exact best is whole, though the best of all is left out.
    let rows = with_own[4]["recall"].as_array().unwrap();
    let whole = rows.iter().filter(|row| row["calls"] == 10);
    assert!(whole.clone().count() > 0);
    for row in whole {
        assert_eq!((&row["recall@1"], &row["recall@10"]), (&json!(1.0), &json!(1.0)), "{row}");
    }
}

#[test]
fn judgements_come_in_other_forms() {
    let folder = Folder::new();
    let model = golden("bert");
    let data = collection(&folder, false);
    let args = ["eval", "--device", "cpu", "--json", "--model", &model, "--data", &data];
    let run = || -> Vec<Value> {
        let json: Value = serde_json::from_str(&succeed(&args)).unwrap();
        FIGURES.iter().map(|figure| json[figure].clone()).collect()
    };
    folder.write("data/qrels/test.tsv", "q0\td0\t2\nq1\td3\t1\nq1\td1\t0\n");
    let want = run();
    for qrels in [
        "query-id\tcorpus-id\tscore\nq0\td0\t2.0\nq1\td3\t1.0\nq1\td1\t0\n",
        "q0 0 d0 2\nq1 0 d3 1\nq1 0 d1 0\n",
        "q0\tQ0\td0\t2\nq1\tQ0\td3\t1.0\nq1\tQ0\td1\t0\n",
    ] {
        folder.write("data/qrels/test.tsv", qrels);
        assert_eq!(run(), want, "{qrels}");
    }
    for (qrels, says) in [
        ("q0\td0\t1\nq0\td1\t1.5\n", "1.5"),
        ("q0\td0\t1\nq0\td1\tnan\n", "nan"),
        ("q0\td0\t1\nq0\td1\t1e99\n", "1e99"),
        ("q0\td0\t1\nq0\td1\n", "2 fields"),
        ("q0\td0\t1\na b c d e\n", "5 fields"),
    ] {
        folder.write("data/qrels/test.tsv", qrels);
        refuse(&args, &["test.tsv:2", says]);
    }
    // Compressed files of a collection, under their names or their content.
    folder.write("data/qrels/test.tsv", "q0\td0\t2\nq1\td3\t1\nq1\td1\t0\n");
    let plain = std::fs::read(folder.path("data/corpus.jsonl")).unwrap();
    std::fs::remove_file(folder.path("data/corpus.jsonl")).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    folder.write("data/corpus.jsonl.zst", ruzstd::encoding::compress_to_vec(&plain[..], level));
    assert_eq!(run(), want);
}
