//! Matrix instructions against plain products, with the fragment layouts of the PTX ISA written down shape by shape.

use ptx_emulator::gpu::{Arg, Gpu};

/// Row and column of element `i` of lane `lane`, from the figures of "Matrix Fragments for mma.m…" in the PTX ISA.
type Place = fn(lane: usize, i: usize) -> (usize, usize);

struct Case {
    /// The shape and the types, as modifiers.
    shape: &'static str,
    types: &'static str,
    m: usize,
    k: usize,
    /// Bits of an element of A and B.
    bits: usize,
    a_registers: usize,
    b_registers: usize,
    a: Place,
    b: Place,
}

fn g(lane: usize) -> usize {
    lane >> 2
}

fn t(lane: usize) -> usize {
    lane % 4
}

/// Accumulators of m16n8: groupID and groupID + 8, threadID_in_group * 2 + (i & 1).
fn c16(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { g(lane) } else { g(lane) + 8 }, t(lane) * 2 + (i & 1))
}

/// Accumulators of m8n8: groupID, threadID_in_group * 2 + i.
fn c8(lane: usize, i: usize) -> (usize, usize) {
    (g(lane), t(lane) * 2 + i)
}

fn a_m16n8k16_half(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 2 || (4..6).contains(&i) { g(lane) } else { g(lane) + 8 };
    let column = t(lane) * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
    (row, column)
}

fn b_m16n8k16_half(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, g(lane))
}

fn a_m16n8k8_half(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { g(lane) } else { g(lane) + 8 }, t(lane) * 2 + (i & 1))
}

fn b_m16n8k8_half(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 2 + i, g(lane))
}

fn a_m16n8k4_tf32(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { g(lane) } else { g(lane) + 8 }, t(lane))
}

fn b_m16n8k4_tf32(lane: usize, _: usize) -> (usize, usize) {
    (t(lane), g(lane))
}

fn a_m16n8k8_tf32(lane: usize, i: usize) -> (usize, usize) {
    (
        if i.is_multiple_of(2) { g(lane) } else { g(lane) + 8 },
        if i < 2 { t(lane) } else { t(lane) + 4 },
    )
}

fn b_m16n8k8_tf32(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) + 4 * i, g(lane))
}

fn a_m8n8k16_byte(lane: usize, i: usize) -> (usize, usize) {
    (g(lane), t(lane) * 4 + i)
}

fn b_m8n8k16_byte(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 4 + i, g(lane))
}

fn a_m16n8k16_byte(lane: usize, i: usize) -> (usize, usize) {
    (if i < 4 { g(lane) } else { g(lane) + 8 }, t(lane) * 4 + (i & 3))
}

fn a_m16n8k32_byte(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 4 || (8..12).contains(&i) { g(lane) } else { g(lane) + 8 };
    (row, t(lane) * 4 + (i & 3) + if i >= 8 { 16 } else { 0 })
}

fn b_m16n8k32_byte(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 4 + (i & 3) + if i >= 4 { 16 } else { 0 }, g(lane))
}

fn a_m8n8k32_nibble(lane: usize, i: usize) -> (usize, usize) {
    (g(lane), t(lane) * 8 + i)
}

fn b_m8n8k32_nibble(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 8 + i, g(lane))
}

fn a_m16n8k32_nibble(lane: usize, i: usize) -> (usize, usize) {
    (if i < 8 { g(lane) } else { g(lane) + 8 }, t(lane) * 8 + (i & 7))
}

fn a_m16n8k64_nibble(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 8 || (16..24).contains(&i) { g(lane) } else { g(lane) + 8 };
    (row, t(lane) * 8 + (i & 7) + if i >= 16 { 32 } else { 0 })
}

fn b_m16n8k64_nibble(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 8 + (i & 7) + if i >= 8 { 32 } else { 0 }, g(lane))
}

fn a_m8n8k128_bit(lane: usize, i: usize) -> (usize, usize) {
    (g(lane), t(lane) * 32 + i)
}

