//! `ptx-emulator`: run, check and compare PTX kernels from the shell.

mod check;
mod diff;
mod exec;
mod run;
mod value;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs, checks and counts PTX kernels on the CPU.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a kernel and print its counts
    Run(run::Args),
    /// Parse and decode PTX files and point at what looks wrong
    Check(check::Args),
    /// Compare two outputs, such as one of a GPU and an emulated one
    Diff(diff::Args),
    /// Run a program with the emulator in the place of the CUDA driver
    Exec(exec::Args),
}

/// What a command ends with: 0 for success, 1 for a finding.
type Result = std::result::Result<ExitCode, String>;

/// The exit code of a finding: a broken rule, an error in a file, a difference.
const FOUND: u8 = 1;
/// The exit code of a command that could not do its work.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Exec(args) => exec::run(&args),
    };
    result.unwrap_or_else(|problem| {
        eprintln!("ptx-emulator: {problem}");
        ExitCode::from(FAILED)
    })
}

/// A file's text.
fn read(path: &std::path::Path) -> std::result::Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// `sm_90` or `90`.
fn parse_target(text: &str) -> std::result::Result<u32, String> {
    let number = text.strip_prefix("sm_").unwrap_or(text);
    number.parse().map_err(|_| format!("'{text}' is no architecture: sm_80, sm_90, …"))
}
