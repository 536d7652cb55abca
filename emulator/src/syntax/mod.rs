//! The front end: PTX text to [`ast`].

pub mod ast;
mod error;
mod parser;
pub mod ty;

pub use error::{Error, Result};
pub use parser::parse;
