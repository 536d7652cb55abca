//! The one rule of all indexes for values that are not finite, or that the storage cannot hold.

use std::borrow::Cow;

use nearkin::ops::hamming::Hasher;
use nearkin::ops::maxsim::Storage;
use nearkin::ops::topk::Metric;
use nearkin::search::cur::{Anchors, CurOptions, Form, Regularisation, ScoreMatrix};
use nearkin::search::store::{self, Vectors};
use nearkin::search::{BinaryIndex, BinarySearch, CurIndex, FlatIndex, Keep, TokenIndex};
use nearkin::{DType, Device, Error, Result, bf16, f16};

use crate::common::{FLOATS, Rng, main_devices};
use crate::names;

const DIM: usize = 32;
const ROWS: usize = 9;

/// Rows of which the fifth has `value` in its midst.
fn with(value: f32) -> Vec<f32> {
    let mut values = Rng(3).normals(ROWS * DIM);
    values[4 * DIM + 13] = value;
    values
}

/// What a stored type makes of a value.
fn rounded(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Values at the ends of the types, and none at all.
const VALUES: [f32; 8] =
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65520.0, -65519.9, f32::MAX, 3.3895e38, -1e30];

/// Asserts that a value is refused if `dtype` cannot hold it, with all that one has to know.
#[track_caller]
fn check(what: &str, dtype: DType, value: f32, place: &str, added: Result<()>, len: usize) {
    let holds = rounded(dtype, value).is_finite();
    match added {
        Ok(()) => assert!(holds && len == ROWS, "{what} {value}: {len} rows"),
        Err(Error::Argument { expected, got, .. }) => {
            assert!(!holds && len == 0, "{what} {value}: {len} rows");
            assert_eq!(got, format!("{value} in {place}"), "{what}");
            let largest = match dtype {
                DType::F16 => "6.5504e4",
                DType::BF16 => "3.3895314e38",
                _ => "3.4028235e38",
            };
            assert!(expected.contains(largest), "{what} {value}: {expected}");
        }
        Err(e) => panic!("{what} {value}: {e}"),
    }
}

#[test]
fn adding_refuses_what_the_storage_cannot_hold() {
    let ids = names(0..ROWS);
    let place = "row 4, 'id4'";
    for (name, device) in main_devices() {
        for value in VALUES {
            for dtype in FLOATS {
                let mut index = FlatIndex::new(device, dtype, DIM).unwrap();
                let added = index.add(&ids, &with(value));
                check(&format!("{name} {dtype}"), dtype, value, place, added, index.len());
                // The index goes on.
                index.add(&["more"], &[1.0; DIM]).unwrap();
                let found = index.search(&[1.0; DIM], 1, Metric::Cosine, None).unwrap();
                assert_eq!(&*found[0][0].id, "more", "{name} {dtype} {value}");
            }
            let floats = FLOATS.map(|dtype| (Keep::Floats(dtype), dtype));
            let keeps = [(Keep::Codes, DType::F32), (Keep::Int8, DType::F32)];
            for (keep, dtype) in floats.into_iter().chain(keeps) {
                let hasher = Hasher::new(device, DIM, None, &[0.0; DIM]).unwrap();
                let mut index = BinaryIndex::new(hasher, keep).unwrap();
                let added = index.add(&ids, &with(value));
                check(&format!("{name} {keep:?}"), dtype, value, place, added, index.len());
                index.add(&["more"], &[1.0; DIM]).unwrap();
                let search = BinarySearch::new(Metric::Cosine, 1);
                assert_eq!(&*index.search(&[1.0; DIM], &search).unwrap()[0][0].id, "more");
            }
            // Vectors of length 1 are what is kept, in any storage.
            for storage in
                [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8, Storage::Binary]
            {
                let mut index = TokenIndex::new(device, storage, DIM).unwrap();
                let bounds: Vec<i64> = (0..=ROWS as i64).collect();
                let added = index.add(&ids, &with(value), &bounds);
                let place = "token 4, of document 'id4'";
                check(&format!("{name} {storage:?}"), DType::F32, value, place, added, index.len());
            }
        }
    }
}

/// What CUR keeps is computed: it may end beyond the storage where the scores do not.
#[test]
fn cur_refuses_what_the_storage_cannot_hold() {
    let (queries, items) = (6, 20);
    for (name, device) in main_devices() {
        let scores = |factor: f32| {
            let values = Rng(5).normals(queries * items);
            ScoreMatrix::new(queries, values.iter().map(|v| factor * v).collect()).unwrap()
        };
        let given = [0, 1, 2, 3];
        let options = |dtype| CurOptions {
            form: Form::Cols,
            dtype,
            min_recall: 0.0,
            regularisation: Regularisation::Tikhonov(0.0),
            ..CurOptions::new(Anchors::Given(&given))
        };
        assert!(CurIndex::fit(device, &scores(1e6), &options(DType::F32)).is_ok(), "{name}");
        let Err(Error::Argument { expected, got, .. }) =
            CurIndex::fit(device, &scores(1e6), &options(DType::F16))
        else {
            panic!("{name}: scores beyond f16 were kept")
        };
        assert!(expected.contains("6.5504e4") && got.contains("of item 0"), "{expected}, {got}");
        let mut index = CurIndex::fit(device, &scores(1.0), &options(DType::F16)).unwrap();
        let before = index.len();
        let error = index.append(&scores(1e6), None).unwrap_err();
        assert!(
            matches!(&error, Error::Argument { got, .. } if got.contains("item 20")),
            "{error}"
        );
        assert_eq!(index.len(), before, "{name}");
        index.append(&scores(0.5), None).unwrap();
        assert_eq!(index.len(), before + items, "{name}");
    }
}

