//! Sparse and hybrid indexes against sorted lists of all documents.

use nearkin::ops::sparse::{Csr, Impact};
use nearkin::ops::topk::{Metric, Storage};
use nearkin::rank::fuse::{Fusion, Missing, Score};
use nearkin::search::{FlatIndex, Hit, HybridIndex, SparseIndex, check_index, fuse, write_sparse};
use nearkin::{Device, Error};

use crate::common::{Rng, main_devices};
use crate::names;

const TERMS: usize = 60;
const DIM: usize = 6;

#[derive(Clone, Default)]
struct Vectors {
    offsets: Vec<i64>,
    terms: Vec<u32>,
    weights: Vec<f32>,
}

impl Vectors {
    /// Rows of a few terms, weights in quarters, so that sums are exact.
    fn draw(rng: &mut Rng, n: usize) -> Vectors {
        let mut all = Vectors { offsets: vec![0], ..Default::default() };
        for _ in 0..n {
            let mut terms: Vec<u32> = (0..rng.below(8)).map(|_| rng.below(TERMS) as u32).collect();
            terms.sort_unstable();
            terms.dedup();
            all.weights.extend(terms.iter().map(|_| rng.below(12) as f32 / 4.0));
            all.terms.extend(terms);
            all.offsets.push(all.terms.len() as i64);
        }
        all
    }

    fn csr(&self) -> Csr<'_> {
        Csr { offsets: &self.offsets, terms: &self.terms, weights: &self.weights }
    }

    fn rows(&self, range: std::ops::Range<usize>) -> Vectors {
        let own = self.offsets[range.start] as usize..self.offsets[range.end] as usize;
        let offsets = self.offsets[range.start..=range.end].iter();
        Vectors {
            offsets: offsets.map(|at| at - own.start as i64).collect(),
            terms: self.terms[own.clone()].to_vec(),
            weights: self.weights[own].to_vec(),
        }
    }

    fn dot(&self, row: usize, other: &Vectors, of: usize) -> f32 {
        let own = |v: &Vectors, row: usize| -> Vec<(u32, f32)> {
            let range = v.offsets[row] as usize..v.offsets[row + 1] as usize;
            v.terms[range.clone()].iter().copied().zip(v.weights[range].iter().copied()).collect()
        };
        let b = own(other, of);
        let weight = |t: u32| b.iter().find(|e| e.0 == t).map_or(0.0, |e| e.1);
        own(self, row).iter().map(|&(t, w)| w * weight(t)).sum()
    }
}

/// The best of all, ties by row.
fn best(scores: impl Iterator<Item = (usize, f32)>, k: usize) -> Vec<(String, f32)> {
    // An empty sum is -0.
    let mut all: Vec<(usize, f32)> = scores.map(|(row, score)| (row, score + 0.0)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all.into_iter().map(|(row, score)| (format!("id{row}"), score)).collect()
}

fn pairs(hits: &[Hit]) -> Vec<(String, f32)> {
    hits.iter().map(|hit| (hit.id.to_string(), hit.score)).collect()
}

#[test]
fn a_sparse_index_finds_adds_removes_saves_and_loads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.safetensors");
    for (name, device) in main_devices() {
        for impact in [Impact::F32, Impact::F16, Impact::U8 { scale: 0.25 }] {
            let mut rng = Rng(31);
            let (documents, queries) = (Vectors::draw(&mut rng, 300), Vectors::draw(&mut rng, 5));
            let mut index = SparseIndex::new(device, TERMS, impact).unwrap();
            for (start, end) in [(0, 1), (1, 120), (120, 300)] {
                index.add(&names(start..end), documents.rows(start..end).csr()).unwrap();
            }
            let check = |index: &SparseIndex, keep: &dyn Fn(usize) -> bool| {
                let found = index.search(queries.csr(), 7, Some(0.25), None).unwrap();
                for (q, found) in found.iter().enumerate() {
                    let scores = (0..300).filter(|&row| keep(row));
                    let scores = scores.map(|row| (row, documents.dot(row, &queries, q)));
                    let want = best(scores.filter(|s| s.1 >= 0.25), 7);
                    assert_eq!(pairs(found), want, "{name}, {impact:?}, query {q}");
                }
            };
            check(&index, &|_| true);
            let even = |id: &str| id[2..].parse::<usize>().unwrap().is_multiple_of(2);
            let found = index.search(queries.csr(), 7, None, Some(&even)).unwrap();
            assert!(found.iter().all(|f| f.len() == 7 && f.iter().all(|h| even(&h.id))), "{name}");
            // Few are marked, many are moved.
            assert_eq!(index.remove(&["id3", "id4", "none"]).unwrap(), 2);
            check(&index, &|row| !(3..5).contains(&row));
            index.save(&file).unwrap();
            let loaded = SparseIndex::load(&file, device).unwrap();
            assert_eq!((loaded.len(), loaded.dim(), loaded.impact()), (298, TERMS, impact));
            assert!(loaded.ids().eq(index.ids()), "{name}");
            check(&loaded, &|row| !(3..5).contains(&row));
            let (before, gone) = (index.memory_bytes(), names(100..290));
            index.remove(&gone).unwrap();
            assert!(index.memory_bytes() < before, "{name}");
            check(&index, &|row| !(3..5).contains(&row) && !(100..290).contains(&row));
            assert!(index.contains("id99") && !index.contains("id100"), "{name}");
            let again = index.add(&["id99"], documents.rows(0..1).csr());
            assert!(matches!(again, Err(Error::Argument { .. })), "{name}");
            let unequal = index.add(&["new"], documents.rows(0..2).csr());
            assert!(matches!(unequal, Err(Error::Shape { .. })), "{name}");
            assert!(!index.contains("new"), "{name}");
        }
    }
}

