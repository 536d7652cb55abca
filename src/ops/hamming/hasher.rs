//! What turns vectors into codes: a projection, or none, and thresholds.

use super::check_bits;
use super::itq::{self, Itq};
use crate::device::threads::items::*;
use crate::ops::length::scaled;
use crate::{Device, Error, Result, Tensor};

/// A hash function from vectors of `dim` dimensions to `bits` bits, on one device: bit `i = [p_i · x > t_i]`, or
/// `[x_i > t_i]` without a projection. The mean of a centred kind is in the thresholds: `p · (x - m) > t` where
/// `p · x > t + p · m`.
#[derive(Clone, Debug)]
pub struct Hasher {
    dim: usize,
    bits: usize,
    /// \[bits, dim\] on the host.
    rows: Option<std::sync::Arc<[f32]>>,
    host: std::sync::Arc<[f32]>,
    /// The projection for kernels: \[bits / 32, dim, 32\], so that neighbouring bits are neighbours.
    packed: Option<Tensor>,
    thresholds: Tensor,
}

impl Hasher {
    /// The caller's own: `projection` \[bits, dim\], or none where `dim` is the number of bits, and `thresholds` \[bits\].
    ///
    /// # Errors
    /// [`Error::Argument`] if there are not 32 to 2^17 thresholds, a multiple of 32, or `dim` is 0; [`Error::Shape`] if
    /// the projection does not fit; [`Error::OutOfMemory`].
    pub fn new(
        device: &Device,
        dim: usize,
        projection: Option<&[f32]>,
        thresholds: &[f32],
    ) -> Result<Hasher> {
        let bits = thresholds.len();
        check_bits(bits)?;
        let fits = match projection {
            _ if dim == 0 || u32::try_from(dim).is_err() => {
                return Err(Error::argument("dim", "1 to 4294967295", dim.to_string()));
            }
            Some(rows) => bits.checked_mul(dim) == Some(rows.len()),
            None => bits == dim,
        };
        if !fits {
            let (expected, got) = match projection {
                Some(rows) => (format!("a projection [{bits}, {dim}]"), rows.len()),
                None => (format!("{dim} thresholds without a projection"), bits),
            };
            return Err(Error::shape("hasher", expected, format!("{got} values")));
        }
        let packed = match projection {
            None => None,
            Some(rows) => {
                let mut packed = vec![0.0f32; rows.len()];
                let panels = packed.par_chunks_mut(32 * dim).zip(rows.par_chunks(32 * dim));
                device.threads().for_each(rows.len(), panels, |(to, rows)| {
                    for (bit, row) in rows.chunks_exact(dim).enumerate() {
                        for (d, &v) in row.iter().enumerate() {
                            to[d * 32 + bit] = v;
                        }
                    }
                });
                Some(Tensor::from_slice(device, &[bits / 32, dim, 32], &packed)?)
            }
        };
        Ok(Hasher {
            dim,
            bits,
            rows: projection.map(Into::into),
            host: thresholds.into(),
            packed,
            thresholds: Tensor::from_slice(device, &[bits], thresholds)?,
        })
    }

    /// The sign of each dimension about `mean` \[dim\]: as many bits as dimensions. Zeros are no centring.
    ///
    /// # Errors
    /// As [`Hasher::new`].
    pub fn sign(device: &Device, mean: &[f32]) -> Result<Hasher> {
        Hasher::new(device, mean.len(), None, mean)
    }

    /// The sides of `bits` random hyperplanes through `mean` \[dim\], whose normals are standard normal: the fraction of bits
    /// that differ estimates the angle (Charikar, STOC 2002). The same seed gives the same planes on every platform.
    ///
    /// # Errors
    /// As [`Hasher::new`].
    pub fn random(device: &Device, mean: &[f32], bits: usize, seed: u64) -> Result<Hasher> {
        check_bits(bits)?;
        let dim = mean.len();
        let fits = |n: &usize| (1..=isize::MAX as usize / 4).contains(n);
        let Some(count) = bits.checked_mul(dim).filter(fits) else {
            return Err(Error::argument(
                "dim",
                "at least 1, and planes that memory holds",
                dim.to_string(),
            ));
        };
        let mut normals = itq::Normals::new(seed);
        let planes: Vec<f32> = (0..count).map(|_| normals.draw() as f32).collect();
        let thresholds = planes.chunks_exact(dim).map(|p| dot(p, mean) as f32).collect::<Vec<_>>();
        Hasher::new(device, dim, Some(&planes), &thresholds)
    }

