//! Architectures: the limits that a device of each has.
//!
//! Sources: CUDA C++ Programming Guide, "Compute Capabilities"; multiprocessors, clocks and buses are those of one common
//! board of the architecture, so that occupancies and times are like those of a real device.

/// An architecture that a device can pose as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arch {
    /// `sm_80` is 80.
    pub target: u32,
    pub multiprocessors: u32,
    /// Per multiprocessor.
    pub threads: u32,
    pub blocks: u32,
    /// Bytes of shared memory of a multiprocessor, and the most that one block can have.
    pub shared: u32,
    pub shared_block: u32,
    /// MHz.
    pub clock: u32,
    pub memory_clock: u32,
    /// Bits.
    pub bus: u32,
    /// MiB.
    pub l2: u32,
}

const KIB: u32 = 1024;

#[rustfmt::skip]
const ARCHS: &[Arch] = &[
    Arch { target: 70, multiprocessors: 80, threads: 2048, blocks: 32, shared: 96 * KIB, shared_block: 96 * KIB, clock: 1530, memory_clock: 877, bus: 4096, l2: 6 },
    Arch { target: 72, multiprocessors: 8, threads: 2048, blocks: 32, shared: 96 * KIB, shared_block: 96 * KIB, clock: 1377, memory_clock: 1377, bus: 256, l2: 1 },
    Arch { target: 75, multiprocessors: 40, threads: 1024, blocks: 16, shared: 64 * KIB, shared_block: 64 * KIB, clock: 1590, memory_clock: 5001, bus: 256, l2: 4 },
    Arch { target: 80, multiprocessors: 108, threads: 2048, blocks: 32, shared: 164 * KIB, shared_block: 163 * KIB, clock: 1410, memory_clock: 1593, bus: 5120, l2: 40 },
    Arch { target: 86, multiprocessors: 84, threads: 1536, blocks: 16, shared: 100 * KIB, shared_block: 99 * KIB, clock: 1695, memory_clock: 9751, bus: 384, l2: 6 },
    Arch { target: 87, multiprocessors: 16, threads: 1536, blocks: 16, shared: 164 * KIB, shared_block: 163 * KIB, clock: 1300, memory_clock: 1300, bus: 256, l2: 4 },
    Arch { target: 89, multiprocessors: 128, threads: 1536, blocks: 24, shared: 100 * KIB, shared_block: 99 * KIB, clock: 2520, memory_clock: 10501, bus: 384, l2: 72 },
    Arch { target: 90, multiprocessors: 132, threads: 2048, blocks: 32, shared: 228 * KIB, shared_block: 227 * KIB, clock: 1980, memory_clock: 2619, bus: 5120, l2: 50 },
    Arch { target: 100, multiprocessors: 148, threads: 2048, blocks: 32, shared: 228 * KIB, shared_block: 227 * KIB, clock: 1965, memory_clock: 3996, bus: 8192, l2: 126 },
    Arch { target: 103, multiprocessors: 148, threads: 2048, blocks: 32, shared: 228 * KIB, shared_block: 227 * KIB, clock: 1965, memory_clock: 3996, bus: 8192, l2: 126 },
    Arch { target: 120, multiprocessors: 170, threads: 1536, blocks: 24, shared: 100 * KIB, shared_block: 99 * KIB, clock: 2407, memory_clock: 14001, bus: 512, l2: 96 },
];

impl Arch {
    /// Finds `sm_80`, or `80`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(name: &str) -> Result<Arch, String> {
        let number = name.strip_prefix("sm_").unwrap_or(name).trim_end_matches(['a', 'f']);
        let found = ARCHS.iter().find(|arch| number.parse() == Ok(arch.target));
        found.copied().ok_or_else(|| {
            let known: Vec<String> =
                ARCHS.iter().map(|arch| format!("sm_{}", arch.target)).collect();
            format!("{name}? There are {}", known.join(", "))
        })
    }

    pub fn name(&self) -> String {
        format!("PTX emulator sm_{}", self.target)
    }

    /// Bytes of DRAM traffic a microsecond: two transfers a clock.
    pub fn bandwidth(&self) -> u64 {
        u64::from(self.memory_clock) * 2 * u64::from(self.bus / 8)
    }

    /// Bytes of shared memory that the driver keeps for itself in each block.
    pub fn reserved_shared(&self) -> u32 {
        if self.target >= 80 { KIB } else { 0 }
    }

    /// Blocks of `threads` threads with `shared` bytes and `registers` registers a thread that fit a multiprocessor.
    pub fn resident(&self, threads: u32, registers: u32, shared: u64) -> u32 {
        let warps = threads.div_ceil(32);
        if warps == 0 || threads > MAX_THREADS {
            return 0;
        }
        let shared = (shared + u64::from(self.reserved_shared())).next_multiple_of(128);
        let by_shared = u64::from(self.shared).checked_div(shared).unwrap_or(u64::MAX);
        // Registers are given out to warps, 256 at a time.
        let warp_registers = (registers * 32).next_multiple_of(256).max(256);
        let by_registers = REGISTERS / warp_registers / warps;
        let by_threads = self.threads / (warps * 32);
        let most = by_threads.min(self.blocks).min(by_registers);
        u64::from(most).min(by_shared) as u32
    }
}

