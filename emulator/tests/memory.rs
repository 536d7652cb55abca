//! Device memory and the cost of shared memory, against plain models.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ptx_emulator::gpu::{Arg, Error, Gpu};
use ptx_emulator::memory::{AllocError, FreeError, Kind, Memory, wavefronts};
use ptx_emulator::report::Check;

/// Passes over the banks by the rule as it is written: lanes of 8 bytes in halves of the warp, of 16 in quarters; in each,
/// the bank with the most distinct words counts.
fn passes(mask: u32, addresses: &[u64; 32], bytes: u32) -> (u32, u32) {
    let lanes = if bytes <= 4 { 32 } else { 128 / bytes as usize };
    let (mut taken, mut ideal) = (0, 0);
    for first in (0..32).step_by(lanes) {
        let active = (first..first + lanes).filter(|lane| mask >> lane & 1 == 1);
        let words: BTreeSet<u64> = active
            .flat_map(|lane| {
                addresses[lane] / 4..addresses[lane] / 4 + u64::from(bytes.div_ceil(4))
            })
            .collect();
        let mut banks = BTreeMap::new();
        for word in &words {
            *banks.entry(word % 32).or_insert(0) += 1;
        }
        taken += banks.values().copied().max().unwrap_or(0);
        ideal += words.len().div_ceil(32) as u32;
    }
    (taken, ideal)
}

#[derive(Debug, Clone)]
enum Step {
    Alloc(u64),
    Free(usize),
    Write(usize, u8),
    Copy(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..5000).prop_map(Step::Alloc),
        any::<usize>().prop_map(Step::Free),
        (any::<usize>(), any::<u8>()).prop_map(|(index, value)| Step::Write(index, value)),
        (any::<usize>(), any::<usize>()).prop_map(|(to, from)| Step::Copy(to, from)),
    ]
}

