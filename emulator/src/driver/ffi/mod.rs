//! The symbols of the driver API: each checks its arguments, calls the safe code, and gives the code of what comes of it.

#![allow(non_snake_case)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use super::control;
use super::error::{Error, Result};
use super::faults::Operation;
use super::state::{Call, Device, Driver, driver};
use crate::memory::AllocError;

/// Defines exported functions. The word before `fn` is one of the functions below: who may call, and when it fails.
macro_rules! api {
    ($($kind:ident fn $name:ident($($arg:ident: $ty:ty),* $(,)?) |$with:pat_param| $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: $ty),*) -> u32 {
                $crate::driver::ffi::$kind(move |$with| $body)
            }
        )*

        /// Names and addresses, for `cuGetProcAddress`.
        pub fn symbols() -> Vec<(&'static str, u64)> {
            vec![$((stringify!($name), $name as *const () as u64)),*]
        }
    };
}

mod context;
mod device;
mod graph;
mod launch;
mod memory;
mod module;
mod node;
mod stream;

/// The code of a result; of a panic, `CUDA_ERROR_UNKNOWN`.
fn code(body: impl FnOnce() -> Result) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => error.0,
        Err(_) => Error::UNKNOWN.0,
    }
}

/// Needs nothing.
fn plain(body: impl FnOnce(()) -> Result) -> u32 {
    code(|| body(()))
}

/// Needs `cuInit`.
fn ready(body: impl FnOnce(&'static Driver) -> Result) -> u32 {
    code(|| {
        let driver = driver()?;
        driver.faults.count(Operation::Call)?;
        body(driver)
    })
}

/// Needs a context without a fault.
fn bound(body: impl FnOnce(Call) -> Result) -> u32 {
    ready(|driver| {
        let call = driver.call()?;
        call.check()?;
        body(call)
    })
}

/// Waits for work: a fault surfaces, once what was to be done is done.
fn blocks(body: impl FnOnce(Call) -> Result) -> u32 {
    bound(|call| {
        body(call)?;
        call.wait()
    })
}

/// Only waits, and counts as a synchronisation.
fn waits(body: impl FnOnce(Call) -> Result) -> u32 {
    bound(|call| {
        match call.driver.faults.count(Operation::Sync) {
            Err(error) if error.is_asynchronous() => call.fail(error),
            other => other?,
        }
        body(call)?;
        call.state().trim_pools(call.device);
        Ok(())
    })
}

/// Destroys something, also in a context with a fault, which it then returns.
fn ends(body: impl FnOnce(Call) -> Result) -> u32 {
    ready(|driver| {
        let call = driver.call()?;
        body(call)?;
        call.check()
    })
}

/// Destroys something, and waits for work.
fn frees(body: impl FnOnce(Call) -> Result) -> u32 {
    ready(|driver| {
        let call = driver.call()?;
        body(call)?;
        call.wait()
    })
}

/// Every exported function.
fn symbols() -> Vec<(&'static str, u64)> {
    [
        context::symbols(),
        device::symbols(),
        graph::symbols(),
        launch::symbols(),
        memory::symbols(),
        module::symbols(),
        node::symbols(),
        stream::symbols(),
    ]
    .concat()
}

/// Makes host memory of the caller, or of another device, reachable by a device.
///
/// # Errors
/// It overlaps what is known already.
pub fn register(device: &Device, start: NonNull<u8>, bytes: usize) -> Result {
    // SAFETY: the caller of the API registers memory that is valid until it unregisters it; managed and pinned memory is
    // unregistered before it is freed.
    unsafe { device.memory.register_host(start, bytes) }.map_err(|error| match error {
        AllocError::OutOfMemory { .. } => Error::OUT_OF_MEMORY,
        AllocError::Empty => Error::HOST_MEMORY_ALREADY_REGISTERED,
    })
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
    fn _exit(status: i32) -> !;
}

/// Looks for leaks when the process exits.
pub fn at_exit() {
    // SAFETY: the function takes nothing and does not unwind.
    unsafe { atexit(exit) };
}

extern "C" fn exit() {
    let fails = catch_unwind(control::report_leaks).unwrap_or(false);
    if fails {
        // SAFETY: ends the process, with the status that was asked for.
        unsafe { _exit(1) }
    }
}
