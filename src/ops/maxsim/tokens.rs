//! Token vectors of many items: what late interaction compares.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};

#[cfg(feature = "wgpu")]
use crate::device::Backend;
use crate::device::threads::items::*;
use crate::dtype::with_float;
use crate::ops::int8;
use crate::ops::length::{self, PLAIN};
use crate::ops::math::{vectorize, widen};
use crate::ops::residual::{Codec, Codes, cpu::decode_rows};
use crate::ops::rows;
use crate::ops::storage::Storage;
use crate::ops::{check, check_devices, check_float, matrix};
use crate::{DType, Device, Error, Offsets, Result, Tensor};

const OP: &str = "tokens";
/// The largest dimension.
const MAX_DIM: usize = 1024;

/// The token vectors of queries, or of documents, one after the other without padding. Immutable; cloning shares the
/// memory.
#[derive(Clone, Debug)]
pub struct Tokens {
    vectors: Tensor,
    offsets: Offsets,
    storage: Storage,
    dim: usize,
    /// What products with each token are multiplied by.
    scale: Option<PerToken>,
    /// Whether each token takes part.
    mask: Option<Mask>,
    /// Where `vectors` are residuals: what they are decoded with.
    compressed: Option<Arc<Compressed>>,
}

#[derive(Debug)]
struct Compressed {
    codec: Codec,
    codes: Codes,
}

/// Elements of a row.
fn width(tensor: &Tensor) -> usize {
    tensor.shape().get(1).copied().unwrap_or(1)
}

/// A number for each token, on the host and on the device.
#[derive(Clone, Debug)]
struct PerToken {
    host: Arc<[f32]>,
    device: Tensor,
}

impl PerToken {
    fn new(device: &Device, host: Vec<f32>) -> Result<PerToken> {
        let tensor = Tensor::from_slice(device, &[host.len()], &host)?;
        Ok(PerToken { host: host.into(), device: tensor })
    }
}

#[derive(Clone, Debug)]
struct Mask {
    keep: Arc<[bool]>,
    /// 1 for tokens that take part, 0 for others.
    weight: Tensor,
    /// The scales, NaN for tokens that take no part: a NaN never wins.
    scale: PerToken,
    /// The centroids of compressed vectors on wgpu, with the highest bit for tokens that take no part.
    marked: Option<Tensor>,
}

impl Tokens {
    /// Token vectors \[T, D\] of f32, f16 or bf16; item `i` has rows `offsets.range(i)`. D is a multiple of 8 up to 1024.
    ///
    /// # Errors
    /// [`Error::Shape`] if dtype, shape or device do not fit, [`Error::Argument`] if D does not.
    pub fn new(vectors: &Tensor, offsets: &Offsets) -> Result<Tokens> {
        let (_, dim) = matrix(OP, "vectors", vectors)?;
        check_float(OP, "vectors", vectors)?;
        let storage = match vectors.dtype() {
            DType::F16 => Storage::F16,
            DType::BF16 => Storage::BF16,
            _ => Storage::F32,
        };
        Tokens::build(vectors, offsets, storage, dim)
    }

    /// Signed bytes, four to an element of `vectors` \[T, D / 4\] u32, the first in the lowest byte, each token's times its
    /// `scale` \[T\] f32. D is a multiple of 8 up to 1024.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] if a scale is negative.
    pub fn int8(vectors: &Tensor, scale: &Tensor, offsets: &Offsets) -> Result<Tokens> {
        let (tokens, width) = matrix(OP, "vectors", vectors)?;
        check(OP, "vectors", vectors, DType::U32, &[tokens, width])?;
        check(OP, "scale", scale, DType::F32, &[tokens])?;
        check_devices(OP, &[vectors, scale])?;
        let host = scale.to_vec::<f32>()?;
        if let Some(s) = host.iter().find(|s| **s < 0.0) {
            return Err(Error::argument("scale", "scales of at least 0", s.to_string()));
        }
        let scale = Some(PerToken { host: host.into(), device: scale.clone() });
        Ok(Tokens { scale, ..Tokens::build(vectors, offsets, Storage::Int8, 4 * width)? })
    }

