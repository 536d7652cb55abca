//! NVIDIA's assembler, from the Python package `nvidia-cuda-nvcc`: it needs neither a GPU nor the CUDA toolkit.

use std::path::PathBuf;

use crate::Result;
use crate::command::{program, run, succeeds, target};
use crate::python::Python;

/// The version that the tests' tables were judged by.
const PACKAGE: &str = "nvidia-cuda-nvcc==13.5.37";

/// Where the package has wheels.
pub const IS_SUPPORTED: bool =
    cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")));

/// The path of ptxas: `PTXAS` if the user names one, else that in `target/ptxas`, fetched once.
pub fn fetch() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PTXAS") {
        return Ok(path.into());
    }
    let folder = target()?.join("ptxas");
    let path = folder.join("nvidia/cu13/bin/ptxas");
    if succeeds(with_version(&path)) {
        return Ok(path);
    }
    if !IS_SUPPORTED {
        return Err(format!(
            "{PACKAGE} has no wheel for this system; set PTXAS to use another ptxas"
        ));
    }
    let options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--upgrade", "--target"];
    let mut install = Python::with_pip()?.run(["-m", "pip", "install"]);
    install.args(options).arg(&folder).arg(PACKAGE);
    run(install)?;
    match succeeds(with_version(&path)) {
        true => Ok(path),
        false => Err(format!("{} does not run", path.display())),
    }
}

fn with_version(path: &std::path::Path) -> std::process::Command {
    let mut command = program(path);
    command.arg("--version");
    command
}
