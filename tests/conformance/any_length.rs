//! Vectors of any length, from the smallest subnormal number to the largest f32, on every device against f64.

use nearkin::ops::hamming::{self, BinaryCorpus, Hasher, Queries};
use nearkin::ops::maxsim::{MaxSim, Storage, Tokens, scores};
use nearkin::ops::topk::{Corpus, Hits, Metric, Search, topk};
use nearkin::search::{BinaryIndex, BinarySearch, FlatIndex, Keep, TokenIndex};
use nearkin::{DType, Device, Offsets, Tensor};

use crate::common::{FLOATS, Rng, devices, tensor};
use crate::oracle::topk as oracle;

/// The least normal f32: below it a device may have no numbers but 0.
const NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// Lengths of rows and queries: all powers of ten of f32, and both ends.
fn lengths() -> Vec<f32> {
    let powers = (-45..=38).map(|e| 10f64.powi(e) as f32).filter(|v| *v > 0.0);
    powers.chain([f32::from_bits(1), 1.1754942e-38, f32::MIN_POSITIVE, 3e38]).collect()
}

/// Vectors of each length in each of some directions, and one of zeros.
fn ladder(dim: usize) -> Vec<f32> {
    let directions: [&[f32]; 5] =
        [&[1.0, 1.0], &[1.0, 0.0], &[0.0, 0.0, 1.0, -1.0], &[-1.0, -1.0], &[0.5, -0.25, 0.125]];
    let mut rows = Vec::new();
    for direction in directions {
        for length in lengths() {
            let start = rows.len();
            rows.extend(direction.iter().map(|d| d * length));
            rows.resize(start + dim, 0.0);
        }
    }
    rows.resize(rows.len() + dim, 0.0);
    rows
}

/// Vectors of normals times lengths of any order of magnitude.
fn any(count: usize, dim: usize, rng: &mut Rng) -> Vec<f32> {
    let mut all = Vec::new();
    for _ in 0..count {
        let length = 10f64.powf(rng.unit() as f64 * 80.0 - 44.0);
        let normals = rng.normals(dim);
        all.extend(normals.iter().map(|&v| (v as f64 * length).clamp(-3e38, 3e38) as f32));
    }
    all
}

fn length(v: &[f64]) -> f64 {
    v.iter().map(|a| a * a).sum::<f64>().sqrt()
}

/// Devices as they come, and CUDA with the roundings it may be allowed, with the error of a product they allow.
fn all_devices() -> Vec<(String, Device, f64)> {
    let plain = devices().iter().map(|(name, d)| (name.to_string(), d.clone(), 0.0));
    plain.chain(rounding_devices()).collect()
}

#[cfg(feature = "cuda")]
fn rounding_devices() -> Vec<(String, Device, f64)> {
    use nearkin::DeviceOptions;
    use nearkin::MatmulPrecision::{Medium, Tf32};
    if crate::common::device("cuda").is_none() {
        return Vec::new();
    }
    let open = |(matmul_precision, rounding)| {
        let options = DeviceOptions { matmul_precision, ..Default::default() };
        let device = Device::cuda_with(0, options).unwrap();
        (format!("cuda, {matmul_precision:?}"), device, rounding)
    };
    [(Tf32, 2f64.powi(-9)), (Medium, 2f64.powi(-6))].map(open).into()
}

#[cfg(not(feature = "cuda"))]
fn rounding_devices() -> Vec<(String, Device, f64)> {
    Vec::new()
}

/// Vectors in a dtype, as they are there.
struct Stored {
    rows: Tensor,
    values: Vec<f64>,
    dim: usize,
}

impl Stored {
    fn new(device: &Device, dtype: DType, dim: usize, values: &[f32]) -> Stored {
        let (rows, values) = tensor(device, dtype, &[values.len() / dim, dim], values);
        Stored { rows, values, dim }
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.dim..][..self.dim]
    }

    fn is_finite(&self, i: usize) -> bool {
        self.row(i).iter().all(|v| v.is_finite())
    }

    fn len(&self) -> usize {
        self.values.len() / self.dim
    }
}

