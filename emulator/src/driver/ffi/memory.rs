//! Memory: allocations, copies, memsets, pools and pointers.

use std::ffi::{c_int, c_uint, c_ulonglong};

use super::super::abi::{
    AccessDesc, Handle, Host, In, Location, Memcpy2D, Memcpy3D, Ordinal, Out, PoolProps, Raw,
};
use super::super::copy::{Copy, Place};
use super::super::error::{Error, Result};
use super::super::memory::Attribute;
use super::super::pool::{Pool, Value};
use super::super::state::Call;
use super::super::tensor;
use super::super::work::Work;
use crate::memory::Kind;
use crate::tensor_map::{RANK, Tiled};

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const ON_DEVICE: c_uint = 1;

fn host(raw: Raw) -> Place {
    Place::Host(Host::new(raw))
}

fn linear(to: Place, from: Place, bytes: usize) -> Copy {
    Copy::linear(to, from, bytes as u64)
}

/// A memset of `height` rows, in a stream or, without one, at once.
fn set(
    call: Call,
    at: (u64, usize),
    value: u32,
    size: u32,
    extent: (usize, usize),
    stream: Option<Handle>,
) -> Result {
    let ((address, pitch), (width, height)) = (at, extent);
    let fill = call.fill_of(address, pitch as u64, value, size, width as u64, height as u64)?;
    call.enqueue(stream.unwrap_or(0), Work::Fill(fill))
}

fn put(out: Raw, value: Attribute) -> Result {
    match value {
        Attribute::Word(value) => out.cast().set(value),
        Attribute::Long(value) => out.cast().set(value),
    }
}

/// Checks a place that memory is to move to: managed memory is where it is.
fn advise(call: Call, address: u64) -> Result {
    call.range_of(address).map(drop).map_err(|_| Error::INVALID_VALUE)
}