fn b_m8n8k128_bit(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 32 + i, g(lane))
}

fn a_m16n8k128_bit(lane: usize, i: usize) -> (usize, usize) {
    (if i < 32 { g(lane) } else { g(lane) + 8 }, t(lane) * 32 + (i & 31))
}

fn a_m16n8k256_bit(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 32 || (64..96).contains(&i) { g(lane) } else { g(lane) + 8 };
    (row, t(lane) * 32 + (i & 31) + if i >= 64 { 128 } else { 0 })
}

fn b_m16n8k256_bit(lane: usize, i: usize) -> (usize, usize) {
    (t(lane) * 32 + (i & 31) + if i >= 32 { 128 } else { 0 }, g(lane))
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { shape: "m16n8k16", types: "f32.f16.f16.f32", m: 16, k: 16, bits: 16, a_registers: 4, b_registers: 2, a: a_m16n8k16_half, b: b_m16n8k16_half },
    Case { shape: "m16n8k16", types: "f16.f16.f16.f16", m: 16, k: 16, bits: 16, a_registers: 4, b_registers: 2, a: a_m16n8k16_half, b: b_m16n8k16_half },
    Case { shape: "m16n8k16", types: "f32.bf16.bf16.f32", m: 16, k: 16, bits: 16, a_registers: 4, b_registers: 2, a: a_m16n8k16_half, b: b_m16n8k16_half },
    Case { shape: "m16n8k8", types: "f32.f16.f16.f32", m: 16, k: 8, bits: 16, a_registers: 2, b_registers: 1, a: a_m16n8k8_half, b: b_m16n8k8_half },
    Case { shape: "m16n8k8", types: "f16.f16.f16.f16", m: 16, k: 8, bits: 16, a_registers: 2, b_registers: 1, a: a_m16n8k8_half, b: b_m16n8k8_half },
    Case { shape: "m16n8k8", types: "f32.bf16.bf16.f32", m: 16, k: 8, bits: 16, a_registers: 2, b_registers: 1, a: a_m16n8k8_half, b: b_m16n8k8_half },
    Case { shape: "m16n8k4", types: "f32.tf32.tf32.f32", m: 16, k: 4, bits: 32, a_registers: 2, b_registers: 1, a: a_m16n8k4_tf32, b: b_m16n8k4_tf32 },
    Case { shape: "m16n8k8", types: "f32.tf32.tf32.f32", m: 16, k: 8, bits: 32, a_registers: 4, b_registers: 2, a: a_m16n8k8_tf32, b: b_m16n8k8_tf32 },
    Case { shape: "m8n8k16", types: "s32.s8.s8.s32", m: 8, k: 16, bits: 8, a_registers: 1, b_registers: 1, a: a_m8n8k16_byte, b: b_m8n8k16_byte },
    Case { shape: "m16n8k16", types: "s32.u8.s8.s32", m: 16, k: 16, bits: 8, a_registers: 2, b_registers: 1, a: a_m16n8k16_byte, b: b_m8n8k16_byte },
    Case { shape: "m16n8k32", types: "s32.s8.u8.s32", m: 16, k: 32, bits: 8, a_registers: 4, b_registers: 2, a: a_m16n8k32_byte, b: b_m16n8k32_byte },
    Case { shape: "m16n8k32", types: "s32.u8.u8.s32", m: 16, k: 32, bits: 8, a_registers: 4, b_registers: 2, a: a_m16n8k32_byte, b: b_m16n8k32_byte },
    Case { shape: "m8n8k32", types: "s32.s4.s4.s32", m: 8, k: 32, bits: 4, a_registers: 1, b_registers: 1, a: a_m8n8k32_nibble, b: b_m8n8k32_nibble },
    Case { shape: "m16n8k32", types: "s32.u4.s4.s32", m: 16, k: 32, bits: 4, a_registers: 2, b_registers: 1, a: a_m16n8k32_nibble, b: b_m8n8k32_nibble },
    Case { shape: "m16n8k64", types: "s32.s4.u4.s32", m: 16, k: 64, bits: 4, a_registers: 4, b_registers: 2, a: a_m16n8k64_nibble, b: b_m16n8k64_nibble },
    Case { shape: "m8n8k128", types: "s32.b1.b1.s32.xor.popc", m: 8, k: 128, bits: 1, a_registers: 1, b_registers: 1, a: a_m8n8k128_bit, b: b_m8n8k128_bit },
    Case { shape: "m16n8k128", types: "s32.b1.b1.s32.and.popc", m: 16, k: 128, bits: 1, a_registers: 2, b_registers: 1, a: a_m16n8k128_bit, b: b_m8n8k128_bit },
    Case { shape: "m16n8k256", types: "s32.b1.b1.s32.xor.popc", m: 16, k: 256, bits: 1, a_registers: 4, b_registers: 2, a: a_m16n8k256_bit, b: b_m16n8k256_bit },
    Case { shape: "m16n8k256", types: "s32.b1.b1.s32.and.popc", m: 16, k: 256, bits: 1, a_registers: 4, b_registers: 2, a: a_m16n8k256_bit, b: b_m16n8k256_bit },
];

