use nearkin::ops::kmeans::{KMeans, kmeans};
use nearkin::ops::residual::{Codec, Training};
use nearkin::{DType, Device, Error, Tensor};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::common::{Rng, assert_close, device, devices, golden, main_devices};
use crate::oracle::residual as oracle;

/// A codec of random centroids, with cutoffs and weights that tell buckets apart.
fn codec(device: &Device, clusters: usize, dim: usize, bits: usize, rng: &mut Rng) -> Codec {
    let centroids = Tensor::from_slice(device, &[clusters, dim], &rng.normals(clusters * dim));
    let buckets = 1 << bits;
    let at = |i: usize| (i as f32 - buckets as f32 / 2.0) * 0.1;
    let cutoffs: Vec<f32> = (1..buckets).map(at).collect();
    let weights: Vec<f32> = (0..buckets).map(|i| at(i) + 0.05).collect();
    Codec::new(&centroids.unwrap(), &cutoffs, &weights).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn decodes_as_the_oracle(
        count in 0usize..90,
        eighths in prop_oneof![1usize..20, Just(48), Just(128)],
        clusters in 1usize..40,
        bits in prop_oneof![Just(1usize), Just(2), Just(4)],
        seed: u64,
    ) {
        let dim = 8 * eighths;
        for (name, device) in devices() {
            let mut rng = Rng(seed);
            let codec = codec(device, clusters, dim, bits, &mut rng);
            let numbers: Vec<u32> = (0..count).map(|_| rng.below(clusters) as u32).collect();
            let buckets: Vec<Vec<usize>> =
                (0..count).map(|_| (0..dim).map(|_| rng.below(1 << bits)).collect()).collect();
            let residuals: Vec<u32> = buckets
                .iter()
                .flat_map(|b| {
                    let mut bytes = oracle::pack(b, bits);
                    bytes.resize(4 * codec.words(), 0);
                    bytemuck::pod_collect_to_vec::<u8, u32>(&bytes)
                })
                .collect();
            let codes = codec.codes(&numbers, &residuals).unwrap();
            prop_assert_eq!(codes.bytes(), count * (4 + 4 * (dim * bits).div_ceil(32)));
            let got = codec.decode(&codes).unwrap().to_vec::<f32>().unwrap();
            let centroids: Vec<f64> =
                codec.centroids().to_f32_vec().unwrap().into_iter().map(f64::from).collect();
            let weights: Vec<f64> = codec.weights().iter().map(|&w| w as f64).collect();
            let want: Vec<f64> = numbers
                .iter()
                .zip(&buckets)
                .flat_map(|(&n, b)| oracle::decode(&centroids[n as usize * dim..][..dim], b, &weights))
                .collect();
            assert_close(&format!("decode on {name}"), &got, &want, |_| 2e-6);
            // A vector's bits are its own.
            for i in [0, count / 2, count.saturating_sub(1)] {
                if i < count {
                    let words = &residuals[i * codec.words()..(i + 1) * codec.words()];
                    let one = codec.codes(&numbers[i..=i], words).unwrap();
                    let one = codec.decode(&one).unwrap().to_vec::<f32>().unwrap();
                    prop_assert_eq!(&one[..], &got[i * dim..(i + 1) * dim], "{}", name);
                }
            }
        }
    }
}

