//! The CUDA device itself: transfers, limits, adoption, threads, several devices, faults. What libcuda is may be a GPU's
//! driver or the emulator; what needs faults on demand needs the emulator.

#![cfg(feature = "cuda")]

mod common;
#[path = "common/emulated.rs"]
mod emulated;

use std::ops::Range;
use std::sync::Arc;

use common::{Rng, assert_bits, assert_close, normals};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaSlice};
use emulated::{alone, cuda, emulator};
use nearkin::device::MatmulPrecision;
use nearkin::ops::gemm::{Activation, Epilogue, gemm};
use nearkin::ops::hamming::{self, BinaryCorpus, Queries};
use nearkin::ops::norm::{l2_normalize, layer_norm};
use nearkin::ops::select::{Bitmap, Filter, Hits, Rows, Search};
use nearkin::ops::topk::{Corpus, Metric, Storage, topk};
use nearkin::{DType, Device, DeviceOptions, Error, Tensor, bf16, f16};
use ptx_emulator::client::{Emulator, Fault, Operation};

/// `CUDA_ERROR_LAUNCH_FAILED`.
const LAUNCH_FAILED: u32 = 719;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: u32 = 2;
/// `CUDA_ERROR_INVALID_VALUE`.
const INVALID_VALUE: u32 = 1;

fn bits(tensor: &Tensor) -> Vec<u8> {
    tensor.to_bytes().unwrap()
}

#[test]
fn every_dtype_comes_back_at_odd_sizes() {
    let Some(device) = cuda() else { return };
    fn check<T: nearkin::Element + PartialEq + std::fmt::Debug>(device: &Device, data: &[T]) {
        let n = data.len();
        for shape in [vec![n], vec![n, 1], vec![1, n, 1]] {
            let t = Tensor::from_slice(device, &shape, data).unwrap();
            assert_eq!(t.to_vec::<T>().unwrap(), data, "{n}");
            assert_eq!(pollster::block_on(t.to_vec_async::<T>()).unwrap(), data, "{n} async");
        }
    }
    for n in [0usize, 1, 2, 3, 5, 15, 31, 33, 127, 1023, 65_537] {
        let f = Rng(n as u64).normals(n);
        check(&device, &f);
        check(&device, &f.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>());
        check(&device, &f.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
        check(&device, &f.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        check(&device, &f.iter().map(|x| i64::from(x.to_bits()) << 31).collect::<Vec<_>>());
        let zeros = Tensor::zeros(&device, DType::F16, &[n]).unwrap();
        assert!(bits(&zeros).iter().all(|&b| b == 0), "{n}");
    }
    assert_eq!(device.memory_in_use(), 0);
}

/// The copy is ordered with the call: what happens to the tensor afterwards does not matter.
#[test]
fn async_reads_start_with_the_call() {
    let Some(device) = cuda() else { return };
    let reads: Vec<_> = (0..20u32)
        .map(|i| {
            let data: Vec<u32> = (0..1000).map(|j| i * 1000 + j).collect();
            let read = Tensor::from_slice(&device, &[1000], &data).unwrap().to_vec_async::<u32>();
            (data, read)
        })
        .collect();
    for (data, read) in reads.into_iter().rev() {
        assert_eq!(pollster::block_on(read).unwrap(), data);
    }
    // One that nobody waits for.
    drop(Tensor::zeros(&device, DType::F32, &[1000]).unwrap().to_vec_async::<f32>());
    device.synchronize().unwrap();
}

#[test]
fn a_memory_limit_is_out_of_memory_and_the_device_goes_on() {
    let options = DeviceOptions { memory_limit: Some(1 << 20), ..Default::default() };
    if cuda().is_none() {
        return;
    }
    let device = Device::cuda_with(0, options).unwrap();
    let small = Tensor::zeros(&device, DType::F32, &[1000]).unwrap();
    let error = Tensor::zeros(&device, DType::F32, &[1 << 20]).unwrap_err();
    let Error::OutOfMemory { requested, free, .. } = error else { panic!("{error}") };
    assert_eq!((requested, free), (4 << 20, Some((1 << 20) - 4000)));
    assert_eq!(device.memory_in_use(), 4000);
    drop(small);
    for _ in 0..100 {
        Tensor::zeros(&device, DType::F32, &[200_000]).unwrap();
    }
    assert_eq!(device.memory_in_use(), 0);
}

/// What no GPU has, and what the emulator's or the card's memory cannot hold.
#[test]
fn more_memory_than_there_is_is_out_of_memory() {
    let Some(device) = cuda() else { return };
    let memory = device.cuda_facts().unwrap().memory as usize;
    for bytes in [1usize << 50, 2 * memory] {
        let error = Tensor::zeros(&device, DType::F32, &[bytes / 4]).unwrap_err();
        let Error::OutOfMemory { requested, free, .. } = error else { panic!("{error}") };
        assert_eq!(requested, bytes as u64);
        assert!(free.unwrap() <= memory as u64);
    }
    let x = Tensor::from_slice(&device, &[1, 2], &[3f32, 4.0]).unwrap();
    assert_eq!(l2_normalize(&x, 1e-12).unwrap().to_vec::<f32>().unwrap(), [0.6, 0.8]);
}

/// An allocation that fails is tried once more, when the work before it has given back its memory.
#[test]
fn a_failed_allocation_is_tried_again_and_then_typed() {
    alone("a_failed_allocation_is_tried_again_and_then_typed", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        emulator.set_fault(Fault::nth(Operation::Alloc, 1, OUT_OF_MEMORY));
        Tensor::zeros(&device, DType::F32, &[100]).unwrap();
        let fault =
            Fault::Nth { operation: Operation::Alloc, nth: 1, error: OUT_OF_MEMORY, stays: true };
        emulator.set_fault(fault);
        let error = Tensor::zeros(&device, DType::F32, &[100]).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { requested: 400, .. }), "{error}");
        emulator.clear_faults();
        Tensor::zeros(&device, DType::F32, &[100]).unwrap();
        assert_eq!(device.memory_in_use(), 0);
    });
}

