//! Entries, functions and their prototypes. Manual: "Directives", sections "Specifying Kernel Entry
//! Points and Functions" and "Performance-Tuning Directives".

use super::ast::{Function, Linkage, Variable};
use super::error::Result;
use super::lexer::Token;
use super::parser::{Item, Parser};
use super::scope::{Name, Scopes, duplicate};
use super::statement::Body;
use super::ty::Ty;

/// What a prototype and its definition have to agree on.
#[derive(PartialEq)]
pub struct Signature {
    is_entry: bool,
    linkage: Linkage,
    /// Types, sizes and alignments.
    params: Vec<(Ty, u64, u32)>,
    returns: Vec<(Ty, u64, u32)>,
    register_params: Vec<Ty>,
    register_returns: Vec<Ty>,
}

impl<'a> Parser<'a> {
    /// `.entry name (params) directives { body }`, or `.func (returns) name ...`.
    pub fn function(&mut self, linkage: Linkage) -> Result<()> {
        let directive = self.tokens.advance()?;
        let is_entry = directive.text == ".entry";
        if self.tokens.at_dot(".attribute") {
            return Err(self.unsupported(&self.tokens.token));
        }
        let mut scopes = Scopes::new();
        let mut function = Function { is_entry, linkage, ..Function::default() };
        if !is_entry && self.tokens.at("(") {
            self.params(&mut scopes, &mut function, true)?;
        }
        let name = self.tokens.name("the name of a function")?;
        function.name = name.text.into();
        function.pos = name.pos;
        if self.tokens.at("(") {
            self.params(&mut scopes, &mut function, false)?;
        }
        self.function_directives(&mut function)?;
        function.is_declaration = !self.tokens.at("{");
        let index = self.declare_function(&name, &function, &scopes)?;
        if function.is_declaration {
            if !self.tokens.accept(";")? {
                return Err(self.tokens.expected("'{', ';' or a directive of the function"));
            }
            scopes.finish(&mut function)?;
        } else {
            let mut body = Body::new(self, scopes, function);
            body.parse()?;
            function = body.finish()?;
        }
        let slot = &mut self.module.functions[index];
        if slot.is_declaration {
            *slot = function;
        }
        Ok(())
    }

    /// `(.param .b32 a, .reg .f32 b)`.
    fn params(
        &mut self,
        scopes: &mut Scopes<'a>,
        function: &mut Function,
        returns: bool,
    ) -> Result<()> {
        self.tokens.expect("(")?;
        if self.tokens.accept(")")? {
            return Ok(());
        }
        loop {
            self.param(scopes, function, returns)?;
            if !self.tokens.accept(",")? {
                break;
            }
        }
        if self.tokens.accept(")")? { Ok(()) } else { Err(self.tokens.expected("',' or ')'")) }
    }

    fn param(
        &mut self,
        scopes: &mut Scopes<'a>,
        function: &mut Function,
        returns: bool,
    ) -> Result<()> {
        let directive = self.tokens.token;
        let (memory, registers) = if returns {
            (&mut function.returns, &mut function.register_returns)
        } else {
            (&mut function.params, &mut function.register_params)
        };
        let (has_memory, has_registers) = (!memory.is_empty(), !registers.is_empty());
        match directive.text {
            ".param" => {
                self.tokens.advance()?;
                if has_memory && returns {
                    return Err(directive.error("several return values stand in .reg only"));
                }
                let (name, variable) = self.memory_param(function.is_entry)?;
                let index = memory.len() as u32;
                let meaning = if returns { Name::Return(index) } else { Name::Param(index) };
                scopes.declare(&name, meaning)?;
                memory.push(variable);
            }
            ".reg" if !function.is_entry => {
                self.tokens.advance()?;
                let shape = self.shape()?;
                if shape.width > 1 {
                    return Err(directive.error("a parameter is never a vector"));
                }
                let name = self.tokens.name("the name of a parameter")?;
                registers.push(scopes.declare_register(&name, shape.ty, 1)?);
            }
            _ if function.is_entry => return Err(self.tokens.expected("'.param'")),
            _ => return Err(self.tokens.expected("'.param' or '.reg'")),
        }
        if has_memory && directive.text == ".reg" || has_registers && directive.text == ".param" {
            return Err(directive.error("a mix of .param and .reg is not supported"));
        }
        Ok(())
    }

