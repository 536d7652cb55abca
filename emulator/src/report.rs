//! What a kernel did wrong, and where.

use serde::{Deserialize, Serialize};

use crate::memory::ViolationKind;

/// The rule that a kernel broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    OutOfBounds,
    UseAfterFree,
    Misaligned,
    /// A store to constant memory.
    ReadOnly,
    /// A register, or memory, that was never written is read.
    Uninitialized,
    /// Two threads touch the same bytes, one of them writes, and nothing orders them.
    Race,
    /// The bytes of an asynchronous copy are touched before its wait.
    UnwaitedCopy,
    /// A warp-wide instruction or barrier without all its threads.
    Divergence,
    /// A barrier used with the wrong number or with differing counts of threads.
    Barrier,
    /// Threads wait for what can no longer happen.
    Deadlock,
    /// The launch executed more instructions than its budget.
    Budget,
    /// The kernel executed `trap`.
    Trap,
    /// The parameters of a launch do not fit the kernel.
    Parameters,
}

impl Check {
    /// As in reports and settings: `out-of-bounds`.
    pub fn name(self) -> &'static str {
        match self {
            Check::OutOfBounds => "out-of-bounds",
            Check::UseAfterFree => "use-after-free",
            Check::Misaligned => "misaligned",
            Check::ReadOnly => "read-only",
            Check::Uninitialized => "uninitialized",
            Check::Race => "race",
            Check::UnwaitedCopy => "unwaited-copy",
            Check::Divergence => "divergence",
            Check::Barrier => "barrier",
            Check::Deadlock => "deadlock",
            Check::Budget => "budget",
            Check::Trap => "trap",
            Check::Parameters => "parameters",
        }
    }
}

impl From<ViolationKind> for Check {
    fn from(kind: ViolationKind) -> Check {
        match kind {
            ViolationKind::OutOfBounds => Check::OutOfBounds,
            ViolationKind::UseAfterFree => Check::UseAfterFree,
            ViolationKind::Misaligned => Check::Misaligned,
            ViolationKind::ReadOnly => Check::ReadOnly,
            ViolationKind::Uninitialized => Check::Uninitialized,
            ViolationKind::Race => Check::Race,
            ViolationKind::UnwaitedCopy => Check::UnwaitedCopy,
        }
    }
}

/// The first rule that a launch broke; the launch ends there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub check: Check,
    pub kernel: String,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid` of the first thread that broke the rule.
    pub thread: [u32; 3],
    /// Line of the PTX text, from 1; 0 where no instruction is to blame.
    pub line: u32,
    /// The instruction as it is in the text.
    pub instruction: String,
    /// The address, for a memory access.
    pub address: Option<u64>,
    /// What happened and what was expected.
    pub what: String,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        writeln!(f, "{}: {}", self.check.name(), self.what)?;
        if self.line > 0 {
            writeln!(f, "  at line {}: {}", self.line, self.instruction)?;
        }
        write!(f, "  in {}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})", self.kernel)?;
        match self.address {
            Some(address) => write!(f, ", address {address:#x}"),
            None => Ok(()),
        }
    }
}
