//! An engine's wgpu device, queue and buffers: what it must offer, and the order of its work and ours.

use nearkin::ops::norm::l2_normalize;
use nearkin::ops::topk::Metric;
use nearkin::search::FlatIndex;
use nearkin::{DType, Device, DeviceOptions, Error, Tensor};

use crate::common::{Rng, own_options, required};

/// The engine's adapter.
fn adapter() -> Option<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    required("wgpu", pollster::block_on(instance.request_adapter(&Default::default())))
}

/// What an engine opens.
fn open(
    adapter: &wgpu::Adapter,
    features: wgpu::Features,
    limits: wgpu::Limits,
) -> (wgpu::Device, wgpu::Queue) {
    pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: features,
        required_limits: limits,
        ..Default::default()
    }))
    .unwrap()
}

fn buffer(device: &wgpu::Device, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let mapped_at_creation = false;
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation })
}

/// Of a buffer that is shared.
const SHARED: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

/// An engine's device, its buffer as input, and its own commands reading our output.
#[test]
fn an_engine_shares_its_device_and_buffers() {
    let Some(adapter) = adapter() else { return };
    let (device, queue) = open(&adapter, Default::default(), Default::default());
    let ours = Device::from_wgpu(device.clone(), queue.clone(), DeviceOptions::default()).unwrap();
    assert!(!ours.wgpu_facts().unwrap().f16, "the engine did not ask for SHADER_F16");
    let theirs = buffer(&device, 24, SHARED);
    queue.write_buffer(&theirs, 0, bytemuck::cast_slice(&[3f32, 4.0, 0.0, 0.0, 6.0, 8.0]));
    let x = Tensor::from_wgpu_buffer(&ours, DType::F32, &[2, 3], theirs.clone()).unwrap();
    let y = l2_normalize(&x, 1e-12).unwrap();
    ours.flush().unwrap();
    let out = buffer(&device, 24, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let mut encoder = device.create_command_encoder(&Default::default());
    // SAFETY: it is only copied from, by work that is submitted before `y` is dropped.
    #[allow(unsafe_code)]
    let result = unsafe { y.as_wgpu_buffer() }.unwrap();
    encoder.copy_buffer_to_buffer(result, 0, &out, 0, 24);
    queue.submit([encoder.finish()]);
    out.map_async(wgpu::MapMode::Read, .., |r| r.unwrap());
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let bytes = out.get_mapped_range(..).unwrap().to_vec();
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
    for (g, w) in got.iter().zip([0.6, 0.8, 0.0, 0.0, 0.6, 0.8]) {
        assert!((g - w).abs() < 1e-6, "{got:?}");
    }

    let short = Tensor::from_wgpu_buffer(&ours, DType::F32, &[7], theirs.clone());
    assert!(matches!(short, Err(Error::Shape { .. })));
    let unusable = buffer(&device, 24, wgpu::BufferUsages::COPY_DST);
    let error = Tensor::from_wgpu_buffer(&ours, DType::F32, &[6], unusable);
    assert!(matches!(error, Err(Error::Unsupported { .. })));
    let on_cpu = Tensor::from_wgpu_buffer(&Device::cpu(), DType::F32, &[6], theirs);
    assert!(matches!(on_cpu, Err(Error::NoDevice { .. })));
}

/// What the engine writes to its buffer after a call is not seen by the call; what it wrote before is.
#[test]
fn an_operation_sees_what_was_written_before_it() {
    let Some(adapter) = adapter() else { return };
    let (device, queue) = open(&adapter, Default::default(), Default::default());
    let ours = Device::from_wgpu(device.clone(), queue.clone(), Default::default()).unwrap();
    let theirs = buffer(&device, 8, SHARED);
    let write = |values: [f32; 2]| queue.write_buffer(&theirs, 0, bytemuck::cast_slice(&values));
    let copy = |values: [f32; 2]| {
        let from = buffer(&device, 8, SHARED);
        queue.write_buffer(&from, 0, bytemuck::cast_slice(&values));
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from, 0, &theirs, 0, 8);
        queue.submit([encoder.finish()]);
    };
    write([3.0, 4.0]);
    let x = Tensor::from_wgpu_buffer(&ours, DType::F32, &[1, 2], theirs.clone()).unwrap();
    let first = l2_normalize(&x, 1e-12).unwrap();
    let (read, moved) = (x.to_vec_async::<f32>(), x.to_device(&Device::cpu()).unwrap());
    write([0.0, 7.0]);
    let second = l2_normalize(&x, 1e-12).unwrap();
    // What is recorded behind it comes from our buffers alone, and may be submitted later.
    let again = l2_normalize(&second, 1e-12).unwrap();
    copy([-5.0, 0.0]);
    let third = l2_normalize(&x, 1e-12).unwrap();
    queue.write_buffer(&theirs, 0, &[0; 8]);
    let values = |t: &Tensor| t.to_vec::<f32>().unwrap();
    for (got, want) in values(&first).iter().zip([0.6, 0.8]) {
        assert!((got - want).abs() < 1e-6, "{first:?} {got}");
    }
    assert_eq!(values(&second), [0.0, 1.0]);
    assert_eq!(values(&again), [0.0, 1.0]);
    assert_eq!(values(&third), [-1.0, 0.0]);
    assert_eq!(pollster::block_on(read).unwrap(), [3.0, 4.0]);
    assert_eq!(values(&moved), [3.0, 4.0]);
    assert_eq!(values(&x), [0.0, 0.0]);
}