#[test]
fn refused_calls_name_the_operation() {
    alone("refused_calls_name_the_operation", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let x = Tensor::from_slice(&device, &[1, 2], &[3f32, 4.0]).unwrap();
        l2_normalize(&x, 1e-12).unwrap();
        let read = || x.to_vec::<f32>().map(drop);
        let read_async = || pollster::block_on(x.to_vec_async::<f32>()).map(drop);
        type Call<'a> = &'a dyn Fn() -> Result<(), Error>;
        let cases: [(Operation, &str, Call); 5] = [
            (Operation::Launch, "launching norm", &|| l2_normalize(&x, 1e-12).map(drop)),
            (Operation::Copy, "copying from the device", &read),
            (Operation::Copy, "copying from the device", &read_async),
            (Operation::Sync, "waiting for the device", &read),
            (Operation::Copy, "filling memory", &|| {
                Tensor::zeros(&device, DType::F32, &[3]).map(drop)
            }),
        ];
        for (operation, words, call) in cases {
            emulator.set_fault(Fault::nth(operation, 1, INVALID_VALUE));
            let error = call().unwrap_err();
            assert!(matches!(error, Error::Driver { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains(words) && said.contains("CUDA_ERROR_INVALID_VALUE"), "{said}");
            emulator.clear_faults();
            call().unwrap();
        }
        let module = Fault::nth(Operation::Module, 1, INVALID_VALUE);
        emulator.set_fault(module);
        let halves = Tensor::from_f32(&device, DType::F16, &[1, 2], &[3.0, 4.0]).unwrap();
        let error = l2_normalize(&halves, 1e-12).unwrap_err();
        assert!(
            matches!(&error, Error::Compile { kernel, .. } if kernel.contains("norm")),
            "{error}"
        );
        l2_normalize(&halves, 1e-12).unwrap();
        drop((x, halves));
        assert_eq!(device.memory_in_use(), 0);
    });
}

/// An engine's context and stream; its memory as input, our output read by its own copy.
#[test]
fn an_engine_shares_its_context_stream_and_memory() {
    if cuda().is_none() {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let device =
        Device::from_cuda(context.clone(), stream.clone(), DeviceOptions::default()).unwrap();
    let (ours, theirs) = device.as_cuda().unwrap();
    assert!(Arc::ptr_eq(ours, &context) && Arc::ptr_eq(theirs, &stream));

    let slice = Arc::new(stream.clone_htod(&[3f32, 4.0, 0.0, 0.0, 6.0, 8.0]).unwrap());
    let x = Tensor::from_cuda_slice(&device, &[2, 3], slice.clone()).unwrap();
    assert_eq!(device.memory_in_use(), 0, "the memory is not ours");
    let y = l2_normalize(&x, 1e-12).unwrap();
    let mut got = [0f32; 6];
    raw::read(&stream, y.as_cuda_pointer().unwrap(), &mut got);
    assert_eq!(got, [0.6, 0.8, 0.0, 0.0, 0.6, 0.8]);

    // The slice lives as long as the tensor.
    let weak = Arc::downgrade(&slice);
    drop(slice);
    assert!(weak.upgrade().is_some());
    assert_eq!(x.to_vec::<f32>().unwrap()[4], 6.0);
    drop((x, y));
    assert!(weak.upgrade().is_none());

    let short: Arc<CudaSlice<f32>> = Arc::new(stream.alloc_zeros(3).unwrap());
    let error = Tensor::from_cuda_slice(&device, &[4], short.clone()).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let error = Tensor::from_cuda_slice(&Device::cpu(), &[3], short).unwrap_err();
    assert!(matches!(error, Error::NoDevice { .. }), "{error}");
}

/// What needs addresses.
#[allow(unsafe_code)]
mod raw {
    use super::*;
    use cudarc::driver::{CudaStream, DevicePtr};

    /// Six floats through cudarc's own copy.
    pub fn read(stream: &Arc<CudaStream>, pointer: u64, to: &mut [f32; 6]) {
        // SAFETY: the caller's tensor has six floats there, and the wrapper gives the address up before it would free it.
        let view = unsafe { stream.upgrade_device_ptr::<f32>(pointer, 6) };
        stream.memcpy_dtoh(&view, to).unwrap();
        stream.synchronize().unwrap();
        view.leak();
    }

    /// An engine's writes on the device's stream are in the order of the calls; those on another are ordered by events.
    #[test]
    fn operations_and_an_engines_writes_are_in_order() {
        let Some(device) = cuda() else { return };
        let (context, stream) = device.as_cuda().unwrap();
        let other = context.new_stream().unwrap();
        let mut slice = stream.clone_htod(&[3f32, 4.0]).unwrap();
        let start = slice.device_ptr(stream).0;
        // SAFETY: the slice outlives the tensor, and every write is ordered with the stream.
        let x = unsafe { Tensor::from_cuda_pointer(&device, DType::F32, &[1, 2], start) }.unwrap();
        let first = l2_normalize(&x, 1e-12).unwrap();
        let read = x.to_vec_async::<f32>();
        stream.memcpy_htod(&[0f32, 7.0], &mut slice).unwrap();
        let second = l2_normalize(&x, 1e-12).unwrap();
        // The other stream writes behind what was enqueued, and what is enqueued then comes behind the write.
        other.join(stream).unwrap();
        other.memcpy_htod(&[-5f32, 0.0], &mut slice).unwrap();
        stream.join(&other).unwrap();
        let third = l2_normalize(&x, 1e-12).unwrap();
        for (got, want) in [(first, [0.6, 0.8]), (second, [0.0, 1.0]), (third, [-1.0, 0.0])] {
            assert_eq!(got.to_vec::<f32>().unwrap(), want);
        }
        assert_eq!(pollster::block_on(read).unwrap(), [3.0, 4.0]);
        drop(slice);
    }

    #[test]
    fn addresses_are_checked() {
        let Some(device) = cuda() else { return };
        let stream = device.as_cuda().unwrap().1.clone();
        let slice = stream.clone_htod(&[3f32, 4.0, 0.0, 0.0, 6.0, 8.0, 0.0, 2.0]).unwrap();
        let start = slice.device_ptr(&stream).0;
        let made = |pointer, n: usize| {
            // SAFETY: the slice outlives the tensor, and addresses that are not its own are refused.
            unsafe { Tensor::from_cuda_pointer(&device, DType::F32, &[n], pointer) }
        };
        assert_eq!(made(start, 6).unwrap().to_vec::<f32>().unwrap(), [3., 4., 0., 0., 6., 8.]);
        assert_eq!(made(start + 16, 4).unwrap().to_vec::<f32>().unwrap(), [6., 8., 0., 2.]);
        assert!(made(start, 0).unwrap().to_vec::<f32>().unwrap().is_empty());
        assert_eq!(device.memory_in_use(), 0);

        let error = made(start + 4, 1).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "misaligned: {error}");
        for (what, pointer) in [("null", 0), ("not the driver's", 0x10), ("absurd", !15)] {
            let error = made(pointer, 1).unwrap_err();
            assert!(matches!(error, Error::Driver { .. }), "{what}: {error}");
            assert!(error.to_string().contains("looking up the address"), "{what}: {error}");
        }
        // A pool may round an allocation up, but not to this.
        for n in [1 << 30, usize::MAX >> 6] {
            let error = made(start, n).unwrap_err();
            assert!(matches!(error, Error::Driver { .. }), "too small for {n}: {error}");
        }
        // SAFETY: it is refused.
        let error = unsafe { Tensor::from_cuda_pointer(&Device::cpu(), DType::F32, &[1], start) };
        assert!(matches!(error, Err(Error::NoDevice { .. })));
    }
}

/// Two layers' worth of kernels on data drawn from a seed.
fn work(device: &Device, seed: u64) -> Tensor {
    let rng = &mut Rng(seed);
    let (x, _) = normals(device, DType::F32, &[9, 64], rng);
    let (w, _) = normals(device, DType::F32, &[64, 64], rng);
    let (gain, _) = normals(device, DType::F32, &[64], rng);
    let mut y = x;
    for _ in 0..3 {
        // What each step reads is dropped while the step may still be running.
        y = gemm(&y, &w, &Epilogue::default()).unwrap();
        y = layer_norm(&y, None, &gain, None, 1e-5).unwrap();
    }
    y
}

#[test]
fn tensors_may_be_dropped_while_kernels_use_them() {
    let Some(device) = cuda() else { return };
    let want: Vec<f64> =
        work(&Device::cpu(), 1).to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
    let results: Vec<Tensor> = (0..5).map(|_| work(&device, 1)).collect();
    let first = bits(&results[0]);
    for y in &results {
        assert_eq!(bits(y), first);
    }
    assert_close("work", &results[0].to_vec::<f32>().unwrap(), &want, |_| 1e-3);
    drop(results);
    assert_eq!(device.memory_in_use(), 0);
}

#[test]
fn two_threads_on_one_device_give_the_same_bits() {
    let Some(device) = cuda() else { return };
    let want: Vec<Vec<u8>> = (0..2).map(|seed| bits(&work(&device, seed))).collect();
    std::thread::scope(|scope| {
        for (seed, want) in want.iter().enumerate() {
            let device = &device;
            scope.spawn(move || {
                for i in 0..10 {
                    assert_eq!(&bits(&work(device, seed as u64)), want, "{seed}, {i}");
                }
            });
        }
    });
}

/// As when a thread opens a device while an encoder of another records its forward pass.
#[test]
fn a_device_opens_and_works_while_another_thread_records_a_graph() {
    alone("a_device_opens_and_works_while_another_thread_records_a_graph", &[], || {
        let Some(device) = cuda() else { return };
        let want = bits(&work(&device, 8));
        let (context, _) = device.as_cuda().unwrap();
        let stream = context.new_stream().unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let second = Device::cuda(0).unwrap();
                assert_eq!(bits(&work(&second, 8)), want);
                second.synchronize().unwrap();
            });
        });
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        assert!(graph.is_ok(), "the recording was broken: {:?}", graph.err());
    });
}

