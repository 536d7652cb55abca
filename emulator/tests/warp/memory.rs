//! Loads and stores of every width in every space, generic addresses, and `cp.async`.

use ptx_emulator::report::Check;

use crate::{Kernel, put, random};

/// Types, and their bytes.
const TYPES: [(&str, usize); 14] = [
    ("u8", 1),
    ("s8", 1),
    ("b8", 1),
    ("u16", 2),
    ("s16", 2),
    ("b16", 2),
    ("u32", 4),
    ("s32", 4),
    ("b32", 4),
    ("f32", 4),
    ("u64", 8),
    ("s64", 8),
    ("b64", 8),
    ("f64", 8),
];

/// Registers that a type may be loaded into: prefix, bits.
fn registers(ty: &str, bytes: usize) -> Vec<(&'static str, usize)> {
    let all = [("%h", 16), ("%r", 32), ("%a", 64)];
    match ty {
        "f32" => vec![("%f", 32)],
        "f64" => vec![("%d", 64)],
        _ => all.into_iter().filter(|&(_, bits)| bits >= 8 * bytes).collect(),
    }
}

/// The bytes of a thread's input, extended to the register's bits.
fn extended(bytes: &[u8], is_signed: bool, bits: usize) -> Vec<u8> {
    let fill = if is_signed && bytes[bytes.len() - 1] >= 0x80 { 0xFF } else { 0 };
    let mut all = bytes.to_vec();
    all.resize(bits / 8, fill);
    all
}

#[test]
fn every_width() {
    let mut next = random(9);
    // 16 bytes a thread.
    let input: Vec<u32> = (0..4 * 32).map(|_| next()).collect();
    let given: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    for space in ["global", "shared", "local", "", "const"] {
        // Sixteen bytes of each thread, from its input.
        let copy = "mad.wide.u32 %a1, %t, 16, %in;
            ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%a1];
            mov.u32 %r5, tile;
            mad.lo.u32 %r5, %t, 16, %r5;\n";
        let (prepare, at) = match space {
            "global" | "" => ("", "%a1"),
            "shared" => ("st.shared.v4.u32 [%r5], {%r1, %r2, %r3, %r4};", "%r5"),
            "local" => ("mov.u64 %a2, mine; st.local.v4.u32 [%a2], {%r1, %r2, %r3, %r4};", "%a2"),
            _ => ("mov.u64 %a2, table; mad.wide.u32 %a2, %t, 16, %a2;", "%a2"),
        };
        let dotted = if space.is_empty() { String::new() } else { format!(".{space}") };
        let table: Vec<String> = given.iter().map(u8::to_string).collect();
        let module = format!(
            ".shared .align 16 .b8 tile[512];
            .const .align 16 .b8 table[512] = {{{}}};",
            table.join(", ")
        );
        // All types in one kernel, one behind the other in the output.
        let (mut body, mut expected) = (format!("{copy}{prepare}\n"), vec![Vec::new(); 32]);
        for (ty, bytes) in TYPES {
            for (x, bits) in registers(ty, bytes) {
                for count in [1, 2, 4].into_iter().filter(|count| count * bytes <= 16) {
                    let list: Vec<String> = (20..20 + count).map(|i| format!("{x}{i}")).collect();
                    let (vector, list) = match count {
                        1 => (String::new(), list[0].clone()),
                        _ => (format!(".v{count}"), format!("{{{}}}", list.join(", "))),
                    };
                    // Not the first bytes, where there is a choice.
                    let offset = 16 - count * bytes;
                    body += &format!("ld{dotted}{vector}.{ty} {list}, [{at}+{offset}];\n");
                    for i in 0..count {
                        let place = expected[0].len();
                        body += &format!("st.global.b{bits} [%a3+{place}], {x}{};\n", 20 + i);
                        for (t, expected) in expected.iter_mut().enumerate() {
                            let from = &given[16 * t + offset + i * bytes..][..bytes];
                            expected.extend(extended(from, ty.starts_with('s'), bits));
                            expected.resize(expected.len().next_multiple_of(8), 0);
                        }
                    }
                }
            }
        }
        let each = expected[0].len();
        let body =
            format!(".local .align 16 .b8 mine[16]; mad.wide.u32 %a3, %t, {each}, %out;\n{body}");
        let out = Kernel::new(body).module(module).of(&input, 8 * each);
        let out: Vec<u8> = out.iter().flat_map(|word| word.to_le_bytes()).collect();
        for (t, (got, expected)) in out.chunks(each).zip(&expected).enumerate() {
            assert_eq!(got, expected, "{space}, thread {t}");
        }
    }
}

