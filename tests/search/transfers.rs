//! What goes between host and device: each vector up once, hits down, nothing else.

use crate::common::{Rng, device};
use crate::names;
use nearkin::ops::hamming::{BinaryCorpus, Hasher};
use nearkin::ops::maxsim::Storage;
use nearkin::ops::topk::{Bitmap, Corpus, Filter, Hits, Metric, Rows, Search, topk};
use nearkin::search::{BinaryIndex, BinarySearch, FlatIndex, Keep, TokenIndex};
use nearkin::{DType, Device, Tensor, Transfers};

const DIM: usize = 48;
const ROWS: usize = 1000;
const QUERIES: usize = 7;
const K: usize = 10;

/// The GPUs there are.
fn gpus() -> impl Iterator<Item = (&'static str, &'static Device)> {
    ["cuda", "wgpu"].into_iter().filter_map(|name| Some((name, device(name)?)))
}

/// What `work` copies.
fn transfers<T>(device: &Device, work: impl FnOnce() -> T) -> (T, Transfers) {
    let before = device.transfers();
    let result = work();
    (result, device.transfers() - before)
}

fn copies(
    [uploads, upload_bytes]: [usize; 2],
    [downloads, download_bytes]: [usize; 2],
) -> Transfers {
    Transfers {
        uploads: uploads as u64,
        upload_bytes: upload_bytes as u64,
        downloads: downloads as u64,
        download_bytes: download_bytes as u64,
    }
}

const NONE: [usize; 2] = [0, 0];

/// The download of a search's hits, in one piece of 8 bytes each, and nothing else.
fn hits(queries: usize, k: usize) -> [usize; 2] {
    [1, queries * 8 * k]
}

#[test]
fn a_flat_index_copies_each_vector_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.safetensors");
    for (name, device) in gpus() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let what = format!("{name}, {dtype}");
            let mut rng = Rng(4);
            let rows = rng.normals(ROWS * DIM);
            let stored = ROWS * DIM * dtype.size();
            let mut index = FlatIndex::new(device, dtype, DIM).unwrap();
            let ((), added) = transfers(device, || index.add(&names(0..ROWS), &rows).unwrap());
            assert_eq!(added, copies([1, stored], NONE), "{what}: add");
            // Small additions are merged on the device.
            for i in 0..3 {
                let ids = names(ROWS + i..ROWS + i + 1);
                let ((), added) = transfers(device, || index.add(&ids, &rows[..DIM]).unwrap());
                assert_eq!(added, copies([1, DIM * dtype.size()], NONE), "{what}: add {i}");
            }
            // Of its own type or another, only the word comes down that says whether lengths are unusual; no f16's is.
            let flag = if dtype == DType::F16 { NONE } else { [1, 4] };
            for (i, other) in [DType::F32, DType::F16, DType::BF16].into_iter().enumerate() {
                let fresh =
                    Tensor::from_f32(device, other, &[100, DIM], &rows[..100 * DIM]).unwrap();
                let ids = names(2000 + 100 * i..2100 + 100 * i);
                let ((), added) = transfers(device, || index.add_tensor(&ids, &fresh).unwrap());
                assert_eq!(added, copies(NONE, flag), "{what}: {other} added");
            }

            let queries = rng.normals(QUERIES * DIM);
            let own = Tensor::from_slice(device, &[QUERIES, DIM], &queries).unwrap();
            // Few are kept in lists, many are sorted as candidates: on the device either way.
            for (metric, k) in [
                (Metric::Dot, K),
                (Metric::Cosine, K),
                (Metric::L2, K),
                (Metric::Dot, 400),
                (Metric::L2, 1000),
            ] {
                let what = format!("{what}: {metric:?}, k {k}");
                let (here, found) =
                    transfers(device, || index.search(&queries, k, metric, None).unwrap());
                let up = [1, 4 * QUERIES * DIM];
                assert_eq!(found, copies(up, hits(QUERIES, k)), "{what}");
                let (same, found) =
                    transfers(device, || index.search_tensor(&own, k, metric, None).unwrap());
                assert_eq!(found, copies(NONE, hits(QUERIES, k)), "{what}");
                assert_eq!(same, here, "{what}");
            }

            let ((), saved) = transfers(device, || index.save(&file).unwrap());
            let all = index.len() * DIM * dtype.size();
            assert_eq!((saved.uploads, saved.download_bytes), (0, all as u64), "{what}: save");
            let (loaded, read) = transfers(device, || FlatIndex::load(&file, device).unwrap());
            assert_eq!(read, copies([1, all], NONE), "{what}: load");
            assert_eq!(
                loaded.search(&queries, K, Metric::Cosine, None).unwrap(),
                index.search(&queries, K, Metric::Cosine, None).unwrap(),
                "{what}"
            );

            // What is kept is picked by its number, 4 bytes, and nothing moves where few are gone.
            let mut loaded = loaded;
            let (gone, removed) = transfers(device, || loaded.remove(&names(0..100)).unwrap());
            assert_eq!((gone, removed), (100, Transfers::default()), "{what}: remove");
            let (gone, removed) = transfers(device, || loaded.remove(&names(100..600)).unwrap());
            let kept = index.len() - 600;
            assert_eq!((gone, removed), (500, copies([1, 4 * kept], NONE)), "{what}: remove");
            assert_eq!(loaded.len(), kept);
        }
    }
}

