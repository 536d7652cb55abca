//! Reading an instruction's modifiers, in the order the ISA gives them, with nothing left over.

use crate::syntax::ast::Instruction;
use crate::syntax::ty::Ty;
use crate::syntax::{Error, Result};

/// A cursor over the modifiers of one instruction.
pub struct Modifiers<'a> {
    instruction: &'a Instruction,
    next: usize,
}

impl<'a> Modifiers<'a> {
    pub fn new(instruction: &'a Instruction) -> Modifiers<'a> {
        Modifiers { instruction, next: 0 }
    }

    pub fn peek(&self) -> Option<&'a str> {
        self.instruction.modifiers.get(self.next).map(String::as_str)
    }

    /// Takes the next modifier if it is `name`.
    pub fn take(&mut self, name: &str) -> bool {
        let found = self.peek() == Some(name);
        self.next += usize::from(found);
        found
    }

    /// Takes the next modifier if it is one of the table's.
    pub fn choose<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let name = self.peek()?;
        let &(_, value) = table.iter().find(|(known, _)| *known == name)?;
        self.next += 1;
        Some(value)
    }

    /// Takes the next modifier, which has to be one of the table's.
    pub fn require<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T> {
        self.choose(table).ok_or_else(|| {
            let names: Vec<String> = table.iter().map(|(name, _)| format!(".{name}")).collect();
            self.unexpected(&names.join(", "))
        })
    }

    /// Takes the next modifier, which has to be exactly `name`.
    pub fn expect(&mut self, name: &str) -> Result<()> {
        if self.take(name) { Ok(()) } else { Err(self.unexpected(&format!(".{name}"))) }
    }

    /// Takes the next modifier if it is one of these types.
    pub fn choose_type(&mut self, allowed: &[Ty]) -> Option<Ty> {
        let ty = Ty::from_name(self.peek()?).filter(|ty| allowed.contains(ty))?;
        self.next += 1;
        Some(ty)
    }

    /// Takes the next modifier, which has to be one of these types.
    pub fn require_type(&mut self, allowed: &[Ty]) -> Result<Ty> {
        self.choose_type(allowed).ok_or_else(|| {
            let names: Vec<String> = allowed.iter().map(Ty::to_string).collect();
            self.unexpected(&names.join(", "))
        })
    }

    /// Every modifier has been taken.
    pub fn end(&self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(left) => Err(refuse(
                self.instruction,
                format!("modifier .{left} is not implemented here, or not legal here"),
            )),
        }
    }

    fn unexpected(&self, expected: &str) -> Error {
        let got = match self.peek() {
            Some(name) => format!("got .{name}"),
            None => "got none".to_owned(),
        };
        refuse(self.instruction, format!("expected {expected} as the next modifier, {got}"))
    }
}

/// An error about an instruction as a whole.
pub fn refuse(instruction: &Instruction, what: impl Into<String>) -> Error {
    Error::new(instruction.pos, what, mnemonic(instruction))
}

/// `mma.sync.aligned.m16n8k16…`.
pub fn mnemonic(instruction: &Instruction) -> String {
    let mut name = instruction.opcode.clone();
    for modifier in &instruction.modifiers {
        name.push('.');
        name.push_str(modifier);
    }
    name
}