/// Stores leave the bytes around them alone, and take the low bits of a wider register.
#[test]
fn stores_of_every_width() {
    let mut next = random(10);
    let input: Vec<u32> = (0..4 * 32).map(|_| next()).collect();
    let given: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    for space in ["global", "shared", "local", ""] {
        for (ty, bytes) in TYPES {
            for (x, bits) in registers(ty, bytes) {
                for count in [1, 2, 4].into_iter().filter(|count| count * bytes <= 16) {
                    let list: Vec<String> = (20..20 + count).map(|i| format!("{x}{i}")).collect();
                    let loads: String = (0..count)
                        .map(|i| {
                            let at = i * bits / 8 % 16;
                            format!("ld.global.b{bits} {x}{}, [%a1+{at}];\n", 20 + i)
                        })
                        .collect();
                    let (vector, list) = match count {
                        1 => (String::new(), list[0].clone()),
                        _ => (format!(".v{count}"), format!("{{{}}}", list.join(", "))),
                    };
                    let (at, back) = match space {
                        "global" | "" => ("%a2", "global"),
                        "shared" => ("%r5", "shared"),
                        _ => ("%a4", "local"),
                    };
                    let dotted = if space.is_empty() { String::new() } else { format!(".{space}") };
                    let offset = 16 - count * bytes;
                    let body = format!(
                        ".local .align 16 .b8 mine[16];
                        mov.u64 %a4, mine;
                        mov.u32 %r5, tile;
                        mad.lo.u32 %r5, %t, 16, %r5;
                        mad.wide.u32 %a1, %t, 16, %in;
                        mad.wide.u32 %a2, %t, 16, %out;
                        {loads}
                        mov.u32 %r1, 0x55555555;
                        st.{back}.v4.b32 [{at}], {{%r1, %r1, %r1, %r1}};
                        st{dotted}{vector}.{ty} [{at}+{offset}], {list};
                        ld.{back}.v4.b32 {{%r1, %r2, %r3, %r4}}, [{at}];
                        st.global.v4.b32 [%a2], {{%r1, %r2, %r3, %r4}};"
                    );
                    let kernel = Kernel::new(body).module(".shared .align 16 .b8 tile[512];");
                    let out = kernel.of(&input, 4 * 32);
                    let out: Vec<u8> = out.iter().flat_map(|word| word.to_le_bytes()).collect();
                    for (t, got) in out.chunks(16).enumerate() {
                        let mut expected = [0x55; 16];
                        for i in 0..count {
                            let from = &given[16 * t + i * bits / 8 % 16..][..bytes];
                            expected[offset + i * bytes..][..bytes].copy_from_slice(from);
                        }
                        assert_eq!(got, expected, "st{dotted}{vector}.{ty} from {x}, thread {t}");
                    }
                }
            }
        }
    }
}

