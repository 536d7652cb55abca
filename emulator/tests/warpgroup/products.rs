//! Products of every shape and layout.

use ptx_emulator::gpu::{Arg, Gpu};
use ptx_emulator::isa::Class;

use super::*;

/// How a K-major matrix lies in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Core matrices of 8 rows by 16 bytes: those of a row side by side.
    Plain,
    /// Rows of so many bytes, and the descriptor's mode.
    Swizzled(usize, u64),
}

const LAYOUTS: [Layout; 4] =
    [Layout::Swizzled(128, 1), Layout::Swizzled(64, 2), Layout::Swizzled(32, 3), Layout::Plain];

impl Layout {
    /// Where byte `at` of a row is in a matrix of `rows` rows of `bytes` bytes.
    fn place(self, rows: usize, bytes: usize, row: usize, at: usize) -> usize {
        match self {
            Layout::Plain => {
                let core = row / 8 * (bytes / 16) + at / 16;
                core * 128 + row % 8 * 16 + at % 16
            }
            Layout::Swizzled(width, _) => {
                // Panels of `width` bytes of every row, one behind the other, each a multiple of the pattern.
                let address =
                    at / width * (rows * width).next_multiple_of(1024) + row * width + at % width;
                let chunks = width / 16 - 1;
                address ^ (((address / 128) & chunks) * 16)
            }
        }
    }

    fn size(self, rows: usize, bytes: usize) -> usize {
        match self {
            Layout::Plain => rows * bytes,
            Layout::Swizzled(width, _) => {
                bytes.div_ceil(width) * (rows * width).next_multiple_of(1024)
            }
        }
        .next_multiple_of(1024)
    }

    /// The descriptor of a step of K, of a matrix that begins at `start`.
    fn descriptor(self, start: usize, rows: usize, bytes: usize, step: usize) -> u64 {
        let at = 32 * step;
        let (address, leading, stride, mode) = match self {
            Layout::Plain => (start + at / 16 * 128, 128, bytes / 16 * 128, 0),
            Layout::Swizzled(width, mode) => {
                let panel = at / width * (rows * width).next_multiple_of(1024);
                (start + panel + at % width, 16, 8 * width, mode)
            }
        };
        (address as u64) >> 4
            | (leading as u64) >> 4 << 16
            | (stride as u64) >> 4 << 32
            | mode << 62
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    types: &'static str,
    n: usize,
    steps: usize,
    layout: Layout,
    a_in_registers: bool,
    /// Whether the first step adds to what is in the accumulators.
    adds: bool,
    negates: [bool; 2],
}

impl Case {
    fn bits(&self) -> usize {
        match self.types {
            "tf32" => 32,
            "s8" | "u8" => 8,
            "b1" => 1,
            _ => 16,
        }
    }

    /// Whether sums are s32.
    fn is_integer(&self) -> bool {
        self.bits() < 16
    }

    /// Elements of K in all.
    fn k(&self) -> usize {
        self.steps * 256 / self.bits()
    }