/// Products of many rows run on Hopper's own instructions, in two ways, those of few do not.
#[test]
fn products_on_hopper_do_not_depend_on_their_rows() {
    let name = "products_on_hopper_do_not_depend_on_their_rows";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some(device) = cuda() else { return };
        let emulator = emulator();
        let (m, n, k) = (1030, 1032, 72);
        for dtype in [DType::BF16, DType::F16] {
            let rng = &mut Rng(7);
            let (a, values) = normals(&device, dtype, &[m, k], rng);
            let (b, _) = normals(&device, dtype, &[n, k], rng);
            let (bias, _) = normals(&device, DType::F32, &[n], rng);
            let activation = Activation::Gelu;
            let epilogue = Epilogue { bias: Some(&bias), activation, ..Epilogue::default() };
            let mark = emulator.as_ref().map(Emulator::mark);
            let all = gemm(&a, &b, &epilogue).unwrap().to_vec::<f32>().unwrap();
            if let Some((emulator, mark)) = emulator.as_ref().zip(mark) {
                let launches = emulator.launches_since(mark);
                assert!(launches.iter().any(|l| l.kernel == "gemm_tma"), "{launches:?}");
            }
            // A rare activation keeps the product off these kernels.
            let rare = Epilogue { activation: Activation::LeakyRelu, ..epilogue };
            let mark = emulator.as_ref().map(Emulator::mark);
            let leaky = gemm(&a, &b, &rare).unwrap().to_vec::<f32>().unwrap();
            if let Some((emulator, mark)) = emulator.as_ref().zip(mark) {
                let launches = emulator.launches_since(mark);
                assert!(launches.iter().all(|l| l.kernel == "gemm"), "{launches:?}");
            }
            let none = Epilogue { activation: Activation::None, ..epilogue };
            let linear = gemm(&a, &b, &none).unwrap().to_vec::<f32>().unwrap();
            let want: Vec<f32> =
                linear.iter().map(|&x| if x < 0.0 { 0.1 * x } else { x }).collect();
            assert_bits(&format!("{dtype}: leaky"), &leaky, &want);
            // The same rows as a batch of matrices of which each begins the residual anew.
            let nothing = Tensor::zeros(&device, DType::F32, &[m / 2, n]).unwrap();
            let batch = a.reshape(&[2, m / 2, k]).unwrap();
            let anew = Epilogue { residual: Some(&nothing), ..epilogue };
            let mark = emulator.as_ref().map(Emulator::mark);
            let halves = gemm(&batch, &b, &anew).unwrap().to_vec::<f32>().unwrap();
            if let Some((emulator, mark)) = emulator.as_ref().zip(mark) {
                let launches = emulator.launches_since(mark);
                assert!(launches.iter().any(|l| l.kernel == "gemm_wgmma"), "{launches:?}");
            }
            assert!(halves == all, "{dtype}: as a batch");
            for first in [0, 500, m - 16] {
                let rows: Vec<f32> =
                    values[first * k..(first + 16) * k].iter().map(|&x| x as f32).collect();
                let few = Tensor::from_f32(&device, dtype, &[16, k], &rows).unwrap();
                let few = gemm(&few, &b, &epilogue).unwrap().to_vec::<f32>().unwrap();
                let want = &all[first * n..(first + 16) * n];
                assert_bits(&format!("{dtype}: rows from {first} on"), &few, want);
            }
        }
        assert!(emulator.is_none_or(|e| e.reports().is_empty()));
    });
}

