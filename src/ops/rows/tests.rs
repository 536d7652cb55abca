//! Every GPU moves and measures as the CPU does, bit for bit.

use super::*;
use crate::device::required::required;
use crate::ops::length::{PLAIN, PLAIN_F16};
use crate::ops::random::SplitMix64;
use crate::{Device, DeviceOptions};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The GPUs there are.
fn gpus() -> Vec<Device> {
    let mut all = Vec::new();
    for name in ["cuda", "wgpu"] {
        all.extend(required(name, Device::by_name(name)));
    }
    if Device::by_name("wgpu").is_ok() {
        let small = DeviceOptions { max_binding: Some(32 << 10), ..Default::default() };
        all.extend(Device::by_name_with("wgpu", small));
    }
    all
}

/// Numbers of a type: of all exponents, and some that are special.
fn numbers(dtype: DType, count: usize, random: &mut SplitMix64) -> Vec<u8> {
    let special = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        65504.0,
        65520.0,
        5.96e-8,
        1e-45,
    ];
    let number = |i: usize| match i % 7 {
        0 => special[random.next() as usize % special.len()].to_bits(),
        _ => random.next() as u32,
    };
    let bits: Vec<u32> = (0..count).map(number).collect();
    match dtype.size() {
        2 => bits.iter().flat_map(|b| ((b >> 16) as u16).to_le_bytes()).collect(),
        _ => bytemuck::cast_slice(&bits).to_vec(),
    }
}

/// The same elements, any NaN being any other.
#[track_caller]
fn same(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()), "{what}");
    if !got.dtype().is_float() {
        return assert_eq!(got.to_bytes().unwrap(), want.to_bytes().unwrap(), "{what}");
    }
    let [got, want] = [got, want].map(|t| t.to_f32_vec().unwrap());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let is_same = g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
        assert!(is_same, "{what}: element {i} is {g:e}, not {w:e}");
    }
}

#[test]
fn rows_move_as_on_the_cpu() {
    let cpu = Device::cpu();
    for device in gpus() {
        let mut random = SplitMix64(3);
        for (from, width) in
            FLOATS.into_iter().chain([DType::U32]).flat_map(|d| [1, 3, 8, 67].map(|w| (d, w)))
        {
            let sizes = [5usize, 1, 12, 3];
            let made = sizes.map(|n| {
                let bytes = numbers(from, n * width, &mut random);
                [&cpu, &device].map(|d| Tensor::from_bytes(d, from, &[n, width], &bytes).unwrap())
            });
            for to in if from.is_float() { &FLOATS[..] } else { &[DType::U32][..] } {
                let what = format!("{device:?}, {from} to {to}, {width} wide");
                let [want, got] = [0, 1].map(|d| {
                    let parts: Vec<Part<'_>> = made
                        .iter()
                        .map(|t| (&t[d], t[d].shape()[0] / 3..t[d].shape()[0]))
                        .collect();
                    joined(*to, width, &parts).unwrap()
                });
                same(&what, &got, &want);
            }
            let total: usize = sizes.iter().sum();
            let picked: Vec<u32> =
                (0..2 * total).map(|_| random.next() as u32 % total as u32).collect();
            let [want, got] = [(0, &cpu), (1, &device)].map(|(d, on)| {
                let sources: Vec<&Tensor> = made.iter().map(|t| &t[d]).collect();
                gathered(
                    &sources,
                    width,
                    &Tensor::from_slice(on, &[picked.len()], &picked).unwrap(),
                )
                .unwrap()
            });
            same(&format!("{device:?}, {from} picked, {width} wide"), &got, &want);
        }
        let words: Vec<u32> = (0..3 * 8).map(|_| random.next() as u32).collect();
        let [want, got] = [&cpu, &device]
            .map(|d| unpacked(&Tensor::from_slice(d, &[3, 8], &words).unwrap(), 32, None).unwrap());
        same(&format!("{device:?}, bytes"), &got, &want);
    }
}

