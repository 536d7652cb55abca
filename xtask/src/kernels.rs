//! `cargo xtask kernels`: the contract test, with its table.

use crate::Result;
use crate::command::{self, cargo, program};

fn contract() -> std::process::Command {
    // The whole workspace's features, as in `cargo xtask test`, so that neither builds what the other has.
    let build = ["--workspace", "--all-features", "--test", "contract"];
    if crate::test::has_nextest() {
        let mut command = cargo(["nextest", "run"]);
        command.args(build).args(["--no-capture", "--cargo-quiet"]);
        command
    } else {
        let mut command = cargo(["test", "--quiet"]);
        command.args(build).args(["--", "--nocapture"]);
        command
    }
}

pub fn run() -> Result {
    command::run(contract())?;
    // It has no option that does nothing and succeeds; that it starts is enough, as for the test.
    if program("tint").arg("--version").output().is_ok() {
        println!("kernels: naga and tint accept every specialisation");
    } else {
        println!(
            "kernels: naga accepts every specialisation; tint is not on the PATH and has not judged"
        );
    }
    Ok(())
}
