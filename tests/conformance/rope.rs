use nearkin::ops::rope::{QkNorm, Rotary, rope};
use nearkin::{DType, Device, Error, Offsets, Tensor};
use proptest::prelude::*;

use crate::common::{Rng, assert_bits, assert_close, devices, main_devices};
use crate::oracle::rope as oracle;

/// A problem as the host sees it.
#[derive(Clone)]
struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    half: usize,
    lengths: Vec<usize>,
    width: usize,
    x: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The weights of queries and keys, and eps.
    norm: Option<(Vec<f32>, Vec<f32>, f32)>,
}

impl Case {
    /// Standard normals, with `values` columns behind the heads; the angles are those of the paper, for 9 positions more
    /// than there are.
    fn new(
        [heads, kv_heads, dim, half]: [usize; 4],
        values: usize,
        lengths: &[usize],
        seed: u64,
    ) -> Case {
        let width = (heads + kv_heads) * dim + values;
        let positions = lengths.iter().max().unwrap_or(&0) + 9;
        let angle =
            |i: usize| (i / half) as f32 * 10_000f32.powf(-((i % half) as f32) / half as f32);
        let angles: Vec<f32> = (0..positions * half).map(angle).collect();
        Case {
            heads,
            kv_heads,
            dim,
            half,
            lengths: lengths.to_vec(),
            width,
            x: Rng(seed).normals(lengths.iter().sum::<usize>() * width),
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
            norm: None,
        }
    }

    fn with_norm(mut self, eps: f32, seed: u64) -> Case {
        let mut rng = Rng(seed);
        self.norm = Some((rng.normals(self.dim), rng.normals(self.dim), eps));
        self
    }

    fn run(&self, device: &Device) -> Vec<f32> {
        let put = |shape: &[usize], x: &[f32]| Tensor::from_slice(device, shape, x).unwrap();
        let angles = [self.cos.len() / self.half, self.half];
        let (cos, sin) = (put(&angles, &self.cos), put(&angles, &self.sin));
        let weights = self
            .norm
            .as_ref()
            .map(|(query, key, eps)| (put(&[self.dim], query), put(&[self.dim], key), *eps));
        let norm = weights.as_ref().map(|(query, key, eps)| QkNorm { query, key, eps: *eps });
        let Case { heads, kv_heads, dim, .. } = *self;
        let how = Rotary { heads, kv_heads, dim, cos: &cos, sin: &sin, norm };
        let offsets = Offsets::from_lengths(device, &self.lengths).unwrap();
        let x = put(&[offsets.total(), self.width], &self.x);
        let y = rope(&x, &offsets, &how).unwrap();
        assert_eq!(y.shape(), x.shape());
        y.to_vec().unwrap()
    }

    fn want(&self) -> Vec<f64> {
        let exact = |x: &[f32]| x.iter().map(|&x| x as f64).collect::<Vec<f64>>();
        let (cos, sin) = (exact(&self.cos), exact(&self.sin));
        let norm = self.norm.as_ref().map(|(q, k, eps)| (exact(q), exact(k), *eps as f64));
        let Case { heads, kv_heads, dim, half, .. } = *self;
        let norm = norm.as_ref().map(|(q, k, eps)| (&q[..], &k[..], *eps));
        let how = oracle::Rotary { heads, kv_heads, dim, cos: &cos, sin: &sin, half, norm };
        oracle::rope(&exact(&self.x), self.width, &self.lengths, &how)
    }

    #[track_caller]
    fn check(&self, what: &str, name: &str, device: &Device) {
        // Normals are below 6; normalised ones are multiplied with another.
        let tolerance = if self.norm.is_some() { 2e-5 } else { 2e-6 };
        assert_close(&format!("{what} on {name}"), &self.run(device), &self.want(), |_| tolerance);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        lengths in prop::collection::vec(prop_oneof![0usize..20, Just(67), Just(130)], 0..6),
        heads in 1usize..20,
        kv_heads in 1usize..5,
        dim in prop_oneof![2usize..70, Just(64), Just(96), Just(128), Just(255), Just(256)],
        partial in prop_oneof![Just(1.0), 0.0..1.0f64],
        fours: bool,
        values in prop_oneof![Just(0usize), 1usize..40, Just(64), Just(600)],
        norm: bool,
        seed: u64,
    ) {
        let dim = if fours { dim.next_multiple_of(8) } else { dim };
        let half = ((partial * (dim / 2) as f64) as usize).max(1);
        let half = if fours { half.next_multiple_of(4) } else { half };
        let values = if fours { values.next_multiple_of(4) } else { values };
        let mut case = Case::new([heads, kv_heads, dim, half], values, &lengths, seed);
        if norm {
            case = case.with_norm(1e-6, seed ^ 1);
        }
        for (name, device) in devices() {
            case.check("rope", name, device);
        }
    }
}

