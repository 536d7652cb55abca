use nearkin::ops::hamming::{BinaryCorpus, Hasher, Queries, encode, radius, topk};
use nearkin::ops::select::{Bitmap, Filter, Rows, Search};
use nearkin::{DType, Device, Error, Tensor};
use proptest::prelude::*;

use crate::common::{FLOATS, Rng, assert_same_hits, devices, main_devices, normals, tensor};
use crate::oracle::hamming as oracle;

/// Codes near each of some centres, so that there are near ones, far ones and many ties.
fn codes(rng: &mut Rng, n: usize, words: usize) -> Vec<u32> {
    let centres: Vec<u32> = (0..3 * words).map(|_| rng.next() as u32).collect();
    let mut all = Vec::with_capacity(n * words);
    for _ in 0..n {
        let centre = rng.below(3) * words;
        let sparse = rng.below(4) > 0;
        for w in 0..words {
            let noise = (rng.next() & rng.next() & rng.next()) as u32;
            all.push(centres[centre + w] ^ if sparse { noise & rng.next() as u32 } else { noise });
        }
    }
    all
}

fn words(device: &Device, shape: &[usize], data: &[u32]) -> Tensor {
    Tensor::from_slice(device, shape, data).unwrap()
}

/// Which rows a case excludes.
enum Maps {
    None,
    Shared(Bitmap),
    Each(Vec<Bitmap>),
}

