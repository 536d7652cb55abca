//! Scores normalised by banks against the formulas in f64.

use nearkin::ops::topk::{Bitmap, Corpus, Filter, Hits, Metric, Rows, Search, Storage, topk};
use nearkin::rank::bank::{Bank, Dynamic, Norm};
use nearkin::search::FlatIndex;
use nearkin::{DType, Device, DeviceOptions, Error, Tensor};

use crate::common::{Rng, devices, main_devices, open_wgpu, required, tensor};

const DIM: usize = 12;

/// Vectors that have something in common, so that there are hubs.
fn vectors(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).flat_map(|_| rng.normals(DIM).into_iter().map(|x| x + 0.7)).collect()
}

fn score(metric: Metric, a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    match metric {
        Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        _ => dot(a, b),
    }
}

/// The `k` largest, or all.
fn largest(mut values: Vec<f64>, k: usize) -> Vec<f64> {
    values.sort_by(|a, b| b.total_cmp(a));
    values.truncate(k);
    values
}

fn mean(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The rows of everything, in f64.
struct Data {
    metric: Metric,
    gallery: Vec<f64>,
    queries: Vec<f64>,
    bank: Vec<f64>,
    other: Vec<f64>,
}

impl Data {
    /// The normalised scores of one query with each row, as the papers write them, of exponentials the logarithm over their temperature.
    fn literal(&self, norm: Norm, q: usize) -> Vec<f64> {
        let row = |all: &[f64], i: usize| all[i * DIM..][..DIM].to_vec();
        let query = row(&self.queries, q);
        let with = |bank: &[f64], x: &[f64]| -> Vec<f64> {
            bank.chunks(DIM).map(|b| score(self.metric, b, x)).collect()
        };
        let exp = |s: f64, bank: &[f64], x: &[f64], beta: f64| {
            (beta * s).exp() / with(bank, x).iter().map(|p| (beta * p).exp()).sum::<f64>()
        };
        let all: Vec<f64> = with(&self.gallery, &query);
        (0..all.len())
            .map(|j| {
                let (s, x) = (all[j], row(&self.gallery, j));
                match norm {
                    Norm::Inverted { beta } => {
                        exp(s, &self.bank, &x, beta.into()).ln() / f64::from(beta)
                    }
                    Norm::DualInverted { queries, gallery } => {
                        let both = exp(s, &self.bank, &x, queries.into())
                            * exp(s, &self.other, &x, gallery.into());
                        both.ln() / f64::from(queries + gallery)
                    }
                    Norm::Csls { k } => {
                        let of_row = mean(largest(with(&self.bank, &x), k));
                        2.0 * s - mean(largest(all.clone(), k)) - of_row
                    }
                    Norm::Nnn { k, alpha } => {
                        s - f64::from(alpha) * mean(largest(with(&self.bank, &x), k))
                    }
                    other => unreachable!("{other:?}"),
                }
            })
            .collect()
    }
}

/// Fails if a row is before one whose score is greater by more than `slack`.
fn assert_order(what: &str, found: &[u64], literal: &[f64], slack: f64) {
    let at = |row: &u64| literal[*row as usize];
    for pair in found.windows(2) {
        let (first, second) = (at(&pair[0]), at(&pair[1]));
        assert!(first >= second - slack, "{what}: {pair:?} with {first} and {second}");
    }
    let last = found.last().map_or(f64::INFINITY, at);
    for (row, &score) in literal.iter().enumerate() {
        assert!(found.contains(&(row as u64)) || score <= last + slack, "{what}: row {row}");
    }
}

const NORMS: [Norm; 4] = [
    Norm::Inverted { beta: 20.0 },
    Norm::DualInverted { queries: 5.0, gallery: 9.0 },
    Norm::Csls { k: 4 },
    Norm::Nnn { k: 7, alpha: 0.75 },
];

#[test]
fn rankings_are_those_of_the_formulas() {
    for (name, device) in devices() {
        for (metric, storage) in [
            (Metric::Cosine, Storage::F32),
            (Metric::Dot, Storage::F32),
            (Metric::Cosine, Storage::BF16),
            (Metric::Cosine, Storage::Int8),
        ] {
            let mut rng = Rng(8);
            let mut corpus = Corpus::with_storage(device, storage, DIM).unwrap();
            // Two chunks, or two additions.
            let rows = vectors(&mut rng, 301);
            corpus.append(&rows[..200 * DIM]).unwrap();
            corpus.append(&rows[200 * DIM..]).unwrap();
            let all: Vec<u32> = (0..301).collect();
            let stored = corpus.gather(&all).unwrap().to_f32_vec().unwrap();
            // Smaller, so that exponentials of dot products are finite.
            let small =
                |n, rng: &mut Rng| vectors(rng, n).iter().map(|x| x * 0.1).collect::<Vec<f32>>();
            let (queries, of_queries) = tensor(device, DType::F32, &[9, DIM], &small(9, &mut rng));
            let (bank, of_bank) = tensor(device, DType::F32, &[33, DIM], &small(33, &mut rng));
            let (other, of_other) = tensor(device, DType::F16, &[20, DIM], &small(20, &mut rng));
            let data = Data {
                metric,
                gallery: stored.iter().map(|&x| x.into()).collect(),
                queries: of_queries,
                bank: of_bank,
                other: of_other,
            };
            for norm in NORMS {
                let made = match norm {
                    Norm::DualInverted { .. } => Bank::dual(&corpus, metric, norm, &bank, &other),
                    _ => Bank::new(&corpus, metric, norm, &bank),
                }
                .unwrap();
                let hits = made.search(&queries, &corpus, &Search::new(20)).unwrap();
                // As the bias of an ordinary search.
                let bias = made.bias();
                let same =
                    topk(&queries, &corpus, metric, &Search { bias, ..Search::new(20) }).unwrap();
                for q in 0..9 {
                    assert_eq!(hits.get(q), same.get(q), "{name}: {norm:?}");
                    let what = format!("{metric:?}, {storage}, {norm:?}, query {q} on {name}");
                    // Queries become bytes too.
                    let slack = if storage == Storage::Int8 { 0.02 } else { 2e-5 };
                    assert_order(&what, hits.get(q).0, &data.literal(norm, q), slack);
                }
            }
        }
    }
}

#[test]
fn a_bank_without_vectors_changes_nothing() {
    for (name, device) in main_devices() {
        let mut rng = Rng(1);
        let (rows, _) = tensor(device, DType::F32, &[50, DIM], &vectors(&mut rng, 50));
        let (queries, _) = tensor(device, DType::F32, &[6, DIM], &vectors(&mut rng, 6));
        let corpus = Corpus::from_tensor(&rows).unwrap();
        let empty = Tensor::zeros(device, DType::F32, &[0, DIM]).unwrap();
        let plain = topk(&queries, &corpus, Metric::Cosine, &Search::new(5)).unwrap();
        let same = |bank: Bank| {
            assert!(bank.bias().is_none(), "{name}");
            let got = bank.search(&queries, &corpus, &Search::new(5)).unwrap();
            assert!(got.iter().eq(plain.iter()), "{name}");
        };
        same(Bank::none(&corpus, Metric::Cosine).unwrap());
        for norm in NORMS {
            match norm {
                Norm::DualInverted { .. } => {
                    same(Bank::dual(&corpus, Metric::Cosine, norm, &empty, &empty).unwrap());
                }
                _ => same(Bank::new(&corpus, Metric::Cosine, norm, &empty).unwrap()),
            }
        }
        let dynamic = Dynamic::default();
        let norm = Norm::Inverted { beta: 20.0 };
        same(Bank::dynamic(&corpus, Metric::Cosine, norm, &empty, None, dynamic).unwrap());
        // Of two banks one that is empty leaves the other's.
        let norm = Norm::DualInverted { queries: 20.0, gallery: 3.0 };
        let (some, _) = tensor(device, DType::F32, &[7, DIM], &vectors(&mut rng, 7));
        let one = Bank::dual(&corpus, Metric::Cosine, norm, &some, &empty).unwrap();
        let alone =
            Bank::new(&corpus, Metric::Cosine, Norm::Inverted { beta: 20.0 }, &some).unwrap();
        let bits = |bank: &Bank| bank.bias().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(bits(&one), bits(&alone), "{name}");
        // A corpus without rows.
        let none = Corpus::new(device, DType::F32, DIM).unwrap();
        let bank = Bank::new(&none, Metric::Dot, Norm::Csls { k: 3 }, &some).unwrap();
        assert!(bank.search(&queries, &none, &Search::new(1)).unwrap().get(0).0.is_empty());
    }
}

#[test]
fn dynamic_banks_normalise_the_queries_whose_best_row_is_activated() {
    for (name, device) in main_devices() {
        let mut rng = Rng(5);
        let (rows, _) = tensor(device, DType::F32, &[80, DIM], &vectors(&mut rng, 80));
        let (queries, _) = tensor(device, DType::F32, &[40, DIM], &vectors(&mut rng, 40));
        let (bank, _) = tensor(device, DType::F32, &[12, DIM], &vectors(&mut rng, 12));
        let (other, _) = tensor(device, DType::F32, &[9, DIM], &vectors(&mut rng, 9));
        let corpus = Corpus::from_tensor(&rows).unwrap();
        let (metric, k, wanted) = (Metric::Cosine, 2, Search::new(6));
        let raw = topk(&queries, &corpus, metric, &wanted).unwrap();
        let activation = |bank: &Tensor, min_count: usize| -> Vec<u64> {
            let hits = topk(bank, &corpus, metric, &Search::new(k)).unwrap();
            let all: Vec<u64> = hits.iter().flat_map(|(rows, _)| rows.to_vec()).collect();
            let often = |row: &u64| all.iter().filter(|r| *r == row).count() >= min_count;
            (0..80).filter(often).collect()
        };
        let of = |norm| Bank::new(&corpus, metric, norm, &bank).unwrap();
        let by_queries = of(Norm::Inverted { beta: 20.0 });
        let by_gallery = Bank::new(&corpus, metric, Norm::Inverted { beta: 7.0 }, &other).unwrap();
        let dual = Norm::DualInverted { queries: 20.0, gallery: 7.0 };
        let by_both = Bank::dual(&corpus, metric, dual, &bank, &other).unwrap();
        let all = |bank: &Bank| bank.search(&queries, &corpus, &wanted).unwrap();
        let by = [&all(&by_queries), &all(&by_gallery), &all(&by_both)];
        for min_count in [1, 2] {
            let dynamic = Dynamic { k, min_count };
            let [a, b] = [activation(&bank, min_count), activation(&other, min_count)];
            let mut seen = [0; 4];
            let two = Bank::dynamic(&corpus, metric, dual, &bank, Some(&other), dynamic).unwrap();
            let norm = Norm::Inverted { beta: 20.0 };
            let one = Bank::dynamic(&corpus, metric, norm, &bank, None, dynamic).unwrap();
            assert!(two.bias().is_none());
            let (got, got_one) = (all(&two), all(&one));
            for q in 0..40 {
                let best = raw.get(q).0[0];
                let group = usize::from(a.contains(&best)) + 2 * usize::from(b.contains(&best));
                seen[group] += 1;
                let want = [&raw, by[0], by[1], by[2]][group].get(q);
                assert_eq!(got.get(q), want, "{name}: query {q} of group {group}");
                let want = if group & 1 == 1 { by[0] } else { &raw };
                assert_eq!(got_one.get(q), want.get(q), "{name}: query {q} of group {group}");
            }
            assert!(min_count > 1 || seen.iter().all(|&n| n > 0), "{name}: {seen:?}");
            // A lowest score is one of normalised scores.
            let least = got.get(3).1[2];
            let some = Search { least: Some(least), ..wanted };
            let some = two.search(&queries, &corpus, &some).unwrap();
            for q in 0..40 {
                let want: Vec<f32> = got.get(q).1.iter().copied().filter(|s| *s >= least).collect();
                assert_eq!(some.get(q).1, want, "{name}: query {q} from {least} on");
            }
            // Filters of each query.
            let sets: Vec<Bitmap> =
                (0..40).map(|q| Bitmap::from_fn(80, |row| (row + q) % 3 > 0)).collect();
            let sets: Vec<Rows<'_>> = sets.iter().map(Rows::Allow).collect();
            let filter = Filter::PerQuery(&sets);
            let filtered = two.search(&queries, &corpus, &Search { filter, ..wanted }).unwrap();
            let plain = topk(&queries, &corpus, metric, &Search { filter, ..wanted }).unwrap();
            let of_all: Vec<Hits> = [&by_queries, &by_gallery, &by_both]
                .iter()
                .map(|b| b.search(&queries, &corpus, &Search { filter, ..wanted }).unwrap())
                .collect();
            for q in 0..40 {
                let best = plain.get(q).0[0];
                let group = usize::from(a.contains(&best)) + 2 * usize::from(b.contains(&best));
                let want = [&plain, &of_all[0], &of_all[1], &of_all[2]][group].get(q);
                assert_eq!(filtered.get(q), want, "{name}: query {q} with a filter");
            }
        }
    }
}

/// The scores of bank and corpus would take 150 MB.
#[test]
fn no_matrix_of_scores_is_made() {
    let options = DeviceOptions { memory_limit: Some(90 << 20), ..Default::default() };
    let mut all = vec![("cpu", Device::cpu_with(options.clone()))];
    all.extend(required("wgpu", open_wgpu(options)).map(|device| ("wgpu", device)));
    for (name, device) in &all {
        let mut rng = Rng(2);
        let (rows, _) = tensor(device, DType::F32, &[12_500, DIM], &vectors(&mut rng, 12_500));
        let (bank, _) = tensor(device, DType::F32, &[3000, DIM], &vectors(&mut rng, 3000));
        assert!(Tensor::zeros(device, DType::F32, &[12_500, 3000]).is_err(), "{name}");
        let corpus = Corpus::from_tensor(&rows).unwrap();
        for norm in [Norm::Inverted { beta: 20.0 }, Norm::Nnn { k: 10, alpha: 1.0 }] {
            let made = Bank::new(&corpus, Metric::Cosine, norm, &bank);
            assert_eq!(made.unwrap().bias().unwrap().shape(), [12_500], "{name}");
        }
    }
}

#[test]
fn an_index_searches_with_a_bank() {
    for (name, device) in main_devices() {
        let mut rng = Rng(3);
        let mut index = FlatIndex::new(device, DType::F32, DIM).unwrap();
        let ids: Vec<String> = (0..60).map(|i| i.to_string()).collect();
        index.add(&ids, &vectors(&mut rng, 60)).unwrap();
        index.remove(&["3", "7"]).unwrap();
        let (earlier, queries) = (vectors(&mut rng, 9), vectors(&mut rng, 4));
        let norm = Norm::Inverted { beta: 20.0 };
        let make = |corpus: &Corpus, bank: &Tensor| Bank::new(corpus, Metric::Cosine, norm, bank);
        let bank = index.bank(&earlier, make).unwrap();
        let even = |id: &str| id.parse::<usize>().unwrap().is_multiple_of(2);
        let found = index.search_normalized(&queries, 5, &bank, Some(&even)).unwrap();
        assert_eq!(found.len(), 4);
        let bias = bank.bias().unwrap().to_vec::<f32>().unwrap();
        let plain = index.search(&queries, 60, Metric::Cosine, Some(&even)).unwrap();
        for (found, plain) in found.iter().zip(&plain) {
            assert_eq!(found.len(), 5, "{name}");
            for hit in found {
                let row: usize = hit.id.parse().unwrap();
                assert!(even(&hit.id), "{name}: {}", hit.id);
                let of = plain.iter().find(|p| p.id == hit.id).unwrap();
                assert!((hit.score - of.score - bias[row]).abs() < 1e-5, "{name}");
            }
        }
        assert!(index.bank(&earlier[1..], make).is_err());
        index.add(&["new"], &vectors(&mut rng, 1)).unwrap();
        let stale = index.search_normalized(&queries, 5, &bank, None);
        assert!(matches!(stale, Err(Error::Shape { .. })), "{name}");
    }
}

#[test]
fn wrong_banks_are_typed_errors() {
    for (name, device) in main_devices() {
        let (rows, _) = tensor(device, DType::F32, &[5, DIM], &Rng(1).normals(5 * DIM));
        let corpus = Corpus::from_tensor(&rows).unwrap();
        let (inverted, dual) =
            (Norm::Inverted { beta: 1.0 }, Norm::DualInverted { queries: 1.0, gallery: 1.0 });
        let is_argument = |got: Result<Bank, Error>| matches!(got, Err(Error::Argument { .. }));
        let is_shape = |got: Result<Bank, Error>| matches!(got, Err(Error::Shape { .. }));
        let of = |norm| Bank::new(&corpus, Metric::Dot, norm, &rows);
        for norm in [
            Norm::Inverted { beta: 0.0 },
            Norm::Inverted { beta: f32::NAN },
            Norm::Csls { k: 0 },
            Norm::Nnn { k: 0, alpha: 1.0 },
            Norm::Nnn { k: 1, alpha: f32::INFINITY },
            dual,
        ] {
            assert!(is_argument(of(norm)), "{name}: {norm:?}");
        }
        assert!(is_argument(Bank::new(&corpus, Metric::L2, inverted, &rows)), "{name}");
        assert!(is_argument(Bank::dual(&corpus, Metric::Dot, inverted, &rows, &rows)), "{name}");
        let never = Dynamic { k: 0, min_count: 1 };
        assert!(is_argument(Bank::dynamic(&corpus, Metric::Dot, inverted, &rows, None, never)));
        let csls = Norm::Csls { k: 1 };
        let dynamic = Dynamic::default();
        assert!(is_argument(Bank::dynamic(&corpus, Metric::Dot, csls, &rows, None, dynamic)));
        let mut values = vec![1.0; 2 * DIM];
        values[DIM + 2] = f32::NAN;
        let (damaged, _) = tensor(device, DType::F32, &[2, DIM], &values);
        assert!(is_argument(Bank::new(&corpus, Metric::Dot, inverted, &damaged)), "{name}");
        let narrow = Tensor::zeros(device, DType::F32, &[2, DIM - 1]).unwrap();
        assert!(is_shape(Bank::new(&corpus, Metric::Dot, inverted, &narrow)), "{name}");
        let words = Tensor::zeros(device, DType::U32, &[2, DIM]).unwrap();
        assert!(is_shape(Bank::new(&corpus, Metric::Dot, inverted, &words)), "{name}");
        let bank = of(inverted).unwrap();
        let bias = Tensor::zeros(device, DType::F32, &[5]).unwrap();
        let search = Search { bias: Some(&bias), ..Search::new(1) };
        let got = bank.search(&rows, &corpus, &search);
        assert!(matches!(got, Err(Error::Argument { .. })), "{name}");
    }
}
