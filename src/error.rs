//! The one error type of the crate.

use std::path::PathBuf;

/// What went wrong, in kinds that a caller can act on.
///
/// Every variant says what was wrong, with which value, and what would be right. The types of wgpu and of
/// other crates stay out of the signature, so that their major versions are not ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device that was asked for by name is not there.
    #[error("no {backend} device: {reason}")]
    NoDevice {
        /// `cpu`, `wgpu` or the text the caller gave.
        backend: String,
        /// Why not, and what is there instead.
        reason: String,
    },
    /// The device is there but cannot do this.
    #[error("{device} does not support {what}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// The device's name.
        device: String,
    },
    /// An allocation failed, or would exceed the device's memory limit.
    #[error("out of memory on {device}: {requested} bytes requested{}", free.map_or(String::new(), |f| format!(", {f} free")))]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        requested: u64,
        /// Bytes that were free, where the device tells.
        free: Option<u64>,
    },
    /// A tensor has the wrong shape, dtype or device for the operation.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// An argument that is not a tensor is out of range.
    #[error("{what}: expected {expected}, got {got}")]
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
    #[error("{}: tensor '{tensor}': {problem}", file.display())]
    Weights {
        /// The file.
        file: PathBuf,
        /// The tensor, or `*` where the file as a whole is meant.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A configuration file of a model is missing something, or asks for something unknown.
    #[error("{}: {problem}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tokenizer could not be loaded or failed on a text.
    #[error("{}: {problem}", file.display())]
    Tokenizer {
        /// The tokenizer's file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An image could not be decoded, or not be brought into the size that the model takes.
    #[error("{}: {problem}", file.display())]
    Image {
        /// The file; `memory` where there is none.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A data file given by the user (texts, pairs, an index, judgements) is malformed.
    #[error("{}{}: {problem}", file.display(), line.map_or(String::new(), |l| format!(":{l}")))]
    Data {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1, where the file has lines.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A kernel did not compile.
    #[error("kernel {kernel} did not compile for {target}:\n{log}")]
    Compile {
        /// The kernel's family and specialisation.
        kernel: String,
        /// The device it was compiled for.
        target: String,
        /// The compiler's words and the rendered text.
        log: String,
    },
    /// The device is gone; everything on it is lost, the process is not.
    #[error("device {device} was lost: {reason}")]
    DeviceLost {
        /// The device's name.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// The device's driver refused a call.
    #[error("{device}: {problem}")]
    Driver {
        /// The device's name.
        device: String,
        /// What the driver said.
        problem: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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

    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
