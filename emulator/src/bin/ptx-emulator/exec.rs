//! `ptx-emulator exec`: a program with the emulator in the place of libcuda.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::Result;

#[derive(clap::Args)]
pub struct Args {
    /// The emulated devices: sm_90, or sm_80,sm_90 for two.
    #[arg(long)]
    devices: Option<String>,
    /// Bytes of memory of each device.
    #[arg(long)]
    memory: Option<u64>,
    /// Checks to leave out: -races,-uninitialized.
    #[arg(long, allow_hyphen_values = true)]
    checks: Option<String>,
    /// Where reports go: stderr or a file.
    #[arg(long)]
    log: Option<String>,
    /// A file for the counts of each launch, one JSON object a line.
    #[arg(long)]
    counts: Option<PathBuf>,
    /// Calls that fail, and how: see the README.
    #[arg(long)]
    faults: Option<String>,
    /// Host threads of a launch.
    #[arg(long)]
    threads: Option<usize>,
    /// The emulator's shared library, if it is not beside this program.
    #[arg(long)]
    library: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The shared library's file name.
const LIBRARY: &str = if cfg!(windows) { "ptx_emulator.dll" } else { "libptx_emulator.so" };

pub fn run(args: &Args) -> Result {
    let library = match &args.library {
        Some(path) => path.clone(),
        None => find()?,
    };
    let library =
        library.canonicalize().map_err(|error| format!("{}: {error}", library.display()))?;
    let folder = folder_of_links(&library)?;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    let mut search = vec![folder];
    if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
        search.extend(std::env::split_paths(&paths));
    }
    let search = std::env::join_paths(search).map_err(|error| error.to_string())?;
    command.env("LD_LIBRARY_PATH", search);
    let settings = [
        ("PTX_EMULATOR_DEVICES", args.devices.clone()),
        ("PTX_EMULATOR_MEMORY", args.memory.map(|bytes| bytes.to_string())),
        ("PTX_EMULATOR_CHECKS", args.checks.clone()),
        ("PTX_EMULATOR_LOG", args.log.clone()),
        ("PTX_EMULATOR_COUNTS", args.counts.as_ref().map(|path| path.display().to_string())),
        ("PTX_EMULATOR_FAULTS", args.faults.clone()),
        ("PTX_EMULATOR_THREADS", args.threads.map(|threads| threads.to_string())),
    ];
    for (name, value) in settings {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let status = command.status().map_err(|error| format!("{}: {error}", args.command[0]))?;
    Ok(ExitCode::from(status.code().map_or(crate::FAILED, |code| code as u8)))
}

/// The library beside this program, or in `deps` as cargo leaves it for tests.
fn find() -> std::result::Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let places = [
        folder.join(LIBRARY),
        folder.join("deps").join(LIBRARY),
        folder.join("../lib").join(LIBRARY),
    ];
    let found = places.iter().find(|path| path.is_file());
    found.cloned().ok_or_else(|| {
        format!(
            "{LIBRARY} is not beside {}: build it (cargo build) or name it (--library)",
            program.display()
        )
    })
}

/// A folder in which the library has the driver's names.
fn folder_of_links(library: &Path) -> std::result::Result<PathBuf, String> {
    let folder = library.with_file_name("ptx-emulator-libcuda");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        if link.canonicalize().is_ok_and(|target| target == library) {
            continue;
        }
        // Made elsewhere and moved, so that programs that run at the same time always find one.
        let fresh = folder.join(format!("{name}.{}", std::process::id()));
        link_to(library, &fresh)
            .and_then(|()| std::fs::rename(&fresh, &link))
            .map_err(|error| format!("{}: {error}", link.display()))?;
    }
    Ok(folder)
}

#[cfg(unix)]
fn link_to(library: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(library, link)
}

#[cfg(not(unix))]
fn link_to(library: &Path, link: &Path) -> std::io::Result<()> {
    std::fs::copy(library, link).map(|_| ())
}