/// The types of queries and of the corpus; queries, rows of chunks, dimensions; k; whether some are not finite, and whether rows
/// are all alike; how many of the searches below.
type Many = (DType, Storage, Metric, usize, &'static [usize], usize, usize, bool, bool, usize);

/// Many queries are searched on Hopper's own instructions and find, bit for bit, what few find with lists.
#[test]
fn searches_on_hopper_do_not_depend_on_their_queries() {
    use DType::{BF16, F16, F32};
    use Metric::{Cosine, Dot};
    const CASES: [Many; 5] = [
        (BF16, Storage::BF16, Dot, 40, &[16_500], 72, 10, false, false, 3),
        (F16, Storage::F16, Cosine, 130, &[16_400], 40, 1, true, false, 3),
        (F32, Storage::BF16, Cosine, 140, &[14_500, 2_600], 40, 5, true, false, 2),
        (BF16, Storage::BF16, Cosine, 33, &[16_390], 520, 3, false, false, 1),
        (F16, Storage::F16, Dot, 34, &[51_300], 8, 12, false, true, 1),
    ];
    many_find_what_few_find("searches_on_hopper_do_not_depend_on_their_queries", &CASES);
}

/// The same where tensor cores only bound scores.
#[test]
fn searches_by_bounds_on_hopper_do_not_depend_on_their_queries() {
    use DType::{BF16, F16, F32};
    use Metric::{Cosine, Dot, L2};
    const CASES: [Many; 11] = [
        (F32, Storage::F32, Dot, 40, &[16_500], 52, 10, true, false, 3),
        (F32, Storage::F32, Cosine, 130, &[14_500, 2_600], 40, 5, true, false, 3),
        (F32, Storage::F32, L2, 30, &[16_400], 36, 3, true, false, 3),
        (F32, Storage::F32, L2, 17, &[16_390], 260, 3, false, false, 1),
        (F32, Storage::F32, L2, 34, &[51_300], 8, 12, false, true, 1),
        (F32, Storage::F16, Cosine, 17, &[16_390], 520, 4, false, false, 1),
        (F32, Storage::F16, Dot, 17, &[16_500], 72, 10, false, false, 2),
        (F16, Storage::F16, L2, 40, &[16_500], 72, 10, false, false, 2),
        (BF16, Storage::BF16, L2, 18, &[16_500], 24, 10, true, false, 2),
        (F32, Storage::Int8, Cosine, 40, &[14_500, 2_600], 208, 10, true, false, 3),
        (BF16, Storage::Int8, Dot, 140, &[16_400], 64, 5, false, false, 3),
    ];
    many_find_what_few_find("searches_by_bounds_on_hopper_do_not_depend_on_their_queries", &CASES);
}

fn many_find_what_few_find(name: &str, cases: &[Many]) {
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some(device) = cuda() else { return };
        let emulator = emulator();
        for &(asked, storage, metric, queries, chunks, dim, k, odd, alike, searches) in cases {
            let stored = match storage {
                Storage::F16 => DType::F16,
                Storage::BF16 => DType::BF16,
                _ => DType::F32,
            };
            let what =
                format!("{queries} {asked}, {chunks:?} x {dim} {storage}, {metric:?}, k {k}");
            let rng = &mut Rng(queries as u64);
            let n: usize = chunks.iter().sum();
            let mut rows = rng.normals(n * dim);
            // Rows that tie, a long one, and one that is divided where the type has room for it.
            rows.copy_within(0..dim, 700 * dim);
            let longer = if storage == Storage::BF16 && !odd { 1e30 } else { 1.0 };
            for (row, times) in [(5, 16.0), (13, longer)] {
                rows[row * dim..(row + 1) * dim].iter_mut().for_each(|x| *x *= times);
            }
            if odd {
                rows[9 * dim + 3] = f32::NAN;
                rows[11 * dim + 7] = f32::INFINITY;
            }
            if alike {
                (1..n).for_each(|row| rows.copy_within(0..dim, row * dim));
            }
            let mut corpus: Option<Corpus> = None;
            let mut first = 0;
            for chunk in chunks {
                let some = &rows[first * dim..(first + chunk) * dim];
                let some = Tensor::from_f32(&device, stored, &[*chunk, dim], some).unwrap();
                match &mut corpus {
                    None => corpus = Some(Corpus::from_tensor(&some).unwrap()),
                    Some(corpus) => corpus.append_tensor(&some).unwrap(),
                }
                first += chunk;
            }
            let corpus = corpus.unwrap().to_storage(storage).unwrap();
            let mut values = rng.normals(queries * dim);
            if odd {
                values[2 * dim + 1] = f32::NAN;
                values[4 * dim + 1] = f32::NEG_INFINITY;
            }
            let all = Tensor::from_f32(&device, asked, &[queries, dim], &values).unwrap();
            let bias: Vec<f32> = rng.normals(n);
            let bias = Tensor::from_slice(&device, &[n], &bias).unwrap();
            // Of two chunks the first as a whole.
            let whole = if chunks.len() > 1 { 0..chunks[0] } else { 2000..9000 };
            let some = Bitmap::from_fn(n, |row| row % 3 == 0 || whole.contains(&row));
            let shared = Filter::Shared(Rows::Exclude(&some));
            let least = Some(if metric == Metric::L2 { -2.0 * dim as f32 } else { 0.1 });
            let all_searches = [
                Search::new(k),
                Search { filter: shared, least, ..Search::new(k) },
                Search { bias: Some(&bias), ..Search::new(k) },
            ];
            for search in &all_searches[..searches] {
                let mark = emulator.as_ref().map(Emulator::mark);
                let hits = topk(&all, &corpus, metric, search).unwrap();
                if let Some((emulator, mark)) = emulator.as_ref().zip(mark) {
                    let launches = emulator.launches_since(mark);
                    let products = |kernel: &str| -> u64 {
                        let of = launches.iter().filter(|l| l.kernel == kernel);
                        of.map(|l| l.counts.tensor_multiply_adds).sum()
                    };
                    // All rows meet all queries once, in whole tiles, behind a sample of a quarter at most.
                    let tiles: usize = chunks.iter().map(|rows| rows.div_ceil(128)).sum();
                    let rows_of_tiles = if queries > 128 { 256 } else { 128 };
                    let (is_rough, size) = match storage {
                        Storage::Int8 => (true, 1),
                        Storage::F32 => (true, 4),
                        Storage::F16 => (asked == DType::F32 || metric == Metric::L2, 2),
                        _ => (metric == Metric::L2, 2),
                    };
                    let parts = if asked == stored || is_rough { 1 } else { 3 };
                    let padded = queries.next_multiple_of(rows_of_tiles) * 128;
                    let width = dim.next_multiple_of(128 / size);
                    let tile = (parts * padded * width) as u64;
                    let kernel = if is_rough { "topk_rough" } else { "topk_wgmma" };
                    let formed = products(kernel);
                    assert!(formed.is_multiple_of(tile), "{what}");
                    let skipped = if search.least.is_some() { whole.len() / 128 } else { 0 };
                    let most = tiles + tiles / 4;
                    let least = (tiles - skipped) + (tiles - skipped) / 8;
                    assert!((least..=most).contains(&((formed / tile) as usize)), "{what}");
                    let scans = launches.iter().filter(|l| l.kernel == kernel);
                    let conflicts: u64 = scans.map(|l| l.counts.shared.conflicts()).sum();
                    assert_eq!(conflicts, 0, "{what}: bank conflicts");
                    // Lists are kept only where there was no room, as when all rows score the same.
                    let lists =
                        launches.iter().filter(|l| ["topk", "topk_mma"].contains(&&*l.kernel));
                    let read: u64 = lists.map(|l| 32 * l.counts.global.cold_read_sectors).sum();
                    let again = read >= (n * dim * size) as u64;
                    assert!(again == alike || odd, "{what}");
                    assert!(emulator.reports().is_empty(), "{what}");
                }
                // Some with the first, of which some may not be finite, and some with the last.
                for (start, end) in [(0, 6), (queries - 3, queries)] {
                    let some = &values[start * dim..end * dim];
                    let some = Tensor::from_f32(&device, asked, &[end - start, dim], some).unwrap();
                    let want = topk(&some, &corpus, metric, search).unwrap();
                    for q in start..end {
                        let (ids, scores) = hits.get(q);
                        let (wanted, best) = want.get(q - start);
                        assert_eq!(ids, wanted, "{what}: query {q}");
                        assert_bits(&format!("{what}: query {q}"), scores, best);
                    }
                }
            }
        }
    });
}