/// A small generator: the tests' inputs are the same on every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }
}

/// Loads a lane's registers of A, B and C, multiplies, stores D; `registers` words a lane of each.
fn run(
    mnemonic: &str,
    (na, nb, nc, nd): (usize, usize, usize, usize),
    inputs: [&[u32]; 3],
) -> Vec<u32> {
    let list = |name: &str, n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("%{name}{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let loads = |name: &str, n: usize| {
        let one = |i: usize| format!("ld.global.b32 %{name}{i}, [%{name}p+{}];\n", 4 * i);
        (0..n).map(one).collect::<String>()
    };
    let stores: String =
        (0..nd).map(|i| format!("st.global.b32 [%dp+{}], %d{i};\n", 4 * i)).collect();
    let pointers: String = [("a", na), ("b", nb), ("c", nc), ("d", nd)]
        .iter()
        .map(|(name, n)| {
            format!(
                "ld.param.u64 %{name}p, [{name}]; mad.wide.u32 %{name}p, %lane, {}, %{name}p;\n",
                4 * n
            )
        })
        .collect();
    let c = if mnemonic.contains("f32.") && nc == nd && !mnemonic.contains(".f16.f16.f16.f16") {
        "f32"
    } else {
        "b32"
    };
    let text = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n
        .visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {{
        .reg .b64 %ap, %bp, %cp, %dp;
        .reg .b32 %lane; .reg .b32 %a<8>; .reg .b32 %b<8>; .reg .{c} %c<8>; .reg .{c} %d<8>;
        mov.u32 %lane, %laneid;
        {pointers} {} {} {}
        {mnemonic} {}, {}, {}, {};
        {stores} ret; }}",
        loads("a", na),
        loads("b", nb),
        loads("c", nc),
        list("d", nd),
        list("a", na),
        list("b", nb),
        list("c", nc)
    );
    let gpu = Gpu::new(80);
    let module = gpu.load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let [a, b, c] = inputs.map(|input| gpu.upload(input).unwrap());
    let d = gpu.allocate((32 * nd * 4) as u64).unwrap();
    let args = [Arg::U64(a), Arg::U64(b), Arg::U64(c), Arg::U64(d)];
    let counts =
        gpu.launch(&module, "k", 1, 32, &args).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(counts.classes[ptx_emulator::isa::Class::Tensor].warps, 1);
    gpu.download(d, 32 * nd).unwrap()
}

