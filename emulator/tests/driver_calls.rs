//! Raw calls of the driver API, through cudarc's bindings: their structures are not ours.

// Where a program finds a library by LD_LIBRARY_PATH.
#![cfg(target_os = "linux")]
// Every call is unsafe, and safe by what the test before it set up.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};

use cudarc::driver::sys::{CUresult::*, *};
use ptx_emulator::client::Emulator;
use ptx_emulator::report::Check;

const KERNELS: &str = include_str!("driver/kernels.ptx");

/// A value that a call writes, of a call that succeeds.
macro_rules! get {
    ($ty:ty, |$out:ident| $call:expr) => {{
        let mut value = std::mem::MaybeUninit::<$ty>::zeroed();
        let $out = value.as_mut_ptr();
        assert_eq!(unsafe { $call }, CUDA_SUCCESS, stringify!($call));
        unsafe { value.assume_init() }
    }};
}

/// A call that succeeds.
macro_rules! ok {
    ($($call:expr),* $(,)?) => { $(assert_eq!(unsafe { $call }, CUDA_SUCCESS, stringify!($call));)* };
}

/// A call that fails with a code.
macro_rules! fails {
    ($code:expr, $call:expr) => {
        assert_eq!(unsafe { $call }, $code, stringify!($call))
    };
}

/// A context of the first device, current.
fn context() -> CUcontext {
    ok!(cuInit(0));
    let context = get!(CUcontext, |out| cuDevicePrimaryCtxRetain(out, 0));
    ok!(cuCtxSetCurrent(context));
    context
}

fn module() -> CUmodule {
    let text = CString::new(KERNELS).unwrap();
    get!(CUmodule, |out| cuModuleLoadData(out, text.as_ptr().cast()))
}

fn function(name: &CStr) -> CUfunction {
    let module = module();
    get!(CUfunction, |out| cuModuleGetFunction(out, module, name.as_ptr()))
}

fn alloc(bytes: usize) -> u64 {
    get!(u64, |out| cuMemAlloc_v2(out, bytes))
}

fn download(address: u64, count: usize) -> Vec<u32> {
    let mut values = vec![0_u32; count];
    ok!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, count * 4));
    values
}

/// A copy of nothing from one kind of memory to another.
macro_rules! empty_copy {
    ($ty:ty, $from:ident, $to:ident) => {{
        let mut copy = std::mem::MaybeUninit::<$ty>::zeroed();
        let fields = copy.as_mut_ptr();
        unsafe {
            // No memory type is zero.
            (&raw mut (*fields).srcMemoryType).write(CUmemorytype::$from);
            (&raw mut (*fields).dstMemoryType).write(CUmemorytype::$to);
            copy.assume_init()
        }
    }};
}

/// Pointers to parameters.
fn pointers<const N: usize>(params: [&u64; N]) -> [*mut c_void; N] {
    params.map(|param| (param as *const u64).cast_mut().cast())
}

#[test]
fn before_and_without_a_context() {
    if !common::emulated("before_and_without_a_context", &[]) {
        return;
    }
    let mut out = 0;
    fails!(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&mut out));
    fails!(CUDA_ERROR_INVALID_VALUE, cuInit(1));
    ok!(cuInit(0), cuInit(0));
    let mut address = 0;
    fails!(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc_v2(&mut address, 4));
    fails!(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&mut out, 1));
    fails!(CUDA_ERROR_INVALID_VALUE, cuDeviceGetCount(null_mut()));
    assert!(get!(i32, |out| cuDriverGetVersion(out)) >= 12000);
    let name = get!(*const i8, |out| cuGetErrorName(CUDA_ERROR_NOT_FOUND, out));
    assert_eq!(unsafe { CStr::from_ptr(name.cast()) }, c"CUDA_ERROR_NOT_FOUND");

    // Contexts are a stack, and a destroyed one is gone.
    let first = get!(CUcontext, |out| cuCtxCreate_v2(out, 0, 0));
    let second = get!(CUcontext, |out| cuCtxCreate_v2(out, 0, 0));
    assert_eq!(get!(CUcontext, |out| cuCtxGetCurrent(out)), second);
    assert_eq!(get!(CUcontext, |out| cuCtxPopCurrent_v2(out)), second);
    assert_eq!(get!(CUcontext, |out| cuCtxGetCurrent(out)), first);
    ok!(cuCtxPushCurrent_v2(second), cuMemAlloc_v2(&mut address, 4), cuCtxSetCurrent(second));
    std::thread::spawn(move || assert!(get!(CUcontext, |out| cuCtxGetCurrent(out)).is_null()))
        .join()
        .unwrap();
    // Current twice, so that it still is after one is taken away.
    ok!(cuCtxPushCurrent_v2(second), cuCtxDestroy_v2(second));
    fails!(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc_v2(&mut address, 4));
    fails!(CUDA_ERROR_INVALID_CONTEXT, cuCtxPushCurrent_v2(second));
    ok!(cuCtxSetCurrent(first));
    // Its memory went with it.
    let mut byte = 0_u8;
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2((&raw mut byte).cast(), address, 1));

    assert_eq!(get!(usize, |out| cuCtxGetLimit(out, CUlimit::CU_LIMIT_STACK_SIZE)), 1024);
    ok!(cuCtxSetLimit(CUlimit::CU_LIMIT_STACK_SIZE, 4096));
    assert_eq!(get!(usize, |out| cuCtxGetLimit(out, CUlimit::CU_LIMIT_STACK_SIZE)), 4096);
    let active = |device: i32| {
        let mut flags = 0;
        get!(i32, |out| cuDevicePrimaryCtxGetState(device, &mut flags, out))
    };
    assert_eq!(active(0), 0);
    get!(CUcontext, |out| cuDevicePrimaryCtxRetain(out, 0));
    assert_eq!(active(0), 1);
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(active(0), 0);
    fails!(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(0));
}

