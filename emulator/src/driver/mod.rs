//! The CUDA driver API over the emulator: what a program finds that opens this library as `libcuda`.
//!
//! Work is executed when it is enqueued, on the calling thread. That is one of the orders that streams and events allow, and
//! always the same. A host function is called when it is enqueued, too, so it must not wait for the thread that enqueues it.
//! The memory of a graph is there as long as the graph. Kernels do not reach the memory of other devices; copies do.
//!
//! Textures, arrays, virtual memory management, external resources and linking are not there: their functions are
//! absent, and what asks for them in other functions is `CUDA_ERROR_NOT_SUPPORTED`.
//!
//! Faults of kernels surface as on hardware: the launch succeeds, the next call that waits fails, and so does
//! every call in that context from then on.
//!
//! # Settings
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PTX_EMULATOR_DEVICES` | architectures, one a device: `sm_80,sm_90`; default `sm_80` |
//! | `PTX_EMULATOR_MEMORY` | bytes of each device: `2GiB`; default 16 GiB |
//! | `PTX_EMULATOR_CHECKS` | checks to turn off: `-races,-uninitialized` |
//! | `PTX_EMULATOR_LOG` | where reports go: `stderr` (default), `off` or a path |
//! | `PTX_EMULATOR_COUNTS` | a file that gets a JSON line for each launch |
//! | `PTX_EMULATOR_SURVEY` | a folder that gets what the device is made to do: see [`survey`] |
//! | `PTX_EMULATOR_AGAIN` | if it is set, a surveyed launch is executed again where it finds memory that nobody wrote to |
//! | `PTX_EMULATOR_SAMPLE` | warp instructions of a surveyed launch that are executed; default 20 million |
//! | `PTX_EMULATOR_THREADS` | host threads of a launch; default all |
//! | `PTX_EMULATOR_BUDGET` | warp instructions of a launch before it is ended |
//! | `PTX_EMULATOR_FAULTS` | faults to come: see [`faults`] |
//! | `PTX_EMULATOR_LEAKS` | at exit: `report` what was not freed, or `fail` with status 1 |

#[allow(unsafe_code)]
mod abi;
mod arch;
mod capture;
mod config;
mod context;
mod control;
mod copy;
pub(crate) mod error;
pub mod faults;
#[allow(unsafe_code)]
mod ffi;
mod graph;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pool;
mod record;
mod state;
mod stream;
pub mod survey;
mod tensor;
mod work;

use std::sync::{Mutex, MutexGuard};

/// Each device has a range of addresses of its own, 1 TiB wide.
const MOST_DEVICES: usize = 8;

/// A lock that a panic elsewhere does not close.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
