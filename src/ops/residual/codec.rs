//! Learning a codec and using it.

use std::sync::Arc;

use super::{Codes, OP};
use crate::device::threads::items::*;
use crate::ops::kmeans::{KMeans, kmeans};
use crate::ops::length::normalize;
use crate::ops::topk::{Corpus, Metric, Search, topk};
use crate::ops::{check, check_float, matrix};
use crate::{DType, Device, Error, Result, Tensor};

/// Bytes of vectors that are assigned to centroids at a time.
const VECTORS: usize = 32 << 20;
/// The largest dimension, that of [`maxsim`](crate::ops::maxsim).
const MAX_DIM: usize = 1024;
/// Every so many vectors one is kept from k-means, for the quantiles.
const HELD_OUT: usize = 20;
/// Vectors that the quantiles are taken of, at most.
const QUANTILES: usize = 50_000;

/// How to learn a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// Bits a dimension: 1, 2 or 4.
    pub bits: u32,
    /// Centroids; [`Codec::clusters`] is ColBERTv2's choice.
    pub clusters: usize,
    /// Rounds of k-means at most; ColBERTv2 takes 4.
    pub rounds: usize,
    /// What the first centroids are drawn with.
    pub seed: u64,
}

/// Centroids, cutoffs and weights: what vectors are compressed with.
#[derive(Clone, Debug)]
pub struct Codec {
    /// \[C, D\] f32 on the device.
    pub(super) centroids: Tensor,
    /// The same, to be searched.
    corpus: Corpus,
    /// The same on the host.
    host: Arc<[f32]>,
    bits: u32,
    cutoffs: Vec<f32>,
    weights: Vec<f32>,
    /// \[2^bits\] f32: the weights by the buckets' bits as they are stored, lowest first.
    pub(crate) table: Tensor,
    /// The weights of the fields of every byte, in the order of their dimensions.
    pub(super) bytes: Arc<[f32]>,
}

impl Codec {
    /// A codec of `centroids` \[C, D\] f32, with D a multiple of 8 up to 1024, `2^bits - 1` ascending cutoffs and `2^bits`
    /// weights for 1, 2 or 4 bits.
    ///
    /// # Errors
    /// [`Error::Shape`] if the centroids are no such matrix, [`Error::Argument`] if there are other numbers of cutoffs or
    /// weights, cutoffs descend or a number is not finite.
    pub fn new(centroids: &Tensor, cutoffs: &[f32], weights: &[f32]) -> Result<Codec> {
        let (count, dim) = matrix(OP, "centroids", centroids)?;
        check(OP, "centroids", centroids, DType::F32, &[count, dim])?;
        if count == 0 || dim == 0 || !dim.is_multiple_of(8) || dim > MAX_DIM {
            let expected =
                format!("centroids of a dimension that is a multiple of 8 up to {MAX_DIM}");
            return Err(Error::shape(OP, expected, format!("{:?}", centroids.shape())));
        }
        let bits = match weights.len() {
            2 => 1,
            4 => 2,
            16 => 4,
            other => return Err(Error::argument("weights", "2, 4 or 16", other.to_string())),
        };
        if cutoffs.len() + 1 != weights.len() {
            let expected = format!("{}, one fewer than weights", weights.len() - 1);
            return Err(Error::argument("cutoffs", expected, cutoffs.len().to_string()));
        }
        let host = centroids.to_vec::<f32>()?;
        if let Some(v) = host.iter().chain(cutoffs).chain(weights).find(|v| !v.is_finite()) {
            return Err(Error::argument("codec", "finite numbers", v.to_string()));
        }
        if let Some(w) = cutoffs.windows(2).find(|w| w[0] > w[1]) {
            let got = format!("{} before {}", w[0], w[1]);
            return Err(Error::argument("cutoffs", "ascending numbers", got));
        }
        let table = by_field(weights, bits);
        let per_byte = 8 / bits as usize;
        let field =
            |byte: usize, i: usize| byte >> (8 - bits as usize * (i + 1)) & (table.len() - 1);
        let bytes = (0..256).flat_map(|byte| (0..per_byte).map(move |i| (byte, i)));
        Ok(Codec {
            bytes: bytes.map(|(byte, i)| table[field(byte, i)]).collect(),
            corpus: Corpus::from_tensor(centroids)?,
            table: Tensor::from_slice(centroids.device(), &[table.len()], &table)?,
            centroids: centroids.clone(),
            host: host.into(),
            bits,
            cutoffs: cutoffs.to_vec(),
            weights: weights.to_vec(),
        })
    }