/// One generic load whose threads reach shared, local, global and parameter memory.
#[test]
fn generic_addresses() {
    let body = format!(
        ".local .align 8 .b8 mine[8];
        mov.u32 %r1, tile;
        mad.lo.u32 %r1, %t, 4, %r1;
        add.u32 %r2, %t, 100;
        st.shared.u32 [%r1], %r2;
        add.u32 %r2, %t, 200;
        st.local.u32 [mine+4], %r2;
        add.u32 %r2, %t, 300;
        mad.wide.u32 %a1, %t, 4, %out;
        st.global.u32 [%a1], %r2;
        cvt.u64.u32 %a2, %r1;
        cvta.shared.u64 %a2, %a2;
        mov.u64 %a3, mine;
        cvta.local.u64 %a3, %a3;
        add.u64 %a3, %a3, 4;
        cvta.global.u64 %a4, %a1;
        mov.u64 %a5, in;
        cvta.param.u64 %a5, %a5;
        mov.u64 %a6, table;
        cvta.const.u64 %a6, %a6;
        rem.u32 %r3, %t, 5;
        setp.eq.u32 %p1, %r3, 0;
        setp.eq.u32 %p2, %r3, 1;
        setp.eq.u32 %p3, %r3, 2;
        setp.eq.u32 %p4, %r3, 3;
        mov.u64 %a7, %a6;
        @%p1 mov.u64 %a7, %a2;
        @%p2 mov.u64 %a7, %a3;
        @%p3 mov.u64 %a7, %a4;
        @%p4 mov.u64 %a7, %a5;
        ld.u32 %r4, [%a7];
        isspacep.shared %p5, %a7;
        isspacep.local %p6, %a7;
        isspacep.global %p7, %a7;
        isspacep.param %p8, %a7;
        isspacep.const %p9, %a7;
        selp.u32 %r5, 1, 0, %p5;
        selp.u32 %r6, 2, 0, %p6;
        selp.u32 %r7, 4, 0, %p7;
        selp.u32 %r8, 8, 0, %p8;
        selp.u32 %r9, 16, 0, %p9;
        or.b32 %r5, %r5, %r6;
        or.b32 %r5, %r5, %r7;
        or.b32 %r5, %r5, %r8;
        or.b32 %r5, %r5, %r9;
        cvta.to.shared.u64 %a8, %a2;
        cvt.u32.u64 %r10, %a8;
        sub.u32 %r10, %r10, %r1;
        cvta.to.local.u64 %a9, %a3;
        ld.local.u32 %r11, [%a9];
        cvta.to.global.u64 %a10, %a4;
        ld.global.u32 %r12, [%a10];
        // Atomics and stores, too: shared and global in one.
        add.u64 %a11, %a4, 512;
        setp.lt.u32 %p10, %t, 16;
        selp.b64 %a12, %a2, %a11, %p10;
        atom.add.u32 %r13, [%a12], 5;
        ld.u32 %r13, [%a12];
        add.u32 %r13, %r13, 1;
        st.u32 [%a12], %r13;
        ld.u32 %r13, [%a12];
        {}{}{}{}{}{}",
        put("%r4", 32),
        put("%r5", 64),
        put("%r10", 96),
        put("%r13", 160),
        put("%r11", 192),
        put("%r12", 224)
    );
    let module = ".shared .align 4 .b8 tile[128]; .const .align 4 .u32 table[1] = {77};";
    let mut kernel = Kernel::new(body).module(module);
    kernel.target = 80;
    let (out, counts) =
        kernel.run(&[0], &vec![1000; 256]).unwrap_or_else(|report| panic!("{report}"));
    for t in 0..32u32 {
        let at = |i: u32| out[(32 * i + t) as usize];
        assert_eq!(at(0), t + 300);
        let (value, space) = match t % 5 {
            0 => (t + 100, 1),
            1 => (t + 200, 2),
            2 => (t + 300, 4),
            // The low word of a pointer.
            3 => (at(1), 8),
            _ => (77, 16),
        };
        assert_eq!((at(1), at(2)), (value, space), "{t}");
        assert_eq!(at(3), 0);
        assert_eq!(at(5), if t < 16 { t + 106 } else { 1006 });
        assert_eq!((at(6), at(7)), (t + 200, t + 300));
    }
    // The parameter that thread 3 read is the one that thread 8 read.
    assert_eq!(out[32 + 3], out[32 + 8]);
    assert!(counts.shared.atomics.requests == 1 && counts.global.atomics.requests == 1);
}