fn f16_value(bits: u32) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15 & 1, bits >> 10 & 31, bits & 0x3FF);
    let magnitude = match exponent {
        0 => f64::from(fraction) * 2f64.powi(-24),
        31 if fraction == 0 => f64::INFINITY,
        31 => f64::NAN,
        _ => f64::from(fraction + 1024) * 2f64.powi(exponent as i32 - 25),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

/// The value of an element's bits.
fn value(name: &str, bits: u32) -> f64 {
    match name {
        "f16" => f16_value(bits & 0xFFFF),
        "bf16" => f64::from(f32::from_bits(bits << 16)),
        "tf32" => f64::from(f32::from_bits(bits & 0xFFFF_E000)),
        "s8" => f64::from(bits as u8 as i8),
        "u8" => f64::from(bits as u8),
        "s4" => f64::from((bits << 28) as i32 >> 28),
        _ => f64::from(bits & 15),
    }
}

/// An element with few significant bits, so that sums are exact in every order.
fn element(name: &str, draw: &mut Draw) -> u32 {
    match name {
        "f16" => (draw.next() & 0x8000) | (13 + draw.next() % 4) << 10 | (draw.next() & 7) << 7,
        "bf16" => (draw.next() & 0x8000) | (125 + draw.next() % 4) << 7 | (draw.next() & 7) << 4,
        "tf32" => {
            (draw.next() & 1) << 31
                | (125 + draw.next() % 4) << 23
                | (draw.next() & 7) << 20
                | draw.next() & 0x1FFF
        }
        _ => draw.next(),
    }
}

#[test]
fn products_are_exact() {
    for (number, case) in CASES.iter().enumerate() {
        let mut draw = Draw(number as u64 + 1);
        let names: Vec<&str> = case.types.split('.').collect();
        let (d_type, a_type, b_type) = (names[0], names[1], names[2]);
        let is_bits = a_type == "b1";
        let (m, k, n) = (case.m, case.k, 8);
        let mask = if case.bits == 32 { u32::MAX } else { (1 << case.bits) - 1 };
        let mut matrix = |rows: usize, columns: usize, name: &str| -> Vec<Vec<u32>> {
            (0..rows)
                .map(|_| (0..columns).map(|_| element(name, &mut draw) & mask).collect())
                .collect()
        };
        let (a, b) = (matrix(m, k, a_type), matrix(k, n, b_type));
        let pack = |matrix: &[Vec<u32>], registers: usize, place: Place| -> Vec<u32> {
            let each = 32 / case.bits;
            (0..32 * registers)
                .map(|word| {
                    let (lane, register) = (word / registers, word % registers);
                    (0..each).fold(0, |bits, e| {
                        let (row, column) = place(lane, register * each + e);
                        bits | matrix[row][column] << (case.bits * e)
                    })
                })
                .collect()
        };
        let place = if m == 16 { c16 as Place } else { c8 };
        let elements = m / 4;
        let halves = d_type == "f16";
        let registers = if halves { elements / 2 } else { elements };
        // C: small integers, asymmetric.
        let c = |row: usize, column: usize| (row * 3) as f64 - (column * 5) as f64;
        let half = |x: f64| (0u32..0x10000).find(|&bits| f16_value(bits) == x).unwrap();
        let c_words: Vec<u32> = (0..32 * registers)
            .map(|word| {
                let (lane, register) = (word / registers, word % registers);
                let at = |i: usize| {
                    let (row, column) = place(lane, i);
                    c(row, column)
                };
                match d_type {
                    "f16" => half(at(2 * register)) | half(at(2 * register + 1)) << 16,
                    "f32" => (at(register) as f32).to_bits(),
                    _ => at(register) as i32 as u32,
                }
            })
            .collect();
        let mnemonic = format!("mma.sync.aligned.{}.row.col.{}", case.shape, case.types);
        let inputs = [
            &pack(&a, case.a_registers, case.a)[..],
            &pack(&b, case.b_registers, case.b),
            &c_words,
        ];
        let d = run(&mnemonic, (case.a_registers, case.b_registers, registers, registers), inputs);
        for lane in 0..32 {
            for i in 0..elements {
                let (row, column) = place(lane, i);
                let dot: f64 = (0..k)
                    .map(|k| match (is_bits, names.get(4)) {
                        (true, Some(&"xor")) => f64::from(a[row][k] ^ b[k][column]),
                        (true, _) => f64::from(a[row][k] & b[k][column]),
                        _ => value(a_type, a[row][k]) * value(b_type, b[k][column]),
                    })
                    .sum();
                let expected = c(row, column) + dot;
                let got = match d_type {
                    "f16" => f16_value(d[lane * registers + i / 2] >> (16 * (i % 2)) & 0xFFFF),
                    "f32" => f64::from(f32::from_bits(d[lane * registers + i])),
                    _ => f64::from(d[lane * registers + i] as i32),
                };
                let bound = if halves { expected.abs() * 2f64.powi(-11) } else { 0.0 };
                assert!(
                    (got - expected).abs() <= bound,
                    "{mnemonic}: ({row}, {column}) is {got}, {expected} expected"
                );
            }
        }
    }
}

/// Sums of values of every size stay within the bound that the crate documents.
#[test]
fn sums_are_within_the_bound() {
    let mut draw = Draw(99);
    for round in 0..20 {
        let mut word = || {
            let mut half =
                || (draw.next() & 0x8000) | (draw.next() % 40 + 100) << 7 | draw.next() & 0x7F;
            half() | half() << 16
        };
        let a: Vec<u32> = (0..128).map(|_| word()).collect();
        let b: Vec<u32> = (0..64).map(|_| word()).collect();
        let c: Vec<u32> = (0..128).map(|i| (i as f32 - 60.0).to_bits()).collect();
        let d =
            run("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", (4, 2, 4, 4), [&a, &b, &c]);
        let of = |words: &[u32], registers: usize, place: Place, at: (usize, usize)| {
            let found = (0..32 * registers * 2).find(|&e| {
                let (lane, i) = (e / (2 * registers), e % (2 * registers));
                place(lane, i) == at
            });
            let e = found.unwrap();
            f64::from(f32::from_bits((words[e / 2] >> (16 * (e % 2))) << 16))
        };
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = c16(lane, i);
                let start = f64::from(f32::from_bits(c[lane * 4 + i]));
                let (mut exact, mut size) = (start, start.abs());
                for k in 0..16 {
                    let product = of(&a, 4, a_m16n8k16_half, (row, k))
                        * of(&b, 2, b_m16n8k16_half, (k, column));
                    exact += product;
                    size += product.abs();
                }
                let got = f64::from(f32::from_bits(d[lane * 4 + i]));
                assert!(
                    (got - exact).abs() <= 16.0 * 2f64.powi(-24) * size,
                    "round {round}: {got} for {exact}"
                );
            }
        }
    }
}