#[test]
fn a_flat_index_in_int8_copies_bytes_and_scales_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.safetensors");
    for (name, device) in gpus() {
        let mut rng = Rng(4);
        let rows = rng.normals(ROWS * DIM);
        let mut index = FlatIndex::with_storage(device, Storage::Int8, DIM).unwrap();
        let ((), added) = transfers(device, || index.add(&names(0..ROWS), &rows).unwrap());
        assert_eq!(added, copies([2, ROWS * (DIM + 4)], NONE), "{name}: add");
        let fresh = Tensor::from_slice(device, &[100, DIM], &rows[..100 * DIM]).unwrap();
        let ids = names(2000..2100);
        let ((), added) = transfers(device, || index.add_tensor(&ids, &fresh).unwrap());
        assert_eq!(added, copies(NONE, NONE), "{name}: floats added");
        let (_, converted) = transfers(device, || index.to_storage(Storage::F16).unwrap());
        assert_eq!(converted, copies(NONE, NONE), "{name}: converted");

        let own = Tensor::from_slice(device, &[QUERIES, DIM], &rows[..QUERIES * DIM]).unwrap();
        for (metric, k) in [(Metric::Dot, K), (Metric::Cosine, K), (Metric::Dot, 300)] {
            let search = || index.search_tensor(&own, k, metric, None).unwrap();
            let (found, searched) = transfers(device, search);
            assert_eq!(searched, copies(NONE, hits(QUERIES, k)), "{name}: {metric:?}, {k}");
            assert!(found.iter().all(|hits| hits.len() == k), "{name}");
        }
        let ((), saved) = transfers(device, || index.save(&file).unwrap());
        let chunks = saved.downloads as usize;
        let stored = index.len() * (DIM + 4);
        assert_eq!(saved, copies(NONE, [chunks, stored]), "{name}: save");
        let (loaded, copied) = transfers(device, || FlatIndex::load(&file, device).unwrap());
        assert_eq!(copied, copies([2, stored], NONE), "{name}: load");
        assert_eq!(loaded.len(), index.len());
    }
}

#[test]
fn a_binary_index_copies_each_vector_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.safetensors");
    for (name, device) in gpus() {
        let mut rng = Rng(5);
        let bits = 128;
        let code = bits / 8;
        let rows = rng.normals(ROWS * DIM);
        let hasher = Hasher::random(device, &[0.0; DIM], bits, 1).unwrap();
        let mut index = BinaryIndex::new(hasher, Keep::Codes).unwrap();
        let ((), added) = transfers(device, || index.add(&names(0..ROWS), &rows).unwrap());
        assert_eq!(added, copies([1, 4 * ROWS * DIM], NONE), "{name}: add");
        let fresh = Tensor::from_f32(device, DType::F16, &[100, DIM], &rows[..100 * DIM]).unwrap();
        let ids = names(2000..2100);
        let ((), added) = transfers(device, || index.add_tensor(&ids, &fresh).unwrap());
        assert_eq!(added, Transfers::default(), "{name}: a tensor added");

        let queries = rng.normals(QUERIES * DIM);
        for (asymmetric, values) in [(false, DIM), (true, bits)] {
            let search = BinarySearch { asymmetric, ..BinarySearch::new(Metric::Dot, K) };
            let (_, found) = transfers(device, || index.search(&queries, &search).unwrap());
            let up = [1, 4 * QUERIES * values];
            assert_eq!(found, copies(up, hits(QUERIES, K)), "{name}, {asymmetric}");
        }
        // No more come down than are near enough, once it is known that 256 are not all.
        let (near, found) = transfers(device, || index.search_radius(&queries, 60, None).unwrap());
        let most = near.iter().map(Vec::len).max().unwrap();
        assert!(most > 256 && near.iter().any(|n| n.len() < most), "{name}: {most}");
        assert!(found.download_bytes <= (QUERIES * (8 * 256 + 4 + 8 * most)) as u64, "{name}");

        let ((), saved) = transfers(device, || index.save(&file).unwrap());
        let all = index.len() * code;
        assert_eq!((saved.uploads, saved.download_bytes), (0, all as u64), "{name}: save");
        let (loaded, read) = transfers(device, || BinaryIndex::load(&file, device).unwrap());
        // The hasher has thresholds and a projection.
        let hasher = 4 * bits * (1 + DIM);
        assert_eq!(read, copies([3, all + hasher], NONE), "{name}: load");
        let mut loaded = loaded;
        let (gone, removed) = transfers(device, || loaded.remove(&names(0..600)).unwrap());
        let kept = index.len() - 600;
        assert_eq!((gone, removed), (600, copies([1, 4 * kept], NONE)), "{name}: remove");
    }
}

