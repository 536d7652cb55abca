//! Operands of instructions. Manual: "Instruction Operands".

use super::ast::{Base, Operand, RegId, Special, Symbol};
use super::error::Result;
use super::lexer::{Kind, Token};
use super::parser::{Item, Parser};
use super::scope::Name;
use super::special::{self, Meaning};
use super::statement::{Body, unknown};

impl<'a> Parser<'a> {
    /// `+ constant` behind the base of an address.
    pub fn offset(&mut self) -> Result<i64> {
        self.tokens.expect("+")?;
        self.tokens.integer()
    }
}

impl<'a> Body<'_, 'a> {
    /// An operand of an instruction; only `call` has lists in parentheses.
    pub fn operand(&mut self, is_call: bool) -> Result<Operand> {
        if is_call && self.tokens().at("(") {
            return self.list();
        }
        self.value(true)
    }

    /// Any operand but the lists of `call`. An unknown name is a label, where there can be one.
    fn value(&mut self, may_be_label: bool) -> Result<Operand> {
        let token = self.parser.tokens.token;
        match (token.kind, token.text) {
            (Kind::Sign, "[") => self.address(),
            (Kind::Sign, "{") => self.vector(),
            (Kind::Sign, "!") => {
                let next = self.tokens().peek()?;
                if next.kind != Kind::Name || next.text == "WARP_SZ" {
                    return Ok(self.tokens().constant()?.operand());
                }
                self.tokens().advance()?;
                self.tokens().advance()?;
                Ok(Operand::Not(self.scalar(&next)?))
            }
            (Kind::Name, "_") => {
                self.tokens().advance()?;
                self.pair(Operand::Sink)
            }
            _ if self.tokens().at_constant() => Ok(self.tokens().constant()?.operand()),
            (Kind::Name, _) => {
                self.tokens().advance()?;
                if let Some(operand) = self.identifier(&token)? {
                    Ok(operand)
                } else if may_be_label && !token.text.starts_with('%') {
                    Ok(Operand::Label(self.scopes.label(&token)))
                } else {
                    Err(unknown(&token))
                }
            }
            _ => Err(self.tokens().expected("an operand")),
        }
    }

    /// A register, special register or symbol, its name already read; `None` for an unknown name.
    fn identifier(&mut self, name: &Token<'a>) -> Result<Option<Operand>> {
        let symbol = match self.scopes.lookup(name.text) {
            Some(Name::Register { first, width }) => {
                return self.register(first, width).map(Some);
            }
            Some(Name::Table(index)) => {
                return Ok(Some(Operand::Table(self.tables[index as usize].clone())));
            }
            Some(other) => self.symbol(other),
            None => self.module_symbol(name),
        };
        let Some(symbol) = symbol else { return self.special(name) };
        if self.tokens().at("[") {
            let what = format!("indexing is not supported; write '{} + bytes'", name.text);
            return Err(self.parser.tokens.token.error(what));
        }
        let offset = if self.tokens().at("+") { self.parser.offset()? } else { 0 };
        Ok(Some(Operand::Symbol { symbol, offset }))
    }

    /// A scalar, a component, a whole vector or the first of a pair.
    fn register(&mut self, first: RegId, width: u8) -> Result<Operand> {
        if width > 1 && self.parser.tokens.token.kind != Kind::Dot {
            let parts = (first.0..first.0 + u32::from(width)).map(|id| Operand::Reg(RegId(id)));
            return Ok(Operand::Vector(parts.collect()));
        }
        let reg = Operand::Reg(self.component(first, width)?);
        self.pair(reg)
    }

    fn module_symbol(&self, name: &Token<'a>) -> Option<Symbol> {
        Some(match self.parser.names.get(name.text)? {
            Item::Function(_) => Symbol::Function(name.text.into()),
            Item::Variable(_) => Symbol::Global(name.text.into()),
        })
    }

    /// What has an address, of the names in the function.
    fn symbol(&self, name: Name) -> Option<Symbol> {
        match name {
            Name::Variable(id) => Some(Symbol::Local(id)),
            Name::Param(index) => Some(Symbol::Param(index)),
            Name::Return(index) => Some(Symbol::Return(index)),
            Name::Global(index) => {
                Some(Symbol::Global(self.parser.module.variables[index].name.clone()))
            }
            Name::Register { .. } | Name::Table(_) => None,
        }
    }

    /// `.x` behind a vector register; nothing behind a scalar.
    fn component(&mut self, first: RegId, width: u8) -> Result<RegId> {
        let token = self.parser.tokens.token;
        if token.kind != Kind::Dot {
            return Ok(first);
        }
        match special::component(token.text) {
            Some(part) if width > 1 && part < width => {
                self.tokens().advance()?;
                Ok(RegId(first.0 + u32::from(part)))
            }
            _ => Err(token.error(format!("the register has no part '{}'", token.text))),
        }
    }

    /// A scalar register or component, its name already read.
    fn scalar(&mut self, name: &Token<'a>) -> Result<RegId> {
        match self.scopes.lookup(name.text) {
            Some(Name::Register { first, width }) => {
                if width > 1 && self.parser.tokens.token.kind != Kind::Dot {
                    return Err(name.error("expected a register that is not a vector"));
                }
                self.component(first, width)
            }
            Some(_) => Err(name.error("expected a register")),
            None => Err(unknown(name)),
        }
    }

    /// `%p|%q`, if `|` follows the first.
    fn pair(&mut self, first: Operand) -> Result<Operand> {
        if !self.tokens().accept("|")? {
            return Ok(first);
        }
        let second = if self.parser.tokens.token.text == "_" {
            self.tokens().advance()?;
            Operand::Sink
        } else {
            let name = self.tokens().name("a register")?;
            Operand::Reg(self.scalar(&name)?)
        };
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    fn special(&mut self, name: &Token<'a>) -> Result<Option<Operand>> {
        match special::meaning(name.text) {
            Some(Meaning::Scalar(special)) => Ok(Some(Operand::Special(special))),
            Some(Meaning::Vector(special)) => self.special_component(special).map(Some),
            Some(Meaning::Unsupported) => {
                let what = format!("the special register '{}' is not supported", name.text);
                Err(name.error(what))
            }
            None => Ok(None),
        }
    }

    /// `.x` of `%tid`; without it the whole vector.
    fn special_component(&mut self, special: fn(u8) -> Special) -> Result<Operand> {
        let token = self.parser.tokens.token;
        if token.kind != Kind::Dot {
            return Ok(Operand::Vector(
                (0..4).map(|part| Operand::Special(special(part))).collect(),
            ));
        }
        let part = special::component(token.text)
            .ok_or_else(|| token.error(format!("the register has no part '{}'", token.text)))?;
        self.tokens().advance()?;
        Ok(Operand::Special(special(part)))
    }

    /// `{a, b}`: registers, constants and `_`.
    fn vector(&mut self) -> Result<Operand> {
        self.tokens().expect("{")?;
        let mut parts = Vec::new();
        loop {
            let token = self.parser.tokens.token;
            parts.push(match self.value_in_brackets()? {
                part @ (Operand::Reg(_)
                | Operand::Int(_)
                | Operand::F32(_)
                | Operand::F64(_)
                | Operand::Special(_)
                | Operand::Sink) => part,
                _ => return Err(token.error("expected a register or a constant")),
            });
            if !self.tokens().accept(",")? {
                break;
            }
        }
        self.close("}")?;
        Ok(Operand::Vector(parts))
    }

    fn value_in_brackets(&mut self) -> Result<Operand> {
        self.tokens().enter()?;
        let value = self.value(false)?;
        self.tokens().leave();
        Ok(value)
    }

    fn close(&mut self, sign: &str) -> Result<()> {
        if self.tokens().accept(sign)? {
            return Ok(());
        }
        Err(self.tokens().expected(&format!("',' or '{sign}'")))
    }

    /// `(a, b)` of `call`.
    fn list(&mut self) -> Result<Operand> {
        self.tokens().expect("(")?;
        let mut parts = Vec::new();
        if self.tokens().accept(")")? {
            return Ok(Operand::List(parts));
        }
        loop {
            parts.push(self.value_in_brackets()?);
            if !self.tokens().accept(",")? {
                break;
            }
        }
        self.close(")")?;
        Ok(Operand::List(parts))
    }

    /// `[base + offset]`, or `[tensor, {a, b}]`.
    fn address(&mut self) -> Result<Operand> {
        self.tokens().expect("[")?;
        let (base, offset) = if self.tokens().at_constant() {
            (None, self.tokens().integer()?)
        } else {
            let name = self.tokens().name("an address")?;
            let base = self.base(&name)?;
            let offset = if self.tokens().at("+") { self.parser.offset()? } else { 0 };
            (Some(base), offset)
        };
        if self.tokens().accept("]")? {
            return Ok(Operand::Address { base, offset });
        }
        if self.tokens().at("-") {
            return Err(self.tokens().expected("'+' or ']' (a negative offset is '+ -4')"));
        }
        if !self.tokens().at(",") {
            return Err(self.tokens().expected("'+', ',' or ']'"));
        }
        let mut parts = vec![match (base, offset) {
            (Some(Base::Reg(reg)), 0) => Operand::Reg(reg),
            (Some(Base::Symbol(symbol)), offset) => Operand::Symbol { symbol, offset },
            (base, offset) => Operand::Address { base, offset },
        }];
        while self.tokens().accept(",")? {
            parts.push(self.value_in_brackets()?);
        }
        self.close("]")?;
        Ok(Operand::AddressList(parts))
    }

    fn base(&mut self, name: &Token<'a>) -> Result<Base> {
        match self.scopes.lookup(name.text) {
            Some(Name::Register { first, width: 1 }) => Ok(Base::Reg(first)),
            Some(other) => match self.symbol(other) {
                Some(symbol) => Ok(Base::Symbol(symbol)),
                None => Err(name.error("expected an address")),
            },
            None => self.module_symbol(name).map(Base::Symbol).ok_or_else(|| unknown(name)),
        }
    }
}