/// Threads of a block.
pub const MAX_THREADS: u32 = 1024;
/// Threads of a block by dimension.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid by dimension.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// 32-bit registers of a multiprocessor, and of a block.
pub const REGISTERS: u32 = 65536;
/// Bytes of shared memory of a block that need no asking.
pub const SHARED_BLOCK: u32 = 48 * KIB;
/// Alignment of the rows of pitched memory.
pub const PITCH: usize = 512;

/// A value of `CUdevice_attribute`.
pub fn attribute(arch: &Arch, ordinal: usize, attribute: u32) -> Option<i32> {
    let value = match attribute {
        // MAX_THREADS_PER_BLOCK, MAX_BLOCK_DIM_*, MAX_GRID_DIM_*
        1 => MAX_THREADS,
        2..=4 => MAX_BLOCK[attribute as usize - 2],
        5..=7 => MAX_GRID[attribute as usize - 5],
        8 => SHARED_BLOCK,
        // TOTAL_CONSTANT_MEMORY, WARP_SIZE, MAX_PITCH
        9 => 64 * KIB,
        10 => 32,
        11 => i32::MAX as u32,
        // MAX_REGISTERS_PER_BLOCK and, 82, PER_MULTIPROCESSOR
        12 | 82 => REGISTERS,
        13 => arch.clock * 1000,
        // TEXTURE_ALIGNMENT, SURFACE_ALIGNMENT, TEXTURE_PITCH_ALIGNMENT
        14 | 30 => 512,
        51 => 32,
        // GPU_OVERLAP, CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, UNIFIED_ADDRESSING
        15 | 19 | 31 | 41 => 1,
        16 => arch.multiprocessors,
        // MAXIMUM_TEXTURE*, MAXIMUM_SURFACE*: there are none.
        21..=29 | 42 | 43 | 45..=49 | 52..=74 | 77 => 0,
        // PCI_BUS_ID; PCI_DEVICE_ID and PCI_DOMAIN_ID are 0
        33 => ordinal as u32 + 1,
        36 => arch.memory_clock * 1000,
        37 => arch.bus,
        38 => arch.l2 * KIB * KIB,
        39 => arch.threads,
        // ASYNC_ENGINE_COUNT
        40 => 3,
        75 => arch.target / 10,
        76 => arch.target % 10,
        // STREAM_PRIORITIES, GLOBAL_L1 and LOCAL_L1_CACHE, MANAGED_MEMORY
        78..=80 | 83 => 1,
        81 => arch.shared,
        // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        87 => {
            if matches!(arch.target, 70 | 72 | 80 | 90 | 100) {
                2
            } else {
                32
            }
        }
        // CONCURRENT_MANAGED_ACCESS, COMPUTE_PREEMPTION, CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        89..=91 => 1,
        // COOPERATIVE_LAUNCH, HOST_REGISTER_SUPPORTED
        95 | 99 => 1,
        97 => arch.shared_block,
        106 => arch.blocks,
        111 => arch.reserved_shared(),
        // MEMORY_POOLS_SUPPORTED
        115 => 1,
        // CLUSTER_LAUNCH, TENSOR_MAP_ACCESS_SUPPORTED
        120 | 127 => u32::from(arch.target >= 90),
        // UNIFIED_FUNCTION_POINTERS
        129 => 1,
        // NUMA_ID, HOST_NUMA_ID: none
        131 | 134 => return Some(-1),
        0 | 162.. => return None,
        // All other capabilities are absent.
        _ => 0,
    };
    Some(value as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_has_a_value() {
        for arch in ARCHS {
            for number in 1..=161 {
                assert!(attribute(arch, 0, number).is_some(), "{number}");
            }
            assert_eq!(attribute(arch, 0, 0), None);
            assert_eq!(attribute(arch, 0, 162), None);
        }
    }

    #[test]
    fn names() {
        assert_eq!(Arch::named("sm_86").unwrap().target, 86);
        assert_eq!(Arch::named("90a").unwrap().target, 90);
        assert!(Arch::named("sm_81").unwrap_err().contains("sm_80"));
    }

    #[test]
    fn residency() {
        let arch = Arch::named("sm_80").unwrap();
        // Threads bind: 2048 of 1024, 2048 of 256, and 32 blocks at most.
        assert_eq!(arch.resident(1024, 32, 0), 2);
        assert_eq!(arch.resident(256, 32, 0), 8);
        assert_eq!(arch.resident(32, 32, 0), 32);
        // Shared memory binds: 164 KiB hold one block of 163, and three of 48 (each with 1 KiB reserved).
        assert_eq!(arch.resident(128, 32, 163 << 10), 1);
        assert_eq!(arch.resident(128, 32, 48 << 10), 3);
        // Registers bind: 65536 / (128 * 256).
        assert_eq!(arch.resident(256, 128, 0), 2);
        assert_eq!(arch.resident(0, 32, 0), 0);
        assert_eq!(arch.resident(1025, 32, 0), 0);
    }
}
