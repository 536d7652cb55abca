//! Special registers.

use crate::{Kernel, put};

/// Registers, and what each is for a thread.
type Registers = &'static [(&'static str, fn(&Thread) -> u32)];

struct Thread {
    block: [u32; 3],
    grid: [u32; 3],
    at: [u32; 3],
    block_at: [u32; 3],
    /// Linear index in its block.
    index: u32,
    blocks: u32,
}

const REGISTERS: Registers = &[
    ("%tid.x", |t| t.at[0]),
    ("%tid.y", |t| t.at[1]),
    ("%tid.z", |t| t.at[2]),
    ("%ntid.x", |t| t.block[0]),
    ("%ntid.y", |t| t.block[1]),
    ("%ntid.z", |t| t.block[2]),
    ("%ctaid.x", |t| t.block_at[0]),
    ("%ctaid.y", |t| t.block_at[1]),
    ("%ctaid.z", |t| t.block_at[2]),
    ("%nctaid.x", |t| t.grid[0]),
    ("%nctaid.y", |t| t.grid[1]),
    ("%nctaid.z", |t| t.grid[2]),
    ("%laneid", |t| t.index % 32),
    ("%warpid", |t| t.index / 32),
    ("%nwarpid", |t| t.block.iter().product::<u32>().div_ceil(32)),
    ("%lanemask_eq", |t| 1 << (t.index % 32)),
    ("%lanemask_lt", |t| (0..t.index % 32).map(|lane| 1 << lane).sum()),
    ("%lanemask_le", |t| (0..=t.index % 32).map(|lane| 1 << lane).sum()),
    ("%lanemask_gt", |t| (t.index % 32 + 1..32).map(|lane| 1 << lane).sum()),
    ("%lanemask_ge", |t| (t.index % 32..32).map(|lane| 1 << lane).sum()),
];

#[test]
fn positions() {
    let sizes = [
        ([1, 1, 1], [1, 1, 1]),
        ([2, 1, 1], [31, 1, 1]),
        ([1, 2, 1], [33, 1, 1]),
        ([1, 1, 2], [1024, 1, 1]),
        ([2, 3, 2], [5, 3, 2]),
        ([3, 1, 2], [4, 8, 4]),
        ([1, 4, 1], [1, 1, 64]),
    ];
    let each: String = REGISTERS
        .iter()
        .enumerate()
        .map(|(i, (name, _))| format!("mov.u32 %r5, {name}; st.global.u32 [%a1+{}], %r5;\n", 4 * i))
        .collect();
    // The place of a thread's output, from its position.
    let body = format!(
        "mov.u32 %r1, %tid.z; mov.u32 %r2, %ntid.y; mov.u32 %r3, %tid.y;
        mad.lo.u32 %r1, %r1, %r2, %r3;
        mov.u32 %r2, %ntid.x;
        mad.lo.u32 %r1, %r1, %r2, %t;
        mov.u32 %r6, %ctaid.z; mov.u32 %r2, %nctaid.y; mov.u32 %r3, %ctaid.y;
        mad.lo.u32 %r6, %r6, %r2, %r3;
        mov.u32 %r2, %nctaid.x; mov.u32 %r3, %ctaid.x;
        mad.lo.u32 %r6, %r6, %r2, %r3;
        mov.u32 %r2, %ntid.x; mov.u32 %r3, %ntid.y; mul.lo.u32 %r2, %r2, %r3;
        mov.u32 %r3, %ntid.z; mul.lo.u32 %r2, %r2, %r3;
        mad.lo.u32 %r1, %r6, %r2, %r1;
        mad.wide.u32 %a1, %r1, {}, %out;
        {each}",
        4 * REGISTERS.len()
    );
    for (grid, block) in sizes {
        for host_threads in [1, 3] {
            let mut kernel = Kernel::new(body.clone()).size(grid, block);
            kernel.host_threads = host_threads;
            let (threads, blocks) = (block.iter().product::<u32>(), grid.iter().product::<u32>());
            let out = kernel.output((threads * blocks) as usize * REGISTERS.len());
            let split = |i: u32, [x, y, _]: [u32; 3]| [i % x, i / x % y, i / x / y];
            for (i, got) in out.chunks(REGISTERS.len()).enumerate() {
                let index = i as u32 % threads;
                let block_at = split(i as u32 / threads, grid);
                let thread =
                    Thread { block, grid, at: split(index, block), block_at, index, blocks };
                assert!(block_at[2] < grid[2] && thread.blocks == blocks);
                for ((name, expected), &got) in REGISTERS.iter().zip(got) {
                    assert_eq!(got, expected(&thread), "{name} of {i}, {grid:?} {block:?}");
                }
            }
        }
    }
}

#[test]
fn clocks_advance() {
    let body = format!(
        "mov.u32 %r1, %clock;
        mov.u64 %a1, %clock64;
        mov.u64 %a4, %globaltimer;
        add.u32 %r2, %r1, 1;
        mov.u64 %a2, %clock64;
        mov.u64 %a5, %globaltimer;
        sub.u64 %a3, %a2, %a1;
        cvt.u32.u64 %r3, %a3;
        setp.ge.u64 %p1, %a5, %a4;
        selp.u32 %r4, 1, 0, %p1;
        mov.u32 %r5, %clock;
        sub.u32 %r5, %r5, %r1;
        {}{}{}",
        put("%r3", 0),
        put("%r4", 32),
        put("%r5", 64)
    );
    let out = Kernel::new(body).output(96);
    assert!(out[..32].iter().all(|&ticks| ticks > 0 && ticks < 1000), "{out:?}");
    assert_eq!(out[32..64], [1; 32]);
    assert!(out[64..].iter().all(|&ticks| ticks > out[0]), "{out:?}");
}
