//! Corpora in int8: what is stored is what the oracle stores, and scores are those of what is stored.

use nearkin::ops::topk::{Bitmap, Corpus, Filter, Hits, Metric, Rows, Search, Storage, topk};
use nearkin::{DType, Device, Error, Tensor};
use proptest::prelude::*;

use super::topk::check;
use crate::common::{FLOATS, Rng, assert_same_hits, devices, main_devices, normals};
use crate::oracle::topk as oracle;

const METRICS: [(Metric, oracle::Metric); 2] =
    [(Metric::Dot, oracle::Metric::Dot), (Metric::Cosine, oracle::Metric::Cosine)];

fn empty(device: &Device, dim: usize) -> Corpus {
    Corpus::with_storage(device, Storage::Int8, dim).unwrap()
}

/// A corpus of rows that are appended in parts of `step` rows.
fn corpus(device: &Device, dim: usize, rows: &[f32], step: usize) -> Corpus {
    let mut corpus = empty(device, dim);
    rows.chunks(step * dim).for_each(|part| corpus.append(part).unwrap());
    corpus
}

/// The words and scales of all rows.
fn stored(corpus: &Corpus) -> (Vec<u32>, Vec<f32>) {
    let words = corpus.chunks().flat_map(|c| c.to_vec::<u32>().unwrap());
    let scales = corpus.scales().flat_map(|s| s.to_vec::<f32>().unwrap());
    (words.collect(), scales.collect())
}

/// What the oracle says is stored of rows; the scale of what is not finite is NaN.
fn wanted(rows: &[f64], dim: usize) -> (Vec<u32>, Vec<f32>) {
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    for row in rows.chunks(dim) {
        let (mut bytes, scale) = oracle::int8(row).unwrap_or((vec![0; dim], f32::NAN));
        bytes.resize(dim.next_multiple_of(4), 0);
        let four = |b: &[i8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]].map(|b| b as u8));
        words.extend(bytes.chunks(4).map(four));
        scales.push(scale);
    }
    (words, scales)
}

fn bits((words, scales): (Vec<u32>, Vec<f32>)) -> (Vec<u32>, Vec<u32>) {
    let bits = |s: f32| if s.is_nan() { u32::MAX } else { s.to_bits() };
    (words, scales.into_iter().map(bits).collect())
}

