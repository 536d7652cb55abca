//! scan.ptx: prefix sums, their bank conflicts, and two ways across blocks.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu};
use ptx_emulator::isa::Class;

use super::{bits, global, random_u32, shared};

fn inclusive(values: &[u32]) -> Vec<u32> {
    let add = |sum: &mut u32, &value: &u32| {
        *sum = sum.wrapping_add(value);
        Some(*sum)
    };
    values.iter().scan(0, add).collect()
}

/// The sums within each 512 elements, and each total.
fn run_blocks(gpu: &Gpu, values: &[u32], shift: u32) -> (Counts, Vec<u32>, Vec<u32>) {
    let module = gpu.load(include_str!("../kernels/scan.ptx")).unwrap();
    let blocks = values.len() / 512;
    let from = gpu.upload(values).unwrap();
    let out = gpu.allocate(4 * values.len() as u64).unwrap();
    let totals = gpu.allocate(4 * blocks as u64).unwrap();
    let args = [Arg::U64(from), Arg::U64(out), Arg::U64(totals), Arg::U32(shift)];
    let counts = gpu.launch(&module, "scan_block", blocks as u32, 256, &args).unwrap();
    (counts, gpu.download(out, values.len()).unwrap(), gpu.download(totals, blocks).unwrap())
}

fn run_two_launches(gpu: &Gpu, values: &[u32]) -> (Counts, Vec<u32>) {
    let module = gpu.load(include_str!("../kernels/scan.ptx")).unwrap();
    let blocks = values.len() / 512;
    let from = gpu.upload(values).unwrap();
    let out = gpu.allocate(4 * values.len() as u64).unwrap();
    let totals = gpu.allocate(4 * blocks as u64).unwrap();
    let args = [Arg::U64(from), Arg::U64(out), Arg::U64(totals), Arg::U32(5)];
    gpu.launch(&module, "scan_block", blocks as u32, 256, &args).unwrap();
    let args = [Arg::U64(out), Arg::U64(totals)];
    let counts = gpu.launch(&module, "add_totals", blocks as u32 - 1, 256, &args).unwrap();
    (counts, gpu.download(out, values.len()).unwrap())
}

fn run_lookback(gpu: &Gpu, values: &[u32]) -> (Counts, Vec<u32>) {
    let module = gpu.load(include_str!("../kernels/scan.ptx")).unwrap();
    let blocks = values.len() / 256;
    let from = gpu.upload(values).unwrap();
    let out = gpu.allocate(4 * values.len() as u64).unwrap();
    let state = gpu.upload(&vec![0u64; blocks]).unwrap();
    let tickets = gpu.upload(&[0u32]).unwrap();
    let args = [from, out, state, tickets].map(Arg::U64);
    let counts = gpu.launch(&module, "scan_lookback", blocks as u32, 256, &args).unwrap();
    let sums = inclusive(values);
    // Every block published its prefix.
    for (block, &packed) in gpu.download::<u64>(state, blocks).unwrap().iter().enumerate() {
        assert_eq!(packed, 2 << 32 | u64::from(sums[256 * block + 255]));
    }
    (counts, gpu.download(out, values.len()).unwrap())
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let values = random_u32(7, 4096);
    let (mut counts, mut out, _) = run_blocks(gpu, &values, 31);
    for (more, sums) in [run_two_launches(gpu, &values), run_lookback(gpu, &values)] {
        counts += &more;
        out.extend(sums);
    }
    (counts, bits(&out))
}

/// (shift, wavefronts of loads and of stores a block)
#[test]
fn blocks() {
    for (shift, loads, stores) in [(31, 397, 302), (5, 97, 77)] {
        let values = random_u32(8, 512 * 3);
        let (counts, out, totals) = run_blocks(&Gpu::new(80), &values, shift);
        for (block, values) in values.chunks(512).enumerate() {
            let sums = inclusive(values);
            assert_eq!(out[512 * block..][..512], sums);
            assert_eq!(totals[block], sums[511]);
        }
        assert_eq!(shared(&counts), [(3 * 97, 3 * loads), (3 * 77, 3 * stores), (0, 0)]);
        assert_eq!(global(&counts), [(3 * 16, 3 * 64), (3 * 17, 3 * 65), (0, 0)]);
        assert_eq!(counts.barrier_arrivals, 3 * 20 * 8);
    }
}

#[test]
fn two_launches() {
    let values = random_u32(9, 512 * 5);
    let (counts, out) = run_two_launches(&Gpu::new(80), &values);
    assert_eq!(out, inclusive(&values));
    // Block b of 4 looks at b + 1 totals, a word for all lanes; then 16 requests of 4 sectors each way.
    let totals = 8 * (1 + 2 + 3 + 4);
    assert_eq!(global(&counts), [(4 * 16 + totals, 4 * 64 + totals), (4 * 16, 4 * 64), (0, 0)]);
}

#[test]
fn lookback() {
    for blocks in [1, 2, 9] {
        let values = random_u32(10, 256 * blocks as usize);
        let (counts, out) = run_lookback(&Gpu::new(80), &values);
        assert_eq!(out, inclusive(&values));
        // Blocks of this size run one after the other, so that each finds the prefix of the one before.
        let (loads, stores) = (blocks - 1, 2 * blocks - 1);
        let expected = [
            (8 * blocks + loads, 32 * blocks + loads),
            (8 * blocks + stores, 32 * blocks + stores),
            (blocks, blocks),
        ];
        assert_eq!(global(&counts), expected);
        assert_eq!(counts.barrier_arrivals, 24 * blocks);
        assert_eq!(counts.classes[Class::Warp].warps, 43 * blocks);
    }
}
