//! Methods compared, and scorers that models are.

use nearkin::models::CrossEncoder;
use nearkin::ops::maxsim::{MaxSim, Tokens};
use nearkin::search::cur::*;
use nearkin::{DType, Device, Error, Offsets, Tensor};

use super::{ask, exact, items, matrix, scores, uniform};
use crate::common::{Rng, main_devices};

#[test]
fn all_methods_are_measured_on_the_same_scores() {
    const M: usize = 160;
    const DIM: usize = 8;
    let mut rng = Rng(16);
    let embeddings = rng.normals((50 + M) * DIM);
    let (queries, of_items) = embeddings.split_at(50 * DIM);
    let rest = scores(&mut rng, 50, M, 3, 0.1);
    let product = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    let all: Vec<f32> = (0..50 * M)
        .map(|at| {
            product(&queries[at / M * DIM..][..DIM], &of_items[at % M * DIM..][..DIM]) + rest[at]
        })
        .collect();
    let by_items: Vec<f32> = (0..M * M)
        .map(|at| product(&of_items[at / M * DIM..][..DIM], &of_items[at % M * DIM..][..DIM]))
        .collect();
    let scorer = MatrixScorer::new(50, M, &all).unwrap();
    let item_scorer = MatrixScorer::new(M, M, &by_items).unwrap();
    let anchor_queries: Vec<usize> = (0..30).collect();
    let test_queries: Vec<usize> = (30..50).rev().collect();
    let evaluation = Evaluation {
        anchor_queries: &anchor_queries,
        test_queries: &test_queries,
        own_items: &[],
        cheap: Some(Cheap { dim: DIM, queries, items: of_items }),
        item_scorer: Some(&item_scorer),
        anchor_items: &[10, 20, M, 100 * M],
        retrieved: &[0, 40],
        rounds: 3,
        axn_weight: 0.3,
        seed: 1,
    };
    let mut first = None;
    for (name, device) in main_devices() {
        let rows = evaluate(device, &scorer, &evaluation).unwrap();
        // Budgets: 10, 20, 50, 60 and all.
        let count = |method| rows.iter().filter(|r| r.method == method).count();
        for (method, want) in [
            ("cur", 6),
            ("cur-residual", 6),
            ("fixed-item", 6),
            ("adacur-split", 3),
            ("adacur", 5),
            ("adacur-residual", 5),
            ("axn", 5),
            ("dual-encoder", 5),
            ("random", 5),
        ] {
            assert_eq!(count(method), want, "{method}");
        }
        for row in &rows {
            assert_eq!(row.calls, (row.k_i + row.k_r).min(M), "{row:?}");
            for recall in [row.recall_1, row.recall_10, row.recall_100] {
                assert!((0.0..=1.0).contains(&recall), "{row:?}");
                assert!(row.calls < M || recall == 1.0, "{row:?}");
            }
        }
        let of = |method: &str, calls| {
            let mut found = rows.iter().filter(|r| r.method == method && r.calls == calls);
            found.find(|r| r.k_r > 0 || r.k_i > 20 || method != "cur").unwrap().recall_10
        };
        let random = of("random", 60);
        assert!((0.2..0.6).contains(&random), "{random}");
        for method in ["cur", "cur-residual", "adacur", "adacur-residual", "axn", "dual-encoder"] {
            assert!(of(method, 60) > random + 0.2, "{name}: {method} {}", of(method, 60));
        }
        assert!(of("cur-residual", 60) > 0.97);
        let lines = serde_json::to_value(&rows).unwrap();
        let keys: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
        let want = ["method", "k_i", "k_r", "calls", "recall@1", "recall@10", "recall@100"];
        assert_eq!(keys, want);
        // Near ties may fall to either side where devices add in another order.
        let first = first.get_or_insert(rows.clone());
        for (a, b) in first.iter().zip(&rows) {
            assert!((a.recall_10 - b.recall_10).abs() <= 0.02, "{name}: {a:?} and {b:?}");
        }
    }
    let cpu = Device::cpu();
    let wrong = [
        Evaluation { anchor_queries: &[], ..evaluation },
        Evaluation { test_queries: &[], ..evaluation },
        Evaluation { test_queries: &[50], ..evaluation },
        Evaluation { anchor_items: &[0, M + 1], ..evaluation },
        Evaluation { retrieved: &[], ..evaluation },
        Evaluation { rounds: 0, ..evaluation },
        Evaluation { axn_weight: f64::NAN, ..evaluation },
        Evaluation { item_scorer: Some(&scorer), ..evaluation },
        Evaluation { cheap: Some(Cheap { dim: DIM, queries, items: queries }), ..evaluation },
    ];
    for evaluation in wrong {
        let error = evaluate(&cpu, &scorer, &evaluation).unwrap_err();
        assert!(matches!(error, Error::Argument { .. } | Error::Shape { .. }), "{error}");
    }
    let bare = Evaluation { cheap: None, item_scorer: None, ..evaluation };
    let rows = evaluate(&cpu, &scorer, &bare).unwrap();
    assert!(rows.iter().all(|r| !["axn", "fixed-item", "dual-encoder"].contains(&r.method)));
}

