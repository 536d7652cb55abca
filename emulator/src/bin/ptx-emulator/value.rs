//! Typed values in arguments, files and prints.

use half::{bf16, f16};

/// The type of a value on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    pub fn bytes(self) -> usize {
        match self {
            Type::U8 | Type::I8 => 1,
            Type::U16 | Type::I16 | Type::F16 | Type::Bf16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 => 8,
        }
    }

    pub fn from_name(name: &str) -> Result<Type, String> {
        clap::ValueEnum::from_str(name, false).map_err(|_| {
            format!("'{name}' is no type: u8 i8 u16 i16 u32 i32 u64 i64 f16 bf16 f32 f64")
        })
    }

    /// The little-endian bytes of a number in the text.
    pub fn parse(self, text: &str) -> Result<Vec<u8>, String> {
        let wrong = |_| format!("'{text}' is no {self:?}").to_lowercase();
        let integer = || match text.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16).map_err(|_| wrong(())),
            None => text.parse::<i128>().map_err(|_| wrong(())),
        };
        let float = || text.parse::<f64>().map_err(|_| wrong(()));
        Ok(match self {
            Type::U8 => u8::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::I8 => i8::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::U16 => u16::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::I16 => i16::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::U32 => u32::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::I32 => i32::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::U64 => u64::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::I64 => i64::try_from(integer()?).map_err(|_| wrong(()))?.to_le_bytes().into(),
            Type::F16 | Type::Bf16 | Type::F32 | Type::F64 => self.bytes_of(float()?),
        })
    }

    /// The little-endian bytes of a number, rounded to this type.
    pub fn bytes_of(self, value: f64) -> Vec<u8> {
        match self {
            Type::U8 => (value as u8).to_le_bytes().into(),
            Type::I8 => (value as i8).to_le_bytes().into(),
            Type::U16 => (value as u16).to_le_bytes().into(),
            Type::I16 => (value as i16).to_le_bytes().into(),
            Type::U32 => (value as u32).to_le_bytes().into(),
            Type::I32 => (value as i32).to_le_bytes().into(),
            Type::U64 => (value as u64).to_le_bytes().into(),
            Type::I64 => (value as i64).to_le_bytes().into(),
            Type::F16 => f16::from_f64(value).to_le_bytes().into(),
            Type::Bf16 => bf16::from_f64(value).to_le_bytes().into(),
            Type::F32 => (value as f32).to_le_bytes().into(),
            Type::F64 => value.to_le_bytes().into(),
        }
    }

    /// The bits of a value's bytes.
    pub fn bits(self, bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte))
    }

    /// A value from its bytes; 64-bit integers beyond 2^53 are rounded.
    pub fn value(self, bytes: &[u8]) -> f64 {
        let bits = self.bits(bytes);
        match self {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => bits as f64,
            Type::I8 => f64::from(bits as i8),
            Type::I16 => f64::from(bits as i16),
            Type::I32 => f64::from(bits as i32),
            Type::I64 => bits as i64 as f64,
            Type::F16 => f16::from_bits(bits as u16).to_f64(),
            Type::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Type::F32 => f64::from(f32::from_bits(bits as u32)),
            Type::F64 => f64::from_bits(bits),
        }
    }

    /// A value as people read it.
    pub fn show(self, bytes: &[u8]) -> String {
        match self {
            Type::U64 => self.bits(bytes).to_string(),
            Type::I64 => (self.bits(bytes) as i64).to_string(),
            Type::F32 => (self.value(bytes) as f32).to_string(),
            _ => self.value(bytes).to_string(),
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
    }

    /// How many values lie between two: 0 for the same bits, and for two NaN.
    pub fn distance(self, a: &[u8], b: &[u8]) -> u64 {
        let (x, y) = (self.bits(a), self.bits(b));
        if x == y || self.value(a).is_nan() && self.value(b).is_nan() {
            return 0;
        }
        if !self.is_float() {
            let signed = matches!(self, Type::I8 | Type::I16 | Type::I32 | Type::I64);
            let unused = 64 - 8 * self.bytes() as u32;
            let wide = |bits: u64| ((bits << unused) as i64 >> unused) as i128;
            let (x, y) = if signed { (wide(x), wide(y)) } else { (i128::from(x), i128::from(y)) };
            return u64::try_from(x.abs_diff(y)).unwrap_or(u64::MAX);
        }
        // The order of floats is that of their bits, mirrored for negative ones: -0 and 0 are the same place.
        let sign = 1u64 << (8 * self.bytes() - 1);
        let place = |bits: u64| match bits & sign {
            0 => i128::from(bits),
            _ => -i128::from(bits & !sign),
        };
        u64::try_from(place(x).abs_diff(place(y))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let d = |ty: Type, a: f64, b: f64| ty.distance(&ty.bytes_of(a), &ty.bytes_of(b));
        assert_eq!(d(Type::F32, 1.0, 1.0 + f64::from(f32::EPSILON)), 1);
        assert_eq!(d(Type::F32, 0.0, -0.0), 0);
        assert_eq!(d(Type::F64, -f64::MIN_POSITIVE, f64::MIN_POSITIVE), 2 * (1 << 52));
        assert_eq!(d(Type::F16, 65504.0, f64::INFINITY), 1);
        assert_eq!(d(Type::F32, f64::NAN, -f64::NAN), 0);
        assert_eq!(d(Type::I8, -128.0, 127.0), 255);
        assert_eq!(d(Type::U64, 0.0, 9.0), 9);
    }

    #[test]
    fn numbers() {
        assert_eq!(Type::U32.parse("0xff"), Ok(vec![255, 0, 0, 0]));
        assert_eq!(Type::I16.parse("-2"), Ok(vec![254, 255]));
        assert_eq!(Type::Bf16.parse("1.0"), Ok(vec![0x80, 0x3F]));
        assert_eq!(Type::U8.parse("256"), Err("'256' is no u8".to_owned()));
    }
}
