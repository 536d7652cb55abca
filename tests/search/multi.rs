//! Several vectors an item, and searches of which each query has ids of its own.

use nearkin::ops::topk::{Metric, Storage};
use nearkin::search::{Asked, Field, FlatIndex, Hit, MultiIndex};
use nearkin::{DType, Device, Error};

use crate::common::{Rng, main_devices};
use crate::names;

const IMAGE: usize = 5;
const CAPTION: usize = 8;
const TITLE: usize = 3;

fn fields() -> [Field; 3] {
    [Field::cosine("image", IMAGE), Field::cosine("caption", CAPTION), Field::dot("title", TITLE)]
}

fn ask<'a>(field: &'a str, vectors: &'a [f32], weights: &'a [f32]) -> Asked<'a> {
    Asked { field, vectors, weights }
}

/// The score of two vectors in f64.
fn score(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    match metric {
        Metric::Cosine if dot(a, a) == 0.0 || dot(b, b) == 0.0 => 0.0,
        Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        _ => dot(a, b),
    }
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| &*hit.id).collect()
}

#[test]
fn one_search_is_the_weighted_sum_of_the_fields() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.safetensors");
    for (name, device) in main_devices() {
        let mut rng = Rng(14);
        let (n, q) = (200, 6);
        let mut draw = |n: usize, dim: usize| rng.normals(n * dim);
        let (mut images, captions, titles) = (draw(n, IMAGE), draw(n, CAPTION), draw(n, TITLE));
        // Of any length; one has no image.
        images[..IMAGE].iter_mut().for_each(|v| *v *= 1e-30);
        images[IMAGE..2 * IMAGE].fill(0.0);
        let asked = [draw(q, IMAGE), draw(q, CAPTION), draw(q, TITLE)];
        let mut index = MultiIndex::new(device, Storage::F32, &fields()).unwrap();
        let cut = 120;
        let given = |from: usize, to: usize| {
            [
                ("caption", &captions[from * CAPTION..to * CAPTION]),
                ("image", &images[from * IMAGE..to * IMAGE]),
                ("title", &titles[from * TITLE..to * TITLE]),
            ]
        };
        index.add(&names(0..cut), &given(0, cut)).unwrap();
        index.add(&names(cut..n), &given(cut, n)).unwrap();
        // The last has captions alone.
        index.add(&["alone"], &[("caption", &captions[..CAPTION])]).unwrap();
        index.save(&file).unwrap();
        let loaded = MultiIndex::load(&file, device).unwrap();
        assert_eq!((loaded.fields(), loaded.len()), (&fields()[..], n + 1));
        let weights = [vec![0.5], (0..q).map(|q| q as f32 / 4.0 - 0.5).collect(), vec![2.0]];
        let query: Vec<Asked<'_>> = ["image", "caption", "title"]
            .iter()
            .zip(&asked)
            .zip(&weights)
            .map(|((field, vectors), weights)| ask(field, vectors, weights))
            .collect();
        let found = index.search(&query, n + 1, None).unwrap();
        assert_eq!(found, loaded.search(&query, n + 1, None).unwrap(), "{name}");
        for (q, found) in found.iter().enumerate() {
            assert_eq!(found.len(), n + 1, "{name}");
            let of = |row: usize| -> f64 {
                let weight = |f: usize| f64::from(weights[f][q.min(weights[f].len() - 1)]);
                let part = |f: usize, metric, rows: &[f32], dim: usize| {
                    weight(f)
                        * score(metric, &rows[row * dim..][..dim], &asked[f][q * dim..][..dim])
                };
                part(0, Metric::Cosine, &images, IMAGE)
                    + part(1, Metric::Cosine, &captions, CAPTION)
                    + part(2, Metric::Dot, &titles, TITLE)
            };
            for hit in found.iter().filter(|hit| &*hit.id != "alone") {
                let row: usize = hit.id[2..].parse().unwrap();
                assert!((f64::from(hit.score) - of(row)).abs() < 1e-5, "{name}: {hit:?}");
            }
            assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score), "{name}");
        }
        // A weight of 0 drops a field, as not asking for it does.
        let some = [ask("image", &asked[0], &[0.7]), ask("title", &asked[2], &[0.0])];
        let dropped = index.search(&some, 20, None).unwrap();
        let one = index.search(&some[..1], 20, None).unwrap();
        assert_eq!(dropped, one, "{name}");
        let mut flat = FlatIndex::new(device, DType::F32, IMAGE).unwrap();
        flat.add(&names(0..n), &images).unwrap();
        let plain = flat.search(&asked[0], 5, Metric::Cosine, None).unwrap();
        for (one, plain) in one.iter().zip(&plain) {
            assert_eq!(ids(&one[..5]), ids(plain), "{name}");
        }
        assert_eq!(index.remove(&["id0", "id9"]).unwrap(), 2);
        let even = |id: &str| id.len().is_multiple_of(2);
        let left = index.search(&query, 300, Some(&even)).unwrap();
        assert!(left[0].iter().all(|h| even(&h.id) && !["id0", "id9"].contains(&&*h.id)), "{name}");
    }
}

