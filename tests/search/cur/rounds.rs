//! Searches in rounds: ADACUR and AXN.

use nearkin::Device;
use nearkin::search::cur::*;

use super::{exact, matrix, recall, scores};
use crate::common::{Rng, devices, main_devices};

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
