//! cudarc's safe API over the emulator, and the raw calls that it has no cover for.

// Where a program finds a library by LD_LIBRARY_PATH.
#![cfg(target_os = "linux")]
// Launches and uninitialised allocations are unsafe in cudarc.
#![allow(unsafe_code)]

mod common;

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use ptx_emulator::client::{Emulator, Fault, Operation};
use ptx_emulator::driver::survey::{End, Entry, Surveyed};
use ptx_emulator::report::Check;

const KERNELS: &str = include_str!("driver/kernels.ptx");

fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    context.load_module(Ptx::from_src(KERNELS)).unwrap().load_function(name).unwrap()
}

fn config(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.map_or_else(|error| error.0, |_| CUresult::CUDA_SUCCESS)
}

/// Fills `n` numbers with one thread each, whether they are there or not.
fn fill(
    stream: &CudaStream,
    fill: &CudaFunction,
    out: u64,
    n: u32,
    value: u32,
) -> Result<(), DriverError> {
    // SAFETY: the emulator checks what the kernel does.
    unsafe { stream.launch_builder(fill).arg(&out).arg(&value).launch(config(n.div_ceil(32), 32)) }
        .map(drop)
}

#[test]
fn launches_and_copies() {
    if !common::emulated("launches_and_copies", &[]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.name().unwrap(), "PTX emulator sm_80");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.total_mem().unwrap(), 16 << 30);
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    let stream = context.default_stream();
    let n = 1000;
    let count = n as u32;
    let x: Vec<u32> = (0..count).collect();
    let y: Vec<u32> = (0..count).map(|i| i * i).collect();
    let axpy = function(&context, "axpy");
    let x_on = stream.clone_htod(&x).unwrap();
    let mut y_on = stream.clone_htod(&y).unwrap();
    let emulator = Emulator::attach().unwrap();
    let mark = emulator.mark();
    // SAFETY: the arguments are those of the kernel.
    unsafe {
        let mut launch = stream.launch_builder(&axpy);
        launch.arg(&mut y_on).arg(&x_on).arg(&2_u32).arg(&count);
        launch.launch(LaunchConfig::for_num_elems(count)).unwrap();
    }
    let got = stream.clone_dtoh(&y_on).unwrap();
    for i in 0..n {
        assert_eq!(got[i], y[i] + 2 * x[i]);
    }
    // 1000 threads store 4 bytes each from a multiple of 32 on: 125 sectors; twice as many are loaded.
    let counts = emulator.counts_since(mark);
    assert_eq!((counts.launches, counts.threads), (1, 1024));
    assert_eq!(counts.global.stores.sectors, 125);
    assert_eq!(counts.global.loads.sectors, 250);
    let launches = emulator.launches_since(mark);
    assert_eq!(launches.len(), 1);
    assert_eq!((launches[0].kernel.as_str(), launches[0].block), ("axpy", [1024, 1, 1]));
    assert_eq!(launches[0].counts, counts);
    assert!(emulator.reports().is_empty());

    // Copies on the device, views, memsets and variables of modules.
    let copy = stream.clone_dtod(&y_on).unwrap();
    assert_eq!(stream.clone_dtoh(&copy.slice(10..20)).unwrap(), got[10..20]);
    stream.memset_zeros(&mut y_on.slice_mut(..500)).unwrap();
    let halves = stream.clone_dtoh(&y_on).unwrap();
    assert!(halves[..500].iter().all(|&y| y == 0) && halves[500..] == got[500..]);
    let module = context.load_module(Ptx::from_src(KERNELS)).unwrap();
    let table = module.get_global("table", &stream).unwrap();
    let bytes = stream.clone_dtoh(&table).unwrap();
    assert_eq!(bytes, [10_u32, 20, 30, 40].map(u32::to_le_bytes).concat());
    assert_eq!(code(module.load_function("nothing")), CUresult::CUDA_ERROR_NOT_FOUND);
    let (free, total) = context.mem_get_info().unwrap();
    assert!(free < total);
}