#[test]
fn handles_that_are_gone_are_errors() {
    if !common::emulated("handles_that_are_gone_are_errors", &[("LOG", "off")]) {
        return;
    }
    context();
    let stream = get!(CUstream, |out| cuStreamCreate(out, 0));
    ok!(cuStreamDestroy_v2(stream));
    fails!(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));
    fails!(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy_v2(stream));
    let event = get!(CUevent, |out| cuEventCreate(out, 0));
    let unrecorded = get!(CUevent, |out| cuEventCreate(out, 0));
    ok!(cuEventRecord(event, null_mut()), cuEventQuery(unrecorded), cuEventSynchronize(event));
    let mut time = 0.0;
    fails!(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&mut time, event, unrecorded));
    ok!(cuEventDestroy_v2(event));
    fails!(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(event, null_mut()));
    let module = module();
    let fill = get!(CUfunction, |out| cuModuleGetFunction(out, module, c"fill".as_ptr()));
    ok!(cuModuleUnload(module));
    fails!(
        CUDA_ERROR_INVALID_HANDLE,
        cuLaunchKernel(fill, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut())
    );
    let memory = alloc(8);
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(memory + 4));
    ok!(cuMemFree_v2(memory), cuMemFree_v2(0));
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(memory));
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemAlloc_v2(&mut 0, 0));
    fails!(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&mut 0, 1 << 40));
    // A variable of a module is not for cuMemFree.
    let module = self::module();
    let mut table = 0;
    ok!(cuModuleGetGlobal_v2(&mut table, null_mut(), module, c"table".as_ptr()));
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(table));
    assert_eq!(download(table, 4), [10, 20, 30, 40]);
    fails!(
        CUDA_ERROR_NOT_FOUND,
        cuModuleGetGlobal_v2(&mut table, null_mut(), module, c"chair".as_ptr())
    );
}

