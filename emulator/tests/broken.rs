//! Broken kernels: each has one bug and trips the check for it, at the line, in the block and in the thread that are to
//! blame; without the bug it passes.
//!
//! A kernel's file holds both: a line that ends with `//-` is in the broken kernel only, a line that begins with `//+` in
//! its correct twin only. `// <-` marks the line that the report has to name.

use std::path::Path;
use std::process::Command;

use ptx_emulator::engine::{Launch, launch as launch_with};
use ptx_emulator::gpu::{Arg, Error, Gpu, Shape};
use ptx_emulator::report::{Check, Report};

/// Addresses of its buffers, for reports, and the arguments of a launch.
struct Setup {
    args: Vec<Arg<'static>>,
    shared: u32,
}

/// What a kernel's report has to say.
struct Expected<'a> {
    check: Check,
    block: u32,
    thread: u32,
    address: At,
    /// Parts of its text.
    words: &'a [&'a str],
}

#[derive(Clone, Copy)]
enum At {
    Nowhere,
    /// Bytes into the space that the instruction names.
    Space(u64),
    /// Bytes behind the pointer that is the argument with this index.
    Arg(usize, u64),
    /// A module variable.
    Variable(&'static str),
}

fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/broken/{name}.ptx"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The correct twin: with the same line numbers.
fn fixed(source: &str) -> String {
    let line = |line: &str| match (line.contains("//-"), line.trim_start().strip_prefix("//+ ")) {
        (true, _) => String::new(),
        (false, Some(added)) => added.to_owned(),
        (false, None) => line.to_owned(),
    };
    source.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn marked_line(source: &str) -> u32 {
    let marked: Vec<_> =
        source.lines().enumerate().filter(|(_, line)| line.ends_with("<-")).collect();
    assert_eq!(marked.len(), 1, "one line is marked");
    marked[0].0 as u32 + 1
}

/// `n` elements that the kernel reads: 0, 1, 2 ...
fn numbers(gpu: &Gpu, n: u32) -> Arg<'static> {
    Arg::U64(gpu.upload(&(0..n).collect::<Vec<u32>>()).unwrap())
}

/// The same, all zero.
fn zeros(gpu: &Gpu, n: usize) -> Arg<'static> {
    Arg::U64(gpu.upload(&vec![0u32; n]).unwrap())
}

/// Room for `n` elements that the kernel writes.
fn room(gpu: &Gpu, n: u64) -> Arg<'static> {
    Arg::U64(gpu.allocate(4 * n).unwrap())
}

fn address(arg: Arg) -> u64 {
    match arg {
        Arg::U64(address) => address,
        other => panic!("{other:?} is not a pointer"),
    }
}

fn launch(
    gpu: &Gpu,
    text: &str,
    (grid, block): (u32, u32),
    setup: &Setup,
) -> (Option<Report>, ptx_emulator::counts::Counts, ptx_emulator::engine::Instance) {
    let module = gpu.load(text).unwrap();
    let shape =
        Shape { grid: grid.into(), block: block.into(), shared: setup.shared, cooperative: false };
    let outcome = gpu.try_launch(&module, "k", &shape, &setup.args).unwrap();
    (outcome.report, outcome.counts, module)
}

