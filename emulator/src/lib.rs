//! Runs, checks and counts PTX kernels on the CPU.

pub mod client;
pub mod counts;
pub mod driver;
pub mod engine;
pub mod gpu;
pub mod isa;
pub mod lanes;
pub mod matrix;
pub mod memory;
pub mod num;
pub mod report;
pub mod syntax;