/// Tensor cores cut f32 to tf32. The best row is one whose product comes out below that of a row which bounds the search.
#[test]
fn what_hopper_cuts_is_found_nevertheless() {
    alone("what_hopper_cuts_is_found_nevertheless", &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some(device) = cuda() else { return };
        let emulator = emulator();
        let (queries, n, dim) = (40, 16_400, 32);
        // It is cut to 1.
        let cut = f32::from_bits(1f32.to_bits() | 0x1fff);
        let but_last = |x: f32, last: f32| [vec![x; dim - 1], vec![last]].concat();
        for (metric, bounds, best) in [
            (Metric::Dot, but_last(1.0, 1.02), but_last(cut, 0.995)),
            (Metric::Cosine, but_last(1.0, 0.5), but_last(cut, 0.51)),
            (Metric::L2, vec![1.02; dim], vec![cut; dim]),
        ] {
            let mut rows: Vec<f32> = Rng(3).normals(n * dim).iter().map(|x| 0.1 * x).collect();
            // The first tile is in every sample, the second in none of one tile in four.
            rows[..dim].copy_from_slice(&bounds);
            rows[200 * dim..201 * dim].copy_from_slice(&best);
            let rows = Tensor::from_slice(&device, &[n, dim], &rows).unwrap();
            let corpus = Corpus::from_tensor(&rows).unwrap();
            let asked = vec![1f32; queries * dim];
            let asked = Tensor::from_slice(&device, &[queries, dim], &asked).unwrap();
            let mark = emulator.as_ref().map(Emulator::mark);
            let hits = topk(&asked, &corpus, metric, &Search::new(1)).unwrap();
            for q in 0..queries {
                assert_eq!(hits.get(q).0, [200], "{metric:?}");
            }
            if let Some((emulator, mark)) = emulator.as_ref().zip(mark) {
                let launches = emulator.launches_since(mark);
                let scans = launches.iter().filter(|l| l.kernel == "topk_rough");
                assert_eq!(scans.count(), 2, "{metric:?}");
            }
        }
    });
}

/// Inverse lengths that an engine gives may be anything: scores that do not need them are those without.
#[test]
fn lengths_that_were_given_bound_nothing_on_hopper() {
    let name = "lengths_that_were_given_bound_nothing_on_hopper";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some(device) = cuda() else { return };
        let (queries, n, dim, k) = (20, 16_400, 32, 5);
        let rng = &mut Rng(4);
        let (rows, _) = normals(&device, DType::F32, &[n, dim], rng);
        let (asked, _) = normals(&device, DType::F32, &[queries, dim], rng);
        let given = Tensor::from_slice(&device, &[n], &vec![1e6f32; n]).unwrap();
        let measured = Corpus::from_tensor(&rows).unwrap();
        let mut given = Corpus::from_tensor_with_lengths(&rows, &given).unwrap();
        for metric in [Metric::Dot, Metric::L2] {
            let hits = |corpus: &Corpus| topk(&asked, corpus, metric, &Search::new(k)).unwrap();
            let (of_given, want) = (hits(&given), hits(&measured));
            // Merged and picked rows keep them.
            let picked: Vec<u32> = (0..n as u32).collect();
            let mut merged = given.clone();
            merged.append_tensor(&given.gather(&picked[..10]).unwrap()).unwrap();
            merged.retain(|row| row < n).unwrap();
            let of_merged = hits(&merged);
            for q in 0..queries {
                assert_eq!(of_given.get(q), want.get(q), "{metric:?}, query {q}");
                assert_eq!(of_merged.get(q), want.get(q), "{metric:?}, query {q}, merged");
            }
        }
        given.refresh().unwrap();
        let emulator = emulator();
        let mark = emulator.as_ref().map(Emulator::mark);
        topk(&asked, &given, Metric::Dot, &Search::new(k)).unwrap();
        if let Some((emulator, mark)) = emulator.as_ref().zip(mark) {
            let launches = emulator.launches_since(mark);
            assert!(launches.iter().any(|l| l.kernel == "topk_rough"), "{launches:?}");
        }
    });
}

