//! Runs tests in a process in which `libcuda` is the emulator.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// Set in the process of a test: its name.
const CHILD: &str = "PTX_EMULATOR_TEST";

/// Whether this is the process of the test `name`, where `libcuda` is the emulator with these settings. If it is not, the
/// test was executed in such a process by the time this returns, and passed.
pub fn emulated(name: &str, settings: &[(&str, &str)]) -> bool {
    if is_child(name) {
        return true;
    }
    let output = run(name, settings);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name} in the emulator:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{name} was not found:\n{out}");
    false
}

/// Whether this is the process of the test `name`.
pub fn is_child(name: &str) -> bool {
    env::var(CHILD).as_deref() == Ok(name)
}

/// Executes the test `name` of this program in a process of its own.
pub fn run(name: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, name).env("LD_LIBRARY_PATH", library());
    for (name, value) in settings {
        command.env(format!("PTX_EMULATOR_{name}"), value);
    }
    command.output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder in which the built library has the driver's names.
fn library() -> PathBuf {
    let program = env::current_exe().unwrap();
    let deps = program.parent().unwrap();
    let built = [deps, deps.parent().unwrap()]
        .map(|folder| folder.join("libptx_emulator.so"))
        .into_iter()
        .filter(|path| path.exists())
        .max_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).unwrap())
        .expect("cargo builds the shared library beside the tests");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libcuda");
    fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        // Other tests do the same at the same time.
        let mine = folder.join(format!("{name}.{}", std::process::id()));
        let _ = fs::remove_file(&mine);
        symlink(&built, &mine).unwrap();
        fs::rename(&mine, folder.join(name)).unwrap();
    }
    folder
}
