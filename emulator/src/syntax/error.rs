//! What is wrong with a PTX text, and where.

use super::ast::Pos;

pub type Result<T> = std::result::Result<T, Error>;

/// A refusal of a module: printed as `line 12, column 5: what (near 'text')`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {what} (near '{near}')", pos.line, pos.column)]
pub struct Error {
    pub pos: Pos,
    pub what: String,
    /// The offending text: a token, or the instruction's name with its modifiers.
    pub near: String,
}

impl Error {
    pub fn new(pos: Pos, what: impl Into<String>, near: impl Into<String>) -> Error {
        Error { pos, what: what.into(), near: near.into() }
    }
}
