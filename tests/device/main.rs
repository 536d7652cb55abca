//! Devices and tensors: choice, transfer, limits, adoption, errors.

#[cfg(feature = "wgpu")]
mod adopted;
#[path = "../common/mod.rs"]
mod common;
mod equality;
mod kernels;
mod waits;

use common::{FLOATS, Rng, devices, main_devices, open_wgpu};
use nearkin::ops::embed::gather_rows;
use nearkin::ops::gemm::{Epilogue, gemm};
use nearkin::ops::norm::l2_normalize;
use nearkin::ops::topk::Corpus;
use nearkin::{DType, Device, DeviceOptions, Error, Offsets, Tensor, bf16, f16};

#[test]
fn round_trips_keep_every_bit() {
    for (name, device) in devices() {
        for n in [0usize, 1, 2, 3, 17, 1023] {
            let f: Vec<f32> = Rng(n as u64).normals(n);
            let h: Vec<f16> = f.iter().map(|&x| f16::from_f32(x)).collect();
            let b: Vec<bf16> = f.iter().map(|&x| bf16::from_f32(x)).collect();
            let u: Vec<u32> = (0..n as u32).map(|x| x.wrapping_mul(2_654_435_761)).collect();
            let i: Vec<i64> = (0..n as i64).map(|x| -x << 33).collect();
            assert_eq!(
                Tensor::from_slice(device, &[n], &f).unwrap().to_vec::<f32>().unwrap(),
                f,
                "{name}"
            );
            assert_eq!(
                Tensor::from_slice(device, &[n], &h).unwrap().to_vec::<f16>().unwrap(),
                h,
                "{name}"
            );
            assert_eq!(
                Tensor::from_slice(device, &[1, n], &b).unwrap().to_vec::<bf16>().unwrap(),
                b,
                "{name}"
            );
            assert_eq!(
                Tensor::from_slice(device, &[n, 1], &u).unwrap().to_vec::<u32>().unwrap(),
                u,
                "{name}"
            );
            let t = Tensor::from_slice(device, &[n], &i).unwrap();
            assert_eq!(t.to_vec::<i64>().unwrap(), i, "{name}");
            assert_eq!(pollster::block_on(t.to_vec_async::<i64>()).unwrap(), i, "{name} async");
            let moved = t.to_device(&Device::cpu()).unwrap().to_device(device).unwrap();
            assert_eq!(moved.to_vec::<i64>().unwrap(), i, "{name} moved");
        }
    }
}

#[test]
fn a_slice_of_the_wrong_length_or_type_is_refused() {
    for (_, device) in main_devices() {
        assert!(matches!(
            Tensor::from_slice(device, &[2, 3], &[0f32; 5]),
            Err(Error::Shape { .. })
        ));
        assert!(matches!(
            Tensor::zeros(device, DType::F32, &[usize::MAX, 2]),
            Err(Error::Shape { .. })
        ));
        let t = Tensor::zeros(device, DType::F32, &[4]).unwrap();
        assert!(matches!(t.to_vec::<u32>(), Err(Error::Shape { .. })));
        assert!(matches!(t.reshape(&[5]), Err(Error::Shape { .. })));
        assert!(matches!(Offsets::new(device, &[]), Err(Error::Shape { .. })));
        assert!(matches!(Offsets::new(device, &[1, 2]), Err(Error::Shape { .. })));
        assert!(matches!(Offsets::new(device, &[0, 3, 2]), Err(Error::Shape { .. })));
        let lengths = [u32::MAX as usize, 1];
        assert!(matches!(Offsets::from_lengths(device, &lengths), Err(Error::Shape { .. })));
        let lengths = [1, usize::MAX];
        assert!(matches!(Offsets::from_lengths(device, &lengths), Err(Error::Shape { .. })));
    }
}

/// No rows of an absurd width are no memory, but operations count in rows.
#[test]
fn extents_that_overflow_are_refused_also_beside_a_zero() {
    for (name, device) in main_devices() {
        for shape in [[0, usize::MAX], [usize::MAX, 0], [0, 1 << 60]] {
            let made = Tensor::zeros(device, DType::F32, &shape);
            assert!(matches!(made, Err(Error::Shape { .. })), "{name} {shape:?}");
        }
        let wide = Tensor::zeros(device, DType::F32, &[0, (1 << 60) - 1]).unwrap();
        assert!(l2_normalize(&wide, 1e-12).unwrap().is_empty(), "{name}");
        for dim in [0, 1 << 40, usize::MAX] {
            let made = Corpus::new(device, DType::F32, dim);
            assert!(matches!(made, Err(Error::Argument { .. })), "{name} {dim}");
        }
    }
}