#[test]
fn launches_of_every_form() {
    if !common::emulated("launches_of_every_form", &[("LOG", "off")]) {
        return;
    }
    context();
    let fill = function(c"fill");
    let out = alloc(256);
    let value = 5_u64;
    let mut params = pointers([&out, &value]);
    let shape = |function| (function, 2, 1, 1, 32, 1, 1, 0, null_mut::<CUstream_st>());
    let plain = |params: *mut *mut c_void, extra: *mut *mut c_void| {
        let (f, gx, gy, gz, bx, by, bz, shared, stream) = shape(fill);
        unsafe { cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra) }
    };
    assert_eq!(plain(params.as_mut_ptr(), null_mut()), CUDA_SUCCESS);
    assert_eq!(download(out, 64), [5; 64]);
    assert_eq!(plain(null_mut(), null_mut()), CUDA_ERROR_INVALID_VALUE);
    let mut holes = [params[0], null_mut()];
    assert_eq!(plain(holes.as_mut_ptr(), null_mut()), CUDA_ERROR_INVALID_VALUE);

    // Parameters in one buffer, and buffers of the wrong size.
    let mut buffer = [0_u8; 16];
    buffer[..8].copy_from_slice(&out.to_le_bytes());
    buffer[8] = 6;
    let emulator = Emulator::attach().unwrap();
    for (size, expected) in [
        (12_usize, CUDA_SUCCESS),
        (16, CUDA_SUCCESS),
        (11, CUDA_ERROR_INVALID_VALUE),
        (17, CUDA_ERROR_INVALID_VALUE),
    ] {
        let mut size = size;
        let mut extra = [
            std::ptr::without_provenance_mut(1),
            buffer.as_mut_ptr().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            null_mut(),
        ];
        let mark = emulator.mark();
        assert_eq!(plain(null_mut(), extra.as_mut_ptr()), expected, "{size}");
        let reports = emulator.reports_since(mark);
        assert_eq!(
            reports.iter().map(|r| r.check).collect::<Vec<_>>(),
            match expected {
                CUDA_SUCCESS => vec![],
                _ => vec![Check::Parameters],
            }
        );
    }
    assert_eq!(download(out, 64), [6; 64]);

    // The extended form, cooperative.
    let value = 7_u64;
    let mut params = pointers([&out, &value]);
    let mut attribute: CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attribute.value.cooperative = 1;
    let mut config = CUlaunchConfig {
        gridDimX: 2,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: null_mut(),
        attrs: &mut attribute,
        numAttrs: 1,
    };
    ok!(cuLaunchKernelEx(&config, fill, params.as_mut_ptr(), null_mut()));
    assert_eq!(download(out, 64), [7; 64]);
    config.gridDimX = 108 * 32 + 1;
    fails!(
        CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
        cuLaunchKernelEx(&config, fill, params.as_mut_ptr(), null_mut())
    );
    config.gridDimX = 2;
    attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim = CUlaunchAttributeValue_union__bindgen_ty_1 { x: 2, y: 1, z: 1 };
    config.attrs = &mut attribute;
    fails!(
        CUDA_ERROR_NOT_SUPPORTED,
        cuLaunchKernelEx(&config, fill, params.as_mut_ptr(), null_mut())
    );
    for (grid, block) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 65536, 1], [1, 1, 1]),
        ([1, 1, 1], [1, 1, 65]),
        ([1, 1, 1], [32, 32, 2]),
    ] {
        fails!(
            CUDA_ERROR_INVALID_VALUE,
            cuLaunchKernel(
                fill,
                grid[0],
                grid[1],
                grid[2],
                block[0],
                block[1],
                block[2],
                0,
                null_mut(),
                params.as_mut_ptr(),
                null_mut()
            )
        );
    }

    let (mut offset, mut size) = (0, 0);
    ok!(cuFuncGetParamInfo(fill, 1, &mut offset, &mut size));
    assert_eq!((offset, size), (8, 4));
    fails!(CUDA_ERROR_INVALID_VALUE, cuFuncGetParamInfo(fill, 2, &mut offset, &mut size));
    let name = get!(*const i8, |out| cuFuncGetName(out.cast(), fill));
    assert_eq!(unsafe { CStr::from_ptr(name.cast()) }, c"fill");
}

#[test]
fn libraries() {
    if !common::emulated("libraries", &[("DEVICES", "sm_80,sm_90")]) {
        return;
    }
    context();
    let text = CString::new(KERNELS).unwrap();
    let library = get!(CUlibrary, |out| cuLibraryLoadData(
        out,
        text.as_ptr().cast(),
        null_mut(),
        null_mut(),
        0,
        null_mut(),
        null_mut(),
        0
    ));
    assert_eq!(get!(u32, |out| cuLibraryGetKernelCount(out, library)), 6);
    let kernel = get!(CUkernel, |out| cuLibraryGetKernel(out, library, c"fill".as_ptr()));
    // A kernel is launched like a function, in any context.
    for device in [0, 1] {
        let context = get!(CUcontext, |out| cuDevicePrimaryCtxRetain(out, device));
        ok!(cuCtxSetCurrent(context));
        let (out, value) = (alloc(128), 40 + device as u64);
        let mut params = pointers([&out, &value]);
        ok!(cuLaunchKernel(
            kernel.cast(),
            1,
            1,
            1,
            32,
            1,
            1,
            0,
            null_mut(),
            params.as_mut_ptr(),
            null_mut()
        ));
        assert_eq!(download(out, 32), [value as u32; 32]);
        let function = get!(CUfunction, |out| cuKernelGetFunction(out, kernel));
        let threads = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        assert_eq!(get!(i32, |out| cuFuncGetAttribute(out, threads, function)), 1024);
    }
    ok!(cuLibraryUnload(library));
    fails!(
        CUDA_ERROR_INVALID_HANDLE,
        cuLibraryGetKernel(&mut null_mut(), library, c"fill".as_ptr())
    );
}

