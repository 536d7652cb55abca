use nearkin::ops::sparse::{Csr, Impact, SparseCorpus, topk, topk_on_device};
use nearkin::ops::topk::{Bitmap, Filter, Hits, Rows, Search};
use nearkin::{DType, Device, Error, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, devices, main_devices};
use crate::oracle::sparse as oracle;

const IMPACTS: [Impact; 3] = [Impact::F32, Impact::F16, Impact::U8 { scale: 0.5 }];

/// Sparse vectors on the host.
#[derive(Clone, Debug)]
struct Vectors {
    offsets: Vec<i64>,
    terms: Vec<u32>,
    weights: Vec<f32>,
}

impl Vectors {
    fn of(rows: &[Vec<(u32, f32)>]) -> Vectors {
        let mut all = Vectors { offsets: vec![0], terms: Vec::new(), weights: Vec::new() };
        for row in rows {
            all.terms.extend(row.iter().map(|e| e.0));
            all.weights.extend(row.iter().map(|e| e.1));
            all.offsets.push(all.terms.len() as i64);
        }
        all
    }

    fn csr(&self) -> Csr<'_> {
        Csr { offsets: &self.offsets, terms: &self.terms, weights: &self.weights }
    }
}

/// Rows of up to `most` terms below `dim`, the low ones often, with weights in quarters: sums are exact.
fn rows(rng: &mut Rng, n: usize, dim: usize, most: usize) -> Vec<Vec<(u32, f32)>> {
    (0..n)
        .map(|_| {
            let mut terms: Vec<u32> = (0..rng.below(most + 1))
                .map(|_| (rng.unit().powi(3) * dim as f32) as u32 % dim as u32)
                .collect();
            terms.sort_unstable();
            terms.dedup();
            terms.into_iter().map(|t| (t, rng.below(16) as f32 / 4.0 + 0.5)).collect()
        })
        .collect()
}

/// As they are stored.
fn stored(rows: &[Vec<(u32, f32)>], impact: Impact) -> Vec<Vec<(u32, f64)>> {
    let weight = |w: f32| match impact {
        Impact::U8 { scale } => f64::from((w / scale).round_ties_even() * scale),
        _ => w.into(),
    };
    rows.iter().map(|row| row.iter().map(|&(t, w)| (t, weight(w))).collect()).collect()
}

fn corpus(
    device: &Device,
    dim: usize,
    impact: Impact,
    rows: &[Vec<(u32, f32)>],
    cuts: &[usize],
) -> SparseCorpus {
    let mut corpus = SparseCorpus::new(device, dim, impact).unwrap();
    let mut start = 0;
    for &end in cuts.iter().chain([&rows.len()]) {
        corpus.append(Vectors::of(&rows[start..end]).csr()).unwrap();
        start = end;
    }
    corpus
}

fn assert_found(what: &str, hits: &Hits, q: usize, want: &[(usize, f64)]) {
    let (rows, scores) = hits.get(q);
    let expected: Vec<u64> = want.iter().map(|w| w.0 as u64).collect();
    assert_eq!(rows, expected, "{what}: query {q}");
    let expected: Vec<f32> = want.iter().map(|w| w.1 as f32).collect();
    assert_eq!(scores, expected, "{what}: query {q}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        n in prop_oneof![0usize..40, Just(513), Just(2100), Just(4099)],
        dim in prop_oneof![1usize..30, Just(1000)],
        queries in 0usize..6,
        k in prop_oneof![Just(1usize), 1usize..40, Just(100), Just(300)],
        impact in 0usize..3,
        chunks in 1usize..4,
        seed: u64,
    ) {
        let mut rng = Rng(seed);
        let documents = rows(&mut rng, n, dim, 12);
        let asked = rows(&mut rng, queries, dim, 20);
        let mut cuts: Vec<usize> = (1..chunks).map(|_| rng.below(n + 1)).collect();
        cuts.sort_unstable();
        let impact = IMPACTS[impact];
        let kept = stored(&documents, impact);
        let wide = |row: &[(u32, f32)]| row.iter().map(|&(t, w)| (t, f64::from(w))).collect::<Vec<_>>();
        for (name, device) in devices() {
            let corpus = corpus(device, dim, impact, &documents, &cuts);
            prop_assert_eq!(corpus.len(), n);
            let hits = topk(Vectors::of(&asked).csr(), &corpus, &Search::new(k)).unwrap();
            for (q, query) in asked.iter().enumerate() {
                let mut want = oracle::ranked(&wide(query), &kept);
                want.truncate(k);
                assert_found(&format!("{n} x {dim}, k {k}, {impact:?} on {name}"), &hits, q, &want);
            }
        }
    }
}