    fn text(&self) -> String {
        let Case { types, n, steps, layout, .. } = *self;
        let accumulators = n / 2;
        let bytes = 32 * steps;
        let b_start = layout.size(64, bytes);
        let mut body = String::from(COPY) + &load(accumulators);
        // The same registers as integers.
        let between = |to: &str, from: &str| -> String {
            (0..accumulators).map(|i| format!("{to}{i}, {from}{i};\n")).collect()
        };
        if self.is_integer() {
            body += &format!(".reg .s32 %i<{accumulators}>;\n");
            body += &between("cvt.rni.s32.f32 %i", "%f");
        }
        if self.a_in_registers {
            body += &format!("ld.param.u64 %g, [a]; mad.wide.u32 %g, %t, {}, %g;\n", 16 * steps);
            for register in 0..4 * steps {
                body += &format!("ld.global.b32 %r{register}, [%g+{}];\n", 4 * register);
            }
        }
        body += &format!("setp.eq.u32 %p1, %t, {};\n", if self.adds { "%t" } else { "-1" });
        body += PUBLISH;
        let scale = |negates| if negates { -1 } else { 1 };
        let [scale_a, scale_b] = self.negates.map(scale);
        for step in 0..steps {
            let a = match self.a_in_registers {
                true => list("r", 4 * step..4 * step + 4),
                false => {
                    let descriptor = layout.descriptor(0, 64, bytes, step);
                    body += &format!(
                        "cvt.u64.u32 %at, %s; shr.u64 %at, %at, 4; add.u64 %d0, %at, {descriptor:#x};\n"
                    );
                    "%d0".to_owned()
                }
            };
            let descriptor = layout.descriptor(b_start, n, bytes, step);
            let signs = format!(", {scale_a}, {scale_b}");
            let (sums, op, more) = match (types, self.a_in_registers) {
                ("b1", _) => ("s32", ".and.popc", String::new()),
                ("s8" | "u8", _) => ("s32", "", String::new()),
                ("tf32", _) => ("f32", "", signs),
                (_, true) => ("f32", "", signs + ", 0"),
                (_, false) => ("f32", "", signs + ", 0, 0"),
            };
            let d = if self.is_integer() { "i" } else { "f" };
            body += &format!(
                "cvt.u64.u32 %at, %s; shr.u64 %at, %at, 4; add.u64 %d1, %at, {descriptor:#x};
                wgmma.mma_async.sync.aligned.m64n{n}k{}.{sums}.{types}.{types}{op} {}, {a}, %d1, {}{more};\n",
                256 / self.bits(),
                list(d, 0..accumulators),
                if step == 0 { "%p1" } else { "1" },
            );
        }
        body += FINISH;
        if self.is_integer() {
            body += &between("cvt.rn.f32.s32 %f", "%i");
        }
        module(&(body + &store(accumulators)))
    }
}

/// A small generator: the tests' inputs are the same on every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }
}

/// A small number, and its bits in a type.
fn element(types: &str, draw: &mut Draw) -> (f64, u32) {
    let value = match types {
        "b1" => (draw.next() % 2) as f32,
        "s8" => (draw.next() % 256) as f32 - 128.0,
        "u8" => (draw.next() % 256) as f32,
        _ => (draw.next() % 31) as f32 - 15.0,
    };
    let bits = match types {
        "b1" | "s8" | "u8" => value as i32 as u32 & 0xFF,
        "f16" if value == 0.0 => 0,
        "f16" => {
            let wide = value.to_bits();
            (wide >> 16 & 0x8000) | ((wide >> 23 & 0xFF) - 112) << 10 | wide >> 13 & 0x3FF
        }
        "bf16" => value.to_bits() >> 16,
        // The low bits are ignored.
        _ => value.to_bits() | 0xFFF,
    };
    (f64::from(value), bits)
}

/// Row and column of accumulator `i` of a thread of a warpgroup, from the figures of the PTX ISA.
fn accumulator(thread: usize, i: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + 8 * (i % 4 / 2), 8 * (i / 4) + lane % 4 * 2 + i % 2)
}

/// The word of a row that register `r` of a thread holds of A, and the row.
fn fragment(thread: usize, r: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + 8 * (r % 2), lane % 4 + 4 * (r / 2))
}

/// Rows of words, from rows of elements.
fn words(bits: usize, matrix: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let pack =
        |pair: &[u32]| pair.iter().rev().fold(0u64, |word, &e| (word << bits) | u64::from(e));
    let row = |row: &Vec<u32>| row.chunks(32 / bits).map(|pair| pack(pair) as u32).collect();
    matrix.iter().map(row).collect()
}