/// What a case searches for.
fn search(k: usize, filter: Filter<'_>) -> Search<'_> {
    Search { filter, ..Search::new(k) }
}

impl Maps {
    fn new(kind: usize, queries: usize, rows: usize, rng: &mut Rng) -> Maps {
        let mut map = |q: usize| {
            Bitmap::from_fn(rows, |i| (i / 70 + q).is_multiple_of(2) || rng.unit() < 0.3)
        };
        match kind {
            0 => Maps::None,
            1 => Maps::Shared(map(0)),
            _ => Maps::Each((0..queries).map(map).collect()),
        }
    }

    fn sets(&self) -> Vec<Rows<'_>> {
        match self {
            Maps::None => Vec::new(),
            Maps::Shared(map) => vec![Rows::Exclude(map)],
            Maps::Each(maps) => maps.iter().map(Rows::Exclude).collect(),
        }
    }

    fn filter<'a>(&self, sets: &'a [Rows<'a>]) -> Filter<'a> {
        match self {
            Maps::None => Filter::All,
            Maps::Shared(_) => Filter::Shared(sets[0]),
            Maps::Each(_) => Filter::PerQuery(sets),
        }
    }

    fn has(&self, query: usize, row: usize) -> bool {
        match self {
            Maps::None => false,
            Maps::Shared(map) => map.contains(row),
            Maps::Each(maps) => maps[query].contains(row),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]

    /// Distances are integers: the order is the oracle's, ties and all.
    #[test]
    fn codes_are_ranked_as_the_oracle_does(
        n in prop_oneof![0usize..140, Just(1025), Just(4500)],
        width in prop_oneof![1usize..9, Just(12usize), Just(32), Just(33), Just(41)],
        count in prop_oneof![0usize..7, 30usize..40],
        k in prop_oneof![1usize..12, Just(64), Just(100), Just(300), Just(2000)],
        exclude in 0usize..3,
        reach in 0usize..30,
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let rows = codes(&mut rng, n, width);
            let mut queries = codes(&mut rng, count, width);
            // Some of the queries are rows.
            for q in (0..count).step_by(3).filter(|_| n > 0) {
                let row = rng.below(n);
                queries[q * width..][..width].copy_from_slice(&rows[row * width..][..width]);
            }
            let maps = Maps::new(exclude, count, n, &mut rng);
            let sets = maps.sets();
            let filter = maps.filter(&sets);
            let corpus = BinaryCorpus::from_tensor(&words(device, &[n, width], &rows)).unwrap();
            let tensor = words(device, &[count, width], &queries);
            let hits = topk(Queries::Codes(&tensor), &corpus, &search(k, filter)).unwrap();
            prop_assert_eq!(hits.len(), count);
            let reach = (reach * width) as u32;
            let near = radius(&tensor, &corpus, reach, filter).unwrap();
            for (q, query) in queries.chunks(width).enumerate() {
                let ranked = oracle::rank(query, &rows, |i| maps.has(q, i));
                let split = |n: usize| -> (Vec<u64>, Vec<f32>) {
                    ranked.iter().take(n).map(|&(d, row)| (row, 0.0 - d as f32)).unzip()
                };
                let (ids, scores) = split(k);
                prop_assert_eq!(hits.get(q), (&ids[..], &scores[..]), "{} query {}", name, q);
                let (ids, scores) = split(ranked.partition_point(|&(d, _)| d <= reach as usize));
                prop_assert_eq!(near.get(q), (&ids[..], &scores[..]), "{} within {}", name, reach);
            }
        }
    }

    #[test]
    fn floats_and_bytes_score_as_the_oracle_does(
        n in prop_oneof![1usize..140, Just(700usize)],
        width in prop_oneof![1usize..9, Just(24usize)],
        count in prop_oneof![1usize..7, 30usize..36],
        k in prop_oneof![1usize..12, Just(100), Just(300)],
        exclude in 0usize..3,
        dtype in 0usize..3,
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let rows = codes(&mut rng, n, width);
            let corpus = BinaryCorpus::from_tensor(&words(device, &[n, width], &rows)).unwrap();
            let maps = Maps::new(exclude, count, n, &mut rng);
            let sets = maps.sets();
            let filter = maps.filter(&sets);
            let bits = 32 * width;
            // Bytes are exact: the order is the oracle's.
            let bytes: Vec<i8> = (0..count * bits).map(|_| rng.next() as i8 / 40).collect();
            let packed: Vec<u32> =
                bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]].map(|b| b as u8))).collect();
            let tensor = words(device, &[count, bits / 4], &packed);
            let hits = topk(Queries::Int8(&tensor), &corpus, &search(k, filter)).unwrap();
            for (q, query) in bytes.chunks(bits).enumerate() {
                let query: Vec<f64> = query.iter().map(|&b| b as f64).collect();
                let mut ranked: Vec<(f32, u64)> = rows
                    .chunks(width)
                    .enumerate()
                    .filter(|(i, _)| !maps.has(q, *i))
                    .map(|(i, code)| (oracle::asymmetric(&query, code).0 as f32, i as u64))
                    .collect();
                ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                let (scores, ids): (Vec<f32>, Vec<u64>) = ranked.into_iter().take(k).unzip();
                prop_assert_eq!(hits.get(q), (&ids[..], &scores[..]), "{} query {}", name, q);
            }
            let (tensor, queries) = normals(device, FLOATS[dtype], &[count, bits], &mut rng);
            let hits = topk(Queries::Floats(&tensor), &corpus, &search(k, filter)).unwrap();
            for (q, query) in queries.chunks(bits).enumerate() {
                let (ids, scores) = hits.get(q);
                let all: Vec<(f64, f64)> =
                    rows.chunks(width).map(|code| oracle::asymmetric(query, code)).collect();
                let open: Vec<usize> = (0..n).filter(|&i| !maps.has(q, i)).collect();
                prop_assert_eq!(ids.len(), k.min(open.len()));
                let slack = |m: f64| 2e-6 * m;
                for (i, (&id, &s)) in ids.iter().zip(scores).enumerate() {
                    let (want, magnitude) = all[id as usize];
                    prop_assert!(open.contains(&(id as usize)), "{} {}", name, id);
                    prop_assert!((s as f64 - want).abs() <= slack(magnitude), "{} {} {}", name, s, want);
                    prop_assert!(i == 0 || scores[i - 1] > s || (scores[i - 1] == s && ids[i - 1] < id));
                }
                if let Some(&last) = scores.last() {
                    for i in open.into_iter().filter(|&i| !ids.contains(&(i as u64))) {
                        prop_assert!(all[i].0 <= last as f64 + 2.0 * slack(all[i].1), "{} row {}", name, i);
                    }
                }
            }
        }
    }

    #[test]
    fn encodes_as_the_oracle_does(
        n in prop_oneof![0usize..40, Just(67usize)],
        dim in prop_oneof![1usize..70, Just(128usize)],
        width in prop_oneof![1usize..6, Just(12usize)],
        project: bool,
        dtype in 0usize..3,
        seed: u64,
    ) {
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let bits = 32 * width;
            let dim = if project { dim } else { bits };
            let (x, xs) = normals(device, FLOATS[dtype], &[n, dim], &mut rng);
            let projection = project.then(|| rng.normals(bits * dim));
            let thresholds = rng.normals(bits);
            let hasher = Hasher::new(device, dim, projection.as_deref(), &thresholds).unwrap();
            let got = encode(&x, &hasher).unwrap();
            prop_assert_eq!(got.shape(), &[n, width]);
            let got = got.to_vec::<u32>().unwrap();
            for (r, x) in xs.chunks(dim).enumerate() {
                let values = oracle::encode(x, projection.as_deref(), &thresholds);
                for (i, (value, magnitude)) in values.into_iter().enumerate() {
                    let bit = got[r * width + i / 32] >> (i % 32) & 1 == 1;
                    let near = value.abs() <= 1e-6 * magnitude * (dim as f64).sqrt();
                    prop_assert!(near || bit == (value > 0.0), "{}: row {} bit {}: {}", name, r, i, value);
                }
            }
        }
    }
}

