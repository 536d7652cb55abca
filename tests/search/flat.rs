//! `FlatIndex`: add, remove, filter, search, save, load; files that are damaged.

use std::collections::HashMap;
use std::path::Path;

use crate::common::{FLOATS, Rng, devices, main_devices, open_wgpu};
use crate::names;
use nearkin::ops::topk::{Metric, Storage};
use nearkin::search::FlatIndex;
use nearkin::search::store::{self, Stored, Vectors};
use nearkin::{DType, Device, DeviceOptions, Error, Tensor};
use proptest::prelude::*;

const METRICS: [Metric; 3] = [Metric::Dot, Metric::Cosine, Metric::L2];

fn index(device: &Device, dtype: DType, dim: usize, data: &[f32]) -> FlatIndex {
    let mut index = FlatIndex::new(device, dtype, dim).unwrap();
    index.add(&names(0..data.len() / dim), data).unwrap();
    index
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    /// A history of additions and removals, against a model that is a list.
    #[test]
    fn a_history_of_changes_leaves_what_a_list_would(
        steps in proptest::collection::vec((any::<bool>(), 1usize..90), 1..8),
        dtype in 0usize..3,
        metric in 0usize..3,
        seed: u64,
    ) {
        const DIM: usize = 9;
        let folder = tempfile::tempdir().unwrap();
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let mut index = FlatIndex::new(device, FLOATS[dtype], DIM).unwrap();
            let mut model: Vec<(String, Vec<f32>)> = Vec::new();
            let mut next = 0;
            for &(add, n) in &steps {
                if add || model.is_empty() {
                    let data = rng.normals(n * DIM);
                    index.add(&names(next..next + n), &data).unwrap();
                    for (id, row) in names(next..next + n).into_iter().zip(data.chunks(DIM)) {
                        let t = Tensor::from_f32(&Device::cpu(), FLOATS[dtype], &[DIM], row).unwrap();
                        model.push((id, t.to_f32_vec().unwrap()));
                    }
                    next += n;
                } else {
                    let mut gone: Vec<String> =
                        (0..n).map(|_| model[rng.below(model.len())].0.clone()).collect();
                    gone.push("never there".into());
                    let before = model.len();
                    model.retain(|(id, _)| !gone.contains(id));
                    prop_assert_eq!(index.remove(&gone).unwrap(), before - model.len());
                    prop_assert_eq!(index.remove(&gone).unwrap(), 0);
                }
            }
            let values: Vec<f32> = model.iter().flat_map(|(_, row)| row.clone()).collect();
            let ids: Vec<&str> = model.iter().map(|(id, _)| id.as_str()).collect();
            prop_assert_eq!(index.len(), model.len());
            prop_assert_eq!(index.ids().collect::<Vec<_>>(), ids.clone());
            prop_assert_eq!(index.to_f32_vec().unwrap(), values.clone());
            prop_assert!(index.memory_bytes() <= model.len().max(1) * 3 / 2 * (DIM * 4 + 4) + 200);

            // A fresh index of what is left finds the same, and so does one saved and loaded elsewhere.
            let queries = rng.normals(7 * DIM);
            let found = index.search(&queries, 5, METRICS[metric], None).unwrap();
            let mut fresh = FlatIndex::new(device, FLOATS[dtype], DIM).unwrap();
            fresh.add(&ids, &values).unwrap();
            prop_assert_eq!(&found, &fresh.search(&queries, 5, METRICS[metric], None).unwrap(), "{}", name);
            let path = folder.path().join("index.safetensors");
            index.save(&path).unwrap();
            let loaded = FlatIndex::load(&path, device).unwrap();
            prop_assert_eq!(loaded.dtype(), FLOATS[dtype]);
            prop_assert_eq!(loaded.ids().collect::<Vec<_>>(), ids);
            prop_assert_eq!(&found, &loaded.search(&queries, 5, METRICS[metric], None).unwrap(), "{}", name);
            let on_device = Tensor::from_slice(device, &[7, DIM], &queries).unwrap();
            prop_assert_eq!(&found, &index.search_tensor(&on_device, 5, METRICS[metric], None).unwrap());
        }
    }
}

