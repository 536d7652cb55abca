//! Executes launches.

mod program;

pub use program::{Kernel, Param, Program};