/// All documents above a score, a bias, filters of all kinds.
#[test]
fn searches_take_what_all_searches_take() {
    for (name, device) in devices() {
        let mut rng = Rng(21);
        let (n, dim) = (5000, 50);
        let documents = rows(&mut rng, n, dim, 10);
        let asked = rows(&mut rng, 3, dim, 12);
        let queries = Vectors::of(&asked);
        let corpus = corpus(device, dim, Impact::F32, &documents, &[4200]);
        let wide =
            |row: &[(u32, f32)]| row.iter().map(|&(t, w)| (t, f64::from(w))).collect::<Vec<_>>();
        let kept = stored(&documents, Impact::F32);
        let of: Vec<Vec<(usize, f64)>> =
            asked.iter().map(|q| oracle::ranked(&wide(q), &kept)).collect();
        // A radius.
        let least = of[0][300].1.max(0.25) as f32;
        let hits = topk(queries.csr(), &corpus, &Search::within(least)).unwrap();
        for (q, all) in of.iter().enumerate() {
            let want: Vec<_> = all.iter().copied().filter(|w| w.1 >= f64::from(least)).collect();
            assert_found(&format!("radius on {name}"), &hits, q, &want);
        }
        // Shared and own filters, with few and with many.
        let open = |q: usize, row: usize| row % 7 != q && !(1000..3500).contains(&row);
        let shared = Bitmap::from_fn(n, |row| open(9, row));
        let own: Vec<Bitmap> = (0..3).map(|q| Bitmap::from_fn(n, |row| open(q, row))).collect();
        let sets: Vec<Rows<'_>> = own.iter().map(Rows::Allow).collect();
        for k in [7, 400] {
            for (filter, own) in
                [(Filter::Shared(Rows::Allow(&shared)), false), (Filter::PerQuery(&sets), true)]
            {
                let hits =
                    topk(queries.csr(), &corpus, &Search { filter, ..Search::new(k) }).unwrap();
                for (q, all) in of.iter().enumerate() {
                    let is_open = |w: &&(usize, f64)| open(if own { q } else { 9 }, w.0);
                    let want: Vec<_> = all.iter().filter(is_open).take(k).copied().collect();
                    assert_found(&format!("k {k}, filter {own} on {name}"), &hits, q, &want);
                }
            }
            let bias: Vec<f32> = (0..n).map(|row| (row % 13) as f32 / 4.0 - 1.0).collect();
            let tensor = Tensor::from_slice(device, &[n], &bias).unwrap();
            let search = Search { bias: Some(&tensor), ..Search::new(k) };
            let hits = topk_on_device(queries.csr(), &corpus, &search).unwrap().to_hits().unwrap();
            for (q, all) in of.iter().enumerate() {
                let mut want: Vec<_> =
                    all.iter().map(|w| (w.0, w.1 + f64::from(bias[w.0]))).collect();
                want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                want.truncate(k);
                assert_found(&format!("k {k}, bias on {name}"), &hits, q, &want);
            }
        }
    }
}

/// More terms than a block takes at a time, and runs longer than it has threads.
#[test]
fn long_queries_and_long_runs_are_added_whole() {
    for (name, device) in devices() {
        let mut rng = Rng(5);
        let (n, dim) = (4500, 700);
        // Term 0 is everywhere, the others are rare.
        let documents: Vec<Vec<(u32, f32)>> = (0..n)
            .map(|_| vec![(0, rng.below(8) as f32), (1 + rng.below(dim - 1) as u32, 2.0)])
            .collect();
        let query: Vec<(u32, f32)> = (0..dim as u32).map(|t| (t, (t % 5) as f32 + 1.0)).collect();
        let corpus = corpus(device, dim, Impact::U8 { scale: 1.0 }, &documents, &[]);
        let wide =
            |row: &[(u32, f32)]| row.iter().map(|&(t, w)| (t, f64::from(w))).collect::<Vec<_>>();
        let mut want = oracle::ranked(&wide(&query), &stored(&documents, Impact::F32));
        want.truncate(20);
        let hits = topk(Vectors::of(&[query]).csr(), &corpus, &Search::new(20)).unwrap();
        assert_found(name, &hits, 0, &want);
    }
}