    /// A codec of `centroids` \[C, D\] whose cutoffs and weights are quantiles of the residuals of `vectors` \[T, D\], which
    /// are divided by their lengths first: cutoffs at i / 2^bits, weights at (i + 1/2) / 2^bits, between two values linear.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] if there are no vectors, a value is not finite or `bits` is not 1, 2 or 4.
    pub fn fit(centroids: &Tensor, vectors: &Tensor, bits: u32) -> Result<Codec> {
        if ![1, 2, 4].contains(&bits) {
            return Err(Error::argument("bits", "1, 2 or 4", bits.to_string()));
        }
        let buckets = 1usize << bits;
        let codec = Codec::new(centroids, &vec![0.0; buckets - 1], &vec![0.0; buckets])?;
        let host = codec.unit(vectors)?;
        if host.is_empty() {
            return Err(Error::argument("vectors", "at least one vector", "none"));
        }
        let nearest = codec.nearest(&host)?;
        let mut residuals: Vec<f32> = host
            .chunks(codec.dim())
            .zip(&nearest)
            .flat_map(|(v, &c)| v.iter().zip(codec.centroid(c)).map(|(v, c)| v - c))
            .collect();
        codec.device().threads().sort(&mut residuals);
        let quantile = |q: f64| {
            let at = q * (residuals.len() - 1) as f64;
            let (below, part) = (at.floor() as usize, at.fract());
            let above = (below + 1).min(residuals.len() - 1);
            let (low, high) = (residuals[below] as f64, residuals[above] as f64);
            (low + (high - low) * part) as f32
        };
        let step = 1.0 / buckets as f64;
        let cutoffs: Vec<f32> = (1..buckets).map(|i| quantile(i as f64 * step)).collect();
        let weights: Vec<f32> = (0..buckets).map(|i| quantile((i as f64 + 0.5) * step)).collect();
        Codec::new(centroids, &cutoffs, &weights)
    }

    /// A codec for vectors like `vectors` \[T, D\] (f32, f16 or bf16), on their device: centroids by [`kmeans`] over all but
    /// each twentieth, divided by their lengths, then [`fit`](Self::fit) to those twentieths (at most 50,000). Where too few
    /// vectors would be left for the centroids, all serve both. The same vectors and seed give the same codec.
    ///
    /// # Errors
    /// As [`fit`](Self::fit) and [`kmeans`].
    pub fn train(vectors: &Tensor, how: &Training) -> Result<Codec> {
        let (count, dim) = matrix(OP, "vectors", vectors)?;
        let device = vectors.device();
        let host = unit(vectors)?;
        let split = count - count / HELD_OUT >= how.clusters && count >= HELD_OUT;
        let part = |held_out: bool, most: usize| -> Result<Tensor> {
            let rows = host.chunks(dim.max(1)).enumerate();
            let rows = rows.filter(|(i, _)| (i % HELD_OUT == HELD_OUT - 1) == held_out || !split);
            let rows: Vec<f32> = rows.take(most).flat_map(|(_, row)| row).copied().collect();
            Tensor::from_slice(device, &[rows.len() / dim.max(1), dim], &rows)
        };
        let Training { bits, clusters, rounds, seed } = *how;
        let mut found = kmeans(&part(false, usize::MAX)?, &KMeans { clusters, rounds, seed })?;
        normalize(device.threads(), &mut found.centroids, dim);
        Codec::fit(&found.tensor(device, dim)?, &part(true, QUANTILES)?, bits)
    }

    /// How many centroids ColBERTv2 takes for so many vectors: the power of 2 at or below 16 √T, here at most T.
    pub fn clusters(vectors: usize) -> usize {
        let most = 16.0 * (vectors as f64).sqrt();
        (1usize << (most.max(1.0).log2().floor() as u32)).min(vectors)
    }

    /// Compresses `vectors` \[T, D\] (f32, f16 or bf16), which are divided by their lengths first. Centroids are found on the
    /// device, bits are packed on the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are no such matrix on the codec's device, [`Error::Argument`] if a value is not finite.
    pub fn encode(&self, vectors: &Tensor) -> Result<Codes> {
        let (numbers, packed) = self.pack(&self.unit(vectors)?)?;
        self.codes(&numbers, &packed)
    }

    /// Centroids and packed residuals of vectors of length 1.
    pub(crate) fn pack(&self, host: &[f32]) -> Result<(Vec<u32>, Vec<u32>)> {
        let (dim, words) = (self.dim(), self.words());
        let nearest = self.nearest(host)?;
        let mut packed = vec![0u32; nearest.len() * words];
        let each = packed.par_chunks_mut(words).zip(host.par_chunks(dim)).zip(&nearest);
        // A few nanoseconds a value.
        self.device().threads().for_each(4 * host.len(), each, |((packed, vector), &code)| {
            for (d, (v, c)) in vector.iter().zip(self.centroid(code)).enumerate() {
                let residual = v - c;
                let bucket = self.cutoffs.iter().filter(|&&cutoff| cutoff < residual).count();
                packed[d * self.bits as usize / 32] |=
                    reversed(bucket as u32, self.bits) << shift(d, self.bits);
            }
        });
        Ok((nearest, packed))
    }

