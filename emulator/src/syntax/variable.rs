//! Declarations of variables. Manual: "State Spaces, Types, and Variables", section "Variables".

use super::ast::{Linkage, Space, Variable};
use super::error::Result;
use super::lexer::{Kind, Token};
use super::parser::Parser;
use super::ty::Ty;

/// No variable is larger. Far beyond any memory, and small enough that sums of sizes do not overflow.
const MAX_BYTES: u64 = 1 << 40;

/// The largest `.align`.
const MAX_ALIGN: u32 = 1 << 20;

/// Dimensions of an array.
const MAX_DIMENSIONS: usize = 32;

/// The part of a declaration before the names: `.align 16 .v4 .f32`.
#[derive(Clone, Copy)]
pub struct Shape {
    pub ty: Ty,
    pub width: u8,
    align: Option<u32>,
}

/// The state space that a directive names.
pub fn space(directive: &str) -> Option<Space> {
    Some(match directive {
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Param,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    /// `.align 16 .v4 .f32`, for registers as for memory.
    pub fn shape(&mut self) -> Result<Shape> {
        let mut align = None;
        let mut width = 1;
        loop {
            let token = self.tokens.token;
            if token.kind != Kind::Dot {
                return Err(self.tokens.expected("a type"));
            }
            self.tokens.advance()?;
            match token.text {
                ".align" if width == 1 => align = Some(self.alignment()?),
                ".v2" if width == 1 => width = 2,
                ".v4" if width == 1 => width = 4,
                ".attribute" => return Err(self.unsupported(&token)),
                _ => {
                    let ty = declared_type(&token)?;
                    if width > 1 && ty == Ty::Pred {
                        return Err(token.error("a .pred is never a vector"));
                    }
                    if u32::from(width) * ty.bits() > 128 {
                        return Err(token.error("a vector has at most 128 bits"));
                    }
                    return Ok(Shape { ty, width, align });
                }
            }
        }
    }

    pub fn alignment(&mut self) -> Result<u32> {
        let token = self.tokens.token;
        let align = self.tokens.count_u32("an alignment")?;
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return Err(token.error(format!("an alignment is a power of two up to {MAX_ALIGN}")));
        }
        Ok(align)
    }

    /// A type that has a size in memory.
    pub fn memory_shape(&mut self) -> Result<Shape> {
        let token = self.tokens.token;
        let shape = self.shape()?;
        if shape.ty == Ty::Pred {
            return Err(token.error("a .pred has no place in memory, only in .reg"));
        }
        Ok(shape)
    }

    /// `name[2][3] = {...}`: one variable of a declaration.
    pub fn variable(
        &mut self,
        name: &Token<'a>,
        space: Space,
        linkage: Linkage,
        shape: Shape,
    ) -> Result<Variable> {
        let mut dimensions = self.dimensions()?;
        let open = dimensions.first() == Some(&0);
        if shape.width > 1 {
            dimensions.push(shape.width.into());
        }
        let mut variable = Variable {
            pos: name.pos,
            name: name.text.into(),
            space,
            linkage,
            ty: shape.ty,
            align: shape.align.unwrap_or(shape.ty.bytes() * u32::from(shape.width)),
            size: self.size(name, shape, &dimensions)?,
            init: Vec::new(),
            relocations: Vec::new(),
        };
        if self.tokens.at("=") {
            if !matches!(space, Space::Global | Space::Const) || linkage == Linkage::Extern {
                let what = "only .global and .const variables that are not .extern have values";
                return Err(self.tokens.token.error(what));
            }
            if matches!(shape.ty, Ty::F16 | Ty::F16x2) {
                let what = format!("a {} variable has no initial value", shape.ty);
                return Err(self.tokens.token.error(what));
            }
            self.tokens.advance()?;
            self.initializer(&mut variable, &mut dimensions)?;
            variable.size = self.size(name, shape, &dimensions)?;
        }
        let may_be_open = linkage == Linkage::Extern || space == Space::Param;
        if open && variable.size == 0 && !may_be_open {
            return Err(name.error(format!("the size of '{}' is not known", name.text)));
        }
        Ok(variable)
    }

    /// `[2][3]`; a first `[]` is 0.
    fn dimensions(&mut self) -> Result<Vec<u64>> {
        let mut dimensions = Vec::new();
        while self.tokens.accept("[")? {
            if dimensions.len() == MAX_DIMENSIONS {
                return Err(self.tokens.token.error("too many dimensions"));
            }
            if dimensions.is_empty() && self.tokens.accept("]")? {
                dimensions.push(0);
                continue;
            }
            let token = self.tokens.token;
            let length = self.tokens.count("a length")?;
            if length == 0 {
                return Err(token.error("a length of 0"));
            }
            dimensions.push(length);
            self.tokens.expect("]")?;
        }
        Ok(dimensions)
    }

    /// Bytes of a variable whose dimensions include the vector's width.
    fn size(&self, name: &Token, shape: Shape, dimensions: &[u64]) -> Result<u64> {
        // An open length does not hide that its elements are too large.
        let product = |bytes: u64, &length: &u64| bytes.checked_mul(length.max(1));
        match dimensions.iter().try_fold(shape.ty.bytes().into(), product) {
            Some(bytes) if bytes <= MAX_BYTES => {
                Ok(if dimensions.first() == Some(&0) { 0 } else { bytes })
            }
            _ => Err(name.error(format!("'{}' is too large", name.text))),
        }
    }

    /// `.align 8 .b8 name[16]` behind `.param`.
    pub fn memory_param(&mut self, is_entry: bool) -> Result<(Token<'a>, Variable)> {
        let shape = self.memory_shape()?;
        if shape.width > 1 {
            return Err(self.tokens.token.error("a parameter is never a vector"));
        }
        if self.tokens.at_dot(".ptr") {
            if !is_entry {
                return Err(self.tokens.token.error("only an .entry has .ptr parameters"));
            }
            self.pointer_attributes()?;
        }
        let name = self.tokens.name("the name of a parameter")?;
        let variable = self.variable(&name, Space::Param, Linkage::Internal, shape)?;
        if is_entry && variable.size == 0 {
            return Err(name.error(format!("the size of '{}' is not known", name.text)));
        }
        Ok((name, variable))
    }

    /// `.ptr .global .align 16`: a promise about what is pointed at.
    fn pointer_attributes(&mut self) -> Result<()> {
        self.tokens.advance()?;
        if matches!(self.tokens.token.text, ".const" | ".global" | ".local" | ".shared") {
            self.tokens.advance()?;
        }
        if self.tokens.accept_dot(".align")? {
            self.alignment()?;
        }
        Ok(())
    }

    /// Where a declaration that has just been read must go on.
    pub fn comma_or_semicolon(&mut self) -> Result<bool> {
        if self.tokens.accept(",")? {
            return Ok(true);
        }
        if self.tokens.accept(";")? {
            return Ok(false);
        }
        Err(self.tokens.expected("',' or ';'"))
    }

    /// For a directive or attribute that is known and would change what runs.
    pub fn unsupported(&self, token: &Token) -> super::error::Error {
        token.error(format!("'{}' is not supported", token.text))
    }
}

/// Types that variables and registers may have; the others are for instructions alone.
fn declared_type(token: &Token) -> Result<Ty> {
    match Ty::from_name(&token.text[1..]) {
        Some(
            ty @ (Ty::Pred
            | Ty::B8
            | Ty::B16
            | Ty::B32
            | Ty::B64
            | Ty::B128
            | Ty::U8
            | Ty::U16
            | Ty::U32
            | Ty::U64
            | Ty::S8
            | Ty::S16
            | Ty::S32
            | Ty::S64
            | Ty::F16
            | Ty::F16x2
            | Ty::F32
            | Ty::F64),
        ) => Ok(ty),
        Some(ty) => Err(token.error(format!("{ty} is a type of instructions, not of variables"))),
        None => Err(token.error("expected a type")),
    }
}