#[test]
fn zero_and_nan_give_clear_bits_and_infinities_their_signs() {
    for (name, device) in devices() {
        let mut values = vec![0.0f32; 64];
        values[1] = -0.0;
        values[2] = f32::NAN;
        values[3] = f32::INFINITY;
        values[4] = f32::NEG_INFINITY;
        values[33] = 1e-45;
        values[63] = 2.0;
        let x = Tensor::from_slice(device, &[1, 64], &values).unwrap();
        let hasher = Hasher::sign(device, &[0.0; 64]).unwrap();
        let code = encode(&x, &hasher).unwrap().to_vec::<u32>().unwrap();
        // WGSL may flush what is subnormal.
        assert_eq!((code[0], code[1] | 2), (8, 1 << 31 | 2), "{name}");
        // A projection carries a NaN to every bit.
        let hasher = Hasher::random(device, &[0.0; 64], 96, 5).unwrap();
        let code = encode(&x, &hasher).unwrap().to_vec::<u32>().unwrap();
        assert_eq!(code, [0, 0, 0], "{name}");
    }
}

/// Codes and hits of the same rows and queries in different company, bit for bit.
#[test]
fn neither_batch_nor_chunks_nor_k_change_a_bit() {
    for (name, device) in devices() {
        let mut rng = Rng(3);
        let (x, xs) = normals(device, DType::F32, &[150, 77], &mut rng);
        let mean: Vec<f32> = (0..77).map(|d| xs[d] as f32).collect();
        let hasher = Hasher::random(device, &mean, 256, 9).unwrap();
        let all = encode(&x, &hasher).unwrap().to_vec::<u32>().unwrap();
        for rows in [0..1, 1..4, 62..150] {
            let data: Vec<f32> =
                xs[rows.start * 77..rows.end * 77].iter().map(|&v| v as f32).collect();
            let part = Tensor::from_slice(device, &[rows.len(), 77], &data).unwrap();
            let part = encode(&part, &hasher).unwrap().to_vec::<u32>().unwrap();
            assert_eq!(part, all[rows.start * 8..rows.end * 8], "{name} {rows:?}");
        }
        let mut grown = BinaryCorpus::new(device, 256).unwrap();
        for rows in [0..70, 70..71, 71..150] {
            grown.append(&all[rows.start * 8..rows.end * 8]).unwrap();
        }
        let whole = BinaryCorpus::from_tensor(&words(device, &[150, 8], &all)).unwrap();
        let floats = rng.normals(40 * 256);
        let find = |corpus: &BinaryCorpus, n: usize, k: usize| {
            let queries = words(device, &[n, 8], &all[..n * 8]);
            let vectors = Tensor::from_slice(device, &[n, 256], &floats[..n * 256]).unwrap();
            let exact = topk(Queries::Codes(&queries), corpus, &Search::new(k)).unwrap();
            let asymmetric = topk(Queries::Floats(&vectors), corpus, &Search::new(k)).unwrap();
            (exact, asymmetric)
        };
        let (exact, asymmetric) = find(&whole, 40, 20);
        for n in [1, 3, 5, 33, 40] {
            let (few, rough) = find(&grown, n, 20);
            for q in 0..n {
                assert_same_hits(&format!("{name} {n}"), few.get(q), exact.get(q));
                assert_same_hits(&format!("{name} {n}"), rough.get(q), asymmetric.get(q));
            }
        }
        let (longer, _) = find(&whole, 2, 300);
        assert_eq!(&longer.get(1).0[..20], exact.get(1).0, "{name}");
    }
}

#[test]
fn a_corpus_grows_shrinks_and_exceeds_a_binding() {
    for (name, device) in main_devices() {
        let mut rng = Rng(8);
        let rows = codes(&mut rng, 500, 5);
        let mut grown = BinaryCorpus::new(device, 160).unwrap();
        rows.chunks(5).for_each(|row| grown.append(row).unwrap());
        assert!(grown.chunks().len() <= 10, "{name}: {} chunks", grown.chunks().len());
        grown.retain(|i| i % 3 != 1).unwrap();
        let kept: Vec<u32> = rows
            .chunks(5)
            .enumerate()
            .filter(|(i, _)| i % 3 != 1)
            .flat_map(|(_, r)| r.to_vec())
            .collect();
        let there: Vec<u32> = grown.chunks().flat_map(|c| c.to_vec::<u32>().unwrap()).collect();
        assert_eq!(there, kept, "{name}");
        assert_eq!((grown.len(), grown.bytes()), (333, 333 * 20));
    }
    for (name, device) in devices() {
        let mut rng = Rng(2);
        // 1.5 MiB of codes, and of a projection.
        let rows = codes(&mut rng, 24_576, 16);
        let corpus = BinaryCorpus::from_tensor(&words(device, &[24_576, 16], &rows)).unwrap();
        let queries = words(device, &[5, 16], &rows[..80]);
        for k in [3, 400] {
            let hits = topk(Queries::Codes(&queries), &corpus, &Search::new(k)).unwrap();
            for q in 0..5 {
                let ranked = oracle::rank(&rows[q * 16..][..16], &rows, |_| false);
                let ids: Vec<u64> = ranked.iter().take(k).map(|r| r.1).collect();
                assert_eq!(hits.get(q).0, ids, "{name} k {k}");
            }
        }
        let (x, _) = tensor(device, DType::F16, &[3, 768], &rng.normals(3 * 768));
        let hasher = Hasher::random(device, &[0.0; 768], 512, 1).unwrap();
        let codes = encode(&x, &hasher).unwrap().to_vec::<u32>().unwrap();
        let host = Device::cpu();
        let cpu = Hasher::random(&host, &[0.0; 768], 512, 1).unwrap();
        let want = encode(&x.to_device(&host).unwrap(), &cpu).unwrap();
        let differ: usize = oracle::distance(&codes, want.as_slice().unwrap());
        assert!(differ <= 2, "{name}: {differ} bits of the CPU's differ");
    }
}

