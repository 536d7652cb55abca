//! Watching a kernel instruction by instruction.

use crate::syntax::ty::Ty;

/// Is told of every instruction that a warp executes, from the host thread that executes it.
pub trait Trace: std::fmt::Debug + Send + Sync {
    fn step(&self, step: &Step);
}

/// An executed instruction.
#[derive(Debug)]
pub struct Step<'a> {
    pub kernel: &'a str,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// Index of the warp in its block.
    pub warp: u32,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// The instruction as it is in the text.
    pub instruction: String,
    /// The threads of the warp that executed it.
    pub active: u32,
    /// Registers that it may have written.
    pub writes: Vec<Written<'a>>,
}

/// A register behind an instruction that writes it.
#[derive(Debug)]
pub struct Written<'a> {
    pub register: &'a str,
    pub ty: Ty,
    /// Its bits in each thread of the warp.
    pub values: [u64; 32],
}
