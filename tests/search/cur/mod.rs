//! CUR: approximated cross-encoder scores. Numbers, budgets, checkpoints, hostile input, every device.

mod anchors;
mod budgets;
mod checkpoints;
mod fit;
mod index;
mod methods;
mod rounds;

use std::cell::RefCell;
use std::collections::HashMap;

use nearkin::search::cur::*;

use crate::common::Rng;

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