/// Searches, and checks that as many finite rows are found as there are, in order and with the scores that f64 says;
/// `near` is the allowed error.
fn check(
    what: &str,
    (queries, rows, k): (&Stored, &Stored, usize),
    (metric, wanted): (Metric, oracle::Metric),
    near: impl Fn(&[f64], &[f64], f64) -> f64,
) -> Hits {
    let corpus = Corpus::from_tensor(&rows.rows).unwrap();
    let hits = topk(&queries.rows, &corpus, metric, &Search::new(k)).unwrap();
    assert_eq!(hits.len(), queries.len(), "{what}");
    for (q, (ids, scores)) in hits.iter().enumerate() {
        let query = queries.row(q);
        let finite = (0..rows.len()).filter(|&i| rows.is_finite(i)).count();
        assert_eq!(ids.len(), k.min(finite), "{what}, query {q}");
        for (&id, &got) in ids.iter().zip(scores) {
            let row = rows.row(id as usize);
            let want = oracle::score(wanted, query, row).0;
            let near = near(query, row, want);
            let is_near = (got as f64 - want).abs() <= near;
            let sign = got.signum() as f64;
            let is_beyond = got.is_infinite() && sign * want + near > f32::MAX as f64;
            assert!(is_near || is_beyond, "{what}: {got} for {want}: {query:?} and {row:?}");
        }
        for i in 1..ids.len() {
            let falls = scores[i - 1] > scores[i];
            let ties = scores[i - 1] == scores[i] && ids[i - 1] < ids[i];
            assert!(falls || ties, "{what}, query {q}: the order at {i}");
        }
    }
    hits
}

/// The queries of the reports, and the ends of the range.
fn short_and_long(dim: usize) -> Vec<f32> {
    let lengths = [1.0, 1e-15, 1e-20, 1e-22, 1e-30, 1e-38, 1e-44, 1e20, 1e38, 3e38];
    let mut all = vec![0.0; lengths.len() * dim];
    for (query, length) in all.chunks_mut(dim).zip(lengths) {
        query[..2].fill(length);
    }
    all
}

#[test]
fn a_cosine_is_that_of_the_directions() {
    let metric = (Metric::Cosine, oracle::Metric::Cosine);
    for (name, device, rounding) in all_devices() {
        for dtype in FLOATS {
            // Tensor cores take dimensions that 8 divides; lists hold a k of up to 256.
            for (dim, k) in [(4, 1000), (8, 100), (8, 1000), (9, 130)] {
                let rows = Stored::new(&device, dtype, dim, &ladder(dim));
                let queries = Stored::new(&device, DType::F32, dim, &short_and_long(dim));
                let what = format!("{name}, {dtype}, dimension {dim}, k {k}");
                let hits = check(&what, (&queries, &rows, k), metric, |_, _, _| 1e-6 + rounding);
                let most = 1.0 + 1e-6 + rounding;
                assert!(hits.iter().all(|(_, s)| s.iter().all(|s| s.abs() as f64 <= most)));
                // Plain queries, rounded to 16 bits on the way in.
                let queries = Stored::new(&device, dtype, dim, &ladder(dim)[..dim]);
                check(&what, (&queries, &rows, k), metric, |_, _, _| 1e-6 + rounding);
            }
        }
    }
}

#[test]
fn a_dot_product_is_infinite_only_beyond_the_range() {
    let metric = (Metric::Dot, oracle::Metric::Dot);
    for (name, device, rounding) in all_devices() {
        for dtype in [DType::F32, DType::BF16] {
            for (dim, k) in [(8, 70), (8, 400), (13, 400)] {
                let mut rng = Rng(dim as u64 + k as u64);
                let mut rows = any(300, dim, &mut rng);
                let mut queries = any(20, dim, &mut rng);
                // Partial sums overflow, and cancel.
                let v = 2f32.powi(127);
                rows[..4].copy_from_slice(&[v, v, -v, -v]);
                queries[..4].fill(v);
                rows[4..dim].fill(0.0);
                queries[4..dim].fill(1.0);
                let rows = Stored::new(&device, dtype, dim, &rows);
                let queries = Stored::new(&device, DType::F32, dim, &queries);
                let what = format!("{name}, {dtype}, dimension {dim}, k {k}");
                check(&what, (&queries, &rows, k), metric, |q, x, _| {
                    (1e-6 + rounding) * length(q) * length(x) + NORMAL
                });
            }
        }
    }
}

#[test]
fn a_distance_beyond_the_range_is_infinite() {
    let metric = (Metric::L2, oracle::Metric::L2);
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::BF16] {
            for (dim, k) in [(8, 100), (8, 400), (13, 400)] {
                let mut rng = Rng(dim as u64);
                let rows = Stored::new(device, dtype, dim, &any(300, dim, &mut rng));
                let queries = Stored::new(device, DType::F32, dim, &any(20, dim, &mut rng));
                let what = format!("{name}, {dtype}, dimension {dim}, k {k}");
                check(&what, (&queries, &rows, k), metric, |_, _, want| {
                    2e-6 * want.abs() + 2.0 * dim as f64 * NORMAL
                });
            }
        }
    }
}