#[test]
fn special_values() {
    let one = 0x3F80_3F80u32;
    let (mut a, b) = (vec![one; 128], vec![one; 64]);
    let c = vec![0u32; 128];
    // Row 0, column 0 of A is NaN; row 1 has infinity, row 2 both infinities.
    a[0] = 0x3F80_7FC1;
    a[4 * 4] = 0x3F80_7F80;
    a[8 * 4] = 0xFF80_7F80;
    let d = run("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", (4, 2, 4, 4), [&a, &b, &c]);
    for lane in 0..32 {
        for i in 0..4 {
            let got = d[lane * 4 + i];
            match c16(lane, i).0 {
                0 | 2 => assert_eq!(got, 0x7FFF_FFFF, "NaN is canonical"),
                1 => assert_eq!(f32::from_bits(got), f32::INFINITY),
                _ => assert_eq!(f32::from_bits(got), 16.0),
            }
        }
    }
}

#[test]
fn saturation() {
    let (a, b) = (vec![0x7F7F_7F7Fu32; 128], vec![0x7F7F_7F7Fu32; 64]);
    let c = vec![i32::MAX as u32 - 5; 128];
    let sum = 32i32.wrapping_mul(127 * 127);
    let plain = run("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", (4, 2, 4, 4), [&a, &b, &c]);
    assert_eq!(plain, vec![(i32::MAX - 5).wrapping_add(sum) as u32; 128]);
    let clamped = run(
        "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32",
        (4, 2, 4, 4),
        [&a, &b, &c],
    );
    assert_eq!(clamped, vec![i32::MAX as u32; 128]);
}

