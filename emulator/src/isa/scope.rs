//! Operands to slots: what every decoder asks for its sources, destinations and addresses.
//!
//! A scope lives as long as the decoding of one kernel. Types are checked here by the ISA's rule: a register stands for
//! an instruction type of the same size when both are integers, both are floats, or one of them is untyped bits; loads,
//! stores and `cvt` also take wider registers.

use std::collections::HashMap;

use super::modifiers::refuse;
use crate::lanes::{Condition, Predicate, Slot};
use crate::matrix::Sums;
use crate::syntax::ast::{Base, Instruction, Linkage, Operand, RegId, Space, Special, Symbol};
use crate::syntax::ast::{Function, Variable};
use crate::syntax::ty::{Kind, Ty};
use crate::syntax::{Error, Result};

/// Where a register of the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Row(Slot),
    Predicate(Predicate),
}

impl Place {
    /// Index into [`crate::lanes::Registers::written`] of a register file with this many rows.
    pub fn index(self, rows: u32) -> u32 {
        match self {
            Place::Row(slot) => slot.0,
            Place::Predicate(predicate) => rows + predicate.0,
        }
    }
}

/// A row with a value that is known before the warp starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Preset {
    /// The same bits in every lane.
    Value(u64),
    Special(Special),
    /// The address of a variable of the module, plus an offset.
    Variable {
        name: String,
        offset: i64,
    },
    /// Behind the last static shared variable, plus an offset.
    DynamicShared {
        offset: i64,
    },
}

/// A row, what it holds, and whether its lanes have 64 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct PresetRow {
    pub slot: Slot,
    pub preset: Preset,
    pub wide: bool,
}

/// `[base + offset]`: a 64-bit slot (or a 32-bit one when `narrow`), and bytes to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub base: Slot,
    /// The base is a 32-bit register, as shared and local addresses often are.
    pub narrow: bool,
    pub offset: i64,
    /// The state space of the symbol the address starts from, if it starts from one.
    pub space: Option<Space>,
}

/// Where a memory parameter of a function is, once its call is inlined.
#[derive(Debug, Clone, Copy)]
pub enum Memory {
    /// Bytes into the kernel's parameters.
    Kernel(u64),
    /// Bytes into the thread's local memory.
    Local(u64),
}

/// The function that is being decoded: its registers and its memory.
#[derive(Debug)]
pub struct Frame<'a> {
    pub function: &'a Function,
    pub places: Vec<Place>,
    /// Where `function.params` are.
    pub params: Vec<Memory>,
    pub returns: Vec<Memory>,
    /// Where `function.variables` are, those in local memory and `.param` ones.
    locals: HashMap<u32, u64>,
}

/// See the module.
pub struct Scope<'a> {
    variables: &'a [Variable],
    pub frame: Frame<'a>,
    /// `sm_80` is 80.
    pub target: u32,
    /// The module is for exactly this target: `sm_90a`.
    pub is_specific: bool,
    /// How the device's matrix instructions add.
    pub sums: Sums,
    instruction: Option<&'a Instruction>,
    pub rows: u32,
    pub predicates: u32,
    pub presets: Vec<PresetRow>,
    values: HashMap<(u64, bool), Slot>,
    /// Static shared variables placed so far, by name; names of a body carry their function and index.
    shared: HashMap<String, u64>,
    pub shared_bytes: u64,
    pub shared_align: u64,
    pub local_bytes: u64,
    /// Registers that the instruction reads and writes.
    pub reads: Vec<Place>,
    pub writes: Vec<Place>,
    /// The instruction reads a register that changes while it runs, such as `%clock`.
    pub is_dynamic: bool,
    /// Every register that the source names.
    pub names: Vec<(Place, String, Ty)>,
    always: Option<Predicate>,
    carry: Option<Predicate>,
}