#[test]
fn copies_in_two_and_three_dimensions() {
    if !common::emulated("copies_in_two_and_three_dimensions", &[("LOG", "off")]) {
        return;
    }
    context();
    let (mut pitched, mut pitch) = (0, 0);
    ok!(cuMemAllocPitch_v2(&mut pitched, &mut pitch, 12, 4, 4));
    assert!(pitch >= 12 && pitch.is_multiple_of(512));
    let host: Vec<u32> = (0..12).collect();
    let mut copy = empty_copy!(CUDA_MEMCPY2D, CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE);
    copy.srcHost = host.as_ptr().cast();
    copy.dstDevice = pitched;
    copy.dstPitch = pitch;
    copy.WidthInBytes = 12;
    copy.Height = 4;
    ok!(cuMemcpy2D_v2(&copy));
    assert_eq!(download(pitched + pitch as u64, 3), [3, 4, 5]);
    // The middle column of rows 1 to 3, back to the host.
    let mut column = [0_u32; 3];
    let mut back = empty_copy!(CUDA_MEMCPY2D, CU_MEMORYTYPE_UNIFIED, CU_MEMORYTYPE_HOST);
    back.srcDevice = pitched;
    back.srcPitch = pitch;
    back.srcXInBytes = 4;
    back.srcY = 1;
    back.dstHost = column.as_mut_ptr().cast();
    back.WidthInBytes = 4;
    back.Height = 3;
    ok!(cuMemcpy2DAsync_v2(&back, null_mut()));
    assert_eq!(column, [4, 7, 10]);
    back.srcPitch = 4;
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&back));

    // A block of 2 x 2 x 2 out of 3 x 3 x 3.
    let cube: Vec<u32> = (0..27).collect();
    let packed = alloc(32);
    let mut copy = empty_copy!(CUDA_MEMCPY3D, CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE);
    copy.srcHost = cube.as_ptr().cast();
    copy.srcPitch = 12;
    copy.srcHeight = 3;
    copy.srcXInBytes = 4;
    copy.srcY = 1;
    copy.srcZ = 1;
    copy.dstDevice = packed;
    copy.WidthInBytes = 8;
    copy.Height = 2;
    copy.Depth = 2;
    ok!(cuMemcpy3D_v2(&copy));
    let expected: Vec<u32> =
        (0..8).map(|i| (1 + i / 4) * 9 + (1 + i / 2 % 2) * 3 + 1 + i % 2).collect();
    assert_eq!(download(packed, 8), expected);

    // Memsets: rows of a pitch, and elements of every size.
    ok!(cuMemsetD2D32_v2(pitched, pitch, 9, 2, 2));
    assert_eq!(download(pitched + pitch as u64, 3), [9, 9, 5]);
    ok!(
        cuMemsetD8_v2(packed, 1, 4),
        cuMemsetD16_v2(packed + 4, 0x0203, 2),
        cuMemsetD32Async(packed + 8, 4, 1, null_mut())
    );
    assert_eq!(download(packed, 3), [0x01010101, 0x02030203, 4]);
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemsetD32_v2(packed + 2, 0, 1));
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemsetD32_v2(packed, 0, 9));
    ok!(cuMemsetD8_v2(0, 0, 0));

    // A copy past the end copies nothing.
    let ones = [1_u32; 9];
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(packed, ones.as_ptr().cast(), 36));
    assert_eq!(download(packed, 3), [0x01010101, 0x02030203, 4]);
    // Without saying what is where.
    let mut back = [0_u32; 3];
    ok!(cuMemcpy(back.as_mut_ptr() as u64, packed, 12), cuMemcpy(packed, ones.as_ptr() as u64, 32));
    assert_eq!((back, download(packed, 8)), ([0x01010101, 0x02030203, 4], vec![1; 8]));
}

#[test]
fn pointers_and_pools() {
    if !common::emulated("pointers_and_pools", &[("LOG", "off")]) {
        return;
    }
    let context = context();
    let memory = alloc(1000);
    let word = |attribute, at| get!(u32, |out| cuPointerGetAttribute(out.cast(), attribute, at));
    let long = |attribute, at| get!(u64, |out| cuPointerGetAttribute(out.cast(), attribute, at));
    use CUpointer_attribute::*;
    assert_eq!(
        word(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory + 10),
        CUmemorytype::CU_MEMORYTYPE_DEVICE as u32
    );
    assert_eq!(long(CU_POINTER_ATTRIBUTE_CONTEXT, memory), context as u64);
    assert_eq!(long(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, memory + 10), memory);
    assert_eq!(long(CU_POINTER_ATTRIBUTE_RANGE_SIZE, memory + 10), 1000);
    let (mut base, mut size) = (0, 0);
    ok!(cuMemGetAddressRange_v2(&mut base, &mut size, memory + 999));
    assert_eq!((base, size), (memory, 1000));
    fails!(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange_v2(&mut base, &mut size, memory + 1000));
    let mut out = 0_u32;
    let local = (&raw mut out) as u64;
    fails!(
        CUDA_ERROR_INVALID_VALUE,
        cuPointerGetAttribute((&raw mut out).cast(), CU_POINTER_ATTRIBUTE_MEMORY_TYPE, local)
    );

    // Host memory of the program, registered.
    let mut own = vec![3_u32; 64];
    let start = own.as_mut_ptr().cast::<c_void>();
    ok!(cuMemHostRegister_v2(start, 256, 0));
    fails!(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister_v2(start, 256, 0));
    let address = get!(u64, |out| cuMemHostGetDevicePointer_v2(out, start, 0));
    assert_eq!(
        word(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address),
        CUmemorytype::CU_MEMORYTYPE_HOST as u32
    );
    let (fill, value) = (function(c"fill"), 8_u64);
    let mut params = pointers([&address, &value]);
    ok!(
        cuLaunchKernel(fill, 2, 1, 1, 32, 1, 1, 0, null_mut(), params.as_mut_ptr(), null_mut()),
        cuCtxSynchronize()
    );
    assert_eq!(own, [8; 64]);
    ok!(cuMemHostUnregister(start));
    fails!(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(start));

    // A pool of at most 4 MiB.
    let mut props: CUmemPoolProps = unsafe { std::mem::zeroed() };
    props.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    props.maxSize = 4 << 20;
    let pool = get!(CUmemoryPool, |out| cuMemPoolCreate(out, &props));
    let stream = get!(CUstream, |out| cuStreamCreate(out, 1));
    let memory = get!(u64, |out| cuMemAllocFromPoolAsync(out, 3 << 20, pool, stream));
    fails!(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocFromPoolAsync(&mut 0, 2 << 20, pool, stream));
    let used = || {
        get!(u64, |out| cuMemPoolGetAttribute(
            pool,
            CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
            out.cast()
        ))
    };
    assert_eq!(used(), 3 << 20);
    assert_eq!(long(CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, memory), pool as u64);
    ok!(cuMemFreeAsync(memory, stream), cuMemPoolTrimTo(pool, 0));
    assert_eq!(used(), 0);
    ok!(cuMemPoolDestroy(pool));
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemPoolTrimTo(pool, 0));
    assert_ne!(get!(CUmemoryPool, |out| cuDeviceGetDefaultMemPool(out, 0)), null_mut());
    // Nothing is allocated as the null pointer, in the order of streams.
    assert_eq!(get!(u64, |out| cuMemAllocAsync(out, 0, stream)), 0);
    ok!(cuMemFreeAsync(0, stream));
}