/// Hopper's tensor cores count bits of and; distances are those of the CPU.
#[test]
fn codes_on_hopper_have_the_distances_of_others() {
    let name = "codes_on_hopper_have_the_distances_of_others";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some(device) = cuda() else { return };
        let (emulator, cpu) = (emulator(), Device::cpu());
        for (n, words, queries, k) in [
            (700, 1, 5, 10),
            (129, 3, 33, 1),
            (64, 8, 20, 70),
            (300, 9, 7, 10),
            (200, 20, 17, 100),
            (1000, 33, 32, 300),
            (520, 64, 6, 520),
        ] {
            let rng = &mut Rng(n as u64);
            let mut codes = |n: usize| (0..n * words).map(|_| rng.next() as u32).collect();
            let (rows, asked): (Vec<u32>, Vec<u32>) = (codes(n), codes(queries));
            let hits = |device: &Device| {
                let rows = Tensor::from_slice(device, &[n, words], &rows).unwrap();
                let asked = Tensor::from_slice(device, &[queries, words], &asked).unwrap();
                let corpus = BinaryCorpus::from_tensor(&rows).unwrap();
                hamming::topk(Queries::Codes(&asked), &corpus, &Search::new(k)).unwrap()
            };
            let mark = emulator.as_ref().map(Emulator::mark);
            let (got, want) = (hits(&device), hits(&cpu));
            for q in 0..queries {
                let what = format!("{n} x {words} words, query {q} of {queries}, k {k}");
                assert_eq!(got.get(q), want.get(q), "{what}");
            }
            if let Some((emulator, mark)) = emulator.as_ref().zip(mark) {
                let launches = emulator.launches_since(mark);
                let scan = launches.iter().find(|l| l.kernel == "hamming").unwrap();
                // Rows, queries and bits are padded to a tile's.
                let tile = if k > 64 && k <= 256 { 16 } else { 32 };
                let rows = n.next_multiple_of(64) * queries.next_multiple_of(tile);
                let products = rows * 32 * words.next_multiple_of(8);
                assert_eq!(scan.counts.tensor_multiply_adds, products as u64);
                assert!(emulator.reports().is_empty());
            }
        }
    });
}

/// Codes that are searched, and what excludes some and adds to others.
struct Codes {
    words: usize,
    chunks: Vec<usize>,
    rows: Vec<u32>,
    asked: Vec<u32>,
    bias: Vec<f32>,
    /// Rows that the filter excludes, beside every third.
    whole: Range<usize>,
}

impl Codes {
    /// Random codes in chunks of the given sizes. Some rows tie; all do if `alike`.
    fn new(queries: usize, chunks: &[usize], words: usize, alike: bool) -> Codes {
        let rng = &mut Rng(queries as u64);
        let n: usize = chunks.iter().sum();
        let mut codes =
            |n: usize| -> Vec<u32> { (0..n * words).map(|_| rng.next() as u32).collect() };
        let (mut rows, mut asked) = (codes(n), codes(queries));
        // Rows that tie, those without bits and with all of them, and one that is asked for.
        rows.copy_within(0..words, 700 * words);
        rows[3 * words..4 * words].fill(0);
        rows[5 * words..6 * words].fill(u32::MAX);
        asked[..words].copy_from_slice(&rows[9 * words..10 * words]);
        if queries > 1 {
            asked[words..2 * words].fill(0);
        }
        if alike {
            (1..n).for_each(|row| rows.copy_within(0..words, row * words));
        }
        let mut bias: Vec<f32> = rng.normals(n).iter().map(|x| 4.0 * x).collect();
        bias[11] = f32::NAN;
        bias[12] = f32::INFINITY;
        bias[13] = f32::NEG_INFINITY;
        let whole = if chunks.len() > 1 { 0..chunks[0] } else { 2000..9000 };
        Codes { words, chunks: chunks.to_vec(), rows, asked, bias, whole }
    }

    /// What the search of this number finds, of four: with rows excluded where it is odd, with a bias from the second on.
    fn hits(&self, device: &Device, k: usize, number: usize) -> Hits {
        let Codes { words, rows, asked, bias, whole, .. } = self;
        let mut corpus = BinaryCorpus::new(device, 32 * words).unwrap();
        let mut first = 0;
        for chunk in &self.chunks {
            let some = &rows[first * words..(first + chunk) * words];
            let some = Tensor::from_slice(device, &[*chunk, *words], some).unwrap();
            corpus.append_tensor(&some).unwrap();
            first += chunk;
        }
        let shape = [asked.len() / words, *words];
        let asked = Tensor::from_slice(device, &shape, asked).unwrap();
        let bias = Tensor::from_slice(device, &[bias.len()], bias).unwrap();
        let some = Bitmap::from_fn(first, |row| row % 3 == 0 || whole.contains(&row));
        let filter = Filter::Shared(Rows::Exclude(&some));
        let least = Some(-14.0 * *words as f32);
        let search = match number {
            0 => Search::new(k),
            1 => Search { filter, least, ..Search::new(k) },
            2 => Search { bias: Some(&bias), ..Search::new(k) },
            _ => Search { bias: Some(&bias), filter, ..Search::new(k) },
        };
        hamming::topk(Queries::Codes(&asked), &corpus, &search).unwrap()
    }
}

/// A few codes are compared as they come from memory. Tiles of all heights, queries that do not fill a block, lists without room.
#[test]
fn a_few_codes_find_what_others_find() {
    let Some(device) = cuda() else { return };
    let cpu = Device::cpu();
    for (queries, chunks, words, k, alike) in [
        (1, &[10_000][..], 1, 10, false),
        (2, &[9_001], 2, 64, false),
        (3, &[9_500, 2_100], 3, 65, false),
        (4, &[10_240], 4, 256, false),
        (1, &[9_999], 5, 1, false),
        (4, &[10_000], 7, 100, false),
        (1, &[17_000], 8, 10, false),
        (4, &[9_200, 1_025], 12, 10, false),
        (2, &[10_000], 32, 40, false),
        (3, &[9_100], 36, 256, false),
        (1, &[9_300], 65, 10, false),
        (1, &[10_000], 8, 20, true),
        (4, &[9_001, 3_000], 6, 100, true),
    ] {
        let what = format!("{queries} codes, {chunks:?} x {words} words, k {k}");
        let codes = Codes::new(queries, chunks, words, alike);
        for number in 0..4 {
            let (got, want) = (codes.hits(&device, k, number), codes.hits(&cpu, k, number));
            for q in 0..queries {
                assert_eq!(got.get(q), want.get(q), "{what}: search {number}, query {q}");
            }
        }
    }
}

