use nearkin::ops::topk::{Bitmap, Corpus, Filter, Hits, Metric, Rows, Search, Storage, topk};
use nearkin::{DType, Device, DeviceOptions, Error, MatmulPrecision, Tensor};
use proptest::prelude::*;

use crate::common::{
    FLOATS, Rng, assert_same_hits, devices, main_devices, normals, required, tensor,
};
use crate::oracle::topk as oracle;

const METRICS: [(Metric, oracle::Metric); 3] = [
    (Metric::Dot, oracle::Metric::Dot),
    (Metric::Cosine, oracle::Metric::Cosine),
    (Metric::L2, oracle::Metric::L2),
];

/// Checks one query's hits against the oracle's ranking of all that may be found. Reported scores must be right within
/// the rounding of a sum, in order, and no row left out may be better than the last one found by more than that.
#[track_caller]
pub fn check(what: &str, hits: (&[u64], &[f32]), k: usize, ranked: &[(u64, f64, f64)], dim: usize) {
    let (ids, scores) = hits;
    assert_eq!(ids.len(), k.min(ranked.len()), "{what}: number of hits");
    assert_eq!(ids.len(), scores.len(), "{what}");
    let tolerance = |magnitude: f64| {
        (4.0 + (dim as f64).sqrt()) * 2.0 * f32::EPSILON as f64 * magnitude + 1e-30
    };
    let by_row: std::collections::HashMap<u64, (f64, f64)> =
        ranked.iter().map(|r| (r.0, (r.1, r.2))).collect();
    for i in 0..ids.len() {
        let (want, magnitude) = *by_row
            .get(&ids[i])
            .unwrap_or_else(|| panic!("{what}: row {} is not to be found", ids[i]));
        let error = (scores[i] as f64 - want).abs();
        assert!(
            error <= tolerance(magnitude) || scores[i] as f64 == want,
            "{what}: row {} scores {}, expected {want}, magnitude {magnitude}",
            ids[i],
            scores[i]
        );
        let ordered = i == 0
            || scores[i - 1] > scores[i]
            || (scores[i - 1] == scores[i] && ids[i - 1] < ids[i]);
        assert!(ordered, "{what}: hits {} and {i}: {ids:?} {scores:?}", i.wrapping_sub(1));
    }
    if let Some(&last) = scores.last() {
        let found: std::collections::HashSet<u64> = ids.iter().copied().collect();
        for (row, score, magnitude) in ranked.iter().filter(|r| !found.contains(&r.0)) {
            let beyond = *score <= last as f64 + tolerance(*magnitude) * 2.0;
            assert!(beyond, "{what}: row {row} with {score} is missing; the last found has {last}");
        }
    }
}