#[test]
fn a_query_has_the_same_bits_in_any_batch_and_any_chunks() {
    let mut all: Vec<(&str, Vec<Vec<u32>>)> = Vec::new();
    for (name, device) in devices() {
        let mut rng = Rng(8);
        let (n, dim) = (3000, 300);
        let draw = |n: usize, rng: &mut Rng| -> Vec<Vec<(u32, f32)>> {
            let rows = rows(rng, n, dim, 40);
            rows.into_iter()
                .map(|row| row.into_iter().map(|(t, _)| (t, rng.normal())).collect())
                .collect()
        };
        let (documents, asked) = (draw(n, &mut rng), draw(9, &mut rng));
        let one = corpus(device, dim, Impact::F16, &documents, &[]);
        let many = corpus(device, dim, Impact::F16, &documents, &[7, 2600, 2900]);
        let run =
            |corpus: &SparseCorpus, queries: &[Vec<(u32, f32)>]| -> Vec<(Vec<u64>, Vec<u32>)> {
                let hits = topk(Vectors::of(queries).csr(), corpus, &Search::new(30)).unwrap();
                let bits = |scores: &[f32]| scores.iter().map(|s| s.to_bits()).collect();
                hits.iter().map(|(rows, scores)| (rows.to_vec(), bits(scores))).collect()
            };
        let whole = run(&one, &asked);
        assert_eq!(whole, run(&many, &asked), "{name}: chunks");
        for (q, query) in asked.iter().enumerate() {
            assert_eq!(run(&one, std::slice::from_ref(query))[0], whole[q], "{name}: query {q}");
        }
        all.push((name, whole.into_iter().map(|(_, bits)| bits).collect()));
    }
    // One chain of fused multiply-adds everywhere: CUDA's bits are the CPU's.
    for (name, bits) in &all {
        if ["cpu", "cuda"].contains(name) {
            assert_eq!(bits, &all[0].1, "{name}");
        }
    }
}

