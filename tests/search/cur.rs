//! CUR: approximated cross-encoder scores. Numbers, budgets, checkpoints, hostile input, every device.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::common::{Rng, devices, main_devices};
use faer::Mat;
use nearkin::models::CrossEncoder;
use nearkin::ops::maxsim::{MaxSim, Tokens};
use nearkin::search::cur::*;
use nearkin::{DType, Device, Error, Offsets, Result, Tensor};
use proptest::prelude::*;

/// Scores of queries x items, of this rank but for noise, row after row.
fn scores(rng: &mut Rng, queries: usize, items: usize, rank: usize, noise: f32) -> Vec<f32> {
    let (a, b) = (rng.normals(queries * rank), rng.normals(items * rank));
    let mut all = Vec::with_capacity(queries * items);
    for q in 0..queries {
        for i in 0..items {
            let (a, b) = (&a[q * rank..][..rank], &b[i * rank..][..rank]);
            let s: f64 = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            all.push(s as f32 + 3.0 + noise * rng.normal());
        }
    }
    all
}

/// The exact best k of a row.
fn exact(row: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

fn items(found: &[Scored]) -> Vec<usize> {
    found.iter().map(|s| s.item).collect()
}

/// The share of the exact best k that a search found, over all `queries`.
fn recall(found: &Found, queries: &[usize], all: &[f32], items: usize, k: usize) -> f64 {
    let mut both = 0;
    for (list, &q) in found.items.iter().zip(queries) {
        let want = exact(&all[q * items..][..items], k);
        both += want.iter().filter(|i| list.iter().any(|s| s.item == **i)).count();
    }
    both as f64 / (k * queries.len()) as f64
}

fn matrix(all: &[f32], items: usize, queries: std::ops::Range<usize>) -> ScoreMatrix {
    let scorer = MatrixScorer::new(all.len() / items, items, all).unwrap();
    let queries: Vec<usize> = queries.collect();
    ScoreMatrix::compute(&scorer, &queries, 0..items, &Offline::default()).unwrap()
}

fn uniform(count: usize) -> Anchors<'static> {
    Anchors::Uniform { count, seed: 7 }
}

fn ask(k: usize, budget: usize) -> CurSearch<'static> {
    CurSearch { k, budget, embeddings: None }
}

const FORMS: [Form; 2] = [Form::Rows, Form::Cols];

#[test]
fn a_matrix_of_low_rank_is_found_exactly() {
    const M: usize = 400;
    // Rank 5 and the constant.
    let all = scores(&mut Rng(1), 44, M, 5, 0.0);
    let r = matrix(&all, M, 0..30);
    let scorer = MatrixScorer::new(44, M, &all).unwrap();
    let asked: Vec<usize> = (30..44).collect();
    for (name, device) in devices() {
        let mut first: Option<Found> = None;
        for form in FORMS {
            for regularisation in [
                Regularisation::CrossValidated,
                Regularisation::Tikhonov(1e-6),
                Regularisation::Tikhonov(0.0),
                Regularisation::Rcond(0.0),
                Regularisation::Rcond(1e-4),
            ] {
                let options = CurOptions { form, regularisation, ..CurOptions::new(uniform(12)) };
                let index = CurIndex::fit(device, &r, &options).unwrap();
                assert_eq!(index.report().rank, 6, "{name}");
                let c: Vec<f32> = asked
                    .iter()
                    .flat_map(|&q| index.anchors().iter().map(move |&a| (q, a)))
                    .map(|(q, a)| all[q * M + a])
                    .collect();
                for (list, &q) in index.retrieve(&c, None, M).unwrap().iter().zip(&asked) {
                    assert_eq!(list.len(), M - 12);
                    for s in list {
                        let error = (s.score - all[q * M + s.item]).abs();
                        assert!(error < 2e-4, "{name} {form:?} {regularisation:?}: off by {error}");
                    }
                }
                let found = index.search(&scorer, &asked, &ask(10, 24)).unwrap();
                assert_eq!(found.calls, 24 * asked.len());
                assert_eq!(recall(&found, &asked, &all, M, 10), 1.0, "{name} {form:?}");
                for (list, &q) in found.items.iter().zip(&asked) {
                    assert_eq!(items(list), exact(&all[q * M..][..M], 10));
                    assert!(list.iter().all(|s| s.score == all[q * M + s.item]));
                }
                match &first {
                    None => first = Some(found),
                    Some(first) => assert_eq!(*first, found, "{name}"),
                }
            }
        }
    }
}