fn corpus(device: &Device, dtype: DType, dim: usize, parts: &[&[f32]]) -> Corpus {
    let mut corpus = Corpus::new(device, dtype, dim).unwrap();
    parts.iter().for_each(|p| corpus.append(p).unwrap());
    corpus
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        n in prop_oneof![0usize..140, Just(1025)],
        dim in prop_oneof![1usize..70, Just(64), Just(384), Just(513)],
        count in prop_oneof![0usize..7, 30usize..70],
        k in prop_oneof![1usize..12, Just(64), Just(100), Just(300), Just(2000)],
        dtype in 0usize..3,
        metric in 0usize..3,
        with_bias: bool,
        exclude in 0usize..3,
        seed: u64,
    ) {
        let (metric, want) = METRICS[metric];
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let (rows, xs) = normals(device, FLOATS[dtype], &[n, dim], &mut rng);
            let (queries, qs) = normals(device, FLOATS[(dtype + n) % 3], &[count, dim], &mut rng);
            let bias = rng.normals(n);
            let maps: Vec<Bitmap> = (0..count.max(1))
                .map(|q| Bitmap::from_fn(n, |i| (i / 70 + q).is_multiple_of(2) || rng.unit() < 0.3))
                .collect();
            let on_device = Tensor::from_slice(device, &[n], &bias).unwrap();
            let sets: Vec<Rows<'_>> = maps.iter().map(Rows::Exclude).collect();
            let search = Search {
                bias: with_bias.then_some(&on_device),
                filter: match exclude {
                    0 => Filter::All,
                    1 => Filter::Shared(sets[0]),
                    _ => Filter::PerQuery(&sets[..count]),
                },
                ..Search::new(k)
            };
            let corpus = Corpus::from_tensor(&rows).unwrap();
            let hits = topk(&queries, &corpus, metric, &search).unwrap();
            prop_assert_eq!(hits.len(), count);
            for (q, query) in qs.chunks(dim).enumerate() {
                let excluded = |i| match exclude {
                    0 => false,
                    1 => maps[0].contains(i),
                    _ => maps[q].contains(i),
                };
                let ranked = oracle::rank(want, query, &xs, with_bias.then_some(&bias[..]), excluded);
                check(&format!("{metric:?} on {name}, query {q}"), hits.get(q), k, &ranked, dim);
            }
        }
    }

    /// Small integers, whose scores are exact in f32: the order must be the oracle's, ties and all.
    #[test]
    fn ties_go_to_the_lower_row(
        n in 1usize..700,
        dim in prop_oneof![Just(1usize), Just(4), Just(7), Just(40)],
        count in 1usize..40,
        k in prop_oneof![1usize..40, Just(130), Just(257), Just(600)],
        l2: bool,
        dtype in 0usize..3,
        seed: u64,
    ) {
        let (metric, want) = METRICS[if l2 { 2 } else { 0 }];
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let mut integers = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.below(3) as f32 - 1.0).collect() };
            let (rows, xs) = tensor(device, FLOATS[dtype], &[n, dim], &integers(n * dim));
            let (queries, qs) = tensor(device, DType::F32, &[count, dim], &integers(count * dim));
            let hits = topk(&queries, &Corpus::from_tensor(&rows).unwrap(), metric, &Search::new(k)).unwrap();
            for (q, query) in qs.chunks(dim).enumerate() {
                let ranked = oracle::rank(want, query, &xs, None, |_| false);
                let ids: Vec<u64> = ranked.iter().take(k).map(|r| r.0).collect();
                let scores: Vec<f32> = ranked.iter().take(k).map(|r| r.1 as f32).collect();
                prop_assert_eq!(hits.get(q), (&ids[..], &scores[..]), "{} query {}", name, q);
            }
        }
    }
}

#[test]
fn a_large_k_of_many_rows() {
    for (name, device) in main_devices() {
        let mut rng = Rng(5);
        let n = if device.is_cpu() { 100_000 } else { 30_000 };
        let (rows, xs) = normals(device, DType::F32, &[n, 8], &mut rng);
        let (queries, qs) = normals(device, DType::F32, &[3, 8], &mut rng);
        let corpus = Corpus::from_tensor(&rows).unwrap();
        for k in [5000, n, n + 1] {
            let hits = topk(&queries, &corpus, Metric::Dot, &Search::new(k)).unwrap();
            for (q, query) in qs.chunks(8).enumerate() {
                let ranked = oracle::rank(oracle::Metric::Dot, query, &xs, None, |_| false);
                check(&format!("{name} k {k}"), hits.get(q), k, &ranked, 8);
            }
        }
    }
}

/// Hits of the same query in different company and of differently chunked corpora, bit for bit.
#[test]
fn neither_batch_nor_chunks_nor_k_change_a_bit() {
    for (name, device) in devices() {
        let stored = [(77, DType::F32), (128, DType::F16), (64, DType::BF16)];
        for ((dim, dtype), (metric, _)) in stored.into_iter().zip(METRICS) {
            let mut rng = Rng(11);
            let n = 1601;
            let rows = rng.normals(n * dim);
            let queries = rng.normals(70 * dim);
            let bias = Tensor::from_slice(device, &[n], &rng.normals(n)).unwrap();
            let whole = corpus(device, dtype, dim, &[&rows]);
            let mut parts = Vec::new();
            let mut rest = &rows[..];
            for n in [701, 500, 200, 131, 64] {
                let (part, more) = rest.split_at(n * dim);
                parts.push(part);
                rest = more;
            }
            parts.push(rest);
            let chunked = corpus(device, dtype, dim, &parts);
            assert!(chunked.chunks().len() > 1);
            let hits = |corpus: &Corpus, queries: &[f32], k: usize| -> Hits {
                let shape = [queries.len() / dim, dim];
                let queries = Tensor::from_slice(device, &shape, queries).unwrap();
                let search = Search { bias: Some(&bias), ..Search::new(k) };
                topk(&queries, corpus, metric, &search).unwrap()
            };
            let all = hits(&whole, &queries, 20);
            let parts = hits(&chunked, &queries, 20);
            let longer = hits(&chunked, &queries, 300);
            let what = |how: &str, q: usize| format!("{name} {metric:?}: query {q} {how}");
            for q in 0..70 {
                assert_same_hits(&what("of a corpus in chunks", q), parts.get(q), all.get(q));
            }
            for q in [0, 1, 31, 32, 69] {
                let one = hits(&whole, &queries[q * dim..][..dim], 20);
                assert_same_hits(&what("alone", q), one.get(0), all.get(q));
                let few = hits(&chunked, &queries[q / 2 * dim..][..(q - q / 2 + 1) * dim], 20);
                assert_same_hits(&what("of few", q), few.get(q - q / 2), all.get(q));
                let (ids, scores) = longer.get(q);
                assert_same_hits(&what("of more", q), (&ids[..20], &scores[..20]), all.get(q));
            }
        }
    }
}