impl<'a> Scope<'a> {
    /// The scope of an entry's body.
    pub fn new(variables: &'a [Variable], frame: &'a Function) -> Scope<'a> {
        let mut scope = Scope {
            variables,
            frame: Frame {
                function: frame,
                places: Vec::new(),
                params: Vec::new(),
                returns: Vec::new(),
                locals: HashMap::new(),
            },
            target: 0,
            is_specific: false,
            sums: Sums::InTurn,
            instruction: None,
            rows: 0,
            predicates: 0,
            presets: Vec::new(),
            values: HashMap::new(),
            shared: HashMap::new(),
            shared_bytes: 0,
            shared_align: 1,
            local_bytes: 0,
            reads: Vec::new(),
            writes: Vec::new(),
            is_dynamic: false,
            names: Vec::new(),
            always: None,
            carry: None,
        };
        let mut end = 0;
        for param in &frame.params {
            scope.frame.params.push(Memory::Kernel(append(&mut end, param)));
        }
        scope.frame.places = scope.place_registers(frame);
        scope
    }

    /// Rows for every register of a function.
    fn place_registers(&mut self, function: &Function) -> Vec<Place> {
        let mut places = Vec::with_capacity(function.registers.len());
        for register in &function.registers {
            let place = match register.ty {
                Ty::Pred => Place::Predicate(self.new_predicate()),
                ty => Place::Row(self.new_rows(ty.bits() > 32)),
            };
            self.names.push((place, register.name.clone(), register.ty));
            places.push(place);
        }
        places
    }

    /// Enters an inlined call; gives back the caller's frame for [`Scope::leave`].
    pub fn enter(
        &mut self,
        function: &'a Function,
        params: Vec<Memory>,
        returns: Vec<Memory>,
    ) -> Frame<'a> {
        let places = self.place_registers(function);
        let frame = Frame { function, places, params, returns, locals: HashMap::new() };
        std::mem::replace(&mut self.frame, frame)
    }

    pub fn leave(&mut self, caller: Frame<'a>) {
        self.frame = caller;
    }

    /// Begins an instruction: forgets what the last one read and wrote.
    pub fn begin(&mut self, instruction: &'a Instruction) {
        self.instruction = Some(instruction);
        self.reads.clear();
        self.writes.clear();
        self.is_dynamic = false;
    }

    /// An error at this instruction.
    pub fn refuse(&self, what: impl Into<String>) -> Error {
        match self.instruction {
            Some(instruction) => refuse(instruction, what),
            None => Error::new(self.frame.function.pos, what, &self.frame.function.name),
        }
    }

    /// The instruction exists since an architecture that the module does not target.
    pub fn needs_target(&self, target: u32) -> Result<()> {
        if self.target >= target {
            return Ok(());
        }
        Err(self.refuse(format!("needs .target sm_{target}, the module's is sm_{}", self.target)))
    }

    /// The instruction exists on one architecture alone: `sm_90a`.
    pub fn needs_specific_target(&self, target: u32) -> Result<()> {
        if self.target == target && self.is_specific {
            return Ok(());
        }
        let suffix = if self.is_specific { "a" } else { "" };
        Err(self.refuse(format!(
            "needs .target sm_{target}a, the module's is sm_{}{suffix}",
            self.target
        )))
    }

    /// The instruction has as many operands as it should.
    pub fn expect_operands(&self, allowed: std::ops::RangeInclusive<usize>) -> Result<()> {
        let count = self.instruction.map_or(0, |instruction| instruction.operands.len());
        if allowed.contains(&count) {
            return Ok(());
        }
        let (low, high) = (allowed.start(), allowed.end());
        let expected = if low == high { format!("{low}") } else { format!("{low} to {high}") };
        Err(self.refuse(format!("{expected} operands expected, got {count}")))
    }

    fn new_rows(&mut self, wide: bool) -> Slot {
        let slot = Slot(self.rows);
        self.rows += if wide { 2 } else { 1 };
        slot
    }

    fn new_predicate(&mut self) -> Predicate {
        self.predicates += 1;
        Predicate(self.predicates - 1)
    }

    /// The condition code: the carry of `.cc`.
    pub fn carry(&mut self) -> Predicate {
        let carry = match self.carry {
            Some(carry) => carry,
            None => self.new_predicate(),
        };
        self.carry = Some(carry);
        carry
    }

    /// A row that nothing in the source names.
    pub fn scratch(&mut self, wide: bool) -> Slot {
        self.new_rows(wide)
    }

    /// A row of one value.
    pub fn constant(&mut self, value: u64, wide: bool) -> Slot {
        if let Some(&slot) = self.values.get(&(value, wide)) {
            return slot;
        }
        let slot = self.preset(Preset::Value(value), wide);
        self.values.insert((value, wide), slot);
        slot
    }

    fn preset(&mut self, preset: Preset, wide: bool) -> Slot {
        let slot = self.new_rows(wide);
        self.presets.push(PresetRow { slot, preset, wide });
        slot
    }

    fn register(&self, id: RegId) -> (Place, Ty, &'a str) {
        let register = &self.frame.function.registers[id.0 as usize];
        (self.frame.places[id.0 as usize], register.ty, &register.name)
    }

    /// A source of exactly this type: a register, an immediate, a special register or an address.
    pub fn source(&mut self, operand: &Operand, ty: Ty) -> Result<Slot> {
        Ok(self.typed_source(operand, ty, false)?.0)
    }

    /// A source whose register may be wider than the type; also gives the register's type.
    pub fn wide_source(&mut self, operand: &Operand, ty: Ty) -> Result<(Slot, Ty)> {
        self.typed_source(operand, ty, true)
    }

    fn typed_source(&mut self, operand: &Operand, ty: Ty, wider: bool) -> Result<(Slot, Ty)> {
        match operand {
            Operand::Reg(id) => {
                let (place, declared, name) = self.register(*id);
                let Place::Row(slot) = place else {
                    return Err(self.refuse(format!("{name} is a predicate, {ty} expected")));
                };
                self.check_type(name, declared, ty, wider)?;
                self.reads.push(place);
                Ok((slot, declared))
            }
            Operand::Special(special) => {
                let declared = special_type(*special);
                self.check_type("the special register", declared, ty, wider)?;
                Ok((self.special(*special), declared))
            }
            Operand::Symbol { symbol, offset } => {
                if ty.bits() < 32 || ty.kind() == Kind::Float {
                    return Err(self.refuse(format!("an address does not fit {ty}")));
                }
                let (slot, _) = self.symbol(symbol, *offset, ty.bits() == 64)?;
                Ok((slot, ty))
            }
            _ => {
                let bits = self.immediate(operand, ty)?;
                Ok((self.constant(bits, ty.bits() > 32), ty))
            }
        }
    }

    /// A value written in the text, as the bits of a type.
    pub fn immediate(&self, operand: &Operand, ty: Ty) -> Result<u64> {
        let bits = ty.bits();
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        let is_float = ty.kind() == Kind::Float || ty.is_alternate();
        match (operand, ty) {
            (Operand::Int(value), _) if !is_float => {
                let fits = *value >= -(1i128 << 63) && *value < 1i128 << 64;
                if fits {
                    Ok(*value as u64 & mask)
                } else {
                    Err(self.refuse("the integer does not fit 64 bits"))
                }
            }
            (Operand::F32(bits), Ty::F32 | Ty::B32) => Ok(u64::from(*bits)),
            (Operand::F32(bits), Ty::F64) => Ok(f64::from(f32::from_bits(*bits)).to_bits()),
            (Operand::F64(bits), Ty::F32 | Ty::B32) => {
                Ok(u64::from((f64::from_bits(*bits) as f32).to_bits()))
            }
            (Operand::F64(bits), Ty::F64 | Ty::B64) => Ok(*bits),
            _ => Err(self.refuse(format!("{} is not a {ty} value", describe(operand)))),
        }
    }

    fn special(&mut self, special: Special) -> Slot {
        self.is_dynamic |= is_dynamic(special);
        let known = self.presets.iter().find(|row| row.preset == Preset::Special(special));
        if let Some(row) = known {
            return row.slot;
        }
        self.preset(Preset::Special(special), special_type(special).bits() > 32)
    }

    /// A destination of exactly this type.
    pub fn destination(&mut self, operand: &Operand, ty: Ty) -> Result<Slot> {
        Ok(self.typed_destination(operand, ty, false)?.0)
    }

    /// A destination whose register may be wider than the type; also gives the register's type.
    pub fn wide_destination(&mut self, operand: &Operand, ty: Ty) -> Result<(Slot, Ty)> {
        self.typed_destination(operand, ty, true)
    }

    fn typed_destination(&mut self, operand: &Operand, ty: Ty, wider: bool) -> Result<(Slot, Ty)> {
        let Operand::Reg(id) = operand else {
            return Err(self.refuse(format!("{} cannot be a destination", describe(operand))));
        };
        let (place, declared, name) = self.register(*id);
        let Place::Row(slot) = place else {
            return Err(self.refuse(format!("{name} is a predicate, {ty} expected")));
        };
        self.check_type(name, declared, ty, wider)?;
        self.writes.push(place);
        Ok((slot, declared))
    }

    /// A destination that may be `_`: then a row that nobody reads.
    pub fn destination_or_sink(&mut self, operand: &Operand, ty: Ty) -> Result<Slot> {
        match operand {
            Operand::Sink => Ok(self.scratch(ty.bits() > 32)),
            _ => self.destination(operand, ty),
        }
    }

    /// `N` sources and a destination, all of one type.
    pub fn uniform<const N: usize>(&mut self, ty: Ty) -> Result<(Slot, [Slot; N])> {
        self.expect_operands(N + 1..=N + 1)?;
        let operands = self.instruction.map_or(&[][..], |instruction| &instruction.operands);
        let mut sources = [Slot(0); N];
        for (slot, operand) in sources.iter_mut().zip(&operands[1..]) {
            *slot = self.source(operand, ty)?;
        }
        Ok((self.destination(&operands[0], ty)?, sources))
    }

    fn check_type(&self, name: &str, declared: Ty, ty: Ty, wider: bool) -> Result<()> {
        let size = if wider { declared.bits() >= ty.bits() } else { declared.bits() == ty.bits() };
        let kinds = (declared.kind(), ty.kind());
        let kind = match ty {
            // Alternate formats are only in untyped registers, of their own size.
            ty if ty.is_alternate() => kinds.0 == Kind::Bits && declared.bits() == ty.bits(),
            // A pair of halves is no f32.
            _ if kinds == (Kind::Float, Kind::Float) => {
                (declared == Ty::F16x2) == (ty == Ty::F16x2)
            }
            _ => kinds.0 == kinds.1 || kinds.0 == Kind::Bits || kinds.1 == Kind::Bits,
        };
        if declared == Ty::B128 || ty == Ty::B128 {
            return Err(self.refuse("128-bit registers are not implemented"));
        }
        if size && kind && declared != Ty::Pred {
            return Ok(());
        }
        Err(self.refuse(format!("{name} is a register of type {declared}, {ty} expected")))
    }

    /// A predicate or its negation, or 0 or 1.
    pub fn condition(&mut self, operand: &Operand) -> Result<Condition> {
        let (id, negated) = match operand {
            Operand::Reg(id) => (id, false),
            Operand::Not(id) => (id, true),
            // No register: a predicate that is never written, and so always false.
            Operand::Int(value @ (0 | 1)) => {
                let predicate = match self.always {
                    Some(predicate) => predicate,
                    None => self.new_predicate(),
                };
                self.always = Some(predicate);
                return Ok(Condition { predicate, negated: *value == 1 });
            }
            _ => return Err(self.refuse(format!("{} is not a predicate", describe(operand)))),
        };
        let (place, declared, name) = self.register(*id);
        let Place::Predicate(predicate) = place else {
            return Err(
                self.refuse(format!("{name} is a register of type {declared}, .pred expected"))
            );
        };
        self.reads.push(place);
        Ok(Condition { predicate, negated })
    }

    /// A predicate to write; `_` is one that nobody reads.
    pub fn predicate(&mut self, operand: &Operand) -> Result<Predicate> {
        let id = match operand {
            Operand::Reg(id) => id,
            Operand::Sink => return Ok(self.new_predicate()),
            _ => return Err(self.refuse(format!("{} is not a predicate", describe(operand)))),
        };
        let (place, declared, name) = self.register(*id);
        let Place::Predicate(predicate) = place else {
            return Err(
                self.refuse(format!("{name} is a register of type {declared}, .pred expected"))
            );
        };
        self.writes.push(place);
        Ok(predicate)
    }

    /// The elements of `{a, b}`; one operand without braces is a vector of one.
    pub fn elements(operand: &Operand) -> &[Operand] {
        match operand {
            Operand::Vector(elements) => elements,
            one => std::slice::from_ref(one),
        }
    }

    /// `[register]`, `[register + offset]`, `[symbol]`, `[symbol + offset]` or `[constant]`.
    pub fn address(&mut self, operand: &Operand) -> Result<Address> {
        let Operand::Address { base, offset } = operand else {
            return Err(self.refuse(format!("{} is not an address", describe(operand))));
        };
        match base {
            None => {
                let base = self.constant(*offset as u64, true);
                Ok(Address { base, narrow: false, offset: 0, space: None })
            }
            Some(Base::Reg(id)) => {
                let (place, declared, name) = self.register(*id);
                let narrow = declared.bits() == 32;
                let (Place::Row(slot), true) = (place, narrow || declared.bits() == 64) else {
                    return Err(
                        self.refuse(format!("{name} of type {declared} cannot hold an address"))
                    );
                };
                if declared.kind() == Kind::Float {
                    return Err(
                        self.refuse(format!("{name} of type {declared} cannot hold an address"))
                    );
                }
                self.reads.push(place);
                Ok(Address { base: slot, narrow, offset: *offset, space: None })
            }
            Some(Base::Symbol(symbol)) => {
                let (base, space) = self.symbol(symbol, *offset, true)?;
                Ok(Address { base, narrow: false, offset: 0, space: Some(space) })
            }
        }
    }

    /// A row with the address of a symbol in its own space; a `.param` of an inlined call is in local memory.
    pub fn symbol(&mut self, symbol: &Symbol, offset: i64, wide: bool) -> Result<(Slot, Space)> {
        let place = match symbol {
            Symbol::Param(index) => Some(self.frame.params[*index as usize]),
            Symbol::Return(index) => Some(self.frame.returns[*index as usize]),
            Symbol::Local(id) => {
                let function = self.frame.function;
                let variable = &function.variables[id.0 as usize];
                if variable.space == Space::Shared {
                    let key = format!("{}#{}", function.name, id.0);
                    return self.shared_variable(variable, key, offset, wide);
                }
                Some(Memory::Local(self.local_variable(id.0, variable)))
            }
            Symbol::Global(name) => {
                let variable = self.variables.iter().find(|variable| variable.name == *name);
                let variable =
                    variable.ok_or_else(|| self.refuse(format!("unknown variable {name}")))?;
                if variable.space == Space::Shared {
                    return self.shared_variable(variable, name.clone(), offset, wide);
                }
                if !wide {
                    return Err(self.refuse(format!("the address of {name} has 64 bits")));
                }
                let preset = Preset::Variable { name: name.clone(), offset };
                let known =
                    self.presets.iter().find(|row| row.preset == preset).map(|row| row.slot);
                let slot = known.unwrap_or_else(|| self.preset(preset, true));
                return Ok((slot, variable.space));
            }
            Symbol::Function(name) => {
                return Err(
                    self.refuse(format!("the address of function {name} is not implemented"))
                );
            }
        };
        let (start, space) = match place {
            Some(Memory::Kernel(start)) => (start, Space::Param),
            Some(Memory::Local(start)) => (start, Space::Local),
            None => unreachable!("every arm above gives a place or returns"),
        };
        Ok((self.constant(start.wrapping_add(offset as u64), wide), space))
    }

    /// Bytes into local memory of a body's variable.
    pub fn local_variable(&mut self, id: u32, variable: &Variable) -> u64 {
        if let Some(&start) = self.frame.locals.get(&id) {
            return start;
        }
        let start = append(&mut self.local_bytes, variable);
        self.frame.locals.insert(id, start);
        start
    }

    fn shared_variable(
        &mut self,
        variable: &Variable,
        key: String,
        offset: i64,
        wide: bool,
    ) -> Result<(Slot, Space)> {
        self.shared_align = self.shared_align.max(u64::from(variable.align));
        if variable.linkage == Linkage::Extern && variable.size == 0 {
            let preset = Preset::DynamicShared { offset };
            let known = self.presets.iter().find(|row| row.preset == preset && row.wide == wide);
            let known = known.map(|row| row.slot);
            return Ok((known.unwrap_or_else(|| self.preset(preset, wide)), Space::Shared));
        }
        let start = match self.shared.get(&key) {
            Some(&start) => start,
            None => {
                let start = append(&mut self.shared_bytes, variable);
                self.shared.insert(key, start);
                start
            }
        };
        Ok((self.constant(start.wrapping_add(offset as u64), wide), Space::Shared))
    }
}

