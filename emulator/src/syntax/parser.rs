//! PTX text to [`ast::Module`]: the module's level. Manual: "Directives".

use std::collections::HashMap;

use super::ast::{self, Linkage, Space, Variable};
use super::error::Result;
use super::function::Signature;
use super::lexer::{Kind, Token};
use super::scope::duplicate;
use super::tokens::Tokens;
use super::variable::space;

/// Parses a module.
///
/// # Errors
///
/// The first fault of the text: not in PTX's grammar, a name that is unknown or declared twice, or
/// something that is PTX and not supported. Opcodes and modifiers are not judged here.
pub fn parse(text: &str) -> Result<ast::Module> {
    let mut parser = Parser {
        tokens: Tokens::new(text)?,
        module: ast::Module::default(),
        names: HashMap::new(),
        signatures: Vec::new(),
        init_bytes: 0,
    };
    parser.header()?;
    while parser.tokens.token.kind != Kind::End {
        parser.directive()?;
    }
    Ok(parser.module)
}

/// What a name of the module's scope stands for: an index into the module's list.
#[derive(Debug, Clone, Copy)]
pub enum Item {
    Variable(usize),
    Function(usize),
}

pub struct Parser<'a> {
    pub tokens: Tokens<'a>,
    pub module: ast::Module,
    pub names: HashMap<&'a str, Item>,
    /// Of the module's functions, with the same indices.
    pub signatures: Vec<Signature>,
    /// Bytes of initial values up to here.
    pub init_bytes: u64,
}

/// Architectures that PTX has names for.
const TARGETS: [u32; 31] = [
    10, 11, 12, 13, 20, 21, 30, 32, 35, 37, 50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 88, 89,
    90, 100, 101, 103, 110, 120, 121,
];

/// The newest major version of PTX that is known.
const NEWEST_VERSION: u32 = 9;

