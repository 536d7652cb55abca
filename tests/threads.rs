//! The threads that the host's part of the work runs on: the crate's own, or the caller's, never rayon's global ones, which
//! are the program's. Each test sets up the global threads of its process, so each needs one of its own, as nextest gives it.

mod common;

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use common::{Rng, exhaustive, golden, main_devices, open_wgpu};
use nearkin::models::TextEncoder;
use nearkin::ops::hamming::{Hasher, Itq};
use nearkin::ops::maxsim::Storage;
use nearkin::ops::residual::Training;
use nearkin::ops::topk::Metric;
use nearkin::search::cur::*;
use nearkin::search::{BinaryIndex, BinarySearch, FlatIndex, Hit, Keep, TokenIndex};
use nearkin::{DType, Device, DeviceOptions};
use rayon::prelude::*;

const DIM: usize = 64;
/// Rows of indexes that are searched where they are asked.
const FEW: usize = 40;
/// After this long a call is taken to wait for ever.
const PATIENCE: Duration = Duration::from_secs(400);

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("id{i}")).collect()
}

fn flat(device: &Device, rows: usize) -> FlatIndex {
    let mut index = FlatIndex::new(device, DType::F32, DIM).unwrap();
    index.add(&names(rows), &Rng(1).normals(rows * DIM)).unwrap();
    index
}

/// The bits of what was found.
fn bits(found: Vec<Vec<Hit>>) -> Vec<u32> {
    let bits = |hit: &Hit| [hit.id[2..].parse().unwrap(), hit.score.to_bits()];
    found.iter().flatten().flat_map(bits).collect()
}

/// Rows and queries of searches that need threads; of a GPU's the host's part is what does, and emulated ones are slow.
fn many(device: &Device) -> [usize; 2] {
    if device.is_cpu() { [20_000, 17] } else { [4000, 40] }
}

/// Searches of every kind of index, and embeddings of texts and images: their bits.
fn everything(device: &Device, small: bool) -> Vec<(&'static str, Vec<u32>)> {
    let [rows, asked] = if small { [FEW, 2] } else { many(device) };
    let mut rng = Rng(2);
    let mut all = Vec::new();

    let queries = rng.normals(asked * DIM);
    let index = flat(device, rows);
    // Beyond 256, GPUs leave the selection to the host.
    for (k, metric) in [(10, Metric::Cosine), (10, Metric::L2), (300, Metric::Dot)] {
        all.push(("flat", bits(index.search(&queries, k, metric, None).unwrap())));
    }

    let vectors = Rng(1).normals(rows * DIM);
    let fitted = &vectors[..rows.min(2000) * DIM];
    let itq = Itq { bits: DIM, rounds: 3, seed: 1 };
    let mut hashers = vec![Hasher::random(device, &[0.0; DIM], DIM, 5).unwrap()];
    if !small {
        hashers.push(Hasher::itq(device, fitted, DIM, &itq).unwrap());
    }
    for hasher in hashers {
        let mut index = BinaryIndex::new(hasher, Keep::Int8).unwrap();
        index.add(&names(rows), &vectors).unwrap();
        for (asymmetric, k) in [(false, 10), (true, 100)] {
            let search = BinarySearch { asymmetric, ..BinarySearch::new(Metric::Dot, k) };
            all.push(("binary", bits(index.search(&queries, &search).unwrap())));
        }
    }

    // Documents and queries of 8 vectors.
    let documents = if small { 5 } else { rows / 40 };
    let offsets = |items: usize| -> Vec<i64> { (0..=items as i64).map(|i| 8 * i).collect() };
    let mut index = TokenIndex::new(device, Storage::F32, DIM).unwrap();
    index.add(&names(documents), &rng.normals(documents * 8 * DIM), &offsets(documents)).unwrap();
    let asked = if small { 1 } else { 8 };
    let queries = rng.normals(asked * 8 * DIM);
    let mut indexes = vec![index];
    if !small {
        let how = Training { bits: 2, clusters: 16, rounds: 2, seed: 3 };
        indexes.push(indexes[0].compress(&how).unwrap());
        indexes.extend([Storage::Int8, Storage::Binary].map(|s| indexes[0].to_storage(s).unwrap()));
    }
    for (i, index) in indexes.iter().enumerate() {
        let k = if i == 0 { 300 } else { 3 };
        all.push(("tokens", bits(index.search(&queries, &offsets(asked), k, None).unwrap())));
    }

    let [asked, items] = if small { [12, 50] } else { [120, rows / 10] };
    let scores = rng.normals(asked * items);
    let scorer = MatrixScorer::new(asked, items, &scores).unwrap();
    let anchors: Vec<usize> = (0..asked - 4).collect();
    let matrix = ScoreMatrix::compute(&scorer, &anchors, 0..items, &Offline::default()).unwrap();
    let queries: Vec<usize> = (asked - 4..asked).collect();
    let scored = |found: Found| -> Vec<u32> {
        let bits = |s: &Scored| [s.item as u32, s.score.to_bits()];
        found.items.iter().flatten().flat_map(bits).collect()
    };
    // More than 100 anchors: from there on a decomposition's bits would depend on how many threads share it.
    let count = (asked - 4).min(items / 2);
    let options = CurOptions::new(Anchors::Uniform { count, seed: 7 });
    let index = CurIndex::fit(device, &matrix, &options).unwrap();
    let search = CurSearch { k: 5, budget: count + 10, embeddings: None };
    all.push(("cur", scored(index.search(&scorer, &queries, &search).unwrap())));
    let index = AdaptiveIndex::adacur(device, &matrix, None, None).unwrap();
    let search = AdaptiveSearch {
        k: 5,
        budget: 20,
        rounds: 2,
        rerank: 5,
        first: First::Uniform { seed: 3 },
        embeddings: None,
    };
    all.push(("adacur", scored(index.search(&scorer, &queries, &search).unwrap())));

    let model = TextEncoder::load(&golden("bert"), device, DType::F32).unwrap();
    let texts: Vec<String> = (0..if small { 1 } else { 64 })
        .map(|i| format!("text {i} {}", "of a few words ".repeat(if small { 1 } else { 5 })))
        .collect();
    let embedded = model.embed(&texts).unwrap();
    all.push(("texts", embedded.iter().map(|v| v.to_bits()).collect()));

    #[cfg(feature = "images")]
    if !small {
        use nearkin::images::Preprocessor;
        let json = r#"{"image_processor_type": "ViTImageProcessor", "size": 32}"#;
        let preprocessor = Preprocessor::parse(json, "preprocessor_config.json".as_ref()).unwrap();
        let files = vec![golden("images").join("bit.png"); 4];
        for pixels in preprocessor.with_device(device).files(&files).unwrap() {
            all.push(("images", pixels.values.iter().map(|v| v.to_bits()).collect()));
        }
    }
    all
}

