//! Contexts.

use std::ffi::{c_int, c_uint};

use super::super::abi::{Handle, In, Ordinal, Out, Raw};
use super::super::error::Error;
use super::super::state::{current, stack};
use super::super::stream::PRIORITIES;

/// The driver API's version that contexts report.
const API_VERSION: c_uint = 3020;

api! {
    ready fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: Ordinal) |driver| {
        context.set(driver.retain_primary(device)?)
    }

    ready fn cuDevicePrimaryCtxRelease_v2(device: Ordinal) |driver| { driver.release_primary(device) }

    ready fn cuDevicePrimaryCtxRelease(device: Ordinal) |driver| { driver.release_primary(device) }

    ready fn cuDevicePrimaryCtxReset_v2(device: Ordinal) |driver| { driver.reset_primary(device) }

    ready fn cuDevicePrimaryCtxReset(device: Ordinal) |driver| { driver.reset_primary(device) }

    ready fn cuDevicePrimaryCtxSetFlags_v2(device: Ordinal, flags: c_uint) |driver| {
        driver.set_primary_flags(device, flags)
    }

    ready fn cuDevicePrimaryCtxSetFlags(device: Ordinal, flags: c_uint) |driver| {
        driver.set_primary_flags(device, flags)
    }

    ready fn cuDevicePrimaryCtxGetState(device: Ordinal, flags: Out<c_uint>, active: Out<c_int>) |driver| {
        let device = driver.device(device)?.ordinal;
        let state = driver.state();
        let primary = &state.primaries[device];
        flags.set(primary.flags)?;
        active.set(c_int::from(primary.context.is_some()))
    }

    ready fn cuCtxCreate_v2(context: Out<Handle>, flags: c_uint, device: Ordinal) |driver| {
        context.set(driver.create_context(device, flags)?)
    }

    ready fn cuCtxCreate_v3(
        context: Out<Handle>,
        _affinities: In<[u32; 4]>,
        count: c_int,
        flags: c_uint,
        device: Ordinal,
    ) |driver| {
        if count != 0 {
            return Err(Error::NOT_SUPPORTED);
        }
        context.set(driver.create_context(device, flags)?)
    }

    ready fn cuCtxCreate_v4(context: Out<Handle>, params: Raw, flags: c_uint, device: Ordinal) |driver| {
        // Execution affinity and graphics interoperation are all that parameters are for.
        let asks = !params.is_null() && params.cast::<[u64; 3]>().get()? != [0; 3];
        if asks {
            return Err(Error::NOT_SUPPORTED);
        }
        context.set(driver.create_context(device, flags)?)
    }

    ready fn cuCtxDestroy_v2(context: Handle) |driver| { driver.destroy_context(context) }

    ready fn cuCtxPushCurrent_v2(context: Handle) |driver| { driver.push_current(context) }

    ready fn cuCtxPopCurrent_v2(context: Out<Handle>) |driver| {
        let popped = driver.pop_current()?;
        context.set_if_wanted(popped);
        Ok(())
    }

    ready fn cuCtxSetCurrent(context: Handle) |driver| { driver.set_current(context) }

    ready fn cuCtxGetCurrent(context: Out<Handle>) |_| { context.set(current().unwrap_or(0)) }

    ready fn cuCtxGetDevice(device: Out<Ordinal>) |driver| {
        device.set(driver.call()?.device as Ordinal)
    }

    ready fn cuCtxGetId(context: Handle, id: Out<u64>) |driver| {
        let context = driver.call()?.context_or_current(context)?;
        id.set(context)
    }

    ready fn cuCtxGetApiVersion(context: Handle, version: Out<c_uint>) |driver| {
        if context != 0 {
            driver.state().context(context)?;
        } else if stack(|stack| stack.is_empty()) {
            return Err(Error::INVALID_CONTEXT);
        }
        version.set(API_VERSION)
    }

    bound fn cuCtxGetFlags(flags: Out<c_uint>) |call| {
        let value = call.state().context(call.context)?.flags;
        flags.set(value)
    }

    bound fn cuCtxSetFlags(flags: c_uint) |call| {
        call.state().context(call.context)?.flags = flags;
        Ok(())
    }

    bound fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) |call| {
        let found = *call.state().context(call.context)?.limit(limit)?;
        value.set(found)
    }

    bound fn cuCtxSetLimit(limit: c_uint, value: usize) |call| {
        *call.state().context(call.context)?.limit(limit)? = value;
        Ok(())
    }

    bound fn cuCtxGetCacheConfig(config: Out<c_uint>) |call| {
        let cache = call.state().context(call.context)?.cache;
        config.set(cache)
    }

    bound fn cuCtxSetCacheConfig(config: c_uint) |call| {
        if config > 3 {
            return Err(Error::INVALID_VALUE);
        }
        call.state().context(call.context)?.cache = config;
        Ok(())
    }

    bound fn cuCtxGetSharedMemConfig(config: Out<c_uint>) |_| {
        // Banks of four bytes.
        config.set(1)
    }

    bound fn cuCtxSetSharedMemConfig(config: c_uint) |_| {
        if config <= 2 { Ok(()) } else { Err(Error::INVALID_VALUE) }
    }

    bound fn cuCtxResetPersistingL2Cache() |_| { Ok(()) }

    bound fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) |_| {
        least.set_if_wanted(PRIORITIES.0);
        greatest.set_if_wanted(PRIORITIES.1);
        Ok(())
    }

    waits fn cuCtxSynchronize() |call| {
        call.refuse_any_capturing(call.context)?;
        call.wait()
    }

    bound fn cuCtxEnablePeerAccess(peer: Handle, flags: c_uint) |call| {
        call.state().context(peer)?;
        Err(if flags == 0 { Error::PEER_ACCESS_UNSUPPORTED } else { Error::INVALID_VALUE })
    }

    bound fn cuCtxDisablePeerAccess(peer: Handle) |call| {
        call.state().context(peer)?;
        Err(Error::PEER_ACCESS_NOT_ENABLED)
    }
}