/// Where there are as many anchor items as anchor queries, the plain pseudo-inverse inverts noise.
#[test]
fn recall_does_not_dip_where_the_anchor_block_is_square() {
    const M: usize = 500;
    let all = scores(&mut Rng(2), 100, M, 6, 0.3);
    let r = matrix(&all, M, 0..40);
    let scorer = MatrixScorer::new(100, M, &all).unwrap();
    let asked: Vec<usize> = (40..100).collect();
    let cpu = Device::cpu();
    let measure = |count, regularisation| {
        let options = CurOptions { regularisation, ..CurOptions::new(uniform(count)) };
        let index = CurIndex::fit(&cpu, &r, &options).unwrap();
        let found = index.search(&scorer, &asked, &ask(10, count + 40)).unwrap();
        (recall(&found, &asked, &all, M, 10), index.report().clone())
    };
    let mut before = 0.0f64;
    for count in [10, 20, 30, 36, 40, 44, 60, 120] {
        let (chosen, report) = measure(count, Regularisation::CrossValidated);
        assert!(chosen > before - 0.03, "{count} anchors: {chosen} after {before}");
        before = before.max(chosen);
        assert!(matches!(report.regularisation, Regularisation::Tikhonov(w) if w > 0.0));
        assert_eq!(report.tried.len(), 29);
    }
    let (naive, report) = measure(40, Regularisation::Rcond(0.0));
    assert_eq!((report.rank, report.regularisation), (40, Regularisation::Rcond(0.0)));
    let (chosen, _) = measure(40, Regularisation::CrossValidated);
    assert!(naive < chosen - 0.2, "the trap is there: {naive} against {chosen}");
}

/// The zeros of a block of scores in f32 are its rounding. A pseudo-inverse that cuts at f64's epsilon inverts them.
#[test]
fn rounding_of_the_scores_is_not_inverted() {
    const M: usize = 200;
    let all = scores(&mut Rng(3), 60, M, 4, 0.0);
    let r = matrix(&all, M, 0..50);
    for regularisation in [Regularisation::Rcond(1e-15), Regularisation::Tikhonov(1e-15)] {
        let options = CurOptions { regularisation, ..CurOptions::new(uniform(50)) };
        let index = CurIndex::fit(&Device::cpu(), &r, &options).unwrap();
        let anchors = index.anchors().to_vec();
        let block = Mat::from_fn(50, 50, |q, a| f64::from(r.item(anchors[a])[q]));
        let svd = block.svd().unwrap();
        let mut worst = [0f64; 2];
        for q in 50..60 {
            let c: Vec<f32> = anchors.iter().map(|&a| all[q * M + a]).collect();
            // c V S⁻¹ Uᵀ R, the last three as numpy.linalg.pinv cuts them.
            let mut w = Mat::<f64>::zeros(1, 50);
            for j in (0..50).filter(|&j| svd.S()[j] > 1e-15 * svd.S()[0]) {
                let x: f64 = (0..50).map(|a| f64::from(c[a]) * svd.V()[(a, j)]).sum();
                for p in 0..50 {
                    w[(0, p)] += x / svd.S()[j] * svd.U()[(p, j)];
                }
            }
            for s in &index.retrieve(&c, None, M).unwrap()[0] {
                let want = f64::from(all[q * M + s.item]);
                let naive: f64 = (0..50).map(|p| w[(0, p)] * f64::from(r.item(s.item)[p])).sum();
                worst[0] = worst[0].max((f64::from(s.score) - want).abs());
                worst[1] = worst[1].max((naive - want).abs());
            }
        }
        assert!(worst[0] < 1e-4 && worst[1] > 100.0 * worst[0], "ours and naive: {worst:?}");
    }
}

