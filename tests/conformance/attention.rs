use nearkin::ops::attention::{Attention, Heads, attention};
use nearkin::{DType, Device, DeviceOptions, Error, MatmulPrecision, Offsets, Tensor, bf16};
use proptest::prelude::*;

use crate::common::{Rng, assert_close, device, devices, main_devices, tensor};
use crate::oracle::attention as oracle;

/// A problem as the host sees it: three parts as rows of `heads * dim`, and sequence lengths.
#[derive(Clone)]
struct Case {
    heads: usize,
    dim: usize,
    scale: f32,
    causal: bool,
    bias: Option<Vec<f32>>,
    q_lengths: Vec<usize>,
    kv_lengths: Vec<usize>,
    parts: [Vec<f32>; 3],
    /// Whether Q, K and V are columns of one matrix (self-attention) or three matrices.
    fused: bool,
    /// Columns before the first part, which decide whether rows are aligned for loads in fours.
    start: usize,
}

impl Case {
    /// Self-attention of standard normals.
    fn new(heads: usize, dim: usize, lengths: &[usize], seed: u64) -> Case {
        Case::cross(heads, dim, lengths, lengths, seed)
    }

    fn cross(heads: usize, dim: usize, q: &[usize], kv: &[usize], seed: u64) -> Case {
        let mut rng = Rng(seed);
        let mut part = |lengths: &[usize]| rng.normals(lengths.iter().sum::<usize>() * heads * dim);
        Case {
            heads,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
            causal: false,
            bias: None,
            parts: [part(q), part(kv), part(kv)],
            q_lengths: q.to_vec(),
            kv_lengths: kv.to_vec(),
            fused: q == kv,
            start: 0,
        }
    }

    fn with_bias(mut self, reach: usize, seed: u64) -> Case {
        self.bias = Some(Rng(seed).normals(self.heads * (2 * reach - 1)));
        self
    }

    fn run(&self, device: &Device) -> Vec<f32> {
        let part_width = self.heads * self.dim;
        let count = if self.fused { 3 } else { 1 };
        let width = self.start + count * part_width;
        // Rows behind the last sequence must not matter.
        let matrix = |parts: &[Vec<f32>]| {
            let rows = parts[0].len() / part_width + 2;
            let mut data = vec![f32::NAN; rows * width];
            for (p, part) in parts.iter().enumerate() {
                for (row, values) in part.chunks(part_width).enumerate() {
                    data[row * width + self.start + p * part_width..][..part_width]
                        .copy_from_slice(values);
                }
            }
            Tensor::from_f32(device, DType::F32, &[rows, width], &data).unwrap()
        };
        let matrices: Vec<Tensor> = match self.fused {
            true => vec![matrix(&self.parts)],
            false => self.parts.iter().map(|p| matrix(std::slice::from_ref(p))).collect(),
        };
        let heads = |p: usize| match self.fused {
            true => Heads { tensor: &matrices[0], start: self.start + p * part_width },
            false => Heads { tensor: &matrices[p], start: self.start },
        };
        let bias = self.bias.as_ref().map(|b| {
            Tensor::from_f32(device, DType::F32, &[self.heads, b.len() / self.heads], b).unwrap()
        });
        let how = Attention {
            heads: self.heads,
            dim: self.dim,
            scale: self.scale,
            causal: self.causal,
            bias: bias.as_ref(),
        };
        let q_offsets = Offsets::from_lengths(device, &self.q_lengths).unwrap();
        let kv_offsets = Offsets::from_lengths(device, &self.kv_lengths).unwrap();
        let out = attention(heads(0), heads(1), heads(2), &q_offsets, &kv_offsets, &how).unwrap();
        assert_eq!(out.shape(), [q_offsets.total(), part_width]);
        out.to_vec().unwrap()
    }

    fn want(&self) -> Vec<f64> {
        let exact = |x: &[f32]| x.iter().map(|&x| x as f64).collect::<Vec<f64>>();
        let parts = self.parts.each_ref().map(|p| exact(p));
        let bias = self.bias.as_deref().map(exact);
        let bounds = |lengths: &[usize]| {
            let mut bounds = vec![0u32];
            for (i, n) in lengths.iter().enumerate() {
                bounds.push(bounds[i] + *n as u32);
            }
            bounds
        };
        oracle::attention(
            [&parts[0], &parts[1], &parts[2]],
            [&bounds(&self.q_lengths), &bounds(&self.kv_lengths)],
            self.heads,
            self.dim,
            self.scale as f64,
            self.causal,
            bias.as_deref(),
        )
    }

    #[track_caller]
    fn check(&self, what: &str, name: &str, device: &Device, tolerance: f64) {
        assert_close(&format!("{what} on {name}"), &self.run(device), &self.want(), |_| tolerance);
    }

