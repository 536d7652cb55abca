//! What an index does after its fit.

use std::collections::HashMap;

use nearkin::search::cur::*;
use nearkin::{DType, Error};

use super::{FORMS, ask, exact, matrix, recall, scores, uniform};
use crate::common::{Rng, devices, main_devices};

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
