//! What kernels cost, counted by the emulator: bytes against the floor, bank conflicts, work of the matrix units. The
//! numbers are exact and the same on every machine, so they are asserted.

#![cfg(feature = "cuda")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/emulated.rs"]
mod processes;

mod attention;
mod encoder;
mod gemm;
mod hamming;
mod maxsim;
mod rows;
mod topk;

use nearkin::Device;
use ptx_emulator::client::{Emulator, LaunchRecord};
use ptx_emulator::counts::Counts;

/// The emulator and a device on it; none, with a word about it, where `libcuda` is something else.
fn emulated() -> Option<(Emulator, Device)> {
    let required = std::env::var("NEARKIN_REQUIRE").unwrap_or_default().contains("cuda");
    let device = match Device::by_name("cuda") {
        Ok(device) => device,
        Err(e) => {
            assert!(!required, "NEARKIN_REQUIRE names cuda, but: {e}");
            eprintln!("skipped: {e}");
            return None;
        }
    };
    let emulator = Emulator::attach();
    if emulator.is_none() {
        eprintln!("skipped: this driver counts nothing");
    }
    Some((emulator?, device))
}

/// What the launches of `work` counted, one after the other.
fn launches(emulator: &Emulator, work: impl FnOnce()) -> Vec<LaunchRecord> {
    let mark = emulator.mark();
    work();
    emulator.launches_since(mark)
}

/// Bytes of the sectors that were read from memory at least once, and of those that were written.
fn cold_bytes(counts: &Counts) -> u64 {
    32 * (counts.global.cold_read_sectors + counts.global.cold_written_sectors)
}

/// Bytes of all sectors asked for, those that come from a cache included.
fn requested_bytes(counts: &Counts) -> u64 {
    32 * (counts.global.loads.sectors + counts.global.stores.sectors)
}
