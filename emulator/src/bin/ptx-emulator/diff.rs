//! `ptx-emulator diff`: outputs recorded on a GPU against emulated ones.

use std::collections::BTreeSet;
use std::ffi::OsString;
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

impl Args {
    /// Whether values that are not the same bits count as equal, `distance` places apart.
    fn accepts(&self, ty: Type, expected: &[u8], actual: &[u8], distance: u64) -> bool {
        let (p, q) = (ty.value(expected), ty.value(actual));
        if !p.is_finite() || !q.is_finite() {
            // Nothing is near an infinity or a NaN but another NaN, and that only to who asks for nearness.
            return distance == 0 && (self.ulp > 0 || self.abs > 0.0 || self.rel > 0.0);
        }
        let (within_abs, gap) = match ty.is_float() {
            true => ((p - q).abs() <= self.abs, (p - q).abs()),
            // Exact where the values are beyond what an f64 holds.
            false => (distance <= self.abs as u64, distance as f64),
        };
        distance <= self.ulp && self.ulp > 0
            || within_abs && self.abs > 0.0
            || gap <= self.rel * p.abs() && self.rel > 0.0
    }
}

pub fn run(args: &Args) -> Result {
    let mut differ = false;
    if args.expected.is_dir() {
        let names = files(&args.expected)?;
        if names.is_empty() {
            return Err(format!("{} has no files", args.expected.display()));
        }
        for name in files(&args.actual)?.difference(&names) {
            println!("{}: not expected", args.actual.join(name).display());
            differ = true;
        }
        for name in names {
            differ |= compare(args, &args.expected.join(&name), &args.actual.join(&name))?;
        }
    } else {
        differ = compare(args, &args.expected, &args.actual)?;
    }
    Ok(ExitCode::from(if differ { FOUND } else { 0 }))
}

/// The names of a folder's files, in order.
fn files(folder: &Path) -> std::result::Result<BTreeSet<OsString>, String> {
    Ok(std::fs::read_dir(folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| folder.join(name).is_file())
        .collect())
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
        if x == y || args.accepts(ty, x, y, distance) {
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