/// Texts scored by a cross-encoder, through its tokenizer, in the order of the pairs.
#[test]
fn a_cross_encoder_is_a_scorer() {
    let folder = crate::common::golden("bert-cross");
    let model = CrossEncoder::load(&folder, &Device::cpu(), DType::F32).unwrap();
    let queries = ["how far is the moon", "a red car"];
    let texts = ["the moon is far away", "cars may be red", "", "nothing of the kind"];
    let label = model.labels().len() - 1;
    let scorer = TextScorer::new(&model, &queries, &texts, label).unwrap();
    assert_eq!((scorer.queries(), scorer.items()), (2, 4));
    let pairs = [(1, 2), (0, 3), (1, 0)];
    let texts_of: Vec<(&str, &str)> = pairs.iter().map(|&(q, i)| (queries[q], texts[i])).collect();
    let want: Vec<f32> =
        model.score(&texts_of).unwrap().chunks(label + 1).map(|logits| logits[label]).collect();
    assert_eq!(scorer.score(&pairs).unwrap(), want);
    let error = TextScorer::new(&model, &queries, &texts, label + 1).unwrap_err();
    assert!(matches!(error, Error::Argument { what: "label", .. }), "{error}");
    let r = ScoreMatrix::compute(&scorer, &[0, 1], 0..4, &Offline::default()).unwrap();
    let index = CurIndex::fit(&Device::cpu(), &r, &CurOptions::new(uniform(2))).unwrap();
    let found = index.search(&scorer, &[1], &ask(4, 4)).unwrap();
    assert_eq!((found.calls, found.items[0].len()), (4, 4));
}

