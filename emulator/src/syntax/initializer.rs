//! Initial values of variables. Manual: "State Spaces, Types, and Variables", section
//! "Initializers".

use super::ast::{Relocation, Space, Variable};
use super::error::Result;
use super::expr::Value;
use super::lexer::{Kind, Token};
use super::parser::{Item, Parser};
use super::ty::{Kind as TyKind, Ty};

/// Bytes of all initial values of a module.
const MAX_INIT_BYTES: u64 = 256 << 20;

impl<'a> Parser<'a> {
    /// What follows `=`. `shape` has the dimensions, the vector's width among them as the last; a
    /// first of 0 is open and becomes the number of elements given. The elements' bytes and
    /// relocations are added to `variable`.
    pub fn initializer(&mut self, variable: &mut Variable, shape: &mut [u64]) -> Result<()> {
        if let Some((first, rows)) = shape.split_first_mut() {
            let stride = rows.iter().product::<u64>() * u64::from(variable.ty.bytes());
            let limit = if *first == 0 { u64::MAX } else { *first };
            let count = self.list(variable, limit, rows, 0, stride)?;
            if *first == 0 {
                *first = count;
            }
        } else {
            self.element(variable, 0)?;
        }
        self.init_bytes += variable.init.len() as u64;
        Ok(())
    }

    /// `{a, b, c}` of at most `limit` elements of `stride` bytes from `offset` on, each of shape
    /// `rows`; returns their number.
    fn list(
        &mut self,
        variable: &mut Variable,
        limit: u64,
        rows: &[u64],
        offset: u64,
        stride: u64,
    ) -> Result<u64> {
        self.tokens.expect("{")?;
        let mut count = 0;
        if self.tokens.accept("}")? {
            return Ok(count);
        }
        loop {
            if count == limit {
                return Err(self.tokens.token.error(format!("more than {limit} initial values")));
            }
            let at = offset.saturating_add(count.saturating_mul(stride));
            match rows.split_first() {
                None => self.element(variable, at)?,
                Some((&length, rows)) => {
                    self.list(variable, length, rows, at, stride / length)?;
                }
            }
            count += 1;
            if !self.tokens.accept(",")? {
                self.tokens.expect("}")?;
                return Ok(count);
            }
        }
    }

    fn element(&mut self, variable: &mut Variable, offset: u64) -> Result<()> {
        let token = self.tokens.token;
        let end = offset.saturating_add(variable.ty.bytes().into());
        if self.init_bytes.saturating_add(end) > MAX_INIT_BYTES {
            return Err(token.error(format!("more than {MAX_INIT_BYTES} bytes of initial values")));
        }
        variable.init.resize(end as usize, 0);
        if token.kind == Kind::Name && token.text != "WARP_SZ" {
            return self.address(variable, offset);
        }
        let value = self.tokens.constant()?;
        if self.tokens.at("(") {
            return Err(token.error("masked addresses are not supported as initial values"));
        }
        let bytes = element_bytes(variable.ty, value).ok_or_else(|| {
            token.error(format!("the initial value does not suit type {}", variable.ty))
        })?;
        let width = variable.ty.bytes() as usize;
        variable.init[offset as usize..].copy_from_slice(&bytes[..width]);
        Ok(())
    }

    /// `symbol`, `symbol + 8`, `generic(symbol) + 8`.
    fn address(&mut self, variable: &mut Variable, offset: u64) -> Result<()> {
        let mut name = self.tokens.name("an initial value")?;
        if variable.ty != Ty::U64 {
            return Err(
                name.error(format!("an address is a .u64, and the variable is {}", variable.ty))
            );
        }
        let generic = name.text == "generic" && self.tokens.accept("(")?;
        if generic {
            name = self.tokens.name("a variable")?;
            self.tokens.expect(")")?;
        }
        self.check_symbol(&name, variable)?;
        let addend = if self.tokens.at("+") { self.offset()? } else { 0 };
        variable.relocations.push(Relocation { offset, symbol: name.text.into(), addend, generic });
        Ok(())
    }

    /// Only what has one address for the whole module can be an initial value.
    fn check_symbol(&self, name: &Token<'a>, variable: &Variable) -> Result<()> {
        let space = match self.names.get(name.text) {
            Some(Item::Function(_)) => return Ok(()),
            Some(&Item::Variable(index)) => self.module.variables[index].space,
            None if name.text == variable.name => variable.space,
            None => {
                return Err(name.error(format!("unknown identifier '{}'", name.text)));
            }
        };
        if !matches!(space, Space::Global | Space::Const) {
            return Err(name.error(format!("'{}' is not in .global or .const", name.text)));
        }
        Ok(())
    }
}

/// The little-endian bytes of `value` as a `ty`, and zeros or signs behind them.
fn element_bytes(ty: Ty, value: Value) -> Option<[u8; 16]> {
    let single = |bits: u32| Some(u128::from(bits).to_le_bytes());
    let double = |value: f64| Some(u128::from(value.to_bits()).to_le_bytes());
    let float_bits = match ty {
        Ty::B32 | Ty::F32 => 32,
        Ty::B64 | Ty::F64 => 64,
        _ => 0,
    };
    match value {
        Value::Signed(value) if ty.kind() != TyKind::Float => Some(i128::from(value).to_le_bytes()),
        Value::Unsigned(value) if ty.kind() != TyKind::Float => {
            Some(u128::from(value).to_le_bytes())
        }
        Value::Single(bits) if float_bits == 32 => single(bits),
        Value::Single(bits) if float_bits == 64 => double(f32::from_bits(bits).into()),
        Value::Double(value) if float_bits == 32 => single((value as f32).to_bits()),
        Value::Double(value) if float_bits == 64 => double(value),
        _ => None,
    }
}
