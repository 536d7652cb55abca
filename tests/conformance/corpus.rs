//! Corpora: rows of engines' buffers that change, lengths that are given, growth and picks on the device.

use nearkin::ops::hamming::BinaryCorpus;
use nearkin::ops::topk::{Corpus, Metric, Search, topk};
use nearkin::{DType, Device, Error, Tensor};

use crate::common::{FLOATS, Rng, devices};

/// The best row for a query, and its score.
fn best(corpus: &Corpus, query: &[f32], metric: Metric) -> (u64, f32) {
    let query = Tensor::from_slice(corpus.device(), &[1, query.len()], query).unwrap();
    let hits = topk(&query, corpus, metric, &Search::new(1)).unwrap();
    (hits.get(0).0[0], hits.get(0).1[0])
}

/// What an engine does to its buffer after the corpus was made; the CPU's tensors are never written to.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
enum Engine {
    #[cfg(feature = "cuda")]
    Cuda(std::sync::Arc<cudarc::driver::CudaStream>, u64),
    #[cfg(feature = "wgpu")]
    Wgpu(wgpu::Queue, wgpu::Buffer),
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Engine {
    /// A tensor \[rows, dim\] of f32 in a buffer of the engine's.
    fn tensor(
        device: &Device,
        rows: usize,
        dim: usize,
        values: &[f32],
    ) -> Option<(Tensor, Engine)> {
        #[cfg(feature = "cuda")]
        if let Some((_, stream)) = device.as_cuda() {
            use cudarc::driver::DevicePtr;
            let slice = std::sync::Arc::new(stream.clone_htod(values).unwrap());
            let pointer = slice.device_ptr(stream).0;
            let tensor = Tensor::from_cuda_slice(device, &[rows, dim], slice).unwrap();
            return Some((tensor, Engine::Cuda(stream.clone(), pointer)));
        }
        #[cfg(feature = "wgpu")]
        if let Some((raw, queue)) = device.as_wgpu() {
            let buffer = raw.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: (4 * rows * dim) as u64,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
            let tensor = Tensor::from_wgpu_buffer(device, DType::F32, &[rows, dim], buffer.clone());
            return Some((tensor.unwrap(), Engine::Wgpu(queue.clone(), buffer)));
        }
        None
    }

    #[allow(unsafe_code)]
    fn write(&self, values: &[f32]) {
        match self {
            #[cfg(feature = "cuda")]
            Engine::Cuda(stream, pointer) => {
                // SAFETY: the tensor holds the slice, which is as long; the view gives the address up again.
                let mut view = unsafe { stream.upgrade_device_ptr::<f32>(*pointer, values.len()) };
                stream.memcpy_htod(values, &mut view).unwrap();
                view.leak();
            }
            #[cfg(feature = "wgpu")]
            Engine::Wgpu(queue, buffer) => {
                queue.write_buffer(buffer, 0, bytemuck::cast_slice(values))
            }
        }
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[test]
fn lengths_are_those_of_the_last_refresh() {
    for (name, device) in crate::common::main_devices() {
        let Some((rows, engine)) = Engine::tensor(device, 2, 2, &[3.0, 4.0, 0.0, 1.0]) else {
            continue;
        };
        let mut corpus = Corpus::from_tensor(&rows).unwrap();
        let old = corpus.clone();
        assert_eq!(best(&corpus, &[1.0, 0.0], Metric::Cosine), (0, 0.6), "{name}");
        device.synchronize().unwrap();
        engine.write(&[3.0, 4.0, 9.0, 9.0]);
        // Rows are as they are now, lengths as they were: a cosine of 9.
        assert_eq!(best(&corpus, &[1.0, 0.0], Metric::Dot), (1, 9.0), "{name}");
        assert_eq!(best(&corpus, &[1.0, 0.0], Metric::Cosine), (1, 9.0), "{name}");
        corpus.refresh().unwrap();
        let (row, score) = best(&corpus, &[1.0, 0.0], Metric::Cosine);
        assert!(row == 1 && (score - 0.5f32.sqrt()).abs() < 1e-7, "{name}: {score}");
        assert_eq!(best(&old, &[1.0, 0.0], Metric::Cosine), (1, 9.0), "{name}: a clone");

        // Rows that are no longer plain get a scaled copy, and lose it again.
        let bytes = corpus.bytes();
        engine.write(&[3e30, 4e30, -1e-40, 1e-40]);
        corpus.refresh().unwrap();
        let (row, score) = best(&corpus, &[-1.0, 0.0], Metric::Cosine);
        assert!(row == 1 && (score - 0.5f32.sqrt()).abs() < 1e-7, "{name}: {score}");
        assert_eq!(corpus.bytes(), bytes + 2 * (8 + 4), "{name}");
        assert_eq!(best(&corpus, &[1.0, 0.0], Metric::Dot), (0, 3e30), "{name}");
        engine.write(&[1.0, 0.0, 0.0, 2.0]);
        corpus.refresh().unwrap();
        assert_eq!(best(&corpus, &[0.0, 1.0], Metric::Cosine), (1, 1.0), "{name}");
        assert_eq!(corpus.bytes(), bytes, "{name}");
    }
}

#[test]
fn lengths_that_are_given_are_used() {
    for (name, device) in devices() {
        let rows = Tensor::from_slice(device, &[3, 2], &[3f32, 4.0, 2.0, 0.0, 9.0, 9.0]).unwrap();
        let lengths = Tensor::from_slice(device, &[3], &[10f32, 0.5, f32::NAN]).unwrap();
        let mut corpus = Corpus::from_tensor_with_lengths(&rows, &lengths).unwrap();
        assert_eq!(best(&corpus, &[1.0, 0.0], Metric::Cosine), (0, 30.0), "{name}");
        assert_eq!(best(&corpus, &[1.0, 0.0], Metric::Dot), (2, 9.0), "{name}");
        // They go with their rows.
        corpus.retain(|row| row > 0).unwrap();
        assert_eq!(best(&corpus, &[1.0, 0.0], Metric::Cosine), (0, 1.0), "{name}");
        corpus.append(&[3.0, 0.0]).unwrap();
        let hits = topk(
            &Tensor::from_slice(device, &[1, 2], &[1f32, 0.0]).unwrap(),
            &corpus,
            Metric::Cosine,
            &Search::new(3),
        )
        .unwrap();
        assert_eq!(hits.get(0), (&[0, 2][..], &[1.0, 1.0][..]), "{name}");
        corpus.refresh().unwrap();
        assert_eq!(best(&corpus, &[1.0, 1.0], Metric::Cosine).0, 1, "{name}");

        let shape = |r: Result<Corpus, Error>| {
            assert!(matches!(r, Err(Error::Shape { .. })), "{name}: {r:?}")
        };
        shape(Corpus::from_tensor_with_lengths(&rows, &lengths.reshape(&[3, 1]).unwrap()));
        shape(Corpus::from_tensor_with_lengths(
            &rows,
            &Tensor::zeros(device, DType::F32, &[2]).unwrap(),
        ));
        shape(Corpus::from_tensor_with_lengths(
            &rows,
            &Tensor::zeros(device, DType::U32, &[3]).unwrap(),
        ));
        let other = Tensor::zeros(&Device::cpu(), DType::F32, &[3]).unwrap();
        let given = Corpus::from_tensor_with_lengths(&rows, &other);
        assert_eq!(given.is_ok(), device.is_cpu(), "{name}: {given:?}");
    }
}

/// Whatever way rows come in, the corpus is the same, and so is what is found.
#[test]
fn tensors_of_any_type_and_device_are_appended() {
    for (name, device) in devices() {
        for dtype in FLOATS {
            let mut rng = Rng(31);
            let dim = 7;
            let (mut grown, mut whole) = (Corpus::new(device, dtype, dim).unwrap(), Vec::new());
            for (i, n) in [1usize, 40, 3, 90, 1, 1, 200].into_iter().enumerate() {
                let mut values = rng.normals(n * dim);
                if i == 3 {
                    values.iter_mut().for_each(|v| *v *= 1e-12);
                }
                let other = FLOATS[i % 3];
                let host = Tensor::from_f32(&Device::cpu(), other, &[n, dim], &values).unwrap();
                let tensor =
                    if i % 2 == 0 { host.to_device(device).unwrap() } else { host.clone() };
                grown.append_tensor(&tensor).unwrap();
                whole.extend(host.to_dtype(dtype).unwrap().to_f32_vec().unwrap());
            }
            let mut fresh = Corpus::new(device, dtype, dim).unwrap();
            fresh.append(&whole).unwrap();
            let rows: Vec<f32> = grown.chunks().flat_map(|c| c.to_f32_vec().unwrap()).collect();
            assert_eq!(rows, whole, "{name} {dtype}");
            assert!(grown.chunks().len() <= 3, "{name}: {} chunks", grown.chunks().len());
            let queries = Tensor::from_slice(device, &[3, dim], &rng.normals(3 * dim)).unwrap();
            for metric in [Metric::Dot, Metric::Cosine, Metric::L2] {
                let search = Search::new(400);
                let want = topk(&queries, &fresh, metric, &search).unwrap();
                assert_eq!(
                    topk(&queries, &grown, metric, &search).unwrap(),
                    want,
                    "{name} {dtype}"
                );
            }
            let numbers = [335u32, 0, 12, 12, 250, 1];
            let some = grown.gather(&numbers).unwrap();
            assert_eq!((some.dtype(), some.shape()), (dtype, &[6, dim][..]));
            let want: Vec<f32> =
                numbers.iter().flat_map(|&i| &whole[i as usize * dim..][..dim]).copied().collect();
            assert_eq!(some.to_f32_vec().unwrap(), want, "{name} {dtype}");
            let beyond = grown.gather(&[0, 336]).unwrap_err();
            assert!(matches!(beyond, Error::Argument { .. }), "{beyond}");
            assert_eq!(grown.gather(&[]).unwrap().shape(), [0, dim]);
        }
        let codes: Vec<u32> = (0..30).collect();
        let mut corpus = BinaryCorpus::new(device, 96).unwrap();
        corpus.append(&codes[..3]).unwrap();
        let rest = Tensor::from_slice(&Device::cpu(), &[9, 3], &codes[3..]).unwrap();
        corpus.append_tensor(&rest).unwrap();
        let some = corpus.gather(&[9, 0, 1]).unwrap().to_vec::<u32>().unwrap();
        assert_eq!(some, [27, 28, 29, 0, 1, 2, 3, 4, 5], "{name}");
    }
}