/// A limit below what the operations need is an error, and never a panic.
#[test]
fn bindings_too_small_for_anything_are_unsupported() {
    for max in [0, 4, 100] {
        let options = DeviceOptions { max_binding: Some(max), ..Default::default() };
        let Ok(device) = open_wgpu(options) else { return };
        let x = Tensor::zeros(&device, DType::F32, &[300, 64]).unwrap();
        let refused = [
            l2_normalize(&x, 1e-12).map(drop),
            gemm(&x, &x, &Epilogue::default()).map(drop),
            Corpus::from_tensor(&x).map(drop),
            gather_rows(&x, &[3]).map(drop),
        ];
        for (i, result) in refused.into_iter().enumerate() {
            assert!(matches!(result, Err(Error::Unsupported { .. })), "{max} bytes, {i}");
        }
    }
}

#[test]
fn conversion_rounds_to_nearest_even() {
    for (name, device) in main_devices() {
        let x = [1.0, 1.0 + f32::EPSILON, 65504.0, 1e-8, -2.5, f32::INFINITY];
        for dtype in FLOATS {
            let t = Tensor::from_slice(device, &[6], &x).unwrap().to_dtype(dtype).unwrap();
            let want: Vec<f32> = x
                .iter()
                .map(|&v| match dtype {
                    DType::F16 => f16::from_f32(v).to_f32(),
                    DType::BF16 => bf16::from_f32(v).to_f32(),
                    _ => v,
                })
                .collect();
            assert_eq!(t.to_f32_vec().unwrap(), want, "{name} {dtype}");
            // Whatever its shape.
            for shape in [&[][..], &[1], &[0, 3], &[2, 0], &[2, 5, 77], &[100_003]] {
                let count: usize = shape.iter().product();
                let values: Vec<f32> = (0..count).map(|i| (i as f32 - 300.0) / 7.0).collect();
                for from in FLOATS {
                    let t = Tensor::from_f32(device, from, shape, &values).unwrap();
                    let converted = t.to_dtype(dtype).unwrap();
                    let host = t.to_f32_vec().unwrap();
                    let want = Tensor::from_f32(&Device::cpu(), dtype, shape, &host).unwrap();
                    assert_eq!((converted.shape(), converted.dtype()), (shape, dtype));
                    let bits = |t: &Tensor| t.to_f32_vec().unwrap();
                    assert_eq!(bits(&converted), bits(&want), "{name} {from} to {dtype}");
                }
            }
        }
        let whole = Tensor::from_slice(device, &[2], &[1u32, 2]).unwrap();
        let float = Tensor::from_slice(device, &[1], &[1f32]).unwrap();
        for refused in [whole.to_dtype(DType::F32), float.to_dtype(DType::U32)] {
            assert!(matches!(refused, Err(Error::Shape { .. })), "{name}: {refused:?}");
        }
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn what_exceeds_a_binding_is_converted_nevertheless() {
    let options = DeviceOptions { max_binding: Some(4096), ..Default::default() };
    let Some(_) = common::device("wgpu") else { return };
    let device = open_wgpu(options).unwrap();
    for (shape, from, to) in [
        (&[3000][..], DType::F16, DType::F32),
        (&[40, 50], DType::BF16, DType::F32),
        (&[40, 50], DType::F32, DType::F16),
        (&[1, 2500], DType::F32, DType::BF16),
    ] {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32 / 3.0).collect();
        let t = Tensor::from_f32(&device, from, shape, &values).unwrap();
        let want = Tensor::from_f32(&Device::cpu(), to, shape, &t.to_f32_vec().unwrap()).unwrap();
        let got = t.to_dtype(to).unwrap();
        assert_eq!((got.shape(), got.dtype()), (shape, to));
        assert_eq!(got.to_f32_vec().unwrap(), want.to_f32_vec().unwrap(), "{shape:?} {from}");
    }
}

#[test]
fn unknown_devices_are_named_and_best_is_never_software() {
    for name in ["", "gpu", "cuda:999", "wgpu:x", "wgpu:-1", "wgpu:999"] {
        let error = Device::by_name(name).unwrap_err();
        assert!(matches!(&error, Error::NoDevice { backend, .. } if backend == name), "{error}");
    }
    assert!(Device::by_name("cpu").unwrap().is_cpu());
    let all = Device::all();
    assert_eq!(all.iter().filter(|d| d.best).count(), 1);
    let best = all.iter().find(|d| d.best).unwrap();
    assert_ne!(best.kind, "software");
    assert_eq!(Device::best().is_cpu(), best.id == "cpu");
}

/// A limit holds for small tensors as for large ones.
#[test]
fn many_small_tensors_meet_the_limit() {
    let options = DeviceOptions { memory_limit: Some(100_000), ..Default::default() };
    let device = Device::cpu_with(options);
    let mut held = Vec::new();
    let error = loop {
        match Tensor::zeros(&device, DType::F32, &[held.len() % 7]) {
            Ok(tensor) => held.push(tensor),
            Err(error) => break error,
        }
        assert!(held.len() < 10_000, "{} bytes", device.memory_in_use());
    };
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert!(device.memory_in_use() <= 100_000 && held.len() > 1000, "{}", held.len());
    held.clear();
    assert_eq!(device.memory_in_use(), 0);
}

/// Where the system limits the process, what does not fit is an error and the process goes on.
#[cfg(target_os = "linux")]
#[test]
fn host_memory_that_is_short_is_an_error() {
    const ALONE: &str = "NEARKIN_TEST_LIMITED";
    let name = "host_memory_that_is_short_is_an_error";
    if std::env::var_os(ALONE).is_none() {
        let limited = "ulimit -v 1000000; exec \"$0\" --exact \"$1\" --nocapture --test-threads=1";
        let program = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", limited]).arg(program).arg(name).env(ALONE, "1");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
        return;
    }
    let device = Device::cpu();
    let halves = Tensor::zeros(&device, DType::BF16, &[180 << 20]).unwrap();
    let full = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    };
    full(halves.to_f32_vec().map(drop));
    full(halves.to_dtype(DType::F32).map(drop));
    full(Tensor::zeros(&device, DType::F32, &[180 << 20]).map(drop));
    let mut corpus = Corpus::new(&device, DType::F32, 1024).unwrap();
    full(corpus.append_tensor(&halves.reshape(&[180 << 10, 1024]).unwrap()));
    assert_eq!(
        Tensor::zeros(&device, DType::F32, &[5]).unwrap().to_vec::<f32>().unwrap(),
        [0.0; 5]
    );
}