/// `cp.async` of 4, 8 and 16 bytes, with fewer source bytes, and with a predicate that ignores the source.
#[test]
fn asynchronous_copies() {
    let mut next = random(11);
    let input: Vec<u32> = (0..4 * 32).map(|_| next()).collect();
    let given: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut forms = Vec::new();
    for bytes in [4, 8, 16] {
        for cache in ["ca", "cg"].into_iter().filter(|&cache| cache == "ca" || bytes == 16) {
            for (hints, policy) in [
                ("", ""),
                (".L2::128B", ""),
                (".L2::cache_hint", ", %a9"),
                (".L2::cache_hint.L2::64B", ", %a9"),
            ] {
                forms.push((bytes, format!("cp.async.{cache}.shared.global{hints}"), policy));
            }
        }
    }
    for (bytes, name, policy) in forms {
        for source in ["", "constant", "register", "predicate", "negated"] {
            let (operand, size): (&str, fn(usize, usize) -> usize) = match source {
                "" => ("", |_, bytes| bytes),
                "constant" => (", 3", |_, _| 3),
                "register" => (", %r6", |t, bytes| t % (bytes + 1)),
                "predicate" => (", %p1", |t, bytes| if t % 2 == 0 { 0 } else { bytes }),
                _ => (", !%p1", |t, bytes| if t % 2 == 1 { 0 } else { bytes }),
            };
            let body = format!(
                "mov.u32 %r5, tile;
                mad.lo.u32 %r5, %t, 16, %r5;
                mad.wide.u32 %a1, %t, 16, %in;
                mad.wide.u32 %a2, %t, 16, %out;
                rem.u32 %r6, %t, {};
                and.b32 %r7, %t, 1;
                setp.eq.u32 %p1, %r7, 0;
                createpolicy.fractional.L2::evict_last.b64 %a9;
                mov.u32 %r1, 0x55555555;
                st.shared.v4.b32 [%r5], {{%r1, %r1, %r1, %r1}};
                {name} [%r5], [%a1], {bytes}{operand}{policy};
                cp.async.commit_group;
                cp.async.wait_group 0;
                ld.shared.v4.b32 {{%r1, %r2, %r3, %r4}}, [%r5];
                st.global.v4.b32 [%a2], {{%r1, %r2, %r3, %r4}};",
                bytes + 1
            );
            let kernel = Kernel::new(body).module(".shared .align 16 .b8 tile[512];");
            let (out, counts) = kernel
                .run(&input, &[0; 128])
                .unwrap_or_else(|report| panic!("{name} {source}: {report}"));
            let out: Vec<u8> = out.iter().flat_map(|word| word.to_le_bytes()).collect();
            for (t, got) in out.chunks(16).enumerate() {
                let mut expected = [0x55; 16];
                expected[..bytes].fill(0);
                let size = size(t, bytes);
                expected[..size].copy_from_slice(&given[16 * t..][..size]);
                assert_eq!(got, expected, "{name} {bytes} {source}, thread {t}");
            }
            assert_eq!(counts.async_copy_bytes, 32 * bytes as u64);
        }
    }
}

