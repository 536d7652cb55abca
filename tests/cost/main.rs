//! What kernels cost, counted by the emulator: bytes against the floor, bank conflicts, work of the matrix units. The
//! numbers are exact and the same on every machine: `counts.csv` has them, and a change shows there.

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
mod pinned;
mod rows;
mod sparse;
mod topk;

use nearkin::Device;
use ptx_emulator::client::{Emulator, LaunchRecord};
use ptx_emulator::counts::Counts;

/// The emulator and a device on it; none, with a word about it, where `libcuda` is something else.
fn emulated() -> Option<(Emulator, Device)> {
    let device = common::required("cuda", Device::by_name("cuda"))?;
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
