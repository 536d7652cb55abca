//! Pooling of token vectors to one vector a sequence.
//!
//! Counted on CUDA, as `tests/cost` asserts: the mean of 425 rows of 768 in five sequences takes 1,320,992 bytes of memory,
//! 1.000 of the least possible, in 23,704 warp instructions; of a mask's rows only those that count are read.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::embed::{MISSING, select_rows};
use super::{check, matrix};
use crate::device::Backend;
use crate::{DType, Error, Offsets, Result, Tensor};

/// How the vectors of a sequence's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling<'a> {
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// The token's at this position within each sequence, one position a sequence.
    At(&'a [u32]),
    /// The mean over the tokens that count.
    Mean,
    /// The maximum of each column over the tokens that count; NaN if one of them is NaN.
    Max,
}

/// A reduction over rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Mean,
    Max,
}

/// The inputs of a reduction after the checks.
pub(crate) struct Args<'a> {
    kind: Kind,
    x: &'a Tensor,
    offsets: &'a Offsets,
    mask: Option<&'a [bool]>,
    width: usize,
}

/// One vector for each sequence of `x` (Reimers, Gurevych, arXiv:1908.10084, section 3): that of one token, or the
/// mean or maximum of each column over the sequence's tokens. Mean and maximum leave out rows whose `mask` is false;
/// the mean divides by the number of rows it takes.
///
/// `x` \[T, H\] f32 with the T rows that `offsets` divide; `mask`, if any, of T. Gives \[sequences, H\] f32. A sequence
/// that is empty or has no unmasked row gives zeros, whatever position is asked of it. A sequence's rows are added
/// in their order, so that its result does not depend on the others.
///
/// # Errors
/// [`Error::Argument`] if a position is outside its sequence or there is not one for each; [`Error::Shape`] if shapes,
/// dtypes, devices or the mask's length do not fit.
pub fn pool(
    x: &Tensor,
    offsets: &Offsets,
    how: Pooling<'_>,
    mask: Option<&[bool]>,
) -> Result<Tensor> {
    const OP: &str = "pool";
    let (rows, width) = matrix(OP, "x", x)?;
    check(OP, "x", x, DType::F32, &[offsets.total(), width])?;
    super::check_devices(OP, &[x, offsets.tensor()])?;
    if let Some(mask) = mask
        && mask.len() != rows
    {
        return Err(Error::shape(OP, format!("a mask of {rows} rows"), mask.len().to_string()));
    }
    let kind = match how {
        Pooling::Cls => return at(x, offsets, |_| 0),
        Pooling::Last => return at(x, offsets, |i| offsets.range(i).len() as u32 - 1),
        Pooling::At(positions) => {
            check_positions(offsets, positions)?;
            return at(x, offsets, |i| positions[i]);
        }
        Pooling::Mean => Kind::Mean,
        Pooling::Max => Kind::Max,
    };
    if x.is_empty() {
        return Tensor::zeros(x.device(), DType::F32, &[offsets.len(), width]);
    }
    let args = Args { kind, x, offsets, mask, width };
    match x.device().backend() {
        Backend::Cpu(_) => cpu::pool(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::pool(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::pool(gpu, &args),
    }
}

/// The row at `position(i)` of each sequence `i` that is not empty.
fn at(x: &Tensor, offsets: &Offsets, position: impl Fn(usize) -> u32) -> Result<Tensor> {
    if x.is_empty() {
        return Tensor::zeros(x.device(), DType::F32, &[offsets.len(), x.shape()[1]]);
    }
    let row = |i| match offsets.range(i) {
        range if range.is_empty() => MISSING,
        range => range.start as u32 + position(i),
    };
    select_rows(x, &(0..offsets.len()).map(row).collect::<Vec<_>>())
}

fn check_positions(offsets: &Offsets, positions: &[u32]) -> Result<()> {
    if positions.len() != offsets.len() {
        let expected = format!("{}, one a sequence", offsets.len());
        return Err(Error::argument("positions", expected, positions.len().to_string()));
    }
    for (i, &position) in positions.iter().enumerate() {
        let length = offsets.range(i).len();
        if length > 0 && position as usize >= length {
            let expected = format!("positions within sequences, here below {length}");
            return Err(Error::argument(
                "positions",
                expected,
                format!("{position} for sequence {i}"),
            ));
        }
    }
    Ok(())
}

impl Args<'_> {
    /// Whether a row counts.
    #[inline(always)]
    fn takes(&self, row: usize) -> bool {
        self.mask.is_none_or(|mask| mask[row])
    }

    /// The number of rows of sequence `i` that count.
    fn count(&self, i: usize) -> usize {
        self.offsets.range(i).filter(|&row| self.takes(row)).count()
    }
}