#[test]
fn references_are_left_out_and_groups_are_searched_alone() {
    for (name, device) in main_devices() {
        let mut rng = Rng(6);
        let (n, dim, q) = (90, 7, 5);
        let rows = rng.normals(n * dim);
        let queries = rng.normals(q * dim);
        let mut index = FlatIndex::new(device, DType::F32, dim).unwrap();
        index.add(&names(0..n), &rows).unwrap();
        index.remove(&["id50"]).unwrap();
        let plain = index.search(&queries, n, Metric::Cosine, None).unwrap();
        // None, the best, several, and one that is not there.
        let best = |q: usize, i: usize| plain[q][i].id.to_string();
        let without = [
            vec![],
            vec![best(1, 0)],
            vec![best(2, 3), best(2, 1)],
            vec!["none".into()],
            vec![best(4, 80)],
        ];
        let found = index.search_without(&queries, 6, Metric::Cosine, &without).unwrap();
        for (q, found) in found.iter().enumerate() {
            let want = plain[q].iter().filter(|hit| !without[q].iter().any(|id| **id == *hit.id));
            assert_eq!(found, &want.take(6).cloned().collect::<Vec<_>>(), "{name}: query {q}");
        }
        let groups: Vec<Vec<String>> = (0..q)
            .map(|q| {
                (0..q * 3)
                    .map(|i| format!("id{}", (i * 17 + q) % n))
                    .chain(["id50".into()])
                    .collect()
            })
            .collect();
        let found = index.search_within(&queries, 4, Metric::Cosine, &groups).unwrap();
        for (q, found) in found.iter().enumerate() {
            let want = plain[q].iter().filter(|hit| groups[q].iter().any(|id| **id == *hit.id));
            assert_eq!(found, &want.take(4).cloned().collect::<Vec<_>>(), "{name}: query {q}");
        }
        let few: [Vec<&str>; 1] = [vec![]];
        let is_shape = |got: Result<_, Error>| matches!(got, Err(Error::Shape { .. }));
        assert!(is_shape(index.search_without(&queries, 1, Metric::Cosine, &few)), "{name}");
        assert!(is_shape(index.search_within(&queries, 1, Metric::Cosine, &few)), "{name}");
        let none = index.search_without(&queries, 0, Metric::Cosine, &without);
        assert!(matches!(none, Err(Error::Argument { .. })), "{name}");
        // The same through several fields.
        let mut multi = MultiIndex::new(device, Storage::F32, &[Field::cosine("x", dim)]).unwrap();
        multi.add(&names(0..n), &[("x", &rows)]).unwrap();
        multi.remove(&["id50"]).unwrap();
        let asked = [ask("x", &queries, &[1.0])];
        let ids_of = |found: &[Vec<Hit>]| -> Vec<Vec<String>> {
            found.iter().map(|f| f.iter().map(|h| h.id.to_string()).collect()).collect()
        };
        let a = multi.search_without(&asked, 6, &without).unwrap();
        let b = index.search_without(&queries, 6, Metric::Cosine, &without).unwrap();
        assert_eq!(ids_of(&a), ids_of(&b), "{name}");
        let a = multi.search_within(&asked, 4, &groups).unwrap();
        assert_eq!(ids_of(&a), ids_of(&found), "{name}");
    }
}

#[test]
fn wrong_fields_are_typed_errors_and_add_nothing() {
    let device = Device::cpu();
    let is_argument = |got: Result<(), Error>| matches!(got, Err(Error::Argument { .. }));
    let is_shape = |got: Result<(), Error>| matches!(got, Err(Error::Shape { .. }));
    let new = |fields: &[Field]| MultiIndex::new(&device, Storage::F32, fields).map(drop);
    assert!(is_argument(new(&[])));
    assert!(is_argument(new(&[Field::cosine("a", 2), Field::dot("a", 3)])));
    assert!(is_argument(new(&[Field::cosine("a", 0)])));
    assert!(is_argument(new(&[Field { metric: Metric::L2, ..Field::dot("a", 2) }])));
    let mut index = MultiIndex::new(&device, Storage::F32, &fields()).unwrap();
    let image = [1.0; IMAGE];
    assert!(is_argument(index.add(&["a"], &[("sound", &image)])));
    assert!(is_argument(index.add(&["a"], &[("image", &image), ("image", &image)])));
    assert!(is_shape(index.add(&["a", "b"], &[("image", &image)])));
    let nan = [f32::NAN; IMAGE];
    assert!(is_argument(index.add(&["a"], &[("image", &nan)])));
    assert!(index.is_empty());
    index.add(&["a"], &[("image", &image)]).unwrap();
    let search = |asked: &[Asked<'_>]| index.search(asked, 1, None).map(drop);
    assert!(is_argument(search(&[])));
    assert!(is_argument(search(&[ask("sound", &image, &[1.0])])));
    assert!(is_argument(search(&[ask("image", &image, &[f32::NAN])])));
    assert!(is_shape(search(&[ask("image", &image, &[1.0, 1.0])])));
    assert!(is_shape(search(&[ask("image", &image, &[1.0]), ask("title", &[1.0; 6], &[1.0])])));
    // A query of NaN finds nothing.
    assert!(index.search(&[ask("image", &nan, &[1.0])], 1, None).unwrap()[0].is_empty());
    let dropped = [ask("image", &nan, &[0.0]), ask("title", &[1.0; TITLE], &[1.0])];
    assert_eq!(index.search(&dropped, 1, None).unwrap()[0].len(), 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flat.safetensors");
    let mut flat = FlatIndex::new(&device, DType::F32, 2).unwrap();
    flat.add(&["a"], &[1.0, 2.0]).unwrap();
    flat.save(&file).unwrap();
    assert!(matches!(MultiIndex::load(&file, &device), Err(Error::Data { .. })));
}