/// A scorer that remembers what it was asked.
fn counting<'a>(
    all: &'a [f32],
    items: usize,
    asked: &'a RefCell<HashMap<Pair, usize>>,
) -> impl CrossScorer + 'a {
    FnScorer::new(all.len() / items, items, move |pairs: &[Pair]| {
        for &pair in pairs {
            *asked.borrow_mut().entry(pair).or_default() += 1;
        }
        Ok(pairs.iter().map(|&(q, i)| all[q * items + i]).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// No query costs more than its budget, no pair is asked for twice, and what was counted was asked.
    #[test]
    fn a_budget_is_never_exceeded(
        m in 1usize..60,
        count in 1usize..20,
        budget in 0usize..80,
        rounds in 1usize..6,
        rerank in 0usize..30,
        k in 1usize..40,
        given: bool,
        seed: u64,
    ) {
        const DIM: usize = 4;
        let mut rng = Rng(seed);
        let all = scores(&mut rng, 9, m, 3, 0.1);
        let r = matrix(&all, m, 0..5);
        let asked = RefCell::new(HashMap::new());
        let scorer = counting(&all, m, &asked);
        let queries = [8, 5, 6];
        let embeddings = rng.normals((m + 3) * DIM);
        let (of_items, of_queries) = embeddings.split_at(m * DIM);
        let check = |found: Result<Found>, least: usize| {
            let each = |q| asked.borrow().keys().filter(|(query, _)| *query == q).count();
            prop_assert!(asked.borrow().values().all(|&n| n == 1));
            match found {
                Ok(found) => {
                    prop_assert_eq!(found.calls, asked.borrow().len());
                    for (&q, list) in queries.iter().zip(&found.items) {
                        prop_assert_eq!(each(q), budget.min(m));
                        prop_assert_eq!(list.len(), k.min(budget).min(m));
                        for s in list {
                            prop_assert!(asked.borrow().contains_key(&(q, s.item)));
                        }
                    }
                }
                Err(Error::Budget { limit, asked: more, .. }) => {
                    prop_assert!(limit == budget && more > limit && budget < least);
                    prop_assert!(asked.borrow().is_empty());
                }
                Err(Error::Argument { what: "budget", .. }) => prop_assert!(budget <= rerank),
                Err(other) => prop_assert!(false, "{other}"),
            }
            asked.borrow_mut().clear();
            Ok(())
        };
        let cpu = Device::cpu();
        if count <= m {
            let index = CurIndex::fit(&cpu, &r, &CurOptions::new(uniform(count))).unwrap();
            check(index.search(&scorer, &queries, &ask(k, budget)), count)?;
        }
        let lists: Vec<Vec<usize>> =
            (0..3).map(|_| (0..rng.below(10)).map(|_| rng.below(m)).collect()).collect();
        let first = if given { First::Given(&lists) } else { First::Uniform { seed } };
        let search = AdaptiveSearch { k, budget, rounds, rerank, first, embeddings: None };
        let adacur = AdaptiveIndex::adacur(&cpu, &r, None, None).unwrap();
        check(adacur.search(&scorer, &queries, &search), 0)?;
        let axn = AdaptiveIndex::axn(&cpu, of_items, DIM, 0.1).unwrap();
        let search = AdaptiveSearch { embeddings: Some(of_queries), ..search };
        check(axn.search(&scorer, &queries, &search), 0)?;
    }

    /// The counter itself: batches of any size in any order.
    #[test]
    fn a_counter_refuses_what_exceeds_it(
        limit in 0usize..50,
        batches in proptest::collection::vec(0usize..20, 0..12),
    ) {
        let calls = Cell::new(0);
        let scorer = FnScorer::new(1, 1, |pairs: &[Pair]| {
            calls.set(calls.get() + pairs.len());
            Ok(vec![0.0; pairs.len()])
        });
        let budgeted = Budgeted::new(&scorer, limit);
        for n in batches {
            let before = budgeted.used();
            match budgeted.score(&vec![(0, 0); n]) {
                Ok(scores) => prop_assert!(scores.len() == n && before + n <= limit),
                Err(Error::Budget { limit: l, used, asked }) => {
                    prop_assert_eq!((l, used, asked), (limit, before, n));
                    prop_assert!(before + n > limit);
                    prop_assert_eq!(budgeted.used(), before);
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert!(calls.get() == budgeted.used() && calls.get() <= limit);
            prop_assert_eq!(budgeted.remaining(), limit - calls.get());
        }
    }
}

#[test]
fn an_interruption_loses_at_most_a_chunk() {
    const M: usize = 103;
    let all = scores(&mut Rng(4), 12, M, 3, 0.5);
    let want = matrix(&all, M, 2..9);
    let queries: Vec<usize> = (2..9).collect();
    let chunk = 7 * 10;
    for fails_at in [0, 1, 5, 10] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let (batches, calls) = (Cell::new(0), Cell::new(0));
        let scorer = FnScorer::new(12, M, |pairs: &[Pair]| {
            batches.set(batches.get() + 1);
            calls.set(calls.get() + pairs.len());
            assert!(pairs.len() <= chunk);
            if batches.get() == fails_at + 1 {
                return Err(Error::DeviceLost { device: "x".into(), reason: "gone".into() });
            }
            Ok(pairs.iter().map(|&(q, i)| all[q * M + i]).collect())
        });
        let seen = RefCell::new(Vec::new());
        let progress = |done, total| seen.borrow_mut().push((done, total));
        let options =
            Offline { chunk, checkpoints: Some(&folder), job: "test", progress: Some(&progress) };
        let error = ScoreMatrix::compute(&scorer, &queries, 0..M, &options).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }));
        let done = seen.borrow().last().copied();
        assert_eq!(done, Some((chunk * fails_at, 7 * M)));
        let lost = calls.get() - chunk * fails_at;
        assert!(lost <= chunk, "{lost}");
        calls.set(0);
        seen.borrow_mut().clear();
        let got = ScoreMatrix::compute(&scorer, &queries, 0..M, &options).unwrap();
        assert_eq!(got, want);
        assert_eq!(calls.get(), 7 * M - chunk * fails_at, "what was done stays done");
        assert_eq!(seen.borrow().first(), Some(&(chunk * fails_at, 7 * M)));
        assert_eq!(seen.borrow().last(), Some(&(7 * M, 7 * M)));
        calls.set(0);
        assert_eq!(ScoreMatrix::compute(&scorer, &queries, 0..M, &options).unwrap(), want);
        // Any part of what is there needs no call either.
        let part = ScoreMatrix::compute(&scorer, &queries, 37..61, &options).unwrap();
        assert_eq!(part.as_slice(), &want.as_slice()[37 * 7..61 * 7]);
        assert_eq!(calls.get(), 0);
    }
}