proptest! {
    #[test]
    fn wavefronts_are_those_of_the_rule(
        mask: u32,
        log2 in 0u32..5,
        spread in 1u64..600,
        draws in prop::array::uniform32(any::<u32>()),
    ) {
        let bytes = 1 << log2;
        let addresses = draws.map(|draw| u64::from(draw) % spread * u64::from(bytes));
        let counted = wavefronts(mask, &addresses, bytes);
        prop_assert_eq!((counted.taken, counted.ideal), passes(mask, &addresses, bytes));
    }

    /// Allocations never overlap or touch, keep what is written, and their bytes are counted.
    #[test]
    fn allocations_follow_a_model(steps in prop::collection::vec(step(), 1..60)) {
        const TOTAL: u64 = 20_000;
        let memory = Memory::new(TOTAL);
        let mut live: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut freed = Vec::new();
        for step in steps {
            let used: u64 = live.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            prop_assert_eq!(memory.usage().used, used);
            match step {
                Step::Alloc(bytes) => match memory.alloc(bytes, Kind::Device) {
                    Ok(address) => {
                        prop_assert!(used + bytes <= TOTAL && address.is_multiple_of(256));
                        for (other, held) in &live {
                            let apart = address > other + held.len() as u64 || *other > address + bytes;
                            prop_assert!(apart, "{address:#x} and {other:#x}");
                        }
                        memory.write(address, &vec![7; bytes as usize]).unwrap();
                        live.push((address, vec![7; bytes as usize]));
                    }
                    Err(error) => {
                        let free = TOTAL - used;
                        prop_assert_eq!(error, AllocError::OutOfMemory { requested: bytes, free });
                        prop_assert!(bytes > free);
                    }
                },
                Step::Free(index) if !live.is_empty() => {
                    let (address, bytes) = live.swap_remove(index % live.len());
                    if bytes.len() > 1 {
                        let inside = FreeError::Interior { address: address + 1, base: address };
                        prop_assert_eq!(memory.free(address + 1), Err(inside));
                    }
                    prop_assert_eq!(memory.free(address), Ok(()));
                    prop_assert_eq!(memory.free(address), Err(FreeError::AlreadyFreed { address }));
                    freed.push(address);
                }
                Step::Write(index, value) if !live.is_empty() => {
                    let count = live.len();
                    let (address, bytes) = &mut live[index % count];
                    let at = index / 7 % bytes.len();
                    memory.fill(*address + at as u64, &[value], (bytes.len() - at) as u64).unwrap();
                    bytes[at..].fill(value);
                    // One byte more is outside.
                    prop_assert!(memory.fill(*address + at as u64, &[value], (bytes.len() - at + 1) as u64).is_err());
                }
                Step::Copy(to, from) if !live.is_empty() => {
                    let count = live.len();
                    let (source, bytes) = live[from % count].clone();
                    let (target, held) = &mut live[to % count];
                    let size = bytes.len().min(held.len());
                    memory.copy(*target, source, size as u64).unwrap();
                    held[..size].copy_from_slice(&bytes[..size]);
                }
                _ => {}
            }
            for (address, bytes) in &live {
                let mut held = vec![0; bytes.len()];
                memory.read(*address, &mut held).unwrap();
                prop_assert_eq!(&held, bytes);
                prop_assert_eq!(memory.lookup(address + bytes.len() as u64 - 1).unwrap().address, *address);
            }
            prop_assert!(freed.iter().all(|&address| memory.lookup(address).is_none()));
        }
        prop_assert_eq!(memory.live().len(), live.len());
    }

    /// Sectors of a request are its distinct ones; the launch's are those of all requests together.
    #[test]
    fn sectors_are_sets(draws in prop::collection::vec(0u32..4096, 64)) {
        let gpu = Gpu::new(80);
        let module = gpu.load(GATHER).unwrap();
        let values: Vec<u32> = (0..4096).collect();
        let (from, at) = (gpu.upload(&values).unwrap(), gpu.upload(&draws).unwrap());
        let to = gpu.allocate(256).unwrap();
        let counts = gpu.launch(&module, "gather", 1, 64, &[Arg::U64(from), Arg::U64(at), Arg::U64(to)]).unwrap();
        prop_assert_eq!(gpu.download::<u32>(to, 64).unwrap(), draws.clone());
        let sectors = |draws: &[u32]| draws.iter().map(|draw| draw / 8).collect::<BTreeSet<_>>().len() as u64;
        let words = draws.iter().collect::<BTreeSet<_>>().len() as u64;
        // The indices themselves are 2 requests of 4 sectors, as is what is stored.
        let gathered: u64 = draws.chunks(32).map(sectors).sum();
        prop_assert_eq!(counts.global.loads.sectors, 8 + gathered);
        prop_assert_eq!(counts.global.loads.requests, 4);
        prop_assert_eq!(counts.global.cold_read_sectors, 8 + sectors(&draws));
        prop_assert_eq!(counts.global.unique_read_bytes, 256 + 4 * words);
        prop_assert_eq!((counts.global.stores.sectors, counts.global.unique_written_bytes), (8, 256));
    }
}

const GATHER: &str = ".version 7.0\n.target sm_80\n.address_size 64
.visible .entry gather(.param .u64 from, .param .u64 at, .param .u64 to)
{
    .reg .b32 %i, %j;
    .reg .b64 %from, %at, %to;
    mov.u32 %i, %tid.x;
    ld.param.u64 %from, [from];
    ld.param.u64 %at, [at];
    ld.param.u64 %to, [to];
    mad.wide.u32 %at, %i, 4, %at;
    ld.global.u32 %j, [%at];
    mad.wide.u32 %from, %j, 4, %from;
    ld.global.u32 %j, [%from];
    mad.wide.u32 %to, %i, 4, %to;
    st.global.u32 [%to], %j;
    ret;
}";