/// Many codes are searched on Hopper's own instructions and find what the CPU finds.
#[test]
fn many_codes_on_hopper_find_what_others_find() {
    let name = "many_codes_on_hopper_find_what_others_find";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some(device) = cuda() else { return };
        let (emulator, cpu) = (emulator(), Device::cpu());
        // Queries, rows of chunks, words; k; whether rows are all alike; how many of the searches below.
        for (queries, chunks, words, k, alike, searches) in [
            (40, &[16_500][..], 8, 10, false, 4),
            (130, &[14_500, 2_600], 32, 5, false, 3),
            (300, &[16_390], 20, 1, false, 2),
            (33, &[16_400], 4, 16, false, 2),
            (17, &[16_400], 260, 3, false, 1),
            (34, &[51_300], 4, 12, true, 2),
        ] {
            let what = format!("{queries} codes, {chunks:?} x {words} words, k {k}");
            let codes = Codes::new(queries, chunks, words, alike);
            let whole = codes.whole.clone();
            for number in 0..searches {
                let mark = emulator.as_ref().map(Emulator::mark);
                let (got, want) = (codes.hits(&device, k, number), codes.hits(&cpu, k, number));
                for q in 0..queries {
                    assert_eq!(got.get(q), want.get(q), "{what}: search {number}, query {q}");
                }
                let Some((emulator, mark)) = emulator.as_ref().zip(mark) else { continue };
                let launches = emulator.launches_since(mark);
                let products = |kernel: &str| -> u64 {
                    let of = launches.iter().filter(|l| l.kernel == kernel);
                    of.map(|l| l.counts.tensor_multiply_adds).sum()
                };
                // All rows meet all queries once, in whole tiles, and eight more that count the rows' bits, behind a sample of a
                // quarter at most; queries' bits are counted by each block.
                let tiles: usize = chunks.iter().map(|rows| rows.div_ceil(128)).sum();
                let blocks = if queries > 128 { 2 * queries.div_ceil(256) } else { 1 };
                let bits = 32 * words.next_multiple_of(if words > 32 { 32 } else { 8 });
                let bits = if words <= 32 { bits.next_power_of_two() } else { bits };
                let tile = (blocks * (128 + 8) * 128 * bits) as u64;
                let formed = products("hamming_wgmma");
                let skipped = if number % 2 == 1 { whole.len() / 128 } else { 0 };
                let most = tiles + tiles / 3;
                let least = (tiles - skipped) + (tiles - skipped) / 8;
                assert!((least..=most).contains(&((formed / tile) as usize)), "{what}");
                let scans = launches.iter().filter(|l| l.kernel == "hamming_wgmma");
                let conflicts: u64 = scans.map(|l| l.counts.shared.conflicts()).sum();
                assert_eq!(conflicts, 0, "{what}: bank conflicts");
                // Lists are kept only where there was no room, as when all rows score the same.
                assert_eq!(products("hamming") > 0, alike, "{what}, search {number}");
                assert!(emulator.reports().is_empty(), "{what}");
            }
        }
    });
}

/// What an NVIDIA H100 gave: how its tensor cores add is the emulator's rule for its architecture.
#[test]
fn an_emulated_hopper_adds_as_an_h100() {
    alone("an_emulated_hopper_adds_as_an_h100", &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        use DType::{BF16, F16, F32};
        use MatmulPrecision::{Highest, Medium, Tf32};
        if emulator().is_none() {
            return;
        }
        let (k, n) = (384, 1536);
        let scale = (k as f32).sqrt();
        let w: Vec<f32> = Rng(2).normals(n * k).iter().map(|w| w / scale).collect();
        let rounded = [0xbfad2abf, 0x3f2238e4, 0x3fa87f38, 0x3e8c0776, 0x3f48b3f2, 0xbc6b3060];
        let halves = [0xbfad9804, 0x3f229688, 0x3fa89e45, 0x3e8b42de, 0x3f47d6a8, 0xbc6570a2];
        let tf32 = [0xbfad9800, 0x3f229685, 0x3fa89e40, 0x3e8b42e0, 0x3f47d699, 0xbc6570b4];
        let parts = [0xbfad6b44, 0x3f227240, 0x3fa88a9d, 0x3e8c03f0, 0x3f488852, 0xbc6ee119];
        for (a, b, matmul_precision, want) in [
            (BF16, BF16, Highest, rounded),
            (F32, BF16, Medium, rounded),
            (F16, F16, Highest, halves),
            (F32, F32, Tf32, tf32),
            (F32, BF16, Highest, parts),
        ] {
            let options = DeviceOptions { matmul_precision, ..Default::default() };
            let device = Device::cuda_with(0, options).unwrap();
            // The H100 was given rounded tf32; Hopper's kernels cut.
            let enters = |x: &f32| match matmul_precision {
                Tf32 => f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000),
                _ => *x,
            };
            let enter = |values: &[f32]| -> Vec<f32> { values.iter().map(enters).collect() };
            let x = Tensor::from_f32(&device, a, &[1, k], &enter(&Rng(1).normals(k))).unwrap();
            let w = Tensor::from_f32(&device, b, &[n, k], &enter(&w)).unwrap();
            let y = gemm(&x, &w, &Epilogue::default()).unwrap().to_vec::<f32>().unwrap();
            let got: Vec<u32> = y[..want.len()].iter().map(|y| y.to_bits()).collect();
            assert_eq!(got, want, "{a} by {b}, {matmul_precision:?}");
        }
    });
}

const TWO: (&str, &str) = ("PTX_EMULATOR_DEVICES", "sm_80,sm_90");

fn two() -> Option<[Device; 2]> {
    match (cuda()?, Device::cuda(1)) {
        (first, Ok(second)) => Some([first, second]),
        (_, Err(e)) => {
            assert!(emulator().is_none(), "the emulator was asked for two devices: {e}");
            eprintln!("skipped: {e}");
            None
        }
    }
}

#[test]
fn two_devices_work_at_once() {
    alone("two_devices_work_at_once", &[TWO], || {
        let Some(devices) = two() else { return };
        let want = bits(&work(&devices[0], 3));
        std::thread::scope(|scope| {
            for device in &devices {
                let want = &want;
                scope.spawn(move || {
                    for _ in 0..5 {
                        assert_eq!(&bits(&work(device, 3)), want);
                    }
                });
            }
        });
        // In turns on one thread, which changes its context each time.
        let [first, second] = &devices;
        let [x, y] = [work(first, 4), work(second, 4)];
        assert_eq!(bits(&x), bits(&y));
        let weight = Tensor::zeros(second, DType::F32, &[64]).unwrap();
        let error = layer_norm(&x, None, &weight, None, 1e-5).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        drop((x, y, weight));
        let error = Device::cuda(2).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }), "{error}");
    });
}

