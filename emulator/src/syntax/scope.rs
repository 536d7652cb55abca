//! The names of a function's body: registers, variables and labels of nested blocks.

use std::collections::HashMap;

use super::ast::{Function, LabelId, Operand, RegId, Register, Statement, VarId};
use super::error::{Error, Result};
use super::lexer::Token;
use super::ty::Ty;

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub enum Name {
    /// The first of `width` registers; a scalar has 1, `.v4` has 4.
    Register {
        first: RegId,
        width: u8,
    },
    Variable(VarId),
    Param(u32),
    Return(u32),
    /// A `.global` or `.const` variable that the body declares: its index in the module.
    Global(usize),
    /// A name of `.branchtargets`: its index among the function's.
    Table(u32),
}

/// All names that end in a number, by what stands before it: `%r` for `%r12`.
#[derive(Debug, Clone, Copy)]
struct Range {
    /// `%r<10>` is 10; 0 if only single names are declared.
    count: u32,
    /// The lowest number of a singly declared name.
    lowest: u32,
    ty: Ty,
    width: u8,
}

#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Name>,
    ranges: HashMap<&'a str, Range>,
    /// Defined in this block, or used in it and perhaps defined further down or further out.
    labels: HashMap<&'a str, LabelId>,
}

struct Label<'a> {
    /// Where it is named for the first time.
    name: Token<'a>,
    defined: bool,
    /// The label of an outer block that it turned out to be.
    same_as: Option<LabelId>,
}

/// At most this many registers may be declared in one function.
const MAX_REGISTERS: u64 = 1_000_000;

/// The component names of a vector register.
const COMPONENTS: [char; 4] = ['x', 'y', 'z', 'w'];

pub struct Scopes<'a> {
    /// From the outermost block to the current one; never empty.
    scopes: Vec<Scope<'a>>,
    registers: Vec<Register>,
    labels: Vec<Label<'a>>,
    declared: u64,
}

