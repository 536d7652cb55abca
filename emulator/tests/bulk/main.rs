//! Mbarriers, bulk copies by tensor maps, and clusters.
//!
//! Where the environment variable `PTXAS` names NVIDIA's assembler, it takes every kernel.

mod barriers;
mod clusters;
mod copies;
mod refusals;
mod rings;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu, Shape};
use ptx_emulator::report::{Check, Report};
use ptx_emulator::tensor_map::Tiled;

/// Registers of every kernel.
const REGISTERS: &str = "
    .reg .pred %p<10>; .reg .b16 %h<4>; .reg .b32 %r<40>; .reg .b64 %d<40>; .reg .f32 %f<64>;
    .reg .b32 %t, %warp, %lane;
    mov.u32 %t, %tid.x; shr.u32 %warp, %t, 5; and.b32 %lane, %t, 31;
";

/// A module of one kernel `k` with these parameters and directives.
fn module(params: &str, directives: &str, body: &str) -> String {
    format!(
        ".version 8.3
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 pool[];
.visible .entry k({params}) {directives} {{{REGISTERS}{body}    ret;
}}
"
    )
}

/// ptxas takes a kernel, if there is one.
fn assemble(text: &str) {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let Some(ptxas) = std::env::var_os("PTXAS") else { return };
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = format!("ptx-bulk-{}-{number}.ptx", std::process::id());
    let file = std::env::temp_dir().join(file);
    std::fs::write(&file, text).unwrap();
    let null = if cfg!(windows) { "NUL" } else { "/dev/null" };
    let output = Command::new(ptxas).args(["-arch=sm_90a", "-o", null]).arg(&file).output();
    let output = output.unwrap();
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
}

/// Runs a kernel; its counts and what it broke.
fn run(
    gpu: &Gpu,
    text: &str,
    (grid, block, shared): (u32, u32, u32),
    args: &[Arg],
) -> (Counts, Option<Report>) {
    assemble(text);
    let module = gpu.load(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let shape = Shape { grid: grid.into(), block: block.into(), shared, cooperative: false };
    let outcome = gpu.try_launch(&module, "k", &shape, args).unwrap();
    (outcome.counts, outcome.report)
}

/// Runs a kernel that breaks no rule.
fn pass(gpu: &Gpu, text: &str, size: (u32, u32, u32), args: &[Arg]) -> Counts {
    let (counts, report) = run(gpu, text, size, args);
    match report {
        None => counts,
        Some(report) => panic!("{report}\n{text}"),
    }
}

/// Runs a kernel that breaks a rule, at an instruction with these words, with a report of these.
fn fail(
    gpu: &Gpu,
    text: &str,
    size: (u32, u32, u32),
    args: &[Arg],
    (check, instruction, words): (Check, &str, &[&str]),
) {
    let (_, report) = run(gpu, text, size, args);
    let report = report.unwrap_or_else(|| panic!("no rule is broken\n{text}"));
    assert_eq!(report.check, check, "{report}\n{text}");
    assert!(report.instruction.contains(instruction), "{report}");
    for word in words {
        assert!(report.what.contains(word), "no {word:?} in: {report}");
    }
}

/// A matrix of 16-bit elements: rows of `dims[0]`, `pitch` bytes apart.
fn map(address: u64, dims: [u64; 2], pitch: u64, sizes: [u32; 2], swizzle: u32) -> [u8; 128] {
    let tiled = Tiled {
        element: 9,
        rank: 2,
        address,
        dims: dims.to_vec(),
        strides: vec![pitch],
        sizes: sizes.to_vec(),
        steps: vec![1, 1],
        interleave: 0,
        swizzle,
        promotion: 2,
        fill: 0,
    };
    tiled.map().unwrap().encode()
}

/// Waits until the phase of a parity is over.
fn wait(label: &str, barrier: &str, parity: &str) -> String {
    format!(
        "{label}: mbarrier.try_wait.parity.shared::cta.b64 %p9, [{barrier}], {parity};
    @!%p9 bra {label};
"
    )
}