#[test]
fn a_lost_device_is_a_typed_error_and_the_others_go_on() {
    alone("a_lost_device_is_a_typed_error_and_the_others_go_on", &[TWO], || {
        let Some(devices) = two() else { return };
        let Some(emulator) = emulator() else { return };
        let [first, second] = devices;
        let want = bits(&work(&first, 5));
        let kept = work(&first, 6);
        emulator.set_fault(Fault::nth(Operation::Launch, 1, LAUNCH_FAILED));
        // The kernel fails while it runs; the call that waits says so.
        let x = Tensor::from_slice(&first, &[1, 2], &[3f32, 4.0]).unwrap();
        let y = l2_normalize(&x, 1e-12).unwrap();
        let error = y.to_vec::<f32>().unwrap_err();
        assert!(
            matches!(&error, Error::DeviceLost { reason, .. }
            if reason.contains("CUDA_ERROR_LAUNCH_FAILED")),
            "{error}"
        );
        // So does everything after it.
        let later = [
            kept.to_vec::<f32>().map(drop),
            pollster::block_on(kept.to_vec_async::<f32>()).map(drop),
            Tensor::zeros(&first, DType::F32, &[4]).map(drop),
            first.synchronize(),
        ];
        for (i, result) in later.into_iter().enumerate() {
            assert!(matches!(result, Err(Error::DeviceLost { .. })), "{i}: {result:?}");
        }
        assert_eq!(bits(&work(&second, 5)), want);
        // Dropped and opened again, it is a new device.
        drop((x, y, kept, first));
        let again = Device::cuda(0).unwrap();
        assert_eq!(bits(&work(&again, 5)), want);
        drop((again, second));
        assert_eq!(emulated::leaks(&emulator), []);
    });
}

#[test]
fn nothing_is_left_when_a_device_is_dropped() {
    alone("nothing_is_left_when_a_device_is_dropped", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let kept = work(&device, 7);
        let read = kept.to_vec_async::<f32>();
        // A tensor keeps its device.
        drop(device);
        assert_eq!(kept.to_vec::<f32>().unwrap(), pollster::block_on(read).unwrap());
        drop(kept);
        assert_eq!(emulated::leaks(&emulator), []);
        assert_eq!(emulator.reports(), []);
    });
}

#[test]
fn without_a_driver_the_error_says_so_and_the_choice_moves_on() {
    let settings = [("LD_LIBRARY_PATH", "")];
    alone("without_a_driver_the_error_says_so_and_the_choice_moves_on", &settings, || {
        match Device::cuda(0) {
            Ok(device) => eprintln!("skipped: this machine has a driver, and {device:?}"),
            Err(error) => {
                assert!(matches!(&error, Error::NoDevice { backend, .. } if backend == "cuda:0"));
                // No driver, or one that has no device to show.
                let said = error.to_string();
                let reasons = [
                    "NVIDIA's driver is not installed (libcuda.so",
                    "the driver did not start: CUDA_ERROR_NO_DEVICE",
                    "the driver is there, but sees no GPU",
                ];
                assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}");
                assert_ne!(Device::best().kind(), "cuda");
                assert!(Device::all().iter().all(|d| d.backend != "cuda"));
                let error = Device::by_name("cuda:1").unwrap_err();
                assert!(matches!(error, Error::NoDevice { .. }), "{error}");
            }
        }
    });
}

#[test]
fn the_choice_passes_over_an_emulated_gpu() {
    let Some(device) = cuda() else { return };
    let facts = device.cuda_facts().unwrap();
    assert_eq!(facts.emulated, ptx_emulator::client::Emulator::attach().is_some());
    let info = Device::all().into_iter().find(|d| d.id == "cuda:0").unwrap();
    assert_eq!(info.kind == "software", facts.emulated);
    assert_eq!(Device::best().kind() == "cuda", !facts.emulated);
}

/// After a sticky error nothing more is executed: who waits is woken all the same, with the error.
#[test]
fn a_sticky_error_wakes_who_waits() {
    alone("a_sticky_error_wakes_who_waits", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let x = Tensor::from_slice(&device, &[1, 2], &[3f32, 4.0]).unwrap();
        emulator.set_fault(Fault::nth(Operation::Launch, 1, LAUNCH_FAILED));
        let y = l2_normalize(&x, 1e-12).unwrap();
        // Neither the launch nor the copy says so.
        let (read, done) = (y.to_vec_async::<f32>(), device.synchronize_async());
        let error = pollster::block_on(read).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        let error = pollster::block_on(done).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        let error = pollster::block_on(x.to_vec_async::<f32>()).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    });
}

/// A device that a sticky error broke is not given again; one that is whole is.
#[test]
fn a_broken_device_is_not_given_again() {
    alone("a_broken_device_is_not_given_again", &[], || {
        let (Some(_), Some(emulator)) = (cuda(), emulator()) else { return };
        let device = Device::cuda(0).unwrap();
        assert_eq!(Device::cuda(0).unwrap(), device);
        let x = Tensor::from_slice(&device, &[1, 2], &[3f32, 4.0]).unwrap();
        emulator.set_fault(Fault::nth(Operation::Launch, 1, LAUNCH_FAILED));
        let y = l2_normalize(&x, 1e-12).unwrap();
        assert!(matches!(y.to_vec::<f32>(), Err(Error::DeviceLost { .. })));
        emulator.reset_device_errors();
        let fresh = Device::cuda(0).unwrap();
        assert_ne!(fresh, device);
        let x = Tensor::from_slice(&fresh, &[1, 2], &[3f32, 4.0]).unwrap();
        assert!(l2_normalize(&x, 1e-12).unwrap().to_vec::<f32>().is_ok());
        assert_eq!(Device::cuda(0).unwrap(), fresh);
    });
}

/// What is adopted twice is one device; another stream, or a stream of another context, is not.
#[test]
fn a_stream_that_is_adopted_twice_is_the_same_device() {
    let Some(device) = cuda() else { return };
    let (context, stream) = device.as_cuda().unwrap();
    let adopt = |stream| Device::from_cuda(context.clone(), stream, DeviceOptions::default());
    let (a, b) = (adopt(stream.clone()).unwrap(), adopt(stream.clone()).unwrap());
    assert_eq!(a, b);
    let other = adopt(context.new_stream().unwrap()).unwrap();
    assert_ne!(a, other);
    let x = Tensor::from_slice(&a, &[1, 2], &[3f32, 4.0]).unwrap();
    let w = |device| Tensor::from_slice(device, &[2], &[1f32, 1.0]).unwrap();
    assert!(layer_norm(&x, None, &w(&b), None, 1e-5).is_ok());
    let error = layer_norm(&x, None, &w(&other), None, 1e-5).unwrap_err();
    let Error::Shape { expected, got, .. } = &error else { panic!("{error}") };
    assert!(expected.contains("adopted stream") && got.contains("adopted stream"), "{error}");
    assert_ne!(expected["all tensors on ".len()..], got["one on ".len()..]);
}
