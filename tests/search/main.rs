//! The indexes on every device.

#[path = "../common/mod.rs"]
mod common;

mod bank;
mod binary;
mod cur;
mod finite;
mod flat;
mod matching;
mod methods;
mod multi;
mod sparse;
mod tokens;
mod transfers;

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("id{i}")).collect()
}