/// Neither a neighbour nor another query that has to be scaled changes the bits of others.
#[test]
fn plain_vectors_keep_their_bits_beside_others() {
    for (name, device, _) in all_devices() {
        for dtype in FLOATS {
            for metric in [Metric::Dot, Metric::Cosine, Metric::L2] {
                let (n, dim) = (150, 16);
                let mut rng = Rng(3);
                let (mut rows, mut queries) = (rng.normals(n * dim), rng.normals(3 * dim));
                let find = |rows: &[f32], queries: &[f32], k: usize| {
                    let shape = [queries.len() / dim, dim];
                    let mut corpus = Corpus::new(&device, dtype, dim).unwrap();
                    corpus.append(rows).unwrap();
                    let queries = Tensor::from_slice(&device, &shape, queries).unwrap();
                    let hits = topk(&queries, &corpus, metric, &Search::new(k)).unwrap();
                    let query = |q: usize| {
                        let (ids, scores) = hits.get(q);
                        let pairs = ids.iter().zip(scores).filter(|(id, _)| **id < n as u64);
                        pairs.map(|(&id, s)| (id, s.to_bits())).collect::<Vec<_>>()
                    };
                    [0, 1, 2].map(query)
                };
                let plain = find(&rows, &queries, n + 4);
                queries.extend(any(1, dim, &mut rng).iter().map(|v| v * 1e-30));
                assert_eq!(find(&rows, &queries, n + 4), plain, "{name}, {dtype}, {metric:?}");
                for v in [1e-37f32, 2e-44, 2e38] {
                    rows.extend(rng.normals(dim).iter().map(|n| n.clamp(-1.0, 1.0) * v));
                }
                assert_eq!(find(&rows, &queries, n + 4), plain, "{name}, {dtype}, {metric:?}");
            }
        }
    }
}

#[test]
fn a_query_with_a_nan_finds_nothing_among_any() {
    for (name, device, _) in all_devices() {
        for dtype in FLOATS {
            for (metric, k) in [Metric::Dot, Metric::Cosine, Metric::L2]
                .into_iter()
                .flat_map(|m| [(m, 9), (m, 300)])
            {
                let mut queries = short_and_long(8)[..16].to_vec();
                queries[3] = f32::NAN;
                let queries = Tensor::from_slice(&device, &[2, 8], &queries).unwrap();
                for rows in [ladder(8), Rng(9).normals(8 * 300)] {
                    let rows = Stored::new(&device, dtype, 8, &rows).rows;
                    let corpus = Corpus::from_tensor(&rows).unwrap();
                    let hits = topk(&queries, &corpus, metric, &Search::new(k)).unwrap();
                    assert!(hits.get(0).0.is_empty(), "{name}, {dtype}, {metric:?}, k {k}");
                    assert!(!hits.get(1).0.is_empty(), "{name}, {dtype}, {metric:?}, k {k}");
                }
            }
        }
    }
}

/// Fused cosine of tokens: each storage, rows of one token.
#[test]
fn tokens_are_compared_by_direction() {
    let dim = 32;
    for (name, device) in devices() {
        let rows = ladder(dim);
        let tokens = |values: &[f32]| {
            let offsets = Offsets::from_lengths(device, &vec![1; values.len() / dim]).unwrap();
            let values = Stored::new(device, DType::F32, dim, values);
            (Tokens::new(&values.rows, &offsets).unwrap(), values)
        };
        let (documents, xs) = tokens(&rows);
        let (queries, qs) = tokens(&short_and_long(dim));
        for storage in [Storage::F32, Storage::BF16, Storage::F16, Storage::Int8] {
            let stored = |t: &Tokens| t.to_storage(storage).unwrap().normalized().unwrap();
            let got = scores(&stored(&queries), &stored(&documents), &MaxSim::colbert()).unwrap();
            let got = got.to_vec::<f32>().unwrap();
            for (q, got) in got.chunks(xs.len()).enumerate() {
                for (i, &got) in got.iter().enumerate() {
                    // What a storage cannot hold is zero, infinite or has few bits.
                    let lengths = [length(qs.row(q)), length(xs.row(i))];
                    let held = match storage {
                        Storage::F16 => 1e-3..1e4,
                        Storage::BF16 => 1e-37..1e39,
                        _ => 0.0..1e39,
                    };
                    if !lengths.iter().all(|l| *l == 0.0 || held.contains(l)) {
                        continue;
                    }
                    let want = oracle::score(oracle::Metric::Cosine, qs.row(q), xs.row(i)).0;
                    let near = match storage {
                        Storage::F32 => 1e-6,
                        _ => 1e-2,
                    };
                    let error = (got as f64 - want).abs();
                    assert!(error <= near, "{name}, {storage}: {got} for {want}, {lengths:?}");
                }
            }
        }
    }
}