    /// Iterative quantisation: the principal directions of `samples` \[N, dim\], rotated so that signs lose least (Gong and
    /// Lazebnik, CVPR 2011). Fitted on the host in f64.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are more bits than dimensions, fewer than 2 samples, or values that are not finite;
    /// [`Error::Shape`] if the samples are not whole rows; as [`Hasher::new`].
    pub fn itq(device: &Device, samples: &[f32], dim: usize, itq: &Itq) -> Result<Hasher> {
        let (projection, mean) = itq::fit(device.threads(), samples, dim, itq)?;
        let thresholds: Vec<f32> = projection
            .chunks_exact(dim)
            .map(|p| p.iter().zip(&mean).map(|(p, m)| p * m).sum::<f64>() as f32)
            .collect();
        let projection: Vec<f32> = projection.iter().map(|&p| p as f32).collect();
        Hasher::new(device, dim, Some(&projection), &thresholds)
    }

    /// `p_i · x - t_i` of rows \[n, dim\] on the host: \[n, bits\], for asymmetric scores of queries; infinite beyond f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are not whole rows.
    pub fn project(&self, x: &[f32]) -> Result<Vec<f32>> {
        let (mut values, exponents) = self.project_scaled(x)?;
        for (row, &e) in values.chunks_mut(self.bits).zip(&exponents).filter(|(_, e)| **e != 0) {
            row.iter_mut().for_each(|v| *v = scaled(*v, e));
        }
        Ok(values)
    }

    /// The same, each row divided by 2 to the power of its exponent, which is not 0 only where the row would not be finite.
    pub(crate) fn project_scaled(&self, x: &[f32]) -> Result<(Vec<f32>, Vec<i32>)> {
        if !x.len().is_multiple_of(self.dim) {
            let expected = format!("rows of dimension {}", self.dim);
            return Err(Error::shape("hasher", expected, format!("{} values", x.len())));
        }
        let row = |x: &[f32], exponent: i32| -> Vec<f32> {
            let factor = 2f64.powi(-exponent);
            let value = |i: usize| match &self.rows {
                Some(rows) => (dot(&rows[i * self.dim..][..self.dim], x) * factor) as f32,
                None => (x[i] as f64 * factor) as f32,
            };
            (0..self.bits).map(|i| value(i) - scaled(self.host[i], -exponent)).collect()
        };
        let finite = |x: &[f32]| x.iter().all(|v| v.is_finite());
        let one = |x: &[f32]| match row(x, 0) {
            values if finite(&values) || !finite(x) => (values, 0),
            _ => (row(x, FAR), FAR),
        };
        let cost = x.len() * self.rows.as_ref().map_or(1, |_| self.bits);
        let found = self.thresholds.device().threads().map(cost, x.par_chunks(self.dim), one);
        let (values, exponents): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Ok((values.concat(), exponents))
    }

    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Bits of a code.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// The projection \[bits, dim\], if there is one.
    pub fn projection(&self) -> Option<&[f32]> {
        self.rows.as_deref()
    }

    /// The thresholds \[bits\] on the device.
    pub fn thresholds(&self) -> &Tensor {
        &self.thresholds
    }

    /// The thresholds \[bits\] on the host.
    pub fn host_thresholds(&self) -> &[f32] {
        &self.host
    }

    /// Bytes on the device: `4 bits`, and `4 bits dim` for a projection. The host holds as many.
    pub fn bytes(&self) -> usize {
        self.packed.as_ref().map_or(0, Tensor::bytes) + self.thresholds.bytes()
    }

    pub(crate) fn packed(&self) -> Option<&Tensor> {
        self.packed.as_ref()
    }
}

/// What a projection beyond f32 is divided by, as an exponent of 2.
const FAR: i32 = 64;

/// A product summed in f64, which keeps the order of additions from mattering.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
}
