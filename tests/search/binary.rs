//! `BinaryIndex`: add, remove, filter, search, re-score, save, load; files that are damaged. ITQ against NumPy.

use std::path::Path;

use crate::common::{Rng, devices, golden, main_devices};
use crate::names;
use nearkin::ops::hamming::{Hasher, Itq, encode};
use nearkin::ops::topk::Metric;
use nearkin::search::store::{self, Vectors};
use nearkin::search::{BinaryIndex, BinarySearch, FlatIndex, Hit, Keep};
use nearkin::{DType, Device, Error, Tensor};
use proptest::prelude::*;

const DIM: usize = 40;
const KEEPS: [Keep; 5] = [
    Keep::Codes,
    Keep::Floats(DType::F32),
    Keep::Floats(DType::F16),
    Keep::Floats(DType::BF16),
    Keep::Int8,
];

fn found(hits: &[Hit]) -> Vec<(&str, f32)> {
    hits.iter().map(|h| (&*h.id, h.score)).collect()
}

/// The samples of `tests/goldens/itq_reference.py`.
fn samples(n: usize, dim: usize) -> Vec<f32> {
    let mut state = 12345u64;
    let mut rows = Vec::new();
    for _ in 0..n {
        for j in 0..dim {
            let mut total = 0i64;
            for _ in 0..4 {
                state = (state * 1_103_515_245 + 12345) & 0x7fff_ffff;
                total += (state >> 16) as i64;
            }
            let spread = (dim - j) as f64 / dim as f64;
            rows.push(((total - 65534) as f64 / 16384.0 * spread + (j % 5) as f64 / 4.0) as f32);
        }
    }
    rows
}

#[test]
fn itq_is_what_numpy_fits() {
    let text = std::fs::read_to_string(golden("itq.json")).unwrap();
    let want: serde_json::Value = serde_json::from_str(&text).unwrap();
    let x = samples(300, 40);
    for (name, device) in main_devices() {
        let itq = Itq { seed: 7, ..Itq::new(32) };
        let hasher = Hasher::itq(device, &x, 40, &itq).unwrap();
        let projection = hasher.projection().unwrap();
        let values = want["projection"].as_array().unwrap();
        assert_eq!(values.len(), projection.len());
        for (i, (got, want)) in projection.iter().zip(values).enumerate() {
            let want = want.as_f64().unwrap();
            assert!((*got as f64 - want).abs() < 1e-5, "{name} {i}: {got}, NumPy has {want}");
        }
        let rows = Tensor::from_slice(device, &[300, 40], &x).unwrap();
        let codes = encode(&rows, &hasher).unwrap().to_vec::<u32>().unwrap();
        let values = want["codes"].as_array().unwrap();
        let differ: u32 = codes
            .iter()
            .zip(values)
            .map(|(code, want)| (code ^ want.as_u64().unwrap() as u32).count_ones())
            .sum();
        assert!(differ <= 2, "{name}: {differ} of 9600 bits differ from NumPy's");
    }
}

#[test]
fn itq_refuses_what_it_cannot_fit() {
    let device = &Device::cpu();
    let is = |e: Error, part: &str| assert!(e.to_string().contains(part), "{e}");
    let fit = |x: &[f32], dim: usize, bits: usize| Hasher::itq(device, x, dim, &Itq::new(bits));
    is(fit(&[0.0; 60], 20, 32).unwrap_err(), "at most the dimension 20");
    is(fit(&[0.0; 41], 40, 32).unwrap_err(), "41 values");
    is(fit(&[0.0; 40], 40, 32).unwrap_err(), "2 rows");
    is(fit(&[], 0, 32).unwrap_err(), "dimension 0");
    let mut x = vec![1.0; 80];
    x[43] = f32::INFINITY;
    is(fit(&x, 40, 32).unwrap_err(), "inf in row 1");
    // No spread at all is still a projection of finite numbers.
    let hasher = fit(&[1.0; 400], 40, 32).unwrap();
    assert!(hasher.projection().unwrap().iter().all(|p| p.is_finite()));
}

#[test]
fn random_planes_are_the_same_on_every_platform() {
    let hasher = Hasher::random(&Device::cpu(), &[0.5; 3], 32, 42).unwrap();
    let again = Hasher::random(&Device::cpu(), &[0.5; 3], 32, 42).unwrap();
    assert_eq!(hasher.projection(), again.projection());
    let bits: u64 = hasher
        .projection()
        .unwrap()
        .iter()
        .fold(0, |hash: u64, p| hash.wrapping_mul(31).wrapping_add(p.to_bits() as u64));
    assert_eq!(bits, PLANES, "the generator changed: files of hashers would not");
    let other = Hasher::random(&Device::cpu(), &[0.5; 3], 32, 43).unwrap();
    assert_ne!(hasher.projection(), other.projection());
}

