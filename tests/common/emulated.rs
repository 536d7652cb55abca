//! A CUDA device for a test, the emulator's control, and processes of their own.
#![allow(dead_code)]

use std::process::Command;

use nearkin::Device;
use ptx_emulator::client::Emulator;

use crate::common::{own_options, required};

/// Marks a process that [`alone`] started.
const ALONE: &str = "NEARKIN_TEST_ALONE";

/// The first CUDA device, opened for this test; where there is none the test says so and ends.
pub fn cuda() -> Option<Device> {
    required("cuda", Device::cuda_with(0, own_options()))
}

/// The emulator's control; none where the driver is a GPU's.
pub fn emulator() -> Option<Emulator> {
    let emulator = Emulator::attach();
    if emulator.is_none() {
        eprintln!("skipped: not the emulator");
    }
    emulator
}

/// Runs a test's body in a process of its own with settings of its own (an empty one is taken away): faults and leaks
/// are a process's, and tests of one binary may share one. `name` is the test's.
pub fn alone(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|n| n == name) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ALONE, name);
    for (key, value) in settings {
        match *value {
            "" => command.env_remove(key),
            value => command.env(key, value),
        };
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} in a process of its own: {}", output.status);
    assert!(said.contains("1 passed"), "no test is called {name}");
}

/// What a device that is gone has left, once its thread that waits for copies has ended too.
pub fn leaks(emulator: &Emulator) -> Vec<ptx_emulator::client::Leak> {
    for _ in 0..10_000 {
        if emulator.leaks().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    emulator.leaks()
}