/// MaxSim over token vectors, pairs in any order.
#[test]
fn late_interaction_is_a_scorer() {
    const DIM: usize = 8;
    let mut rng = Rng(17);
    let (q_lengths, d_lengths) = ([3, 1, 5], [4, 2, 7, 1, 6]);
    let q = rng.normals(9 * DIM);
    let d = rng.normals(20 * DIM);
    let naive = |q: &[f32], d: &[f32]| -> f64 {
        let dot = |x: &[f32], y: &[f32]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        q.chunks(DIM).map(|x| d.chunks(DIM).map(|y| dot(x, y)).fold(f64::MIN, f64::max)).sum()
    };
    for (name, device) in main_devices() {
        let tokens = |lengths: &[usize], values: &[f32]| {
            let shape = [values.len() / DIM, DIM];
            let vectors = Tensor::from_f32(device, DType::F32, &shape, values).unwrap();
            Tokens::new(&vectors, &Offsets::from_lengths(device, lengths).unwrap()).unwrap()
        };
        let (queries, items) = (tokens(&q_lengths, &q), tokens(&d_lengths, &d));
        let scorer = MaxSimScorer::new(&queries, &items, MaxSim::colbert()).unwrap();
        assert_eq!((scorer.queries(), scorer.items()), (3, 5));
        let pairs = [(2, 4), (0, 1), (2, 0), (0, 3), (0, 0), (2, 2)];
        let got = scorer.score(&pairs).unwrap();
        for (&(i, j), got) in pairs.iter().zip(got) {
            let (a, b) = (queries.offsets().range(i), items.offsets().range(j));
            let want = naive(&q[a.start * DIM..a.end * DIM], &d[b.start * DIM..b.end * DIM]);
            assert!((f64::from(got) - want).abs() < 1e-4, "{name}: {got} for {want}");
        }
        let empty = tokens(&[20, 0], &d);
        let error = MaxSimScorer::new(&queries, &empty, MaxSim::colbert()).unwrap_err();
        assert!(matches!(error, Error::Argument { what: "items", .. }), "{error}");
        let r = ScoreMatrix::compute(&scorer, &[0, 1], 0..5, &Offline::default()).unwrap();
        let index = CurIndex::fit(device, &r, &CurOptions::new(uniform(2))).unwrap();
        let found = index.search(&scorer, &[2], &ask(5, 5)).unwrap();
        let each: Vec<Pair> = found.items[0].iter().map(|s| (2, s.item)).collect();
        let scores: Vec<f32> = found.items[0].iter().map(|s| s.score).collect();
        assert_eq!(scorer.score(&each).unwrap(), scores);
    }
}