#[test]
fn damaged_checkpoints_are_computed_again() {
    const M: usize = 40;
    let all = scores(&mut Rng(5), 6, M, 3, 0.5);
    let want = matrix(&all, M, 0..6);
    let queries = [0, 1, 2, 3, 4, 5];
    let folder = tempfile::tempdir().unwrap();
    let asked = RefCell::new(HashMap::new());
    let scorer = counting(&all, M, &asked);
    let options = Offline { chunk: 6 * 8, checkpoints: Some(folder.path()), ..Default::default() };
    let compute = |items| {
        asked.borrow_mut().clear();
        let got = ScoreMatrix::compute(&scorer, &queries, items, &options).unwrap();
        (got, asked.borrow().len())
    };
    // A corpus that grows takes what is there.
    assert_eq!(compute(0..20).1, 6 * 20);
    let (got, calls) = compute(0..M);
    assert_eq!((&got, calls), (&want, 6 * 20));
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 6);
    let good: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    let mut rng = Rng(6);
    for (file, good) in files.iter().zip(&good) {
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut header = good.clone();
        header[12] ^= 4;
        let mut noise = good.clone();
        for _ in 0..30 {
            let at = rng.below(noise.len());
            noise[at] = rng.next() as u8;
        }
        for bad in
            [flipped, header, noise, good[..good.len() - 9].to_vec(), good[..5].to_vec(), vec![]]
        {
            std::fs::write(file, &bad).unwrap();
            let (got, calls) = compute(0..M);
            assert_eq!(got, want);
            assert!((6 * 4..=6 * 8).contains(&calls), "{calls}");
        }
    }
    // A chunk under another's name is not taken for it; foreign files are left alone.
    std::fs::copy(&files[0], &files[1]).unwrap();
    std::fs::write(folder.path().join("scores-x-y.safetensors"), "?").unwrap();
    std::fs::write(folder.path().join("scores-0000000007-0000000003.safetensors"), "?").unwrap();
    assert_eq!(compute(0..M).0, want);
    // A folder of another job is an error, and stays as it is.
    let job = Offline { job: "another model", ..options };
    for (queries, options) in [(&queries[..], job), (&queries[1..], options)] {
        let error = ScoreMatrix::compute(&scorer, queries, 0..M, &options).unwrap_err();
        assert!(matches!(&error, Error::Data { .. }), "{error}");
        assert!(error.to_string().contains("another job"), "{error}");
    }
    assert_eq!(compute(0..M).1, 0);
    // Where no folder can be.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let nowhere = Offline { checkpoints: Some(&file), ..Default::default() };
    let error = ScoreMatrix::compute(&scorer, &queries, 0..M, &nowhere).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn items_are_appended_without_fitting_again() {
    const M: usize = 150;
    const DIM: usize = 6;
    let mut rng = Rng(8);
    let all = scores(&mut rng, 40, M, 5, 0.2);
    let embeddings = rng.normals((40 + M) * DIM);
    let (queries, of_items) = embeddings.split_at(40 * DIM);
    let whole = matrix(&all, M, 0..30);
    let cut = |range: std::ops::Range<usize>| {
        ScoreMatrix::new(30, whole.as_slice()[range.start * 30..range.end * 30].to_vec()).unwrap()
    };
    let given: Vec<usize> = (0..20).map(|i| i * 5).collect();
    let scorer = MatrixScorer::new(40, M, &all).unwrap();
    for (name, device) in devices() {
        for form in FORMS {
            let options = CurOptions {
                regularisation: Regularisation::Tikhonov(0.01),
                form,
                ..CurOptions::new(Anchors::Given(&given))
            };
            let all_at_once = CurIndex::fit(device, &whole, &options).unwrap();
            let mut grown = CurIndex::fit(device, &cut(0..100), &options).unwrap();
            grown.append(&cut(100..101), None).unwrap();
            grown.append(&cut(101..101), None).unwrap();
            grown.append(&cut(101..M), None).unwrap();
            assert_eq!((grown.len(), grown.memory_bytes()), (M, all_at_once.memory_bytes()));
            let asked = [30, 35, 39];
            let search = |index: &CurIndex| index.search(&scorer, &asked, &ask(20, 45)).unwrap();
            assert_eq!(search(&grown), search(&all_at_once), "{name}");
            let error = grown.append(&matrix(&all, M, 0..29), None).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");

            let cheap =
                |n| Cheap { dim: DIM, queries: &queries[..30 * DIM], items: &of_items[..n * DIM] };
            let options = CurOptions { cheap: Some(cheap(100)), ..options };
            let mut grown = CurIndex::fit(device, &cut(0..100), &options).unwrap();
            let more = &of_items[100 * DIM..];
            for wrong in [None, Some(&more[1..]), Some(&of_items[..DIM])] {
                assert!(grown.append(&cut(100..M), wrong).is_err());
            }
            grown.append(&cut(100..M), Some(more)).unwrap();
            assert_eq!(grown.len(), M);
            // The fit itself saw fewer pairs; given its line, appended items are as if they had been there.
            let line = grown.affine().unwrap();
            let c: Vec<f32> = given.iter().map(|&a| all[33 * M + a]).collect();
            let own = &queries[33 * DIM..][..DIM];
            let d = |x: &[f32], i: usize| -> f64 {
                let y = &of_items[i * DIM..][..DIM];
                x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
            };
            // Scores in which the line is replaced by the one of 100 items leave the same residuals.
            let bent: Vec<f32> = (0..M * 30)
                .map(|at| {
                    let (i, q) = (at / 30, at % 30);
                    let d = d(&queries[q * DIM..][..DIM], i);
                    (f64::from(whole.as_slice()[at]) - line.alpha * d - line.beta) as f32
                })
                .collect();
            let bent = ScoreMatrix::new(30, bent).unwrap();
            let plain = CurOptions { cheap: None, ..options };
            let plain = CurIndex::fit(device, &bent, &plain).unwrap();
            let left: Vec<f32> = given
                .iter()
                .zip(&c)
                .map(|(&a, c)| (f64::from(*c) - line.alpha * d(own, a) - line.beta) as f32)
                .collect();
            let want: HashMap<usize, f64> = plain.retrieve(&left, None, M).unwrap()[0]
                .iter()
                .map(|s| {
                    let line = line.alpha * d(own, s.item) + line.beta;
                    (s.item, f64::from(s.score) + line)
                })
                .collect();
            let found = grown.retrieve(&c, Some(own), M).unwrap();
            assert_eq!(found[0].len(), M - 20);
            for s in &found[0] {
                let error = (f64::from(s.score) - want[&s.item]).abs();
                assert!(error < 1e-3, "{name} {form:?}: item {} is off by {error}", s.item);
            }
        }
    }
}

