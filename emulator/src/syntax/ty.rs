//! The types of PTX.

/// A fundamental or alternate type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    F32,
    F64,
    Bf16,
    Bf16x2,
    Tf32,
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
    U16x2,
    S16x2,
}

/// How a register of one type may stand for another of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Pred,
    /// Agrees with every kind.
    Bits,
    /// `.u` and `.s` agree with each other.
    Int,
    Float,
}

impl Ty {
    /// The type that a modifier names: `"f32"`, without the dot.
    pub fn from_name(name: &str) -> Option<Ty> {
        Ty::ALL.iter().copied().find(|ty| ty.name() == name)
    }

    /// Without the dot.
    pub fn name(self) -> &'static str {
        match self {
            Ty::Pred => "pred",
            Ty::B8 => "b8",
            Ty::B16 => "b16",
            Ty::B32 => "b32",
            Ty::B64 => "b64",
            Ty::B128 => "b128",
            Ty::U8 => "u8",
            Ty::U16 => "u16",
            Ty::U32 => "u32",
            Ty::U64 => "u64",
            Ty::S8 => "s8",
            Ty::S16 => "s16",
            Ty::S32 => "s32",
            Ty::S64 => "s64",
            Ty::F16 => "f16",
            Ty::F16x2 => "f16x2",
            Ty::F32 => "f32",
            Ty::F64 => "f64",
            Ty::Bf16 => "bf16",
            Ty::Bf16x2 => "bf16x2",
            Ty::Tf32 => "tf32",
            Ty::E4m3 => "e4m3",
            Ty::E5m2 => "e5m2",
            Ty::E4m3x2 => "e4m3x2",
            Ty::E5m2x2 => "e5m2x2",
            Ty::U16x2 => "u16x2",
            Ty::S16x2 => "s16x2",
        }
    }

    /// Bits of one value; 1 for a predicate.
    pub fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 | Ty::E4m3 | Ty::E5m2 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 | Ty::E4m3x2 | Ty::E5m2x2 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::Tf32 => 32,
            Ty::F16x2 | Ty::Bf16x2 | Ty::U16x2 | Ty::S16x2 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 64,
            Ty::B128 => 128,
        }
    }

    /// Bytes of one value in memory; 0 for a predicate, which has no address.
    pub fn bytes(self) -> u32 {
        self.bits() / 8
    }

    pub fn kind(self) -> Kind {
        match self {
            Ty::Pred => Kind::Pred,
            Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 | Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 => {
                Kind::Int
            }
            Ty::F16 | Ty::F16x2 | Ty::F32 | Ty::F64 => Kind::Float,
            // The alternate formats live in untyped registers.
            _ => Kind::Bits,
        }
    }

    /// A format beyond the fundamental types, whose values are in `.b` registers.
    pub fn is_alternate(self) -> bool {
        !matches!(self, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128)
            && self.kind() == Kind::Bits
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 | Ty::S16x2)
    }

    const ALL: [Ty; 27] = [
        Ty::Pred,
        Ty::B8,
        Ty::B16,
        Ty::B32,
        Ty::B64,
        Ty::B128,
        Ty::U8,
        Ty::U16,
        Ty::U32,
        Ty::U64,
        Ty::S8,
        Ty::S16,
        Ty::S32,
        Ty::S64,
        Ty::F16,
        Ty::F16x2,
        Ty::F32,
        Ty::F64,
        Ty::Bf16,
        Ty::Bf16x2,
        Ty::Tf32,
        Ty::E4m3,
        Ty::E5m2,
        Ty::E4m3x2,
        Ty::E5m2x2,
        Ty::U16x2,
        Ty::S16x2,
    ];
}

impl std::fmt::Display for Ty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, ".{}", self.name())
    }
}