#[test]
fn hostile_scorers_and_requests_are_typed_errors() {
    const M: usize = 30;
    let all = scores(&mut Rng(14), 12, M, 3, 0.1);
    let r = matrix(&all, M, 0..8);
    let good = MatrixScorer::new(12, M, &all).unwrap();
    let argument = |e: Error| assert!(matches!(e, Error::Argument { .. }), "{e}");
    let shape = |e: Error| assert!(matches!(e, Error::Shape { .. }), "{e}");
    let offline = Offline::default();
    for (_, device) in main_devices() {
        let index = CurIndex::fit(device, &r, &CurOptions::new(uniform(6))).unwrap();
        let adacur = AdaptiveIndex::adacur(device, &r, None, None).unwrap();
        let rounds = AdaptiveSearch {
            k: 3,
            budget: 12,
            rounds: 3,
            rerank: 2,
            first: First::Uniform { seed: 1 },
            embeddings: None,
        };
        // Scores that are no numbers, at an anchor and anywhere.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [index.anchors()[2], (0..M).find(|i| !index.anchors().contains(i)).unwrap()] {
                let scorer = FnScorer::new(12, M, |pairs: &[Pair]| {
                    let of = |&(q, i): &Pair| if i == at { bad } else { all[q * M + i] };
                    Ok(pairs.iter().map(of).collect())
                });
                argument(index.search(&scorer, &[9], &ask(3, M)).unwrap_err());
                let all_rounds = AdaptiveSearch { budget: M, ..rounds };
                argument(adacur.search(&scorer, &[9], &all_rounds).unwrap_err());
                argument(ScoreMatrix::compute(&scorer, &[1], 0..M, &offline).unwrap_err());
            }
        }
        // Too few scores and too many.
        for off in [0, 2] {
            let scorer = FnScorer::new(12, M, |p: &[Pair]| Ok(vec![1.0; p.len() + off - 1]));
            shape(index.search(&scorer, &[9], &ask(3, 12)).unwrap_err());
            shape(adacur.search(&scorer, &[9], &rounds).unwrap_err());
            shape(ScoreMatrix::compute(&scorer, &[1], 0..M, &offline).unwrap_err());
        }
        // Another corpus, queries that are not there, none at all.
        let other = MatrixScorer::new(12, M - 2, &all[..12 * (M - 2)]).unwrap();
        shape(index.search(&other, &[9], &ask(3, 12)).unwrap_err());
        shape(adacur.search(&other, &[9], &rounds).unwrap_err());
        argument(index.search(&good, &[9, 12], &ask(3, 12)).unwrap_err());
        argument(adacur.search(&good, &[usize::MAX], &rounds).unwrap_err());
        assert!(index.search(&good, &[], &ask(3, 12)).unwrap().items.is_empty());
        assert!(adacur.search(&good, &[], &rounds).unwrap().items.is_empty());
        // k and budgets.
        argument(index.search(&good, &[9], &ask(0, 12)).unwrap_err());
        argument(adacur.search(&good, &[9], &AdaptiveSearch { k: 0, ..rounds }).unwrap_err());
        argument(adacur.search(&good, &[9], &AdaptiveSearch { rounds: 0, ..rounds }).unwrap_err());
        argument(adacur.search(&good, &[9], &AdaptiveSearch { budget: 2, ..rounds }).unwrap_err());
        let error = index.search(&good, &[9], &ask(3, 5)).unwrap_err();
        assert!(matches!(error, Error::Budget { limit: 5, used: 0, asked: 6 }), "{error}");
        let only_anchors = index.search(&good, &[9], &ask(10, 6)).unwrap();
        assert_eq!((only_anchors.items[0].len(), only_anchors.calls), (6, 6));
        assert!(only_anchors.items[0].iter().all(|s| index.anchors().contains(&s.item)));
        let all_of_them = index.search(&good, &[9], &ask(1000, usize::MAX)).unwrap();
        assert_eq!(items(&all_of_them.items[0]), exact(&all[9 * M..][..M], M));
        let huge = AdaptiveSearch { k: usize::MAX, budget: usize::MAX, rounds: 100, ..rounds };
        let all_of_them = adacur.search(&good, &[9], &huge).unwrap();
        assert_eq!(items(&all_of_them.items[0]), exact(&all[9 * M..][..M], M));
        // Approximations alone.
        shape(index.retrieve(&[1.0; 7], None, 3).unwrap_err());
        argument(index.retrieve(&[1.0; 6], None, 0).unwrap_err());
        argument(index.retrieve(&[f32::NAN; 6], None, 3).unwrap_err());
        argument(index.retrieve(&[1.0; 6], Some(&[1.0]), 3).unwrap_err());
        assert!(index.retrieve(&[], None, 3).unwrap().is_empty());
        // First lists and embeddings.
        for lists in [vec![], vec![vec![1], vec![2]]] {
            let first = First::Given(&lists);
            shape(adacur.search(&good, &[9], &AdaptiveSearch { first, ..rounds }).unwrap_err());
        }
        let lists = vec![vec![M]];
        let first = First::Given(&lists);
        argument(adacur.search(&good, &[9], &AdaptiveSearch { first, ..rounds }).unwrap_err());
        let embeddings = Some(&[1.0f32; 4][..]);
        argument(adacur.search(&good, &[9], &AdaptiveSearch { embeddings, ..rounds }).unwrap_err());
        let axn = AdaptiveIndex::axn(device, &[1.0; 4 * M], 4, 0.0).unwrap();
        argument(axn.search(&good, &[9], &rounds).unwrap_err());
        let short = Some(&[1.0f32; 3][..]);
        shape(
            axn.search(&good, &[9], &AdaptiveSearch { embeddings: short, ..rounds }).unwrap_err(),
        );
        // Equal items, no ridge to speak of: still an answer.
        let found = axn.search(&good, &[9], &AdaptiveSearch { embeddings, ..rounds }).unwrap();
        assert_eq!(found.calls, 12);
        // What an index cannot be fitted to.
        for count in [0, M + 1, usize::MAX] {
            argument(CurIndex::fit(device, &r, &CurOptions::new(uniform(count))).unwrap_err());
        }
        for given in [vec![], vec![M], vec![3, 3]] {
            let options = CurOptions::new(Anchors::Given(&given));
            argument(CurIndex::fit(device, &r, &options).unwrap_err());
        }
        for weight in [f64::NAN, -1.0, f64::INFINITY] {
            for regularisation in [Regularisation::Tikhonov(weight), Regularisation::Rcond(weight)]
            {
                let options = CurOptions { regularisation, ..CurOptions::new(uniform(4)) };
                argument(CurIndex::fit(device, &r, &options).unwrap_err());
            }
            argument(AdaptiveIndex::adacur(device, &r, Some(weight), None).unwrap_err());
            argument(AdaptiveIndex::axn(device, &[1.0; 4], 4, weight).unwrap_err());
        }
        let integers = CurOptions { dtype: DType::I64, ..CurOptions::new(uniform(4)) };
        argument(CurIndex::fit(device, &r, &integers).unwrap_err());
        let nothing = ScoreMatrix::new(8, vec![]).unwrap();
        argument(CurIndex::fit(device, &nothing, &CurOptions::new(uniform(4))).unwrap_err());
        argument(AdaptiveIndex::adacur(device, &nothing, None, None).unwrap_err());
        argument(AdaptiveIndex::axn(device, &[], 4, 0.1).unwrap_err());
        argument(AdaptiveIndex::axn(device, &[1.0], 0, 0.1).unwrap_err());
        shape(AdaptiveIndex::axn(device, &[1.0; 7], 4, 0.1).unwrap_err());
        let (q, i) = ([1.0f32; 8 * 2], [1.0f32; 2 * M]);
        for (dim, queries, items) in [(0, &q[..], &i[..]), (2, &q[1..], &i), (2, &q, &i[1..])] {
            let cheap = Some(Cheap { dim, queries, items });
            let options = CurOptions { cheap, ..CurOptions::new(uniform(4)) };
            assert!(CurIndex::fit(device, &r, &options).is_err());
        }
        let mut nan = q;
        nan[3] = f32::NAN;
        let cheap = Some(Cheap { dim: 2, queries: &nan, items: &i });
        let options = CurOptions { cheap, ..CurOptions::new(uniform(4)) };
        argument(CurIndex::fit(device, &r, &options).unwrap_err());
        // A cheap score that tells nothing: the line is flat, and the rest is plain CUR.
        let options =
            CurOptions { cheap: Some(Cheap { dim: 2, queries: &q, items: &i }), ..options };
        let flat = CurIndex::fit(device, &r, &options).unwrap();
        assert_eq!(flat.affine().unwrap().alpha, 0.0);
        argument(flat.search(&good, &[9], &ask(3, 8)).unwrap_err());
        // Scores that are all zero have no singular value to divide by.
        let zeros = ScoreMatrix::new(8, vec![0.0; 8 * M]).unwrap();
        let index = CurIndex::fit(device, &zeros, &CurOptions::new(uniform(4))).unwrap();
        assert_eq!(index.report().rank, 0);
        assert_eq!(index.search(&good, &[9], &ask(3, 8)).unwrap().calls, 8);
        let adacur = AdaptiveIndex::adacur(device, &zeros, None, None).unwrap();
        assert_eq!(adacur.search(&good, &[9], &rounds).unwrap().calls, 12);
    }
    shape(MatrixScorer::new(3, 4, &[0.0; 11]).unwrap_err());
    shape(MatrixScorer::new(usize::MAX, 2, &[]).unwrap_err());
    argument(ScoreMatrix::new(0, vec![]).unwrap_err());
    shape(ScoreMatrix::new(3, vec![0.0; 4]).unwrap_err());
    argument(ScoreMatrix::new(1, vec![f32::NAN]).unwrap_err());
    argument(ScoreMatrix::compute(&good, &[], 0..M, &offline).unwrap_err());
    argument(ScoreMatrix::compute(&good, &[12], 0..M, &offline).unwrap_err());
    let reversed = std::ops::Range { start: 3, end: 2 };
    for range in [reversed, 0..M + 1, 0..usize::MAX] {
        argument(ScoreMatrix::compute(&good, &[1], range, &offline).unwrap_err());
    }
    assert_eq!(ScoreMatrix::compute(&good, &[1], 5..5, &offline).unwrap().items(), 0);
    let endless = FnScorer::new(8, usize::MAX, |_: &[Pair]| Ok(vec![]));
    let error = ScoreMatrix::compute(&endless, &[1, 2], 0..usize::MAX, &offline).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
}
