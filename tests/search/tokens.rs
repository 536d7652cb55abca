//! `TokenIndex`: add, remove, filter, search, rerank, save, load; files that are damaged.

use std::collections::HashMap;
use std::path::Path;

use crate::common::{Rng, devices, main_devices};
use nearkin::ops::maxsim::{MaxSim, Side, Storage};
use nearkin::ops::residual::{Codec, Training};
use nearkin::search::store::{self, Vectors};
use nearkin::search::{Hit, TokenIndex};
use nearkin::{Device, DeviceOptions, Error, Tensor};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const DIM: usize = 32;
/// Centroids of compressed indexes.
const CLUSTERS: usize = 4;
const STORAGES: [Storage; 5] =
    [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8, Storage::Binary];

/// Items by their tokens.
#[derive(Clone, Debug, Default)]
struct Items {
    ids: Vec<String>,
    values: Vec<f32>,
    offsets: Vec<i64>,
}

impl Items {
    fn random(range: std::ops::Range<usize>, most: usize, rng: &mut Rng) -> Items {
        let mut items = Items { offsets: vec![0], ..Items::default() };
        for i in range {
            let tokens = 1 + rng.below(most);
            items.ids.push(format!("id{i}"));
            items.values.extend(rng.normals(tokens * DIM));
            items.offsets.push(items.offsets[items.offsets.len() - 1] + tokens as i64);
        }
        items
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn get(&self, i: usize) -> &[f32] {
        &self.values[self.offsets[i] as usize * DIM..self.offsets[i + 1] as usize * DIM]
    }

    fn push(&mut self, id: &str, values: &[f32]) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.ids.push(id.into());
        self.values.extend_from_slice(values);
        self.offsets.push((self.values.len() / DIM) as i64);
    }

    fn kept(&self, keep: impl Fn(&str) -> bool) -> Items {
        let mut items = Items { offsets: vec![0], ..Items::default() };
        for i in (0..self.len()).filter(|&i| keep(&self.ids[i])) {
            items.push(&self.ids[i], self.get(i));
        }
        items
    }
}

fn unit(v: &[f32]) -> Vec<f64> {
    let length = v.iter().map(|&v| (v as f64).powi(2)).sum::<f64>().sqrt();
    v.iter().map(|&v| v as f64 / length).collect()
}

/// ColBERT's score in f64.
fn maxsim(query: &[f32], document: &[f32]) -> f64 {
    let document: Vec<Vec<f64>> = document.chunks(DIM).map(unit).collect();
    let best = |q: &[f32]| {
        let q = unit(q);
        let dots = document.iter().map(|d| q.iter().zip(d).map(|(q, d)| q * d).sum::<f64>());
        dots.fold(f64::NEG_INFINITY, f64::max)
    };
    query.chunks(DIM).map(best).sum()
}

fn index(device: &Device, storage: Storage, items: &Items) -> TokenIndex {
    let mut index = TokenIndex::new(device, storage, DIM).unwrap();
    index.add(&items.ids, &items.values, &items.offsets).unwrap();
    index
}

fn compressed(device: &Device, bits: u32, items: &Items) -> TokenIndex {
    let how = Training { bits, clusters: CLUSTERS, rounds: 1, seed: 3 };
    index(device, Storage::F32, items).compress(&how).unwrap()
}

/// An index of every kind on a device, named.
fn kinds(device: &Device, items: &Items) -> Vec<(String, TokenIndex)> {
    let plain = STORAGES.map(|s| (s.name().to_string(), index(device, s, items)));
    let bits = [1, 2, 4].map(|b| (format!("{b} bits"), compressed(device, b, items)));
    plain.into_iter().chain(bits).collect()
}

fn bits(found: &[Vec<Hit>]) -> Vec<Vec<(String, u32)>> {
    let hit = |h: &Hit| (h.id.to_string(), h.score.to_bits());
    found.iter().map(|hits| hits.iter().map(hit).collect()).collect()
}