const PLANES: u64 = 1833835946802444837;

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() })]

    /// A history of additions and removals against a fresh index of what is left, before and after a file.
    #[test]
    fn a_history_of_changes_leaves_what_a_fresh_index_has(
        steps in proptest::collection::vec((any::<bool>(), 1usize..60), 1..7),
        keep in 0usize..5,
        asymmetric: bool,
        seed: u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let hasher = Hasher::random(device, &[0.1; DIM], 96, 3).unwrap();
            let mut index = BinaryIndex::new(hasher.clone(), KEEPS[keep]).unwrap();
            let mut model: Vec<(String, Vec<f32>)> = Vec::new();
            let mut next = 0;
            for &(add, n) in &steps {
                if add || model.is_empty() {
                    let data = rng.normals(n * DIM);
                    index.add(&names(next..next + n), &data).unwrap();
                    model.extend(names(next..next + n).into_iter().zip(data.chunks(DIM).map(<[f32]>::to_vec)));
                    next += n;
                } else {
                    let gone: Vec<String> = (0..n).map(|_| model[rng.below(model.len())].0.clone()).collect();
                    let before = model.len();
                    model.retain(|(id, _)| !gone.contains(id));
                    prop_assert_eq!(index.remove(&gone).unwrap(), before - model.len());
                }
            }
            let mut fresh = BinaryIndex::new(hasher, KEEPS[keep]).unwrap();
            let (ids, rows): (Vec<_>, Vec<_>) = model.iter().cloned().unzip();
            fresh.add(&ids, &rows.concat()).unwrap();
            prop_assert_eq!(index.len(), model.len());
            prop_assert_eq!(index.ids().collect::<Vec<_>>(), fresh.ids().collect::<Vec<_>>());
            let path = folder.path().join("index.safetensors");
            index.save(&path).unwrap();
            let loaded = BinaryIndex::load(&path, device).unwrap();
            prop_assert_eq!((loaded.keep(), loaded.dim(), loaded.len()), (KEEPS[keep], DIM, model.len()));
            prop_assert_eq!(loaded.memory_bytes(), fresh.memory_bytes());
            prop_assert_eq!(loaded.host_bytes(), fresh.host_bytes());
            let queries = rng.normals(3 * DIM);
            for metric in [Metric::Dot, Metric::Cosine, Metric::L2] {
                let odd = |id: &str| !id.ends_with('3');
                let search = BinarySearch {
                    asymmetric,
                    oversample: 2,
                    filter: Some(&odd),
                    ..BinarySearch::new(metric, 5)
                };
                let want = fresh.search(&queries, &search).unwrap();
                prop_assert!(want.iter().flatten().all(|h| !h.id.ends_with('3')));
                prop_assert_eq!(&index.search(&queries, &search).unwrap(), &want, "{} {:?}", name, metric);
                prop_assert_eq!(&loaded.search(&queries, &search).unwrap(), &want, "{} loaded", name);
            }
            let want = fresh.search_radius(&queries, 40, None).unwrap();
            prop_assert_eq!(&index.search_radius(&queries, 40, None).unwrap(), &want);
            prop_assert_eq!(&loaded.search_radius(&queries, 40, None).unwrap(), &want);
        }
    }
}