#[test]
fn a_device_of_too_little_is_refused_with_what_to_ask_for() {
    let Some(adapter) = adapter() else { return };
    let less = |change: fn(&mut wgpu::Limits)| {
        let mut limits = wgpu::Limits::default();
        change(&mut limits);
        limits
    };
    let cases: [(&str, wgpu::Limits); 5] = [
        ("max_storage_buffers_per_shader_stage 4, at least 8", wgpu::Limits::downlevel_defaults()),
        (
            "max_compute_workgroup_storage_size 16352, at least 16384",
            wgpu::Limits::downlevel_defaults(),
        ),
        (
            "max_compute_invocations_per_workgroup 128, at least 256",
            less(|l| l.max_compute_invocations_per_workgroup = 128),
        ),
        (
            "max_compute_workgroups_per_dimension 1000, at least 65535",
            less(|l| l.max_compute_workgroups_per_dimension = 1000),
        ),
        ("max_bindings_per_bind_group 5, at least 9", less(|l| l.max_bindings_per_bind_group = 5)),
    ];
    for (said, limits) in cases {
        let (device, queue) = open(&adapter, Default::default(), limits);
        let error = Device::from_wgpu(device, queue, DeviceOptions::default()).unwrap_err();
        let Error::Unsupported { what, .. } = &error else { panic!("{error}") };
        assert!(what.contains(said), "{said}: {what}");
        assert!(what.contains("Device::wgpu_requirements"), "{what}");
    }
}

/// A device that was opened with the requirements and no more has what one of ours has.
#[test]
fn a_device_of_the_requirements_searches() {
    let Some(adapter) = adapter() else { return };
    let (features, limits) = Device::wgpu_requirements(&adapter);
    let (device, queue) = open(&adapter, features, limits);
    let ours = Device::from_wgpu(device, queue, DeviceOptions::default()).unwrap();
    let facts = ours.wgpu_facts().unwrap();
    if let Some(theirs) = (0..9).find_map(|i| {
        let device = Device::wgpu_with(i, own_options()).ok()?;
        (device.name() == ours.name()).then_some(device)
    }) {
        let theirs = theirs.wgpu_facts().unwrap();
        assert_eq!((facts.f16, facts.subgroups), (theirs.f16, theirs.subgroups));
        assert_eq!((facts.max_binding, facts.max_buffer), (theirs.max_binding, theirs.max_buffer));
        assert_eq!(facts.offset_alignment, theirs.offset_alignment);
    }
    let (n, dim) = (700, 96);
    let vectors = Rng(8).normals(n * dim);
    let ids: Vec<String> = (0..n).map(|i| i.to_string()).collect();
    let found = |device: &Device| {
        let mut index = FlatIndex::new(device, DType::F16, dim).unwrap();
        index.add(&ids, &vectors).unwrap();
        let found = index.search(&vectors[..3 * dim], 5, Metric::Cosine, None).unwrap();
        found.into_iter().flatten().map(|hit| hit.id).collect::<Vec<_>>()
    };
    assert_eq!(found(&ours), found(&Device::cpu()));
}

/// A submission that fails takes the launches of others with it; their results must not be read as if they were there.
#[test]
fn after_a_failed_submission_nothing_is_read() {
    let Some(device) = required("wgpu", Device::wgpu_with(0, own_options())) else { return };
    let tensor = || Tensor::from_slice(&device, &[1, 2], &[3f32, 4.0]).unwrap();
    let (ours, doomed) = (tensor(), tensor());
    let innocent = l2_normalize(&ours, 1e-12).unwrap();
    let guilty = l2_normalize(&doomed, 1e-12).unwrap();
    // SAFETY: no kernel reads it: without the buffer nothing is submitted.
    #[allow(unsafe_code)]
    unsafe { doomed.as_wgpu_buffer() }.unwrap().destroy();
    assert!(matches!(guilty.to_vec::<f32>(), Err(Error::Driver { .. })));
    assert!(matches!(innocent.to_vec::<f32>(), Err(Error::Driver { .. })));
    let again = Device::wgpu(0).unwrap();
    let x = Tensor::from_slice(&again, &[1, 2], &[3f32, 4.0]).unwrap();
    assert_eq!(l2_normalize(&x, 1e-12).unwrap().to_vec::<f32>().unwrap(), [0.6, 0.8]);
}

/// A buffer of the engine's that is gone is an error of the call that needs it, and of no other.
#[test]
fn a_buffer_that_was_destroyed_fails_its_own_operation() {
    let Some(device) = required("wgpu", Device::wgpu_with(0, own_options())) else { return };
    let theirs = buffer(device.as_wgpu().unwrap().0, 8, SHARED);
    let x = Tensor::from_wgpu_buffer(&device, DType::F32, &[1, 2], theirs.clone()).unwrap();
    theirs.destroy();
    assert!(matches!(l2_normalize(&x, 1e-12), Err(Error::Driver { .. })));
}

#[test]
fn a_lost_device_is_a_typed_error() {
    let Some(device) = required("wgpu", Device::wgpu_with(0, own_options())) else { return };
    let x = Tensor::from_slice(&device, &[1, 2], &[3f32, 4.0]).unwrap();
    device.as_wgpu().unwrap().0.destroy();
    let result = l2_normalize(&x, 1e-12).and_then(|y| y.to_vec::<f32>());
    assert!(matches!(result, Err(Error::DeviceLost { .. } | Error::Driver { .. })), "{result:?}");
    // The process, and a new device, go on.
    let again = Device::wgpu(0).unwrap();
    let x = Tensor::from_slice(&again, &[1, 2], &[3f32, 4.0]).unwrap();
    assert_eq!(l2_normalize(&x, 1e-12).unwrap().to_vec::<f32>().unwrap(), [0.6, 0.8]);
}
