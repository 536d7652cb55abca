//! The one error type of the crate.

use std::fmt::{Display, Write};
use std::path::PathBuf;

/// What went wrong, in kinds that a caller can act on.
///
/// Every variant says what was wrong, with which value, and what would be right. The types of wgpu and of
/// other crates stay out of the signature, so that their major versions are not ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device that was asked for by name is not there.
    #[error("no {} device: {}", shown(backend), shown(reason))]
    NoDevice {
        /// `cpu`, `wgpu` or the text the caller gave.
        backend: String,
        /// Why not, and what is there instead.
        reason: String,
    },
    /// The device is there but cannot do this.
    #[error("{} does not support {}", shown(device), shown(what))]
    Unsupported {
        /// What was asked for.
        what: String,
        /// The device's name.
        device: String,
    },
    /// An allocation failed, or would exceed the device's memory limit.
    #[error("out of memory on {}: {requested} bytes requested{}", shown(device), free.map_or(String::new(), |f| format!(", {f} free")))]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        requested: u64,
        /// Bytes that were free, where the device tells.
        free: Option<u64>,
    },
    /// A tensor has the wrong shape, dtype or device for the operation.
    #[error("{op}: expected {}, got {}", shown(expected), shown(got))]
    Shape {
        /// The operation.
        op: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// An argument that is not a tensor is out of range.
    #[error("{what}: expected {}, got {}", shown(expected), shown(got))]
    Argument {
        /// Which argument.
        what: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A budget of expensive calls does not cover what was asked for; none of it was done.
    #[error("a budget of {limit} scorer calls: {used} are used, {asked} more were asked for")]
    Budget {
        /// Calls that are allowed in all.
        limit: usize,
        /// Calls made so far.
        used: usize,
        /// Calls that were refused.
        asked: usize,
    },
    /// A safetensors file is damaged, or lacks what the model needs.
    #[error("{}: tensor '{}': {}", shown(file.display()), shown(tensor), shown(problem))]
    Weights {
        /// The file.
        file: PathBuf,
        /// The tensor, or `*` where the file as a whole is meant.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A configuration file of a model is missing something, or asks for something unknown.
    #[error("{}: {}", shown(file.display()), shown(problem))]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tokenizer could not be loaded or failed on a text.
    #[error("{}: {}", shown(file.display()), shown(problem))]
    Tokenizer {
        /// The tokenizer's file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An image could not be decoded, or not be brought into the size that the model takes.
    #[error("{}: {}", shown(file.display()), shown(problem))]
    Image {
        /// The file; `memory` where there is none.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A data file given by the user (texts, pairs, an index, judgements) is malformed.
    #[error("{}{}: {}", shown(file.display()), line.map_or(String::new(), |l| format!(":{l}")), shown(problem))]
    Data {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1, where the file has lines.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// Several inputs are at fault; at least two.
    #[error("{} inputs are at fault: {}", all.len(), all.iter().map(Error::to_string).collect::<Vec<_>>().join("; "))]
    Several {
        /// What is wrong with each.
        all: Vec<Error>,
    },
    /// A kernel did not compile.
    #[error("kernel {kernel} did not compile for {target}:\n{}", lines(log))]
    Compile {
        /// The kernel's family and specialisation.
        kernel: String,
        /// The device it was compiled for.
        target: String,
        /// The compiler's words and the rendered text.
        log: String,
    },
    /// The device is gone; everything on it is lost, the process is not.
    #[error("device {} was lost: {}", shown(device), lines(reason))]
    DeviceLost {
        /// The device's name.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// The device's driver refused a call.
    #[error("{}: {}", shown(device), lines(problem))]
    Driver {
        /// The device's name.
        device: String,
        /// What the driver said.
        problem: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {}", shown(path.display()), shown(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Characters of a displayed value at most; of a longer one the beginning and the end are shown.
const SHOWN: usize = 1000;

/// Text from outside, as it is displayed: control, formatting and bidirectional characters, which could change a terminal or
/// the order of what is read, are escaped as in Rust's strings; of more than 1000 characters the first 700 and last 200 are
/// kept. [`Error`] displays names, paths and values like this.
///
/// ```
/// assert_eq!(nearkin::shown("a\u{1b}[31m\u{202e}b\n"), "a\\u{1b}[31m\\u{202e}b\\n");
/// assert!(nearkin::shown("x".repeat(5_000_000)).len() < 1000);
/// ```
pub fn shown(text: impl Display) -> String {
    let text = text.to_string();
    let count = match text.len() > SHOWN {
        true => text.chars().count(),
        false => 0,
    };
    if count <= SHOWN {
        return escaped(text.chars(), false);
    }
    let (first, last) = (SHOWN * 7 / 10, SHOWN / 5);
    let start = escaped(text.chars().take(first), false);
    let end = escaped(text.chars().skip(count - last), false);
    format!("{start} … ({} characters left out) … {end}", count - first - last)
}

/// [`shown`] for what a driver or compiler says: whole, with its lines.
fn lines(text: &str) -> String {
    escaped(text.chars(), true)
}

fn escaped(text: impl Iterator<Item = char>, keep_lines: bool) -> String {
    let mut out = String::new();
    for c in text {
        let keep = match c {
            '\n' | '\t' => keep_lines,
            // Soft hyphen, Arabic letter mark, directions and isolates, separators of lines, byte-order mark, tags.
            '\u{ad}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}' => false,
            c => !c.is_control(),
        };
        match (keep, c) {
            (true, c) => out.push(c),
            (false, '\n') => out.push_str("\\n"),
            (false, '\r') => out.push_str("\\r"),
            (false, '\t') => out.push_str("\\t"),
            (false, c) => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
        }
    }
    out
}

impl Error {
    pub(crate) fn shape(
        op: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Error::Shape { op, expected: expected.into(), got: got.into() }
    }

    pub(crate) fn argument(
        what: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Error::Argument { what, expected: expected.into(), got: got.into() }
    }

    /// Whether a file does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
