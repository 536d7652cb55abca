//! transpose.ptx: coalescing, and three layouts of a tile.

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Dim, Gpu, Shape};

use super::{bits, global, random_u32, shared};

/// How the tile lies in shared memory: pitch and swizzle mask; without one, no tile is used.
type Layout = Option<(u32, u32)>;

const PLAIN: Layout = Some((32, 0));
const PADDED: Layout = Some((33, 0));
const SWIZZLED: Layout = Some((32, 31));

fn run(gpu: &Gpu, layout: Layout, rows: usize, columns: usize) -> (Counts, Vec<u32>) {
    let module = gpu.load(include_str!("../kernels/transpose.ptx")).unwrap();
    let values = random_u32(11, rows * columns);
    let (from, out) = (gpu.upload(&values).unwrap(), gpu.upload(&vec![0; values.len()]).unwrap());
    let mut args =
        vec![Arg::U64(from), Arg::U64(out), Arg::U32(rows as u32), Arg::U32(columns as u32)];
    let mut kernel = "transpose_naive";
    if let Some((pitch, mask)) = layout {
        args.extend([Arg::U32(pitch), Arg::U32(mask)]);
        kernel = "transpose_tile";
    }
    let grid = Dim([columns.div_ceil(32) as u32, rows.div_ceil(32) as u32, 1]);
    let shape = Shape { grid, block: [32, 8].into(), shared: 0, cooperative: false };
    let counts = gpu.launch_shaped(&module, kernel, &shape, &args).unwrap();
    let out = gpu.download(out, values.len()).unwrap();
    let transposed = (0..columns).flat_map(|x| (0..rows).map(move |y| (x, y)));
    assert!(transposed.map(|(x, y)| values[y * columns + x]).eq(out.iter().copied()));
    (counts, out)
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (mut counts, out) = run(gpu, None, 45, 70);
    counts += &run(gpu, SWIZZLED, 45, 70).0;
    (counts, bits(&out))
}

/// 2 x 3 tiles.
#[test]
fn whole_tiles() {
    let tiles = 6;
    let (counts, _) = run(&Gpu::new(80), None, 64, 96);
    assert_eq!(global(&counts), [(32 * tiles, 128 * tiles), (32 * tiles, 1024 * tiles), (0, 0)]);
    assert_eq!(shared(&counts), [(0, 0); 3]);
    // Eight times as many sectors are stored as there are.
    assert_eq!(counts.global.cold_written_sectors, 128 * tiles);
    for (layout, wavefronts) in [(PLAIN, 1024), (PADDED, 32), (SWIZZLED, 32)] {
        let (counts, _) = run(&Gpu::new(80), layout, 64, 96);
        assert_eq!(global(&counts), [(32 * tiles, 128 * tiles), (32 * tiles, 128 * tiles), (0, 0)]);
        let expected = [(32 * tiles, wavefronts * tiles), (32 * tiles, 32 * tiles), (0, 0)];
        assert_eq!(shared(&counts), expected, "{layout:?}");
        assert_eq!(counts.barrier_arrivals, 8 * tiles);
        assert_eq!(counts.divergent_branches, 0);
    }
}

#[test]
fn ragged_edges() {
    for (rows, columns) in [(1, 1), (1, 40), (33, 31), (45, 70)] {
        for layout in [None, PLAIN, PADDED, SWIZZLED] {
            run(&Gpu::new(80), layout, rows, columns);
        }
    }
}