    fn function_directives(&mut self, function: &mut Function) -> Result<()> {
        while !self.tokens.at("{") && !self.tokens.at(";") {
            let token = self.tokens.token;
            if token.text == ".pragma" {
                self.pragma()?;
                continue;
            }
            match (token.text, function.is_entry) {
                (".reqnctapercluster" | ".explicitcluster", _) if self.module.target < 90 => {
                    return Err(token.error(format!("'{}' needs .target sm_90", token.text)));
                }
                (
                    ".maxntid" | ".reqntid" | ".maxnreg" | ".minnctapersm" | ".maxnctapersm"
                    | ".maxclusterrank" | ".reqnctapercluster" | ".explicitcluster",
                    true,
                )
                | (".noreturn" | ".abi_preserve" | ".abi_preserve_control", false) => {
                    self.tokens.advance()?;
                }
                (".blocksareclusters", _) | (".attribute" | ".unified", _) => {
                    return Err(self.unsupported(&token));
                }
                (text, _) if text.starts_with('.') => {
                    let what = format!("unknown directive '{}' of a function", token.text);
                    return Err(token.error(what));
                }
                _ => return Err(self.tokens.expected("'{', ';' or a directive of the function")),
            }
            match token.text {
                ".maxntid" => function.max_threads = self.threads()?,
                ".reqntid" => function.required_threads = self.threads()?,
                ".reqnctapercluster" => function.required_cluster = Some(self.threads()?),
                // With the dimensions that the launch or the kernel gives.
                ".explicitcluster" => {}
                ".maxnreg" => function.max_registers = Some(self.positive()?),
                ".minnctapersm" => function.min_blocks_per_sm = Some(self.positive()?),
                ".noreturn" => {}
                // Hints, and limits of launches that the emulator does not have.
                _ => _ = self.positive()?,
            }
            if function.max_threads[0] > 0 && function.required_threads[0] > 0 {
                return Err(token.error(".maxntid and .reqntid exclude each other"));
            }
        }
        Ok(())
    }

    fn threads(&mut self) -> Result<[u32; 3]> {
        let mut threads = [1; 3];
        threads[0] = self.positive()?;
        for count in &mut threads[1..] {
            if self.tokens.accept(",")? {
                *count = self.positive()?;
            }
        }
        Ok(threads)
    }

    fn positive(&mut self) -> Result<u32> {
        let token = self.tokens.token;
        match self.tokens.count_u32("a number")? {
            0 => Err(token.error("a number above 0 is needed")),
            number => Ok(number),
        }
    }

    /// The function's index in the module. A new one is listed as a prototype at first, so that its
    /// own body can name it.
    fn declare_function(
        &mut self,
        name: &Token<'a>,
        function: &Function,
        scopes: &Scopes,
    ) -> Result<usize> {
        let memory = |variables: &[Variable]| {
            variables.iter().map(|variable| (variable.ty, variable.size, variable.align)).collect()
        };
        let signature = Signature {
            is_entry: function.is_entry,
            linkage: function.linkage,
            params: memory(&function.params),
            returns: memory(&function.returns),
            register_params: scopes.types(&function.register_params),
            register_returns: scopes.types(&function.register_returns),
        };
        match self.names.get(name.text) {
            None => {
                let index = self.module.functions.len();
                self.names.insert(name.text, Item::Function(index));
                self.signatures.push(signature);
                self.module.functions.push(Function {
                    name: function.name.clone(),
                    is_declaration: true,
                    ..Function::default()
                });
                Ok(index)
            }
            Some(&Item::Function(index)) if self.module.functions[index].is_declaration => {
                if self.signatures[index] != signature {
                    let what = format!("'{}' was declared differently before", name.text);
                    return Err(name.error(what));
                }
                Ok(index)
            }
            Some(_) => Err(duplicate(name)),
        }
    }
}
