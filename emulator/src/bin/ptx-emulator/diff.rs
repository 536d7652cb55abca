//! `ptx-emulator diff`: outputs recorded on a GPU against emulated ones.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::value::Type;
use crate::{FOUND, Result};

#[derive(clap::Args)]
pub struct Args {
    /// A raw little-endian file, or a folder of them.
    expected: PathBuf,
    /// The file or folder to compare with it.
    actual: PathBuf,
    /// The type of the values.
    #[arg(long = "type", value_enum, default_value_t = Type::U32)]
    ty: Type,
    /// Values between two that still count as equal; 0 compares bits.
    #[arg(long, default_value_t = 0)]
    ulp: u64,
    /// Differences up to this are equal.
    #[arg(long, default_value_t = 0.0)]
    abs: f64,
    /// Differences up to this part of the expected value are equal.
    #[arg(long, default_value_t = 0.0)]
    rel: f64,
    /// Differences to print.
    #[arg(long, default_value_t = 10)]
    show: usize,
}

pub fn run(args: &Args) -> Result {
    let mut differ = false;
    if args.expected.is_dir() {
        let mut names: Vec<std::ffi::OsString> = std::fs::read_dir(&args.expected)
            .map_err(|error| format!("{}: {error}", args.expected.display()))?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|name| args.expected.join(name).is_file())
            .collect();
        names.sort();
        if names.is_empty() {
            return Err(format!("{} has no files", args.expected.display()));
        }
        for name in names {
            differ |= compare(args, &args.expected.join(&name), &args.actual.join(&name))?;
        }
    } else {
        differ = compare(args, &args.expected, &args.actual)?;
    }
    Ok(ExitCode::from(if differ { FOUND } else { 0 }))
}

/// Whether two files differ.
fn compare(args: &Args, expected: &Path, actual: &Path) -> std::result::Result<bool, String> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let (a, b) = (read(expected)?, read(actual)?);
    let (ty, size) = (args.ty, args.ty.bytes());
    let name = actual.display();
    if a.len() != b.len() {
        println!("{name}: {} bytes, {} expected", b.len(), a.len());
        return Ok(true);
    }
    if a.len() % size != 0 {
        return Err(
            format!("{name}: {} bytes are no whole number of {ty:?}", a.len()).to_lowercase()
        );
    }
    let (mut different, mut worst) = (0usize, 0u64);
    for (index, (x, y)) in a.chunks_exact(size).zip(b.chunks_exact(size)).enumerate() {
        let distance = ty.distance(x, y);
        worst = worst.max(distance);
        let (p, q) = (ty.value(x), ty.value(y));
        let gap = (p - q).abs();
        let is_close = distance <= args.ulp && (args.ulp > 0 || x == y)
            || gap <= args.abs && args.abs > 0.0
            || gap <= args.rel * p.abs() && args.rel > 0.0;
        if is_close {
            continue;
        }
        different += 1;
        if different <= args.show {
            let width = 2 * size;
            println!(
                "{name}[{index}]: {} ({:0width$x}), {} expected ({:0width$x}), {distance} ulp",
                ty.show(y),
                ty.bits(y),
                ty.show(x),
                ty.bits(x)
            );
        }
    }
    let count = a.len() / size;
    println!("{name}: {different} of {count} values differ, by at most {worst} ulp");
    Ok(different > 0)
}
