//! The flat index: adding, removing, filtering, files, and files that are not what they should be.

#[path = "common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};

use common::{FLOATS, Rng, devices, main_devices};
use nearkin::ops::topk::Metric;
use nearkin::search::{FlatIndex, Hit, store};
use nearkin::{DType, Device, Error, Tensor};

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("doc {i}")).collect()
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|h| &*h.id).collect()
}

fn filled(device: &Device, dtype: DType, n: usize, dim: usize) -> (FlatIndex, Vec<f32>) {
    let values = Rng(1).normals(n * dim);
    let mut index = FlatIndex::new(device, dtype, dim).unwrap();
    index.add(&names(0..n), &values).unwrap();
    (index, values)
}

#[test]
fn every_vector_finds_itself() {
    for (name, device) in devices() {
        for dtype in FLOATS {
            let (index, values) = filled(device, dtype, 300, 20);
            assert_eq!((index.len(), index.dim(), index.dtype()), (300, 20, dtype));
            let found = index.search(&values, 1, Metric::Cosine, None).unwrap();
            for (i, hits) in found.iter().enumerate() {
                assert_eq!(ids(hits), [format!("doc {i}")], "{name} {dtype}");
                assert!((hits[0].score - 1.0).abs() < 1e-2);
            }
            let tensor = Tensor::from_f32(&Device::cpu(), dtype, &[300, 20], &values).unwrap();
            let found = index.search(&tensor, 3, Metric::L2, None).unwrap();
            assert!(found.iter().all(|h| h.len() == 3 && h[0].score == 0.0), "{name} {dtype}");
        }
    }
}