api! {
    bound fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |call| {
        let usage = call.device().memory.usage();
        let limit = call.driver.faults.memory_limit().min(usage.total);
        free.set_if_wanted(limit.saturating_sub(usage.used) as usize);
        total.set_if_wanted(usage.total as usize);
        Ok(())
    }

    bound fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) |call| {
        address.set(call.allocate(bytes as u64, Kind::Device, 0)?)
    }

    bound fn cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: c_uint) |call| {
        let (at, row) = call.allocate_pitch(width, height, element)?;
        pitch.set(row)?;
        address.set(at)
    }

    bound fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: c_uint) |call| {
        if !matches!(flags, 1 | 2) {
            return Err(Error::INVALID_VALUE);
        }
        address.set(call.allocate(bytes as u64, Kind::Managed, flags)?)
    }

    bound fn cuMemAllocHost_v2(pointer: Out<u64>, bytes: usize) |call| {
        pointer.set(call.allocate(bytes as u64, Kind::Pinned, 0)?)
    }

    bound fn cuMemHostAlloc(pointer: Out<u64>, bytes: usize, flags: c_uint) |call| {
        if flags > 7 {
            return Err(Error::INVALID_VALUE);
        }
        pointer.set(call.allocate(bytes as u64, Kind::Pinned, flags)?)
    }

    frees fn cuMemFree_v2(address: u64) |call| { call.free(address) }

    frees fn cuMemFreeHost(pointer: u64) |call| { call.free_host(pointer) }

    bound fn cuMemHostRegister_v2(pointer: u64, bytes: usize, flags: c_uint) |call| {
        call.register_host(pointer, bytes, flags)
    }

    frees fn cuMemHostUnregister(pointer: u64) |call| { call.unregister_host(pointer) }

    bound fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: u64, flags: c_uint) |call| {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        address.set(call.host_pointer(pointer)?.0)
    }

    bound fn cuMemHostGetFlags(flags: Out<c_uint>, pointer: u64) |call| {
        flags.set(call.host_pointer(pointer)?.1)
    }

    bound fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) |call| {
        address.set(call.allocate_async(bytes as u64, None, stream)?)
    }

    bound fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) |call| {
        address.set(call.allocate_async(bytes as u64, Some(pool), stream)?)
    }

    ends fn cuMemFreeAsync(address: u64, stream: Handle) |call| { call.free_async(address, stream) }

    bound fn cuMemPoolCreate(pool: Out<Handle>, props: In<PoolProps>) |call| {
        let props = props.get()?;
        // Pinned device memory that is not shared with other processes.
        if props.allocation != 1 || props.location.kind != ON_DEVICE {
            return Err(Error::INVALID_VALUE);
        }
        if props.handles != 0 {
            return Err(Error::NOT_SUPPORTED);
        }
        let device = call.driver.device(props.location.id)?.ordinal;
        let mut state = call.state();
        let handle = state.handle();
        state.pools.insert(handle, Pool::new(device, false, props.max_size as u64));
        pool.set(handle)
    }

    ends fn cuMemPoolDestroy(pool: Handle) |call| { call.driver.destroy_pool(pool) }

    bound fn cuMemPoolTrimTo(pool: Handle, keep: usize) |call| {
        call.state().pool(pool)?.trim(keep as u64);
        Ok(())
    }

    bound fn cuMemPoolGetAttribute(pool: Handle, attribute: c_uint, value: Raw) |call| {
        let found = call.state().pool(pool)?.attribute(attribute)?;
        match found {
            Value::Word(word) => value.cast().set(word),
            Value::Long(long) => value.cast().set(long),
        }
    }

    bound fn cuMemPoolSetAttribute(pool: Handle, attribute: c_uint, value: Raw) |call| {
        let value = match Pool::is_long(attribute) {
            true => value.cast::<u64>().get()?,
            false => u64::from(value.cast::<u32>().get()?),
        };
        call.state().pool(pool)?.set_attribute(attribute, value)
    }

    bound fn cuMemPoolSetAccess(pool: Handle, access: In<AccessDesc>, count: usize) |call| {
        let device = call.state().pool(pool)?.device;
        for access in access.list(count)? {
            // Only its own device reaches a pool, and it always does.
            let is_own = access.location.kind == ON_DEVICE && access.location.id == device as c_int;
            if !is_own || access.flags != 3 {
                return Err(Error::NOT_SUPPORTED);
            }
        }
        Ok(())
    }

    bound fn cuMemPoolGetAccess(flags: Out<c_uint>, pool: Handle, location: In<Location>) |call| {
        let device = call.state().pool(pool)?.device;
        let Location { kind, id } = location.get()?;
        call.driver.device(id)?;
        flags.set(if kind == ON_DEVICE && id == device as c_int { 3 } else { 0 })
    }

    blocks fn cuMemcpyHtoD_v2(to: u64, from: Raw, bytes: usize) |call| {
        call.copy_now(linear(call.device_place(to), host(from), bytes))
    }

    blocks fn cuMemcpyDtoH_v2(to: Raw, from: u64, bytes: usize) |call| {
        call.copy_now(linear(host(to), call.device_place(from), bytes))
    }

    blocks fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |call| {
        call.copy_now(linear(call.device_place(to), call.device_place(from), bytes))
    }

    blocks fn cuMemcpy(to: u64, from: u64, bytes: usize) |call| {
        call.copy_now(linear(call.any_place(to), call.any_place(from), bytes))
    }

    blocks fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) |call| {
        let copy = linear(call.peer_place(to_context, to)?, call.peer_place(from_context, from)?, bytes);
        call.copy_now(copy)
    }

    bound fn cuMemcpyHtoDAsync_v2(to: u64, from: Raw, bytes: usize, stream: Handle) |call| {
        call.enqueue(stream, Work::Copy(linear(call.device_place(to), host(from), bytes)))
    }

    bound fn cuMemcpyDtoHAsync_v2(to: Raw, from: u64, bytes: usize, stream: Handle) |call| {
        call.enqueue(stream, Work::Copy(linear(host(to), call.device_place(from), bytes)))
    }

    bound fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) |call| {
        call.enqueue(stream, Work::Copy(linear(call.device_place(to), call.device_place(from), bytes)))
    }

    bound fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) |call| {
        call.enqueue(stream, Work::Copy(linear(call.any_place(to), call.any_place(from), bytes)))
    }

    bound fn cuMemcpyPeerAsync(
        to: u64,
        to_context: Handle,
        from: u64,
        from_context: Handle,
        bytes: usize,
        stream: Handle,
    ) |call| {
        let copy = linear(call.peer_place(to_context, to)?, call.peer_place(from_context, from)?, bytes);
        call.enqueue(stream, Work::Copy(copy))
    }

    blocks fn cuMemcpy2D_v2(copy: In<Memcpy2D>) |call| { call.copy_now(call.copy_2d(&copy.get()?)?) }

    blocks fn cuMemcpy2DUnaligned_v2(copy: In<Memcpy2D>) |call| { call.copy_now(call.copy_2d(&copy.get()?)?) }

    bound fn cuMemcpy2DAsync_v2(copy: In<Memcpy2D>, stream: Handle) |call| {
        call.enqueue(stream, Work::Copy(call.copy_2d(&copy.get()?)?))
    }

    blocks fn cuMemcpy3D_v2(copy: In<Memcpy3D>) |call| { call.copy_now(call.copy_3d(&copy.get()?)?) }

    bound fn cuMemcpy3DAsync_v2(copy: In<Memcpy3D>, stream: Handle) |call| {
        call.enqueue(stream, Work::Copy(call.copy_3d(&copy.get()?)?))
    }

    blocks fn cuMemcpy3DPeer(copy: In<Memcpy3D>) |call| { call.copy_now(call.copy_3d(&copy.get()?)?) }

    bound fn cuMemcpy3DPeerAsync(copy: In<Memcpy3D>, stream: Handle) |call| {
        call.enqueue(stream, Work::Copy(call.copy_3d(&copy.get()?)?))
    }

    bound fn cuMemsetD8_v2(address: u64, value: u8, count: usize) |call| {
        set(call, (address, 0), value.into(), 1, (count, 1), None)
    }

    bound fn cuMemsetD16_v2(address: u64, value: u16, count: usize) |call| {
        set(call, (address, 0), value.into(), 2, (count, 1), None)
    }

    bound fn cuMemsetD32_v2(address: u64, value: u32, count: usize) |call| {
        set(call, (address, 0), value, 4, (count, 1), None)
    }

    bound fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Handle) |call| {
        set(call, (address, 0), value.into(), 1, (count, 1), Some(stream))
    }

    bound fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Handle) |call| {
        set(call, (address, 0), value.into(), 2, (count, 1), Some(stream))
    }

    bound fn cuMemsetD32Async(address: u64, value: u32, count: usize, stream: Handle) |call| {
        set(call, (address, 0), value, 4, (count, 1), Some(stream))
    }

    bound fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize) |call| {
        set(call, (address, pitch), value.into(), 1, (width, height), None)
    }

    bound fn cuMemsetD2D16_v2(address: u64, pitch: usize, value: u16, width: usize, height: usize) |call| {
        set(call, (address, pitch), value.into(), 2, (width, height), None)
    }

    bound fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: u32, width: usize, height: usize) |call| {
        set(call, (address, pitch), value, 4, (width, height), None)
    }

    bound fn cuMemsetD2D8Async(address: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle) |call| {
        set(call, (address, pitch), value.into(), 1, (width, height), Some(stream))
    }

    bound fn cuMemsetD2D16Async(address: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle) |call| {
        set(call, (address, pitch), value.into(), 2, (width, height), Some(stream))
    }

    bound fn cuMemsetD2D32Async(address: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle) |call| {
        set(call, (address, pitch), value, 4, (width, height), Some(stream))
    }

    bound fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) |call| {
        let (start, size) = call.range_of(address)?;
        base.set_if_wanted(start);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    bound fn cuPointerGetAttribute(data: Raw, attribute: c_uint, pointer: u64) |call| {
        put(data, call.pointer_attribute(pointer, attribute)?)
    }

    bound fn cuPointerGetAttributes(count: c_uint, attributes: In<c_uint>, data: In<Raw>, pointer: u64) |call| {
        for index in 0..count as usize {
            let (attribute, out) = (attributes.at(index)?, data.at(index)?);
            match call.pointer_attribute(pointer, attribute) {
                Ok(value) => put(out, value)?,
                // A pointer that is not the driver's has zeros, and no device.
                Err(_) => match attribute {
                    9 => out.cast().set(-2_i32)?,
                    2 | 6 | 8 | 10 | 13 | 15 | 16 => out.cast().set(0_u32)?,
                    1..=20 => out.cast().set(0_u64)?,
                    _ => return Err(Error::INVALID_VALUE),
                },
            }
        }
        Ok(())
    }

    bound fn cuPointerSetAttribute(_value: Raw, attribute: c_uint, pointer: u64) |call| {
        // SYNC_MEMOPS: copies are synchronous anyway.
        if attribute != 6 {
            return Err(Error::INVALID_VALUE);
        }
        call.pointer_attribute(pointer, attribute).map(drop)
    }

    bound fn cuMemAdvise(address: u64, _bytes: usize, _advice: c_uint, _device: Ordinal) |call| {
        advise(call, address)
    }

    bound fn cuMemAdvise_v2(address: u64, _bytes: usize, _advice: c_uint, _location: Location) |call| {
        advise(call, address)
    }

    bound fn cuMemPrefetchAsync(address: u64, _bytes: usize, _device: Ordinal, stream: Handle) |call| {
        call.with_stream(stream, |_| ())?;
        advise(call, address)
    }

    bound fn cuMemPrefetchAsync_v2(address: u64, _bytes: usize, _location: Location, _flags: c_uint, stream: Handle) |call| {
        call.with_stream(stream, |_| ())?;
        advise(call, address)
    }

    bound fn cuMemGetAllocationGranularity(bytes: Out<usize>, _props: Raw, _option: c_ulonglong) |_| {
        bytes.set(2 << 20)
    }

    ready fn cuTensorMapEncodeTiled(
        map: Raw,
        element: c_uint,
        rank: c_uint,
        address: Raw,
        dims: In<u64>,
        strides: In<u64>,
        sizes: In<u32>,
        steps: In<u32>,
        interleave: c_uint,
        swizzle: c_uint,
        promotion: c_uint,
        fill: c_uint,
    ) |driver| {
        if !(1..=RANK as c_uint).contains(&rank) {
            return Err(Error::INVALID_VALUE);
        }
        let count = rank as usize;
        let tiled = Tiled {
            element,
            rank,
            address: address.address(),
            dims: dims.list(count)?,
            strides: strides.list(count - 1)?,
            sizes: sizes.list(count)?,
            steps: steps.list(count)?,
            interleave,
            swizzle,
            promotion,
            fill,
        };
        tensor::encode(&driver.record, map, &tiled)
    }

    ready fn cuTensorMapReplaceAddress(map: Raw, address: Raw) |_| {
        tensor::replace_address(map, address.address())
    }
}