#[test]
fn memory_that_was_never_allocated() {
    let memory = Memory::new(1 << 20);
    assert_eq!(memory.alloc(0, Kind::Device), Err(AllocError::Empty));
    assert_eq!(memory.free(64), Err(FreeError::NotAllocated { address: 64 }));
    assert!(memory.read(64, &mut [0]).is_err());
    assert!(memory.write(u64::MAX, &[0, 0]).is_err());
    assert!(memory.copy(u64::MAX, 0, u64::MAX).is_err());
    // Nothing is asked of it.
    assert!(memory.read(64, &mut []).is_ok());
}

/// A copy carries along what was never written.
#[test]
fn copies_keep_what_is_uninitialised() {
    let gpu = Gpu::new(80);
    let module = gpu.load(GATHER).unwrap();
    let (from, copy) = (gpu.allocate(256).unwrap(), gpu.allocate(256).unwrap());
    gpu.memory.write(from, &[1; 128]).unwrap();
    gpu.memory.copy(copy, from, 256).unwrap();
    let to = gpu.allocate(256).unwrap();
    let run = |indices: Vec<u32>| {
        let at = gpu.upload(&indices).unwrap();
        gpu.launch(&module, "gather", 1, 32, &[Arg::U64(copy), Arg::U64(at), Arg::U64(to)])
    };
    run((0..32).collect()).unwrap();
    match run((1..33).collect()) {
        Err(Error::Report(report)) => {
            assert_eq!((report.check, report.thread), (Check::Uninitialized, [31, 0, 0]));
            assert!(report.what.contains("byte 128 of allocation 2 of 256 bytes"), "{report}");
        }
        other => panic!("{other:?}"),
    }
}

/// Sums of many blocks are exact for any number of host threads, and so are the counts.
#[test]
fn atomics_of_many_blocks() {
    let text = ".version 7.0\n.target sm_80\n.address_size 64
        .visible .entry count(.param .u64 bins) {
            .reg .b32 %i; .reg .b64 %bins;
            mov.u32 %i, %tid.x; and.b32 %i, %i, 7;
            ld.param.u64 %bins, [bins]; mad.wide.u32 %bins, %i, 4, %bins;
            red.global.add.u32 [%bins], %i;
            ret; }";
    let mut seen = Vec::new();
    for threads in [1, 2, 4] {
        let mut gpu = Gpu::new(80);
        gpu.options.threads = threads;
        let module = gpu.load(text).unwrap();
        let bins = gpu.upload(&[0u32; 8]).unwrap();
        let counts = gpu.launch(&module, "count", 200, 128, &[Arg::U64(bins)]).unwrap();
        let expected: Vec<u32> = (0..8).map(|i| i * 200 * 16).collect();
        assert_eq!(gpu.download::<u32>(bins, 8).unwrap(), expected);
        seen.push(counts);
    }
    assert!(seen.iter().all(|counts| *counts == seen[0]));
}

/// What blocks that were not executed would have written.
#[test]
fn what_was_written_spreads_over_the_rest() {
    let memory = Memory::new(1 << 20);
    let held = |address: u64| {
        let mut held = [0; 72];
        memory.read(address, &mut held).unwrap();
        held
    };
    let base = memory.alloc(72, Kind::Device).unwrap();
    memory.spread(base);
    assert_eq!(held(base), [0; 72]);
    // First four bytes, then a whole unit of sixteen elsewhere.
    memory.write(base + 8, &[1, 2, 3, 4]).unwrap();
    memory.spread(base);
    assert!(held(base).chunks(4).all(|word| word == [1, 2, 3, 4]));
    let wide: Vec<u8> = (10..26).collect();
    memory.write(base + 32, &wide).unwrap();
    memory.spread(base);
    assert!(
        held(base)[..16].chunks(4).all(|word| word == [1, 2, 3, 4]),
        "a part of it was written"
    );
    assert!(held(base)[16..64].chunks(16).all(|chunk| chunk == wide));
    assert_eq!(held(base)[64..], [1, 2, 3, 4, 1, 2, 3, 4]);
    // What was written stays.
    memory.write(base, &[7; 72]).unwrap();
    memory.spread(base);
    assert_eq!(held(base), [7; 72]);
    // No allocation begins there.
    memory.spread(base + 1);
}
