//! Embedding lookup, row gather and scatter.
//!
//! All three are one thing: each row of the result is a sum of table rows that the host names by number. A scatter
//! is the gather of the inverse numbering, in which rows that nothing goes to are missing.
//!
//! Counted on CUDA, as `tests/cost` asserts: two lookups and a LayerNorm of 256 tokens x 768 in f32 take 2,367,488 bytes of
//! memory, 1.000 of the least possible, in 106,240 warp instructions; a gather 1,573,888 bytes, 1.000.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::{check, check_devices, check_float, matrix};
use crate::device::{Backend, host};
use crate::{DType, Error, Result, Tensor};

/// The row number that stands for a row of zeros. Tables have fewer rows than this.
pub(crate) const MISSING: u32 = u32::MAX;

/// One lookup table and the row of it that each token takes.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// \[rows, H\] of f32, f16 or bf16.
    pub table: &'a Tensor,
    /// A row number for each token.
    pub rows: &'a [u32],
}

/// A LayerNorm fused behind the sum of the lookups.
#[derive(Clone, Copy, Debug)]
pub struct EmbedNorm<'a> {
    /// \[H\] f32.
    pub weight: &'a Tensor,
    /// \[H\] f32.
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f32,
}

/// The inputs after the checks.
pub(crate) struct Args<'a> {
    tables: &'a [&'a Tensor],
    /// \[tokens, tables\] u32, on the device.
    rows: &'a Tensor,
    norm: Option<EmbedNorm<'a>>,
    tokens: usize,
    width: usize,
}

/// The input of a transformer encoder (Devlin et al., arXiv:1810.04805): for each token the sum of one row of each
/// table, `y_t = table_1[rows_1[t]] + table_2[rows_2[t]] + …`, added in f32 in the order given, and then, if `norm`
/// is given, its [`layer_norm`](super::norm::layer_norm).
///
/// One to three lookups (token, position, type) with tables \[rows, H\] and T row numbers each. Gives \[T, H\] f32.
///
/// # Errors
/// [`Error::Argument`] if a row number is outside its table, naming it and its position, if there are no lookups or
/// more than three, or if `eps` is negative or NaN; [`Error::Shape`] if shapes, dtypes or devices do not fit.
pub fn embed(lookups: &[Lookup<'_>], norm: Option<EmbedNorm<'_>>) -> Result<Tensor> {
    let numbers = row_numbers(lookups, norm)?;
    let tables: Vec<&Tensor> = lookups.iter().map(|l| l.table).collect();
    let shape = [numbers.len() / tables.len(), tables.len()];
    embed_rows(&tables, &Tensor::from_slice(tables[0].device(), &shape, &numbers)?, norm)
}

/// The sum of two matrices \[T, H\] of floats, f32.
pub(crate) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let all: Vec<u32> = (0..check_table("sum", a)? as u32).collect();
    embed(&[a, b].map(|table| Lookup { table, rows: &all }), None)
}

