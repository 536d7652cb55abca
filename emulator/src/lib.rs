//! Runs, checks and counts PTX kernels on the CPU.

pub mod isa;
pub mod lanes;
pub mod memory;
pub mod syntax;
