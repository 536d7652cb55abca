//! `cargo xtask test`: everything a change must pass, in the order in which it fails soonest.

use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::command::{cargo, run as run_command, succeeds, with};
use crate::resources::Scope;
use crate::{Result, bundle, emulator, kernels, model, ptxas, vulkan};

/// The unit tests, which wait for little: to optimise the crates a second time for them would take longer.
pub const UNIT_TESTS: [&str; 5] = [
    "--lib",
    "--config",
    "profile.dev.package.nearkin.opt-level=0",
    "--config",
    "profile.dev.package.ptx-emulator.opt-level=0",
];

pub fn has_nextest() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| succeeds(cargo(["nextest", "--version"])))
}

/// With `gpu` CUDA is what the machine has, else the emulator where that can take its place.
pub fn run(gpu: bool) -> Result {
    let mut steps = Steps { started: Instant::now(), passed: 0 };

    let mut adapter = vulkan::available();
    if !adapter {
        match vulkan::install() {
            Ok(()) => adapter = true,
            Err(advice) => println!("{advice}"),
        }
    }
    // The model's tests use a folder the user names, else the one we fetch.
    let minilm = match std::env::var_os("NEARKIN_MINILM") {
        Some(folder) => folder,
        None => steps.step("model", || model::fetch().map(Into::into))?,
    };
    // ptxas judges the emulator's kernels and tables.
    let ptxas = match ptxas::IS_SUPPORTED {
        true => Some(steps.step("ptxas", ptxas::fetch)?),
        false => ptxas::fetch().ok(),
    };
    steps.run("format", cargo(["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--"];
    steps.run("clippy", with(cargo(clippy), &["-D", "warnings"]))?;
    for (name, features) in [
        ("CPU only", ""),
        ("CUDA only", "cuda,cuda-12"),
        ("wgpu only", "wgpu"),
        ("images only", "images"),
    ] {
        // The tests' dependencies ask for the features that all together have: without them everything is checked anew.
        let clippy = ["clippy", "-p", "nearkin", "--lib", "--tests", "--no-default-features"];
        let with_features = ["--features", features, "--", "-D", "warnings"];
        steps.run(&format!("clippy, {name}"), with(cargo(clippy), &with_features))?;
    }
    let mut doc =
        cargo(["doc", "--no-deps", "-p", "nearkin", "-p", "ptx-emulator", "--all-features"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    steps.run("documentation", doc)?;
    steps.step("kernels", || kernels::run(Scope::CompareSome))?;
    let everything = ["--workspace", "--all-features"];
    let libcuda = match emulator::IS_SUPPORTED && !gpu {
        // With a test, as the tests have it: those turn on features of dependencies.
        true => Some(steps.step("emulator", || {
            emulator::build_as(&[&everything[..], &["--lib", "--test", "contract"]].concat())
        })?),
        false => None,
    };
    // On other systems than Linux an adapter is likely, not certain: there CI decides.
    let required = std::env::var_os("CI").is_some() || (cfg!(target_os = "linux") && adapter);
    let test = |mut command: Command| {
        command.env("NEARKIN_MINILM", &minilm);
        if let Some(ptxas) = &ptxas {
            command.env("PTXAS", ptxas);
        }
        if let Some(libcuda) = &libcuda {
            emulator::use_in(&mut command, libcuda);
        }
        if std::env::var_os("NEARKIN_REQUIRE").is_none() {
            let mut devices = vec!["cpu"];
            devices.extend((gpu || libcuda.is_some()).then_some("cuda"));
            devices.extend(required.then_some("wgpu"));
            command.env("NEARKIN_REQUIRE", devices.join(","));
        }
        command
    };
    let others = ["--bins", "--test", "*"];
    if has_nextest() {
        let nextest = || with(cargo(["nextest", "run"]), &everything);
        steps.run("unit tests", test(with(nextest(), &UNIT_TESTS)))?;
        // The step `kernels` has run the tests of the contract.
        let but = ["-E", "not binary_id(nearkin::contract)"];
        steps.run("tests", test(with(with(nextest(), &others), &but)))?;
    } else {
        println!("cargo-nextest is not installed: cargo test runs the tests, one binary at a time");
        let tests = || with(cargo(["test"]), &everything);
        steps.run("unit tests", test(with(tests(), &UNIT_TESTS)))?;
        steps.run("tests", test(with(tests(), &others)))?;
    }
    let doctests = ["test", "--doc", "-p", "nearkin", "-p", "ptx-emulator", "--all-features"];
    steps.run("documentation tests", test(cargo(doctests)))?;
    // What a machine with a GPU will run, with the emulator in the place of one.
    if libcuda.is_some() && bundle::IS_SUPPORTED {
        steps.step("rehearsal of the bundle", bundle::rehearse_unpacked)?;
    }
    if succeeds(cargo(["deny", "--version"])) {
        steps.run("licences and advisories", cargo(["deny", "check"]))?;
    } else {
        println!("cargo-deny is not installed: licences and advisories were not checked");
    }
    if ptxas.is_none() {
        println!("no ptxas: PTX kernels were run, but not judged by it");
    }
    if !adapter {
        println!("no Vulkan adapter was found: tests of the WGSL kernels were skipped");
    }
    println!(
        "cargo xtask test: all {} steps passed in {}",
        steps.passed,
        duration(steps.started.elapsed())
    );
    Ok(())
}

struct Steps {
    started: Instant,
    passed: usize,
}

impl Steps {
    fn run(&mut self, name: &str, command: Command) -> Result {
        println!("── {name}: {}", crate::command::words(&command));
        self.timed(name, || run_command(command))
    }

    fn step<T>(&mut self, name: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("── {name}");
        self.timed(name, f)
    }

    fn timed<T>(&mut self, name: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = f();
        let took = duration(start.elapsed());
        let value = result
            .map_err(|problem| format!("the step '{name}' failed after {took}: {problem}"))?;
        println!("── {name}: passed in {took}\n");
        self.passed += 1;
        Ok(value)
    }
}

/// `12.3 s` or `4 min 5 s`.
pub fn duration(d: Duration) -> String {
    match d.as_secs() {
        0..60 => format!("{:.1} s", d.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}
