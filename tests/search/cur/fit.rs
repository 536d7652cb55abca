//! How well a fit explains scores.

use faer::Mat;
use nearkin::Device;
use nearkin::search::cur::*;

use super::{FORMS, ask, exact, items, matrix, recall, scores, uniform};
use crate::common::{Rng, devices};

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
