//! Constant expressions. Manual: "Constants", sections "Integer Constants" to "Summary of Constant
//! Expression Evaluation Rules".

use super::ast::Operand;
use super::error::Result;
use super::lexer::{Kind, Token};
use super::tokens::Tokens;

/// The value of a constant expression: integers are computed in 64 bits, floats in f64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Signed(i64),
    Unsigned(u64),
    /// The bits of an `0f` literal, which takes no part in arithmetic.
    Single(u32),
    Double(f64),
}

impl Value {
    pub fn operand(self) -> Operand {
        match self {
            Value::Signed(value) => Operand::Int(value.into()),
            Value::Unsigned(value) => Operand::Int(value.into()),
            Value::Single(bits) => Operand::F32(bits),
            Value::Double(value) => Operand::F64(value.to_bits()),
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Value::Signed(_) | Value::Unsigned(_))
    }

    /// The 64 bits of an integer; 0 for a float.
    fn bits(self) -> u64 {
        match self {
            Value::Signed(value) => value as u64,
            Value::Unsigned(value) => value,
            Value::Single(_) | Value::Double(_) => 0,
        }
    }
}

/// The value of a literal, or `None` if it is none.
pub fn literal(text: &str) -> Option<Value> {
    let bytes = text.as_bytes();
    let hex = |digits: &str, length: usize| {
        let valid = digits.len() == length && digits.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u64::from_str_radix(digits, 16).ok())?
    };
    match (bytes.first(), bytes.get(1)) {
        (Some(b'0'), Some(b'f' | b'F')) => return Some(Value::Single(hex(&text[2..], 8)? as u32)),
        (Some(b'0'), Some(b'd' | b'D')) => {
            return Some(Value::Double(f64::from_bits(hex(&text[2..], 16)?)));
        }
        _ => {}
    }
    let (digits, unsigned) = match text.strip_suffix('U') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let (digits, radix) = match bytes {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', b'0'..=b'9', ..] if !text.contains(['.', 'e', 'E']) => (&digits[1..], 8),
        _ if text.contains(['.', 'e', 'E']) => {
            let valid = |b: u8| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
            return (text.bytes().all(valid)).then(|| text.parse().map(Value::Double).ok())?;
        }
        _ => (digits, 10),
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    match i64::try_from(value) {
        Ok(value) if !unsigned => Some(Value::Signed(value)),
        _ => Some(Value::Unsigned(value)),
    }
}

/// Of the binary operators; a higher one binds tighter.
fn precedence(token: &Token) -> Option<u8> {
    if token.kind != Kind::Sign {
        return None;
    }
    Some(match token.text {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | ">" | "<=" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => return None,
    })
}