/// The kernel `name` breaks a rule, its twin none; the twin's output, `n` words at the last pointer.
fn check(
    name: &str,
    size: (u32, u32),
    setup: impl Fn(&Gpu) -> Setup,
    expected: &Expected,
    n: usize,
) -> Vec<u32> {
    let text = source(name);
    let (line, right) = (marked_line(&text), fixed(&text));
    let mut output = Vec::new();
    for threads in [1, 4] {
        let mut gpu = Gpu::new(80);
        gpu.options.threads = threads;
        gpu.options.budget = 1 << 18;
        let given = setup(&gpu);
        let (report, _, module) = launch(&gpu, &text, size, &given);
        let report = report.unwrap_or_else(|| panic!("{name} breaks no rule"));
        assert_eq!(report.check, expected.check, "{name}: {report}");
        // Which of two blocks that race is second depends on the host threads.
        if threads == 1 || size.0 == 1 {
            let at = (report.line, report.block, report.thread);
            let right = (line, [expected.block, 0, 0], [expected.thread, 0, 0]);
            assert_eq!(at, right, "{name}: {report}");
            let place = match expected.address {
                At::Nowhere => None,
                At::Space(offset) => Some(offset),
                At::Arg(index, offset) => Some(address(given.args[index]) + offset),
                At::Variable(name) => Some(module.address(name).unwrap().0),
            };
            assert_eq!(report.address, place, "{name}: {report}");
            let shown = report.to_string();
            for word in expected.words {
                assert!(shown.contains(word), "{name}: no {word:?} in: {shown}");
            }
            assert!(shown.starts_with(expected.check.name()), "{shown}");
            let source = text.lines().nth(line as usize - 1).unwrap();
            assert!(source.contains(&report.instruction), "{source}: {}", report.instruction);
        }

        let mut gpu = Gpu::new(80);
        gpu.options.threads = threads;
        gpu.options.budget = 1 << 18;
        let given = setup(&gpu);
        let (report, ..) = launch(&gpu, &right, size, &given);
        assert!(report.is_none(), "{name}, without its bug: {}", report.unwrap());
        let mut pointers = given.args.iter().filter(|arg| matches!(arg, Arg::U64(_)));
        output = gpu.download(address(*pointers.next_back().unwrap()), n).unwrap();
    }
    output
}

fn setup(args: Vec<Arg<'static>>) -> Setup {
    Setup { args, shared: 0 }
}

fn expect<'a>(
    check: Check,
    (block, thread): (u32, u32),
    address: At,
    words: &'a [&'a str],
) -> Expected<'a> {
    Expected { check, block, thread, address, words }
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|&bits| f32::from_bits(bits)).collect()
}

#[test]
fn bounds() {
    let wanted = expect(
        Check::OutOfBounds,
        (1, 36),
        At::Arg(0, 400),
        &["4 bytes", "0 bytes past the end", "400 bytes"],
    );
    let args = |gpu: &Gpu| setup(vec![numbers(gpu, 100), room(gpu, 128), Arg::U32(100)]);
    let out = check("read_past_end", (2, 64), args, &wanted, 100);
    assert!(out.iter().copied().eq(0..100));

    let args = |gpu: &Gpu| setup(vec![room(gpu, 100), Arg::U32(100)]);
    let wanted = Expected { address: At::Arg(0, 400), ..wanted };
    let out = check("write_past_end", (2, 64), args, &wanted, 100);
    assert!(out.iter().copied().eq(0..100));

    let args = |gpu: &Gpu| setup(vec![numbers(gpu, 32), room(gpu, 32)]);
    let words = ["4 bytes before", "128 bytes"];
    let gpu = Gpu::new(80);
    let before = address(numbers(&gpu, 32)) - 4;
    let wanted = expect(Check::OutOfBounds, (0, 0), At::Space(before), &words);
    let out = check("read_before_start", (1, 32), args, &wanted, 32);
    assert!(out.into_iter().eq((0..32).map(|i| if i == 0 { 0 } else { 2 * i - 1 })));

    let args = |gpu: &Gpu| setup(vec![room(gpu, 64)]);
    let words = ["0x100", "256 bytes of shared memory"];
    let wanted = expect(Check::OutOfBounds, (0, 63), At::Space(256), &words);
    let out = check("shared_past_end", (1, 64), args, &wanted, 64);
    assert!(out.iter().copied().eq((1..64).chain([63])));

    let args = |gpu: &Gpu| Setup { args: vec![room(gpu, 64)], shared: 256 };
    let wanted = expect(Check::OutOfBounds, (0, 32), At::Space(256), &words);
    check("dynamic_shared_past_end", (1, 64), args, &wanted, 64);

    let args = |gpu: &Gpu| setup(vec![room(gpu, 8)]);
    let words = ["16 bytes of local memory"];
    let wanted = expect(Check::OutOfBounds, (0, 0), At::Space(16), &words);
    assert_eq!(check("local_past_end", (1, 8), args, &wanted, 8), [3; 8]);

    let rates: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let rates: &'static [u8] = rates.leak();
    let args = |gpu: &Gpu| setup(vec![room(gpu, 5), Arg::Bytes(rates)]);
    let words = ["offset 24 of 24 bytes of parameters"];
    let wanted = expect(Check::OutOfBounds, (0, 4), At::Space(24), &words);
    let out = check("param_past_end", (1, 5), args, &wanted, 5);
    assert_eq!(floats(&out), [1.0, 2.0, 3.0, 4.0, 1.0]);

    let args = |gpu: &Gpu| setup(vec![room(gpu, 32)]);
    let wanted = expect(Check::OutOfBounds, (0, 16), At::Nowhere, &["index 2 of 2 targets"]);
    assert_eq!(check("branch_past_table", (1, 32), args, &wanted, 32), [1; 32]);
}

