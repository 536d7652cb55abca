//! Reads what the emulated driver saw, and sets faults, from the process that uses it.
//!
//! A program reaches the emulator as it reaches the driver: it opens `libcuda`. [`Emulator::attach`] finds the library it
//! opened and asks it through one more symbol, `ptxEmulatorControl`, which takes and gives JSON.
//!
//! ```no_run
//! use ptx_emulator::client::{Emulator, Fault, Operation};
//!
//! let emulator = Emulator::attach().expect("libcuda is the emulator");
//! let mark = emulator.mark();
//! // … launch kernels through cudarc …
//! let counts = emulator.counts_since(mark);
//! println!("{} sectors stored", counts.global.stores.sectors);
//! // The next allocation is out of memory.
//! emulator.set_fault(Fault::nth(Operation::Alloc, 1, 2));
//! ```

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};

use libloading::Library;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::counts::Counts;
pub use crate::driver::faults::{Fault, Operation};
use crate::report::Report;

/// A moment: counts, launches and reports are asked for since one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub(crate) segment: usize,
    pub(crate) launches: u64,
    pub(crate) reports: u64,
}

/// One launch that was executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchRecord {
    pub kernel: String,
    pub device: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes.
    pub dynamic_shared: u32,
    pub counts: Counts,
    /// The rule it broke.
    pub report: Option<Report>,
}

/// Something that was made and not freed: still alive, or taken along when its context ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leak {
    /// `memory`, `stream`, `event`, `module`, `library`, `graph`, `executable graph`, `pool` or `context`.
    pub what: String,
    /// The address of memory; the handle of anything else.
    pub handle: u64,
    /// Of memory.
    pub bytes: u64,
    pub device: usize,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Leak { what, handle, bytes, device } = self;
        match what.as_str() {
            "memory" => write!(f, "{bytes} bytes at {handle:#x} on device {device}"),
            _ => write!(f, "{what} {handle:#x} on device {device}"),
        }
    }
}

/// What is asked of the library.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Mark,
    CountsSince(Mark),
    LaunchesSince(Mark),
    ReportsSince(Mark),
    Clear,
    SetFault(Fault),
    ClearFaults,
    Leaks,
    ResetErrors,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Done(serde_json::Value),
    Failed(String),
}

/// The emulated driver of this process.
#[derive(Debug)]
pub struct Emulator {
    control: Control,
    free: Free,
    /// Keeps the functions where they are.
    _library: Library,
}

type Control = unsafe extern "C" fn(*const c_char, *mut *mut c_char) -> c_int;
type Free = unsafe extern "C" fn(*mut c_char);

/// The program itself, which may be linked to the emulator.
fn program() -> Option<Library> {
    #[cfg(unix)]
    return Some(libloading::os::unix::Library::this().into());
    #[cfg(windows)]
    return libloading::os::windows::Library::this().ok().map(Library::from);
}

/// Names that a program may have opened the driver by.
const NAMES: [&str; 2] =
    if cfg!(windows) { ["nvcuda.dll", "cuda.dll"] } else { ["libcuda.so", "libcuda.so.1"] };

impl Emulator {
    /// Finds the emulator in this process. None when the driver is the real one, or there is none.
    pub fn attach() -> Option<Emulator> {
        let opened = NAMES.into_iter().filter_map(|name| {
            // SAFETY: a driver library has no initialiser that asks for anything; the program opens it, too.
            unsafe { Library::new(name) }.ok()
        });
        opened.chain(program()).find_map(Emulator::of)
    }

    fn of(library: Library) -> Option<Emulator> {
        // SAFETY: only the emulator has symbols of these names, and these are their types.
        let (control, free) = unsafe {
            (
                *library.get::<Control>(b"ptxEmulatorControl\0").ok()?,
                *library.get::<Free>(b"ptxEmulatorFree\0").ok()?,
            )
        };
        Some(Emulator { control, free, _library: library })
    }

    /// This moment.
    pub fn mark(&self) -> Mark {
        self.ask(&Request::Mark)
    }

    /// What all launches since a mark counted together.
    pub fn counts_since(&self, mark: Mark) -> Counts {
        self.ask(&Request::CountsSince(mark))
    }

    /// The launches since a mark; the oldest are forgotten when there are more than 65536.
    pub fn launches_since(&self, mark: Mark) -> Vec<LaunchRecord> {
        self.ask(&Request::LaunchesSince(mark))
    }

    /// Every launch since the start, or since [`Emulator::clear`].
    pub fn launches(&self) -> Vec<LaunchRecord> {
        self.launches_since(Mark { segment: 0, launches: 0, reports: 0 })
    }

    /// The rules broken since a mark; the oldest are forgotten when there are more than 4096.
    pub fn reports_since(&self, mark: Mark) -> Vec<Report> {
        self.ask(&Request::ReportsSince(mark))
    }

    /// Every rule broken since the start, or since [`Emulator::clear`].
    pub fn reports(&self) -> Vec<Report> {
        self.reports_since(Mark { segment: 0, launches: 0, reports: 0 })
    }

    /// Forgets launches, counts, reports and the leaks of contexts that ended. Marks taken before mean the start.
    pub fn clear(&self) {
        self.ask(&Request::Clear)
    }

    /// Adds a fault. What it counts is counted from now.
    pub fn set_fault(&self, fault: Fault) {
        self.ask(&Request::SetFault(fault))
    }

    /// Takes all faults back, those of the environment included.
    pub fn clear_faults(&self) {
        self.ask(&Request::ClearFaults)
    }

    /// What was made and not freed until now.
    pub fn leaks(&self) -> Vec<Leak> {
        self.ask(&Request::Leaks)
    }

    /// Contexts that a kernel's fault has made unusable can be used again, as after a restart.
    pub fn reset_device_errors(&self) {
        self.ask(&Request::ResetErrors)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        let request = serde_json::to_string(request).expect("a request is representable");
        let request = CString::new(request).expect("JSON holds no NUL");
        let mut reply = std::ptr::null_mut();
        // SAFETY: the request is a string, and the reply one that `ptxEmulatorFree` takes back.
        let text = unsafe {
            assert_eq!((self.control)(request.as_ptr(), &mut reply), 0, "ptxEmulatorControl");
            let text = CStr::from_ptr(reply).to_string_lossy().into_owned();
            (self.free)(reply);
            text
        };
        match serde_json::from_str(&text) {
            Ok(Reply::Done(value)) => {
                serde_json::from_value(value).expect("library and client are of one version")
            }
            Ok(Reply::Failed(what)) => panic!("the emulator: {what}"),
            Err(error) => panic!("the emulator answered {text}: {error}"),
        }
    }
}