#[test]
fn sparse_files_of_others_load_and_damaged_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.safetensors");
    let device = Device::cpu();
    let vectors = Vectors::draw(&mut Rng(2), 20);
    write_sparse(&file, vectors.csr(), TERMS, Impact::F16, &names(0..20)).unwrap();
    assert_eq!(SparseIndex::load(&file, &device).unwrap().len(), 20);
    assert_eq!(check_index(&std::fs::read(&file).unwrap()).unwrap(), 1);
    assert!(write_sparse(&file, vectors.csr(), 1, Impact::F16, &names(0..20)).is_err());
    assert!(write_sparse(&file, vectors.csr(), TERMS, Impact::F16, &names(0..19)).is_err());
    // One wrong byte of the data is a wrong checksum.
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(SparseIndex::load(&file, &device), Err(Error::Weights { .. })));
    let mut dense = FlatIndex::new(&device, nearkin::DType::F32, 2).unwrap();
    dense.add(&["a"], &[1.0, 2.0]).unwrap();
    dense.save(&file).unwrap();
    assert!(matches!(SparseIndex::load(&file, &device), Err(Error::Weights { .. })));
}

/// Vectors of small whole numbers, so that dot products are exact.
fn whole(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n * DIM).map(|_| rng.below(7) as f32 - 3.0).collect()
}