impl<'a> Parser<'a> {
    fn header(&mut self) -> Result<()> {
        if !self.tokens.accept_dot(".version")? {
            return Err(self.tokens.expected("'.version'"));
        }
        self.module.version = self.version()?;
        if !self.tokens.accept_dot(".target")? {
            return Err(self.tokens.expected("'.target'"));
        }
        self.target()?;
        if self.tokens.accept_dot(".address_size")? {
            let token = self.tokens.token;
            if self.tokens.count("64")? != 64 {
                return Err(token.error("only addresses of 64 bits are supported"));
            }
        }
        Ok(())
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        let token = self.tokens.token;
        let part = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u32>().ok(),
            false => None,
        };
        let parts = token.text.split_once('.').filter(|_| token.kind == Kind::Number);
        let version = parts.and_then(|(major, minor)| Some((part(major)?, part(minor)?)));
        let Some(version) = version else {
            return Err(self.tokens.expected("a version such as 8.4"));
        };
        if version.0 == 0 || version.0 > NEWEST_VERSION {
            return Err(token.error(format!("versions 1.0 to {NEWEST_VERSION}.x are supported")));
        }
        self.tokens.advance()?;
        Ok(version)
    }

    /// `sm_90a, debug`.
    fn target(&mut self) -> Result<()> {
        let token = self.tokens.name("a target such as sm_80")?;
        let name = token.text.strip_prefix("sm_").unwrap_or_default();
        let digits = name.trim_end_matches(['a', 'f']);
        let suffix = &name[digits.len()..];
        let target = digits.parse().unwrap_or(0);
        let suffix_is_known = match suffix {
            "" => true,
            "a" => target >= 90,
            "f" => target >= 100,
            _ => false,
        };
        if target == 0 || !TARGETS.contains(&target) || !suffix_is_known {
            return Err(token.error(format!("unknown target '{}'", token.text)));
        }
        self.module.target = target;
        self.module.target_suffix = suffix.chars().next();
        while self.tokens.accept(",")? {
            let option = self.tokens.name("an option of '.target'")?;
            match option.text {
                "debug" | "texmode_unified" | "texmode_independent" => {}
                "map_f64_to_f32" => return Err(self.unsupported(&option)),
                _ => return Err(option.error(format!("unknown target '{}'", option.text))),
            }
        }
        Ok(())
    }

    fn directive(&mut self) -> Result<()> {
        let linkage = match self.tokens.token.text {
            ".visible" => Linkage::Visible,
            ".extern" => Linkage::Extern,
            ".weak" => Linkage::Weak,
            ".common" => Linkage::Common,
            _ => Linkage::Internal,
        };
        if linkage != Linkage::Internal {
            self.tokens.advance()?;
        }
        let token = self.tokens.token;
        if token.kind != Kind::Dot {
            return Err(self.tokens.expected("a directive"));
        }
        match token.text {
            ".entry" | ".func" => self.function(linkage),
            ".global" | ".const" | ".shared" => {
                self.tokens.advance()?;
                self.module_variables(space(token.text).unwrap_or(Space::Global), linkage)
            }
            ".local" | ".param" | ".reg" => {
                Err(token.error(format!("'{}' stands in functions only", token.text)))
            }
            _ if linkage != Linkage::Internal => {
                Err(self.tokens.expected("a function or a variable"))
            }
            ".section" => self.section(),
            _ if self.annotation()? => Ok(()),
            ".version" | ".target" | ".address_size" => {
                Err(token.error(format!("'{}' stands at the module's head only", token.text)))
            }
            ".alias" | ".tex" | ".texref" | ".samplerref" | ".surfref" | ".attribute" => {
                Err(self.unsupported(&token))
            }
            _ => Err(token.error(format!("unknown directive '{}'", token.text))),
        }
    }

    /// `.loc`, `.file` and `.pragma`: skipped. Whether there was one.
    pub fn annotation(&mut self) -> Result<bool> {
        match self.tokens.token.text {
            ".loc" => self.loc()?,
            ".file" => self.file()?,
            ".pragma" => self.pragma()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `.pragma "nounroll", "other";`
    pub fn pragma(&mut self) -> Result<()> {
        self.tokens.advance()?;
        self.tokens.string()?;
        while self.comma_or_semicolon()? {
            self.tokens.string()?;
        }
        Ok(())
    }

    /// `.file 1 "name", time, size`
    fn file(&mut self) -> Result<()> {
        self.tokens.advance()?;
        self.tokens.count("the number of a file")?;
        self.tokens.string()?;
        if self.tokens.accept(",")? {
            self.tokens.count("a time")?;
            self.tokens.expect(",")?;
            self.tokens.count("a size")?;
        }
        Ok(())
    }

    /// `.loc 1 20 3, function_name label + 4, inlined_at 1 10 5`
    fn loc(&mut self) -> Result<()> {
        self.tokens.advance()?;
        self.place()?;
        while self.tokens.accept(",")? {
            match self.tokens.token.text {
                "function_name" => {
                    self.tokens.advance()?;
                    if !self.tokens.accept_dot(".debug_str")? {
                        self.tokens.name("a label")?;
                    }
                    if self.tokens.accept("+")? {
                        self.tokens.count("an offset")?;
                    }
                }
                "inlined_at" => {
                    self.tokens.advance()?;
                    self.place()?;
                }
                _ => return Err(self.tokens.expected("'function_name' or 'inlined_at'")),
            }
        }
        Ok(())
    }

    fn place(&mut self) -> Result<()> {
        for what in ["the number of a file", "a line", "a column"] {
            self.tokens.count(what)?;
        }
        Ok(())
    }

    /// `.section .debug_info { ... }`: debugging information, not looked into.
    fn section(&mut self) -> Result<()> {
        self.tokens.advance()?;
        if self.tokens.token.kind != Kind::Dot {
            return Err(self.tokens.expected("the name of a section"));
        }
        self.tokens.advance()?;
        self.tokens.expect("{")?;
        while !self.tokens.at("}") {
            if self.tokens.token.kind == Kind::End || self.tokens.at("{") {
                return Err(self.tokens.expected("'}' of the section"));
            }
            self.tokens.advance()?;
        }
        self.tokens.advance().map(drop)
    }

    fn module_variables(&mut self, space: Space, linkage: Linkage) -> Result<()> {
        let shape = self.memory_shape()?;
        loop {
            let name = self.tokens.name("the name of a variable")?;
            let variable = self.variable(&name, space, linkage, shape)?;
            self.declare_variable(&name, variable)?;
            if !self.comma_or_semicolon()? {
                return Ok(());
            }
        }
    }

    /// Lists `variable`, or puts it in the place of the `.extern` that announced it.
    fn declare_variable(&mut self, name: &Token<'a>, variable: Variable) -> Result<()> {
        let index = match self.names.get(name.text) {
            None => self.module.variables.len(),
            Some(&Item::Variable(index)) => {
                let earlier = &self.module.variables[index];
                let is_same = earlier.space == variable.space
                    && earlier.ty == variable.ty
                    && (earlier.size == variable.size || earlier.size == 0);
                let resolves = matches!(
                    variable.linkage,
                    Linkage::Extern | Linkage::Visible | Linkage::Weak | Linkage::Common
                );
                if earlier.linkage != Linkage::Extern || !is_same || !resolves {
                    return Err(duplicate(name));
                }
                self.module.variables[index] = variable;
                return Ok(());
            }
            Some(Item::Function(_)) => return Err(duplicate(name)),
        };
        self.module.variables.push(variable);
        self.names.insert(name.text, Item::Variable(index));
        Ok(())
    }
}