    /// Sequence `s` on its own.
    fn alone(&self, s: usize) -> Case {
        let width = self.heads * self.dim;
        let cut = |part: &[f32], lengths: &[usize]| {
            let start: usize = lengths[..s].iter().sum();
            part[start * width..][..lengths[s] * width].to_vec()
        };
        let [q, k, v] = &self.parts;
        let parts = [cut(q, &self.q_lengths), cut(k, &self.kv_lengths), cut(v, &self.kv_lengths)];
        let (q_lengths, kv_lengths) = (vec![self.q_lengths[s]], vec![self.kv_lengths[s]]);
        Case { parts, q_lengths, kv_lengths, ..self.clone() }
    }
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0usize..40, 2 => 60usize..70, 1 => 120usize..140, 1 => Just(273)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matches_the_oracle(
        lengths in prop::collection::vec((length(), length()), 0..5),
        cross: bool,
        heads in 1usize..4,
        dim in prop::sample::select(vec![1usize, 7, 24, 32, 64, 80, 128]),
        start in prop::sample::select(vec![0usize, 4, 5]),
        causal: bool,
        reach in prop_oneof![3 => Just(0usize), 1 => 1usize..4, 1 => 5usize..90, 1 => Just(400)],
        seed: u64,
    ) {
        let q: Vec<usize> = lengths.iter().map(|l| l.0).collect();
        let kv: Vec<usize> = lengths.iter().map(|l| if cross { l.1 } else { l.0 }).collect();
        let mut case = Case { causal, start, ..Case::cross(heads, dim, &q, &kv, seed) };
        if reach > 0 {
            case = case.with_bias(reach, seed ^ 1);
        }
        for (name, device) in devices() {
            case.check("attention", name, device, 2e-5);
        }
    }
}

/// The CUDA device that may round f32 operands to bf16, if there is one, and the tolerance it needs beside the rounding of
/// Q, K and V: that of the weights.
fn rounding() -> Option<(Device, f64)> {
    device("cuda")?;
    let options = DeviceOptions { matmul_precision: MatmulPrecision::Medium, ..Default::default() };
    Some((Device::by_name_with("cuda", options).unwrap(), 8e-3))
}

impl Case {
    /// Q, K and V as bf16 have them.
    fn rounded(mut self) -> Case {
        self.parts.iter_mut().flatten().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]

    #[test]
    fn tensor_cores_match_the_oracle_of_what_they_take(
        lengths in prop::collection::vec((length(), length()), 0..5),
        cross: bool,
        heads in 1usize..4,
        dim in prop::sample::select(vec![1usize, 7, 24, 32, 40, 64, 80, 128]),
        start in prop::sample::select(vec![0usize, 4, 5]),
        causal: bool,
        reach in prop_oneof![3 => Just(0usize), 1 => 1usize..4, 1 => 5usize..90, 1 => Just(400)],
        seed: u64,
    ) {
        let Some((device, tolerance)) = rounding() else { return Ok(()) };
        let q: Vec<usize> = lengths.iter().map(|l| l.0).collect();
        let kv: Vec<usize> = lengths.iter().map(|l| if cross { l.1 } else { l.0 }).collect();
        let mut case = Case { causal, start, ..Case::cross(heads, dim, &q, &kv, seed) }.rounded();
        if reach > 0 {
            case = case.with_bias(reach, seed ^ 1);
        }
        case.check("attention", "cuda with bf16", &device, tolerance);
    }
}

#[test]
fn on_tensor_cores_too_what_is_hidden_has_no_influence() {
    let Some((device, tolerance)) = rounding() else { return };
    let name = "cuda with bf16";
    for (dim, causal) in [(32, false), (32, true), (64, true), (7, true), (100, true)] {
        let width = 2 * dim;
        let base = Case { causal, ..Case::new(2, dim, &[9, 130], 16) }.rounded();
        for (part, value) in [(0, f32::NAN), (1, f32::NAN), (2, f32::NAN), (2, f32::INFINITY)] {
            let mut case = base.clone();
            case.parts[part][79 * width + dim + 3] = value;
            let what = format!("part {part} with {value}, dim {dim}, causal {causal}");
            case.check(&what, name, &device, tolerance);
        }
    }
    // A window, nothing to see, and a causal mask that hides whole queries.
    let mut case = Case::new(2, 32, &[1, 40, 150], 12).rounded().with_bias(30, 13);
    for head in case.bias.as_mut().unwrap().chunks_mut(59) {
        head[0] = f32::NEG_INFINITY;
        head[58] = f32::NEG_INFINITY;
    }
    case.check("window", name, &device, tolerance);
    case.bias.as_mut().unwrap().fill(f32::NEG_INFINITY);
    assert!(case.run(&device).iter().all(|&x| x == 0.0), "nothing seen gives zeros");
    let case = Case { causal: true, ..Case::cross(1, 8, &[70], &[3], 15) }.rounded();
    assert!(case.run(&device)[..67 * 8].iter().all(|&x| x == 0.0), "all keys hidden");
    case.check("all keys hidden", name, &device, tolerance);
    let case = Case { scale: 1000.0, ..Case::new(2, 64, &[1, 67, 200], 11) };
    assert!(case.run(&device).iter().all(|x| x.is_finite()), "large scores");
    // As many keys as shared memory holds and more.
    let case = Case { causal: true, ..Case::new(1, 64, &[600], 20) }.rounded();
    case.check("long", name, &device, tolerance);
}