#[test]
fn a_filter_keeps_only_what_it_names() {
    for (name, device) in devices() {
        let data = Rng(5).normals(300 * 8);
        let mut index = index(device, DType::F32, 8, &data);
        index.remove(&["id10", "id30"]).unwrap();
        let keep = |id: &str| id.ends_with('0');
        let found = index.search(&data[..8 * 3], 300, Metric::Cosine, Some(&keep)).unwrap();
        for hits in found {
            assert_eq!(hits.len(), 28, "{name}");
            assert!(hits.iter().all(|h| keep(&h.id) && &*h.id != "id10" && &*h.id != "id30"));
        }
        let none = index.search(&data[..8], 3, Metric::Dot, Some(&|_| false)).unwrap();
        assert_eq!(none, vec![vec![]], "{name}");
    }
}

#[test]
fn an_index_larger_than_a_binding_is_searched_whole() {
    for (name, device) in devices() {
        let n = 40_000; // 5 MB of f32, bindings of 1 MiB on one device
        let data = Rng(1).normals(n * 32);
        let index = index(device, DType::F32, 32, &data);
        let rows = [0, 8191, 8192, 20_000, n - 1];
        let queries: Vec<f32> = rows.iter().flat_map(|r| data[r * 32..][..32].to_vec()).collect();
        let found = index.search(&queries, 2, Metric::L2, None).unwrap();
        for (row, hits) in rows.iter().zip(found) {
            assert_eq!((&*hits[0].id, hits[0].score), (&*format!("id{row}"), 0.0), "{name}");
            assert!(hits[1].score < 0.0);
        }
    }
}

#[test]
fn wrong_requests_are_typed_and_change_nothing() {
    for (_, device) in main_devices() {
        assert!(matches!(FlatIndex::new(device, DType::U32, 4), Err(Error::Argument { .. })));
        assert!(matches!(FlatIndex::new(device, DType::F32, 0), Err(Error::Argument { .. })));
        let mut index = index(device, DType::F32, 4, &Rng(2).normals(12));
        assert!(matches!(index.add(&["id1"], &[0.0; 4]), Err(Error::Argument { .. })));
        assert!(matches!(index.add(&["x", "x"], &[0.0; 8]), Err(Error::Argument { .. })));
        assert!(matches!(index.add(&["x"], &[0.0; 5]), Err(Error::Shape { .. })));
        assert!(matches!(
            index.search(&[0.0; 4], 0, Metric::Dot, None),
            Err(Error::Argument { .. })
        ));
        assert!(matches!(index.search(&[0.0; 3], 1, Metric::Dot, None), Err(Error::Shape { .. })));
        assert_eq!(index.search(&[], 1, Metric::Dot, None).unwrap(), Vec::<Vec<_>>::new());
        assert_eq!(index.len(), 3);
        assert!(!index.contains("x"));
        let empty = FlatIndex::new(device, DType::F32, 4).unwrap();
        assert_eq!(empty.search(&[0.0; 8], 3, Metric::Dot, None).unwrap(), vec![vec![], vec![]]);
        let nan = index.search(&[f32::NAN, 0.0, 0.0, 0.0], 3, Metric::Dot, None).unwrap();
        assert_eq!(nan, vec![vec![]]);
    }
}

#[test]
fn a_full_device_keeps_the_index_as_it_was() {
    let options = DeviceOptions { memory_limit: Some(2 << 20), ..Default::default() };
    let mut limited = vec![Device::cpu_with(options.clone())];
    limited.extend(open_wgpu(options));
    for device in limited {
        let data = Rng(4).normals(1000 * 16);
        let mut index = index(&device, DType::F32, 16, &data);
        let more = vec![0.5; 40_000 * 16];
        let error = index.add(&names(1000..41_000), &more).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert_eq!(index.len(), 1000);
        assert_eq!(&*index.search(&data[..16], 1, Metric::L2, None).unwrap()[0][0].id, "id0");
        index.add(&["one more"], &[0.0; 16]).unwrap();
    }
}