/// Scores that are mostly a cheap score: what CUR has left to explain is of low rank, and few anchors do.
#[test]
fn the_residual_of_a_cheap_score_needs_fewer_anchors() {
    const M: usize = 600;
    const DIM: usize = 24;
    const Q: usize = 90;
    let mut rng = Rng(9);
    let embeddings = rng.normals((Q + M) * DIM);
    let (queries, of_items) = embeddings.split_at(Q * DIM);
    let rest = scores(&mut rng, Q, M, 3, 0.05);
    let all: Vec<f32> = (0..Q * M)
        .map(|at| {
            let (q, i) = (at / M, at % M);
            let (x, y) = (&queries[q * DIM..][..DIM], &of_items[i * DIM..][..DIM]);
            let d: f32 = x.iter().zip(y).map(|(x, y)| x * y).sum();
            0.5 * d - 7.0 + rest[at]
        })
        .collect();
    let r = matrix(&all, M, 0..60);
    let asked: Vec<usize> = (60..Q).collect();
    let scorer = MatrixScorer::new(Q, M, &all).unwrap();
    let own = &queries[60 * DIM..];
    let mut dense: Vec<Vec<usize>> = Vec::new();
    for x in own.chunks(DIM) {
        let d: Vec<f32> =
            of_items.chunks(DIM).map(|y| x.iter().zip(y).map(|(x, y)| x * y).sum()).collect();
        dense.push(exact(&d, 40));
    }
    let by_dense = dense.iter().zip(&asked).map(|(list, &q)| {
        let want = exact(&all[q * M..][..M], 10);
        want.iter().filter(|i| list.contains(i)).count()
    });
    let by_dense = by_dense.sum::<usize>() as f64 / (10 * asked.len()) as f64;
    let cheap = Cheap { dim: DIM, queries: &queries[..60 * DIM], items: of_items };
    for (name, device) in main_devices() {
        let mut found = Vec::new();
        for form in FORMS {
            let options = CurOptions { form, cheap: Some(cheap), ..CurOptions::new(uniform(12)) };
            let index = CurIndex::fit(device, &r, &options).unwrap();
            let line = index.affine().unwrap();
            assert!((line.alpha - 0.5).abs() < 0.05 && (line.beta + 4.0).abs() < 0.3, "{line:?}");
            let search = CurSearch { k: 10, budget: 12 + 40, embeddings: Some(own) };
            found.push(index.search(&scorer, &asked, &search).unwrap());
        }
        assert_eq!(found[0], found[1], "{name}");
        let residual = recall(&found[0], &asked, &all, M, 10);
        let plain = CurIndex::fit(device, &r, &CurOptions::new(uniform(12))).unwrap();
        let plain = plain.search(&scorer, &asked, &ask(10, 52)).unwrap();
        let plain = recall(&plain, &asked, &all, M, 10);
        assert!(residual > 0.97, "{name}: {residual}");
        assert!(residual > plain + 0.2 && residual > by_dense + 0.1, "{plain} {by_dense}");
    }
}