#[test]
fn graphs_made_by_hand() {
    if !common::emulated("graphs_made_by_hand", &[]) {
        return;
    }
    let context = context();
    let fill = function(c"fill");
    let (out, copy) = (alloc(256), alloc(256));
    let graph = get!(CUgraph, |out| cuGraphCreate(out, 0));
    let (value, other) = (1_u64, 2_u64);
    let mut params = pointers([&out, &value]);
    let mut kernel: CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
    kernel.func = fill;
    (kernel.gridDimX, kernel.gridDimY, kernel.gridDimZ) = (2, 1, 1);
    (kernel.blockDimX, kernel.blockDimY, kernel.blockDimZ) = (32, 1, 1);
    kernel.kernelParams = params.as_mut_ptr();
    let mut moved = empty_copy!(CUDA_MEMCPY3D, CU_MEMORYTYPE_DEVICE, CU_MEMORYTYPE_DEVICE);
    moved.srcDevice = out;
    moved.dstDevice = copy;
    (moved.WidthInBytes, moved.Height, moved.Depth) = (256, 1, 1);
    let mut set: CUDA_MEMSET_NODE_PARAMS = unsafe { std::mem::zeroed() };
    (set.dst, set.elementSize, set.value, set.width, set.height) = (copy, 4, 9, 8, 1);
    unsafe extern "C" fn count(counter: *mut c_void) {
        unsafe { *counter.cast::<u32>() += 1 };
    }
    let mut calls = 0_u32;
    let host = CUDA_HOST_NODE_PARAMS { fn_: Some(count), userData: (&raw mut calls).cast() };

    // The copy comes before the kernel in the order of creation; the edges say otherwise.
    let copying =
        get!(CUgraphNode, |out| cuGraphAddMemcpyNode(out, graph, null(), 0, &moved, context));
    let filling = get!(CUgraphNode, |out| cuGraphAddKernelNode_v2(out, graph, null(), 0, &kernel));
    ok!(cuGraphAddDependencies(graph, &filling, &copying, 1));
    fails!(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &copying, &filling, 1));
    let setting =
        get!(CUgraphNode, |out| cuGraphAddMemsetNode(out, graph, &copying, 1, &set, context));
    let calling = get!(CUgraphNode, |out| cuGraphAddHostNode(out, graph, &setting, 1, &host));
    let nodes = [copying, filling, setting, calling];
    let mut number = 4;
    let mut found = [null_mut(); 4];
    ok!(cuGraphGetNodes(graph, found.as_mut_ptr(), &mut number));
    assert_eq!((number, found), (4, nodes));
    let kinds = nodes.map(|node| get!(CUgraphNodeType, |out| cuGraphNodeGetType(node, out)) as u32);
    assert_eq!(kinds, [1, 0, 2, 3]);
    ok!(cuGraphGetEdges(graph, null_mut(), null_mut(), &mut number));
    assert_eq!(number, 3);
    ok!(cuGraphGetRootNodes(graph, found.as_mut_ptr(), &mut number));
    assert_eq!((number, found[0]), (1, filling));

    let exec = get!(CUgraphExec, |out| cuGraphInstantiateWithFlags(out, graph, 0));
    ok!(cuGraphLaunch(exec, null_mut()), cuCtxSynchronize());
    let expected = |value: u32| [vec![9; 8], vec![value; 56]].concat();
    assert_eq!(download(copy, 64), expected(1));
    assert_eq!(calls, 1);

    // Another value: in the executable graph, then by an update from a changed graph.
    let mut changed = pointers([&out, &other]);
    kernel.kernelParams = changed.as_mut_ptr();
    ok!(cuGraphExecKernelNodeSetParams_v2(exec, filling, &kernel), cuGraphLaunch(exec, null_mut()));
    assert_eq!(download(copy, 64), expected(2));
    let mut shown: CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
    ok!(cuGraphKernelNodeGetParams_v2(filling, &mut shown));
    assert_eq!((shown.func, shown.gridDimX, shown.blockDimX), (fill, 2, 32));
    let shown_value = unsafe { (*shown.kernelParams.add(1)).cast::<u32>().read_unaligned() };
    assert_eq!(shown_value, 1, "the graph itself is as it was");
    let mut info: CUgraphExecUpdateResultInfo = unsafe { std::mem::zeroed() };
    ok!(cuGraphExecUpdate_v2(exec, graph, &mut info), cuGraphLaunch(exec, null_mut()));
    assert_eq!(download(copy, 64), expected(1));
    ok!(cuGraphNodeSetEnabled(exec, setting, 0), cuGraphLaunch(exec, null_mut()));
    assert_eq!(download(copy, 64), [1; 64]);

    // A graph inside a graph stays what it was when it was put there.
    let outer = get!(CUgraph, |out| cuGraphCreate(out, 0));
    get!(CUgraphNode, |out| cuGraphAddChildGraphNode(out, outer, null(), 0, graph));
    let outer_exec = get!(CUgraphExec, |out| cuGraphInstantiateWithFlags(out, outer, 0));
    get!(CUgraphNode, |out| cuGraphAddEmptyNode(out, graph, null(), 0));
    fails!(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate_v2(exec, graph, &mut info));
    assert_eq!(info.result, CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    ok!(cuGraphDestroy(graph), cuGraphDestroy(outer), cuMemsetD8_v2(copy, 0, 256));
    ok!(cuGraphLaunch(outer_exec, null_mut()));
    assert_eq!(download(copy, 64), expected(1));
    fails!(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy(graph));
    ok!(cuGraphExecDestroy(outer_exec), cuGraphExecDestroy(exec));
    fails!(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(exec, null_mut()));
    let leaks = Emulator::attach().unwrap().leaks();
    assert!(leaks.iter().all(|leak| !leak.what.contains("graph")), "{leaks:?}");
}

