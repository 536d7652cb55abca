//! `atom` and `red` under contention, in shared and global memory, for one and several host threads.

use crate::{Kernel, random};

const BLOCKS: u32 = 4;
const THREADS: u32 = 96;
/// Updates of a thread.
const TURNS: u32 = 3;

/// An operation: its name, the words of its type, and what it makes of old and new value.
struct Operation {
    name: &'static str,
    words: usize,
    init: u64,
    /// The value that a thread brings.
    value: fn(u32) -> u64,
    apply: fn(u64, u64) -> u64,
}

fn f32_sum(a: u64, b: u64) -> u64 {
    u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits())
}

fn f64_sum(a: u64, b: u64) -> u64 {
    (f64::from_bits(a) + f64::from_bits(b)).to_bits()
}

/// Both halves of a word, of small whole numbers in f16 or bf16, whose sum is exact.
fn half_sum<const EXPONENT: u32>(a: u64, b: u64) -> u64 {
    let one = |a: u16, b: u16| {
        let mantissa = 15 - EXPONENT;
        let bias = (1 << (EXPONENT - 1)) - 1;
        let value = |h: u16| {
            let exponent = u32::from(h) >> mantissa & ((1 << EXPONENT) - 1);
            match exponent {
                0 => 0,
                _ => {
                    ((u32::from(h) & ((1 << mantissa) - 1)) | 1 << mantissa)
                        << (exponent + 4 - bias)
                        >> mantissa
                        >> 4
                }
            }
        };
        let sum = value(a) + value(b);
        match sum {
            0 => 0u16,
            _ => {
                let log = sum.ilog2();
                ((log + bias) << mantissa | (sum << mantissa >> log) & ((1 << mantissa) - 1)) as u16
            }
        }
    };
    let (low, high) = (one(a as u16, b as u16), one((a >> 16) as u16, (b >> 16) as u16));
    u64::from(low) | u64::from(high) << 16
}

#[rustfmt::skip]
const OPERATIONS: &[Operation] = &[
    Operation { name: "add.u32", words: 1, init: u32::MAX as u64 - 5, value: |i| u64::from(i), apply: |a, b| (a + b) & 0xFFFF_FFFF },
    Operation { name: "add.s32", words: 1, init: 10, value: |i| u64::from(i.wrapping_neg()), apply: |a, b| (a + b) & 0xFFFF_FFFF },
    Operation { name: "add.u64", words: 2, init: 0xFFFF_FFF0, value: |i| u64::from(i) << 20, apply: u64::wrapping_add },
    Operation { name: "add.f32", words: 1, init: 0x3F80_0000, value: |i| u64::from((i as f32 / 4.0).to_bits()), apply: f32_sum },
    Operation { name: "add.f64", words: 2, init: 0, value: |i| (f64::from(i) / 8.0).to_bits(), apply: f64_sum },
    Operation { name: "add.noftz.f16x2", words: 1, init: 0, value: |i| if i.is_multiple_of(2) { 0x3C00 } else { 0x4000_0000 }, apply: half_sum::<5> },
    Operation { name: "and.b32", words: 1, init: 0xFFFF_FFFF, value: |i| !u64::from(1u32 << (i % 20)) & 0xFFFF_FFFF, apply: |a, b| a & b },
    Operation { name: "and.b64", words: 2, init: u64::MAX, value: |i| !(1 << (i % 50)), apply: |a, b| a & b },
    Operation { name: "or.b32", words: 1, init: 0, value: |i| 1 << (i % 30), apply: |a, b| a | b },
    Operation { name: "or.b64", words: 2, init: 0, value: |i| 1 << (i % 60), apply: |a, b| a | b },
    Operation { name: "xor.b32", words: 1, init: 0, value: |i| u64::from(i.wrapping_mul(0x9E37_79B9)), apply: |a, b| a ^ b },
    Operation { name: "xor.b64", words: 2, init: 0, value: |i| u64::from(i) * 0x9E37_79B9_7F4A, apply: |a, b| a ^ b },
    Operation { name: "min.u32", words: 1, init: 0xFFFF_FFFF, value: |i| u64::from(0x8000_0000u32 - i), apply: |a, b| a.min(b) },
    Operation { name: "min.s32", words: 1, init: 5, value: |i| u64::from(3u32.wrapping_sub(i)), apply: |a, b| if (a as i32) < b as i32 { a } else { b } },
    Operation { name: "min.u64", words: 2, init: u64::MAX, value: |i| (1 << 40) - u64::from(i), apply: |a, b| a.min(b) },
    Operation { name: "min.s64", words: 2, init: 0, value: |i| (-i64::from(i) << 33) as u64, apply: |a, b| if (a as i64) < b as i64 { a } else { b } },
    Operation { name: "max.u32", words: 1, init: 0, value: |i| u64::from(0x8000_0000u32 + i), apply: |a, b| a.max(b) },
    Operation { name: "max.s32", words: 1, init: 0x8000_0000, value: |i| u64::from(i.wrapping_sub(70)), apply: |a, b| if (a as i32) > b as i32 { a } else { b } },
    Operation { name: "max.u64", words: 2, init: 0, value: |i| u64::from(i) << 35, apply: |a, b| a.max(b) },
    Operation { name: "max.s64", words: 2, init: 1 << 63, value: |i| (i64::from(i) - 70) as u64, apply: |a, b| if (a as i64) > b as i64 { a } else { b } },
    Operation { name: "inc.u32", words: 1, init: 0, value: |_| 100, apply: |a, b| if a >= b { 0 } else { a + 1 } },
    Operation { name: "dec.u32", words: 1, init: 200, value: |_| 77, apply: |a, b| if a == 0 || a > b { b } else { a - 1 } },
    Operation { name: "exch.b32", words: 1, init: 1 << 30, value: |i| u64::from(i), apply: |_, b| b },
    Operation { name: "exch.b64", words: 2, init: 1 << 60, value: |i| u64::from(i) << 32, apply: |_, b| b },
];

