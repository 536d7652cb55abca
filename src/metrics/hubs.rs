//! Hubness: how unevenly the rows of a gallery are found (Radovanović et al., JMLR 2010).
//!
//! ```
//! use nearkin::metrics::hubs;
//!
//! // Three queries found row 1, one of them row 0 too.
//! let counts = hubs::occurrences([&[1u64, 0][..], &[1], &[1]], 4)?;
//! assert_eq!(counts, [1, 3, 0, 0]);
//! assert!(hubs::skewness(&counts) > 0.0);
//! # Ok::<(), nearkin::Error>(())
//! ```

use crate::{Error, Result};

/// How often each of `rows` rows is among those found, query by query: the k-occurrences of searches for k rows.
///
/// # Errors
/// [`Error::Argument`] if a row was found that is not there.
pub fn occurrences<'a>(
    found: impl IntoIterator<Item = &'a [u64]>,
    rows: usize,
) -> Result<Vec<u32>> {
    let mut counts = vec![0u32; rows];
    for &row in found.into_iter().flatten() {
        let count = usize::try_from(row).ok().and_then(|row| counts.get_mut(row));
        match count {
            Some(count) => *count += 1,
            None => {
                let expected = format!("rows below {rows}");
                return Err(Error::argument("found", expected, row.to_string()));
            }
        }
    }
    Ok(counts)
}

/// The skewness of counts, those of 0 included: the mean of `((n - mean) / deviation)³`, with the population's deviation. 0 if all are
/// equal. Above 0 where few rows are found far more often than most.
pub fn skewness(counts: &[u32]) -> f64 {
    let n = counts.len().max(1) as f64;
    let mean = counts.iter().map(|&c| f64::from(c)).sum::<f64>() / n;
    let moment = |power| counts.iter().map(|&c| (f64::from(c) - mean).powi(power)).sum::<f64>() / n;
    let variance = moment(2);
    if variance == 0.0 { 0.0 } else { moment(3) / variance.powf(1.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed_skewness() {
        // Deviations -1, -1, -1, 3: moments 3 and (27 - 3) / 4 = 6.
        assert!((skewness(&[0, 0, 0, 4]) - 6.0 / 3f64.powf(1.5)).abs() < 1e-12);
        assert!(skewness(&[4, 4, 4, 0]) < 0.0);
        assert_eq!(skewness(&[2, 2]), 0.0);
        assert_eq!(skewness(&[]), 0.0);
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        assert!(matches!(occurrences([&[4u64][..]], 4), Err(Error::Argument { .. })));
        assert_eq!(occurrences([], 2).unwrap(), [0, 0]);
    }
}
