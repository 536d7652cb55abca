//! nearkin inside a program that uses wgpu already: one device, one queue, its buffers and ours, without copies through the host.
//!
//! ```text
//! cargo run --example wgpu_engine
//! ```

use nearkin::ops::norm::l2_normalize;
use nearkin::ops::topk::{Corpus, Metric, Search, topk, topk_on_device};
use nearkin::{DType, Device, DeviceOptions, Tensor};

/// Vectors and their dimension.
const SHAPE: [usize; 2] = [1000, 64];
const BYTES: u64 = 4 * (SHAPE[0] * SHAPE[1]) as u64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The engine opens its device with what it needs itself and what nearkin can use.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (features, limits) = Device::wgpu_requirements(&adapter);
    let own = wgpu::Limits { max_bind_groups: 4, ..wgpu::Limits::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("engine"),
        required_features: features,
        required_limits: limits.or_better_values_from(&own),
        ..Default::default()
    }))?;
    let nearkin = Device::from_wgpu(device.clone(), queue.clone(), DeviceOptions::default())?;
    println!("on {}", nearkin.name());

    // A buffer of the engine's, which its own passes could fill as well.
    let vectors = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("engine's vectors"),
        size: BYTES,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let values: Vec<f32> =
        (0..SHAPE[0] * SHAPE[1]).map(|i| ((i * i + 7 * i) % 101) as f32 - 50.0).collect();
    queue.write_buffer(&vectors, 0, bytemuck::cast_slice(&values));

    // What was written before the call is seen, and nothing that is written after it.
    let input = Tensor::from_wgpu_buffer(&nearkin, DType::F32, &SHAPE, vectors.clone())?;
    let normalized = l2_normalize(&input, 1e-12)?;
    queue.write_buffer(&vectors, 0, &vec![0; BYTES as usize]);

    // Search on the same device; only the hits come to the host.
    let corpus = Corpus::from_tensor(&normalized)?;
    let queries = Tensor::from_slice(&nearkin, &[1, SHAPE[1]], &values[..SHAPE[1]])?;
    let hits = topk(&queries, &corpus, Metric::Cosine, &Search::new(3))?;
    let (rows, scores) = hits.get(0);
    println!("nearest to vector 0: {rows:?}, with cosines {scores:?}");
    assert_eq!(rows[0], 0);

    // A corpus of the engine's own buffer: every search sees what is there. Lengths are those of the last refresh.
    let mut shared = Corpus::from_tensor(&input)?;
    let halves: Vec<f32> = values.iter().map(|v| v / 2.0).collect();
    queue.write_buffer(&vectors, 0, bytemuck::cast_slice(&halves));
    shared.refresh()?;
    // Nothing waits here: rows, scores and counts are tensors for passes of the engine, and the hits arrive later.
    let found = topk_on_device(&queries, &shared, Metric::Cosine, &Search::new(3))?;
    let tensors = found.to_tensors()?;
    println!("on the device: rows {:?}, scores {:?}", tensors.rows.shape(), tensors.scores.shape());
    let again = pollster::block_on(found.to_hits_async())?;
    println!("nearest to vector 0 among halves: {:?}", again.get(0).0);
    assert_eq!(again.get(0).0[0], 0);

    // Our result in a pass of the engine's: what fills it must be on the queue first.
    let target = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("engine's copy"),
        size: BYTES,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    nearkin.flush()?;
    let mut encoder = device.create_command_encoder(&Default::default());
    // SAFETY: it is only copied from, by work that is submitted before `normalized` is dropped.
    #[allow(unsafe_code)]
    let result = unsafe { normalized.as_wgpu_buffer() }.ok_or("the tensor is on wgpu")?;
    encoder.copy_buffer_to_buffer(result, 0, &target, 0, BYTES);
    queue.submit([encoder.finish()]);

    // Waiting without blocking: a frame loop would poll the future, which is woken when the device is done.
    let norms = pollster::block_on(normalized.to_vec_async::<f32>())?;
    let length = norms[..SHAPE[1]].iter().map(|v| v * v).sum::<f32>().sqrt();
    println!("vector 0 has length {length:.4}");
    Ok(())
}
