//! Additions of halves in memory.

use ptx_emulator::gpu::{Arg, Gpu};

/// Runs `atom.add.noftz` of every row's second value to its first, and gives the old and the new values.
fn add(ty: &str, bits: u32, rows: &[[u32; 2]]) -> Vec<[u32; 2]> {
    let text = format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.entry k(.param .u64 at) {{
            .reg .b{bits} %b, %d; .reg .b32 %i; .reg .b64 %at;
            ld.param.u64 %at, [at]; mov.u32 %i, %tid.x; mad.wide.u32 %at, %i, 8, %at;
            ld.global.b{bits} %b, [%at+4];
            atom.global.add.noftz.{ty} %d, [%at], %b;
            st.global.b{bits} [%at+4], %d;
            ret; }}"
    );
    let gpu = Gpu::new(90);
    let module = gpu.load(&text).unwrap();
    let at = gpu.upload(&rows.concat()).unwrap();
    gpu.launch(&module, "k", 1, rows.len() as u32, &[Arg::U64(at)]).unwrap();
    let words = gpu.download::<u32>(at, rows.len() * 2).unwrap();
    words.chunks(2).map(|pair| [pair[1], pair[0]]).collect()
}

#[test]
fn halves() {
    // 1 + 1, 65504 + 65504, the least subnormal twice, and 1 - 1.
    let f16 = [[0x3C00, 0x3C00], [0x7BFF, 0x7BFF], [1, 1], [0x3C00, 0xBC00]];
    assert_eq!(add("f16", 16, &f16), [[0x3C00, 0x4000], [0x7BFF, 0x7C00], [1, 2], [0x3C00, 0]]);
    let bf16 = [[0x3F80, 0x3F80], [0x7F7F, 0x7F7F], [1, 1], [0x3F80, 0xBF80]];
    assert_eq!(add("bf16", 16, &bf16), [[0x3F80, 0x4000], [0x7F7F, 0x7F80], [1, 2], [0x3F80, 0]]);
}

#[test]
fn pairs() {
    // Both halves add on their own: no carry goes from the lower to the upper.
    let f16 = [[0x3C00_BC00, 0x4000_BC00], [0x0001_FFFF, 0x0001_3C00]];
    assert_eq!(add("f16x2", 32, &f16), [[0x3C00_BC00, 0x4200_C000], [0x0001_FFFF, 0x0002_7FFF]]);
    let bf16 = [[0x3F80_BF80, 0x4000_BF80], [0x0001_FFFF, 0x0001_3F80]];
    assert_eq!(add("bf16x2", 32, &bf16), [[0x3F80_BF80, 0x4040_C000], [0x0001_FFFF, 0x0002_7FFF]]);
}