fn inputs(case: &Case, a: &[Vec<u32>], b: &[Vec<u32>], c: &dyn Fn(usize, usize) -> f32) -> Inputs {
    let bytes = 32 * case.steps;
    let b_start = case.layout.size(64, bytes);
    let mut image = vec![0u32; (b_start + case.layout.size(case.n, bytes)) / 4];
    let (a, b) = (words(case.bits(), a), words(case.bits(), b));
    let mut put = |matrix: &[Vec<u32>], start: usize| {
        for (row, values) in matrix.iter().enumerate() {
            for (at, &word) in values.iter().enumerate() {
                image[(start + case.layout.place(matrix.len(), bytes, row, 4 * at)) / 4] = word;
            }
        }
    };
    // What is not to be read would show.
    let nowhere = vec![vec![0x7FFF_7FFF; bytes / 4]; 64];
    put(if case.a_in_registers { &nowhere } else { &a }, 0);
    put(&b, b_start);
    let of_a = |thread: usize, register: usize| {
        let (row, at) = fragment(thread, register % 4);
        a[row][8 * (register / 4) + at]
    };
    let threads = |count: usize| (0..128 * count).map(move |i| (i / count, i % count));
    let of_c = |(thread, i)| {
        let (row, column) = accumulator(thread, i);
        c(row, column)
    };
    Inputs {
        image,
        a: threads(4 * case.steps).map(|(thread, register)| of_a(thread, register)).collect(),
        c: threads(case.n / 2).map(of_c).collect(),
    }
}

fn check(case: Case) {
    let mut draw = Draw(case.n as u64 + 1);
    let mut matrix = |rows: usize| -> Vec<Vec<(f64, u32)>> {
        let mut row = || (0..case.k()).map(|_| element(case.types, &mut draw)).collect();
        (0..rows).map(|_| row()).collect()
    };
    let (a, b) = (matrix(64), matrix(case.n));
    let bits = |matrix: &[Vec<(f64, u32)>]| -> Vec<Vec<u32>> {
        matrix.iter().map(|row| row.iter().map(|&(_, bits)| bits).collect()).collect()
    };
    let c = |row: usize, column: usize| row as f32 * 3.0 - column as f32 * 5.0;
    let given = inputs(&case, &bits(&a), &bits(&b), &c);
    let (out, counts) = run(&case.text(), &given, case.n / 2);
    let sign = if case.negates[0] == case.negates[1] { 1.0 } else { -1.0 };
    for (index, &got) in out.iter().enumerate() {
        let (row, column) = accumulator(index / (case.n / 2), index % (case.n / 2));
        let dot: f64 = a[row].iter().zip(&b[column]).map(|(x, y)| x.0 * y.0).sum();
        let start = if case.adds { f64::from(c(row, column)) } else { 0.0 };
        let right = start + sign * dot;
        assert_eq!(f64::from(got), right, "{case:?}: ({row}, {column})");
    }
    assert_eq!(counts.tensor_multiply_adds, (64 * case.n * case.k()) as u64);
    assert_eq!(counts.classes[Class::Tensor].warps, 4 * case.steps as u64);
    assert_eq!(counts.shared.loads.requests, 0, "the banks are not asked");
}

#[test]
fn products_are_exact() {
    for types in ["bf16", "f16"] {
        for (n, layout) in [8, 64, 128, 256].into_iter().zip(LAYOUTS) {
            for a_in_registers in [false, true] {
                let adds = a_in_registers ^ (n == 64);
                check(Case {
                    types,
                    n,
                    steps: 5,
                    layout,
                    a_in_registers,
                    adds,
                    negates: [false; 2],
                });
            }
        }
    }
}

#[test]
fn layouts() {
    for layout in LAYOUTS {
        for (n, steps) in [(24, 8), (8, 1)] {
            let a_in_registers = false;
            check(Case {
                types: "bf16",
                n,
                steps,
                layout,
                a_in_registers,
                adds: true,
                negates: [false; 2],
            });
        }
    }
}

#[test]
fn signs() {
    for negates in [[true, false], [false, true], [true, true]] {
        for (types, a_in_registers) in [("f16", false), ("bf16", true), ("tf32", false)] {
            let layout = LAYOUTS[0];
            check(Case { types, n: 16, steps: 2, layout, a_in_registers, adds: true, negates });
        }
    }
}

#[test]
fn tf32() {
    for layout in LAYOUTS {
        for a_in_registers in [false, true] {
            let adds = a_in_registers;
            check(Case {
                types: "tf32",
                n: 40,
                steps: 6,
                layout,
                a_in_registers,
                adds,
                negates: [false; 2],
            });
        }
    }
}