#[test]
fn awkward_lengths_and_dimensions() {
    for (name, device) in main_devices() {
        for dim in [1, 8, 24, 32, 64, 80, 128] {
            for causal in [false, true] {
                let case = Case { causal, ..Case::new(2, dim, &[0, 1, 17, 67, 273, 1, 0], 5) };
                case.check(&format!("dim {dim}, causal {causal}"), name, device, 2e-5);
                let (q, kv) = ([5, 0, 67, 17, 3], [0, 17, 17, 67, 273]);
                let case = Case { causal, ..Case::cross(2, dim, &q, &kv, 6) };
                case.check(&format!("cross, dim {dim}, causal {causal}"), name, device, 2e-5);
            }
        }
    }
}

#[test]
fn a_relative_bias_is_clamped_at_its_ends() {
    for (name, device) in main_devices() {
        for reach in [1, 2, 16, 63, 64, 300] {
            let case = Case::new(3, 24, &[70, 3, 130], 8).with_bias(reach, 9);
            case.check(&format!("reach {reach}"), name, device, 2e-5);
            let case = Case { causal: true, ..case };
            case.check(&format!("causal, reach {reach}"), name, device, 2e-5);
        }
    }
}

#[test]
fn large_scores_neither_overflow_nor_lose_the_maximum() {
    for (name, device) in devices() {
        for dim in [8, 32, 128] {
            // Scores of some hundred: the error of a weight is that of its score.
            let case = Case { scale: 8.0, ..Case::new(2, dim, &[1, 67, 200], 11) };
            case.check(&format!("dim {dim}"), name, device, 4e-3);
            let case = Case { scale: 1000.0, ..case };
            assert!(case.run(device).iter().all(|x| x.is_finite()), "{name}, dim {dim}");
        }
    }
}

#[test]
fn a_bias_of_minus_infinity_masks() {
    for (name, device) in devices() {
        let mut case = Case::new(2, 32, &[1, 40, 150], 12).with_bias(30, 13);
        // A window: keys further than 28 before or after are clamped onto the ends.
        let bias = case.bias.as_mut().unwrap();
        for head in bias.chunks_mut(59) {
            head[0] = f32::NEG_INFINITY;
            head[58] = f32::NEG_INFINITY;
        }
        case.check("window", name, device, 2e-5);
        case.bias.as_mut().unwrap().fill(f32::NEG_INFINITY);
        assert!(case.run(device).iter().all(|&x| x == 0.0), "{name}: nothing seen gives zeros");
    }
}

#[test]
fn nothing_to_see_gives_zeros() {
    for (name, device) in devices() {
        let case = Case::cross(2, 8, &[3, 2], &[0, 5], 14);
        let got = case.run(device);
        assert!(got[..3 * 16].iter().all(|&x| x == 0.0), "{name}: no keys");
        case.check("no keys", name, device, 2e-5);
        let case = Case { causal: true, ..Case::cross(1, 8, &[70], &[3], 15) };
        let got = case.run(device);
        assert!(got[..67 * 8].iter().all(|&x| x == 0.0), "{name}: all keys hidden");
        case.check("all keys hidden", name, device, 2e-5);
        assert!(Case::new(2, 8, &[], 1).run(device).is_empty());
        assert!(Case::new(2, 8, &[0, 0], 1).run(device).is_empty());
    }
}

#[test]
fn a_nan_reaches_only_those_who_see_it() {
    for (name, device) in devices() {
        for (dim, causal) in [(32, false), (32, true), (7, true)] {
            let width = 2 * dim;
            let base = Case { causal, ..Case::new(2, dim, &[9, 130], 16) };
            // Sequence 1 starts at row 9; a NaN or infinity in its row 70, in head 1.
            for (part, value) in [(0, f32::NAN), (1, f32::NAN), (2, f32::NAN), (2, f32::INFINITY)] {
                let mut case = base.clone();
                case.parts[part][79 * width + dim + 3] = value;
                case.check(
                    &format!("part {part} with {value}, causal {causal}"),
                    name,
                    device,
                    2e-5,
                );
            }
        }
    }
}

