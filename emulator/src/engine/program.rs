//! A module, decoded: calls inlined, labels resolved, every operand a slot.

use std::collections::HashMap;
use std::sync::Arc;

use crate::isa::memory::Space as AccessSpace;
use crate::isa::modifiers::{Modifiers, refuse};
use crate::isa::scope::{Memory, Place, PresetRow, Scope, append};
use crate::isa::{Class, Op, atomic, control, memory};
use crate::lanes::Condition;
use crate::matrix::Sums;
use crate::memory::Order;
use crate::syntax::ast::{Function, Instruction, Module, Operand, Pos, Space, Statement, Symbol};
use crate::syntax::ast::{LabelId, Variable};
use crate::syntax::ty::Ty;
use crate::syntax::{Error, Result, parse};

/// The most instructions of a kernel with its calls inlined.
const MAX_INSTRUCTIONS: usize = 4 << 20;
/// The most rows of its registers, immediates and special registers: 32 MiB a warp.
const MAX_ROWS: u32 = 1 << 18;

/// A loaded module.
#[derive(Debug)]
pub struct Program {
    /// `sm_80` is 80.
    pub target: u32,
    pub version: (u32, u32),
    kernels: Vec<Arc<Kernel>>,
    variables: Vec<Variable>,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Bytes into the parameter block.
    pub offset: u32,
    pub size: u32,
}

/// One `.entry`, ready to run.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Bytes of the parameter block.
    pub param_bytes: u32,
    /// Bytes of shared memory declared in the module.
    pub static_shared: u32,
    /// Where dynamic shared memory begins.
    pub(crate) dynamic_shared_start: u32,
    /// Bytes of local memory a thread.
    pub local_bytes: u32,
    /// 32-bit registers a thread would hold at most: those declared, not those that are alive at once.
    pub registers: u32,
    /// `.maxntid` or `.reqntid`, multiplied; 1024 without one.
    pub max_threads: u32,
    /// `.reqntid`; zeros without one.
    pub required_threads: [u32; 3],
    /// `.reqnctapercluster`.
    pub required_cluster: Option<[u32; 3]>,
    /// It has mbarriers, bulk copies, warpgroups or barriers of a cluster.
    pub(crate) is_asynchronous: bool,
    /// Blocks of a launch may depend on each other, so they run on one host thread in a fixed order.
    pub is_ordered: bool,
    pub(crate) instructions: Vec<Inst>,
    pub(crate) rows: u32,
    pub(crate) predicates: u32,
    pub(crate) presets: Vec<PresetRow>,
    /// Registers read and written, as indices into [`crate::lanes::Registers::written`].
    pub(crate) places: Vec<u32>,
    /// Names and types of registers, by their index in [`crate::lanes::Registers::written`].
    names: HashMap<u32, (String, Ty)>,
    /// log2 of the bytes of the narrowest store, by space: memory is never written in smaller pieces.
    pub(crate) shared_granule: u32,
    pub(crate) global_granule: u32,
    text: Arc<str>,
}

/// An instruction in the compact form.
#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub op: Op,
    pub guard: Option<Condition>,
    pub class: Class,
    /// It reads a special register that changes while a warp runs.
    pub is_dynamic: bool,
    pub reads: Span,
    pub writes: Span,
    pub pos: Pos,
}

/// A part of [`Kernel::places`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    start: u32,
    count: u32,
}

impl Span {
    #[inline]
    pub fn of(self, places: &[u32]) -> &[u32] {
        &places[self.start as usize..(self.start + self.count) as usize]
    }
}

impl Program {
    /// Parses and decodes a module for a device of an architecture (`sm_90` is 90).
    ///
    /// # Errors
    /// What is wrong with the text, or not implemented, and where. A module for a newer architecture is refused.
    pub fn load(text: &str, target: u32) -> Result<Program> {
        let module = parse(text)?;
        if module.target > target {
            let what = format!("the module is for sm_{}, the device is sm_{target}", module.target);
            return Err(Error::new(Pos { line: 1, column: 1 }, what, ".target"));
        }
        if let Some(suffix @ ('a' | 'f')) = module.target_suffix
            && (suffix == 'a' && module.target != target || module.target / 10 != target / 10)
        {
            let what = format!("sm_{}{suffix} does not run on sm_{target}", module.target);
            return Err(Error::new(Pos { line: 1, column: 1 }, what, ".target"));
        }
        let text: Arc<str> = text.into();
        let mut kernels = Vec::new();
        for function in module.functions.iter().filter(|function| function.is_entry) {
            kernels.push(Arc::new(build(&module, function, &text, target)?));
        }
        // Functions that no kernel calls are checked too.
        for function in module.functions.iter().filter(|function| !function.is_entry) {
            if !function.is_declaration && function.register_params.is_empty() {
                let mut builder = Builder::new(&module, function, target);
                builder.scope.frame.params.fill(Memory::Local(0));
                builder.scope.frame.returns = vec![Memory::Local(0); function.returns.len()];
                builder.body(function)?;
            }
        }
        Ok(Program {
            target: module.target,
            version: module.version,
            kernels,
            variables: module.variables,
        })
    }

