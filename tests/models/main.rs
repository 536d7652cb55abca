//! Models against what the Python libraries compute for the same folders.

#[path = "../common/mod.rs"]
mod common;

mod colbert;
mod encoders;
mod folders;
mod transformers;
mod variants;