#[test]
fn a_rounded_index_is_measured_first() {
    const M: usize = 300;
    let all = scores(&mut Rng(10), 60, M, 5, 0.2);
    let r = matrix(&all, M, 0..40);
    for (name, device) in main_devices() {
        for dtype in [DType::F16, DType::BF16] {
            let options = CurOptions { dtype, min_recall: 0.8, ..CurOptions::new(uniform(20)) };
            let index = CurIndex::fit(device, &r, &options).unwrap();
            let recall = index.rounded_recall().unwrap();
            assert!((0.8..=1.0).contains(&recall), "{name}: {recall}");
            assert_eq!(index.memory_bytes(), M * (20 * 2 + 4));
        }
        let strict =
            CurOptions { dtype: DType::BF16, min_recall: 1.0, ..CurOptions::new(uniform(20)) };
        let error = CurIndex::fit(device, &r, &strict).unwrap_err();
        assert!(matches!(error, Error::Argument { what: "dtype", .. }), "{error}");
        let plain = CurIndex::fit(device, &r, &CurOptions::new(uniform(20))).unwrap();
        assert_eq!(plain.rounded_recall(), None);
    }
}

#[test]
fn clusters_get_an_anchor_each() {
    let mut rng = Rng(11);
    let n = 120;
    let centres = rng.normals(6 * 10);
    let points: Vec<f32> = (0..n)
        .flat_map(|i| centres[i % 6 * 10..][..10].iter().map(|x| 10.0 * x).collect::<Vec<_>>())
        .map(|x| x + 0.01 * rng.normal())
        .collect();
    let mut first = None;
    for (name, device) in devices() {
        let mut hit = 0;
        // Every device is asked for the same; how good it is, one tells.
        for seed in 0..if device.is_cpu() { 8 } else { 1 } {
            let chosen = Anchors::KMeans { count: 6, seed }.choose(n, &points, device).unwrap();
            assert_eq!(chosen.len(), 6, "{name}");
            let clusters: std::collections::HashSet<usize> = chosen.iter().map(|i| i % 6).collect();
            hit += clusters.len();
            if seed == 0 {
                assert_eq!(*first.get_or_insert(chosen.clone()), chosen, "{name}");
            }
        }
        // Lloyd's algorithm may leave two clusters to one centroid; uniform choice would hit 3.99 of 6.
        assert!(!device.is_cpu() || hit >= 8 * 5 - 4, "{name}: {hit} of 48");
    }
    let cpu = Device::cpu();
    let all = Anchors::KMeans { count: n, seed: 1 }.choose(n, &points, &cpu).unwrap();
    assert_eq!(all, (0..n).collect::<Vec<_>>());
    let same = [3.5f32; 40];
    let chosen = Anchors::KMeans { count: 4, seed: 1 }.choose(10, &same, &cpu).unwrap();
    assert_eq!(chosen.len(), 4, "equal vectors");
    let chosen = |seed| Anchors::Uniform { count: 30, seed }.choose(1000, &[], &cpu).unwrap();
    assert_eq!(chosen(1), chosen(1));
    assert_ne!(chosen(1), chosen(2));
}