#[test]
fn a_hybrid_search_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.safetensors");
    for (name, device) in main_devices() {
        let mut rng = Rng(12);
        let n = 2500;
        let (dense, sparse) = (whole(&mut rng, n), Vectors::draw(&mut rng, n));
        let (asked, words) = (whole(&mut rng, 6), Vectors::draw(&mut rng, 6));
        let mut index = HybridIndex::new(device, Storage::F32, DIM, TERMS, Impact::F32).unwrap();
        for (start, end) in [(0, 2000), (2000, n)] {
            let rows = &dense[start * DIM..end * DIM];
            index.add(&names(start..end), rows, sparse.rows(start..end).csr()).unwrap();
        }
        index.remove(&["id5", "id2400"]).unwrap();
        index.save(&file).unwrap();
        let loaded = HybridIndex::load(&file, device).unwrap();
        assert_eq!(loaded.len(), n - 2, "{name}");
        let keeps = |row: usize| row != 5 && row != 2400;
        let dot = |row: usize, q: usize| -> f32 {
            (0..DIM).map(|i| dense[row * DIM + i] * asked[q * DIM + i]).sum()
        };
        // Opposed weights take a deep look.
        for weights in [[1.0, 1.0], [0.25, 4.0], [8.0, 0.5], [1.0, 0.0], [0.0, 2.0]] {
            for k in [1, 10, 200] {
                let search = |index: &HybridIndex| {
                    index.search(&asked, words.csr(), k, Metric::Dot, weights, None).unwrap()
                };
                let found = search(&index);
                assert_eq!(found, search(&loaded), "{name}: loaded");
                for (q, found) in found.iter().enumerate() {
                    let score = |row: usize| {
                        weights[0] * dot(row, q) + weights[1] * sparse.dot(row, &words, q)
                    };
                    let want =
                        best((0..n).filter(|&row| keeps(row)).map(|row| (row, score(row))), k);
                    assert_eq!(pairs(found), want, "{name}: {weights:?}, k {k}, query {q}");
                }
            }
        }
        let even = |id: &str| id[2..].parse::<usize>().unwrap().is_multiple_of(2);
        let found =
            index.search(&asked, words.csr(), 30, Metric::Dot, [1.0, 1.0], Some(&even)).unwrap();
        for (q, found) in found.iter().enumerate() {
            let score = |row: usize| dot(row, q) + sparse.dot(row, &words, q);
            let rows = (0..n).filter(|&row| keeps(row) && row.is_multiple_of(2));
            assert_eq!(
                pairs(found),
                best(rows.map(|row| (row, score(row))), 30),
                "{name}: query {q}"
            );
        }
        // Fusion of lists is that of both sides' own.
        let fusion = Fusion::new(Score::Reciprocal { k: 60.0 }).missing(Missing::Zero);
        let fused =
            index.search_fused(&asked, words.csr(), 9, Metric::Dot, &fusion, 50, None).unwrap();
        let sides = [
            index.dense().search(&asked, 50, Metric::Dot, None).unwrap(),
            index.sparse().search(words.csr(), 50, Some(f32::MIN_POSITIVE), None).unwrap(),
        ];
        assert_eq!(fused, fuse(&fusion, &sides, 9).unwrap(), "{name}");
        // What is NaN on one side finds nothing.
        let mut lost = asked.clone();
        lost[DIM] = f32::NAN;
        let found = index.search(&lost, words.csr(), 3, Metric::Dot, [1.0, 1.0], None).unwrap();
        assert!(found[1].is_empty() && found[0].len() == 3, "{name}");
    }
}

#[test]
fn wrong_hybrid_requests_are_typed_errors_and_add_nothing() {
    let device = Device::cpu();
    let mut rng = Rng(1);
    let (dense, sparse) = (whole(&mut rng, 3), Vectors::draw(&mut rng, 3));
    let mut index = HybridIndex::new(&device, Storage::F32, DIM, TERMS, Impact::F32).unwrap();
    index.add(&names(0..3), &dense, sparse.csr()).unwrap();
    let is_argument =
        |got: Result<Vec<Vec<Hit>>, Error>| matches!(got, Err(Error::Argument { .. }));
    let search = |k, weights| index.search(&dense, sparse.csr(), k, Metric::Dot, weights, None);
    for weights in [[0.0, 0.0], [-1.0, 1.0], [f32::NAN, 1.0], [1.0, f32::INFINITY]] {
        assert!(is_argument(search(1, weights)), "{weights:?}");
    }
    assert!(is_argument(search(0, [1.0, 1.0])));
    let few = index.search(&dense[DIM..], sparse.csr(), 1, Metric::Dot, [1.0, 1.0], None);
    assert!(matches!(few, Err(Error::Shape { .. })));
    // A fault on either side adds to neither.
    let mut damaged = dense[..DIM].to_vec();
    damaged[2] = f32::NAN;
    assert!(index.add(&["x"], &damaged, sparse.rows(0..1).csr()).is_err());
    assert!(index.add(&["x"], &dense[..DIM], sparse.rows(0..2).csr()).is_err());
    assert!(index.add(&["id1"], &dense[..DIM], sparse.rows(0..1).csr()).is_err());
    assert_eq!((index.len(), index.sparse().len(), index.dense().len()), (3, 3, 3));
    let runs = [vec![Vec::new()], vec![]];
    let uneven = fuse(&Fusion::new(Score::MinMax), &runs, 1);
    assert!(matches!(uneven, Err(Error::Shape { .. })));
}
