//! The program `ptx-emulator`, run as a user runs it.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptx-emulator")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tool-{name}"));
    // What an earlier run left would be compared too.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn file(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

const SCALE: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .f32 by, .param .u32 n)
{
    .reg .pred %beyond;
    .reg .b32 %i, %n;
    .reg .b64 %x;
    .reg .f32 %by, %v;
    mov.u32 %i, %tid.x;
    ld.param.u32 %n, [n];
    setp.ge.u32 %beyond, %i, %n;
    @%beyond ret;
    ld.param.u64 %x, [x];
    ld.param.f32 %by, [by];
    mad.wide.u32 %x, %i, 4, %x;
    ld.global.f32 %v, [%x];
    mul.f32 %v, %v, %by;
    st.global.f32 [%x], %v;
    ret;
}
";

#[test]
fn run_prints_values_and_counts() {
    let folder = folder("run");
    let kernel = file(&folder, "scale.ptx", SCALE);
    let out = folder.join("out.bin");
    let to = format!("0={}", out.display());
    let args = [
        "run",
        &kernel,
        "--block",
        "8",
        "--arg",
        "iota:f32:6",
        "--arg",
        "f32:-0.5",
        "--arg",
        "u32:6",
    ];
    let output = tool(&[&args[..], &["--print", "0:f32:99", "--out", &to]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("argument 0: -0 -0.5 -1 -1.5 -2 -2.5\n"), "{text}");
    assert!(text.contains("global loads           1 requests, 1 sectors, 24 bytes"), "{text}");
    let expected: Vec<u8> = (0..6).flat_map(|i| (i as f32 * -0.5).to_le_bytes()).collect();
    assert_eq!(std::fs::read(&out).unwrap(), expected);

    let output = tool(&[&args[..], &["--counts", "json"]].concat());
    let counts: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(counts["classes"]["float32"]["threads"], 6);
    assert_eq!(counts["global"]["stores"]["bytes"], 24);

    let output =
        tool(&[&args[..], &["--trace", "0", "--trace-limit", "3", "--counts", "none"]].concat());
    let trace = stdout(&output);
    assert_eq!(trace.lines().count(), 3, "{trace}");
    assert!(
        trace.contains("000000ff  mov.u32 %i, %tid.x;") && trace.contains("%beyond[0] = 0"),
        "{trace}"
    );
}

#[test]
fn run_reports_a_broken_rule() {
    let folder = folder("broken");
    let kernel = file(&folder, "scale.ptx", SCALE);
    let args = [
        "run",
        &kernel,
        "--block",
        "8",
        "--arg",
        "zeros:f32:6",
        "--arg",
        "f32:2",
        "--arg",
        "u32:7",
    ];
    let output = tool(&args);
    assert_eq!(output.status.code(), Some(1));
    let report = stderr(&output);
    assert!(report.starts_with("out-of-bounds: 4 bytes at "), "{report}");
    assert!(
        report.contains("at line 18: ld.global.f32 %v, [%x];")
            && report.contains("thread (6, 0, 0)"),
        "{report}"
    );
    // What nobody wrote may be read when the check is left out.
    let args = ["run", &kernel, "--arg", "buf:f32:6", "--arg", "f32:2", "--arg", "u32:6"];
    assert!(stderr(&tool(&args)).starts_with("uninitialized"), "{}", stderr(&tool(&args)));
    assert!(tool(&[&args[..], &["--without", "uninitialized"]].concat()).status.success());
}

#[test]
fn run_says_what_is_wrong_with_its_arguments() {
    let folder = folder("usage");
    let kernel = file(&folder, "scale.ptx", SCALE);
    let two = file(&folder, "two.ptx", format!("{SCALE}.entry other() {{ ret; }}"));
    let cases: [(&[&str], &str); 8] = [
        (&["run", "nowhere.ptx"], "nowhere.ptx: "),
        (&["run", &two], "--entry is needed: the file has scale, other"),
        (&["run", &kernel, "--entry", "x"], "the module has no kernel x; it has scale"),
        (&["run", &kernel, "--arg", "u32:1"], "1 arguments, scale takes 3"),
        (
            &["run", &kernel, "--arg", "u32:1", "--arg", "f32:1", "--arg", "u32:1"],
            "argument 0 has 4 bytes, parameter 0 of scale has 8",
        ),
        (&["run", &kernel, "--arg", "u32:1.5"], "--arg u32:1.5: '1.5' is no u32"),
        (&["run", &kernel, "--arg", "zeros:f33:4"], "'f33' is no type"),
        (
            &["run", &kernel, "--arg", "zeros:f32:1000000000000"],
            "4000000000000 bytes, and the device has",
        ),
    ];
    for (args, expected) in cases {
        let output = tool(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn check_points_at_errors_and_warns() {
    let folder = folder("check");
    let good =
        file(&folder, "good.ptx", SCALE.replace(".reg .b32 %i, %n;", ".reg .b32 %i, %n, %unused;"));
    let output = tool(&["check", &good]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(
        text.contains("scale: 3 parameters (16 bytes)") && text.contains("1 load_global"),
        "{text}"
    );
    assert!(text.contains("warning: scale: register %unused is not used"), "{text}");

    let bad = file(&folder, "bad.ptx", SCALE.replace("mul.f32 %v, %v, %by", "mul.f32 %v, %v, %x"));
    let output = tool(&["check", &good, &bad]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("bad.ptx:19:5: %x is a register of type .b64, .f32 expected"), "{text}");
    assert!(text.contains("19 |     mul.f32 %v, %v, %x;\n   |     ^"), "{text}");

    let output = tool(&["check", "--json", &bad]);
    let error: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&error["line"], &error["column"]), (&19.into(), &5.into()));
}

#[test]
fn diff_compares_bits_and_bounds() {
    let folder = folder("diff");
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let next = f32::from_bits(1f32.to_bits() + 1);
    let a = file(&folder, "a.bin", floats(&[0.0, 1.0, 100.0]));
    let b = file(&folder, "b.bin", floats(&[0.0, next, 100.0]));
    let c = file(&folder, "c.bin", floats(&[0.0, 1.0]));
    assert!(tool(&["diff", &a, &a, "--type", "f32"]).status.success());
    let output = tool(&["diff", &a, &b, "--type", "f32"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(
        text.contains("b.bin[1]: 1.0000001 (3f800001), 1 expected (3f800000), 1 ulp"),
        "{text}"
    );
    assert!(text.contains("1 of 3 values differ, by at most 1 ulp"), "{text}");
    assert!(tool(&["diff", &a, &b, "--type", "f32", "--ulp", "1"]).status.success());
    assert!(tool(&["diff", &a, &b, "--type", "f32", "--rel", "1e-6"]).status.success());
    assert_eq!(tool(&["diff", &a, &c, "--type", "f32"]).status.code(), Some(1));
    assert_eq!(tool(&["diff", &a, "nowhere.bin"]).status.code(), Some(2));
    // Nothing is near an infinity or a NaN, but a NaN near another.
    let special = |values: &[f32]| file(&folder, "special.bin", floats(values));
    let huge = file(&folder, "huge.bin", floats(&[f32::MAX, f32::INFINITY, f32::NAN]));
    let tolerances = [["--rel", "0.5"], ["--abs", "1e300"], ["--ulp", "100000000"]];
    for wrong in [
        [f32::INFINITY, f32::INFINITY, f32::NAN],
        [f32::MAX, f32::MAX, f32::NAN],
        [f32::MAX, f32::INFINITY, f32::INFINITY],
        [f32::MAX, f32::NAN, f32::NAN],
    ] {
        let wrong = special(&wrong);
        for [option, value] in tolerances {
            let output = tool(&["diff", &huge, &wrong, "--type", "f32", option, value]);
            assert!(
                stdout(&output).contains("1 of 3 values differ"),
                "{option}: {}",
                stdout(&output)
            );
        }
    }
    let nan = special(&[f32::MAX, f32::INFINITY, f32::from_bits(0x7fff_ffff)]);
    assert_eq!(tool(&["diff", &huge, &nan, "--type", "f32"]).status.code(), Some(1));
    assert!(tool(&["diff", &huge, &nan, "--type", "f32", "--ulp", "1"]).status.success());
    // Integers that an f64 would round.
    let integers = |name: &str, value: u64| file(&folder, name, value.to_le_bytes());
    let (x, y) = (integers("x.bin", 1 << 60), integers("y.bin", (1 << 60) + 3));
    assert!(tool(&["diff", &x, &y, "--type", "u64", "--abs", "3"]).status.success());
    assert_eq!(tool(&["diff", &x, &y, "--type", "u64", "--abs", "2"]).status.code(), Some(1));
    // Folders are compared file by file.
    let (expected, actual) = (folder.join("expected"), folder.join("actual"));
    for (to, from) in [(&expected, &a), (&actual, &b)] {
        std::fs::create_dir_all(to).unwrap();
        std::fs::copy(from, to.join("y.bin")).unwrap();
    }
    let output =
        tool(&["diff", expected.to_str().unwrap(), actual.to_str().unwrap(), "--type", "f32"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("y.bin"), "{}", stdout(&output));
    std::fs::copy(&a, actual.join("y.bin")).unwrap();
    let folders = ["diff", expected.to_str().unwrap(), actual.to_str().unwrap()];
    assert!(tool(&folders).status.success());
    std::fs::copy(&a, actual.join("z.bin")).unwrap();
    let output = tool(&folders);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("z.bin: not expected"), "{}", stdout(&output));
}

/// `exec` runs a program that opens libcuda: this test's own binary, which is asked to be one.
#[cfg(target_os = "linux")]
#[test]
fn exec_puts_the_emulator_in_the_place_of_the_driver() {
    let folder = folder("exec");
    let counts = folder.join("counts.jsonl");
    _ = std::fs::remove_file(&counts);
    let me = std::env::current_exe().unwrap();
    let me = me.to_str().unwrap();
    let args = ["exec", "--devices", "sm_90,sm_80", "--counts", counts.to_str().unwrap(), "--", me];
    let output = Command::new(env!("CARGO_BIN_EXE_ptx-emulator"))
        .args([&args[..], &["--exact", "as_a_client", "--nocapture"]].concat())
        .env("PTX_EMULATOR_TOOL_TEST", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    assert!(
        stdout(&output).contains("2 devices, the first is PTX emulator sm_90"),
        "{}",
        stdout(&output)
    );
    let line = std::fs::read_to_string(&counts).unwrap();
    assert!(line.contains("\"kernel\":\"scale\""), "{line}");
}

#[test]
fn as_a_client() {
    if std::env::var_os("PTX_EMULATOR_TOOL_TEST").is_none() {
        return;
    }
    use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
    let context = CudaContext::new(0).unwrap();
    let count = CudaContext::device_count().unwrap();
    println!("{count} devices, the first is {}", context.name().unwrap());
    let stream = context.default_stream();
    let module = context.load_module(cudarc::nvrtc::Ptx::from_src(SCALE)).unwrap();
    let scale = module.load_function("scale").unwrap();
    let mut x = stream.clone_htod(&[1f32, 2.0, 3.0]).unwrap();
    let mut launch = stream.launch_builder(&scale);
    launch.arg(&mut x).arg(&3f32).arg(&3u32);
    launch_it(&mut launch, LaunchConfig::for_num_elems(3));
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [3.0, 6.0, 9.0]);
}

#[allow(unsafe_code)]
fn launch_it(launch: &mut cudarc::driver::LaunchArgs, config: cudarc::driver::LaunchConfig) {
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config) }.unwrap();
}