/// Rows of all orders of magnitude, each of elements of one or of many, and some that are special.
fn lengths(dtype: DType, rows: usize, dim: usize, random: &mut SplitMix64) -> Vec<f32> {
    let unit = |random: &mut SplitMix64| (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    let exponents = if dtype == DType::F16 { 39.0 } else { 276.0 };
    let lowest = if dtype == DType::F16 { -24.0 } else { -149.0 };
    let mut all = Vec::new();
    for row in 0..rows {
        let length = 2f64.powf(lowest + exponents * unit(random));
        let spread = if row % 3 == 0 { 60.0 * unit(random) } else { 0.0 };
        let at = random.next() as usize % dim;
        for i in 0..dim {
            let value = (unit(random) - 0.5) * 2f64.powf(-spread * unit(random));
            all.push(match row % 50 {
                7 => 0.0,
                8 if i == at => f32::INFINITY,
                9 if i == at => f32::NAN,
                10 => f32::from_bits(random.next() as u32 % 3),
                11 if i != at => 0.0,
                _ if row % 5 == 0 => (value * 2.0) as f32,
                _ => (value * length) as f32,
            });
        }
    }
    all
}

#[test]
fn lengths_have_the_bits_of_the_host() {
    let cpu = Device::cpu();
    for device in gpus() {
        let mut random = SplitMix64(5);
        let (mut rows, mut off) = (0, 0);
        for (dim, count) in [
            (1, 300),
            (2, 200),
            (3, 200),
            (17, 300),
            (31, 100),
            (32, 100),
            (33, 100),
            (384, 200),
            (1023, 60),
            (4096, 12),
        ] {
            for dtype in FLOATS {
                let values = lengths(dtype, count, dim, &mut random);
                let [host, own] = [&cpu, &device]
                    .map(|d| Tensor::from_f32(d, dtype, &[count, dim], &values).unwrap());
                let what = format!("{device:?}, {count} x {dim} {dtype}");
                let [(want, unusual), (got, flag)] =
                    [&host, &own].map(|t| measured(t, Kind::Length, None).unwrap());
                assert_eq!(flag.get().unwrap(), unusual.get().unwrap(), "{what}");
                let [want, got] = [want, got].map(|t| t.to_vec::<f32>().unwrap());
                for (row, (g, w)) in got.iter().zip(&want).enumerate() {
                    let apart = (g.to_bits() as i64 - w.to_bits() as i64).abs();
                    let is_near = apart <= 1 || g.is_nan() && w.is_nan();
                    assert!(is_near, "{what}, row {row}: {g:e}, not {w:e}");
                    off += usize::from(apart == 1);
                }
                rows += count;
                let [(want, _), (got, _)] =
                    [&host, &own].map(|t| measured(t, Kind::Power, None).unwrap());
                same(&format!("{what}, powers"), &got, &want);
                if dtype != DType::F16 {
                    same(
                        &format!("{what}, divided"),
                        &divided(&own, &got).unwrap(),
                        &divided(&host, &want).unwrap(),
                    );
                }
            }
        }
        println!("{device:?}: {off} of {rows} inverse lengths differ in their last bit");
        // The host's f64 rounds its sum; CUDA does the same.
        assert!(off <= usize::from(device.kind() == "wgpu"), "{device:?}: {off} of {rows}");
    }
}

#[test]
fn queries_are_prepared_as_on_the_cpu() {
    let cpu = Device::cpu();
    for device in gpus() {
        let mut random = SplitMix64(6);
        for (dim, count) in [(1, 30), (5, 61), (32, 50), (67, 40), (130, 33)] {
            for (dtype, plain) in FLOATS.into_iter().flat_map(|d| [(d, PLAIN), (d, PLAIN_F16)]) {
                let values = lengths(dtype, count, dim, &mut random);
                let [host, own] = [&cpu, &device]
                    .map(|d| Tensor::from_f32(d, dtype, &[count, dim], &values).unwrap());
                for kind in [Kind::Power, Kind::One, Kind::Length] {
                    let what =
                        format!("{device:?}, {kind:?} of {count} x {dim} {dtype}, {plain:?}");
                    for range in [0..count, 3..count - 2] {
                        let [want, got] =
                            [&host, &own].map(|t| reduced(t, range.clone(), kind, &plain).unwrap());
                        same(&what, &got.data, &want.data);
                        same(&what, &got.scale, &want.scale);
                    }
                }
            }
        }
    }
}

#[cfg(feature = "cuda")]
mod parts {
    use half::{bf16, f16};

    use super::super::cuda::reduced;
    use super::*;
    use crate::ops::precision::{Core, Product};

    /// `x`, or the nearest within `most` of 0 if it is finite, so that rounding does not make it infinite.
    fn within(x: f32, most: f32) -> f32 {
        if x.is_finite() { x.clamp(-most, most) } else { x }
    }

    /// Part `part` of three bf16 that sum to `x`, the greatest first; behind an infinity come zeros.
    fn part_of(x: f32, part: u32) -> f32 {
        let cut = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        let rest = (0..part).fold(x, |rest, _| rest - cut(rest));
        if part > 0 && x.is_infinite() { 0.0 } else { cut(rest) }
    }

    /// Rounded to 11 significant bits, ties away from zero; what is finite stays so.
    fn tf32(x: f32) -> f32 {
        let cut = |x: u32| f32::from_bits(x & 0xffff_e000);
        let rounded = cut(x.to_bits().wrapping_add(0x1000));
        if x.is_finite() && rounded.is_finite() { rounded } else { cut(x.to_bits()) }
    }

    #[test]
    fn three_parts_are_the_number() {
        for x in [1.0, -std::f32::consts::PI, f32::MAX, 1e-20, -0.0, f32::MIN_POSITIVE] {
            let parts = [0, 1, 2].map(|part| part_of(x, part));
            assert_eq!(parts[2] + parts[1] + parts[0], x, "{parts:?}");
        }
        let parts = [0, 1, 2].map(|part| part_of(f32::NEG_INFINITY, part));
        assert_eq!(parts, [f32::NEG_INFINITY, 0.0, 0.0]);
    }

    #[test]
    fn queries_enter_tensor_cores_as_they_should() {
        let Some(gpu) = required("cuda", Device::by_name("cuda")) else { return };
        let Backend::Cuda(cuda) = gpu.backend() else { unreachable!() };
        let mut random = SplitMix64(8);
        let (count, dim) = (37, 45);
        let mut values = lengths(DType::F32, count, dim, &mut random);
        // Ties, and numbers that rounding would make infinite.
        for (at, x) in [
            1.0 + 2f32.powi(-11),
            -1.0 - 2f32.powi(-12),
            f32::MAX,
            -f32::MAX,
            65519.0,
            -65520.0,
            1.0 + 2f32.powi(-8),
        ]
        .into_iter()
        .enumerate()
        {
            values[at * dim] = x;
        }
        let queries = Tensor::from_slice(&gpu, &[count, dim], &values).unwrap();
        type Enters = fn(f32, u32) -> f32;
        let cases: [(Core, u32, Enters); 4] = [
            (Core::BF16, 3, part_of),
            (Core::BF16, 1, |x, _| bf16::from_f32(within(x, bf16::MAX.to_f32())).to_f32()),
            (Core::F16, 1, |x, _| f16::from_f32(within(x, f16::MAX.to_f32())).to_f32()),
            (Core::Tf32, 1, |x, _| tf32(x)),
        ];
        for (core, parts, enters) in cases {
            for kind in [Kind::Power, Kind::Length] {
                let how = Product { core, parts };
                let (reduced, entering) =
                    reduced(cuda, &queries, 1..count, kind, &PLAIN, how).unwrap();
                let data = reduced.data.to_vec::<f32>().unwrap();
                let got = entering.unwrap().to_f32_vec().unwrap();
                assert_eq!(got.len(), parts as usize * data.len());
                for (i, got) in got.iter().enumerate() {
                    let (part, at) = (i / data.len(), i % data.len());
                    let row = &data[at / dim * dim..][..dim];
                    let x = if row.iter().any(|v| v.is_nan()) { 0.0 } else { data[at] };
                    let want = enters(x, part as u32);
                    assert_eq!(
                        got.to_bits(),
                        want.to_bits(),
                        "{core:?}, part {part} of {x:e}: {got:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_become_bytes_as_on_the_cpu() {
    let cpu = Device::cpu();
    for device in gpus() {
        let mut random = SplitMix64(5);
        for dtype in FLOATS {
            for dim in [1, 2, 7, 64, 131] {
                let rows = 300;
                let what = format!("{device:?}, {rows} x {dim} {dtype}");
                let bytes = numbers(dtype, rows * dim, &mut random);
                let [want, got] = [&cpu, &device].map(|on| {
                    // Some bits of any exponent, and rows of one order of magnitude behind them.
                    let any = Tensor::from_bytes(on, dtype, &[rows, dim], &bytes).unwrap();
                    let some = lengths(dtype, rows, dim, &mut SplitMix64(dim as u64));
                    let some = Tensor::from_f32(on, dtype, &[rows, dim], &some).unwrap();
                    [(any, 0..rows), (some, 17..rows - 3)]
                        .map(|(tensor, range)| quantized(&tensor, range).unwrap())
                });
                for (got, want) in got.iter().zip(&want) {
                    same(&what, &got.words, &want.words);
                    same(&what, &got.scales, &want.scales);
                    let [got, want] = [got, want].map(|int8| inverse_lengths(int8).unwrap());
                    same(&format!("{what}: lengths"), &got, &want);
                }
                let width = if dim == 131 { dim } else { 4 * dim.div_ceil(4) };
                let [want, got] = [&want[1], &got[1]]
                    .map(|int8| unpacked(&int8.words, width, Some(&int8.scales)).unwrap());
                // A product with a scale that is subnormal may be 0.
                let [want, got] = [want, got].map(|t| t.to_f32_vec().unwrap());
                for (w, g) in want.iter().zip(&got) {
                    let is_same = g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
                    assert!(is_same || w.abs() < 2e-36 && *g == 0.0, "{what}: {g:e} for {w:e}");
                }
            }
        }
    }
}