#[test]
fn double_precision() {
    let text = ".version 7.8\n.target sm_80\n.address_size 64\n
        .visible .entry k(.param .u64 a, .param .u64 b, .param .u64 d) {
        .reg .b64 %p<4>; .reg .b32 %lane; .reg .f64 %f<8>;
        mov.u32 %lane, %laneid;
        ld.param.u64 %p1, [a]; mad.wide.u32 %p1, %lane, 8, %p1; ld.global.f64 %f1, [%p1];
        ld.param.u64 %p2, [b]; mad.wide.u32 %p2, %lane, 8, %p2; ld.global.f64 %f2, [%p2];
        mov.f64 %f3, 0d3FF0000000000000; mov.f64 %f4, 0dBFF0000000000000;
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%f5, %f6}, {%f1}, {%f2}, {%f3, %f4};
        ld.param.u64 %p3, [d]; mad.wide.u32 %p3, %lane, 16, %p3; st.global.v2.f64 [%p3], {%f5, %f6};
        ret; }";
    let gpu = Gpu::new(80);
    let module = gpu.load(text).unwrap();
    // A is 8 x 4, row by row: lane 4 row + column; B is 4 x 8: lane 4 column + row.
    let a: Vec<f64> = (0..32).map(|i| 0.1 * f64::from(i) - 1.0).collect();
    let b: Vec<f64> = (0..32).map(|i| 1.7 - 0.3 * f64::from(i)).collect();
    let (pa, pb) = (gpu.upload(&a).unwrap(), gpu.upload(&b).unwrap());
    let d = gpu.allocate(512).unwrap();
    gpu.launch(&module, "k", 1, 32, &[Arg::U64(pa), Arg::U64(pb), Arg::U64(d)]).unwrap();
    let got: Vec<f64> = gpu.download(d, 64).unwrap();
    for lane in 0..32 {
        for i in 0..2 {
            let (row, column) = c8(lane, i);
            let start = if i == 0 { 1.0 } else { -1.0 };
            let exact: f64 =
                start + (0..4).map(|k| a[4 * row + k] * b[4 * column + k]).sum::<f64>();
            assert!((got[2 * lane + i] - exact).abs() < 1e-13, "({row}, {column})");
        }
    }
}