/// Vectors of all magnitudes, some with elements of many, some with halves between bytes, and some that are not finite.
fn magnitudes(count: usize, dim: usize, rng: &mut Rng) -> Vec<f32> {
    let mut all = Vec::new();
    for row in 0..count {
        let length = 2f64.powf(rng.unit() as f64 * 270.0 - 146.0);
        let spread = if row % 3 == 0 { 30.0 } else { 0.0 };
        let start = all.len();
        all.extend((0..dim).map(|_| {
            let value = rng.normal() as f64 * 2f64.powf(-spread * rng.unit() as f64);
            (value * length).clamp(-3e38, 3e38) as f32
        }));
        let x = &mut all[start..];
        match row % 23 {
            0 => x[rng.below(dim)] = f32::NAN,
            1 => x[rng.below(dim)] = f32::NEG_INFINITY,
            2 => x.fill(-0.0),
            3 => x.fill(f32::MAX),
            4 => x[rng.below(dim)] = f32::from_bits(1),
            // Multiples of a half.
            5..8 => {
                x.iter_mut().for_each(|v| *v = rng.below(509) as f32 - 254.0);
                x[rng.below(dim)] = 254.0;
            }
            _ => {}
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        n in prop_oneof![0usize..140, Just(1025)],
        dim in prop_oneof![1usize..70, Just(64), Just(384), Just(513)],
        count in prop_oneof![0usize..7, 30usize..70],
        k in prop_oneof![1usize..12, Just(64), Just(100), Just(300), Just(2000)],
        dtype in 0usize..3,
        metric in 0usize..2,
        with_bias: bool,
        exclude in 0usize..3,
        seed: u64,
    ) {
        let (metric, want) = METRICS[metric];
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let (rows, xs) = normals(device, FLOATS[dtype], &[n, dim], &mut rng);
            let (queries, qs) = normals(device, FLOATS[(dtype + n) % 3], &[count, dim], &mut rng);
            let (xs, qs) = (oracle::through_int8(&xs, dim), oracle::through_int8(&qs, dim));
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
            let mut corpus = empty(device, dim);
            corpus.append_tensor(&rows).unwrap();
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
}

/// However rows come, and on every device, bit for bit.
#[test]
fn what_is_stored_is_what_the_oracle_stores() {
    for (name, device) in devices() {
        for dim in [1, 3, 8, 67, 130] {
            let mut rng = Rng(3);
            let rows = magnitudes(300, dim, &mut rng);
            let exact: Vec<f64> = rows.iter().map(|&v| v as f64).collect();
            let want = bits(wanted(&exact, dim));
            for step in [300, 7] {
                let grown = corpus(device, dim, &rows, step);
                assert_eq!(bits(stored(&grown)), want, "{name}: {dim} dimensions, {step} rows");
            }
            let cpu = Device::cpu();
            for (dtype, on) in FLOATS.into_iter().flat_map(|t| [(t, device), (t, &cpu)]) {
                let tensor = Tensor::from_f32(on, dtype, &[300, dim], &rows).unwrap();
                let exact: Vec<f64> =
                    tensor.to_f32_vec().unwrap().into_iter().map(f64::from).collect();
                let mut corpus = empty(device, dim);
                corpus.append_tensor(&tensor).unwrap();
                let want = bits(wanted(&exact, dim));
                assert_eq!(bits(stored(&corpus)), want, "{name}: {dim} dimensions of {dtype}");
            }
        }
    }
}

#[test]
fn rows_are_picked_and_decoded() {
    for (name, device) in devices() {
        for dim in [24, 33] {
            let mut rng = Rng(8);
            let rows = rng.normals(500 * dim);
            let mut grown = corpus(device, dim, &rows, 1);
            assert!(grown.chunks().len() <= 10, "{name}: {} chunks", grown.chunks().len());
            assert_eq!(grown.bytes(), 500 * (dim.next_multiple_of(4) + 8), "{name}");
            grown.retain(|i| i % 3 != 1).unwrap();
            let kept: Vec<f32> = rows
                .chunks(dim)
                .enumerate()
                .filter(|(i, _)| i % 3 != 1)
                .flat_map(|(_, row)| row.to_vec())
                .collect();
            let fresh = corpus(device, dim, &kept, 1000);
            assert_eq!((grown.len(), grown.bytes()), (fresh.len(), fresh.bytes()), "{name}");
            assert_eq!(stored(&grown), stored(&fresh), "{name}");

            // Rows of an engine's: shared, and of any device.
            let (words, scales) = stored(&fresh);
            let width = dim.div_ceil(4);
            for on in [device, &Device::cpu()] {
                let words = Tensor::from_slice(on, &[fresh.len(), width], &words).unwrap();
                let scales = Tensor::from_slice(on, &[fresh.len()], &scales).unwrap();
                let mut again = empty(device, dim);
                again.append_int8(&words, &scales).unwrap();
                assert_eq!(stored(&again), stored(&fresh), "{name}");
                again.refresh().unwrap();
                let (queries, _) = normals(device, DType::BF16, &[4, dim], &mut rng);
                for (metric, _) in METRICS {
                    let want = topk(&queries, &fresh, metric, &Search::new(30)).unwrap();
                    for corpus in [&grown, &again] {
                        let got = topk(&queries, corpus, metric, &Search::new(30)).unwrap();
                        assert_eq!(got, want, "{name} {metric:?}");
                    }
                }
            }

            let numbers = [3, 3, 0, fresh.len() as u32 - 1, 100];
            let picked = grown.gather(&numbers).unwrap();
            let exact: Vec<f64> = kept.iter().map(|&v| v as f64).collect();
            let decoded = oracle::through_int8(&exact, dim);
            let want = numbers.iter().flat_map(|&i| &decoded[i as usize * dim..][..dim]);
            let want: Vec<f32> = want.map(|&v| v as f32).collect();
            assert_eq!(picked.shape(), [numbers.len(), dim], "{name}");
            assert_eq!(picked.to_vec::<f32>().unwrap(), want, "{name}");
            assert_eq!(grown.gather(&[]).unwrap().shape(), [0, dim], "{name}");
            grown.retain(|_| false).unwrap();
            assert!(grown.is_empty() && grown.bytes() == 0);
        }
    }
}

/// Sums are integers below 2^24, and products of them with scales are rounded alike.
#[test]
fn hits_are_the_same_bits_everywhere() {
    let cpu = Device::cpu();
    for (dim, metric) in
        [(77, Metric::Dot), (128, Metric::Cosine), (32, Metric::Dot), (1040, Metric::Cosine)]
    {
        let mut rng = Rng(11);
        let n = 700;
        let (rows, asked) = (rng.normals(n * dim), rng.normals(70 * dim));
        let hits = |device: &Device, step: usize, queries: &[f32], k: usize| -> Hits {
            let shape = [queries.len() / dim, dim];
            let queries = Tensor::from_slice(device, &shape, queries).unwrap();
            let corpus = corpus(device, dim, &rows, step);
            topk(&queries, &corpus, metric, &Search::new(k)).unwrap()
        };
        let want = hits(&cpu, n, &asked, 20);
        for (name, device) in devices() {
            let what = |how: &str, q: usize| format!("{name} {metric:?} {dim}: query {q} {how}");
            let (chunked, longer) = (hits(device, 311, &asked, 20), hits(device, n, &asked, 300));
            for q in 0..70 {
                assert_same_hits(&what("in chunks", q), chunked.get(q), want.get(q));
                let (ids, scores) = longer.get(q);
                assert_same_hits(&what("of more", q), (&ids[..20], &scores[..20]), want.get(q));
            }
            for q in [0, 31, 69] {
                let one = hits(device, n, &asked[q * dim..][..dim], 20);
                assert_same_hits(&what("alone", q), one.get(0), want.get(q));
            }
        }
    }
}

/// Sums as large as they come, of bytes that no float would make too.
#[test]
fn the_largest_sums_are_exact() {
    for (name, device) in main_devices() {
        let dim = 1 << 17;
        let words: Vec<u32> = [0x8080_8080u32, 0x7f7f_7f7f].map(|w| vec![w; dim / 4]).concat();
        let words = Tensor::from_slice(device, &[2, dim / 4], &words).unwrap();
        let scales = Tensor::from_slice(device, &[2], &[1.0f32, 0.5]).unwrap();
        let corpus = Corpus::int8(&words, &scales, dim).unwrap();
        let queries: Vec<f32> = [127.0f32, -127.0].map(|v| vec![v; dim]).concat();
        let queries = Tensor::from_slice(device, &[2, dim], &queries).unwrap();
        let hits = topk(&queries, &corpus, Metric::Dot, &Search::new(2)).unwrap();
        let (most, half) = (128.0 * 127.0 * dim as f32, 127.0 * 127.0 * 0.5 * dim as f32);
        assert_eq!(hits.get(0), (&[1, 0][..], &[half, -most][..]), "{name}");
        assert_eq!(hits.get(1), (&[0, 1][..], &[most, -half][..]), "{name}");
        let hits = topk(&queries, &corpus, Metric::Cosine, &Search::new(2)).unwrap();
        for (q, ids) in [[1, 0], [0, 1]].iter().enumerate() {
            assert_eq!(hits.get(q).0, ids, "{name}");
            assert!(hits.get(q).1.iter().all(|s| (s.abs() - 1.0).abs() < 1e-6), "{name}");
        }
    }
}

/// What is not finite is not found; scales of all magnitudes meet without a product that overflows on the way.
#[test]
fn any_length() {
    for (name, device) in devices() {
        for (dim, k) in [(8, 500), (33, 100)] {
            let mut rng = Rng(21);
            let (rows, asked) = (magnitudes(230, dim, &mut rng), magnitudes(46, dim, &mut rng));
            let corpus = corpus(device, dim, &rows, 100);
            let queries = Tensor::from_slice(device, &[46, dim], &asked).unwrap();
            // A scale may be 0 in f32; cosines are those of the bytes.
            let exact = |all: &[f32], metric: Metric| -> Vec<f64> {
                let mut exact = Vec::new();
                for x in all.chunks(dim) {
                    let x: Vec<f64> = x.iter().map(|&v| v as f64).collect();
                    exact.extend(match (oracle::int8(&x), metric) {
                        (Some((bytes, _)), Metric::Cosine) => {
                            bytes.iter().map(|&b| b.into()).collect()
                        }
                        _ => oracle::through_int8(&x, dim),
                    });
                }
                exact
            };
            let is_finite = |x: &&[f64]| x.iter().all(|v| v.is_finite());
            // A scale below the normal numbers may count as 0.
            let has_scale = |x: &[f64]| {
                let largest = x.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
                largest == 0.0 || largest / 127.0 >= f32::MIN_POSITIVE as f64
            };
            for (metric, want) in METRICS {
                let (xs, qs) = (exact(&rows, metric), exact(&asked, metric));
                let finite = xs.chunks(dim).filter(is_finite).count();
                let hits = topk(&queries, &corpus, metric, &Search::new(k)).unwrap();
                for (q, query) in qs.chunks(dim).enumerate() {
                    let (ids, scores) = hits.get(q);
                    let what = format!("{name} {metric:?}, query {q}");
                    if !is_finite(&query) {
                        assert!(ids.is_empty(), "{what}");
                        continue;
                    }
                    assert_eq!(ids.len(), k.min(finite), "{what}");
                    assert!(scores.is_sorted_by(|a, b| a >= b), "{what}: {scores:?}");
                    for (&id, &got) in ids.iter().zip(scores) {
                        let row = &xs[id as usize * dim..][..dim];
                        let (want, magnitude) = oracle::score(want, query, row);
                        let is_beyond = want.abs() > f32::MAX as f64 && got.is_infinite();
                        let is_flushed = metric == Metric::Dot
                            && got == 0.0
                            && !(has_scale(query) && has_scale(row));
                        let error = (got as f64 - want).abs();
                        let near = error <= 1e-6 * magnitude + 1.2e-38;
                        assert!(near || is_beyond || is_flushed, "{what}: {got} for {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn wrong_inputs() {
    for (name, device) in main_devices() {
        let mut some = corpus(device, 5, &[1.0; 20], 4);
        assert_eq!((some.storage(), some.dtype(), some.dim()), (Storage::Int8, DType::U32, 5));
        let queries = Tensor::zeros(device, DType::F32, &[2, 5]).unwrap();
        let argument = |r: Result<(), Error>, says: &str| match r {
            Err(e @ Error::Argument { .. }) => assert!(e.to_string().contains(says), "{name}: {e}"),
            other => panic!("{name}: {other:?}"),
        };
        let shape = |r: Result<(), Error>| {
            assert!(matches!(r, Err(Error::Shape { .. })), "{name}: {r:?}");
        };
        let search = Search::new(1);
        argument(topk(&queries, &some, Metric::L2, &search).map(|_| ()), "dot or cosine");
        let make = |storage, dim| Corpus::with_storage(device, storage, dim).map(|_| ());
        argument(make(Storage::Int8, (1 << 17) + 1), "131072");
        argument(make(Storage::Int8, 0), "1 to");
        argument(make(Storage::Binary, 32), "int8");
        shape(some.append(&[1.0; 6]));
        let wide = Tensor::zeros(device, DType::F32, &[1, 8]).unwrap();
        shape(some.append_tensor(&wide));
        let words = |shape: &[usize]| Tensor::zeros(device, DType::U32, shape).unwrap();
        let scales = |all: &[f32]| Tensor::from_slice(device, &[all.len()], all).unwrap();
        shape(some.append_int8(&words(&[2, 3]), &scales(&[1.0, 1.0])));
        shape(some.append_int8(&words(&[2, 2]), &scales(&[1.0])));
        shape(some.append_int8(&wide, &scales(&[1.0])));
        shape(some.append_tensor(&words(&[2, 5])));
        for bad in [-1.0, f32::INFINITY] {
            let says = bad.to_string();
            argument(some.append_int8(&words(&[2, 2]), &scales(&[1.0, bad])), &says);
        }
        assert_eq!(some.len(), 4);
        some.append_int8(&words(&[2, 2]), &scales(&[0.0, f32::NAN])).unwrap();
        let hits = topk(&queries, &some, Metric::Cosine, &Search::new(9)).unwrap();
        assert_eq!(hits.get(0), (&[0, 1, 2, 3, 4][..], &[0.0; 5][..]), "{name}");
        let mut floats = Corpus::new(device, DType::F32, 8).unwrap();
        argument(floats.append_int8(&words(&[2, 2]), &scales(&[1.0, 1.0])), "int8");
        assert_eq!(floats.scales().count(), 0);
    }
}