/// Bytes that are not copied are not looked at: the source may end there.
#[test]
fn copies_at_an_edge() {
    let body = |sizes: &str| {
        format!(
            "mov.u32 %r5, tile;
            mad.lo.u32 %r5, %t, 16, %r5;
            mad.wide.u32 %a1, %t, 16, %in;
            mad.wide.u32 %a2, %t, 16, %out;
            mov.u32 %r6, {sizes};
            setp.lt.u32 %p1, %t, 2;
            @%p1 mov.u32 %r6, 16;
            setp.gt.u32 %p2, %t, 2;
            @%p2 mov.u32 %r6, 0;
            cp.async.cg.shared.global [%r5], [%a1], 16, %r6;
            cp.async.wait_all;
            ld.shared.v4.b32 {{%r1, %r2, %r3, %r4}}, [%r5];
            st.global.v4.b32 [%a2], {{%r1, %r2, %r3, %r4}};"
        )
    };
    let kernel = |sizes| Kernel::new(body(sizes)).module(".shared .align 16 .b8 tile[512];");
    let input: Vec<u32> = (1..=10).collect();
    let out = kernel("8").of(&input, 128);
    assert_eq!(out[..10], input);
    assert_eq!(out[10..], [0; 118]);
    let report = kernel("12").run(&input, &[0; 128]).unwrap_err();
    assert_eq!((report.check, report.thread), (Check::OutOfBounds, [2, 0, 0]), "{report}");
    let report = kernel("17").run(&input, &[0; 128]).unwrap_err();
    assert_eq!((report.check, report.thread), (Check::Parameters, [2, 0, 0]), "{report}");
}

/// Cache operators, eviction priorities, orders and prefetches change no value.
#[test]
fn hints() {
    let loads = [
        "ld.global.ca",
        "ld.global.cg",
        "ld.global.cs",
        "ld.global.lu",
        "ld.global.cv",
        "ld.global.nc",
        "ld.global.ca.nc",
        "ld.weak.global",
        "ld.volatile.global",
        "ld.relaxed.gpu.global",
        "ld.acquire.sys.global",
        "ld.relaxed.cta.global",
        "ld.global.L1::evict_last",
        "ld.global.L1::no_allocate.L2::128B",
        "ld.global.nc.L1::evict_first.L2::256B",
        "ld.global.L1::evict_unchanged",
        "ld.global.L2::64B",
        "ldu.global",
        "ld.volatile",
        "ld.weak",
        "ld.relaxed.sys",
        "ld.global.L1::evict_normal",
    ];
    let stores = [
        "st.global.wb",
        "st.global.cg",
        "st.global.cs",
        "st.global.wt",
        "st.weak.global",
        "st.volatile.global",
        "st.relaxed.gpu.global",
        "st.release.gpu.global",
        "st.volatile",
        "st.global.L1::evict_last",
        "st.global.L1::no_allocate",
        "st.release.cta",
    ];
    let mut body = String::from(
        "mad.wide.u32 %a1, %t, 4, %in;
        createpolicy.fractional.L2::evict_first.b64 %a9, 0.5;
        prefetch.global.L1 [%a1];
        prefetch.global.L2 [%a1];
        prefetch.L2 [%a1];
        ld.global.L2::cache_hint.u32 %r1, [%a1], %a9;
        ld.global.nc.L1::evict_last.L2::cache_hint.L2::128B.u32 %r2, [%a1], %a9;
        add.u32 %r1, %r1, %r2;\n",
    );
    for load in loads {
        body += &format!("{load}.u32 %r2, [%a1]; add.u32 %r1, %r1, %r2;\n");
    }
    body += "mad.wide.u32 %a2, %t, 4, %out;\n";
    for (i, store) in stores.iter().enumerate() {
        body += &format!("{store}.u32 [%a2+{}], %r1;\n", 128 * i);
    }
    body += &format!("st.global.L2::cache_hint.u32 [%a2+{}], %r1, %a9;\n", 128 * stores.len());
    let input: Vec<u32> = (0..32).map(|t| 3 * t + 1).collect();
    let out = Kernel::new(body).of(&input, 32 * (stores.len() + 1));
    for (i, &got) in out.iter().enumerate() {
        assert_eq!(got, (loads.len() as u32 + 2) * (3 * (i as u32 % 32) + 1), "{i}");
    }
}
