//! Runs, checks and counts PTX kernels on the CPU.

pub mod syntax;