#[test]
fn heads_of_known_models() {
    for (name, device) in devices() {
        let lengths = [0, 1, 17, 67, 0, 5];
        // ModernBERT base, nomic-bert, Qwen3-Embedding 0.6B and Mistral's in small; partial rotary as of GPT-NeoX.
        for (what, shape, norm) in [
            ("12 heads of 64", [12, 12, 64, 32], false),
            ("16 and 8 heads of 128 with norms", [16, 8, 128, 64], true),
            ("8 and 2 heads of 128", [8, 2, 128, 64], false),
            ("a quarter of 64", [4, 4, 64, 8], false),
            ("a fifth of 10", [3, 3, 10, 1], true),
        ] {
            let case = Case::new(shape, shape[1] * shape[2], &lengths, 2);
            let case = if norm { case.with_norm(1e-6, 3) } else { case };
            case.check(what, name, device);
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_head_or_pair() {
    for (name, device) in devices() {
        for (dim, half) in [(16, 4), (9, 3)] {
            for norm in [false, true] {
                let case = Case::new([2, 1, dim, half], 5, &[3, 4], 6);
                let case = if norm { case.with_norm(1e-6, 7) } else { case };
                let width = case.width;
                // In what is turned, in what is not, in the values; of different rows.
                for (row, column) in [(1, half + 1), (4, dim + 2 * half), (5, 3 * dim + 2)] {
                    for value in [f32::NAN, f32::INFINITY] {
                        let mut case = case.clone();
                        case.x[row * width + column] = value;
                        let what = format!("{value} in column {column} of {dim}, norm {norm}");
                        case.check(&what, name, device);
                    }
                }
            }
        }
    }
}

#[test]
fn a_sequence_gives_the_same_bits_in_any_batch() {
    for (name, device) in devices() {
        for (dim, half) in [(64, 32), (30, 7)] {
            let lengths = [33, 1, 0, 273, 17, 0];
            let case = Case::new([3, 2, dim, half], 2 * dim, &lengths, 8).with_norm(1e-5, 9);
            let whole = case.run(device);
            let mut at = 0;
            for (s, len) in lengths.iter().enumerate() {
                let n = len * case.width;
                let x = case.x[at..at + n].to_vec();
                let alone = Case { lengths: vec![*len], x, ..case.clone() };
                let what = format!("{name}, sequence {s}, dim {dim}");
                assert_bits(&what, &alone.run(device), &whole[at..at + n]);
                at += n;
            }
        }
    }
}

#[test]
fn more_rows_than_a_binding_holds() {
    for (name, device) in devices() {
        // 3 * 128 columns of f32: a MiB holds 682 rows.
        let case = Case::new([2, 2, 64, 32], 128, &[700, 1, 299, 0, 500], 10);
        case.check("split", name, device);
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (name, device) in main_devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let (x, table, weight) = (zeros(&[6, 40]), zeros(&[4, 4]), zeros(&[8]));
        let offsets = Offsets::from_lengths(device, &[2, 4]).unwrap();
        let how = Rotary { heads: 2, kv_heads: 1, dim: 8, cos: &table, sin: &table, norm: None };
        let shape = |x: &Tensor, how: Rotary<'_>| {
            let got = rope(x, &offsets, &how).map(|y| y.shape().to_vec());
            assert!(matches!(got, Err(Error::Shape { .. })), "{name}: {got:?}");
        };
        let argument = |offsets: &Offsets, how: Rotary<'_>| {
            let got = rope(&x, offsets, &how).map(|y| y.shape().to_vec());
            assert!(matches!(got, Err(Error::Argument { .. })), "{name}: {got:?}");
        };
        assert_eq!(rope(&x, &offsets, &how).unwrap().shape(), [6, 40]);
        argument(&offsets, Rotary { heads: 0, ..how });
        argument(&offsets, Rotary { kv_heads: 0, ..how });
        argument(&offsets, Rotary { dim: 1, ..how });
        argument(&offsets, Rotary { dim: 257, ..how });
        argument(&Offsets::from_lengths(device, &[1, 5]).unwrap(), how);
        for eps in [f32::NAN, -1e-6] {
            let norm = Some(QkNorm { query: &weight, key: &weight, eps });
            argument(&offsets, Rotary { norm, ..how });
        }
        shape(&x, Rotary { heads: 5, ..how });
        shape(&x, Rotary { heads: usize::MAX, ..how });
        shape(&zeros(&[5, 40]), how);
        shape(&zeros(&[240]), how);
        shape(&Tensor::zeros(device, DType::F16, &[6, 40]).unwrap(), how);
        for wrong in [&[4, 5][..], &[4, 0], &[16], &[3, 4]] {
            shape(&x, Rotary { cos: &zeros(wrong), ..how });
            shape(&x, Rotary { sin: &zeros(wrong), ..how });
        }
        let short = zeros(&[7]);
        for (query, key) in [(&short, &weight), (&weight, &short)] {
            shape(&x, Rotary { norm: Some(QkNorm { query, key, eps: 1e-6 }), ..how });
        }
        let elsewhere = Tensor::zeros(&Device::cpu(), DType::F32, &[4, 4]).unwrap();
        // Tensors of any two CPU devices meet.
        let got = rope(&x, &offsets, &Rotary { sin: &elsewhere, ..how });
        assert_eq!(got.is_ok(), device.is_cpu(), "{name}");
    }
}
