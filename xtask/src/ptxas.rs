//! NVIDIA's assembler and disassembler, from the Python packages `nvidia-cuda-nvcc` and `nvidia-cuda-nvdisasm`: they need neither a
//! GPU nor the CUDA toolkit.

use std::path::PathBuf;

use crate::Result;
use crate::command::{program, run, succeeds, target};
use crate::python::Python;

/// The versions that the tests' tables were judged by.
const PTXAS: Tool = Tool { name: "ptxas", variable: "PTXAS", package: "nvidia-cuda-nvcc==13.5.37" };
const NVDISASM: Tool =
    Tool { name: "nvdisasm", variable: "NVDISASM", package: "nvidia-cuda-nvdisasm==13.5.37" };

/// A program of a package.
struct Tool {
    name: &'static str,
    /// Names another of its kind.
    variable: &'static str,
    package: &'static str,
}

/// Where the package has wheels.
pub const IS_SUPPORTED: bool =
    cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")));

/// The path of ptxas: `PTXAS` if the user names one, else that in `target/ptxas`, fetched once.
pub fn fetch() -> Result<PathBuf> {
    PTXAS.fetch()
}

/// The same of nvdisasm: `NVDISASM`, or `target/nvdisasm`.
pub fn fetch_nvdisasm() -> Result<PathBuf> {
    NVDISASM.fetch()
}

impl Tool {
    fn fetch(&self) -> Result<PathBuf> {
        let Tool { name, variable, package } = self;
        if let Some(path) = std::env::var_os(variable) {
            return Ok(path.into());
        }
        let folder = target()?.join(name);
        let path = folder.join("nvidia/cu13/bin").join(name);
        if succeeds(with_version(&path)) {
            return Ok(path);
        }
        if !IS_SUPPORTED {
            return Err(format!(
                "{package} has no wheel for this system; set {variable} to use another {name}"
            ));
        }
        let options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--upgrade", "--target"];
        let mut install = Python::with_pip()?.run(["-m", "pip", "install"]);
        install.args(options).arg(&folder).arg(package);
        run(install)?;
        match succeeds(with_version(&path)) {
            true => Ok(path),
            false => Err(format!("{} does not run", path.display())),
        }
    }
}

fn with_version(path: &std::path::Path) -> std::process::Command {
    let mut command = program(path);
    command.arg("--version");
    command
}