impl Tokens<'_> {
    /// Whether a constant expression can start here.
    pub fn at_constant(&self) -> bool {
        match self.token.kind {
            Kind::Number => true,
            Kind::Name => self.token.text == "WARP_SZ",
            Kind::Sign => matches!(self.token.text, "-" | "+" | "~" | "!" | "("),
            _ => false,
        }
    }

    pub fn constant(&mut self) -> Result<Value> {
        self.nested(|tokens| {
            let condition = tokens.token;
            let value = tokens.binary(1)?;
            if !tokens.accept("?")? {
                return Ok(value);
            }
            let first = tokens.constant()?;
            tokens.expect(":")?;
            let second = tokens.constant()?;
            if ![value, first, second].iter().all(|value| value.is_integer()) {
                return Err(condition.error("'?' needs integers"));
            }
            let chosen = if value.bits() != 0 { first } else { second };
            Ok(match (first, second) {
                (Value::Signed(_), Value::Signed(_)) => chosen,
                _ => Value::Unsigned(chosen.bits()),
            })
        })
    }

    /// A constant expression that is an integer.
    pub fn integer(&mut self) -> Result<i64> {
        let start = self.token;
        let value = self.constant()?;
        if !value.is_integer() {
            return Err(start.error("expected an integer"));
        }
        Ok(value.bits() as i64)
    }

    /// An unsigned integer literal, where the grammar has no expressions.
    pub fn count(&mut self, what: &str) -> Result<u64> {
        if self.token.kind != Kind::Number {
            return Err(self.expected(what));
        }
        match literal(self.token.text) {
            Some(value) if value.is_integer() => {
                self.advance()?;
                Ok(value.bits())
            }
            Some(_) => Err(self.expected(what)),
            None => Err(self.token.error("bad number")),
        }
    }

    pub fn count_u32(&mut self, what: &str) -> Result<u32> {
        let token = self.token;
        let value = self.count(what)?;
        u32::try_from(value).map_err(|_| token.error("number too large"))
    }

    fn binary(&mut self, lowest: u8) -> Result<Value> {
        let mut left = self.unary()?;
        while let Some(level) = precedence(&self.token).filter(|&level| level >= lowest) {
            let operator = self.advance()?;
            let right = self.binary(level + 1)?;
            left = apply(&operator, left, right)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Value> {
        let token = self.token;
        match token.kind {
            Kind::Number => {
                let value = literal(token.text).ok_or_else(|| token.error("bad number"))?;
                self.advance()?;
                Ok(value)
            }
            Kind::Name if token.text == "WARP_SZ" => {
                self.advance()?;
                Ok(Value::Signed(32))
            }
            Kind::Sign if token.text == "(" => {
                self.advance()?;
                if self.token.kind == Kind::Dot {
                    return self.cast();
                }
                let value = self.constant()?;
                self.expect(")")?;
                Ok(value)
            }
            Kind::Sign if matches!(token.text, "-" | "+" | "~" | "!") => {
                self.advance()?;
                let value = self.nested(Self::unary)?;
                negate(&token, value)
            }
            _ => Err(self.expected("a constant")),
        }
    }

    /// `(.s64) x` behind its parenthesis.
    fn cast(&mut self) -> Result<Value> {
        let signed = match self.token.text {
            ".s64" => true,
            ".u64" => false,
            _ => return Err(self.expected("'.s64' or '.u64'")),
        };
        let cast = self.advance()?;
        self.expect(")")?;
        let value = self.nested(Self::unary)?;
        match value {
            Value::Signed(_) | Value::Unsigned(_) if signed => {
                Ok(Value::Signed(value.bits() as i64))
            }
            Value::Signed(_) | Value::Unsigned(_) => Ok(Value::Unsigned(value.bits())),
            _ => Err(cast.error("a cast needs an integer")),
        }
    }
}

fn negate(operator: &Token, value: Value) -> Result<Value> {
    Ok(match (operator.text, value) {
        ("-", Value::Signed(value)) => Value::Signed(value.wrapping_neg()),
        ("-", Value::Unsigned(value)) => Value::Unsigned(value.wrapping_neg()),
        ("-", Value::Double(value)) => Value::Double(-value),
        ("+", Value::Signed(_) | Value::Unsigned(_) | Value::Double(_)) => value,
        ("~", Value::Signed(value)) => Value::Signed(!value),
        ("~", Value::Unsigned(value)) => Value::Unsigned(!value),
        ("!", Value::Signed(_) | Value::Unsigned(_)) => Value::Signed((value.bits() == 0).into()),
        _ => return Err(mismatch(operator)),
    })
}

fn mismatch(operator: &Token) -> super::error::Error {
    operator.error(format!("the types of the operands do not suit '{}'", operator.text))
}

fn apply(operator: &Token, left: Value, right: Value) -> Result<Value> {
    match (left, right) {
        (Value::Signed(a), Value::Signed(b)) => apply_signed(operator, a, b),
        (Value::Double(a), Value::Double(b)) => apply_double(operator, a, b),
        _ if left.is_integer() && right.is_integer() => match (operator.text, left) {
            // The type of a shift is that of its left side alone.
            ("<<" | ">>", Value::Signed(a)) => apply_signed(operator, a, right.bits() as i64),
            _ => apply_unsigned(operator, left.bits(), right.bits()),
        },
        _ => Err(mismatch(operator)),
    }
}

fn shift_amount(operator: &Token, amount: u64) -> Result<u32> {
    match u32::try_from(amount) {
        Ok(amount) if amount < 64 => Ok(amount),
        _ => Err(operator.error("the shift amount is not in 0 to 63")),
    }
}

fn apply_signed(operator: &Token, a: i64, b: i64) -> Result<Value> {
    if matches!(operator.text, "/" | "%") && b == 0 {
        return Err(operator.error("division by zero"));
    }
    Ok(Value::Signed(match operator.text {
        "/" => a.wrapping_div(b),
        "%" => a.wrapping_rem(b),
        ">>" => a >> shift_amount(operator, b as u64)?,
        "<" => (a < b).into(),
        ">" => (a > b).into(),
        "<=" => (a <= b).into(),
        ">=" => (a >= b).into(),
        // The others give the same bits as on unsigned integers.
        _ => apply_unsigned(operator, a as u64, b as u64)?.bits() as i64,
    }))
}

fn apply_unsigned(operator: &Token, a: u64, b: u64) -> Result<Value> {
    let truth = |truth: bool| Ok(Value::Signed(truth.into()));
    Ok(Value::Unsigned(match operator.text {
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        "/" => a.checked_div(b).ok_or_else(|| operator.error("division by zero"))?,
        "%" => a.checked_rem(b).ok_or_else(|| operator.error("division by zero"))?,
        "<<" => a << shift_amount(operator, b)?,
        ">>" => a >> shift_amount(operator, b)?,
        "&" => a & b,
        "|" => a | b,
        "^" => a ^ b,
        "==" => return truth(a == b),
        "!=" => return truth(a != b),
        "<" => return truth(a < b),
        ">" => return truth(a > b),
        "<=" => return truth(a <= b),
        ">=" => return truth(a >= b),
        "&&" => return truth(a != 0 && b != 0),
        "||" => return truth(a != 0 || b != 0),
        _ => return Err(mismatch(operator)),
    }))
}

fn apply_double(operator: &Token, a: f64, b: f64) -> Result<Value> {
    let truth = |truth: bool| Ok(Value::Signed(truth.into()));
    Ok(Value::Double(match operator.text {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "==" => return truth(a == b),
        "!=" => return truth(a != b),
        "<" => return truth(a < b),
        ">" => return truth(a > b),
        "<=" => return truth(a <= b),
        ">=" => return truth(a >= b),
        _ => return Err(mismatch(operator)),
    }))
}

#[cfg(test)]
mod tests {
    use super::Value::{Double, Signed, Single, Unsigned};
    use super::*;

    fn eval(text: &str) -> Value {
        let mut tokens = Tokens::new(text).unwrap();
        let value = tokens.constant().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(tokens.token.kind, Kind::End, "{text}");
        value
    }

    #[test]
    fn literals() {
        for (text, value) in [
            ("0", Signed(0)),
            ("123", Signed(123)),
            ("0123", Signed(0o123)),
            ("0xfF", Signed(255)),
            ("0XfFU", Unsigned(255)),
            ("0b101", Signed(5)),
            ("0B101U", Unsigned(5)),
            ("00", Signed(0)),
            ("9223372036854775807", Signed(i64::MAX)),
            ("9223372036854775808", Unsigned(1 << 63)),
            ("0xFFFFFFFFFFFFFFFF", Unsigned(u64::MAX)),
            ("WARP_SZ", Signed(32)),
            ("0f3F800000", Single(0x3F80_0000)),
            ("0FffC00000", Single(0xFFC0_0000)),
            ("0d4000000000000000", Double(2.0)),
            ("0DbfF0000000000000", Double(-1.0)),
            ("1.", Double(1.0)),
            (".25", Double(0.25)),
            ("1e3", Double(1000.0)),
            ("0e0", Double(0.0)),
            ("12.5E-1", Double(1.25)),
        ] {
            assert_eq!(eval(text), value, "{text}");
        }
    }

    /// Values as a C compiler gives them for 64-bit integers.
    #[test]
    fn operators_bind_as_in_c() {
        for (text, value) in [
            ("1 + 2 * 3", Signed(7)),
            ("(1 + 2) * 3", Signed(9)),
            ("10 - 4 - 3", Signed(3)),
            ("100 / 7 % 4", Signed(2)),
            ("-7 / 2", Signed(-3)),
            ("-7 % 3", Signed(-1)),
            ("- -3", Signed(3)),
            ("1 << 2 + 1", Signed(8)),
            ("1 << 3 >> 1", Signed(4)),
            ("-16 >> 2", Signed(-4)),
            ("0xFFFFFFFFFFFFFFF0U >> 60", Unsigned(15)),
            ("-16 >> 2U", Signed(-4)),
            ("1 | 6 & 3", Signed(3)),
            ("1 ^ 3 | 4", Signed(6)),
            ("5 & 3 == 3", Signed(1)),
            ("1 < 2 == 1", Signed(1)),
            ("3 > 2 > 1", Signed(0)),
            ("1 || 0 && 0", Signed(1)),
            ("0 && 1 | 1", Signed(0)),
            ("!5 + 1", Signed(1)),
            ("!0", Signed(1)),
            ("~0", Signed(-1)),
            ("~0U", Unsigned(u64::MAX)),
            ("+3", Signed(3)),
            ("-1U", Unsigned(u64::MAX)),
            ("-1 < 0U", Signed(0)),
            ("-1 < 0", Signed(1)),
            ("-1 >= 1", Signed(0)),
            ("-1 + 2U", Unsigned(1)),
            ("(.s64) 0xFFFFFFFFFFFFFFFF", Signed(-1)),
            ("(.u64) -1 / 2", Unsigned(u64::MAX / 2)),
            ("(.u64) (-1 / 2)", Unsigned(0)),
            ("1 ? 2 : 3", Signed(2)),
            ("0 ? 2 : 1 ? 4 : 5", Signed(4)),
            ("1 ? -1 : 0U", Unsigned(u64::MAX)),
            ("2 - 2 ? 7 : 8", Signed(8)),
            ("9223372036854775807 + 1", Signed(i64::MIN)),
            ("-9223372036854775807 - 1 == 1 << 63", Signed(1)),
            ("(1 << 63) / -1", Signed(i64::MIN)),
            ("1 != 2 && 2 <= 2 && 3 >= 2", Signed(1)),
            ("1.5 + 2.0 * 2.0", Double(5.5)),
            ("-1.5 - 1.0 / 4.0", Double(-1.75)),
            ("1.5 < 2.0", Signed(1)),
            ("1.0 == 2.0", Signed(0)),
            ("(0f3F800000)", Single(0x3F80_0000)),
        ] {
            assert_eq!(eval(text), value, "{text}");
        }
    }
}