    /// Bits, 32 to an element of `vectors` \[T, D / 32\] u32, the first in the lowest place. Their similarity is
    /// `D - 2 hamming`, the dot product of vectors of +1 (a set bit) and -1. D is a multiple of 32 up to 1024.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn binary(vectors: &Tensor, offsets: &Offsets) -> Result<Tokens> {
        let (tokens, width) = matrix(OP, "vectors", vectors)?;
        check(OP, "vectors", vectors, DType::U32, &[tokens, width])?;
        Tokens::build(vectors, offsets, Storage::Binary, 32 * width)
    }

    /// Documents that `codec` compressed, one of `codes` a token. They are compared with queries of f32, f16 or bf16 and
    /// never decoded in memory: with `v = centroid + weight` in f32, a product is `(q · r(v)) / max(|v|, 1e-12)`, where r
    /// rounds to how the queries are stored.
    ///
    /// # Errors
    /// [`Error::Shape`] if the codes are not the codec's, their number is not that of the tokens or devices differ.
    pub fn compressed(codec: &Codec, codes: &Codes, offsets: &Offsets) -> Result<Tokens> {
        codes.check(codec)?;
        check(OP, "codes", codes.centroids(), DType::U32, &[offsets.total()])?;
        check_devices(OP, &[codes.centroids(), offsets.tensor()])?;
        let compressed = Some(Arc::new(Compressed { codec: codec.clone(), codes: codes.clone() }));
        Ok(Tokens {
            vectors: codes.residuals().clone(),
            offsets: offsets.clone(),
            storage: Storage::F32,
            dim: codec.dim(),
            scale: None,
            mask: None,
            compressed,
        })
    }

    fn build(vectors: &Tensor, offsets: &Offsets, storage: Storage, dim: usize) -> Result<Tokens> {
        if dim == 0 || !dim.is_multiple_of(8) || dim > MAX_DIM {
            let expected = format!("a multiple of 8 up to {MAX_DIM}");
            return Err(Error::argument("dim", expected, dim.to_string()));
        }
        let shape = [offsets.total(), storage.width(dim)];
        check(OP, "vectors", vectors, storage.dtype(), &shape)?;
        check_devices(OP, &[vectors, offsets.tensor()])?;
        let (vectors, offsets) = (vectors.clone(), offsets.clone());
        Ok(Tokens { vectors, offsets, storage, dim, scale: None, mask: None, compressed: None })
    }

    /// The same tokens compared by the cosine: every product is divided by both vectors' lengths, which are computed from
    /// the values as stored, once, on the host; 0 for a vector without length. Compressed ones are, without being asked. Where
    /// vectors are very short or very long ([any length](crate::ops::topk#any-length)), the result has a scaled copy of all.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the vectors can not be read, [`Error::OutOfMemory`] if a copy does not fit.
    pub fn normalized(&self) -> Result<Tokens> {
        if self.compressed.is_some() {
            return Ok(self.clone());
        }
        let mut host = self.unscaled()?;
        let one = |token: &mut [f32]| {
            let exponent = length::reduce(token, &PLAIN);
            (length::inverse_length(token), exponent)
        };
        let (threads, cost) = (self.device().threads(), 2 * host.len());
        let found = threads.map(cost, host.par_chunks_mut(self.dim), one);
        let (scale, exponents): (Vec<f32>, Vec<i32>) = found.into_iter().unzip();
        // Only floats can be that short or long.
        let vectors = match exponents.iter().any(|&e| e != 0) {
            true => {
                let (dtype, shape) = (self.storage.dtype(), self.vectors.shape());
                Tensor::from_f32(self.device(), dtype, shape, &host)?
            }
            false => self.vectors.clone(),
        };
        let scale = Some(PerToken::new(self.device(), scale)?);
        Tokens { vectors, scale, ..self.clone() }.remask()
    }

    /// The same tokens, of which those whose `keep` is false take no part: they are no token's best, and their own best
    /// does not count.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one flag a token.
    pub fn masked(&self, keep: &[bool]) -> Result<Tokens> {
        if keep.len() != self.total() {
            let expected = format!("a mask of {} tokens", self.total());
            return Err(Error::shape(OP, expected, keep.len().to_string()));
        }
        let weight: Vec<f32> = keep.iter().map(|&k| if k { 1.0 } else { 0.0 }).collect();
        let weight = Tensor::from_slice(self.device(), &[keep.len()], &weight)?;
        let scale = PerToken { host: Arc::new([]), device: weight.clone() };
        let marked = self.marked(keep)?;
        let mask = Some(Mask { keep: keep.into(), weight, scale, marked });
        Tokens { mask, ..self.clone() }.remask()
    }

    /// A mask's [`Mask::marked`].
    fn marked(&self, keep: &[bool]) -> Result<Option<Tensor>> {
        #[cfg(feature = "wgpu")]
        if let (Some(c), Backend::Wgpu(_)) = (&self.compressed, self.device().backend()) {
            let mut numbers = c.codes.centroids().to_vec::<u32>()?;
            numbers.iter_mut().zip(keep).for_each(|(n, &keep)| *n |= (!keep as u32) << 31);
            return Tensor::from_slice(self.device(), &[numbers.len()], &numbers).map(Some);
        }
        let _ = keep;
        Ok(None)
    }

    /// Brings a mask's scales up to date.
    fn remask(mut self) -> Result<Tokens> {
        let device = self.device().clone();
        if let Some(mask) = &mut self.mask {
            let scale = |i: usize| self.scale.as_ref().map_or(1.0, |s| s.host[i]);
            let scales = mask.keep.iter().enumerate();
            let scales = scales.map(|(i, &keep)| if keep { scale(i) } else { f32::NAN }).collect();
            mask.scale = PerToken::new(&device, scales)?;
        }
        Ok(self)
    }

    /// A copy in another storage, by way of the host: floats are rounded to nearest even; `Int8` takes for scale the largest
    /// magnitude of a token over 127 and rounds to nearest; `Binary` keeps which values are above 0. Compressed vectors are
    /// decoded. Mask stays; lengths taken by [`normalized`](Self::normalized) are those of the copy's values.
    ///
    /// # Errors
    /// [`Error::Argument`] if the dimension is not a multiple of 32 for `Binary`; [`Error::DeviceLost`].
    pub fn to_storage(&self, storage: Storage) -> Result<Tokens> {
        if storage == self.storage && self.compressed.is_none() {
            return Ok(self.clone());
        }
        let normalized = self.storage != Storage::Int8 && self.scale.is_some();
        let (device, dim, total) = (self.device(), self.dim, self.total());
        let mut host = self.unscaled()?;
        if let (Storage::Int8, Some(scale)) = (self.storage, &self.scale) {
            let (cost, each) = (host.len() / 2, host.par_chunks_mut(dim).zip(&scale.host[..]));
            let multiply = |(token, s): (&mut [f32], &f32)| token.iter_mut().for_each(|v| *v *= s);
            device.threads().for_each(cost, each, multiply);
        }
        let tokens = match storage {
            Storage::Int8 => {
                let (words, scale) = int8::quantized(device.threads(), &host, dim);
                let words = Tensor::from_slice(device, &[total, dim / 4], &words)?;
                let scale = Tensor::from_slice(device, &[total], &scale)?;
                Tokens::int8(&words, &scale, &self.offsets)?
            }
            Storage::Binary if !dim.is_multiple_of(32) => {
                return Err(Error::argument("dim", "a multiple of 32", dim.to_string()));
            }
            Storage::Binary => {
                let pack = |bits: &[f32]| {
                    bits.iter().rev().fold(0u32, |word, v| word << 1 | (*v > 0.0) as u32)
                };
                let words = device.threads().map(host.len(), host.par_chunks(32), pack);
                let words = Tensor::from_slice(device, &[total, dim / 32], &words)?;
                Tokens::binary(&words, &self.offsets)?
            }
            float => {
                let vectors = Tensor::from_f32(device, float.dtype(), &[total, dim], &host)?;
                Tokens::new(&vectors, &self.offsets)?
            }
        };
        let tokens = if normalized { tokens.normalized()? } else { tokens };
        let mask = self.mask.clone().map(|mask| Mask { marked: None, ..mask });
        Tokens { mask, ..tokens }.remask()
    }

    /// The tokens of several of one storage or codec, one after the other, copied on their device. Masks are left out.
    pub(crate) fn joined(parts: &[&Tokens], offsets: &Offsets) -> Result<Tokens> {
        let scales = parts.iter().filter_map(|p| p.scale.as_ref()).flat_map(|s| s.host.to_vec());
        parts[0].moved(offsets, scales.collect(), |of| {
            let all = parts.iter().map(|p| (of(p), 0..of(p).shape()[0]));
            let first = of(parts[0]);
            rows::joined(first.dtype(), width(first), &all.collect::<Vec<_>>())
        })
    }

    /// The tokens with these numbers, of which there are as many, picked on their device. A mask is left out.
    pub(crate) fn gathered(&self, numbers: &[u32], offsets: &Offsets) -> Result<Tokens> {
        let on_device = Tensor::from_slice(self.device(), &[numbers.len()], numbers)?;
        let scales = self.scale.iter().flat_map(|s| numbers.iter().map(|&i| s.host[i as usize]));
        self.moved(offsets, scales.collect(), |of| {
            rows::gathered(&[of(self)], width(of(self)), &on_device)
        })
    }

    /// Tokens of the same kind with `scales`, if these have any; `rows` makes their tensors from those of tokens.
    fn moved(
        &self,
        offsets: &Offsets,
        scales: Vec<f32>,
        rows: impl Fn(&dyn Fn(&Tokens) -> &Tensor) -> Result<Tensor>,
    ) -> Result<Tokens> {
        let vectors = rows(&|tokens| &tokens.vectors)?;
        let numbers = |of: &dyn Fn(&Tokens) -> Option<&Tensor>| -> Result<Tensor> {
            let made = rows(&|tokens| of(tokens).unwrap_or(&tokens.vectors))?;
            made.reshape(&[made.len()])
        };
        let scale = match &self.scale {
            Some(_) => {
                let device = numbers(&|tokens| tokens.scale.as_ref().map(|s| &s.device))?;
                Some(PerToken { host: scales.into(), device })
            }
            None => None,
        };
        let compressed = match &self.compressed {
            Some(c) => {
                let centroids = numbers(&|tokens| tokens.codec().map(|(_, c)| c.centroids()))?;
                let codes = c.codes.with(centroids, vectors.clone());
                Some(Arc::new(Compressed { codec: c.codec.clone(), codes }))
            }
            None => None,
        };
        let offsets = offsets.clone();
        Ok(Tokens { vectors, offsets, scale, mask: None, compressed, ..self.clone() })
    }

    /// The values as stored, without scales, or decoded, on the host.
    fn unscaled(&self) -> Result<Vec<f32>> {
        if let Some(c) = &self.compressed {
            return c.codec.decode(&c.codes)?.to_vec();
        }
        let mut host = vec![0.0; self.total() * self.dim];
        if !host.is_empty() {
            let bytes = self.vectors.to_bytes()?;
            let row = bytes.len() / self.total();
            let (cost, each) =
                (host.len(), host.par_chunks_mut(self.dim).zip(bytes.par_chunks(row)));
            let decode = |(to, from): (&mut [f32], &[u8])| decode(self.storage, from, to);
            self.device().threads().for_each(cost, each, decode);
        }
        Ok(host)
    }

    /// The vectors: \[T, D\], \[T, D / 4\] or \[T, D / 32\] by [`storage`](Self::storage), or the residuals of compressed ones.
    pub fn vectors(&self) -> &Tensor {
        &self.vectors
    }

    /// The items' bounds.
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// How the vectors are stored; f32 where they are compressed.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// What the vectors are compressed by, and their codes.
    pub fn codec(&self) -> Option<(&Codec, &Codes)> {
        self.compressed.as_ref().map(|c| (&c.codec, &c.codes))
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The tokens of all items together.
    pub fn total(&self) -> usize {
        self.offsets.total()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.vectors.device()
    }

    /// What products with each token are multiplied by, \[T\] f32: an int8 token's scale, an inverse length.
    pub fn scale(&self) -> Option<&Tensor> {
        self.scale.as_ref().map(|s| &s.device)
    }

    /// Bytes of vectors, scales and mask on the device; of compressed vectors the codes alone.
    pub fn bytes(&self) -> usize {
        let scale = self.scale.as_ref().map_or(0, |s| s.device.bytes());
        let mask = |m: &Mask| 2 * m.weight.bytes() + m.marked.as_ref().map_or(0, Tensor::bytes);
        let numbers = self.codec().map_or(0, |(_, codes)| codes.centroids().bytes());
        self.vectors.bytes() + scale + numbers + self.mask.as_ref().map_or(0, mask)
    }

    /// The scale of token `i` in another's search for its best: NaN where it takes no part, unless `padding` lets it.
    pub(crate) fn inner(&self, i: usize, padding: bool) -> f32 {
        match (&self.mask, &self.scale) {
            (Some(mask), _) if !padding => mask.scale.host[i],
            (_, Some(scale)) => scale.host[i],
            _ => 1.0,
        }
    }

    /// [`inner`](Self::inner) of some tokens, if any token's is not 1.
    pub(crate) fn inners(&self, tokens: std::ops::Range<usize>, padding: bool) -> Option<&[f32]> {
        let scale = match &self.mask {
            Some(mask) if !padding => Some(&mask.scale),
            _ => self.scale.as_ref(),
        };
        scale.map(|scale| &scale.host[tokens])
    }

    /// The scales of [`inner`](Self::inner) on the device, if any.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn inner_on_device(&self, padding: bool) -> Option<&Tensor> {
        match (&self.mask, &self.scale) {
            (Some(mask), _) if !padding => Some(&mask.scale.device),
            (_, scale) => scale.as_ref().map(|s| &s.device),
        }
    }

    /// 1 for each token whose best counts and 0 for others, on the device, if there is a mask.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn weights_on_device(&self) -> Option<&Tensor> {
        self.mask.as_ref().map(|m| &m.weight)
    }

    /// The centroids of compressed vectors, with the highest bit for tokens that take no part.
    #[cfg(feature = "wgpu")]
    pub(crate) fn marked_centroids(&self) -> Option<&Tensor> {
        let marked = self.mask.as_ref().and_then(|m| m.marked.as_ref());
        marked.or(self.codec().map(|(_, codes)| codes.centroids()))
    }

    /// Whether token `i`'s best counts.
    pub(crate) fn counts(&self, i: usize) -> bool {
        self.mask.as_ref().is_none_or(|m| m.keep[i])
    }

    /// The words of int8 or binary tokens of a CPU tensor.
    pub(crate) fn words(&self, tokens: std::ops::Range<usize>) -> &[u32] {
        let width = self.storage.width(self.dim);
        &self.vectors.cpu::<u32>()[tokens.start * width..tokens.end * width]
    }

    /// Tokens `tokens` of a CPU tensor as f32, unscaled, into `to`; compressed ones rounded to the dtype of queries and then
    /// divided by their lengths.
    pub(crate) fn decode(&self, tokens: std::ops::Range<usize>, rounded: DType, to: &mut [f32]) {
        if let Some((codec, codes)) = self.codec() {
            return decode_rows(codec, codes, tokens, rounded, to);
        }
        decode(self.storage, self.stored(tokens), to);
    }

    /// The bytes of tokens on the CPU, which are not compressed.
    pub(crate) fn stored(&self, tokens: std::ops::Range<usize>) -> &[u8] {
        let width = self.storage.width(self.dim) * self.storage.dtype().size();
        let bytes: &[u8] = match self.storage {
            Storage::F32 => bytemuck::cast_slice(self.vectors.cpu::<f32>()),
            Storage::F16 => bytemuck::cast_slice(self.vectors.cpu::<f16>()),
            Storage::BF16 => bytemuck::cast_slice(self.vectors.cpu::<bf16>()),
            Storage::Int8 | Storage::Binary => bytemuck::cast_slice(self.vectors.cpu::<u32>()),
        };
        &bytes[tokens.start * width..tokens.end * width]
    }
}

