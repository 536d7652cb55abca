//! The current token, and what every rule of the grammar asks of it.

use super::error::{Error, Result};
use super::lexer::{Kind, Lexer, Token};

/// Blocks, parentheses and braces nest no deeper than this, so that recursion stays shallow.
pub const MAX_DEPTH: usize = 100;

pub struct Tokens<'a> {
    lexer: Lexer<'a>,
    pub token: Token<'a>,
    depth: usize,
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a str) -> Result<Tokens<'a>> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Tokens { lexer, token, depth: 0 })
    }

    /// The current token, and steps to the next.
    pub fn advance(&mut self) -> Result<Token<'a>> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// The token behind the current one.
    pub fn peek(&self) -> Result<Token<'a>> {
        self.lexer.clone().next()
    }

    pub fn at(&self, sign: &str) -> bool {
        self.token.is_sign(sign)
    }

    pub fn at_dot(&self, text: &str) -> bool {
        self.token.is_dot(text)
    }

    /// Steps over `sign` if it stands here.
    pub fn accept(&mut self, sign: &str) -> Result<bool> {
        let here = self.at(sign);
        if here {
            self.advance()?;
        }
        Ok(here)
    }

    pub fn accept_dot(&mut self, text: &str) -> Result<bool> {
        let here = self.at_dot(text);
        if here {
            self.advance()?;
        }
        Ok(here)
    }

    /// An error at the current token: `expected what`.
    pub fn expected(&self, what: &str) -> Error {
        self.token.error(format!("expected {what}"))
    }

    pub fn expect(&mut self, sign: &str) -> Result<()> {
        if self.accept(sign)? { Ok(()) } else { Err(self.expected(&format!("'{sign}'"))) }
    }

    /// An identifier; `what` says whose.
    pub fn name(&mut self, what: &str) -> Result<Token<'a>> {
        if self.token.kind != Kind::Name || matches!(self.token.text, "_" | "WARP_SZ") {
            return Err(self.expected(what));
        }
        self.advance()
    }

    pub fn string(&mut self) -> Result<()> {
        if self.token.kind != Kind::Text {
            return Err(self.expected("a string"));
        }
        self.advance().map(drop)
    }

    /// Runs `rule` one level deeper.
    pub fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.enter()?;
        let result = rule(self);
        self.leave();
        result
    }

    pub fn enter(&mut self) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return Err(self.token.error(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        Ok(())
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }
}