/// Sets up the program's global threads.
fn start_global(threads: usize) {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
}

/// The next message of a thread that makes calls.
fn expect(done: &Receiver<String>, what: &str) -> String {
    done.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{what}: nothing came back: {e}"))
}

#[test]
fn calls_return_while_the_global_threads_are_busy() {
    start_global(2);
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let (started, starts) = channel();
    for _ in 0..2 {
        let (gate, started): (_, Sender<String>) = (gate.clone(), started.clone());
        rayon::spawn(move || {
            started.send("busy".into()).unwrap();
            drop(gate.lock());
        });
    }
    (0..2).for_each(|_| assert_eq!(expect(&starts, "a global thread"), "busy"));

    let (finished, done) = channel();
    let calls = std::thread::spawn(move || {
        for (name, device) in main_devices() {
            for small in [true, false] {
                everything(device, small);
                finished.send(format!("{name}, small: {small}")).unwrap();
            }
        }
    });
    for (name, _) in main_devices() {
        for small in [true, false] {
            assert_eq!(expect(&done, name), format!("{name}, small: {small}"));
        }
    }
    calls.join().unwrap();
    drop(held);
}

/// A thread that waits for a search must not take up the next item of the caller's loop: that would wait for the read lock
/// behind a writer, which waits for the search.
#[test]
fn a_search_below_a_read_lock_in_a_parallel_loop_returns() {
    start_global(4);
    let (finished, done) = channel();
    let calls = std::thread::spawn(move || {
        for (name, device) in main_devices() {
            let [rows, asked] = many(device);
            let (rounds, items) = if device.is_cpu() { (40, 16) } else { (1, 6) };
            let lock = RwLock::new([flat(device, FEW), flat(device, rows)]);
            let queries = Rng(3).normals(asked * DIM);
            for _ in 0..rounds {
                std::thread::scope(|scope| {
                    let (searching, searched) = channel::<()>();
                    let lock = &lock;
                    let writer = scope.spawn(move || {
                        while searched.try_recv() == Err(TryRecvError::Empty) {
                            drop(lock.write().unwrap());
                        }
                    });
                    (0..items).into_par_iter().for_each(|_| {
                        let indexes = lock.read().unwrap();
                        for index in indexes.iter() {
                            let found = index.search(&queries, 300, Metric::Dot, None).unwrap();
                            assert_eq!(found.len(), asked);
                        }
                    });
                    drop(searching);
                    writer.join().unwrap();
                });
            }
            finished.send((*name).into()).unwrap();
        }
    });
    for (name, _) in main_devices() {
        assert_eq!(expect(&done, name), *name);
    }
    calls.join().unwrap();
}

#[test]
fn bits_do_not_depend_on_the_threads() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    let own = |threads| DeviceOptions { threads: Some(threads), ..Default::default() };
    let given = DeviceOptions { pool: Some(Arc::new(pool)), ..Default::default() };
    for (name, device) in main_devices() {
        let want = everything(device, false);
        // A GPU's host does little; one other number of threads shows it.
        let others =
            if *name == "cpu" { vec![own(1), own(3), given.clone()] } else { vec![own(1)] };
        for options in others {
            let what = format!("{name}, {options:?}");
            let other = match *name {
                "wgpu" => open_wgpu(options).unwrap(),
                name => Device::by_name_with(name, options).unwrap(),
            };
            for (got, want) in everything(&other, false).iter().zip(&want) {
                assert!(got == want, "{what}: {}", want.0);
            }
        }
    }
}

/// What is started already cannot be set up again.
#[test]
fn the_global_threads_are_never_started() {
    for (_, device) in main_devices() {
        everything(device, true);
        // What waits for a GPU's threads is shown by the global ones being busy.
        if device.is_cpu() || exhaustive() {
            everything(device, false);
        }
    }
    assert!(!Device::all().is_empty());
    start_global(2);
}