#[test]
fn captures_with_memory_and_their_edges() {
    if !common::emulated("captures_with_memory_and_their_edges", &[("LOG", "off")]) {
        return;
    }
    context();
    let fill = function(c"fill");
    let kept = alloc(256);
    let (stream, second) = (
        get!(CUstream, |out| cuStreamCreate(out, 1)),
        get!(CUstream, |out| cuStreamCreate(out, 1)),
    );
    let event = get!(CUevent, |out| cuEventCreate(out, 2));
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    fails!(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture_v2(null_mut(), mode));
    ok!(cuStreamBeginCapture_v2(stream, mode));
    fails!(CUDA_ERROR_ILLEGAL_STATE, cuStreamBeginCapture_v2(stream, mode));
    // Memory of the graph, filled, copied and freed in it.
    let memory = get!(u64, |out| cuMemAllocAsync(out, 256, stream));
    let value = 4_u64;
    let mut params = pointers([&memory, &value]);
    ok!(cuLaunchKernel(fill, 2, 1, 1, 32, 1, 1, 0, stream, params.as_mut_ptr(), null_mut()));
    ok!(cuMemcpyDtoDAsync_v2(kept, memory, 256, stream), cuMemFreeAsync(memory, stream));
    fails!(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(kept, stream));
    // Both streams of a capture end it only where it began.
    ok!(cuEventRecord(event, stream), cuStreamWaitEvent(second, event, 0));
    fails!(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(event));
    let (mut status, mut id, mut graph, mut tail, mut count) =
        (CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE, 0, null_mut(), null(), 0);
    ok!(cuStreamGetCaptureInfo_v2(second, &mut status, &mut id, &mut graph, &mut tail, &mut count));
    assert_eq!((status, count), (CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE, 1));
    let node = unsafe { *tail };
    assert_eq!(
        get!(CUgraphNodeType, |out| cuGraphNodeGetType(node, out)),
        CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEM_FREE
    );
    ok!(cuEventRecord(event, second), cuStreamWaitEvent(stream, event, 0));
    let graph = get!(CUgraph, |out| cuStreamEndCapture(stream, out));
    let exec = get!(CUgraphExec, |out| cuGraphInstantiateWithFlags(out, graph, 0));
    for round in 0..2 {
        ok!(
            cuMemsetD8_v2(kept, round, 256),
            cuGraphLaunch(exec, stream),
            cuStreamSynchronize(stream)
        );
        assert_eq!(download(kept, 64), [4; 64]);
    }
    let used = || {
        let (mut free, mut total) = (0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        total - free
    };
    let before = used();
    ok!(cuGraphExecDestroy(exec), cuGraphDestroy(graph));
    assert_eq!(before - used(), 256, "the graph's memory went with it");

    // An allocation that is not of a stream breaks a capture, unless this thread said that it does not mind.
    ok!(cuStreamBeginCapture_v2(stream, mode));
    fails!(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc_v2(&mut 0, 4));
    let mut none = null_mut();
    fails!(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &mut none));
    assert!(none.is_null());
    let mut relaxed = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    ok!(cuThreadExchangeStreamCaptureMode(&mut relaxed), cuStreamBeginCapture_v2(stream, mode));
    alloc(4);
    let empty = get!(CUgraph, |out| cuStreamEndCapture(stream, out));
    ok!(cuGraphDestroy(empty));

    // The legacy stream beside a blocking stream that captures.
    let blocking = get!(CUstream, |out| cuStreamCreate(out, 0));
    ok!(cuStreamBeginCapture_v2(blocking, mode));
    fails!(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD8Async(kept, 0, 256, null_mut()));
    fails!(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(blocking, &mut none));
}