#[test]
fn a_corpus_larger_than_a_binding() {
    for (name, device) in devices() {
        let mut rng = Rng(2);
        // 1.5 MiB.
        let (rows, xs) = normals(device, DType::F32, &[6144, 64], &mut rng);
        let (queries, qs) = normals(device, DType::F32, &[5, 64], &mut rng);
        let corpus = Corpus::from_tensor(&rows).unwrap();
        for k in [10, 400] {
            let hits = topk(&queries, &corpus, Metric::Cosine, &Search::new(k)).unwrap();
            for (q, query) in qs.chunks(64).enumerate() {
                let ranked = oracle::rank(oracle::Metric::Cosine, query, &xs, None, |_| false);
                check(name, hits.get(q), k, &ranked, 64);
            }
        }
    }
}

#[test]
fn nan_never_enters_and_infinities_are_ordinary() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (name, device) in devices() {
        for k in [3, 4, 5, 6, 300] {
            let rows = [-inf, 0.0, nan, 0.0, 1.0, 0.0, inf, 0.0, 2.0, 0.0, nan, nan, 1.0, 0.0];
            let corpus = corpus(device, DType::F32, 2, &[&rows]);
            let (queries, _) = tensor(device, DType::F32, &[3, 2], &[1.0, 1.0, nan, 1.0, 0.0, nan]);
            let hits = topk(&queries, &corpus, Metric::Dot, &Search::new(k)).unwrap();
            let ids = [3, 4, 2, 6, 0];
            let scores = [inf, 2.0, 1.0, 1.0, -inf];
            let n = k.min(5);
            assert_eq!(hits.get(0), (&ids[..n], &scores[..n]), "{name}");
            for metric in [Metric::Dot, Metric::Cosine, Metric::L2] {
                let hits = topk(&queries, &corpus, metric, &Search::new(k)).unwrap();
                assert!(hits.get(1).0.is_empty() && hits.get(2).0.is_empty(), "{name} {metric:?}");
            }
            // A bias may take part: NaN keeps a row out, infinities order.
            let bias = [0.0, 0.0, nan, -inf, 0.0, 0.0, inf];
            let bias = Tensor::from_slice(device, &[7], &bias).unwrap();
            let search = Search { bias: Some(&bias), ..Search::new(k) };
            let hits = topk(&queries, &corpus, Metric::Dot, &search).unwrap();
            let ids = [6, 4, 0];
            assert_eq!(hits.get(0).0, &ids[..k.min(3)], "{name}");
        }
    }
}

/// Where queries enter matrix units in parts, 0 meets the rows' infinities; the products of f32 are what counts.
#[test]
fn infinities_are_ordinary_in_sixteen_bits() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (name, device) in devices() {
        for dtype in [DType::BF16, DType::F16] {
            let first = [-inf, nan, 1.0, inf, 2.0, nan, 1.0];
            let pad = |v: f32| [v, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
            let corpus = corpus(device, dtype, 8, &[&first.map(pad).concat()]);
            for (count, k) in [(4, 5), (4, 300), (40, 4), (40, 5)] {
                let ones = [1.0; 8];
                let queries: Vec<f32> =
                    [ones, pad(inf), pad(nan), pad(-0.5)].concat().repeat(count / 4);
                let (queries, _) = tensor(device, DType::F32, &[count, 8], &queries);
                let hits = topk(&queries, &corpus, Metric::Dot, &Search::new(k)).unwrap();
                let n = k.min(5);
                for q in (0..count).step_by(4) {
                    let what = format!("{name} {dtype} {count} queries, k {k}");
                    let scores = [inf, 2.0, 1.0, 1.0, -inf];
                    assert_eq!(hits.get(q), (&[3, 4, 2, 6, 0][..n], &scores[..n]), "{what}");
                    let scores = [inf, inf, inf, inf, -inf];
                    assert_eq!(hits.get(q + 1), (&[2, 3, 4, 6, 0][..n], &scores[..n]), "{what}");
                    assert!(hits.get(q + 2).0.is_empty(), "{what}");
                    let scores = [inf, -0.5, -0.5, -1.0, -inf];
                    assert_eq!(hits.get(q + 3), (&[0, 2, 6, 4, 3][..n], &scores[..n]), "{what}");
                }
            }
        }
    }
}