fn bytes(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn parts(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Vectors<'static> {
    Vectors::parts(dtype, shape, std::iter::once(Ok(Cow::Owned(bytes))))
}

/// A file with such a value, whatever wrote it, is damaged.
#[test]
fn loading_refuses_what_is_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vectors.safetensors");
    let ids = names(0..ROWS);
    let refused = |result: Result<()>, tensor: &str, said: &str| match result {
        Err(Error::Weights { file, tensor: at, problem }) => {
            assert_eq!((file, &*at), (path.clone(), tensor));
            assert!(problem.contains(said), "{problem}");
        }
        other => panic!("{other:?}"),
    };
    for (_, device) in main_devices() {
        for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::MIN, "-inf")] {
            for dtype in FLOATS {
                let value =
                    if dtype == DType::F32 && shown == "-inf" { f32::NEG_INFINITY } else { value };
                let said = format!("{shown} in row 4, 'id4'");
                let vectors = || parts(dtype, &[ROWS, DIM], bytes(dtype, &with(value)));
                store::write(&path, vec![("embeddings", vectors())], &ids).unwrap();
                refused(FlatIndex::load(&path, device).map(drop), "embeddings", &said);
                let codes = || parts(DType::U32, &[ROWS, 1], vec![0; 4 * ROWS]);
                let thresholds = || Vectors::f32(&[DIM], &[0.0; DIM]);
                let binary = vec![
                    ("codes", codes()),
                    ("thresholds", thresholds()),
                    ("embeddings", vectors()),
                ];
                store::write(&path, binary, &ids).unwrap();
                refused(BinaryIndex::load(&path, device).map(drop), "embeddings", &said);
                let offsets: Vec<i64> = (0..=ROWS as i64).collect();
                let tokens = vec![
                    ("tokens", vectors()),
                    (
                        "offsets",
                        parts(DType::I64, &[ROWS + 1], bytemuck::pod_collect_to_vec(&offsets)),
                    ),
                ];
                store::write(&path, tokens, &ids).unwrap();
                let said = format!("{shown} in token 4");
                refused(TokenIndex::load(&path, device).map(drop), "tokens", &said);
                let mut scales = [1.0; ROWS];
                scales[4] = value.abs();
                if scales[4].is_finite() {
                    continue;
                }
                let int8 = vec![
                    ("codes", codes()),
                    ("thresholds", thresholds()),
                    ("int8", parts(DType::U32, &[ROWS, DIM / 4], vec![0; ROWS * DIM])),
                    ("scales", parts(DType::F32, &[ROWS], bytes(DType::F32, &scales))),
                ];
                store::write(&path, int8, &ids).unwrap();
                refused(BinaryIndex::load(&path, device).map(drop), "scales", "in row 4, 'id4'");
            }
        }
    }
    // In int8: scales as those beside codes, and nothing behind the last of 7 dimensions, of 5 rows of 2 words.
    let file = |dim: &str, scales: &[f32], last: u8| {
        let mut words = vec![1u8; 8 * ROWS];
        words.iter_mut().skip(7).step_by(8).for_each(|b| *b = 0);
        words[4 * 8 + 7] = last;
        let words =
            safetensors::tensor::TensorView::new(safetensors::Dtype::U32, vec![ROWS, 2], &words);
        let scales = bytes(DType::F32, scales);
        let scales = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            vec![scales.len() / 4],
            &scales,
        );
        let tensors = [("int8", words.unwrap()), ("scales", scales.unwrap())];
        let dim = std::collections::HashMap::from([("dim".to_string(), dim.to_string())]);
        std::fs::write(&path, safetensors::serialize(tensors, Some(dim)).unwrap()).unwrap();
        FlatIndex::load(&path, &Device::cpu())
    };
    assert_eq!(file("7", &[1.0; ROWS], 0).unwrap().to_f32_vec().unwrap(), [1.0; 7 * ROWS]);
    refused(file("7", &[1.0; ROWS], 1).map(drop), "int8", "in row 4");
    for dim in ["9", "4", "0", "-7", "7.0", "", "18446744073709551616"] {
        refused(file(dim, &[1.0; ROWS], 0).map(drop), "int8", &format!("dim '{dim}'"));
    }
    refused(file("7", &[1.0; ROWS - 1], 0).map(drop), "scales", "expected");
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let mut scales = [1.0; ROWS];
        scales[4] = value;
        refused(file("7", &scales, 0).map(drop), "scales", &format!("{shown} in row 4"));
    }
    // What is finite loads, also at the ends.
    let vectors = parts(DType::F16, &[ROWS, DIM], bytes(DType::F16, &with(65504.0)));
    store::write(&path, vec![("embeddings", vectors)], &ids).unwrap();
    assert_eq!(FlatIndex::load(&path, &Device::cpu()).unwrap().len(), ROWS);
}
