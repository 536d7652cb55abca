//! What a search may ask.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use nearkin::search::cur::*;
use nearkin::{Device, Error, Result};
use proptest::prelude::*;

use super::{ask, counting, matrix, scores, uniform};
use crate::common::Rng;

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
