//! The front end: PTX text to [`ast`].

pub mod ast;
mod error;
mod expr;
mod function;
mod initializer;
mod lexer;
mod operand;
mod parser;
mod scope;
mod special;
mod statement;
mod tokens;
pub mod ty;
mod variable;

pub use error::{Error, Result};
pub use parser::parse;