    pub fn kernels(&self) -> &[Arc<Kernel>] {
        &self.kernels
    }

    pub fn kernel(&self, name: &str) -> Option<&Arc<Kernel>> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// Variables of the module's scope, those in shared memory included.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }
}

impl Kernel {
    /// The name and type of a register, by its index in [`crate::lanes::Registers::written`].
    pub(crate) fn register(&self, place: u32) -> Option<(&str, Ty)> {
        self.names.get(&place).map(|(name, ty)| (name.as_str(), *ty))
    }

    /// The text of its module.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Bytes of shared memory of a block, given its dynamic bytes.
    pub fn shared_bytes(&self, dynamic: u32) -> u32 {
        match dynamic {
            0 => self.static_shared,
            bytes => self.dynamic_shared_start + bytes,
        }
    }

    /// Instructions, with calls inlined.
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Whether there is no instruction: there always is one, the exit at the end.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// How many instructions of each class there are, as written; classes without one are left out.
    pub fn classes(&self) -> Vec<(Class, usize)> {
        let count = |class| self.instructions.iter().filter(|inst| inst.class == class).count();
        let all = Class::ALL.into_iter().map(|class| (class, count(class)));
        all.filter(|&(_, count)| count > 0).collect()
    }

    /// The text of an instruction, for reports.
    pub(crate) fn text_at(&self, pos: Pos) -> String {
        let line = self.text.lines().nth(pos.line.saturating_sub(1) as usize).unwrap_or("");
        line.trim().to_owned()
    }
}

fn build(module: &Module, function: &Function, text: &Arc<str>, device: u32) -> Result<Kernel> {
    let mut builder = Builder::new(module, function, device);
    builder.body(function)?;
    // Falling off the end is an exit.
    builder.push(Op::Control(control::Op::Exit), None, function.pos);
    builder.finish(function, text)
}

/// A jump whose label was not met yet.
struct Fixup {
    instruction: usize,
    /// Which entry of a branch table.
    entry: usize,
    label: LabelId,
}

struct Builder<'a> {
    module: &'a Module,
    scope: Scope<'a>,
    instructions: Vec<Inst>,
    places: Vec<Place>,
    /// Names of the functions being inlined.
    calls: Vec<&'a str>,
}

