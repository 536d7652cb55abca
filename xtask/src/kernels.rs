//! `cargo xtask kernels`: the contract test, with its table, and what ptxas makes of the PTX.

use std::path::Path;

use crate::command::{self, cargo, create, program, target};
use crate::resources::{self, Scope};
use crate::{Result, ptxas};

fn contract(dump: &Path) -> std::process::Command {
    // The whole workspace's features, as in `cargo xtask test`, so that neither builds what the other has.
    let build = ["--workspace", "--all-features", "--test", "contract"];
    let mut command = if crate::test::has_nextest() {
        let mut command = cargo(["nextest", "run"]);
        command.args(build).args(["--no-capture", "--cargo-quiet"]);
        command
    } else {
        let mut command = cargo(["test", "--quiet"]);
        command.args(build).args(["--", "--nocapture"]);
        command
    };
    command.env("NEARKIN_DUMP_PTX", dump);
    command
}

pub fn run(scope: Scope) -> Result {
    let dump = target()?.join("kernels");
    // Families that are gone would stay.
    let _ = std::fs::remove_dir_all(&dump);
    create(&dump)?;
    command::run(contract(&dump))?;
    match ptxas::fetch() {
        Ok(ptxas) => resources::check(&ptxas, &dump, scope)?,
        Err(problem) if ptxas::IS_SUPPORTED || scope == Scope::Bless => return Err(problem),
        Err(problem) => println!("kernels: ptxas has not judged: {problem}"),
    }
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
