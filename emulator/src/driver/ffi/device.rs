//! Initialisation, errors, versions and devices.

use std::ffi::{c_char, c_int, c_uint};

use super::super::abi::{Handle, In, Ordinal, Out, Properties, Raw, Text};
use super::super::arch::{MAX_BLOCK, MAX_GRID, MAX_THREADS, REGISTERS, SHARED_BLOCK, attribute};
use super::super::control;
use super::super::error::Error;
use super::super::state;

/// CUDA 12.8.
const VERSION: c_int = 12080;

/// Functions whose versions came later than their first: name, CUDA version, symbol. The last that is not too new counts.
const VERSIONS: &[(&str, c_int, &str)] = &[
    ("cuCtxCreate", 3020, "cuCtxCreate_v2"),
    ("cuCtxCreate", 11040, "cuCtxCreate_v3"),
    ("cuCtxCreate", 12050, "cuCtxCreate_v4"),
    ("cuDeviceGetUuid", 9020, "cuDeviceGetUuid"),
    ("cuDeviceGetUuid", 11040, "cuDeviceGetUuid_v2"),
    ("cuEventElapsedTime", 2000, "cuEventElapsedTime"),
    ("cuEventElapsedTime", 12080, "cuEventElapsedTime_v2"),
    ("cuGetProcAddress", 11030, "cuGetProcAddress"),
    ("cuGetProcAddress", 12000, "cuGetProcAddress_v2"),
    ("cuGraphAddKernelNode", 10000, "cuGraphAddKernelNode"),
    ("cuGraphAddKernelNode", 12000, "cuGraphAddKernelNode_v2"),
    ("cuGraphExecKernelNodeSetParams", 10010, "cuGraphExecKernelNodeSetParams"),
    ("cuGraphExecKernelNodeSetParams", 12000, "cuGraphExecKernelNodeSetParams_v2"),
    ("cuGraphExecUpdate", 10020, "cuGraphExecUpdate"),
    ("cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2"),
    ("cuGraphInstantiate", 11000, "cuGraphInstantiate_v2"),
    ("cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"),
    ("cuGraphKernelNodeGetParams", 10000, "cuGraphKernelNodeGetParams"),
    ("cuGraphKernelNodeGetParams", 12000, "cuGraphKernelNodeGetParams_v2"),
    ("cuGraphKernelNodeSetParams", 10000, "cuGraphKernelNodeSetParams"),
    ("cuGraphKernelNodeSetParams", 12000, "cuGraphKernelNodeSetParams_v2"),
    ("cuMemAdvise", 8000, "cuMemAdvise"),
    ("cuMemAdvise", 12020, "cuMemAdvise_v2"),
    ("cuMemPrefetchAsync", 8000, "cuMemPrefetchAsync"),
    ("cuMemPrefetchAsync", 12020, "cuMemPrefetchAsync_v2"),
    ("cuStreamGetCaptureInfo", 10010, "cuStreamGetCaptureInfo"),
    ("cuStreamGetCaptureInfo", 11030, "cuStreamGetCaptureInfo_v2"),
];

/// The symbol of a function for a CUDA version.
fn symbol_of(name: &str, version: c_int) -> Option<u64> {
    let listed = VERSIONS.iter().rev().find(|entry| entry.0 == name && entry.1 <= version);
    let all = super::symbols();
    let find = |wanted: &str| all.iter().find(|(name, _)| *name == wanted).map(|&(_, at)| at);
    match listed {
        Some((_, _, symbol)) => find(symbol),
        None => find(&format!("{name}_v2")).or_else(|| find(name)),
    }
}

fn find(symbol: Text, out: Out<u64>, version: c_int, status: Out<c_uint>) -> super::Result {
    match symbol_of(symbol.get()?, version) {
        Some(address) => {
            status.set_if_wanted(0);
            out.set(address)
        }
        None => {
            // The symbol was not found; without a status, that is an error.
            status.set_if_wanted(1);
            out.set(0)?;
            if status.is_null() { Err(Error::NOT_FOUND) } else { Ok(()) }
        }
    }
}