/// Stored values as f32.
fn decode(storage: Storage, from: &[u8], to: &mut [f32]) {
    match storage {
        Storage::Int8 => vectorize(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(to, &b)| *to = b as i8 as f32),
        ),
        // Bit 31 of the word, inverted, is the sign of the one.
        Storage::Binary => vectorize(
            #[inline(always)]
            || {
                for (to, &byte) in to.as_chunks_mut::<8>().0.iter_mut().zip(from) {
                    for (i, to) in to.iter_mut().enumerate() {
                        let clear = !(byte as u32) >> i & 1;
                        *to = f32::from_bits(0x3f80_0000 | clear << 31);
                    }
                }
            },
        ),
        float => with_float!(float.dtype(), T => widen(&aligned::<T>(from), to)),
    }
}

/// The values of bytes, which need not be aligned where they were read back.
fn aligned<T: bytemuck::Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_hold_what_they_say() {
        let device = Device::cpu();
        let offsets = Offsets::from_lengths(&device, &[2]).unwrap();
        let values: Vec<f32> = (0..64).map(|i| ((i * 37) % 64) as f32 - 31.5).collect();
        let vectors = Tensor::from_slice(&device, &[2, 32], &values).unwrap();
        let tokens = Tokens::new(&vectors, &offsets).unwrap();
        for storage in [Storage::F16, Storage::BF16, Storage::Int8, Storage::Binary] {
            let copy = tokens.to_storage(storage).unwrap();
            let scale = copy.scale.as_ref().map_or(vec![1.0; 2], |s| s.host.to_vec());
            let got = copy.unscaled().unwrap();
            for (i, (got, want)) in got.iter().zip(&values).enumerate() {
                match storage {
                    Storage::Binary => assert_eq!(*got, want.signum()),
                    Storage::Int8 => {
                        assert!((got * scale[i / 32] - want).abs() <= scale[i / 32] * 0.5001);
                    }
                    _ => assert_eq!(got, want),
                }
            }
            let mut direct = vec![0.0; 32];
            copy.decode(1..2, DType::F32, &mut direct);
            assert_eq!(direct, got[32..]);
        }
    }
}