impl<'a> Builder<'a> {
    fn new(module: &'a Module, function: &'a Function, device: u32) -> Builder<'a> {
        let mut scope = Scope::new(&module.variables, function);
        scope.sums = Sums::of(device);
        scope.target = module.target;
        scope.is_specific = module.target_suffix == Some('a');
        Builder {
            module,
            scope,
            instructions: Vec::new(),
            places: Vec::new(),
            calls: vec![&function.name],
        }
    }

    fn push(&mut self, op: Op, guard: Option<Condition>, pos: Pos) {
        let reads = span(&mut self.places, &self.scope.reads);
        let writes = span(&mut self.places, &self.scope.writes);
        let (class, is_dynamic) = (op.class(), self.scope.is_dynamic);
        self.instructions.push(Inst { op, guard, class, is_dynamic, reads, writes, pos });
        self.scope.reads.clear();
        self.scope.writes.clear();
    }

    /// Decodes a body at the end of what there is; returns from it go behind its last instruction.
    fn body(&mut self, function: &'a Function) -> Result<()> {
        let mut labels: Vec<Option<u32>> = vec![None; function.labels.len()];
        let mut fixups = Vec::new();
        let mut returns = Vec::new();
        for statement in &function.body {
            if self.scope.rows > MAX_ROWS {
                let what = format!("more than {MAX_ROWS} registers with calls inlined");
                return Err(Error::new(function.pos, what, &function.name));
            }
            if self.instructions.len() > MAX_INSTRUCTIONS {
                let what = format!("more than {MAX_INSTRUCTIONS} instructions with calls inlined");
                return Err(Error::new(function.pos, what, &function.name));
            }
            match statement {
                Statement::Label(id) => labels[id.0 as usize] = Some(self.here()),
                Statement::BranchTargets { .. } => {}
                Statement::Instruction(instruction) => {
                    self.instruction(function, instruction, &mut fixups, &mut returns)?;
                }
            }
        }
        let end = self.here();
        for fixup in fixups {
            let target = labels[fixup.label.0 as usize].ok_or_else(|| {
                let name = &function.labels[fixup.label.0 as usize];
                Error::new(function.pos, format!("label {name} is not defined"), name)
            })?;
            match &mut self.instructions[fixup.instruction].op {
                Op::Control(control::Op::Branch(to)) => *to = target,
                Op::Control(control::Op::BranchTable { targets, .. }) => {
                    targets[fixup.entry] = target
                }
                _ => unreachable!("fixups are made for branches"),
            }
        }
        for index in returns {
            self.instructions[index].op = Op::Control(control::Op::Branch(end));
        }
        Ok(())
    }

    fn here(&self) -> u32 {
        self.instructions.len() as u32
    }

    fn instruction(
        &mut self,
        function: &'a Function,
        instruction: &'a Instruction,
        fixups: &mut Vec<Fixup>,
        returns: &mut Vec<usize>,
    ) -> Result<()> {
        self.scope.begin(instruction);
        let guard = match instruction.guard {
            Some(guard) if guard.negated => Some(self.scope.condition(&Operand::Not(guard.reg))?),
            Some(guard) => Some(self.scope.condition(&Operand::Reg(guard.reg))?),
            None => None,
        };
        let index = self.instructions.len();
        let op = match instruction.opcode.as_str() {
            "bra" => {
                let mut modifiers = Modifiers::new(instruction);
                modifiers.take("uni");
                modifiers.end()?;
                self.scope.expect_operands(1..=1)?;
                let Operand::Label(label) = instruction.operands[0] else {
                    return Err(refuse(instruction, "a label is expected"));
                };
                fixups.push(Fixup { instruction: index, entry: 0, label });
                control::Op::Branch(0)
            }
            "brx" => self.branch_table(function, instruction, fixups)?,
            "ret" => {
                let mut modifiers = Modifiers::new(instruction);
                modifiers.take("uni");
                modifiers.end()?;
                self.scope.expect_operands(0..=0)?;
                if self.calls.len() == 1 {
                    control::Op::Exit
                } else {
                    returns.push(index);
                    control::Op::Branch(0)
                }
            }
            "call" => return self.call(instruction, guard),
            _ => {
                let op = crate::isa::decode(instruction, &mut self.scope)?;
                self.push(op, guard, instruction.pos);
                return Ok(());
            }
        };
        self.push(Op::Control(op), guard, instruction.pos);
        Ok(())
    }

    fn branch_table(
        &mut self,
        function: &'a Function,
        instruction: &'a Instruction,
        fixups: &mut Vec<Fixup>,
    ) -> Result<control::Op> {
        let mut modifiers = Modifiers::new(instruction);
        modifiers.expect("idx")?;
        modifiers.take("uni");
        modifiers.end()?;
        self.scope.expect_operands(2..=2)?;
        let index = self.scope.source(&instruction.operands[0], Ty::U32)?;
        let Operand::Table(table) = &instruction.operands[1] else {
            return Err(refuse(instruction, "a list of .branchtargets is expected"));
        };
        let labels = function.body.iter().find_map(|statement| match statement {
            Statement::BranchTargets { name, labels } if name == table => Some(labels),
            _ => None,
        });
        let labels =
            labels.ok_or_else(|| refuse(instruction, format!("no .branchtargets {table}")))?;
        let here = self.instructions.len();
        for (entry, &label) in labels.iter().enumerate() {
            fixups.push(Fixup { instruction: here, entry, label });
        }
        Ok(control::Op::BranchTable { index, targets: vec![0; labels.len()].into() })
    }

    /// `call (returns), function, (arguments);` with the arguments and returns optional.
    fn call(&mut self, instruction: &'a Instruction, guard: Option<Condition>) -> Result<()> {
        let mut modifiers = Modifiers::new(instruction);
        modifiers.take("uni");
        modifiers.end()?;
        let is_name = |operand: &Operand| {
            matches!(operand, Operand::Symbol { symbol: Symbol::Function(_), .. })
        };
        let operands = &instruction.operands[..];
        let at = operands.iter().position(is_name).filter(|&at| at <= 1);
        let at = at.ok_or_else(|| refuse(instruction, "indirect calls are not implemented"))?;
        let Operand::Symbol { symbol: Symbol::Function(name), .. } = &operands[at] else {
            unreachable!("found above")
        };
        let callee = self.module.functions.iter().find(|function| function.name == *name);
        let callee =
            callee.ok_or_else(|| refuse(instruction, format!("unknown function {name}")))?;
        if callee.is_declaration {
            return Err(refuse(
                instruction,
                format!("function {name} has no body: it is not implemented"),
            ));
        }
        if self.calls.contains(&name.as_str()) {
            return Err(refuse(instruction, format!("recursion ({name}) is not implemented")));
        }
        let list = |operand: Option<&'a Operand>| match operand {
            Some(Operand::List(list)) => Ok(&list[..]),
            None => Ok(&[][..]),
            Some(_) => Err(refuse(instruction, "a list in parentheses is expected")),
        };
        let results = if at == 1 { list(operands.first())? } else { &[] };
        let arguments = list(operands.get(at + 1))?;
        let counts = (
            callee.params.len() + callee.register_params.len(),
            callee.returns.len() + callee.register_returns.len(),
        );
        if (arguments.len(), results.len()) != counts {
            let what =
                format!("{name} takes {} arguments and gives {} results", counts.0, counts.1);
            return Err(refuse(instruction, what));
        }

        // A call that only some threads make: the others jump over it.
        let jump = guard.map(|guard| {
            let skip = Condition { negated: !guard.negated, ..guard };
            self.push(Op::Control(control::Op::Branch(0)), Some(skip), instruction.pos);
            self.instructions.len() - 1
        });

        let mut sources = Vec::new();
        let mut params = Vec::new();
        for (index, argument) in arguments.iter().enumerate() {
            match callee.register_params.get(index) {
                Some(id) => {
                    let ty = callee.registers[id.0 as usize].ty;
                    self.scope.begin(instruction);
                    sources.push((self.scope.source(argument, ty)?, *id, self.scope.reads.clone()));
                }
                None => params.push(self.place(instruction, argument, &callee.params[index])?),
            }
        }
        let mut returns = Vec::new();
        let mut targets = Vec::new();
        for (index, result) in results.iter().enumerate() {
            match callee.register_returns.get(index) {
                Some(id) => {
                    let ty = callee.registers[id.0 as usize].ty;
                    self.scope.begin(instruction);
                    let d = self.scope.destination(result, ty)?;
                    targets.push((d, *id, self.scope.writes.clone()));
                }
                None => returns.push(self.place(instruction, result, &callee.returns[index])?),
            }
        }

        let caller = self.scope.enter(callee, params, returns);
        self.scope.begin(instruction);
        let fresh = self.scope.frame.places.clone().into_boxed_slice();
        self.push(Op::Control(control::Op::Enter(fresh)), None, instruction.pos);
        for (a, id, reads) in sources {
            let (Place::Row(d), ty) = self.callee_register(callee, id) else {
                return Err(refuse(instruction, "predicates cannot be passed to a function"));
            };
            self.scope.reads = reads;
            self.scope.writes = vec![Place::Row(d)];
            let copy = control::Op::Copy { d, a, wide: ty.bits() > 32 };
            self.push(Op::Control(copy), None, instruction.pos);
        }
        self.calls.push(&callee.name);
        self.body(callee)?;
        self.calls.pop();
        for (d, id, writes) in targets {
            let (Place::Row(a), ty) = self.callee_register(callee, id) else {
                return Err(refuse(instruction, "predicates cannot be returned by a function"));
            };
            self.scope.reads = vec![Place::Row(a)];
            self.scope.writes = writes;
            let copy = control::Op::Copy { d, a, wide: ty.bits() > 32 };
            self.push(Op::Control(copy), None, instruction.pos);
        }
        self.scope.leave(caller);
        if let Some(jump) = jump {
            self.instructions[jump].op = Op::Control(control::Op::Branch(self.here()));
        }
        Ok(())
    }

    fn callee_register(&self, callee: &Function, id: crate::syntax::ast::RegId) -> (Place, Ty) {
        (self.scope.frame.places[id.0 as usize], callee.registers[id.0 as usize].ty)
    }

    /// Where the caller's `.param` variable for a parameter of the callee is.
    fn place(
        &mut self,
        instruction: &Instruction,
        operand: &Operand,
        param: &Variable,
    ) -> Result<Memory> {
        let caller = self.scope.frame.function;
        let (memory, size) = match operand {
            Operand::Symbol { symbol: Symbol::Local(id), .. } => {
                let variable = &caller.variables[id.0 as usize];
                if variable.space != Space::Param {
                    let what = format!("{} is not in .param space", variable.name);
                    return Err(refuse(instruction, what));
                }
                (Memory::Local(self.scope.local_variable(id.0, variable)), variable.size)
            }
            Operand::Symbol { symbol: Symbol::Param(index), .. } => {
                (self.scope.frame.params[*index as usize], caller.params[*index as usize].size)
            }
            _ => return Err(refuse(instruction, "arguments and results are .param variables")),
        };
        if size != param.size {
            let what =
                format!("{} bytes are passed for {}, it has {}", size, param.name, param.size);
            return Err(refuse(instruction, what));
        }
        Ok(memory)
    }

    fn finish(self, function: &Function, text: &Arc<str>) -> Result<Kernel> {
        let scope = self.scope;
        let places = self.places.iter().map(|place| place.index(scope.rows)).collect();
        let limit = |what: &str, bytes: u64, most: u64| match bytes <= most {
            true => Ok(bytes as u32),
            false => {
                let what = format!("{bytes} bytes of {what} memory: there is room for {most}");
                Err(Error::new(function.pos, what, &function.name))
            }
        };
        let mut params = Vec::new();
        let mut end = 0;
        for param in &function.params {
            let start = append(&mut end, param);
            params.push(Param { offset: start as u32, size: param.size as u32 });
        }
        if end > 32764 {
            let what = format!("{end} bytes of parameters: there is room for 32764");
            return Err(Error::new(function.pos, what, &function.name));
        }
        let product =
            |n: [u32; 3]| n.iter().map(|&n| u64::from(n.max(1))).product::<u64>().min(1024);
        let [required, most] = [function.required_threads, function.max_threads];
        let max_threads = match (required, most) {
            ([0, _, _], [0, _, _]) => 1024,
            ([0, _, _], most) => product(most),
            (required, _) => product(required),
        };
        let registers = function.registers.iter().map(|r| r.ty.bits().div_ceil(32)).sum::<u32>();
        let granule = |is_shared| {
            let widths = self.instructions.iter().filter_map(|i| store_width(&i.op, is_shared));
            widths.min().unwrap_or(4).min(4).ilog2()
        };
        Ok(Kernel {
            name: function.name.clone(),
            params,
            param_bytes: end as u32,
            static_shared: limit("static shared", scope.shared_bytes, 48 << 10)?,
            dynamic_shared_start: (scope.shared_bytes as u32)
                .next_multiple_of(scope.shared_align.max(16) as u32),
            local_bytes: limit("local", scope.local_bytes, 512 << 10)?,
            registers: registers.clamp(8, 255),
            max_threads: max_threads as u32,
            required_threads: required,
            required_cluster: function.required_cluster,
            is_asynchronous: self
                .instructions
                .iter()
                .any(|i| matches!(i.op, Op::Bulk(_) | Op::Warpgroup(_))),
            is_ordered: self.instructions.iter().any(|i| orders_blocks(&i.op)),
            names: scope
                .names
                .into_iter()
                .map(|(place, name, ty)| (place.index(scope.rows), (name, ty)))
                .collect(),
            rows: scope.rows,
            predicates: scope.predicates,
            presets: scope.presets,
            places,
            shared_granule: granule(true),
            global_granule: granule(false),
            instructions: self.instructions,
            text: text.clone(),
        })
    }
}