/// A thread's number in the grid: its value, and where its outputs are.
const NUMBER: &str = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %t;";

fn register(words: usize) -> &'static str {
    if words == 2 { "%a" } else { "%r" }
}

/// Every thread updates one word of global memory, or of its block's shared memory, a few times. What it was follows from
/// what all saw: old values and new ones form one chain.
#[test]
fn chains() {
    for operation in OPERATIONS {
        let Operation { name, words, init, value, apply } = operation;
        for (space, host_threads) in
            [("shared", 1), ("shared", 2), ("shared", 4), ("global", 1), ("global", 4), ("", 2)]
        {
            let in_shared = space == "shared";
            let x = register(*words);
            let bits = 32 * words;
            let bytes = 4 * words;
            let dotted = if space.is_empty() { String::new() } else { format!(".{space}") };
            let target = if in_shared { "[cell]" } else { "[%out]" };
            let begin = if in_shared {
                "setp.eq.u32 %p1, %t, 0;
                @%p1 ld.global.b64 %a4, [%out];
                @%p1 st.shared.b64 [cell], %a4;
                bar.sync 0;"
            } else {
                ""
            };
            let end = if in_shared {
                "bar.sync 0;
                mad.wide.u32 %a4, %r1, 8, %out;
                @%p1 ld.shared.b64 %a5, [cell];
                @%p1 st.global.b64 [%a4+8], %a5;"
            } else {
                ""
            };
            let turns: String = (0..TURNS)
                .map(|turn| {
                    format!(
                        "atom{dotted}.{name} {x}11, {target}, {x}10;
                        st.global.b{bits} [%a3+{}], {x}11;\n",
                        turn as usize * bytes
                    )
                })
                .collect();
            let threads = BLOCKS * THREADS;
            // In: each thread's value. Out: the word, the blocks' words, and the old values that each thread saw.
            let head = 2 * (1 + BLOCKS as usize);
            let body = format!(
                "{NUMBER}
                mad.wide.u32 %a1, %r3, {bytes}, %in;
                ld.global.b{bits} {x}10, [%a1];
                mad.wide.u32 %a3, %r3, {}, %out;
                add.u64 %a3, %a3, {};
                {begin}{turns}{end}",
                TURNS as usize * bytes,
                4 * head
            );
            let mut kernel =
                Kernel::new(body).module(".shared .align 8 .b8 cell[8];").size(BLOCKS, THREADS);
            kernel.host_threads = host_threads;
            let pair = |value: u64| [value as u32, (value >> 32) as u32];
            let input: Vec<u32> =
                (0..threads).flat_map(|i| pair(value(i))[..*words].to_vec()).collect();
            let mut out = vec![0; head + (threads * TURNS) as usize * words];
            out[..2].copy_from_slice(&pair(*init));
            let (out, _) = kernel
                .run(&input, &out)
                .unwrap_or_else(|report| panic!("{name} {space}: {report}"));
            let join = |words: &[u32]| {
                words.iter().rev().fold(0u64, |all, &word| all << 32 | u64::from(word))
            };
            let olds: Vec<u64> = out[head..].chunks(*words).map(join).collect();
            let groups = if in_shared { BLOCKS } else { 1 };
            let each = (threads / groups * TURNS) as usize;
            for (group, olds) in olds.chunks(each).enumerate() {
                let end = if in_shared { 2 + 2 * group } else { 0 };
                let last = join(&out[end..end + words]);
                // Every old value is the start or what another thread made; the last one is seen by none.
                let first = group as u32 * (threads / groups);
                let mut seen = olds.to_vec();
                seen.push(last);
                let mut made: Vec<u64> = olds
                    .iter()
                    .enumerate()
                    .map(|(i, &old)| apply(old, value(first + i as u32 / TURNS)))
                    .collect();
                made.push(*init);
                seen.sort_unstable();
                made.sort_unstable();
                assert_eq!(seen, made, "{name} {space}, {host_threads} host threads");
            }
        }
    }
}