#[test]
fn many_queries_stream_in_groups() {
    let (index, values) = filled(&Device::cpu(), DType::F32, 2500, 8);
    let whole = index.search(&values, 4, Metric::Dot, None).unwrap();
    assert_eq!(whole.len(), 2500);
    let mut next = 0;
    index
        .search_each(&values, 4, Metric::Dot, None, |q, hits| {
            assert_eq!((q, &hits), (next, &whole[q]));
            next += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(next, 2500);
    for q in [0, 1023, 1024, 2499] {
        let one = index.search(&values[q * 8..][..8], 4, Metric::Dot, None).unwrap();
        assert_eq!(one[0], whole[q]);
    }
}

#[test]
fn removed_vectors_are_gone_and_their_memory_comes_back() {
    for (name, device) in main_devices() {
        let (mut index, values) = filled(device, DType::F16, 300, 64);
        let full = index.memory_bytes();
        let gone: Vec<String> =
            (0..300).filter(|i| i % 10 == 0).map(|i| format!("doc {i}")).collect();
        assert_eq!(index.remove(&gone), 30);
        assert_eq!(index.remove(&gone), 0);
        assert_eq!(index.len(), 270);
        let before = index.search(&values, 300, Metric::Dot, None).unwrap();
        assert!(before.iter().all(|h| h.len() == 270), "{name}");
        assert!(before[0].iter().all(|h| !gone.iter().any(|g| **g == *h.id)));
        // Compaction renumbers rows; what is found stays.
        index.compact().unwrap();
        assert!(index.memory_bytes() < full);
        assert_eq!(index.search(&values, 300, Metric::Dot, None).unwrap(), before, "{name}");
        assert_eq!(index.ids().count(), 270);
        // More than a third at once is compacted without asking.
        let held = index.memory_bytes();
        assert_eq!(index.remove(&names(0..150)), 135);
        assert!(index.memory_bytes() < held * 2 / 3, "{name}");
        assert_eq!(
            ids(&index.search(&values[200 * 64 + 64..][..64], 1, Metric::Cosine, None).unwrap()[0]),
            ["doc 201"]
        );
        // An id that was removed may come back; it is then the youngest.
        index.add(&["doc 0"], &values[..64]).unwrap();
        assert_eq!(index.ids().last(), Some("doc 0"));
        assert_eq!(ids(&index.search(&values[..64], 1, Metric::L2, None).unwrap()[0]), ["doc 0"]);
        index.remove(&names(0..300));
        assert!(index.is_empty());
        assert!(index.search(&values, 5, Metric::Dot, None).unwrap().iter().all(Vec::is_empty));
    }
}

#[test]
fn filters_choose_by_id() {
    for (name, device) in main_devices() {
        let (mut index, values) = filled(device, DType::F32, 200, 16);
        index.remove(&["doc 7"]);
        let odd = |id: &str| id.ends_with('7');
        let found = index.search(&values[..32], 100, Metric::Dot, Some(&odd)).unwrap();
        for hits in found {
            assert_eq!(hits.len(), 19, "{name}");
            assert!(hits.iter().all(|h| h.id.ends_with('7') && &*h.id != "doc 7"));
        }
        let none = index.search(&values[..32], 100, Metric::Dot, Some(&|_| false)).unwrap();
        assert!(none.len() == 2 && none.iter().all(Vec::is_empty));
    }
}

#[test]
fn wrong_calls_are_typed_errors_and_change_nothing() {
    let (mut index, values) = filled(&Device::cpu(), DType::F32, 5, 3);
    let argument =
        |r: Result<(), Error>| assert!(matches!(r, Err(Error::Argument { .. })), "{r:?}");
    let shape = |r: Result<(), Error>| assert!(matches!(r, Err(Error::Shape { .. })), "{r:?}");
    argument(index.add(&["new", "doc 3"], &[0.0; 6]));
    argument(index.add(&["new", "new"], &[0.0; 6]));
    shape(index.add(&["new"], &[0.0; 4]));
    shape(index.add(&["new", "newer"], &[0.0; 3]));
    assert!(index.len() == 5 && !index.contains("new"));
    shape(index.search(&[0.0; 4], 1, Metric::Dot, None).map(drop));
    argument(index.search(&[0.0; 3], 0, Metric::Dot, None).map(drop));
    let wide = Tensor::zeros(&Device::cpu(), DType::F32, &[1, 6]).unwrap();
    shape(index.search(&wide, 1, Metric::Dot, None).map(drop));
    let nan = index.search(&[f32::NAN; 3], 5, Metric::Dot, None).unwrap();
    assert!(nan.len() == 1 && nan[0].is_empty());
    assert_eq!(index.to_f32_vec().unwrap(), values);
    argument(FlatIndex::new(&Device::cpu(), DType::F32, 0).map(drop));
}

#[test]
fn an_index_larger_than_a_buffer_of_the_device() {
    for (name, device) in devices() {
        // 2.9 MiB; the smallest device binds 1 MiB.
        let (index, values) = filled(device, DType::F32, 3000, 256);
        for row in [0, 1023, 1024, 2999] {
            let found = index.search(&values[row * 256..][..256], 2, Metric::L2, None).unwrap();
            assert_eq!(
                (&*found[0][0].id, found[0][0].score),
                (&*format!("doc {row}"), 0.0),
                "{name}"
            );
        }
    }
}

#[test]
fn a_saved_index_is_the_same_on_any_device() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in FLOATS {
        let file = folder.path().join(format!("{dtype}.safetensors"));
        let (mut index, values) = filled(&Device::cpu(), dtype, 70, 12);
        index.remove(&["doc 3", "doc 69"]);
        index.save(&file).unwrap();
        let want = index.search(&values, 9, Metric::Cosine, None).unwrap();
        for (name, device) in devices() {
            let loaded = FlatIndex::load(&file, device).unwrap();
            assert_eq!(loaded.dtype(), dtype);
            assert!(loaded.ids().eq(index.ids()), "{name}");
            assert_eq!(loaded.to_f32_vec().unwrap(), index.to_f32_vec().unwrap(), "{name}");
            let got = loaded.search(&values, 9, Metric::Cosine, None).unwrap();
            if device.is_cpu() {
                assert_eq!(got, want);
            }
            assert!(got.iter().zip(&want).all(|(g, w)| g[0].id == w[0].id), "{name}");
            let again = folder.path().join("again.safetensors");
            loaded.save(&again).unwrap();
            assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&file).unwrap(), "{name}");
        }
    }
    // Nothing is left beside the files.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn ids_of_every_kind_and_an_empty_index_survive() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    let strange = ["", "\"xxh3\":\"................\"", "\\", "日本\n\0", "embeddings", "🦀"];
    let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 1).unwrap();
    index.add(&strange, &[1.0, f32::NAN, -0.0, f32::INFINITY, 5.0, 6.0]).unwrap();
    index.save(&file).unwrap();
    let loaded = FlatIndex::load(&file, &Device::cpu()).unwrap();
    assert!(loaded.ids().eq(strange));
    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(loaded.to_f32_vec().unwrap()), bits(index.to_f32_vec().unwrap()));
    // The row of NaN is there and never found.
    assert_eq!(loaded.search(&[1.0], 9, Metric::Dot, None).unwrap()[0].len(), 5);

    FlatIndex::new(&Device::cpu(), DType::BF16, 7).unwrap().save(&file).unwrap();
    let empty = FlatIndex::load(&file, &Device::cpu()).unwrap();
    assert_eq!((empty.len(), empty.dim(), empty.dtype()), (0, 7, DType::BF16));
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let (index, _) = filled(&Device::cpu(), DType::F32, 3, 2);
    let missing = index.save(folder.path().join("no/such/folder"));
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    // A folder is in the way.
    let way = folder.path().join("way");
    std::fs::create_dir(&way).unwrap();
    std::fs::write(way.join("inside"), "x").unwrap();
    assert!(matches!(index.save(&way), Err(Error::Io { .. })));
    let wrong = store::write(
        &folder.path().join("x"),
        vec![("embeddings", store::Vectors::f32(&[2, 2], &[0.0; 3]))],
        &["a", "b"],
    );
    assert!(matches!(wrong, Err(Error::Shape { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A safetensors file of any header and body.
fn raw(path: &Path, header: &str, body: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(body);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn files_from_elsewhere_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    let tensor = r#""embeddings":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}"#;
    raw(&file, &format!("{{{tensor}}}"), &[0, 0, 128, 63, 0, 0, 0, 64]);
    let index = FlatIndex::load(&file, &Device::cpu()).unwrap();
    assert!(index.ids().eq(["0", "1"]));
    assert_eq!(index.to_f32_vec().unwrap(), [1.0, 2.0]);
    raw(&file, &format!(r#"{{"__metadata__":{{"ids":"[\"a\",\"b\"]"}},{tensor}}}"#), &[0; 8]);
    assert!(FlatIndex::load(&file, &Device::cpu()).unwrap().ids().eq(["a", "b"]));
    // With other tensors before and after, as `nearkin embed --tokens` writes, and at an odd offset.
    let (tokens, offsets) = ([9.0f32; 6], [0i64, 1, 3]);
    store::write(
        &file,
        vec![
            ("offsets", store::Vectors::i64(&[3], &offsets)),
            ("embeddings", store::Vectors::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0])),
            ("tokens", store::Vectors::f32(&[3, 2], &tokens)),
        ],
        &["a", "b"],
    )
    .unwrap();
    let index = FlatIndex::load(&file, &Device::cpu()).unwrap();
    assert_eq!(index.to_f32_vec().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    let odd = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"embeddings":{"dtype":"BF16","shape":[1,1],"data_offsets":[1,3]}}"#;
    raw(&file, odd, &[7, 0x80, 0x3f]);
    assert_eq!(FlatIndex::load(&file, &Device::cpu()).unwrap().to_f32_vec().unwrap(), [1.0]);
}

#[test]
fn hostile_files_are_typed_errors_that_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("hostile.safetensors");
    let load = || FlatIndex::load(&file, &Device::cpu()).map(drop);
    let named = |r: Result<(), Error>| {
        let e = r.expect_err("the file is wrong");
        assert!(e.to_string().contains("hostile.safetensors"), "{e}");
        e
    };
    let weights = |what: &str| {
        let e = named(load());
        assert!(matches!(e, Error::Weights { .. }), "{what}: {e:?}");
    };
    let data = |what: &str| {
        let e = named(load());
        assert!(matches!(e, Error::Data { .. }), "{what}: {e:?}");
    };
    assert!(matches!(named(load()), Error::Io { .. }));
    std::fs::write(&file, "").unwrap();
    assert!(matches!(named(load()), Error::Io { .. }));
    assert!(matches!(FlatIndex::load(folder.path(), &Device::cpu()), Err(Error::Io { .. })));

    let (index, _) = filled(&Device::cpu(), DType::F32, 40, 6);
    index.save(&file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for end in [1, 7, 8, 9, 100, whole.len() - 1] {
        std::fs::write(&file, &whole[..end]).unwrap();
        weights(&format!("cut to {end} bytes"));
    }
    std::fs::write(&file, [&whole[..], b"x"].concat()).unwrap();
    weights("too long");
    // Any flipped bit of the data is noticed.
    for at in [whole.len() - 1, whole.len() - 40 * 6 * 4, whole.len() - 500] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&file, bytes).unwrap();
        weights("damaged");
    }
    let mut bytes = whole.clone();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    weights("a header of 2^64 - 1 bytes");

    let tensor = |name: &str, dtype: &str, shape: &str, end: usize| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}"#)
    };
    let good = tensor("embeddings", "F32", "[2,1]", 8);
    for (header, body) in [
        ("{}".to_string(), 0),
        ("[]".to_string(), 0),
        (format!("{{{}}}", tensor("vectors", "F32", "[2,1]", 8)), 8),
        (format!("{{{}}}", tensor("embeddings", "I64", "[1,1]", 8)), 8),
        (format!("{{{}}}", tensor("embeddings", "F32", "[2]", 8)), 8),
        (format!("{{{}}}", tensor("embeddings", "F32", "[2,1,1]", 8)), 8),
        (format!("{{{}}}", tensor("embeddings", "F32", "[2,0]", 0)), 0),
        (format!("{{{}}}", tensor("embeddings", "F32", "[3,1]", 8)), 8),
        (format!("{{{}}}", tensor("embeddings", "F32", "[4294967296,4294967296]", 8)), 8),
        (format!("{{{good}}}"), 7),
        (format!("{{{good}}}"), 9),
        (format!(r#"{{"__metadata__":{{"xxh3":"0123456789abcdef"}},{good}}}"#), 8),
    ] {
        raw(&file, &header, &vec![0; body]);
        weights(&header);
    }
    for ids in ["x", "{}", "[1,2]", r#"[\"a\"]"#, r#"[\"a\",\"a\"]"#, r#"[\"a\",\"b\",\"c\"]"#] {
        raw(&file, &format!(r#"{{"__metadata__":{{"ids":"{ids}"}},{good}}}"#), &[0; 8]);
        data(ids);
    }
    let future = format!(r#"{{"__metadata__":{{"format":"nearkin","version":"2"}},{good}}}"#);
    raw(&file, &future, &[0; 8]);
    data("a version to come");
}
