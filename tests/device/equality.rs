//! Which devices are the same, which tensors may meet, and how devices that are not the same are told apart.

use std::collections::HashSet;

use nearkin::ops::gemm::{Epilogue, gemm};
use nearkin::ops::norm::rms_norm;
use nearkin::ops::topk::{Corpus, Metric, Search, topk};
use nearkin::{DType, Device, DeviceOptions, Error, Result, Tensor};

use crate::common::{devices, main_devices, own_devices, own_options};

/// Opens a device again, by the name in the tests' list.
fn again(name: &str, options: DeviceOptions) -> Device {
    Device::by_name_with(name, options).unwrap()
}

fn normalized(x: &Tensor, weight: &Tensor) -> Result<Vec<f32>> {
    rms_norm(x, None, weight, 1e-5)?.to_vec::<f32>()
}

#[test]
fn a_device_that_is_opened_again_is_the_same() {
    for (name, device) in main_devices() {
        let twice = again(name, DeviceOptions::default());
        assert_eq!(*device, twice, "{name}");
        assert_eq!(HashSet::from([device.clone(), twice.clone()]).len(), 1, "{name}");
        let x = Tensor::from_slice(device, &[1, 2], &[3f32, 4.0]).unwrap();
        let w = Tensor::from_slice(&twice, &[2], &[1f32, 1.0]).unwrap();
        let same = Tensor::from_slice(device, &[2], &[1f32, 1.0]).unwrap();
        assert_eq!(normalized(&x, &w).unwrap(), normalized(&x, &same).unwrap(), "{name}");
        let (a, b) = (again(name, own_options()), again(name, own_options()));
        assert!(a != b && a != *device, "{name}");
    }
}

/// Of one device, however many open it at once.
#[test]
fn threads_that_open_a_device_share_it() {
    for (name, _) in main_devices() {
        let options = own_options();
        let opened: Vec<Device> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..6).map(|_| scope.spawn(|| again(name, options.clone()))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(opened.iter().all(|d| *d == opened[0]), "{name}");
        let held = Tensor::zeros(&opened[0], DType::F32, &[100]).unwrap();
        assert!(opened[5].memory_in_use() >= 400, "{name}");
        // It ends with the last that uses it, and is opened anew.
        drop((opened, held));
        assert_eq!(again(name, options.clone()).memory_in_use(), 0, "{name}");
    }
}

#[test]
fn tensors_of_any_two_cpu_devices_meet() {
    let (a, b) = (Device::cpu(), Device::cpu_with(own_options()));
    assert_ne!(a, b);
    let x = Tensor::from_slice(&a, &[2, 2], &[3f32, 4.0, 1.0, 0.0]).unwrap();
    let w = Tensor::from_slice(&b, &[2], &[1f32, 1.0]).unwrap();
    assert_eq!(rms_norm(&x, None, &w, 1e-5).unwrap().device(), &a);
    let corpus = Corpus::from_tensor(&x.to_device(&b).unwrap()).unwrap();
    assert!(b.memory_in_use() > 0);
    let hits = topk(&x, &corpus, Metric::Cosine, &Search::new(1)).unwrap();
    assert_eq!((hits.get(0).0, hits.get(1).0), (&[0u64][..], &[1u64][..]));
}

/// The message names both devices, and differs in what they differ.
#[test]
fn devices_whose_tensors_do_not_meet_are_told_apart() {
    let all = devices();
    let others = own_devices();
    let mut pairs = 0;
    for (i, (one, a)) in all.iter().enumerate() {
        for (two, b) in all[i + 1..].iter().chain(&others) {
            if a.is_cpu() && b.is_cpu() {
                continue;
            }
            let x = Tensor::zeros(a, DType::F32, &[3, 2]).unwrap();
            let y = Tensor::zeros(b, DType::F32, &[3, 2]).unwrap();
            let corpus = Corpus::from_tensor(&y).unwrap();
            let errors = [
                gemm(&x, &y, &Epilogue::default()).unwrap_err(),
                topk(&x, &corpus, Metric::Dot, &Search::new(1)).unwrap_err(),
            ];
            for error in errors {
                let Error::Shape { expected, got, .. } = &error else { panic!("{error}") };
                let (want, got) = (expected.split_once(" on ").unwrap().1, &got["one on ".len()..]);
                assert_ne!(want, got, "{one} and {two}: {error}");
                if a.kind() == b.kind() {
                    assert!(want.contains(" opened with "), "{error}");
                }
            }
            pairs += 1;
        }
    }
    println!("{pairs} pairs of devices");
}

/// Adopting is opening too: the same device and queue are one device.
#[cfg(feature = "wgpu")]
#[test]
fn what_is_adopted_twice_is_the_same() {
    let Ok(device) = Device::wgpu_with(0, own_options()) else { return };
    let (raw, queue) = device.as_wgpu().unwrap();
    let options = own_options();
    let adopt = |options| Device::from_wgpu(raw.clone(), queue.clone(), options).unwrap();
    let (a, b) = (adopt(options.clone()), adopt(options));
    assert_eq!(a, b);
    assert_ne!(a, device);
    let x = Tensor::zeros(&a, DType::F32, &[1, 2]).unwrap();
    let w = Tensor::zeros(&device, DType::F32, &[2]).unwrap();
    let error = normalized(&x, &w).unwrap_err();
    assert!(error.to_string().contains("adopted"), "{error}");
    let again = Tensor::zeros(&b, DType::F32, &[2]).unwrap();
    assert_eq!(normalized(&x, &again).unwrap(), [0.0, 0.0]);
}

/// wgpu numbers the devices of each instance from the start; those of two engines are different all the same.
#[cfg(feature = "wgpu")]
#[test]
fn devices_of_two_instances_are_different() {
    let engine = || {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = pollster::block_on(instance.request_adapter(&Default::default())).ok()?;
        pollster::block_on(adapter.request_device(&Default::default())).ok()
    };
    let (Some(one), Some(two)) = (engine(), engine()) else { return };
    let adopt = |(device, queue): &(wgpu::Device, wgpu::Queue)| {
        Device::from_wgpu(device.clone(), queue.clone(), DeviceOptions::default()).unwrap()
    };
    let (a, b) = (adopt(&one), adopt(&two));
    assert_ne!(a, b);
    assert_eq!(a, adopt(&one));
    for device in [a, b] {
        let x = Tensor::from_slice(&device, &[1, 2], &[3f32, 3.0]).unwrap();
        let w = Tensor::from_slice(&device, &[2], &[1f32, 1.0]).unwrap();
        assert!((normalized(&x, &w).unwrap()[0] - 1.0).abs() < 1e-5);
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn a_lost_device_is_not_given_again() {
    let options = own_options();
    let Ok(device) = Device::wgpu_with(0, options.clone()) else { return };
    assert_eq!(Device::wgpu_with(0, options.clone()).unwrap(), device);
    // Nobody has asked the device for anything since.
    device.as_wgpu().unwrap().0.destroy();
    let fresh = Device::wgpu_with(0, options).unwrap();
    assert_ne!(fresh, device);
    let x = Tensor::from_slice(&fresh, &[1, 2], &[3f32, 4.0]).unwrap();
    let w = Tensor::from_slice(&fresh, &[2], &[1f32, 1.0]).unwrap();
    assert!(normalized(&x, &w).is_ok());
}
