//! Methods and measures against `tests/goldens/methods.py`, the formulas in NumPy.

use std::fs::File;

use nearkin::metrics::geometry::{self, Relative};
use nearkin::metrics::hubs;
use nearkin::metrics::trec::{Measure, Qrels, Run, evaluate};
use nearkin::ops::topk::{Corpus, Metric, Search};
use nearkin::rank::bank::{Bank, Dynamic, Norm};
use nearkin::rank::compose::{self, Pdv};
use nearkin::rank::fuse::{Fusion, Score};
use nearkin::{DType, Device, Tensor};
use serde_json::Value;

use crate::common::{golden, main_devices};

fn read(name: &str) -> Value {
    serde_json::from_reader(File::open(golden(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        one => vec![one.as_f64().unwrap() as f32],
    }
}

/// A matrix of a fixture on a device.
fn matrix(device: &Device, value: &Value) -> Tensor {
    let (rows, values) = (value.as_array().unwrap().len(), numbers(value));
    Tensor::from_f32(device, DType::F32, &[rows, values.len() / rows], &values).unwrap()
}

fn assert_near(what: &str, got: &[f32], want: &Value) {
    let want = numbers(want);
    assert_eq!(got.len(), want.len(), "{what}");
    let is_near = |(g, w): (&f32, &f32)| (g - w).abs() < 2e-6 * w.abs().max(1.0);
    assert!(got.iter().zip(&want).all(is_near), "{what}: {got:?} instead of {want:?}");
}

#[test]
fn banks_rank_as_the_formulas() {
    let fixture = read("methods.json");
    let of = &fixture["bank"];
    for (name, device) in main_devices() {
        let part = |key: &str| matrix(device, &of[key]);
        let corpus = Corpus::from_tensor(&part("gallery")).unwrap();
        let (queries, bank, other) = (part("queries"), part("bank"), part("other"));
        let metric = Metric::Cosine;
        let inverted = Norm::Inverted { beta: 20.0 };
        let dual = Norm::DualInverted { queries: 5.0, gallery: 9.0 };
        let one = |norm| Bank::new(&corpus, metric, norm, &bank).unwrap();
        for (key, bank) in [
            ("inverted", one(inverted)),
            ("dual", Bank::dual(&corpus, metric, dual, &bank, &other).unwrap()),
            ("csls", one(Norm::Csls { k: 4 })),
            ("nnn", one(Norm::Nnn { k: 4, alpha: 0.75 })),
            (
                "dynamic",
                Bank::dynamic(&corpus, metric, inverted, &bank, None, Dynamic::default()).unwrap(),
            ),
        ] {
            let hits = bank.search(&queries, &corpus, &Search::new(10)).unwrap();
            for (q, want) in of[key].as_array().unwrap().iter().enumerate() {
                let want: Vec<u64> = numbers(want).into_iter().map(|row| row as u64).collect();
                assert_eq!(hits.get(q).0, want, "{key}, query {q} on {name}");
            }
        }
    }
}

#[test]
fn geometry_is_that_of_the_formulas() {
    let fixture = read("methods.json");
    let of = &fixture["metrics"];
    for (name, device) in main_devices() {
        let (x, y) = (matrix(device, &of["x"]), matrix(device, &of["y"]));
        for (key, got) in [
            ("uniformity", geometry::uniformity(&x)),
            ("cross_uniformity", geometry::cross_uniformity(&x, &y)),
            ("alignment", geometry::alignment(&x, &y)),
            ("relative_difference", geometry::relative_alignment(&x, &y, Relative::Difference)),
            ("relative_ratio", geometry::relative_alignment(&x, &y, Relative::Ratio)),
            ("modality_gap", geometry::modality_gap(&x, &y)),
            ("cka", geometry::cka(&x, &y)),
        ] {
            let (got, want) = (got.unwrap(), of[key].as_f64().unwrap());
            assert!(
                (got - want).abs() < 1e-4 * want.abs().max(1.0),
                "{key} on {name}: {got}, {want}"
            );
        }
    }
    let counts: Vec<u32> = numbers(&of["counts"]).into_iter().map(|n| n as u32).collect();
    assert!((hubs::skewness(&counts) - of["skewness"].as_f64().unwrap()).abs() < 1e-12);
}

#[test]
fn runs_are_fused_as_the_formulas() {
    let fixture = read("methods.json");
    let of = &fixture["fuse"];
    let pairs = |value: &Value| -> Vec<(u32, f32)> {
        numbers(value).chunks(2).map(|pair| (pair[0] as u32, pair[1])).collect()
    };
    let runs: Vec<Vec<(u32, f32)>> = of["runs"].as_array().unwrap().iter().map(pairs).collect();
    for (key, score) in [
        ("reciprocal", Score::Reciprocal { k: 60.0 }),
        ("min_max", Score::MinMax),
        ("z_score", Score::ZScore),
        ("raw", Score::Raw),
    ] {
        let fusion = Fusion::new(score).weights(&[1.0, 0.5]);
        let got = fusion.fuse(&[&runs[0], &runs[1]], 100).unwrap();
        let want = pairs(&of[key]);
        assert_eq!(got.len(), want.len(), "{key}");
        for (got, want) in got.iter().zip(&want) {
            assert!(got.0 == want.0 && (got.1 - want.1).abs() < 1e-6, "{key}: {got:?}, {want:?}");
        }
    }
}

#[test]
fn queries_are_composed_as_the_formulas() {
    let fixture = read("methods.json");
    let of = &fixture["compose"];
    let [a, b, c] = ["a", "b", "c"].map(|key| numbers(&of[key]));
    assert_near("slerp", &compose::slerp(&a, &b, 0.3).unwrap(), &of["slerp"]);
    let pdv = Pdv::new(&a, &b, &c).unwrap();
    assert_near("pdv", &pdv.query(1.4, 1.1, 0.75), &of["pdv"]);
    let (parts, words) = (numbers(&of["parts"]), numbers(&of["words"]));
    let (parts, words): (Vec<&[f32]>, Vec<&[f32]>) =
        (parts.chunks(8).collect(), words.chunks(8).collect());
    let mixed = compose::sub_images(&a, &parts, &words).unwrap();
    assert_near("sub-images", &mixed, &of["sub_images"]);
    for (name, device) in main_devices() {
        let vector = Tensor::from_slice(device, &[1, 8], &a).unwrap();
        let got = compose::project(&vector, &matrix(device, &of["bank"]), 0.1).unwrap();
        assert_near(&format!("projection on {name}"), &got.to_vec().unwrap(), &of["projected"]);
    }
}

#[test]
fn runs_are_measured_as_by_trec_eval() {
    let fixture = read("trec.json");
    let (mut judged, mut run) = (Qrels::new(), Run::new());
    for (query, documents) in fixture["qrels"].as_object().unwrap() {
        for (document, grade) in documents.as_object().unwrap() {
            judged.insert(query, document, grade.as_i64().unwrap() as i32).unwrap();
        }
    }
    for (query, documents) in fixture["run"].as_object().unwrap() {
        for (document, score) in documents.as_object().unwrap() {
            run.insert(query, document, score.as_f64().unwrap() as f32).unwrap();
        }
    }
    let measures = [
        ("ndcg_cut_5", Measure::Ndcg(5)),
        ("ndcg_cut_10", Measure::Ndcg(10)),
        ("recall_5", Measure::Recall(5)),
        ("recall_10", Measure::Recall(10)),
        ("P_5", Measure::Precision(5)),
        ("success_1", Measure::Hit(1)),
        ("success_5", Measure::Hit(5)),
        ("map_cut_10", Measure::AveragePrecisionCut(10)),
        ("map", Measure::AveragePrecision),
        ("recip_rank", Measure::Reciprocal),
        ("Rprec", Measure::RPrecision),
    ];
    let got = evaluate(&judged, &run, &measures.map(|(_, measure)| measure));
    let want = fixture["measures"].as_object().unwrap();
    assert_eq!((got.queries.len(), want.len(), got.judged), (5, 5, 6));
    for (query, values) in got.queries.iter().zip(&got.values) {
        for ((key, _), got) in measures.iter().zip(values) {
            let want = want[query][*key].as_f64().unwrap();
            assert!((got - want).abs() < 1e-9, "{key} of {query}: {got} instead of {want}");
        }
    }
}