#[test]
fn ids_survive_whatever_they_contain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.safetensors");
    let ids = ["", "\"", "\\", "xxh3:...........", "é\u{0}\n", "🦀"];
    let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 1).unwrap();
    index.add(&ids, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    index.save(&path).unwrap();
    assert_eq!(FlatIndex::load(&path, &Device::cpu()).unwrap().ids().collect::<Vec<_>>(), ids);
}

/// A safetensors header ends at 100 MB; ids beyond it have to go elsewhere.
#[test]
fn ids_longer_than_a_header_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.safetensors");
    let ids = ["a", "\"b"].map(|c| c.repeat(20 << 20));
    let mut index = FlatIndex::new(&Device::cpu(), DType::F32, 1).unwrap();
    index.add(&ids, &[1.0, 2.0]).unwrap();
    index.save(&path).unwrap();
    let loaded = FlatIndex::load(&path, &Device::cpu()).unwrap();
    assert!(loaded.ids().eq(ids.iter()));
    assert_eq!(loaded.to_f32_vec().unwrap(), [1.0, 2.0]);
}

fn write(
    path: &Path,
    metadata: HashMap<String, String>,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    data: &[u8],
) {
    let view = safetensors::tensor::TensorView::new(dtype, shape, data).unwrap();
    let bytes = safetensors::serialize([("embeddings", view)], Some(metadata)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_file_is_read_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.safetensors");
    let data = Rng(8).normals(3 * 50);
    for dtype in FLOATS {
        let index = index(&Device::cpu(), dtype, 3, &data);
        index.save(&path).unwrap();
        let stored = Stored::open(&path).unwrap();
        assert_eq!((stored.len(), stored.dim(), stored.dtype()), (50, 3, dtype));
        assert!(stored.ids().iter().eq(&names(0..50)));
        let all = index.to_f32_vec().unwrap();
        for rows in [0..0, 0..50, 7..8, 20..49, 50..50] {
            let want = &all[3 * rows.start..3 * rows.end];
            assert_eq!(stored.to_f32_vec(rows).unwrap(), want);
        }
        let reversed = std::ops::Range { start: 3, end: 2 };
        for rows in [49..51, reversed, 0..usize::MAX] {
            assert!(matches!(stored.to_f32_vec(rows), Err(Error::Argument { .. })));
        }
    }
}

const STORED: [Storage; 4] = [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8];

/// In int8 as in floats: added, removed, saved and loaded, and converted from one to the other.
#[test]
fn an_index_in_int8_holds_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.safetensors");
    for (name, device) in devices() {
        let dim = 33;
        let data = Rng(5).normals(300 * dim);
        let whole = index(device, DType::F32, dim, &data);
        let mut int8 = FlatIndex::with_storage(device, Storage::Int8, dim).unwrap();
        int8.add(&names(0..200), &data[..200 * dim]).unwrap();
        let rest = Tensor::from_slice(device, &[100, dim], &data[200 * dim..]).unwrap();
        int8.add_tensor(&names(200..300), &rest).unwrap();
        assert_eq!(int8.memory_bytes(), 300 * (dim.next_multiple_of(4) + 8), "{name}");
        let search =
            |index: &FlatIndex| index.search(&data[..7 * dim], 30, Metric::Cosine, None).unwrap();
        let found = search(&whole.to_storage(Storage::Int8).unwrap());
        assert_eq!(search(&int8), found, "{name}: converted");
        // Into every storage and back to floats.
        for storage in STORED {
            let copy = int8.to_storage(storage).unwrap();
            assert_eq!((copy.storage(), copy.len(), copy.dim()), (storage, 300, dim));
        }
        let through = int8.to_storage(Storage::F32).unwrap();
        assert_eq!(through.to_f32_vec().unwrap(), int8.to_f32_vec().unwrap(), "{name}");
        let error = int8.to_f32_vec().unwrap();
        for (got, want) in error.chunks(dim).zip(data.chunks(dim)) {
            let scale = want.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 0.5001 * scale));
        }

        // Few removed stay where they are, many do not.
        for gone in [10, 150] {
            int8.remove(&names(0..gone)).unwrap();
            int8.save(&path).unwrap();
            let loaded = FlatIndex::load(&path, device).unwrap();
            assert_eq!((loaded.storage(), loaded.dim()), (Storage::Int8, dim), "{name}");
            assert!(loaded.ids().eq(int8.ids()), "{name}");
            assert_eq!(loaded.to_f32_vec().unwrap(), int8.to_f32_vec().unwrap(), "{name}");
            assert_eq!(search(&loaded), search(&int8), "{name}: {gone} removed");
            let stored = Stored::open(&path).unwrap();
            assert_eq!((stored.len(), stored.dtype()), (300 - gone, DType::U32));
            let some = stored.to_f32_vec(7..20).unwrap();
            assert_eq!(some, loaded.to_f32_vec().unwrap()[7 * dim..20 * dim], "{name}");
        }
        let l2 = int8.search(&data[..dim], 1, Metric::L2, None);
        assert!(matches!(l2, Err(Error::Argument { .. })), "{name}: {l2:?}");
        let binary = FlatIndex::with_storage(device, Storage::Binary, 32);
        assert!(matches!(binary, Err(Error::Argument { .. })), "{name}");
    }
}

