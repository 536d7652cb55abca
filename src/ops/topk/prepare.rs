//! Queries as kernels take them, made on their device.

use std::ops::{Range, RangeInclusive};

use super::{Args, Metric, Storage};
use crate::ops::length;
use crate::ops::rows::{self, Kind, Reduced};
use crate::{DType, Result};

/// What a search's queries are multiplied by: their inverse lengths for cosines, their powers of two for dot products.
pub(super) fn kind(metric: Metric) -> Kind {
    match metric {
        Metric::Cosine => Kind::Length,
        Metric::Dot => Kind::Power,
        Metric::L2 => Kind::One,
    }
}

/// The exponents of queries that are compared as they are with rows of a type: to f16 they may be rounded.
pub(super) fn plain(rows: DType) -> &'static RangeInclusive<i32> {
    if rows == DType::F16 { &length::PLAIN_F16 } else { &length::PLAIN }
}

/// Some of the queries: \[n, D\] f32 divided by their powers of two, or bytes in words where the corpus is in int8, and what
/// sums with them are multiplied by, NaN for a query with a NaN.
pub(super) fn prepare(args: &Args<'_>, queries: Range<usize>) -> Result<Reduced> {
    if args.corpus.storage() == Storage::Int8 {
        let int8 = rows::quantized(args.queries, queries)?;
        let scale = match args.metric {
            Metric::Cosine => rows::inverse_lengths(&int8)?,
            _ => int8.scales,
        };
        return Ok(Reduced { data: int8.words, scale });
    }
    let plain = plain(args.corpus.dtype());
    rows::reduced(args.queries, queries, kind(args.metric), plain)
}
