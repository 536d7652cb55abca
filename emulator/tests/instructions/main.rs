//! Instructions that only touch registers, each against an independent computation.
//!
//! A snippet runs in one thread a row of inputs; its outputs come back as one row each.

mod harness;
mod values;

mod atomics;
mod compare;
mod convert;
mod float;
mod half;
mod integer;
mod logic;
mod movement;
mod packed;