/// Another process may cut a file off that is open: an error, where a mapping would end the process.
#[test]
fn a_file_that_is_cut_off_while_it_is_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.safetensors");
    index(&Device::cpu(), DType::F32, 64, &Rng(8).normals(64 * 500)).save(&path).unwrap();
    let stored = Stored::open(&path).unwrap();
    assert_eq!(stored.to_f32_vec(499..500).unwrap().len(), 64);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 8).unwrap();
    assert_eq!(stored.to_f32_vec(0..499).unwrap().len(), 499 * 64);
    for rows in [0..500, 499..500] {
        let error = stored.to_f32_vec(rows).unwrap_err();
        assert!(matches!(&error, Error::Io { path: of, .. } if *of == path), "{error}");
        assert!(error.to_string().contains("cut off"), "{error}");
    }
    file.set_len(0).unwrap();
    assert!(matches!(stored.to_f32_vec(0..1), Err(Error::Io { .. })));
}

/// What is written can be read, whatever its tensors are called; what could not be read is not written.
#[test]
fn a_file_that_was_written_loads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.safetensors");
    let embeddings = || ("embeddings", Vectors::f32(&[2, 1], &[1.0, 2.0]));
    for name in ["xxh3:...........", "................", "xxh3", "ids", "{\"__metadata__\":"] {
        let other = (name, Vectors::f32(&[1], &[3.0]));
        store::write(&path, vec![other, embeddings()], &["a", "................"]).unwrap();
        let index =
            FlatIndex::load(&path, &Device::cpu()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(index.ids().eq(["a", "................"]), "{name}");
    }
    let before = std::fs::read(&path).unwrap();
    for ids in [["a", "a"], ["", ""]] {
        let error = store::write(&path, vec![embeddings()], &ids).unwrap_err();
        assert!(error.to_string().contains("rows 0 and 1"), "{error}");
    }
    let reserved = ("__metadata__", Vectors::f32(&[1], &[3.0]));
    assert!(matches!(store::write(&path, vec![reserved], &["a"; 0]), Err(Error::Argument { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn files_of_others_load_with_row_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.safetensors");
    let data: Vec<u8> = [1f32, 0.0, 0.0, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    write(&path, HashMap::new(), safetensors::Dtype::F32, vec![2, 2], &data);
    let index = FlatIndex::load(&path, &Device::cpu()).unwrap();
    assert_eq!(index.ids().collect::<Vec<_>>(), ["0", "1"]);
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    let cpu = Device::cpu();
    index(&cpu, DType::F32, 4, &Rng(9).normals(4 * 25)).save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        match FlatIndex::load(&path, &cpu) {
            Err(Error::Weights { file, .. } | Error::Data { file, .. }) => assert_eq!(file, path),
            Err(Error::Io { .. }) if bytes.is_empty() => {}
            other => panic!("{other:?}"),
        }
    };
    let mut rng = Rng(3);
    for cut in [0, 1, 7, 8, 9, 100, good.len() - 401, good.len() - 1] {
        refused(&good[..cut]);
    }
    refused(&[&good[..], &[0]].concat());
    // Any changed bit of the data is noticed.
    for _ in 0..40 {
        let mut bad = good.clone();
        let at = good.len() - 1 - rng.below(400);
        bad[at] ^= 1 << rng.below(8);
        refused(&bad);
    }
    // A changed header is an error or, where it changes nothing that matters (an id's letter), still an index.
    for _ in 0..400 {
        let mut bad = good.clone();
        let at = rng.below(good.len() - 400);
        bad[at] = rng.next() as u8;
        std::fs::write(&path, &bad).unwrap();
        let _ = FlatIndex::load(&path, &cpu);
    }
    let ints: Vec<u8> = vec![0; 16];
    write(&path, HashMap::new(), safetensors::Dtype::I32, vec![2, 2], &ints);
    assert!(matches!(FlatIndex::load(&path, &cpu), Err(Error::Weights { .. })));
    write(&path, HashMap::new(), safetensors::Dtype::F32, vec![4], &ints);
    assert!(matches!(FlatIndex::load(&path, &cpu), Err(Error::Weights { .. })));
    // No rows of a width whose bytes overflow.
    write(&path, HashMap::new(), safetensors::Dtype::F32, vec![0, usize::MAX / 2], &[]);
    let error = FlatIndex::load(&path, &cpu).unwrap_err();
    assert!(matches!(error, Error::Argument { .. } | Error::Weights { .. }), "{error}");
    for ids in ["[\"a\"]", "[\"a\",\"a\"]", "nonsense", "{\"a\":1}"] {
        let metadata = HashMap::from([("ids".to_string(), ids.to_string())]);
        write(&path, metadata, safetensors::Dtype::F32, vec![2, 2], &ints);
        assert!(matches!(FlatIndex::load(&path, &cpu), Err(Error::Data { .. })), "{ids}");
    }
    assert!(matches!(FlatIndex::load(folder.path(), &cpu), Err(Error::Io { .. })));
    assert!(matches!(FlatIndex::load(&folder.path().join("none"), &cpu), Err(Error::Io { .. })));
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    index(&Device::cpu(), DType::F32, 2, &[1.0, 2.0]).save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let broken = Vectors::parts(
        DType::F32,
        &[2, 2],
        [
            Ok(vec![0u8; 8].into()),
            Err(Error::Driver { device: "x".into(), problem: "gone".into() }),
        ]
        .into_iter(),
    );
    assert!(matches!(
        store::write(&path, vec![("embeddings", broken)], &["a", "b"]),
        Err(Error::Driver { .. })
    ));
    let short = Vectors::f32(&[2, 2], &[0.0; 3]);
    assert!(matches!(
        store::write(&path, vec![("embeddings", short)], &["a", "b"]),
        Err(Error::Shape { .. })
    ));
    let huge = Vectors::parts(DType::F32, &[1, usize::MAX], std::iter::empty());
    assert!(matches!(
        store::write(&path, vec![("embeddings", huge)], &["a"]),
        Err(Error::Shape { .. })
    ));
    let two = || ("x", Vectors::f32(&[1], &[0.0]));
    assert!(matches!(
        store::write(&path, vec![two(), two()], &["a"; 0]),
        Err(Error::Argument { .. })
    ));
    let other = Vectors::f32(&[2, 2], &[0.0; 4]);
    let error = store::write(&path, vec![("embeddings", other)], &["a"]).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    let nowhere = folder.path().join("no/such/folder.safetensors");
    assert!(matches!(store::write(&nowhere, vec![], &["a"; 0]), Err(Error::Io { .. })));
}
