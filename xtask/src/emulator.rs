//! The PTX emulator in the place of NVIDIA's driver.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::command::{cargo, create, run, target};

/// Where the emulator can take the driver's place: its library is found by a path that the loader reads.
pub const IS_SUPPORTED: bool = cfg!(target_os = "linux");

/// Builds the emulator and gives a folder in which it is called as the driver is.
pub fn build() -> Result<PathBuf> {
    build_as(&["-p", "ptx-emulator", "--all-features"])
}

/// The same, as part of a build that makes other things too: alone it has dependencies with fewer features, and is not
/// what the others link.
pub fn build_as(how: &[&str]) -> Result<PathBuf> {
    let mut build = cargo(["build"]);
    build.args(how);
    run(build)?;
    let debug = target()?.join("debug");
    let folder = debug.join("ptx-emulator-libcuda");
    place(&debug.join("libptx_emulator.so"), &folder)?;
    Ok(folder)
}

/// Puts the emulator's library into a folder under the names of the driver's.
pub fn place(library: &Path, folder: &Path) -> Result {
    create(folder)?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        let to = folder.join(name);
        // Not in place: a library that is in use stays as it is.
        let _ = std::fs::remove_file(&to);
        std::fs::copy(library, &to).map_err(|e| format!("{}: {e}", library.display()))?;
    }
    Ok(())
}

/// Lets a program find the emulator before any driver.
pub fn use_in(command: &mut Command, folder: &Path) {
    let mut path = folder.as_os_str().to_owned();
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(before);
    }
    command.env("LD_LIBRARY_PATH", path);
}