#[test]
fn corpora_grow_and_shrink() {
    for (name, device) in devices() {
        for impact in IMPACTS {
            let mut rng = Rng(3);
            let (n, dim) = (5300, 40);
            let documents = rows(&mut rng, n, dim, 8);
            // One by one, then many.
            let cuts: Vec<usize> = (1..30).chain([4500, 4501]).collect();
            let mut corpus = corpus(device, dim, impact, &documents, &cuts);
            let keep = |row: usize| !row.is_multiple_of(3) && row != 4501;
            let mut kept = Vec::new();
            let check = |corpus: &SparseCorpus, want: &[Vec<(u32, f64)>]| {
                let mut seen: Vec<Vec<(u32, f64)>> = Vec::new();
                corpus
                    .for_each(|terms, weights| {
                        seen.push(
                            terms
                                .iter()
                                .copied()
                                .zip(weights.iter().map(|&w| f64::from(w)))
                                .collect(),
                        );
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(seen, want, "{name}");
                assert_eq!(corpus.len(), want.len(), "{name}");
            };
            let all = stored(&documents, impact);
            check(&corpus, &all);
            let before = corpus.clone();
            corpus.retain(keep).unwrap();
            kept.extend((0..n).filter(|&row| keep(row)).map(|row| all[row].clone()));
            check(&corpus, &kept);
            check(&before, &all);
            corpus.append(Vectors::of(&documents[..2]).csr()).unwrap();
            kept.extend_from_slice(&all[..2]);
            check(&corpus, &kept);
            corpus.retain(|_| false).unwrap();
            check(&corpus, &[]);
            let hits = topk(Vectors::of(&documents[..1]).csr(), &corpus, &Search::new(3)).unwrap();
            assert!(hits.get(0).0.is_empty(), "{name}");
        }
    }
}

#[test]
fn what_is_not_finite_is_refused_or_finds_nothing() {
    for (name, device) in main_devices() {
        let mut corpus = SparseCorpus::new(device, 10, Impact::F32).unwrap();
        corpus.append(Csr { offsets: &[0, 1, 2], terms: &[1, 2], weights: &[1.0, -1.0] }).unwrap();
        let query = |weights: &[f32]| {
            let offsets = [0, weights.len() as i64];
            let terms: Vec<u32> = (1..=weights.len() as u32).collect();
            let queries = Csr { offsets: &offsets, terms: &terms, weights };
            let hits = topk(queries, &corpus, &Search::new(5)).unwrap();
            (hits.get(0).0.to_vec(), hits.get(0).1.to_vec())
        };
        assert_eq!(query(&[f32::NAN]), (vec![], vec![]), "{name}");
        assert_eq!(query(&[1.0, f32::NAN]), (vec![], vec![]), "{name}");
        let inf = f32::INFINITY;
        assert_eq!(query(&[inf, inf]), (vec![0, 1], vec![inf, -inf]), "{name}");
        // Without a common term the score is 0.
        assert_eq!(query(&[0.0, 2.0]), (vec![0, 1], vec![0.0, -2.0]), "{name}");
        assert_eq!(query(&[]), (vec![0, 1], vec![0.0, 0.0]), "{name}");
    }
}

#[test]
fn wrong_inputs_are_typed_errors_and_change_nothing() {
    for (name, device) in main_devices() {
        let is_argument = |got: Result<(), Error>| matches!(got, Err(Error::Argument { .. }));
        let is_shape = |got: Result<(), Error>| matches!(got, Err(Error::Shape { .. }));
        for impact in IMPACTS {
            let mut corpus = SparseCorpus::new(device, 10, impact).unwrap();
            let mut add = |offsets: &[i64], terms: &[u32], weights: &[f32]| {
                corpus.append(Csr { offsets, terms, weights })
            };
            add(&[0, 1], &[3], &[1.0]).unwrap();
            assert!(is_shape(add(&[0, 1], &[3], &[])), "{name}");
            assert!(is_shape(add(&[], &[], &[])), "{name}");
            assert!(is_shape(add(&[1, 1], &[3], &[1.0])), "{name}");
            assert!(is_shape(add(&[0, 2, 1], &[3], &[1.0])), "{name}");
            assert!(is_shape(add(&[0, -1, 1], &[3], &[1.0])), "{name}");
            assert!(is_argument(add(&[0, 2], &[3, 3], &[1.0; 2])), "{name}");
            assert!(is_argument(add(&[0, 2], &[4, 3], &[1.0; 2])), "{name}");
            assert!(is_argument(add(&[0, 1], &[10], &[1.0])), "{name}");
            for wrong in [f32::NAN, f32::INFINITY] {
                assert!(is_argument(add(&[0, 1], &[3], &[wrong])), "{name}");
            }
            let beyond = match impact {
                Impact::F32 => f32::NEG_INFINITY,
                Impact::F16 => 65_520.0,
                Impact::U8 { .. } => 127.75,
            };
            assert!(is_argument(add(&[0, 1], &[3], &[beyond])), "{name}: {impact:?}");
            assert_eq!(corpus.len(), 1, "{name}");
            let queries = Csr { offsets: &[0, 1], terms: &[10], weights: &[1.0] };
            assert!(matches!(topk(queries, &corpus, &Search::new(1)), Err(Error::Argument { .. })));
            let queries = Csr { offsets: &[0, 1], terms: &[1], weights: &[1.0] };
            assert!(matches!(topk(queries, &corpus, &Search::new(0)), Err(Error::Argument { .. })));
            let bias = Tensor::zeros(device, DType::F32, &[2]).unwrap();
            let search = Search { bias: Some(&bias), ..Search::new(1) };
            assert!(matches!(topk(queries, &corpus, &search), Err(Error::Shape { .. })), "{name}");
        }
        for (dim, impact) in [
            (0, Impact::F32),
            (1 << 25, Impact::F32),
            (5, Impact::U8 { scale: 0.0 }),
            (5, Impact::U8 { scale: f32::NAN }),
        ] {
            let got = SparseCorpus::new(device, dim, impact);
            assert!(matches!(got, Err(Error::Argument { .. })), "{name}: {dim}, {impact:?}");
        }
    }
}