/// Queries of sixteen bits are as good as the same numbers in f32.
#[test]
fn hits_do_not_depend_on_how_queries_are_stored() {
    for (name, device) in devices() {
        let mut rng = Rng(13);
        let mut rows = rng.normals(300 * 64);
        rows[64 * 50] = f32::INFINITY;
        let corpus = corpus(device, DType::BF16, 64, &[&rows]);
        let (queries, _) = normals(device, DType::BF16, &[21, 64], &mut rng);
        let shape = [21, 64];
        let same = Tensor::from_slice(device, &shape, &queries.to_f32_vec().unwrap()).unwrap();
        for metric in [Metric::Dot, Metric::Cosine] {
            let search = Search::new(40);
            let hits = topk(&queries, &corpus, metric, &search).unwrap();
            assert_eq!(hits, topk(&same, &corpus, metric, &search).unwrap(), "{name} {metric:?}");
        }
    }
}

/// Bit for bit, where precision is traded for matrix units too.
#[test]
fn lower_precision_depends_on_the_query_alone() {
    use MatmulPrecision::{Medium, Tf32};
    for (precision, dtype, dim) in [
        (Tf32, DType::F32, 72),
        (Medium, DType::F32, 72),
        (Medium, DType::F16, 136),
        (Medium, DType::BF16, 64),
    ] {
        let options = DeviceOptions { matmul_precision: precision, ..Default::default() };
        let opened = Device::by_name_with("cuda", options);
        let Some(device) = required("cuda", opened) else { return };
        for metric in [Metric::Dot, Metric::Cosine] {
            let mut rng = Rng(12);
            let (rows, xs) = normals(&device, dtype, &[777, dim], &mut rng);
            let (queries, qs) = normals(&device, DType::F32, &[70, dim], &mut rng);
            let whole = Corpus::from_tensor(&rows).unwrap();
            let stored = rows.to_f32_vec().unwrap();
            let (some, more) = stored.split_at(500 * dim);
            let chunked = corpus(&device, dtype, dim, &[some, more]);
            let asked = queries.to_f32_vec().unwrap();
            let what = format!("{precision:?} {dtype} {metric:?}");
            let all = topk(&queries, &whole, metric, &Search::new(20)).unwrap();
            for q in [0, 69] {
                let one = Tensor::from_slice(&device, &[1, dim], &asked[q * dim..][..dim]).unwrap();
                for k in [20, 100, 200, 300] {
                    let hits = topk(&one, &chunked, metric, &Search::new(k)).unwrap();
                    let (ids, scores) = hits.get(0);
                    assert_eq!((&ids[..20], &scores[..20]), all.get(q), "{what}: query {q}, k {k}");
                }
                let oracle = METRICS.iter().find(|m| m.0 == metric).unwrap().1;
                let ranked = oracle::rank(oracle, &qs[q * dim..][..dim], &xs, None, |_| false);
                let (ids, scores) = all.get(q);
                for (id, score) in ids.iter().zip(scores) {
                    let (_, want, magnitude) = ranked.iter().find(|r| r.0 == *id).unwrap();
                    let off = (*score as f64 - want).abs();
                    assert!(off <= magnitude * 2f64.powi(-8), "{what}: {score} for {want}");
                }
            }
        }
    }
}

