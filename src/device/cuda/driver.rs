//! Finding the driver, and its errors in our words.

use std::sync::OnceLock;

use cudarc::driver::DriverError;
use cudarc::driver::sys::{self, CUresult};
use libloading::Library;

use crate::{Error, Result};

/// Drivers before this lack what is called here (memory pools, graphs with them).
const OLDEST: i32 = 12_000;

/// What is known of the driver before any of its functions that cudarc binds is called.
pub(crate) struct Driver {
    /// 12080 is CUDA 12.8.
    pub(crate) version: i32,
    /// Whether it is the PTX emulator that poses as the driver.
    pub(crate) emulated: bool,
}

/// The driver, or why there is none. cudarc panics where the library is missing, so it is opened by hand first.
pub(crate) fn driver() -> Result<&'static Driver> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    DRIVER
        .get_or_init(probe)
        .as_ref()
        .map_err(|reason| Error::NoDevice { backend: "cuda".into(), reason: reason.clone() })
}

fn probe() -> Result<Driver, String> {
    let names: &[&str] = match () {
        _ if cfg!(windows) => &["nvcuda.dll"],
        _ => &["libcuda.so", "libcuda.so.1"],
    };
    let library = names
        .iter()
        // SAFETY: the driver's library runs no initialiser that asks anything of its caller.
        .find_map(|name| unsafe { Library::new(*name) }.ok())
        .ok_or_else(|| {
            format!("NVIDIA's driver is not installed ({} was not found)", names.join(", "))
        })?;
    let mut version = 0i32;
    // SAFETY: the function has this type in every driver; it writes one i32 and needs no initialisation.
    let code = unsafe {
        match library.get::<unsafe extern "C" fn(*mut i32) -> u32>(b"cuDriverGetVersion\0") {
            Ok(get) => get(&mut version),
            Err(e) => return Err(format!("what was found is not NVIDIA's driver: {e}")),
        }
    };
    if code != 0 || version < OLDEST {
        let found = format!("{}.{}", version / 1000, version % 1000 / 10);
        let oldest = format!("{}.{}", OLDEST / 1000, OLDEST % 1000 / 10);
        return Err(format!("the driver is for CUDA {found}, {oldest} or later is needed"));
    }
    // SAFETY: only whether there is such a symbol is asked.
    let emulated =
        unsafe { library.get::<unsafe extern "C" fn()>(b"ptxEmulatorControl\0").is_ok() };
    let init = cudarc::driver::result::init();
    if let Err(e) = init {
        return Err(format!("the driver did not start: {}", describe(e.0)));
    }
    // The library stays open, as cudarc's own handle does.
    std::mem::forget(library);
    Ok(Driver { version, emulated })
}

/// `CUDA_ERROR_INVALID_VALUE (invalid argument)`.
pub(super) fn describe(code: CUresult) -> String {
    let error = DriverError(code);
    let text =
        |found: Result<&std::ffi::CStr, _>| found.map(|s| s.to_string_lossy().into_owned()).ok();
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(words)) => format!("{name} ({words})"),
        (Some(name), None) => name,
        _ => format!("CUDA error {}", code as u32),
    }
}

/// Whether a context is of no use any more after this error.
fn is_fatal(code: CUresult) -> bool {
    use CUresult::*;
    matches!(
        code,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_DEINITIALIZED
    )
}

/// A driver's answer to `operation` as a typed error.
pub(super) fn check(device: &str, operation: &str, result: Result<(), DriverError>) -> Result<()> {
    let Err(DriverError(code)) = result else { return Ok(()) };
    let said = format!("{operation}: {}", describe(code));
    let device = device.to_string();
    Err(match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory {
            device: format!("{device} ({operation})"),
            requested: 0,
            free: free(),
        },
        code if is_fatal(code) => Error::DeviceLost { device, reason: said },
        _ => Error::Driver { device, problem: said },
    })
}

/// Bytes that are free on the current context's device, where it can still tell.
pub(super) fn free() -> Option<u64> {
    let (mut free, mut total) = (0usize, 0usize);
    // SAFETY: both are written, or neither.
    let got = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }.result();
    got.ok().map(|()| free as u64)
}