/// The arguments of [`embed`] checked, and their row numbers as [`embed_rows`] takes them: \[T, tables\].
pub(crate) fn row_numbers(lookups: &[Lookup<'_>], norm: Option<EmbedNorm<'_>>) -> Result<Vec<u32>> {
    let tokens = check_lookups(lookups, norm)?;
    Ok((0..tokens).flat_map(|t| lookups.iter().map(move |l| l.rows[t])).collect())
}

/// [`embed`] for row numbers \[T, tables\] u32 that are on the device and were checked ([`row_numbers`]). On GPUs it only
/// enqueues.
pub(crate) fn embed_rows(
    tables: &[&Tensor],
    rows: &Tensor,
    norm: Option<EmbedNorm<'_>>,
) -> Result<Tensor> {
    let args = Args { tables, rows, norm, tokens: rows.shape()[0], width: tables[0].shape()[1] };
    match rows.device().backend() {
        Backend::Cpu(_) => cpu::embed(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::embed(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::embed(gpu, &args),
    }
}

/// Checks the arguments of [`embed`] and gives the number of tokens.
fn check_lookups(lookups: &[Lookup<'_>], norm: Option<EmbedNorm<'_>>) -> Result<usize> {
    const OP: &str = "embed";
    if lookups.is_empty() || lookups.len() > 3 {
        let got = lookups.len().to_string();
        return Err(Error::argument("lookups", "one to three tables", got));
    }
    let (_, width) = matrix(OP, "table", lookups[0].table)?;
    let tokens = lookups[0].rows.len();
    for (i, lookup) in lookups.iter().enumerate() {
        let size = check_table(OP, lookup.table)?;
        if lookup.table.shape()[1] != width || lookup.rows.len() != tokens {
            return Err(Error::shape(
                OP,
                format!("table {i} of width {width} and {tokens} row numbers"),
                format!("width {} and {}", lookup.table.shape()[1], lookup.rows.len()),
            ));
        }
        check_rows(&format!("table {i}"), lookup.rows, size)?;
    }
    let mut all: Vec<&Tensor> = lookups.iter().map(|l| l.table).collect();
    if let Some(norm) = norm {
        check(OP, "weight", norm.weight, DType::F32, &[width])?;
        check(OP, "bias", norm.bias, DType::F32, &[width])?;
        if norm.eps.is_nan() || norm.eps < 0.0 {
            return Err(Error::argument("eps", "a number of at least 0", norm.eps.to_string()));
        }
        all.extend([norm.weight, norm.bias]);
    }
    check_devices(OP, &all)?;
    Ok(tokens)
}

/// The rows of `x` that `rows` names, in that order and as often as named: `y_i = x[rows[i]]`.
///
/// `x` \[N, W\] of any float dtype. Gives \[rows.len(), W\] f32.
///
/// # Errors
/// [`Error::Argument`] if a row number is not below N, [`Error::Shape`] if `x` is not a matrix of floats.
pub fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let size = check_table("gather_rows", x)?;
    check_rows("x", rows, size)?;
    select_rows(x, rows)
}

/// A matrix of zeros with the rows of `x` put at the places that `rows` names: `y[rows[i]] = x_i`.
///
/// `x` \[M, W\] of any float dtype with M = `rows.len()`. Gives \[into, W\] f32.
///
/// # Errors
/// [`Error::Argument`] if a row number is not below `into` or occurs twice, [`Error::Shape`] if `x` is not a matrix of
/// floats with a row for each number.
pub fn scatter_rows(x: &Tensor, rows: &[u32], into: usize) -> Result<Tensor> {
    const OP: &str = "scatter_rows";
    let size = check_table(OP, x)?;
    if size != rows.len() {
        return Err(Error::shape(OP, format!("{size} row numbers"), rows.len().to_string()));
    }
    check_rows("the result", rows, into)?;
    if x.is_empty() {
        return Tensor::zeros(x.device(), DType::F32, &[into, x.shape()[1]]);
    }
    let mut sources = host::filled(into, MISSING)?;
    for (i, &row) in rows.iter().enumerate() {
        let source = &mut sources[row as usize];
        if *source != MISSING {
            let got = format!("{row} at positions {source} and {i}");
            return Err(Error::argument("rows", "no row twice", got));
        }
        *source = i as u32;
    }
    select_rows(x, &sources)
}

/// The rows of `x` that `rows` names as \[rows.len(), W\] f32, zeros for [`MISSING`]. The caller has checked that `x`
/// is a float matrix with rows, and the row numbers.
pub(crate) fn select_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    embed_rows(&[x], &Tensor::from_slice(x.device(), &[rows.len(), 1], rows)?, None)
}

/// Checks a table and gives the number of its rows.
fn check_table(op: &'static str, table: &Tensor) -> Result<usize> {
    let (rows, _) = matrix(op, "the table", table)?;
    check_float(op, "the table", table)?;
    if rows > MISSING as usize {
        return Err(Error::shape(op, format!("at most {MISSING} rows"), rows.to_string()));
    }
    Ok(rows)
}

fn check_rows(table: &str, rows: &[u32], size: usize) -> Result<()> {
    match rows.iter().position(|&r| r as usize >= size) {
        None => Ok(()),
        Some(i) => Err(Error::argument(
            "rows",
            format!("row numbers below {size}, the size of {table}"),
            format!("{} at position {i}", rows[i]),
        )),
    }
}
