//! A parsed module: names resolved, scopes flattened, every modifier kept in its order.

use super::ty::Ty;

/// Where something stands in the source, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pos {
    pub line: u32,
    pub column: u32,
}

/// A whole PTX file.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version 8.4` is `(8, 4)`.
    pub version: (u32, u32),
    /// The architecture of `.target`, as a number: `sm_80` is 80.
    pub target: u32,
    /// The letter of `sm_90a` and `sm_100f`, if there is one.
    pub target_suffix: Option<char>,
    /// Variables of the module's scope: `.global`, `.const` and `.shared`.
    pub variables: Vec<Variable>,
    /// Entries and functions. A prototype that is followed by its definition is not listed.
    pub functions: Vec<Function>,
}

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// How a symbol is seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linkage {
    #[default]
    Internal,
    Visible,
    Extern,
    Weak,
    Common,
}

/// A variable or parameter that lives in memory.
#[derive(Debug, Clone)]
pub struct Variable {
    pub pos: Pos,
    pub name: String,
    pub space: Space,
    pub linkage: Linkage,
    pub ty: Ty,
    /// Bytes. The declared `.align`, or the natural alignment of the type.
    pub align: u32,
    /// Bytes of the whole variable: vector width and dimensions included; 0 for `.extern .shared .b8 name[]`.
    pub size: u64,
    /// The initial bytes, for variables with an initialiser; shorter than `size` means zeros behind.
    pub init: Vec<u8>,
    /// Places in `init` that hold the address of a symbol.
    pub relocations: Vec<Relocation>,
}

/// `init[offset..offset + 8]` is the address of `symbol` plus `addend`.
#[derive(Debug, Clone)]
pub struct Relocation {
    pub offset: u64,
    pub symbol: String,
    pub addend: i64,
    /// `generic(symbol)`: the generic address rather than the one in its space.
    pub generic: bool,
}

/// `.entry` or `.func`.
#[derive(Debug, Clone, Default)]
pub struct Function {
    pub pos: Pos,
    pub name: String,
    pub is_entry: bool,
    pub linkage: Linkage,
    /// Memory parameters; for a `.func` with register parameters, see `register_params`.
    pub params: Vec<Variable>,
    /// Return values in `.param` space.
    pub returns: Vec<Variable>,
    /// `.func` parameters declared `.reg`, in order; empty when they are `.param`.
    pub register_params: Vec<RegId>,
    /// `.func` return values declared `.reg`.
    pub register_returns: Vec<RegId>,
    /// The registers of every scope of the body. Of a range such as `%r<10>` only those that are
    /// used are listed. [`RegId`] indexes it.
    pub registers: Vec<Register>,
    /// `.shared`, `.local` and `.param` variables of every scope of the body. [`VarId`] indexes it.
    pub variables: Vec<Variable>,
    /// Names of labels. [`LabelId`] indexes it.
    pub labels: Vec<String>,
    pub body: Vec<Statement>,
    /// `.maxntid` and `.reqntid`: `.reqntid 256` is `[256, 1, 1]`, and zeros are none given.
    pub max_threads: [u32; 3],
    pub required_threads: [u32; 3],
    /// `.reqnctapercluster`: blocks of a cluster.
    pub required_cluster: Option<[u32; 3]>,
    pub max_registers: Option<u32>,
    pub min_blocks_per_sm: Option<u32>,
    /// A prototype without a body that no definition followed.
    pub is_declaration: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegId(pub u32);
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VarId(pub u32);
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelId(pub u32);

/// One scalar register. `.reg .v4 .f32 %v` is four: `%v.x`, `%v.y`, `%v.z`, `%v.w`.
#[derive(Debug, Clone)]
pub struct Register {
    pub name: String,
    pub ty: Ty,
}

#[derive(Debug, Clone)]
pub enum Statement {
    Label(LabelId),
    Instruction(Instruction),
    /// `name: .branchtargets a, b, c;`: the label list that `brx.idx` names.
    BranchTargets {
        name: String,
        labels: Vec<LabelId>,
    },
}

/// `@%p opcode.modifier.modifier operand, operand;`
#[derive(Debug, Clone)]
pub struct Instruction {
    pub pos: Pos,
    pub guard: Option<Guard>,
    /// Up to the first dot: `mad`, `cp`, `mma`, `ld`.
    pub opcode: String,
    /// Between the dots, in order, without them: `["lo", "s32"]`, `["async", "ca", "shared::cta", "global"]`.
    pub modifiers: Vec<String>,
    pub operands: Vec<Operand>,
}

/// `@%p` or `@!%p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    pub reg: RegId,
    pub negated: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Reg(RegId),
    /// `!%p`.
    Not(RegId),
    /// An integer constant expression, evaluated; the sign is in the two's complement.
    Int(i128),
    /// `0f3F800000`: an f32 as its bits.
    F32(u32),
    /// `0d3FF0000000000000` or a decimal `1.0`: an f64 as its bits.
    F64(u64),
    /// `{a, b, c, d}`. `%v` of a vector register is this too.
    Vector(Vec<Operand>),
    /// `[base + offset]`. Without a base, `offset` is the address.
    Address {
        base: Option<Base>,
        offset: i64,
    },
    /// `[tensor, {c0, c1}]` and other bracketed lists.
    AddressList(Vec<Operand>),
    /// The address of a variable, or a function's name: `mov.u64 %rd, table + 8`.
    Symbol {
        symbol: Symbol,
        offset: i64,
    },
    Special(Special),
    Label(LabelId),
    /// `_`.
    Sink,
    /// `%p|%q`: the two results of `setp`, `shfl`, `match.all` and `elect`.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of `call`.
    List(Vec<Operand>),
    /// A name of `.branchtargets` or `.callprototype`.
    Table(String),
}

/// What an address starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    Reg(RegId),
    Symbol(Symbol),
}

/// Something with an address.
#[derive(Debug, Clone, PartialEq)]
pub enum Symbol {
    /// A variable of the function's body.
    Local(VarId),
    /// Index into the function's `params`.
    Param(u32),
    /// Index into the function's `returns`.
    Return(u32),
    /// A variable of the module.
    Global(String),
    Function(String),
}

/// A special register. The number of vector registers is their component: 0 is `x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicSmemSize,
    TotalSmemSize,
    IsExplicitCluster,
    ClusterId(u8),
    NClusterId(u8),
    ClusterCtaId(u8),
    ClusterNCtaId(u8),
    ClusterCtaRank,
    ClusterNCtaRank,
}