impl<'a> Scopes<'a> {
    pub fn new() -> Scopes<'a> {
        Scopes {
            scopes: vec![Scope::default()],
            registers: Vec::new(),
            labels: Vec::new(),
            declared: 0,
        }
    }

    pub fn register(&self, reg: RegId) -> &Register {
        &self.registers[reg.0 as usize]
    }

    pub fn types(&self, registers: &[RegId]) -> Vec<Ty> {
        registers.iter().map(|&reg| self.register(reg).ty).collect()
    }

    fn scope(&mut self) -> &mut Scope<'a> {
        self.scopes.last_mut().expect("the outermost block stays")
    }

    pub fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    /// Ends a block; labels that it used and did not define are looked for further out.
    pub fn close(&mut self) {
        let Some(inner) = self.scopes.pop() else { return };
        for (name, id) in inner.labels {
            if self.labels[id.0 as usize].defined {
                continue;
            }
            let outer = *self.scope().labels.entry(name).or_insert(id);
            if outer != id {
                let name = self.labels[id.0 as usize].name;
                let target = &mut self.labels[outer.0 as usize];
                if name.pos < target.name.pos {
                    target.name = name;
                }
                self.labels[id.0 as usize].same_as = Some(outer);
            }
        }
    }

    /// Whether the current block declares `name` as something else than a label.
    fn is_declared(&self, name: &str) -> bool {
        let scope = &self.scopes[self.scopes.len() - 1];
        scope.names.contains_key(name)
            || split_number(name).is_some_and(|(prefix, number)| {
                scope.ranges.get(prefix).is_some_and(|range| number < range.count)
            })
    }

    /// Declares one name in the current block.
    pub fn declare(&mut self, name: &Token<'a>, meaning: Name) -> Result<()> {
        if self.is_declared(name.text) || self.scope().labels.contains_key(name.text) {
            return Err(duplicate(name));
        }
        let scope = self.scope();
        if let Some((prefix, number)) = split_number(name.text) {
            let range = scope.ranges.entry(prefix).or_insert(Range {
                count: 0,
                lowest: u32::MAX,
                ty: Ty::B32,
                width: 1,
            });
            range.lowest = range.lowest.min(number);
        }
        scope.names.insert(name.text, meaning);
        Ok(())
    }

    /// Declares `.reg .ty name`, or a vector of `width`.
    pub fn declare_register(&mut self, name: &Token<'a>, ty: Ty, width: u8) -> Result<RegId> {
        self.count_registers(name, width.into())?;
        let first = RegId(self.registers.len() as u32);
        self.declare(name, Name::Register { first, width })?;
        self.push_register(name.text, ty, width);
        Ok(first)
    }

    /// Declares `.reg .ty name<count>`. Its registers come to be as they are used.
    pub fn declare_range(&mut self, name: &Token<'a>, ty: Ty, width: u8, count: u64) -> Result<()> {
        if name.text.ends_with(|c: char| c.is_ascii_digit()) {
            return Err(name.error("the name before '<' must not end in a digit"));
        }
        self.count_registers(name, count.saturating_mul(width.into()))?;
        let count = count as u32;
        let ranges = &mut self.scope().ranges;
        let lowest = match ranges.get(name.text) {
            Some(range) if range.count > 0 || range.lowest < count => return Err(duplicate(name)),
            Some(range) => range.lowest,
            None => u32::MAX,
        };
        ranges.insert(name.text, Range { count, lowest, ty, width });
        Ok(())
    }

    fn count_registers(&mut self, name: &Token, count: u64) -> Result<()> {
        self.declared = self.declared.saturating_add(count);
        if self.declared > MAX_REGISTERS {
            return Err(name.error(format!("more than {MAX_REGISTERS} registers in a function")));
        }
        Ok(())
    }

    fn push_register(&mut self, name: &str, ty: Ty, width: u8) {
        if width == 1 {
            self.registers.push(Register { name: name.into(), ty });
        } else {
            for component in &COMPONENTS[..width.into()] {
                self.registers.push(Register { name: format!("{name}.{component}"), ty });
            }
        }
    }

    /// The innermost meaning of `name`, labels aside.
    pub fn lookup(&mut self, name: &'a str) -> Option<Name> {
        let numbered = split_number(name);
        for level in (0..self.scopes.len()).rev() {
            if let Some(&meaning) = self.scopes[level].names.get(name) {
                return Some(meaning);
            }
            let Some((prefix, number)) = numbered else { continue };
            match self.scopes[level].ranges.get(prefix) {
                Some(&Range { count, ty, width, .. }) if number < count => {
                    let first = RegId(self.registers.len() as u32);
                    self.push_register(name, ty, width);
                    let meaning = Name::Register { first, width };
                    self.scopes[level].names.insert(name, meaning);
                    return Some(meaning);
                }
                _ => {}
            }
        }
        None
    }

    /// The label that `name` means in the current block, wherever it is defined.
    pub fn label(&mut self, name: &Token<'a>) -> LabelId {
        let new = LabelId(self.labels.len() as u32);
        let id = *self.scope().labels.entry(name.text).or_insert(new);
        if id == new {
            self.labels.push(Label { name: *name, defined: false, same_as: None });
        }
        id
    }

    pub fn define_label(&mut self, name: &Token<'a>) -> Result<LabelId> {
        if self.is_declared(name.text) {
            return Err(duplicate(name));
        }
        let id = self.label(name);
        let label = &mut self.labels[id.0 as usize];
        if label.defined {
            return Err(name.error(format!("duplicate label '{}'", name.text)));
        }
        label.defined = true;
        Ok(id)
    }

    /// Fills in the function's registers and labels, and renumbers labels that are the same.
    pub fn finish(self, function: &mut Function) -> Result<()> {
        let missing = self.labels.iter().filter(|label| !label.defined && label.same_as.is_none());
        if let Some(label) = missing.min_by_key(|label| label.name.pos) {
            let what = format!("unknown identifier or label '{}'", label.name.text);
            return Err(label.name.error(what));
        }
        let mut renumbered = vec![LabelId(0); self.labels.len()];
        for (id, label) in self.labels.iter().enumerate() {
            if label.same_as.is_none() {
                renumbered[id] = LabelId(function.labels.len() as u32);
                function.labels.push(label.name.text.into());
            }
        }
        let resolve = |label: &mut LabelId| {
            while let Some(outer) = self.labels[label.0 as usize].same_as {
                *label = outer;
            }
            *label = renumbered[label.0 as usize];
        };
        for statement in &mut function.body {
            match statement {
                Statement::Label(label) => resolve(label),
                Statement::BranchTargets { labels, .. } => labels.iter_mut().for_each(resolve),
                Statement::Instruction(instruction) => {
                    for operand in &mut instruction.operands {
                        if let Operand::Label(label) = operand {
                            resolve(label);
                        }
                    }
                }
            }
        }
        function.registers = self.registers;
        Ok(())
    }
}

pub fn duplicate(name: &Token) -> Error {
    name.error(format!("duplicate declaration of '{}'", name.text))
}

/// `%r12` as `%r` and 12. A number with a leading zero is not one of a range's.
fn split_number(name: &str) -> Option<(&str, u32)> {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &name[prefix.len()..];
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    digits.parse().ok().map(|number| (prefix, number))
}