fn span(places: &mut Vec<Place>, list: &[Place]) -> Span {
    let start = places.len() as u32;
    places.extend_from_slice(list);
    Span { start, count: list.len() as u32 }
}

/// Bytes of a store to shared memory, or to global memory.
fn store_width(op: &Op, is_shared: bool) -> Option<u32> {
    let (space, bytes) = match op {
        Op::Memory(memory::Op::Store(access)) => (access.space, u32::from(access.bytes)),
        Op::Atomic(op) => (op.space, op.ty.bytes()),
        _ => return None,
    };
    let here = if is_shared { AccessSpace::Shared } else { AccessSpace::Global };
    (space == here || space == AccessSpace::Generic).then_some(bytes)
}

/// Whether an instruction can make one block's work depend on another's: then their order has to be fixed.
fn orders_blocks(op: &Op) -> bool {
    let reaches = |space| matches!(space, AccessSpace::Global | AccessSpace::Generic);
    match op {
        Op::Atomic(op) => {
            let is_float = matches!(op.action, atomic::Action::Add) && is_float(op.ty);
            reaches(op.space) && (op.d.is_some() || is_float || op.order != Order::Relaxed)
        }
        Op::Memory(memory::Op::Load(access) | memory::Op::Store(access)) => {
            reaches(access.space) && access.order != Order::Weak
        }
        _ => false,
    }
}

fn is_float(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64)
}
