//! The indexes on every device.

#[path = "../common/mod.rs"]
mod common;

mod binary;
mod cur;
mod flat;
mod tokens;