/// Places a variable behind what ends at `end`; absurd sizes end at the last address, and are refused when all are placed.
pub fn append(end: &mut u64, variable: &Variable) -> u64 {
    let align = u64::from(variable.align.max(1));
    let start = end.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    *end = start.saturating_add(variable.size);
    start
}

fn special_type(special: Special) -> Ty {
    match special {
        Special::Clock64 | Special::GlobalTimer | Special::GridId => Ty::U64,
        _ => Ty::U32,
    }
}

/// Whether a special register changes while a warp runs.
pub fn is_dynamic(special: Special) -> bool {
    matches!(
        special,
        Special::Clock
            | Special::ClockHi
            | Special::Clock64
            | Special::GlobalTimer
            | Special::GlobalTimerLo
            | Special::GlobalTimerHi
    )
}

/// An operand's kind, for messages.
pub fn describe(operand: &Operand) -> &'static str {
    match operand {
        Operand::Reg(_) => "a register",
        Operand::Not(_) => "a negated predicate",
        Operand::Int(_) => "an integer",
        Operand::F32(_) | Operand::F64(_) => "a floating-point number",
        Operand::Vector(_) => "a vector",
        Operand::Address { .. } | Operand::AddressList(_) => "an address in brackets",
        Operand::Symbol { .. } => "a symbol",
        Operand::Special(_) => "a special register",
        Operand::Label(_) => "a label",
        Operand::Sink => "'_'",
        Operand::Pair(..) => "a pair",
        Operand::List(_) => "a list in parentheses",
        Operand::Table(_) => "a table",
    }
}
