//! The forms in which vectors are kept.

use crate::DType;

/// How vectors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// f32.
    F32,
    /// f16; products are formed in f32.
    F16,
    /// bfloat16; products are formed in f32.
    BF16,
    /// Signed bytes, four to a u32 with the first in its lowest byte and zeros behind the last, and an f32 scale for each vector:
    /// its largest magnitude over 127, if nobody chose another.
    Int8,
    /// One bit a dimension, 32 to a u32 with the first in its lowest place: 1 stands for +1 and 0 for -1.
    Binary,
}

impl Storage {
    /// The storage that keeps floats of a type as they are.
    pub const fn of(dtype: DType) -> Option<Storage> {
        match dtype {
            DType::F32 => Some(Storage::F32),
            DType::F16 => Some(Storage::F16),
            DType::BF16 => Some(Storage::BF16),
            _ => None,
        }
    }

    /// The dtype of the floats that are kept, if floats are.
    pub const fn floats(self) -> Option<DType> {
        match self {
            Storage::Int8 | Storage::Binary => None,
            _ => Some(self.dtype()),
        }
    }

    /// The name in messages and on the command line: `f32`, `f16`, `bf16`, `int8`, `binary`.
    pub const fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::BF16 => "bf16",
            Storage::Int8 => "int8",
            Storage::Binary => "binary",
        }
    }

    /// The dtype of the tensor that holds the vectors.
    pub const fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
            Storage::BF16 => DType::BF16,
            Storage::Int8 | Storage::Binary => DType::U32,
        }
    }

    /// Elements of the tensor for a vector of `dim` dimensions.
    pub const fn width(self, dim: usize) -> usize {
        match self {
            Storage::Int8 => dim.div_ceil(4),
            Storage::Binary => dim / 32,
            _ => dim,
        }
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