#[test]
fn addresses_of_functions() {
    if !common::emulated("addresses_of_functions", &[]) {
        return;
    }
    context();
    let find = |name: &CStr, version: i32| {
        let mut status = CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
        let found = get!(*mut c_void, |out| cuGetProcAddress_v2(
            name.as_ptr(),
            out,
            version,
            0,
            &mut status
        ));
        (found, status)
    };
    type Alloc = unsafe extern "C" fn(*mut u64, usize) -> CUresult;
    let alloc = unsafe { std::mem::transmute::<*mut c_void, Alloc>(find(c"cuMemAlloc", 12000).0) };
    let memory = get!(u64, |out| alloc(out, 16));
    ok!(cuMemFree_v2(memory));
    assert_ne!(find(c"cuCtxCreate", 11000).0, find(c"cuCtxCreate", 12050).0);
    let (none, status) = find(c"cuTexRefCreate", 12000);
    assert!(none.is_null(), "what is not supported is absent");
    assert_eq!(status, CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
}

#[test]
fn every_device_attribute() {
    if !common::emulated("every_device_attribute", &[("DEVICES", "sm_90")]) {
        return;
    }
    ok!(cuInit(0));
    let get = |attribute: u32| {
        // The enumeration has no gaps in this range.
        let attribute = unsafe { std::mem::transmute::<u32, CUdevice_attribute>(attribute) };
        get!(i32, |out| cuDeviceGetAttribute(out, attribute, 0))
    };
    let all: Vec<i32> = (1..=134).map(get).collect();
    // Threads of a block, warp size, multiprocessors, shared memory of a block with and without asking.
    assert_eq!([0, 9, 15, 7, 96].map(|index| all[index]), [1024, 32, 132, 48 << 10, 227 << 10]);
    let mut name = [0_u8; 32];
    ok!(cuDeviceGetName(name.as_mut_ptr().cast(), 32, 0));
    assert_eq!(CStr::from_bytes_until_nul(&name).unwrap(), c"PTX emulator sm_90");
    let mut short = [1_u8; 4];
    ok!(cuDeviceGetName(short.as_mut_ptr().cast(), 4, 0));
    assert_eq!(&short, b"PTX\0");
    let mut bus = [0_u8; 13];
    ok!(cuDeviceGetPCIBusId(bus.as_mut_ptr().cast(), 13, 0));
    assert_eq!(get!(i32, |out| cuDeviceGetByPCIBusId(out, bus.as_ptr().cast())), 0);
}

const TENSORS: &str = include_str!("driver/tensors.ptx");

#[test]
fn tensor_maps() {
    if !common::emulated("tensor_maps", &[("LOG", "off"), ("DEVICES", "sm_90")]) {
        return;
    }
    context();
    let text = CString::new(TENSORS).unwrap();
    let module = get!(CUmodule, |out| cuModuleLoadData(out, text.as_ptr().cast()));
    let fetch = get!(CUfunction, |out| cuModuleGetFunction(out, module, c"fetch".as_ptr()));
    use CUdevice_attribute::CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED as SUPPORTED;
    assert_eq!(get!(i32, |out| cuDeviceGetAttribute(out, SUPPORTED, 0)), 1);

    // 12 rows of 10 words, 48 bytes apart.
    let matrix = alloc(12 * 48);
    let words: Vec<u32> = (0..144).collect();
    ok!(cuMemcpyHtoD_v2(matrix, words.as_ptr().cast(), 12 * 48));
    let mut map: CUtensorMap = unsafe { std::mem::zeroed() };
    let encode =
        |map: *mut CUtensorMap, address: u64, dims: [u64; 2], pitch: u64, size: [u32; 2]| unsafe {
            cuTensorMapEncodeTiled(
                map,
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
                2,
                std::ptr::without_provenance_mut(address as usize),
                dims.as_ptr(),
                &pitch,
                size.as_ptr(),
                [1, 1].as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
    assert_eq!(encode(&mut map, matrix, [10, 12], 48, [8, 8]), CUDA_SUCCESS);
    let mut other = map;
    for (address, dims, pitch, size) in [
        (matrix + 4, [10, 12], 48, [8, 8]),
        (matrix, [0, 12], 48, [8, 8]),
        (matrix, [10, 12], 40, [8, 8]),
        (matrix, [10, 12], 48, [257, 8]),
        (matrix, [10, 12], 48, [8, 0]),
        (matrix, [10, 12], 48, [6, 8]),
    ] {
        assert_eq!(encode(&mut other, address, dims, pitch, size), CUDA_ERROR_INVALID_VALUE);
    }
    let odd = (&raw mut other).wrapping_byte_add(32);
    assert_eq!(encode(odd, matrix, [10, 12], 48, [8, 8]), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(encode(null_mut(), matrix, [10, 12], 48, [8, 8]), CUDA_ERROR_INVALID_VALUE);

    let out = alloc(512);
    let launch = |grid: u32, stream: CUstream, map: &CUtensorMap| {
        let mut params = [(&raw const *map).cast_mut().cast(), (&raw const out).cast_mut().cast()];
        unsafe {
            cuLaunchKernel(fetch, grid, 1, 1, 64, 1, 1, 0, stream, params.as_mut_ptr(), null_mut())
        }
    };
    let right: Vec<u32> = (0..2 * 64u32)
        .map(|at| (at % 8 + 4, at / 8))
        .map(|(x, y)| if x < 10 && y < 12 { 12 * y + x } else { 0 })
        .collect();
    assert_eq!(launch(2, null_mut(), &map), CUDA_SUCCESS);
    assert_eq!(download(out, 128), right);
    assert_eq!(launch(3, null_mut(), &map), CUDA_ERROR_INVALID_CLUSTER_SIZE);

    // From a graph, with the map that was there at the capture.
    ok!(cuMemsetD8_v2(out, 0, 512));
    let stream = get!(CUstream, |out| cuStreamCreate(out, 1));
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    ok!(cuStreamBeginCapture_v2(stream, mode));
    other = map;
    assert_eq!(launch(2, stream, &other), CUDA_SUCCESS);
    other.opaque = [0; 16];
    let graph = get!(CUgraph, |out| cuStreamEndCapture(stream, out));
    let exec = get!(CUgraphExec, |out| cuGraphInstantiateWithFlags(out, graph, 0));
    ok!(cuGraphLaunch(exec, stream), cuStreamSynchronize(stream));
    assert_eq!(download(out, 128), right);

    // Another address, and a cluster that the launch asks for.
    let copy = alloc(12 * 48);
    let doubled: Vec<u32> = words.iter().map(|word| 2 * word).collect();
    ok!(cuMemcpyHtoD_v2(copy, doubled.as_ptr().cast(), 12 * 48));
    ok!(cuTensorMapReplaceAddress(&mut map, std::ptr::without_provenance_mut(copy as usize)));
    let mut attribute: CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim = CUlaunchAttributeValue_union__bindgen_ty_1 { x: 2, y: 1, z: 1 };
    let mut config = CUlaunchConfig {
        gridDimX: 2,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 64,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: null_mut(),
        attrs: &mut attribute,
        numAttrs: 1,
    };
    let mut params = [(&raw mut map).cast(), (&raw const out).cast_mut().cast()];
    ok!(cuLaunchKernelEx(&config, fetch, params.as_mut_ptr(), null_mut()));
    assert_eq!(download(out, 128), right.iter().map(|word| 2 * word).collect::<Vec<u32>>());
    attribute.value.clusterDim = CUlaunchAttributeValue_union__bindgen_ty_1 { x: 1, y: 1, z: 1 };
    config.attrs = &mut attribute;
    fails!(
        CUDA_ERROR_INVALID_VALUE,
        cuLaunchKernelEx(&config, fetch, params.as_mut_ptr(), null_mut())
    );

    // What is no map is found by the kernel.
    assert_eq!(launch(2, null_mut(), &other), CUDA_SUCCESS);
    fails!(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
}
