use nearkin::ops::attention::{Attention, Heads, attention};
use nearkin::{DType, Device, DeviceOptions, Error, MatmulPrecision, Offsets, Tensor, bf16};
use proptest::prelude::*;

use crate::common::{
    FLOATS, Rng, SMALL_BINDING, assert_bits, assert_close, device, devices, main_devices, required,
    tensor,
};
use crate::oracle::attention as oracle;

/// A problem as the host sees it: queries as rows of `heads * dim`, keys and values of `kv_heads * dim`, and sequence
/// lengths.
#[derive(Clone)]
struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    scale: f32,
    causal: bool,
    window: Option<usize>,
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
        Case::grouped([heads, heads], dim, q, kv, seed)
    }

    fn grouped(
        [heads, kv_heads]: [usize; 2],
        dim: usize,
        q: &[usize],
        kv: &[usize],
        seed: u64,
    ) -> Case {
        let mut rng = Rng(seed);
        let mut part = |lengths: &[usize], heads: usize| {
            rng.normals(lengths.iter().sum::<usize>() * heads * dim)
        };
        Case {
            heads,
            kv_heads,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
            causal: false,
            window: None,
            bias: None,
            parts: [part(q, heads), part(kv, kv_heads), part(kv, kv_heads)],
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

    /// The columns of queries, keys and values.
    fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.dim)
    }

    fn run(&self, device: &Device) -> Vec<f32> {
        let widths = self.widths();
        // Rows behind the last sequence must not matter.
        let matrix = |parts: std::ops::Range<usize>| {
            let rows = self.parts[parts.start].len() / widths[parts.start] + 2;
            let width = self.start + widths[parts.clone()].iter().sum::<usize>();
            let mut data = vec![f32::NAN; rows * width];
            let mut start = self.start;
            for p in parts {
                for (row, values) in self.parts[p].chunks(widths[p]).enumerate() {
                    data[row * width + start..][..widths[p]].copy_from_slice(values);
                }
                start += widths[p];
            }
            Tensor::from_f32(device, DType::F32, &[rows, width], &data).unwrap()
        };
        let matrices: Vec<Tensor> = match self.fused {
            true => vec![matrix(0..3)],
            false => (0..3).map(|p| matrix(p..p + 1)).collect(),
        };
        let heads = |p: usize| match self.fused {
            true => {
                let before: usize = widths[..p].iter().sum();
                Heads { tensor: &matrices[0], start: self.start + before }
            }
            false => Heads { tensor: &matrices[p], start: self.start },
        };
        let bias = self.bias.as_ref().map(|b| {
            Tensor::from_f32(device, DType::F32, &[self.heads, b.len() / self.heads], b).unwrap()
        });
        let how = Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            dim: self.dim,
            scale: self.scale,
            causal: self.causal,
            window: self.window,
            bias: bias.as_ref(),
            out: DType::F32,
        };
        let q_offsets = Offsets::from_lengths(device, &self.q_lengths).unwrap();
        let kv_offsets = Offsets::from_lengths(device, &self.kv_lengths).unwrap();
        let out = attention(heads(0), heads(1), heads(2), &q_offsets, &kv_offsets, &how).unwrap();
        assert_eq!(out.shape(), [q_offsets.total(), widths[0]]);
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
            &oracle::How {
                heads: self.heads,
                kv_heads: self.kv_heads,
                dim: self.dim,
                scale: self.scale as f64,
                causal: self.causal,
                window: self.window,
                bias: bias.as_deref(),
            },
        )
    }

    #[track_caller]
    fn check(&self, what: &str, name: &str, device: &Device, tolerance: f64) {
        assert_close(&format!("{what} on {name}"), &self.run(device), &self.want(), |_| tolerance);
    }

    /// Sequence `s` on its own.
    fn alone(&self, s: usize) -> Case {
        let [q_width, kv_width, _] = self.widths();
        let cut = |part: &[f32], lengths: &[usize], width: usize| {
            let start: usize = lengths[..s].iter().sum();
            part[start * width..][..lengths[s] * width].to_vec()
        };
        let [q, k, v] = &self.parts;
        let kv = |part| cut(part, &self.kv_lengths, kv_width);
        let parts = [cut(q, &self.q_lengths, q_width), kv(k), kv(v)];
        let (q_lengths, kv_lengths) = (vec![self.q_lengths[s]], vec![self.kv_lengths[s]]);
        Case { parts, q_lengths, kv_lengths, ..self.clone() }
    }
}

