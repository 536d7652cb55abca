//! Iterative quantisation: principal directions, and the rotation that brings them closest to their signs.

use faer::{Mat, MatRef};

use super::check_bits;
use crate::device::threads::Threads;
use crate::ops::linear::{eigenvectors, product, svd};
use crate::{Error, Result};

/// How to fit [`Hasher::itq`](super::Hasher::itq).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Itq {
    /// Bits of a code; at most the dimension.
    pub bits: usize,
    /// Rounds of alternating between codes and rotation; the paper has 50.
    pub rounds: usize,
    /// Of the first rotation.
    pub seed: u64,
}

impl Itq {
    /// 50 rounds from seed 0.
    pub fn new(bits: usize) -> Itq {
        Itq { bits, rounds: 50, seed: 0 }
    }
}

/// The projection \[bits, dim\] and the mean \[dim\] for samples \[N, dim\].
///
/// With V the centred samples on the first principal directions W, each turned so that its greatest component is positive:
/// B = sign(V R), then R = the orthogonal factor of V^T B, which minimises |B - V R|; the projection is (W R)^T. The first R is
/// the orthogonal factor of a matrix of normals, row after row.
pub(super) fn fit(
    threads: &Threads,
    samples: &[f32],
    dim: usize,
    itq: &Itq,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let Itq { bits, rounds, seed } = *itq;
    check_bits(bits)?;
    if dim == 0 || !samples.len().is_multiple_of(dim) {
        let expected = format!("samples of dimension {dim}, at least 1");
        return Err(Error::shape("itq", expected, format!("{} values", samples.len())));
    }
    if bits > dim {
        let expected = format!("at most the dimension {dim}");
        return Err(Error::argument("bits", expected, bits.to_string()));
    }
    let n = samples.len() / dim;
    if n < 2 {
        return Err(Error::argument("samples", "at least 2 rows", n.to_string()));
    }
    if let Some(at) = samples.iter().position(|v| !v.is_finite()) {
        let got = format!("{} in row {}", samples[at], at / dim);
        return Err(Error::argument("samples", "finite values", got));
    }
    let mut mean = vec![0.0f64; dim];
    for row in samples.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(m, &v)| *m += v as f64);
    }
    mean.iter_mut().for_each(|m| *m /= n as f64);
    let centred = Mat::from_fn(n, dim, |i, j| samples[i * dim + j] as f64 - mean[j]);
    let covariance = product(threads, centred.transpose(), centred.as_ref());
    let failed = || Error::argument("samples", "a covariance that has eigenvectors", "none");
    let vectors = eigenvectors(covariance.as_ref()).ok_or_else(failed)?;
    let directions = Mat::from_fn(dim, bits, |i, j| {
        let column = dim - 1 - j;
        let mut greatest = 0.0f64;
        for r in 0..dim {
            let v = vectors[(r, column)];
            if v.abs() > greatest.abs() * (1.0 + 1e-9) {
                greatest = v;
            }
        }
        vectors[(i, column)] * greatest.signum()
    });
    let v = product(threads, centred.as_ref(), directions.as_ref());
    let mut normals = Normals::new(seed);
    let mut first = Mat::zeros(bits, bits);
    for i in 0..bits {
        for j in 0..bits {
            first[(i, j)] = normals.draw();
        }
    }
    let mut rotation = orthogonal(threads, first.as_ref())?;
    for _ in 0..rounds {
        let turned = product(threads, v.as_ref(), rotation.as_ref());
        let signs = Mat::from_fn(n, bits, |i, j| if turned[(i, j)] > 0.0 { 1.0 } else { -1.0 });
        let turn = product(threads, v.transpose(), signs.as_ref());
        rotation = orthogonal(threads, turn.as_ref())?;
    }
    let projection = product(threads, directions.as_ref(), rotation.as_ref());
    let rows = (0..bits).flat_map(|i| (0..dim).map(move |j| (i, j)));
    Ok((rows.map(|(i, j)| projection[(j, i)]).collect(), mean))
}

/// The orthogonal matrix closest to one: U V^T of its singular value decomposition.
fn orthogonal(threads: &Threads, m: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let failed = || Error::argument("samples", "a matrix that has singular values", "none");
    let svd = svd(m).ok_or_else(failed)?;
    Ok(product(threads, svd.u.as_ref(), svd.v.transpose()))
}

/// Standard normals that are the same everywhere: SplitMix64 and Marsaglia's polar method, with a logarithm of additions,
/// products and quotients alone, which every platform rounds alike.
pub(super) struct Normals {
    state: u64,
    spare: Option<f64>,
}

impl Normals {
    pub(super) fn new(seed: u64) -> Normals {
        Normals { state: seed, spare: None }
    }

    /// Uniform in (-1, 1).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 11) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64) - 1.0
    }

    pub(super) fn draw(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (u, v) = (self.uniform(), self.uniform());
            let s = u * u + v * v;
            if s < 1.0 && s > 0.0 {
                let scale = (-2.0 * ln(s) / s).sqrt();
                self.spare = Some(v * scale);
                return u * scale;
            }
        }
    }
}

/// The natural logarithm of a positive normal number, within 1e-14 or so: 2 artanh((m - 1) / (m + 1)) + e ln 2.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let mut series = 0.0;
    for n in (0..=10).rev() {
        series = series * square + 1.0 / (2 * n + 1) as f64;
    }
    2.0 * z * series + exponent as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::{Normals, ln};

    #[test]
    fn the_logarithm_is_one() {
        for x in [1e-300, 1e-9, 0.25, 0.7, 0.999_999, 1.0, 1.414, 1.415, 3.0, 1e200] {
            let x: f64 = x;
            assert!((ln(x) - x.ln()).abs() <= 1e-13 * x.ln().abs().max(1.0), "{x}");
        }
    }

    #[test]
    fn normals_are_normal_and_the_same_everywhere() {
        let mut normals = Normals::new(7);
        let all: Vec<f64> = (0..20_000).map(|_| normals.draw()).collect();
        let moment = |p| all.iter().map(|v: &f64| v.powi(p)).sum::<f64>() / all.len() as f64;
        assert!(moment(1).abs() < 0.03 && (moment(2) - 1.0).abs() < 0.04, "{all:?}");
        assert!((moment(4) - 3.0).abs() < 0.25);
    }
}
