//! What crosses threads: warp-wide instructions, divergence, barriers, atomics, and memory in all its spaces, against plain
//! Rust.

mod atomics;
mod barriers;
mod collectives;
mod divergence;
mod memory;
mod special;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Dim, Error, Gpu, Shape};
use ptx_emulator::report::Report;

/// A kernel `k(in, out)` and how it is launched.
struct Kernel {
    target: u32,
    /// In front of the kernel: functions and variables.
    module: String,
    /// Its body: `%in` and `%out` are pointers, `%t` is `%tid.x`; `%p`, `%h` (16 bits), `%r`, `%f`, `%d` (f64) and `%a` (64
    /// bits) are registers with numbers below 40.
    body: String,
    grid: Dim,
    block: Dim,
    host_threads: usize,
}

impl Kernel {
    fn new(body: impl Into<String>) -> Kernel {
        Kernel {
            target: 80,
            module: String::new(),
            body: body.into(),
            grid: 1.into(),
            block: 32.into(),
            host_threads: 1,
        }
    }

    fn module(self, module: impl Into<String>) -> Kernel {
        Kernel { module: module.into(), ..self }
    }

    fn size(self, grid: impl Into<Dim>, block: impl Into<Dim>) -> Kernel {
        Kernel { grid: grid.into(), block: block.into(), ..self }
    }

    fn text(&self) -> String {
        let Kernel { target, module, body, .. } = self;
        format!(
            ".version 8.3
            .target sm_{target}
            .address_size 64
            {module}
            .visible .entry k(.param .u64 in, .param .u64 out)
            {{
                .reg .pred %p<40>;
                .reg .b16 %h<40>;
                .reg .b32 %r<40>;
                .reg .f32 %f<40>;
                .reg .f64 %d<40>;
                .reg .b64 %a<40>;
                .reg .b32 %t;
                .reg .b64 %in, %out;
                ld.param.u64 %in, [in];
                ld.param.u64 %out, [out];
                cvta.to.global.u64 %in, %in;
                cvta.to.global.u64 %out, %out;
                mov.u32 %t, %tid.x;
                {body}
                ret;
            }}"
        )
    }

    /// What the kernel leaves of `out`, and its counts. What it executes in front of its body is five instructions, and one
    /// behind it.
    fn run(&self, input: &[u32], out: &[u32]) -> Result<(Vec<u32>, Counts), Box<Report>> {
        let text = self.text();
        assemble(&text, self.target);
        let mut gpu = Gpu::new(self.target);
        gpu.options.threads = self.host_threads;
        gpu.options.budget = 1 << 20;
        let module = gpu.load(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let pointers = [gpu.upload(input).unwrap(), gpu.upload(out).unwrap()];
        let shape = Shape { grid: self.grid, block: self.block, shared: 0, cooperative: false };
        let counts = match gpu.launch_shaped(&module, "k", &shape, &pointers.map(Arg::U64)) {
            Ok(counts) => counts,
            Err(Error::Report(report)) => return Err(report),
            Err(error) => panic!("{error}"),
        };
        Ok((gpu.download(pointers[1], out.len()).unwrap(), counts))
    }

    /// `n` words of output of a kernel without input that breaks no rule.
    fn output(&self, n: usize) -> Vec<u32> {
        self.of(&[0], n)
    }

    fn of(&self, input: &[u32], n: usize) -> Vec<u32> {
        let (out, _) = self.run(input, &vec![0; n]).unwrap_or_else(|report| panic!("{report}"));
        out
    }

    fn counts(&self, n: usize) -> Counts {
        self.run(&[0], &vec![0; n]).unwrap_or_else(|report| panic!("{report}")).1
    }
}

/// NVIDIA's assembler takes the kernel, where the environment variable PTXAS names it.
fn assemble(text: &str, target: u32) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let Ok(ptxas) = std::env::var("PTXAS") else { return };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("warp-{}-{number}.ptx", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, text).unwrap();
    let null = if cfg!(windows) { "NUL" } else { "/dev/null" };
    let arch = format!("-arch=sm_{target}");
    let output = Command::new(ptxas).args([&arch, "-o", null]).arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// Stores a word of each thread: `out[t + at]`.
fn put(register: &str, at: u32) -> String {
    format!("mad.wide.u32 %a39, %t, 4, %out; st.global.b32 [%a39+{}], {register};\n", 4 * at)
}

/// Numbers drawn from a seed (SplitMix64).
fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x >> 32) as u32
    }
}

/// A warp divided into teams: for each lane the mask of its team.
fn teams(next: &mut impl FnMut() -> u32) -> [u32; 32] {
    let count = 1 + next() % 6;
    let of: [u32; 32] = std::array::from_fn(|_| next() % count);
    std::array::from_fn(|lane| {
        (0..32).filter(|&other| of[other] == of[lane]).fold(0, |mask, other| mask | 1 << other)
    })
}

fn members(mask: u32) -> impl Iterator<Item = usize> + Clone {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}
