//! Kernels with one bug each: the check that finds it, where it points, and the correct twin that passes.

use std::path::Path;
use std::sync::Arc;

use ptx_emulator::engine::{Instance, Launch, Options, Program, launch};
use ptx_emulator::gpu::{Arg, Gpu, Shape};
use ptx_emulator::memory::Memory;
use ptx_emulator::report::{Check, Report};

/// A file of `broken/`, how it is launched, and what is found.
struct Case {
    file: &'static str,
    grid: u32,
    block: u32,
    check: Check,
    /// The block and the thread that are blamed.
    block_at: u32,
    thread: u32,
    /// A part of the report.
    says: &'static str,
}

const fn case(
    file: &'static str,
    (grid, block): (u32, u32),
    check: Check,
    (block_at, thread): (u32, u32),
    says: &'static str,
) -> Case {
    Case { file, grid, block, check, block_at, thread, says }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("global_past_end", (1, 96), Check::OutOfBounds, (0, 64), "0 bytes past the end of allocation 1 of 256 bytes"),
    case("global_before_start", (1, 32), Check::OutOfBounds, (0, 0), "4 bytes before allocation 1 of 256 bytes"),
    case("shared_past_end", (1, 96), Check::OutOfBounds, (0, 64), "4 bytes at 0x100 of 256 bytes of shared memory"),
    case("local_past_end", (1, 32), Check::OutOfBounds, (0, 0), "4 bytes at 0x10 of 16 bytes of local memory"),
    case("misaligned_global", (1, 32), Check::Misaligned, (0, 0), "no multiple of 16"),
    case("misaligned_shared", (1, 32), Check::Misaligned, (0, 0), "8 bytes at shared address 0x4, which is no multiple of 8"),
    case("constant_stored", (1, 32), Check::ReadOnly, (0, 0), "in constant memory"),
    case("register_never_written", (1, 32), Check::Uninitialized, (0, 16), "%r5 was never written by thread 16 of the warp, nor by 15 others"),
    case("predicate_never_written", (1, 32), Check::Uninitialized, (0, 0), "%p3 was never written"),
    case("shared_never_written", (1, 32), Check::Uninitialized, (0, 0), "nothing was written there"),
    case("local_never_written", (1, 32), Check::Uninitialized, (0, 0), "local address 0x4"),
    case("missing_barrier", (1, 64), Check::Race, (0, 0), "written by thread 1 of warp 0, and no bar.warp.sync or barrier lies between"),
    case("missing_second_barrier", (1, 64), Check::Race, (0, 1), "read by thread 0 of warp 0, and no bar.warp.sync or barrier lies between"),
    case("missing_warp_barrier", (1, 32), Check::Race, (0, 0), "written by thread 1 of warp 0, and no bar.warp.sync or barrier lies between"),
    case("same_address", (1, 32), Check::Race, (0, 1), "written by thread 0 of warp 0"),
    case("wrong_swizzle", (1, 32), Check::Race, (0, 1), "written by thread 0 of warp 0"),
    case("wrong_barrier_count", (1, 96), Check::Race, (0, 64), "written by thread 0 of warp 0, and no barrier lies between"),
    case("blocks_write_one_word", (2, 32), Check::Race, (1, 0), "written by thread 0 of block 0, and nothing orders the blocks"),
    case("block_reads_another", (2, 32), Check::Race, (1, 0), "written by thread 0 of block 0, and nothing orders the blocks"),
    case("missing_fence", (4, 32), Check::Race, (3, 0), "written by thread 0 of block 0, and nothing orders the blocks (fence"),
    case("missing_second_fence", (4, 32), Check::Race, (3, 0), "written by thread 0 of block 0, and nothing orders the blocks (fence"),
    case("plain_histogram", (1, 32), Check::Race, (0, 0), "no barrier lies between"),
    case("copy_not_waited", (1, 32), Check::UnwaitedCopy, (0, 0), "a cp.async of thread 0 of warp 0 writes there, and that thread has not waited for it"),
    case("copy_waited_too_little", (1, 32), Check::UnwaitedCopy, (0, 0), "a cp.async of thread 0 of warp 0"),
    case("copy_without_barrier", (1, 64), Check::Race, (0, 0), "written by thread 1 of warp 0"),
    case("copy_overwritten", (1, 32), Check::UnwaitedCopy, (0, 0), "a cp.async of thread 0 of warp 0"),
    case("divergent_barrier", (1, 32), Check::Divergence, (0, 16), "threads 0xffff0000 of the warp wait"),
    case("barriers_crossed", (1, 64), Check::Deadlock, (0, 0), "warp 1: threads 0xffffffff at barrier 1"),
    case("shuffle_not_named", (1, 32), Check::Divergence, (0, 16), "not one of the threads 0x0000ffff that it names"),
    case("shuffle_from_absent", (1, 32), Check::Divergence, (0, 0), "thread 0 reads from thread 20, which does not take part"),
    case("vote_in_a_branch", (1, 32), Check::Divergence, (0, 0), "threads 0xffff0000 are at line"),
    case("mma_by_half_a_warp", (1, 32), Check::Divergence, (0, 0), "threads 0xffff0000 are at line"),
    case("barrier_of_no_whole_warps", (1, 64), Check::Barrier, (0, 0), "a barrier of 40 threads"),
    case("barrier_counts_differ", (1, 96), Check::Barrier, (0, 32), "awaited by 96 threads here and by 64 elsewhere"),
    case("exit_before_barrier", (1, 64), Check::Deadlock, (0, 0), "threads 0xffffffff at barrier 1"),
    case("spins_forever", (1, 32), Check::Budget, (0, 0), "more than 1000000 instructions"),
    case("trap", (1, 32), Check::Trap, (0, 0), "executed trap"),
];