/// Query heads and key heads, fewer where 273 rows of them and the values would exceed the smallest binding.
fn fitting(group: usize, kv_heads: usize, dim: usize) -> [usize; 2] {
    let most = SMALL_BINDING as usize / (4 * 273_usize) / dim;
    let kv_heads = kv_heads.min((most - 1) / 3);
    let group = group.min((most - 1) / kv_heads - 2);
    [group * kv_heads, kv_heads]
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
        kv_heads in 1usize..4,
        group in prop_oneof![2 => Just(1usize), 1 => 2usize..4],
        dim in prop::sample::select(vec![1usize, 7, 24, 32, 64, 80, 128]),
        start in prop::sample::select(vec![0usize, 4, 5]),
        causal: bool,
        window in prop::option::of(prop_oneof![0usize..5, 10usize..80, Just(200), Just(usize::MAX)]),
        reach in prop_oneof![3 => Just(0usize), 1 => 1usize..4, 1 => 5usize..90, 1 => Just(400)],
        seed: u64,
    ) {
        let q: Vec<usize> = lengths.iter().map(|l| l.0).collect();
        let kv: Vec<usize> = lengths.iter().map(|l| if cross { l.1 } else { l.0 }).collect();
        let heads = fitting(group, kv_heads, dim);
        let case = Case::grouped(heads, dim, &q, &kv, seed);
        let mut case = Case { causal, window, start, ..case };
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
        kv_heads in 1usize..4,
        group in prop_oneof![2 => Just(1usize), 1 => 2usize..4],
        dim in prop::sample::select(vec![1usize, 7, 24, 32, 40, 64, 80, 128]),
        start in prop::sample::select(vec![0usize, 4, 5]),
        causal: bool,
        window in prop::option::of(prop_oneof![0usize..5, 10usize..80, Just(200), Just(usize::MAX)]),
        reach in prop_oneof![3 => Just(0usize), 1 => 1usize..4, 1 => 5usize..90, 1 => Just(400)],
        seed: u64,
    ) {
        let Some((device, tolerance)) = rounding() else { return Ok(()) };
        let q: Vec<usize> = lengths.iter().map(|l| l.0).collect();
        let kv: Vec<usize> = lengths.iter().map(|l| if cross { l.1 } else { l.0 }).collect();
        let heads = fitting(group, kv_heads, dim);
        let case = Case::grouped(heads, dim, &q, &kv, seed);
        let mut case = Case { causal, window, start, ..case }.rounded();
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
    for (dim, causal, window) in [
        (32, false, None),
        (32, true, None),
        (64, true, None),
        (7, true, None),
        (100, true, None),
        (32, false, Some(9)),
        (64, true, Some(40)),
        (100, false, Some(33)),
    ] {
        let width = 2 * dim;
        let base = Case { causal, window, ..Case::new(2, dim, &[9, 130], 16) }.rounded();
        for (part, value) in [(0, f32::NAN), (1, f32::NAN), (2, f32::NAN), (2, f32::INFINITY)] {
            let mut case = base.clone();
            case.parts[part][79 * width + dim + 3] = value;
            let what =
                format!("part {part} with {value}, dim {dim}, causal {causal}, window {window:?}");
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
    for (causal, window) in [(false, 20), (true, 100), (false, 300)] {
        let case = Case::grouped([2, 1], 64, &[900, 5], &[900, 5], 21);
        let case = Case { causal, window: Some(window), ..case }.rounded();
        case.check(&format!("long, window {window}"), name, &device, tolerance);
    }
}

#[test]
fn query_heads_share_key_heads() {
    for (name, device) in devices() {
        for (heads, dim) in [([4, 2], 32), ([6, 1], 24), ([6, 2], 7), ([3, 3], 128), ([8, 2], 64)] {
            for causal in [false, true] {
                let (q, kv) = ([5, 0, 67, 17, 3], [0, 17, 17, 67, 100]);
                let case = Case { causal, ..Case::grouped(heads, dim, &q, &kv, 22) };
                let what = format!("{heads:?} heads of {dim}, causal {causal}");
                case.check(&format!("cross, {what}"), name, device, 2e-5);
                let lengths = [0, 1, 17, 67, 100];
                let case = Case { causal, ..Case::grouped(heads, dim, &lengths, &lengths, 23) };
                case.check(&what, name, device, 2e-5);
            }
        }
    }
}

#[test]
fn a_window_hides_what_is_beyond_it() {
    for (name, device) in main_devices() {
        for (window, causal) in [
            (0, false),
            (1, true),
            (31, false),
            (32, true),
            (64, false),
            (100, true),
            (usize::MAX, false),
        ] {
            for dim in [32, 20, 80] {
                let lengths = [0, 1, 17, 67, 273, 1, 400];
                let case = Case { causal, window: Some(window), ..Case::new(2, dim, &lengths, 24) };
                let what = format!("window {window}, dim {dim}, causal {causal}");
                case.check(&what, name, device, 2e-5);
                // Keys before the first query, and queries before the first key, which see nothing.
                let (q, kv) = ([5, 0, 67, 270, 3], [0, 17, 200, 17, 273]);
                let case = Case::cross(2, dim, &q, &kv, 25);
                let case = Case { causal, window: Some(window), ..case }.with_bias(20, 26);
                case.check(&format!("cross, {what}"), name, device, 2e-5);
            }
        }
    }
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
        for (dim, causal, window, reach) in [
            (32, false, None, 0),
            (32, true, None, 0),
            (7, true, None, 0),
            (32, false, Some(9), 0),
            (32, true, Some(40), 0),
            (7, false, Some(33), 0),
            (32, false, None, 20),
            (7, true, Some(33), 20),
        ] {
            let width = 2 * dim;
            let mut base = Case { causal, window, ..Case::new(2, dim, &[9, 130], 16) };
            if reach > 0 {
                base = base.with_bias(reach, 17);
            }
            // Sequence 1 starts at row 9; a NaN or infinity in its row 70, in head 1.
            for (part, value) in [(0, f32::NAN), (1, f32::NAN), (2, f32::NAN), (2, f32::INFINITY)] {
                let mut case = base.clone();
                case.parts[part][79 * width + dim + 3] = value;
                case.check(
                    &format!("part {part} with {value}, causal {causal}, window {window:?}, reach {reach}"),
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
        for (dim, causal, window, reach) in [
            (32, false, None, 0),
            (32, true, None, 9),
            (20, false, None, 70),
            (13, true, None, 0),
            (32, false, Some(20), 0),
            (20, true, Some(70), 9),
        ] {
            let lengths = [33, 1, 0, 273, 64, 17, 128, 65];
            let mut case = Case { causal, window, ..Case::new(3, dim, &lengths, 17) };
            if reach > 0 {
                case = case.with_bias(reach, 18);
            }
            let whole = case.run(device);
            let mut at = 0;
            for (s, len) in lengths.iter().enumerate() {
                let n = len * 3 * dim;
                let what = format!("{name}, sequence {s}, dim {dim}");
                assert_bits(&what, &case.alone(s).run(device), &whole[at..at + n]);
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
fn a_sequence_that_exceeds_a_binding_is_unsupported() {
    let Some(device) = device("wgpu with small bindings") else { return };
    // The most that the drawn cases could have: 15 heads of 128 in 273 rows.
    let x = Tensor::zeros(device, DType::F32, &[273, 15 * 128]).unwrap();
    let offsets = Offsets::from_lengths(device, &[273]).unwrap();
    let part = |head: usize| Heads { tensor: &x, start: 128 * head };
    let how = Attention { kv_heads: 3, ..Attention::new(9, 128) };
    let got = attention(part(0), part(9), part(12), &offsets, &offsets, &how);
    assert!(matches!(got, Err(Error::Unsupported { .. })));
}

/// Q, K and V of f16 or bf16 give what the same values give as f32, and what is written is that rounded once.
#[test]
fn any_float_comes_in_and_goes_out() {
    let medium =
        DeviceOptions { matmul_precision: MatmulPrecision::Medium, ..DeviceOptions::default() };
    let medium = required("cuda", Device::by_name_with("cuda", medium));
    let mut all: Vec<(&str, &Device)> = devices().iter().map(|(n, d)| (*n, d)).collect();
    all.extend(medium.iter().map(|d| ("cuda, medium", d)));
    for (name, device) in all {
        for (heads, dim) in [(2, 16), (1, 7)] {
            let width = 3 * heads * dim;
            let offsets = Offsets::from_lengths(device, &[19, 0, 5]).unwrap();
            for dtype in FLOATS {
                let values = Rng(5).normals(24 * width);
                let x = Tensor::from_f32(device, dtype, &[24, width], &values).unwrap();
                let same = Tensor::from_slice(device, x.shape(), &x.to_f32_vec().unwrap()).unwrap();
                let run = |x: &Tensor, out| {
                    let part = |i: usize| Heads { tensor: x, start: i * heads * dim };
                    let how = Attention { out, causal: true, ..Attention::new(heads, dim) };
                    attention(part(0), part(1), part(2), &offsets, &offsets, &how).unwrap()
                };
                let full = run(&same, DType::F32);
                for out in FLOATS {
                    let got = run(&x, out);
                    assert_eq!((got.dtype(), got.shape()), (out, full.shape()));
                    let want = full.to_dtype(out).unwrap().to_f32_vec().unwrap();
                    let what = format!("{heads} heads of {dim}, {dtype} to {out} on {name}");
                    assert_bits(&what, &got.to_f32_vec().unwrap(), &want);
                }
            }
        }
    }
}

#[test]
fn wrong_inputs_are_typed_errors() {
    for (name, device) in main_devices() {
        let x = Tensor::zeros(device, DType::F32, &[6, 48]).unwrap();
        let offsets = Offsets::from_lengths(device, &[2, 4]).unwrap();
        let how = Attention { scale: 1.0, ..Attention::new(2, 8) };
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
        argument(run(head(32), &offsets, Attention { kv_heads: 0, ..how }));
        argument(run(head(32), &offsets, Attention { kv_heads: 4, ..how }));
        argument(run(head(32), &offsets, Attention { heads: 3, kv_heads: 2, ..how }));
        argument(run(head(32), &offsets, Attention { dim: 0, ..how }));
        argument(run(head(32), &offsets, Attention { dim: 129, ..how }));
        argument(run(head(32), &offsets, Attention { scale: f32::NAN, ..how }));
        argument(run(head(32), &offsets, Attention { scale: f32::INFINITY, ..how }));
        argument(run(head(32), &offsets, Attention { out: DType::U32, ..how }));
        let ids = Tensor::zeros(device, DType::U32, &[6, 48]).unwrap();
        shape(run(Heads { tensor: &ids, start: 32 }, &offsets, how));
        shape(run(head(33), &offsets, how));
        shape(run(head(usize::MAX), &offsets, how));
        shape(run(head(32), &offsets, Attention { heads: usize::MAX, kv_heads: 1, ..how }));
        shape(run(head(32), &offsets, Attention { heads: 1 << 62, kv_heads: 1 << 61, ..how }));
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
        // Tensors of any two CPU devices meet.
        let got = run(Heads { tensor: &elsewhere, start: 32 }, &offsets, how);
        assert_eq!(got.is_ok(), device.is_cpu(), "{name}: {got:?}");
    }
}