#[test]
fn rounds_find_the_best_of_a_matrix_of_low_rank() {
    const M: usize = 350;
    let all = scores(&mut Rng(12), 50, M, 4, 0.0);
    let r = matrix(&all, M, 0..30);
    let asked: Vec<usize> = (30..50).collect();
    let scorer = MatrixScorer::new(50, M, &all).unwrap();
    for (name, device) in devices() {
        let index = AdaptiveIndex::adacur(device, &r, Some(1e-5), None).unwrap();
        for (rounds, rerank) in [(2, 0), (5, 0), (3, 12), (1, 15)] {
            let search = AdaptiveSearch {
                k: 10,
                budget: 30,
                rounds,
                rerank,
                first: First::Uniform { seed: 3 },
                embeddings: None,
            };
            let found = index.search(&scorer, &asked, &search).unwrap();
            assert_eq!(found.calls, 30 * asked.len());
            let recall = recall(&found, &asked, &all, M, 10);
            assert!(recall > 0.99, "{name}: {recall} of {rounds} rounds and {rerank}");
        }
    }
}

/// Queries whose scores are linear in the items' embeddings, each along a direction that is not its own embedding.
#[test]
fn rounds_correct_a_dual_encoder() {
    const M: usize = 500;
    const DIM: usize = 16;
    let mut rng = Rng(13);
    let of_items = rng.normals(M * DIM);
    let own = rng.normals(20 * DIM);
    let all: Vec<f32> = own
        .chunks(DIM)
        .flat_map(|x| {
            let meant: Vec<f32> = x.iter().map(|x| 2.0 * x + 2.0 * rng.normal()).collect();
            let scores: Vec<f32> = of_items
                .chunks(DIM)
                .map(|y| meant.iter().zip(y).map(|(x, y)| x * y).sum::<f32>() - 11.0)
                .collect();
            scores
        })
        .collect();
    let asked: Vec<usize> = (0..20).collect();
    let scorer = MatrixScorer::new(20, M, &all).unwrap();
    for (name, device) in main_devices() {
        let index = AdaptiveIndex::axn(device, &of_items, DIM, 1e-3).unwrap();
        let dense: Vec<Vec<usize>> = own
            .chunks(DIM)
            .map(|x| {
                let d: Vec<f32> = of_items
                    .chunks(DIM)
                    .map(|y| x.iter().zip(y).map(|(x, y)| x * y).sum())
                    .collect();
                exact(&d, 50)
            })
            .collect();
        let search = AdaptiveSearch {
            k: 10,
            budget: 50,
            rounds: 5,
            rerank: 0,
            first: First::Given(&dense),
            embeddings: Some(&own),
        };
        let recalled = |search: &AdaptiveSearch<'_>| {
            recall(&index.search(&scorer, &asked, search).unwrap(), &asked, &all, M, 10)
        };
        let (adaptive, dual) =
            (recalled(&search), recalled(&AdaptiveSearch { rounds: 1, ..search }));
        assert!(adaptive > 0.99 && dual < 0.8, "{name}: {adaptive} after {dual}");
    }
}