#[test]
fn a_search_finds_what_comparing_all_finds() {
    let mut rng = Rng(1);
    let (documents, queries) =
        (Items::random(0..40, 9, &mut rng), Items::random(0..3, 5, &mut rng));
    for (device, d) in devices() {
        let index = index(d, Storage::F32, &documents);
        assert_eq!((index.len(), index.tokens()), (40, documents.values.len() / DIM));
        let found = index.search(&queries.values, &queries.offsets, 40, None).unwrap();
        for (q, hits) in found.iter().enumerate() {
            assert_eq!(hits.len(), 40, "{device}");
            assert!(hits.windows(2).all(|w| w[0].score >= w[1].score));
            for hit in hits {
                let i: usize = hit.id[2..].parse().unwrap();
                let want = maxsim(queries.get(q), documents.get(i));
                assert!((hit.score as f64 - want).abs() < 1e-5, "{device}: {hit:?}, {want}");
            }
        }
    }
}

/// What is kept may be rounded; search, filter, rerank and the values given back agree about it, to the bit.
#[test]
fn every_storage_agrees_with_itself() {
    let mut rng = Rng(2);
    let (documents, queries) =
        (Items::random(0..30, 7, &mut rng), Items::random(0..3, 6, &mut rng));
    for (device, d) in devices() {
        for (kind, index) in kinds(d, &documents) {
            let what = format!("{kind} on {device}");
            let all = index.search(&queries.values, &queries.offsets, 99, None).unwrap();
            assert!(all.iter().all(|hits| hits.len() == 30), "{what}");
            // Any k is the beginning of all.
            let few = index.search(&queries.values, &queries.offsets, 4, None).unwrap();
            for (few, all) in few.iter().zip(&all) {
                assert_eq!(few[..], all[..4], "{what}");
            }
            let keep = |id: &str| id.ends_with(['3', '7']);
            let some = index.search(&queries.values, &queries.offsets, 99, Some(&keep)).unwrap();
            let lists: Vec<Vec<String>> = vec![
                documents.ids.iter().filter(|id| keep(id)).rev().cloned().collect(),
                Vec::new(),
                vec!["id5".into(), "id29".into(), "id0".into()],
            ];
            let ranked = index.rerank(&queries.values, &queries.offsets, &lists).unwrap();
            assert_eq!(bits(&ranked[..1]), bits(&some[..1]), "{what}");
            assert!(ranked[1].is_empty());
            let third = all[2].iter().filter(|h| lists[2].iter().any(|id| **id == *h.id));
            assert_eq!(ranked[2], third.cloned().collect::<Vec<_>>(), "{what}");
            // What comes back is what was added, as exactly as the storage is.
            let got = index.to_f32_vec().unwrap();
            let least = got
                .chunks(DIM)
                .zip(documents.values.chunks(DIM))
                .map(|(g, v)| unit(g).iter().zip(unit(v)).map(|(a, b)| a * b).sum::<f64>())
                .fold(1.0, f64::min);
            let want = match kind.as_str() {
                "binary" | "1 bits" => 0.5,
                "2 bits" => 0.7,
                "4 bits" => 0.9,
                _ => 0.999,
            };
            assert!(least > want, "{what}: {least}");
            assert_eq!(index.offsets(), documents.offsets);
        }
    }
}