/// With as many candidates as vectors, re-scoring is exact search.
#[test]
fn rescoring_everything_is_exact_search() {
    for (name, device) in main_devices() {
        let mut rng = Rng(6);
        let data = rng.normals(200 * DIM);
        let queries = rng.normals(4 * DIM);
        let mut flat = FlatIndex::new(device, DType::F32, DIM).unwrap();
        flat.add(&names(0..200), &data).unwrap();
        for keep in KEEPS.into_iter().skip(1) {
            let hasher = Hasher::random(device, &[0.0; DIM], 64, 1).unwrap();
            let mut index = BinaryIndex::new(hasher, keep).unwrap();
            index.add(&names(0..200), &data).unwrap();
            for metric in [Metric::Dot, Metric::Cosine, Metric::L2] {
                let search = BinarySearch { oversample: 40, ..BinarySearch::new(metric, 5) };
                let got = index.search(&queries, &search).unwrap();
                let want = flat.search(&queries, 5, metric, None).unwrap();
                for (got, want) in got.iter().zip(&want) {
                    // Rounded vectors may change places that are close.
                    let tolerance = if keep == Keep::Floats(DType::F32) { 1e-5 } else { 0.05 };
                    assert_eq!(got.len(), 5);
                    for (a, b) in got.iter().zip(want) {
                        let close = (a.score - b.score).abs() <= tolerance * b.score.abs().max(1.0);
                        assert!(close, "{name} {keep:?} {metric:?}: {a:?}, exactly {b:?}");
                    }
                    if keep == Keep::Floats(DType::F32) {
                        let ids =
                            |hits: &[Hit]| hits.iter().map(|h| h.id.clone()).collect::<Vec<_>>();
                        assert_eq!(ids(got), ids(want), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn codes_alone_give_distances_in_order_and_nan_nothing() {
    for (name, device) in devices() {
        let hasher = Hasher::sign(device, &[0.0; 32]).unwrap();
        let mut index = BinaryIndex::new(hasher, Keep::Codes).unwrap();
        let row = |clear: usize| {
            (0..32).map(|i| if i < clear { -1.0 } else { 1.0 }).collect::<Vec<f32>>()
        };
        index
            .add(&["four", "none", "two", "both"], &[row(4), row(0), row(2), row(2)].concat())
            .unwrap();
        let mut queries = row(0);
        queries.extend(row(3));
        queries.push(f32::NAN);
        queries.extend([1.0; 31]);
        let got = index.search(&queries, &BinarySearch::new(Metric::Dot, 3)).unwrap();
        assert_eq!(found(&got[0]), [("none", 0.0), ("two", -2.0), ("both", -2.0)], "{name}");
        assert_eq!(found(&got[1]), [("four", -1.0), ("two", -1.0), ("both", -1.0)], "{name}");
        assert_eq!(found(&got[2]), [], "{name}");
        let got = index.search_radius(&queries, 2, None).unwrap();
        assert_eq!(found(&got[0]).len(), 3, "{name}");
        assert_eq!((found(&got[1]).len(), got[2].len()), (3, 0), "{name}");
        assert_eq!((index.memory_bytes(), index.host_bytes()), (4 * 4 + 128, 128), "{name}");
    }
}

#[test]
fn bad_input_is_refused() {
    let device = &Device::cpu();
    let is = |e: Error, part: &str| assert!(e.to_string().contains(part), "{e}");
    let hasher = Hasher::sign(device, &[0.0; 32]).unwrap();
    is(BinaryIndex::new(hasher.clone(), Keep::Floats(DType::U32)).unwrap_err(), "f32, f16 or bf16");
    let mut index = BinaryIndex::new(hasher, Keep::Int8).unwrap();
    is(index.add(&["a"], &[0.0; 31]).unwrap_err(), "31 values");
    is(index.add(&["a", "a"], &[0.0; 64]).unwrap_err(), "'a' in the rows 0 and 1");
    assert!(index.is_empty() && !index.contains("a"));
    index.add(&["a"], &[1.0; 32]).unwrap();
    is(index.search(&[0.0; 33], &BinarySearch::new(Metric::Dot, 1)).unwrap_err(), "dimension 32");
    is(index.search(&[0.0; 32], &BinarySearch::new(Metric::Dot, 0)).unwrap_err(), "k");
    let search = BinarySearch { oversample: 0, ..BinarySearch::new(Metric::Dot, 1) };
    is(index.search(&[0.0; 32], &search).unwrap_err(), "oversample");
    is(index.search_radius(&[0.0; 5], 1, None).unwrap_err(), "dimension 32");
}

fn load(path: &Path) -> String {
    BinaryIndex::load(path, &Device::cpu()).unwrap_err().to_string()
}

#[test]
fn hostile_files_are_errors_that_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    let device = &Device::cpu();
    let mut index =
        BinaryIndex::new(Hasher::random(device, &[0.0; DIM], 64, 1).unwrap(), Keep::Int8).unwrap();
    index.add(&names(0..20), &Rng(1).normals(20 * DIM)).unwrap();
    index.save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    // Any byte that changes is noticed; so is an end that is missing.
    for at in [0, 9, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, &damaged).unwrap();
        assert!(!load(&path).is_empty(), "byte {at}");
    }
    std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    assert!(load(&path).contains("not a whole safetensors file"));

    let words = [0u32; 4];
    let codes = |shape: &[usize]| {
        let bytes: std::borrow::Cow<'_, [u8]> =
            std::borrow::Cow::Borrowed(bytemuck::cast_slice(&words[..shape.iter().product()]));
        Vectors::parts(DType::U32, shape, std::iter::once(Ok(bytes)))
    };
    let zeros = [0.0f32; 64];
    let ids = ["a", "b"];
    let case = |tensors: Vec<(&str, Vectors<'_>)>, part: &str| {
        store::write(&path, tensors, &ids).unwrap();
        let error = load(&path);
        assert!(error.contains(part), "{error}");
    };
    let f32 = |n: usize| Vectors::f32(&[n], &zeros[..n]);
    case(vec![("codes", codes(&[2, 1]))], "thresholds");
    case(vec![("thresholds", f32(32))], "codes");
    case(vec![("thresholds", f32(33)), ("codes", codes(&[2, 1]))], "multiple of 32");
    case(vec![("thresholds", f32(0)), ("codes", codes(&[2, 1]))], "multiple of 32");
    case(vec![("thresholds", f32(32)), ("codes", codes(&[2, 2]))], "expected [any, 1]");
    case(vec![("thresholds", f32(32)), ("codes", f32(2))], "expected U32");
    case(vec![("thresholds", f32(32)), ("codes", codes(&[3, 1]))], "2 ids for 3");
    let projection = Vectors::f32(&[31, 2], &zeros[..62]);
    case(
        vec![("thresholds", f32(32)), ("projection", projection), ("codes", codes(&[2, 1]))],
        "projection",
    );
    let int8 = codes(&[2, 2]);
    case(vec![("thresholds", f32(32)), ("int8", int8), ("codes", codes(&[2, 1]))], "int8");
    let rows = Vectors::f32(&[2, 31], &zeros[..62]);
    case(
        vec![("thresholds", f32(32)), ("embeddings", rows), ("codes", codes(&[2, 1]))],
        "embeddings",
    );
}