/// More rows tie at the top than a list has room for, behind others that had filled it.
#[test]
fn rows_that_all_tie_are_found_in_order() {
    let (low, high, dim) = (150, 400, 16);
    let rows: Vec<f32> = (0..low).map(|_| 0.0).chain((0..high).map(|_| 1.0)).collect();
    let rows: Vec<f32> = rows.iter().flat_map(|&x| std::iter::repeat_n(x, dim)).collect();
    for (name, device) in devices() {
        for storage in [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8] {
            let (all, _) = tensor(device, DType::F32, &[low + high, dim], &rows);
            let corpus = Corpus::from_tensor(&all).unwrap().to_storage(storage).unwrap();
            for (count, k) in [(3, 12), (40, 12), (40, 70), (40, 200)] {
                for dtype in [DType::F32, DType::BF16] {
                    let queries = vec![2.0; count * dim];
                    let (queries, _) = tensor(device, dtype, &[count, dim], &queries);
                    let hits = topk(&queries, &corpus, Metric::Dot, &Search::new(k)).unwrap();
                    let want: Vec<u64> = (low as u64..).take(k).collect();
                    for q in 0..count {
                        let what =
                            format!("{name}, {storage}: query {q} of {count} {dtype}, k {k}");
                        assert_eq!(hits.get(q).0, want, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn signed_zeros_tie_and_zero_vectors_have_cosine_zero() {
    for (name, device) in devices() {
        for k in [4, 300] {
            let rows = [-1.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0];
            let corpus = corpus(device, DType::F32, 2, &[&rows]);
            let (queries, _) = tensor(device, DType::F32, &[2, 2], &[0.0, 0.0, 0.0, -0.0]);
            for metric in [Metric::Dot, Metric::Cosine] {
                let hits = topk(&queries, &corpus, metric, &Search::new(k)).unwrap();
                for q in 0..2 {
                    assert_eq!(hits.get(q).0, &[0, 1, 2, 3], "{name} {metric:?}");
                    assert!(hits.get(q).1.iter().all(|s| s.to_bits() == 0), "{name} {metric:?}");
                }
            }
        }
    }
}

#[test]
fn duplicates_far_from_the_origin_are_at_distance_zero() {
    for (name, device) in devices() {
        let mut rng = Rng(9);
        let rows: Vec<f32> = rng.normals(200 * 96).iter().map(|v| v + 5000.0).collect();
        let corpus = corpus(device, DType::F32, 96, &[&rows]);
        let (queries, _) = tensor(device, DType::F32, &[200, 96], &rows);
        let hits = topk(&queries, &corpus, Metric::L2, &Search::new(2)).unwrap();
        for q in 0..200 {
            let (ids, scores) = hits.get(q);
            assert_eq!((ids[0], scores[0]), (q as u64, 0.0), "{name}");
            assert!(scores[1] < -50.0, "{name}");
        }
        let hits = topk(&queries, &corpus, Metric::L2, &Search::new(1000)).unwrap();
        assert!(
            (0..200).all(|q| hits.get(q).0[0] == q as u64 && hits.get(q).1[0] == 0.0),
            "{name}"
        );
    }
}

#[test]
fn excluding_everything_and_almost_everything() {
    for (name, device) in devices() {
        let mut rng = Rng(4);
        let (rows, _) = normals(device, DType::F16, &[1000, 33], &mut rng);
        let (queries, _) = normals(device, DType::F32, &[40, 33], &mut rng);
        let corpus = Corpus::from_tensor(&rows).unwrap();
        for k in [5, 500] {
            let all = Bitmap::from_fn(1000, |_| true);
            let filter = Filter::Shared(Rows::Exclude(&all));
            let search = Search { filter, ..Search::new(k) };
            let hits = topk(&queries, &corpus, Metric::Dot, &search).unwrap();
            assert!(hits.len() == 40 && hits.iter().all(|h| h.0.is_empty()), "{name}");
            // Each query sees one row.
            let maps: Vec<Bitmap> =
                (0..40).map(|q| Bitmap::from_fn(1000, |i| i != q * 25)).collect();
            let sets: Vec<Rows<'_>> = maps.iter().map(Rows::Exclude).collect();
            let search = Search { filter: Filter::PerQuery(&sets), ..search };
            let hits = topk(&queries, &corpus, Metric::Dot, &search).unwrap();
            for q in 0..40 {
                assert_eq!(hits.get(q).0, &[q as u64 * 25], "{name} k {k}");
            }
        }
    }
}

#[test]
fn a_corpus_grows_and_shrinks() {
    for (name, device) in devices() {
        let mut rng = Rng(8);
        let rows = rng.normals(500 * 24);
        let mut grown = Corpus::new(device, DType::BF16, 24).unwrap();
        for row in rows.chunks(24) {
            grown.append(row).unwrap();
        }
        assert!(grown.chunks().len() <= 10, "{name}: {} chunks", grown.chunks().len());
        grown.retain(|i| i % 3 != 1).unwrap();
        let kept: Vec<f32> = rows
            .chunks(24)
            .enumerate()
            .filter(|(i, _)| i % 3 != 1)
            .flat_map(|(_, row)| row.to_vec())
            .collect();
        let fresh = corpus(device, DType::BF16, 24, &[&kept]);
        assert_eq!(grown.len(), fresh.len());
        assert_eq!(grown.bytes(), fresh.bytes());
        let (queries, _) = normals(device, DType::BF16, &[4, 24], &mut rng);
        for (metric, _) in METRICS {
            let search = Search::new(30);
            let grown = topk(&queries, &grown, metric, &search).unwrap();
            assert_eq!(grown, topk(&queries, &fresh, metric, &search).unwrap(), "{name}");
        }
        grown.retain(|_| false).unwrap();
        assert!(grown.is_empty() && grown.bytes() == 0);
    }
}

#[test]
fn empty_and_wrong_inputs() {
    for (name, device) in main_devices() {
        let empty = Corpus::new(device, DType::F32, 3).unwrap();
        let queries = Tensor::zeros(device, DType::F32, &[2, 3]).unwrap();
        let hits = topk(&queries, &empty, Metric::Dot, &Search::new(5)).unwrap();
        assert!(hits.len() == 2 && hits.iter().all(|h| h.0.is_empty()), "{name}");
        let some = corpus(device, DType::F32, 3, &[&[1.0; 12]]);
        let none = Tensor::zeros(device, DType::F32, &[0, 3]).unwrap();
        assert!(topk(&none, &some, Metric::Dot, &Search::new(5)).unwrap().is_empty());
        assert_eq!(hits.get(2), (&[][..], &[][..]));
        assert_eq!(hits.get(usize::MAX), (&[][..], &[][..]));

        let search = Search::new(5);
        let argument =
            |r: Result<Hits, Error>| assert!(matches!(r, Err(Error::Argument { .. })), "{r:?}");
        let shape =
            |r: Result<Hits, Error>| assert!(matches!(r, Err(Error::Shape { .. })), "{r:?}");
        argument(topk(&queries, &some, Metric::Dot, &Search::new(0)));
        argument(topk(&queries, &empty, Metric::Dot, &Search::new(0)));
        let bias = Tensor::zeros(device, DType::F32, &[3]).unwrap();
        shape(topk(&queries, &some, Metric::Dot, &Search { bias: Some(&bias), ..search }));
        let short = Bitmap::new(3);
        for rows in [Rows::Exclude(&short), Rows::Allow(&short), Rows::AllowIds(&[4])] {
            let filter = Filter::Shared(rows);
            argument(topk(&queries, &some, Metric::Dot, &Search { filter, ..search }));
        }
        let (map, least) = (Bitmap::new(4), Some(f32::NAN));
        let filter = Filter::PerQuery(&[Rows::Exclude(&map)]);
        argument(topk(&queries, &some, Metric::Dot, &Search { filter, ..search }));
        argument(topk(&queries, &some, Metric::Dot, &Search { least, ..search }));
        shape(topk(
            &Tensor::zeros(device, DType::F32, &[2, 4]).unwrap(),
            &some,
            Metric::Dot,
            &search,
        ));
        shape(topk(&Tensor::zeros(device, DType::F32, &[3]).unwrap(), &some, Metric::Dot, &search));
        shape(topk(
            &Tensor::zeros(device, DType::U32, &[2, 3]).unwrap(),
            &some,
            Metric::Dot,
            &search,
        ));
        // Tensors of any two CPU devices meet.
        let other = Tensor::zeros(&Device::cpu(), DType::F32, &[2, 3]).unwrap();
        let found = topk(&other, &some, Metric::Dot, &search);
        assert_eq!(found.is_ok(), device.is_cpu(), "{name}: {found:?}");
        assert!(matches!(Corpus::new(device, DType::F32, 0), Err(Error::Argument { .. })));
        assert!(matches!(Corpus::new(device, DType::U32, 3), Err(Error::Argument { .. })));
        let mut some = some;
        assert!(matches!(some.append(&[1.0; 4]), Err(Error::Shape { .. })));
        assert!(matches!(
            some.append_tensor(&none.reshape(&[0]).unwrap()),
            Err(Error::Shape { .. })
        ));
        assert_eq!(some.len(), 4);
    }
}