/// The identity of a device: the same in every process.
fn uuid(ordinal: usize, target: u32) -> [u8; 16] {
    let mut uuid = *b"ptx-emulator\0\0\0\0";
    uuid[13] = target as u8;
    uuid[15] = ordinal as u8;
    uuid
}

api! {
    plain fn cuInit(flags: c_uint) |()| {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        state::init().map(drop)
    }

    plain fn cuDriverGetVersion(version: Out<c_int>) |()| { version.set(VERSION) }

    plain fn cuGetErrorName(error: c_uint, text: Out<Raw>) |()| {
        let name = if error == 0 { Some(c"CUDA_SUCCESS") } else { Error(error).name() };
        text.set(name.map_or(Raw::NULL, |name| Raw::at(name.as_ptr() as u64)))?;
        name.map(drop).ok_or(Error::INVALID_VALUE)
    }

    plain fn cuGetErrorString(error: c_uint, text: Out<Raw>) |()| {
        let found = Error(error).text();
        text.set(found.map_or(Raw::NULL, |found| Raw::at(found.as_ptr() as u64)))?;
        found.map(drop).ok_or(Error::INVALID_VALUE)
    }

    plain fn cuGetProcAddress(symbol: Text, out: Out<u64>, version: c_int, _flags: u64) |()| {
        if symbol_of(symbol.get()?, version).is_none() {
            out.set(0)?;
            return Err(Error::NOT_FOUND);
        }
        find(symbol, out, version, Raw::NULL.cast())
    }

    plain fn cuGetProcAddress_v2(symbol: Text, out: Out<u64>, version: c_int, _flags: u64, status: Out<c_uint>) |()| {
        find(symbol, out, version, status)
    }

    plain fn cuGetExportTable(_table: Out<u64>, _id: In<[u8; 16]>) |()| { Err(Error::NOT_FOUND) }

    ready fn cuDeviceGetCount(count: Out<c_int>) |driver| { count.set(driver.devices.len() as c_int) }

    ready fn cuDeviceGet(device: Out<Ordinal>, ordinal: c_int) |driver| {
        device.set(driver.device(ordinal)?.ordinal as Ordinal)
    }

    ready fn cuDeviceGetName(name: Raw, len: c_int, device: Ordinal) |driver| {
        let len = usize::try_from(len).map_err(|_| Error::INVALID_VALUE)?;
        if name.is_null() || len == 0 {
            return Err(Error::INVALID_VALUE);
        }
        name.put_text(len, &driver.device(device)?.arch.name())
    }

    ready fn cuDeviceGetUuid(out: Out<[u8; 16]>, device: Ordinal) |driver| {
        let device = driver.device(device)?;
        out.set(uuid(device.ordinal, device.arch.target))
    }

    ready fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, device: Ordinal) |driver| {
        let device = driver.device(device)?;
        out.set(uuid(device.ordinal, device.arch.target))
    }

    ready fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: Ordinal) |driver| {
        bytes.set(driver.device(device)?.memory.usage().total as usize)
    }

    ready fn cuDeviceGetAttribute(value: Out<c_int>, name: c_uint, device: Ordinal) |driver| {
        let device = driver.device(device)?;
        value.set(attribute(&device.arch, device.ordinal, name).ok_or(Error::INVALID_VALUE)?)
    }

    ready fn cuDeviceGetProperties(out: Out<Properties>, device: Ordinal) |driver| {
        let arch = driver.device(device)?.arch;
        let [bx, by, bz] = MAX_BLOCK.map(|n| n as c_int);
        let [gx, gy, gz] = MAX_GRID.map(|n| n as c_int);
        out.set(Properties([
            MAX_THREADS as c_int, bx, by, bz, gx, gy, gz, SHARED_BLOCK as c_int, 65536, 32, i32::MAX,
            REGISTERS as c_int, arch.clock as c_int * 1000, 512,
        ]))
    }

    ready fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: Ordinal) |driver| {
        let target = driver.device(device)?.arch.target as c_int;
        major.set(target / 10)?;
        minor.set(target % 10)
    }

    ready fn cuDeviceGetPCIBusId(id: Raw, len: c_int, device: Ordinal) |driver| {
        let bus = driver.device(device)?.ordinal + 1;
        let len = usize::try_from(len).map_err(|_| Error::INVALID_VALUE)?;
        if id.is_null() || len < 13 {
            return Err(Error::INVALID_VALUE);
        }
        id.put_text(len, &format!("0000:{bus:02X}:00.0"))
    }

    ready fn cuDeviceGetByPCIBusId(device: Out<Ordinal>, id: Text) |driver| {
        let bus = id.get()?.split(':').nth_back(1).and_then(|bus| usize::from_str_radix(bus, 16).ok());
        let ordinal = bus.and_then(|bus| bus.checked_sub(1)).filter(|&n| n < driver.devices.len());
        device.set(ordinal.ok_or(Error::INVALID_DEVICE)? as Ordinal)
    }

    ready fn cuDeviceCanAccessPeer(can: Out<c_int>, device: Ordinal, peer: Ordinal) |driver| {
        driver.device(device)?;
        driver.device(peer)?;
        // Kernels do not reach the memory of other devices; copies between devices do.
        can.set(0)
    }

    ready fn cuDeviceGetP2PAttribute(value: Out<c_int>, name: c_uint, device: Ordinal, peer: Ordinal) |driver| {
        if driver.device(device)?.ordinal == driver.device(peer)?.ordinal {
            return Err(Error::INVALID_DEVICE);
        }
        if !(1..=5).contains(&name) {
            return Err(Error::INVALID_VALUE);
        }
        value.set(0)
    }

    ready fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: Ordinal) |driver| {
        let device = driver.device(device)?.ordinal;
        let default = driver.state().primaries[device].default_pool;
        pool.set(default)
    }

    ready fn cuDeviceGetMemPool(pool: Out<Handle>, device: Ordinal) |driver| {
        let device = driver.device(device)?.ordinal;
        let current = driver.state().primaries[device].pool;
        pool.set(current)
    }

    ready fn cuDeviceSetMemPool(device: Ordinal, pool: Handle) |driver| {
        let device = driver.device(device)?.ordinal;
        let mut state = driver.state();
        if state.pool(pool)?.device != device {
            return Err(Error::INVALID_VALUE);
        }
        state.primaries[device].pool = pool;
        Ok(())
    }

    ready fn cuDeviceGraphMemTrim(device: Ordinal) |driver| { driver.device(device).map(drop) }

    ready fn cuProfilerInitialize(_config: Text, _output: Text, _mode: c_uint) |_| {
        Err(Error::PROFILER_DISABLED)
    }

    ready fn cuProfilerStart() |_| { Ok(()) }

    ready fn cuProfilerStop() |_| { Ok(()) }
}

/// The client's door: a request and a reply as JSON, see `crate::client`. The reply goes back to [`ptxEmulatorFree`].
#[unsafe(no_mangle)]
pub extern "C" fn ptxEmulatorControl(request: Text, reply: Out<Raw>) -> c_int {
    let answer = super::code(|| {
        let answer = std::ffi::CString::new(control::control(request.get()?));
        let answer = answer.map_err(|_| Error::UNKNOWN)?.into_raw();
        reply.set(Raw::at(answer as u64))
    });
    answer as c_int
}

/// Frees a reply.
///
/// # Safety
/// It came from [`ptxEmulatorControl`], and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptxEmulatorFree(reply: *mut c_char) {
    if !reply.is_null() {
        // SAFETY: the caller's promise; replies are made by `CString::into_raw`.
        drop(unsafe { std::ffi::CString::from_raw(reply) });
    }
}
