//! Every kernel of the tests is legal PTX: NVIDIA's own assembler takes it.
//!
//! The environment variable PTXAS names the assembler (ptxas of CUDA 12 or later).

use std::path::{Path, PathBuf};
use std::process::Command;

/// The PTX files directly in a folder, if it exists.
fn kernels(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "ptx")).collect();
    files.sort();
    files
}

/// What ptxas says of a kernel that it takes.
fn assemble(ptxas: &str, file: &Path, target: u32) -> String {
    let null = if cfg!(windows) { "NUL" } else { "/dev/null" };
    let target = format!("-arch=sm_{target}");
    let output = Command::new(ptxas).args([&target, "-v", "-o", null]).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("{ptxas}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}, {target}:\n{said}", file.display());
    said.into_owned()
}

#[test]
fn all_kernels() {
    let Ok(ptxas) = std::env::var("PTXAS") else {
        eprintln!("skipped: PTXAS names no assembler");
        return;
    };
    let zoo = kernels("tests/kernels");
    assert!(zoo.len() >= 12, "{} kernels", zoo.len());
    for target in [80, 90] {
        for file in &zoo {
            let said = assemble(&ptxas, file, target);
            let properties = said.lines().filter(|line| line.contains("spill stores"));
            let spills: Vec<_> = properties
                .filter(|line| !line.contains(" 0 bytes spill stores, 0 bytes spill loads"))
                .collect();
            assert!(said.contains("spill stores"), "{}: no word on spills", file.display());
            assert!(spills.is_empty(), "{}, sm_{target}: {spills:?}", file.display());
        }
        for file in ["tests/broken", "tests/driver"].iter().flat_map(|folder| kernels(folder)) {
            // What needs a newer target says so.
            let text = std::fs::read_to_string(&file).unwrap();
            if target >= 90 || !text.contains(".target sm_90") {
                assemble(&ptxas, &file, target);
            }
        }
    }
}