/// Row addresses are permuted and rows lie 32 bytes apart, so that a wrong lane or row shows.
#[test]
fn matrices_from_shared_memory_and_back() {
    for transpose in [false, true] {
        for count in [1usize, 2, 4] {
            let trans = if transpose { ".trans" } else { "" };
            let list: Vec<String> = (0..count).map(|i| format!("%r{i}")).collect();
            let list = list.join(", ");
            let stores: String =
                (0..count).map(|i| format!("st.global.b32 [%out+{}], %r{i};", 4 * i)).collect();
            let text = format!(
                ".version 7.8\n.target sm_90\n.address_size 64\n
                .visible .entry k(.param .u64 in, .param .u64 out, .param .u64 back) {{
                .reg .b64 %in, %out, %back; .reg .b32 %lane, %s, %x, %row, %n, %addr; .reg .b32 %r<4>; .reg .pred %p;
                .shared .align 16 .b8 tile[1024];
                .shared .align 16 .b8 copy[1024];
                ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; ld.param.u64 %back, [back];
                mov.u32 %lane, %laneid; mov.u32 %s, tile;
                // 256 words in, 8 a lane.
                mov.u32 %n, 0;
                L: mad.lo.u32 %x, %n, 32, %lane; mad.wide.u32 %in, %x, 4, %in;
                ld.global.b32 %row, [%in]; ld.param.u64 %in, [in];
                mad.lo.u32 %addr, %x, 4, %s; st.shared.b32 [%addr], %row;
                add.u32 %n, %n, 1; setp.lt.u32 %p, %n, 8; @%p bra L;
                bar.warp.sync -1;
                // Lane l points at row (l ^ 5) of the tile.
                xor.b32 %row, %lane, 5; mad.lo.u32 %addr, %row, 32, %s;
                ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{list}}}, [%addr];
                mad.wide.u32 %out, %lane, {}, %out;
                {stores}
                mov.u32 %s, copy; mad.lo.u32 %addr, %lane, 16, %s;
                stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%addr], {{{list}}};
                bar.warp.sync -1;
                mad.wide.u32 %back, %lane, 16, %back;
                setp.lt.u32 %p, %lane, {};
                @!%p bra E;
                ld.shared.v4.b32 {{%r0, %r1, %r2, %r3}}, [%addr];
                st.global.v4.b32 [%back], {{%r0, %r1, %r2, %r3}};
                E: ret; }}",
                4 * count,
                8 * count
            );
            let gpu = Gpu::new(90);
            let module = gpu.load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let words: Vec<u32> = (0..256u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
            let input = gpu.upload(&words).unwrap();
            let out = gpu.upload(&vec![0u32; 32 * count]).unwrap();
            let back = gpu.upload(&[0u32; 128]).unwrap();
            let args = [Arg::U64(input), Arg::U64(out), Arg::U64(back)];
            gpu.launch(&module, "k", 1, 32, &args).unwrap_or_else(|error| panic!("{error}"));
            // Row r of matrix j is tile row (8 j + r) ^ 5: its first 8 halves.
            let half = |row: usize, column: usize| {
                let word = words[((row ^ 5) * 32 + 2 * column) / 4];
                word >> (16 * (column % 2)) & 0xFFFF
            };
            let got: Vec<u32> = gpu.download(out, 32 * count).unwrap();
            for lane in 0..32 {
                for j in 0..count {
                    let (row, column) = (lane / 4, 2 * (lane % 4));
                    let expected = match transpose {
                        false => half(8 * j + row, column) | half(8 * j + row, column + 1) << 16,
                        true => half(8 * j + column, row) | half(8 * j + column + 1, row) << 16,
                    };
                    assert_eq!(
                        got[lane * count + j],
                        expected,
                        "x{count}{trans} lane {lane} matrix {j}"
                    );
                }
            }
            let rows: Vec<u32> = gpu.download(back, 4 * 8 * count).unwrap();
            for row in 0..8 * count {
                for column in 0..8 {
                    let stored = rows[row * 4 + column / 2] >> (16 * (column % 2)) & 0xFFFF;
                    assert_eq!(
                        stored,
                        half(row, column),
                        "x{count}{trans} row {row} column {column}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_does_not_exist_is_refused() {
    let refused = [
        (
            "mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
            "expected .col",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
            "does not exist",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16 {%r0,%r1}, {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%r0,%r1};",
            "does not exist",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
            "4 registers expected, got 3",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r0,%r1,%r2,%d0}, {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
            "%d0",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.satfinite.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
            "satfinite",
        ),
        (
            "mma.sync.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
            "expected .aligned",
        ),
        ("ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r0,%r1,%r2}, [%r0];", ".x1, .x2, .x4"),
        ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r0}, [%r0];", "2 registers expected, got 1"),
        ("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r0], {%r0};", "sm_90"),
        ("wmma.load.a.sync.aligned.m16n16k16.row.f16 {%r0}, [%d0], 16;", "wmma is not implemented"),
    ];
    for (instruction, expected) in refused {
        let text = format!(
            ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k() {{
             .reg .b32 %r<4>; .reg .f32 %f<4>; .reg .b64 %d<1>;\n{instruction}\nret; }}"
        );
        let Err(error) = Gpu::new(80).load(&text).map(|_| ()) else {
            panic!("accepted: {instruction}")
        };
        let message = error.to_string();
        assert!(
            message.starts_with("line 6, column 1:") && message.contains(expected),
            "{instruction}\n{message}"
        );
    }
}