    /// Codes that were stored: a centroid and [`words`](Self::words) u32 a vector.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths do not fit, [`Error::Argument`] if there is no such centroid.
    pub fn codes(&self, centroids: &[u32], residuals: &[u32]) -> Result<Codes> {
        let (count, words) = (centroids.len(), self.words());
        if count.checked_mul(words) != Some(residuals.len()) {
            let expected = format!("{count} residuals of {words} u32");
            return Err(Error::shape(OP, expected, format!("{} u32", residuals.len())));
        }
        let known = self.centroids.shape()[0];
        if let Some(code) = centroids.iter().find(|c| **c as usize >= known) {
            let expected = format!("centroids below {known}");
            return Err(Error::argument("codes", expected, code.to_string()));
        }
        Ok(Codes {
            centroids: Tensor::from_slice(self.device(), &[count], centroids)?,
            residuals: Tensor::from_slice(self.device(), &[count, words], residuals)?,
            kind: (self.dim(), self.bits, known),
        })
    }

    /// The vectors of codes, of length 1: \[T, D\] f32. Only enqueues on GPUs. A vector has the same bits whatever else is
    /// decoded beside it. To compare codes, [`Tokens::compressed`](crate::ops::maxsim::Tokens::compressed) needs no vectors.
    ///
    /// # Errors
    /// [`Error::Shape`] if the codes are of another dimension, number of bits or device, or of more centroids;
    /// [`Error::Unsupported`] if a GPU's binding does not hold the centroids; [`Error::OutOfMemory`].
    pub fn decode(&self, codes: &Codes) -> Result<Tensor> {
        super::decode(self, codes)
    }

    /// Bits a dimension.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.centroids.shape()[1]
    }

    /// u32 that a vector's residual takes.
    pub fn words(&self) -> usize {
        (self.dim() * self.bits as usize).div_ceil(32)
    }

    /// \[C, D\] f32.
    pub fn centroids(&self) -> &Tensor {
        &self.centroids
    }

    /// The bounds between buckets.
    pub fn cutoffs(&self) -> &[f32] {
        &self.cutoffs
    }

    /// What a residual in each bucket decodes to.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The weights by the buckets' bits as they are stored, lowest first.
    #[cfg(feature = "wgpu")]
    pub(crate) fn fields(&self) -> Vec<f32> {
        by_field(&self.weights, self.bits)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.centroids.device()
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.centroids.bytes() + 4 * self.centroids.shape()[0] + self.table.bytes()
    }

    pub(super) fn centroid(&self, code: u32) -> &[f32] {
        &self.host[code as usize * self.dim()..][..self.dim()]
    }

    /// Checked vectors on the host, divided by their lengths.
    fn unit(&self, vectors: &Tensor) -> Result<Vec<f32>> {
        let (_, dim) = matrix(OP, "vectors", vectors)?;
        if dim != self.dim() {
            let expected = format!("vectors of dimension {}", self.dim());
            return Err(Error::shape(OP, expected, dim.to_string()));
        }
        crate::ops::check_devices(OP, &[&self.centroids, vectors])?;
        unit(vectors)
    }

    /// The centroid of each vector, the lowest of equals.
    fn nearest(&self, host: &[f32]) -> Result<Vec<u32>> {
        let dim = self.dim();
        let mut nearest = Vec::with_capacity(host.len() / dim);
        for part in host.chunks((VECTORS / 4 / dim).max(1) * dim) {
            let part = Tensor::from_slice(self.device(), &[part.len() / dim, dim], part)?;
            let hits = topk(&part, &self.corpus, Metric::Dot, &Search::new(1))?;
            nearest.extend(hits.iter().map(|(rows, _)| rows.first().map_or(0, |&r| r as u32)));
        }
        Ok(nearest)
    }
}

/// Vectors on the host, divided by their lengths; those without stay as they are.
fn unit(vectors: &Tensor) -> Result<Vec<f32>> {
    let (_, dim) = matrix(OP, "vectors", vectors)?;
    check_float(OP, "vectors", vectors)?;
    let mut host = vectors.to_f32_vec()?;
    if let Some(i) = host.iter().position(|v| !v.is_finite()) {
        let got = format!("{} in vector {}", host[i], i / dim);
        return Err(Error::argument("vectors", "finite numbers", got));
    }
    normalize(vectors.device().threads(), &mut host, dim);
    Ok(host)
}

/// Weights by the buckets' bits as they are stored, lowest first.
fn by_field(weights: &[f32], bits: u32) -> Vec<f32> {
    (0..weights.len() as u32).map(|field| weights[reversed(field, bits) as usize]).collect()
}

/// The lowest `bits` bits of a number in reverse.
fn reversed(field: u32, bits: u32) -> u32 {
    field.reverse_bits() >> (32 - bits)
}

/// How far the lowest bit of dimension `d`'s field is from that of its u32: bytes ascend, fields within one descend.
fn shift(d: usize, bits: u32) -> u32 {
    let (at, bits) = (d * bits as usize % 32, bits as usize);
    (at / 8 * 8 + (8 - bits - at % 8)) as u32
}