#[test]
fn integers_and_bits() {
    for types in ["s8", "u8", "b1"] {
        for (n, layout) in [8, 24, 128, 240].into_iter().zip(LAYOUTS) {
            for a_in_registers in [false, true] {
                let adds = a_in_registers ^ (n == 24);
                check(Case {
                    types,
                    n,
                    steps: 3,
                    layout,
                    a_in_registers,
                    adds,
                    negates: [false; 2],
                });
            }
        }
    }
}

/// A chain of steps gives the bits that a chain of `mma.sync` gives.
#[test]
fn same_bits_as_mma() {
    for (types, exponent) in [("bf16", 7), ("f16", 10)] {
        let mut draw = Draw(77);
        let mut matrix = |rows: usize| -> Vec<Vec<u32>> {
            // Of every size between 2^-8 and 2^7.
            let bias = if types == "bf16" { 119 } else { 7 };
            let mut one = || {
                let (sign, size) = (draw.next() & 0x8000, draw.next() % 16 + bias);
                sign | size << exponent | draw.next() & ((1 << exponent) - 1)
            };
            (0..rows).map(|_| (0..96).map(|_| one()).collect()).collect()
        };
        let (a, b) = (matrix(64), matrix(32));
        let layout = LAYOUTS[0];
        let case = Case {
            types,
            n: 32,
            steps: 6,
            layout,
            a_in_registers: false,
            adds: true,
            negates: [false; 2],
        };
        let c = |row: usize, column: usize| 1.0 / (row * 32 + column + 1) as f32;
        let given = inputs(&case, &a, &b, &c);
        let (ours, _) = run(&case.text(), &given, 16);

        // The same by mma.sync: fragments of A are the same, those of B are gathered here.
        let mut body = String::from(
            "ld.param.u64 %pa, [a]; mad.wide.u32 %pa, %t, 96, %pa; ld.param.u64 %pb, [b]; mov.u32 %l, %laneid;
            mad.wide.u32 %pb, %l, 192, %pb; ld.param.u64 %pc, [c]; mad.wide.u32 %pc, %t, 64, %pc;\n",
        );
        for i in 0..16 {
            body += &format!("ld.global.f32 %f{i}, [%pc+{}];\n", 4 * i);
        }
        for step in 0..6 {
            for r in 0..4 {
                body += &format!("ld.global.b32 %a{r}, [%pa+{}];\n", 16 * step + 4 * r);
            }
            for j in 0..4 {
                let d = list("f", 4 * j..4 * j + 4);
                body += &format!(
                    "ld.global.v2.b32 {{%b0, %b1}}, [%pb+{}];
                    mma.sync.aligned.m16n8k16.row.col.f32.{types}.{types}.f32 {d}, {}, {{%b0, %b1}}, {d};\n",
                    8 * (4 * step + j),
                    list("a", 0..4)
                );
            }
        }
        for i in 0..16 {
            body += &format!("st.global.f32 [%pc+{}], %f{i};\n", 4 * i);
        }
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n
            .visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c) {{
            .reg .b32 %t, %l, %a<4>, %b<2>; .reg .f32 %f<16>; .reg .b64 %pa, %pb, %pc;
            mov.u32 %t, %tid.x;\n{body} ret; }}"
        );
        let rows = words(16, &b);
        let of_b: Vec<u32> = (0..32 * 48)
            .map(|word| {
                let (lane, at) = (word / 48, word % 48);
                let (step, j, r) = (at / 8, at / 2 % 4, at % 2);
                rows[8 * j + lane / 4][8 * step + 4 * r + lane % 4]
            })
            .collect();
        // A module for sm_80 runs there too.
        let gpu = Gpu::new(90);
        let module = gpu.load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let [pa, pb] = [&given.a, &of_b].map(|words| gpu.upload(words).unwrap());
        let pc = gpu.upload(&given.c).unwrap();
        gpu.launch(&module, "k", 1, 128, &[pa, pb, pc].map(Arg::U64)).unwrap();
        let theirs: Vec<f32> = gpu.download(pc, 128 * 16).unwrap();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&ours), bits(&theirs), "{types}");
    }
}
