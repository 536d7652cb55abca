//! PTX text to tokens. Manual: "Syntax", sections "Source Format" to "Constants".

use super::ast::Pos;
use super::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `%r1`, `foo`, `$L__BB0_1`, `_`.
    Name,
    /// A dot and what belongs to it: `.global`, `.shared::cta`, `.L2::128B`.
    Dot,
    /// A literal, not yet judged: whatever letters, digits and dots follow a digit.
    Number,
    /// `"text"`, with its quotes.
    Text,
    /// One or two characters of punctuation.
    Sign,
    End,
}

#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub pos: Pos,
}

impl Token<'_> {
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::new(self.pos, what, shorten(self.text))
    }

    pub fn is_sign(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }

    pub fn is_dot(&self, text: &str) -> bool {
        self.kind == Kind::Dot && self.text == text
    }
}

/// An error shows no more than this of a token.
const LONGEST_NEAR: usize = 60;

fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST_NEAR) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

#[derive(Clone)]
pub struct Lexer<'a> {
    text: &'a str,
    /// The next byte.
    at: usize,
    line: u32,
    /// What to subtract from `at` for the column counted from 0: where the line starts, and the
    /// bytes beyond the first of each character since then.
    column_base: usize,
    /// Nothing but blanks stands before `at` on its line.
    line_is_blank: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0, line: 1, column_base: 0, line_is_blank: true }
    }

    pub fn next(&mut self) -> Result<Token<'a>> {
        self.skip_blanks()?;
        self.line_is_blank = false;
        let pos = self.pos();
        let start = self.at;
        let byte = self.byte(0);
        let (kind, length) = match byte {
            0 if start >= self.text.len() => {
                return Ok(Token { kind: Kind::End, text: "end of file", pos });
            }
            b'0'..=b'9' => (Kind::Number, self.number()),
            b'.' if self.byte(1).is_ascii_digit() => self.dot_digit(),
            b'.' if is_word(self.byte(1)) => (Kind::Dot, self.dot()),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => (Kind::Name, self.word(1)),
            b'%' | b'$' if is_word(self.byte(1)) => (Kind::Name, self.word(1)),
            b'"' => (Kind::Text, self.quoted(pos)?),
            _ => (Kind::Sign, self.sign(pos)?),
        };
        self.at += length;
        Ok(Token { kind, text: &self.text[start..self.at], pos })
    }

    /// The byte `ahead` of the next one; 0 behind the end.
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn pos(&self) -> Pos {
        Pos { line: self.line, column: (self.at - self.column_base) as u32 + 1 }
    }

    /// Steps over a byte of a comment or blank.
    fn skip_byte(&mut self) {
        let byte = self.byte(0);
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
            self.column_base = self.at;
            self.line_is_blank = true;
        } else if byte & 0xC0 == 0x80 {
            self.column_base += 1;
        }
    }

    fn skip_blanks(&mut self) -> Result<()> {
        loop {
            match self.byte(0) {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C => self.skip_byte(),
                b'/' if self.byte(1) == b'/' => self.skip_line(),
                b'/' if self.byte(1) == b'*' => self.skip_comment()?,
                b'#' if self.line_is_blank => {
                    let rest = self.text[self.at + 1..].trim_start_matches([' ', '\t']);
                    if !rest.starts_with("line") && !rest.starts_with(|c: char| c.is_ascii_digit())
                    {
                        return Err(Error::new(
                            self.pos(),
                            "preprocessor directives are not supported",
                            "#",
                        ));
                    }
                    self.skip_line();
                }
                _ => return Ok(()),
            }
        }
    }

    fn skip_line(&mut self) {
        while self.at < self.text.len() && self.byte(0) != b'\n' {
            self.skip_byte();
        }
    }

    fn skip_comment(&mut self) -> Result<()> {
        let pos = self.pos();
        self.at += 2;
        while !(self.byte(0) == b'*' && self.byte(1) == b'/') {
            if self.at >= self.text.len() {
                return Err(Error::new(pos, "unterminated comment", "/*"));
            }
            self.skip_byte();
        }
        self.at += 2;
        Ok(())
    }

    /// Where the run of word characters that starts at `from` ends.
    fn word(&self, mut from: usize) -> usize {
        while is_word(self.byte(from)) {
            from += 1;
        }
        from
    }

    /// `.name::name`.
    fn dot(&self) -> usize {
        let mut end = self.word(1);
        while self.byte(end) == b':' && self.byte(end + 1) == b':' && is_word(self.byte(end + 2)) {
            end = self.word(end + 2);
        }
        end
    }

    /// `.5` is a number and `.2d` a modifier.
    fn dot_digit(&self) -> (Kind, usize) {
        let end = self.decimal(0);
        if is_word(self.byte(end)) { (Kind::Dot, self.dot()) } else { (Kind::Number, end) }
    }

    fn number(&self) -> usize {
        let prefixed = self.byte(0) == b'0' && self.byte(1).is_ascii_alphabetic();
        let exponent = matches!(self.byte(1), b'e' | b'E');
        let end = if prefixed && !exponent { 0 } else { self.decimal(0) };
        // Letters and digits that stick to a number are part of it, so that it is refused as a whole.
        self.word(end)
    }

    /// Digits with at most one dot, and an exponent.
    fn decimal(&self, from: usize) -> usize {
        let digits = |mut at: usize| {
            while self.byte(at).is_ascii_digit() {
                at += 1;
            }
            at
        };
        let mut end = digits(from);
        if self.byte(end) == b'.' {
            end = digits(end + 1);
        }
        if matches!(self.byte(end), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(end + 1), b'+' | b'-'));
            let after = digits(end + 1 + sign);
            if after > end + 1 + sign {
                end = after;
            }
        }
        end
    }

    fn quoted(&mut self, pos: Pos) -> Result<usize> {
        let rest = &self.text.as_bytes()[self.at..];
        for (length, &byte) in rest.iter().enumerate().skip(1) {
            match byte {
                b'"' => return Ok(length + 1),
                b'\n' => break,
                _ if byte & 0xC0 == 0x80 => self.column_base += 1,
                _ => {}
            }
        }
        Err(Error::new(pos, "unterminated string", "\""))
    }

    fn sign(&self, pos: Pos) -> Result<usize> {
        let two = [self.byte(0), self.byte(1)];
        match &two {
            b"<<" | b">>" | b"<=" | b">=" | b"==" | b"!=" | b"&&" | b"||" => return Ok(2),
            _ => {}
        }
        if b"{}()[]<>,;:?!~+-*/%&|^=@".contains(&two[0]) {
            return Ok(1);
        }
        let character = self.text[self.at..].chars().next().unwrap_or_default();
        Err(Error::new(pos, "unexpected character", character.escape_default().to_string()))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(Kind, &str)> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        loop {
            let token = lexer.next().unwrap();
            if token.kind == Kind::End {
                return tokens;
            }
            tokens.push((token.kind, token.text));
        }
    }

    #[test]
    fn names_modifiers_and_numbers() {
        use Kind::{Dot, Name, Number, Sign};
        assert_eq!(
            texts("cp.async.shared::cta.L2::128B %r1.x,$L_1"),
            [
                (Name, "cp"),
                (Dot, ".async"),
                (Dot, ".shared::cta"),
                (Dot, ".L2::128B"),
                (Name, "%r1"),
                (Dot, ".x"),
                (Sign, ","),
                (Name, "$L_1"),
            ]
        );
        assert_eq!(
            texts("tex.2d .5 .5e3 .5e3x"),
            [(Name, "tex"), (Dot, ".2d"), (Number, ".5"), (Number, ".5e3"), (Dot, ".5e3x"),]
        );
        assert_eq!(
            texts("0x1e+4 1e+4 1.5e-3 1. 0f3F80000e+1 12abc 0e1"),
            [
                (Number, "0x1e"),
                (Sign, "+"),
                (Number, "4"),
                (Number, "1e+4"),
                (Number, "1.5e-3"),
                (Number, "1."),
                (Number, "0f3F80000e"),
                (Sign, "+"),
                (Number, "1"),
                (Number, "12abc"),
                (Number, "0e1"),
            ]
        );
        assert_eq!(
            texts("5 %3 % _ _a"),
            [(Number, "5"), (Name, "%3"), (Sign, "%"), (Name, "_"), (Name, "_a"),]
        );
        assert_eq!(
            texts("@!%p|%q<=<<="),
            [
                (Sign, "@"),
                (Sign, "!"),
                (Name, "%p"),
                (Sign, "|"),
                (Name, "%q"),
                (Sign, "<="),
                (Sign, "<<"),
                (Sign, "="),
            ]
        );
    }

    #[test]
    fn positions_count_characters() {
        let mut lexer = Lexer::new("/* é\n日 */ a // ß\r\n\t\"ü\" b");
        let mut seen = Vec::new();
        for _ in 0..4 {
            let token = lexer.next().unwrap();
            seen.push((token.text, token.pos.line, token.pos.column));
        }
        assert_eq!(seen, [("a", 2, 6), ("\"ü\"", 3, 2), ("b", 3, 6), ("end of file", 3, 7)]);
    }

    #[test]
    fn line_markers_are_skipped() {
        assert_eq!(texts("# 1 \"a.cu\"\n  #line 3\nx"), [(Kind::Name, "x")]);
        for bad in ["#define A 1", "a # 1", "a é", "\"a\n\"", "/* *", "$", "\\", "\u{0}"] {
            let mut lexer = Lexer::new(bad);
            let refused = (0..3).any(|_| lexer.next().is_err());
            assert!(refused, "{bad:?}");
        }
    }
}