/// As many rounds as a number can say end with the budget, or where nothing more is found.
#[test]
fn rounds_end_with_what_they_can_find() {
    const M: usize = 40;
    let mut rng = Rng(4);
    let all = scores(&mut rng, 12, M, 3, 0.0);
    let r = matrix(&all, M, 0..8);
    let index = AdaptiveIndex::adacur(&Device::cpu(), &r, Some(1e-5), None).unwrap();
    let scorer = MatrixScorer::new(12, M, &all).unwrap();
    let search = |rounds, budget, rerank, first| {
        let search = AdaptiveSearch { k: 5, budget, rounds, rerank, first, embeddings: None };
        let found = index.search(&scorer, &[8, 9, 10, 11], &search).unwrap();
        let items = found.items.iter().map(|list| list.iter().map(|s| s.item).collect());
        (found.calls, items.collect::<Vec<Vec<usize>>>())
    };
    let first = First::Uniform { seed: 3 };
    for (budget, rerank) in [(9, 0), (9, 4), (usize::MAX, 0), (usize::MAX, usize::MAX - 1)] {
        let each = search(M, budget, rerank, first);
        assert_eq!(each.0, 4 * budget.min(M));
        for rounds in [M + 1, usize::MAX - 1, usize::MAX] {
            assert_eq!(search(rounds, budget, rerank, first), each, "{rounds} rounds of {budget}");
        }
    }
    let nothing = vec![Vec::new(); 4];
    assert_eq!(search(usize::MAX, 6, 2, First::Given(&nothing)).0, 4 * 6);
}

/// What a cheap score leaves is explained by the anchor queries, round by round; items may come later.
#[test]
fn rounds_correct_a_cheap_score_by_anchor_queries() {
    const M: usize = 300;
    const DIM: usize = 8;
    const Q: usize = 60;
    let mut rng = Rng(15);
    let embeddings = rng.normals((Q + M) * DIM);
    let (own, of_items) = embeddings.split_at(Q * DIM);
    let rest = scores(&mut rng, Q, M, 3, 0.0);
    let all: Vec<f32> = (0..Q * M)
        .map(|at| {
            let (x, y) = (&own[at / M * DIM..][..DIM], &of_items[at % M * DIM..][..DIM]);
            1.5 * x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>() + 2.0 * rest[at]
        })
        .collect();
    let r = matrix(&all, M, 0..40);
    let asked: Vec<usize> = (40..Q).collect();
    let scorer = MatrixScorer::new(Q, M, &all).unwrap();
    let cut = |range: std::ops::Range<usize>| {
        ScoreMatrix::new(40, r.as_slice()[range.start * 40..range.end * 40].to_vec()).unwrap()
    };
    let queries = &own[..40 * DIM];
    let search = AdaptiveSearch {
        k: 10,
        budget: 40,
        rounds: 4,
        rerank: 0,
        first: First::Uniform { seed: 1 },
        embeddings: Some(&own[40 * DIM..]),
    };
    for (name, device) in main_devices() {
        let cheap = |n| Some(Cheap { dim: DIM, queries, items: &of_items[..n * DIM] });
        let whole = AdaptiveIndex::adacur(device, &r, None, cheap(M)).unwrap();
        let found = whole.search(&scorer, &asked, &search).unwrap();
        let with = recall(&found, &asked, &all, M, 10);
        let plain = AdaptiveIndex::adacur(device, &r, None, None).unwrap();
        let without = AdaptiveSearch { embeddings: None, ..search };
        let found = plain.search(&scorer, &asked, &without).unwrap();
        let without = recall(&found, &asked, &all, M, 10);
        assert!(with > 0.98, "{name}: {with}, without {without}");
        assert_eq!(whole.memory_bytes(), M * (4 * (DIM + 40) + 4));

        let mut grown =
            AdaptiveIndex::adacur(device, &cut(0..250), Some(0.01), cheap(250)).unwrap();
        assert!(grown.append(&cut(250..M), None).is_err());
        assert!(grown.append_embeddings(&of_items[250 * DIM..]).is_err());
        grown.append(&cut(250..M), Some(&of_items[250 * DIM..])).unwrap();
        let found = grown.search(&scorer, &asked, &search).unwrap();
        assert!(recall(&found, &asked, &all, M, 10) > 0.98, "{name}");
        let mut axn = AdaptiveIndex::axn(device, &of_items[..250 * DIM], DIM, 0.3).unwrap();
        assert!(axn.append(&cut(250..M), None).is_err());
        assert!(axn.append_embeddings(&[f32::NAN; DIM]).is_err());
        axn.append_embeddings(&of_items[250 * DIM..]).unwrap();
        let at_once = AdaptiveIndex::axn(device, of_items, DIM, axn.ridge()).unwrap();
        assert_eq!((axn.len(), axn.memory_bytes()), (M, at_once.memory_bytes()));
        axn.search(&scorer, &asked, &search).unwrap();
    }
}

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