#[test]
fn memory_is_what_the_documentation_says() {
    let documents = Items::random(0..12, 5, &mut Rng(4));
    let (n, t) = (12, documents.values.len() / DIM);
    for (_, d) in main_devices() {
        for (kind, index) in kinds(d, &documents) {
            let bytes = |b: u32| t * (4 + 4 * (DIM * b as usize).div_ceil(32));
            let want = match (index.codec(), index.storage()) {
                (Some(c), _) => bytes(c.bits()) + 4 * CLUSTERS * (DIM + 1) + (4 << c.bits()),
                (None, Storage::F32) => 4 * t * DIM,
                (None, Storage::F16 | Storage::BF16) => 2 * t * DIM,
                (None, Storage::Int8) => t * (DIM + 4),
                (None, Storage::Binary) => t * DIM / 8,
            };
            assert_eq!(index.memory_bytes(), want + 4 * (n + 1), "{kind}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() })]

    /// A history of additions and removals, against a model that is a list.
    #[test]
    fn a_history_of_changes_leaves_what_a_list_would(
        steps in proptest::collection::vec((any::<bool>(), 1usize..25), 1..7),
        storage in 0usize..6,
        seed: u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.safetensors");
        for (name, device) in main_devices() {
            let mut rng = Rng(seed);
            let seeds = Items::random(0..20, 4, &mut Rng(9));
            let empty = |codec: Option<&Codec>| match codec {
                Some(codec) => TokenIndex::with_codec(codec.clone()),
                None => TokenIndex::new(device, STORAGES[storage], DIM).unwrap(),
            };
            let codec = (storage == 5).then(|| compressed(device, 2, &seeds));
            let codec = codec.as_ref().and_then(TokenIndex::codec);
            let mut index = empty(codec);
            let mut model = Items { offsets: vec![0], ..Items::default() };
            let mut next = 0;
            for &(add, n) in &steps {
                if add || model.len() == 0 {
                    let items = Items::random(next..next + n, 5, &mut rng);
                    index.add(&items.ids, &items.values, &items.offsets).unwrap();
                    (0..n).for_each(|i| model.push(&items.ids[i], items.get(i)));
                    next += n;
                } else {
                    let mut gone: Vec<String> =
                        (0..n).map(|_| model.ids[rng.below(model.len())].clone()).collect();
                    gone.push("never there".into());
                    let before = model.len();
                    model = model.kept(|id| !gone.iter().any(|g| g == id));
                    prop_assert_eq!(index.remove(&gone).unwrap(), before - model.len());
                    prop_assert_eq!(index.remove(&gone).unwrap(), 0);
                }
            }
            prop_assert_eq!(index.len(), model.len());
            prop_assert!(index.ids().eq(model.ids.iter()));
            prop_assert_eq!(index.offsets(), model.offsets.clone());
            prop_assert_eq!(index.tokens(), model.values.len() / DIM);
            let queries = Items::random(0..2, 4, &mut rng);
            let found = index.search(&queries.values, &queries.offsets, 5, None).unwrap();
            let mut fresh = empty(codec);
            fresh.add(&model.ids, &model.values, &model.offsets).unwrap();
            let again = fresh.search(&queries.values, &queries.offsets, 5, None).unwrap();
            prop_assert_eq!(bits(&found), bits(&again), "{}", name);
            index.save(&path).unwrap();
            let loaded = TokenIndex::load(&path, device).unwrap();
            prop_assert_eq!(loaded.to_f32_vec().unwrap(), index.to_f32_vec().unwrap());
            prop_assert!(loaded.ids().eq(model.ids.iter()));
            let again = loaded.search(&queries.values, &queries.offsets, 5, None).unwrap();
            prop_assert_eq!(bits(&found), bits(&again), "{}", name);
        }
    }
}

#[test]
fn every_kind_is_saved_and_loaded() {
    let documents = Items::random(0..12, 5, &mut Rng(5));
    let queries = Items::random(0..2, 4, &mut Rng(6));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    for (device, d) in main_devices() {
        for (kind, index) in kinds(d, &documents) {
            index.save(&path).unwrap();
            let loaded = TokenIndex::load(&path, d).unwrap();
            assert_eq!(loaded.storage(), index.storage());
            assert_eq!(loaded.codec().map(Codec::bits), index.codec().map(Codec::bits));
            let search = |i: &TokenIndex| {
                bits(&i.search(&queries.values, &queries.offsets, 5, None).unwrap())
            };
            assert_eq!(search(&loaded), search(&index), "{kind} on {device}");
        }
    }
}

#[test]
fn what_embed_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.safetensors");
    let documents = Items::random(0..9, 5, &mut Rng(7));
    let tokens = documents.values.len() / DIM;
    let tensors = vec![
        ("tokens", Vectors::f32(&[tokens, DIM], &documents.values)),
        ("offsets", Vectors::i64(&[10], &documents.offsets)),
    ];
    store::write(&path, tensors, &documents.ids).unwrap();
    for (device, d) in main_devices() {
        let loaded = TokenIndex::load(&path, d).unwrap();
        assert!(loaded.ids().eq(documents.ids.iter()));
        let same = index(d, Storage::F32, &documents);
        assert_eq!(loaded.to_f32_vec().unwrap(), same.to_f32_vec().unwrap(), "{device}");
        let half = loaded.to_storage(Storage::F16).unwrap();
        assert_eq!((half.storage(), half.len()), (Storage::F16, 9));
    }
}

#[test]
fn another_score_may_be_chosen() {
    let (documents, queries) =
        (Items::random(0..9, 5, &mut Rng(7)), Items::random(0..1, 4, &mut Rng(8)));
    for (device, d) in main_devices() {
        let mut index = index(d, Storage::F32, &documents);
        let sums = index.search(&queries.values, &queries.offsets, 9, None).unwrap();
        index.set_maxsim(MaxSim::filip(Side::Queries));
        let means = index.search(&queries.values, &queries.offsets, 9, None).unwrap();
        let tokens = queries.offsets[1] as f32;
        for (sum, mean) in sums[0].iter().zip(&means[0]) {
            assert!((sum.score / tokens - mean.score).abs() < 1e-6, "{device}: {sum:?} {mean:?}");
        }
    }
}

#[test]
fn items_without_tokens_and_queries_that_are_not_finite() {
    for (device, d) in main_devices() {
        let mut documents = Items::random(0..6, 4, &mut Rng(9));
        documents.push("empty", &[]);
        let mut queries = Items::random(0..1, 3, &mut Rng(10));
        let mut nan = queries.get(0)[..DIM].to_vec();
        nan[3] = f32::NAN;
        queries.push("nan", &nan);
        queries.push("none", &[]);
        for (kind, index) in kinds(d, &documents) {
            let what = format!("{kind} on {device}");
            let found = index.search(&queries.values, &queries.offsets, 9, None).unwrap();
            assert_eq!(found[0].len(), 6, "{what}");
            assert!(found[1].is_empty(), "{what}");
            assert!(found[2].iter().all(|h| h.score == 0.0), "{what}: {:?}", found[2]);
            let lists = [vec!["id0", "empty"], vec!["id1"], vec!["id2"]];
            let ranked = index.rerank(&queries.values, &queries.offsets, &lists).unwrap();
            let last = &ranked[0][1];
            assert_eq!((&*last.id, last.score), ("empty", f32::NEG_INFINITY), "{what}");
            assert_eq!(ranked[1][0].score, f32::NEG_INFINITY, "{what}");
        }
    }
}

#[test]
fn wrong_requests_are_typed_and_change_nothing() {
    for (_, d) in main_devices() {
        let argument = |e: Error| assert!(matches!(e, Error::Argument { .. }), "{e}");
        let shape = |e: Error| assert!(matches!(e, Error::Shape { .. }), "{e}");
        argument(TokenIndex::new(d, Storage::F32, 12).unwrap_err());
        argument(TokenIndex::new(d, Storage::Binary, 40).unwrap_err());
        argument(TokenIndex::new(d, Storage::F32, 0).unwrap_err());
        argument(TokenIndex::new(d, Storage::F32, 1032).unwrap_err());
        let documents = Items::random(0..3, 4, &mut Rng(9));
        let mut index = index(d, Storage::F32, &documents);
        let one = [0.5; DIM];
        argument(index.add(&["id1"], &one, &[0, 1]).unwrap_err());
        argument(index.add(&["x", "x"], &one, &[0, 1, 1]).unwrap_err());
        argument(index.add(&["x"], &[f32::INFINITY; DIM], &[0, 1]).unwrap_err());
        shape(index.add(&["x"], &one[1..], &[0, 1]).unwrap_err());
        shape(index.add(&["x", "y"], &one, &[0, 1]).unwrap_err());
        for offsets in [&[][..], &[1, 1], &[0, 2], &[0, -1], &[0, 2, 1], &[0, i64::MIN, 1]] {
            argument(index.add(&["x"], &one, offsets).unwrap_err());
        }
        argument(index.search(&one, &[0, 1], 0, None).unwrap_err());
        shape(index.search(&one[1..], &[0, 1], 1, None).unwrap_err());
        argument(index.search(&one, &[0, 2], 1, None).unwrap_err());
        argument(index.rerank(&one, &[0, 1], &[vec!["gone"]]).unwrap_err());
        argument(index.rerank::<&str>(&one, &[0, 1], &[]).unwrap_err());
        assert_eq!(index.search(&[], &[0], 1, None).unwrap(), Vec::<Vec<_>>::new());
        assert_eq!((index.len(), index.contains("x")), (3, false));
        let empty = TokenIndex::new(d, Storage::Int8, DIM).unwrap();
        assert_eq!(empty.search(&one, &[0, 1], 3, None).unwrap(), vec![vec![]]);
        let how = Training { bits: 2, clusters: 4, rounds: 1, seed: 0 };
        argument(empty.compress(&how).unwrap_err());
    }
}

#[test]
fn a_full_device_keeps_the_index_as_it_was() {
    let options = DeviceOptions { memory_limit: Some(1 << 20), ..Default::default() };
    let device = Device::cpu_with(options);
    let documents = Items::random(0..50, 9, &mut Rng(4));
    let mut index = index(&device, Storage::F32, &documents);
    let more = vec![0.5; 20_000 * DIM];
    let error = index.add(&["huge"], &more, &[0, 20_000]).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert_eq!((index.len(), index.contains("huge")), (50, false));
    let found =
        index.search(documents.get(7), &[0, (documents.get(7).len() / DIM) as i64], 1, None);
    assert_eq!(&*found.unwrap()[0][0].id, "id7");
}

/// Writes a file of these tensors.
fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)], entries: &[(&str, &str)]) {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.to_string(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let metadata: HashMap<String, String> =
        entries.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    std::fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

fn bytes<T: bytemuck::Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    let cpu = Device::cpu();
    let documents = Items::random(0..6, 3, &mut Rng(11));
    let refused = || match TokenIndex::load(&path, &cpu) {
        Err(Error::Weights { file, .. } | Error::Data { file, .. }) => assert_eq!(file, path),
        other => panic!("{other:?}"),
    };
    let mut rng = Rng(3);
    for (_, index) in kinds(&cpu, &documents) {
        index.save(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for cut in [1, 7, 8, 9, 100, good.len() - 1] {
            std::fs::write(&path, &good[..cut]).unwrap();
            refused();
        }
        let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        for _ in 0..20 {
            let mut bad = good.clone();
            bad[header + rng.below(good.len() - header)] ^= 1 << rng.below(8);
            std::fs::write(&path, &bad).unwrap();
            refused();
        }
        // A changed header is an error or, where it changes nothing that matters, still an index.
        for _ in 0..150 {
            let mut bad = good.clone();
            bad[rng.below(header)] = rng.next() as u8;
            std::fs::write(&path, &bad).unwrap();
            let _ = TokenIndex::load(&path, &cpu);
        }
    }
    let tokens = |dtype: Dtype, shape: Vec<usize>, size: usize| {
        let n = shape.iter().product::<usize>() * size;
        ("tokens", dtype, shape, vec![0u8; n])
    };
    let offsets = |bounds: &[i64]| ("offsets", Dtype::I64, vec![bounds.len()], bytes(bounds));
    let good = || vec![tokens(Dtype::F32, vec![3, 8], 4), offsets(&[0, 1, 3])];
    write(&path, &good(), &[]);
    assert_eq!(TokenIndex::load(&path, &cpu).unwrap().ids().collect::<Vec<_>>(), ["0", "1"]);
    let cases = [
        vec![tokens(Dtype::F32, vec![3, 8], 4)],
        vec![offsets(&[0, 3])],
        vec![tokens(Dtype::F32, vec![24], 4), offsets(&[0, 24])],
        vec![tokens(Dtype::F32, vec![3, 12], 4), offsets(&[0, 3])],
        vec![tokens(Dtype::F32, vec![0, 8 << 40], 4), offsets(&[0])],
        vec![tokens(Dtype::I32, vec![3, 8], 4), offsets(&[0, 3])],
        vec![tokens(Dtype::F32, vec![3, 8], 4), offsets(&[])],
        vec![tokens(Dtype::F32, vec![3, 8], 4), offsets(&[0, 2])],
        vec![tokens(Dtype::F32, vec![3, 8], 4), offsets(&[1, 3])],
        vec![tokens(Dtype::F32, vec![3, 8], 4), offsets(&[0, 2, 1, 3])],
        vec![tokens(Dtype::F32, vec![3, 8], 4), offsets(&[0, i64::MIN, 3])],
        vec![("tokens", Dtype::F32, vec![1, 8], bytes(&[f32::NAN; 8])), offsets(&[0, 1])],
        vec![good()[0].clone(), ("offsets", Dtype::I32, vec![2], bytes(&[0i32, 3]))],
    ];
    for case in cases {
        write(&path, &case, &[]);
        refused();
    }
    for ids in [r#"["a"]"#, r#"["a","a"]"#, "nonsense"] {
        write(&path, &good(), &[("ids", ids)]);
        refused();
    }
    let words = |n: usize| ("tokens", Dtype::U32, vec![3, n], vec![0u8; 12 * n]);
    let scales = |v: f32| ("scales", Dtype::F32, vec![3], bytes(&[v; 3]));
    let infinite = ("tokens", Dtype::F32, vec![3, 8], bytes(&[f32::INFINITY; 24]));
    let int8 = r#"{"storage":"int8","dim":8}"#;
    let residual = r#"{"storage":"residual","dim":8}"#;
    let codec = |code: u32| {
        vec![
            words(1),
            offsets(&[0, 3]),
            ("codes", Dtype::U32, vec![3], bytes(&[code; 3])),
            ("centroids", Dtype::F32, vec![2, 8], bytes(&[0.5f32; 16])),
            ("cutoffs", Dtype::F32, vec![1], bytes(&[0f32])),
            ("weights", Dtype::F32, vec![2], bytes(&[-0.1f32, 0.1])),
        ]
    };
    write(&path, &[words(2), scales(1.0), offsets(&[0, 3])], &[("tokens", int8)]);
    TokenIndex::load(&path, &cpu).unwrap();
    write(&path, &codec(1), &[("tokens", residual)]);
    assert_eq!(TokenIndex::load(&path, &cpu).unwrap().codec().unwrap().bits(), 1);
    let mut descending = codec(1);
    descending[4].3 = bytes(&[f32::NAN]);
    let mut other = codec(1);
    other[3] = ("centroids", Dtype::F32, vec![1, 16], bytes(&[0.5f32; 16]));
    for (tensors, entry) in [
        (good(), "nonsense"),
        (good(), r#"{"storage":"f31","dim":8}"#),
        (good(), r#"{"storage":"f32","dim":16}"#),
        (good(), r#"{"storage":"f32","dim":12}"#),
        (good(), r#"{"storage":"f16","dim":8}"#),
        (good(), int8),
        (good(), residual),
        (vec![words(2), offsets(&[0, 3])], int8),
        (vec![words(2), scales(-1.0), offsets(&[0, 3])], int8),
        (vec![words(2), scales(f32::NAN), offsets(&[0, 3])], int8),
        (vec![infinite, offsets(&[0, 3])], r#"{"storage":"f32","dim":8}"#),
        (codec(2), residual),
        (codec(1), r#"{"storage":"residual","dim":40}"#),
        (codec(1)[..5].to_vec(), residual),
        (descending, residual),
        (other, residual),
    ] {
        write(&path, &tensors, &[("tokens", entry)]);
        refused();
    }
    assert!(matches!(TokenIndex::load(folder.path(), &cpu), Err(Error::Io { .. })));
}

#[test]
fn an_index_of_many_parts_is_searched_whole() {
    // 35 MB of f32 at 32 dimensions: two parts.
    const TOKENS: usize = 1000;
    let ids: Vec<String> = (0..270).map(|i| i.to_string()).collect();
    let document = |id: &String| -> Vec<f32> {
        let mut rng = Rng(id.parse().unwrap());
        (0..TOKENS * DIM).map(|_| rng.unit() - 0.5).collect()
    };
    for (device, d) in main_devices().iter().filter(|(name, _)| *name != "cuda") {
        let mut index = TokenIndex::new(d, Storage::F32, DIM).unwrap();
        for part in ids.chunks(100) {
            let values: Vec<f32> = part.iter().flat_map(document).collect();
            let offsets: Vec<i64> = (0..=part.len()).map(|i| (i * TOKENS) as i64).collect();
            index.add(part, &values, &offsets).unwrap();
        }
        for i in [0, 99, 261, 269] {
            let query = &document(&ids[i])[5 * DIM..7 * DIM];
            let found = index.search(query, &[0, 2], 2, None).unwrap();
            assert_eq!(*found[0][0].id, ids[i], "{device}");
            assert!((found[0][0].score - 2.0).abs() < 1e-5 && found[0][1].score < 2.0, "{device}");
            let ranked =
                index.rerank(query, &[0, 2], &[vec![&ids[269], &ids[i], &ids[0]]]).unwrap();
            assert_eq!(ranked[0][0], found[0][0], "{device}");
        }
    }
}

#[test]
fn documents_added_to_a_codec_are_those_that_compressing_gives() {
    let device = Device::cpu();
    let documents = Items::random(0..12, 5, &mut Rng(5));
    let first = compressed(&device, 2, &documents);
    let mut second = TokenIndex::with_codec(first.codec().unwrap().clone());
    second.add(&documents.ids, &documents.values, &documents.offsets).unwrap();
    assert_eq!(first.to_f32_vec().unwrap(), second.to_f32_vec().unwrap());
    let centroids: &Tensor = first.codec().unwrap().centroids();
    assert_eq!(centroids.shape(), [CLUSTERS, DIM]);
}
