//! Runs, checks and counts PTX kernels on the CPU.

pub mod engine;
pub mod isa;
pub mod lanes;
pub mod memory;
pub mod report;
pub mod syntax;