#[test]
fn a_memory_limit_is_out_of_memory_and_the_device_goes_on() {
    let options = DeviceOptions { memory_limit: Some(1 << 20), ..Default::default() };
    let mut limited = vec![("cpu", Device::cpu_with(options.clone()))];
    if let Ok(device) = open_wgpu(options) {
        limited.push(("wgpu", device));
    }
    for (name, device) in limited {
        let small = Tensor::zeros(&device, DType::F32, &[1000]).unwrap();
        let error = Tensor::zeros(&device, DType::F32, &[1 << 20]).unwrap_err();
        let Error::OutOfMemory { requested, free, .. } = error else { panic!("{name}: {error}") };
        assert_eq!(requested, 4 << 20, "{name}");
        assert!(free.unwrap() < 1 << 20, "{name}");
        assert_eq!(small.to_vec::<f32>().unwrap(), vec![0.0; 1000], "{name}");
        let used = device.memory_in_use();
        assert!((4000..1 << 20).contains(&used), "{name}: {used}");
        drop(small);
        assert_eq!(device.memory_in_use(), 0, "{name}");
        let error = Tensor::zeros(&device, DType::F32, &[1 << 50]).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{name}: {error}");
        for _ in 0..100 {
            Tensor::zeros(&device, DType::F32, &[100_000]).unwrap();
        }
    }
}

/// A buffer that returns to the pool may still be read by launches that are only recorded; an upload into it must
/// not overtake them.
#[test]
fn pooled_buffers_do_not_race_with_recorded_work() {
    for (name, device) in devices() {
        let mut rng = Rng(11);
        let mut results = Vec::new();
        for i in 0..200 {
            let data = rng.normals(64);
            let x = Tensor::from_slice(device, &[1, 64], &data).unwrap();
            let length = data.iter().map(|v| v * v).sum::<f32>().sqrt();
            results.push((i, data[0] / length, l2_normalize(&x, 1e-12).unwrap()));
        }
        for (i, want, y) in results {
            let got = y.to_vec::<f32>().unwrap()[0];
            assert!((got - want).abs() < 1e-6, "{name}: {i}: {got} {want}");
        }
    }
}

#[test]
fn one_device_serves_two_threads() {
    for (name, device) in main_devices() {
        std::thread::scope(|scope| {
            for t in 0..2u64 {
                scope.spawn(move || {
                    for i in 0..30 {
                        let data = Rng(t * 1000 + i).normals(33);
                        let x = Tensor::from_slice(device, &[1, 33], &data).unwrap();
                        let y = l2_normalize(&x, 1e-12).unwrap().to_vec::<f32>().unwrap();
                        let length = data.iter().map(|v| v * v).sum::<f32>().sqrt();
                        assert!((y[32] - data[32] / length).abs() < 1e-6, "{name}");
                    }
                });
            }
        });
    }
}