#[test]
fn a_sequence_gives_the_same_bits_in_any_batch() {
    for (name, device) in devices() {
        for (dim, causal, reach) in [(32, false, 0), (32, true, 9), (20, false, 70), (13, true, 0)]
        {
            let lengths = [33, 1, 0, 273, 64, 17, 128, 65];
            let mut case = Case { causal, ..Case::new(3, dim, &lengths, 17) };
            if reach > 0 {
                case = case.with_bias(reach, 18);
            }
            let whole = case.run(device);
            let mut at = 0;
            for (s, len) in lengths.iter().enumerate() {
                let n = len * 3 * dim;
                assert_eq!(
                    case.alone(s).run(device),
                    whole[at..at + n],
                    "{name}, sequence {s}, dim {dim}"
                );
                at += n;
            }
        }
    }
}

#[test]
fn more_rows_than_a_binding_holds() {
    for (name, device) in devices() {
        // 3 * 4 * 32 columns of f32: a MiB holds 682 rows, and every other sequence starts unaligned.
        let lengths = [300, 1, 299, 0, 500, 7, 311, 290];
        let case = Case { causal: true, start: 1, ..Case::new(4, 32, &lengths, 19) };
        case.check("unaligned", name, device, 2e-5);
        let case = Case { start: 0, ..case };
        case.check("aligned", name, device, 2e-5);
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (name, device) in main_devices() {
        let x = Tensor::zeros(device, DType::F32, &[6, 48]).unwrap();
        let offsets = Offsets::from_lengths(device, &[2, 4]).unwrap();
        let how = Attention { heads: 2, dim: 8, scale: 1.0, causal: false, bias: None };
        let head = |start| Heads { tensor: &x, start };
        let run = |v: Heads<'_>, offsets: &Offsets, how: Attention<'_>| {
            attention(head(0), head(16), v, offsets, offsets, &how).map(|y| y.shape().to_vec())
        };
        let shape = |r: Result<Vec<usize>, Error>| {
            assert!(matches!(r, Err(Error::Shape { .. })), "{name}: {r:?}");
        };
        let argument = |r: Result<Vec<usize>, Error>| {
            assert!(matches!(r, Err(Error::Argument { .. })), "{name}: {r:?}");
        };
        assert_eq!(run(head(32), &offsets, how).unwrap(), [6, 16]);
        argument(run(head(32), &offsets, Attention { heads: 0, ..how }));
        argument(run(head(32), &offsets, Attention { dim: 0, ..how }));
        argument(run(head(32), &offsets, Attention { dim: 129, ..how }));
        argument(run(head(32), &offsets, Attention { scale: f32::NAN, ..how }));
        argument(run(head(32), &offsets, Attention { scale: f32::INFINITY, ..how }));
        shape(run(head(33), &offsets, how));
        shape(run(head(usize::MAX), &offsets, how));
        shape(run(head(32), &offsets, Attention { heads: usize::MAX, ..how }));
        shape(run(head(32), &Offsets::from_lengths(device, &[2, 5]).unwrap(), how));
        let one = Offsets::from_lengths(device, &[6]).unwrap();
        let mixed = attention(head(0), head(16), head(32), &offsets, &one, &how);
        assert!(matches!(mixed, Err(Error::Shape { .. })), "{name}: numbers of sequences");
        for wrong in [&[6, 48, 1][..], &[288], &[5, 48]] {
            let v = Tensor::zeros(device, DType::F32, wrong).unwrap();
            shape(run(Heads { tensor: &v, start: 32 }, &offsets, how));
        }
        let f16 = Tensor::zeros(device, DType::F16, &[6, 48]).unwrap();
        shape(run(Heads { tensor: &f16, start: 32 }, &offsets, how));
        for wrong in [&[2, 4][..], &[1, 3], &[2, 0], &[6]] {
            let bias = Tensor::zeros(device, DType::F32, wrong).unwrap();
            shape(run(head(32), &offsets, Attention { bias: Some(&bias), ..how }));
        }
        let (bias, _) = tensor(device, DType::F16, &[2, 3], &[0.0; 6]);
        shape(run(head(32), &offsets, Attention { bias: Some(&bias), ..how }));
        let elsewhere = Tensor::zeros(&Device::cpu(), DType::F32, &[6, 48]).unwrap();
        shape(run(Heads { tensor: &elsewhere, start: 32 }, &offsets, how));
    }
}