/// Files that tests of their own use, since a buffer is not as [`CASES`] has it.
const APART: &[&str] = &["use_after_free", "global_never_written"];

fn text(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    std::fs::read_to_string(folder.join(format!("{file}.ptx"))).unwrap()
}

/// The line that the bug shows at: it is marked.
fn marked_line(text: &str) -> u32 {
    1 + text.lines().position(|line| line.ends_with("// here")).unwrap() as u32
}

fn gpu() -> Gpu {
    let mut gpu = Gpu::new(80);
    gpu.options.budget = 1_000_000;
    gpu
}

/// Launches an entry over 64 words that count up from 0, the last one 0.
fn run(file: &str, entry: &str, grid: u32, block: u32) -> Option<Report> {
    let gpu = gpu();
    let mut words: Vec<u32> = (0..64).collect();
    words[63] = 0;
    let buffer = gpu.upload(&words).unwrap();
    let module = gpu.load(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let shape = Shape { grid: grid.into(), block: block.into(), shared: 0, cooperative: false };
    let args = [Arg::U64(buffer), Arg::U32(64)];
    gpu.try_launch(&module, entry, &shape, &args).unwrap().report
}

#[test]
fn each_bug_is_found() {
    let mut wrong = Vec::new();
    for case in CASES {
        let file = case.file;
        let Some(report) = run(file, "broken", case.grid, case.block) else {
            wrong.push(format!("{file}: nothing was found"));
            continue;
        };
        let has_address = matches!(
            case.check,
            Check::OutOfBounds
                | Check::Misaligned
                | Check::ReadOnly
                | Check::Race
                | Check::UnwaitedCopy
        );
        let is_right = report.check == case.check
            && report.line == marked_line(&text(file))
            && report.instruction.ends_with("// here")
            && (report.block, report.thread) == ([case.block_at, 0, 0], [case.thread, 0, 0])
            && report.to_string().contains(case.says)
            && (report.address.is_some() || !has_address);
        if !is_right {
            wrong.push(format!("{file}: {report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_correct_twin_passes() {
    for case in CASES {
        // Where more threads than elements are the bug, they are in the twin too.
        let report = run(case.file, "fixed", case.grid, case.block);
        assert_eq!(report, None, "{}", case.file);
    }
}

#[test]
fn every_file_is_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.strip_suffix(".ptx").unwrap();
        assert!(CASES.iter().any(|case| case.file == stem) || APART.contains(&stem), "{name}");
    }
}

#[test]
fn use_after_free() {
    for entry in ["broken", "fixed"] {
        let gpu = gpu();
        let buffer = gpu.upload(&[1u32; 64]).unwrap();
        let text = text("use_after_free");
        let module = gpu.load(&text).unwrap();
        if entry == "broken" {
            gpu.memory.free(buffer).unwrap();
        }
        let shape = Shape { grid: 1.into(), block: 32.into(), shared: 0, cooperative: false };
        let outcome =
            gpu.try_launch(&module, entry, &shape, &[Arg::U64(buffer), Arg::U32(0)]).unwrap();
        match (entry, outcome.report) {
            ("broken", Some(report)) => {
                assert_eq!(report.check, Check::UseAfterFree);
                assert_eq!((report.line, report.address), (marked_line(&text), Some(buffer)));
                assert!(report.what.contains("an allocation of 256 bytes"), "{report}");
            }
            ("fixed", None) => {}
            (_, report) => panic!("{entry}: {report:?}"),
        }
    }
}

#[test]
fn global_never_written() {
    for entry in ["broken", "fixed"] {
        let gpu = gpu();
        let buffer = gpu.allocate(256).unwrap();
        let text = text("global_never_written");
        let module = gpu.load(&text).unwrap();
        let shape = Shape { grid: 1.into(), block: 64.into(), shared: 0, cooperative: false };
        let outcome =
            gpu.try_launch(&module, entry, &shape, &[Arg::U64(buffer), Arg::U32(0)]).unwrap();
        match (entry, outcome.report) {
            ("broken", Some(report)) => {
                assert_eq!((report.check, report.line), (Check::Uninitialized, marked_line(&text)));
                assert!(
                    report.what.contains("byte 0 of allocation 1 of 256 bytes was never written"),
                    "{report}"
                );
            }
            ("fixed", None) => {}
            (_, report) => panic!("{entry}: {report:?}"),
        }
    }
}

/// A check that is turned off finds nothing.
#[test]
fn checks_can_be_turned_off() {
    let races = |options: &mut Options| options.checks.races = false;
    let uninitialized = |options: &mut Options| options.checks.uninitialized = false;
    type TurnOff<'a> = &'a dyn Fn(&mut Options);
    let off: [(&str, u32, TurnOff); 4] = [
        ("missing_second_barrier", 1, &races),
        ("blocks_write_one_word", 2, &races),
        ("register_never_written", 1, &uninitialized),
        ("shared_never_written", 1, &uninitialized),
    ];
    for (file, grid, turn_off) in off {
        let mut gpu = gpu();
        turn_off(&mut gpu.options);
        let buffer = gpu.upload(&[0u32; 64]).unwrap();
        let module = gpu.load(&text(file)).unwrap();
        let launched = gpu.launch(&module, "broken", grid, 64, &[Arg::U64(buffer), Arg::U32(0)]);
        launched.unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// What is wrong with a launch itself.
#[test]
fn parameters_and_shapes() {
    let text = ".version 7.0\n.target sm_80\n.address_size 64
        .entry plain(.param .u64 p, .param .u32 n) { ret; }
        .entry most() .maxntid 64, 1, 1 { ret; }
        .entry exact() .reqntid 32, 2, 1 { ret; }";
    let memory = Memory::new(1 << 20);
    let program = Arc::new(Program::load(text, 80).unwrap());
    let instance = Instance::new(program.clone(), &memory).unwrap();
    let options = Options::default();
    let report =
        |entry: &str, params: &[u8], grid: [u32; 3], block: [u32; 3], dynamic_shared: u32| {
            let kernel = program.kernel(entry).unwrap();
            let (instance, memory, options) = (&instance, &memory, &options);
            let cooperative = false;
            let it = Launch {
                instance,
                kernel,
                grid,
                block,
                dynamic_shared,
                params,
                cooperative,
                memory,
                options,
                id: 0,
            };
            launch(&it).report.map(|report| {
                assert_eq!(report.check, Check::Parameters);
                report.what
            })
        };
    let (one, warp) = ([1, 1, 1], [32, 1, 1]);
    assert_eq!(report("plain", &[0; 12], one, warp, 0), None);
    assert_eq!(
        report("plain", &[0; 8], one, warp, 0).unwrap(),
        "8 bytes of parameters, the kernel takes 12"
    );
    assert_eq!(
        report("plain", &[0; 16], one, warp, 0).unwrap(),
        "16 bytes of parameters, the kernel takes 12"
    );
    assert!(report("plain", &[0; 12], [0, 1, 1], warp, 0).unwrap().contains("is empty"));
    assert!(
        report("plain", &[0; 12], one, [33, 32, 1], 0).unwrap().contains("1056 threads a block")
    );
    assert!(
        report("plain", &[0; 12], [1 << 31, 65535, 65535], warp, 0).unwrap().contains("blocks")
    );
    assert!(
        report("plain", &[0; 12], one, warp, 1 << 20)
            .unwrap()
            .contains("1048576 bytes of shared memory")
    );
    assert_eq!(report("most", &[], one, [64, 1, 1], 0), None);
    assert_eq!(
        report("most", &[], one, [65, 1, 1], 0).unwrap(),
        "65 threads a block, the kernel takes 64"
    );
    assert_eq!(report("exact", &[], one, [32, 2, 1], 0), None);
    assert!(report("exact", &[], one, [64, 1, 1], 0).unwrap().contains("requires [32, 2, 1]"));
}