#[test]
fn an_asymmetric_score_is_of_queries_of_any_length() {
    let bits = 64;
    for (name, device) in devices() {
        let mut rng = Rng(11);
        let codes: Vec<u32> = (0..2 * 90).map(|_| rng.next() as u32).collect();
        let codes = Tensor::from_slice(device, &[90, 2], &codes).unwrap();
        let mut corpus = BinaryCorpus::new(device, bits).unwrap();
        corpus.append_tensor(&codes).unwrap();
        let codes = codes.to_vec::<u32>().unwrap();
        let queries = Stored::new(device, DType::F32, bits, &any(40, bits, &mut rng));
        for k in [40, 300] {
            let found = Queries::Floats(&queries.rows);
            let hits = hamming::topk(found, &corpus, &Search::new(k)).unwrap();
            for (q, (ids, scores)) in hits.iter().enumerate() {
                assert_eq!(ids.len(), k.min(90), "{name}");
                assert!(scores.is_sorted_by(|a, b| a >= b), "{name}: {scores:?}");
                for (&id, &got) in ids.iter().zip(scores) {
                    let code = &codes[2 * id as usize..][..2];
                    let (want, size) = crate::oracle::hamming::asymmetric(queries.row(q), code);
                    let is_beyond = want.abs() > f32::MAX as f64 && got.is_infinite();
                    let error = (got as f64 - want).abs();
                    assert!(
                        error <= 2e-6 * size + 1.2e-38 || is_beyond,
                        "{name}: {got} for {want}"
                    );
                }
            }
        }
    }
}

/// The indexes, by way of what they add: files, codecs, storage.
#[test]
fn indexes_find_by_direction() {
    let dim = 32;
    let (rows, queries) = (ladder(dim), short_and_long(dim));
    let values = Stored::new(&Device::cpu(), DType::F32, dim, &rows);
    let ids: Vec<String> = (0..values.len()).map(|i| i.to_string()).collect();
    let offsets: Vec<i64> = (0..=values.len() as i64).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.safetensors");
    for (name, device) in devices() {
        let mut flat = FlatIndex::new(device, DType::F32, dim).unwrap();
        let (half, rest) = rows.split_at(rows.len() / 2 / dim * dim);
        flat.add(&ids[..half.len() / dim], half).unwrap();
        flat.add(&ids[half.len() / dim..], rest).unwrap();
        flat.save(&file).unwrap();
        let loaded = FlatIndex::load(&file, device).unwrap();
        assert_eq!(loaded.to_f32_vec().unwrap(), rows, "{name}");
        let found = flat.search(&queries, 1000, Metric::Cosine, None).unwrap();
        assert_eq!(loaded.search(&queries, 1000, Metric::Cosine, None).unwrap(), found, "{name}");
        for hits in found {
            assert_eq!(hits.len(), values.len(), "{name}");
            for hit in hits {
                let row = values.row(hit.id.parse().unwrap());
                let one: Vec<f64> = (0..dim).map(|d| (d < 2) as u32 as f64).collect();
                let want = oracle::score(oracle::Metric::Cosine, &one, row).0;
                assert!((hit.score as f64 - want).abs() < 1e-6, "{name}: {hit:?} for {want}");
            }
        }

        for storage in [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8] {
            let mut index = TokenIndex::new(device, storage, dim).unwrap();
            index.add(&ids, &rows, &offsets).unwrap();
            let found = index.search(&queries, &(0..=10).collect::<Vec<_>>(), 1000, None).unwrap();
            for hit in found.iter().flatten() {
                let row = values.row(hit.id.parse().unwrap());
                let one: Vec<f64> = (0..dim).map(|d| (d < 2) as u32 as f64).collect();
                let want = oracle::score(oracle::Metric::Cosine, &one, row).0;
                let error = (hit.score as f64 - want).abs();
                assert!(error < 1e-2, "{name}, {storage}: {hit:?} for {want}");
            }
            assert!(found.iter().all(|hits| hits.len() == values.len()), "{name}, {storage}");
        }

        for (keep, near) in [(Keep::Floats(DType::F32), 1e-6), (Keep::Int8, 1e-2)] {
            let hasher = Hasher::random(device, &vec![0.0; dim], 64, 1).unwrap();
            let mut index = BinaryIndex::new(hasher, keep).unwrap();
            index.add(&ids, &rows).unwrap();
            let search = BinarySearch::new(Metric::Cosine, 1000);
            for asymmetric in [false, true] {
                let search = BinarySearch { asymmetric, ..search };
                let found = index.search(&queries, &search).unwrap();
                assert!(found.iter().all(|hits| hits.len() == values.len()), "{name}, {keep:?}");
                for hit in found.iter().flatten() {
                    let row = values.row(hit.id.parse().unwrap());
                    if keep == Keep::Int8 && length(row) < 1e-42 {
                        continue;
                    }
                    let one: Vec<f64> = (0..dim).map(|d| (d < 2) as u32 as f64).collect();
                    let want = oracle::score(oracle::Metric::Cosine, &one, row).0;
                    let error = (hit.score as f64 - want).abs();
                    assert!(error < near, "{name}, {keep:?}: {hit:?} for {want}");
                }
            }
        }
    }
}
