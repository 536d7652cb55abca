//! Executes launches.

mod block;
mod bulk_ops;
mod cluster;
mod launch;
mod matrix_ops;
mod memory_ops;
mod program;
mod trace;
mod warp;
mod warp_ops;
mod warpgroup_ops;

pub use launch::{
    Balance, Instance, InstanceError, Launch, MAX_CLUSTER, Options, Outcome, Sample, launch,
};
pub use program::{Kernel, Param, Program};
pub use trace::{Step, Trace, Written};