/// What NumPy computes: `tests/goldens/generate.py`.
#[test]
fn the_codec_is_colbert_v2s() {
    let bytes = std::fs::read(golden("residual.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
    };
    let shape = |name: &str| file.tensor(name).unwrap().shape().to_vec();
    for (name, device) in main_devices() {
        let tensor = |what: &str| Tensor::from_slice(device, &shape(what), &floats(what)).unwrap();
        let (centroids, vectors) = (tensor("centroids"), tensor("vectors"));
        for bits in [1, 2, 4] {
            let of = |what: &str| format!("{what}{bits}");
            let codec = Codec::fit(&centroids, &vectors, bits).unwrap();
            let near = |got: &[f32], want: Vec<f32>| {
                let want: Vec<f64> = want.into_iter().map(f64::from).collect();
                assert_close(&format!("{bits} bits on {name}"), got, &want, |_| 1e-6);
            };
            near(codec.cutoffs(), floats(&of("cutoffs")));
            near(codec.weights(), floats(&of("weights")));
            let codes = codec.encode(&vectors).unwrap();
            let numbers: Vec<i64> =
                bytemuck::pod_collect_to_vec(file.tensor("codes").unwrap().data());
            let got = codes.centroids().to_vec::<u32>().unwrap();
            assert!(got.iter().map(|&c| c as i64).eq(numbers), "{bits} bits on {name}");
            let packed = file.tensor(&of("packed")).unwrap();
            assert_eq!(codes.residuals().to_bytes().unwrap(), packed.data(), "{bits} on {name}");
            near(&codec.decode(&codes).unwrap().to_vec().unwrap(), floats(&of("decoded")));
        }
    }
}

/// Vectors around a few directions.
fn clouds(count: usize, dim: usize, centres: usize, rng: &mut Rng) -> Vec<f32> {
    let middles = rng.normals(centres * dim);
    let vector = |i: usize| {
        let middle = &middles[i % centres * dim..][..dim];
        middle.iter().map(|m| m + 0.1 * rng.normal()).collect::<Vec<f32>>()
    };
    (0..count).flat_map(vector).collect()
}

#[test]
fn centroids_improve_with_every_round_and_come_again() {
    for (name, device) in main_devices() {
        let (count, dim) = (72, 8);
        let data = clouds(count, dim, 9, &mut Rng(3));
        let vectors = Tensor::from_slice(device, &[count, dim], &data).unwrap();
        let run = |rounds, seed| kmeans(&vectors, &KMeans { clusters: 10, rounds, seed }).unwrap();
        let inertia: Vec<f64> = (0..4).map(|rounds| run(rounds, 5).inertia).collect();
        assert!(inertia.windows(2).all(|w| w[1] <= w[0] * (1.0 + 1e-6)), "{name}: {inertia:?}");
        assert!(inertia[3] < 0.9 * inertia[0], "{name}: {inertia:?}");
        let (one, two) = (run(3, 5), run(3, 5));
        assert_eq!((one.inertia, one.centroids), (inertia[3], two.centroids), "{name}");
        assert_eq!(one.assigned, two.assigned, "{name}");
        // What is assigned is what is nearest, by the oracle.
        let found = run(2, 6);
        for (v, &got) in data.chunks(dim).zip(&found.assigned) {
            let distance = |c: &[f32]| {
                v.iter().zip(c).map(|(v, c)| (*v as f64 - *c as f64).powi(2)).sum::<f64>()
            };
            let all: Vec<f64> = found.centroids.chunks(dim).map(distance).collect();
            let least = all.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(all[got as usize] <= least + 1e-5, "{name}");
        }
    }
}

#[test]
fn as_many_clusters_as_vectors_are_the_vectors() {
    for (name, device) in main_devices() {
        let data = Rng(4).normals(20 * 8);
        let vectors = Tensor::from_slice(device, &[20, 8], &data).unwrap();
        let how = KMeans { clusters: 20, rounds: 3, seed: 1 };
        let found = kmeans(&vectors, &how).unwrap();
        assert_eq!(found.inertia, 0.0, "{name}");
        let mut assigned = found.assigned.clone();
        assigned.sort_unstable();
        assert!(assigned.iter().copied().eq(0..20));
        // Equal vectors leave clusters empty, which is no fault.
        let same = Tensor::from_slice(device, &[5, 8], &[0.5f32; 40]).unwrap();
        let found = kmeans(&same, &KMeans { clusters: 3, rounds: 3, seed: 1 }).unwrap();
        assert_eq!((found.inertia, found.assigned), (0.0, vec![0; 5]), "{name}");
    }
}

#[test]
fn more_bits_decode_nearer_and_training_comes_again() {
    for (name, device) in main_devices() {
        let (count, dim) = (160, 16);
        let data = clouds(count, dim, 6, &mut Rng(8));
        let vectors = Tensor::from_slice(device, &[count, dim], &data).unwrap();
        let mut last = 0.0;
        for bits in [1, 2, 4] {
            let how = Training { bits, clusters: 6, rounds: 2, seed: 2 };
            let codec = Codec::train(&vectors, &how).unwrap();
            if bits == 2 {
                let again = Codec::train(&vectors, &how).unwrap();
                assert_eq!((codec.cutoffs(), codec.weights()), (again.cutoffs(), again.weights()));
            }
            assert!(codec.cutoffs().windows(2).all(|w| w[0] < w[1]), "{name}");
            let decoded = codec.decode(&codec.encode(&vectors).unwrap()).unwrap();
            let decoded = decoded.to_vec::<f32>().unwrap();
            let cosine = |(a, b): (&[f32], &[f32])| {
                let dot =
                    |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
                dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
            };
            let mean: f32 = data.chunks(dim).zip(decoded.chunks(dim)).map(cosine).sum();
            let mean = mean / count as f32;
            assert!(mean > last, "{name}: {bits} bits give {mean} after {last}");
            last = mean;
        }
        assert!(last > 0.97, "{name}: {last}");
    }
    assert_eq!([0, 1, 100, 1_000_000].map(Codec::clusters), [0, 1, 100, 8192]);
}

#[test]
fn zeros_and_vectors_without_length_decode_to_their_centroid() {
    for (name, device) in main_devices() {
        let centroids = Tensor::from_slice(device, &[1, 8], &[0f32; 8]).unwrap();
        let codec = Codec::new(&centroids, &[0.0], &[0.0, 0.0]).unwrap();
        let codes = codec.encode(&centroids).unwrap();
        assert_eq!(codec.decode(&codes).unwrap().to_vec::<f32>().unwrap(), [0.0; 8], "{name}");
    }
}

#[test]
fn centroids_beyond_a_binding_are_refused() {
    let Some(device) = device("wgpu with small bindings") else { return };
    let (clusters, dim) = (2100, 128);
    let codec = codec(device, clusters, dim, 1, &mut Rng(1));
    let codes = codec.codes(&[0], &vec![0; codec.words()]).unwrap();
    let error = codec.decode(&codes).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (_, device) in main_devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let argument = |e: Error| assert!(matches!(e, Error::Argument { .. }), "{e}");
        let shape = |e: Error| assert!(matches!(e, Error::Shape { .. }), "{e}");
        let vectors = zeros(&[4, 8]);
        for clusters in [0, 5] {
            argument(kmeans(&vectors, &KMeans { clusters, rounds: 1, seed: 0 }).unwrap_err());
        }
        let how = KMeans { clusters: 1, rounds: 1, seed: 0 };
        shape(kmeans(&zeros(&[4]), &how).unwrap_err());
        let nan = Tensor::from_slice(device, &[1, 8], &[f32::NAN; 8]).unwrap();
        argument(kmeans(&nan, &how).unwrap_err());

        let new = |c: &Tensor, cutoffs: &[f32], weights: &[f32]| {
            Codec::new(c, cutoffs, weights).unwrap_err()
        };
        shape(new(&zeros(&[2, 12]), &[0.0], &[0.0; 2]));
        shape(new(&zeros(&[0, 8]), &[0.0], &[0.0; 2]));
        shape(new(&zeros(&[1, 1032]), &[0.0], &[0.0; 2]));
        argument(new(&vectors, &[0.0; 2], &[0.0; 3]));
        argument(new(&vectors, &[0.0; 2], &[0.0; 4]));
        argument(new(&vectors, &[1.0, 0.0, 2.0], &[0.0; 4]));
        argument(new(&vectors, &[f32::NAN], &[0.0; 2]));
        argument(new(&nan, &[0.0], &[0.0; 2]));
        argument(Codec::fit(&vectors, &vectors, 3).unwrap_err());
        argument(Codec::fit(&vectors, &zeros(&[0, 8]), 2).unwrap_err());

        let codec = Codec::new(&vectors, &[0.0], &[-1.0, 1.0]).unwrap();
        argument(codec.codes(&[4], &[0]).unwrap_err());
        shape(codec.codes(&[0], &[0, 0]).unwrap_err());
        shape(codec.encode(&zeros(&[1, 16])).unwrap_err());
        argument(codec.encode(&nan).unwrap_err());
        let wide = Codec::new(&zeros(&[2, 40]), &[0.0], &[-1.0, 1.0]).unwrap();
        shape(wide.decode(&codec.codes(&[1], &[0]).unwrap()).unwrap_err());
    }
}