/// `red`, whose order does not show: blocks run at once on several host threads.
#[test]
fn reductions() {
    let mut next = random(5);
    let threads = BLOCKS * THREADS;
    let targets: Vec<u32> = (0..threads).map(|_| next() % 7).collect();
    for operation in OPERATIONS {
        let Operation { name, words, init, value, apply } = operation;
        if name.starts_with("exch") {
            continue;
        }
        let (x, bits, bytes) = (register(*words), 32 * words, 4 * words);
        for host_threads in [1, 2, 4] {
            let body = format!(
                "{NUMBER}
                mad.wide.u32 %a1, %r3, {}, %in;
                ld.global.b32 %r4, [%a1];
                ld.global.b{bits} {x}10, [%a1+8];
                mad.wide.u32 %a2, %r4, 8, %out;
                red.global.{name} [%a2], {x}10;
                red.relaxed.gpu.global.{name} [%a2], {x}10;
                red.{name} [%a2], {x}10;",
                8 + 8
            );
            assert_eq!(bytes, bits / 8);
            let mut kernel = Kernel::new(body).size(BLOCKS, THREADS);
            kernel.host_threads = host_threads;
            let pair = |value: u64| [value as u32, (value >> 32) as u32];
            let input: Vec<u32> = (0..threads)
                .flat_map(|i| {
                    let [low, high] = pair(value(i));
                    [targets[i as usize], 0, low, high]
                })
                .collect();
            let start: Vec<u32> = (0..7).flat_map(|_| pair(*init)).collect();
            let (out, counts) =
                kernel.run(&input, &start).unwrap_or_else(|report| panic!("{name}: {report}"));
            let mut expected = [*init; 7];
            for i in 0..threads {
                let cell = &mut expected[targets[i as usize] as usize];
                for _ in 0..3 {
                    *cell = apply(*cell, value(i));
                }
            }
            let expected: Vec<u32> = expected.into_iter().flat_map(pair).collect();
            assert_eq!(out, expected, "{name}, {host_threads} host threads");
            assert_eq!(counts.global.atomics.requests, 3 * u64::from(threads) / 32);
        }
    }
}