#[test]
fn a_nan_query_finds_nothing_and_infinities_are_ordinary() {
    for (name, device) in devices() {
        let rows = words(device, &[3, 1], &[0, u32::MAX, 1]);
        let corpus = BinaryCorpus::from_tensor(&rows).unwrap();
        let mut queries = vec![0.0f32; 96];
        queries[5] = f32::NAN;
        queries[32] = f32::INFINITY;
        queries[64] = -1.0;
        let queries = Tensor::from_slice(device, &[3, 32], &queries).unwrap();
        for k in [2, 300] {
            let hits = topk(Queries::Floats(&queries), &corpus, &Search::new(k)).unwrap();
            assert_eq!(hits.get(0).0, &[] as &[u64], "{name}");
            let (ids, scores) = hits.get(1);
            assert_eq!((ids[0], ids[1], scores[0]), (1, 2, f32::INFINITY), "{name}");
            assert_eq!(hits.get(2).0[..2], [0, 1], "{name}");
        }
    }
}

#[test]
fn bad_input_is_refused() {
    let device = &Device::cpu();
    let is = |e: Error, part: &str| assert!(e.to_string().contains(part), "{e}");
    is(BinaryCorpus::new(device, 0).unwrap_err(), "multiple of 32");
    is(BinaryCorpus::new(device, 48).unwrap_err(), "multiple of 32");
    is(BinaryCorpus::new(device, 1 << 18).unwrap_err(), "131072");
    is(Hasher::sign(device, &[0.0; 40]).unwrap_err(), "multiple of 32");
    is(Hasher::new(device, 7, None, &[0.0; 32]).unwrap_err(), "7 thresholds");
    is(Hasher::new(device, 7, Some(&[0.0; 9]), &[0.0; 32]).unwrap_err(), "[32, 7]");
    is(Hasher::random(device, &[], 32, 0).unwrap_err(), "dim");
    let hasher = Hasher::sign(device, &[0.0; 32]).unwrap();
    let x = Tensor::zeros(device, DType::F32, &[2, 33]).unwrap();
    is(encode(&x, &hasher).unwrap_err(), "dimension 32");
    is(hasher.project(&[0.0; 33]).unwrap_err(), "dimension 32");
    let mut corpus = BinaryCorpus::new(device, 64).unwrap();
    is(corpus.append(&[1, 2, 3]).unwrap_err(), "multiple of 2 words");
    corpus.append(&[1, 2]).unwrap();
    let codes = words(device, &[1, 2], &[0, 0]);
    is(topk(Queries::Codes(&codes), &corpus, &Search::new(0)).unwrap_err(), "at least 1");
    is(topk(Queries::Codes(&x), &corpus, &Search::new(1)).unwrap_err(), "u32");
    is(topk(Queries::Floats(&x), &corpus, &Search::new(1)).unwrap_err(), "64 values");
    is(topk(Queries::Int8(&codes), &corpus, &Search::new(1)).unwrap_err(), "16");
    let map = Bitmap::new(4);
    is(
        topk(Queries::Codes(&codes), &corpus, &search(1, Filter::Shared(Rows::Exclude(&map))))
            .unwrap_err(),
        "1 rows",
    );
    let map = Bitmap::new(1);
    let sets = [Rows::Exclude(&map); 2];
    is(radius(&codes, &corpus, 1, Filter::PerQuery(&sets)).unwrap_err(), "1 sets");
    // More than there are bits is everything.
    assert_eq!(radius(&codes, &corpus, u32::MAX, Filter::All).unwrap().get(0).0, [0]);
}
