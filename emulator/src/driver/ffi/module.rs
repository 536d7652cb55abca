//! Modules, functions, libraries and kernels.

use std::ffi::{c_int, c_uint};

use super::super::abi::{Handle, In, Ordinal, Out, Raw, Text};
use super::super::error::{Error, Result};
use super::super::module::Options;
use super::super::state::{Call, Driver};

const NO_OPTIONS: fn() -> Options = || Options { count: 0, names: In::null(), values: In::null() };

fn param_info(
    call: Call,
    function: Handle,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> Result {
    call.with_function(function, |function, _| {
        let param = function.kernel.params.get(index).ok_or(Error::INVALID_VALUE)?;
        offset.set(param.offset as usize)?;
        size.set_if_wanted(param.size as usize);
        Ok(())
    })
}

/// A call in a context of a device: the current one, as long as it is of that device.
fn on_device(driver: &'static Driver, device: Ordinal) -> Result<Call> {
    let call = driver.call()?;
    call.check()?;
    if call.device == driver.device(device)?.ordinal {
        Ok(call)
    } else {
        Err(Error::INVALID_CONTEXT)
    }
}

api! {
    bound fn cuModuleLoad(module: Out<Handle>, path: Text) |call| {
        module.set(call.load_file(path.get()?)?)
    }

    bound fn cuModuleLoadData(module: Out<Handle>, image: Raw) |call| {
        module.set(call.load(image, &NO_OPTIONS())?)
    }

    bound fn cuModuleLoadDataEx(
        module: Out<Handle>,
        image: Raw,
        count: c_uint,
        names: In<c_uint>,
        values: In<Raw>,
    ) |call| {
        module.set(call.load(image, &Options { count, names, values })?)
    }

    bound fn cuModuleLoadFatBinary(module: Out<Handle>, image: Raw) |call| {
        module.set(call.load(image, &NO_OPTIONS())?)
    }

    ends fn cuModuleUnload(module: Handle) |call| { call.driver.unload(module) }

    bound fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) |call| {
        function.set(call.function(module, name.get()?)?)
    }

    bound fn cuModuleGetFunctionCount(count: Out<c_uint>, module: Handle) |call| {
        count.set(call.functions(module)?.len() as c_uint)
    }

    bound fn cuModuleEnumerateFunctions(functions: Out<Handle>, count: c_uint, module: Handle) |call| {
        let all = call.functions(module)?;
        all.iter().take(count as usize).enumerate().try_for_each(|(index, &f)| functions.set_at(index, f))
    }

    bound fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) |call| {
        let (at, size) = call.global(module, name.get()?)?;
        address.set_if_wanted(at);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    ready fn cuModuleGetLoadingMode(mode: Out<c_uint>) |_| {
        // Eager.
        mode.set(1)
    }

    bound fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_uint, function: Handle) |call| {
        value.set(call.with_function(function, |function, _| function.attribute(attribute))?)
    }

    bound fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) |call| {
        call.with_function(function, |function, device| function.set_attribute(attribute, value, device))
    }

    bound fn cuFuncSetCacheConfig(function: Handle, config: c_uint) |call| {
        if config > 3 {
            return Err(Error::INVALID_VALUE);
        }
        call.with_function(function, |_, _| Ok(()))
    }

    bound fn cuFuncSetSharedMemConfig(function: Handle, _config: c_uint) |call| {
        call.with_function(function, |_, _| Ok(()))
    }

    bound fn cuFuncGetModule(module: Out<Handle>, function: Handle) |call| {
        module.set(call.with_function(function, |function, _| Ok(function.module))?)
    }

    bound fn cuFuncGetName(name: Out<Raw>, function: Handle) |call| {
        let at = |function: &mut super::super::module::Function| function.name.as_ptr() as u64;
        name.set(Raw::at(call.with_function(function, |function, _| Ok(at(function)))?))
    }

    bound fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, size: Out<usize>) |call| {
        param_info(call, function, index, offset, size)
    }

    bound fn cuFuncGetParamCount(function: Handle, count: Out<usize>) |call| {
        count.set(call.with_function(function, |function, _| Ok(function.kernel.params.len()))?)
    }

    bound fn cuFuncIsLoaded(state: Out<c_uint>, function: Handle) |call| {
        call.with_function(function, |_, _| Ok(()))?;
        state.set(1)
    }

    bound fn cuFuncLoad(function: Handle) |call| { call.with_function(function, |_, _| Ok(())) }

    ready fn cuLibraryLoadData(
        library: Out<Handle>,
        image: Raw,
        names: In<c_uint>,
        values: In<Raw>,
        count: c_uint,
        _library_names: In<c_uint>,
        _library_values: In<Raw>,
        _library_count: c_uint,
    ) |driver| {
        library.set(driver.load_library(image, &Options { count, names, values })?)
    }

    ready fn cuLibraryLoadFromFile(
        library: Out<Handle>,
        path: Text,
        names: In<c_uint>,
        values: In<Raw>,
        count: c_uint,
        _library_names: In<c_uint>,
        _library_values: In<Raw>,
        _library_count: c_uint,
    ) |driver| {
        library.set(driver.load_library_file(path, &Options { count, names, values })?)
    }

    ready fn cuLibraryUnload(library: Handle) |driver| { driver.unload_library(library) }

    ready fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) |driver| {
        let state = driver.state();
        let found = state.libraries.get(&library).ok_or(Error::INVALID_HANDLE)?;
        kernel.set(*found.kernels.get(name.get()?).ok_or(Error::NOT_FOUND)?)
    }

    ready fn cuLibraryGetKernelCount(count: Out<c_uint>, library: Handle) |driver| {
        let state = driver.state();
        let found = state.libraries.get(&library).ok_or(Error::INVALID_HANDLE)?;
        count.set(found.kernels.len() as c_uint)
    }

    ready fn cuLibraryEnumerateKernels(kernels: Out<Handle>, count: c_uint, library: Handle) |driver| {
        let state = driver.state();
        let found = state.libraries.get(&library).ok_or(Error::INVALID_HANDLE)?;
        found.kernels.values().take(count as usize).enumerate().try_for_each(|(index, &kernel)| kernels.set_at(index, kernel))
    }

    bound fn cuLibraryGetModule(module: Out<Handle>, library: Handle) |call| {
        module.set(call.module_of(library)?)
    }

    bound fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) |call| {
        let (at, size) = call.global(call.module_of(library)?, name.get()?)?;
        address.set_if_wanted(at);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    bound fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) |call| {
        if !call.state().kernels.contains_key(&kernel) {
            return Err(Error::INVALID_HANDLE);
        }
        function.set(call.function_of(kernel)?)
    }

    ready fn cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) |driver| {
        let state = driver.state();
        library.set(state.kernels.get(&kernel).ok_or(Error::INVALID_HANDLE)?.0)
    }

    bound fn cuKernelGetName(name: Out<Raw>, kernel: Handle) |call| {
        name.set(Raw::at(call.with_function(kernel, |function, _| Ok(function.name.as_ptr() as u64))?))
    }

    bound fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, size: Out<usize>) |call| {
        param_info(call, kernel, index, offset, size)
    }

    ready fn cuKernelGetAttribute(value: Out<c_int>, attribute: c_uint, kernel: Handle, device: Ordinal) |driver| {
        let call = on_device(driver, device)?;
        value.set(call.with_function(kernel, |function, _| function.attribute(attribute))?)
    }

    ready fn cuKernelSetAttribute(attribute: c_uint, value: c_int, kernel: Handle, device: Ordinal) |driver| {
        let call = on_device(driver, device)?;
        call.with_function(kernel, |function, device| function.set_attribute(attribute, value, device))
    }

    ready fn cuKernelSetCacheConfig(kernel: Handle, config: c_uint, device: Ordinal) |driver| {
        if config > 3 {
            return Err(Error::INVALID_VALUE);
        }
        on_device(driver, device)?.with_function(kernel, |_, _| Ok(()))
    }
}