/// Corpora of tensors: nothing comes down that a search does not need, and of another device's each byte goes once.
#[test]
fn corpora_of_tensors_stay_where_they_are() {
    for (name, device) in gpus() {
        let mut rng = Rng(6);
        let rows = rng.normals(ROWS * DIM);
        let there = Tensor::from_slice(device, &[ROWS, DIM], &rows).unwrap();
        let lengths = Tensor::from_slice(device, &[ROWS], &vec![1f32; ROWS]).unwrap();
        let (given, made) =
            transfers(device, || Corpus::from_tensor_with_lengths(&there, &lengths).unwrap());
        assert_eq!(made, Transfers::default(), "{name}: lengths are given");
        let (corpus, made) = transfers(device, || Corpus::from_tensor(&there).unwrap());
        assert_eq!(made, copies(NONE, [1, 4]), "{name}: from a tensor");
        for (corpus, metric) in [(&corpus, Metric::Cosine), (&given, Metric::Dot)] {
            let search = Search::new(K);
            let queries =
                Tensor::from_slice(device, &[QUERIES, DIM], &rows[..QUERIES * DIM]).unwrap();
            let (_, found) = transfers(device, || topk(&queries, corpus, metric, &search).unwrap());
            assert_eq!(found, copies(NONE, hits(QUERIES, K)), "{name}");
        }
        let mut corpus = corpus;
        let ((), again) = transfers(device, || corpus.refresh().unwrap());
        assert_eq!(again, copies(NONE, [1, 4]), "{name}: refreshed");
        let (some, picked) = transfers(device, || corpus.gather(&[3, 999, 3, 0]).unwrap());
        assert_eq!(picked, copies([1, 16], NONE), "{name}: gathered");
        let some = some.to_vec::<f32>().unwrap();
        assert_eq!(some[DIM..2 * DIM], rows[999 * DIM..], "{name}");

        let host = Tensor::from_f32(&Device::cpu(), DType::BF16, &[ROWS, DIM], &rows).unwrap();
        let ((), added) = transfers(device, || corpus.append_tensor(&host).unwrap());
        assert_eq!(added, copies([1, 2 * ROWS * DIM], [1, 4]), "{name}: from the host");
        let codes: Vec<u32> = (0..40).map(|_| rng.next() as u32).collect();
        let codes = Tensor::from_slice(device, &[10, 4], &codes).unwrap();
        let (_, made) = transfers(device, || {
            let mut corpus = BinaryCorpus::from_tensor(&codes).unwrap();
            corpus.append_tensor(&codes).unwrap();
            assert_eq!(corpus.chunks().len(), 1, "{name}: small chunks are merged");
            corpus.retain(|_| true).unwrap();
        });
        assert_eq!(made, Transfers::default(), "{name}: codes");
    }
}

#[test]
fn the_cpu_copies_nothing() {
    let device = Device::cpu();
    let mut index = FlatIndex::new(&device, DType::F32, 2).unwrap();
    index.add(&names(0..2), &[1.0, 2.0, 3.0, 4.0]).unwrap();
    index.search(&[1.0, 0.0], 1, Metric::Dot, None).unwrap();
    assert_eq!(device.transfers(), Transfers::default());
}