#[test]
fn use_after_free() {
    let gpu = Gpu::new(80);
    let text = fixed(&source("read_past_end"));
    let given = setup(vec![numbers(&gpu, 100), room(&gpu, 100), Arg::U32(100)]);
    let (report, ..) = launch(&gpu, &text, (2, 64), &given);
    assert!(report.is_none());
    let freed = address(given.args[0]);
    gpu.memory.free(freed).unwrap();
    let report = launch(&gpu, &text, (2, 64), &given).0.unwrap();
    let line = marked_line(&source("read_past_end"));
    assert_eq!((report.check, report.line), (Check::UseAfterFree, line), "{report}");
    assert_eq!((report.block, report.thread), ([0; 3], [0; 3]), "{report}");
    assert_eq!(report.address, Some(freed));
    assert!(report.what.contains("an allocation of 400 bytes") && report.what.contains("freed"));
}

#[test]
fn alignment_and_constants() {
    let args = |gpu: &Gpu| setup(vec![numbers(gpu, 128), room(gpu, 32)]);
    let words = ["16 bytes", "no multiple of 16"];
    let wanted = expect(Check::Misaligned, (0, 1), At::Arg(0, 4), &words);
    check("misaligned_global", (1, 32), args, &wanted, 32);

    let args = |gpu: &Gpu| setup(vec![room(gpu, 32)]);
    let words = ["8 bytes", "0x84", "no multiple of 8"];
    let wanted = expect(Check::Misaligned, (0, 1), At::Space(132), &words);
    let out = check("misaligned_shared", (1, 32), args, &wanted, 32);
    assert!(floats(&out).iter().enumerate().all(|(i, &x)| x == i as f32));

    let args = |gpu: &Gpu| setup(vec![room(gpu, 4)]);
    let wanted = expect(Check::ReadOnly, (0, 0), At::Variable("table"), &["constant memory"]);
    assert_eq!(check("store_to_constant", (1, 4), args, &wanted, 4), [0, 1, 2, 3]);

    // Where the instruction says it, it is refused when the module is loaded.
    let text = source("store_to_constant").replace("st.u32 [%a1]", "st.const.u32 [%a1]");
    match Gpu::new(80).load(&text) {
        Err(Error::Syntax(error)) => {
            assert_eq!(error.pos.line, marked_line(&text), "{error}");
            assert!(error.what.contains("constant"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn uninitialized() {
    let args = |gpu: &Gpu| setup(vec![zeros(gpu, 128), room(gpu, 32)]);
    let words = ["%f2", "thread 0 of the warp, nor by 31 others"];
    let wanted = expect(Check::Uninitialized, (0, 0), At::Nowhere, &words);
    assert_eq!(check("unset_register", (1, 32), args, &wanted, 32), [0; 32]);

    let args = |gpu: &Gpu| setup(vec![numbers(gpu, 64), room(gpu, 64)]);
    let words = ["%f1", "thread 16 of the warp, nor by 15 others"];
    let wanted = expect(Check::Uninitialized, (0, 16), At::Nowhere, &words);
    let out = check("unset_in_some_lanes", (1, 64), args, &wanted, 64);
    assert!(out.iter().enumerate().all(|(i, &x)| x == if i < 16 { i as u32 } else { 0 }));

    let args = |gpu: &Gpu| setup(vec![zeros(gpu, 32)]);
    let words = ["%p2", "thread 1 of the warp"];
    let wanted = expect(Check::Uninitialized, (0, 1), At::Nowhere, &words);
    check("unset_predicate", (1, 32), args, &wanted, 32);

    let args = |gpu: &Gpu| setup(vec![room(gpu, 64)]);
    let words = ["4 bytes", "0x80", "nothing was written there"];
    let wanted = expect(Check::Uninitialized, (0, 32), At::Space(128), &words);
    assert!(check("unset_shared", (1, 64), args, &wanted, 64).into_iter().eq(0..64));

    let args = |gpu: &Gpu| setup(vec![zeros(gpu, 32), room(gpu, 32)]);
    let words = ["128 bytes", "was never written"];
    let wanted = expect(Check::Uninitialized, (0, 0), At::Arg(1, 0), &words);
    assert_eq!(check("unset_global", (1, 32), args, &wanted, 32), [0; 32]);

    let args = |gpu: &Gpu| setup(vec![room(gpu, 8)]);
    let words = ["16 bytes", "not all were written"];
    let wanted = expect(Check::Uninitialized, (0, 0), At::Space(0), &words);
    let out = check("unset_local", (1, 8), args, &wanted, 8);
    assert!(out.into_iter().eq((0..8).map(|i| 2 * i)));
}

#[test]
fn shared_races() {
    let block = |n: u64| move |gpu: &Gpu| setup(vec![room(gpu, n)]);
    let words = ["thread 0 of warp 1", "thread 0 of warp 0", "no barrier"];
    let wanted = expect(Check::Race, (0, 32), At::Space(0), &words);
    let out = check("missing_barrier", (1, 64), block(64), &wanted, 64);
    assert!(out.into_iter().eq((0..64u32).map(|i| i.saturating_sub(32))));

    // The emulator runs the first warp up to the barrier that is not there.
    let words = ["nothing was written there", "barrier"];
    let wanted = expect(Check::Uninitialized, (0, 0), At::Space(252), &words);
    let out = check("missing_barrier_early", (1, 64), block(64), &wanted, 64);
    assert!(out.into_iter().eq((0..64).rev()));

    let words = ["read by thread 0 of warp 1", "written by thread 31 of warp 0"];
    let wanted = expect(Check::Race, (0, 32), At::Space(124), &words);
    let out = check("missing_barrier_in_loop", (1, 64), block(64), &wanted, 64);
    assert!(out.into_iter().eq((0..64).map(|i| 3 * (63 - i) + 3)));

    let words = ["thread 0 of warp 0", "thread 1 of warp 0", "bar.warp.sync"];
    let wanted = expect(Check::Race, (0, 0), At::Space(4), &words);
    for name in ["missing_warp_sync", "fence_is_no_warp_sync"] {
        let out = check(name, (1, 32), block(32), &wanted, 32);
        assert!(out.into_iter().eq((0..32).map(|i| i ^ 1)), "{name}");
    }
    let words = ["thread 0 of warp 0", "thread 8 of warp 0", "bar.warp.sync"];
    let wanted = expect(Check::Race, (0, 0), At::Space(32), &words);
    let out = check("warp_sync_of_too_few", (1, 32), block(32), &wanted, 32);
    assert!(out.into_iter().eq((0..32).map(|i| i ^ 8)));

    let words = ["written by thread 1 of warp 0", "written by thread 0 of warp 0"];
    let wanted = expect(Check::Race, (0, 1), At::Space(0), &words);
    assert_eq!(check("two_values_one_word", (1, 32), block(32), &wanted, 32), [5; 32]);

    let words = ["read by thread 0 of warp 2", "written by thread 0 of warp 0", "no barrier"];
    let wanted = expect(Check::Race, (0, 64), At::Space(0), &words);
    let out = check("barrier_of_too_few", (1, 96), block(96), &wanted, 96);
    assert!(out.into_iter().eq((0..96).map(|i| i % 32)));

    // Row 1: columns 0 and 1 both go to 1.
    let words = ["written by thread 9 of warp 0", "written by thread 8 of warp 0"];
    let wanted = expect(Check::Race, (0, 9), At::Space(128 + 16), &words);
    let out = check("wrong_swizzle", (1, 32), block(32), &wanted, 32);
    assert!(out.into_iter().eq(0..32));
}

#[test]
fn missing_swizzle_costs_wavefronts() {
    let gpu = Gpu::new(80);
    let text = source("missing_swizzle");
    for (text, wavefronts, conflicts) in [(text.clone(), 32, 31), (fixed(&text), 1, 0)] {
        let given = setup(vec![room(&gpu, 32)]);
        let (report, counts, _) = launch(&gpu, &text, (1, 32), &given);
        assert!(report.is_none(), "{}", report.unwrap());
        let out = gpu.download::<u32>(address(given.args[0]), 32).unwrap();
        assert!(out.into_iter().eq((0..32).map(|i| 32 * i + 7)));
        let loads = counts.shared.loads;
        assert_eq!(
            (loads.requests, loads.wavefronts, loads.conflicts()),
            (1, wavefronts, conflicts)
        );
        assert_eq!(counts.shared.stores.conflicts(), 0);
    }
}

#[test]
fn global_races() {
    let args = |gpu: &Gpu| setup(vec![room(gpu, 2)]);
    let words = ["thread 0 of block 1", "written by thread 0 of block 0"];
    let wanted = expect(Check::Race, (1, 0), At::Arg(0, 0), &words);
    assert_eq!(check("blocks_write_one_word", (2, 32), args, &wanted, 2), [0, 1]);

    let args = |gpu: &Gpu| setup(vec![numbers(gpu, 64), room(gpu, 64)]);
    let words = ["read by thread 0 of block 1", "written by thread 0 of block 0"];
    let wanted = expect(Check::Race, (1, 0), At::Arg(0, 0), &words);
    let out = check("blocks_read_each_other", (2, 32), args, &wanted, 64);
    assert!(out.into_iter().eq((0..64).map(|i| i ^ 32)));

    let args = |gpu: &Gpu| setup(vec![room(gpu, 5), zeros(gpu, 2)]);
    let words = ["read by thread 0 of block 4", "written by thread 0 of block 0", "fence"];
    let wanted = expect(Check::Race, (4, 0), At::Arg(0, 0), &words);
    for name in ["last_block_without_first_fence", "last_block_without_second_fence"] {
        let out = check(name, (5, 1), args, &wanted, 2);
        assert_eq!(out, [5, (0..5).map(|i| i * i + 1).sum()], "{name}");
    }

    let args = |gpu: &Gpu| {
        let values: Vec<u32> = (0..64).map(|i| i % 5).collect();
        setup(vec![Arg::U64(gpu.upload(&values).unwrap()), zeros(gpu, 5)])
    };
    let words = ["written by thread 0 of block 0", "read by thread 30 and others of block 0"];
    let wanted = expect(Check::Race, (0, 0), At::Arg(1, 0), &words);
    assert_eq!(check("histogram_without_atomics", (2, 32), args, &wanted, 5), [13, 13, 13, 13, 12]);
}

#[test]
fn copies() {
    let args = |gpu: &Gpu| setup(vec![numbers(gpu, 256), room(gpu, 64)]);
    let words = ["cp.async of thread 0 of warp 0", "has not waited"];
    let wanted = expect(Check::UnwaitedCopy, (0, 0), At::Space(0), &words);
    let mine: Vec<u32> = (0..64).map(|i| 4 * i).collect();
    for name in ["copy_without_wait", "copy_without_commit"] {
        assert_eq!(check(name, (1, 64), args, &wanted, 64), mine, "{name}");
    }
    let wanted = Expected { address: At::Space(1024), ..wanted };
    let out = check("copy_waits_one_short", (1, 64), args, &wanted, 64);
    assert!(out.into_iter().eq(mine.iter().map(|x| 2 * x)));

    let wanted = Expected { address: At::Space(4), ..wanted };
    let out = check("copy_overwritten", (1, 64), args, &wanted, 64);
    assert!(out.into_iter().eq(0..64));

    let words = ["read by thread 0 of warp 1", "written by thread 0 of warp 0", "no barrier"];
    let wanted = expect(Check::Race, (0, 32), At::Space(0), &words);
    let out = check("copy_without_barrier", (1, 64), args, &wanted, 64);
    assert!(out.into_iter().eq((0..64).map(|i| 4 * (i % 32))));

    // The first warp's next copy has landed before the second warp reads the last one.
    let out = check("copy_into_read_buffer", (1, 64), args, &wanted, 64);
    assert!(out.into_iter().eq((0..64).map(|i| 2 * 4 * (i ^ 32))));
}

#[test]
fn divergence() {
    let block = |n: u64| move |gpu: &Gpu| setup(vec![room(gpu, n)]);
    let run = |name: &str, thread: u32, words: &[&str]| {
        let wanted = expect(Check::Divergence, (0, thread), At::Nowhere, words);
        check(name, (1, 32), block(32), &wanted, 32)
    };
    let halves = ["0x0000ffff", "0xffff0000"];
    assert!(run("barrier_in_half_a_warp", 0, &halves).into_iter().eq(0..32));
    run("mma_in_half_a_warp", 0, &halves);
    let out = run("ldmatrix_in_half_a_warp", 0, &halves);
    // Thread i gets elements 2 i and 2 i + 1 of 8 x 8: word i of the tile.
    assert!(out.into_iter().eq(0..32));
    let out = run("vote_in_branch", 0, &halves);
    assert!(out.into_iter().eq((0..32).map(|i| if i < 16 { 0xFFFF } else { 0 })));

    let words = ["not one of the threads 0x0000ffff that it names"];
    assert!(run("shuffle_not_named", 16, &words).into_iter().eq((0..32).map(|i| i ^ 1)));
    let words = ["threads 0 and 3 name 0xffffffff and 0x0000ffff"];
    assert_eq!(run("masks_disagree", 0, &words), [0; 32]);

    let words = ["thread 8 reads from thread 16", "0x0000ffff"];
    let wanted = expect(Check::Divergence, (0, 8), At::Nowhere, &words);
    let out = check("shuffle_from_absent", (1, 32), |gpu| setup(vec![zeros(gpu, 32)]), &wanted, 32);
    let down = (0..32).map(|i| {
        if i < 8 {
            i + 8
        } else if i < 16 {
            i
        } else {
            0
        }
    });
    assert!(out.into_iter().eq(down));
}

#[test]
fn barriers() {
    let block = |gpu: &Gpu| setup(vec![zeros(gpu, 96)]);
    let wanted = expect(Check::Barrier, (0, 0), At::Nowhere, &["48 threads", "multiple of 32"]);
    assert!(check("barrier_of_48", (1, 64), block, &wanted, 64).into_iter().eq(0..64));

    let words = ["barrier 1", "96 threads here", "64 elsewhere"];
    let wanted = expect(Check::Barrier, (0, 32), At::Nowhere, &words);
    let out = check("barrier_counts_differ", (1, 96), block, &wanted, 96);
    assert!(out.into_iter().eq((0..96).map(|i| if i < 32 { 0 } else { 7 })));

    let words = ["barrier 3", ".red"];
    let wanted = expect(Check::Barrier, (0, 32), At::Nowhere, &words);
    assert_eq!(check("barrier_mixed_with_reduction", (1, 64), block, &wanted, 64), [40; 64]);

    let words = ["64 of the block's 64 threads", "barrier 1", "barrier 2"];
    let wanted = expect(Check::Deadlock, (0, 0), At::Nowhere, &words);
    assert!(check("crossed_barriers", (1, 64), block, &wanted, 64).into_iter().eq(0..64));

    let words = ["32 of the block's 64 threads", "warp 0", "barrier 1"];
    let wanted = expect(Check::Deadlock, (0, 0), At::Nowhere, &words);
    let out = check("early_exit", (1, 64), block, &wanted, 64);
    assert!(out.into_iter().eq((0..64).map(|i| if i < 32 { i } else { 0 })));
}

#[test]
fn traps_and_budgets() {
    let args = |gpu: &Gpu| setup(vec![numbers(gpu, 64), room(gpu, 64)]);
    let wanted = expect(Check::Trap, (0, 37), At::Nowhere, &["trap"]);
    assert!(check("trap", (1, 64), args, &wanted, 64).into_iter().eq(0..64));

    // The twin's second block sets the flag that the first waits for.
    let text = source("flag_nobody_sets");
    let mut gpu = Gpu::new(80);
    gpu.options.budget = 1 << 18;
    let given = setup(vec![zeros(&gpu, 1)]);
    let report = launch(&gpu, &text, (2, 32), &given).0.unwrap();
    assert_eq!((report.check, report.block), (Check::Budget, [0; 3]), "{report}");
    let line = marked_line(&text);
    assert!((line..line + 3).contains(&report.line), "{report}");
    assert!(report.what.contains("262144 instructions"), "{report}");
    assert!(launch(&gpu, &fixed(&text), (2, 32), &given).0.is_none());
}

/// Blocks that end are counted too: many short ones run out of budget like a long one.
#[test]
fn budget_of_many_blocks() {
    let text = fixed(&source("read_past_end"));
    let mut gpu = Gpu::new(80);
    let given = setup(vec![numbers(&gpu, 64), room(&gpu, 64), Arg::U32(64)]);
    gpu.options.budget = 1000;
    assert_eq!(launch(&gpu, &text, (1, 64), &given).1.warp_instructions, 2 * 16);
    for threads in [1, 3] {
        gpu.options.threads = threads;
        assert!(launch(&gpu, &text, (30, 64), &given).0.is_none());
        let report = launch(&gpu, &text, (2000, 64), &given).0.unwrap();
        assert_eq!(report.check, Check::Budget, "{report}");
    }
}

#[test]
fn parameters() {
    let text = fixed(&source("read_past_end"));
    let gpu = Gpu::new(80);
    let module = gpu.load(&text).unwrap();
    let args = [numbers(&gpu, 64), room(&gpu, 64), Arg::U32(64)];
    gpu.launch(&module, "k", 1, 64, &args).unwrap();
    let error = gpu.launch(&module, "k", 1, 64, &args[..2]).unwrap_err();
    assert_eq!(error.to_string(), "2 arguments, k takes 3");
    let error = gpu.launch(&module, "k", 1, 64, &[args[0], args[1], Arg::U64(64)]).unwrap_err();
    assert_eq!(error.to_string(), "argument 2 has 8 bytes, parameter 2 of k has 4");
    let error = gpu.launch(&module, "other", 1, 64, &args).unwrap_err();
    assert_eq!(error.to_string(), "the module has no kernel other; it has k");

    let launch = |directive: &str, shape: Shape| {
        let text = text.replace("\n{", &format!("\n{directive}\n{{"));
        let module = gpu.load(&text).unwrap();
        let args = [args[0], args[1], Arg::U32(0)];
        gpu.try_launch(&module, "k", &shape, &args).unwrap().report
    };
    let shape = |block: [u32; 3]| Shape {
        grid: 1.into(),
        block: block.into(),
        shared: 0,
        cooperative: false,
    };
    let refused = |directive: &str, shape: Shape, what: &str| {
        let report = launch(directive, shape).unwrap_or_else(|| panic!("{directive} is kept"));
        assert_eq!((report.check, report.line), (Check::Parameters, 0), "{report}");
        assert!(report.what.contains(what), "{report}");
    };
    assert!(launch(".maxntid 64", shape([64, 1, 1])).is_none());
    refused(".maxntid 64", shape([96, 1, 1]), "96 threads a block, the kernel takes 64");
    assert!(launch(".maxntid 8, 8", shape([8, 8, 1])).is_none());
    refused(".maxntid 8, 8", shape([8, 8, 2]), "128 threads a block, the kernel takes 64");
    assert!(launch(".reqntid 64", shape([64, 1, 1])).is_none());
    refused(".reqntid 64", shape([32, 1, 1]), "requires [64, 1, 1]");
    refused(".reqntid 64", shape([32, 2, 1]), "requires [64, 1, 1]");
    refused("", shape([1024, 2, 1]), "2048 threads a block, the kernel takes 1024");
    refused("", shape([64, 0, 1]), "is empty");
    let shared = Shape { shared: 1 << 20, ..shape([64, 1, 1]) };
    refused("", shared, "bytes of shared memory");
}

/// A launch below the arguments: the parameter block is too small or too large.
#[test]
fn parameter_block() {
    let gpu = Gpu::new(80);
    let instance = gpu.load(&fixed(&source("read_past_end"))).unwrap();
    let given = [numbers(&gpu, 64), room(&gpu, 64)].map(address);
    let mut params: Vec<u8> = given.iter().flat_map(|address| address.to_le_bytes()).collect();
    params.extend_from_slice(&64u32.to_le_bytes());
    let run = |params: &[u8], grid: [u32; 3]| {
        let launch = Launch {
            instance: &instance,
            kernel: instance.program.kernel("k").unwrap(),
            grid,
            block: [64, 1, 1],
            cluster: [1; 3],
            is_explicit_cluster: false,
            dynamic_shared: 0,
            params,
            cooperative: false,
            memory: &gpu.memory,
            options: &gpu.options,
            id: 0,
        };
        launch_with(&launch).report.map(|report| (report.check, report.what))
    };
    assert_eq!(run(&params, [1; 3]), None);
    let wrong = |bytes| format!("{bytes} bytes of parameters, the kernel takes 20");
    assert_eq!(run(&params[..16], [1; 3]), Some((Check::Parameters, wrong(16))));
    params.extend_from_slice(&[0; 4]);
    assert_eq!(run(&params, [1; 3]), Some((Check::Parameters, wrong(24))));
    let (check, what) = run(&params[..20], [1 << 31, 65535, 65535]).unwrap();
    assert_eq!(check, Check::Parameters);
    assert!(what.contains("blocks"), "{what}");
}

/// A check that is turned off finds nothing.
#[test]
fn checks_can_be_turned_off() {
    let race = [
        "missing_barrier",
        "missing_barrier_in_loop",
        "two_values_one_word",
        "blocks_write_one_word",
    ];
    let unset = ["unset_register", "unset_in_some_lanes", "unset_shared", "unset_global"];
    for (names, races) in [(race, false), (unset, true)] {
        for name in names {
            let mut gpu = Gpu::new(80);
            gpu.options.checks.races = races;
            gpu.options.checks.uninitialized = !races;
            let text = source(name);
            let given = match text.contains("in]") {
                true => setup(vec![numbers(&gpu, 256), room(&gpu, 64)]),
                false => setup(vec![room(&gpu, 64)]),
            };
            let blocks = if races { 1 } else { 2 };
            let report = launch(&gpu, &text, (blocks, 64), &given).0;
            assert!(report.is_none(), "{name}: {}", report.unwrap());
        }
    }
}

/// Every kernel is in a test above, and both twins are legal: NVIDIA's assembler takes them.
#[test]
fn assembled() {
    let this = include_str!("broken.rs");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let mut count = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(this.contains(&format!("\"{name}\"")), "{name} is not tested");
        count += 1;
        let Ok(ptxas) = std::env::var("PTXAS") else { continue };
        let text = source(name);
        for (text, twin) in [(fixed(&text), "fixed"), (text, "broken")] {
            let copy =
                std::env::temp_dir().join(format!("{}-{name}-{twin}.ptx", std::process::id()));
            std::fs::write(&copy, text).unwrap();
            let null = if cfg!(windows) { "NUL" } else { "/dev/null" };
            let output =
                Command::new(&ptxas).args(["-arch=sm_80", "-o", null]).arg(&copy).output().unwrap();
            std::fs::remove_file(&copy).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}, {twin}: {said}");
        }
    }
    assert!(count >= 45, "{count} kernels");
}
