//! The choice of anchors.

use nearkin::Device;
use nearkin::search::cur::*;

use crate::common::{Rng, devices};

#[test]
fn clusters_get_an_anchor_each() {
    let mut rng = Rng(11);
    let n = 120;
    let centres = rng.normals(6 * 10);
    let points: Vec<f32> = (0..n)
        .flat_map(|i| centres[i % 6 * 10..][..10].iter().map(|x| 10.0 * x).collect::<Vec<_>>())
        .map(|x| x + 0.01 * rng.normal())
        .collect();
    let mut first = None;
    for (name, device) in devices() {
        let mut hit = 0;
        // Every device is asked for the same; how good it is, one tells.
        for seed in 0..if device.is_cpu() { 8 } else { 1 } {
            let chosen = Anchors::KMeans { count: 6, seed }.choose(n, &points, device).unwrap();
            assert_eq!(chosen.len(), 6, "{name}");
            let clusters: std::collections::HashSet<usize> = chosen.iter().map(|i| i % 6).collect();
            hit += clusters.len();
            if seed == 0 {
                assert_eq!(*first.get_or_insert(chosen.clone()), chosen, "{name}");
            }
        }
        // Lloyd's algorithm may leave two clusters to one centroid; uniform choice would hit 3.99 of 6.
        assert!(!device.is_cpu() || hit >= 8 * 5 - 4, "{name}: {hit} of 48");
    }
    let cpu = Device::cpu();
    let all = Anchors::KMeans { count: n, seed: 1 }.choose(n, &points, &cpu).unwrap();
    assert_eq!(all, (0..n).collect::<Vec<_>>());
    let same = [3.5f32; 40];
    let chosen = Anchors::KMeans { count: 4, seed: 1 }.choose(10, &same, &cpu).unwrap();
    assert_eq!(chosen.len(), 4, "equal vectors");
    let chosen = |seed| Anchors::Uniform { count: 30, seed }.choose(1000, &[], &cpu).unwrap();
    assert_eq!(chosen(1), chosen(1));
    assert_ne!(chosen(1), chosen(2));
}