#[test]
fn a_token_index_moves_its_tokens_on_the_device() {
    for (name, device) in gpus() {
        for storage in [Storage::F32, Storage::BF16, Storage::Binary] {
            let what = format!("{name}, {storage}");
            let mut rng = Rng(7);
            let dim = 32;
            let token = storage.width(dim) * storage.dtype().size();
            let mut index = TokenIndex::new(device, storage, dim).unwrap();
            let vectors = rng.normals(40 * dim);
            let add = |index: &mut TokenIndex, ids: &[String], offsets: &[i64]| {
                let tokens = *offsets.last().unwrap() as usize;
                index.add(ids, &vectors[..tokens * dim], offsets).unwrap();
            };
            let ((), added) = transfers(device, || add(&mut index, &names(0..3), &[0, 10, 10, 16]));
            assert_eq!(added, copies([2, 16 * token + 4 * 4], NONE), "{what}: add");
            // Merged with what is there, under bounds of all.
            let ((), added) = transfers(device, || add(&mut index, &names(3..5), &[0, 30, 40]));
            assert_eq!(added, copies([3, 40 * token + 4 * (3 + 6)], NONE), "{what}: merge");
            // The numbers of 26 tokens, and bounds of three documents.
            let (gone, removed) = transfers(device, || index.remove(&["id1", "id3"]).unwrap());
            assert_eq!(gone, 2);
            assert_eq!(removed, copies([2, 4 * (26 + 4)], NONE), "{what}: remove");
            assert_eq!(index.offsets(), [0, 10, 16, 26], "{what}");
            let (_, found) = transfers(device, || {
                index.search(&vectors[..5 * dim], &[0, 2, 5], 3, None).unwrap()
            });
            let [downloads, bytes] = hits(2, 3);
            let down = (downloads as u64, bytes as u64);
            assert_eq!((found.downloads, found.download_bytes), down, "{what}: search");
        }
    }
}

#[test]
fn a_filter_that_is_used_again_goes_up_once() {
    for (name, device) in gpus() {
        let mut rng = Rng(5);
        let rows = Tensor::from_slice(device, &[ROWS, DIM], &rng.normals(ROWS * DIM)).unwrap();
        let queries = Tensor::from_slice(device, &[2, DIM], &rng.normals(2 * DIM)).unwrap();
        let corpus = Corpus::from_tensor(&rows).unwrap();
        let mut map = Bitmap::from_fn(ROWS, |i| i % 3 == 0);
        let found = |rows: Rows<'_>| {
            let search = Search { filter: Filter::Shared(rows), ..Search::new(ROWS) };
            transfers(device, || topk(&queries, &corpus, Metric::Cosine, &search).unwrap())
        };
        let rows_of = |hits: &Hits| -> Vec<u64> {
            let mut rows = hits.get(1).0.to_vec();
            rows.sort_unstable();
            rows
        };
        let which = |of: &dyn Fn(usize) -> bool| -> Vec<u64> {
            (0..ROWS).filter(|&i| of(i)).map(|i| i as u64).collect()
        };
        let (hits, first) = found(Rows::Exclude(&map));
        assert_eq!(rows_of(&hits), which(&|i| i % 3 != 0), "{name}");
        let (hits, second) = found(Rows::Exclude(&map));
        assert_eq!(rows_of(&hits), which(&|i| i % 3 != 0), "{name}");
        // The bits, or a bit of each tile beside them.
        let saved = first.upload_bytes - second.upload_bytes;
        assert!(first.uploads > second.uploads && saved as usize >= ROWS / 8, "{name}: {saved}");
        let (hits, _) = found(Rows::Allow(&map));
        assert_eq!(rows_of(&hits), which(&|i| i % 3 == 0), "{name}");
        let (_, again) = found(Rows::Allow(&map));
        assert_eq!(again, second, "{name}");
        map.set(7, true).unwrap();
        let (hits, changed) = found(Rows::Exclude(&map));
        assert_eq!(rows_of(&hits), which(&|i| i % 3 != 0 && i != 7), "{name}");
        assert_eq!(changed, first, "{name}");
    }
}

#[test]
fn tensors_are_converted_where_they_are() {
    for (name, device) in gpus() {
        for [from, to] in [[DType::F32, DType::F16], [DType::BF16, DType::F32]] {
            let t = Tensor::from_f32(device, from, &[3, 5], &Rng(6).normals(15)).unwrap();
            let (_, copied) = transfers(device, || t.to_dtype(to).unwrap());
            assert_eq!(copied, copies(NONE, NONE), "{name}: {from} to {to}");
        }
    }
}