#[test]
fn streams_and_events() {
    if !common::emulated("streams_and_events", &[("DEVICES", "sm_90")]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let other = stream.fork().unwrap();
    let kernel = function(&context, "fill");
    let timing = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let mut out = stream.alloc_zeros::<u32>(1 << 16).unwrap();
    let elapsed = |n: u32| {
        let start = stream.record_event(timing).unwrap();
        // SAFETY: `out` is as large as the largest launch.
        unsafe {
            let mut launch = stream.launch_builder(&kernel);
            launch.arg(&out).arg(&3_u32).launch(config(n, 256)).unwrap();
        }
        let end = stream.record_event(timing).unwrap();
        start.elapsed_ms(&end).unwrap()
    };
    // Time is counted: the same for the same work, and more for more.
    let (little, again, much) = (elapsed(1), elapsed(1), elapsed(256));
    assert!(little > 0.0 && much > little, "{little} {much}");
    assert!((little - again).abs() < 1e-6, "{little} {again}");

    // A stream that waits for another is behind it.
    let before = stream.record_event(timing).unwrap();
    assert!(before.is_complete());
    other.wait(&before).unwrap();
    let after = other.record_event(timing).unwrap();
    assert!(before.elapsed_ms(&after).unwrap() >= 0.0);
    // SAFETY: nothing else uses the memory.
    unsafe { other.launch_builder(&kernel).arg(&mut out).arg(&9_u32).launch(config(256, 256)) }
        .unwrap();
    assert!(other.clone_dtoh(&out).unwrap().iter().all(|&x| x == 9));

    // Host functions are called in order.
    unsafe extern "C" fn push(list: *mut std::ffi::c_void) {
        // SAFETY: it is the list below.
        let list = unsafe { &mut *list.cast::<Vec<usize>>() };
        list.push(list.len());
    }
    let mut list: Vec<usize> = Vec::new();
    for _ in 0..3 {
        // SAFETY: the list lives until the stream is waited for.
        let launched = unsafe {
            sys::cuLaunchHostFunc(stream.cu_stream(), Some(push), (&raw mut list).cast())
        };
        launched.result().unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(list, [0, 1, 2]);
    context.synchronize().unwrap();
}

#[test]
fn graphs() {
    if !common::emulated("graphs", &[]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    // SAFETY: one stream uses all the memory.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let axpy = function(&context, "axpy");
    let x = stream.clone_htod(&[1_u32; 64]).unwrap();
    let mut y = stream.clone_htod(&[0_u32; 64]).unwrap();
    let none = sys::CUgraphInstantiate_flags(0);
    let global = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;

    stream.begin_capture(global).unwrap();
    assert_eq!(
        stream.capture_status().unwrap(),
        sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
    );
    stream.memset_zeros(&mut y).unwrap();
    for _ in 0..3 {
        // SAFETY: the arguments are those of the kernel.
        unsafe {
            stream
                .launch_builder(&axpy)
                .arg(&mut y)
                .arg(&x)
                .arg(&2_u32)
                .arg(&64_u32)
                .launch(config(2, 32))
                .unwrap();
        }
    }
    let graph = stream.end_capture(none).unwrap().unwrap();
    let emulator = Emulator::attach().unwrap();
    assert!(emulator.launches().is_empty(), "capturing executes nothing");
    graph.upload().unwrap();
    for _ in 0..2 {
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [6; 64]);
    }
    assert_eq!(emulator.launches().len(), 6);

    // What cannot be captured ends the capture.
    stream.begin_capture(global).unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(code(stream.end_capture(none)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    // A second stream takes part through events, and has to be joined.
    let second = context.new_stream().unwrap();
    let mut z = second.clone_htod(&[5_u32; 64]).unwrap();
    for is_joined in [true, false] {
        stream.begin_capture(global).unwrap();
        second.join(&stream).unwrap();
        second.memset_zeros(&mut z).unwrap();
        if is_joined {
            stream.join(&second).unwrap();
            let graph = stream.end_capture(none).unwrap().unwrap();
            assert_eq!(second.clone_dtoh(&z).unwrap(), [5; 64]);
            graph.launch().unwrap();
            assert_eq!(second.clone_dtoh(&z).unwrap(), [0; 64]);
        } else {
            assert_eq!(
                code(stream.end_capture(none)),
                CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
            );
        }
    }
    // A dependency on work outside the capture.
    let outside = second.record_event(None).unwrap();
    stream.begin_capture(global).unwrap();
    assert_eq!(code(stream.wait(&outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert!(stream.end_capture(none).is_err());
}

#[test]
fn several_devices() {
    if !common::emulated("several_devices", &[("DEVICES", "sm_80,sm_90"), ("MEMORY", "64MiB")]) {
        return;
    }
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    let (first, second) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
    assert_eq!(second.compute_capability().unwrap(), (9, 0));
    assert_ne!(first.uuid().unwrap().bytes, second.uuid().unwrap().bytes);
    let (a, b) = (first.default_stream(), second.default_stream());
    let numbers: Vec<u32> = (0..1000).collect();
    let on_first = a.clone_htod(&numbers).unwrap();
    let on_second = b.clone_dtod(&on_first).unwrap();
    drop(on_first);
    assert_eq!(b.clone_dtoh(&on_second).unwrap(), numbers);

    // Each has its own memory.
    let most = 60 << 20;
    // SAFETY: they are not read.
    let held = unsafe { (a.alloc::<u8>(most).unwrap(), b.alloc::<u8>(most).unwrap()) };
    // SAFETY: as above.
    assert_eq!(code(unsafe { a.alloc::<u8>(most) }), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    drop(held);

    // A kernel cannot reach the other device's memory.
    let kernel = function(&first, "fill");
    let address = cudarc::driver::DevicePtr::device_ptr(&on_second, &b).0;
    fill(&a, &kernel, address, 32, 1).unwrap();
    assert_eq!(code(a.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(b.synchronize()), CUresult::CUDA_SUCCESS);
}

#[test]
fn kernel_faults_are_asynchronous_and_stay() {
    let settings = [("BUDGET", "100000"), ("LOG", "off")];
    if !common::emulated("kernel_faults_are_asynchronous_and_stay", &settings) {
        return;
    }
    let emulator = Emulator::attach().unwrap();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let out = stream.alloc_zeros::<u32>(40).unwrap();
    let address = cudarc::driver::DevicePtr::device_ptr(&out, &stream).0;
    let module = context.load_module(Ptx::from_src(KERNELS)).unwrap();
    let cases = [
        ("fill", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, Check::OutOfBounds),
        ("odd", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS, Check::Misaligned),
        ("spin", CUresult::CUDA_ERROR_LAUNCH_TIMEOUT, Check::Budget),
        ("unset", CUresult::CUDA_ERROR_LAUNCH_FAILED, Check::Uninitialized),
    ];
    for (name, expected, check) in cases {
        let kernel = module.load_function(name).unwrap();
        let mark = emulator.mark();
        // SAFETY: the emulator catches what these kernels do wrong.
        unsafe {
            let mut launch = stream.launch_builder(&kernel);
            if name != "spin" {
                launch.arg(&address);
            }
            let blocks = if name == "fill" {
                launch.arg(&1_u32);
                2
            } else {
                1
            };
            launch.launch(config(blocks, 32)).expect("a launch succeeds");
            // Behind a fault, nothing is executed.
            launch.launch(config(blocks, 32)).expect("until something waits");
        }
        assert_eq!(emulator.launches_since(mark).len(), 1);
        assert_eq!(code(stream.synchronize()), expected, "{name}");
        assert_eq!(code(stream.clone_dtoh(&out)), expected, "{name}: every call fails from now on");
        assert_eq!(code(stream.alloc_zeros::<u32>(1)), expected);
        let reports = emulator.reports_since(mark);
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].check, reports[0].kernel.as_str()), (check, name));
        if name == "fill" {
            // Thread 8 of block 1 is the 41st.
            assert_eq!((reports[0].block, reports[0].thread), ([1, 0, 0], [8, 0, 0]));
            assert_eq!(reports[0].address, Some(address + 160));
            assert!(reports[0].instruction.contains("st.global.u32"), "{}", reports[0]);
        }
        emulator.reset_device_errors();
        stream.synchronize().unwrap();
    }
    // The stores of the first 40 threads before the fault are there.
    assert_eq!(stream.clone_dtoh(&out).unwrap().len(), 40);
}

#[test]
fn checks_can_be_turned_off() {
    if !common::emulated("checks_can_be_turned_off", &[("CHECKS", "-uninitialized")]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let mut out = stream.alloc_zeros::<u32>(32).unwrap();
    let unset = function(&context, "unset");
    // SAFETY: the argument is that of the kernel.
    unsafe { stream.launch_builder(&unset).arg(&mut out).launch(config(1, 1)) }.unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn threads_share_a_device() {
    if !common::emulated("threads_share_a_device", &[]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let kernel = function(&context, "fill");
    let worker = |value: u32| {
        let stream = context.new_stream().unwrap();
        for round in 0..20 {
            let value = value * 100 + round;
            let mut out = stream.alloc_zeros::<u32>(256).unwrap();
            // SAFETY: the arguments are those of the kernel.
            unsafe {
                stream
                    .launch_builder(&kernel)
                    .arg(&mut out)
                    .arg(&value)
                    .launch(config(8, 32))
                    .unwrap();
            }
            assert_eq!(stream.clone_dtoh(&out).unwrap(), [value; 256]);
        }
    };
    std::thread::scope(|scope| {
        for value in 0..4 {
            let worker = &worker;
            scope.spawn(move || worker(value));
        }
    });
    let emulator = Emulator::attach().unwrap();
    assert_eq!(emulator.launches().len(), 80);
    assert!(emulator.leaks().iter().all(|leak| leak.what != "memory" && leak.what != "stream"));
}

#[test]
fn faults_on_demand() {
    if !common::emulated("faults_on_demand", &[("FAULTS", "alloc:2=2"), ("LOG", "off")]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let kernel = function(&context, "fill");
    let mut out = stream.alloc_zeros::<u32>(64).unwrap();
    assert_eq!(code(stream.alloc_zeros::<u32>(64)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    drop(stream.alloc_zeros::<u32>(64).unwrap());
    let address = cudarc::driver::DevicePtr::device_ptr(&out, &stream).0;

    let emulator = Emulator::attach().unwrap();
    emulator.set_fault(Fault::nth(Operation::Launch, 2, 701));
    fill(&stream, &kernel, address, 64, 1).unwrap();
    assert_eq!(
        code(fill(&stream, &kernel, address, 64, 2)),
        CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
    );
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [1; 64]);

    emulator.set_fault(Fault::nth(Operation::Copy, 1, 1));
    assert_eq!(code(stream.memset_zeros(&mut out)), CUresult::CUDA_ERROR_INVALID_VALUE);
    stream.memset_zeros(&mut out).unwrap();
    emulator.set_fault(Fault::nth(Operation::Sync, 1, 999));
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_UNKNOWN);
    stream.synchronize().unwrap();
    emulator.set_fault(Fault::nth(Operation::Module, 1, 218));
    assert_eq!(code(context.load_module(Ptx::from_src(KERNELS))), CUresult::CUDA_ERROR_INVALID_PTX);

    // What hardware finds while a kernel runs comes with the next wait, and stays.
    emulator.set_fault(Fault::nth(Operation::Launch, 1, 719));
    fill(&stream, &kernel, address, 64, 3).unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert_eq!(code(stream.clone_dtoh(&out)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    emulator.reset_device_errors();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [0; 64]);

    let limit = 1 << 20;
    emulator.set_fault(Fault::MemoryLimit { bytes: limit });
    // SAFETY: it is not read.
    let refused = unsafe { stream.alloc::<u8>(limit as usize) };
    assert_eq!(code(refused), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    emulator.clear_faults();
    // SAFETY: as above.
    drop(unsafe { stream.alloc::<u8>(limit as usize) }.unwrap());

    emulator.set_fault(Fault::Lost { nth: 3, error: 46 });
    let codes: Vec<CUresult> = (0..3).map(|_| code(stream.synchronize())).collect();
    assert_eq!(codes.last(), Some(&CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE));
    emulator.clear_faults();
}

#[test]
fn refused_modules_have_a_log() {
    if !common::emulated("refused_modules_have_a_log", &[("LOG", "off")]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let load = |text: &str| {
        let image = std::ffi::CString::new(text).unwrap();
        let mut log = vec![0_u8; 300];
        let mut names = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<std::ffi::c_void>(), log.len() as *mut _];
        let mut module = std::ptr::null_mut();
        // SAFETY: the options are a buffer and its size.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                2,
                names.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        log.truncate(values[1] as usize);
        (result, String::from_utf8(log).unwrap())
    };
    let head = ".version 7.0\n.target sm_80\n.address_size 64\n";
    let (result, log) = load(&format!("{head}.entry k() {{\n  paint.u32 1;\n}}"));
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(log.starts_with("ptx-emulator: line 5, column 3: ") && log.contains("paint"), "{log}");
    let (result, _) = load(".version 8.0\n.target sm_90\n.address_size 64\n.entry k() { ret; }");
    assert_eq!(result, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load("\x7fELF rest").0, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    let (result, log) = load(&format!("{head}.entry k() {{ ret; }}"));
    assert_eq!((result, log.as_str()), (CUresult::CUDA_SUCCESS, ""));
    let missing = context.load_module(Ptx::from_file("/nowhere.ptx"));
    assert_eq!(code(missing), CUresult::CUDA_ERROR_FILE_NOT_FOUND);
}

#[test]
fn launches_are_checked() {
    if !common::emulated("launches_are_checked", &[("LOG", "off")]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let sums = function(&context, "sums");
    let mut out = stream.alloc_zeros::<u32>(1).unwrap();
    let mut launch = |threads: u32, shared: u32| {
        let shape = LaunchConfig { shared_mem_bytes: shared, ..config(1, threads) };
        // SAFETY: the emulator checks what the kernel does.
        code(unsafe { stream.launch_builder(&sums).arg(&mut out).launch(shape) })
    };
    assert_eq!(launch(1025, 8), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(0, 8), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(64, (48 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    sums.set_attribute(attribute, 100 << 10).unwrap();
    assert_eq!(launch(64, 100 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(64, (100 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(code(sums.set_attribute(attribute, 164 << 10)), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [64 * 63 / 2]);

    assert_eq!(sums.max_threads_per_block().unwrap(), 1024);
    assert_eq!(sums.ptx_version().unwrap(), 70);
    assert_eq!(sums.shared_size_bytes().unwrap(), 0);
    // 2048 threads of a multiprocessor of sm_80.
    assert_eq!(sums.occupancy_max_active_blocks_per_multiprocessor(256, 0, None).unwrap(), 8);
    assert_eq!(
        sums.occupancy_max_active_blocks_per_multiprocessor(256, 80 << 10, None).unwrap(),
        2
    );
    extern "C" fn none(_: i32) -> usize {
        0
    }
    let (grid, block) = sums.occupancy_max_potential_block_size(none, 0, 0, None).unwrap();
    assert_eq!((grid, block), (2 * 108, 1024));
    // More blocks than are resident at once cannot wait for each other.
    let too_many = LaunchConfig {
        grid_dim: (108 * 32 + 1, 1, 1),
        block_dim: (32, 1, 1),
        shared_mem_bytes: 128,
    };
    // SAFETY: as above.
    let refused =
        unsafe { stream.launch_builder(&sums).arg(&mut out).launch_cooperative(too_many) };
    assert_eq!(code(refused), CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}

#[test]
fn host_memory() {
    if !common::emulated("host_memory", &[]) {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let kernel = function(&context, "fill");
    // SAFETY: it is written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&[5; 64]);
    let mut there = stream.clone_htod(&pinned).unwrap();
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [5; 64]);
    // Kernels reach it at its own address.
    let address = pinned.as_ptr().unwrap() as u64;
    fill(&stream, &kernel, address, 64, 8).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(pinned.as_slice().unwrap(), [8; 64]);
    stream.memset_zeros(&mut there).unwrap();
    stream.memcpy_dtoh(&there, &mut pinned).unwrap();
    assert_eq!(pinned.as_slice().unwrap(), [0; 64]);

    // SAFETY: it is written before it is read.
    let mut unified = unsafe { context.alloc_unified::<u32>(64, true) }.unwrap();
    // SAFETY: the argument is 64 numbers.
    unsafe {
        stream.launch_builder(&kernel).arg(&mut unified).arg(&11_u32).launch(config(2, 32)).unwrap()
    };
    stream.synchronize().unwrap();
    assert_eq!(unified.as_slice().unwrap(), [11; 64]);
    unified.prefetch().unwrap();
}

#[test]
fn leaks() {
    if common::is_child("leaks") {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let kept = stream.alloc_zeros::<u32>(100).unwrap();
        let freed = stream.alloc_zeros::<u32>(7).unwrap();
        drop(freed);
        let emulator = Emulator::attach().unwrap();
        if std::env::var("PTX_EMULATOR_LEAKS").is_ok() {
            let memory: Vec<u64> = emulator
                .leaks()
                .iter()
                .filter(|leak| leak.what == "memory")
                .map(|leak| leak.bytes)
                .collect();
            assert_eq!(memory, [400]);
            kept.leak();
            return;
        }
        drop((kept, stream, context));
        assert_eq!(emulator.leaks(), []);
        return;
    }
    let clean = common::run("leaks", &[]);
    assert!(clean.status.success(), "{}", common::text(&clean.stderr));
    // The memory is reported although its context ended before the process.
    for (setting, is_success) in [("report", true), ("fail", false)] {
        let output = common::run("leaks", &[("LEAKS", setting)]);
        let log = common::text(&output.stderr);
        assert_eq!(output.status.success(), is_success, "{log}");
        assert!(log.contains("ptx-emulator: leaked: 400 bytes at 0x"), "{log}");
        assert!(!log.contains("stream 0x"), "{log}");
    }
}

#[test]
fn a_setting_that_cannot_be_read_is_an_error() {
    let name = "a_setting_that_cannot_be_read_is_an_error";
    if common::is_child(name) {
        assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
        return;
    }
    let output = common::run(name, &[("FAULTS", "alloc:x=2")]);
    let log = common::text(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("ptx-emulator: PTX_EMULATOR_FAULTS: alloc:x=2?"), "{log}");
}

#[test]
fn logs_and_counts_go_to_files() {
    let name = "logs_and_counts_go_to_files";
    if common::is_child(name) {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let kernel = function(&context, "fill");
        let out = stream.alloc_zeros::<u32>(32).unwrap();
        let address = cudarc::driver::DevicePtr::device_ptr(&out, &stream).0;
        fill(&stream, &kernel, address, 32, 1).unwrap();
        fill(&stream, &kernel, address, 64, 1).unwrap();
        assert!(stream.synchronize().is_err());
        return;
    }
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = |kind: &str| folder.join(format!("{kind}-{}", std::process::id()));
    let (log, counts) = (file("log"), file("counts"));
    let output =
        common::run(name, &[("LOG", log.to_str().unwrap()), ("COUNTS", counts.to_str().unwrap())]);
    assert!(output.status.success(), "{}", common::text(&output.stderr));
    let report = std::fs::read_to_string(&log).unwrap();
    assert!(report.starts_with("ptx-emulator: out-of-bounds: "), "{report}");
    assert!(report.contains("in fill, block (1, 0, 0), thread (0, 0, 0)"), "{report}");
    let lines = std::fs::read_to_string(&counts).unwrap();
    let lines: Vec<ptx_emulator::client::LaunchRecord> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0].counts.global.stores.sectors, 4);
    assert_eq!(lines[1].report.as_ref().unwrap().check, Check::OutOfBounds);
    for path in [log, counts] {
        std::fs::remove_file(path).unwrap();
    }
}

/// The entries of a survey, and its launches among them.
fn surveyed(folder: &std::path::Path) -> (Vec<Entry>, Vec<Surveyed>) {
    let text = std::fs::read_to_string(folder.join("survey.jsonl")).unwrap();
    let entries: Vec<Entry> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let launches = entries.iter().filter_map(|entry| match entry {
        Entry::Launch(launch) => Some((**launch).clone()),
        _ => None,
    });
    let launches = launches.collect();
    (entries, launches)
}

#[test]
fn a_survey_executes_some_blocks_and_no_launch_twice() {
    let name = "a_survey_executes_some_blocks_and_no_launch_twice";
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("survey");
    let (blocks, n) = (100u32, 100 * 32u32);
    if common::is_child(name) {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let axpy = function(&context, "axpy");
        let x = stream.clone_htod(&vec![1u32; n as usize]).unwrap();
        let mut y = stream.clone_htod(&vec![0u32; n as usize]).unwrap();
        let mut z = stream.clone_htod(&vec![0u32; n as usize]).unwrap();
        let event = context.new_event(None).unwrap();
        event.record(&stream).unwrap();
        // The second differs in an address only, the third in a number; the last is small enough for all of its blocks.
        for (is_first, n, blocks) in
            [(true, n, blocks), (false, n, blocks), (false, n - 1, blocks), (false, 32, 2)]
        {
            let out = if is_first { &mut y } else { &mut z };
            // SAFETY: the arguments are those of the kernel.
            unsafe {
                let mut launch = stream.launch_builder(&axpy);
                launch.arg(out).arg(&x).arg(&2_u32).arg(&n);
                launch.launch(config(blocks, 32)).unwrap();
            }
        }
        event.record(&stream).unwrap();
        let written = stream.clone_dtoh(&y).unwrap().iter().filter(|&&y| y == 2).count();
        assert_eq!(written, 5 * 32, "of five blocks");
        assert!(stream.clone_dtoh(&z).unwrap()[64..].contains(&2));
        return;
    }
    // A block issues 18 instructions: there is room for four more than the first.
    let settings =
        [("SURVEY", folder.to_str().unwrap()), ("SAMPLE", "80"), ("CHECKS", "+uninitialized")];
    let output = common::run(name, &settings);
    assert!(output.status.success(), "{}", common::text(&output.stderr));
    let (entries, launches) = surveyed(&folder);
    assert_eq!(launches.len(), 3);
    let [some, _, all] = &launches[..] else { unreachable!("three were counted") };
    assert_eq!((some.kernel.as_str(), some.grid, some.block), ("axpy", [100, 1, 1], [32, 1, 1]));
    assert_eq!((some.counts.blocks, some.first.blocks), (5, 1));
    assert_eq!(some.counts.warp_instructions, 5 * some.first.warp_instructions);
    assert_eq!(some.counts.global.stores.sectors, 5 * 4);
    assert_eq!(some.memory, [4 * u64::from(n); 2]);
    // Each line as often as there are blocks, and together what was issued.
    assert!(some.lines.values().all(|&times| times == 5 || times == 0), "{:?}", some.lines);
    assert_eq!(some.lines.values().sum::<u64>(), some.counts.warp_instructions);
    let (longest, per_block) = (some.balance.longest_warp, some.first.warp_instructions);
    assert_eq!((longest, some.balance.longest_block), (per_block, per_block), "a warp a block");
    assert_eq!(some.balance.longest_warps, 5 * per_block);
    assert_eq!(
        std::fs::read_to_string(folder.join(format!("{}.ptx", some.text))).unwrap(),
        KERNELS
    );
    assert_eq!((all.counts.blocks, all.grid), (2, [2, 1, 1]));
    let order: Vec<&Entry> = entries.iter().filter(|entry| !matches!(entry, Entry::Wait)).collect();
    let bytes = 4 * u64::from(n);
    let up = Entry::Copy { bytes, from: End::Host, to: End::Device };
    assert_eq!(order[..3], [&up, &up, &up]);
    assert!(matches!(order[3], Entry::Record(_)) && matches!(order[4], Entry::Launch(_)));
    assert_eq!(order[5], &Entry::Again(0));
    assert_eq!(order[8], order[3]);
    assert_eq!(order[9], &Entry::Copy { bytes, from: End::Device, to: End::Host });
}