/// Loops of compare-and-swap, of 16, 32 and 64 bits: each adds its number, whoever comes between.
#[test]
fn compare_and_swap() {
    for (bits, x) in [(16, "%h"), (32, "%r"), (64, "%a")] {
        for space in ["shared", "global"] {
            let target = if space == "shared" { "[cell]" } else { "[%out]" };
            let (begin, end) = match space {
                "shared" => (
                    "setp.eq.u32 %p1, %t, 0;
                    @%p1 st.shared.b64 [cell], 0;
                    bar.sync 0;",
                    "bar.sync 0;
                    @%p1 ld.shared.b64 %a5, [cell];
                    mad.wide.u32 %a4, %r1, 8, %out;
                    @%p1 st.global.b64 [%a4], %a5;",
                ),
                _ => ("", ""),
            };
            let add = match bits {
                16 => "cvt.u16.u32 %h12, %r3;",
                32 => "mov.u32 %r12, %r3;",
                _ => "cvt.u64.u32 %a12, %r3; shl.b64 %a12, %a12, 30;",
            };
            let body = format!(
                "{NUMBER}
                {begin}
                {add}
                mov.b{bits} {x}10, 0;
                AGAIN:
                add.u{bits} {x}11, {x}10, {x}12;
                mov.b{bits} {x}13, {x}10;
                atom.{space}.cas.b{bits} {x}10, {target}, {x}13, {x}11;
                setp.ne.u{bits} %p2, {x}10, {x}13;
                @%p2 bra AGAIN;
                {end}"
            );
            let kernel =
                Kernel::new(body).module(".shared .align 8 .b8 cell[8];").size(BLOCKS, THREADS);
            let out = kernel.output(2 * BLOCKS as usize);
            let sum = |range: std::ops::Range<u32>| {
                let all = range.map(u64::from).sum::<u64>();
                match bits {
                    16 => all & 0xFFFF,
                    32 => all & 0xFFFF_FFFF,
                    _ => all << 30,
                }
            };
            let got = |i: usize| u64::from(out[2 * i]) | u64::from(out[2 * i + 1]) << 32;
            if space == "global" {
                assert_eq!(got(0), sum(0..BLOCKS * THREADS), "{bits} bits");
            } else {
                for block in 0..BLOCKS {
                    let first = block * THREADS;
                    assert_eq!(got(block as usize), sum(first..first + THREADS), "{bits} bits");
                }
            }
        }
    }
}

/// `.f32` additions flush subnormals in global memory and keep them in shared memory; infinities and NaN go through.
#[test]
fn subnormal_sums() {
    let body = "mov.b32 %f1, 0x00000001;
        mov.b32 %f2, 0x80000001;
        setp.ne.u32 %p1, %t, 0;
        @%p1 ret;
        st.shared.u32 [cell], 2;
        atom.shared.add.f32 %f3, [cell], %f1;
        atom.shared.add.f32 %f4, [cell], %f1;
        st.global.f32 [%out+8], %f4;
        ld.shared.u32 %r1, [cell];
        st.global.u32 [%out+12], %r1;
        atom.global.add.f32 %f5, [%out], %f1;
        atom.global.add.f32 %f6, [%out+4], %f2;
        mov.f32 %f7, 0f7F800000;
        atom.global.add.f32 %f8, [%out+16], %f7;
        neg.f32 %f7, %f7;
        atom.global.add.f32 %f8, [%out+16], %f7;
        ld.global.f32 %f9, [%out+16];
        testp.notanumber.f32 %p2, %f9;
        selp.u32 %r2, 1, 0, %p2;
        st.global.u32 [%out+16], %r2;";
    let kernel = Kernel::new(body).module(".shared .align 4 .b8 cell[4];");
    let (out, _) = kernel.run(&[0], &[1, 0x8000_0001, 0, 0, 0]).unwrap();
    assert_eq!(out, [0, 0x8000_0000, 3, 4, 1]);
}

/// bf16 and f16 alone, and orders and hints that change nothing here.
#[test]
fn other_forms() {
    let mut kernel = Kernel::new(
        "mov.b16 %h1, 0x3F80;
        mov.b16 %h3, 0x3C00;
        mov.b32 %r1, 0x3F803F80;
        atom.global.add.noftz.bf16 %h2, [%out], %h1;
        atom.global.add.noftz.bf16x2 %r2, [%out+4], %r1;
        atom.global.add.noftz.f16 %h4, [%out+8], %h3;
        createpolicy.fractional.L2::evict_first.b64 %a1, 1.0;
        atom.global.add.L2::cache_hint.u32 %r3, [%out+12], 1, %a1;
        atom.acquire.cta.global.add.u32 %r3, [%out+12], 1;
        atom.release.gpu.global.add.u32 %r3, [%out+12], 1;
        atom.acq_rel.sys.global.add.u32 %r3, [%out+12], 1;
        atom.relaxed.cluster.global.add.u32 %r3, [%out+12], 1;
        red.release.gpu.global.add.u32 [%out+12], 1;
        atom.gpu.global.add.u32 _, [%out+12], 1;",
    );
    kernel.target = 90;
    let (out, _) = kernel.run(&[0], &[0; 4]).unwrap_or_else(|report| panic!("{report}"));
    // 32 in bf16 and f16.
    assert_eq!(out, [0x4200, 0x4200_4200, 0x5000, 7 * 32]);
}
