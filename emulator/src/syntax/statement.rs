//! Bodies of functions: declarations, labels and instructions. Manual: "Syntax", section
//! "Statements", and "Instruction Set", section "Predicated Execution".

use std::collections::HashSet;

use super::ast::{Function, Guard, Instruction, Space, Statement};
use super::error::Result;
use super::lexer::{Kind, Token};
use super::parser::Parser;
use super::scope::{Name, Scopes};
use super::tokens::Tokens;
use super::ty::Ty;
use super::variable::space;

pub struct Body<'p, 'a> {
    pub parser: &'p mut Parser<'a>,
    pub scopes: Scopes<'a>,
    pub function: Function,
    /// The unique names of the lists of branch targets; [`Name::Table`] indexes it.
    pub tables: Vec<String>,
    table_names: HashSet<&'a str>,
}

impl<'p, 'a> Body<'p, 'a> {
    pub fn new(parser: &'p mut Parser<'a>, scopes: Scopes<'a>, function: Function) -> Self {
        Body { parser, scopes, function, tables: Vec::new(), table_names: HashSet::new() }
    }

    pub fn finish(mut self) -> Result<Function> {
        self.scopes.finish(&mut self.function)?;
        Ok(self.function)
    }

    pub fn tokens(&mut self) -> &mut Tokens<'a> {
        &mut self.parser.tokens
    }

    /// `{ ... }`. Blocks are kept on a stack of their own, not on the thread's.
    pub fn parse(&mut self) -> Result<()> {
        self.tokens().expect("{")?;
        let mut blocks = 0;
        loop {
            if self.tokens().accept("{")? {
                self.tokens().enter()?;
                self.scopes.open();
                blocks += 1;
            } else if self.tokens().accept("}")? {
                if blocks == 0 {
                    return Ok(());
                }
                self.tokens().leave();
                self.scopes.close();
                blocks -= 1;
            } else {
                self.statement()?;
            }
        }
    }

    fn statement(&mut self) -> Result<()> {
        let token = self.parser.tokens.token;
        match token.kind {
            Kind::Dot => self.directive(),
            Kind::Name => {
                self.tokens().advance()?;
                if self.tokens().accept(":")? {
                    self.label(&token)
                } else {
                    self.instruction(token, None)
                }
            }
            Kind::Sign if token.text == "@" => {
                self.tokens().advance()?;
                let guard = self.guard()?;
                let opcode = self.tokens().name("an instruction")?;
                self.instruction(opcode, Some(guard))
            }
            Kind::End => Err(self.tokens().expected("'}' of the function's body")),
            _ => Err(self.tokens().expected("an instruction")),
        }
    }

    /// `%p` or `!%p` behind `@`.
    fn guard(&mut self) -> Result<Guard> {
        let negated = self.tokens().accept("!")?;
        let name = self.tokens().name("a predicate")?;
        match self.scopes.lookup(name.text) {
            Some(Name::Register { first: reg, width: 1 }) => {
                let ty = self.scopes.register(reg).ty;
                if ty != Ty::Pred {
                    let what = format!("a guard is a .pred, and '{}' is {ty}", name.text);
                    return Err(name.error(what));
                }
                Ok(Guard { reg, negated })
            }
            Some(_) => Err(name.error("expected a predicate")),
            None => Err(unknown(&name)),
        }
    }

    fn instruction(&mut self, opcode: Token<'a>, guard: Option<Guard>) -> Result<()> {
        if !opcode.text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(opcode.error("expected an instruction"));
        }
        let mut modifiers = Vec::new();
        while self.parser.tokens.token.kind == Kind::Dot {
            modifiers.push(self.tokens().advance()?.text[1..].to_owned());
        }
        let is_call = opcode.text == "call";
        let mut operands = Vec::new();
        if !self.tokens().accept(";")? {
            loop {
                operands.push(self.operand(is_call)?);
                if !self.parser.comma_or_semicolon()? {
                    break;
                }
            }
        }
        self.function.body.push(Statement::Instruction(Instruction {
            pos: opcode.pos,
            guard,
            opcode: opcode.text.into(),
            modifiers,
            operands,
        }));
        Ok(())
    }

    /// What follows `name:`.
    fn label(&mut self, name: &Token<'a>) -> Result<()> {
        let token = self.parser.tokens.token;
        match token.text {
            ".branchtargets" => self.branch_targets(name),
            ".callprototype" | ".calltargets" => Err(self.parser.unsupported(&token)),
            _ => {
                let label = self.scopes.define_label(name)?;
                self.function.body.push(Statement::Label(label));
                Ok(())
            }
        }
    }

    /// `name: .branchtargets a, b;`
    fn branch_targets(&mut self, name: &Token<'a>) -> Result<()> {
        self.tokens().advance()?;
        self.scopes.declare(name, Name::Table(self.tables.len() as u32))?;
        let mut labels = Vec::new();
        loop {
            let label = self.tokens().name("a label")?;
            labels.push(self.scopes.label(&label));
            if !self.parser.comma_or_semicolon()? {
                break;
            }
        }
        // Blocks may use a name again. `#` cannot stand in a name of the source.
        let unique = match self.table_names.insert(name.text) {
            true => name.text.to_owned(),
            false => format!("{}#{}", name.text, self.tables.len()),
        };
        self.tables.push(unique.clone());
        self.function.body.push(Statement::BranchTargets { name: unique, labels });
        Ok(())
    }

    fn directive(&mut self) -> Result<()> {
        if self.parser.annotation()? {
            return Ok(());
        }
        let token = self.parser.tokens.token;
        if let Some(space) = space(token.text) {
            self.tokens().advance()?;
            return self.variables(space);
        }
        match token.text {
            ".reg" => self.registers(),
            ".branchtargets" => Err(token.error("'.branchtargets' needs a label before it")),
            ".extern" | ".visible" | ".weak" | ".common" | ".section" | ".entry" | ".func" => {
                Err(token.error(format!("'{}' stands outside of functions only", token.text)))
            }
            ".callprototype" | ".calltargets" | ".sreg" | ".texref" | ".samplerref"
            | ".surfref" => Err(self.parser.unsupported(&token)),
            _ => Err(token.error(format!("unknown directive '{}'", token.text))),
        }
    }

    /// `.reg .v4 .f32 %v, %f<10>;`
    fn registers(&mut self) -> Result<()> {
        self.tokens().advance()?;
        let shape = self.parser.shape()?;
        loop {
            let name = self.tokens().name("the name of a register")?;
            if self.tokens().accept("<")? {
                let count = self.tokens().count("a number of registers")?;
                self.tokens().expect(">")?;
                self.scopes.declare_range(&name, shape.ty, shape.width, count)?;
            } else {
                self.scopes.declare_register(&name, shape.ty, shape.width)?;
            }
            if !self.parser.comma_or_semicolon()? {
                return Ok(());
            }
        }
    }

    /// `.shared .b8 name[16], other;` behind the state space.
    fn variables(&mut self, space: Space) -> Result<()> {
        let shape = self.parser.memory_shape()?;
        loop {
            let name = self.tokens().name("the name of a variable")?;
            let mut variable = self.parser.variable(&name, space, Default::default(), shape)?;
            if matches!(space, Space::Global | Space::Const) {
                // It lives as long as the module. `#` cannot stand in a name of the source.
                let index = self.parser.module.variables.len();
                variable.name = format!("{}#{}#{index}", self.function.name, name.text);
                self.scopes.declare(&name, Name::Global(index))?;
                self.parser.module.variables.push(variable);
            } else {
                if variable.size == 0 {
                    let what = format!("the size of '{}' is not known", name.text);
                    return Err(name.error(what));
                }
                let id = super::ast::VarId(self.function.variables.len() as u32);
                self.scopes.declare(&name, Name::Variable(id))?;
                self.function.variables.push(variable);
            }
            if !self.parser.comma_or_semicolon()? {
                return Ok(());
            }
        }
    }
}

pub fn unknown(name: &Token) -> super::error::Error {
    let kind = if name.text.starts_with('%') { "register" } else { "identifier" };
    name.error(format!("unknown {kind} '{}'", name.text))
}
